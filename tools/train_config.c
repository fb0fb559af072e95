#include "tools/train_config.h"

#include "common/threads.h"
#include "engine/saver.h"

#include <string.h>

enum status train_config_precision(struct train_options *options, struct trainer_config *c)
{
	struct train_settings *s = &options->settings;
	FAIL_IF(s->fp16 + s->bf16 + s->fp32 > 1, STATUS_USAGE,
		"--fp16, --bf16 and --fp32 exclude each other; give one");
	FAIL_IF(train_options_typed(options, "--loss-scale") && !s->fp16, STATUS_USAGE,
		"--loss-scale is for --fp16; bf16 and fp32 gradients do not vanish");
	s->fp32 = !s->fp16 && !s->bf16;
	c->precision = s->fp16 ? DTYPE_F16 : s->bf16 ? DTYPE_BF16 : DTYPE_F32;
	if (!s->fp16)
		c->loss_scale = loss_scale_static(1);
	else if (s->loss_scale > 0)
		c->loss_scale = loss_scale_static(s->loss_scale);
	else
		c->loss_scale = loss_scale_dynamic((uint32_t)s->initial_scale_power, s->scale_window,
			(uint32_t)s->hysteresis, s->min_scale);
	return STATUS_OK;
}

static struct model_config compose_model(const struct train_settings *s, int vocabulary)
{
	return (struct model_config){.layers = s->layers,
		.hidden = s->hidden,
		.heads = s->heads,
		.positions = s->positions,
		.vocabulary = vocabulary,
		.vocabulary_padded = model_vocabulary_pad(vocabulary, s->divisible),
		.embedding_dropout = (float)s->hidden_dropout,
		.attention_dropout = (float)s->attention_dropout,
		.hidden_dropout = (float)s->hidden_dropout,
		.layernorm_epsilon = (float)s->epsilon};
}

/* Packed copies of the weights, on the CPU: where a step uses each more than once, and a quarter of the memory holds
 * them. */
static uint64_t choose_packing(const struct train_machine *machine, const struct trainer_config *c)
{
	struct parameter_table table;
	uint64_t ranks = c->ranks ? (uint64_t)c->ranks->ranks : 1;
	if (c->open_device || c->global_batch == c->micro_batch * ranks ||
		parameter_table_open(&c->model, &table) != STATUS_OK)
		return 0;
	uint64_t bytes = 2 * table.elements * dtype_bytes(c->precision);
	parameter_table_close(&table);
	return bytes < machine->host_memory / 4 ? bytes : 0;
}

/* On a GPU, whose steps are short, checkpoints are written behind the training where a quarter of the memory holds the copy. */
static enum status choose_saving(
	const struct train_settings *s, const struct train_machine *machine, struct trainer_config *c)
{
	struct parameter_table table;
	TRY(parameter_table_open(&c->model, &table));
	c->save_behind = c->open_device && strcmp(s->save, "none") != 0 &&
			 saver_bytes(&table, true) <= machine->host_memory / 4;
	parameter_table_close(&table);
	return STATUS_OK;
}

/* For rank 0, which has the copy, and so the same for all. */
static enum status is_too_much(const struct train_machine *machine, const struct trainer_config *c, bool *out)
{
	struct trainer_memory m;
	struct trainer_config config = *c;
	struct collective first;
	*out = false;
	if (!c->save_behind)
		return STATUS_OK;
	if (c->ranks) {
		first = *c->ranks;
		first.rank = 0;
		config.ranks = &first;
	}
	TRY(trainer_measure(&config, &m));
	*out = m.host > machine->host_memory;
	return STATUS_OK;
}

enum status train_config_step(const struct train_settings *s, int vocabulary, struct train_machine *machine,
	struct trainer_config *c)
{
	c->model = compose_model(s, vocabulary);
	TRY(model_config_check(&c->model));
	c->micro_batch = s->batch;
	c->global_batch = s->global_batch;
	c->window_tokens = s->seq_length;
	c->checkpoint_activations = s->checkpoint_activations;
	c->layer_batch = s->layer_batch;
	if (s->threads)
		c->threads = s->threads;
	else if (!c->threads)
		c->threads = threads_available();
	c->open_device = machine->device.gpu ? kernels_open_cuda : NULL;
	c->packing = choose_packing(machine, c);
	bool too_much;
	TRY(choose_saving(s, machine, c));
	TRY(train_offload_choose(s, machine, c));
	TRY(is_too_much(machine, c, &too_much));
	if (!too_much)
		return STATUS_OK;
	c->save_behind = false;
	return train_offload_choose(s, machine, c);
}
