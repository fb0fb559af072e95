/*
 * letters.h: GPT-2's way of writing tokens, which are bytes, as text: every byte has a letter. Bytes that are
 * printable in Latin-1 stand for themselves, the others take U+0100 and up, in order. vocab.json and
 * merges.txt are written so. (Radford et al. 2019, encoder.py, bytes_to_unicode.)
 */
#ifndef TOKENIZER_LETTERS_H
#define TOKENIZER_LETTERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The code point that stands for a byte: 33 to 323. */
uint32_t letter_of_byte(uint8_t byte);

/* Bytes in the order of GPT-2's ids 0..255: the printable ones, then the rest. */
void letters_byte_order(uint8_t order[256]);

/* Writes a token's letters as UTF-8, at most two bytes for one; returns the length. */
size_t letters_write(const uint8_t *bytes, size_t count, char *out /* [2 * count] */);

/* The other way: false if some character stands for no byte. `out` may be the text itself. */
bool letters_read(const char *text, size_t length, uint8_t *out /* [length] */, size_t *count);

#endif
