/*
 * small_corpus.h: a corpus of two shards and a few dozen documents in fuzz_directory(), written by the
 * program's own writer, its files kept in memory to be changed.
 */
#ifndef TESTS_FUZZ_SMALL_CORPUS_H
#define TESTS_FUZZ_SMALL_CORPUS_H

#include "data/corpus.h"
#include "data/corpus_output.h"
#include "data/hash_tree.h"
#include "data/manifest.h"
#include "data/sources.h"
#include "tests/fuzz/fuzz.h"

#ifndef SMALL_SOURCES
#define SMALL_SOURCES 0
#endif

enum { SMALL_SHARDS = 2, SMALL_DOCUMENTS = 40, SMALL_FILES = 4, SMALL_EOD = 50256 };
enum small_file { SMALL_BIN, SMALL_IDX, SMALL_KEY, SMALL_SUM };

static const char *const small_suffixes[SMALL_FILES] = {"bin", "idx", "key", "sum"};
static uint8_t *small_files[SMALL_SHARDS][SMALL_FILES];
static size_t small_sizes[SMALL_SHARDS][SMALL_FILES];
static char *small_manifest;
static size_t small_manifest_bytes;

FUZZ_FUNCTION const char *small_name(uint64_t shard, int file)
{
	static char name[32];
	snprintf(name, sizeof name, "%05u.%s", (unsigned)shard, small_suffixes[file]);
	return name;
}

FUZZ_FUNCTION void small_write_shard(uint64_t shard, struct shard_summary *summary)
{
	static const char *const paths[] = {"a/one.jsonl", "-", "another \xff.txt"};
	struct shard_writer *writer;
	char name[8];
	uint16_t tokens[256];
	snprintf(name, sizeof name, "%05u", (unsigned)shard);
	CHECK(shard_writer_open(fuzz_path("work"), name, CORPUS_U16, SMALL_EOD, SMALL_SOURCES, &writer) ==
			STATUS_OK,
		"%s", error_message());
	for (uint32_t d = 0; d < SMALL_DOCUMENTS; d++) {
		uint32_t count = 1 + d * 37 % 200;
		for (uint32_t i = 0; i < count; i++)
			tokens[i] = (uint16_t)((d * 7919 + i * 31 + (uint32_t)shard) % SMALL_EOD);
		uint64_t key = (shard << 63) + d * UINT64_C(0x0123456789abcde);
		struct source source = {.path = paths[d % 3], .line = d, .byte = d * 100};
		CHECK(shard_writer_add(writer, key, tokens, count, count * 4, &source) == STATUS_OK, "%s",
			error_message());
	}
	CHECK(shard_writer_publish(writer, summary) == STATUS_OK, "%s", error_message());
}

/* Writes it, and keeps the files. */
FUZZ_FUNCTION void small_corpus_make(void)
{
	struct tokenizer *tokenizer;
	struct shard_summary summaries[SMALL_SHARDS];
	struct corpus_output output = {.directory = fuzz_directory(),
		.shards = summaries,
		.shard_count = SMALL_SHARDS,
		.sources = SMALL_SOURCES};
	CHECK(mkdir(fuzz_path("work"), 0700) == 0, "%s", fuzz_path("work"));
	for (uint64_t i = 0; i < SMALL_SHARDS; i++) {
		small_write_shard(i, &summaries[i]);
		output.bytes += summaries[i].bytes;
		output.input_documents += summaries[i].documents;
		output.input_tokens += summaries[i].tokens;
	}
	output.input_bytes = output.bytes;
	CHECK(tokenizer_open_gpt2(&tokenizer) == STATUS_OK, "%s", error_message());
	output.tokenizer = tokenizer;
	CHECK(corpus_output_publish(&output) == STATUS_OK, "%s", error_message());
	tokenizer_close(tokenizer);
	for (uint64_t i = 0; i < SMALL_SHARDS; i++)
		for (int f = 0; f < SMALL_FILES; f++)
			small_files[i][f] = fuzz_read(small_name(i, f), &small_sizes[i][f]);
	small_manifest = (char *)fuzz_read("corpus.json", &small_manifest_bytes);
}

/* The manifest's "hash" from its shards' roots, where they are well formed; then sealed and written. */
FUZZ_FUNCTION void small_seal(cJSON *manifest)
{
	static const char *const roots[] = {"bin", "idx", "key"};
	cJSON *shards = cJSON_GetObjectItemCaseSensitive(manifest, "shards"), *shard;
	struct hash_stream *stream;
	CHECK(hash_stream_open(&stream) == STATUS_OK, "%s", error_message());
	cJSON_ArrayForEach (shard, shards)
		for (int i = 0; i < 3; i++) {
			uint64_t root = 0;
			if (json_get_hex64("", shard, roots[i], &root) == STATUS_OK)
				hash_stream_add(stream, &root, sizeof root);
		}
	cJSON_DeleteItemFromObjectCaseSensitive(manifest, "hash");
	CHECK(json_add_hash128(manifest, "hash", hash_stream_digest(stream)), "no memory");
	hash_stream_close(stream);
	while (cJSON_GetObjectItemCaseSensitive(manifest, "check"))
		cJSON_DeleteItemFromObjectCaseSensitive(manifest, "check");
	CHECK(manifest_publish(fuzz_path("corpus.json"), manifest) == STATUS_OK, "%s", error_message());
}

/* Everything that reads. Nothing may crash; what reads well must be what the headers say. */
FUZZ_FUNCTION void small_read_all(struct corpus *corpus, bool verified)
{
	enum { MOST = 1 << 16 };
	const struct corpus_info *info = corpus_get_info(corpus);
	uint64_t documents = info->documents < MOST ? info->documents : MOST, sum = 0, found;
	uint64_t count = info->tokens < MOST ? info->tokens : MOST;
	int32_t *tokens = malloc(count * 4 + 4);
	uint32_t *lengths = malloc(documents * 4 + 4);
	CHECK(tokens && lengths, "no memory");
	corpus_prefetch(corpus, 0, count);
	enum status status = corpus_read(corpus, 0, count, tokens);
	CHECK(!verified || status == STATUS_OK, "verified, and then: %s", error_message());
	for (uint64_t i = 0; i < count && status == STATUS_OK; i++)
		CHECK(tokens[i] >= 0 && (uint32_t)tokens[i] < info->vocabulary, "an id of %d", tokens[i]);
	bool read = status == STATUS_OK;
	status = corpus_document_lengths(corpus, 0, documents, lengths);
	CHECK(!verified || status == STATUS_OK, "verified, and then: %s", error_message());
	for (uint64_t d = 0; d < documents; d++) {
		uint64_t first, length, key = 0;
		enum status known = corpus_document(corpus, d, &first, &length);
		CHECK(!verified || known == STATUS_OK, "verified, and then: %s", error_message());
		if (known == STATUS_OK)
			CHECK(first <= info->tokens && length <= info->tokens - first,
				"document %u lies outside", (unsigned)d);
		if (verified) {
			CHECK(first == sum && lengths[d] == length && length > 0, "document %u", (unsigned)d);
			CHECK(!read || first + length > count ||
					tokens[first + length - 1] == (int32_t)info->eod,
				"document %u does not end in EOD", (unsigned)d);
			sum += length;
		}
		known = corpus_document_key(corpus, d, &key);
		CHECK(!verified || known == STATUS_OK, "verified, and then: %s", error_message());
		known = corpus_find_key(corpus, key, &found);
		CHECK(!verified || (known == STATUS_OK && found <= d), "its key finds document %u",
			(unsigned)found);
	}
	CHECK(!verified || info->documents > MOST || sum == info->tokens, "%u tokens", (unsigned)sum);
	free(tokens);
	free(lengths);
}

#endif
