/*
 * preprocess_oracle.h: a naive writer of corpora for tests of preprocess_run: encode every document, sort by
 * key with plain code, drop equal keys, lay out .bin, .idx and .key as data/corpus.h says. make_inputs writes
 * random documents in every form of input and keeps their texts; check_corpus compares a corpus with what
 * they come to.
 */
#ifndef TESTS_PREPROCESS_ORACLE_H
#define TESTS_PREPROCESS_ORACLE_H

#include "data/preprocess.h"
#include "tests/unit/data/preprocess_fixture.h"

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

SCRATCH_FUNCTION void forget_texts(void)
{
	for (size_t i = 0; i < text_count; i++)
		free(texts[i].data);
	text_count = 0;
}

/* A document of random words; now and then a copy of an earlier one. */
SCRATCH_FUNCTION const struct text *make_text(uint32_t *seed, size_t most)
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

SCRATCH_FUNCTION void add_bytes(struct image *image, const void *data, size_t bytes)
{
	if (image->bytes + bytes > image->capacity || !image->data) {
		image->capacity = 2 * (image->bytes + bytes) + 64;
		image->data = realloc(image->data, image->capacity);
	}
	memcpy(image->data + image->bytes, data, bytes);
	image->bytes += bytes;
}

SCRATCH_FUNCTION void expect_file(
	const char *directory, size_t shard, const char *suffix, const struct image *image)
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
SCRATCH_FUNCTION void check_shard(
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
SCRATCH_FUNCTION uint64_t check_corpus(const char *directory)
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

SCRATCH_FUNCTION void add_json(struct image *image, const struct text *text)
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
SCRATCH_FUNCTION void put_jsonl(const char *name, uint32_t *seed, size_t count)
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
SCRATCH_FUNCTION void make_inputs(uint32_t seed, size_t scale)
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

SCRATCH_FUNCTION struct preprocess_config basic(const char *output)
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

SCRATCH_FUNCTION struct preprocess_result run(const struct preprocess_config *config)
{
	struct preprocess_result result;
	must(preprocess_run(config, &result));
	return result;
}

SCRATCH_FUNCTION void refuse(const struct preprocess_config *config, enum status status, const char *word)
{
	struct preprocess_result result;
	expect_refusal(preprocess_run(config, &result), status, word);
}

static int end_and_forget(void **state)
{
	forget_texts();
	return end(state);
}

#endif
