#include "common/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>
#include <cmocka.h>

static double system_clock(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec * INT64_C(1000000000) + now.tv_nsec) / 1e9;
}

/* Between two looks at the system's own, to a microsecond, and never before the last. */
static void is_the_monotonic_clock(void **state)
{
	(void)state;
	double last = 0;
	for (int i = 0; i < 1000; i++) {
		double before = system_clock(), seen = clock_seconds(), after = system_clock();
		assert_true(seen > before - 1e-6 && seen < after + 1e-6);
		assert_true(seen >= last);
		last = seen;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(is_the_monotonic_clock),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
