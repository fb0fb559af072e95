#include "common/hash.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { BUFFER = 5000 };

/* The buffer of xxHash's own sanity checks (tests/sanity_test.c). */
static const uint8_t *sanity_buffer(void)
{
	static uint8_t buffer[BUFFER];
	uint64_t generator = 0x9E3779B1u;
	for (int i = 0; i < BUFFER; i++) {
		buffer[i] = (uint8_t)(generator >> 56);
		generator *= UINT64_C(0x9E3779B185EBCA8D);
	}
	return buffer;
}

/* From Python's xxhash 4.1.0 (xxHash 0.8.4): xxh3_64_intdigest, xxh3_128_hexdigest. */
static const struct {
	size_t bytes;
	uint64_t hash64;
	const char *hash128;
} vectors[] = {
	{0, 0x2d06800538d394c2, "99aa06d3014798d86001c324468d497f"},
	{1, 0xc44bdff4074eecdb, "a6cd5e9392000f6ac44bdff4074eecdb"},
	{6, 0x27b56a84cd2d7325, "082afe0b8162d12a3e7039bdda43cfc6"},
	{12, 0xa713daf0dfbb77e7, "6e3efd8fc7802b18061a192713f69ad9"},
	{24, 0xa3fe70bf9d3510eb, "0ce966e4678d37611e7044d28b1b901d"},
	{48, 0x397da259ecba1f11, "a002ac4e5478227ef942219aed80f67b"},
	{80, 0xbcdefbbb2c47c90a, "fdf2cefde9eaac8a454ae6bf7a8a532d"},
	{195, 0xcd94217ee362ec3a, "7729543a26b207ee3fb593c086a66075"},
	{403, 0xcdeb804d65c6dea4, "1b6de21e332dd73dcdeb804d65c6dea4"},
	{512, 0x617e49599013cb6b, "18d2d110dcc9bca1617e49599013cb6b"},
	{2048, 0xdd59e2c3a5f038e0, "f736557fd47073a5dd59e2c3a5f038e0"},
	{2367, 0xcb37aeb9e5d361ed, "e89c0f6ff369b427cb37aeb9e5d361ed"},
	{4096, 0xe91206429d1f48f9, "b9cfaea2ca5626a4e91206429d1f48f9"},
	{4999, 0xf92a85a6ea06d646, "7d24a1b8671f6717f92a85a6ea06d646"},
};
enum { VECTORS = sizeof vectors / sizeof *vectors };

static void known_answers(void **state)
{
	(void)state;
	const uint8_t *buffer = sanity_buffer();
	for (size_t i = 0; i < VECTORS; i++) {
		char text[33];
		assert_true(hash64(buffer, vectors[i].bytes) == vectors[i].hash64);
		hash128_format(hash128(buffer, vectors[i].bytes), text);
		assert_string_equal(text, vectors[i].hash128);
	}
}

/* However the bytes are cut, and digests in between change nothing. */
static void streams(void **state)
{
	(void)state;
	const uint8_t *buffer = sanity_buffer();
	for (size_t i = 0; i < VECTORS; i++) {
		for (size_t piece = 1; piece < 1500; piece = piece * 3 + 1) {
			struct hash_stream *stream;
			char text[33];
			assert_int_equal(hash_stream_open(&stream), STATUS_OK);
			for (size_t at = 0; at < vectors[i].bytes; at += piece) {
				size_t left = vectors[i].bytes - at;
				hash_stream_add(stream, buffer + at, left < piece ? left : piece);
				(void)hash_stream_digest(stream);
			}
			hash128_format(hash_stream_digest(stream), text);
			assert_string_equal(text, vectors[i].hash128);
			hash_stream_close(stream);
		}
	}
}

/* struct.pack("<3Q", 1, 2, 3) and struct.pack("<Q", 2**63) through Python's xxhash. */
static void numbers(void **state)
{
	(void)state;
	assert_true(hash_numbers((uint64_t[]){1, 2, 3}, 3) == 0x7c68b4906e7ea780);
	assert_true(hash_numbers((uint64_t[]){UINT64_C(1) << 63}, 1) == 0x828f2476789a0e5f);
}

static void text_form(void **state)
{
	(void)state;
	struct hash128 hash;
	char text[33];
	assert_true(hash128_parse("0123456789abcdef00000000000000ff", &hash));
	assert_true(hash.high == 0x0123456789abcdef && hash.low == 0xff);
	hash128_format(hash, text);
	assert_string_equal(text, "0123456789abcdef00000000000000ff");
	static const char *const bad[] = {"", "0123456789abcdef00000000000000f",
		"0123456789abcdef00000000000000ff0", "0123456789ABCDEF00000000000000ff",
		"0123456789abcdeg00000000000000ff", " 123456789abcdef00000000000000ff"};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		assert_false(hash128_parse(bad[i], &hash));
}

static void order(void **state)
{
	(void)state;
	static const struct hash128 ascending[] = {{0, 0}, {0, 1}, {0, UINT64_MAX}, {1, 0}, {UINT64_MAX, 0}};
	for (int i = 0; i < 5; i++)
		for (int j = 0; j < 5; j++)
			assert_int_equal(hash128_compare(ascending[i], ascending[j]), (i > j) - (i < j));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(known_answers),
		cmocka_unit_test(streams),
		cmocka_unit_test(numbers),
		cmocka_unit_test(text_form),
		cmocka_unit_test(order),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
