/*
 * optimizer.h: AdamW over the flat arrays of a model, with the global norm and clipping.
 *
 * Owns the moments. Master weights are f32 and in place; where the working weights are another type (act is
 * bf16 or f16) the update writes them too, rounded. Weight decay applies to parameters of group 0 alone
 * (engine/model.h). The order of a step:
 *
 *    optimizer_measure   norm = sqrt(sum of squares of the stored gradients) / loss scale, and whether any is
 *                        inf or NaN (then: no update). Over the part's slices, in their order; of several
 *                        ranks, added up over these in their order
 *    optimizer_clip      c = min(1, max_norm / (norm + 1e-6)), torch's clip_grad_norm_; 1 where max_norm is 0
 *    optimizer_update    AdamW (kernels/adamw.h) on gradient * c / loss scale
 *
 * Gaps between parameters and padded vocabulary rows have gradient 0 and weight 0, and stay 0: their moments
 * are 0, so AdamW adds 0 / (0 + eps).
 *
 * The moments are in the kernels' memory. optimizer_measure waits for all that is queued before it;
 * optimizer_update only queues: its failures come from the next wait.
 */
#ifndef ENGINE_OPTIMIZER_H
#define ENGINE_OPTIMIZER_H

#include "engine/collective.h"
#include "engine/model.h"

struct optimizer_config {
	double beta1, beta2, epsilon; /* [0, 1), [0, 1), > 0 */
	double weight_decay;          /* >= 0, of group 0 */
	double max_norm;              /* >= 0; 0: no clipping */
};

struct optimizer_measure {
	double norm; /* of the unscaled gradients; inf where some are not finite */
	bool overflow;
	double seconds;        /* that it took, from all queued before it to the norm's coming */
	double update_seconds; /* that the update before took, which is known now; 0: there was none */
};

/* A stretch of the flat array, and where it begins in the arrays of a process that has a part of the state alone. */
struct optimizer_slice {
	uint64_t offset, own, elements;
};

/*
 * What this process has the optimizer's state of: slices, in order, which lie one behind the other in its own arrays.
 * Of these the first `there` elements are where the kernels are, the rest are on the host (offload.h).
 */
struct optimizer_part {
	const struct optimizer_slice *slices; /* [count] */
	int count;                            /* 1 or more */
	uint64_t there;                       /* a multiple of PARAMETER_ALIGNED */
};
/* Elements of its slices. */
uint64_t optimizer_part_elements(const struct optimizer_part *part);

struct optimizer;

enum status optimizer_config_check(const struct optimizer_config *config) MUST_USE;
/* The table and the kernels must outlive it. Moments are 0. */
enum status optimizer_open(const struct optimizer_config *config, const struct parameter_table *table,
	struct kernels *kernels, struct optimizer **out) MUST_USE;
/* Of a part (copied): it measures its slices, has moments for and updates those of its elements that are there. What it
 * measures is added up over the ranks, in their order; `ranks` NULL: the slices are all there is. */
enum status optimizer_open_part(const struct optimizer_config *config, const struct parameter_table *table,
	const struct optimizer_part *part, struct collective *ranks, struct kernels *kernels,
	struct optimizer **out) MUST_USE;
void optimizer_close(struct optimizer *optimizer);

/* [elements] that are updated, f32, in the kernels' memory; for checkpoints. */
float *optimizer_exp_avg(struct optimizer *optimizer);
float *optimizer_exp_avg_sq(struct optimizer *optimizer);

enum status optimizer_measure(struct optimizer *optimizer, const void *gradients /* [elements], grad */,
	double loss_scale, struct optimizer_measure *out) MUST_USE;
double optimizer_clip(const struct optimizer *optimizer, double norm);
/* `work` (act, [elements]) is NULL where act is f32: then `weights` are [elements], else like the moments. `step` is
 * 1 for the first update. */
void optimizer_update(struct optimizer *optimizer, float *weights, void *work, const void *gradients,
	double learning_rate, uint64_t step, double multiplier);

/* ---- what every implementation of the update has in common ---- */

/* Neighbours of one group, gaps behind them included. */
struct optimizer_segment {
	uint64_t offset, elements;
	int group;
};

/* All of the table, in order; returns how many. */
int optimizer_cut(const struct parameter_table *table, struct optimizer_segment *out /* [table->count] */);
/* A segment's decay: group 0's is the configuration's, group 1's is 0. */
float optimizer_weight_decay(const struct optimizer_config *config, const struct optimizer_segment *segment);
/* optimizer_update's arguments as the kernels want them; weight_decay is the segment's: left 0. */
struct adamw optimizer_adamw(
	const struct optimizer_config *config, double learning_rate, uint64_t step, double multiplier);

#endif
