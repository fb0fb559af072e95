/*
 * thread_ranks.h: ranks that are threads of one process, for tests: the table of engine/collective.h over memory
 * that they share.
 *
 * crowd_run(ranks, work, user) calls work(user, collective) on a thread each and returns when all are done. What
 * failed first is its result, with its message. A rank that fails otherwise than by agreement ends the crowd, as the
 * program's does: operations of the others fail with STATUS_INTERRUPTED. So they do when a rank has returned, for it
 * will not come. Threads must not call cmocka's asserts.
 */
#ifndef TESTS_UNIT_ENGINE_THREAD_RANKS_H
#define TESTS_UNIT_ENGINE_THREAD_RANKS_H

#include "engine/collective.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { CROWD = 8 };

struct crowd {
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	int ranks, arrived;
	unsigned round;
	bool broken;
	void *posted[CROWD];
	const uint64_t *cuts[CROWD];
	/* the first failure that was not agreed on, or else rank 0's */
	struct error_copy failure;
	enum status (*work)(void *user, struct collective *c);
	void *user;
	struct collective members[CROWD];
};

/* Returns when all have come, or one never will. */
static inline enum status crowd_meet(struct crowd *w)
{
	pthread_mutex_lock(&w->mutex);
	unsigned round = w->round;
	if (++w->arrived == w->ranks) {
		w->arrived = 0;
		w->round++;
		pthread_cond_broadcast(&w->changed);
	}
	while (round == w->round && !w->broken)
		pthread_cond_wait(&w->changed, &w->mutex);
	bool met = round != w->round;
	pthread_mutex_unlock(&w->mutex);
	return met ? STATUS_OK : error_set(STATUS_INTERRUPTED, "another rank has failed");
}

/* Shows what is here, and returns when all are seen. */
static inline enum status crowd_post(struct collective *c, void *block, const uint64_t *cuts)
{
	struct crowd *w = c->self;
	w->posted[c->rank] = block;
	w->cuts[c->rank] = cuts;
	TRY(crowd_meet(w));
	for (int r = 0; r < c->ranks; r++)
		if (memcmp(w->cuts[r], cuts, (size_t)(c->ranks + 1) * sizeof *cuts))
			return error_set(STATUS_MISMATCH, "ranks %d and %d cut differently", c->rank, r);
	return STATUS_OK;
}

static inline enum status crowd_exchange(
	struct collective *c, const void *block, const uint64_t *cuts, void *parts)
{
	struct crowd *w = c->self;
	uint64_t from = cuts[c->rank], bytes = cuts[c->rank + 1] - from;
	TRY(crowd_post(c, (void *)(uintptr_t)block, cuts));
	for (int r = 0; r < c->ranks; r++)
		memcpy((char *)parts + (uint64_t)r * bytes, (const char *)w->posted[r] + from, bytes);
	return crowd_meet(w);
}

static inline enum status crowd_gather(struct collective *c, void *block, const uint64_t *cuts)
{
	struct crowd *w = c->self;
	TRY(crowd_post(c, block, cuts));
	for (int r = 0; r < c->ranks; r++)
		if (r != c->rank)
			memcpy((char *)block + cuts[r], (const char *)w->posted[r] + cuts[r],
				cuts[r + 1] - cuts[r]);
	return crowd_meet(w);
}

static inline void crowd_abort(struct collective *c, int exit_code)
{
	struct crowd *w = c->self;
	(void)exit_code;
	pthread_mutex_lock(&w->mutex);
	w->broken = true;
	pthread_cond_broadcast(&w->changed);
	pthread_mutex_unlock(&w->mutex);
}

static inline void crowd_close(struct collective *c)
{
	(void)c;
}

static inline void *crowd_member(void *argument)
{
	struct collective *c = argument;
	struct crowd *w = c->self;
	enum status status = w->work(w->user, c);
	pthread_mutex_lock(&w->mutex);
	if (status != STATUS_OK && (!c->agreed || c->rank == 0) && w->failure.status == STATUS_OK)
		error_save(status, &w->failure);
	pthread_mutex_unlock(&w->mutex);
	c->abort(c, 0); /* it comes no more */
	return NULL;
}

static inline enum status crowd_run(
	int ranks, enum status (*work)(void *user, struct collective *c), void *user)
{
	struct crowd w = {.mutex = PTHREAD_MUTEX_INITIALIZER,
		.changed = PTHREAD_COND_INITIALIZER,
		.ranks = ranks,
		.work = work,
		.user = user};
	pthread_t threads[CROWD];
	for (int r = 0; r < ranks; r++) {
		w.members[r] = (struct collective){.rank = r,
			.ranks = ranks,
			.self = &w,
			.exchange = crowd_exchange,
			.gather = crowd_gather,
			.abort = crowd_abort,
			.close = crowd_close};
		snprintf(w.members[r].name, sizeof w.members[r].name, "threads");
		pthread_create(&threads[r], NULL, crowd_member, &w.members[r]);
	}
	for (int r = 0; r < ranks; r++)
		pthread_join(threads[r], NULL);
	return w.failure.status == STATUS_OK ? STATUS_OK : error_restore(&w.failure);
}

#endif
