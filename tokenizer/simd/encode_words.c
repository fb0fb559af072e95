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

enum { GROUP = 64 }; /* words whose lines are fetched ahead */

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

struct group {
	key_type keys[GROUP];
	struct cache_line *lines[GROUP];
};

INLINE void fetch_long(const struct encoder *encoder, const uint8_t *word, size_t length)
{
	if (length > LONG_KEY_BYTES)
		return;
	struct long_key key = long_key_read(word, length);
	const char *line = (const char *)&encoder->longs[long_key_line(&key)];
	for (size_t at = 0; at < sizeof(struct long_line); at += 64)
		__builtin_prefetch(line + at);
}

/* Two passes over a group of words: the first starts the loads that the second waits for. */
INLINE enum status encode_group(struct encode_run *run, size_t start, const uint16_t *ends, size_t count,
	int slot_bits, int out_bits, bool careful)
{
	struct group group;
	const uint8_t *text = run->text;
	struct cache_line *cache = run->encoder->cache;
	size_t from = start;
	for (size_t i = 0; i < count; from = ends[i], i++) {
		size_t length = ends[i] - from;
		if (__builtin_expect(length >= KEY_BYTES, 0)) {
			fetch_long(run->encoder, text + from, length);
			continue;
		}
		group.keys[i] = key_read(text + from, length, careful);
		group.lines[i] = &cache[key_line(group.keys[i])];
		__builtin_prefetch(group.lines[i]);
	}
	char *out = run->out;
	from = start;
	for (size_t i = 0; i < count; from = ends[i], i++) {
		size_t length = ends[i] - from;
		const struct cache_slot *slot = __builtin_expect(length < KEY_BYTES, 1)
							? line_find(group.lines[i], group.keys[i])
							: NULL;
		if (__builtin_expect(slot != NULL, 1)) {
			out += emit(out, slot, slot_bits, out_bits, careful) * (size_t)(out_bits / 8);
			continue;
		}
		run->out = out;
		TRY(encoder_add_word(run, text + from, length, length < KEY_BYTES ? group.lines[i] : NULL));
		out = run->out;
	}
	run->out = out;
	return STATUS_OK;
}

INLINE enum status encode_all(
	struct encode_run *run, const uint16_t *ends, size_t count, int slot_bits, int out_bits)
{
	size_t start = 0;
	for (size_t i = 0; i < count; i += GROUP) {
		size_t group = count - i < GROUP ? count - i : GROUP;
		if (run->text + ends[i + group - 1] <= run->fast_end)
			TRY(encode_group(run, start, ends + i, group, slot_bits, out_bits, false));
		else
			TRY(encode_group(run, start, ends + i, group, slot_bits, out_bits, true));
		start = ends[i + group - 1];
	}
	return STATUS_OK;
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
