/*
 * record_file.h: files of sorted records, kept in small blocks that are verified one by one, so that a reader
 * takes a range of them without reading the rest. (data/near_duplicates.h is what they are for.)
 *
 * A record is `width` u64 numbers, at most RECORD_WIDTH; records are ordered by their numbers, the first one
 * first. A file holds any number of lists, and a list may be written in several runs. All little-endian:
 *
 *    block     1 to 1024 records of one list, ascending, no two equal
 *    index     of each block, in the file's order: {u64 list, u64 first number of its first record, u64 first
 *              number of its last record, u64 records, u64 XXH3-64 of the block}; blocks lie back to back
 *    trailer   56 bytes: {u64 width, u64 blocks, u64 XXH3-64 of the index, u64 0, 16 bytes job, "FERRYREC"}
 *
 * `job` ties the file to the run that wrote it. A damaged file, or another job's, is STATUS_CORRUPT with a
 * message that names it.
 */
#ifndef DATA_RECORD_FILE_H
#define DATA_RECORD_FILE_H

#include "common/error.h"
#include "common/hash.h"

#include <stdint.h>

enum { RECORD_WIDTH = 3, RECORD_BLOCK = 1024 };

struct record_format {
	int width; /* 1..RECORD_WIDTH */
	struct hash128 job;
};

/* Below, at or above 0 as `a` comes before, is equal to, or comes after `b`. */
static inline int records_compare(const uint64_t *a /* [width] */, const uint64_t *b, size_t width)
{
	for (size_t i = 0; i < width; i++)
		if (a[i] != b[i])
			return a[i] < b[i] ? -1 : 1;
	return 0;
}
/* Sorts records and removes equal ones; returns how many are left. */
size_t records_sort(uint64_t *records /* [count][width] */, size_t count, int width);

struct record_writer;
enum status record_writer_open(
	const char *path, const struct record_format *format, struct record_writer **out) MUST_USE;
/* A run of a list: sorted, no two equal. */
enum status record_writer_add(struct record_writer *writer, uint64_t list,
	const uint64_t *records /* [count][width] */, size_t count) MUST_USE;
/* Not `durable`: not synced, so that after a power failure it may be damaged or gone. Frees the writer in
 * every case. */
enum status record_writer_publish(struct record_writer *writer, bool durable) MUST_USE;
void record_writer_abandon(struct record_writer *writer); /* NULL is fine */

/* An open file: its trailer and index are checked, and the index, 40 bytes a block, is held. Several threads may
 * read at once. */
struct record_file;
enum status record_file_open(
	const char *path, const struct record_format *format, struct record_file **out) MUST_USE;
void record_file_close(struct record_file *file); /* NULL is fine */
const char *record_file_path(const struct record_file *file);

/* Hands every record of `list` whose first number is in [first, last] to the visitor, ascending within a run;
 * `records` is the reader's, and the visitor may change it. */
typedef enum status record_visitor(void *user, uint64_t *records /* [count][width] */, size_t count);
enum status record_file_read(const struct record_file *file, uint64_t list, uint64_t first, uint64_t last,
	record_visitor *visitor, void *user) MUST_USE;
/* Reads every block of a file. */
enum status record_file_check(const char *path, const struct record_format *format) MUST_USE;

/* ---- its runs, read side by side by data/record_merge.h ---- */

/* Blocks of a list that follow one another, each beginning above the end of the one before: a run, or more that happen
 * to join, or a part of one that has very many records with one first number. */
struct record_run {
	uint64_t entry;  /* byte of the file: the index's entry of its first block */
	uint64_t offset; /* byte of the file: its first block */
	uint64_t blocks;
};
/* Those with blocks that reach into [first, last]; other blocks are left out. */
typedef enum status record_run_visitor(void *user, const struct record_run *run);
enum status record_file_runs(const struct record_file *file, uint64_t list, uint64_t first, uint64_t last,
	record_run_visitor *visitor, void *user) MUST_USE;

/* All blocks, of a file that has one list, which was written in order. */
struct record_run record_file_run(const struct record_file *file);

/* A run's records whose first number is in [first, last], block by block. It has the file open, but not its index:
 * some 30 KB. One thread. */
struct record_cursor;
enum status record_cursor_open(const char *path, const struct record_format *format,
	const struct record_run *run, uint64_t first, uint64_t last, struct record_cursor **out) MUST_USE;
void record_cursor_close(struct record_cursor *cursor); /* NULL is fine */
/* The next records, until the next call; *count 0: there are no more. */
enum status record_cursor_next(
	struct record_cursor *cursor, const uint64_t **records /* [*count][width] */, size_t *count) MUST_USE;

#endif
