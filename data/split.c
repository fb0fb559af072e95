#include "data/split.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { FRACTION_DIGITS = 9, WHOLE_DIGITS = 9, UNIT = 1000000000 };

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* One share, in units of 10^-9; false when *text does not begin with one. Moves *text behind it. */
static bool parse_share(const char **text, uint64_t *share)
{
	const char *at = *text;
	uint64_t whole = 0, fraction = 0, unit = UNIT;
	int digits = 0, significant = 0;
	for (; is_digit(*at); at++, digits++) {
		whole = whole * 10 + (uint64_t)(*at - '0');
		significant += whole != 0;
		if (significant > WHOLE_DIGITS)
			return false;
	}
	if (*at == '.') {
		for (at++; is_digit(*at); at++, digits++) {
			unit /= 10;
			if (!unit && *at != '0')
				return false;
			fraction += unit * (uint64_t)(*at - '0');
		}
	}
	*text = at;
	*share = whole * UNIT + fraction;
	return digits > 0;
}

enum status split_parse(const char *text, struct split_shares *shares)
{
	const char *at = text;
	uint64_t sum = 0;
	*shares = (struct split_shares){{0}};
	for (int part = 0;; part++) {
		FAIL_IF(part == SPLIT_PARTS, STATUS_USAGE,
			"split \"%s\" has more than three shares (train, validation, test)", text);
		FAIL_IF(!parse_share(&at, &shares->share[part]) || (*at && *at != ',' && *at != '/'),
			STATUS_USAGE,
			"split \"%s\": share %d is not a number of 0 or more (at most nine digits on each "
			"side of the "
			"point); write it like 949,50,1 or 0.9/0.1",
			text, part + 1);
		sum += shares->share[part];
		if (!*at)
			break;
		at++;
	}
	FAIL_IF(!sum, STATUS_USAGE, "split \"%s\": all shares are zero", text);
	return STATUS_OK;
}

static int format_share(uint64_t share, char *text, size_t room)
{
	char fraction[16];
	snprintf(fraction, sizeof fraction, ".%09" PRIu64, share % UNIT);
	size_t length = strlen(fraction);
	while (length && (fraction[length - 1] == '0' || fraction[length - 1] == '.'))
		fraction[--length] = 0;
	return snprintf(text, room, "%" PRIu64 "%s", share / UNIT, fraction);
}

void split_format(const struct split_shares *shares, char text[SPLIT_TEXT])
{
	size_t length = 0;
	for (int part = 0; part < SPLIT_PARTS; part++) {
		if (part)
			text[length++] = ',';
		length += (size_t)format_share(shares->share[part], text + length, SPLIT_TEXT - length);
	}
}

void split_cut(const struct split_shares *shares, struct split_keys keys[SPLIT_PARTS])
{
	uint64_t sum = 0, before = 0;
	for (int part = 0; part < SPLIT_PARTS; part++)
		sum += shares->share[part];
	assert(sum); /* below 3 * 10^18, so that a cut's numerator is below 2^127 */
	for (int part = 0; part < SPLIT_PARTS; part++) {
		uint64_t until = before + shares->share[part];
		unsigned __int128 first = ((unsigned __int128)before << 64) / sum;
		unsigned __int128 end = ((unsigned __int128)until << 64) / sum;
		keys[part] = (struct split_keys){.empty = first == end};
		if (first < end) {
			keys[part].first = (uint64_t)first;
			keys[part].last = (uint64_t)(end - 1);
		}
		before = until;
	}
}

bool split_same(const struct split_shares *a, const struct split_shares *b)
{
	struct split_keys of_a[SPLIT_PARTS], of_b[SPLIT_PARTS];
	split_cut(a, of_a);
	split_cut(b, of_b);
	for (int part = 0; part < SPLIT_PARTS; part++)
		if (of_a[part].empty != of_b[part].empty || of_a[part].first != of_b[part].first ||
			of_a[part].last != of_b[part].last)
			return false;
	return true;
}

/* The first document with a key above `last`. */
static enum status end_of_keys(struct corpus *corpus, uint64_t last, uint64_t *document)
{
	*document = corpus_get_info(corpus)->documents;
	return last == UINT64_MAX ? STATUS_OK : corpus_find_key(corpus, last + 1, document);
}

static enum status first_token_of(struct corpus *corpus, uint64_t document, uint64_t *token)
{
	uint64_t count;
	*token = corpus_get_info(corpus)->tokens;
	return document == corpus_get_info(corpus)->documents
		       ? STATUS_OK
		       : corpus_document(corpus, document, token, &count);
}

enum status split_corpus(
	struct corpus *corpus, const struct split_shares *shares, struct split_range ranges[SPLIT_PARTS])
{
	struct split_keys keys[SPLIT_PARTS];
	uint64_t document = 0, token = 0;
	split_cut(shares, keys);
	for (int part = 0; part < SPLIT_PARTS; part++) {
		uint64_t next_document = document, next_token = token;
		if (!keys[part].empty) {
			TRY(end_of_keys(corpus, keys[part].last, &next_document));
			TRY(first_token_of(corpus, next_document, &next_token));
		}
		FAIL_IF(next_document < document || next_token < token, STATUS_CORRUPT,
			"%s: keys or offsets of its documents do not ascend; run `ferry verify`",
			corpus_directory(corpus));
		ranges[part] = (struct split_range){.first_document = document,
			.documents = next_document - document,
			.first_token = token,
			.tokens = next_token - token};
		document = next_document;
		token = next_token;
	}
	return STATUS_OK;
}

const char *split_part_name(enum split_part part)
{
	static const char *const names[SPLIT_PARTS] = {"train", "valid", "test"};
	return names[part];
}
