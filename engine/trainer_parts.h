/* trainer_parts.h: what the trainer's files share. trainer.h is the manual. */
#ifndef ENGINE_TRAINER_PARTS_H
#define ENGINE_TRAINER_PARTS_H

#include "engine/model.h"
#include "engine/saver.h"
#include "engine/shards.h"
#include "engine/staging.h"
#include "engine/trainer.h"

#include <stdatomic.h>

/* Of several ranks (trainer_ranks.c): by layer, from the embeddings on. */
struct trainer_flow {
	struct stream *stream; /* for the exchange */
	struct event **events, *updated;
	int event_count;
	bool *due, *went; /* [layers + 2]: weights that are to be shared; that were, since it was last told */
};

struct trainer {
	struct trainer_config config;
	struct trainer_events events;
	struct kernels kernels;
	bool kernels_open;
	struct collective alone, *ranks; /* the configuration's, or itself */
	struct model *model;
	struct optimizer *optimizer;
	struct loader *loader;
	const struct parameter_table *table; /* the model's */
	uint64_t elements;
	struct shards *shards;          /* NULL: one rank */
	struct trainer_flow flow;       /* where there are shards */
	struct lookups *lookups;        /* where something goes by them; or NULL */
	struct offload *offload;        /* NULL: the optimizer is where the kernels are */
	struct offload_seconds busy;    /* of it, as told so far */
	struct optimizer_slice *slices; /* of the part */
	struct optimizer_part part;     /* what this process has the optimizer's state of */
	float *master;                  /* [master_elements] */
	void *working; /* act [elements]; the master itself where act is f32 and nothing is offloaded */
	uint64_t master_elements; /* of the part there; elements where it is the working weights */
	void *gradients;          /* grad [elements] */
	void *spare_gradients;    /* likewise, of the step before, where its update is delayed; or NULL */
	/* [elements], as the staging takes them (ordinary memory, where it is NULL; of several ranks, addresses
	 * alone). */
	float *all_master, *all_exp_avg, *all_exp_avg_sq;
	uint64_t local_batch;    /* windows of a step on this rank */
	struct staging *staging; /* NULL: the kernels' memory is the host's */
	/* One step's windows on the host (pinned), and one micro-batch in the kernels' memory. */
	int32_t *inputs, *targets;                /* [local_batch][T] */
	int32_t *device_inputs, *device_targets;  /* [micro_batch][T] */
	int32_t *first, *positions;               /* [local_batch][T]; NULL: documents are not kept apart */
	int32_t *device_first, *device_positions; /* [micro_batch][T] */
	float *losses;                            /* [local_batch][T] */
	float *device_losses;                     /* [micro_batch][T] */
	struct event *begin_model, *end_model;    /* of a step */
	/* Its last micro-batch: begun; its classifier done, of the last piece (layer_batch), and that piece's last layer's
	 * backward. */
	struct event *begin_last, *last_head, *last_layer;
	int32_t *evaluation_tokens;                   /* [T + 1] */
	struct mixture_source sources[MIXTURE_LIMIT]; /* of training */
	int source_count;
	struct mixture mixture, evaluation[SPLIT_PARTS]; /* evaluation: where there are windows */
	uint64_t evaluation_windows[SPLIT_PARTS];        /* 0: none */
	struct checkpoint_state state;
	uint64_t epoch[MIXTURE_LIMIT];     /* of the last window trained on, or 0 */
	uint64_t new_epoch[MIXTURE_LIMIT]; /* the same, of the step under way */
	double epochs[MIXTURE_LIMIT];
	int skips;            /* in a row */
	struct saver *saver;  /* of rank 0, where something is saved */
	uint64_t saved_step;  /* of the latest checkpoint that was begun */
	bool saving, best;    /* it has not been told of; it is the best */
	double begun, waited; /* when, by the clock; seconds that training has waited for it */
	bool validated;       /* at the present step */
	bool stopping;        /* any rank was asked to stop */
	atomic_bool stop, save_soon;
};

/* ---- trainer_data.c ---- */

struct trainer_gathered {
	uint64_t counted;       /* targets, over all ranks */
	uint64_t first_ordinal; /* of this rank's first window */
	uint64_t last_epoch;
};

int trainer_source_count(const struct trainer_config *config);
struct trainer_source trainer_source_of(const struct trainer_config *config, int i);
/* A training split that is too short for a window is an error; another part is left out. */
enum status trainer_open_samplers(struct trainer *t) MUST_USE;
enum status trainer_open_loader(struct trainer *t) MUST_USE;
/* A window of T + 1 tokens to T inputs and T targets; adds how many targets count. */
enum status trainer_split_window(const struct trainer *t, const int32_t *tokens, int32_t *inputs,
	int32_t *targets, uint64_t *counted) MUST_USE;
/* All windows of the step: their targets must be counted before the first gradient is scaled. */
enum status trainer_gather(struct trainer *t, struct trainer_gathered *out) MUST_USE;
/* Where the corpora stand after a step; which began anew. */
void trainer_tell_positions(struct trainer *t);
void trainer_notice_epochs(struct trainer *t);

/* ---- trainer_resume.c ---- */

void trainer_fresh_state(struct trainer *t);
enum status trainer_resume(
	struct trainer *t, struct checkpoint *from, const struct checkpoint_state *s) MUST_USE;
/* What the kernels have chosen by now, to the state. */
enum status trainer_record_choices(struct trainer *t) MUST_USE;

/* ---- trainer_step.c ---- */

/* `windows` of the step's, from the one `at`, to the kernels. */
struct model_batch trainer_stage(struct trainer *t, uint64_t at, uint64_t windows, uint64_t ordinal);
/* The losses of the micro-batch just queued, to the step's; there after the next wait. */
void trainer_fetch_losses(struct trainer *t, uint64_t at, uint64_t windows);
void trainer_add_losses(const struct trainer *t, uint64_t windows, double *sum); /* in order */
enum status trainer_train_step(struct trainer *t) MUST_USE;

/* ---- trainer_ranks.c: what fails is this rank's alone (exchange.h) ---- */

enum status trainer_open_flow(struct trainer *t) MUST_USE;
void trainer_close_flow(struct trainer *t);
/* A layer's gradients are final, once what is queued is done: the one's before it, and at last its own, go to their
 * owners. */
enum status trainer_reduce_behind(struct trainer *t, int layer) MUST_USE;
/* All are there; adds how long they were on their way. */
enum status trainer_finish_reduce(struct trainer *t, double *seconds) MUST_USE;
/* Weights are new, once what is queued, and what the offload has begun, is done: */
void trainer_weights_due(struct trainer *t);
enum status trainer_gate(
	void *t, int layer) MUST_USE; /* model_layer_needed: a layer's go to all where they are due */
enum status trainer_share_due(struct trainer *t) MUST_USE; /* all that are; waits */
/* How long those were on their way that went since this was last asked; a stream behind them was waited for. */
double trainer_shared_seconds(struct trainer *t);

/* ---- trainer_validate.c ---- */

enum status trainer_validate(struct trainer *t, enum split_part part, bool final, bool *best) MUST_USE;

#endif
