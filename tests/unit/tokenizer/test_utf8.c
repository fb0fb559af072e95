/* UTF-8 repair against Python's bytes.decode("utf-8", "replace"). */
#include "tests/unit/tokenizer/vectors_fixture.h"

#include "tokenizer/utf8.h"

#include <stdio.h>
#include <zlib.h>

/* On the heap to the byte, so that the sanitizer sees a read or write past the end. */
static char *repair(const char *bytes, size_t count, size_t *length, uint64_t *replaced)
{
	char *in = malloc(count ? count : 1), *out = malloc(count ? UTF8_REPAIR_LIMIT(count) : 1);
	memcpy(in, bytes, count);
	*length = utf8_repair(in, count, out, replaced);
	assert_int_equal(utf8_find_invalid(in, count) == count, *replaced == 0);
	assert_int_equal(utf8_find_invalid(out, *length), *length);
	free(in);
	return out;
}

static void check_vector(const cJSON *line, void *user)
{
	(void)user;
	const char *hex = cJSON_GetObjectItem(line, "bytes")->valuestring;
	const char *text = cJSON_GetObjectItem(line, "text")->valuestring;
	char bytes[256];
	size_t count = strlen(hex) / 2, length;
	for (size_t i = 0; i < count; i++) {
		unsigned byte;
		assert_int_equal(sscanf(hex + 2 * i, "%2x", &byte), 1);
		bytes[i] = (char)byte;
	}
	uint64_t replaced;
	char *out = repair(bytes, count, &length, &replaced);
	assert_int_equal(length, strlen(text));
	assert_memory_equal(out, text, length);
	assert_int_equal(replaced, (uint64_t)cJSON_GetObjectItem(line, "replaced")->valuedouble);
	free(out);
}

static void as_python(void **state)
{
	(void)state;
	assert_true(vectors_each("replaced", check_vector, NULL) >= 80);
}

static void check_exhaustive(const cJSON *line, void *user)
{
	(void)user;
	const cJSON *edges = cJSON_GetObjectItem(line, "bytes");
	int count = cJSON_GetArraySize(edges);
	uint8_t edge[64];
	uLong crc = 0;
	for (int i = 0; i < count; i++)
		edge[i] = (uint8_t)cJSON_GetArrayItem(edges, i)->valueint;
	int total = count;
	for (int length = 1; length <= 4; length++, total *= count)
		for (int sequence = 0; sequence < total; sequence++) {
			char in[4], out[UTF8_REPAIR_LIMIT(4) + 1];
			uint64_t replaced;
			for (int i = length - 1, rest = sequence; i >= 0; i--, rest /= count)
				in[i] = (char)edge[rest % count];
			size_t bytes = utf8_repair(in, (size_t)length, out, &replaced);
			out[bytes] = '|';
			crc = crc32(crc, (const Bytef *)out, (uInt)bytes + 1);
		}
	assert_int_equal(crc, (uLong)cJSON_GetObjectItem(line, "exhaustive")->valuedouble);
}

static void as_python_on_every_short_sequence(void **state)
{
	(void)state;
	assert_int_equal(vectors_each("exhaustive", check_exhaustive, NULL), 1);
}

static void finds_the_first_at_any_offset(void **state)
{
	(void)state;
	for (size_t before = 0; before < 40; before++) {
		char text[64];
		memset(text, 'a', sizeof text);
		assert_int_equal(utf8_find_invalid(text, before), before);
		memcpy(text + before, "\xE2\x82\xAC\xE2\x82", 5);
		assert_int_equal(utf8_find_invalid(text, before + 3), before + 3);
		assert_int_equal(utf8_find_invalid(text, before + 4), before + 3);
		assert_int_equal(utf8_find_invalid(text, before + 20), before + 3);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(as_python),
		cmocka_unit_test(as_python_on_every_short_sequence),
		cmocka_unit_test(finds_the_first_at_any_offset),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
