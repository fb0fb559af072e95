/*
 * sources.h: where each document of a corpus came from: the optional NNNNN.src beside each shard.
 *
 * NNNNN.src (version 1), little-endian, no padding; D is the shard's number of documents:
 *    0       8 bytes  "FERRYSRC"
 *    8       u64      version 1
 *    16      D x 20 bytes {u64 line, u64 byte, u32 path}, document by document
 *    16+20D  u64[P]   where each path begins among the paths' bytes
 *    +8P     B bytes  the paths, each ended by a NUL, in the order in which the documents name them first
 *    end     u64[3]   D, P, B; then the file ends
 *
 * A path is the input's as it was given to preprocess ("-": standard input; any bytes but NUL). `line` counts
 * from 1 within a JSONL file, and is 0 for documents of text files; `byte` is where the line or the document
 * begins in the file, after decompression. Of a document that came several times, the smallest path (in byte
 * order), there the smallest line and byte are kept. The manifest holds the XXH3-128 of each file ("src" of
 * the shard; all shards have one or none has). It is not part of the corpus's identity ("hash"): the tokens
 * are the same with sources and without.
 *
 * Every file is checked as a whole when it is read: 10 GB/s, and at most some 100 MB a shard.
 */
#ifndef DATA_SOURCES_H
#define DATA_SOURCES_H

#include "data/corpus.h"

struct source {
	const char *path;
	uint64_t line, byte;
};

/* Below zero, zero or above, as a is to be kept rather than b. */
int source_compare(const struct source *a, const struct source *b);

/* ---- writing: one shard's; one thread. Memory: the shard's paths and 16 bytes each ---- */

struct sources_writer;

enum status sources_writer_open(
	const char *directory, const char *name, struct sources_writer **out) MUST_USE;
/* The next document's; copied. */
enum status sources_writer_add(struct sources_writer *writer, const struct source *source) MUST_USE;
/* Frees the writer in every case. */
enum status sources_writer_publish(struct sources_writer *writer, struct hash128 *hash) MUST_USE;
/* Leaves nothing behind. NULL is fine. */
void sources_writer_abandon(struct sources_writer *writer);
/* Reads the file that an earlier run published. STATUS_CORRUPT: it has another hash. */
enum status sources_writer_check(const char *directory, const char *name, struct hash128 hash) MUST_USE;

/* ---- reading: one thread. Holds one shard's file in memory ---- */

struct sources;

/* STATUS_USAGE when the corpus (which must outlive it) has none: corpus_get_info(corpus)->sources tells. */
enum status sources_open(const struct corpus *corpus, struct sources **out) MUST_USE;
void sources_close(struct sources *sources); /* NULL is fine */
/* The document's; the path is valid until the next call. Fastest in the order of documents. */
enum status sources_get(struct sources *sources, uint64_t document, struct source *out) MUST_USE;

/* Reads and checks a shard's file. */
enum status sources_check(const struct corpus *corpus, uint64_t shard) MUST_USE;

#endif
