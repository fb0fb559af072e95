/* What must be the same to the bit: conversions, AdamW and the norm on every instruction set and thread
 * count, every operation from run to run. */
#include "tests/ops/op_tester.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "kernels/adamw.h"
#include "kernels/cpu/cpu.h"
#include "tests/ops/op_tester.c"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { FLOATS = 1 << 17 };
#else
enum { FLOATS = 1 << 20 };
#endif

static struct kernels open_cpu(enum dtype act, int threads)
{
	struct kernels_config config = {
		.act = act, .grad = DTYPE_F32, .threads = threads, .packing = 1 << 24};
	struct kernels k;
	assert_int_equal(kernels_open_cpu(&config, &k), STATUS_OK);
	return k;
}

struct variant {
	enum simd_isa isa;
	__typeof__(*((struct kernels *)0)->convert) *convert;
	__typeof__(*((struct kernels *)0)->adamw) *adamw;
	__typeof__(*((struct kernels *)0)->gradient_stats) *stats;
};

static const struct variant variants[] = {
	{SIMD_BASE, cpu_convert_base, cpu_adamw_base, cpu_gradient_stats_base},
#ifdef __x86_64__
	{SIMD_AVX2, cpu_convert_avx2, cpu_adamw_avx2, cpu_gradient_stats_avx2},
	{SIMD_AVX512, cpu_convert_avx512, cpu_adamw_avx512, cpu_gradient_stats_avx512},
#endif
};
enum { VARIANTS = sizeof variants / sizeof *variants };

static bool same(double a, double b)
{
	return (isnan(a) && isnan(b)) || (a == b && signbit(a) == signbit(b));
}

static void halves_to_floats(struct kernels *k, const struct variant *v, enum dtype type)
{
	static uint16_t halves[65536], back[65536];
	static float floats[65536];
	for (int i = 0; i < 65536; i++)
		halves[i] = (uint16_t)i;
	v->convert(k, NULL, floats, DTYPE_F32, halves, type, 65536);
	v->convert(k, NULL, back, type, floats, DTYPE_F32, 65536);
	for (int i = 0; i < 65536; i++) {
		double value = half_value(halves[i], type);
		uint16_t quiet = isnan(value) ? (type == DTYPE_BF16 ? 0x40 : 0x200) : 0;
		assert_true(same(floats[i], value));
		assert_int_equal(back[i], i | quiet);
	}
}

/* All rounding cases: numbers at, beside and between every two halves, and any bits at all. */
static float awkward_float(uint64_t *random, enum dtype type)
{
	uint64_t r = next_random(random);
	uint32_t bits = (uint32_t)r;
	float x;
	if (r >> 62) {
		float low = (float)half_value((uint16_t)bits, type),
		      high = (float)half_value((uint16_t)(bits + 1), type);
		x = r >> 62 == 1 ? low : low + (high - low) / 2;
		memcpy(&bits, &x, sizeof bits);
		bits += (uint32_t)(r >> 40) % 3 - 1;
	}
	memcpy(&x, &bits, sizeof x);
	return x;
}

static double rounded(float x, enum dtype type)
{
	double y = round_to((double)x, type), limit = type == DTYPE_F16 ? 65504 : 0x1.fep127;
	return fabs(y) > limit ? copysign(INFINITY, y) : y;
}

static void floats_to_halves(struct kernels *k, const struct variant *v, enum dtype type)
{
	float *floats = malloc(sizeof *floats * FLOATS);
	uint16_t *halves = malloc(sizeof *halves * FLOATS);
	uint64_t random = 77;
	for (int i = 0; i < FLOATS; i++)
		floats[i] = awkward_float(&random, type);
	v->convert(k, NULL, halves, type, floats, DTYPE_F32, FLOATS);
	for (int i = 0; i < FLOATS; i++)
		assert_true(same(half_value(halves[i], type),
			isnan(floats[i]) ? (double)NAN : rounded(floats[i], type)));
	free(floats);
	free(halves);
}

static void conversions(void **state)
{
	(void)state;
	struct kernels k = open_cpu(DTYPE_F32, 2);
	for (int i = 0; i < VARIANTS && variants[i].isa <= simd_isa_get(); i++)
		for (enum dtype type = DTYPE_BF16; type <= DTYPE_F16; type++) {
			halves_to_floats(&k, &variants[i], type);
			floats_to_halves(&k, &variants[i], type);
		}
	k.close(&k);
}

struct moments {
	float *p, *m, *v, *g;
	uint16_t *work;
};

enum { PARAMETERS = 100003 };

static struct moments moments_open(void)
{
	float *block = malloc(sizeof(float) * 4 * PARAMETERS);
	struct moments x = {block, block + PARAMETERS, block + 2 * PARAMETERS, block + 3 * PARAMETERS,
		calloc(PARAMETERS, sizeof(uint16_t))};
	uint64_t random = 3;
	for (int i = 0; i < PARAMETERS; i++) {
		x.p[i] = (float)normal(&random);
		x.m[i] = (float)(normal(&random) * pow(2, -40 * uniform(&random)));
		x.v[i] = (float)pow(2, -140 * uniform(&random)); /* subnormal too */
		x.g[i] = (float)(normal(&random) * pow(2, -70 * uniform(&random)));
	}
	return x;
}

static void moments_close(struct moments *x)
{
	free(x->p);
	free(x->work);
}

static void adamw_everywhere(void **state)
{
	(void)state;
	struct adamw a = {3e-4f, 0.9f, 0.95f, 1e-8f, 0.1f, 7, 0.3f};
	struct moments want = moments_open();
	struct gradient_stats want_stats = {0, 0};
	for (int threads = 1; threads <= 3; threads++) {
		struct kernels k = open_cpu(DTYPE_BF16, threads);
		for (int i = 0; i < VARIANTS && variants[i].isa <= simd_isa_get(); i++) {
			struct moments x = moments_open();
			struct gradient_stats stats;
			variants[i].stats(&k, NULL, &stats, x.g, PARAMETERS);
			variants[i].adamw(
				&k, NULL, &a, x.p, x.m, x.v, x.work, x.p, x.m, x.v, x.g, PARAMETERS);
			if (threads == 1 && i == 0) {
				memcpy(want.p, x.p, sizeof(float) * 4 * PARAMETERS);
				memcpy(want.work, x.work, sizeof *x.work * PARAMETERS);
				want_stats = stats;
			}
			assert_memory_equal(x.p, want.p, sizeof(float) * 4 * PARAMETERS);
			assert_memory_equal(x.work, want.work, sizeof *x.work * PARAMETERS);
			assert_memory_equal(&stats, &want_stats, sizeof stats);
			moments_close(&x);
		}
		k.close(&k);
	}
	moments_close(&want);
}

/* As an offload has it: gradients and rounded weights in halves, in place and to other arrays, where cache lines begin
 * and not. Some gradients are inf or NaN: a speculation may meet them. */
enum { HALVES = 5000, ROOM = 5120 };
struct halves {
	_Alignas(64) float state[6][ROOM]; /* p, m and v, and where they go */
	_Alignas(64) float g[ROOM];        /* f32, or halves in its beginning */
	_Alignas(64) uint16_t work[ROOM];
};

static void halves_fill(struct halves *x, enum dtype grad, enum dtype act, struct kernels *k)
{
	uint64_t random = 5;
	static float values[ROOM];
	memset(x, 0, sizeof *x);
	for (int i = 0; i < ROOM; i++) {
		x->state[0][i] = awkward_float(&random, act);
		x->state[1][i] = (float)(normal(&random) * pow(2, -40 * uniform(&random)));
		x->state[2][i] = (float)pow(2, -140 * uniform(&random));
		values[i] = i % 500 == 7   ? INFINITY
			    : i % 700 == 9 ? NAN
					   : (float)(normal(&random) * pow(2, -20 * uniform(&random)));
	}
	variants[0].convert(k, NULL, x->g, grad, values, DTYPE_F32, ROOM);
}

static void adamw_in_halves_everywhere(void **state)
{
	(void)state;
	static struct halves want, x;
	struct adamw a = {3e-4f, 0.9f, 0.95f, 1e-8f, 0.1f, 7, 0.3f};
	for (int kind = 0; kind < 64; kind++) {
		enum dtype act = kind & 1 ? DTYPE_BF16 : DTYPE_F16, grad = kind & 2 ? DTYPE_F32 : act;
		int to = kind & 4 ? 3 : 0, from = kind & 8 ? 1 : 0, count = kind & 16 ? HALVES : 3;
		a.learning_rate = kind & 32 ? 0 : 3e-4f; /* 0: the values are rounded as they are */
		struct kernels_config config = {.act = act, .grad = grad, .threads = 2};
		struct kernels k;
		assert_int_equal(kernels_open_cpu(&config, &k), STATUS_OK);
		for (int i = 0; i < VARIANTS && variants[i].isa <= simd_isa_get(); i++) {
			struct halves *h = i ? &x : &want;
			halves_fill(h, grad, act, &k);
			variants[i].adamw(&k, NULL, &a, h->state[to] + from, h->state[to + 1] + from,
				h->state[to + 2] + from, h->work + from, h->state[0] + from,
				h->state[1] + from, h->state[2] + from,
				(char *)h->g + (size_t)from * dtype_bytes(grad), (uint64_t)count);
			if (i && memcmp(&x, &want, sizeof x) != 0)
				fail_msg("instruction set %d, kind %d: other bits", variants[i].isa, kind);
		}
		static struct halves first; /* what they agree on is the scalar's */
		struct adamw_factors f = adamw_prepare(&a);
		halves_fill(&first, grad, act, &k);
		k.close(&k);
		for (int e = from; e < from + count; e++) {
			float p = first.state[0][e], m = first.state[1][e], v = first.state[2][e];
			double g = grad == DTYPE_F32 ? (double)first.g[e]
						     : half_value(((uint16_t *)first.g)[e], grad);
			adamw_update(&f, (float)g, &p, &m, &v);
			assert_true(same(p, want.state[to][e]) && same(m, want.state[to + 1][e]) &&
				    same(v, want.state[to + 2][e]));
			assert_true(same(
				half_value(want.work[e], act), isnan(p) ? (double)NAN : rounded(p, act)));
		}
	}
}

/* ---- run to run ---- */

enum { B = 2, T = 150, C = 96, H = 3, V = 1000, VP = 1024, ROWS = B * T };

struct trace {
	struct op_tester *t;
	uint64_t hash;
};

static void trace_add(struct trace *trace, const void *device, size_t bytes)
{
	struct kernels *k = trace->t->k;
	unsigned char *host = host_block(trace->t, bytes);
	k->copy_out(k, NULL, host, device, bytes);
	for (size_t i = 0; i < bytes; i++)
		trace->hash = (trace->hash ^ host[i]) * 0x100000001b3u;
}

/* One of everything that divides work among threads; a number made of all the results' bits. */
static uint64_t run_once(struct kernels *k)
{
	struct op_tester tester, *t = &tester;
	op_tester_open(t, k);
	struct trace trace = {t, 1};
	struct shape w = shape_of(B, T, C, H, 0.1f, false, false);
	w.V = V, w.VP = VP;
	reserve(t, &w);
	enum dtype act = k->act;
	size_t n = (size_t)ROWS * C, bytes = n * dtype_bytes(act), wn = (size_t)C * 3 * C;
	void *x = put(t, numbers(t, n, act, 1), n, act), *y = put(t, numbers(t, n, act, 1), n, act);
	void *weight = put(t, numbers(t, wn, act, 0.1), wn, act),
	     *row = put(t, numbers(t, C * 3, act, 1), C * 3, act);
	void *qkv = place(t, 3 * n, act), *out = place(t, n, act), *sum = place(t, n, act),
	     *dqkv = place(t, 3 * n, act);
	float *mean = place(t, ROWS, DTYPE_F32), *rstd = place(t, ROWS, DTYPE_F32);
	float *lse = place(t, (size_t)ROWS * H, DTYPE_F32), *loss = place(t, ROWS, DTYPE_F32);
	float *dw = place(t, wn, DTYPE_F32), *db = place(t, 3 * C, DTYPE_F32), *dc = place(t, C, DTYPE_F32);
	void *wte = put(t, numbers(t, (size_t)VP * C, act, 1), (size_t)VP * C, act), *dx = place(t, n, act);
	float *dwte = place(t, (size_t)VP * C, DTYPE_F32);
	int32_t *tokens = put_ints(t, tokens_below(t, ROWS, V), ROWS);
	k->layernorm_forward(k, NULL, out, sum, mean, rstd, x, y, row, row, B, T, C, 1e-5f, &w.drop);
	k->linear_forward(k, NULL, qkv, NULL, out, weight, row, ROWS, C, 3 * C);
	k->attention_forward(k, NULL, out, lse, qkv, NULL, B, T, H, C / H, &w.drop);
	k->attention_backward(k, NULL, dqkv, y, out, lse, qkv, NULL, B, T, H, C / H, &w.drop);
	k->linear_backward(k, NULL, dx, dw, db, dqkv, x, weight, NULL, ROWS, C, 3 * C, false);
	trace_add(&trace, dx, bytes);
	trace_add(&trace, dw, wn * 4);
	trace_add(&trace, db, 3 * C * 4);
	k->layernorm_backward(
		k, NULL, dx, NULL, y, db, dc, dx, sum, row, mean, rstd, B, T, C, &w.drop, false);
	k->classifier(k, NULL, loss, dx, dwte, out, wte, tokens, ROWS, C, V, VP, 0.01f, false);
	k->embedding_backward(k, NULL, dwte, dw, dx, tokens, NULL, B, T, C, T, &w.drop, false);
	trace_add(&trace, out, bytes);
	trace_add(&trace, y, bytes);
	trace_add(&trace, db, C * 4);
	trace_add(&trace, dc, C * 4);
	trace_add(&trace, loss, ROWS * 4);
	trace_add(&trace, dwte, (size_t)VP * C * 4);
	assert_int_equal(k->stream_wait(k, NULL), STATUS_OK);
	op_tester_close(t);
	return trace.hash;
}

static void run_to_run(void **state)
{
	(void)state;
	for (enum dtype act = DTYPE_F32; act <= DTYPE_F16; act++)
		for (int threads = 1; threads <= (act == DTYPE_F32 ? 3 : 2); threads++) {
			struct kernels k = open_cpu(act, threads), other = open_cpu(act, threads);
			uint64_t hash = run_once(&k);
			assert_true(run_once(&k) == hash);
			assert_true(run_once(&other) == hash);
			k.close(&k);
			other.close(&other);
		}
}

int main(void)
{
#ifdef __SANITIZE_THREAD__ /* built without OpenMP: there are no threads to watch */
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(adamw_everywhere), cmocka_unit_test(adamw_in_halves_everywhere)};
	(void)conversions, (void)run_to_run;
#else
	const struct CMUnitTest tests[] = {cmocka_unit_test(conversions), cmocka_unit_test(adamw_everywhere),
		cmocka_unit_test(adamw_in_halves_everywhere), cmocka_unit_test(run_to_run)};
#endif
	return cmocka_run_group_tests(tests, NULL, NULL);
}
