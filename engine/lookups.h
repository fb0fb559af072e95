/*
 * lookups.h: which gradients of the token embedding are final with the classifier, long before the step is.
 *
 * The embedding (wte) is tied: the classifier writes the gradient of every row first, and last of all the embedding's backward
 * adds to the rows that the step looked up. Which these are is known on the host before: those of the last micro-batch's
 * tokens (what the micro-batches before have added is there when the last one's classifier adds to it). Several ranks look
 * up different rows; a sum over the ranks is final early where none of them looks a row up. So:
 *
 *    ids     | the | of  | and | Abend | to  | xylem | a   | ...      in [0, padded vocabulary)
 *    rank 0     x     x                   x             x              looked up
 *    rank 1     x           x             x
 *    -------------------------------------------------------
 *    late       x     x     x             x             x              final with the step
 *    early                        x             x                      final with the classifier: most of them
 *
 *    compute | forward | head | layer L-1  | layer L-2  | ...       | layer 0 | embeddings |
 *    ranks   |                | early rows | L-1        | L-2 | ... | 1       | 0          | late rows, wpe | norm
 *    host    |                             | early rows | L-1        | ...     | 1          | 0                     | late rows, wpe
 *
 * Both lists are of pieces (KERNELS_PIECE elements) of the flat array, for wherever ranks, blocks and buckets cut it, they
 * cut between pieces; a piece that has something of a looked-up row is late. Each element is summed once, and updated once
 * (offload.h), as it would be if nothing were early: the same bits.
 *
 * Threads: one calls. Others may read what it gave out until the next lookups_find, and so may streams: it is the
 * caller's to see that they are done by then, or that the default stream waits for them.
 */
#ifndef ENGINE_LOOKUPS_H
#define ENGINE_LOOKUPS_H

#include "engine/collective.h"
#include "engine/parameters.h"
#include "kernels/kernels.h"

_Static_assert((int)KERNELS_PIECE == (int)PARAMETER_ALIGNED, "the flat array is cut between pieces");

struct lookups;

/* Pieces, numbered from the flat array's beginning, ascending. */
struct lookups_list {
	const uint32_t *pieces;   /* [count] */
	const uint32_t *on_table; /* [count], the same in the kernels' memory */
	uint64_t count;
};

/* Bytes of the kernels' memory, and as many of pinned memory. */
uint64_t lookups_bytes(const struct parameter_table *table);
/* All must outlive it. ranks NULL: one process. */
enum status lookups_open(struct kernels *kernels, const struct parameter_table *table,
	struct collective *ranks, struct lookups **out) MUST_USE;
void lookups_close(struct lookups *lookups); /* NULL is allowed */

/* Of this rank's last micro-batch; all ranks call. Queues on the default stream what streams will find in the kernels' memory
 * behind it. The same stream must have been waited for since the last call. */
enum status lookups_find(
	struct lookups *lookups, const int32_t *tokens /* [count] */, uint64_t count) MUST_USE;

/* Of the token embedding's elements [from, to), multiples of KERNELS_PIECE. */
struct lookups_list lookups_early(const struct lookups *lookups, uint64_t from, uint64_t to);
struct lookups_list lookups_late(const struct lookups *lookups, uint64_t from, uint64_t to);

#endif
