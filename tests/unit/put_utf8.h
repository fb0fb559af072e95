/*
 * put_utf8.h: a code point as UTF-8, for tests that make texts of any characters. Written as plainly as can be.
 */
#ifndef TESTS_PUT_UTF8_H
#define TESTS_PUT_UTF8_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* 1 to 4 bytes, how many is returned, and room for one more. Surrogates are put like all others. */
static inline size_t put_utf8(char *out, uint32_t c)
{
	if (c < 0x80)
		return (out[0] = (char)c, 1);
	if (c < 0x800)
		return (size_t)sprintf(out, "%c%c", (int)(0xC0 | c >> 6), (int)(0x80 | (c & 63)));
	if (c < 0x10000)
		return (size_t)sprintf(out, "%c%c%c", (int)(0xE0 | c >> 12), (int)(0x80 | (c >> 6 & 63)),
			(int)(0x80 | (c & 63)));
	return (size_t)sprintf(out, "%c%c%c%c", (int)(0xF0 | c >> 18), (int)(0x80 | (c >> 12 & 63)),
		(int)(0x80 | (c >> 6 & 63)), (int)(0x80 | (c & 63)));
}

#endif
