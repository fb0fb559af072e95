/*
 * Several words merged at once (tokenizer/merge.h), each in a lane of its own. The lanes take their steps in
 * turn until none has a pair to join; a step has no branch, so the processor works on one lane's while
 * another's loads are on the way. Compiled once for each instruction set; what differs is how the lowest rank
 * is found.
 */
#include "tokenizer/merge.h"

#include "common/simd.h"

#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

enum {
	LANES = 8,
	PLACES = 16, /* a word's bytes stand at 1..15 */
};

/* The rank of the part at each place with the next part. */
#ifdef __AVX2__

typedef __m256i ranks_type; /* uint16_t [PLACES] */

/* The first `count` from place 1 on; no others have any. From registers: stores of two bytes each, read as one,
 * would hold the processor up. */
INLINE ranks_type ranks_begin(const uint16_t ranks[MERGE_LANE], uint32_t count)
{
	const __m256i places = _mm256_set_epi16(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, INT16_MAX);
#define R(i) (short)ranks[i]
	__m256i all = _mm256_set_epi16(R(14), R(13), R(12), R(11), R(10), R(9), R(8), R(7), R(6), R(5), R(4),
		R(3), R(2), R(1), R(0), 0);
#undef R
	return _mm256_or_si256(all, _mm256_cmpgt_epi16(places, _mm256_set1_epi16((short)count)));
}

/* Of a vector's half: rank << 16 | place in it. */
INLINE uint32_t half_least(__m128i ranks)
{
	uint32_t least = (uint32_t)_mm_cvtsi128_si32(_mm_minpos_epu16(ranks));
	return least << 16 | least >> 16;
}

/* The lowest, the first of equals: rank << 16 | place. */
INLINE uint32_t ranks_least(const ranks_type *ranks)
{
	uint32_t first = half_least(_mm256_castsi256_si128(*ranks));
	uint32_t second = half_least(_mm256_extracti128_si256(*ranks, 1)) + PLACES / 2;
	return first < second ? first : second;
}

INLINE void ranks_set(ranks_type *ranks, uint32_t place, uint32_t rank)
{
	static const uint16_t window[2 * PLACES] = {[PLACES] = UINT16_MAX};
	__m256i here = _mm256_loadu_si256((const __m256i *)(window + PLACES - place));
	*ranks = _mm256_blendv_epi8(*ranks, _mm256_set1_epi16((short)rank), here);
}

#else

typedef struct {
	uint32_t values[PLACES]; /* rank << 16 | place */
} ranks_type;

INLINE void ranks_set(ranks_type *ranks, uint32_t place, uint32_t rank)
{
	ranks->values[place] = rank << 16 | place;
}

INLINE ranks_type ranks_begin(const uint16_t from[MERGE_LANE], uint32_t count)
{
	ranks_type ranks;
	ranks_set(&ranks, 0, MERGE_SMALL_NONE);
	for (uint32_t place = 1; place < PLACES; place++)
		ranks_set(&ranks, place, place <= count ? from[place - 1] : MERGE_SMALL_NONE);
	return ranks;
}

INLINE uint32_t ranks_least(const ranks_type *ranks)
{
	uint32_t least = ranks->values[0];
	for (int place = 1; place < PLACES; place++)
		least = ranks->values[place] < least ? ranks->values[place] : least;
	return least;
}

#endif

/* A part stays where its first byte is. At the places before the word and after it stand symbols that nothing
 * joins with; what is looked up with them has no rank. */
struct lane {
	ranks_type ranks;
	uint32_t starts; /* a bit for each part's place, and for those two */
	uint16_t symbols[PLACES + 1];
	struct merge_word *word;
};

INLINE void lane_begin(struct lane *lane, const struct merge_table *table, struct merge_word *word)
{
	uint8_t bytes[MERGE_LANE_READ];
	uint16_t ranks[MERGE_LANE], pair;
	memcpy(bytes, word->bytes, sizeof bytes);
	lane->word = word;
	lane->starts = (UINT32_C(4) << word->length) - 1;
	lane->symbols[0] = MERGE_SMALL_EDGE;
	for (size_t i = 0; i < MERGE_LANE_READ; i++)
		lane->symbols[1 + i] = bytes[i];
	lane->symbols[1 + word->length] = MERGE_SMALL_EDGE;
	for (size_t i = 0; i < MERGE_LANE; i++) {
		memcpy(&pair, word->bytes + i, sizeof pair);
		ranks[i] = table->byte_ranks[pair];
	}
	lane->ranks = ranks_begin(ranks, word->length - 1);
}

/* Joins one pair; false: none has a rank, and nothing changes. */
INLINE bool lane_step(struct lane *lane, const uint32_t *small)
{
	uint32_t least = ranks_least(&lane->ranks), rank = least >> 16, at = least % PLACES;
	bool joins = rank != MERGE_SMALL_NONE; /* else at is 0 */
	uint32_t symbol = joins ? 256 + rank : MERGE_SMALL_EDGE;
	uint32_t later = lane->starts & -(UINT32_C(2) << at);
	uint32_t earlier = lane->starts & (((UINT32_C(1) << at) - 1) | 1);
	uint32_t next = (uint32_t)__builtin_ctz(later), after = (uint32_t)__builtin_ctz(later & (later - 1));
	uint32_t before = 31 - (uint32_t)__builtin_clz(earlier);
	lane->symbols[at] = (uint16_t)symbol;
	lane->starts &= ~((uint32_t)joins << next);
	ranks_set(&lane->ranks, next, MERGE_SMALL_NONE);
	ranks_set(&lane->ranks, at, merge_rank(small, symbol, lane->symbols[after]));
	ranks_set(&lane->ranks, before, merge_rank(small, lane->symbols[before], symbol));
	return joins;
}

INLINE void lane_end(const struct lane *lane, const uint32_t *ids)
{
	struct merge_word *word = lane->word;
	uint32_t parts = lane->starts & ((UINT32_C(2) << word->length) - 2);
	for (word->count = 0; parts; parts &= parts - 1)
		word->ids[word->count++] = ids[lane->symbols[__builtin_ctz(parts)]];
}

void SIMD(merge_words)(const struct merge_table *table, struct merge_word *words, size_t count)
{
	struct lane lanes[LANES];
	for (size_t begun = 0; begun < count;) {
		size_t busy = 0;
		for (; busy < LANES && begun < count; busy++)
			lane_begin(&lanes[busy], table, &words[begun++]);
		for (bool joins = true; joins;) {
			joins = false;
			for (size_t i = 0; i < busy; i++)
				joins |= lane_step(&lanes[i], table->small);
		}
		for (size_t i = 0; i < busy; i++)
			lane_end(&lanes[i], table->ids);
	}
}
