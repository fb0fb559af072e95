/* Tensor-core attention in f16. */
#include "kernels/cuda/attention_tensor.cuh"

cudaError_t attention_forward_f16(const struct attention &a, cudaStream_t stream)
{
	return choose_forward<__half>(a, stream);
}

cudaError_t attention_backward_f16(const struct attention &a, cudaStream_t stream)
{
	return choose_backward<__half>(a, stream);
}
