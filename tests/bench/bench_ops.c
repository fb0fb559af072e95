/*
 * bench_ops [fp32|bf16|fp16] [reference|124m|gpt2-medium] [BxT] [threads] [packing MiB] [uses]: each
 * operation of a training step at a model's shapes: median milliseconds of a call, calls a step, share of the
 * step, and for products the rate and its share of the processor's multiply-add peak.
 */
#include "common/memory.h"
#include "kernels/kernels.h"
#include "tests/bench/median.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __x86_64__
#include <immintrin.h>
#endif

enum { MOST = 15 };
static const double least_seconds = 0.6;

static clockid_t the_clock = CLOCK_MONOTONIC;

static double now(void)
{
	struct timespec t;
	clock_gettime(the_clock, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- the peak ---- */

#ifdef __x86_64__
#define ACCUMULATORS 12
__attribute__((target("avx512f,avx512bf16"), optimize("unroll-loops"))) static float spin_bf16(long rounds)
{
	__m512 sums[ACCUMULATORS];
	__m512bh one = (__m512bh)_mm512_set1_epi16(0x3f80);
	for (int i = 0; i < ACCUMULATORS; i++)
		sums[i] = _mm512_setzero_ps();
	for (long r = 0; r < rounds; r++)
#pragma GCC unroll 12
		for (int i = 0; i < ACCUMULATORS; i++)
			sums[i] = _mm512_dpbf16_ps(sums[i], one, one);
	for (int i = 1; i < ACCUMULATORS; i++)
		sums[0] = _mm512_add_ps(sums[0], sums[i]);
	return _mm512_reduce_add_ps(sums[0]);
}

__attribute__((target("avx512f"))) static float spin_f32(long rounds)
{
	__m512 sums[ACCUMULATORS], one = _mm512_set1_ps(1.0f);
	for (int i = 0; i < ACCUMULATORS; i++)
		sums[i] = _mm512_setzero_ps();
	for (long r = 0; r < rounds; r++)
#pragma GCC unroll 12
		for (int i = 0; i < ACCUMULATORS; i++)
			sums[i] = _mm512_fmadd_ps(sums[i], one, one);
	for (int i = 1; i < ACCUMULATORS; i++)
		sums[0] = _mm512_add_ps(sums[0], sums[i]);
	return _mm512_reduce_add_ps(sums[0]);
}

/* GFLOP/s of all threads with nothing but multiply-adds; 0 where this program has no loop for it. */
static double peak(enum dtype type, int threads)
{
	bool there =
		type == DTYPE_BF16 ? __builtin_cpu_supports("avx512bf16") : __builtin_cpu_supports("avx512f");
	long rounds = 4000000;
	volatile float sink = 0;
	if (!there)
		return 0;
	double best = 0;
	for (int i = 0; i < 5; i++) {
		double start = now();
#pragma omp parallel for num_threads(threads)
		for (int thread = 0; thread < threads; thread++)
			sink = type == DTYPE_BF16 ? spin_bf16(rounds) : spin_f32(rounds);
		double flops =
			(double)threads * (double)rounds * ACCUMULATORS * (type == DTYPE_BF16 ? 64 : 32);
		best = fmax(best, flops / (now() - start) * 1e-9);
	}
	(void)sink;
	return best;
}
#else
static double peak(enum dtype type, int threads)
{
	(void)type, (void)threads;
	return 0;
}
#endif

/* ---- measuring ---- */

struct bench {
	struct kernels k;
	int B, T, C, H, L, V, VP, R;
	double total, products, flops, peak;
	struct dropout drop;
};

static void check(enum status status)
{
	if (status == STATUS_OK)
		return;
	fprintf(stderr, "bench_ops: %s\n", error_message());
	exit(1);
}

static void *block(struct bench *b, size_t elements, enum dtype type, float scale)
{
	void *to;
	float *from;
	check(b->k.memory_alloc(&b->k, &to, elements * dtype_bytes(type), "bench data"));
	check(memory_alloc_large((void **)&from, elements * sizeof *from, "bench data"));
	uint32_t random = 12345;
	for (size_t i = 0; i < elements; i++) {
		random = random * 1664525u + 1013904223u;
		from[i] = scale * ((float)(random >> 8) * 0x1p-23f - 1.0f);
	}
	b->k.convert(&b->k, NULL, to, type, from, DTYPE_F32, elements);
	memory_free_large(from, elements * sizeof *from);
	return to;
}

static void report(struct bench *b, const char *name, double *seconds, int n, double calls, double flops)
{
	check(b->k.stream_wait(&b->k, NULL));
	double typical = median(seconds, n);
	b->total += typical * calls;
	printf("%-28s %9.3f ms x %-4g %9.2f ms a step", name, typical * 1e3, calls, typical * calls * 1e3);
	if (flops > 0) {
		b->products += typical * calls, b->flops += flops * calls;
		printf("  %7.1f GFLOP/s %5.1f%%", flops / typical * 1e-9, 100e-9 * flops / typical / b->peak);
	}
	printf("\n");
	fflush(stdout);
}

/* Times `call` until enough is known; the first, which may build things, is not counted. */
#define MEASURE(name, calls, flops, call)                                                                    \
	do {                                                                                                 \
		double times_[MOST], begin_ = 0;                                                             \
		int n_ = -1;                                                                                 \
		while (n_ < 3 || (n_ < MOST && now() - begin_ < least_seconds)) {                            \
			double start_ = now();                                                               \
			call;                                                                                \
			if (n_ < 0)                                                                          \
				begin_ = now();                                                              \
			else                                                                                 \
				times_[n_] = now() - start_;                                                 \
			n_++;                                                                                \
		}                                                                                            \
		report(b, name, times_, n_, calls, flops);                                                   \
	} while (0)

static void bench_linear(struct bench *b, const char *name, int K, int N, bool gelu_out, bool gelu_in)
{
	struct kernels *k = &b->k;
	size_t R = (size_t)b->R;
	void *in = block(b, R * K, k->act, 1), *out = block(b, R * N, k->act, 1),
	     *pre = block(b, R * N, k->act, 1);
	void *w = block(b, (size_t)K * N, k->act, 0.03f), *bias = block(b, N, k->act, 1);
	void *din = block(b, R * K, k->act, 1), *below = block(b, R * K, k->act, 1);
	float *dw = block(b, (size_t)K * N, DTYPE_F32, 0), *dbias = block(b, N, DTYPE_F32, 0);
	double flops = 2.0 * (double)R * K * N;
	char line[64];
	snprintf(line, sizeof line, "%s forward", name);
	MEASURE(line, b->L, flops,
		k->linear_forward(k, NULL, out, gelu_out ? pre : NULL, in, w, bias, b->R, K, N));
	snprintf(line, sizeof line, "%s backward", name);
	MEASURE(line, b->L, 2 * flops,
		k->linear_backward(
			k, NULL, din, dw, dbias, out, in, w, gelu_in ? below : NULL, b->R, K, N, false));
	k->memory_free(k, in, R * K * dtype_bytes(k->act));
	k->memory_free(k, out, R * N * dtype_bytes(k->act));
	k->memory_free(k, pre, R * N * dtype_bytes(k->act));
	k->memory_free(k, w, (size_t)K * N * dtype_bytes(k->act));
	k->memory_free(k, bias, (size_t)N * dtype_bytes(k->act));
	k->memory_free(k, din, R * K * dtype_bytes(k->act));
	k->memory_free(k, below, R * K * dtype_bytes(k->act));
	k->memory_free(k, dw, (size_t)K * N * 4);
	k->memory_free(k, dbias, (size_t)N * 4);
}

static void bench_rows(struct bench *b)
{
	struct kernels *k = &b->k;
	int B = b->B, T = b->T, C = b->C, L = b->L;
	size_t n = (size_t)b->R * C;
	void *x = block(b, n, k->act, 1), *y = block(b, n, k->act, 1), *z = block(b, n, k->act, 1);
	void *o = block(b, n, k->act, 1), *gamma = block(b, C, k->act, 1), *beta = block(b, C, k->act, 1);
	float *mean = block(b, (size_t)b->R, DTYPE_F32, 1), *rstd = block(b, (size_t)b->R, DTYPE_F32, 1);
	float *dgamma = block(b, C, DTYPE_F32, 1), *dbeta = block(b, C, DTYPE_F32, 1);
	struct dropout none = {0};
	MEASURE("layernorm forward", 2 * L + 1, 0,
		k->layernorm_forward(k, NULL, o, z, mean, rstd, x, y, gamma, beta, B, T, C, 1e-5f, &none));
	MEASURE("layernorm backward", 2 * L + 1, 0,
		k->layernorm_backward(
			k, NULL, z, z, y, dgamma, dbeta, o, x, gamma, mean, rstd, B, T, C, &none, false));
	MEASURE("layernorm forward, drop", 0, 0,
		k->layernorm_forward(k, NULL, o, z, mean, rstd, x, y, gamma, beta, B, T, C, 1e-5f, &b->drop));
	MEASURE("layernorm backward, drop", 0, 0,
		k->layernorm_backward(
			k, NULL, z, z, y, dgamma, dbeta, o, x, gamma, mean, rstd, B, T, C, &b->drop, false));
}

static void bench_attention(struct bench *b)
{
	struct kernels *k = &b->k;
	int D = b->C / b->H;
	size_t n = (size_t)b->R * b->C;
	void *qkv = block(b, 3 * n, k->act, 1), *out = block(b, n, k->act, 1), *dout = block(b, n, k->act, 1);
	void *dqkv = block(b, 3 * n, k->act, 1);
	float *lse = block(b, (size_t)b->R * b->H, DTYPE_F32, 1);
	struct dropout none = {0};
	double flops = 2.0 * b->R * (b->T + 1) * b->C; /* both products of the causal half */
	MEASURE("attention forward", b->L, flops,
		k->attention_forward(k, NULL, out, lse, qkv, NULL, b->B, b->T, b->H, D, &none));
	MEASURE("attention backward", b->L, 2.5 * flops,
		k->attention_backward(k, NULL, dqkv, dout, out, lse, qkv, NULL, b->B, b->T, b->H, D, &none));
	MEASURE("attention forward, drop", 0, flops,
		k->attention_forward(k, NULL, out, lse, qkv, NULL, b->B, b->T, b->H, D, &b->drop));
	MEASURE("attention backward, drop", 0, 2.5 * flops,
		k->attention_backward(
			k, NULL, dqkv, dout, out, lse, qkv, NULL, b->B, b->T, b->H, D, &b->drop));
}

static void bench_ends(struct bench *b)
{
	struct kernels *k = &b->k;
	int B = b->B, T = b->T, C = b->C, R = b->R;
	size_t n = (size_t)R * C, wn = (size_t)b->VP * C;
	void *x = block(b, n, k->act, 1), *dx = block(b, n, k->act, 1), *wte = block(b, wn, k->act, 0.03f);
	void *wpe = block(b, (size_t)T * C, k->act, 1);
	float *dwte = block(b, wn, DTYPE_F32, 0), *dwpe = block(b, (size_t)T * C, DTYPE_F32, 0);
	float *loss = block(b, (size_t)R, DTYPE_F32, 0);
	int32_t *tokens = (int32_t *)block(b, (size_t)R, DTYPE_F32, 0);
	for (int r = 0; r < R; r++)
		tokens[r] = (int32_t)((unsigned)r * 7919u % (unsigned)b->V);
	struct dropout none = {0};
	MEASURE("embedding forward", 1, 0,
		k->embedding_forward(k, NULL, x, tokens, NULL, wte, wpe, B, T, C, &none));
	MEASURE("classifier", 1, 6.0 * R * C * b->VP,
		k->classifier(
			k, NULL, loss, dx, dwte, x, wte, tokens, R, C, b->V, b->VP, 1.0f / (float)R, false));
	MEASURE("classifier, loss alone", 0, 2.0 * R * C * b->VP,
		k->classifier(k, NULL, loss, NULL, NULL, x, wte, tokens, R, C, b->V, b->VP, 1, false));
	MEASURE("embedding backward", 1, 0,
		k->embedding_backward(k, NULL, dwte, dwpe, dx, tokens, NULL, B, T, C, T, &none, false));
	k->memory_free(k, wte, wn * dtype_bytes(k->act));
	k->memory_free(k, dwte, wn * 4);
}

static void bench_optimizer(struct bench *b)
{
	struct kernels *k = &b->k;
	size_t n = (size_t)b->L * 12 * b->C * b->C + (size_t)b->VP * b->C;
	float *p = block(b, n, DTYPE_F32, 1), *m = block(b, n, DTYPE_F32, 0), *v = block(b, n, DTYPE_F32, 0);
	float *g = block(b, n, DTYPE_F32, 1);
	void *work = k->act == DTYPE_F32 ? NULL : block(b, n, k->act, 1);
	struct gradient_stats stats;
	struct adamw a = {1e-4f, 0.9f, 0.999f, 1e-8f, 0.01f, 1, 1};
	MEASURE("gradient stats", 1, 0, k->gradient_stats(k, NULL, &stats, g, n));
	MEASURE("adamw", 1, 0, k->adamw(k, NULL, &a, p, m, v, work, p, m, v, g, n));
}

int main(int argc, char **argv)
{
	struct bench bench = {.V = 50257, .VP = 50304}, *b = &bench;
	struct kernels_config config = {.grad = DTYPE_F32, .packing = 1ull << 28};
	const char *type = argc > 1 ? argv[1] : "fp32", *model = argc > 2 ? argv[2] : "reference";
	config.act = strcmp(type, "bf16") == 0   ? DTYPE_BF16
		     : strcmp(type, "fp16") == 0 ? DTYPE_F16
						 : DTYPE_F32;
	config.threads = argc > 4 ? atoi(argv[4]) : 2;
	if (config.threads == 1)
		the_clock = CLOCK_PROCESS_CPUTIME_ID;
	if (argc > 5)
		config.packing = (uint64_t)atoi(argv[5]) << 20;
	b->B = 1, b->T = 1024;
	if (argc > 3 && sscanf(argv[3], "%dx%d", &b->B, &b->T) != 2)
		return 2;
	b->L = 4, b->C = 1024, b->H = 16;
	if (strcmp(model, "124m") == 0)
		b->L = 12, b->C = 768, b->H = 12;
	if (strcmp(model, "gpt2-medium") == 0)
		b->L = 24;
	b->R = b->B * b->T;
	b->drop = (struct dropout){0.1f, 1, 2, 3, DROPOUT_ATTENTION};
	check(kernels_open_cpu(&config, &b->k));
	struct kernel_shapes shapes = {
		b->B, b->T, b->C, b->H, b->V, b->VP, argc > 6 ? atoi(argv[6]) : 1, true};
	check(b->k.reserve(&b->k, &shapes));
	b->peak = peak(config.act == DTYPE_BF16 ? DTYPE_BF16 : DTYPE_F32, config.threads);
	printf("%s, %s, %s %dx%d; multiply-add peak %.0f GFLOP/s\n", b->k.name, dtype_name(config.act), model,
		b->B, b->T, b->peak);
	bench_linear(b, "qkv", b->C, 3 * b->C, false, false);
	bench_linear(b, "projection", b->C, b->C, false, false);
	bench_linear(b, "fc + gelu", b->C, 4 * b->C, true, false);
	bench_linear(b, "fc projection + gelu'", 4 * b->C, b->C, false, true);
	bench_rows(b);
	bench_attention(b);
	bench_ends(b);
	bench_optimizer(b);
	printf("step %.1f ms, %.1f tokens/s; products %.1f%% of it at %.1f GFLOP/s (%.1f%%); peak RSS %.2f "
	       "GB\n",
		b->total * 1e3, b->R / b->total, 100 * b->products / b->total, b->flops / b->products * 1e-9,
		100e-9 * b->flops / b->products / b->peak, (double)memory_peak_resident() * 1e-9);
	b->k.close(&b->k);
	return 0;
}
