/*
 * minhash.h: MinHash signatures of texts, cut into bands (locality-sensitive hashing; Broder 1997, Leskovec,
 * Rajaraman and Ullman chapter 3): texts that share a band's hash are near-duplicates of each other.
 *
 *    normalized   the text's words, in lower case, one space between them. A word is letters and numbers
 *                 (Unicode's \p{L} and \p{N}, tokenizer/unicode.h) that stand together; everything else parts
 *                 words and is dropped: punctuation, whitespace, symbols, marks. A letter of a script that
 *                 is written without spaces is a word of its own (U+0E00-0EFF Thai and Lao, U+1000-109F
 *                 Burmese, U+1780-17FF Khmer, U+2E80-A4CF and U+F900-FAFF and U+20000-3FFFF Chinese and
 *                 Japanese). Lower case is that of A-Z, U+00C0-00DE, U+0391-03A9, U+0400-042F (Latin,
 *                 Greek, Cyrillic); other letters stay as they are.
 *    shingles     every five words in a row with the spaces between them; x is the XXH3-64 of their bytes
 *    signature    m[i], the least over all shingles of x * f[i] mod 2^64, taken as a *signed* number, for
 *                 i < bands * rows; f[i] = (XXH3-64 of i as u64 little-endian) | 1
 *    band hashes  band b's is the XXH3-64 of m[b * rows] .. m[b * rows + rows - 1], 8 bytes each,
 *                 little-endian
 *
 * Two texts whose sets of shingles have Jaccard similarity s agree in one m with probability s, so they share
 * a band hash with probability 1 - (1 - s^rows)^bands: for 14 bands of 8 rows, 0.92 at s = 0.8, half at 0.68,
 * 0.05 at 0.5. A text of fewer than five words has no signature: it is nobody's near-duplicate.
 *
 * One thread uses a minhash. Memory: some 100 KiB, and six times the longest five words in a row.
 */
#ifndef DATA_MINHASH_H
#define DATA_MINHASH_H

#include "common/error.h"

#include <stdint.h>

enum { MINHASH_WORDS = 5, MINHASH_MOST_BANDS = 256, MINHASH_MOST_ROWS = 256 };

struct minhash;

/* bands: 1..MINHASH_MOST_BANDS, rows: 1..MINHASH_MOST_ROWS. */
enum status minhash_create(int bands, int rows, struct minhash **out) MUST_USE;
void minhash_destroy(struct minhash *minhash); /* NULL is fine */

/* `text` is UTF-8; of other bytes words are made too, always the same. *has is false when the text has too
 * few words. */
enum status minhash_compute(struct minhash *minhash, const char *text, size_t bytes,
	uint64_t *band_hashes /* [bands] */, bool *has) MUST_USE;

/* The inner loop, for each instruction set (common/simd.h): lowers least[i] to the numbers of the shingles
 * x[0, count). `hashes` is a multiple of MINHASH_LANES. */
enum { MINHASH_LANES = 16 };
typedef void minhash_lower(int64_t *least /* [hashes] */, const uint64_t *factors /* [hashes] */,
	size_t hashes, const uint64_t *x, size_t count);
minhash_lower minhash_lower_base, minhash_lower_avx2, minhash_lower_avx512;

#endif
