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
 * message that names it. Several threads may read a file at once.
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

/* Checks trailer and index; *records counts those of `list`. */
enum status record_file_count(
	const char *path, const struct record_format *format, uint64_t list, uint64_t *records) MUST_USE;

/* Hands every record of `list` whose first number is in [first, last] to the visitor, ascending within a run;
 * `records` is the reader's, and the visitor may change it. */
typedef enum status record_visitor(void *user, uint64_t *records /* [count][width] */, size_t count);
enum status record_file_read(const char *path, const struct record_format *format, uint64_t list,
	uint64_t first, uint64_t last, record_visitor *visitor, void *user) MUST_USE;

#endif
