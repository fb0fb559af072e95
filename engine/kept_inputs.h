/*
 * kept_inputs.h: the layers' inputs of a forward pass, kept in pinned host memory until the backward.
 *
 * For a model that keeps only each layer's input (model.h, checkpoint_activations): the inputs take turns in
 * two buffers of the device, layer l's in buffer l % 2. As soon as it is there, a copy of it goes to the host
 * on a stream of its own; the last two layers' stay where they are. In the backward, from the last layer
 * down, a layer's buffer is free once the layer is done, and the input of the layer two below comes back into
 * it while the layer between is at work. The model's stream (the default one) and this one wait for each
 * other by events, the host for neither.
 *
 *    model   | l: write buffer, go on | l+1 ...     | l+2: await, write the same buffer
 *    copies  |        await, out      |
 *
 * Layers are visited 0 .. L-1, then L-1 .. 0, again and again: write and written for each layer on the way
 * up, read and done on the way down.
 */
#ifndef ENGINE_KEPT_INPUTS_H
#define ENGINE_KEPT_INPUTS_H

#include "kernels/kernels.h"

enum { KEPT_BUFFERS = 2 };

struct kept_inputs;

/* Of `layers` inputs of at most `bytes`. The kernels must outlive it, and so must the buffers. */
enum status kept_inputs_open(
	struct kernels *kernels, int layers, uint64_t bytes, struct kept_inputs **out) MUST_USE;
void kept_inputs_close(struct kept_inputs *kept); /* waits; NULL is allowed */
/* Pinned bytes that kept_inputs_open takes. */
uint64_t kept_inputs_pinned(int layers, uint64_t bytes);

/* What is queued on the default stream next writes the layer's buffer; what was last has written `bytes`. */
void kept_inputs_write(struct kept_inputs *kept, int layer);
void kept_inputs_written(struct kept_inputs *kept, int layer, const void *buffer, size_t bytes);
/* What is queued next reads it; what was last is done with it: `bytes` of layer - 2 may come into it. */
void kept_inputs_read(struct kept_inputs *kept, int layer);
void kept_inputs_done(struct kept_inputs *kept, int layer, void *buffer, size_t bytes);

/* The first failure of the copies. After a wait for the default stream there is nothing left to wait for. */
enum status kept_inputs_check(struct kept_inputs *kept) MUST_USE;

#endif
