/*
 * Signatures against a naive oracle that follows the words of data/minhash.h on lists of normalized words,
 * and the share of pairs of known similarity that meet against 1 - (1 - s^rows)^bands.
 */
#include "data/minhash.h"

#include "common/memory.h"
#include "common/simd.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include <cmocka.h>

enum { BANDS = 14, ROWS = 8, MOST_WORDS = 20000 };

static uint64_t random_number(uint64_t *state)
{
	*state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	uint64_t mixed = (*state ^ *state >> 33) * UINT64_C(0xff51afd7ed558ccd);
	return mixed ^ mixed >> 29;
}

/* ---- the oracle: normalized text, words parted by one space ---- */

static bool naive(const char *normal, int bands, int rows, uint64_t *hashes)
{
	static size_t starts[MOST_WORDS + 1];
	size_t words = 0, length = strlen(normal);
	for (size_t i = 0; i < length; i++)
		if (i == 0 || normal[i - 1] == ' ')
			starts[words++] = i;
	starts[words] = length + 1;
	if (words < 5)
		return false;
	for (int b = 0; b < bands; b++) {
		int64_t *band = malloc((size_t)rows * sizeof *band);
		for (int row = 0; row < rows; row++) {
			uint64_t i = (uint64_t)(b * rows + row), r = XXH3_64bits(&i, 8);
			band[row] = INT64_MAX;
			for (size_t word = 0; word + 5 <= words; word++) {
				uint64_t x = XXH3_64bits(
					normal + starts[word], starts[word + 5] - 1 - starts[word]);
				int64_t number = (int64_t)(x * (r | 1));
				if (number < band[row])
					band[row] = number;
			}
		}
		hashes[b] = XXH3_64bits(band, (size_t)rows * 8);
		free(band);
	}
	return true;
}

static void expect(struct minhash *minhash, int bands, int rows, const char *text, const char *normal)
{
	uint64_t got[MINHASH_MOST_BANDS], wanted[MINHASH_MOST_BANDS];
	bool has, wanted_has = naive(normal, bands, rows, wanted);
	assert_int_equal(minhash_compute(minhash, text, strlen(text), got, &has), STATUS_OK);
	if (has != wanted_has || (has && memcmp(got, wanted, (size_t)bands * 8) != 0))
		fail_msg("%d x %d: \"%.80s\" is not taken as \"%.80s\"", bands, rows, text, normal);
}

static void normalization(void **state)
{
	(void)state;
	static const char *const cases[][2] = {
		{"", ""},
		{"one two three four", "one two three four"},
		{" one two\tthree\n\nfour five ", "one two three four five"},
		{"One, two; THREE--four (five)!", "one two three four five"},
		{"don't stop: it's 3.14 o'clock", "don t stop it s 3 14 o clock"},
		{"a_b c/d 1,000 e", "a b c d 1 000 e"},
		{"\xC3\x89t\xC3\x89 \xC3\x9E\xC3\x97\xC3\xBE \xC3\x9F a b c",
			"\xC3\xA9t\xC3\xA9 \xC3\xBE \xC3\xBE \xC3\x9F a b c"},
		{"\xCE\x91\xCE\xA9\xCE\xB1 \xD0\x81\xD0\x96\xD0\xAF\xD1\x8F x y z q",
			"\xCE\xB1\xCF\x89\xCE\xB1 \xD1\x91\xD0\xB6\xD1\x8F\xD1\x8F x y z q"},
		{"\xE6\x97\xA5\xE6\x9C\xAC\xE8\xAA\x9E ok\xE3\x81\xAF\xE3\x80\x82\xE6\x97\xA5",
			"\xE6\x97\xA5 \xE6\x9C\xAC \xE8\xAA\x9E ok \xE3\x81\xAF \xE6\x97\xA5"},
		{"\xEA\xB0\x80\xEB\x82\x98 \xEB\x8B\xA4 a b c",
			"\xEA\xB0\x80\xEB\x82\x98 \xEB\x8B\xA4 a b c"},
		{"a\xF0\x9F\x98\x80"
		 "b c\xE2\x80\x94"
		 "d\xC2\xA0"
		 "e \xF0\xA0\x80\x80\xF0\xA0\x80\x81",
			"a b c d e \xF0\xA0\x80\x80 \xF0\xA0\x80\x81"},
		{"five words \xEF\xBF\xBD that\x80"
		 "are here",
			"five words that are here"},
	};
	struct minhash *minhash;
	assert_int_equal(minhash_create(BANDS, ROWS, &minhash), STATUS_OK);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		expect(minhash, BANDS, ROWS, cases[i][0], cases[i][1]);
	minhash_destroy(minhash);
}

/* Random words, some longer than a block, random case and separators; texts of no block to several. */
static void random_texts(void **state)
{
	(void)state;
	static const char *const separators[] = {" ", ", ", "\n", " -- ", ".\xE2\x80\x9D ", "  "};
	static const int shapes[][2] = {{1, 1}, {14, 8}, {3, 5}, {20, 5}, {256, 1}, {2, 256}};
	uint64_t seed = 1;
	for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
		int bands = shapes[s][0], rows = shapes[s][1];
		struct minhash *minhash;
		assert_int_equal(minhash_create(bands, rows, &minhash), STATUS_OK);
		for (int round = 0; round < 30; round++) {
			size_t words = random_number(&seed) % (round % 10 == 9 ? 4000 : 40);
			char *text = malloc(words * 40 + 20000), *normal = malloc(words * 40 + 20000);
			char *t = text, *n = normal;
			if (round % 3 == 0)
				t += sprintf(t, "%s", " ...");
			for (size_t w = 0; w < words; w++) {
				size_t length = 1 + random_number(&seed) % 9;
				if (round % 5 == 4 && w == words / 2)
					length = 9000;
				if (w)
					*n++ = ' ';
				for (size_t i = 0; i < length; i++) {
					char c = "abcdefgh0123456789"[random_number(&seed) % 18];
					*n++ = c;
					*t++ = (char)(c >= 'a' && random_number(&seed) % 4 == 0 ? c - 32 : c);
				}
				if (w + 1 < words || round % 2)
					t += sprintf(t, "%s", separators[random_number(&seed) % 6]);
			}
			*t = *n = 0;
			expect(minhash, bands, rows, text, normal);
			free(text);
			free(normal);
		}
		minhash_destroy(minhash);
	}
}

static void every_instruction_set(void **state)
{
	(void)state;
	enum { HASHES = 3 * MINHASH_LANES, COUNT = 777 };
	static uint64_t factors[HASHES], x[COUNT];
	static int64_t got[HASHES], wanted[HASHES];
	static minhash_lower *const all[] = {
		minhash_lower_base,
#ifdef __x86_64__
		minhash_lower_avx2,
		minhash_lower_avx512,
#endif
	};
	uint64_t seed = 5;
	for (int i = 0; i < COUNT; i++)
		x[i] = i % 7 ? random_number(&seed) : i % 2 ? UINT64_MAX : 0;
	for (int i = 0; i < HASHES; i++)
		factors[i] = i ? random_number(&seed) : UINT64_MAX;
	for (size_t isa = 0; isa < sizeof all / sizeof *all && isa <= (size_t)simd_isa_get(); isa++)
		for (size_t count = 0; count < COUNT; count += 97) {
			for (int i = 0; i < HASHES; i++) {
				got[i] = wanted[i] = i % 5 ? INT64_MAX : (int64_t)random_number(&seed);
				for (size_t j = 0; j < count; j++) {
					int64_t number = (int64_t)(x[j] * factors[i]);
					wanted[i] = number < wanted[i] ? number : wanted[i];
				}
			}
			all[isa](got, factors, HASHES, x, count);
			assert_memory_equal(got, wanted, sizeof got);
		}
}

/* Two texts of 100 random words of which the first `common` are the same. Returns their similarity. */
static double make_pair(uint64_t *seed, int common, char a[1200], char b[1200])
{
	char *texts[2] = {a, b};
	uint64_t start = *seed;
	for (int t = 0; t < 2; t++) {
		uint64_t same = start, own = start ^ (uint64_t)(t + 1) << 40;
		char *to = texts[t];
		for (int word = 0; word < 100; word++)
			to += sprintf(to, "%09u ",
				(unsigned)(random_number(word < common ? &same : &own) % 1000000000));
	}
	random_number(seed);
	double shared = common - 4;
	return shared / (2 * 96 - shared);
}

/* Not among the one in 100,000 rarest results of a binomial draw, at either end. */
static bool is_likely(int met, int pairs, double p)
{
	double below = 0, above = 0;
	if (p >= 1)
		return met == pairs;
	for (int k = 0; k <= pairs; k++) {
		double chance = exp(lgamma(pairs + 1) - lgamma(k + 1) - lgamma(pairs - k + 1) + k * log(p) +
				    (pairs - k) * log1p(-p));
		below += k <= met ? chance : 0;
		above += k >= met ? chance : 0;
	}
	return below > 1e-5 && above > 1e-5;
}

static void similar_texts_meet_as_the_curve_says(void **state)
{
	(void)state;
	static const int commons[] = {56, 68, 76, 83, 89, 95, 100};
	static const int shapes[][2] = {{14, 8}, {20, 5}};
	enum { PAIRS = 1500 };
	char a[1200], b[1200];
	uint64_t first[MINHASH_MOST_BANDS], second[MINHASH_MOST_BANDS], seed = 11;
	bool has;
	for (size_t s = 0; s < 2; s++) {
		int bands = shapes[s][0], rows = shapes[s][1];
		struct minhash *minhash;
		assert_int_equal(minhash_create(bands, rows, &minhash), STATUS_OK);
		for (size_t i = 0; i < sizeof commons / sizeof *commons; i++) {
			double similarity = 0;
			int met = 0;
			for (int pair = 0; pair < PAIRS; pair++) {
				similarity = make_pair(&seed, commons[i], a, b);
				assert_int_equal(
					minhash_compute(minhash, a, strlen(a), first, &has), STATUS_OK);
				assert_true(has);
				assert_int_equal(
					minhash_compute(minhash, b, strlen(b), second, &has), STATUS_OK);
				bool meets = false;
				for (int band = 0; band < bands; band++)
					meets |= first[band] == second[band];
				met += meets;
			}
			double p = 1 - pow(1 - pow(similarity, rows), bands);
			if (!is_likely(met, PAIRS, p))
				fail_msg("%d x %d, similarity %.3f: %d of %d pairs met, not %.3f of them",
					bands, rows, similarity, met, PAIRS, p);
		}
		minhash_destroy(minhash);
	}
}

static void failures(void **state)
{
	(void)state;
	static const int bad[][2] = {
		{0, 8}, {14, 0}, {MINHASH_MOST_BANDS + 1, 1}, {1, MINHASH_MOST_ROWS + 1}};
	struct minhash *minhash;
	uint64_t hashes[BANDS];
	bool has;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		assert_int_equal(minhash_create(bad[i][0], bad[i][1], &minhash), STATUS_USAGE);
	for (int calls = 0; calls < 2; calls++) {
		memory_fail_after(calls);
		assert_int_equal(minhash_create(BANDS, ROWS, &minhash), STATUS_MEMORY);
		memory_fail_after(-1);
	}
	assert_int_equal(minhash_create(BANDS, ROWS, &minhash), STATUS_OK);
	memory_fail_after(0);
	assert_int_equal(minhash_compute(minhash, "a b c d e", 9, hashes, &has), STATUS_MEMORY);
	memory_fail_after(-1);
	minhash_destroy(minhash);
	minhash_destroy(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(normalization),
		cmocka_unit_test(random_texts),
		cmocka_unit_test(every_instruction_set),
		cmocka_unit_test(similar_texts_meet_as_the_curve_says),
		cmocka_unit_test(failures),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
