#include "engine/shards.h"

#include "common/memory.h"
#include "engine/exchange.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct shards {
	struct collective *ranks;
	struct kernels *kernels;
	uint64_t elements, owned;
	struct exchange *exchange;
	struct optimizer_slice *slices; /* [slice_count], a block's each */
	int slice_count;
	uint64_t *cuts;  /* [ranks + 1] */
	char *addresses; /* of the whole arrays: reserved, without memory */
	struct {
		float *memory;
		bool whole;
	} kept[SHARDS_ARRAYS];
	float *piece; /* [STAGING_BYTES]: of a whole array, rank by rank; pinned */
};

/* ---- who owns what ---- */

static uint64_t block_elements(uint64_t elements, uint64_t begin)
{
	return elements - begin < SHARDS_BLOCK ? elements - begin : SHARDS_BLOCK;
}

/* Where rank r's slice of a block begins, in it. */
static uint64_t cut(uint64_t block, int rank, int ranks)
{
	return rank == ranks
		       ? block
		       : block / PARAMETER_ALIGNED * (uint64_t)rank / (uint64_t)ranks * PARAMETER_ALIGNED;
}

/* Rank r's slice of the block from `begin`, as elements of the whole. */
static struct optimizer_slice slice_of(uint64_t elements, uint64_t begin, int rank, int ranks)
{
	uint64_t block = block_elements(elements, begin), first = cut(block, rank, ranks);
	return (struct optimizer_slice){
		.offset = begin + first, .elements = cut(block, rank + 1, ranks) - first};
}

uint64_t shards_owned(uint64_t elements, int rank, int ranks)
{
	uint64_t owned = 0;
	for (uint64_t begin = 0; begin < elements; begin += SHARDS_BLOCK)
		owned += slice_of(elements, begin, rank, ranks).elements;
	return owned;
}

/* Slices of a block differ by a unit. */
static struct exchange_sizes largest_block(uint64_t elements, int ranks)
{
	uint64_t block = block_elements(elements, 0), units = block / PARAMETER_ALIGNED / (uint64_t)ranks + 1;
	return (struct exchange_sizes){
		.block = block * sizeof(float), .part = units * PARAMETER_ALIGNED * sizeof(float)};
}

uint64_t shards_buffer_bytes(uint64_t elements, int ranks, bool on_device)
{
	struct exchange_sizes sizes = largest_block(elements, ranks);
	return exchange_host_bytes(&sizes, ranks, on_device) + STAGING_BYTES;
}

/* ---- life ---- */

static void cut_all(struct shards *s)
{
	const struct collective *c = s->ranks;
	for (uint64_t begin = 0; begin < s->elements; begin += SHARDS_BLOCK) {
		struct optimizer_slice slice = slice_of(s->elements, begin, c->rank, c->ranks);
		slice.own = s->owned;
		s->slices[s->slice_count++] = slice;
		s->owned += slice.elements;
	}
}

static enum status take(struct shards *s, bool on_device)
{
	struct kernels *k = s->kernels;
	struct exchange_sizes sizes = largest_block(s->elements, s->ranks->ranks);
	uint64_t blocks = (s->elements + SHARDS_BLOCK - 1) / SHARDS_BLOCK;
	TRY(memory_alloc((void **)&s->slices, blocks, sizeof *s->slices, "the ranks' slices"));
	cut_all(s);
	TRY(memory_alloc(
		(void **)&s->cuts, (size_t)s->ranks->ranks + 1, sizeof *s->cuts, "the ranks' slices"));
	TRY(exchange_open(s->ranks, k, &sizes, on_device, &s->exchange));
	TRY(k->host_alloc(k, (void **)&s->piece, STAGING_BYTES, "the state of other ranks"));
	void *addresses = mmap(NULL, SHARDS_ARRAYS * s->elements * sizeof(float), PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (addresses == MAP_FAILED)
		return error_set_errno(STATUS_MEMORY, "no addresses for the state of all ranks");
	s->addresses = addresses;
	return STATUS_OK;
}

enum status shards_open(struct collective *ranks, struct kernels *kernels, uint64_t elements, bool on_device,
	struct shards **out)
{
	struct shards *s;
	*out = NULL;
	TRY(memory_alloc((void **)&s, 1, sizeof *s, "the ranks' slices"));
	s->ranks = ranks;
	s->kernels = kernels;
	s->elements = elements;
	enum status status = take(s, on_device);
	if (status != STATUS_OK) {
		shards_close(s);
		return status;
	}
	*out = s;
	return STATUS_OK;
}

void shards_close(struct shards *s)
{
	if (!s)
		return;
	if (s->addresses)
		munmap(s->addresses, SHARDS_ARRAYS * s->elements * sizeof(float));
	if (s->piece)
		s->kernels->host_free(s->kernels, s->piece, STAGING_BYTES);
	exchange_close(s->exchange);
	free(s->cuts);
	free(s->slices);
	free(s);
}

const struct optimizer_slice *shards_slices(const struct shards *s, int *count)
{
	*count = s->slice_count;
	return s->slices;
}

/* ---- gradients to their owners, weights to all ---- */

/* Where ranks' slices of a block begin, in bytes of it. */
static const uint64_t *byte_cuts(struct shards *s, uint64_t block, size_t element_bytes)
{
	int ranks = s->ranks->ranks;
	for (int r = 0; r <= ranks; r++)
		s->cuts[r] = cut(block, r, ranks) * element_bytes;
	return s->cuts;
}

enum status shards_reduce(struct shards *s, float *gradients)
{
	struct kernels *k = s->kernels;
	TRY(collective_agree(s->ranks, k->stream_wait(k, NULL)));
	for (int i = 0; i < s->slice_count; i++) {
		uint64_t begin = (uint64_t)i * SHARDS_BLOCK, block = block_elements(s->elements, begin);
		TRY(exchange_reduce(
			s->exchange, NULL, gradients + begin, byte_cuts(s, block, sizeof *gradients)));
	}
	return STATUS_OK;
}

enum status shards_share(struct shards *s, void *working)
{
	struct kernels *k = s->kernels;
	size_t each = dtype_bytes(k->act);
	for (int i = 0; i < s->slice_count; i++) {
		uint64_t begin = (uint64_t)i * SHARDS_BLOCK, block = block_elements(s->elements, begin);
		TRY(exchange_share(
			s->exchange, NULL, (char *)working + begin * each, byte_cuts(s, block, each)));
	}
	k->weights_changed(k);
	return STATUS_OK;
}

void shards_round(struct shards *s, void *working)
{
	struct kernels *k = s->kernels;
	const float *master = s->kept[SHARDS_MASTER].memory;
	for (int i = 0; i < s->slice_count && !s->kept[SHARDS_MASTER].whole; i++)
		k->convert(k, NULL, (char *)working + s->slices[i].offset * dtype_bytes(k->act), k->act,
			master + s->slices[i].own, DTYPE_F32, s->slices[i].elements);
}

/* ---- the state as whole arrays ---- */

void shards_keep(struct shards *s, enum shards_array array, float *memory, bool whole)
{
	s->kept[array].memory = memory;
	s->kept[array].whole = whole;
}

float *shards_array(const struct shards *s, enum shards_array array)
{
	return (float *)(void *)s->addresses + (uint64_t)array * s->elements;
}

/* A stretch of a whole array; NULL as an address: there is nothing more to read. */
struct stretch {
	bool more;
	int array;
	uint64_t first, count; /* elements */
};

static struct stretch stretch_of(const struct shards *s, const void *address, size_t bytes)
{
	uint64_t first = (uint64_t)((const char *)address - s->addresses) / sizeof(float);
	return (struct stretch){.more = true,
		.array = (int)(first / s->elements),
		.first = first % s->elements,
		.count = bytes / sizeof(float)};
}

/* What of a stretch lies in a slice: elements of the whole, from `offset`. */
static struct optimizer_slice within(const struct stretch *t, struct optimizer_slice slice)
{
	uint64_t begin = slice.offset > t->first ? slice.offset : t->first;
	uint64_t end = slice.offset + slice.elements, last = t->first + t->count;
	end = end < last ? end : last;
	return (struct optimizer_slice){.offset = begin,
		.own = slice.own + begin - slice.offset,
		.elements = begin < end ? end - begin : 0};
}

/* Where the rank has it. */
static float *kept_at(const struct shards *s, int array, const struct optimizer_slice *part)
{
	return s->kept[array].memory + (s->kept[array].whole ? part->offset : part->own);
}

/* The blocks that a stretch has a share in: from first_block to before last_block. */
static uint64_t first_block(const struct stretch *t)
{
	return t->first / SHARDS_BLOCK;
}

static uint64_t last_block(const struct stretch *t)
{
	return (t->first + t->count + SHARDS_BLOCK - 1) / SHARDS_BLOCK;
}

static enum status store(void *user, void *to, const void *from, size_t bytes)
{
	struct shards *s = user;
	struct kernels *k = s->kernels;
	struct stretch t = stretch_of(s, to, bytes);
	for (uint64_t b = first_block(&t); b < last_block(&t); b++) {
		struct optimizer_slice part = within(&t, s->slices[b]);
		k->copy_in(k, NULL, kept_at(s, t.array, &part), (const float *)from + (part.offset - t.first),
			part.elements * sizeof(float));
	}
	return k->stream_wait(k, NULL);
}

/* Elements of a stretch that are rank r's. */
static uint64_t count_of(const struct shards *s, const struct stretch *t, int rank)
{
	uint64_t count = 0;
	for (uint64_t b = first_block(t); b < last_block(t); b++)
		count += within(t, slice_of(s->elements, b * SHARDS_BLOCK, rank, s->ranks->ranks)).elements;
	return count;
}

/* s->piece gets all of a stretch, each rank's part of it in one. */
static enum status collect(struct shards *s, const struct stretch *t)
{
	struct kernels *k = s->kernels;
	struct collective *c = s->ranks;
	s->cuts[0] = 0;
	for (int r = 0; r < c->ranks; r++)
		s->cuts[r + 1] = s->cuts[r] + count_of(s, t, r) * sizeof(float);
	float *at = s->piece + s->cuts[c->rank] / sizeof(float);
	for (uint64_t b = first_block(t); b < last_block(t); b++) {
		struct optimizer_slice part = within(t, s->slices[b]);
		k->copy_out(k, NULL, at, kept_at(s, t->array, &part), part.elements * sizeof(float));
		at += part.elements;
	}
	TRY(k->stream_wait(k, NULL));
	return c->gather(c, s->piece, s->cuts);
}

static enum status fetch(void *user, void *to, const void *from, size_t bytes)
{
	struct shards *s = user;
	struct stretch t = stretch_of(s, from, bytes);
	TRY(collective_broadcast(s->ranks, &t, sizeof t));
	TRY(collect(s, &t));
	const float *at = s->piece;
	for (int r = 0; r < s->ranks->ranks; r++)
		for (uint64_t b = first_block(&t); b < last_block(&t); b++) {
			struct optimizer_slice part =
				within(&t, slice_of(s->elements, b * SHARDS_BLOCK, r, s->ranks->ranks));
			memcpy((float *)to + (part.offset - t.first), at, part.elements * sizeof *at);
			at += part.elements;
		}
	return STATUS_OK;
}

struct staging_store shards_store(struct shards *s)
{
	return (struct staging_store){.user = s, .read = fetch, .write = store};
}

enum status shards_serve(struct shards *s)
{
	for (;;) {
		struct stretch t;
		TRY(collective_broadcast(s->ranks, &t, sizeof t));
		if (!t.more)
			return collective_agree(s->ranks, STATUS_OK);
		TRY(collect(s, &t));
	}
}

enum status shards_dismiss(struct shards *s, enum status status)
{
	struct stretch nothing = {.more = false};
	struct error_copy copy;
	error_save(status, &copy);
	TRY(collective_broadcast(s->ranks, &nothing, sizeof nothing));
	return collective_agree(s->ranks, error_restore(&copy));
}
