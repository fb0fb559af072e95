/*
 * sampler.h: the order of training, as a pure function; costs no memory and no start-up.
 *
 * A split's documents make one stream of N tokens. Window k of an epoch is tokens [o + kT, o + kT + T], T + 1
 * ids, the last shared with the next window. o is the epoch's offset in [0, min(T, N - T)), drawn from (seed,
 * epoch); it is 0 for validation and test. The epoch has floor((N - 1 - o) / T) windows, visited in the order
 * of a keyed Feistel permutation (6 rounds, cycle walking), key = hash(seed, epoch, split part). Every window
 * comes exactly once an epoch. A window's `ordinal` is its number in the run from 0; a batch may end one
 * epoch and begin the next.
 *
 *    tokens    |---o---|--- window 0 ---|--- window 1 ---|--- window 2 ---|--tail--|     N tokens
 *    ordinal            epoch 0: 2 0 1          epoch 1, another o: 0 2 1 ...
 *
 * Exactly, and never to change (golden values: tests/unit/data/test_sampler.c), H being hash_numbers of
 * common/hash.h and mulhi the upper half of a 64 x 64 bit product:
 *
 *    o                = mulhi(H{seed, epoch}, min(T, N - T))
 *    window at place i of epoch e = sampler_permute(i, windows of e, H{seed, e, part})
 *    permute(i, count, key): h = the least with 4^h >= count; x = i; do { L = x >> h; R = x mod 2^h;
 *       six times, r = 0..5: (L, R) = (R, L xor (mix(R + key + (r + 1) * 0x9E3779B97F4A7C15) mod 2^h));
 *       x = L * 2^h + R } while (x >= count); all modulo 2^64, with
 *    mix(z): z = (z xor z >> 30) * 0xBF58476D1CE4E5B9; z = (z xor z >> 27) * 0x94D049BB133111EB; z xor
 *            z >> 31
 *
 * The whole state of training's data is therefore {corpus hash, split, seed, position}; it resumes exactly on
 * any number of ranks, with any batch size, threads or prefetch depth.
 *
 * T may change on resume. Each epoch goes to its end with the windows that it began with: a new T' must
 * divide them, and cuts those that remain into T / T' windows each, one after the other, in the same order.
 * Nothing of the epoch comes twice or is left out. The next epoch begins with T'. Any other T' is an error
 * that says when it can begin: with an epoch.
 *
 *    tokens of the epoch, as trained     0       8       16      24      32
 *    it begins with T = 8                2       0       3       1       |     windows, where they begin
 *    after two, T' = 4                                   3   3   1   1   |
 *    after one of these, T'' = 2                             3 3 1 1 1 1 |     8, say, must wait
 *
 * More exactly: window lengths must divide the epoch's own, and the number of its tokens that are done.
 */
#ifndef DATA_SAMPLER_H
#define DATA_SAMPLER_H

#include "data/split.h"

/* Where a run stands: what a checkpoint keeps. */
struct sampler_position {
	uint64_t ordinal;      /* windows consumed by the run, of whatever length */
	uint64_t epoch;        /* which the next window is of */
	uint64_t epoch_window; /* tokens of the windows that the epoch began with */
	uint64_t epoch_tokens; /* consumed of the epoch */
};

struct sampler {
	struct split_range range;
	uint64_t seed;
	enum split_part part;
	uint64_t window_tokens; /* T */
	bool shuffled;          /* false: o = 0 and windows in order (validation, test) */
	struct sampler_position start;
	/* Of the epoch looked at last (sampler_get keeps them). Windows are of T tokens, all of them from
	 * first_ordinal on; the permuted ones consist of `pieces` of these each. */
	uint64_t epoch, epoch_first_ordinal, epoch_windows, epoch_offset, epoch_key;
	uint64_t epoch_permuted, epoch_pieces, epoch_done; /* done: windows before first_ordinal */
};

struct sampler_window {
	uint64_t ordinal;     /* number of the window in the run */
	uint64_t epoch;       /* from 0 */
	uint64_t first_token; /* of the corpus; the window is T + 1 tokens from here */
	int source;           /* which corpus of a mixture (data/mixture.h); 0 */
};

/* T >= 1. N < T + 1 is STATUS_USAGE with the numbers and the cure. `range` is copied. */
enum status sampler_open(struct sampler *sampler, const struct split_range *range, enum split_part part,
	uint64_t window_tokens, uint64_t seed, bool shuffled) MUST_USE;

/* Goes on from a position that sampler_tell gave, in a run with the same range, part and seed, with the T of
 * sampler_open. STATUS_MISMATCH when T cannot begin here. Ordinals before the position's are gone. */
enum status sampler_resume(struct sampler *sampler, const struct sampler_position *position) MUST_USE;

/* The position before window `ordinal`. Costs as sampler_get does. */
struct sampler_position sampler_tell(struct sampler *sampler, uint64_t ordinal);

/* How often the split has been gone through before window `ordinal`: epochs, and the fraction of the last. */
double sampler_epochs(struct sampler *sampler, uint64_t ordinal);

/* Amortized O(1) for ordinals that go up; O(epochs) when they go back below the epoch looked at last. Not
 * thread-safe (copy the struct instead). */
struct sampler_window sampler_get(struct sampler *sampler, uint64_t ordinal);

/* Windows of epoch `epoch` if it begins with T, and its offset o. */
uint64_t sampler_epoch_windows(const struct sampler *sampler, uint64_t epoch, uint64_t *offset);

/* The permutation alone: a bijection of [0, count). count >= 1. */
uint64_t sampler_permute(uint64_t index, uint64_t count, uint64_t key);

#endif
