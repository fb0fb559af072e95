#include "tools/train_config.h"

#include "common/memory.h"

struct model_config train_config_model(const struct train_settings *s, int vocabulary)
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

enum status train_config_precision(
	struct train_options *options, enum dtype *precision, struct loss_scale *scale)
{
	struct train_settings *s = &options->settings;
	FAIL_IF(s->fp16 + s->bf16 + s->fp32 > 1, STATUS_USAGE,
		"--fp16, --bf16 and --fp32 exclude each other; give one");
	FAIL_IF(train_options_typed(options, "--loss-scale") && !s->fp16, STATUS_USAGE,
		"--loss-scale is for --fp16; bf16 and fp32 gradients do not vanish");
	s->fp32 = !s->fp16 && !s->bf16;
	*precision = s->fp16 ? DTYPE_F16 : s->bf16 ? DTYPE_BF16 : DTYPE_F32;
	if (!s->fp16)
		*scale = loss_scale_static(1);
	else if (s->loss_scale > 0)
		*scale = loss_scale_static(s->loss_scale);
	else
		*scale = loss_scale_dynamic((uint32_t)s->initial_scale_power, s->scale_window,
			(uint32_t)s->hysteresis, s->min_scale);
	return STATUS_OK;
}

uint64_t train_config_packing(
	const struct model_config *model, enum dtype precision, uint64_t micro_batch, uint64_t global_batch)
{
	struct parameter_table table;
	if (global_batch == micro_batch || parameter_table_open(model, &table) != STATUS_OK)
		return 0;
	uint64_t bytes = 2 * table.elements * dtype_bytes(precision);
	parameter_table_close(&table);
	return bytes < memory_available() / 4 ? bytes : 0;
}
