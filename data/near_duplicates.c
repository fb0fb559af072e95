#include "data/near_duplicates.h"

#include "common/file.h"
#include "common/json.h"
#include "common/memory.h"
#include "common/threads.h"
#include "data/minhash.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	BAND_WIDTH = 3, /* of a near file's records */
	KEY_WIDTH = 2,  /* of a drop file's */
	MOST_BITS = 20,
	MOST_FILES = 256,     /* of keys: each key range of the second pass looks into all of them */
	LEAST_RECORDS = 1024, /* that a worker holds */
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

static enum status skip_records(void *user, uint64_t *records, size_t count)
{
	(void)user;
	(void)records;
	(void)count;
	return STATUS_OK;
}

/* Lists 0 to (lists - 1) of a file, read whole. */
static enum status check_lists(const char *path, const struct record_format *format, int lists)
{
	for (int i = 0; i < lists; i++)
		TRY(record_file_read(path, format, (uint64_t)i, 0, UINT64_MAX, skip_records, NULL));
	return STATUS_OK;
}

enum status near_unit_check(const char *path, const struct near_format *format)
{
	struct record_format records = record_format(format, BAND_WIDTH);
	return check_lists(path, &records, format->bands);
}

/* ---- between the passes ---- */

/* One worker's: the records of a part of a band, and the keys that its parts of a file drop. */
struct sieve {
	uint64_t *records; /* [count][BAND_WIDTH] */
	size_t count, capacity, limit;
	uint64_t *keys; /* [key_count][KEY_WIDTH] */
	size_t key_count, key_capacity, key_limit;
	struct record_writer *file;
};

struct search {
	const struct near_search *config;
	int bits;
	uint64_t documents;    /* with signatures: records of each band */
	struct sieve *sieves;  /* [workers] */
	_Atomic uint64_t done; /* parts */
};

static void drop_path(const struct near_search *search, int bits, uint64_t file, char path[NEAR_PATH])
{
	snprintf(path, NEAR_PATH, "%s/drops-%02d-%03d", search->directory, bits, (int)file);
}

/* Parts are numbered through all bands; file f has parts [first_part(f), first_part(f + 1)). */
static uint64_t count_parts(const struct near_search *search, int bits)
{
	return (uint64_t)search->format.bands << bits;
}

static uint64_t count_files(const struct near_search *search, int bits)
{
	uint64_t parts = count_parts(search, bits);
	return parts < MOST_FILES ? parts : MOST_FILES;
}

static uint64_t first_part(const struct near_search *search, int bits, uint64_t file)
{
	return count_parts(search, bits) * file / count_files(search, bits);
}

static enum status flush_keys(struct sieve *sieve)
{
	size_t kept = records_sort(sieve->keys, sieve->key_count, KEY_WIDTH);
	sieve->key_count = 0;
	return record_writer_add(sieve->file, 0, sieve->keys, kept);
}

static enum status add_key(struct sieve *sieve, const uint64_t *key)
{
	if (sieve->key_count >= sieve->key_limit)
		TRY(flush_keys(sieve));
	TRY(memory_grow((void **)&sieve->keys, &sieve->key_capacity, sieve->key_count + 1,
		KEY_WIDTH * sizeof *sieve->keys, "keys to drop"));
	memcpy(sieve->keys + sieve->key_count++ * KEY_WIDTH, key, KEY_WIDTH * sizeof *key);
	return STATUS_OK;
}

/* Keeps the smallest key of each hash; the others are to be dropped. */
static enum status sift(struct sieve *sieve)
{
	size_t count = records_sort(sieve->records, sieve->count, BAND_WIDTH), kept = 0;
	for (size_t i = 0; i < count; i++) {
		const uint64_t *record = sieve->records + i * BAND_WIDTH;
		if (kept && record[0] == sieve->records[(kept - 1) * BAND_WIDTH]) {
			TRY(add_key(sieve, record + 1));
			continue;
		}
		memmove(sieve->records + kept++ * BAND_WIDTH, record, BAND_WIDTH * sizeof *record);
	}
	sieve->count = kept;
	return STATUS_OK;
}

static enum status take_records(void *user, uint64_t *records, size_t count)
{
	struct sieve *sieve = user;
	if (sieve->count + count > sieve->limit && sieve->count) {
		TRY(sift(sieve));
		/* Different hashes, far more than a part should have: they must be held all the same. */
		if (sieve->count > sieve->limit / 2)
			sieve->limit *= 2;
	}
	TRY(memory_grow((void **)&sieve->records, &sieve->capacity, sieve->count + count,
		BAND_WIDTH * sizeof *sieve->records, "band hashes"));
	memcpy(sieve->records + sieve->count * BAND_WIDTH, records, count * BAND_WIDTH * sizeof *records);
	sieve->count += count;
	return STATUS_OK;
}

static enum status tell_progress(struct search *search)
{
	const struct near_search *config = search->config;
	uint64_t total = count_parts(config, search->bits);
	return config->progress ? config->progress(config->user, atomic_load(&search->done), total)
				: STATUS_OK;
}

/* Records that a worker holds; sorting may take as much again as it sorts. */
static uint64_t most_records(const struct near_search *config)
{
	uint64_t most = config->memory / (uint64_t)config->workers / 4 / (BAND_WIDTH * 8);
	return most < LEAST_RECORDS ? LEAST_RECORDS : most;
}

static enum status sift_part(struct search *search, struct sieve *sieve, uint64_t number)
{
	const struct near_search *config = search->config;
	struct record_format format = record_format(&config->format, BAND_WIDTH);
	int bits = search->bits;
	uint64_t band = number >> bits, part = number & ((UINT64_C(1) << bits) - 1);
	uint64_t first = bits ? part << (64 - bits) : 0;
	uint64_t last = bits ? first + (UINT64_MAX >> bits) : UINT64_MAX;
	char path[NEAR_PATH];
	sieve->limit = most_records(config);
	sieve->count = 0;
	for (size_t unit = 0; unit < config->units; unit++) {
		near_unit_path(config->directory, unit, path);
		TRY(tell_progress(search));
		TRY(record_file_read(path, &format, band, first, last, take_records, sieve));
	}
	return sift(sieve);
}

static enum status sift_parts(struct search *search, struct sieve *sieve, uint64_t file)
{
	uint64_t end = first_part(search->config, search->bits, file + 1);
	sieve->key_limit = most_records(search->config);
	sieve->key_count = 0;
	for (uint64_t part = first_part(search->config, search->bits, file); part < end; part++) {
		TRY(sift_part(search, sieve, part));
		atomic_fetch_add(&search->done, 1);
	}
	return flush_keys(sieve);
}

static enum status make_file(struct search *search, struct sieve *sieve, uint64_t number)
{
	const struct near_search *config = search->config;
	struct record_format format = record_format(&config->format, KEY_WIDTH);
	char path[NEAR_PATH];
	drop_path(config, search->bits, number, path);
	if (file_exists(path) && check_lists(path, &format, 1) == STATUS_OK) {
		atomic_fetch_add(&search->done, first_part(config, search->bits, number + 1) -
							first_part(config, search->bits, number));
		return tell_progress(search);
	}
	TRY(record_writer_open(path, &format, &sieve->file));
	enum status status = sift_parts(search, sieve, number);
	struct record_writer *file = sieve->file;
	sieve->file = NULL;
	if (status != STATUS_OK) {
		record_writer_abandon(file);
		return status;
	}
	TRY(record_writer_publish(file, false));
	return tell_progress(search);
}

static enum status take_file(void *context, int worker, uint64_t task)
{
	struct search *search = context;
	double start = threads_processor_seconds(), *seconds = search->config->seconds;
	enum status status = make_file(search, &search->sieves[worker], task);
	if (seconds && worker > 0) /* worker 0 is the caller of near_search_run, all of which is counted */
		seconds[worker] += threads_processor_seconds() - start;
	return status;
}

/* Parts so small that a worker's share of the memory holds twice their records. */
static int choose_bits(const struct near_search *config, uint64_t documents)
{
	uint64_t room = most_records(config) / 2;
	int bits = 0;
	while (bits < MOST_BITS && documents >> bits > room)
		bits++;
	return bits;
}

/* Drop files of a search with another number of parts. */
static enum status remove_others(const struct near_search *config, int bits)
{
	char **names, own[16];
	size_t count;
	TRY(directory_list(config->directory, &names, &count));
	enum status status = STATUS_OK;
	snprintf(own, sizeof own, "drops-%02d-", bits);
	for (size_t i = 0; i < count && status == STATUS_OK; i++) {
		char *path;
		if (strncmp(names[i], "drops-", 6) != 0 || strncmp(names[i], own, strlen(own)) == 0)
			continue;
		status = path_join(&path, config->directory, names[i]);
		if (status == STATUS_OK) {
			status = file_remove(path);
			free(path);
		}
	}
	directory_list_free(names, count);
	return status;
}

static enum status publish_found(const char *path, int bits)
{
	cJSON *json = cJSON_CreateObject();
	enum status status = json && json_add_u64(json, "partition bits", (uint64_t)bits)
				     ? json_publish(path, json)
				     : error_set(STATUS_MEMORY, "no memory to record the near-duplicates");
	cJSON_Delete(json);
	return status;
}

/* The bits of a search that is complete; false if there is none. */
static bool recall_found(const char *path, int *bits)
{
	cJSON *json;
	uint64_t number = UINT64_MAX;
	if (!file_exists(path) || json_read_file(path, &json) != STATUS_OK)
		return false;
	if (json_get_u64(path, json, "partition bits", &number) != STATUS_OK)
		number = UINT64_MAX;
	cJSON_Delete(json);
	*bits = (int)number;
	return number <= MOST_BITS;
}

static enum status count_documents(struct search *search)
{
	const struct near_search *config = search->config;
	struct record_format format = record_format(&config->format, BAND_WIDTH);
	char path[NEAR_PATH];
	for (size_t unit = 0; unit < config->units; unit++) {
		uint64_t records;
		near_unit_path(config->directory, unit, path);
		TRY(record_file_count(path, &format, 0, &records));
		search->documents += records;
	}
	return STATUS_OK;
}

/* Those files that are not there. */
static enum status make_files(struct search *search)
{
	const struct near_search *config = search->config;
	size_t workers = (size_t)config->workers;
	TRY(memory_alloc((void **)&search->sieves, workers, sizeof *search->sieves, "workers"));
	enum status status =
		threads_run(config->workers, count_files(config, search->bits), take_file, search);
	for (size_t i = 0; i < workers; i++) {
		free(search->sieves[i].records);
		free(search->sieves[i].keys);
	}
	free(search->sieves);
	return status;
}

static enum status find(struct search *search, const char *found_path)
{
	if (recall_found(found_path, &search->bits))
		return make_files(search);
	TRY(count_documents(search));
	search->bits = choose_bits(search->config, search->documents);
	TRY(remove_others(search->config, search->bits));
	TRY(make_files(search));
	return publish_found(found_path, search->bits);
}

enum status near_search_run(const struct near_search *config, int *bits)
{
	struct search search = {.config = config};
	double start = threads_processor_seconds();
	char *path;
	TRY(path_join(&path, config->directory, "drop.json"));
	enum status status = find(&search, path);
	*bits = search.bits;
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

enum status near_search_mark(const struct near_search *search, int bits, uint64_t first, uint64_t last,
	const struct spill_document *documents, size_t count, bool *drop)
{
	struct record_format format = record_format(&search->format, KEY_WIDTH);
	char path[NEAR_PATH];
	struct marking marking = {path, documents, count, drop};
	for (uint64_t file = 0; file < count_files(search, bits); file++) {
		drop_path(search, bits, file, path);
		TRY(record_file_read(path, &format, 0, first, last, mark, &marking));
	}
	return STATUS_OK;
}
