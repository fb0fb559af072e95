/*
 * attention_head.h: one head of one sequence in a packed qkv, as both forms of attention see it (attention.c
 * in f32, attention_bf16.c).
 */
#ifndef KERNELS_CPU_SIMD_ATTENTION_HEAD_H
#define KERNELS_CPU_SIMD_ATTENTION_HEAD_H

#include "kernels/cpu/simd/rows.h"

VECTOR_INLINE int smaller(int a, int b)
{
	return a < b ? a : b;
}

VECTOR_INLINE int round_up(int n, int unit)
{
	return (n + unit - 1) / unit * unit;
}

struct head {
	int T, D, H;
	int W; /* elements from row to row of copies: D rounded up, zeros behind */
	int b, h;
	enum dtype act;
	float scale;
	const int32_t *first; /* of this sequence, or NULL */
	const struct dropout *drop;
	struct dropout_factors factors;
};

/* Head number `task` of all; W is a multiple of `unit`. */
VECTOR_INLINE struct head head_of(struct kernels *k, int task, int unit, int T, int H, int D,
	const int32_t *first, const struct dropout *drop)
{
	struct head w = {.T = T,
		.D = D,
		.H = H,
		.W = round_up(D, unit),
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

/* Row t of part `part` (q, k, v: 0, 1, 2) of qkv: its first element. */
VECTOR_INLINE size_t part_element(const struct head *w, int part, int t)
{
	size_t C = (size_t)w->H * w->D;
	return ((size_t)w->b * w->T + t) * 3 * C + part * C + (size_t)w->h * w->D;
}

VECTOR_INLINE size_t output_element(const struct head *w, int t)
{
	return (((size_t)w->b * w->T + t) * w->H + w->h) * w->D;
}

/* Rounds rows i.. of a part to their place. */
VECTOR_INLINE void write_part(const struct head *w, void *dqkv, int part, const float *from, int i, int rows)
{
	for (int r = 0; r < rows; r++)
		span_from_f32((char *)dqkv + part_element(w, part, i + r) * dtype_bytes(w->act), w->act,
			from + (size_t)r * w->W, w->D);
}

VECTOR_INLINE int first_column(const struct head *w, int i)
{
	return w->first ? w->first[i] : 0;
}

/* The first column that any of rows i..i+rows-1 sees, or one before it: a multiple of `unit`. */
VECTOR_INLINE int columns_from(const struct head *w, int i, int rows, int unit)
{
	int from = first_column(w, i);
	for (int r = 1; r < rows; r++)
		from = smaller(from, first_column(w, i + r));
	return from / unit * unit;
}

/* The dropout's words for columns from..from+n-1 of row i; in `buffer` [DROPOUT_WORDS(n)]. */
VECTOR_INLINE const uint32_t *probability_words(
	const struct head *w, uint32_t *buffer, int i, int from, int n)
{
	uint64_t element = ((uint64_t)w->h * w->T + i) * w->T + from;
	return dropout_words(buffer, w->drop, w->drop->window + (uint64_t)w->b, element, n);
}

VECTOR_INLINE void scale_rows(float *x, int64_t n, float scale)
{
	for (int64_t i = 0; i < n; i++)
		x[i] *= scale;
}

VECTOR_INLINE float row_dot(const float *a, const float *b, int n)
{
	float sum = 0;
#pragma omp simd reduction(+ : sum)
	for (int i = 0; i < n; i++)
		sum += a[i] * b[i];
	return sum;
}

#endif
