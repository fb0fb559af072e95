/*
 * tap.h: the lines of a test program that needs no cmocka, so that it builds on a bare GPU machine: each
 * `ok` is a line, `failed` of `number` were not.
 */
#ifndef TESTS_GPU_TAP_H
#define TESTS_GPU_TAP_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

static int number, failed;

__attribute__((format(printf, 2, 3))) static void ok(bool good, const char *format, ...)
{
	char name[400];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(name, sizeof name, format, arguments);
	va_end(arguments);
	printf("%sok %d - %s\n", good ? "" : "not ", ++number, name);
	failed += !good;
	fflush(stdout);
}

#endif
