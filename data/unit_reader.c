#include "data/unit_reader.h"

#include "common/memory.h"
#include "data/jsonl.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_AHEAD = 8 };               /* batches */
#define READ_AHEAD (UINT64_C(4) << 20) /* bytes of memory for each member; one batch may be larger */

struct unit_reader {
	const struct preprocess_job *job;
	const struct unit *unit;
	pthread_mutex_t mutex;
	pthread_cond_t changed;              /* a batch was added, or nobody reads on */
	struct unit_batch queue[MOST_AHEAD]; /* a ring: first, first + 1, ... are read and not taken */
	size_t first, count;
	uint64_t held;    /* bytes of memory that they take */
	bool reading;     /* somebody does: what follows is theirs */
	int last;         /* who read last; -1: nobody yet */
	bool ended;       /* there is nothing more to read, or it failed: */
	bool failed;      /* that is to be told, once */
	uint64_t batches; /* read */
	struct error_copy error;

	struct input_reader *input;
	bool open;      /* on the piece */
	uint32_t piece; /* within the unit */
	uint64_t stored;
	uint64_t *lines; /* [line_capacity]: of each piece */
	size_t line_capacity;
};

enum status unit_reader_create(const struct preprocess_job *job, struct unit_reader **out)
{
	struct unit_reader *reader;
	TRY(memory_alloc((void **)&reader, 1, sizeof *reader, "a reader"));
	reader->job = job;
	pthread_mutex_init(&reader->mutex, NULL);
	pthread_cond_init(&reader->changed, NULL);
	enum status status = input_reader_create(&reader->input);
	if (status != STATUS_OK) {
		unit_reader_destroy(reader);
		reader = NULL;
	}
	*out = reader;
	return status;
}

static void free_queue(struct unit_reader *reader)
{
	for (size_t i = 0; i < MOST_AHEAD; i++)
		input_batch_free(&reader->queue[i].records);
}

void unit_reader_destroy(struct unit_reader *reader)
{
	if (!reader)
		return;
	free_queue(reader);
	input_reader_destroy(reader->input);
	pthread_cond_destroy(&reader->changed);
	pthread_mutex_destroy(&reader->mutex);
	free(reader->lines);
	free(reader);
}

enum status unit_reader_begin(struct unit_reader *reader, const struct unit *unit)
{
	free_queue(reader); /* not every unit is shared */
	TRY(memory_grow((void **)&reader->lines, &reader->line_capacity, unit->pieces, sizeof *reader->lines,
		"line counts"));
	memset(reader->lines, 0, unit->pieces * sizeof *reader->lines);
	reader->unit = unit;
	reader->first = reader->count = 0;
	reader->held = reader->batches = 0;
	reader->last = -1;
	reader->reading = reader->ended = reader->failed = reader->open = false;
	reader->piece = 0;
	return STATUS_OK;
}

const uint64_t *unit_reader_lines(const struct unit_reader *reader)
{
	return reader->lines;
}

/* ---- reading ---- */

static uint64_t record_limit(const struct preprocess_job *job, const struct input_file *file)
{
	uint64_t most = job->config->max_bytes;
	return file->kind == INPUT_JSONL ? jsonl_longest_line(most) : most;
}

static enum status read_batch(struct unit_reader *reader, struct unit_batch *batch)
{
	const struct preprocess_job *job = reader->job;
	batch->file = NULL;
	batch->stored = 0;
	for (; reader->piece < reader->unit->pieces; reader->piece++) {
		const struct piece *piece = &job->pieces[reader->unit->first_piece + reader->piece];
		const struct input_file *file = &job->inputs.files[piece->file];
		bool more;
		if (!reader->open) {
			TRY(input_reader_open(reader->input, file, piece->begin, piece->end,
				job->config->document_separator, record_limit(job, file)));
			reader->stored = 0;
			reader->open = true;
		}
		TRY(input_reader_batch(reader->input, &batch->records, &more));
		batch->stored += input_reader_stored(reader->input) - reader->stored;
		reader->stored = input_reader_stored(reader->input);
		if (more) {
			batch->piece = reader->piece;
			batch->file = file;
			return STATUS_OK;
		}
		reader->open = false;
		reader->lines[reader->piece] = input_reader_lines(reader->input);
		TRY(input_reader_finish(reader->input));
	}
	return STATUS_OK;
}

/* The unit's next batch; false: there is none. The mutex is held, but not while it reads: others take
 * meanwhile. */
static bool read_next(struct unit_reader *reader, int worker, struct unit_batch *batch)
{
	reader->reading = true;
	reader->last = worker;
	pthread_mutex_unlock(&reader->mutex);
	enum status status = read_batch(reader, batch);
	pthread_mutex_lock(&reader->mutex);
	reader->reading = false;
	if (status == STATUS_OK && batch->file) {
		batch->number = reader->batches++;
		return true;
	}
	reader->ended = true;
	reader->failed = status != STATUS_OK;
	if (reader->failed)
		error_save(status, &reader->error);
	return false;
}

/* One for each of the others, and one more as they do not take equally long. */
static bool has_room(const struct unit_reader *reader, int members)
{
	return members > 1 && reader->count < MOST_AHEAD && reader->count < (size_t)members &&
	       reader->held < (uint64_t)members * READ_AHEAD;
}

static void read_ahead(struct unit_reader *reader, int worker, int members)
{
	while (reader->last == worker && !reader->reading && !reader->ended && has_room(reader, members)) {
		struct unit_batch *batch = &reader->queue[(reader->first + reader->count) % MOST_AHEAD];
		if (!read_next(reader, worker, batch))
			return;
		reader->held += batch->records.capacity;
		reader->count++;
		pthread_cond_signal(&reader->changed);
	}
}

static void take_first(struct unit_reader *reader, struct unit_batch *batch)
{
	struct unit_batch *first = &reader->queue[reader->first], taken = *first;
	*first = *batch; /* its memory is used again */
	*batch = taken;
	reader->held -= taken.records.capacity;
	reader->first = (reader->first + 1) % MOST_AHEAD;
	reader->count--;
}

static enum status tell_end(struct unit_reader *reader, struct unit_batch *batch)
{
	batch->number = reader->batches;
	batch->file = NULL;
	batch->stored = 0;
	if (!reader->failed)
		return STATUS_OK;
	reader->failed = false;
	return error_restore(&reader->error);
}

enum status unit_reader_take(struct unit_reader *reader, int worker, int members, struct unit_batch *batch)
{
	enum status status = STATUS_OK;
	input_batch_trim(&batch->records);
	pthread_mutex_lock(&reader->mutex);
	while (!reader->count && reader->reading)
		pthread_cond_wait(&reader->changed, &reader->mutex);
	if (reader->count)
		take_first(reader, batch);
	else if (reader->ended || !read_next(reader, worker, batch))
		status = tell_end(reader, batch);
	read_ahead(reader, worker, members);
	if (!reader->reading) /* who waits for more is to read it, should nobody here come back */
		pthread_cond_broadcast(&reader->changed);
	pthread_mutex_unlock(&reader->mutex);
	return status;
}
