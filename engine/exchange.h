/*
 * exchange.h: how a block of gradients reaches the ranks that own its parts, and a block of weights all ranks, where
 * blocks lie in the memory of a kernels' table (shards.h says what is a block, and whose its parts are).
 *
 *    the table's memory is the host's    the collective reads and writes it
 *    a GPU's, from GPU to GPU            the table's peers (kernels/peers.h: NCCL) move the parts; a kernel adds them
 *    a GPU's, through host memory        copied to pinned memory, moved by the collective and added there, copied back
 *
 * GPUs take the second way where each rank has it and no two have one GPU between them; exchange_name says which, and
 * why. The bits are the same on all: whatever moves the parts, they are added here, in the order of the ranks.
 *
 * Cuts are bytes, as in collective.h: rank r's part of a block is [cuts[r], cuts[r + 1]). All ranks make the same calls;
 * one thread. A call may return before it is done: what follows on its stream finds it done, and so does who waits for
 * that.
 *
 * Failures are this rank's alone, but for exchange_connect's first steps; one may show at the wait for the stream only.
 * The others may then be waiting for this rank, on their devices: so such a wait must not be agreed on
 * (collective_agree), but what it returns ends all ranks.
 */
#ifndef ENGINE_EXCHANGE_H
#define ENGINE_EXCHANGE_H

#include "engine/collective.h"
#include "kernels/kernels.h"

struct exchange;

/* The largest that it will be given. */
struct exchange_sizes {
	uint64_t block, part; /* bytes of a block, and of a rank's part of it */
};

/* Memory that exchange_connect takes, of the host (pinned) and of a GPU; it is one of the two, but which is not known
 * before. on_device: the host cannot touch the table's memory. */
uint64_t exchange_host_bytes(const struct exchange_sizes *sizes, int ranks, bool on_device);
uint64_t exchange_device_bytes(const struct exchange_sizes *sizes, int ranks, bool on_device);

/* Both must outlive it. */
enum status exchange_open(struct collective *ranks, struct kernels *kernels,
	const struct exchange_sizes *sizes, bool on_device, struct exchange **out) MUST_USE;
/* Once all ranks have opened theirs, and before the first block. */
enum status exchange_connect(struct exchange *exchange) MUST_USE;
void exchange_close(struct exchange *exchange);
/* "by NCCL 2.28.9", "through host memory (why)"; "": the table's memory is the host's. */
const char *exchange_name(const struct exchange *exchange);

/* This rank's part becomes ((rank 0's + rank 1's) + rank 2's) + ..., in f32, and is rounded once where gradients are not
 * f32; the others' parts stay what they are. */
enum status exchange_reduce(struct exchange *exchange, struct stream *stream,
	void *block /* grad, of cuts[ranks] bytes */, const uint64_t *cuts /* [ranks + 1] */) MUST_USE;
/* Each part becomes what its rank has there. */
enum status exchange_share(struct exchange *exchange, struct stream *stream, void *block /* [cuts[ranks]] */,
	const uint64_t *cuts /* [ranks + 1] */) MUST_USE;

#endif
