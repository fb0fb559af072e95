/*
 * train_tokenizer.h: learns a tokenizer from text (tokenizer/bpe_trainer.h) and writes the files that load
 * it.
 *
 * Inputs are preprocess's (data/preprocess.h): JSONL and text files, plain or compressed, folders, invalid
 * UTF-8 replaced by U+FFFD; lines that are not JSON with the text as a string are passed over and counted.
 * Words are counted in parallel, the merges found by one thread. The result depends on the documents alone,
 * not on their order, copies counted as often as they come, nor on workers.
 *
 * DIR gets merges.txt, vocab.json, tokenizer_config.json, special_tokens_map.json and, last, tokenizer.json,
 * each published when all are complete on the disk, which may be full; an old tokenizer.json goes before the
 * first of them comes, so that where it is, all are of one run. Hugging Face's AutoTokenizer and tokenizers load it, `ferry preprocess
 * --merge-file DIR/merges.txt` uses it. The vocabulary is the 256 bytes, one token a merge, and
 * <|endoftext|>, the last id.
 */
#ifndef DATA_TRAIN_TOKENIZER_H
#define DATA_TRAIN_TOKENIZER_H

#include "common/error.h"

#include <stdint.h>

struct train_tokenizer_progress {
	uint64_t bytes_done, bytes_total; /* of input as stored; total 0 when unknown */
	uint32_t merges, merges_total;    /* 0 of 0 while words are counted */
};

struct train_tokenizer_config {
	const char *const *inputs; /* [input_count] files, folders, or "-" (JSONL on standard input) */
	size_t input_count;
	const char *output;             /* DIR */
	uint32_t vocabulary;            /* ids, EOD included; at least 257 */
	uint64_t least_count;           /* pairs that occur less often are not joined; at least 1 */
	const char *text_key;           /* JSONL member that holds the text ("text") */
	const char *document_separator; /* cuts text files into documents; NULL: a file is one */
	uint64_t max_bytes;             /* longer documents are passed over; at most 1 GiB */
	int workers;
	bool overwrite;      /* else a tokenizer.json that is there is an error */
	uint64_t unit_bytes; /* of a JSONL file for one worker at a time; 0: 4 MiB. For tests */
	/* Called from one thread at a time; may be NULL. Returning false stops with STATUS_INTERRUPTED. */
	bool (*progress)(void *user, const struct train_tokenizer_progress *progress);
	void *user;
};

struct train_tokenizer_result {
	uint32_t vocabulary;              /* less than asked for when no pair was left */
	uint64_t documents, bytes, words; /* words: different ones */
	uint64_t skipped;                 /* bad lines and documents that are too long */
	double seconds[2];                /* counting, merging */
};

enum status train_tokenizer_run(
	const struct train_tokenizer_config *config, struct train_tokenizer_result *result) MUST_USE;

#endif
