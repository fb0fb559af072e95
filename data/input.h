/*
 * input.h: the files that text comes in, and the records (JSONL lines, documents of text files) in them.
 *
 * Kinds go by name, without regard to case: NAME.jsonl and NAME.json hold one JSON object a line; any other
 * name is text; either may end in .gz (gzip, members back to back) or .zst (zstd, frames back to back), which
 * is decompressed as it is read, in bounded memory: zstd's window comes on top, up to 128 MiB for what
 * `zstd --long` or `--ultra` packed; a larger one is STATUS_UNSUPPORTED. "-" is JSONL on standard input.
 * Folders are read recursively: names that start with '.' are skipped, as is the output directory within one;
 * what is neither a file nor a folder, and formats known not to be text (.xz, .zip, .parquet, ...), are
 * errors, as is a folder that is a corpus or a model: nothing else is skipped.
 * A symbolic link to a folder that holds it is an error that names it.
 *
 * The list is sorted by path in byte order and names each path once, so it does not depend on the order of
 * the arguments or of the directory.
 */
#ifndef DATA_INPUT_H
#define DATA_INPUT_H

#include "common/error.h"

#include <stdint.h>

enum input_kind { INPUT_JSONL, INPUT_TEXT };
enum input_compression { INPUT_PLAIN, INPUT_GZIP, INPUT_ZSTD };

struct input_file {
	char *path; /* "-" for standard input */
	uint64_t bytes;
	uint64_t modified; /* nanoseconds since 1970 */
	enum input_kind kind;
	enum input_compression compression;
	bool standard_input;
};

struct input_list {
	struct input_file *files; /* [count] */
	size_t count;
	uint64_t bytes; /* of all files, as stored */
};

/* Sets kind and compression by the path; a format that is known not to be text is STATUS_UNSUPPORTED. */
enum status input_file_classify(struct input_file *file) MUST_USE;

/* `output` (may be NULL): a folder to skip. Free the list with input_list_close, on failure too. */
enum status input_list_open(const char *const *paths /* [path_count] */, size_t path_count,
	const char *output, struct input_list *out) MUST_USE;
void input_list_close(struct input_list *list);
/* Is "-" among them? */
bool input_list_has_standard_input(const struct input_list *list);

/*
 * Reading records. One reader serves one thread, for any number of files one after another; its buffer is
 * kept, and grows to the largest record (at most `limit` bytes and a chunk; longer records are passed over
 * without being held).
 *
 * A plain JSONL file can be read in parts: the part [begin, end) has the lines that begin in it, so parts
 * that meet have every line once.
 */
enum { INPUT_PADDING = 64 }; /* readable bytes after a record */

struct input_record {
	const char *data; /* valid until the next call */
	size_t bytes;
	uint64_t offset; /* of its first byte in the file, after decompression */
	uint64_t line;   /* JSONL: its number within the part, from 1 */
	bool too_long;   /* longer than the limit; data is NULL */
};

struct input_reader;

enum status input_reader_create(struct input_reader **out) MUST_USE;
void input_reader_destroy(struct input_reader *reader);

/*
 * Begins `file` (which must outlive the reading), bytes [begin, end) of it; [0, UINT64_MAX) is all of it, as
 * it must be for text and for compressed files. `separator` cuts text files (NULL or "": the file is one
 * record); it is dropped. JSONL is cut at newlines; a newline at the end of the file begins no record.
 */
enum status input_reader_open(struct input_reader *reader, const struct input_file *file, uint64_t begin,
	uint64_t end, const char *separator, uint64_t limit) MUST_USE;
/* *more is false when there are no more records. */
enum status input_reader_next(struct input_reader *reader, struct input_record *record, bool *more) MUST_USE;

/* Records that are read together and lie in memory of their own: one thread reads while others work on what
 * it has read. Begin with zeros. */
struct input_batch {
	struct input_record *records; /* [count] */
	size_t count;
	size_t record_capacity; /* the reader's from here on */
	char *buffer;
	size_t capacity;
};
void input_batch_free(struct input_batch *batch);
/* Its records are done with: frees its memory if a large record made it unusually much. */
void input_batch_trim(struct input_batch *batch);
/* The next records, about a MiB of them and at least one, in place of those that the batch had; *more is
 * false when there are none. They are valid until the batch's next use. */
enum status input_reader_batch(struct input_reader *reader, struct input_batch *batch, bool *more) MUST_USE;
/* Bytes of the file (as stored) read since it was opened. */
uint64_t input_reader_stored(const struct input_reader *reader);
/* Lines that began in the part; known when there are no more records. */
uint64_t input_reader_lines(const struct input_reader *reader);
/* Ends the file; STATUS_MISMATCH if it is no longer as the list says (it changed while it was read). */
enum status input_reader_finish(struct input_reader *reader) MUST_USE;

#endif
