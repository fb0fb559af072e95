/*
 * adamw.h: the arithmetic of AdamW, written once for every backend (plain C that CUDA takes too).
 *
 * Loshchilov & Hutter 2019, in the order of torch.optim.AdamW, with eps after the bias correction:
 *    g = grad * multiplier
 *    p = p - lr * decay * p
 *    m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2
 *    p = p - (lr / (1 - b1^t)) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
 * Every multiply-add is an explicit fmaf and every square root and division is rounded to nearest, so all
 * backends give the same bits; the factors that depend on the step alone are computed once, in double, and
 * rounded.
 */
#ifndef KERNELS_ADAMW_H
#define KERNELS_ADAMW_H

#include "common/philox.h"
#include "kernels/kernels.h"

#include <math.h>

struct adamw_factors {
	float multiplier;
	float keep; /* 1 - lr * decay */
	float beta1, one_minus_beta1;
	float beta2, one_minus_beta2;
	float step_size;    /* lr / (1 - b1^t) */
	float inverse_root; /* 1 / sqrt(1 - b2^t) */
	float epsilon;
};

static inline struct adamw_factors adamw_prepare(const struct adamw *a)
{
	double bias1 = 1.0 - pow((double)a->beta1, (double)a->step);
	double bias2 = 1.0 - pow((double)a->beta2, (double)a->step);
	struct adamw_factors f = {
		.multiplier = a->gradient_multiplier,
		.keep = (float)(1.0 - (double)a->learning_rate * (double)a->weight_decay),
		.beta1 = a->beta1,
		.one_minus_beta1 = (float)(1.0 - (double)a->beta1),
		.beta2 = a->beta2,
		.one_minus_beta2 = (float)(1.0 - (double)a->beta2),
		.step_size = (float)((double)a->learning_rate / bias1),
		.inverse_root = (float)(1.0 / sqrt(bias2)),
		.epsilon = a->epsilon,
	};
	return f;
}

PHILOX_FUNCTION void adamw_update(const struct adamw_factors *f, float gradient, float *p, float *m, float *v)
{
	float g = gradient * f->multiplier;
	float first = fmaf(f->beta1, *m, f->one_minus_beta1 * g);
	float second = fmaf(f->beta2, *v, f->one_minus_beta2 * (g * g));
	float denominator = fmaf(sqrtf(second), f->inverse_root, f->epsilon);
	*p = fmaf(-f->step_size, first / denominator, *p * f->keep);
	*m = first;
	*v = second;
}

#endif
