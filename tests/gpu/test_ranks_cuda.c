/*
 * test_ranks_cuda: ranks exchange gradients and weights between GPUs (engine/exchange.h). Ranks are threads of this
 * program, each with a table of its own. One rank alone sends to itself; two with one GPU go through the host; then as many
 * as there are GPUs, up to four. Sums are compared, to the bit, with sums made one by one in the order of the ranks.
 * A program of its own (no cmocka), so that it builds on a bare GPU machine. 77: no GPU.
 *
 * With GPU_DRY_RUN defined, blocks are smaller and nothing is timed: the emulated device, whose ferry-cuda.so is NCCL
 * too (FERRY_NCCL, FERRY_EMU_DEVICES).
 */
#include "engine/exchange.h"
#include "kernels/kernels.h"
#include "tests/gpu/tap.h"
#include "tests/unit/engine/thread_ranks.h"

#include "common/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { UNIT = 64, MOST_RANKS = 4 };
#ifdef GPU_DRY_RUN
enum { LARGEST = 40 * UNIT, ROUNDS = 2, TIMED = 0 };
#else
enum { LARGEST = 4 << 20, ROUNDS = 32, TIMED = 1 };
#endif
static const uint64_t sizes[] = {UNIT, 3 * UNIT, 35 * UNIT, LARGEST}; /* elements of a block */

/* ---- a rank ---- */

struct outcome {
	bool one_device;
	enum dtype act, grad;
	char name[400];       /* of rank 0's exchange */
	double reduce, share; /* seconds a block, of rank 0 */
};

struct rank {
	struct collective *c;
	struct kernels k, cpu; /* of the same types */
	struct exchange *x;
	struct stream *stream;
	void *device, *host;  /* [LARGEST] of any type; the host's is pinned */
	float *values, *sums; /* [LARGEST] */
	uint64_t cuts[MOST_RANKS + 1];
	struct error_copy wrong; /* the first value; the rank goes on with the others all the same */
};

/* Sums of these round, differently in each order, in halves too. */
static float gradient_of(int rank, uint64_t i)
{
	uint64_t hash = (i * 8 + (uint64_t)rank + 1) * 0x9e3779b97f4a7c15u;
	static const float scales[] = {1e-3f, 1, 30, 0.05f};
	return (float)(int32_t)(hash >> 32) * 0x1p-31f * scales[hash % 4];
}

/* A rank's gradients, as the table has them. */
static void make_gradients(struct rank *r, int rank, uint64_t elements, void *out)
{
	for (uint64_t i = 0; i < elements; i++)
		r->values[i] = gradient_of(rank, i);
	r->cpu.convert(&r->cpu, NULL, out, r->k.grad, r->values, DTYPE_F32, elements);
}

/* Where r->values has room: what this rank must have, its part being the sum, in f32, rounded once. */
static void make_expected(struct rank *r, uint64_t elements, void *scratch)
{
	struct kernels *cpu = &r->cpu;
	size_t each = dtype_bytes(r->k.grad);
	uint64_t first = r->cuts[r->c->rank] / each, end = r->cuts[r->c->rank + 1] / each;
	for (int q = 0; q < r->c->ranks; q++) {
		make_gradients(r, q, elements, scratch);
		cpu->convert(cpu, NULL, r->values, DTYPE_F32, scratch, r->k.grad, elements);
		for (uint64_t i = 0; i < elements; i++)
			r->sums[i] = q ? r->sums[i] + r->values[i] : r->values[i];
	}
	make_gradients(r, r->c->rank, elements, scratch);
	cpu->convert(cpu, NULL, (char *)scratch + first * each, r->k.grad, r->sums + first, DTYPE_F32,
		end - first);
}

static uint16_t weight_of(uint64_t i)
{
	return (uint16_t)(i * 40503 >> 3);
}

/* As shards.c cuts, in bytes. */
static void cut(struct rank *r, uint64_t elements, size_t each)
{
	for (int q = 0; q <= r->c->ranks; q++)
		r->cuts[q] = elements / UNIT * (uint64_t)q / (uint64_t)r->c->ranks * UNIT * each;
}

/* All of it is queued; there is one wait, at the end. */
static enum status check_reduce(struct rank *r, struct stream *stream, uint64_t elements)
{
	struct kernels *k = &r->k;
	size_t each = dtype_bytes(k->grad);
	cut(r, elements, each);
	make_gradients(r, r->c->rank, elements, r->host);
	k->copy_in(k, stream, r->device, r->host, elements * each);
	TRY(exchange_reduce(r->x, stream, r->device, r->cuts));
	k->copy_out(k, stream, r->host, r->device, elements * each);
	TRY(k->stream_wait(k, stream));
	char *expected = malloc(elements * each);
	if (!expected)
		abort();
	make_expected(r, elements, expected);
	for (uint64_t i = 0; i < elements; i++)
		if (memcmp(expected + i * each, (char *)r->host + i * each, each) != 0 &&
			r->wrong.status == STATUS_OK)
			error_save(error_set(STATUS_CORRUPT, "gradient %llu of %llu is another",
					   (unsigned long long)i, (unsigned long long)elements),
				&r->wrong);
	free(expected);
	return STATUS_OK;
}

static enum status check_share(struct rank *r, struct stream *stream, uint64_t elements)
{
	struct kernels *k = &r->k;
	uint16_t *weights = r->host;
	cut(r, elements, sizeof *weights);
	uint64_t first = r->cuts[r->c->rank] / 2, end = r->cuts[r->c->rank + 1] / 2;
	for (uint64_t i = 0; i < elements; i++)
		weights[i] = i >= first && i < end ? weight_of(i) : 0xffff;
	k->copy_in(k, stream, r->device, weights, elements * 2);
	TRY(exchange_share(r->x, stream, r->device, r->cuts));
	k->copy_out(k, stream, weights, r->device, elements * 2);
	TRY(k->stream_wait(k, stream));
	for (uint64_t i = 0; i < elements; i++)
		if (weights[i] != weight_of(i) && r->wrong.status == STATUS_OK)
			error_save(error_set(STATUS_CORRUPT, "weight %llu of %llu is %u, not %u",
					   (unsigned long long)i, (unsigned long long)elements, weights[i],
					   weight_of(i)),
				&r->wrong);
	return STATUS_OK;
}

static enum status measure(struct rank *r, struct outcome *outcome)
{
	double start, between, end;
	cut(r, LARGEST, dtype_bytes(r->k.grad));
	for (int round = 0; round < 2; round++) { /* the first connects */
		TRY(collective_agree(r->c, STATUS_OK));
		start = clock_seconds();
		for (int i = 0; i < ROUNDS; i++)
			TRY(exchange_reduce(r->x, NULL, r->device, r->cuts));
		TRY(r->k.stream_wait(&r->k, NULL));
		between = clock_seconds();
		for (int i = 0; i < ROUNDS; i++)
			TRY(exchange_share(r->x, NULL, r->device, r->cuts));
		TRY(r->k.stream_wait(&r->k, NULL));
		end = clock_seconds();
	}
	if (r->c->rank == 0) {
		outcome->reduce = (between - start) / ROUNDS;
		outcome->share = (end - between) / ROUNDS;
	}
	return STATUS_OK;
}

/* Of the GPU's memory, one rank's on the emulated device, whose blocks are pages. */
static enum status connect_measured(struct rank *r, const struct exchange_sizes *most)
{
	uint64_t before = r->k.memory_unused(&r->k), said = exchange_device_bytes(most, 1, true);
	TRY(exchange_connect(r->x));
	uint64_t taken = before - r->k.memory_unused(&r->k);
	FAIL_IF(taken < said || taken > said + 3 * 4096, STATUS_CORRUPT,
		"%llu bytes are taken, not the %llu that were said", (unsigned long long)taken,
		(unsigned long long)said);
	return STATUS_OK;
}

static enum status check_all(struct rank *r, struct outcome *outcome)
{
	struct exchange_sizes most = {LARGEST * 4, (LARGEST / UNIT / (uint64_t)r->c->ranks + 1) * UNIT * 4};
	TRY(r->k.memory_alloc(&r->k, &r->device, LARGEST * 4, "a test's block"));
	TRY(r->k.host_alloc(&r->k, &r->host, LARGEST * 4, "a test's block"));
	TRY(r->k.stream_open(&r->k, &r->stream));
	TRY(exchange_open(r->c, &r->k, &most, true, &r->x));
	TRY(r->c->ranks == 1 && !TIMED ? connect_measured(r, &most) : exchange_connect(r->x));
	if (r->c->rank == 0)
		snprintf(outcome->name, sizeof outcome->name, "%s", exchange_name(r->x));
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		struct stream *stream = i % 2 ? r->stream : NULL;
		TRY(check_reduce(r, stream, sizes[i]));
		TRY(check_share(r, stream, sizes[i]));
	}
	TRY(measure(r, outcome));
	return r->wrong.status == STATUS_OK ? STATUS_OK : error_restore(&r->wrong);
}

static enum status be_rank(void *user, struct collective *c)
{
	struct outcome *outcome = user;
	struct rank r = {.c = c};
	struct error_copy copy;
	struct kernels_config config = {.act = outcome->act,
		.grad = outcome->grad,
		.device = outcome->one_device ? 0 : c->rank,
		.threads = 1};
	TRY(collective_agree(c, kernels_open_cuda(&config, &r.k)));
	TRY(collective_agree(c, kernels_open_cpu(&config, &r.cpu)));
	r.values = calloc(2, LARGEST * sizeof *r.values);
	if (!r.values)
		abort();
	r.sums = r.values + LARGEST;
	error_save(check_all(&r, outcome), &copy);
	exchange_close(r.x);
	r.k.stream_close(&r.k, r.stream);
	if (r.host)
		r.k.host_free(&r.k, r.host, LARGEST * 4);
	if (r.device)
		r.k.memory_free(&r.k, r.device, LARGEST * 4);
	free(r.values);
	r.cpu.close(&r.cpu);
	r.k.close(&r.k);
	return error_restore(&copy);
}

/* ---- all of them ---- */

static int count_devices(void)
{
	int count = 0;
	for (struct kernels k; count < MOST_RANKS; count++) {
		struct kernels_config config = {.act = DTYPE_BF16, .grad = DTYPE_F32, .device = count};
		if (kernels_open_cuda(&config, &k) != STATUS_OK)
			break;
		k.close(&k);
	}
	return count;
}

static void run(int ranks, bool one_device, enum dtype act, enum dtype grad, const char *way)
{
	struct outcome outcome = {.one_device = one_device, .act = act, .grad = grad};
	enum status status = crowd_run(ranks, be_rank, &outcome);
	bool good = status == STATUS_OK && strncmp(outcome.name, way, strlen(way)) == 0;
	ok(good, "%d rank%s, gradients in %s, %s: to their owners, and weights back%s%s", ranks,
		ranks == 1 ? "" : "s", dtype_name(grad), *outcome.name ? outcome.name : way,
		status == STATUS_OK ? "" : ": ", status == STATUS_OK ? "" : error_message());
	if (good && TIMED && ranks > 1)
		printf("# %d ranks, %s, %s: a block of %d MiB: %.0f us to its owners, %.0f us back; %.1f and "
		       "%.1f "
		       "GB/s out of each\n",
			ranks, dtype_name(grad), outcome.name, (int)(LARGEST * dtype_bytes(grad) >> 20),
			outcome.reduce * 1e6, outcome.share * 1e6,
			LARGEST * (double)dtype_bytes(grad) * 1e-9 * (ranks - 1) / ranks / outcome.reduce,
			LARGEST * (double)dtype_bytes(grad) * 1e-9 * (ranks - 1) / ranks / outcome.share);
}

int main(void)
{
	int devices = count_devices();
	struct kernels k;
	struct peers_found found;
	struct kernels_config config = {.act = DTYPE_BF16, .grad = DTYPE_F32};
	if (devices == 0) {
		fprintf(stderr, "%s\n", error_message());
		return 77;
	}
	if (kernels_open_cuda(&config, &k) != STATUS_OK)
		return 1;
	bool there = k.peers->find(&k, &found) == STATUS_OK;
	k.close(&k);
	const char *by = there ? "by NCCL" : "through host memory (rank 0: no NCCL";
	if (there)
		run(1, true, DTYPE_BF16, DTYPE_F32, by);
	else
		printf("# %s: nothing is sent from GPU to GPU\n", error_message());
	run(2, true, DTYPE_BF16, DTYPE_F32, there ? "through host memory (ranks 0 and 1 have one GPU" : by);
	run(2, true, DTYPE_F16, DTYPE_F16, there ? "through host memory (ranks 0 and 1 have one GPU" : by);
	if (devices == 1)
		printf("# one GPU here: ranks with a GPU each have NOT run\n");
	for (int ranks = 2; ranks <= devices; ranks++) {
		run(ranks, false, DTYPE_BF16, DTYPE_F32, by);
		run(ranks, false, DTYPE_BF16, DTYPE_BF16, by);
		run(ranks, false, DTYPE_F16, DTYPE_F16, by);
	}
	return failed > 0;
}
