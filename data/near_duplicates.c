#include "data/near_duplicates.h"

#include "common/file.h"
#include "common/memory.h"
#include "common/threads.h"
#include "data/minhash.h"
#include "data/record_merge.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	BAND_WIDTH = 3, /* of a near file's records */
	KEY_WIDTH = 2,  /* of a drop file's */
	MOST_BITS = 8,
	LEAST_RUNS = 8, /* read at once by a worker; */
	MOST_RUNS = 256,
	OPEN_FILES = 512, /* read at once by all of them */
	MOST_WORKERS = OPEN_FILES / LEAST_RUNS,
	LEAST_KEYS = 1024,     /* that a worker holds */
	TELL_RECORDS = 1 << 16 /* of progress */
};

static struct record_format record_format(const struct near_format *format, int width)
{
	return (struct record_format){.width = width, .job = format->job};
}

void near_unit_path(const char *directory, size_t unit, char path[NEAR_PATH])
{
	snprintf(path, NEAR_PATH, "%s/near-%06zu", directory, unit);
}

/* ---- pass 1 ---- */

struct near_file {
	struct record_writer *writer;
	pthread_mutex_t mutex;
};

struct near_buffer {
	struct near_format format;
	struct minhash *minhash;
	struct near_file *file;
	uint64_t *signatures; /* [count][2 + bands]: key, band hashes */
	size_t count, capacity, most;
	uint64_t *band; /* [count][BAND_WIDTH]: one band's records */
	size_t band_capacity;
};

enum status near_file_create(const struct near_format *format, const char *path, struct near_file **out)
{
	struct record_format records = record_format(format, BAND_WIDTH);
	TRY(memory_alloc((void **)out, 1, sizeof **out, "signatures"));
	enum status status = record_writer_open(path, &records, &(*out)->writer);
	if (status != STATUS_OK) {
		free(*out);
		*out = NULL;
		return status;
	}
	pthread_mutex_init(&(*out)->mutex, NULL);
	return STATUS_OK;
}

static void free_file(struct near_file *file)
{
	pthread_mutex_destroy(&file->mutex);
	free(file);
}

enum status near_file_publish(struct near_file *file, bool durable)
{
	enum status status = record_writer_publish(file->writer, durable);
	free_file(file);
	return status;
}

void near_file_abandon(struct near_file *file)
{
	if (!file)
		return;
	record_writer_abandon(file->writer);
	free_file(file);
}

static size_t signature_numbers(const struct near_buffer *buffer)
{
	return 2 + (size_t)buffer->format.bands;
}

enum status near_buffer_create(const struct near_format *format, uint64_t memory, struct near_buffer **out)
{
	struct near_buffer *buffer;
	TRY(memory_alloc((void **)&buffer, 1, sizeof *buffer, "signatures"));
	buffer->format = *format;
	buffer->most = memory / ((signature_numbers(buffer) + BAND_WIDTH) * 8);
	enum status status = minhash_create(format->bands, format->rows, &buffer->minhash);
	if (status != STATUS_OK) {
		free(buffer);
		buffer = NULL;
	}
	*out = buffer;
	return status;
}

void near_buffer_destroy(struct near_buffer *buffer)
{
	if (!buffer)
		return;
	minhash_destroy(buffer->minhash);
	free(buffer->signatures);
	free(buffer->band);
	free(buffer);
}

void near_buffer_begin(struct near_buffer *buffer, struct near_file *file)
{
	buffer->file = file;
	buffer->count = 0;
}

/* A run of each band's list. */
enum status near_buffer_flush(struct near_buffer *buffer)
{
	size_t numbers = signature_numbers(buffer);
	TRY(memory_grow((void **)&buffer->band, &buffer->band_capacity, buffer->count,
		BAND_WIDTH * sizeof *buffer->band, "signatures"));
	for (int b = 0; b < buffer->format.bands; b++) {
		for (size_t i = 0; i < buffer->count; i++) {
			const uint64_t *signature = buffer->signatures + i * numbers;
			uint64_t *record = buffer->band + i * BAND_WIDTH;
			record[0] = signature[2 + b];
			record[1] = signature[0];
			record[2] = signature[1];
		}
		size_t kept = records_sort(buffer->band, buffer->count, BAND_WIDTH);
		pthread_mutex_lock(&buffer->file->mutex);
		enum status status = record_writer_add(buffer->file->writer, (uint64_t)b, buffer->band, kept);
		pthread_mutex_unlock(&buffer->file->mutex);
		TRY(status);
	}
	buffer->count = 0;
	return STATUS_OK;
}

enum status near_buffer_add(struct near_buffer *buffer, struct hash128 key, const char *text, size_t bytes)
{
	size_t numbers = signature_numbers(buffer);
	bool has;
	if (buffer->count && buffer->count >= buffer->most)
		TRY(near_buffer_flush(buffer));
	TRY(memory_grow((void **)&buffer->signatures, &buffer->capacity, buffer->count + 1,
		numbers * sizeof *buffer->signatures, "signatures"));
	uint64_t *signature = buffer->signatures + buffer->count * numbers;
	TRY(minhash_compute(buffer->minhash, text, bytes, signature + 2, &has));
	if (!has)
		return STATUS_OK;
	signature[0] = key.high;
	signature[1] = key.low;
	buffer->count++;
	return STATUS_OK;
}

enum status near_unit_check(const char *path, const struct near_format *format)
{
	struct record_format records = record_format(format, BAND_WIDTH);
	return record_file_check(path, &records);
}

/* ---- between the passes ---- */

/* The keys that a worker's part drops. */
struct sieve {
	struct search *search;
	uint64_t *keys; /* [count][KEY_WIDTH] */
	size_t count, capacity, limit;
	struct record_writer *file;
	uint64_t seen; /* records */
};

struct search {
	const struct near_search *config;
	int bits;
	struct sieve *sieves;  /* [workers] */
	_Atomic uint64_t done; /* parts */
};

static void drop_path(const struct search *search, uint64_t part, char path[NEAR_PATH])
{
	snprintf(path, NEAR_PATH, "%s/drops-%02d-%03d", search->config->directory, search->bits, (int)part);
}

/* Parts are numbered through all bands. */
static uint64_t count_parts(const struct search *search)
{
	return (uint64_t)search->config->format.bands << search->bits;
}

static int count_workers(const struct near_search *config)
{
	return config->workers < MOST_WORKERS ? config->workers : MOST_WORKERS;
}

/* So many that no worker is idle for long. */
static int choose_bits(const struct near_search *config)
{
	int bits = 0;
	while (bits < MOST_BITS && config->format.bands << bits < 2 * count_workers(config))
		bits++;
	return bits;
}

static enum status tell_progress(const struct search *search)
{
	const struct near_search *config = search->config;
	return config->progress
		       ? config->progress(config->user, atomic_load(&search->done), count_parts(search))
		       : STATUS_OK;
}

static enum status flush_keys(struct sieve *sieve)
{
	size_t kept = records_sort(sieve->keys, sieve->count, KEY_WIDTH);
	sieve->count = 0;
	return record_writer_add(sieve->file, 0, sieve->keys, kept);
}

static enum status add_key(struct sieve *sieve, const uint64_t *key)
{
	if (sieve->count >= sieve->limit)
		TRY(flush_keys(sieve));
	TRY(memory_grow((void **)&sieve->keys, &sieve->capacity, sieve->count + 1,
		KEY_WIDTH * sizeof *sieve->keys, "keys to drop"));
	memcpy(sieve->keys + sieve->count++ * KEY_WIDTH, key, KEY_WIDTH * sizeof *key);
	return STATUS_OK;
}

/* Keeps the smallest key of each hash; the others are to be dropped. */
static enum status sift(void *user, const uint64_t *previous, const uint64_t *record, bool *keep)
{
	struct sieve *sieve = user;
	if (++sieve->seen % TELL_RECORDS == 0)
		TRY(tell_progress(sieve->search));
	*keep = !previous || previous[0] != record[0];
	return *keep ? STATUS_OK : add_key(sieve, record + 1);
}

static void unit_of_sieve(void *user, size_t unit, char path[RECORD_PATH])
{
	const struct sieve *sieve = user;
	near_unit_path(sieve->search->config->directory, unit, path);
}

/* A worker's share of the memory: half of it for runs, half for keys, which sorting may take as much of again. */
static uint64_t memory_share(const struct near_search *config)
{
	return config->memory / (uint64_t)count_workers(config) / 2;
}

static size_t most_runs(const struct near_search *config, int workers)
{
	uint64_t most = memory_share(config) / RECORD_MERGE_RUN;
	uint64_t files = OPEN_FILES / (uint64_t)workers;
	most = most < files ? most : files;
	return most < LEAST_RUNS ? LEAST_RUNS : most < MOST_RUNS ? most : MOST_RUNS;
}

static enum status sift_part(struct search *search, struct sieve *sieve, uint64_t number)
{
	const struct near_search *config = search->config;
	uint64_t part = number & ((UINT64_C(1) << search->bits) - 1);
	uint64_t first = search->bits ? part << (64 - search->bits) : 0;
	char between[NEAR_PATH];
	snprintf(between, sizeof between, "%s/between-%d", config->directory, (int)number);
	struct record_merge merge = {.format = record_format(&config->format, BAND_WIDTH),
		.list = number >> search->bits,
		.first = first,
		.last = first + (UINT64_MAX >> search->bits),
		.files = config->units,
		.path = unit_of_sieve,
		.between = between,
		.most = most_runs(config, count_workers(config)),
		.filter = sift,
		.user = sieve};
	uint64_t keys = memory_share(config) / 2 / (KEY_WIDTH * 8);
	sieve->limit = keys < LEAST_KEYS ? LEAST_KEYS : keys;
	sieve->count = 0;
	TRY(record_merge_run(&merge, NULL));
	return flush_keys(sieve);
}

static enum status make_part(struct search *search, struct sieve *sieve, uint64_t number)
{
	struct record_format format = record_format(&search->config->format, KEY_WIDTH);
	char path[NEAR_PATH];
	TRY(tell_progress(search));
	drop_path(search, number, path);
	if (!file_exists(path) || record_file_check(path, &format) != STATUS_OK) {
		TRY(record_writer_open(path, &format, &sieve->file));
		enum status status = sift_part(search, sieve, number);
		if (status != STATUS_OK) {
			record_writer_abandon(sieve->file);
			return status;
		}
		TRY(record_writer_publish(sieve->file, false));
	}
	atomic_fetch_add(&search->done, 1);
	return tell_progress(search);
}

static enum status take_part(void *context, int worker, uint64_t task)
{
	struct search *search = context;
	struct sieve *sieve = &search->sieves[worker];
	double start = threads_processor_seconds(), *seconds = search->config->seconds;
	sieve->search = search;
	enum status status = make_part(search, sieve, task);
	if (seconds && worker > 0) /* worker 0 is the caller of near_search_run, all of which is counted */
		seconds[worker] += threads_processor_seconds() - start;
	return status;
}

static enum status make_parts(struct search *search)
{
	int workers = count_workers(search->config);
	TRY(memory_alloc((void **)&search->sieves, (size_t)workers, sizeof *search->sieves, "workers"));
	enum status status = threads_run(workers, count_parts(search), take_part, search);
	for (int i = 0; i < workers; i++)
		free(search->sieves[i].keys);
	free(search->sieves);
	return status;
}

/* Files whose names begin with `prefix`, but not with `but` (NULL: all of them). */
static enum status remove_files(const char *directory, const char *prefix, const char *but)
{
	char **names;
	size_t count;
	TRY(directory_list(directory, &names, &count));
	enum status status = STATUS_OK;
	for (size_t i = 0; i < count && status == STATUS_OK; i++) {
		char *path;
		if (strncmp(names[i], prefix, strlen(prefix)) != 0 ||
			(but && strncmp(names[i], but, strlen(but)) == 0))
			continue;
		status = path_join(&path, directory, names[i]);
		if (status == STATUS_OK) {
			status = file_remove(path);
			free(path);
		}
	}
	directory_list_free(names, count);
	return status;
}

static void part_of_search(void *user, size_t part, char path[RECORD_PATH])
{
	drop_path(user, part, path);
}

/* All parts' keys, in order. */
static enum status join_parts(struct search *search, const char *path)
{
	const struct near_search *config = search->config;
	struct record_format format = record_format(&config->format, KEY_WIDTH);
	struct record_writer *writer;
	char between[NEAR_PATH];
	snprintf(between, sizeof between, "%s/between-all", config->directory);
	struct record_merge merge = {.format = format,
		.last = UINT64_MAX,
		.files = count_parts(search),
		.path = part_of_search,
		.between = between,
		.most = most_runs(config, 1),
		.user = search};
	TRY(record_writer_open(path, &format, &writer));
	enum status status = record_merge_run(&merge, writer);
	if (status != STATUS_OK) {
		record_writer_abandon(writer);
		return status;
	}
	return record_writer_publish(writer, true);
}

static enum status find(struct search *search, const char *path)
{
	const char *directory = search->config->directory;
	struct record_format format = record_format(&search->config->format, KEY_WIDTH);
	char own[16];
	if (file_exists(path) && record_file_check(path, &format) == STATUS_OK)
		return remove_files(directory, "drops-", NULL); /* a search may have been killed here */
	search->bits = choose_bits(search->config);
	snprintf(own, sizeof own, "drops-%02d-", search->bits);
	TRY(remove_files(directory, "drops-", own)); /* of a search in other parts */
	TRY(remove_files(directory, "between-", NULL));
	TRY(make_parts(search));
	TRY(join_parts(search, path));
	return remove_files(directory, "drops-", NULL);
}

enum status near_search_run(const struct near_search *config, struct record_file **dropped)
{
	struct search search = {.config = config};
	struct record_format format = record_format(&config->format, KEY_WIDTH);
	double start = threads_processor_seconds();
	char *path;
	*dropped = NULL;
	TRY(path_join(&path, config->directory, "dropped"));
	enum status status = find(&search, path);
	if (status == STATUS_OK)
		status = record_file_open(path, &format, dropped);
	free(path);
	if (config->seconds)
		config->seconds[0] += threads_processor_seconds() - start;
	return status;
}

/* ---- pass 2 ---- */

struct marking {
	const char *path;
	const struct spill_document *documents;
	size_t count;
	bool *drop;
};

/* The first of documents [from, count) whose key is not below `key`. */
static size_t find_document(const struct marking *marking, size_t from, struct hash128 key)
{
	size_t end = marking->count;
	while (from < end) {
		size_t middle = from + (end - from) / 2;
		if (hash128_compare(marking->documents[middle].key, key) < 0)
			from = middle + 1;
		else
			end = middle;
	}
	return from;
}

static enum status mark(void *user, uint64_t *keys, size_t count)
{
	struct marking *marking = user;
	size_t at = 0;
	for (size_t i = 0; i < count; i++) {
		struct hash128 key = {keys[i * KEY_WIDTH], keys[i * KEY_WIDTH + 1]};
		at = find_document(marking, at, key);
		FAIL_IF(at == marking->count || hash128_compare(marking->documents[at].key, key) != 0,
			STATUS_CORRUPT,
			"%s: names a document that is not there; remove the folder that holds this file and "
			"run the same command again",
			marking->path);
		marking->drop[at] = true;
	}
	return STATUS_OK;
}

enum status near_search_mark(const struct record_file *dropped, uint64_t first, uint64_t last,
	const struct spill_document *documents, size_t count, bool *drop)
{
	struct marking marking = {record_file_path(dropped), documents, count, drop};
	return record_file_read(dropped, 0, first, last, mark, &marking);
}
