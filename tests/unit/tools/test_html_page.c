/* Hostile text must stay text: what stands between the marks of a page is compared byte by byte. */
#include "tools/html_page.h"

#include "tests/unit/faulty_files.h"
#include "tests/unit/scratch_folder.h"

static const char *path;
static void expect(const char *text, size_t bytes, const char *written)
{
	struct html_page *page;
	char *data;
	size_t size;
	assert_int_equal(html_page_open(path, "t", "", &page), STATUS_OK);
	html_page_print(page, "<pre title=\"[[");
	html_page_text(page, text, bytes);
	html_page_print(page, "]]\">%d</pre>", 7);
	assert_int_equal(html_page_publish(page), STATUS_OK);
	assert_int_equal(file_read_all(path, 1 << 20, &data, &size), STATUS_OK);
	char *begin = strstr(data, "[["), *end = strstr(data, "]]\">7</pre>");
	assert_non_null(begin);
	assert_non_null(end);
	*end = 0;
	assert_string_equal(begin + 2, written);
	free(data);
}

static void text_stays_text(void **state)
{
	(void)state;
	static const char *const cases[][2] = {
		{"", ""},
		{"plain, with\nlines\tand \xC3\xA9\xE6\x97\xA5\xF0\x9F\x98\x80",
			"plain, with\nlines\tand \xC3\xA9\xE6\x97\xA5\xF0\x9F\x98\x80"},
		{"</script><img src=x onerror=alert(1)>",
			"&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;"},
		{"\"><svg/onload='x'>", "&quot;&gt;&lt;svg/onload=&#39;x&#39;&gt;"},
		{"&lt; &amp;amp; &#60;", "&amp;lt; &amp;amp;amp; &amp;#60;"},
		{"<!-- ]]> -->", "&lt;!-- ]]&gt; --&gt;"},
		{"%s %n %d", "%s %n %d"},
		{"a\x01z\x1B[31m\r\x7F", "a\xE2\x90\x81z\xE2\x90\x9B[31m\xE2\x90\x8D\xE2\x90\xA1"},
		{"\xFF<\xC3", "\xEF\xBF\xBD&lt;\xEF\xBF\xBD"},
		/* an overlong '<', and a cut off character before a real one */
		{"\xC0\xBC \xE2\x82<b>", "\xEF\xBF\xBD\xEF\xBF\xBD \xEF\xBF\xBD&lt;b&gt;"},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		expect(cases[i][0], strlen(cases[i][0]), cases[i][1]);
	expect("a\0b", 3,
		"a\xE2\x90\x80"
		"b");
}

static void every_byte(void **state)
{
	(void)state;
	struct html_page *page;
	char *data, all[256];
	size_t size;
	for (int i = 0; i < 256; i++)
		all[i] = (char)i;
	assert_int_equal(html_page_open(path, "<title>&", "b{}", &page), STATUS_OK);
	html_page_text(page, all, sizeof all);
	html_page_string(page, "<i>");
	assert_int_equal(html_page_publish(page), STATUS_OK);
	assert_int_equal(file_read_all(path, 1 << 20, &data, &size), STATUS_OK);
	assert_int_equal(strlen(data), size); /* no NUL */
	assert_non_null(strstr(data, "<title>&lt;title&gt;&amp;</title>"));
	assert_null(strstr(data, "<i>"));
	char *body = strstr(data, "<body>");
	int open = 0;
	for (char *c = body; *c; c++) {
		assert_true((unsigned char)*c >= 0x20 || *c == '\n' || *c == '\t');
		open += *c == '<';
	}
	assert_int_equal(open, 3); /* <body> </body> </html> */
	free(data);
}

static enum status write_page(void)
{
	struct html_page *page;
	TRY(html_page_open(path, "t", "", &page));
	for (int i = 0; i < 5000; i++)
		html_page_string(page, "0123456789 0123456789 0123456789 0123456789");
	return html_page_publish(page);
}

static void failures(void **state)
{
	(void)state;
	struct html_page *page;
	char **names;
	size_t count;
	assert_int_equal(html_page_open(root, "t", "", &page), STATUS_USAGE);
	assert_non_null(strstr(error_message(), "is a directory"));
	assert_int_equal(html_page_open("/nowhere/at/all", "t", "", &page), STATUS_IO);
	assert_int_equal(file_publish(path, "old", 3), STATUS_OK);
	assert_in_range(fail_each_call(ENOSPC, write_page), 5, 11);
	assert_int_equal(html_page_open(path, "t", "", &page), STATUS_OK);
	html_page_abandon(page);
	html_page_abandon(NULL);
	assert_int_equal(directory_remove_temporaries(root), STATUS_OK);
	assert_int_equal(directory_list(root, &names, &count), STATUS_OK);
	assert_int_equal(count, 1);
	directory_list_free(names, count);
}

static int begin(void **state)
{
	int result = scratch_make(state);
	path = in_root("page.html");
	return result;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(text_stays_text),
		cmocka_unit_test(every_byte),
		cmocka_unit_test(failures),
	};
	return cmocka_run_group_tests(tests, begin, scratch_remove);
}
