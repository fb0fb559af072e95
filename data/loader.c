#include "data/loader.h"

#include "common/memory.h"

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of a batch: so that no product with ranks or token sizes wraps. */
#define MOST_WINDOWS (UINT64_C(1) << 31)

/*
 * Micro-batches of this rank are numbered from 0. Number m goes through slot m % slots of a ring:
 *
 *    handed out        taken by the threads, in order        not yet taken
 *    ... next - 1 |  next ...................... claimed - 1 | claimed ...  < next + depth
 *
 * There is one slot more than `depth`, for the batch that the caller still holds. A slot belongs to the
 * thread that claimed it until it is `done`, then to the caller; the mutex passes it on. Pages are asked for
 * (madvise) `depth` micro-batches before they are claimed; but windows that come in order (validation) are read, and
 * the system reads ahead by itself.
 */
struct slot {
	int32_t *tokens;                /* [micro_batch][T + 1] */
	struct sampler_window *windows; /* [micro_batch] */
	bool done;                      /* filled, or failed */
};

struct loader {
	struct loader_config config;
	struct mixture mixture;
	uint64_t micros_per_step; /* of this rank */
	size_t row;               /* T + 1 */
	bool in_order;            /* no corpus is shuffled */
	uint64_t slot_count;
	struct slot *slots; /* [slot_count] */
	int32_t *tokens;
	size_t tokens_bytes;
	struct sampler_window *windows;
	pthread_t *threads;
	int started;

	pthread_mutex_t mutex; /* of all below */
	pthread_cond_t room;   /* a micro-batch may be claimed, or stop */
	pthread_cond_t ready;  /* a slot became done */
	uint64_t next, claimed, prefetched;
	struct error_copy error; /* of the first micro-batch that failed */
	uint64_t failed;         /* its number; UINT64_MAX when none */
	atomic_bool stop;        /* also read without the mutex */
};

/* ---- which windows ---- */

/* The ordinal of the first window of micro-batch `number`. */
static uint64_t first_ordinal(const struct loader *loader, uint64_t number)
{
	const struct loader_config *config = &loader->config;
	uint64_t step = number / loader->micros_per_step, within = number % loader->micros_per_step;
	return config->first_ordinal + step * config->global_batch +
	       (uint64_t)config->rank * (config->global_batch / (uint64_t)config->ranks) +
	       within * config->micro_batch;
}

static void prefetch(struct loader *loader, struct mixture *mixture, uint64_t number)
{
	uint64_t ordinal = first_ordinal(loader, number);
	for (uint64_t i = 0; i < loader->config.micro_batch && !atomic_load(&loader->stop); i++) {
		struct sampler_window window = mixture_get(mixture, ordinal + i);
		corpus_prefetch(mixture->sources[window.source].corpus, window.first_token, loader->row);
	}
}

/*
 * Rows [i, i + rows) of a micro-batch, whose windows each begin with the token that the one before ends with, in one
 * go: to the end of their room, from where each moves to its place, the first one furthest.
 */
static enum status read_following(
	struct loader *loader, struct mixture *mixture, struct slot *slot, uint64_t i, uint64_t rows)
{
	const struct sampler_window *window = &slot->windows[i];
	uint64_t T = loader->row - 1, gap = rows - 1;
	int32_t *tokens = slot->tokens + i * loader->row;
	TRY(corpus_read_in_order(
		mixture->sources[window->source].corpus, window->first_token, rows * T + 1, tokens + gap));
	for (uint64_t r = 0; r < gap; r++)
		memmove(tokens + r * loader->row, tokens + gap + r * T, loader->row * sizeof *tokens);
	return STATUS_OK;
}

/* How many windows from number i on follow one another. */
static uint64_t count_following(const struct loader *loader, const struct sampler_window *windows, uint64_t i)
{
	uint64_t T = loader->row - 1, end = i + 1;
	while (end < loader->config.micro_batch && windows[end].source == windows[i].source &&
		windows[end].first_token == windows[end - 1].first_token + T)
		end++;
	return end - i;
}

static enum status fill_in_order(struct loader *loader, struct mixture *mixture, struct slot *slot)
{
	uint64_t rows;
	for (uint64_t i = 0; i < loader->config.micro_batch; i += rows) {
		rows = count_following(loader, slot->windows, i);
		TRY(read_following(loader, mixture, slot, i, rows));
	}
	return STATUS_OK;
}

static enum status fill(struct loader *loader, struct mixture *mixture, uint64_t number, struct slot *slot)
{
	uint64_t ordinal = first_ordinal(loader, number);
	for (uint64_t i = 0; i < loader->config.micro_batch; i++) {
		if (atomic_load_explicit(&loader->stop, memory_order_relaxed))
			return error_set(STATUS_INTERRUPTED, "the loader is being closed");
		struct sampler_window window = mixture_get(mixture, ordinal + i);
		slot->windows[i] = window;
		if (!loader->in_order)
			TRY(corpus_read(mixture->sources[window.source].corpus, window.first_token,
				loader->row, slot->tokens + i * loader->row));
	}
	return loader->in_order ? fill_in_order(loader, mixture, slot) : STATUS_OK;
}

/* ---- the threads ---- */

/* Waits for room and takes the next micro-batch, and what is to be prefetched: [*from, *until). */
static bool claim(struct loader *loader, uint64_t *number, uint64_t *from, uint64_t *until)
{
	pthread_mutex_lock(&loader->mutex);
	while (!loader->stop && (loader->failed != UINT64_MAX ||
					loader->claimed >= loader->next + (uint64_t)loader->config.depth))
		pthread_cond_wait(&loader->room, &loader->mutex);
	bool go = !loader->stop;
	if (go) {
		*number = loader->claimed++;
		*from = loader->prefetched;
		*until = loader->claimed + (uint64_t)loader->config.depth;
		loader->prefetched = *until;
	}
	pthread_mutex_unlock(&loader->mutex);
	return go;
}

static void finish(struct loader *loader, uint64_t number, enum status status)
{
	pthread_mutex_lock(&loader->mutex);
	/* Claims go up, so all before the lowest failure have been claimed and will be done. */
	if (status != STATUS_OK && number < loader->failed) {
		loader->failed = number;
		error_save(status, &loader->error);
	}
	loader->slots[number % loader->slot_count].done = true;
	pthread_cond_signal(&loader->ready);
	pthread_mutex_unlock(&loader->mutex);
}

static void *work(void *argument)
{
	struct loader *loader = argument;
	struct mixture reading = loader->mixture, ahead = loader->mixture;
	uint64_t number, from, until;
	while (claim(loader, &number, &from, &until)) {
		for (; from < until && !loader->in_order; from++)
			prefetch(loader, &ahead, from);
		finish(loader, number,
			fill(loader, &reading, number, &loader->slots[number % loader->slot_count]));
	}
	return NULL;
}

/* Signals are for the program's own threads; those that a thread's own instruction raises stay. */
static enum status start_threads(struct loader *loader)
{
	sigset_t all, before;
	sigfillset(&all);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGSEGV);
	sigdelset(&all, SIGFPE);
	sigdelset(&all, SIGILL);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	while (loader->started < loader->config.threads &&
		pthread_create(&loader->threads[loader->started], NULL, work, loader) == 0)
		loader->started++;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	FAIL_IF(!loader->started, STATUS_MEMORY, "cannot start a thread that reads the corpus");
	return STATUS_OK;
}

/* ---- the caller's side ---- */

static enum status check(const struct loader_config *config)
{
	FAIL_IF(config->ranks < 1 || config->rank < 0 || config->rank >= config->ranks, STATUS_USAGE,
		"rank %d of %d is impossible", config->rank, config->ranks);
	FAIL_IF(config->global_batch > MOST_WINDOWS || config->micro_batch > MOST_WINDOWS, STATUS_USAGE,
		"batches of %" PRIu64 " and micro-batches of %" PRIu64 " windows are not possible; %" PRIu64
		" are the most",
		config->global_batch, config->micro_batch, MOST_WINDOWS);
	FAIL_IF(config->micro_batch < 1 || config->global_batch < 1 ||
			config->global_batch % ((uint64_t)config->ranks * config->micro_batch),
		STATUS_USAGE,
		"a global batch of %" PRIu64 " windows cannot be cut into micro-batches of %" PRIu64
		" for %d ranks: it must be a multiple of %" PRIu64,
		config->global_batch, config->micro_batch, config->ranks,
		(uint64_t)config->ranks * config->micro_batch);
	FAIL_IF(config->threads < 1 || config->depth < 1, STATUS_USAGE,
		"a loader needs at least one thread and a depth of one, not %d and %d", config->threads,
		config->depth);
	return STATUS_OK;
}

static bool comes_in_order(const struct mixture *mixture)
{
	for (int i = 0; i < mixture->count; i++)
		if (mixture->sources[i].sampler.shuffled)
			return false;
	return true;
}

static enum status allocate_slots(struct loader *loader)
{
	const struct loader_config *config = &loader->config;
	/* Slots begin on cache lines, so that two threads never write to one. */
	size_t slot_bytes, line = 64;
	FAIL_IF(__builtin_mul_overflow(config->micro_batch * sizeof(int32_t), loader->row, &slot_bytes) ||
			slot_bytes > SIZE_MAX / 2 / loader->slot_count,
		STATUS_MEMORY, "batches of %" PRIu64 " x %zu tokens do not fit memory", config->micro_batch,
		loader->row);
	slot_bytes = (slot_bytes + line - 1) / line * line;
	loader->tokens_bytes = slot_bytes * loader->slot_count;
	if (config->allocate)
		TRY(config->allocate(config->user, loader->tokens_bytes, (void **)&loader->tokens));
	else
		TRY(memory_alloc_large((void **)&loader->tokens, loader->tokens_bytes, "batches"));
	TRY(memory_alloc(
		(void **)&loader->slots, (size_t)loader->slot_count, sizeof *loader->slots, "batches"));
	TRY(memory_alloc((void **)&loader->windows, (size_t)(loader->slot_count * config->micro_batch),
		sizeof *loader->windows, "batches"));
	for (uint64_t i = 0; i < loader->slot_count; i++) {
		loader->slots[i].tokens = loader->tokens + i * (slot_bytes / sizeof(int32_t));
		loader->slots[i].windows = loader->windows + i * config->micro_batch;
	}
	return memory_alloc(
		(void **)&loader->threads, (size_t)config->threads, sizeof *loader->threads, "threads");
}

enum status loader_open(const struct loader_config *config, struct loader **out)
{
	const struct mixture_source alone = {config->corpus, config->sampler, 1};
	struct mixture mixture;
	struct loader *loader;
	*out = NULL;
	TRY(check(config));
	if (config->mixture)
		mixture = *config->mixture;
	else
		TRY(mixture_open(&mixture, &alone, 1));
	TRY(memory_alloc((void **)&loader, 1, sizeof *loader, "a loader"));
	loader->config = *config;
	loader->micros_per_step = config->global_batch / ((uint64_t)config->ranks * config->micro_batch);
	loader->mixture = mixture;
	loader->row = (size_t)mixture.sources[0].sampler.window_tokens + 1;
	loader->in_order = comes_in_order(&mixture);
	loader->slot_count = (uint64_t)config->depth + 1;
	loader->failed = UINT64_MAX;
	pthread_mutex_init(&loader->mutex, NULL);
	pthread_cond_init(&loader->room, NULL);
	pthread_cond_init(&loader->ready, NULL);
	enum status status = allocate_slots(loader);
	if (status == STATUS_OK)
		status = start_threads(loader);
	if (status != STATUS_OK) {
		loader_close(loader);
		return status;
	}
	*out = loader;
	return STATUS_OK;
}

enum status loader_next(struct loader *loader, struct loader_batch *batch)
{
	pthread_mutex_lock(&loader->mutex);
	uint64_t number = loader->next;
	struct slot *slot = &loader->slots[number % loader->slot_count];
	while (!slot->done && loader->failed != number)
		pthread_cond_wait(&loader->ready, &loader->mutex);
	bool failed = loader->failed == number;
	if (!failed) {
		slot->done = false; /* its next turn comes after this batch has been given back */
		loader->next++;
		pthread_cond_broadcast(&loader->room);
	}
	pthread_mutex_unlock(&loader->mutex);
	if (failed) /* and again at every further call */
		return error_restore(&loader->error);
	*batch = (struct loader_batch){.tokens = slot->tokens, .windows = slot->windows};
	return STATUS_OK;
}

void loader_close(struct loader *loader)
{
	if (!loader)
		return;
	pthread_mutex_lock(&loader->mutex);
	loader->stop = true;
	pthread_cond_broadcast(&loader->room);
	pthread_mutex_unlock(&loader->mutex);
	for (int i = 0; i < loader->started; i++)
		pthread_join(loader->threads[i], NULL);
	pthread_cond_destroy(&loader->room);
	pthread_cond_destroy(&loader->ready);
	pthread_mutex_destroy(&loader->mutex);
	if (loader->config.release && loader->tokens)
		loader->config.release(loader->config.user, loader->tokens, loader->tokens_bytes);
	else if (!loader->config.allocate)
		memory_free_large(loader->tokens, loader->tokens_bytes);
	free(loader->slots);
	free(loader->windows);
	free(loader->threads);
	free(loader);
}
