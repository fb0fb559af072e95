/*
 * Causal attention in bf16, for processors with vdpbf16ps: a lane adds two products of bf16 to an f32, so
 * matrices are stored as pairs of neighbours along the sum, 32 bits each. Scores, softmax and sums are f32;
 * probabilities and their gradients are rounded to bf16 where they enter a product, as flash attention does.
 *
 * A thread takes a (sequence, head). It lays the head's keys and values out as pairs once, and then goes
 * through BLOCK query rows at a time, in chunks of CHUNK keys, by strips of STRIP rows: a strip's scores of a
 * chunk stay in the first cache, and the softmax is taken as they come (a row's sum and output are scaled
 * down when a larger score turns up).
 */
#ifdef __AVX512BF16__ /* the avx512 copy alone: see the Makefile */
#include "kernels/cpu/simd/attention_head.h"

#include <immintrin.h>
#include <stddef.h>

enum {
	LANES = 16,             /* of a register */
	STRIP = 12,             /* rows of a tile */
	PANEL = 2 * LANES,      /* columns of a tile */
	CHUNK = 96,             /* keys; a multiple of STRIP and PANEL */
	BLOCK = 96,             /* query rows; a multiple of STRIP */
	STRIDE = CHUNK + LANES, /* of scores: rows that do not fall on one set of the cache */
	STRIPS = BLOCK / STRIP
};

static const float log2_e = 1.44269504088896341f, ln_2 = 0.693147180559945309f;

/* ---- products ---- */

/* c [STRIP][PANEL] = or += a b: the pair l of a's row i is a[i * a_row + l * a_pair], b's are b[l * ldb ..]. */
VECTOR_INLINE void tile(float *restrict c, ptrdiff_t ldc, const uint32_t *a, const int a_row,
	const int a_pair, const uint32_t *b, ptrdiff_t ldb, int pairs, bool add)
{
	__m512 sum[STRIP][2];
#pragma GCC unroll 12
	for (int i = 0; i < STRIP; i++)
#pragma GCC unroll 2
		for (int j = 0; j < 2; j++)
			sum[i][j] = add ? _mm512_loadu_ps(c + i * ldc + j * LANES) : _mm512_setzero_ps();
	for (int l = 0; l < pairs; l++) {
		__m512bh right[2] = {
			(__m512bh)_mm512_loadu_si512(b), (__m512bh)_mm512_loadu_si512(b + LANES)};
#pragma GCC unroll 12
		for (int i = 0; i < STRIP; i++) {
			__m512bh left = (__m512bh)_mm512_set1_epi32((int)a[i * a_row]);
			sum[i][0] = _mm512_dpbf16_ps(sum[i][0], left, right[0]);
			sum[i][1] = _mm512_dpbf16_ps(sum[i][1], left, right[1]);
		}
		a += a_pair;
		b += ldb;
	}
#pragma GCC unroll 12
	for (int i = 0; i < STRIP; i++)
#pragma GCC unroll 2
		for (int j = 0; j < 2; j++)
			_mm512_storeu_ps(c + i * ldc + j * LANES, sum[i][j]);
}

/* scores [STRIP][n] = the strip's rows, packed [pairs][LANES], times panels [n / PANEL][panel]. */
static void product_with_panels(
	float *scores, const uint32_t *rows, const uint32_t *panels, size_t panel, int n, int pairs)
{
	for (int j = 0; j < n; j += PANEL, panels += panel)
		tile(scores + j, STRIDE, rows, 1, LANES, panels, PANEL, pairs, false);
}

/* c [STRIP][W] += probabilities, [STRIP][CHUNK / 2] pairs, times b [pairs][W]. */
static void product_of_rows(float *c, const uint32_t *rows, const uint32_t *b, int W, int pairs)
{
	for (int j = 0; j < W; j += PANEL)
		tile(c + j, W, rows, CHUNK / 2, 1, b + j, W, pairs, true);
}

/* c [STRIP][W] += STRIP columns of [pairs][CHUNK], transposed, times b [pairs][W]. */
static void product_of_columns(float *c, const uint32_t *columns, const uint32_t *b, int W, int pairs)
{
	for (int j = 0; j < W; j += PANEL)
		tile(c + j, W, columns, 1, CHUNK, b + j, W, pairs, true);
}

/* ---- layouts ---- */

/* Rows of a head in memory. */
struct rows {
	const uint16_t *at;
	ptrdiff_t stride;
	int count;
};

static struct rows rows_of_part(const struct head *w, const void *qkv, int part, int from, int count)
{
	struct rows rows = {
		(const uint16_t *)qkv + part_element(w, part, from), 3 * (ptrdiff_t)w->H * w->D, count};
	return rows;
}

/* to [16][ld] = a, transposed. */
VECTOR_INLINE void store_transposed(uint32_t *to, ptrdiff_t ld, __m512i *a)
{
	__m512i b[16];
	for (int i = 0; i < 16; i += 2) {
		b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
		b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
	}
	for (int i = 0; i < 16; i += 4)
		for (int j = 0; j < 2; j++) {
			a[i + 2 * j] = _mm512_unpacklo_epi64(b[i + j], b[i + j + 2]);
			a[i + 2 * j + 1] = _mm512_unpackhi_epi64(b[i + j], b[i + j + 2]);
		}
	/* The quarter q of a[4 i + j] is a piece of column 4 q + j: of rows 4 i to 4 i + 3. */
	for (int j = 0; j < 4; j++) {
		__m512i even[2], odd[2];
		for (int i = 0; i < 2; i++) {
			even[i] = _mm512_shuffle_i32x4(a[8 * i + j], a[8 * i + 4 + j], 0x88);
			odd[i] = _mm512_shuffle_i32x4(a[8 * i + j], a[8 * i + 4 + j], 0xdd);
		}
		_mm512_storeu_si512(to + j * ld, _mm512_shuffle_i32x4(even[0], even[1], 0x88));
		_mm512_storeu_si512(to + (4 + j) * ld, _mm512_shuffle_i32x4(odd[0], odd[1], 0x88));
		_mm512_storeu_si512(to + (8 + j) * ld, _mm512_shuffle_i32x4(even[0], even[1], 0xdd));
		_mm512_storeu_si512(to + (12 + j) * ld, _mm512_shuffle_i32x4(odd[0], odd[1], 0xdd));
	}
}

/* Columns are pairs of neighbours in a row. to [W / 2][ld] has row r in column r, for LANES rows from `from` on;
 * zeros behind the last row and behind D. */
static void pack_rows(const struct head *w, uint32_t *to, ptrdiff_t ld, struct rows rows, int from)
{
	for (int d = 0; d < w->W; d += PANEL) {
		__mmask32 columns = w->D - d >= PANEL ? ~0u : (1u << (w->D - d)) - 1;
		__m512i square[LANES];
		for (int r = 0; r < LANES; r++)
			square[r] = _mm512_maskz_loadu_epi16(
				from + r < rows.count ? columns : 0, rows.at + (from + r) * rows.stride + d);
		store_transposed(to + d / 2 * ld, ld, square);
	}
}

/* Panels of the transposed rows: [ceil(count / PANEL)][W / 2][PANEL]. */
static void pack_panels(const struct head *w, uint32_t *to, struct rows rows)
{
	size_t panel = (size_t)w->W / 2 * PANEL;
	for (int t = 0; t < rows.count; t += PANEL, to += panel) {
		pack_rows(w, to, PANEL, rows, t);
		pack_rows(w, to + LANES, PANEL, rows, t + LANES);
	}
}

/* Pairs are of rows: to [ceil(count / 2)][W], zeros behind the last row and behind D. */
static void pack_pairs(const struct head *w, uint32_t *restrict to, struct rows rows)
{
	for (int t = 0; t < rows.count; t += 2, to += w->W) {
		const uint16_t *restrict low = rows.at + t * rows.stride, *restrict high = low + rows.stride;
		if (t + 1 < rows.count)
			for (int d = 0; d < w->D; d++)
				to[d] = low[d] | (uint32_t)high[d] << 16;
		else
			for (int d = 0; d < w->D; d++)
				to[d] = low[d];
		for (int d = w->D; d < w->W; d++)
			to[d] = 0;
	}
}

/* Rows of a block, packed for each strip: [STRIPS][W / 2][LANES]. */
static void pack_strips(const struct head *w, uint32_t *to, struct rows rows)
{
	for (int r = 0; r < rows.count; r += STRIP, to += w->W / 2 * LANES)
		pack_rows(w, to, LANES, rows, r);
}

/* ---- a thread's memory ---- */

struct work {
	uint32_t *key_panels, *value_panels; /* [columns / PANEL][W / 2][PANEL] */
	uint32_t *key_pairs, *value_pairs;   /* [columns / 2][W] */
	float *dkeys, *dvalues;              /* [columns + STRIP][W] */
	uint32_t *queries, *douts;           /* [STRIPS][W / 2][LANES] */
	uint32_t *query_pairs, *dout_pairs;  /* [BLOCK / 2][W] */
	float *out;                          /* [BLOCK][W]: of the queries, or their gradient */
	float *scores, *dscores;             /* [STRIP][STRIDE] */
	uint32_t *rows;           /* [STRIP][CHUNK / 2]: a strip's probabilities, or gradients of scores */
	uint32_t *pairs, *dpairs; /* [BLOCK / 2][CHUNK]: both, in pairs of rows */
	uint32_t *words[2];       /* [DROPOUT_WORDS(CHUNK)] */
	float *row, *sums;        /* [W], [BLOCK][LANES] */
};

static void *take(float **at, size_t words)
{
	void *place = *at;
	*at += (words + LANES - 1) / LANES * LANES;
	return place;
}

/* Lays a thread's memory out from `base` on; returns its size in floats. */
static size_t lay_out(struct work *x, float *base, int T, int W, bool training)
{
	size_t columns = (size_t)round_up(T, PANEL), width = (size_t)W, block = BLOCK * width;
	float *at = base;
	x->key_panels = take(&at, columns * width / 2);
	x->value_pairs = take(&at, columns * width / 2);
	x->value_panels = take(&at, training ? columns * width / 2 : 0);
	x->key_pairs = take(&at, training ? columns * width / 2 : 0);
	x->dkeys = take(&at, training ? (columns + STRIP) * width : 0);
	x->dvalues = take(&at, training ? (columns + STRIP) * width : 0);
	x->queries = take(&at, (size_t)STRIPS * width / 2 * LANES);
	x->douts = take(&at, (size_t)STRIPS * width / 2 * LANES);
	x->query_pairs = take(&at, block / 2);
	x->dout_pairs = take(&at, block / 2);
	x->out = take(&at, block);
	x->scores = take(&at, STRIP * STRIDE);
	x->dscores = take(&at, STRIP * STRIDE);
	x->rows = take(&at, STRIP * CHUNK / 2);
	x->pairs = take(&at, BLOCK / 2 * CHUNK);
	x->dpairs = take(&at, BLOCK / 2 * CHUNK);
	for (int i = 0; i < 2; i++)
		x->words[i] = take(&at, DROPOUT_WORDS(CHUNK));
	x->row = take(&at, width);
	x->sums = take(&at, BLOCK * LANES);
	return (size_t)(at - base + 1023) / 1024 * 1024;
}

size_t cpu_attention_scratch_bf16(int threads, int T, int D, bool training)
{
	struct work x;
	float *base = NULL;
	return (size_t)threads * lay_out(&x, base, T, round_up(D, PANEL), training) * sizeof *base;
}

/* ---- rows of scores ---- */

/* The columns of a chunk that a row sees: at most CHUNK, which lanes_below relies on. */
struct range {
	int from, end;
};

/* What the rows of a strip see of a chunk. */
struct view {
	struct range rows[STRIP];
	int columns; /* none sees one from here on */
	bool whole;  /* each sees all of it */
};

/* Rows from i on, columns from `from` on; a row behind the last sees nothing. */
static struct view view_of(const struct head *w, int i, int from)
{
	int end = smaller(from + CHUNK, smaller(i + STRIP, w->T));
	struct view view = {.columns = end > from ? end - from : 0, .whole = true};
	for (int row = 0; row < STRIP; row++) {
		struct range *range = &view.rows[row];
		if (i + row < w->T) {
			int first = first_column(w, i + row);
			range->from = first > from ? smaller(first - from, CHUNK) : 0;
			range->end = smaller(i + row + 1 - from, CHUNK);
		}
		view.whole = view.whole && range->from == 0 && range->end >= CHUNK;
	}
	return view;
}

/* Lanes below the n-th, for n below 256, of which bzhi looks at eight bits; without a branch, which would be guessed
 * wrong along the diagonal. */
VECTOR_INLINE uint32_t lanes_below(int n)
{
	return _bzhi_u32(0xffff, (uint32_t)(n & ~(n >> 31)));
}

/* Which of columns at..at+15 the row sees; `whole`, a constant, says that it sees all. */
VECTOR_INLINE __mmask16 lanes_seen(struct range range, int at, const bool whole)
{
	if (whole)
		return 0xffff;
	return (__mmask16)(lanes_below(range.end - at) & ~lanes_below(range.from - at));
}

/* Which of the elements of these words a dropout keeps. */
VECTOR_INLINE __mmask16 lanes_kept(const struct head *w, const uint32_t *words)
{
	return _mm512_cmpge_epu32_mask(
		_mm512_loadu_si512(words), _mm512_set1_epi32((int)w->factors.threshold));
}

/* 2^x: the polynomial is Taylor's to degree 5 of |r| <= 1/2, whose remainder is below 2.5e-6, a thousandth of
 * bf16's rounding. */
VECTOR_INLINE __m512 exp2_lanes(__m512 x)
{
	__m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
	__m512 r = _mm512_sub_ps(x, n), p = _mm512_set1_ps(1.33335581e-3f);
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.61812911e-3f));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.55041087e-2f));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.40226507e-1f));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.93147181e-1f));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
	return _mm512_scalef_ps(p, n);
}

/* ---- forward ---- */

/* Of a block of rows, as far as the chunks have come; scores are in units of log2. */
struct state {
	float max[BLOCK];
	float *sums; /* [BLOCK][LANES] */
	float *out;  /* [BLOCK][W] */
};

VECTOR_INLINE void scale_lanes(float *x, int n, float factor)
{
	for (int i = 0; i < n; i += LANES)
		_mm512_storeu_ps(x + i, _mm512_mul_ps(_mm512_loadu_ps(x + i), _mm512_set1_ps(factor)));
}

/* Raises the maxima of the strip from row r on to those of `n` more scores. */
VECTOR_INLINE void raise_maxima(const struct work *x, struct state *s, const struct view *view, int r, int W,
	int n, float factor, const bool whole)
{
	const __mmask16 rows = (1u << STRIP) - 1;
	float maxima[LANES] = {0}, shrink[LANES];
	for (int row = 0; row < STRIP; row++) {
		__m512 top = _mm512_set1_ps(-INFINITY);
		for (int j = 0; j < n; j += LANES)
			top = _mm512_mask_max_ps(top, lanes_seen(view->rows[row], j, whole), top,
				_mm512_loadu_ps(x->scores + row * STRIDE + j));
		maxima[row] = _mm512_reduce_max_ps(top);
	}
	__m512 old = _mm512_maskz_loadu_ps(rows, s->max + r), none = _mm512_set1_ps(-INFINITY);
	__m512 max = _mm512_mul_ps(_mm512_loadu_ps(maxima), _mm512_set1_ps(factor));
	__mmask16 raised = _mm512_mask_cmp_ps_mask(rows, max, old, _CMP_GT_OQ);
	if (!raised)
		return;
	_mm512_mask_storeu_ps(s->max + r, raised, max);
	__mmask16 had = _mm512_cmp_ps_mask(old, none, _CMP_NEQ_UQ);
	_mm512_storeu_ps(shrink, _mm512_maskz_mov_ps(had, exp2_lanes(_mm512_sub_ps(old, max))));
	for (int row = 0; row < STRIP; row++)
		if (raised >> row & 1) {
			scale_lanes(s->sums + (r + row) * LANES, LANES, shrink[row]);
			scale_lanes(s->out + (ptrdiff_t)(r + row) * W, W, shrink[row]);
		}
}

/* The first n scores of the strip from row r of the block on become probabilities before division by their
 * sums. */
VECTOR_INLINE void softmax_strip(const struct head *w, const struct work *x, struct state *s,
	const struct view *view, int i, int r, int from, int n, const bool whole)
{
	float factor = w->scale * log2_e;
	raise_maxima(x, s, view, r, w->W, n, factor, whole);
	for (int row = 0; row < STRIP; row++, r++) {
		const float *scores = x->scores + row * STRIDE;
		uint32_t *to = x->rows + row * CHUNK / 2;
		const uint32_t *words = NULL;
		if (dropout_wanted(w->drop))
			words = probability_words(w, x->words[0], i + r, from, n);
		__m512 max = _mm512_set1_ps(s->max[r]), sum = _mm512_loadu_ps(s->sums + r * LANES);
		for (int j = 0; j < n; j += LANES) {
			__mmask16 seen = lanes_seen(view->rows[row], j, whole);
			__m512 y = _mm512_fmsub_ps(_mm512_loadu_ps(scores + j), _mm512_set1_ps(factor), max);
			__m512 p = _mm512_maskz_mov_ps(seen, exp2_lanes(y));
			sum = _mm512_add_ps(sum, p);
			if (words)
				p = _mm512_maskz_mov_ps(lanes_kept(w, words + j), p);
			_mm256_storeu_si256((__m256i *)(to + j / 2), (__m256i)_mm512_cvtneps_pbh(p));
		}
		_mm512_storeu_ps(s->sums + r * LANES, sum);
	}
}

/* The strip from row r of the block on against columns from.. */
static void forward_strip(const struct head *w, const struct work *x, struct state *s, int i, int r, int from)
{
	int W = w->W;
	size_t panel = (size_t)W / 2 * PANEL;
	struct view view = view_of(w, i + r, from);
	if (view.columns == 0)
		return;
	product_with_panels(x->scores, x->queries + r / STRIP * (W / 2 * LANES),
		x->key_panels + from / PANEL * panel, panel, round_up(view.columns, PANEL), (w->D + 1) / 2);
	if (view.whole)
		softmax_strip(w, x, s, &view, i, r, from, CHUNK, true);
	else
		softmax_strip(w, x, s, &view, i, r, from, round_up(view.columns, LANES), false);
	product_of_rows(s->out + (ptrdiff_t)r * W, x->rows, x->value_pairs + (size_t)from / 2 * W, W,
		(view.columns + 1) / 2);
}

static void forward_block(
	const struct head *w, const struct work *x, void *out, float *lse, const void *qkv, int i, int rows)
{
	int W = w->W, from = columns_from(w, i, rows, PANEL);
	struct state s = {.sums = x->sums, .out = x->out};
	for (int r = 0; r < BLOCK; r++)
		s.max[r] = -INFINITY;
	memset(s.sums, 0, BLOCK * LANES * sizeof *s.sums);
	memset(s.out, 0, (size_t)BLOCK * W * sizeof *s.out);
	pack_strips(w, x->queries, rows_of_part(w, qkv, 0, i, rows));
	for (; from < i + rows; from += CHUNK)
		for (int r = 0; r < rows; r += STRIP)
			forward_strip(w, x, &s, i, r, from);
	float kept = dropout_wanted(w->drop) ? w->factors.scale : 1;
	for (int r = 0; r < rows; r++) {
		float sum = _mm512_reduce_add_ps(_mm512_loadu_ps(s.sums + r * LANES));
		lse[i + r] = (s.max[r] + log2f(sum)) * ln_2;
		scale_rows(s.out + (ptrdiff_t)r * W, W, kept / sum);
		span_from_f32((uint16_t *)out + output_element(w, i + r), DTYPE_BF16,
			s.out + (ptrdiff_t)r * W, w->D);
	}
}

static void forward_head(const struct head *w, const struct work *x, void *out, float *lse, const void *qkv)
{
	pack_panels(w, x->key_panels, rows_of_part(w, qkv, 1, 0, w->T));
	pack_pairs(w, x->value_pairs, rows_of_part(w, qkv, 2, 0, w->T));
	for (int i = 0; i < w->T; i += BLOCK)
		forward_block(w, x, out, lse, qkv, i, smaller(BLOCK, w->T - i));
}

/* The memory of all threads; NULL where there is none. */
static float *all_memory(struct kernels *k, int T, int D, bool training)
{
	return cpu_scratch_get(
		k, CPU_SCRATCH_OPERATION, cpu_attention_scratch_bf16(cpu_of(k)->threads, T, D, training));
}

/* This thread's part of it. */
static struct work work_of_thread(float *all, int T, int W, bool training)
{
	struct work x;
	size_t size = lay_out(&x, all, T, W, training);
	lay_out(&x, all + (size_t)CPU_THREAD * size, T, W, training);
	return x;
}

void cpu_attention_forward_bf16(struct kernels *k, struct stream *s, void *out, float *lse, const void *qkv,
	const int32_t *first, int B, int T, int H, int D, const struct dropout *drop)
{
	(void)s;
	float *all = all_memory(k, T, D, false);
	if (!all)
		return;
#pragma omp parallel for num_threads(cpu_of(k)->threads) schedule(static)
	for (int task = 0; task < B * H; task++) {
		struct head w = head_of(k, task, PANEL, T, H, D, first, drop);
		struct work x = work_of_thread(all, T, w.W, false);
		forward_head(&w, &x, out, lse + (size_t)task * T, qkv);
	}
}

/* ---- backward ---- */

struct backward {
	const struct head *w;
	const struct work *x;
	const float *lse;   /* of this head */
	float delta[BLOCK]; /* dout . out of each row of a block */
};

/* A vector of a row's probabilities and gradients of scores. */
struct lanes {
	__m512 p, ds;
};

struct row {
	const float *scores, *dscores;
	const uint32_t *words; /* or NULL */
	struct range range;
	float lse, delta; /* lse in units of log2 */
};

/* Row r of the block, in its strip, in the chunk from column `from` on. */
static struct row row_of(const struct backward *b, const struct view *view, int i, int r, int from, int n)
{
	const struct head *w = b->w;
	int row = r % STRIP;
	struct row to = {.scores = b->x->scores + row * STRIDE,
		.dscores = b->x->dscores + row * STRIDE,
		.range = view->rows[row]};
	if (i + r >= w->T)
		return to;
	to.lse = b->lse[i + r] * log2_e;
	to.delta = b->delta[r];
	if (dropout_wanted(w->drop))
		to.words = probability_words(w, b->x->words[row % 2], i + r, from, n);
	return to;
}

/* p = exp(score - lse), ds = p (drop(dp) - delta), and then p = drop(p), which the values' gradient takes. */
VECTOR_INLINE struct lanes lanes_of(const struct head *w, const struct row *row, int j, const bool whole)
{
	__mmask16 seen = lanes_seen(row->range, j, whole);
	__m512 dp = _mm512_loadu_ps(row->dscores + j), delta = _mm512_set1_ps(row->delta);
	__m512 y = _mm512_fmsub_ps(_mm512_loadu_ps(row->scores + j), _mm512_set1_ps(w->scale * log2_e),
		_mm512_set1_ps(row->lse));
	struct lanes to = {.p = _mm512_maskz_mov_ps(seen, exp2_lanes(y))};
	if (!row->words) {
		to.ds = _mm512_maskz_mul_ps(seen, to.p, _mm512_sub_ps(dp, delta));
		return to;
	}
	__m512 scale = _mm512_set1_ps(w->factors.scale);
	__mmask16 kept = lanes_kept(w, row->words + j);
	__m512 dropped = _mm512_maskz_mul_ps(kept, dp, scale);
	to.ds = _mm512_maskz_mul_ps(seen, to.p, _mm512_sub_ps(dropped, delta));
	to.p = _mm512_maskz_mul_ps(kept, to.p, scale);
	return to;
}

/* Rows r and r + 1 of the block: the first `n` of a chunk; zeros behind them. */
VECTOR_INLINE void gradient_of_rows(
	const struct backward *b, const struct view *view, int i, int r, int from, int n, const bool whole)
{
	const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
		23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
	struct row even = row_of(b, view, i, r, from, n), odd = row_of(b, view, i, r + 1, from, n);
	uint32_t *pairs = b->x->pairs + r / 2 * CHUNK, *dpairs = b->x->dpairs + r / 2 * CHUNK;
	uint32_t *rows = b->x->rows + r % STRIP * CHUNK / 2;
	for (int j = 0; j < n; j += LANES) {
		struct lanes x = lanes_of(b->w, &even, j, whole), y = lanes_of(b->w, &odd, j, whole);
		__m512i p = (__m512i)_mm512_cvtne2ps_pbh(y.p, x.p);
		__m512i ds = (__m512i)_mm512_cvtne2ps_pbh(y.ds, x.ds);
		_mm512_storeu_si512(pairs + j, _mm512_permutexvar_epi16(order, p));
		_mm512_storeu_si512(dpairs + j, _mm512_permutexvar_epi16(order, ds));
		_mm256_storeu_si256((__m256i *)(rows + j / 2), _mm512_castsi512_si256(ds));
		_mm256_storeu_si256((__m256i *)(rows + CHUNK / 2 + j / 2), _mm512_extracti64x4_epi64(ds, 1));
	}
	for (int j = n; j < CHUNK; j += LANES) {
		_mm512_storeu_si512(pairs + j, _mm512_setzero_si512());
		_mm512_storeu_si512(dpairs + j, _mm512_setzero_si512());
	}
}

/* The strip from row r of the block on against columns from..: the queries' gradient, and the pairs of which
 * the others are made. */
static void backward_strip(const struct backward *b, int i, int r, int from)
{
	const struct head *w = b->w;
	const struct work *x = b->x;
	int W = w->W, pairs = (w->D + 1) / 2, strip = r / STRIP * (W / 2 * LANES);
	size_t panel = (size_t)W / 2 * PANEL, at = (size_t)from / PANEL * panel;
	struct view view = view_of(w, i + r, from);
	if (view.columns == 0)
		return;
	int n = round_up(view.columns, PANEL);
	product_with_panels(x->scores, x->queries + strip, x->key_panels + at, panel, n, pairs);
	product_with_panels(x->dscores, x->douts + strip, x->value_panels + at, panel, n, pairs);
	for (int row = r; row < r + STRIP; row += 2)
		if (view.whole)
			gradient_of_rows(b, &view, i, row, from, CHUNK, true);
		else
			gradient_of_rows(b, &view, i, row, from, n, false);
	product_of_rows(x->out + (ptrdiff_t)r * W, x->rows, x->key_pairs + (size_t)from / 2 * W, W,
		(view.columns + 1) / 2);
}

/* A block's rows against columns from..: their part of every gradient. */
static void backward_chunk(const struct backward *b, int i, int rows, int from)
{
	const struct head *w = b->w;
	const struct work *x = b->x;
	int W = w->W, end = smaller(from + CHUNK, i + rows);
	for (int r = 0; r < rows; r += STRIP)
		backward_strip(b, i, r, from);
	for (int j = from; j < end; j += STRIP) {
		int first = j > i ? (j - i) / 2 : 0,
		    count = (rows + 1) / 2 - first; /* rows that see the column */
		product_of_columns(x->dkeys + (size_t)j * W, x->dpairs + first * CHUNK + (j - from),
			x->query_pairs + (size_t)first * W, W, count);
		product_of_columns(x->dvalues + (size_t)j * W, x->pairs + first * CHUNK + (j - from),
			x->dout_pairs + (size_t)first * W, W, count);
	}
}

static struct rows rows_of_output(const struct head *w, const void *out, int from, int count)
{
	struct rows rows = {(const uint16_t *)out + output_element(w, from), (ptrdiff_t)w->H * w->D, count};
	return rows;
}

static void backward_block(
	struct backward *b, void *dqkv, const void *dout, const void *out, const void *qkv, int i, int rows)
{
	const struct head *w = b->w;
	const struct work *x = b->x;
	struct rows queries = rows_of_part(w, qkv, 0, i, rows), douts = rows_of_output(w, dout, i, rows);
	pack_strips(w, x->queries, queries);
	pack_pairs(w, x->query_pairs, queries);
	pack_strips(w, x->douts, douts);
	pack_pairs(w, x->dout_pairs, douts);
	for (int r = 0; r < rows; r++) {
		size_t at = output_element(w, i + r);
		b->delta[r] = row_dot(row_read(x->out, out, DTYPE_BF16, at, w->D),
			row_read(x->row, dout, DTYPE_BF16, at, w->D), w->D);
	}
	memset(x->out, 0, (size_t)BLOCK * w->W * sizeof *x->out);
	for (int from = columns_from(w, i, rows, PANEL); from < i + rows; from += CHUNK)
		backward_chunk(b, i, rows, from);
	scale_rows(x->out, (int64_t)rows * w->W, w->scale);
	write_part(w, dqkv, 0, x->out, i, rows);
}

static void backward_head(struct backward *b, void *dqkv, const void *dout, const void *out, const void *qkv)
{
	const struct head *w = b->w;
	const struct work *x = b->x;
	struct rows keys = rows_of_part(w, qkv, 1, 0, w->T), values = rows_of_part(w, qkv, 2, 0, w->T);
	pack_panels(w, x->key_panels, keys);
	pack_pairs(w, x->key_pairs, keys);
	pack_panels(w, x->value_panels, values);
	memset(x->dkeys, 0, (size_t)w->T * w->W * sizeof *x->dkeys);
	memset(x->dvalues, 0, (size_t)w->T * w->W * sizeof *x->dvalues);
	for (int i = 0; i < w->T; i += BLOCK)
		backward_block(b, dqkv, dout, out, qkv, i, smaller(BLOCK, w->T - i));
	scale_rows(x->dkeys, (int64_t)w->T * w->W, w->scale);
	write_part(w, dqkv, 1, x->dkeys, 0, w->T);
	write_part(w, dqkv, 2, x->dvalues, 0, w->T);
}

void cpu_attention_backward_bf16(struct kernels *k, struct stream *s, void *dqkv, const void *dout,
	const void *out, const float *lse, const void *qkv, const int32_t *first, int B, int T, int H, int D,
	const struct dropout *drop)
{
	(void)s;
	float *all = all_memory(k, T, D, true);
	if (!all)
		return;
#pragma omp parallel for num_threads(cpu_of(k)->threads) schedule(static)
	for (int task = 0; task < B * H; task++) {
		struct head w = head_of(k, task, PANEL, T, H, D, first, drop);
		struct work x = work_of_thread(all, T, w.W, true);
		struct backward b = {.w = &w, .x = &x, .lse = lse + (size_t)task * T};
		backward_head(&b, dqkv, dout, out, qkv);
	}
}
#endif
