/* A model's memory: where each buffer is, opening and closing. */
#include "engine/model_parts.h"

#include "common/memory.h"
#include "engine/arena.h"

#include <stdlib.h>

/* ---- memory ---- */

/* Rows of a piece. */
static uint64_t piece_rows(const struct model_options *o)
{
	return (uint64_t)piece_sequences(o) * (uint64_t)o->sequence;
}

/* Bytes of an [R][C] plane of the micro-batch at the largest. */
static uint64_t whole_plane(
	const struct model_config *config, const struct model_options *options, enum dtype act)
{
	uint64_t rows = (uint64_t)options->batch * (uint64_t)options->sequence;
	return rows * (uint64_t)config->hidden * dtype_bytes(act);
}

static void carve_layer(
	struct arena *c, const struct model *m, enum dtype act, bool training, struct layer_kept *out)
{
	uint64_t rows = piece_rows(&m->options);
	uint64_t plane = rows * (uint64_t)m->config.hidden * dtype_bytes(act);
	out->x1 = arena_carve(c, whole_plane(&m->config, &m->options, act));
	out->x2 = training ? arena_carve(c, plane) : out->x1;
	out->qkv = arena_carve(c, 3 * plane);
	out->attention = arena_carve(c, plane);
	out->pre = arena_carve(c, 4 * plane);
	out->normal1 = out->normal2 = out->gelu = NULL;
	if (training && m->options.keep_outputs) {
		out->normal1 = arena_carve(c, plane);
		out->normal2 = arena_carve(c, plane);
		out->gelu = arena_carve(c, 4 * plane);
	}
	out->mean1 = arena_carve(c, rows * sizeof(float));
	out->rstd1 = arena_carve(c, rows * sizeof(float));
	out->mean2 = arena_carve(c, rows * sizeof(float));
	out->rstd2 = arena_carve(c, rows * sizeof(float));
	out->lse = arena_carve(c, rows * (uint64_t)m->config.heads * sizeof(float));
}

/* Gives every buffer of `m` its place (m->layers too, unless NULL) and returns the bytes needed. */
static uint64_t lay_out(struct model *m, enum dtype act, char *base)
{
	const struct model_options *o = &m->options;
	struct arena c = {base, 0};
	uint64_t rows = piece_rows(o);
	uint64_t whole = whole_plane(&m->config, o, act),
		 plane = rows * (uint64_t)m->config.hidden * dtype_bytes(act);
	bool share = !o->training || o->checkpoint_activations;
	struct layer_kept shared;
	void *inputs[KEPT_BUFFERS] = {NULL}; /* the layers' x1, in turn where they are on the host */
	if (share)
		carve_layer(&c, m, act, o->training, &shared);
	for (int l = 0; l < m->config.layers; l++) {
		struct layer_kept kept;
		if (share)
			kept = shared;
		else
			carve_layer(&c, m, act, true, &kept);
		int turn = l % KEPT_BUFFERS;
		if (l == 0)
			inputs[turn] = kept.x1;
		else if (share && o->training && (!o->inputs_on_host || l < KEPT_BUFFERS))
			inputs[turn] = arena_carve(&c, whole);
		if (share && o->training)
			kept.x1 = inputs[turn];
		if (m->layers)
			m->layers[l] = kept;
	}
	m->wide = arena_carve(&c, 4 * plane);
	m->narrow = arena_carve(&c, plane);
	m->mean = arena_carve(&c, rows * sizeof(float));
	m->rstd = arena_carve(&c, rows * sizeof(float));
	m->dx = m->dbranch = NULL;
	if (o->training) {
		m->dx = arena_carve(&c, whole);
		m->dbranch = m->config.hidden_dropout > 0 ? arena_carve(&c, whole) : m->dx;
	}
	return c.at;
}

uint64_t model_activation_bytes(
	const struct model_config *config, const struct model_options *options, enum dtype act)
{
	struct model m = {.config = *config, .options = *options};
	return lay_out(&m, act, NULL);
}

uint64_t model_pinned_bytes(
	const struct model_config *config, const struct model_options *options, enum dtype act)
{
	return options->inputs_on_host ? kept_inputs_pinned(config->layers, whole_plane(config, options, act))
				       : 0;
}

static enum status check_options(const struct model_config *config, const struct model_options *o)
{
	FAIL_IF(o->batch < 1 || o->sequence < 1, STATUS_USAGE,
		"a micro-batch of %d sequences of %d tokens; both must be at least 1", o->batch, o->sequence);
	FAIL_IF(o->sequence > config->positions, STATUS_USAGE,
		"sequences of %d tokens in a model of %d positions; make --seq-length smaller or "
		"--max-position-embeddings larger",
		o->sequence, config->positions);
	FAIL_IF((uint64_t)o->batch * (uint64_t)o->sequence > 1 << 24, STATUS_USAGE,
		"a micro-batch of %d sequences of %d tokens; at most 16,777,216 tokens fit into one (use a "
		"smaller "
		"--batch-size and let --global-batch-size accumulate)",
		o->batch, o->sequence);
	FAIL_IF(o->inputs_on_host && !(o->training && o->checkpoint_activations), STATUS_USAGE,
		"layers' inputs can only be on the host where they are all that is kept; give "
		"--checkpoint-activations with --cpu-checkpointing");
	FAIL_IF(o->keep_outputs && o->checkpoint_activations, STATUS_USAGE,
		"a layer's outputs cannot be kept where its input is all that is");
	FAIL_IF(in_pieces(o) && !(o->training && o->checkpoint_activations), STATUS_USAGE,
		"a layer can take %d of %d sequences at a time only where its input is all that is kept; "
		"give "
		"--checkpoint-activations with --layer-batch-size",
		o->layer_batch, o->batch);
	return STATUS_OK;
}

struct kernel_shapes model_shapes(const struct model_config *c, const struct model_options *o)
{
	return (struct kernel_shapes){
		.batch = o->batch,
		.sequence = o->sequence,
		.hidden = c->hidden,
		.heads = c->heads,
		.vocabulary = c->vocabulary,
		.vocabulary_padded = c->vocabulary_padded,
		.forward_uses = o->forward_uses > 0 ? o->forward_uses : 1,
		.training = o->training,
	};
}

static enum status take_memory(struct model *m)
{
	const struct model_config *c = &m->config;
	struct kernels *k = m->k;
	TRY(parameter_table_open(c, &m->table));
	TRY(memory_alloc((void **)&m->layers, (size_t)c->layers, sizeof *m->layers, "the model's layers"));
	struct kernel_shapes shapes = model_shapes(c, &m->options);
	TRY(k->reserve(k, &shapes));
	m->arena_bytes = lay_out(m, k->act, NULL);
	TRY(k->memory_alloc(k, &m->arena, m->arena_bytes, "activations"));
	lay_out(m, k->act, m->arena);
	if (!m->options.inputs_on_host)
		return STATUS_OK;
	return kept_inputs_open(k, c->layers, whole_plane(c, &m->options, k->act), &m->inputs);
}

enum status model_open(const struct model_config *config, const struct model_options *options,
	struct kernels *kernels, struct model **out)
{
	*out = NULL;
	TRY(model_config_check(config));
	TRY(check_options(config, options));
	struct model *m;
	TRY(memory_alloc((void **)&m, 1, sizeof *m, "a model"));
	m->config = *config;
	m->options = *options;
	m->k = kernels;
	enum status status = take_memory(m);
	if (status != STATUS_OK) {
		model_close(m);
		return status;
	}
	*out = m;
	return STATUS_OK;
}

void model_close(struct model *m)
{
	if (!m)
		return;
	kept_inputs_close(m->inputs); /* before the buffers that it copies */
	if (m->arena)
		m->k->memory_free(m->k, m->arena, m->arena_bytes);
	parameter_table_close(&m->table);
	free(m->layers);
	free(m);
}

const struct parameter_table *model_parameters(const struct model *model)
{
	return &model->table;
}

void model_set_gate(struct model *m, model_layer_needed *needed, void *user)
{
	m->needed = needed;
	m->needed_user = user;
}
