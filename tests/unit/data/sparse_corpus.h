/*
 * sparse_corpus.h: corpora of any size that cost hardly any disk: each .bin is a hole (tokens of id 0, so
 * that `ferry verify` would miss the EODs), but .idx, .key, .sum and the manifest are complete and true, and
 * every page read is verified. Or `filled`: random ids, on the disk. For tests and benchmarks; stops the
 * program when it cannot write.
 */
#ifndef SPARSE_CORPUS_H
#define SPARSE_CORPUS_H

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

struct sparse_corpus {
	char directory[200];
	uint64_t shards;      /* a power of two */
	uint64_t shard_bytes; /* of each .bin; a multiple of 4096 */
	uint64_t documents;   /* of each shard, equally long but for the last */
	int filled;
};

struct sparse_tree {
	uint64_t *hashes, count, root;
};

static void sparse_check(int good, const char *what)
{
	if (!good) {
		perror(what);
		exit(1);
	}
}

static FILE *sparse_open(const struct sparse_corpus *corpus, uint64_t shard, const char *suffix)
{
	char path[256];
	snprintf(path, sizeof path, "%s/%05" PRIu64 ".%s", corpus->directory, shard, suffix);
	FILE *file = fopen(path, "wb");
	sparse_check(file != NULL, path);
	return file;
}

static void sparse_close(FILE *file)
{
	sparse_check(!ferror(file) && fclose(file) == 0, "writing a corpus");
}

/* All levels above `leaves` (which it takes over), by hashing pages of hashes. */
static struct sparse_tree sparse_tree(uint64_t *leaves, uint64_t count)
{
	struct sparse_tree tree = {realloc(leaves, (count + count / 256 + 16) * 8), count, 0};
	uint64_t first = 0;
	sparse_check(tree.hashes != NULL, "memory");
	while (tree.count - first > 1) {
		uint64_t end = tree.count;
		for (uint64_t at = first; at < end; at += 512)
			tree.hashes[tree.count++] =
				XXH3_64bits(tree.hashes + at, (end - at < 512 ? end - at : 512) * 8);
		first = end;
	}
	tree.root = count ? tree.hashes[tree.count - 1] : 0;
	return tree;
}

static struct sparse_tree sparse_tree_of(const uint8_t *data, uint64_t bytes)
{
	uint64_t pages = (bytes + 4095) / 4096, *leaves = malloc(pages * 8 + 8);
	for (uint64_t p = 0; p < pages; p++)
		leaves[p] = XXH3_64bits(data + p * 4096, bytes - p * 4096 < 4096 ? bytes - p * 4096 : 4096);
	return sparse_tree(leaves, pages);
}

/* The bytes of .idx and .key (little-endian machines only, as all that run this are). */
static uint8_t *sparse_index(const struct sparse_corpus *corpus, uint64_t *bytes)
{
	const uint64_t n = corpus->documents, tokens = corpus->shard_bytes / 2;
	uint8_t *data = calloc(1, *bytes = 34 + 20 * n + 8);
	uint64_t header[] = {1, n, n + 1};
	memcpy(data, "MMIDIDX\0\0", 9);
	memcpy(data + 9, &header[0], 8);
	data[17] = 8;
	memcpy(data + 18, &header[1], 16);
	for (uint64_t d = 0; d <= n; d++) {
		uint64_t offset = d * (tokens / n) * 2;
		uint32_t length = (uint32_t)(d + 1 < n ? tokens / n : tokens - d * (tokens / n));
		if (d < n) {
			memcpy(data + 34 + 4 * d, &length, 4);
			memcpy(data + 34 + 4 * n + 8 * d, &offset, 8);
		}
		memcpy(data + 34 + 12 * n + 8 * d, &d, 8);
	}
	return data;
}

static uint64_t *sparse_keys(const struct sparse_corpus *corpus, uint64_t shard)
{
	uint64_t *keys = malloc(corpus->documents * 8), width = UINT64_MAX / corpus->shards;
	for (uint64_t d = 0; d < corpus->documents; d++)
		keys[d] = shard * width + shard + (d + 1) * (width / (corpus->documents + 2));
	return keys;
}

static void sparse_write(const struct sparse_corpus *corpus, uint64_t shard, const char *suffix,
	const void *data, uint64_t bytes)
{
	FILE *file = sparse_open(corpus, shard, suffix);
	fwrite(data, 1, bytes, file);
	sparse_close(file);
}

/* The tree of a .bin of random ids, which it writes. */
static struct sparse_tree sparse_fill(const struct sparse_corpus *corpus, uint64_t shard)
{
	uint64_t pages = corpus->shard_bytes / 4096, *leaves = malloc(pages * 8), random = shard + 1;
	FILE *file = sparse_open(corpus, shard, "bin");
	for (uint64_t p = 0; p < pages; p++) {
		uint16_t page[2048];
		for (int i = 0; i < 2048; i++) {
			random = random * UINT64_C(6364136223846793005) + 1442695040888963407;
			page[i] = (uint16_t)((random >> 40) % 50257);
		}
		leaves[p] = XXH3_64bits(page, sizeof page);
		fwrite(page, 1, sizeof page, file);
	}
	fflush(file);
	fdatasync(fileno(file));
	sparse_close(file);
	return sparse_tree(leaves, pages);
}

/* Makes a .bin that is a hole. */
static void sparse_hole(const struct sparse_corpus *corpus, uint64_t shard)
{
	FILE *file = sparse_open(corpus, shard, "bin");
	sparse_check(ftruncate(fileno(file), (off_t)corpus->shard_bytes) == 0, "a sparse file");
	sparse_close(file);
}

/* Writes the rest of a shard; roots of .bin, .idx, .key. */
static void sparse_shard(
	const struct sparse_corpus *corpus, uint64_t shard, const struct sparse_tree *bin, uint64_t roots[3])
{
	uint64_t idx_bytes, key_bytes = 8 * corpus->documents;
	uint8_t *idx = sparse_index(corpus, &idx_bytes);
	uint64_t *keys = sparse_keys(corpus, shard);
	struct sparse_tree trees[3] = {
		*bin, sparse_tree_of(idx, idx_bytes), sparse_tree_of((uint8_t *)keys, key_bytes)};
	uint64_t header[8] = {
		0, 1, corpus->shard_bytes, bin->root, idx_bytes, trees[1].root, key_bytes, trees[2].root};
	memcpy(header, "FERRYSUM", 8);
	uint64_t check = XXH3_64bits(header, 64);
	FILE *sum = sparse_open(corpus, shard, "sum");
	fwrite(header, 8, 8, sum);
	for (int f = 0; f < 3; f++) {
		fwrite(trees[f].hashes, 8, trees[f].count, sum);
		roots[f] = trees[f].root;
	}
	fwrite(&check, 8, 1, sum);
	sparse_close(sum);
	sparse_write(corpus, shard, "idx", idx, idx_bytes);
	sparse_write(corpus, shard, "key", keys, key_bytes);
	free(idx);
	free(keys);
	free(trees[1].hashes);
	free(trees[2].hashes);
}

static void sparse_manifest(const struct sparse_corpus *corpus, const uint64_t *roots)
{
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);
	const uint64_t documents = corpus->documents * corpus->shards,
		       tokens = corpus->shard_bytes / 2 * corpus->shards;
	XXH128_hash_t hash = XXH3_128bits(roots, corpus->shards * 24);
	fprintf(out,
		"{\"format\": \"ferry-corpus\", \"version\": 1,\n \"tokenizer\": {\"name\": \"test\", "
		"\"hash\": \"0123456789abcdef0123456789abcdef\", \"vocabulary\": 50257, \"eod\": 50256, "
		"\"unicode\": \"16.0.0\"},\n \"dtype\": \"u16\", \"documents\": %" PRIu64
		", \"tokens\": %" PRIu64 ", \"bytes\": %" PRIu64 ",\n \"input\": {\"documents\": %" PRIu64
		", \"tokens\": %" PRIu64 ", \"bytes\": %" PRIu64
		"},\n \"dropped\": {\"duplicates\": 0, \"empty\": 0, \"rejected\": 0}, \"repaired\": 0,\n "
		"\"shards\": [",
		documents, tokens, tokens, documents, tokens, tokens);
	for (uint64_t s = 0; s < corpus->shards; s++)
		fprintf(out,
			"%s\n  {\"name\": \"%05" PRIu64 "\", \"documents\": %" PRIu64 ", \"tokens\": %" PRIu64
			", \"bin\": \"%016" PRIx64 "\", \"idx\": \"%016" PRIx64 "\", \"key\": \"%016" PRIx64
			"\"}",
			s ? "," : "", s, corpus->documents, corpus->shard_bytes / 2, roots[3 * s],
			roots[3 * s + 1], roots[3 * s + 2]);
	fprintf(out, "],\n \"hash\": \"%016" PRIx64 "%016" PRIx64 "\",\n ", hash.high64, hash.low64);
	fflush(out);
	uint64_t check = XXH3_64bits(text, size);
	fprintf(out, "\"check\":\t\"%016" PRIx64 "\"\n}\n", check);
	sparse_check(fclose(out) == 0, "memory");
	char path[256];
	snprintf(path, sizeof path, "%s/corpus.json", corpus->directory);
	FILE *file = fopen(path, "wb");
	sparse_check(file != NULL, path);
	fwrite(text, 1, size, file);
	sparse_close(file);
	free(text);
}

/* Into `directory`, which exists. */
static void sparse_corpus_create(const struct sparse_corpus *corpus)
{
	static const uint8_t zeros[4096];
	uint64_t pages = corpus->shard_bytes / 4096, *leaves = malloc(pages * 8);
	uint64_t *roots = malloc(corpus->shards * 24);
	for (uint64_t p = 0; p < pages; p++)
		leaves[p] = p ? leaves[0] : XXH3_64bits(zeros, sizeof zeros);
	struct sparse_tree bin = sparse_tree(leaves, pages);
	for (uint64_t s = 0; s < corpus->shards; s++) {
		if (corpus->filled) {
			free(bin.hashes);
			bin = sparse_fill(corpus, s);
		} else {
			sparse_hole(corpus, s);
		}
		sparse_shard(corpus, s, &bin, roots + 3 * s);
	}
	sparse_manifest(corpus, roots);
	free(bin.hashes);
	free(roots);
}

static void sparse_corpus_remove(const struct sparse_corpus *corpus)
{
	static const char *const suffixes[] = {"bin", "idx", "key", "sum"};
	char path[256];
	for (uint64_t s = 0; s < corpus->shards; s++)
		for (int i = 0; i < 4; i++) {
			snprintf(path, sizeof path, "%s/%05" PRIu64 ".%s", corpus->directory, s, suffixes[i]);
			unlink(path);
		}
	snprintf(path, sizeof path, "%s/corpus.json", corpus->directory);
	unlink(path);
	rmdir(corpus->directory);
}

#endif
