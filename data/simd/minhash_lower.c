/* The inner loop of MinHash (data/minhash.h), compiled once for each instruction set. */
#include "data/minhash.h"

#include "common/simd.h"

#ifdef __x86_64__
#include <immintrin.h>
#endif

/* MINHASH_LANES hashes stay in registers while all shingles pass by. */

#if defined __AVX512DQ__

static void lower_lanes(int64_t *least, const uint64_t *factors, const uint64_t *x, size_t count)
{
	__m512i f0 = _mm512_loadu_si512(factors), f1 = _mm512_loadu_si512(factors + 8);
	__m512i m0 = _mm512_loadu_si512(least), m1 = _mm512_loadu_si512(least + 8);
	for (size_t i = 0; i < count; i++) {
		__m512i shingle = _mm512_set1_epi64((int64_t)x[i]);
		m0 = _mm512_min_epi64(m0, _mm512_mullo_epi64(shingle, f0));
		m1 = _mm512_min_epi64(m1, _mm512_mullo_epi64(shingle, f1));
	}
	_mm512_storeu_si512(least, m0);
	_mm512_storeu_si512(least + 8, m1);
}

#elif defined __AVX2__

struct lanes {
	__m256i least, factor, factor_high;
};

static inline struct lanes lanes_load(const int64_t *least, const uint64_t *factors)
{
	__m256i factor = _mm256_loadu_si256((const __m256i *)factors);
	return (struct lanes){
		_mm256_loadu_si256((const __m256i *)least), factor, _mm256_srli_epi64(factor, 32)};
}

static inline void lanes_lower(struct lanes *lanes, __m256i x, __m256i x_high)
{
	__m256i cross = _mm256_add_epi64(
		_mm256_mul_epu32(x, lanes->factor_high), _mm256_mul_epu32(x_high, lanes->factor));
	__m256i number = _mm256_add_epi64(_mm256_mul_epu32(x, lanes->factor), _mm256_slli_epi64(cross, 32));
	lanes->least = _mm256_blendv_epi8(lanes->least, number, _mm256_cmpgt_epi64(lanes->least, number));
}

static void lower_lanes(int64_t *least, const uint64_t *factors, const uint64_t *x, size_t count)
{
	struct lanes lanes[4];
	for (int l = 0; l < 4; l++)
		lanes[l] = lanes_load(least + 4 * l, factors + 4 * l);
	for (size_t i = 0; i < count; i++) {
		__m256i shingle = _mm256_set1_epi64x((int64_t)x[i]), high = _mm256_srli_epi64(shingle, 32);
		for (int l = 0; l < 4; l++)
			lanes_lower(&lanes[l], shingle, high);
	}
	for (int l = 0; l < 4; l++)
		_mm256_storeu_si256((__m256i *)(least + 4 * l), lanes[l].least);
}

#else

static void lower_lanes(int64_t *least, const uint64_t *factors, const uint64_t *x, size_t count)
{
	for (size_t lane = 0; lane < MINHASH_LANES; lane++) {
		int64_t m = least[lane];
		for (size_t i = 0; i < count; i++) {
			int64_t number = (int64_t)(x[i] * factors[lane]);
			m = number < m ? number : m;
		}
		least[lane] = m;
	}
}

#endif

void SIMD(minhash_lower)(
	int64_t *least, const uint64_t *factors, size_t hashes, const uint64_t *x, size_t count)
{
	for (size_t i = 0; i < hashes; i += MINHASH_LANES)
		lower_lanes(least + i, factors + i, x, count);
}
