#include "tokenizer/word_cache.h"

#include "common/memory.h"
#include "common/simd.h"

#include <stdlib.h>

enum {
	ID_ROOM = 4096, /* ids of one word that an encoder keeps room for */
	NARROW_VOCABULARY = 1 << 16,
	SEED_GROUP = 32,
	AT_ONCE = 8,
	PIECES = 32, /* of a word at a time */
};
#define CACHE_BYTES (CACHE_LINES * sizeof(struct cache_line) + LONG_LINES * sizeof(struct long_line))

/* A new slot at the head of its line. */
static void cache_insert(struct encoder *encoder, struct cache_line *line, struct word_key key,
	const uint32_t *ids, size_t count)
{
	struct cache_slot slot = {.key = key};
	if (count > (encoder->narrow ? SLOT_NARROW : SLOT_WIDE))
		return;
	for (size_t i = 0; i < count; i++)
		if (encoder->narrow)
			slot.ids.narrow[i] = (uint16_t)ids[i];
		else
			slot.ids.wide[i] = ids[i];
	if (encoder->narrow)
		slot.ids.narrow[SLOT_NARROW] = (uint16_t)count;
	else
		slot.ids.wide[SLOT_WIDE] = (uint32_t)count;
	line->slots[1] = line->slots[0];
	line->slots[0] = slot;
}

/* The tokens that are words of their own, the frequent ones (those of low ids) last; a few at a time, so that
 * their lines are on the way when the first of them needs its own. */
static void cache_seed(struct encoder *encoder)
{
	const struct tokenizer *tokenizer = encoder->tokenizer;
	struct word_key keys[SEED_GROUP];
	uint32_t ids[SEED_GROUP];
	for (uint32_t id = tokenizer->vocabulary; id > 0;) {
		size_t count = 0;
		while (id > 0 && count < SEED_GROUP) {
			uint32_t start = tokenizer->offsets[--id],
				 length = tokenizer->offsets[id + 1] - start;
			if (length == 0 || length >= KEY_BYTES || !tokenizer->whole[id])
				continue;
			keys[count] = word_key_read(tokenizer->bytes + start, length,
				start + KEY_BYTES > tokenizer->offsets[tokenizer->vocabulary]);
			__builtin_prefetch(&encoder->cache[word_key_line(keys[count])], 1);
			ids[count++] = id;
		}
		for (size_t i = 0; i < count; i++)
			cache_insert(encoder, &encoder->cache[word_key_line(keys[i])], keys[i], &ids[i], 1);
	}
}

enum status encoder_open(const struct tokenizer *tokenizer, struct encoder **out)
{
	struct encoder *encoder;
	*out = NULL;
	TRY(memory_alloc((void **)&encoder, 1, sizeof *encoder, "an encoder"));
	enum status status = memory_grow(
		(void **)&encoder->ids, &encoder->id_capacity, ID_ROOM, sizeof *encoder->ids, "an encoder");
	if (status == STATUS_OK)
		status = memory_alloc_large((void **)&encoder->cache, CACHE_BYTES, "the word cache");
	if (status != STATUS_OK) {
		encoder_close(encoder);
		return status;
	}
	encoder->longs = (struct long_line *)(encoder->cache + CACHE_LINES);
	encoder->tokenizer = tokenizer;
	encoder->narrow = tokenizer->vocabulary <= NARROW_VOCABULARY;
	cache_seed(encoder);
	*out = encoder;
	return STATUS_OK;
}

void encoder_close(struct encoder *encoder)
{
	if (!encoder)
		return;
	memory_free_large(encoder->cache, CACHE_BYTES);
	free(encoder->ids);
	free(encoder);
}

static void write_ids(struct encode_run *run, const uint32_t *ids, size_t count)
{
	if (run->narrow_out) {
		uint16_t *out = run->out;
		for (size_t i = 0; i < count; i++)
			out[i] = (uint16_t)ids[i];
		run->out = out + count;
	} else {
		memcpy(run->out, ids, count * sizeof *ids);
		run->out = (uint32_t *)run->out + count;
	}
}

/* Eight at a time, the last of which may be too many. */
static inline void widen(const uint16_t *narrow, size_t count, uint32_t *ids)
{
	for (size_t i = 0; i < count; i += AT_ONCE)
		for (size_t j = 0; j < AT_ONCE; j++)
			ids[i + j] = narrow[i + j];
}

static void write_slot(struct encode_run *run, const struct long_slot *slot)
{
	uint32_t ids[LONG_NARROW + AT_ONCE];
	if (!run->encoder->narrow) {
		write_ids(run, slot->ids.wide, slot->ids.count);
	} else if (run->narrow_out) {
		memcpy(run->out, slot->ids.narrow, slot->ids.count * sizeof *slot->ids.narrow);
		run->out = (uint16_t *)run->out + slot->ids.count;
	} else {
		widen(slot->ids.narrow, slot->ids.count, ids);
		write_ids(run, ids, slot->ids.count);
	}
}

/* A piece of a word. */
struct piece {
	const uint8_t *text;
	size_t length;
	struct word_key key; /* if it is short enough for the first cache */
	struct cache_line *line;
};

/* Its ids to `ids`, where there is room for AT_ONCE more than it has. */
static enum status piece_ids(struct encoder *encoder, const struct piece *piece, uint32_t *ids, size_t *count)
{
	if (piece->length >= KEY_BYTES)
		return vocabulary_merge_word(encoder->tokenizer, piece->text, piece->length, ids, count);
	for (int i = 0; i < 2; i++) {
		const struct cache_slot *slot = &piece->line->slots[i];
		if (slot->key.low != piece->key.low || slot->key.high != piece->key.high)
			continue;
		if (encoder->narrow) {
			*count = slot->ids.narrow[SLOT_NARROW];
			widen(slot->ids.narrow, AT_ONCE, ids);
		} else {
			*count = slot->ids.wide[SLOT_WIDE];
			memcpy(ids, slot->ids.wide, sizeof slot->ids.wide);
		}
		return STATUS_OK;
	}
	*count = merge_short(&encoder->tokenizer->table, piece->text, piece->length, ids);
	cache_insert(encoder, piece->line, piece->key, ids, *count);
	return STATUS_OK;
}

/* Cuts the next pieces off [*at, end) and asks for their lines. */
static size_t find_pieces(
	const struct encode_run *run, const uint8_t **at, const uint8_t *end, struct piece pieces[PIECES])
{
	struct encoder *encoder = run->encoder;
	size_t count = 0;
	for (; *at < end && count < PIECES; *at += pieces[count++].length) {
		struct piece *piece = &pieces[count];
		piece->text = *at;
		piece->length = vocabulary_find_cut(encoder->tokenizer, *at, (size_t)(end - *at));
		if (piece->length >= KEY_BYTES)
			continue;
		piece->key = word_key_read(*at, piece->length, *at > run->fast_end);
		piece->line = &encoder->cache[word_key_line(piece->key)];
		__builtin_prefetch(piece->line);
	}
	return count;
}

/* A word that no cache has: its ids to encoder->ids. */
static enum status word_ids(const struct encode_run *run, const uint8_t *word, size_t length, size_t *count)
{
	struct encoder *encoder = run->encoder;
	TRY(memory_grow((void **)&encoder->ids, &encoder->id_capacity, length + AT_ONCE, sizeof *encoder->ids,
		"the ids of a long word"));
	if (vocabulary_find_cut(encoder->tokenizer, word, length) == length)
		return vocabulary_merge_word(encoder->tokenizer, word, length, encoder->ids, count);
	struct piece pieces[PIECES];
	const uint8_t *at = word;
	*count = 0;
	while (at < word + length) {
		size_t found = find_pieces(run, &at, word + length, pieces), more;
		for (size_t i = 0; i < found; i++, *count += more)
			TRY(piece_ids(encoder, &pieces[i], encoder->ids + *count, &more));
	}
	return STATUS_OK;
}

static struct long_slot *long_find(struct long_line *line, const struct long_key *key, size_t length)
{
	for (int i = 0; i < 2; i++)
		if (line->slots[i].ids.length == length && memcmp(&line->slots[i].key, key, sizeof *key) == 0)
			return &line->slots[i];
	return NULL;
}

static void long_insert(struct encoder *encoder, struct long_line *line, const struct long_key *key,
	size_t length, size_t count)
{
	if (count > (encoder->narrow ? LONG_NARROW : LONG_WIDE))
		return;
	struct long_slot *slot = &line->slots[0];
	line->slots[1] = *slot;
	slot->key = *key;
	slot->ids.length = (uint16_t)length;
	slot->ids.count = (uint16_t)count;
	for (size_t i = 0; i < count; i++)
		if (encoder->narrow)
			slot->ids.narrow[i] = (uint16_t)encoder->ids[i];
		else
			slot->ids.wide[i] = encoder->ids[i];
}

/* A word that may be in the second cache. */
static enum status add_long_word(
	struct encode_run *run, const uint8_t *word, size_t length, const struct long_key *key, size_t *count)
{
	struct encoder *encoder = run->encoder;
	struct long_line *line = &encoder->longs[long_key_line(key)];
	const struct long_slot *slot = long_find(line, key, length);
	*count = 0;
	if (slot) {
		write_slot(run, slot);
		return STATUS_OK;
	}
	TRY(word_ids(run, word, length, count));
	if (length >= KEY_BYTES || *count > (encoder->narrow ? SLOT_NARROW : SLOT_WIDE))
		long_insert(encoder, line, key, length, *count);
	write_ids(run, encoder->ids, *count);
	return STATUS_OK;
}

enum status encoder_add_word(
	struct encode_run *run, const uint8_t *word, size_t length, struct cache_line *line)
{
	struct encoder *encoder = run->encoder;
	struct long_key key = {0};
	size_t count;
	if (line) {
		key.parts[0] = word_key_read(word, length, word > run->fast_end);
		/* In English such words are few, and the look in vain would be dear. */
		bool many_ids = length > SLOT_NARROW &&
				((key.parts[0].low | key.parts[0].high) & UINT64_C(0x8080808080808080));
		if (many_ids) {
			TRY(add_long_word(run, word, length, &key, &count));
		} else {
			TRY(word_ids(run, word, length, &count));
			write_ids(run, encoder->ids, count);
		}
		if (count)
			cache_insert(encoder, line, key.parts[0], encoder->ids, count);
		return STATUS_OK;
	}
	if (length >= KEY_BYTES && length <= LONG_KEY_BYTES) {
		key = long_key_read(word, length);
		return add_long_word(run, word, length, &key, &count);
	}
	TRY(word_ids(run, word, length, &count));
	write_ids(run, encoder->ids, count);
	return STATUS_OK;
}

/* A long word took room that the next texts need not keep. */
static void give_back_room(struct encoder *encoder)
{
	uint32_t *less;
	if (encoder->id_capacity > ID_ROOM && (less = realloc(encoder->ids, ID_ROOM * sizeof *less))) {
		encoder->ids = less;
		encoder->id_capacity = ID_ROOM;
	}
}

static enum status encode(struct encode_run *run, size_t bytes, encode_words *words_encode)
{
	struct encoder *encoder = run->encoder;
	run->fast_end = bytes >= KEY_BYTES ? run->text + bytes - KEY_BYTES : NULL;
	while (bytes) {
		size_t words, covered = words_find(run->text, bytes, encoder->ends, &words);
		if (words)
			TRY(words_encode(run, encoder->ends, words));
		else
			TRY(encoder_add_word(run, run->text, covered, NULL));
		run->text += covered;
		bytes -= covered;
	}
	give_back_room(encoder);
	return STATUS_OK;
}

enum status encoder_encode(
	struct encoder *encoder, const char *text, size_t bytes, uint32_t *ids, size_t *count)
{
	struct encode_run run = {.encoder = encoder, .text = (const uint8_t *)text, .out = ids};
	*count = 0;
	TRY(encode(&run, bytes,
		encoder->narrow ? SIMD_CHOOSE(encode_words_16_32) : SIMD_CHOOSE(encode_words_32_32)));
	*count = (size_t)((uint32_t *)run.out - ids);
	return STATUS_OK;
}

enum status encoder_encode_u16(
	struct encoder *encoder, const char *text, size_t bytes, uint16_t *ids, size_t *count)
{
	struct encode_run run = {
		.encoder = encoder, .text = (const uint8_t *)text, .out = ids, .narrow_out = true};
	*count = 0;
	FAIL_IF(!encoder->narrow, STATUS_USAGE, "%u ids do not fit in 16 bits",
		encoder->tokenizer->vocabulary);
	TRY(encode(&run, bytes, SIMD_CHOOSE(encode_words_16_16)));
	*count = (size_t)((uint16_t *)run.out - ids);
	return STATUS_OK;
}
