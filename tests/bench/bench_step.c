/*
 * bench_step [fp32|bf16] [reference|124m] [BxT] [threads] [steps] [checkpoint]: whole training steps
 * (forward, backward, norm, AdamW) on random tokens, without dropout as its PyTorch counterpart
 * (torch_step.py): median milliseconds and tokens a second; then the same matrix products alone, through the
 * same wrapper, and what share of their rate the step reaches. One thread is timed by processor time, which other
 * work on the machine disturbs less.
 */
#include "common/clock.h"
#include "common/memory.h"
#include "common/philox.h"
#include "common/threads.h"
#include "engine/optimizer.h"
#include "kernels/cpu/gemm.h"
#include "tests/bench/median.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_STEPS = 1000, GEMM_REPEATS = 5 };

struct bench {
	struct model_config config;
	int B, T, threads, steps;
	bool checkpoint;
	struct kernels k;
	struct model *model;
	struct optimizer *optimizer;
	float *master;
	void *weights, *gradients;
	float *losses;
	int32_t *tokens;                                             /* [R + 1] */
	double head_done, seconds[3][MOST_STEPS], total[MOST_STEPS]; /* forward and head, layers, update */
};

static double now(const struct bench *b)
{
	return b->threads == 1 ? threads_processor_seconds() : clock_seconds();
}

/* ---- steps ---- */

static enum status note_head(void *user, int layer)
{
	struct bench *b = user;
	if (layer == b->config.layers)
		b->head_done = now(b);
	return STATUS_OK;
}

static enum status step(struct bench *b, int n)
{
	int R = b->B * b->T;
	struct model_batch batch = {
		.inputs = b->tokens, .targets = b->tokens + 1, .batch = b->B, .sequence = b->T};
	double start = now(b);
	TRY(model_train(
		b->model, b->weights, b->gradients, &batch, 1.0f / (float)R, false, b->losses, note_head, b));
	TRY(b->k.stream_wait(&b->k, NULL));
	double done = now(b);
	struct optimizer_measure measure;
	TRY(optimizer_measure(b->optimizer, b->gradients, 1, &measure));
	void *work = b->k.act == DTYPE_F32 ? NULL : b->weights;
	optimizer_update(b->optimizer, b->master, work, b->gradients, 1e-4, (uint64_t)n + 1,
		optimizer_clip(b->optimizer, measure.norm));
	TRY(b->k.stream_wait(&b->k, NULL));
	double end = now(b);
	int i = n ? n - 1 : 0; /* the first step warms up; its figures are written over */
	b->seconds[0][i] = b->head_done - start;
	b->seconds[1][i] = done - b->head_done;
	b->seconds[2][i] = end - done;
	b->total[i] = end - start;
	return STATUS_OK;
}

static enum status open_bench(struct bench *b, enum dtype act)
{
	int R = b->B * b->T;
	struct kernels_config kernels = {.act = act, .grad = DTYPE_F32, .threads = b->threads};
	TRY(kernels_open_cpu(&kernels, &b->k));
	struct model_options options = {
		.batch = b->B, .sequence = b->T, .training = true, .checkpoint_activations = b->checkpoint};
	TRY(model_open(&b->config, &options, &b->k, &b->model));
	const struct parameter_table *table = model_parameters(b->model);
	struct optimizer_config adam = {
		.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .weight_decay = 0.01, .max_norm = 1};
	TRY(optimizer_open(&adam, table, &b->k, &b->optimizer));
	struct kernels *k = &b->k;
	TRY(k->memory_alloc(k, (void **)&b->master, table->elements * sizeof(float), "master weights"));
	TRY(k->memory_alloc(k, &b->gradients, table->elements * sizeof(float), "gradients"));
	TRY(k->memory_alloc(k, (void **)&b->losses, (size_t)R * sizeof(float), "losses"));
	TRY(k->memory_alloc(k, (void **)&b->tokens, ((size_t)R + 1) * sizeof(int32_t), "tokens"));
	parameters_initialize(&b->config, table, 1, b->master);
	b->weights = b->master;
	if (act != DTYPE_F32) {
		TRY(k->memory_alloc(k, &b->weights, table->elements * dtype_bytes(act), "weights"));
		k->convert(k, NULL, b->weights, act, b->master, DTYPE_F32, table->elements);
	}
	for (int i = 0; i <= R; i++)
		b->tokens[i] = (int32_t)(philox_4x32_10((uint32_t)i, 0, 0, 0, 1, 1).word[0] % 50257);
	return k->stream_wait(k, NULL);
}

/* ---- the same products alone ---- */

struct product {
	const char *name;
	int m, n, k, calls;
	bool a_transposed, b_transposed, weight, f32_out;
};

static double product_seconds(struct bench *b, const struct product *p, void *a, void *w, void *c)
{
	enum dtype act = b->k.act;
	struct gemm_product g = {.m = p->m,
		.n = p->n,
		.k = p->k,
		.a = a,
		.b = w,
		.c = c,
		.lda = p->a_transposed ? p->m : p->k,
		.ldb = p->b_transposed ? p->k : p->n,
		.ldc = p->n,
		.a_transposed = p->a_transposed,
		.b_transposed = p->b_transposed,
		.in = act,
		.out = p->f32_out ? DTYPE_F32 : act,
		.weight = p->weight};
	double seconds[GEMM_REPEATS];
	gemm_run(&b->k, &g);
	for (int i = 0; i < GEMM_REPEATS; i++) {
		double start = now(b);
		gemm_run(&b->k, &g);
		seconds[i] = now(b) - start;
	}
	return median(seconds, GEMM_REPEATS);
}

/* Forward, gradient of the input, gradient of the weight, of each product; the head's over all rows at once.
 */
static enum status measure_products(struct bench *b, double *seconds, double *flops)
{
	int R = b->B * b->T, C = b->config.hidden, L = b->config.layers, VP = b->config.vocabulary_padded;
	struct {
		const char *name;
		int K, N, calls;
		bool head;
	} linear[] = {{"qkv", C, 3 * C, L, false}, {"projection", C, C, L, false}, {"fc", C, 4 * C, L, false},
		{"fc projection", 4 * C, C, L, false}, {"head", C, VP, 1, true}};
	size_t most = (size_t)VP * (size_t)(R > C ? R : C);
	void *a, *w, *c;
	for (int i = 0; i < 3; i++)
		TRY(b->k.memory_alloc(&b->k,
			i == 0   ? &a
			: i == 1 ? &w
				 : &c,
			most * sizeof(float), "products"));
	/* Ones: zeros or denormals might run at another speed. */
	void *blocks[] = {a, w};
	for (int i = 0; i < 2; i++)
		for (size_t e = 0; e < most; e++)
			if (b->k.act == DTYPE_F32)
				((float *)blocks[i])[e] = 1;
			else
				((uint16_t *)blocks[i])[e] = 0x3f80;
	*seconds = *flops = 0;
	for (size_t i = 0; i < sizeof linear / sizeof *linear; i++) {
		int K = linear[i].K, N = linear[i].N;
		bool head = linear[i].head; /* wte is [V][C]: its products are transposed */
		struct product three[] = {
			{"out", R, N, K, 0, false, head, true, head},
			{"din", R, K, N, 0, false, !head, true, false},
			{"dw", head ? N : K, head ? K : N, R, 0, true, false, false, true},
		};
		printf("  %-14s", linear[i].name);
		for (int j = 0; j < 3; j++) {
			double one = product_seconds(b, &three[j], a, w, c), work = 2.0 * R * K * N;
			printf("  %s %6.1f ms %5.0f GFLOP/s", three[j].name, one * 1e3, work / one * 1e-9);
			*seconds += one * linear[i].calls;
			*flops += work * linear[i].calls;
		}
		printf("\n");
	}
	return b->k.stream_wait(&b->k, NULL);
}

static enum status run(struct bench *b, enum dtype act)
{
	TRY(open_bench(b, act));
	for (int n = 0; n <= b->steps; n++)
		TRY(step(b, n));
	double rss = (double)memory_peak_resident() * 1e-9;
	double part[3], total = median(b->total, b->steps);
	for (int i = 0; i < 3; i++)
		part[i] = median(b->seconds[i], b->steps);
	int R = b->B * b->T;
	printf("%s, %s, %d layers x %d, batch %d x %d%s\n", b->k.name, dtype_name(act), b->config.layers,
		b->config.hidden, b->B, b->T, b->checkpoint ? ", activations checkpointed" : "");
	printf("step %.0f ms (fastest %.0f): forward and head %.0f, layers backward %.0f, update %.0f; %.1f "
	       "tokens/s; peak RSS %.2f GB\n",
		total * 1e3, b->total[0] * 1e3, part[0] * 1e3, part[1] * 1e3, part[2] * 1e3, R / total, rss);
	double gemm_seconds, gemm_flops;
	TRY(measure_products(b, &gemm_seconds, &gemm_flops));
	/* Causal attention: half of T x T; two products forward, four backward (what is recomputed not
	 * counted). */
	double attention = 6.0 * b->config.layers * (double)b->B * b->T * b->T * b->config.hidden;
	double rate = gemm_flops / gemm_seconds, step_rate = (gemm_flops + attention) / total;
	printf("products alone %.0f ms (%.0f%% of the step) at %.0f GFLOP/s; the step, attention counted: "
	       "%.0f "
	       "GFLOP/s, %.1f%% of that rate\n",
		gemm_seconds * 1e3, 100 * gemm_seconds / total, rate * 1e-9, step_rate * 1e-9,
		100 * step_rate / rate);
	return STATUS_OK;
}

int main(int argc, char **argv)
{
	static struct bench b = {.B = 1, .T = 1024, .steps = 5};
	enum dtype act = argc > 1 && strcmp(argv[1], "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32;
	b.config = (struct model_config){.positions = 1024,
		.vocabulary = 50257,
		.vocabulary_padded = 50304,
		.layernorm_epsilon = 1e-5f};
	const char *name = argc > 2 && strcmp(argv[2], "124m") == 0 ? "gpt2" : "reference";
	bool good = model_config_named(name, &b.config);
	good = good && (argc <= 3 || sscanf(argv[3], "%dx%d", &b.B, &b.T) == 2);
	b.threads = argc > 4 ? atoi(argv[4]) : threads_available();
	b.steps = argc > 5 ? atoi(argv[5]) : b.steps;
	b.checkpoint = argc > 6;
	if (!good || b.threads < 1 || b.steps < 1 || b.steps > MOST_STEPS) {
		fprintf(stderr, "usage: bench_step [fp32|bf16] [reference|124m] [BxT] [threads] [steps] "
				"[checkpoint]\n");
		return 2;
	}
	if (run(&b, act) != STATUS_OK) {
		fprintf(stderr, "bench_step: %s\n", error_message());
		return 1;
	}
	return 0;
}
