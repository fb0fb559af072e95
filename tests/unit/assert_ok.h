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

#endif
