/* What a run writes down about itself, so that the same command can go on with it. */
#include "data/preprocess_journal.h"

#include "common/file.h"
#include "common/memory.h"
#include "data/corpus_output.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LARGEST_INPUT_LIST (UINT64_C(1) << 36)

/* One record an input: "bytes time path", each ended by a NUL, so that any path is fine. */
static enum status describe_inputs(const struct preprocess_job *job, char **text, size_t *bytes)
{
	size_t capacity = 0;
	*text = NULL;
	*bytes = 0;
	for (size_t i = 0; i < job->inputs.count; i++) {
		const struct input_file *file = &job->inputs.files[i];
		size_t room = strlen(file->path) + 64;
		TRY(memory_grow((void **)text, &capacity, *bytes + room, 1, "the list of inputs"));
		*bytes += (size_t)snprintf(*text + *bytes, room, "%" PRIu64 " %" PRIu64 " %s", file->bytes,
				  file->modified, file->path) +
			  1;
	}
	return STATUS_OK;
}

static cJSON *describe_job(const struct preprocess_job *job, struct hash128 inputs)
{
	const struct preprocess_config *config = job->config;
	cJSON *json = cJSON_CreateObject();
	const char *separator = config->document_separator;
	bool good =
		json && cJSON_AddStringToObject(json, "format", "ferry-preprocess") &&
		json_add_u64(json, "version", 2) &&
		cJSON_AddStringToObject(json, "input", token_format_name(config->token_format)) &&
		json_add_hash128(json, "tokenizer", tokenizer_hash(config->tokenizer)) &&
		cJSON_AddStringToObject(json, "text key", config->text_key) &&
		(separator ? cJSON_AddStringToObject(json, "document separator", separator)
			   : cJSON_AddNullToObject(json, "document separator")) &&
		json_add_u64(json, "longest document", config->max_bytes) &&
		json_add_u64(json, "least tokens", config->min_tokens) &&
		cJSON_AddBoolToObject(json, "strict", config->strict) &&
		cJSON_AddStringToObject(json, "on bad line", config->fail_on_bad_line ? "fail" : "skip") &&
		json_add_hash128(json, "inputs", inputs) &&
		json_add_u64(json, "unit bytes", job->unit_bytes) &&
		json_add_u64(json, "shard bytes", job->shard_bytes) &&
		json_add_u64(json, "bucket bits", (uint64_t)job->format.bucket_bits) &&
		(!config->sources || cJSON_AddTrueToObject(json, "sources")) &&
		(!config->near_bands ||
			(json_add_u64(json, "near-duplicates' bands", (uint64_t)config->near_bands) &&
				json_add_u64(json, "near-duplicates' rows", (uint64_t)config->near_rows)));
	if (good)
		return json;
	cJSON_Delete(json);
	return NULL;
}

void journal_free(struct journal *journal)
{
	free(journal->inputs_path);
	free(journal->job_path);
	free(journal->inputs);
	cJSON_Delete(journal->job);
}

enum status journal_make(struct preprocess_job *job, struct journal *journal)
{
	TRY(path_join(&journal->inputs_path, job->work, "inputs"));
	TRY(path_join(&journal->job_path, job->work, "job.json"));
	TRY(describe_inputs(job, &journal->inputs, &journal->inputs_bytes));
	journal->job = describe_job(job, hash128(journal->inputs, journal->inputs_bytes));
	FAIL_IF(!journal->job, STATUS_MEMORY, "no memory to describe the job");
	return json_hash(journal->job_path, journal->job, &job->format.job);
}

enum status journal_publish(const struct preprocess_job *job, const struct journal *journal)
{
	TRY(corpus_output_write_tokenizer(job->work, job->config->tokenizer));
	TRY(file_publish(journal->inputs_path, journal->inputs, journal->inputs_bytes));
	return json_publish(journal->job_path, journal->job);
}

/* The path in a record of describe_inputs. */
static const char *record_path(const char *record)
{
	for (int spaces = 0; spaces < 2; record++)
		spaces += *record == ' ';
	return record;
}

/* Names the first input that differs. `old` is a journal's. */
static enum status name_changed_input(
	const struct preprocess_job *job, const char *old, size_t old_bytes, const struct journal *journal)
{
	const char *a = old, *b = journal->inputs;
	const char *a_end = old + old_bytes, *b_end = b + journal->inputs_bytes;
	while (a < a_end && b < b_end && strcmp(a, b) == 0) {
		a += strlen(a) + 1;
		b += strlen(b) + 1;
	}
	const char *what = "has changed since";
	const char *path = b < b_end ? record_path(b) : "";
	const char *old_path = a < a_end ? record_path(a) : NULL;
	int order = b == b_end ? 1 : !old_path ? -1 : strcmp(path, old_path);
	if (order < 0)
		what = "was not among its inputs";
	if (order > 0) {
		path = old_path;
		what = "was among its inputs and is not now";
	}
	return error_set(STATUS_MISMATCH,
		"%s: holds an unfinished run: %s %s; use that run's inputs to finish it, or --overwrite (or "
		"delete %s) to begin anew",
		job->work, path, what, job->work);
}

/* The inputs differ, as their hash says: an error that names the first. */
static enum status refuse_inputs(const struct preprocess_job *job, const struct journal *journal)
{
	char *old;
	size_t bytes;
	TRY(file_read_all(journal->inputs_path, LARGEST_INPUT_LIST, &old, &bytes));
	enum status status = name_changed_input(job, old, bytes, journal);
	free(old);
	return status;
}

static void print_value(const cJSON *value, char text[64])
{
	snprintf(text, 64, "nothing");
	if (value && !cJSON_PrintPreallocated((cJSON *)(uintptr_t)value, text, 64, false))
		snprintf(text, 64, "another");
}

static enum status refuse_option(
	const struct preprocess_job *job, const char *name, const cJSON *then, const cJSON *now)
{
	char now_text[64], then_text[64];
	print_value(now, now_text);
	print_value(then, then_text);
	return error_set(STATUS_MISMATCH,
		"%s: holds an unfinished run whose %s is %s, not %s; give the same options to finish it, or "
		"--overwrite (or delete %s) to begin anew",
		job->work, name, then_text, now_text, job->work);
}

/* STATUS_MISMATCH naming the first option or input that differs. job.json alone decides: its hash of the
 * inputs still tells when the list of them has been removed already (data/corpus_output.c, remove_rest). */
static enum status compare_options(
	const struct preprocess_job *job, const struct journal *journal, cJSON *old)
{
	const cJSON *now, *then;
	cJSON_ArrayForEach (now, journal->job) {
		then = cJSON_GetObjectItemCaseSensitive(old, now->string);
		if (cJSON_Compare(now, then, true))
			continue;
		if (strcmp(now->string, "inputs") == 0)
			return refuse_inputs(job, journal);
		return refuse_option(job, now->string, then, now);
	}
	cJSON_ArrayForEach (then, old) {
		if (!cJSON_GetObjectItemCaseSensitive(journal->job, then->string))
			return refuse_option(job, then->string, then, NULL);
	}
	return STATUS_OK;
}

/* STATUS_OK: the journal on disk is this job's. STATUS_MISMATCH: it is another's. */
enum status journal_compare(const struct preprocess_job *job, const struct journal *journal, const char *path)
{
	cJSON *old;
	enum status status = json_read_file(path, &old);
	if (status != STATUS_OK)
		return error_context(status, "an unfinished run cannot go on (--overwrite begins anew)");
	status = compare_options(job, journal, old);
	cJSON_Delete(old);
	return status;
}

/* ---- reading it back ---- */

static enum status damaged_inputs(const char *path)
{
	return error_set(STATUS_CORRUPT,
		"%s: is damaged; delete its folder, or run with --overwrite, to begin anew", path);
}

static enum status read_record(const char *path, const char *record, struct input_file *file)
{
	char *end;
	*file = (struct input_file){0};
	file->bytes = strtoull(record, &end, 10);
	if (*end != ' ')
		return damaged_inputs(path);
	file->modified = strtoull(end + 1, &end, 10);
	if (*end != ' ' || !end[1])
		return damaged_inputs(path);
	file->standard_input = strcmp(end + 1, "-") == 0;
	file->path = strdup(end + 1);
	FAIL_IF(!file->path, STATUS_MEMORY, "no memory for the list of inputs");
	return STATUS_OK;
}

static enum status read_records(const char *path, const char *text, size_t bytes, struct input_list *inputs)
{
	size_t capacity = 0;
	if (bytes == 0 || text[bytes - 1] != 0)
		return damaged_inputs(path);
	for (const char *at = text; at < text + bytes; at += strlen(at) + 1) {
		TRY(memory_grow((void **)&inputs->files, &capacity, inputs->count + 1, sizeof *inputs->files,
			"the list of inputs"));
		struct input_file *file = &inputs->files[inputs->count];
		TRY(read_record(path, at, file));
		inputs->count++;
		inputs->bytes += file->bytes;
		if (!file->standard_input)
			TRY(input_file_classify(file));
	}
	return STATUS_OK;
}

static enum status read_inputs(const char *path, struct input_list *inputs)
{
	char *text;
	size_t bytes;
	TRY(file_read_all(path, LARGEST_INPUT_LIST, &text, &bytes));
	enum status status = read_records(path, text, bytes, inputs);
	free(text);
	return status;
}

static enum status read_options(const char *path, const cJSON *json, struct preprocess_config *config)
{
	const char *input, *on_bad_line;
	TRY(json_get_string(path, json, "input", &input));
	FAIL_IF(strcmp(input, token_format_name(TOKEN_FORMAT_NONE)) != 0, STATUS_USAGE,
		"%s: that run reads files of ids (%s): the same command goes on with it", path, input);
	TRY(json_get_string(path, json, "text key", &config->text_key));
	config->document_separator =
		cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "document separator"));
	TRY(json_get_u64(path, json, "longest document", &config->max_bytes));
	TRY(json_get_u64(path, json, "least tokens", &config->min_tokens));
	TRY(json_get_bool(path, json, "strict", &config->strict));
	TRY(json_get_string(path, json, "on bad line", &on_bad_line));
	config->fail_on_bad_line = strcmp(on_bad_line, "fail") == 0;
	TRY(json_get_u64(path, json, "unit bytes", &config->unit_bytes));
	TRY(json_get_u64(path, json, "shard bytes", &config->shard_bytes));
	if (cJSON_HasObjectItem(json, "near-duplicates' bands")) {
		uint64_t bands, rows;
		TRY(json_get_u64(path, json, "near-duplicates' bands", &bands));
		TRY(json_get_u64(path, json, "near-duplicates' rows", &rows));
		config->near_bands = bands <= INT_MAX ? (int)bands : -1;
		config->near_rows = rows <= INT_MAX ? (int)rows : -1;
	}
	config->sources = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(json, "sources"));
	return STATUS_OK;
}

/* The built-in tokenizer, or the one whose files are there. */
static enum status read_tokenizer(
	const char *path, const char *work, const cJSON *json, struct tokenizer **out)
{
	struct hash128 wanted;
	TRY(json_get_hash128(path, json, "tokenizer", &wanted));
	TRY(tokenizer_open_gpt2(out));
	if (hash128_compare(tokenizer_hash(*out), wanted) == 0)
		return STATUS_OK;
	tokenizer_close(*out);
	*out = NULL;
	return tokenizer_open_directory(work, out);
}

enum status journal_read(const char *work, struct journal_recall *out, struct input_list *inputs)
{
	char *job_path, *inputs_path = NULL;
	TRY(path_join(&job_path, work, "job.json"));
	enum status status = path_join(&inputs_path, work, "inputs");
	if (status == STATUS_OK)
		status = json_read_file(job_path, &out->job);
	if (status == STATUS_OK)
		status = read_options(job_path, out->job, &out->config);
	if (status == STATUS_OK)
		status = read_tokenizer(job_path, work, out->job, &out->tokenizer);
	if (status == STATUS_OK)
		status = read_inputs(inputs_path, inputs);
	out->config.tokenizer = out->tokenizer;
	free(job_path);
	free(inputs_path);
	return status;
}

void journal_recall_free(struct journal_recall *recall)
{
	if (recall->tokenizer)
		tokenizer_close(recall->tokenizer);
	cJSON_Delete(recall->job);
}
