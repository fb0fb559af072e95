/*
 * Several words merged at once (tokenizer/merge.h), side by side in the lanes of vectors: a row holds what
 * stands at one place of each word, so what is done place by place is done for all of them. Each step joins a
 * pair in every word that has one left and moves what follows it a place down; only the ranks of the new
 * neighbours are looked up word by word, and those loads do not wait for one another. No branch depends on one
 * word. Compiled once for each instruction set, whose vectors the compiler chooses.
 *
 * Tried: scalar code, eight words taking their steps in turn; 500 cycles a word (of those that WordNet's glosses
 * miss, which have 6 joins, on Zen 5). Side by side it is 300, half of them waiting for the table.
 */
#include "tokenizer/merge.h"

#include "common/simd.h"

#include <string.h>

#define INLINE static inline __attribute__((always_inline))

enum {
#if defined __AVX512BW__
	WORDS = 32, /* side by side: as wide as the processor's vectors */
#elif defined __AVX2__
	WORDS = 16,
#else
	WORDS = 8,
#endif
	GROUPS = 2, /* of words: what one waits for comes while the other is at work */
	NONE = UINT16_MAX,
	AT_ONCE = 8,
	ROWS = MERGE_LANE + 4, /* of symbols: MERGE_SMALL_EDGE stands before the first and after the last */
};

typedef uint16_t row[WORDS] __attribute__((aligned(2 * WORDS)));
typedef uint16_t vector __attribute__((vector_size(2 * WORDS), may_alias));

#define ROW(values)            (*(vector *)(values))
#define CHOOSE(where, yes, no) (((yes) & (vector)(where)) | ((no) & ~(vector)(where)))

/* Places are counted from 0; a part stands behind those before it, with no gap. */
struct group {
	row symbols[ROWS];     /* [1 + place] */
	row ranks[MERGE_LANE]; /* [place]: of the part there with the next one; NONE: they do not join */
	row lengths;           /* parts */
	row at, joined;        /* the place to join at, MERGE_LANE: there is none; the symbol that it gives */
	row before, after;     /* its ranks with the part before it and with the one after it */
	struct merge_word *const *words; /* [count]: the longest first */
	size_t count, active;            /* active: the first ones, which may have something left to join */
	uint32_t steps;                  /* a word of n bytes takes n - 1 at most */
};

/* Places that the parts of active words have. */
INLINE uint16_t group_longest(const struct group *group)
{
	return (uint16_t)(group->words[0]->length - group->steps);
}

INLINE void group_begin(
	struct group *group, const struct merge_small *small, struct merge_word *const *words, size_t count)
{
	const vector ones = ~(vector){0}; /* MERGE_SMALL_EDGE, NONE */
	uint16_t pair;
	ROW(group->symbols[0]) = ones;
	for (size_t i = 1 + MERGE_LANE; i < ROWS; i++)
		ROW(group->symbols[i]) = ones;
	ROW(group->lengths) = ~ones;
	group->words = words;
	group->count = group->active = count;
	group->steps = 0;
	for (size_t w = 0; w < count; w++) {
		const uint8_t *bytes = words[w]->bytes;
		group->lengths[w] = (uint16_t)words[w]->length;
		for (size_t place = 0; place < MERGE_LANE; place++) {
			memcpy(&pair, bytes + place, sizeof pair);
			group->symbols[1 + place][w] = bytes[place];
			group->ranks[place][w] = small->byte_ranks[pair];
		}
	}
	const vector lengths = ROW(group->lengths); /* 0 where there is no word */
	for (uint16_t place = 0; place < MERGE_LANE; place++) {
		ROW(group->symbols[1 + place]) |= (vector)(lengths <= place);
		ROW(group->ranks[place]) |= (vector)(lengths <= (uint16_t)(place + 1));
	}
}

/* Finds each word's lowest rank, the first of equals. False: no word has any. */
INLINE bool group_least(struct group *group)
{
	uint16_t longest = group_longest(group);
	vector least = ROW(group->ranks[0]), at = (vector)(least == NONE) & MERGE_LANE;
	for (uint16_t place = 1; place + 1 < longest; place++) {
		vector ranks = ROW(group->ranks[place]);
		vector lower = (vector)(ranks < least);
		least = CHOOSE(lower, ranks, least);
		at = CHOOSE(lower, (vector){0} + place, at);
	}
	vector none = (vector)(least == NONE);
	ROW(group->at) = at;
	ROW(group->joined) = (least + 256) | none;
	ROW(group->lengths) += ~none;
	uint64_t joins[sizeof none / sizeof(uint64_t)], any = 0;
	none = ~none;
	memcpy(joins, &none, sizeof joins);
	for (size_t i = 0; i < sizeof joins / sizeof *joins; i++)
		any |= joins[i];
	return any;
}

INLINE void group_look_up(struct group *group, const struct merge_small *small)
{
	for (size_t w = 0; w < group->active; w++) {
		size_t at = group->at[w];
		uint32_t symbol = group->joined[w];
		group->before[w] = (uint16_t)merge_rank(small, group->symbols[at][w], symbol);
		group->after[w] = (uint16_t)merge_rank(small, symbol, group->symbols[at + 3][w]);
	}
}

INLINE void group_join(struct group *group)
{
	uint16_t longest = group_longest(group) + 1; /* before it */
	const vector at = ROW(group->at), joined = ROW(group->joined), before = ROW(group->before),
		     after = ROW(group->after);
	for (uint16_t place = 0; place + 1 < longest; place++) {
		vector left = (vector)(at > place), here = (vector)(at == place);
		vector next = (vector)(at == (uint16_t)(place + 1));
		vector *symbols = &ROW(group->symbols[1 + place]), *ranks = &ROW(group->ranks[place]);
		vector symbols_after = ROW(group->symbols[2 + place]),
		       ranks_after = ROW(group->ranks[place + 1]);
		*symbols = CHOOSE(left, *symbols, CHOOSE(here, joined, symbols_after));
		*ranks = CHOOSE(left, CHOOSE(next, before, *ranks), CHOOSE(here, after, ranks_after));
	}
	ROW(group->symbols[longest]) |= (vector)(at < longest);
}

INLINE void group_end(const struct group *group, const struct merge_small *small)
{
	for (size_t w = 0; w < group->count; w++) {
		struct merge_word *word = group->words[w];
		word->count = group->lengths[w];
		for (size_t i = 0; i < word->count; i += AT_ONCE)
			for (size_t j = i; j < i + AT_ONCE; j++)
				word->ids[j] = small->ids[group->symbols[1 + j][w]];
	}
}

/* False: nothing is left to join. */
INLINE bool group_step(struct group *group, const struct merge_small *small)
{
	if (group->steps)
		group_join(group);
	if (!group_least(group))
		return false;
	group->steps++;
	while (group->words[group->active - 1]->length <= group->steps)
		group->active--;
	group_look_up(group, small);
	return true;
}

/* The longest first. */
INLINE void sort_words(struct merge_word *const *words, size_t count, struct merge_word **sorted)
{
	uint8_t ends[MERGE_LANE + 2] = {0};
	for (size_t i = 0; i < count; i++)
		ends[MERGE_LANE - words[i]->length + 1]++;
	for (size_t i = 1; i < sizeof ends; i++)
		ends[i] += ends[i - 1];
	for (size_t i = 0; i < count; i++)
		sorted[ends[MERGE_LANE - words[i]->length]++] = words[i];
}

void SIMD(merge_words)(const struct merge_table *table, struct merge_word *const *words, size_t count)
{
	struct group groups[GROUPS];
	struct merge_word *sorted[MERGE_WORDS];
	sort_words(words, count, sorted);
	for (size_t at = 0; at < count;) {
		size_t begun = 0;
		for (; begun < GROUPS && at < count; begun++) {
			size_t some = count - at < WORDS ? count - at : WORDS;
			group_begin(&groups[begun], table->small, sorted + at, some);
			at += some;
		}
		for (bool joins = true; joins;) {
			joins = false;
			for (size_t i = 0; i < begun; i++)
				joins |= group_step(&groups[i], table->small);
		}
		for (size_t i = 0; i < begun; i++)
			group_end(&groups[i], table->small);
	}
}
