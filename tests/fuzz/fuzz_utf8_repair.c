/* utf8_find_invalid and utf8_repair against the WHATWG decoder, at any alignment. */
#include "tests/fuzz/naive_utf8.h"
#include "tokenizer/utf8.h"
#include "tokenizer/utf8_decode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	struct naive_text expected;
	naive_decode(data, bytes, &expected);
	const char *text = (const char *)data;
	CHECK(utf8_find_invalid(text, bytes) == expected.first_error, "%zu", utf8_find_invalid(text, bytes));

	char *repaired = malloc(UTF8_REPAIR_LIMIT(bytes) + 1);
	CHECK(repaired, "no memory");
	uint64_t replaced;
	size_t length = utf8_repair(text, bytes, repaired, &replaced);
	CHECK(replaced == expected.errors, "%llu", (unsigned long long)replaced);
	CHECK(length == expected.byte_count && memcmp(repaired, expected.bytes, length) == 0, "another text");
	CHECK(utf8_find_invalid(repaired, length) == length, "repaired, and still not valid");

	/* And it decodes to the same code points. */
	size_t at = 0;
	for (size_t i = 0; i < expected.point_count; i++) {
		size_t step;
		CHECK(at < length, "too short");
		uint32_t point = utf8_decode((const uint8_t *)repaired + at, length - at, &step);
		CHECK(point == expected.points[i], "U+%04X, not U+%04X", point, expected.points[i]);
		at += step;
	}
	CHECK(at == length, "%zu", at);
	free(repaired);
	naive_text_free(&expected);
	return 0;
}
