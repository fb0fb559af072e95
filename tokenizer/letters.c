#include "tokenizer/letters.h"

static bool is_printable(uint32_t byte)
{
	return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

/* The bytes that are not printable: 0..32, 127..160, 173, in this order. */
enum { FIRST_EXTRA = 256, EXTRAS = 68 };

uint32_t letter_of_byte(uint8_t byte)
{
	if (is_printable(byte))
		return byte;
	return byte <= 32 ? FIRST_EXTRA + byte : byte <= 160 ? FIRST_EXTRA + byte - 94 : FIRST_EXTRA + 67;
}

static bool byte_of_letter(uint32_t letter, uint8_t *byte)
{
	if (letter >= FIRST_EXTRA + EXTRAS || (letter < FIRST_EXTRA && !is_printable(letter)))
		return false;
	if (letter < FIRST_EXTRA) {
		*byte = (uint8_t)letter;
		return true;
	}
	uint32_t extra = letter - FIRST_EXTRA;
	*byte = (uint8_t)(extra <= 32 ? extra : extra <= 66 ? extra + 94 : 173);
	return true;
}

void letters_byte_order(uint8_t order[256])
{
	size_t printable = 0, other = 256 - EXTRAS;
	for (uint32_t byte = 0; byte < 256; byte++)
		order[is_printable(byte) ? printable++ : other++] = (uint8_t)byte;
}

size_t letters_write(const uint8_t *bytes, size_t count, char *out)
{
	size_t length = 0;
	for (size_t i = 0; i < count; i++) {
		uint32_t letter = letter_of_byte(bytes[i]);
		if (letter < 0x80) {
			out[length++] = (char)letter;
		} else {
			out[length++] = (char)(0xC0 | letter >> 6);
			out[length++] = (char)(0x80 | (letter & 0x3F));
		}
	}
	return length;
}

bool letters_read(const char *text, size_t length, uint8_t *out, size_t *count)
{
	uint8_t *end = out;
	for (size_t at = 0; at < length; at++, end++) {
		uint32_t letter = (uint8_t)text[at];
		if (letter < 0x80 && is_printable(letter)) { /* nearly all */
			*end = (uint8_t)letter;
			continue;
		}
		if (letter >= 0x80) {
			if (letter < 0xC2 || letter > 0xDF || at + 1 == length ||
				(text[at + 1] & 0xC0) != 0x80)
				return false;
			letter = (letter & 0x1F) << 6 | (text[++at] & 0x3F);
		}
		if (!byte_of_letter(letter, end))
			return false;
	}
	*count = (size_t)(end - out);
	return true;
}
