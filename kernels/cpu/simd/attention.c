/*
 * Causal attention in blocks of query rows. A thread takes a (sequence, head): it widens the head's keys and
 * values to f32 once, in the layout the products want, and then, for BLOCK query rows at a time, holds the
 * scores of those rows alone ([BLOCK][T]).
 */
#include "kernels/cpu/simd/attention_head.h"
#include "kernels/cpu/simd/block_product.h"

#include <stddef.h>

enum {
	BLOCK = 64,  /* query rows */
	PANEL = 64,  /* columns of a panel of transposed keys or values */
	CHUNK = 256, /* columns of scores that the backward holds */
	SKEW = 16 /* more floats a row of scores, so that a column of them is not in one set of the cache */
};

/* ---- a head's matrices as f32 ---- */

static void read_row(const struct head *w, float *to, const void *from, size_t element)
{
	span_to_f32(to, element_at(from, w->act, element), w->act, w->D);
	for (int d = w->D; d < w->W; d++)
		to[d] = 0;
}

static void read_part(const struct head *w, float *to, const void *qkv, int part, int from, int rows)
{
	for (int i = 0; i < rows; i++)
		read_row(w, to + (size_t)i * w->W, qkv, part_element(w, part, from + i));
}

/* rows [T][W] -> panels [ceil(T / PANEL)][D][PANEL], zeros past T. */
static void transpose(const struct head *w, float *restrict panels, const float *restrict rows)
{
	int T = w->T, D = w->D, W = w->W;
	for (int p = 0; p < T; p += PANEL) {
		int n = smaller(PANEL, T - p);
		float *panel = panels + (size_t)p * D;
		for (int d = 0; d < D; d++) {
			for (int j = 0; j < n; j++)
				panel[d * PANEL + j] = rows[(size_t)(p + j) * W + d];
			for (int j = n; j < PANEL; j++)
				panel[d * PANEL + j] = 0;
		}
	}
}

/* to [rows][lds] = a [rows][W] times the panels from column `from` (a multiple of PANEL) up to `end`. */
static void panel_products(const struct head *w, float *to, int64_t lds, const float *a, const float *panels,
	int rows, int from, int end)
{
	struct block_matrix left = {a, w->W, 1};
	for (int p = from; p < end; p += PANEL)
		block_product(to + (p - from), lds, left, panels + (size_t)p * w->D, PANEL, rows, PANEL, w->D,
			false);
}

/* ---- forward ---- */

/* Scratch of a thread, in floats. */
struct layout {
	size_t keys, values, key_panels, value_panels, dkeys, dvalues, queries, outputs, scores, dscores,
		words, total;
};

static struct layout layout_of(int T, int D, bool training)
{
	size_t columns = (size_t)round_up(T, PANEL), W = (size_t)round_up(D, VECTOR_LANES), at = 0;
	size_t matrix = columns * W, block = BLOCK * W, span = training ? CHUNK : columns;
	struct layout l;
	l.values = at, at += matrix;
	l.key_panels = at, at += matrix;
	l.keys = at, at += training ? matrix : 0;
	l.value_panels = at, at += training ? matrix : 0;
	l.dkeys = at, at += training ? matrix : 0;
	l.dvalues = at, at += training ? matrix : 0;
	l.queries = at, at += 2 * block;
	l.outputs = at, at += 2 * block;
	l.scores = at, at += BLOCK * (span + SKEW);
	l.dscores = at, at += training ? BLOCK * (span + SKEW) : 0;
	l.words = at, at += DROPOUT_WORDS(columns);
	l.total = (at + 1023) / 1024 * 1024;
	return l;
}

size_t SIMD(cpu_attention_scratch)(int threads, int T, int D, bool training)
{
	return (size_t)threads * layout_of(T, D, training).total * sizeof(float);
}

/* Scores of one row become probabilities before division by their sum, which is returned with their maximum.
 */
static float exponentiate_row(float *restrict row, int visible_from, int visible_end, int n, float *max_out)
{
	float max = -INFINITY;
#pragma omp simd reduction(max : max)
	for (int j = visible_from; j < visible_end; j++)
		max = row[j] > max ? row[j] : max;
	float sum = span_exp(row + visible_from, row + visible_from, max, visible_end - visible_from);
	for (int j = 0; j < visible_from; j++)
		row[j] = 0;
	for (int j = visible_end; j < n; j++)
		row[j] = 0;
	*max_out = max;
	return sum;
}

static void forward_block(const struct head *w, const struct layout *l, float *scratch, void *out, float *lse,
	const void *qkv, int i, int rows)
{
	int from = columns_from(w, i, rows, PANEL), end = i + rows, padded = round_up(end - from, PANEL),
	    W = w->W;
	ptrdiff_t stride = padded + SKEW;
	float *q = scratch + l->queries, *o = scratch + l->outputs, *scores = scratch + l->scores;
	float sums[BLOCK];
	read_part(w, q, qkv, 0, i, rows);
	scale_rows(q, (int64_t)rows * W, w->scale);
	panel_products(w, scores, stride, q, scratch + l->key_panels, rows, from, end);
	for (int r = 0; r < rows; r++) {
		float *row = scores + r * stride, max;
		sums[r] =
			exponentiate_row(row, first_column(w, i + r) - from, i + r + 1 - from, padded, &max);
		lse[i + r] = max + logf(sums[r]);
		if (dropout_wanted(w->drop))
			dropout_span(row, row,
				probability_words(
					w, (uint32_t *)(scratch + l->words), i + r, from, end - from),
				w->factors, end - from);
	}
	struct block_matrix p = {scores, stride, 1};
	block_product(o, W, p, scratch + l->values + (size_t)from * W, W, rows, W, end - from, false);
	for (int r = 0; r < rows; r++) {
		scale_rows(o + r * W, W, 1.0f / sums[r]);
		span_from_f32((char *)out + output_element(w, i + r) * dtype_bytes(w->act), w->act, o + r * W,
			w->D);
	}
}

void SIMD(cpu_attention_forward)(struct kernels *k, struct stream *s, void *out, float *lse, const void *qkv,
	const int32_t *first, int B, int T, int H, int D, const struct dropout *drop)
{
	(void)s;
	int threads = cpu_of(k)->threads;
	struct layout l = layout_of(T, D, false);
	float *all = cpu_scratch_get(k, CPU_SCRATCH_OPERATION, (size_t)threads * l.total * sizeof *all);
	if (!all)
		return;
#pragma omp parallel for num_threads(threads) schedule(static)
	for (int task = 0; task < B * H; task++) {
		float *scratch = all + (size_t)CPU_THREAD * l.total;
		struct head w = head_of(k, task, VECTOR_LANES, T, H, D, first, drop);
		read_part(&w, scratch + l.values, qkv, 1, 0, T);
		transpose(&w, scratch + l.key_panels, scratch + l.values);
		read_part(&w, scratch + l.values, qkv, 2, 0, T);
		for (int i = 0; i < T; i += BLOCK)
			forward_block(
				&w, &l, scratch, out, lse + (size_t)task * T, qkv, i, smaller(BLOCK, T - i));
	}
}

/* ---- backward ---- */

/* p = exp(score - lse) where the row sees, 0 elsewhere. */
static void probabilities_row(float *restrict row, int visible_from, int visible_end, int n, float lse)
{
	span_exp(row + visible_from, row + visible_from, lse, visible_end - visible_from);
	for (int j = 0; j < visible_from; j++)
		row[j] = 0;
	for (int j = visible_end; j < n; j++)
		row[j] = 0;
}

/* dscore = p (drop(dp) - delta); then p = drop(p), which the values' gradient takes. */
static void dscores_row(const struct head *w, float *restrict dp, float *restrict p, const uint32_t *words,
	float delta, int n)
{
	struct dropout_factors f = w->factors;
	if (!words) {
#pragma omp simd
		for (int j = 0; j < n; j++)
			dp[j] = p[j] * (dp[j] - delta);
		return;
	}
#pragma omp simd
	for (int j = 0; j < n; j++) {
		float dropped = words[j] >= f.threshold ? dp[j] * f.scale : 0.0f;
		float kept = words[j] >= f.threshold ? p[j] * f.scale : 0.0f;
		dp[j] = p[j] * (dropped - delta);
		p[j] = kept;
	}
}

/* dout of a block, and delta = dout . out of each of its rows. */
static void read_dout(const struct head *w, float *dout_rows, float *delta, const void *dout, const void *out,
	float *buffer, int i, int rows)
{
	for (int r = 0; r < rows; r++) {
		size_t at = output_element(w, i + r);
		read_row(w, dout_rows + r * w->W, dout, at);
		delta[r] = row_dot(dout_rows + r * w->W, row_read(buffer, out, w->act, at, w->D), w->D);
	}
}

struct backward {
	const struct head *w;
	const struct layout *l;
	float *scratch;
	const float *lse; /* of this head */
	float delta[BLOCK];
};

/* Rows i..i+rows-1 against columns from..end-1: their part of every gradient. */
static void backward_chunk(const struct backward *x, int i, int rows, int from, int end)
{
	const struct head *w = x->w;
	const struct layout *l = x->l;
	int W = w->W, n = end - from, padded = round_up(n, PANEL);
	ptrdiff_t stride = CHUNK + SKEW;
	float *q = x->scratch + l->queries, *dq = q + (size_t)BLOCK * W, *o = x->scratch + l->outputs;
	float *p = x->scratch + l->scores, *ds = x->scratch + l->dscores;
	panel_products(w, p, stride, q, x->scratch + l->key_panels, rows, from, end);
	panel_products(w, ds, stride, o, x->scratch + l->value_panels, rows, from, end);
	for (int r = 0; r < rows; r++) {
		float *row = p + r * stride;
		int visible = first_column(w, i + r) - from, visible_end = smaller(i + r + 1 - from, n);
		visible = visible < 0 ? 0 : smaller(visible, padded);
		probabilities_row(row, visible, visible_end, padded, x->lse[i + r]);
		const uint32_t *words = NULL;
		if (dropout_wanted(w->drop))
			words = probability_words(w, (uint32_t *)(x->scratch + l->words), i + r, from, n);
		dscores_row(w, ds + r * stride, row, words, x->delta[r], n);
	}
	struct block_matrix left = {ds, stride, 1};
	size_t at = (size_t)from * W;
	block_product(dq, W, left, x->scratch + l->keys + at, W, rows, W, n, true);
	struct block_matrix ds_transposed = {ds, 1, stride}, p_transposed = {p, 1, stride};
	block_product(x->scratch + l->dkeys + at, W, ds_transposed, q, W, n, W, rows, true);
	block_product(x->scratch + l->dvalues + at, W, p_transposed, o, W, n, W, rows, true);
}

static void backward_block(
	struct backward *x, void *dqkv, const void *dout, const void *out, const void *qkv, int i, int rows)
{
	const struct head *w = x->w;
	int W = w->W, end = i + rows;
	float *q = x->scratch + x->l->queries, *dq = q + (size_t)BLOCK * W;
	read_part(w, q, qkv, 0, i, rows);
	scale_rows(q, (int64_t)rows * W, w->scale);
	read_dout(w, x->scratch + x->l->outputs, x->delta, dout, out, dq, i, rows);
	memset(dq, 0, (size_t)rows * W * sizeof *dq);
	for (int from = columns_from(w, i, rows, PANEL); from < end; from += CHUNK)
		backward_chunk(x, i, rows, from, smaller(from + CHUNK, end));
	scale_rows(dq, (int64_t)rows * W, w->scale);
	write_part(w, dqkv, 0, dq, i, rows);
}

void SIMD(cpu_attention_backward)(struct kernels *k, struct stream *s, void *dqkv, const void *dout,
	const void *out, const float *lse, const void *qkv, const int32_t *first, int B, int T, int H, int D,
	const struct dropout *drop)
{
	(void)s;
	int threads = cpu_of(k)->threads;
	struct layout l = layout_of(T, D, true);
	float *all = cpu_scratch_get(k, CPU_SCRATCH_OPERATION, (size_t)threads * l.total * sizeof *all);
	if (!all)
		return;
#pragma omp parallel for num_threads(threads) schedule(static)
	for (int task = 0; task < B * H; task++) {
		float *scratch = all + (size_t)CPU_THREAD * l.total;
		struct head w = head_of(k, task, VECTOR_LANES, T, H, D, first, drop);
		read_part(&w, scratch + l.keys, qkv, 1, 0, T);
		transpose(&w, scratch + l.key_panels, scratch + l.keys);
		read_part(&w, scratch + l.dvalues, qkv, 2, 0, T);
		transpose(&w, scratch + l.value_panels, scratch + l.dvalues);
		struct backward x = {.w = &w, .l = &l, .scratch = scratch, .lse = lse + (size_t)task * T};
		memset(scratch + l.dkeys, 0, (size_t)T * w.W * sizeof(float));
		memset(scratch + l.dvalues, 0, (size_t)T * w.W * sizeof(float));
		for (int i = 0; i < T; i += BLOCK)
			backward_block(&x, dqkv, dout, out, qkv, i, smaller(BLOCK, T - i));
		write_part(&w, dqkv, 1, scratch + l.dkeys, 0, T);
		write_part(&w, dqkv, 2, scratch + l.dvalues, 0, T);
	}
}

/* ---- one token at a time ---- */

static void decode_head(const struct head *w, float *scores, void *out, void *keys, void *values,
	const void *qkv, int position)
{
	int D = w->D;
	size_t bytes = dtype_bytes(w->act);
	const char *token = element_at(qkv, w->act, part_element(w, 0, 0));
	size_t C = (size_t)w->H * D;
	memcpy((char *)keys + (size_t)position * D * bytes, token + C * bytes, D * bytes);
	memcpy((char *)values + (size_t)position * D * bytes, token + 2 * C * bytes, D * bytes);
	float *q = scores + position + 1, *row = q + D, *sum_row = row + D, max;
	span_to_f32(q, token, w->act, D);
	for (int j = 0; j <= position; j++)
		scores[j] = w->scale * row_dot(q, row_read(row, keys, w->act, (size_t)j * D, D), D);
	float sum = exponentiate_row(scores, 0, position + 1, position + 1, &max);
	memset(sum_row, 0, (size_t)D * sizeof *sum_row);
	for (int j = 0; j <= position; j++) {
		const float *value = row_read(row, values, w->act, (size_t)j * D, D);
#pragma omp simd
		for (int d = 0; d < D; d++)
			sum_row[d] += scores[j] * value[d];
	}
	scale_rows(sum_row, D, 1.0f / sum);
	span_from_f32((char *)out + output_element(w, 0) * bytes, w->act, sum_row, D);
}

void SIMD(cpu_attention_decode)(struct kernels *k, struct stream *s, void *out, void *key_cache,
	void *value_cache, const void *qkv, int position, int B, int P, int H, int D)
{
	(void)s;
	int threads = cpu_of(k)->threads;
	size_t width = (size_t)P + 3 * (size_t)D + 16;
	float *all = cpu_scratch_get(k, CPU_SCRATCH_OPERATION, (size_t)threads * width * sizeof *all);
	if (!all)
		return;
#pragma omp parallel for num_threads(threads) schedule(static)
	for (int task = 0; task < B * H; task++) {
		struct head w = head_of(k, task, VECTOR_LANES, 1, H, D, NULL, NULL);
		size_t cache = (size_t)task * P * D * dtype_bytes(k->act);
		decode_head(&w, all + (size_t)CPU_THREAD * width, out, (char *)key_cache + cache,
			(char *)value_cache + cache, qkv, position);
	}
}
