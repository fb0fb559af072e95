#include "kernels/kernels.h"

const char *dtype_name(enum dtype type)
{
	static const char *const names[] = {"fp32", "bf16", "fp16"};
	return names[type];
}

enum status kernels_check_gpu(uint64_t batch, int hidden, int heads)
{
	FAIL_IF(hidden / heads > KERNELS_GPU_HEAD, STATUS_UNSUPPORTED,
		"heads of %d elements (hidden size %d, %d heads): a GPU takes at most %d; give more heads "
		"(--num-attention-heads) to a new model, or use --device cpu",
		hidden / heads, hidden, heads, KERNELS_GPU_HEAD);
	FAIL_IF(batch * (uint64_t)heads > KERNELS_GPU_HEADS, STATUS_UNSUPPORTED,
		"%llu windows of %d heads at a time: a GPU takes at most %d heads at once; give a smaller "
		"--batch-size",
		(unsigned long long)batch, heads, KERNELS_GPU_HEADS);
	return STATUS_OK;
}
