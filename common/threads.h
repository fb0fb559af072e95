/*
 * threads.h: a fixed crew of threads that share out numbered tasks.
 *
 * For the data tools (preprocess, verify). Kernels use OpenMP, because oneDNN does. The loader has threads of
 * its own.
 */
#ifndef COMMON_THREADS_H
#define COMMON_THREADS_H

#include "common/error.h"

#include <stdint.h>

/* Processors this process may use (affinity and cgroup quota counted), at least 1. */
int threads_available(void);

/*
 * `threads`, asked for by `flag`, of a team that meets at every step (OpenMP's of the kernels): STATUS_USAGE where they
 * would mostly wait for each other. 64 on two processors take twice the time of two, 4096 more than ten times; up to 64
 * are let through everywhere, and four for each processor: a run goes on to the same bits with as many threads as before.
 */
enum status threads_check(const char *flag, int threads) MUST_USE;

/* Processor time that this thread has used. */
double threads_processor_seconds(void);

/* One task: `worker` is 0..workers-1, stable for a thread, so that it can own a worker's state. */
typedef enum status thread_task(void *context, int worker, uint64_t task);

/*
 * Runs tasks 0..count-1, each once, on `workers` threads (the caller is worker 0), in increasing order of
 * starting. After a task fails no new one starts; the failure of the lowest-numbered failed task is returned
 * with its message.
 */
enum status threads_run(int workers, uint64_t count, thread_task *task, void *context) MUST_USE;

#endif
