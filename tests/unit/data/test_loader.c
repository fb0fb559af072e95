#include "common/memory.h"
#include "data/loader.h"
#include "tests/unit/data/corpus_fixture.h"
#include "tests/unit/data/sparse_corpus.h"

static struct corpus *open_corpus(const struct fixture *fixture)
{
	struct corpus *corpus;
	if (corpus_open(fixture->directory, &corpus) != STATUS_OK)
		fail_msg("%s", error_message());
	return corpus;
}

static struct sampler open_ordered(struct corpus *corpus, uint64_t window, uint64_t seed, bool shuffled)
{
	struct split_shares shares = {{8, 1, 1}};
	struct split_range ranges[SPLIT_PARTS];
	struct sampler sampler;
	assert_int_equal(split_corpus(corpus, &shares, ranges), STATUS_OK);
	if (sampler_open(&sampler, &ranges[SPLIT_TRAIN], SPLIT_TRAIN, window, seed, shuffled) != STATUS_OK)
		fail_msg("%s", error_message());
	return sampler;
}

static struct sampler open_sampler(struct corpus *corpus, uint64_t window, uint64_t seed)
{
	return open_ordered(corpus, window, seed, true);
}

/* Takes `steps` steps and compares each micro-batch with the sampler's windows and the fixture's tokens. */
static void follow(const struct fixture *fixture, const struct loader_config *config, uint64_t steps)
{
	struct loader *loader;
	struct loader_batch batch;
	struct sampler oracle = config->sampler;
	uint64_t slice = config->global_batch / (uint64_t)config->ranks,
		 row = config->sampler.window_tokens + 1;
	if (loader_open(config, &loader) != STATUS_OK)
		fail_msg("%s", error_message());
	for (uint64_t step = 0; step < steps; step++) {
		uint64_t ordinal =
			config->first_ordinal + step * config->global_batch + (uint64_t)config->rank * slice;
		for (uint64_t i = 0; i < slice; i++, ordinal++) {
			if (i % config->micro_batch == 0 && loader_next(loader, &batch) != STATUS_OK)
				fail_msg("%s", error_message());
			struct sampler_window wanted = sampler_get(&oracle, ordinal);
			uint64_t j = i % config->micro_batch;
			assert_true(batch.windows[j].ordinal == ordinal);
			assert_true(batch.windows[j].first_token == wanted.first_token);
			assert_true(batch.windows[j].epoch == wanted.epoch);
			assert_memory_equal(
				batch.tokens + j * row, fixture->ids + wanted.first_token, row * 4);
		}
	}
	loader_close(loader);
}

/* Whatever the ranks, micro-batches, threads, depth and point of resumption: the windows of a step, all ranks
 * taken together, are the next `global_batch` ordinals. (The sampler has its own oracle in test_sampler.c.)
 */
static void batches_depend_on_the_position_alone(void **state)
{
	(void)state;
	uint64_t random = 17;
	for (int c = 0; c < 40; c++) {
		struct fixture fixture;
		fixture_create(&fixture, (uint64_t)c + 100, 60 + fixture_below(&random, 100),
			20 + fixture_below(&random, 200), UINT64_C(1) << fixture_below(&random, 4), c % 2);
		struct corpus *corpus = open_corpus(&fixture);
		for (int i = 0; i < 60; i++) {
			int ranks = 1 + (int)fixture_below(&random, 4);
			uint64_t micro = 1 + fixture_below(&random, 9),
				 accumulate = 1 + fixture_below(&random, 3);
			struct loader_config config = {.corpus = corpus,
				.sampler = open_ordered(corpus, 1 + fixture_below(&random, 300),
					fixture_random(&random), i % 3 > 0),
				.first_ordinal = fixture_below(&random, 1000),
				.global_batch = micro * accumulate * (uint64_t)ranks,
				.micro_batch = micro,
				.rank = (int)fixture_below(&random, (uint64_t)ranks),
				.ranks = ranks,
				.threads = 1 + (int)fixture_below(&random, 4),
				.depth = 1 + (int)fixture_below(&random, 5)};
			follow(&fixture, &config, 1 + fixture_below(&random, 6));
		}
		corpus_close(corpus);
		fixture_remove(&fixture);
	}
}

/* One run in a piece against the same run stopped and resumed with other ranks and batches. */
static void resumes_elastically(void **state)
{
	(void)state;
	enum { TOTAL = 240, WINDOW = 33 };
	struct fixture fixture;
	uint64_t random = 4;
	fixture_create(&fixture, 200, 100, 120, 2, false);
	struct corpus *corpus = open_corpus(&fixture);
	struct sampler oracle = open_sampler(corpus, WINDOW, 5);
	for (int i = 0; i < 20; i++) {
		uint64_t done = 0;
		while (done < TOTAL) {
			int ranks = 1 + (int)fixture_below(&random, 4);
			uint64_t micro = 1 + fixture_below(&random, 4), batch = micro * (uint64_t)ranks;
			uint64_t steps = 1 + fixture_below(&random, 5);
			uint8_t seen[512] = {0};
			for (int rank = 0; rank < ranks; rank++) {
				struct loader_config config = {.corpus = corpus,
					.sampler = oracle,
					.first_ordinal = done,
					.global_batch = batch,
					.micro_batch = micro,
					.rank = rank,
					.ranks = ranks,
					.threads = 2,
					.depth = 2};
				struct loader *loader;
				struct loader_batch got;
				assert_int_equal(loader_open(&config, &loader), STATUS_OK);
				for (uint64_t s = 0; s < steps; s++) {
					assert_int_equal(loader_next(loader, &got), STATUS_OK);
					for (uint64_t j = 0; j < micro; j++) {
						uint64_t at = got.windows[j].ordinal - done;
						assert_true(at / batch == s && !seen[at]++);
						assert_memory_equal(got.tokens + j * (WINDOW + 1),
							fixture.ids +
								sampler_get(&oracle, done + at).first_token,
							(WINDOW + 1) * 4);
					}
				}
				loader_close(loader);
			}
			for (uint64_t at = 0; at < steps * batch; at++)
				assert_int_equal(seen[at], 1);
			done += steps * batch;
		}
	}
	corpus_close(corpus);
	fixture_remove(&fixture);
}

/* A damaged page stops exactly the micro-batch that needs it, and all after it; those before are right. */
static void damage_comes_in_order(void **state)
{
	(void)state;
	struct fixture fixture;
	fixture_create(&fixture, 300, 300, 300, 2, false);
	uint64_t random = 2;
	for (int i = 0; i < 40; i++) {
		char path[128];
		fixture_path(&fixture, fixture_below(&random, 2), "bin", path);
		long offset = (long)fixture_below(&random, (uint64_t)fixture_size(path));
		fixture_flip(path, offset, i % 8);
		struct corpus *corpus = open_corpus(&fixture);
		struct sampler sampler = open_ordered(corpus, 100, (uint64_t)i, i % 3 > 0);
		struct loader_config config = {.corpus = corpus,
			.sampler = sampler,
			.global_batch = 3,
			.micro_batch = 3,
			.ranks = 1,
			.threads = 1 + i % 4,
			.depth = 1 + i % 7};
		/* The first micro-batch with a window that cannot be read, without a loader. */
		uint64_t bad = UINT64_MAX, limit = 150;
		int32_t room[101];
		for (uint64_t ordinal = 0; ordinal < 3 * limit && bad == UINT64_MAX; ordinal++)
			if (corpus_read(corpus, sampler_get(&sampler, ordinal).first_token, 101, room) !=
				STATUS_OK)
				bad = ordinal / 3;
		struct loader *loader;
		struct loader_batch batch;
		assert_int_equal(loader_open(&config, &loader), STATUS_OK);
		for (uint64_t m = 0; m < (bad < limit ? bad : limit); m++) {
			if (loader_next(loader, &batch) != STATUS_OK)
				fail_msg("%s", error_message());
			for (int j = 0; j < 3; j++)
				assert_memory_equal(batch.tokens + j * 101,
					fixture.ids + batch.windows[j].first_token, 404);
		}
		for (int again = 0; bad < limit && again < 3; again++) {
			assert_int_equal(loader_next(loader, &batch), STATUS_CORRUPT);
			assert_non_null(strstr(error_message(), strrchr(path, '/') + 1));
			assert_non_null(strstr(error_message(), "document"));
		}
		loader_close(loader);
		corpus_close(corpus);
		fixture_flip(path, offset, i % 8);
	}
	fixture_remove(&fixture);
}

/* The file shrinks while the loader runs: an I/O error, not a SIGBUS. */
static void a_vanishing_file_is_an_error(void **state)
{
	(void)state;
	struct fixture fixture;
	fixture_create(&fixture, 301, 300, 1000, 1, false);
	struct corpus *corpus = open_corpus(&fixture);
	struct loader_config config = {.corpus = corpus,
		.sampler = open_sampler(corpus, 100, 3),
		.global_batch = 4,
		.micro_batch = 4,
		.ranks = 1,
		.threads = 3,
		.depth = 4};
	struct loader *loader;
	struct loader_batch batch;
	char path[128];
	assert_int_equal(loader_open(&config, &loader), STATUS_OK);
	assert_int_equal(loader_next(loader, &batch), STATUS_OK);
	fixture_path(&fixture, 0, "bin", path);
	assert_int_equal(truncate(path, 0), 0);
	enum status status = STATUS_OK;
	for (int i = 0; i < 10 && status == STATUS_OK; i++)
		status = loader_next(loader, &batch);
	assert_int_equal(status, STATUS_IO);
	assert_non_null(strstr(error_message(), "00000.bin: page "));
	loader_close(loader);
	corpus_close(corpus);
	fixture_remove(&fixture);
}

static void closes_at_any_time(void **state)
{
	(void)state;
	struct fixture fixture;
	fixture_create(&fixture, 302, 100, 500, 4, true);
	struct corpus *corpus = open_corpus(&fixture);
	for (int i = 0; i < 60; i++) {
		struct loader_config config = {.corpus = corpus,
			.sampler = open_sampler(corpus, 500, 3),
			.global_batch = 8,
			.micro_batch = 4,
			.ranks = 2,
			.rank = 1,
			.threads = 1 + i % 4,
			.depth = 1 + i % 3};
		struct loader *loader;
		struct loader_batch batch;
		assert_int_equal(loader_open(&config, &loader), STATUS_OK);
		for (int j = 0; j < i % 5; j++)
			assert_int_equal(loader_next(loader, &batch), STATUS_OK);
		loader_close(loader);
	}
	loader_close(NULL);
	corpus_close(corpus);
	fixture_remove(&fixture);
}

struct arena {
	size_t bytes;
	int allocated, released;
};

static enum status arena_allocate(void *user, size_t bytes, void **out)
{
	struct arena *arena = user;
	arena->bytes = bytes;
	arena->allocated++;
	*out = aligned_alloc(64, (bytes + 63) / 64 * 64);
	return STATUS_OK;
}

static void arena_release(void *user, void *block, size_t bytes)
{
	struct arena *arena = user;
	assert_int_equal(bytes, arena->bytes);
	arena->released++;
	free(block);
}

static enum status arena_refuse(void *user, size_t bytes, void **out)
{
	(void)user;
	*out = NULL;
	return error_set(STATUS_MEMORY, "no pinned memory (%zu bytes)", bytes);
}

static void batches_live_where_the_caller_says(void **state)
{
	(void)state;
	struct fixture fixture;
	struct arena arena = {0};
	fixture_create(&fixture, 303, 100, 100, 1, false);
	struct corpus *corpus = open_corpus(&fixture);
	struct loader_config config = {.corpus = corpus,
		.sampler = open_sampler(corpus, 30, 3),
		.global_batch = 2,
		.micro_batch = 2,
		.ranks = 1,
		.threads = 1,
		.depth = 2,
		.allocate = arena_allocate,
		.release = arena_release,
		.user = &arena};
	follow(&fixture, &config, 20);
	assert_true(arena.allocated == 1 && arena.released == 1);
	config.allocate = arena_refuse;
	struct loader *loader;
	assert_int_equal(loader_open(&config, &loader), STATUS_MEMORY);
	assert_non_null(strstr(error_message(), "no pinned memory"));
	corpus_close(corpus);
	fixture_remove(&fixture);
}

static void impossible_configurations(void **state)
{
	(void)state;
	struct fixture fixture;
	fixture_create(&fixture, 304, 100, 100, 1, false);
	struct corpus *corpus = open_corpus(&fixture);
	const struct loader_config good = {.corpus = corpus,
		.sampler = open_sampler(corpus, 30, 3),
		.global_batch = 12,
		.micro_batch = 2,
		.ranks = 3,
		.threads = 1,
		.depth = 1};
	struct loader_config bad[10];
	for (int i = 0; i < 10; i++)
		bad[i] = good;
	bad[0].global_batch = 13;
	bad[1].global_batch = 0;
	bad[2].micro_batch = 0;
	bad[3].ranks = 0;
	bad[4].rank = 3;
	bad[5].rank = -1;
	bad[6].threads = 0;
	bad[7].depth = 0;
	/* The first, times ranks, is 0 in 64 bits; the second, times 4 bytes. */
	bad[8].micro_batch = UINT64_C(1) << 62;
	bad[8].ranks = 4;
	bad[9].micro_batch = bad[9].global_batch = UINT64_C(1) << 62;
	bad[9].ranks = 1;
	bad[9].rank = 0;
	for (int i = 0; i < 10; i++) {
		struct loader *loader;
		assert_int_equal(loader_open(&bad[i], &loader), STATUS_USAGE);
		assert_null(loader);
	}
	follow(&fixture, &good, 2);
	corpus_close(corpus);
	fixture_remove(&fixture);
}

static enum status use_everything(const struct fixture *fixture)
{
	struct corpus *corpus;
	struct split_shares shares = {{8, 1, 1}};
	struct split_range ranges[SPLIT_PARTS];
	struct loader *loader;
	struct loader_batch batch;
	TRY(corpus_open(fixture->directory, &corpus));
	enum status status = split_corpus(corpus, &shares, ranges);
	struct loader_config config = {
		.corpus = corpus, .global_batch = 4, .micro_batch = 4, .ranks = 1, .threads = 2, .depth = 2};
	if (status == STATUS_OK)
		status = sampler_open(&config.sampler, &ranges[SPLIT_TRAIN], SPLIT_TRAIN, 30, 1, true);
	if (status == STATUS_OK)
		status = loader_open(&config, &loader);
	if (status == STATUS_OK) {
		for (int i = 0; i < 5 && status == STATUS_OK; i++)
			status = loader_next(loader, &batch);
		loader_close(loader);
	}
	if (status == STATUS_OK)
		status = corpus_verify(corpus, 2, NULL, NULL);
	corpus_close(corpus);
	return status;
}

/* Each allocation refused in turn: an error, nothing lost (the sanitizer sees to that), and never a crash. */
static void no_memory(void **state)
{
	(void)state;
	struct fixture fixture;
	fixture_create(&fixture, 305, 100, 100, 2, false);
	int refused = 0;
	for (int calls = 0;; calls++) {
		memory_fail_after(calls);
		enum status status = use_everything(&fixture);
		memory_fail_after(-1);
		if (status == STATUS_OK)
			break;
		refused++;
		if (status != STATUS_MEMORY)
			fail_msg("after %d allocations: %s", calls, error_message());
	}
	assert_true(refused > 8);
	fixture_remove(&fixture);
}

/* Kilobytes of files that this process has mapped and resident. */
static uint64_t resident_files(void)
{
	char line[256];
	uint64_t kilobytes = UINT64_MAX;
	FILE *status = fopen("/proc/self/status", "r");
	while (status && fgets(line, sizeof line, status))
		sscanf(line, "RssFile: %" SCNu64, &kilobytes);
	if (status)
		fclose(status);
	return kilobytes;
}

/* Windows all over 64 GiB: of the files little more is resident than the pages that the windows lie on. A map
 * of the trees would show up to 2 MiB for each of the 64 shards. */
static void little_is_resident(void **state)
{
	(void)state;
	if (resident_files() == UINT64_MAX)
		skip();
	struct sparse_corpus sparse = {"/tmp/ferry-test-XXXXXX", 64, UINT64_C(1) << 30, 1000, 0};
	assert_non_null(mkdtemp(sparse.directory));
	sparse_corpus_create(&sparse);
	uint64_t before = resident_files();
	struct corpus *corpus;
	if (corpus_open(sparse.directory, &corpus) != STATUS_OK)
		fail_msg("%s", error_message());
	struct loader_config config = {.corpus = corpus,
		.sampler = open_sampler(corpus, 1024, 1),
		.global_batch = 24,
		.micro_batch = 24,
		.ranks = 1,
		.threads = 2,
		.depth = 2};
	struct loader *loader;
	struct loader_batch batch;
	assert_int_equal(loader_open(&config, &loader), STATUS_OK);
	for (int i = 0; i < 20; i++)
		if (loader_next(loader, &batch) != STATUS_OK)
			fail_msg("%s", error_message());
	assert_in_range(resident_files() - before, 0, 20 << 10);
	loader_close(loader);
	corpus_close(corpus);
	sparse_corpus_remove(&sparse);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(batches_depend_on_the_position_alone),
		cmocka_unit_test(resumes_elastically),
		cmocka_unit_test(damage_comes_in_order),
		cmocka_unit_test(a_vanishing_file_is_an_error),
		cmocka_unit_test(closes_at_any_time),
		cmocka_unit_test(batches_live_where_the_caller_says),
		cmocka_unit_test(impossible_configurations),
		cmocka_unit_test(little_is_resident),
		cmocka_unit_test(no_memory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
