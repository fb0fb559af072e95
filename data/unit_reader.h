/*
 * unit_reader.h: the records of a unit in batches, for any number of workers (data/preprocess_tokenize.c).
 *
 * Whoever comes takes the next batch. A file is read, and decompressed, by one worker at a time; it reads
 * ahead for all who work on the unit, and goes on to be the one when it comes back, so that what it
 * decompresses with stays in its processor's cache. Only who finds nothing read and nobody reading takes its
 * place. Alone, a worker reads each batch just before it works on it.
 *
 * Batches are taken in order, and a failure comes in its place: whoever gets it knows that all batches before
 * it have been taken.
 */
#ifndef DATA_UNIT_READER_H
#define DATA_UNIT_READER_H

#include "data/preprocess_job.h"

/* A worker keeps one from use to use. Begin with zeros. */
struct unit_batch {
	struct input_batch records;
	uint64_t number;               /* among the unit's, from 0 */
	uint32_t piece;                /* within the unit */
	const struct input_file *file; /* NULL: there are no more batches */
	uint64_t stored;               /* bytes of input that were read for it */
};

struct unit_reader;

enum status unit_reader_create(const struct preprocess_job *job, struct unit_reader **out) MUST_USE;
void unit_reader_destroy(struct unit_reader *reader); /* NULL is fine */
/* Begins a unit; nobody is at one that was begun before. */
enum status unit_reader_begin(struct unit_reader *reader, const struct unit *unit) MUST_USE;
/* The next batch, in place of the one that was there, for worker `worker` of `members` that are at the unit.
 * After a failure batch->number is that of the batch which could not be read. Any thread. */
enum status unit_reader_take(
	struct unit_reader *reader, int worker, int members, struct unit_batch *batch) MUST_USE;
/* Lines of each of the unit's pieces [pieces]; known when there are no more batches. */
const uint64_t *unit_reader_lines(const struct unit_reader *reader);

#endif
