/*
 * collective.h: what ranks do together. A rank is a process that trains along with others (in tests: a thread).
 *
 * A backend fills the table: one process here, where there is nobody to do anything with; MPI in a shared
 * object (mpi.h). It moves data, in two ways alone; all arithmetic is its callers' (below; of gradients: exchange.h), in
 * the order of the ranks. So results are the same on every rank, and do not depend on the network or the backend.
 *
 * All ranks call the same operations in the same order, with the same sizes, each from one thread at a time.
 * Sizes are bytes unless they say otherwise, a block's are less than 2 GiB.
 *
 * Failure. A rank on which something failed while the others go on would leave them waiting for ever. So, at
 * places that all ranks pass, they say to each other how it went (collective_agree), and all fail alike. Where
 * something fails between such places, or within an operation, the program prints the message and calls
 * `abort`, which ends all ranks.
 */
#ifndef ENGINE_COLLECTIVE_H
#define ENGINE_COLLECTIVE_H

#include "common/error.h"

#include <stdint.h>

enum { COLLECTIVE_RANKS = 4096 }; /* at most */

struct collective {
	int rank, ranks;
	char name[96]; /* "MPI (Open MPI v4.1.4, ...)"; "" in one process */
	bool agreed;   /* the last failure is known to all ranks: each ends by itself */
	void *self;    /* the backend's own state */

	/* Block [cuts[0], cuts[ranks]): its part [cuts[r], cuts[r + 1]) goes to rank r, which gets one from every
	 * rank, in their order. (All to all.) */
	enum status (*exchange)(struct collective *c, const void *block /* [cuts[ranks]] */,
		const uint64_t *cuts /* [ranks + 1] */,
		void *parts /* [ranks][cuts[rank + 1] - cuts[rank]] */) MUST_USE;
	/* In place: each rank has its part of the block, and gets all others. (All-gather.) */
	enum status (*gather)(struct collective *c, void *block /* [cuts[ranks]] */,
		const uint64_t *cuts /* [ranks + 1] */) MUST_USE;
	/* Ends all ranks at once, this one too, with the exit code; one process: does nothing. */
	void (*abort)(struct collective *c, int exit_code);
	/* Waits for the others to close. */
	void (*close)(struct collective *c);
};

struct collective collective_open_single(void);

/* values[i] becomes the sum, added in the order of the ranks, or the largest, of values[i] over the ranks. */
enum status collective_sum(struct collective *c, double *values, int count) MUST_USE;
enum status collective_maximum(struct collective *c, double *values, int count) MUST_USE;
/* Every rank's `data`, one after the other, to all; free(*all). */
enum status collective_gather(
	struct collective *c, const void *data, size_t bytes, void **all /* [ranks][bytes] */) MUST_USE;
/* Rank 0's, to all. */
enum status collective_broadcast(struct collective *c, void *data, size_t bytes) MUST_USE;

/*
 * How it went here, with its message (common/error.h), to all: STATUS_OK if it went well everywhere, else the
 * status and message of the lowest rank that failed, with that rank named, unless all have failed with the same. In
 * one process: `status`.
 */
enum status collective_agree(struct collective *c, enum status status) MUST_USE;

/* This machine, whose containers have names of their own, but processors, memory and GPUs in common. */
void collective_name_host(char *out, size_t room);

/* Where a rank runs. */
struct collective_place {
	int hosts;
	int local_rank, local_ranks; /* among the ranks of its host */
	int sharing,
		turn; /* ranks that may run on one of this rank's processors, itself too; which of them it is, from 0 */
	int processors; /* that any rank of its host may run on */
};
enum status collective_find_place(struct collective *c, struct collective_place *out) MUST_USE;
/* The ranks of this host that found what they call `thing`. "": it alone. */
enum { COLLECTIVE_THING = 64 }; /* its end included */
struct collective_sharing {
	int members, member; /* how many they are, this one too; which of them it is, from 0 */
	int first;           /* the lowest of these ranks */
};
enum status collective_find_sharing(
	struct collective *c, const char *thing, struct collective_sharing *out) MUST_USE;

#endif
