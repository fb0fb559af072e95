/*
 * model.h: GPT-2's shape, its parameters, forward and backward, on any kernels table.
 *
 * Pre-LN GPT-2: learned positions, tanh GELU, tied embeddings. Parameters live in one flat array, in memory
 * exactly as in Hugging Face's GPT-2 (Conv1D weights [in][out]); the same offsets serve weights, gradients
 * and moments. The vocabulary is padded to VP rows inside; padded rows are zero, get no gradient and never
 * reach a file.
 */
#ifndef ENGINE_MODEL_H
#define ENGINE_MODEL_H

#include "common/error.h"
#include "kernels/kernels.h"

#include <stdint.h>

struct model_config {
	int layers, hidden, heads, positions; /* positions: rows of the position table */
	int vocabulary, vocabulary_padded;
	float embedding_dropout, attention_dropout, hidden_dropout; /* hidden: both branch outputs */
	float layernorm_epsilon;
};

/* "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl": sizes only. False: not known. */
bool model_config_named(const char *name, struct model_config *config);
/* Says what is impossible (heads that do not divide hidden, ...) before anything is allocated. */
enum status model_config_check(const struct model_config *config) MUST_USE;

/* ---- parameters ---- */

struct parameter {
	char name[48];   /* Hugging Face's, without "transformer.": "wte.weight", "h.0.attn.c_attn.weight" */
	uint64_t offset; /* elements from the start of the flat array, a multiple of 64 */
	uint64_t elements; /* in memory: rows * columns */
	int rows, columns; /* vectors have rows 1 */
	int file_rows;     /* rows in files (the real vocabulary for wte) */
	int dimensions;    /* 1 or 2, in files */
	int group;         /* 0: decays, 1: does not (LayerNorm's and biases) */
	int layer;         /* -1 embeddings, 0..L-1, L final LayerNorm */
};

struct parameter_table {
	struct parameter *items; /* [count], in order of offset: wte, wpe, h.0..., ln_f */
	int count;
	uint64_t elements;          /* of the flat array, gaps included */
	uint64_t counted;           /* parameters as Megatron counts them (padded vocabulary, no gaps) */
	uint64_t group_elements[2]; /* likewise */
};

enum status parameter_table_open(const struct model_config *config, struct parameter_table *out) MUST_USE;
void parameter_table_close(struct parameter_table *table);
const struct parameter *parameter_find(const struct parameter_table *table, const char *name);

/*
 * N(0, 0.02) for weights, residual projections (attn.c_proj, mlp.c_proj) N(0, 0.02 / sqrt(2L)), biases 0,
 * LayerNorm 1 and 0, padded rows 0. Counter-based (Philox; seed, parameter, element), so the same for any
 * threads or ranks.
 */
void parameters_initialize(
	const struct model_config *config, const struct parameter_table *table, uint64_t seed, float *p);

/* ---- forward and backward ---- */

struct model_options {
	int batch, sequence;         /* the largest micro-batch (B, T) */
	bool training;               /* false: no backward, fewer activations */
	bool checkpoint_activations; /* keep only each layer's input; recompute the rest in the backward */
	uint64_t seed;               /* dropout's */
};

struct model_batch {
	const int32_t *inputs;    /* [B][T], in the kernels' memory */
	const int32_t *targets;   /* [B][T]; -1: not counted */
	const int32_t *positions; /* [B][T] or NULL: 0..T-1 */
	const int32_t *first;     /* [B][T] or NULL: first column a row may see (kernels.h, attention) */
	int batch, sequence;
	uint64_t window; /* number in the run of the first sequence (dropout) */
};

struct model;

/* Activations and scratch for these options; weights (act) and gradients (grad) are the caller's flat arrays.
 */
enum status model_open(const struct model_config *config, const struct model_options *options,
	struct kernels *kernels, struct model **out) MUST_USE;
void model_close(struct model *model);
const struct parameter_table *model_parameters(const struct model *model);
/* Bytes of activations and scratch that model_open takes for these. */
uint64_t model_activation_bytes(
	const struct model_config *config, const struct model_options *options, enum dtype act);

/* Per-token losses, f32 [B][T] in the kernels' memory (0 where not counted). No dropout. */
enum status model_evaluate(
	struct model *model, const void *weights, const struct model_batch *batch, float *losses) MUST_USE;

/*
 * Forward with dropout and backward. dlogits are multiplied by `scale` (loss scale / counted targets of the
 * whole step). accumulate false overwrites `gradients`, true adds. `done` (may be NULL) is told, in order of
 * completion, each time a layer's gradients are final: layers L (ln_f), L-1 .. 0, then -1 (embeddings). It
 * may queue work on the model's stream.
 */
typedef enum status model_layer_done(void *user, int layer);
enum status model_train(struct model *model, const void *weights, void *gradients,
	const struct model_batch *batch, float scale, bool accumulate, float *losses, model_layer_done *done,
	void *user) MUST_USE;

/* Logits of the V real ids for the last position of each sequence, or for all, f32 [B][V] or [B][T][V]. No
 * dropout. */
enum status model_logits(struct model *model, const void *weights, const struct model_batch *batch, bool all,
	float *logits) MUST_USE;

/* ---- generation: one token at a time with a key/value cache ---- */
struct decoder;
enum status decoder_open(
	const struct model_config *config, struct kernels *kernels, int batch, struct decoder **out) MUST_USE;
void decoder_close(struct decoder *decoder);
/* Feeds one token a sequence at `position` (0 first; < positions) and gives the logits that follow, f32
 * [batch][V]. */
enum status decoder_step(struct decoder *decoder, const void *weights, const int32_t *tokens /* [batch] */,
	int position, float *logits) MUST_USE;

#endif
