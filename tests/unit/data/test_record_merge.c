/* Merging runs of records against sorting all of them: any number of files, runs, and runs at once. */
#include "data/record_merge.h"

#include "tests/unit/faulty_files.h"
#include "tests/unit/scratch_folder.h"

enum { MOST = 20000, FILES = 40, BLOCKS = 3 };

static const struct hash128 job = {5, 6};
static uint64_t all[MOST * RECORD_WIDTH];
static size_t count;
static int width;
static char input_name[] = "in";

static uint64_t random_number(uint64_t *state)
{
	*state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return *state >> 33;
}

static void path_of(void *user, size_t file, char out[RECORD_PATH])
{
	snprintf(out, RECORD_PATH, "%s/%s-%zu", root, (const char *)user, file);
}

/* A run of random records to list 1 of a file, and to `all` those whose first number is in [first, last]; others to
 * list 0 and 2. */
static void write_run(
	struct record_writer *writer, uint64_t *seed, uint64_t values, uint64_t first, uint64_t last)
{
	static uint64_t run[BLOCKS * RECORD_BLOCK * RECORD_WIDTH];
	size_t n = random_number(seed) % 4 ? random_number(seed) % 50
					   : random_number(seed) % (BLOCKS * RECORD_BLOCK);
	n = n < MOST - count ? n : MOST - count;
	size_t w = (size_t)width;
	for (size_t i = 0; i < n * w; i++)
		run[i] = random_number(seed) % values * (i % w ? 1 : UINT64_C(1) << 40);
	n = records_sort(run, n, width);
	must(record_writer_add(writer, 0, run, n));
	must(record_writer_add(writer, 1, run, n));
	must(record_writer_add(writer, 2, run, n));
	for (size_t i = 0; i < n; i++)
		if (run[i * w] >= first && run[i * w] <= last)
			memcpy(all + count++ * w, run + i * w, w * 8);
}

static void write_files(uint64_t *seed, size_t files, uint64_t values, uint64_t first, uint64_t last)
{
	struct record_format format = {width, job};
	char path[RECORD_PATH];
	count = 0;
	for (size_t f = 0; f < files; f++) {
		struct record_writer *writer;
		path_of(input_name, f, path);
		must(record_writer_open(path, &format, &writer));
		for (uint64_t runs = random_number(seed) % 4; runs; runs--)
			write_run(writer, seed, values, first, last);
		must(record_writer_publish(writer, false));
	}
	count = records_sort(all, count, width);
}

struct got {
	uint64_t records[MOST * RECORD_WIDTH];
	size_t count;
};

static enum status collect(void *user, uint64_t *records, size_t n)
{
	struct got *got = user;
	assert_true(got->count + n <= MOST);
	memcpy(got->records + got->count * (size_t)width, records, n * (size_t)width * 8);
	got->count += n;
	return STATUS_OK;
}

static enum status merge_to(const struct record_merge *merge, const char *path)
{
	struct record_writer *writer;
	TRY(record_writer_open(path, &merge->format, &writer));
	enum status status = record_merge_run(merge, writer);
	if (status == STATUS_OK)
		return record_writer_publish(writer, false);
	record_writer_abandon(writer);
	return status;
}

static void expect_records(const struct record_format *format, const char *path)
{
	static struct got got;
	struct record_file *file;
	got.count = 0;
	must(record_file_open(path, format, &file));
	must(record_file_read(file, 0, 0, UINT64_MAX, collect, &got));
	record_file_close(file);
	assert_int_equal(got.count, count);
	assert_memory_equal(got.records, all, count * (size_t)width * 8);
}

static void expect_nothing_between(void)
{
	char **names;
	size_t files;
	must(directory_list(root, &names, &files));
	for (size_t n = 0; n < files; n++)
		assert_null(strstr(names[n], "between"));
	directory_list_free(names, files);
}

static void sorted_as_a_whole(void **state)
{
	(void)state;
	static const uint64_t values[] = {1, 2, 40, UINT64_C(1) << 24};
	uint64_t seed = 5;
	for (int i = 0; i < 60; i++) {
		width = 1 + i % RECORD_WIDTH;
		uint64_t first = i % 5 ? 0 : random_number(&seed) << 30,
			 last = i % 7 ? UINT64_MAX : first + (UINT64_C(1) << 63);
		struct record_merge merge = {.format = {width, job},
			.list = 1,
			.first = first,
			.last = last,
			.files = (size_t)random_number(&seed) % FILES,
			.path = path_of,
			.between = in_root("between"),
			.most = 2 + (size_t)(random_number(&seed) % (i % 2 ? 4 : 200)),
			.user = input_name};
		write_files(&seed, merge.files, values[i % 4], first, last);
		must(merge_to(&merge, in_root("out")));
		expect_records(&merge.format, in_root("out"));
		expect_nothing_between();
	}
}

/* One first number throughout: files between have no runs to speak of, and it ends all the same. */
static void one_first_number(void **state)
{
	(void)state;
	struct record_format format = {2, job};
	struct record_writer *writer;
	char path[RECORD_PATH];
	width = 2;
	count = 5 * RECORD_BLOCK * 3;
	for (size_t i = 0; i < count; i++) {
		all[i * 2] = 77;
		all[i * 2 + 1] = i;
	}
	path_of(input_name, 0, path);
	must(record_writer_open(path, &format, &writer));
	must(record_writer_add(writer, 0, all, count));
	must(record_writer_publish(writer, false));
	struct record_merge merge = {.format = format,
		.last = UINT64_MAX,
		.files = 1,
		.path = path_of,
		.between = in_root("between"),
		.most = 2,
		.user = input_name};
	must(merge_to(&merge, in_root("out")));
	expect_records(&format, in_root("out"));
}

/* ---- filters ---- */

struct filtering {
	char *name;       /* for path_of */
	uint64_t dropped; /* sum of second numbers */
	uint64_t left;    /* records, before fail_later fails */
};

static void path_of_filtering(void *user, size_t file, char out[RECORD_PATH])
{
	path_of(((struct filtering *)user)->name, file, out);
}

/* The first record of each first number stays. */
static enum status keep_first(void *user, const uint64_t *previous, const uint64_t *record, bool *keep)
{
	struct filtering *filtering = user;
	assert_true(!previous || records_compare(previous, record, 2) < 0);
	*keep = !previous || previous[0] != record[0];
	filtering->dropped += *keep ? 0 : record[1];
	return STATUS_OK;
}

static enum status fail_later(void *user, const uint64_t *previous, const uint64_t *record, bool *keep)
{
	struct filtering *filtering = user;
	(void)previous, (void)record, (void)keep;
	return filtering->left-- ? STATUS_OK : error_set(STATUS_INTERRUPTED, "enough");
}

static void filtered(void **state)
{
	(void)state;
	struct filtering filtering = {.name = input_name};
	struct record_merge merge = {.format = {2, job},
		.list = 1,
		.last = UINT64_MAX,
		.files = FILES,
		.path = path_of_filtering,
		.between = in_root("between"),
		.filter = keep_first,
		.user = &filtering};
	uint64_t seed = 9, dropped = 0;
	width = 2;
	write_files(&seed, merge.files, 50, 0, UINT64_MAX);
	size_t kept = 0, seen = count;
	for (size_t i = 0; i < count; i++) {
		if (kept && all[(kept - 1) * 2] == all[i * 2])
			dropped += all[i * 2 + 1];
		else
			memmove(all + kept++ * 2, all + i * 2, 16);
	}
	count = kept;
	assert_in_range(count, 20, 50);
	/* At once every record that is dropped is seen once; in steps, one that other runs have too, perhaps more often. */
	merge.most = 1000;
	must(merge_to(&merge, in_root("out")));
	assert_int_equal(filtering.dropped, dropped);
	expect_records(&merge.format, in_root("out"));
	merge.most = 2;
	must(merge_to(&merge, in_root("out")));
	assert_true(filtering.dropped >= 2 * dropped);
	expect_records(&merge.format, in_root("out"));
	filtering.dropped = 0;
	merge.most = 1000;
	must(record_merge_run(&merge, NULL));
	assert_int_equal(filtering.dropped, dropped);
	/* In the first merge, and when there are files between. */
	merge.filter = fail_later;
	merge.most = 3;
	for (uint64_t records = 0; records <= seen; records += seen / 4) {
		filtering.left = records;
		assert_int_equal(record_merge_run(&merge, NULL), STATUS_INTERRUPTED);
		assert_string_equal(error_message(), "enough");
		expect_nothing_between();
	}
}

/* ---- failures ---- */

static enum status merge_in_steps(void)
{
	struct record_merge merge = {.format = {2, job},
		.list = 1,
		.last = UINT64_MAX,
		.files = 6,
		.path = path_of,
		.between = in_root("between"),
		.most = 3,
		.user = input_name};
	return merge_to(&merge, in_root("out"));
}

static void failures(void **state)
{
	(void)state;
	uint64_t seed = 1;
	struct record_format format = {2, job};
	width = 2;
	write_files(&seed, 6, UINT64_C(1) << 20, 0, UINT64_MAX);
	assert_in_range(refuse_memory(merge_in_steps), 20, 500);
	assert_in_range(fail_each_call(EIO, merge_in_steps), 30, 2000);
	expect_records(&format, in_root("out"));
	must(file_publish(in_root("in-4"), "rubbish", 7));
	assert_int_equal(merge_in_steps(), STATUS_CORRUPT);
	assert_non_null(strstr(error_message(), "in-4"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sorted_as_a_whole),
		cmocka_unit_test(one_first_number),
		cmocka_unit_test(filtered),
		cmocka_unit_test(failures),
	};
	return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
