/*
 * killed_ferry: ferry, which ends itself with kill -9 as it puts a corpus in place (data/preprocess.h: DIR/next/),
 * right after the FERRY_KILL_AT-th call (from 1) that renames or removes something of DIR/next. That takes less
 * than a thousandth of a second, which a killer beside it meets by luck alone on a machine that is busy.
 */
#include "common/file.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static atomic_int calls_left;

/* Passes a call's result on, or never returns. */
static int count(const char *path, int result)
{
	const char *next = strstr(path, "/next");
	if (next && (next[5] == '/' || !next[5]) && atomic_fetch_sub(&calls_left, 1) == 1)
		raise(SIGKILL);
	return result;
}

static int count_rename(const char *from, const char *to)
{
	int result = file_operations_system.rename(from, to);
	return count(strstr(from, "/next/") ? from : to, result);
}

static int count_unlink(const char *path)
{
	return count(path, file_operations_system.unlink(path));
}

static int count_rmdir(const char *path)
{
	return count(path, file_operations_system.rmdir(path));
}

__attribute__((constructor)) static void count_calls(void)
{
	static struct file_operations operations;
	const char *at = getenv("FERRY_KILL_AT");
	if (!at)
		return;
	atomic_store(&calls_left, atoi(at));
	operations = file_operations_system;
	operations.rename = count_rename;
	operations.unlink = count_unlink;
	operations.rmdir = count_rmdir;
	file_system = &operations;
}
