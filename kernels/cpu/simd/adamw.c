#include "kernels/adamw.h"
#include "kernels/cpu/simd/rows.h"
#ifdef __SSE2__
#include <immintrin.h>
#endif

enum { SPAN = 512, NEAR = 128, STATS_BLOCK = 1 << 16 };

struct update {
	const float *p, *m, *v, *gradient;
	float *p_out, *m_out, *v_out; /* may be the same arrays */
};

static void update_span(const struct adamw_factors *factors, struct update u, int n)
{
	struct adamw_factors f = *factors;
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC ivdep
#endif
	for (int i = 0; i < n; i++) {
		float p = u.p[i], m = u.m[i], v = u.v[i];
		adamw_update(&f, u.gradient[i], &p, &m, &v);
		u.p_out[i] = p, u.m_out[i] = m, u.v_out[i] = v;
	}
}

/* Past the caches: a cache line that is written whole need not be read first. */
static void write_past_caches(void *to, const void *from, size_t bytes)
{
#ifdef __SSE2__
	if ((uintptr_t)to % 64 == 0 && bytes % 64 == 0) {
		for (size_t i = 0; i < bytes; i += 64) {
			const char *in = (const char *)from + i;
			char *out = (char *)to + i;
#if defined(__AVX512F__)
			_mm512_stream_si512((__m512i *)out, _mm512_loadu_si512(in));
#elif defined(__AVX__)
			_mm256_stream_si256((__m256i *)out, _mm256_loadu_si256((const __m256i *)in));
			_mm256_stream_si256(
				(__m256i *)(out + 32), _mm256_loadu_si256((const __m256i *)(in + 32)));
#else
			for (int j = 0; j < 64; j += 16)
				_mm_stream_si128(
					(__m128i *)(out + j), _mm_loadu_si128((const __m128i *)(in + j)));
#endif
		}
		return;
	}
#endif
	memcpy(to, from, bytes);
}

/* What was written past the caches is seen by others before what is written from here on. */
static void end_writes_past_caches(void)
{
#ifdef __SSE2__
	_mm_sfence();
#endif
}

static void write_work(void *work, enum dtype type, int64_t at, const float *p, int n)
{
	_Alignas(64) float row[SPAN];
	row_write(row, type, 0, p, n);
	write_past_caches((char *)work + (size_t)at * dtype_bytes(type), row, (size_t)n * dtype_bytes(type));
}

/* To other arrays: computed in the first cache, then written past it; few at a time, so that the one overlaps
 * with the other. */
static void update_elsewhere(
	const struct adamw_factors *factors, struct update u, void *work, enum dtype type, int64_t at, int n)
{
	_Alignas(64) float whole[SPAN], m[NEAR], v[NEAR];
	for (int i = 0; i < n; i += NEAR) {
		int some = n - i < NEAR ? n - i : NEAR;
		float *p = whole + i;
		struct update near = {u.p + i, u.m + i, u.v + i, u.gradient + i, p, m, v};
		update_span(factors, near, some);
		write_past_caches(u.p_out + i, p, (size_t)some * sizeof *p);
		write_past_caches(u.m_out + i, m, (size_t)some * sizeof *m);
		write_past_caches(u.v_out + i, v, (size_t)some * sizeof *v);
	}
	if (work)
		write_work(work, type, at, whole, n);
}

void SIMD(cpu_adamw)(struct kernels *k, struct stream *s, const struct adamw *args, float *p_out,
	float *m_out, float *v_out, void *work, const float *p, const float *m, const float *v,
	const void *grad, uint64_t count)
{
	(void)s;
	struct adamw_factors factors = adamw_prepare(args);
	int64_t total = (int64_t)count;
	bool elsewhere = p_out != p && m_out != m && v_out != v;
#pragma omp parallel num_threads(cpu_of(k)->threads)
	{
#pragma omp for schedule(static)
		for (int64_t at = 0; at < total; at += SPAN) {
			float row[SPAN];
			int n = (int)(total - at < SPAN ? total - at : SPAN);
			const float *g = row_read(row, grad, k->grad, (size_t)at, n);
			struct update u = {p + at, m + at, v + at, g, p_out + at, m_out + at, v_out + at};
			if (elsewhere) {
				update_elsewhere(&factors, u, work, k->act, at, n);
				continue;
			}
			update_span(&factors, u, n);
			if (work)
				write_work(work, k->act, at, p_out + at, n);
		}
		end_writes_past_caches();
	}
}

struct block_stats {
	double sum;
	uint64_t nonfinite;
};

/* Vectors of a fixed width, whatever the instruction set, so that sums are taken in one order everywhere. */
typedef float float_lanes __attribute__((vector_size(32), aligned(4), may_alias));
typedef uint32_t bit_lanes __attribute__((vector_size(32), aligned(4), may_alias));
typedef double double_lanes __attribute__((vector_size(64)));
enum { LANES = 8, SUMS = 4 };

/* `n` is a multiple of LANES * SUMS. */
static void add_squares(double_lanes *sums, bit_lanes *odd, const float *g, int n)
{
	const bit_lanes exponent = {0x7f800000, 0x7f800000, 0x7f800000, 0x7f800000, 0x7f800000, 0x7f800000,
		0x7f800000, 0x7f800000};
	double_lanes s[SUMS] = {sums[0], sums[1], sums[2], sums[3]};
	bit_lanes count = *odd;
	for (int i = 0; i < n; i += LANES * SUMS)
#pragma GCC unroll 4
		for (int j = 0; j < SUMS; j++) {
			float_lanes x = *(const float_lanes *)(g + i + j * LANES);
			double_lanes wide = __builtin_convertvector(x, double_lanes);
			s[j] += wide * wide;
			count -= (bit_lanes)(((bit_lanes)x & exponent) == exponent); /* true is -1 */
		}
	for (int j = 0; j < SUMS; j++)
		sums[j] = s[j];
	*odd = count;
}

static struct block_stats stats_of(const void *grad, enum dtype type, size_t from, int n)
{
	double_lanes sums[SUMS] = {{0}, {0}, {0}, {0}};
	bit_lanes odd = {0};
	float row[SPAN];
	struct block_stats stats = {0, 0};
	for (int i = 0; i < n; i += SPAN) {
		int some = n - i < SPAN ? n - i : SPAN, even = some / (LANES * SUMS) * (LANES * SUMS);
		const float *g = row_read(row, grad, type, from + (size_t)i, some);
		add_squares(sums, &odd, g, even);
		for (int j = even; j < some; j++) {
			stats.sum += (double)g[j] * (double)g[j];
			stats.nonfinite += (vector_bits(g[j]) & 0x7f800000) == 0x7f800000;
		}
	}
	for (int l = 0; l < LANES; l++) {
		stats.sum += (sums[0][l] + sums[1][l]) + (sums[2][l] + sums[3][l]);
		stats.nonfinite += odd[l];
	}
	return stats;
}

/* Blocks of a fixed size, added in order: the sum does not depend on the number of threads. */
void SIMD(cpu_gradient_stats)(
	struct kernels *k, struct stream *s, struct gradient_stats *stats, const void *grad, uint64_t count)
{
	(void)s;
	int64_t blocks = (int64_t)((count + STATS_BLOCK - 1) / STATS_BLOCK);
	struct block_stats *parts =
		cpu_scratch_get(k, CPU_SCRATCH_OPERATION, (size_t)(blocks + 1) * sizeof *parts);
	if (!parts)
		return;
#pragma omp parallel for num_threads(cpu_of(k)->threads) schedule(static)
	for (int64_t b = 0; b < blocks; b++) {
		uint64_t from = (uint64_t)b * STATS_BLOCK, left = count - from;
		parts[b] = stats_of(grad, k->grad, from, (int)(left < STATS_BLOCK ? left : STATS_BLOCK));
	}
	struct gradient_stats total = {0, 0};
	for (int64_t b = 0; b < blocks; b++) {
		total.sum_of_squares += parts[b].sum;
		total.nonfinite += parts[b].nonfinite;
	}
	*stats = total;
}
