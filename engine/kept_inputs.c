#include "engine/kept_inputs.h"

#include "common/memory.h"

#include <stdlib.h>

struct kept_inputs {
	struct kernels *k;
	int away; /* layers whose inputs go to the host: the first ones */
	uint64_t bytes;
	char *host; /* [away][bytes], pinned */
	struct stream *copies;
	struct event *released[KEPT_BUFFERS]; /* the model's stream: written, or read for the last time */
	struct event *moved[KEPT_BUFFERS];    /* the copies' stream: gone, or back */
};

static int count_away(int layers)
{
	return layers > KEPT_BUFFERS ? layers - KEPT_BUFFERS : 0;
}

uint64_t kept_inputs_pinned(int layers, uint64_t bytes)
{
	return (uint64_t)count_away(layers) * bytes;
}

static enum status take(struct kept_inputs *kept)
{
	struct kernels *k = kept->k;
	if (!kept->away)
		return STATUS_OK;
	TRY(k->host_alloc(k, (void **)&kept->host, (uint64_t)kept->away * kept->bytes,
		"the layers' inputs (--cpu-checkpointing)"));
	TRY(k->stream_open(k, &kept->copies));
	for (int i = 0; i < KEPT_BUFFERS; i++) {
		TRY(k->event_open(k, &kept->released[i]));
		TRY(k->event_open(k, &kept->moved[i]));
	}
	return STATUS_OK;
}

enum status kept_inputs_open(struct kernels *kernels, int layers, uint64_t bytes, struct kept_inputs **out)
{
	struct kept_inputs *kept;
	*out = NULL;
	TRY(memory_alloc((void **)&kept, 1, sizeof *kept, "the layers' inputs on the host"));
	kept->k = kernels;
	kept->away = count_away(layers);
	kept->bytes = bytes;
	enum status status = take(kept);
	if (status != STATUS_OK) {
		kept_inputs_close(kept);
		return status;
	}
	*out = kept;
	return STATUS_OK;
}

void kept_inputs_close(struct kept_inputs *kept)
{
	if (!kept)
		return;
	struct kernels *k = kept->k;
	if (kept->copies) {
		(void)!k->stream_wait(k, kept->copies); /* what failed is of no more use */
		k->stream_close(k, kept->copies);
	}
	for (int i = 0; i < KEPT_BUFFERS; i++) {
		k->event_close(k, kept->released[i]);
		k->event_close(k, kept->moved[i]);
	}
	if (kept->host)
		k->host_free(k, kept->host, (uint64_t)kept->away * kept->bytes);
	free(kept);
}

static char *place(const struct kept_inputs *kept, int layer)
{
	return kept->host + (uint64_t)layer * kept->bytes;
}

void kept_inputs_write(struct kept_inputs *kept, int layer)
{
	if (layer >= KEPT_BUFFERS) /* the copy of the layer that had the buffer before */
		kept->k->event_await(kept->k, kept->moved[layer % KEPT_BUFFERS], NULL);
}

/* The copies' stream goes on once the model's has come this far. */
static void hand_over(struct kept_inputs *kept, int buffer)
{
	struct kernels *k = kept->k;
	k->event_record(k, kept->released[buffer], NULL);
	k->event_await(k, kept->released[buffer], kept->copies);
}

void kept_inputs_written(struct kept_inputs *kept, int layer, const void *buffer, size_t bytes)
{
	struct kernels *k = kept->k;
	int b = layer % KEPT_BUFFERS;
	if (layer >= kept->away)
		return;
	hand_over(kept, b);
	k->copy_out(k, kept->copies, place(kept, layer), buffer, bytes);
	k->event_record(k, kept->moved[b], kept->copies);
}

void kept_inputs_read(struct kept_inputs *kept, int layer)
{
	if (layer < kept->away)
		kept->k->event_await(kept->k, kept->moved[layer % KEPT_BUFFERS], NULL);
}

void kept_inputs_done(struct kept_inputs *kept, int layer, void *buffer, size_t bytes)
{
	struct kernels *k = kept->k;
	int b = layer % KEPT_BUFFERS;
	if (layer < KEPT_BUFFERS)
		return;
	hand_over(kept, b);
	k->copy_in(k, kept->copies, buffer, place(kept, layer - KEPT_BUFFERS), bytes);
	k->event_record(k, kept->moved[b], kept->copies);
}

enum status kept_inputs_check(struct kept_inputs *kept)
{
	return kept->copies ? kept->k->stream_wait(kept->k, kept->copies) : STATUS_OK;
}
