#include "tokenizer/utf8.h"

#include <string.h>

#define HIGH_BITS UINT64_C(0x8080808080808080)

/* The length of the ASCII run that starts at `at`. */
static size_t skip_ascii(const uint8_t *text, size_t bytes, size_t at)
{
	for (; bytes - at >= 16; at += 16) {
		uint64_t low, high;
		memcpy(&low, text + at, 8);
		memcpy(&high, text + at + 8, 8);
		if ((low | high) & HIGH_BITS)
			break;
	}
	while (at < bytes && text[at] < 0x80)
		at++;
	return at;
}

/*
 * A sequence that starts with a byte of 0x80 or more. Returns its length; *valid says whether it is well
 * formed, and if not, the length is that of its maximal subpart: the longest prefix of a well-formed sequence
 * (table 3-7 of the Unicode standard), at least one byte.
 */
static size_t read_sequence(const uint8_t *text, size_t bytes, bool *valid)
{
	uint8_t lead = text[0];
	size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
	uint8_t least = 0x80, most = 0xBF; /* of the second byte */

	*valid = false;
	if (lead < 0xC2 || lead > 0xF4)
		return 1;
	if (lead == 0xE0)
		least = 0xA0; /* below: overlong */
	else if (lead == 0xED)
		most = 0x9F; /* above: surrogates */
	else if (lead == 0xF0)
		least = 0x90; /* below: overlong */
	else if (lead == 0xF4)
		most = 0x8F; /* above: past U+10FFFF */
	if (bytes < 2 || text[1] < least || text[1] > most)
		return 1;
	for (size_t i = 2; i < length; i++)
		if (i >= bytes || (text[i] & 0xC0) != 0x80)
			return i;
	*valid = true;
	return length;
}

/* The first ill-formed sequence at or after `at`, and the length of its maximal subpart. */
static size_t find_invalid(const uint8_t *text, size_t bytes, size_t at, size_t *length)
{
	while ((at = skip_ascii(text, bytes, at)) < bytes) {
		while (at < bytes && text[at] >= 0x80) {
			bool valid;
			*length = read_sequence(text + at, bytes - at, &valid);
			if (!valid)
				return at;
			at += *length;
		}
	}
	return bytes;
}

size_t utf8_find_invalid(const char *text, size_t bytes)
{
	size_t length;
	return find_invalid((const uint8_t *)text, bytes, 0, &length);
}

size_t utf8_repair(const char *text, size_t bytes, char *out, uint64_t *replaced)
{
	size_t written = 0, length = 0;
	*replaced = 0;
	for (size_t at = 0; at < bytes; at += length) {
		size_t invalid = find_invalid((const uint8_t *)text, bytes, at, &length);
		memcpy(out + written, text + at, invalid - at);
		written += invalid - at;
		if (invalid == bytes)
			break;
		memcpy(out + written, "\xEF\xBF\xBD", 3);
		written += 3;
		*replaced += 1;
		at = invalid;
	}
	return written;
}
