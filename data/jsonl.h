/*
 * jsonl.h: the text of a document out of a line of JSON.
 *
 * The line must be one JSON object (RFC 8259) whose first member named `text_key` is a string; white space
 * around it is fine. Lines go through simdjson; a line that it refuses is read again by data/json_scan.h,
 * which decides: so numbers of any size are accepted, lone surrogates (\ud800) and invalid UTF-8 become
 * U+FFFD and are counted, and the reason of a bad line does not depend on the library's version. Very long
 * lines go to json_scan alone, whose memory does not grow with the structure.
 *
 * One parser serves one thread.
 */
#ifndef DATA_JSONL_H
#define DATA_JSONL_H

#include "common/error.h"

#include <stdint.h>

struct jsonl;

struct jsonl_text {
	const char *data; /* [bytes], valid UTF-8, until the next call or as long as the line */
	size_t bytes;
	uint64_t replaced;  /* sequences that became U+FFFD */
	size_t replaced_at; /* offset in the line of the first of them */
	const char *reason; /* NULL: good. Else what is wrong with the line; the fields above are unset */
};

enum status jsonl_open(const char *text_key, struct jsonl **out) MUST_USE;
void jsonl_close(struct jsonl *parser); /* NULL is fine */

/* Where the JSON of a line begins: behind the byte order mark that a file's first line may begin with. False
 * for a blank line, which is none. */
bool jsonl_find_start(const char *line, size_t bytes, bool first, size_t *start);

/* A line can be six times as long as its text (\u0041), and holds other members too. */
static inline uint64_t jsonl_longest_line(uint64_t text_bytes)
{
	return text_bytes * 6 + (1 << 20);
}

/* `line` has no newline and is followed by at least 64 readable bytes. Fails only for lack of memory. */
enum status jsonl_read(struct jsonl *parser, const char *line /* [bytes + 64] */, size_t bytes,
	struct jsonl_text *out) MUST_USE;

#endif
