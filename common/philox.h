/*
 * philox.h: Philox4x32-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy as
 * 1, 2, 3" (SC'11). A pure function of (counter, key): the same on every backend and in every order.
 * Plain C that the CUDA compiler takes too. Known answers: tests/unit/common/test_philox.c.
 */
#ifndef COMMON_PHILOX_H
#define COMMON_PHILOX_H

#include <stdint.h>

#ifdef __CUDACC__
#define PHILOX_FUNCTION static __host__ __device__ __forceinline__
#else
#define PHILOX_FUNCTION static inline __attribute__((always_inline))
#endif

struct philox_block {
	uint32_t word[4];
};

PHILOX_FUNCTION struct philox_block philox_4x32_10(
	uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1)
{
	for (int round = 0; round < 10; round++) {
		uint64_t product0 = (uint64_t)0xD2511F53u * c0;
		uint64_t product1 = (uint64_t)0xCD9E8D57u * c2;
		uint32_t next0 = (uint32_t)(product1 >> 32) ^ c1 ^ k0;
		uint32_t next2 = (uint32_t)(product0 >> 32) ^ c3 ^ k1;
		c1 = (uint32_t)product1;
		c3 = (uint32_t)product0;
		c0 = next0;
		c2 = next2;
		k0 += 0x9E3779B9u;
		k1 += 0xBB67AE85u;
	}
	struct philox_block block = {{c0, c1, c2, c3}};
	return block;
}

#endif
