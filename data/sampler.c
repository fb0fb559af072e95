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

/* Windows of `window` tokens that the epoch has when it begins with these, and its offset. */
static uint64_t epoch_shape(const struct sampler *sampler, uint64_t epoch, uint64_t window, uint64_t *offset)
{
	const uint64_t tokens = sampler->range.tokens;
	*offset = 0;
	if (sampler->shuffled) {
		const uint64_t numbers[] = {sampler->seed, epoch};
		uint64_t limit = tokens - window < window ? tokens - window : window;
		*offset = (uint64_t)((unsigned __int128)hash_numbers(numbers, 2) * limit >> 64);
	}
	return (tokens - 1 - *offset) / window;
}

uint64_t sampler_epoch_windows(const struct sampler *sampler, uint64_t epoch, uint64_t *offset)
{
	return epoch_shape(sampler, epoch, sampler->window_tokens, offset);
}

static void look_at(struct sampler *sampler, const struct sampler_position *position)
{
	const uint64_t window = sampler->window_tokens;
	const uint64_t numbers[] = {sampler->seed, position->epoch, (uint64_t)sampler->part};
	sampler->epoch = position->epoch;
	sampler->epoch_first_ordinal = position->ordinal;
	sampler->epoch_permuted =
		epoch_shape(sampler, position->epoch, position->epoch_window, &sampler->epoch_offset);
	sampler->epoch_pieces = position->epoch_window / window;
	sampler->epoch_done = position->epoch_tokens / window;
	sampler->epoch_windows = sampler->epoch_permuted * sampler->epoch_pieces - sampler->epoch_done;
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
		.shuffled = shuffled,
		.start = {.epoch_window = window_tokens}};
	look_at(sampler, &sampler->start);
	return STATUS_OK;
}

enum status sampler_resume(struct sampler *sampler, const struct sampler_position *position)
{
	const uint64_t window = sampler->window_tokens, before = position->epoch_window;
	struct sampler_position start = *position;
	uint64_t offset;
	if (!start.epoch_tokens) { /* the epoch has not begun */
		start.epoch_window = window;
	} else {
		FAIL_IF(!before || sampler->range.tokens <= before, STATUS_MISMATCH,
			"a run with windows of %" PRIu64 " tokens cannot have begun on %" PRIu64 " tokens",
			before, sampler->range.tokens);
		uint64_t left = epoch_shape(sampler, start.epoch, before, &offset) * before;
		FAIL_IF(start.epoch_tokens >= left, STATUS_MISMATCH,
			"epoch %" PRIu64 " has %" PRIu64 " tokens, fewer than the %" PRIu64
			" that the run has seen of it",
			start.epoch, left, start.epoch_tokens);
		left -= start.epoch_tokens;
		FAIL_IF(before % window || start.epoch_tokens % window, STATUS_MISMATCH,
			"--seq-length %" PRIu64 " must wait for the next epoch: this one began with %" PRIu64
			", and %" PRIu64 " tokens of it are left; until then, give %" PRIu64
			" or a divisor of it that divides %" PRIu64 " too",
			window, before, left, before, start.epoch_tokens);
	}
	sampler->start = start;
	look_at(sampler, &start);
	return STATUS_OK;
}

static void seek(struct sampler *sampler, uint64_t ordinal)
{
	struct sampler_position next = {.epoch_window = sampler->window_tokens};
	assert(ordinal >= sampler->start.ordinal);
	if (!sampler->shuffled && !sampler->start.ordinal) { /* every epoch is alike */
		next.epoch = ordinal / sampler->epoch_windows;
		next.ordinal = next.epoch * sampler->epoch_windows;
		look_at(sampler, &next);
		return;
	}
	if (ordinal < sampler->epoch_first_ordinal)
		look_at(sampler, &sampler->start);
	while (ordinal - sampler->epoch_first_ordinal >= sampler->epoch_windows) {
		next.epoch = sampler->epoch + 1;
		next.ordinal = sampler->epoch_first_ordinal + sampler->epoch_windows;
		look_at(sampler, &next);
	}
}

/* The window's place in its epoch, counting windows of T. */
static uint64_t find_place(struct sampler *sampler, uint64_t ordinal)
{
	/* Unsigned: true for ordinals before the epoch too. */
	if (ordinal - sampler->epoch_first_ordinal >= sampler->epoch_windows)
		seek(sampler, ordinal);
	return ordinal - sampler->epoch_first_ordinal + sampler->epoch_done;
}

struct sampler_window sampler_get(struct sampler *sampler, uint64_t ordinal)
{
	uint64_t place = find_place(sampler, ordinal), piece = place % sampler->epoch_pieces;
	place /= sampler->epoch_pieces;
	if (sampler->shuffled)
		place = sampler_permute(place, sampler->epoch_permuted, sampler->epoch_key);
	return (struct sampler_window){.ordinal = ordinal,
		.epoch = sampler->epoch,
		.first_token = sampler->range.first_token + sampler->epoch_offset +
			       (place * sampler->epoch_pieces + piece) * sampler->window_tokens};
}

struct sampler_position sampler_tell(struct sampler *sampler, uint64_t ordinal)
{
	uint64_t place = find_place(sampler, ordinal);
	return (struct sampler_position){.ordinal = ordinal,
		.epoch = sampler->epoch,
		.epoch_window = sampler->epoch_pieces * sampler->window_tokens,
		.epoch_tokens = place * sampler->window_tokens};
}

double sampler_epochs(struct sampler *sampler, uint64_t ordinal)
{
	uint64_t place = find_place(sampler, ordinal);
	return (double)sampler->epoch +
	       (double)place / (double)(sampler->epoch_permuted * sampler->epoch_pieces);
}
