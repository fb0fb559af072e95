/*
 * machine.cuh: all that only nvcc understands: launches, shared memory, instructions without a C form.
 *
 * Everything else in this folder is C++ that any compiler takes, given CUDA's own headers or ones that stand
 * in for them. tests/emu/include has those, and its own machine.cuh in the place of this one: so the same
 * sources run on a CPU.
 */
#ifndef KERNELS_CUDA_MACHINE_CUH
#define KERNELS_CUDA_MACHINE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

/* kernel<<<grid, block, shared, stream>>>(arguments...); what went wrong is in cudaGetLastError(). */
template <typename... Parameters, typename... Arguments>
static inline void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared,
	cudaStream_t stream, const Arguments &...arguments)
{
	kernel<<<grid, block, shared, stream>>>(arguments...);
}

/* An array in the block's shared memory: SHARED_ARRAY(float, sums, [2][8]); and the one whose size the launch
 * gives. */
#define SHARED_ARRAY(type, name, ...) __shared__ type name __VA_ARGS__
#define SHARED_DYNAMIC(type, name)    extern __shared__ type name[]

/* The 64 bits of a * FACTOR. */
template <uint32_t FACTOR>
static __device__ __forceinline__ void multiply_wide(uint32_t a, uint32_t &low, uint32_t &high)
{
	asm("{ .reg .b64 p; mul.wide.u32 p, %2, %3; mov.b64 {%0, %1}, p; }"
		: "=r"(low), "=r"(high)
		: "r"(a), "n"(FACTOR));
}

/* 2^x, x <= 0 or -inf; results under 2^-126 are 0. */
static __device__ __forceinline__ float power_of_two(float x)
{
	float y;
	asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
	return y;
}

/*
 * c += a b on tensor cores. Fragments, lane l of a warp, g = l / 4, t = l % 4:
 *   A (16 x 16): a0 = (g, 2t..2t+1), a1 = (g + 8, ..), a2 = (g, 2t + 8..), a3 = (g + 8, 2t + 8..)
 *   B (16 x 8):  b0 = (k = 2t..2t+1, n = g), b1 = (k = 2t + 8.., n = g)
 *   C (16 x 8):  c0, c1 = (g, 2t..2t+1), c2, c3 = (g + 8, 2t..2t+1)
 */
template <typename A>
static __device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

template <>
__device__ __forceinline__ void mma<__nv_bfloat16>(
	float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
	asm volatile(
		"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
		"{%0,%1,%2,%3};"
		: "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
		: "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void mma<__half>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
	asm volatile(
		"mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
		"{%0,%1,%2,%3};"
		: "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
		: "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

static __device__ __forceinline__ uint32_t shared_address(const void *p)
{
	return (uint32_t)__cvta_generic_to_shared(p);
}

/* Four 8 x 8 matrices; lane l gives the address of row l % 8 of matrix l / 8. */
static __device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const void *p)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
		     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
		     : "r"(shared_address(p))
		     : "memory");
}
static __device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[4], const void *p)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
		     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
		     : "r"(shared_address(p))
		     : "memory");
}

/* 16 bytes to shared memory, zeros if not `valid` (the source must be a readable address all the same). They
 * may arrive at any time up to the wait. */
static __device__ __forceinline__ void copy_async(void *shared, const void *global, bool valid)
{
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
		     "l"(global), "r"(valid ? 16 : 0)
		     : "memory");
}
static __device__ __forceinline__ void copy_async_commit(void)
{
	asm volatile("cp.async.commit_group;" ::: "memory");
}
static __device__ __forceinline__ void copy_async_wait(void)
{
	asm volatile("cp.async.wait_group 0;" ::: "memory");
}

#endif
