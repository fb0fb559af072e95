/* A run: a directory of checkpoints. */
#include "engine/checkpoint_parts.h"

#include "common/file.h"
#include "common/log.h"
#include "common/memory.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- names ---- */

void checkpoint_name(uint64_t step, char name[CHECKPOINT_NAME])
{
	snprintf(name, CHECKPOINT_NAME, "step-%08" PRIu64, step);
}

static bool parse_step_name(const char *name, uint64_t *step)
{
	if (strncmp(name, "step-", 5) != 0 || strlen(name) > 24 || strlen(name + 5) < 8)
		return false;
	if (strspn(name + 5, "0123456789") != strlen(name + 5))
		return false;
	errno = 0;
	*step = strtoull(name + 5, NULL, 10);
	return errno == 0;
}

/* ---- checkpoints of a run ---- */

enum status checkpoint_remove_rest(const char *temporary)
{
	enum status status = directory_remove(temporary);
	if (status != STATUS_IO)
		return status;
	log_warn("%s; the next start of the run deletes it", error_message());
	return STATUS_OK;
}

/* Deletion is a rename first, so that a checkpoint is never there in part. */
enum status checkpoint_remove_whole(const char *path)
{
	char *temporary;
	if (!file_exists(path))
		return STATUS_OK;
	TRY(file_temporary_name(path, &temporary));
	enum status status = file_rename(path, temporary);
	if (status == STATUS_OK)
		status = checkpoint_remove_rest(temporary);
	free(temporary);
	return status;
}

enum status checkpoint_mark_best(const char *run, const char *name)
{
	char *link;
	TRY(path_join(&link, run, "best"));
	enum status status = file_publish_link(link, name);
	free(link);
	return status;
}

static int compare_steps(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

enum status checkpoint_list(const char *run, uint64_t **steps, size_t *count)
{
	char **names;
	size_t all;
	bool there;
	*steps = NULL;
	*count = 0;
	TRY(file_find(run, &there));
	if (!there)
		return STATUS_OK;
	TRY(directory_list(run, &names, &all));
	enum status status = memory_alloc((void **)steps, all + 1, sizeof **steps, "a list of checkpoints");
	for (size_t i = 0; i < all && status == STATUS_OK; i++)
		if (parse_step_name(names[i], &(*steps)[*count]))
			++*count;
	directory_list_free(names, all);
	if (*count)
		qsort(*steps, *count, sizeof **steps, compare_steps);
	return status;
}

/* The step that run/best points to; UINT64_MAX: none. */
static enum status best_step(const char *run, uint64_t *step)
{
	char *link, target[64];
	*step = UINT64_MAX;
	TRY(path_join(&link, run, "best"));
	ssize_t length = readlink(link, target, sizeof target - 1);
	free(link);
	if (length < 0)
		return STATUS_OK;
	target[length] = 0;
	if (!parse_step_name(target, step))
		*step = UINT64_MAX;
	return STATUS_OK;
}

static enum status remove_step(const char *run, uint64_t step)
{
	char name[CHECKPOINT_NAME], *path;
	checkpoint_name(step, name);
	TRY(path_join(&path, run, name));
	enum status status = checkpoint_remove_whole(path);
	free(path);
	return status;
}

enum status checkpoint_prune(const char *run, int keep)
{
	uint64_t *steps, best;
	size_t count;
	TRY(best_step(run, &best));
	TRY(checkpoint_list(run, &steps, &count));
	enum status status = STATUS_OK;
	for (size_t i = 0; i + (size_t)keep < count && status == STATUS_OK; i++)
		if (steps[i] != best)
			status = remove_step(run, steps[i]);
	free(steps);
	return status;
}

enum status checkpoint_remove_after(const char *run, uint64_t step)
{
	uint64_t *steps, best;
	size_t count;
	char *link;
	TRY(best_step(run, &best));
	if (best != UINT64_MAX && best > step) {
		TRY(path_join(&link, run, "best"));
		enum status removed = file_remove(link);
		free(link);
		TRY(removed);
		TRY(directory_sync(run)); /* it never points to nothing */
	}
	TRY(checkpoint_list(run, &steps, &count));
	enum status status = STATUS_OK;
	for (size_t i = count; i > 0 && status == STATUS_OK; i--)
		if (steps[i - 1] > step)
			status = remove_step(run, steps[i - 1]);
	free(steps);
	return status;
}

static enum status set_aside(const char *run, uint64_t step)
{
	char name[CHECKPOINT_NAME], other[CHECKPOINT_NAME + 8], *path = NULL, *aside = NULL;
	checkpoint_name(step, name);
	snprintf(other, sizeof other, "damaged-%s", name);
	enum status status;
	TRY_GOTO(status, done, path_join(&path, run, name));
	TRY_GOTO(status, done, path_join(&aside, run, other));
	status = directory_remove(aside); /* of an earlier time */
	if (status == STATUS_OK)
		status = file_rename(path, aside);
done:
	free(path);
	free(aside);
	return status;
}

enum status checkpoint_set_aside_after(const char *run, uint64_t step)
{
	uint64_t *steps;
	size_t count;
	TRY(checkpoint_list(run, &steps, &count));
	enum status status = STATUS_OK;
	for (size_t i = 0; i < count && status == STATUS_OK; i++)
		if (steps[i] > step)
			status = set_aside(run, steps[i]);
	free(steps);
	return status;
}

enum status checkpoint_clean(const char *run)
{
	char **names;
	size_t count;
	if (!file_exists(run))
		return STATUS_OK;
	TRY(directory_list(run, &names, &count));
	enum status status = STATUS_OK;
	for (size_t i = 0; i < count && status == STATUS_OK; i++) {
		char *path;
		if (!file_is_temporary(names[i]))
			continue;
		status = path_join(&path, run, names[i]);
		if (status == STATUS_OK) {
			status = checkpoint_remove_rest(path);
			free(path);
		}
	}
	directory_list_free(names, count);
	return status;
}
