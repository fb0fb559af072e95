extern "C" {
#include "common/memory.h"
#include "data/json_scan.h"
#include "data/jsonl.h"
#include "tokenizer/utf8.h"
}

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <simdjson.h>
#include <string>

static_assert(simdjson::SIMDJSON_PADDING <= 64, "jsonl_read promises simdjson 64 bytes after the line");

/* simdjson keeps some 14 bytes a byte of the longest line, so that very long ones go to json_scan. */
static const size_t LONGEST_FAST_LINE = 1 << 20;

struct jsonl {
	simdjson::dom::parser parser;
	char *key;
	/* what json_scan's lines become */
	char *unescaped, *repaired;
	size_t unescaped_capacity, repaired_capacity;
	char reason[256];
};

extern "C" enum status jsonl_open(const char *text_key, struct jsonl **out)
{
	*out = new (std::nothrow) jsonl();
	FAIL_IF(!*out, STATUS_MEMORY, "no memory for a JSON parser");
	(*out)->key = strdup(text_key);
	if (!(*out)->key || (*out)->parser.allocate(LONGEST_FAST_LINE) != simdjson::SUCCESS) {
		jsonl_close(*out);
		*out = nullptr;
		return error_set(STATUS_MEMORY, "no memory for a JSON parser");
	}
	return STATUS_OK;
}

extern "C" void jsonl_close(struct jsonl *parser)
{
	if (!parser)
		return;
	free(parser->key);
	free(parser->unescaped);
	free(parser->repaired);
	delete parser;
}

/* False: the line is for json_scan. */
static bool read_fast(struct jsonl *parser, const char *line, size_t bytes, struct jsonl_text *out)
{
	simdjson::dom::element root;
	simdjson::dom::object object;
	std::string_view text;
	if (bytes > LONGEST_FAST_LINE || bytes == 0)
		return false;
	if (parser->parser.parse(line, bytes, false).get(root) != simdjson::SUCCESS)
		return false;
	if (root.get_object().get(object) != simdjson::SUCCESS)
		return false;
	if (object.at_key(parser->key).get_string().get(text) != simdjson::SUCCESS)
		return false;
	/* simdjson lets lone low surrogates through (as ED B0..BF ..): the only way that its strings are not
	 * UTF-8. */
	if (memchr(text.data(), 0xED, text.size()) &&
		utf8_find_invalid(text.data(), text.size()) != text.size())
		return false;
	out->data = text.data();
	out->bytes = text.size();
	return true;
}

static enum status grow(char **buffer, size_t *capacity, size_t wanted)
{
	return memory_grow(reinterpret_cast<void **>(buffer), capacity, wanted, 1, "a document's text");
}

/* The text at its escapes' and bad bytes' expense; `found` says where it lies. */
static enum status resolve(
	struct jsonl *parser, const char *line, const struct json_scan *found, struct jsonl_text *out)
{
	const char *raw = line + found->first;
	uint64_t lone = 0, ill_formed = 0;
	size_t first_lone = 0;
	out->data = raw;
	out->bytes = found->bytes;
	if (found->escaped) {
		TRY(grow(&parser->unescaped, &parser->unescaped_capacity, found->bytes));
		out->bytes = json_scan_unescape(raw, found->bytes, parser->unescaped, &lone, &first_lone);
		out->data = parser->unescaped;
	}
	if (lone)
		out->replaced_at = found->first + first_lone;
	if (utf8_find_invalid(out->data, out->bytes) != out->bytes) {
		TRY(grow(&parser->repaired, &parser->repaired_capacity, UTF8_REPAIR_LIMIT(out->bytes)));
		out->bytes = utf8_repair(out->data, out->bytes, parser->repaired, &ill_formed);
		out->data = parser->repaired;
		/* An escape is ASCII, so the raw text is ill-formed at the same sequences. */
		size_t at = found->first + utf8_find_invalid(raw, found->bytes);
		if (!lone || at < out->replaced_at)
			out->replaced_at = at;
	}
	out->replaced = lone + ill_formed;
	return STATUS_OK;
}

extern "C" bool jsonl_find_start(const char *line, size_t bytes, bool first, size_t *start)
{
	static const char mark[] = "\xEF\xBB\xBF";
	*start = first && bytes >= 3 && memcmp(line, mark, 3) == 0 ? 3 : 0;
	for (size_t i = *start; i < bytes; i++)
		if (!memchr(" \t\r", line[i], 3))
			return true;
	return false;
}

extern "C" enum status jsonl_read(
	struct jsonl *parser, const char *line, size_t bytes, struct jsonl_text *out)
{
	struct json_scan found;
	*out = jsonl_text{};
	if (read_fast(parser, line, bytes, out))
		return STATUS_OK;
	json_scan_find(line, bytes, parser->key, &found);
	if (!found.reason)
		return resolve(parser, line, &found, out);
	snprintf(parser->reason, sizeof parser->reason, "%s (column %zu)", found.reason, found.at + 1);
	out->reason = parser->reason;
	return STATUS_OK;
}
