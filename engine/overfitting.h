/*
 * overfitting.h: remembers the best validation loss, and notices when a model begins to memorize its text.
 *
 * The training loss is kept as an exponential mean (decay 0.98 a step, bias-corrected). Rising is when the
 * best validation lies at least 3 evaluations and 20% of all steps back, while the training loss is lower now
 * than it was then. It is said once for each best. (On the reference run, whose validation loss rose from
 * iteration 8,000 to its end at 23,000, that is at iteration 11,000.)
 */
#ifndef ENGINE_OVERFITTING_H
#define ENGINE_OVERFITTING_H

#include <stdbool.h>
#include <stdint.h>

/* All zero at the start; plain numbers, so that a checkpoint holds it. */
struct overfitting {
	uint64_t evaluations, best_step, since_best; /* since_best: evaluations */
	double best_loss, best_train_loss;           /* meaningless while evaluations is 0 */
	bool warned;
	double smoothed, smoothed_weight;
};

enum overfitting_verdict { OVERFITTING_BEST, OVERFITTING_NOT_BEST, OVERFITTING_RISING };

/* After each step; losses that are not finite are left out. */
void overfitting_add_training(struct overfitting *o, double loss);
/* After each validation, with the steps done so far. */
enum overfitting_verdict overfitting_add_validation(struct overfitting *o, uint64_t step, double loss);
double overfitting_training_loss(const struct overfitting *o); /* 0 before the first */

#endif
