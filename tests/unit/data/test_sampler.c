#include "data/sampler.h"
#include "tests/unit/data/corpus_fixture.h"

#include <stdlib.h>

/* Printed by tests/golden/sampler.py, which was written from the header. The order of training is part of the
 * format: these values never change. */
static void golden_values(void **state)
{
	(void)state;
	static const struct {
		uint64_t count, key, image[10];
	} permutations[] = {
		{UINT64_C(1), UINT64_C(0),
			{UINT64_C(0), UINT64_C(0), UINT64_C(0), UINT64_C(0), UINT64_C(0), UINT64_C(0),
				UINT64_C(0), UINT64_C(0), UINT64_C(0), UINT64_C(0)}},
		{UINT64_C(2), UINT64_C(1),
			{UINT64_C(0), UINT64_C(1), UINT64_C(0), UINT64_C(1), UINT64_C(0), UINT64_C(1),
				UINT64_C(0), UINT64_C(1), UINT64_C(0), UINT64_C(1)}},
		{UINT64_C(10), UINT64_C(42),
			{UINT64_C(3), UINT64_C(5), UINT64_C(2), UINT64_C(6), UINT64_C(4), UINT64_C(9),
				UINT64_C(0), UINT64_C(7), UINT64_C(8), UINT64_C(1)}},
		{UINT64_C(1000), UINT64_C(7),
			{UINT64_C(918), UINT64_C(795), UINT64_C(10), UINT64_C(536), UINT64_C(893),
				UINT64_C(548), UINT64_C(790), UINT64_C(183), UINT64_C(729), UINT64_C(774)}},
		{UINT64_C(1099511627777), UINT64_C(81985529216486895),
			{UINT64_C(549780770682), UINT64_C(453030243528), UINT64_C(886699285644),
				UINT64_C(865355846543), UINT64_C(769207099495), UINT64_C(474127496234),
				UINT64_C(930375037766), UINT64_C(829073334675), UINT64_C(1058156962700),
				UINT64_C(808000972475)}},
	};
	for (size_t i = 0; i < sizeof permutations / sizeof *permutations; i++) {
		uint64_t count = permutations[i].count, step = count / 10 ? count / 10 : 1;
		for (uint64_t j = 0; j < 10; j++)
			assert_true(sampler_permute(j * step % count, count, permutations[i].key) ==
				    permutations[i].image[j]);
	}
	static const struct {
		uint64_t tokens, first_token;
		int part;
		uint64_t window_tokens, seed, ordinal, epoch, at;
	} windows[] = {{1025, UINT64_C(0), 0, 1024, 1234, 0, 0, UINT64_C(0)},
		{1025, UINT64_C(0), 0, 1024, 1234, 1, 1, UINT64_C(0)},
		{1025, UINT64_C(0), 0, 1024, 1234, 2, 2, UINT64_C(0)},
		{1025, UINT64_C(0), 0, 1024, 1234, 10, 10, UINT64_C(0)},
		{1025, UINT64_C(0), 0, 1024, 1234, 100, 100, UINT64_C(0)},
		{1025, UINT64_C(0), 0, 1024, 1234, 1000, 1000, UINT64_C(0)},
		{5000, UINT64_C(77), 0, 100, 1234, 0, 0, UINT64_C(4539)},
		{5000, UINT64_C(77), 0, 100, 1234, 1, 0, UINT64_C(1839)},
		{5000, UINT64_C(77), 0, 100, 1234, 2, 0, UINT64_C(1039)},
		{5000, UINT64_C(77), 0, 100, 1234, 10, 0, UINT64_C(3039)},
		{5000, UINT64_C(77), 0, 100, 1234, 100, 2, UINT64_C(1342)},
		{5000, UINT64_C(77), 0, 100, 1234, 1000, 20, UINT64_C(1817)},
		{1000000000, UINT64_C(10000000000), 1, 1024, 0, 0, 0, UINT64_C(10673337154)},
		{1000000000, UINT64_C(10000000000), 1, 1024, 0, 1, 0, UINT64_C(10314847042)},
		{1000000000, UINT64_C(10000000000), 1, 1024, 0, 2, 0, UINT64_C(10786112322)},
		{1000000000, UINT64_C(10000000000), 1, 1024, 0, 10, 0, UINT64_C(10046595906)},
		{1000000000, UINT64_C(10000000000), 1, 1024, 0, 100, 0, UINT64_C(10647286594)},
		{1000000000, UINT64_C(10000000000), 1, 1024, 0, 1000, 0, UINT64_C(10895018818)}};
	for (size_t i = 0; i < sizeof windows / sizeof *windows; i++) {
		struct split_range range = {
			.first_token = windows[i].first_token, .tokens = windows[i].tokens};
		struct sampler sampler;
		assert_int_equal(sampler_open(&sampler, &range, (enum split_part)windows[i].part,
					 windows[i].window_tokens, windows[i].seed, true),
			STATUS_OK);
		struct sampler_window window = sampler_get(&sampler, windows[i].ordinal);
		assert_true(window.ordinal == windows[i].ordinal && window.epoch == windows[i].epoch);
		assert_true(window.first_token == windows[i].at);
	}
}

static void permutation_is_a_bijection(void **state)
{
	(void)state;
	uint64_t random = 1;
	for (int i = 0; i < 3000; i++) {
		uint64_t count =
			i < 300 ? (uint64_t)i + 1 : 1 + fixture_below(&random, i < 2990 ? 2000 : 300000);
		uint64_t key = fixture_random(&random);
		uint8_t *seen = calloc(count, 1);
		for (uint64_t j = 0; j < count; j++) {
			uint64_t image = sampler_permute(j, count, key);
			assert_true(image < count && !seen[image]);
			seen[image] = 1;
		}
		free(seen);
	}
	/* The largest domains terminate too. */
	assert_true(sampler_permute(UINT64_MAX - 1, UINT64_MAX, 3) < UINT64_MAX);
	assert_true(sampler_permute(5, (UINT64_C(1) << 62) + 1, 3) <= UINT64_C(1) << 62);
}

/* Over many keys, where an element goes is uniform: chi-square is not far from its mean. Six rounds leave a
 * bias of a few per cent in domains of 16 and fewer, which no training has; there, nothing is off by more
 * than a tenth. */
static void permutation_is_uniform(void **state)
{
	(void)state;
	enum { KEYS = 48000 };
	uint64_t random = 77; /* fixed: the test gives the same every time */
	for (uint64_t count = 2; count < 80; count += count < 24 ? 1 : 11) {
		for (uint64_t index = 0; index < count; index += (count + 2) / 3) {
			double hits[128] = {0}, square = 0, expected = (double)KEYS / (double)count;
			for (int key = 0; key < KEYS; key++)
				hits[sampler_permute(index, count, fixture_random(&random))]++;
			for (uint64_t j = 0; j < count; j++) {
				square += (hits[j] - expected) * (hits[j] - expected) / expected;
				assert_true(
					count > 16 || (hits[j] > 0.9 * expected && hits[j] < 1.1 * expected));
			}
			/* Mean count - 1, variance 2 (count - 1): five standard deviations. */
			double excess = square - (double)(count - 1);
			assert_true(count <= 16 || excess * excess < 25 * 2 * (double)(count - 1));
		}
	}
}

/* All 24 orders of 4 elements occur, about equally often. */
static void permutation_takes_every_order(void **state)
{
	(void)state;
	uint64_t random = 78;
	double orders[256] = {0};
	int different = 0;
	for (int i = 0; i < 48000; i++) {
		uint64_t code = 0, key = fixture_random(&random);
		for (uint64_t j = 0; j < 4; j++)
			code = code * 4 + sampler_permute(j, 4, key);
		orders[code]++;
	}
	for (int i = 0; i < 256; i++) {
		different += orders[i] > 0;
		assert_true(orders[i] == 0 || (orders[i] > 1600 && orders[i] < 2400));
	}
	assert_int_equal(different, 24);
}

/* ---- epochs, by a naive walk ---- */

struct naive {
	uint64_t *first_tokens; /* in order of ordinals */
	uint64_t *epochs;
	uint64_t count;
};

/* Simulates epochs one after the other, with its own arithmetic for everything but the permutation. */
static struct naive walk(const struct split_range *range, int part, uint64_t window, uint64_t seed,
	bool shuffled, uint64_t wanted)
{
	struct naive walk = {calloc(wanted + range->tokens, 8), calloc(wanted + range->tokens, 8), 0};
	for (uint64_t epoch = 0; walk.count < wanted; epoch++) {
		uint64_t offset = 0, count = 0;
		struct fixture_bytes numbers = {0};
		fixture_put_number(&numbers, seed, 8);
		fixture_put_number(&numbers, epoch, 8);
		uint64_t draw = XXH3_64bits(numbers.data, numbers.size);
		fixture_put_number(&numbers, (uint64_t)part, 8);
		uint64_t key = XXH3_64bits(numbers.data, numbers.size);
		free(numbers.data);
		if (shuffled)
			offset = (uint64_t)(((unsigned __int128)draw *
						    (range->tokens - window < window ? range->tokens - window
										     : window)) >>
					    64);
		for (uint64_t at = offset; at + window + 1 <= range->tokens; at += window)
			count++;
		for (uint64_t i = 0; i < count; i++) {
			uint64_t place = shuffled ? sampler_permute(i, count, key) : i;
			walk.first_tokens[walk.count] = range->first_token + offset + place * window;
			walk.epochs[walk.count++] = epoch;
		}
	}
	return walk;
}

static void windows_follow_the_naive_walk(void **state)
{
	(void)state;
	uint64_t random = 31;
	for (int i = 0; i < 4000; i++) {
		uint64_t window = 1 + fixture_below(&random, 50), seed = fixture_random(&random);
		struct split_range range = {.first_token = fixture_below(&random, 1000000),
			.tokens = window + 1 + fixture_below(&random, i % 2 ? 3 * window : 600)};
		enum split_part part = (enum split_part)fixture_below(&random, 3);
		bool shuffled = fixture_below(&random, 4) != 0;
		struct sampler sampler;
		assert_int_equal(sampler_open(&sampler, &range, part, window, seed, shuffled), STATUS_OK);
		struct naive naive = walk(&range, (int)part, window, seed, shuffled, 200);
		for (uint64_t ordinal = 0; ordinal < naive.count; ordinal++) {
			struct sampler_window got = sampler_get(&sampler, ordinal);
			assert_true(got.ordinal == ordinal && got.epoch == naive.epochs[ordinal]);
			assert_true(got.first_token == naive.first_tokens[ordinal]);
			assert_true(got.first_token + window + 1 <= range.first_token + range.tokens);
		}
		for (int j = 0; j < 30; j++) { /* back and forth */
			uint64_t ordinal = fixture_below(&random, naive.count);
			struct sampler_window got = sampler_get(&sampler, ordinal);
			assert_true(got.epoch == naive.epochs[ordinal] &&
				    got.first_token == naive.first_tokens[ordinal]);
		}
		free(naive.first_tokens);
		free(naive.epochs);
	}
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

/* In each epoch every window exactly once: sorted, they stand T apart, from o to the end of the split. */
static void every_window_once_an_epoch(void **state)
{
	(void)state;
	struct split_range range = {.first_token = 1000, .tokens = 12345};
	struct sampler sampler;
	uint64_t offsets[20], ordinal = 0, different = 0;
	assert_int_equal(sampler_open(&sampler, &range, SPLIT_TRAIN, 64, 99, true), STATUS_OK);
	for (uint64_t epoch = 0; epoch < 20; epoch++) {
		uint64_t offset, windows = sampler_epoch_windows(&sampler, epoch, &offset), firsts[400];
		assert_true(offset < 64 && windows == (12345 - 1 - offset) / 64);
		for (uint64_t i = 0; i < windows; i++) {
			struct sampler_window window = sampler_get(&sampler, ordinal++);
			assert_int_equal(window.epoch, epoch);
			firsts[i] = window.first_token;
		}
		qsort(firsts, windows, 8, compare);
		for (uint64_t i = 0; i < windows; i++)
			assert_int_equal(firsts[i], 1000 + offset + 64 * i);
		offsets[epoch] = offset;
		different += epoch && offset != offsets[epoch - 1];
	}
	assert_true(different > 12);
	/* Another seed, part or epoch is another order. */
	struct sampler other;
	assert_int_equal(sampler_open(&other, &range, SPLIT_VALID, 64, 99, true), STATUS_OK);
	int same = 0;
	for (uint64_t i = 0; i < 100; i++)
		same += sampler_get(&other, i).first_token == sampler_get(&sampler, i).first_token;
	assert_true(same < 10);
}

static void validation_is_the_same_every_time(void **state)
{
	(void)state;
	struct split_range range = {.first_token = 10, .tokens = 1000};
	struct sampler a, b;
	assert_int_equal(sampler_open(&a, &range, SPLIT_VALID, 99, 1, false), STATUS_OK);
	assert_int_equal(sampler_open(&b, &range, SPLIT_VALID, 99, 2, false), STATUS_OK);
	for (uint64_t i = 0; i < 50; i++) {
		assert_int_equal(sampler_get(&a, i).first_token, 10 + i % 10 * 99);
		assert_int_equal(sampler_get(&b, i).first_token, 10 + i % 10 * 99);
		assert_int_equal(sampler_get(&a, i).epoch, i / 10);
	}
	assert_true(sampler_get(&a, UINT64_C(1) << 60).epoch == (UINT64_C(1) << 60) / 10); /* at once */
}

/* ---- windows of another length on resume ---- */

/* An epoch's tokens (those that are targets' predecessors: T of each window) in the order of training. */
static uint64_t *list_epoch(
	const struct split_range *range, uint64_t window, uint64_t seed, uint64_t epoch, uint64_t *count)
{
	struct sampler sampler;
	uint64_t offset, ordinal = 0;
	assert_int_equal(sampler_open(&sampler, range, SPLIT_TRAIN, window, seed, true), STATUS_OK);
	for (uint64_t e = 0; e < epoch; e++)
		ordinal += sampler_epoch_windows(&sampler, e, &offset);
	uint64_t windows = sampler_epoch_windows(&sampler, epoch, &offset),
		 *tokens = calloc(windows * window, 8);
	*count = windows * window;
	for (uint64_t i = 0; i < *count; i++)
		tokens[i] = sampler_get(&sampler, ordinal + i / window).first_token + i % window;
	return tokens;
}

/* A run that changes T again and again: each epoch's list, from its first token to its last, in order. The
 * lists are made by a sampler that never heard of changes, and has its own oracle above. */
static void other_windows_on_resume(void **state)
{
	(void)state;
	static const uint64_t lengths[] = {1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 36, 48, 7};
	uint64_t random = 3, refused = 0, changed = 0;
	for (int c = 0; c < 600; c++) {
		struct split_range range = {.first_token = fixture_below(&random, 1000),
			.tokens = 49 + fixture_below(&random, 700)};
		uint64_t seed = fixture_random(&random), window = lengths[fixture_below(&random, 13)];
		uint64_t epoch = 0, began = window, at = 0, count;
		uint64_t *tokens = list_epoch(&range, began, seed, 0, &count);
		struct sampler_position position = {0};
		for (int stop = 0; stop < 30; stop++) {
			struct sampler sampler;
			uint64_t wanted = stop ? lengths[fixture_below(&random, 13)] : window;
			assert_int_equal(
				sampler_open(&sampler, &range, SPLIT_TRAIN, wanted, seed, true), STATUS_OK);
			enum status status = sampler_resume(&sampler, &position);
			bool possible = at == 0 || (began % wanted == 0 && at % wanted == 0);
			assert_int_equal(status, possible ? STATUS_OK : STATUS_MISMATCH);
			if (!possible) {
				assert_non_null(strstr(error_message(), "must wait for the next epoch"));
				refused++;
				continue;
			}
			changed += at && wanted != window;
			window = wanted;
			if (at == 0) {
				free(tokens);
				tokens = list_epoch(&range, began = window, seed, epoch, &count);
			}
			uint64_t steps = fixture_below(&random, 40), ordinal = position.ordinal;
			for (; steps; steps--) {
				struct sampler_window got = sampler_get(&sampler, ordinal++);
				assert_true(got.epoch == epoch && got.ordinal + 1 == ordinal);
				for (uint64_t i = 0; i < window; i++)
					assert_int_equal(got.first_token + i, tokens[at + i]);
				at += window;
				if (at == count) {
					free(tokens);
					tokens = list_epoch(&range, began = window, seed, ++epoch, &count);
					at = 0;
				}
			}
			/* Back and forth within what is left to it. */
			if (ordinal > position.ordinal)
				sampler_get(&sampler, position.ordinal + fixture_below(&random,
										 ordinal - position.ordinal));
			position = sampler_tell(&sampler, ordinal);
			assert_true(position.ordinal == ordinal && position.epoch == epoch);
			assert_true(position.epoch_window == began && position.epoch_tokens == at);
		}
		free(tokens);
	}
	assert_true(refused > 1000 && changed > 500);
}

static void positions_that_cannot_be(void **state)
{
	(void)state;
	struct split_range range = {.tokens = 1000};
	struct sampler sampler;
	assert_int_equal(sampler_open(&sampler, &range, SPLIT_TRAIN, 8, 1, true), STATUS_OK);
	const struct sampler_position bad[] = {{1, 0, 0, 8}, {1, 0, 1000, 8}, {1, 0, 1 << 20, 8},
		{124, 0, 8, 8 * 125}, {124, 0, 8, UINT64_MAX - 7}, {1, 0, 16, 4}, {1, 0, 12, 8}};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		assert_int_equal(sampler_resume(&sampler, &bad[i]), STATUS_MISMATCH);
	/* The sampler is as it was. */
	assert_int_equal(sampler_tell(&sampler, 3).epoch_tokens, 24);
}

static void too_few_tokens(void **state)
{
	(void)state;
	struct sampler sampler;
	struct split_range range = {.tokens = 1024};
	assert_int_equal(sampler_open(&sampler, &range, SPLIT_VALID, 1024, 1, false), STATUS_USAGE);
	assert_non_null(strstr(error_message(), "valid split has 1024 tokens"));
	assert_non_null(strstr(error_message(), "1025"));
	range.tokens = 0;
	assert_int_equal(sampler_open(&sampler, &range, SPLIT_TRAIN, 1, 1, true), STATUS_USAGE);
	range.tokens = 1025;
	assert_int_equal(sampler_open(&sampler, &range, SPLIT_TRAIN, 0, 1, true), STATUS_USAGE);
	assert_int_equal(sampler_open(&sampler, &range, SPLIT_TRAIN, 1024, 1, true), STATUS_OK);
	assert_int_equal(sampler_get(&sampler, 7).epoch, 7);
	range.tokens = 2;
	assert_int_equal(sampler_open(&sampler, &range, SPLIT_TRAIN, 1, 1, true), STATUS_OK);
	assert_int_equal(sampler_get(&sampler, 3).first_token, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(golden_values),
		cmocka_unit_test(permutation_is_a_bijection),
		cmocka_unit_test(permutation_is_uniform),
		cmocka_unit_test(permutation_takes_every_order),
		cmocka_unit_test(windows_follow_the_naive_walk),
		cmocka_unit_test(every_window_once_an_epoch),
		cmocka_unit_test(validation_is_the_same_every_time),
		cmocka_unit_test(other_windows_on_resume),
		cmocka_unit_test(positions_that_cannot_be),
		cmocka_unit_test(too_few_tokens),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
