/*
 * error.h: how ferry's functions fail.
 *
 * A function that can fail returns `enum status` and, before it does, leaves one message for the calling
 * thread: what failed, where (file, offset, document, tensor) and what the user can do about it. Library code
 * never prints and never exits; the tools print error_message() once and exit with error_exit_code().
 *
 *	TRY(corpus_open(dir, &corpus));
 *	FAIL_IF(bytes < 34, STATUS_CORRUPT, "%s: index is %zu bytes, shorter than its header; "
 *		"run `ferry preprocess` again", path, bytes);
 *
 * The message is thread-local. Whoever joins a worker thread carries the worker's error over with
 * error_save()/error_restore(). A function that adds what it knows uses error_context().
 */
#ifndef COMMON_ERROR_H
#define COMMON_ERROR_H

#include <stdbool.h>
#include <stddef.h>

enum status {
	STATUS_OK = 0,
	STATUS_USAGE,       /* the caller's or the user's argument is wrong or impossible */
	STATUS_IO,          /* the system refused: open, read, write, fsync, rename, no space */
	STATUS_CORRUPT,     /* bytes are not what their format or their hash says */
	STATUS_MISMATCH,    /* two good things that do not belong together (corpus and checkpoint) */
	STATUS_MEMORY,      /* an allocation failed */
	STATUS_UNSUPPORTED, /* valid, but this build or this machine cannot do it */
	STATUS_INTERRUPTED, /* a signal or another thread asked to stop */
	STATUS_COUNT
};

#define MUST_USE                         __attribute__((warn_unused_result))
#define PRINTF_LIKE(format_index, first) __attribute__((format(printf, format_index, first)))

/* Sets the calling thread's message and returns `status`, so that `return error_set(...)` reads well. */
enum status error_set(enum status status, const char *format, ...) PRINTF_LIKE(2, 3);

/* As error_set, and appends ": " and the text of errno; of a full disk, what to do about it too. */
enum status error_set_errno(enum status status, const char *format, ...) PRINTF_LIKE(2, 3);

/* Puts "context: " in front of the current message; returns `status` unchanged. */
enum status error_context(enum status status, const char *format, ...) PRINTF_LIKE(2, 3);

/* The calling thread's last message; "" when none. Valid until this thread's next error. */
const char *error_message(void);

/* "usage", "io", "corrupt", ... */
const char *error_status_name(enum status status);

/* The process exit code of a status: 0 ok, 2 usage, 3 corrupt or mismatch, 130 interrupted, 1 otherwise. */
int error_exit_code(enum status status);

/* An error on its way from one thread to another. */
struct error_copy {
	enum status status;
	char message[2048];
};
void error_save(enum status status, struct error_copy *copy);
enum status error_restore(const struct error_copy *copy) MUST_USE;

#define TRY(expression)                                                                                      \
	do {                                                                                                 \
		enum status try_status_ = (expression);                                                      \
		if (__builtin_expect(try_status_ != STATUS_OK, 0))                                           \
			return try_status_;                                                                  \
	} while (0)

#define FAIL_IF(condition, status, ...)                                                                      \
	do {                                                                                                 \
		if (__builtin_expect(!!(condition), 0))                                                      \
			return error_set((status), __VA_ARGS__);                                             \
	} while (0)

/* For functions that clean up at one label: TRY_GOTO(result, done, corpus_open(...)). */
#define TRY_GOTO(variable, label, expression)                                                                \
	do {                                                                                                 \
		(variable) = (expression);                                                                   \
		if (__builtin_expect((variable) != STATUS_OK, 0))                                            \
			goto label;                                                                          \
	} while (0)

#endif
