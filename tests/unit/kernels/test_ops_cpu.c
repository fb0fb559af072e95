#include "tests/ops/op_tester.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/ops/op_tester.c"

static void formulas(void **state)
{
	(void)state;
	assert_int_equal(op_test_formulas(), 0);
}

static void test_type(enum dtype act, int threads)
{
	struct kernels_config config = {
		.act = act, .grad = DTYPE_F32, .threads = threads, .packing = 1 << 24};
	struct kernels kernels;
	struct op_tester tester;
	assert_int_equal(kernels_open_cpu(&config, &kernels), STATUS_OK);
	op_tester_open(&tester, &kernels);
	op_test_all(&tester);
	op_tester_report(&tester, stdout);
	int failures = op_tester_close(&tester);
	kernels.close(&kernels);
	assert_int_equal(failures, 0);
}

static void fp32(void **state)
{
	(void)state;
	test_type(DTYPE_F32, 2);
}

static void bf16(void **state)
{
	(void)state;
	test_type(DTYPE_BF16, 3);
}

static void fp16(void **state)
{
	(void)state;
	test_type(DTYPE_F16, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(formulas), cmocka_unit_test(fp32),
		cmocka_unit_test(bf16), cmocka_unit_test(fp16)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
