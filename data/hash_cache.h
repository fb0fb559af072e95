/*
 * hash_cache.h: verified pages of hashes (data/hash_tree.h), kept in memory, a bounded number of them.
 *
 * A corpus's pages of hashes are numbered through; page n lives in slot n mod slots, so that a corpus with no
 * more pages than slots loses none. Slots cost memory when first used. A page that is here was verified and
 * cannot change: what happens to the file does not matter any more. Any thread, without waiting.
 */
#ifndef DATA_HASH_CACHE_H
#define DATA_HASH_CACHE_H

#include "data/hash_tree.h"

/* 16 MiB: the hashes of 8 GiB. */
enum { HASH_CACHE_SLOTS = 4096 };

struct hash_cache;

/* For pages 0 .. pages - 1. */
enum status hash_cache_create(uint64_t pages, struct hash_cache **out) MUST_USE;
void hash_cache_destroy(struct hash_cache *cache); /* NULL is fine */

/* Hash `index` of page `number`, if the page is here. */
bool hash_cache_get(struct hash_cache *cache, uint64_t number, uint64_t index, uint64_t *hash);
/* Keeps a page; or does not, when another thread writes to its slot. */
void hash_cache_put(struct hash_cache *cache, uint64_t number, const uint64_t *hashes /* [count] */,
	uint64_t count /* at most HASH_TREE_FANOUT */);

#endif
