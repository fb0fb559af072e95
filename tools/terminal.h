/*
 * terminal.h: what a person watches: one line that rewrites itself on a terminal, plain lines elsewhere, and
 * numbers in human units.
 *
 *	struct progress_line line = progress_line_start(stderr, "pass 1");
 *	progress_line_update(&line, "%s of %s, %s/s, %s left", ...);     as often as you like
 *	progress_line_finish(&line, "%" PRIu64 " documents in %s", ...); the last word, stays
 *
 * On a terminal updates show at most ten times a second, cut to its width. Elsewhere (a file, a pipe) as
 * whole lines at most every ten seconds, so that a log stays short. One thread at a time.
 */
#ifndef TOOLS_TERMINAL_H
#define TOOLS_TERMINAL_H

#include "common/error.h"

#include <stdint.h>
#include <stdio.h>

/* A terminal that understands rewriting a line (TERM is set and not "dumb"). */
bool terminal_is_interactive(FILE *stream);
int terminal_width(FILE *stream); /* columns; 80 when unknown */

struct progress_line {
	FILE *stream;
	const char *label; /* the caller's; starts every line */
	bool interactive, shown;
	double started, updated;
};
struct progress_line progress_line_start(FILE *stream, const char *label);
void progress_line_update(struct progress_line *line, const char *format, ...) PRINTF_LIKE(2, 3);
void progress_line_finish(struct progress_line *line, const char *format, ...) PRINTF_LIKE(2, 3);
/* Takes the rewritten line away, so that something else can be printed. */
void progress_line_clear(struct progress_line *line);
double progress_line_seconds(const struct progress_line *line); /* since start */

/* Human forms, in a buffer that the value carries: printf("%s", human_bytes(n).text). */
struct human {
	char text[32];
};
struct human human_bytes(double bytes);     /* 512 B, 1.5 KiB, 2.3 GiB */
struct human human_count(double count);     /* 950, 12.3k, 4.56M, 1.2G */
struct human human_seconds(double seconds); /* 0.4 s, 12 s, 3 min 20 s, 2 h 05 min */
struct human human_grouped(uint64_t count); /* 1,234,567 */

/* A word of a command line that is shown to be copied: as it is, or quoted where a shell would read something else. */
struct shell_word {
	char text[4608]; /* what is longer is cut */
};
struct shell_word shell_word(const char *word);

#endif
