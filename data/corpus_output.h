/*
 * corpus_output.h: what every writer of corpora (preprocess, convert, merge) does alike: the files beside the
 * shards, the manifest, and the exchange of an old corpus for the new one. The shards themselves:
 * data/shard_writer.h.
 *
 * A corpus is built in DIRECTORY/work, each file published there. When it is complete, its manifest last,
 * work is renamed to DIRECTORY/next: from here on the corpus will be put in place, whatever happens. Then
 *
 *    1. an old corpus.json goes          readers now find the new corpus, its files in next or in their place
 *    2. files of the old corpus that the new one has not are removed, the new ones move into their place
 *    3. corpus.json moves last; what is left in next (a journal, spill files) is removed
 *
 * with an fsync of the directory between the steps. So at any moment, and after a power failure at any
 * moment, corpus_open finds all of the old corpus or all of the new one. Who is ended in between leaves the
 * rest to corpus_output_recover, which every writer calls first.
 *
 * Who calls these holds the directory (data/output_lock.h). All of it is one thread's, but for files that are removed.
 * Nothing here keeps memory.
 */
#ifndef DATA_CORPUS_OUTPUT_H
#define DATA_CORPUS_OUTPUT_H

#include "data/shard_writer.h"
#include "tokenizer/tokenizer.h"

/* What a tokenizer's ids are kept in: Megatron-LM's rule. */
enum corpus_dtype corpus_output_dtype(const struct tokenizer *tokenizer);
/* S, by data/corpus.h's rule; shard_bytes: the limit of a .bin, 0 for the rule's 256 MiB (tests). */
uint64_t corpus_output_shards(
	uint64_t input_tokens, uint64_t input_documents, enum corpus_dtype dtype, uint64_t shard_bytes);

/* True if DIRECTORY/NAME is there. */
enum status corpus_output_has(const char *directory, const char *name, bool *there) MUST_USE;
/* Removes DIRECTORY/NAME; not there is fine. */
enum status corpus_output_remove_file(const char *directory, const char *name) MUST_USE;
/* Puts a corpus in place whose writer was ended as it did so; none is fine. */
enum status corpus_output_recover(const char *directory) MUST_USE;

/*
 * DIRECTORY/.job tells which job made the corpus, where several processes make it together: who comes late
 * finds nothing else left of its job.
 *    {"format": "ferry-job", "version": 1, "job": 32 hex, "corpus": 32 hex, the hash in corpus.json}
 * Without it, or beside another corpus, nothing is known: *same is false.
 */
enum status corpus_output_is_of(const char *directory, struct hash128 job, bool *same) MUST_USE;

/* What the manifest tells beside the shards; tokens count each document's EOD. */
struct corpus_output {
	const char *directory;
	const struct tokenizer *tokenizer;
	uint64_t bytes; /* of the corpus's documents; their number and tokens are the shards' */
	uint64_t input_documents, input_tokens, input_bytes;
	uint64_t empty, rejected, repaired;
	/* Near-duplicates that were dropped; bands and rows (data/minhash.h) if all of the corpus was
	 * searched for them, 0 if not. */
	uint64_t near_duplicates;
	int near_bands, near_rows;
	/* What made it, to be told by corpus_output_is_of; NULL: nobody will ask. */
	const struct hash128 *job;
	int workers;                        /* threads that remove what is left of the work; 0: one */
	bool sources;                       /* each shard has a .src */
	const struct shard_summary *shards; /* [shard_count]; `bytes` of each is not looked at */
	size_t shard_count;
};

/* The tokenizer's vocab.json and merges.txt (none for GPT-2's), into DIRECTORY itself. */
enum status corpus_output_write_tokenizer(const char *directory, const struct tokenizer *tokenizer) MUST_USE;
/* The tokenizer's files and corpus.json, then all of the above. The shards, and
 * rejects.jsonl if something was rejected, are in DIRECTORY/work already. */
enum status corpus_output_publish(const struct corpus_output *output) MUST_USE;

#endif
