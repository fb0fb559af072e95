/*
 * Layers' inputs on the host while others compute (kept_inputs.h), on streams that are threads: the same bits
 * as with all of them on the device, and no more memory than was said.
 */
#include "common/memory.h"
#include "tests/unit/engine/model_rig.h"
#include "tests/unit/engine/stream_kernels.h"

enum { B = 3, T = 8, VOCABULARY = 37, SEQUENCES = 8 };

/* Each call trains on a different number of sequences, so that sizes change from one to the next. */
static const int micro_batches[] = {3, 1, 2, 2};

struct bench {
	struct kernels k;
	struct model *model;
	uint64_t elements;
	struct model_options options;
	void *weights;             /* act [elements] */
	float *gradients, *losses; /* [elements], [SEQUENCES * T]: of all micro-batches */
	int32_t inputs[SEQUENCES * T], targets[SEQUENCES * T];
};

static struct model_config shape(int layers)
{
	return (struct model_config){.layers = layers,
		.hidden = 24,
		.heads = 3,
		.positions = T,
		.vocabulary = VOCABULARY,
		.vocabulary_padded = 128,
		.embedding_dropout = 0.1f,
		.attention_dropout = 0.1f,
		.hidden_dropout = 0.1f,
		.layernorm_epsilon = 1e-5f};
}

static void open_bench(struct bench *b, int layers, enum dtype act, bool on_host, int layer_batch)
{
	struct model_config config = shape(layers);
	struct kernels_config kernels = {.act = act, .grad = DTYPE_F32, .threads = 1};
	memset(b, 0, sizeof *b);
	assert_ok(streamed_open(&kernels, &b->k));
	b->options = (struct model_options){.batch = B,
		.sequence = T,
		.training = true,
		.checkpoint_activations = true,
		.inputs_on_host = on_host,
		.layer_batch = layer_batch,
		.seed = 5};
	assert_ok(model_open(&config, &b->options, &b->k, &b->model));
	uint64_t n = b->elements = model_parameters(b->model)->elements;
	float *master = calloc(n, sizeof *master);
	assert_non_null(master);
	b->weights = rig_alloc(&b->k, n * dtype_bytes(act));
	b->gradients = rig_alloc(&b->k, n * sizeof(float));
	b->losses = rig_alloc(&b->k, sizeof(float) * SEQUENCES * T);
	parameters_initialize(&config, model_parameters(b->model), 3, master);
	for (uint64_t i = 0; i < n; i++)
		master[i] *= 4; /* every layer's input must matter */
	b->k.convert(&b->k, NULL, b->weights, act, master, DTYPE_F32, n);
	assert_ok(b->k.stream_wait(&b->k, NULL));
	free(master);
	for (int i = 0; i < SEQUENCES * T; i++) {
		b->inputs[i] = (i * i + 3 * i) % VOCABULARY;
		b->targets[i] = (i * 7 + 1) % VOCABULARY;
	}
}

static void close_bench(struct bench *b)
{
	model_close(b->model);
	b->k.memory_free(&b->k, b->weights, b->elements * dtype_bytes(b->k.act));
	b->k.memory_free(&b->k, b->gradients, b->elements * sizeof(float));
	b->k.memory_free(&b->k, b->losses, sizeof(float) * SEQUENCES * T);
	b->k.close(&b->k);
}

/* A step of several micro-batches, queued without a wait, `rounds` times; a validation in between. */
static enum status train(struct bench *b, int rounds)
{
	for (int round = 0; round < rounds; round++) {
		int at = 0;
		for (size_t i = 0; i < sizeof micro_batches / sizeof *micro_batches; i++) {
			struct model_batch batch = {.inputs = b->inputs + at * T,
				.targets = b->targets + at * T,
				.batch = micro_batches[i],
				.sequence = T,
				.window = (uint64_t)(round * SEQUENCES + at)};
			TRY(model_train(b->model, b->weights, b->gradients, &batch, 0.5f, round || i,
				b->losses + at * T, NULL, NULL));
			if (i == 1)
				TRY(model_evaluate(b->model, b->weights, &batch, b->losses + at * T));
			at += micro_batches[i];
		}
	}
	TRY(b->k.stream_wait(&b->k, NULL));
	return model_check(b->model);
}

static void check_same(int layers, enum dtype act, int layer_batch)
{
	struct bench plain, away;
	open_bench(&plain, layers, act, false, layer_batch);
	open_bench(&away, layers, act, true, layer_batch);
	assert_ok(train(&plain, 1));
	assert_ok(train(&away, 1));
	assert_memory_equal(plain.losses, away.losses, sizeof(float) * SEQUENCES * T);
	assert_memory_equal(plain.gradients, away.gradients, plain.elements * sizeof(float));
	double sum = 0;
	for (uint64_t i = 0; i < plain.elements; i++)
		sum += (double)plain.gradients[i] * (double)plain.gradients[i];
	assert_true(sum > 0); /* false for a NaN too */
	close_bench(&plain);
	close_bench(&away);
	assert_int_equal(streamed_unpinned, 0);
}

static void check_layers(enum dtype act)
{
	static const int layers[] = {1, 2, 3, 5};
	for (size_t i = 0; i < sizeof layers / sizeof *layers; i++)
		check_same(layers[i], act, 0);
}

static void in_fp32(void **state)
{
	(void)state;
	check_layers(DTYPE_F32);
}

static void in_bf16(void **state)
{
	(void)state;
	check_layers(DTYPE_BF16);
}

static void in_fp16(void **state)
{
	(void)state;
	check_layers(DTYPE_F16);
}

/* A layer's input is there once its last piece is. */
static void in_pieces(void **state)
{
	(void)state;
	static const int layers[] = {1, 2, 3, 5};
	for (size_t i = 0; i < sizeof layers / sizeof *layers; i++)
		check_same(layers[i], DTYPE_BF16, 2);
}

/* Streams that sleep now and then: what no event orders comes out of order. */
static void on_slow_streams(void **state)
{
	(void)state;
	streamed_jitter = 100;
	for (int layer_batch = 0; layer_batch < B; layer_batch++) {
		check_same(3, DTYPE_F32, layer_batch);
		check_same(5, DTYPE_F32, layer_batch);
	}
	streamed_jitter = 0;
}

/* Two layers' inputs on the device, the others' on the host, and exactly what is measured. */
static void memory_is_measured(void **state)
{
	(void)state;
	uint64_t plane = (uint64_t)B * T * 24 * 2, device[2], pinned[2];
	for (int layers = 1; layers <= 5; layers++) {
		struct model_config config = shape(layers);
		for (int on_host = 0; on_host < 2; on_host++) {
			struct bench b;
			open_bench(&b, layers, DTYPE_BF16, on_host, 0);
			device[on_host] = model_activation_bytes(&config, &b.options, DTYPE_BF16);
			pinned[on_host] = model_pinned_bytes(&config, &b.options, DTYPE_BF16);
			assert_int_equal(streamed_host, pinned[on_host]);
			assert_int_equal(streamed_device,
				device[on_host] + 6 * b.elements + sizeof(float) * SEQUENCES * T);
			close_bench(&b);
			assert_int_equal(streamed_device + streamed_host, 0);
		}
		uint64_t away = layers > 2 ? (uint64_t)layers - 2 : 0;
		assert_int_equal(pinned[0], 0);
		assert_int_equal(pinned[1], away * plane);
		assert_int_equal(device[0] - device[1], away * ((plane + 255) / 256 * 256));
	}
}

/* Whichever operation fails, copies among them: the step says so, and the model can be closed. */
static void failures_are_told(void **state)
{
	(void)state;
	int told = 0, tries = 0;
	for (bool failed = true; failed; tries++) {
		struct bench b;
		open_bench(&b, 4, DTYPE_F32, true, 0);
		streamed_failing = 17 * tries; /* about 560 operations */
		failed = train(&b, 1) != STATUS_OK;
		if (failed)
			assert_string_equal(error_message(), "a kernel failed");
		told += failed;
		streamed_failing = -1;
		close_bench(&b);
	}
	assert_true(told > 20);
	assert_int_equal(told, tries - 1);
}

static void lack_of_memory(void **state)
{
	(void)state;
	struct model_config config = shape(4);
	struct kernels_config kernels = {.act = DTYPE_F32, .grad = DTYPE_F32, .threads = 1};
	struct model_options options = {.batch = B,
		.sequence = T,
		.training = true,
		.checkpoint_activations = true,
		.inputs_on_host = true};
	struct kernels k;
	struct model *m;
	int failures = 0;
	assert_ok(streamed_open(&kernels, &k));
	for (int64_t after = 0;; after++, failures++) {
		memory_fail_after(after);
		enum status status = model_open(&config, &options, &k, &m);
		memory_fail_after(-1);
		if (status == STATUS_OK)
			break;
		assert_int_equal(status, STATUS_MEMORY);
		assert_null(m);
		assert_int_equal(streamed_device + streamed_host, 0);
	}
	model_close(m);
	assert_true(failures >= 6); /* model, table, layers, arena; inputs, their memory */
	options.checkpoint_activations = false;
	assert_int_equal(model_open(&config, &options, &k, &m), STATUS_USAGE);
	k.close(&k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(in_fp32),
		cmocka_unit_test(in_bf16),
		cmocka_unit_test(in_fp16),
		cmocka_unit_test(in_pieces),
		cmocka_unit_test(on_slow_streams),
		cmocka_unit_test(memory_is_measured),
		cmocka_unit_test(failures_are_told),
		cmocka_unit_test(lack_of_memory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
