#include "tools/train_run.h"

#include "common/file.h"
#include "common/log.h"
#include "tools/output.h"
#include "tools/terminal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <unistd.h>

static bool is_run(const char *path)
{
	char *config;
	if (path_join(&config, path, "config.json") != STATUS_OK)
		return false;
	bool run = !file_exists(config);
	free(config);
	return run;
}

/* Where a resumed run goes on: the directory that its checkpoint lies in. */
enum status train_run_choose(
	const struct train_options *options, const struct checkpoint *from, struct train_run *out)
{
	const char *wanted = options->settings.save, *load = options->settings.load;
	const char *path = from ? checkpoint_path(from) : NULL, *slash = path ? strrchr(path, '/') : NULL;
	bool given = train_options_typed(options, "--save");
	*out = (struct train_run){.from = from, .lock = -1};
	if (given && strcmp(wanted, "none") == 0)
		return STATUS_OK;
	if (from && !given && is_run(load))
		out->directory = strdup(load);
	else if (from && !given && slash && strncmp(slash, "/step-", 6) == 0)
		out->directory = strndup(path, (size_t)(slash - path));
	else
		out->directory = strdup(wanted);
	FAIL_IF(!out->directory, STATUS_MEMORY, "no memory for a path");
	return train_run_goes_on(out) ? STATUS_OK : output_check(OUTPUT_RUN, "--save", out->directory);
}

static enum status lock_run(struct train_run *run)
{
	char *path;
	TRY(directory_create(run->directory));
	TRY(path_join(&path, run->directory, "lock"));
	enum status status = file_open_lock(path, &run->lock);
	free(path);
	TRY(status);
	FAIL_IF(flock(run->lock, LOCK_EX | LOCK_NB) < 0, STATUS_USAGE,
		"%s: another ferry trains there now; wait for it, or give another --save", run->directory);
	return STATUS_OK;
}

bool train_run_goes_on(const struct train_run *run)
{
	char *directory = run->from && run->directory ? realpath(run->directory, NULL) : NULL;
	const char *path = run->from ? checkpoint_path(run->from) : NULL;
	size_t length = directory ? strlen(directory) : 0;
	bool inside = directory && strncmp(path, directory, length) == 0 &&
		      strncmp(path + length, "/step-", 6) == 0;
	free(directory);
	return inside;
}

/* Goes on from a run's newest checkpoint that is whole: newer ones were passed over, for they are damaged. */
static bool passes_over(const struct train_run *run, const struct train_settings *s)
{
	return train_run_goes_on(run) && is_run(s->load);
}

/* The steps up to which checkpoints stay. */
static uint64_t last_kept(const struct train_run *run)
{
	return train_run_goes_on(run) ? checkpoint_get_state(run->from)->step : 0;
}

/* A run's checkpoints are never overwritten unasked. */
static enum status check_room(
	const struct train_run *run, const struct train_settings *s, const uint64_t *steps, size_t count)
{
	uint64_t from = last_kept(run);
	if (passes_over(run, s) || !count || steps[count - 1] <= from || s->overwrite)
		return STATUS_OK;
	if (from)
		return error_set(STATUS_USAGE,
			"%s: has checkpoints after iteration %" PRIu64 " (up to %" PRIu64
			"); go on from the newest with --load %s, give another --save, or delete them with "
			"--overwrite",
			run->directory, from, steps[count - 1], shell_word(run->directory).text);
	return error_set(STATUS_USAGE,
		"%s: holds a run already (iteration %" PRIu64
		"); go on with `ferry train --load %s`, give another --save, or delete its checkpoints with "
		"--overwrite",
		run->directory, steps[count - 1], shell_word(run->directory).text);
}

/* A crash may have come between a checkpoint and its mark. */
static enum status restore_best(const struct train_run *run)
{
	char name[CHECKPOINT_NAME], *path;
	if (!train_run_goes_on(run))
		return STATUS_OK;
	const struct checkpoint_state *s = checkpoint_get_state(run->from);
	if (!s->overfitting.evaluations)
		return STATUS_OK;
	snprintf(name, sizeof name, "step-%08" PRIu64, s->overfitting.best_step);
	TRY(path_join(&path, run->directory, name));
	bool there = file_exists(path);
	free(path);
	return there ? checkpoint_mark_best(run->directory, name) : STATUS_OK;
}

enum status train_run_prepare(struct train_run *run, const struct train_settings *settings)
{
	uint64_t *steps;
	size_t count;
	if (!run->directory)
		return STATUS_OK;
	TRY(lock_run(run));
	TRY(checkpoint_clean(run->directory));
	TRY(checkpoint_list(run->directory, &steps, &count));
	enum status status = check_room(run, settings, steps, count);
	free(steps);
	return status;
}

/* Checkpoints that will be there at once (the newest `keep`, the best, and one being written) but are not yet; at least
 * one. */
static enum status count_to_come(const struct train_run *run, const struct trainer_config *c, uint64_t *out)
{
	uint64_t *steps, left = c->train_iters - last_kept(run);
	size_t there;
	TRY(checkpoint_list(run->directory, &steps, &there));
	free(steps);
	uint64_t at_once = (uint64_t)c->keep + 2,
		 all = there + (c->save_interval ? left / c->save_interval : 0) + 1;
	at_once = at_once < all ? at_once : all;
	*out = at_once > there ? at_once - there : 1;
	return STATUS_OK;
}

enum status train_run_check_space(const struct train_run *run, const struct trainer_config *c)
{
	struct parameter_table table;
	struct statvfs disk;
	uint64_t count;
	if (!run->directory || statvfs(run->directory, &disk) < 0)
		return STATUS_OK;
	TRY(count_to_come(run, c, &count));
	TRY(parameter_table_open(&c->model, &table));
	double each = 12 * (double)table.counted, unused = (double)disk.f_bavail * (double)disk.f_frsize;
	parameter_table_close(&table);
	if (unused < each * (double)count)
		log_warn("%s: the disk has room for %s, and %s checkpoints of %s each are to come (--keep, "
			 "--save-interval): make room, or the run ends where one cannot be written",
			run->directory, human_bytes(unused).text, human_grouped(count).text,
			human_bytes(each).text);
	return STATUS_OK;
}

enum status train_run_begin(struct train_run *run, const struct train_settings *settings)
{
	if (!run->directory)
		return STATUS_OK;
	TRY((passes_over(run, settings) ? checkpoint_set_aside_after : checkpoint_remove_after)(
		run->directory, last_kept(run)));
	return restore_best(run);
}

bool train_run_has_best(const struct train_run *run)
{
	char *path;
	if (path_join(&path, run->directory, "best") != STATUS_OK)
		return false;
	bool there = file_exists(path);
	free(path);
	return there;
}

void train_run_close(struct train_run *run)
{
	if (run->lock >= 0)
		close(run->lock);
	free(run->directory);
}
