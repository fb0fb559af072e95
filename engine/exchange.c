#include "engine/exchange.h"

#include "common/memory.h"

#include <stdlib.h>

struct exchange {
	struct collective *ranks;
	struct kernels *kernels;
	struct exchange_sizes sizes;
	bool on_device;
	float *parts; /* [ranks][a part]: of one block, from all ranks; pinned */
	void *block;  /* [sizes.block], pinned; on_device */
};

static uint64_t parts_bytes(const struct exchange_sizes *sizes, int ranks)
{
	return (uint64_t)ranks * sizes->part;
}

uint64_t exchange_host_bytes(const struct exchange_sizes *sizes, int ranks, bool on_device)
{
	return parts_bytes(sizes, ranks) + (on_device ? sizes->block : 0);
}

static enum status take(struct exchange *x)
{
	struct kernels *k = x->kernels;
	TRY(k->host_alloc(k, (void **)&x->parts, parts_bytes(&x->sizes, x->ranks->ranks),
		"gradients from other ranks"));
	if (x->on_device)
		TRY(k->host_alloc(k, &x->block, x->sizes.block, "gradients for other ranks"));
	return STATUS_OK;
}

enum status exchange_open(struct collective *ranks, struct kernels *kernels,
	const struct exchange_sizes *sizes, bool on_device, struct exchange **out)
{
	struct exchange *x;
	*out = NULL;
	TRY(memory_alloc((void **)&x, 1, sizeof *x, "the ranks' exchange"));
	x->ranks = ranks;
	x->kernels = kernels;
	x->sizes = *sizes;
	x->on_device = on_device;
	enum status status = take(x);
	if (status != STATUS_OK) {
		exchange_close(x);
		return status;
	}
	*out = x;
	return STATUS_OK;
}

void exchange_close(struct exchange *x)
{
	if (!x)
		return;
	struct kernels *k = x->kernels;
	if (x->parts)
		k->host_free(k, x->parts, parts_bytes(&x->sizes, x->ranks->ranks));
	if (x->block)
		k->host_free(k, x->block, x->sizes.block);
	free(x);
}

/* parts[0] becomes the sum of all. */
static void add_parts(struct exchange *x, uint64_t count)
{
	float *sum = x->parts;
	for (int r = 1; r < x->ranks->ranks; r++) {
		const float *part = x->parts + (uint64_t)r * count;
		for (uint64_t i = 0; i < count; i++)
			sum[i] += part[i];
	}
}

enum status exchange_reduce(struct exchange *x, struct stream *stream, float *block, const uint64_t *cuts)
{
	struct kernels *k = x->kernels;
	struct collective *c = x->ranks;
	uint64_t own = cuts[c->rank], bytes = cuts[c->rank + 1] - own;
	const void *all = block;
	if (x->on_device) {
		k->copy_out(k, stream, x->block, block, cuts[c->ranks]);
		TRY(k->stream_wait(k, stream));
		all = x->block;
	}
	TRY(c->exchange(c, all, cuts, x->parts));
	add_parts(x, bytes / sizeof *block);
	k->copy_in(k, stream, (char *)block + own, x->parts, bytes);
	return k->stream_wait(k, stream);
}

enum status exchange_share(struct exchange *x, struct stream *stream, void *block, const uint64_t *cuts)
{
	struct kernels *k = x->kernels;
	struct collective *c = x->ranks;
	uint64_t own = cuts[c->rank];
	char *here = x->on_device ? x->block : block;
	if (x->on_device) {
		k->copy_out(k, stream, here + own, (char *)block + own, cuts[c->rank + 1] - own);
		TRY(k->stream_wait(k, stream));
	}
	TRY(c->gather(c, here, cuts));
	if (x->on_device)
		k->copy_in(k, stream, block, here, cuts[c->ranks]);
	return k->stream_wait(k, stream);
}
