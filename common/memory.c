#include "common/memory.h"

#include "common/cgroup.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

enum { HUGE_PAGE = 2 << 20 };

static _Atomic int64_t calls_left = -1;

void memory_fail_after(int64_t calls)
{
	atomic_store(&calls_left, calls);
}

static bool refuse(void)
{
	int64_t left = atomic_load(&calls_left);
	while (left > 0 && !atomic_compare_exchange_weak(&calls_left, &left, left - 1))
		;
	return left == 0;
}

static enum status out_of_memory(const char *what, size_t count, size_t size)
{
	return error_set(STATUS_MEMORY, "no memory for %s (%zu x %zu bytes)", what, count, size);
}

enum status memory_alloc(void **out, size_t count, size_t size, const char *what)
{
	*out = refuse() ? NULL : calloc(count ? count : 1, size ? size : 1);
	return *out ? STATUS_OK : out_of_memory(what, count, size);
}

enum status memory_grow(void **array, size_t *capacity, size_t wanted, size_t size, const char *what)
{
	if (wanted <= *capacity)
		return STATUS_OK;
	size_t larger = *capacity > SIZE_MAX / 2 ? wanted : *capacity * 2;
	if (larger < wanted)
		larger = wanted;
	if (larger < 16)
		larger = 16;
	void *grown = refuse() ? NULL : reallocarray(*array, larger, size);
	if (!grown)
		return out_of_memory(what, larger, size);
	*array = grown;
	*capacity = larger;
	return STATUS_OK;
}

enum status memory_alloc_large(void **out, size_t bytes, const char *what)
{
	*out = NULL;
	size_t alignment = bytes >= HUGE_PAGE ? HUGE_PAGE : 64;
	if (bytes > SIZE_MAX - alignment || refuse())
		return out_of_memory(what, bytes, 1);
	size_t rounded = (bytes + alignment - 1) / alignment * alignment;
	if (rounded == 0)
		rounded = alignment;
	if (alignment == 64) {
		*out = aligned_alloc(64, rounded);
		if (!*out)
			return out_of_memory(what, bytes, 1);
		memset(*out, 0, rounded);
		return STATUS_OK;
	}
	/* Map one huge page too many and give back the ends, so that the block starts on a huge page. */
	char *map =
		mmap(NULL, rounded + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (map == MAP_FAILED)
		return out_of_memory(what, bytes, 1);
	size_t head = (HUGE_PAGE - (uintptr_t)map % HUGE_PAGE) % HUGE_PAGE;
	if (head)
		munmap(map, head);
	if (head < HUGE_PAGE)
		munmap(map + head + rounded, HUGE_PAGE - head);
	madvise(map + head, rounded, MADV_HUGEPAGE);
	*out = map + head;
	return STATUS_OK;
}

void memory_free_large(void *block, size_t bytes)
{
	if (!block)
		return;
	if (bytes >= HUGE_PAGE)
		munmap(block, (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
	else
		free(block);
}

uint64_t memory_peak_resident(void)
{
	struct rusage usage;
	return getrusage(RUSAGE_SELF, &usage) == 0 ? (uint64_t)usage.ru_maxrss * 1024 : 0;
}

/* MemAvailable, which counts page cache that gives way; UINT64_MAX where it is not told. */
static uint64_t machine_available(void)
{
	char line[256];
	uint64_t kilobytes;
	bool found = false;
	FILE *file = fopen("/proc/meminfo", "r");
	if (!file)
		return UINT64_MAX;
	while (!found && fgets(line, sizeof line, file))
		found = sscanf(line, "MemAvailable: %" SCNu64, &kilobytes) == 1;
	fclose(file);
	return found ? kilobytes * 1024 : UINT64_MAX;
}

uint64_t memory_available(void)
{
	uint64_t machine = machine_available(), group = cgroup_memory_left("");
	return machine < group ? machine : group;
}
