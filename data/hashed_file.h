/*
 * hashed_file.h: a mapped file of which no byte is used before its 4 KiB page is verified.
 *
 * The file's pages are checked against the leaves of its hash tree (data/hash_tree.h) at every read. The tree
 * is not mapped: it is read a page at a time, each page checked against its parent, up to the root that the
 * caller vouches for, and then kept in a cache of bounded size (data/hash_cache.h). A page is first copied,
 * then hashed, then used: what was hashed is what is used, whatever the disk does between. All functions may
 * be called from any thread.
 */
#ifndef DATA_HASHED_FILE_H
#define DATA_HASHED_FILE_H

#include "data/hash_cache.h"

/* Reads bytes of the file, or of its tree from its first hash on. False: the system cannot deliver them; errno says why,
 * 0 that the file ends before. */
typedef bool hashed_file_reader(void *user, uint64_t offset, void *out, size_t bytes);

struct hashed_file {
	const uint8_t *data; /* [bytes], mapped; NULL when empty. Owned by the caller */
	uint64_t bytes;
	struct hash_tree_shape shape;
	uint64_t root;
	uint64_t page_start[HASH_TREE_LEVELS + 1]; /* number of each level's first hash page, in all levels */
	hashed_file_reader *read_tree, *read_file;
	void *user;
	struct hash_cache *cache; /* the caller's */
	uint64_t first_number;    /* there, of this file's first hash page */
};

/* A page's worth of any of the numbers that files hold. */
union hashed_page {
	_Alignas(64) uint8_t bytes[HASH_TREE_PAGE];
	uint16_t u16[HASH_TREE_PAGE / 2];
	int32_t i32[HASH_TREE_PAGE / 4];
	uint64_t u64[HASH_TREE_PAGE / 8];
};

/* What is wrong, for the caller to put into words. Bytes are ranges [first, end). */
struct hashed_damage {
	enum status status; /* STATUS_IO: cannot be read. STATUS_CORRUPT: does not match its hash */
	int error;          /* errno of STATUS_IO; 0: not known */
	bool in_tree;       /* a page of hashes, not of the file */
	uint64_t page;      /* of the file, or of the tree's level */
	uint64_t first_byte, end_byte; /* of the file, or of the tree */
	uint64_t file_first, file_end; /* bytes of the file that it leaves unverified */
};

/* Hash pages of a file of this many bytes. */
uint64_t hashed_file_hash_pages(uint64_t bytes);

/* Computes the shape. `data`, `bytes`, `root`, the readers, `user`, `cache` and `first_number` must be set
 * and are trusted to fit together. */
void hashed_file_prepare(struct hashed_file *file);

/* Copies and verifies page `page`; *bytes is 4096, less for the last page. Leaves no message on failure: it
 * fills *damage and returns damage->status. */
enum status hashed_file_page(struct hashed_file *file, uint64_t page, union hashed_page *out, size_t *bytes,
	struct hashed_damage *damage) MUST_USE;

/* As hashed_file_page, pages [page, page + count), `bytes` in all; by reading (read_file) and not from the map. For who
 * goes through the file in order: the system reads ahead of reads, in large pieces, and need not unmap what it then
 * gives up. */
enum status hashed_file_pages(struct hashed_file *file, uint64_t page, size_t count,
	union hashed_page *out /* [count] */, size_t *bytes, struct hashed_damage *damage) MUST_USE;

/* Verified bytes [offset, offset + bytes), which must lie within the file. */
enum status hashed_file_read(struct hashed_file *file, uint64_t offset, size_t bytes, void *out,
	struct hashed_damage *damage) MUST_USE;

#endif
