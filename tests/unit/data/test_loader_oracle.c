/*
 * Random runs against an oracle that knows no loader, no sampler and no corpus reader: the fixture's tokens,
 * cut by hand into splits, epochs and windows as data/split.h and data/sampler.h say. FERRY_TEST_CASES=N sets
 * the number of runs.
 */
#include "data/loader.h"
#include "tests/unit/data/corpus_fixture.h"

enum { RUNS_OF_A_CORPUS = 50 };

/* ---- the oracle ---- */

struct oracle {
	const struct fixture *fixture;
	uint64_t first, tokens; /* of the split */
	uint64_t window, seed;
	int part;
	bool shuffled;
};

/* floor(2^64 * numerator / denominator), bit by bit; 2^64 as `whole`. */
static unsigned __int128 cut(uint64_t numerator, uint64_t denominator)
{
	unsigned __int128 rest = numerator, quotient = 0;
	if (numerator == denominator)
		return (unsigned __int128)1 << 64;
	for (int bit = 0; bit < 64; bit++) {
		rest *= 2;
		quotient *= 2;
		if (rest >= denominator) {
			rest -= denominator;
			quotient++;
		}
	}
	return quotient;
}

static void oracle_split(struct oracle *oracle, const uint64_t shares[3])
{
	uint64_t sum = shares[0] + shares[1] + shares[2], before = 0;
	for (int p = 0; p < oracle->part; p++)
		before += shares[p];
	unsigned __int128 begin = cut(before, sum), end = cut(before + shares[oracle->part], sum);
	oracle->first = 0;
	oracle->tokens = 0;
	for (uint64_t d = 0; d < oracle->fixture->documents; d++) {
		uint64_t length = oracle->fixture->starts[d + 1] - oracle->fixture->starts[d];
		if (oracle->fixture->keys[d] < begin)
			oracle->first += length;
		else if (oracle->fixture->keys[d] < end)
			oracle->tokens += length;
	}
}

static uint64_t oracle_hash(const uint64_t *numbers, int count)
{
	struct fixture_bytes bytes = {0};
	for (int i = 0; i < count; i++)
		fixture_put_number(&bytes, numbers[i], 8);
	uint64_t hash = XXH3_64bits(bytes.data, bytes.size);
	free(bytes.data);
	return hash;
}

static uint64_t oracle_permute(uint64_t index, uint64_t count, uint64_t key)
{
	int h = 0;
	while (((unsigned __int128)1 << 2 * h) < count)
		h++;
	uint64_t half = UINT64_C(1) << h;
	do {
		uint64_t left = index / half, right = index % half;
		for (uint64_t r = 0; r < 6; r++) {
			uint64_t z = right + key + (r + 1) * UINT64_C(0x9E3779B97F4A7C15);
			z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
			z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
			z ^= z >> 31;
			uint64_t next = left ^ z % half;
			left = right;
			right = next;
		}
		index = left * half + right;
	} while (index >= count);
	return index;
}

/* Where in the fixture window `ordinal` of the run begins, by walking through the epochs. */
static uint64_t oracle_window(const struct oracle *oracle, uint64_t ordinal, uint64_t *epoch)
{
	for (*epoch = 0;; ++*epoch) {
		uint64_t numbers[] = {oracle->seed, *epoch, (uint64_t)oracle->part}, offset = 0, count = 0;
		uint64_t limit = oracle->tokens - oracle->window < oracle->window
					 ? oracle->tokens - oracle->window
					 : oracle->window;
		if (oracle->shuffled)
			offset = (uint64_t)((unsigned __int128)oracle_hash(numbers, 2) * limit >> 64);
		while (offset + count * oracle->window + oracle->window < oracle->tokens)
			count++;
		if (ordinal >= count) {
			ordinal -= count;
			continue;
		}
		if (oracle->shuffled)
			ordinal = oracle_permute(ordinal, count, oracle_hash(numbers, 3));
		return oracle->first + offset + ordinal * oracle->window;
	}
}

/* ---- a run ---- */

struct run {
	struct corpus *corpus;
	struct sampler sampler;
	struct oracle oracle;
	uint64_t *random;
};

static void check_window(
	const struct run *run, const struct loader_batch *batch, uint64_t i, uint64_t ordinal)
{
	uint64_t epoch, first = oracle_window(&run->oracle, ordinal, &epoch), row = run->oracle.window + 1;
	assert_true(batch->windows[i].ordinal == ordinal);
	assert_true(batch->windows[i].epoch == epoch);
	assert_true(batch->windows[i].first_token == first);
	assert_memory_equal(batch->tokens + i * row, run->oracle.fixture->ids + first, row * 4);
}

/* Trains on from window `done` for some steps, each rank on its own; returns where it stopped. */
static uint64_t go_on(const struct run *run, uint64_t done)
{
	int ranks = 1 + (int)fixture_below(run->random, 4);
	uint64_t micro = 1 + fixture_below(run->random, 4), accumulate = 1 + fixture_below(run->random, 3);
	uint64_t steps = 1 + fixture_below(run->random, 4), slice = micro * accumulate;
	for (int rank = 0; rank < ranks; rank++) {
		struct loader_config config = {.corpus = run->corpus,
			.sampler = run->sampler,
			.first_ordinal = done,
			.global_batch = slice * (uint64_t)ranks,
			.micro_batch = micro,
			.rank = rank,
			.ranks = ranks,
			.threads = 1 + (int)fixture_below(run->random, 3),
			.depth = 1 + (int)fixture_below(run->random, 5)};
		struct loader *loader;
		struct loader_batch batch;
		if (loader_open(&config, &loader) != STATUS_OK)
			fail_msg("%s", error_message());
		for (uint64_t m = 0; m < steps * accumulate; m++) {
			uint64_t first = done + m / accumulate * config.global_batch +
					 (uint64_t)rank * slice + m % accumulate * micro;
			if (loader_next(loader, &batch) != STATUS_OK)
				fail_msg("%s", error_message());
			for (uint64_t i = 0; i < micro; i++)
				check_window(run, &batch, i, first + i);
		}
		loader_close(loader);
	}
	return done + steps * slice * (uint64_t)ranks;
}

/* A run with stops, and other ranks, batches, threads and depths after each. False when the split is too
 * small for one. */
static bool one_run(struct corpus *corpus, const struct fixture *fixture, uint64_t *random)
{
	struct split_shares shares;
	struct split_range ranges[SPLIT_PARTS];
	struct run run = {.corpus = corpus, .random = random};
	run.oracle = (struct oracle){.fixture = fixture,
		.window = 1 + fixture_below(random, fixture_below(random, 2) ? 20 : 400),
		.seed = fixture_random(random),
		.part = (int)fixture_below(random, 3),
		.shuffled = fixture_below(random, 4) != 0};
	for (int p = 0; p < 3; p++)
		shares.share[p] = 1 + fixture_below(random, 1000000);
	oracle_split(&run.oracle, shares.share);
	assert_int_equal(split_corpus(corpus, &shares, ranges), STATUS_OK);
	assert_true(ranges[run.oracle.part].tokens == run.oracle.tokens);
	enum status status = sampler_open(&run.sampler, &ranges[run.oracle.part],
		(enum split_part)run.oracle.part, run.oracle.window, run.oracle.seed, run.oracle.shuffled);
	assert_int_equal(status, run.oracle.tokens < run.oracle.window + 1 ? STATUS_USAGE : STATUS_OK);
	uint64_t done = fixture_below(random, 2) ? 0 : fixture_below(random, 300);
	for (uint64_t stops = 1 + fixture_below(random, 3); stops && status == STATUS_OK; stops--)
		done = go_on(&run, done);
	return status == STATUS_OK;
}

static void runs_follow_the_oracle(void **state)
{
	(void)state;
	const char *wanted = getenv("FERRY_TEST_CASES");
	uint64_t runs = wanted ? strtoull(wanted, NULL, 10) : 1000, random = 20240607;
	for (uint64_t r = 0; r < runs;) {
		struct fixture fixture;
		struct corpus *corpus;
		fixture_create(&fixture, r + 7, 1 + fixture_below(&random, 120),
			1 + fixture_below(&random, 300), UINT64_C(1) << fixture_below(&random, 5),
			fixture_below(&random, 3) == 0);
		if (corpus_open(fixture.directory, &corpus) != STATUS_OK)
			fail_msg("%s", error_message());
		for (int i = 0; i < RUNS_OF_A_CORPUS && r < runs; i++)
			r += one_run(corpus, &fixture, &random);
		corpus_close(corpus);
		fixture_remove(&fixture);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(runs_follow_the_oracle),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
