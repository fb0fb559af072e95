#include "common/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define OK(expression) assert_int_equal((expression), STATUS_OK)

static void zeroed(void **state)
{
	(void)state;
	uint8_t *block;
	OK(memory_alloc((void **)&block, 1000, 3, "a block"));
	for (int i = 0; i < 3000; i++)
		assert_int_equal(block[i], 0);
	free(block);
	OK(memory_alloc((void **)&block, 0, 8, "nothing"));
	assert_non_null(block);
	free(block);
}

static void overflow_is_an_error(void **state)
{
	(void)state;
	void *block = &block;
	assert_int_equal(memory_alloc(&block, SIZE_MAX / 2, 3, "the moon"), STATUS_MEMORY);
	assert_null(block);
	assert_non_null(strstr(error_message(), "the moon"));
	size_t capacity = 0;
	assert_int_equal(memory_grow(&block, &capacity, SIZE_MAX / 2, 16, "the moon"), STATUS_MEMORY);
	assert_int_equal(memory_alloc_large(&block, SIZE_MAX - 5, "the moon"), STATUS_MEMORY);
	assert_null(block);
}

static void grows_and_keeps(void **state)
{
	(void)state;
	uint32_t *array = NULL;
	size_t capacity = 0;
	for (uint32_t i = 0; i < 10000; i++) {
		OK(memory_grow((void **)&array, &capacity, i + 1, sizeof *array, "an array"));
		assert_true(capacity > i);
		array[i] = i;
	}
	assert_true(capacity < 40000); /* doubling, not more */
	for (uint32_t i = 0; i < 10000; i++)
		assert_int_equal(array[i], i);
	uint32_t *before = array;
	OK(memory_grow((void **)&array, &capacity, 5, sizeof *array, "an array"));
	assert_ptr_equal(array, before);
	free(array);
}

static void large_blocks(void **state)
{
	(void)state;
	static const size_t sizes[] = {0, 1, 63, 4096, (2 << 20) - 1, 2 << 20, (2 << 20) + 1, 9 << 20};
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		uint8_t *block;
		OK(memory_alloc_large((void **)&block, sizes[i], "a large block"));
		assert_int_equal((uintptr_t)block % (sizes[i] >= 2 << 20 ? 2 << 20 : 64), 0);
		for (size_t j = 0; j < sizes[i]; j += 509)
			assert_int_equal(block[j], 0);
		if (sizes[i])
			memset(block, 0xff, sizes[i]);
		memory_free_large(block, sizes[i]);
	}
	memory_free_large(NULL, 5);
}

static void injected_failures(void **state)
{
	(void)state;
	void *block[3];
	size_t capacity = 0;
	memory_fail_after(2);
	OK(memory_alloc(&block[0], 1, 1, "one"));
	OK(memory_alloc_large(&block[1], 1, "two"));
	assert_int_equal(memory_alloc(&block[2], 1, 1, "three"), STATUS_MEMORY);
	assert_null(block[2]);
	assert_int_equal(memory_alloc_large(&block[2], 1, "four"), STATUS_MEMORY);
	assert_null(block[2]);
	assert_int_equal(memory_grow(&block[2], &capacity, 1, 1, "five"), STATUS_MEMORY);
	assert_null(block[2]);
	memory_fail_after(-1);
	OK(memory_alloc(&block[2], 1, 1, "three"));
	free(block[0]);
	memory_free_large(block[1], 1);
	free(block[2]);
}

static void what_the_system_tells(void **state)
{
	(void)state;
	assert_true(memory_peak_resident() > 100 << 10);
	assert_true(memory_peak_resident() < UINT64_C(1) << 50);
	assert_true(memory_available() > 1 << 20);
	/* A touched block shows in the peak. */
	uint8_t *block;
	uint64_t before = memory_peak_resident();
	OK(memory_alloc_large((void **)&block, 64 << 20, "a large block"));
	memset(block, 1, 64 << 20);
	assert_true(memory_peak_resident() >= before + (32 << 20));
	memory_free_large(block, 64 << 20);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(zeroed),
		cmocka_unit_test(overflow_is_an_error),
		cmocka_unit_test(grows_and_keeps),
		cmocka_unit_test(large_blocks),
		cmocka_unit_test(injected_failures),
		cmocka_unit_test(what_the_system_tells),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
