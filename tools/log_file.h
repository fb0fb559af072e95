/*
 * log_file.h: a file of lines that grows while something runs, and whose failures do not end what it tells of.
 *
 * Opening it may fail, for then nothing has been done that could be lost. After that a line that cannot be
 * written (no space left, a quota, a failing disk) is lost, and only that: what was written of it is cut off again,
 * so that the file holds whole lines, the next line is tried anew, and the caller is given one line to tell where
 * else it can, when it begins and when it is over. All access is through common/file.h's table. One thread.
 */
#ifndef TOOLS_LOG_FILE_H
#define TOOLS_LOG_FILE_H

#include "common/error.h"

struct log_file;

/* DIRECTORY/NAME, made where it is not there; lines go behind what it has. */
enum status log_file_open(const char *directory, const char *name, struct log_file **out) MUST_USE;
void log_file_close(struct log_file *file); /* NULL is allowed */
/* `bytes` of a line, its newline among them. NULL, or what there is to tell, valid until the next call. */
const char *log_file_add(struct log_file *file, const char *line, size_t bytes);

#endif
