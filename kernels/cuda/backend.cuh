/*
 * backend.cuh: the host side that every operation of the CUDA backend shares.
 *
 * An operation launches on its stream and keeps the first failure there; stream_wait returns it. Scratch
 * memory belongs to a stream, so operations on different streams never share it; it grows at the first call
 * that needs more (the old block is freed after the stream is idle).
 */
#ifndef KERNELS_CUDA_BACKEND_CUH
#define KERNELS_CUDA_BACKEND_CUH

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/interface.h"

#include <cublasLt.h>
#include <cuda_runtime.h>
#include <stdlib.h>

struct stream {
	cudaStream_t handle;
	struct error_copy failure; /* the first since the last wait; STATUS_OK: none */
	void *scratch;
	size_t scratch_bytes;
	void *workspace; /* cuBLASLt's, KERNELS_WORKSPACE; NULL until the first product */
};

struct event {
	cudaEvent_t handle;
};

struct gemm_plans;
struct cudnn;
struct nccl;

struct backend {
	const struct library_host *host;
	enum dtype act, grad;
	int device, processors;
	int capability;       /* 90: 9.0 */
	bool fused_epilogues; /* GELU and its gradient inside the products; not in f32, where they are too
				 coarse */
	bool exact_logits;    /* f32 logits in training too */
	bool cached_logits;   /* a row of logits waits in shared memory between the two passes over it */
	size_t shared_bytes;  /* of a processor */
	int64_t logits_bytes; /* of the classifier's buffer */
	struct kernel_shapes shapes;
	struct stream default_stream;
	cublasLtHandle_t lt;
	struct gemm_plans *plans;
	uint64_t attention_bytes; /* that cuDNN's may take */
	struct cudnn *cudnn;      /* NULL: attention is by the own kernels, whatever is there */
	struct nccl *nccl;        /* NULL: it was not looked for, or not found */
};

static inline struct backend *backend_of(struct kernels *k)
{
	return (struct backend *)k->self;
}
/* The backend, its device being this thread's; every entry of the table begins with it. */
struct backend *backend_enter(struct kernels *k);
static inline struct stream *stream_of(struct kernels *k, struct stream *s)
{
	return s ? s : &backend_of(k)->default_stream;
}

/* Keeps a failure of the runtime (or of the launch just made) on the stream. True if there was none. */
bool stream_check(struct backend *b, struct stream *s, cudaError_t error, const char *what);
void stream_fail(struct backend *b, struct stream *s, enum status status, const char *message);
static inline void stream_launched(struct backend *b, struct stream *s, const char *what)
{
	(void)stream_check(b, s, cudaGetLastError(), what);
}
/* At least `bytes` of this stream's scratch, aligned to 256; NULL after keeping the failure. */
void *stream_scratch(struct backend *b, struct stream *s, size_t bytes, const char *what);

/* ---- types: runs the statement with A (and G) naming the table's types ---- */

#define WITH_ACT(b, ...)                                                                                     \
	do {                                                                                                 \
		switch ((b)->act) {                                                                          \
		case DTYPE_F32: {                                                                            \
			using A = float;                                                                     \
			__VA_ARGS__;                                                                         \
		} break;                                                                                     \
		case DTYPE_BF16: {                                                                           \
			using A = __nv_bfloat16;                                                             \
			__VA_ARGS__;                                                                         \
		} break;                                                                                     \
		case DTYPE_F16: {                                                                            \
			using A = __half;                                                                    \
			__VA_ARGS__;                                                                         \
		} break;                                                                                     \
		}                                                                                            \
	} while (0)

#define WITH_GRAD(b, ...)                                                                                    \
	do {                                                                                                 \
		if ((b)->grad == DTYPE_F32) {                                                                \
			using G = float;                                                                     \
			__VA_ARGS__;                                                                         \
		} else if ((b)->grad == DTYPE_BF16) {                                                        \
			using G = __nv_bfloat16;                                                             \
			__VA_ARGS__;                                                                         \
		} else {                                                                                     \
			using G = __half;                                                                    \
			__VA_ARGS__;                                                                         \
		}                                                                                            \
	} while (0)

/* The width of row operations: V = 8 where C allows it. */
#define WITH_WIDTH(C, ...)                                                                                   \
	do {                                                                                                 \
		if ((C) % 8 == 0) {                                                                          \
			constexpr int V = 8;                                                                 \
			__VA_ARGS__;                                                                         \
		} else {                                                                                     \
			constexpr int V = 1;                                                                 \
			__VA_ARGS__;                                                                         \
		}                                                                                            \
	} while (0)

/* A number of the environment's, for measurements that compare (tests/gpu); nobody else needs to set them. */
static inline int knob(const char *name, int otherwise)
{
	const char *value = getenv(name);
	return value && *value ? atoi(value) : otherwise;
}

static inline int ceiling(int64_t a, int64_t b)
{
	return (int)((a + b - 1) / b);
}

/* ---- matrix products (gemm.cu): column-major as cuBLAS counts, D[m][n] (+)= op(A) op(B) ---- */

struct gemm {
	bool transpose_a, transpose_b;
	int m, n, k;
	const void *a;
	int lda;
	const void *b;
	int ldb;
	void *d;
	int ldd;
	enum dtype in, out;
	bool accumulate;
	cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT; /* whose value is not 0 */
	const void *bias;                                        /* [m], of type in */
	void *aux;                                               /* leading dimension ldd, of type in */
};

enum status gemm_open(struct backend *b);
void gemm_close(struct backend *b);
/* Those of the file that $FERRY_CUDA_CHOICES names, if it does; `name` is the table's. */
enum status gemm_read_choices(struct backend *b, const char *name);
/* False, with nothing launched, where cuBLASLt has no algorithm for this epilogue. Without an epilogue that
 * is a failure kept on the stream. */
bool gemm_run(struct backend *b, struct stream *s, const struct gemm *g);
/* Choices (kernels.h), of products alone. */
int gemm_choice_count(struct backend *b);
bool gemm_choice_get(struct backend *b, int i, char text[KERNELS_CHOICE]);
bool gemm_choice_set(struct backend *b, const char *text);

/* ---- attention by cuDNN (cudnn.cu; attention.cuh) ---- */

/* Says in the table by what attention is, and with how many bytes. That there is no cuDNN is no failure. */
enum status cudnn_open(struct backend *b, struct kernels *table);
void cudnn_close(struct backend *b);
/* Choices, of ways of attention alone. */
bool attention_choice_get(struct backend *b, int i, char text[KERNELS_CHOICE]);
bool attention_choice_set(struct backend *b, const char *text);

/* first[n] (+)= sum over i < parts of partial[i][n], in an order that the shape decides; with a second,
 * partial[i][0][n] and [i][1][n] (linear.cu). */
void reduce_partials(struct backend *b, struct stream *s, void *first, void *second, const float *partial,
	int parts, int n, bool accumulate);

/* ---- peers (nccl.cu) ---- */

extern const struct peers nccl_peers;
/* Returns when the query says anything else than cudaErrorNotReady, or with NCCL's failure; at once where nothing has
 * joined, or has left, so that the caller waits itself behind it. Where b->nccl is. */
enum status nccl_watch(struct backend *b, cudaError_t (*query)(void *handle), void *handle);
void nccl_close(struct backend *b);

/* ---- the table's operations ---- */

void cuda_convert(struct kernels *k, struct stream *s, void *to, enum dtype to_type, const void *from,
	enum dtype from_type, uint64_t count);
void cuda_gather(struct kernels *k, struct stream *s, void *to, const void *from, const uint32_t *pieces,
	uint64_t count, uint32_t first, uint32_t room, enum dtype type);
void cuda_scatter(struct kernels *k, struct stream *s, void *to, const void *from, const uint32_t *pieces,
	uint64_t count, uint32_t first, uint32_t room, enum dtype type);
void cuda_embedding_forward(struct kernels *k, struct stream *s, void *out, const int32_t *tokens,
	const int32_t *positions, const void *wte, const void *wpe, int B, int T, int C,
	const struct dropout *drop);
void cuda_embedding_backward(struct kernels *k, struct stream *s, void *dwte, void *dwpe, const void *dout,
	const int32_t *tokens, const int32_t *positions, int B, int T, int C, int P,
	const struct dropout *drop, bool accumulate);
void cuda_layernorm_forward(struct kernels *k, struct stream *s, void *out, void *residual_out, float *mean,
	float *rstd, const void *residual_in, const void *branch, const void *gamma, const void *beta, int B,
	int T, int C, float eps, const struct dropout *drop);
void cuda_layernorm_backward(struct kernels *k, struct stream *s, void *dresidual, const void *dresidual_in,
	void *dbranch, void *dgamma, void *dbeta, const void *dout, const void *x, const void *gamma,
	const float *mean, const float *rstd, int B, int T, int C, const struct dropout *drop,
	bool accumulate);
void cuda_dropout_apply(struct kernels *k, struct stream *s, void *out, const void *in, int B, int T, int C,
	const struct dropout *drop);
void cuda_linear_forward(struct kernels *k, struct stream *s, void *out, void *pre, const void *in,
	const void *w, const void *bias, int R, int K, int N);
void cuda_linear_backward(struct kernels *k, struct stream *s, void *din, void *dw, void *dbias,
	const void *dout, const void *in, const void *w, const void *pre, int R, int K, int N,
	bool accumulate);
void cuda_gelu_forward(struct kernels *k, struct stream *s, void *out, const void *pre, uint64_t count);
void cuda_attention_forward(struct kernels *k, struct stream *s, void *out, float *lse, const void *qkv,
	const int32_t *first, int B, int T, int H, int D, const struct dropout *drop);
void cuda_attention_backward(struct kernels *k, struct stream *s, void *dqkv, const void *dout,
	const void *out, const float *lse, const void *qkv, const int32_t *first, int B, int T, int H, int D,
	const struct dropout *drop);
void cuda_attention_decode(struct kernels *k, struct stream *s, void *out, void *key_cache, void *value_cache,
	const void *qkv, int position, int B, int P, int H, int D);
void cuda_classifier(struct kernels *k, struct stream *s, float *loss, void *dx, void *dwte, const void *x,
	const void *wte, const int32_t *targets, int R, int C, int V, int VP, float scale, bool accumulate);
void cuda_logits(struct kernels *k, struct stream *s, float *out, const void *x, const void *wte, int R,
	int C, int V, int VP);
void cuda_gradient_stats(
	struct kernels *k, struct stream *s, struct gradient_stats *stats, const void *grad, uint64_t count);
void cuda_adamw(struct kernels *k, struct stream *s, const struct adamw *args, float *p_out, float *m_out,
	float *v_out, void *work, const float *p, const float *m, const float *v, const void *grad,
	uint64_t count);

#endif
