/* The offload's loans: state that the device borrows, to update what is final last. The caller's side. */
#include "engine/offload_parts.h"

#include "common/memory.h"

#include <stdlib.h>
#include <string.h>

enum { STATE_BYTES = 4 * OFFLOAD_STATES }; /* of an element */

static uint64_t smaller(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* ---- memory ---- */

/* Elements of a loan, in slots of so many bytes. */
static uint64_t loan_elements(uint64_t slot_bytes)
{
	return slot_bytes / STATE_BYTES / KERNELS_PIECE * KERNELS_PIECE;
}

/* Elements of the buckets that are lent as a whole, and of wte at most. */
static void count_loans(const struct offload_config *c, const struct offload_bucket *buckets, int count,
	uint64_t *whole, uint64_t *rows)
{
	uint64_t most = 0;
	*whole = 0;
	for (int i = 0; i < count; i++) {
		*whole += buckets[i].lent ? buckets[i].whole.elements : 0;
		most += buckets[i].wte && buckets[i].has_shadow ? buckets[i].whole.elements : 0;
	}
	*rows = smaller(c->lent_rows / KERNELS_PIECE * KERNELS_PIECE, most);
}

uint64_t offload_loan_bytes(const struct offload_config *c, const struct offload_bucket *buckets, int count,
	uint64_t slot_bytes, uint64_t *staged)
{
	uint64_t whole, rows;
	count_loans(c, buckets, count, &whole, &rows);
	*staged = smaller(rows, loan_elements(slot_bytes));
	return STATE_BYTES * (whole + rows);
}

/* Of pieces, the gradients and the rounded weights of a loan. */
static enum status open_rows(struct offload *o, uint64_t rows)
{
	struct kernels *k = o->k;
	o->staged_loan = smaller(rows, o->loan_elements);
	TRY(k->memory_alloc(
		k, &o->borrowed_gradients, o->staged_loan * dtype_bytes(k->grad), "gradients of rows"));
	TRY(k->memory_alloc(
		k, &o->borrowed_weights, o->staged_loan * dtype_bytes(k->act), "weights of rows"));
	return memory_alloc((void **)&o->taken_back, rows / KERNELS_PIECE, sizeof *o->taken_back,
		"the rows that are taken back");
}

enum status offload_lend_open(struct offload *o)
{
	struct kernels *k = o->k;
	uint64_t rows, at = 0;
	count_loans(&o->config, o->buckets, o->bucket_count, &o->whole_elements, &rows);
	o->borrowed_elements = o->whole_elements + rows;
	o->loan_elements = loan_elements(o->slot_elements * (dtype_bytes(k->grad) + dtype_bytes(k->act)));
	for (int i = 0; i < o->bucket_count; i++) {
		o->buckets[i].borrowed = at;
		at += o->buckets[i].lent ? o->buckets[i].whole.elements : 0;
	}
	TRY(k->event_open(k, &o->lent));
	TRY(k->event_open(k, &o->updating));
	TRY(k->event_open(k, &o->updated));
	if (o->borrowed_elements)
		TRY(k->memory_alloc(k, (void **)&o->borrowed, o->borrowed_elements * STATE_BYTES,
			"the optimizer's state that the device borrows"));
	return rows ? open_rows(o, rows) : STATUS_OK;
}

void offload_lend_close(struct offload *o)
{
	struct kernels *k = o->k;
	k->event_close(k, o->lent);
	k->event_close(k, o->updating);
	k->event_close(k, o->updated);
	if (o->borrowed)
		k->memory_free(k, o->borrowed, o->borrowed_elements * STATE_BYTES);
	if (o->borrowed_gradients)
		k->memory_free(k, o->borrowed_gradients, o->staged_loan * dtype_bytes(k->grad));
	if (o->borrowed_weights)
		k->memory_free(k, o->borrowed_weights, o->staged_loan * dtype_bytes(k->act));
	free(o->taken_back);
}

/* ---- loans ---- */

/* A bucket's n-th element that is lent, and those behind it that are one loan, of `total`. */
struct loan {
	uint64_t from, elements;
	float *state; /* [3][elements] */
};

static struct loan loan_at(
	const struct offload *o, const struct offload_bucket *b, uint64_t from, uint64_t total)
{
	return (struct loan){.from = from,
		.elements = smaller(total - from, o->loan_elements),
		.state = o->borrowed + OFFLOAD_STATES * (b->borrowed + from)};
}

static struct lookups_list late_pieces(const struct offload *o, const struct offload_bucket *b)
{
	return lookups_late(o->step.lookups, b->whole.offset, b->whole.offset + b->whole.elements);
}

static struct lookups_list some_pieces(struct lookups_list all, const struct loan *loan)
{
	uint64_t from = loan->from / KERNELS_PIECE;
	return (struct lookups_list){
		all.pieces + from, all.on_table ? all.on_table + from : NULL, loan->elements / KERNELS_PIECE};
}

/* `total` of a bucket's elements, all of them or the first of `pieces`. With the lock held. */
static void push_loans(struct offload *o, enum offload_kind kind, struct offload_bucket *b, uint64_t total,
	struct lookups_list pieces)
{
	for (uint64_t from = 0; from < total; from += o->loan_elements) {
		struct loan loan = loan_at(o, b, from, total);
		struct offload_job job = {.kind = kind,
			.bucket = b,
			.elements = loan.elements,
			.from = b->wte ? 0 : from,
			.in_pieces = b->wte,
			.state = loan.state,
			.lending = o->lending,
			.after = kind == OFFLOAD_TAKE_BACK ? o->updated : NULL};
		if (b->wte)
			job.pieces = some_pieces(pieces, &loan);
		offload_push(o, &job);
	}
}

/* Of wte, where the early pieces are updated early. */
static void lend_rows(struct offload *o, struct offload_bucket *b, uint64_t *used)
{
	struct lookups_list late = late_pieces(o, b);
	uint64_t total = smaller(late.count * KERNELS_PIECE, o->borrowed_elements - *used);
	b->borrowed = *used;
	*used += total;
	o->loans_asked += total;
	push_loans(o, OFFLOAD_LEND, b, total, late);
}

void offload_lend(struct offload *o)
{
	uint64_t used = o->whole_elements;
	if (!o->borrowed_elements)
		return;
	pthread_mutex_lock(&o->lock);
	for (int i = 0; i < o->bucket_count; i++) { /* the first layers are wanted first */
		struct offload_bucket *b = &o->buckets[i];
		o->loans_asked += b->lent ? b->whole.elements : 0;
		if (b->lent && !b->away)
			push_loans(o, OFFLOAD_LEND, b, b->whole.elements, (struct lookups_list){0});
		else if (b->wte && b->has_shadow && o->speculating && o->step.lookups)
			lend_rows(o, b, &used);
	}
	pthread_mutex_unlock(&o->lock);
}

/* ---- the device's update ---- */

/* Of all the elements from `at` of the flat array on; `work` is theirs. */
static void update_loan(struct offload *o, const struct loan *loan, uint64_t at, struct adamw args,
	char *work, const char *gradients)
{
	struct kernels *k = o->k;
	for (int i = 0; i < o->segment_count; i++) {
		const struct optimizer_segment *s = &o->segments[i];
		uint64_t from = at, end = at + loan->elements;
		if (!offload_cut(s, &from, &end))
			continue;
		float *p = loan->state + (from - at), *m = p + loan->elements, *v = m + loan->elements;
		args.weight_decay = optimizer_weight_decay(&o->optimizer, s);
		k->adamw(k, NULL, &args, p, m, v, work + (from - at) * dtype_bytes(k->act), p, m, v,
			gradients + (from - at) * dtype_bytes(k->grad), end - from);
	}
}

static void update_whole(struct offload *o, struct offload_bucket *b, const struct adamw *args)
{
	size_t grad = dtype_bytes(o->k->grad), act = dtype_bytes(o->k->act);
	for (uint64_t from = 0; from < b->whole.elements; from += o->loan_elements) {
		struct loan loan = loan_at(o, b, from, b->whole.elements);
		uint64_t at = b->whole.offset + from;
		update_loan(o, &loan, at, *args, o->weights + at * act,
			(const char *)o->step.gradients + at * grad);
	}
}

/* The next step's lookups are written over these, perhaps before the conductor has taken the state back: it gets a copy. */
static void keep_list(struct offload *o, const struct offload_bucket *b, struct lookups_list late)
{
	memcpy(o->taken_back + (b->borrowed - o->whole_elements) / KERNELS_PIECE, late.pieces,
		b->device_updated / KERNELS_PIECE * sizeof *late.pieces);
}

/* To where the early ones went. One segment: all of wte decays alike. */
static void update_rows(struct offload *o, struct offload_bucket *b, const struct adamw *args)
{
	struct kernels *k = o->k;
	struct lookups_list late = late_pieces(o, b);
	uint32_t first = (uint32_t)(b->whole.offset / KERNELS_PIECE);
	uint32_t room = (uint32_t)(b->whole.elements / KERNELS_PIECE);
	for (uint64_t from = 0; from < b->device_updated; from += o->loan_elements) {
		struct loan loan = loan_at(o, b, from, b->device_updated);
		struct lookups_list some = some_pieces(late, &loan);
		k->gather(k, NULL, o->borrowed_gradients, o->step.gradients, some.on_table, some.count, 0,
			(uint32_t)(o->table->elements / KERNELS_PIECE), k->grad);
		update_loan(o, &loan, b->whole.offset, *args, o->borrowed_weights, o->borrowed_gradients);
		k->scatter(k, NULL, b->incoming, o->borrowed_weights, some.on_table, some.count, first, room,
			k->act);
	}
	keep_list(o, b, late);
}

void offload_update_borrowed(struct offload *o, double clip)
{
	struct kernels *k = o->k;
	struct adamw args = optimizer_adamw(
		&o->optimizer, o->step.learning_rate, o->step.update, clip / o->step.loss_scale);
	if (!o->borrowed_elements)
		return;
	k->event_await(k, o->lent, NULL);
	k->event_record(k, o->updating, NULL);
	for (int i = 0; i < o->bucket_count; i++) {
		struct offload_bucket *b = &o->buckets[i];
		bool usable = b->lent ? b->on_loan == b->whole.elements : b->committed;
		b->device_updated = usable ? b->on_loan : 0;
		b->away = b->lent && b->device_updated;
		if (b->device_updated)
			(b->lent ? update_whole : update_rows)(o, b, &args);
		o->loans_updated += b->device_updated;
		o->update_queued |= b->device_updated > 0;
	}
	k->event_record(k, o->updated, NULL);
}

void offload_count_borrowed(struct offload *o)
{
	if (o->update_queued)
		o->seconds.device += o->k->event_seconds(o->k, o->updating, o->updated);
	o->update_queued = false;
}

void offload_take_rows_back(struct offload *o)
{
	for (int i = 0; i < o->bucket_count; i++) {
		struct offload_bucket *b = &o->buckets[i];
		if (!b->wte || !b->device_updated)
			continue;
		const uint32_t *list = o->taken_back + (b->borrowed - o->whole_elements) / KERNELS_PIECE;
		push_loans(o, OFFLOAD_TAKE_BACK, b, b->device_updated, (struct lookups_list){.pieces = list});
	}
}

void offload_take_back(struct offload *o)
{
	for (int i = 0; i < o->bucket_count; i++) {
		struct offload_bucket *b = &o->buckets[i];
		if (b->away)
			push_loans(o, OFFLOAD_TAKE_BACK, b, b->whole.elements, (struct lookups_list){0});
		b->away = false;
	}
}
