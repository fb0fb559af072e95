/*
 * model_rig.h: a model on the CPU's kernels with its arrays, for tests. Everything asserts.
 */
#ifndef TESTS_UNIT_ENGINE_MODEL_RIG_H
#define TESTS_UNIT_ENGINE_MODEL_RIG_H

#include "engine/model.h"
#include "tests/unit/assert_ok.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct rig {
	struct kernels k;
	struct model *model;
	const struct parameter_table *table;
	struct model_config config;
	float *master;    /* [elements] */
	void *weights;    /* act [elements] */
	float *gradients; /* [elements] */
	float *losses;    /* [B][T] */
	int rows;
};

static inline void *rig_alloc(struct kernels *k, size_t bytes)
{
	void *block;
	assert_ok(k->memory_alloc(k, &block, bytes, "a test's array"));
	return block;
}

/* The master's values into the weights. */
static inline void rig_publish(struct rig *f)
{
	f->k.convert(&f->k, NULL, f->weights, f->k.act, f->master, DTYPE_F32, f->table->elements);
	f->k.weights_changed(&f->k);
	assert_ok(f->k.stream_wait(&f->k, NULL));
}

static inline void rig_open(
	struct rig *f, const struct model_config *config, const struct model_options *options, enum dtype act)
{
	memset(f, 0, sizeof *f);
	struct kernels_config kernels = {.act = act, .grad = DTYPE_F32, .threads = 2, .packing = 64 << 20};
	assert_ok(kernels_open_cpu(&kernels, &f->k));
	assert_ok(model_open(config, options, &f->k, &f->model));
	f->config = *config;
	f->table = model_parameters(f->model);
	f->rows = options->batch * options->sequence;
	f->master = rig_alloc(&f->k, f->table->elements * sizeof(float));
	f->weights = rig_alloc(&f->k, f->table->elements * dtype_bytes(act));
	f->gradients = rig_alloc(&f->k, f->table->elements * sizeof(float));
	f->losses = rig_alloc(&f->k, (size_t)f->rows * sizeof(float));
	parameters_initialize(config, f->table, 1, f->master);
	rig_publish(f);
}

static inline void rig_close(struct rig *f)
{
	uint64_t n = f->table->elements;
	f->k.memory_free(&f->k, f->master, n * sizeof(float));
	f->k.memory_free(&f->k, f->weights, n * dtype_bytes(f->k.act));
	f->k.memory_free(&f->k, f->gradients, n * sizeof(float));
	f->k.memory_free(&f->k, f->losses, (size_t)f->rows * sizeof(float));
	model_close(f->model);
	f->k.close(&f->k);
}

/* Trains on `batch` (no update) and waits; returns the sum of the losses. */
static inline double rig_train(struct rig *f, const struct model_batch *batch, float scale, bool accumulate)
{
	assert_ok(model_train(
		f->model, f->weights, f->gradients, batch, scale, accumulate, f->losses, NULL, NULL));
	assert_ok(f->k.stream_wait(&f->k, NULL));
	double sum = 0;
	for (int r = 0; r < batch->batch * batch->sequence; r++)
		sum += (double)f->losses[r];
	return sum;
}

/* |a - b| / |b|, Euclidean. */
static inline double relative_distance(const float *a, const float *b, uint64_t count)
{
	double difference = 0, norm = 0;
	for (uint64_t i = 0; i < count; i++) {
		difference += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
		norm += (double)b[i] * (double)b[i];
	}
	return norm > 0 ? __builtin_sqrt(difference / norm) : __builtin_sqrt(difference);
}

#endif
