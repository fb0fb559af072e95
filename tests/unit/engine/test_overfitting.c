#include "engine/overfitting.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>

/*
 * The reference run's own losses (tests/golden/make_seed_golden.sh): validation was best at iteration 8,000
 * and rose to the end while training loss fell. The first evaluation that is the third since then is at
 * 11,000.
 */
static void the_reference_run_would_have_been_warned(void **state)
{
	(void)state;
	FILE *train = fopen("tests/golden/seed_iterations.txt", "r");
	FILE *valid = fopen("tests/golden/seed_validation.txt", "r");
	unsigned long long at, iteration = 0;
	double loss, train_loss;
	struct overfitting o = {0};
	int rising = 0, evaluations = 0;
	assert_non_null(train);
	assert_non_null(valid);
	for (; fscanf(valid, "%llu %lf", &at, &loss) == 2; evaluations++) {
		while (iteration < at && fscanf(train, "%llu %*s %lf", &iteration, &train_loss) == 2)
			for (int i = 0; i < 5; i++) /* each line is the mean of five */
				overfitting_add_training(&o, train_loss);
		enum overfitting_verdict verdict = overfitting_add_validation(&o, at, loss);
		assert_int_equal(verdict == OVERFITTING_BEST, at <= 8000);
		assert_int_equal(verdict == OVERFITTING_RISING, at == 11000);
		rising += verdict == OVERFITTING_RISING;
	}
	fclose(train);
	fclose(valid);
	assert_int_equal(evaluations, 22);
	assert_int_equal(rising, 1);
	assert_int_equal(o.best_step, 8000);
}

static void noise_and_both_rising_are_no_memorizing(void **state)
{
	(void)state;
	struct overfitting o = {0};
	overfitting_add_training(&o, 3);
	assert_true(fabs(overfitting_training_loss(&o) - 3) < 1e-12);
	assert_int_equal(overfitting_add_validation(&o, 100, NAN), OVERFITTING_NOT_BEST);
	assert_int_equal(overfitting_add_validation(&o, 100, 4), OVERFITTING_BEST);
	/* training loss rises too: the run diverges, it does not memorize */
	for (int i = 2; i < 10; i++) {
		overfitting_add_training(&o, 3 + i);
		assert_int_equal(
			overfitting_add_validation(&o, 100 * (uint64_t)i, 4 + i), OVERFITTING_NOT_BEST);
	}
	/* falls below: warned once, and anew only after another best */
	for (int i = 0; i < 500; i++)
		overfitting_add_training(&o, 1);
	assert_int_equal(overfitting_add_validation(&o, 1000, 9), OVERFITTING_RISING);
	assert_int_equal(overfitting_add_validation(&o, 1100, 9), OVERFITTING_NOT_BEST);
	assert_int_equal(overfitting_add_validation(&o, 10000, 3), OVERFITTING_BEST);
	overfitting_add_training(&o, 0.5);
	/* three evaluations, but not a fifth of all steps back */
	for (uint64_t step = 10100; step <= 12400; step += 100)
		assert_int_equal(overfitting_add_validation(&o, step, 3.1), OVERFITTING_NOT_BEST);
	assert_int_equal(overfitting_add_validation(&o, 12500, 3.1), OVERFITTING_RISING);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(the_reference_run_would_have_been_warned),
		cmocka_unit_test(noise_and_both_rising_are_no_memorizing)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
