#include "engine/overfitting.h"

#include <math.h>

#define DECAY             0.98
#define PATIENCE          3
#define PATIENCE_FRACTION 0.2

void overfitting_add_training(struct overfitting *o, double loss)
{
	if (!isfinite(loss))
		return;
	o->smoothed = DECAY * o->smoothed + (1 - DECAY) * loss;
	o->smoothed_weight = DECAY * o->smoothed_weight + (1 - DECAY);
}

double overfitting_training_loss(const struct overfitting *o)
{
	return o->smoothed_weight > 0 ? o->smoothed / o->smoothed_weight : 0;
}

enum overfitting_verdict overfitting_add_validation(struct overfitting *o, uint64_t step, double loss)
{
	double train = overfitting_training_loss(o);
	if (isfinite(loss) && (o->evaluations == 0 || loss < o->best_loss)) {
		o->evaluations++;
		o->best_loss = loss;
		o->best_step = step;
		o->best_train_loss = train;
		o->since_best = 0;
		o->warned = false;
		return OVERFITTING_BEST;
	}
	if (o->evaluations == 0)
		return OVERFITTING_NOT_BEST; /* nothing finite yet */
	o->evaluations++;
	o->since_best++;
	if (o->warned || o->since_best < PATIENCE ||
		(double)(step - o->best_step) < PATIENCE_FRACTION * (double)step ||
		train >= o->best_train_loss)
		return OVERFITTING_NOT_BEST;
	o->warned = true;
	return OVERFITTING_RISING;
}
