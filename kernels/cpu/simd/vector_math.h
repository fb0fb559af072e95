/*
 * vector_math.h: exp and GELU for loops that the compiler turns into vector code; f32, within 2 ulp.
 *
 * No branches and no table. Included by files under simd/ only: the fused multiply-add is used where the
 * instruction set has it.
 */
#ifndef KERNELS_CPU_SIMD_VECTOR_MATH_H
#define KERNELS_CPU_SIMD_VECTOR_MATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define VECTOR_INLINE static inline __attribute__((always_inline, unused))

#if defined(__FMA__) || defined(__aarch64__)
#define VECTOR_FMA(a, b, c) __builtin_fmaf(a, b, c)
#else
#define VECTOR_FMA(a, b, c) ((a) * (b) + (c))
#endif

VECTOR_INLINE uint32_t vector_bits(float x)
{
	uint32_t bits;
	memcpy(&bits, &x, sizeof bits);
	return bits;
}

VECTOR_INLINE float vector_float(uint32_t bits)
{
	float x;
	memcpy(&x, &bits, sizeof x);
	return x;
}

/*
 * e^x; below -87.33 it is 0 and above 88.37 it stays at e^88.37. NaN stays NaN.
 * x = n ln 2 + r, |r| <= ln 2 / 2; a polynomial for e^r (Taylor's to degree 7, whose remainder is below
 * 1e-8); n goes into the exponent. Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
 */
VECTOR_INLINE float vector_exp(float x)
{
	float bounded = x > 88.37f ? 88.37f : x;
	bounded = bounded < -87.33f ? -87.33f : bounded;
	float shifted = VECTOR_FMA(bounded, 1.44269504088896341f, 12582912.0f);
	float n = shifted - 12582912.0f;
	float r =
		VECTOR_FMA(n, -0.693145751953125f, bounded); /* ln 2 in two parts, the first exact times n */
	r = VECTOR_FMA(n, -1.42860682030941723e-6f, r);
	float p = 1.0f / 5040;
	p = VECTOR_FMA(p, r, 1.0f / 720);
	p = VECTOR_FMA(p, r, 1.0f / 120);
	p = VECTOR_FMA(p, r, 1.0f / 24);
	p = VECTOR_FMA(p, r, 1.0f / 6);
	p = VECTOR_FMA(p, r, 0.5f);
	p = VECTOR_FMA(p, r, 1.0f);
	p = VECTOR_FMA(p, r, 1.0f);
	float result = p * vector_float((vector_bits(shifted) + 127u) << 23);
	return x < -87.33f ? 0.0f : result;
}

#define GELU_SCALE 0.79788456080286536f /* sqrt(2 / pi) */
#define GELU_CUBIC 0.044715f

/* x/2 (1 + tanh u) = x / (1 + e^-2u),  u = sqrt(2/pi) (x + 0.044715 x^3). */
VECTOR_INLINE float vector_gelu(float x)
{
	float u = GELU_SCALE * x * VECTOR_FMA(GELU_CUBIC * x, x, 1.0f);
	return x / (1.0f + vector_exp(-2.0f * u));
}

/* With s = 1 / (1 + e^-2u): s + x s (1 - s) 2 u'. 1 - s is e^-2u s, which does not cancel. */
VECTOR_INLINE float vector_gelu_slope(float x)
{
	float square = x * x;
	float u = GELU_SCALE * x * VECTOR_FMA(GELU_CUBIC, square, 1.0f);
	float e = vector_exp(-2.0f * u), s = 1.0f / (1.0f + e);
	float slope = 2.0f * GELU_SCALE * VECTOR_FMA(3.0f * GELU_CUBIC, square, 1.0f);
	return VECTOR_FMA(x * slope, s * (e * s), s);
}

#endif
