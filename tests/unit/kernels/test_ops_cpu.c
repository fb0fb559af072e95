#include "tests/ops/op_tester.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/simd.h"
#include "tests/ops/op_tester.c"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

/* Sanitized, the widest instruction set is enough: the sources are the same, and time is short. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#else
#define SANITIZED false
#endif

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
	test_type(DTYPE_BF16, 2);
}

static void fp16(void **state)
{
	(void)state;
	test_type(DTYPE_F16, 1);
}

/* The instruction set is chosen once a process: this program again, with a narrower one. */
static void run_narrower(enum simd_isa isa)
{
	char setting[32], polite[] = "OMP_WAIT_POLICY=passive", path[4096];
	snprintf(setting, sizeof setting, "FERRY_ISA=%s", simd_isa_name(isa));
	ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
	assert_true(length > 0);
	path[length] = 0;
	char *arguments[] = {path, NULL}, *environment[] = {setting, polite, NULL};
	pid_t child;
	int code;
	assert_int_equal(posix_spawn(&child, path, NULL, NULL, arguments, environment), 0);
	assert_int_equal(waitpid(child, &code, 0), child);
	assert_int_equal(code, 0);
}

static void avx2(void **state)
{
	(void)state;
	run_narrower(SIMD_AVX2);
}

static void base(void **state)
{
	(void)state;
	run_narrower(SIMD_BASE);
}

int main(int count, char **arguments)
{
	(void)count;
	/* Threads that spin while they wait take the processor from those they wait for, on a busy machine;
	 * the runtime reads this when the program starts. */
	if (!getenv("OMP_WAIT_POLICY") && setenv("OMP_WAIT_POLICY", "passive", 1) == 0)
		execv("/proc/self/exe", arguments);
	const struct CMUnitTest native[] = {cmocka_unit_test(formulas), cmocka_unit_test(fp32),
		cmocka_unit_test(bf16), cmocka_unit_test(fp16)};
	const struct CMUnitTest narrower[] = {cmocka_unit_test(base), cmocka_unit_test(avx2)};
	int narrower_count = SANITIZED ? 0 : (int)simd_isa_get() - SIMD_BASE, failures;
	if (getenv("FERRY_ISA")) {
		if (!freopen("/dev/null", "w", stdout))
			return 1;
		return _cmocka_run_group_tests("narrowed", native + 1, 3, NULL, NULL);
	}
#ifdef __SANITIZE_THREAD__ /* built without OpenMP: there are no threads to watch */
	return _cmocka_run_group_tests("formulas", native, 1, NULL, NULL);
#endif
	failures = _cmocka_run_group_tests("native", native, 4, NULL, NULL);
	if (narrower_count > 0)
		failures += _cmocka_run_group_tests("narrower", narrower, (size_t)narrower_count, NULL, NULL);
	return failures;
}
