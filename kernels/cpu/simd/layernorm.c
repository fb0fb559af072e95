#include "kernels/cpu/simd/rows.h"

/* Scratch of a thread, in rows of C: f32 copies of what it works on. */
enum { FORWARD_ROWS = 5, BACKWARD_ROWS = 8 };

static size_t row_floats(int C)
{
	return (size_t)(DROPOUT_WORDS(C) + 15) / 16 * 16;
}

static float span_sum(const float *x, int n)
{
	float sum = 0;
#pragma omp simd reduction(+ : sum)
	for (int i = 0; i < n; i++)
		sum += x[i];
	return sum;
}

static float span_variance(const float *x, float mean, int n)
{
	float sum = 0;
#pragma omp simd reduction(+ : sum)
	for (int i = 0; i < n; i++)
		sum += (x[i] - mean) * (x[i] - mean);
	return sum / (float)n;
}

static void normalize(float *restrict out, const float *restrict x, const float *restrict gamma,
	const float *restrict beta, float mean, float rstd, int n)
{
	for (int i = 0; i < n; i++)
		out[i] = VECTOR_FMA((x[i] - mean) * rstd, gamma[i], beta[i]);
}

void SIMD(cpu_layernorm_forward)(struct kernels *k, struct stream *s, void *out, void *residual_out,
	float *mean, float *rstd, const void *residual_in, const void *branch, const void *gamma,
	const void *beta, int B, int T, int C, float eps, const struct dropout *drop)
{
	(void)s;
	enum dtype act = k->act;
	size_t width = row_floats(C);
	int threads = cpu_of(k)->threads;
	float *scratch = cpu_scratch_get(
		k, CPU_SCRATCH_OPERATION, ((size_t)threads * FORWARD_ROWS + 2) * width * sizeof *scratch);
	if (!scratch)
		return;
	float *shared = scratch + (size_t)threads * FORWARD_ROWS * width;
	const float *g = row_read(shared, gamma, act, 0, C), *b = row_read(shared + width, beta, act, 0, C);
	bool drops = branch && dropout_wanted(drop);
	struct dropout_factors factors = drops ? dropout_factors_of(drop) : (struct dropout_factors){0, 1};
#pragma omp parallel for num_threads(threads) schedule(static)
	for (int r = 0; r < B * T; r++) {
		float *mine = scratch + (size_t)CPU_THREAD * FORWARD_ROWS * width;
		size_t at = (size_t)r * C;
		const float *x = row_read(mine, residual_in, act, at, C);
		if (branch) {
			const float *added = row_read(mine + width, branch, act, at, C);
			if (drops) {
				const uint32_t *words = dropout_words((uint32_t *)(mine + 2 * width), drop,
					drop->window + (uint64_t)(r / T), (uint64_t)(r % T) * C, C);
				dropout_span(mine + width, added, words, factors, C);
				added = mine + width;
			}
			float *sum = row_place(mine + 3 * width, residual_out, act, at);
#pragma omp simd
			for (int i = 0; i < C; i++)
				sum[i] = x[i] + added[i];
			row_write(residual_out, act, at, sum, C);
			/* What is stored is what is normalized, and what the backward sees. */
			x = row_read(mine, residual_out, act, at, C);
		}
		float m = span_sum(x, C) / (float)C;
		float scale = 1.0f / sqrtf(span_variance(x, m, C) + eps);
		float *y = row_place(mine + 4 * width, out, act, at);
		normalize(y, x, g, b, m, scale, C);
		row_write(out, act, at, y, C);
		mean[r] = m;
		rstd[r] = scale;
	}
}

struct layernorm_row {
	const float *x, *dout, *gamma;
	float mean, rstd;
	int n;
};

/* dx of one row into `dx`; adds the row's part of dgamma and dbeta. */
static void backward_row(
	const struct layernorm_row *w, float *restrict dx, float *restrict dgamma, float *restrict dbeta)
{
	const float *restrict x = w->x, *restrict dout = w->dout, *restrict gamma = w->gamma;
	float mean = w->mean, rstd = w->rstd, sum = 0, sum_x = 0;
#pragma omp simd reduction(+ : sum, sum_x)
	for (int i = 0; i < w->n; i++) {
		float normal = (x[i] - mean) * rstd, g = dout[i] * gamma[i];
		sum += g;
		sum_x += g * normal;
		dgamma[i] += dout[i] * normal;
		dbeta[i] += dout[i];
	}
	sum /= (float)w->n, sum_x /= (float)w->n;
#pragma omp simd
	for (int i = 0; i < w->n; i++) {
		float normal = (x[i] - mean) * rstd, g = dout[i] * gamma[i];
		dx[i] = rstd * (g - sum - normal * sum_x);
	}
}

static void add_parts(float *to, const float *parts, size_t stride, int threads, int n, bool accumulate)
{
	for (int i = 0; i < n; i++) {
		float sum = 0;
		for (int t = 0; t < threads; t++)
			sum += parts[(size_t)t * stride + i];
		to[i] = accumulate ? to[i] + sum : sum;
	}
}

void SIMD(cpu_layernorm_backward)(struct kernels *k, struct stream *s, void *dresidual,
	const void *dresidual_in, void *dbranch, void *dgamma, void *dbeta, const void *dout, const void *x,
	const void *gamma, const float *mean, const float *rstd, int B, int T, int C,
	const struct dropout *drop, bool accumulate)
{
	(void)s;
	enum dtype act = k->act;
	size_t width = row_floats(C), stride = BACKWARD_ROWS * width;
	int threads = cpu_of(k)->threads, rows = B * T;
	float *scratch = cpu_scratch_get(
		k, CPU_SCRATCH_OPERATION, ((size_t)threads * stride + width) * sizeof *scratch);
	if (!scratch || !cpu_gradients_are_f32(k))
		return;
	const float *g = row_read(scratch + (size_t)threads * stride, gamma, act, 0, C);
	bool drops = dbranch && dropout_wanted(drop);
	struct dropout_factors factors = drops ? dropout_factors_of(drop) : (struct dropout_factors){0, 1};
#pragma omp parallel for num_threads(threads) schedule(static)
	for (int share = 0; share < threads; share++) {
		float *mine = scratch + (size_t)share * stride;
		float *part_gamma = mine, *part_beta = mine + width;
		memset(mine, 0, 2 * width * sizeof *mine);
		for (int r = (int)cpu_share(rows, share, threads); r < cpu_share(rows, share + 1, threads);
			r++) {
			size_t at = (size_t)r * C;
			struct layernorm_row row = {row_read(mine + 2 * width, x, act, at, C),
				row_read(mine + 3 * width, dout, act, at, C), g, mean[r], rstd[r], C};
			float *dx = mine + 4 * width;
			backward_row(&row, dx, part_gamma, part_beta);
			if (dresidual_in) {
				const float *before = row_read(mine + 5 * width, dresidual_in, act, at, C);
#pragma omp simd
				for (int i = 0; i < C; i++)
					dx[i] += before[i];
			}
			row_write(dresidual, act, at, dx, C);
			if (!dbranch)
				continue;
			if (drops)
				dropout_span(dx, dx,
					dropout_words((uint32_t *)(mine + 6 * width), drop,
						drop->window + (uint64_t)(r / T), (uint64_t)(r % T) * C, C),
					factors, C);
			row_write(dbranch, act, at, dx, C);
		}
	}
	add_parts(dgamma, scratch, stride, threads, C, accumulate);
	add_parts(dbeta, scratch + width, stride, threads, C, accumulate);
}

void SIMD(cpu_dropout_apply)(struct kernels *k, struct stream *s, void *out, const void *in, int B, int T,
	int C, const struct dropout *drop)
{
	enum dtype act = k->act;
	if (!dropout_wanted(drop)) {
		if (out != in)
			k->copy(k, s, out, in, (size_t)B * T * C * dtype_bytes(act));
		return;
	}
	size_t width = row_floats(C);
	int threads = cpu_of(k)->threads;
	float *scratch =
		cpu_scratch_get(k, CPU_SCRATCH_OPERATION, (size_t)threads * 2 * width * sizeof *scratch);
	if (!scratch)
		return;
	struct dropout_factors factors = dropout_factors_of(drop);
#pragma omp parallel for num_threads(threads) schedule(static)
	for (int r = 0; r < B * T; r++) {
		float *mine = scratch + (size_t)CPU_THREAD * 2 * width;
		size_t at = (size_t)r * C;
		const float *x = row_read(mine, in, act, at, C);
		float *y = row_place(mine, out, act, at);
		dropout_span(y, x,
			dropout_words((uint32_t *)(mine + width), drop, drop->window + (uint64_t)(r / T),
				(uint64_t)(r % T) * C, C),
			factors, C);
		row_write(out, act, at, y, C);
	}
}
