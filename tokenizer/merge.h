/*
 * merge.h: byte-pair merging of one word: of all neighbouring pairs the one of the lowest rank is joined (the
 * leftmost of equals), until none has a rank. Short words on the stack in n^2 cheap steps, long ones with a
 * heap in n log n.
 */
#ifndef TOKENIZER_MERGE_H
#define TOKENIZER_MERGE_H

#include "common/error.h"

#include <stdint.h>

enum {
	MERGE_NONE = UINT32_MAX,
	MERGE_SHORT = 48,
	MERGE_FILTER_BITS = 3, /* log2 of a slot's */
};

/* What two neighbours join to: rank << 40 | id << 8, so that the lowest goes first; the low byte is free. */
typedef uint64_t merge_value;
#define MERGE_NEVER UINT64_MAX

/*
 * The merges, immutable once all are added: open addressing, at most four fifths full. A slot is one number
 * where ids and ranks fit in 16 bits (left << 48 | right << 32 | rank << 16 | id), else two (left << 32 |
 * right; value); MERGE_NEVER: free. Most pairs that are asked for have no rank; the filter, eight bits a
 * slot, tells so of nine in ten without a look at the slots.
 */
struct merge_table {
	uint64_t *slots;
	uint64_t *filter;
	merge_value *byte_pairs; /* [256][256]: of the ids of single bytes */
	uint32_t byte_id[256];
	uint32_t shift; /* 64 - log2 of the number of slots */
	bool narrow;
};

/* Room for `merges` merges of `vocabulary` ids, both at most 2^24. */
enum status merge_table_open(struct merge_table *table, uint32_t merges, uint32_t vocabulary) MUST_USE;
void merge_table_close(struct merge_table *table);
/* False if the pair has a rank already. */
bool merge_table_add(struct merge_table *table, uint32_t left, uint32_t right, uint32_t rank, uint32_t id);
/* After the last merge: the ids that single bytes have. */
void merge_table_set_bytes(struct merge_table *table, const uint32_t byte_id[256]);

static inline uint64_t merge_hash(uint32_t left, uint32_t right)
{
	uint64_t parts = (uint64_t)left << 32 | right;
	return (parts ^ parts >> 29) * UINT64_C(0x9E3779B97F4A7C15);
}

/* Starts the load that merge_find will wait for if the pair has a rank. */
static inline void merge_fetch(const struct merge_table *table, uint32_t left, uint32_t right)
{
	size_t at = (size_t)(merge_hash(left, right) >> table->shift);
	__builtin_prefetch(&table->slots[table->narrow ? at : 2 * at]);
}

static inline merge_value merge_pack(uint64_t rank, uint64_t id)
{
	return rank << 40 | id << 8;
}

static inline merge_value merge_find(const struct merge_table *table, uint32_t left, uint32_t right)
{
	uint64_t hash = merge_hash(left, right), bit = hash >> (table->shift - MERGE_FILTER_BITS);
	if (!(table->filter[bit / 64] >> bit % 64 & 1))
		return MERGE_NEVER;
	size_t mask = SIZE_MAX >> table->shift, at = (size_t)(hash >> table->shift);
	if (table->narrow) {
		uint64_t slot, parts = (uint64_t)left << 16 | right;
		for (; (slot = table->slots[at]) != MERGE_NEVER; at = (at + 1) & mask)
			if (slot >> 32 == parts)
				return merge_pack(slot >> 16 & UINT16_MAX, slot & UINT16_MAX);
		return MERGE_NEVER;
	}
	uint64_t parts = (uint64_t)left << 32 | right;
	for (; table->slots[2 * at + 1] != MERGE_NEVER; at = (at + 1) & mask)
		if (table->slots[2 * at] == parts)
			return table->slots[2 * at + 1];
	return MERGE_NEVER;
}

/* The ids of a word: its bytes, merged. Returns their number. length <= MERGE_SHORT. */
size_t merge_short(
	const struct merge_table *table, const uint8_t *word, size_t length, uint32_t *ids /* [length] */);

/* The same for any length below 2^32. Scratch memory: 32 bytes for each byte. */
enum status merge_long(const struct merge_table *table, const uint8_t *word, size_t length,
	uint32_t *ids /* [length] */, size_t *count) MUST_USE;

#endif
