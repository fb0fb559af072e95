/*
 * Pass 2: spill files to shards.
 *
 * The key space is cut into ranges that fit in a worker's memory and never straddle two shards. Workers load,
 * deduplicate and sort ranges in parallel, and append them to their shard in turn. As many shards as there are workers
 * (one, with sources) are under way at once, so that each can append to one, but no more than MOST_AT_ONCE, which have
 * two files open each, and beside other processes no more than this one's share:
 *
 *    two workers   shard 0, range 0    shard 1, range 0    shard 0, range 1    shard 1, range 1 ...    then shards 2 and 3
 *
 * A shard's ranges are started in key order, so the one whose turn it is has always been started, and nobody waits for
 * ever.
 *
 * Beside other processes, a shard is claimed when its first range is started; the ranges of one that another
 * process has are passed over. When that is all that is left, this one waits, and takes over what a process
 * that has ended left undone.
 */
#include "data/preprocess_job.h"

#include "common/file.h"
#include "common/json.h"
#include "common/log.h"
#include "common/memory.h"
#include "common/threads.h"
#include "data/corpus_output.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SMALLEST_RANGE (UINT64_C(1) << 16)
#define LARGEST_RANGE                                                                                        \
	(UINT64_C(16) << 30) /* so that its documents, 26 bytes each at least, have 31-bit numbers */

enum {
	MOST_AT_ONCE = 128,  /* shards; */
	FINISHER_AT_ONCE = 4 /* of a process that does not know how many others there are */
};

struct range {
	uint64_t first, last; /* upper 64 bits of the keys, both included */
	uint64_t stored;      /* bytes of spill, about */
	size_t shard;
	size_t group, step; /* of shards that are under way at once; the range's number in its shard */
	size_t next;        /* the shard's next range; none if ends_shard */
	bool ends_shard;
	uint64_t near; /* near-duplicates that were taken out */
};

enum hold { HOLD_UNKNOWN, HOLD_OURS, HOLD_OTHERS };

struct merge {
	struct preprocess_job *job;
	enum hold *holds; /* [shards] */
	struct range *ranges;
	size_t range_count, range_capacity;
	uint64_t memory;   /* of a range */
	uint64_t parallel; /* ranges larger than this are cut at buckets, to give every worker some */
	struct spill_range **loaded; /* [workers] */

	pthread_mutex_t mutex;
	pthread_cond_t turn_changed;
	size_t *turn;                  /* [shards]: the range to be appended next */
	size_t failed_range;           /* the lowest */
	struct shard_writer **writers; /* [shards], NULL unless under way; the one whose turn it is uses it */
};

/* ---- planning ---- */

/* Spill bytes of the 2^-depth of the key space that begins at `first`, about. */
static uint64_t stored_bytes(const struct preprocess_job *job, uint64_t first, int depth)
{
	int bits = job->format.bucket_bits;
	uint64_t bucket = bits ? first >> (64 - bits) : 0, sum = 0;
	if (depth >= bits)
		return job->bucket_bytes[bucket] >> (depth - bits);
	for (uint64_t i = 0; i < UINT64_C(1) << (bits - depth); i++)
		sum += job->bucket_bytes[bucket + i];
	return sum;
}

/* Cuts the 2^-depth of the key space that begins at `first` in halves until the parts fit. */
static enum status plan_ranges(struct merge *merge, size_t shard, uint64_t first, int depth)
{
	const struct preprocess_job *job = merge->job;
	uint64_t stored = stored_bytes(job, first, depth);
	bool too_large = stored > merge->memory && depth < 40;
	if (too_large || (stored > merge->parallel && depth < job->format.bucket_bits)) {
		TRY(plan_ranges(merge, shard, first, depth + 1));
		return plan_ranges(merge, shard, first + (UINT64_C(1) << (63 - depth)), depth + 1);
	}
	TRY(memory_grow((void **)&merge->ranges, &merge->range_capacity, merge->range_count + 1,
		sizeof *merge->ranges, "key ranges"));
	uint64_t last = depth ? first + ((UINT64_C(1) << (64 - depth)) - 1) : UINT64_MAX;
	merge->ranges[merge->range_count++] =
		(struct range){.first = first, .last = last, .stored = stored, .shard = shard};
	return STATUS_OK;
}

static int compare_ranges(const void *a, const void *b)
{
	const struct range *x = a, *y = b;
	if (x->group != y->group)
		return x->group < y->group ? -1 : 1;
	if (x->step != y->step)
		return x->step < y->step ? -1 : 1;
	return x->shard < y->shard ? -1 : x->shard > y->shard;
}

/* Puts the ranges in the order in which they are started. */
static void order_ranges(struct merge *merge)
{
	struct range *ranges = merge->ranges;
	if (merge->range_count)
		qsort(ranges, merge->range_count, sizeof *ranges, compare_ranges);
	for (size_t i = 0; i < merge->range_count; i++) { /* `turn` is the shard's range before */
		size_t *before = &merge->turn[ranges[i].shard];
		if (ranges[i].step)
			ranges[*before].next = i;
		*before = i;
	}
	for (size_t i = 0; i < merge->range_count; i++)
		if (ranges[i].step == 0)
			merge->turn[ranges[i].shard] = i;
}

/* Shards that are under way together. A process that claimed all there are would leave the others none. */
static size_t shards_at_once(const struct preprocess_job *job)
{
	const struct preprocess_config *config = job->config;
	size_t workers = (size_t)config->workers, most = MOST_AT_ONCE;
	if (config->sources) /* they are held until the shard is written: no more of them than need be */
		return 1;
	if (config->mode == PREPROCESS_FINISH)
		most = FINISHER_AT_ONCE;
	else if (config->mode == PREPROCESS_PART_TOGETHER && job->shard_count / config->parts < most)
		most = job->shard_count / config->parts;
	most = most ? most : 1;
	return workers < most ? workers : most;
}

static enum status plan(struct merge *merge)
{
	struct preprocess_job *job = merge->job;
	size_t planned = 0, at_once = shards_at_once(job);
	int depth = 0;
	job->bytes_total = 0;
	atomic_store(&job->bytes_done, 0);
	merge->range_count = 0;
	memset(merge->holds, 0, job->shard_count * sizeof *merge->holds);
	while ((size_t)1 << depth < job->shard_count)
		depth++;
	for (size_t i = 0; i < job->shard_count; i++) {
		uint64_t first = depth ? (uint64_t)i << (64 - depth) : 0;
		uint64_t stored = stored_bytes(job, first, depth);
		job->bytes_total += stored;
		if (job->shards[i].done) {
			atomic_fetch_add(&job->bytes_done, stored);
			continue;
		}
		size_t begin = merge->range_count;
		TRY(plan_ranges(merge, i, first, depth));
		merge->ranges[merge->range_count - 1].ends_shard = true;
		for (size_t r = begin; r < merge->range_count; r++) {
			merge->ranges[r].group = planned / at_once;
			merge->ranges[r].step = r - begin;
		}
		planned++;
	}
	order_ranges(merge);
	return STATUS_OK;
}

/* ---- the journal of shards ---- */

static enum status shard_file(const struct preprocess_job *job, const struct shard *shard, char **path)
{
	if (asprintf(path, "%s/shard-%s.json", job->work, shard->name) < 0) {
		*path = NULL;
		return error_set(STATUS_MEMORY, "no memory for a path");
	}
	return STATUS_OK;
}

static enum status record_shard(const struct preprocess_job *job, const struct shard *shard)
{
	const struct shard_summary *summary = &shard->summary;
	char *path;
	cJSON *json = cJSON_CreateObject();
	bool good = json && json_add_u64(json, "documents", summary->documents) &&
		    json_add_u64(json, "tokens", summary->tokens) &&
		    json_add_u64(json, "bytes", summary->bytes) && json_add_u64(json, "seen", shard->seen) &&
		    json_add_hex64(json, "bin", summary->bin_root) &&
		    json_add_hex64(json, "idx", summary->idx_root) &&
		    json_add_hex64(json, "key", summary->key_root) &&
		    (!job->config->near_bands || json_add_u64(json, "near", shard->near)) &&
		    (!job->config->sources || json_add_hash128(json, "src", summary->src_hash));
	enum status status = good ? shard_file(job, shard, &path)
				  : error_set(STATUS_MEMORY, "no memory to record a shard");
	if (status == STATUS_OK) {
		status = json_seal(path, json);
		if (status == STATUS_OK)
			status = json_publish(path, json);
		free(path);
	}
	cJSON_Delete(json);
	return status;
}

static enum status recall_members(
	const char *path, cJSON *json, const struct preprocess_config *config, struct shard *shard)
{
	struct shard_summary *summary = &shard->summary;
	TRY(json_unseal(path, json));
	TRY(json_get_u64(path, json, "documents", &summary->documents));
	TRY(json_get_u64(path, json, "tokens", &summary->tokens));
	TRY(json_get_u64(path, json, "bytes", &summary->bytes));
	TRY(json_get_u64(path, json, "seen", &shard->seen));
	TRY(json_get_hex64(path, json, "bin", &summary->bin_root));
	TRY(json_get_hex64(path, json, "idx", &summary->idx_root));
	TRY(json_get_hex64(path, json, "key", &summary->key_root));
	if (config->near_bands)
		TRY(json_get_u64(path, json, "near", &shard->near));
	return config->sources ? json_get_hash128(path, json, "src", &summary->src_hash) : STATUS_OK;
}

/* Sets shard->done if an earlier run finished it. A damaged record is no record, and one without the shard's
 * files is of no use. */
static enum status recall_shard(const struct preprocess_job *job, struct shard *shard)
{
	char *path;
	cJSON *json;
	struct shard recalled = *shard;
	enum status status = STATUS_OK;
	TRY(shard_file(job, shard, &path));
	if (file_exists(path) && shard_writer_is_there(job->work, shard->name, job->config->sources)) {
		status = json_read_file(path, &json);
		if (status == STATUS_OK) {
			status = recall_members(path, json, job->config, &recalled);
			cJSON_Delete(json);
		}
		if (status == STATUS_OK) {
			*shard = recalled;
			shard->done = true;
		} else if (status == STATUS_CORRUPT) {
			log_warn("%s; the shard is made anew", error_message());
			status = STATUS_OK;
		}
	}
	free(path);
	return status;
}

/* ---- ranges ---- */

static enum status load_range(struct merge *merge, struct spill_range *loaded, const struct range *range)
{
	struct preprocess_job *job = merge->job;
	char path[JOB_PATH];
	spill_range_begin(loaded, range->first, range->last);
	for (size_t i = 0; i < job->unit_count; i++) {
		job_unit_path(job, i, path);
		TRY(spill_range_load(loaded, path, (uint32_t)i));
	}
	return STATUS_OK;
}

/* Waits until range `number` is the next of its shard; an error once an earlier range has failed. */
static enum status wait_for_turn(struct merge *merge, size_t number)
{
	size_t *turn = &merge->turn[merge->ranges[number].shard];
	pthread_mutex_lock(&merge->mutex);
	while (*turn != number && merge->failed_range > number)
		pthread_cond_wait(&merge->turn_changed, &merge->mutex);
	bool ours = *turn == number;
	pthread_mutex_unlock(&merge->mutex);
	return ours ? STATUS_OK : error_set(STATUS_INTERRUPTED, "an earlier range failed");
}

static void pass_turn(struct merge *merge, size_t number)
{
	pthread_mutex_lock(&merge->mutex);
	merge->turn[merge->ranges[number].shard] = merge->ranges[number].next;
	pthread_cond_broadcast(&merge->turn_changed);
	pthread_mutex_unlock(&merge->mutex);
}

static enum status note_failure(struct merge *merge, size_t number, enum status status)
{
	pthread_mutex_lock(&merge->mutex);
	if (number < merge->failed_range)
		merge->failed_range = number;
	pthread_cond_broadcast(&merge->turn_changed);
	pthread_mutex_unlock(&merge->mutex);
	return status;
}

/* In turn: the shard's writer is this thread's. */
static enum status append_range(struct merge *merge, const struct range *range, struct spill_range *loaded)
{
	struct preprocess_job *job = merge->job;
	struct shard *shard = &job->shards[range->shard];
	struct shard_writer **writer = &merge->writers[range->shard];
	const struct spill_document *documents;
	const void *tokens;
	size_t count, item = (size_t)job->format.item_bytes;
	uint64_t seen;
	spill_range_get(loaded, &documents, &count, &tokens, &seen);
	if (!*writer)
		TRY(shard_writer_open(job->work, shard->name, job->dtype,
			tokenizer_eod(job->config->tokenizer), job->config->sources, writer));
	for (size_t i = 0; i < count; i++) {
		struct source source = {0};
		if (job->config->sources)
			TRY(job_find_place(job, spill_range_place(loaded, &documents[i]), &source));
		TRY(shard_writer_add(*writer, documents[i].key.high,
			(const uint8_t *)tokens + documents[i].first * item, documents[i].tokens,
			documents[i].bytes, &source));
	}
	shard->seen += seen;
	shard->near += range->near;
	return STATUS_OK;
}

static enum status finish_shard(struct merge *merge, size_t number)
{
	struct shard *shard = &merge->job->shards[number];
	struct shard_writer *writer = merge->writers[number];
	merge->writers[number] = NULL;
	TRY(shard_writer_publish(writer, &shard->summary));
	TRY(record_shard(merge->job, shard));
	shard->done = true;
	if (merge->job->claims.path)
		claims_release(&merge->job->claims, CLAIM_SHARD, number);
	return STATUS_OK;
}

/* Claims a shard that is not done yet; with the mutex. */
static enum status claim_shard(struct merge *merge, size_t number)
{
	struct preprocess_job *job = merge->job;
	struct shard *shard = &job->shards[number];
	bool taken = true;
	if (job->claims.path) {
		TRY(claims_take(&job->claims, CLAIM_SHARD, number, &taken));
		if (taken)
			TRY(recall_shard(job, shard)); /* another process may have done it since we looked */
	}
	merge->holds[number] = taken && !shard->done ? HOLD_OURS : HOLD_OTHERS;
	if (taken && shard->done)
		claims_release(&job->claims, CLAIM_SHARD, number);
	return STATUS_OK;
}

static enum status hold_shard(struct merge *merge, size_t number, bool *ours)
{
	enum status status = STATUS_OK;
	pthread_mutex_lock(&merge->mutex);
	if (merge->holds[number] == HOLD_UNKNOWN)
		status = claim_shard(merge, number);
	*ours = merge->holds[number] == HOLD_OURS;
	pthread_mutex_unlock(&merge->mutex);
	return status;
}

static enum status merge_range(struct merge *merge, int worker, size_t number)
{
	struct spill_range **loaded = &merge->loaded[worker];
	struct preprocess_job *job = merge->job;
	struct range *range = &merge->ranges[number];
	struct stopwatch watch = stopwatch_start(job, worker);
	bool ours;
	TRY(job_progress(job, false));
	TRY(hold_shard(merge, range->shard, &ours));
	if (!ours) {
		atomic_fetch_add(&job->bytes_done, range->stored);
		return STATUS_OK;
	}
	if (!*loaded)
		TRY(spill_range_create(&job->format, loaded));
	TRY(load_range(merge, *loaded, range));
	spill_range_sort(*loaded);
	if (job->config->near_bands)
		TRY(job_drop_near(job, range->first, range->last, *loaded, &range->near));
	TRY(wait_for_turn(merge, number));
	stopwatch_block(&watch, PREPROCESS_LOAD);
	TRY(append_range(merge, range, *loaded));
	stopwatch_block(&watch, PREPROCESS_WRITE);
	if (range->ends_shard)
		TRY(finish_shard(merge, range->shard));
	stopwatch_block(&watch, PREPROCESS_PUBLISH);
	pass_turn(merge, number);
	atomic_fetch_add(&job->bytes_done, range->stored);
	return job_progress(job, true);
}

static enum status take_range(void *context, int worker, uint64_t task)
{
	struct merge *merge = context;
	enum status status = merge_range(merge, worker, task);
	return status == STATUS_OK ? status : note_failure(merge, task, status);
}

/* ---- what an earlier run finished ---- */

/* Without its record no process takes it for done. */
static enum status forget_shard(const struct preprocess_job *job, const struct shard *shard)
{
	char *path;
	log_warn("%s; the shard is made anew", error_message());
	TRY(shard_file(job, shard, &path));
	enum status status = file_remove(path);
	free(path);
	return status;
}

static enum status recall_and_check(void *context, int worker, uint64_t number)
{
	struct merge *merge = context;
	struct shard *shard = &merge->job->shards[number];
	const struct shard before = *shard;
	(void)worker;
	TRY(recall_shard(merge->job, shard));
	if (!shard->done)
		return STATUS_OK;
	TRY(job_progress(merge->job, false));
	/* A disk may have damaged it since: better now, while it can be made anew. */
	enum status status = shard_writer_check(
		merge->job->work, shard->name, merge->job->config->sources, &shard->summary);
	if (status != STATUS_CORRUPT)
		return status;
	*shard = before;
	return forget_shard(merge->job, shard);
}

/* ---- the pass ---- */

static enum status recall_shards(struct preprocess_job *job, bool *all)
{
	*all = true;
	for (size_t i = 0; i < job->shard_count; i++) {
		if (!job->shards[i].done)
			TRY(recall_shard(job, &job->shards[i]));
		*all &= job->shards[i].done;
	}
	return STATUS_OK;
}

/* Until all are done. */
static enum status merge_shards(struct merge *merge)
{
	struct preprocess_job *job = merge->job;
	bool all;
	TRY(threads_run(job->config->workers, job->shard_count, recall_and_check, merge));
	TRY(recall_shards(job, &all));
	while (!all) {
		TRY(plan(merge));
		TRY(threads_run(job->config->workers, merge->range_count, take_range, merge));
		TRY(recall_shards(job, &all));
		FAIL_IF(!all && job_is_gone(job), STATUS_INTERRUPTED, "another process has published");
		if (!all)
			TRY(job_pause(job));
	}
	return STATUS_OK;
}

static enum status run(struct merge *merge)
{
	struct preprocess_job *job = merge->job;
	size_t workers = (size_t)job->config->workers;
	uint64_t total = 0, seen = 0;
	for (uint64_t b = 0; b < UINT64_C(1) << job->format.bucket_bits; b++)
		total += job->bucket_bytes[b];
	/* A third: a range is held with its table, and grows by doubling. */
	merge->memory = job->config->memory / workers / 3;
	if (merge->memory < SMALLEST_RANGE)
		merge->memory = SMALLEST_RANGE;
	if (merge->memory > LARGEST_RANGE)
		merge->memory = LARGEST_RANGE;
	merge->parallel = total / workers / 4;
	if (merge->parallel < SMALLEST_RANGE)
		merge->parallel = SMALLEST_RANGE;
	TRY(memory_alloc((void **)&merge->loaded, workers, sizeof *merge->loaded, "workers"));
	TRY(memory_alloc((void **)&merge->holds, job->shard_count, sizeof *merge->holds, "shards"));
	TRY(memory_alloc((void **)&merge->turn, job->shard_count, sizeof *merge->turn, "shards"));
	TRY(memory_alloc((void **)&merge->writers, job->shard_count, sizeof *merge->writers, "shards"));
	TRY(merge_shards(merge));
	for (size_t i = 0; i < job->shard_count; i++)
		seen += job->shards[i].seen;
	FAIL_IF(seen != job->counts.documents, STATUS_CORRUPT,
		"%s: holds %" PRIu64 " documents, but %" PRIu64
		" were written there; remove it and run again",
		job->work, seen, job->counts.documents);
	return STATUS_OK;
}

enum status job_merge(struct preprocess_job *job)
{
	struct merge merge = {.job = job, .failed_range = SIZE_MAX};
	job->pass = 2;
	job->shard_count =
		corpus_output_shards(job->counts.tokens, job->counts.documents, job->dtype, job->shard_bytes);
	TRY(memory_alloc((void **)&job->shards, job->shard_count, sizeof *job->shards, "shards"));
	for (size_t i = 0; i < job->shard_count; i++)
		snprintf(job->shards[i].name, sizeof job->shards[i].name, "%05zu", i);
	pthread_mutex_init(&merge.mutex, NULL);
	pthread_cond_init(&merge.turn_changed, NULL);
	enum status status = run(&merge);
	for (int i = 0; merge.loaded && i < job->config->workers; i++)
		spill_range_destroy(merge.loaded[i]);
	for (size_t i = 0; merge.writers && i < job->shard_count; i++)
		shard_writer_abandon(merge.writers[i]);
	pthread_cond_destroy(&merge.turn_changed);
	pthread_mutex_destroy(&merge.mutex);
	free(merge.loaded);
	free(merge.writers);
	free(merge.turn);
	free(merge.holds);
	free(merge.ranges);
	return status;
}
