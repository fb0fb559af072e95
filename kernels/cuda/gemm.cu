/*
 * Matrix products by cuBLASLt. The algorithm of a shape is what the library's heuristic ranks first, asked
 * once and kept, so it does not depend on timing. Accumulation is f32 throughout (split-K partial sums too);
 * f32 products do not use TF32.
 */
#include "kernels/cuda/backend.cuh"

#include <cstdio>
#include <cstring>
#include <mutex>
#include <new>
#include <vector>

/* What decides an algorithm; compared as bytes. */
struct gemm_key {
	int transpose_a, transpose_b, m, n, k, lda, ldb, ldd, in, out, accumulate, epilogue, alignment;
};

struct gemm_plan {
	struct gemm_key key;
	bool found;
	cublasLtMatmulAlgo_t algorithm;
	cublasLtMatrixLayout_t a, b, d;
};

struct gemm_plans {
	std::mutex lock;
	std::vector<struct gemm_plan> items;
};

static cudaDataType_t cuda_type(enum dtype type)
{
	return type == DTYPE_F32 ? CUDA_R_32F : type == DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_16F;
}

enum status gemm_open(struct backend *b)
{
	b->plans = new (std::nothrow) gemm_plans;
	if (!b->plans)
		return b->host->error_set(STATUS_MEMORY, "no memory for the CUDA backend");
	cublasStatus_t status = cublasLtCreate(&b->lt);
	if (status == CUBLAS_STATUS_SUCCESS)
		return STATUS_OK;
	delete b->plans;
	return b->host->error_set(STATUS_UNSUPPORTED, "GPU %d: cuBLASLt does not start: %s", b->device,
		cublasLtGetStatusString(status));
}

void gemm_close(struct backend *b)
{
	for (struct gemm_plan &plan : b->plans->items) {
		(void)cublasLtMatrixLayoutDestroy(plan.a);
		(void)cublasLtMatrixLayoutDestroy(plan.b);
		(void)cublasLtMatrixLayoutDestroy(plan.d);
	}
	delete b->plans;
	(void)cublasLtDestroy(b->lt);
}

/* The largest power of two up to 256 that divides every pointer. */
static int common_alignment(const struct gemm *g)
{
	uintptr_t bits = (uintptr_t)g->a | (uintptr_t)g->b | (uintptr_t)g->d | (uintptr_t)g->aux |
			 (uintptr_t)g->bias | 256;
	return (int)(bits & -bits);
}

static struct gemm_key gemm_key_of(const struct gemm *g)
{
	struct gemm_key key;
	memset(&key, 0, sizeof key);
	key.transpose_a = g->transpose_a;
	key.transpose_b = g->transpose_b;
	key.m = g->m;
	key.n = g->n;
	key.k = g->k;
	key.lda = g->lda;
	key.ldb = g->ldb;
	key.ldd = g->ldd;
	key.in = g->in;
	key.out = g->out;
	key.accumulate = g->accumulate;
	key.epilogue = (int)g->epilogue;
	key.alignment = common_alignment(g);
	return key;
}

template <typename T> static void set(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t name, T value)
{
	(void)cublasLtMatmulDescSetAttribute(d, name, &value, sizeof value);
}
template <typename T>
static void prefer(cublasLtMatmulPreference_t p, cublasLtMatmulPreferenceAttributes_t name, T value)
{
	(void)cublasLtMatmulPreferenceSetAttribute(p, name, &value, sizeof value);
}

static cublasLtMatmulDesc_t gemm_describe(const struct gemm *g)
{
	cublasLtMatmulDesc_t d = NULL;
	if (cublasLtMatmulDescCreate(&d, CUBLAS_COMPUTE_32F, CUDA_R_32F) != CUBLAS_STATUS_SUCCESS)
		return NULL;
	set(d, CUBLASLT_MATMUL_DESC_TRANSA, g->transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
	set(d, CUBLASLT_MATMUL_DESC_TRANSB, g->transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
	if (g->epilogue != CUBLASLT_EPILOGUE_DEFAULT)
		set(d, CUBLASLT_MATMUL_DESC_EPILOGUE, g->epilogue);
	if (g->bias) {
		set(d, CUBLASLT_MATMUL_DESC_BIAS_POINTER, g->bias);
		set(d, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, cuda_type(g->in));
	}
	if (g->aux) {
		set(d, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, g->aux);
		set(d, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, (int64_t)g->ldd);
		set(d, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, cuda_type(g->in));
	}
	return d;
}

static struct gemm_plan gemm_plan_make(
	struct backend *b, const struct gemm *g, const struct gemm_key *key, cublasLtMatmulDesc_t description)
{
	struct gemm_plan plan;
	memset(&plan, 0, sizeof plan);
	plan.key = *key;
	(void)cublasLtMatrixLayoutCreate(&plan.a, cuda_type(g->in), g->transpose_a ? g->k : g->m,
		g->transpose_a ? g->m : g->k, g->lda);
	(void)cublasLtMatrixLayoutCreate(&plan.b, cuda_type(g->in), g->transpose_b ? g->n : g->k,
		g->transpose_b ? g->k : g->n, g->ldb);
	(void)cublasLtMatrixLayoutCreate(&plan.d, cuda_type(g->out), g->m, g->n, g->ldd);
	cublasLtMatmulPreference_t preference = NULL;
	(void)cublasLtMatmulPreferenceCreate(&preference);
	prefer(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (uint64_t)KERNELS_WORKSPACE);
	prefer(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
		(uint32_t)CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
	prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, (uint32_t)key->alignment);
	prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, (uint32_t)key->alignment);
	prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, (uint32_t)key->alignment);
	prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, (uint32_t)key->alignment);
	cublasLtMatmulHeuristicResult_t result;
	int count = 0;
	cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
		b->lt, description, plan.a, plan.b, plan.d, plan.d, preference, 1, &result, &count);
	plan.found = status == CUBLAS_STATUS_SUCCESS && count > 0;
	if (plan.found)
		plan.algorithm = result.algo;
	(void)cublasLtMatmulPreferenceDestroy(preference);
	return plan;
}

static struct gemm_plan gemm_plan_find(
	struct backend *b, const struct gemm *g, cublasLtMatmulDesc_t description)
{
	struct gemm_key key = gemm_key_of(g);
	std::lock_guard<std::mutex> guard(b->plans->lock);
	for (const struct gemm_plan &plan : b->plans->items)
		if (!memcmp(&plan.key, &key, sizeof key))
			return plan;
	b->plans->items.push_back(gemm_plan_make(b, g, &key, description));
	return b->plans->items.back();
}

bool gemm_run(struct backend *b, struct stream *s, const struct gemm *g)
{
	if (!s->workspace &&
		!stream_check(b, s, cudaMalloc(&s->workspace, KERNELS_WORKSPACE), "cuBLASLt's workspace")) {
		s->workspace = NULL;
		return true; /* kept; another way of computing it would not help */
	}
	cublasLtMatmulDesc_t description = gemm_describe(g);
	struct gemm_plan plan = gemm_plan_find(b, g, description);
	cublasStatus_t status = CUBLAS_STATUS_NOT_SUPPORTED;
	if (plan.found) {
		float one = 1, beta = g->accumulate ? 1 : 0;
		status = cublasLtMatmul(b->lt, description, &one, g->a, plan.a, g->b, plan.b, &beta, g->d,
			plan.d, g->d, plan.d, &plan.algorithm, s->workspace, KERNELS_WORKSPACE, s->handle);
	}
	(void)cublasLtMatmulDescDestroy(description);
	if (status == CUBLAS_STATUS_SUCCESS)
		return true;
	if (status == CUBLAS_STATUS_NOT_SUPPORTED && g->epilogue != CUBLASLT_EPILOGUE_DEFAULT)
		return false;
	char message[160];
	snprintf(message, sizeof message, "cuBLASLt: a product of %d x %d x %d (%d -> %d): %s", g->m, g->n,
		g->k, (int)g->in, (int)g->out, cublasLtGetStatusString(status));
	stream_fail(b, s, STATUS_UNSUPPORTED, message);
	return true;
}
