/* The offload's conductor: brings buckets down, has the crew compute, sends weights up; one job after the
 * other. */
#include "engine/offload_parts.h"

#include "common/clock.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static int run_count(const struct offload_job *job)
{
	return job->kind == OFFLOAD_COMMIT ? job->bucket->row_count : 1;
}

static const struct parameter_run *runs_of(const struct offload_job *job)
{
	return job->kind == OFFLOAD_COMMIT ? job->bucket->rows : &job->bucket->whole;
}

/* Does the update leave the state and the weights in place, and write beside them? */
static bool to_shadow(const struct offload_job *job)
{
	return job->kind == OFFLOAD_SPECULATE || job->kind == OFFLOAD_COMMIT;
}

/* ---- down ---- */

static void queue_download(struct offload *o, const struct offload_job *job)
{
	struct kernels *k = o->k;
	size_t size = dtype_bytes(k->grad);
	const struct parameter_run *runs = runs_of(job);
	if (job->after)
		k->event_await(k, job->after, o->down);
	k->event_record(k, job->slot->fetching, o->down);
	for (int i = 0; i < run_count(job); i++)
		k->copy_out(k, o->down,
			(char *)job->slot->gradients + (runs[i].offset - job->bucket->whole.offset) * size,
			(const char *)job->gradients + runs[i].offset * size, runs[i].elements * size);
	k->event_record(k, job->slot->fetched, o->down);
	k->event_record(k, job->bucket->downloaded, o->down);
}

/* Slots go round: a job has one from here until it is done. With the lock held. */
static void issue(struct offload *o)
{
	for (; o->issued < o->tail; o->issued++) {
		struct offload_job *job = offload_job_at(o, o->issued);
		if (job->cancelled || !run_count(job))
			continue;
		if (o->slots_issued - o->slots_done == o->slot_count)
			return;
		job->slot = &o->slots[o->slots_issued++ % o->slot_count];
		if (job->kind != OFFLOAD_PUBLISH)
			queue_download(o, job);
	}
}

uint64_t offload_push(struct offload *o, const struct offload_job *job)
{
	assert(o->tail - o->head < o->job_room);
	*offload_job_at(o, o->tail) = *job;
	uint64_t number = o->tail++;
	issue(o);
	pthread_cond_signal(&o->wake);
	return number;
}

/* ---- the host's work: the crew divides the runs among itself, laid end to end ---- */

struct work {
	struct offload *o;
	const struct offload_job *job;
};

static void update_range(const struct work *w, const struct optimizer_segment *s, uint64_t from, uint64_t to)
{
	struct offload *o = w->o;
	const struct offload_bucket *b = w->job->bucket;
	struct kernels *host = &o->host;
	uint64_t at = from - b->whole.offset, count = to - from;
	float *const *out = to_shadow(w->job) ? b->next : b->now;
	char *work = (char *)w->job->slot->work + at * dtype_bytes(host->act);
	const char *gradients = (const char *)w->job->slot->gradients + at * dtype_bytes(host->grad);
	struct adamw args = w->job->args;
	args.weight_decay = optimizer_weight_decay(&o->optimizer, s);
	if (w->job->kind == OFFLOAD_PUBLISH)
		host->convert(host, NULL, work, host->act, b->now[OFFLOAD_MASTER] + at, DTYPE_F32, count);
	else
		host->adamw(host, NULL, &args, out[OFFLOAD_MASTER] + at, out[OFFLOAD_AVG] + at,
			out[OFFLOAD_AVG_SQ] + at, work, b->now[OFFLOAD_MASTER] + at, b->now[OFFLOAD_AVG] + at,
			b->now[OFFLOAD_AVG_SQ] + at, gradients, count);
}

static uint64_t larger(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static void update_segments(const struct work *w, uint64_t from, uint64_t to)
{
	const struct offload *o = w->o;
	for (int i = 0; i < o->segment_count && from < to; i++) {
		const struct optimizer_segment *s = &o->segments[i];
		uint64_t begin = larger(s->offset, from), end = smaller(s->offset + s->elements, to);
		if (begin < end)
			update_range(w, s, begin, end);
	}
}

static void work_share(void *context, uint64_t begin, uint64_t end)
{
	const struct work *w = context;
	const struct parameter_run *runs = runs_of(w->job);
	uint64_t at = 0;
	for (int i = 0; i < run_count(w->job); i++) {
		uint64_t from = larger(begin, at), to = smaller(end, at + runs[i].elements);
		if (from < to)
			update_segments(w, runs[i].offset + (from - at), runs[i].offset + (to - at));
		at += runs[i].elements;
	}
}

static void compute(struct offload *o, const struct offload_job *job)
{
	struct work w = {.o = o, .job = job};
	uint64_t total = 0;
	for (int i = 0; i < run_count(job); i++)
		total += runs_of(job)[i].elements;
	crew_run(o->crew, total, PARAMETER_ALIGNED, work_share, &w);
}

/* ---- up ---- */

static void queue_upload(struct offload *o, const struct offload_job *job)
{
	struct kernels *k = o->k;
	struct offload_bucket *b = job->bucket;
	size_t size = dtype_bytes(k->act);
	const struct parameter_run *runs = runs_of(job);
	bool waits = to_shadow(job) || (job->kind == OFFLOAD_UPDATE && o->config.delayed);
	char *to = waits ? b->incoming : o->weights + b->whole.offset * size;
	k->event_record(k, job->slot->sending, o->up);
	for (int i = 0; i < run_count(job); i++) {
		size_t at = (runs[i].offset - b->whole.offset) * size;
		k->copy_in(k, o->up, to + at, (char *)job->slot->work + at, runs[i].elements * size);
	}
	k->event_record(k, job->slot->sent, o->up);
	k->event_record(k, b->uploaded, o->up);
	job->slot->sends = true;
	job->slot->timed = job->kind != OFFLOAD_PUBLISH; /* not of a step */
}

enum status offload_slot_wait(struct offload *o, struct offload_slot *slot, double *up)
{
	struct kernels *k = o->k;
	if (!slot->sends)
		return STATUS_OK;
	TRY(k->event_wait(k, slot->sent));
	if (slot->timed)
		*up += k->event_seconds(k, slot->sending, slot->sent);
	slot->sends = false;
	return STATUS_OK;
}

/* ---- jobs ---- */

/* Gradients down, AdamW, weights on their way up. */
static enum status update_bucket(
	struct offload *o, const struct offload_job *job, struct offload_seconds *took)
{
	struct kernels *k = o->k;
	struct offload_slot *slot = job->slot;
	if (job->kind != OFFLOAD_PUBLISH) {
		TRY(k->event_wait(k, slot->fetched));
		took->down += k->event_seconds(k, slot->fetching, slot->fetched);
	}
	if (job->cancelled)
		return STATUS_OK;
	TRY(offload_slot_wait(o, slot, &took->up));
	double start = clock_seconds();
	compute(o, job);
	if (job->kind != OFFLOAD_PUBLISH)
		took->host += clock_seconds() - start;
	TRY(o->host.stream_wait(&o->host, NULL));
	queue_upload(o, job);
	return STATUS_OK;
}

static enum status carry_out(struct offload *o, const struct offload_job *job, struct offload_seconds *took)
{
	struct offload_bucket *b = job->bucket;
	if (job->slot)
		TRY(update_bucket(o, job, took));
	for (int i = 0; i < OFFLOAD_STATES && job->kind == OFFLOAD_COMMIT; i++) {
		float *old = b->now[i];
		b->now[i] = b->next[i];
		b->next[i] = old;
	}
	return STATUS_OK;
}

/* After a failure the rest is let through undone, so that whoever waits for it goes on, and is told. */
static void take_job(struct offload *o)
{
	struct offload_job *job = offload_job_at(o, o->head);
	job->started = true;
	struct offload_job own = *job;
	bool failed = o->failure.status != STATUS_OK;
	pthread_mutex_unlock(&o->lock);
	struct offload_seconds took = {0};
	enum status status = failed ? STATUS_OK : carry_out(o, &own, &took);
	struct error_copy failure;
	if (status != STATUS_OK)
		error_save(status, &failure);
	pthread_mutex_lock(&o->lock);
	if (status != STATUS_OK)
		o->failure = failure;
	if (own.kind != OFFLOAD_SPECULATE)
		own.bucket->landed = true;
	o->seconds.down += took.down;
	o->seconds.host += took.host;
	o->seconds.up += took.up;
	o->slots_done += own.slot != NULL;
	o->head++;
	issue(o);
	pthread_cond_broadcast(&o->moved);
}

static void *conduct(void *argument)
{
	struct offload *o = argument;
	crew_bind(o->crew, 0);
	pthread_mutex_lock(&o->lock);
	for (;;) {
		while (o->head == o->tail && !o->stop)
			pthread_cond_wait(&o->wake, &o->lock);
		if (o->head == o->tail)
			break;
		take_job(o);
	}
	pthread_mutex_unlock(&o->lock);
	return NULL;
}

enum status offload_conductor_start(struct offload *o)
{
	FAIL_IF(pthread_create(&o->conductor, NULL, conduct, o), STATUS_MEMORY,
		"cannot start the thread that moves the optimizer's buckets");
	o->running = true;
	return STATUS_OK;
}

void offload_conductor_stop(struct offload *o)
{
	if (!o->running)
		return;
	pthread_mutex_lock(&o->lock);
	o->stop = true;
	pthread_cond_signal(&o->wake);
	pthread_mutex_unlock(&o->lock);
	pthread_join(o->conductor, NULL);
	o->running = false;
}
