#include "data/json_scan.h"
#include "data/jsonl.h"
#include "tests/unit/put_utf8.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static struct jsonl_text read_line(struct jsonl *parser, const char *line, size_t bytes)
{
	static char room[1 << 22];
	struct jsonl_text text;
	memcpy(room, line, bytes);
	memset(room + bytes, 'x', 64); /* what follows must not matter */
	assert_int_equal(jsonl_read(parser, room, bytes, &text), STATUS_OK);
	return text;
}

static void check_good(const char *line, const char *expected, size_t bytes, uint64_t replaced)
{
	struct jsonl *parser;
	assert_int_equal(jsonl_open("text", &parser), STATUS_OK);
	struct jsonl_text text = read_line(parser, line, strlen(line));
	if (text.reason)
		fail_msg("%s: %s", line, text.reason);
	assert_int_equal(text.bytes, bytes);
	assert_memory_equal(text.data, expected, bytes);
	assert_int_equal(text.replaced, replaced);
	jsonl_close(parser);
}

#define GOOD(line, expected)               check_good(line, expected, sizeof(expected) - 1, 0)
#define REPAIRED(line, expected, replaced) check_good(line, expected, sizeof(expected) - 1, replaced)

static void good_lines(void **state)
{
	(void)state;
	GOOD("{\"text\":\"abc\"}", "abc");
	GOOD(" \t{ \"id\" : [1, {\"text\":\"no\"}, null], \"text\" : \"yes\" , \"z\":{} } \r", "yes");
	GOOD("{\"text\":\"\"}", "");
	GOOD("{\"text\":\"a\\u0000b\"}", "a\0b");
	GOOD("{\"text\":\"first\",\"text\":\"second\"}", "first");
	GOOD("{\"te\\u0078t\":\"named by an escape\"}", "named by an escape");
	GOOD("{\"text\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\u20AC\\ud83d\\ude00\"}",
		"\"\\/\b\f\n\r\t\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80");
	/* numbers that simdjson refuses */
	GOOD("{\"n\":123456789012345678901234567890,\"text\":\"big\"}", "big");
	GOOD("{\"n\":1e999,\"m\":-0.5E-3,\"text\":\"huge\"}", "huge");
}

static void lone_surrogates_and_bad_utf8(void **state)
{
	(void)state;
	REPAIRED("{\"text\":\"a\\ud800b\"}",
		"a\xEF\xBF\xBD"
		"b",
		1);
	REPAIRED("{\"text\":\"\\udc00\"}", "\xEF\xBF\xBD", 1);
	REPAIRED(
		"{\"text\":\"\\ud800\\ud800\\udc00\\ud83d\"}", "\xEF\xBF\xBD\xF0\x90\x80\x80\xEF\xBF\xBD", 2);
	REPAIRED("{\"text\":\"\\udc00\\ud800\"}", "\xEF\xBF\xBD\xEF\xBF\xBD", 2);
	REPAIRED("{\"text\":\"\\ud800\\n\"}", "\xEF\xBF\xBD\n", 1);
	REPAIRED("{\"text\":\"a\xFFz\"}", "a\xEF\xBF\xBDz", 1);
	REPAIRED("{\"text\":\"\xE2\x82\"}", "\xEF\xBF\xBD", 1);
	REPAIRED("{\"text\":\"\\ud800\xC3\\n\"}", "\xEF\xBF\xBD\xEF\xBF\xBD\n", 2);
	/* Bad bytes of another member are not the text's. */
	REPAIRED("{\"x\":\"\xFF\",\"text\":\"fine\"}", "fine", 0);

	struct jsonl *parser;
	assert_int_equal(jsonl_open("text", &parser), STATUS_OK);
	assert_int_equal(read_line(parser, "{\"text\":\"ab\xFF\\ud800\"}", 20).replaced_at, 11);
	assert_int_equal(read_line(parser, "{\"text\":\"a\\ud800\xFF\"}", 19).replaced_at, 10);
	jsonl_close(parser);
}

static void bad_lines(void **state)
{
	(void)state;
	static const struct {
		const char *line, *reason;
	} lines[] = {
		{"", "ends in the middle"},
		{"[1]", "not a JSON object"},
		{"\"text\"", "not a JSON object"},
		{"{}", "missing"},
		{"{\"TEXT\":\"a\"}", "missing"},
		{"{\"a\":{\"text\":\"nested\"}}", "missing"},
		{"{\"text\":null}", "not a string"},
		{"{\"text\":null,\"text\":\"second\"}", "not a string"},
		{"{\"text\":[\"a\"]}", "not a string"},
		{"{\"text\":\"a\"", "ends in the middle"},
		{"{\"text\":\"a", "does not end"},
		{"{\"text\":\"a\"} x", "more text"},
		{"{\"text\":\"a\"}{}", "more text"},
		{"{\"text\":\"a\",}", "quoted name"},
		{"{\"text\":\"a\\q\"}", "unknown escape"},
		{"{\"text\":\"\\u12g4\"}", "hexadecimal"},
		{"{\"text\":\"a\tb\"}", "control character"},
		{"{\"text\":\"a\",\"n\":01}", "comma"},
		{"{\"text\":\"a\",\"n\":1.}", "number"},
		{"{\"text\":\"a\",\"n\":-}", "number"},
		{"{\"text\":\"a\",\"n\":nul}", "JSON value"},
		{"{\"text\":\"a\",\"n\":[1 2]}", "comma"},
		{"{\"text\":\"a\",\"n\":[1}", "comma"},
		{"{\"text\":\"a\",\"n\":[1,]}", "JSON value"},
		{"{\"text\" \"a\"}", "colon"},
		{"{text:\"a\"}", "quoted name"},
	};
	struct jsonl *parser;
	assert_int_equal(jsonl_open("text", &parser), STATUS_OK);
	for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
		struct jsonl_text text = read_line(parser, lines[i].line, strlen(lines[i].line));
		if (!text.reason || !strstr(text.reason, lines[i].reason))
			fail_msg("%s: %s, not %s", lines[i].line, text.reason ? text.reason : "accepted",
				lines[i].reason);
	}
	jsonl_close(parser);
}

static uint32_t below(uint32_t *seed, uint32_t n)
{
	*seed = *seed * 1664525 + 1013904223;
	return (uint32_t)(((uint64_t)*seed * n) >> 32);
}

/* A random text of `count` code points, as UTF-8 and as a JSON string that escapes some of it. */
static void make_text(uint32_t *seed, uint32_t count, char *plain, size_t *plain_bytes, char *json)
{
	static const uint32_t tops[] = {0x80, 0x80, 0x80, 0x800, 0x10000, 0x110000};
	*plain_bytes = 0;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t c = below(seed, tops[below(seed, 6)]);
		if (c >= 0xD800 && c < 0xE000)
			c = 0x20;
		*plain_bytes += put_utf8(plain + *plain_bytes, c);
		if (c >= 0x10000 && below(seed, 2))
			json += sprintf(
				json, "\\u%04x\\u%04X", 0xD800 + ((c - 0x10000) >> 10), 0xDC00 + (c & 0x3FF));
		else if (c < 0x20 || c == '"' || c == '\\' || (c < 0x10000 && below(seed, 4) == 0))
			json += sprintf(json, "\\u%04x", c);
		else
			json += put_utf8(json, c);
	}
	*json = 0;
}

static void random_texts(void **state)
{
	(void)state;
	static char plain[1 << 16], json[1 << 18], line[(1 << 18) + 100];
	struct jsonl *parser;
	uint32_t seed = 7;
	assert_int_equal(jsonl_open("text", &parser), STATUS_OK);
	for (int i = 0; i < 3000; i++) {
		size_t bytes;
		make_text(&seed, below(&seed, 300), plain, &bytes, json);
		int length =
			sprintf(line, "{\"a\":%u,\"text\":\"%s\",\"b\":[true,{}]}", below(&seed, 99), json);
		struct jsonl_text text = read_line(parser, line, (size_t)length);
		assert_null(text.reason);
		assert_int_equal(text.bytes, bytes);
		assert_memory_equal(text.data, plain, bytes);

		/* The plain reader gives the same, */
		struct json_scan found;
		static char out[1 << 18];
		uint64_t lone;
		size_t first;
		json_scan_find(line, (size_t)length, "text", &found);
		assert_null(found.reason);
		assert_int_equal(
			json_scan_unescape(line + found.first, found.bytes, out, &lone, &first), bytes);
		assert_memory_equal(out, plain, bytes);

		/* and whatever simdjson makes of a damaged line, it agrees: jsonl_read must not accept what
		 * json_scan refuses. */
		for (int damage = 0; damage < 5; damage++) {
			size_t at = below(&seed, (uint32_t)length);
			char was = line[at];
			line[at] = (char)below(&seed, 128);
			json_scan_find(line, (size_t)length, "text", &found);
			text = read_line(parser, line, (size_t)length);
			if (!text.reason != !found.reason)
				fail_msg("%s: %s but %s", line, text.reason ? text.reason : "good",
					found.reason ? found.reason : "good");
			line[at] = was;
		}
	}
	jsonl_close(parser);
}

static void long_lines(void **state)
{
	(void)state;
	/* Beyond what simdjson is given: the same text comes out. */
	size_t bytes = 3 << 20;
	char *line = malloc(bytes + 64);
	struct jsonl *parser;
	struct jsonl_text text;
	assert_int_equal(jsonl_open("text", &parser), STATUS_OK);
	memset(line, 'a', bytes + 64);
	memcpy(line, "{\"text\":\"", 9);
	memcpy(line + bytes - 4, "\\n\"}", 4);
	assert_int_equal(jsonl_read(parser, line, bytes, &text), STATUS_OK);
	assert_null(text.reason);
	assert_int_equal(text.bytes, bytes - 9 - 3);
	assert_int_equal(text.data[text.bytes - 1], '\n');
	assert_int_equal(text.data[0], 'a');
	/* nested as deep as it can be, and deeper: no crash */
	memset(line, '[', bytes);
	assert_int_equal(jsonl_read(parser, line, bytes, &text), STATUS_OK);
	assert_non_null(strstr(text.reason, "deep"));
	jsonl_close(parser);
	free(line);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_lines),
		cmocka_unit_test(lone_surrogates_and_bad_utf8),
		cmocka_unit_test(bad_lines),
		cmocka_unit_test(random_texts),
		cmocka_unit_test(long_lines),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
