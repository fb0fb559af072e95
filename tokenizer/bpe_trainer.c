#include "tokenizer/bpe_trainer.h"

#include "common/hash.h"
#include "common/memory.h"
#include "tokenizer/letters.h"
#include "tokenizer/words.h"

#include <stdlib.h>
#include <string.h>

enum { LONGEST_WORD = 1024, FIRST_SLOTS = 1 << 14, PROGRESS_MERGES = 64 };

/* ---- counting words ---- */

struct counted_word {
	uint64_t hash, count; /* count 0: a free slot */
	uint64_t first;       /* of its bytes, in the counter's */
	uint32_t length;
};

struct word_counter {
	struct counted_word *slots; /* [mask + 1], open addressing, at most half full */
	size_t mask, used;
	uint8_t *bytes; /* of all words */
	size_t capacity, byte_count;
};

enum status word_counter_open(struct word_counter **out)
{
	struct word_counter *counter;
	TRY(memory_alloc((void **)&counter, 1, sizeof *counter, "a word counter"));
	counter->mask = FIRST_SLOTS - 1;
	enum status status =
		memory_alloc((void **)&counter->slots, FIRST_SLOTS, sizeof *counter->slots, "a word counter");
	if (status != STATUS_OK) {
		free(counter);
		return status;
	}
	*out = counter;
	return STATUS_OK;
}

void word_counter_close(struct word_counter *counter)
{
	if (!counter)
		return;
	free(counter->slots);
	free(counter->bytes);
	free(counter);
}

uint64_t word_counter_distinct(const struct word_counter *counter)
{
	return counter->used;
}

static enum status grow_slots(struct word_counter *counter)
{
	struct counted_word *slots;
	size_t mask = counter->mask * 2 + 1;
	TRY(memory_alloc((void **)&slots, mask + 1, sizeof *slots, "a word counter"));
	for (size_t i = 0; i <= counter->mask; i++) {
		if (!counter->slots[i].count)
			continue;
		size_t at = counter->slots[i].hash & mask;
		while (slots[at].count)
			at = (at + 1) & mask;
		slots[at] = counter->slots[i];
	}
	free(counter->slots);
	counter->slots = slots;
	counter->mask = mask;
	return STATUS_OK;
}

static enum status add_word(
	struct word_counter *counter, uint64_t hash, const uint8_t *word, uint32_t length, uint64_t count)
{
	struct counted_word *slot;
	for (size_t at = hash & counter->mask;; at = (at + 1) & counter->mask) {
		slot = &counter->slots[at];
		if (!slot->count)
			break;
		if (slot->hash == hash && slot->length == length &&
			memcmp(counter->bytes + slot->first, word, length) == 0) {
			slot->count += count;
			return STATUS_OK;
		}
	}
	TRY(memory_grow((void **)&counter->bytes, &counter->capacity, counter->byte_count + length, 1,
		"the words of a text"));
	memcpy(counter->bytes + counter->byte_count, word, length);
	*slot = (struct counted_word){
		.hash = hash, .count = count, .first = counter->byte_count, .length = length};
	counter->byte_count += length;
	return ++counter->used * 2 > counter->mask ? grow_slots(counter) : STATUS_OK;
}

static enum status count_word(struct word_counter *counter, const uint8_t *word, size_t length)
{
	while (length > 0) {
		uint32_t piece = length < LONGEST_WORD ? (uint32_t)length : LONGEST_WORD;
		TRY(add_word(counter, hash64(word, piece), word, piece, 1));
		word += piece;
		length -= piece;
	}
	return STATUS_OK;
}

enum status word_counter_add(struct word_counter *counter, const char *text, size_t bytes)
{
	const uint8_t *at = (const uint8_t *)text;
	uint16_t ends[WORDS_ROOM];
	while (bytes > 0) {
		size_t count, start = 0, covered = words_find(at, bytes, ends, &count);
		if (count == 0)
			TRY(count_word(counter, at, covered));
		for (size_t i = 0; i < count; i++) {
			TRY(count_word(counter, at + start, ends[i] - start));
			start = ends[i];
		}
		at += covered;
		bytes -= covered;
	}
	return STATUS_OK;
}

enum status word_counter_join(struct word_counter *into, const struct word_counter *from)
{
	for (size_t i = 0; i <= from->mask; i++) {
		const struct counted_word *word = &from->slots[i];
		if (word->count)
			TRY(add_word(into, word->hash, from->bytes + word->first, word->length, word->count));
	}
	return STATUS_OK;
}

/* ---- pairs of neighbours ---- */

struct word {
	uint64_t count;
	size_t first; /* of its symbols */
	uint32_t length;
};

/* A pair, and the words that it is in, or was. */
struct pair {
	uint64_t key; /* left << 32 | right */
	int64_t count;
	uint32_t *words; /* [used] */
	size_t used, capacity;
};

struct heap_entry {
	int64_t count; /* when it was put in: at least what it is now */
	uint64_t key;
	uint32_t pair;
};

struct trainer {
	struct word *words;
	size_t word_count;
	uint32_t *symbols; /* of all words, each in its place */

	struct pair *pairs;
	size_t pair_count, pair_capacity;
	uint32_t *table; /* [table_mask + 1]: 1 + number of a pair, 0 free */
	size_t table_mask;

	struct heap_entry *heap;
	size_t heap_count, heap_capacity;

	uint8_t *bytes; /* the tokens' bytes, in order of id */
	size_t byte_capacity;
	size_t *offsets;       /* [tokens + 1] */
	uint32_t *token_table; /* [token_mask + 1]: 1 + id, by bytes; 0 free */
	size_t token_mask;
	uint32_t tokens;

	char *text;
	size_t text_bytes, text_capacity;
};

static uint64_t mix(uint64_t key)
{
	key = (key ^ key >> 29) * UINT64_C(0x9E3779B97F4A7C15);
	return key ^ key >> 32;
}

static enum status grow_table(struct trainer *trainer)
{
	size_t mask = trainer->table_mask ? trainer->table_mask * 2 + 1 : (1 << 17) - 1;
	uint32_t *table;
	TRY(memory_alloc((void **)&table, mask + 1, sizeof *table, "pairs"));
	for (size_t i = 0; i < trainer->pair_count; i++) {
		size_t at = mix(trainer->pairs[i].key) & mask;
		while (table[at])
			at = (at + 1) & mask;
		table[at] = (uint32_t)i + 1;
	}
	free(trainer->table);
	trainer->table = table;
	trainer->table_mask = mask;
	return STATUS_OK;
}

static enum status find_pair(struct trainer *trainer, uint64_t key, struct pair **out)
{
	size_t at = mix(key) & trainer->table_mask;
	while (trainer->table[at]) {
		*out = &trainer->pairs[trainer->table[at] - 1];
		if ((*out)->key == key)
			return STATUS_OK;
		at = (at + 1) & trainer->table_mask;
	}
	FAIL_IF(trainer->pair_count >= UINT32_MAX - 1, STATUS_UNSUPPORTED, "too many different pairs");
	TRY(memory_grow((void **)&trainer->pairs, &trainer->pair_capacity, trainer->pair_count + 1,
		sizeof *trainer->pairs, "pairs"));
	*out = &trainer->pairs[trainer->pair_count++];
	**out = (struct pair){.key = key};
	trainer->table[at] = (uint32_t)trainer->pair_count;
	return trainer->pair_count * 2 > trainer->table_mask ? grow_table(trainer) : STATUS_OK;
}

static enum status add_to_pair(struct trainer *trainer, uint64_t key, int64_t count, uint32_t word)
{
	struct pair *pair = NULL;
	TRY(find_pair(trainer, key, &pair));
	pair->count += count;
	if (count < 0 || (pair->used && pair->words[pair->used - 1] == word))
		return STATUS_OK;
	TRY(memory_grow(
		(void **)&pair->words, &pair->capacity, pair->used + 1, sizeof *pair->words, "pairs"));
	pair->words[pair->used++] = word;
	return STATUS_OK;
}

static uint64_t pair_key(uint32_t left, uint32_t right)
{
	return (uint64_t)left << 32 | right;
}

/* ---- the heap: the most frequent pair first, then the smallest ---- */

static bool goes_before(const struct heap_entry *a, const struct heap_entry *b)
{
	return a->count != b->count ? a->count > b->count : a->key < b->key;
}

static enum status heap_push(struct trainer *trainer, uint32_t pair)
{
	const struct pair *from = &trainer->pairs[pair];
	struct heap_entry entry = {from->count, from->key, pair};
	TRY(memory_grow((void **)&trainer->heap, &trainer->heap_capacity, trainer->heap_count + 1,
		sizeof *trainer->heap, "pairs"));
	size_t at = trainer->heap_count++;
	for (; at && goes_before(&entry, &trainer->heap[(at - 1) / 2]); at = (at - 1) / 2)
		trainer->heap[at] = trainer->heap[(at - 1) / 2];
	trainer->heap[at] = entry;
	return STATUS_OK;
}

static struct heap_entry heap_pop(struct trainer *trainer)
{
	struct heap_entry top = trainer->heap[0], last = trainer->heap[--trainer->heap_count];
	size_t at = 0;
	for (;;) {
		size_t child = 2 * at + 1;
		if (child >= trainer->heap_count)
			break;
		if (child + 1 < trainer->heap_count &&
			goes_before(&trainer->heap[child + 1], &trainer->heap[child]))
			child++;
		if (!goes_before(&trainer->heap[child], &last))
			break;
		trainer->heap[at] = trainer->heap[child];
		at = child;
	}
	trainer->heap[at] = last;
	return top;
}

/* ---- tokens ---- */

/* True if the bytes at the end of trainer->bytes, [offsets[tokens], +length), are a token already; else adds
 * it. */
static bool take_token(struct trainer *trainer, size_t length)
{
	const uint8_t *bytes = trainer->bytes + trainer->offsets[trainer->tokens];
	size_t at = hash64(bytes, length) & trainer->token_mask;
	for (uint32_t entry; (entry = trainer->token_table[at]) != 0; at = (at + 1) & trainer->token_mask)
		if (trainer->offsets[entry] - trainer->offsets[entry - 1] == length &&
			memcmp(trainer->bytes + trainer->offsets[entry - 1], bytes, length) == 0)
			return true;
	trainer->token_table[at] = ++trainer->tokens;
	trainer->offsets[trainer->tokens] = trainer->offsets[trainer->tokens - 1] + length;
	return false;
}

static enum status append_bytes(struct trainer *trainer, size_t at, uint32_t token)
{
	size_t length = trainer->offsets[token + 1] - trainer->offsets[token];
	TRY(memory_grow((void **)&trainer->bytes, &trainer->byte_capacity, at + length, 1, "the vocabulary"));
	memcpy(trainer->bytes + at, trainer->bytes + trainer->offsets[token], length);
	return STATUS_OK;
}

static enum status write_letters(struct trainer *trainer, uint32_t token, char after)
{
	size_t first = trainer->offsets[token], length = trainer->offsets[token + 1] - first;
	TRY(memory_grow((void **)&trainer->text, &trainer->text_capacity,
		trainer->text_bytes + 2 * length + 1, 1, "the merges"));
	trainer->text_bytes +=
		letters_write(trainer->bytes + first, length, trainer->text + trainer->text_bytes);
	trainer->text[trainer->text_bytes++] = after;
	return STATUS_OK;
}

/* The token of a pair, written to the merges; *known if it is there already. */
static enum status make_token(struct trainer *trainer, uint64_t key, bool *known)
{
	uint32_t left = (uint32_t)(key >> 32), right = (uint32_t)key;
	size_t start = trainer->offsets[trainer->tokens];
	size_t left_length = trainer->offsets[left + 1] - trainer->offsets[left];
	size_t right_length = trainer->offsets[right + 1] - trainer->offsets[right];
	TRY(append_bytes(trainer, start, left));
	TRY(append_bytes(trainer, start + left_length, right));
	*known = take_token(trainer, left_length + right_length);
	if (*known)
		return STATUS_OK;
	TRY(write_letters(trainer, left, ' '));
	return write_letters(trainer, right, '\n');
}

/* ---- merging ---- */

/* Joins the pair in one word, and counts what that changes of other pairs. */
static enum status merge_word(struct trainer *trainer, uint32_t number, uint64_t key, uint32_t token)
{
	struct word *word = &trainer->words[number];
	uint32_t *symbols = trainer->symbols + word->first, length = word->length, to = 0;
	uint32_t left = (uint32_t)(key >> 32), right = (uint32_t)key;
	int64_t count = (int64_t)word->count;
	for (uint32_t at = 0; at < length;) {
		if (at + 1 == length || symbols[at] != left || symbols[at + 1] != right) {
			symbols[to++] = symbols[at++];
			continue;
		}
		if (to > 0) {
			uint32_t before = symbols[to - 1];
			if (pair_key(before, left) != key)
				TRY(add_to_pair(trainer, pair_key(before, left), -count, number));
			TRY(add_to_pair(trainer, pair_key(before, token), count, number));
		}
		if (at + 2 < length) {
			uint32_t after = symbols[at + 2];
			if (pair_key(right, after) != key)
				TRY(add_to_pair(trainer, pair_key(right, after), -count, number));
			TRY(add_to_pair(trainer, pair_key(token, after), count, number));
		}
		symbols[to++] = token;
		at += 2;
	}
	word->length = to;
	return STATUS_OK;
}

static enum status merge_pair(struct trainer *trainer, uint32_t number)
{
	struct pair pair = trainer->pairs[number];
	size_t before = trainer->pair_count;
	uint32_t token = trainer->tokens;
	bool known;
	enum status status = make_token(trainer, pair.key, &known);
	/* It is done with, whatever becomes of it; what counts it from now on is not looked at. */
	trainer->pairs[number].words = NULL;
	trainer->pairs[number].used = trainer->pairs[number].capacity = 0;
	for (size_t i = 0; i < pair.used && status == STATUS_OK && !known; i++)
		status = merge_word(trainer, pair.words[i], pair.key, token);
	free(pair.words);
	TRY(status);
	/* All pairs that are new hold the new token, and no pair that is not new occurs more often now. */
	for (size_t i = before; i < trainer->pair_count; i++)
		if (trainer->pairs[i].count > 0)
			TRY(heap_push(trainer, (uint32_t)i));
	return STATUS_OK;
}

/* The next pair to be joined; false when none is left. */
static enum status choose_pair(struct trainer *trainer, uint64_t least_count, uint32_t *pair, bool *found)
{
	*found = false;
	while (trainer->heap_count && !*found) {
		struct heap_entry entry = heap_pop(trainer);
		int64_t now = trainer->pairs[entry.pair].count;
		*pair = entry.pair;
		if (now == entry.count)
			*found = now > 0 && (uint64_t)now >= least_count;
		else if (now > 0)
			TRY(heap_push(trainer, entry.pair));
		if (now == entry.count && !*found)
			return STATUS_OK; /* all others occur as seldom */
	}
	return STATUS_OK;
}

static enum status merge_all(
	struct trainer *trainer, uint32_t most, uint64_t least_count, bpe_progress *progress, void *user)
{
	while (trainer->tokens < 256 + most) {
		uint32_t pair;
		bool found;
		TRY(choose_pair(trainer, least_count, &pair, &found));
		if (!found)
			break;
		TRY(merge_pair(trainer, pair));
		FAIL_IF(progress && trainer->tokens % PROGRESS_MERGES == 0 &&
				!progress(user, trainer->tokens - 256),
			STATUS_INTERRUPTED, "stopped");
	}
	return STATUS_OK;
}

/* ---- setting up ---- */

static enum status add_bytes(struct trainer *trainer, uint32_t most, uint32_t byte_id[256])
{
	uint8_t order[256];
	size_t slots = 1024;
	while (slots < ((size_t)most + 256) * 2)
		slots *= 2;
	trainer->token_mask = slots - 1;
	TRY(memory_alloc((void **)&trainer->token_table, slots, sizeof(uint32_t), "the vocabulary"));
	TRY(memory_alloc((void **)&trainer->offsets, (size_t)most + 258, sizeof(size_t), "the vocabulary"));
	TRY(memory_grow((void **)&trainer->bytes, &trainer->byte_capacity, 1 << 16, 1, "the vocabulary"));
	letters_byte_order(order);
	for (uint32_t id = 0; id < 256; id++) {
		trainer->bytes[id] = order[id];
		byte_id[order[id]] = id;
		(void)take_token(trainer, 1); /* each byte is new */
	}
	return STATUS_OK;
}

static enum status add_words(
	struct trainer *trainer, const struct word_counter *counter, const uint32_t byte_id[256])
{
	FAIL_IF(counter->used >= UINT32_MAX, STATUS_UNSUPPORTED, "%zu different words are too many",
		counter->used);
	TRY(memory_alloc((void **)&trainer->words, counter->used, sizeof *trainer->words, "words"));
	TRY(memory_alloc((void **)&trainer->symbols, counter->byte_count, sizeof *trainer->symbols, "words"));
	for (size_t i = 0; i <= counter->mask; i++) {
		const struct counted_word *from = &counter->slots[i];
		if (!from->count)
			continue;
		trainer->words[trainer->word_count++] =
			(struct word){.count = from->count, .first = from->first, .length = from->length};
		for (uint32_t j = 0; j < from->length; j++)
			trainer->symbols[from->first + j] = byte_id[counter->bytes[from->first + j]];
	}
	return STATUS_OK;
}

static enum status add_pairs(struct trainer *trainer)
{
	TRY(grow_table(trainer));
	for (size_t i = 0; i < trainer->word_count; i++) {
		const struct word *word = &trainer->words[i];
		const uint32_t *symbols = trainer->symbols + word->first;
		for (uint32_t j = 1; j < word->length; j++)
			TRY(add_to_pair(trainer, pair_key(symbols[j - 1], symbols[j]), (int64_t)word->count,
				(uint32_t)i));
	}
	for (size_t i = 0; i < trainer->pair_count; i++)
		TRY(heap_push(trainer, (uint32_t)i));
	return STATUS_OK;
}

static enum status train(struct trainer *trainer, const struct word_counter *counter, uint32_t most,
	uint64_t least_count, bpe_progress *progress, void *user)
{
	static const char version[] = "#version: 0.2\n";
	uint32_t byte_id[256];
	TRY(memory_grow((void **)&trainer->text, &trainer->text_capacity, 1 << 16, 1, "the merges"));
	memcpy(trainer->text, version, sizeof version - 1);
	trainer->text_bytes = sizeof version - 1;
	TRY(add_bytes(trainer, most, byte_id));
	TRY(add_words(trainer, counter, byte_id));
	TRY(add_pairs(trainer));
	return merge_all(trainer, most, least_count, progress, user);
}

enum status bpe_train(const struct word_counter *counter, uint32_t most, uint64_t least_count,
	bpe_progress *progress, void *user, struct bpe_merges *out)
{
	struct trainer trainer = {0};
	*out = (struct bpe_merges){0};
	FAIL_IF(most > 1 << 24, STATUS_USAGE, "%u merges are too many", most);
	enum status status = train(&trainer, counter, most, least_count, progress, user);
	if (status == STATUS_OK)
		*out = (struct bpe_merges){
			.text = trainer.text, .bytes = trainer.text_bytes, .count = trainer.tokens - 256};
	else
		free(trainer.text);
	for (size_t i = 0; i < trainer.pair_count; i++)
		free(trainer.pairs[i].words);
	free(trainer.pairs);
	free(trainer.table);
	free(trainer.heap);
	free(trainer.words);
	free(trainer.symbols);
	free(trainer.bytes);
	free(trainer.offsets);
	free(trainer.token_table);
	return status;
}
