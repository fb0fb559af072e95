#include "common/clock.h"
#include "common/memory.h"
#include "common/threads.h"
#include "kernels/cpu/gemm.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- failures and scratch ---- */

void cpu_fail(struct kernels *k, enum status status)
{
	struct cpu *cpu = cpu_of(k);
	if (cpu->failure.status == STATUS_OK)
		error_save(status, &cpu->failure);
}

static enum status scratch_grow(struct cpu *cpu, enum cpu_scratch use, size_t bytes)
{
	if (bytes <= cpu->scratch[use].bytes)
		return STATUS_OK;
	memory_free_large(cpu->scratch[use].block, cpu->scratch[use].bytes);
	cpu->scratch[use].bytes = 0;
	TRY(memory_alloc_large(&cpu->scratch[use].block, bytes, "scratch of the CPU kernels"));
	cpu->scratch[use].bytes = bytes;
	return STATUS_OK;
}

void *cpu_scratch_get(struct kernels *k, enum cpu_scratch use, size_t bytes)
{
	struct cpu *cpu = cpu_of(k);
	enum status status = scratch_grow(cpu, use, bytes);
	if (status != STATUS_OK) {
		cpu_fail(k, status);
		return NULL;
	}
	return cpu->scratch[use].block;
}

bool cpu_gradients_are_f32(struct kernels *k)
{
	if (k->grad == DTYPE_F32)
		return true;
	cpu_fail(k, error_set(STATUS_UNSUPPORTED, "the CPU backend writes gradients in fp32 only, not in %s",
			    dtype_name(k->grad)));
	return false;
}

bool cpu_has_bf16(void)
{
#ifdef __x86_64__
	return simd_isa_get() == SIMD_AVX512 && __builtin_cpu_supports("avx512bf16");
#else
	return false;
#endif
}

/* ---- sizes ---- */

enum { LOGITS_BYTES = 104 << 20 }; /* of a chunk of logits */

int cpu_classifier_rows(int R, int VP)
{
	int64_t most = LOGITS_BYTES / ((int64_t)VP * (int64_t)sizeof(float)) / 64 * 64;
	if (most < 64)
		most = 64;
	return R < most ? R : (int)most;
}

static size_t classifier_scratch(int R, int VP)
{
	return (size_t)cpu_classifier_rows(R, VP) * VP * sizeof(float);
}

/* ---- life ---- */

#ifdef __x86_64__
static bool attention_in_bf16(enum dtype act)
{
	return act == DTYPE_BF16 && cpu_has_bf16();
}
#endif

static int choose_threads(int wanted)
{
#ifdef _OPENMP
	return wanted > 0 ? wanted : threads_available();
#else
	(void)wanted;
	return 1;
#endif
}

uint64_t kernels_cpu_scratch(const struct kernels_config *config, const struct kernel_shapes *s)
{
	cpu_attention_scratch *attention_scratch = SIMD_CHOOSE(cpu_attention_scratch);
#ifdef __x86_64__
	if (attention_in_bf16(config->act))
		attention_scratch = cpu_attention_scratch_bf16;
#endif
	size_t attention = attention_scratch(
		choose_threads(config->threads), s->sequence, s->hidden / s->heads, s->training);
	int64_t rows = (int64_t)s->batch * s->sequence; /* asked of shapes, too, that no memory holds */
	size_t classifier = classifier_scratch(rows < INT_MAX ? (int)rows : INT_MAX, s->vocabulary_padded);
	return attention > classifier ? attention : classifier;
}

static void cpu_close(struct kernels *k)
{
	struct cpu *cpu = cpu_of(k);
	if (!cpu)
		return;
	gemm_close(cpu->gemm);
	for (int i = 0; i < CPU_SCRATCHES; i++)
		memory_free_large(cpu->scratch[i].block, cpu->scratch[i].bytes);
	free(cpu);
	memset(k, 0, sizeof *k);
}

static enum status cpu_reserve(struct kernels *k, const struct kernel_shapes *s)
{
	struct cpu *cpu = cpu_of(k);
	cpu->shapes = *s;
	gemm_expect_uses(cpu->gemm, s->forward_uses);
	struct kernels_config config = {.act = k->act, .threads = cpu->threads};
	return scratch_grow(cpu, CPU_SCRATCH_OPERATION, kernels_cpu_scratch(&config, s));
}

/* ---- memory ---- */

/* Blocks remember nothing: the caller says the size again. */
static enum status cpu_memory_alloc(struct kernels *k, void **out, size_t bytes, const char *what)
{
	(void)k;
	return memory_alloc_large(out, bytes, what);
}

static void cpu_host_free(struct kernels *k, void *block, size_t bytes)
{
	(void)k;
	memory_free_large(block, bytes);
}

static void cpu_memory_free(struct kernels *k, void *block, size_t bytes)
{
	gemm_forget_weights(cpu_of(k)->gemm); /* another block may come to lie where a packed weight was */
	memory_free_large(block, bytes);
}

static uint64_t cpu_memory_unused(struct kernels *k)
{
	(void)k;
	return memory_available();
}

static void cpu_copy(struct kernels *k, struct stream *s, void *to, const void *from, size_t bytes)
{
	(void)s;
	if (bytes < 1 << 20) {
		memmove(to, from, bytes);
		return;
	}
	int threads = cpu_of(k)->threads;
	(void)threads;
#pragma omp parallel for num_threads(threads) schedule(static)
	for (size_t i = 0; i < bytes; i += 1 << 18)
		memcpy((char *)to + i, (const char *)from + i, bytes - i < 1 << 18 ? bytes - i : 1 << 18);
}

static void cpu_copy_in(struct kernels *k, struct stream *s, void *device, const void *host, size_t bytes)
{
	cpu_copy(k, s, device, host, bytes);
}

static void cpu_copy_out(struct kernels *k, struct stream *s, void *host, const void *device, size_t bytes)
{
	cpu_copy(k, s, host, device, bytes);
}

static void cpu_zero(struct kernels *k, struct stream *s, void *block, size_t bytes)
{
	(void)s;
	int threads = cpu_of(k)->threads;
	(void)threads;
#pragma omp parallel for num_threads(threads) schedule(static) if (bytes > 1 << 20)
	for (size_t i = 0; i < bytes; i += 1 << 18)
		memset((char *)block + i, 0, bytes - i < 1 << 18 ? bytes - i : 1 << 18);
}

/* ---- streams and events: everything is done when the call returns, so they only keep time ---- */

struct stream {
	int unused;
};

struct event {
	double at; /* clock_seconds */
};

static enum status cpu_stream_open(struct kernels *k, struct stream **out)
{
	(void)k;
	return memory_alloc((void **)out, 1, sizeof **out, "a stream");
}

static void cpu_stream_close(struct kernels *k, struct stream *s)
{
	(void)k;
	free(s);
}

static enum status cpu_stream_wait(struct kernels *k, struct stream *s)
{
	(void)s;
	struct cpu *cpu = cpu_of(k);
	if (cpu->failure.status == STATUS_OK)
		return STATUS_OK;
	enum status status = error_restore(&cpu->failure);
	cpu->failure.status = STATUS_OK;
	return status;
}

static enum status cpu_event_open(struct kernels *k, struct event **out)
{
	(void)k;
	return memory_alloc((void **)out, 1, sizeof **out, "an event");
}

static void cpu_event_close(struct kernels *k, struct event *e)
{
	(void)k;
	free(e);
}

static void cpu_event_record(struct kernels *k, struct event *e, struct stream *s)
{
	(void)k, (void)s;
	e->at = clock_seconds();
}

static void cpu_event_await(struct kernels *k, struct event *e, struct stream *s)
{
	(void)k, (void)e, (void)s;
}

static enum status cpu_event_wait(struct kernels *k, struct event *e)
{
	(void)k, (void)e;
	return STATUS_OK;
}

static double cpu_event_seconds(struct kernels *k, struct event *from, struct event *to)
{
	(void)k;
	return to->at - from->at;
}

static void cpu_weights_changed(struct kernels *k)
{
	gemm_weights_changed(cpu_of(k)->gemm);
}

static void cpu_gather(struct kernels *k, struct stream *s, void *to, const void *from,
	const uint32_t *pieces, uint64_t count, uint32_t first, uint32_t room, enum dtype type)
{
	size_t bytes = KERNELS_PIECE * dtype_bytes(type);
	(void)k, (void)s;
	for (uint64_t i = 0; i < count; i++)
		if (pieces[i] - first < room)
			memcpy((char *)to + i * bytes, (const char *)from + (pieces[i] - first) * bytes,
				bytes);
}

static void cpu_scatter(struct kernels *k, struct stream *s, void *to, const void *from,
	const uint32_t *pieces, uint64_t count, uint32_t first, uint32_t room, enum dtype type)
{
	size_t bytes = KERNELS_PIECE * dtype_bytes(type);
	(void)k, (void)s;
	for (uint64_t i = 0; i < count; i++)
		if (pieces[i] - first < room)
			memcpy((char *)to + (pieces[i] - first) * bytes, (const char *)from + i * bytes,
				bytes);
}

/* ---- the table ---- */

static const struct kernels table = {
	.close = cpu_close,
	.reserve = cpu_reserve,
	.memory_alloc = cpu_memory_alloc,
	.memory_free = cpu_memory_free,
	.host_alloc = cpu_memory_alloc,
	.host_free = cpu_host_free,
	.memory_unused = cpu_memory_unused,
	.stream_open = cpu_stream_open,
	.stream_close = cpu_stream_close,
	.stream_wait = cpu_stream_wait,
	.event_open = cpu_event_open,
	.event_close = cpu_event_close,
	.event_record = cpu_event_record,
	.event_await = cpu_event_await,
	.event_wait = cpu_event_wait,
	.event_seconds = cpu_event_seconds,
	.copy_in = cpu_copy_in,
	.copy_out = cpu_copy_out,
	.copy = cpu_copy,
	.zero = cpu_zero,
	.gather = cpu_gather,
	.scatter = cpu_scatter,
	.weights_changed = cpu_weights_changed,
};

enum status kernels_open_cpu(const struct kernels_config *config, struct kernels *out)
{
	*out = table;
	out->act = config->act;
	out->grad = config->grad;
	struct cpu *cpu;
	TRY(memory_alloc(&out->self, 1, sizeof *cpu, "the CPU backend"));
	cpu = out->self;
	cpu->threads = choose_threads(config->threads);
	cpu->packing = config->packing;
	enum status status = gemm_open(cpu->threads, cpu->packing, &cpu->gemm);
	if (status != STATUS_OK) {
		cpu_close(out);
		return status;
	}
#define CPU_FILL(name) out->name = SIMD_CHOOSE(cpu_##name);
	CPU_OPERATIONS(CPU_FILL)
#ifdef __x86_64__
	if (attention_in_bf16(out->act)) {
		out->attention_forward = cpu_attention_forward_bf16;
		out->attention_backward = cpu_attention_backward_bf16;
	}
#endif
	char gemm[GEMM_NAME];
	gemm_name(gemm);
	snprintf(out->name, sizeof out->name, "CPU %s, %d thread%s, %s", simd_isa_name(simd_isa_get()),
		cpu->threads, cpu->threads == 1 ? "" : "s", gemm);
	return STATUS_OK;
}
