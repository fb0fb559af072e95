#include "tools/terminal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void human_forms(void **state)
{
	(void)state;
	assert_string_equal(human_bytes(0).text, "0 B");
	assert_string_equal(human_bytes(1023).text, "1023 B");
	assert_string_equal(human_bytes(1024).text, "1.0 KiB");
	assert_string_equal(human_bytes(1.5 * (1 << 30)).text, "1.5 GiB");
	assert_string_equal(human_bytes(1048575).text, "1.0 MiB"); /* not 1024.0 KiB */
	assert_string_equal(human_count(0).text, "0");
	assert_string_equal(human_count(999).text, "999");
	assert_string_equal(human_count(1000).text, "1.00k");
	assert_string_equal(human_count(12345).text, "12.3k");
	assert_string_equal(human_count(999999).text, "1.00M");
	assert_string_equal(human_count(124.4e6).text, "124M");
	assert_string_equal(human_seconds(0.44).text, "0.4 s");
	assert_string_equal(human_seconds(9.99).text, "10 s");
	assert_string_equal(human_seconds(59.9).text, "1 min 00 s");
	assert_string_equal(human_seconds(200).text, "3 min 20 s");
	assert_string_equal(human_seconds(3599.9).text, "1 h 00 min");
	assert_string_equal(human_seconds(7500).text, "2 h 05 min");
	assert_string_equal(human_seconds(1.0 / 0.0).text, "unknown");
	assert_string_equal(human_grouped(0).text, "0");
	assert_string_equal(human_grouped(999).text, "999");
	assert_string_equal(human_grouped(1234567).text, "1,234,567");
	assert_string_equal(human_grouped(UINT64_MAX).text, "18,446,744,073,709,551,615");
}

static void words_for_a_shell(void **state)
{
	(void)state;
	assert_string_equal(shell_word("run/step-00000010").text, "run/step-00000010");
	assert_string_equal(shell_word("caf\xc3\xa9").text, "caf\xc3\xa9");
	assert_string_equal(shell_word("").text, "''");
	assert_string_equal(shell_word("a run").text, "'a run'");
	assert_string_equal(shell_word("~/$x;(*)").text, "'~/$x;(*)'");
	assert_string_equal(shell_word("it's").text, "'it'\\''s'");
	char long_word[6000];
	memset(long_word, '\'', sizeof long_word - 1);
	long_word[sizeof long_word - 1] = 0;
	struct shell_word cut = shell_word(long_word);
	assert_in_range(strlen(cut.text), 4000, sizeof cut.text - 1);
	assert_true(cut.text[strlen(cut.text) - 1] == '\'');
}

/* In a file: whole lines, few of them, no control characters. */
static void plain_lines(void **state)
{
	(void)state;
	FILE *file = tmpfile();
	struct progress_line line = progress_line_start(file, "pass 1");
	assert_false(line.interactive);
	for (int i = 0; i < 1000; i++)
		progress_line_update(&line, "%d of 1000", i);
	line.updated -= 20; /* as if twenty seconds had gone by */
	progress_line_update(&line, "nearly");
	progress_line_clear(&line);
	progress_line_finish(&line, "%d documents", 7);
	char text[256] = "";
	rewind(file);
	size_t bytes = fread(text, 1, sizeof text - 1, file);
	text[bytes] = 0;
	fclose(file);
	assert_string_equal(text, "pass 1: nearly\npass 1: 7 documents\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(human_forms), cmocka_unit_test(words_for_a_shell),
		cmocka_unit_test(plain_lines)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
