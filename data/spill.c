#include "common/endian.h"
#include "common/file.h"
#include "common/memory.h"
#include "data/spill_format.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

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
	return error_set(
		STATUS_CORRUPT, "%s: %s; the command (or --part) that made it makes it anew", path, what);
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
	if (memcmp(data + 40, spill_magic, sizeof spill_magic) != 0)
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

static struct spill_segment get_segment(const uint8_t *from)
{
	return (struct spill_segment){load_le64(from), load_le64(from + 8), load_le64(from + 16),
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

/* Where a segment lies, and its sizes, must fit together. */
static enum status check_segment(const char *path, const struct spill_segment *segment,
	const struct spill_format *format, uint64_t limit)
{
	uint64_t header = spill_header_bytes(format), item = (uint64_t)format->item_bytes;
	if (segment->offset > limit || segment->bytes > limit - segment->offset ||
		segment->documents > segment->bytes / header || segment->tokens > segment->bytes / item ||
		segment->documents * header + segment->tokens * item != segment->bytes)
		return damaged(path, "has a damaged index");
	return STATUS_OK;
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
		struct spill_segment segment = get_segment(footer->segments + i * SEGMENT_BYTES);
		documents += segment.documents;
		if (!inspection->bucket_bytes)
			continue;
		inspection->bucket_bytes[i / footer->runs] +=
			segment.documents * spill_header_bytes(inspection->format) +
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

/* ---- verification ---- */

struct scratch {
	uint8_t *data;
	size_t capacity;
};

static enum status verify_segment(int fd, const struct footer *footer, const struct spill_segment *segment,
	const struct spill_format *format, struct scratch *scratch)
{
	TRY(check_segment(footer->path, segment, format, footer->offset));
	TRY(memory_grow((void **)&scratch->data, &scratch->capacity, segment->bytes, 1, "a spill segment"));
	TRY(file_read_at(fd, footer->path, scratch->data, segment->bytes, segment->offset));
	size_t headers = segment->documents * spill_header_bytes(format);
	if (spill_hash_segment(scratch->data, headers, scratch->data + headers, segment->bytes - headers) !=
		segment->hash)
		return damaged(footer->path, "has a segment that its hash does not match");
	return STATUS_OK;
}

static enum status skip_reject(void *user, const struct spill_reject *reject)
{
	(void)user;
	(void)reject;
	return STATUS_OK;
}

static enum status verify(int fd, const struct footer *footer, void *user)
{
	const struct spill_format *format = user;
	struct scratch scratch = {0};
	enum status status = STATUS_OK;
	for (uint64_t i = 0; i < footer->runs << format->bucket_bits && status == STATUS_OK; i++) {
		struct spill_segment segment = get_segment(footer->segments + i * SEGMENT_BYTES);
		if (segment.documents)
			status = verify_segment(fd, footer, &segment, format, &scratch);
	}
	free(scratch.data);
	TRY(status);
	return visit_blocks(fd, footer, &(struct reject_visit){skip_reject, NULL});
}

enum status spill_verify(const char *path, const struct spill_format *format)
{
	struct spill_format copy = *format;
	return with_footer(path, format, verify, &copy);
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

/* The place of document number `number` of the range: that at `header`, unless it is known and is earlier. */
static void take_place(
	struct spill_range *range, uint32_t number, bool known, const uint8_t *header, uint32_t unit)
{
	struct spill_place *old = &range->places[number];
	const struct spill_place place = {.unit = unit,
		.piece = load_le32(header + 24),
		.line = load_le64(header + 28),
		.offset = load_le64(header + 36)};
	/* Units are read in order, but within one the runs are those of several workers. */
	if (!known ||
		(old->unit == unit && (place.piece < old->piece ||
					      (place.piece == old->piece && place.offset < old->offset))))
		*old = place;
}

/*
 * Takes the documents of a segment whose headers are at `headers` and whose tokens were read behind the
 * range's: keeps those of the range that are new, closing the gaps that the others leave.
 */
static bool take_documents(
	struct spill_range *range, const uint8_t *headers, const struct spill_segment *segment, uint32_t unit)
{
	size_t item = (size_t)range->format.item_bytes, header = spill_header_bytes(&range->format);
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
		if (range->format.sources)
			take_place(range, *slot ? *slot - 1 : document.number, *slot, headers, unit);
		if (*slot)
			continue;
		if (source != document.first)
			memmove(range->tokens + document.first * item, range->tokens + source * item,
				document.tokens * item);
		range->token_count += document.tokens;
		range->documents[range->count++] = document;
		*slot = (uint32_t)range->count;
	}
	return from == end;
}

/* A file whose segments are being read. */
struct open_file {
	const char *path;
	int fd;
	uint32_t unit;
	uint64_t limit; /* segments end before */
};

static enum status load_segment(
	struct spill_range *range, const struct open_file *file, const struct spill_segment *segment)
{
	const char *path = file->path;
	size_t item = (size_t)range->format.item_bytes, tokens = segment->tokens * item;
	size_t headers = segment->documents * spill_header_bytes(&range->format);
	TRY(check_segment(path, segment, &range->format, file->limit));
	TRY(memory_grow((void **)&range->headers, &range->header_capacity, headers, 1, "a key range"));
	TRY(memory_grow((void **)&range->tokens, &range->token_capacity, range->token_count + segment->tokens,
		item, "a key range"));
	uint8_t *to = range->tokens + range->token_count * item;
	TRY(file_read_at(file->fd, path, range->headers, headers, segment->offset));
	TRY(file_read_at(file->fd, path, to, tokens, segment->offset + headers));
	if (spill_hash_segment(range->headers, headers, to, tokens) != segment->hash)
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
	uint32_t first = spill_bucket(&range->format, range->first),
		 last = spill_bucket(&range->format, range->last);
	uint64_t row = runs * SEGMENT_BYTES, bytes = (last - first + 1) * row;
	if (runs > trailer.bytes / SEGMENT_BYTES || bytes > trailer.bytes)
		return damaged(path, "has a damaged index");
	if (runs == 0)
		return STATUS_OK;
	const struct open_file file = {path, fd, unit, trailer.offset};
	TRY(memory_grow((void **)&range->entries, &range->entry_capacity, bytes, 1, "a key range"));
	TRY(file_read_at(fd, path, range->entries, bytes, trailer.offset + COUNTS * 8 + 8 + first * row));
	for (uint64_t i = 0; i < bytes / SEGMENT_BYTES; i++) {
		struct spill_segment segment = get_segment(range->entries + i * SEGMENT_BYTES);
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

size_t spill_range_remove(struct spill_range *range, const bool *marked)
{
	size_t kept = 0, count = range->count;
	for (size_t i = 0; i < count; i++)
		if (!marked[i])
			range->documents[kept++] = range->documents[i];
	range->count = kept;
	return count - kept;
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
