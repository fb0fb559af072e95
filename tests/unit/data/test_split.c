#include "data/split.h"
#include "tests/unit/data/corpus_fixture.h"

static struct split_shares parse(const char *text)
{
	struct split_shares shares;
	if (split_parse(text, &shares) != STATUS_OK)
		fail_msg("%s", error_message());
	return shares;
}

static void parses_shares(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		uint64_t billionths[3];
		const char *formatted;
	} good[] = {{"949,50,1", {949000000000, 50000000000, 1000000000}, "949,50,1"},
		{"100,0,0", {100000000000, 0, 0}, "100,0,0"},
		{"0.9/0.1", {900000000, 100000000, 0}, "0.9,0.1,0"}, {"1", {1000000000, 0, 0}, "1,0,0"},
		{"0,0,7", {0, 0, 7000000000}, "0,0,7"},
		{".5,.25/.250000000", {500000000, 250000000, 250000000}, "0.5,0.25,0.25"},
		{"999999999.999999999,1.,0.000000001", {999999999999999999, 1000000000, 1},
			"999999999.999999999,1,0.000000001"},
		{"0000000000001.0000000000000,1", {1000000000, 1000000000, 0}, "1,1,0"}};
	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		struct split_shares shares = parse(good[i].text);
		char text[SPLIT_TEXT];
		assert_memory_equal(shares.share, good[i].billionths, sizeof shares.share);
		split_format(&shares, text);
		assert_string_equal(text, good[i].formatted);
	}
	static const char *const bad[] = {"", ",", "1,", ",1", "1,2,3,4", "0", "0,0,0", "-1,2", "1;2", "1 2",
		"nan", "inf", "1e3", "1,.", "0.1234567891", "1000000000", "1,2x", "0x10"};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct split_shares shares;
		if (split_parse(bad[i], &shares) != STATUS_USAGE)
			fail_msg("\"%s\" was accepted", bad[i]);
		assert_non_null(strstr(error_message(), bad[i]));
	}
}

/* Cuts computed with Python: floor(Fraction(2**64) * cumulative / sum). */
static void cuts_are_exact(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		uint64_t valid, test;
	} cases[] = {{"949,50,1", UINT64_C(17505960125950364483), UINT64_C(18428297329635842064)},
		{"1,1,1", UINT64_C(6148914691236517205), UINT64_C(12297829382473034410)},
		{"0.7,0.2,0.1", UINT64_C(12912720851596686131), UINT64_C(16602069666338596454)},
		{"999999999.999999999,0.000000001,3", UINT64_C(18446744018369319542),
			UINT64_C(18446744018369319560)}};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct split_shares shares = parse(cases[i].text);
		struct split_keys keys[SPLIT_PARTS];
		split_cut(&shares, keys);
		assert_true(keys[0].first == 0 && keys[2].last == UINT64_MAX);
		if (keys[0].last + 1 != cases[i].valid || keys[2].first != cases[i].test)
			fail_msg("%s: cuts %" PRIu64 " %" PRIu64, cases[i].text, keys[0].last + 1,
				keys[2].first);
	}
	struct split_shares a = parse("9,1"), b = parse("0.90/0.10"), c = parse("9,1,0.000000001");
	assert_true(split_same(&a, &b));
	assert_false(split_same(&a, &c));
}

static void cuts_leave_nothing_out(void **state)
{
	(void)state;
	uint64_t random = 8;
	for (int i = 0; i < 20000; i++) {
		struct split_shares shares;
		uint64_t next = 0;
		bool ended = false;
		for (int p = 0; p < SPLIT_PARTS; p++)
			shares.share[p] = fixture_below(&random, 3) ? fixture_random(&random) >>
									      (4 + fixture_below(&random, 60))
								    : 0;
		for (int p = 0; p < SPLIT_PARTS; p++)
			shares.share[p] %= 1000000000000000000;
		if (!(shares.share[0] | shares.share[1] | shares.share[2]))
			continue;
		struct split_keys keys[SPLIT_PARTS];
		split_cut(&shares, keys);
		for (int p = 0; p < SPLIT_PARTS; p++) {
			if (!shares.share[p])
				assert_true(keys[p].empty);
			if (keys[p].empty)
				continue;
			assert_false(ended);
			assert_true(keys[p].first == next && keys[p].last >= next);
			next = keys[p].last + 1;
			ended = next == 0; /* 2^64 */
		}
		assert_true(ended);
	}
}

/* Each document lies in the part that its key says, by a naive walk; parts are contiguous and complete. */
static void splits_follow_keys(void **state)
{
	(void)state;
	static const char *const texts[] = {
		"949,50,1", "1,1,1", "0,1,0", "100,0,0", "0,0,1", "1/0/1", "0.001,0.998,0.001"};
	static const struct {
		uint64_t documents, longest, shards;
	} shapes[] = {{0, 1, 4}, {1, 4, 1}, {3, 4, 8}, {300, 40, 1}, {300, 40, 16}, {2000, 5, 4}};
	for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
		struct fixture fixture;
		struct corpus *corpus;
		fixture_create(
			&fixture, s + 50, shapes[s].documents, shapes[s].longest, shapes[s].shards, s % 2);
		assert_int_equal(corpus_open(fixture.directory, &corpus), STATUS_OK);
		for (size_t t = 0; t < sizeof texts / sizeof *texts; t++) {
			struct split_shares shares = parse(texts[t]);
			struct split_keys keys[SPLIT_PARTS];
			struct split_range ranges[SPLIT_PARTS];
			split_cut(&shares, keys);
			if (split_corpus(corpus, &shares, ranges) != STATUS_OK)
				fail_msg("%s", error_message());
			uint64_t document = 0;
			for (int p = 0; p < SPLIT_PARTS; p++) {
				assert_int_equal(ranges[p].first_document, document);
				assert_int_equal(ranges[p].first_token, fixture.starts[document]);
				uint64_t naive = 0;
				for (uint64_t d = 0; d < fixture.documents; d++)
					naive += !keys[p].empty && fixture.keys[d] >= keys[p].first &&
						 fixture.keys[d] <= keys[p].last;
				assert_int_equal(ranges[p].documents, naive);
				document += naive;
				assert_int_equal(ranges[p].tokens,
					fixture.starts[document] - fixture.starts[ranges[p].first_document]);
			}
			assert_int_equal(document, fixture.documents);
		}
		corpus_close(corpus);
		fixture_remove(&fixture);
	}
}

/* Documents with one key (copies in two corpora) are in one part in both, whatever else is there. */
static void a_key_is_in_one_part_in_every_corpus(void **state)
{
	(void)state;
	struct fixture small, large;
	struct corpus *corpora[2];
	fixture_make(&large, 70, 1000, 6, 8, false);
	fixture_make(&small, 71, 100, 6, 1, false);
	for (uint64_t d = 0; d < small.documents; d++)
		small.keys[d] = large.keys[d * 10 + 3];
	fixture_write(&small);
	fixture_write(&large);
	assert_int_equal(corpus_open(small.directory, &corpora[0]), STATUS_OK);
	assert_int_equal(corpus_open(large.directory, &corpora[1]), STATUS_OK);
	struct split_shares shares = parse("5,3,2");
	struct split_range in_small[SPLIT_PARTS], in_large[SPLIT_PARTS];
	assert_int_equal(split_corpus(corpora[0], &shares, in_small), STATUS_OK);
	assert_int_equal(split_corpus(corpora[1], &shares, in_large), STATUS_OK);
	for (int p = 0; p < SPLIT_PARTS; p++)
		for (uint64_t d = 0; d < small.documents; d++) {
			uint64_t twin = d * 10 + 3;
			bool here = d >= in_small[p].first_document &&
				    d - in_small[p].first_document < in_small[p].documents;
			bool there = twin >= in_large[p].first_document &&
				     twin - in_large[p].first_document < in_large[p].documents;
			assert_true(here == there);
		}
	corpus_close(corpora[0]);
	corpus_close(corpora[1]);
	fixture_remove(&small);
	fixture_remove(&large);
}

static void names(void **state)
{
	(void)state;
	assert_string_equal(split_part_name(SPLIT_TRAIN), "train");
	assert_string_equal(split_part_name(SPLIT_VALID), "valid");
	assert_string_equal(split_part_name(SPLIT_TEST), "test");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parses_shares),
		cmocka_unit_test(cuts_are_exact),
		cmocka_unit_test(cuts_leave_nothing_out),
		cmocka_unit_test(splits_follow_keys),
		cmocka_unit_test(a_key_is_in_one_part_in_every_corpus),
		cmocka_unit_test(names),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
