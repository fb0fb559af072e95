/* Products through CBLAS (OpenBLAS), where oneDNN is not there. f32 only. */
#include "common/memory.h"
#include "kernels/cpu/gemm.h"

#include <cblas.h>
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
#ifdef OPENBLAS_VERSION
	openblas_set_num_threads(threads);
#endif
	return STATUS_OK;
}

void gemm_close(struct gemm *gemm)
{
	free(gemm);
}

void gemm_name(char name[GEMM_NAME])
{
	snprintf(name, GEMM_NAME, "BLAS");
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

enum status gemm_engine_run(struct gemm *gemm, const struct gemm_product *p)
{
	(void)gemm;
	const float *bias = p->bias;
	for (int i = 0; bias && i < p->m; i++) {
		float *c = (float *)p->c + i * p->ldc;
		for (int j = 0; j < p->n; j++)
			c[j] = (p->accumulate ? c[j] : 0) + bias[j];
	}
	cblas_sgemm(CblasRowMajor, p->a_transposed ? CblasTrans : CblasNoTrans,
		p->b_transposed ? CblasTrans : CblasNoTrans, p->m, p->n, p->k, 1.0f, p->a, (int)p->lda, p->b,
		(int)p->ldb, bias || p->accumulate ? 1.0f : 0.0f, p->c, (int)p->ldc);
	return STATUS_OK;
}
