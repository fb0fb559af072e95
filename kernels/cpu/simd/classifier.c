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
static float span_exp(float *x, float max, int n)
{
	float sum = 0;
#pragma omp simd reduction(+ : sum)
	for (int i = 0; i < n; i++) {
		x[i] = vector_exp(x[i] - max);
		sum += x[i];
	}
	return sum;
}

/* The loss of one row of logits, which become their gradient (in the activations' type, at the row's start).
 */
static float classify_row(float *row, int target, int V, int VP, float scale, enum dtype act, bool backward)
{
	float loss = 0, factor = 0;
	if (target >= 0) {
		assert(target < V);
		float max = span_max(row, V), hit = row[target];
		float sum = span_exp(row, max, V);
		loss = logf(sum) + (max - hit);
		factor = scale / sum;
	}
	if (!backward)
		return loss;
	if (target >= 0) {
#pragma omp simd
		for (int i = 0; i < V; i++)
			row[i] *= factor;
		row[target] -= scale;
		memset(row + V, 0, (size_t)(VP - V) * sizeof *row);
	} else {
		memset(row, 0, (size_t)VP * sizeof *row);
	}
	for (int i = 0; act != DTYPE_F32 && i < VP; i += 256) { /* the half row trails the f32 row */
		float buffer[256];
		int n = VP - i < 256 ? VP - i : 256;
		memcpy(buffer, row + i, (size_t)n * sizeof *row);
		span_from_f32((uint16_t *)row + i, act, buffer, n);
	}
	return loss;
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
	int64_t d_ld = act == DTYPE_F32 ? VP : 2 * (int64_t)VP;
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
#pragma omp parallel for num_threads(cpu_of(k)->threads) schedule(static)
		for (int r = 0; r < rows; r++)
			loss[from + r] = classify_row(
				logits + (size_t)r * VP, targets[from + r], V, VP, scale, act, dx != NULL);
		if (!dx)
			continue;
		struct gemm_product input = {.m = rows,
			.n = C,
			.k = VP,
			.a = logits,
			.lda = d_ld,
			.b = wte,
			.ldb = C,
			.c = (char *)dx + (size_t)from * C * dtype_bytes(act),
			.ldc = C,
			.in = act,
			.out = act,
			.weight = true};
		gemm_run(k, &input);
		struct gemm_product weight = {.m = VP,
			.n = C,
			.k = rows,
			.a = logits,
			.lda = d_ld,
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
