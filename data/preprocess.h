/*
 * preprocess.h: text to corpus, in two passes, in bounded memory, resumable.
 *
 * Pass 1: inputs (data/input.h) are cut into units; workers repair and tokenize their documents and spill
 * them by the top bits of their key, zstd-compressed, one published file a unit under DIR/work/. Pass 2: each
 * key range is read back, sorted, duplicates dropped as they meet, and its shard written and published;
 * corpus.json is written last and DIR/work/ removed. The journal is the published files themselves plus
 * DIR/work/job.json, which pins the options and each input's path, size and time: killed at any point, the
 * same command goes on and ends in the same bytes; other options or changed inputs are an error that says so.
 * The bytes depend on the documents and the tokenizer alone: not on input order, workers, memory or
 * interruptions.
 *
 * DIR that already holds a corpus is an error unless `overwrite`. Two runs on one DIR: the second fails at
 * once (a lock file held with flock).
 */
#ifndef DATA_PREPROCESS_H
#define DATA_PREPROCESS_H

#include "data/corpus.h"
#include "tokenizer/tokenizer.h"

struct preprocess_progress {
	int pass;                         /* 1 or 2 */
	uint64_t bytes_done, bytes_total; /* of input as stored on disk (pass 1; total 0 when unknown), of
					     spill (pass 2) */
	uint64_t documents, tokens, text_bytes;
	double seconds; /* since this run began */
};

struct preprocess_config {
	const char *const *inputs; /* [input_count] files, folders, or "-" (JSONL on standard input) */
	size_t input_count;
	const char *output;
	const struct tokenizer *tokenizer;
	const char *text_key;           /* JSONL member that holds the text ("text") */
	const char *document_separator; /* cuts text files into documents; NULL: a file is one */
	int workers;                    /* at least 1 */
	uint64_t memory;       /* bytes for spill buffers and sorting (the program adds about 150 MB) */
	uint64_t max_bytes;    /* longer documents are rejected (64 MiB) */
	bool strict;           /* invalid UTF-8 is an error instead of being repaired */
	bool fail_on_bad_line; /* a bad line stops instead of going to rejects.jsonl */
	bool overwrite;
	/* Called from one thread at a time, a few times a second; may be NULL. Returning false stops
	 * (resumable). */
	bool (*progress)(void *user, const struct preprocess_progress *progress);
	void *user;
};

struct preprocess_result {
	uint64_t documents, tokens, bytes;     /* of the corpus */
	uint64_t input_documents, input_bytes; /* before duplicates were dropped */
	uint64_t duplicates, empty, rejected, repaired;
	uint64_t shards;
	double seconds[2]; /* of each pass, this run */
	bool resumed;
};

enum status preprocess_run(const struct preprocess_config *config, struct preprocess_result *result) MUST_USE;

#endif
