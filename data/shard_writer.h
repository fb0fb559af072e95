/*
 * shard_writer.h: writes one shard of a corpus, NAME.bin, .idx, .key and .sum (formats: data/corpus.h and
 * data/hash_tree.h) and, with sources, .src (data/sources.h). Documents come in key order. Each file is
 * published when the shard is complete. Memory: 4 bytes a document and 8 bytes for each 4 KiB of file, and a
 * sources_writer's. One thread at a time.
 */
#ifndef DATA_SHARD_WRITER_H
#define DATA_SHARD_WRITER_H

#include "data/corpus.h"
#include "data/sources.h"

struct shard_writer;

struct shard_summary {
	uint64_t documents, tokens, bytes; /* bytes: of text */
	uint64_t bin_root, idx_root, key_root;
	struct hash128 src_hash; /* of .src, where there is one */
};

enum status shard_writer_open(const char *directory, const char *name, enum corpus_dtype dtype, uint32_t eod,
	bool sources, struct shard_writer **out) MUST_USE;
/* A document's tokens, u16 or i32 as the dtype says, without EOD: that is added. `bytes`: of its text.
 * `source` is not looked at without sources. */
enum status shard_writer_add(struct shard_writer *writer, uint64_t key, const void *tokens /* [count] */,
	uint32_t count, uint32_t bytes, const struct source *source) MUST_USE;
/* Frees the writer in every case. */
enum status shard_writer_publish(struct shard_writer *writer, struct shard_summary *summary) MUST_USE;
/* Leaves nothing behind. NULL is fine. */
void shard_writer_abandon(struct shard_writer *writer);

/* True if all the files that are published are there. */
bool shard_writer_is_there(const char *directory, const char *name, bool sources);
/* Reads the files that an earlier run published in DIRECTORY. STATUS_CORRUPT: one is not, to the byte,
 * what the writer summed up; the message names it. Memory: some 100 KiB, .sum, and its like. */
enum status shard_writer_check(
	const char *directory, const char *name, bool sources, const struct shard_summary *summary) MUST_USE;

#endif
