#include "data/corpus_output.h"

#include "common/endian.h"
#include "common/file.h"
#include "common/threads.h"
#include "data/manifest.h"
#include "data/minhash.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LARGEST_SHARD_BYTES     (UINT64_C(256) << 20)
#define LARGEST_SHARD_DOCUMENTS (UINT64_C(4) << 20)
#define MOST_SHARDS             (UINT64_C(1) << 16)

enum corpus_dtype corpus_output_dtype(const struct tokenizer *tokenizer)
{
	return tokenizer_vocabulary(tokenizer) < 65500 ? CORPUS_U16 : CORPUS_I32;
}

uint64_t corpus_output_shards(
	uint64_t input_tokens, uint64_t input_documents, enum corpus_dtype dtype, uint64_t shard_bytes)
{
	uint64_t shards = 1, limit = shard_bytes ? shard_bytes : LARGEST_SHARD_BYTES;
	uint64_t bytes = input_tokens * (dtype == CORPUS_U16 ? 2 : 4);
	while (shards < MOST_SHARDS &&
		(bytes > limit * shards || input_documents > LARGEST_SHARD_DOCUMENTS * shards))
		shards *= 2;
	return shards;
}

/* ---- the directory ---- */

enum status corpus_output_has(const char *directory, const char *name, bool *there)
{
	char *path;
	TRY(path_join(&path, directory, name));
	*there = file_exists(path);
	free(path);
	return STATUS_OK;
}

/* NNNNN.bin and so on; true sets the number. */
static bool is_shard_file(const char *name, size_t *number)
{
	static const char *const suffixes[] = {".bin", ".idx", ".key", ".sum", ".src"};
	if (strspn(name, "0123456789") != 5)
		return false;
	*number = strtoul(name, NULL, 10);
	for (int i = 0; i < 5; i++)
		if (strcmp(name + 5, suffixes[i]) == 0)
			return true;
	return false;
}

enum status corpus_output_remove_file(const char *directory, const char *name)
{
	char *path;
	TRY(path_join(&path, directory, name));
	enum status status = file_remove(path);
	free(path);
	return status;
}

/* ---- which job made it ---- */

static const char job_name[] = ".job";

static enum status write_job(const char *work, struct hash128 job, struct hash128 corpus)
{
	char *path;
	TRY(path_join(&path, work, job_name));
	cJSON *json = cJSON_CreateObject();
	bool good = json && cJSON_AddStringToObject(json, "format", "ferry-job") &&
		    json_add_u64(json, "version", 1) && json_add_hash128(json, "job", job) &&
		    json_add_hash128(json, "corpus", corpus);
	enum status status = good ? json_publish(path, json)
				  : error_set(STATUS_MEMORY, "no memory to tell which job this was");
	cJSON_Delete(json);
	free(path);
	return status;
}

static enum status read_job(const char *path, struct hash128 *job, struct hash128 *corpus)
{
	cJSON *json;
	const char *format;
	uint64_t version;
	TRY(json_read_file(path, &json));
	enum status status = json_get_string(path, json, "format", &format);
	if (status == STATUS_OK)
		status = json_get_u64(path, json, "version", &version);
	if (status == STATUS_OK && (strcmp(format, "ferry-job") != 0 || version != 1))
		status = error_set(STATUS_UNSUPPORTED, "%s: is not of this version", path);
	if (status == STATUS_OK)
		status = json_get_hash128(path, json, "job", job);
	if (status == STATUS_OK)
		status = json_get_hash128(path, json, "corpus", corpus);
	cJSON_Delete(json);
	return status;
}

/* Is there a DIRECTORY/.job, of the corpus of this hash? Of *job then. */
static enum status find_job(const char *directory, struct hash128 corpus, struct hash128 *job, bool *found)
{
	char *path;
	struct hash128 of;
	*found = false;
	TRY(path_join(&path, directory, job_name));
	if (file_exists(path) && read_job(path, job, &of) == STATUS_OK)
		*found = hash128_compare(of, corpus) == 0;
	free(path);
	return STATUS_OK;
}

enum status corpus_output_is_of(const char *directory, struct hash128 job, bool *same)
{
	struct hash128 made_by;
	struct corpus_info info = {0};
	enum status status = STATUS_OK;
	*same = false;
	if (manifest_read(directory, &info) == STATUS_OK)
		status = find_job(directory, info.hash, &made_by, same);
	*same = *same && hash128_compare(made_by, job) == 0;
	free((void *)info.shards);
	return status;
}

/* ---- putting a corpus in place ---- */

static bool holds_rejects(const struct corpus_info *info)
{
	return info->dropped_rejected > 0;
}

static bool holds_tokenizer(const struct corpus_info *info)
{
	return strcmp(info->tokenizer_name, TOKENIZER_GPT2_NAME) != 0;
}

static bool is_sources_file(const char *name)
{
	return strcmp(name + 5, ".src") == 0;
}

/* Is NAME a file of corpora (other than the manifest), and has this corpus one of that name? */
static bool is_corpus_file(const char *name, const struct corpus_info *info, bool *wanted)
{
	size_t number;
	if (is_shard_file(name, &number))
		*wanted = number < info->shard_count && (info->sources || !is_sources_file(name));
	else if (strcmp(name, "rejects.jsonl") == 0)
		*wanted = holds_rejects(info);
	else if (strcmp(name, "vocab.json") == 0 || strcmp(name, "merges.txt") == 0)
		*wanted = holds_tokenizer(info);
	else
		return false;
	return true;
}

static enum status move(const char *from, const char *to, const char *name)
{
	char *old = NULL, *new = NULL;
	enum status status = path_join(&old, from, name);
	if (status == STATUS_OK)
		status = path_join(&new, to, name);
	if (status == STATUS_OK && file_system->rename(old, new) < 0)
		status = error_set_errno(STATUS_IO, "%s: cannot rename to %s", old, new);
	free(old);
	free(new);
	return status;
}

/* Removes from DIRECTORY what this corpus has not, and what tells of the old one's job. (A run that was ended may have
 * put this one's there already.) */
static enum status remove_stale(const char *directory, const struct corpus_info *info)
{
	char **names;
	size_t count;
	struct hash128 job;
	bool wanted, told;
	TRY(find_job(directory, info->hash, &job, &told));
	TRY(directory_list(directory, &names, &count));
	enum status status = STATUS_OK;
	for (size_t i = 0; i < count && status == STATUS_OK; i++)
		if (strcmp(names[i], job_name) == 0 ? !told
						    : is_corpus_file(names[i], info, &wanted) && !wanted)
			status = corpus_output_remove_file(directory, names[i]);
	directory_list_free(names, count);
	return status;
}

static enum status move_files(const char *next, const char *directory, const struct corpus_info *info)
{
	char **names;
	size_t count;
	bool wanted;
	TRY(directory_list(next, &names, &count));
	enum status status = STATUS_OK;
	for (size_t i = 0; i < count && status == STATUS_OK; i++)
		if (strcmp(names[i], job_name) == 0 || (is_corpus_file(names[i], info, &wanted) && wanted))
			status = move(next, directory, names[i]);
	directory_list_free(names, count);
	return status;
}

static enum status install_files(const char *next, const char *directory)
{
	struct corpus_info info;
	TRY(manifest_read(next, &info));
	enum status status = corpus_output_remove_file(directory, "corpus.json");
	if (status == STATUS_OK)
		status = directory_sync(directory);
	if (status == STATUS_OK)
		status = remove_stale(directory, &info);
	if (status == STATUS_OK)
		status = move_files(next, directory, &info);
	if (status == STATUS_OK)
		status = directory_sync(directory);
	free((void *)info.shards);
	TRY(status);
	TRY(move(next, directory, "corpus.json"));
	return directory_sync(directory);
}

struct removal {
	const char *folder;
	char **names;
};

static enum status remove_one(void *context, int worker, uint64_t number)
{
	const struct removal *removal = context;
	(void)worker;
	if (strcmp(removal->names[number], "job.json") == 0)
		return STATUS_OK;
	return corpus_output_remove_file(removal->folder, removal->names[number]);
}

/* preprocess's job.json last: as long as it is there, the same command knows that its work is done. The system takes its
 * time to give back what it caches of large files, so that several threads remove them. */
static enum status remove_rest(const char *next, int workers)
{
	struct removal removal = {.folder = next};
	size_t count;
	TRY(directory_list(next, &removal.names, &count));
	enum status status = threads_run(workers, count, remove_one, &removal);
	directory_list_free(removal.names, count);
	return status == STATUS_OK ? directory_remove(next) : status;
}

static enum status install(const char *next, const char *directory, int workers)
{
	bool complete;
	TRY(corpus_output_has(next, "corpus.json", &complete));
	if (complete)
		TRY(install_files(next, directory));
	return remove_rest(next, workers);
}

static enum status recover(const char *directory, int workers)
{
	char *next;
	TRY(path_join(&next, directory, "next"));
	enum status status = file_exists(next) ? install(next, directory, workers) : STATUS_OK;
	free(next);
	return status == STATUS_OK ? status
				   : error_context(status, "%s: putting its new corpus in place", directory);
}

enum status corpus_output_recover(const char *directory)
{
	return recover(directory, 1);
}

/* ---- what comes out beside the shards ---- */

static enum status publish_named(
	const char *directory, const struct tokenizer_file *files, int count, const char *name)
{
	char *path;
	for (int i = 0; i < count; i++) {
		if (strcmp(files[i].name, name) != 0)
			continue;
		TRY(path_join(&path, directory, name));
		enum status status = file_publish(path, files[i].data, files[i].bytes);
		free(path);
		return status;
	}
	return error_set(STATUS_UNSUPPORTED, "the tokenizer does not export %s", name);
}

/* vocab.json and merges.txt of a vocabulary that is not built in. */
enum status corpus_output_write_tokenizer(const char *directory, const struct tokenizer *tokenizer)
{
	struct tokenizer_file files[TOKENIZER_FILES];
	if (strcmp(tokenizer_name(tokenizer), TOKENIZER_GPT2_NAME) == 0)
		return STATUS_OK;
	TRY(tokenizer_export(tokenizer, files));
	enum status status = publish_named(directory, files, TOKENIZER_FILES, "vocab.json");
	if (status == STATUS_OK)
		status = publish_named(directory, files, TOKENIZER_FILES, "merges.txt");
	tokenizer_export_free(files);
	return status;
}

static struct shard_summary sum_shards(const struct corpus_output *output)
{
	struct shard_summary sum = {.bytes = output->bytes};
	for (size_t i = 0; i < output->shard_count; i++) {
		sum.documents += output->shards[i].documents;
		sum.tokens += output->shards[i].tokens;
	}
	return sum;
}

static bool describe_tokenizer(const struct tokenizer *tokenizer, cJSON *json)
{
	return json && cJSON_AddStringToObject(json, "name", tokenizer_name(tokenizer)) &&
	       json_add_hash128(json, "hash", tokenizer_hash(tokenizer)) &&
	       json_add_u64(json, "vocabulary", tokenizer_vocabulary(tokenizer)) &&
	       json_add_u64(json, "eod", tokenizer_eod(tokenizer)) &&
	       cJSON_AddStringToObject(json, "unicode", "16.0.0");
}

static bool describe_totals(const struct corpus_output *output, cJSON *json)
{
	struct shard_summary sum = sum_shards(output);
	if (!json_add_u64(json, "documents", sum.documents) || !json_add_u64(json, "tokens", sum.tokens) ||
		!json_add_u64(json, "bytes", sum.bytes))
		return false;
	cJSON *input = cJSON_AddObjectToObject(json, "input");
	if (!input || !json_add_u64(input, "documents", output->input_documents) ||
		!json_add_u64(input, "tokens", output->input_tokens) ||
		!json_add_u64(input, "bytes", output->input_bytes))
		return false;
	cJSON *dropped = cJSON_AddObjectToObject(json, "dropped");
	uint64_t duplicates = output->input_documents - sum.documents - output->near_duplicates;
	bool near = output->near_bands || output->near_duplicates;
	return dropped && json_add_u64(dropped, "duplicates", duplicates) &&
	       (!near || json_add_u64(dropped, "near_duplicates", output->near_duplicates)) &&
	       json_add_u64(dropped, "empty", output->empty) &&
	       json_add_u64(dropped, "rejected", output->rejected) &&
	       json_add_u64(json, "repaired", output->repaired);
}

static bool describe_near(const struct corpus_output *output, cJSON *json)
{
	if (!output->near_bands)
		return true;
	cJSON *near = cJSON_AddObjectToObject(json, "near");
	return near && json_add_u64(near, "words", MINHASH_WORDS) &&
	       json_add_u64(near, "bands", (uint64_t)output->near_bands) &&
	       json_add_u64(near, "rows", (uint64_t)output->near_rows);
}

static bool describe_shards(const struct corpus_output *output, cJSON *list)
{
	for (size_t i = 0; list && i < output->shard_count; i++) {
		const struct shard_summary *shard = &output->shards[i];
		char name[16];
		snprintf(name, sizeof name, "%05zu", i);
		cJSON *json = cJSON_CreateObject();
		if (!json || !cJSON_AddItemToArray(list, json) ||
			!cJSON_AddStringToObject(json, "name", name) ||
			!json_add_u64(json, "documents", shard->documents) ||
			!json_add_u64(json, "tokens", shard->tokens) ||
			!json_add_hex64(json, "bin", shard->bin_root) ||
			!json_add_hex64(json, "idx", shard->idx_root) ||
			!json_add_hex64(json, "key", shard->key_root) ||
			(output->sources && !json_add_hash128(json, "src", shard->src_hash)))
			return false;
	}
	return list != NULL;
}

static enum status hash_roots(const struct corpus_output *output, struct hash128 *hash)
{
	struct hash_stream *stream;
	TRY(hash_stream_open(&stream));
	for (size_t i = 0; i < output->shard_count; i++) {
		uint8_t roots[24];
		store_le64(roots, output->shards[i].bin_root);
		store_le64(roots + 8, output->shards[i].idx_root);
		store_le64(roots + 16, output->shards[i].key_root);
		hash_stream_add(stream, roots, sizeof roots);
	}
	*hash = hash_stream_digest(stream);
	hash_stream_close(stream);
	return STATUS_OK;
}

static bool describe_corpus(const struct corpus_output *output, struct hash128 hash, cJSON *json)
{
	return json && cJSON_AddStringToObject(json, "format", "ferry-corpus") &&
	       json_add_u64(json, "version", 1) &&
	       describe_tokenizer(output->tokenizer, cJSON_AddObjectToObject(json, "tokenizer")) &&
	       cJSON_AddStringToObject(
		       json, "dtype", corpus_output_dtype(output->tokenizer) == CORPUS_U16 ? "u16" : "i32") &&
	       describe_totals(output, json) && describe_near(output, json) &&
	       describe_shards(output, cJSON_AddArrayToObject(json, "shards")) &&
	       json_add_hash128(json, "hash", hash);
}

static enum status write_manifest(const struct corpus_output *output, const char *work, struct hash128 hash)
{
	char *path;
	cJSON *json = cJSON_CreateObject();
	enum status status = describe_corpus(output, hash, json)
				     ? path_join(&path, work, "corpus.json")
				     : error_set(STATUS_MEMORY, "no memory for the manifest");
	if (status == STATUS_OK) {
		status = manifest_publish(path, json);
		free(path);
	}
	cJSON_Delete(json);
	return status;
}

static enum status publish(const struct corpus_output *output, const char *work)
{
	char *next;
	struct hash128 hash;
	TRY(hash_roots(output, &hash));
	TRY(corpus_output_write_tokenizer(work, output->tokenizer));
	TRY(write_manifest(output, work, hash));
	if (output->job)
		TRY(write_job(work, *output->job, hash));
	TRY(path_join(&next, output->directory, "next"));
	enum status status = file_rename(work, next);
	free(next);
	TRY(status);
	return recover(output->directory, output->workers > 1 ? output->workers : 1);
}

enum status corpus_output_publish(const struct corpus_output *output)
{
	char *work;
	TRY(path_join(&work, output->directory, "work"));
	enum status status = publish(output, work);
	free(work);
	return status;
}
