/*
 * stream_kernels.h: the CPU table as a device with real streams: for tests of what must order its work by
 * events. Each stream is a thread with a queue, and has a CPU table of its own for scratch; every operation,
 * copy and event goes through the queue. So an event that is missing is a race, which the thread sanitizer
 * sees and which random delays (streamed_jitter) bring to light without it.
 *
 * Asynchronous copies whose host end is not from host_alloc are counted in streamed_unpinned and not done.
 * streamed_failing = n: after n more operations one fails (its stream's next wait says so; events go on).
 * streamed_device, streamed_host: bytes of each that are out; streamed_most, streamed_host_most: the most that these were.
 * Device memory is filled with NaN when it is freed. Results are the CPU's, bit for bit. The default stream
 * is a thread too. Events: waiting for one that was never recorded returns at once, as CUDA's do.
 */
#ifndef TESTS_UNIT_ENGINE_STREAM_KERNELS_H
#define TESTS_UNIT_ENGINE_STREAM_KERNELS_H

#include "common/clock.h"
#include "kernels/kernels.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { STREAMED_ROOM = 1 << 14, STREAMED_ARGUMENTS = 192, STREAMED_HOST = 64 };

static atomic_int streamed_unpinned;
static _Atomic uint64_t streamed_device, streamed_host, streamed_most, streamed_host_most;
static atomic_int streamed_failing = -1; /* operations until one fails; -1: none does */
static atomic_int streamed_jitter; /* a stream sleeps up to so many microseconds before some operations */

/*
 * What orders two threads here is what would on a device, and no more, or the thread sanitizer would take a
 * missing event for granted: an operation comes after what its caller did before (a semaphore, posted by the
 * caller alone), and the caller or another stream after it only through an event.
 */
struct event {
	pthread_mutex_t counting, mutex; /* of the two numbers */
	pthread_cond_t reached;
	uint64_t recorded, done; /* how often event_record was called; the latest of those that was reached */
	double at;               /* when it was */
};

struct streamed_task {
	void (*run)(struct stream *s, void *arguments);
	_Alignas(16) unsigned char arguments[STREAMED_ARGUMENTS];
};

struct stream {
	struct kernels inner;
	pthread_t thread;
	pthread_mutex_t putting;
	sem_t waiting; /* tasks */
	struct streamed_task *_Atomic queue[STREAMED_ROOM];
	uint64_t tail; /* of those who put */
	uint64_t random;
	struct event *idle; /* stream_wait's */
	struct error_copy failure;
};

struct streamed {
	struct kernels_config config;
	struct stream *first; /* the default stream */
	pthread_mutex_t mutex;
	struct {
		char *block;
		size_t bytes;
	} pinned[STREAMED_HOST];
};

static inline struct streamed *streamed_of(struct kernels *k)
{
	return k->self;
}

static inline struct stream *streamed_stream(struct kernels *k, struct stream *s)
{
	return s ? s : streamed_of(k)->first;
}

/* ---- streams ---- */

static inline void streamed_dawdle(struct stream *s)
{
	s->random = s->random * 6364136223846793005u + 1442695040888963407u;
	if (!streamed_jitter || s->random >> 62)
		return;
	struct timespec pause = {0, (long)(s->random >> 33) % streamed_jitter * 1000};
	nanosleep(&pause, NULL);
}

static inline void *streamed_serve(void *argument)
{
	struct stream *s = argument;
	for (uint64_t head = 0;; head++) {
		while (sem_wait(&s->waiting))
			;
		struct streamed_task *task =
			atomic_exchange_explicit(&s->queue[head % STREAMED_ROOM], NULL, memory_order_relaxed);
		if (!task->run) {
			free(task);
			return NULL;
		}
		streamed_dawdle(s);
		task->run(s, task->arguments);
		free(task);
	}
}

/* `run` NULL: the stream ends. */
static inline void streamed_put(struct kernels *k, struct stream *s,
	void (*run)(struct stream *s, void *arguments), const void *arguments, size_t bytes)
{
	s = streamed_stream(k, s);
	struct streamed_task *task = malloc(sizeof *task);
	if (!task || bytes > STREAMED_ARGUMENTS)
		abort();
	task->run = run;
	if (bytes)
		memcpy(task->arguments, arguments, bytes);
	pthread_mutex_lock(&s->putting);
	if (atomic_exchange_explicit(&s->queue[s->tail++ % STREAMED_ROOM], task, memory_order_relaxed))
		abort(); /* more than STREAMED_ROOM operations are queued */
	sem_post(&s->waiting);
	pthread_mutex_unlock(&s->putting);
}

/* Counts an operation down; true: it is the one that fails. */
static inline bool streamed_refuses(struct stream *s)
{
	if (atomic_load(&streamed_failing) < 0 || atomic_fetch_sub(&streamed_failing, 1) != 0)
		return false;
	error_save(error_set(STATUS_IO, "a kernel failed"), &s->failure);
	return true;
}

/* ---- events ---- */

static inline enum status streamed_event_open(struct kernels *k, struct event **out)
{
	(void)k;
	struct event *e = calloc(1, sizeof *e);
	if (!e)
		abort();
	pthread_mutex_init(&e->counting, NULL);
	pthread_mutex_init(&e->mutex, NULL);
	pthread_cond_init(&e->reached, NULL);
	*out = e;
	return STATUS_OK;
}

static inline void streamed_event_close(struct kernels *k, struct event *e)
{
	(void)k;
	if (!e)
		return;
	pthread_cond_destroy(&e->reached);
	pthread_mutex_destroy(&e->mutex);
	pthread_mutex_destroy(&e->counting);
	free(e);
}

struct streamed_mark {
	struct event *event;
	uint64_t number;
};

static inline void streamed_run_record(struct stream *s, void *arguments)
{
	struct streamed_mark *m = arguments;
	(void)s;
	pthread_mutex_lock(&m->event->mutex);
	if (m->event->done < m->number)
		m->event->done = m->number;
	m->event->at = clock_seconds();
	pthread_cond_broadcast(&m->event->reached);
	pthread_mutex_unlock(&m->event->mutex);
}

static inline void streamed_wait_mark(const struct streamed_mark *m)
{
	pthread_mutex_lock(&m->event->mutex);
	while (m->event->done < m->number)
		pthread_cond_wait(&m->event->reached, &m->event->mutex);
	pthread_mutex_unlock(&m->event->mutex);
}

static inline void streamed_run_await(struct stream *s, void *arguments)
{
	(void)s;
	streamed_wait_mark(arguments);
}

/* The record that an await now waits for. */
static inline struct streamed_mark streamed_mark_of(struct event *e)
{
	pthread_mutex_lock(&e->counting);
	struct streamed_mark m = {e, e->recorded};
	pthread_mutex_unlock(&e->counting);
	return m;
}

static inline void streamed_event_record(struct kernels *k, struct event *e, struct stream *s)
{
	pthread_mutex_lock(&e->counting);
	struct streamed_mark m = {e, ++e->recorded};
	pthread_mutex_unlock(&e->counting);
	streamed_put(k, s, streamed_run_record, &m, sizeof m);
}

static inline void streamed_event_await(struct kernels *k, struct event *e, struct stream *s)
{
	struct streamed_mark m = streamed_mark_of(e);
	streamed_put(k, s, streamed_run_await, &m, sizeof m);
}

static inline enum status streamed_event_wait(struct kernels *k, struct event *e)
{
	(void)k;
	struct streamed_mark m = streamed_mark_of(e);
	streamed_wait_mark(&m);
	return STATUS_OK;
}

static inline double streamed_event_seconds(struct kernels *k, struct event *from, struct event *to)
{
	double seconds[2];
	struct event *both[2] = {from, to};
	(void)k;
	for (int i = 0; i < 2; i++) {
		pthread_mutex_lock(&both[i]->mutex);
		seconds[i] = both[i]->at;
		pthread_mutex_unlock(&both[i]->mutex);
	}
	return seconds[1] - seconds[0];
}

/* ---- streams' life ---- */

static inline enum status streamed_stream_open(struct kernels *k, struct stream **out)
{
	struct stream *s = calloc(1, sizeof *s);
	*out = NULL;
	if (!s)
		abort();
	enum status status = kernels_open_cpu(&streamed_of(k)->config, &s->inner);
	if (status != STATUS_OK) {
		free(s);
		return status;
	}
	s->random = (uint64_t)(uintptr_t)s;
	pthread_mutex_init(&s->putting, NULL);
	sem_init(&s->waiting, 0, 0);
	TRY(streamed_event_open(k, &s->idle));
	if (pthread_create(&s->thread, NULL, streamed_serve, s))
		abort();
	*out = s;
	return STATUS_OK;
}

static inline void streamed_stream_close(struct kernels *k, struct stream *s)
{
	streamed_put(k, s, NULL, NULL, 0);
	pthread_join(s->thread, NULL);
	s->inner.close(&s->inner);
	streamed_event_close(k, s->idle);
	sem_destroy(&s->waiting);
	pthread_mutex_destroy(&s->putting);
	free(s);
}

static inline enum status streamed_stream_wait(struct kernels *k, struct stream *s)
{
	s = streamed_stream(k, s);
	streamed_event_record(k, s->idle, s);
	TRY(streamed_event_wait(k, s->idle));
	struct error_copy failure = s->failure;
	s->failure.status = STATUS_OK;
	if (failure.status != STATUS_OK)
		return error_restore(&failure);
	return s->inner.stream_wait(&s->inner, NULL);
}

/* ---- memory ---- */

static inline enum status streamed_take(struct kernels *k, void **out, size_t bytes, const char *what)
{
	struct kernels *inner = &streamed_of(k)->first->inner;
	return inner->memory_alloc(inner, out, bytes, what);
}

static inline void streamed_give(struct kernels *k, void *block, size_t bytes)
{
	struct kernels *inner = &streamed_of(k)->first->inner;
	memset(block, 0xff, bytes);
	inner->memory_free(inner, block, bytes);
}

/* Counts bytes that are taken. */
static inline void streamed_count(_Atomic uint64_t *out, _Atomic uint64_t *most, size_t bytes)
{
	uint64_t now = atomic_fetch_add(out, bytes) + bytes, before = atomic_load(most);
	while (now > before && !atomic_compare_exchange_weak(most, &before, now))
		;
}

static inline enum status streamed_memory_alloc(struct kernels *k, void **out, size_t bytes, const char *what)
{
	TRY(streamed_take(k, out, bytes, what));
	streamed_count(&streamed_device, &streamed_most, bytes);
	return STATUS_OK;
}

static inline void streamed_memory_free(struct kernels *k, void *block, size_t bytes)
{
	if (!block)
		return;
	atomic_fetch_sub(&streamed_device, bytes);
	streamed_give(k, block, bytes);
}

static inline enum status streamed_host_alloc(struct kernels *k, void **out, size_t bytes, const char *what)
{
	struct streamed *f = streamed_of(k);
	TRY(streamed_take(k, out, bytes, what));
	streamed_count(&streamed_host, &streamed_host_most, bytes);
	pthread_mutex_lock(&f->mutex);
	int i = 0;
	while (i < STREAMED_HOST && f->pinned[i].block)
		i++;
	if (i == STREAMED_HOST)
		abort();
	f->pinned[i].block = *out;
	f->pinned[i].bytes = bytes;
	pthread_mutex_unlock(&f->mutex);
	return STATUS_OK;
}

static inline void streamed_host_free(struct kernels *k, void *block, size_t bytes)
{
	struct streamed *f = streamed_of(k);
	pthread_mutex_lock(&f->mutex);
	for (int i = 0; i < STREAMED_HOST; i++)
		if (f->pinned[i].block == block)
			f->pinned[i].block = NULL;
	pthread_mutex_unlock(&f->mutex);
	atomic_fetch_sub(&streamed_host, bytes);
	streamed_give(k, block, bytes);
}

static inline bool streamed_is_pinned(struct kernels *k, const void *host, size_t bytes)
{
	struct streamed *f = streamed_of(k);
	const char *from = host;
	bool found = false;
	pthread_mutex_lock(&f->mutex);
	for (int i = 0; i < STREAMED_HOST; i++)
		found |= f->pinned[i].block && from >= f->pinned[i].block &&
			 from + bytes <= f->pinned[i].block + f->pinned[i].bytes;
	pthread_mutex_unlock(&f->mutex);
	if (!found)
		atomic_fetch_add(&streamed_unpinned, 1);
	return found;
}

/* ---- operations: their arguments are kept (what pointers to small structs point to as well) ---- */

#define STREAMED(name, parameters, fields, keep, ...)                                                        \
	struct streamed_##name fields;                                                                       \
	static inline void streamed_run_##name(struct stream *s, void *arguments)                            \
	{                                                                                                    \
		struct streamed_##name *a = arguments;                                                       \
		struct kernels *inner = &s->inner;                                                           \
		if (!streamed_refuses(s))                                                                    \
			inner->name(inner, NULL, __VA_ARGS__);                                               \
	}                                                                                                    \
	static inline void streamed_##name parameters                                                        \
	{                                                                                                    \
		struct streamed_##name a = keep;                                                             \
		streamed_put(k, s, streamed_run_##name, &a, sizeof a);                                       \
	}
#define BRACES(...)                                                                                          \
	{                                                                                                    \
		__VA_ARGS__                                                                                  \
	}

struct streamed_move {
	void *to;
	const void *from;
	size_t bytes;
};
static inline void streamed_run_move(struct stream *s, void *arguments)
{
	struct streamed_move *m = arguments;
	if (!streamed_refuses(s))
		memcpy(m->to, m->from, m->bytes);
}
static inline void streamed_copy(
	struct kernels *k, struct stream *s, void *to, const void *from, size_t bytes)
{
	struct streamed_move m = {to, from, bytes};
	streamed_put(k, s, streamed_run_move, &m, sizeof m);
}
static inline void streamed_copy_in(
	struct kernels *k, struct stream *s, void *device, const void *host, size_t bytes)
{
	if (streamed_is_pinned(k, host, bytes))
		streamed_copy(k, s, device, host, bytes);
}
static inline void streamed_copy_out(
	struct kernels *k, struct stream *s, void *host, const void *device, size_t bytes)
{
	if (streamed_is_pinned(k, host, bytes))
		streamed_copy(k, s, host, device, bytes);
}

/* clang-format off */
STREAMED(zero,
	(struct kernels *k, struct stream *s, void *block, size_t bytes),
	BRACES(void *block; size_t bytes;),
	BRACES(block, bytes),
	a->block, a->bytes)
STREAMED(convert,
	(struct kernels *k, struct stream *s, void *to, enum dtype to_type, const void *from, enum dtype
		from_type, uint64_t count),
	BRACES(void *to; enum dtype to_type; const void *from; enum dtype from_type; uint64_t count;),
	BRACES(to, to_type, from, from_type, count),
	a->to, a->to_type, a->from, a->from_type, a->count)
STREAMED(scatter,
	(struct kernels *k, struct stream *s, void *to, const void *from, const uint32_t *pieces, uint64_t
		count, uint32_t first, uint32_t room, enum dtype type),
	BRACES(void *to; const void *from; const uint32_t *pieces; uint64_t count; uint32_t first, room;
		enum dtype type;),
	BRACES(to, from, pieces, count, first, room, type),
	a->to, a->from, a->pieces, a->count, a->first, a->room, a->type)
STREAMED(gather,
	(struct kernels *k, struct stream *s, void *to, const void *from, const uint32_t *pieces, uint64_t
		count, uint32_t first, uint32_t room, enum dtype type),
	BRACES(void *to; const void *from; const uint32_t *pieces; uint64_t count; uint32_t first, room;
		enum dtype type;),
	BRACES(to, from, pieces, count, first, room, type),
	a->to, a->from, a->pieces, a->count, a->first, a->room, a->type)
STREAMED(embedding_forward,
	(struct kernels *k, struct stream *s, void *out, const int32_t *tokens, const int32_t *positions,
		const void *wte, const void *wpe, int B, int T, int C, const struct dropout *drop),
	BRACES(void *out; const int32_t *tokens, *positions; const void *wte, *wpe; int B, T, C; struct
		dropout drop;),
	BRACES(out, tokens, positions, wte, wpe, B, T, C, *drop),
	a->out, a->tokens, a->positions, a->wte, a->wpe, a->B, a->T, a->C, &a->drop)
STREAMED(embedding_backward,
	(struct kernels *k, struct stream *s, void *dwte, void *dwpe, const void *dout, const int32_t
		*tokens, const int32_t *positions, int B, int T, int C, int P, const struct dropout *drop,
		bool accumulate),
	BRACES(void *dwte, *dwpe; const void *dout; const int32_t *tokens, *positions; int B, T, C, P;
		struct dropout drop; bool accumulate;),
	BRACES(dwte, dwpe, dout, tokens, positions, B, T, C, P, *drop, accumulate),
	a->dwte, a->dwpe, a->dout, a->tokens, a->positions, a->B, a->T, a->C, a->P, &a->drop, a->accumulate)
STREAMED(layernorm_forward,
	(struct kernels *k, struct stream *s, void *out, void *residual_out, float *mean, float *rstd, const
		void *residual_in, const void *branch, const void *gamma, const void *beta, int B, int T,
		int C, float eps, const struct dropout *drop),
	BRACES(void *out, *residual_out; float *mean, *rstd; const void *residual_in, *branch, *gamma,
		*beta; int B, T, C; float eps; struct dropout drop;),
	BRACES(out, residual_out, mean, rstd, residual_in, branch, gamma, beta, B, T, C, eps, *drop),
	a->out, a->residual_out, a->mean, a->rstd, a->residual_in, a->branch, a->gamma, a->beta, a->B, a->T,
		a->C, a->eps, &a->drop)
STREAMED(layernorm_backward,
	(struct kernels *k, struct stream *s, void *dresidual, const void *dresidual_in, void *dbranch, void
		*dgamma, void *dbeta, const void *dout, const void *x, const void *gamma, const float *mean,
		const float *rstd, int B, int T, int C, const struct dropout *drop, bool accumulate),
	BRACES(void *dresidual; const void *dresidual_in; void *dbranch, *dgamma, *dbeta; const void *dout,
		*x, *gamma; const float *mean, *rstd; int B, T, C; struct dropout drop; bool accumulate;),
	BRACES(dresidual, dresidual_in, dbranch, dgamma, dbeta, dout, x, gamma, mean, rstd, B, T, C, *drop,
		accumulate),
	a->dresidual, a->dresidual_in, a->dbranch, a->dgamma, a->dbeta, a->dout, a->x, a->gamma, a->mean,
		a->rstd, a->B, a->T, a->C, &a->drop, a->accumulate)
STREAMED(linear_forward,
	(struct kernels *k, struct stream *s, void *out, void *pre, const void *in, const void *w, const
		void *bias, int R, int K, int N),
	BRACES(void *out, *pre; const void *in, *w, *bias; int R, K, N;),
	BRACES(out, pre, in, w, bias, R, K, N),
	a->out, a->pre, a->in, a->w, a->bias, a->R, a->K, a->N)
STREAMED(linear_backward,
	(struct kernels *k, struct stream *s, void *din, void *dw, void *dbias, const void *dout, const void
		*in, const void *w, const void *pre, int R, int K, int N, bool accumulate),
	BRACES(void *din, *dw, *dbias; const void *dout, *in, *w, *pre; int R, K, N; bool accumulate;),
	BRACES(din, dw, dbias, dout, in, w, pre, R, K, N, accumulate),
	a->din, a->dw, a->dbias, a->dout, a->in, a->w, a->pre, a->R, a->K, a->N, a->accumulate)
STREAMED(gelu_forward,
	(struct kernels *k, struct stream *s, void *out, const void *pre, uint64_t count),
	BRACES(void *out; const void *pre; uint64_t count;),
	BRACES(out, pre, count),
	a->out, a->pre, a->count)
STREAMED(attention_forward,
	(struct kernels *k, struct stream *s, void *out, float *lse, const void *qkv, const int32_t *first,
		int B, int T, int H, int D, const struct dropout *drop),
	BRACES(void *out; float *lse; const void *qkv; const int32_t *first; int B, T, H, D; struct dropout
		drop;),
	BRACES(out, lse, qkv, first, B, T, H, D, *drop),
	a->out, a->lse, a->qkv, a->first, a->B, a->T, a->H, a->D, &a->drop)
STREAMED(attention_backward,
	(struct kernels *k, struct stream *s, void *dqkv, const void *dout, const void *out, const float
		*lse, const void *qkv, const int32_t *first, int B, int T, int H, int D, const struct
		dropout *drop),
	BRACES(void *dqkv; const void *dout, *out; const float *lse; const void *qkv; const int32_t *first;
		int B, T, H, D; struct dropout drop;),
	BRACES(dqkv, dout, out, lse, qkv, first, B, T, H, D, *drop),
	a->dqkv, a->dout, a->out, a->lse, a->qkv, a->first, a->B, a->T, a->H, a->D, &a->drop)
STREAMED(classifier,
	(struct kernels *k, struct stream *s, float *loss, void *dx, void *dwte, const void *x, const void
		*wte, const int32_t *targets, int R, int C, int V, int VP, float scale, bool accumulate),
	BRACES(float *loss; void *dx, *dwte; const void *x, *wte; const int32_t *targets; int R, C, V, VP;
		float scale; bool accumulate;),
	BRACES(loss, dx, dwte, x, wte, targets, R, C, V, VP, scale, accumulate),
	a->loss, a->dx, a->dwte, a->x, a->wte, a->targets, a->R, a->C, a->V, a->VP, a->scale, a->accumulate)
STREAMED(gradient_stats,
	(struct kernels *k, struct stream *s, struct gradient_stats *stats, const void *grad, uint64_t
		count),
	BRACES(struct gradient_stats *stats; const void *grad; uint64_t count;),
	BRACES(stats, grad, count),
	a->stats, a->grad, a->count)
STREAMED(adamw,
	(struct kernels *k, struct stream *s, const struct adamw *args, float *p_out, float *m_out, float
		*v_out, void *work, const float *p, const float *m, const float *v, const void *grad,
		uint64_t count),
	BRACES(struct adamw args; float *p_out, *m_out, *v_out; void *work; const float *p, *m, *v; const
		void *grad; uint64_t count;),
	BRACES(*args, p_out, m_out, v_out, work, p, m, v, grad, count),
	&a->args, a->p_out, a->m_out, a->v_out, a->work, a->p, a->m, a->v, a->grad, a->count)
/* clang-format on */

/* ---- the table ---- */

static inline enum status streamed_reserve(struct kernels *k, const struct kernel_shapes *shapes)
{
	struct kernels *inner = &streamed_of(k)->first->inner;
	return inner->reserve(inner, shapes);
}

static inline void streamed_weights_changed(struct kernels *k)
{
	(void)k; /* nothing is packed: streamed_open sees to it */
}

static inline void streamed_close(struct kernels *k)
{
	struct streamed *f = streamed_of(k);
	streamed_stream_close(k, f->first);
	pthread_mutex_destroy(&f->mutex);
	free(f);
	memset(k, 0, sizeof *k);
}

/* The signature of trainer_config.open_device. What is not filled in here is not there. */
static inline enum status streamed_open(const struct kernels_config *config, struct kernels *out)
{
	struct streamed *f = calloc(1, sizeof *f);
	if (!f)
		abort();
	f->config = *config;
	f->config.packing = 0;
	f->config.threads = 1;
	pthread_mutex_init(&f->mutex, NULL);
	memset(out, 0, sizeof *out);
	out->self = f;
	out->act = config->act;
	out->grad = config->grad;
	enum status status = streamed_stream_open(out, &f->first);
	if (status != STATUS_OK) {
		pthread_mutex_destroy(&f->mutex);
		free(f);
		return status;
	}
	memcpy(out->name, f->first->inner.name, sizeof out->name);
#define STREAMED_FILL(name) out->name = streamed_##name;
	STREAMED_FILL(close)
	STREAMED_FILL(reserve)
	STREAMED_FILL(memory_alloc)
	STREAMED_FILL(memory_free)
	STREAMED_FILL(host_alloc)
	STREAMED_FILL(host_free)
	STREAMED_FILL(stream_open)
	STREAMED_FILL(stream_close)
	STREAMED_FILL(stream_wait)
	STREAMED_FILL(event_open)
	STREAMED_FILL(event_close)
	STREAMED_FILL(event_record)
	STREAMED_FILL(event_await)
	STREAMED_FILL(event_wait)
	STREAMED_FILL(event_seconds)
	STREAMED_FILL(copy_in)
	STREAMED_FILL(copy_out)
	STREAMED_FILL(copy)
	STREAMED_FILL(zero)
	STREAMED_FILL(convert)
	STREAMED_FILL(gather)
	STREAMED_FILL(scatter)
	STREAMED_FILL(embedding_forward)
	STREAMED_FILL(embedding_backward)
	STREAMED_FILL(layernorm_forward)
	STREAMED_FILL(layernorm_backward)
	STREAMED_FILL(linear_forward)
	STREAMED_FILL(linear_backward)
	STREAMED_FILL(gelu_forward)
	STREAMED_FILL(attention_forward)
	STREAMED_FILL(attention_backward)
	STREAMED_FILL(classifier)
	STREAMED_FILL(gradient_stats)
	STREAMED_FILL(adamw)
	STREAMED_FILL(weights_changed)
	return STATUS_OK;
}

#endif
