/*
 * probe.h: the rates of the machine at hand, for engine/plan.h, measured with the operations that training
 * uses.
 *
 * Takes about a second (of a large model on a CPU, some) and, for a moment, at most 256 MiB of each memory, and no more
 * than the model's own. The matrix products, the attention, AdamW and the copies are the shape's own (its width, heads,
 * window and type; up to PROBE_ROWS rows, PROBE_WINDOW tokens of a window and PROBE_PARAMETERS), each run until a twentieth
 * of a second has passed, the best of three; what takes half a second by itself is run twice, the first time to warm up. A busy machine shows lower rates: they are what a run
 * would get now.
 */
#ifndef ENGINE_PROBE_H
#define ENGINE_PROBE_H

#include "engine/plan.h"

enum { PROBE_BLOCK = 16 << 20 /* bytes that go between ranks at once */ };
enum {
	PROBE_ROWS = 8192,
	PROBE_WINDOW = 4096,
	PROBE_PARAMETERS = 8 << 20 /* 16 bytes each: far beyond any cache */
};

/* `kernels`: where the model computes. `host`: the CPU's table, where the optimizer may be; NULL: no rates of
 * it, nor of the link. */
enum status probe_rates(const struct plan_shape *shape, struct kernels *kernels, struct kernels *host,
	struct plan_rates *out) MUST_USE;
/* plan_rates' network_bytes, the same on all ranks: gradients to their owners and weights to all as training moves them
 * (exchange.h), so with what that copies and adds. All ranks call it; a failure is this rank's alone. */
enum status probe_network(
	struct collective *ranks, struct kernels *kernels, bool on_device, double *out) MUST_USE;

#endif
