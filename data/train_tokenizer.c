#include "data/train_tokenizer.h"

#include "common/clock.h"
#include "common/file.h"
#include "common/memory.h"
#include "common/threads.h"
#include "data/input.h"
#include "data/jsonl.h"
#include "tokenizer/bpe_trainer.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/utf8.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define UNIT_BYTES     (UINT64_C(4) << 20)
#define LARGEST_VOCAB  (UINT32_C(1) << 23)
#define LARGEST_RECORD (UINT64_C(1) << 30)
enum { PROGRESS_BYTES = 1 << 20 };

/* A file, or a part of a plain JSONL file. */
struct part {
	size_t file;
	uint64_t begin, end;
};

struct worker {
	bool open;
	struct input_reader *reader;
	struct jsonl *jsonl;
	struct word_counter *words;
	char *repaired;
	size_t repaired_capacity;
	uint64_t documents, bytes, skipped;
};

struct training {
	const struct train_tokenizer_config *config;
	struct input_list inputs;
	struct part *parts;
	size_t part_count, part_capacity;
	struct worker *workers; /* [config->workers] */
	struct train_tokenizer_progress progress;
	_Atomic uint64_t bytes_done;
	atomic_bool stopped;
	pthread_mutex_t mutex;
};

static enum status tell(struct training *training, uint64_t bytes)
{
	const struct train_tokenizer_config *config = training->config;
	atomic_fetch_add(&training->bytes_done, bytes);
	if (config->progress) {
		pthread_mutex_lock(&training->mutex);
		training->progress.bytes_done = atomic_load(&training->bytes_done);
		if (!config->progress(config->user, &training->progress))
			atomic_store(&training->stopped, true);
		pthread_mutex_unlock(&training->mutex);
	}
	FAIL_IF(atomic_load(&training->stopped), STATUS_INTERRUPTED, "stopped; nothing was written");
	return STATUS_OK;
}

/* ---- counting ---- */

static enum status plan_parts(struct training *training)
{
	uint64_t unit = training->config->unit_bytes ? training->config->unit_bytes : UNIT_BYTES;
	for (size_t i = 0; i < training->inputs.count; i++) {
		const struct input_file *file = &training->inputs.files[i];
		bool cut = file->kind == INPUT_JSONL && file->compression == INPUT_PLAIN &&
			   !file->standard_input;
		uint64_t begin = 0;
		do {
			uint64_t end = cut && file->bytes - begin > unit ? begin + unit : UINT64_MAX;
			TRY(memory_grow((void **)&training->parts, &training->part_capacity,
				training->part_count + 1, sizeof *training->parts, "the list of inputs"));
			training->parts[training->part_count++] = (struct part){i, begin, end};
			begin = end;
		} while (begin != UINT64_MAX);
	}
	return STATUS_OK;
}

static enum status open_worker(const struct training *training, struct worker *worker)
{
	if (worker->open)
		return STATUS_OK;
	worker->open = true;
	TRY(input_reader_create(&worker->reader));
	TRY(jsonl_open(training->config->text_key, &worker->jsonl));
	return word_counter_open(&worker->words);
}

static void close_worker(struct worker *worker)
{
	input_reader_destroy(worker->reader);
	jsonl_close(worker->jsonl);
	word_counter_close(worker->words);
	free(worker->repaired);
}

static enum status take_document(
	const struct training *training, struct worker *worker, const char *text, size_t bytes)
{
	if (bytes > training->config->max_bytes) {
		worker->skipped++;
		return STATUS_OK;
	}
	worker->documents += bytes > 0;
	worker->bytes += bytes;
	return word_counter_add(worker->words, text, bytes);
}

static enum status take_text(
	const struct training *training, struct worker *worker, const char *text, size_t bytes)
{
	uint64_t replaced;
	if (utf8_find_invalid(text, bytes) == bytes)
		return take_document(training, worker, text, bytes);
	TRY(memory_grow((void **)&worker->repaired, &worker->repaired_capacity, UTF8_REPAIR_LIMIT(bytes), 1,
		"a document's text"));
	bytes = utf8_repair(text, bytes, worker->repaired, &replaced);
	return take_document(training, worker, worker->repaired, bytes);
}

static enum status take_record(const struct training *training, struct worker *worker,
	const struct input_file *file, const struct input_record *record)
{
	const char *data = record->data;
	size_t bytes = record->bytes, start;
	struct jsonl_text text;
	if (record->too_long) {
		worker->skipped++;
		return STATUS_OK;
	}
	if (file->kind == INPUT_TEXT)
		return take_text(training, worker, data, bytes);
	if (!jsonl_find_start(data, bytes, record->offset == 0, &start))
		return STATUS_OK;
	TRY(jsonl_read(worker->jsonl, data + start, bytes - start, &text));
	if (!text.reason)
		return take_document(training, worker, text.data, text.bytes);
	worker->skipped++;
	return STATUS_OK;
}

static enum status count_part(void *context, int number, uint64_t task)
{
	struct training *training = context;
	struct worker *worker = &training->workers[number];
	const struct part *part = &training->parts[task];
	const struct input_file *file = &training->inputs.files[part->file];
	uint64_t most = training->config->max_bytes, told = 0, stored;
	struct input_record record;
	bool more;
	TRY(open_worker(training, worker));
	TRY(input_reader_open(worker->reader, file, part->begin, part->end,
		training->config->document_separator,
		file->kind == INPUT_JSONL ? jsonl_longest_line(most) : most));
	for (;;) {
		TRY(input_reader_next(worker->reader, &record, &more));
		if (!more)
			break;
		TRY(take_record(training, worker, file, &record));
		stored = input_reader_stored(worker->reader);
		if (stored - told >= PROGRESS_BYTES) {
			TRY(tell(training, stored - told));
			told = stored;
		}
	}
	TRY(tell(training, input_reader_stored(worker->reader) - told));
	return input_reader_finish(worker->reader);
}

/* All words to the first worker's counter. */
static enum status count_words(struct training *training, struct train_tokenizer_result *result)
{
	int workers = training->config->workers;
	TRY(threads_run(workers, training->part_count, count_part, training));
	TRY(open_worker(training, &training->workers[0]));
	struct word_counter *words = training->workers[0].words;
	for (int i = 0; i < workers; i++) {
		const struct worker *worker = &training->workers[i];
		result->documents += worker->documents;
		result->bytes += worker->bytes;
		result->skipped += worker->skipped;
		if (i > 0 && worker->words)
			TRY(word_counter_join(words, worker->words));
	}
	result->words = word_counter_distinct(words);
	FAIL_IF(result->words == 0 && !result->skipped, STATUS_USAGE,
		"no text in the inputs: they are empty");
	FAIL_IF(result->words == 0, STATUS_USAGE,
		"no text in the inputs: %" PRIu64
		" lines or documents passed over; is --text-key (now \"%s\") "
		"right?",
		result->skipped, training->config->text_key);
	return STATUS_OK;
}

/* ---- writing ---- */

/* DIR/name with these bytes, complete but for its name. */
static enum status write_file(
	const char *directory, const char *name, const void *data, size_t bytes, struct file_writer **out)
{
	char *path;
	TRY(path_join(&path, directory, name));
	enum status status = file_remove_temporaries(path); /* cut-off runs' */
	if (status == STATUS_OK)
		status = file_writer_open(path, out);
	free(path);
	if (status == STATUS_OK)
		status = file_writer_write(*out, data, bytes);
	return status == STATUS_OK ? file_writer_complete(*out) : status;
}

/* Reading the merges back is how the other files come about, and a check of them. */
static enum status read_back(const char *directory, const struct bpe_merges *merges, struct tokenizer **out)
{
	struct file_writer *file = NULL;
	enum status status = write_file(directory, "merges.txt", merges->text, merges->bytes, &file);
	if (status == STATUS_OK)
		status = tokenizer_open_files(file_writer_temporary(file), NULL, out);
	file_writer_abandon(file);
	return status;
}

static enum status remove_old(const char *directory)
{
	char *path;
	TRY(path_join(&path, directory, "tokenizer.json"));
	enum status status = file_remove_synced(path);
	free(path);
	return status;
}

static bool is_last(const struct tokenizer_file *file)
{
	return strcmp(file->name, "tokenizer.json") == 0;
}

/* tokenizer.json goes first and comes last: where it is, the others are. */
static enum status replace(const char *directory, const struct tokenizer_file *files,
	struct file_writer *writers[TOKENIZER_FILES])
{
	enum status status = remove_old(directory);
	for (int last = 0; last < 2; last++)
		for (int i = 0; i < TOKENIZER_FILES && status == STATUS_OK; i++) {
			if (is_last(&files[i]) != (last == 1))
				continue;
			struct file_writer *writer = writers[i];
			writers[i] = NULL;
			status = file_writer_publish(writer);
		}
	return status;
}

static enum status publish_files(const char *directory, const struct tokenizer_file *files)
{
	struct file_writer *writers[TOKENIZER_FILES] = {NULL};
	enum status status = STATUS_OK;
	for (int i = 0; i < TOKENIZER_FILES && status == STATUS_OK; i++)
		status = write_file(directory, files[i].name, files[i].data, files[i].bytes, &writers[i]);
	if (status == STATUS_OK)
		status = replace(directory, files, writers);
	for (int i = 0; i < TOKENIZER_FILES; i++)
		file_writer_abandon(writers[i]);
	return status;
}

static enum status publish(const struct training *training, const struct bpe_merges *merges,
	struct train_tokenizer_result *result)
{
	const char *directory = training->config->output;
	struct tokenizer_file files[TOKENIZER_FILES];
	struct tokenizer *tokenizer;
	TRY(directory_create(directory));
	TRY(read_back(directory, merges, &tokenizer));
	result->vocabulary = tokenizer_vocabulary(tokenizer);
	enum status status = tokenizer_export(tokenizer, files);
	tokenizer_close(tokenizer);
	TRY(status);
	status = publish_files(directory, files);
	tokenizer_export_free(files);
	return status;
}

/* ---- a run ---- */

static bool show_merges(void *user, uint32_t merges)
{
	struct training *training = user;
	training->progress.merges = merges;
	return tell(training, 0) == STATUS_OK;
}

static enum status check_config(const struct train_tokenizer_config *config)
{
	char *path;
	FAIL_IF(config->input_count == 0, STATUS_USAGE, "no inputs; name files or folders");
	FAIL_IF(config->workers < 1 || config->workers > 4096, STATUS_USAGE,
		"%d workers are not possible; 1 to 4096 are", config->workers);
	FAIL_IF(config->vocabulary < 257 || config->vocabulary > LARGEST_VOCAB, STATUS_USAGE,
		"a vocabulary of %" PRIu32 " is not possible; 257 (the bytes and <|endoftext|>) to %" PRIu32
		" are",
		config->vocabulary, LARGEST_VOCAB);
	FAIL_IF(config->least_count < 1, STATUS_USAGE, "a least count of 0 is not possible; 1 is the least");
	FAIL_IF(config->max_bytes < 1 || config->max_bytes > LARGEST_RECORD, STATUS_USAGE,
		"a longest document of %" PRIu64 " bytes is not possible; 1 byte to 1 GiB are",
		config->max_bytes);
	TRY(path_join(&path, config->output, "tokenizer.json"));
	bool there = file_exists(path);
	free(path);
	FAIL_IF(there && !config->overwrite, STATUS_USAGE,
		"%s: already holds a tokenizer; choose another --output, or --overwrite to replace it",
		config->output);
	return STATUS_OK;
}

static enum status run(struct training *training, struct train_tokenizer_result *result)
{
	const struct train_tokenizer_config *config = training->config;
	struct bpe_merges merges;
	TRY(check_config(config));
	TRY(input_list_open(config->inputs, config->input_count, config->output, &training->inputs));
	FAIL_IF(training->inputs.count == 0, STATUS_USAGE, "no files in the folders given");
	training->progress.bytes_total =
		input_list_has_standard_input(&training->inputs) ? 0 : training->inputs.bytes;
	TRY(plan_parts(training));
	TRY(memory_alloc(
		(void **)&training->workers, (size_t)config->workers, sizeof *training->workers, "workers"));
	double start = clock_seconds();
	TRY(count_words(training, result));
	result->seconds[0] = clock_seconds() - start;
	training->progress.merges_total = config->vocabulary - 257;
	start = clock_seconds();
	TRY(bpe_train(training->workers[0].words, config->vocabulary - 257, config->least_count, show_merges,
		training, &merges));
	result->seconds[1] = clock_seconds() - start;
	enum status status = publish(training, &merges, result);
	free(merges.text);
	return status;
}

enum status train_tokenizer_run(
	const struct train_tokenizer_config *config, struct train_tokenizer_result *result)
{
	struct training training = {.config = config};
	*result = (struct train_tokenizer_result){0};
	pthread_mutex_init(&training.mutex, NULL);
	enum status status = run(&training, result);
	pthread_mutex_destroy(&training.mutex);
	for (int i = 0; training.workers && i < config->workers; i++)
		close_worker(&training.workers[i]);
	input_list_close(&training.inputs);
	free(training.parts);
	free(training.workers);
	return status;
}
