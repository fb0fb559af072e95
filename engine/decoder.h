/*
 * decoder.h: GPT-2's forward for generation, with a key/value cache.
 *
 * The cache holds `positions` tokens for each of `batch` sequences, which all stand at the same position:
 * 2 * layers * batch * positions * hidden elements of act in the kernels' memory. Feeding position p again
 * overwrites what was there, so going back to 0 starts afresh. Weights are the caller's flat array
 * (engine/parameters.h). One thread at a time per decoder.
 */
#ifndef ENGINE_DECODER_H
#define ENGINE_DECODER_H

#include "engine/parameters.h"
#include "kernels/kernels.h"

struct decoder;

/* Uses the table alone or beside a model: reserves its scratch for its own shapes. */
enum status decoder_open(
	const struct model_config *config, struct kernels *kernels, int batch, struct decoder **out) MUST_USE;
void decoder_close(struct decoder *decoder);
const struct model_config *decoder_config(const struct decoder *decoder);

/*
 * Feeds `count` tokens a sequence at positions position .. position + count - 1 (all positions before must
 * have been fed) and gives the logits that follow the last: f32 [batch][V], host memory; NULL: not wanted.
 * Long inputs go through the matrix products many rows at a time. Tokens are in host memory, in [0, V).
 * Waits for the result. Beyond the last position is STATUS_USAGE.
 */
enum status decoder_feed(struct decoder *decoder, const void *weights,
	const int32_t *tokens /* [count][batch] */, int count, int position, float *logits) MUST_USE;

#endif
