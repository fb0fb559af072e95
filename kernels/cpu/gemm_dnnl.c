/*
 * Products through oneDNN's matmul primitives, kept by shape; f32, and bf16 where the processor has it.
 *
 * oneDNN copies a plain weight into the layout its inner loop wants at every call. A weight that is used
 * several times before it changes is laid out so once and kept (`struct packed`), within the bytes that the
 * configuration allows.
 */
#include "common/memory.h"
#include "kernels/cpu/gemm.h"

#include <dnnl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PRIMITIVES = 128, PACKED = 1024 };

struct key {
	int m, n, k;
	int64_t lda, ldb, ldc;
	int in, out;
	int a_transposed, b_transposed, bias, accumulate, packed;
};

struct primitive {
	struct key key;
	uint64_t used;
	dnnl_primitive_t primitive;
	dnnl_memory_desc_t weights; /* the layout it wants */
	dnnl_memory_t a, b, c, bias;
};

/* A weight in oneDNN's layout. */
struct packed {
	const void *weight;
	int k, n, transposed, type;
	int64_t ld;
	dnnl_memory_desc_t layout;
	dnnl_memory_t from, to;
	dnnl_primitive_t reorder;
	void *block;
	size_t bytes;
	bool stale;
};

struct gemm {
	int threads, uses;
	bool bf16;
	uint64_t packing, packed_bytes; /* allowed, held */
	int packed_count;
	struct packed packed[PACKED];
	uint64_t clock;
	dnnl_engine_t engine;
	dnnl_stream_t stream;
	struct primitive primitives[PRIMITIVES];
};

#define DNNL_TRY(call)                                                                                       \
	do {                                                                                                 \
		dnnl_status_t dnnl_status_ = (call);                                                         \
		if (dnnl_status_ != dnnl_success)                                                            \
			return error_set(                                                                    \
				dnnl_status_ == dnnl_out_of_memory ? STATUS_MEMORY : STATUS_UNSUPPORTED,     \
				"oneDNN: %s gave status %d", #call, (int)dnnl_status_);                      \
	} while (0)

const char *gemm_name(void)
{
	static char name[32];
	const dnnl_version_t *v = dnnl_version();
	snprintf(name, sizeof name, "oneDNN %d.%d.%d", v->major, v->minor, v->patch);
	return name;
}

static bool processor_has_bf16(void)
{
#ifdef __x86_64__
	return simd_isa_get() == SIMD_AVX512 && __builtin_cpu_supports("avx512bf16");
#else
	return false;
#endif
}

enum status gemm_open(int threads, uint64_t packing, struct gemm **out)
{
	TRY(memory_alloc((void **)out, 1, sizeof **out, "products"));
	struct gemm *gemm = *out;
	gemm->threads = threads;
	gemm->packing = packing;
	gemm->uses = 1;
	gemm->bf16 = processor_has_bf16();
	DNNL_TRY(dnnl_engine_create(&gemm->engine, dnnl_cpu, 0));
	DNNL_TRY(dnnl_stream_create(&gemm->stream, gemm->engine, dnnl_stream_default_flags));
	return STATUS_OK;
}

static void primitive_close(struct primitive *p)
{
	dnnl_memory_t memories[] = {p->a, p->b, p->c, p->bias};
	for (int i = 0; i < 4; i++)
		if (memories[i])
			dnnl_memory_destroy(memories[i]);
	if (p->primitive)
		dnnl_primitive_destroy(p->primitive);
	memset(p, 0, sizeof *p);
}

void gemm_close(struct gemm *gemm)
{
	if (!gemm)
		return;
	gemm_forget_weights(gemm);
	for (int i = 0; i < PRIMITIVES; i++)
		primitive_close(&gemm->primitives[i]);
	if (gemm->stream)
		dnnl_stream_destroy(gemm->stream);
	if (gemm->engine)
		dnnl_engine_destroy(gemm->engine);
	free(gemm);
}

/* ---- packed weights ---- */

static void packed_close(struct packed *p)
{
	if (p->reorder)
		dnnl_primitive_destroy(p->reorder);
	if (p->from)
		dnnl_memory_destroy(p->from);
	if (p->to)
		dnnl_memory_destroy(p->to);
	memory_free_large(p->block, p->bytes);
	memset(p, 0, sizeof *p);
}

void gemm_expect_uses(struct gemm *gemm, int uses)
{
	gemm->uses = uses;
	if (uses <= 1)
		gemm_forget_weights(gemm);
}

void gemm_weights_changed(struct gemm *gemm)
{
	for (int i = 0; i < gemm->packed_count; i++)
		gemm->packed[i].stale = true;
}

void gemm_forget_weights(struct gemm *gemm)
{
	while (gemm->packed_count > 0)
		packed_close(&gemm->packed[--gemm->packed_count]);
	gemm->packed_bytes = 0;
}

uint64_t gemm_packed_bytes(const struct gemm *gemm)
{
	return gemm->packed_bytes;
}

bool gemm_engine_takes(const struct gemm *gemm, enum dtype in, enum dtype out)
{
	if (in == DTYPE_BF16 && gemm->bf16)
		return out != DTYPE_F16;
	return in == DTYPE_F32 && out == DTYPE_F32;
}

static dnnl_data_type_t data_type(int type)
{
	return type == DTYPE_F32 ? dnnl_f32 : dnnl_bf16;
}

static dnnl_memory_desc_t matrix(int rows, int columns, int64_t ld, bool transposed, int type)
{
	dnnl_memory_desc_t desc;
	dnnl_dims_t dims = {rows, columns}, strides = {transposed ? 1 : ld, transposed ? ld : 1};
	dnnl_memory_desc_init_by_strides(&desc, 2, dims, data_type(type), strides);
	return desc;
}

static dnnl_memory_desc_t any_layout(int rows, int columns, int type)
{
	dnnl_memory_desc_t desc;
	dnnl_dims_t dims = {rows, columns};
	dnnl_memory_desc_init_by_tag(&desc, 2, dims, data_type(type), dnnl_format_tag_any);
	return desc;
}

static enum status primitive_open(struct gemm *gemm, struct primitive *p, const struct key *key)
{
	dnnl_memory_desc_t a = matrix(key->m, key->k, key->lda, key->a_transposed, key->in),
			   b = key->packed ? any_layout(key->k, key->n, key->in)
					   : matrix(key->k, key->n, key->ldb, key->b_transposed, key->in),
			   c = matrix(key->m, key->n, key->ldc, false, key->out),
			   bias = matrix(1, key->n, key->n, false, key->in);
	dnnl_matmul_desc_t desc;
	DNNL_TRY(dnnl_matmul_desc_init(&desc, &a, &b, key->bias ? &bias : NULL, &c));
	dnnl_primitive_attr_t attributes;
	dnnl_post_ops_t post;
	DNNL_TRY(dnnl_primitive_attr_create(&attributes));
	DNNL_TRY(dnnl_post_ops_create(&post));
	if (key->accumulate)
		DNNL_TRY(dnnl_post_ops_append_sum(post, 1.0f));
	DNNL_TRY(dnnl_primitive_attr_set_post_ops(attributes, post));
	dnnl_primitive_desc_t made;
	DNNL_TRY(dnnl_primitive_desc_create(&made, &desc, attributes, gemm->engine, NULL));
	DNNL_TRY(dnnl_primitive_create(&p->primitive, made));
	b = *dnnl_primitive_desc_query_md(made, dnnl_query_weights_md, 0);
	p->weights = b;
	dnnl_primitive_desc_destroy(made);
	dnnl_post_ops_destroy(post);
	dnnl_primitive_attr_destroy(attributes);
	DNNL_TRY(dnnl_memory_create(&p->a, &a, gemm->engine, DNNL_MEMORY_NONE));
	DNNL_TRY(dnnl_memory_create(&p->b, &b, gemm->engine, DNNL_MEMORY_NONE));
	DNNL_TRY(dnnl_memory_create(&p->c, &c, gemm->engine, DNNL_MEMORY_NONE));
	DNNL_TRY(dnnl_memory_create(&p->bias, &bias, gemm->engine, DNNL_MEMORY_NONE));
	p->key = *key;
	return STATUS_OK;
}

/* The kept primitive of this shape, or a new one in the place of the longest unused. */
static enum status primitive_find(struct gemm *gemm, const struct key *key, struct primitive **out)
{
	struct primitive *oldest = &gemm->primitives[0];
	for (int i = 0; i < PRIMITIVES; i++) {
		struct primitive *p = &gemm->primitives[i];
		if (p->primitive && memcmp(&p->key, key, sizeof *key) == 0) {
			p->used = ++gemm->clock;
			*out = p;
			return STATUS_OK;
		}
		if (p->used < oldest->used)
			oldest = p;
	}
	primitive_close(oldest);
	TRY(primitive_open(gemm, oldest, key));
	oldest->used = ++gemm->clock;
	*out = oldest;
	return STATUS_OK;
}

static enum status packed_open(
	struct gemm *gemm, struct packed *x, const struct gemm_product *p, const dnnl_memory_desc_t *layout)
{
	x->weight = p->b, x->k = p->k, x->n = p->n, x->transposed = p->b_transposed, x->type = (int)p->in;
	x->ld = p->ldb, x->layout = *layout, x->bytes = dnnl_memory_desc_get_size(layout), x->stale = true;
	dnnl_memory_desc_t plain = matrix(x->k, x->n, x->ld, x->transposed, x->type);
	dnnl_primitive_desc_t made;
	TRY(memory_alloc_large(&x->block, x->bytes, "packed weights"));
	DNNL_TRY(dnnl_reorder_primitive_desc_create(&made, &plain, gemm->engine, layout, gemm->engine, NULL));
	dnnl_status_t status = dnnl_primitive_create(&x->reorder, made);
	dnnl_primitive_desc_destroy(made);
	DNNL_TRY(status);
	DNNL_TRY(dnnl_memory_create(&x->from, &plain, gemm->engine, (void *)p->b));
	DNNL_TRY(dnnl_memory_create(&x->to, layout, gemm->engine, x->block));
	return STATUS_OK;
}

static struct packed *packed_find(
	struct gemm *gemm, const struct gemm_product *p, const dnnl_memory_desc_t *layout)
{
	for (int i = 0; i < gemm->packed_count; i++) {
		struct packed *x = &gemm->packed[i];
		if (x->weight == p->b && x->k == p->k && x->n == p->n && x->transposed == p->b_transposed &&
			x->ld == p->ldb && x->type == (int)p->in &&
			dnnl_memory_desc_equal(&x->layout, layout))
			return x;
	}
	return NULL;
}

/* The up-to-date copy of a weight in a layout; *out NULL where there is no room for one. */
static enum status packed_get(
	struct gemm *gemm, const struct gemm_product *p, const dnnl_memory_desc_t *layout, const void **out)
{
	struct packed *x = packed_find(gemm, p, layout);
	*out = NULL;
	if (!x) {
		size_t bytes = dnnl_memory_desc_get_size(layout);
		if (gemm->packed_count == PACKED || gemm->packed_bytes + bytes > gemm->packing)
			return STATUS_OK;
		x = &gemm->packed[gemm->packed_count];
		enum status status = packed_open(gemm, x, p, layout);
		if (status != STATUS_OK) {
			packed_close(x);
			return status == STATUS_MEMORY ? STATUS_OK : status; /* it goes without */
		}
		gemm->packed_count++;
		gemm->packed_bytes += bytes;
	}
	if (x->stale) {
		dnnl_exec_arg_t arguments[] = {{DNNL_ARG_FROM, x->from}, {DNNL_ARG_TO, x->to}};
		DNNL_TRY(dnnl_primitive_execute(x->reorder, gemm->stream, 2, arguments));
		DNNL_TRY(dnnl_stream_wait(gemm->stream));
		x->stale = false;
	}
	*out = x->block;
	return STATUS_OK;
}

static struct key key_of(const struct gemm_product *p, bool packed)
{
	struct key key;
	memset(&key, 0, sizeof key); /* padding too: keys are compared as bytes */
	key.m = p->m, key.n = p->n, key.k = p->k, key.lda = p->lda, key.ldb = p->ldb, key.ldc = p->ldc;
	key.in = (int)p->in, key.out = (int)p->out, key.a_transposed = p->a_transposed;
	key.b_transposed = p->b_transposed, key.bias = p->bias != NULL, key.accumulate = p->accumulate;
	key.packed = packed;
	return key;
}

/* The primitive for a product and the weights to give it: a packed copy where that pays and there is room. */
static enum status choose(
	struct gemm *gemm, const struct gemm_product *p, struct primitive **primitive, const void **weights)
{
	if (p->weight && gemm->uses > 1 && gemm->packing > 0) {
		struct key key = key_of(p, true);
		TRY(primitive_find(gemm, &key, primitive));
		TRY(packed_get(gemm, p, &(*primitive)->weights, weights));
		if (*weights)
			return STATUS_OK;
	}
	struct key key = key_of(p, false);
	*weights = p->b;
	return primitive_find(gemm, &key, primitive);
}

enum status gemm_engine_run(struct gemm *gemm, const struct gemm_product *product)
{
	const struct gemm_product *p = product;
	struct primitive *found;
	const void *weights;
	omp_set_num_threads(gemm->threads); /* of the calling thread's regions; oneDNN asks for it */
	TRY(choose(gemm, p, &found, &weights));
	DNNL_TRY(dnnl_memory_set_data_handle(found->a, (void *)p->a));
	DNNL_TRY(dnnl_memory_set_data_handle(found->b, (void *)weights));
	DNNL_TRY(dnnl_memory_set_data_handle(found->c, p->c));
	DNNL_TRY(dnnl_memory_set_data_handle(found->bias, (void *)p->bias));
	dnnl_exec_arg_t arguments[] = {{DNNL_ARG_SRC, found->a}, {DNNL_ARG_WEIGHTS, found->b},
		{DNNL_ARG_DST, found->c}, {DNNL_ARG_BIAS, found->bias}};
	DNNL_TRY(dnnl_primitive_execute(found->primitive, gemm->stream, p->bias ? 4 : 3, arguments));
	DNNL_TRY(dnnl_stream_wait(gemm->stream));
	return STATUS_OK;
}
