/*
 * utf8_decode.h: one character of text that is known to be valid UTF-8. On other text it still stays inside
 * the text and takes at least one byte, giving some code point that is no letter, number or space.
 */
#ifndef TOKENIZER_UTF8_DECODE_H
#define TOKENIZER_UTF8_DECODE_H

#include <stddef.h>
#include <stdint.h>

enum { UTF8_NOTHING = 0xFFFD };

/* bytes > 0; *length becomes 1 to 4. */
static inline uint32_t utf8_decode(const uint8_t *text, size_t bytes, size_t *length)
{
	uint32_t lead = text[0];
	*length = 1;
	if (lead < 0x80)
		return lead;
	if (lead < 0xC0)
		return UTF8_NOTHING;
	if (lead < 0xE0 && bytes >= 2) {
		*length = 2;
		return (lead & 0x1F) << 6 | (text[1] & 0x3F);
	}
	if (lead >= 0xE0 && lead < 0xF0 && bytes >= 3) {
		*length = 3;
		return (lead & 0x0F) << 12 | (uint32_t)(text[1] & 0x3F) << 6 | (text[2] & 0x3F);
	}
	if (lead >= 0xF0 && bytes >= 4) {
		*length = 4;
		return (lead & 0x07) << 18 | (uint32_t)(text[1] & 0x3F) << 12 |
		       (uint32_t)(text[2] & 0x3F) << 6 | (text[3] & 0x3F);
	}
	return UTF8_NOTHING;
}

#endif
