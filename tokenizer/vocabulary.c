#include "tokenizer/vocabulary.h"

#include "common/file.h"
#include "common/json.h"
#include "common/memory.h"
#include "tokenizer/letters.h"
#include "tokenizer/unicode.h"

#include <stdlib.h>
#include <string.h>

#define FILE_LIMIT      ((size_t)64 << 20)
#define BUILT_IN_MERGES "the built-in vocab.bpe"
#define VERSION_LINE    "#version"
#define LONGEST_SHOWN   48 /* characters of a token in an error */
#define NO_TOKEN        UINT32_MAX

extern const char vocab_gpt2_begin[], vocab_gpt2_end[];

/* ---- looking up ---- */

static size_t index_slot(
	const struct tokenizer *tokenizer, uint64_t hash, const uint8_t *bytes, size_t length)
{
	size_t at = hash & tokenizer->index_mask;
	for (uint32_t entry; (entry = tokenizer->index[at]) != 0; at = (at + 1) & tokenizer->index_mask) {
		uint32_t start = tokenizer->offsets[entry - 1];
		if (tokenizer->offsets[entry] - start == length &&
			memcmp(tokenizer->bytes + start, bytes, length) == 0)
			break;
	}
	return at;
}

/* The id of these bytes, NO_TOKEN if there is none. */
static uint32_t find_token(const struct tokenizer *tokenizer, const uint8_t *bytes, size_t length)
{
	uint32_t entry = tokenizer->index[index_slot(tokenizer, hash64(bytes, length), bytes, length)];
	return entry ? entry - 1 : NO_TOKEN;
}

enum status vocabulary_merge_word(
	const struct tokenizer *tokenizer, const uint8_t *word, size_t length, uint32_t *ids, size_t *count)
{
	if (length > MERGE_SHORT)
		return merge_long(&tokenizer->table, word, length, ids, count);
	*count = merge_short(&tokenizer->table, word, length, ids);
	return STATUS_OK;
}

size_t vocabulary_find_cut(const struct tokenizer *tokenizer, const uint8_t *word, size_t length)
{
	size_t at = 1;
	while (at < length) {
		uint32_t pair = (uint32_t)word[at - 1] << 8 | word[at];
		if (!(tokenizer->neighbours[pair / 64] >> pair % 64 & 1))
			break;
		at++;
	}
	return at;
}

/* ---- tokens from the merges alone: bytes, then what each merge makes, then EOD ---- */

/* One line of a merges file. */
struct merge_line {
	const char *text;
	size_t length, number; /* number: from 1 */
};

/* The next line that holds a merge; false at the end. Only the first line may be a version, only the last
 * empty. */
static bool next_merge(const char **at, const char *end, struct merge_line *line)
{
	while (*at < end) {
		const char *newline = memchr(*at, '\n', (size_t)(end - *at));
		line->text = *at;
		line->length = (size_t)((newline ? newline : end) - *at);
		line->number++;
		*at = newline ? newline + 1 : end;
		if (line->length && line->text[line->length - 1] == '\r')
			line->length--;
		bool version = line->number == 1 && line->length >= strlen(VERSION_LINE) &&
			       memcmp(line->text, VERSION_LINE, strlen(VERSION_LINE)) == 0;
		if (!version && (line->length || *at < end))
			return true;
	}
	return false;
}

static enum status bad_line(const char *path, const struct merge_line *line, const char *what)
{
	int shown = (int)(line->length < LONGEST_SHOWN ? line->length : LONGEST_SHOWN);
	return error_set(
		STATUS_CORRUPT, "%s, line %zu: \"%.*s\": %s", path, line->number, shown, line->text, what);
}

/* The two tokens' bytes, back to back in `bytes` [line->length]. */
static enum status read_merge(
	const char *path, const struct merge_line *line, uint8_t *bytes, size_t *left, size_t *right)
{
	const char *gap = memchr(line->text, ' ', line->length);
	size_t before = gap ? (size_t)(gap - line->text) : 0;
	size_t after = gap ? line->length - before - 1 : 0;
	if (!before || !after || memchr(gap + 1, ' ', after))
		return bad_line(path, line, "not two tokens with one space between them");
	if (!letters_read(line->text, before, bytes, left) ||
		!letters_read(gap + 1, after, bytes + *left, right))
		return bad_line(path, line, "a character that stands for no byte");
	return STATUS_OK;
}

static size_t count_lines(const char *text, size_t bytes)
{
	size_t lines = 1;
	for (const char *at = text; (at = memchr(at, '\n', bytes - (size_t)(at - text))); at++)
		lines++;
	return lines;
}

static enum status index_open(struct tokenizer *tokenizer, size_t tokens)
{
	size_t slots = 1024;
	while (slots < tokens * 2)
		slots *= 2;
	tokenizer->index_mask = slots - 1;
	return memory_alloc((void **)&tokenizer->index, slots, sizeof(uint32_t), "the vocabulary");
}

/* Adds the next id; its bytes must already stand at the end of tokenizer->bytes. */
static void token_append(struct tokenizer *tokenizer, size_t length)
{
	uint32_t id = tokenizer->vocabulary++;
	tokenizer->offsets[id + 1] = tokenizer->offsets[id] + (uint32_t)length;
}

static void token_index(struct tokenizer *tokenizer, uint32_t id)
{
	const uint8_t *bytes = tokenizer->bytes + tokenizer->offsets[id];
	size_t length = tokenizer->offsets[id + 1] - tokenizer->offsets[id];
	tokenizer->index[index_slot(tokenizer, hash64(bytes, length), bytes, length)] = id + 1;
}

/* What a line told when it was read for the tokens: it need not be read again for its merge. */
struct known_merge {
	uint32_t id, left; /* of what it makes; length of its left part */
};

/* Each merge's token gets the next id, unless an earlier merge made the same. `known` is malloc'ed, on failure too. */
static enum status tokens_from_merges(struct tokenizer *tokenizer, const char *path, const char *text,
	size_t bytes, struct known_merge **known /* [merges] */)
{
	size_t most = count_lines(text, bytes) + 257, capacity = 0, used = 256, left, right;
	FAIL_IF(most > VOCABULARY_LIMIT, STATUS_CORRUPT, "%s: more than %d lines", path, VOCABULARY_LIMIT);
	TRY(index_open(tokenizer, most));
	TRY(memory_alloc((void **)&tokenizer->offsets, most + 1, sizeof(uint32_t), "the vocabulary"));
	TRY(memory_grow((void **)&tokenizer->bytes, &capacity, 65536, 1, "the vocabulary"));
	TRY(memory_alloc((void **)known, most, sizeof **known, "the vocabulary"));
	letters_byte_order(tokenizer->bytes);
	for (uint32_t id = 0; id < 256; id++) {
		token_append(tokenizer, 1);
		token_index(tokenizer, id);
	}
	struct merge_line line = {0};
	struct known_merge *next = *known;
	for (const char *at = text; next_merge(&at, text + bytes, &line); next++) {
		FAIL_IF(used + line.length > UINT32_MAX, STATUS_CORRUPT, "%s: too large", path);
		TRY(memory_grow(
			(void **)&tokenizer->bytes, &capacity, used + line.length, 1, "the vocabulary"));
		uint8_t *token = tokenizer->bytes + used;
		TRY(read_merge(path, &line, token, &left, &right));
		size_t length = left + right;
		size_t slot = index_slot(tokenizer, hash64(token, length), token, length);
		if (!tokenizer->index[slot]) {
			token_append(tokenizer, length);
			tokenizer->index[slot] = tokenizer->vocabulary;
			used += length;
		}
		*next = (struct known_merge){tokenizer->index[slot] - 1, (uint32_t)left};
	}
	tokenizer->eod = tokenizer->vocabulary;
	token_append(tokenizer, 0);
	return STATUS_OK;
}

/* ---- tokens from vocab.json ---- */

static enum status parse_json(const char *path, cJSON **out)
{
	char *text;
	size_t bytes;
	TRY(file_read_all(path, FILE_LIMIT, &text, &bytes));
	size_t at;
	enum status status = json_parse(text, bytes, false, &at, out);
	if (status != STATUS_OK) {
		status = error_context(
			status, "%s, line %zu", path, count_lines(text, at < bytes ? at : bytes));
	} else if (!cJSON_IsObject(*out) || !(*out)->child) {
		cJSON_Delete(*out);
		status = error_set(STATUS_CORRUPT,
			"%s: not a vocabulary: that is one JSON object, {\"token\": id, ...}", path);
	}
	free(text);
	return status;
}

/* by_id[id]: the entry of each id. Ids must be 0..count-1, each once. */
static enum status sort_entries(const char *path, const cJSON *object, const cJSON **by_id, size_t count)
{
	const cJSON *entry;
	cJSON_ArrayForEach (entry, object) {
		double id = entry->valuedouble;
		FAIL_IF(!cJSON_IsNumber(entry) || !(id >= 0 && id < (double)count) ||
				id != (double)(uint32_t)id,
			STATUS_CORRUPT,
			"%s: the id of token \"%.*s\" is not a whole number below %zu, the number of tokens "
			"(ids must be 0, 1, 2, ... without gaps)",
			path, LONGEST_SHOWN, entry->string, count);
		const cJSON **slot = &by_id[(uint32_t)id];
		FAIL_IF(*slot, STATUS_CORRUPT, "%s: tokens \"%.*s\" and \"%.*s\" have the same id, %u", path,
			LONGEST_SHOWN, (*slot)->string, LONGEST_SHOWN, entry->string, (uint32_t)id);
		*slot = entry;
	}
	return STATUS_OK;
}

static enum status add_entry(struct tokenizer *tokenizer, const char *path, const cJSON *entry)
{
	uint32_t id = tokenizer->vocabulary;
	size_t length = strlen(entry->string), count;
	if (strcmp(entry->string, VOCABULARY_EOD_TEXT) == 0) {
		FAIL_IF(tokenizer->eod != NO_TOKEN, STATUS_CORRUPT, "%s: token \"%s\" is there twice", path,
			VOCABULARY_EOD_TEXT);
		tokenizer->eod = id;
		token_append(tokenizer, 0);
		return STATUS_OK;
	}
	uint8_t *bytes = tokenizer->bytes + tokenizer->offsets[id];
	FAIL_IF(!length, STATUS_CORRUPT, "%s: the token of id %u is empty", path, id);
	FAIL_IF(!letters_read(entry->string, length, bytes, &count), STATUS_CORRUPT,
		"%s: token \"%.*s\" (id %u) holds a character that stands for no byte; is this a byte-level "
		"vocabulary, as GPT-2's?",
		path, LONGEST_SHOWN, entry->string, id);
	FAIL_IF(find_token(tokenizer, bytes, count) != NO_TOKEN, STATUS_CORRUPT,
		"%s: token \"%.*s\" is there twice (ids %u and %u)", path, LONGEST_SHOWN, entry->string,
		find_token(tokenizer, bytes, count), id);
	token_append(tokenizer, count);
	token_index(tokenizer, id);
	return STATUS_OK;
}

static enum status add_entries(struct tokenizer *tokenizer, const char *path, const cJSON *object)
{
	size_t count = 0, text_bytes = 0;
	const cJSON *entry, **by_id;
	cJSON_ArrayForEach (entry, object) {
		count++;
		text_bytes += strlen(entry->string);
	}
	FAIL_IF(count >= VOCABULARY_LIMIT, STATUS_CORRUPT, "%s: %zu tokens, more than %d", path, count,
		VOCABULARY_LIMIT - 1);
	TRY(index_open(tokenizer, count));
	TRY(memory_alloc((void **)&tokenizer->offsets, count + 2, sizeof(uint32_t), "the vocabulary"));
	TRY(memory_alloc((void **)&tokenizer->bytes, text_bytes, 1, "the vocabulary"));
	TRY(memory_alloc((void **)&by_id, count, sizeof *by_id, "the vocabulary"));
	tokenizer->eod = NO_TOKEN;
	enum status status = sort_entries(path, object, by_id, count);
	for (size_t id = 0; id < count && status == STATUS_OK; id++)
		status = add_entry(tokenizer, path, by_id[id]);
	free(by_id);
	if (status == STATUS_OK && tokenizer->eod == NO_TOKEN) {
		tokenizer->eod = tokenizer->vocabulary;
		token_append(tokenizer, 0);
	}
	return status;
}

static enum status tokens_from_file(struct tokenizer *tokenizer, const char *path)
{
	cJSON *object;
	TRY(parse_json(path, &object));
	enum status status = add_entries(tokenizer, path, object);
	cJSON_Delete(object);
	return status;
}

/* ---- the merges, over tokens that are there ---- */

static enum status find_bytes(struct tokenizer *tokenizer, const char *path)
{
	for (uint32_t byte = 0; byte < 256; byte++) {
		uint8_t text = (uint8_t)byte;
		tokenizer->byte_id[byte] = find_token(tokenizer, &text, 1);
		FAIL_IF(tokenizer->byte_id[byte] == NO_TOKEN, STATUS_CORRUPT,
			"%s: no token for the byte 0x%02X (letter U+%04X): text that holds it could not be "
			"encoded",
			path, byte, letter_of_byte(text));
	}
	return STATUS_OK;
}

/* `scratch` [line->length]. `known` NULL: the line was not read yet. */
static enum status add_merge(struct tokenizer *tokenizer, const char *path, const struct merge_line *line,
	const struct known_merge *known, uint8_t *scratch)
{
	size_t left, right;
	uint32_t id;
	const uint8_t *bytes = scratch;
	if (known) {
		id = known->id;
		bytes = tokenizer->bytes + tokenizer->offsets[id];
		left = known->left;
		right = tokenizer->offsets[id + 1] - tokenizer->offsets[id] - left;
	} else {
		TRY(read_merge(path, line, scratch, &left, &right));
		id = find_token(tokenizer, bytes, left + right);
	}
	uint32_t *parts = tokenizer->merges[tokenizer->merge_count++];
	parts[0] = find_token(tokenizer, bytes, left);
	parts[1] = find_token(tokenizer, bytes + left, right);
	if (parts[0] == NO_TOKEN || parts[1] == NO_TOKEN)
		return bad_line(path, line, "joins something that is not a token");
	if (id == NO_TOKEN)
		return bad_line(path, line, "joins to something that is not a token");
	if (!merge_table_add(&tokenizer->table, parts[0], parts[1], id))
		return bad_line(path, line, "the same merge stands on an earlier line");
	return STATUS_OK;
}

static enum status add_merges(struct tokenizer *tokenizer, const char *path, const char *text, size_t bytes,
	const struct known_merge *known /* [merges]; NULL */)
{
	size_t most = count_lines(text, bytes);
	FAIL_IF(most > VOCABULARY_LIMIT, STATUS_CORRUPT, "%s: more than %d lines", path, VOCABULARY_LIMIT);
	TRY(merge_table_open(&tokenizer->table, (uint32_t)most, tokenizer->vocabulary));
	TRY(memory_alloc((void **)&tokenizer->merges, most, sizeof *tokenizer->merges, "the merges"));
	struct merge_line line = {0};
	uint8_t *scratch = NULL;
	size_t capacity = 0;
	enum status status = STATUS_OK;
	for (const char *at = text; status == STATUS_OK && next_merge(&at, text + bytes, &line);) {
		status = memory_grow((void **)&scratch, &capacity, line.length, 1, "a merge");
		if (status == STATUS_OK)
			status = add_merge(tokenizer, path, &line, known, scratch);
		if (known)
			known++;
	}
	free(scratch);
	return status;
}

static bool is_gpt2(const struct tokenizer *tokenizer)
{
	struct hash128 gpt2 = {TOKENIZER_GPT2_HASH_HIGH, TOKENIZER_GPT2_HASH_LOW};
	return hash128_compare(tokenizer->hash, gpt2) == 0;
}

/* Which bytes stand side by side in tokens. */
static void find_neighbours(struct tokenizer *tokenizer)
{
	for (uint32_t id = 0; id < tokenizer->vocabulary; id++)
		for (uint32_t at = tokenizer->offsets[id] + 1; at < tokenizer->offsets[id + 1]; at++) {
			uint32_t pair = (uint32_t)tokenizer->bytes[at - 1] << 8 | tokenizer->bytes[at];
			tokenizer->neighbours[pair / 64] |= UINT64_C(1) << pair % 64;
		}
}

/* Which tokens merging makes of their own bytes. */
static enum status find_whole(struct tokenizer *tokenizer)
{
	uint32_t longest = 0;
	TRY(memory_alloc((void **)&tokenizer->whole, tokenizer->vocabulary, sizeof(bool), "the vocabulary"));
	if (is_gpt2(tokenizer)) { /* all of them; a test merges each */
		memset(tokenizer->whole, true, tokenizer->vocabulary);
		return STATUS_OK;
	}
	for (uint32_t id = 0; id < tokenizer->vocabulary; id++) {
		uint32_t length = tokenizer->offsets[id + 1] - tokenizer->offsets[id];
		longest = length > longest ? length : longest;
	}
	uint32_t *ids;
	TRY(memory_alloc((void **)&ids, longest, sizeof *ids, "the vocabulary"));
	enum status status = STATUS_OK;
	for (uint32_t id = 0; id < tokenizer->vocabulary && status == STATUS_OK; id++) {
		uint32_t start = tokenizer->offsets[id], length = tokenizer->offsets[id + 1] - start;
		size_t count;
		status = vocabulary_merge_word(tokenizer, tokenizer->bytes + start, length, ids, &count);
		tokenizer->whole[id] = status == STATUS_OK && count == 1 && ids[0] == id;
	}
	free(ids);
	return status;
}

static enum status take_hash(struct tokenizer *tokenizer)
{
	struct hash_stream *stream;
	TRY(hash_stream_open(&stream));
	uint32_t counts[] = {tokenizer->vocabulary, tokenizer->eod, tokenizer->merge_count};
	hash_stream_add(stream, UNICODE_VERSION, sizeof UNICODE_VERSION);
	hash_stream_add(stream, counts, sizeof counts);
	hash_stream_add(stream, tokenizer->offsets, ((size_t)tokenizer->vocabulary + 1) * sizeof(uint32_t));
	hash_stream_add(stream, tokenizer->bytes, tokenizer->offsets[tokenizer->vocabulary]);
	hash_stream_add(stream, tokenizer->merges, tokenizer->merge_count * sizeof *tokenizer->merges);
	tokenizer->hash = hash_stream_digest(stream);
	hash_stream_close(stream);
	return STATUS_OK;
}

/* ---- opening ---- */

static enum status read_files(struct tokenizer *tokenizer, const char *merge_file, const char *text,
	size_t bytes, const char *vocab_file, struct known_merge **known)
{
	if (vocab_file)
		TRY(tokens_from_file(tokenizer, vocab_file));
	else
		TRY(tokens_from_merges(tokenizer, merge_file, text, bytes, known));
	TRY(find_bytes(tokenizer, vocab_file ? vocab_file : merge_file));
	enum status status = add_merges(tokenizer, merge_file, text, bytes, *known);
	if (status != STATUS_OK && vocab_file) /* either of the two may be wrong */
		return error_context(status, "the tokens of %s", vocab_file);
	return status;
}

static enum status build(struct tokenizer *tokenizer, const char *merge_file, const char *text, size_t bytes,
	const char *vocab_file)
{
	struct known_merge *known = NULL;
	enum status status = read_files(tokenizer, merge_file, text, bytes, vocab_file, &known);
	free(known);
	TRY(status);
	TRY(merge_table_finish(&tokenizer->table, tokenizer->byte_id));
	find_neighbours(tokenizer);
	TRY(take_hash(tokenizer));
	TRY(find_whole(tokenizer));
	return word_seeds_make(tokenizer);
}

static enum status open_text(const char *merge_file, const char *text, size_t bytes, const char *vocab_file,
	struct tokenizer **out)
{
	*out = NULL;
	struct tokenizer *tokenizer;
	TRY(memory_alloc((void **)&tokenizer, 1, sizeof *tokenizer, "the tokenizer"));
	enum status status = build(tokenizer, merge_file, text, bytes, vocab_file);
	if (status == STATUS_OK)
		*out = tokenizer;
	else
		tokenizer_close(tokenizer);
	return status;
}

enum status tokenizer_open_gpt2(struct tokenizer **out)
{
	return open_text(
		BUILT_IN_MERGES, vocab_gpt2_begin, (size_t)(vocab_gpt2_end - vocab_gpt2_begin), NULL, out);
}

enum status tokenizer_open_files(const char *merge_file, const char *vocab_file, struct tokenizer **out)
{
	char *text;
	size_t bytes;
	*out = NULL;
	TRY(file_read_all(merge_file, FILE_LIMIT, &text, &bytes));
	enum status status = open_text(merge_file, text, bytes, vocab_file, out);
	free(text);
	return status;
}

enum status tokenizer_open_directory(const char *directory, struct tokenizer **out)
{
	char *merge_file = NULL, *vocab_file = NULL;
	*out = NULL;
	enum status status = path_join(&merge_file, directory, "merges.txt");
	if (status == STATUS_OK)
		status = path_join(&vocab_file, directory, "vocab.json");
	if (status == STATUS_OK)
		status = tokenizer_open_files(merge_file, vocab_file, out);
	free(merge_file);
	free(vocab_file);
	return status;
}

void tokenizer_close(struct tokenizer *tokenizer)
{
	if (!tokenizer)
		return;
	merge_table_close(&tokenizer->table);
	free(tokenizer->bytes);
	free(tokenizer->offsets);
	free(tokenizer->index);
	free(tokenizer->whole);
	free(tokenizer->seeds);
	free(tokenizer->merges);
	free(tokenizer);
}

/* ---- asking ---- */

uint32_t tokenizer_vocabulary(const struct tokenizer *tokenizer)
{
	return tokenizer->vocabulary;
}

uint32_t tokenizer_eod(const struct tokenizer *tokenizer)
{
	return tokenizer->eod;
}

const char *tokenizer_name(const struct tokenizer *tokenizer)
{
	return is_gpt2(tokenizer) ? TOKENIZER_GPT2_NAME : "ByteLevelBPETokenizer";
}

struct hash128 tokenizer_hash(const struct tokenizer *tokenizer)
{
	return tokenizer->hash;
}

const uint8_t *tokenizer_token_bytes(const struct tokenizer *tokenizer, uint32_t id, uint32_t *length)
{
	*length = 0;
	if (id >= tokenizer->vocabulary)
		return NULL;
	*length = tokenizer->offsets[id + 1] - tokenizer->offsets[id];
	return tokenizer->bytes + tokenizer->offsets[id];
}

enum status tokenizer_decode(
	const struct tokenizer *tokenizer, const uint32_t *ids, size_t count, char **text, size_t *bytes)
{
	size_t total = 0;
	uint32_t length;
	*text = NULL;
	*bytes = 0;
	for (size_t i = 0; i < count; i++) {
		FAIL_IF(!tokenizer_token_bytes(tokenizer, ids[i], &length), STATUS_USAGE,
			"id %u (number %zu) is not of this vocabulary, which has %u ids", ids[i], i + 1,
			tokenizer->vocabulary);
		total += length;
	}
	TRY(memory_alloc((void **)text, total + 1, 1, "decoded text"));
	for (size_t i = 0; i < count; i++) {
		const uint8_t *token = tokenizer_token_bytes(tokenizer, ids[i], &length);
		memcpy(*text + *bytes, token, length);
		*bytes += length;
	}
	return STATUS_OK;
}
