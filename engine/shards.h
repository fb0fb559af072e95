/*
 * shards.h: ZeRO-2: which rank owns which elements of the training state, and how gradients reach their owners
 * and weights come back.
 *
 * The flat array of n elements (parameters.h) is cut into blocks, pieces of an embedding or of a layer of SHARDS_BLOCK
 * elements at most, each block into a slice a rank:
 *
 *          block 0          block 1        block 2
 *    n  |  0 | 1 | 2 |    0 | 1 | 2 |    0 | 1 | 2  |      slices begin at multiples of PARAMETER_ALIGNED
 *
 * Rank r's arrays (moments; the master, where working weights are of another type) hold its slices alone, one
 * behind the other: n / ranks elements. They lie where the kernels are, or on the host from some element on
 * (offload.h). Of working weights every rank has n, for it computes with them, and of gradients too, for it adds up its
 * micro-batches in them: of what ZeRO-2 saves, that is the optimizer's state. A step:
 *
 *    shards_reduce    gradients of my slices = ((rank 0's + rank 1's) + rank 2's) + ..., in f32, in this order
 *                     whatever the network does; those that are not f32 travel as they are, and their sum is
 *                     rounded once, to where they lie
 *    optimizer        norm and overflow over all slices of all ranks; AdamW on my slices
 *    shards_share     working weights of all slices, from their owners
 *
 * On GPUs the token embedding's blocks go in two parts, each element in one of them (lookups.h): the early pieces with the
 * last layer's sums (ln_f), beside all of the backward, the late ones with the embeddings'. A part of a block is brought together
 * before it goes, each rank's share of it behind the one's before:
 *
 *    block      | a  B  c  d | E  f  G  h |      slices of ranks 0 and 1; late pieces are large letters
 *    first      | a  c  d    | f  h       |      added at rank 0; at rank 1; put back in their places there
 *    at the end | B          | E  G       |
 *
 * Files. To checkpoints the state is three whole arrays of n, that one reads and writes a piece at a time through
 * staging.h. shards_array's addresses stand for them: nothing lies there, and touching them is a fault. What is
 * written there, each rank keeps its own part of, and it need not read the rest from the file. Reading is for rank 0
 * alone, while all others are in shards_serve, which sends it what it asks for; so rank 0 needs memory for a piece, no
 * more, and a file has the same bytes whoever owns what.
 *
 * Memory: in the kernels' table; buffers of shards_buffer_bytes and shards_device_bytes. How blocks go from one rank's
 * memory to another's, exchange.h says. One thread; all ranks make the same calls.
 */
#ifndef ENGINE_SHARDS_H
#define ENGINE_SHARDS_H

#include "engine/collective.h"
#include "engine/lookups.h"
#include "engine/optimizer.h"
#include "engine/staging.h"

enum { SHARDS_BLOCK = 4 << 20 }; /* elements */

struct shards;

enum shards_array { SHARDS_MASTER, SHARDS_EXP_AVG, SHARDS_EXP_AVG_SQ, SHARDS_ARRAYS };

/* A rank's slices, one of each block, in order; free(*out). */
enum status shards_cut(const struct parameter_table *table, int rank, int ranks, struct optimizer_slice **out,
	int *count) MUST_USE;
/* Memory that shards_open and shards_connect take at most: of the host, and of a GPU. */
uint64_t shards_buffer_bytes(const struct parameter_table *table, int ranks, bool on_device);
uint64_t shards_device_bytes(const struct parameter_table *table, int ranks, bool on_device);

/* All must outlive it. on_device: the host cannot touch the kernels' memory. lookups: for the token embedding's gradients to
 * go in two parts; NULL: they go in one, with the embeddings'. */
enum status shards_open(struct collective *ranks, struct kernels *kernels,
	const struct parameter_table *table, bool on_device, const struct lookups *lookups,
	struct shards **out) MUST_USE;
/* Once all ranks have opened theirs; before gradients and weights go. */
enum status shards_connect(struct shards *shards) MUST_USE;
void shards_close(struct shards *shards);
/* How GPUs exchange (exchange_name). */
const char *shards_way(const struct shards *shards);

/* Queues: this rank's slices of `working`, where they are of another type, from what the kernels have of its master. */
void shards_round(struct shards *shards, void *working /* act [elements] */);

/* Of one layer (parameters.h's numbers, from -1), in the kernels' memory, on a stream: they may return before it is done,
 * and what they fail with is this rank's alone (exchange.h). Of the last layer, ln_f, with the early pieces of wte, of the
 * embeddings with the late ones; the lookups must have been found. Afterwards the gradients of others' slices are those of this
 * rank alone. */
enum status shards_reduce(struct shards *shards, void *gradients /* grad [elements] */, int layer,
	struct stream *stream) MUST_USE;
enum status shards_share(
	struct shards *shards, void *working /* act [elements] */, int layer, struct stream *stream) MUST_USE;
/* Of all layers; waits. */
enum status shards_share_all(struct shards *shards, void *working /* act [elements] */) MUST_USE;

/* ---- the state as whole arrays ---- */

/* Where the rank keeps its part: [owned], or with `whole` at its places in an array [elements]; in the kernels' memory. */
void shards_keep(struct shards *shards, enum shards_array array, float *memory, bool whole);
/* Of its part, the elements from `there` on are in the host's memory; those before are not touched here. */
void shards_keep_rest(
	struct shards *shards, enum shards_array array, float *host /* [owned] */, uint64_t there);
/* [elements]; an address to tell the staging. */
float *shards_array(const struct shards *shards, enum shards_array array);
/* What the staging does with such addresses. */
struct staging_store shards_store(struct shards *shards);
/* The other ranks, while rank 0 reads; until it calls shards_dismiss. How that went is everybody's result. */
enum status shards_serve(struct shards *shards) MUST_USE;
enum status shards_dismiss(struct shards *shards, enum status status) MUST_USE;

#endif
