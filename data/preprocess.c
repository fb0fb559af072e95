#include "data/preprocess_job.h"

#include "common/file.h"
#include "common/json.h"
#include "common/log.h"
#include "common/memory.h"
#include "data/corpus_output.h"
#include "tokenizer/utf8.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MEBI               (UINT64_C(1) << 20)
#define LARGEST_DOCUMENT   (UINT64_C(1) << 30)
#define SMALLEST_MEMORY    MEBI
#define BUCKET_INPUT       (64 * MEBI) /* input bytes that a bucket is meant for */
#define LEAST_UNIT_BYTES   (4 * MEBI)  /* a unit costs two fsyncs */
#define MOST_UNIT_BYTES    (64 * MEBI)
#define LARGEST_INPUT_LIST (UINT64_C(1) << 36)

enum {
	PACKED_WEIGHT = 4 /* compressed text is about this much larger */,
	SMALLEST_BITS = 4,
	UNKNOWN_BITS = 8
};

/* ---- progress ---- */

double job_clock(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void call_progress(struct preprocess_job *job)
{
	struct preprocess_progress progress = {
		.pass = job->pass,
		.bytes_done = atomic_load(&job->bytes_done),
		.bytes_total = job->bytes_total,
		.documents = atomic_load(&job->documents),
		.tokens = atomic_load(&job->tokens),
		.text_bytes = atomic_load(&job->text_bytes),
		.seconds = job_clock() - job->started,
	};
	if (!job->config->progress(job->config->user, &progress))
		atomic_store(&job->stopped, true);
}

enum status job_progress(struct preprocess_job *job, bool now)
{
	if (job->config->progress && (now || job_clock() - atomic_load(&job->progress_last) > 0.1)) {
		/* Who comes while another tells goes on with its work. */
		if (now)
			pthread_mutex_lock(&job->progress_mutex);
		if (now || pthread_mutex_trylock(&job->progress_mutex) == 0) {
			if (!atomic_load(&job->stopped))
				call_progress(job);
			atomic_store(&job->progress_last, job_clock());
			pthread_mutex_unlock(&job->progress_mutex);
		}
	}
	FAIL_IF(atomic_load(&job->stopped), STATUS_INTERRUPTED,
		"stopped; the same command goes on from here");
	return STATUS_OK;
}

/* ---- what the job is: units and buckets follow from the inputs alone ---- */

static uint64_t weight(const struct input_file *file)
{
	return file->compression == INPUT_PLAIN ? file->bytes : file->bytes * PACKED_WEIGHT;
}

static enum status add_piece(struct preprocess_job *job, size_t *capacity, struct piece piece)
{
	TRY(memory_grow((void **)&job->pieces, capacity, job->piece_count + 1, sizeof *job->pieces,
		"the list of inputs"));
	job->pieces[job->piece_count++] = piece;
	return STATUS_OK;
}

/* A unit for the pieces that have none yet. */
static enum status close_unit(struct preprocess_job *job, size_t *capacity, uint64_t stored)
{
	size_t first = job->unit_count ? job->units[job->unit_count - 1].first_piece +
						 job->units[job->unit_count - 1].pieces
				       : 0;
	if (first == job->piece_count)
		return STATUS_OK;
	TRY(memory_grow((void **)&job->units, capacity, job->unit_count + 1, sizeof *job->units,
		"the list of units"));
	job->units[job->unit_count++] =
		(struct unit){.first_piece = first, .pieces = job->piece_count - first, .stored = stored};
	return STATUS_OK;
}

/* A plain JSONL file larger than a unit: parts of equal size, each a unit. */
static enum status cut_file(
	struct preprocess_job *job, size_t file, size_t *piece_capacity, size_t *unit_capacity)
{
	uint64_t bytes = job->inputs.files[file].bytes;
	uint64_t parts = (bytes + job->unit_bytes - 1) / job->unit_bytes;
	for (uint64_t i = 0; i < parts; i++) {
		uint64_t begin = i * job->unit_bytes, end = begin + job->unit_bytes;
		uint64_t stored = (end < bytes ? end : bytes) - begin;
		if (i + 1 == parts)
			end = UINT64_MAX;
		TRY(add_piece(job, piece_capacity, (struct piece){file, begin, end}));
		TRY(close_unit(job, unit_capacity, stored));
	}
	return STATUS_OK;
}

/* Files of ids: each cut into parts of equal size, each a unit. */
static enum status plan_token_units(struct preprocess_job *job)
{
	size_t piece_capacity = 0, unit_capacity = 0;
	enum token_format format = job->config->token_format;
	for (size_t i = 0; i < job->inputs.count; i++) {
		const struct input_file *file = &job->inputs.files[i];
		uint64_t first, end;
		if (!token_file_has_ids(format, file))
			continue;
		TRY(token_file_measure(format, file, &first, &end));
		uint64_t parts = file->bytes / job->unit_bytes + 1, step = (end - first) / parts + 2;
		step -= step % 2;
		for (uint64_t begin = first; begin < end; begin += step) {
			TRY(add_piece(job, &piece_capacity,
				(struct piece){i, begin, end - begin < step ? end : begin + step}));
			TRY(close_unit(job, &unit_capacity, file->bytes / parts));
		}
	}
	return STATUS_OK;
}

static enum status plan_units(struct preprocess_job *job)
{
	if (job->config->token_format)
		return plan_token_units(job);
	size_t piece_capacity = 0, unit_capacity = 0;
	uint64_t held = 0, stored = 0; /* of the unit under way: weight, bytes */
	for (size_t i = 0; i < job->inputs.count; i++) {
		const struct input_file *file = &job->inputs.files[i];
		bool cut = file->kind == INPUT_JSONL && file->compression == INPUT_PLAIN &&
			   file->bytes > job->unit_bytes;
		if (cut || file->standard_input || held + weight(file) > job->unit_bytes) {
			TRY(close_unit(job, &unit_capacity, stored));
			held = stored = 0;
		}
		if (cut) {
			TRY(cut_file(job, i, &piece_capacity, &unit_capacity));
			continue;
		}
		TRY(add_piece(job, &piece_capacity, (struct piece){i, 0, UINT64_MAX}));
		held += weight(file);
		stored += file->bytes;
		if (file->standard_input)
			held = job->unit_bytes; /* a unit of its own */
	}
	return close_unit(job, &unit_capacity, stored);
}

static enum status plan_job(struct preprocess_job *job)
{
	uint64_t total = 0;
	bool unknown = false;
	for (size_t i = 0; i < job->inputs.count; i++) {
		total += weight(&job->inputs.files[i]);
		unknown |= job->inputs.files[i].standard_input;
	}
	job->unit_bytes = job->config->unit_bytes;
	if (!job->unit_bytes) {
		job->unit_bytes = total / 64;
		if (job->unit_bytes < LEAST_UNIT_BYTES)
			job->unit_bytes = LEAST_UNIT_BYTES;
		if (job->unit_bytes > MOST_UNIT_BYTES)
			job->unit_bytes = MOST_UNIT_BYTES;
	}
	int bits = unknown ? UNKNOWN_BITS : SMALLEST_BITS;
	while (bits < SPILL_LARGEST_BITS && total >> bits > BUCKET_INPUT)
		bits++;
	job->dtype = corpus_output_dtype(job->config->tokenizer);
	job->format.bucket_bits = bits;
	job->format.item_bytes = job->dtype == CORPUS_U16 ? 2 : 4;
	job->shard_bytes = job->config->shard_bytes;
	return plan_units(job);
}

/* ---- the journal ---- */

void job_unit_path(const struct preprocess_job *job, size_t unit, char path[JOB_PATH])
{
	snprintf(path, JOB_PATH, "%s/unit-%06zu", job->work, unit);
}

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
		json_add_u64(json, "bucket bits", (uint64_t)job->format.bucket_bits);
	if (good)
		return json;
	cJSON_Delete(json);
	return NULL;
}

/* What this run would journal, and where. */
struct journal {
	char *inputs_path, *job_path;
	char *inputs; /* [inputs_bytes] */
	size_t inputs_bytes;
	cJSON *job;
};

static void journal_free(struct journal *journal)
{
	free(journal->inputs_path);
	free(journal->job_path);
	free(journal->inputs);
	cJSON_Delete(journal->job);
}

static enum status journal_make(struct preprocess_job *job, struct journal *journal)
{
	TRY(path_join(&journal->inputs_path, job->work, "inputs"));
	TRY(path_join(&journal->job_path, job->work, "job.json"));
	TRY(describe_inputs(job, &journal->inputs, &journal->inputs_bytes));
	journal->job = describe_job(job, hash128(journal->inputs, journal->inputs_bytes));
	char *text = journal->job ? cJSON_PrintUnformatted(journal->job) : NULL;
	FAIL_IF(!text, STATUS_MEMORY, "no memory to describe the job");
	job->format.job = hash128(text, strlen(text));
	cJSON_free(text);
	return STATUS_OK;
}

static enum status journal_publish(const struct journal *journal)
{
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

/* STATUS_MISMATCH naming the first option or input that differs. job.json alone decides: its hash of the
 * inputs still tells when the list of them has been removed already (remove_work). */
static enum status compare_options(
	const struct preprocess_job *job, const struct journal *journal, cJSON *old)
{
	const cJSON *now;
	cJSON_ArrayForEach (now, journal->job) {
		const cJSON *then = cJSON_GetObjectItemCaseSensitive(old, now->string);
		char now_text[64], then_text[64];
		if (cJSON_Compare(now, then, true))
			continue;
		if (strcmp(now->string, "inputs") == 0)
			return refuse_inputs(job, journal);
		print_value(now, now_text);
		print_value(then, then_text);
		return error_set(STATUS_MISMATCH,
			"%s: holds an unfinished run whose %s is %s, not %s; give the same options to finish "
			"it, or "
			"--overwrite (or delete %s) to begin anew",
			job->work, now->string, then_text, now_text, job->work);
	}
	return STATUS_OK;
}

/* STATUS_OK: the journal on disk is this job's. STATUS_MISMATCH: it is another's. */
static enum status journal_compare(
	const struct preprocess_job *job, const struct journal *journal, const char *path)
{
	cJSON *old;
	enum status status = json_read_file(path, &old);
	if (status != STATUS_OK)
		return error_context(status, "an unfinished run cannot go on (--overwrite begins anew)");
	status = compare_options(job, journal, old);
	cJSON_Delete(old);
	return status;
}

/* ---- what comes out beside the shards ---- */

struct reject_output {
	struct preprocess_job *job;
	struct file_writer *file;
	const struct unit *unit;
	const uint64_t *lines_before; /* [pieces of the unit]: lines of the file in earlier units */
};

static enum status write_escaped(struct file_writer *file, const char *text, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++) {
		char escaped[8];
		unsigned char c = (unsigned char)text[i];
		int length = 1;
		escaped[0] = (char)c;
		if (c == '"' || c == '\\')
			length = snprintf(escaped, sizeof escaped, "\\%c", c);
		else if (c < 0x20)
			length = snprintf(escaped, sizeof escaped, "\\u%04x", c);
		TRY(file_writer_write(file, escaped, (size_t)length));
	}
	return STATUS_OK;
}

/* A path need not be UTF-8, JSON must. */
static enum status write_path(struct file_writer *file, const char *path)
{
	char *repaired;
	uint64_t replaced;
	size_t bytes = strlen(path);
	TRY(memory_alloc((void **)&repaired, UTF8_REPAIR_LIMIT(bytes), 1, "a path"));
	bytes = utf8_repair(path, bytes, repaired, &replaced);
	enum status status = write_escaped(file, repaired, bytes);
	free(repaired);
	return status;
}

static enum status write_text(struct file_writer *file, const char *text)
{
	return file_writer_write(file, text, strlen(text));
}

static enum status write_reject(void *user, const struct spill_reject *reject)
{
	struct reject_output *out = user;
	FAIL_IF(reject->piece >= out->unit->pieces, STATUS_CORRUPT, "%s: has a damaged list of rejects",
		out->job->work);
	const struct piece *piece = &out->job->pieces[out->unit->first_piece + reject->piece];
	const struct input_file *file = &out->job->inputs.files[piece->file];
	char place[96];
	TRY(write_text(out->file, "{\"file\": \""));
	TRY(write_path(out->file, file->path));
	if (file->kind == INPUT_JSONL)
		snprintf(place, sizeof place,
			"\", \"line\": %" PRIu64 ", \"byte\": %" PRIu64 ", \"reason\": \"",
			out->lines_before[reject->piece] + reject->line, reject->offset);
	else
		snprintf(place, sizeof place, "\", \"byte\": %" PRIu64 ", \"reason\": \"", reject->offset);
	TRY(write_text(out->file, place));
	TRY(write_escaped(out->file, reject->reason, reject->reason_bytes));
	return write_text(out->file, "\"}\n");
}

/* One unit's rejects. *lines counts the lines so far of the file that is cut into units. */
static enum status write_unit_rejects(struct reject_output *out, size_t number, uint64_t *lines)
{
	struct preprocess_job *job = out->job;
	char path[JOB_PATH];
	uint64_t *before;
	size_t pieces;
	out->unit = &job->units[number];
	job_unit_path(job, number, path);
	TRY(spill_read_lines(path, &job->format, &before, &pieces));
	enum status status = STATUS_OK;
	if (pieces != out->unit->pieces)
		status = error_set(STATUS_CORRUPT, "%s: is another unit's; remove it and run again", path);
	/* Each piece's count becomes the lines before it: none, unless it goes on where a unit before ended.
	 */
	for (size_t i = 0; i < pieces && status == STATUS_OK; i++) {
		uint64_t own = before[i];
		if (job->pieces[out->unit->first_piece + i].begin == 0)
			*lines = 0;
		before[i] = *lines;
		*lines += own;
	}
	out->lines_before = before;
	if (status == STATUS_OK)
		status = spill_read_rejects(path, &job->format, write_reject, out);
	free(before);
	return status;
}

/* rejects.jsonl; none when nothing was rejected. Inputs are sorted, so units are, and so are rejects. */
static enum status write_rejects(struct preprocess_job *job, const char *directory)
{
	struct reject_output out = {.job = job};
	uint64_t lines = 0;
	char *path;
	if (job->counts.rejected == 0)
		return corpus_output_remove_file(directory, "rejects.jsonl");
	TRY(path_join(&path, directory, "rejects.jsonl"));
	enum status status = file_writer_open(path, &out.file);
	free(path);
	TRY(status);
	for (size_t i = 0; i < job->unit_count && status == STATUS_OK; i++)
		status = write_unit_rejects(&out, i, &lines);
	if (status == STATUS_OK)
		return file_writer_publish(out.file);
	file_writer_abandon(out.file);
	return status;
}

static struct shard_summary sum_shards(const struct preprocess_job *job)
{
	struct shard_summary sum = {0};
	for (size_t i = 0; i < job->shard_count; i++) {
		sum.documents += job->shards[i].summary.documents;
		sum.tokens += job->shards[i].summary.tokens;
		sum.bytes += job->shards[i].summary.bytes;
	}
	return sum;
}

static enum status publish_corpus(const struct preprocess_job *job)
{
	struct shard_summary *shards;
	TRY(memory_alloc((void **)&shards, job->shard_count, sizeof *shards, "shards"));
	for (size_t i = 0; i < job->shard_count; i++)
		shards[i] = job->shards[i].summary;
	enum status status = corpus_output_publish(&(struct corpus_output){
		.directory = job->config->output,
		.tokenizer = job->config->tokenizer,
		.bytes = sum_shards(job).bytes,
		.input_documents = job->counts.documents,
		.input_tokens = job->counts.tokens,
		.input_bytes = job->counts.bytes,
		.empty = job->counts.empty,
		.rejected = job->counts.rejected,
		.repaired = job->counts.repaired,
		.shards = shards,
		.shard_count = job->shard_count,
	});
	free(shards);
	return status;
}

/* ---- a run ---- */

static enum status check_config(const struct preprocess_config *config)
{
	FAIL_IF(config->input_count == 0, STATUS_USAGE,
		"no inputs; name files, folders, or - for JSONL on "
		"standard input");
	FAIL_IF(config->workers < 1 || config->workers > 4096, STATUS_USAGE,
		"%d workers are not possible; 1 to 4096 are", config->workers);
	FAIL_IF(config->memory < SMALLEST_MEMORY, STATUS_USAGE,
		"%" PRIu64 " bytes of memory are too few; 1 MiB is the least", config->memory);
	FAIL_IF(config->max_bytes < 1 || config->max_bytes > LARGEST_DOCUMENT, STATUS_USAGE,
		"a longest document of %" PRIu64 " bytes is not possible; 1 byte to 1 GiB are",
		config->max_bytes);
	FAIL_IF(!*config->text_key, STATUS_USAGE, "the text key is empty");
	FAIL_IF(config->document_separator && !*config->document_separator, STATUS_USAGE,
		"the document separator is empty");
	return STATUS_OK;
}

/* Marks the units that an earlier run finished. */
static enum status recall_units(struct preprocess_job *job)
{
	uint64_t *ignored;
	enum status status = STATUS_OK;
	TRY(memory_alloc((void **)&ignored, (size_t)1 << job->format.bucket_bits, 8, "bucket sizes"));
	for (size_t i = 0; i < job->unit_count && status == STATUS_OK; i++) {
		struct spill_counts counts;
		char path[JOB_PATH];
		job_unit_path(job, i, path);
		if (!file_exists(path))
			continue;
		status = spill_inspect(path, &job->format, &counts, ignored);
		if (status == STATUS_CORRUPT) {
			log_warn("%s; it is made anew", error_message());
			status = STATUS_OK;
			continue;
		}
		job->units[i].done = status == STATUS_OK;
		atomic_fetch_add(&job->bytes_done, job->units[i].stored);
		atomic_fetch_add(&job->documents, counts.documents);
		atomic_fetch_add(&job->tokens, counts.tokens);
		atomic_fetch_add(&job->text_bytes, counts.bytes);
	}
	free(ignored);
	return status;
}

static enum status total_units(struct preprocess_job *job)
{
	TRY(memory_alloc(
		(void **)&job->bucket_bytes, (size_t)1 << job->format.bucket_bits, 8, "bucket sizes"));
	for (size_t i = 0; i < job->unit_count; i++) {
		struct spill_counts counts;
		char path[JOB_PATH];
		job_unit_path(job, i, path);
		TRY(spill_inspect(path, &job->format, &counts, job->bucket_bytes));
		job->counts.documents += counts.documents;
		job->counts.tokens += counts.tokens;
		job->counts.bytes += counts.bytes;
		job->counts.empty += counts.empty;
		job->counts.rejected += counts.rejected;
		job->counts.repaired += counts.repaired;
	}
	return STATUS_OK;
}

static enum status first_pass(struct preprocess_job *job)
{
	bool unknown = false;
	for (size_t i = 0; i < job->inputs.count; i++)
		unknown |= job->inputs.files[i].standard_input;
	job->pass = 1;
	job->bytes_total = unknown ? 0 : job->inputs.bytes;
	TRY(recall_units(job));
	TRY(job_tokenize(job));
	return total_units(job);
}

/* There is nothing to train on: says why, and leaves no unfinished run behind. A corpus that was to be
 * replaced stays, with its own rejects.jsonl. */
static enum status refuse_empty(struct preprocess_job *job)
{
	bool corpus;
	TRY(corpus_output_has(job->config->output, "corpus.json", &corpus));
	if (!corpus)
		TRY(write_rejects(job, job->config->output));
	TRY(directory_remove(job->work));
	FAIL_IF(job->config->token_format, STATUS_USAGE,
		"no documents in the inputs: %" PRIu64 " empty, %" PRIu64 " rejected", job->counts.empty,
		job->counts.rejected);
	return error_set(STATUS_USAGE,
		"no documents in the inputs: %" PRIu64 " empty, %" PRIu64
		" rejected%s; is --text-key (now \"%s\") right?",
		job->counts.empty, job->counts.rejected,
		job->counts.rejected && !corpus ? " (rejects.jsonl in the output directory lists them)" : "",
		job->config->text_key);
}

static enum status second_pass(struct preprocess_job *job)
{
	job->pass = 2;
	job->bytes_total = 0;
	atomic_store(&job->bytes_done, 0);
	TRY(job_merge(job));
	TRY(write_rejects(job, job->work));
	return publish_corpus(job);
}

static enum status run_passes(struct preprocess_job *job, struct preprocess_result *result)
{
	double start = job_clock();
	TRY(first_pass(job));
	double middle = job_clock();
	if (job->counts.documents == 0)
		return refuse_empty(job);
	TRY(second_pass(job));
	struct shard_summary sum = sum_shards(job);
	*result = (struct preprocess_result){
		.documents = sum.documents,
		.tokens = sum.tokens,
		.bytes = sum.bytes,
		.input_documents = job->counts.documents,
		.input_bytes = job->counts.bytes,
		.duplicates = job->counts.documents - sum.documents,
		.empty = job->counts.empty,
		.rejected = job->counts.rejected,
		.repaired = job->counts.repaired,
		.shards = job->shard_count,
		.seconds = {middle - start, job_clock() - middle},
		.resumed = job->resumed,
	};
	return STATUS_OK;
}

/* An earlier run was ended as it put its corpus in place: that is done now. */
static enum status finish_earlier(struct preprocess_job *job, struct preprocess_result *result)
{
	struct corpus *corpus;
	TRY(corpus_open(job->config->output, &corpus));
	const struct corpus_info *info = corpus_get_info(corpus);
	*result = (struct preprocess_result){
		.documents = info->documents,
		.tokens = info->tokens,
		.bytes = info->bytes,
		.input_documents = info->input_documents,
		.input_bytes = info->input_bytes,
		.duplicates = info->dropped_duplicates,
		.empty = info->dropped_empty,
		.rejected = info->dropped_rejected,
		.repaired = info->repaired,
		.shards = info->shard_count,
		.resumed = true,
	};
	corpus_close(corpus);
	return STATUS_OK;
}

/* Puts in place what an earlier run completed; *same: that was this job. */
static enum status recover(struct preprocess_job *job, const struct journal *journal, bool *same)
{
	char *path;
	*same = false;
	if (asprintf(&path, "%s/next/job.json", job->config->output) < 0)
		return error_set(STATUS_MEMORY, "no memory for a path");
	*same = file_exists(path) && journal_compare(job, journal, path) == STATUS_OK;
	free(path);
	return corpus_output_recover(job->config->output);
}

/* Decides what DIR is: new, an unfinished run of this job, a corpus, or something else's. */
static enum status settle(struct preprocess_job *job, const struct journal *journal, bool *complete)
{
	const struct preprocess_config *config = job->config;
	bool corpus;
	TRY(recover(job, journal, complete));
	if (*complete)
		return STATUS_OK;
	TRY(corpus_output_has(config->output, "corpus.json", &corpus));
	bool journaled = file_exists(journal->job_path);
	enum status compared = journaled ? journal_compare(job, journal, journal->job_path) : STATUS_OK;
	/* A run that was killed between its last two removals is finished, and leaves this empty folder. */
	if (corpus && !journaled)
		(void)file_system->rmdir(job->work);
	job->resumed = journaled && compared == STATUS_OK;
	if (job->resumed)
		return file_remove_temporaries(job->work);
	FAIL_IF(corpus && !config->overwrite, STATUS_USAGE,
		"%s: already holds a corpus; choose another --output, or --overwrite to replace it",
		config->output);
	if (!config->overwrite)
		TRY(compared);
	TRY(directory_remove(job->work));
	TRY(directory_create(job->work));
	return journal_publish(journal);
}

static enum status run_locked(
	struct preprocess_job *job, struct journal *journal, struct preprocess_result *result)
{
	bool complete;
	TRY(file_remove_temporaries(job->config->output));
	TRY(journal_make(job, journal));
	TRY(settle(job, journal, &complete));
	return complete ? finish_earlier(job, result) : run_passes(job, result);
}

static enum status run_job(struct preprocess_job *job, struct preprocess_result *result)
{
	const struct preprocess_config *config = job->config;
	struct journal journal = {0};
	struct corpus_output_lock lock;
	TRY(check_config(config));
	TRY(config->token_format
			? token_files_list(
				  config->token_format, config->inputs, config->input_count, &job->inputs)
			: input_list_open(config->inputs, config->input_count, config->output, &job->inputs));
	FAIL_IF(job->inputs.count == 0, STATUS_USAGE, "no files in the folders given");
	TRY(plan_job(job));
	TRY(path_join(&job->work, config->output, "work"));
	FAIL_IF(strlen(job->work) > JOB_PATH - 64, STATUS_USAGE, "%s: the path is too long", job->work);
	TRY(corpus_output_lock(config->output, &lock));
	enum status status = run_locked(job, &journal, result);
	journal_free(&journal);
	corpus_output_unlock(&lock);
	return status;
}

enum status preprocess_run(const struct preprocess_config *config, struct preprocess_result *result)
{
	struct preprocess_job job = {.config = config, .started = job_clock()};
	*result = (struct preprocess_result){0};
	pthread_mutex_init(&job.progress_mutex, NULL);
	enum status status = run_job(&job, result);
	pthread_mutex_destroy(&job.progress_mutex);
	input_list_close(&job.inputs);
	free(job.pieces);
	free(job.units);
	free(job.bucket_bytes);
	free(job.shards);
	free(job.work);
	return status;
}
