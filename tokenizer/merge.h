/*
 * merge.h: byte-pair merging of words: of all neighbouring pairs the one of the lowest rank is joined (the
 * leftmost of equals), until none has a rank. Short words on the stack in n^2 cheap steps, long ones with a
 * heap in n log n. Several words of at most MERGE_LANE bytes can be merged at once, where the table is small,
 * side by side in vectors: a third of the time that they take one after another.
 */
#ifndef TOKENIZER_MERGE_H
#define TOKENIZER_MERGE_H

#include "tokenizer/merge_table.h"

enum {
	MERGE_NONE = UINT32_MAX,
	MERGE_SHORT = 48,
	MERGE_LANE = 15,
	MERGE_WORDS = 64,     /* at most, at once */
	MERGE_LANE_READ = 16, /* bytes that are read, whatever the word's length */
};

/* The ids of a word: its bytes, merged. Returns their number. length <= MERGE_SHORT. */
size_t merge_short(
	const struct merge_table *table, const uint8_t *word, size_t length, uint32_t *ids /* [length] */);

/* The same for any length below 2^32. Scratch memory: 32 bytes for each byte. */
enum status merge_long(const struct merge_table *table, const uint8_t *word, size_t length,
	uint32_t *ids /* [length] */, size_t *count) MUST_USE;

/* One of several words, and what it came to. */
struct merge_word {
	const uint8_t *bytes; /* [MERGE_LANE_READ] */
	uint32_t length, count;
	uint32_t ids[MERGE_LANE + 1]; /* one more than there can be */
};
/* The same for each of them, in any order; count <= MERGE_WORDS; table->small
 * (tokenizer/simd/merge_words.c). */
typedef void merge_words(const struct merge_table *table, struct merge_word *const *words, size_t count);
merge_words merge_words_base, merge_words_avx2, merge_words_avx512;

#endif
