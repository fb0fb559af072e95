/*
 * corpus_merge.h: several corpora to one, without tokenizing again.
 *
 * Documents stand in key order in every corpus, so joining is a merge: one pass over the inputs, each page
 * verified as it is read, exact duplicates dropped as they meet. The output is equal in bytes to what
 * preprocessing all the inputs' text at once gives (corpus.json and rejects.jsonl too): its number of shards
 * follows from the sums of the inputs' totals, what they dropped and repaired adds up. That holds for inputs
 * without a file in common: preprocess reads a file that is named twice once, here its documents are
 * duplicates. (And rejects of files whose names are not valid UTF-8 may stand in another order.)
 *
 * .key holds the upper 64 bits of a key. Where they are equal, the texts are spelled out again and the whole
 * keys computed. Two corpora may hold one text in different tokens if `ferry convert` made them; the copy of
 * fewest tokens is kept, of those the one with the smaller ids, so that the order of the inputs never
 * matters.
 *
 * Near-duplicates are not looked for: two inputs that were each searched for them (data/near_duplicates.h)
 * may hold some of each other's, so the output does not say that it was.
 *
 * Where documents came from (data/sources.h) is kept if every input tells; of copies the smallest.
 *
 * Corpora of different tokenizers are STATUS_MISMATCH. Memory: some 300 KiB for each input and worker (with
 * sources the .src of a shard of it too), or
 * twice the longest document, and what data/shard_writer.h takes. An output that already holds a corpus, or
 * an unfinished run of preprocess, is an error unless `overwrite`. A corpus that is replaced stays
 * whole until the new one is complete, and takes its room on the disk until then. Ended at any point, by kill
 * -9 or a power failure, the output opens as what it held before or as the new corpus, and the same command
 * makes it.
 */
#ifndef DATA_CORPUS_MERGE_H
#define DATA_CORPUS_MERGE_H

#include "data/corpus.h"

struct corpus_merge_config {
	const char *const *inputs; /* [input_count] directories, each once */
	size_t input_count;        /* at least 1 */
	const char *output;
	int workers; /* at least 1; a shard of the output is one worker's */
	bool overwrite;
	uint64_t shard_bytes; /* as preprocess's, for tests */
	/* Called from one thread at a time with tokens read and in all; may be NULL. Returning false stops
	 * with STATUS_INTERRUPTED. */
	bool (*progress)(void *user, uint64_t done, uint64_t total);
	void *user;
};

struct corpus_merge_result {
	uint64_t documents, tokens, bytes; /* of the output */
	uint64_t duplicates;               /* dropped by this merge */
	uint64_t shards;
	const char *without_sources; /* an input that has none, where others have and the output has not; or
					NULL */
};

enum status corpus_merge_run(
	const struct corpus_merge_config *config, struct corpus_merge_result *result) MUST_USE;

#endif
