/*
 * train_run.h: the directory of a run of `ferry train`: which it is, that nobody else trains there, and that no
 * checkpoint of another run is overwritten unasked.
 */
#ifndef TOOLS_TRAIN_RUN_H
#define TOOLS_TRAIN_RUN_H

#include "engine/trainer.h"
#include "tools/train_options.h"

struct train_run {
	char *directory; /* malloc'ed; NULL: nothing is saved */
	const struct checkpoint
		*from; /* what goes on, with its state; NULL: a fresh start, or of weights alone */
	int lock;      /* descriptor of directory/lock; -1: none */
};

/* Where it will be: --save, or where the checkpoint that goes on lies. Nothing is touched. `from` must outlive it.
 * STATUS_USAGE: something else than a run is there. */
enum status train_run_choose(
	const struct train_options *options, const struct checkpoint *from, struct train_run *out) MUST_USE;
/* Makes it, and locks it while the run is open; deletes what a crash left. STATUS_USAGE: checkpoints are in the way.
 * Nothing where nothing is saved. */
enum status train_run_prepare(struct train_run *run, const struct train_settings *settings) MUST_USE;
/* Warns where the disk has no room for the checkpoints to come: the run would end at one of them. */
enum status train_run_check_space(const struct train_run *run, const struct trainer_config *config) MUST_USE;
/* Once nothing can be refused any more: deletes the checkpoints that --overwrite gives up, and sets aside those that are
 * damaged. */
enum status train_run_begin(struct train_run *run, const struct train_settings *settings) MUST_USE;
void train_run_close(struct train_run *run);

/* Is the checkpoint that goes on one of this directory's? */
bool train_run_goes_on(const struct train_run *run);
/* A run that goes on in another directory leaves its best where it was. */
bool train_run_has_best(const struct train_run *run);

#endif
