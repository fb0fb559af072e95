/* Attention: the plain path for every type and shape, the choice of path, and one-token decoding. */
#include "kernels/cuda/attention.cuh"

#include <cmath>

enum { warps = 8, tile = 32, most_depth = KERNELS_GPU_HEAD };

/* tile rows of D elements from row `from` of a [T][stride] array into shared [tile][D + 1], zeros past T. */
template <typename A>
static __device__ void stage(float *shared, const A *array, int64_t stride, int from, int T, int D)
{
	for (int i = threadIdx.x; i < tile * D; i += warps * 32) {
		int row = i / D, d = i % D;
		shared[row * (D + 1) + d] =
			from + row < T ? to_float(array[(int64_t)(from + row) * stride + d]) : 0.0f;
	}
}

static __device__ __forceinline__ float dot(const float *a, const float *b, int D)
{
	float sum = 0;
	for (int d = 0; d < D; d++)
		sum = fmaf(a[d], b[d], sum);
	return sum;
}

/* acc[n] += sum over the lanes j of x_j * rows[j][lane + 32 n] */
template <int N>
static __device__ __forceinline__ void add_weighted(
	float (&acc)[N], float x, const float *rows, int D, int lane)
{
	for (int j = 0; j < tile; j++) {
		float weight = __shfl_sync(0xffffffffu, x, j);
#pragma unroll
		for (int n = 0; n < N; n++)
			if (lane + 32 * n < D)
				acc[n] = fmaf(weight, rows[j * (D + 1) + lane + 32 * n], acc[n]);
	}
}

/* Where this block works: its sequence and head, and its first row. */
struct place {
	int b, h, row;
	int64_t base;  /* of the sequence's rows in [R] */
	int64_t stats; /* of (b, h) in [B][H][T] */
};
static __device__ __forceinline__ struct place find_place(const struct attention &a)
{
	struct place p;
	p.b = blockIdx.y / a.H;
	p.h = blockIdx.y % a.H;
	p.row = blockIdx.x * warps + threadIdx.x / 32;
	p.base = (int64_t)p.b * a.T;
	p.stats = (int64_t)blockIdx.y * a.T;
	return p;
}

template <typename A>
static __device__ void load_row(float *shared, const A *row, bool valid, int D, int lane)
{
	for (int d = lane; d < D; d += 32)
		shared[d] = valid ? to_float(row[d]) : 0.0f;
}

template <int N, typename A> __global__ void __launch_bounds__(warps * 32) plain_forward(struct attention a)
{
	SHARED_DYNAMIC(float, shared);
	int lane = threadIdx.x % 32, D = a.D, C = a.H * D, T = a.T;
	struct place at = find_place(a);
	const A *qkv = (const A *)a.qkv + at.base * 3 * C + at.h * D;
	float *keys = shared, *values = keys + tile * (D + 1),
	      *q = values + tile * (D + 1) + (threadIdx.x / 32) * D;
	bool valid = at.row < T;
	int low = a.first && valid ? a.first[at.base + at.row] : 0;
	load_row(q, qkv + (int64_t)at.row * 3 * C, valid, D, lane);
	float most = -INFINITY, total = 0, acc[N] = {};
	int last = min(T, ((int)blockIdx.x + 1) * warps);
	for (int j0 = 0; j0 < last; j0 += tile) {
		__syncthreads();
		stage(keys, qkv + C, 3 * C, j0, T, D);
		stage(values, qkv + 2 * C, 3 * C, j0, T, D);
		__syncthreads();
		int j = j0 + lane;
		float s = valid && j <= at.row && j >= low ? dot(q, keys + lane * (D + 1), D) * a.scale
							   : -INFINITY;
		float larger = fmaxf(most, warp_max(s));
		if (larger == -INFINITY)
			continue;
		float p = expf(s - larger), shrink = expf(most - larger);
		most = larger;
		total = total * shrink + warp_sum(p);
		if (a.drop.on && p > 0)
			p = dropout_keep(a.drop, at.b, ((uint64_t)at.h * T + at.row) * T + j)
				    ? p * a.drop.scale
				    : 0;
#pragma unroll
		for (int n = 0; n < N; n++)
			acc[n] *= shrink;
		add_weighted(acc, p, values, D, lane);
	}
	if (!valid)
		return;
	A *out = (A *)a.out + (at.base + at.row) * C + at.h * D;
#pragma unroll
	for (int n = 0; n < N; n++)
		if (lane + 32 * n < D)
			out[lane + 32 * n] = from_float<A>(acc[n] / total);
	if (lane == 0)
		a.lse[at.stats + at.row] = most + logf(total);
}

/* delta[b][h][t] = sum over d of dout * out; a warp each. */
template <typename A> __global__ void __launch_bounds__(256) output_products(struct attention a)
{
	int64_t i = (int64_t)blockIdx.x * 8 + threadIdx.x / 32; /* r * H + h */
	int lane = threadIdx.x % 32;
	if (i >= (int64_t)a.B * a.T * a.H)
		return;
	const A *out = (const A *)a.out + i * a.D, *dout = (const A *)a.dout + i * a.D;
	float sum = 0;
	for (int d = lane; d < a.D; d += 32)
		sum += to_float(out[d]) * to_float(dout[d]);
	sum = warp_sum(sum);
	int64_t r = i / a.H, h = i % a.H;
	if (lane == 0)
		a.delta[(r / a.T * a.H + h) * a.T + r % a.T] = sum;
}

/* The gradient of one score, and (dropped) the probability itself. */
struct score_gradient {
	float ds, p;
};
static __device__ __forceinline__ struct score_gradient differentiate(
	const struct attention &a, const struct place &at, int i, int j, float s, float dp)
{
	float p = expf(s * a.scale - a.lse[at.stats + i]), kept = p;
	if (a.drop.on) {
		float factor = dropout_keep(a.drop, at.b, ((uint64_t)at.h * a.T + i) * a.T + j) ? a.drop.scale
												: 0.0f;
		kept *= factor;
		dp *= factor;
	}
	return {p * (dp - a.delta[at.stats + i]) * a.scale, kept};
}

template <int N, typename A>
__global__ void __launch_bounds__(warps * 32) plain_query_gradient(struct attention a)
{
	SHARED_DYNAMIC(float, shared);
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32, D = a.D, C = a.H * D, T = a.T;
	struct place at = find_place(a);
	const A *qkv = (const A *)a.qkv + at.base * 3 * C + at.h * D;
	float *keys = shared, *values = keys + tile * (D + 1);
	float *q = values + tile * (D + 1) + warp * 2 * D, *dout = q + D;
	bool valid = at.row < T;
	int low = a.first && valid ? a.first[at.base + at.row] : 0;
	load_row(q, qkv + (int64_t)at.row * 3 * C, valid, D, lane);
	load_row(dout, (const A *)a.dout + (at.base + at.row) * C + at.h * D, valid, D, lane);
	float acc[N] = {};
	int last = min(T, ((int)blockIdx.x + 1) * warps);
	for (int j0 = 0; j0 < last; j0 += tile) {
		__syncthreads();
		stage(keys, qkv + C, 3 * C, j0, T, D);
		stage(values, qkv + 2 * C, 3 * C, j0, T, D);
		__syncthreads();
		int j = j0 + lane;
		float ds = 0;
		if (valid && j <= at.row && j >= low)
			ds = differentiate(a, at, at.row, j, dot(q, keys + lane * (D + 1), D),
				dot(dout, values + lane * (D + 1), D))
				     .ds;
		add_weighted(acc, ds, keys, D, lane);
	}
	A *to = (A *)a.dqkv + (at.base + at.row) * 3 * C + at.h * D;
#pragma unroll
	for (int n = 0; n < N; n++)
		if (valid && lane + 32 * n < D)
			to[lane + 32 * n] = from_float<A>(acc[n]);
}

template <int N, typename A>
__global__ void __launch_bounds__(warps * 32) plain_key_gradient(struct attention a)
{
	SHARED_DYNAMIC(float, shared);
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32, D = a.D, C = a.H * D, T = a.T;
	struct place at = find_place(a);
	const A *qkv = (const A *)a.qkv + at.base * 3 * C + at.h * D;
	const A *dout = (const A *)a.dout + at.base * C + at.h * D;
	float *queries = shared, *douts = queries + tile * (D + 1);
	float *key = douts + tile * (D + 1) + warp * 2 * D, *value = key + D;
	int j = at.row;
	bool valid = j < T;
	load_row(key, qkv + C + (int64_t)j * 3 * C, valid, D, lane);
	load_row(value, qkv + 2 * C + (int64_t)j * 3 * C, valid, D, lane);
	float dk[N] = {}, dv[N] = {};
	for (int i0 = (int)blockIdx.x * warps / tile * tile; i0 < T; i0 += tile) {
		__syncthreads();
		stage(queries, qkv, 3 * C, i0, T, D);
		stage(douts, dout, C, i0, T, D);
		__syncthreads();
		int i = i0 + lane;
		struct score_gradient g = {0, 0};
		if (valid && i < T && i >= j && (!a.first || a.first[at.base + i] <= j))
			g = differentiate(a, at, i, j, dot(key, queries + lane * (D + 1), D),
				dot(value, douts + lane * (D + 1), D));
		add_weighted(dk, g.ds, queries, D, lane);
		add_weighted(dv, g.p, douts, D, lane);
	}
	A *to = (A *)a.dqkv + (at.base + j) * 3 * C + C + at.h * D;
#pragma unroll
	for (int n = 0; n < N; n++)
		if (valid && lane + 32 * n < D) {
			to[lane + 32 * n] = from_float<A>(dk[n]);
			to[C + lane + 32 * n] = from_float<A>(dv[n]);
		}
}

/* ---- choosing a path ---- */

static bool tensor_path(const struct backend *b, const struct attention *a)
{
	return b->act != DTYPE_F32 && a->D % 8 == 0 && a->D <= 128 && (!a->drop.on || a->T % 4 == 0);
}

template <typename Kernel>
static cudaError_t plain_launch(Kernel kernel, const struct attention &a, int rows_held, cudaStream_t stream)
{
	size_t bytes = (size_t)(2 * tile * (a.D + 1) + warps * rows_held * a.D) * sizeof(float);
	if (bytes > 48 << 10) {
		cudaError_t error =
			cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
		if (error != cudaSuccess)
			return error;
	}
	launch(kernel, dim3(ceiling(a.T, warps), a.B * a.H), warps * 32, bytes, stream, a);
	return cudaGetLastError();
}

template <int N, typename A>
static cudaError_t plain_launch_forward(const struct attention &a, cudaStream_t stream)
{
	return plain_launch(plain_forward<N, A>, a, 1, stream);
}

template <int N, typename A>
static cudaError_t plain_launch_backward(const struct attention &a, cudaStream_t stream)
{
	cudaError_t error = plain_launch(plain_query_gradient<N, A>, a, 2, stream);
	return error != cudaSuccess ? error : plain_launch(plain_key_gradient<N, A>, a, 2, stream);
}

static bool attention_prepare(struct backend *b, struct stream *s, struct attention *a, const int32_t *first,
	int B, int T, int H, int D, const struct dropout *drop)
{
	a->first = first;
	a->B = B;
	a->T = T;
	a->H = H;
	a->D = D;
	a->scale = 1.0f / sqrtf((float)D);
	a->drop = device_dropout_from(drop);
	if (D <= most_depth && (int64_t)B * H <= KERNELS_GPU_HEADS)
		return true;
	stream_fail(b, s, STATUS_UNSUPPORTED,
		"attention takes heads of at most 256 elements and at most 65,535 heads in a batch");
	return false;
}

void cuda_attention_forward(struct kernels *k, struct stream *s, void *out, float *lse, const void *qkv,
	const int32_t *first, int B, int T, int H, int D, const struct dropout *drop)
{
	struct backend *b = backend_enter(k);
	s = stream_of(k, s);
	struct attention a = {};
	if (!attention_prepare(b, s, &a, first, B, T, H, D, drop))
		return;
	a.out = out;
	a.lse = lse;
	a.qkv = qkv;
	if (cudnn_attention(b, s, a, false))
		return;
	cudaError_t error = cudaSuccess;
	if (tensor_path(b, &a))
		error = b->act == DTYPE_BF16 ? attention_forward_bf16(a, s->handle)
					     : attention_forward_f16(a, s->handle);
	else
		WITH_ACT(b, (error = D <= 64 ? plain_launch_forward<2, A>(a, s->handle)
					     : plain_launch_forward<8, A>(a, s->handle)));
	(void)stream_check(b, s, error, "attention_forward");
}

void cuda_attention_backward(struct kernels *k, struct stream *s, void *dqkv, const void *dout,
	const void *out, const float *lse, const void *qkv, const int32_t *first, int B, int T, int H, int D,
	const struct dropout *drop)
{
	struct backend *b = backend_enter(k);
	s = stream_of(k, s);
	struct attention a = {};
	if (!attention_prepare(b, s, &a, first, B, T, H, D, drop))
		return;
	a.out = (void *)out;
	a.lse = (float *)lse;
	a.dqkv = dqkv;
	a.dout = dout;
	a.qkv = qkv;
	if (cudnn_attention(b, s, a, true))
		return;
	a.delta = (float *)stream_scratch(b, s, (size_t)B * H * T * sizeof(float), "attention gradient");
	if (!a.delta)
		return;
	WITH_ACT(b, (launch(output_products<A>, ceiling((int64_t)B * T * H, 8), 256, 0, s->handle, a)));
	cudaError_t error = cudaGetLastError();
	if (error == cudaSuccess && tensor_path(b, &a))
		error = b->act == DTYPE_BF16 ? attention_backward_bf16(a, s->handle)
					     : attention_backward_f16(a, s->handle);
	else if (error == cudaSuccess)
		WITH_ACT(b, (error = D <= 64 ? plain_launch_backward<2, A>(a, s->handle)
					     : plain_launch_backward<8, A>(a, s->handle)));
	(void)stream_check(b, s, error, "attention_backward");
}

/* ---- decoding: one new token a sequence; a block a head ---- */

template <typename A>
__global__ void __launch_bounds__(warps * 32) decode(
	A *out, A *key_cache, A *value_cache, const A *qkv, int position, int P, int H, int D, float scale)
{
	SHARED_DYNAMIC(float, scores); /* [position + 1] */
	SHARED_ARRAY(float, best, [warps]);
	SHARED_ARRAY(float, sums, [warps]);
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32, C = H * D;
	int64_t b = blockIdx.x / H, h = blockIdx.x % H;
	const A *q = qkv + b * 3 * C + h * D;
	A *keys = key_cache + (int64_t)blockIdx.x * P * D,
	  *values = value_cache + (int64_t)blockIdx.x * P * D;
	for (int d = threadIdx.x; d < D; d += warps * 32) {
		keys[(int64_t)position * D + d] = q[C + d];
		values[(int64_t)position * D + d] = q[2 * C + d];
	}
	__syncthreads();
	float most = -INFINITY;
	for (int j = warp; j <= position; j += warps) {
		float sum = 0;
		for (int d = lane; d < D; d += 32)
			sum += to_float(q[d]) * to_float(keys[(int64_t)j * D + d]);
		sum = warp_sum(sum) * scale;
		most = fmaxf(most, sum);
		if (lane == 0)
			scores[j] = sum;
	}
	if (lane == 0)
		best[warp] = most;
	__syncthreads();
	for (int w = 0; w < warps; w++)
		most = fmaxf(most, best[w]);
	float total = 0;
	for (int j = threadIdx.x; j <= position; j += warps * 32) {
		scores[j] = expf(scores[j] - most);
		total += scores[j];
	}
	total = warp_sum(total);
	if (lane == 0)
		sums[warp] = total;
	__syncthreads();
	total = 0;
	for (int w = 0; w < warps; w++)
		total += sums[w];
	for (int d = threadIdx.x; d < D; d += warps * 32) {
		float acc = 0;
		for (int j = 0; j <= position; j++)
			acc = fmaf(scores[j], to_float(values[(int64_t)j * D + d]), acc);
		out[b * C + h * D + d] = from_float<A>(acc / total);
	}
}

void cuda_attention_decode(struct kernels *k, struct stream *s, void *out, void *key_cache, void *value_cache,
	const void *qkv, int position, int B, int P, int H, int D)
{
	struct backend *b = backend_enter(k);
	s = stream_of(k, s);
	size_t bytes = (size_t)(position + 4) / 4 * 4 * sizeof(float); /* whole vectors: they are read so */
	if (position >= KERNELS_GPU_DECODED) {                         /* 40 KiB */
		stream_fail(b, s, STATUS_UNSUPPORTED, "attention_decode takes at most 10,240 positions");
		return;
	}
	WITH_ACT(b, (launch(decode<A>, B * H, warps * 32, bytes, s->handle, (A *)out, (A *)key_cache,
			    (A *)value_cache, (const A *)qkv, position, P, H, D, 1.0f / sqrtf((float)D))));
	stream_launched(b, s, "attention_decode");
}
