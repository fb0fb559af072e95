/*
 * hashed_file.h: a mapped file of which no byte is used before its 4 KiB page is verified.
 *
 * The file's pages are checked against the leaves of its hash tree (data/hash_tree.h) at every read; a page
 * of the tree is checked against its parent, up to the root that the caller vouches for, on first use (one
 * bit remembers it). A page is first copied, then hashed, then used: what was hashed is what is used,
 * whatever the disk does between. All functions may be called from any thread.
 */
#ifndef DATA_HASHED_FILE_H
#define DATA_HASHED_FILE_H

#include "data/hash_tree.h"

#include <stdatomic.h>

struct hashed_file {
	const uint8_t *data; /* [bytes], mapped; NULL when empty. Owned by the caller, as is `hashes` */
	uint64_t bytes;
	const uint8_t *hashes; /* [8 * shape.total], mapped: the tree */
	struct hash_tree_shape shape;
	uint64_t root;
	uint64_t page_start[HASH_TREE_LEVELS + 1]; /* number of each level's first hash page, in all levels */
	_Atomic uint64_t *verified;                /* one bit a hash page; owned */
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
	bool in_tree;       /* a page of hashes, not of the file */
	uint64_t page;      /* of the file, or of the tree's level */
	uint64_t first_byte, end_byte; /* of the file, or of the tree */
	uint64_t file_first, file_end; /* bytes of the file that it leaves unverified */
};

/* Fails only for lack of memory. `bytes`, `root` and the length of `hashes` are trusted to fit together. */
enum status hashed_file_open(struct hashed_file *file, const uint8_t *data, uint64_t bytes, uint64_t root,
	const uint8_t *hashes) MUST_USE;
void hashed_file_close(struct hashed_file *file);

/* Copies and verifies page `page`; *bytes is 4096, less for the last page. Leaves no message on failure: it
 * fills *damage and returns damage->status. */
enum status hashed_file_page(struct hashed_file *file, uint64_t page, union hashed_page *out, size_t *bytes,
	struct hashed_damage *damage) MUST_USE;

/* Verified bytes [offset, offset + bytes), which must lie within the file. */
enum status hashed_file_read(struct hashed_file *file, uint64_t offset, size_t bytes, void *out,
	struct hashed_damage *damage) MUST_USE;

#endif
