/*
 * merge_rejects.h: the lists of what corpora rejected (rejects.jsonl), merged. Each is in the order of path
 * and place, and so is the result; equal paths are in the order of the corpora.
 */
#ifndef DATA_MERGE_REJECTS_H
#define DATA_MERGE_REJECTS_H

#include "data/corpus.h"

/* Publishes DIRECTORY/rejects.jsonl; corpora without such a file are fine. */
enum status merge_rejects(
	struct corpus *const *corpora /* [count] */, size_t count, const char *directory) MUST_USE;

#endif
