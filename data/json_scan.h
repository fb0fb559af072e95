/*
 * json_scan.h: a plain JSON reader that finds one string member, for the lines that simdjson refuses.
 *
 * It checks the whole line against RFC 8259's grammar, except that strings may hold bytes that are not UTF-8
 * and lone surrogates: those of the wanted text are reported, not refused. Objects and arrays may nest 65,536
 * deep. No memory of its own; any thread.
 */
#ifndef DATA_JSON_SCAN_H
#define DATA_JSON_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json_scan {
	const char *reason; /* NULL: good; else a static text */
	size_t at;          /* where it is bad */
	/* The text, as it stands between its quotes: line[first, first + bytes). */
	size_t first, bytes;
	bool escaped; /* it holds a backslash */
};

/* The first top-level member named `key`, which must be a string. */
void json_scan_find(const char *line /* [bytes] */, size_t bytes, const char *key, struct json_scan *out);

/* Resolves the escapes of a text that json_scan_find found. `out` has room for `bytes`; returns the length.
 * Pairs of surrogates are joined, lone ones become U+FFFD and are counted; *first_lone (offset in `text`) is
 * set when there is one. */
size_t json_scan_unescape(const char *text /* [bytes] */, size_t bytes, char *out /* [bytes] */,
	uint64_t *lone, size_t *first_lone);

#endif
