#include "engine/trainer_parts.h"

#include "common/clock.h"
#include "common/file.h"
#include "common/log.h"
#include "common/memory.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what can be said before anything is allocated ---- */

static int rank_count(const struct trainer_config *c)
{
	return c->ranks ? c->ranks->ranks : 1;
}

/* Windows of a step on each rank. */
static uint64_t local_batch(const struct trainer_config *c)
{
	return c->global_batch / (uint64_t)rank_count(c);
}

/* Windows that a layer takes at a time. */
static uint64_t layer_windows(const struct trainer_config *c)
{
	return c->layer_batch && c->layer_batch < c->micro_batch ? c->layer_batch : c->micro_batch;
}

static enum status check_batches(const struct trainer_config *c)
{
	FAIL_IF(c->micro_batch == 0 || c->micro_batch > 1 << 20, STATUS_USAGE,
		"a batch of %" PRIu64 " windows is not possible; give 1 or more", c->micro_batch);
	int ranks = rank_count(c);
	FAIL_IF(c->global_batch == 0 || c->global_batch % c->micro_batch != 0, STATUS_USAGE,
		"the global batch, %" PRIu64 " windows, is not a multiple of the batch, %" PRIu64,
		c->global_batch, c->micro_batch);
	FAIL_IF(c->global_batch % (c->micro_batch * (uint64_t)ranks) != 0, STATUS_USAGE,
		"the global batch, %" PRIu64 " windows, is not divisible by the batch, %" PRIu64
		", times the ranks, %d; give a --global-batch-size that is a multiple of %" PRIu64,
		c->global_batch, c->micro_batch, ranks, c->micro_batch * (uint64_t)ranks);
	FAIL_IF(c->global_batch > 1 << 24, STATUS_USAGE,
		"a global batch of %" PRIu64 " windows is not possible; at most 16777216", c->global_batch);
	FAIL_IF(c->window_tokens == 0 || c->window_tokens > (uint64_t)c->model.positions, STATUS_USAGE,
		"windows of %" PRIu64 " tokens do not fit the model's %d positions; "
		"--seq-length is at most --max-position-embeddings",
		c->window_tokens, c->model.positions);
	return c->open_device ? kernels_check_gpu(layer_windows(c), c->model.hidden, c->model.heads)
			      : STATUS_OK;
}

static enum status check_length(const struct trainer_config *c)
{
	FAIL_IF(c->train_iters == 0, STATUS_USAGE, "0 iterations train nothing; give 1 or more");
	FAIL_IF(c->eval_interval && !c->eval_iters, STATUS_USAGE,
		"validation on 0 batches is not possible; give --eval-iters 1 or more, or --eval-interval 0");
	FAIL_IF(c->save && c->keep < 1, STATUS_USAGE, "at least the newest checkpoint is kept: --keep 1");
	return STATUS_OK;
}

static enum status check_places(const struct trainer_config *c)
{
	FAIL_IF(c->gradients != DTYPE_F32 && (c->gradients != c->precision || !c->open_device), STATUS_USAGE,
		"gradients in %s need a GPU and weights in the same type; leave --half-gradients out",
		dtype_name(c->gradients));
	FAIL_IF(c->offload && !c->open_device, STATUS_USAGE,
		"the optimizer cannot be offloaded from the host to the host; leave --cpu-optimizer out");
	FAIL_IF(c->offload && !(c->device_share >= 0 && c->device_share < 1), STATUS_USAGE,
		"%g of the optimizer cannot stay on the GPU beside the rest on the host; give from 0 to "
		"below 1",
		c->device_share);
	FAIL_IF(c->layer_batch && !c->checkpoint_activations, STATUS_USAGE,
		"a layer can take %" PRIu64
		" windows at a time only where its input is all that is kept; give "
		"--checkpoint-activations with --layer-batch-size",
		c->layer_batch);
	FAIL_IF(c->inputs_on_host && !(c->open_device && c->checkpoint_activations), STATUS_USAGE,
		"layers' inputs on the host need a GPU and --checkpoint-activations; leave "
		"--cpu-checkpointing out");
	return STATUS_OK;
}

static enum status check_corpus(const struct trainer_config *c)
{
	const struct corpus_info *first = corpus_get_info(c->corpus);
	FAIL_IF(trainer_source_count(c) < 1 || trainer_source_count(c) > MIXTURE_LIMIT, STATUS_USAGE,
		"%d corpora cannot be mixed: give 1 to %d", trainer_source_count(c), MIXTURE_LIMIT);
	for (int i = 0; i < trainer_source_count(c); i++) {
		struct corpus *corpus = trainer_source_of(c, i).corpus;
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
	TRY(check_length(c));
	TRY(check_places(c));
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
		.keep_outputs = c->keep_outputs,
		.inputs_on_host = c->inputs_on_host,
		.layer_batch = layer_windows(c) < c->micro_batch ? (int)layer_windows(c) : 0,
		.seed = c->seed,
		.forward_uses = (int)(local_batch(c) / c->micro_batch)};
	return options;
}

/* What this process has the optimizer's state of; free(*slices). In one process it is a single slice. */
static enum status find_part(const struct trainer_config *c, const struct parameter_table *table,
	struct optimizer_slice **slices, struct optimizer_part *out)
{
	if (rank_count(c) > 1) {
		TRY(shards_cut(table, c->ranks->rank, c->ranks->ranks, slices, &out->count));
	} else {
		out->count = 1;
		TRY(memory_alloc((void **)slices, 1, sizeof **slices, "the optimizer's plan"));
		(*slices)->elements = table->elements;
	}
	out->slices = *slices;
	uint64_t all = optimizer_part_elements(out), share = (uint64_t)(c->device_share * (double)all);
	out->there = c->offload ? share / PARAMETER_ALIGNED * PARAMETER_ALIGNED : all;
	return STATUS_OK;
}

/* Working weights are an array of their own. */
static bool works_apart(const struct trainer_config *c)
{
	return c->precision != DTYPE_F32 || c->offload;
}

/* Elements of the largest parameter. */
static uint64_t largest_span(const struct parameter_table *table)
{
	uint64_t largest = 0;
	for (int i = 0; i < table->count; i++)
		if (parameter_span(table, i) > largest)
			largest = parameter_span(table, i);
	return largest;
}

/* Ranks exchange, and the offload speculates, by what is looked up; where the kernels run beside the host. */
static bool uses_lookups(const struct trainer_config *c)
{
	bool speculates = c->offload && c->offloading.speculation && !c->offloading.delayed;
	return c->open_device && (speculates || rank_count(c) > 1);
}

/* The optimizer's state, and what moves it. */
static enum status measure_state(const struct trainer_config *c, const struct parameter_table *table,
	const struct optimizer_part *part, struct trainer_memory *out)
{
	struct offload_memory m;
	uint64_t all = optimizer_part_elements(part);
	out->weights = 4 * (works_apart(c) ? all : table->elements);
	out->moments = 8 * all;
	if (!c->offload) {
		*(c->open_device ? &out->device : &out->host) += out->weights + out->moments;
		return STATUS_OK;
	}
	TRY(offload_measure(&c->offloading, table, part, c->precision, c->gradients, &m));
	out->away = 12 * (all - part->there);
	out->shadows = m.host - out->away;
	out->pinned = m.pinned;
	out->incoming = m.device + m.staging;
	out->lent = m.lent;
	out->host += m.host + m.pinned;
	out->device += 12 * part->there + out->incoming + out->lent;
	return STATUS_OK;
}

static enum status measure_part(
	const struct trainer_config *c, const struct parameter_table *table, struct trainer_memory *out)
{
	struct optimizer_slice *slices;
	struct optimizer_part part;
	TRY(find_part(c, table, &slices, &part));
	enum status status = measure_state(c, table, &part, out);
	free(slices);
	TRY(status);
	if (rank_count(c) > 1) {
		out->exchange = shards_buffer_bytes(table, rank_count(c), c->open_device) +
				(c->open_device ? 0 : STAGING_BYTES);
		out->exchange_device = shards_device_bytes(table, rank_count(c), c->open_device);
		out->host += out->exchange;
		out->device += out->exchange_device;
	}
	return STATUS_OK;
}

/* In the backward, where it may be by cuDNN: not with dropout, nor with documents apart. */
static uint64_t measure_attention(const struct trainer_config *c)
{
	if (c->model.attention_dropout > 0 || c->reset_attention_mask)
		return 0;
	uint64_t need = kernels_attention_need((int)layer_windows(c), (int)c->window_tokens, c->model.heads);
	return need < c->attention ? need : c->attention;
}

/* What the operations take for themselves (kernels.h). On a GPU validation's logits are f32. */
static uint64_t measure_scratch(const struct trainer_config *c)
{
	if (!c->open_device) {
		struct kernels_config kernels = {.act = c->precision, .threads = c->threads};
		struct model_options options = options_of(c);
		struct kernel_shapes shapes = model_shapes(&c->model, &options);
		return kernels_cpu_scratch(&kernels, &shapes);
	}
	uint64_t row = (uint64_t)c->model.vocabulary_padded * 4, rows = layer_windows(c) * c->window_tokens;
	uint64_t logits = c->logits > 128 * row ? c->logits : 128 * row;
	uint64_t shared = c->logits && rows * row > logits ? logits : rows * row;
	uint64_t attention = measure_attention(c);
	return KERNELS_WORKSPACE + (shared > attention ? shared : attention);
}

enum status trainer_measure(const struct trainer_config *c, struct trainer_memory *out)
{
	struct parameter_table table;
	struct model_options options = options_of(c);
	TRY(model_config_check(&c->model));
	TRY(check_batches(c));
	TRY(parameter_table_open(&c->model, &table));
	uint64_t n = table.elements, T = c->window_tokens;
	uint64_t largest = 4 * largest_span(&table);
	uint64_t looked_up = uses_lookups(c) ? lookups_bytes(&table) : 0;
	*out = (struct trainer_memory){.working = works_apart(c) ? dtype_bytes(c->precision) * n : 0,
		.gradients = dtype_bytes(c->gradients) * n * (c->offload && c->offloading.delayed ? 2 : 1),
		.activations = model_activation_bytes(&c->model, &options, c->precision),
		.inputs = model_pinned_bytes(&c->model, &options, c->precision),
		.batch = T * 20 * c->micro_batch + sizeof(struct gradient_stats) + looked_up,
		.packing = c->open_device ? 0 : c->packing,
		.scratch = measure_scratch(c),
		.data = T * (20 * local_batch(c) + 8 * c->micro_batch) + looked_up};
	enum status status = measure_part(c, &table, out);
	if (!c->ranks || c->ranks->rank == 0)
		out->saving = saver_bytes(&table, c->save_behind);
	parameter_table_close(&table);
	TRY(status);
	out->host += out->saving;
	*(c->open_device ? &out->device : &out->host) +=
		out->working + out->gradients + out->activations + out->batch + out->scratch;
	out->fresh = c->open_device ? STAGING_BYTES + largest : 0;
	out->host += out->packing + out->data + out->inputs + out->fresh;
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
	bool apart = works_apart(&t->config);
	t->master_elements = apart ? t->part.there : t->elements;
	if (t->master_elements)
		TRY(k->memory_alloc(k, (void **)&t->master, t->master_elements * 4, "the weights"));
	t->working = t->master;
	if (apart)
		TRY(k->memory_alloc(
			k, &t->working, t->elements * dtype_bytes(k->act), "the working weights"));
	TRY(k->memory_alloc(k, &t->gradients, t->elements * dtype_bytes(k->grad), "the gradients"));
	if (t->config.offload && t->config.offloading.delayed)
		TRY(k->memory_alloc(k, &t->spare_gradients, t->elements * dtype_bytes(k->grad),
			"the gradients of a delayed update"));
	TRY(take_batch(t));
	TRY(take_host(t));
	TRY(k->event_open(k, &t->begin_model));
	TRY(k->event_open(k, &t->end_model));
	TRY(k->event_open(k, &t->begin_last));
	TRY(k->event_open(k, &t->last_head));
	TRY(k->event_open(k, &t->last_layer));
	return t->config.open_device || t->ranks->ranks > 1 ? staging_open(k, &t->staging) : STATUS_OK;
}

/* Where this process has an array of its part: what is there, and the rest. */
struct places {
	float *kernels, *host;
};

/* Master and moments, in the order of enum shards_array. */
static void find_places(struct trainer *t, struct places out[SHARDS_ARRAYS])
{
	out[SHARDS_MASTER].kernels = t->master;
	out[SHARDS_EXP_AVG].kernels = optimizer_exp_avg(t->optimizer);
	out[SHARDS_EXP_AVG_SQ].kernels = optimizer_exp_avg_sq(t->optimizer);
	out[SHARDS_MASTER].host = t->offload ? offload_master(t->offload) : NULL;
	out[SHARDS_EXP_AVG].host = t->offload ? offload_exp_avg(t->offload) : NULL;
	out[SHARDS_EXP_AVG_SQ].host = t->offload ? offload_exp_avg_sq(t->offload) : NULL;
}

/* What stands for all of the ranks' state. */
static void join_ranks(
	struct trainer *t, const struct places places[SHARDS_ARRAYS], float *all[SHARDS_ARRAYS])
{
	struct staging_store store = shards_store(t->shards);
	for (int i = 0; i < SHARDS_ARRAYS; i++) {
		enum shards_array array = (enum shards_array)i;
		shards_keep(t->shards, array, places[i].kernels,
			array == SHARDS_MASTER && t->working == (void *)t->master);
		if (t->offload)
			shards_keep_rest(t->shards, array, places[i].host, t->part.there);
		all[i] = shards_array(t->shards, array);
	}
	staging_set_store(t->staging, &store);
}

/* Likewise of one process: the kernels' arrays, or the host's with the kernels' part in them. */
static void join_places(
	struct trainer *t, const struct places places[SHARDS_ARRAYS], float *all[SHARDS_ARRAYS])
{
	for (int i = 0; i < SHARDS_ARRAYS; i++) {
		all[i] = t->offload ? places[i].host : places[i].kernels;
		if (t->offload)
			staging_substitute(t->staging, all[i], places[i].kernels, t->part.there * 4);
	}
}

/* The optimizer: where the kernels are, on the host, or a part of it in each; of all, or of this rank's slices. */
static enum status take_optimizer(struct trainer *t)
{
	struct trainer_config *c = &t->config;
	bool several = t->ranks->ranks > 1;
	struct places places[SHARDS_ARRAYS];
	float *all[SHARDS_ARRAYS];
	if (uses_lookups(c))
		TRY(lookups_open(&t->kernels, t->table, t->ranks, &t->lookups));
	TRY(optimizer_open_part(
		&c->optimizer, t->table, &t->part, several ? t->ranks : NULL, &t->kernels, &t->optimizer));
	if (c->offload) {
		TRY(offload_open(&c->offloading, &c->optimizer, t->table, &t->part, &t->kernels, t->working,
			&t->offload));
		model_set_gate(t->model, offload_gate, t->offload);
	}
	find_places(t, places);
	if (several) {
		TRY(shards_open(t->ranks, &t->kernels, t->table, c->open_device, t->lookups, &t->shards));
		TRY(trainer_open_flow(t));
		model_set_gate(t->model, trainer_gate, t);
		join_ranks(t, places, all);
	} else {
		join_places(t, places, all);
	}
	t->all_master = all[SHARDS_MASTER];
	t->all_exp_avg = all[SHARDS_EXP_AVG];
	t->all_exp_avg_sq = all[SHARDS_EXP_AVG_SQ];
	return STATUS_OK;
}

/* Fresh weights to the device, a parameter at a time. */
static enum status send_fresh_weights(struct trainer *t)
{
	uint64_t largest = largest_span(t->table);
	float *values;
	TRY(memory_alloc_large((void **)&values, largest * 4, "fresh weights"));
	enum status status = STATUS_OK;
	for (int i = 0; i < t->table->count && status == STATUS_OK; i++) {
		parameter_initialize(&t->config.model, t->table, i, t->config.seed, values);
		status = staging_copy_in(t->staging, t->all_master + t->table->items[i].offset, values,
			parameter_span(t->table, i) * 4);
	}
	memory_free_large(values, largest * 4);
	return status;
}

static enum status take_weights(struct trainer *t, struct checkpoint *from, bool weights_only)
{
	struct kernels *k = &t->kernels;
	if (from)
		TRY(checkpoint_read_weights(from, t->table, t->staging, t->all_master));
	else if (t->staging)
		TRY(send_fresh_weights(t));
	else
		parameters_initialize(&t->config.model, t->table, t->config.seed, t->all_master);
	if (from && !weights_only) {
		const struct checkpoint_state *s = checkpoint_get_state(from);
		FAIL_IF(!s, STATUS_USAGE,
			"%s: is a model without a training state; start from its weights with --finetune",
			checkpoint_path(from));
		TRY(trainer_resume(t, from, s));
	}
	if (t->shards)
		shards_round(t->shards, t->working);
	else if (t->working != (void *)t->master && t->part.there)
		k->convert(k, NULL, t->working, k->act, t->master, DTYPE_F32, t->part.there);
	if (t->offload)
		TRY(offload_publish(t->offload));
	k->weights_changed(k);
	return k->stream_wait(k, NULL);
}

/* All that a rank does by itself. */
static enum status open_parts(struct trainer *t, struct checkpoint *from, bool weights_only)
{
	struct trainer_config *c = &t->config;
	struct kernels_config kernels = {.act = c->precision,
		.grad = c->gradients,
		.threads = c->threads,
		.device = c->device,
		.packing = c->packing,
		.logits_bytes = c->logits};
	struct model_options options = options_of(c);
	TRY(trainer_open_samplers(t));
	TRY((c->open_device ? c->open_device : kernels_open_cpu)(&kernels, &t->kernels));
	t->kernels_open = true;
	TRY(model_open(&c->model, &options, &t->kernels, &t->model));
	t->table = model_parameters(t->model);
	t->elements = t->table->elements;
	TRY(find_part(c, t->table, &t->slices, &t->part));
	TRY(take_blocks(t));
	TRY(take_optimizer(t));
	if (c->save && t->ranks->rank == 0) {
		struct saver_config saving = {.run = c->save, .keep = c->keep, .behind = c->save_behind};
		TRY(saver_open(&saving, t->table, &t->saver));
	}
	trainer_fresh_state(t);
	TRY(take_weights(t, from, weights_only));
	return trainer_open_loader(t);
}

/* A checkpoint has the choices (kernels.h) of rank 0 alone: where ranks' kernels are alike they are all ranks'. */
static enum status compare_kernels(struct trainer *t)
{
	enum { NAME = sizeof t->kernels.name };
	char own[NAME] = "", (*all)[NAME];
	int other = 1;
	if (t->ranks->ranks == 1 || !t->kernels.choice_get)
		return STATUS_OK;
	snprintf(own, sizeof own, "%s", t->kernels.name);
	TRY(collective_gather(t->ranks, own, sizeof own, (void **)&all));
	while (other < t->ranks->ranks && strcmp(all[other], all[0]) == 0)
		other++;
	if (other < t->ranks->ranks)
		log_info("rank %d computes with \"%s\", rank 0 with \"%s\": a checkpoint records what "
			 "rank 0's chose (algorithms of matrix products, ways of attention), so the run goes "
			 "on from it on the same windows, but perhaps not bit for bit",
			other, all[other], all[0]);
	free(all);
	return STATUS_OK;
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
	t->alone = collective_open_single();
	t->ranks = config->ranks ? config->ranks : &t->alone;
	t->local_batch = local_batch(config);
	enum status status = collective_agree(t->ranks, open_parts(t, from, weights_only));
	if (status == STATUS_OK)
		status = compare_kernels(t);
	if (status == STATUS_OK && t->shards)
		status = shards_connect(t->shards);
	if (status == STATUS_OK && t->shards)
		status = shards_share_all(t->shards, t->working);
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
	free_block(t, t->master, t->master_elements * 4);
	free_block(t, t->gradients, t->elements * dtype_bytes(t->kernels.grad));
	free_block(t, t->spare_gradients, t->elements * dtype_bytes(t->kernels.grad));
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
	t->kernels.event_close(&t->kernels, t->begin_last);
	t->kernels.event_close(&t->kernels, t->last_head);
	t->kernels.event_close(&t->kernels, t->last_layer);
	staging_close(t->staging);
}

void trainer_close(struct trainer *t)
{
	struct error_copy before;
	if (!t)
		return;
	/* What the run failed with stays the message, whatever closing comes upon. */
	error_save(STATUS_OK, &before);
	saver_close(t->saver);
	if (t->kernels_open) /* what is queued must be done before its memory goes; nobody asks how */
		(void)!t->kernels.stream_wait(&t->kernels, NULL);
	if (t->loader)
		loader_close(t->loader);
	offload_close(t->offload);
	optimizer_close(t->optimizer);
	shards_close(t->shards);
	lookups_close(t->lookups);
	if (t->kernels_open)
		trainer_close_flow(t);
	if (t->kernels_open)
		free_blocks(t);
	if (t->model)
		model_close(t->model);
	if (t->kernels_open)
		t->kernels.close(&t->kernels);
	cJSON_Delete(t->state.choices);
	free(t->evaluation_tokens);
	free(t->slices);
	free(t);
	(void)!error_restore(&before);
}

/* ---- checkpoints ---- */

/* All that was queued is done, and a failure of it is told to all ranks; their weights are the same, an update that was
 * delayed in them. */
static enum status settle(struct trainer *t)
{
	enum status status = t->offload ? offload_settle(t->offload) : STATUS_OK;
	if (status == STATUS_OK)
		status = t->kernels.stream_wait(&t->kernels, NULL);
	TRY(collective_agree(t->ranks, status));
	if (!t->shards)
		return STATUS_OK;
	if (t->spare_gradients)
		trainer_weights_due(t);
	return trainer_share_due(t);
}

static enum status begin_checkpoint(struct trainer *t)
{
	struct trainer_config *c = &t->config;
	struct checkpoint_contents contents = {.config = &c->model,
		.table = t->table,
		.staging = t->staging,
		.weights = t->all_master,
		.exp_avg = t->all_exp_avg,
		.exp_avg_sq = t->all_exp_avg_sq,
		.eod = corpus_get_info(c->corpus)->eod,
		.files = c->files,
		.file_count = c->file_count,
		.state = &t->state};
	TRY(trainer_record_choices(t));
	return saver_begin(t->saver, &contents, t->best);
}

/* Rank 0 writes; the others send it what is theirs. */
static enum status gather_checkpoint(struct trainer *t)
{
	if (!t->shards)
		return begin_checkpoint(t);
	return t->ranks->rank == 0 ? shards_dismiss(t->shards, begin_checkpoint(t)) : shards_serve(t->shards);
}

/* The checkpoint that was begun is there, or an error on all ranks. */
static enum status end_save(struct trainer *t)
{
	double start = clock_seconds();
	if (!t->saving)
		return STATUS_OK;
	TRY(collective_agree(t->ranks, t->saver ? saver_end(t->saver) : STATUS_OK));
	char name[CHECKPOINT_NAME];
	double end = clock_seconds();
	checkpoint_name(t->saved_step, name);
	t->saving = false;
	struct trainer_saved report = {.step = t->saved_step,
		.name = name,
		.best = t->best,
		.seconds = end - t->begun,
		.waited = t->config.save_behind ? t->waited + (end - start) : end - t->begun};
	return t->events.saved ? t->events.saved(t->events.user, &report) : STATUS_OK;
}

static enum status save(struct trainer *t, bool best)
{
	TRY(end_save(t));
	t->begun = clock_seconds();
	t->best = best;
	t->saved_step = t->state.step;
	TRY(settle(t)); /* a failed update is not saved */
	TRY(gather_checkpoint(t));
	t->saving = true;
	t->waited = clock_seconds() - t->begun;
	return t->config.save_behind ? STATUS_OK : end_save(t);
}

/* What any rank was asked, by a signal or a caller, all do; and all hear of a checkpoint that rank 0 has written. To save is
 * asked but once; NULL: not yet. */
static enum status hear(struct trainer *t, bool *save_now)
{
	double asked[3] = {atomic_load(&t->stop), save_now && atomic_exchange(&t->save_soon, false),
		t->saver && saver_is_done(t->saver)};
	TRY(collective_maximum(t->ranks, asked, 3));
	t->stopping = asked[0] > 0;
	if (save_now)
		*save_now = asked[1] > 0 || t->stopping;
	return asked[2] > 0 ? end_save(t) : STATUS_OK;
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
	bool best = false, finished = step >= c->train_iters, asked;
	if (at_multiple(step, c->eval_interval))
		TRY(trainer_validate(t, SPLIT_VALID, false, &best));
	if (finished && !t->validated)
		TRY(trainer_validate(t, SPLIT_VALID, true, &best));
	if (finished)
		TRY(trainer_validate(t, SPLIT_TEST, true, &best));
	if (at_multiple(step, c->exit_interval))
		atomic_store(&t->stop, true);
	TRY(hear(t, &asked));
	if (c->save && (best || finished || asked || at_multiple(step, c->save_interval)))
		TRY(save(t, best));
	return STATUS_OK;
}

enum status trainer_run(struct trainer *t)
{
	TRY(hear(t, NULL));
	while (t->state.step < t->config.train_iters && !t->stopping) {
		TRY(trainer_train_step(t));
		TRY(after_step(t));
		TRY(hear(t, NULL));
	}
	TRY(settle(t));
	/* Stopped before the first step, or between the last save and here: nothing of it is lost. */
	if (t->config.save && t->state.step > 0 && t->saved_step != t->state.step)
		TRY(save(t, false));
	return end_save(t);
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
	return t->all_master;
}

const float *trainer_exp_avg(const struct trainer *t)
{
	return t->all_exp_avg;
}

const float *trainer_exp_avg_sq(const struct trainer *t)
{
	return t->all_exp_avg_sq;
}

const struct offload *trainer_offload(const struct trainer *t)
{
	return t->offload;
}

const struct checkpoint_state *trainer_state(const struct trainer *t)
{
	return &t->state;
}

const char *trainer_kernels(const struct trainer *t)
{
	return t->kernels.name;
}

const char *trainer_attention(const struct trainer *t)
{
	return t->kernels.attention;
}

const char *trainer_exchange(const struct trainer *t)
{
	return t->shards ? shards_way(t->shards) : "";
}

uint64_t trainer_validation_windows(const struct trainer *t, enum split_part part)
{
	return t->evaluation_windows[part];
}
