#include "tokenizer/word_cache.h"

#include "common/memory.h"
#include "common/simd.h"

#include <stdlib.h>

enum {
	ID_ROOM = 4096, /* ids of one word that an encoder keeps room for */
	NARROW_VOCABULARY = 1 << 16,
	SEED_GROUP = 32,
	AT_ONCE = 8,
	PIECES = 32,    /* of a word at a time */
	FEW = 2,        /* words that take less time one by one */
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

/* Reads SLOT_NARROW ids, however many there are: one word's number is seldom the next one's. */
static struct cache_slot slot_make(
	const struct encoder *encoder, struct word_key key, const uint32_t *ids, size_t count)
{
	struct cache_slot slot = {.key = key};
	if (encoder->narrow) {
		for (size_t i = 0; i < SLOT_NARROW; i++)
			slot.ids.narrow[i] = (uint16_t)ids[i];
		slot.ids.narrow[SLOT_NARROW] = (uint16_t)count;
	} else {
		memcpy(slot.ids.wide, ids, SLOT_WIDE * sizeof *ids);
		slot.ids.wide[SLOT_WIDE] = (uint32_t)count;
	}
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
	uint32_t ids[SEED_GROUP + SLOT_NARROW] = {0};
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

/* From the first size to the last, if there is memory. Between batches only: lines move. */
static void cache_grow(struct encoder *encoder)
{
	struct cache_line *old = encoder->cache, *grown;
	size_t lines = cache_lines(encoder->shift);
	encoder->used = 0;
	if (encoder->shift == 64 - CACHE_BITS_MOST || cache_alloc(64 - CACHE_BITS_MOST, &grown) != STATUS_OK)
		return; /* asks again when as many more words have come */
	encoder->cache = grown;
	encoder->shift = 64 - CACHE_BITS_MOST;
	for (size_t i = 0; i < 2 * lines; i++) {
		const struct cache_slot *slot = &old[i / 2].slots[~i & 1]; /* a line's first is put in last */
		struct word_key key = {slot->key.low, slot->key.high & ~KEY_MARK};
		if (slot_is_used(slot))
			cache_insert(encoder, &grown[word_key_line(key, encoder->shift)], slot);
	}
	cache_free(old, 64 - CACHE_BITS_FIRST);
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

/* Returns where the next ones go. */
static void *put_ids(const struct encode_run *run, void *to, const uint32_t *ids, size_t count)
{
	if (!run->narrow_out)
		return (uint32_t *)memcpy(to, ids, count * sizeof *ids) + count;
	uint16_t *out = to;
	for (size_t i = 0; i < count; i++)
		out[i] = (uint16_t)ids[i];
	return out + count;
}

static void write_ids(struct encode_run *run, const uint32_t *ids, size_t count)
{
	run->out = put_ids(run, run->out, ids, count);
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

/* The ids of a short one as a cache holds them, until the next word is kept; NULL: no cache has it. */
static const void *find_short(struct encoder *encoder, const struct piece *piece, size_t *count)
{
	struct cache_slot *slot = cache_find(encoder, piece->line, piece->key);
	if (!slot)
		return NULL;
	if (slot->key.high & KEY_MARK) {
		const struct long_record *record =
			long_words_check(&encoder->longs, slot->ids.entry, piece->text, piece->word.length);
		*count = record ? record->count : 0;
		return record ? long_record_ids(record) : NULL;
	}
	if (slot - piece->line->slots != 0 && slot - piece->line->slots != 1)
		slot = cache_promote(piece->line, slot);
	*count = encoder->narrow ? slot->ids.narrow[SLOT_NARROW] : slot->ids.wide[SLOT_WIDE];
	return &slot->ids;
}

/* Keeps what a short one came to. */
static void keep_short(struct encoder *encoder, const struct piece *piece)
{
	const uint32_t *ids = piece->word.ids;
	size_t count = piece->word.count;
	if (count <= (encoder->narrow ? SLOT_NARROW : SLOT_WIDE)) {
		if (line_find(piece->line, piece->key))
			return; /* the same may be missing twice */
		struct cache_slot slot = slot_make(encoder, piece->key, ids, count);
		cache_insert(encoder, piece->line, &slot);
		return;
	}
	uint64_t entry = long_words_add(&encoder->longs, 0, piece->text, piece->word.length, ids, count);
	struct cache_slot *marked = cache_find(encoder, piece->line, piece->key);
	if (marked) {
		marked->ids.entry = entry; /* the ring has dropped what it was */
	} else {
		struct cache_slot slot = {
			.key = {piece->key.low, piece->key.high | KEY_MARK}, .ids.entry = entry};
		cache_insert(encoder, piece->line, &slot);
	}
}

/* Merges those that no cache has, all at once if the vocabulary lets us, and keeps what they came to. */
static void merge_missing(struct encoder *encoder, struct piece *const *pieces, size_t count)
{
	const struct merge_table *table = &encoder->tokenizer->table;
	struct merge_word *words[LATE];
	if (count == 0)
		return;
	for (size_t i = 0; i < count; i++) {
		words[i] = &pieces[i]->word;
		words[i]->bytes = (const uint8_t *)&pieces[i]->key;
	}
	if (table->small && count > FEW)
		SIMD_CHOOSE(merge_words)(table, words, count);
	else
		for (size_t i = 0; i < count; i++)
			words[i]->count = (uint32_t)merge_short(
				table, words[i]->bytes, words[i]->length, words[i]->ids);
	for (size_t i = 0; i < count; i++)
		keep_short(encoder, pieces[i]);
}

/* Finds what short ones come to; at most LATE. */
static void pieces_resolve(struct encoder *encoder, struct piece *pieces, size_t count)
{
	struct piece *missing[LATE];
	size_t misses = 0, ids;
	for (struct piece *piece = pieces; piece < pieces + count; piece++) {
		const void *known = find_short(encoder, piece, &ids);
		if (!known) {
			missing[misses++] = piece;
			continue;
		}
		piece->word.count = (uint32_t)ids;
		if (encoder->narrow)
			widen(known, ids, piece->word.ids);
		else
			memcpy(piece->word.ids, known, ids * sizeof(uint32_t));
	}
	merge_missing(encoder, missing, misses);
}

/* Cuts the next pieces off [*at, end) and asks for their lines. Stops at a piece that is no short one:
 * *longer, which is cut off too; 0: there is none. */
static size_t find_pieces(const struct encode_run *run, const uint8_t **at, const uint8_t *end,
	struct piece pieces[PIECES], size_t *longer)
{
	struct encoder *encoder = run->encoder;
	size_t count = 0;
	for (*longer = 0; *at < end && count < PIECES && !*longer;) {
		size_t length = vocabulary_find_cut(encoder->tokenizer, *at, (size_t)(end - *at));
		if (length < KEY_BYTES) {
			struct piece *piece = &pieces[count++];
			piece->text = *at;
			piece->word.length = (uint32_t)length;
			piece->key = word_key_read(*at, length, *at > run->fast_end);
			piece->line = &encoder->cache[word_key_line(piece->key, encoder->shift)];
			__builtin_prefetch(piece->line);
		} else {
			*longer = length;
		}
		*at += length;
	}
	return count;
}

/* A longer word that no cache has: its ids to encoder->ids. */
static enum status word_ids(const struct encode_run *run, const uint8_t *word, size_t length, size_t *count)
{
	struct encoder *encoder = run->encoder;
	TRY(memory_grow((void **)&encoder->ids, &encoder->id_capacity, length + AT_ONCE, sizeof *encoder->ids,
		"the ids of a long word"));
	struct piece pieces[PIECES];
	const uint8_t *at = word;
	*count = 0;
	while (at < word + length) {
		size_t longer, found = find_pieces(run, &at, word + length, pieces, &longer), more = 0;
		pieces_resolve(encoder, pieces, found);
		for (const struct piece *piece = pieces; piece < pieces + found; piece++) {
			for (size_t i = 0; i < piece->word.count; i += AT_ONCE) /* seldom twice */
				memcpy(encoder->ids + *count + i, piece->word.ids + i,
					AT_ONCE * sizeof(uint32_t));
			*count += piece->word.count;
		}
		if (longer)
			TRY(vocabulary_merge_word(
				encoder->tokenizer, at - longer, longer, encoder->ids + *count, &more));
		*count += more;
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

/* ---- words that are put off ---- */

/* Now that their ids are known, those that were written since the first of them move to make room. */
static void write_late(struct encode_run *run)
{
	struct encoder *encoder = run->encoder;
	size_t width = run->narrow_out ? sizeof(uint16_t) : sizeof(uint32_t), more = 0;
	if (encoder->late_count == 0)
		return;
	pieces_resolve(encoder, encoder->late, encoder->late_count);
	for (size_t i = 0; i < encoder->late_count; i++)
		more += encoder->late[i].word.count * width;
	char *end = run->out, *to = end + more; /* what is written by now, and where it goes */
	run->out = to;
	for (struct piece *late = encoder->late + encoder->late_count; late-- > encoder->late;) {
		size_t after = (size_t)(end - (char *)late->out);
		end = late->out;
		to = memmove(to - after, end, after);
		to -= late->word.count * width;
		put_ids(run, to, late->word.ids, late->word.count);
	}
	encoder->late_count = 0;
}

enum status encoder_add_word(struct encode_run *run, const struct word_batch *batch, size_t i)
{
	struct encoder *encoder = run->encoder;
	const uint8_t *word = run->text + batch->bounds[i];
	size_t length = (size_t)(batch->bounds[i + 1] - batch->bounds[i]);
	struct word_key key = batch->keys[i];
	struct cache_line *line = batch->lines[i];
	if (key.high == KEY_LONG)
		return add_long_word(run, word, length, key.low);
	const struct cache_slot *marked = line_find(line, key);
	const struct long_record *record =
		marked ? long_words_check(&encoder->longs, marked->ids.entry, word, length) : NULL;
	if (record) {
		write_cached(run, word + length, long_record_ids(record), record->count);
		return STATUS_OK;
	}
	struct piece *late = &encoder->late[encoder->late_count];
	late->key = key;
	late->line = line;
	late->text = word;
	late->out = run->out;
	late->word.length = (uint32_t)length;
	for (size_t j = 1; j <= NEIGHBOURS; j++)
		__builtin_prefetch(neighbour_of(encoder, line, j));
	if (++encoder->late_count == LATE)
		write_late(run);
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
	encoder->late_count = 0;
	while (bytes) {
		size_t words, covered = words_find(run->text, bytes, encoder->bounds + 1, &words);
		if (encoder->used > cache_lines(encoder->shift)) {
			write_late(run); /* they know their lines */
			cache_grow(encoder);
		}
		if (words)
			TRY(words_encode(run, encoder->bounds, words));
		else
			TRY(add_long_word(run, run->text, covered, 0));
		run->text += covered;
		bytes -= covered;
		if (encoder->late_count && run->text - encoder->late[0].text > LATE_BYTES)
			write_late(run);
	}
	write_late(run);
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
