/*
 * corpus_report.h: a page about a corpus (`ferry inspect --html FILE`): its sizes, what was dropped and why,
 * how long its documents are, splits, sources, shards, and some documents. The page stands alone
 * (tools/html_page.h), is the same for the same corpus, and reads well on a phone and in the dark.
 *
 * Time: that of the table of lengths; with sources (data/sources.h) or rejects, that of reading all of them.
 * Memory: a few MiB, with sources some 100 bytes and its path for each.
 */
#ifndef TOOLS_CORPUS_REPORT_H
#define TOOLS_CORPUS_REPORT_H

#include "data/corpus.h"
#include "data/split.h"

enum { LENGTH_BINS = 32 };

struct corpus_lengths {
	uint64_t bin[LENGTH_BINS]; /* documents of 2^i .. 2^(i+1) - 1 tokens */
	uint32_t longest;
	uint64_t longest_document;
};

/* Reads them all; `visit` (may be NULL) gets each, in order, and may end the reading. */
typedef enum status corpus_length_visitor(void *user, uint64_t document, uint32_t tokens);
enum status corpus_lengths_read(
	struct corpus *corpus, struct corpus_lengths *out, corpus_length_visitor *visit, void *user) MUST_USE;

/* What a table of them has to show. */
struct lengths_shown {
	int first, last; /* bins that are not empty; last < first: none is */
	uint64_t most;   /* documents of a bin */
};
struct lengths_shown corpus_lengths_shown(const struct corpus_lengths *lengths);

struct corpus_report {
	struct corpus *corpus;
	const char *split;                /* "949,50,1" */
	const struct split_keys *keys;    /* [SPLIT_PARTS] */
	const struct split_range *ranges; /* [SPLIT_PARTS] */
	uint64_t seq_length, windows[SPLIT_PARTS];
};

/* Replaces a file at `path`. Invalid documents or rejects are shown as they are; a damaged corpus is an
 * error. */
enum status corpus_report_publish(const struct corpus_report *report, const char *path) MUST_USE;

#endif
