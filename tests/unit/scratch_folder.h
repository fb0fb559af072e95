/*
 * scratch_folder.h: a folder of a test program's own, and what tests of files do in it. scratch_make and
 * scratch_remove are a group's set-up and tear-down. Included by each test; all functions are static; cmocka
 * comes with it.
 */
#ifndef TESTS_SCRATCH_FOLDER_H
#define TESTS_SCRATCH_FOLDER_H

#include "common/file.h"
#include "common/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define SCRATCH_FUNCTION static __attribute__((unused))

static char root[64];

SCRATCH_FUNCTION void must(enum status status)
{
	if (status != STATUS_OK)
		fail_msg("%s", error_message());
}

/* What was refused ended in this status, and a message with these words. */
SCRATCH_FUNCTION void expect_refusal(enum status got, enum status wanted, const char *words)
{
	if (got != wanted || !strstr(error_message(), words))
		fail_msg("%s \"%s\", not %s saying \"%s\"", error_status_name(got), error_message(),
			error_status_name(wanted), words);
}

SCRATCH_FUNCTION int scratch_make(void **state)
{
	(void)state;
	strcpy(root, "/tmp/ferry-test-XXXXXX");
	return mkdtemp(root) ? 0 : -1;
}

SCRATCH_FUNCTION int scratch_remove(void **state)
{
	(void)state;
	return directory_remove(root) == STATUS_OK ? 0 : -1;
}

/* The path of a name; kept for good, one of each. */
SCRATCH_FUNCTION const char *in_root(const char *name)
{
	enum { MOST = 256 };
	static char paths[MOST][256];
	char path[256];
	int i = 0;
	snprintf(path, sizeof path, "%s/%s", root, name);
	while (i < MOST && paths[i][0] && strcmp(paths[i], path) != 0)
		i++;
	assert_in_range(i, 0, MOST - 1);
	return strcpy(paths[i], path);
}

SCRATCH_FUNCTION void put_path(const char *path, const void *data, size_t bytes)
{
	FILE *file = fopen(path, "wb");
	assert_non_null(file);
	assert_int_equal(fwrite(data, 1, bytes, file), bytes);
	assert_int_equal(fclose(file), 0);
}

SCRATCH_FUNCTION void put_file(const char *name, const void *data, size_t bytes)
{
	put_path(in_root(name), data, bytes);
}

SCRATCH_FUNCTION void put_text(const char *name, const char *text)
{
	put_file(name, text, strlen(text));
}

/* free() it. */
SCRATCH_FUNCTION char *get_path(const char *path, size_t *bytes)
{
	char *data;
	must(file_read_all(path, (size_t)1 << 30, &data, bytes));
	return data;
}

/* The folders hold files of the same names and bytes. */
SCRATCH_FUNCTION void expect_same(const char *a, const char *b)
{
	char **names[2], *paths[2], *data[2];
	size_t counts[2], bytes[2];
	must(directory_list(a, &names[0], &counts[0]));
	must(directory_list(b, &names[1], &counts[1]));
	for (size_t i = 0; i < counts[0] && i < counts[1]; i++) {
		assert_string_equal(names[0][i], names[1][i]);
		for (int j = 0; j < 2; j++) {
			must(path_join(&paths[j], j ? b : a, names[j][i]));
			data[j] = get_path(paths[j], &bytes[j]);
		}
		if (bytes[0] != bytes[1] || memcmp(data[0], data[1], bytes[0]) != 0)
			fail_msg("%s and %s differ", paths[0], paths[1]);
		for (int j = 0; j < 2; j++) {
			free(paths[j]);
			free(data[j]);
		}
	}
	assert_int_equal(counts[0], counts[1]);
	for (int j = 0; j < 2; j++)
		directory_list_free(names[j], counts[j]);
}

/* A number below n; any will do. */
SCRATCH_FUNCTION uint32_t below(uint32_t *seed, uint32_t n)
{
	*seed = *seed * 1664525 + 1013904223;
	return (uint32_t)(((uint64_t)*seed * n) >> 32);
}

/* Runs `work` with its first, its second, ... allocation refused, until it succeeds; returns how many runs
 * failed. That is all that may happen: nothing is lost, the sanitizer sees to that. */
SCRATCH_FUNCTION int refuse_memory(enum status (*work)(void))
{
	for (int calls = 0;; calls++) {
		memory_fail_after(calls);
		enum status status = work();
		memory_fail_after(-1);
		if (status == STATUS_OK)
			return calls;
		if (status != STATUS_MEMORY)
			fail_msg("after %d allocations: %s", calls, error_message());
	}
}

#endif
