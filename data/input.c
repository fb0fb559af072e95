#include "data/input.h"

#include "common/file.h"
#include "common/memory.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

/* ---- the list ---- */

struct folder {
	dev_t device;
	ino_t inode;
	const struct folder *parent;
};

struct walk {
	struct input_list *list;
	size_t capacity;
	bool has_output;
	dev_t output_device;
	ino_t output_inode;
};

static bool ends_with(const char *name, size_t length, const char *suffix)
{
	size_t n = strlen(suffix);
	return length > n && strncasecmp(name + length - n, suffix, n) == 0;
}

/* A format that is surely not text, so that reading it as text would be a mistake. */
static const char *foreign_suffix(const char *path, size_t length)
{
	static const char *const suffixes[] = {".xz", ".bz2", ".lz4", ".lzma", ".br", ".7z", ".zip", ".rar",
		".tar", ".tgz", ".tar.gz", ".tar.zst", ".parquet", ".arrow", ".pdf"};
	for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++)
		if (ends_with(path, length, suffixes[i]))
			return suffixes[i];
	return NULL;
}

enum status input_file_classify(struct input_file *file)
{
	size_t length = strlen(file->path);
	const char *foreign = foreign_suffix(file->path, length);
	FAIL_IF(foreign, STATUS_UNSUPPORTED,
		"%s: cannot read %s files; unpack it to text or JSONL first (plain, .gz or .zst)", file->path,
		foreign);
	if (ends_with(file->path, length, ".gz")) {
		file->compression = INPUT_GZIP;
		length -= 3;
	} else if (ends_with(file->path, length, ".zst")) {
		file->compression = INPUT_ZSTD;
		length -= 4;
	}
	if (ends_with(file->path, length, ".jsonl") || ends_with(file->path, length, ".json"))
		file->kind = INPUT_JSONL;
	else
		file->kind = INPUT_TEXT;
	return STATUS_OK;
}

static uint64_t modification_time(const struct stat *info)
{
	return (uint64_t)info->st_mtim.tv_sec * 1000000000u + (uint64_t)info->st_mtim.tv_nsec;
}

/* Appends a file; `info` is NULL for standard input. */
static enum status append(struct walk *walk, const char *path, const struct stat *info)
{
	struct input_list *list = walk->list;
	TRY(memory_grow((void **)&list->files, &walk->capacity, list->count + 1, sizeof *list->files,
		"the list of inputs"));
	struct input_file *file = &list->files[list->count];
	*file = (struct input_file){.path = strdup(path), .standard_input = !info};
	FAIL_IF(!file->path, STATUS_MEMORY, "no memory for the list of inputs");
	list->count++;
	if (!info)
		return STATUS_OK;
	file->bytes = (uint64_t)info->st_size;
	file->modified = modification_time(info);
	return input_file_classify(file);
}

static enum status visit(struct walk *walk, const char *path, const struct folder *parent);

static enum status visit_names(
	struct walk *walk, const char *path, const struct folder *here, char *const *names, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		char *child;
		if (names[i][0] == '.')
			continue;
		TRY(path_join(&child, path, names[i]));
		enum status status = visit(walk, child, here);
		free(child);
		TRY(status);
	}
	return STATUS_OK;
}

static bool has_name(char *const *names, size_t count, const char *wanted)
{
	for (size_t i = 0; i < count; i++)
		if (strcmp(names[i], wanted) == 0)
			return true;
	return false;
}

/* Files by which one knows that a folder's files, whatever their names say, are no text. */
static enum status check_text(const char *path, char *const *names, size_t count)
{
	FAIL_IF(has_name(names, count, "corpus.json") && has_name(names, count, "00000.key"), STATUS_USAGE,
		"%s: is a corpus, not text; name the files or folders of text beside it (`ferry merge` joins "
		"corpora)",
		path);
	FAIL_IF(has_name(names, count, "config.json") && has_name(names, count, "model.safetensors"),
		STATUS_USAGE, "%s: is a model, not text; name the files or folders of text beside it", path);
	return STATUS_OK;
}

static enum status visit_folder(
	struct walk *walk, const char *path, const struct stat *info, const struct folder *parent)
{
	struct folder here = {.device = info->st_dev, .inode = info->st_ino, .parent = parent};
	if (walk->has_output && here.device == walk->output_device && here.inode == walk->output_inode) {
		FAIL_IF(!parent, STATUS_USAGE, "%s: is both an input and the output; choose another --output",
			path);
		return STATUS_OK;
	}
	for (const struct folder *up = parent; up; up = up->parent)
		FAIL_IF(up->device == here.device && up->inode == here.inode, STATUS_USAGE,
			"%s: is a symbolic link to a folder that holds it; remove the link or name the "
			"files",
			path);
	char **names;
	size_t count;
	TRY(directory_list(path, &names, &count));
	enum status status = check_text(path, names, count);
	if (status == STATUS_OK)
		status = visit_names(walk, path, &here, names, count);
	directory_list_free(names, count);
	return status;
}

static enum status visit(struct walk *walk, const char *path, const struct folder *parent)
{
	struct stat info;
	TRY(file_stat(path, &info));
	if (S_ISDIR(info.st_mode))
		return visit_folder(walk, path, &info, parent);
	FAIL_IF(!S_ISREG(info.st_mode), STATUS_USAGE,
		"%s: is not a file or a folder; a pipe is read as JSONL through standard input (-)", path);
	return append(walk, path, &info);
}

static int compare_paths(const void *a, const void *b)
{
	return strcmp(((const struct input_file *)a)->path, ((const struct input_file *)b)->path);
}

static void sort_unique(struct input_list *list)
{
	size_t kept = 0;
	if (list->count)
		qsort(list->files, list->count, sizeof *list->files, compare_paths);
	for (size_t i = 0; i < list->count; i++) {
		if (kept && strcmp(list->files[kept - 1].path, list->files[i].path) == 0) {
			free(list->files[i].path);
			continue;
		}
		list->files[kept++] = list->files[i];
		list->bytes += list->files[i].bytes;
	}
	list->count = kept;
}

enum status input_list_open(
	const char *const *paths, size_t path_count, const char *output, struct input_list *out)
{
	struct walk walk = {.list = out};
	struct stat info;
	*out = (struct input_list){0};
	if (output && stat(output, &info) == 0) {
		walk.has_output = true;
		walk.output_device = info.st_dev;
		walk.output_inode = info.st_ino;
	}
	for (size_t i = 0; i < path_count; i++) {
		if (strcmp(paths[i], "-") == 0)
			TRY(append(&walk, "-", NULL));
		else
			TRY(visit(&walk, paths[i], NULL));
	}
	sort_unique(out);
	return STATUS_OK;
}

void input_list_close(struct input_list *list)
{
	for (size_t i = 0; i < list->count; i++)
		free(list->files[i].path);
	free(list->files);
	*list = (struct input_list){0};
}

bool input_list_has_standard_input(const struct input_list *list)
{
	for (size_t i = 0; i < list->count; i++)
		if (list->files[i].standard_input)
			return true;
	return false;
}

/* ---- bytes of a file, decompressed ---- */

enum { LARGE_BUFFER = 8 << 20, CHUNK = 1 << 20, SMALL_CHUNK = 64 << 10, PACKED_CHUNK = 256 << 10 };

struct input_reader {
	const struct input_file *file;
	int fd;          /* -1 when no file is open */
	uint64_t stored; /* bytes of the file read */
	uint64_t begin, end;
	const char *separator;
	size_t separator_bytes; /* 0: the file is one record */
	uint64_t limit;

	/* records */
	char *buffer;
	size_t capacity;    /* without the padding */
	size_t start, fill; /* buffer[start, fill) is read and not handed out */
	size_t scanned;     /* no separator begins in buffer[start, scanned) */
	uint64_t offset;    /* of buffer[start] in the file */
	uint64_t lines;
	bool passing_over; /* in a record longer than the limit */
	bool file_ended, done;

	/* decompression */
	uint8_t *packed; /* [PACKED_CHUNK] */
	size_t packed_at, packed_bytes;
	bool packed_ended;
	bool in_frame; /* a frame or member has begun and not ended */
	z_stream gzip;
	bool gzip_open;
	ZSTD_DCtx *zstd;
};

enum status input_reader_create(struct input_reader **out)
{
	TRY(memory_alloc((void **)out, 1, sizeof **out, "an input reader"));
	(*out)->fd = -1;
	return STATUS_OK;
}

static void close_file(struct input_reader *reader)
{
	if (reader->fd > 0)
		(void)file_system->close(reader->fd);
	reader->fd = -1;
}

void input_reader_destroy(struct input_reader *reader)
{
	if (!reader)
		return;
	close_file(reader);
	if (reader->gzip_open)
		inflateEnd(&reader->gzip);
	ZSTD_freeDCtx(reader->zstd);
	free(reader->packed);
	free(reader->buffer);
	free(reader);
}

static enum status open_compressed(struct input_reader *reader)
{
	reader->packed_at = reader->packed_bytes = 0;
	reader->packed_ended = reader->in_frame = false;
	if (!reader->packed)
		TRY(memory_alloc((void **)&reader->packed, 1, PACKED_CHUNK, "an input buffer"));
	if (reader->file->compression == INPUT_ZSTD) {
		if (!reader->zstd)
			reader->zstd = ZSTD_createDCtx();
		FAIL_IF(!reader->zstd, STATUS_MEMORY, "no memory to decompress");
		ZSTD_DCtx_reset(reader->zstd, ZSTD_reset_session_only);
		return STATUS_OK;
	}
	if (reader->gzip_open)
		inflateEnd(&reader->gzip);
	reader->gzip = (z_stream){0};
	reader->gzip_open = inflateInit2(&reader->gzip, 15 + 16) == Z_OK;
	FAIL_IF(!reader->gzip_open, STATUS_MEMORY, "no memory to decompress");
	return STATUS_OK;
}

enum status input_reader_open(struct input_reader *reader, const struct input_file *file, uint64_t begin,
	uint64_t end, const char *separator, uint64_t limit)
{
	close_file(reader);
	reader->file = file;
	reader->begin = begin;
	reader->end = end;
	reader->separator = file->kind == INPUT_JSONL ? "\n" : separator ? separator : "";
	reader->separator_bytes = strlen(reader->separator);
	reader->limit = limit;
	reader->start = reader->fill = reader->scanned = 0;
	reader->stored = reader->lines = 0;
	reader->file_ended = reader->done = false;
	if (file->standard_input)
		reader->fd = STDIN_FILENO;
	else
		TRY(file_open_read(file->path, &reader->fd));
	/* The byte before the part tells whether a line begins with the part: pass over up to the newline. */
	reader->passing_over = begin > 0;
	reader->offset = begin > 0 ? begin - 1 : 0;
	if (file->compression != INPUT_PLAIN) {
		assert(begin == 0);
		return open_compressed(reader);
	}
	if (begin > 0 && lseek(reader->fd, (off_t)reader->offset, SEEK_SET) < 0)
		return error_set_errno(STATUS_IO, "%s: cannot seek to byte %llu", file->path,
			(unsigned long long)reader->offset);
	return STATUS_OK;
}

static enum status refill_packed(struct input_reader *reader)
{
	if (reader->packed_at < reader->packed_bytes || reader->packed_ended)
		return STATUS_OK;
	reader->packed_at = 0;
	TRY(file_read_some(
		reader->fd, reader->file->path, reader->packed, PACKED_CHUNK, &reader->packed_bytes));
	reader->packed_ended = reader->packed_bytes < PACKED_CHUNK;
	reader->stored += reader->packed_bytes;
	return STATUS_OK;
}

static enum status packed_error(const struct input_reader *reader, const char *what)
{
	return error_set(STATUS_CORRUPT, "%s: near byte %llu: %s; the file is damaged", reader->file->path,
		(unsigned long long)(reader->stored - (reader->packed_bytes - reader->packed_at)), what);
}

static enum status inflate_some(struct input_reader *reader, char *to, size_t room, size_t *made)
{
	z_stream *stream = &reader->gzip;
	if (!reader->in_frame) {
		/* gzip allows zeros after the last member (tapes); anything else must be another member. */
		while (reader->stored > 0 && reader->packed_at < reader->packed_bytes &&
			reader->packed[reader->packed_at] == 0 && stream->total_in > 0)
			reader->packed_at++;
		if (reader->packed_at == reader->packed_bytes)
			return STATUS_OK;
		if (inflateReset(stream) != Z_OK)
			return packed_error(reader, "cannot restart decompression");
		reader->in_frame = true;
	}
	stream->next_in = reader->packed + reader->packed_at;
	stream->avail_in = (uInt)(reader->packed_bytes - reader->packed_at);
	stream->next_out = (Bytef *)to;
	stream->avail_out = (uInt)room;
	int result = inflate(stream, Z_NO_FLUSH);
	reader->packed_at = reader->packed_bytes - stream->avail_in;
	*made = room - stream->avail_out;
	if (result == Z_STREAM_END)
		reader->in_frame = false;
	else if (result != Z_OK && result != Z_BUF_ERROR)
		return packed_error(reader, stream->msg ? stream->msg : "not gzip");
	return STATUS_OK;
}

static enum status unzstd_some(struct input_reader *reader, char *to, size_t room, size_t *made)
{
	ZSTD_inBuffer in = {reader->packed, reader->packed_bytes, reader->packed_at};
	ZSTD_outBuffer out = {to, room, 0};
	size_t result = ZSTD_decompressStream(reader->zstd, &out, &in);
	bool moved = out.pos || in.pos != reader->packed_at;
	reader->packed_at = in.pos;
	*made = out.pos;
	FAIL_IF(ZSTD_getErrorCode(result) == ZSTD_error_frameParameter_windowTooLarge, STATUS_UNSUPPORTED,
		"%s: is compressed with a window of more than 128 MiB; unpack it first: zstd -d --long=31",
		reader->file->path);
	if (ZSTD_isError(result))
		return packed_error(reader, ZSTD_getErrorName(result));
	if (moved)
		reader->in_frame = result != 0;
	return STATUS_OK;
}

/* Up to `room` bytes of the decompressed file; none only at its end. */
static enum status read_compressed(struct input_reader *reader, char *to, size_t room, size_t *got)
{
	*got = 0;
	while (*got < room) {
		size_t made = 0;
		TRY(refill_packed(reader));
		bool dry = reader->packed_at == reader->packed_bytes;
		if (reader->stored == 0)
			return packed_error(reader, "it is empty, which compressed data never is");
		if (dry && !reader->in_frame)
			break;
		if (reader->file->compression == INPUT_GZIP)
			TRY(inflate_some(reader, to + *got, room - *got, &made));
		else
			TRY(unzstd_some(reader, to + *got, room - *got, &made));
		if (dry && made == 0 && reader->in_frame)
			return packed_error(reader, "it ends in the middle of the compressed data");
		*got += made;
	}
	return STATUS_OK;
}

static enum status read_plain(struct input_reader *reader, char *to, size_t room, size_t *got)
{
	/* A part is read up to its end in large pieces, and then in small ones to the end of its last line.
	 */
	uint64_t at = reader->offset + (reader->fill - reader->start);
	if (reader->end != UINT64_MAX) {
		uint64_t left = at < reader->end ? reader->end - at : 0;
		if (left < SMALL_CHUNK)
			left = SMALL_CHUNK;
		if (room > left)
			room = (size_t)left;
	}
	TRY(file_read_some(reader->fd, reader->file->path, to, room, got));
	reader->stored += *got;
	return STATUS_OK;
}

/* ---- records ---- */

/* To hold `bytes` and the padding. */
static enum status grow_buffer(char **buffer, size_t *capacity, size_t bytes)
{
	size_t whole = *buffer ? *capacity + INPUT_PADDING : 0;
	TRY(memory_grow((void **)buffer, &whole, bytes + INPUT_PADDING, 1, "an input buffer"));
	*capacity = whole - INPUT_PADDING;
	return STATUS_OK;
}

/* Reads more behind buffer[fill), making room first. */
static enum status refill(struct input_reader *reader)
{
	if (reader->start > 0) {
		memmove(reader->buffer, reader->buffer + reader->start, reader->fill - reader->start);
		reader->fill -= reader->start;
		reader->scanned -= reader->start;
		reader->start = 0;
	}
	/* Twice the chunk at first, so that a record that straddles two chunks needs no growth. */
	if (!reader->buffer || reader->fill + CHUNK > reader->capacity)
		TRY(grow_buffer(&reader->buffer, &reader->capacity, reader->fill + 2 * CHUNK));
	size_t got;
	char *to = reader->buffer + reader->fill;
	size_t room = reader->capacity - reader->fill;
	if (room > CHUNK)
		room = CHUNK;
	if (reader->file->compression == INPUT_PLAIN)
		TRY(read_plain(reader, to, room, &got));
	else
		TRY(read_compressed(reader, to, room, &got));
	reader->file_ended = got == 0;
	memset(to + got, 0, INPUT_PADDING);
	reader->fill += got;
	return STATUS_OK;
}

/* The separator at or after `scanned`; NULL when there is none in the buffer yet. */
static char *find_separator(struct input_reader *reader)
{
	size_t bytes = reader->fill - reader->scanned;
	if (reader->separator_bytes == 0 || bytes == 0)
		return NULL;
	char *from = reader->buffer + reader->scanned;
	if (reader->separator_bytes == 1)
		return memchr(from, reader->separator[0], bytes);
	return memmem(from, bytes, reader->separator, reader->separator_bytes);
}

static void consume(struct input_reader *reader, size_t bytes)
{
	reader->start += bytes;
	reader->offset += bytes;
	if (reader->scanned < reader->start)
		reader->scanned = reader->start;
}

/* Drops what is buffered of an overlong record, except what may begin a separator. */
static void drop_scanned(struct input_reader *reader)
{
	consume(reader, reader->scanned - reader->start);
}

/* Advances until the current record is whole: *bytes long, and *tail more of separator. */
static enum status find_end(struct input_reader *reader, size_t *bytes, size_t *tail, bool *too_long)
{
	*too_long = false;
	for (;;) {
		char *found = find_separator(reader);
		if (found) {
			*bytes = (size_t)(found - (reader->buffer + reader->start));
			*tail = reader->separator_bytes;
			break;
		}
		size_t keep = reader->separator_bytes ? reader->separator_bytes - 1 : 0;
		if (reader->fill - reader->scanned > keep)
			reader->scanned = reader->fill - keep;
		if (reader->scanned - reader->start > reader->limit)
			*too_long = true;
		if (*too_long || reader->passing_over)
			drop_scanned(reader);
		if (reader->file_ended) {
			*bytes = reader->fill - reader->start;
			*tail = 0;
			break;
		}
		TRY(refill(reader));
	}
	if (*bytes > reader->limit)
		*too_long = true;
	return STATUS_OK;
}

static enum status pass_over_first(struct input_reader *reader)
{
	size_t bytes, tail;
	bool too_long;
	TRY(find_end(reader, &bytes, &tail, &too_long));
	consume(reader, bytes + tail);
	reader->passing_over = false;
	if (!tail)
		reader->done = true;
	return STATUS_OK;
}

enum status input_reader_next(struct input_reader *reader, struct input_record *record, bool *more)
{
	*more = false;
	if (reader->passing_over)
		TRY(pass_over_first(reader));
	if (reader->done || reader->offset >= reader->end)
		return STATUS_OK;
	size_t bytes, tail;
	uint64_t offset = reader->offset;
	*record = (struct input_record){.offset = offset};
	TRY(find_end(reader, &bytes, &tail, &record->too_long));
	if (!tail)
		reader->done = true;
	bool lines = reader->file->kind == INPUT_JSONL;
	if (lines && !tail && bytes == 0 && !record->too_long)
		return STATUS_OK; /* the file ended with a newline, or is empty */
	if (lines)
		record->line = ++reader->lines;
	if (!record->too_long) {
		record->data = reader->buffer + reader->start;
		record->bytes = bytes;
	}
	consume(reader, bytes + tail);
	*more = true;
	return STATUS_OK;
}

/* ---- batches ---- */

/* Whether the next record ends in the buffer: then input_reader_next leaves the buffer where it is. */
static bool is_buffered(struct input_reader *reader)
{
	char *found = reader->done || reader->offset >= reader->end ? NULL : find_separator(reader);
	if (found)
		reader->scanned = (size_t)(found - reader->buffer);
	return found;
}

/* The buffer becomes the batch's, and the batch's the reader's, with what is not handed out yet. */
static enum status hand_over(struct input_reader *reader, struct input_batch *batch)
{
	size_t rest = reader->fill - reader->start;
	if (!batch->buffer || batch->capacity < rest)
		TRY(grow_buffer(&batch->buffer, &batch->capacity, rest + 2 * CHUNK));
	memcpy(batch->buffer, reader->buffer + reader->start, rest + INPUT_PADDING);
	char *buffer = reader->buffer;
	size_t capacity = reader->capacity;
	reader->buffer = batch->buffer;
	reader->capacity = batch->capacity;
	reader->scanned -= reader->start;
	reader->start = 0;
	reader->fill = rest;
	batch->buffer = buffer;
	batch->capacity = capacity;
	return STATUS_OK;
}

enum status input_reader_batch(struct input_reader *reader, struct input_batch *batch, bool *more)
{
	struct input_record record;
	bool another;
	batch->count = 0;
	TRY(input_reader_next(reader, &record, more));
	for (another = *more; another;) {
		TRY(memory_grow((void **)&batch->records, &batch->record_capacity, batch->count + 1,
			sizeof *batch->records, "a batch of records"));
		batch->records[batch->count++] = record;
		another = is_buffered(reader);
		if (another)
			TRY(input_reader_next(reader, &record, &another));
	}
	return *more ? hand_over(reader, batch) : STATUS_OK;
}

void input_batch_free(struct input_batch *batch)
{
	free(batch->records);
	free(batch->buffer);
	*batch = (struct input_batch){0};
}

void input_batch_trim(struct input_batch *batch)
{
	if (batch->capacity > LARGE_BUFFER)
		input_batch_free(batch);
}

uint64_t input_reader_stored(const struct input_reader *reader)
{
	return reader->stored;
}

uint64_t input_reader_lines(const struct input_reader *reader)
{
	return reader->lines;
}

enum status input_reader_finish(struct input_reader *reader)
{
	const struct input_file *file = reader->file;
	struct stat info;
	if (file->standard_input) {
		reader->fd = -1;
		return STATUS_OK;
	}
	bool known = fstat(reader->fd, &info) == 0;
	int fd = reader->fd;
	reader->fd = -1;
	TRY(file_close(fd, file->path));
	FAIL_IF(!known || (uint64_t)info.st_size != file->bytes || modification_time(&info) != file->modified,
		STATUS_MISMATCH, "%s: changed while it was read; run again when it is complete", file->path);
	return STATUS_OK;
}
