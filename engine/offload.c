#include "engine/offload_parts.h"

#include "common/memory.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { STAGED = 1 << 18 }; /* elements of pieces that are brought together at a time */

/* ---- the plan: where buckets begin and which have a shadow ---- */

static uint64_t bucket_limit(const struct offload_config *c)
{
	return parameter_round_up(c->bucket_elements ? c->bucket_elements : OFFLOAD_BUCKET);
}

/* Elements that a slot must hold: of the largest bucket, and of three pieces, that the state of one may lie there. */
static uint64_t slot_size(const struct offload_bucket *buckets, int count)
{
	uint64_t largest = OFFLOAD_STATES * PARAMETER_ALIGNED;
	for (int i = 0; i < count; i++)
		if (buckets[i].whole.elements > largest)
			largest = buckets[i].whole.elements;
	return largest;
}

static uint64_t slot_total(const struct offload_config *c, uint64_t slot_bytes)
{
	uint64_t slots = c->pinned ? c->pinned / slot_bytes : OFFLOAD_SLOTS;
	return slots < 2 ? 2 : slots;
}

/* Buckets of equal size for what a slice has of a run and is not there, none if that is nothing; `out` NULL: only
 * counted. */
static int cut_slice(const struct offload_config *c, const struct parameter_run *run,
	const struct optimizer_slice *slice, uint64_t there, struct offload_bucket *out)
{
	uint64_t from = slice->offset + (there > slice->own ? there - slice->own : 0);
	uint64_t to = slice->offset + slice->elements, end = run->offset + run->elements;
	int count = 0;
	from = from > run->offset ? from : run->offset;
	to = to < end ? to : end;
	if (from >= to)
		return 0;
	uint64_t size = parameter_piece(to - from, bucket_limit(c));
	for (uint64_t at = from; at < to; at += size, count++)
		if (out)
			out[count] = (struct offload_bucket){.whole = {at, to - at < size ? to - at : size},
				.own = slice->own + at - slice->offset};
	return count;
}

/* The two embeddings are apart, for their gradients are final apart. */
static int cut_buckets(const struct offload_config *c, const struct parameter_table *table,
	const struct optimizer_part *part, struct offload_bucket *out)
{
	struct parameter_run run;
	int count = 0;
	for (int i = 0, end; i < table->count; i = end) {
		int first = count;
		end = parameter_run_from(table, i, &run);
		for (int s = 0; s < part->count; s++)
			count += cut_slice(c, &run, &part->slices[s], part->there, out ? out + count : NULL);
		for (int b = first; out && b < count; b++) {
			out[b].layer = table->items[i].layer;
			out[b].wte = i == PARAMETER_WTE;
			out[b].lent = !out[b].wte && !c->delayed && out[b].layer + 2 <= c->lent;
		}
	}
	return count;
}

/* Shadows for buckets [from, to) that fit. */
static void give_shadows(struct offload_bucket *buckets, int from, int to, uint64_t room, uint64_t *taken)
{
	for (int i = from; i < to; i++) {
		struct offload_bucket *b = &buckets[i];
		if (b->lent || *taken + b->whole.elements > room)
			continue;
		b->has_shadow = true;
		b->shadow = *taken;
		*taken += b->whole.elements;
	}
}

/* Where the last layer of buckets [0, end) begins; `least` where there is none behind that. */
static int last_layer_from(const struct offload_bucket *buckets, int least, int end)
{
	int first = end;
	while (first > least && buckets[first - 1].layer == buckets[end - 1].layer)
		first--;
	return first;
}

/* Which buckets have a shadow, and where: in the order in which gradients become final, while memory lasts: ln_f,
 * wte, the layers from the last. (wpe's are final with the step.) Returns the elements. */
static uint64_t choose_shadows(
	const struct offload_config *c, struct offload_bucket *buckets, int count, int layers)
{
	uint64_t room = c->delayed ? 0 : c->speculation / (4 * OFFLOAD_STATES), taken = 0;
	int wte = 0, embeddings, end = count;
	while (wte < count && buckets[wte].wte)
		wte++;
	for (embeddings = wte; embeddings < count && buckets[embeddings].layer < 0;)
		embeddings++;
	if (count > embeddings && buckets[count - 1].layer == layers)
		end = last_layer_from(buckets, embeddings, count);
	give_shadows(buckets, end, count, room, &taken);
	give_shadows(buckets, 0, wte, room, &taken);
	for (int first; end > embeddings; end = first) {
		first = last_layer_from(buckets, embeddings, end);
		give_shadows(buckets, first, end, room, &taken);
	}
	return taken;
}

/* Elements that pieces of wte are staged in, on the device. */
static uint64_t count_staged(const struct offload_bucket *buckets, int count)
{
	uint64_t largest = 0;
	for (int i = 0; i < count; i++)
		if (buckets[i].wte && buckets[i].has_shadow && buckets[i].whole.elements > largest)
			largest = buckets[i].whole.elements;
	return largest < STAGED ? largest : STAGED;
}

static int layers_of(const struct parameter_table *table)
{
	return table->items[table->count - 1].layer;
}

/* All buckets, malloc'ed, and the elements that have a shadow. */
static enum status take_buckets(const struct offload_config *c, const struct parameter_table *table,
	const struct optimizer_part *part, struct offload_bucket **out, int *count, uint64_t *shadows)
{
	int cut = cut_buckets(c, table, part, NULL);
	*count = 0; /* while there are none */
	TRY(memory_alloc((void **)out, (size_t)cut + 1, sizeof **out, "the buckets"));
	*count = cut_buckets(c, table, part, *out);
	*shadows = choose_shadows(c, *out, *count, layers_of(table));
	return STATUS_OK;
}

enum status offload_count_shadows(const struct offload_config *config, const struct parameter_table *table,
	const struct optimizer_part *part, uint64_t *elements)
{
	struct offload_bucket *buckets;
	int count;
	uint64_t all;
	TRY(take_buckets(config, table, part, &buckets, &count, &all));
	memset(elements, 0, sizeof *elements * (size_t)(layers_of(table) + 2));
	for (int i = 0; i < count; i++)
		if (buckets[i].has_shadow)
			elements[buckets[i].layer + 1] += buckets[i].whole.elements;
	free(buckets);
	return STATUS_OK;
}

enum status offload_measure(const struct offload_config *config, const struct parameter_table *table,
	const struct optimizer_part *part, enum dtype act, enum dtype grad, struct offload_memory *out)
{
	struct offload_bucket *buckets;
	int count;
	uint64_t own = optimizer_part_elements(part) - part->there, shadows;
	TRY(take_buckets(config, table, part, &buckets, &count, &shadows));
	uint64_t sent = dtype_bytes(act) + dtype_bytes(grad), slot = slot_size(buckets, count) * sent, staged;
	out->lent = offload_loan_bytes(config, buckets, count, slot, &staged);
	out->staging = (count_staged(buckets, count) + staged) * sent;
	free(buckets);
	out->host = 4 * OFFLOAD_STATES * (own + shadows);
	out->pinned = slot_total(config, slot) * slot;
	out->device = (config->delayed ? own : shadows) * dtype_bytes(act);
	return STATUS_OK;
}

/* ---- opening ---- */

static enum status open_plan(struct offload *o, const struct optimizer_part *part)
{
	TRY(memory_alloc(
		(void **)&o->segments, (size_t)o->table->count, sizeof *o->segments, "the optimizer's plan"));
	o->segment_count = optimizer_cut(o->table, o->segments);
	o->layers = layers_of(o->table);
	TRY(take_buckets(&o->config, o->table, part, &o->buckets, &o->bucket_count, &o->shadow_elements));
	o->incoming_elements = o->config.delayed ? o->elements - o->there : o->shadow_elements;
	/* Of each bucket up to five loans, and as many back: a slot as large as the bucket has at least 4 bytes an element, a
	 * loan is of whole pieces of which each element takes 12. */
	o->job_room = 16 * (uint64_t)o->bucket_count + 8;
	return memory_alloc((void **)&o->jobs, o->job_room, sizeof *o->jobs, "the buckets' jobs");
}

static void place_bucket(struct offload *o, struct offload_bucket *b)
{
	uint64_t at = o->config.delayed ? b->own - o->there : b->shadow;
	if (o->config.delayed || b->has_shadow)
		b->incoming = (char *)o->incoming + at * dtype_bytes(o->k->act);
	for (int i = 0; i < OFFLOAD_STATES; i++) {
		b->now[i] = o->flat[i] + b->own;
		b->next[i] = b->has_shadow ? o->shadow[i] + b->shadow : NULL;
	}
}

static enum status open_states(struct offload *o)
{
	static const char *const what[] = {
		"the master weights", "Adam's first moments", "Adam's second moments"};
	struct kernels *host = &o->host;
	for (int i = 0; i < OFFLOAD_STATES; i++)
		TRY(host->memory_alloc(host, (void **)&o->flat[i], o->elements * 4, what[i]));
	for (int i = 0; i < OFFLOAD_STATES && o->shadow_elements; i++)
		TRY(host->memory_alloc(host, (void **)&o->shadow[i], o->shadow_elements * 4, what[i]));
	if (o->incoming_elements)
		TRY(o->k->memory_alloc(o->k, &o->incoming, o->incoming_elements * dtype_bytes(o->k->act),
			"the weights that come up"));
	for (int b = 0; b < o->bucket_count; b++)
		place_bucket(o, &o->buckets[b]);
	return STATUS_OK;
}

static enum status open_slots(struct offload *o)
{
	size_t grad = dtype_bytes(o->k->grad), act = dtype_bytes(o->k->act);
	o->slot_elements = slot_size(o->buckets, o->bucket_count);
	o->slot_count = slot_total(&o->config, o->slot_elements * (grad + act));
	TRY(memory_alloc((void **)&o->slots, o->slot_count, sizeof *o->slots, "the pinned slots"));
	o->pinned_bytes = o->slot_count * o->slot_elements * (grad + act);
	TRY(o->k->host_alloc(o->k, &o->pinned, o->pinned_bytes, "gradients on their way to the host"));
	char *at = o->pinned;
	for (uint64_t i = 0; i < o->slot_count; i++, at += o->slot_elements * (grad + act)) {
		struct offload_slot *slot = &o->slots[i];
		slot->gradients = at;
		slot->work = at + o->slot_elements * grad;
		TRY(o->k->event_open(o->k, &slot->fetching));
		TRY(o->k->event_open(o->k, &slot->fetched));
		TRY(o->k->event_open(o->k, &slot->sending));
		TRY(o->k->event_open(o->k, &slot->sent));
	}
	return STATUS_OK;
}

static enum status open_staging(struct offload *o)
{
	struct kernels *k = o->k;
	o->staged_elements = count_staged(o->buckets, o->bucket_count);
	if (!o->staged_elements)
		return STATUS_OK;
	TRY(k->memory_alloc(k, &o->gathered, o->staged_elements * dtype_bytes(k->grad),
		"gradients of rows on their way to the host"));
	return k->memory_alloc(k, &o->scattered, o->staged_elements * dtype_bytes(k->act),
		"weights of rows on their way to the device");
}

static enum status open_streams(struct offload *o)
{
	struct kernels *k = o->k;
	TRY(k->stream_open(k, &o->down));
	TRY(k->stream_open(k, &o->up));
	TRY(k->event_open(k, &o->applied));
	TRY(memory_alloc(
		(void **)&o->final, (size_t)o->layers + 1, sizeof(struct event *), "the layers' events"));
	for (int i = 0; i <= o->layers; i++)
		TRY(k->event_open(k, &o->final[i]));
	for (int b = 0; b < o->bucket_count; b++) {
		TRY(k->event_open(k, &o->buckets[b].uploaded));
		o->buckets[b].landed = o->buckets[b].arrived = true;
	}
	return STATUS_OK;
}

static enum status open_parts(struct offload *o, const struct optimizer_part *part)
{
	struct kernels_config host = {.act = o->k->act, .grad = o->k->grad, .threads = 1};
	TRY(kernels_open_cpu(&host, &o->host));
	TRY(open_plan(o, part));
	TRY(open_states(o));
	TRY(open_slots(o));
	TRY(open_staging(o));
	TRY(offload_lend_open(o));
	TRY(open_streams(o));
	TRY(crew_open(o->config.threads, o->config.first_processor, &o->crew));
	return offload_conductor_start(o);
}

enum status offload_open(const struct offload_config *config, const struct optimizer_config *optimizer,
	const struct parameter_table *table, const struct optimizer_part *part, struct kernels *device,
	void *weights, struct offload **out)
{
	struct offload *o;
	*out = NULL;
	assert(part->there % PARAMETER_ALIGNED == 0);
	TRY(optimizer_config_check(optimizer));
	TRY(memory_alloc((void **)&o, 1, sizeof *o, "the offload"));
	o->config = *config;
	o->optimizer = *optimizer;
	o->table = table;
	o->there = part->there;
	o->elements = optimizer_part_elements(part);
	o->k = device;
	o->weights = weights;
	pthread_mutex_init(&o->lock, NULL);
	pthread_cond_init(&o->wake, NULL);
	pthread_cond_init(&o->moved, NULL);
	enum status status = open_parts(o, part);
	if (status != STATUS_OK) {
		offload_close(o);
		return status;
	}
	*out = o;
	return STATUS_OK;
}

/* What a stream still does must be done before its memory goes; nobody asks for its failures any more. */
static void drain(struct offload *o, struct stream *s)
{
	enum status ignored = o->k->stream_wait(o->k, s);
	(void)ignored;
}

static void close_streams(struct offload *o)
{
	struct kernels *k = o->k;
	if (o->down)
		k->stream_close(k, o->down);
	if (o->up)
		k->stream_close(k, o->up);
	k->event_close(k, o->applied);
	for (int i = 0; o->final && i <= o->layers; i++)
		k->event_close(k, o->final[i]);
	for (int b = 0; b < o->bucket_count; b++)
		k->event_close(k, o->buckets[b].uploaded);
	for (uint64_t i = 0; o->slots && i < o->slot_count; i++) {
		k->event_close(k, o->slots[i].fetching);
		k->event_close(k, o->slots[i].fetched);
		k->event_close(k, o->slots[i].sending);
		k->event_close(k, o->slots[i].sent);
	}
}

static void close_memory(struct offload *o)
{
	struct kernels *host = &o->host;
	if (o->pinned)
		o->k->host_free(o->k, o->pinned, o->pinned_bytes);
	if (o->incoming)
		o->k->memory_free(o->k, o->incoming, o->incoming_elements * dtype_bytes(o->k->act));
	if (o->gathered)
		o->k->memory_free(o->k, o->gathered, o->staged_elements * dtype_bytes(o->k->grad));
	if (o->scattered)
		o->k->memory_free(o->k, o->scattered, o->staged_elements * dtype_bytes(o->k->act));
	offload_lend_close(o);
	for (int i = 0; i < OFFLOAD_STATES && host->self; i++) {
		host->memory_free(host, o->flat[i], o->elements * 4);
		host->memory_free(host, o->shadow[i], o->shadow_elements * 4);
	}
	if (host->self)
		host->close(host);
}

void offload_close(struct offload *o)
{
	if (!o)
		return;
	offload_conductor_stop(o);
	crew_close(o->crew);
	if (o->down)
		drain(o, o->down);
	if (o->up)
		drain(o, o->up);
	drain(o, NULL);
	close_streams(o);
	close_memory(o);
	pthread_cond_destroy(&o->moved);
	pthread_cond_destroy(&o->wake);
	pthread_mutex_destroy(&o->lock);
	free(o->final);
	free(o->slots);
	free(o->jobs);
	free(o->buckets);
	free(o->segments);
	free(o);
}

float *offload_master(struct offload *o)
{
	return o->flat[OFFLOAD_MASTER];
}

float *offload_exp_avg(struct offload *o)
{
	return o->flat[OFFLOAD_AVG];
}

float *offload_exp_avg_sq(struct offload *o)
{
	return o->flat[OFFLOAD_AVG_SQ];
}

struct offload_seconds offload_busy(struct offload *o)
{
	pthread_mutex_lock(&o->lock);
	struct offload_seconds seconds = o->seconds;
	pthread_mutex_unlock(&o->lock);
	return seconds;
}

uint64_t offload_count(const struct offload *o, enum offload_outcome outcome)
{
	return o->counts[outcome];
}

void offload_count_loans(const struct offload *o, uint64_t *asked, uint64_t *updated)
{
	*asked = o->loans_asked;
	*updated = o->loans_updated;
}

/* ---- waiting for the conductor ---- */

/* With the lock held, which it gives up. The threads' failure, if there is one. */
static enum status unlock(struct offload *o)
{
	struct error_copy failure = o->failure;
	pthread_mutex_unlock(&o->lock);
	return failure.status == STATUS_OK ? STATUS_OK : error_restore(&failure);
}

static enum status wait_landed(struct offload *o, const struct offload_bucket *b)
{
	pthread_mutex_lock(&o->lock);
	while (!b->landed)
		pthread_cond_wait(&o->moved, &o->lock);
	return unlock(o);
}

static enum status wait_idle(struct offload *o)
{
	pthread_mutex_lock(&o->lock);
	while (o->head < o->tail)
		pthread_cond_wait(&o->moved, &o->lock);
	return unlock(o);
}

/* Of wte's pieces, those that an update is for: early, or late but for those that the device has updated. */
static struct lookups_list pieces_of(
	const struct offload *o, const struct offload_bucket *b, enum offload_kind kind)
{
	uint64_t from = b->whole.offset, to = from + b->whole.elements,
		 done = b->device_updated / KERNELS_PIECE;
	if (kind == OFFLOAD_SPECULATE)
		return lookups_early(o->step.lookups, from, to);
	struct lookups_list late = lookups_late(o->step.lookups, from, to);
	return (struct lookups_list){late.pieces + done, late.on_table + done, late.count - done};
}

/* With the lock held. */
static void push(
	struct offload *o, enum offload_kind kind, struct offload_bucket *b, struct event *after, double clip)
{
	struct offload_job job = {.kind = kind,
		.bucket = b,
		.in_pieces = b->wte && (kind == OFFLOAD_SPECULATE || kind == OFFLOAD_COMMIT),
		.gradients = o->step.gradients,
		.after = after,
		.args = optimizer_adamw(
			&o->optimizer, o->step.learning_rate, o->step.update, clip / o->step.loss_scale)};
	if (job.in_pieces)
		job.pieces = pieces_of(o, b, kind);
	job.elements = job.in_pieces            ? job.pieces.count * KERNELS_PIECE
		       : kind == OFFLOAD_COMMIT ? 0
						: b->whole.elements;
	if (kind != OFFLOAD_SPECULATE)
		b->landed = false;
	offload_push(o, &job);
}

/* ---- weights on their way to the device ---- */

static size_t bucket_bytes(const struct offload *o, const struct offload_bucket *b)
{
	return b->whole.elements * dtype_bytes(o->k->act);
}

static void *weights_at(const struct offload *o, const struct offload_bucket *b)
{
	return o->weights + b->whole.offset * dtype_bytes(o->k->act);
}

/* Queued on a stream. */
static void arrive(struct offload *o, struct offload_bucket *b, bool from_incoming, struct stream *stream)
{
	struct kernels *k = o->k;
	k->event_await(k, b->uploaded, stream);
	if (from_incoming)
		k->copy(k, stream, weights_at(o, b), b->incoming, bucket_bytes(o, b));
}

enum status offload_land(struct offload *o, int layer, struct stream *stream)
{
	bool changed = false;
	for (int i = 0; i < o->bucket_count; i++) {
		struct offload_bucket *b = &o->buckets[i];
		if (b->layer != layer || b->arrived)
			continue;
		TRY(wait_landed(o, b));
		arrive(o, b, b->committed, stream);
		b->arrived = changed = true;
	}
	if (changed)
		o->k->weights_changed(o->k);
	return STATUS_OK;
}

enum status offload_gate(void *offload, int layer)
{
	return offload_land(offload, layer, NULL);
}

/* The last step's delayed update becomes the weights. */
static enum status apply_delayed(struct offload *o)
{
	struct kernels *k = o->k;
	bool changed = false;
	for (int i = 0; i < o->bucket_count; i++) {
		struct offload_bucket *b = &o->buckets[i];
		if (!b->delayed)
			continue;
		TRY(wait_landed(o, b));
		arrive(o, b, true, NULL);
		b->delayed = false;
		changed = true;
	}
	if (changed) {
		k->weights_changed(k);
		/* `incoming` must have been read before the next weights are written there. */
		k->event_record(k, o->applied, NULL);
		k->event_await(k, o->applied, o->up);
	}
	return STATUS_OK;
}

static enum status gate_all(struct offload *o)
{
	for (int layer = -1; layer <= o->layers; layer++)
		TRY(offload_gate(o, layer));
	return STATUS_OK;
}

enum status offload_publish(struct offload *o)
{
	o->step = (struct offload_step){.loss_scale = 1};
	TRY(wait_idle(o));
	pthread_mutex_lock(&o->lock);
	for (int i = 0; i < o->bucket_count; i++) {
		struct offload_bucket *b = &o->buckets[i];
		b->arrived = b->committed = b->delayed = false;
		push(o, OFFLOAD_PUBLISH, b, NULL, 1);
	}
	pthread_mutex_unlock(&o->lock);
	return gate_all(o);
}

/* A shadow that is the state goes back to its place in the flat arrays. */
static void gather_share(void *context, uint64_t from, uint64_t to)
{
	struct offload *o = context;
	for (uint64_t i = from; i < to; i++) {
		struct offload_bucket *b = &o->buckets[i];
		for (int s = 0; s < OFFLOAD_STATES; s++) {
			float *place = o->flat[s] + b->own;
			if (b->now[s] == place)
				continue;
			memcpy(place, b->now[s], b->whole.elements * 4);
			b->next[s] = b->now[s];
			b->now[s] = place;
		}
	}
}

/* The conductor has nothing to do. */
static enum status count_uploads(struct offload *o)
{
	double up = 0;
	for (uint64_t i = 0; i < o->slot_count; i++)
		TRY(offload_slot_wait(o, &o->slots[i], &up));
	pthread_mutex_lock(&o->lock);
	o->seconds.up += up;
	pthread_mutex_unlock(&o->lock);
	return STATUS_OK;
}

enum status offload_settle(struct offload *o)
{
	TRY(gate_all(o));
	TRY(apply_delayed(o));
	TRY(o->k->event_wait(o->k, o->updated));
	pthread_mutex_lock(&o->lock);
	offload_count_borrowed(o);
	offload_take_back(o);
	pthread_mutex_unlock(&o->lock);
	TRY(wait_idle(o));
	crew_run(o->crew, (uint64_t)o->bucket_count, 1, gather_share, o);
	TRY(count_uploads(o));
	TRY(o->k->stream_wait(o->k, o->down));
	return o->k->stream_wait(o->k, o->up);
}

/* ---- a step ---- */

void offload_begin(struct offload *o, const struct offload_step *step)
{
	o->step = *step;
	o->speculating = o->shadow_elements && o->good >= OFFLOAD_RECENT;
	pthread_mutex_lock(&o->lock);
	o->lending++;
	for (int i = 0; i < o->bucket_count; i++) {
		o->buckets[i].tried = false;
		if (!o->buckets[i].away)
			o->buckets[i].on_loan = 0;
	}
	pthread_mutex_unlock(&o->lock);
}

enum status offload_layer_done(void *offload, int layer)
{
	return offload_layer_final(offload, layer, NULL);
}

enum status offload_layer_final(struct offload *o, int layer, struct stream *stream)
{
	struct kernels *k = o->k;
	if (layer == o->layers)
		offload_lend(o);
	if (!o->speculating || layer < 0)
		return STATUS_OK;
	k->event_record(k, o->final[layer], stream);
	pthread_mutex_lock(&o->lock);
	for (int i = 0; i < o->bucket_count; i++) {
		struct offload_bucket *b = &o->buckets[i];
		bool early = b->wte && layer == o->layers && o->step.lookups;
		if (!b->has_shadow || (b->layer != layer && !early))
			continue;
		push(o, OFFLOAD_SPECULATE, b, o->final[layer], 1);
		b->tried = true;
	}
	pthread_mutex_unlock(&o->lock);
	return STATUS_OK;
}

/* Loans that have not begun come too late. Speculation that has not begun need not; but what is first in line is carried
 * out in any case. With the lock held. */
static bool cancel_unstarted(struct offload *o)
{
	bool tried = false, first = true;
	for (uint64_t n = o->head; n < o->tail; n++) {
		struct offload_job *job = offload_job_at(o, n);
		job->cancelled |= job->kind == OFFLOAD_LEND && !job->started;
		if (job->kind != OFFLOAD_SPECULATE || job->cancelled)
			continue;
		if (!first && !job->started) {
			job->cancelled = true;
			job->bucket->tried = false;
		}
		first = false;
	}
	for (int i = 0; i < o->bucket_count; i++)
		tried |= o->buckets[i].tried;
	return tried;
}

static void push_updates(struct offload *o, double clip)
{
	for (int i = 0; i < o->bucket_count; i++) {
		struct offload_bucket *b = &o->buckets[i];
		if (!b->lent || !b->device_updated)
			push(o, b->committed ? OFFLOAD_COMMIT : OFFLOAD_UPDATE, b, NULL, clip);
		b->arrived = o->config.delayed;
		b->delayed = o->config.delayed;
	}
	offload_take_rows_back(o);
}

/* A skipped step's gradients may be written over when this returns, and its lookups once the default stream comes to it:
 * nothing else waits for what speculation sends up. */
static enum status end_dropped(struct offload *o)
{
	TRY(wait_idle(o));
	for (int i = 0; i < o->bucket_count; i++)
		if (o->buckets[i].wte && o->buckets[i].tried)
			o->k->event_await(o->k, o->buckets[i].uploaded, NULL);
	return STATUS_OK;
}

enum status offload_finish(struct offload *o, bool overflow, double clip)
{
	o->speculating = false;
	o->good = !overflow && clip == 1 ? o->good + 1 : 0;
	TRY(apply_delayed(o));
	pthread_mutex_lock(&o->lock);
	bool tried = cancel_unstarted(o);
	offload_count_borrowed(o);
	for (int i = 0; i < o->bucket_count && !overflow; i++)
		o->buckets[i].committed = o->buckets[i].tried && clip == 1;
	if (!overflow) {
		offload_update_borrowed(o, clip);
		push_updates(o, clip);
	}
	pthread_mutex_unlock(&o->lock);
	o->counts[!tried      ? OFFLOAD_SERIAL
		  : overflow  ? OFFLOAD_DROPPED
		  : clip == 1 ? OFFLOAD_COMMITTED
			      : OFFLOAD_REDONE]++;
	return overflow ? end_dropped(o) : STATUS_OK;
}
