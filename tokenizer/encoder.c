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
	LOOK_LEAST = 8,
	NEIGHBOURS = 3, /* of a line: those of its four */
};

/* ---- the table of short words ---- */

static size_t cache_lines(uint32_t shift)
{
	return (size_t)1 << (64 - shift);
}

static enum status cache_alloc(uint32_t shift, struct cache_line **cache)
{
	return memory_alloc_large((void **)cache, cache_lines(shift) * sizeof **cache, "the word cache");
}

static void cache_free(struct cache_line *cache, uint32_t shift)
{
	memory_free_large(cache, cache_lines(shift) * sizeof *cache);
}

static bool slot_is_used(const struct cache_slot *slot)
{
	return slot->key.high != 0; /* the last byte is a length */
}

/* Where a line's third word goes, if there is room: 1 to NEIGHBOURS; 0 is the line itself. */
static struct cache_line *neighbour_of(
	const struct encoder *encoder, const struct cache_line *line, size_t neighbour)
{
	return encoder->cache + ((size_t)(line - encoder->cache) ^ neighbour);
}

static void cache_put_beside(
	struct encoder *encoder, const struct cache_line *line, const struct cache_slot *slot)
{
	for (size_t i = 1; i <= NEIGHBOURS; i++) {
		struct cache_line *beside = neighbour_of(encoder, line, i);
		struct cache_slot *free_slot = &beside->slots[!slot_is_used(&beside->slots[1])];
		if (!slot_is_used(free_slot)) {
			*free_slot = *slot;
			return;
		}
	}
}

/* At the head of its line. */
static void cache_insert(struct encoder *encoder, struct cache_line *line, const struct cache_slot *slot)
{
	struct cache_slot *second = &line->slots[1];
	if (slot_is_used(second))
		cache_put_beside(encoder, line, second);
	*second = line->slots[0];
	line->slots[0] = *slot;
	encoder->used++;
}

/* To the head of its line from one beside: what is in use comes to stand where it is looked for first. */
static struct cache_slot *cache_promote(struct cache_line *line, struct cache_slot *beside)
{
	struct cache_slot slot = *beside;
	*beside = line->slots[1];
	line->slots[1] = line->slots[0];
	line->slots[0] = slot;
	return &line->slots[0];
}

static struct cache_slot slot_make(
	const struct encoder *encoder, struct word_key key, const uint32_t *ids, size_t count)
{
	struct cache_slot slot = {.key = key};
	for (size_t i = 0; i < count; i++)
		if (encoder->narrow)
			slot.ids.narrow[i] = (uint16_t)ids[i];
		else
			slot.ids.wide[i] = ids[i];
	if (encoder->narrow)
		slot.ids.narrow[SLOT_NARROW] = (uint16_t)count;
	else
		slot.ids.wide[SLOT_WIDE] = (uint32_t)count;
	return slot;
}

/* The word's slot in a line, its key marked or not; NULL: none. */
static struct cache_slot *line_find(struct cache_line *line, struct word_key key)
{
	for (int i = 0; i < 2; i++)
		if (line->slots[i].key.low == key.low && (line->slots[i].key.high & ~KEY_MARK) == key.high)
			return &line->slots[i];
	return NULL;
}

/* In the word's line or one beside. */
static struct cache_slot *cache_find(
	const struct encoder *encoder, struct cache_line *line, struct word_key key)
{
	struct cache_slot *slot = NULL;
	for (size_t i = 0; i <= NEIGHBOURS && !slot; i++)
		slot = line_find(neighbour_of(encoder, line, i), key);
	return slot;
}

/* The tokens that are words of their own, the frequent ones (those of low ids) last; a few at a time, so that
 * their lines are on the way when the first of them needs its own. */
static void cache_add_tokens(struct encoder *encoder)
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
			__builtin_prefetch(&encoder->cache[word_key_line(keys[count], encoder->shift)], 1);
			ids[count++] = id;
		}
		for (size_t i = 0; i < count; i++) {
			struct cache_slot slot = slot_make(encoder, keys[i], &ids[i], 1);
			cache_insert(encoder, &encoder->cache[word_key_line(keys[i], encoder->shift)], &slot);
		}
	}
}

/* What cache_add_tokens came to, in the order of places. */
static void cache_seed(struct encoder *encoder)
{
	const struct tokenizer *tokenizer = encoder->tokenizer;
	for (const struct word_seed *seed = tokenizer->seeds; seed < tokenizer->seeds + tokenizer->seed_count;
		seed++) {
		struct cache_slot *slot = &encoder->cache[seed->place / 2].slots[seed->place % 2];
		slot->key = seed->key;
		if (encoder->narrow) {
			slot->ids.narrow[0] = (uint16_t)seed->id;
			slot->ids.narrow[SLOT_NARROW] = 1;
		} else {
			slot->ids.wide[0] = seed->id;
			slot->ids.wide[SLOT_WIDE] = 1;
		}
	}
	encoder->used = tokenizer->seed_count;
}

/* Twice the lines, while there is memory and the limit allows. Between batches only: lines move. */
static void cache_grow(struct encoder *encoder)
{
	struct cache_line *old = encoder->cache, *grown;
	size_t lines = cache_lines(encoder->shift);
	encoder->used = 0;
	if (encoder->shift == 64 - CACHE_BITS_MOST || cache_alloc(encoder->shift - 1, &grown) != STATUS_OK)
		return; /* asks again when as many more words have come */
	encoder->cache = grown;
	encoder->shift--;
	for (size_t i = 0; i < 2 * lines; i++) {
		const struct cache_slot *slot = &old[i / 2].slots[~i & 1]; /* a line's first is put in last */
		struct word_key key = {slot->key.low, slot->key.high & ~KEY_MARK};
		if (slot_is_used(slot))
			cache_insert(encoder, &grown[word_key_line(key, encoder->shift)], slot);
	}
	cache_free(old, encoder->shift + 1);
}

/* ---- opening ---- */

enum status encoder_open(const struct tokenizer *tokenizer, struct encoder **out)
{
	struct encoder *encoder;
	*out = NULL;
	TRY(memory_alloc((void **)&encoder, 1, sizeof *encoder, "an encoder"));
	encoder->tokenizer = tokenizer;
	encoder->narrow = tokenizer->vocabulary <= NARROW_VOCABULARY;
	encoder->shift = 64 - CACHE_BITS_FIRST;
	encoder->look = BATCH;
	void *longs = NULL;
	enum status status = memory_grow(
		(void **)&encoder->ids, &encoder->id_capacity, ID_ROOM, sizeof *encoder->ids, "an encoder");
	if (status == STATUS_OK)
		status = cache_alloc(encoder->shift, &encoder->cache);
	if (status == STATUS_OK)
		status = memory_alloc_large(&longs, LONG_INDEX_BYTES + LONG_RING_BYTES, "the word cache");
	if (status != STATUS_OK) {
		encoder_close(encoder);
		return status;
	}
	long_words_init(&encoder->longs, longs, encoder->narrow ? sizeof(uint16_t) : sizeof(uint32_t));
	if (tokenizer->seeds)
		cache_seed(encoder);
	else
		cache_add_tokens(encoder);
	*out = encoder;
	return STATUS_OK;
}

static enum status collect_seeds(const struct encoder *encoder, struct word_seed **out, size_t *count)
{
	TRY(memory_alloc((void **)out, encoder->used, sizeof **out, "the word cache"));
	for (uint32_t place = 0; place < 2 * cache_lines(encoder->shift); place++) {
		const struct cache_slot *slot = &encoder->cache[place / 2].slots[place % 2];
		if (slot_is_used(slot))
			(*out)[(*count)++] = (struct word_seed){.key = slot->key,
				.id = encoder->narrow ? slot->ids.narrow[0] : slot->ids.wide[0],
				.place = place};
	}
	return STATUS_OK;
}

enum status word_seeds_make(struct tokenizer *tokenizer)
{
	struct encoder *encoder;
	TRY(encoder_open(tokenizer, &encoder));
	enum status status = collect_seeds(encoder, &tokenizer->seeds, &tokenizer->seed_count);
	encoder_close(encoder);
	return status;
}

void encoder_close(struct encoder *encoder)
{
	if (!encoder)
		return;
	if (encoder->cache)
		cache_free(encoder->cache, encoder->shift);
	memory_free_large(encoder->longs.index, LONG_INDEX_BYTES + LONG_RING_BYTES);
	free(encoder->ids);
	free(encoder);
}

/* ---- writing ids ---- */

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

/* Ids as a cache holds them, of a word that ends at `end`. */
static void write_cached(struct encode_run *run, const uint8_t *end, const void *cached, size_t count)
{
	uint32_t ids[LONG_WORD_LIMIT + AT_ONCE];
	if (!run->encoder->narrow) {
		write_ids(run, cached, count);
	} else if (run->narrow_out) {
		memcpy(run->out, cached, count * sizeof(uint16_t));
		run->out = (uint16_t *)run->out + count;
	} else if (end <= run->fast_end) {
		widen(cached, count, run->out);
		run->out = (uint32_t *)run->out + count;
	} else {
		widen(cached, count, ids);
		write_ids(run, ids, count);
	}
}

/* ---- words that no cache has ---- */

/* A word or a piece of one. */
struct piece {
	const uint8_t *text;
	size_t length;
	struct word_key key; /* of a short one: below KEY_BYTES */
	struct cache_line *line;
};

/* The ids of a short one as a cache holds them, until the next word is kept; NULL: no cache has it. */
static const void *find_short(struct encoder *encoder, const struct piece *piece, size_t *count)
{
	struct cache_slot *slot = cache_find(encoder, piece->line, piece->key);
	if (!slot)
		return NULL;
	if (slot->key.high & KEY_MARK) {
		const struct long_record *record =
			long_words_check(&encoder->longs, slot->ids.entry, piece->text, piece->length);
		*count = record ? record->count : 0;
		return record ? long_record_ids(record) : NULL;
	}
	if (slot - piece->line->slots != 0 && slot - piece->line->slots != 1)
		slot = cache_promote(piece->line, slot);
	*count = encoder->narrow ? slot->ids.narrow[SLOT_NARROW] : slot->ids.wide[SLOT_WIDE];
	return &slot->ids;
}

/* Keeps what a short one came to. */
static void keep_short(struct encoder *encoder, const struct piece *piece, const uint32_t *ids, size_t count)
{
	if (count <= (encoder->narrow ? SLOT_NARROW : SLOT_WIDE)) {
		struct cache_slot slot = slot_make(encoder, piece->key, ids, count);
		cache_insert(encoder, piece->line, &slot);
		return;
	}
	uint64_t entry = long_words_add(&encoder->longs, 0, piece->text, piece->length, ids, count);
	struct cache_slot *marked = cache_find(encoder, piece->line, piece->key);
	if (marked) {
		marked->ids.entry = entry; /* the ring has dropped what it was */
	} else {
		struct cache_slot slot = {
			.key = {piece->key.low, piece->key.high | KEY_MARK}, .ids.entry = entry};
		cache_insert(encoder, piece->line, &slot);
	}
}

/* Puts the short ones that no cache has into the caches, merging all at once if the vocabulary lets us; at most
 * BATCH. */
static void add_missing(struct encoder *encoder, const struct piece *pieces, size_t count)
{
	const struct merge_table *table = &encoder->tokenizer->table;
	struct merge_word words[BATCH];
	const struct piece *of[BATCH];
	size_t missing = 0, known;
	if (!table->small)
		return;
	for (const struct piece *piece = pieces; piece < pieces + count; piece++) {
		if (piece->length >= KEY_BYTES || find_short(encoder, piece, &known))
			continue;
		words[missing].bytes = (const uint8_t *)&piece->key;
		words[missing].length = (uint32_t)piece->length;
		of[missing++] = piece;
	}
	SIMD_CHOOSE(merge_words)(table, words, missing);
	for (size_t i = 0; i < missing; i++)
		if (!line_find(of[i]->line, of[i]->key)) /* the same may be there twice */
			keep_short(encoder, of[i], words[i].ids, words[i].count);
}

/* The first one's ids to `ids`, where there is room for AT_ONCE more than it has; the others come next. */
static enum status piece_ids(
	struct encoder *encoder, const struct piece *piece, size_t pieces, uint32_t *ids, size_t *count)
{
	if (piece->length >= KEY_BYTES)
		return vocabulary_merge_word(encoder->tokenizer, piece->text, piece->length, ids, count);
	const void *known = find_short(encoder, piece, count);
	if (!known) {
		add_missing(encoder, piece, pieces);
		known = find_short(encoder, piece, count);
	}
	if (!known) {
		*count = merge_short(&encoder->tokenizer->table, piece->text, piece->length, ids);
		keep_short(encoder, piece, ids, *count);
	} else if (encoder->narrow) {
		widen(known, *count, ids);
	} else {
		memcpy(ids, known, *count * sizeof *ids);
	}
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
		piece->line = &encoder->cache[word_key_line(piece->key, encoder->shift)];
		__builtin_prefetch(piece->line);
	}
	return count;
}

/* A longer word that no cache has: its ids to encoder->ids. */
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
			TRY(piece_ids(encoder, &pieces[i], found - i, encoder->ids + *count, &more));
	}
	return STATUS_OK;
}

static enum status add_long_word(struct encode_run *run, const uint8_t *word, size_t length, uint64_t hash)
{
	struct encoder *encoder = run->encoder;
	const struct long_record *record =
		length <= LONG_WORD_LIMIT ? long_words_find(&encoder->longs, hash, word, length) : NULL;
	size_t count;
	if (record) {
		write_cached(run, word + length, long_record_ids(record), record->count);
		return STATUS_OK;
	}
	TRY(word_ids(run, word, length, &count));
	if (length <= LONG_WORD_LIMIT)
		long_words_add(&encoder->longs, hash, word, length, encoder->ids, count);
	write_ids(run, encoder->ids, count);
	return STATUS_OK;
}

static struct piece batch_word(const struct encode_run *run, const struct word_batch *batch, size_t i)
{
	return (struct piece){.text = run->text + batch->bounds[i],
		.length = (size_t)(batch->bounds[i + 1] - batch->bounds[i]),
		.key = batch->keys[i],
		.line = batch->lines[i]};
}

/* The batch's words from `first` to `end` that are not in their lines, as far as the first halves of keys tell:
 * any others are added when their turn comes. */
static size_t find_missing(const struct encode_run *run, const struct word_batch *batch, size_t first,
	size_t end, struct piece *pieces)
{
	uint8_t missing[BATCH];
	size_t count = 0, found = 0;
	for (size_t i = first; i < end; i++) {
		const struct cache_slot *slots = batch->lines[i]->slots;
		uint64_t low = batch->keys[i].low;
		missing[count] = (uint8_t)i;
		count += (slots[0].key.low != low) & (slots[1].key.low != low);
	}
	for (size_t i = 0; i < count; i++)
		if (batch->keys[missing[i]].high != KEY_LONG)
			pieces[found++] = batch_word(run, batch, missing[i]);
	return found;
}

/* Adds a batch's word, and of those that come next the ones that have to be added too. How many are looked at
 * follows from whether the last look was worth it. */
static void add_missing_words(const struct encode_run *run, const struct word_batch *batch, size_t i)
{
	struct encoder *encoder = run->encoder;
	struct piece pieces[BATCH];
	size_t end = i + encoder->look, count;
	count = find_missing(run, batch, i, end < batch->count ? end : batch->count, pieces);
	if (end > batch->count && batch->next) {
		end -= batch->count;
		batch = batch->next;
		end = end < batch->count ? end : batch->count;
		count += find_missing(run, batch, 0, end, pieces + count);
	}
	add_missing(encoder, pieces, count);
	if (count > 2)
		encoder->look = encoder->look < BATCH ? encoder->look * 2 : BATCH;
	else
		encoder->look = encoder->look > LOOK_LEAST ? encoder->look / 2 : LOOK_LEAST;
}

enum status encoder_add_word(struct encode_run *run, const struct word_batch *batch, size_t i)
{
	struct encoder *encoder = run->encoder;
	struct piece word = batch_word(run, batch, i);
	size_t count;
	if (word.key.high == KEY_LONG)
		return add_long_word(run, word.text, word.length, word.key.low);
	const void *known = find_short(encoder, &word, &count);
	if (!known) {
		add_missing_words(run, batch, i);
		known = find_short(encoder, &word, &count);
	}
	if (known) {
		write_cached(run, word.text + word.length, known, count);
		return STATUS_OK;
	}
	count = merge_short(&encoder->tokenizer->table, word.text, word.length, encoder->ids);
	keep_short(encoder, &word, encoder->ids, count);
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
		size_t words, covered = words_find(run->text, bytes, encoder->bounds + 1, &words);
		if (encoder->used > cache_lines(encoder->shift))
			cache_grow(encoder);
		if (words)
			TRY(words_encode(run, encoder->bounds, words));
		else
			TRY(add_long_word(run, run->text, covered, 0));
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
