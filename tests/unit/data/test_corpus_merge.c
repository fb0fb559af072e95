/*
 * Corpora that corpus_merge_run joins, against preprocess_run on all their inputs at once: the same files
 * with the same bytes, corpus.json and rejects.jsonl among them, whatever the inputs' order, shards and
 * workers.
 */
#include "data/corpus_merge.h"

#include "data/corpus_output.h"
#include "data/preprocess.h"
#include "data/shard_writer.h"
#include "tests/unit/data/preprocess_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/file.h>
#include <xxhash.h>

enum { PARTS = 3 };

static bool sources; /* preprocess keeps them */

/* ---- inputs: JSONL files part0/..., of random words ---- */

static void put_document(FILE *file, uint32_t words, uint32_t *seed)
{
	static const char *const word[] = {"the", "ship", "left", "Caf\xC3\xA9", "12", "don't", "\\n", "  ",
		",", "\xE6\x97\xA5\xE6\x9C\xAC", "of", "harbour", "x", "\xF0\x9F\x98\x80", "\xFF\xFE"};
	fputs("{\"text\": \"", file);
	for (uint32_t i = 0; i < words; i++)
		fprintf(file, "%s%s", word[below(seed, 15)], below(seed, 3) ? " " : "");
	fputs("\"}\n", file);
}

/* Two texts whose keys agree in their upper 64 bits (found by a search for cycles, in 3 thousand million
 * steps). */
static const char twin_a[] = "ggpmbdnjpfmlajck", twin_b[] = "bfghefeddiolanld";

/* `documents` for each part; some are in several parts or twice in one, some empty, some lines no JSON. */
static void make_inputs(uint32_t seed, uint32_t documents, uint32_t longest)
{
	char name[32];
	for (int part = 0; part < PARTS; part++) {
		snprintf(name, sizeof name, "part%d", part);
		assert_int_equal(directory_remove(in_root(name)), STATUS_OK);
		assert_int_equal(directory_create(in_root(name)), STATUS_OK);
		for (int i = 0; i < 2; i++) {
			/* The parts' files interleave by name only within a part: paths begin with the
			 * part's. */
			snprintf(name, sizeof name, "part%d/%d.jsonl", part, i);
			FILE *file = fopen(in_root(name), "wb");
			assert_non_null(file);
			for (uint32_t d = 0; d < documents; d++) {
				uint32_t common = 7 + below(&seed, documents); /* the same in every part */
				if (below(&seed, 3) == 0)
					put_document(file, 1 + common % 50, &common);
				else
					put_document(file, 1 + below(&seed, below(&seed, 30) ? 60 : longest),
						&seed);
				if (below(&seed, 20) == 0)
					fputs("{\"text\": \"\"}\n", file);
				if (below(&seed, 20) == 0)
					fprintf(file, "{\"text\": %u\n", below(&seed, 1000));
			}
			/* Each twin in two parts, both in one. */
			fprintf(file, "{\"text\": \"%s\"}\n", (part + i) % 2 ? twin_a : twin_b);
			assert_int_equal(fclose(file), 0);
		}
	}
}

static void preprocess(const char *const *inputs, size_t count, const char *output, uint64_t shard_bytes)
{
	struct preprocess_config config = {
		.inputs = inputs,
		.input_count = count,
		.output = output,
		.tokenizer = tokenizer,
		.text_key = "text",
		.workers = 2,
		.memory = 16 << 20,
		.max_bytes = 1 << 20,
		.sources = sources,
		.shard_bytes = shard_bytes,
	};
	struct preprocess_result result;
	if (preprocess_run(&config, &result) != STATUS_OK)
		fail_msg("%s", error_message());
}

static const char *corpora[PARTS];

/* part0..2 to corpus0..2, of different numbers of shards; all of them to `whole`. */
static void make_corpora(uint64_t shard_bytes)
{
	static const char *parts[PARTS];
	static const uint64_t sizes[PARTS] = {3000, 100000, 0};
	for (int i = 0; i < PARTS; i++) {
		char name[16];
		snprintf(name, sizeof name, "part%d", i);
		parts[i] = in_root(name);
		snprintf(name, sizeof name, "corpus%d", i);
		corpora[i] = in_root(name);
		assert_int_equal(directory_remove(corpora[i]), STATUS_OK);
		preprocess(&parts[i], 1, corpora[i], sizes[i]);
	}
	assert_int_equal(directory_remove(in_root("whole")), STATUS_OK);
	preprocess(parts, PARTS, in_root("whole"), shard_bytes);
}

/* ---- merging ---- */

static struct corpus_merge_config basic(uint64_t shard_bytes)
{
	return (struct corpus_merge_config){.inputs = corpora,
		.input_count = PARTS,
		.output = in_root("merged"),
		.workers = 2,
		.shard_bytes = shard_bytes};
}

static struct corpus_merge_result merge(const struct corpus_merge_config *config)
{
	struct corpus_merge_result result;
	must(corpus_merge_run(config, &result));
	return result;
}

static void refuse(const struct corpus_merge_config *config, enum status status, const char *word)
{
	struct corpus_merge_result result;
	expect_refusal(corpus_merge_run(config, &result), status, word);
}

static void remove_merged(void)
{
	must(directory_remove(in_root("merged")));
}

/* ---- the tests ---- */

static void equal_to_preprocessing_all(void **state)
{
	(void)state;
	static const uint64_t sizes[] = {0, 20000, 2000};
	for (uint32_t seed = 1; seed <= 3; seed++) {
		uint64_t shard_bytes = sizes[seed % 3];
		sources = seed > 1;
		make_inputs(seed * 100, seed == 1 ? 1 : 50, seed == 3 ? 100000 : 500);
		make_corpora(shard_bytes);
		struct corpus_merge_config config = basic(shard_bytes);
		config.workers = 1 + (int)seed % 3;
		struct corpus_merge_result result = merge(&config);
		expect_same(in_root("whole"), config.output);
		struct corpus *corpus;
		assert_int_equal(corpus_open(config.output, &corpus), STATUS_OK);
		const struct corpus_info *info = corpus_get_info(corpus);
		assert_true(result.duplicates > 0);
		assert_true(seed == 1 || info->dropped_duplicates > result.duplicates);
		assert_int_equal(result.documents, info->documents);
		assert_int_equal(result.tokens, info->tokens);
		assert_int_equal(result.bytes, info->bytes);
		assert_int_equal(result.shards, info->shard_count);
		assert_null(result.without_sources);
		assert_int_equal(info->sources, sources);
		assert_true(shard_bytes == 0 || seed == 1 || info->shard_count > 1);
		if (corpus_verify(corpus, 1, NULL, NULL) != STATUS_OK)
			fail_msg("%s", error_message());
		corpus_close(corpus);
		/* Another order, and two steps. */
		const char *reversed[PARTS] = {corpora[2], corpora[1], corpora[0]};
		remove_merged();
		config.inputs = reversed;
		merge(&config);
		expect_same(in_root("whole"), config.output);
		remove_merged();
		config.input_count = 2;
		config.output = in_root("step");
		config.shard_bytes = 7000;
		merge(&config);
		const char *rest[2] = {config.output, corpora[0]};
		config = basic(shard_bytes);
		config.inputs = rest;
		config.input_count = 2;
		merge(&config);
		expect_same(in_root("whole"), config.output);
		remove_merged();
		assert_int_equal(directory_remove(in_root("step")), STATUS_OK);
	}
	sources = false;
}

/* One input that does not tell, and the output does not either. */
static void sources_are_dropped_if_one_has_none(void **state)
{
	(void)state;
	make_inputs(5, 20, 200);
	make_corpora(0);
	sources = true;
	const char *part = in_root("part1");
	assert_int_equal(directory_remove(corpora[1]), STATUS_OK);
	preprocess(&part, 1, corpora[1], 0);
	sources = false;
	struct corpus_merge_config config = basic(0);
	struct corpus_merge_result result = merge(&config);
	assert_ptr_equal(result.without_sources, corpora[0]);
	expect_same(in_root("whole"), config.output);
	remove_merged();
}

/* The oracle knows nothing of this program but the hash. */
static void twins_stand_in_order_of_the_whole_key(void **state)
{
	(void)state;
	XXH128_hash_t a = XXH3_128bits(twin_a, 16), b = XXH3_128bits(twin_b, 16);
	assert_int_equal(a.high64, b.high64);
	assert_true(a.low64 != b.low64);
	make_inputs(3, 30, 100);
	make_corpora(0);
	struct corpus_merge_config config = basic(0);
	merge(&config);
	struct corpus *corpus;
	assert_int_equal(corpus_open(config.output, &corpus), STATUS_OK);
	uint64_t document;
	assert_int_equal(corpus_find_key(corpus, a.high64, &document), STATUS_OK);
	for (int i = 0; i < 2; i++) {
		const char *expected = (i == 0) == (a.low64 < b.low64) ? twin_a : twin_b;
		uint64_t first, count, key;
		int32_t tokens[32];
		char *text;
		size_t bytes;
		assert_int_equal(corpus_document_key(corpus, document + (uint64_t)i, &key), STATUS_OK);
		assert_int_equal(key, a.high64);
		assert_int_equal(corpus_document(corpus, document + (uint64_t)i, &first, &count), STATUS_OK);
		assert_in_range(count, 2, 17);
		assert_int_equal(corpus_read(corpus, first, count, tokens), STATUS_OK);
		assert_int_equal(
			tokenizer_decode(tokenizer, (uint32_t *)tokens, count - 1, &text, &bytes), STATUS_OK);
		assert_int_equal(bytes, 16);
		assert_memory_equal(text, expected, 16);
		free(text);
	}
	corpus_close(corpus);
	remove_merged();
}

/* One document of one token, with a key that is not its text's. */
static void make_false_corpus(const char *directory, uint16_t id)
{
	struct shard_writer *writer;
	struct shard_summary shard;
	char work[300];
	snprintf(work, sizeof work, "%s/work", directory);
	must(directory_remove(directory));
	must(directory_create(work));
	must(shard_writer_open(work, "00000", CORPUS_U16, tokenizer_eod(tokenizer), false, &writer));
	must(shard_writer_add(writer, 5, &id, 1, 1, NULL));
	must(shard_writer_publish(writer, &shard));
	must(corpus_output_publish(&(struct corpus_output){.directory = directory,
		.tokenizer = tokenizer,
		.bytes = 1,
		.input_documents = 1,
		.input_tokens = 2,
		.input_bytes = 1,
		.shards = &shard,
		.shard_count = 1}));
}

static void a_false_key_is_told(void **state)
{
	(void)state;
	struct corpus_merge_config config = basic(0);
	make_false_corpus(corpora[0], 10);
	make_false_corpus(corpora[1], 11);
	config.input_count = 2;
	refuse(&config, STATUS_CORRUPT,
		"corpus0: document 0 has the key 0000000000000005, but its text has ");
}

static void other_tokenizers_are_refused(void **state)
{
	(void)state;
	struct tokenizer *gpt2 = tokenizer;
	make_inputs(8, 10, 100);
	make_corpora(0);
	FILE *file = fopen(in_root("merges"), "wb");
	assert_non_null(file);
	fputs("t h\nth e\n", file);
	assert_int_equal(fclose(file), 0);
	if (tokenizer_open_files(in_root("merges"), NULL, &tokenizer) != STATUS_OK)
		fail_msg("%s", error_message());
	const char *part = in_root("part1");
	assert_int_equal(directory_remove(corpora[1]), STATUS_OK);
	preprocess(&part, 1, corpora[1], 0);
	struct corpus_merge_config config = basic(0);
	refuse(&config, STATUS_MISMATCH, "corpus1 was made with another tokenizer");
	/* All of that one: its files come along. */
	make_corpora(0);
	merge(&config);
	assert_true(file_exists(in_root("merged/merges.txt")));
	expect_same(in_root("whole"), config.output);
	remove_merged();
	tokenizer_close(tokenizer);
	tokenizer = gpt2;
}

static void wrong_directories_are_refused(void **state)
{
	(void)state;
	make_inputs(9, 10, 100);
	make_corpora(0);
	struct corpus_merge_config config = basic(0);
	const char *twice[PARTS] = {corpora[0], corpora[1], in_root("corpus1/../corpus0")};
	config.inputs = twice;
	refuse(&config, STATUS_USAGE, "corpus0: the input is given twice");
	config = basic(0);
	config.output = corpora[1];
	config.overwrite = true;
	refuse(&config, STATUS_USAGE, "the output is one of the inputs");
	config = basic(0);
	merge(&config);
	refuse(&config, STATUS_USAGE, "already holds a corpus");
	config.overwrite = true;
	config.input_count = 2;
	merge(&config);
	config.input_count = PARTS;
	merge(&config);
	expect_same(in_root("whole"), config.output);
	/* Work of an unfinished preprocess. */
	remove_merged();
	assert_int_equal(directory_create(in_root("merged/work")), STATUS_OK);
	assert_int_equal(file_publish(in_root("merged/work/job.json"), "{}", 2), STATUS_OK);
	config.overwrite = false;
	refuse(&config, STATUS_USAGE, "unfinished run");
	remove_merged();
	/* Another is at work there. */
	assert_int_equal(directory_create(in_root("merged")), STATUS_OK);
	int fd = open(in_root("merged/.lock"), O_RDWR | O_CREAT, 0666);
	assert_int_equal(flock(fd, LOCK_EX), 0);
	refuse(&config, STATUS_USAGE, "another run is at work");
	assert_int_equal(close(fd), 0);
	merge(&config);
	expect_same(in_root("whole"), config.output);
	remove_merged();
	config.input_count = 0;
	refuse(&config, STATUS_USAGE, "no corpora");
}

static void damage_is_noticed(void **state)
{
	(void)state;
	make_inputs(10, 100, 100);
	make_corpora(0);
	int fd = open(in_root("corpus2/00000.bin"), O_RDWR);
	assert_true(fd >= 0);
	uint8_t byte;
	assert_int_equal(pread(fd, &byte, 1, 5000), 1);
	byte ^= 4;
	assert_int_equal(pwrite(fd, &byte, 1, 5000), 1);
	assert_int_equal(close(fd), 0);
	struct corpus_merge_config config = basic(0);
	refuse(&config, STATUS_CORRUPT, "corpus2/00000.bin");
	assert_false(file_exists(in_root("merged/corpus.json")));
	assert_false(file_exists(in_root("merged/.lock")));
	make_corpora(0);
	merge(&config);
	expect_same(in_root("whole"), config.output);
	remove_merged();
}

static bool stop_at_once(void *user, uint64_t done, uint64_t total)
{
	(void)user;
	assert_true(done <= total);
	return false;
}

static void stops_when_told(void **state)
{
	(void)state;
	make_inputs(11, 30, 100);
	make_corpora(3000);
	struct corpus_merge_config config = basic(3000);
	config.progress = stop_at_once;
	refuse(&config, STATUS_INTERRUPTED, "stopped");
	assert_false(file_exists(in_root("merged/corpus.json")));
	config.progress = NULL;
	merge(&config);
	expect_same(in_root("whole"), config.output);
	remove_merged();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(equal_to_preprocessing_all),
		cmocka_unit_test(sources_are_dropped_if_one_has_none),
		cmocka_unit_test(twins_stand_in_order_of_the_whole_key),
		cmocka_unit_test(a_false_key_is_told),
		cmocka_unit_test(other_tokenizers_are_refused),
		cmocka_unit_test(wrong_directories_are_refused),
		cmocka_unit_test(damage_is_noticed),
		cmocka_unit_test(stops_when_told),
	};
	return cmocka_run_group_tests(tests, begin, end);
}
