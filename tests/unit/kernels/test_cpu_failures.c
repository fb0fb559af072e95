/* The CPU backend without memory, and asked for what it does not do. */
#include "common/memory.h"
#include "kernels/kernels.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static const struct kernels_config config = {.act = DTYPE_BF16, .grad = DTYPE_F32, .threads = 2};

static void no_memory_to_open(void **state)
{
	(void)state;
	int failures = 0;
	for (int64_t calls = 0; calls < 20; calls++) {
		struct kernels k;
		memory_fail_after(calls);
		enum status status = kernels_open_cpu(&config, &k);
		memory_fail_after(-1);
		if (status == STATUS_OK) {
			k.close(&k);
			break;
		}
		assert_int_equal(status, STATUS_MEMORY);
		failures++;
	}
	assert_true(failures > 0 && failures < 20);
}

/* An operation returns nothing; the next wait tells, once, and the backend goes on. */
static void failure_is_kept(void **state)
{
	(void)state;
	struct kernels k;
	assert_int_equal(kernels_open_cpu(&config, &k), STATUS_OK);
	uint16_t x[64] = {0}, y[64];
	float mean[1], rstd[1];
	memory_fail_after(0);
	k.layernorm_forward(&k, NULL, y, NULL, mean, rstd, x, NULL, x, x, 1, 1, 64, 1e-5f, NULL);
	memory_fail_after(-1);
	assert_int_equal(k.stream_wait(&k, NULL), STATUS_MEMORY);
	assert_non_null(strstr(error_message(), "scratch"));
	assert_int_equal(k.stream_wait(&k, NULL), STATUS_OK);
	k.layernorm_forward(&k, NULL, y, NULL, mean, rstd, x, NULL, x, x, 1, 1, 64, 1e-5f, NULL);
	assert_int_equal(k.stream_wait(&k, NULL), STATUS_OK);
	assert_true(mean[0] == 0);
	k.close(&k);
}

static void half_gradients(void **state)
{
	(void)state;
	struct kernels_config half = config;
	half.grad = DTYPE_BF16;
	struct kernels k;
	assert_int_equal(kernels_open_cpu(&half, &k), STATUS_OK);
	uint16_t x[64] = {0};
	float d[64];
	k.linear_backward(&k, NULL, NULL, d, d, x, x, x, NULL, 1, 8, 8, false);
	assert_int_equal(k.stream_wait(&k, NULL), STATUS_UNSUPPORTED);
	assert_non_null(strstr(error_message(), "bf16"));
	struct gradient_stats stats;
	uint16_t gradient[3] = {0x4000, 0xc040, 0x7f80}; /* 2, -3, inf */
	k.gradient_stats(&k, NULL, &stats, gradient, 2);
	assert_true(stats.sum_of_squares == 13 && stats.nonfinite == 0);
	k.gradient_stats(&k, NULL, &stats, gradient, 3);
	assert_true(stats.nonfinite == 1);
	k.close(&k);
}

/* A plan asks what shapes would take that no memory holds: rows beyond an int, too. */
static void scratch_of_absurd_shapes(void **state)
{
	(void)state;
	struct kernel_shapes shapes = {.batch = 1 << 10,
		.sequence = 1 << 10,
		.hidden = 64,
		.heads = 1,
		.vocabulary = 50257,
		.vocabulary_padded = 50304};
	uint64_t many = kernels_cpu_scratch(&config, &shapes);
	shapes.batch = 1 << 21; /* 2 to the 31st, and then to the 32nd rows */
	assert_true(kernels_cpu_scratch(&config, &shapes) == many);
	shapes.batch = 1 << 22;
	assert_true(kernels_cpu_scratch(&config, &shapes) == many);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(no_memory_to_open),
		cmocka_unit_test(failure_is_kept), cmocka_unit_test(half_gradients),
		cmocka_unit_test(scratch_of_absurd_shapes)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
