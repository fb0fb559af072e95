/*
 * NNNNN.src of corpora that preprocess_run makes: parsed here as data/sources.h says, against the inputs
 * themselves: the text at the place that a document names is the document's, and no smaller place has it.
 */
#include "data/sources.h"

#include "data/preprocess.h"
#include "tests/unit/data/preprocess_fixture.h"

#include <xxhash.h>
#include <zstd.h>

/* ---- inputs, and where each text is ---- */

enum { TEXTS = 1500, KINDS = 700, FILES = 7 };

static const char *const files[FILES] = {"in/a.jsonl", "in/b.txt", "in/c.jsonl.zst", "in/d/long.jsonl",
	"in/d/z.txt", "in/e.jsonl", "in/f.txt"};

/* Every place of a document; the text is a number in words, so that texts come again and again. */
static struct place {
	int kind;
	int file;
	uint64_t line, byte;
} places[TEXTS];
static int place_count;

static void spell(int kind, char text[64])
{
	snprintf(text, 64, "Text %d of many, %x.", kind, (unsigned)kind * 2654435761u);
}

/* One file: JSONL with blank and bad lines between, or text cut at "<|>" with empty pieces between. */
static void make_file(int number, int documents, uint32_t *seed)
{
	char *data = malloc((size_t)documents * 120 + 16), text[64];
	size_t at = 0;
	uint64_t line = 0;
	bool lines = strstr(files[number], ".jsonl");
	for (int i = 0; i < documents; i++) {
		int kind = (int)below(seed, KINDS);
		spell(kind, text);
		if (lines && below(seed, 5) == 0)
			line++, at +=
				(size_t)sprintf(data + at, "%s\n", below(seed, 2) ? "" : "{\"text\": 3}");
		if (!lines && (i || below(seed, 5) == 0))
			at += (size_t)sprintf(data + at, "<|>");
		places[place_count++] = (struct place){kind, number, lines ? ++line : 0, at};
		at += (size_t)sprintf(data + at, lines ? "{\"text\": \"%s\"}\n" : "%s", text);
	}
	if (strstr(files[number], ".zst")) {
		size_t bound = ZSTD_compressBound(at);
		char *packed = malloc(bound);
		put_file(files[number], packed, ZSTD_compress(packed, bound, data, at, 3));
		free(packed);
	} else {
		put_file(files[number], data, at);
	}
	free(data);
}

static void make_inputs(void)
{
	uint32_t seed = 7;
	static const int documents[FILES] = {100, 50, 200, 900, 1, 99, 150};
	must(directory_create(in_root("in/d")));
	place_count = 0;
	for (int i = 0; i < FILES; i++)
		make_file(i, documents[i], &seed);
	assert_int_equal(place_count, TEXTS);
}

static const char *input;

static struct preprocess_config basic(const char *output)
{
	input = in_root("in");
	return (struct preprocess_config){
		.inputs = &input,
		.input_count = 1,
		.output = output,
		.tokenizer = tokenizer,
		.text_key = "text",
		.document_separator = "<|>",
		.workers = 2,
		.memory = 1 << 20,
		.max_bytes = 1 << 20,
		.sources = true,
		.unit_bytes = 5000,
		.shard_bytes = 8000,
	};
}

static struct corpus *preprocess(const struct preprocess_config *config)
{
	struct preprocess_result result;
	struct corpus *corpus;
	must(preprocess_run(config, &result));
	must(corpus_open(config->output, &corpus));
	return corpus;
}

/* The first place, in the order of path, line and byte, of the text. */
static const struct place *first_place(const char *text, size_t bytes)
{
	for (int i = 0; i < place_count; i++) { /* files are in the order of paths */
		char spelt[64];
		spell(places[i].kind, spelt);
		if (strlen(spelt) == bytes && memcmp(spelt, text, bytes) == 0)
			return &places[i];
	}
	fail_msg("a document that is in no file");
	return NULL;
}

static void expect_source(struct corpus *corpus, uint64_t document, const struct source *source)
{
	uint64_t first, count;
	int32_t ids[256];
	char *text;
	size_t bytes;
	must(corpus_document(corpus, document, &first, &count));
	assert_in_range(count, 1, 256);
	must(corpus_read(corpus, first, count, ids));
	must(tokenizer_decode(tokenizer, (const uint32_t *)ids, (size_t)count - 1, &text, &bytes));
	const struct place *expected = first_place(text, bytes);
	assert_string_equal(source->path, in_root(files[expected->file]));
	assert_int_equal(source->line, expected->line);
	assert_int_equal(source->byte, expected->byte);
	free(text);
}

/* ---- tests ---- */

static void documents_name_their_first_place(void **state)
{
	(void)state;
	struct preprocess_config config = basic(in_root("corpus"));
	struct corpus *corpus = preprocess(&config);
	const struct corpus_info *info = corpus_get_info(corpus);
	struct sources *sources;
	struct source source;
	assert_true(info->sources);
	assert_true(info->shard_count > 2);
	assert_true(info->dropped_duplicates > 500);
	must(sources_open(corpus, &sources));
	for (uint64_t i = 0; i < info->documents; i++) {
		must(sources_get(sources, i, &source));
		expect_source(corpus, i, &source);
	}
	must(sources_get(sources, 0, &source)); /* back again */
	expect_source(corpus, 0, &source);
	assert_int_equal(sources_get(sources, info->documents, &source), STATUS_USAGE);
	sources_close(sources);
	must(corpus_verify(corpus, 2, NULL, NULL));
	corpus_close(corpus);
}

static uint64_t number(const uint8_t *from, int bytes)
{
	uint64_t n = 0;
	while (bytes--)
		n = n << 8 | from[bytes];
	return n;
}

/* The bytes are laid out as the header says; paths stand once, in the order of the documents. */
static void the_format_is_as_told(void **state)
{
	(void)state;
	struct corpus *corpus;
	struct sources *sources;
	must(corpus_open(in_root("corpus"), &corpus));
	must(sources_open(corpus, &sources));
	const struct corpus_info *info = corpus_get_info(corpus);
	for (uint64_t s = 0; s < info->shard_count; s++) {
		char name[64];
		size_t bytes, at = 16, text = 0;
		uint64_t paths = 0;
		snprintf(name, sizeof name, "%s/%05d.src", in_root("corpus"), (int)s);
		uint8_t *data = (uint8_t *)get_path(name, &bytes);
		XXH128_hash_t hash = XXH3_128bits(data, bytes);
		assert_int_equal(hash.high64, info->shards[s].src_hash.high);
		assert_int_equal(hash.low64, info->shards[s].src_hash.low);
		assert_memory_equal(data, "FERRYSRC\1\0\0\0\0\0\0\0", 16);
		uint64_t documents = number(data + bytes - 24, 8), all = number(data + bytes - 16, 8);
		assert_int_equal(documents, info->shards[s].documents);
		const uint8_t *begins = data + 16 + 20 * documents;
		for (uint64_t i = 0; i < documents; i++, at += 20) {
			struct source source;
			must(sources_get(sources, info->shards[s].first_document + i, &source));
			uint64_t path = number(data + at + 16, 4);
			assert_int_equal(number(data + at, 8), source.line);
			assert_int_equal(number(data + at + 8, 8), source.byte);
			assert_in_range(path, 0, paths);
			if (path == paths) { /* a new one */
				assert_int_equal(number(begins + 8 * paths++, 8), text);
				text += strlen(source.path) + 1;
			}
			assert_string_equal(
				(char *)begins + 8 * all + number(begins + 8 * path, 8), source.path);
		}
		assert_int_equal(paths, all);
		assert_int_equal(number(data + bytes - 8, 8), text);
		assert_int_equal(16 + 20 * documents + 8 * all + text + 24, bytes);
		free(data);
	}
	sources_close(sources);
	corpus_close(corpus);
}

static bool stop_at(void *user, const struct preprocess_progress *progress)
{
	int *left = user;
	(void)progress;
	return (*left)-- > 0;
}

/* Workers, memory, units and interruptions do not show. */
static void the_same_bytes_always(void **state)
{
	(void)state;
	for (int way = 0; way < 4; way++) {
		struct preprocess_config config = basic(in_root("other"));
		config.workers = 1 + way;
		config.unit_bytes = way == 1 ? 1 << 20 : 3000;
		config.memory = way == 2 ? 64 << 20 : 1 << 20;
		for (int stops = 3; way == 3 && stops < 60; stops += 9) {
			struct preprocess_result result;
			int left = stops;
			config.progress = stop_at;
			config.user = &left;
			enum status status = preprocess_run(&config, &result);
			if (status == STATUS_OK)
				break;
			assert_int_equal(status, STATUS_INTERRUPTED);
		}
		config.progress = NULL;
		config.overwrite = true;
		corpus_close(preprocess(&config));
		expect_same(in_root("corpus"), config.output);
		must(directory_remove(config.output));
	}
}

/* Sources change no other file, nor the corpus's identity; without them there is no word of them. */
static void the_tokens_are_the_same_without(void **state)
{
	(void)state;
	struct preprocess_config config = basic(in_root("without"));
	struct corpus *with, *without;
	struct sources *sources;
	size_t bytes;
	config.sources = false;
	without = preprocess(&config);
	must(corpus_open(in_root("corpus"), &with));
	assert_false(corpus_get_info(without)->sources);
	assert_int_equal(hash128_compare(corpus_get_info(with)->hash, corpus_get_info(without)->hash), 0);
	assert_int_equal(sources_open(without, &sources), STATUS_USAGE);
	assert_non_null(strstr(error_message(), "--sources"));
	char *manifest = get_path(in_root("without/corpus.json"), &bytes);
	assert_null(strstr(manifest, "src"));
	free(manifest);
	assert_false(file_exists(in_root("without/00000.src")));
	corpus_close(with);
	corpus_close(without);
	/* Overwritten by one without sources, an old .src goes. */
	config.sources = true;
	config.overwrite = true;
	corpus_close(preprocess(&config));
	assert_true(file_exists(in_root("without/00000.src")));
	config.sources = false;
	corpus_close(preprocess(&config));
	assert_false(file_exists(in_root("without/00000.src")));
	must(directory_remove(config.output));
}

static void expect_damage(const char *path)
{
	struct corpus *corpus;
	struct sources *sources;
	struct source source;
	must(corpus_open(in_root("corpus"), &corpus));
	must(sources_open(corpus, &sources));
	enum status status = sources_get(sources, 0, &source);
	assert_int_equal(status, STATUS_CORRUPT);
	assert_non_null(strstr(error_message(), path));
	assert_int_equal(corpus_verify(corpus, 1, NULL, NULL), STATUS_CORRUPT);
	assert_non_null(strstr(error_message(), path));
	sources_close(sources);
	corpus_close(corpus);
}

static void damage_is_found(void **state)
{
	(void)state;
	const char *path = in_root("corpus/00000.src");
	size_t bytes;
	char *data = get_path(path, &bytes);
	for (size_t i = 0; i < bytes; i += i < 100 || i + 60 > bytes ? 1 : 97) {
		data[i] ^= (char)(1 << i % 8);
		put_path(path, data, bytes);
		expect_damage(path);
		data[i] ^= (char)(1 << i % 8);
	}
	for (size_t i = 0; i < bytes; i += i < 100 || i + 60 > bytes ? 1 : 97) {
		put_path(path, data, i);
		expect_damage(path);
	}
	put_path(path, data, bytes);
	free(data);
	must(file_remove(in_root("corpus/00001.src")));
	struct corpus *corpus;
	must(corpus_open(in_root("corpus"), &corpus));
	assert_int_equal(corpus_verify(corpus, 1, NULL, NULL), STATUS_IO);
	assert_non_null(strstr(error_message(), "00001.src"));
	corpus_close(corpus);
}

/* A manifest's text that was changed: its seal, "check", is put right. */
static void put_sealed(const char *manifest, char *text, size_t bytes)
{
	char *seal = strstr(text, "\"check\":"), digits[17];
	snprintf(digits, sizeof digits, "%016llx",
		(unsigned long long)XXH3_64bits(text, (size_t)(seal - text)));
	memcpy(strstr(seal + 8, "\"") + 1, digits, 16);
	put_path(manifest, text, bytes);
}

/* A list whose hash is right but which makes no sense is no reason to read beyond it. */
static void nonsense_is_refused(void **state)
{
	(void)state;
	static const struct {
		int at, from_end, bytes;
		uint64_t number;
		const char *words;
	} ways[] = {{0, 0, 1, 'f', "not a list"}, {8, 0, 8, 2, "version 2"},
		{32, 0, 4, 9999, "does not hold"}, {0, 24, 8, 1, "another number"},
		{0, 16, 8, UINT64_MAX / 4, "size"}, {0, 8, 8, UINT64_MAX - 7, "size"},
		{0, 25, 1, 'x', "without an end"}};
	const char *path = in_root("corpus/00000.src"), *manifest = in_root("corpus/corpus.json");
	size_t bytes, manifest_bytes;
	char *data = get_path(path, &bytes), *json = get_path(manifest, &manifest_bytes);
	for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
		char *copy = malloc(bytes), *text = malloc(manifest_bytes + 1), digits[40];
		memcpy(copy, data, bytes);
		memcpy(text, json, manifest_bytes + 1);
		size_t at = ways[i].from_end ? bytes - (size_t)ways[i].from_end : (size_t)ways[i].at;
		memcpy(copy + at, &ways[i].number, (size_t)ways[i].bytes);
		put_path(path, copy, bytes);
		XXH128_hash_t hash = XXH3_128bits(copy, bytes);
		snprintf(digits, sizeof digits, "%016llx%016llx", (unsigned long long)hash.high64,
			(unsigned long long)hash.low64);
		memcpy(strstr(strstr(text, "\"src\":") + 6, "\"") + 1, digits, 32);
		put_sealed(manifest, text, manifest_bytes);
		struct corpus *corpus;
		must(corpus_open(in_root("corpus"), &corpus));
		enum status status = sources_check(corpus, 0);
		if ((status != STATUS_CORRUPT && status != STATUS_UNSUPPORTED) ||
			!strstr(error_message(), ways[i].words))
			fail_msg("%s: \"%s\", not \"%s\"", error_status_name(status), error_message(),
				ways[i].words);
		corpus_close(corpus);
		free(copy);
		free(text);
	}
	put_path(path, data, bytes);
	put_path(manifest, json, manifest_bytes);
	free(data);
	free(json);
}

/* All shards have sources, or none has. */
static void some_shards_without(void **state)
{
	(void)state;
	const char *manifest = in_root("corpus/corpus.json");
	size_t bytes;
	char *json = get_path(manifest, &bytes), *text = strdup(json);
	assert_non_null(text);
	char *member = strstr(strstr(text, "\"src\":") + 1, "\"src\":"); /* the second shard's */
	memcpy(member, "\"crc\":", 6);
	put_sealed(manifest, text, bytes);
	struct corpus *corpus;
	assert_int_equal(corpus_open(in_root("corpus"), &corpus), STATUS_CORRUPT);
	assert_non_null(strstr(error_message(), "shard 1"));
	put_path(manifest, json, bytes);
	free(json);
	free(text);
}

static int begin_with_inputs(void **state)
{
	if (begin(state) != 0)
		return -1;
	make_inputs();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(documents_name_their_first_place),
		cmocka_unit_test(the_format_is_as_told),
		cmocka_unit_test(the_same_bytes_always),
		cmocka_unit_test(the_tokens_are_the_same_without),
		cmocka_unit_test(nonsense_is_refused),
		cmocka_unit_test(some_shards_without),
		cmocka_unit_test(damage_is_found),
	};
	return cmocka_run_group_tests(tests, begin_with_inputs, end);
}
