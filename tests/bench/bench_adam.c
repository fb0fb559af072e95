/*
 * bench_adam [fp16|bf16] [elements] [threads] [rounds]: the optimizer's pass on the host, as an offload runs
 * it: half-precision gradients in, p, m and v updated, half-precision weights out, 28 bytes a parameter, by a
 * crew of threads, bucket by bucket. In place (an update) and to a shadow (a speculation). Beside each a plain pass of the same
 * traffic, which only adds integers: what this memory gives today. In turns, medians; ns a parameter, GB/s,
 * and the share of the plain pass's rate.
 *
 * Rounds 0: passes are asked for, so that others can take turns with them: for each line on the standard input,
 * "plain", "update", "plain-shadow", "speculation" or "alone" (plain, by one thread), its seconds.
 */
#include "common/clock.h"
#include "common/memory.h"
#include "common/threads.h"
#include "engine/crew.h"
#include "engine/offload.h"
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
enum pass { PLAIN, UPDATE, PLAIN_SHADOW, SPECULATION, PASSES, ALONE = PASSES };

struct bench {
	struct kernels k;
	struct crew *crew, *alone;
	uint64_t elements, bucket; /* where the bucket at hand begins */
	float *now[STATES], *next[STATES];
	uint16_t *gradients, *work;
	uint64_t nothing; /* 0, which the compiler does not know */
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

/* The same bytes read and written, 16 parameters at a time; the state keeps its values, which AdamW goes on from. */
static void plain_pass(const struct bench *b, float *const *to, uint64_t from, uint64_t end)
{
	bool elsewhere = to != b->now;
	words nothing = {b->nothing, b->nothing, b->nothing, b->nothing};
	for (uint64_t i = from; i < end; i += 16) {
		words g = *(const words *)(b->gradients + i), sum = g;
		for (int s = 0; s < STATES; s++)
			for (int half = 0; half < 2; half++) {
				words x = *(const words *)(b->now[s] + i + 8 * half) + (g & nothing);
				sum += x;
				write_words((words *)(to[s] + i + 8 * half), &x, elsewhere);
			}
		write_words((words *)(b->work + i), &sum, true);
	}
}

static void pass_piece(void *context, uint64_t from, uint64_t end)
{
	struct bench *b = context;
	struct kernels *k = &b->k;
	float *const *to = b->pass == SPECULATION || b->pass == PLAIN_SHADOW ? b->next : b->now;
	struct adamw args = {.learning_rate = 1e-4f,
		.beta1 = 0.9f,
		.beta2 = 0.999f,
		.epsilon = 1e-8f,
		.weight_decay = 0.01f,
		.step = 10,
		.gradient_multiplier = 1.0f / 4096};
	from += b->bucket, end += b->bucket;
	if (b->pass == PLAIN || b->pass == PLAIN_SHADOW || b->pass == ALONE)
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
	TRY(crew_open(threads, 0, &b->crew));
	TRY(crew_open(1, 0, &b->alone));
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

static double time_pass(struct bench *b, enum pass pass)
{
	b->pass = pass;
	double start = clock_seconds();
	for (b->bucket = 0; b->bucket < b->elements; b->bucket += OFFLOAD_BUCKET) {
		uint64_t left = b->elements - b->bucket;
		crew_run(pass == ALONE ? b->alone : b->crew, left < OFFLOAD_BUCKET ? left : OFFLOAD_BUCKET,
			PARAMETER_ALIGNED, pass_piece, b);
	}
	return clock_seconds() - start;
}

static void run(struct bench *b, int rounds)
{
	static const char *const names[PASSES] = {
		"plain pass, in place", "AdamW, in place", "plain pass, to a shadow", "AdamW, to a shadow"};
	for (int r = -1; r < rounds; r++) /* the first warms up */
		for (int p = 0; p < PASSES; p++) {
			double seconds = time_pass(b, (enum pass)p);
			if (r >= 0)
				b->seconds[p][r] = seconds;
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

static bool serve(struct bench *b)
{
	static const char *const names[] = {"plain", "update", "plain-shadow", "speculation", "alone"};
	enum { NAMES = sizeof names / sizeof *names };
	char line[64];
	while (fgets(line, sizeof line, stdin)) {
		int pass = 0;
		line[strcspn(line, "\n")] = 0;
		while (pass < NAMES && strcmp(line, names[pass]))
			pass++;
		if (pass == NAMES) {
			fprintf(stderr, "bench_adam: no pass is called '%s'\n", line);
			return false;
		}
		printf("%.9f\n", time_pass(b, (enum pass)pass));
		fflush(stdout);
	}
	return true;
}

int main(int argc, char **argv)
{
	static struct bench b;
	enum dtype act = argc > 1 && strcmp(argv[1], "bf16") == 0 ? DTYPE_BF16 : DTYPE_F16;
	b.elements = (argc > 2 ? strtoull(argv[2], NULL, 10) : 64 << 20) / 4096 * 4096;
	int threads = argc > 3 ? atoi(argv[3]) : threads_available();
	int rounds = argc > 4 ? atoi(argv[4]) : 15;
	if (!b.elements || rounds < 0 || rounds > MOST_ROUNDS) {
		fprintf(stderr, "bench_adam [fp16|bf16] [elements, from 4096] [threads] [rounds, 0 to %d]\n",
			MOST_ROUNDS);
		return 2;
	}
	if (open_bench(&b, act, threads) != STATUS_OK) {
		fprintf(stderr, "%s\n", error_message());
		return 1;
	}
	if (!rounds)
		return serve(&b) ? 0 : 2;
	printf("%s, %s, %llu parameters, %d threads, medians of %d rounds\n", b.k.name, dtype_name(act),
		(unsigned long long)b.elements, crew_members(b.crew), rounds);
	run(&b, rounds);
	crew_close(b.alone);
	crew_close(b.crew);
	return 0;
}
