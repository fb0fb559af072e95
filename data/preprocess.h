/*
 * preprocess.h: text to corpus, in two passes, in bounded memory, resumable.
 *
 * Pass 1: inputs (data/input.h) are cut into units; workers repair and tokenize their documents and spill
 * them by the top bits of their key, one file a unit (data/spill.h), under DIR/work/. A large plain JSONL
 * file is cut into many units. A compressed or text file and standard input are in one, at which several
 * workers can be: one reads ahead for all, a batch of records at a time (data/unit_reader.h), and nobody is
 * idle while there is one to take. Pass 2: each key range is read back, duplicates dropped as they meet,
 * sorted, and appended to its shard (data/shard_writer.h), in DIR/work/ too. When all is there, it is put in
 * place as data/corpus_output.h tells, corpus.json last.
 *
 *    DIR/work/job.json           the options that matter; its hash is part of every spill file
 *    DIR/work/inputs             each input's size, time and path
 *    DIR/work/unit-000000 ...    pass 1's finished units
 *    DIR/work/00000.bin ...      pass 2's finished shards
 *    DIR/work/shard-00000.json   what they hold, written after their files
 *    DIR/next/                   the same folder, complete: its files are being put in place
 *    DIR/.lock                   held (flock) while a run works on DIR: a second one fails at once
 *    DIR/work/claims             what several processes divide the work by: data/claims.h
 *    DIR/work/part-3-of-8        part 3 of 8 of pass 1 is done
 *    DIR/.job                    which job made the corpus, if several processes did: data/corpus_output.h
 *
 * Ended at any point, the same command goes on (units and shards under way begin anew) and ends in the same
 * bytes; other options or changed inputs are STATUS_MISMATCH and say which. Spill files are not synced (but
 * for standard input's): what an earlier run left is verified whole before it is used, and made anew if a
 * power failure damaged it; finished shards are read and hashed before the run goes on. Standard input
 * cannot be read twice: a run that reads it goes on once its first pass is done, and reads it anew before.
 * The bytes depend on the documents and the tokenizer alone: not on input order, workers, memory or
 * interruptions.
 *
 * Several processes, on machines that share DIR and see the inputs under the same paths, can do it together:
 * each makes a part of pass 1's units (unit u of n parts is part (u mod n) + 1's, so it follows from the
 * inputs alone), the same command but for its `part`; any number of them then does pass 2, each taking the
 * shards that nobody has taken, and the one that finds the last shard done publishes. A part that comes only
 * then finds the corpus complete, if its inputs and options are those that made it. Killed at any point, the
 * same commands go on, and a shard or part whose process is gone is another's to take. The bytes are those of
 * one process (and DIR/.job tells whose they are). DIR must be on a file system with locks between the
 * machines: data/output_lock.h, data/claims.h.
 *
 * A document is a JSONL line's text (data/jsonl.h), a text file, or a piece of one between separators. Empty
 * ones are dropped and counted. Longer ones than max_bytes and lines that are not JSON with the text as a
 * string are listed in DIR/rejects.jsonl, in the order of path and place (or end the run: fail_on_bad_line):
 *    {"file": "a.jsonl", "line": 17, "byte": 20211, "reason": "..."}     no "line" for text files
 * Documents of fewer than min_tokens tokens are listed there too, and never end the run.
 * Blank lines of JSONL, and a byte order mark at its beginning, are nothing. No document at all is an error.
 * Lone surrogates in JSON and invalid UTF-8 become U+FFFD, counted (`strict`: an error that names the place).
 *
 * With `near_bands` near-duplicates are dropped as well, by the rule of data/near_duplicates.h: pass 1 keeps
 * what it compares beside the units, a pass between the two finds what is to go, pass 2 leaves it out.
 *
 * With `sources` each shard has a list of where its documents came from (data/sources.h).
 *
 * With `token_format` the inputs are files of ids that another program wrote (data/token_files.h), and pass 1
 * does not tokenize: a document keeps its ids as they are, and its key is the hash of the bytes that they
 * spell. So it has the key, and in a corpus the place, that its text has, whichever way its ids were found.
 * Bytes that are not valid UTF-8 (ids cut within a character) are hashed, and counted, as they are. Of
 * several documents that spell the same text in other ids, the first is kept, in the order of path and place.
 *
 * DIR that already holds a corpus is an error unless `overwrite`. Then the old corpus stays whole, and takes
 * its room on the disk, until the new one is complete: whenever the run is ended, by kill -9 or a power
 * failure, DIR opens as the old corpus or as the new one (where there was none: as none or the new one). The
 * files that are not of this corpus but have names of its kind (00012.bin, rejects.jsonl) are removed; others
 * are left alone.
 */
#ifndef DATA_PREPROCESS_H
#define DATA_PREPROCESS_H

#include "data/corpus.h"
#include "data/token_files.h"
#include "tokenizer/tokenizer.h"

struct preprocess_progress {
	int pass; /* 0 waiting for other processes; 1 tokenizing; 2 writing; between them 3,
		     near-duplicates are looked for: bytes are those of their parts, roughly */
	uint64_t bytes_done, bytes_total; /* of input as stored on disk (pass 1; total 0 when unknown), of
					     spill (pass 2) */
	uint64_t documents, tokens, text_bytes;
	double seconds; /* since this run began */
};

/* What a worker's time goes into. */
enum preprocess_stage {
	PREPROCESS_READ, /* and decompress */
	PREPROCESS_JSON,
	PREPROCESS_HASH, /* and repair */
	PREPROCESS_SIGN, /* signatures for near-duplicates */
	PREPROCESS_TOKENIZE,
	PREPROCESS_SPILL,
	PREPROCESS_SEARCH,  /* for near-duplicates, between the passes; its waiting is not counted */
	PREPROCESS_LOAD,    /* spill files, and drop duplicates, and sort */
	PREPROCESS_WRITE,   /* shards, and hash their pages */
	PREPROCESS_PUBLISH, /* shards: index, hash trees */
	PREPROCESS_WAIT,    /* for its turn to read a unit or to write a shard, and for the disk */
	PREPROCESS_STAGES
};

enum preprocess_mode {
	PREPROCESS_ALONE,         /* all of it */
	PREPROCESS_PART,          /* part `part` of `parts` of pass 1 */
	PREPROCESS_PART_LAST,     /* the same; the last part to end goes on to pass 2 */
	PREPROCESS_PART_TOGETHER, /* the same; waits for the others, then does pass 2 with them */
	PREPROCESS_FINISH,        /* pass 2, alone or with others; without inputs: of the run that is there */
};

enum { PREPROCESS_MOST_PARTS = 1 << 20 };

struct preprocess_config {
	const char *const *inputs; /* [input_count] files, folders, or "-" (JSONL on standard input) */
	size_t input_count;
	enum token_format token_format; /* what the inputs are; TOKEN_FORMAT_NONE (0): text */
	const char *output;
	const struct tokenizer *tokenizer;
	const char *text_key;           /* JSONL member that holds the text ("text") */
	const char *document_separator; /* cuts text files into documents; NULL: a file is one */
	int workers;                    /* at least 1 */
	/* Bytes for spill buffers and sorting. The program adds about 30 MB a worker, and while a worker
	 * encodes a long document some 10 bytes a byte of it (12 with near_bands). */
	uint64_t memory;
	uint64_t max_bytes;    /* longer documents are rejected (64 MiB); at most 1 GiB */
	uint64_t min_tokens;   /* documents of fewer tokens (EOD not counted) go to rejects.jsonl; 0: none */
	bool strict;           /* invalid UTF-8 is an error instead of being repaired */
	bool fail_on_bad_line; /* a bad line stops instead of going to rejects.jsonl */
	int near_bands;        /* near-duplicates, data/minhash.h's bands; 0: exact duplicates only */
	int near_rows;         /* of each band */
	bool sources;          /* keep where each document came from, NNNNN.src: data/sources.h */
	bool overwrite;
	enum preprocess_mode mode;
	uint32_t part, parts; /* 1 .. parts; fewer than PREPROCESS_MOST_PARTS */
	uint64_t unit_bytes;  /* input bytes a unit; 0: chosen by size. For tests */
	uint64_t shard_bytes; /* limit of a .bin (corpus.h); 0: 256 MiB. For tests: the bytes depend on it */
	/* Called from one thread at a time, a few times a second and after each unit; may be NULL. Returning
	 * false stops with STATUS_INTERRUPTED (resumable). */
	bool (*progress)(void *user, const struct preprocess_progress *progress);
	void *user;
	/* [workers]: adds the seconds of processor time that each spends in each stage, for PREPROCESS_WAIT
	 * those that pass. NULL: does not look at the clock, which costs some percent. */
	double (*profile)[PREPROCESS_STAGES];
};

struct preprocess_result {
	uint64_t documents, tokens, bytes;     /* of the corpus */
	uint64_t input_documents, input_bytes; /* before duplicates were dropped */
	uint64_t duplicates, near_duplicates, empty, rejected, repaired;
	uint64_t shards;
	double seconds[2]; /* of each pass, this run; that of near-duplicates counts to the first */
	bool resumed;
	bool complete;  /* the corpus is there */
	bool published; /* by this process; otherwise the figures above are 0, unless an earlier run's */
	uint64_t units; /* of pass 1, in all; 0 if PREPROCESS_ALONE */
	uint32_t parts_missing, first_missing; /* parts that are not done, and the first of them */
};

enum status preprocess_run(const struct preprocess_config *config, struct preprocess_result *result) MUST_USE;

#endif
