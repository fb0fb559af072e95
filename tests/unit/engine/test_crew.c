/* The crew: all of the work is done, once each, by whoever has time. */
#include "engine/crew.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

enum { MOST = 5000 };

struct tally {
	unsigned char times[MOST];
	uint64_t total, unit;
	bool out_of_place;
};

/* Pieces are disjoint, or a count is wrong (and a race, to the thread sanitizer). */
static void count(void *context, uint64_t from, uint64_t to)
{
	struct tally *t = context;
	if (from >= to || to > t->total || from % t->unit || (to % t->unit && to != t->total))
		t->out_of_place = true;
	for (uint64_t i = from; i < to && i < t->total; i++)
		t->times[i]++;
}

static void each_item_is_done_once(void **state)
{
	static const uint64_t totals[] = {0, 1, 2, 63, 64, 65, 700, 4096, MOST}, units[] = {1, 64, 1000};
	static struct tally t;
	(void)state;
	for (int members = 1; members <= 7; members++) {
		struct crew *crew;
		assert_int_equal(crew_open(members, 0, &crew), STATUS_OK);
		assert_int_equal(crew_members(crew), members);
		for (size_t i = 0; i < sizeof totals / sizeof *totals * 3; i++) {
			memset(&t, 0, sizeof t);
			t.total = totals[i / 3], t.unit = units[i % 3];
			crew_run(crew, t.total, t.unit, count, &t);
			assert_false(t.out_of_place);
			for (uint64_t item = 0; item < MOST; item++)
				assert_int_equal(t.times[item], item < t.total);
		}
		crew_close(crew);
	}
}

struct held {
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	uint64_t total, done;
	bool gave_up;
};

/* Whoever has the first piece is kept until all others are done. */
static void hold_the_first(void *context, uint64_t from, uint64_t to)
{
	struct held *h = context;
	struct timespec limit;
	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += 20;
	pthread_mutex_lock(&h->mutex);
	h->done += to - from;
	pthread_cond_signal(&h->changed);
	while (from == 0 && h->done < h->total && !h->gave_up)
		h->gave_up = pthread_cond_timedwait(&h->changed, &h->mutex, &limit) != 0;
	pthread_mutex_unlock(&h->mutex);
}

static void the_share_of_one_who_is_held_up_is_done_by_others(void **state)
{
	(void)state;
	for (int members = 2; members <= 3; members++) {
		struct held h = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 4096, 0, false};
		struct crew *crew;
		assert_int_equal(crew_open(members, 0, &crew), STATUS_OK);
		crew_run(crew, h.total, 1, hold_the_first, &h);
		crew_close(crew);
		assert_false(h.gave_up);
		assert_int_equal(h.done, h.total);
	}
}

static void *bind(void *argument)
{
	struct crew *crew = argument;
	static cpu_set_t mine;
	crew_bind(crew, 0);
	if (sched_getaffinity(0, sizeof mine, &mine) != 0)
		CPU_ZERO(&mine);
	return &mine;
}

/* The processors before a crew's first are another's; where there are too few, it has none of its own. */
static void processors_are_those_from_the_first_on(void **state)
{
	(void)state;
	cpu_set_t all, expected;
	assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
	int count = CPU_COUNT(&all);
	for (int first = 0, cpu = 0; first <= count; first++, cpu++) {
		struct crew *crew;
		pthread_t thread;
		void *bound;
		while (first < count && !CPU_ISSET(cpu, &all))
			cpu++;
		expected = all;
		if (first < count) {
			CPU_ZERO(&expected);
			CPU_SET(cpu, &expected);
		}
		assert_int_equal(crew_open(1, first, &crew), STATUS_OK);
		assert_int_equal(pthread_create(&thread, NULL, bind, crew), 0);
		assert_int_equal(pthread_join(thread, &bound), 0);
		assert_true(CPU_EQUAL((cpu_set_t *)bound, &expected));
		crew_close(crew);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(each_item_is_done_once),
		cmocka_unit_test(processors_are_those_from_the_first_on),
		cmocka_unit_test(the_share_of_one_who_is_held_up_is_done_by_others)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
