#include "engine/generate.h"

#include "common/memory.h"
#include "common/philox.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum status generate_config_check(const struct generate_config *c)
{
	FAIL_IF(c->length < 1, STATUS_USAGE, "%d tokens to generate; at least 1 (--out-seq-length)",
		c->length);
	FAIL_IF(!(c->temperature >= 0 && isfinite(c->temperature)), STATUS_USAGE,
		"a temperature of %g; it must be 0 (the likeliest token) or more", (double)c->temperature);
	FAIL_IF(c->top_k < 0, STATUS_USAGE, "top-k of %d; it must be 0 (all tokens) or more", c->top_k);
	FAIL_IF(!(c->top_p > 0 && c->top_p <= 1), STATUS_USAGE,
		"top-p of %g; it must be above 0 and at most 1", (double)c->top_p);
	return STATUS_OK;
}

/* ---- choosing ---- */

static bool likelier(struct generate_candidate a, struct generate_candidate b)
{
	return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

/* A heap with the likeliest on top: sorting only as far as the nucleus reaches. */
static void sift_down(struct generate_candidate *heap, int count, int at)
{
	struct generate_candidate moving = heap[at];
	for (int child; (child = 2 * at + 1) < count; at = child) {
		if (child + 1 < count && likelier(heap[child + 1], heap[child]))
			child++;
		if (!likelier(heap[child], moving))
			break;
		heap[at] = heap[child];
	}
	heap[at] = moving;
}

/* Moves the likeliest of heap[0 .. *live) to the end of it, out of the heap. */
static struct generate_candidate rank_next(struct generate_candidate *heap, int *live)
{
	struct generate_candidate top = heap[0];
	heap[0] = heap[--*live];
	if (*live)
		sift_down(heap, *live, 0);
	heap[*live] = top;
	return top;
}

struct weighing {
	double best, temperature;
};

static double weight_of(struct weighing w, struct generate_candidate c)
{
	return exp(((double)c.logit - w.best) / w.temperature);
}

static double weight_of_all(struct weighing w, const struct generate_candidate *c, int from, int to)
{
	double sum = 0;
	for (int i = to - 1; i >= from; i--)
		sum += weight_of(w, c[i]);
	return sum;
}

/* Where the candidates begin that top_k and top_p leave: they are all[result .. count), likeliest last. */
static int cut_off(
	struct generate_candidate *all, int count, const struct generate_config *c, struct weighing w)
{
	int kept = c->top_k > 0 && c->top_k < count ? c->top_k : count, live = count;
	if (kept == count && c->top_p >= 1)
		return 0;
	for (int i = count / 2 - 1; i >= 0; i--)
		sift_down(all, count, i);
	if (kept < count)
		while (live > count - kept)
			rank_next(all, &live);
	if (c->top_p >= 1)
		return live;
	double enough = (double)c->top_p * weight_of_all(w, all, count - kept, count), reached = 0;
	int from = count;
	while (from > count - kept && (from == count || reached < enough)) {
		if (from == live)
			rank_next(all, &live);
		reached += weight_of(w, all[--from]);
	}
	return from;
}

static double uniform(uint64_t seed, uint64_t sample, uint64_t step)
{
	struct philox_block r = philox_4x32_10((uint32_t)step, (uint32_t)(step >> 32), (uint32_t)sample,
		(uint32_t)(sample >> 32), (uint32_t)seed, (uint32_t)(seed >> 32));
	return (double)((uint64_t)r.word[0] << 21 | r.word[1] >> 11) * 0x1p-53;
}

int32_t generate_choose(const float *logits, int vocabulary, const struct generate_config *config,
	uint64_t step, struct generate_candidate *scratch)
{
	int count = 0, best = 0;
	for (int32_t v = 0; v < vocabulary; v++)
		if (isfinite(logits[v])) {
			scratch[count] = (struct generate_candidate){logits[v], v};
			if (likelier(scratch[count], scratch[best]))
				best = count;
			count++;
		}
	if (count == 0)
		return 0;
	if (config->temperature == 0)
		return scratch[best].id;
	struct weighing w = {(double)scratch[best].logit, (double)config->temperature};
	int from = cut_off(scratch, count, config, w);
	double left = uniform(config->seed, config->sample, step) * weight_of_all(w, scratch, from, count);
	for (int i = count - 1; i > from; i--) {
		left -= weight_of(w, scratch[i]);
		if (left < 0)
			return scratch[i].id;
	}
	return scratch[from].id;
}

/* ---- text ---- */

struct generation {
	struct decoder *decoder;
	const void *weights;
	int positions;
	int32_t *context; /* [positions] what the model has read, or is about to */
	int count, read;
	float *logits; /* [V] */
	struct generate_candidate *scratch;
};

static enum status read_context(struct generation *g)
{
	TRY(decoder_feed(
		g->decoder, g->weights, g->context + g->read, g->count - g->read, g->read, g->logits));
	g->read = g->count;
	return STATUS_OK;
}

/* A full context first forgets all but its last half, which is then read anew. */
static void append(struct generation *g, int32_t token)
{
	if (g->count == g->positions) {
		int keep = g->positions / 2;
		memmove(g->context, g->context + g->count - keep, (size_t)keep * sizeof *g->context);
		g->count = keep;
		g->read = 0;
	}
	g->context[g->count++] = token;
}

static enum status begin(
	struct generation *g, const int32_t *prompt, size_t count, const struct generate_config *config)
{
	int V = decoder_config(g->decoder)->vocabulary;
	FAIL_IF(count == 0 && (config->eod < 0 || config->eod >= V), STATUS_USAGE,
		"an empty prompt, and no end-of-document token to begin with; give a prompt");
	for (size_t i = 0; i < count; i++)
		FAIL_IF(prompt[i] < 0 || prompt[i] >= V, STATUS_MISMATCH,
			"token %d of the prompt has id %d, but the model's vocabulary ends at %d; the "
			"tokenizer is "
			"not this model's",
			(int)i, prompt[i], V - 1);
	size_t room = (size_t)g->positions, skipped = count > room ? count - room : 0;
	for (size_t i = skipped; i < count; i++)
		append(g, prompt[i]);
	if (count == 0)
		append(g, config->eod);
	return STATUS_OK;
}

static enum status run(struct generation *g, const int32_t *prompt, size_t count,
	const struct generate_config *config, generate_token *told, void *user)
{
	int V = decoder_config(g->decoder)->vocabulary;
	TRY(memory_alloc((void **)&g->context, (size_t)g->positions, sizeof *g->context, "the context"));
	TRY(memory_alloc((void **)&g->logits, (size_t)V, sizeof *g->logits, "logits"));
	TRY(memory_alloc((void **)&g->scratch, (size_t)V, sizeof *g->scratch, "candidates"));
	TRY(begin(g, prompt, count, config));
	for (int n = 0; n < config->length; n++) {
		TRY(read_context(g));
		int32_t token = generate_choose(g->logits, V, config, (uint64_t)n, g->scratch);
		if (token == config->eod)
			break;
		TRY(told(user, token));
		append(g, token);
	}
	return STATUS_OK;
}

enum status generate_text(struct decoder *decoder, const void *weights, const int32_t *prompt, size_t count,
	const struct generate_config *config, generate_token *told, void *user)
{
	TRY(generate_config_check(config));
	struct generation g = {
		.decoder = decoder, .weights = weights, .positions = decoder_config(decoder)->positions};
	enum status status = run(&g, prompt, count, config, told, user);
	free(g.context);
	free(g.logits);
	free(g.scratch);
	return status;
}
