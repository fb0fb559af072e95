#include "common/threads.h"

#include "common/cgroup.h"
#include "common/memory.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int threads_available(void)
{
	cpu_set_t set;
	int count = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set)
								: (int)sysconf(_SC_NPROCESSORS_ONLN);
	int quota = cgroup_processors("");
	if (quota && quota < count)
		count = quota;
	return count > 0 ? count : 1;
}

enum status threads_check(const char *flag, int threads)
{
	enum { FOR_ALL = 64, EACH = 4 };
	int processors = threads_available();
	int most = processors > FOR_ALL / EACH ? processors * EACH : FOR_ALL;
	FAIL_IF(threads > most, STATUS_USAGE,
		"%s %d: there %s %d processor%s for ferry here, where more than %d threads would only wait "
		"for each other; "
		"give fewer",
		flag, threads, processors == 1 ? "is" : "are", processors, processors == 1 ? "" : "s", most);
	return STATUS_OK;
}

double threads_processor_seconds(void)
{
	struct timespec now;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

struct crew {
	pthread_mutex_t mutex;
	uint64_t next, count;
	thread_task *task;
	void *context;
	uint64_t failed_task; /* the lowest, UINT64_MAX when none */
	struct error_copy error;
};

struct member {
	struct crew *crew;
	int worker;
	pthread_t thread;
};

static bool take_task(struct crew *crew, uint64_t *task)
{
	pthread_mutex_lock(&crew->mutex);
	bool taken = crew->failed_task == UINT64_MAX && crew->next < crew->count;
	if (taken)
		*task = crew->next++;
	pthread_mutex_unlock(&crew->mutex);
	return taken;
}

static void note_failure(struct crew *crew, uint64_t task, enum status status)
{
	pthread_mutex_lock(&crew->mutex);
	if (task < crew->failed_task) {
		crew->failed_task = task;
		error_save(status, &crew->error);
	}
	pthread_mutex_unlock(&crew->mutex);
}

static void *work(void *argument)
{
	struct member *member = argument;
	struct crew *crew = member->crew;
	uint64_t task;
	while (take_task(crew, &task)) {
		enum status status = crew->task(crew->context, member->worker, task);
		if (status != STATUS_OK)
			note_failure(crew, task, status);
	}
	return NULL;
}

enum status threads_run(int workers, uint64_t count, thread_task *task, void *context)
{
	struct crew crew = {.count = count, .task = task, .context = context, .failed_task = UINT64_MAX};
	struct member *members;
	if (workers < 1)
		workers = 1;
	TRY(memory_alloc((void **)&members, (size_t)workers, sizeof *members, "worker threads"));
	pthread_mutex_init(&crew.mutex, NULL);
	int started = 1;
	for (int i = 0; i < workers; i++)
		members[i] = (struct member){.crew = &crew, .worker = i};
	/* Fewer threads than asked for still do all the work. */
	while (started < workers && (uint64_t)started < count &&
		pthread_create(&members[started].thread, NULL, work, &members[started]) == 0)
		started++;
	work(&members[0]);
	for (int i = 1; i < started; i++)
		pthread_join(members[i].thread, NULL);
	pthread_mutex_destroy(&crew.mutex);
	free(members);
	return crew.failed_task == UINT64_MAX ? STATUS_OK : error_restore(&crew.error);
}
