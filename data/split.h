/*
 * split.h: train, validation and test as ranges of keys.
 *
 * `949,50,1` cuts the key space [0, 2^64) in those proportions: cut j is floor(2^64 * (sum of the first j
 * shares) / (sum of all)), exactly: shares are decimal fractions of at most nine digits behind the point,
 * kept as whole numbers. A document belongs to the split that its key falls in, so it is in the same split in
 * every corpus that holds it, and copies of it never straddle two. Documents stand in key order, so a split
 * is one contiguous range of documents and of tokens, and needs no index. Shares are separated by ',' or '/';
 * one to three of them, not negative, not all zero (missing ones are zero).
 */
#ifndef DATA_SPLIT_H
#define DATA_SPLIT_H

#include "data/corpus.h"

enum split_part { SPLIT_TRAIN, SPLIT_VALID, SPLIT_TEST, SPLIT_PARTS };

struct split_shares {
	uint64_t share[SPLIT_PARTS]; /* in units of 10^-9, each below 10^18 */
};

/* A part's keys: first..last, both included; none when empty. */
struct split_keys {
	bool empty;
	uint64_t first, last;
};

struct split_range {
	uint64_t first_document, documents;
	uint64_t first_token, tokens;
};

/* Parses "949,50,1", "0.9/0.1"; STATUS_USAGE says what is wrong with it. */
enum status split_parse(const char *text, struct split_shares *shares) MUST_USE;

/* "949,50,1": the shares as short as can be. 0.90,0.1 and 9,1 print differently but cut alike: compare keys.
 */
enum { SPLIT_TEXT = 64 };
void split_format(const struct split_shares *shares, char text[SPLIT_TEXT]);

void split_cut(const struct split_shares *shares, struct split_keys keys[SPLIT_PARTS]);
bool split_same(const struct split_shares *a, const struct split_shares *b); /* cut alike */

/* Where the parts lie in a corpus. O(log documents), whatever the corpus's size. */
enum status split_corpus(struct corpus *corpus, const struct split_shares *shares,
	struct split_range ranges[SPLIT_PARTS]) MUST_USE;

const char *split_part_name(enum split_part part); /* "train", "valid", "test" */

#endif
