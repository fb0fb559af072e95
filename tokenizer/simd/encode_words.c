/*
 * The loop over words (tokenizer/word_cache.h): key, hash, cache line, ids. Compiled once for each
 * instruction set; what differs is how a key is read and compared.
 */
#include "tokenizer/word_cache.h"

#include "common/simd.h"

#ifdef __x86_64__
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

enum { AHEAD = 128 }; /* words whose lines are fetched ahead */

#ifdef __AVX512BW__

typedef __m128i key_type;

INLINE key_type key_read(const uint8_t *word, size_t length, bool careful)
{
	(void)careful; /* masked bytes are not read */
	return _mm_mask_loadu_epi8(
		_mm_set1_epi8((char)length), (__mmask16)_bzhi_u32(0xFFFF, (uint32_t)length), word);
}

INLINE size_t key_line(key_type key)
{
	return word_key_line(
		(struct word_key){(uint64_t)_mm_cvtsi128_si64(key), (uint64_t)_mm_extract_epi64(key, 1)});
}

/* The slot that holds the word; NULL: neither. */
INLINE const struct cache_slot *line_find(const struct cache_line *line, key_type key)
{
	uint32_t equal = _mm512_cmpeq_epi64_mask(_mm512_load_si512(line), _mm512_broadcast_i64x2(key));
	equal &= equal >> 1 & 0x11;
	if (__builtin_expect(!equal, 0))
		return NULL;
	return (const struct cache_slot *)((const char *)line + 8 * (uint32_t)__builtin_ctz(equal));
}

#else

typedef struct word_key key_type;

INLINE key_type key_read(const uint8_t *word, size_t length, bool careful)
{
	return word_key_read(word, length, careful);
}

INLINE size_t key_line(key_type key)
{
	return word_key_line(key);
}

INLINE const struct cache_slot *line_find(const struct cache_line *line, key_type key)
{
	const struct word_key *first = &line->slots[0].key, *second = &line->slots[1].key;
	bool in_first = ((first->low ^ key.low) | (first->high ^ key.high)) == 0;
	bool in_second = ((second->low ^ key.low) | (second->high ^ key.high)) == 0;
	if (__builtin_expect(!(in_first | in_second), 0))
		return NULL;
	return &line->slots[in_second];
}

#endif

/* Writes a slot's ids, all of them wherever the output has room: the next word's cover those too many. */
INLINE size_t emit(void *out, const struct cache_slot *slot, int slot_bits, int out_bits, bool careful)
{
	if (slot_bits == 32) {
		size_t count = slot->ids.wide[SLOT_WIDE];
		memcpy(out, slot->ids.wide, careful ? count * sizeof(uint32_t) : sizeof slot->ids);
		return count;
	}
	size_t count = slot->ids.narrow[SLOT_NARROW];
	if (out_bits == 16) {
		memcpy(out, slot->ids.narrow, careful ? count * sizeof(uint16_t) : sizeof slot->ids);
		return count;
	}
	uint32_t ids[SLOT_NARROW + 1];
	for (int i = 0; i <= SLOT_NARROW; i++)
		ids[i] = slot->ids.narrow[i];
	memcpy(out, ids, careful ? count * sizeof *ids : sizeof ids);
	return count;
}

/* The words whose lines have been asked for, in a ring. */
struct ahead {
	key_type keys[AHEAD];
	struct cache_line *lines[AHEAD];
};

static __attribute__((noinline)) void fetch_long(
	const struct encoder *encoder, const uint8_t *word, size_t length)
{
	if (length > LONG_KEY_BYTES)
		return;
	struct long_key key = long_key_read(word, length);
	const char *line = (const char *)&encoder->longs[long_key_line(&key)];
	for (size_t at = 0; at < sizeof(struct long_line); at += 64)
		__builtin_prefetch(line + at);
}

/* Starts the load that the word will be looked for in. */
INLINE void fetch(struct ahead *ahead, const struct encoder *encoder, const uint8_t *word, size_t length,
	size_t i, bool careful)
{
	if (__builtin_expect(length >= KEY_BYTES, 0)) {
		fetch_long(encoder, word, length);
		return;
	}
	key_type key = key_read(word, length, careful);
	struct cache_line *line = &encoder->cache[key_line(key)];
	__builtin_prefetch(line);
	ahead->keys[i % AHEAD] = key;
	ahead->lines[i % AHEAD] = line;
}

/* The words' lines are on the way while the AHEAD words before are written. */
INLINE enum status encode_some(struct encode_run *run, size_t start, const uint16_t *ends, size_t count,
	int slot_bits, int out_bits, bool careful)
{
	struct ahead ahead;
	const struct encoder *encoder = run->encoder;
	const uint8_t *text = run->text;
	size_t from = start, fetch_from = start, fetched = 0;
	for (; fetched < count && fetched < AHEAD; fetch_from = ends[fetched], fetched++)
		fetch(&ahead, encoder, text + fetch_from, ends[fetched] - fetch_from, fetched, careful);
	char *out = run->out;
	for (size_t i = 0; i < count; from = ends[i], i++) {
		size_t length = ends[i] - from;
		struct cache_line *line = NULL;
		const struct cache_slot *slot = NULL;
		if (__builtin_expect(length < KEY_BYTES, 1)) {
			line = ahead.lines[i % AHEAD];
			slot = line_find(line, ahead.keys[i % AHEAD]);
		}
		if (__builtin_expect(slot != NULL, 1)) {
			out += emit(out, slot, slot_bits, out_bits, careful) * (size_t)(out_bits / 8);
		} else {
			run->out = out;
			TRY(encoder_add_word(run, text + from, length, line));
			out = run->out;
		}
		if (__builtin_expect(fetched < count, 1)) {
			fetch(&ahead, encoder, text + fetch_from, ends[fetched] - fetch_from, fetched,
				careful);
			fetch_from = ends[fetched++];
		}
	}
	run->out = out;
	return STATUS_OK;
}

INLINE enum status encode_all(
	struct encode_run *run, const uint16_t *ends, size_t count, int slot_bits, int out_bits)
{
	size_t easy = count, start = 0;
	while (easy && (!run->fast_end || run->text + ends[easy - 1] > run->fast_end))
		easy--;
	if (easy) {
		TRY(encode_some(run, 0, ends, easy, slot_bits, out_bits, false));
		start = ends[easy - 1];
	}
	return encode_some(run, start, ends + easy, count - easy, slot_bits, out_bits, true);
}

enum status SIMD(encode_words_16_16)(struct encode_run *run, const uint16_t *ends, size_t count)
{
	return encode_all(run, ends, count, 16, 16);
}

enum status SIMD(encode_words_16_32)(struct encode_run *run, const uint16_t *ends, size_t count)
{
	return encode_all(run, ends, count, 16, 32);
}

enum status SIMD(encode_words_32_32)(struct encode_run *run, const uint16_t *ends, size_t count)
{
	return encode_all(run, ends, count, 32, 32);
}
