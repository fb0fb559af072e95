/*
 * corpus_export.h: a corpus as a file of ids that another program reads; data/token_files.h tells the
 * formats, and reads them back.
 *
 *    megatron   PREFIX.bin and PREFIX.idx, one pair for all shards, each document ending in EOD. (A shard's
 *               own .bin and .idx are such a pair already.) The .idx is published last.
 *    llmc       PREFIX_000000.bin, PREFIX_000001.bin and so on, each of at most `file_tokens` ids, with EOD
 *               before each document. Documents are not cut: one longer than that has a file of its own.
 *    nanogpt    PREFIX.bin, each document ending in EOD.
 *
 * Documents keep the corpus's order (that of their keys: a shuffle) and their ids. llmc and nanogpt have u16
 * ids: a vocabulary of more than 65,536 is STATUS_UNSUPPORTED. Every page is verified as it is read.
 *
 * A file of a name that would be written and is there already is an error unless `overwrite`; of llm.c's, the one behind
 * the last too, for who reads all of that prefix. Nothing gets its name, and nothing that is there goes, before all files
 * are complete and on the disk, so that a full disk costs nothing. Then Megatron-LM's old .idx goes first, so that where
 * there is one, it is its .bin's. llm.c's files are put in place one by one, and those behind the last go: a run that was
 * ended in that moment leaves new and old ones, each whole. Memory: some MiB, or the longest document. One thread.
 */
#ifndef DATA_CORPUS_EXPORT_H
#define DATA_CORPUS_EXPORT_H

#include "data/corpus.h"
#include "data/token_files.h"

struct corpus_export_config {
	enum token_format format;
	const char *prefix;
	uint64_t file_tokens; /* llmc: 1 to 2^31 - 1 */
	bool overwrite;
	/* Called with tokens written and in all; may be NULL. Returning false stops with STATUS_INTERRUPTED.
	 */
	bool (*progress)(void *user, uint64_t done, uint64_t total);
	void *user;
};

enum status corpus_export_run(struct corpus *corpus, const struct corpus_export_config *config,
	uint64_t *files /* written */) MUST_USE;

#endif
