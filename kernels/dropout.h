/*
 * dropout.h: the arithmetic of dropout, written once for every backend (plain C that CUDA takes too).
 *
 * Element e of sequence w (window number in the run), layer l, site t, uses word e % 4 of the Philox block
 * with counter = { low32(q), l << 16 | t << 8 | q >> 32, low32(w), high32(w) },  key = { low32(seed),
 * high32(seed) } where q = e / 4 < 2^40 and l < 2^16. Elements: embedding and branch outputs t * C + c;
 * attention (h * T + i) * T + j.
 */
#ifndef KERNELS_DROPOUT_H
#define KERNELS_DROPOUT_H

#include "common/philox.h"

/* Kept if the word is at least this: p * 2^32 rounded down. */
PHILOX_FUNCTION uint32_t dropout_threshold(float p)
{
	double scaled = (double)p * 4294967296.0;
	return scaled >= 4294967295.0 ? 4294967295u : (uint32_t)scaled;
}

/* Words of elements 4q..4q+3. */
PHILOX_FUNCTION struct philox_block dropout_block(
	uint64_t seed, uint64_t window, uint32_t layer, uint32_t site, uint64_t q)
{
	return philox_4x32_10((uint32_t)q, layer << 16 | site << 8 | (uint32_t)(q >> 32), (uint32_t)window,
		(uint32_t)(window >> 32), (uint32_t)seed, (uint32_t)(seed >> 32));
}

#endif
