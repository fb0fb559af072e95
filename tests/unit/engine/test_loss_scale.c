#include "engine/loss_scale.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>

/* Worked by hand from the rule: window 4, hysteresis 2, minimum 2, start 2^4; x is an overflow. */
static void follows_the_rule(void **state)
{
	(void)state;
	static const struct {
		bool overflow;
		double scale;
		uint32_t left;
	} steps[] = {
		/* i = 0..3: last = -1, so i - last = 1, 2, 3, 4: the fourth clean step raises */
		{false, 16, 2}, {false, 16, 2}, {false, 16, 2}, {false, 32, 2},
		{true, 32, 1},                               /* i = 4: patience */
		{true, 16, 1},                               /* i = 5: halved; hysteresis stays used up */
		{true, 8, 1},                                /* i = 6 */
		{false, 8, 1},                               /* i = 7, i - last = 1 */
		{false, 8, 1},                               /* 2 */
		{true, 4, 1},                                /* i = 9: no window was clean in between */
		{true, 2, 1},                                /* i = 10 */
		{true, 2, 1},                                /* i = 11: not below the minimum */
		{false, 2, 1},                               /* i = 12, 1 */
		{false, 2, 1},                               /* 2 */
		{false, 2, 1},                               /* 3 */
		{false, 4, 2},                               /* i = 15, 4: refilled and doubled */
		{true, 4, 1},                                /* i = 16: patience again */
		{false, 4, 1},                               /* i = 17, 1 */
		{false, 4, 1}, {false, 4, 1}, {false, 8, 2}, /* i = 20 */
		{false, 8, 2}, {false, 8, 2}, {false, 8, 2}, {false, 16, 2}, /* i = 24: 8 steps clean */
	};
	struct loss_scale s = loss_scale_dynamic(4, 4, 2, 2);
	assert_int_equal(loss_scale_check(&s), STATUS_OK);
	for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
		double scale = loss_scale_update(&s, steps[i].overflow);
		if (scale != steps[i].scale || s.scale != scale || s.hysteresis_left != steps[i].left)
			fail_msg("step %zu: scale %g, %u left", i, scale, s.hysteresis_left);
		assert_int_equal(loss_scale_check(&s), STATUS_OK);
	}
}

static void defaults_of_the_reference(void **state)
{
	(void)state;
	struct loss_scale s = loss_scale_dynamic(32, 1000, 1, 1);
	assert_true(s.scale == 4294967296.0);
	for (int i = 0; i < 40; i++) /* hysteresis 1: each overflow halves */
		loss_scale_update(&s, true);
	assert_true(s.scale == 1);
	for (int i = 0; i < 999; i++)
		assert_true(loss_scale_update(&s, false) == 1);
	assert_true(loss_scale_update(&s, false) == 2);
}

static void static_scale_never_moves(void **state)
{
	(void)state;
	struct loss_scale s = loss_scale_static(4096);
	assert_int_equal(loss_scale_check(&s), STATUS_OK);
	for (int i = 0; i < 3000; i++)
		assert_true(loss_scale_update(&s, i % 3 == 0) == 4096);
}

static void impossible_values_are_refused(void **state)
{
	(void)state;
	struct loss_scale wrong[] = {loss_scale_static(0), loss_scale_static(NAN),
		loss_scale_static(INFINITY), loss_scale_static(-1), loss_scale_dynamic(200, 1000, 2, 1),
		loss_scale_dynamic(16, 0, 2, 1), loss_scale_dynamic(16, 1000, 0, 1),
		loss_scale_dynamic(16, 1000, 2, 0)};
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
		assert_int_equal(loss_scale_check(&wrong[i]), STATUS_USAGE);
	struct loss_scale s = loss_scale_dynamic(16, 1000, 2, 1);
	s.last_overflow = 3;
	assert_int_equal(loss_scale_check(&s), STATUS_USAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(follows_the_rule),
		cmocka_unit_test(defaults_of_the_reference), cmocka_unit_test(static_scale_never_moves),
		cmocka_unit_test(impossible_values_are_refused)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
