/* Validation, and what it says of the run. */
#include "engine/trainer_parts.h"

#include "common/clock.h"
#include "common/log.h"

#include <inttypes.h>
#include <math.h>

static enum status evaluate_windows(struct trainer *t, struct mixture *mixture, uint64_t first,
	uint64_t windows, double *sum, uint64_t *counted)
{
	uint64_t tokens = t->config.window_tokens;
	for (uint64_t w = 0; w < windows; w++) {
		struct sampler_window window = mixture_get(mixture, first + w);
		TRY(corpus_read_in_order(mixture->sources[window.source].corpus, window.first_token,
			tokens + 1, t->evaluation_tokens));
		TRY(trainer_split_window(
			t, t->evaluation_tokens, t->inputs + w * tokens, t->targets + w * tokens, counted));
	}
	struct kernels *k = &t->kernels;
	struct model_batch batch = trainer_stage(t, 0, windows, first);
	TRY(model_evaluate(t->model, t->working, &batch, t->device_losses));
	trainer_fetch_losses(t, 0, windows);
	TRY(k->stream_wait(k, NULL));
	trainer_add_losses(t, windows, sum);
	return STATUS_OK;
}

/* Micro-batch i is rank (i modulo the ranks)'s. */
static enum status evaluate_own(
	struct trainer *t, struct mixture *mixture, uint64_t all, double *sum, uint64_t *counted)
{
	uint64_t micro = t->config.micro_batch, ranks = (uint64_t)t->ranks->ranks;
	for (uint64_t at = (uint64_t)t->ranks->rank * micro; at < all; at += ranks * micro) {
		uint64_t windows = all - at < micro ? all - at : micro;
		TRY(evaluate_windows(t, mixture, at, windows, sum, counted));
	}
	return STATUS_OK;
}

static enum status add_others(struct trainer *t, double *sum, uint64_t *counted)
{
	double both[2] = {*sum, (double)*counted};
	TRY(collective_sum(t->ranks, both, 2));
	*sum = both[0];
	*counted = (uint64_t)both[1];
	return STATUS_OK;
}

/* Records a validation loss; returns true where it is the best yet. */
static bool judge(struct trainer *t, double loss)
{
	struct overfitting *o = &t->state.overfitting;
	enum overfitting_verdict verdict = overfitting_add_validation(o, t->state.step, loss);
	if (verdict == OVERFITTING_RISING)
		log_warn("validation loss has not improved since iteration %" PRIu64
			 " (%.4f; now %.4f) while training loss fell from %.4f to %.4f: the model has begun "
			 "to memorize its text. %s; more text, or fewer iterations, would help",
			o->best_step, o->best_loss, loss, o->best_train_loss, overfitting_training_loss(o),
			t->config.save ? "The best checkpoint is kept" : "Nothing is saved");
	return verdict == OVERFITTING_BEST;
}

enum status trainer_validate(struct trainer *t, enum split_part part, bool final, bool *best)
{
	uint64_t all = t->evaluation_windows[part];
	struct trainer_validation report = {
		.step = t->state.step, .part = part, .final = final, .windows = all};
	double sum = 0, start = clock_seconds();
	if (!all)
		return STATUS_OK;
	if (t->shards)
		TRY(trainer_share_due(t)); /* a rank may have none to validate with */
	TRY(collective_agree(t->ranks, evaluate_own(t, &t->evaluation[part], all, &sum, &report.counted)));
	TRY(add_others(t, &sum, &report.counted));
	report.loss = sum / (report.counted ? (double)report.counted : 1);
	report.perplexity = exp(fmin(20, report.loss));
	if (part == SPLIT_VALID) {
		report.best = judge(t, report.loss);
		*best = report.best;
		t->validated = true;
	}
	report.seconds = clock_seconds() - start;
	return t->events.validation ? t->events.validation(t->events.user, &report) : STATUS_OK;
}
