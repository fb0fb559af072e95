#include "tests/ops/op_tester.h"
#include "tests/ops/pinned.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- numbers ---- */

static uint64_t next_random(uint64_t *state)
{
	uint64_t z = (*state += 0x9e3779b97f4a7c15u);
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static double uniform(uint64_t *state)
{
	return (double)(next_random(state) >> 11) * 0x1p-53;
}

/* Nearly normal: the sum of four uniform numbers, with mean 0 and variance 1. */
static double normal(uint64_t *state)
{
	uint64_t a = next_random(state), b = next_random(state);
	double sum = (double)(uint32_t)a + (double)(a >> 32) + (double)(uint32_t)b + (double)(b >> 32);
	return (sum * 0x1p-32 - 2) * 1.7320508075688772;
}

/* Round to nearest even with `bits` bits of mantissa (8 or 11) and the smallest exponent of the type. */
static double round_to(double x, enum dtype type)
{
	if (x == 0 || !isfinite(x))
		return x;
	if (type == DTYPE_F32)
		return (double)(float)x;
	int bits = type == DTYPE_BF16 ? 8 : 11, lowest = type == DTYPE_F16 ? -14 : -126;
	int exponent = ilogb(x) < lowest ? lowest : ilogb(x);
	return ldexp(nearbyint(ldexp(x, bits - 1 - exponent)), exponent - bits + 1);
}

static double half_value(uint16_t half, enum dtype type)
{
	int mantissa_bits = type == DTYPE_BF16 ? 7 : 10, bias = type == DTYPE_BF16 ? 127 : 15;
	int exponent = half >> mantissa_bits & (2 * bias + 1), mantissa = half & ((1 << mantissa_bits) - 1);
	double sign = half & 0x8000 ? -1 : 1;
	if (exponent == 2 * bias + 1)
		return mantissa ? NAN : sign * INFINITY;
	if (exponent == 0)
		return sign * ldexp(mantissa, 1 - bias - mantissa_bits);
	return sign * ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

/* The half of a number that is one already (round_to). */
static uint16_t half_code(double x, enum dtype type)
{
	int mantissa_bits = type == DTYPE_BF16 ? 7 : 10, bias = type == DTYPE_BF16 ? 127 : 15;
	uint16_t sign = signbit(x) ? 0x8000 : 0;
	x = fabs(x);
	if (x == 0)
		return sign;
	int exponent = ilogb(x);
	if (exponent < 1 - bias)
		return sign | (uint16_t)ldexp(x, bias - 1 + mantissa_bits);
	return sign | (uint16_t)((exponent + bias) << mantissa_bits |
				 ((int)ldexp(x, mantissa_bits - exponent) - (1 << mantissa_bits)));
}

/* ---- the definition of dropout ---- */

static void philox(uint32_t counter[4], uint32_t k0, uint32_t k1)
{
	for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
		uint64_t a = 0xD2511F53ull * counter[0], b = 0xCD9E8D57ull * counter[2];
		uint32_t c1 = counter[1], c3 = counter[3];
		counter[0] = (uint32_t)(b >> 32) ^ c1 ^ k0, counter[1] = (uint32_t)b;
		counter[2] = (uint32_t)(a >> 32) ^ c3 ^ k1, counter[3] = (uint32_t)a;
	}
}

static double drop_factor(const struct dropout *drop, int sequence, uint64_t element)
{
	if (!drop || drop->p == 0)
		return 1;
	uint64_t q = element / 4, window = drop->window + (uint64_t)sequence;
	uint32_t c[4] = {(uint32_t)q, drop->layer << 16 | (uint32_t)drop->site << 8 | (uint32_t)(q >> 32),
		(uint32_t)window, (uint32_t)(window >> 32)};
	philox(c, (uint32_t)drop->seed, (uint32_t)(drop->seed >> 32));
	return c[element % 4] < floor((double)drop->p * 0x1p32) ? 0 : 1 / (1 - (double)drop->p);
}

/* ---- formulas, fp64 ---- */

static double gelu(double x)
{
	return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

static double gelu_slope(double x)
{
	double t = tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x));
	return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
}

/* c [m][n] = or += a b; at and bt say that a, b are stored transposed. */
static void matmul(
	double *c, const double *a, const double *b, int m, int n, int k, bool at, bool bt, bool add)
{
	if (!add)
		memset(c, 0, sizeof *c * (size_t)m * n);
	for (int i = 0; i < m; i++)
		for (int l = 0; l < k; l++) {
			double factor = at ? a[l * m + i] : a[i * k + l];
			const double *from = bt ? b + l : b + (size_t)l * n;
			int step = bt ? k : 1;
			for (int j = 0; j < n; j++)
				c[i * n + j] += factor * from[j * step];
		}
}

struct shape {
	int B, T, C, H, V, VP;
	struct dropout drop;
	bool masked, accumulate;
};

static void drop_rows(double *x, const struct shape *w)
{
	for (int r = 0; r < w->B * w->T; r++)
		for (int c = 0; c < w->C; c++)
			x[r * w->C + c] *= drop_factor(&w->drop, r / w->T, (uint64_t)(r % w->T) * w->C + c);
}

static void layernorm(double *out, double *mean, double *rstd, const double *x, const double *gamma,
	const double *beta, int R, int C, double eps)
{
	for (int r = 0; r < R; r++) {
		const double *row = x + r * C;
		double m = 0, v = 0;
		for (int c = 0; c < C; c++)
			m += row[c] / C;
		for (int c = 0; c < C; c++)
			v += (row[c] - m) * (row[c] - m) / C;
		mean[r] = m, rstd[r] = 1 / sqrt(v + eps);
		for (int c = 0; c < C; c++)
			out[r * C + c] = (row[c] - m) * rstd[r] * gamma[c] + beta[c];
	}
}

static void layernorm_gradient(double *dx, double *dgamma, double *dbeta, const double *dout, const double *x,
	const double *gamma, const double *mean, const double *rstd, int R, int C)
{
	for (int r = 0; r < R; r++) {
		double a = 0, b = 0;
		for (int c = 0; c < C; c++) {
			double n = (x[r * C + c] - mean[r]) * rstd[r], g = dout[r * C + c] * gamma[c];
			a += g / C, b += g * n / C;
			dgamma[c] += dout[r * C + c] * n, dbeta[c] += dout[r * C + c];
		}
		for (int c = 0; c < C; c++)
			dx[r * C + c] = rstd[r] * (dout[r * C + c] * gamma[c] - a -
							  (x[r * C + c] - mean[r]) * rstd[r] * b);
	}
}

struct head {
	const double *q, *k, *v;
	int stride, T, D, b, h;
	const int32_t *first;
	const struct dropout *drop;
};

static struct head head_of(const struct shape *w, const double *qkv, const int32_t *first, int b, int h)
{
	int D = w->C / w->H;
	const double *q = qkv + (size_t)b * w->T * 3 * w->C + h * D;
	struct head head = {q, q + w->C, q + 2 * w->C, 3 * w->C, w->T, D, b, h,
		first ? first + b * w->T : NULL, &w->drop};
	return head;
}

/* Probabilities of row i, before dropout; returns logsumexp. */
static double head_probabilities(const struct head *w, double *p, int i)
{
	double max = -INFINITY, sum = 0;
	int from = w->first ? w->first[i] : 0;
	for (int j = 0; j < w->T; j++) {
		p[j] = 0;
		for (int d = 0; d < w->D; d++)
			p[j] += w->q[i * w->stride + d] * w->k[j * w->stride + d] / sqrt(w->D);
		if (j >= from && j <= i && p[j] > max)
			max = p[j];
	}
	for (int j = 0; j < w->T; j++)
		sum += p[j] = j >= from && j <= i ? exp(p[j] - max) : 0;
	for (int j = 0; j < w->T; j++)
		p[j] /= sum;
	return max + log(sum);
}

static double head_drop(const struct head *w, int i, int j)
{
	return drop_factor(w->drop, w->b, ((uint64_t)w->h * w->T + i) * w->T + j);
}

static void attention(
	double *out, double *lse, const double *qkv, const int32_t *first, const struct shape *w)
{
	double *p = malloc(sizeof *p * w->T);
	int D = w->C / w->H;
	memset(out, 0, sizeof *out * w->B * w->T * w->C);
	for (int b = 0; b < w->B; b++)
		for (int h = 0; h < w->H; h++) {
			struct head head = head_of(w, qkv, first, b, h);
			for (int i = 0; i < w->T; i++) {
				double *o = out + ((size_t)b * w->T + i) * w->C + h * D;
				lse[(b * w->H + h) * w->T + i] = head_probabilities(&head, p, i);
				for (int j = 0; j <= i; j++)
					for (int d = 0; d < D && p[j] != 0; d++)
						o[d] += p[j] * head_drop(&head, i, j) *
							head.v[j * head.stride + d];
			}
		}
	free(p);
}

/* d of the softmax, straight from its definition: ds_j = p_j (dp_j - sum_l p_l dp_l). */
static void attention_gradient(
	double *dqkv, const double *dout, const double *qkv, const int32_t *first, const struct shape *w)
{
	double *p = malloc(sizeof *p * 2 * w->T), *dp = p + w->T;
	int D = w->C / w->H;
	memset(dqkv, 0, sizeof *dqkv * w->B * w->T * 3 * w->C);
	for (int b = 0; b < w->B; b++)
		for (int h = 0; h < w->H; h++) {
			struct head x = head_of(w, qkv, first, b, h);
			double *dq = dqkv + (x.q - qkv), *dk = dq + w->C, *dv = dk + w->C;
			for (int i = 0; i < w->T; i++) {
				const double *g = dout + ((size_t)b * w->T + i) * w->C + h * D;
				double mean = 0;
				head_probabilities(&x, p, i);
				for (int j = 0; j <= i; j++) {
					double keep = p[j] == 0 ? 0 : head_drop(&x, i, j);
					dp[j] = 0;
					for (int d = 0; d < D; d++) {
						dp[j] += keep * g[d] * x.v[j * x.stride + d];
						dv[j * x.stride + d] += keep * p[j] * g[d];
					}
					mean += p[j] * dp[j];
				}
				for (int j = 0; j <= i; j++)
					for (int d = 0; d < D; d++) {
						double ds = p[j] * (dp[j] - mean) / sqrt(D);
						dq[i * x.stride + d] += ds * x.k[j * x.stride + d];
						dk[j * x.stride + d] += ds * x.q[i * x.stride + d];
					}
			}
		}
	free(p);
}

/* Losses, and logits turned into their gradients times `scale` (columns from V on: 0). */
static void cross_entropy(
	double *loss, double *logits, const int32_t *targets, const struct shape *w, double scale)
{
	for (int r = 0; r < w->B * w->T; r++) {
		double *row = logits + (size_t)r * w->VP, max = -INFINITY, sum = 0;
		for (int v = 0; v < w->V; v++)
			max = fmax(max, row[v]);
		for (int v = 0; v < w->V; v++)
			sum += exp(row[v] - max);
		loss[r] = targets[r] < 0 ? 0 : max + log(sum) - row[targets[r]];
		for (int v = 0; v < w->VP; v++)
			row[v] = v >= w->V || targets[r] < 0
					 ? 0
					 : (exp(row[v] - max) / sum - (v == targets[r])) * scale;
	}
}

/* ---- the tester ---- */

void op_tester_open(struct op_tester *t, struct kernels *k)
{
	memset(t, 0, sizeof *t);
	t->k = k;
	t->random = 1;
}

static void must(struct op_tester *t, enum status status)
{
	(void)t;
	if (status == STATUS_OK)
		return;
	fprintf(stderr, "op tester: %s\n", error_message());
	abort();
}

static void *host_block(struct op_tester *t, size_t bytes)
{
	if (t->hosts == OP_TESTER_BLOCKS)
		abort();
	return t->host[t->hosts++] = calloc(1, bytes ? bytes : 1);
}

static double *zeros(struct op_tester *t, size_t n)
{
	return host_block(t, n * sizeof(double));
}

/* Numbers that are exact in `type`. */
static double *numbers(struct op_tester *t, size_t n, enum dtype type, double scale)
{
	double *x = zeros(t, n);
	for (size_t i = 0; i < n; i++)
		x[i] = round_to(scale * normal(&t->random), type);
	return x;
}

static void *device_block(struct op_tester *t, size_t bytes)
{
	if (t->devices == OP_TESTER_BLOCKS)
		abort();
	void *block;
	must(t, t->k->memory_alloc(t->k, &block, bytes, "test data"));
	t->device[t->devices].block = block;
	t->device[t->devices++].bytes = bytes;
	return block;
}

static void *encode(struct op_tester *t, const double *x, size_t n, enum dtype type)
{
	void *bytes = host_block(t, n * dtype_bytes(type));
	for (size_t i = 0; i < n; i++)
		if (type == DTYPE_F32)
			((float *)bytes)[i] = (float)x[i];
		else
			((uint16_t *)bytes)[i] = half_code(x[i], type);
	return bytes;
}

static void copy_to(struct op_tester *t, void *device, const void *from, size_t bytes)
{
	must(t, pinned_copy_in(t->k, device, from, bytes));
}

static void copy_from(struct op_tester *t, void *to, const void *device, size_t bytes)
{
	must(t, pinned_copy_out(t->k, to, device, bytes));
}

static void *put_bytes(struct op_tester *t, const void *from, size_t bytes)
{
	void *block = device_block(t, bytes);
	copy_to(t, block, from, bytes);
	return block;
}

static void *put(struct op_tester *t, const double *x, size_t n, enum dtype type)
{
	return put_bytes(t, encode(t, x, n, type), n * dtype_bytes(type));
}

/* A result's place, full of NaN, so that what is not written is seen. */
static void *place(struct op_tester *t, size_t n, enum dtype type)
{
	void *nan = host_block(t, n * dtype_bytes(type));
	memset(nan, 0xff, n * dtype_bytes(type));
	return put_bytes(t, nan, n * dtype_bytes(type));
}

static double *get(struct op_tester *t, const void *device, size_t n, enum dtype type)
{
	void *bytes = host_block(t, n * dtype_bytes(type));
	copy_from(t, bytes, device, n * dtype_bytes(type));
	double *x = zeros(t, n);
	for (size_t i = 0; i < n; i++)
		x[i] = type == DTYPE_F32 ? (double)((float *)bytes)[i]
					 : half_value(((uint16_t *)bytes)[i], type);
	return x;
}

static void case_begin(struct op_tester *t, const char *op, const struct shape *w)
{
	t->op = op;
	snprintf(t->detail, sizeof t->detail, "%s B=%d T=%d C=%d H=%d V=%d p=%g%s%s", dtype_name(t->k->act),
		w->B, w->T, w->C, w->H, w->V, (double)w->drop.p, w->masked ? " masked" : "",
		w->accumulate ? " accumulate" : "");
}

static void case_end(struct op_tester *t)
{
	while (t->hosts)
		free(t->host[--t->hosts]);
	while (t->devices) {
		t->devices--;
		t->k->memory_free(t->k, t->device[t->devices].block, t->device[t->devices].bytes);
	}
}

static struct op_result *result_of(struct op_tester *t)
{
	for (int i = 0; i < t->ops; i++)
		if (strcmp(t->results[i].op, t->op) == 0)
			return &t->results[i];
	t->results[t->ops].op = t->op;
	return &t->results[t->ops++];
}

static void record(struct op_tester *t, const char *what, double error, double bound)
{
	struct op_result *result = result_of(t);
	result->checks++;
	if (result->bound == 0 || !(error / bound <= result->worst / result->bound))
		result->worst = error, result->bound = bound;
	if (error <= bound)
		return;
	t->failures++;
	fprintf(stderr, "%s: %s: error %.3g, bound %.3g (%s)\n", t->op, what, error, bound, t->detail);
}

/* |got - want| / |want|, in the Euclidean norm; not a number is infinitely wrong. */
static double norm_error(const double *got, const double *want, size_t n)
{
	double difference = 0, norm = 0;
	for (size_t i = 0; i < n; i++) {
		difference += (got[i] - want[i]) * (got[i] - want[i]);
		norm += want[i] * want[i];
	}
	double error = norm > 0 ? sqrt(difference / norm) : sqrt(difference);
	return isfinite(error) ? error : INFINITY;
}

/* Bounds: a few roundings of the type on the way; `depth` counts roundings of intermediate results. */
static double bound_of(enum dtype type, double depth)
{
	return depth * (type == DTYPE_F32 ? 1e-6 : type == DTYPE_BF16 ? 2.5e-3 : 3.5e-4);
}

static void check(struct op_tester *t, const char *what, const void *device, enum dtype type,
	const double *want, size_t n, double bound)
{
	record(t, what, norm_error(get(t, device, n, type), want, n), bound);
}

/* For f32 results that may all be near 0: their error is measured against a given norm. */
static void check_against(struct op_tester *t, const char *what, const float *device, const double *want,
	size_t n, double norm, double bound)
{
	double *got = get(t, device, n, DTYPE_F32), difference = 0;
	for (size_t i = 0; i < n; i++)
		difference += (got[i] - want[i]) * (got[i] - want[i]);
	double error = sqrt(difference) / norm;
	record(t, what, isfinite(error) ? error : INFINITY, bound);
}

/* The same for a result that is f32 but comes from act-typed work: bound by the work. */
static void check_work(struct op_tester *t, const char *what, const void *device, enum dtype type,
	const double *want, size_t n, double depth)
{
	check(t, what, device, type, want, n, bound_of(t->k->act, depth));
}

static void reserve(struct op_tester *t, const struct shape *w)
{
	struct kernel_shapes shapes = {w->B, w->T, w->C, w->H, w->V, w->VP, 3, true};
	must(t, t->k->reserve(t->k, &shapes));
}

static int32_t *tokens_below(struct op_tester *t, int n, int limit)
{
	int32_t *tokens = host_block(t, (size_t)n * sizeof *tokens);
	for (int i = 0; i < n; i++)
		tokens[i] = (int32_t)(next_random(&t->random) % (unsigned)limit);
	return tokens;
}

static int32_t *put_ints(struct op_tester *t, const int32_t *x, int n)
{
	return put_bytes(t, x, (size_t)n * sizeof *x);
}

/* What a gradient held before: added to where `accumulate`, NaN else. */
static void *gradient_place(struct op_tester *t, double *want, size_t n, bool accumulate)
{
	enum dtype type = t->k->grad;
	if (!accumulate)
		return place(t, n, type);
	double *before = numbers(t, n, type, 1);
	memcpy(want, before, n * sizeof *want);
	return put(t, before, n, type);
}

/* ---- cases ---- */

static void test_embedding(struct op_tester *t, const struct shape *w, bool with_positions)
{
	struct kernels *k = t->k;
	enum dtype act = k->act;
	int R = w->B * w->T, C = w->C, P = w->T + 3;
	size_t n = (size_t)R * C;
	case_begin(t, "embedding_forward", w);
	double *wte = numbers(t, (size_t)w->VP * C, act, 1), *wpe = numbers(t, (size_t)P * C, act, 1);
	int32_t *tokens = tokens_below(t, R, w->V), *positions = tokens_below(t, R, P);
	int32_t *d_tokens = put_ints(t, tokens, R),
		*d_positions = with_positions ? put_ints(t, positions, R) : NULL;
	double *out = zeros(t, n);
	for (int r = 0; r < R; r++)
		for (int c = 0; c < C; c++) {
			int position = with_positions ? positions[r] : r % w->T;
			out[(size_t)r * C + c] = wte[tokens[r] * C + c] + wpe[position * C + c];
		}
	drop_rows(out, w);
	void *d_out = place(t, n, act);
	k->embedding_forward(k, NULL, d_out, d_tokens, d_positions, put(t, wte, (size_t)w->VP * C, act),
		put(t, wpe, (size_t)P * C, act), w->B, w->T, C, &w->drop);
	check(t, "out", d_out, act, out, n, bound_of(act, 1));

	t->op = "embedding_backward";
	double *dout = numbers(t, n, act, 1), *dropped = zeros(t, n);
	double *dwte = zeros(t, (size_t)w->VP * C), *dwpe = zeros(t, (size_t)P * C);
	void *d_dwte = gradient_place(t, dwte, (size_t)w->VP * C, true);
	void *d_dwpe = gradient_place(t, dwpe, (size_t)P * C, w->accumulate);
	memcpy(dropped, dout, n * sizeof *dropped);
	drop_rows(dropped, w);
	for (int r = 0; r < R; r++)
		for (int c = 0; c < C; c++) {
			int position = with_positions ? positions[r] : r % w->T;
			dwte[tokens[r] * C + c] += dropped[(size_t)r * C + c];
			dwpe[position * C + c] += dropped[(size_t)r * C + c];
		}
	k->embedding_backward(k, NULL, d_dwte, d_dwpe, put(t, dout, n, act), d_tokens, d_positions, w->B,
		w->T, C, P, &w->drop, w->accumulate);
	check(t, "dwte", d_dwte, k->grad, dwte, (size_t)w->VP * C, bound_of(k->grad, 2));
	check(t, "dwpe", d_dwpe, k->grad, dwpe, (size_t)P * C, bound_of(k->grad, 2));
	case_end(t);
}

static void test_layernorm(struct op_tester *t, const struct shape *w, bool with_branch)
{
	struct kernels *k = t->k;
	enum dtype act = k->act;
	int R = w->B * w->T, C = w->C;
	size_t n = (size_t)R * C;
	double eps = 1e-5;
	case_begin(t, "layernorm_forward", w);
	double *residual = numbers(t, n, act, 2), *branch = numbers(t, n, act, 1);
	double *gamma = numbers(t, C, act, 1), *beta = numbers(t, C, act, 1);
	double *x = zeros(t, n), *out = zeros(t, n), *mean = zeros(t, R), *rstd = zeros(t, R);
	for (int r = 0; r < R; r++)
		residual[(size_t)r * C] += 4; /* means that are not 0 */
	for (size_t i = 0; i < n; i++)
		residual[i] = round_to(residual[i], act);
	memcpy(x, branch, n * sizeof *x);
	drop_rows(x, w);
	for (size_t i = 0; i < n; i++)
		x[i] = residual[i] + (with_branch ? x[i] : 0);
	layernorm(out, mean, rstd, x, gamma, beta, R, C, eps);
	void *d_residual = put(t, residual, n, act), *d_gamma = put(t, gamma, C, act);
	void *d_out = place(t, n, act), *d_x = w->accumulate ? d_residual : place(t, n, act);
	float *d_mean = place(t, R, DTYPE_F32), *d_rstd = place(t, R, DTYPE_F32);
	k->layernorm_forward(k, NULL, d_out, with_branch ? d_x : NULL, d_mean, d_rstd, d_residual,
		with_branch ? put(t, branch, n, act) : NULL, d_gamma, put(t, beta, C, act), w->B, w->T, C,
		1e-5f, &w->drop);
	check(t, "out", d_out, act, out, n, bound_of(act, 2));
	if (with_branch)
		check(t, "residual_out", d_x, act, x, n, bound_of(act, 1));
	double norm = 0;
	for (size_t i = 0; i < n; i++)
		norm += x[i] * x[i] / C;
	check_against(t, "mean", d_mean, mean, (size_t)R, sqrt(norm), bound_of(act, 1));
	check_work(t, "rstd", d_rstd, DTYPE_F32, rstd, R, 2);

	t->op = "layernorm_backward";
	for (size_t i = 0; i < n; i++)
		x[i] = round_to(x[i], act);
	layernorm(out, mean, rstd, x, gamma, beta, R, C, eps);
	double *dout = numbers(t, n, act, 1), *before = numbers(t, n, act, 1), *dx = zeros(t, n);
	double *dgamma = zeros(t, C), *dbeta = zeros(t, C), *dbranch = zeros(t, n);
	void *d_dgamma = gradient_place(t, dgamma, C, w->accumulate);
	void *d_dbeta = gradient_place(t, dbeta, C, w->accumulate);
	layernorm_gradient(dx, dgamma, dbeta, dout, x, gamma, mean, rstd, R, C);
	for (size_t i = 0; i < n; i++)
		dx[i] += with_branch ? before[i] : 0;
	memcpy(dbranch, dx, n * sizeof *dx);
	drop_rows(dbranch, w);
	void *d_before = put(t, before, n, act), *d_dx = w->accumulate ? d_before : place(t, n, act);
	void *d_dbranch = with_branch ? place(t, n, act) : NULL;
	k->layernorm_backward(k, NULL, d_dx, with_branch ? d_before : NULL, d_dbranch, d_dgamma, d_dbeta,
		put(t, dout, n, act), put(t, x, n, act), d_gamma, put(t, mean, R, DTYPE_F32),
		put(t, rstd, R, DTYPE_F32), w->B, w->T, C, &w->drop, w->accumulate);
	check(t, "dresidual", d_dx, act, dx, n, bound_of(act, 1));
	if (with_branch)
		check(t, "dbranch", d_dbranch, act, dbranch, n, bound_of(act, 1.5));
	check(t, "dgamma", d_dgamma, k->grad, dgamma, C, bound_of(k->grad, 2));
	check(t, "dbeta", d_dbeta, k->grad, dbeta, C, bound_of(k->grad, 2));

	t->op = "dropout_apply";
	drop_rows(before, w);
	void *d_in = put(t, dout, n, act), *d_dropped = w->accumulate ? d_in : place(t, n, act);
	drop_rows(dout, w);
	k->dropout_apply(k, NULL, d_dropped, d_in, w->B, w->T, C, &w->drop);
	check(t, "out", d_dropped, act, dout, n, bound_of(act, 1));
	case_end(t);
}

/* A weight in the place of another that was used just before: copies of the old one must not be used. */
static void *changed_weight(struct op_tester *t, const double *weight, const struct shape *w, int N)
{
	struct kernels *k = t->k;
	enum dtype act = k->act;
	int R = w->T, K = w->C;
	size_t n = (size_t)K * N;
	reserve(t, w);
	void *d_w = put(t, numbers(t, n, act, 1), n, act),
	     *in = put(t, zeros(t, (size_t)R * K), (size_t)R * K, act);
	void *out = put(t, zeros(t, (size_t)R * N), (size_t)R * N, act), *bias = put(t, zeros(t, N), N, act);
	void *dw = place(t, n, k->grad), *dbias = place(t, N, k->grad);
	k->linear_forward(k, NULL, out, NULL, in, d_w, bias, R, K, N);
	k->linear_backward(k, NULL, in, dw, dbias, out, in, d_w, NULL, R, K, N, false);
	must(t, k->stream_wait(k, NULL));
	copy_to(t, d_w, encode(t, weight, n, act), n * dtype_bytes(act));
	k->weights_changed(k);
	return d_w;
}

static void test_linear(struct op_tester *t, int R, int K, int N, bool with_pre, bool accumulate)
{
	struct kernels *k = t->k;
	enum dtype act = k->act;
	struct shape w = {1, R, K, 1, 1, 128, {.p = 0}, false, accumulate};
	size_t in_n = (size_t)R * K, out_n = (size_t)R * N, w_n = (size_t)K * N;
	case_begin(t, "linear_forward", &w);
	snprintf(t->detail, sizeof t->detail, "%s R=%d K=%d N=%d%s%s", dtype_name(act), R, K, N,
		with_pre ? " gelu" : "", accumulate ? " accumulate" : "");
	double *in = numbers(t, in_n, act, 1), *weight = numbers(t, w_n, act, 1 / sqrt(K)),
	       *bias = numbers(t, N, act, 1);
	double *pre = zeros(t, out_n), *out = zeros(t, out_n);
	matmul(pre, in, weight, R, N, K, false, false, false);
	for (size_t i = 0; i < out_n; i++) {
		pre[i] += bias[i % (size_t)N];
		out[i] = with_pre ? gelu(pre[i]) : pre[i];
	}
	void *d_in = put(t, in, in_n, act), *d_out = place(t, out_n, act);
	void *d_pre = with_pre ? place(t, out_n, act) : NULL, *d_w = changed_weight(t, weight, &w, N);
	k->linear_forward(k, NULL, d_out, d_pre, d_in, d_w, put(t, bias, N, act), R, K, N);
	check(t, "out", d_out, act, out, out_n, bound_of(act, 2));
	if (with_pre)
		check(t, "pre", d_pre, act, pre, out_n, bound_of(act, 1));

	t->op = "linear_backward";
	double *dout = numbers(t, out_n, act, 1), *din = zeros(t, in_n), *below = numbers(t, in_n, act, 1.5);
	double *dw = zeros(t, w_n), *dbias = zeros(t, N);
	void *d_dw = gradient_place(t, dw, w_n, accumulate),
	     *d_dbias = gradient_place(t, dbias, N, accumulate);
	matmul(dw, in, dout, K, N, R, true, false, true);
	for (size_t i = 0; i < out_n; i++)
		dbias[i % (size_t)N] += dout[i];
	matmul(din, dout, weight, R, K, N, false, true, false);
	for (size_t i = 0; i < in_n; i++)
		din[i] *= with_pre ? gelu_slope(below[i]) : 1;
	void *d_din = accumulate && !with_pre ? NULL : place(t, in_n, act);
	void *d_dout = put(t, dout, out_n, act), *d_below = with_pre ? put(t, below, in_n, act) : NULL;
	k->linear_backward(k, NULL, d_din, d_dw, d_dbias, d_dout, d_in, d_w, d_below, R, K, N, accumulate);
	check(t, "dw", d_dw, k->grad, dw, w_n, bound_of(k->grad, 2));
	check(t, "dbias", d_dbias, k->grad, dbias, N, bound_of(k->grad, 2));
	if (d_din)
		check(t, "din", d_din, act, din, in_n, bound_of(act, 2));
	if (d_din && !accumulate) { /* in the place of what comes in */
		k->linear_backward(k, NULL, d_in, d_dw, d_dbias, d_dout, d_in, d_w, d_below, R, K, N, false);
		check(t, "dw, din over in", d_dw, k->grad, dw, w_n, bound_of(k->grad, 2));
		check(t, "din over in", d_in, act, din, in_n, bound_of(act, 2));
	}

	t->op = "gelu_forward";
	for (size_t i = 0; i < in_n; i++)
		below[i] = round_to(below[i] * 4, act), din[i] = gelu(below[i]);
	void *d_gelu = place(t, in_n, act);
	k->gelu_forward(k, NULL, d_gelu, put(t, below, in_n, act), in_n);
	check(t, "out", d_gelu, act, din, in_n, bound_of(act, 1));
	case_end(t);
}

/* First visible columns: the starts of documents of random lengths. */
static int32_t *document_starts(struct op_tester *t, const struct shape *w)
{
	int32_t *first = host_block(t, (size_t)w->B * w->T * sizeof *first);
	for (int b = 0; b < w->B; b++)
		for (int i = 0, start = 0; i < w->T; i++) {
			if (uniform(&t->random) < 0.05)
				start = i;
			first[b * w->T + i] = start;
		}
	return first;
}

static void test_attention(struct op_tester *t, const struct shape *w)
{
	struct kernels *k = t->k;
	enum dtype act = k->act;
	size_t n = (size_t)w->B * w->T * w->C, stats = (size_t)w->B * w->H * w->T;
	case_begin(t, "attention_forward", w);
	double *qkv = numbers(t, 3 * n, act, 1.5), *out = zeros(t, n), *lse = zeros(t, stats);
	int32_t *first = w->masked ? document_starts(t, w) : NULL;
	int32_t *d_first = first ? put_ints(t, first, w->B * w->T) : NULL;
	attention(out, lse, qkv, first, w);
	void *d_qkv = put(t, qkv, 3 * n, act), *d_out = place(t, n, act);
	float *d_lse = place(t, stats, DTYPE_F32);
	k->attention_forward(k, NULL, d_out, d_lse, d_qkv, d_first, w->B, w->T, w->H, w->C / w->H, &w->drop);
	check(t, "out", d_out, act, out, n, bound_of(act, 2));
	check_against(t, "lse", d_lse, lse, stats, sqrt((double)stats), bound_of(act, 1.5));

	t->op = "attention_backward";
	double *dout = numbers(t, n, act, 1), *dqkv = zeros(t, 3 * n);
	attention_gradient(dqkv, dout, qkv, first, w);
	for (size_t i = 0; i < n; i++)
		out[i] = round_to(out[i], act);
	void *d_dqkv = place(t, 3 * n, act);
	k->attention_backward(k, NULL, d_dqkv, put(t, dout, n, act), put(t, out, n, act),
		put(t, lse, stats, DTYPE_F32), d_qkv, d_first, w->B, w->T, w->H, w->C / w->H, &w->drop);
	check(t, "dqkv", d_dqkv, act, dqkv, 3 * n, bound_of(act, 5));
	case_end(t);
}

/* A sequence fed token by token gives the rows of the causal attention. */
static void test_decode(struct op_tester *t, const struct shape *w)
{
	struct kernels *k = t->k;
	enum dtype act = k->act;
	int C = w->C, P = w->T + 2;
	size_t n = (size_t)w->B * w->T * C, cache = (size_t)w->B * P * C;
	case_begin(t, "attention_decode", w);
	double *qkv = numbers(t, 3 * n, act, 1.5), *out = zeros(t, n),
	       *lse = zeros(t, (size_t)w->B * w->H * w->T);
	double *token = zeros(t, (size_t)w->B * 3 * C), *row = zeros(t, (size_t)w->B * C);
	attention(out, lse, qkv, NULL, w);
	void *keys = place(t, cache, act), *values = place(t, cache, act);
	void *d_token = device_block(t, (size_t)w->B * 3 * C * 4), *d_row = place(t, (size_t)w->B * C, act);
	for (int i = 0; i < w->T; i++) {
		int hosts = t->hosts;
		for (int b = 0; b < w->B; b++) {
			memcpy(token + b * 3 * C, qkv + ((size_t)b * w->T + i) * 3 * C, sizeof *qkv * 3 * C);
			memcpy(row + b * C, out + ((size_t)b * w->T + i) * C, sizeof *out * C);
		}
		copy_to(t, d_token, encode(t, token, (size_t)w->B * 3 * C, act),
			(size_t)w->B * 3 * C * dtype_bytes(act));
		k->attention_decode(k, NULL, d_row, keys, values, d_token, i, w->B, P, w->H, C / w->H);
		check(t, "out", d_row, act, row, (size_t)w->B * C, bound_of(act, 2));
		while (t->hosts > hosts)
			free(t->host[--t->hosts]);
	}
	case_end(t);
}

static void test_classifier(struct op_tester *t, const struct shape *w, bool backward)
{
	struct kernels *k = t->k;
	enum dtype act = k->act;
	int R = w->B * w->T, C = w->C, VP = w->VP;
	size_t n = (size_t)R * C, wn = (size_t)VP * C;
	double scale = act == DTYPE_F16 ? 64 : 1.0 / R; /* a loss scale, which fp16 needs */
	case_begin(t, "classifier", w);
	double *x = numbers(t, n, act, 1), *wte = numbers(t, wn, act, 2 / sqrt(C)), *loss = zeros(t, R);
	double *logits = zeros(t, (size_t)R * VP), *dx = zeros(t, n), *dwte = zeros(t, wn);
	memset(wte + (size_t)w->V * C, 0, sizeof *wte * (size_t)(VP - w->V) * C);
	int32_t *targets = tokens_below(t, R, w->V);
	for (int r = 2; r < R; r += 5)
		targets[r] = -1;
	void *d_x = put(t, x, n, act), *d_wte = put(t, wte, wn, act);
	matmul(logits, x, wte, R, VP, C, false, true, false);
	double *real = zeros(t, (size_t)R * w->V);
	for (int r = 0; r < R; r++)
		memcpy(real + (size_t)r * w->V, logits + (size_t)r * VP, sizeof *real * w->V);
	cross_entropy(loss, logits, targets, w, scale);
	void *d_dx = backward ? place(t, n, act) : NULL;
	void *d_dwte = backward ? gradient_place(t, dwte, wn, w->accumulate) : NULL;
	matmul(dx, logits, wte, R, C, VP, false, false, false);
	matmul(dwte, logits, x, VP, C, R, true, false, true);
	float *d_loss = place(t, R, DTYPE_F32);
	k->classifier(k, NULL, d_loss, d_dx, d_dwte, d_x, d_wte, put_ints(t, targets, R), R, C, w->V, VP,
		(float)scale, w->accumulate);
	check_against(t, "loss", d_loss, loss, (size_t)R, sqrt(R),
		bound_of(act, backward && t->rounded_logits ? 2 : 1));
	if (backward) {
		check(t, "dx", d_dx, act, dx, n, bound_of(act, 2));
		double bound = bound_of(act, 2), grad_bound = bound_of(k->grad, 2);
		check(t, "dwte", d_dwte, k->grad, dwte, wn, bound > grad_bound ? bound : grad_bound);
	}
	t->op = "logits";
	float *d_logits = place(t, (size_t)R * w->V, DTYPE_F32);
	k->logits(k, NULL, d_logits, d_x, d_wte, R, C, w->V, VP);
	check(t, "logits", d_logits, DTYPE_F32, real, (size_t)R * w->V, bound_of(DTYPE_F32, 2));
	case_end(t);
}

static void test_adamw(struct op_tester *t, size_t n, uint64_t step, bool in_place, bool with_work)
{
	struct kernels *k = t->k;
	struct shape w = {1, (int)n, (int)step, 1, 1, 1, {.p = 0}, false, false};
	case_begin(t, "adamw", &w);
	double *p = numbers(t, n, DTYPE_F32, 0.1), *m = numbers(t, n, DTYPE_F32, 1e-3);
	double *v = numbers(t, n, DTYPE_F32, 1e-3), *g = numbers(t, n, k->grad, 1e-1);
	for (size_t i = 0; i < n; i++)
		v[i] = round_to(v[i] * v[i], DTYPE_F32);
	struct adamw a = {1e-2f, 0.9f, 0.999f, 1e-8f, 0.1f, step, 0.5f};
	void *d_p = put(t, p, n, DTYPE_F32), *d_m = put(t, m, n, DTYPE_F32), *d_v = put(t, v, n, DTYPE_F32);
	void *o_p = in_place ? d_p : place(t, n, DTYPE_F32), *o_m = in_place ? d_m : place(t, n, DTYPE_F32);
	void *o_v = in_place ? d_v : place(t, n, DTYPE_F32), *work = with_work ? place(t, n, k->act) : NULL;
	void *d_g = put(t, g, n, k->grad);
	k->adamw(k, NULL, &a, o_p, o_m, o_v, work, d_p, d_m, d_v, d_g, n);
	double b1 = (double)a.beta1, b2 = (double)a.beta2, sum = 0, before = 0, after = 0;
	for (size_t i = 0; i < n; i++) {
		double scaled = g[i] * 0.5;
		sum += g[i] * g[i];
		before += p[i] * p[i];
		m[i] = b1 * m[i] + (1 - b1) * scaled;
		v[i] = b2 * v[i] + (1 - b2) * scaled * scaled;
		p[i] *= 1 - (double)a.learning_rate * (double)a.weight_decay;
		p[i] -= (double)a.learning_rate * (m[i] / (1 - pow(b1, (double)step))) /
			(sqrt(v[i] / (1 - pow(b2, (double)step))) + (double)a.epsilon);
		after += p[i] * p[i];
	}
	check(t, "m", o_m, DTYPE_F32, m, n, 1e-6);
	check(t, "v", o_v, DTYPE_F32, v, n, 1e-6);
	/* p may cancel against its update: rounding is as large as what it was. */
	check(t, "p", o_p, DTYPE_F32, p, n, 1e-6 * fmax(1, sqrt(before / after)));
	if (with_work)
		check(t, "work", work, k->act, p, n, bound_of(k->act, 1));

	t->op = "gradient_stats";
	struct gradient_stats *d_stats = device_block(t, sizeof *d_stats), stats;
	float special[] = {INFINITY, NAN, -INFINITY};
	k->gradient_stats(k, NULL, d_stats, d_g, n);
	copy_from(t, &stats, d_stats, sizeof stats);
	record(t, "sum of squares", fabs(stats.sum_of_squares / sum - 1), 1e-12);
	record(t, "nonfinite", (double)stats.nonfinite, 0.5);
	for (int i = 0; i < 3; i++) {
		uint16_t half = k->grad == DTYPE_BF16 ? (uint16_t[]){0x7f80, 0x7fc0, 0xff80}[i]
						      : (uint16_t[]){0x7c00, 0x7e00, 0xfc00}[i];
		size_t size = dtype_bytes(k->grad), at = (n - 1) * (size_t)i / 2;
		copy_to(t, (char *)d_g + at * size, size == 4 ? (void *)&special[i] : (void *)&half, size);
	}
	k->gradient_stats(k, NULL, d_stats, d_g, n);
	copy_from(t, &stats, d_stats, sizeof stats);
	record(t, "nonfinite of three", fabs((double)stats.nonfinite - (n >= 3 ? 3 : 1)), 0.5);
	case_end(t);
}

static void test_convert(struct op_tester *t, enum dtype from, enum dtype to, size_t n)
{
	struct kernels *k = t->k;
	struct shape w = {1, (int)n, (int)from, (int)to, 1, 1, {.p = 0}, false, false};
	case_begin(t, "convert", &w);
	double *x = zeros(t, n), *want = zeros(t, n);
	for (size_t i = 0; i < n; i++) {
		x[i] = round_to(normal(&t->random) * pow(2, uniform(&t->random) * 40 - 28), from);
		want[i] = round_to(x[i], to);
		if (to == DTYPE_F16 && fabs(want[i]) > 65504)
			x[i] = want[i] = 0;
	}
	void *out = place(t, n, to);
	k->convert(k, NULL, out, to, put(t, x, n, from), from, n);
	double *got = get(t, out, n, to);
	double wrong = 0;
	for (size_t i = 0; i < n; i++)
		wrong += !(got[i] == want[i]);
	record(t, "differing numbers", wrong, 0.5);
	case_end(t);
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

static void test_products(struct op_tester *t)
{
	static const int sizes[][3] = {{1, 8, 24}, {5, 24, 72}, {33, 64, 192}, {130, 100, 36}, {70, 768, 128},
		{64, 128, 512}, {256, 256, 264}};
	for (int i = 0; i < (t->brief ? 4 : 7); i++)
		for (int variant = 0; variant < 4; variant++)
			if (!skipped(t, i, variant, 4))
				test_linear(
					t, sizes[i][0], sizes[i][1], sizes[i][2], variant & 1, variant & 2);
}

static void test_attentions(struct op_tester *t)
{
	/* B, T, H, D */
	static const int sizes[][4] = {{1, 1, 1, 8}, {2, 5, 3, 8}, {1, 64, 2, 16}, {2, 65, 2, 64},
		{1, 100, 1, 40}, {1, 130, 2, 128}, {1, 63, 1, 12}, {1, 200, 1, 32}, {1, 96, 1, 96},
		{3, 17, 2, 80}};
	for (int i = 0; i < 10; i++)
		for (int variant = 0; variant < 4; variant++) {
			if (skipped(t, i, variant, 4))
				continue;
			struct shape w = shape_of(sizes[i][0], sizes[i][1], sizes[i][2] * sizes[i][3],
				sizes[i][2], variant & 1 ? 0.2f : 0, variant & 2, false);
			reserve(t, &w);
			test_attention(t, &w);
			w.drop.p = 0;
			w.masked = false;
			if ((variant == 0 || t->brief) && i < 4)
				test_decode(t, &w);
		}
}

static void test_classifiers(struct op_tester *t)
{
	static const int sizes[][4] = {{1, 8, 97, 128}, {13, 24, 128, 128}, {70, 64, 300, 384},
		{130, 32, 1000, 1024}, {7, 128, 50, 128}};
	for (int i = 0; i < 5; i++)
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
	test_products(t);
	test_attentions(t);
	test_classifiers(t);
	test_adamw(t, 1, 1, true, false);
	test_adamw(t, 1000, 1, false, true);
	if (!t->brief) {
		test_adamw(t, 70003, 10, true, true);
		test_adamw(t, 200001, 1000, false, false);
	}
	for (int from = 0; from < 3; from++)
		for (int to = 0; to < 3; to++)
			test_convert(t, (enum dtype)from, (enum dtype)to, t->brief ? 4001 : 40001);
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
