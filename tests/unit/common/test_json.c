#include "common/json.h"

#include "common/file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define OK(expression) assert_int_equal((expression), STATUS_OK)

static char path[64];

static int setup(void **state)
{
	(void)state;
	snprintf(path, sizeof path, "/tmp/test_json-XXXXXX");
	int fd = mkstemp(path);
	return fd < 0 ? -1 : close(fd);
}

static int teardown(void **state)
{
	(void)state;
	return unlink(path);
}

static void files(void **state)
{
	(void)state;
	cJSON *value;
	static const char text[] = "{\n\t\"a\":\t[1, \"x\"]\n}\n";
	OK(file_publish(path, " {\"a\": [1, \"x\"]} \n", 18));
	OK(json_read_file(path, &value));
	OK(json_publish(path, value));
	cJSON_Delete(value);
	char *data;
	size_t bytes;
	OK(file_read_all(path, 1000, &data, &bytes));
	assert_int_equal(bytes, sizeof text - 1);
	assert_string_equal(data, text);
	free(data);
}

static void broken_files(void **state)
{
	(void)state;
	static const char *const broken[] = {"", "{", "{\"a\": 1} x", "{\"a\": 1}{}", "{'a': 1}", "[1,]"};
	cJSON *value;
	for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
		OK(file_publish(path, broken[i], strlen(broken[i])));
		assert_int_equal(json_read_file(path, &value), STATUS_CORRUPT);
		assert_null(value);
		assert_non_null(strstr(error_message(), path));
	}
	OK(file_publish(path, "{}\0{}", 5)); /* text behind a NUL is text */
	assert_int_equal(json_read_file(path, &value), STATUS_CORRUPT);
	assert_int_equal(json_read_file("/nonexistent/x.json", &value), STATUS_IO);
}

static void members(void **state)
{
	(void)state;
	cJSON *object =
		cJSON_Parse("{\"s\": \"text\", \"b\": true, \"d\": -2.5, \"u\": 9007199254740992, "
			    "\"big\": \"18446744073709551615\", \"o\": {}, \"a\": [], "
			    "\"hash\": \"0123456789abcdef00000000000000ff\", \"hex\": \"00000000000000ff\"}");
	const char *text;
	bool flag;
	double real;
	uint64_t u64;
	struct hash128 hash;
	cJSON *child;
	OK(json_get_string("f", object, "s", &text));
	assert_string_equal(text, "text");
	OK(json_get_bool("f", object, "b", &flag));
	assert_true(flag);
	OK(json_get_double("f", object, "d", &real));
	assert_true(real == -2.5);
	OK(json_get_u64("f", object, "u", &u64));
	assert_true(u64 == UINT64_C(1) << 53);
	OK(json_get_u64("f", object, "big", &u64));
	assert_true(u64 == UINT64_MAX);
	OK(json_get_object("f", object, "o", &child));
	OK(json_get_array("f", object, "a", &child));
	OK(json_get_hash128("f", object, "hash", &hash));
	assert_true(hash.high == 0x0123456789abcdef && hash.low == 0xff);
	OK(json_get_hex64("f", object, "hex", &u64));
	assert_true(u64 == 0xff);
	assert_int_equal(json_get_string("some/file", object, "S", &text), STATUS_CORRUPT);
	assert_string_equal(error_message(), "some/file: key \"S\" is missing");
	assert_int_equal(json_get_array("some/file", object, "o", &child), STATUS_CORRUPT);
	assert_string_equal(error_message(), "some/file: key \"o\" is not an array");
	assert_int_equal(json_get_string("f", object, "d", &text), STATUS_CORRUPT);
	assert_int_equal(json_get_bool("f", object, "s", &flag), STATUS_CORRUPT);
	assert_int_equal(json_get_hash128("f", object, "hex", &hash), STATUS_CORRUPT);
	assert_int_equal(json_get_hex64("f", object, "hash", &u64), STATUS_CORRUPT);
	cJSON_Delete(object);
}

/* What is not a whole number that a double holds exactly, or a u64 in digits, is refused. */
static void wrong_numbers(void **state)
{
	(void)state;
	static const char *const wrong[] = {"-1", "1.5", "9007199254740994", "1e300", "true", "null",
		"\"18446744073709551616\"", "\"-1\"", "\"\"", "\" 1\"", "\"0x10\"", "[1]"};
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		char text[64];
		uint64_t number;
		snprintf(text, sizeof text, "{\"n\": %s}", wrong[i]);
		cJSON *object = cJSON_Parse(text);
		assert_non_null(object);
		if (json_get_u64("f", object, "n", &number) != STATUS_CORRUPT)
			fail_msg("%s was taken for a number", wrong[i]);
		cJSON_Delete(object);
	}
}

/* Every u64 survives a file. */
static void round_trip(void **state)
{
	(void)state;
	static const uint64_t values[] = {0, 1, UINT64_C(999999999999999), UINT64_C(1000000000000000),
		UINT64_C(1) << 53, (UINT64_C(1) << 53) + 1, UINT64_MAX};
	for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
		cJSON *object = cJSON_CreateObject(), *back;
		uint64_t u64, hex;
		struct hash128 hash = {values[i], ~values[i]}, read;
		assert_true(json_add_u64(object, "n", values[i]));
		assert_true(json_add_hex64(object, "x", values[i]));
		assert_true(json_add_hash128(object, "h", hash));
		OK(json_publish(path, object));
		OK(json_read_file(path, &back));
		OK(json_get_u64(path, back, "n", &u64));
		OK(json_get_hex64(path, back, "x", &hex));
		OK(json_get_hash128(path, back, "h", &read));
		assert_true(u64 == values[i] && hex == values[i]);
		assert_int_equal(hash128_compare(hash, read), 0);
		cJSON_Delete(object);
		cJSON_Delete(back);
	}
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(files), TEST(broken_files), TEST(members), TEST(wrong_numbers), TEST(round_trip)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
