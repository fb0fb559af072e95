/*
 * long_words.h: the second cache of an encoder: what words came to that the first one
 * (tokenizer/word_cache.h) has no room for, because they are long or have many ids. Bounded: records of the
 * size they need stand one after another in a ring, a new one takes the place of the oldest; an index by hash
 * leads to them. A record holds the word's bytes, so what is found is exact. One thread at a time.
 */
#ifndef TOKENIZER_LONG_WORDS_H
#define TOKENIZER_LONG_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
	LONG_WORD_LIMIT = 256, /* bytes of a word that is kept */
	LONG_BUCKET_BITS = 13,
	LONG_BUCKET = 8, /* entries, a cache line */
	LONG_UNIT = 16,  /* bytes: records begin at multiples of it */
	LONG_INDEX_BYTES = (1 << LONG_BUCKET_BITS) * LONG_BUCKET * 8,
	LONG_RING_BYTES = (4 << 20) - LONG_INDEX_BYTES,
	LONG_SLACK = 64, /* of them at the end: read, never used, where ids are taken several at a time */
	LONG_UNITS = (LONG_RING_BYTES - LONG_SLACK) / LONG_UNIT,
};

/* Of the word and of its ids, which follow as uint16_t or uint32_t; the word's bytes come last. */
struct long_record {
	uint16_t length, count;
};

/* An entry: where a record starts << 16 | 16 bits of the hash. */
struct long_words {
	uint64_t *index;   /* [1 << LONG_BUCKET_BITS][LONG_BUCKET]: entries; 0: free */
	uint8_t *ring;     /* [LONG_RING_BYTES] */
	uint64_t end;      /* units that were ever written or passed over; starts are counted so, from 1 */
	uint32_t id_bytes; /* 2 or 4 */
};

/* `memory`: LONG_INDEX_BYTES + LONG_RING_BYTES, zeroed, aligned to a cache line; the caller's. */
void long_words_init(struct long_words *words, void *memory, uint32_t id_bytes);

/* NULL: not there. Valid until the next long_words_add. */
const struct long_record *long_words_find(
	const struct long_words *words, uint64_t hash, const uint8_t *word, size_t length);

/* length <= LONG_WORD_LIMIT, count <= length. Returns the entry, which long_words_check takes; hash 0: that
 * is the only way to it. */
uint64_t long_words_add(struct long_words *words, uint64_t hash, const uint8_t *word, size_t length,
	const uint32_t *ids, size_t count);

/* NULL: the record is another one's by now. */
const struct long_record *long_words_check(
	const struct long_words *words, uint64_t entry, const uint8_t *word, size_t length);

static inline const void *long_record_ids(const struct long_record *record)
{
	return record + 1;
}

static inline uint64_t *long_bucket(const struct long_words *words, uint64_t hash)
{
	return words->index + (hash >> (64 - LONG_BUCKET_BITS)) * LONG_BUCKET;
}

/* The record that a bucket's entry leads to; NULL: it has been written over. */
static inline struct long_record *long_record_at(const struct long_words *words, uint64_t entry)
{
	uint64_t start = entry >> 16;
	if (start == 0 || words->end - start > LONG_UNITS)
		return NULL;
	return (struct long_record *)(words->ring + start % LONG_UNITS * LONG_UNIT);
}

/* Starts the load of the record that long_words_find would look at; its bucket should be there already. */
static inline void long_words_fetch(const struct long_words *words, uint64_t hash)
{
	const uint64_t *bucket = long_bucket(words, hash);
	for (int i = 0; i < LONG_BUCKET; i++)
		if ((uint16_t)bucket[i] == (uint16_t)hash && bucket[i]) {
			const char *record =
				(const char *)words->ring + (bucket[i] >> 16) % LONG_UNITS * LONG_UNIT;
			__builtin_prefetch(record);
			__builtin_prefetch(record + 64);
			return;
		}
}

static inline uint64_t long_hash_mix(uint64_t low, uint64_t high)
{
	low = (low ^ UINT64_C(0x9E3779B97F4A7C15)) * UINT64_C(0xD6E8FEB86659FD93);
	high = (high ^ UINT64_C(0xE7037ED1A0B428DB)) * UINT64_C(0xA0761D6478BD642F);
	low = (low ^ low >> 32) + (high ^ high >> 29);
	return (low ^ low >> 31) * UINT64_C(0x8EBC6AF09C88C6E3);
}

/* length >= 16 */
static inline uint64_t long_hash(const uint8_t *word, size_t length)
{
	uint64_t parts[2], hash = length;
	for (size_t at = 0; at + 16 < length; at += 16) {
		memcpy(parts, word + at, 16);
		hash = long_hash_mix(hash ^ parts[0], parts[1]);
	}
	memcpy(parts, word + length - 16, 16);
	return long_hash_mix(hash ^ parts[0], parts[1]);
}

#endif
