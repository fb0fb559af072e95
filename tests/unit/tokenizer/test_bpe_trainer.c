/*
 * bpe_train against a naive trainer in this file, which counts every pair of every word anew for each merge.
 */
#include "tokenizer/bpe_trainer.h"

#include "common/memory.h"
#include "tokenizer/letters.h"
#include "tokenizer/words.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static uint32_t below(uint32_t *seed, uint32_t n)
{
	*seed = *seed * 1664525 + 1013904223;
	return (uint32_t)(((uint64_t)*seed * n) >> 32);
}

/* ---- the naive trainer ---- */

enum { MOST_WORDS = 20000, MOST_TOKENS = 700, LONGEST = 1024 };

struct naive_word {
	uint32_t ids[LONGEST];
	size_t length;
};

struct naive {
	struct naive_word *words; /* each occurrence by itself */
	size_t word_count;
	char tokens[MOST_TOKENS][LONGEST + 1];
	size_t lengths[MOST_TOKENS];
	uint32_t token_count;
	uint64_t *counts; /* [MOST_TOKENS][MOST_TOKENS] */
	char text[1 << 16];
	size_t text_bytes;
};

static struct naive *naive_open(void)
{
	struct naive *naive = calloc(1, sizeof *naive);
	naive->words = malloc(MOST_WORDS * sizeof *naive->words);
	naive->counts = malloc(MOST_TOKENS * MOST_TOKENS * 8);
	uint8_t order[256];
	letters_byte_order(order);
	for (; naive->token_count < 256; naive->token_count++) {
		naive->tokens[naive->token_count][0] = (char)order[naive->token_count];
		naive->lengths[naive->token_count] = 1;
	}
	naive->text_bytes = (size_t)sprintf(naive->text, "#version: 0.2\n");
	return naive;
}

static void naive_close(struct naive *naive)
{
	free(naive->words);
	free(naive->counts);
	free(naive);
}

static void naive_add(struct naive *naive, const char *text, size_t bytes)
{
	while (bytes) {
		size_t length = word_end((const uint8_t *)text, bytes);
		for (size_t at = 0; at < length; at += LONGEST) {
			assert_true(naive->word_count < MOST_WORDS);
			struct naive_word *word = &naive->words[naive->word_count++];
			word->length = length - at < LONGEST ? length - at : LONGEST;
			for (size_t i = 0; i < word->length; i++)
				for (word->ids[i] = 0; naive->tokens[word->ids[i]][0] != text[at + i];)
					word->ids[i]++;
		}
		text += length;
		bytes -= length;
	}
}

static void naive_put(struct naive *naive, uint32_t token, char after)
{
	naive->text_bytes += letters_write((const uint8_t *)naive->tokens[token], naive->lengths[token],
		naive->text + naive->text_bytes);
	naive->text[naive->text_bytes++] = after;
}

/* False when no pair occurs so often. */
static bool naive_merge(struct naive *naive, uint64_t least_count)
{
	uint32_t best_left = 0, best_right = 0, n = naive->token_count;
	uint64_t best = 0;
	memset(naive->counts, 0, MOST_TOKENS * MOST_TOKENS * 8);
	for (size_t w = 0; w < naive->word_count; w++)
		for (size_t i = 1; i < naive->words[w].length; i++)
			naive->counts[naive->words[w].ids[i - 1] * MOST_TOKENS + naive->words[w].ids[i]]++;
	for (uint32_t left = 0; left < n; left++)
		for (uint32_t right = 0; right < n; right++)
			if (naive->counts[left * MOST_TOKENS + right] > best) {
				best = naive->counts[left * MOST_TOKENS + right];
				best_left = left;
				best_right = right;
			}
	if (best < least_count || best == 0)
		return false;
	naive_put(naive, best_left, ' ');
	naive_put(naive, best_right, '\n');
	naive->lengths[n] = naive->lengths[best_left] + naive->lengths[best_right];
	memcpy(naive->tokens[n], naive->tokens[best_left], naive->lengths[best_left]);
	memcpy(naive->tokens[n] + naive->lengths[best_left], naive->tokens[best_right],
		naive->lengths[best_right]);
	for (uint32_t i = 0; i < n; i++) /* none is made twice (so the rule for that never speaks) */
		assert_false(naive->lengths[i] == naive->lengths[n] &&
			     memcmp(naive->tokens[i], naive->tokens[n], naive->lengths[n]) == 0);
	naive->token_count++;
	for (size_t w = 0; w < naive->word_count; w++) {
		struct naive_word *word = &naive->words[w];
		size_t to = 0;
		for (size_t i = 0; i < word->length; i++)
			if (i + 1 < word->length && word->ids[i] == best_left &&
				word->ids[i + 1] == best_right) {
				word->ids[to++] = n;
				i++;
			} else {
				word->ids[to++] = word->ids[i];
			}
		word->length = to;
	}
	return true;
}

/* ---- the tests ---- */

/* Words of few letters, so that pairs overlap and counts are often equal. */
static size_t make_text(uint32_t *seed, uint32_t letters, size_t most, char *text)
{
	static const char *const rare[] = {
		" ", " ", "\n", "'s", " 12", "\xC3\xA9", "\xE6\x97\xA5", ".", "  "};
	size_t bytes = 0;
	while (bytes + 8 < most) {
		if (below(seed, 5) == 0)
			bytes += (size_t)sprintf(text + bytes, "%s", rare[below(seed, 9)]);
		else
			text[bytes++] = (char)('a' + below(seed, 1 + below(seed, letters)));
	}
	text[bytes] = 0;
	return bytes;
}

static void equal_to_the_naive_trainer(void **state)
{
	(void)state;
	static const uint32_t alphabets[] = {1, 2, 3, 26};
	for (uint32_t seed = 1; seed <= 16; seed++) {
		struct naive *naive = naive_open();
		struct word_counter *counters[3], *all;
		uint32_t random = seed * 77, most = 20 + below(&random, 150);
		uint64_t least = 1 + below(&random, 4);
		char *text = malloc(4096);
		assert_int_equal(word_counter_open(&all), STATUS_OK);
		for (int i = 0; i < 3; i++)
			assert_int_equal(word_counter_open(&counters[i]), STATUS_OK);
		for (int document = 0; document < 6; document++) {
			size_t bytes =
				make_text(&random, alphabets[seed % 4], 10 + below(&random, 1500), text);
			/* One long word, which counts in pieces. */
			if (document == 5 && seed % 3 == 0) {
				for (bytes = 0; bytes < 2500; bytes++)
					text[bytes] = (char)('a' + below(&random, 2));
			}
			naive_add(naive, text, bytes);
			assert_int_equal(
				word_counter_add(counters[below(&random, 3)], text, bytes), STATUS_OK);
		}
		for (int i = 0; i < 3; i++)
			assert_int_equal(word_counter_join(all, counters[(i + seed) % 3]), STATUS_OK);
		uint32_t made = 0;
		while (made < most && naive_merge(naive, least))
			made++;
		struct bpe_merges merges;
		if (bpe_train(all, most, least, NULL, NULL, &merges) != STATUS_OK)
			fail_msg("%s", error_message());
		assert_int_equal(merges.count, made);
		if (merges.bytes != naive->text_bytes ||
			memcmp(merges.text, naive->text, merges.bytes) != 0) {
			size_t at = 0;
			while (merges.text[at] == naive->text[at])
				at++;
			fail_msg("seed %u: the merges differ at byte %zu of %zu", seed, at, merges.bytes);
		}
		free(merges.text);
		for (int i = 0; i < 3; i++)
			word_counter_close(counters[i]);
		word_counter_close(all);
		free(text);
		naive_close(naive);
	}
}

/* From Sennrich et al. 2016's example, by hand: low x5, lower x2, newest x6, widest x3. */
static void the_papers_example(void **state)
{
	(void)state;
	static const char *const words[] = {"low", "lower", "newest", "widest"};
	static const int counts[] = {5, 2, 6, 3};
	struct word_counter *counter;
	struct bpe_merges merges;
	assert_int_equal(word_counter_open(&counter), STATUS_OK);
	for (int i = 0; i < 4; i++)
		for (int j = 0; j < counts[i]; j++)
			assert_int_equal(word_counter_add(counter, words[i], strlen(words[i])), STATUS_OK);
	assert_int_equal(word_counter_distinct(counter), 4);
	assert_int_equal(bpe_train(counter, 4, 1, NULL, NULL, &merges), STATUS_OK);
	assert_int_equal(merges.count, 4);
	/* es 9, est 9 (e s before s t: smaller ids), lo 7 and ow 7: lo first. */
	static const char expected[] = "#version: 0.2\ne s\nes t\nl o\nlo w\n";
	assert_int_equal(merges.bytes, sizeof expected - 1);
	assert_memory_equal(merges.text, expected, sizeof expected - 1);
	free(merges.text);
	/* A word that comes 2^33 times: counts are 64 bits wide. */
	for (int i = 0; i < 33; i++) {
		struct word_counter *copy;
		assert_int_equal(word_counter_open(&copy), STATUS_OK);
		assert_int_equal(word_counter_join(copy, counter), STATUS_OK);
		assert_int_equal(word_counter_join(counter, copy), STATUS_OK);
		word_counter_close(copy);
	}
	assert_int_equal(bpe_train(counter, 100, UINT64_C(9) << 33, NULL, NULL, &merges), STATUS_OK);
	assert_int_equal(merges.count, 2);
	free(merges.text);
	word_counter_close(counter);
}

static bool stop(void *user, uint32_t merges)
{
	(void)user;
	return merges < 60;
}

static void little_and_nothing(void **state)
{
	(void)state;
	struct word_counter *counter;
	struct bpe_merges merges;
	assert_int_equal(word_counter_open(&counter), STATUS_OK);
	assert_int_equal(bpe_train(counter, 10, 1, NULL, NULL, &merges), STATUS_OK);
	assert_int_equal(merges.count, 0);
	assert_int_equal(merges.bytes, 14);
	free(merges.text);
	assert_int_equal(word_counter_add(counter, "a b", 3), STATUS_OK);
	assert_int_equal(bpe_train(counter, 10, 1, NULL, NULL, &merges), STATUS_OK);
	assert_int_equal(merges.count, 1);
	free(merges.text);
	char text[3000];
	uint32_t seed = 5;
	size_t bytes = make_text(&seed, 26, sizeof text, text);
	assert_int_equal(word_counter_add(counter, text, bytes), STATUS_OK);
	assert_int_equal(bpe_train(counter, 1000, 1, stop, NULL, &merges), STATUS_INTERRUPTED);
	word_counter_close(counter);
}

static enum status count_and_train(const char *text, size_t bytes, struct bpe_merges *merges)
{
	struct word_counter *counter = NULL;
	enum status status = word_counter_open(&counter);
	if (status != STATUS_OK)
		return status;
	status = word_counter_add(counter, text, bytes);
	if (status == STATUS_OK)
		status = bpe_train(counter, 200, 1, NULL, NULL, merges);
	word_counter_close(counter);
	return status;
}

static void survives_lack_of_memory(void **state)
{
	(void)state;
	char text[3000];
	uint32_t seed = 6;
	size_t bytes = make_text(&seed, 26, sizeof text, text);
	struct bpe_merges merges;
	enum status status = STATUS_MEMORY;
	for (int n = 0; status != STATUS_OK; n += 1 + n / 40) {
		memory_fail_after(n);
		status = count_and_train(text, bytes, &merges);
		memory_fail_after(-1);
		assert_true(status == STATUS_OK || status == STATUS_MEMORY);
		assert_true(n < 100000);
	}
	free(merges.text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(equal_to_the_naive_trainer),
		cmocka_unit_test(the_papers_example),
		cmocka_unit_test(little_and_nothing),
		cmocka_unit_test(survives_lack_of_memory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
