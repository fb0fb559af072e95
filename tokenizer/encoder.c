#include "tokenizer/vocabulary.h"

#include "common/memory.h"
#include "tokenizer/words.h"

#include <stdlib.h>
#include <string.h>

/*
 * The word cache: words of at most 15 bytes that came to at most 4 ids, in 32-byte slots, two to a cache
 * line. A new word takes the first place of its line and pushes the old first one to the second. What does
 * not fit there, up to 31 bytes and 23 ids, has a second, smaller cache.
 */
enum {
	KEY_BYTES = 16,
	SLOT_IDS = 4,
	CACHE_BITS = 16,
	CACHE_LINES = 1 << CACHE_BITS,
	GROUP = 32, /* words whose slots are fetched ahead */
	COUNT_SHIFT = 30,
	WIDE_KEY_BYTES = 32,
	WIDE_IDS = 23,
	WIDE_SLOTS = 1 << 13,
};

/* A word's bytes, zeros, and the length in the last byte, so that no two words share one; all zero: none. */
struct key {
	uint64_t low, high;
};

struct slot {
	struct key key;
	uint32_t ids[SLOT_IDS]; /* their number - 1 in the top two bits of the first */
};

struct line {
	struct slot slots[2];
};

struct wide_slot {
	uint8_t key[WIDE_KEY_BYTES]; /* as struct key */
	uint32_t count, ids[WIDE_IDS];
};

struct encoder {
	const struct tokenizer *tokenizer;
	struct line *cache;     /* [CACHE_LINES] */
	struct wide_slot *wide; /* [WIDE_SLOTS], behind the cache in the same block */
	uint16_t ends[WORDS_CHUNK];
};

/* One call's text and output. */
struct run {
	struct encoder *encoder;
	const uint8_t *text, *fast_end; /* up to fast_end, 16 bytes may be read and 4 ids written at will */
	uint32_t *out;
};

#define CACHE_BYTES (CACHE_LINES * sizeof(struct line) + WIDE_SLOTS * sizeof(struct wide_slot))

enum status encoder_open(const struct tokenizer *tokenizer, struct encoder **out)
{
	struct encoder *encoder;
	*out = NULL;
	TRY(memory_alloc((void **)&encoder, 1, sizeof *encoder, "an encoder"));
	enum status status = memory_alloc_large((void **)&encoder->cache, CACHE_BYTES, "the word cache");
	if (status != STATUS_OK) {
		free(encoder);
		return status;
	}
	encoder->wide = (struct wide_slot *)(encoder->cache + CACHE_LINES);
	encoder->tokenizer = tokenizer;
	*out = encoder;
	return STATUS_OK;
}

void encoder_close(struct encoder *encoder)
{
	if (!encoder)
		return;
	memory_free_large(encoder->cache, CACHE_BYTES);
	free(encoder);
}

/* length < KEY_BYTES */
static inline struct key key_read(const struct run *run, const uint8_t *word, size_t length)
{
	static const uint8_t window[2 * KEY_BYTES] = {
		255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255};
	struct key key = {0, 0}, mask;
	memcpy(&mask, window + KEY_BYTES - length, KEY_BYTES);
	if (__builtin_expect(word < run->fast_end, 1))
		memcpy(&key, word, KEY_BYTES);
	else
		memcpy(&key, word, length);
	key.low &= mask.low;
	key.high = (key.high & mask.high) | (uint64_t)length << 56;
	return key;
}

static inline size_t key_line(struct key key)
{
	uint64_t mixed = (key.low ^ (key.high * UINT64_C(0x9E3779B97F4A7C15))) * UINT64_C(0xD6E8FEB86659FD93);
	mixed ^= mixed >> 32;
	return (size_t)(mixed * UINT64_C(0xD6E8FEB86659FD93) >> (64 - CACHE_BITS));
}

/* A word that no cache has. */
static enum status encode_new(
	struct run *run, const uint8_t *word, size_t length, uint64_t hash, size_t *count)
{
	const struct tokenizer *tokenizer = run->encoder->tokenizer;
	uint32_t id = vocabulary_find_hashed(tokenizer, hash, word, length);
	if (id == VOCABULARY_NONE || !tokenizer->whole[id])
		return vocabulary_merge_word(tokenizer, word, length, run->out, count);
	run->out[0] = id;
	*count = 1;
	return STATUS_OK;
}

/* A word that is not in the first cache. */
static enum status encode_word(struct run *run, const uint8_t *word, size_t length, size_t *count)
{
	uint64_t hash = hash64(word, length);
	if (length >= WIDE_KEY_BYTES)
		return encode_new(run, word, length, hash, count);
	uint8_t key[WIDE_KEY_BYTES] = {0};
	struct wide_slot *slot = &run->encoder->wide[hash >> 32 & (WIDE_SLOTS - 1)];
	memcpy(key, word, length);
	key[WIDE_KEY_BYTES - 1] = (uint8_t)length;
	if (memcmp(slot->key, key, sizeof key) == 0) {
		memcpy(run->out, slot->ids, slot->count * sizeof *slot->ids);
		*count = slot->count;
		return STATUS_OK;
	}
	TRY(encode_new(run, word, length, hash, count));
	if (*count <= WIDE_IDS && (length >= KEY_BYTES || *count > SLOT_IDS)) {
		memcpy(slot->key, key, sizeof key);
		memcpy(slot->ids, run->out, *count * sizeof *slot->ids);
		slot->count = (uint32_t)*count;
	}
	return STATUS_OK;
}

static __attribute__((noinline)) enum status encode_miss(
	struct run *run, const uint8_t *word, size_t length, struct key key, struct line *line)
{
	size_t count;
	TRY(encode_word(run, word, length, &count));
	if (count <= SLOT_IDS) {
		struct slot slot = {.key = key};
		memcpy(slot.ids, run->out, count * sizeof *slot.ids);
		slot.ids[0] |= (uint32_t)(count - 1) << COUNT_SHIFT;
		line->slots[1] = line->slots[0];
		line->slots[0] = slot;
	}
	run->out += count;
	return STATUS_OK;
}

static inline void emit(struct run *run, const struct slot *slot, const uint8_t *word)
{
	size_t count = (slot->ids[0] >> COUNT_SHIFT) + 1;
	uint32_t first = slot->ids[0] & ((UINT32_C(1) << COUNT_SHIFT) - 1);
	if (__builtin_expect(word < run->fast_end, 1))
		memcpy(run->out, slot->ids, sizeof slot->ids);
	else
		memcpy(run->out, slot->ids, count * sizeof *slot->ids);
	run->out[0] = first;
	run->out += count;
}

/* Two passes over a group of words: the first starts the loads that the second waits for. */
static enum status encode_group(struct run *run, size_t start, const uint16_t *ends, size_t count)
{
	struct {
		struct key key;
		struct line *line;
	} words[GROUP];
	const uint8_t *base = run->text;
	size_t from = start;
	for (size_t i = 0; i < count; from = ends[i], i++) {
		if (ends[i] - from >= KEY_BYTES)
			continue;
		words[i].key = key_read(run, base + from, ends[i] - from);
		words[i].line = &run->encoder->cache[key_line(words[i].key)];
		__builtin_prefetch(words[i].line);
	}
	from = start;
	for (size_t i = 0; i < count; from = ends[i], i++) {
		const uint8_t *word = base + from;
		size_t length = ends[i] - from;
		if (length >= KEY_BYTES) {
			size_t ids;
			TRY(encode_word(run, word, length, &ids));
			run->out += ids;
			continue;
		}
		struct key key = words[i].key;
		struct slot *slots = words[i].line->slots;
		if (slots[0].key.low == key.low && slots[0].key.high == key.high)
			emit(run, &slots[0], word);
		else if (slots[1].key.low == key.low && slots[1].key.high == key.high)
			emit(run, &slots[1], word);
		else
			TRY(encode_miss(run, word, length, key, words[i].line));
	}
	return STATUS_OK;
}

static enum status encode_words(struct run *run, const uint16_t *ends, size_t count)
{
	size_t start = 0;
	for (size_t i = 0; i < count; i += GROUP) {
		size_t group = count - i < GROUP ? count - i : GROUP;
		TRY(encode_group(run, start, ends + i, group));
		start = ends[i + group - 1];
	}
	return STATUS_OK;
}

enum status encoder_encode(
	struct encoder *encoder, const char *text, size_t bytes, uint32_t *ids, size_t *count)
{
	struct run run = {encoder, (const uint8_t *)text, (const uint8_t *)text, ids};
	*count = 0;
	if (bytes > KEY_BYTES)
		run.fast_end += bytes - KEY_BYTES;
	while (bytes) {
		size_t words, covered = words_find(run.text, bytes, encoder->ends, &words);
		if (words) {
			TRY(encode_words(&run, encoder->ends, words));
		} else {
			size_t one;
			TRY(encode_word(&run, run.text, covered, &one));
			run.out += one;
		}
		run.text += covered;
		bytes -= covered;
	}
	*count = (size_t)(run.out - ids);
	return STATUS_OK;
}
