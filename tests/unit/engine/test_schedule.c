#include "engine/schedule.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct schedule reference = {
	.style = SCHEDULE_COSINE, .learning_rate = 1.5e-4, .warmup = .01, .decay_iters = 1000000};

/*
 * All learning rates that the reference run printed (tests/golden/make_seed_golden.sh). It printed, at
 * iteration k, the rate after its scheduler's k-th step; ferry's update k uses that rate, its own update k
 * used the one before.
 */
static void equals_every_rate_of_the_reference_log(void **state)
{
	(void)state;
	FILE *golden = fopen("tests/golden/seed_iterations.txt", "r");
	unsigned long long iteration;
	char printed[32], ours[32];
	int lines = 0;
	assert_non_null(golden);
	for (; fscanf(golden, "%llu %31s %*s", &iteration, printed) == 2; lines++) {
		snprintf(ours, sizeof ours, "%.3E", schedule_learning_rate(&reference, iteration));
		if (strcmp(printed, ours) != 0)
			fail_msg(
				"iteration %llu: the reference printed %s, not %s", iteration, printed, ours);
	}
	fclose(golden);
	assert_int_equal(lines, 4600);
}

/* Values of the formula in Python (math.cos), at places where the styles differ. */
static void other_styles_and_ends(void **state)
{
	(void)state;
	struct schedule s = reference;
	assert_true(schedule_learning_rate(&s, 0) == 0);
	assert_true(
		schedule_learning_rate(&s, 23000) == 0.0001499374600756905); /* printed in full in the log */
	/* At the end cosine is at 0.99 pi, and stays there. */
	assert_true(fabs(schedule_learning_rate(&s, 1000000) - 3.7007972570129996e-08) < 1e-22);
	assert_true(schedule_learning_rate(&s, 5000000) == schedule_learning_rate(&s, 1000000));
	s.minimum = 1e-5;
	assert_true(schedule_learning_rate(&s, 1000000) == 1e-5);
	assert_true(schedule_learning_rate(&s, 100) == 1.5e-4 * 100 / 10000); /* the warm-up starts below */
	s.style = SCHEDULE_LINEAR;
	s.minimum = 0;
	assert_true(fabs(schedule_learning_rate(&s, 505000) - 1.5e-4 * 0.505) < 1e-18);
	assert_true(fabs(schedule_learning_rate(&s, 1000000) - 1.5e-6) < 1e-18);
	s.style = SCHEDULE_CONSTANT;
	assert_true(schedule_learning_rate(&s, 10001) == 1.5e-4);
	s.warmup = 0;
	assert_true(schedule_learning_rate(&s, 0) == 1.5e-4);
	s = (struct schedule){SCHEDULE_COSINE, 1, 0, 0.5, 3}; /* W = 1.5, not rounded */
	assert_true(schedule_learning_rate(&s, 1) == 1 / 1.5);
	assert_true(schedule_learning_rate(&s, 2) == 0.5 * (cos(M_PI * 0.5 / 3) + 1));
}

static void impossible_values_are_refused(void **state)
{
	(void)state;
	static const struct schedule wrong[] = {{SCHEDULE_COSINE, -1, 0, .01, 10},
		{SCHEDULE_COSINE, NAN, 0, .01, 10}, {SCHEDULE_COSINE, 1e-4, 1e-3, .01, 10},
		{SCHEDULE_COSINE, 1e-4, 0, 1.5, 10}, {SCHEDULE_COSINE, 1e-4, 0, .01, 0},
		{SCHEDULE_COSINE, 1e-4, -1, .01, 10}};
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
		assert_int_equal(schedule_check(&wrong[i]), STATUS_USAGE);
	enum schedule_style style;
	assert_int_equal(schedule_style_parse("exponential", &style), STATUS_USAGE);
	for (int i = 0; i < SCHEDULE_STYLES; i++) {
		assert_int_equal(
			schedule_style_parse(schedule_style_name((enum schedule_style)i), &style), STATUS_OK);
		assert_int_equal(style, i);
	}
	assert_int_equal(schedule_check(&reference), STATUS_OK);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(equals_every_rate_of_the_reference_log),
		cmocka_unit_test(other_styles_and_ends), cmocka_unit_test(impossible_values_are_refused)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
