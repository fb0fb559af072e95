/*
 * rows.h: what the operations under simd/ do to a row: read it as f32, write it rounded, drop elements of it.
 *
 * Conversions to halves round to nearest even and keep NaN (made quiet), inf and subnormals.
 */
#ifndef KERNELS_CPU_SIMD_ROWS_H
#define KERNELS_CPU_SIMD_ROWS_H

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd/philox_vector.h"
#include "kernels/cpu/simd/vector_math.h"
#include "kernels/dropout.h"

#include <string.h>
#ifdef __F16C__
#include <immintrin.h>
#endif

/* ---- halves, one at a time ---- */

VECTOR_INLINE float half_from_bf16(uint16_t half)
{
	return vector_float((uint32_t)half << 16);
}

VECTOR_INLINE uint16_t half_to_bf16(float x)
{
	uint32_t bits = vector_bits(x);
	uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
	return (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 0x40 : rounded);
}

/* The exponent is re-biased by a multiplication, which also normalizes subnormals. */
VECTOR_INLINE float half_from_f16(uint16_t half)
{
	uint32_t magnitude = (uint32_t)(half & 0x7fff) << 13, sign = (uint32_t)(half & 0x8000) << 16;
	uint32_t finite = vector_bits(vector_float(magnitude) * 0x1p112f);
	uint32_t quiet = magnitude > 0x0f800000 ? 0x400000 : 0;
	uint32_t special = magnitude | 0x7f800000 | quiet;
	return vector_float(sign | (magnitude >= 0x0f800000 ? special : finite));
}

VECTOR_INLINE uint16_t half_to_f16(float x)
{
	uint32_t bits = vector_bits(x), magnitude = bits & 0x7fffffff, sign = bits >> 16 & 0x8000;
	/* Below 2^-14 the half's unit is 2^-24, that of floats from 0.5 up: adding 0.5 rounds there. */
	uint32_t subnormal = vector_bits(vector_float(magnitude) + 0.5f) - 0x3f000000;
	uint32_t normal = (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
	uint32_t infinite = 0x7c00, nan = 0x7e00 | (magnitude >> 13 & 0x3ff);
	uint32_t half = magnitude < 0x38800000 ? subnormal : normal;
	half = magnitude >= 0x477ff000 ? infinite : half;
	half = magnitude > 0x7f800000 ? nan : half;
	return (uint16_t)(sign | half);
}

/* ---- spans ---- */

VECTOR_INLINE void span_to_f32(float *restrict to, const void *from, enum dtype type, int64_t n)
{
	const uint16_t *restrict halves = from;
	int64_t i = 0;
	if (type == DTYPE_F32) {
		memcpy(to, from, (size_t)n * sizeof *to);
	} else if (type == DTYPE_BF16) {
		for (; i < n; i++)
			to[i] = half_from_bf16(halves[i]);
	} else {
#ifdef __F16C__
		for (; i + 8 <= n; i += 8)
			_mm256_storeu_ps(
				to + i, _mm256_cvtph_ps(_mm_loadu_si128((const void *)(halves + i))));
#endif
		for (; i < n; i++)
			to[i] = half_from_f16(halves[i]);
	}
}

VECTOR_INLINE void span_from_f32(void *to, enum dtype type, const float *restrict from, int64_t n)
{
	uint16_t *restrict halves = to;
	int64_t i = 0;
	if (type == DTYPE_F32) {
		memcpy(to, from, (size_t)n * sizeof *from);
	} else if (type == DTYPE_BF16) {
		for (; i < n; i++)
			halves[i] = half_to_bf16(from[i]);
	} else {
#ifdef __F16C__
		for (; i + 8 <= n; i += 8)
			_mm_storeu_si128((void *)(halves + i),
				_mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
#endif
		for (; i < n; i++)
			halves[i] = half_to_f16(from[i]);
	}
}

VECTOR_INLINE const void *element_at(const void *block, enum dtype type, size_t element)
{
	return (const char *)block + element * dtype_bytes(type);
}

/* n elements from `element` on, as f32: where they are, or in `buffer`. */
VECTOR_INLINE const float *row_read(
	float *buffer, const void *block, enum dtype type, size_t element, int64_t n)
{
	const void *from = element_at(block, type, element);
	if (type == DTYPE_F32)
		return from;
	span_to_f32(buffer, from, type, n);
	return buffer;
}

/* Where a row can be computed: in place for f32, else in `buffer`. row_write then rounds it to its place. */
VECTOR_INLINE float *row_place(float *buffer, void *block, enum dtype type, size_t element)
{
	return type == DTYPE_F32 ? (float *)block + element : buffer;
}

VECTOR_INLINE void row_write(void *block, enum dtype type, size_t element, const float *from, int64_t n)
{
	void *to = (char *)block + element * dtype_bytes(type);
	if (to != from)
		span_from_f32(to, type, from, n);
}

/* ---- dropout ---- */

/* Words come in groups of at most 32, and the first may be in the middle of a block. */
#define DROPOUT_WORDS(n) ((n) + 64)

VECTOR_INLINE bool dropout_wanted(const struct dropout *drop)
{
	return drop && drop->p > 0;
}

/* Words of elements first..first+n-1 of a sequence; the answer points into `buffer` [DROPOUT_WORDS(n)]. */
static inline __attribute__((unused)) const uint32_t *dropout_words(
	uint32_t *restrict buffer, const struct dropout *drop, uint64_t window, uint64_t first, int n)
{
	uint64_t q = first / 4;
	int skip = (int)(first % 4);
	uint64_t seed = drop->seed;
	uint32_t c1 = drop->layer << 16 | (uint32_t)drop->site << 8; /* kernels/dropout.h */
	for (int i = 0; i < skip + n; i += 4 * PHILOX_BLOCKS, q += PHILOX_BLOCKS)
		philox_blocks(buffer + i, q, c1, (uint32_t)window, (uint32_t)(window >> 32), (uint32_t)seed,
			(uint32_t)(seed >> 32));
	return buffer + skip;
}

struct dropout_factors {
	uint32_t threshold;
	float scale;
};

VECTOR_INLINE struct dropout_factors dropout_factors_of(const struct dropout *drop)
{
	struct dropout_factors f = {dropout_threshold(drop->p), 1.0f / (1.0f - drop->p)};
	return f;
}

/* to = drop(from); may be the same row. */
VECTOR_INLINE void dropout_span(
	float *to, const float *from, const uint32_t *words, struct dropout_factors f, int n)
{
#pragma omp simd
	for (int i = 0; i < n; i++)
		to[i] = words[i] >= f.threshold ? from[i] * f.scale : 0.0f;
}

#endif
