/*
 * collective.h: what ranks do together, behind a table. Here: one process, where every operation is already
 * done. MPI and NCCL fill the same table from shared objects of their own.
 *
 * Results are the same on every rank and do not depend on the network: sums add in rank order. All ranks call
 * the same operations in the same order, from one thread.
 */
#ifndef ENGINE_COLLECTIVE_H
#define ENGINE_COLLECTIVE_H

#include "common/error.h"

#include <stdint.h>

struct collective {
	int rank, ranks;
	void *self; /* the backend's own state */
	/* values[i] becomes the sum, or the largest, of values[i] over the ranks. */
	enum status (*sum)(struct collective *c, double *values, int count) MUST_USE;
	enum status (*maximum)(struct collective *c, double *values, int count) MUST_USE;
	void (*close)(struct collective *c);
};

struct collective collective_open_single(void);

#endif
