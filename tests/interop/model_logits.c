/*
 * model_logits CHECKPOINT: token ids from standard input (text), ferry's fp32 logits of every position to
 * standard output (little-endian f32 [count][vocabulary]). For tests/interop/transformers.py.
 */
#include "common/memory.h"
#include "engine/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>

static enum status read_ids(int32_t **ids, int *count)
{
	size_t capacity = 0;
	for (*count = 0;; ++*count) {
		TRY(memory_grow((void **)ids, &capacity, (size_t)*count + 1, sizeof **ids, "ids"));
		if (scanf("%d", &(*ids)[*count]) != 1)
			return STATUS_OK;
	}
}

static enum status run(const char *path)
{
	struct checkpoint *checkpoint;
	TRY(checkpoint_open(path, &checkpoint));
	const struct model_config *config = checkpoint_config(checkpoint);
	int32_t *ids = NULL;
	int count;
	TRY(read_ids(&ids, &count));
	struct kernels_config kernels_config = {.act = DTYPE_F32, .grad = DTYPE_F32};
	struct kernels k;
	TRY(kernels_open_cpu(&kernels_config, &k));
	struct model_options options = {.batch = 1, .sequence = count};
	struct model *model;
	TRY(model_open(config, &options, &k, &model));
	const struct parameter_table *table = model_parameters(model);
	void *weights, *logits;
	size_t floats = (size_t)count * (size_t)config->vocabulary;
	TRY(k.memory_alloc(&k, &weights, table->elements * sizeof(float), "weights"));
	TRY(k.memory_alloc(&k, &logits, floats * sizeof(float), "logits"));
	TRY(checkpoint_read_weights(checkpoint, table, NULL, weights));
	struct model_batch batch = {.inputs = ids, .batch = 1, .sequence = count};
	TRY(model_logits(model, weights, &batch, true, logits));
	TRY(k.stream_wait(&k, NULL));
	FAIL_IF(fwrite(logits, sizeof(float), floats, stdout) != floats || fflush(stdout), STATUS_IO,
		"standard output: write failed");
	return STATUS_OK;
}

int main(int argc, char **argv)
{
	if (argc == 2 && run(argv[1]) == STATUS_OK)
		return 0;
	fprintf(stderr, "model_logits: %s\n", argc == 2 ? error_message() : "give a checkpoint");
	return 1;
}
