/*
 * file.h: all of ferry's file access.
 *
 * Every system call goes through one table, file_system, so that tests can record operations, lose unsynced
 * data and fail the n-th call. Errors name the path, the offset and the cause. Everything here retries EINTR
 * and completes short reads and writes.
 *
 * Publishing: a file appears under its name only when complete and on the disk: write to
 * NAME.tmp-PID-COUNTER, fsync, rename, fsync of the directory. A crash leaves at most a file of the former
 * name, which file_remove_temporaries deletes.
 */
#ifndef COMMON_FILE_H
#define COMMON_FILE_H

#include "common/error.h"

#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

/* The system calls used, with the C library's semantics (-1 and errno). Tests replace the pointer. */
struct file_operations {
	int (*open)(const char *path, int flags, mode_t mode);
	ssize_t (*read)(int fd, void *buffer, size_t bytes);
	ssize_t (*pread)(int fd, void *buffer, size_t bytes, off_t offset);
	ssize_t (*write)(int fd, const void *buffer, size_t bytes);
	ssize_t (*pwrite)(int fd, const void *buffer, size_t bytes, off_t offset);
	int (*fsync)(int fd);
	int (*close)(int fd);
	int (*rename)(const char *from, const char *to);
	int (*exchange)(const char *a, const char *b); /* renameat2's RENAME_EXCHANGE */
	int (*symlink)(const char *target, const char *path);
	int (*unlink)(const char *path);
	int (*rmdir)(const char *path);
	int (*mkdir)(const char *path, mode_t mode);
	int (*ftruncate)(int fd, off_t length);
};
extern const struct file_operations file_operations_system;
extern const struct file_operations *file_system; /* set before threads start */

/* Whole files. *data is malloc'ed, NUL-terminated after *bytes. More than `limit` bytes is STATUS_CORRUPT. */
enum status file_read_all(const char *path, size_t limit, char **data, size_t *bytes) MUST_USE;
/* Publishes `bytes` bytes as `path`, replacing what was there. */
enum status file_publish(const char *path, const void *data, size_t bytes) MUST_USE;

/* Buffered sequential writing that ends in publication. Not for several threads at once. */
struct file_writer;
enum status file_writer_open(const char *path, struct file_writer **out) MUST_USE;
enum status file_writer_write(struct file_writer *writer, const void *data, size_t bytes) MUST_USE;
uint64_t file_writer_offset(const struct file_writer *writer); /* bytes written so far */
/* Flush, fsync, rename, fsync of the directory. Frees the writer in every case; on error nothing is
 * published. */
enum status file_writer_publish(struct file_writer *writer) MUST_USE;
/* The same without any fsync: whole for whoever looks, but after a power failure the file may be damaged, or
 * not there. For files that are verified when they are used then, and can be made anew. */
enum status file_writer_publish_unsynced(struct file_writer *writer) MUST_USE;
/* Flush, fsync and close: all of it is on the disk, under the temporary's name, and publishing only renames it. For
 * several files that are to replace others together: what is complete takes hardly any memory. On error the writer is
 * still to be abandoned. */
enum status file_writer_complete(struct file_writer *writer) MUST_USE;
const char *file_writer_temporary(const struct file_writer *writer); /* path; the writer's */
/* Removes the temporary and frees. NULL is fine. */
void file_writer_abandon(struct file_writer *writer);

/* Reads exactly `bytes` at `offset`; end of file before that is STATUS_CORRUPT ("is shorter than ..."). */
enum status file_read_at(int fd, const char *path, void *buffer, size_t bytes, uint64_t offset) MUST_USE;
/* Reads up to `bytes`; *got < bytes only at the end of the file. */
enum status file_read_some(int fd, const char *path, void *buffer, size_t bytes, size_t *got) MUST_USE;
/* Writes all of `bytes` at the file's position. */
enum status file_write_all(int fd, const char *path, const void *data, size_t bytes) MUST_USE;

enum status file_open_read(const char *path, int *fd) MUST_USE;
/* For a file that is there to be locked, and is made if it is not. */
enum status file_open_lock(const char *path, int *fd) MUST_USE;
/* For a file that grows, and is made if it is not there: all writes go behind what it has. */
enum status file_open_append(const char *path, int *fd) MUST_USE;
enum status file_close(int fd, const char *path) MUST_USE;
enum status file_stat(const char *path, struct stat *out) MUST_USE;
bool file_exists(const char *path);
/* For who must not take a passing error (EACCES, EIO) for an absence: then STATUS_IO, and *there is false. */
enum status file_find(const char *path, bool *there) MUST_USE;

/* Read-only map of a whole file (an empty file gives *data NULL). */
enum status file_map(const char *path, const uint8_t **data, size_t *bytes) MUST_USE;
void file_unmap(const uint8_t *data, size_t bytes);

/* Directories. */
bool directory_holds(const char *path, const char *name); /* something of that name; false: no memory, too */
enum status directory_create(const char *path) MUST_USE;  /* with its parents; existing is fine */
enum status directory_sync(const char *path) MUST_USE;
/* Names (without "." and "..") in byte order; free with directory_list_free. */
enum status directory_list(const char *path, char ***names, size_t *count) MUST_USE;
void directory_list_free(char **names, size_t count);
/* Deletes `path` and all below it; not there is fine. Symbolic links are removed, not followed. */
enum status directory_remove(const char *path) MUST_USE;
/* The same as far as it can be, for who has failed: what was begun in it is of no use. Returns `status`, and
 * its message stays. */
enum status directory_discard(const char *path, enum status status) MUST_USE;
/* Deletes what crashed writers of the file left: what is called NAME.tmp-PID-COUNTER, in numbers. */
enum status file_remove_temporaries(const char *path) MUST_USE;
/* Likewise those of any file that is in the folder, not below. */
enum status directory_remove_temporaries(const char *path) MUST_USE;
enum status file_rename(const char *from, const char *to) MUST_USE; /* and fsync of to's directory */
/* Exchanges two names of one directory at once, and fsync. *done false: the file system cannot (NFS, FAT). */
enum status file_exchange(const char *a, const char *b, bool *done) MUST_USE;
/* Makes `path` a symbolic link to `target`, at once, replacing what was there. */
enum status file_publish_link(const char *path, const char *target) MUST_USE;
enum status file_remove(const char *path) MUST_USE; /* not there is fine */
/* Likewise, and fsync of its directory. */
enum status file_remove_synced(const char *path) MUST_USE;

/* NAME.tmp-PID-COUNTER for `path`, which no other writer has, malloc'ed: for who writes a whole directory so. */
enum status file_temporary_name(const char *path, char **out) MUST_USE;
bool file_is_temporary(const char *name); /* is it of this form? */

/* malloc'ed "directory/name". */
enum status path_join(char **out, const char *directory, const char *name) MUST_USE;

#endif
