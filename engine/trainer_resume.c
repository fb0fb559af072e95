/* The trainer's state: a fresh one, or the one that a checkpoint holds, if it belongs to the same data. */
#include "engine/trainer_parts.h"

#include "common/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static enum status check_same_corpora(const struct trainer *t, const struct checkpoint_state *s)
{
	FAIL_IF(s->source_count != t->source_count, STATUS_MISMATCH,
		"the checkpoint was trained on %d corpora, this is %d; give the same --train-data, or start "
		"anew from the weights with --finetune",
		s->source_count, t->source_count);
	for (int i = 0; i < s->source_count; i++) {
		struct corpus *corpus = t->sources[i].corpus;
		struct hash128 hash = corpus_get_info(corpus)->hash;
		char theirs[33], ours[33];
		hash128_format(s->sources[i].corpus, theirs);
		hash128_format(hash, ours);
		FAIL_IF(hash128_compare(s->sources[i].corpus, hash) != 0, STATUS_MISMATCH,
			"the checkpoint was trained on the corpus %s, %s is the corpus %s; give the same "
			"--train-data, or start anew from the weights with --finetune",
			theirs, corpus_directory(corpus), ours);
		FAIL_IF(s->sources[i].share != t->mixture.parts[i], STATUS_MISMATCH,
			"%s: the checkpoint was trained with another share of this corpus, %" PRIu64
			" parts instead of %" PRIu64 "; give the same --train-data, or start anew from the "
			"weights with --finetune",
			corpus_directory(corpus), s->sources[i].share, t->mixture.parts[i]);
	}
	return STATUS_OK;
}

/* Each corpus goes on where it was, with windows of perhaps another length. */
static enum status resume_samplers(struct trainer *t, const struct checkpoint_state *s)
{
	for (int i = 0; i < t->source_count; i++) {
		const struct sampler_position *position = &s->sources[i].position;
		enum status status = sampler_resume(&t->sources[i].sampler, position);
		if (status != STATUS_OK)
			return error_context(status, "%s", corpus_directory(t->sources[i].corpus));
		t->epoch[i] =
			position->epoch_tokens || !position->epoch ? position->epoch : position->epoch - 1;
	}
	return mixture_open(&t->mixture, t->sources, t->source_count);
}

/* What a checkpoint was trained on must be what goes on. */
static enum status check_same_data(const struct trainer *t, const struct checkpoint_state *s)
{
	const struct trainer_config *c = &t->config;
	TRY(check_same_corpora(t, s));
	struct split_shares before, wanted;
	TRY(split_parse(s->split, &before));
	TRY(split_parse(c->split, &wanted));
	FAIL_IF(!split_same(&before, &wanted), STATUS_MISMATCH,
		"the checkpoint was trained with --split %s, not %s; give the same, or start anew from the "
		"weights with --finetune",
		s->split, c->split);
	FAIL_IF(s->seed != c->seed, STATUS_MISMATCH,
		"the checkpoint was trained with --seed %" PRIu64 ", not %" PRIu64
		"; give the same, or start anew from the weights with --finetune",
		s->seed, c->seed);
	return STATUS_OK;
}

static void note_circumstances(const struct trainer *t, const struct checkpoint_state *s)
{
	const struct checkpoint_state *own = &t->state;
	if (strcmp(s->precision, own->precision) != 0)
		log_warn("the checkpoint was made in %s, this run is in %s: it goes on, but not bit for bit",
			s->precision, own->precision);
	else if (strcmp(s->kernels, own->kernels) != 0 || s->threads != own->threads)
		log_info("the checkpoint was made with \"%s\", this is \"%s\": the same windows, "
			 "but not bit for bit%s",
			s->kernels, own->kernels,
			s->choices && strcmp(s->kernels, own->kernels) != 0
				? "; what those kernels chose (algorithms of matrix products, ways of "
				  "attention) is not used"
				: "");
	else if (s->ranks != own->ranks)
		log_info("the checkpoint was made by %u rank%s, this is %u: the same windows, but not bit "
			 "for bit",
			s->ranks, s->ranks == 1 ? "" : "s", own->ranks);
}

/* The kernels go on with what they chose then, if they are the same. */
static void take_choices(struct trainer *t, const struct checkpoint_state *s)
{
	const struct checkpoint_state *own = &t->state;
	const cJSON *item;
	int refused = 0;
	if (!s->choices || !t->kernels.choice_set || strcmp(s->kernels, own->kernels) != 0 ||
		strcmp(s->precision, own->precision) != 0)
		return;
	cJSON_ArrayForEach (item, s->choices)
		refused += !t->kernels.choice_set(&t->kernels, item->valuestring);
	if (refused)
		log_warn("%d of the %d algorithms that the checkpoint was made with are not to be had here "
			 "(\"%s\"): "
			 "chosen anew, so it goes on, but not bit for bit",
			refused, cJSON_GetArraySize(s->choices), own->kernels);
}

enum status trainer_record_choices(struct trainer *t)
{
	char text[KERNELS_CHOICE];
	cJSON_Delete(t->state.choices);
	t->state.choices = NULL;
	for (int i = 0; t->kernels.choice_get && t->kernels.choice_get(&t->kernels, i, text); i++) {
		if (!t->state.choices)
			t->state.choices = cJSON_CreateArray();
		cJSON *item = cJSON_CreateString(text);
		if (!item || !cJSON_AddItemToArray(t->state.choices, item)) {
			cJSON_Delete(item);
			return error_set(STATUS_MEMORY, "no memory to record the kernels' choices");
		}
	}
	return STATUS_OK;
}

/* The scale goes on where the kind of scaling is the same; limits are this run's. */
static struct loss_scale resume_scale(const struct loss_scale *saved, const struct loss_scale *wanted)
{
	if (!saved->dynamic || !wanted->dynamic)
		return *wanted;
	struct loss_scale s = *saved;
	s.minimum = wanted->minimum;
	s.window = wanted->window;
	s.hysteresis = wanted->hysteresis;
	s.hysteresis_left =
		saved->hysteresis_left < s.hysteresis ? saved->hysteresis_left : wanted->hysteresis;
	return s;
}

enum status trainer_resume(struct trainer *t, struct checkpoint *from, const struct checkpoint_state *s)
{
	TRY(check_same_data(t, s));
	TRY(resume_samplers(t, s));
	note_circumstances(t, s);
	take_choices(t, s);
	TRY(checkpoint_read_moments(from, t->table, t->staging, t->all_exp_avg, t->all_exp_avg_sq));
	struct checkpoint_state own = t->state;
	t->state = *s;
	memcpy(t->state.precision, own.precision, sizeof own.precision);
	memcpy(t->state.kernels, own.kernels, sizeof own.kernels);
	t->state.threads = own.threads;
	t->state.ranks = own.ranks;
	t->state.window_tokens = own.window_tokens;
	t->state.schedule = own.schedule;
	t->state.choices = NULL;
	t->state.arguments = own.arguments;
	t->state.loss_scale = own.loss_scale;
	if (strcmp(s->precision, own.precision) == 0)
		t->state.loss_scale = resume_scale(&s->loss_scale, &own.loss_scale);
	t->saved_step = s->step;
	return STATUS_OK;
}

void trainer_fresh_state(struct trainer *t)
{
	const struct trainer_config *c = &t->config;
	struct checkpoint_state *s = &t->state;
	*s = (struct checkpoint_state){.seed = c->seed,
		.window_tokens = c->window_tokens,
		.loss_scale = c->loss_scale,
		.schedule = c->schedule,
		.threads = (uint32_t)c->threads,
		.ranks = (uint32_t)t->ranks->ranks,
		.source_count = t->source_count,
		.arguments = c->arguments};
	for (int i = 0; i < t->source_count; i++) {
		s->sources[i].corpus = corpus_get_info(t->sources[i].corpus)->hash;
		s->sources[i].share = t->mixture.parts[i];
		s->sources[i].position = t->sources[i].sampler.start;
	}
	snprintf(s->split, sizeof s->split, "%s", c->split);
	snprintf(s->precision, sizeof s->precision, "%s", dtype_name(c->precision));
	memcpy(s->kernels, t->kernels.name, sizeof s->kernels);
	t->saved_step = UINT64_MAX;
}
