#include "data/token_files.h"

#include "common/endian.h"
#include "common/file.h"
#include "common/memory.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	WINDOW_BYTES = 1 << 18,
	IDX_HEADER = 34,
	IDX_DTYPE = 17,
	DTYPE_I32 = 4,
	DTYPE_U16 = 8,
	NEIGHBOURS = 64 /* most files that one llm.c document runs through */
};

const char *token_format_name(enum token_format format)
{
	static const char *const names[] = {"text", "megatron", "llmc", "nanogpt"};
	return names[format];
}

/* ---- the files ---- */

static bool ends_in(const char *path, const char *suffix)
{
	size_t length = strlen(path), tail = strlen(suffix);
	return length > tail && strcmp(path + length - tail, suffix) == 0;
}

/* PREFIX.suffix of PREFIX, PREFIX.bin or PREFIX.idx; malloc'ed. */
static enum status megatron_path(const char *name, const char *suffix, char **out)
{
	size_t length = strlen(name);
	if (ends_in(name, ".bin") || ends_in(name, ".idx"))
		length -= 4;
	if (asprintf(out, "%.*s%s", (int)length, name, suffix) < 0) {
		*out = NULL;
		return error_set(STATUS_MEMORY, "no memory for a path");
	}
	return STATUS_OK;
}

static enum status list_paths(char *const *paths, size_t count, struct input_list *out)
{
	for (size_t i = 0; i < count; i++) {
		struct stat info;
		TRY(file_stat(paths[i], &info));
		FAIL_IF(!S_ISREG(info.st_mode), STATUS_USAGE, "%s: is not a file", paths[i]);
	}
	TRY(input_list_open((const char *const *)paths, count, NULL, out));
	/* Whatever their names. */
	for (size_t i = 0; i < out->count; i++) {
		out->files[i].kind = INPUT_TEXT;
		out->files[i].compression = INPUT_PLAIN;
	}
	return STATUS_OK;
}

enum status token_files_list(
	enum token_format format, const char *const *names, size_t count, struct input_list *out)
{
	size_t each = format == TOKEN_FORMAT_MEGATRON ? 2 : 1;
	char **paths;
	*out = (struct input_list){0};
	TRY(memory_alloc((void **)&paths, count * each, sizeof *paths, "the list of inputs"));
	enum status status = STATUS_OK;
	for (size_t i = 0; i < count && status == STATUS_OK; i++) {
		if (format != TOKEN_FORMAT_MEGATRON) {
			paths[i] = strdup(names[i]);
			if (!paths[i])
				status = error_set(STATUS_MEMORY, "no memory for a path");
			continue;
		}
		status = megatron_path(names[i], ".bin", &paths[2 * i]);
		if (status == STATUS_OK)
			status = megatron_path(names[i], ".idx", &paths[2 * i + 1]);
	}
	if (status == STATUS_OK)
		status = list_paths(paths, count * each, out);
	for (size_t i = 0; i < count * each; i++)
		free(paths[i]);
	free(paths);
	return status;
}

bool token_file_has_ids(enum token_format format, const struct input_file *file)
{
	return format != TOKEN_FORMAT_MEGATRON || !ends_in(file->path, ".idx");
}

/* ---- reading through a window ---- */

struct window {
	int fd; /* -1: closed */
	const char *path;
	uint64_t size; /* of the file */
	uint64_t start;
	size_t bytes; /* in the buffer, of the file from `start` on */
	uint8_t *data;
	size_t capacity;
};

static enum status window_open(struct window *window, const char *path)
{
	struct stat info;
	TRY(file_stat(path, &info));
	window->size = (uint64_t)info.st_size;
	window->path = path;
	window->bytes = 0;
	window->fd = -1;
	TRY(memory_grow((void **)&window->data, &window->capacity, WINDOW_BYTES, 1, "a window on a file"));
	return file_open_read(path, &window->fd);
}

static void window_close(struct window *window)
{
	if (window->fd >= 0)
		(void)file_system->close(window->fd); /* only read: closing it cannot lose anything */
	window->fd = -1;
	window->bytes = 0;
}

static void window_free(struct window *window)
{
	window_close(window);
	free(window->data);
	window->data = NULL;
}

/* Bytes of the file from `offset` (before its end) on, as many as are at hand, at least `least` where the
 * file has them; least <= WINDOW_BYTES. */
static enum status window_at(
	struct window *window, uint64_t offset, size_t least, const uint8_t **data, size_t *bytes)
{
	if (offset < window->start || offset + least > window->start + window->bytes) {
		uint64_t left = window->size - offset;
		size_t wanted = left < WINDOW_BYTES ? (size_t)left : WINDOW_BYTES;
		window->bytes = 0;
		TRY(file_read_at(window->fd, window->path, window->data, wanted, offset));
		window->start = offset;
		window->bytes = wanted;
	}
	*data = window->data + (offset - window->start);
	*bytes = window->bytes - (size_t)(offset - window->start);
	return STATUS_OK;
}

static enum status window_number(struct window *window, uint64_t offset, size_t width, uint64_t *out)
{
	const uint8_t *data;
	size_t bytes;
	FAIL_IF(offset > window->size || width > window->size - offset, STATUS_CORRUPT,
		"%s: ends at byte %" PRIu64 ", before the number at byte %" PRIu64, window->path,
		window->size, offset);
	TRY(window_at(window, offset, width, &data, &bytes));
	*out = width == 1 ? data[0] : width == 4 ? load_le32(data) : load_le64(data);
	return STATUS_OK;
}

/* ---- headers ---- */

/* An index, its sizes checked. */
struct index {
	uint64_t sequences, documents;
	uint64_t offsets, ends; /* where the sections begin */
	unsigned item;          /* bytes of an id */
};

static enum status read_index(struct window *window, struct index *index)
{
	const uint8_t *header;
	size_t bytes;
	uint64_t entries;
	const char *path = window->path;
	FAIL_IF(window->size < IDX_HEADER, STATUS_CORRUPT,
		"%s: is %" PRIu64 " bytes, shorter than an index's header (%d)", path, window->size,
		IDX_HEADER);
	TRY(window_at(window, 0, IDX_HEADER, &header, &bytes));
	FAIL_IF(memcmp(header, "MMIDIDX\0", 9) != 0, STATUS_CORRUPT,
		"%s: does not begin as an index of Megatron-LM (bytes 0..8 are not MMIDIDX)", path);
	FAIL_IF(load_le64(header + 9) != 1, STATUS_UNSUPPORTED, "%s: index version %" PRIu64 ", not 1", path,
		load_le64(header + 9));
	FAIL_IF(header[IDX_DTYPE] != DTYPE_I32 && header[IDX_DTYPE] != DTYPE_U16, STATUS_UNSUPPORTED,
		"%s: byte 17: ids of type %d; only u16 (8) and i32 (4) are read", path, header[IDX_DTYPE]);
	index->item = header[IDX_DTYPE] == DTYPE_U16 ? 2 : 4;
	index->sequences = load_le64(header + 18);
	entries = load_le64(header + 26);
	FAIL_IF(index->sequences > window->size / 12 || entries < 1 || entries > window->size / 8 ||
			IDX_HEADER + 12 * index->sequences + 8 * entries > window->size,
		STATUS_CORRUPT,
		"%s: says (bytes 18..33) that it has %" PRIu64 " sequences and %" PRIu64
		" document ends, more than its %" PRIu64 " bytes hold",
		path, index->sequences, entries, window->size);
	FAIL_IF(IDX_HEADER + 12 * index->sequences + 8 * entries != window->size, STATUS_CORRUPT,
		"%s: is %" PRIu64 " bytes, not the %" PRIu64
		" that its header (bytes 18..33) tells; it is damaged, or multimodal, which is not read",
		path, window->size, IDX_HEADER + 12 * index->sequences + 8 * entries);
	index->documents = entries - 1;
	index->offsets = IDX_HEADER + 4 * index->sequences;
	index->ends = IDX_HEADER + 12 * index->sequences;
	return STATUS_OK;
}

static enum status check_llmc(struct window *window)
{
	const uint8_t *header;
	size_t bytes;
	const char *path = window->path;
	FAIL_IF(window->size < LLMC_HEADER, STATUS_CORRUPT,
		"%s: is %" PRIu64 " bytes, shorter than llm.c's header (%d)", path, window->size,
		LLMC_HEADER);
	TRY(window_at(window, 0, LLMC_HEADER, &header, &bytes));
	FAIL_IF(load_le32(header) != LLMC_MAGIC, STATUS_CORRUPT,
		"%s: bytes 0..3 are %" PRIu32 ", not llm.c's %d for GPT-2 ids", path, load_le32(header),
		LLMC_MAGIC);
	FAIL_IF(load_le32(header + 4) != LLMC_VERSION, STATUS_UNSUPPORTED, "%s: version %" PRIu32 ", not %d",
		path, load_le32(header + 4), LLMC_VERSION);
	uint64_t tokens = load_le32(header + 8);
	FAIL_IF(window->size - LLMC_HEADER != tokens * 2, STATUS_CORRUPT,
		"%s: bytes 8..11 say %" PRIu64 " ids, but %" PRIu64 " bytes follow the header", path, tokens,
		window->size - LLMC_HEADER);
	return STATUS_OK;
}

static enum status measure(
	enum token_format format, struct window *window, const char *path, uint64_t *first, uint64_t *end)
{
	if (format == TOKEN_FORMAT_MEGATRON) {
		struct index index;
		char *index_path;
		TRY(megatron_path(path, ".idx", &index_path));
		enum status status = window_open(window, index_path);
		if (status == STATUS_OK)
			status = read_index(window, &index);
		free(index_path);
		*first = 0;
		if (status == STATUS_OK)
			*end = index.documents;
		return status;
	}
	TRY(window_open(window, path));
	*first = format == TOKEN_FORMAT_LLMC ? LLMC_HEADER : 0;
	*end = window->size;
	if (format == TOKEN_FORMAT_LLMC)
		TRY(check_llmc(window));
	FAIL_IF(*end % 2, STATUS_CORRUPT, "%s: is %" PRIu64 " bytes, which u16 ids cannot be", path, *end);
	return STATUS_OK;
}

enum status token_file_measure(
	enum token_format format, const struct input_file *file, uint64_t *first, uint64_t *end)
{
	struct window window = {.fd = -1};
	enum status status = measure(format, &window, file->path, first, end);
	window_free(&window);
	return status;
}

/* ---- the reader ---- */

struct token_reader {
	enum token_format format;
	uint32_t vocabulary, eod;
	uint64_t limit;
	const struct input_list *files;
	size_t file;
	uint64_t at, end; /* of the part: documents or bytes */
	uint64_t stored;

	struct window ids;
	uint32_t *document; /* [count] */
	size_t capacity, count;
	bool too_long;
	uint64_t offset; /* of the document's first id */
	bool leading;    /* at the first id of all of llm.c's files */

	/* Megatron-LM's */
	char *index_path;
	struct window lengths, offsets, ends; /* each on the index */
	struct index index;
	uint64_t sequence, sequence_end; /* of the document under way */
	uint64_t position, position_end; /* bytes of the sequence under way */
	bool under_way, gave;            /* the document; it has given one already, at an EOD within it */
};

enum status token_reader_create(enum token_format format, uint32_t vocabulary, uint32_t eod, uint64_t limit,
	struct token_reader **out)
{
	struct token_reader *reader;
	TRY(memory_alloc((void **)&reader, 1, sizeof *reader, "a reader of ids"));
	reader->format = format;
	reader->vocabulary = vocabulary;
	reader->eod = eod;
	reader->limit = limit;
	reader->ids.fd = reader->lengths.fd = reader->offsets.fd = reader->ends.fd = -1;
	*out = reader;
	return STATUS_OK;
}

static void close_files(struct token_reader *reader)
{
	window_close(&reader->ids);
	window_close(&reader->lengths);
	window_close(&reader->offsets);
	window_close(&reader->ends);
	free(reader->index_path);
	reader->index_path = NULL;
}

void token_reader_destroy(struct token_reader *reader)
{
	if (!reader)
		return;
	close_files(reader);
	window_free(&reader->ids);
	window_free(&reader->lengths);
	window_free(&reader->offsets);
	window_free(&reader->ends);
	free(reader->document);
	free(reader);
}

/*
 * Takes ids of the file [from, to) up to and with the first EOD, adds what stands before it to the document;
 * *next is where to go on, *ended says that it was an EOD.
 */
static enum status take_ids(
	struct token_reader *reader, uint64_t from, uint64_t to, unsigned item, uint64_t *next, bool *ended)
{
	*ended = false;
	*next = from;
	while (*next < to && !*ended) {
		const uint8_t *data;
		size_t bytes;
		TRY(window_at(&reader->ids, *next, item, &data, &bytes));
		size_t count = (to - *next < bytes ? (size_t)(to - *next) : bytes) / item, taken = 0;
		/* What is too long is passed over without being held. */
		if (!reader->too_long && reader->count + count <= reader->limit + WINDOW_BYTES)
			TRY(memory_grow((void **)&reader->document, &reader->capacity, reader->count + count,
				sizeof *reader->document, "a document's ids"));
		for (; taken < count && !*ended; taken++) {
			uint32_t id = item == 2 ? load_le16(data + taken * 2) : load_le32(data + taken * 4);
			FAIL_IF(id >= reader->vocabulary, STATUS_CORRUPT,
				"%s: byte %" PRIu64 ": id %" PRIu32 ", but the tokenizer has %" PRIu32
				" ids; is it the right one?",
				reader->ids.path, *next + taken * item, id, reader->vocabulary);
			*ended = id == reader->eod;
			if (*ended)
				continue;
			if (reader->count >= reader->limit)
				reader->too_long = true;
			if (!reader->too_long)
				reader->document[reader->count++] = id;
		}
		*next += taken * item;
		reader->stored += taken * item;
	}
	return STATUS_OK;
}

static void begin_document(struct token_reader *reader, uint64_t offset)
{
	reader->count = 0;
	reader->too_long = false;
	reader->offset = offset;
}

static void give_document(struct token_reader *reader, struct token_document *document, bool *more)
{
	*document = (struct token_document){.ids = reader->too_long ? NULL : reader->document,
		.count = reader->count,
		.offset = reader->offset,
		.too_long = reader->too_long};
	*more = true;
}

/* ---- ids with EODs between them: llm.c's and nanoGPT's ---- */

/* Whether the ids before an llm.c file's first EOD are its own: the last id before them is EOD, or there is
 * none. */
static enum status head_is_own(
	const struct token_reader *reader, struct window *before, bool *own, bool *leading)
{
	*own = *leading = true;
	for (size_t i = reader->file; i-- > 0;) {
		const uint8_t *data;
		size_t bytes;
		window_close(before);
		TRY(window_open(before, reader->files->files[i].path));
		TRY(check_llmc(before));
		if (before->size == LLMC_HEADER)
			continue;
		TRY(window_at(before, before->size - 2, 2, &data, &bytes));
		*leading = false;
		*own = load_le16(data) == reader->eod;
		return STATUS_OK;
	}
	return STATUS_OK;
}

/* Finds the first document that begins at `begin` or behind it. */
static enum status find_start(struct token_reader *reader, uint64_t first, uint64_t begin)
{
	bool ended = true;
	reader->at = begin;
	bool own = true;
	reader->leading = false;
	if (begin == first && reader->format == TOKEN_FORMAT_LLMC) {
		struct window before = {.fd = -1};
		enum status status = head_is_own(reader, &before, &own, &reader->leading);
		window_free(&before);
		TRY(status);
	}
	if (begin == first && own)
		return STATUS_OK;
	begin_document(reader, begin);
	reader->too_long = true; /* nothing is to be held */
	TRY(take_ids(reader, own ? begin - 2 : begin, reader->ids.size, 2, &reader->at, &ended));
	if (!ended)
		reader->at = UINT64_MAX; /* none */
	return STATUS_OK;
}

/* The document goes on in the files that follow, up to their first EOD. */
static enum status follow_document(struct token_reader *reader)
{
	bool ended = false;
	for (size_t i = reader->file + 1; i < reader->files->count && !ended; i++) {
		uint64_t next;
		FAIL_IF(i - reader->file > NEIGHBOURS, STATUS_CORRUPT,
			"%s: no EOD in it and in the %d files after it",
			reader->files->files[reader->file].path, NEIGHBOURS);
		window_close(&reader->ids);
		TRY(window_open(&reader->ids, reader->files->files[i].path));
		TRY(check_llmc(&reader->ids));
		TRY(take_ids(reader, LLMC_HEADER, reader->ids.size, 2, &next, &ended));
	}
	window_close(&reader->ids);
	return window_open(&reader->ids, reader->files->files[reader->file].path);
}

static enum status next_between(struct token_reader *reader, struct token_document *document, bool *more)
{
	bool ended;
	uint64_t start = reader->at;
	*more = false;
	if (start >= reader->end || start >= reader->ids.size)
		return STATUS_OK;
	begin_document(reader, start);
	TRY(take_ids(reader, start, reader->ids.size, 2, &reader->at, &ended));
	if (!ended && reader->format == TOKEN_FORMAT_LLMC)
		TRY(follow_document(reader));
	bool leading = reader->leading;
	reader->leading = false;
	if (leading && ended && reader->count == 0 && !reader->too_long)
		return next_between(reader, document, more); /* the very first EOD ends nothing */
	give_document(reader, document, more);
	return STATUS_OK;
}

/* ---- Megatron-LM's ---- */

static enum status open_index(struct token_reader *reader)
{
	TRY(megatron_path(reader->files->files[reader->file].path, ".idx", &reader->index_path));
	TRY(window_open(&reader->lengths, reader->index_path));
	TRY(window_open(&reader->offsets, reader->index_path));
	TRY(window_open(&reader->ends, reader->index_path));
	reader->under_way = false;
	return read_index(&reader->lengths, &reader->index);
}

static enum status begin_sequence(struct token_reader *reader)
{
	const struct index *index = &reader->index;
	uint64_t number = reader->sequence, length = 0, offset = 0;
	TRY(window_number(&reader->lengths, IDX_HEADER + 4 * number, 4, &length));
	TRY(window_number(&reader->offsets, index->offsets + 8 * number, 8, &offset));
	FAIL_IF(length > INT32_MAX || offset % index->item || offset > reader->ids.size ||
			length * index->item > reader->ids.size - offset,
		STATUS_CORRUPT,
		"%s: sequence %" PRIu64 " (bytes %" PRIu64 " and %" PRIu64 ") is %" PRIu64
		" ids from byte %" PRIu64 ", which are not in %s (%" PRIu64 " bytes)",
		reader->index_path, number, IDX_HEADER + 4 * number, index->offsets + 8 * number, length,
		offset, reader->ids.path, reader->ids.size);
	reader->position = offset;
	reader->position_end = offset + length * index->item;
	return STATUS_OK;
}

static enum status begin_indexed(struct token_reader *reader)
{
	const struct index *index = &reader->index;
	uint64_t number = reader->at;
	TRY(window_number(&reader->ends, index->ends + 8 * number, 8, &reader->sequence));
	TRY(window_number(&reader->ends, index->ends + 8 * (number + 1), 8, &reader->sequence_end));
	FAIL_IF(reader->sequence > reader->sequence_end || reader->sequence_end > index->sequences,
		STATUS_CORRUPT,
		"%s: byte %" PRIu64 ": document %" PRIu64 " is sequences %" PRIu64 " to %" PRIu64
		" of %" PRIu64,
		reader->index_path, index->ends + 8 * number, number, reader->sequence, reader->sequence_end,
		index->sequences);
	reader->position = reader->position_end = 0;
	reader->under_way = true;
	reader->gave = false;
	return STATUS_OK;
}

/* Ids of the document under way, up to an EOD or its end. */
static enum status take_indexed(struct token_reader *reader, bool *ended)
{
	*ended = false;
	begin_document(reader, reader->position);
	while (!*ended) {
		if (reader->position == reader->position_end) {
			if (reader->sequence == reader->sequence_end)
				return STATUS_OK;
			TRY(begin_sequence(reader));
			reader->sequence++;
			if (reader->count == 0 && !reader->too_long)
				reader->offset = reader->position;
		}
		TRY(take_ids(reader, reader->position, reader->position_end, reader->index.item,
			&reader->position, ended));
	}
	return STATUS_OK;
}

static enum status next_indexed(struct token_reader *reader, struct token_document *document, bool *more)
{
	*more = false;
	while (!*more) {
		bool ended;
		if (!reader->under_way && reader->at >= reader->end)
			return STATUS_OK;
		if (!reader->under_way)
			TRY(begin_indexed(reader));
		TRY(take_indexed(reader, &ended));
		/* Nothing after the last EOD is no document; nothing at all is an empty one. */
		if (ended || reader->count || reader->too_long || !reader->gave)
			give_document(reader, document, more);
		reader->gave = true;
		if (!ended) {
			reader->under_way = false;
			reader->at++;
		}
	}
	return STATUS_OK;
}

/* ---- parts ---- */

enum status token_reader_open(struct token_reader *reader, const struct input_list *files, size_t file,
	uint64_t begin, uint64_t end)
{
	close_files(reader);
	reader->files = files;
	reader->file = file;
	reader->at = begin;
	reader->end = end;
	reader->stored = 0;
	TRY(window_open(&reader->ids, files->files[file].path));
	if (reader->format == TOKEN_FORMAT_MEGATRON)
		return open_index(reader);
	return find_start(reader, reader->format == TOKEN_FORMAT_LLMC ? LLMC_HEADER : 0, begin);
}

enum status token_reader_next(struct token_reader *reader, struct token_document *document, bool *more)
{
	if (reader->format == TOKEN_FORMAT_MEGATRON)
		return next_indexed(reader, document, more);
	return next_between(reader, document, more);
}

uint64_t token_reader_stored(const struct token_reader *reader)
{
	return reader->stored;
}

enum status token_reader_finish(struct token_reader *reader)
{
	const struct input_file *file = &reader->files->files[reader->file];
	struct stat info;
	close_files(reader);
	TRY(file_stat(file->path, &info));
	FAIL_IF((uint64_t)info.st_size != file->bytes ||
			(uint64_t)info.st_mtim.tv_sec * 1000000000 + (uint64_t)info.st_mtim.tv_nsec !=
				file->modified,
		STATUS_MISMATCH, "%s: changed while it was read; run again when it is complete", file->path);
	return STATUS_OK;
}
