#include "common/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>

static void log_to_stderr(enum log_level level, const char *line, void *user)
{
	(void)user;
	if (level == LOG_WARN)
		fprintf(stderr, "warning: %s\n", line);
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static log_sink *current_sink = log_to_stderr;
static void *current_user;

void log_set_sink(log_sink *sink, void *user)
{
	pthread_mutex_lock(&mutex);
	current_sink = sink ? sink : log_to_stderr;
	current_user = user;
	pthread_mutex_unlock(&mutex);
}

static void log_line(enum log_level level, const char *format, va_list arguments)
{
	char line[2048];
	vsnprintf(line, sizeof line, format, arguments);
	pthread_mutex_lock(&mutex);
	current_sink(level, line, current_user);
	pthread_mutex_unlock(&mutex);
}

void log_info(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	log_line(LOG_INFO, format, arguments);
	va_end(arguments);
}

void log_warn(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	log_line(LOG_WARN, format, arguments);
	va_end(arguments);
}
