/*
 * mixture.h: several corpora mixed in given shares, `--train-data 0.7 A 0.3 B`.
 *
 * Window s of the run (from 0) comes from the corpus whose deficit w_i * (s + 1) - taken_i is largest, the
 * first of them where several are equal: w_i is its share of the sum, taken_i the windows taken from it so
 * far. So after s windows none has had more than w_i * s + 1; shares are whole numbers (of 10^-9) and the
 * arithmetic is exact. Each corpus has its sampler, with epochs of its own; its windows are its ordinals 0,
 * 1, 2 ... in turn.
 *
 *    0.7 A, 0.3 B    A B A A A B A A B A   and so on, the same ten again: shares in lowest terms are 7 and 3,
 *                    and after 7 + 3 windows all deficits are zero once more
 *
 * The state is the samplers' positions, one a corpus; the run's ordinal is the sum of theirs. No dynamic
 * memory: a struct mixture may be copied, and threads use a copy each.
 */
#ifndef DATA_MIXTURE_H
#define DATA_MIXTURE_H

#include "data/sampler.h"

enum { MIXTURE_LIMIT = 32 };

struct mixture_source {
	struct corpus *corpus; /* the caller's */
	struct sampler sampler;
	uint64_t share; /* any unit */
};

struct mixture {
	int count;
	struct mixture_source sources[MIXTURE_LIMIT];
	uint64_t period, parts[MIXTURE_LIMIT]; /* shares in lowest terms, and their sum */
	/* Where mixture_get is, and where the run (re)started. */
	uint64_t ordinal, taken[MIXTURE_LIMIT];
	uint64_t start, start_taken[MIXTURE_LIMIT];
};

/* "0.7", "3", "12.5" (not zero, at most nine digits on each side of the point) in units of 10^-9. */
enum status mixture_parse_share(const char *text, uint64_t *share) MUST_USE;

/* The seed of corpus number `index`'s sampler: the run's own for the first, so that one corpus alone is as
 * without a mixture; then hash_numbers of {seed, index}. */
uint64_t mixture_seed(uint64_t seed, int index);

/* 1 to MIXTURE_LIMIT sources, copied, with windows of one length. Their samplers stand where the run goes on:
 * fresh, or after sampler_resume. Positions that these shares cannot lead to are STATUS_MISMATCH. */
enum status mixture_open(
	struct mixture *mixture, const struct mixture_source *sources /* [count] */, int count) MUST_USE;

/* Window `ordinal` of the run, not before the start; `source` says of which corpus. O(corpora) for the next
 * ordinal, at most O(corpora * period) for any. */
struct sampler_window mixture_get(struct mixture *mixture, uint64_t ordinal);

/* The positions before window `ordinal`. */
void mixture_tell(
	struct mixture *mixture, uint64_t ordinal, struct sampler_position *positions /* [count] */);

/* sampler_epochs of each corpus, before window `ordinal`. */
void mixture_epochs(struct mixture *mixture, uint64_t ordinal, double *epochs /* [count] */);

#endif
