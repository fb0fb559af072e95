#include "data/output_lock.h"

#include "common/file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

enum { WORD = 4, RETRY_NANOSECONDS = 20 * 1000 * 1000, PATIENCE = 50 /* retries */ };

/* Locks the file without waiting; *got says whether. What cannot be locked at all is an error. */
static enum status try_lock(const struct output_lock *lock, int operation, bool *got)
{
	int result;
	do
		result = flock(lock->fd, operation | LOCK_NB);
	while (result < 0 && errno == EINTR);
	*got = result == 0;
	FAIL_IF(result < 0 && errno != EWOULDBLOCK, STATUS_IO,
		"%s: cannot lock (%s); the file system must have locks (flock)", lock->path, strerror(errno));
	return STATUS_OK;
}

/* Opens the file, and opens it anew when who held it before has removed it meanwhile. */
static enum status open_and_lock(struct output_lock *lock, int operation, bool *got)
{
	for (;;) {
		struct stat info;
		TRY(file_open_lock(lock->path, &lock->fd));
		enum status status = try_lock(lock, operation, got);
		if (status == STATUS_OK && *got && fstat(lock->fd, &info) == 0 && info.st_nlink > 0)
			return STATUS_OK;
		(void)file_system->close(lock->fd);
		lock->fd = -1;
		if (status != STATUS_OK || !*got)
			return status;
	}
}

/* The file's word. Nothing depends on it but who waits and what a message says. */
static void write_word(const struct output_lock *lock, const char *word)
{
	(void)!file_system->pwrite(lock->fd, word, WORD, 0);
}

static bool has_word(const char *path, const char *word)
{
	char text[WORD];
	int fd;
	size_t got = 0;
	if (file_open_read(path, &fd) != STATUS_OK)
		return false;
	(void)!file_read_some(fd, path, text, sizeof text, &got);
	(void)file_system->close(fd); /* only read: closing it cannot lose anything */
	return got == WORD && memcmp(text, word, WORD) == 0;
}

static void forget(struct output_lock *lock)
{
	if (lock->fd >= 0)
		(void)file_system->close(lock->fd);
	free(lock->path);
	*lock = (struct output_lock){.fd = -1};
}

static enum status begin(const char *directory, struct output_lock *out)
{
	*out = (struct output_lock){.fd = -1};
	TRY(directory_create(directory));
	return path_join(&out->path, directory, ".lock");
}

static enum status tell_busy(const char *path)
{
	if (has_word(path, "part"))
		return error_set(STATUS_USAGE,
			"%s: parts of a run are at work on this output; wait for them or choose another "
			"--output",
			path);
	return error_set(STATUS_USAGE,
		"%s: another run is at work on this output; wait for it or choose another --output", path);
}

enum status output_lock_alone(const char *directory, struct output_lock *out)
{
	bool got;
	TRY(begin(directory, out));
	enum status status = open_and_lock(out, LOCK_EX, &got);
	if (status == STATUS_OK && !got)
		status = tell_busy(out->path);
	if (status != STATUS_OK) {
		forget(out);
		return status;
	}
	out->alone = true;
	write_word(out, "run\n");
	return STATUS_OK;
}

static enum status join(struct output_lock *out)
{
	static const struct timespec pause = {.tv_nsec = RETRY_NANOSECONDS};
	for (int others = 0;;) {
		bool got;
		TRY(open_and_lock(out, LOCK_EX, &got));
		if (got) {
			out->alone = true;
			write_word(out, "part");
			return STATUS_OK;
		}
		TRY(open_and_lock(out, LOCK_SH, &got));
		if (got)
			return STATUS_OK;
		/* A part settles what the directory is; or it is a run, unless it has not written its word
		 * yet. */
		if (!has_word(out->path, "part") && ++others > PATIENCE)
			return tell_busy(out->path);
		nanosleep(&pause, NULL);
	}
}

enum status output_lock_join(const char *directory, struct output_lock *out)
{
	TRY(begin(directory, out));
	enum status status = join(out);
	if (status != STATUS_OK)
		forget(out);
	return status;
}

enum status output_lock_share(struct output_lock *lock)
{
	bool got;
	enum status status = try_lock(lock, LOCK_SH, &got);
	if (status == STATUS_OK && !got)
		status = tell_busy(lock->path);
	if (status != STATUS_OK)
		forget(lock);
	lock->alone = false;
	return status;
}

void output_lock_leave(struct output_lock *lock)
{
	bool got;
	if (!lock->path || lock->alone)
		return;
	if (try_lock(lock, LOCK_EX, &got) == STATUS_OK && got) {
		lock->alone = true;
		write_word(lock, "part");
		return;
	}
	forget(lock);
}

void output_lock_release(struct output_lock *lock)
{
	if (!lock->path)
		return;
	if (lock->alone)
		(void)file_system->unlink(lock->path);
	forget(lock);
}
