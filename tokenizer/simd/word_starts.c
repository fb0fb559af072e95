/*
 * The starts of words as bit arithmetic (tokenizer/words.h). Compiled once for each instruction set; what
 * differs is block_read, which turns 64 bytes of text into masks.
 */
#include "tokenizer/words.h"

#include "common/simd.h"
#include "tokenizer/unicode.h"
#include "tokenizer/utf8_decode.h"

#include <string.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

enum { BLOCK = 64, BLOCKS = WORDS_CHUNK / BLOCK };

/* One bit a byte, the first byte lowest. */
struct block {
	uint64_t letter, number, space, blank, apostrophe, not_ascii;
};

#if defined __AVX512BW__

typedef __m512i bytes_type;

static inline bytes_type bytes_read(const uint8_t *from)
{
	return _mm512_loadu_si512(from);
}

static inline uint64_t in_range(__m512i text, char first, int count)
{
	return _mm512_cmplt_epu8_mask(
		_mm512_sub_epi8(text, _mm512_set1_epi8(first)), _mm512_set1_epi8((char)count));
}

static inline struct block block_read(const uint8_t *from)
{
	__m512i text = _mm512_loadu_si512(from);
	__m512i lower = _mm512_or_si512(text, _mm512_set1_epi8(0x20));
	return (struct block){
		.letter = in_range(lower, 'a', 26),
		.number = in_range(text, '0', 10),
		.space = in_range(text, '\t', 5),
		.blank = _mm512_cmpeq_epi8_mask(text, _mm512_set1_epi8(' ')),
		.apostrophe = _mm512_cmpeq_epi8_mask(text, _mm512_set1_epi8('\'')),
		.not_ascii = _mm512_movepi8_mask(text),
	};
}

#elif defined __AVX2__

typedef __m256i bytes_type;

static inline bytes_type bytes_read(const uint8_t *from)
{
	return _mm256_loadu_si256((const __m256i *)from);
}

static inline uint64_t in_range(__m256i text, char first, int count)
{
	__m256i offset = _mm256_sub_epi8(text, _mm256_set1_epi8(first));
	__m256i last = _mm256_set1_epi8((char)(count - 1));
	return (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_min_epu8(offset, last), offset));
}

static inline uint64_t equal(__m256i text, char byte)
{
	return (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(text, _mm256_set1_epi8(byte)));
}

static inline struct block block_read(const uint8_t *from)
{
	struct block block = {0};
	for (int i = 0; i < BLOCK; i += 32) {
		__m256i text = _mm256_loadu_si256((const __m256i *)(from + i));
		__m256i lower = _mm256_or_si256(text, _mm256_set1_epi8(0x20));
		block.letter |= in_range(lower, 'a', 26) << i;
		block.number |= in_range(text, '0', 10) << i;
		block.space |= in_range(text, '\t', 5) << i;
		block.blank |= equal(text, ' ') << i;
		block.apostrophe |= equal(text, '\'') << i;
		block.not_ascii |= (uint64_t)(uint32_t)_mm256_movemask_epi8(text) << i;
	}
	return block;
}

#elif defined __SSE2__

typedef __m128i bytes_type;

static inline bytes_type bytes_read(const uint8_t *from)
{
	return _mm_loadu_si128((const __m128i *)from);
}

static inline uint64_t in_range(__m128i text, char first, int count)
{
	__m128i offset = _mm_sub_epi8(text, _mm_set1_epi8(first));
	__m128i last = _mm_set1_epi8((char)(count - 1));
	return (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_min_epu8(offset, last), offset));
}

static inline uint64_t equal(__m128i text, char byte)
{
	return (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(text, _mm_set1_epi8(byte)));
}

static inline struct block block_read(const uint8_t *from)
{
	struct block block = {0};
	for (int i = 0; i < BLOCK; i += 16) {
		__m128i text = _mm_loadu_si128((const __m128i *)(from + i));
		__m128i lower = _mm_or_si128(text, _mm_set1_epi8(0x20));
		block.letter |= in_range(lower, 'a', 26) << i;
		block.number |= in_range(text, '0', 10) << i;
		block.space |= in_range(text, '\t', 5) << i;
		block.blank |= equal(text, ' ') << i;
		block.apostrophe |= equal(text, '\'') << i;
		block.not_ascii |= (uint64_t)(uint32_t)_mm_movemask_epi8(text) << i;
	}
	return block;
}

#else

static inline struct block block_read(const uint8_t *from)
{
	struct block block = {0};
	for (int i = 0; i < BLOCK; i++) {
		uint8_t byte = from[i], lower = byte | 0x20;
		block.letter |= (uint64_t)((uint8_t)(lower - 'a') < 26 && byte < 0x80) << i;
		block.number |= (uint64_t)((uint8_t)(byte - '0') < 10) << i;
		block.space |= (uint64_t)((uint8_t)(byte - '\t') < 5) << i;
		block.blank |= (uint64_t)(byte == ' ') << i;
		block.apostrophe |= (uint64_t)(byte == '\'') << i;
		block.not_ascii |= (uint64_t)(byte >> 7) << i;
	}
	return block;
}

#endif

/* A chunk's masks. Rows of `classes` follow enum unicode_class; that of UNICODE_OTHER is not used, and the
 * one of UNICODE_SPACE is without U+0020, which is `blank`. One word more than the chunk has, for what sticks
 * out. */
struct masks {
	uint64_t classes[4][BLOCKS + 1];
	uint64_t blank[BLOCKS + 1], apostrophe[BLOCKS], start[BLOCKS + 1];
	uint16_t wide_space[WORDS_CHUNK / 2][2]; /* spaces of several bytes: first byte, last byte */
	size_t wide_spaces;
};

static inline void bits_set(uint64_t *bits, size_t at, size_t count)
{
	uint64_t ones = (UINT64_C(1) << count) - 1;
	size_t shift = at % BLOCK;
	bits[at / BLOCK] |= ones << shift;
	if (shift + count > BLOCK)
		bits[at / BLOCK + 1] |= ones >> (BLOCK - shift);
}

#ifdef __x86_64__

/* One bit a byte: the first bytes of characters. */
struct leads {
	uint64_t letter_of_2, letter_of_3, other_of_3;
};

enum { ANY_FIRST = 0x80, ANY_LAST = 0xBF };

/* The characters whose first byte is one of lead_first..lead_last, and so on. All but `at` are constants. */
static inline __attribute__((always_inline)) uint64_t leads_match(const bytes_type at[3], int lead_first,
	int lead_last, int second_first, int second_last, int third_first, int third_last)
{
	uint64_t match = in_range(at[0], (char)lead_first, lead_last - lead_first + 1);
	if (second_first != ANY_FIRST || second_last != ANY_LAST)
		match &= in_range(at[1], (char)second_first, second_last - second_first + 1);
	if (third_first != ANY_FIRST || third_last != ANY_LAST)
		match &= in_range(at[2], (char)third_first, third_last - third_first + 1);
	return match;
}

#define OF_2(lead_first, lead_last, second_first, second_last)                                               \
	leads_match(at, lead_first, lead_last, second_first, second_last, ANY_FIRST, ANY_LAST)
#define OF_3(lead_first, lead_last, second_first, second_last, third_first, third_last)                      \
	leads_match(at, lead_first, lead_last, second_first, second_last, third_first, third_last)

/*
 * Ranges of one class that much text is written in: what they hold need not be looked up. Each is of Unicode
 * 16.0's tables, no matter how complete: a character that is in none is looked up. Reads BLOCK + 2 bytes.
 */
static inline struct leads leads_read(const uint8_t *from)
{
	struct leads leads = {0};
	for (int i = 0; i < BLOCK; i += (int)sizeof(bytes_type)) {
		bytes_type at[3] = {bytes_read(from + i), bytes_read(from + i + 1), bytes_read(from + i + 2)};
		uint64_t two = OF_2(0xC4, 0xCA, 0x80, 0xBF) | /* Latin extended: U+0100 to U+02BF */
			       OF_2(0xC3, 0xC3, 0x80, 0x96) | /* Latin-1 but for U+00D7, U+00F7 */
			       OF_2(0xC3, 0xC3, 0x98, 0xB6) | OF_2(0xC3, 0xC3, 0xB8, 0xBF) |
			       OF_2(0xCE, 0xCE, 0x8E, 0xA1) | /* Greek: U+038E to U+03F5 but for U+03A2 */
			       OF_2(0xCE, 0xCE, 0xA3, 0xBF) | OF_2(0xCF, 0xCF, 0x80, 0xB5) |
			       OF_2(0xD0, 0xD1, 0x80, 0xBF) | /* Cyrillic: U+0400 to U+047F */
			       OF_2(0xD7, 0xD7, 0x90, 0xAA) | /* Hebrew: U+05D0 to U+05EA */
			       OF_2(0xD8, 0xD8, 0xA0, 0xBF) | /* Arabic: U+0620 to U+064A */
			       OF_2(0xD9, 0xD9, 0x80, 0x8A);
		uint64_t three = OF_3(0xE5, 0xE9, 0x80, 0xBF, 0x80, 0xBF) | /* Han: U+5000 to U+9FFF */
				 OF_3(0xE4, 0xE4, 0xB8, 0xBF, 0x80, 0xBF) | /* Han: U+4E00 to U+4FFF */
				 OF_3(0xE3, 0xE3, 0x81, 0x81, 0x81, 0xBF) | /* kana, but for U+3040, */
				 OF_3(0xE3, 0xE3, 0x82, 0x82, 0x80, 0x96) | /* U+3097 to U+30A0, */
				 OF_3(0xE3, 0xE3, 0x82, 0x82, 0xA1, 0xBF) |
				 OF_3(0xE3, 0xE3, 0x83, 0x83, 0x80, 0xBA) | /* and U+30FB */
				 OF_3(0xE3, 0xE3, 0x83, 0x83, 0xBC, 0xBF) |
				 OF_3(0xEA, 0xEA, 0xB0, 0xBF, 0x80, 0xBF) | /* Hangul: U+AC00 to U+D77F */
				 OF_3(0xEB, 0xEC, 0x80, 0xBF, 0x80, 0xBF) |
				 OF_3(0xED, 0xED, 0x80, 0x9D, 0x80, 0xBF) |
				 OF_3(0xE1, 0xE1, 0xB8, 0xBB, 0x80, 0xBF);  /* Vietnamese: U+1E00 to U+1EFF */
		uint64_t other = OF_3(0xE2, 0xE2, 0x80, 0x80, 0x90, 0xA7) | /* U+2010 to U+2027 */
				 OF_3(0xE3, 0xE3, 0x80, 0x80, 0x81, 0x84) | /* U+3001 to U+3004 */
				 OF_3(0xE3, 0xE3, 0x80, 0x80, 0x88, 0xA0) | /* U+3008 to U+3020 */
				 OF_3(0xEF, 0xEF, 0xBC, 0xBC, 0x81, 0x8F);  /* U+FF01 to U+FF0F */
		leads.letter_of_2 |= two << i;
		leads.letter_of_3 |= three << i;
		leads.other_of_3 |= other << i;
	}
	return leads;
}

/* Gives the characters of leads_read their class. Returns their bytes in block `block`, one bit a byte;
 * *spill: in the next. */
static inline uint64_t read_common(const uint8_t *text, size_t block, uint64_t *spill, struct masks *masks)
{
	struct leads leads = leads_read(text + block * BLOCK);
	uint64_t two = leads.letter_of_2, three = leads.letter_of_3, other = leads.other_of_3;
	uint64_t letter = two | two << 1 | three | three << 1 | three << 2;
	uint64_t letter_spill = two >> 63 | three >> 63 | three >> 62;
	masks->classes[UNICODE_LETTER][block] |= letter;
	masks->classes[UNICODE_LETTER][block + 1] |= letter_spill;
	*spill = letter_spill | other >> 63 | other >> 62;
	return letter | other | other << 1 | other << 2;
}

#endif

/* Gives each non-ASCII character of block `block` its class, in all its bytes; they may reach into the next.
 */
static void read_wide(
	const uint8_t *text, size_t bytes, size_t block, uint64_t wide, size_t *done, struct masks *masks)
{
	size_t base = block * BLOCK;
	while (true) {
		if (*done >= base + BLOCK)
			return;
		if (*done > base)
			wide &= ~UINT64_C(0) << (*done - base);
		if (!wide)
			return;
		size_t length, at = base + (size_t)__builtin_ctzll(wide);
		enum unicode_class kind = unicode_class_of(utf8_decode(text + at, bytes - at, &length));
		*done = at + length;
		if (kind == UNICODE_OTHER)
			continue;
		bits_set(masks->classes[kind], at, length);
		if (kind == UNICODE_SPACE) {
			uint16_t *span = masks->wide_space[masks->wide_spaces++];
			span[0] = (uint16_t)at;
			span[1] = (uint16_t)(at + length - 1);
		}
	}
}

static void read_text(const uint8_t *text, size_t bytes, struct masks *masks)
{
	size_t blocks = (bytes + BLOCK - 1) / BLOCK, done = 0;
#ifdef __x86_64__
	uint64_t spill = 0;
#endif
	masks->wide_spaces = 0;
	for (int row = UNICODE_LETTER; row <= UNICODE_SPACE; row++)
		memset(masks->classes[row], 0, (blocks + 1) * sizeof(uint64_t));
	masks->blank[blocks] = 0;
	for (size_t i = 0; i < blocks; i++) {
		uint8_t tail[BLOCK] = {0};
		const uint8_t *from = text + i * BLOCK;
		if (i * BLOCK + BLOCK > bytes)
			from = memcpy(tail, from, bytes - i * BLOCK); /* zeros are of no class */
		struct block block = block_read(from);
		masks->classes[UNICODE_LETTER][i] |= block.letter;
		masks->classes[UNICODE_NUMBER][i] |= block.number;
		masks->classes[UNICODE_SPACE][i] |= block.space;
		masks->blank[i] = block.blank;
		masks->apostrophe[i] = block.apostrophe;
		if (!block.not_ascii)
			continue; /* no character reaches in here */
#ifdef __x86_64__
		uint64_t common = spill;
		spill = 0;
		if (i * BLOCK + BLOCK + 2 <= bytes)
			common |= read_common(text, i, &spill, masks);
		block.not_ascii &= ~common;
#endif
		if (block.not_ascii)
			read_wide(text, bytes, i, block.not_ascii, &done, masks);
	}
}

/* Moves the start off the last byte of a space of several bytes: the character that \s+(?!\S) gives up. */
static void fix_wide_spaces(struct masks *masks)
{
	for (size_t i = 0; i < masks->wide_spaces; i++) {
		size_t first = masks->wide_space[i][0], last = masks->wide_space[i][1];
		uint64_t bit = UINT64_C(1) << last % BLOCK;
		if (masks->start[last / BLOCK] & bit) {
			masks->start[last / BLOCK] &= ~bit;
			masks->start[first / BLOCK] |= UINT64_C(1) << first % BLOCK;
		}
	}
}

/* An apostrophe that starts a word may take the letters after it along. */
static void fix_contraction(const uint8_t *text, size_t bytes, size_t at, struct masks *masks)
{
	uint8_t first = at + 1 < bytes ? text[at + 1] : 0, second = at + 2 < bytes ? text[at + 2] : 0;
	size_t length;
	if (first == 's' || first == 't' || first == 'm' || first == 'd')
		length = 2;
	else if ((second == 'e' && (first == 'r' || first == 'v')) || (second == 'l' && first == 'l'))
		length = 3;
	else
		return;
	masks->start[(at + 1) / BLOCK] &= ~(UINT64_C(1) << (at + 1) % BLOCK);
	if (at + length < bytes)
		masks->start[(at + length) / BLOCK] |= UINT64_C(1) << (at + length) % BLOCK;
}

/*
 * A character other than space starts a word when the one before is of another class, unless that is a blank,
 * which it takes along. A space starts one at the head of a run of spaces, and at its last character when
 * something follows the run. Returns the candidates for contractions left by the last block's carries.
 */
static void find_starts(const uint8_t *text, size_t bytes, struct masks *masks)
{
	size_t blocks = (bytes + BLOCK - 1) / BLOCK;
	uint64_t before_letter = 0, before_number = 0, before_other = 0, before_blank = 0, before_space = 0;
	uint64_t contractions[BLOCKS];
	for (size_t i = 0; i < blocks; i++) {
		uint64_t inside = i + 1 < blocks || bytes % BLOCK == 0 ? ~UINT64_C(0)
								       : (UINT64_C(1) << bytes % BLOCK) - 1;
		uint64_t letter = masks->classes[UNICODE_LETTER][i],
			 number = masks->classes[UNICODE_NUMBER][i];
		uint64_t blank = masks->blank[i], space = masks->classes[UNICODE_SPACE][i] | blank;
		uint64_t other = inside & ~(letter | number | space);
		/* The first byte of the next block is something other than space. */
		uint64_t next = masks->classes[UNICODE_SPACE][i + 1] | masks->blank[i + 1];
		uint64_t follows = i + 1 < blocks && !(next & 1);
		uint64_t after_blank = blank << 1 | before_blank, after_other = other << 1 | before_other;
		uint64_t starts = (letter & ~(letter << 1 | before_letter)) |
				  (number & ~(number << 1 | before_number)) | (other & ~after_other);
		uint64_t heads = ~(space << 1 | before_space);
		uint64_t tails = (inside & ~space) >> 1 | follows << 63;
		masks->start[i] = (starts & ~after_blank) | (space & (heads | tails));
		contractions[i] = masks->apostrophe[i] & ~after_other & ~after_blank;
		before_letter = letter >> 63;
		before_number = number >> 63;
		before_other = other >> 63;
		before_blank = blank >> 63;
		before_space = space >> 63;
	}
	masks->start[blocks] = 0;
	fix_wide_spaces(masks);
	for (size_t i = 0; i < blocks; i++)
		for (uint64_t left = contractions[i]; left; left &= left - 1)
			fix_contraction(text, bytes, i * BLOCK + (size_t)__builtin_ctzll(left), masks);
	masks->start[0] &= ~UINT64_C(1);
}

/*
 * The positions of the ones in a block's mask, plus `base`. Which are how many nobody can foresee, so more
 * are written than there are (up to BLOCK), and the next block's go over those.
 */
static inline size_t write_positions(uint64_t ones, uint32_t base, uint16_t *out)
{
	size_t count = (size_t)__builtin_popcountll(ones);
#ifdef __AVX512BW__
	const __m512i steps = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
	for (uint32_t i = 0; i < BLOCK; i += 16, ones >>= 16) {
		__m512i positions = _mm512_add_epi32(steps, _mm512_set1_epi32((int)(base + i)));
		positions = _mm512_maskz_compress_epi32((__mmask16)ones, positions);
		_mm256_storeu_si256((__m256i *)out, _mm512_cvtepi32_epi16(positions));
		out += __builtin_popcount((uint16_t)ones);
	}
#else
	enum { AT_ONCE = 8 };
	for (size_t done = 0; done < count; done += AT_ONCE)
		for (size_t i = 0; i < AT_ONCE; i++, ones &= ones - 1)
			out[done + i] = (uint16_t)(base + (ones ? (uint32_t)__builtin_ctzll(ones) : 0));
#endif
	return count;
}

size_t SIMD(word_starts)(const uint8_t *text, size_t bytes, uint16_t starts[WORDS_ROOM])
{
	struct masks masks;
	size_t blocks = (bytes + BLOCK - 1) / BLOCK, count = 0;
	read_text(text, bytes, &masks);
	find_starts(text, bytes, &masks);
	for (size_t i = 0; i < blocks; i++)
		count += write_positions(masks.start[i], (uint32_t)(i * BLOCK), starts + count);
	return count;
}
