/*
 * parameters.h: GPT-2's shape and where each parameter lies.
 *
 * Parameters live in one flat array, in memory exactly as in Hugging Face's GPT-2 (Conv1D weights
 * [in][out]); the same offsets serve weights, gradients and moments. The vocabulary is padded to VP rows
 * inside; padded rows are zero, get no gradient and never reach a file. The gaps between parameters are zero
 * in every array and stay so.
 */
#ifndef ENGINE_PARAMETERS_H
#define ENGINE_PARAMETERS_H

#include "common/error.h"

#include <stdint.h>

struct model_config {
	int layers, hidden, heads, positions; /* positions: rows of the position table */
	int vocabulary, vocabulary_padded;
	float embedding_dropout, attention_dropout, hidden_dropout; /* hidden: both branch outputs */
	float layernorm_epsilon;
};

/* Of a model known by name ("reference": 4 layers, 1024 wide, 16 heads), sets layers, hidden and heads, and leaves
 * the rest. False: it is none of MODEL_NAMES. */
#define MODEL_NAMES "reference, gpt2, gpt2-medium, gpt2-large, gpt2-xl, gpt3-2.7b, gpt3-6.7b, gpt3-13b"
bool model_config_named(const char *name, struct model_config *config);
/* Those names, from index 0; NULL past the last. */
const char *model_config_name(int index);
/* The vocabulary rounded up to a multiple of `divisor` (at least 1; Megatron's 128). */
int model_vocabulary_pad(int vocabulary, int divisor);
/* Says what is impossible (heads that do not divide hidden, ...) before anything is allocated. */
enum status model_config_check(const struct model_config *config) MUST_USE;

/* Elements: what the flat array is cut at, by whomever, is a multiple. */
enum { PARAMETER_ALIGNED = 64 };

struct parameter {
	char name[48];   /* Hugging Face's, without "transformer.": "wte.weight", "h.0.attn.c_attn.weight" */
	uint64_t offset; /* elements from the start of the flat array, a multiple of PARAMETER_ALIGNED */
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

/* Where each parameter lies within `items`: two embeddings, then 12 a layer in this order, then ln_f. */
enum { PARAMETER_WTE, PARAMETER_WPE, PARAMETER_LAYERS };
enum layer_parameter {
	LN_1_WEIGHT,
	LN_1_BIAS,
	ATTN_WEIGHT,
	ATTN_BIAS,
	ATTN_PROJ_WEIGHT,
	ATTN_PROJ_BIAS,
	LN_2_WEIGHT,
	LN_2_BIAS,
	FC_WEIGHT,
	FC_BIAS,
	FC_PROJ_WEIGHT,
	FC_PROJ_BIAS,
	LAYER_PARAMETERS
};

/* The config must pass model_config_check. */
enum status parameter_table_open(const struct model_config *config, struct parameter_table *out) MUST_USE;
void parameter_table_close(struct parameter_table *table);
/* By Hugging Face's name, with or without "transformer."; NULL: there is none. */
const struct parameter *parameter_find(const struct parameter_table *table, const char *name);

/*
 * N(0, 0.02) for weights, residual projections (attn.c_proj, mlp.c_proj) N(0, 0.02 / sqrt(2L)), biases 0,
 * LayerNorm 1 and 0, padded rows 0. Counter-based (Philox; seed, parameter, element), so the same for any
 * threads or ranks. `p` [table->elements], in host memory, is written whole.
 */
void parameters_initialize(
	const struct model_config *config, const struct parameter_table *table, uint64_t seed, float *p);
/* Parameter `index` alone, the gap behind it included. */
void parameter_initialize(const struct model_config *config, const struct parameter_table *table, int index,
	uint64_t seed, float *values /* [parameter_span] */);
/* To the next multiple of PARAMETER_ALIGNED. */
uint64_t parameter_round_up(uint64_t elements);
/* Elements from a parameter's offset to the next one's. */
uint64_t parameter_span(const struct parameter_table *table, int index);
/* A stretch of the flat array. */
struct parameter_run {
	uint64_t offset, elements;
};
/* From parameter `index`, those whose gradients are final together: an embedding, or a layer's. Returns the index
 * behind them. */
int parameter_run_from(const struct parameter_table *table, int index, struct parameter_run *out);
/* The size of all but the last of the pieces, equal and as few as possible, that a run is cut into so that none has
 * more than `most` elements (a multiple of PARAMETER_ALIGNED, as is the result). */
uint64_t parameter_piece(uint64_t elements, uint64_t most);

#endif
