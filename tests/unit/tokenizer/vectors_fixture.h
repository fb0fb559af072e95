/* The lines of tests/golden/tokenizer_vectors.jsonl (made by make_tokenizer_vectors.py beside it), one by
 * one. */
#ifndef VECTORS_FIXTURE_H
#define VECTORS_FIXTURE_H

#include "common/file.h"
#include "common/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define VECTORS "tests/golden/tokenizer_vectors.jsonl"

/* Calls check for each line that has this key; returns how many. */
static inline size_t vectors_each(const char *key, void (*check)(const cJSON *line, void *user), void *user)
{
	char *text, *rest;
	size_t bytes, count = 0;
	assert_int_equal(file_read_all(VECTORS, 16 << 20, &text, &bytes), STATUS_OK);
	for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		cJSON *object = cJSON_Parse(line);
		assert_non_null(object);
		if (cJSON_GetObjectItemCaseSensitive(object, key)) {
			check(object, user);
			count++;
		}
		cJSON_Delete(object);
	}
	free(text);
	return count;
}

#endif
