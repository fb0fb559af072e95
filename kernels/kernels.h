/*
 * kernels.h: every numeric operation of training, declared once, as a table that each backend fills.
 *
 * kernels/cpu (oneDNN for matrix products, the rest in SIMD C) and kernels/cuda (cuBLASLt and CUDA C, in a
 * shared object that is loaded at run time) each give a `struct kernels`. Offloading uses two at once. A
 * table has fixed types, chosen when it is opened:
 *
 *    act    activations and working weights: f32, bf16 or f16. Arithmetic inside an operation is f32, but that
 *           attention may round its probabilities, and their gradients, to act where they enter a product.
 *    grad   gradients of parameters: f32 (always on the CPU), or act's type on a GPU.
 *
 * Pointers named `void *` in operations are of type act unless the comment says otherwise, and live in the
 * table's memory (memory_alloc). R = rows = B * T tokens (B sequences of T); C = hidden size; H = heads; D =
 * C / H; V = real vocabulary; VP = V padded (multiple of 128). Matrices are row-major. Weights are Conv1D
 * layout [in][out], as in Hugging Face's GPT-2. `accumulate` false overwrites a gradient, true adds to it.
 *
 * Operations are asynchronous on their stream and return nothing: a failure is kept and returned by the next
 * stream_wait (with its message). The CPU runs them at once and ignores the stream. One thread per stream at
 * a time. Results do not depend on timing: no reduction whose order varies. Same threads, same bits.
 */
#ifndef KERNELS_KERNELS_H
#define KERNELS_KERNELS_H

#include "common/error.h"
#include "kernels/peers.h"

#include <stdint.h>

enum {
	KERNELS_WORKSPACE = 64 << 20,  /* bytes that a GPU's matrix products take */
	KERNELS_ATTENTION = 260 << 20, /* bytes that attention may take there, where it is by cuDNN */
	KERNELS_ATTENTION_NAME = 256,
	KERNELS_CHOICE = 384, /* a choice as text (choice_get), its end included */
	/* What a GPU's attention takes at most: elements of a head; heads of a batch, B * H; tokens of a sequence that
	 * attention_decode is at. */
	KERNELS_GPU_HEAD = 256,
	KERNELS_GPU_HEADS = 65535,
	KERNELS_GPU_DECODED = 10240,
	KERNELS_PIECE = 64, /* elements of what gather and scatter move */
};

/* Bytes that the backward of attention by cuDNN takes for B sequences at a time, at most (kernels/cuda/cudnn_plan.cuh). */
static inline uint64_t kernels_attention_need(int B, int T, int H)
{
	uint64_t heads = (uint64_t)B * (uint64_t)H, t = (uint64_t)T, whole = (t + 127) / 128 * 128;
	return heads * (2 * whole * whole + 4 * t) + 4096;
}

enum dtype { DTYPE_F32, DTYPE_BF16, DTYPE_F16 };
static inline size_t dtype_bytes(enum dtype type)
{
	return type == DTYPE_F32 ? 4 : 2;
}
const char *dtype_name(enum dtype type); /* "fp32", "bf16", "fp16" */

/*
 * Does attention go by cuDNN on a GPU of this compute capability (90: 9.0), where cuDNN is found?
 *
 * The own kernels use mma.sync: on an H100 216 TFLOP/s forward and 137 backward (tests/gpu/results), a fifth of what its
 * tensor cores do; those of compute capability 9.0 and later are at full speed by instructions of their own alone (wgmma,
 * tcgen05), which cuDNN's kernels use. On 8.x cuDNN has mma.sync, too. The backward by cuDNN is the same bits every time on
 * 9.x; what it has for 10.0 and later is not known to be. A rule, and no race of the two, since the way decides bits. It is
 * yet to be confirmed by tests/gpu/run's benchmark.
 */
static inline bool kernels_prefer_cudnn(int capability, enum dtype act, bool backward)
{
	return act != DTYPE_F32 && capability >= 90 && (!backward || capability < 100);
}

/*
 * Dropout is counter-based (kernels/dropout.h): element e of a sequence is kept if word e of
 * Philox(key = seed; window number in the run, layer, site) is at least p * 2^32, and is then scaled by
 * 1/(1-p). So it is the same on every backend, batching and number of ranks, forward and backward. p = 0 is
 * no dropout.
 */
enum dropout_site { DROPOUT_EMBEDDING, DROPOUT_ATTENTION, DROPOUT_ATTENTION_OUTPUT, DROPOUT_MLP_OUTPUT };
struct dropout {
	float p; /* [0, 1) */
	uint64_t seed;
	uint64_t window; /* number in the run of the batch's first sequence; sequence b is window + b */
	uint32_t layer;
	enum dropout_site site;
};

struct adamw {
	float learning_rate, beta1, beta2, epsilon, weight_decay;
	uint64_t step;             /* t, 1 for the first update */
	float gradient_multiplier; /* gradients are multiplied by this first (1 / loss scale, times clipping)
				    */
};

struct gradient_stats {
	double sum_of_squares; /* of the gradients as stored (still scaled); summed in blocks in a fixed order
				*/
	uint64_t nonfinite;    /* how many are inf or NaN */
};

/* The largest shapes an instance will see; scratch memory is taken from it. */
struct kernel_shapes {
	int batch, sequence, hidden, heads, vocabulary, vocabulary_padded;
	int forward_uses; /* how often a step uses each weight (gradient accumulation): worth packing when > 1
			   */
	bool training;    /* false: no backward */
};

struct stream; /* a queue of work; NULL is the default stream */
struct event;

struct kernels {
	char name[96]; /* "CPU avx512, 2 threads, oneDNN 2.6.3", "NVIDIA H100 80GB HBM3, ..." */
	/* A GPU's attention: "cuDNN 9.19.0 where dropout is 0 ...", and the log tells the shapes that it does not take; "ferry's
	 * own kernels (no cuDNN: ...)"; "" on the CPU */
	char attention[KERNELS_ATTENTION_NAME];
	enum dtype act, grad;
	/* A GPU's operations take memory of their own: up to so many bytes of logits (128 rows at least), which
	 * others use too, and KERNELS_WORKSPACE. 0: the CPU (kernels_cpu_scratch). */
	uint64_t logits_bytes;
	uint64_t
		attention_bytes; /* of the same memory: that attention without dropout may take in training */
	uint64_t memory_bytes;   /* a GPU's memory, free or not; 0: the CPU */
	void *self;              /* the backend's own state */
	const struct peers *peers; /* to other processes' devices (peers.h); NULL: no way */

	/* ---- life ---- */
	void (*close)(struct kernels *k);
	/* Takes scratch memory for these shapes; before any operation. May be called again with larger ones.
	 */
	enum status (*reserve)(struct kernels *k, const struct kernel_shapes *shapes) MUST_USE;

	/* ---- memory, streams, events (bytes; memory is zeroed) ---- */
	enum status (*memory_alloc)(struct kernels *k, void **out, size_t bytes, const char *what) MUST_USE;
	void (*memory_free)(struct kernels *k, void *block, size_t bytes);
	/* Host memory that asynchronous copies may use (pinned on a GPU machine). */
	enum status (*host_alloc)(struct kernels *k, void **out, size_t bytes, const char *what) MUST_USE;
	void (*host_free)(struct kernels *k, void *block, size_t bytes);
	/* Bytes that are free now, for memory_alloc and the operations' own needs; 0: unknown. */
	uint64_t (*memory_unused)(struct kernels *k);
	enum status (*stream_open)(struct kernels *k, struct stream **out) MUST_USE;
	void (*stream_close)(struct kernels *k, struct stream *s);
	/* Waits for everything queued on s; returns the first failure since the last wait. */
	enum status (*stream_wait)(struct kernels *k, struct stream *s) MUST_USE;
	enum status (*event_open)(struct kernels *k, struct event **out) MUST_USE;
	void (*event_close)(struct kernels *k, struct event *e);
	void (*event_record)(struct kernels *k, struct event *e, struct stream *s);
	void (*event_await)(struct kernels *k, struct event *e, struct stream *s); /* s waits for e */
	enum status (*event_wait)(struct kernels *k, struct event *e) MUST_USE;    /* the host waits for e */
	double (*event_seconds)(struct kernels *k, struct event *from, struct event *to); /* both done */
	void (*copy_in)(struct kernels *k, struct stream *s, void *device, const void *host, size_t bytes);
	void (*copy_out)(struct kernels *k, struct stream *s, void *host, const void *device, size_t bytes);
	void (*copy)(struct kernels *k, struct stream *s, void *to, const void *from, size_t bytes);
	void (*zero)(struct kernels *k, struct stream *s, void *block, size_t bytes);
	void (*convert)(struct kernels *k, struct stream *s, void *to, enum dtype to_type, const void *from,
		enum dtype from_type, uint64_t count); /* round to nearest even */
	/* Pieces of KERNELS_PIECE elements of a type, which lie at multiples of their size: to[i] = from[pieces[i] - first], and
	 * to[pieces[i] - first] = from[i]. All in the table's memory; no piece comes twice. What is not within [first,
	 * first + room) is left alone: after a copy that failed a list may hold anything. */
	void (*gather)(struct kernels *k, struct stream *s, void *to /* [count] */, const void *from,
		const uint32_t *pieces /* [count] */, uint64_t count, uint32_t first, uint32_t room,
		enum dtype type);
	void (*scatter)(struct kernels *k, struct stream *s, void *to, const void *from /* [count] */,
		const uint32_t *pieces /* [count] */, uint64_t count, uint32_t first, uint32_t room,
		enum dtype type);

	/* ---- embedding ----
	 * out[r] = drop(wte[tokens[r]] + wpe[positions ? positions[r] : r % T]). Backward adds to dwte (the
	 * classifier wrote it) in token order, and writes or adds dwpe. Tokens are in [0, V). */
	void (*embedding_forward)(struct kernels *k, struct stream *s, void *out /* [R][C] */,
		const int32_t *tokens /* [R] */, const int32_t *positions /* [R] or NULL */,
		const void *wte /* [VP][C] */, const void *wpe /* [>=T][C] */, int B, int T, int C,
		const struct dropout *drop);
	void (*embedding_backward)(struct kernels *k, struct stream *s, void *dwte /* grad [VP][C], += */,
		void *dwpe /* grad [P][C] */, const void *dout /* [R][C] */, const int32_t *tokens,
		const int32_t *positions, int B, int T, int C, int P, const struct dropout *drop,
		bool accumulate);

	/* ---- residual + layernorm, fused ----
	 * x = residual_out = residual_in + drop(branch)   (branch NULL: residual_out is not written, x = residual_in)
	 * out = (x - mean) * rstd * gamma + beta          eps inside the square root
	 * residual_out may be residual_in. */
	void (*layernorm_forward)(struct kernels *k, struct stream *s, void *out /* [R][C] */,
		void *residual_out /* [R][C] */, float *mean /* f32 [R] */, float *rstd /* f32 [R] */,
		const void *residual_in /* [R][C] */, const void *branch /* [R][C] or NULL */,
		const void *gamma /* [C] */, const void *beta /* [C] */, int B, int T, int C, float eps,
		const struct dropout *drop);
	/* dresidual += d(layernorm)/dx applied to dout (dresidual_in NULL: it is 0); x is the normalized
	 * input (residual_out above). dbranch (or NULL) = the new dresidual through the dropout of that
	 * branch. */
	void (*layernorm_backward)(struct kernels *k, struct stream *s, void *dresidual /* [R][C] */,
		const void *dresidual_in /* [R][C], may be dresidual, or NULL */,
		void *dbranch /* [R][C] or NULL */, void *dgamma /* grad [C] */, void *dbeta /* grad [C] */,
		const void *dout /* [R][C] */, const void *x /* [R][C] */, const void *gamma,
		const float *mean, const float *rstd, int B, int T, int C, const struct dropout *drop,
		bool accumulate);
	/* out = drop(in); for a branch's gradient where layernorm_backward did not give it. out may be in. */
	void (*dropout_apply)(struct kernels *k, struct stream *s, void *out /* [R][C] */, const void *in,
		int B, int T, int C, const struct dropout *drop);

	/* ---- linear ----
	 * pre = in w + bias; out = pre, or gelu(pre) where `pre` is given (tanh form). `pre` is kept for the
	 * backward. */
	void (*linear_forward)(struct kernels *k, struct stream *s, void *out /* [R][N] */,
		void *pre /* [R][N] or NULL */, const void *in /* [R][K] */, const void *w /* [K][N] */,
		const void *bias /* [N] */, int R, int K, int N);
	/* dw = in^T dout; dbias = column sums of dout; din = dout w^T, times gelu'(pre) where `pre` (of the
	 * layer below) is given. din NULL: not wanted; it may be `in`, which dw is the last to read. */
	void (*linear_backward)(struct kernels *k, struct stream *s, void *din /* [R][K] or NULL */,
		void *dw /* grad [K][N] */, void *dbias /* grad [N] */, const void *dout /* [R][N] */,
		const void *in /* [R][K] */, const void *w /* [K][N] */, const void *pre /* [R][K] or NULL */,
		int R, int K, int N, bool accumulate);
	/* Recomputes out = gelu(pre) (activation checkpointing, and backends that do not keep both). */
	void (*gelu_forward)(struct kernels *k, struct stream *s, void *out, const void *pre, uint64_t count);

	/* ---- causal attention; T x T never exists, but for what KERNELS_ATTENTION allows ----
	 * qkv[r] = q | k | v, each [H][D]. Row i of a sequence sees columns first[i]..i, first = 0 where NULL
	 * (else [R], per sequence, for documents that must not see each other). lse = logsumexp of the scaled
	 * scores, for the backward. Scale 1/sqrt(D). Dropout on probabilities: element (h * T + i) * T + j.
	 * On a GPU either may be by cuDNN (choices).
	 */
	void (*attention_forward)(struct kernels *k, struct stream *s, void *out /* [R][C] */,
		float *lse /* f32 [B][H][T] */, const void *qkv /* [R][3C] */,
		const int32_t *first /* [R] or NULL */, int B, int T, int H, int D,
		const struct dropout *drop);
	void (*attention_backward)(struct kernels *k, struct stream *s, void *dqkv /* [R][3C] */,
		const void *dout /* [R][C] */, const void *out /* [R][C] */, const float *lse,
		const void *qkv, const int32_t *first, int B, int T, int H, int D,
		const struct dropout *drop);
	/* One new token a sequence: appends its k, v at `position` of the caches and attends to 0..position.
	 */
	void (*attention_decode)(struct kernels *k, struct stream *s, void *out /* [B][C] */,
		void *key_cache /* [B][H][P][D] */, void *value_cache /* [B][H][P][D] */,
		const void *qkv /* [B][3C] */, int position, int B, int P, int H, int D);

	/* ---- classifier: head product, softmax over the V real ids, cross entropy, all gradients, by chunks of rows ----
	 * loss[r] = logsumexp(logits) - logits[targets[r]]; 0 where targets[r] < 0 (not
	 * counted: no gradient either). With dx: dx = (softmax - onehot) * scale * wte and dwte (+)= its
	 * transpose with x; padded rows get 0. dx NULL: loss alone. */
	void (*classifier)(struct kernels *k, struct stream *s, float *loss /* f32 [R] */,
		void *dx /* [R][C] or NULL */, void *dwte /* grad [VP][C] or NULL */,
		const void *x /* [R][C] */, const void *wte /* [VP][C] */, const int32_t *targets /* [R] */,
		int R, int C, int V, int VP, float scale, bool accumulate);
	/* logits[r][v] for the V real ids, f32. For generation and tests. */
	void (*logits)(struct kernels *k, struct stream *s, float *out /* f32 [R][V] */, const void *x,
		const void *wte, int R, int C, int V, int VP);

	/* ---- optimizer ---- */
	/* *stats (in the table's memory) of `count` gradients. */
	void (*gradient_stats)(struct kernels *k, struct stream *s, struct gradient_stats *stats,
		const void *grad, uint64_t count);
	/*
	 * One fused pass of AdamW (kernels/adamw.h has the arithmetic): reads p, m, v, g; writes p_out,
	 * m_out, v_out (which may be the same arrays) and, unless NULL, `work` (act) = p_out rounded.
	 */
	void (*adamw)(struct kernels *k, struct stream *s, const struct adamw *args, float *p_out,
		float *m_out, float *v_out, void *work, const float *p, const float *m, const float *v,
		const void *grad, uint64_t count);
	/* Weights have changed: packed copies, if the backend keeps any, are stale. */
	void (*weights_changed)(struct kernels *k);

	/* ---- choices; NULL both: nothing is chosen (the CPU) ----
	 * Where an operation can be done in several ways that differ in the last bits (algorithms of a product;
	 * attention by cuDNN or by the own kernels), the way is chosen at its first use and kept. A checkpoint
	 * records the choices, so that a resumed run does the same. Each is a line of text, a version in it, which
	 * a table of the same name alone understands. Not while another thread is in an operation.
	 *
	 * The i-th choice, in an order that depends on nothing but the choices; false: there are no more. */
	bool (*choice_get)(struct kernels *k, int i, char text[KERNELS_CHOICE]);
	/* Before the operation's first use. False: it is no choice, or a way that this device or library does not
	 * have; then it is chosen as if nothing had been said. */
	bool (*choice_set)(struct kernels *k, const char *text);
};

struct kernels_config {
	enum dtype act;
	enum dtype grad;
	int threads;      /* CPU; 0: all available */
	int device;       /* GPU number */
	uint64_t packing; /* CPU: bytes allowed for packed copies of weights; 0: none */
	/* GPU: bytes allowed for logits; 0: an 80th of its memory. Decides the last bits of results. */
	uint64_t logits_bytes;
};

/* Would a GPU's attention_forward and _backward take these sequences? STATUS_UNSUPPORTED says what is too much. */
enum status kernels_check_gpu(uint64_t batch, int hidden, int heads) MUST_USE;

/* The CPU backend; always there. */
enum status kernels_open_cpu(const struct kernels_config *config, struct kernels *out) MUST_USE;
/* Bytes that its operations take for themselves at these shapes; what the products' library takes is not known. */
uint64_t kernels_cpu_scratch(const struct kernels_config *config, const struct kernel_shapes *shapes);

/*
 * The CUDA backend from ferry-cuda.so (beside the program, in ../lib/ferry, or $FERRY_CUDA).
 * STATUS_UNSUPPORTED says why not: not built, no driver, no GPU.
 */
enum status kernels_open_cuda(const struct kernels_config *config, struct kernels *out) MUST_USE;

#endif
