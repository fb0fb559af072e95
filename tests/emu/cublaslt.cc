/*
 * cuBLASLt: D = op(A) op(B) (+ D), column-major, f32 accumulation over k in order, so many products at a time
 * as the algorithm says, and the epilogues that kernels/cuda asks for. Epilogues other than none have no algorithm unless rows and
 * leading dimensions are multiples of 8 and pointers of 16 bytes, which is about what the real one asks for
 * in half precision. Unlike the rest of the emulator this file is instrumented: its reads and writes are the
 * device's.
 */
#include "tests/emu/emulator.h"

#include <cublasLt.h>
#include <stdlib.h>
#include <unistd.h>

#include <vector>

struct emu_lt {
	int unused;
};
struct emu_preference {
	int unused;
};
struct emu_layout {
	cudaDataType type;
	int64_t rows, columns, ld;
};
struct emu_matmul {
	cublasOperation_t transpose_a, transpose_b;
	cublasLtEpilogue_t epilogue;
	const void *bias;
	cudaDataType bias_type;
	void *aux;
	int64_t aux_ld;
	cudaDataType aux_type;
};

static float element(const void *from, cudaDataType type, int64_t i)
{
	switch (type) {
	case CUDA_R_32F:
		return ((const float *)from)[i];
	case CUDA_R_16F:
		return __half2float(((const __half *)from)[i]);
	case CUDA_R_16BF:
		return __bfloat162float(((const __nv_bfloat16 *)from)[i]);
	}
	abort();
}

static void put(void *to, cudaDataType type, int64_t i, float value)
{
	switch (type) {
	case CUDA_R_32F:
		((float *)to)[i] = value;
		return;
	case CUDA_R_16F:
		((__half *)to)[i] = __float2half_rn(value);
		return;
	case CUDA_R_16BF:
		((__nv_bfloat16 *)to)[i] = __float2bfloat16_rn(value);
		return;
	}
}

static float gelu(float x)
{
	return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
}

static float gelu_slope(float x)
{
	float t = tanhf(0.7978845608f * (x + 0.044715f * x * x * x));
	return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * 0.7978845608f * (1.0f + 0.134145f * x * x);
}

/* An algorithm is the first of its eight numbers, 1 and up; the others are 0. */
static const int part_of_algorithm[] = {32, 4, 12, 7}; /* products summed before they join the rest */
enum { ALGORITHMS = sizeof part_of_algorithm / sizeof *part_of_algorithm };

static bool has_algorithm(int number)
{
	return number >= 0 && number < ALGORITHMS && number != emu_setting("FERRY_EMU_LT_LACKS", -1);
}

/* Its number, or -1. */
static int algorithm_number(const cublasLtMatmulAlgo_t *algorithm)
{
	for (int i = 1; i < 8; i++)
		if (algorithm->data[i])
			return -1;
	int number = algorithm->data[0] <= ALGORITHMS ? (int)algorithm->data[0] - 1 : -1;
	return has_algorithm(number) ? number : -1;
}

struct product {
	struct emu_matmul how;
	struct emu_layout a_layout, b_layout, d_layout;
	const void *a, *b;
	void *d;
	bool add;
	int part;
	bool slow;
};

/* column[m] += factor * a[m]; all of it is the product's own memory. */
__attribute__((no_sanitize("thread"), no_sanitize("address"))) static void accumulate(
	float *column, const float *a, float factor, int64_t rows)
{
	for (int64_t i = 0; i < rows; i++)
		column[i] += factor * a[i];
}

static void finish(const struct product *p, int64_t n, const float *column)
{
	const struct emu_matmul *how = &p->how;
	int64_t rows = p->d_layout.rows;
	for (int64_t m = 0; m < rows; m++) {
		int64_t at = n * p->d_layout.ld + m, aux = n * how->aux_ld + m;
		float x = column[m];
		if (how->bias)
			x += element(how->bias, how->bias_type, m);
		if (how->epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS) {
			put(how->aux, how->aux_type, aux, x);
			x = gelu(x);
		} else if (how->epilogue == CUBLASLT_EPILOGUE_DGELU) {
			x *= gelu_slope(element(how->aux, how->aux_type, aux));
		}
		if (p->add)
			x += element(p->d, p->d_layout.type, at);
		put(p->d, p->d_layout.type, at, x);
	}
}

static void multiply(const struct product *p)
{
	if (p->slow)
		usleep(2000);
	bool ta = p->how.transpose_a == CUBLAS_OP_T, tb = p->how.transpose_b == CUBLAS_OP_T;
	int64_t m = p->d_layout.rows, n = p->d_layout.columns,
		k = ta ? p->a_layout.rows : p->a_layout.columns;
	std::vector<float> a((size_t)(m * k)), column((size_t)m), part((size_t)m);
	for (int64_t l = 0; l < k; l++)
		for (int64_t i = 0; i < m; i++)
			a[(size_t)(l * m + i)] = element(
				p->a, p->a_layout.type, ta ? i * p->a_layout.ld + l : l * p->a_layout.ld + i);
	for (int64_t j = 0; j < n; j++) {
		column.assign((size_t)m, 0.0f);
		for (int64_t l = 0; l < k; l++) {
			if (l % p->part == 0)
				part.assign((size_t)m, 0.0f);
			int64_t at = tb ? l * p->b_layout.ld + j : j * p->b_layout.ld + l;
			accumulate(part.data(), a.data() + l * m, element(p->b, p->b_layout.type, at), m);
			if (l % p->part == p->part - 1 || l == k - 1)
				accumulate(column.data(), part.data(), 1, m);
		}
		finish(p, j, column.data());
	}
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t description, const void *alpha,
	const void *a, cublasLtMatrixLayout_t a_layout, const void *b, cublasLtMatrixLayout_t b_layout,
	const void *beta, const void *c, cublasLtMatrixLayout_t c_layout, void *d,
	cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algorithm, void *workspace,
	size_t workspace_bytes, cudaStream_t stream)
{
	float add = *(const float *)beta;
	int number = algorithm_number(algorithm);
	if (number < 0 || *(const float *)alpha != 1 || (add != 0 && add != 1) || c != d ||
		c_layout != d_layout || !device_memory_holds(workspace, workspace_bytes))
		return CUBLAS_STATUS_INVALID_VALUE;
	struct product p = {*description, *a_layout, *b_layout, *d_layout, a, b, d, add != 0,
		part_of_algorithm[number], number == emu_setting("FERRY_EMU_LT_SLOW", -1)};
	stream_queue(stream, [p] { multiply(&p); });
	return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t check(cublasLtMatmulDesc_t description, cublasLtMatrixLayout_t a,
	cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t d)
{
	bool ta = description->transpose_a == CUBLAS_OP_T, tb = description->transpose_b == CUBLAS_OP_T;
	bool whole = (d->rows | d->ld | a->ld | b->ld) % 8 == 0 &&
		     ((uintptr_t)description->aux | (uintptr_t)description->bias) % 16 == 0;
	if ((ta ? a->columns : a->rows) != d->rows || (tb ? b->rows : b->columns) != d->columns ||
		(ta ? a->rows : a->columns) != (tb ? b->columns : b->rows))
		return CUBLAS_STATUS_INVALID_VALUE;
	return description->epilogue == CUBLASLT_EPILOGUE_DEFAULT || whole ? CUBLAS_STATUS_SUCCESS
									   : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t description,
	cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t d,
	cublasLtMatmulPreference_t, int wanted, cublasLtMatmulHeuristicResult_t *results, int *count)
{
	*count = 0;
	cublasStatus_t status = wanted < 1 ? CUBLAS_STATUS_INVALID_VALUE : check(description, a, b, d);
	if (status != CUBLAS_STATUS_SUCCESS)
		return status;
	int first = (int)emu_setting("FERRY_EMU_LT_FIRST", 0);
	for (int i = 0; i < ALGORITHMS && *count < wanted; i++) {
		int number = (first + i) % ALGORITHMS;
		if (!has_algorithm(number))
			continue;
		memset(&results[*count], 0, sizeof *results);
		results[(*count)++].algo.data[0] = (uint64_t)number + 1;
	}
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t description,
	cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t d,
	const cublasLtMatmulAlgo_t *algorithm, cublasLtMatmulHeuristicResult_t *result)
{
	memset(result, 0, sizeof *result);
	result->state =
		algorithm_number(algorithm) < 0 ? CUBLAS_STATUS_NOT_SUPPORTED : check(description, a, b, d);
	return result->state;
}

/* ---- the handles ---- */

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t, cudaDataType)
{
	*out = new struct emu_matmul();
	(*out)->epilogue = CUBLASLT_EPILOGUE_DEFAULT;
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t description)
{
	delete description;
	return CUBLAS_STATUS_SUCCESS;
}

template <typename T> static cublasStatus_t take(T &to, const void *value, size_t bytes)
{
	if (bytes != sizeof to)
		return CUBLAS_STATUS_INVALID_VALUE;
	memcpy(&to, value, bytes);
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(
	cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t name, const void *value, size_t bytes)
{
	switch (name) {
	case CUBLASLT_MATMUL_DESC_TRANSA:
		return take(d->transpose_a, value, bytes);
	case CUBLASLT_MATMUL_DESC_TRANSB:
		return take(d->transpose_b, value, bytes);
	case CUBLASLT_MATMUL_DESC_EPILOGUE:
		return take(d->epilogue, value, bytes);
	case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
		return take(d->bias, value, bytes);
	case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
		return take(d->bias_type, value, bytes);
	case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
		return take(d->aux, value, bytes);
	case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
		return take(d->aux_ld, value, bytes);
	case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE:
		return take(d->aux_type, value, bytes);
	}
	return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutCreate(
	cublasLtMatrixLayout_t *out, cudaDataType type, uint64_t rows, uint64_t columns, int64_t ld)
{
	if (ld < (int64_t)rows)
		return CUBLAS_STATUS_INVALID_VALUE;
	*out = new emu_layout{type, (int64_t)rows, (int64_t)columns, ld};
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
	delete layout;
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out)
{
	*out = new struct emu_preference();
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
	delete preference;
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(
	cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t, const void *, size_t)
{
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *out)
{
	*out = new struct emu_lt();
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
	delete handle;
	return CUBLAS_STATUS_SUCCESS;
}

size_t cublasLtGetVersion(void)
{
	return (size_t)emu_setting("FERRY_EMU_LT_VERSION", 0);
}

const char *cublasLtGetStatusString(cublasStatus_t status)
{
	static const char *const texts[] = {"success", "not supported", "invalid value"};
	return texts[status];
}
