/*
 * cpu.h: what the files of the CPU backend share.
 *
 * cpu_backend.c opens it and owns memory, streams and failures; gemm.h multiplies matrices; simd/ holds the
 * operations, compiled once for each instruction set (common/simd.h) and chosen when the backend is opened.
 *
 * Threads are OpenMP's, because oneDNN's are. Work is divided statically, by shape and thread count alone, so
 * the same threads give the same bits. One operation at a time: scratch memory is shared by all.
 */
#ifndef KERNELS_CPU_CPU_H
#define KERNELS_CPU_CPU_H

#include "common/simd.h"
#include "kernels/kernels.h"

#ifdef _OPENMP
#include <omp.h>
#define CPU_THREAD omp_get_thread_num()
#else
#define CPU_THREAD 0
#endif

/* Scratch memory by use, so that an operation and the product that it calls do not share a block. */
enum cpu_scratch { CPU_SCRATCH_OPERATION, CPU_SCRATCH_A, CPU_SCRATCH_B, CPU_SCRATCH_C, CPU_SCRATCHES };

struct gemm;
struct cpu {
	int threads;
	struct gemm *gemm;
	uint64_t packing; /* bytes allowed for packed copies of weights */
	struct kernel_shapes shapes;
	struct {
		void *block;
		size_t bytes;
	} scratch[CPU_SCRATCHES];
	struct error_copy failure; /* the first since the last stream_wait */
};

static inline struct cpu *cpu_of(const struct kernels *k)
{
	return k->self;
}

/* At least `bytes`, aligned to 64, contents undefined, until the next call for the same use. NULL: the
 * failure is kept for stream_wait, and the operation returns at once. */
void *cpu_scratch_get(struct kernels *k, enum cpu_scratch use, size_t bytes);
/* Keeps the calling thread's error for stream_wait, unless one is kept already. */
void cpu_fail(struct kernels *k, enum status status);
/* False, and a failure is kept, where gradients are not f32: only gradient_stats and adamw take others. */
bool cpu_gradients_are_f32(struct kernels *k);

/* Whether the processor multiplies bf16 (vdpbf16ps), and FERRY_ISA lets it. */
bool cpu_has_bf16(void);

/* Share i of n rows: [cpu_share(n, i, threads), cpu_share(n, i + 1, threads)). */
static inline int64_t cpu_share(int64_t n, int i, int threads)
{
	return n * i / threads;
}

/* ---- the operations in simd/, with the types of kernels.h's table ---- */

#define CPU_OPERATIONS(X)                                                                                    \
	X(convert)                                                                                           \
	X(embedding_forward)                                                                                 \
	X(embedding_backward)                                                                                \
	X(layernorm_forward)                                                                                 \
	X(layernorm_backward)                                                                                \
	X(dropout_apply)                                                                                     \
	X(linear_forward)                                                                                    \
	X(linear_backward)                                                                                   \
	X(gelu_forward)                                                                                      \
	X(attention_forward)                                                                                 \
	X(attention_backward)                                                                                \
	X(attention_decode)                                                                                  \
	X(classifier)                                                                                        \
	X(logits)                                                                                            \
	X(gradient_stats)                                                                                    \
	X(adamw)

#define CPU_DECLARE(name)                                                                                    \
	extern __typeof__(*((struct kernels *)0)->name) cpu_##name##_base, cpu_##name##_avx2,                \
		cpu_##name##_avx512;
CPU_OPERATIONS(CPU_DECLARE)
#undef CPU_DECLARE

/* to[r][c] = from[r][c] in another type; leading dimensions in elements. For gemm.c. */
typedef void cpu_convert_matrix(struct kernels *k, void *to, enum dtype to_type, size_t to_ld,
	const void *from, enum dtype from_type, size_t from_ld, int rows, int columns);
extern cpu_convert_matrix cpu_convert_matrix_base, cpu_convert_matrix_avx2, cpu_convert_matrix_avx512;

/* Bytes of scratch that an operation takes for these shapes, for reserve. */
typedef size_t cpu_attention_scratch(int threads, int T, int D, bool training);
extern cpu_attention_scratch cpu_attention_scratch_base, cpu_attention_scratch_avx2,
	cpu_attention_scratch_avx512;

/* Attention where act is bf16 and cpu_has_bf16. */
extern __typeof__(*((struct kernels *)0)->attention_forward) cpu_attention_forward_bf16;
extern __typeof__(*((struct kernels *)0)->attention_backward) cpu_attention_backward_bf16;
extern cpu_attention_scratch cpu_attention_scratch_bf16;

int cpu_classifier_rows(int R, int VP); /* of a chunk */

#endif
