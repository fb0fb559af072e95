/*
 * word_cache.h: an encoder's inside, shared by encoder.c and the loop over words
 * (tokenizer/simd/encode_words.c).
 *
 * What words came to is remembered. A word of at most 15 bytes and few ids has a slot of 32 bytes, two to a
 * cache line, in a table that begins with the vocabulary's own tokens in it: on English nine words in ten are
 * one token, so even a new encoder seldom has to merge. A new word takes the first place of its line and
 * pushes the old first one to the second, and the second to one of the three lines beside if there is room;
 * when it is found there, it comes back to the first place. What is small is soon ready, so the table grows,
 * once, when as many words have come as it has lines. (Tried: by doubling; warm passes took 3% longer, as fewer
 * lines had room for all their words, and what had many words moved twice.) Every other word is in
 * tokenizer/long_words.h; a word of at most 15 bytes that is there has a slot with a marked key that says
 * where.
 *
 * A word of at most 15 bytes that is not in its line is put off: the loop goes on without it, and when there
 * are LATE of them, or LATE_BYTES of text, they are merged side by side (tokenizer/merge.h) and the ids that
 * were written meanwhile move to make room for theirs. Tried before: merging each when its turn comes, together
 * with those that a look at the next words finds; the looks cost as much as they gained, and few words came
 * together.
 *
 * Where every id fits in 16 bits (vocabularies up to 65,536) slots hold 16-bit ids, else 32-bit ones and
 * fewer.
 */
#ifndef TOKENIZER_WORD_CACHE_H
#define TOKENIZER_WORD_CACHE_H

#include "tokenizer/long_words.h"
#include "tokenizer/merge.h"
#include "tokenizer/vocabulary.h"
#include "tokenizer/words.h"

#include <string.h>

enum {
	KEY_BYTES = 16,
	SLOT_NARROW = 7, /* ids a slot can hold */
	SLOT_WIDE = 3,
	CACHE_BITS_FIRST = 16, /* log2 of the lines */
	CACHE_BITS_MOST = 18,
	BATCH = 64,         /* words whose lines are asked for together */
	LATE = MERGE_WORDS, /* words that are put off */
	LATE_BYTES = 32768, /* what is moved for them is near the processor still */
};

/* A word's bytes, and its length in all the bytes that are left (the last one at least): no two words share
 * one, and none is all zero, which is an empty slot's. */
struct word_key {
	uint64_t low, high;
};
#define KEY_MARK UINT64_C(0x8000000000000000) /* in `high`: the word's ids are in the long words */
#define KEY_LONG UINT64_MAX                   /* `high` of a longer word; `low` is its long_hash */

struct cache_slot {
	struct word_key key;
	union {
		uint16_t narrow[SLOT_NARROW + 1];
		uint32_t wide[SLOT_WIDE + 1];
		uint64_t entry; /* of a marked key */
	} ids;                  /* the last is how many there are */
};

struct cache_line {
	struct cache_slot slots[2];
};

/* A token that stands in the table from the start. */
struct word_seed {
	struct word_key key;
	uint32_t id, place; /* place: slots from the table's begin */
};

/* A word of less than KEY_BYTES, or a piece of a longer one, and what it comes to. */
struct piece {
	struct word_key key;
	struct cache_line *line;
	const uint8_t *text;
	void *out; /* of a word that is put off: where its ids go, but for those of others before it */
	struct merge_word word; /* its bytes are the key's */
};

struct encoder {
	const struct tokenizer *tokenizer;
	bool narrow;              /* slots hold 16-bit ids */
	uint32_t shift;           /* 64 - log2 of the lines */
	size_t used;              /* slots that were filled since the table has this size */
	struct cache_line *cache; /* [lines] */
	struct long_words longs;
	uint32_t *ids; /* [id_capacity]: of one word */
	size_t id_capacity;
	uint16_t bounds[1 + WORDS_ROOM + BATCH]; /* 0, then where words end; room to read a whole batch */
	struct piece late[LATE];
	size_t late_count;
};

/* Up to BATCH words: their keys, and the lines that short ones have. */
struct word_batch {
	struct word_key keys[BATCH] __attribute__((aligned(64)));
	struct cache_line *lines[BATCH] __attribute__((aligned(64)));
	const uint16_t *bounds; /* [count + 1] */
	size_t count;
};

/* One call's text and output. */
struct encode_run {
	struct encoder *encoder;
	const uint8_t *text,
		*fast_end; /* for words that end up to here, 16 bytes may be read and 8 ids written */
	void *out;         /* uint16_t or uint32_t */
	bool narrow_out;
};

/* The words between `bounds`, counted from run->text; named by what slots hold and what is written. What stands behind
 * them may be read, and means nothing. */
typedef enum status encode_words(
	struct encode_run *run, const uint16_t *bounds /* [count + 1 + BATCH] */, size_t count);
encode_words encode_words_16_16_base, encode_words_16_16_avx2, encode_words_16_16_avx512;
encode_words encode_words_16_32_base, encode_words_16_32_avx2, encode_words_16_32_avx512;
encode_words encode_words_32_32_base, encode_words_32_32_avx2, encode_words_32_32_avx512;

/* Writes the ids of a batch's word that is not in its line, or puts it off. */
enum status encoder_add_word(struct encode_run *run, const struct word_batch *batch, size_t i) MUST_USE;

/* Reads KEY_BYTES at `word` unless `careful`. Of a longer word: its first bytes. */
static inline struct word_key word_key_read(const uint8_t *word, size_t length, bool careful)
{
	static const uint8_t window[2 * KEY_BYTES] = {
		255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255};
	struct word_key key = {0, 0}, mask;
	size_t inside = length < KEY_BYTES ? length : KEY_BYTES;
	uint64_t lengths = (uint64_t)inside * UINT64_C(0x0101010101010101);
	memcpy(&mask, window + KEY_BYTES - inside, KEY_BYTES);
	memcpy(&key, word, careful ? inside : KEY_BYTES);
	key.low = (key.low & mask.low) | (lengths & ~mask.low);
	key.high = (key.high & mask.high) | (lengths & ~mask.high);
	return key;
}

#define KEY_FACTOR_LOW  UINT64_C(0x9E3779B97F4A7C15)
#define KEY_FACTOR_HIGH UINT64_C(0xD6E8FEB86659FD93)

static inline size_t word_key_line(struct word_key key, uint32_t shift)
{
	return (size_t)((key.low * KEY_FACTOR_LOW + key.high * KEY_FACTOR_HIGH) >> shift);
}

#endif
