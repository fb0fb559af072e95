/*
 * machine.cuh: stands in for kernels/cuda/machine.cuh where the kernels run on the CPU (see
 * tests/emu/emulator.h): the same functions, whose meaning that header gives.
 */
#ifndef TESTS_EMU_MACHINE_CUH
#define TESTS_EMU_MACHINE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <functional>
#include <tuple>
#include <type_traits>

/* Queues a kernel: body() is one thread of it. `pointers`: its arguments that are pointers. */
void emu_launch(const void *kernel, dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
	const void *const *pointers, int count, std::function<void()> body);

template <typename... Parameters, typename... Arguments>
static inline void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared,
	cudaStream_t stream, const Arguments &...arguments)
{
	std::tuple<Parameters...> values(arguments...);
	const void *pointers[sizeof...(Parameters) + 1];
	int count = 0;
	auto note = [&](auto value) {
		if constexpr (std::is_pointer_v<decltype(value)>)
			pointers[count++] = (const void *)value;
	};
	std::apply([&](const Parameters &...value) { (note(value), ...); }, values);
	emu_launch((const void *)kernel, grid, block, shared, stream, pointers, count,
		[=] { std::apply(kernel, values); });
}

/* `key` is another address for each array of each kernel; every thread of a block gets the same array. */
void *emu_shared_array(const void *key, size_t bytes);
void *emu_shared_dynamic(void);
template <typename T> static inline T &emu_shared(const void *key)
{
	return *(T *)emu_shared_array(key, sizeof(T));
}
#define SHARED_ARRAY(type, name, ...)                                                                        \
	static char name##_key;                                                                              \
	auto &name = emu_shared<type __VA_ARGS__>(&name##_key)
#define SHARED_DYNAMIC(type, name) type *name = (type *)emu_shared_dynamic()

template <uint32_t FACTOR> static inline void multiply_wide(uint32_t a, uint32_t &low, uint32_t &high)
{
	uint64_t product = (uint64_t)a * FACTOR;
	low = (uint32_t)product;
	high = (uint32_t)(product >> 32);
}

static inline float power_of_two(float x)
{
	float y = exp2f(x);
	return y < 0x1p-126f ? 0 : y;
}

/* Of all lanes of the warp at once; `types` says what the halves are. */
enum emu_half { EMU_BF16, EMU_F16 };
void emu_mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, enum emu_half type,
	struct emu_site site);
template <typename A>
static inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, EMU_HERE)
{
	emu_mma(c, a, b0, b1, std::is_same_v<A, __half> ? EMU_F16 : EMU_BF16, {function, file, line});
}

/* This lane's row is read here, by the lane, so that the sanitizers see who reads what. */
void emu_matrices(uint32_t (&r)[4], const uint4 &row, bool transposed, struct emu_site site);
static inline void load_matrices(uint32_t (&r)[4], const void *p, EMU_HERE)
{
	uint4 row = *(const uint4 *)p;
	emu_matrices(r, row, false, {function, file, line});
}
static inline void load_matrices_transposed(uint32_t (&r)[4], const void *p, EMU_HERE)
{
	uint4 row = *(const uint4 *)p;
	emu_matrices(r, row, true, {function, file, line});
}

/* The copy happens here or at the wait, as chance will have it. */
bool emu_copy_later(void *shared, const void *global, bool valid);
bool emu_copy_next(void **shared, const void **global, bool *valid);
static inline void emu_copy_now(void *shared, const void *global, bool valid)
{
	uint4 bits = *(const uint4 *)global;
	*(uint4 *)shared = valid ? bits : uint4{0, 0, 0, 0};
}
static inline void copy_async(void *shared, const void *global, bool valid)
{
	if (!emu_copy_later(shared, global, valid))
		emu_copy_now(shared, global, valid);
}
static inline void copy_async_commit(void)
{
}
static inline void copy_async_wait(void)
{
	void *shared;
	const void *global;
	bool valid;
	while (emu_copy_next(&shared, &global, &valid))
		emu_copy_now(shared, global, valid);
}

#endif
