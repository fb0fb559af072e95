/*
 * What the CUDA table reaches, as JSON on standard output.
 *
 *    bench_cuda ops                               every operation at the reference run's shape, bf16
 *    bench_cuda attention                         of them attention without dropout, in a line
 *    bench_cuda step NAME L C H B T P CKPT TYPE   whole steps (forward, backward, norm, AdamW on the GPU):
 *                                                 dropout P, CKPT 1 recomputes activations,
 *                                                 TYPE bf16|fp16|fp32
 *    bench_cuda tune NAME L C H B T P CKPT TYPE   two such steps with $FERRY_CUDA_TUNE algorithms of each
 *                                                 product timed (16), and what was chosen, as the file that
 *                                                 $FERRY_CUDA_CHOICES takes (kernels/cuda/gemm.cu)
 *
 * Times are events' around a batch of calls, the median of several batches. Bytes are the fewest that the
 * operation must move (each input read once, each output written once), operations the fewest that it must do
 * (attention counted as causal, its backward as 2.5 forwards).
 */
#include "common/clock.h"
#include "tests/bench/median.h"
#include "tests/gpu/training.h"
#include "tests/ops/choices.h"

#include <dlfcn.h>

/* ---- operations ---- */

#ifdef GPU_DRY_RUN /* a trial of this program on the emulated device */
enum { B = 1, T = 64, C = 64, H = 1, V = 300, VP = 320 };
enum { samples = 1, calls = 1, warm = 1, measured = 2 };
#else
enum { B = 24, T = 1024, C = 1024, H = 16, V = 50257, VP = 50304 };
enum { samples = 9, calls = 4, warm = 4, measured = 20 };
#endif
enum { D = C / H, R = B * T };

struct bench {
	struct kernels k;
	uint16_t *x, *y, *z, *wide, *wide2, *qkv, *dqkv, *wte, *w; /* bf16 */
	float *f, *grad, *master, *m, *v, *loss;
	int32_t *tokens;
	struct gradient_stats *stats;
	struct dropout none, drop;
	bool comma, one_line;
};

typedef void operation(struct bench *b);

static void time_operation(struct bench *b, const char *name, operation *run, double flops, double bytes)
{
	struct kernels *k = &b->k;
	struct event *from, *to;
	double seconds[samples];
	must(k->event_open(k, &from));
	must(k->event_open(k, &to));
	run(b);
	run(b);
	for (int s = 0; s < samples; s++) {
		k->event_record(k, from, NULL);
		for (int c = 0; c < calls; c++)
			run(b);
		k->event_record(k, to, NULL);
		must(k->stream_wait(k, NULL));
		seconds[s] = k->event_seconds(k, from, to) / calls;
	}
	double t = median(seconds, samples);
	printf("%s%s{\"op\": \"%s\", \"us\": %.1f, \"fastest_us\": %.1f, \"slowest_us\": %.1f, "
	       "\"gb_per_s\": %.0f, "
	       "\"tflop_per_s\": %.1f}",
		b->comma ? "," : "", b->one_line ? " " : "\n  ", name, t * 1e6, seconds[0] * 1e6,
		seconds[samples - 1] * 1e6, bytes / t * 1e-9, flops / t * 1e-12);
	fflush(stdout);
	b->comma = true;
	k->event_close(k, from);
	k->event_close(k, to);
}

static void run_copy(struct bench *b)
{
	b->k.copy(&b->k, NULL, b->wide2, b->wide, (size_t)R * 4 * C * 2);
}
static void run_embedding_forward(struct bench *b)
{
	b->k.embedding_forward(&b->k, NULL, b->x, b->tokens, NULL, b->wte, b->w, B, T, C, &b->drop);
}
static void run_embedding_backward(struct bench *b)
{
	b->k.embedding_backward(
		&b->k, NULL, b->grad, b->f, b->y, b->tokens, NULL, B, T, C, T, &b->drop, false);
}
static void run_layernorm_forward(struct bench *b)
{
	b->k.layernorm_forward(&b->k, NULL, b->x, b->z, b->f, b->f + R, b->y, b->wide, b->w, b->w + C, B, T,
		C, 1e-5f, &b->none);
}
static void run_layernorm_forward_dropout(struct bench *b)
{
	b->k.layernorm_forward(&b->k, NULL, b->x, b->z, b->f, b->f + R, b->y, b->wide, b->w, b->w + C, B, T,
		C, 1e-5f, &b->drop);
}
static void layernorm_backward(struct bench *b, void *dbranch, const struct dropout *drop)
{
	b->k.layernorm_backward(&b->k, NULL, b->x, b->x, dbranch, b->grad, b->grad + C, b->y, b->z, b->w,
		b->f, b->f + R, B, T, C, drop, false);
}
static void run_layernorm_backward(struct bench *b)
{
	layernorm_backward(b, NULL, &b->none);
}
static void run_layernorm_backward_dropout(struct bench *b)
{
	layernorm_backward(b, b->wide, &b->drop);
}
static void run_linear_qkv(struct bench *b)
{
	b->k.linear_forward(&b->k, NULL, b->dqkv, NULL, b->x, b->w, b->w, R, C, 3 * C);
}
static void run_linear_gelu(struct bench *b)
{
	b->k.linear_forward(&b->k, NULL, b->wide2, b->wide, b->x, b->w, b->w, R, C, 4 * C);
}
static void run_linear_down(struct bench *b)
{
	b->k.linear_forward(&b->k, NULL, b->y, NULL, b->wide, b->w, b->w, R, 4 * C, C);
}
static void run_linear_backward_qkv(struct bench *b)
{
	b->k.linear_backward(&b->k, NULL, b->y, b->grad, b->grad + 4 * C * C, b->qkv, b->x, b->w, NULL, R, C,
		3 * C, false);
}
static void run_linear_backward_gelu(struct bench *b)
{
	b->k.linear_backward(&b->k, NULL, b->wide2, b->grad, b->grad + 4 * C * C, b->x, b->wide, b->w,
		b->wide, R, 4 * C, C, false);
}
static void run_linear_backward_up(struct bench *b)
{
	b->k.linear_backward(&b->k, NULL, b->y, b->grad, b->grad + 4 * C * C, b->wide, b->x, b->w, NULL, R, C,
		4 * C, false);
}
static void run_gelu(struct bench *b)
{
	b->k.gelu_forward(&b->k, NULL, b->wide2, b->wide, (uint64_t)R * 4 * C);
}
static void run_attention_forward(struct bench *b)
{
	b->k.attention_forward(&b->k, NULL, b->y, b->f, b->qkv, NULL, B, T, H, D, &b->none);
}
static void run_attention_forward_dropout(struct bench *b)
{
	b->k.attention_forward(&b->k, NULL, b->y, b->f, b->qkv, NULL, B, T, H, D, &b->drop);
}
static void run_attention_backward(struct bench *b)
{
	b->k.attention_backward(&b->k, NULL, b->dqkv, b->x, b->y, b->f, b->qkv, NULL, B, T, H, D, &b->none);
}
static void run_attention_backward_dropout(struct bench *b)
{
	b->k.attention_backward(&b->k, NULL, b->dqkv, b->x, b->y, b->f, b->qkv, NULL, B, T, H, D, &b->drop);
}
static void run_classifier(struct bench *b)
{
	b->k.classifier(
		&b->k, NULL, b->loss, b->y, b->grad, b->x, b->wte, b->tokens, R, C, V, VP, 1.0f / R, false);
}
static void run_evaluation(struct bench *b)
{
	b->k.classifier(&b->k, NULL, b->loss, NULL, NULL, b->x, b->wte, b->tokens, R, C, V, VP, 1, false);
}
static void run_stats(struct bench *b)
{
	b->k.gradient_stats(&b->k, NULL, b->stats, b->grad, (uint64_t)VP * C);
}
static void run_adamw(struct bench *b)
{
	struct adamw a = {1e-4f, 0.9f, 0.95f, 1e-8f, 0.1f, 10, 1};
	b->k.adamw(&b->k, NULL, &a, b->master, b->m, b->v, b->wte, b->master, b->m, b->v, b->grad,
		(uint64_t)VP * C);
}

/* n numbers of a normal-like distribution (the sum of four uniform ones), as bf16 and f32. */
static void *random_halves(struct bench *b, size_t n, float scale)
{
	uint16_t *host = malloc(n * 2), *device;
	uint64_t x = n;
	for (size_t i = 0; i < n; i++) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		float sum = 0;
		for (int part = 0; part < 4; part++)
			sum += (float)(x >> (16 * part) & 0xffff) / 65536.0f - 0.5f;
		union {
			float f;
			uint32_t u;
		} bits = {.f = sum * 1.7f * scale};
		host[i] = (uint16_t)(bits.u >> 16);
	}
	must(b->k.memory_alloc(&b->k, (void **)&device, n * 2, "benchmark"));
	must(pinned_copy_in(&b->k, device, host, n * 2));
	free(host);
	return device;
}

static void *block(struct bench *b, size_t bytes)
{
	void *out;
	must(b->k.memory_alloc(&b->k, &out, bytes, "benchmark"));
	return out;
}

/* "cuDNN 9.19.0", "ferry", "cuDNN 9.19.0 and ferry": what took the attention that was without dropout. */
static const char *attention_way(struct kernels *k, char way[64])
{
	int shown = 0;
	bool found = sscanf(k->attention, "cuDNN %*s%n", &shown) == 0 && shown > 0;
	if (found && attention_by_cudnn(k) > 0)
		snprintf(
			way, 64, "%.*s%s", shown, k->attention, attention_by(k, "ferry") ? " and ferry" : "");
	else
		snprintf(way, 64, "ferry");
	return way;
}

static void bench_attention(struct bench *b, double pairs, double p)
{
	time_operation(b, "attention_forward", run_attention_forward, 4 * D * pairs, 4 * p);
	time_operation(b, "attention_backward", run_attention_backward, 10 * D * pairs, 8 * p);
}

static void bench_operations(bool attention_alone)
{
	static struct bench bench;
	struct bench *b = &bench;
	struct kernels_config config = {.act = DTYPE_BF16, .grad = DTYPE_F32};
	must(kernels_open_cuda(&config, &b->k));
	struct kernel_shapes shapes = {B, T, C, H, V, VP, 1, true};
	must(b->k.reserve(&b->k, &shapes));
	size_t plane = (size_t)R * C;
	b->x = random_halves(b, plane, 1);
	b->y = random_halves(b, plane, 1);
	b->z = random_halves(b, plane, 1);
	b->wide = random_halves(b, 4 * plane, 1);
	b->wide2 = block(b, 8 * plane);
	b->qkv = random_halves(b, 3 * plane, 1);
	b->dqkv = block(b, 6 * plane);
	b->wte = random_halves(b, (size_t)VP * C, 0.05f);
	b->w = random_halves(b, (size_t)4 * C * C, 0.03f);
	b->f = block(b, plane * 4);
	b->loss = block(b, R * 4);
	b->grad = block(b, (size_t)VP * C * 4);
	b->master = block(b, (size_t)VP * C * 4);
	b->m = block(b, (size_t)VP * C * 4);
	b->v = block(b, (size_t)VP * C * 4);
	b->stats = block(b, sizeof *b->stats);
	b->drop = (struct dropout){0.1f, 3, 5, 1, DROPOUT_ATTENTION};
	int32_t *tokens = malloc(R * 4);
	uint64_t x = 1;
	for (int r = 0; r < R; r++) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		double u = (double)(x >> 40) / (1 << 24);
		tokens[r] = (int32_t)(u * u * u * u * V); /* a few tokens are frequent, as in text */
	}
	b->tokens = block(b, R * 4);
	must(pinned_copy_in(&b->k, b->tokens, tokens, R * 4));
	free(tokens);

	double p = (double)plane * 2, RC2 = 2.0 * R * C * C, pairs = (double)B * H * T * (T + 1) / 2;
	double embedding = (double)VP * C;
	if (attention_alone) {
		char way[64];
		b->one_line = true;
		printf("{\"ops\": [");
		bench_attention(b, pairs, p);
		printf("], \"attention\": \"%s\"}\n", attention_way(&b->k, way));
		return;
	}
	printf("{\"device\": \"%s\", \"shape\": \"B %d, T %d, C %d, H %d, V %d, bf16, gradients fp32, "
	       "dropout 0.1 "
	       "where said\", \"ops\": [",
		b->k.name, B, T, C, H, V);
	time_operation(b, "copy", run_copy, 0, 8 * p);
	time_operation(b, "embedding_forward, dropout", run_embedding_forward, 0, 2 * p);
	time_operation(b, "embedding_backward, dropout", run_embedding_backward, 0, 3 * p);
	time_operation(b, "layernorm_forward", run_layernorm_forward, 0, 4 * p);
	time_operation(b, "layernorm_forward, dropout", run_layernorm_forward_dropout, 0, 4 * p);
	time_operation(b, "layernorm_backward", run_layernorm_backward, 0, 4 * p);
	time_operation(b, "layernorm_backward, dropout", run_layernorm_backward_dropout, 0, 5 * p);
	time_operation(b, "linear_forward qkv", run_linear_qkv, 3 * RC2, 4 * p);
	time_operation(b, "linear_forward up + gelu", run_linear_gelu, 4 * RC2, 9 * p);
	time_operation(b, "linear_forward down", run_linear_down, 4 * RC2, 5 * p);
	time_operation(b, "linear_backward qkv", run_linear_backward_qkv, 6 * RC2, 5 * p);
	time_operation(b, "linear_backward up", run_linear_backward_up, 8 * RC2, 6 * p);
	time_operation(b, "linear_backward down + gelu", run_linear_backward_gelu, 8 * RC2, 13 * p);
	time_operation(b, "gelu_forward", run_gelu, 0, 8 * p);
	bench_attention(b, pairs, p);
	time_operation(b, "attention_forward, dropout", run_attention_forward_dropout, 4 * D * pairs, 4 * p);
	time_operation(
		b, "attention_backward, dropout", run_attention_backward_dropout, 10 * D * pairs, 8 * p);
	time_operation(b, "classifier", run_classifier, 6.0 * R * embedding, 2 * p + 6 * embedding);
	time_operation(b, "classifier, loss alone", run_evaluation, 2.0 * R * embedding, p + 2 * embedding);
	time_operation(b, "gradient_stats", run_stats, 0, 4 * embedding);
	time_operation(b, "adamw", run_adamw, 0, 30 * embedding);
	printf("\n]}\n");
}

/* ---- whole steps ---- */

/* Bytes in use on the device, the driver's own included; 0 where the driver does not tell. */
static double device_bytes(void)
{
	void *driver = dlopen("libcuda.so.1", RTLD_NOW);
	int (*info)(size_t *, size_t *) = NULL;
	if (driver)
		*(void **)&info = dlsym(driver, "cuMemGetInfo_v2");
	size_t unused = 0, total = 0;
	return info && info(&unused, &total) == 0 ? (double)(total - unused) : 0;
}

/* A model of those arguments, and its batch. */
static void open_step(struct training *t, char **a)
{
	*t = (struct training){0};
	enum dtype type = !strcmp(a[8], "fp32") ? DTYPE_F32 : !strcmp(a[8], "fp16") ? DTYPE_F16 : DTYPE_BF16;
	struct kernels_config config = {.act = type, .grad = DTYPE_F32};
	must(kernels_open_cuda(&config, &t->k));
	int batch = atoi(a[4]), sequence = atoi(a[5]);
	float p = strtof(a[6], NULL);
	t->config = (struct model_config){.layers = atoi(a[1]),
		.hidden = atoi(a[2]),
		.heads = atoi(a[3]),
		.positions = sequence,
		.vocabulary = V,
		.vocabulary_padded = VP,
		.embedding_dropout = p,
		.attention_dropout = p,
		.hidden_dropout = p,
		.layernorm_epsilon = 1e-5f};
	training_open(t, batch, sequence, atoi(a[7]));
	training_batch(t, 1);
}

static double loss_scale(const struct training *t)
{
	return t->k.act == DTYPE_F16 ? 4096 : 1;
}

static void tune_step(char **a)
{
	struct training t;
	char text[KERNELS_CHOICE];
	setenv("FERRY_CUDA_TUNE", "16", 0);
	open_step(&t, a);
	for (uint64_t s = 1; s <= 2; s++)
		training_step(&t, s, loss_scale(&t), 3e-4);
	printf("choices-1 %s\n", t.k.name);
	for (int i = 0; t.k.choice_get(&t.k, i, text); i++)
		printf("%s\n", text);
	training_close(&t);
}

static void bench_step(char **a)
{
	struct training t;
	double seconds[measured], first_loss = 0;
	open_step(&t, a);
	double scale = loss_scale(&t);
	for (int s = 0; s < warm + measured; s++) {
		double start = clock_seconds();
		training_step(&t, (uint64_t)s + 1, scale, 3e-4); /* ends in a wait */
		if (s >= warm)
			seconds[s - warm] = clock_seconds() - start;
		if (s == 0)
			first_loss = training_loss(&t);
	}
	double s = median(seconds, measured), tokens = (double)t.batch * t.sequence;
	double counted = (double)model_parameters(t.model)->counted;
	double flops = (6 * counted + 6.0 * t.config.layers * t.config.hidden * t.sequence) * tokens;
	char way[64];
	printf("{\"name\": \"%s\", \"system\": \"ferry\", \"layers\": %d, \"hidden\": %d, \"heads\": %d, "
	       "\"batch\": %d, "
	       "\"sequence\": %d, \"dropout\": %g, \"recompute\": %s, \"type\": \"%s\", \"ms\": %.2f, "
	       "\"fastest_ms\": %.2f, \"slowest_ms\": %.2f, \"tokens_per_s\": %.0f, \"model_tflop_per_s\": "
	       "%.0f, "
	       "\"device_gb\": %.2f, \"first_loss\": %.4f, \"last_loss\": %.4f, \"attention\": \"%s\"}\n",
		a[0], t.config.layers, t.config.hidden, t.config.heads, t.batch, t.sequence,
		(double)t.config.hidden_dropout, atoi(a[7]) ? "true" : "false", dtype_name(t.k.act), s * 1e3,
		seconds[0] * 1e3, seconds[measured - 1] * 1e3, tokens / s, flops / s * 1e-12,
		device_bytes() * 1e-9, first_loss, training_loss(&t), attention_way(&t.k, way));
	training_close(&t);
}

int main(int argc, char **argv)
{
	if (argc == 2 && (!strcmp(argv[1], "ops") || !strcmp(argv[1], "attention"))) {
		bench_operations(!strcmp(argv[1], "attention"));
		return 0;
	}
	if (argc == 11 && !strcmp(argv[1], "step")) {
		bench_step(argv + 2);
		return 0;
	}
	if (argc == 11 && !strcmp(argv[1], "tune")) {
		tune_step(argv + 2);
		return 0;
	}
	fprintf(stderr, "usage: bench_cuda ops|attention | bench_cuda step|tune NAME L C H B T DROPOUT "
			"RECOMPUTE TYPE\n");
	return 2;
}
