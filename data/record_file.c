#include "data/record_file.h"

#include "common/endian.h"
#include "common/file.h"
#include "common/memory.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { ENTRY_BYTES = 40, TRAILER_BYTES = 56, WINDOW = 64 /* entries of the index */ };
static const char magic[8] = {'F', 'E', 'R', 'R', 'Y', 'R', 'E', 'C'};

/* ---- order ---- */

static int compare_1(const void *a, const void *b)
{
	return records_compare(a, b, 1);
}

static int compare_2(const void *a, const void *b)
{
	return records_compare(a, b, 2);
}

static int compare_3(const void *a, const void *b)
{
	return records_compare(a, b, 3);
}

size_t records_sort(uint64_t *records, size_t count, int width)
{
	static int (*const compare[])(const void *, const void *) = {compare_1, compare_2, compare_3};
	size_t numbers = (size_t)width, kept = 0;
	if (count)
		qsort(records, count, numbers * sizeof *records, compare[width - 1]);
	for (size_t i = 0; i < count; i++) {
		const uint64_t *record = records + i * numbers;
		if (kept && records_compare(record - numbers, record, numbers) == 0)
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

/* ---- opening ---- */

struct record_file {
	char *path;
	int fd;
	struct record_format format;
	uint8_t *index; /* [blocks][ENTRY_BYTES]; NULL: a cursor's */
	uint64_t blocks;
	uint64_t index_at; /* byte of the file */
};

static enum status damaged(const struct record_file *file, const char *what)
{
	return error_set(STATUS_CORRUPT,
		"%s: %s; remove this file and run the same command again: it will be made anew", file->path,
		what);
}

static uint64_t record_bytes(const struct record_file *file)
{
	return (uint64_t)file->format.width * 8;
}

/* The blocks must fill the file up to its index. */
static enum status check_index(const struct record_file *file)
{
	uint64_t at = 0;
	for (uint64_t i = 0; i < file->blocks; i++) {
		uint64_t records = load_le64(file->index + i * ENTRY_BYTES + 24);
		if (records < 1 || records > RECORD_BLOCK)
			return damaged(file, "has a damaged index");
		at += records * record_bytes(file);
	}
	return at == file->index_at ? STATUS_OK : damaged(file, "has a damaged index");
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
	if (load_le64(trailer + 32) != file->format.job.high ||
		load_le64(trailer + 40) != file->format.job.low)
		return damaged(file, "belongs to another job");
	file->blocks = load_le64(trailer + 8);
	if (load_le64(trailer) != (uint64_t)file->format.width || load_le64(trailer + 24) != 0 ||
		file->blocks > (size - TRAILER_BYTES) / ENTRY_BYTES)
		return damaged(file, "has a damaged trailer");
	uint64_t bytes = file->blocks * ENTRY_BYTES;
	file->index_at = size - TRAILER_BYTES - bytes;
	TRY(memory_alloc((void **)&file->index, file->blocks, ENTRY_BYTES, "an index of records"));
	TRY(file_read_at(file->fd, file->path, file->index, bytes, file->index_at));
	if (hash64(file->index, bytes) != load_le64(trailer + 16))
		return damaged(file, "has a damaged index");
	return check_index(file);
}

/* Sets `file`, which is zeroed; to be closed in every case. */
static enum status open_file(struct record_file *file, const char *path, const struct record_format *format)
{
	file->fd = -1;
	file->format = *format;
	file->path = strdup(path);
	FAIL_IF(!file->path, STATUS_MEMORY, "no memory for a path");
	return file_open_read(path, &file->fd);
}

static void close_file(struct record_file *file)
{
	if (file->fd >= 0)
		(void)file_system->close(file->fd); /* only read: closing it cannot lose anything */
	free(file->index);
	free(file->path);
}

enum status record_file_open(const char *path, const struct record_format *format, struct record_file **out)
{
	struct record_file *file;
	*out = NULL;
	TRY(memory_alloc((void **)&file, 1, sizeof *file, "a file of records"));
	enum status status = open_file(file, path, format);
	if (status == STATUS_OK)
		status = read_index(file);
	if (status != STATUS_OK) {
		record_file_close(file);
		return status;
	}
	*out = file;
	return STATUS_OK;
}

void record_file_close(struct record_file *file)
{
	if (!file)
		return;
	close_file(file);
	free(file);
}

const char *record_file_path(const struct record_file *file)
{
	return file->path;
}

/* ---- reading ---- */

/* What is asked for. */
struct wanted {
	uint64_t list, first, last;
};

static bool reaches_into(const uint8_t *entry, const struct wanted *wanted)
{
	return load_le64(entry) == wanted->list && load_le64(entry + 8) <= wanted->last &&
	       load_le64(entry + 16) >= wanted->first;
}

/* A block's records [*begin, *end) are those whose first number is in [first, last]. */
static enum status read_block(const struct record_file *file, const uint8_t *entry, uint64_t offset,
	uint64_t first, uint64_t last, uint64_t *block /* [RECORD_BLOCK][width] */, size_t *begin,
	size_t *end)
{
	size_t width = (size_t)file->format.width, count = load_le64(entry + 24);
	size_t bytes = count * width * sizeof *block;
	*begin = 0;
	*end = count;
	TRY(file_read_at(file->fd, file->path, block, bytes, offset));
	if (hash64(block, bytes) != load_le64(entry + 32))
		return damaged(file, "has a block that its hash does not match");
	while (*begin < *end && block[*begin * width] < first)
		++*begin;
	while (*end > *begin && block[(*end - 1) * width] > last)
		--*end;
	return STATUS_OK;
}

/* `wanted` NULL: all blocks, of any list. */
static enum status read_blocks(const struct record_file *file, const struct wanted *wanted, uint64_t *block,
	record_visitor *visitor, void *user)
{
	uint64_t offset = 0, first = wanted ? wanted->first : 0, last = wanted ? wanted->last : UINT64_MAX;
	for (uint64_t i = 0; i < file->blocks; i++) {
		const uint8_t *entry = file->index + i * ENTRY_BYTES;
		if (!wanted || reaches_into(entry, wanted)) {
			size_t begin, end;
			TRY(read_block(file, entry, offset, first, last, block, &begin, &end));
			if (visitor && begin < end)
				TRY(visitor(user, block + begin * (size_t)file->format.width, end - begin));
		}
		offset += load_le64(entry + 24) * record_bytes(file);
	}
	return STATUS_OK;
}

static enum status with_block(
	const struct record_file *file, const struct wanted *wanted, record_visitor *visitor, void *user)
{
	uint64_t *block;
	TRY(memory_alloc((void **)&block, RECORD_BLOCK * (size_t)file->format.width, sizeof *block,
		"a block of records"));
	enum status status = read_blocks(file, wanted, block, visitor, user);
	free(block);
	return status;
}

enum status record_file_read(const struct record_file *file, uint64_t list, uint64_t first, uint64_t last,
	record_visitor *visitor, void *user)
{
	return with_block(file, &(struct wanted){list, first, last}, visitor, user);
}

enum status record_file_check(const char *path, const struct record_format *format)
{
	struct record_file *file;
	TRY(record_file_open(path, format, &file));
	enum status status = with_block(file, NULL, NULL, NULL);
	record_file_close(file);
	return status;
}

/* ---- runs ---- */

enum status record_file_runs(const struct record_file *file, uint64_t list, uint64_t first, uint64_t last,
	record_run_visitor *visitor, void *user)
{
	const struct wanted wanted = {list, first, last};
	struct record_run run = {0};
	uint64_t offset = 0, end = 0;
	for (uint64_t i = 0; i < file->blocks; i++) {
		const uint8_t *entry = file->index + i * ENTRY_BYTES;
		bool here = reaches_into(entry, &wanted);
		if (run.blocks && (!here || load_le64(entry + 8) <= end)) {
			TRY(visitor(user, &run));
			run.blocks = 0;
		}
		if (here && !run.blocks++) {
			run.entry = file->index_at + i * ENTRY_BYTES;
			run.offset = offset;
		}
		end = load_le64(entry + 16);
		offset += load_le64(entry + 24) * record_bytes(file);
	}
	return run.blocks ? visitor(user, &run) : STATUS_OK;
}

struct record_run record_file_run(const struct record_file *file)
{
	return (struct record_run){.entry = file->index_at, .blocks = file->blocks};
}

struct record_cursor {
	struct record_file file;
	struct record_run rest; /* not in the window yet; but `offset` is the next block's */
	uint64_t first, last;
	uint8_t window[WINDOW][ENTRY_BYTES]; /* of the index */
	size_t at, count;                    /* in the window */
	uint64_t block[];                    /* [RECORD_BLOCK][width] */
};

enum status record_cursor_open(const char *path, const struct record_format *format,
	const struct record_run *run, uint64_t first, uint64_t last, struct record_cursor **out)
{
	struct record_cursor *cursor;
	*out = NULL;
	TRY(memory_alloc((void **)&cursor, 1,
		sizeof *cursor + RECORD_BLOCK * (size_t)format->width * sizeof *cursor->block,
		"a block of records"));
	cursor->rest = *run;
	cursor->first = first;
	cursor->last = last;
	enum status status = open_file(&cursor->file, path, format);
	if (status != STATUS_OK) {
		record_cursor_close(cursor);
		return status;
	}
	*out = cursor;
	return STATUS_OK;
}

void record_cursor_close(struct record_cursor *cursor)
{
	if (!cursor)
		return;
	close_file(&cursor->file);
	free(cursor);
}

/* The next part of the index. It was right when the run was found; what has changed since does not match its block. */
static enum status fill_window(struct record_cursor *cursor)
{
	struct record_run *rest = &cursor->rest;
	cursor->at = 0;
	cursor->count = rest->blocks < WINDOW ? (size_t)rest->blocks : WINDOW;
	TRY(file_read_at(cursor->file.fd, cursor->file.path, cursor->window, cursor->count * ENTRY_BYTES,
		rest->entry));
	rest->entry += cursor->count * ENTRY_BYTES;
	rest->blocks -= cursor->count;
	return STATUS_OK;
}

enum status record_cursor_next(struct record_cursor *cursor, const uint64_t **records, size_t *count)
{
	size_t begin = 0, end = 0;
	while (begin == end) {
		if (cursor->at == cursor->count && !cursor->rest.blocks)
			break;
		if (cursor->at == cursor->count)
			TRY(fill_window(cursor));
		const uint8_t *entry = cursor->window[cursor->at++];
		uint64_t held = load_le64(entry + 24);
		if (held < 1 || held > RECORD_BLOCK)
			return damaged(&cursor->file, "has a damaged index");
		TRY(read_block(&cursor->file, entry, cursor->rest.offset, cursor->first, cursor->last,
			cursor->block, &begin, &end));
		cursor->rest.offset += held * record_bytes(&cursor->file);
	}
	*records = cursor->block + begin * (size_t)cursor->file.format.width;
	*count = end - begin;
	return STATUS_OK;
}
