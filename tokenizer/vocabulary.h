/*
 * vocabulary.h: the inside of a struct tokenizer, for this layer's files. Immutable once open.
 */
#ifndef TOKENIZER_VOCABULARY_H
#define TOKENIZER_VOCABULARY_H

#include "tokenizer/merge.h"
#include "tokenizer/tokenizer.h"

enum { VOCABULARY_LIMIT = 1 << 24 }; /* ids */
#define VOCABULARY_EOD_TEXT "<|endoftext|>"

/* tokenizer_hash of GPT-2's own vocabulary, so that one read from files is known by its name. */
#define TOKENIZER_GPT2_HASH_HIGH UINT64_C(0x4ffc66e69466a0ac)
#define TOKENIZER_GPT2_HASH_LOW  UINT64_C(0xaa786ee3dd015530)

struct tokenizer {
	uint32_t vocabulary, eod;
	uint32_t byte_id[256];

	uint8_t *bytes;    /* [offsets[vocabulary]]: the tokens' bytes, in order of id */
	uint32_t *offsets; /* [vocabulary + 1] */

	/* Bytes -> id: open addressing, slots hold id + 1, 0 is free. EOD is not in it. */
	uint32_t *index; /* [index_mask + 1] */
	size_t index_mask;
	/* Merging the token's bytes gives the token: then a word that equals it is this one id, with no
	 * merging. Always so for GPT-2; a vocabulary from files may hold tokens that no merge makes. */
	bool *whole; /* [vocabulary] */

	uint32_t (*merges)[2]; /* [merge_count]: left and right id, in order of rank */
	uint32_t merge_count;
	struct merge_table table;

	/* A bit for each two bytes that stand side by side in some token. Where two others meet in a word, no
	 * merge ever reaches across, and the word may be cut: its parts come to the same ids. */
	uint64_t neighbours[256 * 256 / 64];

	struct word_seed
		*seeds; /* [seed_count]: what an encoder's cache begins with (tokenizer/word_cache.h) */
	size_t seed_count;

	struct hash128 hash;
};

/* Where a word may be cut first, else its length (> 0): see `neighbours`. */
size_t vocabulary_find_cut(const struct tokenizer *tokenizer, const uint8_t *word, size_t length);

/* Merges a word of any length, writing at most `length` ids. */
enum status vocabulary_merge_word(const struct tokenizer *tokenizer, const uint8_t *word, size_t length,
	uint32_t *ids /* [length] */, size_t *count) MUST_USE;

/* Once, when all else is there: finds the seeds by filling an encoder's cache. */
enum status word_seeds_make(struct tokenizer *tokenizer) MUST_USE;

#endif
