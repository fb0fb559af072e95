/* A training step: windows in, gradients, update. */
#include "engine/trainer_parts.h"

#include "common/clock.h"
#include "engine/document_masks.h"

#include <inttypes.h>
#include <math.h>

/* Where each token's document begins, and its place in it, to the kernels, where they are wanted. */
static void stage_masks(struct trainer *t, uint64_t at, uint64_t windows)
{
	struct kernels *k = &t->kernels;
	int32_t eod = (int32_t)corpus_get_info(t->config.corpus)->eod;
	uint64_t skip = at * t->config.window_tokens;
	int batch = (int)windows, count = (int)t->config.window_tokens;
	size_t bytes = windows * t->config.window_tokens * 4;
	if (t->first) {
		document_masks(t->inputs + skip, batch, count, eod, t->first + skip, NULL);
		k->copy_in(k, NULL, t->device_first, t->first + skip, bytes);
	}
	if (t->positions) {
		document_masks(t->inputs + skip, batch, count, eod, NULL, t->positions + skip);
		k->copy_in(k, NULL, t->device_positions, t->positions + skip, bytes);
	}
}

/* `windows` of the step's, from the one `at`, to the kernels. */
struct model_batch trainer_stage(struct trainer *t, uint64_t at, uint64_t windows, uint64_t ordinal)
{
	struct kernels *k = &t->kernels;
	uint64_t skip = at * t->config.window_tokens;
	size_t bytes = windows * t->config.window_tokens * 4;
	k->copy_in(k, NULL, t->device_inputs, t->inputs + skip, bytes);
	k->copy_in(k, NULL, t->device_targets, t->targets + skip, bytes);
	stage_masks(t, at, windows);
	struct model_batch batch = {.inputs = t->device_inputs,
		.targets = t->device_targets,
		.first = t->device_first,
		.positions = t->device_positions,
		.batch = (int)windows,
		.sequence = (int)t->config.window_tokens,
		.window = ordinal};
	return batch;
}

/* The losses of the micro-batch just queued, to the step's; there after the next wait. */
void trainer_fetch_losses(struct trainer *t, uint64_t at, uint64_t windows)
{
	struct kernels *k = &t->kernels;
	uint64_t tokens = t->config.window_tokens;
	k->copy_out(k, NULL, t->losses + at * tokens, t->device_losses, windows * tokens * 4);
}

/* In order. */
void trainer_add_losses(const struct trainer *t, uint64_t windows, double *sum)
{
	for (uint64_t i = 0; i < windows * t->config.window_tokens; i++)
		*sum += (double)t->losses[i];
}

/* Its gradients are final: the host's optimizer may begin with them. */
static void begin_offload(struct trainer *t)
{
	const struct checkpoint_state *s = &t->state;
	struct offload_step step = {.gradients = t->gradients,
		.learning_rate = schedule_learning_rate(&s->schedule, s->updates + 1),
		.loss_scale = s->loss_scale.scale,
		.update = s->updates + 1,
		.lookups = t->lookups};
	offload_begin(t->offload, &step);
}

/* Those of the last micro-batch. All of its forward is queued, so the device has something to do meanwhile. */
static enum status find_lookups(struct trainer *t)
{
	uint64_t tokens = t->config.micro_batch * t->config.window_tokens;
	uint64_t before = t->local_batch * t->config.window_tokens - tokens;
	return t->lookups ? lookups_find(t->lookups, t->inputs + before, tokens) : STATUS_OK;
}

/* Of the step's last micro-batch. */
static enum status layer_done(void *user, int layer)
{
	struct trainer *t = user;
	if (layer == t->config.model.layers) {
		t->kernels.event_record(&t->kernels, t->last_head, NULL);
		TRY(find_lookups(t));
	}
	if (layer == t->config.model.layers - 1)
		t->kernels.event_record(&t->kernels, t->last_layer, NULL);
	if (t->shards)
		return trainer_reduce_behind(t, layer);
	return t->offload ? offload_layer_done(t->offload, layer) : STATUS_OK;
}

/* Queues all of it, and waits for nothing but weights that are still being computed on the host; of several ranks, for
 * what they exchange. */
static enum status forward_backward(struct trainer *t, const struct trainer_gathered *g)
{
	struct kernels *k = &t->kernels;
	uint64_t micro = t->config.micro_batch;
	double counted = g->counted ? (double)g->counted : 1;
	float scale = (float)(t->state.loss_scale.scale / counted);
	k->event_record(k, t->begin_model, NULL);
	for (uint64_t at = 0; at < t->local_batch; at += micro) {
		struct model_batch batch = trainer_stage(t, at, micro, g->first_ordinal + at);
		bool last = at + micro == t->local_batch;
		if (last)
			k->event_record(k, t->begin_last, NULL);
		if (last && t->offload)
			begin_offload(t);
		TRY(model_train(t->model, t->working, t->gradients, &batch, scale, at > 0, t->device_losses,
			last ? layer_done : NULL, t));
		trainer_fetch_losses(t, at, micro);
	}
	k->event_record(k, t->end_model, NULL);
	return STATUS_OK;
}

static enum status sum_losses(struct trainer *t, const struct trainer_gathered *g, double *loss)
{
	double sum = 0;
	trainer_add_losses(t, t->local_batch, &sum);
	TRY(collective_sum(t->ranks, &sum, 1));
	*loss = sum / (g->counted ? (double)g->counted : 1);
	return STATUS_OK;
}

/* Too many skipped steps in a row: more of them would not help. */
static enum status check_skips(struct trainer *t)
{
	FAIL_IF(++t->skips >= TRAINER_SKIPS, STATUS_CORRUPT,
		"the gradients of %d iterations in a row, up to %" PRIu64
		", hold an inf or NaN: the run has diverged; resume from an older checkpoint with a lower "
		"--lr, "
		"or use --bf16 in place of --fp16",
		t->skips, t->state.step + 1);
	return STATUS_OK;
}

/* Up to the last classifier there is the last layer's backward of all pieces but the last: as long as that one's, by the
 * window. */
static double backward_before_head(struct trainer *t)
{
	struct kernels *k = &t->kernels;
	uint64_t micro = t->config.micro_batch, piece = t->config.layer_batch;
	if (!piece || piece >= micro)
		return 0;
	double last = (double)(micro % piece ? micro % piece : piece);
	return k->event_seconds(k, t->last_head, t->last_layer) * ((double)micro - last) / last;
}

/* Micro-batches are alike: the last one's share of forward holds for all. Once the stream was waited for. */
static void report_times(struct trainer *t, struct trainer_step *report)
{
	struct kernels *k = &t->kernels;
	double forward = fmax(0, k->event_seconds(k, t->begin_last, t->last_head) - backward_before_head(t));
	double both = k->event_seconds(k, t->begin_last, t->end_model);
	report->seconds_model = k->event_seconds(k, t->begin_model, t->end_model);
	report->seconds_forward = both > 0 ? report->seconds_model * forward / both : 0;
}

/* What the offload did since it was last asked. */
static void report_offload(struct trainer *t, struct trainer_step *report)
{
	struct offload_seconds now = offload_busy(t->offload);
	report->seconds_gradients += now.down - t->busy.down;
	report->seconds_update += now.host + now.device - (t->busy.host + t->busy.device);
	report->seconds_allgather += now.up - t->busy.up;
	t->busy = now;
}

static enum status finish_offload(struct trainer *t, struct trainer_step *report)
{
	report_offload(t, report);
	if (t->spare_gradients) {
		void *gradients = t->gradients;
		t->gradients = t->spare_gradients;
		t->spare_gradients = gradients;
	}
	return offload_finish(t->offload, report->overflow, report->clip);
}

/* The step's only wait is for the norm; the losses have come with it. */
static enum status update(struct trainer *t, const struct trainer_gathered *g, struct trainer_step *report)
{
	struct checkpoint_state *s = &t->state;
	struct optimizer_measure measure;
	void *working = t->working == (void *)t->master ? NULL : t->working;
	if (t->shards)
		TRY(trainer_finish_reduce(t, &report->seconds_gradients));
	TRY(optimizer_measure(t->optimizer, t->gradients, s->loss_scale.scale, &measure));
	TRY(model_check(t->model));
	report_times(t, report);
	TRY(sum_losses(t, g, &report->loss));
	report->seconds_gradients += measure.seconds;
	report->seconds_update = measure.update_seconds;
	if (t->shards)
		report->seconds_allgather = trainer_shared_seconds(t);
	report->gradient_norm = measure.norm;
	report->loss_scale = s->loss_scale.scale;
	report->overflow = measure.overflow;
	report->clip = 1;
	if (measure.overflow) {
		TRY(collective_agree(t->ranks, check_skips(t)));
		s->skipped++;
		report->learning_rate = s->updates ? schedule_learning_rate(&s->schedule, s->updates) : 0;
	} else {
		t->skips = 0;
		report->clip = optimizer_clip(t->optimizer, measure.norm);
		report->learning_rate = schedule_learning_rate(&s->schedule, s->updates + 1);
		optimizer_update(t->optimizer, t->master, working, t->gradients, report->learning_rate,
			s->updates + 1, report->clip / s->loss_scale.scale);
		s->updates++;
	}
	report->next_loss_scale = loss_scale_update(&s->loss_scale, measure.overflow);
	if (t->offload)
		TRY(finish_offload(t, report));
	/* A skipped step changes no weights, but that the update before it may have been delayed. */
	if (t->shards && (!measure.overflow || t->spare_gradients))
		trainer_weights_due(t);
	return STATUS_OK;
}

enum status trainer_train_step(struct trainer *t)
{
	struct checkpoint_state *s = &t->state;
	struct trainer_gathered gathered;
	struct trainer_step report = {0};
	double start = clock_seconds();
	TRY(trainer_gather(t, &gathered));
	double have_data = clock_seconds();
	TRY(forward_backward(t, &gathered)); /* not agreed on: others may wait for what this rank exchanges */
	TRY(update(t, &gathered, &report));
	double end = clock_seconds();
	s->step++;
	s->tokens += gathered.counted;
	s->ordinal += t->config.global_batch;
	trainer_tell_positions(t);
	overfitting_add_training(&s->overfitting, report.loss);
	report.step = s->step;
	report.updates = s->updates;
	report.skipped = s->skipped;
	report.counted = gathered.counted;
	report.tokens = s->tokens;
	report.epoch = gathered.last_epoch;
	report.epochs = t->epochs;
	report.sources = t->source_count;
	report.ordinal = s->ordinal;
	report.seconds = end - start;
	report.seconds_data = have_data - start;
	report.seconds_optimizer = fmax(0, report.seconds - report.seconds_data - report.seconds_model);
	t->validated = false;
	trainer_notice_epochs(t);
	return t->events.step ? t->events.step(t->events.user, &report) : STATUS_OK;
}
