#include "kernels/cpu/simd/rows.h"

enum { COLUMNS = 4096 }; /* of a piece of a row, so that buffers fit on the stack */

static int smaller(int a, int b)
{
	return a < b ? a : b;
}

void SIMD(cpu_embedding_forward)(struct kernels *k, struct stream *s, void *out, const int32_t *tokens,
	const int32_t *positions, const void *wte, const void *wpe, int B, int T, int C,
	const struct dropout *drop)
{
	(void)s;
	enum dtype act = k->act;
	bool drops = dropout_wanted(drop);
	struct dropout_factors factors = drops ? dropout_factors_of(drop) : (struct dropout_factors){0, 1};
#pragma omp parallel for num_threads(cpu_of(k)->threads) schedule(static)
	for (int r = 0; r < B * T; r++) {
		float token_row[COLUMNS], position_row[COLUMNS], row[COLUMNS];
		uint32_t words[DROPOUT_WORDS(COLUMNS)];
		int t = r % T, position = positions ? positions[r] : t;
		for (int c = 0; c < C; c += COLUMNS) {
			int n = smaller(COLUMNS, C - c);
			const float *a = row_read(token_row, wte, act, (size_t)tokens[r] * C + c, n);
			const float *b = row_read(position_row, wpe, act, (size_t)position * C + c, n);
			float *x = row_place(row, out, act, (size_t)r * C + c);
			for (int i = 0; i < n; i++)
				x[i] = a[i] + b[i];
			if (drops)
				dropout_span(x, x,
					dropout_words(words, drop, drop->window + (uint64_t)(r / T),
						(uint64_t)t * C + c, n),
					factors, n);
			row_write(out, act, (size_t)r * C + c, x, n);
		}
	}
}

/* Columns are divided among the threads, so that each sum is taken in order of tokens. */
void SIMD(cpu_embedding_backward)(struct kernels *k, struct stream *s, void *dwte, void *dwpe,
	const void *dout, const int32_t *tokens, const int32_t *positions, int B, int T, int C, int P,
	const struct dropout *drop, bool accumulate)
{
	enum dtype act = k->act;
	if (!cpu_gradients_are_f32(k))
		return;
	if (!accumulate)
		k->zero(k, s, dwpe, (size_t)P * C * sizeof(float));
	bool drops = dropout_wanted(drop);
	struct dropout_factors factors = drops ? dropout_factors_of(drop) : (struct dropout_factors){0, 1};
	int width = 256, pieces = (C + width - 1) / width;
#pragma omp parallel for num_threads(cpu_of(k)->threads) schedule(static)
	for (int piece = 0; piece < pieces; piece++) {
		float row[256], dropped[256];
		uint32_t words[DROPOUT_WORDS(256)];
		int c = piece * width, n = smaller(width, C - c);
		for (int r = 0; r < B * T; r++) {
			int t = r % T, position = positions ? positions[r] : t;
			const float *g = row_read(row, dout, act, (size_t)r * C + c, n);
			if (drops) {
				dropout_span(dropped, g,
					dropout_words(words, drop, drop->window + (uint64_t)(r / T),
						(uint64_t)t * C + c, n),
					factors, n);
				g = dropped;
			}
			float *token_row = (float *)dwte + (size_t)tokens[r] * C + c;
			float *position_row = (float *)dwpe + (size_t)position * C + c;
#pragma omp simd
			for (int i = 0; i < n; i++)
				token_row[i] += g[i];
#pragma omp simd
			for (int i = 0; i < n; i++)
				position_row[i] += g[i];
		}
	}
}
