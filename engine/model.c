#include "engine/model.h"

#include "common/memory.h"
#include "engine/arena.h"
#include "engine/kept_inputs.h"

#include <assert.h>
#include <stdlib.h>

/* What a layer's backward needs of its forward; R rows. */
struct layer_kept {
	void *x1;                             /* [R][C] residual stream into ln_1 */
	void *qkv;                            /* [R][3C] */
	void *attention;                      /* [R][C] */
	void *x2;                             /* [R][C] residual stream into ln_2 */
	void *pre;                            /* [R][4C] MLP's sums before GELU */
	float *mean1, *rstd1, *mean2, *rstd2; /* [R] */
	float *lse;                           /* [B][H][T] */
};

struct model {
	struct model_config config;
	struct model_options options;
	struct parameter_table table;
	struct kernels *k;
	struct layer_kept *layers; /* [L]; what need not be kept is shared by all */
	void *wide;         /* [R][4C] GELU's output, or what else a layer passes on; gradients of it */
	void *narrow;       /* [R][C] a LayerNorm's output, or a branch's; gradients of it */
	void *dx;           /* [R][C] gradient of the residual stream */
	void *dbranch;      /* [R][C] the same through a branch's dropout; dx itself without dropout */
	float *mean, *rstd; /* [R] ln_f */
	void *arena;
	uint64_t arena_bytes;
	struct kept_inputs *inputs; /* where the layers' x1 are on the host; or NULL */
	model_layer_needed *needed; /* or NULL */
	void *needed_user;
};

/* One call's view: shapes and whether dropout is on. */
struct pass {
	struct model *m;
	const void *weights;
	void *gradients;
	const struct model_batch *batch;
	int B, T, R;
	bool training;
};

/* ---- memory ---- */

/* Bytes of an [R][C] plane at the largest. */
static uint64_t whole_plane(
	const struct model_config *config, const struct model_options *options, enum dtype act)
{
	uint64_t rows = (uint64_t)options->batch * (uint64_t)options->sequence;
	return rows * (uint64_t)config->hidden * dtype_bytes(act);
}

static void carve_layer(
	struct arena *c, const struct model *m, enum dtype act, bool training, struct layer_kept *out)
{
	uint64_t rows = (uint64_t)m->options.batch * (uint64_t)m->options.sequence;
	uint64_t plane = whole_plane(&m->config, &m->options, act);
	out->x1 = arena_carve(c, plane);
	out->x2 = training ? arena_carve(c, plane) : out->x1;
	out->qkv = arena_carve(c, 3 * plane);
	out->attention = arena_carve(c, plane);
	out->pre = arena_carve(c, 4 * plane);
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
	uint64_t rows = (uint64_t)o->batch * (uint64_t)o->sequence;
	uint64_t plane = whole_plane(&m->config, o, act);
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
			inputs[turn] = arena_carve(&c, plane);
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
		m->dx = arena_carve(&c, plane);
		m->dbranch = m->config.hidden_dropout > 0 ? arena_carve(&c, plane) : m->dx;
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
	return STATUS_OK;
}

static enum status take_memory(struct model *m)
{
	const struct model_config *c = &m->config;
	struct kernels *k = m->k;
	TRY(parameter_table_open(c, &m->table));
	TRY(memory_alloc((void **)&m->layers, (size_t)c->layers, sizeof *m->layers, "the model's layers"));
	struct kernel_shapes shapes = {
		.batch = m->options.batch,
		.sequence = m->options.sequence,
		.hidden = c->hidden,
		.heads = c->heads,
		.vocabulary = c->vocabulary,
		.vocabulary_padded = c->vocabulary_padded,
		.forward_uses = m->options.forward_uses > 0 ? m->options.forward_uses : 1,
		.training = m->options.training,
	};
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

/* ---- addresses ---- */

static const void *weight_at(const struct pass *p, int index)
{
	return (const char *)p->weights + p->m->table.items[index].offset * dtype_bytes(p->m->k->act);
}

static const void *weight(const struct pass *p, int layer, enum layer_parameter which)
{
	return weight_at(p, PARAMETER_LAYERS + layer * LAYER_PARAMETERS + (int)which);
}

static void *gradient_at(const struct pass *p, int index)
{
	return (char *)p->gradients + p->m->table.items[index].offset * dtype_bytes(p->m->k->grad);
}

static void *gradient(const struct pass *p, int layer, enum layer_parameter which)
{
	return gradient_at(p, PARAMETER_LAYERS + layer * LAYER_PARAMETERS + (int)which);
}

static int final_layernorm(const struct pass *p)
{
	return PARAMETER_LAYERS + p->m->config.layers * LAYER_PARAMETERS;
}

static size_t plane_bytes(const struct pass *p)
{
	return (size_t)p->R * (size_t)p->m->config.hidden * dtype_bytes(p->m->k->act);
}

/* The n-th [R][C] plane of the wide buffer. */
static void *plane(const struct pass *p, int n)
{
	return (char *)p->m->wide + (size_t)n * plane_bytes(p);
}

static struct dropout dropout_of(const struct pass *p, int layer, enum dropout_site site)
{
	const struct model_config *c = &p->m->config;
	float rate = site == DROPOUT_EMBEDDING   ? c->embedding_dropout
		     : site == DROPOUT_ATTENTION ? c->attention_dropout
						 : c->hidden_dropout;
	struct dropout d = {
		.p = p->training ? rate : 0,
		.seed = p->m->options.seed,
		.window = p->batch->window,
		.layer = (uint32_t)layer,
		.site = site,
	};
	return d;
}

/* ---- forward ---- */

/*
 * One layer. Its input is in + drop(branch), kept as x1; branch NULL: `in` is x1. Leaves GELU's output in the
 * wide buffer or, with `whole`, the MLP's branch in the narrow one.
 */
static void layer_forward(const struct pass *p, int l, const struct layer_kept *kept, const void *in,
	const void *branch, bool whole)
{
	struct model *m = p->m;
	struct kernels *k = m->k;
	int C = m->config.hidden, H = m->config.heads;
	float eps = m->config.layernorm_epsilon;
	void *normal = plane(p, 0), *out = plane(p, 1); /* until GELU's output takes their place */
	struct dropout before = dropout_of(p, l - 1, DROPOUT_MLP_OUTPUT);
	struct dropout probabilities = dropout_of(p, l, DROPOUT_ATTENTION);
	struct dropout after = dropout_of(p, l, DROPOUT_ATTENTION_OUTPUT);

	k->layernorm_forward(k, NULL, normal, kept->x1, kept->mean1, kept->rstd1, in, branch,
		weight(p, l, LN_1_WEIGHT), weight(p, l, LN_1_BIAS), p->B, p->T, C, eps, &before);
	if (m->inputs && p->training && whole)
		kept_inputs_written(m->inputs, l, kept->x1, plane_bytes(p));
	k->linear_forward(k, NULL, kept->qkv, NULL, normal, weight(p, l, ATTN_WEIGHT),
		weight(p, l, ATTN_BIAS), p->R, C, 3 * C);
	k->attention_forward(k, NULL, kept->attention, kept->lse, kept->qkv, p->batch->first, p->B, p->T, H,
		C / H, &probabilities);
	k->linear_forward(k, NULL, out, NULL, kept->attention, weight(p, l, ATTN_PROJ_WEIGHT),
		weight(p, l, ATTN_PROJ_BIAS), p->R, C, C);
	k->layernorm_forward(k, NULL, m->narrow, kept->x2, kept->mean2, kept->rstd2, kept->x1, out,
		weight(p, l, LN_2_WEIGHT), weight(p, l, LN_2_BIAS), p->B, p->T, C, eps, &after);
	k->linear_forward(k, NULL, m->wide, kept->pre, m->narrow, weight(p, l, FC_WEIGHT),
		weight(p, l, FC_BIAS), p->R, C, 4 * C);
	if (whole)
		k->linear_forward(k, NULL, m->narrow, NULL, m->wide, weight(p, l, FC_PROJ_WEIGHT),
			weight(p, l, FC_PROJ_BIAS), p->R, 4 * C, C);
}

static enum status gate(const struct model *m, int layer)
{
	return m->needed ? m->needed(m->needed_user, layer) : STATUS_OK;
}

/* All layers and ln_f: its output is left in plane 0, its input in plane 1. */
static enum status forward(const struct pass *p)
{
	struct model *m = p->m;
	struct kernels *k = m->k;
	int C = m->config.hidden, L = m->config.layers;
	struct dropout embedding = dropout_of(p, 0, DROPOUT_EMBEDDING);
	TRY(gate(m, -1));
	k->embedding_forward(k, NULL, m->layers[0].x1, p->batch->inputs, p->batch->positions,
		weight_at(p, PARAMETER_WTE), weight_at(p, PARAMETER_WPE), p->B, p->T, C, &embedding);
	const void *in = m->layers[0].x1, *branch = NULL;
	for (int l = 0; l < L; l++) {
		const struct layer_kept *kept = &m->layers[p->training ? l : 0];
		TRY(gate(m, l));
		if (m->inputs && p->training)
			kept_inputs_write(m->inputs, l);
		layer_forward(p, l, kept, in, branch, true);
		in = kept->x2;
		branch = m->narrow;
	}
	struct dropout last = dropout_of(p, L - 1, DROPOUT_MLP_OUTPUT);
	int f = final_layernorm(p);
	TRY(gate(m, L));
	k->layernorm_forward(k, NULL, plane(p, 0), plane(p, 1), m->mean, m->rstd, in, branch, weight_at(p, f),
		weight_at(p, f + 1), p->B, p->T, C, m->config.layernorm_epsilon, &last);
	return STATUS_OK;
}

/* ---- backward ---- */

static void recompute_layernorm(const struct pass *p, void *out, const void *x, float *mean, float *rstd,
	const void *gamma, const void *beta)
{
	struct kernels *k = p->m->k;
	struct dropout none = {0};
	k->layernorm_forward(k, NULL, out, NULL, mean, rstd, x, NULL, gamma, beta, p->B, p->T,
		p->m->config.hidden, p->m->config.layernorm_epsilon, &none);
}

/* The gradient that enters a branch: layernorm_backward writes it apart only if a dropout lies between. */
static void *separate_branch(const struct model *m)
{
	return m->dbranch == m->dx ? NULL : m->dbranch;
}

/* GELU's output is in the wide buffer, and gives way to its gradient. From dx (and dbranch) behind the MLP to dx
 * (and dbranch, for the attention's branch) behind the attention. */
static void mlp_backward(const struct pass *p, int l, const struct layer_kept *kept, bool accumulate)
{
	struct model *m = p->m;
	struct kernels *k = m->k;
	int C = m->config.hidden;
	k->linear_backward(k, NULL, m->wide, gradient(p, l, FC_PROJ_WEIGHT), gradient(p, l, FC_PROJ_BIAS),
		m->dbranch, m->wide, weight(p, l, FC_PROJ_WEIGHT), kept->pre, p->R, 4 * C, C, accumulate);
	recompute_layernorm(p, m->narrow, kept->x2, kept->mean2, kept->rstd2, weight(p, l, LN_2_WEIGHT),
		weight(p, l, LN_2_BIAS));
	k->linear_backward(k, NULL, m->narrow, gradient(p, l, FC_WEIGHT), gradient(p, l, FC_BIAS), m->wide,
		m->narrow, weight(p, l, FC_WEIGHT), NULL, p->R, C, 4 * C, accumulate);
	struct dropout drop = dropout_of(p, l, DROPOUT_ATTENTION_OUTPUT);
	k->layernorm_backward(k, NULL, m->dx, m->dx, separate_branch(m), gradient(p, l, LN_2_WEIGHT),
		gradient(p, l, LN_2_BIAS), m->narrow, kept->x2, weight(p, l, LN_2_WEIGHT), kept->mean2,
		kept->rstd2, p->B, p->T, C, &drop, accumulate);
}

/* From dx (and dbranch) behind the attention to dx (and dbranch, for the layer below's MLP) before it. */
static void attention_backward(const struct pass *p, int l, const struct layer_kept *kept, bool accumulate)
{
	struct model *m = p->m;
	struct kernels *k = m->k;
	int C = m->config.hidden, H = m->config.heads;
	void *dqkv = plane(p, 0), *normal = plane(p, 3);
	k->linear_backward(k, NULL, m->narrow, gradient(p, l, ATTN_PROJ_WEIGHT),
		gradient(p, l, ATTN_PROJ_BIAS), m->dbranch, kept->attention, weight(p, l, ATTN_PROJ_WEIGHT),
		NULL, p->R, C, C, accumulate);
	struct dropout probabilities = dropout_of(p, l, DROPOUT_ATTENTION);
	k->attention_backward(k, NULL, dqkv, m->narrow, kept->attention, kept->lse, kept->qkv,
		p->batch->first, p->B, p->T, H, C / H, &probabilities);
	recompute_layernorm(p, normal, kept->x1, kept->mean1, kept->rstd1, weight(p, l, LN_1_WEIGHT),
		weight(p, l, LN_1_BIAS));
	k->linear_backward(k, NULL, m->narrow, gradient(p, l, ATTN_WEIGHT), gradient(p, l, ATTN_BIAS), dqkv,
		normal, weight(p, l, ATTN_WEIGHT), NULL, p->R, C, 3 * C, accumulate);
	/* Layer 0 has no branch below it: the embedding's own backward applies its dropout. */
	struct dropout drop = dropout_of(p, l - 1, DROPOUT_MLP_OUTPUT);
	k->layernorm_backward(k, NULL, m->dx, m->dx, l > 0 ? separate_branch(m) : NULL,
		gradient(p, l, LN_1_WEIGHT), gradient(p, l, LN_1_BIAS), m->narrow, kept->x1,
		weight(p, l, LN_1_WEIGHT), kept->mean1, kept->rstd1, p->B, p->T, C, &drop, accumulate);
}

/* Losses and the gradients of wte and ln_f; dx (and dbranch) become those behind the last layer. */
static void head_backward(const struct pass *p, float scale, bool accumulate, float *losses)
{
	struct model *m = p->m;
	struct kernels *k = m->k;
	const struct model_config *c = &m->config;
	void *normal = plane(p, 0), *x = plane(p, 1);
	k->classifier(k, NULL, losses, m->narrow, gradient_at(p, PARAMETER_WTE), normal,
		weight_at(p, PARAMETER_WTE), p->batch->targets, p->R, c->hidden, c->vocabulary,
		c->vocabulary_padded, scale, accumulate);
	int f = final_layernorm(p);
	struct dropout drop = dropout_of(p, c->layers - 1, DROPOUT_MLP_OUTPUT);
	k->layernorm_backward(k, NULL, m->dx, NULL, separate_branch(m), gradient_at(p, f),
		gradient_at(p, f + 1), m->narrow, x, weight_at(p, f), m->mean, m->rstd, p->B, p->T, c->hidden,
		&drop, accumulate);
}

/* ---- the calls ---- */

static struct pass begin(struct model *m, const void *weights, const struct model_batch *batch)
{
	assert(batch->batch >= 1 && batch->batch <= m->options.batch);
	assert(batch->sequence >= 1 && batch->sequence <= m->options.sequence);
	struct pass p = {
		.m = m,
		.weights = weights,
		.batch = batch,
		.B = batch->batch,
		.T = batch->sequence,
		.R = batch->batch * batch->sequence,
	};
	return p;
}

enum status model_evaluate(
	struct model *m, const void *weights, const struct model_batch *batch, float *losses)
{
	struct pass p = begin(m, weights, batch);
	TRY(forward(&p));
	const struct model_config *c = &m->config;
	m->k->classifier(m->k, NULL, losses, NULL, NULL, plane(&p, 0), weight_at(&p, PARAMETER_WTE),
		batch->targets, p.R, c->hidden, c->vocabulary, c->vocabulary_padded, 1, false);
	return STATUS_OK;
}

enum status model_train(struct model *m, const void *weights, void *gradients,
	const struct model_batch *batch, float scale, bool accumulate, float *losses, model_layer_done *done,
	void *user)
{
	assert(m->options.training);
	const struct model_config *c = &m->config;
	struct pass p = begin(m, weights, batch);
	p.gradients = gradients;
	p.training = true;
	TRY(forward(&p));
	head_backward(&p, scale, accumulate, losses);
	if (done)
		TRY(done(user, c->layers));
	for (int l = c->layers - 1; l >= 0; l--) {
		const struct layer_kept *kept = &m->layers[l];
		if (m->inputs)
			kept_inputs_read(m->inputs, l);
		/* GELU's output into the wide buffer: from its kept input (the last layer's always is), or the long
		 * way. */
		if (m->options.checkpoint_activations && l < c->layers - 1)
			layer_forward(&p, l, kept, kept->x1, NULL, false);
		else
			m->k->gelu_forward(
				m->k, NULL, m->wide, kept->pre, (uint64_t)p.R * 4 * (uint64_t)c->hidden);
		mlp_backward(&p, l, kept, accumulate);
		attention_backward(&p, l, kept, accumulate);
		if (m->inputs)
			kept_inputs_done(m->inputs, l, kept->x1, plane_bytes(&p));
		if (done)
			TRY(done(user, l));
	}
	struct dropout drop = dropout_of(&p, 0, DROPOUT_EMBEDDING);
	m->k->embedding_backward(m->k, NULL, gradient_at(&p, PARAMETER_WTE), gradient_at(&p, PARAMETER_WPE),
		m->dx, batch->inputs, batch->positions, p.B, p.T, c->hidden, c->positions, &drop, accumulate);
	return done ? done(user, -1) : STATUS_OK;
}

enum status model_check(struct model *m)
{
	return m->inputs ? kept_inputs_check(m->inputs) : STATUS_OK;
}

enum status model_logits(
	struct model *m, const void *weights, const struct model_batch *batch, bool all, float *logits)
{
	struct pass p = begin(m, weights, batch);
	TRY(forward(&p));
	const struct model_config *c = &m->config;
	size_t row = (size_t)c->hidden * dtype_bytes(m->k->act);
	char *x = m->wide;
	int rows = p.R;
	if (!all) {
		/* The last position's row of each sequence, side by side. */
		rows = p.B;
		x = m->narrow;
		for (int b = 0; b < p.B; b++)
			m->k->copy(m->k, NULL, x + (size_t)b * row,
				(char *)m->wide + ((size_t)(b + 1) * (size_t)p.T - 1) * row, row);
	}
	m->k->logits(m->k, NULL, logits, x, weight_at(&p, PARAMETER_WTE), rows, c->hidden, c->vocabulary,
		c->vocabulary_padded);
	return STATUS_OK;
}
