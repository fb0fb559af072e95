/*
 * Training on the GPU against training on the CPU: the same model, batches, seed and dropout, step by step.
 * f32 must follow the CPU's f32 closely; bf16 and f16 must follow it within their rounding and learn as much.
 * Two runs on the GPU must agree in every bit.
 */
#include "tests/gpu/training.h"
#include "tests/ops/choices.h"

#include <math.h>

#ifdef GPU_DRY_RUN /* a trial of this program on the emulated device */
enum { steps = 40, layers = 1, hidden = 32, windows = 2, window = 16, vocabulary = 60, padded = 64 };
#else
enum { steps = 40, layers = 3, hidden = 256, windows = 4, window = 128, vocabulary = 1000, padded = 1024 };
#endif

struct curve {
	double loss[steps], norm[steps];
	uint64_t hash; /* of the master weights at the end */
	int by_cudnn;  /* directions and shapes of attention */
};

static float attention_dropout = 0.1f;

static int failed, number;

static void ok(bool good, const char *name, double worst, double bound)
{
	printf("%sok %d - %s: worst %.2e, bound %.1e\n", good ? "" : "not ", ++number, name, worst, bound);
	failed += !good;
	fflush(stdout);
}

static void train(struct curve *out, bool gpu, enum dtype act, enum dtype grad, bool checkpoint)
{
	struct training t = {0};
	struct kernels_config config = {.act = act, .grad = grad};
	must(gpu ? kernels_open_cuda(&config, &t.k) : kernels_open_cpu(&config, &t.k));
	t.config = (struct model_config){.layers = layers,
		.hidden = hidden,
		.heads = 4,
		.positions = window,
		.vocabulary = vocabulary,
		.vocabulary_padded = padded,
		.embedding_dropout = 0.1f,
		.attention_dropout = attention_dropout,
		.hidden_dropout = 0.1f,
		.layernorm_epsilon = 1e-5f};
	training_open(&t, windows, window, checkpoint);
	for (int s = 0; s < steps; s++) {
		training_batch(&t, (uint64_t)s % 4);
		out->norm[s] = training_step(&t, (uint64_t)s + 1, act == DTYPE_F16 ? 1024 : 1, 1e-3);
		out->loss[s] = training_loss(&t);
	}
	uint32_t *words = malloc(t.elements * 4);
	must(pinned_copy_out(&t.k, words, t.master, t.elements * 4));
	out->hash = 1469598103934665603u;
	for (uint64_t i = 0; i < t.elements; i++)
		out->hash = (out->hash ^ words[i]) * 1099511628211u;
	free(words);
	out->by_cudnn = gpu ? attention_by_cudnn(&t.k) : 0;
	training_close(&t);
}

static double worst_difference(const double *a, const double *b, int n)
{
	double worst = 0;
	for (int i = 0; i < n; i++)
		worst = fmax(worst, isfinite(a[i]) ? fabs(a[i] - b[i]) / fabs(b[i]) : INFINITY);
	return worst;
}

static void compare(
	const char *name, const struct curve *got, const struct curve *want, double loss, double norm)
{
	char text[160];
	double worst = worst_difference(got->loss, want->loss, steps);
	snprintf(text, sizeof text, "%s: losses of %d steps", name, steps);
	ok(worst <= loss, text, worst, loss);
	worst = worst_difference(got->norm, want->norm, 10); /* later ones amplify early rounding */
	snprintf(text, sizeof text, "%s: gradient norms of 10 steps", name);
	ok(worst <= norm, text, worst, norm);
}

int main(void)
{
	static struct curve cpu, gpu, again;
	train(&cpu, false, DTYPE_F32, DTYPE_F32, false);
	printf("# CPU fp32: loss %.4f to %.4f\n", cpu.loss[0], cpu.loss[steps - 1]);
	ok(cpu.loss[steps - 1] < cpu.loss[0] - 1, "the CPU learns", cpu.loss[steps - 1], cpu.loss[0] - 1);
	train(&gpu, true, DTYPE_F32, DTYPE_F32, false);
	compare("fp32", &gpu, &cpu, 1e-3, 1e-3);
	train(&gpu, true, DTYPE_F32, DTYPE_F32, true);
	compare("fp32, activations recomputed", &gpu, &cpu, 1e-3, 1e-3);
	train(&gpu, true, DTYPE_BF16, DTYPE_F32, false);
	compare("bf16", &gpu, &cpu, 2e-2, 3e-2);
	train(&again, true, DTYPE_BF16, DTYPE_F32, false);
	ok(gpu.hash == again.hash, "bf16: two runs, the same weights", (double)(gpu.hash != again.hash), 0);
	train(&gpu, true, DTYPE_BF16, DTYPE_BF16, true);
	compare("bf16, gradients too, activations recomputed", &gpu, &cpu, 2e-2, 3e-2);
	train(&gpu, true, DTYPE_F16, DTYPE_F16, false);
	compare("fp16, gradients too", &gpu, &cpu, 1e-2, 1e-2);
	attention_dropout = 0; /* cuDNN has it, where it is found and the GPU is one for it */
	train(&cpu, false, DTYPE_F32, DTYPE_F32, false);
	train(&gpu, true, DTYPE_BF16, DTYPE_F32, false);
	printf("# without dropout in attention: %d directions of it by cuDNN\n", gpu.by_cudnn);
	compare("bf16, no dropout in attention", &gpu, &cpu, 2e-2, 3e-2);
	train(&again, true, DTYPE_BF16, DTYPE_F32, false);
	ok(gpu.hash == again.hash, "bf16, no dropout in attention: two runs, the same weights",
		(double)(gpu.hash != again.hash), 0);
	train(&gpu, true, DTYPE_F16, DTYPE_F16, true);
	compare("fp16, no dropout in attention, activations recomputed", &gpu, &cpu, 1e-2, 1e-2);
	attention_dropout = 0.1f;
	/* GELU of rounded sums alone, wherever it is computed (model.h). */
	must(setenv("FERRY_CUDA_EPILOGUES", "0", 1) ? STATUS_MEMORY : STATUS_OK);
	train(&gpu, true, DTYPE_BF16, DTYPE_F32, false);
	train(&again, true, DTYPE_BF16, DTYPE_F32, true);
	ok(gpu.hash == again.hash, "bf16: outputs kept or activations recomputed, the same weights",
		(double)(gpu.hash != again.hash), 0);
	printf("1..%d\n# %d failed\n", number, failed);
	return failed != 0;
}
