/*
 * bench_adam [fp16|bf16] [elements] [threads] [rounds]: the optimizer's pass on the host, as an offload runs
 * it: half-precision gradients in, p, m and v updated, half-precision weights out, 28 bytes a parameter, by a
 * crew of threads. In place (an update) and to a shadow (a speculation). Beside each a plain pass of the same
 * traffic, which only adds integers: what this memory gives today. In turns, medians; ns a parameter, GB/s,
 * and the share of the plain pass's rate.
 */
#include "common/clock.h"
#include "common/memory.h"
#include "common/threads.h"
#include "engine/crew.h"
#include "kernels/kernels.h"
#include "tests/bench/median.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

enum { BYTES = 28, MOST_ROUNDS = 200, STATES = 3 };
enum pass { PLAIN, UPDATE, PLAIN_SHADOW, SPECULATION, PASSES };

struct bench {
	struct kernels k;
	struct crew *crew;
	uint64_t elements;
	float *now[STATES], *next[STATES];
	uint16_t *gradients, *work;
	enum pass pass;
	double seconds[PASSES][MOST_ROUNDS];
};

typedef uint64_t words __attribute__((vector_size(32), may_alias));

/* What is written elsewhere need not be read first, and passes the caches by, as AdamW's shadow does. */
static inline void write_words(words *place, const words *value, bool elsewhere)
{
#ifdef __x86_64__
	if (elsewhere) {
		for (int i = 0; i < 2; i++)
			_mm_stream_si128((__m128i *)place + i, ((const __m128i *)value)[i]);
		return;
	}
#endif
	*place = *value;
}

/* The same bytes read and written, 16 parameters at a time. */
static void plain_pass(const struct bench *b, float *const *to, uint64_t from, uint64_t end)
{
	bool elsewhere = to != b->now;
	for (uint64_t i = from; i < end; i += 16) {
		words g = *(const words *)(b->gradients + i), sum = g;
		for (int s = 0; s < STATES; s++)
			for (int half = 0; half < 2; half++) {
				words x = *(const words *)(b->now[s] + i + 8 * half) + g;
				sum += x;
				write_words((words *)(to[s] + i + 8 * half), &x, elsewhere);
			}
		write_words((words *)(b->work + i), &sum, true);
	}
}

static void share(void *context, int member)
{
	struct bench *b = context;
	struct kernels *k = &b->k;
	uint64_t blocks = b->elements / 64, members = (uint64_t)crew_members(b->crew);
	uint64_t from = blocks * (uint64_t)member / members * 64;
	uint64_t end = blocks * ((uint64_t)member + 1) / members * 64;
	float *const *to = b->pass == SPECULATION || b->pass == PLAIN_SHADOW ? b->next : b->now;
	struct adamw args = {.learning_rate = 1e-4f,
		.beta1 = 0.9f,
		.beta2 = 0.999f,
		.epsilon = 1e-8f,
		.weight_decay = 0.01f,
		.step = 10,
		.gradient_multiplier = 1.0f / 4096};
	if (b->pass == PLAIN || b->pass == PLAIN_SHADOW)
		plain_pass(b, to, from, end);
	else
		k->adamw(k, NULL, &args, to[0] + from, to[1] + from, to[2] + from, b->work + from,
			b->now[0] + from, b->now[1] + from, b->now[2] + from, b->gradients + from,
			end - from);
}

/* Values as in training, so that no operation is slow for being odd. */
static void fill(struct bench *b)
{
	for (uint64_t i = 0; i < b->elements; i++) {
		float x = (float)((i * 2654435761u >> 8 & 0xffff) + 1) / 65536;
		b->now[0][i] = x - 0.5f;
		b->now[1][i] = (x - 0.5f) * 1e-3f;
		b->now[2][i] = x * 1e-6f;
	}
	b->k.convert(&b->k, NULL, b->gradients, b->k.act, b->now[0], DTYPE_F32, b->elements);
}

static enum status open_bench(struct bench *b, enum dtype act, int threads)
{
	struct kernels_config config = {.act = act, .grad = act, .threads = 1};
	struct kernels *k = &b->k;
	TRY(kernels_open_cpu(&config, k));
	TRY(crew_open(threads, &b->crew));
	for (int s = 0; s < STATES; s++) {
		TRY(k->memory_alloc(k, (void **)&b->now[s], b->elements * 4, "a state"));
		TRY(k->memory_alloc(k, (void **)&b->next[s], b->elements * 4, "a shadow"));
		memset(b->next[s], 0, b->elements * 4);
	}
	TRY(k->memory_alloc(k, (void **)&b->gradients, b->elements * 2, "gradients"));
	TRY(k->memory_alloc(k, (void **)&b->work, b->elements * 2, "weights"));
	memset(b->work, 0, b->elements * 2);
	fill(b);
	return STATUS_OK;
}

static void run(struct bench *b, int rounds)
{
	static const char *const names[PASSES] = {
		"plain pass, in place", "AdamW, in place", "plain pass, to a shadow", "AdamW, to a shadow"};
	for (int r = -1; r < rounds; r++)
		for (int p = 0; p < PASSES; p++) {
			b->pass = (enum pass)p;
			/* a plain pass leaves numbers that are none */
			if (p == UPDATE)
				fill(b);
			double start = clock_seconds();
			crew_run(b->crew, share, b);
			if (r >= 0)
				b->seconds[p][r] = clock_seconds() - start;
		}
	for (int p = 0; p < PASSES; p++) {
		double shares[MOST_ROUNDS], seconds[MOST_ROUNDS];
		for (int r = 0; r < rounds; r++) {
			seconds[r] = b->seconds[p][r];
			shares[r] = b->seconds[p & ~1][r] / b->seconds[p][r];
		}
		double ns = median(seconds, rounds) / (double)b->elements * 1e9;
		double best = seconds[0] / (double)b->elements * 1e9; /* sorted now */
		printf("%-26s %6.3f ns a parameter %7.1f GB/s, best %6.3f %7.1f; %6.1f%% of the plain pass\n",
			names[p], ns, BYTES / ns, best, BYTES / best, 100 * median(shares, rounds));
	}
}

int main(int argc, char **argv)
{
	static struct bench b;
	enum dtype act = argc > 1 && strcmp(argv[1], "bf16") == 0 ? DTYPE_BF16 : DTYPE_F16;
	b.elements = (argc > 2 ? strtoull(argv[2], NULL, 10) : 64 << 20) / 4096 * 4096;
	int threads = argc > 3 ? atoi(argv[3]) : threads_available();
	int rounds = argc > 4 ? atoi(argv[4]) : 15;
	if (!b.elements || rounds < 1 || rounds > MOST_ROUNDS) {
		fprintf(stderr, "bench_adam [fp16|bf16] [elements, from 4096] [threads] [rounds, 1 to %d]\n",
			MOST_ROUNDS);
		return 2;
	}
	if (open_bench(&b, act, threads) != STATUS_OK) {
		fprintf(stderr, "%s\n", error_message());
		return 1;
	}
	printf("%s, %s, %llu parameters, %d threads, medians of %d rounds\n", b.k.name, dtype_name(act),
		(unsigned long long)b.elements, crew_members(b.crew), rounds);
	run(&b, rounds);
	crew_close(b.crew);
	return 0;
}
