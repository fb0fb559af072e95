/*
 * Of several ranks: gradients on their way to their owners while the backward goes on, and weights on their way to all
 * as the forward comes to them. trainer.h is the manual.
 *
 * Both go on a stream of their own, so that the device computes meanwhile; where blocks pass through the host's memory it
 * is this thread that moves them. So it does so a layer late: once the next layer's backward is queued, it waits for the
 * gradients of the one before.
 */
#include "engine/trainer_parts.h"

#include "common/memory.h"

#include <stdlib.h>

/* Of a layer. */
enum moment { FINAL, REDUCING, REDUCED, SHARING, SHARED, MOMENTS };

/* The embeddings, the layers and ln_f. */
static int layer_count(const struct trainer *t)
{
	return t->config.model.layers + 2;
}

static struct event *event_of(const struct trainer *t, enum moment moment, int layer)
{
	return t->flow.events[(int)moment * layer_count(t) + layer + 1];
}

enum status trainer_open_flow(struct trainer *t)
{
	struct kernels *k = &t->kernels;
	struct trainer_flow *f = &t->flow;
	size_t count = (size_t)layer_count(t);
	TRY(k->stream_open(k, &f->stream));
	TRY(k->event_open(k, &f->updated));
	TRY(memory_alloc((void **)&f->due, count, sizeof *f->due, "the layers' exchange"));
	TRY(memory_alloc((void **)&f->went, count, sizeof *f->went, "the layers' exchange"));
	TRY(memory_alloc((void **)&f->events, MOMENTS * count, sizeof(struct event *), "the layers' events"));
	for (; f->event_count < MOMENTS * (int)count; f->event_count++)
		TRY(k->event_open(k, &f->events[f->event_count]));
	return STATUS_OK;
}

void trainer_close_flow(struct trainer *t)
{
	struct kernels *k = &t->kernels;
	struct trainer_flow *f = &t->flow;
	for (int i = 0; i < f->event_count; i++)
		k->event_close(k, f->events[i]);
	k->event_close(k, f->updated);
	if (f->stream)
		k->stream_close(k, f->stream);
	free(f->events);
	free(f->due);
	free(f->went);
}

/* ---- gradients ---- */

static enum status reduce(struct trainer *t, int layer)
{
	struct kernels *k = &t->kernels;
	struct stream *s = t->flow.stream;
	k->event_await(k, event_of(t, FINAL, layer), s);
	k->event_record(k, event_of(t, REDUCING, layer), s);
	TRY(shards_reduce(t->shards, t->gradients, layer, s));
	k->event_record(k, event_of(t, REDUCED, layer), s);
	return t->offload ? offload_layer_final(t->offload, layer, s) : STATUS_OK;
}

enum status trainer_reduce_behind(struct trainer *t, int layer)
{
	struct kernels *k = &t->kernels;
	k->event_record(k, event_of(t, FINAL, layer), NULL);
	if (layer < t->config.model.layers)
		TRY(reduce(t, layer + 1));
	return layer < 0 ? reduce(t, layer) : STATUS_OK;
}

enum status trainer_finish_reduce(struct trainer *t, double *seconds)
{
	struct kernels *k = &t->kernels;
	TRY(k->stream_wait(k, t->flow.stream));
	for (int layer = -1; layer <= t->config.model.layers; layer++)
		*seconds += k->event_seconds(k, event_of(t, REDUCING, layer), event_of(t, REDUCED, layer));
	return STATUS_OK;
}

/* ---- weights ---- */

/* What the default stream has queued comes first. */
static void follow_updates(struct trainer *t)
{
	struct kernels *k = &t->kernels;
	k->event_record(k, t->flow.updated, NULL);
	k->event_await(k, t->flow.updated, t->flow.stream);
}

void trainer_weights_due(struct trainer *t)
{
	follow_updates(t);
	/* All, once: no layer is used before it has passed its gate. */
	t->kernels.weights_changed(&t->kernels);
	for (int i = 0; i < layer_count(t); i++)
		t->flow.due[i] = true;
}

enum status trainer_gate(void *user, int layer)
{
	struct trainer *t = user;
	struct kernels *k = &t->kernels;
	struct stream *s = t->flow.stream;
	if (!t->flow.due[layer + 1])
		return STATUS_OK;
	t->flow.due[layer + 1] = false;
	t->flow.went[layer + 1] = true;
	if (t->offload)
		TRY(offload_land(t->offload, layer, s));
	k->event_record(k, event_of(t, SHARING, layer), s);
	TRY(shards_share(t->shards, t->working, layer, s));
	k->event_record(k, event_of(t, SHARED, layer), s);
	k->event_await(k, event_of(t, SHARED, layer), NULL);
	return STATUS_OK;
}

enum status trainer_share_due(struct trainer *t)
{
	follow_updates(t);
	for (int layer = -1; layer <= t->config.model.layers; layer++)
		TRY(trainer_gate(t, layer));
	return t->kernels.stream_wait(&t->kernels, t->flow.stream);
}

double trainer_shared_seconds(struct trainer *t)
{
	struct kernels *k = &t->kernels;
	double seconds = 0;
	for (int layer = -1; layer <= t->config.model.layers; layer++) {
		if (t->flow.went[layer + 1])
			seconds +=
				k->event_seconds(k, event_of(t, SHARING, layer), event_of(t, SHARED, layer));
		t->flow.went[layer + 1] = false;
	}
	return seconds;
}
