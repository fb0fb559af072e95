/* The shapes and variants that each operation is tested with; and the formulas themselves, by finite differences. */
#include "tests/ops/op_cases.h"

void op_tester_open(struct op_tester *t, struct kernels *k)
{
	memset(t, 0, sizeof *t);
	t->k = k;
	t->random = 1;
}

/* ---- all ---- */

static struct shape shape_of(int B, int T, int C, int H, float p, bool masked, bool accumulate)
{
	struct shape w = {B, T, C, H, 97, 128, {p, 0x123456789abcdef, 0xfffffffffu, 7, DROPOUT_ATTENTION},
		masked, accumulate};
	return w;
}

/* Which of the variants of a shape a brief run takes: each of them somewhere. */
static bool skipped(const struct op_tester *t, int shape, int variant, int variants)
{
	return t->brief && variant != shape % variants;
}

static void test_rows(struct op_tester *t)
{
	static const int sizes[][3] = {{1, 1, 8}, {2, 5, 24}, {3, 7, 100}, {1, 70, 64}, {2, 33, 768}};
	for (int i = 0; i < 5 - t->brief; i++)
		for (int variant = 0; variant < 4; variant++) {
			if (skipped(t, i, variant, 4))
				continue;
			struct shape w = shape_of(sizes[i][0], sizes[i][1], sizes[i][2], 1,
				variant & 1 ? 0.1f + 0.2f * (float)i : 0, false, variant & 2);
			w.drop.site = DROPOUT_MLP_OUTPUT;
			reserve(t, &w);
			test_embedding(t, &w, i & 1);
			test_layernorm(t, &w, true);
			test_layernorm(t, &w, false);
		}
}

/* Wider than what a GPU holds of a row in a warp's registers, and than a block has threads for. */
static void test_wide_rows(struct op_tester *t)
{
	static const int sizes[][3] = {{1, 5, 2104}, {3, 1, 4096}, {1, 3, 4104}};
	for (int i = 0; i < 6; i++) {
		const int *size = sizes[i / 2];
		struct shape w = shape_of(size[0], size[1], size[2], 1, i % 2 ? 0.3f : 0, false, i % 2);
		w.drop.site = DROPOUT_MLP_OUTPUT;
		reserve(t, &w);
		test_layernorm(t, &w, true);
		test_layernorm(t, &w, false);
	}
}

/* Tokens that are looked up a hundred times each: what is summed in parts has parts that neither begin nor end a sum. */
static void test_frequent_tokens(struct op_tester *t)
{
	for (int C = 24; C < 26; C++) {
		struct shape w = shape_of(5, 60, C, 1, 0.1f, false, true);
		w.V = 3;
		w.drop.site = DROPOUT_EMBEDDING;
		reserve(t, &w);
		test_embedding(t, &w, false);
	}
}

/* Heads of more elements than tensor cores' tiles have, up to the most that a GPU takes. */
static void test_wide_heads(struct op_tester *t)
{
	static const int sizes[][3] = {{37, 2, 136}, {40, 1, 256}};
	for (int i = 0; i < 4; i++) {
		const int *size = sizes[i / 2];
		struct shape w =
			shape_of(1, size[0], size[1] * size[2], size[1], i % 2 ? 0.2f : 0, i % 2, false);
		reserve(t, &w);
		test_attention(t, &w);
		w.drop.p = 0;
		w.masked = false;
		test_decode(t, &w);
	}
}

void op_test_products(struct op_tester *t)
{
	static const int sizes[][3] = {{1, 8, 24}, {5, 24, 72}, {33, 64, 192}, {130, 100, 36}, {70, 768, 128},
		{64, 128, 512}, {256, 256, 264}};
	for (int i = 0; i < (t->brief ? 4 : 7); i++)
		for (int variant = 0; variant < 4; variant++)
			if (!skipped(t, i, variant, 4))
				test_linear(
					t, sizes[i][0], sizes[i][1], sizes[i][2], variant & 1, variant & 2);
}

void op_test_attention(struct op_tester *t, bool plain)
{
	/* B, T, H, D */
	static const int sizes[][4] = {{1, 1, 1, 8}, {2, 5, 3, 8}, {1, 64, 2, 16}, {2, 65, 2, 64},
		{1, 100, 1, 40}, {1, 130, 2, 128}, {1, 63, 1, 12}, {1, 200, 1, 32}, {1, 96, 1, 96},
		{3, 17, 2, 80}, {1, 310, 1, 16}};
	for (int i = 0; i < 11; i++)
		for (int variant = 0; variant < 4; variant++) {
			if (plain ? variant > 0 || (t->brief && i % 3) : skipped(t, i, variant, 4))
				continue;
			struct shape w = shape_of(sizes[i][0], sizes[i][1], sizes[i][2] * sizes[i][3],
				sizes[i][2], variant & 1 ? 0.2f : 0, variant & 2, false);
			reserve(t, &w);
			test_attention(t, &w);
			w.drop.p = 0;
			w.masked = false;
			if ((variant == 0 || t->brief) && i < 4 && !plain)
				test_decode(t, &w);
		}
}

void op_test_classifiers(struct op_tester *t)
{
	static const int sizes[][4] = {{1, 8, 97, 128}, {13, 24, 128, 128}, {70, 64, 300, 384},
		{130, 32, 1000, 1024}, {7, 128, 50, 128}, {6, 8, 4200, 4224}};
	for (int i = 0; i < 6; i++)
		for (int variant = 0; variant < 3; variant++) {
			if (skipped(t, i, variant, 3) || (t->brief && i == 3))
				continue;
			struct shape w = shape_of(1, sizes[i][0], sizes[i][1], 1, 0, false, variant == 1);
			w.V = sizes[i][2], w.VP = sizes[i][3];
			reserve(t, &w);
			test_classifier(t, &w, variant < 2);
		}
}

void op_test_all(struct op_tester *t)
{
	test_rows(t);
	op_test_products(t);
	op_test_attention(t, false);
	op_test_classifiers(t);
	test_adamw(t, 1, 1, true, false);
	test_adamw(t, 1000, 1, false, true);
	if (!t->brief) {
		test_adamw(t, 70003, 10, true, true);
		test_adamw(t, 200001, 1000, false, false);
	}
	for (int from = 0; from < 3; from++)
		for (int to = 0; to < 3; to++)
			test_convert(t, (enum dtype)from, (enum dtype)to, t->brief ? 4001 : 40001);
	for (int type = 0; type < 3; type++)
		for (size_t pieces = 1; pieces < 200; pieces += 66)
			test_pieces(t, (enum dtype)type, pieces);
	if (t->brief)
		return;
	test_wide_rows(t);
	test_frequent_tokens(t);
	test_wide_heads(t);
}

void op_tester_report(const struct op_tester *t, FILE *to)
{
	fprintf(to, "# %s, %s\n", t->k->name, dtype_name(t->k->act));
	for (int i = 0; i < t->ops; i++)
		fprintf(to, "# %-20s %4d checks, worst %.2e (bound %.1e)\n", t->results[i].op,
			t->results[i].checks, t->results[i].worst, t->results[i].bound);
}

int op_tester_close(struct op_tester *t)
{
	case_end(t);
	return t->failures;
}

/* ---- finite differences ---- */

/* A function of all its inputs, weighted by fixed numbers: value, and gradient unless NULL. */
typedef double scalar_function(const double *x, double *gradient, const struct shape *w);

static double weight_of(size_t i)
{
	return sin(1.7 * (double)i + 0.3);
}

static double weighted_sum(const double *out, double *dout, size_t n)
{
	double sum = 0;
	for (size_t i = 0; i < n; i++)
		sum += out[i] * weight_of(i), dout[i] = weight_of(i);
	return sum;
}

static double layernorm_scalar(const double *x, double *gradient, const struct shape *w)
{
	int R = w->B * w->T, C = w->C, n = R * C;
	double *out = calloc((size_t)(3 * n + 2 * R), sizeof *out), *dout = out + n, *mean = dout + 2 * n;
	layernorm(out, mean, mean + R, x, x + n, x + n + C, R, C, 1e-5);
	double value = weighted_sum(out, dout, (size_t)n);
	if (gradient)
		layernorm_gradient(
			gradient, gradient + n, gradient + n + C, dout, x, x + n, mean, mean + R, R, C);
	free(out);
	return value;
}

static double attention_scalar(const double *x, double *gradient, const struct shape *w)
{
	static const int32_t first[] = {0, 0, 0, 3, 3, 3, 6, 0, 1, 1, 1, 4, 5, 5};
	size_t n = (size_t)w->B * w->T * w->C;
	double *out = calloc(3 * n, sizeof *out);
	attention(out, out + 2 * n, x, w->masked ? first : NULL, w);
	double value = weighted_sum(out, out + n, n);
	if (gradient)
		attention_gradient(gradient, out + n, x, w->masked ? first : NULL, w);
	free(out);
	return value;
}

static double classifier_scalar(const double *x, double *gradient, const struct shape *w)
{
	static const int32_t targets[] = {0, 3, -1, 9, 2, 2, 7, 1, -1, 4, 5, 6, 8, 0};
	int R = w->B * w->T, n = R * w->VP;
	double *work = calloc((size_t)(n + R), sizeof *work), value = 0;
	memcpy(work, x, sizeof *work * (size_t)n);
	cross_entropy(work + n, work, targets, w, 0.25);
	for (int r = 0; r < R; r++)
		value += 0.25 * work[n + r];
	if (gradient)
		memcpy(gradient, work, sizeof *work * (size_t)n);
	free(work);
	return value;
}

static double gelu_scalar(const double *x, double *gradient, const struct shape *w)
{
	double value = 0;
	for (int i = 0; i < w->C; i++) {
		value += gelu(2 * x[i]) * weight_of((size_t)i);
		if (gradient)
			gradient[i] = 2 * gelu_slope(2 * x[i]) * weight_of((size_t)i);
	}
	return value;
}

static int differences(const char *name, scalar_function *f, size_t n, const struct shape *w)
{
	uint64_t random = 5;
	double *x = calloc(3 * n, sizeof *x), *gradient = x + n, *moved = gradient + n, error = 0, norm = 0;
	for (size_t i = 0; i < n; i++)
		x[i] = normal(&random);
	f(x, gradient, w);
	memcpy(moved, x, n * sizeof *x);
	for (size_t i = 0; i < n; i++) {
		moved[i] = x[i] + 1e-5;
		double up = f(moved, NULL, w);
		moved[i] = x[i] - 1e-5;
		double slope = (up - f(moved, NULL, w)) / 2e-5;
		moved[i] = x[i];
		error += (slope - gradient[i]) * (slope - gradient[i]);
		norm += slope * slope;
	}
	free(x);
	if (error <= 1e-16 * norm && norm > 0)
		return 0;
	fprintf(stderr, "formula of %s: differs from finite differences by %g\n", name, sqrt(error / norm));
	return 1;
}

int op_test_formulas(void)
{
	struct shape w = {2, 7, 6, 2, 10, 12, {0, 99, 5, 1, DROPOUT_ATTENTION}, false, false};
	int failures = differences("layernorm", layernorm_scalar, 14 * 6 + 12, &w);
	failures += differences("gelu", gelu_scalar, 6, &w);
	failures += differences("cross entropy", classifier_scalar, 14 * 12, &w);
	for (int variant = 0; variant < 4; variant++) {
		w.drop.p = variant & 1 ? 0.3f : 0;
		w.masked = variant & 2;
		failures += differences("attention", attention_scalar, 14 * 18, &w);
	}
	return failures;
}
