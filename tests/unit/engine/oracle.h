/*
 * oracle.h: GPT-2's forward written again, naively and in double, straight from the definitions in kernels.h
 * (dropout too), for tests to compare with and to differentiate numerically.
 */
#ifndef TESTS_UNIT_ENGINE_ORACLE_H
#define TESTS_UNIT_ENGINE_ORACLE_H

#include "engine/model.h"
#include "kernels/dropout.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct oracle {
	const struct model_config *config;
	const struct parameter_table *table;
	const double *p; /* [table->elements] */
	uint64_t seed;
	bool dropout;
};

static const double *oracle_parameter(const struct oracle *o, int layer, const char *name)
{
	char full[64];
	if (layer >= 0)
		snprintf(full, sizeof full, "h.%d.%s", layer, name);
	else
		snprintf(full, sizeof full, "%s", name);
	const struct parameter *q = parameter_find(o->table, full);
	return q ? o->p + q->offset : NULL;
}

static double oracle_drop(const struct oracle *o, double value, float p, uint64_t window, int layer,
	enum dropout_site site, uint64_t element)
{
	if (!o->dropout || p == 0)
		return value;
	struct philox_block block = dropout_block(o->seed, window, (uint32_t)layer, site, element / 4);
	bool kept = block.word[element % 4] >= dropout_threshold(p);
	return kept ? value / (1 - (double)p) : 0;
}

/* out[n] = in[k] w[k][n] + b[n] */
static void oracle_linear(double *out, const double *in, const double *w, const double *b, int K, int N)
{
	for (int n = 0; n < N; n++) {
		double sum = b[n];
		for (int k = 0; k < K; k++)
			sum += in[k] * w[(size_t)k * (size_t)N + (size_t)n];
		out[n] = sum;
	}
}

static void oracle_layernorm(
	double *out, const double *x, const double *gamma, const double *beta, int C, double eps)
{
	double mean = 0, variance = 0;
	for (int c = 0; c < C; c++)
		mean += x[c] / C;
	for (int c = 0; c < C; c++)
		variance += (x[c] - mean) * (x[c] - mean) / C;
	for (int c = 0; c < C; c++)
		out[c] = (x[c] - mean) / sqrt(variance + eps) * gamma[c] + beta[c];
}

static double oracle_gelu(double x)
{
	return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

/* One row of attention, all heads. */
static void oracle_attend(const struct oracle *o, double *out, const double *qkv, int i, int from, int T,
	uint64_t window, int layer)
{
	int C = o->config->hidden, H = o->config->heads, D = C / H;
	double *weight = calloc((size_t)T, sizeof *weight);
	for (int h = 0; h < H; h++) {
		double sum = 0;
		for (int j = from; j <= i; j++) {
			double score = 0;
			for (int d = 0; d < D; d++)
				score += qkv[i * 3 * C + h * D + d] * qkv[j * 3 * C + C + h * D + d];
			weight[j] = exp(score / sqrt(D));
			sum += weight[j];
		}
		for (int d = 0; d < D; d++)
			out[h * D + d] = 0;
		for (int j = from; j <= i; j++) {
			double w = oracle_drop(o, weight[j] / sum, o->config->attention_dropout, window,
				layer, DROPOUT_ATTENTION,
				((uint64_t)h * (uint64_t)T + (uint64_t)i) * (uint64_t)T + (uint64_t)j);
			for (int d = 0; d < D; d++)
				out[h * D + d] += w * qkv[j * 3 * C + 2 * C + h * D + d];
		}
	}
	free(weight);
}

static void oracle_layer(
	const struct oracle *o, double *x, const int32_t *first, int T, uint64_t window, int l)
{
	const struct model_config *c = o->config;
	int C = c->hidden;
	double *qkv = calloc((size_t)(T * 3 * C), sizeof *qkv), *a = calloc((size_t)C, sizeof *a);
	double *b = calloc((size_t)C, sizeof *b), *wide = calloc((size_t)(4 * C), sizeof *wide);
	for (int t = 0; t < T; t++) {
		oracle_layernorm(a, x + t * C, oracle_parameter(o, l, "ln_1.weight"),
			oracle_parameter(o, l, "ln_1.bias"), C, (double)c->layernorm_epsilon);
		oracle_linear(qkv + t * 3 * C, a, oracle_parameter(o, l, "attn.c_attn.weight"),
			oracle_parameter(o, l, "attn.c_attn.bias"), C, 3 * C);
	}
	for (int t = 0; t < T; t++) {
		double *row = x + t * C;
		oracle_attend(o, a, qkv, t, first ? first[t] : 0, T, window, l);
		oracle_linear(b, a, oracle_parameter(o, l, "attn.c_proj.weight"),
			oracle_parameter(o, l, "attn.c_proj.bias"), C, C);
		for (int i = 0; i < C; i++)
			row[i] += oracle_drop(o, b[i], c->hidden_dropout, window, l, DROPOUT_ATTENTION_OUTPUT,
				(uint64_t)(t * C + i));
		oracle_layernorm(a, row, oracle_parameter(o, l, "ln_2.weight"),
			oracle_parameter(o, l, "ln_2.bias"), C, (double)c->layernorm_epsilon);
		oracle_linear(wide, a, oracle_parameter(o, l, "mlp.c_fc.weight"),
			oracle_parameter(o, l, "mlp.c_fc.bias"), C, 4 * C);
		for (int i = 0; i < 4 * C; i++)
			wide[i] = oracle_gelu(wide[i]);
		oracle_linear(b, wide, oracle_parameter(o, l, "mlp.c_proj.weight"),
			oracle_parameter(o, l, "mlp.c_proj.bias"), 4 * C, C);
		for (int i = 0; i < C; i++)
			row[i] += oracle_drop(o, b[i], c->hidden_dropout, window, l, DROPOUT_MLP_OUTPUT,
				(uint64_t)(t * C + i));
	}
	free(qkv);
	free(a);
	free(b);
	free(wide);
}

static double oracle_loss_of_row(const struct oracle *o, const double *x, int target)
{
	int C = o->config->hidden, V = o->config->vocabulary;
	const double *wte = oracle_parameter(o, -1, "wte.weight");
	double sum = 0, hit = 0;
	for (int v = 0; v < V; v++) {
		double logit = 0;
		for (int i = 0; i < C; i++)
			logit += x[i] * wte[v * C + i];
		sum += exp(logit);
		if (v == target)
			hit = logit;
	}
	return log(sum) - hit;
}

/* Losses of every row, 0 where not counted; returns their sum. */
static double oracle_losses(const struct oracle *o, const struct model_batch *batch, double *losses)
{
	const struct model_config *c = o->config;
	int C = c->hidden, T = batch->sequence;
	const double *wte = oracle_parameter(o, -1, "wte.weight"),
		     *wpe = oracle_parameter(o, -1, "wpe.weight");
	double *x = calloc((size_t)(T * C), sizeof *x), *y = calloc((size_t)C, sizeof *y), total = 0;
	for (int b = 0; b < batch->batch; b++) {
		uint64_t window = batch->window + (uint64_t)b;
		for (int t = 0; t < T; t++) {
			int r = b * T + t, position = batch->positions ? batch->positions[r] : t;
			for (int i = 0; i < C; i++)
				x[t * C + i] =
					oracle_drop(o, wte[batch->inputs[r] * C + i] + wpe[position * C + i],
						c->embedding_dropout, window, 0, DROPOUT_EMBEDDING,
						(uint64_t)(t * C + i));
		}
		for (int l = 0; l < c->layers; l++)
			oracle_layer(o, x, batch->first ? batch->first + b * T : NULL, T, window, l);
		for (int t = 0; t < T; t++) {
			int r = b * T + t, target = batch->targets[r];
			oracle_layernorm(y, x + t * C, oracle_parameter(o, -1, "ln_f.weight"),
				oracle_parameter(o, -1, "ln_f.bias"), C, (double)c->layernorm_epsilon);
			losses[r] = target < 0 ? 0 : oracle_loss_of_row(o, y, target);
			total += losses[r];
		}
	}
	free(x);
	free(y);
	return total;
}

#endif
