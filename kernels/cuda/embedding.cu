/*
 * Embedding. The backward sorts (token, row) pairs (stable: rows in the order of the batch). The sorted list
 * is cut into windows of 64; a block adds up each piece of a run of equal tokens, and pieces of a run that
 * spans windows are then added in order. No atomics, the same bits every time, and a frequent token takes no
 * longer than its share.
 */
#include "kernels/cuda/backend.cuh"

#include <cub/device/device_radix_sort.cuh>

template <int V, typename A>
__global__ void embed(A *out, const int32_t *tokens, const int32_t *positions, const A *wte, const A *wpe,
	int64_t rows, int T, int C, struct device_dropout drop)
{
	int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
	if (i >= rows * C)
		return;
	int64_t r = i / C;
	int c = (int)(i % C), t = (int)(r % T);
	int position = positions ? positions[r] : t;
	float x[V], y[V];
	load(x, wte + (int64_t)tokens[r] * C + c);
	load(y, wpe + (int64_t)position * C + c);
#pragma unroll
	for (int e = 0; e < V; e++)
		x[e] += y[e];
	if (drop.on)
		dropout_vector(drop, (uint32_t)(r / T), (uint64_t)t * C + c, x);
	store(out + i, x);
}

void cuda_embedding_forward(struct kernels *k, struct stream *s, void *out, const int32_t *tokens,
	const int32_t *positions, const void *wte, const void *wpe, int B, int T, int C,
	const struct dropout *drop)
{
	struct backend *b = backend_enter(k);
	s = stream_of(k, s);
	int64_t rows = (int64_t)B * T;
	struct device_dropout d = device_dropout_from(drop);
	WITH_ACT(
		b, WITH_WIDTH(C, (launch(embed<V, A>, ceiling(rows * C, 256 * V), 256, 0, s->handle, (A *)out,
					 tokens, positions, (const A *)wte, (const A *)wpe, rows, T, C, d))));
	stream_launched(b, s, "embedding_forward");
}

/* dwpe[t] (+)= sum over sequences, in order, of drop(dout); rows of dwpe from T on are only overwritten. */
template <int V, typename A, typename G>
__global__ void position_gradient(
	G *dwpe, const A *dout, int B, int T, int C, int P, struct device_dropout drop, bool accumulate)
{
	int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
	if (i >= (int64_t)P * C)
		return;
	int64_t t = i / C;
	if (t >= T && accumulate)
		return;
	float sum[V] = {};
	if (accumulate)
		load(sum, dwpe + i);
	if (t < T)
#pragma unroll 4
		for (int q = 0; q < B; q++) {
			float x[V];
			load(x, dout + (int64_t)q * T * C + i);
			if (drop.on)
				dropout_vector(drop, (uint32_t)q, (uint64_t)i, x);
#pragma unroll
			for (int e = 0; e < V; e++)
				sum[e] += x[e];
		}
	store(dwpe + i, sum);
}

static __global__ void number_rows(int32_t *rows, int R)
{
	int r = blockIdx.x * blockDim.x + threadIdx.x;
	if (r < R)
		rows[r] = r;
}

enum { window = 64, run_threads = 128 };

/*
 * Block p: the piece of a run that begins at p, the beginning of the run or of a window. A whole run is added
 * to its gradient; a piece of one goes to partial[window][0: from the window's beginning, 1: not][C].
 */
template <int V, typename A, typename G>
__global__ void __launch_bounds__(run_threads) add_runs(G *grad, float *partial, const A *dout,
	const int32_t *keys, const int32_t *rows, int R, int T, int C, struct device_dropout drop)
{
	int p = blockIdx.x, w = p / window;
	int32_t key = keys[p];
	bool continued = p > 0 && keys[p - 1] == key;
	if (continued && p % window)
		return;
	int i = p + threadIdx.x;
	int end = p + __syncthreads_count(i < min(R, (w + 1) * window) && keys[i] == key);
	bool whole = !continued && (end == R || keys[end] != key);
	float *piece = partial + ((int64_t)w * 2 + (p % window != 0)) * C;
	for (int c = threadIdx.x * V; c < C; c += run_threads * V) {
		float sum[V] = {};
		G *to = grad + (int64_t)key * C + c;
		if (whole)
			load(sum, to);
#pragma unroll 4
		for (int q = p; q < end; q++) {
			int r = rows[q];
			float x[V];
			load(x, dout + (int64_t)r * C + c);
			if (drop.on)
				dropout_vector(drop, (uint32_t)(r / T), (uint64_t)(r % T) * C + c, x);
#pragma unroll
			for (int e = 0; e < V; e++)
				sum[e] += x[e];
		}
		if (whole)
			store(to, sum);
		else
			store(piece + c, sum);
	}
}

/* Block w: if a run begins in window w and goes on past it, its pieces are added up, in order. */
template <int V, typename G>
__global__ void __launch_bounds__(run_threads)
	join_runs(G *grad, const float *partial, const int32_t *keys, int R, int C)
{
	int w = blockIdx.x, begin = w * window, last = begin + window - 1;
	if (last >= R - 1)
		return;
	int32_t key = keys[last];
	bool from_start = keys[begin] == key;
	if (keys[last + 1] != key || (from_start && begin > 0 && keys[begin - 1] == key))
		return;
	int end = w + 1;
	while (end * window < R && keys[end * window] == key)
		end++;
	for (int c = threadIdx.x * V; c < C; c += run_threads * V) {
		float sum[V], x[V];
		G *to = grad + (int64_t)key * C + c;
		load(sum, to);
		for (int piece = w; piece < end; piece++) {
			load(x, partial + ((int64_t)piece * 2 + (piece == w && !from_start)) * C + c);
#pragma unroll
			for (int e = 0; e < V; e++)
				sum[e] += x[e];
		}
		store(to, sum);
	}
}

/* grad[keys[r]] += drop(dout[r]). */
static void add_rows_by_key(struct backend *b, struct stream *s, void *grad, const void *dout,
	const int32_t *keys, int R, int T, int C, struct device_dropout d)
{
	size_t list = ((size_t)R * sizeof(int32_t) + 255) / 256 * 256, sort_bytes = 0;
	(void)cub::DeviceRadixSort::SortPairs(NULL, sort_bytes, (const int32_t *)NULL, (int32_t *)NULL,
		(const int32_t *)NULL, (int32_t *)NULL, R, 0, 32, s->handle);
	sort_bytes = (sort_bytes + 255) / 256 * 256;
	int windows = ceiling(R, window);
	char *scratch = (char *)stream_scratch(
		b, s, 3 * list + sort_bytes + (size_t)windows * 2 * C * sizeof(float), "embedding gradient");
	if (!scratch)
		return;
	int32_t *sorted = (int32_t *)scratch, *rows = (int32_t *)(scratch + list);
	int32_t *numbers = (int32_t *)(scratch + 2 * list);
	float *partial = (float *)(scratch + 3 * list + sort_bytes);
	launch(number_rows, ceiling(R, 256), 256, 0, s->handle, numbers, R);
	if (!stream_check(b, s,
		    cub::DeviceRadixSort::SortPairs(scratch + 3 * list, sort_bytes, keys, sorted,
			    (const int32_t *)numbers, rows, R, 0, 32, s->handle),
		    "sorting tokens"))
		return;
	WITH_ACT(b,
		WITH_GRAD(b, WITH_WIDTH(C, (launch(add_runs<V, A, G>, R, run_threads, 0, s->handle, (G *)grad,
						   partial, (const A *)dout, sorted, rows, R, T, C, d)))));
	WITH_GRAD(b, WITH_WIDTH(C, (launch(join_runs<V, G>, windows, run_threads, 0, s->handle, (G *)grad,
					   partial, sorted, R, C))));
	stream_launched(b, s, "embedding_backward");
}

void cuda_embedding_backward(struct kernels *k, struct stream *s, void *dwte, void *dwpe, const void *dout,
	const int32_t *tokens, const int32_t *positions, int B, int T, int C, int P,
	const struct dropout *drop, bool accumulate)
{
	struct backend *b = backend_enter(k);
	s = stream_of(k, s);
	struct device_dropout d = device_dropout_from(drop);
	add_rows_by_key(b, s, dwte, dout, tokens, B * T, T, C, d);
	int64_t elements = (int64_t)P * C;
	if (positions) {
		if (!accumulate)
			k->zero(k, s, dwpe, (size_t)elements * dtype_bytes(b->grad));
		add_rows_by_key(b, s, dwpe, dout, positions, B * T, T, C, d);
		return;
	}
	WITH_ACT(b, WITH_GRAD(b, WITH_WIDTH(C, (launch(position_gradient<V, A, G>, ceiling(elements, 128 * V),
						       128, 0, s->handle, (G *)dwpe, (const A *)dout, B, T, C,
						       P, d, accumulate)))));
	stream_launched(b, s, "embedding_backward");
}
