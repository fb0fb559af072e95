/*
 * emulator.h: a CUDA device made of the CPU, for tests: the real sources of kernels/cuda compiled by g++ or
 * clang++ with the headers of include/ in the place of CUDA's. `make emu` builds build/emu/ferry-cuda.so, and
 *
 *    FERRY_CUDA=build/emu/ferry-cuda.so build/ferry train --device gpu ...
 *
 * runs the whole program on it. MODE=asan and MODE=tsan build build/emu/asan/ferry-cuda.so and
 * build/emu/tsan/ferry-cuda.so, for programs built in the same mode.
 *
 * A kernel (block.cc) runs block by block, in random order; a block's threads are fibers (fibers.cc) that run
 * in random order from one wait to the next. Found, and ended with a message and abort():
 *   - a barrier that some threads never reach, or two threads at different barriers;
 *   - a collective of a warp (shuffle, mma, ldmatrix, __syncwarp) that a lane of its mask does not take part
 *     in, or lanes at different collectives;
 *   - a write past the end of an array in shared memory, at the block's end (at once, and reads too, under
 *     the address sanitizer); shared memory begins as NaN (all bits 1) in each block;
 *   - asynchronous copies into shared memory that a thread never waits for (they arrive, as chance will have
 *     it, at once or at the wait);
 *   - a launch with no or too many threads or blocks, or more shared memory than it asked for;
 *   - a kernel given a pointer to ordinary host memory.
 * Under the thread sanitizer every thread of a block is a fiber that it knows, and only barriers and
 * __syncwarp order memory (shuffles do not): races between threads, warps and blocks are reported.
 *
 * A stream (streams.cc) is a real thread with a queue. What a real device orders, and only that, is ordered
 * for the thread sanitizer too: what was queued before, events, waiting. So a missing event is a race.
 *
 * Device memory (memory.cc) begins as NaN and lies between unmapped pages. The host may not touch it: it
 * has a protection key that only streams hold (where the processor has such keys).
 * Asynchronous copies from or to host memory that is not pinned are refused. At the end of the process what
 * was not freed is named and the exit status is 23.
 *
 * NCCL (nccl.cc) is sockets between processes, or threads, of one machine; the emulated ferry-cuda.so is the library too,
 * where FERRY_NCCL names it. Devices of one process (FERRY_EMU_DEVICES) have their memory in common; processes that
 * use the same number have one device between them, as far as NCCL is concerned.
 *
 * cuDNN (cudnn.cc) runs operation graphs by their documented meaning; the emulated ferry-cuda.so is the library too, where
 * FERRY_CUDNN names it. It says what it refuses and finds.
 *
 * cuBLASLt (cublaslt.cc) is a plain product with f32 accumulation, in a fixed order: one of four, which are its
 * algorithms and differ in the last bits.
 *
 * Environment:
 *   FERRY_EMU_SEED=N        the orders of blocks and threads, and when asynchronous copies arrive (1)
 *   FERRY_EMU_FAIL_ALLOC=N  the Nth allocation, of device or of pinned memory, fails
 *   FERRY_EMU_MEMORY=N      the device's memory, MiB (4096)
 *   FERRY_EMU_TAKEN=N       MiB of it that other programs have (0)
 *   FERRY_EMU_LT_FIRST=N    the algorithm that cuBLASLt's heuristic ranks first, 0 to 3 (0)
 *   FERRY_EMU_LT_LACKS=N    the algorithm that it does not have (none)
 *   FERRY_EMU_LT_SLOW=N     the algorithm that takes 2 ms longer (none)
 *   FERRY_EMU_LT_VERSION=N  its version (0)
 *   FERRY_EMU_LEAKS=0       leaks are not reported
 *   FERRY_EMU_DEVICES=N     how many devices there are (1)
 *   FERRY_EMU_NCCL_FAIL=WHAT:RANK:N    on that rank the Nth ncclSend (WHAT is send) or the Nth ncclCommInitRank (init)
 *                           fails; or the Nth group finds its connections broken (link)
 *   FERRY_EMU_NCCL_SWAP=1   a group's first two receptions from other ranks, of one length, change places
 *   FERRY_EMU_CAPABILITY=N  the devices' compute capability, 10 times: 90 is 9.0 (80)
 *   FERRY_EMU_CUDNN_FAIL=WHAT:N    the Nth such thing of cuDNN's fails (0: each): a handle (create), the end of a graph (graph), a
 *                           heuristic (heuristic), the end of a plan (plan), an execution (execute)
 *   FERRY_EMU_CUDNN_FAULT=WHAT     graphs are as if they lacked the causal mask (mask) or the scale (scale), or had wrong
 *                           strides (stride); or handles stay with the default stream (stream)
 *   FERRY_EMU_CUDNN_FIRST=N the engine that its heuristic ranks first, 0 to 2 (0)
 *   FERRY_EMU_CUDNN_LACKS=N the engine that it does not have (none)
 *   FERRY_EMU_CUDNN_WORKSPACE=N    bytes that a backward's workspace is larger (0)
 *   FERRY_EMU_CUDNN_VERSION=N      its version (91900)
 */
#ifndef TESTS_EMU_EMULATOR_H
#define TESTS_EMU_EMULATOR_H

#include <kernels/cuda/machine.cuh>

#include <atomic>

/* Prints "emulator: ..." and ends the process. */
[[noreturn]] void emu_die(const char *format, ...) __attribute__((format(printf, 1, 2)));
long emu_setting(const char *name, long otherwise);

/* ---- the sanitizers ---- */

/* The kernels and the libraries' stand-ins, which are the device's work, are built with one. The emulator itself is not:
 * what it does for a thread is no access of a thread's. So it is built once for all modes, and which sanitizer there is
 * shows in the functions that it has: the others are NULL. */
extern "C" {
__attribute__((weak)) void __tsan_acquire(void *at);
__attribute__((weak)) void __tsan_release(void *at);
}
static inline bool emu_races_are_watched(void)
{
	return __tsan_release != NULL;
}

/* What happened before emu_release(at) in some thread happens before what follows emu_acquire(at) in this. */
static inline void emu_acquire(void *at)
{
	if (emu_races_are_watched())
		__tsan_acquire(at);
}
static inline void emu_release(void *at)
{
	if (emu_races_are_watched())
		__tsan_release(at);
}

/* A lock that orders nothing for the thread sanitizer, as a mutex would. */
struct quiet_lock {
	std::atomic<int> busy{0};
	void lock()
	{
		while (busy.exchange(1, std::memory_order_acquire))
			busy.wait(1, std::memory_order_relaxed);
	}
	void unlock()
	{
		busy.store(0, std::memory_order_release);
		busy.notify_one();
	}
};

/* Whether a byte may be touched, to the address sanitizer; nothing without it. */
void emu_poison(const void *from, size_t bytes);
void emu_unpoison(const void *from, size_t bytes);

/* Every byte 0xff: NaN in all types; unseen by the sanitizers. */
void emu_fill(void *to, size_t bytes);

/* ---- fibers (fibers.cc) ---- */

struct fiber;
struct fiber *fiber_open(void (*body)(void)); /* body never returns; it begins at the first switch to it */
struct fiber *fiber_of_thread(void);          /* the thread's own stack, as a fiber; once a thread */
void fiber_switch(struct fiber *from, struct fiber *to);

/* ---- kernels (block.cc) ---- */

enum { EMU_DEVICES = 16 };
enum { EMU_SHARED_MOST = 163 << 10, EMU_SHARED_DEFAULT = 48 << 10, EMU_BLOCK_MOST = 1024 };

/* All blocks of a launch, on the calling thread. */
void grid_run(
	const void *kernel, dim3 blocks, dim3 threads, size_t dynamic, const std::function<void()> &body);

/* ---- memory (memory.cc) ---- */

/* The calling thread may touch device memory from here on. */
void device_memory_enter(void);
bool device_memory_holds(const void *block, size_t bytes);
bool pinned_memory_holds(const void *block, size_t bytes);
bool ordinary_memory(const void *p); /* a pointer, neither NULL nor into device or pinned memory */

/* ---- streams (streams.cc) ---- */

/* Queues work that runs on the stream's thread. */
void stream_queue(cudaStream_t stream, std::function<void()> work);
void streams_drain(void); /* waits for all of them, of the thread's device */
cudaError_t emu_fail(
	cudaError_t error); /* every call that fails leaves it for cudaGetLastError; gives it back */

#endif
