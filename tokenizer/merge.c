#include "tokenizer/merge.h"

#include "common/memory.h"

#include <stdlib.h>
#include <string.h>

enum status merge_table_open(struct merge_table *table, uint32_t merges)
{
	uint32_t bits = 4;
	while ((UINT64_C(1) << bits) < (uint64_t)merges * 2)
		bits++;
	void *slots;
	TRY(memory_alloc(&slots, (size_t)1 << bits, sizeof *table->slots, "the merges"));
	table->slots = slots;
	table->shift = 64 - bits;
	for (size_t i = 0; i < (size_t)1 << bits; i++)
		table->slots[i].rank = MERGE_NONE;
	return STATUS_OK;
}

void merge_table_close(struct merge_table *table)
{
	free(table->slots);
	table->slots = NULL;
}

bool merge_table_add(struct merge_table *table, uint32_t left, uint32_t right, uint32_t rank, uint32_t id)
{
	struct merge_pair *slot = (struct merge_pair *)merge_find(table, left, right);
	if (slot->rank != MERGE_NONE)
		return false;
	*slot = (struct merge_pair){merge_parts(left, right), rank, id};
	return true;
}

size_t merge_short(const struct merge_table *table, uint32_t *ids, size_t count)
{
	uint32_t rank[MERGE_SHORT], joined[MERGE_SHORT]; /* of the pair that starts here */
	for (size_t i = 0; i + 1 < count; i++) {
		const struct merge_pair *pair = merge_find(table, ids[i], ids[i + 1]);
		rank[i] = pair->rank;
		joined[i] = pair->id;
	}
	while (count > 1) {
		size_t best = 0;
		for (size_t i = 1; i + 1 < count; i++)
			best = rank[i] < rank[best] ? i : best;
		if (rank[best] == MERGE_NONE)
			break;
		ids[best] = joined[best];
		count--;
		for (size_t i = best + 1; i < count; i++)
			ids[i] = ids[i + 1];
		for (size_t i = best + 1; i + 1 < count; i++) {
			rank[i] = rank[i + 1];
			joined[i] = joined[i + 1];
		}
		for (size_t i = best ? best - 1 : 0; i <= best && i + 1 < count; i++) {
			const struct merge_pair *pair = merge_find(table, ids[i], ids[i + 1]);
			rank[i] = pair->rank;
			joined[i] = pair->id;
		}
	}
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
	part->rank = part->after == MERGE_NONE ? MERGE_NONE
					       : merge_find(table, part->id, parts[part->after].id)->rank;
	if (part->rank != MERGE_NONE)
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
		part->id = merge_find(table, part->id, next->id)->id;
		next->rank = MERGE_NONE;
		part->after = next->after;
		if (part->after != MERGE_NONE)
			parts[part->after].before = at;
		part_rank(table, parts, at, heap);
		if (part->before != MERGE_NONE)
			part_rank(table, parts, part->before, heap);
	}
}

enum status merge_long(const struct merge_table *table, uint32_t *ids, size_t *count)
{
	FAIL_IF(*count >= MERGE_NONE, STATUS_UNSUPPORTED,
		"a word of %zu bytes, with no space or other break, is too long; 4 GiB is the limit", *count);
	void *memory;
	size_t n = *count;
	TRY(memory_alloc(&memory, n, sizeof(struct part) + 2 * sizeof(uint64_t), "merging a long word"));
	struct part *parts = memory;
	struct heap heap = {(uint64_t *)(parts + n), 0};
	for (size_t i = 0; i < n; i++)
		parts[i] = (struct part){.id = ids[i],
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
