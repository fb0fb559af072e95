/*
 * Pass 1: documents to tokens to spill files.
 *
 * A worker takes a unit that nobody has begun or, when there is none left, helps with one under way: whoever
 * works on a unit takes a batch of records at a time, one after another, and spills them through a buffer of
 * its own; who leaves it last publishes its file. So all work on one large compressed file or on standard
 * input, and to the end. Units are begun, and a unit's batches taken, in order; after a failure those before
 * it go on to their end, so that it is always the first failure that is reported.
 */
#include "data/preprocess_job.h"

#include "common/file.h"
#include "common/memory.h"
#include "common/threads.h"
#include "data/jsonl.h"
#include "data/unit_reader.h"
#include "tokenizer/utf8.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROGRESS_BYTES = 256 << 10 };
#define LARGEST_BUFFER (UINT64_C(64) << 20)
/* What is spilled at once: enough that pass 2 reads pieces of some size, no more than a cache holds. */
#define LEAST_RUN  (UINT64_C(4) << 20)
#define BUCKET_RUN (UINT64_C(16) << 10) /* of each bucket */

/* A unit under way. */
struct open_unit {
	size_t number;
	int members;    /* who work on it; 0: this is no unit. The crew's mutex guards it, */
	bool exhausted; /* and this: all its batches are taken */
	struct spill_file *spill;
	struct near_file *near; /* NULL: near-duplicates stay */

	pthread_mutex_t mutex; /* of beginning */
	struct unit_reader *reader;
};

struct worker {
	bool open;
	struct stopwatch watch;
	struct token_reader *tokens; /* of files of ids; otherwise: */
	struct jsonl *jsonl;
	struct encoder *encoder;
	struct spill_buffer *spill;
	struct near_buffer *near;
	struct unit_batch batch;
	char *repaired;
	size_t repaired_capacity;

	/* since progress was last told */
	uint64_t documents, tokens_done, text_bytes;
};

struct failure {
	uint64_t unit, batch; /* UINT64_MAX: none */
	struct error_copy error;
};

struct crew {
	struct preprocess_job *job;
	struct worker *workers;  /* [config->workers] */
	struct open_unit *units; /* [config->workers]: nobody works on two */
	pthread_mutex_t mutex;
	size_t next; /* units before it have begun, or are done */
	struct failure failure;
};

/* Where a record is, for messages and rejects. */
struct place {
	struct preprocess_job *job;
	struct worker *worker;
	const struct unit *unit;
	uint32_t piece; /* within the unit */
	uint64_t batch; /* of the unit */
	const struct input_file *file;
	const struct input_record *record;
};

static uint64_t smaller(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static enum status open_worker(struct preprocess_job *job, struct worker *worker)
{
	if (worker->open)
		return STATUS_OK;
	worker->open = true;
	uint64_t memory = smaller(job->config->memory / (uint64_t)job->config->workers / 2, LARGEST_BUFFER);
	uint64_t run = BUCKET_RUN << job->format.bucket_bits;
	if (run < LEAST_RUN)
		run = LEAST_RUN;
	TRY(spill_buffer_create(&job->format, smaller(memory, run), &worker->spill));
	if (job->config->near_bands)
		TRY(near_buffer_create(&job->near.format, memory / 4, &worker->near));
	const struct tokenizer *tokenizer = job->config->tokenizer;
	if (job->config->token_format)
		return token_reader_create(job->config->token_format, tokenizer_vocabulary(tokenizer),
			tokenizer_eod(tokenizer), job->config->max_bytes, &worker->tokens);
	TRY(jsonl_open(job->config->text_key, &worker->jsonl));
	return encoder_open(tokenizer, &worker->encoder);
}

static void close_worker(struct worker *worker)
{
	token_reader_destroy(worker->tokens);
	jsonl_close(worker->jsonl);
	if (worker->encoder)
		encoder_close(worker->encoder);
	spill_buffer_destroy(worker->spill);
	near_buffer_destroy(worker->near);
	input_batch_free(&worker->batch.records);
	free(worker->repaired);
}

/* `stored` bytes of input were read since. */
static enum status tell_progress(struct preprocess_job *job, struct worker *worker, uint64_t stored)
{
	atomic_fetch_add(&job->bytes_done, stored);
	atomic_fetch_add(&job->documents, worker->documents);
	atomic_fetch_add(&job->tokens, worker->tokens_done);
	atomic_fetch_add(&job->text_bytes, worker->text_bytes);
	worker->documents = worker->tokens_done = worker->text_bytes = 0;
	return job_progress(job, false);
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
	return spill_buffer_reject(place->worker->spill, &at, reason);
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

/* The document whose ids are in the room reserved, to the spill, unless it is too short. */
static enum status add_document(
	const struct place *place, const char *text, size_t bytes, size_t count, uint64_t repaired)
{
	struct worker *worker = place->worker;
	uint64_t least = place->job->config->min_tokens;
	if (count < least) {
		char reason[96];
		snprintf(reason, sizeof reason, "the document has fewer than %" PRIu64 " tokens", least);
		return list_reject(place, reason);
	}
	const struct spill_place at = spill_place(place);
	struct hash128 key = hash128(text, bytes);
	stopwatch_lap(&worker->watch, PREPROCESS_HASH);
	if (worker->near) {
		TRY(near_buffer_add(worker->near, key, text, bytes));
		stopwatch_lap(&worker->watch, PREPROCESS_SIGN);
	}
	TRY(spill_buffer_add(worker->spill, key, bytes, count, &at));
	spill_buffer_count(worker->spill, 0, repaired);
	worker->documents++;
	worker->tokens_done += count + 1;
	worker->text_bytes += bytes;
	return STATUS_OK;
}

/* A document's text, valid UTF-8, to the spill. */
static enum status take_document(const struct place *place, const char *text, size_t bytes, uint64_t repaired)
{
	struct worker *worker = place->worker;
	void *ids;
	size_t count;
	if (bytes > place->job->config->max_bytes) {
		char reason[96];
		snprintf(reason, sizeof reason, "the document is longer than %" PRIu64 " bytes",
			place->job->config->max_bytes);
		return reject(place, reason);
	}
	if (bytes == 0) {
		spill_buffer_count(worker->spill, 1, 0);
		return STATUS_OK;
	}
	TRY(spill_buffer_reserve(worker->spill, bytes, &ids));
	stopwatch_lap(&worker->watch, PREPROCESS_SPILL);
	TRY(place->job->format.item_bytes == 2 ? encoder_encode_u16(worker->encoder, text, bytes, ids, &count)
					       : encoder_encode(worker->encoder, text, bytes, ids, &count));
	stopwatch_lap(&worker->watch, PREPROCESS_TOKENIZE);
	return add_document(place, text, bytes, count, repaired);
}

/* Ids of another program, in the spill's item size. */
static enum status copy_ids(
	const struct preprocess_job *job, struct spill_buffer *spill, const struct token_document *document)
{
	void *room;
	TRY(spill_buffer_reserve(spill, document->count, &room));
	if (job->format.item_bytes == 4) {
		memcpy(room, document->ids, document->count * 4);
		return STATUS_OK;
	}
	uint16_t *to = room;
	for (size_t i = 0; i < document->count; i++)
		to[i] = (uint16_t)document->ids[i];
	return STATUS_OK;
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
		spill_buffer_count(worker->spill, 1, 0);
	else if ((status = copy_ids(place->job, worker->spill, document)) == STATUS_OK)
		status = add_document(place, text, bytes, document->count, 0);
	free(text);
	return status;
}

static enum status take_line(const struct place *place)
{
	const char *line = place->record->data;
	size_t bytes = place->record->bytes, skipped;
	struct jsonl_text text;
	if (!jsonl_find_start(line, bytes, place->record->offset == 0, &skipped))
		return STATUS_OK;
	TRY(jsonl_read(place->worker->jsonl, line + skipped, bytes - skipped, &text));
	stopwatch_lap(&place->worker->watch, PREPROCESS_JSON);
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
	stopwatch_lap(&worker->watch, PREPROCESS_HASH);
	if (invalid == bytes)
		return take_document(place, text, bytes, 0);
	if (place->job->config->strict)
		return refuse_invalid(place, invalid);
	TRY(memory_grow((void **)&worker->repaired, &worker->repaired_capacity, UTF8_REPAIR_LIMIT(bytes), 1,
		"a document's text"));
	bytes = utf8_repair(text, bytes, worker->repaired, &replaced);
	stopwatch_lap(&worker->watch, PREPROCESS_HASH);
	return take_document(place, worker->repaired, bytes, replaced);
}

static enum status take_record(const struct place *place)
{
	if (place->record->too_long)
		return reject(place, place->file->kind == INPUT_JSONL ? "the line is too long"
								      : "the document is too long");
	return place->file->kind == INPUT_JSONL ? take_line(place) : take_text(place);
}

/* ---- units ---- */

/* A unit of files of ids is cut so that one worker does it all, as one batch. */
static enum status take_token_piece(struct place *place, uint32_t number)
{
	struct preprocess_job *job = place->job;
	struct worker *worker = place->worker;
	const struct piece *piece = &job->pieces[place->unit->first_piece + number];
	struct token_document document;
	struct input_record record = {0};
	uint64_t told = 0;
	bool more;
	place->piece = number;
	place->file = &job->inputs.files[piece->file];
	place->record = &record;
	TRY(token_reader_open(worker->tokens, &job->inputs, piece->file, piece->begin, piece->end));
	for (;;) {
		TRY(token_reader_next(worker->tokens, &document, &more));
		stopwatch_lap(&worker->watch, PREPROCESS_READ);
		if (!more)
			break;
		record.offset = document.offset;
		TRY(take_ids(place, &document));
		uint64_t stored = token_reader_stored(worker->tokens);
		if (stored - told >= PROGRESS_BYTES) {
			TRY(tell_progress(job, worker, stored - told));
			told = stored;
		}
	}
	TRY(tell_progress(job, worker, token_reader_stored(worker->tokens) - told));
	return token_reader_finish(worker->tokens);
}

static enum status take_tokens(struct place *place)
{
	for (uint32_t i = 0; i < place->unit->pieces; i++)
		TRY(take_token_piece(place, i));
	return STATUS_OK;
}

static enum status take_batch(struct place *place)
{
	const struct unit_batch *batch = &place->worker->batch;
	place->piece = batch->piece;
	place->file = batch->file;
	TRY(spill_buffer_begin_batch(place->worker->spill, place->batch));
	for (size_t i = 0; i < batch->records.count; i++) {
		place->record = &batch->records.records[i];
		TRY(take_record(place));
	}
	return STATUS_OK;
}

/* Batches of the unit, as long as there are some and nothing before them has failed. */
static enum status take_batches(struct crew *crew, struct open_unit *unit, struct place *place)
{
	struct worker *worker = place->worker;
	int number = (int)(worker - crew->workers);
	for (;;) {
		pthread_mutex_lock(&crew->mutex);
		bool failed = crew->failure.unit <= unit->number;
		int members = unit->members;
		pthread_mutex_unlock(&crew->mutex);
		if (failed)
			return STATUS_OK;
		enum status status = unit_reader_take(unit->reader, number, members, &worker->batch);
		place->batch = worker->batch.number;
		stopwatch_block(&worker->watch, PREPROCESS_READ);
		TRY(status);
		if (!worker->batch.file)
			return STATUS_OK;
		TRY(take_batch(place));
		stopwatch_lap(&worker->watch, PREPROCESS_SPILL);
		stopwatch_settle(&worker->watch);
		TRY(tell_progress(crew->job, worker, worker->batch.stored));
	}
}

static enum status begin_unit(struct crew *crew, struct open_unit *unit)
{
	struct preprocess_job *job = crew->job;
	char path[JOB_PATH];
	if (!unit->reader)
		TRY(unit_reader_create(job, &unit->reader));
	TRY(unit_reader_begin(unit->reader, &job->units[unit->number]));
	if (job->config->near_bands && !unit->near) {
		near_unit_path(job->work, unit->number, path);
		TRY(near_file_create(&job->near.format, path, &unit->near));
	}
	job_unit_path(job, unit->number, path);
	return spill_file_create(&job->format, path, &unit->spill);
}

/* This worker's part in the unit. */
static enum status work_on(struct crew *crew, struct open_unit *unit, struct place *place)
{
	struct worker *worker = place->worker;
	place->unit = &crew->job->units[unit->number];
	place->batch = 0;
	TRY(job_progress(crew->job, false));
	TRY(open_worker(crew->job, worker));
	stopwatch_block(&worker->watch, PREPROCESS_TOKENIZE);
	pthread_mutex_lock(&unit->mutex);
	enum status status = unit->spill ? STATUS_OK : begin_unit(crew, unit);
	pthread_mutex_unlock(&unit->mutex);
	TRY(status);
	spill_buffer_begin(worker->spill, unit->spill);
	if (worker->near)
		near_buffer_begin(worker->near, unit->near);
	TRY(worker->tokens ? take_tokens(place) : take_batches(crew, unit, place));
	if (worker->near)
		TRY(near_buffer_flush(worker->near));
	return spill_buffer_flush(worker->spill);
}

static void note_failure(struct crew *crew, uint64_t unit, uint64_t batch, enum status status)
{
	struct failure *failure = &crew->failure;
	pthread_mutex_lock(&crew->mutex);
	if (unit < failure->unit || (unit == failure->unit && batch < failure->batch)) {
		failure->unit = unit;
		failure->batch = batch;
		error_save(status, &failure->error);
	}
	pthread_mutex_unlock(&crew->mutex);
}

/* One that nobody has begun, else the one under way that has the fewest at work; NULL when there is none. */
static struct open_unit *join_unit(struct crew *crew)
{
	struct preprocess_job *job = crew->job;
	struct open_unit *unit = NULL;
	pthread_mutex_lock(&crew->mutex);
	bool failed = crew->failure.unit != UINT64_MAX;
	while (!failed && crew->next < job->unit_count && !job_claim_unit(job, crew->next))
		crew->next++;
	bool begin = !failed && crew->next < job->unit_count;
	for (int i = 0; i < job->config->workers && !failed; i++) {
		struct open_unit *other = &crew->units[i];
		if (begin ? !other->members
			  : other->members && !other->exhausted && (!unit || other->members < unit->members))
			unit = other;
	}
	if (begin) {
		unit->number = crew->next++;
		unit->exhausted = job->config->token_format != TOKEN_FORMAT_NONE;
	}
	if (unit)
		unit->members++;
	pthread_mutex_unlock(&crew->mutex);
	return unit;
}

/* Standard input cannot be read again, the other inputs can, so that what a power failure takes is no loss;
 * but it is a nuisance when another machine comes to read it. */
static bool must_last(const struct preprocess_job *job, const struct unit *unit)
{
	return job->claims.path || job->inputs.files[job->pieces[unit->first_piece].file].standard_input;
}

static enum status publish_unit(struct crew *crew, struct open_unit *open)
{
	struct preprocess_job *job = crew->job;
	struct unit *unit = &job->units[open->number];
	struct spill_file *spill = open->spill;
	struct near_file *near = open->near;
	struct spill_counts counts;
	bool durable = must_last(job, unit);
	/* The unit is done when its spill file is there. */
	open->near = NULL;
	if (near)
		TRY(near_file_publish(near, durable));
	open->spill = NULL;
	TRY(spill_file_publish(spill, unit_reader_lines(open->reader), unit->pieces, durable, &counts));
	unit->done = true;
	job_release_unit(job, open->number);
	return job_progress(job, true);
}

/* After the worker's part, which ended well or not. */
static void leave_unit(struct crew *crew, struct open_unit *unit)
{
	pthread_mutex_lock(&crew->mutex);
	unit->exhausted = true;
	bool last = unit->members == 1, failed = crew->failure.unit <= unit->number;
	if (!last)
		unit->members--;
	pthread_mutex_unlock(&crew->mutex);
	if (!last)
		return;
	if (!failed) {
		enum status status = publish_unit(crew, unit);
		if (status != STATUS_OK)
			note_failure(crew, unit->number, UINT64_MAX, status);
	}
	spill_file_abandon(unit->spill);
	near_file_abandon(unit->near);
	unit->spill = NULL;
	unit->near = NULL;
	pthread_mutex_lock(&crew->mutex);
	unit->members = 0;
	pthread_mutex_unlock(&crew->mutex);
}

/* What one worker does. Failures are the crew's. */
static enum status work(void *context, int number, uint64_t task)
{
	struct crew *crew = context;
	struct place place = {.job = crew->job, .worker = &crew->workers[number]};
	struct open_unit *unit;
	(void)task;
	place.worker->watch = stopwatch_start(crew->job, number);
	while ((unit = join_unit(crew))) {
		enum status status = work_on(crew, unit, &place);
		if (status != STATUS_OK)
			note_failure(crew, unit->number, place.batch, status);
		leave_unit(crew, unit);
		stopwatch_block(&place.worker->watch, PREPROCESS_SPILL);
	}
	return STATUS_OK;
}

static enum status run_crew(struct crew *crew)
{
	int workers = crew->job->config->workers;
	TRY(memory_alloc((void **)&crew->workers, (size_t)workers, sizeof *crew->workers, "workers"));
	TRY(memory_alloc((void **)&crew->units, (size_t)workers, sizeof *crew->units, "workers"));
	for (int i = 0; i < workers; i++)
		pthread_mutex_init(&crew->units[i].mutex, NULL);
	TRY(threads_run(workers, (uint64_t)workers, work, crew));
	return crew->failure.unit == UINT64_MAX ? STATUS_OK : error_restore(&crew->failure.error);
}

enum status job_tokenize(struct preprocess_job *job)
{
	struct crew crew = {.job = job, .failure = {.unit = UINT64_MAX, .batch = UINT64_MAX}};
	pthread_mutex_init(&crew.mutex, NULL);
	enum status status = run_crew(&crew);
	for (int i = 0; i < job->config->workers && crew.units; i++) {
		close_worker(&crew.workers[i]);
		unit_reader_destroy(crew.units[i].reader);
		pthread_mutex_destroy(&crew.units[i].mutex);
	}
	pthread_mutex_destroy(&crew.mutex);
	free(crew.workers);
	free(crew.units);
	return status;
}
