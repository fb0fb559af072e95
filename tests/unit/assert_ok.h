/* assert_ok.h: asserts that something succeeded; when it did not, the test's output says what and why. */
#ifndef TESTS_ASSERT_OK_H
#define TESTS_ASSERT_OK_H

#include "common/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#define assert_ok(expression)                                                                                \
	do {                                                                                                 \
		if ((expression) != STATUS_OK)                                                               \
			fail_msg("%s: %s", #expression, error_message());                                    \
	} while (0)

/* The larger of two errors, for bounds of the form `worst < 1e-5`: NaN is larger than all, and stays. (fmax passes it
 * over; and gcc 12 for aarch64 stumbles over loops with it.) */
static inline __attribute__((unused)) double worse(double worst, double error)
{
	return error > worst || error != error ? error : worst;
}

#endif
