/* jsonl_read (simdjson and json_scan) and json_scan_find against a naive recursive parser of RFC 8259. */
#include "data/json_scan.h"
#include "data/jsonl.h"
#include "tests/fuzz/naive_utf8.h"

/* The wanted text as the line gives it, its escapes resolved but bad bytes left as they are. */
struct captured {
	bool wanted, found, is_string; /* wanted: the value being read is the text */
	uint8_t *bytes;
	size_t *from; /* from[i]: where in the line bytes[i] comes from */
	size_t count;
	uint64_t lone;
	size_t first_lone;
};

struct reader {
	const uint8_t *line;
	size_t at, bytes;
	struct captured *text;
};

static bool read_value(struct reader *r, bool text);

static int next(struct reader *r)
{
	return r->at < r->bytes ? r->line[r->at] : -1;
}

static void blanks(struct reader *r)
{
	while (next(r) == ' ' || next(r) == '\t' || next(r) == '\r' || next(r) == '\n')
		r->at++;
}

static bool literal(struct reader *r, const char *word)
{
	for (; *word; word++)
		if (next(r) != *word)
			return false;
		else
			r->at++;
	return true;
}

static bool hex_digits(struct reader *r, uint32_t *code)
{
	*code = 0;
	for (int i = 0; i < 4; i++, r->at++) {
		int c = next(r);
		if (c >= '0' && c <= '9')
			*code = *code * 16 + (uint32_t)(c - '0');
		else if (c >= 'a' && c <= 'f')
			*code = *code * 16 + (uint32_t)(c - 'a') + 10;
		else if (c >= 'A' && c <= 'F')
			*code = *code * 16 + (uint32_t)(c - 'A') + 10;
		else
			return false;
	}
	return true;
}

static void keep(struct captured *text, size_t from, uint32_t point, bool raw)
{
	uint8_t bytes[4] = {(uint8_t)point};
	size_t count = raw ? 1 : naive_put(bytes, point);
	for (size_t i = 0; text && i < count; i++) {
		text->from[text->count] = from;
		text->bytes[text->count++] = bytes[i];
	}
}

static bool read_unicode(struct reader *r, size_t from, struct captured *text)
{
	uint32_t code, low;
	if (!hex_digits(r, &code))
		return false;
	if (code >= 0xD800 && code < 0xDC00) {
		struct reader ahead = *r;
		if (literal(&ahead, "\\u") && hex_digits(&ahead, &low) && low >= 0xDC00 && low < 0xE000) {
			r->at = ahead.at;
			code = 0x10000 + (code - 0xD800) * 0x400 + (low - 0xDC00);
		}
	}
	if (code >= 0xD800 && code < 0xE000) {
		code = NAIVE_REPLACEMENT;
		if (text && !text->lone++)
			text->first_lone = from;
	}
	keep(text, from, code, false);
	return true;
}

/* Behind the opening quote. */
static bool read_string(struct reader *r, struct captured *text)
{
	static const char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
	for (;;) {
		size_t from = r->at;
		int c = next(r);
		if (c < 0x20)
			return false;
		r->at++;
		if (c == '"')
			return true;
		if (c != '\\') {
			keep(text, from, (uint32_t)c, true);
			continue;
		}
		c = next(r);
		if (c < 0)
			return false;
		r->at++;
		const char *letter = c ? strchr(letters, c) : NULL;
		if (letter)
			keep(text, from, (uint32_t)meanings[letter - letters], true);
		else if (c != 'u' || !read_unicode(r, from, text))
			return false;
	}
}

static bool digits(struct reader *r)
{
	size_t from = r->at;
	while (next(r) >= '0' && next(r) <= '9')
		r->at++;
	return r->at > from;
}

static bool read_number(struct reader *r)
{
	if (next(r) == '-')
		r->at++;
	if (next(r) == '0')
		r->at++;
	else if (!digits(r))
		return false;
	if (next(r) == '.' && (r->at++, !digits(r)))
		return false;
	if (next(r) == 'e' || next(r) == 'E') {
		r->at++;
		if (next(r) == '+' || next(r) == '-')
			r->at++;
		return digits(r);
	}
	return true;
}

/* Behind the '{'; `top`: the line's own object. */
static bool read_object(struct reader *r, bool top)
{
	struct captured name = {
		.bytes = malloc(4 * r->bytes + 4), .from = malloc((4 * r->bytes + 4) * sizeof(size_t))};
	CHECK(name.bytes && name.from, "no memory");
	bool good = false;
	blanks(r);
	if (next(r) == '}') {
		r->at++;
		good = true;
		goto done;
	}
	for (;;) {
		blanks(r);
		name.count = 0;
		if (next(r) != '"' || (r->at++, !read_string(r, &name)))
			goto done;
		blanks(r);
		if (next(r) != ':')
			goto done;
		r->at++;
		/* A lone surrogate in a name is U+FFFD, which the key does not hold. */
		bool text = top && !r->text->found && name.count == 4 && memcmp(name.bytes, "text", 4) == 0;
		if (text)
			r->text->found = true;
		if (!read_value(r, text))
			goto done;
		blanks(r);
		int c = next(r);
		r->at++;
		if (c == '}') {
			good = true;
			goto done;
		}
		if (c != ',')
			goto done;
	}
done:
	free(name.bytes);
	free(name.from);
	return good;
}

static bool read_array(struct reader *r)
{
	blanks(r);
	if (next(r) == ']') {
		r->at++;
		return true;
	}
	for (;;) {
		if (!read_value(r, false))
			return false;
		blanks(r);
		int c = next(r);
		r->at++;
		if (c == ']')
			return true;
		if (c != ',')
			return false;
	}
}

static bool read_value(struct reader *r, bool text)
{
	blanks(r);
	switch (next(r)) {
	case '"':
		r->at++;
		if (text)
			r->text->is_string = true;
		return read_string(r, text ? r->text : NULL);
	case '{':
		r->at++;
		return read_object(r, false);
	case '[':
		r->at++;
		return read_array(r);
	case 't':
		return literal(r, "true");
	case 'f':
		return literal(r, "false");
	case 'n':
		return literal(r, "null");
	default:
		return read_number(r);
	}
}

static bool naive_read(const uint8_t *line, size_t bytes, struct captured *text)
{
	struct reader r = {line, 0, bytes, text};
	blanks(&r);
	if (next(&r) != '{')
		return false;
	r.at++;
	if (!read_object(&r, true))
		return false;
	blanks(&r);
	return r.at == bytes && text->found && text->is_string;
}

static void check_text(const struct captured *expected, const struct jsonl_text *text)
{
	struct naive_text repaired;
	naive_decode(expected->bytes, expected->count, &repaired);
	CHECK(text->bytes == repaired.byte_count && memcmp(text->data, repaired.bytes, text->bytes) == 0,
		"another text: \"%.*s\"", (int)text->bytes, text->data);
	CHECK(text->replaced == expected->lone + repaired.errors, "%llu replaced",
		(unsigned long long)text->replaced);
	if (text->replaced) {
		size_t at = expected->lone ? expected->first_lone : SIZE_MAX;
		if (repaired.errors && expected->from[repaired.first_error] < at)
			at = expected->from[repaired.first_error];
		CHECK(text->replaced_at == at, "%zu, not %zu", text->replaced_at, at);
	}
	naive_text_free(&repaired);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	enum { LONGEST = 1 << 14 }; /* the naive parser recurses */
	static struct jsonl *parser;
	if (bytes > LONGEST || memchr(data, '\n', bytes))
		return 0; /* a line has none */
	if (!parser)
		CHECK(jsonl_open("text", &parser) == STATUS_OK, "jsonl_open");
	char *line = malloc(bytes + 64);
	struct captured expected = {
		.bytes = malloc(4 * bytes + 4), .from = malloc((4 * bytes + 4) * sizeof(size_t))};
	CHECK(line && expected.bytes && expected.from, "no memory");
	memcpy(line, data, bytes);
	memset(line + bytes, bytes ? data[0] : 0, 64); /* what follows must not matter */
	bool good = naive_read(data, bytes, &expected);

	struct jsonl_text text;
	CHECK(jsonl_read(parser, line, bytes, &text) == STATUS_OK, "jsonl_read");
	CHECK(good == !text.reason, "%s", text.reason ? text.reason : "accepted");
	if (good)
		check_text(&expected, &text);

	/* json_scan reads no byte past the line. */
	struct json_scan scan;
	char *exact = malloc(bytes ? bytes : 1);
	CHECK(exact, "no memory");
	memcpy(exact, data, bytes);
	json_scan_find(exact, bytes, "text", &scan);
	CHECK(good == !scan.reason, "json_scan: %s", scan.reason ? scan.reason : "accepted");
	CHECK(scan.at <= bytes, "%zu", scan.at);
	free(exact);
	free(line);
	free(expected.bytes);
	free(expected.from);
	return 0;
}
