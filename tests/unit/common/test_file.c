#include "common/file.h"
#include "tests/unit/faulty_files.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>

#define OK(expression) assert_int_equal((expression), STATUS_OK)

static char directory[64];

static int setup(void **state)
{
	(void)state;
	snprintf(directory, sizeof directory, "/tmp/test_file-XXXXXX");
	return mkdtemp(directory) ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	faulty_files_remove();
	return directory_remove(directory) == STATUS_OK ? 0 : -1;
}

/* A path in the test's directory; of the last four calls. */
static const char *in(const char *name)
{
	static char paths[4][128];
	static int next;
	next = (next + 1) % 4;
	snprintf(paths[next], sizeof paths[next], "%s/%s", directory, name);
	return paths[next];
}

static void assert_content(const char *path, const void *data, size_t bytes)
{
	char *read;
	size_t got;
	OK(file_read_all(path, SIZE_MAX / 2, &read, &got));
	assert_int_equal(got, bytes);
	assert_memory_equal(read, data, bytes);
	assert_int_equal(read[got], 0);
	free(read);
}

static size_t count_names(const char *part)
{
	char **names;
	size_t count, found = 0;
	OK(directory_list(directory, &names, &count));
	for (size_t i = 0; i < count; i++)
		found += strstr(names[i], part) != NULL;
	directory_list_free(names, count);
	return found;
}

static uint8_t *noise(size_t bytes)
{
	uint8_t *data = malloc(bytes);
	uint32_t x = 1;
	assert_non_null(data);
	for (size_t i = 0; i < bytes; i++) {
		x = x * 1664525 + 1013904223;
		data[i] = (uint8_t)(x >> 24);
	}
	return data;
}

/* Data reaches the disk before the name does, and the name before publish returns. */
static void publish_order(void **state)
{
	(void)state;
	faulty_files_install();
	OK(file_publish(in("a"), "hello", 5));
	assert_string_equal(faults.log, "owscRosc"); /* write, fsync, close, rename, fsync of the directory */
	faulty_files_remove();
	assert_content(in("a"), "hello", 5);
	assert_int_equal(count_names(".tmp-"), 0);
}

/* Whatever call fails, the file holds the old bytes or the new ones, and no temporary stays. */
static void every_failure_leaves_old_or_new(void **state)
{
	(void)state;
	static const int errors[] = {ENOSPC, EIO};
	for (int e = 0; e < 2; e++) {
		long call = 0;
		for (;; call++) {
			OK(file_publish(in("a"), "old", 3));
			faulty_files_install();
			faults.fail_at = call;
			faults.error = errors[e];
			enum status status = file_publish(in("a"), "new!", 4);
			bool renamed = strchr(faults.log, 'R') && call > strchr(faults.log, 'R') - faults.log;
			faulty_files_remove();
			if (status == STATUS_OK && faults.calls <= call)
				break; /* there was no such call: done */
			assert_int_equal(status, STATUS_IO);
			assert_non_null(strstr(error_message(), directory));
			assert_non_null(strstr(error_message(), strerror(errors[e])));
			assert_content(in("a"), renamed ? "new!" : "old", renamed ? 4 : 3);
			assert_int_equal(count_names(".tmp-"), 0);
		}
		assert_int_equal(call, 8);
	}
}

/* Killed at any call: old or new bytes, and what stays behind is cleaned by name. */
static void killed_anywhere(void **state)
{
	(void)state;
	for (long call = 0; call < 8; call++) {
		OK(file_publish(in("a"), "old", 3));
		faulty_files_install();
		faults.fail_at = call;
		faults.error = EIO;
		faults.dead = true;
		(void)!file_publish(in("a"), "new!", 4);
		faulty_files_remove();
		assert_content(in("a"), call <= 4 ? "old" : "new!", call <= 4 ? 3 : 4);
		assert_int_equal(count_names(".tmp-"), call >= 1 && call <= 4);
		OK(directory_remove_temporaries(directory));
		assert_int_equal(count_names(".tmp-"), 0);
		assert_int_equal(count_names("a"), 1);
	}
}

static void interruptions_and_short_transfers(void **state)
{
	(void)state;
	enum { BYTES = 300001 };
	uint8_t *data = noise(BYTES), *back = malloc(BYTES);
	assert_non_null(back);
	faulty_files_install();
	faults.interrupt = true;
	faults.short_bytes = 4093;
	OK(file_publish(in("a"), data, BYTES));
	assert_content(in("a"), data, BYTES);
	int fd;
	OK(file_open_read(in("a"), &fd));
	OK(file_read_at(fd, in("a"), back, BYTES - 7, 7));
	assert_memory_equal(back, data + 7, BYTES - 7);
	size_t got;
	OK(file_read_some(fd, in("a"), back, BYTES, &got));
	assert_int_equal(got, BYTES);
	assert_memory_equal(back, data, BYTES);
	OK(file_read_some(fd, in("a"), back, BYTES, &got));
	assert_int_equal(got, 0);
	OK(file_close(fd, in("a")));
	OK(file_open_lock(in("b"), &fd));
	OK(file_close(fd, in("b")));
	OK(file_open_lock(in("b"), &fd)); /* it is there now */
	OK(file_close(fd, in("b")));
	for (int i = 0; i < 2; i++) { /* made, then there */
		OK(file_open_append(in("c"), &fd));
		OK(file_write_all(fd, in("c"), data, BYTES));
		OK(file_close(fd, in("c")));
	}
	struct stat info;
	OK(file_stat(in("c"), &info));
	assert_int_equal(info.st_size, 2 * BYTES);
	free(data);
	free(back);
}

static void truncated_file_names_the_byte(void **state)
{
	(void)state;
	char buffer[16];
	int fd;
	OK(file_publish(in("a"), "0123456789", 10));
	OK(file_open_read(in("a"), &fd));
	assert_int_equal(file_read_at(fd, in("a"), buffer, 8, 5), STATUS_CORRUPT);
	assert_non_null(strstr(error_message(), in("a")));
	assert_non_null(strstr(error_message(), "byte 10"));
	assert_non_null(strstr(error_message(), "3 bytes early"));
	OK(file_close(fd, in("a")));
}

static void read_all_limits(void **state)
{
	(void)state;
	char *data;
	size_t bytes;
	OK(file_publish(in("empty"), NULL, 0));
	assert_content(in("empty"), "", 0);
	OK(file_publish(in("a"), "12345", 5));
	OK(file_read_all(in("a"), 5, &data, &bytes));
	free(data);
	assert_int_equal(file_read_all(in("a"), 4, &data, &bytes), STATUS_CORRUPT);
	assert_null(data);
	assert_int_equal(file_read_all(in("none"), 4, &data, &bytes), STATUS_IO);
	assert_non_null(strstr(error_message(), "none"));
	assert_non_null(strstr(error_message(), strerror(ENOENT)));
	/* Around the reader's growth steps. */
	for (size_t size = 65534; size < 65539; size++) {
		uint8_t *large = noise(size);
		OK(file_publish(in("a"), large, size));
		assert_content(in("a"), large, size);
		free(large);
	}
}

/* Pieces of all sizes through the writer's buffer come out as they went in. */
static void writer_pieces(void **state)
{
	(void)state;
	enum { BYTES = 5 << 20 };
	static const size_t pieces[] = {1, 0, 1048575, 3, 1048576, 1048577, 17, 2000000};
	uint8_t *data = noise(BYTES);
	struct file_writer *writer;
	OK(file_writer_open(in("a"), &writer));
	size_t at = 0;
	for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
		OK(file_writer_write(writer, data + at, pieces[i]));
		at += pieces[i];
		assert_int_equal(file_writer_offset(writer), at);
	}
	assert_false(file_exists(in("a"))); /* nothing under the name before publication */
	OK(file_writer_publish(writer));
	assert_content(in("a"), data, at);
	OK(file_writer_open(in("a"), &writer));
	OK(file_writer_write(writer, "x", 1));
	file_writer_abandon(writer);
	file_writer_abandon(NULL);
	assert_content(in("a"), data, at);
	assert_int_equal(count_names(".tmp-"), 0);
	free(data);
}

static void maps(void **state)
{
	(void)state;
	const uint8_t *data;
	size_t bytes;
	OK(file_publish(in("a"), "mapped", 6));
	OK(file_map(in("a"), &data, &bytes));
	assert_int_equal(bytes, 6);
	assert_memory_equal(data, "mapped", 6);
	file_unmap(data, bytes);
	OK(file_publish(in("a"), "", 0));
	OK(file_map(in("a"), &data, &bytes));
	assert_null(data);
	assert_int_equal(bytes, 0);
	file_unmap(data, bytes);
	assert_int_equal(file_map(in("none"), &data, &bytes), STATUS_IO);
}

static void directories(void **state)
{
	(void)state;
	OK(directory_create(in("x/y/z")));
	OK(directory_create(in("x/y/z")));
	OK(directory_create(in("x/y/")));
	OK(file_publish(in("x/y/z/file"), "1", 1));
	assert_int_equal(directory_create(in("x/y/z/file")), STATUS_IO);
	assert_int_equal(directory_create(in("x/y/z/file/below")), STATUS_IO);
	assert_int_equal(directory_create(""), STATUS_USAGE);
	/* What a link points to survives the removal of the link's directory. */
	OK(file_publish(in("kept"), "1", 1));
	assert_int_equal(symlink(in("kept"), in("x/link")), 0);
	assert_int_equal(symlink(directory, in("x/up")), 0);
	OK(directory_remove(in("x")));
	assert_false(file_exists(in("x")));
	assert_true(file_exists(in("kept")));
	OK(directory_remove(in("x")));
	OK(file_remove(in("x")));
}

/* Temporaries have the names that writers give them; who has a name like them stays. */
static void temporaries_are_removed(void **state)
{
	(void)state;
	static const char *const kept[] = {"a.tmp-1.txt", "a.tmp-1", "a.tmp-1-", "a.tmp--1", "a.tmp-x-1",
		"a.tmp-1-1.bin", "a.tmp-notes", "a"};
	static const char *const removed[] = {"a.tmp-1-0", "a.tmp-123-45", "b.tmp-9.tmp-1-1"};
	for (size_t i = 0; i < 8; i++)
		OK(file_publish(in(kept[i]), "", 0));
	for (size_t i = 0; i < 3; i++)
		OK(file_publish(in(removed[i]), "", 0));
	OK(file_publish(in("a_b.tmp-1-0"), "", 0));
	OK(file_remove_temporaries(in("a")));
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(file_exists(in(removed[i])), i == 2);
	assert_true(file_exists(in("a_b.tmp-1-0"))); /* another file's */
	OK(directory_remove_temporaries(directory));
	assert_false(file_exists(in("b.tmp-9.tmp-1-1")));
	assert_false(file_exists(in("a_b.tmp-1-0")));
	for (size_t i = 0; i < 8; i++)
		assert_true(file_exists(in(kept[i])));
}

static void listing_is_in_byte_order(void **state)
{
	(void)state;
	static const char *const sorted[] = {"10", "9", "B", "a", "\xc3\xa9"};
	for (int i = 4; i >= 0; i--)
		OK(file_publish(in(sorted[i]), "", 0));
	char **names;
	size_t count;
	OK(directory_list(directory, &names, &count));
	assert_int_equal(count, 5);
	for (size_t i = 0; i < 5; i++)
		assert_string_equal(names[i], sorted[i]);
	directory_list_free(names, count);
	assert_int_equal(directory_list(in("none"), &names, &count), STATUS_IO);
}

static void rename_syncs_the_directory(void **state)
{
	(void)state;
	OK(file_publish(in("a"), "1", 1));
	faulty_files_install();
	OK(file_rename(in("a"), in("b")));
	assert_string_equal(faults.log, "Rosc");
	assert_false(file_exists(in("a")));
	assert_content(in("b"), "1", 1);
	assert_int_equal(file_rename(in("a"), in("c")), STATUS_IO);
}

static void paths(void **state)
{
	(void)state;
	static const char *const cases[][3] = {
		{"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"/", "b", "/b"}, {".", "b", "./b"}};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		char *path;
		OK(path_join(&path, cases[i][0], cases[i][1]));
		assert_string_equal(path, cases[i][2]);
		free(path);
	}
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(publish_order),
		TEST(every_failure_leaves_old_or_new),
		TEST(killed_anywhere),
		TEST(interruptions_and_short_transfers),
		TEST(truncated_file_names_the_byte),
		TEST(read_all_limits),
		TEST(writer_pieces),
		TEST(maps),
		TEST(directories),
		TEST(temporaries_are_removed),
		TEST(listing_is_in_byte_order),
		TEST(rename_syncs_the_directory),
		TEST(paths),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
