#include "data/hash_cache.h"
#include "tests/unit/data/corpus_fixture.h"

#include <pthread.h>

/* Hash `index` of page `number`, as every writer here has it. */
static uint64_t hash_of(uint64_t number, uint64_t index)
{
	return number * 1000003 + index * 7919 + 1;
}

static void put(struct hash_cache *cache, uint64_t number, uint64_t count)
{
	uint64_t hashes[HASH_TREE_FANOUT];
	for (uint64_t i = 0; i < count; i++)
		hashes[i] = hash_of(number, i);
	hash_cache_put(cache, number, hashes, count);
}

static void keeps_all_that_fits(void **state)
{
	(void)state;
	static const uint64_t sizes[] = {0, 1, 5, HASH_CACHE_SLOTS};
	for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
		struct hash_cache *cache;
		uint64_t hash;
		assert_int_equal(hash_cache_create(sizes[s], &cache), STATUS_OK);
		for (uint64_t n = 0; n < sizes[s]; n++) {
			assert_false(hash_cache_get(cache, n, 3, &hash));
			put(cache, n, n % 2 ? 4 : HASH_TREE_FANOUT);
		}
		for (uint64_t n = 0; n < sizes[s]; n++) {
			assert_true(hash_cache_get(cache, n, 3, &hash));
			assert_true(hash == hash_of(n, 3));
			assert_false(hash_cache_get(cache, n + HASH_CACHE_SLOTS, 3, &hash));
		}
		hash_cache_destroy(cache);
	}
	hash_cache_destroy(NULL);
}

static void the_newest_page_of_a_slot_stays(void **state)
{
	(void)state;
	struct hash_cache *cache;
	uint64_t hash;
	assert_int_equal(hash_cache_create(UINT64_C(1) << 40, &cache), STATUS_OK);
	for (uint64_t n = 5; n < 10 * HASH_CACHE_SLOTS; n += HASH_CACHE_SLOTS) {
		put(cache, n, HASH_TREE_FANOUT);
		assert_true(hash_cache_get(cache, n, 511, &hash) && hash == hash_of(n, 511));
		if (n >= HASH_CACHE_SLOTS)
			assert_false(hash_cache_get(cache, n - HASH_CACHE_SLOTS, 511, &hash));
	}
	hash_cache_destroy(cache);
}

struct crowd {
	struct hash_cache *cache;
	uint64_t seed, hits, wrong;
};

static void *hammer(void *argument)
{
	struct crowd *crowd = argument;
	uint64_t random = crowd->seed;
	for (int i = 0; i < 20000; i++) {
		/* Four pages for each of two slots. */
		uint64_t number = fixture_below(&random, 2) + HASH_CACHE_SLOTS * fixture_below(&random, 4);
		uint64_t index = fixture_below(&random, HASH_TREE_FANOUT), hash;
		if (hash_cache_get(crowd->cache, number, index, &hash)) {
			crowd->hits++;
			crowd->wrong += hash != hash_of(number, index);
		} else if (i % 8 == 0) {
			put(crowd->cache, number, HASH_TREE_FANOUT);
		}
	}
	return NULL;
}

/* Threads that replace each other's pages never see a hash of another page. */
static void no_hash_of_another_page(void **state)
{
	(void)state;
	pthread_t threads[4];
	struct crowd crowd[4];
	struct hash_cache *cache;
	uint64_t hits = 0;
	assert_int_equal(hash_cache_create(UINT64_C(1) << 40, &cache), STATUS_OK);
	for (int i = 0; i < 4; i++) {
		crowd[i] = (struct crowd){.cache = cache, .seed = (uint64_t)i * 2 + 1};
		assert_int_equal(pthread_create(&threads[i], NULL, hammer, &crowd[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(crowd[i].wrong, 0);
		hits += crowd[i].hits;
	}
	assert_true(hits > 0);
	hash_cache_destroy(cache);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(keeps_all_that_fits),
		cmocka_unit_test(the_newest_page_of_a_slot_stays),
		cmocka_unit_test(no_hash_of_another_page),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
