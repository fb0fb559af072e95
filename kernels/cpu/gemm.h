/*
 * gemm.h: matrix products of the CPU backend.
 *
 * c = a b (+ bias) (+ c), row-major, in f32, bf16 or f16; sums are f32. Exactly one engine is built in
 * (Makefile, GEMM): gemm_dnnl.c, gemm_blas.c or gemm_plain.c. What the engine cannot do (f16; bf16 on a
 * processor without it) gemm.c does through f32 copies of slices, rounding the result on store, so that
 * overflow gives inf as in half-precision storage.
 */
#ifndef KERNELS_CPU_GEMM_H
#define KERNELS_CPU_GEMM_H

#include "kernels/cpu/cpu.h"

struct gemm_product {
	int m, n, k;
	const void *a;         /* [m][k], or [k][m] where a_transposed */
	const void *b;         /* [k][n], or [n][k] where b_transposed */
	void *c;               /* [m][n] */
	int64_t lda, ldb, ldc; /* elements from row to row, as stored */
	bool a_transposed, b_transposed;
	enum dtype in, out; /* of a, b and bias; of c */
	const void *bias;   /* [n] or NULL */
	bool accumulate;
	bool weight; /* b is a weight: a packed copy may be kept until gemm_weights_changed */
	int uses;    /* of b in the operation that asks, if more than once: a copy pays the sooner */
};

enum { GEMM_NAME = 32 };

enum status gemm_open(int threads, uint64_t packing, struct gemm **out) MUST_USE;
void gemm_close(struct gemm *gemm);
void gemm_name(char name[GEMM_NAME]); /* "oneDNN 2.6.3"; any thread */
/* How often each weight will be used before it changes: packed copies are kept where that is more than once.
 */
void gemm_expect_uses(struct gemm *gemm, int uses);
/* Packed copies are stale: each is made again when it is used next. */
void gemm_weights_changed(struct gemm *gemm);
/* Packed copies are stale and their weights may be gone: their memory is given back. */
void gemm_forget_weights(struct gemm *gemm);

/* Runs the product with the table's failure rules: an error is kept for stream_wait. */
void gemm_run(struct kernels *k, const struct gemm_product *product);

/* ---- what an engine gives gemm.c ---- */

/* Whether gemm_engine_run takes these types. f32 to f32 always. */
bool gemm_engine_takes(const struct gemm *gemm, enum dtype in, enum dtype out);
enum status gemm_engine_run(struct gemm *gemm, const struct gemm_product *product) MUST_USE;

#endif
