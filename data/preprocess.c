#include "data/preprocess_job.h"

#include "common/clock.h"
#include "common/file.h"
#include "common/log.h"
#include "common/memory.h"
#include "common/threads.h"
#include "data/corpus_output.h"
#include "data/minhash.h"
#include "data/output_lock.h"
#include "data/preprocess_journal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LARGEST_DOCUMENT (UINT64_C(1) << 30)
#define SMALLEST_MEMORY  (UINT64_C(1) << 20)

/* ---- the profile ---- */

struct stopwatch stopwatch_start(const struct preprocess_job *job, int worker)
{
	struct stopwatch watch = {.seconds = job->config->profile ? job->config->profile[worker] : NULL};
	if (watch.seconds) {
		watch.since = clock_seconds();
		watch.processor_since = threads_processor_seconds();
	}
	return watch;
}

void stopwatch_lap(struct stopwatch *watch, enum preprocess_stage stage)
{
	if (!watch->seconds)
		return;
	double now = clock_seconds();
	watch->laps[stage] += now - watch->since;
	watch->since = now;
}

void stopwatch_settle(struct stopwatch *watch)
{
	if (!watch->seconds)
		return;
	double now = threads_processor_seconds(), sum = 0;
	for (int stage = 0; stage < PREPROCESS_STAGES; stage++)
		sum += watch->laps[stage];
	for (int stage = 0; stage < PREPROCESS_STAGES; stage++) {
		if (sum > 0)
			watch->seconds[stage] += watch->laps[stage] / sum * (now - watch->processor_since);
		watch->laps[stage] = 0;
	}
	watch->processor_since = now;
	watch->since = clock_seconds();
}

void stopwatch_block(struct stopwatch *watch, enum preprocess_stage stage)
{
	double processor = watch->processor_since;
	if (!watch->seconds)
		return;
	stopwatch_lap(watch, stage);
	double passed = watch->laps[stage];
	stopwatch_settle(watch);
	double waited = passed - (watch->processor_since - processor);
	if (waited > 0)
		watch->seconds[PREPROCESS_WAIT] += waited;
}

/* ---- progress ---- */

static void call_progress(struct preprocess_job *job)
{
	struct preprocess_progress progress = {
		.pass = job->pass,
		.bytes_done = atomic_load(&job->bytes_done),
		.bytes_total = job->bytes_total,
		.documents = atomic_load(&job->documents),
		.tokens = atomic_load(&job->tokens),
		.text_bytes = atomic_load(&job->text_bytes),
		.seconds = clock_seconds() - job->started,
	};
	if (!job->config->progress(job->config->user, &progress))
		atomic_store(&job->stopped, true);
}

enum status job_progress(struct preprocess_job *job, bool now)
{
	if (job->config->progress && (now || clock_seconds() - atomic_load(&job->progress_last) > 0.1)) {
		/* Who comes while another tells goes on with its work. */
		if (now)
			pthread_mutex_lock(&job->progress_mutex);
		if (now || pthread_mutex_trylock(&job->progress_mutex) == 0) {
			if (!atomic_load(&job->stopped))
				call_progress(job);
			atomic_store(&job->progress_last, clock_seconds());
			pthread_mutex_unlock(&job->progress_mutex);
		}
	}
	FAIL_IF(atomic_load(&job->stopped), STATUS_INTERRUPTED,
		"stopped; the same command goes on from here");
	return STATUS_OK;
}

void job_unit_path(const struct preprocess_job *job, size_t unit, char path[JOB_PATH])
{
	snprintf(path, JOB_PATH, "%s/unit-%06zu", job->work, unit);
}

/* ---- what comes out ---- */

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

static uint64_t count_near(const struct preprocess_job *job)
{
	uint64_t near = 0;
	for (size_t i = 0; i < job->shard_count; i++)
		near += job->shards[i].near;
	return near;
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
		.near_duplicates = count_near(job),
		.near_bands = job->config->near_bands,
		.near_rows = job->config->near_rows,
		.workers = job->config->workers,
		.sources = job->config->sources,
		.job = job->config->mode == PREPROCESS_ALONE ? NULL : &job->format.job,
		.shards = shards,
		.shard_count = job->shard_count,
	});
	free(shards);
	return status;
}

/* ---- a run ---- */

enum status job_check_config(const struct preprocess_config *config)
{
	FAIL_IF(config->workers < 1 || config->workers > 4096, STATUS_USAGE,
		"%d workers are not possible; 1 to 4096 are", config->workers);
	FAIL_IF(config->memory < SMALLEST_MEMORY, STATUS_USAGE,
		"%" PRIu64 " bytes of memory are too few; 1 MiB is the least", config->memory);
	FAIL_IF(config->max_bytes < 1 || config->max_bytes > LARGEST_DOCUMENT, STATUS_USAGE,
		"a longest document of %" PRIu64 " bytes is not possible; 1 byte to 1 GiB are",
		config->max_bytes);
	FAIL_IF(config->near_bands && (config->near_bands < 0 || config->near_bands > MINHASH_MOST_BANDS ||
					      config->near_rows < 1 || config->near_rows > MINHASH_MOST_ROWS),
		STATUS_USAGE, "%d bands of %d rows are not possible; 1 to %d of 1 to %d are",
		config->near_bands, config->near_rows, MINHASH_MOST_BANDS, MINHASH_MOST_ROWS);
	FAIL_IF(!*config->text_key, STATUS_USAGE, "the text key is empty");
	FAIL_IF(config->document_separator && !*config->document_separator, STATUS_USAGE,
		"the document separator is empty");
	return STATUS_OK;
}

/* Marks the unit if an earlier run, or another process, finished it. */
static enum status recall_unit(void *context, int worker, uint64_t number)
{
	struct preprocess_job *job = context;
	struct unit *unit = &job->units[number];
	struct spill_counts counts;
	char path[JOB_PATH];
	(void)worker;
	job_unit_path(job, number, path);
	if (unit->done || unit->others || !file_exists(path))
		return STATUS_OK;
	TRY(job_progress(job, false));
	enum status status = spill_inspect(path, &job->format, &counts, NULL);
	if (status == STATUS_OK)
		status = spill_verify(path, &job->format); /* the power may have failed since */
	if (status == STATUS_CORRUPT) {
		log_warn("%s", error_message());
		unit->damaged = true;
		return STATUS_OK;
	}
	TRY(status);
	if (job->config->near_bands && !job_has_near_unit(job, number)) {
		unit->damaged = true;
		return STATUS_OK;
	}
	unit->done = true;
	atomic_fetch_add(&job->bytes_done, unit->stored);
	atomic_fetch_add(&job->documents, counts.documents);
	atomic_fetch_add(&job->tokens, counts.tokens);
	atomic_fetch_add(&job->text_bytes, counts.bytes);
	return STATUS_OK;
}

enum status job_recall_units(struct preprocess_job *job)
{
	return threads_run(job->config->workers, job->unit_count, recall_unit, job);
}

enum status job_total_units(struct preprocess_job *job)
{
	TRY(memory_alloc(
		(void **)&job->bucket_bytes, (size_t)1 << job->format.bucket_bits, 8, "bucket sizes"));
	for (size_t i = 0; i < job->unit_count; i++) {
		struct spill_counts counts;
		char path[JOB_PATH];
		job_unit_path(job, i, path);
		TRY(spill_inspect(path, &job->format, &counts, job->bucket_bytes));
		spill_counts_add(&job->counts, &counts);
	}
	return job->counts.rejected || job->config->sources ? job_count_lines(job) : STATUS_OK;
}

static enum status first_pass(struct preprocess_job *job)
{
	job->pass = 1;
	job->bytes_total = input_list_has_standard_input(&job->inputs) ? 0 : job->inputs.bytes;
	TRY(job_recall_units(job));
	TRY(job_tokenize(job));
	return job_total_units(job);
}

/* A corpus that was to be replaced stays, with its own rejects.jsonl. */
enum status job_refuse_empty(struct preprocess_job *job)
{
	bool corpus;
	TRY(corpus_output_has(job->config->output, "corpus.json", &corpus));
	if (!corpus)
		TRY(job_write_rejects(job, job->config->output));
	job->useless = true;
	FAIL_IF(job->config->token_format, STATUS_USAGE,
		"no documents in the inputs: %" PRIu64 " empty, %" PRIu64 " rejected", job->counts.empty,
		job->counts.rejected);
	FAIL_IF(!job->counts.rejected, STATUS_USAGE,
		"no documents in the inputs: %" PRIu64 " empty, 0 rejected; give files that hold text",
		job->counts.empty);
	return error_set(STATUS_USAGE,
		"no documents in the inputs: %" PRIu64 " empty, %" PRIu64
		" rejected%s; is --text-key (now \"%s\") right? (--min-tokens and --max-bytes reject too)",
		job->counts.empty, job->counts.rejected,
		corpus ? "" : " (rejects.jsonl in the output directory says why)", job->config->text_key);
}

enum status job_publish(struct preprocess_job *job, struct preprocess_result *result)
{
	TRY(job_write_rejects(job, job->work));
	job_end_near(job);
	enum status status = publish_corpus(job);
	/* It is put in place, whatever happened since work/ was renamed; it may be that a file which other processes have open
	 * would not go (NFS, FUSE). The last of them to leave completes it. */
	if (status != STATUS_OK && !job_is_gone(job))
		return status;
	struct shard_summary sum = sum_shards(job);
	*result = (struct preprocess_result){
		.documents = sum.documents,
		.tokens = sum.tokens,
		.bytes = sum.bytes,
		.input_documents = job->counts.documents,
		.input_bytes = job->counts.bytes,
		.duplicates = job->counts.documents - sum.documents - count_near(job),
		.near_duplicates = count_near(job),
		.empty = job->counts.empty,
		.rejected = job->counts.rejected,
		.repaired = job->counts.repaired,
		.shards = job->shard_count,
		.resumed = job->resumed,
		.complete = true,
		.published = true,
	};
	return STATUS_OK;
}

static enum status run_passes(struct preprocess_job *job, struct preprocess_result *result)
{
	double start = clock_seconds();
	TRY(first_pass(job));
	if (job->counts.documents == 0)
		return job_refuse_empty(job);
	if (job->config->near_bands)
		TRY(job_find_near(job));
	double middle = clock_seconds();
	TRY(job_merge(job));
	TRY(job_publish(job, result));
	result->seconds[0] = middle - start;
	result->seconds[1] = clock_seconds() - middle;
	return STATUS_OK;
}

enum status job_finish_earlier(struct preprocess_job *job, struct preprocess_result *result)
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
		.near_duplicates = info->dropped_near,
		.empty = info->dropped_empty,
		.rejected = info->dropped_rejected,
		.repaired = info->repaired,
		.shards = info->shard_count,
		.resumed = true,
		.complete = true,
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

enum status job_settle(struct preprocess_job *job, const struct journal *journal, bool *complete)
{
	const struct preprocess_config *config = job->config;
	bool corpus;
	TRY(directory_remove_temporaries(config->output));
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
		return directory_remove_temporaries(job->work);
	if (corpus && !journaled && !config->overwrite && config->mode != PREPROCESS_ALONE) {
		/* A part that starts when the others have published. */
		TRY(corpus_output_is_of(config->output, job->format.job, complete));
		if (*complete)
			return STATUS_OK;
	}
	FAIL_IF(corpus && !config->overwrite, STATUS_USAGE,
		"%s: already holds a corpus; choose another --output, or --overwrite to replace it",
		config->output);
	if (!config->overwrite)
		TRY(compared);
	TRY(directory_remove(job->work));
	TRY(directory_create(job->work));
	return journal_publish(job, journal);
}

static enum status run_alone(
	struct preprocess_job *job, struct journal *journal, struct preprocess_result *result)
{
	bool complete;
	TRY(job_settle(job, journal, &complete));
	return complete ? job_finish_earlier(job, result) : run_passes(job, result);
}

static enum status lock_and_run(
	struct preprocess_job *job, struct journal *journal, struct preprocess_result *result)
{
	struct output_lock lock;
	if (job->config->mode != PREPROCESS_ALONE)
		return job_run_shared(job, journal, result);
	TRY(output_lock_alone(job->config->output, &lock));
	enum status status = run_alone(job, journal, result);
	if (job->useless)
		status = directory_discard(job->work, status);
	output_lock_release(&lock);
	return status;
}

enum status job_plan_and_run(struct preprocess_job *job, struct preprocess_result *result)
{
	struct journal journal = {0};
	TRY(job_plan(job));
	enum status status = journal_make(job, &journal);
	job_prepare_near(job);
	if (status == STATUS_OK)
		status = lock_and_run(job, &journal, result);
	journal_free(&journal);
	return status;
}

static enum status list_inputs(struct preprocess_job *job)
{
	const struct preprocess_config *config = job->config;
	FAIL_IF(config->input_count == 0, STATUS_USAGE,
		"no inputs; name files, folders, or - for JSONL on standard input");
	TRY(config->token_format
			? token_files_list(
				  config->token_format, config->inputs, config->input_count, &job->inputs)
			: input_list_open(config->inputs, config->input_count, config->output, &job->inputs));
	FAIL_IF(job->inputs.count == 0, STATUS_USAGE, "no files in the folders given");
	return STATUS_OK;
}

static enum status run_job(struct preprocess_job *job, struct preprocess_result *result)
{
	const struct preprocess_config *config = job->config;
	TRY(job_check_config(config));
	TRY(path_join(&job->work, config->output, "work"));
	FAIL_IF(strlen(job->work) > JOB_PATH - 64, STATUS_USAGE, "%s: the path is too long", job->work);
	if (config->mode == PREPROCESS_FINISH && config->input_count == 0)
		return job_run_recalled(job, result);
	TRY(list_inputs(job));
	return job_plan_and_run(job, result);
}

enum status preprocess_run(const struct preprocess_config *config, struct preprocess_result *result)
{
	struct preprocess_job job = {.config = config, .started = clock_seconds()};
	*result = (struct preprocess_result){0};
	pthread_mutex_init(&job.progress_mutex, NULL);
	enum status status = run_job(&job, result);
	pthread_mutex_destroy(&job.progress_mutex);
	claims_close(&job.claims);
	job_end_near(&job);
	input_list_close(&job.inputs);
	free(job.pieces);
	free(job.units);
	free(job.bucket_bytes);
	free(job.lines_before);
	free(job.shards);
	free(job.work);
	return status;
}
