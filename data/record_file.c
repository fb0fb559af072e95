#include "data/record_file.h"

#include "common/endian.h"
#include "common/file.h"
#include "common/memory.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { ENTRY_BYTES = 40, TRAILER_BYTES = 56 };
static const char magic[8] = {'F', 'E', 'R', 'R', 'Y', 'R', 'E', 'C'};

/* ---- order ---- */

static int compare_numbers(const uint64_t *a, const uint64_t *b, int width)
{
	for (int i = 0; i < width; i++)
		if (a[i] != b[i])
			return a[i] < b[i] ? -1 : 1;
	return 0;
}

static int compare_1(const void *a, const void *b)
{
	return compare_numbers(a, b, 1);
}

static int compare_2(const void *a, const void *b)
{
	return compare_numbers(a, b, 2);
}

static int compare_3(const void *a, const void *b)
{
	return compare_numbers(a, b, 3);
}

size_t records_sort(uint64_t *records, size_t count, int width)
{
	static int (*const compare[])(const void *, const void *) = {compare_1, compare_2, compare_3};
	size_t numbers = (size_t)width, kept = 0;
	if (count)
		qsort(records, count, numbers * sizeof *records, compare[width - 1]);
	for (size_t i = 0; i < count; i++) {
		const uint64_t *record = records + i * numbers;
		if (kept && compare_numbers(record - numbers, record, width) == 0)
			continue;
		if (kept != i)
			memcpy(records + kept * numbers, record, numbers * sizeof *records);
		kept++;
	}
	return kept;
}

/* ---- writing ---- */

struct record_writer {
	struct record_format format;
	struct file_writer *file;
	uint8_t *index; /* [blocks][ENTRY_BYTES] */
	size_t blocks, capacity;
};

enum status record_writer_open(
	const char *path, const struct record_format *format, struct record_writer **out)
{
	assert(format->width >= 1 && format->width <= RECORD_WIDTH);
	TRY(memory_alloc((void **)out, 1, sizeof **out, "a file of records"));
	(*out)->format = *format;
	enum status status = file_writer_open(path, &(*out)->file);
	if (status != STATUS_OK) {
		free(*out);
		*out = NULL;
	}
	return status;
}

static enum status write_block(
	struct record_writer *writer, uint64_t list, const uint64_t *records, size_t count)
{
	size_t width = (size_t)writer->format.width, bytes = count * width * sizeof *records;
	TRY(memory_grow((void **)&writer->index, &writer->capacity, writer->blocks + 1, ENTRY_BYTES,
		"an index of records"));
	uint8_t *entry = writer->index + writer->blocks++ * ENTRY_BYTES;
	store_le64(entry, list);
	store_le64(entry + 8, records[0]);
	store_le64(entry + 16, records[(count - 1) * width]);
	store_le64(entry + 24, count);
	store_le64(entry + 32, hash64(records, bytes));
	return file_writer_write(writer->file, records, bytes);
}

enum status record_writer_add(
	struct record_writer *writer, uint64_t list, const uint64_t *records, size_t count)
{
	for (size_t at = 0; at < count; at += RECORD_BLOCK)
		TRY(write_block(writer, list, records + at * (size_t)writer->format.width,
			count - at < RECORD_BLOCK ? count - at : RECORD_BLOCK));
	return STATUS_OK;
}

static void writer_free(struct record_writer *writer)
{
	free(writer->index);
	free(writer);
}

static enum status write_index(struct record_writer *writer)
{
	uint8_t trailer[TRAILER_BYTES] = {0};
	size_t bytes = writer->blocks * ENTRY_BYTES;
	store_le64(trailer, (uint64_t)writer->format.width);
	store_le64(trailer + 8, writer->blocks);
	store_le64(trailer + 16, hash64(writer->index, bytes));
	store_le64(trailer + 32, writer->format.job.high);
	store_le64(trailer + 40, writer->format.job.low);
	memcpy(trailer + 48, magic, sizeof magic);
	TRY(file_writer_write(writer->file, writer->index, bytes));
	return file_writer_write(writer->file, trailer, sizeof trailer);
}

enum status record_writer_publish(struct record_writer *writer, bool durable)
{
	enum status status = write_index(writer);
	if (status == STATUS_OK)
		status = durable ? file_writer_publish(writer->file)
				 : file_writer_publish_unsynced(writer->file);
	else
		file_writer_abandon(writer->file);
	writer_free(writer);
	return status;
}

void record_writer_abandon(struct record_writer *writer)
{
	if (!writer)
		return;
	file_writer_abandon(writer->file);
	writer_free(writer);
}

/* ---- reading ---- */

/* An open file, its index checked and in memory. */
struct record_file {
	const char *path;
	int fd;
	const struct record_format *format;
	uint8_t *index;
	uint64_t blocks;
};

static enum status damaged(const struct record_file *file, const char *what)
{
	return error_set(STATUS_CORRUPT,
		"%s: %s; remove this file and run the same command again: it will be made anew", file->path,
		what);
}

static uint64_t record_bytes(const struct record_file *file)
{
	return (uint64_t)file->format->width * 8;
}

/* The blocks must fill the file up to its index. */
static enum status check_index(const struct record_file *file, uint64_t end)
{
	uint64_t at = 0;
	for (uint64_t i = 0; i < file->blocks; i++) {
		uint64_t records = load_le64(file->index + i * ENTRY_BYTES + 24);
		if (records < 1 || records > RECORD_BLOCK)
			return damaged(file, "has a damaged index");
		at += records * record_bytes(file);
	}
	return at == end ? STATUS_OK : damaged(file, "has a damaged index");
}

static enum status read_index(struct record_file *file)
{
	struct stat info;
	uint8_t trailer[TRAILER_BYTES];
	TRY(file_stat(file->path, &info));
	uint64_t size = (uint64_t)info.st_size;
	if (size < TRAILER_BYTES)
		return damaged(file, "is shorter than a file of records");
	TRY(file_read_at(file->fd, file->path, trailer, sizeof trailer, size - TRAILER_BYTES));
	if (memcmp(trailer + 48, magic, sizeof magic) != 0)
		return damaged(file, "does not end as a file of records");
	if (load_le64(trailer + 32) != file->format->job.high ||
		load_le64(trailer + 40) != file->format->job.low)
		return damaged(file, "belongs to another job");
	file->blocks = load_le64(trailer + 8);
	if (load_le64(trailer) != (uint64_t)file->format->width || load_le64(trailer + 24) != 0 ||
		file->blocks > (size - TRAILER_BYTES) / ENTRY_BYTES)
		return damaged(file, "has a damaged trailer");
	uint64_t bytes = file->blocks * ENTRY_BYTES, end = size - TRAILER_BYTES - bytes;
	TRY(memory_alloc((void **)&file->index, file->blocks, ENTRY_BYTES, "an index of records"));
	TRY(file_read_at(file->fd, file->path, file->index, bytes, end));
	if (hash64(file->index, bytes) != load_le64(trailer + 16))
		return damaged(file, "has a damaged index");
	return check_index(file, end);
}

static void close_file(struct record_file *file)
{
	free(file->index);
	(void)file_system->close(file->fd); /* only read: closing it cannot lose anything */
}

static enum status open_file(const char *path, const struct record_format *format, struct record_file *file)
{
	*file = (struct record_file){.path = path, .format = format};
	TRY(file_open_read(path, &file->fd));
	enum status status = read_index(file);
	if (status != STATUS_OK)
		close_file(file);
	return status;
}

enum status record_file_count(
	const char *path, const struct record_format *format, uint64_t list, uint64_t *records)
{
	struct record_file file;
	*records = 0;
	TRY(open_file(path, format, &file));
	for (uint64_t i = 0; i < file.blocks; i++)
		if (load_le64(file.index + i * ENTRY_BYTES) == list)
			*records += load_le64(file.index + i * ENTRY_BYTES + 24);
	close_file(&file);
	return STATUS_OK;
}

/* What is read, and for whom. */
struct reading {
	uint64_t list, first, last;
	record_visitor *visitor;
	void *user;
	uint64_t *block; /* [RECORD_BLOCK][width] */
};

static enum status read_block(
	const struct record_file *file, const uint8_t *entry, uint64_t offset, const struct reading *reading)
{
	size_t width = (size_t)file->format->width, count = load_le64(entry + 24), begin = 0, end = count;
	size_t bytes = count * width * sizeof *reading->block;
	TRY(file_read_at(file->fd, file->path, reading->block, bytes, offset));
	if (hash64(reading->block, bytes) != load_le64(entry + 32))
		return damaged(file, "has a block that its hash does not match");
	while (begin < end && reading->block[begin * width] < reading->first)
		begin++;
	while (end > begin && reading->block[(end - 1) * width] > reading->last)
		end--;
	return begin == end ? STATUS_OK
			    : reading->visitor(reading->user, reading->block + begin * width, end - begin);
}

static enum status read_blocks(const struct record_file *file, const struct reading *reading)
{
	uint64_t offset = 0;
	for (uint64_t i = 0; i < file->blocks; i++) {
		const uint8_t *entry = file->index + i * ENTRY_BYTES;
		if (load_le64(entry) == reading->list && load_le64(entry + 8) <= reading->last &&
			load_le64(entry + 16) >= reading->first)
			TRY(read_block(file, entry, offset, reading));
		offset += load_le64(entry + 24) * record_bytes(file);
	}
	return STATUS_OK;
}

enum status record_file_read(const char *path, const struct record_format *format, uint64_t list,
	uint64_t first, uint64_t last, record_visitor *visitor, void *user)
{
	struct record_file file;
	struct reading reading = {list, first, last, visitor, user, NULL};
	TRY(open_file(path, format, &file));
	enum status status = memory_alloc((void **)&reading.block, RECORD_BLOCK * (size_t)format->width,
		sizeof *reading.block, "a block of records");
	if (status == STATUS_OK)
		status = read_blocks(&file, &reading);
	free(reading.block);
	close_file(&file);
	return status;
}
