/*
 * cudnn_plan.cuh: causal attention as a graph of cuDNN's operations, and an execution plan of it.
 *
 * Host code alone, without the CUDA runtime: a plan is made for the device of a handle, or for one that is described
 * (tests/gpu/cudnn_plans.cc: no GPU is needed). cuDNN fuses the whole graph into one or a few kernels, whose engines
 * (9.19: "runtime fusion engines") know exactly this graph. It is made of single operations because these are what every
 * cuDNN 9 takes; its own attention operation has no causal mask before 9.21.
 *
 *    forward    S = Q K^T * scale; -inf above the diagonal; stats = max + log(sum(exp(S - max))); O = softmax(S) V
 *    backward   delta = sum(dO * O); P = exp(S - stats); dV = P^T dO; dS = (dO V^T - delta) * P * scale; dK = dS^T Q;
 *               dQ = dS K
 *
 * stats are the table's lse (kernels.h), so that a forward and a backward of different ways go together.
 *
 * dQ sums over blocks of keys that run at a time. cuDNN has two forms of it: into f32 sums by atomic additions, whose order
 * shows; or by a product of its own from dS, which it keeps: 2 bytes for each of B H T T elements. The graph asks for the
 * second, which is the same bits every time (NVIDIA's own front end does so where a deterministic backward is wanted of
 * compute capability 9.x). The caller keeps that memory small by a few sequences at a time.
 */
#ifndef KERNELS_CUDA_CUDNN_PLAN_CUH
#define KERNELS_CUDA_CUDNN_PLAN_CUH

#include "kernels/cuda/cudnn.cuh"
#include "kernels/kernels.h"

#include <vector>

enum { CUDNN_KNOBS = 32, CUDNN_REASON = 256 };

struct cudnn_shape {
	int backward; /* 0 or 1 */
	int type;     /* enum dtype: DTYPE_BF16 or DTYPE_F16 */
	int B, T, H, D;
};

/* What cuDNN calls an engine configuration: it decides the bits. */
struct cudnn_engine {
	int64_t index;
	int knobs;
	int types[CUDNN_KNOBS]; /* cudnnBackendKnobType_t */
	int64_t values[CUDNN_KNOBS];
};

/* For whom: one of the two. */
struct cudnn_device {
	struct cudnn_handle *handle;
	void *properties; /* a descriptor */
};

struct cudnn_plan {
	struct cudnn_shape shape;
	void *plan; /* the last of the descriptors */
	struct cudnn_engine engine;
	int64_t workspace; /* bytes, aligned to 256 */
	std::vector<void *> descriptors;
};

/* Pointers of a call, [R][3C] or [R][C] as in kernels.h; NULL where the direction has none. */
struct cudnn_arguments {
	const void *qkv, *dout;
	void *out; /* of the backward: read */
	float *stats;
	void *dqkv;
	float *delta;    /* [B][H][T], of the backward alone: scratch */
	void *workspace; /* the plan's bytes */
};

static inline size_t cudnn_delta_bytes(const struct cudnn_shape *shape)
{
	return shape->backward ? (size_t)shape->B * (size_t)shape->H * (size_t)shape->T * sizeof(float) : 0;
}

/* Bytes of workspace that a plan of this shape may take: what `ferry plan` and train count of it (kernels_attention_need).
 * The forward's are too few for anyone to count (9.19 takes 256). */
static inline int64_t cudnn_workspace_most(const struct cudnn_shape *shape)
{
	enum { FORWARD = 4096 };
	return shape->backward ? (int64_t)(kernels_attention_need(shape->B, shape->T, shape->H) -
					   cudnn_delta_bytes(shape))
			       : (int64_t)FORWARD;
}

/* `file` or, NULL, libcudnn.so.9 where the loader looks. False: why. */
bool cudnn_load(const char *file, struct cudnn_functions *call, char why[CUDNN_REASON]);

/*
 * Of the configurations in the order in which cuDNN's heuristic ranks them, the first that is deterministic, takes at most
 * `most` bytes of workspace and can be planned; with `engine`, that one or none. False: why not, and nothing is held.
 */
bool cudnn_plan_open(const struct cudnn_functions *call, const struct cudnn_device *device,
	const struct cudnn_shape *shape, const struct cudnn_engine *engine, int64_t most,
	struct cudnn_plan *out, char why[CUDNN_REASON]);
void cudnn_plan_close(const struct cudnn_functions *call, struct cudnn_plan *plan);

/* On the handle's stream. False: why. One thread at a time has to do with a handle. */
bool cudnn_plan_run(const struct cudnn_functions *call, struct cudnn_handle *handle,
	const struct cudnn_plan *plan, const struct cudnn_arguments *arguments, char why[CUDNN_REASON]);

#endif
