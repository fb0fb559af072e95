/* Linear layers: products by cuBLASLt with bias and GELU in the epilogue, column sums for the bias. */
#include "kernels/cuda/backend.cuh"

/* ---- elementwise parts, for where an epilogue is not to be had ---- */

template <int V, typename A> __global__ void add_bias(A *out, const A *bias, int64_t rows, int N)
{
	int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
	if (i >= rows * N)
		return;
	float x[V], y[V];
	load(x, out + i);
	load(y, bias + i % N);
#pragma unroll
	for (int e = 0; e < V; e++)
		x[e] += y[e];
	store(out + i, x);
}

template <int V, typename A> __global__ void gelu_apply(A *out, const A *pre, int64_t count)
{
	int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
	if (i >= count)
		return;
	float x[V];
	load(x, pre + i);
#pragma unroll
	for (int e = 0; e < V; e++)
		x[e] = gelu(x[e]);
	store(out + i, x);
}

template <int V, typename A> __global__ void gelu_gradient(A *din, const A *pre, int64_t count)
{
	int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
	if (i >= count)
		return;
	float x[V], d[V];
	load(x, pre + i);
	load(d, din + i);
#pragma unroll
	for (int e = 0; e < V; e++)
		d[e] *= gelu_slope(x[e]);
	store(din + i, d);
}

/* ---- column sums, in two stages of fixed order ---- */

enum { most_sum_warps = 32 };

/* partial[blockIdx.y][n] = sum of in[r][n] over this block's rows; 8 warps take every eighth row each. */
template <int V, typename A>
__global__ void __launch_bounds__(256) column_sums(float *partial, const A *in, int R, int N, int rows_each)
{
	SHARED_ARRAY(float, shared, [8][32 * V]);
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
	int n = (blockIdx.x * 32 + lane) * V;
	int begin = blockIdx.y * rows_each, end = min(R, begin + rows_each);
	float sum[V] = {};
	if (n < N) {
#pragma unroll 4
		for (int r = begin + warp; r < end; r += 8) {
			float x[V];
			load(x, in + (int64_t)r * N + n);
#pragma unroll
			for (int e = 0; e < V; e++)
				sum[e] += x[e];
		}
	}
#pragma unroll
	for (int e = 0; e < V; e++)
		shared[warp][e * 32 + lane] = sum[e];
	__syncthreads();
	for (int i = threadIdx.x; i < 32 * V; i += 256) {
		int column = (blockIdx.x * 32 + i % 32) * V + i / 32;
		if (column >= N)
			continue;
		float total = 0;
#pragma unroll
		for (int w = 0; w < 8; w++)
			total += shared[w][i];
		partial[(int64_t)blockIdx.y * N + column] = total;
	}
}

/* first[n] (+)= sum of partial[i][n]; with a second, partial[i] = [2][n], and it likewise. Each warp of the block takes its
 * share of the parts, then one adds up the warps'. */
template <typename G>
__global__ void __launch_bounds__(32 * most_sum_warps)
	sum_partials(G *first, G *second, const float *partial, int parts, int n, bool accumulate)
{
	SHARED_ARRAY(float, shared, [most_sum_warps][32]);
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
	int column = blockIdx.x * 32 + lane;
	G *out = blockIdx.y ? second : first;
	size_t stride = (size_t)gridDim.y * n;
	partial += (size_t)blockIdx.y * n + column;
	float sum = 0;
	if (column < n)
#pragma unroll 8
		for (int i = warp; i < parts; i += warps)
			sum += partial[i * stride];
	shared[warp][lane] = sum;
	__syncthreads();
	if (warp == 0 && column < n) {
		float total = accumulate ? to_float(out[column]) : 0.0f;
		for (int w = 0; w < warps; w++)
			total += shared[w][lane];
		out[column] = from_float<G>(total);
	}
}

void reduce_partials(struct backend *b, struct stream *s, void *first, void *second, const float *partial,
	int parts, int n, bool accumulate)
{
	/* Few blocks have to bring many rows: what hides the way to the memory is warps. */
	int warps = parts < most_sum_warps ? parts : most_sum_warps;
	WITH_GRAD(b, (launch(sum_partials<G>, dim3(ceiling(n, 32), second ? 2 : 1), 32 * warps, 0, s->handle,
			     (G *)first, (G *)second, partial, parts, n, accumulate)));
	stream_launched(b, s, "sums of partial gradients");
}

static void bias_gradient(
	struct backend *b, struct stream *s, void *dbias, const void *dout, int R, int N, bool accumulate)
{
	int width = N % 8 == 0 ? 8 : 1;
	int across = ceiling(N, 32 * width);
	/* Enough blocks for every processor several times, and at least 32 rows each. */
	int parts = ceiling((int64_t)b->processors * 6, across);
	int most = ceiling(R, 32);
	parts = parts > most ? most : parts;
	int rows_each = ceiling(R, parts);
	parts = ceiling(R, rows_each);
	float *partial = (float *)stream_scratch(b, s, (size_t)parts * N * sizeof(float), "bias gradient");
	if (!partial)
		return;
	dim3 grid(across, parts);
	WITH_ACT(b, WITH_WIDTH(N, (launch(column_sums<V, A>, grid, 256, 0, s->handle, partial,
					  (const A *)dout, R, N, rows_each))));
	stream_launched(b, s, "bias gradient");
	reduce_partials(b, s, dbias, NULL, partial, parts, N, accumulate);
}

/* ---- the operations ---- */

void cuda_gelu_forward(struct kernels *k, struct stream *s, void *out, const void *pre, uint64_t count)
{
	struct backend *b = backend_enter(k);
	s = stream_of(k, s);
	if (!count)
		return;
	WITH_ACT(b, WITH_WIDTH(count, (launch(gelu_apply<V, A>, ceiling((int64_t)count, 256 * V), 256, 0,
					      s->handle, (A *)out, (const A *)pre, (int64_t)count))));
	stream_launched(b, s, "gelu_forward");
}

/* pre = in w + bias, the bias in the epilogue or after it. */
static void product_with_bias(
	struct backend *b, struct stream *s, struct gemm *g, const void *bias, int R, int N)
{
	g->epilogue = CUBLASLT_EPILOGUE_BIAS;
	g->bias = bias;
	if (gemm_run(b, s, g))
		return;
	g->epilogue = CUBLASLT_EPILOGUE_DEFAULT;
	g->bias = NULL;
	(void)gemm_run(b, s, g);
	WITH_ACT(b, WITH_WIDTH(N, (launch(add_bias<V, A>, ceiling((int64_t)R * N, 256 * V), 256, 0, s->handle,
					  (A *)g->d, (const A *)bias, R, N))));
	stream_launched(b, s, "bias");
}

void cuda_linear_forward(struct kernels *k, struct stream *s, void *out, void *pre, const void *in,
	const void *w, const void *bias, int R, int K, int N)
{
	struct backend *b = backend_enter(k);
	s = stream_of(k, s);
	struct gemm g = {};
	g.m = N;
	g.n = R;
	g.k = K;
	g.a = w;
	g.lda = N;
	g.b = in;
	g.ldb = K;
	g.ldd = N;
	g.in = g.out = b->act;
	if (!pre) {
		g.d = out;
		product_with_bias(b, s, &g, bias, R, N);
		return;
	}
	if (b->fused_epilogues) {
		g.d = out;
		g.epilogue = CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
		g.bias = bias;
		g.aux = pre;
		if (gemm_run(b, s, &g))
			return;
		g.aux = NULL;
	}
	g.d = pre;
	product_with_bias(b, s, &g, bias, R, N);
	cuda_gelu_forward(k, s, out, pre, (uint64_t)R * N);
}

static void input_gradient(struct backend *b, struct stream *s, void *din, const void *dout, const void *w,
	const void *pre, int R, int K, int N)
{
	struct gemm g = {};
	g.transpose_a = true;
	g.m = K;
	g.n = R;
	g.k = N;
	g.a = w;
	g.lda = N;
	g.b = dout;
	g.ldb = N;
	g.d = din;
	g.ldd = K;
	g.in = g.out = b->act;
	if (pre && b->fused_epilogues) {
		/* Not DGELU_BGRAD, which would sum the columns too, for the layer below's bias: its sums are rounded
		 * to the output's type, and cannot be added to what is there. */
		g.epilogue = CUBLASLT_EPILOGUE_DGELU;
		g.aux = (void *)pre;
		if (gemm_run(b, s, &g))
			return;
		g.epilogue = CUBLASLT_EPILOGUE_DEFAULT;
		g.aux = NULL;
	}
	(void)gemm_run(b, s, &g);
	if (!pre)
		return;
	int64_t count = (int64_t)R * K;
	WITH_ACT(b, WITH_WIDTH(count, (launch(gelu_gradient<V, A>, ceiling(count, 256 * V), 256, 0, s->handle,
					      (A *)din, (const A *)pre, count))));
	stream_launched(b, s, "gelu gradient");
}

void cuda_linear_backward(struct kernels *k, struct stream *s, void *din, void *dw, void *dbias,
	const void *dout, const void *in, const void *w, const void *pre, int R, int K, int N,
	bool accumulate)
{
	struct backend *b = backend_enter(k);
	s = stream_of(k, s);
	struct gemm g = {};
	g.transpose_b = true;
	g.m = N;
	g.n = K;
	g.k = R;
	g.a = dout;
	g.lda = N;
	g.b = in;
	g.ldb = K;
	g.d = dw;
	g.ldd = N;
	g.in = b->act;
	g.out = b->grad;
	g.accumulate = accumulate;
	(void)gemm_run(b, s, &g);
	/* Not by the product's epilogue (BGRADA): measured on an H100, it is no faster. */
	bias_gradient(b, s, dbias, dout, R, N, accumulate);
	if (din)
		input_gradient(b, s, din, dout, w, pre, R, K, N);
}
