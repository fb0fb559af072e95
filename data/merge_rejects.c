#include "data/merge_rejects.h"

#include "common/file.h"
#include "common/json.h"
#include "common/memory.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REJECT_LINE = 1 << 20 /* longest line of rejects.jsonl */ };

struct reject_source {
	char *path;
	FILE *file; /* NULL: at its end */
	char *line;
	size_t capacity;
	ssize_t bytes;
	uint64_t number;
	char *name; /* the line's "file" */
};

static enum status read_reject(struct reject_source *source)
{
	free(source->name);
	source->name = NULL;
	source->bytes = getline(&source->line, &source->capacity, source->file);
	if (source->bytes < 0) {
		bool failed = ferror(source->file);
		(void)fclose(source->file); /* only read: closing it cannot lose anything */
		source->file = NULL;
		return failed ? error_set(STATUS_IO, "%s: cannot read", source->path) : STATUS_OK;
	}
	source->number++;
	FAIL_IF(source->bytes > REJECT_LINE, STATUS_CORRUPT, "%s: line %" PRIu64 " is too long", source->path,
		source->number);
	cJSON *json;
	const char *name = NULL;
	enum status status = json_parse(source->line, (size_t)source->bytes, false, NULL, &json);
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

static enum status open_rejects(struct corpus *const *corpora, size_t count, struct reject_source *sources)
{
	for (size_t i = 0; i < count; i++) {
		struct reject_source *source = &sources[i];
		TRY(corpus_file_path(corpora[i], "rejects.jsonl", &source->path));
		if (!file_exists(source->path))
			continue;
		source->file = fopen(source->path, "re");
		if (!source->file)
			return error_set_errno(STATUS_IO, "%s: cannot open", source->path);
		TRY(read_reject(source));
	}
	return STATUS_OK;
}

static enum status merge_lines(struct reject_source *sources, size_t count, struct file_writer *file)
{
	for (;;) {
		struct reject_source *next = NULL;
		for (size_t i = 0; i < count; i++)
			if (sources[i].file && (!next || strcmp(sources[i].name, next->name) < 0))
				next = &sources[i];
		if (!next)
			return STATUS_OK;
		TRY(file_writer_write(file, next->line, (size_t)next->bytes));
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
		if (sources[i].file)
			(void)fclose(sources[i].file);
		free(sources[i].path);
		free(sources[i].line);
		free(sources[i].name);
	}
	free(sources);
	return status;
}
