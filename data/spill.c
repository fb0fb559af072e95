#include "data/spill.h"

#include "common/endian.h"
#include "common/file.h"
#include "common/memory.h"

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	HEADER_BYTES = 24,
	SOURCED_BYTES = HEADER_BYTES + 20, /* a header with its place */
	SEGMENT_BYTES = 40,
	BLOCK_BYTES = 24,
	TRAILER_BYTES = 48,
	COUNTS = 16,
	REJECT_BYTES = 24,
	REJECT_BLOCK = 1 << 20,
};
static const char magic[8] = {'F', 'E', 'R', 'R', 'Y', 'S', 'P', 'L'};

struct segment {
	uint64_t offset, bytes, tokens, hash, documents;
};

struct block {
	uint64_t offset, bytes, hash;
};

struct pending {
	struct hash128 key;
	uint64_t first; /* of its tokens, in items */
	uint32_t tokens, bytes;
	struct spill_place place;
};

struct spill_writer {
	struct spill_format format;
	uint64_t memory;
	uint32_t buckets;
	struct file_writer *file; /* NULL between units */
	struct spill_counts counts;

	uint8_t *tokens; /* [token_capacity] items of item_bytes */
	size_t token_capacity, token_count;
	struct pending *documents; /* [document_count], in order of arrival */
	size_t document_capacity, document_count;

	uint32_t *order; /* [document_count]: documents by bucket */
	size_t order_capacity;
	size_t *bucket_end; /* [buckets + 1] */
	uint8_t *gathered;  /* one segment: headers and tokens */
	size_t gathered_capacity;

	struct segment *segments; /* [run][buckets] */
	size_t segment_capacity, runs;
	uint8_t *rejects; /* [reject_bytes], the block under way */
	size_t reject_capacity, reject_bytes;
	struct block *blocks;
	size_t block_capacity, block_count;
};

static uint32_t bucket_of(const struct spill_format *format, uint64_t key)
{
	return format->bucket_bits ? (uint32_t)(key >> (64 - format->bucket_bits)) : 0;
}

static size_t header_bytes(const struct spill_format *format)
{
	return format->sources ? SOURCED_BYTES : HEADER_BYTES;
}

/* ---- writing ---- */

enum status spill_writer_create(const struct spill_format *format, uint64_t memory, struct spill_writer **out)
{
	struct spill_writer *writer;
	assert(format->bucket_bits >= 0 && format->bucket_bits <= SPILL_LARGEST_BITS);
	TRY(memory_alloc((void **)&writer, 1, sizeof *writer, "a spill buffer"));
	writer->format = *format;
	writer->memory = memory;
	writer->buckets = 1u << format->bucket_bits;
	enum status status = memory_alloc((void **)&writer->bucket_end, writer->buckets + 1,
		sizeof *writer->bucket_end, "a spill buffer");
	if (status != STATUS_OK) {
		spill_writer_destroy(writer);
		return status;
	}
	*out = writer;
	return STATUS_OK;
}

void spill_writer_destroy(struct spill_writer *writer)
{
	if (!writer)
		return;
	file_writer_abandon(writer->file);
	free(writer->tokens);
	free(writer->documents);
	free(writer->order);
	free(writer->bucket_end);
	free(writer->gathered);
	free(writer->segments);
	free(writer->rejects);
	free(writer->blocks);
	free(writer);
}

enum status spill_writer_begin(struct spill_writer *writer, const char *path)
{
	assert(!writer->file);
	writer->counts = (struct spill_counts){0};
	writer->token_count = writer->document_count = writer->runs = 0;
	writer->reject_bytes = writer->block_count = 0;
	return file_writer_open(path, &writer->file);
}

/* Counting sort of the documents by bucket: afterwards bucket b's are order[bucket_end[b - 1], bucket_end[b])
 * (from 0 for the first). */
static enum status sort_by_bucket(struct spill_writer *writer)
{
	size_t *end = writer->bucket_end;
	TRY(memory_grow((void **)&writer->order, &writer->order_capacity, writer->document_count,
		sizeof *writer->order, "a spill buffer"));
	memset(end, 0, (writer->buckets + 1) * sizeof *end);
	for (size_t i = 0; i < writer->document_count; i++)
		end[bucket_of(&writer->format, writer->documents[i].key.high) + 1]++;
	for (uint32_t b = 0; b < writer->buckets; b++)
		end[b + 1] += end[b];
	/* end[b] is now the start of bucket b, and moves to its end as it fills. */
	for (size_t i = 0; i < writer->document_count; i++)
		writer->order[end[bucket_of(&writer->format, writer->documents[i].key.high)]++] = (uint32_t)i;
	return STATUS_OK;
}

static void put_header(uint8_t *to, const struct pending *document, bool sourced)
{
	store_le64(to, document->key.high);
	store_le64(to + 8, document->key.low);
	store_le32(to + 16, document->tokens);
	store_le32(to + 20, document->bytes);
	if (!sourced)
		return;
	store_le32(to + 24, document->place.piece);
	store_le64(to + 28, document->place.line);
	store_le64(to + 36, document->place.offset);
}

/* Of a segment: its headers' hash and its tokens' as one, so that each can be read into its own place. */
static uint64_t hash_segment(const void *headers, size_t header_bytes, const void *tokens, size_t token_bytes)
{
	uint64_t hashes[2] = {hash64(headers, header_bytes), hash64(tokens, token_bytes)};
	return hash_numbers(hashes, 2);
}

/* Gathers and writes the documents order[first, last). */
static enum status write_segment(
	struct spill_writer *writer, size_t first, size_t last, struct segment *segment)
{
	size_t item = (size_t)writer->format.item_bytes, header = header_bytes(&writer->format);
	size_t headers = (last - first) * header, tokens = 0;
	for (size_t i = first; i < last; i++)
		tokens += writer->documents[writer->order[i]].tokens;
	size_t bytes = headers + tokens * item;
	TRY(memory_grow((void **)&writer->gathered, &writer->gathered_capacity, bytes, 1, "a spill buffer"));
	uint8_t *to = writer->gathered + headers;
	for (size_t i = first; i < last; i++) {
		const struct pending *document = &writer->documents[writer->order[i]];
		put_header(writer->gathered + (i - first) * header, document, writer->format.sources);
		memcpy(to, writer->tokens + document->first * item, document->tokens * item);
		to += document->tokens * item;
	}
	*segment = (struct segment){.offset = file_writer_offset(writer->file),
		.bytes = bytes,
		.tokens = tokens,
		.hash = hash_segment(writer->gathered, headers, writer->gathered + headers, tokens * item),
		.documents = last - first};
	return file_writer_write(writer->file, writer->gathered, bytes);
}

/* Writes what is buffered as one run. */
static enum status flush_run(struct spill_writer *writer)
{
	if (writer->document_count == 0)
		return STATUS_OK;
	TRY(sort_by_bucket(writer));
	TRY(memory_grow((void **)&writer->segments, &writer->segment_capacity,
		(writer->runs + 1) * writer->buckets, sizeof *writer->segments, "a spill index"));
	struct segment *run = writer->segments + writer->runs * writer->buckets;
	size_t first = 0;
	for (uint32_t b = 0; b < writer->buckets; b++) {
		run[b] = (struct segment){0};
		if (writer->bucket_end[b] > first)
			TRY(write_segment(writer, first, writer->bucket_end[b], &run[b]));
		first = writer->bucket_end[b];
	}
	writer->runs++;
	writer->token_count = writer->document_count = 0;
	return STATUS_OK;
}

enum status spill_writer_add(struct spill_writer *writer, struct hash128 key, size_t bytes,
	const uint32_t *ids, size_t count, const struct spill_place *place)
{
	size_t item = (size_t)writer->format.item_bytes;
	uint64_t held = writer->token_count * item + writer->document_count * sizeof *writer->documents;
	if (held + count * item + sizeof *writer->documents > writer->memory ||
		writer->document_count == UINT32_MAX)
		TRY(flush_run(writer));
	TRY(memory_grow((void **)&writer->tokens, &writer->token_capacity, writer->token_count + count, item,
		"a spill buffer"));
	TRY(memory_grow((void **)&writer->documents, &writer->document_capacity, writer->document_count + 1,
		sizeof *writer->documents, "a spill buffer"));
	writer->documents[writer->document_count++] = (struct pending){.key = key,
		.first = writer->token_count,
		.tokens = (uint32_t)count,
		.bytes = (uint32_t)bytes,
		.place = *place};
	if (item == 2) {
		uint16_t *to = (uint16_t *)writer->tokens + writer->token_count;
		for (size_t i = 0; i < count; i++)
			to[i] = (uint16_t)ids[i];
	} else {
		memcpy(writer->tokens + writer->token_count * item, ids, count * item);
	}
	writer->token_count += count;
	writer->counts.documents++;
	writer->counts.tokens += count + 1;
	writer->counts.bytes += bytes;
	return STATUS_OK;
}

static enum status flush_rejects(struct spill_writer *writer)
{
	if (writer->reject_bytes == 0)
		return STATUS_OK;
	TRY(memory_grow((void **)&writer->blocks, &writer->block_capacity, writer->block_count + 1,
		sizeof *writer->blocks, "a spill index"));
	writer->blocks[writer->block_count++] = (struct block){.offset = file_writer_offset(writer->file),
		.bytes = writer->reject_bytes,
		.hash = hash64(writer->rejects, writer->reject_bytes)};
	size_t bytes = writer->reject_bytes;
	writer->reject_bytes = 0;
	return file_writer_write(writer->file, writer->rejects, bytes);
}

enum status spill_writer_reject(
	struct spill_writer *writer, const struct spill_place *place, const char *reason)
{
	size_t length = strlen(reason), bytes = REJECT_BYTES + length;
	if (writer->reject_bytes + bytes > REJECT_BLOCK)
		TRY(flush_rejects(writer));
	TRY(memory_grow((void **)&writer->rejects, &writer->reject_capacity, writer->reject_bytes + bytes, 1,
		"a list of rejects"));
	uint8_t *to = writer->rejects + writer->reject_bytes;
	store_le32(to, place->piece);
	store_le32(to + 4, (uint32_t)length);
	store_le64(to + 8, place->line);
	store_le64(to + 16, place->offset);
	memcpy(to + REJECT_BYTES, reason, length);
	writer->reject_bytes += bytes;
	writer->counts.rejected++;
	return STATUS_OK;
}

void spill_writer_count(struct spill_writer *writer, uint64_t empty, uint64_t repaired)
{
	writer->counts.empty += empty;
	writer->counts.repaired += repaired;
}

static uint8_t *put(uint8_t *to, uint64_t number)
{
	store_le64(to, number);
	return to + 8;
}

static uint8_t *put_counts(uint8_t *to, const struct spill_counts *counts)
{
	memset(to, 0, COUNTS * 8);
	store_le64(to, counts->documents);
	store_le64(to + 8, counts->tokens);
	store_le64(to + 16, counts->bytes);
	store_le64(to + 24, counts->empty);
	store_le64(to + 32, counts->rejected);
	store_le64(to + 40, counts->repaired);
	return to + COUNTS * 8;
}

static uint8_t *put_segments(const struct spill_writer *writer, uint8_t *to)
{
	for (uint32_t b = 0; b < writer->buckets; b++)
		for (size_t run = 0; run < writer->runs; run++) {
			const struct segment *segment = &writer->segments[run * writer->buckets + b];
			to = put(to, segment->offset);
			to = put(to, segment->bytes);
			to = put(to, segment->tokens);
			to = put(to, segment->hash);
			to = put(to, segment->documents);
		}
	return to;
}

static enum status write_footer(struct spill_writer *writer, const uint64_t *lines, size_t pieces)
{
	uint8_t *footer, *to;
	size_t bytes = COUNTS * 8 + 8 + writer->runs * writer->buckets * SEGMENT_BYTES + 8 +
		       writer->block_count * BLOCK_BYTES + 8 + pieces * 8;
	TRY(memory_alloc((void **)&footer, bytes + TRAILER_BYTES, 1, "a spill index"));
	to = put_counts(footer, &writer->counts);
	to = put(to, writer->runs);
	to = put_segments(writer, to);
	to = put(to, writer->block_count);
	for (size_t i = 0; i < writer->block_count; i++) {
		to = put(to, writer->blocks[i].offset);
		to = put(to, writer->blocks[i].bytes);
		to = put(to, writer->blocks[i].hash);
	}
	to = put(to, pieces);
	for (size_t i = 0; i < pieces; i++)
		to = put(to, lines[i]);
	assert(to == footer + bytes);
	to = put(to, file_writer_offset(writer->file));
	to = put(to, bytes);
	to = put(to, hash64(footer, bytes));
	to = put(to, writer->format.job.high);
	to = put(to, writer->format.job.low);
	memcpy(to, magic, sizeof magic);
	enum status status = file_writer_write(writer->file, footer, bytes + TRAILER_BYTES);
	free(footer);
	return status;
}

enum status spill_writer_publish(
	struct spill_writer *writer, const uint64_t *lines, size_t pieces, struct spill_counts *counts)
{
	TRY(flush_run(writer));
	TRY(flush_rejects(writer));
	TRY(write_footer(writer, lines, pieces));
	struct file_writer *file = writer->file;
	writer->file = NULL;
	TRY(file_writer_publish(file));
	*counts = writer->counts;
	return STATUS_OK;
}

/* ---- reading ---- */

/* A footer, checked and in memory. */
struct footer {
	const char *path;
	uint8_t *data;
	uint64_t bytes, offset;
	uint64_t runs, blocks, pieces;
	const uint8_t *segments, *block_table, *lines;
};

static enum status damaged(const char *path, const char *what)
{
	return error_set(STATUS_CORRUPT,
		"%s: %s; remove this file and run the same command again: it will be made anew", path, what);
}

struct trailer {
	uint64_t offset, bytes, hash;
};

static enum status read_trailer(
	int fd, const char *path, const struct spill_format *format, struct trailer *trailer)
{
	struct stat info;
	uint8_t data[TRAILER_BYTES];
	TRY(file_stat(path, &info));
	uint64_t size = (uint64_t)info.st_size;
	if (size < TRAILER_BYTES)
		return damaged(path, "is shorter than a spill file");
	TRY(file_read_at(fd, path, data, sizeof data, size - TRAILER_BYTES));
	if (memcmp(data + 40, magic, sizeof magic) != 0)
		return damaged(path, "does not end as a spill file");
	if (load_le64(data + 24) != format->job.high || load_le64(data + 32) != format->job.low)
		return damaged(path, "belongs to another job");
	*trailer = (struct trailer){load_le64(data), load_le64(data + 8), load_le64(data + 16)};
	if (trailer->offset > size - TRAILER_BYTES ||
		trailer->bytes != size - TRAILER_BYTES - trailer->offset || trailer->bytes < COUNTS * 8 + 8)
		return damaged(path, "has a damaged trailer");
	return STATUS_OK;
}

/* Places the parts of a footer whose hash is right; sizes are checked all the same. */
static bool place_parts(struct footer *footer, uint32_t buckets)
{
	uint64_t at = COUNTS * 8, left = footer->bytes - at;
	footer->runs = load_le64(footer->data + at);
	at += 8, left -= 8;
	if (footer->runs > left / SEGMENT_BYTES / buckets)
		return false;
	footer->segments = footer->data + at;
	at += footer->runs * buckets * SEGMENT_BYTES;
	left = footer->bytes - at;
	if (left < 8)
		return false;
	footer->blocks = load_le64(footer->data + at);
	at += 8, left -= 8;
	if (footer->blocks > left / BLOCK_BYTES)
		return false;
	footer->block_table = footer->data + at;
	at += footer->blocks * BLOCK_BYTES;
	left = footer->bytes - at;
	if (left < 8)
		return false;
	footer->pieces = load_le64(footer->data + at);
	footer->lines = footer->data + at + 8;
	return left - 8 == footer->pieces * 8 && footer->pieces <= left / 8;
}

static enum status read_footer(
	int fd, const char *path, const struct spill_format *format, struct footer *footer)
{
	struct trailer trailer;
	*footer = (struct footer){.path = path};
	TRY(read_trailer(fd, path, format, &trailer));
	footer->bytes = trailer.bytes;
	footer->offset = trailer.offset;
	TRY(memory_alloc((void **)&footer->data, footer->bytes, 1, "a spill index"));
	TRY(file_read_at(fd, path, footer->data, footer->bytes, footer->offset));
	if (hash64(footer->data, footer->bytes) != trailer.hash ||
		!place_parts(footer, 1u << format->bucket_bits))
		return damaged(path, "has a damaged index");
	return STATUS_OK;
}

static struct segment get_segment(const uint8_t *from)
{
	return (struct segment){load_le64(from), load_le64(from + 8), load_le64(from + 16),
		load_le64(from + 24), load_le64(from + 32)};
}

/* Opens a file, hands its footer to `use`, and closes it. */
static enum status with_footer(const char *path, const struct spill_format *format,
	enum status (*use)(int fd, const struct footer *footer, void *user), void *user)
{
	int fd;
	struct footer footer;
	TRY(file_open_read(path, &fd));
	enum status status = read_footer(fd, path, format, &footer);
	if (status == STATUS_OK)
		status = use(fd, &footer, user);
	free(footer.data);
	(void)file_system->close(fd); /* only read: closing it cannot lose anything */
	return status;
}

struct inspection {
	const struct spill_format *format;
	struct spill_counts *counts;
	uint64_t *bucket_bytes;
};

static enum status inspect(int fd, const struct footer *footer, void *user)
{
	(void)fd;
	struct inspection *inspection = user;
	const uint8_t *data = footer->data;
	*inspection->counts = (struct spill_counts){load_le64(data), load_le64(data + 8),
		load_le64(data + 16), load_le64(data + 24), load_le64(data + 32), load_le64(data + 40)};
	uint64_t count = footer->runs << inspection->format->bucket_bits, documents = 0;
	for (uint64_t i = 0; i < count; i++) {
		struct segment segment = get_segment(footer->segments + i * SEGMENT_BYTES);
		documents += segment.documents;
		inspection->bucket_bytes[i / footer->runs] +=
			segment.documents * header_bytes(inspection->format) +
			segment.tokens * (uint64_t)inspection->format->item_bytes;
	}
	if (documents != inspection->counts->documents)
		return damaged(footer->path, "counts other documents than it holds");
	return STATUS_OK;
}

enum status spill_inspect(const char *path, const struct spill_format *format, struct spill_counts *counts,
	uint64_t *bucket_bytes)
{
	struct inspection inspection = {format, counts, bucket_bytes};
	return with_footer(path, format, inspect, &inspection);
}

struct line_list {
	uint64_t *lines;
	size_t pieces;
};

static enum status copy_lines(int fd, const struct footer *footer, void *user)
{
	(void)fd;
	struct line_list *list = user;
	TRY(memory_alloc((void **)&list->lines, footer->pieces, 8, "line counts"));
	memcpy(list->lines, footer->lines, footer->pieces * 8);
	list->pieces = footer->pieces;
	return STATUS_OK;
}

enum status spill_read_lines(
	const char *path, const struct spill_format *format, uint64_t **lines, size_t *pieces)
{
	struct line_list list = {0};
	TRY(with_footer(path, format, copy_lines, &list));
	*lines = list.lines;
	*pieces = list.pieces;
	return STATUS_OK;
}

struct reject_visit {
	spill_reject_visitor *visitor;
	void *user;
};

static enum status visit_block(
	const char *path, const uint8_t *data, uint64_t bytes, const struct reject_visit *visit)
{
	while (bytes) {
		struct spill_reject reject;
		if (bytes < REJECT_BYTES || load_le32(data + 4) > bytes - REJECT_BYTES)
			return damaged(path, "has a damaged list of rejects");
		reject.place = (struct spill_place){.piece = load_le32(data),
			.line = load_le64(data + 8),
			.offset = load_le64(data + 16)};
		reject.reason_bytes = load_le32(data + 4);
		reject.reason = (const char *)data + REJECT_BYTES;
		TRY(visit->visitor(visit->user, &reject));
		data += REJECT_BYTES + reject.reason_bytes;
		bytes -= REJECT_BYTES + reject.reason_bytes;
	}
	return STATUS_OK;
}

static enum status visit_blocks(int fd, const struct footer *footer, void *user)
{
	for (uint64_t i = 0; i < footer->blocks; i++) {
		const uint8_t *entry = footer->block_table + i * BLOCK_BYTES;
		uint64_t offset = load_le64(entry), bytes = load_le64(entry + 8);
		uint8_t *data;
		if (offset > footer->offset || bytes > footer->offset - offset)
			return damaged(footer->path, "has a damaged index");
		TRY(memory_alloc((void **)&data, bytes, 1, "a list of rejects"));
		enum status status = file_read_at(fd, footer->path, data, bytes, offset);
		if (status == STATUS_OK && hash64(data, bytes) != load_le64(entry + 16))
			status = damaged(footer->path, "has a damaged list of rejects");
		if (status == STATUS_OK)
			status = visit_block(footer->path, data, bytes, user);
		free(data);
		TRY(status);
	}
	return STATUS_OK;
}

enum status spill_read_rejects(
	const char *path, const struct spill_format *format, spill_reject_visitor *visitor, void *user)
{
	struct reject_visit visit = {visitor, user};
	return with_footer(path, format, visit_blocks, &visit);
}

/* ---- ranges ---- */

struct spill_range {
	struct spill_format format;
	uint64_t first, last; /* keys, both included */
	uint64_t seen;
	struct spill_document *documents;
	size_t capacity, count;
	struct spill_place *places; /* [count] by a document's number, if the format has sources */
	size_t place_capacity;
	uint8_t *tokens;
	size_t token_capacity, token_count; /* items */
	uint32_t *table; /* [table_size], a power of two: 1 + index of a document, 0 empty */
	size_t table_size;
	uint8_t *headers; /* a segment's */
	size_t header_capacity;
	uint8_t *entries; /* segments of the footer */
	size_t entry_capacity;
};

enum status spill_range_create(const struct spill_format *format, struct spill_range **out)
{
	TRY(memory_alloc((void **)out, 1, sizeof **out, "a key range"));
	(*out)->format = *format;
	return STATUS_OK;
}

void spill_range_destroy(struct spill_range *range)
{
	if (!range)
		return;
	free(range->documents);
	free(range->places);
	free(range->tokens);
	free(range->table);
	free(range->headers);
	free(range->entries);
	free(range);
}

void spill_range_begin(struct spill_range *range, uint64_t first, uint64_t last)
{
	range->first = first;
	range->last = last;
	range->seen = range->count = range->token_count = 0;
	if (range->table_size)
		memset(range->table, 0, range->table_size * sizeof *range->table);
}

/* The slot that holds `key`, or the empty one where it belongs. */
static uint32_t *find_slot(const struct spill_range *range, struct hash128 key)
{
	size_t at = key.low & (range->table_size - 1);
	while (range->table[at] && hash128_compare(range->documents[range->table[at] - 1].key, key) != 0)
		at = (at + 1) & (range->table_size - 1);
	return &range->table[at];
}

static enum status reserve_documents(struct spill_range *range, size_t more)
{
	size_t wanted = range->count + more, size = range->table_size ? range->table_size : 1024;
	FAIL_IF(wanted >= UINT32_MAX / 2, STATUS_UNSUPPORTED,
		"a range of keys has %zu documents, more than one range can have", wanted);
	TRY(memory_grow((void **)&range->documents, &range->capacity, wanted, sizeof *range->documents,
		"a key range"));
	if (range->format.sources)
		TRY(memory_grow((void **)&range->places, &range->place_capacity, wanted,
			sizeof *range->places, "a key range"));
	while (size < wanted * 2)
		size *= 2;
	if (size == range->table_size)
		return STATUS_OK;
	uint32_t *table;
	TRY(memory_alloc((void **)&table, size, sizeof *table, "a key range"));
	free(range->table);
	range->table = table;
	range->table_size = size;
	for (size_t i = 0; i < range->count; i++)
		*find_slot(range, range->documents[i].key) = (uint32_t)i + 1;
	return STATUS_OK;
}

static void take_place(struct spill_range *range, const uint8_t *header, uint32_t unit)
{
	range->places[range->count] = (struct spill_place){.unit = unit,
		.piece = load_le32(header + 24),
		.line = load_le64(header + 28),
		.offset = load_le64(header + 36)};
}

/*
 * Takes the documents of a segment whose headers are at `headers` and whose tokens were read behind the
 * range's: keeps those of the range that are new, closing the gaps that the others leave.
 */
static bool take_documents(
	struct spill_range *range, const uint8_t *headers, const struct segment *segment, uint32_t unit)
{
	size_t item = (size_t)range->format.item_bytes, header = header_bytes(&range->format);
	uint64_t from = range->token_count, end = range->token_count + segment->tokens;
	for (uint64_t i = 0; i < segment->documents; i++, headers += header) {
		struct spill_document document = {.key = {load_le64(headers), load_le64(headers + 8)},
			.first = range->token_count,
			.tokens = load_le32(headers + 16),
			.bytes = load_le32(headers + 20),
			.number = (uint32_t)range->count};
		if (document.tokens > end - from)
			return false;
		uint64_t source = from;
		from += document.tokens;
		if (document.key.high < range->first || document.key.high > range->last)
			continue;
		range->seen++;
		uint32_t *slot = find_slot(range, document.key);
		if (*slot)
			continue;
		if (source != document.first)
			memmove(range->tokens + document.first * item, range->tokens + source * item,
				document.tokens * item);
		if (range->format.sources)
			take_place(range, headers, unit);
		range->token_count += document.tokens;
		range->documents[range->count++] = document;
		*slot = (uint32_t)range->count;
	}
	return from == end;
}

struct spill_file {
	const char *path;
	int fd;
	uint32_t unit;
	uint64_t limit; /* segments end before */
};

static enum status load_segment(
	struct spill_range *range, const struct spill_file *file, const struct segment *segment)
{
	const char *path = file->path;
	size_t item = (size_t)range->format.item_bytes, header = header_bytes(&range->format);
	size_t headers = segment->documents * header, tokens = segment->tokens * item;
	if (segment->offset > file->limit || segment->bytes > file->limit - segment->offset ||
		segment->documents > segment->bytes / header || segment->tokens > segment->bytes / item ||
		headers + tokens != segment->bytes)
		return damaged(path, "has a damaged index");
	TRY(memory_grow((void **)&range->headers, &range->header_capacity, headers, 1, "a key range"));
	TRY(memory_grow((void **)&range->tokens, &range->token_capacity, range->token_count + segment->tokens,
		item, "a key range"));
	uint8_t *to = range->tokens + range->token_count * item;
	TRY(file_read_at(file->fd, path, range->headers, headers, segment->offset));
	TRY(file_read_at(file->fd, path, to, tokens, segment->offset + headers));
	if (hash_segment(range->headers, headers, to, tokens) != segment->hash)
		return damaged(path, "has a segment that its hash does not match");
	TRY(reserve_documents(range, segment->documents));
	if (!take_documents(range, range->headers, segment, file->unit))
		return damaged(path, "has a segment that is not as its index says");
	return STATUS_OK;
}

static enum status load_file(struct spill_range *range, int fd, const char *path, uint32_t unit)
{
	struct trailer trailer;
	uint8_t number[8];
	TRY(read_trailer(fd, path, &range->format, &trailer));
	TRY(file_read_at(fd, path, number, sizeof number, trailer.offset + COUNTS * 8));
	uint64_t runs = load_le64(number);
	uint32_t first = bucket_of(&range->format, range->first),
		 last = bucket_of(&range->format, range->last);
	uint64_t row = runs * SEGMENT_BYTES, bytes = (last - first + 1) * row;
	if (runs > trailer.bytes / SEGMENT_BYTES || bytes > trailer.bytes)
		return damaged(path, "has a damaged index");
	if (runs == 0)
		return STATUS_OK;
	const struct spill_file file = {path, fd, unit, trailer.offset};
	TRY(memory_grow((void **)&range->entries, &range->entry_capacity, bytes, 1, "a key range"));
	TRY(file_read_at(fd, path, range->entries, bytes, trailer.offset + COUNTS * 8 + 8 + first * row));
	for (uint64_t i = 0; i < bytes / SEGMENT_BYTES; i++) {
		struct segment segment = get_segment(range->entries + i * SEGMENT_BYTES);
		if (segment.documents)
			TRY(load_segment(range, &file, &segment));
	}
	return STATUS_OK;
}

enum status spill_range_load(struct spill_range *range, const char *path, uint32_t unit)
{
	int fd;
	TRY(file_open_read(path, &fd));
	enum status status = load_file(range, fd, path, unit);
	(void)file_system->close(fd); /* only read: closing it cannot lose anything */
	return status;
}

static int compare_documents(const void *a, const void *b)
{
	return hash128_compare(
		((const struct spill_document *)a)->key, ((const struct spill_document *)b)->key);
}

void spill_range_sort(struct spill_range *range)
{
	if (range->count)
		qsort(range->documents, range->count, sizeof *range->documents, compare_documents);
}

void spill_range_get(const struct spill_range *range, const struct spill_document **documents, size_t *count,
	const void **tokens, uint64_t *seen)
{
	*documents = range->documents;
	*count = range->count;
	*tokens = range->tokens;
	*seen = range->seen;
}

const struct spill_place *spill_range_place(
	const struct spill_range *range, const struct spill_document *document)
{
	assert(range->format.sources);
	return &range->places[document->number];
}
