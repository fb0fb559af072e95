#include "engine/document_masks.h"

#include <stddef.h>

void document_masks(
	const int32_t *tokens, int batch, int count, int32_t eod, int32_t *first, int32_t *positions)
{
	for (int b = 0; b < batch; b++) {
		const size_t row = (size_t)b * (size_t)count;
		int32_t begin = 0;
		for (int32_t i = 0; i < count; i++) {
			if (first)
				first[row + (size_t)i] = begin;
			if (positions)
				positions[row + (size_t)i] = i - begin;
			if (tokens[row + (size_t)i] == eod)
				begin = i + 1;
		}
	}
}
