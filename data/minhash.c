#include "data/minhash.h"

#include "common/endian.h"
#include "common/hash.h"
#include "common/memory.h"
#include "common/simd.h"
#include "tokenizer/unicode.h"
#include "tokenizer/utf8_decode.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 4096 /* bytes of text normalized at a time */, STARTS = BLOCK + MINHASH_WORDS + 1 };

struct minhash {
	int bands, rows;
	size_t hashes;     /* bands * rows, rounded up */
	uint64_t *factors; /* [hashes] */
	int64_t *least;    /* [hashes] */
	uint8_t ascii[128];
	minhash_lower *lower;

	/* of the text under way */
	uint8_t *normal; /* [room]: normalized, of which [0, length) is held */
	size_t room, length;
	bool in_word;          /* the last byte held is a word's */
	size_t starts[STARTS]; /* [words]: where the words that are not yet the first of a shingle begin */
	size_t words;
	uint64_t x[STARTS];
	bool any;
};

enum status minhash_create(int bands, int rows, struct minhash **out)
{
	struct minhash *minhash;
	*out = NULL;
	FAIL_IF(bands < 1 || bands > MINHASH_MOST_BANDS || rows < 1 || rows > MINHASH_MOST_ROWS, STATUS_USAGE,
		"%d bands of %d rows are not possible; 1 to %d of 1 to %d are", bands, rows,
		MINHASH_MOST_BANDS, MINHASH_MOST_ROWS);
	TRY(memory_alloc((void **)&minhash, 1, sizeof *minhash, "signatures"));
	minhash->bands = bands;
	minhash->rows = rows;
	minhash->hashes = ((size_t)bands * (size_t)rows + MINHASH_LANES - 1) / MINHASH_LANES * MINHASH_LANES;
	enum status status = memory_alloc((void **)&minhash->factors, minhash->hashes * 2, 8, "signatures");
	if (status != STATUS_OK) {
		free(minhash);
		return status;
	}
	minhash->least = (int64_t *)minhash->factors + minhash->hashes;
	for (uint64_t i = 0; i < minhash->hashes; i++)
		minhash->factors[i] = hash_numbers(&i, 1) | 1;
	for (int i = 0; i < 128; i++) {
		bool upper = i >= 'A' && i <= 'Z';
		bool word = upper || (i >= 'a' && i <= 'z') || (i >= '0' && i <= '9');
		minhash->ascii[i] = (uint8_t)(upper ? i + 32 : word ? i : ' ');
	}
	minhash->lower = SIMD_CHOOSE(minhash_lower);
	*out = minhash;
	return STATUS_OK;
}

void minhash_destroy(struct minhash *minhash)
{
	if (!minhash)
		return;
	free(minhash->factors);
	free(minhash->normal);
	free(minhash);
}

/* ---- normalizing ---- */

static uint32_t lower_case(uint32_t code)
{
	if ((code >= 0xC0 && code <= 0xDE) || (code >= 0x391 && code <= 0x3A9) ||
		(code >= 0x410 && code <= 0x42F))
		return code + 32;
	return code >= 0x400 && code <= 0x40F ? code + 80 : code;
}

static bool stands_alone(uint32_t code)
{
	return (code >= 0xE00 && code <= 0xEFF) || (code >= 0x1000 && code <= 0x109F) ||
	       (code >= 0x1780 && code <= 0x17FF) || (code >= 0x2E80 && code <= 0xA4CF) ||
	       (code >= 0xF900 && code <= 0xFAFF) || (code >= 0x20000 && code <= 0x3FFFF);
}

static void end_word(struct minhash *minhash)
{
	if (minhash->in_word)
		minhash->normal[minhash->length++] = ' ';
	minhash->in_word = false;
}

/* A character that is not ASCII, of `length` bytes. */
static void take_character(struct minhash *minhash, const uint8_t *from, uint32_t code, size_t length)
{
	enum unicode_class class = unicode_class_of(code);
	if (class != UNICODE_LETTER && class != UNICODE_NUMBER) {
		end_word(minhash);
		return;
	}
	bool alone = stands_alone(code);
	if (alone)
		end_word(minhash);
	if (!minhash->in_word)
		minhash->starts[minhash->words++] = minhash->length;
	uint8_t *to = minhash->normal + minhash->length;
	memcpy(to, from, length);
	if (length == 2) { /* all that change are, before and after */
		uint32_t lower = lower_case(code);
		to[0] = (uint8_t)(0xC0 | lower >> 6);
		to[1] = (uint8_t)(0x80 | (lower & 63));
	}
	minhash->length += length;
	minhash->in_word = true;
	if (alone)
		end_word(minhash);
}

/* Normalizes from text[at] on, to `end` or a little beyond; returns where it stopped. */
static size_t take_block(struct minhash *minhash, const uint8_t *text, size_t at, size_t end, size_t bytes)
{
	while (at < end) {
		if (text[at] >= 0x80) {
			size_t length;
			uint32_t code = utf8_decode(text + at, bytes - at, &length);
			take_character(minhash, text + at, code, length);
			at += length;
			continue;
		}
		/* No branches but the loop's: a separator after a separator is written over. */
		size_t length = minhash->length, words = minhash->words;
		unsigned in_word = minhash->in_word;
		for (; at < end && text[at] < 0x80; at++) {
			uint8_t c = minhash->ascii[text[at]];
			unsigned word = c != ' ';
			minhash->starts[words] = length;
			words += word & ~in_word;
			minhash->normal[length] = c;
			length += word | in_word;
			in_word = word;
		}
		minhash->length = length;
		minhash->words = words;
		minhash->in_word = in_word;
	}
	return at;
}

/* ---- shingles ---- */

/* Takes every shingle whose last word is followed by a start, and forgets the words before the first that
 * is left. */
static void take_shingles(struct minhash *minhash)
{
	size_t *starts = minhash->starts;
	if (minhash->words <= MINHASH_WORDS)
		return;
	size_t count = minhash->words - MINHASH_WORDS;
	for (size_t i = 0; i < count; i++)
		minhash->x[i] =
			hash64(minhash->normal + starts[i], starts[i + MINHASH_WORDS] - 1 - starts[i]);
	minhash->lower(minhash->least, minhash->factors, minhash->hashes, minhash->x, count);
	minhash->any = true;
	minhash->words = MINHASH_WORDS;
	memmove(starts, starts + count, MINHASH_WORDS * sizeof *starts);
	size_t first = starts[0];
	if (first < minhash->length / 2)
		return; /* so that a word of a gigabyte is not moved at each block */
	memmove(minhash->normal, minhash->normal + first, minhash->length - first);
	minhash->length -= first;
	for (int i = 0; i < MINHASH_WORDS; i++)
		starts[i] -= first;
}

enum status minhash_compute(
	struct minhash *minhash, const char *text, size_t bytes, uint64_t *band_hashes, bool *has)
{
	minhash->length = minhash->words = 0;
	minhash->in_word = minhash->any = false;
	for (size_t i = 0; i < minhash->hashes; i++)
		minhash->least[i] = INT64_MAX;
	for (size_t at = 0; at < bytes;) {
		size_t end = bytes - at < BLOCK ? bytes : at + BLOCK;
		/* A letter that stands alone has three bytes or four, and gains a space at either side. */
		TRY(memory_grow((void **)&minhash->normal, &minhash->room, minhash->length + 2 * BLOCK + 16,
			1, "a document's words"));
		at = take_block(minhash, (const uint8_t *)text, at, end, bytes);
		take_shingles(minhash);
	}
	/* As if a word followed. */
	minhash->starts[minhash->words++] = minhash->length + minhash->in_word;
	take_shingles(minhash);
	*has = minhash->any;
	for (int b = 0; b < minhash->bands && minhash->any; b++)
		band_hashes[b] =
			hash64(minhash->least + (size_t)b * (size_t)minhash->rows, (size_t)minhash->rows * 8);
	return STATUS_OK;
}
