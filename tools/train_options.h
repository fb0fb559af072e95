/*
 * train_options.h: the flags of `ferry train`, where their values come from, and the argument table.
 *
 * A flag's value is the first of: the command line; --model (sizes); when resuming, the flags of the run that
 * goes on (trainer.json, "arguments"); --preset; ferry's default. Flags of the reference that mean nothing
 * here are accepted and named in a note.
 */
#ifndef TOOLS_TRAIN_OPTIONS_H
#define TOOLS_TRAIN_OPTIONS_H

#include "tools/options.h"

#include <cjson/cJSON.h>

enum { TRAIN_OPTIONS = 128 };

struct train_settings {
	/* model */
	const char *preset, *model;
	int layers, hidden, heads, positions, divisible;
	double attention_dropout, hidden_dropout, epsilon;
	/* data */
	struct option_list data; /* DIR, or SHARE DIR SHARE DIR ... */
	const char *split;
	uint64_t seed;
	/* batches */
	uint64_t batch, global_batch, seq_length; /* global_batch: 0 on the command line is batch */
	/* length and rate */
	uint64_t train_iters, decay_iters; /* 0: chosen from the corpus; 0: train_iters */
	double lr, min_lr, warmup;
	int decay_style; /* constant, linear, cosine, as in engine/schedule.h */
	/* optimizer */
	double weight_decay, clip, beta1, beta2, adam_epsilon;
	/* precision */
	bool fp16, bf16, fp32, checkpoint_activations, eod_mask_loss, reset_attention_mask,
		reset_position_ids;
	double loss_scale; /* 0: dynamic */
	int initial_scale_power, hysteresis;
	uint64_t scale_window;
	double min_scale;
	/* log, validation, checkpoints */
	uint64_t log_interval, eval_interval, eval_iters, save_interval, exit_interval;
	int keep;
	const char *save, *load;
	bool finetune, overwrite;
	/* machine */
	int device, threads;
	const char *optimizer_on; /* NULL: auto */
	bool cpu_optimizer, delayed_update, half_gradients, cpu_checkpointing;
	uint64_t layer_batch;   /* 0: batch */
	uint64_t logits_memory; /* 0: as much as usual */
	uint64_t device_memory; /* 0: what is free */
	/* accepted, without meaning here */
	bool no_flag;
	uint64_t no_number;
	const char *no_text;
};

struct train_options {
	struct train_settings settings;
	struct option table[TRAIN_OPTIONS];
	struct options options;
	bool on_command_line[TRAIN_OPTIONS]; /* of the table's entries */
	/* the arguments put together, and their texts */
	char **argv;
	int argc;
};

/* Reads the command line alone (settings.load, finetune, ...); options.help as options_parse sets it. */
enum status train_options_parse(struct train_options *o, int argc, char **argv) MUST_USE;
/* Then all the layers; `recorded` is the resumed run's "arguments", or NULL. */
enum status train_options_layer(
	struct train_options *o, int argc, char **argv, const cJSON *recorded) MUST_USE;
void train_options_free(struct train_options *o);

/* On the command line; in any layer. */
bool train_options_typed(const struct train_options *o, const char *name);
bool train_options_chosen(const struct train_options *o, const char *name);

/* A flag without a value that `text` names and that is in force without being on the command line; NULL: none. */
const char *train_options_inherited(const struct train_options *o, const char *text);

/* What a later run needs to go on alike: {"--lr": "0.0006", "--bf16": true, ...}. NULL: no memory. */
cJSON *train_options_record(const struct train_options *o);

/* "arguments:" and the reference's table of all flags, in its form; `line` gets each line without newline. */
void train_options_table(
	const struct train_options *o, void (*line)(void *user, const char *text), void *user);
/* The flags given that mean nothing here, ", " between them; "" when none. malloc'ed, NULL: no memory. */
char *train_options_ignored(const struct train_options *o);

/* As Python prints a float: the shortest text that reads back the same ("0.00015", "1e-05", "4096.0"). */
void format_python_float(double number, char text[32]);

#endif
