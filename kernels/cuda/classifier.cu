/*
 * The head: product, softmax, loss and gradients over chunks of rows, so that logits take a bounded buffer.
 * For training the logits of a chunk are of the activations' type and become their own gradients in place
 * (the target's own logit is computed again in f32: its rounding would be the loss's); for evaluation they
 * are f32.
 */
#include "kernels/cuda/backend.cuh"

enum { classifier_threads = 512 };

/* e^x, in f32 to the last places. */
template <typename L> static __device__ __forceinline__ float exponent(float x)
{
	return sizeof(L) == sizeof(float) ? expf(x) : __expf(x);
}

/* The block's maximum and sum of exponents of logits[0..V), every thread getting both. Keeps what it reads in
 * `cache` unless that is NULL; a thread will read there only what it wrote. */
template <typename L>
static __device__ __forceinline__ void softmax_statistics(
	const L *logits, L *cache, int V, float *most, float *total)
{
	SHARED_ARRAY(float, shared, [2][classifier_threads / 32]);
	float m = -INFINITY, sum = 0;
	for (int v = threadIdx.x * 8; v < V; v += classifier_threads * 8) {
		float x[8], block = -INFINITY;
		load(x, logits + v); /* VP is a multiple of 8 */
		if (cache)
			store(cache + v, x);
#pragma unroll
		for (int e = 0; e < 8; e++) {
			if (v + e >= V)
				x[e] = -INFINITY;
			block = fmaxf(block, x[e]);
		}
		if (block > m) {
			sum *= exponent<L>(m - block);
			m = block;
		}
#pragma unroll
		for (int e = 0; e < 8; e++)
			sum += exponent<L>(x[e] - m);
	}
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
	float warp_m = warp_max(m);
	sum = warp_sum(m == -INFINITY ? 0.0f : sum * exponent<L>(m - warp_m));
	if (lane == 0) {
		shared[0][warp] = warp_m;
		shared[1][warp] = sum;
	}
	__syncthreads();
	float all = -INFINITY, s = 0;
#pragma unroll
	for (int w = 0; w < classifier_threads / 32; w++)
		all = fmaxf(all, shared[0][w]);
#pragma unroll
	for (int w = 0; w < classifier_threads / 32; w++)
		s += shared[0][w] == -INFINITY ? 0.0f : shared[1][w] * exponent<L>(shared[0][w] - all);
	*most = all;
	*total = s;
}

/* The product of two rows of C elements, the same in every thread of the block. */
template <typename A> static __device__ float block_product(const A *a, const A *b, int C)
{
	SHARED_ARRAY(float, shared, [classifier_threads / 32]);
	float sum = 0;
	for (int c = threadIdx.x; c < C; c += classifier_threads)
		sum += to_float(a[c]) * to_float(b[c]);
	sum = warp_sum(sum);
	if (threadIdx.x % 32 == 0)
		shared[threadIdx.x / 32] = sum;
	__syncthreads();
	sum = 0;
#pragma unroll
	for (int w = 0; w < classifier_threads / 32; w++)
		sum += shared[w];
	return sum;
}

/*
 * One block a row. With `gradient` the row's logits become, in place, (softmax - onehot) * scale
 * in type A from the row's beginning on, 0 in the padding. Where A is narrower than L, what is written in a
 * round lies over logits of this round or an earlier one, so a barrier between reading and writing is enough.
 */
template <typename L, typename A, bool CACHED>
__global__ void __launch_bounds__(classifier_threads) cross_entropy(float *loss, L *logits, const A *x_rows,
	const A *wte, const int32_t *targets, int C, int V, int VP, float scale, bool gradient)
{
	L *row = logits + (int64_t)blockIdx.x * VP;
	A *out = (A *)row;
	SHARED_DYNAMIC(uint4, shared_row);
	L *cache = CACHED ? (L *)shared_row : NULL;
	int target = targets[blockIdx.x];
	if (target < 0) {
		if (threadIdx.x == 0)
			loss[blockIdx.x] = 0;
		float none[8] = {};
		if (gradient)
			for (int v = threadIdx.x * 8; v < VP; v += classifier_threads * 8)
				store(out + v, none);
		return;
	}
	float most, total, at_target = to_float(row[target]);
	softmax_statistics(
		row, cache, V, &most, &total); /* its barrier: all have read the target's before any writes */
	if (sizeof(L) < sizeof(float)) {
		float rounded = at_target;
		at_target = block_product(x_rows + (int64_t)blockIdx.x * C, wte + (int64_t)target * C, C);
		total += exponent<L>(at_target - most) - exponent<L>(rounded - most);
	}
	if (threadIdx.x == 0)
		loss[blockIdx.x] = logf(total) + most - at_target;
	if (!gradient)
		return;
	float factor = scale / total;
	for (int from = 0; from < VP; from += classifier_threads * 8) {
		int v = from + threadIdx.x * 8;
		float x[8];
		if (v < VP)
			load(x, CACHED && v < V ? cache + v : row + v);
		if (sizeof(L) != sizeof(A))
			__syncthreads();
		if (v >= VP)
			continue;
#pragma unroll
		for (int e = 0; e < 8; e++) {
			x[e] = v + e < V ? exponent<L>((v + e == target ? at_target : x[e]) - most) * factor
					 : 0.0f;
			if (v + e == target)
				x[e] -= scale;
		}
		store(out + v, x);
	}
}

static struct gemm head_product(struct backend *b, void *logits, enum dtype out, int ld, const void *x,
	const void *wte, int rows, int C, int V)
{
	struct gemm g = {};
	g.transpose_a = true;
	g.m = V;
	g.n = rows;
	g.k = C;
	g.a = wte;
	g.lda = C;
	g.b = x;
	g.ldb = C;
	g.d = logits;
	g.ldd = ld;
	g.in = b->act;
	g.out = out;
	return g;
}

static void chunk_gradients(struct backend *b, struct stream *s, void *dx, void *dwte, const void *dlogits,
	int ld, const void *x, const void *wte, int rows, int C, int VP, bool accumulate)
{
	struct gemm g = {};
	g.m = C;
	g.n = rows;
	g.k = VP;
	g.a = wte;
	g.lda = C;
	g.b = dlogits;
	g.ldb = ld;
	g.d = dx;
	g.ldd = C;
	g.in = g.out = b->act;
	(void)gemm_run(b, s, &g);
	if (!dwte)
		return;
	g = {};
	g.transpose_b = true;
	g.m = C;
	g.n = VP;
	g.k = rows;
	g.a = x;
	g.lda = C;
	g.b = dlogits;
	g.ldb = ld;
	g.d = dwte;
	g.ldd = C;
	g.in = b->act;
	g.out = b->grad;
	g.accumulate = accumulate;
	(void)gemm_run(b, s, &g);
}

template <typename L, typename A, bool CACHED>
static void cross_entropy_start(struct backend *b, struct stream *s, float *loss, void *logits, const void *x,
	const void *wte, const int32_t *targets, int rows, int C, int V, int VP, float scale, bool gradient)
{
	int bytes = CACHED ? VP * (int)sizeof(L) : 0;
	if (bytes > 48 << 10 && !stream_check(b, s,
					cudaFuncSetAttribute(cross_entropy<L, A, CACHED>,
						cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
					"classifier"))
		return;
	launch(cross_entropy<L, A, CACHED>, rows, classifier_threads, bytes, s->handle, loss, (L *)logits,
		(const A *)x, (const A *)wte, targets, C, V, VP, scale, gradient);
}

static void cross_entropy_launch(struct backend *b, struct stream *s, float *loss, void *logits,
	enum dtype type, const void *x, const void *wte, const int32_t *targets, int rows, int C, int V,
	int VP, float scale, bool gradient)
{
	/* Two blocks a processor must fit, each with 1 KB of the system's. */
	bool cached = gradient && b->cached_logits && 2 * (VP * dtype_bytes(type) + 2048) <= b->shared_bytes;
	if (type == DTYPE_F32)
		WITH_ACT(b, (cross_entropy_start<float, A, false>(
				    b, s, loss, logits, x, wte, targets, rows, C, V, VP, scale, gradient)));
	else if (cached)
		WITH_ACT(b, (cross_entropy_start<A, A, true>(
				    b, s, loss, logits, x, wte, targets, rows, C, V, VP, scale, gradient)));
	else
		WITH_ACT(b, (cross_entropy_start<A, A, false>(
				    b, s, loss, logits, x, wte, targets, rows, C, V, VP, scale, gradient)));
}

void cuda_classifier(struct kernels *k, struct stream *s, float *loss, void *dx, void *dwte, const void *x,
	const void *wte, const int32_t *targets, int R, int C, int V, int VP, float scale, bool accumulate)
{
	struct backend *b = backend_enter(k);
	s = stream_of(k, s);
	enum dtype type = dx && !b->exact_logits ? b->act : DTYPE_F32;
	int64_t row_bytes = (int64_t)VP * (int64_t)dtype_bytes(type);
	int64_t most = b->logits_bytes / row_bytes / 128 * 128;
	int ld = VP * (int)(dtype_bytes(type) / dtype_bytes(b->act)); /* of the gradients that replace them */
	int chunks = ceiling(R, most < 128 ? 128 : most);
	int each = ceiling(ceiling(R, chunks), 128) * 128;
	each = each > R ? R : each;
	void *logits = stream_scratch(b, s, (size_t)(each * row_bytes), "logits");
	if (!logits)
		return;
	for (int r = 0; r < R; r += each) {
		int rows = R - r < each ? R - r : each;
		size_t offset = (size_t)r * C * dtype_bytes(b->act);
		const char *from = (const char *)x + offset;
		struct gemm g = head_product(b, logits, type, VP, from, wte, rows, C, VP);
		(void)gemm_run(b, s, &g);
		cross_entropy_launch(b, s, loss + r, logits, type, from, wte, targets + r, rows, C, V, VP,
			scale, dx != NULL);
		stream_launched(b, s, "classifier");
		if (dx)
			chunk_gradients(b, s, (char *)dx + offset, dwte, logits, ld, from, wte, rows, C, VP,
				accumulate || r > 0);
	}
}

void cuda_logits(struct kernels *k, struct stream *s, float *out, const void *x, const void *wte, int R,
	int C, int V, int VP)
{
	(void)VP;
	struct backend *b = backend_enter(k);
	s = stream_of(k, s);
	struct gemm g = head_product(b, out, DTYPE_F32, V, x, wte, R, C, V);
	(void)gemm_run(b, s, &g);
}
