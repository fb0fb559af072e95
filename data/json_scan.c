#include "data/json_scan.h"

#include <string.h>

enum { DEEPEST = 65536 };

struct scanner {
	const char *line;
	size_t at, bytes;
	const char *reason;
	uint64_t is_object[DEEPEST / 64]; /* bit d: the container at depth d is an object */
};

/* A string of the line: between the quotes. */
struct span {
	size_t first, bytes;
	bool escaped;
};

static bool fail(struct scanner *scanner, const char *reason)
{
	if (!scanner->reason)
		scanner->reason = reason;
	return false;
}

static int peek(const struct scanner *scanner)
{
	return scanner->at < scanner->bytes ? (unsigned char)scanner->line[scanner->at] : -1;
}

static void skip_space(struct scanner *scanner)
{
	int c;
	while ((c = peek(scanner)) == ' ' || c == '\t' || c == '\n' || c == '\r')
		scanner->at++;
}

static int hex_digit(int c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Four hex digits; -1 when they are not. */
static int hex4(const char *digits)
{
	int code = 0;
	for (int i = 0; i < 4; i++) {
		int digit = hex_digit((unsigned char)digits[i]);
		if (digit < 0)
			return -1;
		code = code << 4 | digit;
	}
	return code;
}

static bool scan_escape(struct scanner *scanner)
{
	scanner->at++;
	int c = peek(scanner);
	if (c == 'u') {
		if (scanner->bytes - scanner->at < 5 || hex4(scanner->line + scanner->at + 1) < 0)
			return fail(scanner, "a \\u without four hexadecimal digits");
		scanner->at += 5;
		return true;
	}
	if (c <= 0 || !strchr("\"\\/bfnrt", c))
		return fail(scanner, "an unknown escape in a string");
	scanner->at++;
	return true;
}

static bool scan_string(struct scanner *scanner, struct span *span)
{
	*span = (struct span){.first = ++scanner->at};
	for (;;) {
		int c = peek(scanner);
		if (c < 0)
			return fail(scanner, "a string does not end");
		if (c == '"')
			break;
		if (c < 0x20)
			return fail(scanner, "a control character in a string");
		if (c == '\\') {
			span->escaped = true;
			if (!scan_escape(scanner))
				return false;
		} else {
			scanner->at++;
		}
	}
	span->bytes = scanner->at - span->first;
	scanner->at++;
	return true;
}

static bool scan_digits(struct scanner *scanner)
{
	size_t first = scanner->at;
	while (peek(scanner) >= '0' && peek(scanner) <= '9')
		scanner->at++;
	return scanner->at > first || fail(scanner, "not a number");
}

static bool scan_number(struct scanner *scanner)
{
	if (peek(scanner) == '-')
		scanner->at++;
	if (peek(scanner) == '0')
		scanner->at++;
	else if (!scan_digits(scanner))
		return false;
	if (peek(scanner) == '.') {
		scanner->at++;
		if (!scan_digits(scanner))
			return false;
	}
	if ((peek(scanner) | 0x20) == 'e') {
		scanner->at++;
		if (peek(scanner) == '+' || peek(scanner) == '-')
			scanner->at++;
		return scan_digits(scanner);
	}
	return true;
}

static bool scan_word(struct scanner *scanner, const char *word)
{
	size_t length = strlen(word);
	if (scanner->bytes - scanner->at < length || memcmp(scanner->line + scanner->at, word, length) != 0)
		return fail(scanner, "not a JSON value");
	scanner->at += length;
	return true;
}

static bool scan_scalar(struct scanner *scanner)
{
	struct span ignored;
	switch (peek(scanner)) {
	case '"':
		return scan_string(scanner, &ignored);
	case 't':
		return scan_word(scanner, "true");
	case 'f':
		return scan_word(scanner, "false");
	case 'n':
		return scan_word(scanner, "null");
	case -1:
		return fail(scanner, "the line ends in the middle of the object");
	default:
		if (peek(scanner) == '-' || (peek(scanner) >= '0' && peek(scanner) <= '9'))
			return scan_number(scanner);
		return fail(scanner, "not a JSON value");
	}
}

/* `"name" :` */
static bool scan_name(struct scanner *scanner, struct span *name)
{
	skip_space(scanner);
	if (peek(scanner) != '"')
		return fail(scanner, peek(scanner) < 0 ? "the line ends in the middle of the object"
						       : "a member without a quoted name");
	if (!scan_string(scanner, name))
		return false;
	skip_space(scanner);
	if (peek(scanner) != ':')
		return fail(scanner, "a member without a colon");
	scanner->at++;
	skip_space(scanner);
	return true;
}

static bool open_container(struct scanner *scanner, int *depth)
{
	if (*depth == DEEPEST)
		return fail(scanner, "nested too deeply");
	uint64_t bit = UINT64_C(1) << (*depth % 64);
	if (scanner->line[scanner->at] == '{')
		scanner->is_object[*depth / 64] |= bit;
	else
		scanner->is_object[*depth / 64] &= ~bit;
	++*depth;
	scanner->at++;
	return true;
}

/* Any value, without recursion: a line cannot exhaust the stack. */
static bool scan_value(struct scanner *scanner)
{
	int depth = 0;
	struct span name;
	for (;;) {
		/* at the start of a value */
		skip_space(scanner);
		int c = peek(scanner);
		if (c == '{' || c == '[') {
			int close = c == '{' ? '}' : ']';
			if (!open_container(scanner, &depth))
				return false;
			skip_space(scanner);
			if (peek(scanner) != close) {
				if (c == '{' && !scan_name(scanner, &name))
					return false;
				continue;
			}
		} else {
			if (!scan_scalar(scanner))
				return false;
			if (depth == 0)
				return true;
		}
		/* after a value, or before the end of an empty container */
		for (;;) {
			bool object = depth && scanner->is_object[(depth - 1) / 64] >> ((depth - 1) % 64) & 1;
			if (depth == 0)
				return true;
			skip_space(scanner);
			c = peek(scanner);
			if (c == ',') {
				scanner->at++;
				if (object && !scan_name(scanner, &name))
					return false;
				break;
			}
			if (c < 0)
				return fail(scanner, "the line ends in the middle of the object");
			if (c != (object ? '}' : ']'))
				return fail(scanner, "a comma is missing");
			scanner->at++;
			depth--;
		}
	}
}

/* The name, its escapes resolved, against the key; compared as it is resolved, so that it needs no memory. */
static bool name_is(const struct scanner *scanner, const struct span *name, const char *key)
{
	const char *text = scanner->line + name->first;
	size_t key_bytes = strlen(key);
	if (!name->escaped)
		return name->bytes == key_bytes && memcmp(text, key, key_bytes) == 0;
	size_t at = 0, matched = 0;
	while (at < name->bytes) {
		/* One character at a time: a pair of surrogates is the longest, 12 bytes. */
		char resolved[12];
		uint64_t lone = 0;
		size_t first_lone, n = 1;
		if (text[at] == '\\')
			n = text[at + 1] == 'u' ? 6 : 2;
		if (n == 6 && name->bytes - at >= 12 && text[at + 6] == '\\' && text[at + 7] == 'u') {
			int high = hex4(text + at + 2), low = hex4(text + at + 8);
			if (high >= 0xD800 && high < 0xDC00 && low >= 0xDC00 && low < 0xE000)
				n = 12;
		}
		size_t length = json_scan_unescape(text + at, n, resolved, &lone, &first_lone);
		if (key_bytes - matched < length || memcmp(key + matched, resolved, length) != 0)
			return false;
		matched += length;
		at += n;
	}
	return matched == key_bytes;
}

/* The members of the top-level object; true when the object is well formed. */
static bool scan_members(struct scanner *scanner, const char *key, bool *found, struct json_scan *out)
{
	struct span name, text;
	for (;;) {
		if (!scan_name(scanner, &name))
			return false;
		if (!*found && name_is(scanner, &name, key)) {
			*found = true;
			out->at = scanner->at;
			if (peek(scanner) == '"') {
				if (!scan_string(scanner, &text))
					return false;
				out->first = text.first;
				out->bytes = text.bytes;
				out->escaped = text.escaped;
			} else {
				out->reason = "the text is not a string";
				if (!scan_value(scanner))
					return false;
			}
		} else if (!scan_value(scanner)) {
			return false;
		}
		skip_space(scanner);
		int c = peek(scanner);
		if (c == '}') {
			scanner->at++;
			return true;
		}
		if (c != ',')
			return fail(scanner,
				c < 0 ? "the line ends in the middle of the object" : "a comma is missing");
		scanner->at++;
	}
}

static bool scan_line(struct scanner *scanner, const char *key, bool *found, struct json_scan *out)
{
	skip_space(scanner);
	if (peek(scanner) != '{') {
		if (!scan_value(scanner))
			return false;
		out->reason = "not a JSON object";
	} else {
		scanner->at++;
		skip_space(scanner);
		if (peek(scanner) == '}')
			scanner->at++;
		else if (!scan_members(scanner, key, found, out))
			return false;
	}
	skip_space(scanner);
	return scanner->at == scanner->bytes || fail(scanner, "more text after the JSON value");
}

void json_scan_find(const char *line, size_t bytes, const char *key, struct json_scan *out)
{
	struct scanner scanner;
	bool found = false;
	scanner.line = line;
	scanner.at = 0;
	scanner.bytes = bytes;
	scanner.reason = NULL;
	*out = (struct json_scan){0};
	if (!scan_line(&scanner, key, &found, out)) {
		out->reason = scanner.reason;
		out->at = scanner.at;
	} else if (!found && !out->reason) {
		out->reason = "the text's member is missing";
	}
}

static size_t put_utf8(char *out, uint32_t code)
{
	if (code < 0x80) {
		out[0] = (char)code;
		return 1;
	}
	if (code < 0x800) {
		out[0] = (char)(0xC0 | code >> 6);
		out[1] = (char)(0x80 | (code & 63));
		return 2;
	}
	if (code < 0x10000) {
		out[0] = (char)(0xE0 | code >> 12);
		out[1] = (char)(0x80 | (code >> 6 & 63));
		out[2] = (char)(0x80 | (code & 63));
		return 3;
	}
	out[0] = (char)(0xF0 | code >> 18);
	out[1] = (char)(0x80 | (code >> 12 & 63));
	out[2] = (char)(0x80 | (code >> 6 & 63));
	out[3] = (char)(0x80 | (code & 63));
	return 4;
}

size_t json_scan_unescape(const char *text, size_t bytes, char *out, uint64_t *lone, size_t *first_lone)
{
	size_t at = 0, length = 0;
	*lone = 0;
	while (at < bytes) {
		const char *escape = memchr(text + at, '\\', bytes - at);
		size_t plain = escape ? (size_t)(escape - (text + at)) : bytes - at;
		memcpy(out + length, text + at, plain);
		length += plain;
		at += plain;
		if (!escape)
			break;
		char c = text[at + 1];
		if (c != 'u') {
			static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
			out[length++] = to[strchr(from, c) - from];
			at += 2;
			continue;
		}
		uint32_t code = (uint32_t)hex4(text + at + 2);
		size_t first = at;
		at += 6;
		if (code >= 0xD800 && code < 0xDC00 && bytes - at >= 6 && text[at] == '\\' &&
			text[at + 1] == 'u') {
			uint32_t low = (uint32_t)hex4(text + at + 2);
			if (low >= 0xDC00 && low < 0xE000) {
				code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
				at += 6;
			}
		}
		if (code >= 0xD800 && code < 0xE000) {
			code = 0xFFFD;
			if ((*lone)++ == 0)
				*first_lone = first;
		}
		length += put_utf8(out + length, code);
	}
	return length;
}
