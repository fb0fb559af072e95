#include "tools/loaded_model.h"

#include "common/memory.h"
#include "common/threads.h"

static enum status open_tokenizer(struct loaded_model *m)
{
	const char *path = checkpoint_path(m->checkpoint);
	if (checkpoint_has_tokenizer(m->checkpoint))
		TRY(tokenizer_open_directory(path, &m->tokenizer));
	else if (m->config.vocabulary == TOKENIZER_GPT2_VOCABULARY)
		TRY(tokenizer_open_gpt2(&m->tokenizer));
	else
		return error_set(STATUS_MISMATCH,
			"%s: has no tokenizer (vocab.json and merges.txt), and its vocabulary of %d ids is "
			"not GPT-2's "
			"50,257; put its tokenizer's files beside model.safetensors",
			path, m->config.vocabulary);
	uint32_t ids = tokenizer_vocabulary(m->tokenizer);
	FAIL_IF(ids > (uint32_t)m->config.vocabulary, STATUS_MISMATCH,
		"%s: its tokenizer has %u ids, its model only %d", path, ids, m->config.vocabulary);
	return STATUS_OK;
}

/* Packed copies of the weights pay where each is used many times, as here; they must not crowd memory. */
static uint64_t choose_packing(uint64_t weight_bytes)
{
	return weight_bytes < memory_available() / 4 ? weight_bytes : 0;
}

/* Rounded on the way where act is not f32. staging NULL: the kernels' memory is the host's. */
static enum status read_weights(struct loaded_model *m, struct staging *staging)
{
	struct kernels *k = &m->kernels;
	TRY(k->memory_alloc(k, &m->weights, m->weight_bytes, "weights"));
	if (k->act == DTYPE_F32)
		return checkpoint_read_weights(m->checkpoint, &m->table, staging, m->weights);
	uint64_t bytes = m->table.elements * sizeof(float);
	void *full;
	TRY(k->memory_alloc(k, &full, bytes, "weights before they are rounded"));
	enum status status = checkpoint_read_weights(m->checkpoint, &m->table, staging, full);
	if (status == STATUS_OK) {
		k->convert(k, NULL, m->weights, k->act, full, DTYPE_F32, m->table.elements);
		status = k->stream_wait(k, NULL);
	}
	k->memory_free(k, full, bytes);
	return status;
}

static enum status read_weights_to_gpu(struct loaded_model *m)
{
	struct staging *staging;
	TRY(staging_open(&m->kernels, &staging));
	enum status status = read_weights(m, staging);
	staging_close(staging);
	return status;
}

static enum status open_all(
	const char *path, enum device device, enum dtype act, int threads, struct loaded_model *m)
{
	struct device_choice choice;
	TRY(device_choose(device, 0, act, 0, &choice));
	TRY(checkpoint_open_weights(path, &m->checkpoint));
	m->config = *checkpoint_config(m->checkpoint);
	TRY(model_config_check(&m->config));
	TRY(open_tokenizer(m));
	TRY(parameter_table_open(&m->config, &m->table));
	m->weight_bytes = m->table.elements * dtype_bytes(act);
	struct kernels_config kernels = {.act = act,
		.grad = DTYPE_F32,
		.threads = threads ? threads : threads_available(),
		.packing = choice.gpu ? 0 : choose_packing(m->weight_bytes)};
	if (choice.gpu) {
		TRY(kernels_open_cuda(&kernels, &m->kernels));
		return read_weights_to_gpu(m);
	}
	TRY(kernels_open_cpu(&kernels, &m->kernels));
	return read_weights(m, NULL);
}

enum status loaded_model_open(
	const char *path, enum device device, enum dtype act, int threads, struct loaded_model *out)
{
	*out = (struct loaded_model){0};
	enum status status = open_all(path, device, act, threads, out);
	if (status != STATUS_OK)
		loaded_model_close(out);
	return status;
}

void loaded_model_close(struct loaded_model *m)
{
	struct kernels *k = &m->kernels;
	if (m->weights)
		k->memory_free(k, m->weights, m->weight_bytes);
	if (k->close)
		k->close(k);
	parameter_table_close(&m->table);
	if (m->tokenizer)
		tokenizer_close(m->tokenizer);
	if (m->checkpoint)
		checkpoint_close(m->checkpoint);
	*m = (struct loaded_model){0};
}
