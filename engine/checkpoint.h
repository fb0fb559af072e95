/*
 * checkpoint.h: a training state on disk, which is also a Hugging Face GPT-2 model.
 *
 * A checkpoint is a directory:
 *
 *    config.json            GPT2Config, as transformers writes it (keys below)
 *    vocab.json, merges.txt, tokenizer.json, tokenizer_config.json, special_tokens_map.json
 *                           as the caller gives them; AutoTokenizer reads them
 *    model.safetensors      F32: the master weights, named as GPT2LMHeadModel.save_pretrained names them
 *                           ("transformer.wte.weight", "transformer.h.0.attn.c_attn.weight" [in][out], ...);
 *                           the real vocabulary's rows only; no lm_head.weight, for it is tied to wte
 *    optimizer.safetensors  F32: "exp_avg." and "exp_avg_sq." + those names, same shapes
 *    trainer.json           the rest of the state, written last
 *
 * GPT2LMHeadModel.from_pretrained and AutoTokenizer load it as it is. config.json has: activation_function
 * "gelu_new", architectures ["GPT2LMHeadModel"], attn_pdrop, bos_token_id, embd_pdrop, eos_token_id,
 * initializer_range 0.02, layer_norm_epsilon, model_type "gpt2", n_ctx, n_embd, n_head, n_inner null,
 * n_layer, n_positions, resid_pdrop, scale_attn_weights true, tie_word_embeddings true, torch_dtype
 * "float32", use_cache true, vocab_size.
 *
 * trainer.json, version 1 (strings: whole numbers above 2^53, and doubles that need 17 digits):
 *    "format": "ferry-trainer", "version": 1, "program": "ferry 0.1"
 *    "step"       iterations done, skipped ones included
 *    "updates"    of the weights: Adam's t and the schedule's n (step = updates + skipped)
 *    "skipped"    steps without an update, for overflow
 *    "tokens"     targets that have been trained on
 *    "data"       {"split", "seed", "window_tokens" (T), "ordinal" (windows consumed), "sources": [one a
 *                 corpus: {"corpus" (32 hex: its hash), "share" (data/mixture.h, in lowest terms), and the
 *                 position (data/sampler.h): "ordinal", "epoch", "epoch_window", "epoch_tokens"}]}
 *    "loss_scale" {"dynamic", "scale", "minimum", "window", "hysteresis", "hysteresis_left", "iteration",
 *                 "last_overflow"} (loss_scale.h)
 *    "schedule"   {"style", "learning_rate", "minimum", "warmup", "decay_iters"} (schedule.h)
 *    "validation" {"evaluations", "best_step", "best_loss", "best_train_loss", "since_best", "warned"}
 *                 (overfitting.h; the last five matter once evaluations > 0)
 *    "train_loss" {"smoothed", "weight"}: exponential means (overfitting.h)
 *    "made_with"  what a bit-exact resume needs alike: {"precision", "kernels", "threads" (of a rank)}; "ranks",
 *                 where they were several; "choices", where the kernels chose anything: an array of strings
 *                 (kernels.h, choices; cuBLASLt's algorithms are in kernels/cuda/gemm.cu, ways of
 *                 attention in cudnn.cu), for kernels of the same name; of several ranks, rank 0's. A run that goes on with other sizes keeps those
 *                 that it has no use for now: with the old sizes it would need them again
 *    "arguments"  an object of the caller's (ferry train: the flags in force), or {}
 *    "files"      {name: {"bytes", "xxh3_128"}} of every other file of the directory
 *    "hash"       XXH3-128 of this object without "hash", printed without white space
 *
 * A run is a directory of checkpoints step-00001000 ..., with `best`, a symbolic link to the one with the
 * lowest validation loss. A checkpoint is written under another name (common/file.h's temporaries), every file
 * fsynced, then renamed: it is there completely or not at all. Nothing of it is used before all hashes are
 * verified. A directory without trainer.json is a plain Hugging Face model: it has weights and no state to
 * resume.
 *
 * Plain models: names with or without "transformer.", F32, F16 or BF16; attn.bias and attn.masked_bias
 * (buffers of old versions) and a tied lm_head.weight are ignored; any other unknown tensor is an error. What
 * ferry's GPT-2 is not (another activation, n_inner, untied or sharded weights, pytorch_model.bin alone) is
 * STATUS_UNSUPPORTED and says what to do.
 *
 * Memory: tensors go from the caller's arrays to the files and back without a copy in between, or piece by
 * piece through a staging block where they are in a GPU's memory: the same files. One thread at a time for
 * each run and each open checkpoint.
 */
#ifndef ENGINE_CHECKPOINT_H
#define ENGINE_CHECKPOINT_H

#include "common/hash.h"
#include "data/loader.h"
#include "engine/collective.h"
#include "engine/loss_scale.h"
#include "engine/model.h"
#include "engine/overfitting.h"
#include "engine/schedule.h"
#include "engine/staging.h"

#include <cjson/cJSON.h>

enum { CHECKPOINT_NAME = 32, CHECKPOINT_SPLIT = 64 };

/* step-XXXXXXXX */
void checkpoint_name(uint64_t step, char name[CHECKPOINT_NAME]);

/* A corpus that the run trains on; the ordinals of all are the run's. */
struct checkpoint_source {
	struct hash128 corpus;
	uint64_t share;
	struct sampler_position position;
};

struct checkpoint_state {
	uint64_t step, updates, skipped, tokens;
	char split[CHECKPOINT_SPLIT];
	uint64_t seed, window_tokens, ordinal;
	int source_count; /* at least 1 */
	struct checkpoint_source sources[MIXTURE_LIMIT];
	struct loss_scale loss_scale;
	struct schedule schedule;
	struct overfitting overfitting;
	char precision[8]; /* "fp32", "bf16", "fp16" */
	char kernels[96];
	uint32_t threads, ranks; /* of each; that trained together, 0 and 1: one process */
	cJSON *choices; /* the kernels', an array of strings, or NULL: none; owned by the holder of the state */
	cJSON *arguments; /* an object, or NULL; likewise */
};

/* ---- writing ---- */

struct checkpoint_file {
	const char *name;
	const void *data;
	size_t bytes;
};

struct checkpoint_contents {
	const struct model_config *config;
	const struct parameter_table *table;
	struct staging *staging;             /* NULL: the arrays are in ordinary memory; else its kernels' */
	const float *weights;                /* [table->elements], f32 */
	const float *exp_avg, *exp_avg_sq;   /* likewise; both NULL: no optimizer.safetensors */
	uint32_t eod;                        /* bos_token_id and eos_token_id */
	const struct checkpoint_file *files; /* [file_count], the tokenizer's */
	int file_count;
	const struct checkpoint_state *state; /* NULL: no trainer.json, a plain model */
};

/* Writes run/step-XXXXXXXX (the state's step) and gives its name. Replaces one of that name: at once, or,
 * where the file system cannot exchange names, so that for a moment there is neither. */
enum status checkpoint_write(
	const char *run, const struct checkpoint_contents *contents, char name[CHECKPOINT_NAME]) MUST_USE;
/* The same under a name of the caller's, which must not exist. */
enum status checkpoint_write_directory(const char *path, const struct checkpoint_contents *contents) MUST_USE;

/* Makes run/best point to run/NAME, at once. */
enum status checkpoint_mark_best(const char *run, const char *name) MUST_USE;
/* Deletes all but the newest `keep` (at least 1) and the best. */
enum status checkpoint_prune(const char *run, int keep) MUST_USE;
/* Deletes the checkpoints of steps above `step`. */
enum status checkpoint_remove_after(const char *run, uint64_t step) MUST_USE;
/* Renames those to damaged-step-...: a run that goes on from an older one, for checkpoint_open found these damaged, writes
 * these steps anew. */
enum status checkpoint_set_aside_after(const char *run, uint64_t step) MUST_USE;
/* Deletes what killed writers left. Not while another process writes there. */
enum status checkpoint_clean(const char *run) MUST_USE;

/* Steps of run/step-*, ascending, valid or not; free(*steps). A directory that is not there has none. */
enum status checkpoint_list(const char *run, uint64_t **steps, size_t *count) MUST_USE;

/* ---- reading ---- */

struct checkpoint;

/*
 * Opens and verifies. `path` is a checkpoint, a plain model, or a run: then the newest checkpoint whose every
 * hash is right; each newer one that is damaged is passed over with a log_warn that says why (STATUS_CORRUPT if none is
 * left). One that cannot be read (STATUS_IO, STATUS_MEMORY), or not by this ferry (STATUS_UNSUPPORTED), may be whole: that
 * is an error, and none older is taken.
 */
enum status checkpoint_open(const char *path, struct checkpoint **out) MUST_USE;
/* The same for who needs no moments, which are two thirds of the bytes: optimizer.safetensors is not looked at, and need
 * not be there or be whole. */
enum status checkpoint_open_weights(const char *path, struct checkpoint **out) MUST_USE;
/*
 * Either, of ranks, all of whom call it: rank 0's `path` counts. Ranks that find the same directory on the same host verify
 * each file once between them. Damage that those see who find rank 0's directory passes a checkpoint over on all. Where it
 * is whole, but another host's copy is damaged or missing, that is STATUS_MISMATCH. All fail alike: the failure is agreed
 * on (collective.h).
 */
enum status checkpoint_open_together(
	const char *path, bool weights_only, struct collective *ranks, struct checkpoint **out) MUST_USE;
void checkpoint_close(struct checkpoint *checkpoint);
/* Closes the files of weights and moments, which cannot be read any more; all else stays. Where a file that is open
 * cannot quite be deleted (NFS), the run could not delete this checkpoint. */
void checkpoint_close_weights(struct checkpoint *checkpoint);

const char *checkpoint_path(const struct checkpoint *checkpoint); /* of the one directory */
/* vocabulary_padded is the vocabulary's next multiple of 128; the caller may change its copy. */
const struct model_config *checkpoint_config(const struct checkpoint *checkpoint);
uint32_t checkpoint_eod(const struct checkpoint *checkpoint);
/* NULL: a plain model. */
const struct checkpoint_state *checkpoint_get_state(const struct checkpoint *checkpoint);
/* Is there a vocab.json and merges.txt for tokenizer_open_directory? */
bool checkpoint_has_tokenizer(const struct checkpoint *checkpoint);

/* All of the flat array is written: gaps and padded rows become 0. The table is of the checkpoint's own
 * shape; its vocabulary may be padded otherwise. `staging` NULL: into ordinary memory; else its kernels'. */
enum status checkpoint_read_weights(struct checkpoint *checkpoint, const struct parameter_table *table,
	struct staging *staging, float *weights /* [table->elements] */) MUST_USE;
enum status checkpoint_read_moments(struct checkpoint *checkpoint, const struct parameter_table *table,
	struct staging *staging, float *exp_avg, float *exp_avg_sq) MUST_USE;

#endif
