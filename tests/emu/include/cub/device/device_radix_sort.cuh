/* device_radix_sort.cuh: stands in for CUB's: pairs sorted by key, stable. */
#ifndef TESTS_EMU_DEVICE_RADIX_SORT_CUH
#define TESTS_EMU_DEVICE_RADIX_SORT_CUH

#include <kernels/cuda/machine.cuh>

#include <algorithm>
#include <vector>

void stream_queue(cudaStream_t stream, std::function<void()> work);

namespace cub
{
struct DeviceRadixSort {
	/* Without temporary memory: how much of it is wanted. It is used, so that another's use of it is
	 * seen. */
	template <typename Key, typename Value>
	static cudaError_t SortPairs(void *temporary, size_t &bytes, const Key *keys, Key *keys_out,
		const Value *values, Value *values_out, int count, int, int, cudaStream_t stream)
	{
		size_t wanted = (size_t)count * sizeof(int) + 1;
		if (!temporary) {
			bytes = wanted;
			return cudaSuccess;
		}
		if (bytes < wanted)
			return cudaErrorInvalidValue;
		stream_queue(stream, [=] {
			int *order = (int *)temporary;
			for (int i = 0; i < count; i++)
				order[i] = i;
			std::stable_sort(
				order, order + count, [=](int a, int b) { return keys[a] < keys[b]; });
			for (int i = 0; i < count; i++) {
				keys_out[i] = keys[order[i]];
				values_out[i] = values[order[i]];
			}
		});
		return cudaSuccess;
	}
};
} // namespace cub

#endif
