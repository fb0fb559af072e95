/*
 * near_duplicates.h: which documents of a job are near-duplicates of others (`ferry preprocess --dedup
 * near`).
 *
 * The rule: a document is dropped if it shares a band hash (data/minhash.h), in the same band, with a
 * document of a smaller key. So what is dropped depends on the set of documents alone, not on their order,
 * workers or memory; no two documents that are kept share a band hash; and each that is dropped shares one
 * with a document of a smaller key (which may be dropped for the sake of a third).
 *
 * Other tools (datatrove) join the documents that meet into clusters, across any number of steps, and keep
 * one of each. This rule keeps that one (where it is the smallest key), and those documents of the cluster,
 * too, that meet larger keys only: of a chain A - C - B with C the largest key, A and B stay. It needs no
 * graph in memory, and a long chain of small changes does not pull unlike documents together.
 *
 *    DIR/near-000000 ...          pass 1, beside each unit: {band hash, key} of each document that has a
 *                                 signature, a list for each band (data/record_file.h, width 3: u64 band
 *                                 hash, u64 key high, u64 key low), the more runs the less memory
 *    DIR/drops-04-013 ...         between the passes: the keys that part 13 of the band hashes drops, each band being cut
 *                                 into 2^4 equal parts, numbered through (width 2: u64 key high, u64 key low; list 0)
 *    DIR/dropped                  all of those, each once, in order: what pass 2 asks. They are gone then
 *    DIR/between-13-0 ...         runs of part 13 on the way
 *
 * A part's records are merged in order (data/record_merge.h), so that of those that share a hash the smallest key
 * comes first, and none need be held. The units' files are opened once for each part and once for each of their runs,
 * and there are no more parts than it takes to keep the workers busy. Every record is read log(runs) / log(most)
 * times, `most` being the runs that a worker reads at once: with 1 MB for it 17, with 15 MB 256, but no
 * more than 512 / workers. No more than 64 workers search, so that each may read 8, and fewer than 700 files are open at
 * once. So time grows with the documents, whatever the memory. Each file appears when complete, so a search that was stopped goes
 * on; with other workers it may begin anew. Nothing but `dropped` is synced: what an earlier run left is read
 * whole before it is used, and made anew if a power failure damaged it. Pass 2 marks the documents of a range
 * of keys with no memory but a block of `dropped` and its index, a 400th of it. On the disk: 24 bytes a document and
 * band in near-*, as much of the bands under way in between-*, and at most 16 in drops-*.
 */
#ifndef DATA_NEAR_DUPLICATES_H
#define DATA_NEAR_DUPLICATES_H

#include "data/record_file.h"
#include "data/spill.h"

struct near_format {
	int bands, rows;    /* data/minhash.h */
	struct hash128 job; /* ties the files to the run */
};

/*
 * ---- pass 1 ----
 *
 * A unit's near_file is written by any number of threads, each through a near_buffer of its own, which it
 * keeps from unit to unit: as data/spill.h's.
 */
struct near_file;
struct near_buffer;

enum status near_file_create(
	const struct near_format *format, const char *path, struct near_file **out) MUST_USE;
/* When every buffer has been flushed. Not `durable`: the file is not synced, and after a power failure it may
 * be damaged or gone; near_unit_check tells. Frees `file` in every case. */
enum status near_file_publish(struct near_file *file, bool durable) MUST_USE;
void near_file_abandon(struct near_file *file); /* NULL is fine */

/* Holds up to `memory` bytes of signatures, or one. */
enum status near_buffer_create(
	const struct near_format *format, uint64_t memory, struct near_buffer **out) MUST_USE;
void near_buffer_destroy(struct near_buffer *buffer); /* NULL is fine */
/* What follows goes to `file`; what is still held is forgotten. */
void near_buffer_begin(struct near_buffer *buffer, struct near_file *file);
enum status near_buffer_add(
	struct near_buffer *buffer, struct hash128 key, const char *text, size_t bytes) MUST_USE;
enum status near_buffer_flush(struct near_buffer *buffer) MUST_USE;

/* Reads and checks it all. STATUS_CORRUPT if it is damaged or another job's. */
enum status near_unit_check(const char *path, const struct near_format *format) MUST_USE;

/* ---- between the passes ---- */

struct near_search {
	struct near_format format;
	const char *directory; /* holds near-000000 to near-(units - 1) */
	size_t units;
	int workers; /* at most 64 of them search */
	uint64_t memory;
	/* Called by any worker, often; anything but STATUS_OK ends the search. May be NULL. */
	enum status (*progress)(void *user, uint64_t done, uint64_t total);
	void *user;
	double *seconds; /* [workers]: adds the processor time that each spends. NULL: it is not looked at */
};

/* "DIRECTORY/near-000012" */
enum { NEAR_PATH = 4352 };
void near_unit_path(const char *directory, size_t unit, char path[NEAR_PATH]);

/* Opens what the search found: makes `dropped` if it is not there, or damaged. One process at a time. */
enum status near_search_run(const struct near_search *search, struct record_file **dropped) MUST_USE;

/* ---- pass 2 ---- */

/* Sets drop[i] of each document of the keys' upper halves [first, last] that is to be dropped; the documents
 * are those of spill_range_get, in key order. Any thread. */
enum status near_search_mark(const struct record_file *dropped, uint64_t first, uint64_t last,
	const struct spill_document *documents /* [count] */, size_t count,
	bool *drop /* [count], set to false by the caller */) MUST_USE;

#endif
