/*
 * preprocess_run with near_bands against a naive oracle: the band hashes of every two documents compared.
 * And: the same bytes whatever the workers, memory, order of inputs, stops and failures of memory.
 */
#include "data/preprocess.h"

#include "common/log.h"
#include "data/minhash.h"
#include "tests/unit/data/preprocess_fixture.h"

enum { BANDS = 6, ROWS = 3, DOCUMENTS = 600, LONGEST = 600 };

static char texts[DOCUMENTS][LONGEST];

/* Texts of random words; half of them are earlier ones with some words changed, or none. */
static void make_texts(uint32_t seed)
{
	for (int i = 0; i < DOCUMENTS; i++) {
		char *to = texts[i];
		bool copy = i > 0 && below(&seed, 2) == 0;
		const char *from = copy ? texts[below(&seed, (uint32_t)i)] : "";
		uint32_t words = 2 + below(&seed, 40), changes = below(&seed, 5);
		if (!copy) {
			for (uint32_t w = 0; w < words; w++)
				to += sprintf(to, "w%u ", below(&seed, 3000));
			continue;
		}
		memmove(to, from, strlen(from) + 1);
		for (; changes && strlen(to) > 10; changes--)
			to[below(&seed, (uint32_t)strlen(to))] = "abc ."[below(&seed, 5)];
	}
}

static void write_inputs(const char *folder, int files, int step)
{
	assert_int_equal(directory_create(folder), STATUS_OK);
	for (int f = 0; f < files; f++) {
		char path[200];
		snprintf(path, sizeof path, "%s/%02d.jsonl", folder, f);
		FILE *file = fopen(path, "w");
		assert_non_null(file);
		for (int i = 0; i < DOCUMENTS; i++) {
			int number = i * step % DOCUMENTS;
			if (number % files == f)
				fprintf(file, "{\"text\": \"%s\"}\n", texts[number]);
		}
		assert_int_equal(fclose(file), 0);
	}
}

struct oracle {
	uint64_t keys[DOCUMENTS]; /* upper halves of those that are kept, ascending */
	size_t kept, duplicates, near;
};

static int compare_numbers(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

static void ask_oracle(struct oracle *oracle)
{
	static uint64_t hashes[DOCUMENTS][BANDS];
	static bool has[DOCUMENTS];
	struct minhash *minhash;
	*oracle = (struct oracle){0};
	assert_int_equal(minhash_create(BANDS, ROWS, &minhash), STATUS_OK);
	for (int i = 0; i < DOCUMENTS; i++)
		assert_int_equal(
			minhash_compute(minhash, texts[i], strlen(texts[i]), hashes[i], &has[i]), STATUS_OK);
	minhash_destroy(minhash);
	for (int i = 0; i < DOCUMENTS; i++) {
		struct hash128 key = hash128(texts[i], strlen(texts[i]));
		bool duplicate = false, near = false;
		for (int j = 0; j < DOCUMENTS; j++) {
			int order = hash128_compare(hash128(texts[j], strlen(texts[j])), key);
			duplicate |= order == 0 && j < i;
			for (int b = 0; b < BANDS && order < 0 && has[i] && has[j]; b++)
				near |= hashes[i][b] == hashes[j][b];
		}
		if (duplicate)
			oracle->duplicates++;
		else if (near)
			oracle->near++;
		else
			oracle->keys[oracle->kept++] = key.high;
	}
	qsort(oracle->keys, oracle->kept, sizeof *oracle->keys, compare_numbers);
}

static struct preprocess_config config_of(const char *const *input, const char *output)
{
	return (struct preprocess_config){
		.inputs = input,
		.input_count = 1,
		.output = output,
		.tokenizer = tokenizer,
		.text_key = "text",
		.workers = 1,
		.memory = UINT64_C(64) << 20,
		.max_bytes = 1 << 20,
		.near_bands = BANDS,
		.near_rows = ROWS,
		.shard_bytes = 16384,
	};
}

static void expect_oracle(const struct oracle *oracle, const char *directory)
{
	struct corpus *corpus;
	assert_int_equal(corpus_open(directory, &corpus), STATUS_OK);
	const struct corpus_info *info = corpus_get_info(corpus);
	assert_int_equal(info->near_bands, BANDS);
	assert_int_equal(info->near_rows, ROWS);
	assert_int_equal(info->dropped_near, oracle->near);
	assert_int_equal(info->dropped_duplicates, oracle->duplicates);
	assert_int_equal(info->documents, oracle->kept);
	assert_int_equal(info->input_documents, DOCUMENTS);
	for (uint64_t i = 0; i < info->documents; i++) {
		uint64_t key;
		assert_int_equal(corpus_document_key(corpus, i, &key), STATUS_OK);
		assert_int_equal(key, oracle->keys[i]);
	}
	assert_int_equal(corpus_verify(corpus, 1, NULL, NULL), STATUS_OK);
	corpus_close(corpus);
}

static void run(struct preprocess_config *config, const struct oracle *oracle)
{
	struct preprocess_result result;
	double seconds[4][PREPROCESS_STAGES] = {{0}}, search = 0;
	assert_in_range(config->workers, 1, 4);
	config->profile = seconds;
	if (preprocess_run(config, &result) != STATUS_OK)
		fail_msg("%s", error_message());
	assert_int_equal(result.documents, oracle->kept);
	assert_int_equal(result.near_duplicates, oracle->near);
	assert_int_equal(result.duplicates, oracle->duplicates);
	for (int worker = 0; worker < config->workers; worker++)
		search += seconds[worker][PREPROCESS_SEARCH];
	assert_true(seconds[0][PREPROCESS_SEARCH] > 0);
	assert_true(search < (result.seconds[0] + result.seconds[1]) * config->workers);
	config->profile = NULL;
}

static void oracle_agrees_and_bytes_are_the_same(void **state)
{
	(void)state;
	struct oracle oracle;
	make_texts(3);
	ask_oracle(&oracle);
	assert_in_range(oracle.near, 50, 400);
	assert_in_range(oracle.duplicates, 5, 200);
	write_inputs(in_root("one"), 1, 1);
	write_inputs(in_root("many"), 7, 7);
	const char *one = in_root("one"), *many = in_root("many");
	struct preprocess_config config = config_of(&one, in_root("reference"));
	run(&config, &oracle);
	expect_oracle(&oracle, config.output);
	static const struct {
		bool many;
		int workers;
		uint64_t memory, unit_bytes;
	} cases[] = {{false, 3, 1 << 20, 7000}, {true, 2, 1 << 20, 0}, {true, 4, 64 << 20, 3000}};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		config = config_of(cases[i].many ? &many : &one, in_root("again"));
		config.workers = cases[i].workers;
		config.memory = cases[i].memory;
		config.unit_bytes = cases[i].unit_bytes;
		config.overwrite = true;
		run(&config, &oracle);
		expect_same(in_root("reference"), config.output);
	}
}

/* ---- stops: at the n-th call of progress, and where memory ends ---- */

struct stopper {
	int calls, stop_at;
	int passes; /* one bit for each that was told of */
};

static bool stop(void *user, const struct preprocess_progress *progress)
{
	struct stopper *stopper = user;
	stopper->passes |= 1 << progress->pass;
	return stopper->calls++ < stopper->stop_at;
}

static void stopped_anywhere_it_goes_on(void **state)
{
	(void)state;
	struct oracle oracle;
	struct preprocess_result result;
	const char *many = in_root("many");
	ask_oracle(&oracle);
	int stops = 0;
	for (int first = 0; first < 12; first += 5) {
		struct stopper stopper = {.stop_at = first};
		struct preprocess_config config = config_of(&many, in_root("stopped"));
		config.unit_bytes = 8000;
		config.progress = stop;
		config.user = &stopper;
		assert_int_equal(directory_remove(config.output), STATUS_OK);
		while (preprocess_run(&config, &result) != STATUS_OK) {
			stops++;
			assert_in_range(stops, 1, 5000);
			stopper.calls = 0;
			stopper.stop_at += 1 + stopper.stop_at / 2;
			config.workers = 1 + stops % 3;
			config.memory = UINT64_C(1) << (20 + stops % 4);
		}
		assert_int_equal(result.near_duplicates, oracle.near);
		expect_same(in_root("reference"), config.output);
	}
	assert_in_range(stops, 6, 5000);
}

static void without_memory_it_goes_on(void **state)
{
	(void)state;
	struct preprocess_result result;
	const char *many = in_root("many");
	struct preprocess_config config = config_of(&many, in_root("poor"));
	int failed = 0;
	for (int64_t calls = 10; failed < 1000; calls += calls / 3) {
		memory_fail_after(calls);
		enum status status = preprocess_run(&config, &result);
		memory_fail_after(-1);
		if (status == STATUS_OK)
			break;
		assert_int_equal(status, STATUS_MEMORY);
		failed++;
	}
	assert_in_range(failed, 4, 999);
	expect_same(in_root("reference"), config.output);
}

/* ---- units and options ---- */

static int warnings;

static void count_warnings(enum log_level level, const char *line, void *user)
{
	(void)user;
	warnings += level == LOG_WARN && strstr(line, "near-") != NULL;
}

/* Stopped after the first pass; then a file of pass 1 is damaged, or lost. */
static void lost_units_are_made_anew(void **state)
{
	(void)state;
	struct preprocess_result result;
	const char *many = in_root("many");
	log_set_sink(count_warnings, NULL);
	for (int lost = 0; lost < 2; lost++) {
		struct stopper stopper = {.stop_at = 1 << 20};
		struct preprocess_config config = config_of(&many, in_root("lost"));
		config.unit_bytes = 8000;
		config.progress = stop;
		config.user = &stopper;
		assert_int_equal(directory_remove(config.output), STATUS_OK);
		for (int calls = 1; !(stopper.passes & 1 << 3); calls++) {
			stopper.stop_at = calls;
			stopper.calls = 0;
			assert_int_equal(preprocess_run(&config, &result), STATUS_INTERRUPTED);
		}
		warnings = 0;
		const char *path = in_root("lost/work/near-000001");
		assert_int_equal(lost ? file_remove(path) : file_publish(path, "rubbish", 7), STATUS_OK);
		stopper.stop_at = 1 << 20;
		assert_int_equal(preprocess_run(&config, &result), STATUS_OK);
		assert_int_equal(warnings, 1);
		expect_same(in_root("reference"), config.output);
	}
	log_set_sink(NULL, NULL);
}

static void other_options_are_told(void **state)
{
	(void)state;
	struct preprocess_result result;
	const char *many = in_root("many");
	struct stopper stopper = {.stop_at = 1};
	struct preprocess_config config = config_of(&many, in_root("other"));
	config.progress = stop;
	config.user = &stopper;
	assert_int_equal(preprocess_run(&config, &result), STATUS_INTERRUPTED);
	config.near_rows++;
	assert_int_equal(preprocess_run(&config, &result), STATUS_MISMATCH);
	assert_non_null(strstr(error_message(), "rows is 3, not 4"));
	config.near_bands = 0;
	assert_int_equal(preprocess_run(&config, &result), STATUS_MISMATCH);
	assert_non_null(strstr(error_message(), "bands is 6, not nothing"));
	config.near_bands = MINHASH_MOST_BANDS + 1;
	assert_int_equal(preprocess_run(&config, &result), STATUS_USAGE);
	config.near_bands = BANDS;
	config.near_rows = 0;
	assert_int_equal(preprocess_run(&config, &result), STATUS_USAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(oracle_agrees_and_bytes_are_the_same),
		cmocka_unit_test(stopped_anywhere_it_goes_on),
		cmocka_unit_test(without_memory_it_goes_on),
		cmocka_unit_test(lost_units_are_made_anew),
		cmocka_unit_test(other_options_are_told),
	};
	return cmocka_run_group_tests(tests, begin, end);
}
