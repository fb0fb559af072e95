/*
 * killed_ferry: ferry, which ends itself with kill -9 right after the FERRY_KILL_AT-th call (from 1) that opens, renames or
 * removes something whose path has FERRY_KILL_IN in it. It ends so where a killer beside it comes by luck
 * alone on a machine that is busy:
 *
 *    /next      as preprocess puts a corpus in place (data/preprocess.h), in less than a thousandth of a second
 *    /work/0    as it makes the shards, which the second pass does
 */
#include "common/file.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static atomic_int calls_left;
static const char *place;

/* Passes a call's result on, or never returns. */
static int count(const char *path, int result)
{
	if (strstr(path, place) && atomic_fetch_sub(&calls_left, 1) == 1)
		raise(SIGKILL);
	return result;
}

static int count_open(const char *path, int flags, mode_t mode)
{
	return count(path, file_operations_system.open(path, flags, mode));
}

static int count_rename(const char *from, const char *to)
{
	int result = file_operations_system.rename(from, to);
	return count(strstr(from, place) ? from : to, result);
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
	place = getenv("FERRY_KILL_IN");
	if (!at || !place)
		return;
	atomic_store(&calls_left, atoi(at));
	operations = file_operations_system;
	operations.open = count_open;
	operations.rename = count_rename;
	operations.unlink = count_unlink;
	operations.rmdir = count_rmdir;
	file_system = &operations;
}
