#include "engine/shards.h"

#include "common/memory.h"
#include "engine/exchange.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct shards {
	struct collective *ranks;
	struct kernels *kernels;
	uint64_t elements;
	struct exchange *exchange;
	const struct lookups *lookups; /* NULL: wte goes in one */
	void *together;                /* grad [together_bytes]: pieces of a block, in the kernels' memory */
	uint64_t together_bytes;
	uint64_t wte_end;               /* in the flat array */
	struct parameter_run *blocks;   /* [block_count] */
	int *layers;                    /* [block_count], of the blocks */
	struct optimizer_slice *slices; /* [block_count], a block's each */
	int block_count;
	uint64_t *cuts;  /* [ranks + 1] */
	char *addresses; /* of the whole arrays: reserved, without memory */
	struct {
		float *memory, *host;
		bool whole;
		uint64_t there; /* of the rank's elements, those that are in `memory` */
	} kept[SHARDS_ARRAYS];
	float *piece; /* [STAGING_BYTES]: of a whole array, rank by rank; pinned */
};

/* ---- who owns what ---- */

/* Returns how many; `out` and `layers` NULL: they are not wanted. */
static int cut_blocks(const struct parameter_table *table, struct parameter_run *out, int *layers)
{
	struct parameter_run run;
	int count = 0;
	for (int i = 0, end; i < table->count; i = end) {
		int first = count;
		end = parameter_run_from(table, i, &run);
		uint64_t size = parameter_piece(run.elements, SHARDS_BLOCK);
		for (uint64_t at = 0; at < run.elements; at += size, count++)
			if (out)
				out[count] = (struct parameter_run){
					run.offset + at, run.elements - at < size ? run.elements - at : size};
		for (int b = first; layers && b < count; b++)
			layers[b] = table->items[i].layer;
	}
	return count;
}

/* Where rank r's slice of a block begins, in it. */
static uint64_t cut(uint64_t block, int rank, int ranks)
{
	return rank == ranks
		       ? block
		       : block / PARAMETER_ALIGNED * (uint64_t)rank / (uint64_t)ranks * PARAMETER_ALIGNED;
}

/* Rank r's slice of a block, as elements of the whole. */
static struct optimizer_slice slice_of(const struct parameter_run *block, int rank, int ranks)
{
	uint64_t first = cut(block->elements, rank, ranks);
	return (struct optimizer_slice){
		.offset = block->offset + first, .elements = cut(block->elements, rank + 1, ranks) - first};
}

static enum status take_blocks(const struct parameter_table *table, struct parameter_run **out, int *count)
{
	*count = cut_blocks(table, NULL, NULL);
	TRY(memory_alloc((void **)out, (size_t)*count, sizeof **out, "the ranks' blocks"));
	cut_blocks(table, *out, NULL);
	return STATUS_OK;
}

enum status shards_cut(
	const struct parameter_table *table, int rank, int ranks, struct optimizer_slice **out, int *count)
{
	struct parameter_run *blocks;
	uint64_t own = 0;
	*out = NULL;
	TRY(take_blocks(table, &blocks, count));
	enum status status = memory_alloc((void **)out, (size_t)*count, sizeof **out, "the ranks' slices");
	for (int i = 0; i < *count && status == STATUS_OK; i++) {
		(*out)[i] = slice_of(&blocks[i], rank, ranks);
		(*out)[i].own = own;
		own += (*out)[i].elements;
	}
	free(blocks);
	return status;
}

/* Slices of a block differ by a unit. */
static struct exchange_sizes largest_block(const struct parameter_table *table, int ranks)
{
	struct parameter_run run;
	uint64_t largest = 0;
	for (int i = 0; i < table->count;) {
		i = parameter_run_from(table, i, &run);
		uint64_t size = parameter_piece(run.elements, SHARDS_BLOCK);
		largest = size > largest ? size : largest;
	}
	uint64_t units = largest / PARAMETER_ALIGNED / (uint64_t)ranks + 1;
	return (struct exchange_sizes){
		.block = largest * sizeof(float), .part = units * PARAMETER_ALIGNED * sizeof(float)};
}

uint64_t shards_buffer_bytes(const struct parameter_table *table, int ranks, bool on_device)
{
	struct exchange_sizes sizes = largest_block(table, ranks);
	return exchange_host_bytes(&sizes, ranks, on_device) + STAGING_BYTES;
}

uint64_t shards_device_bytes(const struct parameter_table *table, int ranks, bool on_device)
{
	struct exchange_sizes sizes = largest_block(table, ranks);
	return exchange_device_bytes(&sizes, ranks, on_device) + (on_device ? sizes.block : 0);
}

/* ---- life ---- */

static enum status take(struct shards *s, const struct parameter_table *table, bool on_device)
{
	struct kernels *k = s->kernels;
	struct collective *c = s->ranks;
	struct exchange_sizes sizes = largest_block(table, c->ranks);
	TRY(take_blocks(table, &s->blocks, &s->block_count));
	TRY(shards_cut(table, c->rank, c->ranks, &s->slices, &s->block_count));
	TRY(memory_alloc(
		(void **)&s->layers, (size_t)s->block_count, sizeof *s->layers, "the ranks' blocks"));
	cut_blocks(table, NULL, s->layers);
	TRY(memory_alloc((void **)&s->cuts, (size_t)c->ranks + 1, sizeof *s->cuts, "the ranks' slices"));
	TRY(exchange_open(c, k, &sizes, on_device, &s->exchange));
	s->wte_end = table->items[PARAMETER_WPE].offset;
	if (s->lookups) {
		s->together_bytes = sizes.block;
		TRY(k->memory_alloc(k, &s->together, sizes.block, "gradients of rows for other ranks"));
	}
	TRY(k->host_alloc(k, (void **)&s->piece, STAGING_BYTES, "the state of other ranks"));
	void *addresses = mmap(NULL, SHARDS_ARRAYS * s->elements * sizeof(float), PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (addresses == MAP_FAILED)
		return error_set_errno(STATUS_MEMORY, "no addresses for the state of all ranks");
	s->addresses = addresses;
	return STATUS_OK;
}

enum status shards_open(struct collective *ranks, struct kernels *kernels,
	const struct parameter_table *table, bool on_device, const struct lookups *lookups,
	struct shards **out)
{
	struct shards *s;
	*out = NULL;
	TRY(memory_alloc((void **)&s, 1, sizeof *s, "the ranks' slices"));
	s->ranks = ranks;
	s->kernels = kernels;
	s->elements = table->elements;
	s->lookups = lookups;
	enum status status = take(s, table, on_device);
	if (status != STATUS_OK) {
		shards_close(s);
		return status;
	}
	*out = s;
	return STATUS_OK;
}

enum status shards_connect(struct shards *s)
{
	return exchange_connect(s->exchange);
}

const char *shards_way(const struct shards *s)
{
	return exchange_name(s->exchange);
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
	if (s->together)
		s->kernels->memory_free(s->kernels, s->together, s->together_bytes);
	free(s->cuts);
	free(s->slices);
	free(s->blocks);
	free(s->layers);
	free(s);
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

static enum status reduce_block(struct shards *s, void *gradients, int block, struct stream *stream)
{
	size_t each = dtype_bytes(s->kernels->grad);
	return exchange_reduce(s->exchange, stream, (char *)gradients + s->blocks[block].offset * each,
		byte_cuts(s, s->blocks[block].elements, each));
}

/* Of a slice. */
static struct lookups_list pieces_of(const struct shards *s, struct optimizer_slice slice, bool early)
{
	uint64_t from = slice.offset, to = from + slice.elements;
	return early ? lookups_early(s->lookups, from, to) : lookups_late(s->lookups, from, to);
}

/* The early, or the late pieces of a block of wte. */
static enum status reduce_pieces(
	struct shards *s, void *gradients, int block, bool early, struct stream *stream)
{
	struct kernels *k = s->kernels;
	struct collective *c = s->ranks;
	const struct parameter_run *whole = &s->blocks[block];
	struct optimizer_slice all = {.offset = whole->offset, .elements = whole->elements};
	struct lookups_list pieces = pieces_of(s, all, early), own = pieces_of(s, s->slices[block], early);
	s->cuts[0] = 0;
	for (int r = 0; r < c->ranks; r++)
		s->cuts[r + 1] = s->cuts[r] + pieces_of(s, slice_of(whole, r, c->ranks), early).count *
						      KERNELS_PIECE * dtype_bytes(k->grad);
	uint32_t room = (uint32_t)(s->wte_end / KERNELS_PIECE);
	if (!pieces.count)
		return STATUS_OK;
	k->gather(k, stream, s->together, gradients, pieces.on_table, pieces.count, 0, room, k->grad);
	TRY(exchange_reduce(s->exchange, stream, s->together, s->cuts));
	k->scatter(k, stream, gradients, (char *)s->together + s->cuts[c->rank], own.on_table, own.count, 0,
		room, k->grad);
	return STATUS_OK;
}

enum status shards_reduce(struct shards *s, void *gradients, int layer, struct stream *stream)
{
	int last = s->layers[s->block_count - 1];
	for (int i = 0; i < s->block_count; i++) {
		bool in_parts = s->lookups && s->blocks[i].offset < s->wte_end;
		if (in_parts && (layer == last || layer == -1))
			TRY(reduce_pieces(s, gradients, i, layer == last, stream));
		else if (s->layers[i] == layer && !in_parts)
			TRY(reduce_block(s, gradients, i, stream));
	}
	return STATUS_OK;
}

enum status shards_share(struct shards *s, void *working, int layer, struct stream *stream)
{
	size_t each = dtype_bytes(s->kernels->act);
	for (int i = 0; i < s->block_count; i++)
		if (s->layers[i] == layer)
			TRY(exchange_share(s->exchange, stream, (char *)working + s->blocks[i].offset * each,
				byte_cuts(s, s->blocks[i].elements, each)));
	return STATUS_OK;
}

enum status shards_share_all(struct shards *s, void *working)
{
	struct kernels *k = s->kernels;
	for (int layer = -1; layer <= s->layers[s->block_count - 1]; layer++)
		TRY(shards_share(s, working, layer, NULL));
	k->weights_changed(k);
	return k->stream_wait(k, NULL);
}

/* How many of a part's elements are in the kernels' memory, before those that are in the host's. */
static uint64_t count_there(const struct shards *s, int array, const struct optimizer_slice *part)
{
	uint64_t left = s->kept[array].there > part->own ? s->kept[array].there - part->own : 0;
	return left < part->elements ? left : part->elements;
}

void shards_round(struct shards *s, void *working)
{
	struct kernels *k = s->kernels;
	const float *master = s->kept[SHARDS_MASTER].memory;
	for (int i = 0; i < s->block_count && !s->kept[SHARDS_MASTER].whole; i++) {
		const struct optimizer_slice *slice = &s->slices[i];
		uint64_t count = count_there(s, SHARDS_MASTER, slice);
		if (count)
			k->convert(k, NULL, (char *)working + slice->offset * dtype_bytes(k->act), k->act,
				master + slice->own, DTYPE_F32, count);
	}
}

/* ---- the state as whole arrays ---- */

void shards_keep(struct shards *s, enum shards_array array, float *memory, bool whole)
{
	s->kept[array].memory = memory;
	s->kept[array].whole = whole;
	s->kept[array].there = s->elements;
}

void shards_keep_rest(struct shards *s, enum shards_array array, float *host, uint64_t there)
{
	s->kept[array].host = host;
	s->kept[array].there = there;
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

/* Where the kernels have it. */
static float *kept_at(const struct shards *s, int array, const struct optimizer_slice *part)
{
	return s->kept[array].memory + (s->kept[array].whole ? part->offset : part->own);
}

/* The blocks that a stretch has a share in are those from this one for which `reaches` holds. */
static int first_block(const struct shards *s, const struct stretch *t)
{
	int b = 0;
	while (b < s->block_count && s->blocks[b].offset + s->blocks[b].elements <= t->first)
		b++;
	return b;
}

static bool reaches(const struct shards *s, const struct stretch *t, int block)
{
	return block < s->block_count && s->blocks[block].offset < t->first + t->count;
}

/* A part of what the rank keeps, from the host or to it. */
static void put(struct shards *s, int array, const struct optimizer_slice *part, const float *from)
{
	struct kernels *k = s->kernels;
	uint64_t there = count_there(s, array, part);
	if (there)
		k->copy_in(k, NULL, kept_at(s, array, part), from, there * sizeof *from);
	if (there < part->elements)
		memcpy(s->kept[array].host + part->own + there, from + there,
			(part->elements - there) * sizeof *from);
}

static void get(struct shards *s, int array, const struct optimizer_slice *part, float *to)
{
	struct kernels *k = s->kernels;
	uint64_t there = count_there(s, array, part);
	if (there)
		k->copy_out(k, NULL, to, kept_at(s, array, part), there * sizeof *to);
	if (there < part->elements)
		memcpy(to + there, s->kept[array].host + part->own + there,
			(part->elements - there) * sizeof *to);
}

static enum status store(void *user, void *to, const void *from, size_t bytes)
{
	struct shards *s = user;
	struct stretch t = stretch_of(s, to, bytes);
	for (int b = first_block(s, &t); reaches(s, &t, b); b++) {
		struct optimizer_slice part = within(&t, s->slices[b]);
		put(s, t.array, &part, (const float *)from + (part.offset - t.first));
	}
	return s->kernels->stream_wait(s->kernels, NULL);
}

static struct staging_wish wish(void *user, const void *to, size_t bytes)
{
	const struct shards *s = user;
	struct stretch t = stretch_of(s, to, bytes);
	for (int b = first_block(s, &t); reaches(s, &t, b); b++) {
		struct optimizer_slice part = within(&t, s->slices[b]);
		if (part.elements)
			return (struct staging_wish){.skip = (part.offset - t.first) * sizeof(float),
				.take = part.elements * sizeof(float)};
	}
	return (struct staging_wish){.skip = bytes};
}

/* Elements of a stretch that are rank r's. */
static uint64_t count_of(const struct shards *s, const struct stretch *t, int rank)
{
	uint64_t count = 0;
	for (int b = first_block(s, t); reaches(s, t, b); b++)
		count += within(t, slice_of(&s->blocks[b], rank, s->ranks->ranks)).elements;
	return count;
}

/* s->piece gets all of a stretch, each rank's part of it in one. */
static enum status collect(struct shards *s, const struct stretch *t)
{
	struct collective *c = s->ranks;
	s->cuts[0] = 0;
	for (int r = 0; r < c->ranks; r++)
		s->cuts[r + 1] = s->cuts[r] + count_of(s, t, r) * sizeof(float);
	float *at = s->piece + s->cuts[c->rank] / sizeof(float);
	for (int b = first_block(s, t); reaches(s, t, b); b++) {
		struct optimizer_slice part = within(t, s->slices[b]);
		get(s, t->array, &part, at);
		at += part.elements;
	}
	TRY(s->kernels->stream_wait(s->kernels, NULL));
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
		for (int b = first_block(s, &t); reaches(s, &t, b); b++) {
			struct optimizer_slice part = within(&t, slice_of(&s->blocks[b], r, s->ranks->ranks));
			memcpy((float *)to + (part.offset - t.first), at, part.elements * sizeof *at);
			at += part.elements;
		}
	return STATUS_OK;
}

struct staging_store shards_store(struct shards *s)
{
	return (struct staging_store){.user = s, .read = fetch, .write = store, .wish = wish};
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
