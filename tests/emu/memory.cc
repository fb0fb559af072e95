/* Device and pinned memory. */
#include "tests/emu/emulator.h"

#include <errno.h>
#include <execinfo.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <map>
#include <mutex>

enum { page = 4096, alignment = 256 };

struct block {
	size_t bytes;
	char *map; /* device: a page that is not there, pages that end with the block, another */
	size_t map_bytes;
	long number; /* of the allocation */
	bool live;
};

static struct memory {
	struct quiet_lock lock;
	std::map<uintptr_t, struct block> device, pinned;
	size_t used = 0;
	long allocations = 0;
	int key = -1; /* protection key of device memory; -1: none to be had */
	bool begun = false;
	struct sigaction before;
} &memory = *new struct memory; /* never destroyed: streams outlive main */

void emu_die(const char *format, ...)
{
	char text[2000];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(text, sizeof text, format, arguments);
	va_end(arguments);
	fprintf(stderr, "emulator: %s\n", text);
	fflush(stderr);
	void *frames[48];
	backtrace_symbols_fd(frames, backtrace(frames, 48), 2);
	abort();
}

long emu_setting(const char *name, long otherwise)
{
	const char *value = getenv(name);
	return value && *value ? atol(value) : otherwise;
}

void emu_fill(void *to, size_t bytes)
{
	volatile unsigned char *at = (volatile unsigned char *)to, *end = at + bytes;
	for (; at < end && (uintptr_t)at % 8; at++)
		*at = 0xff;
	for (; at + 8 <= end; at += 8)
		*(volatile uint64_t *)at = UINT64_MAX;
	for (; at < end; at++)
		*at = 0xff;
}

extern "C" {
__attribute__((weak)) void __asan_poison_memory_region(const volatile void *from, size_t bytes);
__attribute__((weak)) void __asan_unpoison_memory_region(const volatile void *from, size_t bytes);
}

void emu_poison(const void *from, size_t bytes)
{
	if (__asan_poison_memory_region)
		__asan_poison_memory_region(from, bytes);
}

void emu_unpoison(const void *from, size_t bytes)
{
	if (__asan_unpoison_memory_region)
		__asan_unpoison_memory_region(from, bytes);
}

/* ---- who touched what he may not ---- */

/* Not the lock: the thread may hold it. */
static void on_fault(int signal, siginfo_t *info, void *context)
{
	uintptr_t at = (uintptr_t)info->si_addr;
	auto above = memory.device.upper_bound(at + page);
	if (above != memory.device.begin()) {
		const struct block &b = (--above)->second;
		uintptr_t start = above->first;
		if (at >= start && at < start + b.bytes && info->si_code == SEGV_PKUERR)
			emu_die("the host touched device memory: byte %zu of a block of %zu",
				(size_t)(at - start), b.bytes);
		if (at + page >= start && at < start + b.bytes + 2 * page)
			emu_die("device memory out of bounds: byte %td of a block of %zu",
				(ptrdiff_t)(at - start), b.bytes);
	}
	(void)context;
	/* Not ours: as it was before, at the same instruction again. */
	sigaction(signal, &memory.before, NULL);
}

static void report_leaks(void);

static void begin(void)
{
	if (memory.begun)
		return;
	memory.begun = true;
	memory.key = pkey_alloc(0, PKEY_DISABLE_ACCESS);
	struct sigaction action = {};
	action.sa_sigaction = on_fault;
	action.sa_flags = SA_SIGINFO | SA_ONSTACK;
	sigaction(SIGSEGV, &action, &memory.before);
	atexit(report_leaks);
}

void device_memory_enter(void)
{
	{
		std::lock_guard<quiet_lock> guard(memory.lock);
		begin();
	}
	if (memory.key >= 0)
		(void)pkey_set(memory.key, 0);
}

/* ---- allocations ---- */

static bool allocation_fails(void)
{
	return ++memory.allocations == emu_setting("FERRY_EMU_FAIL_ALLOC", 0);
}

static size_t device_bytes(void)
{
	return (size_t)emu_setting("FERRY_EMU_MEMORY", 4096) << 20;
}

/* What other programs leave. */
static size_t device_room(void)
{
	return device_bytes() - ((size_t)emu_setting("FERRY_EMU_TAKEN", 0) << 20);
}

cudaError_t cudaMalloc(void **out, size_t bytes)
{
	std::lock_guard<quiet_lock> guard(memory.lock);
	begin();
	*out = NULL;
	size_t whole = (bytes + alignment - 1) / alignment * alignment;
	struct block b = {};
	b.bytes = bytes;
	b.map_bytes = (whole + page - 1) / page * page + 2 * page;
	if (bytes == 0)
		return cudaSuccess;
	if (allocation_fails() || memory.used + b.map_bytes > device_room())
		return emu_fail(cudaErrorMemoryAllocation);
	void *map = mmap(NULL, b.map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (map == MAP_FAILED)
		return emu_fail(cudaErrorMemoryAllocation);
	b.map = (char *)map;
	b.number = memory.allocations;
	char *first = b.map + page, *end = b.map + b.map_bytes - page, *at = end - whole;
	if (mprotect(first, (size_t)(end - first), PROT_READ | PROT_WRITE)) {
		munmap(map, b.map_bytes);
		return emu_fail(cudaErrorMemoryAllocation);
	}
	emu_fill(first, (size_t)(end - first));
	emu_poison(first, (size_t)(at - first));
	emu_poison(at + bytes, whole - bytes);
	if (memory.key >= 0 &&
		pkey_mprotect(first, (size_t)(end - first), PROT_READ | PROT_WRITE, memory.key))
		emu_die("protection keys: %s", strerror(errno));
	memory.used += b.map_bytes;
	memory.device[(uintptr_t)at] = b;
	*out = at;
	return cudaSuccess;
}

/* What lies between the block and its pages' ends must be as it was. */
static void check_surroundings(const char *at, const struct block &b)
{
	const char *first = b.map + page, *end = b.map + b.map_bytes - page;
	for (const char *c = first; c < end; c++) {
		if (c == at)
			c += b.bytes;
		if (c < end && (unsigned char)*c != 0xff)
			emu_die("device memory out of bounds: byte %td of a block of %zu was written", c - at,
				b.bytes);
	}
}

cudaError_t cudaFree(void *block)
{
	if (!block)
		return cudaSuccess;
	streams_drain();
	std::lock_guard<quiet_lock> guard(memory.lock);
	auto found = memory.device.find((uintptr_t)block);
	if (found == memory.device.end())
		emu_die("cudaFree of %p, which is no block of device memory", block);
	struct block b = found->second;
	memory.device.erase(found);
	memory.used -= b.map_bytes;
	int rights = memory.key >= 0 ? pkey_get(memory.key) : 0;
	if (memory.key >= 0)
		(void)pkey_set(memory.key, 0);
	check_surroundings((const char *)block, b);
	if (memory.key >= 0)
		(void)pkey_set(memory.key, (unsigned)rights);
	emu_unpoison(b.map + page, b.map_bytes - 2 * page);
	munmap(b.map, b.map_bytes);
	return cudaSuccess;
}

cudaError_t cudaMallocHost(void **out, size_t bytes)
{
	std::lock_guard<quiet_lock> guard(memory.lock);
	begin();
	*out = NULL;
	if (allocation_fails())
		return emu_fail(cudaErrorMemoryAllocation);
	*out = aligned_alloc(64, (bytes + 63) / 64 * 64);
	if (!*out)
		return emu_fail(cudaErrorMemoryAllocation);
	emu_fill(*out, bytes);
	struct block b = {};
	b.bytes = bytes;
	b.number = memory.allocations;
	memory.pinned[(uintptr_t)*out] = b;
	return cudaSuccess;
}

cudaError_t cudaFreeHost(void *block)
{
	if (!block)
		return cudaSuccess;
	streams_drain();
	std::lock_guard<quiet_lock> guard(memory.lock);
	auto found = memory.pinned.find((uintptr_t)block);
	if (found == memory.pinned.end())
		emu_die("cudaFreeHost of %p, which is no block of pinned memory", block);
	memory.pinned.erase(found);
	free(block);
	return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *unused, size_t *total)
{
	std::lock_guard<quiet_lock> guard(memory.lock);
	*total = device_bytes();
	*unused = device_room() - memory.used;
	return cudaSuccess;
}

static bool holds(const std::map<uintptr_t, struct block> &blocks, uintptr_t at, size_t bytes)
{
	std::lock_guard<quiet_lock> guard(memory.lock);
	auto above = blocks.upper_bound(at);
	if (above == blocks.begin())
		return false;
	--above;
	return at + bytes <= above->first + above->second.bytes;
}

bool device_memory_holds(const void *block, size_t bytes)
{
	return holds(memory.device, (uintptr_t)block, bytes);
}

bool pinned_memory_holds(const void *block, size_t bytes)
{
	return holds(memory.pinned, (uintptr_t)block, bytes);
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *out, const void *p)
{
	out->type = pinned_memory_holds(p, 1)   ? cudaMemoryTypeHost
		    : device_memory_holds(p, 1) ? cudaMemoryTypeDevice
						: cudaMemoryTypeUnregistered;
	return cudaSuccess;
}

bool ordinary_memory(const void *p)
{
	/* The end of a block is no fault as long as nothing is read there. */
	const char *before = (const char *)p - 1;
	return p && !device_memory_holds(p, 1) && !device_memory_holds(before, 1) &&
	       !pinned_memory_holds(p, 1) && !pinned_memory_holds(before, 1);
}

static void report_leaks(void)
{
	if (emu_setting("FERRY_EMU_LEAKS", 1) == 0)
		return;
	size_t leaks = memory.device.size() + memory.pinned.size();
	for (const auto &kind : {&memory.device, &memory.pinned})
		for (const auto &b : *kind)
			fprintf(stderr, "emulator: leak: %zu bytes of %s memory, allocation %ld\n",
				b.second.bytes, kind == &memory.device ? "device" : "pinned",
				b.second.number);
	fflush(NULL);
	if (leaks)
		_exit(23);
}
