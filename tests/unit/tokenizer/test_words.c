/* The split pattern against a plain reading of it, alternative by alternative, code point by code point. */
#include "common/simd.h"
#include "tests/unit/put_utf8.h"
#include "tokenizer/unicode.h"
#include "tokenizer/words.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { LONGEST = 20000 };

/* ---- the oracle: the pattern's alternatives, tried in order at each position ---- */

struct code_points {
	uint32_t at[LONGEST + 1];
	size_t offset[LONGEST + 1]; /* of each in the text */
	size_t count;
};

static void decode(const char *text, size_t bytes, struct code_points *out)
{
	out->count = 0;
	for (size_t i = 0; i < bytes;) {
		uint8_t lead = (uint8_t)text[i];
		size_t length = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
		uint32_t value = length == 1 ? lead : lead & (0x7F >> length);
		for (size_t k = 1; k < length; k++)
			value = value << 6 | ((uint8_t)text[i + k] & 0x3F);
		out->offset[out->count] = i;
		out->at[out->count++] = value;
		i += length;
	}
	out->offset[out->count] = bytes;
	out->at[out->count] = 0;
}

static bool is_space(uint32_t c)
{
	return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
	       (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
	       c == 0x3000;
}

static bool is_letter(uint32_t c)
{
	return unicode_class_of(c) == UNICODE_LETTER;
}

static bool is_number(uint32_t c)
{
	return unicode_class_of(c) == UNICODE_NUMBER;
}

static bool is_other(uint32_t c)
{
	return !is_space(c) && !is_letter(c) && !is_number(c);
}

static size_t run(const struct code_points *text, size_t at, bool (*is)(uint32_t))
{
	size_t end = at;
	while (end < text->count && is(text->at[end]))
		end++;
	return end;
}

static size_t match(const struct code_points *text, size_t at)
{
	static const char *const contractions[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
	for (size_t i = 0; i < 7; i++) {
		size_t length = strlen(contractions[i]), same = 0;
		while (same < length && at + same < text->count &&
			text->at[at + same] == (uint32_t)contractions[i][same])
			same++;
		if (same == length)
			return at + length;
	}
	bool (*const classes[])(uint32_t) = {is_letter, is_number, is_other};
	for (size_t i = 0; i < 3; i++) {
		size_t from = at + (text->at[at] == ' ');
		size_t end = run(text, from, classes[i]);
		if (end > from)
			return end;
	}
	size_t end = run(text, at, is_space);
	if (end < text->count && end - at > 1)
		return end - 1; /* backtracks by one, then no non-space follows */
	return end;
}

/* ---- ferry's ---- */

static void check(const char *text, size_t bytes)
{
	static struct code_points points;
	static uint16_t ends[WORDS_ROOM];
	decode(text, bytes, &points);
	/* Exactly `bytes` on the heap, so that the sanitizer sees a read past the end. */
	uint8_t *copy = malloc(bytes ? bytes : 1);
	memcpy(copy, text, bytes);
	size_t at = 0, count = 0, next = 0, base = 0;
	for (size_t point = 0; point < points.count;) {
		point = match(&points, point);
		size_t expected = points.offset[point];
		assert_int_equal(word_end(copy + at, bytes - at), expected - at);
		if (next == count) {
			size_t covered = words_find(copy + at, bytes - at, ends, &count);
			base = at;
			next = 0;
			assert_true(covered > 0 && covered <= bytes - at);
			assert_int_equal(covered, count ? ends[count - 1] : expected - at);
		}
		at = count ? base + ends[next++] : expected;
		assert_int_equal(at, expected);
	}
	assert_int_equal(at, bytes);
	free(copy);
}

static void check_string(const char *text)
{
	check(text, strlen(text));
}

static void by_hand(void **state)
{
	(void)state;
	static const char *const texts[] = {"", " ", "  ", "a", " a", "  a", "\n a", "a  ", "don't", "''s",
		"'s", "'sd", " 's", "!'s", "\t's", "'ll's've", "'l", "'r", "'", "a'", "\xC2\xA0x",
		"x\xC2\xA0", " \xC2\xA0x", "\xC2\xA0\xC2\xA0x", "\xE3\x80\x80\xE3\x80\x80", "1a!2b", " 12",
		"\xE2\x80\xA8 x", "'\xC3\xA9", "\xC2\xB2'd"};
	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
		check_string(texts[i]);
}

/* What an address in the text may hold; runs of these meet in every order. */
static const char *const pieces[] = {" ", " ", "\n", "\t", "'", "'", "s", "t", "r", "e", "l", "v", "d", "m",
	"Z", "7", "0", "!", "-", "_", "\xC2\x85", "\xC2\xA0", "\xE3\x80\x80", "\xE2\x80\x89", "\xC3\xA9",
	"\xD0\x96", "\xE4\xB8\xAD", "\xD9\xA3", "\xC2\xBD", "\xCC\x81", "\xF0\x9F\x98\x80",
	"\xF0\x90\xB5\x8E", "\xF0\x9C\xB3\xB0", "\xEF\xBB\xBF", "\xE2\x80\x8B", "\x7F", "\x1C"};
enum { PIECES = sizeof pieces / sizeof *pieces };

static uint64_t random_state = 88172645463325252u;

static uint32_t random_below(uint32_t limit)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (uint32_t)((random_state >> 32) * limit >> 32);
}

/* longest_run 1 gives noise, a large one long words that cross the blocks and chunks. */
static size_t random_text(char *text, size_t limit, uint32_t longest_run)
{
	size_t bytes = 0;
	while (true) {
		const char *piece = pieces[random_below(PIECES)];
		size_t length = strlen(piece);
		for (uint32_t repeat = 1 + random_below(longest_run); repeat; repeat--) {
			if (bytes + length > limit)
				return bytes;
			memcpy(text + bytes, piece, length);
			bytes += length;
		}
	}
}

static void random_texts(void **state)
{
	(void)state;
	static char text[LONGEST];
	for (int i = 0; i < 3000; i++)
		check(text, random_text(text, random_below(300), 1 + random_below(4)));
	for (int i = 0; i < 60; i++)
		check(text, random_text(text, random_below(LONGEST), 1 + random_below(200)));
	for (int i = 0; i < 20; i++)
		check(text, random_text(text, LONGEST, 6000));
}

static void every_pair_at_every_edge(void **state)
{
	(void)state;
	char text[128];
	for (size_t a = 0; a < PIECES; a++)
		for (size_t b = 0; b < PIECES; b++)
			for (size_t shift = 58; shift < 66; shift++) {
				memset(text, 'x', shift);
				strcpy(text + shift, pieces[a]);
				strcat(text, pieces[b]);
				strcat(text, b & 1 ? "s" : " y");
				check_string(text);
			}
}

/* Each beside a letter, a number, another sign, a space and its neighbours, at every place of a block in
 * turn. */
static void every_character(void **state)
{
	(void)state;
	static char text[4096];
	for (uint32_t c = 0x80; c < 0x20000;) {
		size_t bytes = 0;
		while (bytes < sizeof text - 200 && c < 0x20000) {
			char letters[5];
			size_t length = put_utf8(letters, c);
			if (c < 0xD800 || c > 0xDFFF)
				bytes += (size_t)sprintf(text + bytes, "%.*sx%.*s1%.*s!%.*s %.*s  ",
					(int)length, letters, (int)length, letters, (int)length, letters,
					(int)length, letters, (int)length, letters);
			for (uint32_t beside = c; beside < c + 5 && (c < 0xD7FB || c > 0xDFFF); beside++)
				bytes += put_utf8(text + bytes, beside);
			c++;
		}
		check(text, bytes);
	}
}

static void around_the_chunk(void **state)
{
	(void)state;
	static char text[LONGEST];
	for (size_t a = 0; a < PIECES; a++)
		for (size_t length = WORDS_CHUNK - 12; length < WORDS_CHUNK + 3; length++) {
			for (size_t i = 0; i < length; i++)
				text[i] = i % 7 ? 'x' : ' ';
			strcpy(text + length, pieces[a]);
			strcat(text, "'ll \xE3\x80\x80 y");
			check_string(text);
		}
}

/* Every instruction set that this processor has gives the same starts. */
static void instruction_sets_agree(void **state)
{
	(void)state;
#ifdef __x86_64__
	static char text[WORDS_CHUNK];
	static uint16_t expected[WORDS_ROOM], starts[WORDS_ROOM];
	word_starts *const others[] = {word_starts_avx2, word_starts_avx512};
	for (int other = 0; other < (int)simd_isa_get(); other++)
		for (int i = 0; i < 500; i++) {
			size_t bytes =
				random_text(text, 1 + random_below(WORDS_CHUNK - 1), 1 + random_below(9));
			size_t count = word_starts_base((const uint8_t *)text, bytes, expected);
			assert_int_equal(others[other]((const uint8_t *)text, bytes, starts), count);
			assert_memory_equal(starts, expected, count * sizeof *starts);
		}
#endif
}

/* Whatever the bytes, all of them come out, and none past the end is read (the sanitizer watches). */
static void any_bytes(void **state)
{
	(void)state;
	static uint16_t ends[WORDS_ROOM];
	for (int i = 0; i < 2000; i++) {
		size_t bytes = 1 + random_below(i % 50 ? 200 : 9000), at = 0, count;
		uint8_t *text = malloc(bytes);
		for (size_t k = 0; k < bytes; k++)
			text[k] = (uint8_t)(i % 3 ? random_below(256) : 0xC0 + random_below(64));
		while (at < bytes) {
			size_t covered = words_find(text + at, bytes - at, ends, &count), before = 0;
			assert_true(covered > 0 && covered <= bytes - at);
			for (size_t k = 0; k < count; before = ends[k], k++)
				assert_true(ends[k] > before && ends[k] <= covered);
			at += covered;
		}
		free(text);
	}
}

/* Unicode 16.0's counts, as tiktoken 0.14's classes have them (tokenizer/unicode_tables.py). */
static void classes_have_their_sizes(void **state)
{
	(void)state;
	uint32_t count[4] = {0};
	for (uint32_t c = 0; c < 0x110000; c++) {
		count[unicode_class_of(c)]++;
		assert_int_equal(is_space(c), unicode_class_of(c) == UNICODE_SPACE);
	}
	assert_int_equal(count[UNICODE_LETTER], 141028);
	assert_int_equal(count[UNICODE_NUMBER], 1911);
	assert_int_equal(count[UNICODE_SPACE], 25);
	assert_int_equal(unicode_class_of(0x110000), UNICODE_OTHER);
	assert_int_equal(unicode_class_of(0x10D4E), UNICODE_LETTER); /* new in 16.0 */
	assert_int_equal(unicode_class_of(0x1CCF0), UNICODE_NUMBER); /* new in 16.0 */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(classes_have_their_sizes),
		cmocka_unit_test(by_hand),
		cmocka_unit_test(random_texts),
		cmocka_unit_test(every_pair_at_every_edge),
		cmocka_unit_test(every_character),
		cmocka_unit_test(around_the_chunk),
		cmocka_unit_test(instruction_sets_agree),
		cmocka_unit_test(any_bytes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
