/*
 * html_page.h: writes one HTML file that stands alone: no script, nothing loaded from anywhere (a
 * Content-Security-Policy in it says so), so that text from anywhere can be shown in it.
 *
 * What html_page_text writes is text and never markup: & < > " ' become entities, so it is safe between tags
 * and inside quoted attributes; invalid UTF-8 becomes U+FFFD, and control characters (which HTML does not
 * allow) their pictures, U+2400 to U+2421; newlines and tabs stay.
 *
 * The first failure is kept and makes the calls that follow do nothing; html_page_publish returns it, with
 * its message.
 * One thread.
 */
#ifndef TOOLS_HTML_PAGE_H
#define TOOLS_HTML_PAGE_H

#include "common/error.h"

#include <stddef.h>

struct html_page;

/* Begins the page: head, `title` and `style` (CSS, written as it is). A directory at `path` is STATUS_USAGE.
 */
enum status html_page_open(
	const char *path, const char *title, const char *style, struct html_page **out) MUST_USE;

/* Markup, as it is; %s must be no text from outside. */
void html_page_print(struct html_page *page, const char *format, ...) PRINTF_LIKE(2, 3);
/* Text from anywhere. */
void html_page_text(struct html_page *page, const char *text, size_t bytes);
void html_page_string(struct html_page *page, const char *text);

/* Ends the page and publishes it (common/file.h). Frees it in every case. */
enum status html_page_publish(struct html_page *page) MUST_USE;
void html_page_abandon(struct html_page *page); /* NULL is fine */

#endif
