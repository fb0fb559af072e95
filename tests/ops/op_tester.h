/*
 * op_tester.h: tests every operation of a kernels table against naive fp64 formulas, on any backend.
 *
 * Data goes in and comes out by the table's own copies, so it may live on a GPU. The formulas, the rounding
 * to halves and Philox are written here a second time, from their definitions. The formulas of backward
 * passes are themselves checked by finite differences (op_test_formulas). A test program is linked with
 * op_tester.o, or includes op_tester.c after this.
 *
 *    struct op_tester t;
 *    op_tester_open(&t, &kernels);
 *    op_test_all(&t);
 *    op_tester_report(&t, stdout);         a line an operation: cases, worst relative norm error, its bound
 *    failures = op_tester_close(&t);       number of results out of bounds; each has been printed to stderr
 */
#ifndef TESTS_OPS_OP_TESTER_H
#define TESTS_OPS_OP_TESTER_H

#include "kernels/kernels.h"

#include <stdio.h>

enum { OP_TESTER_OPS = 32, OP_TESTER_BLOCKS = 64 };
/* Bytes of logits for a GPU's table, with which the classifier has its largest shape in two chunks. */
enum { OP_TESTER_LOGITS = 1 << 16 };

struct op_result {
	const char *op;
	int checks;
	double worst, bound; /* error and bound of the check that came nearest to failing, or failed most */
};

struct op_tester {
	struct kernels *k;
	bool rounded_logits; /* the classifier's, in training, are of type act: its losses a rounding coarser
			      */
	bool brief;          /* fewer and smaller shapes, for backends that are slow */
	uint64_t random;
	int failures;
	const char *op; /* under test */
	char detail[160];
	struct op_result results[OP_TESTER_OPS];
	int ops;
	/* What a case holds, freed at its end. */
	void *host[OP_TESTER_BLOCKS];
	int hosts;
	struct {
		void *block;
		size_t bytes;
	} device[OP_TESTER_BLOCKS];
	int devices;
};

void op_tester_open(struct op_tester *t, struct kernels *k);
void op_test_all(struct op_tester *t);
/* Of it, the linear layers'; the classifier's. */
void op_test_products(struct op_tester *t);
void op_test_classifiers(struct op_tester *t);
/* Attention's; plain: only where all of a sequence is seen and nothing dropped. */
void op_test_attention(struct op_tester *t, bool plain);
void op_tester_report(const struct op_tester *t, FILE *to);
int op_tester_close(struct op_tester *t);

/* The formulas of the backward passes against finite differences; needs no backend. Returns failures. */
int op_test_formulas(void);

#endif
