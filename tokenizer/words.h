/*
 * words.h: GPT-2's split pattern, which cuts a text into the words that merging then works on:
 *
 *	's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *
 * (leftmost alternative that matches; the one before the last gives up its last character when something
 * other than space follows). Every byte belongs to exactly one word.
 *
 * There is no regular-expression engine. Where a word starts depends on nothing but the classes of the
 * neighbouring characters (and on the letters after an apostrophe), so a chunk of text is turned into bit
 * masks, one bit a byte, and the starts are a few logical operations on them (tokenizer/simd/word_starts.c).
 * What follows a word's start does not depend on what stands before it, so chunks may begin at any start.
 */
#ifndef TOKENIZER_WORDS_H
#define TOKENIZER_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	WORDS_CHUNK = 4096,
	WORDS_ROOM = WORDS_CHUNK + 64, /* room for their ends: more may be written than there are */
};

/*
 * The first words of a text that begins where a word does, bytes > 0. Returns the bytes they cover and writes
 * their ends, counted from `text`; the next call goes on there. *count 0 says that the bytes returned are one
 * word, longer than a chunk can tell. Reads nothing past `bytes`. The text should be valid UTF-8; where it is
 * not, bytes still all come out, in some words.
 */
size_t words_find(const uint8_t *text, size_t bytes, uint16_t ends[WORDS_ROOM], size_t *count);

/* The end of the one word that starts at `text`, bytes > 0; the plain way, for words of any length. */
size_t word_end(const uint8_t *text, size_t bytes);

/*
 * The starts of words in text[1..bytes), `text` being one; bytes <= WORDS_CHUNK. Returns their number. Unless
 * the text ends there, starts in the last WORDS_MARGIN bytes may be wrong: they depend on what follows.
 */
enum { WORDS_MARGIN = 8 };
typedef size_t word_starts(const uint8_t *text, size_t bytes, uint16_t starts[WORDS_ROOM]);
word_starts word_starts_base, word_starts_avx2, word_starts_avx512;

#endif
