#include "kernels/cpu/gemm.h"
#include "kernels/cpu/simd/rows.h"

#include <assert.h>

static float span_max(const float *x, int n)
{
	float max = -INFINITY;
#pragma omp simd reduction(max : max)
	for (int i = 0; i < n; i++)
		max = x[i] > max ? x[i] : max;
	return max;
}

/* x = exp(x - max); the sum. */
static float row_exp(float *x, float max, int n)
{
	double total = 0; /* over blocks: one f32 sum of 50,257 terms is off by up to 1e-5 where it is not
			     vectorized */
	for (int i = 0; i < n; i += 512)
		total += (double)span_exp(x + i, x + i, max, n - i < 512 ? n - i : 512);
	return (float)total;
}

/* to = row * factor, rounded; `to` is the row's own start or lies in front of it. */
static void scale_row(void *to, enum dtype act, const float *row, float factor, int n)
{
	for (int i = 0; i < n; i += 256) {
		float buffer[256];
		int some = n - i < 256 ? n - i : 256;
#pragma omp simd
		for (int j = 0; j < some; j++)
			buffer[j] = row[i + j] * factor;
		span_from_f32((char *)to + (size_t)i * dtype_bytes(act), act, buffer, some);
	}
}

/* The loss of one row of logits; with `gradient` [VP], theirs is written there. */
static float classify_row(float *row, void *gradient, enum dtype act, int target, int V, int VP, float scale)
{
	if (target < 0) {
		if (gradient)
			memset(gradient, 0, (size_t)VP * dtype_bytes(act));
		return 0;
	}
	assert(target < V);
	float max = span_max(row, V), hit = row[target], sum = row_exp(row, max, V);
	if (gradient) {
		row[target] -= sum; /* times scale / sum: less one scale */
		scale_row(gradient, act, row, scale / sum, V);
		memset((char *)gradient + (size_t)V * dtype_bytes(act), 0,
			(size_t)(VP - V) * dtype_bytes(act));
	}
	return logf(sum) + (max - hit);
}

struct chunk {
	float *logits; /* [rows][VP] */
	float *loss;
	const int32_t *targets;
	int rows, V, VP;
	float scale;
	enum dtype act;
	bool backward;
};

/*
 * Rows from..end-1. Gradients in halves are laid down closely, [rows][VP] from the start of the logits
 * (products are much slower on rows with gaps): row r takes the place of row r/2, which must be done by then.
 */
static void classify_rows(const struct chunk *x, int from, int end, int threads)
{
	(void)threads;
#pragma omp parallel for num_threads(threads) schedule(static)
	for (int r = from; r < end; r++) {
		size_t at = (size_t)r * x->VP;
		void *gradient = x->backward ? (char *)x->logits + at * dtype_bytes(x->act) : NULL;
		x->loss[r] =
			classify_row(x->logits + at, gradient, x->act, x->targets[r], x->V, x->VP, x->scale);
	}
}

static void classify_chunk(const struct chunk *x, int threads)
{
	if (!x->backward || x->act == DTYPE_F32) {
		classify_rows(x, 0, x->rows, threads);
		return;
	}
	for (int from = 0, end = 1; from < x->rows; from = end, end = 2 * end < x->rows ? 2 * end : x->rows)
		classify_rows(x, from, end, threads);
}

void SIMD(cpu_classifier)(struct kernels *k, struct stream *s, float *loss, void *dx, void *dwte,
	const void *x, const void *wte, const int32_t *targets, int R, int C, int V, int VP, float scale,
	bool accumulate)
{
	(void)s;
	enum dtype act = k->act;
	int chunk = cpu_classifier_rows(R, VP);
	float *logits = cpu_scratch_get(k, CPU_SCRATCH_OPERATION, (size_t)chunk * VP * sizeof *logits);
	if (!logits || (dwte && !cpu_gradients_are_f32(k)))
		return;
	for (int from = 0; from < R; from += chunk) {
		int rows = R - from < chunk ? R - from : chunk;
		const void *x_rows = element_at(x, act, (size_t)from * C);
		struct gemm_product head = {.m = rows,
			.n = VP,
			.k = C,
			.a = x_rows,
			.lda = C,
			.b = wte,
			.ldb = C,
			.b_transposed = true,
			.c = logits,
			.ldc = VP,
			.in = act,
			.out = DTYPE_F32,
			.weight = true};
		gemm_run(k, &head);
		struct chunk part = {
			logits, loss + from, targets + from, rows, V, VP, scale, act, dx != NULL};
		classify_chunk(&part, cpu_of(k)->threads);
		if (!dx)
			continue;
		struct gemm_product input = {.m = rows,
			.n = C,
			.k = VP,
			.a = logits,
			.lda = VP,
			.b = wte,
			.ldb = C,
			.c = (char *)dx + (size_t)from * C * dtype_bytes(act),
			.ldc = C,
			.in = act,
			.out = act,
			.weight = true,
			.uses = (R + chunk - 1) / chunk};
		gemm_run(k, &input);
		struct gemm_product weight = {.m = VP,
			.n = C,
			.k = rows,
			.a = logits,
			.lda = VP,
			.a_transposed = true,
			.b = x_rows,
			.ldb = C,
			.c = dwte,
			.ldc = C,
			.in = act,
			.out = DTYPE_F32,
			.accumulate = accumulate || from > 0};
		if (dwte)
			gemm_run(k, &weight);
	}
}
