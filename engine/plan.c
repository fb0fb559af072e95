#include "engine/plan.h"

#include "common/memory.h"
#include "engine/kept_inputs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Elements of C a token and layer that the passes between matrix products read and write. */
enum { FORWARD_PASSES = 12, BACKWARD_PASSES = 20, OUTPUT_PASSES = 12, LOGIT_PASSES = 3 };
/* Steps until the pipeline repeats itself, or every second step does: an upload delays the next step's forward, which delays
 * its downloads; state that comes back late is not lent in the next. */
enum { PIPELINE_STEPS = 8 };
/* Of an element's state, over the link; and of the host's memory, read and written. */
enum { STATE_BYTES = 12, STATE_COPY_BYTES = 24 };
/* What is left of a bucket where rounding alone leaves something. */
#define NOTHING 1e-9

/* ---- work ---- */

struct per_token {
	double layer, head;    /* forward FLOPs of matrix products: of all layers, of the classifier */
	double attention;      /* forward FLOPs, all layers */
	double passes, logits; /* bytes, forward and backward, of all layers; of the classifier */
	double passes_forward; /* the forward's part of `passes` */
};

static struct per_token per_token(const struct plan_shape *shape)
{
	const struct model_config *m = &shape->model;
	double L = m->layers, C = m->hidden, T = (double)shape->window_tokens,
	       item = (double)dtype_bytes(shape->act);
	double passes = FORWARD_PASSES + BACKWARD_PASSES - (shape->keep_outputs ? OUTPUT_PASSES : 0);
	return (struct per_token){.layer = 2 * 12 * L * C * C,
		.head = 2.0 * m->vocabulary_padded * C,
		.attention = 2 * L * C * T,
		.passes = passes * L * C * item,
		.logits = (double)LOGIT_PASSES * m->vocabulary_padded * item,
		.passes_forward = FORWARD_PASSES * L * C * item};
}

/* Of AdamW, a parameter: p, m and v in and out, the gradient in, the rounded weight out where p is not it. */
double plan_optimizer_bytes(enum dtype act, enum dtype grad)
{
	size_t weight = act == DTYPE_F32 ? 0 : dtype_bytes(act);
	return 24.0 + (double)(dtype_bytes(grad) + weight);
}

static double optimizer_bytes(const struct plan_shape *shape)
{
	return plan_optimizer_bytes(shape->act, shape->grad);
}

static double ranks_of(const struct plan_shape *shape)
{
	return shape->ranks > 1 ? shape->ranks : 1;
}

/* Of a step, a rank. */
static uint64_t micro_batches(const struct plan_shape *shape)
{
	return shape->global_batch / shape->micro_batch / (uint64_t)ranks_of(shape);
}

/* Of `bytes` that each rank has a part of, what one sends to the others; and gets from them. */
static double exchanged(const struct plan_shape *shape, double bytes)
{
	return bytes * (1 - 1 / ranks_of(shape));
}

enum status plan_work(const struct plan_shape *shape, struct plan_work *out)
{
	struct parameter_table table;
	TRY(model_config_check(&shape->model));
	TRY(parameter_table_open(&shape->model, &table));
	struct per_token each = per_token(shape);
	double tokens = (double)(shape->global_batch * shape->window_tokens);
	double again = shape->checkpoint_activations ? 1 : 0;
	double n = (double)table.elements, ranks = ranks_of(shape);
	double grads = (double)dtype_bytes(shape->grad) * n, weights = (double)dtype_bytes(shape->act) * n;
	uint64_t input = (uint64_t)shape->model.hidden * dtype_bytes(shape->act); /* a layer's, a token */
	*out = (struct plan_work){.parameters = table.elements,
		.tokens = shape->global_batch * shape->window_tokens,
		.model_flops = tokens * 3 * (each.layer + each.head + each.attention),
		.matrix_flops = tokens * ((3 + again) * each.layer + 3 * each.head),
		.attention_flops = tokens * (1 + PLAN_ATTENTION_BACKWARD + again) * each.attention,
		.activation_bytes =
			tokens / ranks * (each.passes + again * each.passes_forward + each.logits),
		.optimizer_bytes = optimizer_bytes(shape) * n / ranks,
		.down_bytes = grads / ranks,
		.up_bytes = weights / ranks,
		.input_bytes =
			shape->inputs_on_host
				? tokens / ranks * (double)kept_inputs_pinned(shape->model.layers, input)
				: 0,
		.network_bytes = exchanged(shape, grads + weights)};
	parameter_table_close(&table);
	return STATUS_OK;
}

/* ---- machines ---- */

/* Dense two-byte products with 32-bit sums, memory, and PCIe, by the data sheets. */
static const struct {
	const char *driver; /* within the name that the driver gives; a variant stands before its family */
	double flops;
	const char *name; /* of those that can be planned for: memory and link are known */
	double memory, link;
	uint64_t gib;
	int capability; /* 90: 9.0 */
} gpus[] = {
	{.driver = "H100 PCIe", .flops = 756e12},
	{.driver = "H100 NVL", .flops = 835e12},
	{"H100", 989e12, "h100", 3.35e12, 64e9, 80, 90},
	{.driver = "H200", .flops = 989e12},
	{.driver = "GH200", .flops = 989e12},
	{.driver = "B200", .flops = 2250e12},
	{"A100", 312e12, "a100", 2.04e12, 32e9, 80, 80},
	{"V100", 125e12, "v100", 0.90e12, 16e9, 32, 70},
	{.driver = "L40S", .flops = 362e12},
	{.driver = "L40", .flops = 181e12},
	{"L4", 121e12, "l4", 0.30e12, 32e9, 24, 89},
	{.driver = "A10G", .flops = 70e12},
	{.driver = "A10", .flops = 125e12},
	{.driver = "T4", .flops = 65e12},
	{"RTX 4090", 165e12, "rtx4090", 1.01e12, 32e9, 24, 89},
	{.driver = "RTX 3090", .flops = 71e12},
};
enum { GPUS = sizeof gpus / sizeof *gpus };
/* The shares of them that ferry reaches on an H100 (tests/gpu/results: linear_*, attention_*, adamw), and
 * what PCIe leaves after its protocol. */
#define MATRIX_SHARE    0.65
#define ATTENTION_SHARE 0.13
#define MEMORY_SHARE    0.80
#define LINK_SHARE      0.80

bool plan_rates_named(const char *name, struct plan_rates *rates, uint64_t *memory)
{
	for (int i = 0; i < GPUS; i++) {
		if (!gpus[i].name || strcmp(name, gpus[i].name) != 0)
			continue;
		*rates = (struct plan_rates){.matrix_flops = MATRIX_SHARE * gpus[i].flops,
			.attention_flops = ATTENTION_SHARE * gpus[i].flops,
			.memory_bytes = MEMORY_SHARE * gpus[i].memory,
			.down_bytes = LINK_SHARE * gpus[i].link,
			.up_bytes = LINK_SHARE * gpus[i].link,
			.network_bytes = LINK_SHARE * gpus[i].link,
			.peak_flops = gpus[i].flops};
		*memory = (uint64_t)(PLAN_MEMORY_FREE * (double)(gpus[i].gib << 30));
		return true;
	}
	return false;
}

int plan_capability_named(const char *name)
{
	for (int i = 0; i < GPUS; i++)
		if (gpus[i].name && strcmp(name, gpus[i].name) == 0)
			return gpus[i].capability;
	return 0;
}

double plan_peak_flops(const char *device, enum dtype act)
{
	for (int i = 0; i < GPUS && act != DTYPE_F32; i++)
		if (strstr(device, gpus[i].driver))
			return gpus[i].flops;
	return 0;
}

const char *plan_bound_name(enum plan_bound bound)
{
	static const char *const names[] = {"compute", "the optimizer's memory",
		"gradients on the way to the host", "weights on the way to the device",
		"the exchange between ranks"};
	return names[bound];
}

/* ---- the pipeline ---- */

static double latest(double a, double b)
{
	return a > b ? a : b;
}

static double sum(const double *values, int count)
{
	double total = 0;
	for (int i = 0; i < count; i++)
		total += values[i];
	return total;
}

/* When each resource is free, and when each bucket's gradients are final and its weights are up. All in seconds
 * from the beginning. */
struct line {
	const struct plan_buckets *b;
	double compute, down, host, up, network;
	double begun;           /* when the last micro-batch's forward is */
	double decided;         /* when the norm is known */
	double borrowed;        /* when the pieces that it borrows are on the device */
	double lent;            /* of the pieces that are to be lent, the part that is */
	double *final, *usable; /* [count]; final: of bucket 0, the early part; of several ranks, summed */
	double *updated;        /* [count] shares that are done ahead of the decision, and stay */
};

/* A share of a bucket's gradients, which are final on each rank now, to their owners. Returns when they are there. */
static double walk_reduce(struct line *line, int bucket, double share)
{
	const struct plan_buckets *b = line->b;
	if (!b->reduce || share <= 0)
		return line->compute;
	line->network = latest(line->network, line->compute) + share * b->reduce[bucket];
	return line->network;
}

static void walk_compute(struct line *line)
{
	const struct plan_buckets *b = line->b;
	for (int i = 0; i < b->count; i++)
		line->compute = latest(line->compute, line->usable[i]) + b->forward[i];
	line->compute += b->before; /* it was the first micro-batch's forward that waited */
	line->begun = line->compute - sum(b->forward, b->count);
	line->compute += b->between;
	line->final[0] = walk_reduce(line, 0, b->dense);
	for (int i = b->count; i-- > 0;) {
		line->compute += b->backward[i];
		if (i)
			line->final[i] = walk_reduce(line, i, 1);
	}
	/* The norm is that of the sums. */
	line->decided = latest(walk_reduce(line, 0, 1 - b->dense), line->network);
}

/* A share of a bucket, whose gradients are final at `begin`: down, AdamW, its weights up. */
static void walk_update(struct line *line, int bucket, double share, double begin)
{
	const struct plan_buckets *b = line->b;
	line->down = latest(line->down, begin) + share * b->down[bucket];
	line->host = latest(line->host, line->down) + share * b->host[bucket];
	line->up = latest(line->up, line->host) + share * b->up[bucket];
	line->usable[bucket] = latest(line->up, line->decided);
}

/* Ahead of the decision, unless the host is then still at work on another. */
static void walk_early(struct line *line, int bucket)
{
	const struct plan_buckets *b = line->b;
	double share = bucket == 0 ? b->early : b->shadow ? b->shadow[bucket] : 0;
	line->updated[bucket] = 0;
	line->usable[bucket] = line->decided;
	if (share <= 0 || line->host >= line->decided)
		return;
	walk_update(line, bucket, share, line->final[bucket]);
	line->updated[bucket] = share;
}

/* Pieces' state copied and on its way to the device, of what has been copied by the decision. */
static void walk_lend(struct line *line)
{
	const struct plan_loans *lent = &line->b->lent;
	double begin = latest(line->host, line->begun), copy = lent->pieces.copy;
	double time = lent->pieces.share > 0 ? line->decided - begin : 0;
	line->lent = time <= 0 ? 0 : time < copy ? time / copy : 1;
	if (time <= 0)
		return;
	line->host = begin + line->lent * copy;
	line->up = latest(line->up, line->host) + line->lent * lent->pieces.up;
	line->borrowed = line->up;
}

static double share_lent(const struct line *line, int bucket)
{
	const struct plan_loans *lent = &line->b->lent;
	return (lent->share ? lent->share[bucket] : 0) + (bucket ? 0 : line->lent * lent->pieces.share);
}

/* The device's part, before the next forward. */
static void walk_borrowed(struct line *line)
{
	const struct plan_loans *lent = &line->b->lent;
	int count = line->b->count;
	double seconds = line->lent * lent->pieces.device + (lent->device ? sum(lent->device, count) : 0);
	if (seconds <= 0)
		return;
	line->compute = latest(line->compute, line->decided);
	line->compute = latest(line->compute, line->lent > 0 ? line->borrowed : 0) + seconds;
	for (int i = 0; i < count; i++)
		if (share_lent(line, i) > 0)
			line->usable[i] = latest(line->usable[i], line->compute);
}

/* Of a bucket, what neither speculation nor the device has updated. */
static void walk_rest(struct line *line, int bucket)
{
	double rest = 1 - line->updated[bucket] - share_lent(line, bucket);
	if (rest > NOTHING)
		walk_update(line, bucket, rest, line->decided);
}

/* Behind all that the decision had left to do. */
static void walk_back(struct line *line)
{
	const struct plan_loans *lent = &line->b->lent;
	if (line->lent <= 0)
		return;
	line->down = latest(line->down, line->compute) + line->lent * lent->pieces.down;
	line->host = latest(line->host, line->down) + line->lent * lent->pieces.copy;
}

static void walk_updates(struct line *line)
{
	const struct plan_buckets *b = line->b;
	walk_lend(line);
	walk_early(line, 0);
	for (int i = b->count; i-- > 1;)
		walk_early(line, i);
	if (b->early > 0 && line->updated[0] <= 0)
		line->lent = 0;
	for (int i = 0; i < b->count; i++)
		walk_rest(line, i);
	walk_borrowed(line);
	walk_back(line);
	for (int i = 0; i < b->count && b->share; i++) { /* to the other ranks, and theirs */
		line->network = latest(line->network, line->usable[i]) + b->share[i];
		line->usable[i] = line->network;
	}
}

/* From one backward's end to the next, on average of the last two steps. */
static double walk(struct line *line)
{
	double ends[PIPELINE_STEPS];
	for (int step = 0; step < PIPELINE_STEPS; step++) {
		walk_compute(line);
		ends[step] = line->compute;
		walk_updates(line);
	}
	return (ends[PIPELINE_STEPS - 1] - ends[PIPELINE_STEPS - 3]) / 2;
}

static double buckets_compute(const struct plan_buckets *b)
{
	return b->before + b->between + sum(b->forward, b->count) + sum(b->backward, b->count);
}

enum status plan_pipeline(const struct plan_buckets *b, enum plan_schedule schedule, double *step)
{
	double host = sum(b->host, b->count);
	double *times;
	struct plan_buckets there = *b; /* without what the host does */
	TRY(memory_alloc((void **)&times, 4 * (size_t)b->count, sizeof *times, "the plan of a step"));
	struct line line = {
		.b = b, .final = times, .updated = times + b->count, .usable = times + 2 * b->count};
	there.down = there.host = there.up = times + 3 * b->count;
	there.early = 0;
	there.lent = (struct plan_loans){0};
	if (schedule != PLAN_EXACT)
		line.b = &there;
	*step = walk(&line);
	free(times);
	if (schedule == PLAN_ON_DEVICE)
		*step += host;
	if (schedule == PLAN_DELAYED) /* nothing waits for this step's update: the longest decides */
		*step = latest(latest(*step, host), latest(sum(b->down, b->count), sum(b->up, b->count)));
	return STATUS_OK;
}

/* ---- a shape on a machine ---- */

/* Of one micro-batch. */
struct compute_time {
	double layer_forward, layer_backward, between;
};

static struct compute_time compute_times(const struct plan_shape *shape, const struct plan_rates *rates)
{
	struct per_token each = per_token(shape);
	double tokens = (double)(shape->micro_batch * shape->window_tokens) / shape->model.layers;
	double forward =
		tokens * (each.layer / rates->matrix_flops + each.attention / rates->attention_flops +
				 each.passes_forward / rates->memory_bytes);
	double backward = tokens * (2 * each.layer / rates->matrix_flops +
					   PLAN_ATTENTION_BACKWARD * each.attention / rates->attention_flops +
					   (each.passes - each.passes_forward) / rates->memory_bytes);
	if (shape->checkpoint_activations)
		backward += forward;
	return (struct compute_time){.layer_forward = forward,
		.layer_backward = backward,
		.between = tokens * shape->model.layers *
			   (3 * each.head / rates->matrix_flops + each.logits / rates->memory_bytes)};
}

static double over(double amount, double rate)
{
	return rate > 0 ? amount / rate : 0;
}

/* Of a layer, and a micro-batch. It goes to the host while the layer's forward runs and comes back in the backward;
 * gradients and weights go the other way then. */
static double input_bytes(const struct plan_shape *shape)
{
	return (double)(shape->micro_batch * shape->window_tokens) * shape->model.hidden *
	       (double)dtype_bytes(shape->act);
}

double plan_looked_up(const struct plan_shape *shape)
{
	double rows = shape->model.vocabulary_padded;
	double tokens = ranks_of(shape) * (double)(shape->micro_batch * shape->window_tokens);
	double distinct = 12 * pow(tokens, 0.62);
	return distinct < rows ? distinct / rows : 1;
}

/* A layer's bucket: bucket 0 are the embeddings, and the last layer's has the final LayerNorm. */
static int bucket_of(const struct plan_buckets *b, int layer)
{
	return layer + 1 < b->count ? layer + 1 : b->count - 1;
}

/* Elements of each bucket, of all ranks: whose optimizer is on the host, and of these, which have a shadow, and which are
 * lent as a whole. All [layers + 1]. And those of the token embedding's pieces that are lent. */
struct away {
	double *all, *shadowed, *lent;
	double pieces;
};

static enum status count_shadowed(const struct plan_shape *shape, const struct parameter_table *table,
	const struct offload_config *offloading, uint64_t first, const struct plan_buckets *b, double *out)
{
	uint64_t *shadows; /* [layers + 2] */
	int layers = shape->model.layers;
	TRY(memory_alloc((void **)&shadows, (size_t)layers + 2, sizeof *shadows, "the plan's shadows"));
	struct optimizer_slice all = {.elements = table->elements};
	struct optimizer_part part = {&all, 1, first};
	struct offload_config together = *offloading; /* all ranks' */
	double room = (double)together.speculation * ranks_of(shape);
	together.speculation = room < (double)(UINT64_MAX / 2) ? (uint64_t)room : UINT64_MAX;
	enum status status = offload_count_shadows(&together, table, &part, shadows);
	for (int layer = -1; layer <= layers && status == STATUS_OK; layer++)
		out[bucket_of(b, layer)] += (double)shadows[layer + 1];
	free(shadows);
	return status;
}

/* `first`: of the flat array, the elements that stay. */
static enum status count_away(const struct plan_shape *shape, const struct parameter_table *table,
	const struct offload_config *offloading, uint64_t first, const struct plan_buckets *b,
	struct away *out)
{
	TRY(count_shadowed(shape, table, offloading, first, b, out->shadowed));
	for (int p = 0; p < table->count; p++) {
		uint64_t begin = table->items[p].offset, end = begin + parameter_span(table, p);
		int layer = table->items[p].layer, bucket = bucket_of(b, layer);
		double away = end > first ? (double)(end - (begin > first ? begin : first)) : 0;
		out->all[bucket] += away;
		if (p != PARAMETER_WTE && layer + 2 <= offloading->lent && !offloading->delayed)
			out->lent[bucket] += away;
	}
	double rows = (double)offloading->lent_rows * ranks_of(shape);
	double late = out->shadowed[0] * plan_looked_up(shape);
	out->pieces = offloading->delayed ? 0 : late < rows ? late : rows;
	return STATUS_OK;
}

/* To shares and times. `arrays`: [3][count]. */
static void fill_host(const struct plan_shape *shape, const struct plan_rates *rates, const struct away *away,
	struct plan_buckets *b, double *arrays)
{
	double *shadow = arrays, *share = shadow + b->count, *device = share + b->count;
	double adamw = over(optimizer_bytes(shape), rates->memory_bytes);
	double ranks = ranks_of(shape), pieces = away->pieces / ranks;
	for (int i = 0; i < b->count; i++) {
		if (away->all[i] <= 0)
			continue;
		shadow[i] = away->shadowed[i] / away->all[i];
		share[i] = away->lent[i] / away->all[i];
		device[i] = away->lent[i] / ranks * adamw;
	}
	b->shadow = shadow;
	b->early = shadow[0] * (1 - plan_looked_up(shape));
	b->lent = (struct plan_loans){.share = share, .device = device};
	if (pieces <= 0)
		return;
	b->lent.pieces.share = away->pieces / away->all[0];
	b->lent.pieces.copy = over(pieces * STATE_COPY_BYTES, rates->host_bytes);
	b->lent.pieces.up = over(pieces * STATE_BYTES, rates->up_bytes);
	b->lent.pieces.down = over(pieces * STATE_BYTES, rates->down_bytes);
	b->lent.pieces.device = pieces * adamw;
}

/* buckets' arrays, seven of them one after another; `first`: of the flat array, the elements that stay. */
static void fill_buckets(const struct plan_shape *shape, const struct parameter_table *table,
	const struct plan_rates *rates, double first, struct plan_buckets *b, double *arrays)
{
	struct compute_time times = compute_times(shape, rates);
	double device = over(optimizer_bytes(shape), rates->memory_bytes), ranks = ranks_of(shape);
	double *forward = arrays, *backward = forward + b->count, *down = backward + b->count;
	double *host = down + b->count, *up = host + b->count;
	double *reduce = up + b->count, *share = reduce + b->count;
	for (int i = 0; i < table->count; i++) {
		int bucket = bucket_of(b, table->items[i].layer);
		double n = (double)parameter_span(table, i), offset = (double)table->items[i].offset;
		double kept = offset >= first ? 0 : offset + n <= first ? n : first - offset;
		double away = (n - kept) / ranks;
		down[bucket] += over(away * (double)dtype_bytes(shape->grad), rates->down_bytes);
		up[bucket] += over(away * (double)dtype_bytes(shape->act), rates->up_bytes);
		reduce[bucket] +=
			over(exchanged(shape, n * (double)dtype_bytes(shape->grad)), rates->network_bytes);
		share[bucket] +=
			over(exchanged(shape, n * (double)dtype_bytes(shape->act)), rates->network_bytes);
		host[bucket] += over(away * optimizer_bytes(shape), rates->host_bytes);
		backward[bucket] +=
			kept / ranks * device; /* what stays is updated there, after its gradients */
	}
	double micro = times.between, input = input_bytes(shape);
	for (int i = 1; i < b->count; i++) {
		bool away = shape->inputs_on_host && i < b->count - KEPT_BUFFERS;
		double out = away ? latest(times.layer_forward, over(input, rates->down_bytes))
				  : times.layer_forward;
		double back = away ? latest(times.layer_backward, over(input, rates->up_bytes))
				   : times.layer_backward;
		forward[i] = out;
		backward[i] += back;
		micro += out + back;
	}
	b->forward = forward;
	b->backward = backward;
	b->down = down;
	b->host = host;
	b->up = up;
	b->between = times.between;
	b->before = micro * (double)(micro_batches(shape) - 1);
	if (ranks > 1) {
		double wte = (double)parameter_span(table, PARAMETER_WTE);
		double wpe = (double)parameter_span(table, PARAMETER_WPE);
		b->reduce = reduce;
		b->share = share;
		if (rates->down_bytes > 0)
			b->dense = wte / (wte + wpe) * (1 - plan_looked_up(shape));
	}
}

static void find_bound(struct plan_time *out, const double *parts)
{
	for (int i = PLAN_COMPUTE; i <= PLAN_NETWORK; i++)
		if (parts[i] > parts[out->bound])
			out->bound = (enum plan_bound)i;
}

/* Of what is done for all buckets, what is left beside loans. */
static double not_lent(const struct plan_buckets *b, const double *seconds)
{
	double left = sum(seconds, b->count) - b->lent.pieces.share * seconds[0];
	for (int i = 0; i < b->count && b->lent.share; i++)
		left -= b->lent.share[i] * seconds[i];
	return left;
}

/* What is busy in a step, and how long; with the device's AdamW, but for what it borrows, in its compute. */
static void sum_up(const struct plan_buckets *b, double on_device, struct plan_time *out)
{
	const struct plan_loans *lent = &b->lent;
	out->compute = buckets_compute(b) - on_device;
	out->optimizer = on_device + lent->pieces.device + (lent->device ? sum(lent->device, b->count) : 0);
	out->optimizer = latest(out->optimizer, not_lent(b, b->host) + 2 * lent->pieces.copy);
	out->down = not_lent(b, b->down) + lent->pieces.down;
	out->up = not_lent(b, b->up) + lent->pieces.up;
	out->network = b->reduce ? sum(b->reduce, b->count) + sum(b->share, b->count) : 0;
	out->exposed = out->step - out->compute;
	find_bound(out, (double[]){out->compute, out->optimizer, out->down, out->up, out->network});
}

/* `arrays`: [13][layers + 1], zeroed. */
static enum status predict(const struct plan_shape *shape, const struct plan_rates *rates,
	const struct parameter_table *table, const struct offload_config *offloading, double device_share,
	double *arrays, struct plan_time *out)
{
	struct plan_buckets b = {.count = shape->model.layers + 1};
	double first = (offloading ? device_share : 1) * (double)table->elements;
	double on_device = over(optimizer_bytes(shape) * first / ranks_of(shape), rates->memory_bytes);
	double *host = arrays + 7 * (size_t)b.count, *counts = host + 3 * (size_t)b.count;
	struct away away = {counts, counts + b.count, counts + 2 * (size_t)b.count, 0};
	uint64_t cut = (uint64_t)first / PARAMETER_ALIGNED * PARAMETER_ALIGNED;
	fill_buckets(shape, table, rates, first, &b, arrays);
	if (offloading) {
		TRY(count_away(shape, table, offloading, cut, &b, &away));
		fill_host(shape, rates, &away, &b, host);
	}
	TRY(plan_pipeline(&b,
		!offloading           ? PLAN_ON_DEVICE
		: offloading->delayed ? PLAN_DELAYED
				      : PLAN_EXACT,
		&out->step));
	out->pieces = away.pieces / ranks_of(shape);
	out->lent = sum(away.lent, b.count) / ranks_of(shape) + out->pieces;
	sum_up(&b, on_device, out);
	return STATUS_OK;
}

enum status plan_predict(const struct plan_shape *shape, const struct plan_rates *rates,
	const struct offload_config *offloading, double device_share, struct plan_time *out)
{
	struct parameter_table table;
	double *arrays;
	*out = (struct plan_time){0};
	TRY(model_config_check(&shape->model));
	TRY(parameter_table_open(&shape->model, &table));
	enum status status = memory_alloc((void **)&arrays, 13 * ((size_t)shape->model.layers + 1),
		sizeof *arrays, "the plan of a step");
	if (status == STATUS_OK)
		status = predict(shape, rates, &table, offloading, device_share, arrays, out);
	free(arrays);
	parameter_table_close(&table);
	return status;
}
