#include "common/error.h"
#include "common/log.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static enum status inner(int n)
{
	FAIL_IF(n > 5, STATUS_CORRUPT, "n is %d", n);
	return STATUS_OK;
}

static enum status outer(int n)
{
	enum status status = inner(n);
	if (status != STATUS_OK)
		return error_context(status, "outer(%d)", n);
	TRY(inner(n + 1));
	return STATUS_OK;
}

static void messages(void **state)
{
	(void)state;
	assert_int_equal(outer(4), STATUS_OK);
	assert_int_equal(outer(5), STATUS_CORRUPT);
	assert_string_equal(error_message(), "n is 6");
	assert_int_equal(outer(7), STATUS_CORRUPT);
	assert_string_equal(error_message(), "outer(7): n is 7");
	errno = ENOENT;
	assert_int_equal(error_set_errno(STATUS_IO, "%s: cannot open", "x"), STATUS_IO);
	assert_string_equal(error_message(), "x: cannot open: No such file or directory");
	errno = ENOSPC;
	(void)error_set_errno(STATUS_IO, "%s: write failed", "x");
	assert_string_equal(error_message(),
		"x: write failed: No space left on device; make room there and start it again");
}

/* The old message may be an argument of the new one. */
static void message_quotes_itself(void **state)
{
	(void)state;
	(void)error_set(STATUS_IO, "first");
	(void)error_set(STATUS_IO, "again: %s", error_message());
	assert_string_equal(error_message(), "again: first");
}

static void long_messages_are_cut(void **state)
{
	(void)state;
	char text[5000];
	memset(text, 'x', sizeof text - 1);
	text[sizeof text - 1] = 0;
	(void)error_set(STATUS_IO, "%s", text);
	assert_int_equal(strlen(error_message()), sizeof(((struct error_copy *)0)->message) - 1);
	errno = EIO;
	(void)error_set_errno(STATUS_IO, "%s", text);
	(void)error_context(STATUS_IO, "%s", text);
	assert_int_equal(strlen(error_message()), sizeof(((struct error_copy *)0)->message) - 1);
}

static void *fail_elsewhere(void *argument)
{
	error_save(error_set(STATUS_MEMORY, "from the other thread"), argument);
	return NULL;
}

static void each_thread_has_its_own(void **state)
{
	(void)state;
	struct error_copy copy;
	pthread_t thread;
	(void)error_set(STATUS_IO, "mine");
	assert_int_equal(pthread_create(&thread, NULL, fail_elsewhere, &copy), 0);
	pthread_join(thread, NULL);
	assert_string_equal(error_message(), "mine");
	assert_int_equal(error_restore(&copy), STATUS_MEMORY);
	assert_string_equal(error_message(), "from the other thread");
}

static void exit_codes(void **state)
{
	(void)state;
	static const int codes[STATUS_COUNT] = {0, 2, 1, 3, 3, 1, 1, 130};
	for (int i = 0; i < STATUS_COUNT; i++)
		assert_int_equal(error_exit_code((enum status)i), codes[i]);
	assert_string_equal(error_status_name(STATUS_CORRUPT), "corrupt");
	assert_string_equal(error_status_name(STATUS_COUNT), "unknown");
}

static void keep_line(enum log_level level, const char *line, void *user)
{
	snprintf(user, 64, "%d %s", (int)level, line);
}

static void log_goes_to_the_sink(void **state)
{
	(void)state;
	char kept[64] = "";
	log_set_sink(keep_line, kept);
	log_warn("%d lines", 3);
	assert_string_equal(kept, "1 3 lines");
	log_info("fine");
	assert_string_equal(kept, "0 fine");
	log_set_sink(NULL, NULL);
	log_info("to nobody");
	assert_string_equal(kept, "0 fine");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(messages),
		cmocka_unit_test(message_quotes_itself),
		cmocka_unit_test(long_messages_are_cut),
		cmocka_unit_test(each_thread_has_its_own),
		cmocka_unit_test(exit_codes),
		cmocka_unit_test(log_goes_to_the_sink),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
