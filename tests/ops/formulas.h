/* formulas.h: what each operation computes, forward and backward, naively and in fp64. */
#ifndef TESTS_OPS_FORMULAS_H
#define TESTS_OPS_FORMULAS_H

#include "tests/ops/numbers.h"

#include <stdlib.h>
#include <string.h>

static inline double gelu(double x)
{
	return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

static inline double gelu_slope(double x)
{
	double t = tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x));
	return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
}

/* c [m][n] = or += a b; at and bt say that a, b are stored transposed. */
static inline void matmul(
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

static inline void drop_rows(double *x, const struct shape *w)
{
	for (int r = 0; r < w->B * w->T; r++)
		for (int c = 0; c < w->C; c++)
			x[r * w->C + c] *= drop_factor(&w->drop, r / w->T, (uint64_t)(r % w->T) * w->C + c);
}

static inline void layernorm(double *out, double *mean, double *rstd, const double *x, const double *gamma,
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

static inline void layernorm_gradient(double *dx, double *dgamma, double *dbeta, const double *dout,
	const double *x, const double *gamma, const double *mean, const double *rstd, int R, int C)
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

static inline struct head head_of(
	const struct shape *w, const double *qkv, const int32_t *first, int b, int h)
{
	int D = w->C / w->H;
	const double *q = qkv + (size_t)b * w->T * 3 * w->C + h * D;
	struct head head = {q, q + w->C, q + 2 * w->C, 3 * w->C, w->T, D, b, h,
		first ? first + b * w->T : NULL, &w->drop};
	return head;
}

/* Probabilities of row i, before dropout; returns logsumexp. */
static inline double head_probabilities(const struct head *w, double *p, int i)
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

static inline double head_drop(const struct head *w, int i, int j)
{
	return drop_factor(w->drop, w->b, ((uint64_t)w->h * w->T + i) * w->T + j);
}

static inline void attention(
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
static inline void attention_gradient(
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
static inline void cross_entropy(
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

#endif
