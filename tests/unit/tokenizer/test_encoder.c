/* Ids against tiktoken's (golden file) and against a slow reading of the method; long words; memory. */
#include "tests/unit/tokenizer/vectors_fixture.h"

#include "common/memory.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/vocabulary.h"
#include "tokenizer/words.h"

#include <stdio.h>
#include <unistd.h>

struct fixture {
	struct tokenizer *tokenizer;
	struct encoder *encoder;
};

static int set_up(void **state)
{
	struct fixture *fixture = calloc(1, sizeof *fixture);
	assert_int_equal(tokenizer_open_gpt2(&fixture->tokenizer), STATUS_OK);
	assert_int_equal(encoder_open(fixture->tokenizer, &fixture->encoder), STATUS_OK);
	*state = fixture;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *fixture = *state;
	encoder_close(fixture->encoder);
	tokenizer_close(fixture->tokenizer);
	free(fixture);
	return 0;
}

/* Text and ids on the heap to the element, so that the sanitizer sees an access past the end. */
static uint32_t *encode(struct fixture *fixture, const char *text, size_t bytes, size_t *count)
{
	char *copy = calloc(bytes ? bytes : 1, 1);
	uint32_t *ids = malloc(bytes ? bytes * sizeof *ids : 1);
	memcpy(copy, text, bytes);
	assert_int_equal(encoder_encode(fixture->encoder, copy, bytes, ids, count), STATUS_OK);
	assert_true(*count <= bytes);
	uint16_t *narrow = malloc(bytes ? bytes * sizeof *narrow : 1);
	size_t narrow_count;
	assert_int_equal(encoder_encode_u16(fixture->encoder, copy, bytes, narrow, &narrow_count), STATUS_OK);
	assert_int_equal(narrow_count, *count);
	for (size_t i = 0; i < narrow_count; i++)
		assert_int_equal(narrow[i], ids[i]);
	free(narrow);
	free(copy);
	return ids;
}

static void check_vector(const cJSON *line, void *user)
{
	const char *text = cJSON_GetObjectItem(line, "text")->valuestring;
	const cJSON *expected = cJSON_GetObjectItem(line, "ids"), *id;
	size_t count, i = 0, bytes;
	uint32_t *ids = encode(user, text, strlen(text), &count);
	assert_int_equal(count, cJSON_GetArraySize(expected));
	cJSON_ArrayForEach (id, expected)
		assert_int_equal(ids[i++], id->valueint);
	char *back;
	struct fixture *fixture = user;
	assert_int_equal(tokenizer_decode(fixture->tokenizer, ids, count, &back, &bytes), STATUS_OK);
	assert_int_equal(bytes, strlen(text));
	assert_memory_equal(back, text, bytes);
	free(back);
	free(ids);
}

static void as_tiktoken(void **state)
{
	assert_true(vectors_each("ids", check_vector, *state) >= 200); /* cold */
	vectors_each("ids", check_vector, *state);                     /* from the cache */
}

/* ---- the oracle: tokens read from vocab.bpe here; the pair whose joined bytes have the lowest id goes first
 * ---- */

struct token {
	uint8_t bytes[128];
	size_t length;
	uint32_t id;
};
enum { TOKENS = 50256 };
static struct token *tokens; /* [TOKENS], in order of bytes */

static int token_compare(const void *a, const void *b)
{
	const struct token *x = a, *y = b;
	int order = memcmp(x->bytes, y->bytes, x->length < y->length ? x->length : y->length);
	return order ? order : (x->length > y->length) - (x->length < y->length);
}

static void read_tokens(void)
{
	uint8_t byte_of[324];
	uint32_t id = 0, extra = 256;
	tokens = calloc(TOKENS, sizeof *tokens);
	for (int pass = 0; pass < 2; pass++) /* printable bytes first */
		for (int b = 0; b < 256; b++) {
			bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
			if (printable == (pass == 1))
				continue;
			byte_of[printable ? (uint32_t)b : extra++] = (uint8_t)b;
			tokens[id] = (struct token){.bytes = {(uint8_t)b}, .length = 1, .id = id};
			id++;
		}
	char *text;
	size_t bytes;
	assert_int_equal(file_read_all("tokenizer/vocab.bpe", 1 << 20, &text, &bytes), STATUS_OK);
	for (const char *at = strchr(text, '\n') + 1; *at; at++, id++) {
		assert_true(id < TOKENS);
		for (; *at != '\n'; at++) {
			uint32_t letter = (uint8_t)*at;
			if (letter >= 0x80)
				letter = (letter & 0x1F) << 6 | ((uint8_t) * ++at & 0x3F);
			if (letter != ' ')
				tokens[id].bytes[tokens[id].length++] = byte_of[letter];
		}
		tokens[id].id = id;
	}
	assert_int_equal(id, TOKENS);
	free(text);
	qsort(tokens, TOKENS, sizeof *tokens, token_compare);
}

/* UINT32_MAX if these bytes are no token. */
static uint32_t token_id(const uint8_t *bytes, size_t length)
{
	struct token key = {.length = length};
	if (length > sizeof key.bytes)
		return UINT32_MAX;
	memcpy(key.bytes, bytes, length);
	const struct token *found = bsearch(&key, tokens, TOKENS, sizeof *tokens, token_compare);
	return found ? found->id : UINT32_MAX;
}

static size_t slow_word(const uint8_t *word, size_t length, uint32_t *ids)
{
	size_t cut[512], parts = length; /* part i is [cut[i], cut[i + 1]) */
	for (size_t i = 0; i <= length; i++)
		cut[i] = i;
	while (true) {
		uint32_t best = UINT32_MAX;
		size_t where = 0;
		for (size_t i = 0; i + 1 < parts; i++) {
			uint32_t id = token_id(word + cut[i], cut[i + 2] - cut[i]);
			if (id < best) {
				best = id;
				where = i;
			}
		}
		if (best == UINT32_MAX)
			break;
		memmove(cut + where + 1, cut + where + 2, (parts - where - 1) * sizeof *cut);
		parts--;
	}
	for (size_t i = 0; i < parts; i++)
		ids[i] = token_id(word + cut[i], cut[i + 1] - cut[i]);
	return parts;
}

static uint64_t random_state = 1234567;

static uint32_t random_below(uint32_t limit)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (uint32_t)((random_state >> 32) * limit >> 32);
}

/* Letters that merge a lot, pieces of real tokens, characters of several bytes, and words that end in what a key has
 * behind a shorter one. */
static size_t random_text(char *text, size_t limit)
{
	static const char *const wide[] = {
		"\xC3\xA9", "\xE4\xB8\xAD", "\xD0\xB8", "\xF0\x9F\x98\x80", "\xC2\xA0", "\xE3\x80\x80"};
	size_t bytes = 0;
	while (bytes + 140 < limit) {
		uint32_t kind = random_below(20);
		if (kind < 3) {
			const char *piece = wide[random_below(6)];
			for (uint32_t i = 1 + random_below(6); i; i--, bytes += strlen(piece))
				memcpy(text + bytes, piece, strlen(piece));
		} else if (kind < 8) {
			const struct token *token = &tokens[random_below(TOKENS)];
			for (size_t i = 0; i < token->length; i++)
				text[bytes++] = token->bytes[i] < 0x80 ? (char)token->bytes[i] : 'q';
		} else if (kind < 9) {
			for (uint32_t i = 20 + random_below(100); i; i--)
				text[bytes++] = "ethaonis"[random_below(8)];
		} else if (kind < 10) {
			text[bytes++] = '!';
			for (uint32_t i = random_below(5); i; i--)
				text[bytes++] = (char)random_below(6);
		} else {
			for (uint32_t i = 1 + random_below(8); i; i--)
				text[bytes++] = "etaoin shrdlu, .-=01"[random_below(20)];
			text[bytes++] = " \n'"[random_below(3)];
		}
	}
	return bytes;
}

static void as_the_oracle(void **state)
{
	static char text[8192];
	static uint32_t expected[8192];
	read_tokens();
	for (int round = 0; round < 150; round++) {
		size_t bytes = random_text(text, 200 + random_below(6000)), count, expected_count = 0;
		for (size_t at = 0, end; at < bytes; at = end) {
			end = at + word_end((const uint8_t *)text + at, bytes - at);
			assert_true(end - at < 512);
			expected_count +=
				slow_word((const uint8_t *)text + at, end - at, expected + expected_count);
		}
		uint32_t *ids = encode(*state, text, bytes, &count);
		assert_int_equal(count, expected_count);
		assert_memory_equal(ids, expected, count * sizeof *ids);
		free(ids);
	}
	free(tokens);
}

/* Opening takes it for granted: a new encoder's cache holds GPT-2's tokens as words of one id. */
static void every_token_merges_to_itself(void **state)
{
	struct fixture *fixture = *state;
	uint32_t ids[256], length;
	for (uint32_t id = 0; id < tokenizer_eod(fixture->tokenizer); id++) {
		const uint8_t *bytes = tokenizer_token_bytes(fixture->tokenizer, id, &length);
		size_t count;
		assert_int_equal(
			vocabulary_merge_word(fixture->tokenizer, bytes, length, ids, &count), STATUS_OK);
		assert_int_equal(count, 1);
		assert_int_equal(ids[0], id);
	}
}

/* A word's ids are those of its parts between two bytes that are neighbours in no token. */
static void words_are_cut_where_no_token_reaches(void **state)
{
	struct fixture *fixture = *state;
	uint8_t word[48];
	uint32_t whole[48], part[48];
	size_t cuts = 0;
	for (int round = 0; round < 20000; round++) {
		size_t length = 2 + random_below(46), whole_count, count = 0, more;
		for (size_t i = 0; i < length; i++)
			word[i] = (uint8_t)(random_below(2) ? 0x80 + random_below(0x70)
							    : 'a' + random_below(26));
		assert_int_equal(vocabulary_merge_word(fixture->tokenizer, word, length, whole, &whole_count),
			STATUS_OK);
		for (size_t at = 0, end; at < length; at = end, count += more, cuts++) {
			end = at + vocabulary_find_cut(fixture->tokenizer, word + at, length - at);
			assert_true(end > at && end <= length);
			assert_int_equal(vocabulary_merge_word(fixture->tokenizer, word + at, end - at,
						 part + count, &more),
				STATUS_OK);
		}
		assert_int_equal(count, whole_count);
		assert_memory_equal(part, whole, count * sizeof *part);
	}
	assert_true(cuts > 20000);
}

/* The token of a line of merges: its two halves without the space. */
static size_t line_token(const char *line, size_t length, char *token)
{
	size_t bytes = 0;
	for (size_t i = 0; i < length; i++)
		if (line[i] != ' ')
			token[bytes++] = line[i];
	return bytes;
}

/* Ids that 16 bits cannot hold: GPT-2's merges and 20,000 that join two of its tokens. */
static void a_larger_vocabulary(void **state)
{
	(void)state;
	enum { FIRST = 29000, MORE = 20000 };
	char *merges, path[] = "/tmp/ferry-merges-XXXXXX", token[2][512];
	size_t bytes, lengths[2] = {0}, count, expected_count = 0;
	assert_int_equal(file_read_all("tokenizer/vocab.bpe", 1 << 20, &merges, &bytes), STATUS_OK);
	FILE *file = fdopen(mkstemp(path), "w");
	fwrite(merges, 1, bytes, file);
	const char *line = strchr(merges, '\n') + 1;
	for (int i = 0; i < FIRST + MORE; i++, line = strchr(line, '\n') + 1) {
		size_t length = line_token(line, strcspn(line, "\n"), token[i % 2]);
		lengths[i % 2] = length;
		if (i >= FIRST)
			fprintf(file, "%.*s %.*s\n", (int)lengths[~i & 1], token[~i & 1], (int)length,
				token[i % 2]);
	}
	fclose(file);
	struct fixture fixture;
	assert_int_equal(tokenizer_open_files(path, NULL, &fixture.tokenizer), STATUS_OK);
	assert_true(tokenizer_vocabulary(fixture.tokenizer) > 66000);
	assert_int_equal(encoder_open(fixture.tokenizer, &fixture.encoder), STATUS_OK);
	static char text[400000];
	static uint32_t expected[sizeof text], ids[sizeof text];
	size_t text_bytes = 0;
	while (text_bytes < sizeof text - 300) {
		uint32_t id = random_below(tokenizer_vocabulary(fixture.tokenizer)), length;
		const uint8_t *known = tokenizer_token_bytes(fixture.tokenizer, id, &length);
		for (uint32_t i = 0; i < length; i++)
			text[text_bytes++] = known[i] < 0x80 ? (char)known[i] : 'x';
	}
	for (size_t at = 0, end; at < text_bytes; at = end, expected_count += count) {
		end = at + word_end((const uint8_t *)text + at, text_bytes - at);
		assert_int_equal(vocabulary_merge_word(fixture.tokenizer, (const uint8_t *)text + at,
					 end - at, expected + expected_count, &count),
			STATUS_OK);
	}
	for (int round = 0; round < 2; round++) {
		assert_int_equal(encoder_encode(fixture.encoder, text, text_bytes, ids, &count), STATUS_OK);
		assert_int_equal(count, expected_count);
		assert_memory_equal(ids, expected, count * sizeof *ids);
	}
	uint32_t largest = 0;
	for (size_t i = 0; i < count; i++)
		largest = ids[i] > largest ? ids[i] : largest;
	assert_true(largest > UINT16_MAX);
	assert_int_equal(
		encoder_encode_u16(fixture.encoder, text, text_bytes, (uint16_t *)ids, &count), STATUS_USAGE);
	encoder_close(fixture.encoder);
	tokenizer_close(fixture.tokenizer);
	unlink(path);
	free(merges);
}

/* A cut before a space that follows something else changes nothing, so a long text equals its pieces. */
static void a_text_equals_its_pieces(void **state)
{
	static char text[40000];
	size_t bytes = 0, whole_count, count = 0;
	while (bytes < sizeof text - 40)
		bytes += (size_t)sprintf(text + bytes, "word%u don't ", random_below(3000));
	uint32_t *whole = encode(*state, text, --bytes, &whole_count);
	for (size_t start = 0, end; start < bytes; start = end) {
		for (end = start + 1; end < bytes && text[end] != ' '; end++)
			;
		size_t piece_count;
		uint32_t *piece = encode(*state, text + start, end - start, &piece_count);
		assert_true(count + piece_count <= whole_count);
		assert_memory_equal(whole + count, piece, piece_count * sizeof *piece);
		count += piece_count;
		free(piece);
	}
	assert_int_equal(count, whole_count);
	free(whole);
}

/* n^2 steps would take hours here. */
static void a_megabyte_without_a_break(void **state)
{
	enum { LETTERS = 1 << 20 };
	char *text = malloc(LETTERS);
	struct fixture *fixture = *state;
	static const char *const patterns[] = {
		"a", " ", "=", "xyz", "\xE4\xB8\xAD", "ab\xC3\xA9", "'", "0123456789"};
	for (size_t p = 0; p < sizeof patterns / sizeof *patterns; p++) {
		size_t length = strlen(patterns[p]), bytes = LETTERS / length * length, count, back_bytes;
		for (size_t i = 0; i < bytes; i++)
			text[i] = patterns[p][i % length];
		uint32_t *ids = encode(*state, text, bytes, &count);
		char *back;
		assert_int_equal(
			tokenizer_decode(fixture->tokenizer, ids, count, &back, &back_bytes), STATUS_OK);
		assert_int_equal(back_bytes, bytes);
		assert_memory_equal(back, text, bytes);
		for (size_t i = 0; p == 0 && i < count; i++)
			assert_int_equal(ids[i], 24794); /* tiktoken: 24794, "aaaa", 2^18 times */
		free(back);
		free(ids);
	}
	free(text);
}

static void nothing_and_nul(void **state)
{
	size_t count;
	free(encode(*state, "", 0, &count));
	assert_int_equal(count, 0);
	uint32_t *ids = encode(*state, "\0a\0\0", 4, &count);
	static const uint32_t expected[] = {188, 64, 188, 188}; /* tiktoken */
	assert_int_equal(count, 4);
	assert_memory_equal(ids, expected, sizeof expected);
	free(ids);
}

/* More distinct words than the cache holds: what is thrown out is worked out again. */
static void more_words_than_the_cache(void **state)
{
	struct fixture *fixture = *state;
	enum { WORDS = 600000 };
	char *text = malloc(WORDS * 8 + 1), *back;
	size_t bytes = 0, count, again, back_bytes;
	for (uint32_t i = 0; i < WORDS; i++)
		bytes += (size_t)sprintf(text + bytes, " w%05x", i);
	uint32_t *ids = encode(fixture, text, bytes, &count), *same = encode(fixture, text, bytes, &again);
	assert_int_equal(count, again);
	assert_memory_equal(ids, same, count * sizeof *ids);
	assert_int_equal(tokenizer_decode(fixture->tokenizer, ids, count, &back, &back_bytes), STATUS_OK);
	assert_int_equal(back_bytes, bytes);
	assert_memory_equal(back, text, bytes);
	free(back);
	free(ids);
	free(same);
	free(text);
}

/* Words for the second cache, by length and by number of ids: they come again while it still has them and
 * after it has dropped them. */
static void more_long_words_than_the_ring(void **state)
{
	struct fixture *fixture = *state;
	enum { WORDS = 90000, WORD = 70, RECENT = 500 };
	static const char *const letters[] = {"q", "e", "7", "\xE4\xB8\xAD", "\xD0\xB8", "\xF0\x9F\x98\x80"};
	char *text = malloc(WORDS * (WORD + 8));
	size_t *starts = malloc(WORDS * sizeof *starts), bytes = 0, count, expected_count = 0, more;
	for (size_t i = 0; i < WORDS; i++) {
		bool again = i > RECENT && random_below(4) == 0;
		size_t from =
			again ? starts[i - 1 - random_below(random_below(2) ? RECENT : (uint32_t)i - 1)] : 0;
		starts[i] = bytes;
		text[bytes++] = ' ';
		if (again) {
			for (from++; text[from] != ' '; from++)
				text[bytes++] = text[from];
			continue;
		}
		uint32_t kind = random_below(2) ? 3 : 0;
		for (size_t end = bytes + 8 + random_below(WORD - 8); bytes < end;) {
			const char *letter = letters[kind + random_below(3)];
			bytes += (size_t)sprintf(text + bytes, "%s", letter);
		}
	}
	uint32_t *expected = malloc(bytes * sizeof *expected);
	for (size_t at = 0, end; at < bytes; at = end, expected_count += more) {
		end = at + word_end((const uint8_t *)text + at, bytes - at);
		assert_int_equal(vocabulary_merge_word(fixture->tokenizer, (const uint8_t *)text + at,
					 end - at, expected + expected_count, &more),
			STATUS_OK);
	}
	for (int round = 0; round < 2; round++) {
		uint32_t *ids = encode(fixture, text, bytes, &count);
		assert_int_equal(count, expected_count);
		assert_memory_equal(ids, expected, count * sizeof *ids);
		free(ids);
	}
	free(expected);
	free(starts);
	free(text);
}

static void fails_for_lack_of_memory_alone(void **state)
{
	struct fixture *fixture = *state;
	struct encoder *encoder;
	for (int calls = 0; calls < 4; calls++) {
		memory_fail_after(calls);
		enum status status = encoder_open(fixture->tokenizer, &encoder);
		memory_fail_after(-1);
		assert_int_equal(status, STATUS_MEMORY);
		assert_null(encoder);
	}
	char text[1000];
	uint32_t ids[1000];
	size_t count;
	memset(text, 'z', sizeof text);
	memory_fail_after(0);
	enum status status = encoder_encode(fixture->encoder, text, sizeof text, ids, &count);
	memory_fail_after(-1);
	assert_int_equal(status, STATUS_MEMORY);
	assert_int_equal(encoder_encode(fixture->encoder, text, sizeof text, ids, &count), STATUS_OK);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(as_tiktoken),
		cmocka_unit_test(as_the_oracle),
		cmocka_unit_test(every_token_merges_to_itself),
		cmocka_unit_test(words_are_cut_where_no_token_reaches),
		cmocka_unit_test(a_larger_vocabulary),
		cmocka_unit_test(a_text_equals_its_pieces),
		cmocka_unit_test(a_megabyte_without_a_break),
		cmocka_unit_test(nothing_and_nul),
		cmocka_unit_test(more_words_than_the_cache),
		cmocka_unit_test(more_long_words_than_the_ring),
		cmocka_unit_test(fails_for_lack_of_memory_alone),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
