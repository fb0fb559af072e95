/*
 * exchange.h: how a block of gradients reaches the ranks that own its parts, and a block of weights all ranks, where
 * blocks lie in the memory of a kernels' table (shards.h says what is a block, and whose its parts are).
 *
 * The table's memory is the host's: the collective reads and writes it. It is a GPU's: a block passes through
 * pinned memory of the host. The bits are the same, for the adding is done here, in the order of the ranks.
 *
 * Cuts are bytes, as in collective.h: rank r's part of a block is [cuts[r], cuts[r + 1]). One thread; all ranks make the
 * same calls. The host waits for the stream, and for the ranks: a failure of either is this rank's alone.
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

/* Host memory that exchange_open takes (pinned). on_device: the host cannot touch the table's memory. */
uint64_t exchange_host_bytes(const struct exchange_sizes *sizes, int ranks, bool on_device);

/* Both must outlive it. */
enum status exchange_open(struct collective *ranks, struct kernels *kernels,
	const struct exchange_sizes *sizes, bool on_device, struct exchange **out) MUST_USE;
void exchange_close(struct exchange *exchange);

/* This rank's part becomes ((rank 0's + rank 1's) + rank 2's) + ...; the others' parts stay what they are. */
enum status exchange_reduce(struct exchange *exchange, struct stream *stream,
	float *block /* [cuts[ranks] / 4] */, const uint64_t *cuts /* [ranks + 1] */) MUST_USE;
/* Each part becomes what its rank has there. */
enum status exchange_share(struct exchange *exchange, struct stream *stream, void *block /* [cuts[ranks]] */,
	const uint64_t *cuts /* [ranks + 1] */) MUST_USE;

#endif
