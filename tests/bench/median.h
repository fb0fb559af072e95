/* median.h: of a benchmark's rounds. */
#ifndef TESTS_BENCH_MEDIAN_H
#define TESTS_BENCH_MEDIAN_H

#include <stdlib.h>

static inline int median_compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

/* The upper one of two in the middle. Leaves the values sorted: the least is the first. */
static inline double median(double *values, int count)
{
	qsort(values, (size_t)count, sizeof *values, median_compare);
	return values[count / 2];
}

#endif
