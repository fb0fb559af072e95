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

/* Is `word` in a list with commas between? "" is in an empty one. */
static bool in_list(const char *list, const char *word)
{
	size_t length = strlen(word);
	while (strcspn(list, ",") != length || strncmp(list, word, length) != 0) {
		list += strcspn(list, ",");
		if (!*list++)
			return false;
	}
	return length > 0 || !*list;
}

/* The group that the process is in: of version 1's hierarchy that has the controller, or "", of version 2's. */
static void find_group(const char *root, const char *controller, char *group, size_t bytes)
{
	char path[PATH_MAX], line[PATH_MAX];
	group[0] = 0;
	snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
	FILE *stream = fopen(path, "r");
	if (!stream)
		return;
	while (fgets(line, sizeof line, stream)) { /* NUMBER:CONTROLLERS:GROUP */
		line[strcspn(line, "\n")] = 0;
		char *list = strchr(line, ':'), *name = list ? strchr(list + 1, ':') : NULL;
		if (!name)
			continue;
		*name = 0;
		if (in_list(list + 1, controller) && strcmp(name + 1, "/") != 0)
			snprintf(group, bytes, "%s", name + 1);
	}
	fclose(stream);
}

/* Calls `look` with the folder of the process's group, then of each above it. */
static void each_group(
	const char *root, const char *controller, void (*look)(const char *folder, void *user), void *user)
{
	char folder[PATH_MAX], group[PATH_MAX];
	find_group(root, controller, group, sizeof group);
	int top = snprintf(
		folder, sizeof folder, "%s/sys/fs/cgroup%s%s", root, *controller ? "/" : "", controller);
	if (top + strlen(group) >= sizeof folder)
		return;
	strcpy(folder + top, group);
	for (char *slash; look(folder, user), (slash = strrchr(folder + top, '/'));)
		*slash = 0;
}

static void look_for_quota(const char *folder, void *user)
{
	char text[64];
	long long quota = 0, period = 0;
	int *least = user;
	if (read_line(folder, "cpu.max", "", text, sizeof text))
		(void)!sscanf(text, "%lld %lld", &quota, &period);
	else if (read_line(folder, "cpu.cfs_quota_us", "", text, sizeof text) &&
		 sscanf(text, "%lld", &quota) == 1 &&
		 read_line(folder, "cpu.cfs_period_us", "", text, sizeof text))
		(void)!sscanf(text, "%lld", &period);
	if (quota <= 0 || period <= 0)
		return;
	long long processors = (quota + period - 1) / period;
	if (processors <= INT_MAX && (!*least || processors < *least))
		*least = (int)processors;
}

int cgroup_processors(const char *root)
{
	int least = 0;
	each_group(root, "", look_for_quota, &least);
	each_group(root, "cpu", look_for_quota, &least);
	return least;
}

/* The files of the two versions, in the same order. */
static const struct {
	const char *limit, *used, *inactive, *active;
} versions[] = {{"memory.max", "memory.current", "inactive_file ", "active_file "},
	{"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ", "total_active_file "}};

static void look_for_memory(const char *folder, void *user)
{
	for (size_t i = 0; i < sizeof versions / sizeof *versions; i++) {
		uint64_t *least = user, limit, used, inactive = 0, active = 0;
		if (!read_number(folder, versions[i].limit, "", &limit) ||
			!read_number(folder, versions[i].used, "", &used))
			continue;
		(void)read_number(folder, "memory.stat", versions[i].inactive, &inactive);
		(void)read_number(folder, "memory.stat", versions[i].active, &active);
		uint64_t taken = used > inactive + active ? used - inactive - active : 0;
		uint64_t left = limit > taken ? limit - taken : 0;
		if (left < *least)
			*least = left;
	}
}

uint64_t cgroup_memory_left(const char *root)
{
	uint64_t least = UINT64_MAX;
	each_group(root, "", look_for_memory, &least);
	each_group(root, "memory", look_for_memory, &least);
	return least;
}
