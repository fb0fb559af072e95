#include "data/loader.h"
#include "tests/unit/data/corpus_fixture.h"

static struct mixture_source source_of(uint64_t share, uint64_t tokens, uint64_t window, uint64_t seed)
{
	struct split_range range = {.first_token = 5, .tokens = tokens};
	struct mixture_source source = {.share = share};
	assert_int_equal(sampler_open(&source.sampler, &range, SPLIT_TRAIN, window, seed, true), STATUS_OK);
	return source;
}

/* The rule as the header has it, in small whole numbers: who comes at each place. */
static void naive_order(const int64_t *shares, int count, int *order, int64_t length)
{
	int64_t taken[MIXTURE_LIMIT] = {0}, sum = 0;
	for (int i = 0; i < count; i++)
		sum += shares[i];
	for (int64_t s = 0; s < length; s++) {
		int best = 0;
		for (int i = 1; i < count; i++)
			if (shares[i] * (s + 1) - taken[i] * sum > shares[best] * (s + 1) - taken[best] * sum)
				best = i;
		order[s] = best;
		taken[best]++;
	}
}

static void the_headers_example(void **state)
{
	(void)state;
	static const int wanted[] = {0, 1, 0, 0, 0, 1, 0, 0, 1, 0};
	struct mixture_source sources[2];
	struct mixture mixture;
	for (int i = 0; i < 2; i++) {
		uint64_t share;
		assert_int_equal(mixture_parse_share(i ? "0.3" : ".7", &share), STATUS_OK);
		sources[i] = source_of(share, 1000, 10, 1);
	}
	assert_int_equal(mixture_open(&mixture, sources, 2), STATUS_OK);
	for (uint64_t s = 0; s < 40; s++)
		assert_int_equal(mixture_get(&mixture, s).source, wanted[s % 10]);
}

/* Every window, in order, out of order and after resumes, against the walk; each corpus's windows are its
 * sampler's, none left out. */
static void mixes_as_the_naive_walk(void **state)
{
	(void)state;
	enum { LENGTH = 700 };
	uint64_t random = 8;
	for (int c = 0; c < 300; c++) {
		int count = 1 + (int)fixture_below(&random, c % 10 ? 5 : MIXTURE_LIMIT), order[LENGTH];
		int64_t shares[MIXTURE_LIMIT];
		uint64_t place[LENGTH], taken[MIXTURE_LIMIT] = {0};
		struct mixture_source sources[MIXTURE_LIMIT];
		struct mixture mixture;
		for (int i = 0; i < count; i++) {
			shares[i] = 1 + (int64_t)fixture_below(&random, c % 3 ? 9 : 100000);
			sources[i] = source_of((uint64_t)shares[i] * (1 + (uint64_t)c % 7),
				21 + fixture_below(&random, 900), 20, mixture_seed(3, i));
		}
		naive_order(shares, count, order, LENGTH);
		for (int s = 0; s < LENGTH; s++)
			place[s] = taken[order[s]]++;
		assert_int_equal(mixture_open(&mixture, sources, count), STATUS_OK);
		for (int i = 0; i < 2 * LENGTH; i++) {
			uint64_t s = i < LENGTH ? (uint64_t)i : fixture_below(&random, LENGTH);
			struct sampler oracle = sources[order[s]].sampler;
			struct sampler_window got = mixture_get(&mixture, s),
					      wanted = sampler_get(&oracle, place[s]);
			assert_int_equal(got.source, order[s]);
			assert_true(got.ordinal == s && got.epoch == wanted.epoch);
			assert_true(got.first_token == wanted.first_token);
		}
		for (int resume = 0; resume < 5; resume++) {
			uint64_t from = fixture_below(&random, LENGTH), sum = 0;
			struct sampler_position positions[MIXTURE_LIMIT];
			struct mixture_source again[MIXTURE_LIMIT];
			struct mixture resumed;
			mixture_tell(&mixture, from, positions);
			for (int i = 0; i < count; i++) {
				again[i] = sources[i];
				sum += positions[i].ordinal;
				assert_int_equal(sampler_resume(&again[i].sampler, &positions[i]), STATUS_OK);
			}
			assert_true(sum == from);
			assert_int_equal(mixture_open(&resumed, again, count), STATUS_OK);
			for (uint64_t s = from; s < LENGTH; s++) {
				struct sampler_window a = mixture_get(&mixture, s),
						      b = mixture_get(&resumed, s);
				assert_true(a.source == b.source && a.first_token == b.first_token &&
					    a.epoch == b.epoch && a.ordinal == b.ordinal);
			}
		}
	}
}

/* Far out: after whole periods the order is the same again, and the counts are the shares'. */
static void far_ordinals(void **state)
{
	(void)state;
	struct mixture_source sources[3] = {source_of(500000000, 400, 20, 1),
		source_of(300000000, 500, 20, 2), source_of(200000000, 600, 20, 3)};
	struct mixture mixture, near;
	struct sampler_position positions[3];
	assert_int_equal(mixture_open(&mixture, sources, 3), STATUS_OK);
	near = mixture;
	for (uint64_t i = 0; i < 30; i++)
		assert_int_equal(mixture_get(&mixture, 10000000 + i).source, mixture_get(&near, i).source);
	mixture_tell(&mixture, 100000, positions);
	assert_int_equal(positions[0].ordinal, 50000);
	assert_int_equal(positions[1].ordinal, 30000);
	assert_int_equal(positions[2].ordinal, 20000);
}

static void shares_that_cannot_be(void **state)
{
	(void)state;
	static const char *const bad[] = {
		"", "0", "0.0", "-1", "1,2", "0.5/0.5", "x", "1e3", "0.1234567891", "0.5 "};
	uint64_t share;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		assert_int_equal(mixture_parse_share(bad[i], &share), STATUS_USAGE);
		assert_non_null(strstr(error_message(), "--train-data 0.7 DIR-A"));
	}
	assert_int_equal(mixture_parse_share("12.5", &share), STATUS_OK);
	assert_true(share == UINT64_C(12500000000));
	struct mixture mixture;
	struct mixture_source sources[MIXTURE_LIMIT + 1];
	assert_int_equal(mixture_open(&mixture, sources, 0), STATUS_USAGE);
	for (int i = 0; i <= MIXTURE_LIMIT; i++)
		sources[i] = source_of(1, 100, 20, 1);
	assert_int_equal(mixture_open(&mixture, sources, MIXTURE_LIMIT + 1), STATUS_USAGE);
	assert_int_equal(mixture_open(&mixture, sources, MIXTURE_LIMIT), STATUS_OK);
	sources[0].share = UINT64_C(1) << 60;
	assert_int_equal(mixture_open(&mixture, sources, 2), STATUS_USAGE);
}

/* ---- through the loader ---- */

enum { CORPORA = 3 };

static void the_loader_reads_each_corpus(void **state)
{
	(void)state;
	struct fixture fixtures[CORPORA];
	struct corpus *corpora[CORPORA];
	struct mixture_source sources[CORPORA];
	struct split_shares all = {{1, 0, 0}}, other = {{9, 1, 0}};
	uint64_t random = 12, row = 41;
	for (int i = 0; i < CORPORA; i++) {
		struct split_range ranges[SPLIT_PARTS];
		fixture_create(&fixtures[i], (uint64_t)i + 900, 60, 100, UINT64_C(1) << i, i == 1);
		assert_int_equal(corpus_open(fixtures[i].directory, &corpora[i]), STATUS_OK);
		assert_int_equal(split_corpus(corpora[i], i ? &other : &all, ranges), STATUS_OK);
		sources[i] = (struct mixture_source){.corpus = corpora[i], .share = (uint64_t)i + 2};
		assert_int_equal(sampler_open(&sources[i].sampler, &ranges[SPLIT_TRAIN], SPLIT_TRAIN, row - 1,
					 mixture_seed(1, i), true),
			STATUS_OK);
	}
	for (int c = 0; c < 100; c++) {
		struct mixture oracle, resumed;
		struct mixture_source again[CORPORA];
		struct sampler_position positions[CORPORA];
		uint64_t ranks = 1 + fixture_below(&random, 3), micro = 1 + fixture_below(&random, 4);
		struct loader_config config = {.mixture = &resumed,
			.first_ordinal = fixture_below(&random, 400),
			.global_batch = micro * ranks,
			.micro_batch = micro,
			.rank = (int)fixture_below(&random, ranks),
			.ranks = (int)ranks,
			.threads = 1 + c % 3,
			.depth = 1 + c % 4};
		assert_int_equal(mixture_open(&oracle, sources, CORPORA), STATUS_OK);
		mixture_tell(&oracle, config.first_ordinal, positions);
		for (int i = 0; i < CORPORA; i++) {
			again[i] = sources[i];
			assert_int_equal(sampler_resume(&again[i].sampler, &positions[i]), STATUS_OK);
		}
		assert_int_equal(mixture_open(&resumed, again, CORPORA), STATUS_OK);
		struct loader *loader;
		struct loader_batch batch;
		assert_int_equal(loader_open(&config, &loader), STATUS_OK);
		for (uint64_t step = 0; step < 10; step++) {
			if (loader_next(loader, &batch) != STATUS_OK)
				fail_msg("%s", error_message());
			for (uint64_t i = 0; i < micro; i++) {
				struct sampler_window wanted = mixture_get(
					&oracle, config.first_ordinal + step * config.global_batch +
							 (uint64_t)config.rank * micro + i);
				assert_true(batch.windows[i].ordinal == wanted.ordinal &&
					    batch.windows[i].epoch == wanted.epoch);
				assert_int_equal(batch.windows[i].source, wanted.source);
				assert_memory_equal(batch.tokens + i * row,
					fixtures[wanted.source].ids + wanted.first_token, row * 4);
			}
		}
		loader_close(loader);
	}
	/* Positions that other shares led to are refused, by the corpus's name. */
	struct sampler_position positions[CORPORA];
	struct mixture mixture;
	assert_int_equal(mixture_open(&mixture, sources, CORPORA), STATUS_OK);
	mixture_tell(&mixture, 300, positions);
	for (int i = 0; i < CORPORA; i++)
		assert_int_equal(sampler_resume(&sources[i].sampler, &positions[i]), STATUS_OK);
	sources[0].share = 3;
	assert_int_equal(mixture_open(&mixture, sources, CORPORA), STATUS_MISMATCH);
	assert_non_null(strstr(error_message(), "share"));
	sources[0].share = 0;
	assert_int_equal(mixture_open(&mixture, sources, CORPORA), STATUS_USAGE);
	assert_non_null(strstr(error_message(), fixtures[0].directory));
	for (int i = 0; i < CORPORA; i++) {
		corpus_close(corpora[i]);
		fixture_remove(&fixtures[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_headers_example),
		cmocka_unit_test(mixes_as_the_naive_walk),
		cmocka_unit_test(far_ordinals),
		cmocka_unit_test(shares_that_cannot_be),
		cmocka_unit_test(the_loader_reads_each_corpus),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
