/* op_cases.h: a case of each operation, of any shape. Part of op_tester.c. */
#ifndef TESTS_OPS_OP_CASES_H
#define TESTS_OPS_OP_CASES_H

#include "tests/ops/op_check.h"

static inline void test_embedding(struct op_tester *t, const struct shape *w, bool with_positions)
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

static inline void test_layernorm(struct op_tester *t, const struct shape *w, bool with_branch)
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
static inline void *changed_weight(struct op_tester *t, const double *weight, const struct shape *w, int N)
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

static inline void test_linear(struct op_tester *t, int R, int K, int N, bool with_pre, bool accumulate)
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
static inline int32_t *document_starts(struct op_tester *t, const struct shape *w)
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

static inline void test_attention(struct op_tester *t, const struct shape *w)
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
static inline void test_decode(struct op_tester *t, const struct shape *w)
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

/* Half a unit in the last place of the largest of x[0..n). A loss from logits that are rounded errs by the mean of their
 * roundings, each weighted by its probability: in one row by this much at most, in R independent rows by 1/sqrt(R) of it. */
static inline double largest_rounding(const double *x, size_t n, enum dtype type)
{
	int exponent, bits = type == DTYPE_F32 ? 24 : type == DTYPE_BF16 ? 8 : 11;
	double largest = 0;
	for (size_t i = 0; i < n; i++)
		largest = fmax(largest, fabs(x[i]));
	(void)frexp(largest, &exponent); /* largest < 2^exponent */
	return ldexp(1, exponent - bits - 1);
}

static inline void test_classifier(struct op_tester *t, const struct shape *w, bool backward)
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
	double loss_bound = bound_of(act, 1);
	if (backward && t->rounded_logits)
		loss_bound = fmax(bound_of(act, 2), largest_rounding(real, (size_t)R * w->V, act) / sqrt(R));
	check_against(t, "loss", d_loss, loss, (size_t)R, sqrt(R), loss_bound);
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

static inline void test_adamw(struct op_tester *t, size_t n, uint64_t step, bool in_place, bool with_work)
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

static inline void test_convert(struct op_tester *t, enum dtype from, enum dtype to, size_t n)
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

/* Every second piece or so of a stretch from the 5th on, out and back to other places. */
static inline void test_pieces(struct op_tester *t, enum dtype type, size_t pieces)
{
	enum { FIRST = 5, SIZE = KERNELS_PIECE };
	struct kernels *k = t->k;
	struct shape w = {1, (int)pieces, SIZE, (int)type, 1, 1, {.p = 0}, false, false};
	case_begin(t, "gather", &w);
	size_t n = pieces * SIZE, count = 0;
	double *x = numbers(t, n, type, 1), *together = zeros(t, n), *back = zeros(t, n);
	int32_t *list = host_block(t, (pieces + 1) * sizeof *list);
	for (size_t i = 0; i < pieces; i++)
		if (next_random(&t->random) % 2) {
			memcpy(together + count * SIZE, x + i * SIZE, SIZE * sizeof *x);
			memcpy(back + i * SIZE, x + i * SIZE, SIZE * sizeof *x);
			list[count++] = FIRST + (int32_t)i;
		}
	if (count < pieces)
		list[count++] = FIRST - 1; /* outside: left alone */
	const uint32_t *there = put_bytes(t, list, (pieces + 1) * sizeof *list);
	void *d_together = put(t, zeros(t, n), n, type), *d_back = put(t, zeros(t, n), n, type);
	k->gather(k, NULL, d_together, put(t, x, n, type), there, count, FIRST, (uint32_t)pieces, type);
	check(t, "pieces", d_together, type, together, n, 1e-300);
	t->op = "scatter";
	k->scatter(k, NULL, d_back, d_together, there, count, FIRST, (uint32_t)pieces, type);
	check(t, "places", d_back, type, back, n, 1e-300);
	case_end(t);
}

#endif
