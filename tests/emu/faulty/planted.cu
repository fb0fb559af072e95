/*
 * planted.cu: kernels and host code with a fault each, that the emulator must find, and the same without it,
 * that it must let pass. planted FAULT runs one; planted.sh knows what must be said of it. `planted` names
 * them all.
 */
#include "kernels/cuda/machine.cuh"
#include "kernels/cuda/nccl.cuh"

#include <stdio.h>
#include <stdlib.h>

static void must(cudaError_t error)
{
	if (error == cudaSuccess)
		return;
	printf("refused: %s\n", cudaGetErrorName(error));
	exit(1);
}

/* Sums of 64 elements by 64 threads, through shared memory. `fault` is the one planted. */
enum fault {
	NONE,
	MISSING_BARRIER,
	MISSING_WARP_BARRIER,
	DIVERGENT_BARRIER,
	TWO_BARRIERS,
	DIVERGENT_SHUFFLE,
	SHARED_OFF_BY_ONE,
	DEVICE_OFF_BY_ONE,
	DEVICE_READ_PAST,
	MISALIGNED,
	MISSING_COPY_WAIT,
	BLOCK_ORDER,
	UNINITIALIZED,
	MISSING_EVENT,
	WRONG_ORDER,
	MISSING_WAIT,
	UNPINNED_COPY,
	HOST_TOUCH,
	HOST_POINTER,
	USE_AFTER_FREE,
	LEAK,
	TOO_MUCH_SHARED,
	EXCHANGE_EVENT,
	EXCHANGE_ORDER,
	EXCHANGE_LENGTH,
	FAULTS
};
static const char *const names[] = {"none", "missing_barrier", "missing_warp_barrier", "divergent_barrier",
	"two_barriers", "divergent_shuffle", "shared_off_by_one", "device_off_by_one", "device_read_past",
	"misaligned", "missing_copy_wait", "block_order", "uninitialized", "missing_event", "wrong_order",
	"missing_wait", "unpinned_copy", "host_touch", "host_pointer", "use_after_free", "leak",
	"too_much_shared", "exchange_event", "exchange_order", "exchange_length"};

enum { threads = 64, blocks = 5, elements = threads * blocks };

__global__ void sums(float *out, const float *in, enum fault fault)
{
	SHARED_ARRAY(float, array, [threads]);
	float *shared = array;
	int i = threadIdx.x;
	shared[i] = in[blockIdx.x * threads + i];
	if (fault == SHARED_OFF_BY_ONE)
		shared[i + 1] = shared[i];
	if (fault != MISSING_BARRIER)
		__syncthreads();
	for (int k = threads / 2; k >= 32; k /= 2) {
		if (i < k)
			shared[i] += shared[i + k];
		if (fault == DIVERGENT_BARRIER && i >= k)
			return;
		__syncthreads();
	}
	if (fault == TWO_BARRIERS) {
		if (i % 2)
			__syncthreads();
		else
			__syncthreads();
	}
	if (i < 32) {
		float sum = shared[i];
		if (fault == DIVERGENT_SHUFFLE && i == 7)
			return;
		for (int k = 16; k; k /= 2)
			sum += __shfl_xor_sync(0xffffffffu, sum, k);
		if (i == 0)
			out[blockIdx.x] = sum;
	}
}

/* Each lane hands its element to the next. */
__global__ void rotate(float *out, const float *in, enum fault fault)
{
	SHARED_DYNAMIC(float, shared);
	int i = threadIdx.x;
	shared[i] = in[i];
	if (fault != MISSING_WARP_BARRIER)
		__syncwarp();
	out[i] = shared[i / 32 * 32 + (i + 1) % 32];
}

/* Through an asynchronous copy. */
__global__ void fetch(float *out, const float *in, enum fault fault)
{
	SHARED_ARRAY(uint4, shared, [threads / 4]);
	int i = threadIdx.x;
	if (i < threads / 4)
		copy_async(shared + i, in + 4 * i, true);
	copy_async_commit();
	if (fault != MISSING_COPY_WAIT)
		copy_async_wait();
	__syncthreads();
	out[i] = ((const float *)shared)[i];
}

__global__ void touch(float *out, const float *in, enum fault fault)
{
	int i = blockIdx.x * threads + threadIdx.x;
	if (fault == DEVICE_OFF_BY_ONE)
		out[i + 1] = in[i];
	else if (fault == DEVICE_READ_PAST)
		out[i] = in[i + 1];
	else if (fault == MISALIGNED && i % 4 == 0)
		*(uint4 *)(out + i) = *(const uint4 *)(in + i + 1);
	else if (fault == BLOCK_ORDER && blockIdx.x) /* what the block before has written, with luck */
		out[i] = out[i - threads] + in[i];
	else
		out[i] = in[i];
}

static float *device(int n)
{
	float *block;
	must(cudaMalloc((void **)&block, n * sizeof(float)));
	return block;
}

/* One stream fills, another reads; then the host. */
static void two_streams(enum fault fault, float *a, float *b, float *host)
{
	cudaStream_t first, second;
	cudaEvent_t filled;
	must(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking));
	must(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking));
	must(cudaEventCreate(&filled));
	if (fault == WRONG_ORDER)
		must(cudaEventRecord(filled, first));
	launch(touch, blocks, threads, 0, first, a, (const float *)b, NONE);
	if (fault != WRONG_ORDER)
		must(cudaEventRecord(filled, first));
	if (fault != MISSING_EVENT)
		must(cudaStreamWaitEvent(second, filled, 0));
	must(cudaMemcpyAsync(host, a, elements * sizeof(float), cudaMemcpyDeviceToHost, second));
	if (fault != MISSING_WAIT)
		must(cudaStreamSynchronize(second));
	float sum = 0;
	for (int i = 0; i < elements; i++)
		sum += host[i];
	must(cudaDeviceSynchronize());
	printf("sum of what the streams brought: %g\n", (double)sum);
	must(cudaEventDestroy(filled));
	must(cudaStreamDestroy(first));
	must(cudaStreamDestroy(second));
}

#define NCCL_DECLARE(result, name, ...) extern "C" result name(__VA_ARGS__);
NCCL_FUNCTIONS(NCCL_DECLARE)

static void must_pass(int result)
{
	if (result == NCCL_SUCCESS)
		return;
	printf("refused: %s\n", ncclGetErrorString(result));
	exit(1);
}

/* One stream fills, another sends to itself and receives what the first then reads. */
static void exchange(enum fault fault, float *a, float *b)
{
	cudaStream_t compute, moving;
	cudaEvent_t filled, moved;
	struct nccl_id id;
	struct nccl_communicator *communicator;
	must(cudaStreamCreateWithFlags(&compute, cudaStreamNonBlocking));
	must(cudaStreamCreateWithFlags(&moving, cudaStreamNonBlocking));
	must(cudaEventCreate(&filled));
	must(cudaEventCreate(&moved));
	must_pass(ncclGetUniqueId(&id));
	must_pass(ncclCommInitRank(&communicator, 1, id, 0));
	launch(touch, blocks, threads, 0, compute, a, (const float *)b, NONE);
	must(cudaEventRecord(filled, compute));
	if (fault != EXCHANGE_EVENT)
		must(cudaStreamWaitEvent(moving, filled, 0));
	size_t bytes = elements / 2 * sizeof *a;
	must_pass(ncclGroupStart());
	must_pass(ncclSend(a, bytes, NCCL_INT8, 0, communicator, moving));
	must_pass(ncclRecv(a + elements / 2, fault == EXCHANGE_LENGTH ? bytes / 2 : bytes, NCCL_INT8, 0,
		communicator, moving));
	must_pass(ncclGroupEnd());
	must(cudaEventRecord(moved, moving));
	if (fault != EXCHANGE_ORDER)
		must(cudaStreamWaitEvent(compute, moved, 0));
	launch(touch, blocks, threads, 0, compute, b, (const float *)a, NONE);
	must(cudaDeviceSynchronize());
	must_pass(ncclCommDestroy(communicator));
	must(cudaEventDestroy(filled));
	must(cudaEventDestroy(moved));
	must(cudaStreamDestroy(compute));
	must(cudaStreamDestroy(moving));
}

static void run(enum fault fault)
{
	float *in = device(elements), *out = device(elements), *results = device(blocks), *host;
	must(cudaMallocHost((void **)&host, elements * sizeof *host));
	for (int i = 0; i < elements; i++)
		host[i] = (float)(i % 7);
	if (fault != UNINITIALIZED)
		must(cudaMemcpyAsync(in, host, elements * sizeof *host, cudaMemcpyHostToDevice, NULL));
	must(cudaDeviceSynchronize());
	launch(sums, blocks, threads, 0, NULL, results, (const float *)in, fault);
	launch(rotate, 1, threads, threads * sizeof(float), NULL, out, (const float *)in, fault);
	launch(fetch, 1, threads, 0, NULL, out, (const float *)in, fault);
	launch(touch, blocks, threads, 0, NULL, out, (const float *)in, fault);
	must(cudaGetLastError());
	must(cudaDeviceSynchronize());
	two_streams(fault, out, in, host);
	exchange(fault, out, in);
	if (fault == UNPINNED_COPY) {
		float ordinary[blocks];
		must(cudaMemcpyAsync(ordinary, results, sizeof ordinary, cudaMemcpyDeviceToHost, NULL));
	}
	if (fault == HOST_TOUCH)
		printf("%g\n", (double)*(volatile float *)results);
	if (fault == HOST_POINTER) {
		float ordinary[blocks];
		launch(touch, blocks, threads, 0, NULL, (float *)ordinary, (const float *)in, NONE);
	}
	if (fault == USE_AFTER_FREE) {
		must(cudaFree(out));
		launch(rotate, 1, threads, threads * sizeof(float), NULL, out, (const float *)in, NONE);
	}
	if (fault == TOO_MUCH_SHARED) {
		launch(rotate, 1, threads, 49 << 10, NULL, out, (const float *)in, NONE);
		must(cudaGetLastError());
	}
	must(cudaMemcpyAsync(host, results, blocks * sizeof *host, cudaMemcpyDeviceToHost, NULL));
	must(cudaDeviceSynchronize());
	printf("sums: %g %g %g %g %g\n", (double)host[0], (double)host[1], (double)host[2], (double)host[3],
		(double)host[4]);
	if (fault != LEAK)
		must(cudaFree(in));
	if (fault != USE_AFTER_FREE)
		must(cudaFree(out));
	must(cudaFree(results));
	must(cudaFreeHost(host));
}

int main(int argc, char **argv)
{
	for (int fault = 0; fault < FAULTS; fault++) {
		if (argc < 2)
			printf("%s\n", names[fault]);
		else if (strcmp(argv[1], names[fault]) == 0)
			run((enum fault)fault);
	}
	return 0;
}
