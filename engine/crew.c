#include "engine/crew.h"

#include "common/memory.h"
#include "common/threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { PIECES = 16 }; /* of a member's share */

struct member {
	struct crew *crew;
	int number;
	pthread_t thread;
	_Atomic uint64_t next; /* of its share: begin of the first piece that nobody has taken */
	uint64_t end;
};

struct crew {
	int members, started; /* threads: members - 1 when open */
	int first;            /* processor */
	struct member *list;  /* [members]; 0 has no thread */
	cpu_set_t allowed;
	bool bound;
	pthread_mutex_t mutex;
	pthread_cond_t begin, end;
	uint64_t round; /* of work, counted */
	bool open;      /* the round: there may be pieces left */
	int busy;       /* of the threads: those at work */
	bool stop;
	crew_work *work;
	void *context;
	uint64_t piece;
};

void crew_bind(const struct crew *c, int member)
{
	if (!c->bound)
		return;
	cpu_set_t one;
	CPU_ZERO(&one);
	for (int cpu = 0, seen = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &c->allowed) || seen++ != c->first + member)
			continue;
		CPU_SET(cpu, &one);
		(void)pthread_setaffinity_np(pthread_self(), sizeof one, &one);
		return;
	}
}

static void take_pieces(const struct crew *c, struct member *of)
{
	uint64_t from;
	while ((from = atomic_fetch_add_explicit(&of->next, c->piece, memory_order_relaxed)) < of->end)
		c->work(c->context, from, of->end - from < c->piece ? of->end : from + c->piece);
}

/* Its own share, then what is left of the others'. */
static void work_along(struct crew *c, int member)
{
	for (int i = 0; i < c->members; i++)
		take_pieces(c, &c->list[(member + i) % c->members]);
}

static void *serve(void *argument)
{
	struct member *m = argument;
	struct crew *c = m->crew;
	crew_bind(c, m->number);
	pthread_mutex_lock(&c->mutex);
	for (uint64_t seen = 0;;) {
		while (!c->stop && (!c->open || c->round == seen))
			pthread_cond_wait(&c->begin, &c->mutex);
		if (c->stop)
			break;
		seen = c->round;
		c->busy++;
		pthread_mutex_unlock(&c->mutex);
		work_along(c, m->number);
		pthread_mutex_lock(&c->mutex);
		if (--c->busy == 0)
			pthread_cond_signal(&c->end);
	}
	pthread_mutex_unlock(&c->mutex);
	return NULL;
}

static enum status start(struct crew *c)
{
	for (int i = 1; i < c->members; i++) {
		c->list[i] = (struct member){.crew = c, .number = i};
		FAIL_IF(pthread_create(&c->list[i].thread, NULL, serve, &c->list[i]), STATUS_MEMORY,
			"cannot start a thread for the optimizer (number %d); give fewer --threads", i + 1);
		c->started++;
	}
	return STATUS_OK;
}

enum status crew_open(int members, int first, struct crew **out)
{
	struct crew *c;
	*out = NULL;
	if (members < 1)
		members = threads_available();
	TRY(memory_alloc((void **)&c, 1, sizeof *c, "the optimizer's threads"));
	c->members = members;
	c->first = first;
	c->bound = sched_getaffinity(0, sizeof c->allowed, &c->allowed) == 0 &&
		   CPU_COUNT(&c->allowed) >= first + members;
	pthread_mutex_init(&c->mutex, NULL);
	pthread_cond_init(&c->begin, NULL);
	pthread_cond_init(&c->end, NULL);
	enum status status =
		memory_alloc((void **)&c->list, (size_t)members, sizeof *c->list, "the optimizer's threads");
	if (status == STATUS_OK)
		status = start(c);
	if (status != STATUS_OK) {
		crew_close(c);
		return status;
	}
	*out = c;
	return STATUS_OK;
}

void crew_close(struct crew *c)
{
	if (!c)
		return;
	pthread_mutex_lock(&c->mutex);
	c->stop = true;
	pthread_cond_broadcast(&c->begin);
	pthread_mutex_unlock(&c->mutex);
	for (int i = 1; i <= c->started; i++)
		pthread_join(c->list[i].thread, NULL);
	pthread_cond_destroy(&c->begin);
	pthread_cond_destroy(&c->end);
	pthread_mutex_destroy(&c->mutex);
	free(c->list);
	free(c);
}

int crew_members(const struct crew *c)
{
	return c->members;
}

static void divide(struct crew *c, uint64_t total, uint64_t unit)
{
	uint64_t members = (uint64_t)c->members, units = total / unit + (total % unit != 0);
	for (uint64_t m = 0; m < members; m++) {
		atomic_store_explicit(&c->list[m].next, units * m / members * unit, memory_order_relaxed);
		c->list[m].end = m + 1 < members ? units * (m + 1) / members * unit : total;
	}
	c->piece = (units / members / PIECES + 1) * unit;
}

void crew_run(struct crew *c, uint64_t total, uint64_t unit, crew_work *work, void *context)
{
	pthread_mutex_lock(&c->mutex);
	c->work = work;
	c->context = context;
	divide(c, total, unit);
	c->open = true;
	c->round++;
	pthread_cond_broadcast(&c->begin);
	pthread_mutex_unlock(&c->mutex);
	work_along(c, 0);
	pthread_mutex_lock(&c->mutex);
	c->open = false; /* nothing is left: who has not woken by now is not waited for */
	while (c->busy)
		pthread_cond_wait(&c->end, &c->mutex);
	pthread_mutex_unlock(&c->mutex);
}
