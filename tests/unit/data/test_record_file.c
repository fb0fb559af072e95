/* Files of sorted records: what comes back, and that no damage passes. */
#include "data/record_file.h"

#include "tests/unit/faulty_files.h"
#include "tests/unit/scratch_folder.h"

#include <fcntl.h>

static const char *path;
static const struct hash128 job = {11, 22};

static uint64_t random_number(uint64_t *state)
{
	*state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return *state >> 33;
}

static void sorting(void **state)
{
	(void)state;
	uint64_t seed = 3;
	for (int width = 1; width <= RECORD_WIDTH; width++)
		for (size_t count = 0; count < 200; count += 7) {
			uint64_t records[200 * RECORD_WIDTH], old[200 * RECORD_WIDTH];
			size_t w = (size_t)width, bytes = w * 8;
			for (size_t i = 0; i < count * w; i++)
				old[i] = records[i] = random_number(&seed) % 4 << 62;
			size_t kept = records_sort(records, count, width);
			for (size_t i = 1; i < kept; i++) {
				int order = 0;
				for (size_t j = 0; j < w && !order; j++)
					order = (records[i * w + j] > records[(i - 1) * w + j]) -
						(records[i * w + j] < records[(i - 1) * w + j]);
				assert_int_equal(order, 1);
			}
			/* The same set. */
			for (size_t i = 0; i < count; i++) {
				size_t at = 0;
				while (at < kept && memcmp(records + at * w, old + i * w, bytes) != 0)
					at++;
				assert_true(at < kept);
			}
			for (size_t i = 0; i < kept; i++) {
				size_t at = 0;
				while (at < count && memcmp(old + at * w, records + i * w, bytes) != 0)
					at++;
				assert_true(at < count);
			}
		}
}

struct got {
	uint64_t *records;
	size_t count, width, runs;
	uint64_t first, last;
};

static enum status collect(void *user, uint64_t *records, size_t count)
{
	struct got *got = user;
	got->records = realloc(got->records, (got->count + count) * got->width * 8);
	memcpy(got->records + got->count * got->width, records, count * got->width * 8);
	got->count += count;
	return STATUS_OK;
}

/* Two lists; list 5 in two runs. `count` records each run, the first numbers 0, 10, 20, ... */
static enum status write_file(int width, size_t count)
{
	struct record_format format = {width, job};
	struct record_writer *writer;
	TRY(record_writer_open(path, &format, &writer));
	uint64_t *records = calloc(count * (size_t)width + 1, 8);
	enum status status = STATUS_OK;
	for (uint64_t run = 0; run < 3 && status == STATUS_OK; run++) {
		for (size_t i = 0; i < count; i++) {
			records[i * (size_t)width] = i * 10;
			records[i * (size_t)width + (size_t)width - 1] += run + (width == 1 ? i * 10 : 0);
		}
		status = record_writer_add(writer, run == 1 ? 9 : 5, records, count);
	}
	free(records);
	if (status == STATUS_OK)
		return record_writer_publish(writer, true);
	record_writer_abandon(writer);
	return status;
}

/* Adds all that the runs have; they ascend. */
static enum status collect_run(void *user, const struct record_run *run)
{
	struct got *got = user;
	struct record_cursor *cursor;
	struct record_format format = {(int)got->width, job};
	uint64_t last = 0;
	size_t count, before = got->count;
	const uint64_t *records;
	TRY(record_cursor_open(path, &format, run, got->first, got->last, &cursor));
	enum status status = record_cursor_next(cursor, &records, &count);
	while (status == STATUS_OK && count) {
		assert_true(got->count == before || records[0] > last);
		last = records[(count - 1) * got->width];
		uint64_t copy[RECORD_BLOCK * RECORD_WIDTH];
		memcpy(copy, records, count * got->width * 8);
		status = collect(got, copy, count);
		if (status == STATUS_OK)
			status = record_cursor_next(cursor, &records, &count);
	}
	got->runs++;
	record_cursor_close(cursor);
	return status;
}

static void ranges(void **state)
{
	(void)state;
	static const size_t counts[] = {0, 1, RECORD_BLOCK, RECORD_BLOCK + 1, 5000};
	static const uint64_t step; /* anything */
	static const uint64_t bounds[][2] = {{0, UINT64_MAX}, {0, 0}, {1, 9}, {10, 10}, {5, 25},
		{10235, 10240}, {20000, 40001}, {49990, 49990}, {50001, UINT64_MAX}};
	for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
		struct record_format format = {3, job};
		struct record_file *file;
		assert_int_equal(write_file(3, counts[c]), STATUS_OK);
		must(record_file_open(path, &format, &file));
		for (size_t b = 0; b < sizeof bounds / sizeof *bounds; b++) {
			uint64_t first = bounds[b][0], last = bounds[b][1];
			struct got got = {.width = 3, .first = first, .last = last}, runs = got, none = got;
			must(record_file_read(file, 5, first, last, collect, &got));
			must(record_file_runs(file, 5, first, last, collect_run, &runs));
			must(record_file_read(file, 4, first, last, collect, &none));
			must(record_file_runs(file, 4, first, last, collect_run, &none));
			assert_int_equal(none.count + none.runs, 0);
			size_t expected = 0;
			for (size_t i = 0; i < counts[c]; i++)
				expected += i * 10 >= first && i * 10 <= last;
			assert_int_equal(got.count, 2 * expected);
			for (size_t i = 0; i < got.count; i++) {
				assert_in_range(got.records[i * 3], first, last);
				assert_int_equal(got.records[i * 3 + 2], i < expected ? 0 : 3);
			}
			assert_int_equal(runs.count, got.count);
			assert_true(runs.runs <= 2 && runs.runs >= 2 * (expected > 0));
			assert_memory_equal(runs.records ? runs.records : &step,
				got.records ? got.records : &step, got.count * 24);
			free(got.records);
			free(runs.records);
		}
		record_file_close(file);
	}
}

/* A list in which one first number goes on for blocks: each of them is a run. */
static void equal_numbers_are_runs_of_their_own(void **state)
{
	(void)state;
	struct record_format format = {2, job};
	static uint64_t records[RECORD_BLOCK * 4][2];
	struct record_writer *writer;
	struct record_file *file;
	for (size_t i = 0; i < RECORD_BLOCK * 4; i++) {
		records[i][0] = i < RECORD_BLOCK * 3 ? 7 : 8;
		records[i][1] = i;
	}
	must(record_writer_open(path, &format, &writer));
	must(record_writer_add(writer, 3, records[0], RECORD_BLOCK * 4));
	must(record_writer_publish(writer, false));
	must(record_file_open(path, &format, &file));
	struct got got = {.width = 2, .last = UINT64_MAX};
	/* A cursor need not rise between blocks of equal first numbers, so no run has two of them. */
	must(record_file_runs(file, 3, 0, UINT64_MAX, collect_run, &got));
	assert_int_equal(got.runs, 3);
	assert_int_equal(got.count, RECORD_BLOCK * 4);
	assert_memory_equal(got.records, records, sizeof records);
	free(got.records);
	record_file_close(file);
}

static enum status read_lists(const struct record_file *file, struct got *got)
{
	for (uint64_t list = 5; list <= 9; list += 4) {
		TRY(record_file_read(file, list, 0, UINT64_MAX, collect, got));
		TRY(record_file_runs(file, list, 0, UINT64_MAX, collect_run, got));
	}
	return STATUS_OK;
}

static enum status read_all(const struct record_format *format)
{
	struct got got = {.width = (size_t)format->width, .last = UINT64_MAX};
	struct record_file *file;
	enum status checked = record_file_check(path, format);
	enum status status = record_file_open(path, format, &file);
	if (status == STATUS_OK) {
		status = read_lists(file, &got);
		record_file_close(file);
	}
	assert_true(checked == status || (status != STATUS_CORRUPT && checked != STATUS_CORRUPT));
	free(got.records);
	return status == STATUS_OK ? checked : status;
}

static void every_damage_is_found(void **state)
{
	(void)state;
	struct record_format format = {2, job};
	char *data;
	size_t bytes;
	assert_int_equal(write_file(2, 7), STATUS_OK);
	assert_int_equal(file_read_all(path, 1 << 20, &data, &bytes), STATUS_OK);
	int fd = open(path, O_WRONLY);
	assert_true(fd >= 0);
	for (size_t bit = 0; bit < bytes * 8; bit++) {
		char flipped = (char)(data[bit / 8] ^ 1 << bit % 8);
		assert_int_equal(pwrite(fd, &flipped, 1, (off_t)(bit / 8)), 1);
		assert_int_equal(read_all(&format), STATUS_CORRUPT);
		assert_non_null(strstr(error_message(), path));
		assert_int_equal(pwrite(fd, &data[bit / 8], 1, (off_t)(bit / 8)), 1);
	}
	assert_int_equal(read_all(&format), STATUS_OK);
	for (size_t length = bytes; length-- > 0;) {
		assert_int_equal(ftruncate(fd, (off_t)length), 0);
		assert_int_equal(read_all(&format), STATUS_CORRUPT);
	}
	assert_int_equal(close(fd), 0);
	assert_int_equal(file_publish(path, data, bytes), STATUS_OK);
	assert_int_equal(read_all(&format), STATUS_OK);
	format.width = 3;
	assert_int_equal(read_all(&format), STATUS_CORRUPT);
	format = (struct record_format){2, {11, 23}};
	assert_int_equal(read_all(&format), STATUS_CORRUPT);
	assert_non_null(strstr(error_message(), "another job"));
	free(data);
}

static enum status write_and_read(void)
{
	struct record_format format = {2, job};
	TRY(write_file(2, 2000));
	return read_all(&format);
}

static void failures(void **state)
{
	(void)state;
	struct record_format format = {2, job};
	assert_in_range(refuse_memory(write_and_read), 4, 19);
	assert_in_range(fail_each_call(EIO, write_and_read), 8, 59);
	assert_int_equal(directory_remove_temporaries(root), STATUS_OK);
	assert_int_equal(file_remove(path), STATUS_OK);
	assert_int_equal(read_all(&format), STATUS_IO);
}

static int begin(void **state)
{
	int result = scratch_make(state);
	path = in_root("records");
	return result;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sorting),
		cmocka_unit_test(ranges),
		cmocka_unit_test(equal_numbers_are_runs_of_their_own),
		cmocka_unit_test(every_damage_is_found),
		cmocka_unit_test(failures),
	};
	return cmocka_run_group_tests(tests, begin, scratch_remove);
}
