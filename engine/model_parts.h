/* model_parts.h: what the model's files share. model.h is the manual. */
#ifndef ENGINE_MODEL_PARTS_H
#define ENGINE_MODEL_PARTS_H

#include "engine/kept_inputs.h"
#include "engine/model.h"

/* What a layer's backward needs of its forward; R rows (of a piece, where layer_batch makes pieces, but for x1). */
struct layer_kept {
	void *x1;                       /* [R][C] residual stream into ln_1 */
	void *qkv;                      /* [R][3C] */
	void *attention;                /* [R][C] */
	void *x2;                       /* [R][C] residual stream into ln_2 */
	void *pre;                      /* [R][4C] MLP's sums before GELU */
	void *normal1, *normal2, *gelu; /* [R][C] ln_1's and ln_2's outputs, [R][4C] GELU's; NULL: not kept */
	float *mean1, *rstd1, *mean2, *rstd2; /* [R] */
	float *lse;                           /* [B][H][T] */
};

struct model {
	struct model_config config;
	struct model_options options;
	struct parameter_table table;
	struct kernels *k;
	struct layer_kept *layers; /* [L]; what need not be kept is shared by all */
	void *wide;   /* [R][4C] GELU's output, or what else a layer passes on; gradients of it; of a piece */
	void *narrow; /* [R][C] a LayerNorm's output, or a branch's; gradients of it; of a piece */
	void *dx;     /* [R][C] gradient of the residual stream; of the micro-batch */
	void *dbranch;      /* [R][C] the same through a branch's dropout; dx itself without dropout */
	float *mean, *rstd; /* [R] ln_f; of a piece */
	void *arena;
	uint64_t arena_bytes;
	struct kept_inputs *inputs; /* where the layers' x1 are on the host; or NULL */
	model_layer_needed *needed; /* or NULL */
	void *needed_user;
};

/* Sequences that a layer takes at a time, at the most. */
static inline int piece_sequences(const struct model_options *o)
{
	return o->layer_batch > 0 && o->layer_batch < o->batch ? o->layer_batch : o->batch;
}

static inline bool in_pieces(const struct model_options *o)
{
	return piece_sequences(o) < o->batch;
}

#endif
