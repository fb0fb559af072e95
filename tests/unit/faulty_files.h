/*
 * faulty_files.h: a file system that misbehaves on demand, for tests. faulty_files_install() puts it under
 * common/file.h; every operation then goes to the real one, unless told otherwise:
 *
 *	faults.interrupt    every other call of open, read, write and fsync fails with EINTR first
 *	faults.short_bytes  reads and writes move at most this many bytes (0: as asked)
 *	faults.fail_at      the call of this number (from 0; -1 never) fails with faults.error
 *	faults.dead         and so does every call after it, as if the process had been killed there
 *	faults.log          what was called, one letter each: o open, r read, p pread, w write, P pwrite, s
 * fsync, c close, R rename, x exchange, l symlink, u unlink, d rmdir, m mkdir, t ftruncate
 *
 * One thread at a time.
 */
#ifndef TESTS_FAULTY_FILES_H
#define TESTS_FAULTY_FILES_H

#include "common/file.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct {
	bool interrupt, interrupted;
	size_t short_bytes;
	long calls, fail_at;
	int error;
	bool dead;
	char log[512];
	size_t logged;
} faults;

/* True: the call must fail now, errno is set. */
static bool faulty(char letter, bool interruptible)
{
	if (interruptible && faults.interrupt) {
		faults.interrupted = !faults.interrupted;
		if (faults.interrupted) {
			errno = EINTR;
			return true;
		}
	}
	if (faults.logged + 1 < sizeof faults.log)
		faults.log[faults.logged++] = letter;
	long call = faults.calls++;
	if (faults.fail_at < 0 || call < faults.fail_at || (call > faults.fail_at && !faults.dead))
		return false;
	errno = faults.error;
	return true;
}

static size_t faulty_bytes(size_t bytes)
{
	return faults.short_bytes && bytes > faults.short_bytes ? faults.short_bytes : bytes;
}

static int faulty_open(const char *path, int flags, mode_t mode)
{
	return faulty('o', true) ? -1 : file_operations_system.open(path, flags, mode);
}
static ssize_t faulty_read(int fd, void *buffer, size_t bytes)
{
	return faulty('r', true) ? -1 : read(fd, buffer, faulty_bytes(bytes));
}
static ssize_t faulty_pread(int fd, void *buffer, size_t bytes, off_t offset)
{
	return faulty('p', true) ? -1 : pread(fd, buffer, faulty_bytes(bytes), offset);
}
static ssize_t faulty_write(int fd, const void *buffer, size_t bytes)
{
	return faulty('w', true) ? -1 : write(fd, buffer, faulty_bytes(bytes));
}
static ssize_t faulty_pwrite(int fd, const void *buffer, size_t bytes, off_t offset)
{
	return faulty('P', true) ? -1 : pwrite(fd, buffer, faulty_bytes(bytes), offset);
}
static int faulty_fsync(int fd)
{
	return faulty('s', true) ? -1 : fsync(fd);
}
/* A close that fails has closed all the same, as on Linux. */
static int faulty_close(int fd)
{
	int result = close(fd);
	return faulty('c', false) ? -1 : result;
}
static int faulty_rename(const char *from, const char *to)
{
	return faulty('R', false) ? -1 : rename(from, to);
}
static int faulty_exchange(const char *a, const char *b)
{
	return faulty('x', false) ? -1 : file_operations_system.exchange(a, b);
}
static int faulty_symlink(const char *target, const char *path)
{
	return faulty('l', false) ? -1 : symlink(target, path);
}
static int faulty_unlink(const char *path)
{
	return faulty('u', false) ? -1 : unlink(path);
}
static int faulty_rmdir(const char *path)
{
	return faulty('d', false) ? -1 : rmdir(path);
}
static int faulty_mkdir(const char *path, mode_t mode)
{
	return faulty('m', false) ? -1 : mkdir(path, mode);
}
static int faulty_ftruncate(int fd, off_t length)
{
	return faulty('t', true) ? -1 : ftruncate(fd, length);
}

static void faulty_files_install(void)
{
	static const struct file_operations operations = {
		.open = faulty_open,
		.read = faulty_read,
		.pread = faulty_pread,
		.write = faulty_write,
		.pwrite = faulty_pwrite,
		.fsync = faulty_fsync,
		.close = faulty_close,
		.rename = faulty_rename,
		.exchange = faulty_exchange,
		.symlink = faulty_symlink,
		.unlink = faulty_unlink,
		.rmdir = faulty_rmdir,
		.mkdir = faulty_mkdir,
		.ftruncate = faulty_ftruncate,
	};
	memset(&faults, 0, sizeof faults);
	faults.fail_at = -1;
	file_system = &operations;
}

static void faulty_files_remove(void)
{
	file_system = &file_operations_system;
}

/* Runs `work` with its first, its second, ... call failing with `error`, until it makes none that fails;
 * returns how many runs failed; -1: one otherwise than with STATUS_IO and a message that says why. */
static __attribute__((unused)) int fail_each_call(int error, enum status (*work)(void))
{
	int failed = 0;
	bool reached = true;
	faulty_files_install();
	faults.error = error;
	for (faults.fail_at = 0; reached && failed >= 0; faults.fail_at++) {
		faults.calls = 0;
		enum status status = work();
		reached = faults.calls > faults.fail_at;
		if (status == STATUS_IO && strstr(error_message(), strerror(error)))
			failed++;
		else if (status != STATUS_OK)
			failed = -1;
	}
	faulty_files_remove();
	return failed;
}

#endif
