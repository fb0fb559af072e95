/*
 * vector_math.h: exp and GELU for loops that the compiler turns into vector code; f32, within 2 ulp.
 *
 * No branches and no table. Included by files under simd/ only: the fused multiply-add is used where the
 * instruction set has it. The span_ functions at the end are those loops; with AVX-512, which has instructions
 * for two of exp's steps that C has no words for, they take about half the time.
 */
#ifndef KERNELS_CPU_SIMD_VECTOR_MATH_H
#define KERNELS_CPU_SIMD_VECTOR_MATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

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

/* ---- spans ---- */

#ifdef __AVX512F__
/* vector_exp: n is rounded by one instruction, and goes into the exponent by one. */
VECTOR_INLINE __m512 lanes_exp(__m512 x)
{
	__mmask16 above = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.33f), _CMP_NLT_UQ);
	__m512 bounded = _mm512_min_ps(_mm512_set1_ps(88.37f), x); /* in this order NaN stays */
	__m512 n = _mm512_roundscale_ps(_mm512_mul_ps(bounded, _mm512_set1_ps(1.44269504088896341f)),
		_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
	__m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-0.693145751953125f), bounded);
	r = _mm512_fmadd_ps(n, _mm512_set1_ps(-1.42860682030941723e-6f), r);
	__m512 p = _mm512_set1_ps(1.0f / 5040);
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 720));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
	return _mm512_maskz_scalef_ps(above, p, n);
}

/* s = 1 / (1 + e^-2u) of GELU, and e^-2u. */
VECTOR_INLINE __m512 lanes_gelu_sigmoid(__m512 x, __m512 *e)
{
	__m512 one = _mm512_set1_ps(1.0f), cubic = _mm512_mul_ps(_mm512_set1_ps(GELU_CUBIC), x);
	__m512 u = _mm512_mul_ps(
		_mm512_mul_ps(_mm512_set1_ps(-2 * GELU_SCALE), x), _mm512_fmadd_ps(cubic, x, one));
	*e = lanes_exp(u);
	return _mm512_div_ps(one, _mm512_add_ps(one, *e));
}
#endif

/* to = e^(x - offset), may be x; the sum. */
VECTOR_INLINE float span_exp(float *to, const float *x, float offset, int n)
{
	float sum = 0;
	int i = 0;
#ifdef __AVX512F__
	__m512 sums = _mm512_setzero_ps();
	for (; i + 16 <= n; i += 16) {
		__m512 y = lanes_exp(_mm512_sub_ps(_mm512_loadu_ps(x + i), _mm512_set1_ps(offset)));
		_mm512_storeu_ps(to + i, y);
		sums = _mm512_add_ps(sums, y);
	}
	sum = _mm512_reduce_add_ps(sums);
#endif
#pragma omp simd reduction(+ : sum)
	for (int j = i; j < n; j++) {
		to[j] = vector_exp(x[j] - offset);
		sum += to[j];
	}
	return sum;
}

VECTOR_INLINE void span_gelu(float *to, const float *x, int n)
{
	int i = 0;
#ifdef __AVX512F__
	for (; i + 16 <= n; i += 16) {
		__m512 y = _mm512_loadu_ps(x + i), e;
		_mm512_storeu_ps(to + i, _mm512_mul_ps(y, lanes_gelu_sigmoid(y, &e)));
	}
#endif
#pragma omp simd
	for (int j = i; j < n; j++)
		to[j] = vector_gelu(x[j]);
}

/* d *= gelu'(x) */
VECTOR_INLINE void span_gelu_slope(float *d, const float *x, int n)
{
	int i = 0;
#ifdef __AVX512F__
	for (; i + 16 <= n; i += 16) {
		__m512 y = _mm512_loadu_ps(x + i), e, s = lanes_gelu_sigmoid(y, &e);
		__m512 square = _mm512_mul_ps(y, y);
		__m512 slope = _mm512_fmadd_ps(
			_mm512_set1_ps(6 * GELU_SCALE * GELU_CUBIC), square, _mm512_set1_ps(2 * GELU_SCALE));
		__m512 product = _mm512_mul_ps(s, _mm512_mul_ps(e, s));
		__m512 whole = _mm512_fmadd_ps(_mm512_mul_ps(y, slope), product, s);
		_mm512_storeu_ps(d + i, _mm512_mul_ps(_mm512_loadu_ps(d + i), whole));
	}
#endif
#pragma omp simd
	for (int j = i; j < n; j++)
		d[j] *= vector_gelu_slope(x[j]);
}

#endif
