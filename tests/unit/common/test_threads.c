#include "common/threads.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

enum { TASKS = 20000, WORKERS = 8 };

struct job {
	atomic_int runs[TASKS];
	atomic_int busy[WORKERS]; /* a worker number is one thread's at a time */
	atomic_bool shared;
	uint64_t fail_from, fail_step; /* tasks that fail */
};

static enum status run_task(void *context, int worker, uint64_t task)
{
	struct job *job = context;
	if (worker < 0 || worker >= WORKERS || atomic_fetch_add(&job->busy[worker], 1) != 0)
		atomic_store(&job->shared, true);
	atomic_fetch_add(&job->runs[task], 1);
	atomic_fetch_sub(&job->busy[worker], 1);
	if (job->fail_step && task >= job->fail_from && (task - job->fail_from) % job->fail_step == 0)
		return error_set(STATUS_CORRUPT, "task %llu", (unsigned long long)task);
	return STATUS_OK;
}

static struct job job;

static void each_once(void **state)
{
	(void)state;
	static const int crews[] = {0, 1, 2, 3, WORKERS};
	for (int c = 0; c < 5; c++) {
		memset(&job, 0, sizeof job);
		assert_int_equal(threads_run(crews[c], TASKS, run_task, &job), STATUS_OK);
		for (int i = 0; i < TASKS; i++)
			assert_int_equal(atomic_load(&job.runs[i]), 1);
		assert_false(atomic_load(&job.shared));
	}
}

static void no_tasks(void **state)
{
	(void)state;
	memset(&job, 0, sizeof job);
	assert_int_equal(threads_run(4, 0, run_task, &job), STATUS_OK);
	assert_int_equal(atomic_load(&job.runs[0]), 0);
}

/* The failure of the lowest task is told, its message crosses the threads, and later tasks do not start. */
static void failure(void **state)
{
	(void)state;
	for (int workers = 1; workers <= WORKERS; workers++) {
		memset(&job, 0, sizeof job);
		job.fail_from = 100;
		job.fail_step = 1;
		assert_int_equal(threads_run(workers, TASKS, run_task, &job), STATUS_CORRUPT);
		assert_string_equal(error_message(), "task 100");
		int started = 0;
		for (int i = 0; i < TASKS; i++)
			started += atomic_load(&job.runs[i]);
		assert_in_range(started, 101, 100 + workers);
		for (int i = 0; i <= 100; i++)
			assert_int_equal(atomic_load(&job.runs[i]), 1);
	}
}

static void processors(void **state)
{
	(void)state;
	assert_in_range(threads_available(), 1, 1 << 20);
}

/* As many as another machine's run may have had are let through, and four for each processor. */
static void too_many(void **state)
{
	(void)state;
	assert_int_equal(threads_check("--threads", 1), STATUS_OK);
	assert_int_equal(threads_check("--threads", 64), STATUS_OK);
	assert_int_equal(threads_check("--threads", 4 * threads_available()), STATUS_OK);
	int most = 4 * threads_available() > 64 ? 4 * threads_available() : 64;
	assert_int_equal(threads_check("--threads", most + 1), STATUS_USAGE);
	assert_non_null(strstr(error_message(), "--threads"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_once),
		cmocka_unit_test(no_tasks),
		cmocka_unit_test(failure),
		cmocka_unit_test(processors),
		cmocka_unit_test(too_many),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
