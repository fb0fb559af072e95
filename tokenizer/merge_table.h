/*
 * merge_table.h: which two neighbours join to what, and in what order. Immutable once built; any number of
 * threads may ask.
 *
 * What is joined are symbols. Where it can, the table is small: a byte is its own symbol, the merge of rank r
 * makes symbol 256 + r, and a pair is found by two loads, with no branch. It takes at most
 * MERGE_SMALL_RANKS merges, each of which makes a token that no other merge makes; so GPT-2's and nearly all
 * that fit in 16 bits. Else symbols are ids, and pairs are looked for by open addressing.
 */
#ifndef TOKENIZER_MERGE_TABLE_H
#define TOKENIZER_MERGE_TABLE_H

#include "common/error.h"

#include <stdint.h>

enum {
	MERGE_SMALL_NONE = UINT16_MAX,        /* of a small table: no rank */
	MERGE_SMALL_EDGE = UINT16_MAX,        /* a symbol that joins with none */
	MERGE_SMALL_RANKS = UINT16_MAX - 256, /* symbols are below MERGE_SMALL_EDGE */
	MERGE_SMALL_SLOTS =
		1 << 18,       /* in half as many it takes ten times as long to find room for the rows */
	MERGE_FILTER_BITS = 3, /* log2 of a slot's */
};

/* What two neighbours join to: rank << 40 | symbol << 8, so that the lowest goes first; the low byte is free. */
typedef uint64_t merge_value;
#define MERGE_NEVER UINT64_MAX

/*
 * The small table: each symbol that stands left in some pair has a row, and row ^ right is a pair's slot. Rows
 * lie across one another in the one array so that no two pairs meet (Tarjan and Yao 1979, "Storing a sparse
 * table"); a slot says whose it is: left << 16 | rank, so what is found is exact. A left symbol's pairs with
 * letters are in two cache lines, those without a rank too; in a table by hash (tried: half the size, two
 * places for each pair) every pair asked for had lines of its own, and cold tokenizing took 4% longer. (Tried
 * too: the longest rows near one another, to touch fewer lines; it made no difference that could be measured.)
 *
 * The other one is at most four fifths full. A slot is two numbers: left << 32 | right, and what they join to
 * (MERGE_NEVER: free). Most pairs that are asked for have no rank; the filter, eight bits a slot, tells so of
 * nine in ten without a look at the slots.
 */
struct merge_small { /* on a huge page */
	uint32_t slots[MERGE_SMALL_SLOTS];
	uint32_t rows[MERGE_SMALL_EDGE + 1]; /* of left symbols */
	uint32_t ids[MERGE_SMALL_EDGE + 1];  /* of symbols */
	uint16_t byte_ranks[UINT16_MAX + 1]; /* of two bytes of text, read as a number */
};

struct merge_table {
	struct merge_small *small; /* NULL: not a small table */
	uint32_t symbols[256];     /* of bytes */

	uint64_t (*slots)[2]; /* NULL: a small table */
	uint64_t *filter;
	uint32_t shift; /* 64 - log2 of the number of slots */

	uint32_t merges;
	struct merge_list *list; /* of the merges, until merge_table_finish */
};

/* Room for `merges` merges of `vocabulary` ids, both at most 2^24. */
enum status merge_table_open(struct merge_table *table, uint32_t merges, uint32_t vocabulary) MUST_USE;
void merge_table_close(struct merge_table *table);
/* The next rank's. False if the pair has a rank already. */
bool merge_table_add(struct merge_table *table, uint32_t left, uint32_t right, uint32_t id);
/* After the last merge: the ids that single bytes have. Only now can the table be asked. */
enum status merge_table_finish(struct merge_table *table, const uint32_t byte_id[256]) MUST_USE;

/* Of a small table; MERGE_SMALL_NONE: they do not join. */
static inline uint32_t merge_rank(const struct merge_small *small, uint32_t left, uint32_t right)
{
	uint32_t rank = small->slots[small->rows[left] ^ right] ^ left << 16, none = MERGE_SMALL_NONE;
	return rank < none ? rank : none; /* below 2^16 if the slot is the pair's */
}

static inline merge_value merge_pack(uint64_t rank, uint64_t symbol)
{
	return rank << 40 | symbol << 8;
}

static inline uint64_t merge_hash(uint32_t left, uint32_t right)
{
	uint64_t parts = (uint64_t)left << 32 | right;
	return (parts ^ parts >> 29) * UINT64_C(0x9E3779B97F4A7C15);
}

static inline merge_value merge_find(const struct merge_table *table, uint32_t left, uint32_t right)
{
	if (table->small) {
		uint32_t rank = merge_rank(table->small, left, right);
		return rank == MERGE_SMALL_NONE ? MERGE_NEVER : merge_pack(rank, 256 + rank);
	}
	uint64_t hash = merge_hash(left, right), bit = hash >> (table->shift - MERGE_FILTER_BITS);
	if (!(table->filter[bit / 64] >> bit % 64 & 1))
		return MERGE_NEVER;
	uint64_t parts = (uint64_t)left << 32 | right;
	size_t mask = SIZE_MAX >> table->shift, at = (size_t)(hash >> table->shift);
	for (; table->slots[at][1] != MERGE_NEVER; at = (at + 1) & mask)
		if (table->slots[at][0] == parts)
			return table->slots[at][1];
	return MERGE_NEVER;
}

static inline uint32_t merge_id(const struct merge_table *table, uint32_t symbol)
{
	return table->small ? table->small->ids[symbol] : symbol;
}

#endif
