/*
 * Products through oneDNN's matmul primitives, kept by shape; f32, and bf16 where the processor has it.
 *
 * oneDNN copies a plain weight into the layout its inner loop wants at every call. A weight that is used
 * several times before it changes is laid out so once and kept (`struct packed`), within the bytes that the
 * configuration allows. Where it is used once, and for gradients of weights, one of the two matrices is laid
 * out in passing where that was measured to be faster than oneDNN's own copy (pack_in_passing).
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
	int a_transposed, b_transposed, bias, accumulate;
	int pack_a, pack_b; /* laid out as oneDNN likes */
};

/* From a plain layout to oneDNN's. */
struct reorder {
	dnnl_memory_desc_t layout;
	size_t bytes;
	dnnl_primitive_t primitive;
	dnnl_memory_t from, to;
};

struct primitive {
	struct key key;
	uint64_t used;
	dnnl_primitive_t primitive;
	struct reorder pack_a, pack_b;
	dnnl_memory_t a, b, c, bias;
};

/* A weight in oneDNN's layout. */
struct packed {
	const void *weight;
	int64_t ld;
	int k, n, transposed, type;
	dnnl_memory_desc_t layout;
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
	struct {
		void *block;
		size_t bytes;
	} passing; /* for what is laid out in passing */
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

void gemm_name(char name[GEMM_NAME])
{
	const dnnl_version_t *v = dnnl_version();
	snprintf(name, GEMM_NAME, "oneDNN %d.%d.%d", v->major, v->minor, v->patch);
}

enum status gemm_open(int threads, uint64_t packing, struct gemm **out)
{
	TRY(memory_alloc((void **)out, 1, sizeof **out, "products"));
	struct gemm *gemm = *out;
	gemm->threads = threads;
	gemm->packing = packing;
	gemm->uses = 1;
	gemm->bf16 = cpu_has_bf16();
	DNNL_TRY(dnnl_engine_create(&gemm->engine, dnnl_cpu, 0));
	DNNL_TRY(dnnl_stream_create(&gemm->stream, gemm->engine, dnnl_stream_default_flags));
	return STATUS_OK;
}

static void reorder_close(struct reorder *r)
{
	if (r->primitive)
		dnnl_primitive_destroy(r->primitive);
	if (r->from)
		dnnl_memory_destroy(r->from);
	if (r->to)
		dnnl_memory_destroy(r->to);
}

static void primitive_close(struct primitive *p)
{
	dnnl_memory_t memories[] = {p->a, p->b, p->c, p->bias};
	for (int i = 0; i < 4; i++)
		if (memories[i])
			dnnl_memory_destroy(memories[i]);
	reorder_close(&p->pack_a);
	reorder_close(&p->pack_b);
	if (p->primitive)
		dnnl_primitive_destroy(p->primitive);
	memset(p, 0, sizeof *p);
}

void gemm_close(struct gemm *gemm)
{
	if (!gemm)
		return;
	gemm_forget_weights(gemm);
	memory_free_large(gemm->passing.block, gemm->passing.bytes);
	for (int i = 0; i < PRIMITIVES; i++)
		primitive_close(&gemm->primitives[i]);
	if (gemm->stream)
		dnnl_stream_destroy(gemm->stream);
	if (gemm->engine)
		dnnl_engine_destroy(gemm->engine);
	free(gemm);
}

/* ---- packed weights ---- */

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
	while (gemm->packed_count > 0) {
		struct packed *p = &gemm->packed[--gemm->packed_count];
		memory_free_large(p->block, p->bytes);
	}
	gemm->packed_bytes = 0;
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

static enum status reorder_open(struct gemm *gemm, struct reorder *r, const dnnl_memory_desc_t *plain,
	const dnnl_memory_desc_t *layout)
{
	dnnl_primitive_desc_t made;
	r->layout = *layout;
	r->bytes = dnnl_memory_desc_get_size(layout);
	DNNL_TRY(dnnl_reorder_primitive_desc_create(&made, plain, gemm->engine, layout, gemm->engine, NULL));
	dnnl_status_t status = dnnl_primitive_create(&r->primitive, made);
	dnnl_primitive_desc_destroy(made);
	DNNL_TRY(status);
	DNNL_TRY(dnnl_memory_create(&r->from, plain, gemm->engine, DNNL_MEMORY_NONE));
	DNNL_TRY(dnnl_memory_create(&r->to, layout, gemm->engine, DNNL_MEMORY_NONE));
	return STATUS_OK;
}

static enum status reorder_run(struct gemm *gemm, struct reorder *r, const void *from, void *to)
{
	DNNL_TRY(dnnl_memory_set_data_handle(r->from, (void *)from));
	DNNL_TRY(dnnl_memory_set_data_handle(r->to, to));
	dnnl_exec_arg_t arguments[] = {{DNNL_ARG_FROM, r->from}, {DNNL_ARG_TO, r->to}};
	DNNL_TRY(dnnl_primitive_execute(r->primitive, gemm->stream, 2, arguments));
	DNNL_TRY(dnnl_stream_wait(gemm->stream));
	return STATUS_OK;
}

/* The product's description with the layouts that oneDNN chose where it may. */
static enum status describe(struct gemm *gemm, const struct key *key, const dnnl_memory_desc_t *a,
	const dnnl_memory_desc_t *b, const dnnl_memory_desc_t *c, const dnnl_memory_desc_t *bias,
	dnnl_primitive_desc_t *made)
{
	dnnl_matmul_desc_t desc;
	dnnl_memory_desc_t any_a = key->pack_a ? any_layout(key->m, key->k, key->in) : *a,
			   any_b = key->pack_b ? any_layout(key->k, key->n, key->in) : *b;
	DNNL_TRY(dnnl_matmul_desc_init(&desc, &any_a, &any_b, key->bias ? bias : NULL, c));
	dnnl_primitive_attr_t attributes;
	dnnl_post_ops_t post;
	DNNL_TRY(dnnl_primitive_attr_create(&attributes));
	dnnl_status_t status = dnnl_post_ops_create(&post);
	if (status == dnnl_success) {
		if (key->accumulate)
			status = dnnl_post_ops_append_sum(post, 1.0f);
		if (status == dnnl_success)
			status = dnnl_primitive_attr_set_post_ops(attributes, post);
		dnnl_post_ops_destroy(post);
	}
	if (status == dnnl_success)
		status = dnnl_primitive_desc_create(made, &desc, attributes, gemm->engine, NULL);
	dnnl_primitive_attr_destroy(attributes);
	DNNL_TRY(status);
	return STATUS_OK;
}

static enum status primitive_build(struct gemm *gemm, struct primitive *p, const struct key *key)
{
	dnnl_memory_desc_t a = matrix(key->m, key->k, key->lda, key->a_transposed, key->in),
			   b = matrix(key->k, key->n, key->ldb, key->b_transposed, key->in),
			   c = matrix(key->m, key->n, key->ldc, false, key->out),
			   bias = matrix(1, key->n, key->n, false, key->in), in_a, in_b;
	dnnl_primitive_desc_t made;
	TRY(describe(gemm, key, &a, &b, &c, &bias, &made));
	in_a = *dnnl_primitive_desc_query_md(made, dnnl_query_src_md, 0);
	in_b = *dnnl_primitive_desc_query_md(made, dnnl_query_weights_md, 0);
	dnnl_status_t status = dnnl_primitive_create(&p->primitive, made);
	dnnl_primitive_desc_destroy(made);
	DNNL_TRY(status);
	if (key->pack_a)
		TRY(reorder_open(gemm, &p->pack_a, &a, &in_a));
	if (key->pack_b)
		TRY(reorder_open(gemm, &p->pack_b, &b, &in_b));
	DNNL_TRY(dnnl_memory_create(&p->a, &in_a, gemm->engine, DNNL_MEMORY_NONE));
	DNNL_TRY(dnnl_memory_create(&p->b, &in_b, gemm->engine, DNNL_MEMORY_NONE));
	DNNL_TRY(dnnl_memory_create(&p->c, &c, gemm->engine, DNNL_MEMORY_NONE));
	DNNL_TRY(dnnl_memory_create(&p->bias, &bias, gemm->engine, DNNL_MEMORY_NONE));
	p->key = *key;
	return STATUS_OK;
}

static enum status primitive_open(struct gemm *gemm, struct primitive *p, const struct key *key)
{
	enum status status = primitive_build(gemm, p, key);
	if (status != STATUS_OK)
		primitive_close(p);
	return status;
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

/* A place for a packed copy, NULL where there is no room for one. */
static struct packed *packed_add(struct gemm *gemm, const struct gemm_product *p, const struct reorder *r)
{
	struct packed *x = &gemm->packed[gemm->packed_count];
	if (gemm->packed_count == PACKED || gemm->packed_bytes + r->bytes > gemm->packing)
		return NULL;
	*x = (struct packed){
		p->b, p->ldb, p->k, p->n, p->b_transposed, (int)p->in, r->layout, NULL, r->bytes, true};
	if (memory_alloc_large(&x->block, x->bytes, "packed weights") != STATUS_OK)
		return NULL;
	gemm->packed_count++;
	gemm->packed_bytes += x->bytes;
	return x;
}

/* The up-to-date copy of a weight in a layout; *out NULL where there is no room for one. */
static enum status packed_get(
	struct gemm *gemm, const struct gemm_product *p, struct reorder *r, const void **out)
{
	struct packed *x = packed_find(gemm, p, &r->layout);
	if (!x)
		x = packed_add(gemm, p, r);
	*out = x ? x->block : NULL;
	if (!x || !x->stale)
		return STATUS_OK;
	TRY(reorder_run(gemm, r, p->b, x->block));
	x->stale = false;
	return STATUS_OK;
}

static struct key key_of(const struct gemm_product *p, bool pack_a, bool pack_b)
{
	struct key key;
	memset(&key, 0, sizeof key); /* padding too: keys are compared as bytes */
	key.m = p->m, key.n = p->n, key.k = p->k, key.lda = p->lda, key.ldb = p->ldb, key.ldc = p->ldc;
	key.in = (int)p->in, key.out = (int)p->out, key.a_transposed = p->a_transposed;
	key.b_transposed = p->b_transposed, key.bias = p->bias != NULL, key.accumulate = p->accumulate;
	key.pack_a = pack_a, key.pack_b = pack_b;
	return key;
}

/*
 * What is worth laying out for one use (measured, oneDNN 2.6.3 on Zen 5, CPU time): the smaller matrix of a
 * weight's gradient gains 3-8%, plain bf16 weights gain 5-10%; f32 weights and transposed ones gain nothing.
 */
static void pack_in_passing(const struct gemm_product *p, bool *pack_a, bool *pack_b)
{
	enum { LEAST = 256, MOST_ELEMENTS = 1 << 23 };
	bool large = p->m >= LEAST && p->n >= LEAST && p->k >= LEAST;
	*pack_a = large && !p->weight && p->m < p->n && (int64_t)p->m * p->k <= MOST_ELEMENTS;
	*pack_b = large && !*pack_a && (int64_t)p->k * p->n <= MOST_ELEMENTS &&
		  (!p->weight || (p->in == DTYPE_BF16 && !p->b_transposed));
}

static enum status reorder_in_passing(struct gemm *gemm, struct reorder *r, const void **matrix_inout)
{
	if (r->bytes > gemm->passing.bytes) {
		memory_free_large(gemm->passing.block, gemm->passing.bytes);
		gemm->passing.bytes = 0;
		TRY(memory_alloc_large(&gemm->passing.block, r->bytes, "a packed matrix"));
		gemm->passing.bytes = r->bytes;
	}
	TRY(reorder_run(gemm, r, *matrix_inout, gemm->passing.block));
	*matrix_inout = gemm->passing.block;
	return STATUS_OK;
}

/* The primitive for a product and the matrices to give it. */
static enum status choose(struct gemm *gemm, const struct gemm_product *p, struct primitive **primitive,
	const void **a, const void **b)
{
	*a = p->a, *b = p->b;
	if (p->weight && (gemm->uses > 1 || p->uses > 1) && gemm->packing > 0) {
		struct key key = key_of(p, false, true);
		TRY(primitive_find(gemm, &key, primitive));
		TRY(packed_get(gemm, p, &(*primitive)->pack_b, b));
		if (*b)
			return STATUS_OK;
		*b = p->b;
	}
	bool pack_a, pack_b;
	pack_in_passing(p, &pack_a, &pack_b);
	struct key key = key_of(p, pack_a, pack_b);
	TRY(primitive_find(gemm, &key, primitive));
	if (pack_a)
		TRY(reorder_in_passing(gemm, &(*primitive)->pack_a, a));
	if (pack_b)
		TRY(reorder_in_passing(gemm, &(*primitive)->pack_b, b));
	return STATUS_OK;
}

enum status gemm_engine_run(struct gemm *gemm, const struct gemm_product *p)
{
	struct primitive *found;
	const void *a, *b;
	omp_set_num_threads(gemm->threads); /* of the calling thread's regions; oneDNN asks for it */
	TRY(choose(gemm, p, &found, &a, &b));
	DNNL_TRY(dnnl_memory_set_data_handle(found->a, (void *)a));
	DNNL_TRY(dnnl_memory_set_data_handle(found->b, (void *)b));
	DNNL_TRY(dnnl_memory_set_data_handle(found->c, p->c));
	DNNL_TRY(dnnl_memory_set_data_handle(found->bias, (void *)p->bias));
	dnnl_exec_arg_t arguments[] = {{DNNL_ARG_SRC, found->a}, {DNNL_ARG_WEIGHTS, found->b},
		{DNNL_ARG_DST, found->c}, {DNNL_ARG_BIAS, found->bias}};
	DNNL_TRY(dnnl_primitive_execute(found->primitive, gemm->stream, p->bias ? 4 : 3, arguments));
	DNNL_TRY(dnnl_stream_wait(gemm->stream));
	return STATUS_OK;
}
