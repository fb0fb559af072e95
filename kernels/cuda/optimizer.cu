/* AdamW, statistics of gradients, conversions. Built without contraction: adamw.h says where an fma is. */
#include "kernels/cuda/backend.cuh"

#include "kernels/adamw.h"

/* ---- AdamW ---- */

template <int V, typename A, typename G>
__global__ void __launch_bounds__(256) adamw_step(struct adamw_factors f, float *p_out, float *m_out,
	float *v_out, A *work, const float *p, const float *m, const float *v, const G *grad, int64_t count)
{
	int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
	if (i >= count)
		return;
	float x[V], first[V], second[V], g[V];
	load(x, p + i);
	load(first, m + i);
	load(second, v + i);
	load(g, grad + i);
#pragma unroll
	for (int e = 0; e < V; e++)
		adamw_update(&f, g[e], &x[e], &first[e], &second[e]);
	store(p_out + i, x);
	store(m_out + i, first);
	store(v_out + i, second);
	if (work)
		store(work + i, x);
}

/* Eight at a time where everything is aligned to 16 bytes; what is left over one by one. */
static bool aligned(const void *a)
{
	return (uintptr_t)a % 16 == 0;
}

template <int V>
static void adamw_launch(struct backend *b, struct stream *s, const struct adamw_factors *f, float *p_out,
	float *m_out, float *v_out, void *work, const float *p, const float *m, const float *v,
	const void *grad, int64_t from, int64_t count)
{
	if (count <= 0)
		return;
	WITH_ACT(b,
		WITH_GRAD(b, (launch(adamw_step<V, A, G>, ceiling(count, 256 * V), 256, 0, s->handle, *f,
				     p_out + from, m_out + from, v_out + from, work ? (A *)work + from : NULL,
				     p + from, m + from, v + from, (const G *)grad + from, count))));
	stream_launched(b, s, "adamw");
}

void cuda_adamw(struct kernels *k, struct stream *s, const struct adamw *args, float *p_out, float *m_out,
	float *v_out, void *work, const float *p, const float *m, const float *v, const void *grad,
	uint64_t count)
{
	struct backend *b = backend_enter(k);
	s = stream_of(k, s);
	struct adamw_factors f = adamw_prepare(args);
	bool wide = aligned(p_out) && aligned(m_out) && aligned(v_out) && aligned(work) && aligned(p) &&
		    aligned(m) && aligned(v) && aligned(grad);
	int64_t whole = wide ? (int64_t)(count / 8 * 8) : 0;
	adamw_launch<8>(b, s, &f, p_out, m_out, v_out, work, p, m, v, grad, 0, whole);
	adamw_launch<1>(b, s, &f, p_out, m_out, v_out, work, p, m, v, grad, whole, (int64_t)count - whole);
}

/* ---- statistics ---- */

enum { stats_threads = 256, most_stats_blocks = 1024 };

/* Adds the block's 256 partial results in a fixed tree; thread 0 has the total. */
static __device__ struct gradient_stats stats_reduce(struct gradient_stats mine)
{
	SHARED_ARRAY(double, squares, [stats_threads]);
	SHARED_ARRAY(unsigned long long, bad, [stats_threads]);
	squares[threadIdx.x] = mine.sum_of_squares;
	bad[threadIdx.x] = mine.nonfinite;
	for (int k = stats_threads / 2; k; k /= 2) {
		__syncthreads();
		if ((int)threadIdx.x < k) {
			squares[threadIdx.x] += squares[threadIdx.x + k];
			bad[threadIdx.x] += bad[threadIdx.x + k];
		}
	}
	if (threadIdx.x == 0) {
		mine.sum_of_squares = squares[0];
		mine.nonfinite = bad[0];
	}
	return mine;
}

template <typename G>
__global__ void __launch_bounds__(stats_threads)
	stats_partial(struct gradient_stats *partial, const G *grad, uint64_t count, bool wide)
{
	struct gradient_stats mine = {0, 0};
	uint64_t thread = (uint64_t)blockIdx.x * stats_threads + threadIdx.x;
	uint64_t threads = (uint64_t)gridDim.x * stats_threads;
	uint64_t whole = wide ? count / 8 * 8 : 0;
	for (uint64_t i = thread * 8; i < whole; i += threads * 8) {
		float x[8];
		load(x, grad + i);
#pragma unroll
		for (int e = 0; e < 8; e++) {
			mine.sum_of_squares += (double)x[e] * x[e];
			mine.nonfinite += !isfinite(x[e]);
		}
	}
	for (uint64_t i = whole + thread; i < count; i += threads) {
		float x = to_float(grad[i]);
		mine.sum_of_squares += (double)x * x;
		mine.nonfinite += !isfinite(x);
	}
	mine = stats_reduce(mine);
	if (threadIdx.x == 0)
		partial[blockIdx.x] = mine;
}

static __global__ void __launch_bounds__(stats_threads)
	stats_total(struct gradient_stats *stats, const struct gradient_stats *partial, int parts)
{
	struct gradient_stats mine = {0, 0};
	for (int i = threadIdx.x; i < parts; i += stats_threads) {
		mine.sum_of_squares += partial[i].sum_of_squares;
		mine.nonfinite += partial[i].nonfinite;
	}
	mine = stats_reduce(mine);
	if (threadIdx.x == 0)
		*stats = mine;
}

void cuda_gradient_stats(
	struct kernels *k, struct stream *s, struct gradient_stats *stats, const void *grad, uint64_t count)
{
	struct backend *b = backend_enter(k);
	s = stream_of(k, s);
	/* As many blocks as there is work for, so that the sums have one order whatever their number. */
	bool wide = aligned(grad);
	uint64_t round = stats_threads * (wide ? 8 : 1), rounds = (count + round - 1) / round;
	int parts = rounds > most_stats_blocks ? most_stats_blocks : rounds ? (int)rounds : 1;
	struct gradient_stats *partial =
		(struct gradient_stats *)stream_scratch(b, s, parts * sizeof *partial, "gradient statistics");
	if (!partial)
		return;
	WITH_GRAD(b, (launch(stats_partial<G>, parts, stats_threads, 0, s->handle, partial, (const G *)grad,
			     count, wide)));
	launch(stats_total, 1, stats_threads, 0, s->handle, stats, partial, parts);
	stream_launched(b, s, "gradient_stats");
}

/* ---- conversions ---- */

template <int V, typename To, typename From>
__global__ void __launch_bounds__(256) convert_elements(To *to, const From *from, int64_t count)
{
	int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
	if (i >= count)
		return;
	float x[V];
	load(x, from + i);
	store(to + i, x);
}

template <typename To, typename From>
static void convert_launch(struct stream *s, void *to, const void *from, int64_t count)
{
	To *t = (To *)to;
	const From *f = (const From *)from;
	int64_t whole = aligned(to) && aligned(from) ? count / 8 * 8 : 0;
	if (whole)
		launch(convert_elements<8, To, From>, ceiling(whole, 256 * 8), 256, 0, s->handle, t, f,
			whole);
	if (count > whole)
		launch(convert_elements<1, To, From>, ceiling(count - whole, 256), 256, 0, s->handle,
			t + whole, f + whole, count - whole);
}

template <typename To>
static void convert_from(struct stream *s, void *to, const void *from, enum dtype type, int64_t count)
{
	if (type == DTYPE_F32)
		convert_launch<To, float>(s, to, from, count);
	else if (type == DTYPE_BF16)
		convert_launch<To, __nv_bfloat16>(s, to, from, count);
	else
		convert_launch<To, __half>(s, to, from, count);
}

void cuda_convert(struct kernels *k, struct stream *s, void *to, enum dtype to_type, const void *from,
	enum dtype from_type, uint64_t count)
{
	struct backend *b = backend_enter(k);
	s = stream_of(k, s);
	if (to_type == from_type) {
		if (to != from)
			k->copy(k, s, to, from, count * dtype_bytes(to_type));
		return;
	}
	if (to_type == DTYPE_F32)
		convert_from<float>(s, to, from, from_type, (int64_t)count);
	else if (to_type == DTYPE_BF16)
		convert_from<__nv_bfloat16>(s, to, from, from_type, (int64_t)count);
	else
		convert_from<__half>(s, to, from, from_type, (int64_t)count);
	stream_launched(b, s, "convert");
}
