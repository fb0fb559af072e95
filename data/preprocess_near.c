/* Near-duplicates in a run of preprocess: data/near_duplicates.h does the work. */
#include "data/preprocess_job.h"

#include "common/file.h"
#include "common/log.h"
#include "common/memory.h"

#include <stdlib.h>

static enum status tell_progress(void *user, uint64_t done, uint64_t total)
{
	struct preprocess_job *job = user;
	atomic_store(&job->bytes_done, total ? job->counts.bytes / total * done : 0);
	return job_progress(job, false);
}

void job_prepare_near(struct preprocess_job *job)
{
	const struct preprocess_config *config = job->config;
	job->near = (struct near_search){
		.format = {.bands = config->near_bands, .rows = config->near_rows, .job = job->format.job},
		.directory = job->work,
		.units = job->unit_count,
		.workers = config->workers,
		.memory = config->memory,
		.progress = tell_progress,
		.user = job,
	};
}

bool job_has_near_unit(const struct preprocess_job *job, size_t unit)
{
	char path[NEAR_PATH];
	near_unit_path(job->work, unit, path);
	if (near_unit_check(path, &job->near.format) == STATUS_OK)
		return true;
	log_warn("%s; its unit is made anew", error_message());
	return false;
}

enum status job_find_near(struct preprocess_job *job)
{
	const struct preprocess_config *config = job->config;
	job->pass = 3;
	job->bytes_total = job->counts.bytes;
	atomic_store(&job->bytes_done, 0);
	atomic_store(&job->progress_last, 0); /* that it has begun is told at once */
	if (!config->profile)
		return near_search_run(&job->near, &job->near_dropped);
	TRY(memory_alloc(
		(void **)&job->near.seconds, (size_t)config->workers, sizeof(double), "the profile"));
	enum status status = near_search_run(&job->near, &job->near_dropped);
	for (int worker = 0; worker < config->workers; worker++)
		config->profile[worker][PREPROCESS_SEARCH] += job->near.seconds[worker];
	free(job->near.seconds);
	job->near.seconds = NULL;
	return status;
}

void job_end_near(struct preprocess_job *job)
{
	record_file_close(job->near_dropped);
	job->near_dropped = NULL;
}

enum status job_drop_near(const struct preprocess_job *job, uint64_t first, uint64_t last,
	struct spill_range *range, uint64_t *dropped)
{
	const struct spill_document *documents;
	const void *tokens;
	size_t count;
	uint64_t seen;
	bool *marked;
	spill_range_get(range, &documents, &count, &tokens, &seen);
	TRY(memory_alloc((void **)&marked, count, sizeof *marked, "a key range"));
	enum status status = near_search_mark(job->near_dropped, first, last, documents, count, marked);
	if (status == STATUS_OK)
		*dropped = spill_range_remove(range, marked);
	free(marked);
	return status;
}
