/*
 * The loop over words (tokenizer/word_cache.h): key, hash, cache line, ids. Compiled once for each
 * instruction set; what differs is how keys are hashed and compared.
 */
#include "tokenizer/word_cache.h"

#include "common/simd.h"

#ifdef __x86_64__
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")

/* For each length: which of a key's bytes are the word's, and what stands in the others. */
struct key_window {
	uint8_t own[KEY_BYTES] __attribute__((aligned(2 * KEY_BYTES))), rest[KEY_BYTES];
};
#define WINDOW(n) [n] = {.own = {[0 ...(n) - 1] = UINT8_MAX}, .rest = {[(n)... KEY_BYTES - 1] = (n)}}
static const struct key_window windows[KEY_BYTES + 1] = {WINDOW(1), WINDOW(2), WINDOW(3), WINDOW(4),
	WINDOW(5), WINDOW(6), WINDOW(7), WINDOW(8), WINDOW(9), WINDOW(10), WINDOW(11), WINDOW(12), WINDOW(13),
	WINDOW(14), WINDOW(15), [KEY_BYTES] = {.own = {[0 ... KEY_BYTES - 1] = UINT8_MAX}}};

typedef uint8_t key_vector __attribute__((vector_size(KEY_BYTES), may_alias));

/* word_key_read where KEY_BYTES may be read; 0 < length <= KEY_BYTES. By a table: a masked load and a mask made from
 * the length took twice the instructions, when the loop over words ran 3.7 a cycle; now it runs some 3.0. (Tried
 * then: line_find's slot by a table too, for four fewer; lines asked for one by one while words are written.
 * Neither was measurably faster on a busy machine.) */
INLINE void key_read(struct word_key *key, const uint8_t *word, size_t length)
{
	const struct key_window *window = &windows[length];
	key_vector text;
	memcpy(&text, word, sizeof text);
	*(key_vector *)key = (text & *(const key_vector *)window->own) | *(const key_vector *)window->rest;
}

#ifdef __AVX512BW__

/* word_key_line of eight keys at a time; some past `count`. */
INLINE void find_lines(struct word_batch *batch, struct cache_line *cache, uint32_t shift, size_t count)
{
	const __m512i factors =
		_mm512_broadcast_i64x2(_mm_set_epi64x((int64_t)KEY_FACTOR_HIGH, (int64_t)KEY_FACTOR_LOW));
	const __m512i low = _mm512_set_epi64(14, 12, 10, 8, 6, 4, 2, 0);
	const __m512i high = _mm512_set_epi64(15, 13, 11, 9, 7, 5, 3, 1);
	const __m512i base = _mm512_set1_epi64((int64_t)(uintptr_t)cache);
	for (size_t i = 0; i < count; i += 8) {
		__m512i a = _mm512_mullo_epi64(_mm512_load_si512(&batch->keys[i]), factors);
		__m512i b = _mm512_mullo_epi64(_mm512_load_si512(&batch->keys[i + 4]), factors);
		__m512i hash = _mm512_add_epi64(
			_mm512_permutex2var_epi64(a, low, b), _mm512_permutex2var_epi64(a, high, b));
		hash = _mm512_slli_epi64(_mm512_srl_epi64(hash, _mm_cvtsi32_si128((int)shift)), 6);
		_mm512_store_si512(&batch->lines[i], _mm512_add_epi64(hash, base));
	}
}

/* The slot that holds the word; NULL: neither. */
INLINE const struct cache_slot *line_find(const struct cache_line *line, const struct word_key *key)
{
	uint32_t equal = _mm512_cmpeq_epi64_mask(
		_mm512_load_si512(line), _mm512_broadcast_i64x2(_mm_load_si128((const __m128i *)key)));
	equal &= equal >> 1 & 0x11;
	if (__builtin_expect(!equal, 0))
		return NULL;
	return (const struct cache_slot *)((const char *)line + 8 * (uint32_t)__builtin_ctz(equal));
}

#else

INLINE void find_lines(struct word_batch *batch, struct cache_line *cache, uint32_t shift, size_t count)
{
	for (size_t i = 0; i < count; i++)
		batch->lines[i] = cache + word_key_line(batch->keys[i], shift);
}

INLINE const struct cache_slot *line_find(const struct cache_line *line, const struct word_key *key)
{
	const struct word_key *first = &line->slots[0].key, *second = &line->slots[1].key;
	bool in_first = ((first->low ^ key->low) | (first->high ^ key->high)) == 0;
	bool in_second = ((second->low ^ key->low) | (second->high ^ key->high)) == 0;
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

/* The longer words of a batch: no slot has such a key, and their bucket is on the way. */
static __attribute__((noinline)) void prepare_long(
	const struct encode_run *run, struct word_batch *batch, uint64_t longs)
{
	for (; longs; longs &= longs - 1) {
		size_t i = (size_t)__builtin_ctzll(longs);
		uint64_t hash = long_hash(
			run->text + batch->bounds[i], (size_t)(batch->bounds[i + 1] - batch->bounds[i]));
		batch->keys[i] = (struct word_key){.low = hash, .high = KEY_LONG};
		__builtin_prefetch(long_bucket(&run->encoder->longs, hash));
	}
}

static __attribute__((noinline)) void fetch_long(
	const struct encode_run *run, const struct word_batch *batch, uint64_t longs)
{
	for (; longs; longs &= longs - 1)
		long_words_fetch(&run->encoder->longs, batch->keys[__builtin_ctzll(longs)].low);
}

INLINE void read_keys(
	const struct encode_run *run, struct word_batch *batch, const uint16_t lengths[BATCH], bool careful)
{
	const uint16_t *bounds = batch->bounds;
	UNROLL
	for (size_t i = 0; i < batch->count; i++)
		if (careful)
			batch->keys[i] = word_key_read(run->text + bounds[i], lengths[i], true);
		else
			key_read(&batch->keys[i], run->text + bounds[i], lengths[i]);
}

/* Starts the loads of the lines that the words will be looked for in. Returns which words are longer ones. */
INLINE uint64_t prepare(const struct encode_run *run, struct word_batch *batch, const uint16_t *bounds,
	size_t count, bool careful)
{
	const struct encoder *encoder = run->encoder;
	uint16_t lengths[BATCH], all = 0; /* KEY_BYTES: of a longer word */
	uint64_t longs = 0;
	batch->bounds = bounds;
	batch->count = count;
	for (size_t i = 0; i < BATCH; i++) { /* some past `count`: in vectors */
		uint16_t length = (uint16_t)(bounds[i + 1] - bounds[i]);
		lengths[i] = length < KEY_BYTES ? length : KEY_BYTES;
		all |= lengths[i];
	}
	read_keys(run, batch, lengths, careful);
	if (all & KEY_BYTES)
		for (size_t i = 0; i < count; i++)
			longs |= (uint64_t)(lengths[i] == KEY_BYTES) << i;
	find_lines(batch, encoder->cache, encoder->shift, count);
	UNROLL
	for (size_t i = 0; i < count; i++)
		__builtin_prefetch(batch->lines[i]);
	if (__builtin_expect(longs != 0, 0))
		prepare_long(run, batch, longs);
	return longs;
}

INLINE enum status write_batch(
	struct encode_run *run, struct word_batch *batch, int slot_bits, int out_bits, bool careful)
{
	char *out = run->out;
	size_t count = batch->count;
	for (size_t i = 0; i < count; i++) {
		const struct cache_slot *slot = line_find(batch->lines[i], &batch->keys[i]);
		if (__builtin_expect(slot != NULL, 1)) {
			out += emit(out, slot, slot_bits, out_bits, careful) * (size_t)(out_bits / 8);
			continue;
		}
		run->out = out;
		TRY(encoder_add_word(run, batch, i));
		out = run->out;
	}
	run->out = out;
	return STATUS_OK;
}

/* A batch's lines are on the way while the one before is written. */
INLINE enum status encode_some(struct encode_run *run, const uint16_t *bounds, size_t count, int slot_bits,
	int out_bits, bool careful)
{
	struct word_batch batches[2];
	size_t done = 0, ready = count < BATCH ? count : BATCH;
	uint64_t longs = prepare(run, &batches[0], bounds, ready, careful);
	for (int turn = 0; done < count; turn ^= 1) {
		size_t next = count - ready < BATCH ? count - ready : BATCH;
		uint64_t next_longs = 0;
		if (next)
			next_longs = prepare(run, &batches[turn ^ 1], bounds + ready, next, careful);
		if (longs)
			fetch_long(run, &batches[turn], longs);
		TRY(write_batch(run, &batches[turn], slot_bits, out_bits, careful));
		done = ready;
		ready += next;
		longs = next_longs;
	}
	return STATUS_OK;
}

INLINE enum status encode_all(
	struct encode_run *run, const uint16_t *bounds, size_t count, int slot_bits, int out_bits)
{
	size_t easy = count;
	while (easy && (!run->fast_end || run->text + bounds[easy] > run->fast_end))
		easy--;
	if (easy)
		TRY(encode_some(run, bounds, easy, slot_bits, out_bits, false));
	if (easy < count)
		TRY(encode_some(run, bounds + easy, count - easy, slot_bits, out_bits, true));
	return STATUS_OK;
}

enum status SIMD(encode_words_16_16)(struct encode_run *run, const uint16_t *bounds, size_t count)
{
	return encode_all(run, bounds, count, 16, 16);
}

enum status SIMD(encode_words_16_32)(struct encode_run *run, const uint16_t *bounds, size_t count)
{
	return encode_all(run, bounds, count, 16, 32);
}

enum status SIMD(encode_words_32_32)(struct encode_run *run, const uint16_t *bounds, size_t count)
{
	return encode_all(run, bounds, count, 32, 32);
}
