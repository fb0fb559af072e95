#include "common/file.h"

#include "common/memory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { WRITER_BUFFER = 1 << 20 };

static int system_open(const char *path, int flags, mode_t mode)
{
	return open(path, flags, mode);
}

static int system_exchange(const char *a, const char *b)
{
	return renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE);
}

const struct file_operations file_operations_system = {
	.open = system_open,
	.read = read,
	.pread = pread,
	.write = write,
	.pwrite = pwrite,
	.fsync = fsync,
	.close = close,
	.rename = rename,
	.exchange = system_exchange,
	.symlink = symlink,
	.unlink = unlink,
	.rmdir = rmdir,
	.mkdir = mkdir,
	.ftruncate = ftruncate,
};
const struct file_operations *file_system = &file_operations_system;

static int open_retrying(const char *path, int flags, mode_t mode)
{
	int fd;
	do
		fd = file_system->open(path, flags | O_CLOEXEC, mode);
	while (fd < 0 && errno == EINTR);
	return fd;
}

static enum status sync_descriptor(int fd, const char *path)
{
	int result;
	do
		result = file_system->fsync(fd);
	while (result < 0 && errno == EINTR);
	if (result < 0)
		return error_set_errno(STATUS_IO, "%s: fsync failed", path);
	return STATUS_OK;
}

enum status file_open_read(const char *path, int *fd)
{
	*fd = open_retrying(path, O_RDONLY, 0);
	if (*fd < 0)
		return error_set_errno(STATUS_IO, "%s: cannot open", path);
	return STATUS_OK;
}

enum status file_open_lock(const char *path, int *fd)
{
	*fd = open_retrying(path, O_RDWR | O_CREAT, 0666);
	if (*fd < 0)
		return error_set_errno(STATUS_IO, "%s: cannot create", path);
	return STATUS_OK;
}

enum status file_open_append(const char *path, int *fd)
{
	*fd = open_retrying(path, O_WRONLY | O_CREAT | O_APPEND, 0666);
	if (*fd < 0)
		return error_set_errno(STATUS_IO, "%s: cannot open", path);
	return STATUS_OK;
}

enum status file_close(int fd, const char *path)
{
	/* Linux has released the descriptor even when close is interrupted: never twice. */
	if (file_system->close(fd) < 0 && errno != EINTR)
		return error_set_errno(STATUS_IO, "%s: close failed", path);
	return STATUS_OK;
}

/* Closes a descriptor on a path that already fails: the first error stays. */
static void close_quietly(int fd)
{
	if (fd >= 0)
		(void)file_system->close(fd);
}

enum status file_stat(const char *path, struct stat *out)
{
	if (stat(path, out) < 0)
		return error_set_errno(STATUS_IO, "%s: cannot stat", path);
	return STATUS_OK;
}

bool file_exists(const char *path)
{
	struct stat info;
	return stat(path, &info) == 0;
}

bool directory_holds(const char *path, const char *name)
{
	char *whole;
	if (path_join(&whole, path, name) != STATUS_OK)
		return false;
	bool there = file_exists(whole);
	free(whole);
	return there;
}

enum status file_find(const char *path, bool *there)
{
	struct stat info;
	*there = stat(path, &info) == 0;
	if (*there || errno == ENOENT || errno == ENOTDIR)
		return STATUS_OK;
	return error_set_errno(STATUS_IO, "%s: cannot stat", path);
}

enum status file_read_some(int fd, const char *path, void *buffer, size_t bytes, size_t *got)
{
	*got = 0;
	while (*got < bytes) {
		ssize_t n = file_system->read(fd, (char *)buffer + *got, bytes - *got);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_set_errno(STATUS_IO, "%s: read failed", path);
		if (n == 0)
			break;
		*got += (size_t)n;
	}
	return STATUS_OK;
}

enum status file_read_at(int fd, const char *path, void *buffer, size_t bytes, uint64_t offset)
{
	size_t done = 0;
	while (done < bytes) {
		ssize_t n =
			file_system->pread(fd, (char *)buffer + done, bytes - done, (off_t)(offset + done));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_set_errno(STATUS_IO, "%s: read failed at byte %llu", path,
				(unsigned long long)(offset + done));
		FAIL_IF(n == 0, STATUS_CORRUPT, "%s: ends at byte %llu, %zu bytes early; it is truncated",
			path, (unsigned long long)(offset + done), bytes - done);
		done += (size_t)n;
	}
	return STATUS_OK;
}

enum status file_write_all(int fd, const char *path, const void *data, size_t bytes)
{
	size_t done = 0;
	while (done < bytes) {
		ssize_t n = file_system->write(fd, (const char *)data + done, bytes - done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_set_errno(STATUS_IO, "%s: write failed", path);
		done += (size_t)n;
	}
	return STATUS_OK;
}

static enum status read_whole(
	int fd, const char *path, size_t limit, char **data, size_t *bytes, size_t *capacity)
{
	for (;;) {
		TRY(memory_grow((void **)data, capacity, *bytes + 65536, 1, path));
		size_t got;
		TRY(file_read_some(fd, path, *data + *bytes, *capacity - *bytes - 1, &got));
		*bytes += got;
		FAIL_IF(*bytes > limit, STATUS_CORRUPT, "%s: is larger than the %zu bytes allowed", path,
			limit);
		if (*bytes + 1 < *capacity)
			break;
	}
	(*data)[*bytes] = 0;
	return STATUS_OK;
}

enum status file_read_all(const char *path, size_t limit, char **data, size_t *bytes)
{
	int fd;
	size_t capacity = 0;
	*data = NULL;
	*bytes = 0;
	TRY(file_open_read(path, &fd));
	enum status status = read_whole(fd, path, limit, data, bytes, &capacity);
	if (status == STATUS_OK)
		status = file_close(fd, path);
	else
		close_quietly(fd);
	if (status != STATUS_OK) {
		free(*data);
		*data = NULL;
	}
	return status;
}

/* The directory part of `path`, malloc'ed; "." when it has none. */
static enum status parent_of(const char *path, char **out)
{
	const char *slash = strrchr(path, '/');
	if (!slash)
		*out = strdup(".");
	else if (slash == path)
		*out = strdup("/");
	else
		*out = strndup(path, (size_t)(slash - path));
	FAIL_IF(!*out, STATUS_MEMORY, "no memory for a path");
	return STATUS_OK;
}

enum status directory_sync(const char *path)
{
	int fd = open_retrying(path, O_RDONLY | O_DIRECTORY, 0);
	if (fd < 0)
		return error_set_errno(STATUS_IO, "%s: cannot open the directory", path);
	enum status status = sync_descriptor(fd, path);
	if (status != STATUS_OK) {
		close_quietly(fd);
		return status;
	}
	return file_close(fd, path);
}

static enum status sync_parent(const char *path)
{
	char *parent;
	TRY(parent_of(path, &parent));
	enum status status = directory_sync(parent);
	free(parent);
	return status;
}

enum status file_rename(const char *from, const char *to)
{
	if (file_system->rename(from, to) < 0)
		return error_set_errno(STATUS_IO, "%s: cannot rename to %s", from, to);
	return sync_parent(to);
}

enum status file_exchange(const char *a, const char *b, bool *done)
{
	*done = file_system->exchange(a, b) == 0;
	if (*done)
		return sync_parent(a);
	if (errno == EINVAL || errno == ENOSYS || errno == ENOTSUP)
		return STATUS_OK;
	return error_set_errno(STATUS_IO, "%s: cannot exchange with %s", a, b);
}

enum status file_remove(const char *path)
{
	if (file_system->unlink(path) < 0 && errno != ENOENT)
		return error_set_errno(STATUS_IO, "%s: cannot remove", path);
	return STATUS_OK;
}

enum status file_remove_synced(const char *path)
{
	TRY(file_remove(path));
	return sync_parent(path);
}

struct file_writer {
	char *path;
	char *temporary;
	int fd;
	uint64_t flushed; /* bytes handed to the system */
	size_t used;
	uint8_t *buffer; /* [WRITER_BUFFER]; until the file is closed */
};

enum status file_temporary_name(const char *path, char **out)
{
	static atomic_uint counter;
	if (asprintf(out, "%s.tmp-%ld-%u", path, (long)getpid(), atomic_fetch_add(&counter, 1)) < 0) {
		*out = NULL;
		return error_set(STATUS_MEMORY, "no memory for a path");
	}
	return STATUS_OK;
}

enum status file_publish_link(const char *path, const char *target)
{
	char *temporary;
	TRY(file_temporary_name(path, &temporary));
	enum status status = STATUS_OK;
	if (file_system->symlink(target, temporary) < 0)
		status = error_set_errno(STATUS_IO, "%s: cannot make a symbolic link", temporary);
	else if (file_system->rename(temporary, path) < 0) {
		status = error_set_errno(STATUS_IO, "%s: cannot rename to %s", temporary, path);
		(void)file_system->unlink(temporary);
	} else
		status = sync_parent(path);
	free(temporary);
	return status;
}

static void writer_free(struct file_writer *writer)
{
	free(writer->path);
	free(writer->temporary);
	free(writer->buffer);
	free(writer);
}

enum status file_writer_open(const char *path, struct file_writer **out)
{
	struct file_writer *writer;
	*out = NULL;
	TRY(memory_alloc((void **)&writer, 1, sizeof *writer, "a file buffer"));
	enum status status = memory_alloc((void **)&writer->buffer, WRITER_BUFFER, 1, "a file buffer");
	writer->path = strdup(path);
	if (status == STATUS_OK &&
		(!writer->path || file_temporary_name(path, &writer->temporary) != STATUS_OK))
		status = error_set(STATUS_MEMORY, "no memory for a path");
	if (status != STATUS_OK) {
		writer_free(writer);
		return status;
	}
	writer->fd = open_retrying(writer->temporary, O_WRONLY | O_CREAT | O_TRUNC, 0666);
	if (writer->fd < 0) {
		status = error_set_errno(STATUS_IO, "%s: cannot create", writer->temporary);
		writer_free(writer);
		return status;
	}
	*out = writer;
	return STATUS_OK;
}

static enum status writer_flush(struct file_writer *writer)
{
	size_t bytes = writer->used;
	writer->used = 0;
	writer->flushed += bytes;
	return file_write_all(writer->fd, writer->temporary, writer->buffer, bytes);
}

enum status file_writer_write(struct file_writer *writer, const void *data, size_t bytes)
{
	if (bytes > WRITER_BUFFER - writer->used)
		TRY(writer_flush(writer));
	if (bytes > WRITER_BUFFER) {
		writer->flushed += bytes;
		return file_write_all(writer->fd, writer->temporary, data, bytes);
	}
	if (bytes)
		memcpy(writer->buffer + writer->used, data, bytes);
	writer->used += bytes;
	return STATUS_OK;
}

uint64_t file_writer_offset(const struct file_writer *writer)
{
	return writer->flushed + writer->used;
}

static enum status complete_writer(struct file_writer *writer, bool synced)
{
	if (writer->fd < 0)
		return STATUS_OK;
	enum status status = writer_flush(writer);
	if (status == STATUS_OK && synced)
		status = sync_descriptor(writer->fd, writer->temporary);
	if (status == STATUS_OK)
		status = file_close(writer->fd, writer->temporary);
	else
		close_quietly(writer->fd);
	writer->fd = -1;
	free(writer->buffer);
	writer->buffer = NULL;
	return status;
}

enum status file_writer_complete(struct file_writer *writer)
{
	return complete_writer(writer, true);
}

const char *file_writer_temporary(const struct file_writer *writer)
{
	return writer->temporary;
}

/* Closes the file and gives it its name. */
static enum status finish_writer(struct file_writer *writer, bool synced)
{
	enum status status = complete_writer(writer, synced);
	if (status == STATUS_OK && file_system->rename(writer->temporary, writer->path) < 0)
		status = error_set_errno(
			STATUS_IO, "%s: cannot rename to %s", writer->temporary, writer->path);
	if (status != STATUS_OK) {
		file_writer_abandon(writer);
		return status;
	}
	if (synced)
		status = sync_parent(writer->path);
	writer_free(writer);
	return status;
}

enum status file_writer_publish(struct file_writer *writer)
{
	return finish_writer(writer, true);
}

enum status file_writer_publish_unsynced(struct file_writer *writer)
{
	return finish_writer(writer, false);
}

void file_writer_abandon(struct file_writer *writer)
{
	if (!writer)
		return;
	close_quietly(writer->fd);
	(void)file_system->unlink(writer->temporary);
	writer_free(writer);
}

enum status file_publish(const char *path, const void *data, size_t bytes)
{
	struct file_writer *writer;
	TRY(file_writer_open(path, &writer));
	enum status status = file_writer_write(writer, data, bytes);
	if (status != STATUS_OK) {
		file_writer_abandon(writer);
		return status;
	}
	return file_writer_publish(writer);
}

enum status file_map(const char *path, const uint8_t **data, size_t *bytes)
{
	int fd;
	struct stat info;
	*data = NULL;
	*bytes = 0;
	TRY(file_open_read(path, &fd));
	if (fstat(fd, &info) < 0) {
		enum status status = error_set_errno(STATUS_IO, "%s: cannot stat", path);
		close_quietly(fd);
		return status;
	}
	if (info.st_size > 0) {
		void *map = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, fd, 0);
		if (map == MAP_FAILED) {
			enum status status = error_set_errno(STATUS_IO, "%s: cannot map", path);
			close_quietly(fd);
			return status;
		}
		*data = map;
		*bytes = (size_t)info.st_size;
	}
	enum status status = file_close(fd, path);
	if (status != STATUS_OK)
		file_unmap(*data, *bytes);
	return status;
}

void file_unmap(const uint8_t *data, size_t bytes)
{
	if (data)
		munmap((void *)(uintptr_t)data, bytes);
}

enum status directory_create(const char *path)
{
	FAIL_IF(!*path, STATUS_USAGE, "a directory name is empty");
	if (file_system->mkdir(path, 0777) == 0)
		return sync_parent(path);
	struct stat info;
	if (errno == EEXIST && stat(path, &info) == 0) {
		FAIL_IF(!S_ISDIR(info.st_mode), STATUS_IO,
			"%s: is a file, not a directory; give another name", path);
		return STATUS_OK;
	}
	if (errno != ENOENT)
		return error_set_errno(STATUS_IO, "%s: cannot create the directory", path);
	char *parent;
	TRY(parent_of(path, &parent));
	enum status status = strcmp(parent, path) == 0
				     ? error_set(STATUS_IO, "%s: cannot create the directory", path)
				     : directory_create(parent);
	free(parent);
	TRY(status);
	if (file_system->mkdir(path, 0777) < 0 && errno != EEXIST)
		return error_set_errno(STATUS_IO, "%s: cannot create the directory", path);
	return sync_parent(path);
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static enum status read_names(DIR *stream, const char *path, char ***names, size_t *count)
{
	size_t capacity = 0;
	for (;;) {
		errno = 0;
		struct dirent *entry = readdir(stream);
		if (!entry && errno)
			return error_set_errno(STATUS_IO, "%s: cannot read the directory", path);
		if (!entry)
			return STATUS_OK;
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		TRY(memory_grow(
			(void **)names, &capacity, *count + 1, sizeof **names, "a directory listing"));
		(*names)[*count] = strdup(entry->d_name);
		FAIL_IF(!(*names)[*count], STATUS_MEMORY, "no memory for a directory listing");
		++*count;
	}
}

enum status directory_list(const char *path, char ***names, size_t *count)
{
	*names = NULL;
	*count = 0;
	DIR *stream = opendir(path);
	if (!stream)
		return error_set_errno(STATUS_IO, "%s: cannot open the directory", path);
	enum status status = read_names(stream, path, names, count);
	closedir(stream);
	if (status != STATUS_OK) {
		directory_list_free(*names, *count);
		*names = NULL;
		*count = 0;
		return status;
	}
	if (*count)
		qsort(*names, *count, sizeof **names, compare_names);
	return STATUS_OK;
}

void directory_list_free(char **names, size_t count)
{
	for (size_t i = 0; i < count; i++)
		free(names[i]);
	free(names);
}

static enum status remove_below(const char *path, char *const *names, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		char *child;
		TRY(path_join(&child, path, names[i]));
		enum status status = directory_remove(child);
		free(child);
		TRY(status);
	}
	return STATUS_OK;
}

enum status directory_remove(const char *path)
{
	struct stat info;
	if (lstat(path, &info) < 0) {
		if (errno == ENOENT)
			return STATUS_OK;
		return error_set_errno(STATUS_IO, "%s: cannot stat", path);
	}
	if (!S_ISDIR(info.st_mode))
		return file_remove(path);
	char **names;
	size_t count;
	TRY(directory_list(path, &names, &count));
	enum status status = remove_below(path, names, count);
	directory_list_free(names, count);
	TRY(status);
	if (file_system->rmdir(path) < 0 && errno != ENOENT)
		return error_set_errno(STATUS_IO, "%s: cannot remove the directory", path);
	return STATUS_OK;
}

enum status directory_discard(const char *path, enum status status)
{
	struct error_copy copy;
	error_save(status, &copy);
	(void)!directory_remove(path);
	return error_restore(&copy);
}

/* NAME.tmp-PID-COUNTER; `of`: NAME, or NULL for any. */
static bool is_temporary(const char *name, const char *of)
{
	static const char digits[] = "0123456789", mark[] = ".tmp-";
	const char *at = NULL;
	for (const char *next = name; (next = strstr(next, mark)); next++)
		at = next;
	if (!at || (of && (strlen(of) != (size_t)(at - name) || strncmp(name, of, strlen(of)) != 0)))
		return false;
	at += strlen(mark);
	size_t process = strspn(at, digits);
	if (process == 0 || at[process] != '-')
		return false;
	at += process + 1;
	size_t counter = strspn(at, digits);
	return counter > 0 && at[counter] == 0;
}

bool file_is_temporary(const char *name)
{
	return is_temporary(name, NULL);
}

/* Those in the folder of file `name`; NULL: of any. */
static enum status remove_temporaries(const char *path, const char *name)
{
	char **names;
	size_t count;
	TRY(directory_list(path, &names, &count));
	enum status status = STATUS_OK;
	for (size_t i = 0; i < count && status == STATUS_OK; i++) {
		if (!is_temporary(names[i], name))
			continue;
		char *child;
		status = path_join(&child, path, names[i]);
		if (status == STATUS_OK) {
			status = file_remove(child);
			free(child);
		}
	}
	directory_list_free(names, count);
	return status;
}

enum status directory_remove_temporaries(const char *path)
{
	return remove_temporaries(path, NULL);
}

enum status file_remove_temporaries(const char *path)
{
	const char *slash = strrchr(path, '/');
	char *parent;
	TRY(parent_of(path, &parent));
	enum status status = remove_temporaries(parent, slash ? slash + 1 : path);
	free(parent);
	return status;
}

enum status path_join(char **out, const char *directory, const char *name)
{
	size_t length = strlen(directory);
	const char *separator = length && directory[length - 1] == '/' ? "" : "/";
	if (asprintf(out, "%s%s%s", directory, separator, name) < 0) {
		*out = NULL;
		return error_set(STATUS_MEMORY, "no memory for a path");
	}
	return STATUS_OK;
}
