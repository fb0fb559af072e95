#include "tools/train_options.h"

#include "common/json.h"
#include "engine/model.h"
#include "tools/device.h"

#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- the table ---- */

static struct train_settings default_settings(void)
{
	return (struct train_settings){.model = NULL,
		.layers = 12,
		.hidden = 768,
		.heads = 12,
		.positions = 1024,
		.divisible = 128,
		.attention_dropout = 0.1,
		.hidden_dropout = 0.1,
		.epsilon = 1e-5,
		.split = "949,50,1",
		.seed = 1234,
		.batch = 4,
		.global_batch = 0,
		.seq_length = 1024,
		.lr = 3e-4,
		.warmup = 0.02,
		.decay_style = 2,
		.weight_decay = 0.1,
		.clip = 1,
		.beta1 = 0.9,
		.beta2 = 0.999,
		.adam_epsilon = 1e-8,
		.initial_scale_power = 16,
		.scale_window = 1000,
		.hysteresis = 2,
		.min_scale = 1,
		.log_interval = 10,
		.eval_interval = 1000,
		.eval_iters = 10,
		.save_interval = 200,
		.keep = 2,
		.save = "run"};
}

#define ANY UINT64_MAX
#define NOTHING_FLAG(name)                                                                                   \
	{                                                                                                    \
		OPTION_FLAG(name, &s->no_flag, NULL)                                                         \
	}
#define NOTHING_NUMBER(name)                                                                                 \
	{                                                                                                    \
		OPTION_U64(name, &s->no_number, 0, ANY, "N", NULL)                                           \
	}
#define NOTHING_TEXT(name)                                                                                   \
	{                                                                                                    \
		OPTION_STRING(name, &s->no_text, "TEXT", NULL)                                               \
	}

static void fill_table(struct train_options *o)
{
	struct train_settings *s = &o->settings;
	struct option table[] = {
		{OPTION_HEADING("Data")},
		{OPTION_WORDS("--train-data", &s->data, "DIR",
			 "the corpus, made by `ferry preprocess`; or several with their shares of the "
			 "windows: 0.7 DIR 0.3 DIR"),
			.default_text = ""},
		{OPTION_STRING("--split", &s->split, "A,B,C",
			"shares of the documents for training, validation and test")},
		{OPTION_U64("--seed", &s->seed, 0, ANY, "N", "of weights, order of the data, dropout")},
		{OPTION_FLAG("--eod-mask-loss", &s->eod_mask_loss,
			"do not count the target that follows an end of document (the reference's rule)")},
		{OPTION_FLAG("--reset-attention-mask", &s->reset_attention_mask,
			"a token attends to its own document alone")},
		{OPTION_FLAG("--reset-position-ids", &s->reset_position_ids,
			"positions start at 0 with each document")},

		{OPTION_HEADING("Model")},
		{OPTION_STRING("--model", &s->model, "NAME", "sizes by name: " MODEL_NAMES),
			.default_text = "gpt2"},
		{OPTION_INT("--num-layers", &s->layers, 1, 1000, "N", "transformer layers")},
		{OPTION_INT("--hidden-size", &s->hidden, 1, 65536, "N", "width")},
		{OPTION_INT("--num-attention-heads", &s->heads, 1, 1024, "N", "attention heads")},
		{OPTION_INT("--max-position-embeddings", &s->positions, 1, 1 << 20, "N",
			"rows of the position table: the longest window")},
		{OPTION_INT("--make-vocab-size-divisible-by", &s->divisible, 1, 65536, "N",
			"rows of the embedding in memory are padded to a multiple of this")},
		{OPTION_DOUBLE("--attention-dropout", &s->attention_dropout, 0, 0.999, "P",
			"of attention probabilities")},
		{OPTION_DOUBLE("--hidden-dropout", &s->hidden_dropout, 0, 0.999, "P",
			"of embeddings and of what each block adds")},
		{OPTION_DOUBLE("--layernorm-epsilon", &s->epsilon, 1e-12, 1, "E", "inside LayerNorm's root")},

		{OPTION_HEADING("Steps")},
		{OPTION_U64("--batch-size", &s->batch, 1, 1 << 20, "N",
			"windows at a time, on each process: decides the memory")},
		{OPTION_U64("--global-batch-size", &s->global_batch, 0, 1 << 24, "N",
			 "windows of a step; gradients of its batches are added up"),
			.default_text = "--batch-size, times the processes of mpirun or srun"},
		{OPTION_U64("--seq-length", &s->seq_length, 1, 1 << 20, "N", "tokens of a window")},
		{OPTION_U64("--train-iters", &s->train_iters, 1, UINT64_C(1) << 40, "N",
			 "steps, those of a resumed run included"),
			.default_text = "four times through the corpus"},
		{OPTION_U64("--exit-interval", &s->exit_interval, 0, ANY, "N",
			 "save and stop at the next multiple of N steps"),
			.default_text = "never"},

		{OPTION_HEADING("Learning rate and optimizer (AdamW)")},
		{OPTION_DOUBLE("--lr", &s->lr, 0, 1000, "RATE", "peak learning rate")},
		{OPTION_DOUBLE(
			"--min-lr", &s->min_lr, 0, 1000, "RATE", "never below this after the warm-up")},
		{OPTION_CHOICE(
			"--lr-decay-style", &s->decay_style, "constant|linear|cosine", "after the warm-up")},
		{OPTION_U64("--lr-decay-iters", &s->decay_iters, 1, UINT64_C(1) << 40, "N",
			 "steps that the decay is spread over"),
			.default_text = "--train-iters"},
		{OPTION_DOUBLE("--warmup", &s->warmup, 0, 1, "SHARE", "of those steps for the warm-up")},
		{OPTION_DOUBLE("--weight-decay", &s->weight_decay, 0, 1000, "D",
			"of weights and embeddings; not of biases and LayerNorm")},
		{OPTION_DOUBLE(
			"--clip-grad", &s->clip, 0, 1e30, "NORM", "largest gradient norm; 0: no limit")},
		{OPTION_DOUBLE("--adam-beta1", &s->beta1, 0, 0.9999999, "B", "decay of the first moments")},
		{OPTION_DOUBLE("--adam-beta2", &s->beta2, 0, 0.9999999, "B", "decay of the second moments")},
		{OPTION_DOUBLE(
			"--adam-eps", &s->adam_epsilon, 1e-30, 0.99, "E", "added to the root of the second")},

		{OPTION_HEADING("Machine, precision, memory")},
		{OPTION_CHOICE("--device", &s->device, DEVICE_CHOICES, DEVICE_HELP)},
		{OPTION_FLAG("--bf16", &s->bf16,
			"activations and working weights in bfloat16: the one to choose on a GPU, and on "
			"processors with avx512_bf16")},
		{OPTION_FLAG("--fp16", &s->fp16, "... in IEEE half precision, with loss scaling")},
		{OPTION_FLAG("--fp32", &s->fp32, "... in single precision (the default)")},
		{OPTION_DOUBLE("--loss-scale", &s->loss_scale, 0, 1e30, "S", "with --fp16: a fixed scale"),
			.default_text = "dynamic"},
		{OPTION_INT("--initial-scale-power", &s->initial_scale_power, 0, 100, "N",
			"a dynamic scale starts at 2^N")},
		{OPTION_U64("--loss-scale-window", &s->scale_window, 1, UINT64_C(1) << 40, "N",
			"clean steps until it is doubled")},
		{OPTION_INT("--hysteresis", &s->hysteresis, 1, 1000, "N", "overflows until it is halved")},
		{OPTION_DOUBLE("--min-scale", &s->min_scale, 1e-30, 1e30, "S", "never below this")},
		{OPTION_FLAG("--checkpoint-activations", &s->checkpoint_activations,
			"keep only each layer's input and compute the rest again: less memory, slower")},
		{OPTION_FLAG("--cpu-checkpointing", &s->cpu_checkpointing,
			"with a GPU and --checkpoint-activations: these inputs wait in the host's memory, "
			"all but two layers'; on its own where they would not fit on the GPU, or leave the "
			"optimizer too little of it")},
		{OPTION_U64("--layer-batch-size", &s->layer_batch, 0, 1 << 20, "N",
			 "with --checkpoint-activations: windows that a layer takes at a time, so that its "
			 "working memory is of these; adds gradients up in another order"),
			.default_text = "--batch-size"},
		{OPTION_SIZE("--logits-memory", &s->logits_memory, 0, UINT64_C(1) << 40, "SIZE",
			 "with a GPU: for the logits that are there at a time, 128 rows at least; less is "
			 "slower, and adds gradients up in another order"),
			.default_text = "an 80th of the GPU's memory"},
		{OPTION_SIZE("--device-memory", &s->device_memory, 0, UINT64_C(1) << 50, "SIZE",
			 "with a GPU: the most of its memory that is taken, beside what CUDA itself has"),
			.default_text = "what is free"},
		{OPTION_STRING("--optimizer-on", &s->optimizer_on, "WHERE",
			 "with a GPU: gpu, cpu (ZeRO-Offload), the share that stays on the GPU (0.3), or "
			 "auto: the GPU where it fits, else what is foretold to be quickest; the results are "
			 "the same"),
			.default_text = "auto"},
		{OPTION_FLAG("--cpu-optimizer", &s->cpu_optimizer, "the same as --optimizer-on cpu")},
		{OPTION_FLAG("--half-gradients", &s->half_gradients,
			"with a GPU: gradients in the type of the activations, half the memory and, with an "
			"optimizer on the host, half the traffic; they are added up in that type")},
		{OPTION_FLAG("--delayed-update", &s->delayed_update,
			"with an optimizer on the host: each update is seen one step late (ZeRO-Offload's "
			"delayed parameter update); faster where the host is slow, and not the same "
			"results")},
		{OPTION_INT("--threads", &s->threads, 0, 4096, "N", "threads of the CPU"),
			.default_text = "all; of several processes, each its share"},

		{OPTION_HEADING("Log, validation, checkpoints")},
		{OPTION_U64("--log-interval", &s->log_interval, 1, ANY, "N", "steps between lines")},
		{OPTION_U64("--eval-interval", &s->eval_interval, 0, ANY, "N",
			 "steps between validations; 0: none"),
			.default_text = "a twentieth of --train-iters, at most 1000"},
		{OPTION_U64("--eval-iters", &s->eval_iters, 1, UINT64_C(1) << 30, "N",
			"global batches of a validation, always the same")},
		{OPTION_STRING("--save", &s->save, "DIR",
			"the run's directory: checkpoints, log, metrics; none: nothing is saved")},
		{OPTION_U64("--save-interval", &s->save_interval, 0, ANY, "N",
			"steps between checkpoints; 0: only the last (and the best)")},
		{OPTION_INT("--keep", &s->keep, 1, 1000000, "N", "checkpoints kept, besides the best")},
		{OPTION_STRING(
			 "--load", &s->load, "DIR", "go on from a run's newest checkpoint, or from this one"),
			.default_text = ""},
		{OPTION_FLAG("--finetune", &s->finetune,
			"with --load: take the weights alone (also of a Hugging Face GPT-2) and start at "
			"step 0")},
		{OPTION_FLAG("--overwrite", &s->overwrite, "delete the checkpoints that are in the way")},
		{OPTION_STRING("--preset", &s->preset, "NAME", "reference: the flags of the reference run"),
			.default_text = ""},

		NOTHING_NUMBER("--model-parallel-size"),
		NOTHING_FLAG("--resume-dataloader"),
		NOTHING_FLAG("--lazy-loader"),
		NOTHING_FLAG("--no-load-optim"),
		NOTHING_FLAG("--no-load-rng"),
		NOTHING_FLAG("--no-save-optim"),
		NOTHING_FLAG("--no-save-rng"),
		NOTHING_FLAG("--cpu_torch_adam"),
		NOTHING_FLAG("--deepspeed"),
		NOTHING_TEXT("--deepspeed_config"),
		NOTHING_FLAG("--deepspeed-activation-checkpointing"),
		NOTHING_FLAG("--deepscale"),
		NOTHING_TEXT("--deepscale_config"),
		NOTHING_FLAG("--deepspeed_mpi"),
		NOTHING_NUMBER("--local_rank"),
		NOTHING_NUMBER("--checkpoint-num-layers"),
		NOTHING_TEXT("--tokenizer-type"),
		NOTHING_TEXT("--tokenizer-model-type"),
		NOTHING_TEXT("--tokenizer-path"),
		NOTHING_TEXT("--cache-dir"),
		NOTHING_TEXT("--distributed-backend"),
		NOTHING_NUMBER("--num-workers"),
		NOTHING_NUMBER("--intermediate-size"),
		NOTHING_NUMBER("--eval-batch-size"),
		NOTHING_FLAG("--shuffle"),
		NOTHING_FLAG("--loose-json"),
		NOTHING_TEXT("--text-key"),
		NOTHING_TEXT("--delim"),
		NOTHING_FLAG("--fp32-embedding"),
		NOTHING_FLAG("--fp32-layernorm"),
		NOTHING_FLAG("--fp32-tokentypes"),
		NOTHING_FLAG("--fp32-allreduce"),
		NOTHING_FLAG("--deep-init"),
	};
	_Static_assert(sizeof table / sizeof *table <= TRAIN_OPTIONS, "room for the table");
	memcpy(o->table, table, sizeof table);
	o->options = (struct options){.command = "train",
		.summary = "a corpus in, a trained GPT-2 out: log, metrics, checkpoints",
		.details = "  ferry train --train-data corpus              train a GPT-2, saving to ./run\n"
			   "  ferry train --load run                       go on where it stopped\n"
			   "  ferry train --load run --train-iters 20000   go on for longer\n"
			   "  ferry train --load gpt2-dir --finetune --train-data corpus --lr 1e-4\n"
			   "Ctrl-C finishes the step, saves and ends (so do SIGTERM, a closed terminal and a "
			   "pipe "
			   "that nobody reads any more); SIGUSR1 saves and goes on.",
		.table = o->table,
		.count = sizeof table / sizeof *table};
}

/* ---- the layers ---- */

static const char *const reference_flags[][2] = {{"--num-layers", "4"}, {"--hidden-size", "1024"},
	{"--num-attention-heads", "16"}, {"--max-position-embeddings", "1024"}, {"--seq-length", "1024"},
	{"--batch-size", "24"}, {"--global-batch-size", "96"}, {"--train-iters", "1000000"},
	{"--split", "949,50,1"}, {"--lr", "1.5e-4"}, {"--lr-decay-style", "cosine"}, {"--warmup", "0.01"},
	{"--weight-decay", "0.01"}, {"--clip-grad", "1"}, {"--checkpoint-activations", NULL},
	{"--fp16", NULL}, {"--loss-scale", "4096"}, {"--log-interval", "5"}, {"--eval-interval", "1000"},
	{"--eval-iters", "100"}, {"--save-interval", "5000"}, {"--seed", "1234"}, {"--eod-mask-loss", NULL}};

static const struct option *find(const struct train_options *o, const char *name)
{
	for (size_t i = 0; i < o->options.count; i++)
		if (o->table[i].kind != OPTION_KIND_HEADING && strcmp(o->table[i].name, name) == 0)
			return &o->table[i];
	return NULL;
}

bool train_options_typed(const struct train_options *o, const char *name)
{
	const struct option *option = find(o, name);
	return option && o->on_command_line[option - o->table];
}

bool train_options_chosen(const struct train_options *o, const char *name)
{
	const struct option *option = find(o, name);
	return option && option->given;
}

/* As a word of its own. */
static bool names(const char *text, const char *flag)
{
	size_t length = strlen(flag);
	for (const char *at = text; (at = strstr(at, flag)); at += length)
		if (!isalnum((unsigned char)at[length]) && at[length] != '-')
			return true;
	return false;
}

const char *train_options_inherited(const struct train_options *o, const char *text)
{
	for (size_t i = 0; i < o->options.count; i++) {
		const struct option *option = &o->table[i];
		if (option->kind == OPTION_KIND_FLAG && option->given && !o->on_command_line[i] &&
			names(text, option->name))
			return option->name;
	}
	return NULL;
}

enum status train_options_parse(struct train_options *o, int argc, char **argv)
{
	memset(o, 0, sizeof *o);
	o->settings = default_settings();
	fill_table(o);
	TRY(options_parse(&o->options, argc, argv));
	for (size_t i = 0; i < o->options.count; i++)
		o->on_command_line[i] = o->table[i].given;
	return STATUS_OK;
}

static bool is_precision(const char *name)
{
	return strcmp(name, "--fp16") == 0 || strcmp(name, "--bf16") == 0 || strcmp(name, "--fp32") == 0;
}

/* Has a higher layer said something about this? */
static bool is_decided(const struct train_options *o, const char *name)
{
	if (is_precision(name) && (train_options_typed(o, "--fp16") || train_options_typed(o, "--bf16") ||
					  train_options_typed(o, "--fp32")))
		return true;
	for (int i = 1; i < o->argc; i++) {
		size_t length = strcspn(o->argv[i], "=");
		if (strlen(name) == length && memcmp(o->argv[i], name, length) == 0)
			return true;
	}
	return false;
}

static enum status put(struct train_options *o, const char *text)
{
	char **argv = realloc(o->argv, (size_t)(o->argc + 2) * sizeof *argv);
	if (argv) {
		o->argv = argv;
		argv[o->argc] = strdup(text);
		argv[o->argc + 1] = NULL;
	}
	FAIL_IF(!argv || !argv[o->argc], STATUS_MEMORY, "no memory for the command line");
	o->argc++;
	return STATUS_OK;
}

static enum status put_flag(struct train_options *o, const char *name, const char *value)
{
	if (is_decided(o, name))
		return STATUS_OK;
	TRY(put(o, name));
	return value ? put(o, value) : STATUS_OK;
}

static enum status put_model(struct train_options *o)
{
	const char *name = o->settings.model;
	struct model_config sizes;
	char text[16];
	if (!name)
		return STATUS_OK;
	FAIL_IF(!model_config_named(name, &sizes), STATUS_USAGE,
		"--model: '%s' is not known; there are " MODEL_NAMES, name);
	snprintf(text, sizeof text, "%d", sizes.layers);
	TRY(put_flag(o, "--num-layers", text));
	snprintf(text, sizeof text, "%d", sizes.hidden);
	TRY(put_flag(o, "--hidden-size", text));
	snprintf(text, sizeof text, "%d", sizes.heads);
	return put_flag(o, "--num-attention-heads", text);
}

static enum status put_words(struct train_options *o, const cJSON *words)
{
	const cJSON *word;
	if (is_decided(o, words->string))
		return STATUS_OK;
	TRY(put(o, words->string));
	cJSON_ArrayForEach (word, words)
		if (cJSON_IsString(word))
			TRY(put(o, word->valuestring));
	return STATUS_OK;
}

static enum status put_recorded(struct train_options *o, const cJSON *recorded)
{
	const cJSON *item;
	cJSON_ArrayForEach (item, recorded) {
		/* A flag of another version that this one does not know is left out. */
		if (find(o, item->string) && cJSON_IsArray(item))
			TRY(put_words(o, item));
		if (!find(o, item->string) || (!cJSON_IsString(item) && !cJSON_IsTrue(item)))
			continue;
		TRY(put_flag(o, item->string, cJSON_IsString(item) ? item->valuestring : NULL));
	}
	return STATUS_OK;
}

static enum status put_preset(struct train_options *o)
{
	const char *name = o->settings.preset;
	if (!name)
		return STATUS_OK;
	FAIL_IF(strcmp(name, "reference") != 0, STATUS_USAGE,
		"--preset: '%s' is not known; there is reference", name);
	for (size_t i = 0; i < sizeof reference_flags / sizeof *reference_flags; i++)
		TRY(put_flag(o, reference_flags[i][0], reference_flags[i][1]));
	return STATUS_OK;
}

enum status train_options_layer(struct train_options *o, int argc, char **argv, const cJSON *recorded)
{
	for (int i = 0; i < argc; i++)
		if (strcmp(argv[i], "--") != 0) /* nothing follows it: there are no positionals */
			TRY(put(o, argv[i]));
	TRY(put_model(o));
	if (recorded)
		TRY(put_recorded(o, recorded));
	TRY(put_preset(o));
	free(o->settings.data.items);
	o->settings = default_settings();
	fill_table(o);
	TRY(options_parse(&o->options, o->argc, o->argv));
	if (!o->settings.global_batch)
		o->settings.global_batch = o->settings.batch;
	return STATUS_OK;
}

void train_options_free(struct train_options *o)
{
	for (int i = 0; i < o->argc; i++)
		free(o->argv[i]);
	free(o->argv);
	free(o->settings.data.items);
}

/* ---- values as text ---- */

void format_python_float(double number, char text[32])
{
	char digits[32];
	int precision = 1;
	if (!isfinite(number)) {
		strcpy(text, isnan(number) ? "nan" : number > 0 ? "inf" : "-inf");
		return;
	}
	do
		snprintf(digits, sizeof digits, "%.*e", precision - 1, number);
	while (strtod(digits, NULL) != number && ++precision <= 17);
	int exponent = atoi(strchr(digits, 'e') + 1);
	if (exponent < -4 || exponent >= 16)
		snprintf(text, 32, "%.*e", precision - 1, number);
	else
		snprintf(text, 32, "%.*f", precision - 1 - exponent > 1 ? precision - 1 - exponent : 1,
			number);
}

static void choice_text(const struct option *option, char *text, size_t room)
{
	const char *choice = option->metavar;
	for (int i = 0; i < *option->target.integer; i++)
		choice = strchr(choice, '|') + 1;
	snprintf(text, room, "%.*s", (int)strcspn(choice, "|"), choice);
}

static void words_text(const struct option_list *words, char *text, size_t room)
{
	size_t length = 0;
	text[0] = 0;
	for (size_t i = 0; i < words->count && length < room; i++)
		length +=
			(size_t)snprintf(text + length, room - length, "%s%s", i ? " " : "", words->items[i]);
}

static void value_text(const struct option *option, char *text, size_t room)
{
	char number[32];
	switch (option->kind) {
	case OPTION_KIND_FLAG:
		snprintf(text, room, "%s", *option->target.flag ? "True" : "False");
		break;
	case OPTION_KIND_STRING:
		snprintf(text, room, "%s", *option->target.string ? *option->target.string : "None");
		break;
	case OPTION_KIND_INT:
		snprintf(text, room, "%d", *option->target.integer);
		break;
	case OPTION_KIND_DOUBLE:
		format_python_float(*option->target.real, number);
		snprintf(text, room, "%s", number);
		break;
	case OPTION_KIND_CHOICE:
		choice_text(option, text, room);
		break;
	case OPTION_KIND_WORDS:
		words_text(option->target.list, text, room);
		break;
	default:
		snprintf(text, room, "%" PRIu64, *option->target.u64);
	}
}

/* ---- the record ---- */

/* Where the optimizer is decides nothing that a resumed run need be told, but with a delay. */
static bool is_recorded(const struct train_settings *s, const struct option *option)
{
	static const char *const places[] = {"--optimizer-on", "--cpu-optimizer"};
	static const char *const not [] = {"--load", "--finetune", "--overwrite", "--preset", "--model",
		"--save", "--exit-interval", "--device"};
	if (option->kind == OPTION_KIND_HEADING || !option->help)
		return false;
	for (size_t i = 0; i < sizeof not / sizeof *not ; i++)
		if (strcmp(option->name, not [i]) == 0)
			return false;
	for (size_t i = 0; i < sizeof places / sizeof *places; i++)
		if (strcmp(option->name, places[i]) == 0)
			return s->delayed_update;
	return true;
}

/* Dynamic loss scaling, no exit and the like are the flag's absence. */
static bool is_absent(const struct option *option)
{
	switch (option->kind) {
	case OPTION_KIND_FLAG:
		return !*option->target.flag;
	case OPTION_KIND_STRING:
		return !*option->target.string;
	case OPTION_KIND_WORDS:
		return !option->target.list->count;
	case OPTION_KIND_U64:
		if (strcmp(option->name, "--exit-interval") == 0)
			return *option->target.u64 == 0;
		return (double)*option->target.u64 < option->least;
	case OPTION_KIND_DOUBLE:
		return strcmp(option->name, "--loss-scale") == 0 && *option->target.real == 0;
	default:
		return false;
	}
}

static bool record_words(cJSON *record, const struct option *option)
{
	const struct option_list *words = option->target.list;
	cJSON *array = cJSON_CreateStringArray(words->items, (int)words->count);
	return json_add_item(record, option->name, array);
}

cJSON *train_options_record(const struct train_options *o)
{
	cJSON *record = cJSON_CreateObject();
	bool fine = record;
	for (size_t i = 0; i < o->options.count && fine; i++) {
		const struct option *option = &o->table[i];
		char text[4096];
		if (!is_recorded(&o->settings, option) || is_absent(option))
			continue;
		value_text(option, text, sizeof text);
		if (option->kind == OPTION_KIND_FLAG)
			fine = cJSON_AddTrueToObject(record, option->name);
		else if (option->kind == OPTION_KIND_WORDS)
			fine = record_words(record, option);
		else
			fine = cJSON_AddStringToObject(record, option->name, text);
	}
	if (fine)
		return record;
	cJSON_Delete(record);
	return NULL;
}

/* ---- the table as the reference prints it ---- */

static void table_line(const struct option *option, char *line, size_t room)
{
	static const char dots[] = ".............................";
	char name[64], value[4096];
	snprintf(name, sizeof name, "%s", option->name + 2);
	for (char *c = name; *c; c++)
		if (*c == '-')
			*c = '_';
	size_t length = strlen(name);
	if (is_absent(option) && option->kind != OPTION_KIND_FLAG)
		strcpy(value, "None");
	else
		value_text(option, value, sizeof value);
	/* 29 - length periods, then a space; none for a name of 29 or more. */
	if (length < sizeof dots - 1)
		snprintf(line, room, "  %s %s %s", name, dots + length, value);
	else
		snprintf(line, room, "  %s  %s", name, value);
}

void train_options_table(
	const struct train_options *o, void (*line)(void *user, const char *text), void *user)
{
	line(user, "arguments:");
	for (size_t i = 0; i < o->options.count; i++) {
		char text[4200];
		if (o->table[i].kind == OPTION_KIND_HEADING || !o->table[i].help)
			continue;
		table_line(&o->table[i], text, sizeof text);
		line(user, text);
	}
}

char *train_options_ignored(const struct train_options *o)
{
	char *list = strdup("");
	for (size_t i = 0; i < o->options.count && list; i++) {
		char *longer;
		if (!o->on_command_line[i] || o->table[i].help)
			continue;
		if (asprintf(&longer, "%s%s%s", list, *list ? ", " : "", o->table[i].name) < 0)
			longer = NULL;
		free(list);
		list = longer;
	}
	return list;
}
