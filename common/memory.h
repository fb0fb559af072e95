/*
 * memory.h: allocation that fails with a message, and large blocks on huge pages.
 *
 * Sizes are overflow-checked products. A failed allocation is STATUS_MEMORY and leaves *out NULL. free()
 * frees what memory_alloc gave; memory_free_large frees what memory_alloc_large gave.
 */
#ifndef COMMON_MEMORY_H
#define COMMON_MEMORY_H

#include "common/error.h"

#include <stdint.h>

/* count * size bytes, zeroed. A zero product gives a valid pointer. `what` names it in the error. */
enum status memory_alloc(void **out, size_t count, size_t size, const char *what) MUST_USE;

/* Grows *array (elements of `size` bytes) to hold at least `wanted`, doubling; *capacity is in elements. */
enum status memory_grow(
	void **array, size_t *capacity, size_t wanted, size_t size, const char *what) MUST_USE;

/* At least `bytes`, zeroed, aligned to 2 MiB when that large (64 otherwise), huge pages advised before first
 * touch. */
enum status memory_alloc_large(void **out, size_t bytes, const char *what) MUST_USE;
void memory_free_large(void *block, size_t bytes);

/* Peak resident set of this process, bytes; 0 when the system does not tell. */
uint64_t memory_peak_resident(void);

/* Memory this process may still take, bytes: the smaller of the machine's available memory and of what its
 * control groups have left (common/cgroup.h). */
uint64_t memory_available(void);

/*
 * For tests: after `calls` more successful allocations every further one fails (-1: never). Counts
 * memory_alloc, memory_grow (when it grows) and memory_alloc_large. Process-wide.
 */
void memory_fail_after(int64_t calls);

#endif
