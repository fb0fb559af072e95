/*
 * unicode.h: what the split pattern asks of a code point: is it \p{L}, \p{N}, \s or none of them.
 *
 * Unicode 16.0, pinned: a later version assigns letters that this one calls "other", and ids would change.
 * The tables (unicode_tables.c) are written by unicode_tables.py.
 */
#ifndef TOKENIZER_UNICODE_H
#define TOKENIZER_UNICODE_H

#include <stdint.h>

#define UNICODE_VERSION "16.0.0"

enum unicode_class { UNICODE_OTHER, UNICODE_LETTER, UNICODE_NUMBER, UNICODE_SPACE };

/* Code point -> block of 256 -> two bits each, four to a byte, the lowest bits first. */
extern const uint8_t unicode_block_of[0x1100];
extern const uint8_t unicode_blocks[][64];

/* Anything above U+10FFFF is UNICODE_OTHER. */
static inline enum unicode_class unicode_class_of(uint32_t code_point)
{
	if (__builtin_expect(code_point > 0x10FFFF, 0))
		return UNICODE_OTHER;
	const uint8_t *block = unicode_blocks[unicode_block_of[code_point >> 8]];
	return (enum unicode_class)(block[(code_point & 255) >> 2] >> ((code_point & 3) * 2) & 3);
}

#endif
