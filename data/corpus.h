/*
 * corpus.h: reading a corpus directory. (Writing one: data/preprocess.h.)
 *
 * A corpus is documents in the order of their keys (XXH3-128 of the text), tokenized, cut into S shards
 * (S a power of two; shard i holds the keys in [i/S, (i+1)/S) of the key space), so its order is a global
 * shuffle. S is the smallest power of two (at most 65,536) for which input.tokens * item size / S is at most
 * 256 MiB and input.documents / S at most 4 Mi: it follows from what was read, duplicates included, alone.
 *
 *    corpus.json    manifest, written last (fields below)
 *    00000.bin      tokens back to back, each document ending in EOD, which stands nowhere else; u16, or i32
 *                   where the vocabulary has 65,500 ids or more (Megatron-LM's rule); little-endian, no header
 *    00000.idx      Megatron-LM's index (below)
 *    00000.key      upper 64 bits of each document's key, u64 little-endian, ascending
 *    00000.sum      hash trees of the three (data/hash_tree.h)
 *
 * .idx, Megatron-LM's MMIDIDX version 1, all little-endian, no padding:
 *    0      9 bytes  "MMIDIDX\0\0"
 *    9      u64      version 1
 *    17     u8       dtype: 8 = u16, 4 = i32
 *    18     u64      D, number of documents (Megatron's sequences)
 *    26     u64      D + 1
 *    34     i32[D]   tokens of each document, EOD included
 *    34+4D  i64[D]   byte offset of each document in .bin
 *    34+12D i64[D+1] 0, 1, ... D
 *
 * corpus.json, every key required, no other allowed in version 1:
 *    "format": "ferry-corpus", "version": 1,
 *    "tokenizer": {"name", "hash" (32 hex), "vocabulary", "eod", "unicode"},
 *    "dtype": "u16" | "i32",
 *    "documents", "tokens" (EOD included), "bytes" (UTF-8 bytes of the documents, after repair),
 *    "input": {"documents", "tokens", "bytes"}       totals before duplicates were dropped: they decide S
 *    "dropped": {"duplicates", "empty", "rejected"}  documents; "near_duplicates" too, where there were any
 *                                                    or they were looked for
 *    "near": {"words": 5, "bands", "rows"}           only where all of the corpus was searched for
 *                                                    near-duplicates (data/near_duplicates.h): no two
 *                                                    documents share a band hash (data/minhash.h)
 *    "repaired": sequences of invalid UTF-8 replaced by U+FFFD
 *    "shards": [{"name": "00000", "documents", "tokens",
 *                "bin": root, "idx": root, "key": root (16 hex digits each: roots of the hash trees),
 *                "src": XXH3-128 (32 hex) of 00000.src, only where each shard has one (data/sources.h)}, ...]
 *    "hash": XXH3-128 (32 hex) of the concatenation, over the shards in order, of the three roots as u64
 *            little-endian. It is the corpus's identity: resume compares it.
 *    "check": XXH3-64 (16 hex) of the file's bytes before the text `"check"`; the last member
 *             (data/manifest.h)
 * Sums hold: the shards' documents and tokens are the corpus's; input.documents = documents +
 * dropped.duplicates + dropped.near_duplicates. Shards without documents have their files too (.bin and
 * .key empty). A corpus that is not GPT-2's also holds the tokenizer's vocab.json and merges.txt.
 *
 * A directory without corpus.json, but with next/corpus.json, holds that corpus: its writer was ended as it
 * put the files in place (data/corpus_output.h). Each is read where it is, in next/ or beside it, also while
 * they move.
 *
 * Nothing read from disk is trusted: each 4 KiB page is checked against its hash at every read (corpus_read...),
 * the hash pages against their parents on first use, the roots against the manifest (data/hashed_file.h).
 * Damage is an error (STATUS_CORRUPT) that names the file, the page, the bytes and the documents; a disk that
 * fails under a map is STATUS_IO with the same, not a SIGBUS. Opening reads the manifest alone; files are
 * mapped on first use. All functions may be called from any thread.
 */
#ifndef DATA_CORPUS_H
#define DATA_CORPUS_H

#include "common/error.h"
#include "common/hash.h"

#include <stdint.h>

enum corpus_dtype { CORPUS_U16, CORPUS_I32 };

struct corpus_shard {
	char name[16];
	uint64_t documents, tokens;
	uint64_t first_document, first_token; /* of this shard within the corpus */
	uint64_t bin_root, idx_root, key_root;
	struct hash128 src_hash; /* of .src, if the corpus has sources */
};

struct corpus_info {
	char tokenizer_name[64];
	struct hash128 tokenizer_hash;
	uint32_t vocabulary, eod;
	char unicode[16];
	enum corpus_dtype dtype;
	uint64_t documents, tokens, bytes;
	uint64_t input_documents, input_tokens, input_bytes;
	uint64_t dropped_near;     /* near-duplicates */
	int near_bands, near_rows; /* 0: not all of the corpus was searched for them */
	uint64_t dropped_duplicates, dropped_empty, dropped_rejected, repaired;
	struct hash128 hash;
	bool sources; /* each shard has a .src: data/sources.h */
	uint64_t shard_count;
	const struct corpus_shard *shards; /* [shard_count] */
};

struct corpus;

enum status corpus_open(const char *directory, struct corpus **out) MUST_USE;
void corpus_close(struct corpus *corpus);
const struct corpus_info *corpus_get_info(const struct corpus *corpus);
const char *corpus_directory(const struct corpus *corpus);
/* Does `use` with the path of one of its files ("rejects.jsonl"), there or not. A file that is put in place
 * meanwhile is not found where it was when the path was made: then `use` is done once more, with its new path;
 * so it undoes what it began before it fails. */
typedef enum status corpus_file_use(void *user, const char *path);
enum status corpus_use_file(
	const struct corpus *corpus, const char *name, corpus_file_use *use, void *user) MUST_USE;

/* Tokens [first, first + count) of the corpus, documents back to back, across shards; every page touched is
 * verified, every id is below the vocabulary. After an error `tokens` holds nothing of use. */
enum status corpus_read(
	struct corpus *corpus, uint64_t first, uint64_t count, int32_t *tokens /* [count] */) MUST_USE;

/* The same, for who goes on where the last call ended: by reading, and not from a map, so that the system reads ahead.
 * A disk then reads at its speed, which page by page it does not. */
enum status corpus_read_in_order(
	struct corpus *corpus, uint64_t first, uint64_t count, int32_t *tokens /* [count] */) MUST_USE;

/* Asks the system to read those pages ahead. Never fails, never waits for them. */
void corpus_prefetch(struct corpus *corpus, uint64_t first, uint64_t count);

/* Where a document lies: tokens [*first, *first + *count) of the corpus, EOD included. */
enum status corpus_document(
	struct corpus *corpus, uint64_t document, uint64_t *first, uint64_t *count) MUST_USE;
/* The number of the shard that it is in. */
enum status corpus_shard_of(const struct corpus *corpus, uint64_t document, uint64_t *shard) MUST_USE;
/* The lengths, EOD included, of documents [first, first + count). */
enum status corpus_document_lengths(
	struct corpus *corpus, uint64_t first, uint64_t count, uint32_t *lengths /* [count] */) MUST_USE;
/* The document's key (upper 64 bits). */
enum status corpus_document_key(struct corpus *corpus, uint64_t document, uint64_t *key) MUST_USE;
/* The first document whose key is >= `key`; the number of documents when there is none. O(log documents). */
enum status corpus_find_key(struct corpus *corpus, uint64_t key, uint64_t *document) MUST_USE;

/* Reads and checks everything: sizes, every page, every tree, .idx against .bin, order of keys, EOD at each
 * document's end and nowhere else, ids below the vocabulary; .src, where there are. `progress` (may be NULL)
 * gets bytes done and in all, from one thread at a time. The error is of one of the damaged places, not of
 * all. */
typedef void corpus_progress(void *user, uint64_t done, uint64_t total);
enum status corpus_verify(struct corpus *corpus, int workers, corpus_progress *progress, void *user) MUST_USE;

/* The tokenizer that made the corpus: GPT-2's, or the one whose files the corpus holds. Another hash than the
 * manifest's is STATUS_MISMATCH. The caller closes it. */
struct tokenizer;
enum status corpus_open_tokenizer(const struct corpus *corpus, struct tokenizer **out) MUST_USE;

#endif
