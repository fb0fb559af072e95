/*
 * merge.h: byte-pair merging of one word: of all neighbouring pairs the one of the lowest rank is joined (the
 * leftmost of equals), until none has a rank. Short words on the stack in n^2 cheap steps, long ones with a
 * heap in n log n.
 */
#ifndef TOKENIZER_MERGE_H
#define TOKENIZER_MERGE_H

#include "common/error.h"

#include <stdint.h>

enum { MERGE_NONE = UINT32_MAX, MERGE_SHORT = 48 };

struct merge_pair {
	uint64_t parts; /* left id << 32 | right id */
	uint32_t rank;  /* MERGE_NONE: the slot is free */
	uint32_t id;    /* what they join to */
};

/* The merges, immutable once all are added: open addressing, at most half full. */
struct merge_table {
	struct merge_pair *slots;
	uint32_t shift; /* 64 - log2 of the number of slots */
};

/* Room for `merges` merges. */
enum status merge_table_open(struct merge_table *table, uint32_t merges) MUST_USE;
void merge_table_close(struct merge_table *table);
/* False if the pair has a rank already. */
bool merge_table_add(struct merge_table *table, uint32_t left, uint32_t right, uint32_t rank, uint32_t id);

static inline uint64_t merge_parts(uint32_t left, uint32_t right)
{
	return (uint64_t)left << 32 | right;
}

static inline size_t merge_slot(const struct merge_table *table, uint64_t parts)
{
	return (size_t)((parts ^ parts >> 29) * UINT64_C(0x9E3779B97F4A7C15) >> table->shift);
}

/* The pair's slot, or one whose rank is MERGE_NONE. */
static inline const struct merge_pair *merge_find(
	const struct merge_table *table, uint32_t left, uint32_t right)
{
	uint64_t parts = merge_parts(left, right);
	size_t mask = (SIZE_MAX >> table->shift), at = merge_slot(table, parts);
	while (table->slots[at].parts != parts && table->slots[at].rank != MERGE_NONE)
		at = (at + 1) & mask;
	return &table->slots[at];
}

/* Joins ids[0..count), the ids of a word's bytes, in place; returns how many are left. count <= MERGE_SHORT.
 */
size_t merge_short(const struct merge_table *table, uint32_t *ids, size_t count);

/* The same for any length below 2^32. Scratch memory: 32 bytes for each id. */
enum status merge_long(const struct merge_table *table, uint32_t *ids, size_t *count) MUST_USE;

#endif
