/*
 * document_masks.h: keeping the documents of a window apart (--reset-attention-mask, --reset-position-ids).
 *
 * A window holds documents back to back, each ending in EOD; its first may have begun before it, its last may
 * go on behind it. A token belongs to the document that its EOD ends, EOD itself included:
 *
 *    tokens       a   b  EOD  c  EOD EOD  d   e
 *    first        0   0   0   3   3   5   6   6     attention sees columns first..own (model.h)
 *    positions    0   1   2   0   1   0   0   1     own column - first
 *
 * This is Megatron-LM's rule. Pure; any thread.
 */
#ifndef ENGINE_DOCUMENT_MASKS_H
#define ENGINE_DOCUMENT_MASKS_H

#include <stdint.h>

/* Either result may be NULL. Tokens that are inputs: without the window's last, which is a target only. */
void document_masks(const int32_t *tokens /* [batch][count] */, int batch, int count, int32_t eod,
	int32_t *first /* [batch][count] */, int32_t *positions /* [batch][count] */);

#endif
