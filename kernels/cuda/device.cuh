/*
 * device.cuh: what every kernel uses: 16-byte accesses, conversions, reductions in a fixed order, dropout.
 *
 * Kernels that work on rows of C elements come in two widths: V = 8 elements a thread at a time where C is a
 * multiple of 8 (16-byte accesses), V = 1 for any other C.
 */
#ifndef KERNELS_CUDA_DEVICE_CUH
#define KERNELS_CUDA_DEVICE_CUH

#include "kernels/cuda/machine.cuh"
#include "kernels/dropout.h"
#include "kernels/kernels.h"

static __device__ __forceinline__ float to_float(float x)
{
	return x;
}
static __device__ __forceinline__ float to_float(__nv_bfloat16 x)
{
	return __bfloat162float(x);
}
static __device__ __forceinline__ float to_float(__half x)
{
	return __half2float(x);
}

/* Round to nearest even. */
template <typename A> static __device__ __forceinline__ A from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x)
{
	return x;
}
template <> __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x)
{
	return __float2bfloat16_rn(x);
}
template <> __device__ __forceinline__ __half from_float<__half>(float x)
{
	return __float2half_rn(x);
}

/* V consecutive elements: 16-byte accesses for V = 8, one element for V = 1. */
template <int V, typename A> static __device__ __forceinline__ void load(float (&v)[V], const A *p)
{
	if constexpr (V == 1) {
		v[0] = to_float(*p);
	} else {
		static_assert(V == 8, "one element or eight");
		constexpr int each = 16 / sizeof(A);
#pragma unroll
		for (int k = 0; k < V; k += each) {
			union {
				uint4 bits;
				A element[each];
			} block;
			block.bits = *(const uint4 *)(p + k);
#pragma unroll
			for (int i = 0; i < each; i++)
				v[k + i] = to_float(block.element[i]);
		}
	}
}

template <int V, typename A> static __device__ __forceinline__ void store(A *p, const float (&v)[V])
{
	if constexpr (V == 1) {
		*p = from_float<A>(v[0]);
	} else {
		constexpr int each = 16 / sizeof(A);
#pragma unroll
		for (int k = 0; k < V; k += each) {
			union block {
				uint4 bits;
				A element[each];
				__device__ block()
				{
				}
			} block;
#pragma unroll
			for (int i = 0; i < each; i++)
				block.element[i] = from_float<A>(v[k + i]);
			*(uint4 *)(p + k) = block.bits;
		}
	}
}

/* Eight consecutive elements as they are in memory, for values that wait long: half as many registers as floats. */
template <typename A> struct packed {
	uint4 bits[8 * sizeof(A) / 16];
};

template <typename A> static __device__ __forceinline__ struct packed<A> load_packed(const A *p) {
	struct packed<A> x;
#pragma unroll
	for (unsigned k = 0; k < sizeof x.bits / 16; k++)
		x.bits[k] = ((const uint4 *)p)[k];
	return x;
}

template <typename A>
static __device__ __forceinline__ void unpack(float (&v)[8], const struct packed<A> &x)
{
	load(v, (const A *)x.bits);
}

/* The sum over a warp, the same in every lane. */
static __device__ __forceinline__ float warp_sum(float x)
{
#pragma unroll
	for (int k = 16; k; k /= 2)
		x += __shfl_xor_sync(0xffffffffu, x, k);
	return x;
}

static __device__ __forceinline__ float warp_max(float x)
{
#pragma unroll
	for (int k = 16; k; k /= 2)
		x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, k));
	return x;
}

/* ---- dropout (kernels/dropout.h) ---- */

struct device_dropout {
	uint64_t seed, window;
	uint32_t layer, site, threshold;
	float scale; /* 1 / (1 - p) */
	bool on;
};

static inline struct device_dropout device_dropout_from(const struct dropout *drop)
{
	struct device_dropout d = {};
	if (drop && drop->p > 0) {
		d.seed = drop->seed;
		d.window = drop->window;
		d.layer = drop->layer;
		d.site = (uint32_t)drop->site;
		d.threshold = dropout_threshold(drop->p);
		d.scale = 1.0f / (1.0f - drop->p);
		d.on = true;
	}
	return d;
}

/* dropout.h's dropout_block, its products spelled so that nvcc makes one instruction of each. */
static __device__ __forceinline__ struct philox_block device_dropout_block(
	const struct device_dropout &d, uint32_t sequence, uint64_t q)
{
	uint64_t window = d.window + sequence;
	uint32_t c0 = (uint32_t)q, c1 = d.layer << 16 | d.site << 8 | (uint32_t)(q >> 32);
	uint32_t c2 = (uint32_t)window, c3 = (uint32_t)(window >> 32);
	uint32_t k0 = (uint32_t)d.seed, k1 = (uint32_t)(d.seed >> 32);
#pragma unroll
	for (int round = 0; round < 10; round++) {
		uint32_t low0, high0, low1, high1;
		multiply_wide<0xD2511F53u>(c0, low0, high0);
		multiply_wide<0xCD9E8D57u>(c2, low1, high1);
		c0 = high1 ^ c1 ^ k0;
		c2 = high0 ^ c3 ^ k1;
		c1 = low1;
		c3 = low0;
		k0 += 0x9E3779B9u;
		k1 += 0xBB67AE85u;
	}
	return {{c0, c1, c2, c3}};
}

/* Whether element e of `sequence` (0.. in this batch) is kept. */
static __device__ __forceinline__ bool dropout_keep(
	const struct device_dropout &d, uint32_t sequence, uint64_t element)
{
	struct philox_block block = device_dropout_block(d, sequence, element / 4);
	uint32_t low = element & 1 ? block.word[1] : block.word[0];
	uint32_t high = element & 1 ? block.word[3] : block.word[2];
	return (element & 2 ? high : low) >= d.threshold;
}

/* v = drop(v) for elements element .. element + V - 1; element is a multiple of V. */
template <int V>
static __device__ __forceinline__ void dropout_vector(
	const struct device_dropout &d, uint32_t sequence, uint64_t element, float (&v)[V])
{
	if constexpr (V == 1) {
		v[0] = dropout_keep(d, sequence, element) ? v[0] * d.scale : 0.0f;
	} else {
#pragma unroll
		for (int k = 0; k < V; k += 4) {
			struct philox_block block = device_dropout_block(d, sequence, (element + k) / 4);
#pragma unroll
			for (int i = 0; i < 4; i++)
				v[k + i] = block.word[i] >= d.threshold ? v[k + i] * d.scale : 0.0f;
		}
	}
}

/* ---- GELU, tanh form ---- */

static __device__ __forceinline__ float gelu(float x)
{
	float inner = 0.7978845608028654f * (x + 0.044715f * x * x * x);
	return 0.5f * x * (1.0f + tanhf(inner));
}

static __device__ __forceinline__ float gelu_slope(float x)
{
	float inner = 0.7978845608028654f * (x + 0.044715f * x * x * x);
	float t = tanhf(inner);
	return 0.5f * (1.0f + t) +
	       0.5f * x * (1.0f - t * t) * 0.7978845608028654f * (1.0f + 3.0f * 0.044715f * x * x);
}

#endif
