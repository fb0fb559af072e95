/*
 * philox_vector.h: Philox4x32-10 (common/philox.h), several blocks at once.
 *
 * A 64-bit lane holds one word of one block in its lower half; what is in the upper half does not matter,
 * since multiplication reads the lower halves alone. So a round is two multiplications, two shifts and four
 * XORs.
 */
#ifndef KERNELS_CPU_SIMD_PHILOX_VECTOR_H
#define KERNELS_CPU_SIMD_PHILOX_VECTOR_H

#include "common/philox.h"

#if defined(__AVX512F__)
#include <immintrin.h>
typedef __m512i philox_lanes;
enum { PHILOX_BLOCKS = 8 };
#define PHILOX_FILL(x)        _mm512_set1_epi64((long long)(x))
#define PHILOX_MULTIPLY(a, b) _mm512_mul_epu32(a, b)
#define PHILOX_HIGH(a)        _mm512_srli_epi64(a, 32)
#define PHILOX_UP(a)          _mm512_slli_epi64(a, 32)
#define PHILOX_XOR(a, b, c)   _mm512_ternarylogic_epi64(a, b, c, 0x96)
#define PHILOX_JOIN(low, up)  _mm512_mask_blend_epi32(0xaaaa, low, PHILOX_UP(up))
#define PHILOX_ADD(a, b)      _mm512_add_epi64(a, b)
#define PHILOX_FIRST(a, b)    _mm512_unpacklo_epi64(a, b)
#define PHILOX_SECOND(a, b)   _mm512_unpackhi_epi64(a, b)
#define PHILOX_STORE(to, x)   _mm512_storeu_si512(to, x)
#define PHILOX_ORDER          _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7)
#elif defined(__AVX2__)
#include <immintrin.h>
typedef __m256i philox_lanes;
enum { PHILOX_BLOCKS = 4 };
#define PHILOX_FILL(x)        _mm256_set1_epi64x((long long)(x))
#define PHILOX_MULTIPLY(a, b) _mm256_mul_epu32(a, b)
#define PHILOX_HIGH(a)        _mm256_srli_epi64(a, 32)
#define PHILOX_UP(a)          _mm256_slli_epi64(a, 32)
#define PHILOX_XOR(a, b, c)   _mm256_xor_si256(_mm256_xor_si256(a, b), c)
#define PHILOX_JOIN(low, up)  _mm256_blend_epi32(low, PHILOX_UP(up), 0xaa)
#define PHILOX_ADD(a, b)      _mm256_add_epi64(a, b)
#define PHILOX_FIRST(a, b)    _mm256_unpacklo_epi64(a, b)
#define PHILOX_SECOND(a, b)   _mm256_unpackhi_epi64(a, b)
#define PHILOX_STORE(to, x)   _mm256_storeu_si256((__m256i *)(void *)(to), x)
#define PHILOX_ORDER          _mm256_setr_epi64x(0, 2, 1, 3)
#elif defined(__SSE2__)
#include <emmintrin.h>
typedef __m128i philox_lanes;
enum { PHILOX_BLOCKS = 2 };
#define PHILOX_FILL(x)        _mm_set1_epi64x((long long)(x))
#define PHILOX_MULTIPLY(a, b) _mm_mul_epu32(a, b)
#define PHILOX_HIGH(a)        _mm_srli_epi64(a, 32)
#define PHILOX_UP(a)          _mm_slli_epi64(a, 32)
#define PHILOX_XOR(a, b, c)   _mm_xor_si128(_mm_xor_si128(a, b), c)
#define PHILOX_JOIN(low, up)  _mm_or_si128(_mm_and_si128(low, PHILOX_FILL(0xffffffff)), PHILOX_UP(up))
#define PHILOX_ADD(a, b)      _mm_add_epi64(a, b)
#define PHILOX_FIRST(a, b)    _mm_unpacklo_epi64(a, b)
#define PHILOX_SECOND(a, b)   _mm_unpackhi_epi64(a, b)
#define PHILOX_STORE(to, x)   _mm_storeu_si128((__m128i *)(void *)(to), x)
#define PHILOX_ORDER          _mm_set_epi64x(1, 0)
#else
enum { PHILOX_BLOCKS = 1 };
#endif

/*
 * Words of blocks q .. q + PHILOX_BLOCKS - 1, whose counters are {low(q), c1 | high(q), c2, c3}; q's upper
 * half may only reach bits of c1 that are 0.
 */
static inline __attribute__((always_inline)) void philox_blocks(
	uint32_t *to, uint64_t q, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1)
{
#ifdef PHILOX_FILL
	/* Even lanes hold the first half of the blocks, odd lanes the second, so that unpacking puts them in
	 * order. */
	philox_lanes number = PHILOX_ADD(PHILOX_FILL(q), PHILOX_ORDER);
	philox_lanes x0 = number, x1 = PHILOX_ADD(PHILOX_HIGH(number), PHILOX_FILL(c1));
	philox_lanes x2 = PHILOX_FILL(c2), x3 = PHILOX_FILL(c3);
	const philox_lanes m0 = PHILOX_FILL(0xD2511F53u), m1 = PHILOX_FILL(0xCD9E8D57u);
#pragma GCC unroll 10
	for (int round = 0; round < 10; round++) {
		philox_lanes product0 = PHILOX_MULTIPLY(x0, m0), product1 = PHILOX_MULTIPLY(x2, m1);
		x0 = PHILOX_XOR(PHILOX_HIGH(product1), x1, PHILOX_FILL(k0));
		x2 = PHILOX_XOR(PHILOX_HIGH(product0), x3, PHILOX_FILL(k1));
		x1 = product1;
		x3 = product0;
		k0 += 0x9E3779B9u;
		k1 += 0xBB67AE85u;
	}
	philox_lanes front = PHILOX_JOIN(x0, x1), back = PHILOX_JOIN(x2, x3);
	PHILOX_STORE(to, PHILOX_FIRST(front, back));
	PHILOX_STORE(to + 2 * PHILOX_BLOCKS, PHILOX_SECOND(front, back));
#else
	struct philox_block block = philox_4x32_10((uint32_t)q, c1 | (uint32_t)(q >> 32), c2, c3, k0, k1);
	for (int i = 0; i < 4; i++)
		to[i] = block.word[i];
#endif
}

#endif
