#include "kernels/cpu/gemm.h"

enum {
	SLICE_ELEMENTS = 1 << 21,
	LONGEST = 4096 /* sum in one piece */
};

static int smaller(int a, int b)
{
	return a < b ? a : b;
}

static const void *at(const void *block, enum dtype type, size_t element)
{
	return (const char *)block + element * dtype_bytes(type);
}

/* One slice of columns through f32 copies of its b and c; a is one already. */
static bool run_slice(struct kernels *k, const struct gemm_product *p, const float *a, int64_t lda, int from,
	int columns, cpu_convert_matrix *convert)
{
	int b_rows = p->b_transposed ? columns : p->k, b_columns = p->b_transposed ? p->k : columns;
	float *b = cpu_scratch_get(k, CPU_SCRATCH_B, ((size_t)b_rows * b_columns + columns) * sizeof *b);
	float *c = p->out == DTYPE_F32
			   ? (float *)p->c + from
			   : cpu_scratch_get(k, CPU_SCRATCH_C, (size_t)p->m * columns * sizeof *c);
	if (!b || !c)
		return false;
	int64_t ldc = p->out == DTYPE_F32 ? p->ldc : columns;
	size_t b_start = p->b_transposed ? (size_t)from * p->ldb : (size_t)from;
	convert(k, b, DTYPE_F32, b_columns, at(p->b, p->in, b_start), p->in, p->ldb, b_rows, b_columns);
	float *bias = p->bias ? b + (size_t)b_rows * b_columns : NULL;
	if (bias)
		convert(k, bias, DTYPE_F32, columns, at(p->bias, p->in, from), p->in, columns, 1, columns);
	void *target = (char *)p->c + from * dtype_bytes(p->out);
	if (p->out != DTYPE_F32 && p->accumulate)
		convert(k, c, DTYPE_F32, ldc, target, p->out, p->ldc, p->m, columns);
	struct gemm_product slice = *p;
	slice.n = columns, slice.a = a, slice.lda = lda, slice.b = b, slice.ldb = b_columns, slice.c = c,
	slice.ldc = ldc, slice.in = slice.out = DTYPE_F32, slice.bias = bias, slice.weight = false;
	enum status status = gemm_engine_run(cpu_of(k)->gemm, &slice);
	if (status != STATUS_OK) {
		cpu_fail(k, status);
		return false;
	}
	if (p->out != DTYPE_F32)
		convert(k, target, p->out, p->ldc, c, DTYPE_F32, ldc, p->m, columns);
	return true;
}

/* Slices of rows bound a's copy, slices of columns b's and c's. */
static void run_through_f32(struct kernels *k, const struct gemm_product *p)
{
	cpu_convert_matrix *convert = SIMD_CHOOSE(cpu_convert_matrix);
	int rows = smaller(p->m, SLICE_ELEMENTS / p->k + 1);
	int columns = smaller(p->n, SLICE_ELEMENTS / (p->k > rows ? p->k : rows) / 64 * 64 + 64);
	for (int i = 0; i < p->m; i += rows) {
		struct gemm_product part = *p;
		part.m = smaller(rows, p->m - i);
		part.c = (char *)p->c + (size_t)i * p->ldc * dtype_bytes(p->out);
		int a_rows = p->a_transposed ? p->k : part.m, a_columns = p->a_transposed ? part.m : p->k;
		float *a = cpu_scratch_get(k, CPU_SCRATCH_A, (size_t)a_rows * a_columns * sizeof *a);
		if (!a)
			return;
		size_t a_start = p->a_transposed ? (size_t)i : (size_t)i * p->lda;
		convert(k, a, DTYPE_F32, a_columns, at(p->a, p->in, a_start), p->in, p->lda, a_rows,
			a_columns);
		for (int j = 0; j < p->n; j += columns)
			if (!run_slice(k, &part, a, a_columns, j, smaller(columns, p->n - j), convert))
				return;
	}
}

static void run_whole(struct kernels *k, const struct gemm_product *p)
{
	struct cpu *cpu = cpu_of(k);
	if (!gemm_engine_takes(cpu->gemm, p->in, p->out)) {
		run_through_f32(k, p);
		return;
	}
	enum status status = gemm_engine_run(cpu->gemm, p);
	if (status != STATUS_OK)
		cpu_fail(k, status);
}

/*
 * Long sums with a weight (the head's, over the vocabulary) in pieces, added in f32: measured, oneDNN 2.6.3 on
 * Zen 5, 50,304 at once take 12-18% longer in bf16 and 10-25% in f32. What is rounded is the whole sum.
 */
static void run_in_pieces(struct kernels *k, const struct gemm_product *p)
{
	struct gemm_product piece = *p;
	if (p->out != DTYPE_F32) {
		piece.c = cpu_scratch_get(k, CPU_SCRATCH_C, (size_t)p->m * p->n * sizeof(float));
		piece.ldc = p->n, piece.out = DTYPE_F32;
		if (!piece.c)
			return;
	}
	for (int l = 0; l < p->k; l += LONGEST) {
		size_t a = p->a_transposed ? (size_t)l * p->lda : (size_t)l;
		size_t b = p->b_transposed ? (size_t)l : (size_t)l * p->ldb;
		piece.k = smaller(LONGEST, p->k - l);
		piece.a = at(p->a, p->in, a), piece.b = at(p->b, p->in, b);
		run_whole(k, &piece);
		piece.accumulate = true, piece.bias = NULL;
	}
	if (p->out != DTYPE_F32)
		SIMD_CHOOSE(cpu_convert_matrix)
	(k, p->c, p->out, p->ldc, piece.c, DTYPE_F32, piece.ldc, p->m, p->n);
}

void gemm_run(struct kernels *k, const struct gemm_product *p)
{
	if (p->m == 0 || p->n == 0)
		return;
	bool sums_are_kept = p->out == DTYPE_F32 || !p->accumulate;
	if (p->weight && p->k > LONGEST && sums_are_kept)
		run_in_pieces(k, p);
	else
		run_whole(k, p);
}
