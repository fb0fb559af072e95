#include "kernels/adamw.h"
#include "kernels/cpu/simd/rows.h"
#ifdef __SSE2__
#include <immintrin.h>
#endif

enum { SPAN = 512, NEAR = 128, LINE = 64, STATS_BLOCK = 1 << 16 };

struct update {
	const float *p, *m, *v, *gradient;
	float *p_out, *m_out, *v_out; /* may be the same arrays */
};

VECTOR_INLINE void update_span(const struct adamw_factors *factors, struct update u, int n)
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

#ifdef __AVX512F__
/* Halves out, a few cache lines at a time: converting, computing and writing then overlap, and the memory is never idle.
 * What passes through the first cache between them is read in the pieces in which it was written, so that it is handed
 * on at once. */
VECTOR_INLINE __m512 lanes_read(const void *block, enum dtype type, int at)
{
	if (type == DTYPE_F32)
		return _mm512_loadu_ps((const float *)block + at);
	__m256i halves = _mm256_loadu_si256((const void *)((const uint16_t *)block + at));
	return type == DTYPE_F16 ? _mm512_cvtph_ps(halves)
				 : _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

VECTOR_INLINE __m256i lanes_round(__m512 x, enum dtype type)
{
	if (type == DTYPE_F16)
		return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT);
	__m512i bits = _mm512_castps_si512(x), top = _mm512_srli_epi32(bits, 16); /* half_to_bf16's */
	__m512i odd = _mm512_and_si512(top, _mm512_set1_epi32(1));
	__m512i rounded = _mm512_srli_epi32(
		_mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd), 16);
	__mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
	return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, nan, top, _mm512_set1_epi32(0x40)));
}

VECTOR_INLINE void update_line(const struct adamw_factors *f, struct update u, const void *grad,
	enum dtype grad_type, uint16_t *work, enum dtype type, bool elsewhere)
{
	_Alignas(64) float g[LINE], p[LINE], m[LINE], v[LINE];
	struct update near = {u.p, u.m, u.v, g, p, m, v};
	for (int i = 0; i < LINE; i += 16)
		_mm512_store_ps(g + i, lanes_read(grad, grad_type, i));
	if (!elsewhere)
		near.m_out = u.m_out, near.v_out = u.v_out, near.p_out = u.p_out;
	update_span(f, near, LINE);
	for (int i = 0; i < LINE; i += 32) {
		__m256i a = lanes_round(_mm512_load_ps(near.p_out + i), type);
		__m256i b = lanes_round(_mm512_load_ps(near.p_out + i + 16), type);
		_mm512_stream_si512((void *)(work + i), _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1));
	}
	for (int i = 0; i < LINE && elsewhere; i += 16) {
		_mm512_stream_ps(u.p_out + i, _mm512_load_ps(p + i));
		_mm512_stream_ps(u.m_out + i, _mm512_load_ps(m + i));
		_mm512_stream_ps(u.v_out + i, _mm512_load_ps(v + i));
	}
}

VECTOR_INLINE void update_lines(const struct adamw_factors *factors, struct update u, const void *grad,
	enum dtype grad_type, void *work, enum dtype type, bool elsewhere)
{
	struct adamw_factors f = *factors;
	for (int i = 0; i < SPAN; i += LINE) {
		struct update line = {u.p + i, u.m + i, u.v + i, NULL, u.p_out + i, u.m_out + i, u.v_out + i};
		update_line(&f, line, (const char *)grad + (size_t)i * dtype_bytes(grad_type), grad_type,
			(uint16_t *)work + i, type, elsewhere);
	}
}

/* False: not of this kind, or not where lines of the cache begin. */
static bool update_by_lines(const struct adamw_factors *f, struct update u, const void *grad,
	enum dtype grad_type, void *work, enum dtype type, bool elsewhere)
{
	uintptr_t places = (uintptr_t)work | (uintptr_t)u.p_out | (uintptr_t)u.m_out | (uintptr_t)u.v_out;
	if (!work || type == DTYPE_F32 || places % 64)
		return false;
	if (type == DTYPE_F16 && grad_type == DTYPE_F16)
		update_lines(f, u, grad, DTYPE_F16, work, DTYPE_F16, elsewhere);
	else if (type == DTYPE_F16)
		update_lines(f, u, grad, DTYPE_F32, work, DTYPE_F16, elsewhere);
	else if (grad_type == DTYPE_BF16)
		update_lines(f, u, grad, DTYPE_BF16, work, DTYPE_BF16, elsewhere);
	else
		update_lines(f, u, grad, DTYPE_F32, work, DTYPE_BF16, elsewhere);
	return true;
}
#else
static bool update_by_lines(const struct adamw_factors *f, struct update u, const void *grad,
	enum dtype grad_type, void *work, enum dtype type, bool elsewhere)
{
	(void)f, (void)u, (void)grad, (void)grad_type, (void)work, (void)type, (void)elsewhere;
	return false;
}
#endif

/* Elements [from, to), on one thread. `all`: of element 0, without gradients. */
static void update_range(const struct kernels *k, const struct adamw_factors *factors, struct update all,
	void *work, const void *grad, int64_t from, int64_t to)
{
	bool elsewhere = all.p_out != all.p && all.m_out != all.m && all.v_out != all.v;
	for (int64_t at = from; at < to; at += SPAN) {
		float row[SPAN];
		int n = (int)(to - at < SPAN ? to - at : SPAN);
		struct update u = {all.p + at, all.m + at, all.v + at, NULL, all.p_out + at, all.m_out + at,
			all.v_out + at};
		if (n == SPAN && update_by_lines(factors, u, element_at(grad, k->grad, (size_t)at), k->grad,
					 work ? (char *)work + (size_t)at * dtype_bytes(k->act) : NULL,
					 k->act, elsewhere))
			continue;
		u.gradient = row_read(row, grad, k->grad, (size_t)at, n);
		if (elsewhere) {
			update_elsewhere(factors, u, work, k->act, at, n);
			continue;
		}
		update_span(factors, u, n);
		if (work)
			write_work(work, k->act, at, all.p_out + at, n);
	}
	end_writes_past_caches();
}

void SIMD(cpu_adamw)(struct kernels *k, struct stream *s, const struct adamw *args, float *p_out,
	float *m_out, float *v_out, void *work, const float *p, const float *m, const float *v,
	const void *grad, uint64_t count)
{
	(void)s;
	struct adamw_factors factors = adamw_prepare(args);
	struct update all = {p, m, v, NULL, p_out, m_out, v_out};
	int64_t total = (int64_t)count, spans = (total + SPAN - 1) / SPAN;
	int threads = cpu_of(k)->threads;
	/* The offload's crew has runs of a row's length: an OpenMP region of one thread costs as much as half of it. */
	if (threads == 1) {
		update_range(k, &factors, all, work, grad, 0, total);
		return;
	}
#pragma omp parallel for num_threads(threads) schedule(static)
	for (int i = 0; i < threads; i++) {
		int64_t to = cpu_share(spans, i + 1, threads) * SPAN;
		update_range(k, &factors, all, work, grad, cpu_share(spans, i, threads) * SPAN,
			to < total ? to : total);
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
