/*
 * spill.h: the files between preprocessing's two passes.
 *
 * A unit of input becomes one spill file, published when complete. A spill file holds runs (what a worker had
 * in memory when it had to write); a run holds one segment for each bucket that has documents; bucket b has
 * the documents whose key begins with the bits of b. All little-endian:
 *
 *    segment   documents x 24 bytes {u64 key high, u64 key low, u32 tokens, u32 text bytes},
 *              then the documents' tokens back to back, u16 or i32, without EOD. Where the job keeps
 *              sources, a document's entry goes on: {u32 piece, u64 line, u64 offset}, 44 bytes in all
 *    rejects   blocks of {u32 piece, u32 reason bytes, u64 line, u64 offset, reason}
 *    footer    u64[16] counts; the number of runs R; segments [bucket][R] {u64 offset, u64 bytes, u64 tokens,
 *              u64 hash, u64 documents}; number of reject blocks and {u64 offset, u64 bytes, u64 XXH3-64} of
 *              each; number of pieces and the lines of each (u64)
 *    trailer   48 bytes: {u64 footer offset, u64 footer bytes, u64 footer's XXH3-64, 16 bytes job,
 *              "FERRYSPL"}
 *
 * A segment's hash is the XXH3-64 of two: of its entries, and of its tokens. Nothing is compressed: a
 * spill is as large as the corpus it becomes, and compressing it (zstd, fastest level) took longer than
 * tokenizing.
 *
 * `job` ties the file to the run that wrote it (options and inputs). Everything is verified as it is read.
 */
#ifndef DATA_SPILL_H
#define DATA_SPILL_H

#include "common/error.h"
#include "common/hash.h"

#include <stdbool.h>
#include <stdint.h>

enum { SPILL_LARGEST_BITS = 12 };

/* What a unit saw; `tokens` counts each document's EOD. */
struct spill_counts {
	uint64_t documents, tokens, bytes; /* accepted, before duplicates are dropped */
	uint64_t empty, rejected, repaired;
};
void spill_counts_add(struct spill_counts *sum, const struct spill_counts *more);

struct spill_format {
	int bucket_bits; /* 0..SPILL_LARGEST_BITS */
	int item_bytes;  /* 2 or 4 */
	bool sources;    /* documents keep their place */
	struct hash128 job;
};

/* Where a record is: in piece number `piece` of unit number `unit`; its line as counted there from 1 (0: not
 * in lines), and its offset in the file. */
struct spill_place {
	uint32_t unit, piece;
	uint64_t line, offset;
};

/*
 * ---- writing ----
 *
 * A unit's spill_file is written by any number of threads, each through a spill_buffer of its own, which it
 * keeps from unit to unit. A unit's records are handed out in numbered batches; each is one thread's.
 */
struct spill_file;
struct spill_buffer;

enum status spill_file_create(
	const struct spill_format *format, const char *path, struct spill_file **out) MUST_USE;
/*
 * When every buffer has been flushed. Not `durable`: the file is not synced, and after a power failure it may
 * be damaged or gone; spill_verify tells. Frees `file` in every case.
 */
enum status spill_file_publish(struct spill_file *file, const uint64_t *lines /* [pieces] */, size_t pieces,
	bool durable, struct spill_counts *counts) MUST_USE;
void spill_file_abandon(struct spill_file *file); /* NULL is fine */

/* Holds up to `memory` bytes of documents (a single document may be larger). */
enum status spill_buffer_create(
	const struct spill_format *format, uint64_t memory, struct spill_buffer **out) MUST_USE;
void spill_buffer_destroy(struct spill_buffer *buffer); /* NULL is fine */
/* What follows goes to `file`; what is still held is forgotten. */
void spill_buffer_begin(struct spill_buffer *buffer, struct spill_file *file);
/* Room for a document of up to `most` ids, each of the format's item_bytes; until the next call. */
enum status spill_buffer_reserve(struct spill_buffer *buffer, size_t most, void **ids) MUST_USE;
/* A document: `bytes` of text became the first `count` ids of the room reserved. A file does not know its
 * unit's number: place->unit is not looked at, here and below. */
enum status spill_buffer_add(struct spill_buffer *buffer, struct hash128 key, size_t bytes, size_t count,
	const struct spill_place *place) MUST_USE;
/* A record that is dropped. Counts it. */
enum status spill_buffer_reject(
	struct spill_buffer *buffer, const struct spill_place *place, const char *reason) MUST_USE;
void spill_buffer_count(struct spill_buffer *buffer, uint64_t empty, uint64_t repaired);
/* What follows is of batch number `batch`: rejects are read back in the order of batches. */
enum status spill_buffer_begin_batch(struct spill_buffer *buffer, uint64_t batch) MUST_USE;
/* Writes what is held: the thread's part in the unit is done. */
enum status spill_buffer_flush(struct spill_buffer *buffer) MUST_USE;

/* ---- reading ---- */

struct spill_reject {
	struct spill_place place;
	const char *reason; /* [reason_bytes] */
	size_t reason_bytes;
};

/* Checks a file's footer, adds the stored size of each bucket's documents (entries and tokens) to
 * bucket_bytes, unless that is NULL. STATUS_CORRUPT if it is damaged or not this job's. */
enum status spill_inspect(const char *path, const struct spill_format *format, struct spill_counts *counts,
	uint64_t *bucket_bytes /* [1 << bucket_bits] */) MUST_USE;

/* Lines of each piece, malloc'ed. */
enum status spill_read_lines(
	const char *path, const struct spill_format *format, uint64_t **lines, size_t *pieces) MUST_USE;
/* Reads the whole file: STATUS_CORRUPT if any of it is damaged, or not this job's. */
enum status spill_verify(const char *path, const struct spill_format *format) MUST_USE;
/* In the order of the unit's records. */
typedef enum status spill_reject_visitor(void *user, const struct spill_reject *reject);
enum status spill_read_rejects(const char *path, const struct spill_format *format,
	spill_reject_visitor *visitor, void *user) MUST_USE;

/* The documents of a range of keys, each key once, in key order. One thread; reusable. */
struct spill_document {
	struct hash128 key;
	uint64_t first; /* of its tokens, in items */
	uint32_t tokens, bytes;
	uint32_t number; /* for spill_range_place */
};
struct spill_range;

enum status spill_range_create(const struct spill_format *format, struct spill_range **out) MUST_USE;
void spill_range_destroy(struct spill_range *range); /* NULL is fine */
/* Empties it and sets its keys: those whose upper 64 bits are in [first, last]. */
void spill_range_begin(struct spill_range *range, uint64_t first, uint64_t last);
/* The file of unit `unit`. Of documents with one key the first that is read is kept, and the first place. */
enum status spill_range_load(struct spill_range *range, const char *path, uint32_t unit) MUST_USE;
void spill_range_sort(struct spill_range *range); /* after the last file */
/* Sorted: takes out the documents that are marked; returns how many. */
size_t spill_range_remove(struct spill_range *range, const bool *marked /* [count] */);
/* Both arrays belong to the range until its next use; *seen counts documents read, duplicates included. */
void spill_range_get(const struct spill_range *range, const struct spill_document **documents, size_t *count,
	const void **tokens, uint64_t *seen);
/* Where a document of those came from; only of a format with sources. */
const struct spill_place *spill_range_place(
	const struct spill_range *range, const struct spill_document *document);

#endif
