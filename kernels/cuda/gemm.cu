/*
 * Matrix products by cuBLASLt. The algorithm of a shape is, asked once and kept, what a checkpoint says that it was
 * (kernels.h, choices); else what the file $FERRY_CUDA_CHOICES says; else what the library's heuristic ranks first. So it
 * does not depend on timing. Accumulation is f32 throughout (split-K partial sums too); f32 products do not use TF32.
 *
 * With $FERRY_CUDA_TUNE = N, and nothing said, the first N that the heuristic ranks are timed, and the quickest is taken:
 * a run's bits then depend on timing, so this is for making such a file (tests/gpu/bench_cuda tune), once for a device, a
 * library and a shape. The file: a line "choices-1 NAME", the table's name as it was then, and a choice a line; one of
 * another table is an error.
 *
 * A choice as text, version 1:
 *
 *    gemm-1 TA TB M N K LDA LDB LDD IN OUT ADD EPILOGUE ALIGNMENT ALGORITHM
 *
 * The fields of struct gemm_key as decimal numbers (types as enum dtype counts them, the epilogue as cuBLASLt
 * does), then the 64 bytes of cublasLtMatmulAlgo_t as eight numbers of 16 hexadecimal digits without space
 * between them, which cuBLASLt lets one keep and use again with the same version of the library; or "none": it
 * has no algorithm with that epilogue.
 */
#include "kernels/cuda/backend.cuh"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
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
	std::vector<struct gemm_plan> items;     /* by key */
	std::vector<struct gemm_plan> suggested; /* a file's, without layouts */
	int tried;                               /* algorithms that are timed; below 2: none */
};

enum { most_tried = 32 };

static cudaDataType_t cuda_type(enum dtype type)
{
	return type == DTYPE_F32 ? CUDA_R_32F : type == DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_16F;
}

enum status gemm_open(struct backend *b)
{
	b->plans = new (std::nothrow) gemm_plans;
	if (!b->plans)
		return b->host->error_set(STATUS_MEMORY, "no memory for the CUDA backend");
	b->plans->tried = knob("FERRY_CUDA_TUNE", 0);
	cublasStatus_t status = cublasLtCreate(&b->lt);
	if (status == CUBLAS_STATUS_SUCCESS)
		return STATUS_OK;
	delete b->plans;
	return b->host->error_set(STATUS_UNSUPPORTED, "GPU %d: cuBLASLt does not start: %s", b->device,
		cublasLtGetStatusString(status));
}

static void gemm_plan_close(struct gemm_plan *plan)
{
	(void)cublasLtMatrixLayoutDestroy(plan->a);
	(void)cublasLtMatrixLayoutDestroy(plan->b);
	(void)cublasLtMatrixLayoutDestroy(plan->d);
}

void gemm_close(struct backend *b)
{
	for (struct gemm_plan &plan : b->plans->items)
		gemm_plan_close(&plan);
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

/* Its layouts, and no algorithm yet. */
static struct gemm_plan gemm_plan_open(const struct gemm *g, const struct gemm_key *key)
{
	struct gemm_plan plan;
	memset(&plan, 0, sizeof plan);
	plan.key = *key;
	(void)cublasLtMatrixLayoutCreate(&plan.a, cuda_type(g->in), g->transpose_a ? g->k : g->m,
		g->transpose_a ? g->m : g->k, g->lda);
	(void)cublasLtMatrixLayoutCreate(&plan.b, cuda_type(g->in), g->transpose_b ? g->n : g->k,
		g->transpose_b ? g->k : g->n, g->ldb);
	(void)cublasLtMatrixLayoutCreate(&plan.d, cuda_type(g->out), g->m, g->n, g->ldd);
	return plan;
}

static cublasStatus_t gemm_start(struct backend *b, struct stream *s, const struct gemm *g,
	const struct gemm_plan *plan, cublasLtMatmulDesc_t description, void *d)
{
	float one = 1, beta = g->accumulate ? 1 : 0;
	return cublasLtMatmul(b->lt, description, &one, g->a, plan->a, g->b, plan->b, &beta, d, plan->d, d,
		plan->d, &plan->algorithm, s->workspace, KERNELS_WORKSPACE, s->handle);
}

/* ---- the quickest ---- */

/* Milliseconds of some runs into `d`, which may hold anything; infinite where it does not run. */
static float time_algorithm(struct backend *b, struct stream *s, const struct gemm *g,
	const struct gemm_plan *plan, cublasLtMatmulDesc_t description, void *d,
	const cudaEvent_t (&events)[2])
{
	enum { calls = 4 };
	float milliseconds = INFINITY;
	(void)cudaEventRecord(events[0], s->handle);
	for (int i = 0; i < calls; i++)
		if (gemm_start(b, s, g, plan, description, d) != CUBLAS_STATUS_SUCCESS)
			return INFINITY;
	(void)cudaEventRecord(events[1], s->handle);
	if (cudaEventSynchronize(events[1]) != cudaSuccess ||
		cudaEventElapsedTime(&milliseconds, events[0], events[1]) != cudaSuccess)
		return INFINITY;
	return milliseconds;
}

/* Of `count` algorithms, in turns, so that none has the device's quick moments for itself. The first in rank unless
 * another is quicker by more than what is noise. */
static void take_quickest(struct backend *b, struct stream *s, const struct gemm *g, struct gemm_plan *plan,
	cublasLtMatmulDesc_t description, const cublasLtMatmulHeuristicResult_t *results, int count)
{
	enum { rounds = 4 }; /* the first does not count */
	cudaEvent_t events[2] = {};
	float quickest[most_tried];
	void *d = NULL;
	if (cudaEventCreate(&events[0]) != cudaSuccess || cudaEventCreate(&events[1]) != cudaSuccess ||
		cudaMalloc(&d, (size_t)g->ldd * g->n * dtype_bytes(g->out)) != cudaSuccess)
		count = 0;
	for (int i = 0; i < count; i++)
		quickest[i] = INFINITY;
	for (int round = 0; round < rounds; round++)
		for (int i = 0; i < count; i++) {
			plan->algorithm = results[i].algo;
			float time = time_algorithm(b, s, g, plan, description, d, events);
			if (round && time < quickest[i])
				quickest[i] = time;
		}
	int best = 0;
	for (int i = 1; i < count; i++)
		if (quickest[i] < 0.98f * quickest[0] && quickest[i] < quickest[best])
			best = i;
	plan->algorithm = results[best].algo;
	(void)cudaFree(d);
	for (cudaEvent_t event : events)
		if (event)
			(void)cudaEventDestroy(event);
	(void)cudaGetLastError(); /* what could not be timed is no failure of the product's */
}

static void gemm_plan_choose(struct backend *b, struct stream *s, const struct gemm *g,
	struct gemm_plan *plan, cublasLtMatmulDesc_t description)
{
	cublasLtMatmulPreference_t preference = NULL;
	(void)cublasLtMatmulPreferenceCreate(&preference);
	prefer(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (uint64_t)KERNELS_WORKSPACE);
	prefer(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
		(uint32_t)CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
	uint32_t alignment = (uint32_t)plan->key.alignment;
	prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment);
	prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment);
	prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment);
	prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment);
	cublasLtMatmulHeuristicResult_t results[most_tried];
	int wanted = std::clamp(b->plans->tried, 1, (int)most_tried), count = 0;
	cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
		b->lt, description, plan->a, plan->b, plan->d, plan->d, preference, wanted, results, &count);
	plan->found = status == CUBLAS_STATUS_SUCCESS && count > 0;
	if (plan->found)
		plan->algorithm = results[0].algo;
	if (plan->found && count > 1)
		take_quickest(b, s, g, plan, description, results, count);
	(void)cublasLtMatmulPreferenceDestroy(preference);
}

/* Does this library do that on this device, within the workspace? */
static bool algorithm_runs(struct backend *b, const struct gemm *g, const struct gemm_plan *plan)
{
	cublasLtMatmulHeuristicResult_t result;
	memset(&result, 0, sizeof result);
	cublasLtMatmulDesc_t description = gemm_describe(g);
	cublasStatus_t status = cublasLtMatmulAlgoCheck(
		b->lt, description, plan->a, plan->b, plan->d, plan->d, &plan->algorithm, &result);
	(void)cublasLtMatmulDescDestroy(description);
	return status == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= KERNELS_WORKSPACE;
}

/* What a file says of it, if it does and that runs here. */
static bool gemm_plan_suggested(struct backend *b, const struct gemm *g, struct gemm_plan *plan)
{
	for (const struct gemm_plan &said : b->plans->suggested)
		if (!memcmp(&said.key, &plan->key, sizeof said.key)) {
			plan->found = said.found;
			plan->algorithm = said.algorithm;
			return !plan->found || algorithm_runs(b, g, plan);
		}
	return false;
}

static bool gemm_key_before(const struct gemm_plan &plan, const struct gemm_key &key)
{
	return memcmp(&plan.key, &key, sizeof key) < 0;
}

/* Where the key's plan is, or would be. */
static std::vector<struct gemm_plan>::iterator gemm_plan_place(
	struct gemm_plans *plans, const struct gemm_key &key)
{
	return std::lower_bound(plans->items.begin(), plans->items.end(), key, gemm_key_before);
}

static bool gemm_plan_there(
	struct gemm_plans *plans, std::vector<struct gemm_plan>::iterator at, const struct gemm_key &key)
{
	return at != plans->items.end() && !memcmp(&at->key, &key, sizeof key);
}

static struct gemm_plan gemm_plan_find(
	struct backend *b, struct stream *s, const struct gemm *g, cublasLtMatmulDesc_t description)
{
	struct gemm_key key = gemm_key_of(g);
	std::lock_guard<std::mutex> guard(b->plans->lock);
	auto at = gemm_plan_place(b->plans, key);
	if (!gemm_plan_there(b->plans, at, key)) {
		struct gemm_plan plan = gemm_plan_open(g, &key);
		if (!gemm_plan_suggested(b, g, &plan))
			gemm_plan_choose(b, s, g, &plan, description);
		at = b->plans->items.insert(at, plan);
	}
	return *at;
}

bool gemm_run(struct backend *b, struct stream *s, const struct gemm *g)
{
	if (!s->workspace &&
		!stream_check(b, s, cudaMalloc(&s->workspace, KERNELS_WORKSPACE), "cuBLASLt's workspace")) {
		s->workspace = NULL;
		return true; /* kept; another way of computing it would not help */
	}
	cublasLtMatmulDesc_t description = gemm_describe(g);
	struct gemm_plan plan = gemm_plan_find(b, s, g, description);
	cublasStatus_t status = CUBLAS_STATUS_NOT_SUPPORTED;
	if (plan.found)
		status = gemm_start(b, s, g, &plan, description, g->d);
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

/* ---- choices as text ---- */

#define CHOICE_KEY "gemm-1 %d %d %d %d %d %d %d %d %d %d %d %d %d "
enum { ALGORITHM_WORDS = sizeof(cublasLtMatmulAlgo_t::data) / sizeof(uint64_t) };

int gemm_choice_count(struct backend *b)
{
	std::lock_guard<std::mutex> guard(b->plans->lock);
	return (int)b->plans->items.size();
}

bool gemm_choice_get(struct backend *b, int i, char text[KERNELS_CHOICE])
{
	struct gemm_plans *plans = b->plans;
	std::lock_guard<std::mutex> guard(plans->lock);
	if (i < 0 || (size_t)i >= plans->items.size())
		return false;
	const struct gemm_plan *plan = &plans->items[(size_t)i];
	const struct gemm_key *key = &plan->key;
	int at = snprintf(text, KERNELS_CHOICE, CHOICE_KEY, key->transpose_a, key->transpose_b, key->m,
		key->n, key->k, key->lda, key->ldb, key->ldd, key->in, key->out, key->accumulate,
		key->epilogue, key->alignment);
	if (!plan->found)
		snprintf(text + at, (size_t)(KERNELS_CHOICE - at), "none");
	for (int word = 0; plan->found && word < ALGORITHM_WORDS; word++)
		at += snprintf(text + at, (size_t)(KERNELS_CHOICE - at), "%016" PRIx64,
			(uint64_t)plan->algorithm.data[word]);
	return true;
}

/* What the rest of the code would never ask for is no key: nothing else looks at it. */
static bool gemm_key_possible(const struct gemm_key *key)
{
	int a_rows = key->transpose_a ? key->k : key->m, b_rows = key->transpose_b ? key->n : key->k;
	bool flags = !((key->transpose_a | key->transpose_b | key->accumulate) & ~1);
	bool types = key->in >= DTYPE_F32 && key->in <= DTYPE_F16 && key->out >= DTYPE_F32 &&
		     key->out <= DTYPE_F16;
	bool sizes = key->m > 0 && key->n > 0 && key->k > 0 && key->lda >= a_rows && key->ldb >= b_rows &&
		     key->ldd >= key->m;
	bool alignment =
		key->alignment > 0 && key->alignment <= 256 && !(key->alignment & (key->alignment - 1));
	bool epilogue =
		key->epilogue == CUBLASLT_EPILOGUE_DEFAULT || key->epilogue == CUBLASLT_EPILOGUE_BIAS ||
		key->epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS || key->epilogue == CUBLASLT_EPILOGUE_DGELU;
	return flags && types && sizes && alignment && epilogue;
}

/* A product of that key; its pointers are aligned as the key says, and lead nowhere. */
static struct gemm gemm_of_key(const struct gemm_key *key)
{
	struct gemm g = {};
	void *somewhere = (void *)(uintptr_t)key->alignment;
	g.transpose_a = key->transpose_a;
	g.transpose_b = key->transpose_b;
	g.m = key->m;
	g.n = key->n;
	g.k = key->k;
	g.lda = key->lda;
	g.ldb = key->ldb;
	g.ldd = key->ldd;
	g.in = (enum dtype)key->in;
	g.out = (enum dtype)key->out;
	g.accumulate = key->accumulate;
	g.epilogue = (cublasLtEpilogue_t)key->epilogue;
	if (g.epilogue == CUBLASLT_EPILOGUE_BIAS || g.epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS)
		g.bias = somewhere;
	if (g.epilogue == CUBLASLT_EPILOGUE_DGELU || g.epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS)
		g.aux = somewhere;
	return g;
}

static bool parse_choice(const char *text, struct gemm_plan *plan)
{
	struct gemm_key *key = &plan->key;
	int at = 0;
	if (sscanf(text, CHOICE_KEY "%n", &key->transpose_a, &key->transpose_b, &key->m, &key->n, &key->k,
		    &key->lda, &key->ldb, &key->ldd, &key->in, &key->out, &key->accumulate, &key->epilogue,
		    &key->alignment, &at) != 13)
		return false;
	text += at;
	plan->found = strcmp(text, "none") != 0;
	if (!plan->found)
		return key->epilogue != CUBLASLT_EPILOGUE_DEFAULT;
	if (strlen(text) != 16 * ALGORITHM_WORDS || strspn(text, "0123456789abcdef") != 16 * ALGORITHM_WORDS)
		return false;
	for (int word = 0; word < ALGORITHM_WORDS; word++) {
		uint64_t value = 0;
		if (sscanf(text + 16 * word, "%16" SCNx64, &value) != 1)
			return false;
		plan->algorithm.data[word] = value;
	}
	return true;
}

bool gemm_choice_set(struct backend *b, const char *text)
{
	struct gemm_plan said;
	memset(&said, 0, sizeof said);
	if (!parse_choice(text, &said) || !gemm_key_possible(&said.key))
		return false;
	struct gemm g = gemm_of_key(&said.key);
	struct gemm_plan plan = gemm_plan_open(&g, &said.key);
	plan.found = said.found;
	plan.algorithm = said.algorithm;
	std::lock_guard<std::mutex> guard(b->plans->lock);
	auto at = gemm_plan_place(b->plans, plan.key);
	if (gemm_plan_there(b->plans, at, plan.key) || (plan.found && !algorithm_runs(b, &g, &plan))) {
		gemm_plan_close(&plan);
		return false;
	}
	b->plans->items.insert(at, plan);
	return true;
}

/* ---- a file of them ---- */

/* In `line`, without its end; false at the end of the file. */
static bool read_line(FILE *file, char (&line)[KERNELS_CHOICE])
{
	if (!fgets(line, sizeof line, file))
		return false;
	line[strcspn(line, "\n")] = 0;
	return true;
}

static enum status read_choices(struct backend *b, FILE *file, const char *path, const char *name)
{
	char line[KERNELS_CHOICE] = "", first[KERNELS_CHOICE];
	snprintf(first, sizeof first, "choices-1 %s", name);
	if (!read_line(file, line) || strcmp(line, first) != 0)
		return b->host->error_set(STATUS_USAGE,
			"$FERRY_CUDA_CHOICES, %s: its first line is \"%.160s\"; for this device and library "
			"it is "
			"\"%s\" (tests/gpu/bench_cuda tune makes one)",
			path, line, first);
	for (int number = 2; read_line(file, line); number++) {
		struct gemm_plan plan;
		memset(&plan, 0, sizeof plan);
		if (strncmp(line, "gemm-", 5) != 0)
			continue; /* another kind's choice, of which nothing is suggested */
		if (!parse_choice(line, &plan) || !gemm_key_possible(&plan.key))
			return b->host->error_set(STATUS_CORRUPT,
				"$FERRY_CUDA_CHOICES, %s, line %d: this is no choice: \"%.80s\"", path,
				number, line);
		b->plans->suggested.push_back(plan);
	}
	return STATUS_OK;
}

enum status gemm_read_choices(struct backend *b, const char *name)
{
	const char *path = getenv("FERRY_CUDA_CHOICES");
	if (!path || !*path)
		return STATUS_OK;
	FILE *file = fopen(path, "r");
	if (!file)
		return b->host->error_set(STATUS_IO, "$FERRY_CUDA_CHOICES, %s, cannot be opened", path);
	enum status status = read_choices(b, file, path, name);
	(void)fclose(file);
	return status;
}
