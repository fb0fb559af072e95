/*
 * naive_bpe.h: the slow reference of the tokenizer. The split pattern of GPT-2 is tried alternative by
 * alternative at each place, as a regular expression engine would (tokenizer/words.h has the pattern), and a
 * word's pair of lowest rank, the leftmost of equals, is joined one at a time until none has a rank.
 *
 * From the library come the vocabulary's lists (tokens' bytes, merges in order) and the classes of code
 * points, which tests/unit/tokenizer checks against others' files; nothing of how it searches or merges.
 */
#ifndef TESTS_FUZZ_NAIVE_BPE_H
#define TESTS_FUZZ_NAIVE_BPE_H

#include "tests/fuzz/naive_utf8.h"
#include "tokenizer/unicode.h"
#include "tokenizer/vocabulary.h"

/* ---- the pattern ---- */

FUZZ_FUNCTION bool naive_is(const uint32_t *text, size_t count, size_t at, enum unicode_class class)
{
	return at < count && unicode_class_of(text[at]) == class;
}

/* The end of the run of one class that starts at `at`. */
FUZZ_FUNCTION size_t naive_run(const uint32_t *text, size_t count, size_t at, enum unicode_class class)
{
	while (naive_is(text, count, at, class))
		at++;
	return at;
}

/* The end of the match at `at`. */
FUZZ_FUNCTION size_t naive_match(const uint32_t *text, size_t count, size_t at)
{
	static const char *const suffixes[] = {"s", "t", "re", "ve", "m", "ll", "d"};
	static const enum unicode_class classes[] = {UNICODE_LETTER, UNICODE_NUMBER, UNICODE_OTHER};
	for (size_t i = 0; i < 7 && text[at] == '\''; i++) { /* 's|'t|'re|'ve|'m|'ll|'d */
		size_t length = strlen(suffixes[i]), same = 0;
		while (same < length && at + 1 + same < count &&
			text[at + 1 + same] == (uint32_t)suffixes[i][same])
			same++;
		if (same == length)
			return at + 1 + length;
	}
	for (size_t i = 0; i < 3;
		i++) { /* ?\p{L}+, ?\p{N}+, ?[^\s\p{L}\p{N}]+, each with a blank before it */
		size_t first = text[at] == ' ' && naive_is(text, count, at + 1, classes[i]) ? at + 1 : at;
		size_t end = naive_run(text, count, first, classes[i]);
		if (end > first)
			return end;
	}
	size_t end = naive_run(text, count, at, UNICODE_SPACE);
	if (end < count && end - at > 1) /* \s+(?!\S): what follows is not space, so it backs off by one */
		return end - 1;
	return end;
}

/* ---- the merges ---- */

struct naive_merge {
	uint32_t left, right, rank, result;
};

struct naive_bpe {
	const struct tokenizer *tokenizer;
	struct naive_merge *merges; /* [tokenizer->merge_count], by left and right */
	uint32_t *by_bytes;         /* [vocabulary]: ids by their tokens' bytes */
};

static const struct tokenizer *naive_sorting; /* qsort has no argument for it */

FUZZ_FUNCTION int naive_compare_bytes(const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes)
{
	int order = memcmp(a, b, a_bytes < b_bytes ? a_bytes : b_bytes);
	return order ? order : (a_bytes > b_bytes) - (a_bytes < b_bytes);
}

FUZZ_FUNCTION int naive_compare_ids(const void *a, const void *b)
{
	const struct tokenizer *t = naive_sorting;
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return naive_compare_bytes(t->bytes + t->offsets[x], t->offsets[x + 1] - t->offsets[x],
		t->bytes + t->offsets[y], t->offsets[y + 1] - t->offsets[y]);
}

FUZZ_FUNCTION int naive_compare_merges(const void *a, const void *b)
{
	const struct naive_merge *x = a, *y = b;
	if (x->left != y->left)
		return x->left < y->left ? -1 : 1;
	return (x->right > y->right) - (x->right < y->right);
}

/* The id of some bytes; every one that is asked for is there. */
FUZZ_FUNCTION uint32_t naive_find(const struct naive_bpe *bpe, const uint8_t *bytes, size_t length)
{
	const struct tokenizer *t = bpe->tokenizer;
	size_t low = 0, high = t->vocabulary;
	while (low < high) {
		size_t middle = (low + high) / 2;
		uint32_t id = bpe->by_bytes[middle];
		int order = naive_compare_bytes(
			t->bytes + t->offsets[id], t->offsets[id + 1] - t->offsets[id], bytes, length);
		if (order == 0)
			return id;
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	CHECK(false, "a token is missing");
	return 0;
}

FUZZ_FUNCTION uint32_t naive_join(const struct naive_bpe *bpe, uint32_t left, uint32_t right)
{
	const struct tokenizer *t = bpe->tokenizer;
	size_t first = t->offsets[left + 1] - t->offsets[left],
	       second = t->offsets[right + 1] - t->offsets[right];
	uint8_t *bytes = malloc(first + second + 1);
	CHECK(bytes, "no memory");
	memcpy(bytes, t->bytes + t->offsets[left], first);
	memcpy(bytes + first, t->bytes + t->offsets[right], second);
	uint32_t id = naive_find(bpe, bytes, first + second);
	free(bytes);
	return id;
}

FUZZ_FUNCTION void naive_open(const struct tokenizer *t, struct naive_bpe *bpe)
{
	bpe->tokenizer = t;
	bpe->merges = malloc((t->merge_count + 1) * sizeof *bpe->merges);
	bpe->by_bytes = malloc(t->vocabulary * sizeof *bpe->by_bytes);
	CHECK(bpe->merges && bpe->by_bytes, "no memory");
	for (uint32_t id = 0; id < t->vocabulary; id++)
		bpe->by_bytes[id] = id;
	naive_sorting = t;
	qsort(bpe->by_bytes, t->vocabulary, sizeof *bpe->by_bytes, naive_compare_ids);
	for (uint32_t rank = 0; rank < t->merge_count; rank++)
		bpe->merges[rank] = (struct naive_merge){t->merges[rank][0], t->merges[rank][1], rank,
			naive_join(bpe, t->merges[rank][0], t->merges[rank][1])};
	qsort(bpe->merges, t->merge_count, sizeof *bpe->merges, naive_compare_merges);
}

FUZZ_FUNCTION void naive_close(struct naive_bpe *bpe)
{
	free(bpe->merges);
	free(bpe->by_bytes);
}

/* The merge of two neighbours; NULL: there is none. */
FUZZ_FUNCTION const struct naive_merge *naive_pair(const struct naive_bpe *bpe, const uint32_t ids[2])
{
	struct naive_merge pair = {ids[0], ids[1], 0, 0};
	return bsearch(&pair, bpe->merges, bpe->tokenizer->merge_count, sizeof pair, naive_compare_merges);
}

/* A word's ids; returns how many. */
FUZZ_FUNCTION size_t naive_merge_word(
	const struct naive_bpe *bpe, const uint8_t *word, size_t count, uint32_t *ids)
{
	/* pairs[i]: what joins ids[i] and ids[i + 1] */
	const struct naive_merge **pairs = malloc((count + 1) * sizeof *pairs);
	CHECK(pairs, "no memory");
	for (size_t i = 0; i < count; i++)
		ids[i] = naive_find(bpe, word + i, 1);
	for (size_t i = 0; i + 1 < count; i++)
		pairs[i] = naive_pair(bpe, ids + i);
	for (;;) {
		size_t best = count;
		for (size_t i = 0; i + 1 < count; i++)
			if (pairs[i] && (best == count || pairs[i]->rank < pairs[best]->rank))
				best = i;
		if (best == count)
			break;
		ids[best] = pairs[best]->result;
		memmove(ids + best + 1, ids + best + 2, (count - best - 2) * sizeof *ids);
		memmove(pairs + best, pairs + best + 1, (count - best - 2) * sizeof *pairs);
		count--;
		if (best > 0)
			pairs[best - 1] = naive_pair(bpe, ids + best - 1);
		if (best + 1 < count)
			pairs[best] = naive_pair(bpe, ids + best);
	}
	free(pairs);
	return count;
}

/* The ids of a text (naive_utf8.h); returns how many, at most its bytes. */
FUZZ_FUNCTION size_t naive_encode(const struct naive_bpe *bpe, const struct naive_text *text, uint32_t *ids)
{
	size_t count = 0, byte = 0;
	for (size_t at = 0; at < text->point_count;) {
		size_t end = naive_match(text->points, text->point_count, at), bytes = 0;
		uint8_t scratch[4];
		CHECK(end > at, "the pattern matches nothing");
		for (; at < end; at++)
			bytes += naive_put(scratch, text->points[at]);
		count += naive_merge_word(bpe, text->bytes + byte, bytes, ids + count);
		byte += bytes;
	}
	return count;
}

/* ---- instruction sets: the target's own simd_isa_get, which takes each in turn ---- */

#include "common/simd.h"

static enum simd_isa naive_isa;

enum simd_isa simd_isa_get(void)
{
	return naive_isa;
}

const char *simd_isa_name(enum simd_isa isa)
{
	static const char *const names[] = {"base", "avx2", "avx512"};
	return names[isa];
}

FUZZ_FUNCTION enum simd_isa naive_widest_isa(void)
{
#ifdef __x86_64__
	if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
		!__builtin_cpu_supports("bmi2"))
		return SIMD_BASE;
	if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
		__builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
		__builtin_cpu_supports("avx512cd"))
		return SIMD_AVX512;
	return SIMD_AVX2;
#else
	return SIMD_BASE;
#endif
}

/* An encoder's ids on every instruction set, in 32 bits and (where they fit) in 16, against `expected`; then
 * back to the text. */
FUZZ_FUNCTION void naive_check_encoders(struct encoder *const encoders[3], const struct tokenizer *tokenizer,
	const struct naive_text *text, const uint32_t *expected, size_t expected_count)
{
	size_t bytes = text->byte_count, count;
	char *exact = malloc(bytes + !bytes), *decoded;
	uint32_t *ids = malloc(bytes * 4 + 4);
	uint16_t *narrow = malloc(bytes * 2 + 2);
	CHECK(exact && ids && narrow, "no memory");
	memcpy(exact, text->bytes, bytes);
	for (naive_isa = SIMD_BASE; naive_isa <= naive_widest_isa(); naive_isa++) {
		struct encoder *encoder = encoders[naive_isa];
		CHECK(encoder_encode(encoder, exact, bytes, ids, &count) == STATUS_OK, "%s", error_message());
		CHECK(count == expected_count && memcmp(ids, expected, count * 4) == 0, "other ids on %s",
			simd_isa_name(naive_isa));
		if (tokenizer_vocabulary(tokenizer) > 65536)
			continue;
		CHECK(encoder_encode_u16(encoder, exact, bytes, narrow, &count) == STATUS_OK, "%s",
			error_message());
		CHECK(count == expected_count, "other ids of 16 bits on %s", simd_isa_name(naive_isa));
		for (size_t i = 0; i < count; i++)
			CHECK(narrow[i] == expected[i], "other ids of 16 bits on %s",
				simd_isa_name(naive_isa));
	}
	CHECK(tokenizer_decode(tokenizer, expected, expected_count, &decoded, &count) == STATUS_OK, "%s",
		error_message());
	CHECK(count == bytes && memcmp(decoded, exact, bytes) == 0, "does not decode to the text");
	free(decoded);
	free(exact);
	free(ids);
	free(narrow);
}

#endif
