#include "tools/terminal.h"

#include "common/clock.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

bool terminal_is_interactive(FILE *stream)
{
	const char *type = getenv("TERM");
	return isatty(fileno(stream)) && type && *type && strcmp(type, "dumb") != 0;
}

int terminal_width(FILE *stream)
{
	struct winsize size;
	if (ioctl(fileno(stream), TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
		return size.ws_col;
	return 80;
}

struct progress_line progress_line_start(FILE *stream, const char *label)
{
	double now = clock_seconds();
	return (struct progress_line){.stream = stream,
		.label = label,
		.interactive = terminal_is_interactive(stream),
		.started = now,
		.updated = now};
}

static void write_line(struct progress_line *line, bool last, const char *format, va_list arguments)
{
	char text[1024];
	vsnprintf(text, sizeof text, format, arguments);
	if (!line->interactive) {
		fprintf(line->stream, "%s: %s\n", line->label, text);
	} else {
		/* Cut to the width: a line that wraps could not be rewritten. */
		int room = terminal_width(line->stream) - (int)strlen(line->label) - 3;
		fprintf(line->stream, "\r\033[K%s: %.*s", line->label, last || room < 0 ? 1024 : room, text);
		if (last)
			fputc('\n', line->stream);
		line->shown = !last;
	}
	fflush(line->stream);
}

void progress_line_update(struct progress_line *line, const char *format, ...)
{
	double now = clock_seconds();
	if (now - line->updated < (line->interactive ? 0.1 : 10))
		return;
	line->updated = now;
	va_list arguments;
	va_start(arguments, format);
	write_line(line, false, format, arguments);
	va_end(arguments);
}

void progress_line_finish(struct progress_line *line, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	write_line(line, true, format, arguments);
	va_end(arguments);
}

void progress_line_clear(struct progress_line *line)
{
	if (line->shown)
		fputs("\r\033[K", line->stream);
	line->shown = false;
	fflush(line->stream);
}

double progress_line_seconds(const struct progress_line *line)
{
	return clock_seconds() - line->started;
}

struct human human_bytes(double bytes)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
	size_t unit = 0;
	while (bytes >= 1023.95 && unit + 1 < sizeof units / sizeof *units) {
		bytes /= 1024;
		unit++;
	}
	struct human human;
	snprintf(human.text, sizeof human.text, unit ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
	return human;
}

struct human human_count(double count)
{
	static const char units[] = {0, 'k', 'M', 'G', 'T'};
	size_t unit = 0;
	while (count >= 999.5 && unit + 1 < sizeof units) {
		count /= 1000;
		unit++;
	}
	struct human human;
	int decimals = unit == 0 ? 0 : count < 9.995 ? 2 : count < 99.95 ? 1 : 0;
	int length = snprintf(human.text, sizeof human.text, "%.*f", decimals, count);
	if (unit && length > 0 && (size_t)length + 1 < sizeof human.text) {
		human.text[length] = units[unit];
		human.text[length + 1] = 0;
	}
	return human;
}

struct human human_seconds(double seconds)
{
	struct human human;
	if (!isfinite(seconds) || seconds < 0 || seconds > 1e9) {
		snprintf(human.text, sizeof human.text, "unknown");
	} else if (seconds < 9.95) {
		snprintf(human.text, sizeof human.text, "%.1f s", seconds);
	} else if (seconds < 59.5) {
		snprintf(human.text, sizeof human.text, "%.0f s", seconds);
	} else if (seconds < 3599.5) {
		int whole = (int)(seconds + 0.5);
		snprintf(human.text, sizeof human.text, "%d min %02d s", whole / 60, whole % 60);
	} else {
		long minutes = (long)(seconds / 60 + 0.5);
		snprintf(human.text, sizeof human.text, "%ld h %02ld min", minutes / 60, minutes % 60);
	}
	return human;
}

struct human human_grouped(uint64_t count)
{
	char digits[24];
	struct human human;
	int length = snprintf(digits, sizeof digits, "%" PRIu64, count);
	int out = 0;
	for (int i = 0; i < length; i++) {
		if (i && (length - i) % 3 == 0)
			human.text[out++] = ',';
		human.text[out++] = digits[i];
	}
	human.text[out] = 0;
	return human;
}

static bool is_plain(const char *word)
{
	for (const char *c = word; *c; c++)
		if (!((*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9') ||
			    *c & 0x80 || strchr("_./+,:@%=-", *c)))
			return false;
	return *word;
}

struct shell_word shell_word(const char *word)
{
	struct shell_word quoted;
	size_t length = 0, room = sizeof quoted.text - 6; /* one more character, the last quote, the end */
	if (is_plain(word)) {
		snprintf(quoted.text, sizeof quoted.text, "%s", word);
		return quoted;
	}
	quoted.text[length++] = '\'';
	for (; *word && length < room; word++) {
		const char *piece = *word == '\'' ? "'\\''" : (char[]){*word, 0};
		memcpy(quoted.text + length, piece, strlen(piece));
		length += strlen(piece);
	}
	memcpy(quoted.text + length, "'", 2);
	return quoted;
}
