#include "engine/trainer.h"

#include "common/file.h"
#include "common/log.h"
#include "common/memory.h"
#include "engine/document_masks.h"
#include "engine/model.h"
#include "engine/staging.h"

#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LOADER_THREADS = 1 };

struct trainer {
	struct trainer_config config;
	struct trainer_events events;
	struct kernels kernels;
	bool kernels_open;
	struct collective ranks;
	struct model *model;
	struct optimizer *optimizer;
	struct loader *loader;
	const struct parameter_table *table; /* the model's */
	uint64_t elements;
	float *master;           /* [elements] */
	void *working;           /* act [elements]; the master itself where act is f32 */
	void *gradients;         /* grad [elements] */
	uint64_t local_batch;    /* windows of a step on this rank */
	struct staging *staging; /* NULL: the kernels' memory is the host's */
	/* One step's windows on the host (pinned), and one micro-batch in the kernels' memory. */
	int32_t *inputs, *targets;                /* [local_batch][T] */
	int32_t *device_inputs, *device_targets;  /* [micro_batch][T] */
	int32_t *first, *positions;               /* [local_batch][T]; NULL: documents are not kept apart */
	int32_t *device_first, *device_positions; /* [micro_batch][T] */
	float *losses;                            /* [local_batch][T] */
	float *device_losses;                     /* [micro_batch][T] */
	struct event *begin_model, *end_model;    /* of a step */
	int32_t *evaluation_tokens;               /* [T + 1] */
	struct mixture_source sources[MIXTURE_LIMIT]; /* of training */
	int source_count;
	struct mixture mixture, evaluation[SPLIT_PARTS]; /* evaluation: where there are windows */
	uint64_t evaluation_windows[SPLIT_PARTS];        /* 0: none */
	struct checkpoint_state state;
	uint64_t epoch[MIXTURE_LIMIT];     /* of the last window trained on, or 0 */
	uint64_t new_epoch[MIXTURE_LIMIT]; /* the same, of the step under way */
	double epochs[MIXTURE_LIMIT];
	int skips; /* in a row */
	uint64_t saved_step;
	bool validated; /* at the present step */
	atomic_bool stop, save_soon;
};

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- what can be said before anything is allocated ---- */

static enum status check_batches(const struct trainer_config *c)
{
	FAIL_IF(c->micro_batch == 0 || c->micro_batch > 1 << 20, STATUS_USAGE,
		"a batch of %" PRIu64 " windows is not possible; give 1 or more", c->micro_batch);
	FAIL_IF(c->global_batch == 0 || c->global_batch % c->micro_batch != 0, STATUS_USAGE,
		"the global batch, %" PRIu64 " windows, is not a multiple of the batch, %" PRIu64,
		c->global_batch, c->micro_batch);
	FAIL_IF(c->global_batch > 1 << 24, STATUS_USAGE,
		"a global batch of %" PRIu64 " windows is not possible; at most 16777216", c->global_batch);
	FAIL_IF(c->window_tokens == 0 || c->window_tokens > (uint64_t)c->model.positions, STATUS_USAGE,
		"windows of %" PRIu64 " tokens do not fit the model's %d positions; "
		"--seq-length is at most --max-position-embeddings",
		c->window_tokens, c->model.positions);
	FAIL_IF(c->train_iters == 0, STATUS_USAGE, "0 iterations train nothing; give 1 or more");
	FAIL_IF(c->eval_interval && !c->eval_iters, STATUS_USAGE,
		"validation on 0 batches is not possible; give --eval-iters 1 or more, or --eval-interval 0");
	FAIL_IF(c->save && c->keep < 1, STATUS_USAGE, "at least the newest checkpoint is kept: --keep 1");
	return STATUS_OK;
}

static int source_count(const struct trainer_config *c)
{
	return c->sources ? c->source_count : 1;
}

static struct trainer_source source_of(const struct trainer_config *c, int i)
{
	return c->sources ? c->sources[i] : (struct trainer_source){c->corpus, 1};
}

static enum status check_corpus(const struct trainer_config *c)
{
	const struct corpus_info *first = corpus_get_info(c->corpus);
	FAIL_IF(source_count(c) < 1 || source_count(c) > MIXTURE_LIMIT, STATUS_USAGE,
		"%d corpora cannot be mixed: give 1 to %d", source_count(c), MIXTURE_LIMIT);
	for (int i = 0; i < source_count(c); i++) {
		struct corpus *corpus = source_of(c, i).corpus;
		const struct corpus_info *info = corpus_get_info(corpus);
		FAIL_IF(info->vocabulary != (uint32_t)c->model.vocabulary, STATUS_MISMATCH,
			"%s: the corpus has a vocabulary of %u ids (%s), the model one of %d; "
			"they need the same tokenizer",
			corpus_directory(corpus), info->vocabulary, info->tokenizer_name,
			c->model.vocabulary);
		FAIL_IF(hash128_compare(info->tokenizer_hash, first->tokenizer_hash) != 0, STATUS_MISMATCH,
			"%s was made with the tokenizer %s, %s with another (%s): corpora that are mixed "
			"need the same one",
			corpus_directory(c->corpus), first->tokenizer_name, corpus_directory(corpus),
			info->tokenizer_name);
	}
	FAIL_IF(strlen(c->split) >= CHECKPOINT_SPLIT, STATUS_USAGE, "the split \"%s\" is too long", c->split);
	struct split_shares shares;
	return split_parse(c->split, &shares);
}

enum status trainer_check(const struct trainer_config *c)
{
	TRY(model_config_check(&c->model));
	TRY(check_batches(c));
	TRY(schedule_check(&c->schedule));
	TRY(optimizer_config_check(&c->optimizer));
	TRY(loss_scale_check(&c->loss_scale));
	return check_corpus(c);
}

static struct model_options options_of(const struct trainer_config *c)
{
	struct model_options options = {.batch = (int)c->micro_batch,
		.sequence = (int)c->window_tokens,
		.training = true,
		.checkpoint_activations = c->checkpoint_activations,
		.seed = c->seed,
		.forward_uses = (int)(c->global_batch / c->micro_batch)};
	return options;
}

enum status trainer_measure(const struct trainer_config *c, struct trainer_memory *out)
{
	struct parameter_table table;
	struct model_options options = options_of(c);
	TRY(model_config_check(&c->model));
	TRY(check_batches(c));
	TRY(parameter_table_open(&c->model, &table));
	uint64_t n = table.elements;
	uint64_t largest = 4 * parameter_span(&table, PARAMETER_WTE);
	parameter_table_close(&table);
	uint64_t T = c->window_tokens;
	*out = (struct trainer_memory){.weights = 4 * n,
		.working = c->precision == DTYPE_F32 ? 0 : dtype_bytes(c->precision) * n,
		.gradients = 4 * n,
		.moments = 8 * n,
		.activations = model_activation_bytes(&c->model, &options, c->precision),
		.batch = T * 20 * c->micro_batch,
		.packing = c->open_device ? 0 : c->packing,
		.data = T * (20 * c->global_batch + 8 * c->micro_batch)};
	uint64_t kernels =
		out->weights + out->working + out->gradients + out->moments + out->activations + out->batch;
	out->host = out->packing + out->data;
	if (c->open_device) {
		out->device = kernels;
		out->host += STAGING_BYTES + largest; /* fresh weights, before they are copied */
	} else {
		out->host += kernels;
	}
	return STATUS_OK;
}

/* ---- opening ---- */

/* A micro-batch in the kernels' memory. */
static enum status take_batch(struct trainer *t)
{
	struct kernels *k = &t->kernels;
	uint64_t bytes = t->config.micro_batch * t->config.window_tokens * 4;
	TRY(k->memory_alloc(k, (void **)&t->device_inputs, bytes, "a batch"));
	TRY(k->memory_alloc(k, (void **)&t->device_targets, bytes, "a batch"));
	TRY(k->memory_alloc(k, (void **)&t->device_losses, bytes, "a batch's losses"));
	if (t->config.reset_attention_mask)
		TRY(k->memory_alloc(k, (void **)&t->device_first, bytes, "a batch's masks"));
	if (t->config.reset_position_ids)
		TRY(k->memory_alloc(k, (void **)&t->device_positions, bytes, "a batch's positions"));
	return STATUS_OK;
}

/* A step on the host: nothing of it is written again while it is still being copied. */
static enum status take_host(struct trainer *t)
{
	struct kernels *k = &t->kernels;
	uint64_t bytes = t->local_batch * t->config.window_tokens * 4;
	TRY(k->host_alloc(k, (void **)&t->inputs, bytes, "a step's windows"));
	TRY(k->host_alloc(k, (void **)&t->targets, bytes, "a step's windows"));
	TRY(k->host_alloc(k, (void **)&t->losses, bytes, "a step's losses"));
	if (t->config.reset_attention_mask)
		TRY(k->host_alloc(k, (void **)&t->first, bytes, "a step's masks"));
	if (t->config.reset_position_ids)
		TRY(k->host_alloc(k, (void **)&t->positions, bytes, "a step's positions"));
	return memory_alloc((void **)&t->evaluation_tokens, t->config.window_tokens + 1, 4, "a window");
}

static enum status take_blocks(struct trainer *t)
{
	struct kernels *k = &t->kernels;
	TRY(k->memory_alloc(k, (void **)&t->master, t->elements * 4, "the weights"));
	t->working = t->master;
	if (k->act != DTYPE_F32)
		TRY(k->memory_alloc(
			k, &t->working, t->elements * dtype_bytes(k->act), "the working weights"));
	TRY(k->memory_alloc(k, &t->gradients, t->elements * dtype_bytes(k->grad), "the gradients"));
	TRY(take_batch(t));
	TRY(take_host(t));
	TRY(k->event_open(k, &t->begin_model));
	TRY(k->event_open(k, &t->end_model));
	return t->config.open_device ? staging_open(k, &t->staging) : STATUS_OK;
}

static const char *part_purpose(enum split_part part)
{
	return part == SPLIT_VALID ? "validation" : "a test at the end";
}

/* Windows until one of the corpora would repeat, `wanted` at most. */
static uint64_t count_evaluation(struct mixture *mixture, uint64_t wanted)
{
	uint64_t windows = 0;
	if (mixture->count == 1)
		windows = sampler_epoch_windows(&mixture->sources[0].sampler, 0, &(uint64_t){0});
	else
		while (windows < wanted && mixture_get(mixture, windows).epoch == 0)
			windows++;
	return windows < wanted ? windows : wanted;
}

/* Those corpora whose part is long enough for a window. */
static enum status open_evaluation(
	struct trainer *t, enum split_part part, struct split_range ranges[MIXTURE_LIMIT][SPLIT_PARTS])
{
	const struct trainer_config *c = &t->config;
	struct mixture_source sources[MIXTURE_LIMIT];
	int count = 0;
	for (int i = 0; i < t->source_count; i++) {
		struct mixture_source *source = &sources[count];
		*source = t->sources[i];
		if (sampler_open(&source->sampler, &ranges[i][part], part, c->window_tokens, c->seed,
			    false) == STATUS_OK)
			count++;
		else if (t->source_count == 1)
			log_warn("%s; going on without %s", error_message(), part_purpose(part));
		else
			log_warn("%s: %s; going on without this corpus in %s",
				corpus_directory(source->corpus), error_message(), part_purpose(part));
	}
	if (!count)
		return STATUS_OK;
	TRY(mixture_open(&t->evaluation[part], sources, count));
	t->evaluation_windows[part] = count_evaluation(&t->evaluation[part], c->eval_iters * c->global_batch);
	return STATUS_OK;
}

/* A training split that is too short for a window is an error; another part is left out. */
static enum status open_samplers(struct trainer *t)
{
	struct split_shares shares;
	struct split_range ranges[MIXTURE_LIMIT][SPLIT_PARTS];
	const struct trainer_config *c = &t->config;
	TRY(split_parse(c->split, &shares));
	t->source_count = source_count(c);
	for (int i = 0; i < t->source_count; i++) {
		struct trainer_source source = source_of(c, i);
		t->sources[i] = (struct mixture_source){.corpus = source.corpus, .share = source.share};
		TRY(split_corpus(source.corpus, &shares, ranges[i]));
		enum status status = sampler_open(&t->sources[i].sampler, &ranges[i][SPLIT_TRAIN],
			SPLIT_TRAIN, c->window_tokens, mixture_seed(c->seed, i), true);
		if (status != STATUS_OK)
			return error_context(status, "%s", corpus_directory(source.corpus));
	}
	TRY(mixture_open(&t->mixture, t->sources, t->source_count));
	for (int part = SPLIT_VALID; part < SPLIT_PARTS && c->eval_interval; part++)
		TRY(open_evaluation(t, (enum split_part)part, ranges));
	return STATUS_OK;
}

static enum status open_loader(struct trainer *t)
{
	const struct trainer_config *c = &t->config;
	struct loader_config loader = {.mixture = &t->mixture,
		.first_ordinal = t->state.ordinal,
		.global_batch = c->global_batch,
		.micro_batch = c->micro_batch,
		.rank = t->ranks.rank,
		.ranks = t->ranks.ranks,
		.threads = LOADER_THREADS,
		.depth = (int)(c->global_batch / c->micro_batch < 64 ? c->global_batch / c->micro_batch + 1
								     : 64)};
	return loader_open(&loader, &t->loader);
}

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
			 "but not bit for bit",
			s->kernels, own->kernels);
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

static enum status resume(struct trainer *t, struct checkpoint *from, const struct checkpoint_state *s)
{
	TRY(check_same_data(t, s));
	TRY(resume_samplers(t, s));
	note_circumstances(t, s);
	TRY(checkpoint_read_moments(from, t->table, t->staging, optimizer_exp_avg(t->optimizer),
		optimizer_exp_avg_sq(t->optimizer)));
	struct checkpoint_state own = t->state;
	t->state = *s;
	memcpy(t->state.precision, own.precision, sizeof own.precision);
	memcpy(t->state.kernels, own.kernels, sizeof own.kernels);
	t->state.threads = own.threads;
	t->state.window_tokens = own.window_tokens;
	t->state.schedule = own.schedule;
	t->state.arguments = own.arguments;
	t->state.loss_scale = own.loss_scale;
	if (strcmp(s->precision, own.precision) == 0)
		t->state.loss_scale = resume_scale(&s->loss_scale, &own.loss_scale);
	t->saved_step = s->step;
	return STATUS_OK;
}

static void fresh_state(struct trainer *t)
{
	const struct trainer_config *c = &t->config;
	struct checkpoint_state *s = &t->state;
	*s = (struct checkpoint_state){.seed = c->seed,
		.window_tokens = c->window_tokens,
		.loss_scale = c->loss_scale,
		.schedule = c->schedule,
		.threads = (uint32_t)c->threads,
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

/* Fresh weights to the device, a parameter at a time. */
static enum status send_fresh_weights(struct trainer *t)
{
	uint64_t largest = 0;
	float *values;
	for (int i = 0; i < t->table->count; i++)
		if (parameter_span(t->table, i) > largest)
			largest = parameter_span(t->table, i);
	TRY(memory_alloc_large((void **)&values, largest * 4, "fresh weights"));
	enum status status = STATUS_OK;
	for (int i = 0; i < t->table->count && status == STATUS_OK; i++) {
		parameter_initialize(&t->config.model, t->table, i, t->config.seed, values);
		status = staging_copy_in(t->staging, t->master + t->table->items[i].offset, values,
			parameter_span(t->table, i) * 4);
	}
	memory_free_large(values, largest * 4);
	return status;
}

static enum status take_weights(struct trainer *t, struct checkpoint *from, bool weights_only)
{
	struct kernels *k = &t->kernels;
	if (from)
		TRY(checkpoint_read_weights(from, t->table, t->staging, t->master));
	else if (t->staging)
		TRY(send_fresh_weights(t));
	else
		parameters_initialize(&t->config.model, t->table, t->config.seed, t->master);
	if (from && !weights_only) {
		const struct checkpoint_state *s = checkpoint_get_state(from);
		FAIL_IF(!s, STATUS_USAGE,
			"%s: is a model without a training state; start from its weights with --finetune",
			checkpoint_path(from));
		TRY(resume(t, from, s));
	}
	if (t->working != (void *)t->master)
		k->convert(k, NULL, t->working, k->act, t->master, DTYPE_F32, t->elements);
	k->weights_changed(k);
	return k->stream_wait(k, NULL);
}

static enum status open_parts(struct trainer *t, struct checkpoint *from, bool weights_only)
{
	struct trainer_config *c = &t->config;
	struct kernels_config kernels = {
		.act = c->precision, .grad = DTYPE_F32, .threads = c->threads, .packing = c->packing};
	struct model_options options = options_of(c);
	TRY(open_samplers(t));
	TRY((c->open_device ? c->open_device : kernels_open_cpu)(&kernels, &t->kernels));
	t->kernels_open = true;
	TRY(model_open(&c->model, &options, &t->kernels, &t->model));
	t->table = model_parameters(t->model);
	t->elements = t->table->elements;
	TRY(take_blocks(t));
	TRY(optimizer_open(&c->optimizer, t->table, &t->kernels, &t->optimizer));
	fresh_state(t);
	TRY(take_weights(t, from, weights_only));
	return open_loader(t);
}

enum status trainer_open(const struct trainer_config *config, const struct trainer_events *events,
	struct checkpoint *from, bool weights_only, struct trainer **out)
{
	struct trainer *t;
	*out = NULL;
	TRY(trainer_check(config));
	TRY(memory_alloc((void **)&t, 1, sizeof *t, "the trainer"));
	t->config = *config;
	t->events = *events;
	t->ranks = collective_open_single();
	t->local_batch = config->global_batch / (uint64_t)t->ranks.ranks;
	enum status status = open_parts(t, from, weights_only);
	if (status != STATUS_OK) {
		trainer_close(t);
		return status;
	}
	*out = t;
	return STATUS_OK;
}

static void free_block(struct trainer *t, void *block, uint64_t bytes)
{
	if (block)
		t->kernels.memory_free(&t->kernels, block, bytes);
}

static void free_host(struct trainer *t, void *block)
{
	if (block)
		t->kernels.host_free(&t->kernels, block, t->local_batch * t->config.window_tokens * 4);
}

static void free_blocks(struct trainer *t)
{
	uint64_t micro = t->config.micro_batch * t->config.window_tokens;
	if (t->working != (void *)t->master)
		free_block(t, t->working, t->elements * dtype_bytes(t->kernels.act));
	free_block(t, t->master, t->elements * 4);
	free_block(t, t->gradients, t->elements * dtype_bytes(t->kernels.grad));
	free_block(t, t->device_inputs, micro * 4);
	free_block(t, t->device_targets, micro * 4);
	free_block(t, t->device_losses, micro * 4);
	free_block(t, t->device_first, micro * 4);
	free_block(t, t->device_positions, micro * 4);
	free_host(t, t->inputs);
	free_host(t, t->targets);
	free_host(t, t->losses);
	free_host(t, t->first);
	free_host(t, t->positions);
	t->kernels.event_close(&t->kernels, t->begin_model);
	t->kernels.event_close(&t->kernels, t->end_model);
	staging_close(t->staging);
}

void trainer_close(struct trainer *t)
{
	if (!t)
		return;
	if (t->loader)
		loader_close(t->loader);
	optimizer_close(t->optimizer);
	if (t->kernels_open)
		free_blocks(t);
	if (t->model)
		model_close(t->model);
	if (t->kernels_open)
		t->kernels.close(&t->kernels);
	t->ranks.close(&t->ranks);
	free(t->evaluation_tokens);
	free(t);
}

/* ---- a step ---- */

/* A window of T + 1 tokens to T inputs and T targets; returns how many targets count. */
static enum status split_window(
	const struct trainer *t, const int32_t *tokens, int32_t *inputs, int32_t *targets, uint64_t *counted)
{
	int32_t vocabulary = t->config.model.vocabulary;
	int32_t eod = (int32_t)corpus_get_info(t->config.corpus)->eod;
	for (uint64_t i = 0; i <= t->config.window_tokens; i++)
		FAIL_IF(tokens[i] < 0 || tokens[i] >= vocabulary, STATUS_CORRUPT,
			"%s: token %d is outside the vocabulary of %d; run `ferry verify` on the corpus",
			corpus_directory(t->config.corpus), tokens[i], vocabulary);
	for (uint64_t i = 0; i < t->config.window_tokens; i++) {
		bool counts = !(t->config.eod_mask_loss && tokens[i] == eod);
		inputs[i] = tokens[i];
		targets[i] = counts ? tokens[i + 1] : -1;
		*counted += counts;
	}
	return STATUS_OK;
}

struct gathered {
	uint64_t counted;       /* targets, over all ranks */
	uint64_t first_ordinal; /* of this rank's first window */
	uint64_t last_epoch;
};

/* All windows of the step: their targets must be counted before the first gradient is scaled. */
static enum status gather(struct trainer *t, struct gathered *out)
{
	uint64_t tokens = t->config.window_tokens, micro = t->config.micro_batch;
	*out = (struct gathered){0};
	for (uint64_t at = 0; at < t->local_batch; at += micro) {
		struct loader_batch batch;
		TRY(loader_next(t->loader, &batch));
		if (at == 0)
			out->first_ordinal = batch.windows[0].ordinal;
		for (uint64_t w = 0; w < micro; w++)
			TRY(split_window(t, batch.tokens + w * (tokens + 1), t->inputs + (at + w) * tokens,
				t->targets + (at + w) * tokens, &out->counted));
		for (uint64_t w = 0; w < micro; w++)
			t->new_epoch[batch.windows[w].source] = batch.windows[w].epoch;
		out->last_epoch = batch.windows[micro - 1].epoch;
	}
	double counted = (double)out->counted;
	TRY(t->ranks.sum(&t->ranks, &counted, 1));
	out->counted = (uint64_t)counted;
	return STATUS_OK;
}

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
static struct model_batch stage(struct trainer *t, uint64_t at, uint64_t windows, uint64_t ordinal)
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
static void fetch_losses(struct trainer *t, uint64_t at, uint64_t windows)
{
	struct kernels *k = &t->kernels;
	uint64_t tokens = t->config.window_tokens;
	k->copy_out(k, NULL, t->losses + at * tokens, t->device_losses, windows * tokens * 4);
}

/* In order. */
static void add_losses(const struct trainer *t, uint64_t windows, double *sum)
{
	for (uint64_t i = 0; i < windows * t->config.window_tokens; i++)
		*sum += (double)t->losses[i];
}

/* Queues all of it, and waits for nothing. */
static enum status forward_backward(struct trainer *t, const struct gathered *g)
{
	struct kernels *k = &t->kernels;
	uint64_t micro = t->config.micro_batch;
	double counted = g->counted ? (double)g->counted : 1;
	float scale = (float)(t->state.loss_scale.scale / counted);
	k->event_record(k, t->begin_model, NULL);
	for (uint64_t at = 0; at < t->local_batch; at += micro) {
		struct model_batch batch = stage(t, at, micro, g->first_ordinal + at);
		TRY(model_train(t->model, t->working, t->gradients, &batch, scale, at > 0, t->device_losses,
			NULL, NULL));
		fetch_losses(t, at, micro);
	}
	k->event_record(k, t->end_model, NULL);
	return STATUS_OK;
}

static enum status sum_losses(struct trainer *t, const struct gathered *g, double *loss)
{
	double sum = 0;
	add_losses(t, t->local_batch, &sum);
	TRY(t->ranks.sum(&t->ranks, &sum, 1));
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

/* The step's only wait is for the norm; the losses have come with it. */
static enum status update(struct trainer *t, const struct gathered *g, struct trainer_step *report)
{
	struct checkpoint_state *s = &t->state;
	struct optimizer_measure measure;
	void *working = t->working == (void *)t->master ? NULL : t->working;
	TRY(optimizer_measure(t->optimizer, t->gradients, s->loss_scale.scale, &measure));
	report->seconds_model = t->kernels.event_seconds(&t->kernels, t->begin_model, t->end_model);
	TRY(sum_losses(t, g, &report->loss));
	report->gradient_norm = measure.norm;
	report->loss_scale = s->loss_scale.scale;
	report->overflow = measure.overflow;
	report->clip = 1;
	if (measure.overflow) {
		TRY(check_skips(t));
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
	return STATUS_OK;
}

/* Where the corpora stand after a step. */
static void tell_positions(struct trainer *t)
{
	struct sampler_position positions[MIXTURE_LIMIT];
	mixture_tell(&t->mixture, t->state.ordinal, positions);
	mixture_epochs(&t->mixture, t->state.ordinal, t->epochs);
	for (int i = 0; i < t->source_count; i++)
		t->state.sources[i].position = positions[i];
}

static void notice_epochs(struct trainer *t)
{
	for (int i = 0; i < t->source_count; i++) {
		if (t->new_epoch[i] > t->epoch[i])
			log_info("iteration %" PRIu64 ": all windows of the training split%s%s have been "
				 "seen; epoch %" PRIu64 " begins, the corpus is repeated",
				t->state.step, t->source_count > 1 ? " of " : "",
				t->source_count > 1 ? corpus_directory(t->sources[i].corpus) : "",
				t->new_epoch[i] + 1);
		if (t->new_epoch[i] > t->epoch[i])
			t->epoch[i] = t->new_epoch[i];
	}
}

static enum status train_step(struct trainer *t)
{
	struct checkpoint_state *s = &t->state;
	struct gathered gathered;
	struct trainer_step report = {0};
	double start = now();
	TRY(gather(t, &gathered));
	double have_data = now();
	TRY(forward_backward(t, &gathered));
	TRY(update(t, &gathered, &report));
	double end = now();
	s->step++;
	s->tokens += gathered.counted;
	s->ordinal += t->config.global_batch;
	tell_positions(t);
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
	notice_epochs(t);
	return t->events.step ? t->events.step(t->events.user, &report) : STATUS_OK;
}

/* ---- validation ---- */

static enum status evaluate_windows(struct trainer *t, struct mixture *mixture, uint64_t first,
	uint64_t windows, double *sum, uint64_t *counted)
{
	uint64_t tokens = t->config.window_tokens;
	for (uint64_t w = 0; w < windows; w++) {
		struct sampler_window window = mixture_get(mixture, first + w);
		TRY(corpus_read(mixture->sources[window.source].corpus, window.first_token, tokens + 1,
			t->evaluation_tokens));
		TRY(split_window(
			t, t->evaluation_tokens, t->inputs + w * tokens, t->targets + w * tokens, counted));
	}
	struct kernels *k = &t->kernels;
	struct model_batch batch = stage(t, 0, windows, first);
	TRY(model_evaluate(t->model, t->working, &batch, t->device_losses));
	fetch_losses(t, 0, windows);
	TRY(k->stream_wait(k, NULL));
	add_losses(t, windows, sum);
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

static enum status validate(struct trainer *t, enum split_part part, bool final, bool *best)
{
	uint64_t all = t->evaluation_windows[part];
	struct trainer_validation report = {
		.step = t->state.step, .part = part, .final = final, .windows = all};
	double sum = 0, start = now();
	if (!all)
		return STATUS_OK;
	for (uint64_t at = 0; at < all; at += t->config.micro_batch) {
		uint64_t windows = all - at < t->config.micro_batch ? all - at : t->config.micro_batch;
		TRY(evaluate_windows(t, &t->evaluation[part], at, windows, &sum, &report.counted));
	}
	report.loss = sum / (report.counted ? (double)report.counted : 1);
	report.perplexity = exp(fmin(20, report.loss));
	if (part == SPLIT_VALID) {
		report.best = judge(t, report.loss);
		*best = report.best;
		t->validated = true;
	}
	report.seconds = now() - start;
	return t->events.validation ? t->events.validation(t->events.user, &report) : STATUS_OK;
}

/* ---- checkpoints ---- */

static enum status save(struct trainer *t, bool best)
{
	struct trainer_config *c = &t->config;
	struct checkpoint_contents contents = {.config = &c->model,
		.table = t->table,
		.staging = t->staging,
		.weights = t->master,
		.exp_avg = optimizer_exp_avg(t->optimizer),
		.exp_avg_sq = optimizer_exp_avg_sq(t->optimizer),
		.eod = corpus_get_info(c->corpus)->eod,
		.files = c->files,
		.file_count = c->file_count,
		.state = &t->state};
	char name[CHECKPOINT_NAME];
	double start = now();
	TRY(t->kernels.stream_wait(&t->kernels, NULL)); /* a failed update is not saved */
	TRY(checkpoint_write(c->save, &contents, name));
	if (best)
		TRY(checkpoint_mark_best(c->save, name));
	TRY(checkpoint_prune(c->save, c->keep));
	t->saved_step = t->state.step;
	struct trainer_saved report = {
		.step = t->state.step, .name = name, .best = best, .seconds = now() - start};
	return t->events.saved ? t->events.saved(t->events.user, &report) : STATUS_OK;
}

static bool at_multiple(uint64_t step, uint64_t interval)
{
	return interval && step % interval == 0;
}

/* Validation and checkpoint that are due after a step. */
static enum status after_step(struct trainer *t)
{
	const struct trainer_config *c = &t->config;
	uint64_t step = t->state.step;
	bool best = false, finished = step >= c->train_iters;
	if (at_multiple(step, c->eval_interval))
		TRY(validate(t, SPLIT_VALID, false, &best));
	if (finished && !t->validated)
		TRY(validate(t, SPLIT_VALID, true, &best));
	if (finished)
		TRY(validate(t, SPLIT_TEST, true, &best));
	if (at_multiple(step, c->exit_interval))
		atomic_store(&t->stop, true);
	bool asked = atomic_exchange(&t->save_soon, false) || atomic_load(&t->stop);
	if (c->save && (best || finished || asked || at_multiple(step, c->save_interval)))
		TRY(save(t, best));
	return STATUS_OK;
}

enum status trainer_run(struct trainer *t)
{
	while (t->state.step < t->config.train_iters && !atomic_load(&t->stop)) {
		TRY(train_step(t));
		TRY(after_step(t));
	}
	TRY(t->kernels.stream_wait(&t->kernels, NULL));
	/* Stopped before the first step, or between the last save and here: nothing of it is lost. */
	if (t->config.save && t->state.step > 0 && t->saved_step != t->state.step)
		return save(t, false);
	return STATUS_OK;
}

void trainer_stop(struct trainer *t)
{
	atomic_store(&t->stop, true);
}

void trainer_save_soon(struct trainer *t)
{
	atomic_store(&t->save_soon, true);
}

/* ---- looking in ---- */

const struct parameter_table *trainer_parameters(const struct trainer *t)
{
	return t->table;
}

const float *trainer_weights(const struct trainer *t)
{
	return t->master;
}

struct optimizer *trainer_optimizer(struct trainer *t)
{
	return t->optimizer;
}

const struct checkpoint_state *trainer_state(const struct trainer *t)
{
	return &t->state;
}

const char *trainer_kernels(const struct trainer *t)
{
	return t->kernels.name;
}

uint64_t trainer_epoch_windows(const struct trainer *t)
{
	uint64_t offset;
	return sampler_epoch_windows(&t->sources[0].sampler, 0, &offset);
}

uint64_t trainer_validation_windows(const struct trainer *t, enum split_part part)
{
	return t->evaluation_windows[part];
}
