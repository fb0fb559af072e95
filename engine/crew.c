#include "engine/crew.h"

#include "common/memory.h"
#include "common/threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>

struct member {
	struct crew *crew;
	int number;
	pthread_t thread;
};

struct crew {
	int members, started; /* threads: members - 1 when open */
	struct member *list;  /* [members]; 0 has no thread */
	cpu_set_t allowed;
	bool bound;
	pthread_mutex_t mutex;
	pthread_cond_t begin, end;
	uint64_t round; /* of work, counted */
	int busy;
	bool stop;
	crew_work *work;
	void *context;
};

/* The n-th of the processors that this process may use. */
void crew_bind(const struct crew *c, int member)
{
	if (!c->bound)
		return;
	cpu_set_t one;
	CPU_ZERO(&one);
	for (int cpu = 0, seen = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &c->allowed) || seen++ != member)
			continue;
		CPU_SET(cpu, &one);
		(void)pthread_setaffinity_np(pthread_self(), sizeof one, &one);
		return;
	}
}

static void *serve(void *argument)
{
	struct member *m = argument;
	struct crew *c = m->crew;
	crew_bind(c, m->number);
	pthread_mutex_lock(&c->mutex);
	for (uint64_t seen = 0;;) {
		while (!c->stop && c->round == seen)
			pthread_cond_wait(&c->begin, &c->mutex);
		if (c->stop)
			break;
		seen = c->round;
		crew_work *work = c->work;
		void *context = c->context;
		pthread_mutex_unlock(&c->mutex);
		work(context, m->number);
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

enum status crew_open(int members, struct crew **out)
{
	struct crew *c;
	*out = NULL;
	if (members < 1)
		members = threads_available();
	TRY(memory_alloc((void **)&c, 1, sizeof *c, "the optimizer's threads"));
	c->members = members;
	c->bound = sched_getaffinity(0, sizeof c->allowed, &c->allowed) == 0 &&
		   CPU_COUNT(&c->allowed) >= members;
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

void crew_run(struct crew *c, crew_work *work, void *context)
{
	pthread_mutex_lock(&c->mutex);
	c->work = work;
	c->context = context;
	c->busy = c->members - 1;
	c->round++;
	pthread_cond_broadcast(&c->begin);
	pthread_mutex_unlock(&c->mutex);
	work(context, 0);
	pthread_mutex_lock(&c->mutex);
	while (c->busy)
		pthread_cond_wait(&c->end, &c->mutex);
	pthread_mutex_unlock(&c->mutex);
}
