/*
 * evaluate.h: the loss of a model on a stretch of a corpus, every target once.
 *
 * A stretch of N tokens has N - 1 targets: every token but the first. Windows of `window` inputs cut it.
 * Without overlap window k reads tokens [kT, kT + T) and predicts [kT + 1, kT + T]: a window's first target
 * is predicted from its first token alone. With stride S < T windows begin every S tokens; the first counts
 * all its targets, the next ones only the last S, so each target but the first T has at least T - S tokens
 * before it (what Megatron-LM calls overlapping evaluation). The last window is as long as the stretch lets
 * it be. No dropout.
 *
 * Losses are f32 a token, summed in double, those of a window, then the windows' in their order: the result does not
 * depend on the batch but for the rounding of matrix products, and not at all on the ranks.
 */
#ifndef ENGINE_EVALUATE_H
#define ENGINE_EVALUATE_H

#include "data/loader.h"
#include "engine/collective.h"
#include "engine/model.h"

struct evaluate_config {
	struct corpus *corpus;
	uint64_t first_token, tokens; /* the stretch; at least 2 tokens */
	int batch, window;            /* the model's options must allow both */
	int stride;                   /* 1..window; 0: window */
	const uint16_t *token_bytes;  /* [vocabulary] bytes of text a token stands for */
	/* Batch i is rank (i modulo the ranks)'s; all get the same result, and fail alike (collective.h). NULL: alone. */
	struct collective *ranks;
	/* Called after each batch, of ranks after a batch of each (may be NULL); another status than STATUS_OK stops and is
	 * returned: of ranks, all must say the same. */
	enum status (*progress)(void *user, uint64_t done, uint64_t targets, double loss_so_far);
	void *user;
};

struct evaluate_result {
	uint64_t targets;
	uint64_t bytes;       /* of text, of the targets */
	double loss;          /* nats a target */
	double perplexity;    /* exp(min(20, loss)), as Megatron-LM prints it */
	double bits_per_byte; /* 0 where there are no bytes */
	double seconds;
};

/* `kernels` is the model's. */
enum status evaluate_run(struct model *model, struct kernels *kernels, const void *weights,
	const struct evaluate_config *config, struct evaluate_result *result) MUST_USE;

#endif
