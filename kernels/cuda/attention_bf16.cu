/* Tensor-core attention in bf16. */
#include "kernels/cuda/attention_tensor.cuh"

cudaError_t attention_forward_bf16(const struct attention &a, cudaStream_t stream)
{
	return choose_forward<__nv_bfloat16>(a, stream);
}

cudaError_t attention_backward_bf16(const struct attention &a, cudaStream_t stream)
{
	return choose_backward<__nv_bfloat16>(a, stream);
}
