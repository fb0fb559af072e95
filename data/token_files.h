/*
 * token_files.h: files of token ids that other programs wrote, read document by document.
 *
 *    megatron   PREFIX.bin and PREFIX.idx, Megatron-LM's MMIDIDX version 1 (data/corpus.h draws it), u16 or
 *               i32. A document is the sequences that the index counts to it, joined; its EOD, where there is
 *               one, ends it. Named by PREFIX, PREFIX.bin or PREFIX.idx.
 *    llmc       llm.c's .bin: 256 i32 (magic 20240520, version 1, number of tokens, zeros), then u16 ids; EOD
 *               stands BEFORE each document. llm.c cuts documents where a file is full, so ids before a
 *               file's first EOD go on with the last document of the file before it (in order of path), in
 *               the first file they are one of their own.
 *    nanogpt    nanoGPT's .bin: u16 ids and nothing else; EOD stands after each document. What follows the
 *               last EOD is a document too.
 *
 * An EOD within a Megatron-LM document ends it, and what follows is another. Documents of no ids are told as
 * such (count 0). Everything is little-endian. Sizes, offsets and ids are checked before they are used;
 * STATUS_CORRUPT names file and byte. Memory: a MiB or so, and the longest document.
 */
#ifndef DATA_TOKEN_FILES_H
#define DATA_TOKEN_FILES_H

#include "data/input.h"

enum token_format { TOKEN_FORMAT_NONE, TOKEN_FORMAT_MEGATRON, TOKEN_FORMAT_LLMC, TOKEN_FORMAT_NANOGPT };

enum { LLMC_MAGIC = 20240520, LLMC_VERSION = 1, LLMC_HEADER = 1024 /* bytes */ };

const char *token_format_name(enum token_format format); /* "megatron", ... */

/* The files of these names, in order of path, each once; both of a Megatron-LM pair. Free with
 * input_list_close, on failure too. */
enum status token_files_list(enum token_format format, const char *const *names /* [count] */, size_t count,
	struct input_list *out) MUST_USE;

/* True for those that hold ids (not a .idx). */
bool token_file_has_ids(enum token_format format, const struct input_file *file);

/* Checks a file's header and sizes. A part of it is any range of [*first, *end): documents of Megatron-LM's,
 * bytes of the others (then both are even), a document belonging to the part that it begins in. */
enum status token_file_measure(
	enum token_format format, const struct input_file *file, uint64_t *first, uint64_t *end) MUST_USE;

struct token_document {
	const uint32_t *ids; /* [count], without EOD; valid until the next call; NULL if too_long */
	size_t count;
	uint64_t offset; /* byte of its first id in the file */
	bool too_long;   /* more than `limit` ids */
};

/* One thread's, for any number of parts one after another. */
struct token_reader;

enum status token_reader_create(enum token_format format, uint32_t vocabulary, uint32_t eod, uint64_t limit,
	struct token_reader **out) MUST_USE;
void token_reader_destroy(struct token_reader *reader); /* NULL is fine */

/* Begins the part [begin, end) of files->files[file]; the list must outlive the reading. */
enum status token_reader_open(struct token_reader *reader, const struct input_list *files, size_t file,
	uint64_t begin, uint64_t end) MUST_USE;
enum status token_reader_next(
	struct token_reader *reader, struct token_document *document, bool *more) MUST_USE;
/* Bytes of the file that were read since it was opened, about. */
uint64_t token_reader_stored(const struct token_reader *reader);
/* Ends the part; STATUS_MISMATCH if the file is no longer as the list says. */
enum status token_reader_finish(struct token_reader *reader) MUST_USE;

#endif
