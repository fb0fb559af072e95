/*
 * attention_tensor.cuh: flash attention on tensor cores; included by attention_bf16.cu and attention_f16.cu.
 *
 * Forward: a block takes 128 rows of one head (8 warps of 16), walks tiles of keys, keeps the running maximum
 * and sum of each row, and never stores a probability. Backward recomputes them from the logsumexp, in two
 * kernels: one owns 64 keys and adds up dk, dv over rows, one owns 64 rows and adds up dq over keys. Each
 * output has one owner and a fixed order, so no atomics. Tiles of the next step are copied while this one is
 * computed.
 *
 * Rows of D elements are padded to DEPTH (64 or 128) with zeros, plus 8 in shared memory, so that ldmatrix
 * meets no bank conflict.
 */
#include "kernels/cuda/attention.cuh"

namespace
{

constexpr float LOG2_E = 1.4426950408889634f;

template <typename A> __device__ __forceinline__ uint32_t pack(float low, float high)
{
	union {
		A element[2];
		uint32_t bits;
		__device__ operator uint32_t() const
		{
			return bits;
		}
	} both = {{from_float<A>(low), from_float<A>(high)}};
	return both.bits;
}

/* ROWS rows of D elements, from row `from` of a [T][stride] array. */
template <typename A, int ROWS, int DEPTH, int THREADS>
__device__ __forceinline__ void copy_tile(A *shared, const A *array, int64_t stride, int from, int T, int D)
{
	constexpr int across = DEPTH / 8, LD = DEPTH + 8, step = THREADS / across;
	static_assert(
		THREADS % across == 0 && ROWS % step == 0, "every thread copies the same column of its rows");
	int row = threadIdx.x / across, d = threadIdx.x % across * 8;
	const A *source = array + (from + row) * stride + d;
	int rows = d < D ? T - from - row : 0;
	shared += row * LD + d;
#pragma unroll
	for (int i = 0; i < ROWS; i += step, source += step * stride)
		copy_async(shared + i * LD, i < rows ? source : array, i < rows);
}

/* The A fragments of 16 rows of a [..][LD] tile. */
template <typename A, int DEPTH>
__device__ __forceinline__ void load_rows(uint32_t (&a)[DEPTH / 16][4], const A *shared, int lane)
{
#pragma unroll
	for (int d = 0; d < DEPTH / 16; d++)
		load_matrices(a[d], shared + (lane % 16) * (DEPTH + 8) + d * 16 + lane / 16 * 8);
}

/* c [16][8 N] = rows (a) times the transpose of a tile [8 N][LD]. */
template <typename A, int DEPTH, int N>
__device__ __forceinline__ void multiply_rows(
	float (&c)[N][4], const uint32_t (&a)[DEPTH / 16][4], const A *shared, int lane)
{
#pragma unroll
	for (int n = 0; n < N; n++)
#pragma unroll
		for (int e = 0; e < 4; e++)
			c[n][e] = 0;
#pragma unroll
	for (int d = 0; d < DEPTH / 16; d++)
#pragma unroll
		for (int n = 0; n < N; n += 2) {
			uint32_t r[4];
			load_matrices(r, shared + (n * 8 + lane % 8 + lane / 16 * 8) * (DEPTH + 8) + d * 16 +
						 lane / 8 % 2 * 8);
			mma<A>(c[n], a[d], r[0], r[1]);
			mma<A>(c[n + 1], a[d], r[2], r[3]);
		}
}

/* As above, with the 16 rows read from shared memory as they are needed. */
template <typename A, int DEPTH, int N>
__device__ __forceinline__ void multiply_rows_shared(
	float (&c)[N][4], const A *rows, const A *shared, int lane)
{
#pragma unroll
	for (int n = 0; n < N; n++)
#pragma unroll
		for (int e = 0; e < 4; e++)
			c[n][e] = 0;
#pragma unroll
	for (int d = 0; d < DEPTH / 16; d++) {
		uint32_t a[4];
		load_matrices(a, rows + (lane % 16) * (DEPTH + 8) + d * 16 + lane / 16 * 8);
#pragma unroll
		for (int n = 0; n < N; n += 2) {
			uint32_t r[4];
			load_matrices(r, shared + (n * 8 + lane % 8 + lane / 16 * 8) * (DEPTH + 8) + d * 16 +
						 lane / 8 % 2 * 8);
			mma<A>(c[n], a, r[0], r[1]);
			mma<A>(c[n + 1], a, r[2], r[3]);
		}
	}
}

/* acc [16][DEPTH] += x [16][8 N] (C fragments, rounded to A) times a tile [8 N][LD]. */
template <typename A, int DEPTH, int N>
__device__ __forceinline__ void accumulate(
	float (&acc)[DEPTH / 8][4], const float (&x)[N][4], const A *shared, int lane)
{
#pragma unroll
	for (int k = 0; k < N / 2; k++) {
		uint32_t a[4] = {pack<A>(x[2 * k][0], x[2 * k][1]), pack<A>(x[2 * k][2], x[2 * k][3]),
			pack<A>(x[2 * k + 1][0], x[2 * k + 1][1]), pack<A>(x[2 * k + 1][2], x[2 * k + 1][3])};
#pragma unroll
		for (int d = 0; d < DEPTH / 8; d += 2) {
			uint32_t r[4];
			load_matrices_transposed(
				r, shared + (k * 16 + lane % 16) * (DEPTH + 8) + d * 8 + lane / 16 * 8);
			mma<A>(acc[d], a, r[0], r[1]);
			mma<A>(acc[d + 1], a, r[2], r[3]);
		}
	}
}

/* ---- dropout: a Philox block covers 4 neighbouring keys of a row; every lane computes one block in four
 * ---- */

__device__ __forceinline__ uint32_t keep_bits(
	const struct device_dropout &drop, uint32_t sequence, uint64_t quarter)
{
	struct philox_block block = device_dropout_block(drop, sequence, quarter);
	uint32_t bits = 0;
#pragma unroll
	for (int i = 0; i < 4; i++)
		bits |= (uint32_t)(block.word[i] >= drop.threshold) << i;
	return bits;
}

/* Bits of C fragments whose rows are queries: element e of n is bit 4 n + (e % 2) of bits[e / 2]. */
template <int N>
__device__ __forceinline__ void keep_by_row(
	uint32_t (&bits)[2], const struct attention &a, int b, int h, int i0, int j0, int lane)
{
	int g = lane / 4, t = lane % 4, odd = t & 1;
	uint64_t quarter = ((uint64_t)h * a.T + i0 + g + 8 * odd) * (a.T / 4) + j0 / 4 + t / 2;
	uint32_t mine = 0;
#pragma unroll
	for (int n = 0; n < N; n++)
		mine |= keep_bits(a.drop, b, quarter + 2 * n) << (4 * n);
	uint32_t other = __shfl_xor_sync(0xffffffffu, mine, 1);
	bits[0] = (odd ? other : mine) >> (2 * odd);
	bits[1] = (odd ? mine : other) >> (2 * odd);
}

/* Bits of C fragments whose rows are keys: element e of n is bit 4 n of bits[e]. */
template <int N>
__device__ __forceinline__ void keep_by_column(
	uint32_t (&bits)[4], const struct attention &a, int b, int h, int i0, int j0, int lane)
{
	int g = lane / 4, t = lane % 4, x = g % 4;
	uint64_t quarter =
		((uint64_t)h * a.T + i0 + 2 * t + x % 2) * (a.T / 4) + (j0 + g / 4 * 4 + x / 2 * 8) / 4;
	uint32_t mine = 0;
#pragma unroll
	for (int n = 0; n < N; n++)
		mine |= keep_bits(a.drop, b, quarter + (uint64_t)n * 8 * (a.T / 4)) << (4 * n);
#pragma unroll
	for (int e = 0; e < 4; e++)
		bits[e] = __shfl_sync(0xffffffffu, mine, (lane & ~12) | e << 2) >> x;
}

/* ---- forward ---- */

template <int DEPTH> struct forward_shape {
	static constexpr int rows = 128, keys = DEPTH == 64 ? 64 : 32, threads = 256, LD = DEPTH + 8;
	static constexpr int shared_elements = (rows + 4 * keys) * LD;
};

/* The smallest `first` of the block's rows. */
__device__ __forceinline__ int lowest_first(const int32_t *first, int from, int rows, int T, int *shared)
{
	int low = T;
	for (int i = threadIdx.x; i < rows && from + i < T; i += blockDim.x)
		low = min(low, first[from + i]);
	low = __reduce_min_sync(0xffffffffu, low);
	if (threadIdx.x % 32 == 0)
		shared[threadIdx.x / 32] = low;
	__syncthreads();
	low = shared[0];
	for (unsigned w = 1; w < blockDim.x / 32; w++)
		low = min(low, shared[w]);
	return low;
}

template <typename A, int DEPTH, bool DROP>
__global__ void __launch_bounds__(256, 2)
	tensor_forward(const __grid_constant__ struct attention a, int tiles)
{
	using S = forward_shape<DEPTH>;
	constexpr int N = S::keys / 8;
	SHARED_DYNAMIC(uint4, shared_bytes);
	SHARED_ARRAY(int, lows, [8]);
	A *queries = (A *)shared_bytes, *keys = queries + S::rows * S::LD,
	  *values = keys + 2 * S::keys * S::LD;
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
	int heads = a.B * a.H, bh = blockIdx.x % heads, b = bh / a.H, h = bh % a.H;
	int m0 = (tiles - 1 - blockIdx.x / heads) * S::rows; /* the longest rows start first */
	int T = a.T, D = a.D, C = a.H * D, i0 = m0 + warp * 16;
	const A *qkv = (const A *)a.qkv + (int64_t)b * T * 3 * C + h * D;
	const int32_t *first = a.first ? a.first + (int64_t)b * T : NULL;

	int begin = first ? lowest_first(first, m0, S::rows, T, lows) / S::keys : 0;
	int end = (min(T, m0 + S::rows) + S::keys - 1) / S::keys;
	copy_tile<A, S::rows, DEPTH, S::threads>(queries, qkv, 3 * C, m0, T, D);
	copy_tile<A, S::keys, DEPTH, S::threads>(keys, qkv + C, 3 * C, begin * S::keys, T, D);
	copy_tile<A, S::keys, DEPTH, S::threads>(values, qkv + 2 * C, 3 * C, begin * S::keys, T, D);
	copy_async_commit();

	int row[2] = {i0 + g, i0 + g + 8}, low[2] = {0, 0};
	if (first)
		for (int e = 0; e < 2; e++)
			low[e] = row[e] < T ? first[row[e]] : 0;
	float most[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0}, acc[DEPTH / 8][4] = {};
	uint32_t q[DEPTH / 16][4];
	float factor = a.scale * LOG2_E;
	for (int tile = begin; tile < end; tile++) {
		int turn = (tile - begin) % 2, j0 = tile * S::keys;
		copy_async_wait();
		__syncthreads();
		if (tile == begin)
			load_rows<A, DEPTH>(q, queries + warp * 16 * S::LD, lane);
		if (tile + 1 < end) {
			int other = (turn ^ 1) * S::keys * S::LD, next = j0 + S::keys;
			copy_tile<A, S::keys, DEPTH, S::threads>(keys + other, qkv + C, 3 * C, next, T, D);
			copy_tile<A, S::keys, DEPTH, S::threads>(
				values + other, qkv + 2 * C, 3 * C, next, T, D);
			copy_async_commit();
		}
		if (j0 > i0 + 15)
			continue; /* wholly above the diagonal for this warp */
		float s[N][4];
		multiply_rows<A, DEPTH, N>(s, q, keys + turn * S::keys * S::LD, lane);
		/* Masking apart from the rest: most tiles lie wholly below the diagonal. */
		if (j0 + S::keys - 1 > i0 || first)
#pragma unroll
			for (int n = 0; n < N; n++)
#pragma unroll
				for (int e = 0; e < 4; e++) {
					int j = j0 + n * 8 + 2 * t + e % 2;
					if (j > row[e / 2] || j < low[e / 2])
						s[n][e] = -INFINITY;
				}
		float larger[2] = {most[0], most[1]};
#pragma unroll
		for (int n = 0; n < N; n++)
#pragma unroll
			for (int e = 0; e < 4; e++)
				larger[e / 2] = fmaxf(larger[e / 2], s[n][e]);
		float offset[2];
#pragma unroll
		for (int e = 0; e < 2; e++) {
			larger[e] = fmaxf(larger[e], __shfl_xor_sync(0xffffffffu, larger[e], 1));
			larger[e] = fmaxf(larger[e], __shfl_xor_sync(0xffffffffu, larger[e], 2));
			offset[e] = larger[e] == -INFINITY ? 0.0f : larger[e] * factor;
			float shrink = power_of_two(most[e] * factor - offset[e]);
			most[e] = larger[e];
			total[e] *= shrink;
#pragma unroll
			for (int d = 0; d < DEPTH / 8; d++) {
				acc[d][2 * e] *= shrink;
				acc[d][2 * e + 1] *= shrink;
			}
		}
#pragma unroll
		for (int n = 0; n < N; n++)
#pragma unroll
			for (int e = 0; e < 4; e++) {
				s[n][e] = power_of_two(s[n][e] * factor - offset[e / 2]);
				total[e / 2] += s[n][e];
			}
		if constexpr (DROP) {
			uint32_t keep[2];
			keep_by_row<N>(keep, a, b, h, i0, j0, lane);
#pragma unroll
			for (int n = 0; n < N; n++)
#pragma unroll
				for (int e = 0; e < 4; e++)
					if (!(keep[e / 2] >> (4 * n + e % 2) & 1))
						s[n][e] = 0;
		}
		accumulate<A, DEPTH, N>(acc, s, values + turn * S::keys * S::LD, lane);
	}
#pragma unroll
	for (int e = 0; e < 2; e++) {
		total[e] += __shfl_xor_sync(0xffffffffu, total[e], 1);
		total[e] += __shfl_xor_sync(0xffffffffu, total[e], 2);
		if (row[e] >= T)
			continue;
		float inverse = (DROP ? a.drop.scale : 1.0f) / total[e];
		A *out = (A *)a.out + ((int64_t)b * T + row[e]) * C + h * D + 2 * t;
#pragma unroll
		for (int d = 0; d < DEPTH / 8; d++)
			if (d * 8 < D)
				*(uint32_t *)(out + d * 8) =
					pack<A>(acc[d][2 * e] * inverse, acc[d][2 * e + 1] * inverse);
		if (t == 0)
			a.lse[(int64_t)bh * T + row[e]] = most[e] * a.scale + logf(total[e]);
	}
}

/* ---- backward: dk, dv ---- */

template <int DEPTH> struct backward_shape {
	static constexpr int own = 64, step = 32, threads = 128, LD = DEPTH + 8;
	static constexpr int shared_elements = (2 * own + 4 * step) * LD;
};

template <typename A, int DEPTH>
__device__ __forceinline__ void store_rows(
	A *to, int64_t stride, const float (&acc)[DEPTH / 8][4], float factor, int row, int T, int D, int t)
{
#pragma unroll
	for (int e = 0; e < 2; e++)
		if (row + 8 * e < T)
#pragma unroll
			for (int d = 0; d < DEPTH / 8; d++)
				if (d * 8 < D)
					*(uint32_t *)(to + (row + 8 * e) * stride + d * 8 + 2 * t) =
						pack<A>(acc[d][2 * e] * factor, acc[d][2 * e + 1] * factor);
}

template <typename A, int DEPTH, bool DROP>
__global__ void __launch_bounds__(128, DEPTH == 64 ? 3 : 2)
	tensor_key_gradient(const __grid_constant__ struct attention a)
{
	using S = backward_shape<DEPTH>;
	constexpr int N = S::step / 8;
	constexpr bool resident = DEPTH == 64; /* k and v fragments stay in registers */
	SHARED_DYNAMIC(uint4, shared_bytes);
	SHARED_ARRAY(float, lse, [2][S::step]);
	SHARED_ARRAY(float, delta, [2][S::step]);
	SHARED_ARRAY(int, lows, [2][S::step]);
	A *keys = (A *)shared_bytes, *values = keys + S::own * S::LD;
	A *queries = values + S::own * S::LD, *douts = queries + 2 * S::step * S::LD;
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
	int heads = a.B * a.H, bh = blockIdx.x % heads, b = bh / a.H, h = bh % a.H;
	int n0 = blockIdx.x / heads * S::own, T = a.T, D = a.D, C = a.H * D, j0 = n0 + warp * 16;
	const A *qkv = (const A *)a.qkv + (int64_t)b * T * 3 * C + h * D;
	const A *dout = (const A *)a.dout + (int64_t)b * T * C + h * D;

	auto fetch = [&](int i0, int turn) {
		copy_tile<A, S::step, DEPTH, S::threads>(
			queries + turn * S::step * S::LD, qkv, 3 * C, i0, T, D);
		copy_tile<A, S::step, DEPTH, S::threads>(douts + turn * S::step * S::LD, dout, C, i0, T, D);
		if (threadIdx.x < S::step) {
			int i = i0 + threadIdx.x;
			bool valid = i < T;
			/* 2^(s - inf) = 0: rows past the end have no probability */
			lse[turn][threadIdx.x] = valid ? a.lse[(int64_t)bh * T + i] * LOG2_E : INFINITY;
			delta[turn][threadIdx.x] = valid ? a.delta[(int64_t)bh * T + i] : 0.0f;
			lows[turn][threadIdx.x] = valid && a.first ? a.first[(int64_t)b * T + i] : 0;
		}
		copy_async_commit();
	};
	copy_tile<A, S::own, DEPTH, S::threads>(keys, qkv + C, 3 * C, n0, T, D);
	copy_tile<A, S::own, DEPTH, S::threads>(values, qkv + 2 * C, 3 * C, n0, T, D);
	fetch(n0, 0);

	uint32_t kf[DEPTH / 16][4], vf[DEPTH / 16][4];
	float dk[DEPTH / 8][4] = {}, dv[DEPTH / 8][4] = {}, factor = a.scale * LOG2_E;
	int turn = 0;
	for (int i0 = n0; i0 < T; i0 += S::step, turn ^= 1) {
		copy_async_wait();
		__syncthreads();
		if (resident && i0 == n0) {
			load_rows<A, DEPTH>(kf, keys + warp * 16 * S::LD, lane);
			load_rows<A, DEPTH>(vf, values + warp * 16 * S::LD, lane);
		}
		if (i0 + S::step < T)
			fetch(i0 + S::step, turn ^ 1);
		if (i0 + S::step - 1 < j0)
			continue; /* wholly above the diagonal for this warp */
		const A *q = queries + turn * S::step * S::LD, *d_o = douts + turn * S::step * S::LD;
		float p[N][4], dp[N][4];
		if constexpr (resident) {
			multiply_rows<A, DEPTH, N>(p, kf, q, lane);
			multiply_rows<A, DEPTH, N>(dp, vf, d_o, lane);
		} else {
			multiply_rows_shared<A, DEPTH, N>(p, keys + warp * 16 * S::LD, q, lane);
			multiply_rows_shared<A, DEPTH, N>(dp, values + warp * 16 * S::LD, d_o, lane);
		}
		if (i0 < j0 + 15 || a.first)
#pragma unroll
			for (int n = 0; n < N; n++)
#pragma unroll
				for (int e = 0; e < 4; e++) {
					int column = n * 8 + 2 * t + e % 2, i = i0 + column,
					    j = j0 + g + e / 2 * 8;
					if (i < j || j < lows[turn][column])
						p[n][e] = -INFINITY;
				}
		uint32_t keep[4];
		if constexpr (DROP)
			keep_by_column<N>(keep, a, b, h, i0, j0, lane);
#pragma unroll
		for (int n = 0; n < N; n++)
#pragma unroll
			for (int e = 0; e < 4; e++) {
				int column = n * 8 + 2 * t + e % 2;
				float x = power_of_two(p[n][e] * factor - lse[turn][column]);
				float d = dp[n][e];
				p[n][e] = x;
				if constexpr (DROP) {
					bool kept = keep[e] >> (4 * n) & 1;
					p[n][e] = kept ? x : 0.0f;
					d = kept ? d * a.drop.scale : 0.0f;
				}
				dp[n][e] = x * (d - delta[turn][column]);
			}
		accumulate<A, DEPTH, N>(dv, p, d_o, lane);
		accumulate<A, DEPTH, N>(dk, dp, q, lane);
	}
	A *to = (A *)a.dqkv + (int64_t)b * T * 3 * C + C + h * D;
	store_rows<A, DEPTH>(to, 3 * C, dk, a.scale, j0 + g, T, D, t);
	store_rows<A, DEPTH>(to + C, 3 * C, dv, DROP ? a.drop.scale : 1.0f, j0 + g, T, D, t);
}

/* ---- backward: dq ---- */

template <typename A, int DEPTH, bool DROP>
__global__ void __launch_bounds__(128, DEPTH == 64 ? 4 : 2)
	tensor_query_gradient(const __grid_constant__ struct attention a, int tiles)
{
	using S = backward_shape<DEPTH>;
	constexpr int N = S::step / 8;
	SHARED_DYNAMIC(uint4, shared_bytes);
	SHARED_ARRAY(int, lows, [8]);
	A *queries = (A *)shared_bytes, *douts = queries + S::own * S::LD;
	A *keys = douts + S::own * S::LD, *values = keys + 2 * S::step * S::LD;
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
	int heads = a.B * a.H, bh = blockIdx.x % heads, b = bh / a.H, h = bh % a.H;
	int m0 = (tiles - 1 - blockIdx.x / heads) * S::own, T = a.T, D = a.D, C = a.H * D,
	    i0 = m0 + warp * 16;
	const A *qkv = (const A *)a.qkv + (int64_t)b * T * 3 * C + h * D;
	const A *dout = (const A *)a.dout + (int64_t)b * T * C + h * D;
	const int32_t *first = a.first ? a.first + (int64_t)b * T : NULL;

	auto fetch = [&](int j0, int turn) {
		copy_tile<A, S::step, DEPTH, S::threads>(
			keys + turn * S::step * S::LD, qkv + C, 3 * C, j0, T, D);
		copy_tile<A, S::step, DEPTH, S::threads>(
			values + turn * S::step * S::LD, qkv + 2 * C, 3 * C, j0, T, D);
		copy_async_commit();
	};
	int begin = first ? lowest_first(first, m0, S::own, T, lows) / S::step * S::step : 0;
	int end = min(T, m0 + S::own);
	copy_tile<A, S::own, DEPTH, S::threads>(queries, qkv, 3 * C, m0, T, D);
	copy_tile<A, S::own, DEPTH, S::threads>(douts, dout, C, m0, T, D);
	fetch(begin, 0);

	int row[2] = {i0 + g, i0 + g + 8}, low[2] = {0, 0};
	float lse[2], delta[2];
#pragma unroll
	for (int e = 0; e < 2; e++) {
		bool valid = row[e] < T;
		lse[e] = valid ? a.lse[(int64_t)bh * T + row[e]] * LOG2_E : INFINITY;
		delta[e] = valid ? a.delta[(int64_t)bh * T + row[e]] : 0.0f;
		low[e] = valid && first ? first[row[e]] : 0;
	}
	uint32_t qf[DEPTH / 16][4], df[DEPTH / 16][4];
	float dq[DEPTH / 8][4] = {}, factor = a.scale * LOG2_E;
	int turn = 0;
	for (int j0 = begin; j0 < end; j0 += S::step, turn ^= 1) {
		copy_async_wait();
		__syncthreads();
		if (j0 == begin) {
			load_rows<A, DEPTH>(qf, queries + warp * 16 * S::LD, lane);
			load_rows<A, DEPTH>(df, douts + warp * 16 * S::LD, lane);
		}
		if (j0 + S::step < end)
			fetch(j0 + S::step, turn ^ 1);
		if (j0 > i0 + 15)
			continue;
		const A *k = keys + turn * S::step * S::LD, *v = values + turn * S::step * S::LD;
		float p[N][4], dp[N][4];
		multiply_rows<A, DEPTH, N>(p, qf, k, lane);
		multiply_rows<A, DEPTH, N>(dp, df, v, lane);
		if (j0 + S::step - 1 > i0 || first)
#pragma unroll
			for (int n = 0; n < N; n++)
#pragma unroll
				for (int e = 0; e < 4; e++) {
					int j = j0 + n * 8 + 2 * t + e % 2;
					if (j > row[e / 2] || j < low[e / 2])
						p[n][e] = -INFINITY;
				}
		uint32_t keep[2];
		if constexpr (DROP)
			keep_by_row<N>(keep, a, b, h, i0, j0, lane);
#pragma unroll
		for (int n = 0; n < N; n++)
#pragma unroll
			for (int e = 0; e < 4; e++) {
				float x = power_of_two(p[n][e] * factor - lse[e / 2]), d = dp[n][e];
				if constexpr (DROP)
					d = keep[e / 2] >> (4 * n + e % 2) & 1 ? d * a.drop.scale : 0.0f;
				dp[n][e] = x * (d - delta[e / 2]);
			}
		accumulate<A, DEPTH, N>(dq, dp, k, lane);
	}
	store_rows<A, DEPTH>(
		(A *)a.dqkv + (int64_t)b * T * 3 * C + h * D, 3 * C, dq, a.scale, i0 + g, T, D, t);
}

/* ---- launches ---- */

template <typename Kernel> cudaError_t allow_shared(Kernel kernel, size_t bytes)
{
	return bytes <= 48 << 10 ? cudaSuccess
				 : cudaFuncSetAttribute(
					   kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
}

template <typename A, int DEPTH, bool DROP>
cudaError_t launch_forward(const struct attention &a, cudaStream_t stream)
{
	using S = forward_shape<DEPTH>;
	size_t bytes = S::shared_elements * sizeof(A);
	int tiles = ceiling(a.T, S::rows);
	cudaError_t error = allow_shared(tensor_forward<A, DEPTH, DROP>, bytes);
	if (error != cudaSuccess)
		return error;
	launch(tensor_forward<A, DEPTH, DROP>, tiles * a.B * a.H, S::threads, bytes, stream, a, tiles);
	return cudaGetLastError();
}

template <typename A, int DEPTH, bool DROP>
cudaError_t launch_backward(const struct attention &a, cudaStream_t stream)
{
	using S = backward_shape<DEPTH>;
	size_t bytes = S::shared_elements * sizeof(A);
	int tiles = ceiling(a.T, S::own), blocks = tiles * a.B * a.H;
	cudaError_t error = allow_shared(tensor_key_gradient<A, DEPTH, DROP>, bytes);
	if (error == cudaSuccess)
		error = allow_shared(tensor_query_gradient<A, DEPTH, DROP>, bytes);
	if (error != cudaSuccess)
		return error;
	launch(tensor_key_gradient<A, DEPTH, DROP>, blocks, S::threads, bytes, stream, a);
	launch(tensor_query_gradient<A, DEPTH, DROP>, blocks, S::threads, bytes, stream, a, tiles);
	return cudaGetLastError();
}

template <typename A> cudaError_t choose_forward(const struct attention &a, cudaStream_t stream)
{
	if (a.D <= 64)
		return a.drop.on ? launch_forward<A, 64, true>(a, stream)
				 : launch_forward<A, 64, false>(a, stream);
	return a.drop.on ? launch_forward<A, 128, true>(a, stream) : launch_forward<A, 128, false>(a, stream);
}

template <typename A> cudaError_t choose_backward(const struct attention &a, cudaStream_t stream)
{
	if (a.D <= 64)
		return a.drop.on ? launch_backward<A, 64, true>(a, stream)
				 : launch_backward<A, 64, false>(a, stream);
	return a.drop.on ? launch_backward<A, 128, true>(a, stream)
			 : launch_backward<A, 128, false>(a, stream);
}

} /* namespace */
