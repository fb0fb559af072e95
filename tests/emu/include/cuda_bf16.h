/* cuda_bf16.h: stands in for CUDA's header: bfloat16, conversions alone, round to nearest even. */
#ifndef TESTS_EMU_CUDA_BF16_H
#define TESTS_EMU_CUDA_BF16_H

#include <stdint.h>
#include <string.h>

struct __nv_bfloat16 {
	uint16_t bits;
};

static inline float __bfloat162float(__nv_bfloat16 h)
{
	uint32_t bits = (uint32_t)h.bits << 16;
	float value;
	memcpy(&value, &bits, 4);
	return value;
}

static inline __nv_bfloat16 __float2bfloat16_rn(float x)
{
	uint32_t bits;
	memcpy(&bits, &x, 4);
	if ((bits & 0x7fffffff) > 0x7f800000)
		return {0x7fff}; /* NaN */
	return {(uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

#endif
