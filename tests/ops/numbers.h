/* numbers.h: random numbers, rounding to halves and dropout, a second time, from their definitions. */
#ifndef TESTS_OPS_NUMBERS_H
#define TESTS_OPS_NUMBERS_H

#include "kernels/kernels.h"

#include <math.h>
#include <stdint.h>

static inline uint64_t next_random(uint64_t *state)
{
	uint64_t z = (*state += 0x9e3779b97f4a7c15u);
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static inline double uniform(uint64_t *state)
{
	return (double)(next_random(state) >> 11) * 0x1p-53;
}

/* Nearly normal: the sum of four uniform numbers, with mean 0 and variance 1. */
static inline double normal(uint64_t *state)
{
	uint64_t a = next_random(state), b = next_random(state);
	double sum = (double)(uint32_t)a + (double)(a >> 32) + (double)(uint32_t)b + (double)(b >> 32);
	return (sum * 0x1p-32 - 2) * 1.7320508075688772;
}

/* Round to nearest even with `bits` bits of mantissa (8 or 11) and the smallest exponent of the type. */
static inline double round_to(double x, enum dtype type)
{
	if (x == 0 || !isfinite(x))
		return x;
	if (type == DTYPE_F32)
		return (double)(float)x;
	int bits = type == DTYPE_BF16 ? 8 : 11, lowest = type == DTYPE_F16 ? -14 : -126;
	int exponent = ilogb(x) < lowest ? lowest : ilogb(x);
	return ldexp(nearbyint(ldexp(x, bits - 1 - exponent)), exponent - bits + 1);
}

static inline double half_value(uint16_t half, enum dtype type)
{
	int mantissa_bits = type == DTYPE_BF16 ? 7 : 10, bias = type == DTYPE_BF16 ? 127 : 15;
	int exponent = half >> mantissa_bits & (2 * bias + 1), mantissa = half & ((1 << mantissa_bits) - 1);
	double sign = half & 0x8000 ? -1 : 1;
	if (exponent == 2 * bias + 1)
		return mantissa ? NAN : sign * INFINITY;
	if (exponent == 0)
		return sign * ldexp(mantissa, 1 - bias - mantissa_bits);
	return sign * ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

/* The half of a number that is one already (round_to). */
static inline uint16_t half_code(double x, enum dtype type)
{
	int mantissa_bits = type == DTYPE_BF16 ? 7 : 10, bias = type == DTYPE_BF16 ? 127 : 15;
	uint16_t sign = signbit(x) ? 0x8000 : 0;
	x = fabs(x);
	if (x == 0)
		return sign;
	int exponent = ilogb(x);
	if (exponent < 1 - bias)
		return sign | (uint16_t)ldexp(x, bias - 1 + mantissa_bits);
	return sign | (uint16_t)((exponent + bias) << mantissa_bits |
				 ((int)ldexp(x, mantissa_bits - exponent) - (1 << mantissa_bits)));
}

/* ---- the definition of dropout ---- */

static inline void philox(uint32_t counter[4], uint32_t k0, uint32_t k1)
{
	for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
		uint64_t a = 0xD2511F53ull * counter[0], b = 0xCD9E8D57ull * counter[2];
		uint32_t c1 = counter[1], c3 = counter[3];
		counter[0] = (uint32_t)(b >> 32) ^ c1 ^ k0, counter[1] = (uint32_t)b;
		counter[2] = (uint32_t)(a >> 32) ^ c3 ^ k1, counter[3] = (uint32_t)a;
	}
}

static inline double drop_factor(const struct dropout *drop, int sequence, uint64_t element)
{
	if (!drop || drop->p == 0)
		return 1;
	uint64_t q = element / 4, window = drop->window + (uint64_t)sequence;
	uint32_t c[4] = {(uint32_t)q, drop->layer << 16 | (uint32_t)drop->site << 8 | (uint32_t)(q >> 32),
		(uint32_t)window, (uint32_t)(window >> 32)};
	philox(c, (uint32_t)drop->seed, (uint32_t)(drop->seed >> 32));
	return c[element % 4] < floor((double)drop->p * 0x1p32) ? 0 : 1 / (1 - (double)drop->p);
}

#endif
