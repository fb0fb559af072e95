/*
 * cgroup.h: the limits that Linux's control groups (version 2, and 1) set on this process.
 *
 * A group's limit holds for all groups below it, so a process is under its own group's and under those of every
 * group above, as far up as it can see: a container sees its own as the uppermost. `root` is "" for this
 * machine's; tests give a folder that has proc and sys of their own.
 */
#ifndef COMMON_CGROUP_H
#define COMMON_CGROUP_H

#include <stdint.h>

/* Processors that the quota of time comes to, rounded up; 0: there is none. */
int cgroup_processors(const char *root);

/* Bytes that are left below the limit; the groups' page cache counts as left, for it gives way. UINT64_MAX: no limit. */
uint64_t cgroup_memory_left(const char *root);

#endif
