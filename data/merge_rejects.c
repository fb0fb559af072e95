#include "data/merge_rejects.h"

#include "common/file.h"
#include "common/json.h"
#include "common/memory.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { REJECT_LINE = 1 << 20 /* longest line of rejects.jsonl */ };

struct reject_source {
	char *path;
	int fd;              /* -1: at its end */
	char *buffer;        /* [REJECT_LINE] */
	size_t begin, bytes; /* of it: what is not read yet */
	const char *line;    /* in it, with its end */
	size_t line_bytes;
	uint64_t number;
	char *name; /* the line's "file" */
};

/* The next line, which may be the last and have no end. 0 bytes: there is none. */
static enum status read_line(struct reject_source *source)
{
	char *end = memchr(source->buffer + source->begin, '\n', source->bytes);
	if (!end && source->bytes < REJECT_LINE) {
		size_t got;
		memmove(source->buffer, source->buffer + source->begin, source->bytes);
		source->begin = 0;
		TRY(file_read_some(source->fd, source->path, source->buffer + source->bytes,
			REJECT_LINE - source->bytes, &got));
		source->bytes += got;
		end = memchr(source->buffer, '\n', source->bytes);
	}
	FAIL_IF(!end && source->bytes == REJECT_LINE, STATUS_CORRUPT, "%s: line %" PRIu64 " is too long",
		source->path, source->number + 1);
	source->line = source->buffer + source->begin;
	source->line_bytes = end ? (size_t)(end - source->line) + 1 : source->bytes;
	source->begin += source->line_bytes;
	source->bytes -= source->line_bytes;
	source->number += source->line_bytes > 0;
	return STATUS_OK;
}

static enum status read_reject(struct reject_source *source)
{
	free(source->name);
	source->name = NULL;
	TRY(read_line(source));
	if (!source->line_bytes) {
		int fd = source->fd;
		source->fd = -1;
		return file_close(fd, source->path);
	}
	cJSON *json;
	const char *name = NULL;
	enum status status = json_parse(source->line, source->line_bytes, false, NULL, &json);
	if (status == STATUS_OK)
		status = json_get_string(source->path, json, "file", &name);
	if (status == STATUS_OK) {
		source->name = strdup(name);
		if (!source->name)
			status = error_set(STATUS_MEMORY, "no memory for a path");
	}
	cJSON_Delete(json);
	return status == STATUS_OK ? STATUS_OK
				   : error_context(status, "%s: line %" PRIu64, source->path, source->number);
}

static enum status open_source(void *user, const char *path)
{
	struct reject_source *source = user;
	free(source->path);
	source->path = strdup(path);
	FAIL_IF(!source->path, STATUS_MEMORY, "no memory for a path");
	return file_open_read(path, &source->fd);
}

static enum status open_rejects(struct corpus *const *corpora, size_t count, struct reject_source *sources)
{
	for (size_t i = 0; i < count; i++) {
		struct reject_source *source = &sources[i];
		enum status status = corpus_use_file(corpora[i], "rejects.jsonl", open_source, source);
		if (status == STATUS_IO && !file_exists(source->path))
			continue;
		TRY(status);
		TRY(memory_alloc((void **)&source->buffer, REJECT_LINE, 1, source->path));
		TRY(read_reject(source));
	}
	return STATUS_OK;
}

static enum status merge_lines(struct reject_source *sources, size_t count, struct file_writer *file)
{
	for (;;) {
		struct reject_source *next = NULL;
		for (size_t i = 0; i < count; i++)
			if (sources[i].fd >= 0 && (!next || strcmp(sources[i].name, next->name) < 0))
				next = &sources[i];
		if (!next)
			return STATUS_OK;
		TRY(file_writer_write(file, next->line, next->line_bytes));
		TRY(read_reject(next));
	}
}

enum status merge_rejects(struct corpus *const *corpora, size_t count, const char *directory)
{
	struct reject_source *sources;
	struct file_writer *file = NULL;
	char *path;
	TRY(path_join(&path, directory, "rejects.jsonl"));
	enum status status = memory_alloc((void **)&sources, count, sizeof *sources, "the inputs");
	for (size_t i = 0; sources && i < count; i++)
		sources[i].fd = -1;
	if (status == STATUS_OK)
		status = file_writer_open(path, &file);
	free(path);
	if (status == STATUS_OK)
		status = open_rejects(corpora, count, sources);
	if (status == STATUS_OK)
		status = merge_lines(sources, count, file);
	if (status == STATUS_OK)
		status = file_writer_publish(file);
	else
		file_writer_abandon(file);
	for (size_t i = 0; sources && i < count; i++) {
		if (sources[i].fd >= 0)
			(void)file_system->close(sources[i].fd); /* the first error stays */
		free(sources[i].path);
		free(sources[i].buffer);
		free(sources[i].name);
	}
	free(sources);
	return status;
}
