/*
 * A corpus that is put in place while it is opened and read: whichever file is about to be opened when the
 * files move from next/ to their place, the reader finds it.
 */
#include "data/corpus_output.h"
#include "data/preprocess.h"
#include "data/sources.h"
#include "tests/unit/data/preprocess_fixture.h"

#include <sys/resource.h>

static struct file_operations moving;
static int opens, unlink_at, move_at; /* opens before it happens */
static int32_t *expected;             /* the corpus's tokens */
static uint64_t expected_count;

static int open_and_move(const char *path, int flags, mode_t mode)
{
	int number = opens++;
	file_system = &unsynced;
	if (number == unlink_at)
		assert_int_equal(unlink(in_root("out/corpus.json")), 0);
	if (number == move_at)
		must(corpus_output_recover(in_root("out")));
	file_system = &moving;
	return file_operations_system.open(path, flags, mode);
}

static void make(const char *output, uint64_t most_bytes)
{
	const char *input = in_root("in");
	struct preprocess_result result;
	struct preprocess_config config = {.inputs = &input,
		.input_count = 1,
		.output = output,
		.tokenizer = tokenizer,
		.text_key = "text",
		.workers = 1,
		.memory = 1 << 20,
		.max_bytes = most_bytes,
		.shard_bytes = 8000,
		.sources = true};
	must(preprocess_run(&config, &result));
	assert_true(result.shards >= 8 && result.rejected > 0);
}

static int make_corpora(void **state)
{
	uint32_t seed = 1;
	FILE *file;
	struct corpus *corpus;
	struct tokenizer *own;
	if (begin(state) != 0)
		return -1;
	file = fopen(in_root("merges"), "wb");
	fputs("o r\nor d\n", file);
	fclose(file);
	must(tokenizer_open_files(in_root("merges"), NULL, &own));
	tokenizer_close(tokenizer);
	tokenizer = own;
	must(directory_create(in_root("in")));
	file = fopen(in_root("in/a.jsonl"), "wb");
	for (int i = 0; i < 400; i++)
		fprintf(file, "{\"text\": \"word %u%0*d\"}\n", below(&seed, 100000),
			1 + (int)below(&seed, 400), 7);
	fclose(file);
	make(in_root("old"), 200);
	make(in_root("new"), 300);
	must(corpus_open(in_root("new"), &corpus));
	expected_count = corpus_get_info(corpus)->tokens;
	expected = malloc(expected_count * sizeof *expected);
	must(corpus_read(corpus, 0, expected_count, expected));
	corpus_close(corpus);
	return 0;
}

static int forget_corpora(void **state)
{
	free(expected);
	return end(state);
}

static enum status count_bytes(void *user, const char *path)
{
	char *data;
	TRY(file_read_all(path, 1 << 20, &data, user));
	free(data);
	return STATUS_OK;
}

/* All that there is to read of `out`. */
static void read_all(void)
{
	struct corpus *corpus;
	struct tokenizer *own;
	struct sources *sources;
	struct source source;
	size_t bytes = 0;
	must(corpus_open(in_root("out"), &corpus));
	assert_int_equal(corpus_get_info(corpus)->tokens, expected_count);
	int32_t *tokens = malloc(expected_count * sizeof *tokens);
	must(corpus_read(corpus, 0, expected_count, tokens));
	assert_memory_equal(tokens, expected, expected_count * sizeof *tokens);
	free(tokens);
	must(corpus_open_tokenizer(corpus, &own));
	tokenizer_close(own);
	must(sources_open(corpus, &sources));
	for (uint64_t i = 0; i < corpus_get_info(corpus)->documents; i += 7)
		must(sources_get(sources, i, &source));
	sources_close(sources);
	must(corpus_use_file(corpus, "rejects.jsonl", count_bytes, &bytes));
	assert_true(bytes > 0);
	must(corpus_verify(corpus, 1, NULL, NULL));
	corpus_close(corpus);
}

static void read_while_moving(int unlinked, int moved)
{
	opens = 0;
	unlink_at = unlinked;
	move_at = moved;
	file_system = &moving;
	read_all();
	file_system = &unsynced;
	must(corpus_output_recover(in_root("out")));
}

/* Between any two opens. Few files may be open, so that .sum is opened again and again. */
static void files_move_between_two_opens(void **state)
{
	(void)state;
	struct rlimit before, few;
	getrlimit(RLIMIT_NOFILE, &before);
	few = before;
	few.rlim_cur = 20;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	for (int n = 0; n <= opens; n++) {
		must(directory_create(in_root("out")));
		assert_int_equal(rename(in_root("new"), in_root("out/next")), 0);
		read_while_moving(-1, n);
		assert_int_equal(rename(in_root("out"), in_root("new")), 0);
	}
	assert_true(opens > 50);
	setrlimit(RLIMIT_NOFILE, &before);
}

/* The reader has seen the old manifest; it goes, and the new one's place changes 0, 1 or 2 opens later. */
static void an_old_corpus_is_replaced(void **state)
{
	(void)state;
	for (int later = 0; later <= 2; later++) {
		must(directory_remove(in_root("out")));
		assert_int_equal(rename(in_root("old"), in_root("out")), 0);
		assert_int_equal(rename(in_root("new"), in_root("out/next")), 0);
		read_while_moving(0, later);
		assert_int_equal(rename(in_root("out"), in_root("new")), 0);
		make(in_root("old"), 200);
	}
}

/* A file that is nowhere is an error, which names its place. */
static void what_is_nowhere(void **state)
{
	(void)state;
	struct corpus *corpus;
	int32_t token;
	expect_refusal(corpus_open(in_root("in"), &corpus), STATUS_IO, "/in/corpus.json: not there");
	must(directory_create(in_root("out")));
	assert_int_equal(rename(in_root("new"), in_root("out/next")), 0);
	assert_int_equal(unlink(in_root("out/next/00000.sum")), 0);
	must(corpus_open(in_root("out"), &corpus));
	expect_refusal(corpus_read(corpus, 0, 1, &token), STATUS_IO, "/out/00000.sum: cannot");
	corpus_close(corpus);
}

int main(void)
{
	moving = file_operations_system;
	moving.open = open_and_move;
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(files_move_between_two_opens),
		cmocka_unit_test(an_old_corpus_is_replaced),
		cmocka_unit_test(what_is_nowhere),
	};
	return cmocka_run_group_tests(tests, make_corpora, forget_corpora);
}
