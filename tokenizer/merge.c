#include "tokenizer/merge.h"

#include "common/memory.h"

#include <stdlib.h>

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
		parts[i] = table->symbols[word[i]];
	for (size_t i = 0; i + 1 < length; i++)
		pairs[i] = merge_find(table, parts[i], parts[i + 1]) | i;
	for (merge_value best; (best = least(pairs, length - 1)) < MERGE_NEVER - UINT8_MAX;) {
		size_t at = best & UINT8_MAX;
		size_t next = at + 1 + (size_t)__builtin_ctzll(starts >> (at + 1));
		size_t after = next + 1 + (size_t)__builtin_ctzll(starts >> (next + 1));
		uint32_t symbol = parts[at] = (uint32_t)(best >> 8);
		uint64_t before = starts & ((UINT64_C(1) << at) - 1);
		size_t previous = before ? 63 - (size_t)__builtin_clzll(before) : at;
		starts &= ~(UINT64_C(1) << next);
		if (next + 1 < length)
			pairs[next] = MERGE_NEVER;
		pairs[at] = after < length ? merge_find(table, symbol, parts[after]) | at : MERGE_NEVER;
		if (before)
			pairs[previous] = merge_find(table, parts[previous], symbol) | previous;
	}
	size_t count = 0;
	for (starts ^= UINT64_C(1) << length; starts; starts &= starts - 1)
		ids[count++] = merge_id(table, parts[__builtin_ctzll(starts)]);
	return count;
}

/* ---- long words: a list of parts and a heap of pairs (rank << 32 | position of the left part) ---- */

struct part {
	uint32_t symbol, before, after; /* neighbours' positions, MERGE_NONE at the ends */
	uint32_t rank; /* of the pair with the next part; MERGE_NONE: no pair, or joined away */
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
	merge_value value = merge_find(table, part->symbol, parts[part->after].symbol);
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
		part->symbol = (uint32_t)(merge_find(table, part->symbol, next->symbol) >> 8);
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
		parts[i] = (struct part){.symbol = table->symbols[word[i]],
			.before = i ? (uint32_t)i - 1 : MERGE_NONE,
			.after = i + 1 < n ? (uint32_t)i + 1 : MERGE_NONE};
	for (size_t i = 0; i < n; i++)
		part_rank(table, parts, (uint32_t)i, &heap);
	join_all(table, parts, &heap);
	*count = 0;
	for (uint32_t at = 0; at != MERGE_NONE; at = parts[at].after)
		ids[(*count)++] = merge_id(table, parts[at].symbol);
	free(memory);
	return STATUS_OK;
}
