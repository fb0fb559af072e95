#include "common/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MESSAGE_BYTES = sizeof(((struct error_copy *)0)->message) };

static _Thread_local char message[MESSAGE_BYTES];

enum status error_set(enum status status, const char *format, ...)
{
	char text[MESSAGE_BYTES]; /* the arguments may point into the old message */
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(text, sizeof text, format, arguments);
	va_end(arguments);
	memcpy(message, text, sizeof message);
	return status;
}

/* What the user can do about it, where that follows from errno alone. */
static const char *cure_of(int number)
{
	switch (number) {
	case ENOSPC:
		return "; make room there and start it again";
	case EDQUOT:
		return "; make room there or raise the quota, and start it again";
	case EFBIG:
		return "; raise `ulimit -f`, or give another file system";
	case EROFS:
		return "; give a place that can be written";
	case EMFILE:
		return "; raise `ulimit -n`";
	default:
		return "";
	}
}

enum status error_set_errno(enum status status, const char *format, ...)
{
	int number = errno;
	char text[MESSAGE_BYTES];
	va_list arguments;
	va_start(arguments, format);
	int length = vsnprintf(text, sizeof text, format, arguments);
	va_end(arguments);
	if (length >= 0 && (size_t)length < sizeof text)
		snprintf(text + length, sizeof text - (size_t)length, ": %s%s", strerror(number),
			cure_of(number));
	memcpy(message, text, sizeof message);
	return status;
}

enum status error_context(enum status status, const char *format, ...)
{
	char text[MESSAGE_BYTES];
	va_list arguments;
	va_start(arguments, format);
	int length = vsnprintf(text, sizeof text, format, arguments);
	va_end(arguments);
	if (length >= 0 && (size_t)length < sizeof text)
		snprintf(text + length, sizeof text - (size_t)length, ": %s", message);
	memcpy(message, text, sizeof message);
	return status;
}

const char *error_message(void)
{
	return message;
}

const char *error_status_name(enum status status)
{
	static const char *const names[STATUS_COUNT] = {
		"ok", "usage", "io", "corrupt", "mismatch", "memory", "unsupported", "interrupted"};
	return (unsigned)status < STATUS_COUNT ? names[status] : "unknown";
}

int error_exit_code(enum status status)
{
	switch (status) {
	case STATUS_OK:
		return 0;
	case STATUS_USAGE:
		return 2;
	case STATUS_CORRUPT:
	case STATUS_MISMATCH:
		return 3;
	case STATUS_INTERRUPTED:
		return 130;
	default:
		return 1;
	}
}

void error_save(enum status status, struct error_copy *copy)
{
	copy->status = status;
	memcpy(copy->message, message, sizeof message);
}

enum status error_restore(const struct error_copy *copy)
{
	memcpy(message, copy->message, sizeof message);
	return copy->status;
}
