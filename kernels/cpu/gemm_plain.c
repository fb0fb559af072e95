/* Products without a library: correct on anything, for builds that have nothing better and for sanitizers. */
#include "common/memory.h"
#include "kernels/cpu/gemm.h"

#include <stdio.h>
#include <stdlib.h>

struct gemm {
	int threads;
};

enum status gemm_open(int threads, uint64_t packing, struct gemm **out)
{
	(void)packing;
	TRY(memory_alloc((void **)out, 1, sizeof **out, "products"));
	(*out)->threads = threads;
	return STATUS_OK;
}

void gemm_close(struct gemm *gemm)
{
	free(gemm);
}

void gemm_name(char name[GEMM_NAME])
{
	snprintf(name, GEMM_NAME, "plain C products");
}

void gemm_weights_changed(struct gemm *gemm)
{
	(void)gemm;
}

void gemm_expect_uses(struct gemm *gemm, int uses)
{
	(void)gemm, (void)uses;
}

void gemm_forget_weights(struct gemm *gemm)
{
	(void)gemm;
}

bool gemm_engine_takes(const struct gemm *gemm, enum dtype in, enum dtype out)
{
	(void)gemm;
	return in == DTYPE_F32 && out == DTYPE_F32;
}

/* The thread sanitizer is told once of each row that a product touches, instead of each time that it does: most of the time
 * of what it watched went there. */
#ifdef __SANITIZE_THREAD__
#define TOLD_BEFORE __attribute__((no_sanitize("thread")))
extern void __tsan_read_range(void *at, long bytes);
extern void __tsan_write_range(void *at, long bytes);

static void tell_rows(void (*tell)(void *, long), const void *matrix, int64_t step, int rows, int columns)
{
	for (int i = 0; i < rows; i++)
		tell((float *)(uintptr_t)matrix + i * step, (long)sizeof(float) * columns);
}

static void tell_of(const struct gemm_product *p)
{
	tell_rows(__tsan_read_range, p->a, p->lda, p->a_transposed ? p->k : p->m,
		p->a_transposed ? p->m : p->k);
	tell_rows(__tsan_read_range, p->b, p->ldb, p->b_transposed ? p->n : p->k,
		p->b_transposed ? p->k : p->n);
	if (p->bias)
		tell_rows(__tsan_read_range, p->bias, 0, 1, p->n);
	tell_rows(__tsan_write_range, p->c, p->ldc, p->m, p->n);
}
#else
#define TOLD_BEFORE
static void tell_of(const struct gemm_product *p)
{
	(void)p;
}
#endif

TOLD_BEFORE static float dot(const float *a, int64_t a_step, const float *b, int k)
{
	float sums[16] = {0}, sum = 0;
	int i = 0;
	for (; i + 16 <= k; i += 16)
		for (int l = 0; l < 16; l++)
			sums[l] += a[(i + l) * a_step] * b[i + l];
	for (; i < k; i++)
		sum += a[i * a_step] * b[i];
	for (int l = 0; l < 16; l++)
		sum += sums[l];
	return sum;
}

/* b's rows are contiguous in memory where it is transposed: dot products. Otherwise rows of b are added up.
 */
TOLD_BEFORE static void run_row(const struct gemm_product *p, int i)
{
	float *c = (float *)p->c + i * p->ldc;
	const float *a = (const float *)p->a + (p->a_transposed ? i : i * p->lda), *b = p->b;
	const float *bias = p->bias;
	int64_t a_step = p->a_transposed ? p->lda : 1;
	for (int j = 0; j < p->n; j++)
		c[j] = (p->accumulate ? c[j] : 0) + (bias ? bias[j] : 0) +
		       (p->b_transposed ? dot(a, a_step, b + j * p->ldb, p->k) : 0);
	for (int l = 0; l < p->k && !p->b_transposed; l++) {
		float factor = a[l * a_step];
		const float *row = b + l * p->ldb;
		for (int j = 0; j < p->n; j++)
			c[j] += factor * row[j];
	}
}

enum status gemm_engine_run(struct gemm *gemm, const struct gemm_product *p)
{
	(void)gemm;
	tell_of(p);
#pragma omp parallel for num_threads(gemm->threads) schedule(static)
	for (int i = 0; i < p->m; i++)
		run_row(p, i);
	return STATUS_OK;
}
