/*
 * model.h: GPT-2, forward and backward, on any kernels table.
 *
 * Pre-LN GPT-2: learned positions, tanh GELU, tied embeddings. (Shape and parameters: engine/parameters.h.
 * Generation with a key/value cache: engine/decoder.h.)
 *
 * A model owns activations and scratch, nothing else. Weights (act) and gradients (grad) are the caller's
 * flat arrays [parameter_table.elements] in the kernels' memory. Kept from the forward for the backward, a
 * layer: both residual sums, q|k|v, the attention's output, the MLP's sums before GELU, statistics: 10 C a
 * token. LayerNorm's and GELU's outputs are computed again in the backward: under 1% of a step on the CPU, some
 * 4% on a GPU, whose products are so much faster than its memory. With keep_outputs they are kept too, 16 C a
 * token in all. With checkpoint_activations only the layer's input is kept, C a token, and its forward is run
 * again (a third more GEMM). With inputs_on_host these lie in pinned host memory, but for two layers': they go
 * there and come back while other layers compute (kept_inputs.h). Results are the same bits in every case, but
 * for GELU's outputs where a GPU's product computes them from sums that were not rounded yet (in half
 * precision): those that are kept, or come of the forward's second run, are not those that GELU gives of the
 * rounded sums alone.
 *
 * layer_batch bounds what is left. With checkpoint_activations a layer takes so many sequences of the
 * micro-batch at a time, forward and backward, one after the other before the next layer begins: of all its
 * planes (14 C a token) only its input, and the gradients that go from layer to layer, are of the micro-batch.
 * The last layer's pieces go up through the classifier and come down at once. Weight gradients are then sums
 * over the pieces, in order: not the bits of another layer_batch. Evaluation runs piece by piece too.
 *
 * Everything is queued on the default stream and nothing waits: whoever reads losses, logits or gradients on
 * the host calls stream_wait first, which also returns failures of the operations, and model_check where
 * inputs are on the host. Token ids must be in
 * [0, vocabulary) and positions in [0, positions): the caller vouches. One thread at a time per model.
 */
#ifndef ENGINE_MODEL_H
#define ENGINE_MODEL_H

#include "common/error.h"
#include "engine/parameters.h"
#include "kernels/kernels.h"

#include <stdint.h>

struct model_options {
	int batch, sequence;         /* the largest micro-batch (B, T) */
	bool training;               /* false: no backward, fewer activations */
	bool checkpoint_activations; /* keep only each layer's input; recompute the rest in the backward */
	bool keep_outputs;           /* without: LayerNorm's and GELU's outputs too */
	bool inputs_on_host;         /* with checkpoint_activations: but for two layers' */
	int layer_batch;             /* with checkpoint_activations: sequences at a time in a layer; 0: all */
	uint64_t seed;               /* dropout's */
	int forward_uses;            /* micro-batches between changes of the weights (kernels.h); 0: one */
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

/*
 * Told before a layer's weights are first read by each call below: -1 (embeddings; the head's too), 0 .. L-1,
 * L (ln_f). It may queue work on the model's stream, and wait for what brings the weights (offload.h).
 */
typedef enum status model_layer_needed(void *user, int layer);

/* Takes all the memory that the model will need. */
enum status model_open(const struct model_config *config, const struct model_options *options,
	struct kernels *kernels, struct model **out) MUST_USE;
void model_close(struct model *model);
const struct parameter_table *model_parameters(const struct model *model);
void model_set_gate(struct model *model, model_layer_needed *needed /* or NULL */, void *user);
/* What model_open reserves the kernels' own scratch for. */
struct kernel_shapes model_shapes(const struct model_config *config, const struct model_options *options);
/* Bytes of activations and scratch that model_open takes for these (the kernels' own scratch not counted). */
uint64_t model_activation_bytes(
	const struct model_config *config, const struct model_options *options, enum dtype act);
/* Pinned host bytes likewise. */
uint64_t model_pinned_bytes(
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

/* The first failure of the inputs' way to the host and back; call it after stream_wait. */
enum status model_check(struct model *model) MUST_USE;

/* Logits of the V real ids for the last position of each sequence, or for all, f32 [B][V] or [B][T][V]. No
 * dropout. `batch`'s targets are not read. */
enum status model_logits(struct model *model, const void *weights, const struct model_batch *batch, bool all,
	float *logits) MUST_USE;

#endif
