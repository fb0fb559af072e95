/*
 * Corpora that preprocess_run makes, against a naive writer (preprocess_oracle.h), and what it rejects. And:
 * the same bytes whatever the workers, memory and order. Interruptions: test_preprocess_resume.c.
 */
#include "tests/unit/data/preprocess_oracle.h"

static void equal_to_the_naive_writer(void **state)
{
	(void)state;
	static const struct {
		int workers;
		uint64_t memory, unit_bytes, shard_bytes;
	} ways[] = {{1, 64 << 20, 50000, 100000}, {2, 1 << 20, 1 << 30, 100000}, {5, 1 << 20, 20000, 100000},
		{3, 4 << 20, 0, 100000}, {2, 1 << 20, 50000, 0}, {1, 1 << 20, 1 << 30, 0}};
	make_inputs(1, 100);
	struct preprocess_config config = basic(in_root("reference"));
	struct preprocess_result result = run(&config);
	assert_true(check_corpus(config.output) > 2);
	assert_int_equal(result.input_documents + result.empty, text_count);
	assert_false(result.resumed);
	for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
		config = basic(in_root("other"));
		config.workers = ways[i].workers;
		config.memory = ways[i].memory;
		config.unit_bytes = ways[i].unit_bytes;
		config.shard_bytes = ways[i].shard_bytes;
		/* The same files, named one by one and backwards. */
		inputs[0] = in_root("in/folder");
		inputs[1] = in_root("in/d.jsonl");
		inputs[2] = in_root("in/c.jsonl.zst");
		inputs[3] = in_root("in/b.json.gz");
		inputs[4] = in_root("in/a.jsonl");
		config.input_count = 5;
		result = run(&config);
		if (ways[i].shard_bytes)
			expect_same(in_root("reference"), config.output);
		else
			assert_int_equal(check_corpus(config.output), 1);
		must(directory_remove(config.output));
	}
	must(directory_remove(in_root("reference")));
}

static void separators_cut_documents(void **state)
{
	(void)state;
	uint32_t seed = 4;
	struct image image = {0};
	forget_texts();
	must(directory_remove(in_root("in")));
	assert_int_equal(directory_create(in_root("in")), STATUS_OK);
	for (int i = 0; i < 200; i++) {
		const struct text *text = make_text(&seed, 3000);
		if (i)
			add_bytes(&image, "<|endoftext|>", 13);
		add_bytes(&image, text->data, text->bytes);
	}
	put_file("in/cut.txt", image.data, image.bytes);
	free(image.data);
	struct preprocess_config config = basic(in_root("cut"));
	config.document_separator = "<|endoftext|>";
	run(&config);
	check_corpus(config.output);
	must(directory_remove(config.output));
}

static void rejects_are_listed(void **state)
{
	(void)state;
	struct image image = {0};
	char line[200];
	forget_texts();
	must(directory_remove(in_root("in")));
	assert_int_equal(directory_create(in_root("in")), STATUS_OK);
	/* Bad lines in every part of a file that is cut into many, with blank lines and a mark before. */
	add_bytes(&image, "\xEF\xBB\xBF", 3);
	struct image expected = {0};
	for (int i = 1; i <= 900; i++) {
		if (i % 90 == 7) {
			add_bytes(&image, "{\"text\":1}\n", 11);
			int n = snprintf(line, sizeof line,
				"{\"file\": \"%s/in/b\\\\\\\".jsonl\", \"line\": %d, \"byte\": %zu, "
				"\"reason\": \"the text is not a string (column 9)\"}\n",
				root, i, image.bytes - 11);
			add_bytes(&expected, line, (size_t)n);
		} else if (i % 90 == 50) {
			add_bytes(&image, " \t\r\n", 4);
		} else {
			int n = sprintf(line, "{\"text\":\"document %d of many\"}\n", i);
			add_bytes(&image, line, (size_t)n);
		}
	}
	put_file("in/b\\\".jsonl", image.data, image.bytes);
	put_text("in/a.txt", "this document is longer than the sixty bytes that are allowed here");
	struct preprocess_config config = basic(in_root("rejects"));
	config.unit_bytes = 700;
	config.max_bytes = 60;
	struct preprocess_result result = run(&config);
	assert_int_equal(result.rejected, 11);
	assert_int_equal(result.documents, 880);
	size_t bytes;
	char *got = get_path(in_root("rejects/rejects.jsonl"), &bytes);
	int first = snprintf(line, sizeof line,
		"{\"file\": \"%s\", \"byte\": 0, \"reason\": \"the document is too long\"}\n",
		in_root("in/a.txt"));
	assert_int_equal(bytes, (size_t)first + expected.bytes);
	assert_memory_equal(got, line, first);
	assert_memory_equal(got + first, expected.data, expected.bytes);
	free(got);
	free(expected.data);
	free(image.data);

	config.output = in_root("stopped");
	config.fail_on_bad_line = true;
	refuse(&config, STATUS_CORRUPT, "a.txt: byte 0: the document is too long");
	must(directory_remove(config.output));
	assert_int_equal(file_remove(in_root("in/a.txt")), STATUS_OK);
	config.workers = 1;
	refuse(&config, STATUS_CORRUPT, ".jsonl: line 7 (byte ");
	/* The line number of a later part is counted from the file's beginning. */
	must(directory_remove(in_root("in")));
	assert_int_equal(directory_create(in_root("in")), STATUS_OK);
	image = (struct image){0};
	for (int i = 1; i < 333; i++)
		add_bytes(&image, "{\"text\":\"x\"}\n", 13);
	add_bytes(&image, "{}\n", 3);
	put_file("in/a.jsonl", image.data, image.bytes);
	free(image.data);
	for (config.unit_bytes = 100; config.unit_bytes < 140; config.unit_bytes++) {
		must(directory_remove(config.output));
		refuse(&config, STATUS_CORRUPT, "line 333 (byte 4316)");
	}
	must(directory_remove(config.output));
	must(directory_remove(in_root("rejects")));
}

static void short_documents_are_rejected(void **state)
{
	(void)state;
	make_inputs(13, 12);
	struct preprocess_config config = basic(in_root("long"));
	config.min_tokens = 40;
	config.fail_on_bad_line = true; /* they are no bad lines */
	struct preprocess_result result = run(&config);
	/* The naive writer sees those that are long enough, and the empty ones. */
	struct encoder *encoder;
	size_t kept = 0, dropped = 0, lines = 0, bytes, count;
	assert_int_equal(encoder_open(tokenizer, &encoder), STATUS_OK);
	for (size_t i = 0; i < text_count; i++) {
		uint32_t *ids = malloc(texts[i].bytes * 4 + 4);
		assert_int_equal(
			encoder_encode(encoder, texts[i].data, texts[i].bytes, ids, &count), STATUS_OK);
		free(ids);
		if (texts[i].bytes && count < 40) {
			free(texts[i].data);
			dropped++;
		} else {
			texts[kept++] = texts[i];
		}
	}
	encoder_close(encoder);
	text_count = kept;
	assert_true(dropped > 10 && kept > 10);
	check_corpus(config.output);
	assert_int_equal(result.rejected, dropped);
	char *list = get_path(in_root("long/rejects.jsonl"), &bytes);
	for (const char *at = list; (at = strstr(at, "fewer than 40 tokens\"}\n")); at++)
		lines++;
	assert_int_equal(lines, dropped);
	free(list);
	must(directory_remove(config.output));
}

static void long_records_do_not_pile_up(void **state)
{
	(void)state;
	/* max_bytes 1000: lines up to 1 MiB + 6000 bytes are read, longer ones passed over. */
	size_t bytes = 3 << 20;
	char *data = malloc(bytes);
	memset(data, 'a', bytes);
	memcpy(data, "{\"text\":\"ok\"}\n{\"text\":\"", 24);
	memcpy(data + bytes - 20, "\"}\n{\"text\":\"fine\"}\n", 20);
	must(directory_remove(in_root("in")));
	assert_int_equal(directory_create(in_root("in")), STATUS_OK);
	put_file("in/a.jsonl", data, bytes - 1);
	free(data);
	struct preprocess_config config = basic(in_root("long"));
	config.max_bytes = 1000;
	struct preprocess_result result = run(&config);
	assert_int_equal(result.documents, 2);
	assert_int_equal(result.rejected, 1);
	char *got = get_path(in_root("long/rejects.jsonl"), &bytes);
	assert_non_null(strstr(got, "\"line\": 2, \"byte\": 14, \"reason\": \"the line is too long\""));
	free(got);
	must(directory_remove(config.output));
}

static void invalid_utf8(void **state)
{
	(void)state;
	must(directory_remove(in_root("in")));
	assert_int_equal(directory_create(in_root("in")), STATUS_OK);
	forget_texts();
	put_text("in/a.txt", "one\xFFtwo\xC3");
	put_text("in/b.jsonl", "{\"text\":\"good\"}\n{\"text\":\"\\ud800 \xE2\x82 bad\"}\n");
	texts[text_count++] = (struct text){strdup("one\xEF\xBF\xBDtwo\xEF\xBF\xBD"), 12};
	texts[text_count++] = (struct text){strdup("good"), 4};
	texts[text_count++] = (struct text){strdup("\xEF\xBF\xBD \xEF\xBF\xBD bad"), 11};
	struct preprocess_config config = basic(in_root("repaired"));
	struct preprocess_result result = run(&config);
	assert_int_equal(result.repaired, 4);
	check_corpus(config.output);
	must(directory_remove(config.output));
	config.strict = true;
	config.workers = 1;
	refuse(&config, STATUS_CORRUPT, "a.txt: byte 3: not valid UTF-8");
	must(directory_remove(config.output));
	assert_int_equal(file_remove(in_root("in/a.txt")), STATUS_OK);
	refuse(&config, STATUS_CORRUPT, "b.jsonl: line 2 (byte 25): not valid UTF-8");
	must(directory_remove(config.output));
}

/* One file that cannot be cut into units: whatever the workers, the same bytes, rejects and first error. */
static void workers_share_a_unit(void **state)
{
	(void)state;
	uint32_t seed = 9;
	struct image lines = {0};
	forget_texts();
	assert_int_equal(directory_remove(in_root("in")), STATUS_OK);
	assert_int_equal(directory_create(in_root("in")), STATUS_OK);
	for (int i = 0; lines.bytes < 3 << 20; i++) {
		char bad[64];
		text_count = 0; /* not to be checked one by one */
		const struct text *text = make_text(&seed, 30000);
		add_json(&lines, text);
		free(text->data);
		add_bytes(&lines, bad, (size_t)sprintf(bad, i % 7 ? "\n" : "{\"text\": %d}\n", i));
	}
	text_count = 0;
	gzFile gzip = gzopen(in_root("in/one.jsonl.gz"), "wb1");
	assert_int_equal(gzwrite(gzip, lines.data, (unsigned)lines.bytes), lines.bytes);
	assert_int_equal(gzclose(gzip), Z_OK);
	put_file("in/two.txt", lines.data, lines.bytes);
	struct preprocess_config config = basic(in_root("reference"));
	config.document_separator = "\"}\n";
	config.unit_bytes = 64 << 20;
	config.workers = 1;
	struct preprocess_result result = run(&config);
	assert_true(result.rejected > 200);
	config.output = in_root("shared");
	for (config.workers = 2; config.workers < 9; config.workers += 3) {
		config.memory = (uint64_t)config.workers << 20;
		run(&config);
		expect_same(in_root("reference"), config.output);
		must(directory_remove(config.output));
	}
	/* Both do: of two workers neither finds the other done with it all. (A busy machine may start the
	 * second one late; not twenty times.) */
	const char *one = in_root("in/one.jsonl.gz");
	config.inputs = &one;
	config.workers = 2;
	bool both = false;
	for (int i = 0; i < 20 && !both; i++) {
		double seconds[2][PREPROCESS_STAGES] = {{0}};
		config.profile = seconds;
		run(&config);
		both = seconds[0][PREPROCESS_TOKENIZE] > 0 && seconds[1][PREPROCESS_TOKENIZE] > 0;
		must(directory_remove(config.output));
	}
	assert_true(both);
	config.profile = NULL;
	config.workers = 5;
	config.fail_on_bad_line = true;
	for (int i = 0; i < 3; i++) {
		refuse(&config, STATUS_CORRUPT, "one.jsonl.gz: line 2 (");
		must(directory_remove(config.output));
	}
	must(directory_remove(in_root("reference")));
	free(lines.data);
}

static void nothing_to_read(void **state)
{
	(void)state;
	must(directory_remove(in_root("in")));
	assert_int_equal(directory_create(in_root("in")), STATUS_OK);
	struct preprocess_config config = basic(in_root("nothing"));
	refuse(&config, STATUS_USAGE, "no files");
	put_text("in/a.jsonl", "{\"body\":\"x\"}\n");
	refuse(&config, STATUS_USAGE, "--text-key (now \"text\")");
	assert_true(file_exists(in_root("nothing/rejects.jsonl")));
	assert_false(file_exists(in_root("nothing/work")));
	/* and the right key needs no clearing up */
	config.text_key = "body";
	run(&config);
	assert_false(file_exists(in_root("nothing/rejects.jsonl")));
	must(directory_remove(config.output));
	config = basic(in_root("nothing"));
	config.workers = 0;
	refuse(&config, STATUS_USAGE, "workers");
	config = basic(in_root("nothing"));
	inputs[0] = in_root("in/missing.jsonl");
	refuse(&config, STATUS_IO, "missing.jsonl");
	assert_false(file_exists(in_root("nothing")));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(equal_to_the_naive_writer),
		cmocka_unit_test(separators_cut_documents),
		cmocka_unit_test(rejects_are_listed),
		cmocka_unit_test(short_documents_are_rejected),
		cmocka_unit_test(long_records_do_not_pile_up),
		cmocka_unit_test(invalid_utf8),
		cmocka_unit_test(workers_share_a_unit),
		cmocka_unit_test(nothing_to_read),
	};
	return cmocka_run_group_tests(tests, begin, end_and_forget);
}
