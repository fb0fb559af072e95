#include "data/corpus_export.h"

#include "common/endian.h"
#include "common/file.h"
#include "common/memory.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 1 << 16 /* tokens or documents at a time */ };

struct export
{
	struct corpus *corpus;
	const struct corpus_info *info;
	const struct corpus_export_config *config;
	unsigned item;     /* bytes of an id in the output */
	int32_t *tokens;   /* [CHUNK] */
	uint8_t *bytes;    /* [CHUNK * 8] */
	uint32_t *lengths; /* [CHUNK] */
};

static enum status output_path(const struct export *export, const char *suffix, char **out)
{
	if (asprintf(out, "%s%s", export->config->prefix, suffix) < 0) {
		*out = NULL;
		return error_set(STATUS_MEMORY, "no memory for a path");
	}
	return STATUS_OK;
}

static enum status check_output(const struct export *export, const char *path)
{
	FAIL_IF(file_exists(path) && !export->config->overwrite, STATUS_USAGE,
		"%s: is there already; choose another --output, or --overwrite to replace it", path);
	return STATUS_OK;
}

static enum status open_output(const struct export *export, const char *suffix, struct file_writer **out)
{
	char *path;
	TRY(output_path(export, suffix, &path));
	enum status status = check_output(export, path);
	if (status == STATUS_OK)
		status = file_remove_temporaries(path); /* of runs that were cut off */
	if (status == STATUS_OK)
		status = file_writer_open(path, out);
	free(path);
	return status;
}

static enum status tell(const struct export *export, uint64_t done)
{
	const struct corpus_export_config *config = export->config;
	FAIL_IF(config->progress && !config->progress(config->user, done, export->info->tokens),
		STATUS_INTERRUPTED, "stopped");
	return STATUS_OK;
}

/* Tokens [first, first + count) of the corpus as they are. */
static enum status copy_tokens(
	struct export *export, struct file_writer *file, uint64_t first, uint64_t count)
{
	while (count) {
		size_t part = count < CHUNK ? (size_t)count : CHUNK;
		TRY(corpus_read_in_order(export->corpus, first, part, export->tokens));
		if (export->item == 2)
			for (size_t i = 0; i < part; i++)
				store_le16(export->bytes + 2 * i, (uint16_t) export->tokens[i]);
		else
			memcpy(export->bytes, export->tokens, part * 4);
		TRY(file_writer_write(file, export->bytes, part * export->item));
		first += part;
		count -= part;
		TRY(tell(export, first));
	}
	return STATUS_OK;
}

/* PREFIX.bin, complete. */
static enum status write_all_tokens(struct export *export, struct file_writer **out)
{
	TRY(open_output(export, ".bin", out));
	TRY(copy_tokens(export, *out, 0, export->info->tokens));
	return file_writer_complete(*out);
}

/* *file is gone, whatever comes. */
static enum status publish(struct file_writer **file)
{
	struct file_writer *published = *file;
	*file = NULL;
	return file_writer_publish(published);
}

/* ---- Megatron-LM's index ---- */

enum section { LENGTHS, OFFSETS, ENDS };

/* A section of the index, documents' numbers in turn. */
static enum status write_section(struct export *export, struct file_writer *file, enum section section)
{
	uint64_t documents = export->info->documents, offset = 0;
	for (uint64_t first = 0; first < documents; first += CHUNK) {
		uint64_t count = documents - first < CHUNK ? documents - first : CHUNK;
		size_t width = section == LENGTHS ? 4 : 8;
		TRY(corpus_document_lengths(export->corpus, first, count, export->lengths));
		for (uint64_t i = 0; i < count; i++) {
			uint8_t *to = export->bytes + i * width;
			if (section == LENGTHS)
				store_le32(to, export->lengths[i]);
			else
				store_le64(to, section == OFFSETS ? offset : first + i);
			offset += (uint64_t) export->lengths[i] * export->item;
		}
		TRY(file_writer_write(file, export->bytes, count * width));
	}
	return STATUS_OK;
}

static enum status write_index(struct export *export, struct file_writer *file)
{
	uint64_t documents = export->info->documents;
	uint8_t header[34] = "MMIDIDX", last[8];
	store_le64(header + 9, 1);
	header[17] = export->item == 2 ? 8 : 4;
	store_le64(header + 18, documents);
	store_le64(header + 26, documents + 1);
	TRY(file_writer_write(file, header, sizeof header));
	TRY(write_section(export, file, LENGTHS));
	TRY(write_section(export, file, OFFSETS));
	TRY(write_section(export, file, ENDS));
	store_le64(last, documents);
	return file_writer_write(file, last, sizeof last);
}

static enum status remove_index(const struct export *export)
{
	char *path;
	TRY(output_path(export, ".idx", &path));
	enum status status = file_remove_synced(path);
	free(path);
	return status;
}

/* The old index goes before the new ids come, so that they never stand together; and the old pair stays until the new
 * one is on the disk, which may be full. */
static enum status export_megatron(struct export *export)
{
	struct file_writer *index = NULL, *tokens = NULL;
	enum status status = open_output(export, ".idx", &index);
	if (status == STATUS_OK)
		status = write_index(export, index);
	if (status == STATUS_OK)
		status = file_writer_complete(index);
	if (status == STATUS_OK)
		status = write_all_tokens(export, &tokens);
	if (status == STATUS_OK && export->config->overwrite)
		status = remove_index(export);
	if (status == STATUS_OK)
		status = publish(&tokens);
	if (status == STATUS_OK)
		status = publish(&index);
	file_writer_abandon(tokens);
	file_writer_abandon(index);
	return status;
}

static enum status export_nanogpt(struct export *export)
{
	struct file_writer *tokens = NULL;
	enum status status = write_all_tokens(export, &tokens);
	if (status == STATUS_OK)
		status = publish(&tokens);
	file_writer_abandon(tokens);
	return status;
}

/* ---- llm.c's ---- */

/* Documents from `first` on that make a file: *documents and their *tokens, which begin at token *start. */
static enum status plan_file(struct export *export, uint64_t first, uint64_t *documents, uint64_t *tokens)
{
	*documents = *tokens = 0;
	while (first + *documents < export->info->documents) {
		uint64_t at = first + *documents, left = export->info->documents - at;
		uint64_t count = left < CHUNK ? left : CHUNK;
		TRY(corpus_document_lengths(export->corpus, at, count, export->lengths));
		for (uint64_t i = 0; i < count; i++) {
			if (*documents && *tokens + export->lengths[i] > export->config->file_tokens)
				return STATUS_OK;
			*tokens += export->lengths[i];
			++*documents;
		}
	}
	return STATUS_OK;
}

/* Each document ends in EOD and the one before it does too: one EOD moves from the end to the beginning. */
static enum status write_llmc_file(
	struct export *export, struct file_writer *file, uint64_t first, uint64_t tokens)
{
	uint8_t header[LLMC_HEADER] = {0}, eod[2];
	store_le32(header, LLMC_MAGIC);
	store_le32(header + 4, LLMC_VERSION);
	store_le32(header + 8, (uint32_t)tokens);
	store_le16(eod, (uint16_t) export->info->eod);
	TRY(file_writer_write(file, header, sizeof header));
	TRY(file_writer_write(file, eod, sizeof eod));
	return copy_tokens(export, file, first, tokens - 1);
}

struct llmc_files {
	struct file_writer **files; /* [count], complete; NULL once published */
	size_t capacity, count;
};

static enum status llmc_path(const struct export *export, size_t number, char **path)
{
	char suffix[32];
	snprintf(suffix, sizeof suffix, "_%06zu.bin", number);
	return output_path(export, suffix, path);
}

/* Of documents [first, first + documents), which begin at token `token`. */
static enum status complete_llmc_file(
	struct export *export, struct llmc_files *set, uint64_t token, uint64_t tokens)
{
	char suffix[32];
	snprintf(suffix, sizeof suffix, "_%06zu.bin", set->count);
	TRY(memory_grow(
		(void **)&set->files, &set->capacity, set->count + 1, sizeof *set->files, "the files"));
	struct file_writer **file = &set->files[set->count];
	TRY(open_output(export, suffix, file));
	set->count++;
	TRY(write_llmc_file(export, *file, token, tokens));
	return file_writer_complete(*file);
}

static enum status complete_llmc_files(struct export *export, struct llmc_files *set)
{
	uint64_t document = 0, token = 0;
	while (document < export->info->documents) {
		uint64_t documents, tokens;
		TRY(plan_file(export, document, &documents, &tokens));
		FAIL_IF(tokens > INT32_MAX, STATUS_UNSUPPORTED, "document %" PRIu64 " is too long for llm.c",
			document);
		TRY(complete_llmc_file(export, set, token, tokens));
		document += documents;
		token += tokens;
	}
	return STATUS_OK;
}

/* The file behind the last would be taken for a part of the set. */
static enum status check_behind(const struct export *export, size_t number)
{
	char *path;
	TRY(llmc_path(export, number, &path));
	enum status status = check_output(export, path);
	free(path);
	return status;
}

/* It and what follows it; the last first, so that the same run again finds what this one, ended, left. */
static enum status remove_behind(const struct export *export, size_t number)
{
	size_t end = number;
	bool there = true;
	for (; there; end++) {
		char *path;
		TRY(llmc_path(export, end, &path));
		there = file_exists(path);
		free(path);
	}
	for (end--; end > number; end--) {
		char *path;
		TRY(llmc_path(export, end - 1, &path));
		enum status status = file_remove_synced(path);
		free(path);
		TRY(status);
	}
	return STATUS_OK;
}

static enum status publish_llmc_files(struct export *export, struct llmc_files *set)
{
	TRY(check_behind(export, set->count));
	for (size_t i = 0; i < set->count; i++)
		TRY(publish(&set->files[i]));
	return remove_behind(export, set->count);
}

static enum status export_llmc(struct export *export, uint64_t *files)
{
	struct llmc_files set = {0};
	enum status status = complete_llmc_files(export, &set);
	if (status == STATUS_OK)
		status = publish_llmc_files(export, &set);
	for (size_t i = 0; i < set.count; i++)
		file_writer_abandon(set.files[i]);
	free(set.files);
	*files = set.count;
	return status;
}

/* ---- all ---- */

static enum status export_corpus(struct export *export, uint64_t *files)
{
	TRY(memory_alloc((void **)&export->tokens, CHUNK, sizeof *export->tokens, "tokens"));
	TRY(memory_alloc((void **)&export->bytes, CHUNK, 8, "tokens"));
	TRY(memory_alloc((void **)&export->lengths, CHUNK, sizeof *export->lengths, "document lengths"));
	switch (export->config->format) {
	case TOKEN_FORMAT_MEGATRON:
		*files = 2;
		return export_megatron(export);
	case TOKEN_FORMAT_LLMC:
		return export_llmc(export, files);
	case TOKEN_FORMAT_NANOGPT:
		*files = 1;
		return export_nanogpt(export);
	case TOKEN_FORMAT_NONE:
		break;
	}
	return error_set(STATUS_USAGE, "no format to export to");
}

enum status corpus_export_run(
	struct corpus *corpus, const struct corpus_export_config *config, uint64_t *files)
{
	const struct corpus_info *info = corpus_get_info(corpus);
	struct export export = {.corpus = corpus,
		.info = info,
		.config = config,
		.item = info->dtype == CORPUS_U16 || config->format != TOKEN_FORMAT_MEGATRON ? 2 : 4};
	*files = 0;
	FAIL_IF(export.item == 2 && info->vocabulary > 1 << 16, STATUS_UNSUPPORTED,
		"%s: has %" PRIu32 " ids, which %s's u16 cannot hold; --to megatron can",
		corpus_directory(corpus), info->vocabulary, token_format_name(config->format));
	FAIL_IF(config->format == TOKEN_FORMAT_LLMC &&
			(config->file_tokens < 1 || config->file_tokens > INT32_MAX),
		STATUS_USAGE, "files of %" PRIu64 " tokens are not possible; 1 to 2147483647 are",
		config->file_tokens);
	enum status status = export_corpus(&export, files);
	free(export.tokens);
	free(export.bytes);
	free(export.lengths);
	return status;
}
