#include "data/sources.h"

#include "common/endian.h"
#include "common/file.h"
#include "common/memory.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER_BYTES = 16, RECORD_BYTES = 20, COUNTS_BYTES = 24, SMALLEST_TABLE = 64 };
static const char magic[8] = {'F', 'E', 'R', 'R', 'Y', 'S', 'R', 'C'};

static enum status make_path(const char *directory, const char *name, char **out)
{
	if (asprintf(out, "%s/%s.src", directory, name) < 0) {
		*out = NULL;
		return error_set(STATUS_MEMORY, "no memory for a path");
	}
	return STATUS_OK;
}

int source_compare(const struct source *a, const struct source *b)
{
	int order = strcmp(a->path, b->path);
	if (order)
		return order;
	if (a->line != b->line)
		return a->line < b->line ? -1 : 1;
	return a->byte < b->byte ? -1 : a->byte > b->byte;
}

/* ---- writing ---- */

struct sources_writer {
	struct file_writer *file;
	struct hash_stream *hash;
	uint64_t documents;
	char *text; /* [text_bytes]: the paths, NULs included */
	size_t text_bytes, text_capacity;
	uint64_t *begins; /* [path_count]: where each is in text */
	size_t path_count, path_capacity;
	uint32_t *table; /* [table_size], a power of two: 1 + number of a path, 0 empty */
	size_t table_size;
};

static enum status put(struct sources_writer *writer, const void *data, size_t bytes)
{
	hash_stream_add(writer->hash, data, bytes);
	return file_writer_write(writer->file, data, bytes);
}

static enum status open_writer(struct sources_writer *writer, const char *directory, const char *name)
{
	uint8_t header[HEADER_BYTES];
	char *path;
	TRY(hash_stream_open(&writer->hash));
	TRY(make_path(directory, name, &path));
	enum status status = file_writer_open(path, &writer->file);
	free(path);
	TRY(status);
	memcpy(header, magic, sizeof magic);
	store_le64(header + 8, 1);
	return put(writer, header, sizeof header);
}

enum status sources_writer_open(const char *directory, const char *name, struct sources_writer **out)
{
	struct sources_writer *writer;
	*out = NULL;
	TRY(memory_alloc((void **)&writer, 1, sizeof *writer, "a list of sources"));
	enum status status = open_writer(writer, directory, name);
	if (status != STATUS_OK) {
		sources_writer_abandon(writer);
		return status;
	}
	*out = writer;
	return STATUS_OK;
}

static void free_writer(struct sources_writer *writer)
{
	if (writer->hash)
		hash_stream_close(writer->hash);
	free(writer->text);
	free(writer->begins);
	free(writer->table);
	free(writer);
}

void sources_writer_abandon(struct sources_writer *writer)
{
	if (!writer)
		return;
	file_writer_abandon(writer->file);
	free_writer(writer);
}

/* The slot of the path, or the empty one where it belongs. */
static uint32_t *find_slot(const struct sources_writer *writer, const char *path)
{
	size_t at = hash64(path, strlen(path)) & (writer->table_size - 1);
	while (writer->table[at] && strcmp(writer->text + writer->begins[writer->table[at] - 1], path) != 0)
		at = (at + 1) & (writer->table_size - 1);
	return &writer->table[at];
}

static enum status grow_table(struct sources_writer *writer)
{
	size_t size = writer->table_size ? writer->table_size * 2 : SMALLEST_TABLE;
	uint32_t *table;
	TRY(memory_alloc((void **)&table, size, sizeof *table, "a list of sources"));
	free(writer->table);
	writer->table = table;
	writer->table_size = size;
	for (size_t i = 0; i < writer->path_count; i++)
		*find_slot(writer, writer->text + writer->begins[i]) = (uint32_t)i + 1;
	return STATUS_OK;
}

static enum status add_path(struct sources_writer *writer, const char *path, uint32_t *slot)
{
	size_t bytes = strlen(path) + 1;
	FAIL_IF(writer->path_count >= UINT32_MAX - 1, STATUS_UNSUPPORTED,
		"a shard has documents of more than 2^32 files");
	TRY(memory_grow((void **)&writer->begins, &writer->path_capacity, writer->path_count + 1,
		sizeof *writer->begins, "a list of sources"));
	TRY(memory_grow((void **)&writer->text, &writer->text_capacity, writer->text_bytes + bytes, 1,
		"a list of sources"));
	memcpy(writer->text + writer->text_bytes, path, bytes);
	writer->begins[writer->path_count++] = writer->text_bytes;
	writer->text_bytes += bytes;
	*slot = (uint32_t)writer->path_count;
	return STATUS_OK;
}

enum status sources_writer_add(struct sources_writer *writer, const struct source *source)
{
	uint8_t record[RECORD_BYTES];
	if ((writer->path_count + 1) * 2 > writer->table_size)
		TRY(grow_table(writer));
	uint32_t *slot = find_slot(writer, source->path);
	if (!*slot)
		TRY(add_path(writer, source->path, slot));
	store_le64(record, source->line);
	store_le64(record + 8, source->byte);
	store_le32(record + 16, *slot - 1);
	writer->documents++;
	return put(writer, record, sizeof record);
}

static enum status write_paths(struct sources_writer *writer)
{
	uint8_t number[8], counts[COUNTS_BYTES];
	for (size_t i = 0; i < writer->path_count; i++) {
		store_le64(number, writer->begins[i]);
		TRY(put(writer, number, sizeof number));
	}
	if (writer->text_bytes)
		TRY(put(writer, writer->text, writer->text_bytes));
	store_le64(counts, writer->documents);
	store_le64(counts + 8, writer->path_count);
	store_le64(counts + 16, writer->text_bytes);
	return put(writer, counts, sizeof counts);
}

enum status sources_writer_publish(struct sources_writer *writer, struct hash128 *hash)
{
	enum status status = write_paths(writer);
	if (status != STATUS_OK) {
		sources_writer_abandon(writer);
		return status;
	}
	*hash = hash_stream_digest(writer->hash);
	status = file_writer_publish(writer->file);
	free_writer(writer);
	return status;
}

/* ---- reading ---- */

struct sources {
	const struct corpus *corpus;
	uint8_t *data;  /* NULL: none is loaded */
	uint64_t shard; /* which is */
	uint64_t documents, paths, text_bytes;
	const uint8_t *begins; /* [paths] u64 */
	const char *text;
};

static enum status damaged(const char *path, const char *what)
{
	return error_set(STATUS_CORRUPT,
		"%s: %s; restore the file from a copy, or run `ferry preprocess` again", path, what);
}

/* Places the parts of a file whose hash is right; what it says is checked all the same. */
static enum status place_parts(struct sources *sources, const char *path, size_t bytes, uint64_t documents)
{
	if (bytes < HEADER_BYTES + COUNTS_BYTES || memcmp(sources->data, magic, sizeof magic) != 0)
		return damaged(path, "is not a list of sources");
	uint64_t version = load_le64(sources->data + 8);
	FAIL_IF(version != 1, STATUS_UNSUPPORTED,
		"%s: version %" PRIu64 "; this ferry reads version 1: use a newer one", path, version);
	const uint8_t *counts = sources->data + bytes - COUNTS_BYTES;
	uint64_t room = bytes - HEADER_BYTES - COUNTS_BYTES;
	sources->documents = load_le64(counts);
	sources->paths = load_le64(counts + 8);
	sources->text_bytes = load_le64(counts + 16);
	if (sources->documents != documents)
		return damaged(path, "has another number of documents than the manifest says");
	if (sources->documents > room / RECORD_BYTES || sources->paths > room / 8 ||
		sources->text_bytes > room ||
		sources->documents * RECORD_BYTES + sources->paths * 8 + sources->text_bytes != room)
		return damaged(path, "has a size that does not follow from its counts");
	sources->begins = sources->data + HEADER_BYTES + sources->documents * RECORD_BYTES;
	sources->text = (const char *)sources->begins + sources->paths * 8;
	return STATUS_OK;
}

static enum status check_contents(const struct sources *sources, const char *path)
{
	const uint8_t *records = sources->data + HEADER_BYTES;
	if (sources->text_bytes && sources->text[sources->text_bytes - 1] != 0)
		return damaged(path, "has a path without an end");
	for (uint64_t i = 0; i < sources->paths; i++) {
		uint64_t begin = load_le64(sources->begins + 8 * i);
		if (begin >= sources->text_bytes || (begin && sources->text[begin - 1] != 0))
			return damaged(path, "has a path that begins where none does");
	}
	for (uint64_t i = 0; i < sources->documents; i++)
		if (load_le32(records + i * RECORD_BYTES + 16) >= sources->paths)
			return damaged(path, "names a path that it does not hold");
	return STATUS_OK;
}

/* The caller frees *data, on failure too. */
static enum status read_hashed(const char *path, struct hash128 hash, uint8_t **data, size_t *bytes)
{
	struct stat info;
	*data = NULL;
	TRY(file_stat(path, &info));
	TRY(file_read_all(path, (size_t)info.st_size, (char **)data, bytes));
	return hash128_compare(hash128(*data, *bytes), hash) == 0
		       ? STATUS_OK
		       : damaged(path, "does not match its hash in the manifest");
}

enum status sources_writer_check(const char *directory, const char *name, struct hash128 hash)
{
	uint8_t *data;
	size_t bytes;
	char *path;
	TRY(make_path(directory, name, &path));
	enum status status = read_hashed(path, hash, &data, &bytes);
	free(data);
	free(path);
	return status;
}

static void unload(struct sources *sources)
{
	free(sources->data);
	sources->data = NULL;
}

static enum status read_parts(struct sources *sources, const char *path, const struct corpus_shard *entry)
{
	size_t bytes;
	TRY(read_hashed(path, entry->src_hash, &sources->data, &bytes));
	TRY(place_parts(sources, path, bytes, entry->documents));
	return check_contents(sources, path);
}

/* Shard number sources->shard. */
static enum status load_file(void *user, const char *path)
{
	struct sources *sources = user;
	enum status status =
		read_parts(sources, path, &corpus_get_info(sources->corpus)->shards[sources->shard]);
	if (status != STATUS_OK)
		unload(sources);
	return status;
}

static enum status load_shard(struct sources *sources, uint64_t shard)
{
	char name[32];
	if (sources->data && sources->shard == shard)
		return STATUS_OK;
	unload(sources);
	sources->shard = shard;
	snprintf(name, sizeof name, "%s.src", corpus_get_info(sources->corpus)->shards[shard].name);
	return corpus_use_file(sources->corpus, name, load_file, sources);
}

enum status sources_open(const struct corpus *corpus, struct sources **out)
{
	*out = NULL;
	FAIL_IF(!corpus_get_info(corpus)->sources, STATUS_USAGE,
		"%s: does not tell where its documents came from; `ferry preprocess --sources` keeps that",
		corpus_directory(corpus));
	TRY(memory_alloc((void **)out, 1, sizeof **out, "sources"));
	(*out)->corpus = corpus;
	return STATUS_OK;
}

void sources_close(struct sources *sources)
{
	if (!sources)
		return;
	unload(sources);
	free(sources);
}

enum status sources_get(struct sources *sources, uint64_t document, struct source *out)
{
	uint64_t shard;
	TRY(corpus_shard_of(sources->corpus, document, &shard));
	TRY(load_shard(sources, shard));
	uint64_t number = document - corpus_get_info(sources->corpus)->shards[shard].first_document;
	const uint8_t *record = sources->data + HEADER_BYTES + number * RECORD_BYTES;
	uint32_t path = load_le32(record + 16);
	*out = (struct source){.path = sources->text + load_le64(sources->begins + 8 * (uint64_t)path),
		.line = load_le64(record),
		.byte = load_le64(record + 8)};
	return STATUS_OK;
}

enum status sources_check(const struct corpus *corpus, uint64_t shard)
{
	struct sources *sources;
	TRY(sources_open(corpus, &sources));
	enum status status = load_shard(sources, shard);
	sources_close(sources);
	return status;
}
