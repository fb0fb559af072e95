/*
 * Residual, dropout and LayerNorm in one pass. Forward: a warp a row, the row in registers. Backward: a block
 * walks a range of rows, each thread owning V columns, so that the sums for gamma and beta stay in registers;
 * they are added up over blocks in a second pass of fixed order.
 */
#include "kernels/cuda/backend.cuh"

/* ---- forward ---- */

template <int V, typename A>
static __device__ __forceinline__ void residual_load(float (&x)[V], const A *in, const A *branch, A *out,
	int64_t r, int c, int T, int C, const struct device_dropout &drop)
{
	int64_t i = r * C + c;
	load(x, in + i);
	if (!branch)
		return;
	float y[V];
	load(y, branch + i);
	if (drop.on)
		dropout_vector(drop, (uint32_t)(r / T), (uint64_t)(r % T) * C + c, y);
#pragma unroll
	for (int e = 0; e < V; e++)
		x[e] = to_float(from_float<A>(x[e] + y[e])); /* what the backward will read */
	store(out + i, x);
}

/* A row is at most N * 32 * 8 elements, held in registers. */
template <int N, typename A>
__global__ void __launch_bounds__(128) normalize_rows(A *out, A *residual_out, float *mean_out,
	float *rstd_out, const A *residual_in, const A *branch, const A *gamma, const A *beta, int64_t R,
	int T, int C, float eps, struct device_dropout drop)
{
	int lane = threadIdx.x % 32;
	int64_t r = (int64_t)blockIdx.x * 4 + threadIdx.x / 32;
	if (r >= R)
		return;
	float x[N][8], sum = 0;
#pragma unroll
	for (int n = 0; n < N; n++) {
		int c = (n * 32 + lane) * 8;
		if (c >= C)
			continue;
		residual_load(x[n], residual_in, branch, residual_out, r, c, T, C, drop);
#pragma unroll
		for (int e = 0; e < 8; e++)
			sum += x[n][e];
	}
	float mean = warp_sum(sum) / C, squares = 0;
#pragma unroll
	for (int n = 0; n < N; n++)
		if ((n * 32 + lane) * 8 < C)
#pragma unroll
			for (int e = 0; e < 8; e++)
				squares += (x[n][e] - mean) * (x[n][e] - mean);
	float rstd = 1.0f / sqrtf(warp_sum(squares) / C + eps);
#pragma unroll
	for (int n = 0; n < N; n++) {
		int c = (n * 32 + lane) * 8;
		if (c >= C)
			continue;
		float g[8], h[8];
		load(g, gamma + c);
		load(h, beta + c);
#pragma unroll
		for (int e = 0; e < 8; e++)
			x[n][e] = (x[n][e] - mean) * rstd * g[e] + h[e];
		store(out + r * C + c, x[n]);
	}
	if (lane == 0) {
		mean_out[r] = mean;
		rstd_out[r] = rstd;
	}
}

/* Any C: the row is read again from memory, which is the cache. */
template <int V, typename A>
__global__ void __launch_bounds__(128) normalize_any(A *out, A *residual_out, float *mean_out,
	float *rstd_out, const A *residual_in, const A *branch, const A *gamma, const A *beta, int64_t R,
	int T, int C, float eps, struct device_dropout drop)
{
	int lane = threadIdx.x % 32;
	int64_t r = (int64_t)blockIdx.x * 4 + threadIdx.x / 32;
	if (r >= R)
		return;
	float x[V], g[V], h[V], sum = 0, squares = 0;
	for (int c = lane * V; c < C; c += 32 * V) {
		residual_load(x, residual_in, branch, residual_out, r, c, T, C, drop);
#pragma unroll
		for (int e = 0; e < V; e++)
			sum += x[e];
	}
	const A *row = (branch ? residual_out : residual_in) + r * C; /* each lane reads what it wrote */
	float mean = warp_sum(sum) / C;
	for (int c = lane * V; c < C; c += 32 * V) {
		load(x, row + c);
#pragma unroll
		for (int e = 0; e < V; e++)
			squares += (x[e] - mean) * (x[e] - mean);
	}
	float rstd = 1.0f / sqrtf(warp_sum(squares) / C + eps);
	for (int c = lane * V; c < C; c += 32 * V) {
		load(x, row + c);
		load(g, gamma + c);
		load(h, beta + c);
#pragma unroll
		for (int e = 0; e < V; e++)
			x[e] = (x[e] - mean) * rstd * g[e] + h[e];
		store(out + r * C + c, x);
	}
	if (lane == 0) {
		mean_out[r] = mean;
		rstd_out[r] = rstd;
	}
}

void cuda_layernorm_forward(struct kernels *k, struct stream *s, void *out, void *residual_out, float *mean,
	float *rstd, const void *residual_in, const void *branch, const void *gamma, const void *beta, int B,
	int T, int C, float eps, const struct dropout *drop)
{
	struct backend *b = backend_enter(k);
	s = stream_of(k, s);
	int64_t R = (int64_t)B * T;
	int blocks = ceiling(R, 4);
	struct device_dropout d = device_dropout_from(drop);
#define NORMALIZE(kernel)                                                                                    \
	WITH_ACT(b, (launch(kernel, blocks, 128, 0, s->handle, (A *)out, (A *)residual_out, mean, rstd,      \
			    (const A *)residual_in, (const A *)branch, (const A *)gamma, (const A *)beta, R, \
			    T, C, eps, d)))
#define COMMA ,
	if (C % 8)
		NORMALIZE(normalize_any<1 COMMA A>);
	else if (C > 2048)
		NORMALIZE(normalize_any<8 COMMA A>);
	else if (C <= 256)
		NORMALIZE(normalize_rows<1 COMMA A>);
	else if (C <= 768)
		NORMALIZE(normalize_rows<3 COMMA A>);
	else if (C <= 1024)
		NORMALIZE(normalize_rows<4 COMMA A>);
	else
		NORMALIZE(normalize_rows<8 COMMA A>);
#undef COMMA
#undef NORMALIZE
	stream_launched(b, s, "layernorm_forward");
}

/* ---- backward ---- */

/* With xhat = (x - mean) rstd and g = dout gamma:  dx = rstd (g - mean(g) - xhat mean(g xhat)). */

enum { gradient_threads = 512 /* on a processor */ };

/* What a thread needs of a row; of a row that is not its own, zeros. */
template <typename A> struct row_part {
	struct packed<A> dout, x, dresidual;
	float mean, rstd;
};

template <typename A>
static __device__ __forceinline__ struct row_part<A> row_fetch(const A *dout, const A *x,
	const A *dresidual_in, const float *mean, const float *rstd, int64_t at, int r, bool mine) {
	struct row_part<A> part = {
	};
	if (!mine)
		return part;
	part.dout = load_packed(dout + at);
	part.x = load_packed(x + at);
	if (dresidual_in)
		part.dresidual = load_packed(dresidual_in + at);
	part.mean = mean[r];
	part.rstd = rstd[r];
	return part;
}

/* g = dout gamma, and xhat. */
template <typename A>
static __device__ __forceinline__ void row_unpack(
	float (&g)[8], float (&xhat)[8], const struct row_part<A> &part)
{
	unpack(g, part.dout);
	unpack(xhat, part.x);
#pragma unroll
	for (int e = 0; e < 8; e++)
		xhat[e] = (xhat[e] - part.mean) * part.rstd;
}

/*
 * One thread for 8 columns, blockDim.x >= C / 8; partial[block] = dgamma [C], dbeta [C]. The rows of the next round are
 * fetched before this one's are worked on: with a barrier in each round, nothing else would hide the way to the memory.
 */
template <int MOST, typename A>
__global__ void __launch_bounds__(MOST, gradient_threads / MOST) normalize_gradient(A *dresidual,
	const A *dresidual_in, A *dbranch, float *partial, const A *dout, const A *x, const A *gamma,
	const float *mean, const float *rstd, int R, int T, int C, struct device_dropout drop, int rows_each)
{
	constexpr int N = sizeof(A) == 2 ? 2 : 1; /* rows a round: as many as registers are for */
	SHARED_ARRAY(float, sums, [2][N][2][MOST / 32]);
	int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	int c = threadIdx.x * 8;
	bool mine = c < C;
	float weight[8] = {}, dgamma[8] = {}, dbeta[8] = {};
	if (mine)
		load(weight, gamma + c);
	int begin = blockIdx.x * rows_each, end = min(R, begin + rows_each), turn = 0;
	struct row_part<A> part[N], next[N];
#pragma unroll
	for (int q = 0; q < N; q++)
		next[q] = row_fetch(dout, x, dresidual_in, mean, rstd, (int64_t)(begin + q) * C + c,
			begin + q, mine && begin + q < end);
	for (int r0 = begin; r0 < end; r0 += N, turn ^= 1) {
#pragma unroll
		for (int q = 0; q < N; q++) {
			int r = r0 + N + q;
			part[q] = next[q];
			next[q] = row_fetch(
				dout, x, dresidual_in, mean, rstd, (int64_t)r * C + c, r, mine && r < end);
		}
#pragma unroll
		for (int q = 0; q < N; q++) {
			float g[8], xhat[8], sum_g = 0, sum_gx = 0;
			row_unpack(g, xhat, part[q]);
#pragma unroll
			for (int e = 0; e < 8; e++) {
				dgamma[e] += g[e] * xhat[e];
				dbeta[e] += g[e];
				g[e] *= weight[e];
				sum_g += g[e];
				sum_gx += g[e] * xhat[e];
			}
			sum_g = warp_sum(sum_g);
			sum_gx = warp_sum(sum_gx);
			if (lane == 0) {
				sums[turn][q][0][warp] = sum_g;
				sums[turn][q][1][warp] = sum_gx;
			}
		}
		__syncthreads(); /* one a round: the next round writes the other half */
#pragma unroll
		for (int q = 0; q < N; q++) {
			int r = r0 + q;
			if (!mine || r >= end)
				continue;
			float g[8], xhat[8], d[8], mean_g = 0, mean_gx = 0, s = part[q].rstd;
			for (int w = 0; w < warps; w++) {
				mean_g += sums[turn][q][0][w];
				mean_gx += sums[turn][q][1][w];
			}
			mean_g /= C;
			mean_gx /= C;
			row_unpack(g, xhat, part[q]);
			unpack(d, part[q].dresidual);
#pragma unroll
			for (int e = 0; e < 8; e++)
				d[e] += s * (g[e] * weight[e] - mean_g - xhat[e] * mean_gx);
			int64_t i = (int64_t)r * C + c;
			store(dresidual + i, d);
			if (!dbranch)
				continue;
			if (drop.on)
				dropout_vector(drop, (uint32_t)(r / T), (uint64_t)(r % T) * C + c, d);
			store(dbranch + i, d);
		}
	}
	if (mine) {
		store(partial + (size_t)blockIdx.x * 2 * C + c, dgamma);
		store(partial + (size_t)blockIdx.x * 2 * C + C + c, dbeta);
	}
}

/* Any C: a block a row for dx, then a thread a column for the sums. */
template <typename A>
__global__ void __launch_bounds__(32) normalize_gradient_any(A *dresidual, const A *dresidual_in, A *dbranch,
	const A *dout, const A *x, const A *gamma, const float *mean, const float *rstd, int T, int C,
	struct device_dropout drop)
{
	int64_t r = blockIdx.x, base = r * C;
	float m = mean[r], s = rstd[r], sum_g = 0, sum_gx = 0;
	for (int c = threadIdx.x; c < C; c += 32) {
		float g = to_float(dout[base + c]) * to_float(gamma[c]);
		sum_g += g;
		sum_gx += g * (to_float(x[base + c]) - m) * s;
	}
	float mean_g = warp_sum(sum_g) / C, mean_gx = warp_sum(sum_gx) / C;
	for (int c = threadIdx.x; c < C; c += 32) {
		float g = to_float(dout[base + c]) * to_float(gamma[c]);
		float xhat = (to_float(x[base + c]) - m) * s;
		float d[1] = {dresidual_in ? to_float(dresidual_in[base + c]) : 0.0f};
		d[0] += s * (g - mean_g - xhat * mean_gx);
		store(dresidual + base + c, d);
		if (!dbranch)
			continue;
		if (drop.on)
			dropout_vector(drop, (uint32_t)(r / T), (uint64_t)(r % T) * C + c, d);
		store(dbranch + base + c, d);
	}
}

template <typename A>
__global__ void __launch_bounds__(128) normalize_sums_any(float *partial, const A *dout, const A *x,
	const float *mean, const float *rstd, int R, int C, int rows_each)
{
	int c = blockIdx.x * 128 + threadIdx.x;
	if (c >= C)
		return;
	int begin = blockIdx.y * rows_each, end = min(R, begin + rows_each);
	float dgamma = 0, dbeta = 0;
	for (int r = begin; r < end; r++) {
		float g = to_float(dout[(int64_t)r * C + c]);
		dgamma += g * (to_float(x[(int64_t)r * C + c]) - mean[r]) * rstd[r];
		dbeta += g;
	}
	partial[(size_t)blockIdx.y * 2 * C + c] = dgamma;
	partial[(size_t)blockIdx.y * 2 * C + C + c] = dbeta;
}

void cuda_layernorm_backward(struct kernels *k, struct stream *s, void *dresidual, const void *dresidual_in,
	void *dbranch, void *dgamma, void *dbeta, const void *dout, const void *x, const void *gamma,
	const float *mean, const float *rstd, int B, int T, int C, const struct dropout *drop,
	bool accumulate)
{
	struct backend *b = backend_enter(k);
	s = stream_of(k, s);
	struct device_dropout d = device_dropout_from(drop);
	int R = B * T, threads = ceiling(C, 8 * 32) * 32;
	/* Fast: as many blocks as fit on the processors, rows in whole rounds. */
	bool fast = C % 8 == 0 && threads <= gradient_threads;
	int parts = fast ? b->processors * (gradient_threads / threads) : 64;
	int rows_each = ceiling(ceiling(R, parts), 2) * 2;
	parts = ceiling(R, rows_each);
	float *partial =
		(float *)stream_scratch(b, s, (size_t)parts * 2 * C * sizeof(float), "layernorm gradient");
	if (!partial)
		return;
#define GRADIENT(MOST)                                                                                       \
	WITH_ACT(b, (launch(normalize_gradient<MOST, A>, parts, threads, 0, s->handle, (A *)dresidual,       \
			    (const A *)dresidual_in, (A *)dbranch, partial, (const A *)dout, (const A *)x,   \
			    (const A *)gamma, mean, rstd, R, T, C, d, rows_each)))
	if (fast && threads <= 256) {
		GRADIENT(256);
	} else if (fast) {
		GRADIENT(gradient_threads);
	} else {
		/* The sums first: dresidual may be dout's neighbour, never dout or x themselves. */
		WITH_ACT(b, (launch(normalize_sums_any<A>, dim3(ceiling(C, 128), parts), 128, 0, s->handle,
				    partial, (const A *)dout, (const A *)x, mean, rstd, R, C, rows_each)));
		WITH_ACT(b, (launch(normalize_gradient_any<A>, R, 32, 0, s->handle, (A *)dresidual,
				    (const A *)dresidual_in, (A *)dbranch, (const A *)dout, (const A *)x,
				    (const A *)gamma, mean, rstd, T, C, d)));
	}
#undef GRADIENT
	stream_launched(b, s, "layernorm_backward");
	reduce_partials(b, s, dgamma, dbeta, partial, parts, C, accumulate);
}

/* ---- dropout alone ---- */

template <int V, typename A>
__global__ void drop_rows(A *out, const A *in, int64_t rows, int T, int C, struct device_dropout drop)
{
	int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
	if (i >= rows * C)
		return;
	int64_t r = i / C;
	float x[V];
	load(x, in + i);
	dropout_vector(drop, (uint32_t)(r / T), (uint64_t)(r % T) * C + i % C, x);
	store(out + i, x);
}

void cuda_dropout_apply(struct kernels *k, struct stream *s, void *out, const void *in, int B, int T, int C,
	const struct dropout *drop)
{
	struct backend *b = backend_enter(k);
	s = stream_of(k, s);
	struct device_dropout d = device_dropout_from(drop);
	int64_t rows = (int64_t)B * T;
	if (!d.on) {
		if (out != in)
			k->copy(k, s, out, in, (size_t)rows * C * dtype_bytes(b->act));
		return;
	}
	WITH_ACT(b, WITH_WIDTH(C, (launch(drop_rows<V, A>, ceiling(rows * C, 256 * V), 256, 0, s->handle,
					  (A *)out, (const A *)in, rows, T, C, d))));
	stream_launched(b, s, "dropout_apply");
}
