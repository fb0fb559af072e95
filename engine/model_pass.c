/* A model's passes: forward and backward, of whole micro-batches and in pieces. */
#include "engine/model_parts.h"

#include <assert.h>

/* One call's view, of all its sequences or of a piece of them: shapes and whether dropout is on. */
struct pass {
	struct model *m;
	const void *weights;
	void *gradients;
	const struct model_batch *batch;
	int first, B, T, R; /* sequences from `first` on */
	bool training, accumulate;
};

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

/* The pass's rows of an [R][C] plane of the micro-batch. */
static void *rows_of(const struct pass *p, void *whole)
{
	const struct model *m = p->m;
	size_t row = (size_t)m->config.hidden * dtype_bytes(m->k->act);
	return (char *)whole + (size_t)p->first * (size_t)p->T * row;
}

/* Of what the caller gave for each token, or NULL. */
static const int32_t *tokens_of(const struct pass *p, const int32_t *whole)
{
	return whole ? whole + (size_t)p->first * (size_t)p->T : NULL;
}

static struct layer_kept kept_of(const struct pass *p, int layer)
{
	struct layer_kept kept = p->m->layers[layer];
	kept.x1 = rows_of(p, kept.x1);
	return kept;
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
		.window = p->batch->window + (uint64_t)p->first,
		.layer = (uint32_t)layer,
		.site = site,
	};
	return d;
}

/* ---- forward ---- */

/* Does a layer's pass write all of its kept input at once? Else layer_in_pieces looks after it. */
static bool hands_inputs_over(const struct pass *p)
{
	return p->m->inputs && p->training && !in_pieces(&p->m->options);
}

/* Where a layer's LayerNorms and GELU leave their outputs: to be kept, or until something takes their place. */
static void *normal1_of(const struct pass *p, const struct layer_kept *kept)
{
	return kept->normal1 ? kept->normal1 : plane(p, 0);
}

static void *normal2_of(const struct pass *p, const struct layer_kept *kept)
{
	return kept->normal2 ? kept->normal2 : p->m->narrow;
}

static void *gelu_of(const struct pass *p, const struct layer_kept *kept)
{
	return kept->gelu ? kept->gelu : p->m->wide;
}

/*
 * One layer. Its input is in + drop(branch), kept as x1; branch NULL: `in` is x1. Leaves GELU's output in its
 * place or, with `whole`, the MLP's branch in the narrow buffer.
 */
static void layer_forward(const struct pass *p, int l, const struct layer_kept *kept, const void *in,
	const void *branch, bool whole)
{
	struct model *m = p->m;
	struct kernels *k = m->k;
	int C = m->config.hidden, H = m->config.heads;
	float eps = m->config.layernorm_epsilon;
	void *normal1 = normal1_of(p, kept), *normal2 = normal2_of(p, kept), *gelu = gelu_of(p, kept);
	void *out = plane(p, 1);
	struct dropout before = dropout_of(p, l - 1, DROPOUT_MLP_OUTPUT);
	struct dropout probabilities = dropout_of(p, l, DROPOUT_ATTENTION);
	struct dropout after = dropout_of(p, l, DROPOUT_ATTENTION_OUTPUT);

	k->layernorm_forward(k, NULL, normal1, kept->x1, kept->mean1, kept->rstd1, in, branch,
		weight(p, l, LN_1_WEIGHT), weight(p, l, LN_1_BIAS), p->B, p->T, C, eps, &before);
	if (whole && hands_inputs_over(p))
		kept_inputs_written(m->inputs, l, kept->x1, plane_bytes(p));
	k->linear_forward(k, NULL, kept->qkv, NULL, normal1, weight(p, l, ATTN_WEIGHT),
		weight(p, l, ATTN_BIAS), p->R, C, 3 * C);
	k->attention_forward(k, NULL, kept->attention, kept->lse, kept->qkv, tokens_of(p, p->batch->first),
		p->B, p->T, H, C / H, &probabilities);
	k->linear_forward(k, NULL, out, NULL, kept->attention, weight(p, l, ATTN_PROJ_WEIGHT),
		weight(p, l, ATTN_PROJ_BIAS), p->R, C, C);
	k->layernorm_forward(k, NULL, normal2, kept->x2, kept->mean2, kept->rstd2, kept->x1, out,
		weight(p, l, LN_2_WEIGHT), weight(p, l, LN_2_BIAS), p->B, p->T, C, eps, &after);
	k->linear_forward(k, NULL, gelu, kept->pre, normal2, weight(p, l, FC_WEIGHT), weight(p, l, FC_BIAS),
		p->R, C, 4 * C);
	if (whole)
		k->linear_forward(k, NULL, m->narrow, NULL, gelu, weight(p, l, FC_PROJ_WEIGHT),
			weight(p, l, FC_PROJ_BIAS), p->R, 4 * C, C);
}

static enum status gate(const struct model *m, int layer)
{
	return m->needed ? m->needed(m->needed_user, layer) : STATUS_OK;
}

/* What the layers so far give to the next: its input is in + drop(branch); branch NULL: `in`. */
struct flow {
	const void *in, *branch;
};

static enum status embed(const struct pass *p, struct flow *out)
{
	struct kernels *k = p->m->k;
	void *x1 = rows_of(p, p->m->layers[0].x1);
	struct dropout embedding = dropout_of(p, 0, DROPOUT_EMBEDDING);
	TRY(gate(p->m, -1));
	k->embedding_forward(k, NULL, x1, tokens_of(p, p->batch->inputs), tokens_of(p, p->batch->positions),
		weight_at(p, PARAMETER_WTE), weight_at(p, PARAMETER_WPE), p->B, p->T, p->m->config.hidden,
		&embedding);
	*out = (struct flow){x1, NULL};
	return STATUS_OK;
}

/* One layer of all the pass's sequences at once. */
static enum status pass_layer(const struct pass *p, int l, struct flow *flow)
{
	struct model *m = p->m;
	struct layer_kept kept = kept_of(p, p->training ? l : 0);
	TRY(gate(m, l));
	if (hands_inputs_over(p))
		kept_inputs_write(m->inputs, l);
	layer_forward(p, l, &kept, flow->in, flow->branch, true);
	*flow = (struct flow){kept.x2, m->narrow};
	return STATUS_OK;
}

/* ln_f: its output is left in plane 0, its input in plane 1. */
static void final_forward(const struct pass *p, const struct flow *flow)
{
	struct model *m = p->m;
	struct kernels *k = m->k;
	struct dropout last = dropout_of(p, m->config.layers - 1, DROPOUT_MLP_OUTPUT);
	int f = final_layernorm(p);
	k->layernorm_forward(k, NULL, plane(p, 0), plane(p, 1), m->mean, m->rstd, flow->in, flow->branch,
		weight_at(p, f), weight_at(p, f + 1), p->B, p->T, m->config.hidden,
		m->config.layernorm_epsilon, &last);
}

/* All layers and ln_f, without dropout. */
static enum status forward(const struct pass *p)
{
	struct flow flow;
	TRY(embed(p, &flow));
	for (int l = 0; l < p->m->config.layers; l++)
		TRY(pass_layer(p, l, &flow));
	TRY(gate(p->m, p->m->config.layers));
	final_forward(p, &flow);
	return STATUS_OK;
}

/* ---- pieces ---- */

/* So many of the pass's sequences as a layer takes at a time, from `first` on. */
static struct pass piece_of(const struct pass *p, int first)
{
	struct pass piece = *p;
	int most = piece_sequences(&p->m->options);
	piece.first = first;
	piece.B = p->B - first < most ? p->B - first : most;
	piece.R = piece.B * p->T;
	piece.accumulate = p->accumulate || first > 0;
	return piece;
}

/* The input of layer l + 1: x2 + drop(branch), which its ln_1 adds where nothing comes in between. It is
 * LayerNorm that adds here too; what it makes of the sum is not wanted. */
static void add_branch(const struct pass *p, int l, const struct layer_kept *kept, void *next)
{
	struct model *m = p->m;
	struct kernels *k = m->k;
	struct dropout drop = dropout_of(p, l, DROPOUT_MLP_OUTPUT);
	k->layernorm_forward(k, NULL, plane(p, 0), next, kept->mean2, kept->rstd2, kept->x2, m->narrow,
		weight(p, l, LN_2_WEIGHT), weight(p, l, LN_2_BIAS), p->B, p->T, m->config.hidden,
		m->config.layernorm_epsilon, &drop);
}

/* One layer, below the last, piece by piece; its input is x1. */
static enum status layer_in_pieces(const struct pass *p, int l)
{
	struct model *m = p->m;
	void *next = m->layers[l + 1].x1;
	TRY(gate(m, l));
	if (m->inputs)
		kept_inputs_write(m->inputs, l + 1);
	for (int first = 0; first < p->B; first += piece_sequences(&m->options)) {
		struct pass piece = piece_of(p, first);
		struct layer_kept kept = kept_of(&piece, l);
		layer_forward(&piece, l, &kept, kept.x1, NULL, true);
		add_branch(&piece, l, &kept, rows_of(&piece, next));
	}
	if (m->inputs)
		kept_inputs_written(m->inputs, l + 1, next, plane_bytes(p));
	return STATUS_OK;
}

/* All layers below the last, in training. */
static enum status lower_layers(const struct pass *p, struct flow *flow)
{
	struct model *m = p->m;
	bool pieces = in_pieces(&m->options);
	if (pieces && m->inputs)
		kept_inputs_written(m->inputs, 0, m->layers[0].x1, plane_bytes(p));
	for (int l = 0; l < m->config.layers - 1; l++)
		TRY(pieces ? layer_in_pieces(p, l) : pass_layer(p, l, flow));
	return STATUS_OK;
}

/* ---- backward ---- */

/* `out` is `kept`: it is there. */
static void recompute_layernorm(const struct pass *p, void *out, const void *kept, const void *x, float *mean,
	float *rstd, const void *gamma, const void *beta)
{
	struct kernels *k = p->m->k;
	struct dropout none = {0};
	if (out == kept)
		return;
	k->layernorm_forward(k, NULL, out, NULL, mean, rstd, x, NULL, gamma, beta, p->B, p->T,
		p->m->config.hidden, p->m->config.layernorm_epsilon, &none);
}

static void *dx_of(const struct pass *p)
{
	return rows_of(p, p->m->dx);
}

static void *dbranch_of(const struct pass *p)
{
	return rows_of(p, p->m->dbranch);
}

/* The gradient that enters a branch: layernorm_backward writes it apart only if a dropout lies between. */
static void *separate_branch(const struct pass *p)
{
	return p->m->dbranch == p->m->dx ? NULL : dbranch_of(p);
}

/* GELU's output is in its place; the wide buffer takes its gradient. From dx (and dbranch) behind the MLP to dx
 * (and dbranch, for the attention's branch) behind the attention. */
static void mlp_backward(const struct pass *p, int l, const struct layer_kept *kept)
{
	struct model *m = p->m;
	struct kernels *k = m->k;
	int C = m->config.hidden;
	void *normal = normal2_of(p, kept);
	k->linear_backward(k, NULL, m->wide, gradient(p, l, FC_PROJ_WEIGHT), gradient(p, l, FC_PROJ_BIAS),
		dbranch_of(p), gelu_of(p, kept), weight(p, l, FC_PROJ_WEIGHT), kept->pre, p->R, 4 * C, C,
		p->accumulate);
	recompute_layernorm(p, normal, kept->normal2, kept->x2, kept->mean2, kept->rstd2,
		weight(p, l, LN_2_WEIGHT), weight(p, l, LN_2_BIAS));
	k->linear_backward(k, NULL, m->narrow, gradient(p, l, FC_WEIGHT), gradient(p, l, FC_BIAS), m->wide,
		normal, weight(p, l, FC_WEIGHT), NULL, p->R, C, 4 * C, p->accumulate);
	struct dropout drop = dropout_of(p, l, DROPOUT_ATTENTION_OUTPUT);
	k->layernorm_backward(k, NULL, dx_of(p), dx_of(p), separate_branch(p), gradient(p, l, LN_2_WEIGHT),
		gradient(p, l, LN_2_BIAS), m->narrow, kept->x2, weight(p, l, LN_2_WEIGHT), kept->mean2,
		kept->rstd2, p->B, p->T, C, &drop, p->accumulate);
}

/* From dx (and dbranch) behind the attention to dx (and dbranch, for the layer below's MLP) before it. */
static void attention_backward(const struct pass *p, int l, const struct layer_kept *kept)
{
	struct model *m = p->m;
	struct kernels *k = m->k;
	int C = m->config.hidden, H = m->config.heads;
	void *dqkv = plane(p, 0), *normal = kept->normal1 ? kept->normal1 : plane(p, 3);
	k->linear_backward(k, NULL, m->narrow, gradient(p, l, ATTN_PROJ_WEIGHT),
		gradient(p, l, ATTN_PROJ_BIAS), dbranch_of(p), kept->attention,
		weight(p, l, ATTN_PROJ_WEIGHT), NULL, p->R, C, C, p->accumulate);
	struct dropout probabilities = dropout_of(p, l, DROPOUT_ATTENTION);
	k->attention_backward(k, NULL, dqkv, m->narrow, kept->attention, kept->lse, kept->qkv,
		tokens_of(p, p->batch->first), p->B, p->T, H, C / H, &probabilities);
	recompute_layernorm(p, normal, kept->normal1, kept->x1, kept->mean1, kept->rstd1,
		weight(p, l, LN_1_WEIGHT), weight(p, l, LN_1_BIAS));
	k->linear_backward(k, NULL, m->narrow, gradient(p, l, ATTN_WEIGHT), gradient(p, l, ATTN_BIAS), dqkv,
		normal, weight(p, l, ATTN_WEIGHT), NULL, p->R, C, 3 * C, p->accumulate);
	/* Layer 0 has no branch below it: the embedding's own backward applies its dropout. */
	struct dropout drop = dropout_of(p, l - 1, DROPOUT_MLP_OUTPUT);
	k->layernorm_backward(k, NULL, dx_of(p), dx_of(p), l > 0 ? separate_branch(p) : NULL,
		gradient(p, l, LN_1_WEIGHT), gradient(p, l, LN_1_BIAS), m->narrow, kept->x1,
		weight(p, l, LN_1_WEIGHT), kept->mean1, kept->rstd1, p->B, p->T, C, &drop, p->accumulate);
}

/* GELU's output first, where it is not kept: from its kept input (the last layer's always is), or the long way. */
static void layer_backward(const struct pass *p, int l)
{
	struct model *m = p->m;
	struct layer_kept kept = kept_of(p, l);
	if (m->options.checkpoint_activations && l < m->config.layers - 1)
		layer_forward(p, l, &kept, kept.x1, NULL, false);
	else if (!kept.gelu)
		m->k->gelu_forward(
			m->k, NULL, m->wide, kept.pre, (uint64_t)p->R * 4 * (uint64_t)m->config.hidden);
	mlp_backward(p, l, &kept);
	attention_backward(p, l, &kept);
}

/* Losses and the gradients of wte and ln_f; dx (and dbranch) become those behind the last layer. */
static void head_backward(const struct pass *p, float scale, float *losses)
{
	struct model *m = p->m;
	struct kernels *k = m->k;
	const struct model_config *c = &m->config;
	void *normal = plane(p, 0), *x = plane(p, 1);
	k->classifier(k, NULL, losses + (size_t)p->first * (size_t)p->T, m->narrow,
		gradient_at(p, PARAMETER_WTE), normal, weight_at(p, PARAMETER_WTE),
		tokens_of(p, p->batch->targets), p->R, c->hidden, c->vocabulary, c->vocabulary_padded, scale,
		p->accumulate);
	int f = final_layernorm(p);
	struct dropout drop = dropout_of(p, c->layers - 1, DROPOUT_MLP_OUTPUT);
	k->layernorm_backward(k, NULL, dx_of(p), NULL, separate_branch(p), gradient_at(p, f),
		gradient_at(p, f + 1), m->narrow, x, weight_at(p, f), m->mean, m->rstd, p->B, p->T, c->hidden,
		&drop, p->accumulate);
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
	const struct model_config *c = &m->config;
	for (int first = 0; first < p.B; first += piece_sequences(&m->options)) {
		struct pass piece = piece_of(&p, first);
		TRY(forward(&piece));
		m->k->classifier(m->k, NULL, losses + (size_t)first * (size_t)p.T, NULL, NULL,
			plane(&piece, 0), weight_at(&p, PARAMETER_WTE), tokens_of(&piece, batch->targets),
			piece.R, c->hidden, c->vocabulary, c->vocabulary_padded, 1, false);
	}
	return STATUS_OK;
}

/* The last layer and the head, up and down, piece by piece. */
static enum status turn(const struct pass *p, struct flow *flow, float scale, float *losses,
	model_layer_done *done, void *user)
{
	struct model *m = p->m;
	int last = m->config.layers - 1;
	for (int first = 0; first < p->B; first += piece_sequences(&m->options)) {
		struct pass piece = piece_of(p, first);
		if (in_pieces(&m->options))
			*flow = (struct flow){rows_of(&piece, m->layers[last].x1), NULL};
		TRY(pass_layer(&piece, last, flow));
		TRY(gate(m, last + 1));
		final_forward(&piece, flow);
		head_backward(&piece, scale, losses);
		if (done && first + piece.B == p->B)
			TRY(done(user, last + 1));
		layer_backward(&piece, last);
	}
	return STATUS_OK;
}

static void layer_pieces_backward(const struct pass *p, int l)
{
	if (p->m->inputs)
		kept_inputs_read(p->m->inputs, l);
	for (int first = 0; first < p->B; first += piece_sequences(&p->m->options)) {
		struct pass piece = piece_of(p, first);
		layer_backward(&piece, l);
	}
}

enum status model_train(struct model *m, const void *weights, void *gradients,
	const struct model_batch *batch, float scale, bool accumulate, float *losses, model_layer_done *done,
	void *user)
{
	assert(m->options.training);
	const struct model_config *c = &m->config;
	struct pass p = begin(m, weights, batch);
	struct flow flow;
	p.gradients = gradients;
	p.training = true;
	p.accumulate = accumulate;
	TRY(embed(&p, &flow));
	TRY(lower_layers(&p, &flow));
	TRY(turn(&p, &flow, scale, losses, done, user));
	for (int l = c->layers - 1; l >= 0; l--) {
		if (l < c->layers - 1)
			layer_pieces_backward(&p, l);
		if (m->inputs)
			kept_inputs_done(m->inputs, l, m->layers[l].x1, plane_bytes(&p));
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

/* A piece's, from `logits` on. */
static void piece_logits(const struct pass *p, bool all, float *logits)
{
	struct model *m = p->m;
	const struct model_config *c = &m->config;
	size_t row = (size_t)c->hidden * dtype_bytes(m->k->act);
	char *x = m->wide;
	int rows = p->R;
	if (!all) {
		/* The last position's row of each sequence, side by side. */
		rows = p->B;
		x = m->narrow;
		for (int b = 0; b < p->B; b++)
			m->k->copy(m->k, NULL, x + (size_t)b * row,
				(char *)m->wide + ((size_t)(b + 1) * (size_t)p->T - 1) * row, row);
	}
	m->k->logits(m->k, NULL, logits, x, weight_at(p, PARAMETER_WTE), rows, c->hidden, c->vocabulary,
		c->vocabulary_padded);
}

enum status model_logits(
	struct model *m, const void *weights, const struct model_batch *batch, bool all, float *logits)
{
	struct pass p = begin(m, weights, batch);
	size_t each = (size_t)m->config.vocabulary * (all ? (size_t)p.T : 1);
	for (int first = 0; first < p.B; first += piece_sequences(&m->options)) {
		struct pass piece = piece_of(&p, first);
		TRY(forward(&piece));
		piece_logits(&piece, all, logits + (size_t)first * each);
	}
	return STATUS_OK;
}
