/*
 * log.h: what library code tells the user without printing.
 *
 * A library calls log_warn("...") or log_info("..."); the tool decides where lines go with log_set_sink
 * (by default: warnings to standard error, the rest nowhere). Thread-safe: one line at a time.
 */
#ifndef COMMON_LOG_H
#define COMMON_LOG_H

#include "common/error.h"

enum log_level { LOG_INFO, LOG_WARN };

typedef void log_sink(enum log_level level, const char *line, void *user);

/* Set before threads start. NULL restores the default sink. `line` has no newline. */
void log_set_sink(log_sink *sink, void *user);

void log_info(const char *format, ...) PRINTF_LIKE(1, 2);
void log_warn(const char *format, ...) PRINTF_LIKE(1, 2);

#endif
