/*
 * Corpora that preprocess_run makes, against a naive writer in this file: encode every document, sort by key
 * with plain code, drop equal keys, lay out .bin, .idx and .key as data/corpus.h says. And: the same bytes
 * whatever the workers, memory, order, interruptions and failures.
 */
#include "data/preprocess.h"

#include "common/log.h"
#include "tests/unit/data/preprocess_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <time.h>
#include <sys/file.h>
#include <xxhash.h>
#include <zlib.h>
#include <zstd.h>

static bool wide; /* its corpora are i32 */

/* ---- documents and the naive writer ---- */

struct text {
	char *data;
	size_t bytes;
};

static struct text texts[4000];
static size_t text_count;

static void forget_texts(void)
{
	for (size_t i = 0; i < text_count; i++)
		free(texts[i].data);
	text_count = 0;
}

/* A document of random words; now and then a copy of an earlier one. */
static const struct text *make_text(uint32_t *seed, size_t most)
{
	static const char *const words[] = {"the", "ship", "left", "Caf\xC3\xA9", "12", "don't", "\n", "  ",
		",", "\xE6\x97\xA5\xE6\x9C\xAC", "of", "harbour", "x", "\xF0\x9F\x98\x80"};
	struct text *text = &texts[text_count++];
	if (text_count > 10 && below(seed, 8) == 0) {
		const struct text *old = &texts[below(seed, (uint32_t)text_count - 1)];
		*text = (struct text){malloc(old->bytes + 1), old->bytes};
		memcpy(text->data, old->data, old->bytes + 1);
		return text;
	}
	size_t wanted = 1 + below(seed, below(seed, 20) ? 300 : (uint32_t)most);
	*text = (struct text){malloc(wanted + 32), 0};
	while (text->bytes < wanted)
		text->bytes += (size_t)sprintf(
			text->data + text->bytes, "%s%s", words[below(seed, 14)], below(seed, 3) ? " " : "");
	return text;
}

struct naive {
	uint64_t high, low;
	const struct text *text;
};

static int compare_naive(const void *a, const void *b)
{
	const struct naive *x = a, *y = b;
	if (x->high != y->high)
		return x->high < y->high ? -1 : 1;
	return x->low < y->low ? -1 : x->low > y->low;
}

struct image {
	uint8_t *data;
	size_t bytes, capacity;
};

static void add_bytes(struct image *image, const void *data, size_t bytes)
{
	if (image->bytes + bytes > image->capacity || !image->data) {
		image->capacity = 2 * (image->bytes + bytes) + 64;
		image->data = realloc(image->data, image->capacity);
	}
	memcpy(image->data + image->bytes, data, bytes);
	image->bytes += bytes;
}

static void expect_file(const char *directory, size_t shard, const char *suffix, const struct image *image)
{
	char path[300];
	size_t bytes;
	snprintf(path, sizeof path, "%s/%05zu.%s", directory, shard, suffix);
	char *data = get_path(path, &bytes);
	if (bytes != image->bytes || memcmp(data, image->data, bytes) != 0)
		fail_msg("%s differs from the naive writer's", path);
	free(data);
	free(image->data);
}

/* Checks one shard: the naive documents [first, last). */
static void check_shard(
	const char *directory, size_t shard, const struct naive *first, const struct naive *last)
{
	struct image bin = {0}, idx = {0}, key = {0};
	struct encoder *encoder;
	uint64_t number = 1, count = (uint64_t)(last - first), offset = 0;
	uint32_t *lengths = calloc(count + 1, 4);
	size_t item = wide ? 4 : 2;
	assert_int_equal(encoder_open(tokenizer, &encoder), STATUS_OK);
	for (uint64_t i = 0; i < count; i++) {
		const struct text *text = first[i].text;
		uint32_t *ids = malloc(text->bytes * 4);
		size_t n;
		assert_int_equal(encoder_encode(encoder, text->data, text->bytes, ids, &n), STATUS_OK);
		for (size_t j = 0; j <= n; j++)
			add_bytes(&bin, &(uint32_t){j < n ? ids[j] : tokenizer_eod(tokenizer)}, item);
		add_bytes(&key, &first[i].high, 8);
		lengths[i] = (uint32_t)n + 1;
		free(ids);
	}
	add_bytes(&idx, "MMIDIDX\0\0", 9);
	add_bytes(&idx, &number, 8);
	add_bytes(&idx, &(uint8_t){wide ? 4 : 8}, 1);
	add_bytes(&idx, &count, 8);
	number = count + 1;
	add_bytes(&idx, &number, 8);
	add_bytes(&idx, lengths, count * 4);
	for (uint64_t i = 0; i < count; offset += lengths[i++] * item)
		add_bytes(&idx, &offset, 8);
	for (number = 0; number <= count; number++)
		add_bytes(&idx, &number, 8);
	expect_file(directory, shard, "bin", &bin);
	expect_file(directory, shard, "idx", &idx);
	expect_file(directory, shard, "key", &key);
	encoder_close(encoder);
	free(lengths);
}

/* Checks a whole corpus against `texts`, and that the corpus reader finds it sound. Returns its shards. */
static uint64_t check_corpus(const char *directory)
{
	struct naive *all = calloc(text_count + 1, sizeof *all);
	size_t count = 0, unique = 0, at = 0;
	for (size_t i = 0; i < text_count; i++)
		if (texts[i].bytes) {
			XXH128_hash_t hash = XXH3_128bits(texts[i].data, texts[i].bytes);
			all[count++] = (struct naive){hash.high64, hash.low64, &texts[i]};
		}
	qsort(all, count, sizeof *all, compare_naive);
	for (size_t i = 0; i < count; i++)
		if (!unique || compare_naive(&all[unique - 1], &all[i]) != 0)
			all[unique++] = all[i];

	struct corpus *corpus;
	if (corpus_open(directory, &corpus) != STATUS_OK)
		fail_msg("%s", error_message());
	const struct corpus_info *info = corpus_get_info(corpus);
	uint64_t shards = info->shard_count;
	assert_int_equal(info->documents, unique);
	assert_int_equal(info->input_documents, count);
	assert_int_equal(info->dropped_duplicates, count - unique);
	assert_int_equal(info->dropped_empty, text_count - count);
	for (uint64_t s = 0; s < shards; s++) {
		size_t first = at;
		/* key / 2^64 * S, rounded down */
		while (at < unique && (uint64_t)(((unsigned __int128)all[at].high * shards) >> 64) == s)
			at++;
		check_shard(directory, s, all + first, all + at);
	}
	assert_int_equal(at, unique);
	if (corpus_verify(corpus, 1, NULL, NULL) != STATUS_OK)
		fail_msg("%s", error_message());
	corpus_close(corpus);
	free(all);
	return shards;
}

/* ---- inputs in every form ---- */

static void add_json(struct image *image, const struct text *text)
{
	char escaped[8];
	add_bytes(image, "{\"id\":1,\"text\":\"", 16);
	for (size_t i = 0; i < text->bytes; i++) {
		unsigned char c = (unsigned char)text->data[i];
		int n = c < 0x20 || c == '"' || c == '\\' ? sprintf(escaped, "\\u%04x", c)
							  : sprintf(escaped, "%c", c);
		add_bytes(image, escaped, (size_t)n);
	}
	add_bytes(image, "\"}\n", 3);
}

/* A JSONL file of `count` new texts. */
static void put_jsonl(const char *name, uint32_t *seed, size_t count)
{
	struct image image = {0};
	for (size_t i = 0; i < count; i++)
		add_json(&image, make_text(seed, 30000));
	size_t length = strlen(name);
	if (strcmp(name + length - 3, ".gz") == 0) {
		gzFile file = gzopen(in_root(name), "wb");
		assert_int_equal(gzwrite(file, image.data, (unsigned)image.bytes), image.bytes);
		assert_int_equal(gzclose(file), Z_OK);
	} else if (strcmp(name + length - 4, ".zst") == 0) {
		size_t bound = ZSTD_compressBound(image.bytes);
		uint8_t *packed = malloc(bound);
		put_file(name, packed, ZSTD_compress(packed, bound, image.data, image.bytes, 3));
		free(packed);
	} else {
		put_file(name, image.data, image.bytes);
	}
	free(image.data);
}

/* JSONL plain, gzip, zstd; text files, some in a folder. */
static void make_inputs(uint32_t seed, size_t scale)
{
	char name[64];
	forget_texts();
	assert_int_equal(directory_remove(in_root("in")), STATUS_OK);
	assert_int_equal(directory_create(in_root("in/folder")), STATUS_OK);
	put_jsonl("in/a.jsonl", &seed, 6 * scale);
	put_jsonl("in/b.json.gz", &seed, 2 * scale);
	put_jsonl("in/c.jsonl.zst", &seed, 2 * scale);
	put_jsonl("in/d.jsonl", &seed, scale);
	for (size_t i = 0; i < scale; i++) {
		const struct text *text = make_text(&seed, 3000);
		snprintf(name, sizeof name, "in/folder/%zu.txt", i);
		put_file(name, text->data, text->bytes);
	}
	texts[text_count++] = (struct text){calloc(1, 1), 0};
	put_text("in/folder/empty", "");
}

/* ---- running ---- */

static const char *inputs[8];

static struct preprocess_config basic(const char *output)
{
	inputs[0] = in_root("in");
	return (struct preprocess_config){
		.inputs = inputs,
		.input_count = 1,
		.output = output,
		.tokenizer = tokenizer,
		.text_key = "text",
		.workers = 2,
		.memory = 64 << 20,
		.max_bytes = 1 << 20,
		.unit_bytes = 50000,
		.shard_bytes = 100000,
	};
}

static struct preprocess_result run(const struct preprocess_config *config)
{
	struct preprocess_result result;
	if (preprocess_run(config, &result) != STATUS_OK)
		fail_msg("%s", error_message());
	return result;
}

static void refuse(const struct preprocess_config *config, enum status status, const char *word)
{
	struct preprocess_result result;
	enum status got = preprocess_run(config, &result);
	if (got != status || !strstr(error_message(), word))
		fail_msg("%s \"%s\", not %s saying \"%s\"", error_status_name(got), error_message(),
			error_status_name(status), word);
}

/* ---- tests ---- */

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

/* GPT-2's printable stand-in of a byte, as UTF-8. */
static const char *stand_in(int byte)
{
	static char texts_of[256][4];
	int next = 256;
	for (int b = 0; b < 256; b++) {
		bool printable = (b > 32 && b < 127) || (b > 160 && b != 173);
		int c = printable ? b : next++;
		if (c < 128)
			snprintf(texts_of[b], 4, "%c", c);
		else
			snprintf(texts_of[b], 4, "%c%c", 0xC0 | c >> 6, 0x80 | (c & 63));
	}
	return texts_of[byte];
}

static void large_vocabularies_are_i32(void **state)
{
	(void)state;
	/* Every pair of bytes is a token: 256 + 65536 + EOD ids. */
	struct image merges = {0};
	struct tokenizer *gpt2 = tokenizer;
	for (int a = 0; a < 256; a++)
		for (int b = 0; b < 256; b++) {
			char line[16], left[4];
			snprintf(left, sizeof left, "%s", stand_in(a));
			int n = snprintf(line, sizeof line, "%s %s\n", left, stand_in(b));
			add_bytes(&merges, line, (size_t)n);
		}
	put_file("merges", merges.data, merges.bytes);
	free(merges.data);
	if (tokenizer_open_files(in_root("merges"), NULL, &tokenizer) != STATUS_OK)
		fail_msg("%s", error_message());
	assert_int_equal(tokenizer_vocabulary(tokenizer), 65793);
	wide = true;
	make_inputs(9, 20);
	struct preprocess_config config = basic(in_root("wide"));
	run(&config);
	assert_true(check_corpus(config.output) > 1);
	/* The vocabulary is in the corpus, and is the same when it is read from there. */
	struct tokenizer *again;
	if (tokenizer_open_directory(config.output, &again) != STATUS_OK)
		fail_msg("%s", error_message());
	struct hash128 a = tokenizer_hash(tokenizer), b = tokenizer_hash(again);
	assert_int_equal(hash128_compare(a, b), 0);
	tokenizer_close(again);
	must(directory_remove(config.output));
	tokenizer_close(tokenizer);
	tokenizer = gpt2;
	wide = false;
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

/* Stops after so many calls. */
struct stopper {
	int calls;
};

static bool count_down(void *user, const struct preprocess_progress *progress)
{
	struct stopper *stopper = user;
	assert_in_range(progress->pass, 1, 2);
	return --stopper->calls > 0;
}

static void goes_on_after_a_stop(void **state)
{
	(void)state;
	uint32_t seed = 77;
	make_inputs(2, 30);
	struct preprocess_config config = basic(in_root("reference"));
	run(&config);
	check_corpus(config.output);
	for (int round = 0; round < 12; round++) {
		struct preprocess_result result = {0};
		enum status status;
		int stops = 0;
		config = basic(in_root("stopped"));
		struct stopper stopper;
		config.progress = count_down;
		config.user = &stopper;
		do {
			/* Other workers, other memory each time. */
			stopper.calls = 2 + (int)below(&seed, 12);
			config.workers = 1 + (int)below(&seed, 4);
			config.memory = (1 + below(&seed, 8)) << 20;
			status = preprocess_run(&config, &result);
			stops += status == STATUS_INTERRUPTED;
			if (status != STATUS_OK && status != STATUS_INTERRUPTED)
				fail_msg("%s", error_message());
			assert_true(stops < 1000);
		} while (status != STATUS_OK);
		assert_true(stops == 0 || result.resumed);
		expect_same(in_root("reference"), config.output);
		must(directory_remove(config.output));
	}
	must(directory_remove(in_root("reference")));
}

static bool until_there(void *user, const struct preprocess_progress *progress)
{
	(void)progress;
	return !file_exists(user);
}

/* Leaves an unfinished run in `config->output`, which was stopped when that unit was done. */
static void leave_unfinished(struct preprocess_config config, const char *unit)
{
	char path[300];
	struct preprocess_result result;
	snprintf(path, sizeof path, "%s/work/%s", config.output, unit);
	config.progress = until_there;
	config.user = path;
	assert_int_equal(preprocess_run(&config, &result), STATUS_INTERRUPTED);
}

static void note_warning(enum log_level level, const char *line, void *user)
{
	(void)level;
	(void)line;
	++*(int *)user;
}

/* A spill file as the disk may leave it: a bit of a segment or of the index flipped, an end of zeros, no end,
 * nothing. */
static void damage(const char *name, int kind)
{
	size_t bytes;
	char *data = get_path(in_root(name), &bytes);
	if (kind < 2)
		data[kind ? bytes - 60 : 100] ^= 1;
	if (kind == 2)
		memset(data + bytes / 2, 0, bytes - bytes / 2);
	put_file(name, data, kind < 3 ? bytes : kind == 3 ? bytes / 2 : 0);
	free(data);
}

/* As soon as it is there. */
static bool damage_own(void *user, const struct preprocess_progress *progress)
{
	bool *done = user;
	(void)progress;
	if (!*done && file_exists(in_root("damaged/work/unit-000000"))) {
		damage("damaged/work/unit-000000", 0);
		*done = true;
	}
	return true;
}

static void damaged_work_is_noticed(void **state)
{
	(void)state;
	make_inputs(3, 10);
	struct preprocess_config config = basic(in_root("reference"));
	config.workers = 1;
	run(&config);
	config.output = in_root("damaged");
	/* What an earlier run left is verified, and made anew where it is damaged. */
	for (int kind = 0; kind < 5; kind++) {
		int warnings = 0;
		leave_unfinished(config, "unit-000000");
		damage("damaged/work/unit-000000", kind);
		log_set_sink(note_warning, &warnings);
		run(&config);
		log_set_sink(NULL, NULL);
		assert_int_equal(warnings, 1);
		expect_same(in_root("reference"), config.output);
		must(directory_remove(config.output));
	}
	/* This run's own is noticed when it is read. */
	bool done = false;
	int warnings = 0;
	config.progress = damage_own;
	config.user = &done;
	refuse(&config, STATUS_CORRUPT, "unit-000000");
	config.progress = NULL;
	log_set_sink(note_warning, &warnings);
	run(&config);
	log_set_sink(NULL, NULL);
	assert_int_equal(warnings, 1);
	expect_same(in_root("reference"), config.output);
	must(directory_remove(config.output));
	must(directory_remove(in_root("reference")));
}

static atomic_int opened; /* units */
static bool met;

/* Who opens a unit first waits until another does. */
static int open_beside_another(const char *path, int flags, mode_t mode)
{
	static const struct timespec moment = {.tv_nsec = 1000000};
	if (strstr(path, "/work/unit-") && atomic_fetch_add(&opened, 1) == 0) {
		for (int i = 0; i < 10000 && atomic_load(&opened) == 1; i++)
			nanosleep(&moment, NULL);
		met = atomic_load(&opened) > 1;
	}
	return file_operations_system.open(path, flags, mode);
}

static void units_are_recalled_by_all_workers(void **state)
{
	(void)state;
	make_inputs(3, 10);
	struct preprocess_config config = basic(in_root("recalled"));
	config.unit_bytes = 4000;
	config.workers = 1;
	leave_unfinished(config, "unit-000001");
	config.workers = 2;
	struct file_operations meeting = unsynced;
	meeting.open = open_beside_another;
	file_system = &meeting;
	assert_true(run(&config).resumed);
	file_system = &unsynced;
	assert_true(met);
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
	for (int i = 0; lines.bytes < 12 << 20; i++) {
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

static void other_options_and_inputs_are_refused(void **state)
{
	(void)state;
	make_inputs(4, 10);
	struct preprocess_config config = basic(in_root("reference"));
	run(&config);
	refuse(&config, STATUS_USAGE, "already holds a corpus");
	config.output = in_root("changed");
	leave_unfinished(config, "unit-000000");
	struct preprocess_config other = config;
	other.text_key = "body";
	refuse(&other, STATUS_MISMATCH, "text key is \"text\", not \"body\"");
	other = config;
	other.strict = true;
	refuse(&other, STATUS_MISMATCH, "strict is false, not true");
	other = config;
	other.document_separator = "--";
	refuse(&other, STATUS_MISMATCH, "document separator is null, not \"--\"");
	other = config;
	put_text("in/b2.txt", "a new one");
	refuse(&config, STATUS_MISMATCH, "in/b2.txt was not among its inputs");
	assert_int_equal(file_remove(in_root("in/b2.txt")), STATUS_OK);
	assert_int_equal(rename(in_root("in/a.jsonl"), in_root("a.jsonl")), 0);
	refuse(&config, STATUS_MISMATCH, "in/a.jsonl was among its inputs and is not now");
	assert_int_equal(rename(in_root("a.jsonl"), in_root("in/a.jsonl")), 0);
	FILE *file = fopen(in_root("in/d.jsonl"), "ab");
	assert_int_equal(fputs("\n", file) >= 0 && fclose(file) == 0, 1);
	refuse(&config, STATUS_MISMATCH, "in/d.jsonl has changed");
	/* A blank line more is the same documents: the same bytes, once it may begin anew. */
	config.overwrite = true;
	struct preprocess_result result = run(&config);
	assert_false(result.resumed);
	expect_same(in_root("reference"), config.output);
	/* An old corpus gives way whole: shards that the new one has not, its rejects. */
	put_text("changed/00999.bin", "old");
	put_text("changed/rejects.jsonl", "old");
	run(&config);
	expect_same(in_root("reference"), config.output);
	must(directory_remove(config.output));
	must(directory_remove(in_root("reference")));
}

static void one_run_at_a_time(void **state)
{
	(void)state;
	make_inputs(5, 2);
	struct preprocess_config config = basic(in_root("locked"));
	assert_int_equal(directory_create(config.output), STATUS_OK);
	int fd = open(in_root("locked/.lock"), O_RDWR | O_CREAT, 0666);
	assert_int_equal(flock(fd, LOCK_EX), 0);
	refuse(&config, STATUS_USAGE, "at work on this output");
	close(fd);
	run(&config);
	must(directory_remove(config.output));
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

static void use_as_stdin(const char *path)
{
	int fd = open(path, O_RDONLY);
	assert_true(fd >= 0);
	assert_int_equal(dup2(fd, 0), 0);
	close(fd);
}

static void standard_input(void **state)
{
	(void)state;
	uint32_t seed = 8;
	forget_texts();
	put_jsonl("stream", &seed, 300);
	struct preprocess_config config = basic(in_root("stdin"));
	inputs[0] = "-";
	config.workers = 1;
	use_as_stdin(in_root("stream"));
	/* Once the only unit is there, standard input is not needed. */
	struct stopper stopper = {2};
	int stops = 0;
	struct preprocess_result result;
	config.progress = count_down;
	config.user = &stopper;
	while (preprocess_run(&config, &result) != STATUS_OK) {
		bool first_pass_done = file_exists(in_root("stdin/work/unit-000000"));
		use_as_stdin(first_pass_done ? "/dev/null" : in_root("stream"));
		stopper.calls = 3 + stops++; /* a shard has several ranges, and is begun anew */
		assert_true(stops < 100);
	}
	assert_true(result.resumed);
	check_corpus(config.output);
	use_as_stdin("/dev/null");
	must(directory_remove(config.output));
}

static int end_and_forget(void **state)
{
	forget_texts();
	return end(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(equal_to_the_naive_writer),
		cmocka_unit_test(separators_cut_documents),
		cmocka_unit_test(large_vocabularies_are_i32),
		cmocka_unit_test(rejects_are_listed),
		cmocka_unit_test(short_documents_are_rejected),
		cmocka_unit_test(long_records_do_not_pile_up),
		cmocka_unit_test(invalid_utf8),
		cmocka_unit_test(goes_on_after_a_stop),
		cmocka_unit_test(damaged_work_is_noticed),
		cmocka_unit_test(units_are_recalled_by_all_workers),
		cmocka_unit_test(workers_share_a_unit),
		cmocka_unit_test(other_options_and_inputs_are_refused),
		cmocka_unit_test(one_run_at_a_time),
		cmocka_unit_test(nothing_to_read),
		cmocka_unit_test(standard_input),
	};
	return cmocka_run_group_tests(tests, begin, end_and_forget);
}
