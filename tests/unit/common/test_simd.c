#include "common/simd.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

/* What a fresh process chooses with FERRY_ISA set so (NULL: unset). */
static int chosen_with(const char *wanted)
{
	pid_t child = fork();
	if (child == 0) {
		if (wanted)
			setenv("FERRY_ISA", wanted, 1);
		else
			unsetenv("FERRY_ISA");
		_exit((int)simd_isa_get());
	}
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void environment_narrows(void **state)
{
	(void)state;
	int widest = chosen_with(NULL);
	assert_in_range(widest, SIMD_BASE, SIMD_AVX512);
	assert_int_equal(chosen_with("base"), SIMD_BASE);
	assert_int_equal(chosen_with("avx2"), widest < SIMD_AVX2 ? widest : SIMD_AVX2);
	assert_int_equal(chosen_with("avx512"), widest); /* never wider than the processor */
	assert_int_equal(chosen_with("nonsense"), widest);
}

static void names(void **state)
{
	(void)state;
	assert_string_equal(simd_isa_name(SIMD_BASE), "base");
	assert_string_equal(simd_isa_name(SIMD_AVX2), "avx2");
	assert_string_equal(simd_isa_name(SIMD_AVX512), "avx512");
}

/* /proc/cpuinfo is the system's own word. */
static void matches_the_processor(void **state)
{
	(void)state;
#ifdef __x86_64__
	int widest = chosen_with(NULL);
	assert_int_equal(widest >= SIMD_AVX2,
		system("grep -qw avx2 /proc/cpuinfo && grep -qw fma /proc/cpuinfo") == 0);
	assert_int_equal(widest >= SIMD_AVX512, system("grep -qw avx512bw /proc/cpuinfo") == 0);
#else
	assert_int_equal(chosen_with(NULL), SIMD_BASE);
#endif
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(environment_narrows),
		cmocka_unit_test(names),
		cmocka_unit_test(matches_the_processor),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
