/*
 * corpus_shard.h: one shard's four files, for corpus.c, corpus_shard.c and corpus_verify.c alone.
 *
 * A shard's .sum is opened on first use, each of its other files is mapped on first use, so that training
 * maps .bin alone, and opened when it is first read in order; all stay until corpus_close. .sum is not mapped, but read a page at a time and kept in a
 * cache of the corpus: a map of it would make 2 MiB resident for each 8 bytes looked up, where the system
 * caches files in large folios. Reads are verified and their errors are complete messages.
 */
#ifndef DATA_CORPUS_SHARD_H
#define DATA_CORPUS_SHARD_H

#include "data/corpus.h"
#include "data/hashed_file.h"

#include <pthread.h>
#include <stdatomic.h>

enum shard_file { SHARD_BIN, SHARD_IDX, SHARD_KEY, SHARD_FILES };
enum { IDX_HEADER = 34, SUM_HEADER = 64 };

struct corpus {
	struct corpus_info info;
	char *directory;
	char *next;                    /* DIRECTORY/next, where files may be still; NULL: nowhere else */
	bool moving;                   /* the manifest was there, when it was read */
	int shard_bits;                /* log2 of the number of shards */
	pthread_mutex_t mutex;         /* of opening and mapping */
	struct shard *_Atomic *shards; /* [shard_count]; NULL until opened */
	uint64_t *first_hash_page;     /* [shard_count]: of each shard, in the cache */
	struct hash_cache *hashes;
};

/* The folder that file NAME is in, for messages. To open it: corpus_use_file. */
const char *corpus_folder(const struct corpus *corpus, const char *name);

/* One of a shard's files, and where its tree begins in .sum. */
struct shard_tree {
	struct shard *shard;
	uint64_t start;
};

struct shard {
	struct corpus *corpus;
	const struct corpus_shard *entry; /* in the manifest */
	struct hashed_file files[SHARD_FILES];
	struct shard_tree trees[SHARD_FILES];
	atomic_bool mapped[SHARD_FILES]; /* files[].data is there, if the file is not empty */
	uint64_t sum_bytes;
	int sum_fd;                  /* -1: opened for each read */
	atomic_int fds[SHARD_FILES]; /* for reading in order; -1: opened for each read */
};

/* Where the sections of .idx begin. */
static inline uint64_t idx_offsets(uint64_t documents)
{
	return IDX_HEADER + 4 * documents;
}
static inline uint64_t idx_documents(uint64_t documents)
{
	return IDX_HEADER + 12 * documents;
}

unsigned corpus_token_bytes(const struct corpus *corpus); /* 2 or 4 */
uint64_t shard_file_bytes(
	const struct corpus *corpus, const struct corpus_shard *entry, enum shard_file file);

/* Shard `index`, its .sum's size and header checked. */
enum status shard_get(struct corpus *corpus, uint64_t index, struct shard **out) MUST_USE;

void shard_free(struct shard *shard); /* NULL is fine */

/* Maps a file, its size and header checked; the functions below do so themselves. */
enum status shard_map_file(struct corpus *corpus, struct shard *shard, enum shard_file file) MUST_USE;

/* Bytes of .sum, unverified. */
enum status shard_read_sum(struct shard *shard, uint64_t offset, void *out, size_t bytes) MUST_USE;

/* Page `page` of one of its files, verified. */
enum status shard_page(struct corpus *corpus, struct shard *shard, enum shard_file file, uint64_t page,
	union hashed_page *out, size_t *bytes) MUST_USE;
/* Pages [page, page + count), verified, for who goes through the file in order: hashed_file_pages. */
enum status shard_pages(struct corpus *corpus, struct shard *shard, enum shard_file file, uint64_t page,
	size_t count, union hashed_page *out /* [count] */, size_t *bytes) MUST_USE;
/* Verified bytes [offset, offset + bytes) of one of its files; within it. */
enum status shard_read(struct corpus *corpus, struct shard *shard, enum shard_file file, uint64_t offset,
	size_t bytes, void *out) MUST_USE;

enum status shard_read_u64(struct corpus *corpus, struct shard *shard, enum shard_file file, uint64_t offset,
	uint64_t *out) MUST_USE;

/* The first document of the shard that ends after byte `offset` of .bin, by .idx; all of them when none does.
 */
enum status shard_document_at(
	struct corpus *corpus, struct shard *shard, uint64_t offset, uint64_t *document) MUST_USE;

/* Asks the system to read bytes [first, end) of a file ahead. */
void shard_prefetch(
	struct corpus *corpus, struct shard *shard, enum shard_file file, uint64_t first, uint64_t end);

/* "DIR/00000.bin" as it is in messages, into `path` (truncated to fit). */
enum { SHARD_PATH = 512 };
const char *shard_path(const struct corpus *corpus, const struct corpus_shard *entry, const char *suffix,
	char path[SHARD_PATH]);
extern const char *const shard_suffixes[SHARD_FILES]; /* "bin", "idx", "key" */

/* "documents 10..19": those of the shard, numbered within the corpus. */
enum { SHARD_DOCUMENTS = 64 };
const char *shard_documents(const struct corpus_shard *entry, char text[SHARD_DOCUMENTS]);

/* For hints in messages. */
#define CORPUS_CURE "restore the file from a copy, or run `ferry preprocess` again"

#endif
