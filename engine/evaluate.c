#include "engine/evaluate.h"

#include "common/clock.h"
#include "common/memory.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What a rank tells of a batch. */
struct batch_sums {
	uint64_t counted, bytes;
	double losses[]; /* [batch] of its windows; 0 of those that are not there */
};

struct evaluation {
	const struct evaluate_config *config;
	struct kernels *k;
	int vocabulary;
	uint64_t targets, stride;
	int32_t *tokens;               /* [window + 1], host */
	int32_t *inputs, *wanted;      /* [batch][window], host */
	float *losses;                 /* [batch][window], host */
	int32_t *k_inputs, *k_targets; /* the same in the kernels' memory */
	float *k_losses;
	struct collective *ranks;
	struct batch_sums *own; /* the batch's, of this rank */
	double sum;             /* of all ranks, as the two below */
	uint64_t counted, bytes;
};

static uint64_t window_count(const struct evaluation *e)
{
	uint64_t T = (uint64_t)e->config->window;
	return e->targets <= T ? 1 : 1 + (e->targets - T + e->stride - 1) / e->stride;
}

/* Row `row` of the batch := window w. Targets already counted by the window before are -1. */
static enum status fill_row(struct evaluation *e, int row, uint64_t w)
{
	const struct evaluate_config *c = e->config;
	uint64_t T = (uint64_t)c->window, start = w * e->stride;
	uint64_t length = e->targets - start < T ? e->targets - start : T;
	uint64_t skip = w ? T - e->stride : 0;
	TRY(corpus_read_in_order(c->corpus, c->first_token + start, length + 1, e->tokens));
	for (uint64_t i = 0; i <= length; i++)
		FAIL_IF(e->tokens[i] < 0 || e->tokens[i] >= e->vocabulary, STATUS_MISMATCH,
			"token %" PRIu64
			" of the corpus has id %d, but the model's vocabulary has %d ids; the "
			"corpus was made for another tokenizer",
			c->first_token + start + i, e->tokens[i], e->vocabulary);
	int32_t *inputs = e->inputs + (size_t)row * T, *wanted = e->wanted + (size_t)row * T;
	for (uint64_t i = 0; i < T; i++) {
		bool counts = i >= skip && i < length;
		inputs[i] = i < length ? e->tokens[i] : 0;
		wanted[i] = counts ? e->tokens[i + 1] : -1;
		if (counts) {
			e->own->counted++;
			e->own->bytes += c->token_bytes[e->tokens[i + 1]];
		}
	}
	return STATUS_OK;
}

static enum status run_batch(struct evaluation *e, struct model *model, const void *weights, int rows)
{
	struct kernels *k = e->k;
	int T = e->config->window;
	size_t count = (size_t)rows * (size_t)T;
	k->copy_in(k, NULL, e->k_inputs, e->inputs, count * sizeof *e->inputs);
	k->copy_in(k, NULL, e->k_targets, e->wanted, count * sizeof *e->wanted);
	struct model_batch batch = {
		.inputs = e->k_inputs, .targets = e->k_targets, .batch = rows, .sequence = T};
	TRY(model_evaluate(model, weights, &batch, e->k_losses));
	k->copy_out(k, NULL, e->losses, e->k_losses, count * sizeof *e->losses);
	TRY(k->stream_wait(k, NULL));
	for (size_t i = 0; i < count; i++)
		if (e->wanted[i] >= 0)
			e->own->losses[i / (size_t)T] += (double)e->losses[i];
	return STATUS_OK;
}

static size_t sums_bytes(const struct evaluation *e)
{
	return sizeof *e->own + (size_t)e->config->batch * sizeof *e->own->losses;
}

/* A batch of windows from `first` on, as many as there are: none, where there are more ranks than batches. */
static enum status run_own(
	struct evaluation *e, struct model *model, const void *weights, uint64_t first, uint64_t windows)
{
	int rows = 0;
	memset(e->own, 0, sums_bytes(e));
	for (; rows < e->config->batch && first + (uint64_t)rows < windows; rows++)
		TRY(fill_row(e, rows, first + (uint64_t)rows));
	return rows ? run_batch(e, model, weights, rows) : STATUS_OK;
}

/* The ranks' batches follow each other as their windows do. */
static enum status add_all(struct evaluation *e)
{
	size_t bytes = sums_bytes(e);
	char *all;
	TRY(collective_gather(e->ranks, e->own, bytes, (void **)&all));
	for (int r = 0; r < e->ranks->ranks; r++) {
		const struct batch_sums *one = (const void *)(all + (size_t)r * bytes);
		e->counted += one->counted;
		e->bytes += one->bytes;
		for (int row = 0; row < e->config->batch; row++)
			e->sum += one->losses[row];
	}
	free(all);
	return STATUS_OK;
}

static enum status run_windows(struct evaluation *e, struct model *model, const void *weights)
{
	const struct evaluate_config *c = e->config;
	uint64_t windows = window_count(e), batch = (uint64_t)c->batch;
	uint64_t own = (uint64_t)e->ranks->rank * batch, all = (uint64_t)e->ranks->ranks * batch;
	for (uint64_t w = 0; w < windows; w += all) {
		TRY(collective_agree(e->ranks, run_own(e, model, weights, w + own, windows)));
		TRY(add_all(e));
		if (c->progress)
			TRY(c->progress(c->user, e->counted, e->targets, e->sum / (double)e->counted));
	}
	return STATUS_OK;
}

static enum status take_memory(struct evaluation *e, size_t count)
{
	struct kernels *k = e->k;
	size_t window = (size_t)e->config->window;
	TRY(memory_alloc((void **)&e->tokens, window + 1, sizeof *e->tokens, "a window's tokens"));
	TRY(memory_alloc((void **)&e->own, 1, sums_bytes(e), "a batch's sums"));
	TRY(k->host_alloc(k, (void **)&e->inputs, count * sizeof *e->inputs, "a batch"));
	TRY(k->host_alloc(k, (void **)&e->wanted, count * sizeof *e->wanted, "a batch"));
	TRY(k->host_alloc(k, (void **)&e->losses, count * sizeof *e->losses, "a batch's losses"));
	TRY(k->memory_alloc(k, (void **)&e->k_inputs, count * sizeof *e->inputs, "a batch"));
	TRY(k->memory_alloc(k, (void **)&e->k_targets, count * sizeof *e->wanted, "a batch"));
	return k->memory_alloc(k, (void **)&e->k_losses, count * sizeof *e->losses, "a batch's losses");
}

static void release(struct evaluation *e, size_t count)
{
	struct kernels *k = e->k;
	size_t bytes = count * sizeof(int32_t);
	_Static_assert(sizeof(int32_t) == sizeof(float), "one size for all");
	void *host[] = {e->inputs, e->wanted, e->losses},
	     *device[] = {e->k_inputs, e->k_targets, e->k_losses};
	for (int i = 0; i < 3; i++) {
		if (host[i])
			k->host_free(k, host[i], bytes);
		if (device[i])
			k->memory_free(k, device[i], bytes);
	}
	free(e->tokens);
	free(e->own);
}

enum status evaluate_run(struct model *model, struct kernels *kernels, const void *weights,
	const struct evaluate_config *config, struct evaluate_result *result)
{
	FAIL_IF(config->tokens < 2, STATUS_USAGE,
		"%" PRIu64
		" tokens to evaluate on; at least 2 are needed (one to predict from, one to predict)",
		config->tokens);
	FAIL_IF(config->batch < 1 || config->window < 1, STATUS_USAGE,
		"a batch of %d windows of %d tokens; both must be at least 1", config->batch, config->window);
	FAIL_IF(config->stride < 0 || config->stride > config->window, STATUS_USAGE,
		"windows of %d tokens cannot move on by %d; the stride must be 1 to %d", config->window,
		config->stride, config->window);
	double begin = clock_seconds();
	struct collective alone = collective_open_single();
	struct evaluation e = {
		.config = config,
		.k = kernels,
		.ranks = config->ranks ? config->ranks : &alone,
		.vocabulary = model_parameters(model)->items[PARAMETER_WTE].file_rows,
		.targets = config->tokens - 1,
		.stride = (uint64_t)(config->stride ? config->stride : config->window),
	};
	size_t count = (size_t)config->batch * (size_t)config->window;
	enum status status = collective_agree(e.ranks, take_memory(&e, count));
	if (status == STATUS_OK)
		status = run_windows(&e, model, weights);
	release(&e, count);
	TRY(status);
	double loss = e.sum / (double)e.counted;
	*result = (struct evaluate_result){
		.targets = e.counted,
		.bytes = e.bytes,
		.loss = loss,
		.perplexity = exp(loss < 20 ? loss : 20),
		.bits_per_byte = e.bytes ? e.sum / M_LN2 / (double)e.bytes : 0,
		.seconds = clock_seconds() - begin,
	};
	return STATUS_OK;
}
