#include "data/manifest.h"

#include "common/endian.h"
#include "common/file.h"
#include "common/json.h"
#include "common/memory.h"
#include "data/minhash.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SHARDS_LIMIT = 1 << 20, MANIFEST_LIMIT = 1 << 29, DIGITS = 16, VOCABULARY_LIMIT = INT32_MAX };
#define TOKENS_LIMIT (UINT64_C(1) << 56) /* so that no sum or product of sizes wraps */

/* ---- the seal ---- */

static const char seal_before[] = "\"check\":\t\"", seal_after[] = "\"\n}\n";

enum { SEAL_BYTES = sizeof seal_before - 1 + DIGITS + sizeof seal_after - 1 };

static bool find_seal(const char *text, size_t bytes, size_t *offset)
{
	if (bytes < SEAL_BYTES)
		return false;
	*offset = bytes - SEAL_BYTES;
	const char *seal = text + *offset;
	return memcmp(seal, seal_before, sizeof seal_before - 1) == 0 &&
	       memcmp(seal + sizeof seal_before - 1 + DIGITS, seal_after, sizeof seal_after - 1) == 0;
}

static void format_seal(const char *text, size_t offset, char digits[DIGITS + 1])
{
	snprintf(digits, DIGITS + 1, "%016" PRIx64, hash64(text, offset));
}

enum status manifest_publish(const char *path, cJSON *manifest)
{
	char digits[DIGITS + 1];
	size_t offset;
	/* Printed with digits that are put right afterwards: the seal covers what stands before it. */
	char *text = json_add_hex64(manifest, "check", 0) ? cJSON_Print(manifest) : NULL;
	FAIL_IF(!text, STATUS_MEMORY, "%s: no memory to write JSON", path);
	size_t bytes = strlen(text);
	text[bytes++] = '\n'; /* in place of the NUL */
	bool found = find_seal(text, bytes, &offset);
	assert(found);
	if (found) {
		format_seal(text, offset, digits);
		memcpy(text + offset + sizeof seal_before - 1, digits, DIGITS);
	}
	enum status status = file_publish(path, text, bytes);
	cJSON_free(text);
	return status;
}

static enum status check_seal(const char *path, const char *text, size_t bytes)
{
	size_t offset;
	char digits[DIGITS + 1];
	FAIL_IF(!find_seal(text, bytes, &offset), STATUS_CORRUPT,
		"%s: does not end in its \"check\" line: it is truncated, edited, or of another version; "
		"restore "
		"it or run `ferry preprocess` again",
		path);
	format_seal(text, offset, digits);
	FAIL_IF(memcmp(text + offset + sizeof seal_before - 1, digits, DIGITS) != 0, STATUS_CORRUPT,
		"%s: does not match its own checksum (bytes 0..%zu): it is damaged or was edited; restore it "
		"or "
		"run `ferry preprocess` again",
		path, offset - 1);
	return STATUS_OK;
}

/* ---- members ---- */

/* An object holds each of the keys once and nothing else. The last key may be NULL, and is none then. */
static enum status check_members(const char *path, const cJSON *object, const char *what,
	const char *const *keys /* [count] */, int count)
{
	int found = 0;
	const cJSON *member;
	count -= !keys[count - 1];
	cJSON_ArrayForEach (member, object) {
		int i = 0;
		while (i < count && strcmp(member->string, keys[i]) != 0)
			i++;
		FAIL_IF(i == count, STATUS_CORRUPT, "%s: %s has an unknown key \"%.60s\"", path, what,
			member->string);
		found++;
	}
	for (int i = 0; i < count; i++)
		FAIL_IF(!cJSON_GetObjectItemCaseSensitive(object, keys[i]), STATUS_CORRUPT,
			"%s: %s has no key \"%s\"", path, what, keys[i]);
	FAIL_IF(found != count, STATUS_CORRUPT, "%s: %s has a key twice", path, what);
	return STATUS_OK;
}

#define CHECK_MEMBERS(path, object, what, ...)                                                               \
	check_members(path, object, what, (const char *const[]){__VA_ARGS__},                                \
		(int)(sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *)))

static enum status get_count(const char *path, const cJSON *object, const char *key, uint64_t *out)
{
	TRY(json_get_u64(path, object, key, out));
	FAIL_IF(*out >= TOKENS_LIMIT, STATUS_CORRUPT, "%s: \"%s\" is %" PRIu64 ", which is too large", path,
		key, *out);
	return STATUS_OK;
}

static enum status copy_string(const char *path, const cJSON *object, const char *key, char *out, size_t room)
{
	const char *text;
	TRY(json_get_string(path, object, key, &text));
	FAIL_IF(strlen(text) >= room, STATUS_CORRUPT, "%s: \"%s\" is longer than %zu bytes", path, key,
		room - 1);
	snprintf(out, room, "%s", text);
	return STATUS_OK;
}

static enum status read_tokenizer(const char *path, const cJSON *manifest, struct corpus_info *info)
{
	cJSON *tokenizer;
	uint64_t vocabulary, eod;
	TRY(json_get_object(path, manifest, "tokenizer", &tokenizer));
	TRY(CHECK_MEMBERS(path, tokenizer, "\"tokenizer\"", "name", "hash", "vocabulary", "eod", "unicode"));
	TRY(copy_string(path, tokenizer, "name", info->tokenizer_name, sizeof info->tokenizer_name));
	TRY(copy_string(path, tokenizer, "unicode", info->unicode, sizeof info->unicode));
	TRY(json_get_hash128(path, tokenizer, "hash", &info->tokenizer_hash));
	TRY(json_get_u64(path, tokenizer, "vocabulary", &vocabulary));
	TRY(json_get_u64(path, tokenizer, "eod", &eod));
	FAIL_IF(vocabulary < 1 || vocabulary > VOCABULARY_LIMIT || eod >= vocabulary, STATUS_CORRUPT,
		"%s: a vocabulary of %" PRIu64 " ids with EOD %" PRIu64 " is impossible", path, vocabulary,
		eod);
	info->vocabulary = (uint32_t)vocabulary;
	info->eod = (uint32_t)eod;
	return STATUS_OK;
}

static enum status read_dtype(const char *path, const cJSON *manifest, struct corpus_info *info)
{
	const char *dtype;
	TRY(json_get_string(path, manifest, "dtype", &dtype));
	bool is_u16 = strcmp(dtype, "u16") == 0;
	FAIL_IF(!is_u16 && strcmp(dtype, "i32") != 0, STATUS_CORRUPT, "%s: dtype \"%.20s\" is not u16 or i32",
		path, dtype);
	FAIL_IF(is_u16 && info->vocabulary > 1 << 16, STATUS_CORRUPT,
		"%s: %" PRIu32 " ids do not fit dtype u16", path, info->vocabulary);
	info->dtype = is_u16 ? CORPUS_U16 : CORPUS_I32;
	return STATUS_OK;
}

static enum status read_totals(const char *path, const cJSON *manifest, struct corpus_info *info)
{
	cJSON *input, *dropped;
	TRY(get_count(path, manifest, "documents", &info->documents));
	TRY(get_count(path, manifest, "tokens", &info->tokens));
	TRY(get_count(path, manifest, "bytes", &info->bytes));
	TRY(get_count(path, manifest, "repaired", &info->repaired));
	TRY(json_get_object(path, manifest, "input", &input));
	TRY(CHECK_MEMBERS(path, input, "\"input\"", "documents", "tokens", "bytes"));
	TRY(get_count(path, input, "documents", &info->input_documents));
	TRY(get_count(path, input, "tokens", &info->input_tokens));
	TRY(get_count(path, input, "bytes", &info->input_bytes));
	TRY(json_get_object(path, manifest, "dropped", &dropped));
	bool near = cJSON_GetObjectItemCaseSensitive(dropped, "near_duplicates");
	TRY(CHECK_MEMBERS(path, dropped, "\"dropped\"", "duplicates", "empty", "rejected",
		near ? "near_duplicates" : NULL));
	if (near)
		TRY(get_count(path, dropped, "near_duplicates", &info->dropped_near));
	TRY(get_count(path, dropped, "duplicates", &info->dropped_duplicates));
	TRY(get_count(path, dropped, "empty", &info->dropped_empty));
	TRY(get_count(path, dropped, "rejected", &info->dropped_rejected));
	FAIL_IF(info->input_documents != info->documents + info->dropped_duplicates + info->dropped_near ||
			info->input_tokens < info->tokens || info->input_bytes < info->bytes,
		STATUS_CORRUPT,
		"%s: the totals do not add up: input %" PRIu64 " documents, kept %" PRIu64
		", duplicates %" PRIu64 " and %" PRIu64 " near",
		path, info->input_documents, info->documents, info->dropped_duplicates, info->dropped_near);
	return STATUS_OK;
}

static enum status read_near(const char *path, const cJSON *manifest, struct corpus_info *info)
{
	cJSON *near;
	uint64_t words, bands, rows;
	if (!cJSON_GetObjectItemCaseSensitive(manifest, "near"))
		return STATUS_OK;
	TRY(json_get_object(path, manifest, "near", &near));
	TRY(CHECK_MEMBERS(path, near, "\"near\"", "words", "bands", "rows"));
	TRY(json_get_u64(path, near, "words", &words));
	TRY(json_get_u64(path, near, "bands", &bands));
	TRY(json_get_u64(path, near, "rows", &rows));
	FAIL_IF(words != MINHASH_WORDS || bands < 1 || bands > MINHASH_MOST_BANDS || rows < 1 ||
			rows > MINHASH_MOST_ROWS,
		STATUS_CORRUPT, "%s: \"near\" has %" PRIu64 " words, %" PRIu64 " bands and %" PRIu64 " rows",
		path, words, bands, rows);
	info->near_bands = (int)bands;
	info->near_rows = (int)rows;
	return STATUS_OK;
}

static enum status read_shard(
	const char *path, const cJSON *object, uint64_t index, bool sources, struct corpus_shard *shard)
{
	char what[32], name[24];
	snprintf(what, sizeof what, "shard %" PRIu64, index);
	snprintf(name, sizeof name, "%05" PRIu64, index);
	FAIL_IF(!cJSON_IsObject(object), STATUS_CORRUPT, "%s: %s is not an object", path, what);
	TRY(CHECK_MEMBERS(path, object, what, "name", "documents", "tokens", "bin", "idx", "key",
		sources ? "src" : NULL));
	TRY(copy_string(path, object, "name", shard->name, sizeof shard->name));
	FAIL_IF(strcmp(shard->name, name) != 0, STATUS_CORRUPT, "%s: %s is named \"%s\", not \"%s\"", path,
		what, shard->name, name);
	TRY(get_count(path, object, "documents", &shard->documents));
	TRY(get_count(path, object, "tokens", &shard->tokens));
	/* Megatron's lengths are i32, and each document has at least its EOD. */
	FAIL_IF(shard->tokens < shard->documents || (shard->tokens && !shard->documents), STATUS_CORRUPT,
		"%s: %s has %" PRIu64 " tokens in %" PRIu64 " documents, each of which ends in EOD", path,
		what, shard->tokens, shard->documents);
	TRY(json_get_hex64(path, object, "bin", &shard->bin_root));
	TRY(json_get_hex64(path, object, "idx", &shard->idx_root));
	TRY(json_get_hex64(path, object, "key", &shard->key_root));
	return sources ? json_get_hash128(path, object, "src", &shard->src_hash) : STATUS_OK;
}

static enum status read_shards(
	const char *path, const cJSON *array, struct corpus_shard *shards, struct corpus_info *info)
{
	uint64_t documents = 0, tokens = 0, index = 0;
	const cJSON *object;
	/* All shards have sources, or none has. */
	info->sources = cJSON_GetObjectItemCaseSensitive(cJSON_GetArrayItem(array, 0), "src");
	cJSON_ArrayForEach (object, array) {
		struct corpus_shard *shard = &shards[index];
		TRY(read_shard(path, object, index++, info->sources, shard));
		shard->first_document = documents;
		shard->first_token = tokens;
		documents += shard->documents;
		tokens += shard->tokens;
		FAIL_IF(tokens >= TOKENS_LIMIT, STATUS_CORRUPT, "%s: the shards have too many tokens", path);
	}
	FAIL_IF(documents != info->documents || tokens != info->tokens, STATUS_CORRUPT,
		"%s: the shards have %" PRIu64 " documents and %" PRIu64 " tokens, the corpus %" PRIu64
		" and %" PRIu64,
		path, documents, tokens, info->documents, info->tokens);
	return STATUS_OK;
}

/* The corpus's identity: XXH3-128 of all the roots. */
static enum status check_hash(
	const char *path, const cJSON *manifest, const struct corpus_shard *shards, struct corpus_info *info)
{
	struct hash_stream *stream;
	TRY(json_get_hash128(path, manifest, "hash", &info->hash));
	TRY(hash_stream_open(&stream));
	for (uint64_t i = 0; i < info->shard_count; i++) {
		uint8_t roots[24];
		store_le64(roots, shards[i].bin_root);
		store_le64(roots + 8, shards[i].idx_root);
		store_le64(roots + 16, shards[i].key_root);
		hash_stream_add(stream, roots, sizeof roots);
	}
	struct hash128 hash = hash_stream_digest(stream);
	hash_stream_close(stream);
	FAIL_IF(hash128_compare(hash, info->hash) != 0, STATUS_CORRUPT,
		"%s: \"hash\" is not the hash of the shards' roots", path);
	return STATUS_OK;
}

static enum status read_members(const char *path, const cJSON *manifest, struct corpus_info *info)
{
	const char *format;
	uint64_t version;
	cJSON *array;
	FAIL_IF(!cJSON_IsObject(manifest), STATUS_CORRUPT, "%s: not a JSON object", path);
	TRY(json_get_string(path, manifest, "format", &format));
	FAIL_IF(strcmp(format, "ferry-corpus") != 0, STATUS_CORRUPT,
		"%s: format \"%.30s\" is not ferry-corpus", path, format);
	TRY(json_get_u64(path, manifest, "version", &version));
	FAIL_IF(version != 1, STATUS_UNSUPPORTED,
		"%s: corpus version %" PRIu64
		"; this ferry reads version 1: use the ferry that wrote it, or a newer one",
		path, version);
	bool near = cJSON_GetObjectItemCaseSensitive(manifest, "near");
	TRY(CHECK_MEMBERS(path, manifest, "the manifest", "format", "version", "tokenizer", "dtype",
		"documents", "tokens", "bytes", "input", "dropped", "repaired", "shards", "hash", "check",
		near ? "near" : NULL));
	TRY(read_tokenizer(path, manifest, info));
	TRY(read_dtype(path, manifest, info));
	TRY(read_totals(path, manifest, info));
	TRY(read_near(path, manifest, info));
	TRY(json_get_array(path, manifest, "shards", &array));
	info->shard_count = (uint64_t)cJSON_GetArraySize(array);
	FAIL_IF(info->shard_count < 1 || info->shard_count > SHARDS_LIMIT ||
			(info->shard_count & (info->shard_count - 1)),
		STATUS_CORRUPT, "%s: %" PRIu64 " shards: their number must be a power of two", path,
		info->shard_count);
	struct corpus_shard *shards;
	TRY(memory_alloc((void **)&shards, (size_t)info->shard_count, sizeof *shards, "the list of shards"));
	info->shards = shards;
	TRY(read_shards(path, array, shards, info));
	return check_hash(path, manifest, shards, info);
}

/* The seal comes first, except that another format or version is told as such. */
static enum status parse(const char *path, const char *text, size_t bytes, struct corpus_info *info)
{
	cJSON *manifest;
	uint64_t version = 1;
	enum status parsed = json_parse(text, bytes, false, NULL, &manifest);
	if (parsed == STATUS_MEMORY)
		return error_context(parsed, "%s", path);
	enum status status = check_seal(path, text, bytes);
	if (parsed != STATUS_OK)
		return status == STATUS_OK ? error_context(parsed, "%s", path) : status;
	const cJSON *member = cJSON_GetObjectItemCaseSensitive(manifest, "version");
	if (cJSON_IsNumber(member) && member->valuedouble >= 2 && member->valuedouble < 1e9)
		version = (uint64_t)member->valuedouble;
	if (status == STATUS_OK || version != 1)
		status = read_members(path, manifest, info);
	cJSON_Delete(manifest);
	return status;
}

enum status manifest_read(const char *directory, struct corpus_info *info)
{
	char *path, *text = NULL;
	size_t bytes = 0;
	*info = (struct corpus_info){0};
	TRY(path_join(&path, directory, "corpus.json"));
	enum status status;
	if (!file_exists(path))
		status = error_set(STATUS_IO,
			"%s: not there: %s is not a corpus, or its `ferry preprocess` has not finished (the "
			"same command "
			"goes on)",
			path, directory);
	else
		status = file_read_all(path, MANIFEST_LIMIT, &text, &bytes);
	if (status == STATUS_OK)
		status = parse(path, text, bytes, info);
	if (status != STATUS_OK) {
		free((void *)info->shards);
		info->shards = NULL;
	}
	free(text);
	free(path);
	return status;
}
