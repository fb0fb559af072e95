/* PyTorch's numbers (tests/golden/make_model_golden.py) against ferry's, from the same weights. */
#include "tests/unit/engine/model_rig.h"

#include "common/endian.h"
#include "common/file.h"

#include <cjson/cJSON.h>
#include <math.h>

#define GOLDEN "tests/golden/model_tiny.safetensors"
enum { VOCABULARY = 300, B = 2, T = 32, BATCHES = 5, STEPS = 50 };

/* ---- the golden file: safetensors, read here on its own ---- */

static char *file_data;
static cJSON *file_header;

static const void *golden(const char *name, const char *dtype, uint64_t count)
{
	cJSON *entry = cJSON_GetObjectItemCaseSensitive(file_header, name);
	if (!entry)
		fail_msg("%s has no tensor %s", GOLDEN, name);
	assert_string_equal(cJSON_GetObjectItem(entry, "dtype")->valuestring, dtype);
	cJSON *offsets = cJSON_GetObjectItem(entry, "data_offsets");
	uint64_t from = (uint64_t)offsets->child->valuedouble,
		 to = (uint64_t)offsets->child->next->valuedouble;
	assert_int_equal(to - from, count * 4);
	const char *data = file_data + 8 + load_le64(file_data) + from;
	assert_int_equal((uintptr_t)data % 4, 0);
	return data;
}

static int open_golden(void **state)
{
	(void)state;
	size_t bytes;
	assert_ok(file_read_all(GOLDEN, 4 << 20, &file_data, &bytes));
	file_header = cJSON_ParseWithLength(file_data + 8, load_le64(file_data));
	assert_non_null(file_header);
	return 0;
}

static int close_golden(void **state)
{
	(void)state;
	cJSON_Delete(file_header);
	free(file_data);
	return 0;
}

/* ---- the model ---- */

static void open_tiny(struct rig *f, enum dtype act, bool checkpoint)
{
	struct model_config c = {.layers = 3,
		.hidden = 48,
		.heads = 4,
		.positions = 40,
		.vocabulary = VOCABULARY,
		.vocabulary_padded = 384,
		.layernorm_epsilon = 1e-5f};
	struct model_options o = {
		.batch = B, .sequence = T, .training = true, .checkpoint_activations = checkpoint};
	rig_open(f, &c, &o, act);
	memset(f->master, 0, f->table->elements * sizeof(float));
	for (int i = 0; i < f->table->count; i++) {
		const struct parameter *p = &f->table->items[i];
		char name[64];
		snprintf(name, sizeof name, "weight.%s", p->name);
		uint64_t count = (uint64_t)p->file_rows * (uint64_t)p->columns;
		memcpy(f->master + p->offset, golden(name, "F32", count), count * sizeof(float));
	}
	rig_publish(f);
}

/* Batch n of the file, split into inputs and targets. */
struct tiny_batch {
	int32_t inputs[B * T], targets[B * T];
	struct model_batch batch;
};
static void load_batch(struct tiny_batch *t, int n)
{
	const int32_t *tokens =
		(const int32_t *)golden("tokens", "I32", BATCHES * B * (T + 1)) + n * B * (T + 1);
	for (int r = 0; r < B * T; r++) {
		t->inputs[r] = tokens[r / T * (T + 1) + r % T];
		t->targets[r] = tokens[r / T * (T + 1) + r % T + 1];
	}
	t->batch =
		(struct model_batch){.inputs = t->inputs, .targets = t->targets, .batch = B, .sequence = T};
}

/* Batch 0's against PyTorch's in fp32; padded rows have none. */
static void compare_gradients(const struct rig *f, double tolerance)
{
	double worst = 0;
	for (int i = 0; i < f->table->count; i++) {
		const struct parameter *p = &f->table->items[i];
		char name[64];
		snprintf(name, sizeof name, "gradient.%s", p->name);
		uint64_t count = (uint64_t)p->file_rows * (uint64_t)p->columns;
		double d = relative_distance(f->gradients + p->offset, golden(name, "F32", count), count);
		if (!(d < tolerance))
			fail_msg("gradient of %s is off by %g of its norm", p->name, d);
		worst = worse(worst, d);
		for (uint64_t e = count; e < p->elements; e++)
			assert_true(f->gradients[p->offset + e] == 0);
	}
	printf("# gradients differ by at most %.2g of their norms\n", worst);
}

static void logits_and_gradients(void **state)
{
	(void)state;
	struct rig f;
	open_tiny(&f, DTYPE_F32, false);
	struct tiny_batch t;
	load_batch(&t, 0);
	float *logits = rig_alloc(&f.k, B * T * VOCABULARY * sizeof(float));
	const float *expected = golden("logits", "F32", B * T * VOCABULARY);
	assert_ok(model_logits(f.model, f.weights, &t.batch, true, logits));
	assert_ok(f.k.stream_wait(&f.k, NULL));
	double worst = 0;
	for (int i = 0; i < B * T * VOCABULARY; i++)
		worst = worse(worst, fabs((double)logits[i] - (double)expected[i]));
	printf("# logits differ by at most %.2g\n", worst);
	assert_true(worst < 1e-5);

	/* Only the last positions: the same numbers. */
	assert_ok(model_logits(f.model, f.weights, &t.batch, false, logits));
	assert_ok(f.k.stream_wait(&f.k, NULL));
	for (int b = 0; b < B; b++)
		for (int v = 0; v < VOCABULARY; v++)
			assert_float_equal(logits[b * VOCABULARY + v],
				expected[(b * T + T - 1) * VOCABULARY + v], 1e-5f);
	f.k.memory_free(&f.k, logits, B * T * VOCABULARY * sizeof(float));

	double loss = rig_train(&f, &t.batch, 1.0f / (B * T), false) / (B * T);
	const float *losses = golden("losses_fp32", "F32", STEPS);
	assert_float_equal((float)loss, losses[0], 1e-5f);
	compare_gradients(&f, 1e-4);
	rig_close(&f);
}

/* PyTorch's own bf16 gradients are off by up to 2.2e-2 of the fp32 ones. */
static void gradients_bf16(void **state)
{
	(void)state;
	struct rig f;
	open_tiny(&f, DTYPE_BF16, false);
	struct tiny_batch t;
	load_batch(&t, 0);
	rig_train(&f, &t.batch, 1.0f / (B * T), false);
	compare_gradients(&f, 2.5e-2);
	rig_close(&f);
}

static void fifty_steps(enum dtype act, const char *kind, double tolerance, bool checkpoint)
{
	struct rig f;
	open_tiny(&f, act, checkpoint);
	char name[32];
	snprintf(name, sizeof name, "losses_%s", kind);
	const float *losses = golden(name, "F32", STEPS);
	snprintf(name, sizeof name, "norms_%s", kind);
	const float *norms = golden(name, "F32", STEPS);
	size_t bytes = f.table->elements * sizeof(float);
	float *m = rig_alloc(&f.k, bytes), *v = rig_alloc(&f.k, bytes);
	struct gradient_stats *stats = rig_alloc(&f.k, sizeof *stats);
	double worst_loss = 0, worst_norm = 0;
	for (int step = 0; step < STEPS; step++) {
		struct tiny_batch t;
		load_batch(&t, step % BATCHES);
		double loss = rig_train(&f, &t.batch, 1.0f / (B * T), false) / (B * T);
		worst_loss = worse(worst_loss, fabs(loss - (double)losses[step]));
		f.k.gradient_stats(&f.k, NULL, stats, f.gradients, f.table->elements);
		assert_ok(f.k.stream_wait(&f.k, NULL));
		double norm = sqrt(stats->sum_of_squares);
		worst_norm = worse(worst_norm, fabs(norm / (double)norms[step] - 1));
		assert_true(norm > 1); /* or clipping would not be tested */
		for (int i = 0; i < f.table->count; i++) {
			const struct parameter *p = &f.table->items[i];
			struct adamw a = {.learning_rate = 5e-4f,
				.beta1 = 0.9f,
				.beta2 = 0.999f,
				.epsilon = 1e-8f,
				.weight_decay = p->group == 0 ? 0.1f : 0,
				.step = (uint64_t)step + 1,
				.gradient_multiplier = (float)(1 / norm)};
			uint64_t o = p->offset;
			f.k.adamw(&f.k, NULL, &a, f.master + o, m + o, v + o,
				(char *)f.weights + o * dtype_bytes(act), f.master + o, m + o, v + o,
				f.gradients + o, p->elements);
		}
		f.k.weights_changed(&f.k);
	}
	printf("# %s: losses differ by at most %.2g, norms by %.2g of themselves\n", kind, worst_loss,
		worst_norm);
	assert_true(worst_loss < tolerance);
	assert_true(worst_norm < 10 * tolerance);
	f.k.memory_free(&f.k, m, bytes);
	f.k.memory_free(&f.k, v, bytes);
	f.k.memory_free(&f.k, stats, sizeof *stats);
	rig_close(&f);
}

static void fifty_steps_fp32(void **state)
{
	(void)state;
	fifty_steps(DTYPE_F32, "fp32", 1e-4, false);
}

static void fifty_steps_checkpointed(void **state)
{
	(void)state;
	fifty_steps(DTYPE_F32, "fp32", 1e-4, true);
}

static void fifty_steps_bf16(void **state)
{
	(void)state;
	fifty_steps(DTYPE_BF16, "bf16", 2e-2, false);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(logits_and_gradients),
		cmocka_unit_test(gradients_bf16),
		cmocka_unit_test(fifty_steps_fp32),
		cmocka_unit_test(fifty_steps_checkpointed),
		cmocka_unit_test(fifty_steps_bf16),
	};
	return cmocka_run_group_tests(tests, open_golden, close_golden);
}
