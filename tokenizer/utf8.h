/*
 * utf8.h: validation and repair of UTF-8 (RFC 3629: no surrogates, no overlong forms, at most U+10FFFF).
 *
 * Repair replaces each maximal subpart of an ill-formed sequence by U+FFFD, as Unicode's section 3.9 and the
 * WHATWG decoder say, and as Python's bytes.decode("utf-8", "replace") does.
 */
#ifndef TOKENIZER_UTF8_H
#define TOKENIZER_UTF8_H

#include "common/error.h"

#include <stdint.h>

/* The offset of the first byte of the first ill-formed sequence, or `bytes` when there is none. */
size_t utf8_find_invalid(const char *text, size_t bytes);

/* Worst case of utf8_repair: each byte becomes three. */
#define UTF8_REPAIR_LIMIT(bytes) ((bytes)*3)

/*
 * Writes the repaired text to `out` (room for UTF8_REPAIR_LIMIT(bytes); must not overlap) and returns its
 * length; *replaced counts the U+FFFD written for ill-formed sequences.
 */
size_t utf8_repair(const char *text, size_t bytes, char *out, uint64_t *replaced);

#endif
