/*
 * corpus_fixture.h: small random corpora, written naively and by other code than the writer's, so that the
 * reader is tested against the format as data/corpus.h tells it. Everything is also kept in memory: the
 * oracle. Included by each test; all functions are static.
 */
#ifndef CORPUS_FIXTURE_H
#define CORPUS_FIXTURE_H

#include <assert.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>
#include <cmocka.h>

#define FIXTURE_FUNCTION static __attribute__((unused))

struct fixture {
	char directory[64];
	bool wide; /* i32 */
	uint32_t vocabulary, eod;
	uint64_t shards, documents, tokens;
	uint64_t *keys;   /* [documents], ascending */
	uint64_t *starts; /* [documents + 1], tokens */
	int32_t *ids;     /* [tokens] */
	uint64_t *first;  /* [shards + 1], documents */
};

/* ---- random numbers (xorshift64*: any will do) ---- */

FIXTURE_FUNCTION uint64_t fixture_random(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * UINT64_C(2685821657736338717);
}

FIXTURE_FUNCTION uint64_t fixture_below(uint64_t *state, uint64_t limit)
{
	return (fixture_random(state) >> 16) % limit;
}

/* ---- bytes ---- */

struct fixture_bytes {
	uint8_t *data;
	size_t size, room;
};

FIXTURE_FUNCTION void fixture_put(struct fixture_bytes *bytes, const void *data, size_t size)
{
	if (bytes->size + size > bytes->room) {
		bytes->room = (bytes->size + size) * 2 + 64;
		bytes->data = realloc(bytes->data, bytes->room);
		assert_non_null(bytes->data);
	}
	if (size)
		memcpy(bytes->data + bytes->size, data, size);
	bytes->size += size;
}

FIXTURE_FUNCTION void fixture_put_number(struct fixture_bytes *bytes, uint64_t number, int size)
{
	for (int i = 0; i < size; i++) {
		uint8_t byte = (uint8_t)(number >> 8 * i);
		fixture_put(bytes, &byte, 1);
	}
}

FIXTURE_FUNCTION void fixture_save(
	const struct fixture *fixture, uint64_t shard, const char *suffix, const struct fixture_bytes *bytes)
{
	char path[128];
	snprintf(path, sizeof path, "%s/%05" PRIu64 ".%s", fixture->directory, shard, suffix);
	FILE *file = fopen(path, "wb");
	assert_non_null(file);
	if (bytes->size)
		assert_int_equal(fwrite(bytes->data, 1, bytes->size, file), bytes->size);
	assert_int_equal(fclose(file), 0);
}

/* The tree of a file, all levels appended to `out`; returns the root. */
FIXTURE_FUNCTION uint64_t fixture_tree(const struct fixture_bytes *file, struct fixture_bytes *out)
{
	struct fixture_bytes level = {0};
	uint64_t root = 0;
	fixture_put(&level, file->data, file->size);
	if (!level.size) {
		free(level.data);
		return 0;
	}
	for (;;) {
		struct fixture_bytes above = {0};
		for (size_t at = 0; at < level.size; at += 4096) {
			size_t size = level.size - at < 4096 ? level.size - at : 4096;
			root = XXH3_64bits(level.data + at, size);
			fixture_put_number(&above, root, 8);
		}
		free(level.data);
		level = above;
		fixture_put(out, level.data, level.size);
		if (level.size == 8)
			break;
	}
	free(level.data);
	return root;
}

/* ---- making ---- */

FIXTURE_FUNCTION int fixture_compare_keys(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

/* Fills everything but the files: `documents` of 1..longest tokens (EOD included). */
FIXTURE_FUNCTION void fixture_make(struct fixture *fixture, uint64_t seed, uint64_t documents,
	uint64_t longest, uint64_t shards, bool wide)
{
	uint64_t random = seed * 2 + 1, room = documents * longest + 1;
	*fixture = (struct fixture){.wide = wide,
		.vocabulary = wide ? 100000 : 50257,
		.eod = wide ? 77777 : 50256,
		.shards = shards,
		.documents = documents};
	for (int i = 0; i < 10; i++)
		fixture_random(&random);
	fixture->keys = calloc(documents + 1, 8);
	fixture->starts = calloc(documents + 1, 8);
	fixture->ids = calloc(room, 4);
	fixture->first = calloc(shards + 1, 8);
	for (uint64_t d = 0; d < documents; d++)
		fixture->keys[d] = fixture_random(&random);
	qsort(fixture->keys, documents, 8, fixture_compare_keys);
	for (uint64_t d = 0; d < documents; d++) {
		uint64_t length = 1 + fixture_below(&random, longest);
		for (uint64_t i = 0; i + 1 < length; i++) {
			uint32_t id = (uint32_t)fixture_below(&random, fixture->vocabulary);
			fixture->ids[fixture->tokens++] = (int32_t)(id == fixture->eod ? 0 : id);
		}
		fixture->ids[fixture->tokens++] = (int32_t)fixture->eod;
		fixture->starts[d + 1] = fixture->tokens;
	}
	for (uint64_t s = 0, d = 0; s <= shards; s++) {
		unsigned __int128 begin = ((unsigned __int128)s << 64) / shards;
		while (d < documents && fixture->keys[d] < begin)
			d++;
		fixture->first[s] = d;
	}
}

struct fixture_roots {
	uint64_t bin, idx, key;
};

FIXTURE_FUNCTION struct fixture_roots fixture_write_shard(const struct fixture *fixture, uint64_t shard)
{
	uint64_t from = fixture->first[shard], to = fixture->first[shard + 1], count = to - from;
	uint64_t token = fixture->starts[from];
	int size = fixture->wide ? 4 : 2;
	struct fixture_bytes bin = {0}, idx = {0}, key = {0}, sum = {0}, trees = {0};
	for (uint64_t t = token; t < fixture->starts[to]; t++)
		fixture_put_number(&bin, (uint64_t)fixture->ids[t], size);
	fixture_put(&idx, "MMIDIDX\0", 9);
	fixture_put_number(&idx, 1, 8);
	fixture_put_number(&idx, fixture->wide ? 4 : 8, 1);
	fixture_put_number(&idx, count, 8);
	fixture_put_number(&idx, count + 1, 8);
	for (uint64_t d = from; d < to; d++)
		fixture_put_number(&idx, fixture->starts[d + 1] - fixture->starts[d], 4);
	for (uint64_t d = from; d < to; d++)
		fixture_put_number(&idx, (fixture->starts[d] - token) * (uint64_t)size, 8);
	for (uint64_t d = 0; d <= count; d++)
		fixture_put_number(&idx, d, 8);
	for (uint64_t d = from; d < to; d++)
		fixture_put_number(&key, fixture->keys[d], 8);
	struct fixture_roots roots;
	roots.bin = fixture_tree(&bin, &trees);
	roots.idx = fixture_tree(&idx, &trees);
	roots.key = fixture_tree(&key, &trees);
	fixture_put(&sum, "FERRYSUM", 8);
	fixture_put_number(&sum, 1, 8);
	fixture_put_number(&sum, bin.size, 8);
	fixture_put_number(&sum, roots.bin, 8);
	fixture_put_number(&sum, idx.size, 8);
	fixture_put_number(&sum, roots.idx, 8);
	fixture_put_number(&sum, key.size, 8);
	fixture_put_number(&sum, roots.key, 8);
	uint64_t header = XXH3_64bits(sum.data, 64);
	fixture_put(&sum, trees.data, trees.size);
	fixture_put_number(&sum, header, 8);
	fixture_save(fixture, shard, "bin", &bin);
	fixture_save(fixture, shard, "idx", &idx);
	fixture_save(fixture, shard, "key", &key);
	fixture_save(fixture, shard, "sum", &sum);
	free(bin.data);
	free(idx.data);
	free(key.data);
	free(sum.data);
	free(trees.data);
	return roots;
}

FIXTURE_FUNCTION void fixture_print(struct fixture_bytes *text, const char *format, ...)
{
	char line[1024];
	va_list arguments;
	va_start(arguments, format);
	int length = vsnprintf(line, sizeof line, format, arguments);
	va_end(arguments);
	assert_in_range(length, 0, sizeof line - 1);
	fixture_put(text, line, (size_t)length);
}

/* Publishes a manifest's text with a true seal: `text` lacks the "check" line. */
FIXTURE_FUNCTION void fixture_save_manifest(const struct fixture *fixture, const char *text, size_t size)
{
	char path[128];
	snprintf(path, sizeof path, "%s/corpus.json", fixture->directory);
	FILE *file = fopen(path, "wb");
	assert_non_null(file);
	fwrite(text, 1, size, file);
	fprintf(file, "\"check\":\t\"%016" PRIx64 "\"\n}\n", (uint64_t)XXH3_64bits(text, size));
	assert_int_equal(fclose(file), 0);
}

/* The manifest up to its "check" line. */
FIXTURE_FUNCTION void fixture_manifest(
	const struct fixture *fixture, const struct fixture_roots *roots, struct fixture_bytes *text)
{
	struct fixture_bytes all = {0};
	uint64_t n = fixture->documents, t = fixture->tokens;
	fixture_print(text, "{\"format\": \"ferry-corpus\", \"version\": 1,\n");
	fixture_print(text,
		" \"tokenizer\": {\"name\": \"test\", \"hash\": \"0123456789abcdef0123456789abcdef\", "
		"\"vocabulary\": "
		"%u, \"eod\": %u, \"unicode\": \"16.0.0\"},\n",
		fixture->vocabulary, fixture->eod);
	fixture_print(text,
		" \"dtype\": \"%s\", \"documents\": %" PRIu64 ", \"tokens\": %" PRIu64 ", \"bytes\": %" PRIu64
		",\n",
		fixture->wide ? "i32" : "u16", n, t, 4 * t);
	fixture_print(text,
		" \"input\": {\"documents\": %" PRIu64 ", \"tokens\": %" PRIu64 ", \"bytes\": %" PRIu64
		"},\n",
		n + 3, t + 30, 4 * t + 120);
	fixture_print(
		text, " \"dropped\": {\"duplicates\": 3, \"empty\": 1, \"rejected\": 2}, \"repaired\": 5,\n");
	fixture_print(text, " \"shards\": [");
	for (uint64_t s = 0; s < fixture->shards; s++) {
		uint64_t from = fixture->first[s], to = fixture->first[s + 1];
		fixture_print(text,
			"%s\n  {\"name\": \"%05" PRIu64 "\", \"documents\": %" PRIu64 ", \"tokens\": %" PRIu64
			", \"bin\": \"%016" PRIx64 "\", \"idx\": \"%016" PRIx64 "\", \"key\": \"%016" PRIx64
			"\"}",
			s ? "," : "", s, to - from, fixture->starts[to] - fixture->starts[from], roots[s].bin,
			roots[s].idx, roots[s].key);
		fixture_put_number(&all, roots[s].bin, 8);
		fixture_put_number(&all, roots[s].idx, 8);
		fixture_put_number(&all, roots[s].key, 8);
	}
	XXH128_hash_t hash = XXH3_128bits(all.data, all.size);
	fixture_print(text, "],\n \"hash\": \"%016" PRIx64 "%016" PRIx64 "\",\n ", hash.high64, hash.low64);
	free(all.data);
}

/* Writes a made fixture into a new directory. */
FIXTURE_FUNCTION void fixture_write(struct fixture *fixture)
{
	struct fixture_bytes text = {0};
	struct fixture_roots *roots = calloc(fixture->shards, sizeof *roots);
	if (!fixture->directory[0]) {
		snprintf(fixture->directory, sizeof fixture->directory, "/tmp/ferry-test-XXXXXX");
		assert_non_null(mkdtemp(fixture->directory));
	}
	for (uint64_t s = 0; s < fixture->shards; s++)
		roots[s] = fixture_write_shard(fixture, s);
	fixture_manifest(fixture, roots, &text);
	fixture_save_manifest(fixture, (char *)text.data, text.size);
	free(text.data);
	free(roots);
}

FIXTURE_FUNCTION void fixture_create(struct fixture *fixture, uint64_t seed, uint64_t documents,
	uint64_t longest, uint64_t shards, bool wide)
{
	fixture_make(fixture, seed, documents, longest, shards, wide);
	fixture_write(fixture);
}

FIXTURE_FUNCTION void fixture_path(
	const struct fixture *fixture, uint64_t shard, const char *suffix, char path[128])
{
	if (strcmp(suffix, "json") == 0)
		snprintf(path, 128, "%s/corpus.json", fixture->directory);
	else
		snprintf(path, 128, "%s/%05" PRIu64 ".%s", fixture->directory, shard, suffix);
}

/* Deletes the files and frees the memory. */
FIXTURE_FUNCTION void fixture_remove(struct fixture *fixture)
{
	static const char *const suffixes[] = {"bin", "idx", "key", "sum", "json"};
	char path[128];
	for (uint64_t s = 0; s < fixture->shards && fixture->directory[0]; s++)
		for (size_t i = 0; i < 5; i++) {
			fixture_path(fixture, s, suffixes[i], path);
			unlink(path);
		}
	if (fixture->directory[0])
		assert_int_equal(rmdir(fixture->directory), 0);
	free(fixture->keys);
	free(fixture->starts);
	free(fixture->ids);
	free(fixture->first);
	memset(fixture, 0, sizeof *fixture);
}

/* Flips bit `bit` of byte `offset` of a file. */
FIXTURE_FUNCTION void fixture_flip(const char *path, long offset, int bit)
{
	FILE *file = fopen(path, "r+b");
	assert_non_null(file);
	assert_int_equal(fseek(file, offset, SEEK_SET), 0);
	int byte = fgetc(file);
	assert_true(byte != EOF);
	assert_int_equal(fseek(file, offset, SEEK_SET), 0);
	assert_true(fputc(byte ^ 1 << bit, file) != EOF);
	assert_int_equal(fclose(file), 0);
}

FIXTURE_FUNCTION long fixture_size(const char *path)
{
	FILE *file = fopen(path, "rb");
	assert_non_null(file);
	fseek(file, 0, SEEK_END);
	long size = ftell(file);
	fclose(file);
	return size;
}

#endif
