/*
 * cmd_encode.c: `ferry encode` and `ferry decode`: text to ids and back, standard input to standard output.
 */
#include "common/file.h"
#include "common/log.h"
#include "common/memory.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/utf8.h"
#include "tools/command.h"
#include "tools/options.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STANDARD_INPUT "standard input"

enum format { FORMAT_TEXT, FORMAT_U16, FORMAT_I32 }; /* the order of FORMATS */
#define FORMATS "text|u16|i32"

struct settings {
	const char *vocab_file, *merge_file, *separator;
	int format;
	bool strict;
};

static enum status open_tokenizer(const struct settings *settings, struct tokenizer **out)
{
	*out = NULL;
	FAIL_IF(settings->vocab_file && !settings->merge_file, STATUS_USAGE,
		"--vocab-file needs --merge-file beside it (merges.txt or vocab.bpe)");
	if (settings->merge_file)
		TRY(tokenizer_open_files(settings->merge_file, settings->vocab_file, out));
	else
		TRY(tokenizer_open_gpt2(out));
	uint32_t vocabulary = tokenizer_vocabulary(*out);
	if (settings->format == FORMAT_U16 && vocabulary > 65536) {
		tokenizer_close(*out);
		*out = NULL;
		return error_set(STATUS_USAGE,
			"--format u16 holds ids up to 65535, this vocabulary has %u; use i32", vocabulary);
	}
	return STATUS_OK;
}

/* All of standard input, malloc'ed. */
static enum status read_input(char **data, size_t *bytes)
{
	enum { STEP = 1 << 20 };
	size_t capacity = 0, got = STEP;
	*data = NULL;
	*bytes = 0;
	while (got == STEP) {
		TRY(memory_grow((void **)data, &capacity, *bytes + STEP, 1, STANDARD_INPUT));
		TRY(file_read_some(STDIN_FILENO, STANDARD_INPUT, *data + *bytes, STEP, &got));
		*bytes += got;
	}
	return STATUS_OK;
}

static enum status write_output(const void *data, size_t bytes)
{
	if (fwrite(data, 1, bytes, stdout) != bytes)
		return error_set_errno(STATUS_IO, "standard output: write failed");
	return STATUS_OK;
}

/* ---- encode ---- */

struct encode {
	const struct settings *settings;
	struct tokenizer *tokenizer;
	struct encoder *encoder;
	const char *input; /* the whole of it, for line numbers */
	char *text;        /* one document, repaired */
	uint32_t *ids;     /* of one document, and its EOD */
	size_t text_capacity, ids_capacity;
	uint64_t replaced;
};

static enum status refuse_invalid(const char *input, const char *bad)
{
	size_t line = 1;
	const char *start = input;
	for (const char *at = input; (at = memchr(at, '\n', (size_t)(bad - at))); start = ++at)
		line++;
	return error_set(STATUS_CORRUPT,
		STANDARD_INPUT
		", line %zu, byte %td: not valid UTF-8 (0x%02X); without --strict it becomes U+FFFD",
		line, bad - start + 1, (unsigned char)*bad);
}

static enum status write_ids(const struct encode *encode, size_t count)
{
	if (encode->settings->format == FORMAT_I32)
		return write_output(encode->ids, count * sizeof *encode->ids);
	for (size_t i = 0; i < count; i++) {
		uint16_t id = (uint16_t)encode->ids[i];
		if (encode->settings->format == FORMAT_U16)
			TRY(write_output(&id, sizeof id));
		else if (printf(i ? " %u" : "%u", encode->ids[i]) < 0)
			return error_set_errno(STATUS_IO, "standard output: write failed");
	}
	return encode->settings->format == FORMAT_TEXT ? write_output("\n", 1) : STATUS_OK;
}

static enum status encode_document(struct encode *encode, const char *document, size_t bytes)
{
	if (encode->settings->strict) {
		size_t invalid = utf8_find_invalid(document, bytes);
		if (invalid < bytes)
			return refuse_invalid(encode->input, document + invalid);
	}
	TRY(memory_grow((void **)&encode->text, &encode->text_capacity, UTF8_REPAIR_LIMIT(bytes), 1,
		"repaired text"));
	uint64_t replaced;
	size_t length = utf8_repair(document, bytes, encode->text, &replaced), count;
	encode->replaced += replaced;
	TRY(memory_grow(
		(void **)&encode->ids, &encode->ids_capacity, length + 1, sizeof *encode->ids, "ids"));
	TRY(encoder_encode(encode->encoder, encode->text, length, encode->ids, &count));
	if (encode->settings->separator && encode->settings->format != FORMAT_TEXT)
		encode->ids[count++] = tokenizer_eod(encode->tokenizer);
	return write_ids(encode, count);
}

/* Without a separator all input is one document, even if empty. What follows the last one is one if not
 * empty. */
static enum status encode_documents(struct encode *encode, size_t bytes)
{
	const char *separator = encode->settings->separator, *at = encode->input, *end = at + bytes, *cut;
	if (!separator)
		return encode_document(encode, at, bytes);
	for (; (cut = memmem(at, (size_t)(end - at), separator, strlen(separator)));
		at = cut + strlen(separator))
		TRY(encode_document(encode, at, (size_t)(cut - at)));
	return at < end ? encode_document(encode, at, (size_t)(end - at)) : STATUS_OK;
}

static enum status encode_input(const struct settings *settings)
{
	struct encode encode = {.settings = settings};
	char *input = NULL;
	size_t bytes;
	enum status status = open_tokenizer(settings, &encode.tokenizer);
	if (status == STATUS_OK)
		status = encoder_open(encode.tokenizer, &encode.encoder);
	if (status == STATUS_OK)
		status = read_input(&input, &bytes);
	encode.input = input;
	if (status == STATUS_OK)
		status = encode_documents(&encode, bytes);
	if (status == STATUS_OK && encode.replaced)
		log_warn(STANDARD_INPUT ": %llu ill-formed UTF-8 sequences became U+FFFD",
			(unsigned long long)encode.replaced);
	free(input);
	free(encode.text);
	free(encode.ids);
	encoder_close(encode.encoder);
	tokenizer_close(encode.tokenizer);
	return status;
}

static enum status encode_run(int argc, char **argv)
{
	struct settings settings = {0};
	struct option table[] = {
		{OPTION_CHOICE("--format", &settings.format, FORMATS,
			"text: decimal, spaces between, a line a document; u16, i32: little-endian")},
		{OPTION_STRING("--document-separator", &settings.separator, "STRING",
			 "cut the input into documents here; u16 and i32 then end each in the EOD id"),
			.default_text = "none"},
		{OPTION_STRING("--vocab-file", &settings.vocab_file, "FILE", "vocab.json: token to id"),
			.default_text = "ids follow from the merges"},
		{OPTION_STRING("--merge-file", &settings.merge_file, "FILE", "merges.txt or vocab.bpe"),
			.default_text = "GPT-2's, built in"},
		{OPTION_FLAG("--strict", &settings.strict, "invalid UTF-8 is an error, not U+FFFD")},
	};
	struct options options = OPTIONS(table, "encode", "text on standard input to token ids");
	TRY(options_parse(&options, argc, argv));
	if (options.help)
		return STATUS_OK;
	command_note_escapes("--document-separator", settings.separator);
	return encode_input(&settings);
}

int cmd_encode(int argc, char **argv)
{
	return command_finish("encode", encode_run(argc, argv));
}

/* ---- decode ---- */

static enum status parse_text_ids(const char *text, size_t bytes, uint32_t *ids, size_t *count)
{
	*count = 0;
	for (size_t at = 0; at < bytes;) {
		if (isspace((unsigned char)text[at])) {
			at++;
			continue;
		}
		uint64_t id = 0;
		size_t start = at;
		for (; at < bytes && isdigit((unsigned char)text[at]) && id <= UINT32_MAX; at++)
			id = id * 10 + (uint64_t)(text[at] - '0');
		FAIL_IF(at == start || id > UINT32_MAX || (at < bytes && !isspace((unsigned char)text[at])),
			STATUS_USAGE,
			STANDARD_INPUT ", byte %zu: not a token id; ids are decimal numbers with "
				       "spaces between (or see --format)",
			start + 1);
		ids[(*count)++] = (uint32_t)id;
	}
	return STATUS_OK;
}

static enum status parse_ids(int format, const char *data, size_t bytes, uint32_t *ids, size_t *count)
{
	if (format == FORMAT_TEXT)
		return parse_text_ids(data, bytes, ids, count);
	size_t size = format == FORMAT_U16 ? 2 : 4;
	FAIL_IF(bytes % size, STATUS_USAGE, STANDARD_INPUT ": %zu bytes are no whole number of %zu-byte ids",
		bytes, size);
	*count = bytes / size;
	for (size_t i = 0; i < *count; i++) {
		ids[i] = 0; /* little-endian, as the machine */
		memcpy(&ids[i], data + i * size, size);
	}
	return STATUS_OK;
}

static enum status decode_input(const struct settings *settings)
{
	struct tokenizer *tokenizer = NULL;
	char *input = NULL, *text = NULL;
	uint32_t *ids = NULL;
	size_t bytes = 0, count = 0, length;
	enum status status = open_tokenizer(settings, &tokenizer);
	if (status == STATUS_OK)
		status = read_input(&input, &bytes);
	if (status == STATUS_OK)
		status = memory_alloc(
			(void **)&ids, bytes / 2 + 1, sizeof *ids, "ids"); /* 2 bytes an id, or more */
	if (status == STATUS_OK)
		status = parse_ids(settings->format, input, bytes, ids, &count);
	if (status == STATUS_OK)
		status = tokenizer_decode(tokenizer, ids, count, &text, &length);
	if (status == STATUS_OK)
		status = write_output(text, length);
	free(text);
	free(ids);
	free(input);
	tokenizer_close(tokenizer);
	return status;
}

static enum status decode_run(int argc, char **argv)
{
	struct settings settings = {0};
	struct option table[] = {
		{OPTION_CHOICE("--format", &settings.format, FORMATS,
			"text: decimal numbers, spaces between; u16, i32: little-endian")},
		{OPTION_STRING("--vocab-file", &settings.vocab_file, "FILE", "vocab.json: token to id"),
			.default_text = "ids follow from the merges"},
		{OPTION_STRING("--merge-file", &settings.merge_file, "FILE", "merges.txt or vocab.bpe"),
			.default_text = "GPT-2's, built in"},
	};
	struct options options = OPTIONS(table, "decode", "token ids on standard input to text");
	TRY(options_parse(&options, argc, argv));
	if (options.help)
		return STATUS_OK;
	return decode_input(&settings);
}

int cmd_decode(int argc, char **argv)
{
	return command_finish("decode", decode_run(argc, argv));
}
