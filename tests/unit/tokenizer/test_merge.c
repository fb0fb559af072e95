/* The small table and merging in lanes, against the general table and merging one word at a time. */
#include "tests/unit/tokenizer/vectors_fixture.h"

#include "common/simd.h"
#include "tokenizer/vocabulary.h"

enum { WORDS = 6000 };

struct fixture {
	struct tokenizer *tokenizer;
	struct merge_table general; /* the same merges, and one of no use: symbols are ids */
};

static int set_up(void **state)
{
	struct fixture *fixture = calloc(1, sizeof *fixture);
	assert_int_equal(tokenizer_open_gpt2(&fixture->tokenizer), STATUS_OK);
	const struct tokenizer *tokenizer = fixture->tokenizer;
	uint32_t eod = tokenizer->eod, merges = tokenizer->merge_count;
	assert_int_equal(merge_table_open(&fixture->general, merges + 1, tokenizer->vocabulary), STATUS_OK);
	for (uint32_t rank = 0; rank < merges; rank++)
		assert_true(merge_table_add(&fixture->general, tokenizer->merges[rank][0],
			tokenizer->merges[rank][1], 256 + rank));
	assert_true(
		merge_table_add(&fixture->general, eod, eod, 256)); /* made twice: not for a small table */
	assert_int_equal(merge_table_finish(&fixture->general, tokenizer->byte_id), STATUS_OK);
	assert_null(fixture->general.small);
	*state = fixture;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *fixture = *state;
	merge_table_close(&fixture->general);
	tokenizer_close(fixture->tokenizer);
	free(fixture);
	return 0;
}

static uint32_t random_below(uint32_t limit)
{
	static uint64_t state = 7;
	state = state * UINT64_C(6364136223846793005) + 1442695040888963407;
	return (uint32_t)((state >> 32) % limit);
}

/* Pieces of tokens one after another, runs of few different bytes, or any bytes. */
static uint32_t make_word(const struct tokenizer *tokenizer, uint8_t bytes[MERGE_LANE_READ])
{
	uint32_t length = 1 + random_below(MERGE_LANE), kind = random_below(4), at = 0;
	while (at < MERGE_LANE_READ) {
		uint32_t start = random_below(tokenizer->offsets[tokenizer->vocabulary] - MERGE_LANE_READ);
		uint32_t run = kind < 2 ? 1 + random_below(6) : 1;
		for (; run && at < MERGE_LANE_READ; run--)
			bytes[at++] = kind == 3   ? (uint8_t)random_below(256)
				      : kind == 2 ? (uint8_t)('a' + random_below(2))
						  : tokenizer->bytes[start++];
	}
	return length;
}

static void in_lanes(void **state)
{
	static const struct {
		enum simd_isa needs;
		merge_words *merge;
	} sets[] = {{SIMD_BASE, merge_words_base},
#ifdef __x86_64__
		{SIMD_AVX2, merge_words_avx2}, {SIMD_AVX512, merge_words_avx512}
#endif
	};
	struct fixture *fixture = *state;
	static uint8_t bytes[WORDS][MERGE_LANE_READ];
	static struct merge_word words[WORDS], *all[WORDS];
	assert_non_null(fixture->tokenizer->table.small);
	for (size_t i = 0; i < WORDS; i++) {
		all[i] = &words[i];
		words[i] = (struct merge_word){
			.bytes = bytes[i], .length = make_word(fixture->tokenizer, bytes[i])};
	}
	for (size_t set = 0; set < sizeof sets / sizeof *sets; set++) {
		if (sets[set].needs > simd_isa_get())
			continue;
		for (size_t at = 0, count; at < WORDS; at += count) {
			count = at + MERGE_WORDS < WORDS ? 1 + random_below(MERGE_WORDS) : 1;
			sets[set].merge(&fixture->tokenizer->table, all + at, count);
		}
		for (size_t i = 0; i < WORDS; i++) {
			uint32_t ids[MERGE_LANE];
			size_t count = merge_short(&fixture->general, bytes[i], words[i].length, ids);
			assert_int_equal(words[i].count, count);
			assert_memory_equal(words[i].ids, ids, count * sizeof *ids);
			words[i].count = 0;
		}
	}
}

/* Every merge is found, and no pair of other symbols is. */
static void small_and_general(void **state)
{
	const struct fixture *fixture = *state;
	const struct merge_table *small = &fixture->tokenizer->table, *general = &fixture->general;
	uint32_t merges = fixture->tokenizer->merge_count, symbol_of[TOKENIZER_GPT2_VOCABULARY];
	for (uint32_t symbol = 0; symbol < 256 + merges; symbol++)
		symbol_of[merge_id(small, symbol)] = symbol;
	for (uint32_t i = 0; i < merges + 500000; i++) {
		bool known = i < merges;
		uint32_t left = known ? fixture->tokenizer->merges[i][0] : random_below(256 + merges);
		uint32_t right = known ? fixture->tokenizer->merges[i][1] : random_below(2000);
		merge_value expected = merge_find(general, left, right);
		merge_value found = merge_find(small, symbol_of[left], symbol_of[right]);
		assert_int_equal(found >> 40, expected >> 40);
		if (expected != MERGE_NEVER)
			assert_int_equal(merge_id(small, (uint32_t)(found >> 8)), (uint32_t)(expected >> 8));
	}
	assert_int_equal(merge_rank(small->small, MERGE_SMALL_EDGE, 'e'), MERGE_SMALL_NONE);
	assert_int_equal(merge_rank(small->small, ' ', MERGE_SMALL_EDGE), MERGE_SMALL_NONE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(in_lanes),
		cmocka_unit_test(small_and_general),
	};
	return cmocka_run_group_tests_name("merge", tests, set_up, tear_down);
}
