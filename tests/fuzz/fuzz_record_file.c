/*
 * Reading files of records (data/record_file.h). First byte, bit 0: the input is the file, else it is a u16, the
 * index's length, and the file without its trailer: the trailer and the hashes are put in; bits 1-2: the width.
 */
#include "common/endian.h"
#include "data/record_file.h"
#include "tests/fuzz/fuzz.h"

enum { ENTRY = 40, TRAILER = 56 };
static const struct hash128 job = {UINT64_C(0x1122334455667788), UINT64_C(0x99aabbccddeeff00)};

static void write_mended(struct fuzz_input input, int width)
{
	size_t index_bytes = fuzz_take(&input, 2) / ENTRY * ENTRY, bytes = input.bytes, at = 0;
	if (index_bytes > bytes)
		index_bytes = bytes / ENTRY * ENTRY;
	uint8_t *file = malloc(bytes + TRAILER);
	CHECK(file, "no memory");
	memcpy(file, input.data, bytes);
	uint8_t *index = file + bytes - index_bytes, *trailer = file + bytes;
	for (uint8_t *entry = index; entry < trailer; entry += ENTRY) {
		uint64_t records = load_le64(entry + 24);
		if (records > RECORD_BLOCK || at + records * (size_t)width * 8 > bytes - index_bytes)
			break;
		store_le64(entry + 32, hash64(file + at, records * (size_t)width * 8));
		at += records * (size_t)width * 8;
	}
	store_le64(trailer, (uint64_t)width);
	store_le64(trailer + 8, index_bytes / ENTRY);
	store_le64(trailer + 16, hash64(index, index_bytes));
	store_le64(trailer + 24, 0);
	store_le64(trailer + 32, job.high);
	store_le64(trailer + 40, job.low);
	memcpy(trailer + 48, "FERRYREC", 8);
	fuzz_write("records", file, bytes + TRAILER);
	free(file);
}

struct visit {
	struct record_format format;
	uint64_t first, last, count, sum;
};

static enum status visit(void *user, uint64_t *records, size_t count)
{
	struct visit *seen = user;
	CHECK(count >= 1 && count <= RECORD_BLOCK, "%zu records", count);
	seen->count += count;
	for (size_t i = 0; i < count * (size_t)seen->format.width; i++)
		seen->sum += records[i]++; /* they may be changed */
	return STATUS_OK;
}

static enum status visit_run(void *user, const struct record_run *run)
{
	struct visit *seen = user;
	struct record_cursor *cursor;
	const uint64_t *records;
	size_t count = 1;
	CHECK(run->blocks, "a run of nothing");
	TRY(record_cursor_open(fuzz_path("records"), &seen->format, run, seen->first, seen->last, &cursor));
	enum status status = STATUS_OK;
	while (status == STATUS_OK && count) {
		status = record_cursor_next(cursor, &records, &count);
		for (size_t i = 0; status == STATUS_OK && i < count * (size_t)seen->format.width; i++)
			seen->sum += records[i];
		seen->count += status == STATUS_OK ? count : 0;
	}
	record_cursor_close(cursor);
	return status;
}

/* Both ways to read a part of a list find the same. */
static void read_part(const struct record_file *file, struct record_format format, uint64_t list,
	uint64_t first, uint64_t last, uint64_t most)
{
	struct visit at_once = {format, first, last, 0, 0}, by_runs = at_once;
	enum status read = record_file_read(file, list, first, last, visit, &at_once);
	enum status merged = record_file_runs(file, list, first, last, visit_run, &by_runs);
	CHECK(read == merged, "read: %d, by runs: %d", read, merged);
	CHECK(read == STATUS_OK || strstr(error_message(), "records"), "names no file: %s", error_message());
	CHECK(read != STATUS_OK || (at_once.count == by_runs.count && at_once.sum == by_runs.sum),
		"by runs there are other records");
	CHECK(read != STATUS_OK || at_once.count <= most, "more in a part than in all");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	struct fuzz_input input = {data, bytes};
	uint32_t mode = fuzz_take(&input, 1);
	struct record_format format = {1 + (int)(mode >> 1 & 3) % RECORD_WIDTH, job};
	struct record_file *file;
	if (mode & 1)
		fuzz_write("records", input.data, input.bytes);
	else
		write_mended(input, format.width);
	enum status status = record_file_open(fuzz_path("records"), &format, &file);
	if (status != STATUS_OK) {
		CHECK(strstr(error_message(), "records"), "names no file: %s", error_message());
		return 0;
	}
	for (uint64_t list = 0; list < 2; list++) {
		read_part(file, format, list, 0, UINT64_MAX, UINT64_MAX);
		read_part(file, format, list, 100, UINT64_C(1) << 60, bytes / 8);
	}
	record_file_close(file);
	CHECK(record_file_check(fuzz_path("records"), &format) != STATUS_IO, "%s", error_message());
	return 0;
}
