#include "data/hash_tree.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <xxhash.h>

/* The oracle: the words of hash_tree.h done naively on a file in memory. Returns hashes, level after level.
 */
static uint64_t *naive_tree(const uint8_t *file, size_t bytes, size_t *total)
{
	uint64_t *all = malloc((bytes / 512 + 64) * 8);
	const uint8_t *level = file;
	size_t level_bytes = bytes;
	*total = 0;
	while (level_bytes) {
		size_t first = *total;
		for (size_t at = 0; at < level_bytes; at += 4096) {
			size_t n = level_bytes - at < 4096 ? level_bytes - at : 4096;
			all[(*total)++] = XXH3_64bits(level + at, n);
		}
		if (*total - first == 1)
			break;
		level = (const uint8_t *)(all + first);
		level_bytes = (*total - first) * 8;
	}
	return all;
}

static void check(size_t bytes, size_t piece)
{
	uint8_t *file = malloc(bytes + 1);
	uint32_t x = (uint32_t)bytes + 1;
	for (size_t i = 0; i < bytes; i++)
		file[i] = (uint8_t)((x = x * 1664525 + 1013904223) >> 24);
	size_t total;
	uint64_t *expected = naive_tree(file, bytes, &total);

	struct hash_tree_builder *builder;
	struct hash_tree_shape shape, alone;
	const uint64_t *hashes;
	uint64_t length;
	assert_int_equal(hash_tree_builder_open(&builder), STATUS_OK);
	for (size_t at = 0; at < bytes;) {
		size_t n = bytes - at < piece ? bytes - at : piece;
		assert_int_equal(hash_tree_builder_add(builder, file + at, n), STATUS_OK);
		at += n;
	}
	assert_int_equal(hash_tree_builder_add(builder, file, 0), STATUS_OK);
	assert_int_equal(hash_tree_builder_finish(builder, &shape, &hashes, &length), STATUS_OK);
	hash_tree_shape(bytes, &alone);
	assert_memory_equal(&shape, &alone, sizeof shape);
	assert_int_equal(length, bytes);
	assert_int_equal(shape.total, total);
	if (total)
		assert_memory_equal(hashes, expected, total * 8);
	hash_tree_builder_close(builder);
	free(expected);
	free(file);
}

static void trees_equal_the_naive_ones(void **state)
{
	(void)state;
	static const size_t sizes[] = {0, 1, 8, 4095, 4096, 4097, 8192, 12289, 512 * 4096 - 1, 512 * 4096,
		512 * 4096 + 1, 513 * 4096, 1024 * 4096 + 5};
	static const size_t pieces[] = {1000, 4096, 5000, 1 << 20};
	for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
		for (size_t p = 0; p < sizeof pieces / sizeof *pieces; p++)
			check(sizes[s], pieces[p]);
	check(10000, 1);
}

static void shapes(void **state)
{
	(void)state;
	struct hash_tree_shape shape;
	hash_tree_shape(0, &shape);
	assert_int_equal(shape.levels, 0);
	assert_int_equal(shape.total, 0);
	/* 512 * 512 pages: three levels of 262144, 512, 1; one byte more: four. */
	hash_tree_shape(UINT64_C(1) << 30, &shape);
	assert_int_equal(shape.levels, 3);
	assert_int_equal(shape.total, 262144 + 512 + 1);
	hash_tree_shape((UINT64_C(1) << 30) + 1, &shape);
	assert_int_equal(shape.levels, 4);
	assert_int_equal(shape.count[1], 513);
	assert_int_equal(shape.start[3], 262145 + 513 + 2);
	hash_tree_shape(UINT64_MAX, &shape);
	assert_true(shape.levels <= HASH_TREE_LEVELS);
	assert_int_equal(shape.count[0], UINT64_C(1) << 52);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(trees_equal_the_naive_ones),
		cmocka_unit_test(shapes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
