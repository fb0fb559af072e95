/*
 * trainer.h: the training loop, from windows of tokens to checkpoints.
 *
 * A step takes global_batch windows as micro-batches, sums their gradients, and updates the weights once:
 *
 *    loss = sum of the counted targets' losses / their number, over the whole global batch
 *    gradients of loss * loss scale -> norm, overflow -> clip -> AdamW with the schedule's lr(updates + 1)
 *
 * Every target counts, unless eod_mask_loss: then a target whose input token is EOD does not (the reference's
 * rule). Dropout is numbered by the windows' ordinals, so the same window of the same run has the same mask
 * whatever the micro-batch. A step with an inf or NaN gradient is skipped: no update, the schedule stands
 * still, its windows are consumed; TRAINER_SKIPS in a row are an error, for the run has diverged.
 *
 * Validation: every eval_interval steps, on the first min(eval_iters * global_batch, all) windows of the
 * validation split in order, without dropout: always the same windows whatever the micro-batch. Loss as
 * above, over all of them; perplexity exp(min(20, loss)). At the end of training once more on validation
 * (unless just done) and on the test split. A split too short for a window is left out with a warning, at the
 * start.
 *
 * Rising validation loss is warned of (overfitting.h).
 *
 * Checkpoints (save not NULL): every save_interval steps, at the end, when asked to stop or to save, and
 * whenever validation is the best yet (run/best then points there); all but the newest `keep` and the best
 * are deleted. With save_behind they are written from a copy while training goes on (saver.h), and told when they are on the
 * disk: after a later step, or at the end, before trainer_run returns.
 *
 * Mixed corpora: each has its split, its order and its epochs; validation and test draw from those of all, in
 * the same shares, until one of them would repeat. A corpus whose part is too short is left out of it.
 *
 * Resuming from a checkpoint is exact: the same bits as a run that never stopped, given the same threads,
 * instruction set and libraries; on a GPU the same card and library, whose algorithms for each product are
 * recorded and used again. A checkpoint of other corpora, shares, split or seed is STATUS_MISMATCH, naming both
 * values; so is another window length where sampler.h does not allow it.
 *
 * Where it trains: on the CPU, in host memory; or in the memory of the table that `open_device` opens (a
 * GPU's), which the host then never touches itself. Batches go in and losses and norms come out through
 * pinned memory, and the host waits once a step, between the gradients' norm and the update; what is queued
 * behind it overlaps with the next step's data. Checkpoints are the same files, so a run moves from one to
 * the other and goes on.
 *
 * With `offload` the optimizer is on the host (offload.h), all of it or all but device_share; the results are
 * the same bits, unless the update is delayed. A checkpoint ends a delay, so a run that is saved now and then
 * and one that is not differ there. Each of several ranks has its part of the state in its host's memory, or all but
 * device_share of it, and updates that with a crew of its own.
 *
 * Several ranks (`ranks`) train one model, each on its slice of every global batch (data/loader.h), with its part of
 * the optimizer's state (shards.h). Gradients go to their owners layer by layer as the last micro-batch's backward goes
 * on (on GPUs most of the token embedding's before them: lookups.h), weights to all layer by layer as the next step's
 * forward comes to them; gradients that are not f32 travel as they are, and their sum is rounded once. Each opens a
 * trainer with the same configuration but for threads, device,
 * packing, and the offload's threads and memory for shadows; all call the same functions. Losses, norms and counts in
 * events are those of the whole batch, so are validation's, whose micro-batches they share out; the events are the same
 * on each. Checkpoints are written by rank 0, which gets the others' parts piece by piece, and read by each; they are
 * the files of a run in one process, and any number of ranks goes on from them. Dropout is by window, gradients are
 * added in the order of the ranks: the same number of ranks gives the same bits, another one the same but for rounding.
 * What one rank is asked (trainer_stop), all do at the same step. Failures: collective.h.
 *
 * The library prints nothing: events tell the tool of each step, validation and checkpoint; notices (corpus
 * repeated, validation rising) go to common/log.h. One thread calls; trainer_stop and trainer_save_soon may
 * be called by any thread and by signal handlers.
 */
#ifndef ENGINE_TRAINER_H
#define ENGINE_TRAINER_H

#include "data/loader.h"
#include "engine/checkpoint.h"
#include "engine/collective.h"
#include "engine/offload.h"

enum { TRAINER_SKIPS = 64 };

struct trainer_source {
	struct corpus *corpus;
	uint64_t share; /* any unit */
};

struct trainer_config {
	struct model_config model;
	enum dtype precision;               /* of activations and working weights */
	enum dtype gradients;               /* DTYPE_F32, or on a GPU `precision` */
	uint64_t micro_batch, global_batch; /* windows */
	uint64_t window_tokens;             /* T */
	uint64_t train_iters;               /* the step to stop after, resumed ones included */
	uint64_t exit_interval;             /* stop (and save) at multiples of this step; 0: never */
	struct schedule schedule;
	struct optimizer_config optimizer;
	struct loss_scale loss_scale; /* at the start */
	bool checkpoint_activations, eod_mask_loss;
	bool keep_outputs;    /* model.h; decides bits; not with checkpoint_activations */
	bool inputs_on_host;  /* model.h; needs open_device and checkpoint_activations */
	uint64_t layer_batch; /* windows; model.h; needs checkpoint_activations; 0: micro_batch */
	bool reset_attention_mask, reset_position_ids; /* document_masks.h; in validation too */
	uint64_t seed;
	/* Opens the table to train on; NULL: kernels_open_cpu, whose memory is the host's. */
	enum status (*open_device)(const struct kernels_config *config, struct kernels *out);
	int device;                       /* its number, for open_device */
	struct collective *ranks;         /* must outlive the trainer; NULL: one process */
	bool offload;                     /* the optimizer on the host; needs open_device */
	double device_share;              /* of the parameters: their optimizer stays on the device; [0, 1) */
	struct offload_config offloading; /* where offload is set */
	int threads;                      /* 0: all available */
	uint64_t packing, logits;         /* bytes for packed weights; for a GPU's logits (kernels.h) */
	uint64_t attention;               /* that a GPU's attention may take in their place (kernels.h) */
	uint64_t eval_interval, eval_iters; /* eval_interval 0: no validation */

	struct corpus *corpus; /* must outlive the trainer, as must what `sources` has */
	/* Several corpora, mixed (data/mixture.h); the first is `corpus`. NULL: it alone. */
	const struct trainer_source *sources; /* [source_count] */
	int source_count;
	const char *split; /* "949,50,1", of each */

	const char *save;       /* the run's directory; NULL: nothing is saved */
	uint64_t save_interval; /* 0: only at the end */
	int keep;
	bool save_behind;                    /* rank 0 has host memory for a copy of all of the state */
	const struct checkpoint_file *files; /* the tokenizer's, [file_count] */
	int file_count;
	cJSON *arguments; /* for trainer.json; may be NULL */
};

struct trainer_step {
	uint64_t step, updates, skipped;  /* after it */
	double loss, gradient_norm, clip; /* clip: the factor, 1 when not clipped */
	double learning_rate;             /* the update's; of the last update where this step was skipped */
	double loss_scale, next_loss_scale;
	bool overflow;
	uint64_t counted, tokens; /* targets of this step; of the run so far */
	uint64_t epoch;           /* of its last window, from 0, in that window's corpus */
	const double *epochs;     /* [sources]: how often each corpus's training split was gone through */
	int sources;
	uint64_t ordinal; /* windows consumed so far */
	/* model: forward and backward; forward: its part up to and with the classifier, which has its gradients
	 * as soon as its loss; optimizer: what is left (norm, update, waits for weights) */
	double seconds, seconds_data, seconds_model, seconds_forward, seconds_optimizer;
	/*
	 * What the optimizer's parts took, by events. gradients: the norm, and the gradients' way down to the
	 * host; update: AdamW (unscaling, clipping and rounding are in its pass); allgather: the weights' way up.
	 * Without an offload they come one after the other and are parts of `optimizer`, but for what of an update
	 * on a device passes while the next windows are gathered; nothing goes up or down. Of several ranks gradients has
	 * their way to their owners, and allgather the weights' way to all in this step's forward; beside the model, which
	 * has what of it could not be hidden (on a CPU: all). With an offload they are how
	 * long each was at work (offload_busy), beside the model and each other. An update is known, and told, a
	 * step later.
	 */
	double seconds_gradients, seconds_update, seconds_allgather;
};

struct trainer_validation {
	uint64_t step;
	enum split_part part;
	bool final; /* at the end of training */
	double loss, perplexity;
	uint64_t windows, counted;
	bool best;
	double seconds;
};

struct trainer_saved {
	uint64_t step;
	const char *name; /* step-00001000, within the run */
	bool best;
	double seconds; /* until it was told */
	double waited;  /* of these, the training */
};

/* Any may be NULL. A failure ends the run. */
struct trainer_events {
	void *user;
	enum status (*step)(void *user, const struct trainer_step *step);
	enum status (*validation)(void *user, const struct trainer_validation *validation);
	enum status (*saved)(void *user, const struct trainer_saved *saved);
};

/* Bytes; of one rank. */
struct trainer_memory {
	/* The device's, where there is one. `away` is not: of weights and moments, 4 and 8 bytes a parameter, the host's part. */
	uint64_t weights, working, gradients, moments, away, activations, batch;
	uint64_t scratch;        /* of the operations; a GPU's logits where the bound is given */
	uint64_t incoming, lent; /* of the offload */
	/* The host's in any case. */
	uint64_t packing, data;
	uint64_t inputs;          /* the layers', where they are there (pinned) */
	uint64_t shadows, pinned; /* of the offload */
	uint64_t fresh;           /* at the start: weights on their way to a device */
	uint64_t saving;          /* the copy that checkpoints are written from */
	/* What goes from rank to rank: pinned, and on the device. At most: GPUs that reach each other take no pinned
	 * memory for it, others none of theirs. What NCCL takes itself is not known. */
	uint64_t exchange, exchange_device;
	uint64_t host, device; /* the sums; device 0: no device */
};

struct trainer;

/* All that can be wrong with a configuration; nothing is allocated. */
enum status trainer_check(const struct trainer_config *config) MUST_USE;
/* What trainer_open will take. Of the configuration, sizes and batches are looked at, and checked; no corpus.
 */
enum status trainer_measure(const struct trainer_config *config, struct trainer_memory *out) MUST_USE;

/*
 * `from` (may be NULL: fresh weights) is read here and not kept. weights_only: its state, if it has any, is
 * not resumed. Both structs are copied, what they point to must outlive the trainer.
 */
enum status trainer_open(const struct trainer_config *config, const struct trainer_events *events,
	struct checkpoint *from, bool weights_only, struct trainer **out) MUST_USE;
void trainer_close(struct trainer *trainer);

/* To train_iters, or until asked to stop (STATUS_OK too). */
enum status trainer_run(struct trainer *trainer) MUST_USE;
void trainer_stop(struct trainer *trainer);
void trainer_save_soon(struct trainer *trainer);

const struct parameter_table *trainer_parameters(const struct trainer *trainer);
/* Master and moments, [elements]: in the kernels' memory, or with an offload (of all parameters) the host's,
 * valid before and after trainer_run. Of several ranks: addresses, not to be touched (shards.h). */
const float *trainer_weights(const struct trainer *trainer);
const float *trainer_exp_avg(const struct trainer *trainer);
const float *trainer_exp_avg_sq(const struct trainer *trainer);
const struct offload *trainer_offload(const struct trainer *trainer); /* or NULL */
const struct checkpoint_state *trainer_state(const struct trainer *trainer);
const char *trainer_kernels(const struct trainer *trainer);   /* "CPU avx512, 2 threads, ..." */
const char *trainer_attention(const struct trainer *trainer); /* a GPU's (kernels.h); "" else */
/* How GPUs of several ranks exchange gradients and weights: "by NCCL 2.28.9", "through host memory (why)"; else "". */
const char *trainer_exchange(const struct trainer *trainer);
/* Windows that validation uses; 0: none. */
uint64_t trainer_validation_windows(const struct trainer *trainer, enum split_part part);

#endif
