/*
 * library.h: ferry's own shared objects, loaded at run time where they are there (ferry-cuda.so, ferry-mpi.so).
 *
 * One is looked for where its environment variable says, else beside the program, else in ../lib/ferry. It is
 * never unloaded: the libraries behind it keep threads and handlers of their own.
 */
#ifndef COMMON_LIBRARY_H
#define COMMON_LIBRARY_H

#include "common/error.h"

struct library {
	const char *what;     /* "CUDA backend", for messages */
	const char *file;     /* "ferry-cuda.so" */
	const char *variable; /* "FERRY_CUDA" */
	const char *symbol;   /* what is wanted of it */
	const char *target;   /* of make, which builds it */
	const char *needs;    /* what building takes */
	bool global;          /* its own libraries load others, which must see its symbols */
};

/* The symbol's address. STATUS_UNSUPPORTED says why it cannot be had. */
enum status library_open(const struct library *library, void **symbol) MUST_USE;

#endif
