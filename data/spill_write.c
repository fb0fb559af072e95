#include "common/endian.h"
#include "common/file.h"
#include "common/memory.h"
#include "data/spill_format.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { REJECT_BLOCK = 1 << 20 };

struct block {
	uint64_t offset, bytes, hash, batch;
};

struct pending {
	struct hash128 key;
	uint64_t first; /* of its tokens, in items */
	uint32_t tokens, bytes;
	struct spill_place place;
};

struct spill_file {
	struct spill_format format;
	uint32_t buckets;
	pthread_mutex_t mutex; /* for the rest */
	struct file_writer *file;
	struct spill_counts counts;
	struct spill_segment *segments; /* [run][buckets] */
	size_t segment_capacity, runs;
	struct block *blocks;
	size_t block_capacity, block_count;
};

struct spill_buffer {
	struct spill_format format;
	uint64_t memory;
	struct spill_file *file;
	struct spill_counts counts; /* since it was last flushed */

	uint8_t *tokens; /* [token_capacity] items of item_bytes */
	size_t token_capacity, token_count;
	struct pending *documents; /* [document_count], in order of arrival */
	size_t document_capacity, document_count;

	uint32_t *order; /* [document_count]: documents by bucket */
	size_t order_capacity;
	size_t *bucket_end; /* [buckets + 1] */
	uint8_t *gathered;  /* one segment: headers and tokens */
	size_t gathered_capacity;

	uint8_t *rejects; /* [reject_bytes], the block under way */
	size_t reject_capacity, reject_bytes;
	uint64_t batch;
};

enum status spill_file_create(const struct spill_format *format, const char *path, struct spill_file **out)
{
	struct spill_file *file;
	assert(format->bucket_bits >= 0 && format->bucket_bits <= SPILL_LARGEST_BITS);
	TRY(memory_alloc((void **)&file, 1, sizeof *file, "a spill file"));
	file->format = *format;
	file->buckets = 1u << format->bucket_bits;
	enum status status = file_writer_open(path, &file->file);
	if (status != STATUS_OK) {
		free(file);
		return status;
	}
	pthread_mutex_init(&file->mutex, NULL);
	*out = file;
	return STATUS_OK;
}

void spill_file_abandon(struct spill_file *file)
{
	if (!file)
		return;
	file_writer_abandon(file->file);
	pthread_mutex_destroy(&file->mutex);
	free(file->segments);
	free(file->blocks);
	free(file);
}

enum status spill_buffer_create(const struct spill_format *format, uint64_t memory, struct spill_buffer **out)
{
	struct spill_buffer *buffer;
	TRY(memory_alloc((void **)&buffer, 1, sizeof *buffer, "a spill buffer"));
	buffer->format = *format;
	buffer->memory = memory;
	enum status status = memory_alloc((void **)&buffer->bucket_end,
		((size_t)1 << format->bucket_bits) + 1, sizeof *buffer->bucket_end, "a spill buffer");
	if (status != STATUS_OK) {
		spill_buffer_destroy(buffer);
		return status;
	}
	*out = buffer;
	return STATUS_OK;
}

void spill_buffer_destroy(struct spill_buffer *buffer)
{
	if (!buffer)
		return;
	free(buffer->tokens);
	free(buffer->documents);
	free(buffer->order);
	free(buffer->bucket_end);
	free(buffer->gathered);
	free(buffer->rejects);
	free(buffer);
}

void spill_buffer_begin(struct spill_buffer *buffer, struct spill_file *file)
{
	buffer->file = file;
	buffer->counts = (struct spill_counts){0};
	buffer->token_count = buffer->document_count = buffer->reject_bytes = 0;
	buffer->batch = 0;
}

/* Counting sort of the documents by bucket: afterwards bucket b's are order[bucket_end[b - 1], bucket_end[b])
 * (from 0 for the first). */
static enum status sort_by_bucket(struct spill_buffer *buffer)
{
	size_t *end = buffer->bucket_end, buckets = (size_t)1 << buffer->format.bucket_bits;
	TRY(memory_grow((void **)&buffer->order, &buffer->order_capacity, buffer->document_count,
		sizeof *buffer->order, "a spill buffer"));
	memset(end, 0, (buckets + 1) * sizeof *end);
	for (size_t i = 0; i < buffer->document_count; i++)
		end[spill_bucket(&buffer->format, buffer->documents[i].key.high) + 1]++;
	for (size_t b = 0; b < buckets; b++)
		end[b + 1] += end[b];
	/* end[b] is now the start of bucket b, and moves to its end as it fills. */
	for (size_t i = 0; i < buffer->document_count; i++)
		buffer->order[end[spill_bucket(&buffer->format, buffer->documents[i].key.high)]++] =
			(uint32_t)i;
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

/* Gathers the documents order[first, last) into one segment; its offset is not known yet. */
static enum status gather_segment(
	struct spill_buffer *buffer, size_t first, size_t last, struct spill_segment *segment)
{
	size_t item = (size_t)buffer->format.item_bytes, header = spill_header_bytes(&buffer->format);
	size_t headers = (last - first) * header, tokens = 0;
	for (size_t i = first; i < last; i++)
		tokens += buffer->documents[buffer->order[i]].tokens;
	size_t bytes = headers + tokens * item;
	TRY(memory_grow((void **)&buffer->gathered, &buffer->gathered_capacity, bytes, 1, "a spill buffer"));
	uint8_t *to = buffer->gathered + headers;
	for (size_t i = first; i < last; i++) {
		const struct pending *document = &buffer->documents[buffer->order[i]];
		put_header(buffer->gathered + (i - first) * header, document, buffer->format.sources);
		memcpy(to, buffer->tokens + document->first * item, document->tokens * item);
		to += document->tokens * item;
	}
	*segment = (struct spill_segment){.bytes = bytes,
		.tokens = tokens,
		.hash = spill_hash_segment(
			buffer->gathered, headers, buffer->gathered + headers, tokens * item),
		.documents = last - first};
	return STATUS_OK;
}

/* A run without segments yet. */
static enum status begin_run(struct spill_file *file, size_t *run)
{
	pthread_mutex_lock(&file->mutex);
	enum status status = memory_grow((void **)&file->segments, &file->segment_capacity,
		(file->runs + 1) * file->buckets, sizeof *file->segments, "a spill index");
	if (status == STATUS_OK) {
		*run = file->runs++;
		memset(file->segments + *run * file->buckets, 0, file->buckets * sizeof *file->segments);
	}
	pthread_mutex_unlock(&file->mutex);
	return status;
}

static enum status write_segment(
	struct spill_file *file, size_t run, size_t bucket, struct spill_segment segment, const void *data)
{
	pthread_mutex_lock(&file->mutex);
	segment.offset = file_writer_offset(file->file);
	file->segments[run * file->buckets + bucket] = segment;
	enum status status = file_writer_write(file->file, data, segment.bytes);
	pthread_mutex_unlock(&file->mutex);
	return status;
}

/* Writes the documents held as one run. */
static enum status flush_run(struct spill_buffer *buffer)
{
	struct spill_segment segment;
	size_t run, first = 0;
	if (buffer->document_count == 0)
		return STATUS_OK;
	TRY(sort_by_bucket(buffer));
	TRY(begin_run(buffer->file, &run));
	for (size_t b = 0; b < (size_t)1 << buffer->format.bucket_bits; b++) {
		size_t end = buffer->bucket_end[b];
		if (end > first) {
			TRY(gather_segment(buffer, first, end, &segment));
			TRY(write_segment(buffer->file, run, b, segment, buffer->gathered));
		}
		first = end;
	}
	buffer->token_count = buffer->document_count = 0;
	return STATUS_OK;
}

enum status spill_buffer_reserve(struct spill_buffer *buffer, size_t most, void **ids)
{
	size_t item = (size_t)buffer->format.item_bytes;
	uint64_t held = buffer->token_count * item + buffer->document_count * sizeof *buffer->documents;
	if (held + most * item + sizeof *buffer->documents > buffer->memory ||
		buffer->document_count == UINT32_MAX)
		TRY(flush_run(buffer));
	TRY(memory_grow((void **)&buffer->tokens, &buffer->token_capacity, buffer->token_count + most, item,
		"a spill buffer"));
	*ids = buffer->tokens + buffer->token_count * item;
	return STATUS_OK;
}

enum status spill_buffer_add(struct spill_buffer *buffer, struct hash128 key, size_t bytes, size_t count,
	const struct spill_place *place)
{
	assert(buffer->token_count + count <= buffer->token_capacity);
	TRY(memory_grow((void **)&buffer->documents, &buffer->document_capacity, buffer->document_count + 1,
		sizeof *buffer->documents, "a spill buffer"));
	buffer->documents[buffer->document_count++] = (struct pending){.key = key,
		.first = buffer->token_count,
		.tokens = (uint32_t)count,
		.bytes = (uint32_t)bytes,
		.place = *place};
	buffer->token_count += count;
	buffer->counts.documents++;
	buffer->counts.tokens += count + 1;
	buffer->counts.bytes += bytes;
	return STATUS_OK;
}

static enum status write_rejects(struct spill_file *file, const uint8_t *data, size_t bytes, uint64_t batch)
{
	TRY(memory_grow((void **)&file->blocks, &file->block_capacity, file->block_count + 1,
		sizeof *file->blocks, "a spill index"));
	file->blocks[file->block_count++] = (struct block){.offset = file_writer_offset(file->file),
		.bytes = bytes,
		.hash = hash64(data, bytes),
		.batch = batch};
	return file_writer_write(file->file, data, bytes);
}

static enum status flush_rejects(struct spill_buffer *buffer)
{
	if (buffer->reject_bytes == 0)
		return STATUS_OK;
	pthread_mutex_lock(&buffer->file->mutex);
	enum status status =
		write_rejects(buffer->file, buffer->rejects, buffer->reject_bytes, buffer->batch);
	pthread_mutex_unlock(&buffer->file->mutex);
	buffer->reject_bytes = 0;
	return status;
}

enum status spill_buffer_reject(
	struct spill_buffer *buffer, const struct spill_place *place, const char *reason)
{
	size_t length = strlen(reason), bytes = REJECT_BYTES + length;
	if (buffer->reject_bytes + bytes > REJECT_BLOCK)
		TRY(flush_rejects(buffer));
	TRY(memory_grow((void **)&buffer->rejects, &buffer->reject_capacity, buffer->reject_bytes + bytes, 1,
		"a list of rejects"));
	uint8_t *to = buffer->rejects + buffer->reject_bytes;
	store_le32(to, place->piece);
	store_le32(to + 4, (uint32_t)length);
	store_le64(to + 8, place->line);
	store_le64(to + 16, place->offset);
	memcpy(to + REJECT_BYTES, reason, length);
	buffer->reject_bytes += bytes;
	buffer->counts.rejected++;
	return STATUS_OK;
}

enum status spill_buffer_begin_batch(struct spill_buffer *buffer, uint64_t batch)
{
	TRY(flush_rejects(buffer));
	buffer->batch = batch;
	return STATUS_OK;
}

void spill_buffer_count(struct spill_buffer *buffer, uint64_t empty, uint64_t repaired)
{
	buffer->counts.empty += empty;
	buffer->counts.repaired += repaired;
}

void spill_counts_add(struct spill_counts *sum, const struct spill_counts *more)
{
	sum->documents += more->documents;
	sum->tokens += more->tokens;
	sum->bytes += more->bytes;
	sum->empty += more->empty;
	sum->rejected += more->rejected;
	sum->repaired += more->repaired;
}

enum status spill_buffer_flush(struct spill_buffer *buffer)
{
	TRY(flush_run(buffer));
	TRY(flush_rejects(buffer));
	pthread_mutex_lock(&buffer->file->mutex);
	spill_counts_add(&buffer->file->counts, &buffer->counts);
	pthread_mutex_unlock(&buffer->file->mutex);
	buffer->counts = (struct spill_counts){0};
	return STATUS_OK;
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

static uint8_t *put_segments(const struct spill_file *file, uint8_t *to)
{
	for (uint32_t b = 0; b < file->buckets; b++)
		for (size_t run = 0; run < file->runs; run++) {
			const struct spill_segment *segment = &file->segments[run * file->buckets + b];
			to = put(to, segment->offset);
			to = put(to, segment->bytes);
			to = put(to, segment->tokens);
			to = put(to, segment->hash);
			to = put(to, segment->documents);
		}
	return to;
}

/* A batch is one thread's, which writes its blocks one after another. */
static int compare_blocks(const void *a, const void *b)
{
	const struct block *x = a, *y = b;
	if (x->batch != y->batch)
		return x->batch < y->batch ? -1 : 1;
	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static uint8_t *put_blocks(struct spill_file *file, uint8_t *to)
{
	if (file->block_count)
		qsort(file->blocks, file->block_count, sizeof *file->blocks, compare_blocks);
	to = put(to, file->block_count);
	for (size_t i = 0; i < file->block_count; i++) {
		to = put(to, file->blocks[i].offset);
		to = put(to, file->blocks[i].bytes);
		to = put(to, file->blocks[i].hash);
	}
	return to;
}

static enum status write_footer(struct spill_file *file, const uint64_t *lines, size_t pieces)
{
	uint8_t *footer, *to;
	size_t bytes = COUNTS * 8 + 8 + file->runs * file->buckets * SEGMENT_BYTES + 8 +
		       file->block_count * BLOCK_BYTES + 8 + pieces * 8;
	TRY(memory_alloc((void **)&footer, bytes + TRAILER_BYTES, 1, "a spill index"));
	to = put_counts(footer, &file->counts);
	to = put(to, file->runs);
	to = put_segments(file, to);
	to = put_blocks(file, to);
	to = put(to, pieces);
	for (size_t i = 0; i < pieces; i++)
		to = put(to, lines[i]);
	assert(to == footer + bytes);
	to = put(to, file_writer_offset(file->file));
	to = put(to, bytes);
	to = put(to, hash64(footer, bytes));
	to = put(to, file->format.job.high);
	to = put(to, file->format.job.low);
	memcpy(to, spill_magic, sizeof spill_magic);
	enum status status = file_writer_write(file->file, footer, bytes + TRAILER_BYTES);
	free(footer);
	return status;
}

enum status spill_file_publish(struct spill_file *file, const uint64_t *lines, size_t pieces, bool durable,
	struct spill_counts *counts)
{
	enum status status = write_footer(file, lines, pieces);
	*counts = file->counts;
	if (status == STATUS_OK) {
		struct file_writer *writer = file->file;
		file->file = NULL;
		status = durable ? file_writer_publish(writer) : file_writer_publish_unsynced(writer);
	}
	spill_file_abandon(file);
	return status;
}
