#include "engine/optimizer.h"

#include "common/memory.h"

#include <math.h>
#include <stdlib.h>

struct optimizer {
	struct optimizer_config config;
	struct kernels *kernels;
	uint64_t elements, updated; /* of all gradients; of those that are updated here */
	float *exp_avg, *exp_avg_sq;
	struct gradient_stats *stats, *host_stats; /* in the kernels' memory; on the host */
	struct optimizer_segment *segments;
	int segment_count;
	struct event *measuring, *measured, *updating, *done;
	bool update_queued; /* since the last measurement */
};

enum status optimizer_config_check(const struct optimizer_config *c)
{
	FAIL_IF(!(c->beta1 >= 0 && c->beta1 < 1) || !(c->beta2 >= 0 && c->beta2 < 1), STATUS_USAGE,
		"Adam's betas are %g and %g; they lie from 0 to below 1, like 0.9 and 0.999", c->beta1,
		c->beta2);
	FAIL_IF(!(c->epsilon > 0 && c->epsilon < 1), STATUS_USAGE,
		"Adam's epsilon is %g; it lies above 0 and below 1, like 1e-8", c->epsilon);
	FAIL_IF(!(c->weight_decay >= 0 && c->weight_decay < 1e6), STATUS_USAGE,
		"a weight decay of %g is not possible; it is a number from 0 up, like 0.1", c->weight_decay);
	FAIL_IF(!(c->max_norm >= 0 && c->max_norm < 1e30), STATUS_USAGE,
		"clipping gradients at a norm of %g is not possible; give 0 (none) or more, like 1",
		c->max_norm);
	return STATUS_OK;
}

int optimizer_cut(const struct parameter_table *table, struct optimizer_segment *out)
{
	int count = 0;
	for (int i = 0; i < table->count; i++) {
		const struct parameter *p = &table->items[i];
		uint64_t span = parameter_span(table, i);
		struct optimizer_segment *last = count ? &out[count - 1] : NULL;
		if (last && last->group == p->group)
			last->elements += span;
		else
			out[count++] = (struct optimizer_segment){p->offset, span, p->group};
	}
	return count;
}

float optimizer_weight_decay(const struct optimizer_config *config, const struct optimizer_segment *segment)
{
	return segment->group == 0 ? (float)config->weight_decay : 0;
}

struct adamw optimizer_adamw(
	const struct optimizer_config *config, double learning_rate, uint64_t step, double multiplier)
{
	struct adamw args = {.learning_rate = (float)learning_rate,
		.beta1 = (float)config->beta1,
		.beta2 = (float)config->beta2,
		.epsilon = (float)config->epsilon,
		.step = step,
		.gradient_multiplier = (float)multiplier};
	return args;
}

static enum status allocate(struct optimizer *o, const struct parameter_table *table)
{
	struct kernels *k = o->kernels;
	TRY(memory_alloc(
		(void **)&o->segments, (size_t)table->count, sizeof *o->segments, "the optimizer's plan"));
	o->segment_count = optimizer_cut(table, o->segments);
	if (o->updated) {
		TRY(k->memory_alloc(k, (void **)&o->exp_avg, o->updated * 4, "Adam's first moments"));
		TRY(k->memory_alloc(k, (void **)&o->exp_avg_sq, o->updated * 4, "Adam's second moments"));
	}
	TRY(k->event_open(k, &o->measuring));
	TRY(k->event_open(k, &o->measured));
	TRY(k->event_open(k, &o->updating));
	TRY(k->event_open(k, &o->done));
	TRY(k->memory_alloc(k, (void **)&o->stats, sizeof *o->stats, "the gradients' norm"));
	return k->host_alloc(k, (void **)&o->host_stats, sizeof *o->host_stats, "the gradients' norm");
}

enum status optimizer_open(const struct optimizer_config *config, const struct parameter_table *table,
	struct kernels *kernels, struct optimizer **out)
{
	return optimizer_open_part(config, table, table->elements, kernels, out);
}

enum status optimizer_open_part(const struct optimizer_config *config, const struct parameter_table *table,
	uint64_t elements, struct kernels *kernels, struct optimizer **out)
{
	struct optimizer *o;
	*out = NULL;
	TRY(optimizer_config_check(config));
	TRY(memory_alloc((void **)&o, 1, sizeof *o, "the optimizer"));
	o->config = *config;
	o->kernels = kernels;
	o->elements = table->elements;
	o->updated = elements;
	enum status status = allocate(o, table);
	if (status != STATUS_OK) {
		optimizer_close(o);
		return status;
	}
	*out = o;
	return STATUS_OK;
}

void optimizer_close(struct optimizer *o)
{
	if (!o)
		return;
	struct kernels *k = o->kernels;
	if (o->exp_avg)
		k->memory_free(k, o->exp_avg, o->updated * 4);
	if (o->exp_avg_sq)
		k->memory_free(k, o->exp_avg_sq, o->updated * 4);
	if (o->stats)
		k->memory_free(k, o->stats, sizeof *o->stats);
	if (o->host_stats)
		k->host_free(k, o->host_stats, sizeof *o->host_stats);
	k->event_close(k, o->measuring);
	k->event_close(k, o->measured);
	k->event_close(k, o->updating);
	k->event_close(k, o->done);
	free(o->segments);
	free(o);
}

float *optimizer_exp_avg(struct optimizer *o)
{
	return o->exp_avg;
}

float *optimizer_exp_avg_sq(struct optimizer *o)
{
	return o->exp_avg_sq;
}

enum status optimizer_measure(
	struct optimizer *o, const void *gradients, double loss_scale, struct optimizer_measure *out)
{
	struct kernels *k = o->kernels;
	const struct gradient_stats *stats = o->host_stats;
	k->event_record(k, o->measuring, NULL);
	k->gradient_stats(k, NULL, o->stats, gradients, o->elements);
	k->copy_out(k, NULL, o->host_stats, o->stats, sizeof *o->host_stats);
	k->event_record(k, o->measured, NULL);
	TRY(k->stream_wait(k, NULL));
	out->seconds = k->event_seconds(k, o->measuring, o->measured);
	out->update_seconds = o->update_queued ? k->event_seconds(k, o->updating, o->done) : 0;
	o->update_queued = false;
	out->overflow = stats->nonfinite > 0;
	out->norm = out->overflow ? (double)INFINITY : sqrt(stats->sum_of_squares) / loss_scale;
	return STATUS_OK;
}

double optimizer_clip(const struct optimizer *o, double norm)
{
	if (o->config.max_norm == 0)
		return 1;
	return fmin(1, o->config.max_norm / (norm + 1e-6));
}

void optimizer_update(struct optimizer *o, float *weights, void *work, const void *gradients,
	double learning_rate, uint64_t step, double multiplier)
{
	struct kernels *k = o->kernels;
	struct adamw args = optimizer_adamw(&o->config, learning_rate, step, multiplier);
	size_t act = dtype_bytes(k->act), grad = dtype_bytes(k->grad);
	k->event_record(k, o->updating, NULL);
	for (int i = 0; i < o->segment_count && o->segments[i].offset < o->updated; i++) {
		const struct optimizer_segment *s = &o->segments[i];
		uint64_t left = o->updated - s->offset;
		float *p = weights + s->offset, *m = o->exp_avg + s->offset, *v = o->exp_avg_sq + s->offset;
		args.weight_decay = optimizer_weight_decay(&o->config, s);
		k->adamw(k, NULL, &args, p, m, v, work ? (char *)work + s->offset * act : NULL, p, m, v,
			(const char *)gradients + s->offset * grad, s->elements < left ? s->elements : left);
	}
	k->event_record(k, o->done, NULL);
	o->update_queued = true;
	k->weights_changed(k);
}
