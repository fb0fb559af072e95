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

/* Packed copies of the weights pay where each is used many times, as here; they must not crowd memory, which the ranks of a
 * host share. */
static uint64_t choose_packing(uint64_t weight_bytes, int local_ranks)
{
	return weight_bytes < memory_available() / 4 / (uint64_t)local_ranks ? weight_bytes : 0;
}

/* Weights of another type than f32 are rounded as they come, piece by piece: all of them in f32 are never there. */
struct rounding {
	struct loaded_model *model;
	float *piece; /* [STAGING_BYTES / 4], the kernels' memory */
};

/* `to` is where the piece would be if the weights were f32. */
static enum status round_piece(void *user, void *to, const void *from, size_t bytes)
{
	struct rounding *r = user;
	struct kernels *k = &r->model->kernels;
	size_t first = (size_t)((char *)to - (char *)r->model->weights) / sizeof(float);
	k->copy_in(k, NULL, r->piece, from, bytes);
	k->convert(k, NULL, (char *)r->model->weights + first * dtype_bytes(k->act), k->act, r->piece,
		DTYPE_F32, bytes / sizeof(float));
	return k->stream_wait(k, NULL);
}

static enum status read_rounded(struct loaded_model *m, struct staging *staging)
{
	struct kernels *k = &m->kernels;
	struct rounding r = {.model = m};
	struct staging_store store = {.user = &r, .write = round_piece};
	TRY(k->memory_alloc(k, (void **)&r.piece, STAGING_BYTES, "weights before they are rounded"));
	staging_set_store(staging, &store);
	enum status status = checkpoint_read_weights(m->checkpoint, &m->table, staging, m->weights);
	k->memory_free(k, r.piece, STAGING_BYTES);
	return status;
}

static enum status read_weights(struct loaded_model *m, bool gpu)
{
	struct kernels *k = &m->kernels;
	struct staging *staging;
	TRY(k->memory_alloc(k, &m->weights, m->weight_bytes, "weights"));
	if (!gpu && k->act == DTYPE_F32)
		return checkpoint_read_weights(m->checkpoint, &m->table, NULL, m->weights);
	TRY(staging_open(k, &staging));
	enum status status = k->act == DTYPE_F32
				     ? checkpoint_read_weights(m->checkpoint, &m->table, staging, m->weights)
				     : read_rounded(m, staging);
	staging_close(staging);
	return status;
}

static enum status load(struct loaded_model *m, enum dtype act, int threads,
	const struct collective_place *place, const struct device_choice *choice)
{
	m->config = *checkpoint_config(m->checkpoint);
	TRY(model_config_check(&m->config));
	TRY(open_tokenizer(m));
	TRY(parameter_table_open(&m->config, &m->table));
	m->weight_bytes = m->table.elements * dtype_bytes(act);
	m->gpu = choice->gpu;
	struct kernels_config kernels = {.act = act,
		.grad = DTYPE_F32,
		.threads = threads ? threads : ranks_threads(place),
		.device = choice->number,
		.packing = choice->gpu ? 0 : choose_packing(m->weight_bytes, place->local_ranks)};
	TRY((choice->gpu ? kernels_open_cuda : kernels_open_cpu)(&kernels, &m->kernels));
	return read_weights(m, choice->gpu);
}

static enum status open_all(const char *path, enum device device, enum dtype act, int threads,
	struct collective *ranks, struct loaded_model *m)
{
	struct device_choice choice;
	struct collective_place place;
	TRY(collective_agree(ranks, threads_check("--threads", threads)));
	TRY(collective_find_place(ranks, &place));
	TRY(ranks_choose_device(ranks, &place, device, act, 0, &choice));
	TRY(checkpoint_open_together(path, true, ranks, &m->checkpoint));
	TRY(ranks_check_file(ranks, checkpoint_path(m->checkpoint),
		checkpoint_get_state(m->checkpoint) ? "trainer.json" : "model.safetensors"));
	return collective_agree(ranks, load(m, act, threads, &place, &choice));
}

enum status loaded_model_open(const char *path, enum device device, enum dtype act, int threads,
	struct collective *ranks, struct loaded_model *out)
{
	*out = (struct loaded_model){0};
	enum status status = open_all(path, device, act, threads, ranks, out);
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
