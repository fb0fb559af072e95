/*
 * The offload against the serial algorithm: random gradients through both, step by step, and not a bit may
 * differ. The device is the CPU with real streams (stream_kernels.h).
 */
#include "engine/offload.h"

#include "common/memory.h"
#include "tests/unit/engine/model_rig.h"
#include "tests/unit/engine/stream_kernels.h"

#include <math.h>

static const struct model_config small = {.layers = 3,
	.hidden = 20,
	.heads = 2,
	.positions = 7,
	.vocabulary = 301,
	.vocabulary_padded = 384,
	.layernorm_epsilon = 1e-5f};

enum { TOKENS = 9, MOST_LAYERS = 8 };

struct plan {
	enum dtype act, grad;
	struct offload_config config;
	double host_share; /* of the parameters; the rest is the device's */
	double max_norm;
	double accident; /* how often a step is clipped or overflows */
};

struct bench {
	struct plan plan;
	struct parameter_table table;
	uint64_t n, first, random;
	double scale;
	/* the serial algorithm */
	struct kernels plain;
	struct optimizer *serial;
	float *master;
	void *work, *old_work; /* old_work: one update behind */
	void *gradients;       /* [n], plain.grad */
	float *values;         /* the same before rounding */
	/* the device */
	struct kernels k;
	struct optimizer *device; /* measures, and has the first elements */
	struct offload *offload;
	struct lookups *lookups;
	struct stream *other; /* that weights land on at times */
	struct event *landed;
	float *device_master;
	char *weights, *arrays[2], *source, *seen;
	void *pinned_gradients, *pinned_seen;
	int32_t tokens[TOKENS];
	uint64_t updates;
	int clips, overflows;
};

static uint64_t draw(struct bench *b, uint64_t below)
{
	b->random = b->random * 6364136223846793005u + 1442695040888963407u;
	return (b->random >> 33) % below;
}

static double uniform(struct bench *b)
{
	return (double)draw(b, 1 << 24) / (1 << 24);
}

static uint64_t bytes_of(const struct bench *b, enum dtype type)
{
	return b->n * dtype_bytes(type);
}

static void open_device(struct bench *b, const struct optimizer_config *adam)
{
	struct kernels_config config = {.act = b->plan.act, .grad = b->plan.grad, .threads = 1};
	struct kernels *k = &b->k;
	assert_ok(streamed_open(&config, k));
	b->weights = rig_alloc(k, bytes_of(b, b->plan.act));
	b->seen = rig_alloc(k, bytes_of(b, b->plan.act));
	for (int i = 0; i < 2; i++)
		b->arrays[i] = rig_alloc(k, bytes_of(b, b->plan.grad));
	b->source = rig_alloc(k, bytes_of(b, b->plan.grad));
	b->device_master = rig_alloc(k, (b->first + 1) * 4);
	assert_ok(k->host_alloc(k, &b->pinned_gradients, bytes_of(b, b->plan.grad), "gradients"));
	assert_ok(k->host_alloc(k, &b->pinned_seen, bytes_of(b, b->plan.act), "weights"));
	struct optimizer_slice all = {.elements = b->n};
	struct optimizer_part part = {&all, 1, b->first};
	assert_ok(optimizer_open_part(adam, &b->table, &part, NULL, k, &b->device));
	assert_ok(lookups_open(k, &b->table, NULL, &b->lookups));
	assert_ok(k->stream_open(k, &b->other));
	assert_ok(k->event_open(k, &b->landed));
	assert_ok(offload_open(&b->plan.config, adam, &b->table, &part, k, b->weights, &b->offload));
	memcpy(offload_master(b->offload) + b->first, b->master + b->first, (b->n - b->first) * 4);
	memcpy(b->device_master, b->master, b->first * 4);
	k->convert(k, NULL, b->weights, b->plan.act, b->device_master, DTYPE_F32, b->first);
	assert_ok(offload_publish(b->offload));
}

static void open_bench(struct bench *b, const struct plan *plan, uint64_t seed)
{
	struct optimizer_config adam = {0.9, 0.999, 1e-8, 0.1, plan->max_norm};
	struct kernels_config config = {.act = plan->act, .grad = plan->grad, .threads = 1};
	memset(b, 0, sizeof *b);
	b->plan = *plan;
	b->random = seed;
	b->scale = plan->act == DTYPE_F16 ? 4096 : 1;
	assert_ok(parameter_table_open(&small, &b->table));
	b->n = b->table.elements;
	b->first = (uint64_t)((1 - plan->host_share) * (double)b->n) / 64 * 64;
	assert_ok(kernels_open_cpu(&config, &b->plain));
	assert_ok(optimizer_open(&adam, &b->table, &b->plain, &b->serial));
	b->master = rig_alloc(&b->plain, b->n * 4);
	b->values = rig_alloc(&b->plain, b->n * 4);
	b->work = rig_alloc(&b->plain, bytes_of(b, plan->act));
	b->old_work = rig_alloc(&b->plain, bytes_of(b, plan->act));
	b->gradients = rig_alloc(&b->plain, bytes_of(b, plan->grad));
	parameters_initialize(&small, &b->table, 3, b->master);
	b->plain.convert(&b->plain, NULL, b->work, plan->act, b->master, DTYPE_F32, b->n);
	memcpy(b->old_work, b->work, bytes_of(b, plan->act));
	open_device(b, &adam);
}

static void close_bench(struct bench *b)
{
	struct kernels *k = &b->k, *plain = &b->plain;
	offload_close(b->offload);
	k->event_close(k, b->landed);
	k->stream_close(k, b->other);
	lookups_close(b->lookups);
	optimizer_close(b->device);
	k->host_free(k, b->pinned_gradients, bytes_of(b, b->plan.grad));
	k->host_free(k, b->pinned_seen, bytes_of(b, b->plan.act));
	k->memory_free(k, b->weights, bytes_of(b, b->plan.act));
	k->memory_free(k, b->seen, bytes_of(b, b->plan.act));
	k->memory_free(k, b->arrays[0], bytes_of(b, b->plan.grad));
	k->memory_free(k, b->arrays[1], bytes_of(b, b->plan.grad));
	k->memory_free(k, b->source, bytes_of(b, b->plan.grad));
	k->memory_free(k, b->device_master, (b->first + 1) * 4);
	k->close(k);
	optimizer_close(b->serial);
	plain->memory_free(plain, b->master, b->n * 4);
	plain->memory_free(plain, b->values, b->n * 4);
	plain->memory_free(plain, b->work, bytes_of(b, b->plan.act));
	plain->memory_free(plain, b->old_work, bytes_of(b, b->plan.act));
	plain->memory_free(plain, b->gradients, bytes_of(b, b->plan.grad));
	plain->close(plain);
	parameter_table_close(&b->table);
}

/* ---- random gradients ---- */

static void fill_values(struct bench *b)
{
	for (int i = 0; i < b->table.count; i++) {
		const struct parameter *p = &b->table.items[i];
		uint64_t real = (uint64_t)p->file_rows * (uint64_t)p->columns;
		for (uint64_t e = 0; e < real; e++)
			b->values[p->offset + e] = (float)(uniform(b) - 0.5);
	}
}

/* Mostly below the clipping norm; now and then far above, within an ulp or so of it, or overflowing. */
static void make_gradients(struct bench *b)
{
	double sum = 0, wanted = (0.2 + 0.7 * uniform(b)) * 1.0, kind = uniform(b) / b->plan.accident;
	fill_values(b);
	for (uint64_t i = 0; i < b->n; i++)
		sum += (double)b->values[i] * (double)b->values[i];
	if (kind < 0.4)
		wanted = 1 + 20 * uniform(b) * uniform(b);
	else if (kind < 0.6)
		wanted = 1 + (uniform(b) - 0.5) * 3e-6; /* torch's formula clips from 1 - 1e-6 */
	for (uint64_t i = 0; i < b->n; i++)
		b->values[i] *= (float)(wanted * b->scale / sqrt(sum));
	if (kind >= 0.6 && kind < 1) {
		const struct parameter *p = &b->table.items[draw(b, (uint64_t)b->table.count)];
		b->values[p->offset + draw(b, (uint64_t)p->columns)] = draw(b, 2) ? INFINITY : NAN;
	}
	b->plain.convert(&b->plain, NULL, b->gradients, b->plan.grad, b->values, DTYPE_F32, b->n);
	memcpy(b->pinned_gradients, b->gradients, bytes_of(b, b->plan.grad));
	for (int i = 0; i < TOKENS; i++)
		b->tokens[i] = (int32_t)draw(b, draw(b, 4) ? 40 : (uint64_t)small.vocabulary);
}

/* ---- a step on the device, as a model would queue it ---- */

static void layer_range(const struct bench *b, int layer, uint64_t *from, uint64_t *to)
{
	*from = b->n, *to = 0;
	for (int i = PARAMETER_LAYERS; i < b->table.count; i++) {
		const struct parameter *p = &b->table.items[i];
		if (p->layer != layer)
			continue;
		uint64_t end = i + 1 < b->table.count ? b->table.items[i + 1].offset : b->n;
		*from = p->offset < *from ? p->offset : *from;
		*to = end > *to ? end : *to;
	}
}

/* What is queued on a stream from now on comes after what another has. */
static void follow(struct bench *b, struct stream *first, struct stream *then)
{
	b->k.event_record(&b->k, b->landed, first);
	b->k.event_await(&b->k, b->landed, then);
}

/* At times weights land on, and are read by, another stream than the default one, as they do with ranks. */
static enum status fake_forward(struct bench *b)
{
	struct kernels *k = &b->k;
	size_t size = dtype_bytes(k->act);
	struct stream *stream = draw(b, 3) ? NULL : b->other;
	if (stream)
		follow(b, NULL, stream);
	for (int l = -1; l <= small.layers; l++) {
		uint64_t from = 0, to = b->table.items[PARAMETER_LAYERS].offset;
		if (l >= 0)
			layer_range(b, l, &from, &to);
		TRY(stream ? offload_land(b->offload, l, stream) : offload_gate(b->offload, l));
		k->copy(k, stream, b->seen + from * size, b->weights + from * size, (to - from) * size);
	}
	if (stream)
		follow(b, stream, NULL);
	return STATUS_OK;
}

static void give(struct bench *b, char *gradients, uint64_t from, uint64_t to)
{
	size_t size = dtype_bytes(b->k.grad);
	b->k.copy(&b->k, NULL, gradients + from * size, b->source + from * size, (to - from) * size);
}

/* A head that writes wte's gradient, wrong in the looked-up rows; the layers; then those rows and wpe. */
static enum status fake_backward(struct bench *b, char *gradients, bool told)
{
	struct kernels *k = &b->k;
	const struct parameter *wte = &b->table.items[PARAMETER_WTE], *wpe = wte + 1;
	uint64_t width = (uint64_t)wte->columns, from, to;
	size_t size = dtype_bytes(k->grad);
	give(b, gradients, 0, wpe->offset);
	for (int i = 0; i < TOKENS; i++)
		k->zero(k, NULL, gradients + (wte->offset + (uint64_t)b->tokens[i] * width) * size,
			width * size);
	if (told)
		TRY(lookups_find(b->lookups, b->tokens, TOKENS));
	for (int l = small.layers; l >= 0; l--) {
		layer_range(b, l, &from, &to);
		give(b, gradients, from, to);
		if (told)
			TRY(offload_layer_done(b->offload, l));
	}
	for (int i = 0; i < TOKENS; i++) {
		from = wte->offset + (uint64_t)b->tokens[i] * width;
		give(b, gradients, from, from + width);
	}
	give(b, gradients, wpe->offset, b->table.items[PARAMETER_LAYERS].offset);
	return told ? offload_layer_done(b->offload, -1) : STATUS_OK;
}

static enum status device_step(struct bench *b, uint64_t number, struct optimizer_measure *measure)
{
	struct kernels *k = &b->k;
	char *gradients = b->arrays[b->plan.config.delayed ? number % 2 : 0];
	int micro = (int)draw(b, 3) + 1;
	bool knows = draw(b, 10) > 0;
	struct offload_step step = {.gradients = gradients,
		.learning_rate = 1e-3 * (1 + (double)(number % 5)),
		.loss_scale = b->scale,
		.update = b->updates + 1,
		.lookups = knows ? b->lookups : NULL};
	k->copy_in(k, NULL, b->source, b->pinned_gradients, bytes_of(b, k->grad));
	for (int i = 0; i < micro; i++) {
		if (i == micro - 1)
			offload_begin(b->offload, &step);
		TRY(fake_forward(b));
		TRY(fake_backward(b, gradients, i == micro - 1));
	}
	k->copy_out(k, NULL, b->pinned_seen, b->seen, bytes_of(b, k->act));
	TRY(optimizer_measure(b->device, gradients, b->scale, measure));
	double clip = measure->overflow ? 1 : optimizer_clip(b->device, measure->norm);
	if (!measure->overflow)
		optimizer_update(b->device, b->device_master, b->weights, gradients, step.learning_rate,
			step.update, clip / b->scale);
	return offload_finish(b->offload, measure->overflow, clip);
}

static void serial_step(struct bench *b, uint64_t number, struct optimizer_measure *measure)
{
	assert_ok(optimizer_measure(b->serial, b->gradients, b->scale, measure));
	memcpy(b->old_work, b->work, bytes_of(b, b->plan.act));
	if (measure->overflow) {
		b->overflows++;
		return;
	}
	double clip = optimizer_clip(b->serial, measure->norm);
	b->clips += clip < 1;
	optimizer_update(b->serial, b->master, b->work, b->gradients, 1e-3 * (1 + (double)(number % 5)),
		++b->updates, clip / b->scale);
}

static void compare_states(struct bench *b)
{
	uint64_t left = (b->n - b->first) * 4, first = b->first;
	assert_ok(offload_settle(b->offload));
	assert_memory_equal(offload_master(b->offload) + first, b->master + first, left);
	assert_memory_equal(offload_exp_avg(b->offload) + first, optimizer_exp_avg(b->serial) + first, left);
	assert_memory_equal(
		offload_exp_avg_sq(b->offload) + first, optimizer_exp_avg_sq(b->serial) + first, left);
	assert_ok(b->k.stream_wait(&b->k, NULL));
	assert_memory_equal(b->device_master, b->master, first * 4);
	assert_memory_equal(b->weights, b->work, bytes_of(b, b->plan.act));
}

static void step_both(struct bench *b, uint64_t number)
{
	struct optimizer_measure ours, theirs;
	make_gradients(b);
	/* The forward sees what the last step left; the delayed one, for the host's share, what the step
	 * before it left. */
	size_t size = dtype_bytes(b->plan.act), device = b->first * size;
	const char *host = b->plan.config.delayed ? b->old_work : b->work;
	char *expected = malloc(bytes_of(b, b->plan.act) + 1);
	memcpy(expected, b->work, device);
	memcpy(expected + device, host + device, bytes_of(b, b->plan.act) - device);
	assert_ok(device_step(b, number, &ours));
	serial_step(b, number, &theirs);
	assert_memory_equal(b->pinned_seen, expected, bytes_of(b, b->plan.act));
	free(expected);
	assert_memory_equal(&ours.norm, &theirs.norm, sizeof ours.norm);
	assert_int_equal(ours.overflow, theirs.overflow);
	if (draw(b, 23) == 0) {
		compare_states(b);
		memcpy(b->old_work, b->work, bytes_of(b, b->plan.act)); /* a delay ends */
	}
}

/* Returns the elements that the device updated with borrowed state. */
static uint64_t run_plan(
	const struct plan *plan, uint64_t seed, uint64_t steps, uint64_t counts[OFFLOAD_OUTCOMES])
{
	uint64_t asked, lent;
	struct bench *b = malloc(sizeof *b);
	streamed_unpinned = 0;
	open_bench(b, plan, seed);
	for (uint64_t i = 0; i < steps; i++)
		step_both(b, i);
	compare_states(b);
	for (int i = 0; i < OFFLOAD_OUTCOMES; i++)
		counts[i] += offload_count(b->offload, (enum offload_outcome)i);
	offload_count_loans(b->offload, &asked, &lent);
	assert_true(lent <= asked);
	close_bench(b);
	assert_int_equal(streamed_unpinned, 0);
	free(b);
	return lent;
}

/* Many steps for a day's work: FERRY_TEST_STEPS=10000. */
static uint64_t steps_wanted(void)
{
	const char *steps = getenv("FERRY_TEST_STEPS");
	return steps ? strtoull(steps, NULL, 10) : 120;
}

static const struct plan exact = {.act = DTYPE_F16,
	.grad = DTYPE_F32,
	.config = {.bucket_elements = 1000, .speculation = UINT64_MAX},
	.host_share = 1,
	.max_norm = 1,
	.accident = 0.1};

static void check_threads(int threads)
{
	uint64_t counts[OFFLOAD_OUTCOMES] = {0};
	struct plan plan = exact;
	plan.config.threads = threads;
	assert_int_equal(run_plan(&plan, 77 + (uint64_t)threads, steps_wanted(), counts), 0);
	plan.config.lent = 2;
	plan.config.lent_rows = 900;
	assert_true(run_plan(&plan, 99 + (uint64_t)threads, steps_wanted(), counts) > 0);
	/* each outcome has been there */
	for (int i = 0; i < OFFLOAD_OUTCOMES; i++)
		assert_true(counts[i] > 0);
	if (getenv("FERRY_TEST_STEPS"))
		print_message("# %d threads: %llu committed, %llu redone, %llu dropped, %llu serial\n",
			threads, (unsigned long long)counts[0], (unsigned long long)counts[1],
			(unsigned long long)counts[2], (unsigned long long)counts[3]);
}

static void one_thread(void **state)
{
	(void)state;
	check_threads(1);
}

static void two_threads(void **state)
{
	(void)state;
	check_threads(2);
}

static void three_threads(void **state)
{
	(void)state;
	check_threads(3);
}

static void seven_threads(void **state)
{
	(void)state;
	check_threads(7);
}

/* Types, sizes of buckets, few slots, shadows for a part, a part on the device, a delay. */
static void other_plans(void **state)
{
	(void)state;
	static const struct plan plans[] = {
		{DTYPE_F32, DTYPE_F32, {2, 0, 700, 1, UINT64_MAX, false, 0, 0}, 1, 1, 0.1},
		{DTYPE_F16, DTYPE_F16, {2, 0, 5000, 0, UINT64_MAX, false, 0, 0}, 1, 1, 0.1},
		{DTYPE_BF16, DTYPE_BF16, {3, 0, 64, 1 << 16, UINT64_MAX, false, 0, 0}, 1, 1, 0.1},
		{DTYPE_BF16, DTYPE_F32, {1, 0, 1000, 1, 120000, false, 0, 0}, 1, 1, 0.1},
		{DTYPE_F16, DTYPE_F32, {2, 0, 1000, 1, 0, false, 0, 0}, 1, 1, 0.3},
		{DTYPE_F16, DTYPE_F32, {2, 0, 1000, 0, UINT64_MAX, false, 0, 0}, 0.8, 1, 0.1},
		{DTYPE_F16, DTYPE_F32, {2, 0, 1000, 0, 100000, false, 0, 0}, 0.5, 1, 0.1},
		{DTYPE_F32, DTYPE_F32, {2, 0, 1000, 0, UINT64_MAX, false, 0, 0}, 1, 0, 0.1},
		{DTYPE_F16, DTYPE_F32, {2, 0, 1000, 0, UINT64_MAX, true, 0, 0}, 1, 1, 0.1},
		{DTYPE_BF16, DTYPE_BF16, {2, 0, 900, 1, 0, true, 0, 0}, 0.6, 1, 0.2},
		{DTYPE_F16, DTYPE_F32, {2, 0, 1000, 0, 0, false, 5, 0}, 1, 1, 0.2},
		{DTYPE_BF16, DTYPE_BF16, {3, 0, 64, 1, UINT64_MAX, false, 2, UINT64_MAX}, 1, 1, 0.1},
		{DTYPE_F32, DTYPE_F32, {1, 0, 5000, 1, UINT64_MAX, false, 1, 64}, 1, 0, 0.1},
		{DTYPE_F16, DTYPE_F32, {2, 0, 700, 0, 100000, false, 3, 500}, 0.7, 1, 0.1},
	};
	for (size_t i = 0; i < sizeof plans / sizeof *plans; i++)
		run_plan(&plans[i], 1000 + i, steps_wanted() / 4, (uint64_t[OFFLOAD_OUTCOMES]){0});
}

/* Streams that sleep now and then, each in its own way: what is not ordered by an event comes out of order.
 */
static void slow_streams(void **state)
{
	(void)state;
	uint64_t counts[OFFLOAD_OUTCOMES] = {0};
	struct plan plan = exact, delayed = exact;
	plan.config.threads = 2;
	delayed.config.delayed = true;
	streamed_jitter = 60;
	run_plan(&plan, 5, steps_wanted() / 4, counts);
	plan.config.lent = 3;
	plan.config.lent_rows = 2000;
	plan.config.pinned = 1;
	assert_true(run_plan(&plan, 7, steps_wanted() / 4, counts) > 0);
	run_plan(&delayed, 6, steps_wanted() / 8, counts);
	streamed_jitter = 0;
	assert_true(counts[OFFLOAD_COMMITTED] > 0);
}

/* Memory for shadows is spent as said, and measured before it is taken. */
static void memory_is_what_was_said(void **state)
{
	(void)state;
	struct parameter_table table;
	struct offload_memory none, some, all, lent, delayed;
	struct offload_config c = {.bucket_elements = 1000};
	assert_ok(parameter_table_open(&small, &table));
	struct optimizer_slice whole = {.elements = table.elements};
	struct optimizer_part part = {&whole, 1, 0};
	assert_ok(offload_measure(&c, &table, &part, DTYPE_F16, DTYPE_F32, &none));
	c.speculation = 100000;
	assert_ok(offload_measure(&c, &table, &part, DTYPE_F16, DTYPE_F32, &some));
	c.speculation = UINT64_MAX;
	assert_ok(offload_measure(&c, &table, &part, DTYPE_F16, DTYPE_F32, &all));
	c.lent = 1;
	c.lent_rows = 1000;
	assert_ok(offload_measure(&c, &table, &part, DTYPE_F16, DTYPE_F32, &lent));
	c.delayed = true;
	assert_ok(offload_measure(&c, &table, &part, DTYPE_F16, DTYPE_F32, &delayed));
	assert_int_equal(none.host, 12 * table.elements);
	assert_int_equal(none.device + none.staging + delayed.staging, 0);
	assert_int_equal(all.staging, 960 * 6); /* a bucket of wte's */
	assert_int_equal(
		none.pinned, OFFLOAD_SLOTS * 960 * 6); /* wte's 384 x 20 in 8 buckets of up to 1024 */
	assert_true(some.host > none.host && some.host <= none.host + 100000);
	assert_int_equal(some.device * 6, some.host - none.host);
	/* all but wpe, which is final with the step */
	uint64_t wpe = table.items[PARAMETER_LAYERS].offset - table.items[PARAMETER_WPE].offset;
	assert_int_equal(all.host, 24 * table.elements - 12 * wpe);
	assert_int_equal(none.lent + some.lent + all.lent + delayed.lent, 0);
	/* wpe and 15 pieces; a slot's 5760 bytes take the state of 7 of these, whose gradients and weights lie beside */
	assert_int_equal(lent.lent, 12 * (wpe + 960));
	assert_int_equal(lent.staging, all.staging + 6 * 448);
	assert_true(lent.host == all.host && lent.device == all.device && lent.pinned == all.pinned);
	assert_int_equal(delayed.host, none.host);
	assert_int_equal(delayed.device, 2 * table.elements);
	parameter_table_close(&table);
}

/* Whatever operation fails, an error comes out, and everything can be closed. */
static void failing_operations(void **state)
{
	(void)state;
	int told = 0, tries = 0;
	for (int after = 1; after < 1200; after += 7, tries++) {
		struct bench *b = malloc(sizeof *b);
		struct plan plan = exact;
		struct optimizer_measure measure;
		plan.config.lent = 2;
		plan.config.lent_rows = 900;
		enum status status = STATUS_OK;
		plan.config.threads = 2;
		plan.accident = 1e-9;
		open_bench(b, &plan, 9);
		streamed_failing = after;
		for (uint64_t i = 0; i < 8 && status == STATUS_OK; i++) {
			make_gradients(b);
			status = device_step(b, i, &measure);
			if (status == STATUS_OK)
				status = offload_settle(b->offload);
			b->updates++;
		}
		if (status == STATUS_OK)
			status = b->k.stream_wait(&b->k, NULL);
		if (status == STATUS_OK)
			status = b->k.stream_wait(&b->k, b->other);
		told += status != STATUS_OK;
		if (status != STATUS_OK)
			assert_string_equal(error_message(), "a kernel failed");
		else
			assert_true(streamed_failing >= 0);
		streamed_failing = -1;
		close_bench(b);
		free(b);
	}
	assert_true(told > tries / 2);
}

/* However far opening comes. */
static void failing_memory(void **state)
{
	(void)state;
	struct bench *b = malloc(sizeof *b);
	struct plan plan = exact;
	struct optimizer_config adam = {0.9, 0.999, 1e-8, 0.1, 1};
	plan.config.threads = 2;
	plan.config.lent = 2;
	plan.config.lent_rows = 900;
	open_bench(b, &plan, 9);
	struct optimizer_slice whole = {.elements = b->n};
	struct optimizer_part part = {&whole, 1, 0};
	enum status status = STATUS_MEMORY;
	int failures = 0;
	for (int after = 0; status == STATUS_MEMORY; after++, failures++) {
		struct offload *another;
		memory_fail_after(after);
		status = offload_open(&plan.config, &adam, &b->table, &part, &b->k, b->weights, &another);
		memory_fail_after(-1);
		if (status == STATUS_OK)
			offload_close(another);
		else
			assert_null(another);
	}
	assert_int_equal(status, STATUS_OK);
	assert_true(failures > 15);
	close_bench(b);
	free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(one_thread), cmocka_unit_test(two_threads),
		cmocka_unit_test(three_threads), cmocka_unit_test(seven_threads),
		cmocka_unit_test(other_plans), cmocka_unit_test(slow_streams),
		cmocka_unit_test(memory_is_what_was_said), cmocka_unit_test(failing_operations),
		cmocka_unit_test(failing_memory)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
