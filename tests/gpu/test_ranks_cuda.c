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
#include "tests/unit/engine/thread_ranks.h"

#include "common/clock.h"

#include <stdarg.h>
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

static int number, failed;

static void ok(bool good, const char *format, ...)
{
	char name[400];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(name, sizeof name, format, arguments);
	va_end(arguments);
	printf("%sok %d - %s\n", good ? "" : "not ", ++number, name);
	failed += !good;
	fflush(stdout);
}

/* ---- a rank ---- */

struct outcome {
	bool one_device;
	char name[400];       /* of rank 0's exchange */
	double reduce, share; /* seconds a block, of rank 0 */
};

struct rank {
	struct collective *c;
	struct kernels k;
	struct exchange *x;
	struct stream *stream;
	float *device, *host; /* [LARGEST]; the host's is pinned */
	uint64_t cuts[MOST_RANKS + 1];
	struct error_copy wrong; /* the first value; the rank goes on with the others all the same */
};

/* Sums of these round, differently in each order. */
static float gradient_of(int rank, uint64_t i)
{
	uint64_t hash = (i * 8 + (uint64_t)rank + 1) * 0x9e3779b97f4a7c15u;
	static const float scales[] = {1e-9f, 1, 3e4f, 1e-3f};
	return (float)(int32_t)(hash >> 32) * scales[hash % 4];
}

static float sum_of(uint64_t i, int ranks)
{
	float sum = gradient_of(0, i);
	for (int r = 1; r < ranks; r++)
		sum += gradient_of(r, i);
	return sum;
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
	cut(r, elements, sizeof(float));
	uint64_t first = r->cuts[r->c->rank] / 4, end = r->cuts[r->c->rank + 1] / 4;
	for (uint64_t i = 0; i < elements; i++)
		r->host[i] = gradient_of(r->c->rank, i);
	k->copy_in(k, stream, r->device, r->host, elements * 4);
	TRY(exchange_reduce(r->x, stream, r->device, r->cuts));
	k->copy_out(k, stream, r->host, r->device, elements * 4);
	TRY(k->stream_wait(k, stream));
	for (uint64_t i = 0; i < elements; i++) {
		bool own = i >= first && i < end;
		float wanted = own ? sum_of(i, r->c->ranks) : gradient_of(r->c->rank, i);
		if (memcmp(&wanted, &r->host[i], 4) != 0 && r->wrong.status == STATUS_OK)
			error_save(error_set(STATUS_CORRUPT, "gradient %llu of %llu is %.9g, not %.9g",
					   (unsigned long long)i, (unsigned long long)elements,
					   (double)r->host[i], (double)wanted),
				&r->wrong);
	}
	return STATUS_OK;
}

static enum status check_share(struct rank *r, struct stream *stream, uint64_t elements)
{
	struct kernels *k = &r->k;
	uint16_t *weights = (uint16_t *)r->host;
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
	for (int round = 0; round < 2; round++) { /* the first connects */
		cut(r, LARGEST, sizeof(float));
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
	TRY(r->k.memory_alloc(&r->k, (void **)&r->device, LARGEST * 4, "a test's block"));
	TRY(r->k.host_alloc(&r->k, (void **)&r->host, LARGEST * 4, "a test's block"));
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
	struct kernels_config config = {
		.act = DTYPE_BF16, .grad = DTYPE_F32, .device = outcome->one_device ? 0 : c->rank};
	TRY(collective_agree(c, kernels_open_cuda(&config, &r.k)));
	error_save(check_all(&r, outcome), &copy);
	exchange_close(r.x);
	r.k.stream_close(&r.k, r.stream);
	if (r.host)
		r.k.host_free(&r.k, r.host, LARGEST * 4);
	if (r.device)
		r.k.memory_free(&r.k, r.device, LARGEST * 4);
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

static void run(int ranks, bool one_device, const char *way)
{
	struct outcome outcome = {.one_device = one_device};
	enum status status = crowd_run(ranks, be_rank, &outcome);
	bool good = status == STATUS_OK && strncmp(outcome.name, way, strlen(way)) == 0;
	ok(good, "%d rank%s, %s: blocks to their owners and back%s%s", ranks, ranks == 1 ? "" : "s",
		*outcome.name ? outcome.name : way, status == STATUS_OK ? "" : ": ",
		status == STATUS_OK ? "" : error_message());
	if (good && TIMED && ranks > 1)
		printf("# %d ranks, %s: a block of %d MiB: %.0f us to its owners, %.0f us back; %.1f and "
		       "%.1f "
		       "GB/s out of each\n",
			ranks, outcome.name, LARGEST * 4 >> 20, outcome.reduce * 1e6, outcome.share * 1e6,
			LARGEST * 4e-9 * (ranks - 1) / ranks / outcome.reduce,
			LARGEST * 4e-9 * (ranks - 1) / ranks / outcome.share);
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
	if (there)
		run(1, true, "by NCCL");
	else
		printf("# %s: nothing is sent from GPU to GPU\n", error_message());
	run(2, true,
		there ? "through host memory (ranks 0 and 1 have one GPU"
		      : "through host memory (rank 0: no NCCL");
	if (devices == 1)
		printf("# one GPU here: ranks with a GPU each have NOT run\n");
	for (int ranks = 2; ranks <= devices; ranks++)
		run(ranks, false, there ? "by NCCL" : "through host memory (rank 0: no NCCL");
	return failed > 0;
}
