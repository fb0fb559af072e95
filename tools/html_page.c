#include "tools/html_page.h"

#include "common/file.h"
#include "common/memory.h"
#include "tokenizer/utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct html_page {
	struct file_writer *file;
	struct error_copy failure; /* .status STATUS_OK: none */
};

static void note(struct html_page *page, enum status status)
{
	if (status != STATUS_OK)
		error_save(status, &page->failure);
}

static void put(struct html_page *page, const void *data, size_t bytes)
{
	if (page->failure.status == STATUS_OK)
		note(page, file_writer_write(page->file, data, bytes));
}

void html_page_print(struct html_page *page, const char *format, ...)
{
	char *text;
	va_list arguments;
	va_start(arguments, format);
	int length = vasprintf(&text, format, arguments);
	va_end(arguments);
	if (length < 0) {
		note(page, error_set(STATUS_MEMORY, "no memory for a page"));
		return;
	}
	put(page, text, (size_t)length);
	free(text);
}

/* What stands for a byte; NULL: itself. */
static const char *escape(unsigned char c, char picture[4])
{
	switch (c) {
	case '&':
		return "&amp;";
	case '<':
		return "&lt;";
	case '>':
		return "&gt;";
	case '"':
		return "&quot;";
	case '\'':
		return "&#39;";
	default:
		break;
	}
	if ((c >= 0x20 && c != 0x7F) || c == '\n' || c == '\t')
		return NULL;
	picture[0] = (char)0xE2; /* U+2400 and up, in UTF-8 */
	picture[1] = (char)0x90;
	picture[2] = (char)(0x80 + (c == 0x7F ? 0x21 : c));
	picture[3] = 0;
	return picture;
}

static void put_escaped(struct html_page *page, const char *text, size_t bytes)
{
	size_t plain = 0; /* begins what is written as it is */
	for (size_t i = 0; i < bytes; i++) {
		char picture[4];
		const char *written = escape((unsigned char)text[i], picture);
		if (!written)
			continue;
		put(page, text + plain, i - plain);
		put(page, written, strlen(written));
		plain = i + 1;
	}
	put(page, text + plain, bytes - plain);
}

void html_page_text(struct html_page *page, const char *text, size_t bytes)
{
	char *repaired;
	uint64_t replaced;
	if (utf8_find_invalid(text, bytes) == bytes) {
		put_escaped(page, text, bytes);
		return;
	}
	enum status status = memory_alloc((void **)&repaired, UTF8_REPAIR_LIMIT(bytes), 1, "a page");
	if (status != STATUS_OK) {
		note(page, status);
		return;
	}
	bytes = utf8_repair(text, bytes, repaired, &replaced);
	put_escaped(page, repaired, bytes);
	free(repaired);
}

void html_page_string(struct html_page *page, const char *text)
{
	html_page_text(page, text, strlen(text));
}

enum status html_page_open(const char *path, const char *title, const char *style, struct html_page **out)
{
	struct stat info;
	*out = NULL;
	FAIL_IF(stat(path, &info) == 0 && S_ISDIR(info.st_mode), STATUS_USAGE,
		"%s: is a directory; name the file to write", path);
	TRY(memory_alloc((void **)out, 1, sizeof **out, "a page"));
	enum status status = file_writer_open(path, &(*out)->file);
	if (status != STATUS_OK) {
		free(*out);
		*out = NULL;
		return status;
	}
	html_page_print(*out,
		"<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
		"<meta http-equiv=\"Content-Security-Policy\" "
		"content=\"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action "
		"'none'\">\n"
		"<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
		"<meta name=\"color-scheme\" content=\"light dark\">\n<title>");
	html_page_string(*out, title);
	html_page_print(*out, "</title>\n<style>\n%s</style>\n</head>\n<body>\n", style);
	return STATUS_OK;
}

enum status html_page_publish(struct html_page *page)
{
	html_page_print(page, "</body>\n</html>\n");
	enum status status = STATUS_OK;
	if (page->failure.status != STATUS_OK) {
		file_writer_abandon(page->file);
		status = error_restore(&page->failure);
	} else {
		status = file_writer_publish(page->file);
	}
	free(page);
	return status;
}

void html_page_abandon(struct html_page *page)
{
	if (!page)
		return;
	file_writer_abandon(page->file);
	free(page);
}
