#include "tokenizer/merge_table.h"

#include "common/memory.h"

#include <stdlib.h>
#include <string.h>

enum {
	BYTES = 256,
	SYMBOLS = MERGE_SMALL_EDGE + 1,
	TRIES = 1 << 12, /* to place a row of the small table; GPT-2's need 104 at most */
};
#define ROW_FACTOR  UINT32_C(0x9E3779B1) /* where symbols' rows are tried first */
#define ROW_STEP    UINT32_C(0x0000CA77) /* odd */
#define NO_SYMBOL   UINT32_MAX
#define SMALL_BYTES ((size_t)2 << 20) /* a huge page */
_Static_assert(sizeof(struct merge_small) <= SMALL_BYTES, "a huge page");

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
	table->small = NULL;
}

/* What the table is built from. */
struct rows {
	uint32_t begins[SYMBOLS + 1];                 /* of a left symbol's merges in `rights` and `ranks` */
	uint16_t rights[SYMBOLS], ranks[SYMBOLS];     /* [merges], by left symbol */
	uint32_t longest[SYMBOLS + 1], next[SYMBOLS]; /* rows of a length, linked; symbol + 1, 0: no more */
	uint64_t taken[MERGE_SMALL_SLOTS / 64];       /* a bit a slot */
};

/* The symbols that a merge joins. False: one of them is never made, so it never happens. */
static bool merge_symbols(const struct merge_list *list, uint32_t rank, uint32_t *left, uint32_t *right)
{
	*left = list->symbols[list->parts[rank][0]];
	*right = list->symbols[list->parts[rank][1]];
	return *left != NO_SYMBOL && *right != NO_SYMBOL;
}

static void rows_sort(struct rows *rows, const struct merge_list *list, uint32_t merges)
{
	uint32_t left, right, end = 0;
	for (uint32_t rank = 0; rank < merges; rank++)
		if (merge_symbols(list, rank, &left, &right))
			rows->begins[left]++;
	for (uint32_t symbol = 0; symbol < SYMBOLS; symbol++) {
		uint32_t length = rows->begins[symbol];
		rows->next[symbol] = rows->longest[length];
		rows->longest[length] = symbol + 1;
		rows->begins[symbol] = end += length; /* filled from its end */
	}
	rows->begins[SYMBOLS] = end;
	for (uint32_t rank = 0; rank < merges; rank++)
		if (merge_symbols(list, rank, &left, &right)) {
			uint32_t at = --rows->begins[left];
			rows->rights[at] = (uint16_t)right;
			rows->ranks[at] = (uint16_t)rank;
		}
}

static bool row_fits(const struct rows *rows, uint32_t row, uint32_t begin, uint32_t end)
{
	for (uint32_t i = begin; i < end; i++) {
		uint32_t slot = row ^ rows->rights[i];
		if (rows->taken[slot / 64] >> slot % 64 & 1)
			return false;
	}
	return true;
}

static bool row_place(struct merge_small *small, struct rows *rows, uint32_t left)
{
	uint32_t begin = rows->begins[left], end = rows->begins[left + 1], row = left * ROW_FACTOR, tries = 0;
	for (; !row_fits(rows, row % MERGE_SMALL_SLOTS, begin, end); row += ROW_STEP)
		if (++tries == TRIES)
			return false;
	small->rows[left] = row %= MERGE_SMALL_SLOTS;
	for (uint32_t i = begin; i < end; i++) {
		uint32_t slot = row ^ rows->rights[i];
		rows->taken[slot / 64] |= UINT64_C(1) << slot % 64;
		small->slots[slot] = left << 16 | rows->ranks[i];
	}
	return true;
}

/* The longest rows first. False: one finds no place. */
static bool small_fill(struct merge_table *table, struct rows *rows)
{
	/* Nobody's: no left symbol is MERGE_SMALL_EDGE. */
	memset(table->small->slots, 255, sizeof table->small->slots);
	rows_sort(rows, table->list, table->merges);
	for (uint32_t length = table->merges; length > 0; length--)
		for (uint32_t row = rows->longest[length]; row; row = rows->next[row - 1])
			if (!row_place(table->small, rows, row - 1))
				return false;
	return true;
}

static void rank_bytes(struct merge_small *small)
{
	for (uint32_t i = 0; i < BYTES * BYTES; i++) {
		uint8_t bytes[2] = {(uint8_t)(i / BYTES), (uint8_t)i};
		uint16_t pair;
		memcpy(&pair, bytes, sizeof pair);
		small->byte_ranks[pair] = (uint16_t)merge_rank(small, bytes[0], bytes[1]);
	}
}

/* Makes the table small if it can be. */
static enum status small_build(struct merge_table *table, const uint32_t byte_id[BYTES])
{
	struct merge_list *list = table->list;
	struct rows *rows;
	if (!list->unique || table->merges > MERGE_SMALL_RANKS)
		return STATUS_OK;
	for (uint32_t byte = 0; byte < BYTES; byte++) {
		if (list->symbols[byte_id[byte]] != NO_SYMBOL)
			return STATUS_OK;
		list->symbols[byte_id[byte]] = byte;
	}
	TRY(memory_alloc_large((void **)&table->small, SMALL_BYTES, "the merges"));
	memcpy(table->small->ids, byte_id, BYTES * sizeof *byte_id);
	memcpy(table->small->ids + BYTES, list->ids, table->merges * sizeof *list->ids);
	TRY(memory_alloc((void **)&rows, 1, sizeof *rows, "the merges"));
	if (small_fill(table, rows))
		rank_bytes(table->small);
	else
		small_close(table);
	free(rows);
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
