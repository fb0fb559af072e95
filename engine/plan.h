/*
 * plan.h: what a training step will take, before anything is allocated: work, traffic, time and what bounds
 * it.
 *
 * Three pure functions. Nothing is kept; they fail for shapes that model_config_check refuses.
 * (Bytes of memory by kind: trainer_measure. Rates of a machine at hand: probe.h measures them.)
 *
 * Work of a step of W windows of T tokens (tokens = W T; L layers, C wide, VP padded ids):
 *
 *    matrix products     forward 2 (12 L C^2 + VP C) a token; backward twice that; with recomputation the
 *                        layers' share, 24 L C^2, once more
 *    attention           causal: half of T columns a row. Forward 2 L C T a token; backward two and a half
 *                        times that (scores are computed again); with recomputation the forward once more
 *    model FLOPs         what MFU counts: matrix products and causal attention, forward and twice that
 *                        backward, nothing recomputed: 6 (12 L C^2 + VP C) + 6 L C T a token. llm.c's count
 *                        less embeddings' positions, LayerNorms and biases, which multiply no matrix
 *    activations         bytes that passes other than matrix products move: per layer and token about 12 C
 *                        elements forward and 20 C backward (LayerNorm, residual sums, GELU, dropout), 12 C of
 *                        these for outputs that are computed again unless they are kept, and 3 VP elements of
 *                        logits in the classifier's chunks
 *    optimizer           bytes a parameter: 24 (p, m and v in and out), the gradient in, and the rounded
 *                        weight out where p is not it: 30 with two-byte weights and four-byte gradients
 *
 * The step's time with the optimizer on the host (engine/offload.h) is found by walking through the pipeline,
 * bucket by bucket, for several steps, until they repeat. Four resources, each serving in order: the
 * device's compute, the link down, the host's AdamW, the link up. A bucket is a layer; bucket 0 the
 * embeddings.
 *
 *    PLAN_EXACT     what has a shadow (as many as the engine would give: offload_count_shadows) goes down as soon
 *                   as it is final, and AdamW begins on it, in a step that will be committed; of the token embedding
 *                   the rows that the step does not look up with the classifier. What still waits for AdamW
 *                   at the end of the backward, where the norm is known, and all that has no shadow, goes down
 *                   and is updated then, the first layers first. No weight counts before that
 *    PLAN_DELAYED   the update is applied one step later: whatever takes longest bounds the step
 *
 * In both a layer's forward waits for that layer's weights alone.
 *
 * What the device borrows of the state (offload.h; PLAN_EXACT alone) it updates at the decision, before it does anything else.
 * Buckets that are lent as a whole it has all the time. Pieces of the token embedding the host lends from the last
 * micro-batch's forward on, when it is done with the step before, and before it begins with gradients: what it has copied by
 * the decision goes up, and the device waits for that; the rest is the host's to update. The state follows the gradients
 * that still go down then, and the host has it back when it has updated what is left of the step. 24 bytes an element of the
 * host's memory each time (12 read and written), 12 over the link.
 *
 * Several ranks (engine/shards.h; R of them, at one rate): each computes its part of the windows, and has the optimizer of
 * n / R elements. What it has of the exchange, out and in alike, is (R - 1) / R of all gradients, on their way to their
 * owners as the backward goes on, and of all weights, on their way to all as the next forward comes to them. That is a
 * fifth resource: a bucket's gradients are final when they are summed, and usable weights are those that all have. On GPUs
 * the token embedding's rows that no rank looks up are summed as the backward begins.
 */
#ifndef ENGINE_PLAN_H
#define ENGINE_PLAN_H

#include "engine/offload.h"

struct plan_shape {
	struct model_config model;
	uint64_t micro_batch, global_batch; /* windows: at a time on a rank; of a step on all */
	uint64_t window_tokens;             /* T */
	enum dtype act, grad;               /* grad: as it goes down the link */
	bool checkpoint_activations;
	bool keep_outputs;   /* model.h */
	bool inputs_on_host; /* with checkpoint_activations: but for two layers' (kept_inputs.h) */
	int ranks;           /* 0: 1 */
};

/* Counts are of all ranks, bytes of each. */
struct plan_work {
	uint64_t parameters, tokens;          /* elements of the flat array; of a step */
	double model_flops;                   /* a step's; MFU counts these */
	double matrix_flops, attention_flops; /* a step's, as executed, recomputation included */
	double activation_bytes,
		optimizer_bytes;     /* a step's, in the memory of the device, of the optimizer */
	double down_bytes, up_bytes; /* over the link where the whole optimizer is on the host */
	double input_bytes;          /* layers' inputs, each way; 0: they stay on the device */
	double network_bytes;        /* to other ranks, and as many from them */
};
enum status plan_work(const struct plan_shape *shape, struct plan_work *out) MUST_USE;
/* What of it a measured rate must count alike: AdamW's bytes a parameter, and how many forwards of the attention
 * its backward is (five products for the forward's two). */
double plan_optimizer_bytes(enum dtype act, enum dtype grad);
#define PLAN_ATTENTION_BACKWARD 2.5

/* Per second. A machine without a device has no host_ and no link rates (0). */
struct plan_rates {
	double matrix_flops, attention_flops; /* reached, not the data sheet's */
	double memory_bytes;                  /* of the memory that the model computes in */
	double host_bytes;                    /* of AdamW in the host's memory */
	double down_bytes, up_bytes;          /* of the link, each way */
	double network_bytes; /* between ranks: of each, out and as many in at once; all that it takes */
	double peak_flops;    /* the data sheet's; 0: not known. For MFU */
};
/* Published numbers of a GPU and the shares of them that ferry was measured to reach on an H100; between GPUs of one
 * host, over the same PCIe. `memory`: bytes
 * of the device's that are free once it is open: what the driver and CUDA's context keep, some hundred MB that
 * no estimate has (on a live device what is called free is without them), is left out. Measured on an H100 of
 * 80 GB: 77.6 GiB free (tests/gpu/results/2026-11-22-h100-train.log), so 3% are. Others publish 426 MiB
 * for the context alone on an RTX 6000 Ada (unsloth-zoo, pull request 1053), 555 MiB on an RTX PRO 6000
 * (llama.cpp, pull request 23604). False: it is none of PLAN_GPUS. */
#define PLAN_MEMORY_FREE 0.97
#define PLAN_GPUS        "h100, a100, v100, rtx4090, l4"
bool plan_rates_named(const char *name, struct plan_rates *rates, uint64_t *memory);
int plan_capability_named(const char *name); /* compute capability, 90: 9.0; of those alone */

/* Dense two-byte products a second by the data sheet, of a GPU as its driver names it ("NVIDIA H100 80GB
 * HBM3"); 0: not known, or act is f32. For MFU. */
double plan_peak_flops(const char *device, enum dtype act);

enum plan_schedule { PLAN_ON_DEVICE, PLAN_EXACT, PLAN_DELAYED };
enum plan_bound { PLAN_COMPUTE, PLAN_OPTIMIZER, PLAN_DOWN, PLAN_UP, PLAN_NETWORK };
const char *plan_bound_name(enum plan_bound bound); /* "compute", "the optimizer's memory", ... */

struct plan_time {
	double compute;        /* forward and backward, seconds a step; waits for layers' inputs too */
	double optimizer;      /* AdamW, lending and taking back, on whichever side; on both: the longer */
	double down, up;       /* transfers, each way: gradients, weights, state that the device borrows */
	double network;        /* gradients to their owners, weights to all ranks */
	double step;           /* all of it, overlapped as the schedule allows */
	double lent, pieces;   /* elements of a rank's that the device borrows; of these, in each step anew */
	double exposed;        /* step less compute: what the optimizer, the link and the network add */
	enum plan_bound bound; /* the longest of the five, which no overlap can beat */
};
/* Of the token embedding's elements, a share: those whose gradients are final last of all (lookups.h), for the rows that the
 * last micro-batch of all ranks looks up. Distinct ids of n tokens of English text are about 12 n^0.62 (Heaps' law; 6,300 of
 * 24,576). */
double plan_looked_up(const struct plan_shape *shape);
/* With the optimizer as offload_open would have it for `offloading`, but for the first elements, a share of each rank's
 * in [0, 1); NULL: all on the device. */
enum status plan_predict(const struct plan_shape *shape, const struct plan_rates *rates,
	const struct offload_config *offloading, double device_share, struct plan_time *out) MUST_USE;

/* What the device borrows: buckets, whose host, down and up it then does without, and pieces of bucket 0 in each step in which
 * its early part was early. */
struct plan_loans {
	const double *share,
		*device; /* [count] shares of buckets; AdamW on these there, seconds. NULL: none */
	struct {
		double share;    /* of bucket 0 */
		double copy;     /* seconds on the host, each way */
		double up, down; /* of their state */
		double device;   /* AdamW there */
	} pieces;
};

/* plan_predict's last part, for times that are known: `compute` seconds, parts of it by work. */
struct plan_buckets {
	int count;              /* embeddings first, then the layers, the last with the final LayerNorm */
	const double *forward;  /* [count] seconds */
	const double *backward; /* [count], in the same order; runs from the last to the first */
	const double *down, *host, *up; /* [count] seconds */
	double between;                 /* the classifier: after the forward, before the backward */
	/* Shares of bucket 0 whose gradients are final then: updated from then on; on their way to their owners, not less. */
	double early, dense;
	const double *shadow; /* [count] shares of the other buckets that have one; NULL: none has */
	double before;        /* micro-batches before the last */
	const double *reduce,
		*share; /* [count] seconds: gradients and weights between ranks; NULL: one process */
	struct plan_loans lent;
};
enum status plan_pipeline(
	const struct plan_buckets *buckets, enum plan_schedule schedule, double *step /* seconds */) MUST_USE;

#endif
