/* cuda_fp16.h: stands in for CUDA's header: IEEE half precision, conversions alone, round to nearest even. */
#ifndef TESTS_EMU_CUDA_FP16_H
#define TESTS_EMU_CUDA_FP16_H

#include <stdint.h>
#include <string.h>

struct __half {
	uint16_t bits;
};

static inline float __half2float(__half h)
{
	uint32_t sign = (uint32_t)(h.bits & 0x8000) << 16, exponent = h.bits >> 10 & 31,
		 mantissa = h.bits & 1023;
	float value;
	if (exponent == 0) {
		value = (float)mantissa * 0x1p-24f; /* zero or subnormal: exact */
		return sign ? -value : value;
	}
	uint32_t bits = sign | (exponent == 31 ? 255 : exponent + 112) << 23 | mantissa << 13;
	memcpy(&value, &bits, 4);
	return value;
}

static inline __half __float2half_rn(float x)
{
	uint32_t bits;
	memcpy(&bits, &x, 4);
	uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
	bits &= 0x7fffffff;
	if (bits > 0x7f800000)
		return {0x7fff}; /* NaN */
	if (bits >= 0x477ff000)
		return {(uint16_t)(sign | 0x7c00)}; /* 65520 and more round to infinity */
	if (bits < 0x38800000) { /* under 2^-14: the sum rounds at the last place of a subnormal half */
		float shifted;
		memcpy(&shifted, &bits, 4);
		shifted += 0.5f;
		memcpy(&bits, &shifted, 4);
		return {(uint16_t)(sign | (bits - 0x3f000000))};
	}
	uint32_t odd = bits >> 13 & 1;
	return {(uint16_t)(sign | (bits - 0x38000000 + 0xfff + odd) >> 13)};
}

#endif
