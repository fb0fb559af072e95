/* Where records are in the inputs, once pass 1 has counted lines: rejects.jsonl, and the documents' sources.
 */
#include "data/preprocess_job.h"

#include "common/file.h"
#include "common/memory.h"
#include "data/corpus_output.h"
#include "tokenizer/utf8.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- lines ---- */

/* The lines before each piece of a unit. *lines counts those so far of the file that is cut into pieces. */
static enum status count_unit(struct preprocess_job *job, size_t number, uint64_t *lines)
{
	const struct unit *unit = &job->units[number];
	char path[JOB_PATH];
	uint64_t *own;
	size_t pieces;
	job_unit_path(job, number, path);
	TRY(spill_read_lines(path, &job->format, &own, &pieces));
	for (size_t i = 0; i < pieces && pieces == unit->pieces; i++) {
		size_t piece = unit->first_piece + i;
		if (piece == 0 || job->pieces[piece].file != job->pieces[piece - 1].file)
			*lines = 0;
		job->lines_before[piece] = *lines;
		*lines += own[i];
	}
	free(own);
	FAIL_IF(pieces != unit->pieces, STATUS_CORRUPT, "%s: is another unit's; remove it and run again",
		path);
	return STATUS_OK;
}

enum status job_count_lines(struct preprocess_job *job)
{
	uint64_t lines = 0;
	TRY(memory_alloc(
		(void **)&job->lines_before, job->piece_count, sizeof *job->lines_before, "line counts"));
	for (size_t i = 0; i < job->unit_count; i++)
		TRY(count_unit(job, i, &lines));
	return STATUS_OK;
}

enum status job_find_place(
	const struct preprocess_job *job, const struct spill_place *place, struct source *out)
{
	FAIL_IF(place->unit >= job->unit_count || place->piece >= job->units[place->unit].pieces,
		STATUS_CORRUPT, "%s: has a record of a piece that is not there; remove it and run again",
		job->work);
	size_t piece = job->units[place->unit].first_piece + place->piece;
	*out = (struct source){.path = job->inputs.files[job->pieces[piece].file].path,
		.line = place->line ? job->lines_before[piece] + place->line : 0,
		.byte = place->offset};
	return STATUS_OK;
}

/* ---- rejects.jsonl ---- */

struct reject_output {
	const struct preprocess_job *job;
	struct file_writer *file;
	uint32_t unit;
};

static enum status write_escaped(struct file_writer *file, const char *text, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++) {
		char escaped[8];
		unsigned char c = (unsigned char)text[i];
		int length = 1;
		escaped[0] = (char)c;
		if (c == '"' || c == '\\')
			length = snprintf(escaped, sizeof escaped, "\\%c", c);
		else if (c < 0x20)
			length = snprintf(escaped, sizeof escaped, "\\u%04x", c);
		TRY(file_writer_write(file, escaped, (size_t)length));
	}
	return STATUS_OK;
}

/* A path need not be UTF-8, JSON must. */
static enum status write_path(struct file_writer *file, const char *path)
{
	char *repaired;
	uint64_t replaced;
	size_t bytes = strlen(path);
	TRY(memory_alloc((void **)&repaired, UTF8_REPAIR_LIMIT(bytes), 1, "a path"));
	bytes = utf8_repair(path, bytes, repaired, &replaced);
	enum status status = write_escaped(file, repaired, bytes);
	free(repaired);
	return status;
}

static enum status write_text(struct file_writer *file, const char *text)
{
	return file_writer_write(file, text, strlen(text));
}

static enum status write_reject(void *user, const struct spill_reject *reject)
{
	struct reject_output *out = user;
	struct spill_place at = reject->place;
	struct source source = {0};
	char place[96];
	at.unit = out->unit;
	TRY(job_find_place(out->job, &at, &source));
	TRY(write_text(out->file, "{\"file\": \""));
	TRY(write_path(out->file, source.path));
	if (source.line)
		snprintf(place, sizeof place,
			"\", \"line\": %" PRIu64 ", \"byte\": %" PRIu64 ", \"reason\": \"", source.line,
			source.byte);
	else
		snprintf(place, sizeof place, "\", \"byte\": %" PRIu64 ", \"reason\": \"", source.byte);
	TRY(write_text(out->file, place));
	TRY(write_escaped(out->file, reject->reason, reject->reason_bytes));
	return write_text(out->file, "\"}\n");
}

static enum status write_units(struct reject_output *out)
{
	for (size_t i = 0; i < out->job->unit_count; i++) {
		char path[JOB_PATH];
		out->unit = (uint32_t)i;
		job_unit_path(out->job, i, path);
		TRY(spill_read_rejects(path, &out->job->format, write_reject, out));
	}
	return STATUS_OK;
}

/* Inputs are sorted, so units are, and so are rejects. */
enum status job_write_rejects(const struct preprocess_job *job, const char *directory)
{
	struct reject_output out = {.job = job};
	char *path;
	if (job->counts.rejected == 0)
		return corpus_output_remove_file(directory, "rejects.jsonl");
	TRY(path_join(&path, directory, "rejects.jsonl"));
	enum status status = file_writer_open(path, &out.file);
	free(path);
	TRY(status);
	status = write_units(&out);
	if (status == STATUS_OK)
		return file_writer_publish(out.file);
	file_writer_abandon(out.file);
	return status;
}
