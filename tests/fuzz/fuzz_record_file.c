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
	int width;
	uint64_t count, sum;
};

static enum status visit(void *user, uint64_t *records, size_t count)
{
	struct visit *seen = user;
	CHECK(count >= 1 && count <= RECORD_BLOCK, "%zu records", count);
	seen->count += count;
	for (size_t i = 0; i < count * (size_t)seen->width; i++)
		seen->sum += records[i]++; /* they may be changed */
	return STATUS_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	struct fuzz_input input = {data, bytes};
	uint32_t mode = fuzz_take(&input, 1);
	struct record_format format = {1 + (int)(mode >> 1 & 3) % RECORD_WIDTH, job};
	if (mode & 1)
		fuzz_write("records", input.data, input.bytes);
	else
		write_mended(input, format.width);
	const char *path = fuzz_path("records");
	for (uint64_t list = 0; list < 2; list++) {
		struct visit all = {format.width, 0, 0}, some = {format.width, 0, 0};
		uint64_t count;
		enum status counted = record_file_count(path, &format, list, &count);
		CHECK(counted == STATUS_OK || strstr(error_message(), "records"), "names no file: %s",
			error_message());
		enum status status = record_file_read(path, &format, list, 0, UINT64_MAX, visit, &all);
		CHECK(counted == STATUS_OK || status != STATUS_OK, "read, but not counted");
		CHECK(status != STATUS_OK || all.count == count, "%u records", (unsigned)all.count);
		if (record_file_read(path, &format, list, 100, UINT64_C(1) << 60, visit, &some) ==
				STATUS_OK &&
			status == STATUS_OK)
			CHECK(some.count <= count, "more in a part than in all");
	}
	return 0;
}
