#include "data/sampler.h"

#include "common/hash.h"

#include <assert.h>
#include <inttypes.h>

enum { ROUNDS = 6 };

/* ---- the permutation ---- */

/* The finalizer of splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014;
 * constants of D. Stafford's mix 13): a bijection of u64 in which every input bit flips half the output's. */
static uint64_t mix(uint64_t z)
{
	z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
	z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
	return z ^ z >> 31;
}

/* A bijection of [0, 4^half_bits), whatever mix is: each round can be undone. */
static uint64_t feistel(uint64_t x, int half_bits, uint64_t key)
{
	const uint64_t mask = (UINT64_C(1) << half_bits) - 1;
	uint64_t left = x >> half_bits, right = x & mask;
	for (int round = 0; round < ROUNDS; round++) {
		key += UINT64_C(0x9E3779B97F4A7C15);
		uint64_t next = left ^ (mix(right + key) & mask);
		left = right;
		right = next;
	}
	return left << half_bits | right;
}

uint64_t sampler_permute(uint64_t index, uint64_t count, uint64_t key)
{
	int half_bits = 0;
	assert(index < count);
	if (count > 1)
		half_bits = (64 - __builtin_clzll(count - 1) + 1) / 2;
	/* Cycle walking: follow the larger bijection until it comes back below count. At most 4 steps on
	 * average. */
	do
		index = feistel(index, half_bits, key);
	while (index >= count);
	return index;
}

/* ---- epochs ---- */

uint64_t sampler_epoch_windows(const struct sampler *sampler, uint64_t epoch, uint64_t *offset)
{
	const uint64_t tokens = sampler->range.tokens, window = sampler->window_tokens;
	*offset = 0;
	if (sampler->shuffled) {
		const uint64_t numbers[] = {sampler->seed, epoch};
		uint64_t limit = tokens - window < window ? tokens - window : window;
		*offset = (uint64_t)((unsigned __int128)hash_numbers(numbers, 2) * limit >> 64);
	}
	return (tokens - 1 - *offset) / window;
}

static void look_at(struct sampler *sampler, uint64_t epoch, uint64_t first_ordinal)
{
	const uint64_t numbers[] = {sampler->seed, epoch, (uint64_t)sampler->part};
	sampler->epoch = epoch;
	sampler->epoch_first_ordinal = first_ordinal;
	sampler->epoch_windows = sampler_epoch_windows(sampler, epoch, &sampler->epoch_offset);
	sampler->epoch_key = hash_numbers(numbers, 3);
}

enum status sampler_open(struct sampler *sampler, const struct split_range *range, enum split_part part,
	uint64_t window_tokens, uint64_t seed, bool shuffled)
{
	FAIL_IF(window_tokens < 1, STATUS_USAGE,
		"a window of 0 tokens is impossible: --seq-length must be at least 1");
	FAIL_IF(range->tokens <= window_tokens, STATUS_USAGE,
		"the %s split has %" PRIu64 " tokens, but one window needs %" PRIu64
		" (--seq-length and one more): give it a larger share (--split), more text, or a smaller "
		"--seq-length",
		split_part_name(part), range->tokens, window_tokens + 1);
	*sampler = (struct sampler){.range = *range,
		.seed = seed,
		.part = part,
		.window_tokens = window_tokens,
		.shuffled = shuffled};
	look_at(sampler, 0, 0);
	return STATUS_OK;
}

static void seek(struct sampler *sampler, uint64_t ordinal)
{
	if (!sampler->shuffled) { /* every epoch is alike */
		uint64_t epoch = ordinal / sampler->epoch_windows;
		look_at(sampler, epoch, epoch * sampler->epoch_windows);
		return;
	}
	if (ordinal < sampler->epoch_first_ordinal)
		look_at(sampler, 0, 0);
	while (ordinal - sampler->epoch_first_ordinal >= sampler->epoch_windows)
		look_at(sampler, sampler->epoch + 1, sampler->epoch_first_ordinal + sampler->epoch_windows);
}

struct sampler_window sampler_get(struct sampler *sampler, uint64_t ordinal)
{
	/* Unsigned: true for ordinals before the epoch too. */
	if (ordinal - sampler->epoch_first_ordinal >= sampler->epoch_windows)
		seek(sampler, ordinal);
	uint64_t place = ordinal - sampler->epoch_first_ordinal;
	if (sampler->shuffled)
		place = sampler_permute(place, sampler->epoch_windows, sampler->epoch_key);
	return (struct sampler_window){.ordinal = ordinal,
		.epoch = sampler->epoch,
		.first_token =
			sampler->range.first_token + sampler->epoch_offset + place * sampler->window_tokens};
}
