/*
 * fenced_kernels.h: the CPU table as if it were a GPU's: for tests of what must not touch device memory, and
 * must not count on copies being done before a wait.
 *
 * memory_alloc's blocks lie in one region that is accessible inside operations and copies only; anybody
 * else's access is a segmentation fault. copy_out's bytes arrive at the next stream_wait; what copy_in was
 * given must not change before it. Both ends of a copy that should be pinned are looked up: fenced_unpinned
 * counts those that are not. Results are the CPU's, bit for bit. One thread a table.
 */
#ifndef TESTS_UNIT_ENGINE_FENCED_KERNELS_H
#define TESTS_UNIT_ENGINE_FENCED_KERNELS_H

#include "kernels/kernels.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { FENCED_BYTES = 64 << 20, FENCED_PENDING = 4096, FENCED_HOST = 64 };

struct fenced_copy {
	void *host, *bytes; /* copy_out: what will arrive; copy_in: what was there */
	size_t count;
	bool in;
};

struct fenced {
	struct kernels inner;
	char *region;
	size_t used;
	int entered;
	struct fenced_copy pending[FENCED_PENDING];
	int pending_count;
	struct {
		char *block;
		size_t bytes;
	} pinned[FENCED_HOST];
};

static _Atomic int fenced_unpinned, fenced_changed, fenced_waits; /* of all threads */

static inline struct kernels *fenced_enter(struct kernels *k)
{
	struct fenced *f = k->self;
	if (f->entered++ == 0 && mprotect(f->region, FENCED_BYTES, PROT_READ | PROT_WRITE))
		abort();
	return &f->inner;
}

static inline void fenced_leave(struct kernels *k)
{
	struct fenced *f = k->self;
	if (--f->entered == 0 && mprotect(f->region, FENCED_BYTES, PROT_NONE))
		abort();
}

static inline void fenced_close(struct kernels *k)
{
	struct fenced *f = k->self;
	f->inner.close(&f->inner);
	munmap(f->region, FENCED_BYTES);
	free(f);
	memset(k, 0, sizeof *k);
}

static inline enum status fenced_reserve(struct kernels *k, const struct kernel_shapes *shapes)
{
	struct fenced *f = k->self;
	return f->inner.reserve(&f->inner, shapes);
}

static inline enum status fenced_memory_alloc(struct kernels *k, void **out, size_t bytes, const char *what)
{
	struct fenced *f = k->self;
	size_t whole = (bytes + 255) / 256 * 256;
	FAIL_IF(whole > FENCED_BYTES - f->used, STATUS_MEMORY, "no fenced memory for %s", what);
	*out = f->region + f->used; /* never given twice, so still zero */
	f->used += whole;
	return STATUS_OK;
}

static inline void fenced_memory_free(struct kernels *k, void *block, size_t bytes)
{
	fenced_enter(k);
	memset(block, 0xff, bytes); /* NaN to whoever goes on using it */
	fenced_leave(k);
}

static inline enum status fenced_host_alloc(struct kernels *k, void **out, size_t bytes, const char *what)
{
	struct fenced *f = k->self;
	TRY(f->inner.host_alloc(&f->inner, out, bytes, what));
	for (int i = 0; i < FENCED_HOST; i++)
		if (!f->pinned[i].block) {
			f->pinned[i].block = *out;
			f->pinned[i].bytes = bytes;
			return STATUS_OK;
		}
	abort();
}

static inline void fenced_host_free(struct kernels *k, void *block, size_t bytes)
{
	struct fenced *f = k->self;
	for (int i = 0; i < FENCED_HOST; i++)
		if (f->pinned[i].block == block)
			f->pinned[i].block = NULL;
	f->inner.host_free(&f->inner, block, bytes);
}

static inline void fenced_look_up(struct fenced *f, const void *host, size_t bytes)
{
	const char *from = host;
	for (int i = 0; i < FENCED_HOST; i++)
		if (f->pinned[i].block && from >= f->pinned[i].block &&
			from + bytes <= f->pinned[i].block + f->pinned[i].bytes)
			return;
	fenced_unpinned++;
}

static inline void fenced_keep(struct fenced *f, const void *host, const void *bytes, size_t count, bool in)
{
	if (f->pending_count == FENCED_PENDING)
		abort();
	struct fenced_copy *c = &f->pending[f->pending_count++];
	*c = (struct fenced_copy){.host = (void *)(uintptr_t)host, .count = count, .in = in};
	c->bytes = malloc(count ? count : 1);
	memcpy(c->bytes, bytes, count);
}

static inline void fenced_settle(struct fenced *f)
{
	for (int i = 0; i < f->pending_count; i++) {
		struct fenced_copy *c = &f->pending[i];
		if (c->in)
			fenced_changed += memcmp(c->host, c->bytes, c->count) != 0;
		else
			memcpy(c->host, c->bytes, c->count);
		free(c->bytes);
	}
	f->pending_count = 0;
}

static inline enum status fenced_stream_wait(struct kernels *k, struct stream *s)
{
	struct fenced *f = k->self;
	fenced_waits++;
	fenced_settle(f);
	return f->inner.stream_wait(&f->inner, s);
}

static inline void fenced_copy_in(
	struct kernels *k, struct stream *s, void *device, const void *host, size_t bytes)
{
	struct fenced *f = k->self;
	fenced_look_up(f, host, bytes);
	fenced_keep(f, host, host, bytes, true);
	struct kernels *inner = fenced_enter(k);
	inner->copy_in(inner, s, device, host, bytes);
	fenced_leave(k);
}

static inline void fenced_copy_out(
	struct kernels *k, struct stream *s, void *host, const void *device, size_t bytes)
{
	struct fenced *f = k->self;
	(void)s;
	fenced_look_up(f, host, bytes);
	fenced_enter(k);
	fenced_keep(f, host, device, bytes, false);
	fenced_leave(k);
}

/* Every operation: the region opened, the CPU's, the region closed. */
#define FENCED(name, parameters, ...)                                                                        \
	static inline void fenced_##name parameters                                                          \
	{                                                                                                    \
		struct kernels *inner = fenced_enter(k);                                                     \
		inner->name(inner, __VA_ARGS__);                                                             \
		fenced_leave(k);                                                                             \
	}

FENCED(copy, (struct kernels * k, struct stream *s, void *to, const void *from, size_t bytes), s, to, from,
	bytes)
FENCED(zero, (struct kernels * k, struct stream *s, void *block, size_t bytes), s, block, bytes)
FENCED(convert,
	(struct kernels * k, struct stream *s, void *to, enum dtype to_type, const void *from,
		enum dtype from_type, uint64_t count),
	s, to, to_type, from, from_type, count)
FENCED(scatter,
	(struct kernels * k, struct stream *s, void *to, const void *from, const uint32_t *pieces,
		uint64_t count, uint32_t first, uint32_t room, enum dtype type),
	s, to, from, pieces, count, first, room, type)
FENCED(gather,
	(struct kernels * k, struct stream *s, void *to, const void *from, const uint32_t *pieces,
		uint64_t count, uint32_t first, uint32_t room, enum dtype type),
	s, to, from, pieces, count, first, room, type)
FENCED(embedding_forward,
	(struct kernels * k, struct stream *s, void *out, const int32_t *tokens, const int32_t *positions,
		const void *wte, const void *wpe, int B, int T, int C, const struct dropout *drop),
	s, out, tokens, positions, wte, wpe, B, T, C, drop)
FENCED(embedding_backward,
	(struct kernels * k, struct stream *s, void *dwte, void *dwpe, const void *dout,
		const int32_t *tokens, const int32_t *positions, int B, int T, int C, int P,
		const struct dropout *drop, bool accumulate),
	s, dwte, dwpe, dout, tokens, positions, B, T, C, P, drop, accumulate)
FENCED(layernorm_forward,
	(struct kernels * k, struct stream *s, void *out, void *residual_out, float *mean, float *rstd,
		const void *residual_in, const void *branch, const void *gamma, const void *beta, int B,
		int T, int C, float eps, const struct dropout *drop),
	s, out, residual_out, mean, rstd, residual_in, branch, gamma, beta, B, T, C, eps, drop)
FENCED(layernorm_backward,
	(struct kernels * k, struct stream *s, void *dresidual, const void *dresidual_in, void *dbranch,
		void *dgamma, void *dbeta, const void *dout, const void *x, const void *gamma,
		const float *mean, const float *rstd, int B, int T, int C, const struct dropout *drop,
		bool accumulate),
	s, dresidual, dresidual_in, dbranch, dgamma, dbeta, dout, x, gamma, mean, rstd, B, T, C, drop,
	accumulate)
FENCED(dropout_apply,
	(struct kernels * k, struct stream *s, void *out, const void *in, int B, int T, int C,
		const struct dropout *drop),
	s, out, in, B, T, C, drop)
FENCED(linear_forward,
	(struct kernels * k, struct stream *s, void *out, void *pre, const void *in, const void *w,
		const void *bias, int R, int K, int N),
	s, out, pre, in, w, bias, R, K, N)
FENCED(linear_backward,
	(struct kernels * k, struct stream *s, void *din, void *dw, void *dbias, const void *dout,
		const void *in, const void *w, const void *pre, int R, int K, int N, bool accumulate),
	s, din, dw, dbias, dout, in, w, pre, R, K, N, accumulate)
FENCED(gelu_forward, (struct kernels * k, struct stream *s, void *out, const void *pre, uint64_t count), s,
	out, pre, count)
FENCED(attention_forward,
	(struct kernels * k, struct stream *s, void *out, float *lse, const void *qkv, const int32_t *first,
		int B, int T, int H, int D, const struct dropout *drop),
	s, out, lse, qkv, first, B, T, H, D, drop)
FENCED(attention_backward,
	(struct kernels * k, struct stream *s, void *dqkv, const void *dout, const void *out,
		const float *lse, const void *qkv, const int32_t *first, int B, int T, int H, int D,
		const struct dropout *drop),
	s, dqkv, dout, out, lse, qkv, first, B, T, H, D, drop)
FENCED(attention_decode,
	(struct kernels * k, struct stream *s, void *out, void *key_cache, void *value_cache, const void *qkv,
		int position, int B, int P, int H, int D),
	s, out, key_cache, value_cache, qkv, position, B, P, H, D)
FENCED(classifier,
	(struct kernels * k, struct stream *s, float *loss, void *dx, void *dwte, const void *x,
		const void *wte, const int32_t *targets, int R, int C, int V, int VP, float scale,
		bool accumulate),
	s, loss, dx, dwte, x, wte, targets, R, C, V, VP, scale, accumulate)
FENCED(logits,
	(struct kernels * k, struct stream *s, float *out, const void *x, const void *wte, int R, int C,
		int V, int VP),
	s, out, x, wte, R, C, V, VP)
FENCED(gradient_stats,
	(struct kernels * k, struct stream *s, struct gradient_stats *stats, const void *grad,
		uint64_t count),
	s, stats, grad, count)
FENCED(adamw,
	(struct kernels * k, struct stream *s, const struct adamw *args, float *p_out, float *m_out,
		float *v_out, void *work, const float *p, const float *m, const float *v, const void *grad,
		uint64_t count),
	s, args, p_out, m_out, v_out, work, p, m, v, grad, count)

static inline void fenced_weights_changed(struct kernels *k)
{
	struct fenced *f = k->self;
	f->inner.weights_changed(&f->inner);
}

/* The signature of trainer_config.open_device. The rest of the table (events, streams) is the CPU's, which
 * does not look at its state there. */
static inline enum status fenced_open(const struct kernels_config *config, struct kernels *out)
{
	struct fenced *f = calloc(1, sizeof *f);
	if (!f)
		abort();
	TRY(kernels_open_cpu(config, &f->inner));
	f->region = mmap(NULL, FENCED_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (f->region == MAP_FAILED)
		abort();
	*out = f->inner;
	out->self = f;
	out->close = fenced_close;
	out->reserve = fenced_reserve;
	out->memory_alloc = fenced_memory_alloc;
	out->memory_free = fenced_memory_free;
	out->host_alloc = fenced_host_alloc;
	out->host_free = fenced_host_free;
	out->stream_wait = fenced_stream_wait;
	out->copy_in = fenced_copy_in;
	out->copy_out = fenced_copy_out;
#define FENCED_FILL(name) out->name = fenced_##name;
	FENCED_FILL(copy)
	FENCED_FILL(zero)
	FENCED_FILL(convert)
	FENCED_FILL(gather)
	FENCED_FILL(scatter)
	FENCED_FILL(embedding_forward)
	FENCED_FILL(embedding_backward)
	FENCED_FILL(layernorm_forward)
	FENCED_FILL(layernorm_backward)
	FENCED_FILL(dropout_apply)
	FENCED_FILL(linear_forward)
	FENCED_FILL(linear_backward)
	FENCED_FILL(gelu_forward)
	FENCED_FILL(attention_forward)
	FENCED_FILL(attention_backward)
	FENCED_FILL(attention_decode)
	FENCED_FILL(classifier)
	FENCED_FILL(logits)
	FENCED_FILL(gradient_stats)
	FENCED_FILL(adamw)
	FENCED_FILL(weights_changed)
	return STATUS_OK;
}

#endif
