/*
 * record_merge.h: sorted runs of records (data/record_file.h), of any number of files, as one ascending sequence, in
 * memory that hardly grows with them: `most` runs' blocks, 32 bytes for each run, and while a file is open the index of
 * it, 40 bytes for 1,024 records.
 *
 * Runs are read side by side, at most `most` at once. Where there are more, that many are merged to a file of their
 * own, which is one run in place of them, and so on until one merge takes all that are left:
 *
 *    runs  0 1 2 3 4 5 6 7 8      most = 3: 0 1 2 -> a, 3 4 5 -> b, 6 7 8 -> c; then a b c -> the sequence
 *
 * So each record is read log(runs) / log(most) times, however little memory there is, and files are opened once to
 * look for runs and once for each run. One thread.
 */
#ifndef DATA_RECORD_MERGE_H
#define DATA_RECORD_MERGE_H

#include "data/record_file.h"

enum { RECORD_PATH = 4352 };

/* Sees the records of every merge, those between too, ascending and equal ones once; `previous` is the last that was
 * kept, NULL at first. What is not kept is gone. */
typedef enum status record_filter(
	void *user, const uint64_t *previous /* [width] */, const uint64_t *record /* [width] */, bool *keep);

struct record_merge {
	struct record_format format;
	uint64_t list, first, last; /* records of this list whose first number is in [first, last] */
	size_t files;
	void (*path)(void *user, size_t file, char path[RECORD_PATH]);
	/* Files between are called BETWEEN-0, BETWEEN-1, ...; they are removed, after a failure too. */
	const char *between;
	size_t most; /* runs at once, at least 2; each takes an open file and RECORD_MERGE_RUN bytes */
	record_filter *filter; /* NULL: all are kept */
	void *user;            /* of both functions */
};

enum { RECORD_MERGE_RUN = 30 << 10 };

/* What is kept goes to list 0 of `output` (NULL: the filter has seen it). */
enum status record_merge_run(const struct record_merge *merge, struct record_writer *output) MUST_USE;

#endif
