/*
 * hash_tree.h: XXH3-64 of every 4 KiB page of a file, then of every 4 KiB page of those hashes, up to one
 * root.
 *
 * Level 0 has one u64 for each page of the file (the last page may be short; it is hashed as long as it is).
 * Level k+1 has one u64 for each 4 KiB page of level k's hashes (512 hashes a page; the last may be short).
 * The level with one hash is the top and that hash is the root. An empty file has no levels and root 0.
 *
 * NAME.sum (version 1), little-endian: the trees of NAME.bin, NAME.idx, NAME.key, in this order:
 *    0    8 bytes  "FERRYSUM"
 *    8    u64      version 1
 *    16   3 x { u64 file bytes, u64 root }
 *    64   the three trees, each its levels from 0 to the top, u64 each, no padding
 *    end  u64      XXH3-64 of the first 64 bytes, then the file ends
 * The manifest's roots vouch for the trees; this file needs no other trust.
 */
#ifndef DATA_HASH_TREE_H
#define DATA_HASH_TREE_H

#include "common/error.h"

#include <stdint.h>

enum { HASH_TREE_PAGE = 4096, HASH_TREE_FANOUT = HASH_TREE_PAGE / 8, HASH_TREE_LEVELS = 8 };

/* Shape of the tree of a file of `bytes` bytes. */
struct hash_tree_shape {
	int levels;
	uint64_t count[HASH_TREE_LEVELS]; /* hashes of each level */
	uint64_t start[HASH_TREE_LEVELS]; /* index of the level's first hash within the tree */
	uint64_t total;                   /* hashes in all */
};
void hash_tree_shape(uint64_t bytes, struct hash_tree_shape *shape);

/* Builds a tree while a file is written. */
struct hash_tree_builder;
enum status hash_tree_builder_open(struct hash_tree_builder **out) MUST_USE;
enum status hash_tree_builder_add(struct hash_tree_builder *builder, const void *data, size_t bytes) MUST_USE;
/* Completes the tree: *hashes (owned by the builder) has shape->total entries; the root is its last (0 if
 * none). */
enum status hash_tree_builder_finish(struct hash_tree_builder *builder, struct hash_tree_shape *shape,
	const uint64_t **hashes, uint64_t *bytes) MUST_USE;
void hash_tree_builder_close(struct hash_tree_builder *builder);

#endif
