#include "tokenizer/words.h"

#include "common/simd.h"
#include "tokenizer/unicode.h"
#include "tokenizer/utf8_decode.h"

static enum unicode_class class_at(const uint8_t *text, size_t bytes, size_t *length)
{
	return unicode_class_of(utf8_decode(text, bytes, length));
}

/* 's 't 'm 'd 'll 've 're at the start of the text: their length, else 0. */
static size_t contraction(const uint8_t *text, size_t bytes)
{
	if (bytes < 2 || text[0] != '\'')
		return 0;
	uint8_t first = text[1], second = bytes > 2 ? text[2] : 0;
	if (first == 's' || first == 't' || first == 'm' || first == 'd')
		return 2;
	if ((second == 'e' && (first == 'r' || first == 'v')) || (second == 'l' && first == 'l'))
		return 3;
	return 0;
}

size_t word_end(const uint8_t *text, size_t bytes)
{
	size_t length, at = contraction(text, bytes);
	if (at)
		return at;
	if (text[0] == ' ' && bytes > 1 && class_at(text + 1, bytes - 1, &length) != UNICODE_SPACE)
		at = 1;
	enum unicode_class kind = class_at(text + at, bytes - at, &length);
	size_t last = at; /* where the run's last character starts */
	for (at += length; at < bytes; at += length) {
		if (class_at(text + at, bytes - at, &length) != kind)
			break;
		last = at;
	}
	if (kind == UNICODE_SPACE && at < bytes && last > 0)
		return last; /* \s+(?!\S) */
	return at;
}

/* At most a chunk, whole characters. */
static size_t chunk_bytes(const uint8_t *text, size_t bytes)
{
	if (bytes <= WORDS_CHUNK)
		return bytes;
	size_t chunk = WORDS_CHUNK;
	while (chunk > WORDS_CHUNK - 4 && (text[chunk] & 0xC0) == 0x80)
		chunk--;
	return chunk;
}

size_t words_find(const uint8_t *text, size_t bytes, uint16_t ends[WORDS_ROOM], size_t *count)
{
	size_t chunk = chunk_bytes(text, bytes);
	size_t starts = SIMD_CHOOSE(word_starts)(text, chunk, ends);
	if (chunk == bytes) {
		ends[starts++] = (uint16_t)bytes;
	} else {
		while (starts && ends[starts - 1] > chunk - WORDS_MARGIN)
			starts--;
	}
	*count = starts;
	return starts ? ends[starts - 1] : word_end(text, bytes);
}
