/*
 * split.h: train, validation and test as ranges of keys.
 *
 * `949,50,1` cuts the key space [0, 2^64) in those proportions: cut j is floor(2^64 * (sum of the first j
 * shares) / (sum of all)). A document belongs to the split that its key falls in, so it is in the same split
 * in every corpus that holds it, and copies of it never straddle two. Documents stand in key order, so a
 * split is one contiguous range of documents and of tokens, and needs no index. Shares are separated by ','
 * or '/'; one to three of them, not negative, not all zero (missing ones are zero); fractions are allowed.
 */
#ifndef DATA_SPLIT_H
#define DATA_SPLIT_H

#include "data/corpus.h"

enum split_part { SPLIT_TRAIN, SPLIT_VALID, SPLIT_TEST, SPLIT_PARTS };

struct split_range {
	uint64_t first_document, documents;
	uint64_t first_token, tokens;
};

/* Parses "949,50,1" to shares; STATUS_USAGE says what is wrong with it. */
enum status split_parse(const char *text, double shares[SPLIT_PARTS]) MUST_USE;

/* The first key of each part: part p holds keys [cuts[p], cuts[p + 1]), where cuts[3] stands for 2^64 and is
 * unused. */
void split_cuts(const double shares[SPLIT_PARTS], uint64_t cuts[SPLIT_PARTS], bool present[SPLIT_PARTS]);

enum status split_corpus(struct corpus *corpus, const double shares[SPLIT_PARTS],
	struct split_range ranges[SPLIT_PARTS]) MUST_USE;

const char *split_part_name(enum split_part part); /* "train", "valid", "test" */

#endif
