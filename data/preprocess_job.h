/*
 * preprocess_job.h: what preprocessing's files share (data/preprocess.h is its manual).
 *
 * preprocess.c runs a job: checks, lock, manifest; preprocess_parts.c one beside others. preprocess_plan.c
 * cuts the inputs into units, preprocess_journal.c writes the job down, preprocess_tokenize.c is pass 1,
 * preprocess_merge.c pass 2, preprocess_places.c tells where records stood, preprocess_near.c has the
 * near-duplicates.
 */
#ifndef DATA_PREPROCESS_JOB_H
#define DATA_PREPROCESS_JOB_H

#include "data/claims.h"
#include "data/input.h"
#include "data/near_duplicates.h"
#include "data/preprocess.h"
#include "data/shard_writer.h"
#include "data/sources.h"
#include "data/spill.h"

#include <pthread.h>
#include <stdatomic.h>

/* A file, or a part of a plain JSONL file. */
struct piece {
	size_t file;
	uint64_t begin, end; /* end UINT64_MAX: to the end of the file */
};

/* What one worker does in one go, and what an interruption can lose. */
struct unit {
	size_t first_piece, pieces;
	uint64_t stored; /* bytes of input; 0 for standard input */
	bool done;
	bool others;  /* another part's: not for this process to make */
	bool damaged; /* it is there, but to be made anew */
};

struct shard {
	char name[16];
	bool done;
	struct shard_summary summary;
	uint64_t seen; /* documents read for it, duplicates included */
	uint64_t near; /* near-duplicates among them, each key once */
};

struct preprocess_job {
	const struct preprocess_config *config;
	struct input_list inputs;
	struct piece *pieces;
	size_t piece_count;
	struct unit *units;
	size_t unit_count;
	uint64_t unit_bytes, shard_bytes;
	enum corpus_dtype dtype;
	struct spill_format format;
	char *work;                       /* DIR/work */
	struct near_search near;          /* with near_bands */
	struct record_file *near_dropped; /* from when they are found to job_end_near */
	bool resumed;
	bool useless; /* there was nothing in the inputs: work/ is to be removed */

	struct claims claims; /* open when other processes may be at work on the same job */

	/* after pass 1 */
	struct spill_counts counts;
	uint64_t *bucket_bytes; /* [1 << bucket_bits] */
	uint64_t *lines_before; /* [piece_count]: of the piece's file; if there are rejects or sources */

	/* pass 2 */
	struct shard *shards;
	size_t shard_count;

	/* progress */
	double started;
	pthread_mutex_t progress_mutex;
	_Atomic double progress_last;
	atomic_bool stopped;
	int pass;
	uint64_t bytes_total;
	_Atomic uint64_t bytes_done, documents, tokens, text_bytes;
};

/*
 * One worker's stages. A lap adds the time since the one before to a stage, by a clock that is cheap to look
 * at; stopwatch_settle turns the laps so far into the processor time that was spent meanwhile.
 * stopwatch_block ends what may also wait: a lap, settled; the time that was not the processor's is
 * PREPROCESS_WAIT's.
 */
struct stopwatch {
	double *seconds; /* [PREPROCESS_STAGES], NULL: it stands still */
	double laps[PREPROCESS_STAGES];
	double since, processor_since;
};
struct stopwatch stopwatch_start(const struct preprocess_job *job, int worker);
void stopwatch_lap(struct stopwatch *watch, enum preprocess_stage stage);
void stopwatch_settle(struct stopwatch *watch);
void stopwatch_block(struct stopwatch *watch, enum preprocess_stage stage);

/* Tells the user how far the job is, if it is time to or `now`. STATUS_INTERRUPTED when it is to stop. */
enum status job_progress(struct preprocess_job *job, bool now) MUST_USE;

/* "DIR/work/unit-000012" */
enum { JOB_PATH = 4352 };
void job_unit_path(const struct preprocess_job *job, size_t unit, char path[JOB_PATH]);

enum status job_check_config(const struct preprocess_config *config) MUST_USE;

/* The inputs are listed: plans the job and does what config->mode says. */
enum status job_plan_and_run(struct preprocess_job *job, struct preprocess_result *result) MUST_USE;

struct journal;
/* Decides what DIR, which is this process's alone, is: new, an unfinished run of this job, a corpus, or
 * something else's. *complete: an earlier run had this job's corpus complete; it is in place now. */
enum status job_settle(struct preprocess_job *job, const struct journal *journal, bool *complete) MUST_USE;
enum status job_finish_earlier(struct preprocess_job *job, struct preprocess_result *result) MUST_USE;
/* Marks the units that are there already, of those that are this process's to make. */
enum status job_recall_units(struct preprocess_job *job) MUST_USE;
/* All units are there: sums them up. */
enum status job_total_units(struct preprocess_job *job) MUST_USE;
/* All shards are there: rejects.jsonl, the manifest, and all of it put in place. */
enum status job_publish(struct preprocess_job *job, struct preprocess_result *result) MUST_USE;
/* There is nothing to train on: says why, sets job->useless. */
enum status job_refuse_empty(struct preprocess_job *job) MUST_USE;

/* One process of several (config->mode). */
enum status job_run_shared(
	struct preprocess_job *job, struct journal *journal, struct preprocess_result *result) MUST_USE;
/* --finish without the inputs: the job as its journal tells. */
enum status job_run_recalled(struct preprocess_job *job, struct preprocess_result *result) MUST_USE;
/* True: the unit is this process's to make, until it is released. Marks it if it is there already. */
bool job_claim_unit(struct preprocess_job *job, size_t unit);
void job_release_unit(struct preprocess_job *job, size_t unit);
/* Waits a little for another process. STATUS_INTERRUPTED when the job is to stop. */
enum status job_pause(struct preprocess_job *job) MUST_USE;
/* Another process has published the corpus of this job. */
bool job_is_gone(const struct preprocess_job *job);

enum status job_plan(struct preprocess_job *job) MUST_USE;     /* units and buckets, by the inputs */
enum status job_tokenize(struct preprocess_job *job) MUST_USE; /* pass 1: the units that are not done */
enum status job_merge(struct preprocess_job *job) MUST_USE;    /* pass 2: the shards that are not done */

/* Near-duplicates. The settings, once job->format is known; */
void job_prepare_near(struct preprocess_job *job);
/* what pass 1 kept of a unit is there and sound (a warning if not); */
bool job_has_near_unit(const struct preprocess_job *job, size_t unit);
/* what is to be dropped, between the passes; */
enum status job_find_near(struct preprocess_job *job) MUST_USE;
/* and pass 2: takes them out of a sorted range of keys [first, last]. */
enum status job_drop_near(const struct preprocess_job *job, uint64_t first, uint64_t last,
	struct spill_range *range, uint64_t *dropped) MUST_USE;
/* Once pass 2 is over, well or not: a file that is open cannot be removed everywhere (NFS). */
void job_end_near(struct preprocess_job *job);

/* Fills lines_before, which both of these need. */
enum status job_count_lines(struct preprocess_job *job) MUST_USE;
/* DIRECTORY/rejects.jsonl, in the order of path and place; none when nothing was rejected. */
enum status job_write_rejects(const struct preprocess_job *job, const char *directory) MUST_USE;
/* Path and line within the file; the path is the job's. */
enum status job_find_place(
	const struct preprocess_job *job, const struct spill_place *place, struct source *out) MUST_USE;

#endif
