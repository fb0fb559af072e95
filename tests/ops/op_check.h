/* op_check.h: what a case of the op tester holds, on the host and on the device, and how its results are judged. Part
 * of op_tester.c. */
#ifndef TESTS_OPS_OP_CHECK_H
#define TESTS_OPS_OP_CHECK_H

#include "tests/ops/formulas.h"
#include "tests/ops/op_tester.h"
#include "tests/ops/pinned.h"

#include <inttypes.h>

static inline void must(struct op_tester *t, enum status status)
{
	(void)t;
	if (status == STATUS_OK)
		return;
	fprintf(stderr, "op tester: %s\n", error_message());
	abort();
}

static inline void *host_block(struct op_tester *t, size_t bytes)
{
	if (t->hosts == OP_TESTER_BLOCKS)
		abort();
	return t->host[t->hosts++] = calloc(1, bytes ? bytes : 1);
}

static inline double *zeros(struct op_tester *t, size_t n)
{
	return host_block(t, n * sizeof(double));
}

/* Numbers that are exact in `type`. */
static inline double *numbers(struct op_tester *t, size_t n, enum dtype type, double scale)
{
	double *x = zeros(t, n);
	for (size_t i = 0; i < n; i++)
		x[i] = round_to(scale * normal(&t->random), type);
	return x;
}

static inline void *device_block(struct op_tester *t, size_t bytes)
{
	if (t->devices == OP_TESTER_BLOCKS)
		abort();
	void *block;
	must(t, t->k->memory_alloc(t->k, &block, bytes, "test data"));
	t->device[t->devices].block = block;
	t->device[t->devices++].bytes = bytes;
	return block;
}

static inline void *encode(struct op_tester *t, const double *x, size_t n, enum dtype type)
{
	void *bytes = host_block(t, n * dtype_bytes(type));
	for (size_t i = 0; i < n; i++)
		if (type == DTYPE_F32)
			((float *)bytes)[i] = (float)x[i];
		else
			((uint16_t *)bytes)[i] = half_code(x[i], type);
	return bytes;
}

static inline void copy_to(struct op_tester *t, void *device, const void *from, size_t bytes)
{
	must(t, pinned_copy_in(t->k, device, from, bytes));
}

static inline void copy_from(struct op_tester *t, void *to, const void *device, size_t bytes)
{
	must(t, pinned_copy_out(t->k, to, device, bytes));
}

static inline void *put_bytes(struct op_tester *t, const void *from, size_t bytes)
{
	void *block = device_block(t, bytes);
	copy_to(t, block, from, bytes);
	return block;
}

static inline void *put(struct op_tester *t, const double *x, size_t n, enum dtype type)
{
	return put_bytes(t, encode(t, x, n, type), n * dtype_bytes(type));
}

/* A result's place, full of NaN, so that what is not written is seen. */
static inline void *place(struct op_tester *t, size_t n, enum dtype type)
{
	void *nan = host_block(t, n * dtype_bytes(type));
	memset(nan, 0xff, n * dtype_bytes(type));
	return put_bytes(t, nan, n * dtype_bytes(type));
}

static inline double *get(struct op_tester *t, const void *device, size_t n, enum dtype type)
{
	void *bytes = host_block(t, n * dtype_bytes(type));
	copy_from(t, bytes, device, n * dtype_bytes(type));
	double *x = zeros(t, n);
	for (size_t i = 0; i < n; i++)
		x[i] = type == DTYPE_F32 ? (double)((float *)bytes)[i]
					 : half_value(((uint16_t *)bytes)[i], type);
	return x;
}

static inline void case_begin(struct op_tester *t, const char *op, const struct shape *w)
{
	t->op = op;
	snprintf(t->detail, sizeof t->detail, "%s B=%d T=%d C=%d H=%d V=%d p=%g%s%s", dtype_name(t->k->act),
		w->B, w->T, w->C, w->H, w->V, (double)w->drop.p, w->masked ? " masked" : "",
		w->accumulate ? " accumulate" : "");
}

static inline void case_end(struct op_tester *t)
{
	while (t->hosts)
		free(t->host[--t->hosts]);
	while (t->devices) {
		t->devices--;
		t->k->memory_free(t->k, t->device[t->devices].block, t->device[t->devices].bytes);
	}
}

static inline struct op_result *result_of(struct op_tester *t)
{
	for (int i = 0; i < t->ops; i++)
		if (strcmp(t->results[i].op, t->op) == 0)
			return &t->results[i];
	t->results[t->ops].op = t->op;
	return &t->results[t->ops++];
}

static inline void record(struct op_tester *t, const char *what, double error, double bound)
{
	struct op_result *result = result_of(t);
	result->checks++;
	if (result->bound == 0 || !(error / bound <= result->worst / result->bound))
		result->worst = error, result->bound = bound;
	if (error <= bound)
		return;
	t->failures++;
	fprintf(stderr, "%s: %s: error %.3g, bound %.3g (%s)\n", t->op, what, error, bound, t->detail);
}

/* |got - want| / |want|, in the Euclidean norm; not a number is infinitely wrong. */
static inline double norm_error(const double *got, const double *want, size_t n)
{
	double difference = 0, norm = 0;
	for (size_t i = 0; i < n; i++) {
		difference += (got[i] - want[i]) * (got[i] - want[i]);
		norm += want[i] * want[i];
	}
	double error = norm > 0 ? sqrt(difference / norm) : sqrt(difference);
	return isfinite(error) ? error : INFINITY;
}

/* Bounds: a few roundings of the type on the way; `depth` counts roundings of intermediate results. */
static inline double bound_of(enum dtype type, double depth)
{
	return depth * (type == DTYPE_F32 ? 1e-6 : type == DTYPE_BF16 ? 2.5e-3 : 3.5e-4);
}

static inline void check(struct op_tester *t, const char *what, const void *device, enum dtype type,
	const double *want, size_t n, double bound)
{
	record(t, what, norm_error(get(t, device, n, type), want, n), bound);
}

/* For f32 results that may all be near 0: their error is measured against a given norm. */
static inline void check_against(struct op_tester *t, const char *what, const float *device,
	const double *want, size_t n, double norm, double bound)
{
	double *got = get(t, device, n, DTYPE_F32), difference = 0;
	for (size_t i = 0; i < n; i++)
		difference += (got[i] - want[i]) * (got[i] - want[i]);
	double error = sqrt(difference) / norm;
	record(t, what, isfinite(error) ? error : INFINITY, bound);
}

/* The same for a result that is f32 but comes from act-typed work: bound by the work. */
static inline void check_work(struct op_tester *t, const char *what, const void *device, enum dtype type,
	const double *want, size_t n, double depth)
{
	check(t, what, device, type, want, n, bound_of(t->k->act, depth));
}

static inline void reserve(struct op_tester *t, const struct shape *w)
{
	struct kernel_shapes shapes = {w->B, w->T, w->C, w->H, w->V, w->VP, 3, true};
	must(t, t->k->reserve(t->k, &shapes));
}

static inline int32_t *tokens_below(struct op_tester *t, int n, int limit)
{
	int32_t *tokens = host_block(t, (size_t)n * sizeof *tokens);
	for (int i = 0; i < n; i++)
		tokens[i] = (int32_t)(next_random(&t->random) % (unsigned)limit);
	return tokens;
}

static inline int32_t *put_ints(struct op_tester *t, const int32_t *x, int n)
{
	return put_bytes(t, x, (size_t)n * sizeof *x);
}

/* What a gradient held before: added to where `accumulate`, NaN else. */
static inline void *gradient_place(struct op_tester *t, double *want, size_t n, bool accumulate)
{
	enum dtype type = t->k->grad;
	if (!accumulate)
		return place(t, n, type);
	double *before = numbers(t, n, type, 1);
	memcpy(want, before, n * sizeof *want);
	return put(t, before, n, type);
}

#endif
