/* The offload's conductor: brings buckets down, has the crew compute, sends weights up; one job after the
 * other. */
#include "engine/offload_parts.h"

#include "common/clock.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Is it about the bucket's weights, so that who needs them must wait for it? */
static bool is_update(const struct offload_job *job)
{
	return job->kind == OFFLOAD_COMMIT || job->kind == OFFLOAD_UPDATE || job->kind == OFFLOAD_PUBLISH;
}

/* Does the update leave the state and the weights in place, and write beside them? */
static bool to_shadow(const struct offload_job *job)
{
	return job->kind == OFFLOAD_SPECULATE || job->kind == OFFLOAD_COMMIT;
}

/* ---- down ---- */

/* Pieces that are staged at a time, from one of them on. */
static uint64_t count_staged(const struct offload *o, const struct offload_job *job, uint64_t at)
{
	uint64_t room = o->staged_elements / KERNELS_PIECE, left = job->pieces.count - at;
	return left < room ? left : room;
}

static void download_pieces(struct offload *o, const struct offload_job *job)
{
	struct kernels *k = o->k;
	size_t size = KERNELS_PIECE * dtype_bytes(k->grad);
	for (uint64_t at = 0, some; at < job->pieces.count; at += some) {
		some = count_staged(o, job, at);
		k->gather(k, o->down, o->gathered, job->gradients, job->pieces.on_table + at, some, 0,
			(uint32_t)(o->table->elements / KERNELS_PIECE), k->grad);
		k->copy_out(k, o->down, (char *)job->slot->gradients + at * size, o->gathered, some * size);
	}
}

static void queue_download(struct offload *o, const struct offload_job *job)
{
	struct kernels *k = o->k;
	const struct parameter_run *whole = &job->bucket->whole;
	struct offload_slot *slot = job->slot;
	bool state = job->kind == OFFLOAD_TAKE_BACK;
	size_t size = dtype_bytes(k->grad);
	if (job->after)
		k->event_await(k, job->after, o->down);
	if (slot->sends && (state || slot->sends_state)) /* what would be written over */
		k->event_await(k, slot->sent, o->down);
	k->event_record(k, slot->fetching, o->down);
	if (state)
		k->copy_out(k, o->down, slot->gradients, job->state, job->elements * 4 * OFFLOAD_STATES);
	else if (job->in_pieces)
		download_pieces(o, job);
	else
		k->copy_out(k, o->down, slot->gradients, (const char *)job->gradients + whole->offset * size,
			whole->elements * size);
	k->event_record(k, slot->fetched, o->down);
}

/* Slots go round: a job has one from here until it is done. With the lock held. */
static void issue(struct offload *o)
{
	for (; o->issued < o->tail; o->issued++) {
		struct offload_job *job = offload_job_at(o, o->issued);
		if (job->cancelled || !job->elements)
			continue;
		if (o->slots_issued - o->slots_done == o->slot_count)
			return;
		job->slot = &o->slots[o->slots_issued++ % o->slot_count];
		if (job->kind != OFFLOAD_PUBLISH && job->kind != OFFLOAD_LEND)
			queue_download(o, job);
	}
}

void offload_push(struct offload *o, const struct offload_job *job)
{
	assert(o->tail - o->head < o->job_room);
	*offload_job_at(o, o->tail++) = *job;
	issue(o);
	pthread_cond_signal(&o->wake);
}

/* ---- the host's work: the crew divides the slot's elements among itself ---- */

struct work {
	struct offload *o;
	const struct offload_job *job;
};

/* Elements [from, to) of the flat array, of one segment, which begin at `place` in the slot. */
static void update_range(
	const struct work *w, const struct optimizer_segment *s, uint64_t from, uint64_t to, uint64_t place)
{
	struct offload *o = w->o;
	const struct offload_bucket *b = w->job->bucket;
	struct kernels *host = &o->host;
	uint64_t at = from - b->whole.offset, count = to - from;
	float *const *out = to_shadow(w->job) ? b->next : b->now;
	char *work = (char *)w->job->slot->work + place * dtype_bytes(host->act);
	const char *gradients = (const char *)w->job->slot->gradients + place * dtype_bytes(host->grad);
	struct adamw args = w->job->args;
	args.weight_decay = optimizer_weight_decay(&o->optimizer, s);
	if (w->job->kind == OFFLOAD_PUBLISH)
		host->convert(host, NULL, work, host->act, b->now[OFFLOAD_MASTER] + at, DTYPE_F32, count);
	else
		host->adamw(host, NULL, &args, out[OFFLOAD_MASTER] + at, out[OFFLOAD_AVG] + at,
			out[OFFLOAD_AVG_SQ] + at, work, b->now[OFFLOAD_MASTER] + at, b->now[OFFLOAD_AVG] + at,
			b->now[OFFLOAD_AVG_SQ] + at, gradients, count);
}

static void update_segments(const struct work *w, uint64_t from, uint64_t to, uint64_t place)
{
	const struct offload *o = w->o;
	for (int i = 0; i < o->segment_count && o->segments[i].offset < to; i++) {
		const struct optimizer_segment *s = &o->segments[i];
		uint64_t begin = from, end = to;
		if (offload_cut(s, &begin, &end))
			update_range(w, s, begin, end, place + (begin - from));
	}
}

/* A run: elements [from, to) of the flat array that lie together in the slot too, from `place` on. */
typedef void run_work(const struct work *w, uint64_t from, uint64_t to, uint64_t place);

/* Elements [begin, end) of the slot; pieces that are neighbours in the flat array go together. */
static void do_runs(const struct work *w, uint64_t begin, uint64_t end, run_work *run)
{
	const struct offload_job *job = w->job;
	const uint32_t *pieces = job->pieces.pieces;
	uint64_t first = job->bucket->whole.offset + job->from, last = end / KERNELS_PIECE, next;
	if (!job->in_pieces) {
		run(w, first + begin, first + end, begin);
		return;
	}
	for (uint64_t i = begin / KERNELS_PIECE; i < last; i = next) {
		for (next = i + 1; next < last && pieces[next] == pieces[next - 1] + 1;)
			next++;
		uint64_t from = (uint64_t)pieces[i] * KERNELS_PIECE;
		run(w, from, from + (next - i) * KERNELS_PIECE, i * KERNELS_PIECE);
	}
}

static void update_share(void *context, uint64_t begin, uint64_t end)
{
	do_runs(context, begin, end, update_segments);
}

/* ---- state that is lent ---- */

static void lend_run(const struct work *w, uint64_t from, uint64_t to, uint64_t place)
{
	const struct offload_bucket *b = w->job->bucket;
	float *slot = w->job->slot->gradients;
	for (uint64_t i = 0; i < OFFLOAD_STATES; i++)
		memcpy(slot + i * w->job->elements + place, b->now[i] + (from - b->whole.offset),
			(to - from) * 4);
}

static void take_run(const struct work *w, uint64_t from, uint64_t to, uint64_t place)
{
	const struct offload_bucket *b = w->job->bucket;
	const float *slot = w->job->slot->gradients;
	for (uint64_t i = 0; i < OFFLOAD_STATES; i++)
		memcpy(b->now[i] + (from - b->whole.offset), slot + i * w->job->elements + place,
			(to - from) * 4);
}

static void lend_share(void *context, uint64_t begin, uint64_t end)
{
	do_runs(context, begin, end, lend_run);
}

static void take_share(void *context, uint64_t begin, uint64_t end)
{
	do_runs(context, begin, end, take_run);
}

/* ---- up ---- */

static void upload_pieces(struct offload *o, const struct offload_job *job)
{
	struct kernels *k = o->k;
	size_t size = KERNELS_PIECE * dtype_bytes(k->act);
	uint32_t first = (uint32_t)(job->bucket->whole.offset / KERNELS_PIECE);
	uint32_t room = (uint32_t)(job->bucket->whole.elements / KERNELS_PIECE);
	for (uint64_t at = 0, some; at < job->pieces.count; at += some) {
		some = count_staged(o, job, at);
		k->copy_in(k, o->up, o->scattered, (char *)job->slot->work + at * size, some * size);
		k->scatter(k, o->up, job->bucket->incoming, o->scattered, job->pieces.on_table + at, some,
			first, room, k->act);
	}
}

static void queue_upload(struct offload *o, const struct offload_job *job)
{
	struct kernels *k = o->k;
	struct offload_bucket *b = job->bucket;
	size_t size = dtype_bytes(k->act);
	bool waits = to_shadow(job) || (job->kind == OFFLOAD_UPDATE && o->config.delayed);
	char *to = waits ? b->incoming : o->weights + b->whole.offset * size;
	k->event_record(k, job->slot->sending, o->up);
	if (job->in_pieces)
		upload_pieces(o, job);
	else
		k->copy_in(k, o->up, to, job->slot->work, b->whole.elements * size);
	k->event_record(k, job->slot->sent, o->up);
	k->event_record(k, b->uploaded, o->up);
	job->slot->sends = true;
	job->slot->sends_state = false;
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
	struct work work = {o, job};
	crew_run(o->crew, job->elements, PARAMETER_ALIGNED, update_share, &work);
	if (job->kind != OFFLOAD_PUBLISH)
		took->host += clock_seconds() - start;
	TRY(o->host.stream_wait(&o->host, NULL));
	queue_upload(o, job);
	return STATUS_OK;
}

static void copy_state(
	struct offload *o, const struct offload_job *job, crew_work *share, struct offload_seconds *took)
{
	double start = clock_seconds();
	struct work work = {o, job};
	crew_run(o->crew, job->elements, KERNELS_PIECE, share, &work);
	took->host += clock_seconds() - start;
}

static enum status lend(struct offload *o, const struct offload_job *job, struct offload_seconds *took)
{
	struct kernels *k = o->k;
	struct offload_slot *slot = job->slot;
	TRY(offload_slot_wait(o, slot, &took->up));
	copy_state(o, job, lend_share, took);
	k->event_record(k, slot->sending, o->up);
	k->copy_in(k, o->up, job->state, slot->gradients, job->elements * 4 * OFFLOAD_STATES);
	k->event_record(k, slot->sent, o->up);
	k->event_record(k, o->lent, o->up);
	slot->sends = slot->sends_state = slot->timed = true;
	return STATUS_OK;
}

static enum status take_back(struct offload *o, const struct offload_job *job, struct offload_seconds *took)
{
	struct offload_slot *slot = job->slot;
	TRY(o->k->event_wait(o->k, slot->fetched));
	took->down += o->k->event_seconds(o->k, slot->fetching, slot->fetched);
	copy_state(o, job, take_share, took);
	return STATUS_OK;
}

static enum status carry_out(struct offload *o, const struct offload_job *job, struct offload_seconds *took)
{
	struct offload_bucket *b = job->bucket;
	if (job->kind == OFFLOAD_LEND)
		return job->cancelled ? STATUS_OK : lend(o, job, took);
	if (job->kind == OFFLOAD_TAKE_BACK)
		return take_back(o, job, took);
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
	if (is_update(&own))
		own.bucket->landed = true;
	if (own.kind == OFFLOAD_LEND && !own.cancelled && own.lending == o->lending &&
		o->failure.status == STATUS_OK)
		own.bucket->on_loan += own.elements;
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
