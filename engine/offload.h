/*
 * offload.h: ZeRO-Offload: weights, activations and gradients on the device, the optimizer on the host.
 *
 * The fp32 master weights and AdamW's two moments lie in host memory, 12 bytes a parameter that the device
 * then need not hold. The flat array (parameters.h) is cut into buckets, pieces of a layer. A bucket's
 * gradients go down through a pinned slot, the host runs AdamW on them (unscaling, update and rounding in one
 * pass), and the rounded weights go back up. Three streams and one host crew work at once:
 *
 *    compute | forward | head | layer L-1 | ...       | layer 0 | embeddings | norm   | forward, layer by layer
 *    down    |         |      | wte, ln_f | L-1 | ...           | 0          |        | rows, wpe
 *    host    |         |      |       | wte, ln_f | L-1 | ...         | 0    |            | rows, wpe
 *    up      |         |      |            | wte, ln_f | L-1 | ...          | 0       |       | rows, wpe
 *                                                                                     ^ decision
 *
 * Speculative, and exact. The whole step's norm and overflow are known only at its end, but AdamW begins as
 * soon as a layer's gradients are final, assuming that the step will be neither clipped nor skipped: it
 * writes p, m and v to a second copy (the shadow), and the rounded weights go up into a waiting area of the
 * device (`incoming`). Nothing that the model uses is touched. Then, at the decision (offload_finish):
 *
 *    commit    the assumption was right: bucket and shadow change places (two pointers), `incoming` is
 *              copied over the weights within the device
 *    redo      clipped: the update is done again with the right factor, from the old state, which is
 *              untouched, and the gradients, which the device keeps until the next backward
 *    drop      overflow: nothing is done
 *
 * Each gives the bits of the serial algorithm (optimizer.h: measure, clip, update). A bucket speculates where
 * it has a shadow (config.speculation bytes of host memory, and its rounded weights' on the device), and only
 * in steps where the last OFFLOAD_RECENT would have committed. All other buckets are updated in place behind
 * the decision, first layers first; the next forward waits for each layer's weights alone (offload_gate).
 *
 * The token embedding is tied: of its gradient the rows that the step looked up are final last of all, the others with the
 * classifier (lookups.h). So of a bucket of wte that speculates the early pieces are updated early, and the late ones, in
 * the same shadow, before the commit: each once. Pieces are brought together on the device before they go down, and put
 * in their places when they have come up.
 *
 * What is final last of all would keep the next forward waiting for the host, so the device may update it itself: it borrows
 * the state, and updates it at the decision, clipped or not. Of wte it is the late pieces, where the early ones were updated
 * early. Which these are changes from step to step: the host lends their state while the forward and the head run, when it
 * has nothing else to do, and takes it back in the next forward (config.lent_rows):
 *
 *    compute | forward | head | layer L-1 | ...    | layer 0 | embeddings | norm | update | forward
 *    up      | state   |      |  weights  | ...                                         |
 *    down    |         |      | gradients | ...                                         | state
 *    host    | lends   |      | AdamW     | ...                                         | takes back
 *
 * Buckets that are lent as a whole (config.lent) need no shadow, and what they took up is theirs anyway: from the first step
 * that has updated them there they stay, until offload_settle takes them back. What has not come in time the host updates, as
 * if it had never been lent; it is lent again in the next step. (Published,
 * for groups of parameters in turn, as Deep Optimizer States; Middleware 2024.)
 *
 * config.delayed is ZeRO-Offload's one-step delay: an update is computed during the next step, and seen by
 * the one after. It changes the results; it does not speculate. offload_settle ends a delay.
 *
 * Some of the optimizer may stay on the device: the flat array's first elements (the layers whose gradients
 * come last and whose weights are wanted first). Those are optimizer.h's; the offload has the rest.
 *
 * One of several ranks has its slices alone (shards.h), in host memory too: a bucket is then what a slice has of a
 * layer. Its gradients are final when they are the sums of all ranks, which the caller tells by offload_layer_final;
 * its weights go up into this rank's slices of the device's, and the caller brings them to the others. Of wte the sums of
 * the early pieces are final with layer L, ln_f's.
 *
 * Memory: the offload owns the host's copies, pinned slots and `incoming`; weights and gradients are the
 * caller's. Threads: one calls. A conductor thread moves the buckets and leads the crew that computes
 * (crew.h). Waiting is on events and condition variables. Errors of the threads and of the device's copies
 * are returned by the next call that waits, and by all further ones: the host's copies must then not be used.
 */
#ifndef ENGINE_OFFLOAD_H
#define ENGINE_OFFLOAD_H

#include "engine/lookups.h"
#include "engine/optimizer.h"

enum { OFFLOAD_BUCKET = 4 << 20, OFFLOAD_SLOTS = 4, OFFLOAD_RECENT = 4 };

struct offload_config {
	int threads;              /* of the host's crew; 0: one a processor */
	int first_processor;      /* of those that this process may use, the first that is the crew's */
	uint64_t bucket_elements; /* the most; 0: OFFLOAD_BUCKET */
	uint64_t pinned;          /* bytes of slots, two slots at least; 0: OFFLOAD_SLOTS slots */
	uint64_t speculation;     /* host bytes of shadows (12 an element); 0: no speculation */
	bool delayed;
	/* Not with a delay. Of wpe, layer 0, layer 1, ... the first so many are lent as a whole; of wte's late pieces, where it
	 * has shadows, so many elements in a step, at most. */
	int lent;
	uint64_t lent_rows;
};

/* Bytes. */
struct offload_memory {
	uint64_t host;    /* master and moments, shadows */
	uint64_t pinned;  /* slots */
	uint64_t device;  /* incoming */
	uint64_t lent;    /* there too: state that the device borrows */
	uint64_t staging; /* there too: pieces of wte on their way */
};

struct offload_step {
	const void
		*gradients; /* grad [elements], on the device; with a delay: not written in the next step */
	double learning_rate;
	double loss_scale;
	uint64_t update; /* Adam's t */
	/* Found by the time that the last layer is done, and again not before the next step's forward has passed the gates. NULL:
	 * not known, so wte is late. */
	const struct lookups *lookups;
};

enum offload_outcome { OFFLOAD_COMMITTED, OFFLOAD_REDONE, OFFLOAD_DROPPED, OFFLOAD_SERIAL, OFFLOAD_OUTCOMES };

struct offload;

/*
 * For what of a part is not there (optimizer.h). `weights` (act [elements], on the device) and the kernels must outlive
 * it, and so must the table. The host's copies are 0: fill them, then offload_publish.
 */
enum status offload_open(const struct offload_config *config, const struct optimizer_config *optimizer,
	const struct parameter_table *table, const struct optimizer_part *part, struct kernels *device,
	void *weights, struct offload **out) MUST_USE;
void offload_close(struct offload *offload); /* waits for the threads; NULL is allowed */
/* What offload_open will take. */
enum status offload_measure(const struct offload_config *config, const struct parameter_table *table,
	const struct optimizer_part *part, enum dtype act, enum dtype grad,
	struct offload_memory *out) MUST_USE;
/* Elements that offload_open will have shadows for, of the embeddings and of each layer (parameter_table's
 * numbers, from -1). */
enum status offload_count_shadows(const struct offload_config *config, const struct parameter_table *table,
	const struct optimizer_part *part, uint64_t *elements /* [layers + 2] */) MUST_USE;

/* The part's arrays, [optimizer_part_elements] each, ordinary memory; the elements that are there are never touched
 * here. Valid after open, publish and settle, until the next finish. */
float *offload_master(struct offload *offload);
float *offload_exp_avg(struct offload *offload);
float *offload_exp_avg_sq(struct offload *offload);

/* The master's values, rounded, to the device. After open or settle, which have all of the state here. */
enum status offload_publish(struct offload *offload) MUST_USE;

/* Before the model_train of a step's last micro-batch, which is then given offload_layer_done. */
void offload_begin(struct offload *offload, const struct offload_step *step);
enum status offload_layer_done(void *offload, int layer) MUST_USE; /* model_layer_done */
/* The same, of gradients that are final once what is queued on a stream is done. */
enum status offload_layer_final(struct offload *offload, int layer, struct stream *stream) MUST_USE;
/* Once the norm is known (the device's default stream has been waited for). `clip` is 1 when not clipped. */
enum status offload_finish(struct offload *offload, bool overflow, double clip) MUST_USE;

/* model_layer_needed: before a layer's weights are read on the device's default stream. Waits until they are
 * on their way, and makes the stream wait for them. */
enum status offload_gate(void *offload, int layer) MUST_USE;
/* The same of weights that are read on a stream, which comes after what the default stream had queued at offload_finish; what
 * is done to them there comes after what is queued on it. */
enum status offload_land(struct offload *offload, int layer, struct stream *stream) MUST_USE;
/* All updates are done: the host's copies are those of the last finish and lie in the arrays above, the
 * device's weights are theirs. */
enum status offload_settle(struct offload *offload) MUST_USE;

/*
 * How long each was at work for all steps so far: copies down and up by events on their streams, the host's
 * AdamW by the clock, the device's, of what it borrows, by events. They work beside each other and beside the model, so together they may be more than
 * what a step waits for them; none is more than the time that passes. What a step began may be counted a few
 * buckets later, in the next step; after offload_settle all is counted.
 */
struct offload_seconds {
	double down, host, device, up; /* host: lending and taking back too */
};
struct offload_seconds offload_busy(struct offload *offload);

/* How often each outcome came, of finishes. SERIAL: nothing was speculated. */
uint64_t offload_count(const struct offload *offload, enum offload_outcome outcome);
/* Elements that the device was to update with borrowed state, of all steps together, and that it has updated. */
void offload_count_loans(const struct offload *offload, uint64_t *asked, uint64_t *updated);

#endif
