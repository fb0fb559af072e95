/*
 * generate.h: text out of a model, token by token.
 *
 * Choosing: the logits are divided by the temperature; the top_k likeliest ids remain (0: all); of those, the
 * likeliest whose probabilities reach top_p together (1: all; the one that reaches it is included); one is
 * drawn in proportion to its probability. Temperature 0 takes the likeliest, whatever the rest. Equal logits
 * rank by id. The draw for the n-th new token of sample s is Philox(seed; s, n), so a sample depends on its
 * own number alone, not on how many there are.
 *
 * Context: the model sees at most `positions` tokens. When they are used up, generation goes on with the last
 * positions / 2 tokens, read anew from position 0; so the text may be longer than the context. Of a longer
 * prompt the last `positions` tokens are read. An empty prompt begins like a document in training: after an
 * end-of-document token.
 */
#ifndef ENGINE_GENERATE_H
#define ENGINE_GENERATE_H

#include "engine/decoder.h"

struct generate_config {
	int length; /* new tokens at most */
	float temperature;
	int top_k;
	float top_p;
	uint64_t seed, sample;
	int32_t eod; /* ends the text, and is not given out; no id of the model: nothing ends it (then an empty prompt
			fails) */
};

/* What is wrong with a configuration, before anything is read. */
enum status generate_config_check(const struct generate_config *config) MUST_USE;

/* Told each new token; another status than STATUS_OK stops and is returned. */
typedef enum status generate_token(void *user, int32_t token);

/* The decoder must be for a batch of 1. */
enum status generate_text(struct decoder *decoder, const void *weights, const int32_t *prompt /* [count] */,
	size_t count, const struct generate_config *config, generate_token *told, void *user) MUST_USE;

/*
 * The choice alone: the id for the `step`-th new token. `scratch` is the caller's, for vocabulary ids.
 * Logits that are not finite are never chosen; if none is finite, id 0 is.
 */
struct generate_candidate {
	float logit;
	int32_t id;
};
int32_t generate_choose(const float *logits /* [vocabulary] */, int vocabulary,
	const struct generate_config *config, uint64_t step,
	struct generate_candidate *scratch /* [vocabulary] */);

#endif
