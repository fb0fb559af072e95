/*
 * One process of several on the same job (data/preprocess.h): its part of pass 1, then pass 2 beside others.
 *
 * All hold DIR/.lock shared, and divide units and shards by claims on DIR/work/claims. Publishing renames
 * work/, so who finds it gone knows that the corpus is complete: nobody else removes it while .lock is held.
 */
#include "data/preprocess_journal.h"

#include "common/clock.h"
#include "common/file.h"
#include "common/memory.h"
#include "data/corpus_output.h"
#include "data/output_lock.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define PAUSE_NANOSECONDS (50 * 1000 * 1000)
#define PATIENCE          30.0 /* seconds for a part that others wait for to begin */

enum { NAMED_UNITS = 5 };

enum status job_pause(struct preprocess_job *job)
{
	static const struct timespec pause = {.tv_nsec = PAUSE_NANOSECONDS};
	nanosleep(&pause, NULL);
	return job_progress(job, false);
}

static bool there(const struct preprocess_job *job, const char *name)
{
	char path[JOB_PATH];
	snprintf(path, sizeof path, "%s/%s", job->work, name);
	return file_exists(path);
}

bool job_is_gone(const struct preprocess_job *job)
{
	return job->claims.path && !there(job, "job.json");
}

/* ---- units ---- */

static bool unit_is_there(const struct preprocess_job *job, size_t unit)
{
	char path[JOB_PATH];
	job_unit_path(job, unit, path);
	return file_exists(path);
}

bool job_claim_unit(struct preprocess_job *job, size_t number)
{
	struct unit *unit = &job->units[number];
	bool taken = false;
	if (unit->done || unit->others)
		return false;
	if (!job->claims.path)
		return true;
	/* What cannot be claimed now is tried again. */
	if (claims_take(&job->claims, CLAIM_UNIT, number, &taken) != STATUS_OK || !taken)
		return false;
	if (!unit->damaged && unit_is_there(job, number)) { /* made meanwhile, by a process that has ended */
		unit->done = true;
		job_release_unit(job, number);
	}
	return !unit->done;
}

void job_release_unit(struct preprocess_job *job, size_t unit)
{
	if (job->claims.path)
		claims_release(&job->claims, CLAIM_UNIT, unit);
}

static bool has_units_to_make(const struct preprocess_job *job)
{
	for (size_t i = 0; i < job->unit_count; i++)
		if (!job->units[i].done && !job->units[i].others)
			return true;
	return false;
}

/* Until all of the part's are there. A unit that another process is at (started with another number of
 * parts) is waited for. */
static enum status make_units(struct preprocess_job *job)
{
	const struct preprocess_config *config = job->config;
	job->pass = 1;
	job->bytes_total = 0;
	for (size_t i = 0; i < job->unit_count; i++) {
		job->units[i].others = i % config->parts != config->part - 1;
		job->bytes_total += job->units[i].others ? 0 : job->units[i].stored;
	}
	TRY(job_recall_units(job));
	for (;;) {
		TRY(job_tokenize(job));
		if (!has_units_to_make(job))
			return STATUS_OK;
		TRY(job_pause(job));
	}
}

/* ---- parts: each leaves a mark when its units are there ---- */

static void mark_path(const struct preprocess_job *job, uint32_t part, char path[JOB_PATH])
{
	snprintf(path, JOB_PATH, "%s/part-%" PRIu32 "-of-%" PRIu32, job->work, part, job->config->parts);
}

static bool is_marked(const struct preprocess_job *job, uint32_t part)
{
	char path[JOB_PATH];
	mark_path(job, part, path);
	return file_exists(path);
}

static uint64_t claim_number(const struct preprocess_job *job, uint32_t part)
{
	return (uint64_t)job->config->parts * PREPROCESS_MOST_PARTS + part;
}

static enum status claim_part(struct preprocess_job *job)
{
	const struct preprocess_config *config = job->config;
	bool taken;
	TRY(claims_take(&job->claims, CLAIM_PART, claim_number(job, config->part), &taken));
	FAIL_IF(!taken, STATUS_USAGE,
		"%s: part %" PRIu32 "/%" PRIu32 " is at work already, in another process", job->work,
		config->part, config->parts);
	return STATUS_OK;
}

static enum status make_part(struct preprocess_job *job)
{
	char path[JOB_PATH];
	TRY(claim_part(job));
	TRY(make_units(job));
	mark_path(job, job->config->part, path);
	return file_publish(path, "", 0);
}

static void count_missing(const struct preprocess_job *job, struct preprocess_result *result)
{
	result->parts_missing = 0;
	for (uint32_t part = 1; part <= job->config->parts; part++) {
		if (is_marked(job, part))
			continue;
		if (!result->parts_missing++)
			result->first_missing = part;
	}
}

/* For the parts that were started with this one. One that nobody is at for long will not come. */
static enum status wait_for_parts(struct preprocess_job *job)
{
	const uint32_t parts = job->config->parts;
	for (uint32_t part = 1; part <= parts; part++) {
		double seen = clock_seconds();
		while (!is_marked(job, part) && !job_is_gone(job)) {
			bool held;
			TRY(claims_is_held(&job->claims, CLAIM_PART, claim_number(job, part), &held));
			if (held)
				seen = clock_seconds();
			FAIL_IF(clock_seconds() - seen > PATIENCE, STATUS_USAGE,
				"%s: part %" PRIu32 "/%" PRIu32
				" is not done, and no process is at it; start it (a part that is done stays "
				"so), or all again",
				job->work, part, parts);
			TRY(job_pause(job));
		}
	}
	return STATUS_OK;
}

/* ---- pass 2 ---- */

static enum status check_units(const struct preprocess_job *job)
{
	size_t missing = 0, length = 0;
	char names[NAMED_UNITS * 24] = "";
	for (size_t i = 0; i < job->unit_count; i++) {
		if (unit_is_there(job, i))
			continue;
		if (missing++ < NAMED_UNITS)
			length += (size_t)snprintf(
				names + length, sizeof names - length, "%s%zu", missing > 1 ? ", " : "", i);
	}
	FAIL_IF(missing, STATUS_USAGE,
		"%s: %zu of %zu units are not there yet (%s%s): finish the parts that make them; unit u is "
		"part (u mod n) + 1's of n",
		job->work, missing, job->unit_count, names, missing > NAMED_UNITS ? ", ..." : "");
	return STATUS_OK;
}

/* Waits until nobody else has it. */
static enum status claim(struct preprocess_job *job, enum claim_kind kind)
{
	for (;;) {
		bool taken;
		TRY(claims_take(&job->claims, kind, 0, &taken));
		if (taken)
			return STATUS_OK;
		TRY(job_pause(job));
	}
}

/* One process searches, the others find it done. */
static enum status find_near(struct preprocess_job *job)
{
	TRY(claim(job, CLAIM_NEAR));
	enum status status = job_find_near(job);
	claims_release(&job->claims, CLAIM_NEAR, 0);
	return status;
}

static enum status publish(struct preprocess_job *job, struct preprocess_result *result)
{
	TRY(claim(job, CLAIM_PUBLISH));
	result->complete = true;
	return job_is_gone(job) ? STATUS_OK : job_publish(job, result);
}

static enum status finish(struct preprocess_job *job, struct preprocess_result *result)
{
	TRY(job_total_units(job));
	if (job->counts.documents == 0)
		return job_refuse_empty(job);
	if (job->config->near_bands)
		TRY(find_near(job));
	TRY(job_merge(job));
	return publish(job, result);
}

/* ---- a run ---- */

static enum status do_part(struct preprocess_job *job, struct preprocess_result *result)
{
	double start = clock_seconds();
	bool finishes = job->config->mode == PREPROCESS_FINISH;
	if (finishes) {
		TRY(check_units(job));
	} else {
		TRY(make_part(job));
		if (job->config->mode == PREPROCESS_PART_TOGETHER)
			TRY(wait_for_parts(job));
		count_missing(job, result);
		finishes = job->config->mode != PREPROCESS_PART && !result->parts_missing;
	}
	double middle = clock_seconds();
	if (finishes)
		TRY(finish(job, result));
	result->seconds[0] = middle - start;
	result->seconds[1] = clock_seconds() - middle;
	return STATUS_OK;
}

static enum status work_beside(struct preprocess_job *job, struct preprocess_result *result)
{
	char path[JOB_PATH];
	snprintf(path, sizeof path, "%s/claims", job->work);
	enum status status = claims_open(path, &job->claims);
	if (status == STATUS_OK)
		status = do_part(job, result);
	/* Whatever went wrong, opening the claims too: another was faster, and has published what this one was to help with. */
	if (!job->useless && !result->published && !there(job, "job.json")) {
		*result = (struct preprocess_result){.complete = true};
		status = STATUS_OK;
	}
	result->units = job->unit_count;
	result->resumed = job->resumed;
	claims_close(&job->claims);
	return status;
}

static enum status refuse_finish(const struct preprocess_job *job)
{
	return error_set(
		STATUS_USAGE, "%s: holds no unfinished run: start its parts first", job->config->output);
}

/* The directory is this process's alone. */
static enum status settle(struct preprocess_job *job, const struct journal *journal, bool *complete)
{
	bool corpus, finishes = job->config->mode == PREPROCESS_FINISH;
	bool journaled = file_exists(journal->job_path);
	if (finishes && journaled) /* another job is not to be replaced by this, --overwrite or not */
		TRY(journal_compare(job, journal, journal->job_path));
	if (!finishes || journaled)
		return job_settle(job, journal, complete);
	TRY(corpus_output_recover(job->config->output));
	TRY(corpus_output_has(job->config->output, "corpus.json", &corpus));
	*complete = corpus;
	return corpus ? STATUS_OK : refuse_finish(job);
}

/* Joins those who are at work on this job, or begins it. */
static enum status enter(
	struct preprocess_job *job, const struct journal *journal, struct output_lock *lock, bool *complete)
{
	*complete = false;
	for (;;) {
		TRY(output_lock_join(job->config->output, lock));
		if (lock->alone) {
			TRY(settle(job, journal, complete));
			if (*complete)
				return STATUS_OK;
			TRY(output_lock_share(lock));
		}
		if (file_exists(journal->job_path)) {
			enum status status = journal_compare(job, journal, journal->job_path);
			job->resumed = true; /* by others at least */
			if (status == STATUS_OK || file_exists(journal->job_path))
				return status;
		}
		output_lock_release(lock); /* the others have just published, and are leaving */
		TRY(job_pause(job));
	}
}

/* The last to leave completes what a killed one left. */
static enum status leave(struct preprocess_job *job, struct output_lock *lock, enum status status)
{
	output_lock_leave(lock);
	if (lock->path && lock->alone) {
		if (job->useless)
			status = directory_discard(job->work, status);
		else if (status == STATUS_OK)
			status = corpus_output_recover(job->config->output);
	}
	output_lock_release(lock);
	return status;
}

static enum status check_shared(const struct preprocess_job *job)
{
	const struct preprocess_config *config = job->config;
	FAIL_IF(config->mode != PREPROCESS_FINISH && (config->part < 1 || config->part > config->parts ||
							     config->parts >= PREPROCESS_MOST_PARTS),
		STATUS_USAGE, "part %" PRIu32 "/%" PRIu32 " is not possible; 1/N to N/N are, N below 2^20",
		config->part, config->parts);
	FAIL_IF(input_list_has_standard_input(&job->inputs), STATUS_USAGE,
		"standard input cannot be shared out in parts: store it in a file");
	return STATUS_OK;
}

enum status job_run_shared(
	struct preprocess_job *job, struct journal *journal, struct preprocess_result *result)
{
	struct output_lock lock = {0};
	bool complete;
	TRY(check_shared(job));
	enum status status = enter(job, journal, &lock, &complete);
	if (status == STATUS_OK)
		status = complete ? job_finish_earlier(job, result) : work_beside(job, result);
	return leave(job, &lock, status);
}

/* ---- --finish ---- */

/* There is no work/: the corpus is complete, or its publisher was killed as it put it in place, or nothing
 * was begun. */
static enum status find_corpus(struct preprocess_job *job, struct preprocess_result *result)
{
	struct output_lock lock;
	for (;;) {
		TRY(output_lock_join(job->config->output, &lock));
		if (lock.alone)
			break;
		output_lock_release(&lock); /* others are leaving, or have just begun */
		FAIL_IF(there(job, "job.json"), STATUS_USAGE,
			"%s: parts have just been started: finish when they are done", job->config->output);
		TRY(job_pause(job));
	}
	bool corpus = false;
	enum status status = corpus_output_recover(job->config->output);
	if (status == STATUS_OK)
		status = corpus_output_has(job->config->output, "corpus.json", &corpus);
	if (status == STATUS_OK)
		status = corpus ? job_finish_earlier(job, result) : refuse_finish(job);
	output_lock_release(&lock);
	return status;
}

static enum status recall(struct preprocess_job *job, struct preprocess_result *result)
{
	struct journal_recall recalled = {.config = *job->config};
	const struct preprocess_config *config = job->config;
	enum status status = journal_read(job->work, &recalled, &job->inputs);
	if (status == STATUS_OK)
		status = job_check_config(&recalled.config);
	if (status == STATUS_OK) {
		job->config = &recalled.config;
		status = job_plan_and_run(job, result);
	}
	job->config = config;
	journal_recall_free(&recalled);
	return status;
}

enum status job_run_recalled(struct preprocess_job *job, struct preprocess_result *result)
{
	if (!there(job, "job.json"))
		return find_corpus(job, result);
	enum status status = recall(job, result);
	/* Published between the two looks. */
	if (status != STATUS_OK && !there(job, "job.json") && !job->useless)
		return find_corpus(job, result);
	return status;
}
