#include "engine/exchange.h"

#include "common/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ADDED = 1024 }; /* elements at a time, on the stack */

struct exchange {
	struct collective *ranks;
	struct kernels *kernels;
	const struct peers *peers; /* NULL: by the collective */
	struct exchange_sizes sizes;
	bool on_device;
	void *parts;         /* [ranks][a part]: of one block, from all ranks; pinned */
	void *block;         /* [sizes.block], pinned; on_device */
	void *device_parts;  /* as parts, in the kernels' memory; peers */
	struct kernels host; /* adds gradients that are not f32; no peers */
	char name[400];
};

static uint64_t parts_bytes(const struct exchange_sizes *sizes, int ranks)
{
	return (uint64_t)ranks * sizes->part;
}

uint64_t exchange_host_bytes(const struct exchange_sizes *sizes, int ranks, bool on_device)
{
	return parts_bytes(sizes, ranks) + (on_device ? sizes->block : 0);
}

uint64_t exchange_device_bytes(const struct exchange_sizes *sizes, int ranks, bool on_device)
{
	return on_device ? parts_bytes(sizes, ranks) : 0;
}

/* ---- life ---- */

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
	*out = x;
	return STATUS_OK;
}

void exchange_close(struct exchange *x)
{
	if (!x)
		return;
	struct kernels *k = x->kernels;
	uint64_t parts = parts_bytes(&x->sizes, x->ranks->ranks);
	if (x->peers)
		x->peers->leave(k);
	if (x->device_parts)
		k->memory_free(k, x->device_parts, parts);
	if (x->parts)
		k->host_free(k, x->parts, parts);
	if (x->block)
		k->host_free(k, x->block, x->sizes.block);
	if (x->host.self)
		x->host.close(&x->host);
	free(x);
}

const char *exchange_name(const struct exchange *x)
{
	return x->name;
}

/* ---- which way ---- */

/* What a rank tells the others of itself. */
struct introduction {
	char host[256];
	struct peers_found found;
	char why[256]; /* it has no way to them; "": it has */
};

static void introduce(struct exchange *x, struct introduction *out)
{
	struct kernels *k = x->kernels;
	memset(out, 0, sizeof *out);
	collective_name_host(out->host, sizeof out->host);
	if (!k->peers)
		snprintf(out->why, sizeof out->why, "no way between GPUs is known");
	else if (k->peers->find(k, &out->found) != STATUS_OK)
		snprintf(out->why, sizeof out->why, "%s", error_message());
}

static bool on_one_device(const struct introduction *a, const struct introduction *b)
{
	return !strcmp(a->host, b->host) && !strcmp(a->found.device, b->found.device);
}

/* Why GPUs cannot reach each other; "": they can. */
static void find_obstacle(const struct introduction *all, int ranks, char *why, size_t room)
{
	why[0] = 0;
	for (int r = 0; r < ranks && !*why; r++) {
		if (*all[r].why)
			snprintf(why, room, "rank %d: %s", r, all[r].why);
		else if (strcmp(all[r].found.library, all[0].found.library))
			snprintf(why, room, "rank %d has %s, rank 0 %s", r, all[r].found.library,
				all[0].found.library);
		for (int q = 0; q < r && !*why; q++)
			if (on_one_device(&all[q], &all[r]))
				snprintf(why, room, "ranks %d and %d have one GPU between them", q, r);
	}
}

static enum status choose(struct exchange *x)
{
	struct collective *c = x->ranks;
	struct introduction own, *all;
	char why[300];
	introduce(x, &own);
	TRY(collective_gather(c, &own, sizeof own, (void **)&all));
	find_obstacle(all, c->ranks, why, sizeof why);
	if (*why)
		snprintf(x->name, sizeof x->name, "through host memory (%s)", why);
	else
		snprintf(x->name, sizeof x->name, "by %s", own.found.library);
	if (!*why)
		x->peers = x->kernels->peers;
	free(all);
	return STATUS_OK;
}

static enum status take(struct exchange *x)
{
	struct kernels *k = x->kernels;
	uint64_t parts = parts_bytes(&x->sizes, x->ranks->ranks);
	if (x->peers)
		return k->memory_alloc(k, &x->device_parts, parts, "gradients from other ranks");
	struct kernels_config adding = {.act = k->act, .grad = k->grad, .threads = 1};
	if (k->grad != DTYPE_F32)
		TRY(kernels_open_cpu(&adding, &x->host));
	TRY(k->host_alloc(k, &x->parts, parts, "gradients from other ranks"));
	if (x->on_device)
		TRY(k->host_alloc(k, &x->block, x->sizes.block, "gradients for other ranks"));
	return STATUS_OK;
}

enum status exchange_connect(struct exchange *x)
{
	struct collective *c = x->ranks;
	struct kernels *k = x->kernels;
	char invitation[PEERS_INVITATION] = "";
	if (x->on_device)
		TRY(choose(x));
	TRY(collective_agree(c, take(x)));
	if (!x->peers)
		return STATUS_OK;
	TRY(collective_agree(c, c->rank == 0 ? x->peers->invite(k, invitation) : STATUS_OK));
	TRY(collective_broadcast(c, invitation, sizeof invitation));
	return x->peers->join(k, invitation, c->rank, c->ranks); /* where one fails, others may wait in it */
}

/* ---- a block ---- */

static void add_floats(float *sum, const float *part, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++)
		sum[i] += part[i];
}

/* parts[0] becomes the sum of all. */
static void add_parts(struct exchange *x, uint64_t count)
{
	for (int r = 1; r < x->ranks->ranks; r++)
		add_floats(x->parts, (const float *)x->parts + (uint64_t)r * count, count);
}

/* The same, in f32 and rounded once. */
static void add_halves(struct exchange *x, uint64_t count)
{
	struct kernels *host = &x->host;
	enum dtype type = host->grad;
	float sum[ADDED], part[ADDED];
	for (uint64_t at = 0; at < count; at += ADDED) {
		uint64_t some = count - at < ADDED ? count - at : ADDED;
		uint16_t *parts = (uint16_t *)x->parts + at;
		host->convert(host, NULL, sum, DTYPE_F32, parts, type, some);
		for (int r = 1; r < x->ranks->ranks; r++) {
			host->convert(host, NULL, part, DTYPE_F32, parts + (uint64_t)r * count, type, some);
			add_floats(sum, part, some);
		}
		host->convert(host, NULL, parts, type, sum, DTYPE_F32, some);
	}
}

enum status exchange_reduce(struct exchange *x, struct stream *stream, void *block, const uint64_t *cuts)
{
	struct kernels *k = x->kernels;
	struct collective *c = x->ranks;
	uint64_t own = cuts[c->rank], bytes = cuts[c->rank + 1] - own;
	uint64_t count = bytes / dtype_bytes(k->grad);
	void *sum = (char *)block + own;
	const void *all = block;
	if (x->peers) {
		x->peers->exchange(k, stream, block, cuts, x->device_parts);
		x->peers->add(k, stream, sum, x->device_parts, c->ranks, count);
		return STATUS_OK;
	}
	if (x->on_device) {
		k->copy_out(k, stream, x->block, block, cuts[c->ranks]);
		TRY(k->stream_wait(k, stream));
		all = x->block;
	}
	TRY(c->exchange(c, all, cuts, x->parts));
	if (k->grad == DTYPE_F32)
		add_parts(x, count);
	else
		add_halves(x, count);
	k->copy_in(k, stream, sum, x->parts, bytes);
	return k->stream_wait(k, stream);
}

enum status exchange_share(struct exchange *x, struct stream *stream, void *block, const uint64_t *cuts)
{
	struct kernels *k = x->kernels;
	struct collective *c = x->ranks;
	uint64_t own = cuts[c->rank];
	char *here = x->on_device ? x->block : block;
	if (x->peers) {
		x->peers->gather(k, stream, block, cuts);
		return STATUS_OK;
	}
	if (x->on_device) {
		k->copy_out(k, stream, here + own, (char *)block + own, cuts[c->rank + 1] - own);
		TRY(k->stream_wait(k, stream));
	}
	TRY(c->gather(c, here, cuts));
	if (x->on_device)
		k->copy_in(k, stream, block, here, cuts[c->ranks]);
	return k->stream_wait(k, stream);
}
