#include "kernels/cpu/gemm.h"
#include "kernels/cpu/simd/rows.h"

enum { SPAN = 1024 };

static int64_t smaller(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

void SIMD(cpu_gelu_forward)(struct kernels *k, struct stream *s, void *out, const void *pre, uint64_t count)
{
	(void)s;
	enum dtype act = k->act;
	int64_t n = (int64_t)count;
#pragma omp parallel for num_threads(cpu_of(k)->threads) schedule(static)
	for (int64_t i = 0; i < n; i += SPAN) {
		float in_row[SPAN], out_row[SPAN];
		int64_t some = smaller(SPAN, n - i);
		const float *x = row_read(in_row, pre, act, (size_t)i, some);
		float *y = row_place(out_row, out, act, (size_t)i);
		span_gelu(y, x, (int)some);
		row_write(out, act, (size_t)i, y, some);
	}
}

/* d *= gelu'(pre) */
static void gelu_backward(struct kernels *k, void *d, const void *pre, int64_t n)
{
	enum dtype act = k->act;
#pragma omp parallel for num_threads(cpu_of(k)->threads) schedule(static)
	for (int64_t i = 0; i < n; i += SPAN) {
		float pre_row[SPAN], row[SPAN];
		int64_t some = smaller(SPAN, n - i);
		const float *x = row_read(pre_row, pre, act, (size_t)i, some);
		float *y = row;
		span_to_f32(y, element_at(d, act, (size_t)i), act, some);
		span_gelu_slope(y, x, (int)some);
		row_write(d, act, (size_t)i, y, some);
	}
}

/* Columns are divided among the threads: each sum is taken in order of rows. */
static void column_sums(struct kernels *k, float *sums, const void *rows, int R, int N, bool accumulate)
{
	enum dtype act = k->act;
	int pieces = (N + SPAN / 2 - 1) / (SPAN / 2);
#pragma omp parallel for num_threads(cpu_of(k)->threads) schedule(static)
	for (int piece = 0; piece < pieces; piece++) {
		float row[SPAN / 2], total[SPAN / 2] = {0};
		int from = piece * (SPAN / 2), n = (int)smaller(SPAN / 2, N - from);
		for (int r = 0; r < R; r++) {
			const float *x = row_read(row, rows, act, (size_t)r * N + from, n);
#pragma omp simd
			for (int i = 0; i < n; i++)
				total[i] += x[i];
		}
		for (int i = 0; i < n; i++)
			sums[from + i] = accumulate ? sums[from + i] + total[i] : total[i];
	}
}

void SIMD(cpu_linear_forward)(struct kernels *k, struct stream *s, void *out, void *pre, const void *in,
	const void *w, const void *bias, int R, int K, int N)
{
	struct gemm_product product = {.m = R,
		.n = N,
		.k = K,
		.a = in,
		.lda = K,
		.b = w,
		.ldb = N,
		.c = pre ? pre : out,
		.ldc = N,
		.in = k->act,
		.out = k->act,
		.bias = bias,
		.weight = true};
	gemm_run(k, &product);
	if (pre)
		SIMD(cpu_gelu_forward)(k, s, out, pre, (uint64_t)R * N);
}

void SIMD(cpu_linear_backward)(struct kernels *k, struct stream *s, void *din, void *dw, void *dbias,
	const void *dout, const void *in, const void *w, const void *pre, int R, int K, int N,
	bool accumulate)
{
	(void)s;
	if (!cpu_gradients_are_f32(k))
		return;
	struct gemm_product weight = {.m = K,
		.n = N,
		.k = R,
		.a = in,
		.lda = K,
		.a_transposed = true,
		.b = dout,
		.ldb = N,
		.c = dw,
		.ldc = N,
		.in = k->act,
		.out = DTYPE_F32,
		.accumulate = accumulate};
	gemm_run(k, &weight);
	column_sums(k, dbias, dout, R, N, accumulate);
	if (!din)
		return;
	struct gemm_product input = {.m = R,
		.n = K,
		.k = N,
		.a = dout,
		.lda = N,
		.b = w,
		.ldb = N,
		.b_transposed = true,
		.c = din,
		.ldc = K,
		.in = k->act,
		.out = k->act,
		.weight = true};
	gemm_run(k, &input);
	if (pre)
		gelu_backward(k, din, pre, (int64_t)R * K);
}

void SIMD(cpu_logits)(struct kernels *k, struct stream *s, float *out, const void *x, const void *wte, int R,
	int C, int V, int VP)
{
	(void)s, (void)VP;
	struct gemm_product product = {.m = R,
		.n = V,
		.k = C,
		.a = x,
		.lda = C,
		.b = wte,
		.ldb = C,
		.b_transposed = true,
		.c = out,
		.ldc = V,
		.in = k->act,
		.out = DTYPE_F32,
		.weight = true};
	gemm_run(k, &product);
}
