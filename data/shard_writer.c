#include "data/shard_writer.h"

#include "common/endian.h"
#include "common/file.h"
#include "common/memory.h"
#include "data/hash_tree.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GATHERED = 64 << 10 };

/* A file and its hash tree, written together; small writes are gathered first. */
struct hashed_file {
	struct file_writer *file;
	struct hash_tree_builder *tree;
	uint8_t *gathered; /* [GATHERED] */
	size_t used;
};

struct shard_writer {
	char *base; /* DIRECTORY/NAME */
	enum corpus_dtype dtype;
	uint32_t eod;
	struct hashed_file bin, key;
	struct sources_writer *sources; /* NULL: without */
	int32_t *lengths;               /* [documents]: tokens of each, EOD included */
	size_t capacity;
	uint64_t documents, tokens, bytes;
};

enum { SUM_HEADER = 64 };

static void hashed_abandon(struct hashed_file *out)
{
	file_writer_abandon(out->file);
	hash_tree_builder_close(out->tree);
	free(out->gathered);
	*out = (struct hashed_file){0};
}

static enum status hashed_open(struct hashed_file *out, const char *base, const char *suffix)
{
	char *path;
	if (asprintf(&path, "%s%s", base, suffix) < 0)
		return error_set(STATUS_MEMORY, "no memory for a path");
	*out = (struct hashed_file){0};
	enum status status = file_writer_open(path, &out->file);
	if (status == STATUS_OK)
		status = hash_tree_builder_open(&out->tree);
	if (status == STATUS_OK)
		status = memory_alloc((void **)&out->gathered, GATHERED, 1, "a file buffer");
	free(path);
	if (status != STATUS_OK)
		hashed_abandon(out);
	return status;
}

static enum status hashed_pass_on(struct hashed_file *out, const void *data, size_t bytes)
{
	TRY(hash_tree_builder_add(out->tree, data, bytes));
	return file_writer_write(out->file, data, bytes);
}

static enum status hashed_flush(struct hashed_file *out)
{
	size_t bytes = out->used;
	out->used = 0;
	return hashed_pass_on(out, out->gathered, bytes);
}

static enum status hashed_write(struct hashed_file *out, const void *data, size_t bytes)
{
	if (bytes > GATHERED - out->used)
		TRY(hashed_flush(out));
	if (bytes > GATHERED)
		return hashed_pass_on(out, data, bytes);
	if (bytes)
		memcpy(out->gathered + out->used, data, bytes);
	out->used += bytes;
	return STATUS_OK;
}

/* The first `bytes` of a little-endian number. */
static enum status hashed_write_number(struct hashed_file *out, uint64_t number, size_t bytes)
{
	uint8_t data[8];
	store_le64(data, number);
	return hashed_write(out, data, bytes);
}

/* Publishes the file; its tree stays open for .sum. */
static enum status hashed_publish(struct hashed_file *out)
{
	TRY(hashed_flush(out));
	struct file_writer *file = out->file;
	out->file = NULL;
	return file_writer_publish(file);
}

enum status shard_writer_open(const char *directory, const char *name, enum corpus_dtype dtype, uint32_t eod,
	bool sources, struct shard_writer **out)
{
	struct shard_writer *writer;
	TRY(memory_alloc((void **)&writer, 1, sizeof *writer, "a shard writer"));
	writer->dtype = dtype;
	writer->eod = eod;
	enum status status = path_join(&writer->base, directory, name);
	if (status == STATUS_OK)
		status = hashed_open(&writer->bin, writer->base, ".bin");
	if (status == STATUS_OK)
		status = hashed_open(&writer->key, writer->base, ".key");
	if (status == STATUS_OK && sources)
		status = sources_writer_open(directory, name, &writer->sources);
	if (status != STATUS_OK) {
		shard_writer_abandon(writer);
		return status;
	}
	*out = writer;
	return STATUS_OK;
}

void shard_writer_abandon(struct shard_writer *writer)
{
	if (!writer)
		return;
	hashed_abandon(&writer->bin);
	hashed_abandon(&writer->key);
	sources_writer_abandon(writer->sources);
	free(writer->lengths);
	free(writer->base);
	free(writer);
}

enum status shard_writer_add(struct shard_writer *writer, uint64_t key, const void *tokens, uint32_t count,
	uint32_t bytes, const struct source *source)
{
	size_t item = writer->dtype == CORPUS_U16 ? 2 : 4;
	TRY(hashed_write(&writer->bin, tokens, count * item));
	TRY(hashed_write_number(&writer->bin, writer->eod, item));
	TRY(hashed_write_number(&writer->key, key, 8));
	if (writer->sources)
		TRY(sources_writer_add(writer->sources, source));
	TRY(memory_grow((void **)&writer->lengths, &writer->capacity, writer->documents + 1,
		sizeof *writer->lengths, "a shard's index"));
	writer->lengths[writer->documents++] = (int32_t)(count + 1);
	writer->tokens += count + 1;
	writer->bytes += bytes;
	return STATUS_OK;
}

static enum status write_index(const struct shard_writer *writer, struct hashed_file *out)
{
	uint8_t header[34] = "MMIDIDX";
	uint64_t offset = 0, item = writer->dtype == CORPUS_U16 ? 2 : 4;
	store_le64(header + 9, 1);
	header[17] = writer->dtype == CORPUS_U16 ? 8 : 4;
	store_le64(header + 18, writer->documents);
	store_le64(header + 26, writer->documents + 1);
	TRY(hashed_write(out, header, sizeof header));
	for (uint64_t i = 0; i < writer->documents; i++)
		TRY(hashed_write_number(out, (uint32_t)writer->lengths[i], 4));
	for (uint64_t i = 0; i < writer->documents; i++) {
		TRY(hashed_write_number(out, offset, 8));
		offset += (uint32_t)writer->lengths[i] * item;
	}
	for (uint64_t i = 0; i <= writer->documents; i++)
		TRY(hashed_write_number(out, i, 8));
	return STATUS_OK;
}

/* What .sum consists of: header, trees, last. */
struct sum {
	uint8_t header[SUM_HEADER], last[8];
	const void *hashes[3]; /* the builders' */
	size_t hash_bytes[3];
	uint64_t roots[3];
};

static enum status make_sum(struct hash_tree_builder *const trees[3], struct sum *sum)
{
	*sum = (struct sum){.header = "FERRYSUM"};
	store_le64(sum->header + 8, 1);
	for (int i = 0; i < 3; i++) {
		struct hash_tree_shape shape;
		const uint64_t *hashes;
		uint64_t bytes;
		TRY(hash_tree_builder_finish(trees[i], &shape, &hashes, &bytes));
		sum->hashes[i] = hashes;
		sum->hash_bytes[i] = shape.total * 8;
		sum->roots[i] = shape.total ? hashes[shape.total - 1] : 0;
		store_le64(sum->header + 16 + 16 * i, bytes);
		store_le64(sum->header + 24 + 16 * i, sum->roots[i]);
	}
	store_le64(sum->last, hash64(sum->header, sizeof sum->header));
	return STATUS_OK;
}

static enum status write_sum(const struct shard_writer *writer, const struct sum *sum)
{
	char *path;
	struct file_writer *file;
	if (asprintf(&path, "%s.sum", writer->base) < 0)
		return error_set(STATUS_MEMORY, "no memory for a path");
	enum status status = file_writer_open(path, &file);
	free(path);
	TRY(status);
	status = file_writer_write(file, sum->header, sizeof sum->header);
	for (int i = 0; i < 3 && status == STATUS_OK; i++)
		status = file_writer_write(file, sum->hashes[i], sum->hash_bytes[i]);
	if (status == STATUS_OK)
		status = file_writer_write(file, sum->last, sizeof sum->last);
	if (status == STATUS_OK)
		return file_writer_publish(file);
	file_writer_abandon(file);
	return status;
}

static enum status publish_sources(struct shard_writer *writer, struct hash128 *hash)
{
	struct sources_writer *sources = writer->sources;
	writer->sources = NULL;
	return sources ? sources_writer_publish(sources, hash) : STATUS_OK;
}

static enum status publish_files(
	struct shard_writer *writer, struct hashed_file *index, struct shard_summary *summary)
{
	struct sum sum;
	TRY(hashed_publish(&writer->bin));
	TRY(write_index(writer, index));
	TRY(hashed_publish(index));
	TRY(hashed_publish(&writer->key));
	TRY(make_sum((struct hash_tree_builder *[]){writer->bin.tree, index->tree, writer->key.tree}, &sum));
	summary->bin_root = sum.roots[0];
	summary->idx_root = sum.roots[1];
	summary->key_root = sum.roots[2];
	TRY(write_sum(writer, &sum));
	return publish_sources(writer, &summary->src_hash);
}

enum status shard_writer_publish(struct shard_writer *writer, struct shard_summary *summary)
{
	struct hashed_file index;
	*summary = (struct shard_summary){
		.documents = writer->documents, .tokens = writer->tokens, .bytes = writer->bytes};
	enum status status = hashed_open(&index, writer->base, ".idx");
	if (status == STATUS_OK) {
		status = publish_files(writer, &index, summary);
		hashed_abandon(&index);
	}
	shard_writer_abandon(writer);
	return status;
}

/* ---- an earlier run's ---- */

enum { FILES = 4, FILES_WITH_SOURCES = 5 };
static const char *const suffixes[FILES_WITH_SOURCES] = {"bin", "idx", "key", "sum", "src"};

bool shard_writer_is_there(const char *directory, const char *name, bool sources)
{
	for (int i = 0; i < (sources ? FILES_WITH_SOURCES : FILES); i++) {
		char *path;
		if (asprintf(&path, "%s/%s.%s", directory, name, suffixes[i]) < 0)
			return false;
		bool there = file_exists(path);
		free(path);
		if (!there)
			return false;
	}
	return true;
}

static enum status damaged(const char *path)
{
	return error_set(STATUS_CORRUPT, "%s: is not what was written; it is damaged", path);
}

static enum status read_tree(int fd, const char *path, struct hash_tree_builder *tree)
{
	uint8_t *data;
	size_t got = GATHERED;
	TRY(memory_alloc((void **)&data, GATHERED, 1, "a file buffer"));
	enum status status = STATUS_OK;
	while (status == STATUS_OK && got == GATHERED) {
		status = file_read_some(fd, path, data, GATHERED, &got);
		if (status == STATUS_OK)
			status = hash_tree_builder_add(tree, data, got);
	}
	free(data);
	return status;
}

static enum status build_tree(const char *path, struct hash_tree_builder **tree)
{
	int fd;
	TRY(hash_tree_builder_open(tree));
	TRY(file_open_read(path, &fd));
	enum status status = read_tree(fd, path, *tree);
	if (status != STATUS_OK) {
		(void)file_system->close(fd); /* the first error stays */
		return status;
	}
	return file_close(fd, path);
}

static enum status compare_sum(const char *path, const struct sum *sum)
{
	char *data;
	size_t bytes, wanted = sizeof sum->header + sizeof sum->last, at = sizeof sum->header;
	struct stat info;
	for (int i = 0; i < 3; i++)
		wanted += sum->hash_bytes[i];
	TRY(file_stat(path, &info));
	if ((uint64_t)info.st_size != wanted)
		return damaged(path);
	TRY(file_read_all(path, wanted, &data, &bytes));
	bool same = bytes == wanted && memcmp(data, sum->header, sizeof sum->header) == 0 &&
		    memcmp(data + wanted - sizeof sum->last, sum->last, sizeof sum->last) == 0;
	for (int i = 0; i < 3 && same; at += sum->hash_bytes[i++])
		same = !sum->hash_bytes[i] || memcmp(data + at, sum->hashes[i], sum->hash_bytes[i]) == 0;
	free(data);
	return same ? STATUS_OK : damaged(path);
}

static enum status check_summed(const char *directory, const char *name, const struct shard_summary *summary)
{
	const uint64_t roots[3] = {summary->bin_root, summary->idx_root, summary->key_root};
	struct hash_tree_builder *trees[3] = {NULL};
	struct sum sum;
	char *paths[FILES] = {NULL};
	enum status status = STATUS_OK;
	for (int i = 0; i < FILES && status == STATUS_OK; i++)
		if (asprintf(&paths[i], "%s/%s.%s", directory, name, suffixes[i]) < 0) {
			paths[i] = NULL;
			status = error_set(STATUS_MEMORY, "no memory for a path");
		}
	for (int i = 0; i < 3 && status == STATUS_OK; i++)
		status = build_tree(paths[i], &trees[i]);
	if (status == STATUS_OK)
		status = make_sum(trees, &sum);
	for (int i = 0; i < 3 && status == STATUS_OK; i++)
		if (sum.roots[i] != roots[i])
			status = damaged(paths[i]);
	if (status == STATUS_OK)
		status = compare_sum(paths[3], &sum);
	for (int i = 0; i < 3; i++)
		hash_tree_builder_close(trees[i]);
	for (int i = 0; i < FILES; i++)
		free(paths[i]);
	return status;
}

enum status shard_writer_check(
	const char *directory, const char *name, bool sources, const struct shard_summary *summary)
{
	TRY(check_summed(directory, name, summary));
	return sources ? sources_writer_check(directory, name, summary->src_hash) : STATUS_OK;
}
