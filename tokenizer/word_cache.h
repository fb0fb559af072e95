/*
 * word_cache.h: an encoder's inside, shared by encoder.c and the loop over words
 * (tokenizer/simd/encode_words.c).
 *
 * Two caches of fixed size remember what words came to. The first holds words of at most 15 bytes and few ids
 * in slots of 32 bytes, two to a cache line, and begins with the vocabulary's own tokens in it: on English
 * nine words in ten are one token, so even a new encoder seldom has to merge. A new word takes the first
 * place of its line and pushes the old first one to the second. What does not fit there, up to 48 bytes, has
 * a second cache of the same kind with larger slots.
 *
 * Where every id fits in 16 bits (vocabularies up to 65,536) slots hold 16-bit ids, else 32-bit ones and
 * fewer.
 */
#ifndef TOKENIZER_WORD_CACHE_H
#define TOKENIZER_WORD_CACHE_H

#include "tokenizer/vocabulary.h"
#include "tokenizer/words.h"

#include <string.h>

enum {
	KEY_BYTES = 16,
	SLOT_NARROW = 7, /* ids a slot can hold */
	SLOT_WIDE = 3,
	CACHE_BITS = 18,
	CACHE_LINES = 1 << CACHE_BITS,
	LONG_KEY_BYTES = 48,
	LONG_NARROW = 38,
	LONG_WIDE = 19,
	LONG_BITS = 14,
	LONG_LINES = 1 << LONG_BITS,
};

/* A word's bytes, and its length in all the bytes that are left (the last one at least): no two words share
 * one, and none is all zero, which is an empty slot's. */
struct word_key {
	uint64_t low, high;
};

struct cache_slot {
	struct word_key key;
	union {
		uint16_t narrow[SLOT_NARROW + 1];
		uint32_t wide[SLOT_WIDE + 1];
	} ids; /* the last is how many there are */
};

struct cache_line {
	struct cache_slot slots[2];
};

/* The word's first, second and last 16 bytes, which may overlap: with the length they tell all of it. */
struct long_key {
	struct word_key parts[LONG_KEY_BYTES / KEY_BYTES];
};

struct long_slot {
	struct long_key key;
	union {
		uint16_t narrow[LONG_NARROW + 2];
		uint32_t wide[LONG_WIDE + 1];
		struct {
			uint16_t beyond[LONG_NARROW]; /* the ids */
			uint16_t length, count;       /* of the word, of the ids */
		};
	} ids;
};

struct long_line {
	struct long_slot slots[2];
};

struct encoder {
	const struct tokenizer *tokenizer;
	bool narrow;              /* slots hold 16-bit ids */
	struct cache_line *cache; /* [CACHE_LINES] */
	struct long_line *longs;  /* [LONG_LINES], behind the cache in the same block */
	uint32_t *ids;            /* [id_capacity]: of one word */
	size_t id_capacity;
	uint16_t ends[WORDS_ROOM];
};

/* One call's text and output. */
struct encode_run {
	struct encoder *encoder;
	const uint8_t *text,
		*fast_end; /* for words that end up to here, 16 bytes may be read and 8 ids written */
	void *out;         /* uint16_t or uint32_t */
	bool narrow_out;
};

/* The encode_words functions below by what slots hold and what is written. */
typedef enum status encode_words(struct encode_run *run, const uint16_t *ends, size_t count);
encode_words encode_words_16_16_base, encode_words_16_16_avx2, encode_words_16_16_avx512;
encode_words encode_words_16_32_base, encode_words_16_32_avx2, encode_words_16_32_avx512;
encode_words encode_words_32_32_base, encode_words_32_32_avx2, encode_words_32_32_avx512;

/* A word that is not in the first cache, whose line it would have (NULL: it is too long): writes its ids. */
enum status encoder_add_word(
	struct encode_run *run, const uint8_t *word, size_t length, struct cache_line *line) MUST_USE;

/* length < KEY_BYTES. Reads KEY_BYTES at `word` unless `careful`. */
static inline struct word_key word_key_read(const uint8_t *word, size_t length, bool careful)
{
	static const uint8_t window[2 * KEY_BYTES] = {
		255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255};
	struct word_key key = {0, 0}, mask;
	uint64_t lengths = (uint64_t)length * UINT64_C(0x0101010101010101);
	memcpy(&mask, window + KEY_BYTES - length, KEY_BYTES);
	memcpy(&key, word, careful ? length : KEY_BYTES);
	key.low = (key.low & mask.low) | (lengths & ~mask.low);
	key.high = (key.high & mask.high) | (lengths & ~mask.high);
	return key;
}

static inline size_t word_key_line(struct word_key key)
{
	uint64_t mixed = key.low * UINT64_C(0x9E3779B97F4A7C15) + key.high * UINT64_C(0xD6E8FEB86659FD93);
	return (size_t)(mixed >> (64 - CACHE_BITS));
}

/* KEY_BYTES <= length <= LONG_KEY_BYTES */
static inline struct long_key long_key_read(const uint8_t *word, size_t length)
{
	struct long_key key;
	size_t middle = length - KEY_BYTES < KEY_BYTES ? length - KEY_BYTES : KEY_BYTES;
	memcpy(&key.parts[0], word, KEY_BYTES);
	memcpy(&key.parts[1], word + middle, KEY_BYTES);
	memcpy(&key.parts[2], word + length - KEY_BYTES, KEY_BYTES);
	return key;
}

static inline size_t long_key_line(const struct long_key *key)
{
	uint64_t mixed = key->parts[0].low * UINT64_C(0x9E3779B97F4A7C15) +
			 key->parts[0].high * UINT64_C(0xD6E8FEB86659FD93);
	mixed = (mixed ^ mixed >> 32) * UINT64_C(0xC2B2AE3D27D4EB4F);
	mixed += key->parts[1].low * UINT64_C(0x9FB21C651E98DF25) +
		 key->parts[1].high * UINT64_C(0xE7037ED1A0B428DB);
	mixed = (mixed ^ mixed >> 32) * UINT64_C(0xA0761D6478BD642F);
	mixed += key->parts[2].low * UINT64_C(0x8EBC6AF09C88C6E3) +
		 key->parts[2].high * UINT64_C(0x589965CC75374CC3);
	return (size_t)((mixed ^ mixed >> 32) * UINT64_C(0x1D8E4E27C47D124F) >> (64 - LONG_BITS));
}

#endif
