#include "engine/decoder.h"

#include "common/memory.h"
#include "engine/arena.h"

#include <stdlib.h>
#include <string.h>

/* Rows that a long input goes through the matrix products at a time. */
enum { FEED_ROWS = 64 };

struct decoder {
	struct model_config config;
	struct parameter_table table;
	struct kernels *k;
	int batch, rows;        /* rows: the most at once, a multiple of batch */
	char *keys, *values;    /* [L][batch][H][P][D] */
	void *x, *normal, *out; /* [rows][C] each */
	void *wide, *pre;       /* [rows][4C] each; q|k|v too */
	float *mean, *rstd;     /* [rows] */
	float *logits;          /* [batch][V], the kernels' memory */
	int32_t *tokens;        /* [rows], the kernels' memory */
	int32_t *positions;     /* [rows], the kernels' memory */
	void *arena;
	uint64_t arena_bytes;
	/* What goes to and from the kernels' memory, in memory that their copies may use. */
	int32_t *host_tokens;    /* [rows] */
	int32_t *host_positions; /* [rows] */
	float *host_logits;      /* [batch][V] */
	void *host;
	uint64_t host_bytes;
};

static uint64_t lay_out(struct decoder *d, char *base)
{
	const struct model_config *c = &d->config;
	struct arena a = {base, 0};
	uint64_t element = dtype_bytes(d->k->act), rows = (uint64_t)d->rows;
	uint64_t plane = rows * (uint64_t)c->hidden * element;
	uint64_t cache = (uint64_t)c->layers * (uint64_t)d->batch * (uint64_t)c->positions *
			 (uint64_t)c->hidden * element;
	d->keys = arena_carve(&a, cache);
	d->values = arena_carve(&a, cache);
	d->x = arena_carve(&a, plane);
	d->normal = arena_carve(&a, plane);
	d->out = arena_carve(&a, plane);
	d->wide = arena_carve(&a, 4 * plane);
	d->pre = arena_carve(&a, 4 * plane);
	d->mean = arena_carve(&a, rows * sizeof(float));
	d->rstd = arena_carve(&a, rows * sizeof(float));
	d->logits = arena_carve(&a, (uint64_t)d->batch * (uint64_t)c->vocabulary * sizeof(float));
	d->tokens = arena_carve(&a, rows * sizeof(int32_t));
	d->positions = arena_carve(&a, rows * sizeof(int32_t));
	return a.at;
}

static uint64_t lay_out_host(struct decoder *d, char *base)
{
	struct arena a = {base, 0};
	d->host_tokens = arena_carve(&a, (uint64_t)d->rows * sizeof(int32_t));
	d->host_positions = arena_carve(&a, (uint64_t)d->rows * sizeof(int32_t));
	d->host_logits = arena_carve(&a, (uint64_t)d->batch * (uint64_t)d->config.vocabulary * sizeof(float));
	return a.at;
}

static enum status take_memory(struct decoder *d)
{
	const struct model_config *c = &d->config;
	TRY(parameter_table_open(c, &d->table));
	d->host_bytes = lay_out_host(d, NULL);
	TRY(d->k->host_alloc(d->k, &d->host, d->host_bytes, "the decoder's tokens and logits"));
	lay_out_host(d, d->host);
	struct kernel_shapes shapes = {
		.batch = d->batch,
		.sequence = d->rows / d->batch,
		.hidden = c->hidden,
		.heads = c->heads,
		.vocabulary = c->vocabulary,
		.vocabulary_padded = c->vocabulary_padded,
		.forward_uses = c->positions,
		.training = false,
	};
	TRY(d->k->reserve(d->k, &shapes));
	d->arena_bytes = lay_out(d, NULL);
	TRY(d->k->memory_alloc(d->k, &d->arena, d->arena_bytes, "the key/value cache"));
	lay_out(d, d->arena);
	return STATUS_OK;
}

enum status decoder_open(
	const struct model_config *config, struct kernels *kernels, int batch, struct decoder **out)
{
	*out = NULL;
	TRY(model_config_check(config));
	FAIL_IF(batch < 1 || batch > 4096, STATUS_USAGE, "%d sequences at once; 1 to 4,096 can be generated",
		batch);
	struct decoder *d;
	TRY(memory_alloc((void **)&d, 1, sizeof *d, "a decoder"));
	d->config = *config;
	d->k = kernels;
	d->batch = batch;
	d->rows = batch > FEED_ROWS ? batch : FEED_ROWS / batch * batch;
	enum status status = take_memory(d);
	if (status != STATUS_OK) {
		decoder_close(d);
		return status;
	}
	*out = d;
	return STATUS_OK;
}

void decoder_close(struct decoder *d)
{
	if (!d)
		return;
	if (d->arena)
		d->k->memory_free(d->k, d->arena, d->arena_bytes);
	parameter_table_close(&d->table);
	if (d->host)
		d->k->host_free(d->k, d->host, d->host_bytes);
	free(d);
}

const struct model_config *decoder_config(const struct decoder *decoder)
{
	return &decoder->config;
}

/* ---- forward ---- */

static const void *weight_at(const struct decoder *d, const void *weights, int index)
{
	return (const char *)weights + d->table.items[index].offset * dtype_bytes(d->k->act);
}

/* Position after position, each a row a sequence: row t * batch + b. */
static void attend(struct decoder *d, int layer, int steps, int position)
{
	const struct model_config *c = &d->config;
	size_t element = dtype_bytes(d->k->act), C = (size_t)c->hidden;
	size_t cache = (size_t)layer * (size_t)d->batch * (size_t)c->positions * C * element;
	for (int t = 0; t < steps; t++) {
		size_t row = (size_t)t * (size_t)d->batch * C * element;
		d->k->attention_decode(d->k, NULL, (char *)d->out + row, d->keys + cache, d->values + cache,
			(const char *)d->wide + 3 * row, position + t, d->batch, c->positions, c->heads,
			c->hidden / c->heads);
	}
}

/* x += attention(LN1(x)), x += MLP(LN2(x)); in both the sum is taken by the LayerNorm that follows. */
static void feed_layer(
	struct decoder *d, const void *weights, int l, int steps, int position, const void *branch)
{
	struct kernels *k = d->k;
	int C = d->config.hidden, R = steps * d->batch, first = PARAMETER_LAYERS + l * LAYER_PARAMETERS;
	const void *w[LAYER_PARAMETERS];
	for (int i = 0; i < LAYER_PARAMETERS; i++)
		w[i] = weight_at(d, weights, first + i);
	struct dropout none = {0};
	float eps = d->config.layernorm_epsilon;
	k->layernorm_forward(k, NULL, d->normal, d->x, d->mean, d->rstd, d->x, branch, w[LN_1_WEIGHT],
		w[LN_1_BIAS], R, 1, C, eps, &none);
	k->linear_forward(k, NULL, d->wide, NULL, d->normal, w[ATTN_WEIGHT], w[ATTN_BIAS], R, C, 3 * C);
	attend(d, l, steps, position);
	k->linear_forward(k, NULL, d->normal, NULL, d->out, w[ATTN_PROJ_WEIGHT], w[ATTN_PROJ_BIAS], R, C, C);
	k->layernorm_forward(k, NULL, d->out, d->x, d->mean, d->rstd, d->x, d->normal, w[LN_2_WEIGHT],
		w[LN_2_BIAS], R, 1, C, eps, &none);
	k->linear_forward(k, NULL, d->wide, d->pre, d->out, w[FC_WEIGHT], w[FC_BIAS], R, C, 4 * C);
	k->linear_forward(k, NULL, d->out, NULL, d->wide, w[FC_PROJ_WEIGHT], w[FC_PROJ_BIAS], R, 4 * C, C);
}

/* At most d->rows rows; the logits of the last position if wanted. */
static void feed_chunk(struct decoder *d, const void *weights, const int32_t *tokens, int steps, int position,
	bool want_logits)
{
	struct kernels *k = d->k;
	const struct model_config *c = &d->config;
	int R = steps * d->batch, C = c->hidden;
	struct dropout none = {0};
	for (int r = 0; r < R; r++) {
		d->host_positions[r] = position + r / d->batch;
		d->host_tokens[r] = tokens[r];
	}
	k->copy_in(k, NULL, d->positions, d->host_positions, (size_t)R * sizeof *d->host_positions);
	k->copy_in(k, NULL, d->tokens, d->host_tokens, (size_t)R * sizeof *d->host_tokens);
	k->embedding_forward(k, NULL, d->x, d->tokens, d->positions, weight_at(d, weights, PARAMETER_WTE),
		weight_at(d, weights, PARAMETER_WPE), R, 1, C, &none);
	for (int l = 0; l < c->layers; l++)
		feed_layer(d, weights, l, steps, position, l ? d->out : NULL);
	if (!want_logits)
		return;
	int f = PARAMETER_LAYERS + c->layers * LAYER_PARAMETERS;
	k->layernorm_forward(k, NULL, d->normal, d->x, d->mean, d->rstd, d->x, d->out,
		weight_at(d, weights, f), weight_at(d, weights, f + 1), R, 1, C, c->layernorm_epsilon, &none);
	size_t last = (size_t)(steps - 1) * (size_t)d->batch * (size_t)C * dtype_bytes(k->act);
	k->logits(k, NULL, d->logits, (const char *)d->normal + last, weight_at(d, weights, PARAMETER_WTE),
		d->batch, C, c->vocabulary, c->vocabulary_padded);
}

enum status decoder_feed(
	struct decoder *d, const void *weights, const int32_t *tokens, int count, int position, float *logits)
{
	FAIL_IF(count < 1 || position < 0 || count > d->config.positions - position, STATUS_USAGE,
		"%d tokens at position %d; the model has %d positions", count, position, d->config.positions);
	int chunk = d->rows / d->batch;
	for (int at = 0; at < count; at += chunk) {
		int steps = count - at < chunk ? count - at : chunk;
		bool last = at + steps == count;
		feed_chunk(d, weights, tokens + (size_t)at * (size_t)d->batch, steps, position + at,
			last && logits);
		/* The host's tokens and positions are written again by the next chunk. */
		TRY(d->k->stream_wait(d->k, NULL));
	}
	if (!logits)
		return STATUS_OK;
	size_t bytes = (size_t)d->batch * (size_t)d->config.vocabulary * sizeof *logits;
	d->k->copy_out(d->k, NULL, d->host_logits, d->logits, bytes);
	TRY(d->k->stream_wait(d->k, NULL));
	memcpy(logits, d->host_logits, bytes);
	return STATUS_OK;
}
