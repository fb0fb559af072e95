/*
 * bpe_trainer.h: learns the merges of a byte-level BPE from text.
 *
 * First words are counted: each thread has a word_counter and gives it texts; the counters are then joined.
 * Words are those of GPT-2's split pattern (tokenizer/words.h), and a word of more than 1,024 bytes counts as
 * pieces of that size, so that no word takes quadratic time. Then bpe_train joins, again and again, the pair
 * of neighbours that occurs most often, counted over all words; of equally frequent pairs the one whose left
 * id is smaller, then whose right id is. Ids are those that the tokenizer will have: the bytes in GPT-2's
 * order, then each merge's token. That is Hugging Face's rule too (BpeTrainer). A pair that spells a token
 * which is there already is passed over. The result depends on the texts alone, not on their order, or on who
 * counted which.
 *
 * Memory: about 60 bytes and its own for each different word, and some 24 bytes for each of its bytes while
 * merges are found. Counts are 64 bits wide.
 *
 * Source of the algorithm: Sennrich et al. 2016; the incremental counts and the heap with stale entries are
 * folklore (a pair's count only falls once both of its tokens are there).
 */
#ifndef TOKENIZER_BPE_TRAINER_H
#define TOKENIZER_BPE_TRAINER_H

#include "common/error.h"

#include <stdint.h>

struct word_counter;

/* One thread's. */
enum status word_counter_open(struct word_counter **out) MUST_USE;
void word_counter_close(struct word_counter *counter); /* NULL is fine */
/* The words of a document; valid UTF-8. */
enum status word_counter_add(struct word_counter *counter, const char *text, size_t bytes) MUST_USE;
/* Adds what `from` has counted. */
enum status word_counter_join(struct word_counter *into, const struct word_counter *from) MUST_USE;
uint64_t word_counter_distinct(const struct word_counter *counter);

struct bpe_merges {
	char *text; /* [bytes], malloc'ed: merges.txt, its version line first */
	size_t bytes;
	uint32_t count;
};

/*
 * At most `most` merges, fewer when no pair is left that occurs at least `least_count` times. `progress` (may
 * be NULL) gets merges done; returning false stops with STATUS_INTERRUPTED. The counter is only read.
 */
typedef bool bpe_progress(void *user, uint32_t merges);
enum status bpe_train(const struct word_counter *counter, uint32_t most, uint64_t least_count,
	bpe_progress *progress, void *user, struct bpe_merges *out) MUST_USE;

#endif
