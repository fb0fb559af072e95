/*
 * training.h: a model with its weights, gradients, optimizer and one batch in a kernels table's memory, for
 * the GPU test and the benchmark. Failures end the program: these are tests.
 */
#ifndef TESTS_GPU_TRAINING_H
#define TESTS_GPU_TRAINING_H

#include "engine/model.h"
#include "engine/optimizer.h"
#include "kernels/kernels.h"
#include "tests/ops/pinned.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct training {
	struct kernels k;
	struct model_config config;
	struct model *model;
	struct optimizer *optimizer;
	float *master, *losses;
	void *work, *gradients; /* work is master itself in f32 */
	int32_t *tokens;        /* inputs, then targets */
	int32_t *host_tokens;
	float *host_losses;
	int batch, sequence;
	uint64_t elements;
};

static inline void must(enum status status)
{
	if (status == STATUS_OK)
		return;
	fprintf(stderr, "%s\n", error_message());
	exit(status == STATUS_UNSUPPORTED ? 77 : 1);
}

static inline void *training_block(struct training *t, size_t bytes)
{
	void *block;
	must(t->k.memory_alloc(&t->k, &block, bytes, "training"));
	return block;
}

/* t->k and t->config are set. */
static inline void training_open(struct training *t, int batch, int sequence, bool checkpoint)
{
	struct model_options options = {.batch = batch,
		.sequence = sequence,
		.training = true,
		.checkpoint_activations = checkpoint,
		.keep_outputs = !checkpoint,
		.seed = 7};
	struct optimizer_config adam = {0.9, 0.95, 1e-8, 0.1, 1.0};
	struct kernels *k = &t->k;
	must(model_open(&t->config, &options, k, &t->model));
	const struct parameter_table *table = model_parameters(t->model);
	must(optimizer_open(&adam, table, k, &t->optimizer));
	t->elements = table->elements;
	t->batch = batch;
	t->sequence = sequence;
	size_t rows = (size_t)batch * (size_t)sequence;
	float *initial = calloc(t->elements, sizeof *initial);
	parameters_initialize(&t->config, table, 1, initial);
	t->master = training_block(t, t->elements * 4);
	must(pinned_copy_in(k, t->master, initial, t->elements * 4));
	t->work = t->master;
	if (k->act != DTYPE_F32) {
		t->work = training_block(t, t->elements * dtype_bytes(k->act));
		k->convert(k, NULL, t->work, k->act, t->master, DTYPE_F32, t->elements);
	}
	t->gradients = training_block(t, t->elements * dtype_bytes(k->grad));
	t->losses = training_block(t, rows * 4);
	t->tokens = training_block(t, 2 * rows * 4);
	t->host_tokens = calloc(2 * rows, 4);
	t->host_losses = calloc(rows, 4);
	must(k->stream_wait(k, NULL));
	free(initial);
}

/* A batch that can be learned: each next token is a function of this one, from a skewed start. */
static inline void training_batch(struct training *t, uint64_t number)
{
	int rows = t->batch * t->sequence, V = t->config.vocabulary;
	uint64_t x = number * 0x9E3779B97F4A7C15u + 1;
	for (int b = 0; b < t->batch; b++) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		uint64_t token = (x >> 33) % (uint64_t)V;
		for (int i = 0; i <= t->sequence; i++) {
			int r = b * t->sequence + i;
			if (i < t->sequence)
				t->host_tokens[r] = (int32_t)token;
			if (i > 0)
				t->host_tokens[rows + r - 1] = (int32_t)token;
			token = (token * token / 7 + 3 * token + 11) % (uint64_t)V;
		}
	}
	must(pinned_copy_in(&t->k, t->tokens, t->host_tokens, 2 * (size_t)rows * 4));
}

/* One whole step; returns the norm of the gradients. */
static inline double training_step(struct training *t, uint64_t step, double loss_scale, double rate)
{
	int rows = t->batch * t->sequence;
	struct model_batch batch = {.inputs = t->tokens,
		.targets = t->tokens + rows,
		.batch = t->batch,
		.sequence = t->sequence,
		.window = step * (uint64_t)t->batch};
	must(model_train(t->model, t->work, t->gradients, &batch, (float)(loss_scale / rows), false,
		t->losses, NULL, NULL));
	struct optimizer_measure measure;
	must(optimizer_measure(t->optimizer, t->gradients, loss_scale, &measure));
	double multiplier = optimizer_clip(t->optimizer, measure.norm) / loss_scale;
	if (!measure.overflow)
		optimizer_update(t->optimizer, t->master, t->work == t->master ? NULL : t->work, t->gradients,
			rate, step, multiplier);
	must(t->k.stream_wait(&t->k, NULL));
	return measure.norm;
}

static inline double training_loss(struct training *t)
{
	int rows = t->batch * t->sequence;
	double sum = 0;
	must(pinned_copy_out(&t->k, t->host_losses, t->losses, (size_t)rows * 4));
	for (int r = 0; r < rows; r++)
		sum += t->host_losses[r];
	return sum / rows;
}

static inline void training_close(struct training *t)
{
	struct kernels *k = &t->k;
	size_t rows = (size_t)t->batch * (size_t)t->sequence;
	optimizer_close(t->optimizer);
	model_close(t->model);
	if (t->work != t->master)
		k->memory_free(k, t->work, t->elements * dtype_bytes(k->act));
	k->memory_free(k, t->master, t->elements * 4);
	k->memory_free(k, t->gradients, t->elements * dtype_bytes(k->grad));
	k->memory_free(k, t->losses, rows * 4);
	k->memory_free(k, t->tokens, 2 * rows * 4);
	free(t->host_tokens);
	free(t->host_losses);
	k->close(k);
}

#endif
