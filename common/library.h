/*
 * library.h: ferry's own shared objects, loaded at run time where they are there (ferry-cuda.so, ferry-mpi.so).
 *
 * One is looked for where its environment variable says, else beside the program, else in ../lib/ferry. It is
 * never unloaded: the libraries behind it keep threads and handlers of their own.
 */
#ifndef COMMON_LIBRARY_H
#define COMMON_LIBRARY_H

#include "common/error.h"
#include "common/log.h"

#include <stddef.h>

struct library {
	const char *what;     /* "CUDA backend", for messages */
	const char *file;     /* "ferry-cuda.so" */
	const char *variable; /* "FERRY_CUDA" */
	const char *symbol;   /* what is wanted of it */
	const char *target;   /* of make, which builds it */
	const char *needs;    /* what building takes */
	bool global;          /* its own libraries load others, which must see its symbols */
};

/*
 * What the program hands over to one, for it links with nothing of the program: the functions of common/error.h and
 * common/log.h that it needs. Both are built from the same headers, or else nothing is filled in: they must agree on the
 * interface's version and on the size of the table.
 */
struct library_host {
	int version;
	size_t table_bytes;
	enum status (*error_set)(enum status status, const char *format, ...);
	void (*error_save)(enum status status, struct error_copy *copy);
	enum status (*error_restore)(const struct error_copy *copy);
	void (*log_info)(const char *format, ...);
};
#define LIBRARY_HOST(interface_version, table)                                                               \
	{                                                                                                    \
		.version = (interface_version), .table_bytes = sizeof(table), .error_set = error_set,        \
		.error_save = error_save, .error_restore = error_restore, .log_info = log_info               \
	}
/* In the shared object, first of all; `target` of make builds it. */
static inline enum status library_check(
	const struct library_host *host, const char *target, int version, size_t table_bytes)
{
	if (host->version == version && host->table_bytes == table_bytes)
		return STATUS_OK;
	return host->error_set(STATUS_UNSUPPORTED,
		"ferry-%s.so was built from other sources than this program; rebuild both with `make all %s`",
		target, target);
}

/* The symbol's address. STATUS_UNSUPPORTED says why it cannot be had. */
enum status library_open(const struct library *library, void **symbol) MUST_USE;

#endif
