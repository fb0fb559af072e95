/*
 * cuda_runtime.h: stands in for CUDA's header where the kernels are compiled for the CPU (see ../emulator.h).
 *
 * As much of it as the kernels use: what a kernel sees of its thread, the collectives of a warp and the
 * barriers of a block, and the runtime's calls on memory, streams and events. Names and meanings are
 * NVIDIA's; the values of enumerations are not.
 */
#ifndef TESTS_EMU_CUDA_RUNTIME_H
#define TESTS_EMU_CUDA_RUNTIME_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
	unsigned x, y, z;
	dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c)
	{
	}
};
struct alignas(16) uint4 {
	unsigned x, y, z, w;
};

/* ---- in a kernel ---- */

/* The thread that runs. Only the emulator writes it. */
struct emu_place {
	dim3 thread, block, threads, blocks;
};
/* Found without a call, which a thread's variable in a shared object takes otherwise. There is room for a few words: a library
 * that has any must have no large variables of a thread. */
#define EMU_QUICK_LOCAL __attribute__((tls_model("initial-exec"))) thread_local
extern EMU_QUICK_LOCAL const struct emu_place *emu_here;
#define threadIdx (emu_here->thread)
#define blockIdx  (emu_here->block)
#define blockDim  (emu_here->threads)
#define gridDim   (emu_here->blocks)

/* Where in the sources something waits. */
struct emu_site {
	const char *function, *file;
	int line;
};
#define EMU_HERE                                                                                             \
	const char *function = __builtin_FUNCTION(), const char *file = __builtin_FILE(),                    \
		   int line = __builtin_LINE()

int emu_barrier(int predicate, struct emu_site site); /* how many threads gave true */
void emu_warp_barrier(unsigned mask, struct emu_site site);
uint64_t emu_shuffle(unsigned mask, uint64_t bits, int from_lane, struct emu_site site);
int emu_reduce_min(unsigned mask, int value, struct emu_site site);
unsigned emu_ballot(unsigned mask, int predicate, struct emu_site site);
unsigned emu_lane(void);

static inline void __syncthreads(EMU_HERE)
{
	(void)emu_barrier(0, {function, file, line});
}
static inline int __syncthreads_count(int predicate, EMU_HERE)
{
	return emu_barrier(predicate, {function, file, line});
}
static inline void __syncwarp(unsigned mask = 0xffffffffu, EMU_HERE)
{
	emu_warp_barrier(mask, {function, file, line});
}
template <typename T>
static inline T emu_shuffled(
	unsigned mask, T value, int from_lane, const char *function, const char *file, int line)
{
	uint64_t bits = 0;
	__builtin_memcpy(&bits, &value, sizeof value);
	bits = emu_shuffle(mask, bits, from_lane, {function, file, line});
	__builtin_memcpy(&value, &bits, sizeof value);
	return value;
}
template <typename T> static inline T __shfl_sync(unsigned mask, T value, int lane, EMU_HERE)
{
	return emu_shuffled(mask, value, lane & 31, function, file, line);
}
template <typename T> static inline T __shfl_xor_sync(unsigned mask, T value, int bits, EMU_HERE)
{
	return emu_shuffled(mask, value, (int)emu_lane() ^ bits, function, file, line);
}
static inline int __reduce_min_sync(unsigned mask, int value, EMU_HERE)
{
	return emu_reduce_min(mask, value, {function, file, line});
}
static inline unsigned __ballot_sync(unsigned mask, int predicate, EMU_HERE)
{
	return emu_ballot(mask, predicate, {function, file, line});
}
template <typename T> static inline T atomicAdd(T *at, T value)
{
	T before = *(volatile T *)at, after;
	do
		after = before + value;
	while (!__atomic_compare_exchange(at, &before, &after, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
	return before;
}

static inline int min(int a, int b)
{
	return a < b ? a : b;
}
static inline int max(int a, int b)
{
	return a > b ? a : b;
}
#define __expf(x) expf(x) /* a name that glibc's header declares */

/* ---- the runtime ---- */

enum cudaError_t {
	cudaSuccess,
	cudaErrorInvalidValue,
	cudaErrorMemoryAllocation,
	cudaErrorInvalidConfiguration,
	cudaErrorInvalidDevice,
	cudaErrorInvalidResourceHandle,
	cudaErrorNotReady,
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum cudaMemoryType { cudaMemoryTypeUnregistered, cudaMemoryTypeHost, cudaMemoryTypeDevice };
struct cudaPointerAttributes {
	enum cudaMemoryType type;
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum { cudaStreamNonBlocking = 1 };
enum cudaDataType_t { CUDA_R_32F, CUDA_R_16F, CUDA_R_16BF };
typedef enum cudaDataType_t cudaDataType;
typedef struct emu_stream *cudaStream_t; /* NULL: the default stream */
typedef struct emu_event *cudaEvent_t;

struct cudaDeviceProp {
	char name[256];
	int major, minor, multiProcessorCount;
	size_t totalGlobalMem, sharedMemPerMultiprocessor, sharedMemPerBlockOptin;
};

cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *out, int device);
cudaError_t cudaDeviceGetPCIBusId(char *out, int room, int device);
cudaError_t cudaGetLastError(void);
const char *cudaGetErrorString(cudaError_t error);
const char *cudaGetErrorName(cudaError_t error);

cudaError_t cudaMalloc(void **out, size_t bytes);
cudaError_t cudaFree(void *block);
cudaError_t cudaMallocHost(void **out, size_t bytes);
cudaError_t cudaFreeHost(void *block);
cudaError_t cudaMemGetInfo(size_t *unused, size_t *total);
cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *out, const void *p);
cudaError_t cudaMemset(void *block, int value, size_t bytes);
cudaError_t cudaMemsetAsync(void *block, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaMemcpyAsync(
	void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream);

cudaError_t cudaDeviceSynchronize(void);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags);
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *out, unsigned flags, int priority);
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaEventCreate(cudaEvent_t *out);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to);

cudaError_t emu_allow_shared(const void *kernel, int bytes);
template <typename Kernel>
static inline cudaError_t cudaFuncSetAttribute(Kernel *kernel, cudaFuncAttribute, int bytes)
{
	return emu_allow_shared((const void *)kernel, bytes);
}

#endif
