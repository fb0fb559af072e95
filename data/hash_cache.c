#include "data/hash_cache.h"

#include "common/memory.h"

#include <stdatomic.h>
#include <stdlib.h>

/*
 * A slot's version is odd while a thread writes to it. A reader takes a hash for good if the version was the
 * same even number before and after. Everything is written with release and read with acquire order: who
 * reads anything newer than the first version it saw, sees another version afterwards.
 */
struct hash_slot {
	_Atomic uint64_t version;
	_Atomic uint64_t tag; /* number + 1; 0: empty */
	_Atomic uint64_t hashes[HASH_TREE_FANOUT];
};

struct hash_cache {
	uint64_t slot_count;
	struct hash_slot *slots;
};

enum status hash_cache_create(uint64_t pages, struct hash_cache **out)
{
	struct hash_cache *cache;
	*out = NULL;
	TRY(memory_alloc((void **)&cache, 1, sizeof *cache, "the hashes of a corpus"));
	cache->slot_count = pages < 1 ? 1 : pages < HASH_CACHE_SLOTS ? pages : HASH_CACHE_SLOTS;
	enum status status = memory_alloc((void **)&cache->slots, (size_t)cache->slot_count,
		sizeof *cache->slots, "the hashes of a corpus");
	if (status != STATUS_OK) {
		free(cache);
		return status;
	}
	*out = cache;
	return STATUS_OK;
}

void hash_cache_destroy(struct hash_cache *cache)
{
	if (!cache)
		return;
	free((void *)cache->slots);
	free(cache);
}

bool hash_cache_get(struct hash_cache *cache, uint64_t number, uint64_t index, uint64_t *hash)
{
	struct hash_slot *slot = &cache->slots[number % cache->slot_count];
	uint64_t version = atomic_load_explicit(&slot->version, memory_order_acquire);
	uint64_t tag = atomic_load_explicit(&slot->tag, memory_order_acquire);
	*hash = atomic_load_explicit(&slot->hashes[index], memory_order_acquire);
	return tag == number + 1 && version % 2 == 0 &&
	       atomic_load_explicit(&slot->version, memory_order_relaxed) == version;
}

void hash_cache_put(struct hash_cache *cache, uint64_t number, const uint64_t *hashes, uint64_t count)
{
	struct hash_slot *slot = &cache->slots[number % cache->slot_count];
	uint64_t version = atomic_load_explicit(&slot->version, memory_order_relaxed);
	if (version % 2 || !atomic_compare_exchange_strong_explicit(&slot->version, &version, version + 1,
				   memory_order_acq_rel, memory_order_relaxed))
		return;
	atomic_store_explicit(&slot->tag, number + 1, memory_order_release);
	for (uint64_t i = 0; i < count; i++)
		atomic_store_explicit(&slot->hashes[i], hashes[i], memory_order_release);
	atomic_store_explicit(&slot->version, version + 2, memory_order_release);
}
