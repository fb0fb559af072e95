#include "tokenizer/merge_table.h"

#include "common/memory.h"

#include <stdlib.h>
#include <string.h>

enum {
	BYTES = 256,
	MOVES = 500, /* of other pairs for one that is put into the small table */
};
#define FREE_SLOT   ((uint32_t)MERGE_SMALL_NONE)
#define NO_SYMBOL   UINT32_MAX
#define SMALL_BYTES (2 * MERGE_SMALL_SLOTS * sizeof(uint32_t))

/* ---- the merges as they come ---- */

struct merge_list {
	uint32_t (*parts)[2]; /* [merges]: ids of left and right */
	uint32_t *ids;        /* [merges]: what they make */
	uint32_t *symbols; /* [vocabulary]: of ids: 256 + the last rank that makes it; NO_SYMBOL: none does */
	uint32_t *earlier; /* [merges]: what `symbols` held before; 0: NO_SYMBOL */
	bool unique;       /* no id is made twice */
};

static void list_close(struct merge_list *list)
{
	if (!list)
		return;
	free(list->parts);
	free(list->ids);
	free(list->symbols);
	free(list->earlier);
	free(list);
}

enum status merge_table_open(struct merge_table *table, uint32_t merges, uint32_t vocabulary)
{
	TRY(memory_alloc((void **)&table->list, 1, sizeof *table->list, "the merges"));
	struct merge_list *list = table->list;
	list->unique = true;
	TRY(memory_alloc((void **)&list->parts, merges, sizeof *list->parts, "the merges"));
	TRY(memory_alloc((void **)&list->ids, merges, sizeof *list->ids, "the merges"));
	TRY(memory_alloc((void **)&list->earlier, merges, sizeof *list->earlier, "the merges"));
	TRY(memory_alloc((void **)&list->symbols, vocabulary, sizeof *list->symbols, "the merges"));
	memset(list->symbols, 255, vocabulary * sizeof *list->symbols); /* NO_SYMBOL */
	return STATUS_OK;
}

bool merge_table_add(struct merge_table *table, uint32_t left, uint32_t right, uint32_t id)
{
	struct merge_list *list = table->list;
	uint32_t rank = table->merges, symbol = list->symbols[id];
	if (symbol != NO_SYMBOL) { /* a pair that is there makes the same id */
		list->unique = false;
		list->earlier[rank] = symbol;
		for (; symbol; symbol = list->earlier[symbol - BYTES])
			if (list->parts[symbol - BYTES][0] == left && list->parts[symbol - BYTES][1] == right)
				return false;
	}
	list->symbols[id] = BYTES + rank;
	list->parts[rank][0] = left;
	list->parts[rank][1] = right;
	list->ids[rank] = id;
	table->merges++;
	return true;
}

/* ---- the small table ---- */

static void small_close(struct merge_table *table)
{
	if (table->small)
		memory_free_large(table->small, SMALL_BYTES);
	free(table->byte_ranks);
	free(table->ids);
	table->small = NULL;
	table->byte_ranks = NULL;
	table->ids = NULL;
}

/* A pair to one of its slots; the one that stands there goes to its other slot, and so on. */
static bool small_insert(uint32_t *small, const uint32_t *pairs, uint32_t rank)
{
	for (int move = 0; move < MOVES; move++) {
		uint32_t half = (uint32_t)move & 1;
		uint32_t hash = pairs[rank] * (half ? MERGE_FACTOR_SECOND : MERGE_FACTOR_FIRST);
		uint32_t *slot = &small[half * MERGE_SMALL_SLOTS + (hash >> 16)], there = *slot;
		*slot = hash << 16 | rank;
		if (there == FREE_SLOT)
			return true;
		rank = there & UINT16_MAX;
	}
	return false;
}

/* `pairs` [merges]: scratch. False: some pair finds no slot. */
static bool small_fill(const struct merge_table *table, uint32_t *pairs)
{
	const struct merge_list *list = table->list;
	for (size_t i = 0; i < 2 * MERGE_SMALL_SLOTS; i++)
		table->small[i] = FREE_SLOT;
	for (uint32_t rank = 0; rank < table->merges; rank++) {
		uint32_t left = list->symbols[list->parts[rank][0]],
			 right = list->symbols[list->parts[rank][1]];
		pairs[rank] = left << 16 | right;
		if (left == NO_SYMBOL || right == NO_SYMBOL)
			continue; /* of a token that is never made */
		if (!small_insert(table->small, pairs, rank))
			return false;
	}
	return true;
}

static void rank_bytes(const struct merge_table *table)
{
	for (uint32_t i = 0; i < BYTES * BYTES; i++) {
		uint8_t bytes[2] = {(uint8_t)(i / BYTES), (uint8_t)i};
		uint16_t pair;
		memcpy(&pair, bytes, sizeof pair);
		table->byte_ranks[pair] = (uint16_t)merge_rank(table->small, bytes[0], bytes[1]);
	}
}

/* Makes the table small if it can be. */
static enum status small_build(struct merge_table *table, const uint32_t byte_id[BYTES])
{
	struct merge_list *list = table->list;
	uint32_t *pairs;
	if (!list->unique || table->merges > MERGE_SMALL_RANKS)
		return STATUS_OK;
	for (uint32_t byte = 0; byte < BYTES; byte++) {
		if (list->symbols[byte_id[byte]] != NO_SYMBOL)
			return STATUS_OK;
		list->symbols[byte_id[byte]] = byte;
	}
	TRY(memory_alloc((void **)&table->ids, BYTES + table->merges, sizeof *table->ids, "the merges"));
	memcpy(table->ids, byte_id, BYTES * sizeof *table->ids);
	memcpy(table->ids + BYTES, list->ids, table->merges * sizeof *table->ids);
	TRY(memory_alloc(
		(void **)&table->byte_ranks, BYTES * BYTES, sizeof *table->byte_ranks, "the merges"));
	TRY(memory_alloc_large((void **)&table->small, SMALL_BYTES, "the merges"));
	TRY(memory_alloc((void **)&pairs, table->merges, sizeof *pairs, "the merges"));
	if (small_fill(table, pairs))
		rank_bytes(table);
	else
		small_close(table);
	free(pairs);
	return STATUS_OK;
}

/* ---- the other ---- */

static size_t slot_count(const struct merge_table *table)
{
	return (size_t)1 << (64 - table->shift);
}

static void slot_insert(struct merge_table *table, uint32_t rank)
{
	const uint32_t *parts = table->list->parts[rank];
	uint64_t hash = merge_hash(parts[0], parts[1]), bit = hash >> (table->shift - MERGE_FILTER_BITS);
	size_t mask = SIZE_MAX >> table->shift, at = (size_t)(hash >> table->shift);
	table->filter[bit / 64] |= UINT64_C(1) << bit % 64;
	while (table->slots[at][1] != MERGE_NEVER)
		at = (at + 1) & mask;
	table->slots[at][0] = (uint64_t)parts[0] << 32 | parts[1];
	table->slots[at][1] = merge_pack(rank, table->list->ids[rank]);
}

static enum status slots_build(struct merge_table *table)
{
	uint32_t bits = 5;
	while ((UINT64_C(1) << bits) < (uint64_t)table->merges * 5 / 4)
		bits++;
	table->shift = 64 - bits;
	TRY(memory_alloc_large(
		(void **)&table->slots, slot_count(table) * sizeof *table->slots, "the merges"));
	memset(table->slots, 255, slot_count(table) * sizeof *table->slots);
	TRY(memory_alloc((void **)&table->filter, (size_t)1 << (bits + MERGE_FILTER_BITS - 6),
		sizeof *table->filter, "the merges"));
	for (uint32_t rank = 0; rank < table->merges; rank++)
		slot_insert(table, rank);
	return STATUS_OK;
}

/* ---- both ---- */

enum status merge_table_finish(struct merge_table *table, const uint32_t byte_id[BYTES])
{
	TRY(small_build(table, byte_id));
	if (!table->small)
		TRY(slots_build(table));
	for (uint32_t byte = 0; byte < BYTES; byte++)
		table->symbols[byte] = table->small ? byte : byte_id[byte];
	list_close(table->list);
	table->list = NULL;
	return STATUS_OK;
}

void merge_table_close(struct merge_table *table)
{
	list_close(table->list);
	small_close(table);
	if (table->slots)
		memory_free_large(table->slots, slot_count(table) * sizeof *table->slots);
	free(table->filter);
	*table = (struct merge_table){0};
}
