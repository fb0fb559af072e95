#include "data/mixture.h"

#include "common/hash.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

enum status mixture_parse_share(const char *text, uint64_t *share)
{
	struct split_shares shares;
	FAIL_IF(strpbrk(text, ",/") || split_parse(text, &shares) != STATUS_OK, STATUS_USAGE,
		"the share \"%s\" is not a number above 0 (at most nine digits on each side of the point); "
		"corpora are mixed like this: --train-data 0.7 DIR-A 0.3 DIR-B",
		text);
	*share = shares.share[0];
	return STATUS_OK;
}

uint64_t mixture_seed(uint64_t seed, int index)
{
	const uint64_t numbers[] = {seed, (uint64_t)index};
	return index ? hash_numbers(numbers, 2) : seed;
}

/* ---- opening ---- */

static uint64_t greatest_divisor(uint64_t a, uint64_t b)
{
	while (b) {
		uint64_t rest = a % b;
		a = b;
		b = rest;
	}
	return a;
}

static enum status reduce_shares(struct mixture *mixture)
{
	uint64_t divisor = 0;
	for (int i = 0; i < mixture->count; i++) {
		FAIL_IF(!mixture->sources[i].share, STATUS_USAGE,
			"%s: a share of 0 mixes nothing in: leave the corpus out",
			corpus_directory(mixture->sources[i].corpus));
		divisor = greatest_divisor(mixture->sources[i].share, divisor);
	}
	for (int i = 0; i < mixture->count; i++) {
		mixture->parts[i] = mixture->sources[i].share / divisor;
		FAIL_IF(mixture->parts[i] >> 60 ||
				__builtin_add_overflow(mixture->period, mixture->parts[i], &mixture->period),
			STATUS_USAGE, "the shares of the corpora are too large: give their proportions");
	}
	return STATUS_OK;
}

/* What corpus i has not yet had after s windows, times the sum of all shares. */
static __int128 deficit(const struct mixture *mixture, int i, uint64_t s)
{
	return (__int128)mixture->parts[i] * s - (__int128)mixture->period * mixture->taken[i];
}

enum status mixture_open(struct mixture *mixture, const struct mixture_source *sources, int count)
{
	FAIL_IF(count < 1 || count > MIXTURE_LIMIT, STATUS_USAGE, "%d corpora cannot be mixed: give 1 to %d",
		count, MIXTURE_LIMIT);
	*mixture = (struct mixture){.count = count};
	memcpy(mixture->sources, sources, (size_t)count * sizeof *sources);
	TRY(reduce_shares(mixture));
	for (int i = 0; i < count; i++) {
		assert(sources[i].sampler.window_tokens == sources[0].sampler.window_tokens);
		mixture->taken[i] = sources[i].sampler.start.ordinal;
		mixture->ordinal += mixture->taken[i];
	}
	for (int i = 0; i < count; i++)
		FAIL_IF(deficit(mixture, i, mixture->ordinal) <= -(__int128)mixture->period, STATUS_MISMATCH,
			"%s: the run has had %" PRIu64 " of %" PRIu64
			" windows from it, more than its share of the mixture: the run was begun with other "
			"shares; give the same",
			corpus_directory(sources[i].corpus), mixture->taken[i], mixture->ordinal);
	mixture->start = mixture->ordinal;
	memcpy(mixture->start_taken, mixture->taken, sizeof mixture->taken);
	return STATUS_OK;
}

/* ---- the order ---- */

/* The corpus that the window at `ordinal` comes from. */
static int choose(const struct mixture *mixture)
{
	int best = 0;
	if (mixture->count == 1)
		return 0;
	__int128 largest = deficit(mixture, 0, mixture->ordinal + 1);
	for (int i = 1; i < mixture->count; i++) {
		__int128 other = deficit(mixture, i, mixture->ordinal + 1);
		if (other > largest) {
			largest = other;
			best = i;
		}
	}
	return best;
}

/* After each period the deficits are what they were, so that whole ones need no walking. */
static void seek(struct mixture *mixture, uint64_t ordinal)
{
	assert(ordinal >= mixture->start);
	if (ordinal < mixture->ordinal) {
		mixture->ordinal = mixture->start;
		memcpy(mixture->taken, mixture->start_taken, sizeof mixture->taken);
	}
	uint64_t periods = (ordinal - mixture->ordinal) / mixture->period;
	mixture->ordinal += periods * mixture->period;
	for (int i = 0; i < mixture->count; i++)
		mixture->taken[i] += periods * mixture->parts[i];
	for (; mixture->ordinal < ordinal; mixture->ordinal++)
		mixture->taken[choose(mixture)]++;
}

struct sampler_window mixture_get(struct mixture *mixture, uint64_t ordinal)
{
	seek(mixture, ordinal);
	int source = choose(mixture);
	struct sampler_window window = sampler_get(&mixture->sources[source].sampler, mixture->taken[source]);
	window.ordinal = ordinal;
	window.source = source;
	return window;
}

void mixture_tell(struct mixture *mixture, uint64_t ordinal, struct sampler_position *positions)
{
	seek(mixture, ordinal);
	for (int i = 0; i < mixture->count; i++)
		positions[i] = sampler_tell(&mixture->sources[i].sampler, mixture->taken[i]);
}

void mixture_epochs(struct mixture *mixture, uint64_t ordinal, double *epochs)
{
	seek(mixture, ordinal);
	for (int i = 0; i < mixture->count; i++)
		epochs[i] = sampler_epochs(&mixture->sources[i].sampler, mixture->taken[i]);
}
