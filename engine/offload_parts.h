/* offload_parts.h: what the caller's side of the offload (offload.c) and its conductor thread share. */
#ifndef ENGINE_OFFLOAD_PARTS_H
#define ENGINE_OFFLOAD_PARTS_H

#include "engine/crew.h"
#include "engine/offload.h"

#include <pthread.h>

enum { OFFLOAD_MASTER, OFFLOAD_AVG, OFFLOAD_AVG_SQ, OFFLOAD_STATES };

struct offload_bucket {
	struct parameter_run whole;
	uint64_t own; /* where it begins in `flat` */
	int layer;
	bool wte;
	bool has_shadow, lent;  /* lent: as a whole */
	uint64_t shadow;        /* where it begins among the shadows, elements */
	uint64_t borrowed;      /* where its state begins in `borrowed`: of wte, in this step */
	struct event *uploaded; /* the latest copy */
	void *incoming;         /* act, on the device; NULL: weights go to their place at once */
	/* The conductor's, and the caller's while the conductor is idle: the state, and where the next one is
	 * written before a commit (NULL: no shadow). */
	float *now[OFFLOAD_STATES], *next[OFFLOAD_STATES];
	/* Under the lock. */
	bool landed;      /* no update is under way: the rounded weights' copy is queued */
	uint64_t on_loan; /* elements whose state is on its way to the device, or there */
	/* The caller's. */
	bool arrived;   /* the default stream has been made to wait for the weights */
	bool committed; /* the weights that are to arrive are in `incoming` */
	bool delayed;   /* so are these, for the next finish */
	bool tried;     /* speculated on in this step */
	bool away;      /* lent as a whole, and updated on the device since: the host's state is old */
	uint64_t device_updated; /* elements, in this step: of wte, the first so many of the late pieces */
};

enum offload_kind {
	OFFLOAD_SPECULATE, /* whole bucket, of wte the early pieces, to the shadow and to incoming */
	OFFLOAD_COMMIT,    /* of wte the late pieces, likewise; then the shadow is the state */
	OFFLOAD_UPDATE,    /* whole bucket, in place */
	OFFLOAD_PUBLISH,   /* the weights alone */
	OFFLOAD_LEND,      /* some of the state to the device */
	OFFLOAD_TAKE_BACK, /* it comes back */
};

struct offload_slot {
	/* grad and act, [slot_elements], pinned. State takes both as one: f32 [3][elements of the job] */
	void *gradients, *work;
	struct event *fetching, *fetched; /* begin and end of its latest copies down */
	struct event *sending, *sent;     /* likewise up */
	bool sends, timed;                /* nobody has waited for `sent` yet; its time counts */
	bool sends_state;                 /* from the gradients' place too */
};

struct offload_job {
	enum offload_kind kind;
	struct offload_bucket *bucket;
	uint64_t elements;          /* that are moved */
	uint64_t from;              /* of the bucket, the first of them */
	bool in_pieces;             /* but these: */
	struct lookups_list pieces; /* one behind the other in the slot */
	const void *gradients;      /* [elements], on the device */
	float *state;               /* [3][elements] there: of what is lent */
	uint64_t lending;           /* and in which step */
	struct event *after;        /* the gradients are final, the state is updated; NULL: they are */
	struct adamw args;          /* without weight decay */
	struct offload_slot *slot;
	bool started, cancelled;
};

struct offload {
	struct offload_config config;
	struct optimizer_config optimizer;
	const struct parameter_table *table;
	uint64_t there, elements; /* of the part: not the offload's, all */
	struct kernels *k;        /* the device's */
	struct kernels host;      /* one thread: the crew shares it */
	char *weights;            /* act [elements], on the device */
	struct optimizer_segment *segments;
	int segment_count, layers;
	float *flat[OFFLOAD_STATES];   /* [elements], the part's */
	float *shadow[OFFLOAD_STATES]; /* [shadow_elements] */
	uint64_t shadow_elements;
	void *incoming; /* act [incoming_elements] */
	uint64_t incoming_elements;
	struct offload_bucket *buckets; /* in order of the flat array */
	int bucket_count;
	struct stream *down, *up;
	/* [staged_elements], on the device: pieces between their places and the slots; 0: wte has no shadow */
	void *gathered /* grad; down */, *scattered /* act; up */;
	uint64_t staged_elements;
	/* State that the device borrows, on the device: [3][borrowed_elements], in loans of loan_elements at most, each
	 * [3][its elements]: first the buckets that are lent as a whole, then pieces of wte. */
	float *borrowed;
	uint64_t borrowed_elements, whole_elements, loan_elements;
	void *borrowed_gradients, *borrowed_weights; /* grad, act [staged_loan], there: of pieces */
	uint64_t staged_loan;
	uint32_t *taken_back; /* [borrowed_elements - whole_elements, in pieces] which these are */
	struct event *lent, *updating, *updated; /* it is there; the device begins with it, and is done */
	uint64_t lending;                        /* counts the steps. Under the lock */
	struct event **final;                    /* [layers + 1]: a layer's gradients, in this step */
	struct event *applied;
	void *pinned;
	uint64_t pinned_bytes, slot_elements;
	struct offload_slot *slots;
	uint64_t slot_count;
	struct crew *crew;
	/* the caller's */
	struct offload_step step;
	bool speculating;
	bool update_queued; /* of what is borrowed; its time has not been counted */
	int good;           /* steps in a row that were, or would have been, committed */
	uint64_t counts[OFFLOAD_OUTCOMES];
	uint64_t loans_asked, loans_updated; /* elements */
	/* under the lock: jobs in a ring, numbered from 0: done < head <= issued <= tail */
	pthread_mutex_t lock;
	pthread_cond_t wake, moved; /* the conductor: there is work; the caller: some of it is done */
	pthread_t conductor;
	bool running, stop;
	struct offload_job *jobs; /* [job_room] */
	uint64_t job_room, head, issued, tail;
	uint64_t slots_issued, slots_done;
	struct offload_seconds seconds;
	struct error_copy failure;
};

static inline struct offload_job *offload_job_at(struct offload *o, uint64_t number)
{
	return &o->jobs[number % o->job_room];
}

/* Cuts elements [*from, *to) of the flat array to those that are a segment's; false: there are none. */
static inline bool offload_cut(const struct optimizer_segment *segment, uint64_t *from, uint64_t *to)
{
	uint64_t end = segment->offset + segment->elements;
	*from = *from > segment->offset ? *from : segment->offset;
	*to = *to < end ? *to : end;
	return *from < *to;
}

/* ---- what the device borrows (offload_lend.c) ---- */

/* Bytes of it there; `staged`: elements of a loan in pieces, whose gradients and rounded weights lie beside. */
uint64_t offload_loan_bytes(const struct offload_config *config, const struct offload_bucket *buckets,
	int count, uint64_t slot_bytes, uint64_t *staged);
enum status offload_lend_open(struct offload *o) MUST_USE;
void offload_lend_close(struct offload *o);
/* With the lock held: what the step will want lent. Once its lookups are known. */
void offload_lend(struct offload *o);
/* At the decision, of what has come: the device updates it, of wte where the step commits. Sets
 * `device_updated`. */
void offload_update_borrowed(struct offload *o, double clip);
/* With the lock held: adds the time of the latest such update, which is done. */
void offload_count_borrowed(struct offload *o);
/* With the lock held, behind all updates: the pieces of wte; and the buckets that are lent as a whole. */
void offload_take_rows_back(struct offload *o);
void offload_take_back(struct offload *o);

/* ---- the conductor's side ---- */

enum status offload_conductor_start(struct offload *o) MUST_USE;
void offload_conductor_stop(struct offload *o); /* after all jobs */
/* With the lock held. */
void offload_push(struct offload *o, const struct offload_job *job);
/* Waits for what goes up from a slot, and adds its time; nothing where nothing does. */
enum status offload_slot_wait(struct offload *o, struct offload_slot *slot, double *up) MUST_USE;

#endif
