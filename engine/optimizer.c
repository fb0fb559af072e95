#include "engine/optimizer.h"

#include "common/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct optimizer {
	struct optimizer_config config;
	struct kernels *kernels;
	struct collective *ranks;         /* that measure along; NULL: none */
	struct optimizer_slice *measured; /* [measured_count], of the gradients */
	int measured_count;
	uint64_t updated; /* elements */
	struct piece *pieces;
	int piece_count;
	float *exp_avg, *exp_avg_sq;               /* [updated] */
	struct gradient_stats *stats, *host_stats; /* [measured_count], in the kernels' memory; on the host */
	struct event *measuring, *measured_all, *updating, *done;
	bool update_queued; /* since the last measurement */
};

/* What one call updates: a slice's part of a segment. */
struct piece {
	struct optimizer_segment of;
	uint64_t own;
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

uint64_t optimizer_part_elements(const struct optimizer_part *part)
{
	const struct optimizer_slice *last = &part->slices[part->count - 1];
	return last->own + last->elements;
}

/* A slice's elements that are there. */
static uint64_t elements_there(const struct optimizer_part *part, const struct optimizer_slice *slice)
{
	uint64_t left = part->there > slice->own ? part->there - slice->own : 0;
	return left < slice->elements ? left : slice->elements;
}

/* What is there of the slices' parts of the table's segments, in order. */
static enum status cut_pieces(
	struct optimizer *o, const struct parameter_table *table, const struct optimizer_part *part)
{
	struct optimizer_segment *segments;
	TRY(memory_alloc((void **)&segments, (size_t)table->count, sizeof *segments, "the optimizer's plan"));
	int segment_count = optimizer_cut(table, segments);
	enum status status = memory_alloc((void **)&o->pieces, (size_t)(segment_count + part->count),
		sizeof *o->pieces, "the optimizer's plan");
	for (int i = 0, g = 0; i < part->count && status == STATUS_OK; i++) {
		const struct optimizer_slice *slice = &part->slices[i];
		uint64_t at = slice->offset, end = at + elements_there(part, slice), until;
		for (; at < end; at = until) {
			while (segments[g].offset + segments[g].elements <= at)
				g++;
			until = segments[g].offset + segments[g].elements;
			until = until < end ? until : end;
			o->pieces[o->piece_count++] = (struct piece){
				{at, until - at, segments[g].group}, slice->own + at - slice->offset};
		}
	}
	free(segments);
	return status;
}

static enum status allocate(
	struct optimizer *o, const struct parameter_table *table, const struct optimizer_part *part)
{
	struct kernels *k = o->kernels;
	size_t stats = (size_t)part->count * sizeof *o->stats;
	TRY(memory_alloc(
		(void **)&o->measured, (size_t)part->count, sizeof *o->measured, "the optimizer's plan"));
	memcpy(o->measured, part->slices, (size_t)part->count * sizeof *o->measured);
	TRY(cut_pieces(o, table, part));
	if (o->updated) {
		TRY(k->memory_alloc(k, (void **)&o->exp_avg, o->updated * 4, "Adam's first moments"));
		TRY(k->memory_alloc(k, (void **)&o->exp_avg_sq, o->updated * 4, "Adam's second moments"));
	}
	TRY(k->event_open(k, &o->measuring));
	TRY(k->event_open(k, &o->measured_all));
	TRY(k->event_open(k, &o->updating));
	TRY(k->event_open(k, &o->done));
	TRY(k->memory_alloc(k, (void **)&o->stats, stats, "the gradients' norm"));
	return k->host_alloc(k, (void **)&o->host_stats, stats, "the gradients' norm");
}

enum status optimizer_open_part(const struct optimizer_config *config, const struct parameter_table *table,
	const struct optimizer_part *part, struct collective *ranks, struct kernels *kernels,
	struct optimizer **out)
{
	struct optimizer *o;
	*out = NULL;
	TRY(optimizer_config_check(config));
	TRY(memory_alloc((void **)&o, 1, sizeof *o, "the optimizer"));
	o->config = *config;
	o->kernels = kernels;
	o->ranks = ranks;
	o->measured_count = part->count;
	o->updated = part->there;
	enum status status = allocate(o, table, part);
	if (status != STATUS_OK) {
		optimizer_close(o);
		return status;
	}
	*out = o;
	return STATUS_OK;
}

enum status optimizer_open(const struct optimizer_config *config, const struct parameter_table *table,
	struct kernels *kernels, struct optimizer **out)
{
	struct optimizer_slice all = {.elements = table->elements};
	struct optimizer_part part = {&all, 1, table->elements};
	return optimizer_open_part(config, table, &part, NULL, kernels, out);
}

void optimizer_close(struct optimizer *o)
{
	if (!o)
		return;
	struct kernels *k = o->kernels;
	size_t stats = (size_t)o->measured_count * sizeof *o->stats;
	if (o->exp_avg)
		k->memory_free(k, o->exp_avg, o->updated * 4);
	if (o->exp_avg_sq)
		k->memory_free(k, o->exp_avg_sq, o->updated * 4);
	if (o->stats)
		k->memory_free(k, o->stats, stats);
	if (o->host_stats)
		k->host_free(k, o->host_stats, stats);
	k->event_close(k, o->measuring);
	k->event_close(k, o->measured_all);
	k->event_close(k, o->updating);
	k->event_close(k, o->done);
	free(o->measured);
	free(o->pieces);
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
	double sum[2] = {0, 0}; /* of squares; of what is not finite */
	k->event_record(k, o->measuring, NULL);
	for (int i = 0; i < o->measured_count; i++)
		if (o->measured[i].elements)
			k->gradient_stats(k, NULL, &o->stats[i],
				(const char *)gradients + o->measured[i].offset * dtype_bytes(k->grad),
				o->measured[i].elements);
	k->copy_out(k, NULL, o->host_stats, o->stats, (size_t)o->measured_count * sizeof *o->stats);
	k->event_record(k, o->measured_all, NULL);
	enum status status = k->stream_wait(k, NULL);
	TRY(o->ranks ? collective_agree(o->ranks, status) : status);
	for (int i = 0; i < o->measured_count; i++) {
		sum[0] += o->host_stats[i].sum_of_squares;
		sum[1] += (double)o->host_stats[i].nonfinite;
	}
	if (o->ranks)
		TRY(collective_sum(o->ranks, sum, 2));
	out->seconds = k->event_seconds(k, o->measuring, o->measured_all);
	out->update_seconds = o->update_queued ? k->event_seconds(k, o->updating, o->done) : 0;
	o->update_queued = false;
	out->overflow = sum[1] > 0;
	out->norm = out->overflow ? (double)INFINITY : sqrt(sum[0]) / loss_scale;
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
	for (int i = 0; i < o->piece_count; i++) {
		const struct optimizer_segment *s = &o->pieces[i].of;
		uint64_t own = o->pieces[i].own;
		float *p = weights + (work ? own : s->offset), *m = o->exp_avg + own,
		      *v = o->exp_avg_sq + own;
		args.weight_decay = optimizer_weight_decay(&o->config, s);
		k->adamw(k, NULL, &args, p, m, v, work ? (char *)work + s->offset * act : NULL, p, m, v,
			(const char *)gradients + s->offset * grad, s->elements);
	}
	k->event_record(k, o->done, NULL);
	o->update_queued = true;
	k->weights_changed(k);
}
