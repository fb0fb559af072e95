/* Pass 1: documents to tokens to spill files. */
#include "data/preprocess_job.h"

#include "common/file.h"
#include "common/memory.h"
#include "common/threads.h"
#include "data/jsonl.h"
#include "tokenizer/utf8.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROGRESS_BYTES = 256 << 10 };
#define LARGEST_BUFFER (UINT64_C(256) << 20)

struct worker {
	bool open;
	struct token_reader *tokens; /* of files of ids; otherwise: */
	struct input_reader *reader;
	struct jsonl *jsonl;
	struct encoder *encoder;
	struct spill_writer *spill;
	uint32_t *ids; /* [id_capacity] */
	char *repaired;
	size_t id_capacity, repaired_capacity;
	uint64_t *lines; /* [line_capacity]: of each piece of the unit */
	size_t line_capacity;

	/* since progress was last told */
	uint64_t documents, tokens_done, text_bytes, stored;
};

struct crew {
	struct preprocess_job *job;
	struct worker *workers; /* [config->workers] */
};

/* Where a record is, for messages and rejects. */
struct place {
	struct preprocess_job *job;
	struct worker *worker;
	const struct unit *unit;
	uint32_t piece; /* within the unit */
	const struct input_file *file;
	const struct input_record *record;
};

static enum status open_worker(struct preprocess_job *job, struct worker *worker)
{
	if (worker->open)
		return STATUS_OK;
	worker->open = true;
	uint64_t memory = job->config->memory / (uint64_t)job->config->workers / 2;
	if (memory > LARGEST_BUFFER)
		memory = LARGEST_BUFFER;
	TRY(spill_writer_create(&job->format, memory, &worker->spill));
	const struct tokenizer *tokenizer = job->config->tokenizer;
	if (job->config->token_format)
		return token_reader_create(job->config->token_format, tokenizer_vocabulary(tokenizer),
			tokenizer_eod(tokenizer), job->config->max_bytes, &worker->tokens);
	TRY(input_reader_create(&worker->reader));
	TRY(jsonl_open(job->config->text_key, &worker->jsonl));
	return encoder_open(tokenizer, &worker->encoder);
}

static void close_worker(struct worker *worker)
{
	token_reader_destroy(worker->tokens);
	input_reader_destroy(worker->reader);
	jsonl_close(worker->jsonl);
	if (worker->encoder)
		encoder_close(worker->encoder);
	spill_writer_destroy(worker->spill);
	free(worker->ids);
	free(worker->repaired);
	free(worker->lines);
}

static enum status tell_progress(struct preprocess_job *job, struct worker *worker, bool now)
{
	uint64_t stored =
		worker->tokens ? token_reader_stored(worker->tokens) : input_reader_stored(worker->reader);
	atomic_fetch_add(&job->bytes_done, stored - worker->stored);
	atomic_fetch_add(&job->documents, worker->documents);
	atomic_fetch_add(&job->tokens, worker->tokens_done);
	atomic_fetch_add(&job->text_bytes, worker->text_bytes);
	worker->stored = stored;
	worker->documents = worker->tokens_done = worker->text_bytes = 0;
	return job_progress(job, now);
}

/* Lines of a plain file that begin before byte `begin` (not 0). Slow; for error messages. */
static uint64_t count_lines(const char *path, uint64_t begin)
{
	static const size_t chunk = 1 << 20;
	uint64_t lines = 1, at = 0, end = begin - 1; /* a newline at begin - 1 begins a line at begin */
	int fd;
	char *buffer = malloc(chunk);
	if (!buffer || file_open_read(path, &fd) != STATUS_OK) {
		free(buffer);
		return 0;
	}
	while (at < end) {
		size_t n = end - at < chunk ? (size_t)(end - at) : chunk;
		if (file_read_at(fd, path, buffer, n, at) != STATUS_OK)
			break;
		for (const char *c = buffer; (c = memchr(c, '\n', (size_t)(buffer + n - c))); c++)
			lines++;
		at += n;
	}
	(void)file_system->close(fd);
	free(buffer);
	return lines;
}

/* An error at `column` of the record, naming file and line (JSONL) or byte. */
static enum status record_error(const struct place *place, size_t column, const char *what, const char *cure)
{
	const struct input_record *record = place->record;
	if (place->file->kind == INPUT_TEXT)
		return error_set(STATUS_CORRUPT, "%s: byte %" PRIu64 ": %s; %s", place->file->path,
			record->offset + column, what, cure);
	uint64_t begin = place->job->pieces[place->unit->first_piece + place->piece].begin;
	uint64_t line = record->line + (begin ? count_lines(place->file->path, begin) : 0);
	return error_set(STATUS_CORRUPT, "%s: line %" PRIu64 " (byte %" PRIu64 "): %s; %s", place->file->path,
		line, record->offset + column, what, cure);
}

static struct spill_place spill_place(const struct place *place)
{
	return (struct spill_place){.piece = place->piece,
		.line = place->file->kind == INPUT_JSONL ? place->record->line : 0,
		.offset = place->record->offset};
}

static enum status list_reject(const struct place *place, const char *reason)
{
	const struct spill_place at = spill_place(place);
	return spill_writer_reject(place->worker->spill, &at, reason);
}

static enum status reject(const struct place *place, const char *reason)
{
	if (place->job->config->fail_on_bad_line)
		return record_error(place, 0, reason, "mend it, or let bad lines be skipped");
	return list_reject(place, reason);
}

static enum status refuse_invalid(const struct place *place, size_t column)
{
	return record_error(place, column, "not valid UTF-8",
		"mend it, or run without --strict to have it replaced by U+FFFD");
}

/* To the spill, unless it is too short. */
static enum status add_document(const struct place *place, const char *text, size_t bytes,
	const uint32_t *ids, size_t count, uint64_t repaired)
{
	struct worker *worker = place->worker;
	uint64_t least = place->job->config->min_tokens;
	if (count < least) {
		char reason[96];
		snprintf(reason, sizeof reason, "the document has fewer than %" PRIu64 " tokens", least);
		return list_reject(place, reason);
	}
	const struct spill_place at = spill_place(place);
	TRY(spill_writer_add(worker->spill, hash128(text, bytes), bytes, ids, count, &at));
	spill_writer_count(worker->spill, 0, repaired);
	worker->documents++;
	worker->tokens_done += count + 1;
	worker->text_bytes += bytes;
	return STATUS_OK;
}

/* A document's text, valid UTF-8, to the spill. */
static enum status take_document(const struct place *place, const char *text, size_t bytes, uint64_t repaired)
{
	struct worker *worker = place->worker;
	size_t count;
	if (bytes > place->job->config->max_bytes) {
		char reason[96];
		snprintf(reason, sizeof reason, "the document is longer than %" PRIu64 " bytes",
			place->job->config->max_bytes);
		return reject(place, reason);
	}
	if (bytes == 0) {
		spill_writer_count(worker->spill, 1, 0);
		return STATUS_OK;
	}
	TRY(memory_grow((void **)&worker->ids, &worker->id_capacity, bytes, sizeof *worker->ids,
		"a document's tokens"));
	TRY(encoder_encode(worker->encoder, text, bytes, worker->ids, &count));
	return add_document(place, text, bytes, worker->ids, count, repaired);
}

/* A document of a file of ids, to the spill: its key is that of the text that they spell. */
static enum status take_ids(const struct place *place, const struct token_document *document)
{
	struct worker *worker = place->worker;
	char *text, reason[96];
	size_t bytes;
	snprintf(reason, sizeof reason, "the document is longer than %" PRIu64 " bytes",
		place->job->config->max_bytes);
	if (document->too_long)
		return reject(place, reason);
	TRY(tokenizer_decode(place->job->config->tokenizer, document->ids, document->count, &text, &bytes));
	enum status status = STATUS_OK;
	if (bytes > place->job->config->max_bytes)
		status = reject(place, reason);
	else if (bytes == 0)
		spill_writer_count(worker->spill, 1, 0);
	else
		status = add_document(place, text, bytes, document->ids, document->count, 0);
	free(text);
	return status;
}

static bool is_blank(const char *line, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		if (!memchr(" \t\r", line[i], 3))
			return false;
	return true;
}

static enum status take_line(const struct place *place)
{
	static const char mark[3] = "\xEF\xBB\xBF";
	const char *line = place->record->data;
	size_t bytes = place->record->bytes, skipped = 0;
	struct jsonl_text text;
	if (place->record->offset == 0 && bytes >= 3 && memcmp(line, mark, 3) == 0)
		skipped = 3;
	if (is_blank(line + skipped, bytes - skipped))
		return STATUS_OK;
	TRY(jsonl_read(place->worker->jsonl, line + skipped, bytes - skipped, &text));
	if (text.reason)
		return reject(place, text.reason);
	if (text.replaced && place->job->config->strict)
		return refuse_invalid(place, skipped + text.replaced_at);
	return take_document(place, text.data, text.bytes, text.replaced);
}

static enum status take_text(const struct place *place)
{
	struct worker *worker = place->worker;
	const char *text = place->record->data;
	size_t bytes = place->record->bytes, invalid = utf8_find_invalid(text, bytes);
	uint64_t replaced;
	if (invalid == bytes)
		return take_document(place, text, bytes, 0);
	if (place->job->config->strict)
		return refuse_invalid(place, invalid);
	TRY(memory_grow((void **)&worker->repaired, &worker->repaired_capacity, UTF8_REPAIR_LIMIT(bytes), 1,
		"a document's text"));
	bytes = utf8_repair(text, bytes, worker->repaired, &replaced);
	return take_document(place, worker->repaired, bytes, replaced);
}

static enum status take_record(const struct place *place)
{
	if (place->record->too_long)
		return reject(place, place->file->kind == INPUT_JSONL ? "the line is too long"
								      : "the document is too long");
	return place->file->kind == INPUT_JSONL ? take_line(place) : take_text(place);
}

/* A line can be six times as long as its text (\u0041), and holds other members too. */
static uint64_t record_limit(const struct preprocess_job *job, const struct input_file *file)
{
	uint64_t most = job->config->max_bytes;
	return file->kind == INPUT_JSONL ? most * 6 + (1 << 20) : most;
}

static enum status take_token_piece(struct place *place)
{
	struct preprocess_job *job = place->job;
	struct worker *worker = place->worker;
	const struct piece *piece = &job->pieces[place->unit->first_piece + place->piece];
	struct token_document document;
	struct input_record record = {0};
	bool more;
	place->file = &job->inputs.files[piece->file];
	place->record = &record;
	TRY(token_reader_open(worker->tokens, &job->inputs, piece->file, piece->begin, piece->end));
	worker->stored = 0;
	for (;;) {
		TRY(token_reader_next(worker->tokens, &document, &more));
		if (!more)
			break;
		record.offset = document.offset;
		TRY(take_ids(place, &document));
		if (token_reader_stored(worker->tokens) - worker->stored >= PROGRESS_BYTES)
			TRY(tell_progress(job, worker, false));
	}
	TRY(tell_progress(job, worker, false));
	worker->lines[place->piece] = 0;
	return token_reader_finish(worker->tokens);
}

static enum status take_piece(struct place *place)
{
	struct preprocess_job *job = place->job;
	struct worker *worker = place->worker;
	const struct piece *piece = &job->pieces[place->unit->first_piece + place->piece];
	struct input_record record;
	uint64_t told = 0;
	bool more;
	place->file = &job->inputs.files[piece->file];
	place->record = &record;
	TRY(input_reader_open(worker->reader, place->file, piece->begin, piece->end,
		job->config->document_separator, record_limit(job, place->file)));
	worker->stored = 0;
	for (;;) {
		TRY(input_reader_next(worker->reader, &record, &more));
		if (!more)
			break;
		TRY(take_record(place));
		if (record.offset - told >= PROGRESS_BYTES) {
			told = record.offset;
			TRY(tell_progress(job, worker, false));
		}
	}
	TRY(tell_progress(job, worker, false));
	worker->lines[place->piece] = input_reader_lines(worker->reader);
	return input_reader_finish(worker->reader);
}

static enum status take_unit(void *context, int number, uint64_t task)
{
	struct crew *crew = context;
	struct preprocess_job *job = crew->job;
	struct worker *worker = &crew->workers[number];
	struct unit *unit = &job->units[task];
	struct place place = {.job = job, .worker = worker, .unit = unit};
	struct spill_counts counts;
	char path[JOB_PATH];
	if (unit->done)
		return STATUS_OK;
	TRY(job_progress(job, false));
	TRY(open_worker(job, worker));
	TRY(memory_grow((void **)&worker->lines, &worker->line_capacity, unit->pieces, sizeof *worker->lines,
		"line counts"));
	job_unit_path(job, task, path);
	TRY(spill_writer_begin(worker->spill, path));
	for (place.piece = 0; place.piece < unit->pieces; place.piece++)
		TRY(worker->tokens ? take_token_piece(&place) : take_piece(&place));
	TRY(spill_writer_publish(worker->spill, worker->lines, unit->pieces, &counts));
	unit->done = true;
	return job_progress(job, true);
}

enum status job_tokenize(struct preprocess_job *job)
{
	struct crew crew = {.job = job};
	TRY(memory_alloc(
		(void **)&crew.workers, (size_t)job->config->workers, sizeof *crew.workers, "workers"));
	enum status status = threads_run(job->config->workers, job->unit_count, take_unit, &crew);
	for (int i = 0; i < job->config->workers; i++)
		close_worker(&crew.workers[i]);
	free(crew.workers);
	return status;
}
