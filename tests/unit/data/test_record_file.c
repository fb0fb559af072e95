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
	size_t count, width;
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

static void ranges(void **state)
{
	(void)state;
	static const size_t counts[] = {0, 1, RECORD_BLOCK, RECORD_BLOCK + 1, 5000};
	static const uint64_t bounds[][2] = {{0, UINT64_MAX}, {0, 0}, {1, 9}, {10, 10}, {5, 25},
		{10235, 10240}, {20000, 40001}, {49990, 49990}, {50001, UINT64_MAX}};
	for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
		struct record_format format = {3, job};
		uint64_t number;
		assert_int_equal(write_file(3, counts[c]), STATUS_OK);
		assert_int_equal(record_file_count(path, &format, 5, &number), STATUS_OK);
		assert_int_equal(number, 2 * counts[c]);
		assert_int_equal(record_file_count(path, &format, 4, &number), STATUS_OK);
		assert_int_equal(number, 0);
		for (size_t b = 0; b < sizeof bounds / sizeof *bounds; b++) {
			struct got got = {.width = 3};
			uint64_t first = bounds[b][0], last = bounds[b][1];
			assert_int_equal(
				record_file_read(path, &format, 5, first, last, collect, &got), STATUS_OK);
			size_t expected = 0;
			for (size_t i = 0; i < counts[c]; i++)
				expected += i * 10 >= first && i * 10 <= last;
			assert_int_equal(got.count, 2 * expected);
			for (size_t i = 0; i < got.count; i++) {
				assert_in_range(got.records[i * 3], first, last);
				assert_int_equal(got.records[i * 3 + 2], i < expected ? 0 : 3);
			}
			free(got.records);
		}
	}
}

static enum status read_all(const struct record_format *format)
{
	struct got got = {.width = (size_t)format->width};
	enum status status = STATUS_OK;
	for (uint64_t list = 5; list <= 9 && status == STATUS_OK; list += 4)
		status = record_file_read(path, format, list, 0, UINT64_MAX, collect, &got);
	free(got.records);
	return status;
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
		cmocka_unit_test(every_damage_is_found),
		cmocka_unit_test(failures),
	};
	return cmocka_run_group_tests(tests, begin, scratch_remove);
}
