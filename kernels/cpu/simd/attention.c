/*
 * Causal attention in blocks of query rows. A thread takes a (sequence, head): it widens the head's keys and
 * values to f32 once, in the layout the products want, and then, for BLOCK query rows at a time, holds the
 * scores of those rows alone ([BLOCK][T]).
 */
#include "kernels/cpu/simd/rows.h"

#include <stddef.h>

enum { BLOCK = 64, PANEL = 64 }; /* query rows; columns of a panel of transposed keys or values */

static int smaller(int a, int b)
{
	return a < b ? a : b;
}

static int round_up(int n, int unit)
{
	return (n + unit - 1) / unit * unit;
}

/* ---- products of small f32 matrices ---- */

struct block_matrix {
	const float *at;
	ptrdiff_t row, column; /* element (i, j) is at[i * row + j * column] */
};

/* c [m][n] = or += a [m][k] b [k][n] */
static void block_product(float *c, int64_t ldc, struct block_matrix a, const float *b, int64_t ldb, int m,
	int n, int k, bool add)
{
	for (int i = 0; i < m; i++) {
		float *row = c + i * ldc;
		if (!add)
			memset(row, 0, (size_t)n * sizeof *row);
		for (int l = 0; l < k; l++) {
			float factor = a.at[i * a.row + l * a.column];
			const float *from = b + l * ldb;
#pragma omp simd
			for (int j = 0; j < n; j++)
				row[j] = VECTOR_FMA(factor, from[j], row[j]);
		}
	}
}

/* ---- a head's matrices as f32 ---- */

struct head {
	int T, D, H;
	int b, h;
	enum dtype act;
	float scale;
	const int32_t *first; /* of this sequence, or NULL */
	const struct dropout *drop;
	struct dropout_factors factors;
};

/* Rows [T][D] of part `part` (q, k, v: 0, 1, 2) of qkv. */
static size_t part_element(const struct head *w, int part, int t)
{
	size_t C = (size_t)w->H * w->D;
	return ((size_t)w->b * w->T + t) * 3 * C + part * C + (size_t)w->h * w->D;
}

static size_t output_element(const struct head *w, int t)
{
	return (((size_t)w->b * w->T + t) * w->H + w->h) * w->D;
}

static void read_part(const struct head *w, float *to, const void *qkv, int part, int from, int rows)
{
	for (int i = 0; i < rows; i++)
		span_to_f32(to + (size_t)i * w->D, element_at(qkv, w->act, part_element(w, part, from + i)),
			w->act, w->D);
}

/* rows [T][D] -> panels [ceil(T / PANEL)][D][PANEL], zeros past T. */
static void transpose(float *panels, const float *rows, int T, int D)
{
	for (int p = 0; p < T; p += PANEL) {
		int n = smaller(PANEL, T - p);
		float *panel = panels + (size_t)p * D;
		for (int d = 0; d < D; d++) {
			for (int j = 0; j < n; j++)
				panel[d * PANEL + j] = rows[(size_t)(p + j) * D + d];
			for (int j = n; j < PANEL; j++)
				panel[d * PANEL + j] = 0;
		}
	}
}

/* to [rows][lds] = a [rows][D] times the panels from column `from` (a multiple of PANEL) up to `end`. */
static void panel_products(const struct head *w, float *to, int64_t lds, const float *a, const float *panels,
	int rows, int from, int end)
{
	struct block_matrix left = {a, w->D, 1};
	for (int p = from; p < end; p += PANEL)
		block_product(to + (p - from), lds, left, panels + (size_t)p * w->D, PANEL, rows, PANEL, w->D,
			false);
}

static int first_column(const struct head *w, int i)
{
	return w->first ? w->first[i] : 0;
}

/* The columns that rows i..i+rows-1 see: from (a multiple of PANEL) to end. */
static int columns_from(const struct head *w, int i, int rows)
{
	int from = first_column(w, i);
	for (int r = 1; r < rows; r++)
		from = smaller(from, first_column(w, i + r));
	return from / PANEL * PANEL;
}

static const uint32_t *probability_words(const struct head *w, uint32_t *buffer, int i, int from, int n)
{
	uint64_t element = ((uint64_t)w->h * w->T + i) * w->T + from;
	return dropout_words(buffer, w->drop, w->drop->window + (uint64_t)w->b, element, n);
}

/* ---- forward ---- */

/* Scratch of a thread, in floats. */
struct layout {
	size_t keys, values, key_panels, value_panels, dkeys, dvalues, queries, outputs, scores, dscores,
		words, total;
};

static struct layout layout_of(int T, int D, bool training)
{
	size_t columns = (size_t)round_up(T, PANEL), matrix = columns * D, block = (size_t)BLOCK * D, at = 0;
	struct layout l;
	l.values = at, at += matrix;
	l.key_panels = at, at += matrix;
	l.keys = at, at += training ? matrix : 0;
	l.value_panels = at, at += training ? matrix : 0;
	l.dkeys = at, at += training ? matrix : 0;
	l.dvalues = at, at += training ? matrix : 0;
	l.queries = at, at += 2 * block;
	l.outputs = at, at += 2 * block;
	l.scores = at, at += BLOCK * columns;
	l.dscores = at, at += training ? BLOCK * columns : 0;
	l.words = at, at += DROPOUT_WORDS(columns);
	l.total = (at + 1023) / 1024 * 1024 + 16; /* not all threads on the same cache sets */
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
	float max = -INFINITY, sum = 0;
#pragma omp simd reduction(max : max)
	for (int j = visible_from; j < visible_end; j++)
		max = row[j] > max ? row[j] : max;
#pragma omp simd reduction(+ : sum)
	for (int j = visible_from; j < visible_end; j++) {
		row[j] = vector_exp(row[j] - max);
		sum += row[j];
	}
	for (int j = 0; j < visible_from; j++)
		row[j] = 0;
	for (int j = visible_end; j < n; j++)
		row[j] = 0;
	*max_out = max;
	return sum;
}

static void scale_rows(float *x, int64_t n, float scale)
{
	for (int64_t i = 0; i < n; i++)
		x[i] *= scale;
}

static void forward_block(const struct head *w, const struct layout *l, float *scratch, void *out, float *lse,
	const void *qkv, int i, int rows)
{
	int from = columns_from(w, i, rows), end = i + rows, padded = round_up(end - from, PANEL);
	float *q = scratch + l->queries, *o = scratch + l->outputs, *scores = scratch + l->scores;
	float sums[BLOCK];
	read_part(w, q, qkv, 0, i, rows);
	scale_rows(q, (int64_t)rows * w->D, w->scale);
	panel_products(w, scores, padded, q, scratch + l->key_panels, rows, from, end);
	for (int r = 0; r < rows; r++) {
		float *row = scores + (size_t)r * padded, max;
		sums[r] =
			exponentiate_row(row, first_column(w, i + r) - from, i + r + 1 - from, padded, &max);
		lse[i + r] = max + logf(sums[r]);
		if (dropout_wanted(w->drop))
			dropout_span(row, row,
				probability_words(
					w, (uint32_t *)(scratch + l->words), i + r, from, end - from),
				w->factors, end - from);
	}
	struct block_matrix p = {scores, padded, 1};
	block_product(
		o, w->D, p, scratch + l->values + (size_t)from * w->D, w->D, rows, w->D, end - from, false);
	for (int r = 0; r < rows; r++) {
		scale_rows(o + r * w->D, w->D, 1.0f / sums[r]);
		span_from_f32((char *)out + output_element(w, i + r) * dtype_bytes(w->act), w->act,
			o + r * w->D, w->D);
	}
}

static struct head head_of(
	struct kernels *k, int task, int T, int H, int D, const int32_t *first, const struct dropout *drop)
{
	struct head w = {.T = T,
		.D = D,
		.H = H,
		.b = task / H,
		.h = task % H,
		.act = k->act,
		.scale = 1.0f / sqrtf((float)D),
		.drop = drop};
	if (first)
		w.first = first + (size_t)w.b * T;
	if (dropout_wanted(drop))
		w.factors = dropout_factors_of(drop);
	return w;
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
		struct head w = head_of(k, task, T, H, D, first, drop);
		read_part(&w, scratch + l.values, qkv, 1, 0, T);
		transpose(scratch + l.key_panels, scratch + l.values, T, D);
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
#pragma omp simd
	for (int j = visible_from; j < visible_end; j++)
		row[j] = vector_exp(row[j] - lse);
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

static float row_dot(const float *a, const float *b, int n)
{
	float sum = 0;
#pragma omp simd reduction(+ : sum)
	for (int i = 0; i < n; i++)
		sum += a[i] * b[i];
	return sum;
}

/* dout of a block, and delta = dout . out of each of its rows. */
static void read_dout(const struct head *w, float *dout_rows, float *delta, const void *dout, const void *out,
	float *buffer, int i, int rows)
{
	for (int r = 0; r < rows; r++) {
		size_t at = output_element(w, i + r);
		span_to_f32(dout_rows + r * w->D, element_at(dout, w->act, at), w->act, w->D);
		delta[r] = row_dot(dout_rows + r * w->D, row_read(buffer, out, w->act, at, w->D), w->D);
	}
}

static void write_part(const struct head *w, void *dqkv, int part, const float *from, int i, int rows)
{
	for (int r = 0; r < rows; r++)
		span_from_f32((char *)dqkv + part_element(w, part, i + r) * dtype_bytes(w->act), w->act,
			from + (size_t)r * w->D, w->D);
}

static void backward_block(const struct head *w, const struct layout *l, float *scratch, void *dqkv,
	const void *dout, const void *out, const float *lse, const void *qkv, int i, int rows)
{
	int D = w->D, from = columns_from(w, i, rows), end = i + rows, padded = round_up(end - from, PANEL);
	float *q = scratch + l->queries, *dq = q + (size_t)BLOCK * D, *o = scratch + l->outputs;
	float *p = scratch + l->scores, *ds = scratch + l->dscores, delta[BLOCK];
	read_part(w, q, qkv, 0, i, rows);
	scale_rows(q, (int64_t)rows * D, w->scale);
	read_dout(w, o, delta, dout, out, dq, i, rows);
	panel_products(w, p, padded, q, scratch + l->key_panels, rows, from, end);
	panel_products(w, ds, padded, o, scratch + l->value_panels, rows, from, end);
	for (int r = 0; r < rows; r++) {
		float *row = p + (size_t)r * padded;
		probabilities_row(row, first_column(w, i + r) - from, i + r + 1 - from, padded, lse[i + r]);
		const uint32_t *words = NULL;
		if (dropout_wanted(w->drop))
			words = probability_words(
				w, (uint32_t *)(scratch + l->words), i + r, from, end - from);
		dscores_row(w, ds + (size_t)r * padded, row, words, delta[r], end - from);
	}
	struct block_matrix left = {ds, padded, 1};
	size_t at = (size_t)from * D;
	block_product(dq, D, left, scratch + l->keys + at, D, rows, D, end - from, false);
	scale_rows(dq, (int64_t)rows * D, w->scale);
	write_part(w, dqkv, 0, dq, i, rows);
	struct block_matrix ds_transposed = {ds, 1, padded}, p_transposed = {p, 1, padded};
	block_product(scratch + l->dkeys + at, D, ds_transposed, q, D, end - from, D, rows, true);
	block_product(scratch + l->dvalues + at, D, p_transposed, o, D, end - from, D, rows, true);
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
		struct head w = head_of(k, task, T, H, D, first, drop);
		read_part(&w, scratch + l.keys, qkv, 1, 0, T);
		transpose(scratch + l.key_panels, scratch + l.keys, T, D);
		read_part(&w, scratch + l.dvalues, qkv, 2, 0, T);
		transpose(scratch + l.value_panels, scratch + l.dvalues, T, D);
		memset(scratch + l.dkeys, 0, (size_t)T * D * sizeof(float));
		memset(scratch + l.dvalues, 0, (size_t)T * D * sizeof(float));
		for (int i = 0; i < T; i += BLOCK)
			backward_block(&w, &l, scratch, dqkv, dout, out, lse + (size_t)task * T, qkv, i,
				smaller(BLOCK, T - i));
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
		struct head w = head_of(k, task, 1, H, D, NULL, NULL);
		size_t cache = (size_t)task * P * D * dtype_bytes(k->act);
		decode_head(&w, all + (size_t)CPU_THREAD * width, out, (char *)key_cache + cache,
			(char *)value_cache + cache, qkv, position);
	}
}
