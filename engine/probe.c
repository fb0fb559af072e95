#include "engine/probe.h"

#include "common/clock.h"
#include "engine/exchange.h"

#include <string.h>

enum { ROUNDS = 3, COPY_BYTES = 64 << 20, EXCHANGES = 4 };
#define ROUND_SECONDS 0.05
#define LONG_SECONDS  0.5

/* One operation to time. */
struct trial {
	struct kernels *k;
	const struct plan_shape *shape;
	int rows, window;          /* of the matrix products; of the attention, whole windows of so many */
	size_t parameters, copied; /* of AdamW; bytes that a copy moves */
	void *blocks[6];
	size_t bytes[6];
	void *pinned;
	void (*run)(struct trial *trial);
};

static enum status run_times(struct trial *trial, int times, double *seconds)
{
	double begin = clock_seconds();
	for (int i = 0; i < times; i++)
		trial->run(trial);
	TRY(trial->k->stream_wait(trial->k, NULL));
	*seconds = clock_seconds() - begin;
	return STATUS_OK;
}

/* Seconds of one run. */
static enum status time_trial(struct trial *trial, double *out)
{
	double seconds;
	int times = 1;
	TRY(run_times(trial, 1, &seconds)); /* takes scratch, chooses algorithms */
	TRY(run_times(trial, times, &seconds));
	while (seconds < ROUND_SECONDS && times < 1 << 20) {
		times *= 2;
		TRY(run_times(trial, times, &seconds));
	}
	*out = seconds / times;
	for (int round = 1; round < ROUNDS && *out < LONG_SECONDS; round++) {
		TRY(run_times(trial, times, &seconds));
		*out = seconds / times < *out ? seconds / times : *out;
	}
	return STATUS_OK;
}

static enum status take(struct trial *trial, int block, size_t bytes)
{
	trial->bytes[block] = bytes;
	return trial->k->memory_alloc(trial->k, &trial->blocks[block], bytes, "a measurement");
}

static void release(struct trial *trial)
{
	for (int i = 0; i < 6; i++)
		if (trial->blocks[i])
			trial->k->memory_free(trial->k, trial->blocks[i], trial->bytes[i]);
	if (trial->pinned)
		trial->k->host_free(trial->k, trial->pinned, trial->copied);
}

/* ---- the operations ---- */

static void run_linear(struct trial *t)
{
	int C = t->shape->model.hidden;
	t->k->linear_forward(
		t->k, NULL, t->blocks[0], NULL, t->blocks[1], t->blocks[2], t->blocks[3], t->rows, C, 4 * C);
}

static enum status prepare_linear(struct trial *t)
{
	size_t item = dtype_bytes(t->shape->act), C = (size_t)t->shape->model.hidden, R = (size_t)t->rows;
	t->run = run_linear;
	TRY(take(t, 0, 4 * R * C * item));
	TRY(take(t, 1, R * C * item));
	TRY(take(t, 2, 4 * C * C * item));
	return take(t, 3, 4 * C * item);
}

static void run_attention(struct trial *t)
{
	const struct model_config *m = &t->shape->model;
	int T = t->window, B = t->rows / T, D = m->hidden / m->heads;
	struct dropout drop = {.p = m->attention_dropout, .site = DROPOUT_ATTENTION};
	t->k->attention_forward(
		t->k, NULL, t->blocks[0], t->blocks[1], t->blocks[2], NULL, B, T, m->heads, D, &drop);
	t->k->attention_backward(t->k, NULL, t->blocks[3], t->blocks[4], t->blocks[0], t->blocks[1],
		t->blocks[2], NULL, B, T, m->heads, D, &drop);
}

static enum status prepare_attention(struct trial *t)
{
	const struct model_config *m = &t->shape->model;
	size_t item = dtype_bytes(t->shape->act), C = (size_t)m->hidden, R = (size_t)t->rows;
	t->run = run_attention;
	TRY(take(t, 0, R * C * item));
	TRY(take(t, 1, R * (size_t)m->heads * sizeof(float)));
	TRY(take(t, 2, 3 * R * C * item));
	TRY(take(t, 3, 3 * R * C * item));
	return take(t, 4, R * C * item);
}

static void run_adamw(struct trial *t)
{
	struct adamw args = {.learning_rate = 1e-4f,
		.beta1 = .9f,
		.beta2 = .999f,
		.epsilon = 1e-8f,
		.step = 1,
		.gradient_multiplier = 1};
	float *p = t->blocks[0], *m = t->blocks[1], *v = t->blocks[2];
	t->k->adamw(t->k, NULL, &args, p, m, v, t->blocks[4], p, m, v, t->blocks[3], t->parameters);
}

static enum status prepare_adamw(struct trial *t)
{
	t->run = run_adamw;
	for (int i = 0; i < 3; i++)
		TRY(take(t, i, t->parameters * sizeof(float)));
	TRY(take(t, 3, t->parameters * dtype_bytes(t->k->grad)));
	return t->k->act == DTYPE_F32 ? STATUS_OK : take(t, 4, t->parameters * dtype_bytes(t->k->act));
}

static void run_copy_in(struct trial *t)
{
	t->k->copy_in(t->k, NULL, t->blocks[0], t->pinned, t->copied);
}

static void run_copy_out(struct trial *t)
{
	t->k->copy_out(t->k, NULL, t->pinned, t->blocks[0], t->copied);
}

static enum status prepare_copy_in(struct trial *t)
{
	t->run = run_copy_in;
	TRY(take(t, 0, t->copied));
	return t->k->host_alloc(t->k, &t->pinned, t->copied, "a measurement");
}

static enum status prepare_copy_out(struct trial *t)
{
	TRY(prepare_copy_in(t));
	t->run = run_copy_out;
	return STATUS_OK;
}

/* ---- rates ---- */

static int choose_rows(const struct plan_shape *shape)
{
	uint64_t all = shape->micro_batch * shape->window_tokens;
	return (int)(all < PROBE_ROWS ? all : PROBE_ROWS);
}

/* What `amount` of work takes, to a rate. */
static enum status measure(
	struct trial trial, double amount, enum status (*prepare)(struct trial *trial), double *rate)
{
	double seconds = 0;
	enum status status = prepare(&trial);
	if (status == STATUS_OK)
		status = time_trial(&trial, &seconds);
	release(&trial);
	*rate = seconds > 0 ? amount / seconds : 0;
	return status;
}

static double optimizer_bytes(const struct trial *t)
{
	return plan_optimizer_bytes(t->k->act, t->k->grad) * (double)t->parameters;
}

static size_t at_most(uint64_t wanted, uint64_t most)
{
	return (size_t)(wanted < most ? wanted : most);
}

/* No more than the model has, nor than half of the memory. */
static enum status choose_sizes(struct trial *t)
{
	struct parameter_table table;
	uint64_t unused = t->k->memory_unused(t->k), room = unused ? unused / 2 : UINT64_MAX;
	TRY(parameter_table_open(&t->shape->model, &table));
	t->parameters =
		at_most(at_most(table.elements, PROBE_PARAMETERS), room / 20); /* four arrays, and rounded */
	t->copied = at_most(at_most(4 * table.elements, COPY_BYTES), room);
	parameter_table_close(&table);
	return STATUS_OK;
}

enum status probe_rates(
	const struct plan_shape *shape, struct kernels *k, struct kernels *host, struct plan_rates *out)
{
	const struct model_config *m = &shape->model;
	double C = m->hidden;
	int T = (int)at_most(shape->window_tokens, PROBE_WINDOW);
	struct trial trial = {.k = k, .shape = shape, .rows = choose_rows(shape), .window = T};
	*out = (struct plan_rates){0};
	TRY(model_config_check(m));
	struct kernel_shapes shapes = {.batch = (trial.rows + T - 1) / T,
		.sequence = T,
		.hidden = m->hidden,
		.heads = m->heads,
		.vocabulary = m->vocabulary,
		.vocabulary_padded = m->vocabulary_padded,
		.training = true};
	TRY(k->reserve(k, &shapes));
	TRY(measure(trial, 2 * 4 * C * C * trial.rows, prepare_linear, &out->matrix_flops));
	struct trial whole = trial;
	whole.rows = trial.rows / T * T;
	double attention = (1 + PLAN_ATTENTION_BACKWARD) * 2 * C * T * whole.rows;
	TRY(measure(whole, attention, prepare_attention, &out->attention_flops));
	TRY(choose_sizes(&trial)); /* the operations' own memory is taken by now */
	TRY(measure(trial, optimizer_bytes(&trial), prepare_adamw, &out->memory_bytes));
	if (!host)
		return STATUS_OK;
	TRY(measure(trial, (double)trial.copied, prepare_copy_out, &out->down_bytes));
	TRY(measure(trial, (double)trial.copied, prepare_copy_in, &out->up_bytes));
	trial.k = host;
	return measure(trial, optimizer_bytes(&trial), prepare_adamw, &out->host_bytes);
}

/* ---- between ranks ---- */

/* A block to its owners and back, some times; seconds of one. */
static enum status time_exchange(
	struct kernels *k, struct exchange *x, void *block, const uint64_t *cuts, double *out)
{
	double begin = clock_seconds();
	for (int i = 0; i < EXCHANGES; i++) {
		TRY(exchange_reduce(x, NULL, block, cuts));
		TRY(exchange_share(x, NULL, block, cuts));
	}
	TRY(k->stream_wait(k, NULL));
	*out = (clock_seconds() - begin) / EXCHANGES;
	return STATUS_OK;
}

static enum status measure_exchange(struct collective *c, struct kernels *k, struct exchange *x, double *out)
{
	uint64_t cuts[COLLECTIVE_RANKS + 1], part = PROBE_BLOCK / 64 / (uint64_t)c->ranks * 64;
	void *block;
	double seconds, best = 0;
	for (int r = 0; r <= c->ranks; r++)
		cuts[r] = (uint64_t)r * part;
	TRY(exchange_connect(x));
	enum status taken = k->memory_alloc(k, &block, PROBE_BLOCK, "a measurement");
	enum status status = collective_agree(c, taken);
	if (status == STATUS_OK)
		status = time_exchange(k, x, block, cuts, &seconds);
	for (int i = 0; i < ROUNDS && status == STATUS_OK; i++) {
		status = time_exchange(k, x, block, cuts, &seconds);
		best = i == 0 || seconds < best ? seconds : best;
	}
	if (taken == STATUS_OK)
		k->memory_free(k, block, PROBE_BLOCK);
	TRY(status);
	TRY(collective_maximum(c, &best, 1));
	*out = 2.0 * (double)part * (c->ranks - 1) / best;
	return STATUS_OK;
}

enum status probe_network(struct collective *c, struct kernels *k, bool on_device, double *out)
{
	struct exchange_sizes sizes = {.block = PROBE_BLOCK, .part = PROBE_BLOCK / (uint64_t)c->ranks};
	struct exchange *x;
	enum status status = collective_agree(c, exchange_open(c, k, &sizes, on_device, &x));
	if (status == STATUS_OK)
		status = measure_exchange(c, k, x, out);
	exchange_close(x);
	return status;
}
