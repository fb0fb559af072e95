/*
 * attention.cuh: what the two attention paths share: the arguments of a launch, and who takes which.
 *
 * cuDNN's way (cudnn.cu) is asked first, where the GPU is one on which it is the faster, and dropout is 0. Else:
 * attention.cu has the plain path (any type, any T, D up to 256, one warp a row) and attention_decode;
 * attention_tensor.cuh the tensor-core path (bf16 and f16, D a multiple of 8 up to 128; with dropout T a
 * multiple of 4, so that a Philox block never straddles two rows), built once a type.
 */
#ifndef KERNELS_CUDA_ATTENTION_CUH
#define KERNELS_CUDA_ATTENTION_CUH

#include "kernels/cuda/backend.cuh"

struct attention {
	void *out;            /* forward: [R][C] written; backward: the forward's, read */
	float *lse;           /* [B][H][T] */
	void *dqkv;           /* [R][3C] */
	const void *dout;     /* [R][C] */
	float *delta;         /* [B][H][T]: sum over d of dout * out; scratch of the backward */
	const void *qkv;      /* [R][3C] */
	const int32_t *first; /* [R] or NULL */
	int B, T, H, D;
	float scale; /* 1 / sqrt(D) */
	struct device_dropout drop;
};

/* True: this is cuDNN's, which does it; a failure is kept on the stream. False: nothing is done. */
bool cudnn_attention(struct backend *b, struct stream *s, const struct attention &a, bool backward);

/* These return the launch's error. */
cudaError_t attention_forward_bf16(const struct attention &a, cudaStream_t stream);
cudaError_t attention_forward_f16(const struct attention &a, cudaStream_t stream);
cudaError_t attention_backward_bf16(const struct attention &a, cudaStream_t stream);
cudaError_t attention_backward_f16(const struct attention &a, cudaStream_t stream);

#endif
