/*
 * saver.h: a run's checkpoints, written while training goes on.
 *
 *    training | step | settle, copy | step | step | step | step | settle, copy | step
 *    saver    |                     | write, fsync, rename, prune |            | write ...
 *
 * Behind: saver_begin copies the state into host memory, as fast as that is, and a thread of the saver's writes the copy
 * (checkpoint.h). One at a time: the next one waits until the one before is on the disk. Else, where there is no memory for
 * a copy, saver_begin writes, and returns when that is done. Either way the files are the same.
 *
 * A checkpoint counts once saver_end says so: whoever began one asks saver_is_done now and then, or waits for saver_end.
 * What fails on the way, saver_end returns; the run is left as it was before.
 *
 * Memory: 12 bytes an element behind, taken at opening. The caller's arrays may change once saver_begin has returned; the
 * table, the files' contents and the strings must outlive the saver. Threads: one calls.
 */
#ifndef ENGINE_SAVER_H
#define ENGINE_SAVER_H

#include "engine/checkpoint.h"

struct saver;

struct saver_config {
	const char *run; /* the directory */
	int keep;        /* checkpoints, besides the best */
	bool behind;
};

uint64_t saver_bytes(const struct parameter_table *table, bool behind);
enum status saver_open(
	const struct saver_config *config, const struct parameter_table *table, struct saver **out) MUST_USE;
void saver_close(
	struct saver *saver); /* waits; a failure that nobody asked for is a log_warn. NULL is allowed */

/* The one before must have been ended. `contents` have moments. `best`: run/best is to point there. */
enum status saver_begin(struct saver *saver, const struct checkpoint_contents *contents, bool best) MUST_USE;
/* Has the one that was begun been written, or failed? */
bool saver_is_done(struct saver *saver);
/* Waits until it is. */
enum status saver_end(struct saver *saver) MUST_USE;

#endif
