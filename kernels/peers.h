/*
 * peers.h: devices of several processes that reach each other without the hosts' memory: NVIDIA's GPUs by NCCL. A part
 * of the kernels' table (kernels.h, `peers`; NULL: a table without, as the CPU's).
 *
 *    find      a process for itself: is there a way, and which device of its machine is this one?
 *    invite    one process; what it gets is for the caller to bring to all others
 *    join      all, with that invitation; returns when all have come. No two of them may have the same device
 *    exchange, gather, add    queued on a stream, as every operation; all processes queue the same ones, in one order
 *    leave     all, once what they wanted of each other has been waited for
 *
 * A failure is kept, and from then on every wait for a stream or an event of the table returns it. Such a wait ends, too,
 * when the way to the others is found to be broken. Then this process has left: its device goes on with what is queued,
 * whose results are worth nothing; the devices of others may wait for it for ever. So the caller does not wait for the
 * others in its turn (collective_agree), but ends them.
 *
 * leave waits for others for seconds at most. A table has joined once or not at all. One thread but for waits.
 */
#ifndef KERNELS_PEERS_H
#define KERNELS_PEERS_H

#include "common/error.h"

#include <stdint.h>

enum { PEERS_INVITATION = 128, PEERS_NAME = 48 };

struct peers_found {
	char library[PEERS_NAME]; /* "NCCL 2.28.9": all need the same */
	char device[PEERS_NAME];  /* its place in the machine, the same to all processes there */
};

struct kernels;
struct stream;

struct peers {
	/* STATUS_UNSUPPORTED says why there is no way; the device's place is told nevertheless. */
	enum status (*find)(struct kernels *k, struct peers_found *out) MUST_USE;
	enum status (*invite)(struct kernels *k, char invitation[PEERS_INVITATION]) MUST_USE;
	enum status (*join)(
		struct kernels *k, const char invitation[PEERS_INVITATION], int rank, int ranks) MUST_USE;
	void (*leave)(struct kernels *k);
	/* As struct collective's, in the table's memory; cuts are bytes, read before the return. */
	void (*exchange)(struct kernels *k, struct stream *s, const void *block /* [cuts[ranks]] */,
		const uint64_t *cuts /* [ranks + 1] */,
		void *parts /* [ranks][cuts[rank + 1] - cuts[rank]] */);
	void (*gather)(struct kernels *k, struct stream *s, void *block /* [cuts[ranks]] */,
		const uint64_t *cuts /* [ranks + 1] */);
	/* sum[i] = ((parts[0][i] + parts[1][i]) + parts[2][i]) + ..., in f32, rounded once; all of the table's grad. */
	void (*add)(struct kernels *k, struct stream *s, void *sum /* grad [count] */,
		const void *parts /* grad [ranks][count] */, int ranks, uint64_t count);
};

#endif
