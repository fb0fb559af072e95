#include "common/cgroup.h"

#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* What follows `key` in the first line that begins with it. */
static bool read_line(const char *folder, const char *file, const char *key, char *text, size_t bytes)
{
	char path[PATH_MAX], line[PATH_MAX];
	size_t length = strlen(key);
	bool found = false;
	if (snprintf(path, sizeof path, "%s/%s", folder, file) >= (int)sizeof path)
		return false;
	FILE *stream = fopen(path, "r");
	if (!stream)
		return false;
	while (!found && fgets(line, sizeof line, stream))
		found = strncmp(line, key, length) == 0;
	fclose(stream);
	if (found)
		snprintf(text, bytes, "%.*s", (int)strcspn(line + length, "\n"), line + length);
	return found;
}

static bool read_number(const char *folder, const char *file, const char *key, uint64_t *number)
{
	char text[32];
	return read_line(folder, file, key, text, sizeof text) && sscanf(text, "%" SCNu64, number) == 1;
}

/* Calls `look` with the folder of the process's group, then of each above it. */
static void each_group(const char *root, void (*look)(const char *folder, void *user), void *user)
{
	char folder[PATH_MAX], group[PATH_MAX];
	if (!read_line(root, "proc/self/cgroup", "0::", group, sizeof group) || strcmp(group, "/") == 0)
		group[0] = 0;
	int top = snprintf(folder, sizeof folder, "%s/sys/fs/cgroup", root);
	if (top + strlen(group) >= sizeof folder)
		return;
	strcpy(folder + top, group);
	for (char *slash; look(folder, user), (slash = strrchr(folder + top, '/'));)
		*slash = 0;
}

static void look_for_quota(const char *folder, void *user)
{
	char text[64];
	long long quota, period;
	int *least = user;
	if (!read_line(folder, "cpu.max", "", text, sizeof text) ||
		sscanf(text, "%lld %lld", &quota, &period) != 2 || quota <= 0 || period <= 0)
		return;
	long long processors = (quota + period - 1) / period;
	if (processors <= INT_MAX && (!*least || processors < *least))
		*least = (int)processors;
}

int cgroup_processors(const char *root)
{
	int least = 0;
	each_group(root, look_for_quota, &least);
	return least;
}

static void look_for_memory(const char *folder, void *user)
{
	uint64_t *least = user, limit, used, inactive = 0, active = 0;
	if (!read_number(folder, "memory.max", "", &limit) ||
		!read_number(folder, "memory.current", "", &used))
		return;
	(void)read_number(folder, "memory.stat", "inactive_file ", &inactive);
	(void)read_number(folder, "memory.stat", "active_file ", &active);
	uint64_t taken = used > inactive + active ? used - inactive - active : 0;
	uint64_t left = limit > taken ? limit - taken : 0;
	if (left < *least)
		*least = left;
}

uint64_t cgroup_memory_left(const char *root)
{
	uint64_t least = UINT64_MAX;
	each_group(root, look_for_memory, &least);
	return least;
}
