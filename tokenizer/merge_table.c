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

static size_t slot_count(const struct merge_table *table)
{
	return (size_t)1 << (64 - table->shift);
}

static void close_slots(struct merge_table *table)
{
	if (table->slots)
		memory_free_large(table->slots, slot_count(table) * sizeof *table->slots);
	free(table->filter);
	table->slots = NULL;
	table->filter = NULL;
}

static void close_small(struct merge_table *table)
{
	if (table->small)
		memory_free_large(table->small, SMALL_BYTES);
	free(table->byte_ranks);
	free(table->ids);
	table->small = NULL;
	table->byte_ranks = NULL;
	table->ids = NULL;
}

enum status merge_table_open(struct merge_table *table, uint32_t merges)
{
	uint32_t bits = 5;
	while ((UINT64_C(1) << bits) < (uint64_t)merges * 5 / 4)
		bits++;
	table->shift = 64 - bits;
	TRY(memory_alloc_large(
		(void **)&table->slots, slot_count(table) * sizeof *table->slots, "the merges"));
	memset(table->slots, 255, slot_count(table) * sizeof *table->slots);
	return memory_alloc((void **)&table->filter, (size_t)1 << (bits + MERGE_FILTER_BITS - 6),
		sizeof *table->filter, "the merges");
}

void merge_table_close(struct merge_table *table)
{
	close_slots(table);
	close_small(table);
	*table = (struct merge_table){0};
}

bool merge_table_add(struct merge_table *table, uint32_t left, uint32_t right, uint32_t id)
{
	if (merge_find(table, left, right) != MERGE_NEVER)
		return false;
	uint64_t hash = merge_hash(left, right), bit = hash >> (table->shift - MERGE_FILTER_BITS);
	size_t mask = SIZE_MAX >> table->shift, at = (size_t)(hash >> table->shift);
	table->filter[bit / 64] |= UINT64_C(1) << bit % 64;
	while (table->slots[at][1] != MERGE_NEVER)
		at = (at + 1) & mask;
	table->slots[at][0] = (uint64_t)left << 32 | right;
	table->slots[at][1] = merge_pack(table->merges++, id);
	return true;
}

/* ---- the small table ---- */

/* What is needed to build it. */
struct merge_list {
	uint64_t *parts;   /* [merges]: left << 32 | right, ids */
	uint32_t *pairs;   /* [merges]: left << 16 | right, symbols */
	uint32_t *symbols; /* [vocabulary]: of ids */
};

/* False if a token is made by two merges, or is a byte and made by one. */
static bool name_symbols(struct merge_table *table, const uint32_t byte_id[BYTES], uint32_t vocabulary,
	struct merge_list *list)
{
	memset(list->symbols, 255, vocabulary * sizeof *list->symbols); /* NO_SYMBOL */
	for (uint32_t byte = 0; byte < BYTES; byte++) {
		table->ids[byte] = byte_id[byte];
		list->symbols[byte_id[byte]] = byte;
	}
	for (size_t at = 0; at < slot_count(table); at++) {
		merge_value value = table->slots[at][1];
		if (value == MERGE_NEVER)
			continue;
		uint32_t id = (uint32_t)(value >> 8), rank = (uint32_t)(value >> 40);
		if (list->symbols[id] != NO_SYMBOL)
			return false;
		list->symbols[id] = BYTES + rank;
		list->parts[rank] = table->slots[at][0];
		table->ids[BYTES + rank] = id;
	}
	return true;
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

static bool small_fill(struct merge_table *table, struct merge_list *list)
{
	for (size_t i = 0; i < 2 * MERGE_SMALL_SLOTS; i++)
		table->small[i] = FREE_SLOT;
	for (uint32_t rank = 0; rank < table->merges; rank++) {
		uint32_t left = list->symbols[list->parts[rank] >> 32];
		uint32_t right = list->symbols[(uint32_t)list->parts[rank]];
		list->pairs[rank] = left << 16 | right;
		if (left == NO_SYMBOL || right == NO_SYMBOL)
			continue; /* of a token that is never made */
		if (!small_insert(table->small, list->pairs, rank))
			return false;
	}
	for (uint32_t i = 0; i < BYTES * BYTES; i++) {
		uint8_t bytes[2] = {(uint8_t)(i / BYTES), (uint8_t)i};
		uint16_t pair;
		memcpy(&pair, bytes, sizeof pair);
		table->byte_ranks[pair] = (uint16_t)merge_rank(table->small, bytes[0], bytes[1]);
	}
	return true;
}

static enum status small_build(struct merge_table *table, const uint32_t byte_id[BYTES], uint32_t vocabulary,
	struct merge_list *list, bool *built)
{
	TRY(memory_alloc((void **)&table->ids, BYTES + table->merges, sizeof *table->ids, "the merges"));
	TRY(memory_alloc((void **)&list->parts, table->merges, sizeof *list->parts, "the merges"));
	TRY(memory_alloc((void **)&list->pairs, table->merges, sizeof *list->pairs, "the merges"));
	TRY(memory_alloc((void **)&list->symbols, vocabulary, sizeof *list->symbols, "the merges"));
	if (!name_symbols(table, byte_id, vocabulary, list))
		return STATUS_OK;
	TRY(memory_alloc(
		(void **)&table->byte_ranks, BYTES * BYTES, sizeof *table->byte_ranks, "the merges"));
	TRY(memory_alloc_large((void **)&table->small, SMALL_BYTES, "the merges"));
	*built = small_fill(table, list);
	return STATUS_OK;
}

enum status merge_table_finish(struct merge_table *table, const uint32_t byte_id[BYTES], uint32_t vocabulary)
{
	struct merge_list list = {0};
	enum status status = STATUS_OK;
	bool small = false;
	if (table->merges <= MERGE_SMALL_RANKS)
		status = small_build(table, byte_id, vocabulary, &list, &small);
	free(list.parts);
	free(list.pairs);
	free(list.symbols);
	if (small)
		close_slots(table);
	else
		close_small(table);
	for (uint32_t byte = 0; byte < BYTES; byte++)
		table->symbols[byte] = small ? byte : byte_id[byte];
	return status;
}
