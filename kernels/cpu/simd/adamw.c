#include "kernels/adamw.h"
#include "kernels/cpu/simd/rows.h"

enum { SPAN = 512, STATS_BLOCK = 1 << 16 };

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

void SIMD(cpu_adamw)(struct kernels *k, struct stream *s, const struct adamw *args, float *p_out,
	float *m_out, float *v_out, void *work, const float *p, const float *m, const float *v,
	const void *grad, uint64_t count)
{
	(void)s;
	struct adamw_factors factors = adamw_prepare(args);
	int64_t total = (int64_t)count;
#pragma omp parallel for num_threads(cpu_of(k)->threads) schedule(static)
	for (int64_t at = 0; at < total; at += SPAN) {
		float row[SPAN];
		int n = (int)(total - at < SPAN ? total - at : SPAN);
		const float *g = row_read(row, grad, k->grad, (size_t)at, n);
		struct update u = {p + at, m + at, v + at, g, p_out + at, m_out + at, v_out + at};
		update_span(&factors, u, n);
		if (work)
			row_write(work, k->act, (size_t)at, p_out + at, n);
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
