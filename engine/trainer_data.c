/* The trainer's windows: which corpora, in which order, and what of them a step gets. */
#include "engine/trainer_parts.h"

#include "common/log.h"

#include <inttypes.h>

enum { LOADER_THREADS = 1 };

int trainer_source_count(const struct trainer_config *c)
{
	return c->sources ? c->source_count : 1;
}

struct trainer_source trainer_source_of(const struct trainer_config *c, int i)
{
	return c->sources ? c->sources[i] : (struct trainer_source){c->corpus, 1};
}

static const char *part_purpose(enum split_part part)
{
	return part == SPLIT_VALID ? "validation" : "a test at the end";
}

/* Windows until one of the corpora would repeat, `wanted` at most. */
static uint64_t count_evaluation(struct mixture *mixture, uint64_t wanted)
{
	uint64_t windows = 0;
	if (mixture->count == 1)
		windows = sampler_epoch_windows(&mixture->sources[0].sampler, 0, &(uint64_t){0});
	else
		while (windows < wanted && mixture_get(mixture, windows).epoch == 0)
			windows++;
	return windows < wanted ? windows : wanted;
}

/* Those corpora whose part is long enough for a window. */
static enum status open_evaluation(
	struct trainer *t, enum split_part part, struct split_range ranges[MIXTURE_LIMIT][SPLIT_PARTS])
{
	const struct trainer_config *c = &t->config;
	struct mixture_source sources[MIXTURE_LIMIT];
	int count = 0;
	for (int i = 0; i < t->source_count; i++) {
		struct mixture_source *source = &sources[count];
		*source = t->sources[i];
		if (sampler_open(&source->sampler, &ranges[i][part], part, c->window_tokens, c->seed,
			    false) == STATUS_OK)
			count++;
		else if (t->source_count == 1)
			log_warn("%s; going on without %s", error_message(), part_purpose(part));
		else
			log_warn("%s: %s; going on without this corpus in %s",
				corpus_directory(source->corpus), error_message(), part_purpose(part));
	}
	if (!count)
		return STATUS_OK;
	TRY(mixture_open(&t->evaluation[part], sources, count));
	t->evaluation_windows[part] = count_evaluation(&t->evaluation[part], c->eval_iters * c->global_batch);
	return STATUS_OK;
}

/* A training split that is too short for a window is an error; another part is left out. */
enum status trainer_open_samplers(struct trainer *t)
{
	struct split_shares shares;
	struct split_range ranges[MIXTURE_LIMIT][SPLIT_PARTS];
	const struct trainer_config *c = &t->config;
	TRY(split_parse(c->split, &shares));
	t->source_count = trainer_source_count(c);
	for (int i = 0; i < t->source_count; i++) {
		struct trainer_source source = trainer_source_of(c, i);
		t->sources[i] = (struct mixture_source){.corpus = source.corpus, .share = source.share};
		TRY(split_corpus(source.corpus, &shares, ranges[i]));
		enum status status = sampler_open(&t->sources[i].sampler, &ranges[i][SPLIT_TRAIN],
			SPLIT_TRAIN, c->window_tokens, mixture_seed(c->seed, i), true);
		if (status != STATUS_OK)
			return error_context(status, "%s", corpus_directory(source.corpus));
	}
	TRY(mixture_open(&t->mixture, t->sources, t->source_count));
	for (int part = SPLIT_VALID; part < SPLIT_PARTS && c->eval_interval; part++)
		TRY(open_evaluation(t, (enum split_part)part, ranges));
	return STATUS_OK;
}

enum status trainer_open_loader(struct trainer *t)
{
	const struct trainer_config *c = &t->config;
	struct loader_config loader = {.mixture = &t->mixture,
		.first_ordinal = t->state.ordinal,
		.global_batch = c->global_batch,
		.micro_batch = c->micro_batch,
		.rank = t->ranks->rank,
		.ranks = t->ranks->ranks,
		.threads = LOADER_THREADS,
		.depth = (int)(t->local_batch / c->micro_batch < 64 ? t->local_batch / c->micro_batch + 1
								    : 64)};
	return loader_open(&loader, &t->loader);
}

/* A window of T + 1 tokens to T inputs and T targets; returns how many targets count. */
enum status trainer_split_window(
	const struct trainer *t, const int32_t *tokens, int32_t *inputs, int32_t *targets, uint64_t *counted)
{
	int32_t vocabulary = t->config.model.vocabulary;
	int32_t eod = (int32_t)corpus_get_info(t->config.corpus)->eod;
	for (uint64_t i = 0; i <= t->config.window_tokens; i++)
		FAIL_IF(tokens[i] < 0 || tokens[i] >= vocabulary, STATUS_CORRUPT,
			"%s: token %d is outside the vocabulary of %d; run `ferry verify` on the corpus",
			corpus_directory(t->config.corpus), tokens[i], vocabulary);
	for (uint64_t i = 0; i < t->config.window_tokens; i++) {
		bool counts = !(t->config.eod_mask_loss && tokens[i] == eod);
		inputs[i] = tokens[i];
		targets[i] = counts ? tokens[i + 1] : -1;
		*counted += counts;
	}
	return STATUS_OK;
}

/* This rank's windows. */
static enum status gather_own(struct trainer *t, struct trainer_gathered *out)
{
	uint64_t tokens = t->config.window_tokens, micro = t->config.micro_batch;
	for (uint64_t at = 0; at < t->local_batch; at += micro) {
		struct loader_batch batch;
		TRY(loader_next(t->loader, &batch));
		if (at == 0)
			out->first_ordinal = batch.windows[0].ordinal;
		for (uint64_t w = 0; w < micro; w++)
			TRY(trainer_split_window(t, batch.tokens + w * (tokens + 1),
				t->inputs + (at + w) * tokens, t->targets + (at + w) * tokens,
				&out->counted));
		for (uint64_t w = 0; w < micro; w++)
			t->new_epoch[batch.windows[w].source] = batch.windows[w].epoch;
		out->last_epoch = batch.windows[micro - 1].epoch;
	}
	return STATUS_OK;
}

/* What the others' windows add: targets, and epochs that begin with them. The last window is the last rank's. */
static enum status gather_others(struct trainer *t, struct trainer_gathered *out)
{
	double counted = (double)out->counted, epochs[MIXTURE_LIMIT + 1];
	bool last = t->ranks->rank == t->ranks->ranks - 1;
	for (int i = 0; i < t->source_count; i++)
		epochs[i] = (double)t->new_epoch[i];
	epochs[t->source_count] = last ? (double)out->last_epoch : 0;
	TRY(collective_sum(t->ranks, &counted, 1));
	TRY(collective_maximum(t->ranks, epochs, t->source_count + 1));
	for (int i = 0; i < t->source_count; i++)
		t->new_epoch[i] = (uint64_t)epochs[i];
	out->last_epoch = (uint64_t)epochs[t->source_count];
	out->counted = (uint64_t)counted;
	return STATUS_OK;
}

/* All windows of the step: their targets must be counted before the first gradient is scaled. */
enum status trainer_gather(struct trainer *t, struct trainer_gathered *out)
{
	*out = (struct trainer_gathered){0};
	TRY(collective_agree(t->ranks, gather_own(t, out)));
	return t->ranks->ranks > 1 ? gather_others(t, out) : STATUS_OK;
}

/* Where the corpora stand after a step. */
void trainer_tell_positions(struct trainer *t)
{
	struct sampler_position positions[MIXTURE_LIMIT];
	mixture_tell(&t->mixture, t->state.ordinal, positions);
	mixture_epochs(&t->mixture, t->state.ordinal, t->epochs);
	for (int i = 0; i < t->source_count; i++)
		t->state.sources[i].position = positions[i];
}

void trainer_notice_epochs(struct trainer *t)
{
	for (int i = 0; i < t->source_count; i++) {
		if (t->new_epoch[i] > t->epoch[i])
			log_info("iteration %" PRIu64 ": all windows of the training split%s%s have been "
				 "seen; epoch %" PRIu64 " begins, the corpus is repeated",
				t->state.step, t->source_count > 1 ? " of " : "",
				t->source_count > 1 ? corpus_directory(t->sources[i].corpus) : "",
				t->new_epoch[i] + 1);
		if (t->new_epoch[i] > t->epoch[i])
			t->epoch[i] = t->new_epoch[i];
	}
}
