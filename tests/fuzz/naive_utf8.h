/*
 * naive_utf8.h: the "UTF-8 decode" of the WHATWG Encoding standard, byte by byte as it is written there: a
 * state machine with a lower and an upper boundary, which gives U+FFFD for each error.
 */
#ifndef TESTS_FUZZ_NAIVE_UTF8_H
#define TESTS_FUZZ_NAIVE_UTF8_H

#include "tests/fuzz/fuzz.h"

enum { NAIVE_REPLACEMENT = 0xFFFD };

FUZZ_FUNCTION size_t naive_put(uint8_t *out, uint32_t c)
{
	if (c < 0x80) {
		out[0] = (uint8_t)c;
		return 1;
	}
	int more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
	static const uint8_t lead[] = {0, 0xC0, 0xE0, 0xF0};
	out[0] = (uint8_t)(lead[more] + (c >> 6 * more));
	for (int i = 1; i <= more; i++)
		out[i] = (uint8_t)(0x80 + (c >> 6 * (more - i)) % 64);
	return (size_t)more + 1;
}

struct naive_text {
	uint8_t *bytes;   /* [byte_count] */
	uint32_t *points; /* [point_count] */
	size_t byte_count, point_count;
	uint64_t errors;
	size_t first_error; /* where the first ill-formed sequence begins; the input's length if there is none
			     */
};

FUZZ_FUNCTION void naive_text_free(struct naive_text *text)
{
	free(text->bytes);
	free(text->points);
}

FUZZ_FUNCTION void naive_add(struct naive_text *text, uint32_t point)
{
	text->points[text->point_count++] = point;
	text->byte_count += naive_put(text->bytes + text->byte_count, point);
}

FUZZ_FUNCTION void naive_error(struct naive_text *text, size_t at)
{
	if (!text->errors++)
		text->first_error = at;
	naive_add(text, NAIVE_REPLACEMENT);
}

FUZZ_FUNCTION void naive_decode(const uint8_t *data, size_t bytes, struct naive_text *out)
{
	uint32_t point = 0;
	int needed = 0, seen = 0;
	uint8_t lower = 0x80, upper = 0xBF;
	size_t begin = 0;
	*out = (struct naive_text){
		.bytes = malloc(3 * bytes + 1), .points = malloc((bytes + 1) * 4), .first_error = bytes};
	CHECK(out->bytes && out->points, "no memory");
	for (size_t i = 0; i < bytes; i++) {
		uint8_t byte = data[i];
		if (needed == 0) {
			begin = i;
			if (byte < 0x80) {
				naive_add(out, byte);
			} else if (byte >= 0xC2 && byte <= 0xDF) {
				needed = 1;
				point = byte & 0x1F;
			} else if (byte >= 0xE0 && byte <= 0xEF) {
				if (byte == 0xE0)
					lower = 0xA0;
				if (byte == 0xED)
					upper = 0x9F;
				needed = 2;
				point = byte & 0xF;
			} else if (byte >= 0xF0 && byte <= 0xF4) {
				if (byte == 0xF0)
					lower = 0x90;
				if (byte == 0xF4)
					upper = 0x8F;
				needed = 3;
				point = byte & 0x7;
			} else {
				naive_error(out, i);
			}
			continue;
		}
		bool good = byte >= lower && byte <= upper;
		lower = 0x80;
		upper = 0xBF;
		if (!good) {
			needed = seen = 0;
			naive_error(out, begin);
			i--; /* the byte is read again */
			continue;
		}
		point = point << 6 | (byte & 0x3F);
		if (++seen == needed) {
			needed = seen = 0;
			naive_add(out, point);
		}
	}
	if (needed)
		naive_error(out, begin);
}

#endif
