#include "tokenizer/merge.h"

#include "common/memory.h"

#include <stdlib.h>
#include <string.h>

enum { BYTE_PAIRS = 256 * 256 };

static size_t slots_bytes(const struct merge_table *table)
{
	return ((size_t)1 << (64 - table->shift)) * (table->narrow ? 1 : 2) * sizeof *table->slots;
}

enum status merge_table_open(struct merge_table *table, uint32_t merges, uint32_t vocabulary)
{
	uint32_t bits = 5;
	while ((UINT64_C(1) << bits) < (uint64_t)merges * 5 / 4)
		bits++;
	table->shift = 64 - bits;
	table->narrow = merges < UINT16_MAX && vocabulary <= UINT16_MAX + 1;
	TRY(memory_alloc_large((void **)&table->slots, slots_bytes(table), "the merges"));
	memset(table->slots, 255, slots_bytes(table));
	TRY(memory_alloc((void **)&table->filter, (size_t)1 << (bits + MERGE_FILTER_BITS - 6),
		sizeof *table->filter, "the merges"));
	return memory_alloc((void **)&table->byte_pairs, BYTE_PAIRS, sizeof *table->byte_pairs, "the merges");
}

void merge_table_close(struct merge_table *table)
{
	if (table->slots)
		memory_free_large(table->slots, slots_bytes(table));
	free(table->filter);
	free(table->byte_pairs);
	*table = (struct merge_table){0};
}

bool merge_table_add(struct merge_table *table, uint32_t left, uint32_t right, uint32_t rank, uint32_t id)
{
	if (merge_find(table, left, right) != MERGE_NEVER)
		return false;
	uint64_t hash = merge_hash(left, right), bit = hash >> (table->shift - MERGE_FILTER_BITS);
	size_t mask = SIZE_MAX >> table->shift, at = (size_t)(hash >> table->shift);
	table->filter[bit / 64] |= UINT64_C(1) << bit % 64;
	if (table->narrow) {
		while (table->slots[at] != MERGE_NEVER)
			at = (at + 1) & mask;
		table->slots[at] = ((uint64_t)left << 16 | right) << 32 | (uint64_t)rank << 16 | id;
		return true;
	}
	while (table->slots[2 * at + 1] != MERGE_NEVER)
		at = (at + 1) & mask;
	table->slots[2 * at] = (uint64_t)left << 32 | right;
	table->slots[2 * at + 1] = merge_pack(rank, id);
	return true;
}

void merge_table_set_bytes(struct merge_table *table, const uint32_t byte_id[256])
{
	memcpy(table->byte_id, byte_id, sizeof table->byte_id);
	for (size_t pair = 0; pair < BYTE_PAIRS; pair++)
		table->byte_pairs[pair] = merge_find(table, byte_id[pair >> 8], byte_id[pair & 255]);
}

/* The least of values[0..count). Two chains, so that comparisons overlap. */
static inline merge_value least(const merge_value *values, size_t count)
{
	merge_value a = MERGE_NEVER, b = MERGE_NEVER;
	size_t i = 0;
	for (; i + 1 < count; i += 2) {
		a = values[i] < a ? values[i] : a;
		b = values[i + 1] < b ? values[i + 1] : b;
	}
	if (i < count)
		a = values[i] < a ? values[i] : a;
	return a < b ? a : b;
}

/*
 * A part stays where its first byte is; `starts` has a bit for each, and one for the word's end. pairs[i] is
 * what the part at i and the next join to, with i in the low byte.
 */
size_t merge_short(const struct merge_table *table, const uint8_t *word, size_t length, uint32_t *ids)
{
	merge_value pairs[MERGE_SHORT];
	uint32_t parts[MERGE_SHORT];
	uint64_t starts = (UINT64_C(2) << length) - 1;
	if (length == 0)
		return 0;
	for (size_t i = 0; i < length; i++)
		parts[i] = table->byte_id[word[i]];
	for (size_t i = 0; i + 1 < length; i++)
		pairs[i] = table->byte_pairs[word[i] << 8 | word[i + 1]] | i;
	for (merge_value best; (best = least(pairs, length - 1)) < MERGE_NEVER - UINT8_MAX;) {
		size_t at = best & UINT8_MAX;
		size_t next = at + 1 + (size_t)__builtin_ctzll(starts >> (at + 1));
		size_t after = next + 1 + (size_t)__builtin_ctzll(starts >> (next + 1));
		uint32_t id = parts[at] = (uint32_t)(best >> 8);
		uint64_t before = starts & ((UINT64_C(1) << at) - 1);
		size_t previous = before ? 63 - (size_t)__builtin_clzll(before) : at;
		if (after < length)
			merge_fetch(table, id, parts[after]);
		if (before)
			merge_fetch(table, parts[previous], id);
		starts &= ~(UINT64_C(1) << next);
		if (next + 1 < length)
			pairs[next] = MERGE_NEVER;
		pairs[at] = after < length ? merge_find(table, id, parts[after]) | at : MERGE_NEVER;
		if (before)
			pairs[previous] = merge_find(table, parts[previous], id) | previous;
	}
	size_t count = 0;
	for (starts ^= UINT64_C(1) << length; starts; starts &= starts - 1)
		ids[count++] = parts[__builtin_ctzll(starts)];
	return count;
}

/* ---- long words: a list of parts and a heap of pairs (rank << 32 | position of the left part) ---- */

struct part {
	uint32_t id, before, after; /* neighbours' positions, MERGE_NONE at the ends */
	uint32_t rank;              /* of the pair with the next part; MERGE_NONE: no pair, or joined away */
};

struct heap {
	uint64_t *entries;
	size_t count;
};

static void heap_sift(struct heap *heap, size_t at)
{
	uint64_t entry = heap->entries[at];
	for (size_t child; (child = at * 2 + 1) < heap->count; at = child) {
		if (child + 1 < heap->count && heap->entries[child + 1] < heap->entries[child])
			child++;
		if (heap->entries[child] >= entry)
			break;
		heap->entries[at] = heap->entries[child];
	}
	heap->entries[at] = entry;
}

static uint64_t heap_pop(struct heap *heap)
{
	uint64_t least = heap->entries[0];
	heap->entries[0] = heap->entries[--heap->count];
	heap_sift(heap, 0);
	return least;
}

static void heap_push(struct heap *heap, uint64_t entry)
{
	size_t at = heap->count++;
	for (; at && heap->entries[(at - 1) / 2] > entry; at = (at - 1) / 2)
		heap->entries[at] = heap->entries[(at - 1) / 2];
	heap->entries[at] = entry;
}

static void part_rank(const struct merge_table *table, struct part *parts, uint32_t at, struct heap *heap)
{
	struct part *part = &parts[at];
	part->rank = MERGE_NONE;
	if (part->after == MERGE_NONE)
		return;
	merge_value value = merge_find(table, part->id, parts[part->after].id);
	if (value == MERGE_NEVER)
		return;
	part->rank = (uint32_t)(value >> 40);
	heap_push(heap, (uint64_t)part->rank << 32 | at);
}

/* A pair changes at most twice for each join, and a join takes an entry out: 2 entries a part are enough. */
static void join_all(const struct merge_table *table, struct part *parts, struct heap *heap)
{
	while (heap->count) {
		uint64_t entry = heap_pop(heap);
		uint32_t at = (uint32_t)entry;
		struct part *part = &parts[at];
		if (part->rank != entry >> 32)
			continue; /* the pair has changed since */
		struct part *next = &parts[part->after];
		part->id = (uint32_t)(merge_find(table, part->id, next->id) >> 8);
		next->rank = MERGE_NONE;
		part->after = next->after;
		if (part->after != MERGE_NONE)
			parts[part->after].before = at;
		part_rank(table, parts, at, heap);
		if (part->before != MERGE_NONE)
			part_rank(table, parts, part->before, heap);
	}
}

enum status merge_long(
	const struct merge_table *table, const uint8_t *word, size_t n, uint32_t *ids, size_t *count)
{
	FAIL_IF(n >= MERGE_NONE, STATUS_UNSUPPORTED,
		"a word of %zu bytes, with no space or other break, is too long; 4 GiB is the limit", n);
	void *memory;
	TRY(memory_alloc(&memory, n, sizeof(struct part) + 2 * sizeof(uint64_t), "merging a long word"));
	struct part *parts = memory;
	struct heap heap = {(uint64_t *)(parts + n), 0};
	for (size_t i = 0; i < n; i++)
		parts[i] = (struct part){.id = table->byte_id[word[i]],
			.before = i ? (uint32_t)i - 1 : MERGE_NONE,
			.after = i + 1 < n ? (uint32_t)i + 1 : MERGE_NONE};
	for (size_t i = 0; i < n; i++)
		part_rank(table, parts, (uint32_t)i, &heap);
	join_all(table, parts, &heap);
	*count = 0;
	for (uint32_t at = 0; at != MERGE_NONE; at = parts[at].after)
		ids[(*count)++] = parts[at].id;
	free(memory);
	return STATUS_OK;
}
