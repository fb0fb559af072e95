#include "data/corpus_merge.h"

#include "common/file.h"
#include "common/memory.h"
#include "common/threads.h"
#include "data/corpus_output.h"
#include "data/merge_rejects.h"
#include "data/output_lock.h"
#include "data/sources.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { READ_TOKENS = 1 << 16, READ_DOCUMENTS = 1 << 12, PROGRESS_TOKENS = 1 << 20 };

struct merge {
	const struct corpus_merge_config *config;
	struct corpus **corpora; /* [config->input_count] */
	char *work;              /* OUTPUT/work */
	struct tokenizer *tokenizer;
	enum corpus_dtype dtype;
	uint64_t input_documents, input_tokens, input_bytes;
	uint64_t bytes; /* of all the inputs' documents */
	uint64_t tokens, near_duplicates, empty, rejected, repaired;
	bool sources;                 /* all inputs have them */
	struct shard_summary *shards; /* [shard_count] */
	size_t shard_count;

	_Atomic uint64_t dropped_documents, dropped_bytes, tokens_done;
	atomic_bool stopped;
	pthread_mutex_t progress_mutex;
};

/* ---- reading an input, document by document ---- */

struct cursor {
	struct corpus *corpus;
	struct sources *sources; /* NULL: the output has none */
	uint64_t document, end;  /* the current one; of the range */
	uint64_t key;            /* of the current one */
	uint64_t first_token;    /* of the current one */

	uint32_t *lengths; /* [lengths_count], of documents from lengths_first on */
	uint64_t lengths_first, lengths_count;
	int32_t *tokens; /* [token_count], from buffer_first on */
	size_t token_capacity;
	uint64_t buffer_first, token_count;
};

static enum status read_key(struct cursor *cursor)
{
	uint64_t key;
	if (cursor->document == cursor->end)
		return STATUS_OK;
	TRY(corpus_document_key(cursor->corpus, cursor->document, &key));
	FAIL_IF(key < cursor->key, STATUS_CORRUPT,
		"%s: the key of document %" PRIu64
		" is smaller than the one before; `ferry verify` checks all",
		corpus_directory(cursor->corpus), cursor->document);
	cursor->key = key;
	return STATUS_OK;
}

/* Documents [first, end) of a corpus. */
static enum status cursor_begin(struct cursor *cursor, struct corpus *corpus, uint64_t first, uint64_t end)
{
	uint64_t count;
	cursor->corpus = corpus;
	cursor->document = first;
	cursor->end = end;
	cursor->key = 0;
	cursor->lengths_count = cursor->token_count = 0;
	if (first == end)
		return STATUS_OK;
	if (!cursor->lengths)
		TRY(memory_alloc((void **)&cursor->lengths, READ_DOCUMENTS, sizeof *cursor->lengths,
			"document lengths"));
	TRY(corpus_document(corpus, first, &cursor->first_token, &count));
	return read_key(cursor);
}

static enum status document_length(struct cursor *cursor, uint32_t *length)
{
	uint64_t left = cursor->end - cursor->document;
	if (cursor->document - cursor->lengths_first >= cursor->lengths_count) {
		cursor->lengths_count = 0;
		cursor->lengths_first = cursor->document;
		uint64_t count = left < READ_DOCUMENTS ? left : READ_DOCUMENTS;
		TRY(corpus_document_lengths(cursor->corpus, cursor->document, count, cursor->lengths));
		cursor->lengths_count = count;
	}
	*length = cursor->lengths[cursor->document - cursor->lengths_first];
	return STATUS_OK;
}

/* The current document's tokens, EOD included, valid until the next call. */
static enum status document_tokens(struct cursor *cursor, const int32_t **tokens, uint32_t *count)
{
	TRY(document_length(cursor, count));
	uint64_t first = cursor->first_token;
	if (first < cursor->buffer_first || first + *count > cursor->buffer_first + cursor->token_count) {
		uint64_t left = corpus_get_info(cursor->corpus)->tokens - first;
		uint64_t wanted = *count > READ_TOKENS ? *count : READ_TOKENS;
		if (wanted > left)
			wanted = left;
		FAIL_IF(wanted < *count, STATUS_CORRUPT,
			"%s: document %" PRIu64 " ends beyond the corpus's tokens",
			corpus_directory(cursor->corpus), cursor->document);
		cursor->token_count = 0;
		TRY(memory_grow((void **)&cursor->tokens, &cursor->token_capacity, wanted,
			sizeof *cursor->tokens, "tokens"));
		TRY(corpus_read_in_order(cursor->corpus, first, wanted, cursor->tokens));
		cursor->buffer_first = first;
		cursor->token_count = wanted;
	}
	*tokens = cursor->tokens + (first - cursor->buffer_first);
	return STATUS_OK;
}

static enum status cursor_next(struct cursor *cursor)
{
	uint32_t length;
	TRY(document_length(cursor, &length));
	cursor->first_token += length;
	cursor->document++;
	return read_key(cursor);
}

/* ---- documents whose keys begin alike ---- */

struct candidate {
	const struct corpus *corpus; /* it is of, */
	uint64_t document;           /* and its number there */
	size_t first;                /* in the group's tokens */
	uint32_t count;              /* without EOD */
	struct hash128 key;
	const uint32_t *tokens; /* once the group is complete */
	size_t path;            /* in the group's paths */
	struct source source;   /* its path once the group is complete */
};

struct worker {
	struct cursor *cursors; /* [config->input_count] */
	struct candidate *group;
	size_t group_capacity, group_count;
	uint32_t *tokens; /* the group's, back to back */
	size_t token_capacity, token_count;
	char *paths; /* the group's, back to back */
	size_t path_capacity, path_bytes;
	uint16_t *narrow;
	size_t narrow_capacity;
	uint64_t done; /* tokens, since progress was told */
};

/* Where the cursor's document came from; the path is copied, for its owner may move on. */
static enum status read_source(struct worker *worker, struct cursor *cursor, struct candidate *candidate)
{
	if (!cursor->sources)
		return STATUS_OK;
	TRY(sources_get(cursor->sources, cursor->document, &candidate->source));
	size_t bytes = strlen(candidate->source.path) + 1;
	TRY(memory_grow(
		(void **)&worker->paths, &worker->path_capacity, worker->path_bytes + bytes, 1, "paths"));
	memcpy(worker->paths + worker->path_bytes, candidate->source.path, bytes);
	candidate->path = worker->path_bytes;
	worker->path_bytes += bytes;
	return STATUS_OK;
}

static enum status group_add(struct worker *worker, struct cursor *cursor)
{
	const int32_t *tokens = NULL;
	uint32_t count;
	TRY(document_tokens(cursor, &tokens, &count));
	FAIL_IF(count == 0, STATUS_CORRUPT, "%s: document %" PRIu64 " has no tokens, not even EOD",
		corpus_directory(cursor->corpus), cursor->document);
	TRY(memory_grow((void **)&worker->group, &worker->group_capacity, worker->group_count + 1,
		sizeof *worker->group, "documents"));
	TRY(memory_grow((void **)&worker->tokens, &worker->token_capacity, worker->token_count + count,
		sizeof *worker->tokens, "tokens"));
	memcpy(worker->tokens + worker->token_count, tokens, count * sizeof *tokens);
	struct candidate *candidate = &worker->group[worker->group_count];
	*candidate = (struct candidate){.corpus = cursor->corpus,
		.document = cursor->document,
		.first = worker->token_count,
		.count = count - 1};
	TRY(read_source(worker, cursor, candidate));
	worker->group_count++;
	worker->token_count += count;
	worker->done += count;
	return cursor_next(cursor);
}

/* Takes every document of the smallest key; *more is false when there is none. */
static enum status group_read(const struct merge *merge, struct worker *worker, uint64_t *key, bool *more)
{
	size_t inputs = merge->config->input_count;
	*more = false;
	for (size_t i = 0; i < inputs; i++) {
		const struct cursor *cursor = &worker->cursors[i];
		if (cursor->document < cursor->end && (!*more || cursor->key < *key)) {
			*more = true;
			*key = cursor->key;
		}
	}
	worker->group_count = worker->token_count = worker->path_bytes = 0;
	for (size_t i = 0; *more && i < inputs; i++) {
		struct cursor *cursor = &worker->cursors[i];
		while (cursor->document < cursor->end && cursor->key == *key)
			TRY(group_add(worker, cursor));
	}
	return STATUS_OK;
}

static enum status compute_key(const struct tokenizer *tokenizer, uint64_t key, struct candidate *candidate)
{
	char *text;
	size_t bytes;
	TRY(tokenizer_decode(tokenizer, candidate->tokens, candidate->count, &text, &bytes));
	candidate->key = hash128(text, bytes);
	free(text);
	FAIL_IF(candidate->key.high != key, STATUS_CORRUPT,
		"%s: document %" PRIu64 " has the key %016" PRIx64 ", but its text has %016" PRIx64
		": whatever wrote this corpus was wrong; preprocess its text anew",
		corpus_directory(candidate->corpus), candidate->document, key, candidate->key.high);
	return STATUS_OK;
}

/* By key, then the copy to keep first. */
static int compare_candidates(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;
	int order = hash128_compare(x->key, y->key);
	if (order)
		return order;
	if (x->count != y->count)
		return x->count < y->count ? -1 : 1;
	for (uint32_t i = 0; i < x->count; i++)
		if (x->tokens[i] != y->tokens[i])
			return x->tokens[i] < y->tokens[i] ? -1 : 1;
	return 0;
}

static bool same_tokens(const struct candidate *a, const struct candidate *b)
{
	return a->count == b->count && memcmp(a->tokens, b->tokens, a->count * sizeof *a->tokens) == 0;
}

static uint64_t count_bytes(const struct tokenizer *tokenizer, const struct candidate *candidate)
{
	uint64_t bytes = 0;
	for (uint32_t i = 0; i < candidate->count; i++) {
		uint32_t length = 0;
		if (tokenizer_token_bytes(tokenizer, candidate->tokens[i], &length))
			bytes += length;
	}
	return bytes;
}

/* `kept` takes the smaller source of the two. */
static void drop(struct merge *merge, const struct candidate *candidate, struct candidate *kept)
{
	if (merge->sources && source_compare(&candidate->source, &kept->source) < 0)
		kept->source = candidate->source;
	atomic_fetch_add(&merge->dropped_documents, 1);
	atomic_fetch_add(&merge->dropped_bytes, count_bytes(merge->tokenizer, candidate));
}

/* Leaves each text of the group once, in key order. */
static enum status group_settle(struct merge *merge, struct worker *worker, uint64_t key)
{
	struct candidate *group = worker->group;
	size_t kept = 0;
	for (size_t i = 0; i < worker->group_count; i++) {
		group[i].tokens = worker->tokens + group[i].first;
		if (merge->sources)
			group[i].source.path = worker->paths + group[i].path;
	}
	/* Nearly always they are copies of one document, and no key is needed. */
	for (size_t i = 0; i < worker->group_count; i++) {
		if (kept && same_tokens(&group[kept - 1], &group[i]))
			drop(merge, &group[i], &group[kept - 1]);
		else
			group[kept++] = group[i];
	}
	worker->group_count = kept;
	if (kept < 2)
		return STATUS_OK;
	for (size_t i = 0; i < kept; i++)
		TRY(compute_key(merge->tokenizer, key, &group[i]));
	qsort(group, kept, sizeof *group, compare_candidates);
	worker->group_count = 1;
	for (size_t i = 1; i < kept; i++) {
		if (hash128_compare(group[worker->group_count - 1].key, group[i].key) == 0)
			drop(merge, &group[i], &group[worker->group_count - 1]);
		else
			group[worker->group_count++] = group[i];
	}
	return STATUS_OK;
}

/* ---- writing ---- */

/* The writer counts bytes of text; here they are known for the whole corpus (struct merge), not a shard. */
static enum status write_candidate(const struct merge *merge, struct worker *worker,
	struct shard_writer *writer, uint64_t key, const struct candidate *candidate)
{
	if (merge->dtype == CORPUS_I32)
		return shard_writer_add(
			writer, key, candidate->tokens, candidate->count, 0, &candidate->source);
	TRY(memory_grow((void **)&worker->narrow, &worker->narrow_capacity, candidate->count,
		sizeof *worker->narrow, "tokens"));
	for (uint32_t i = 0; i < candidate->count; i++)
		worker->narrow[i] = (uint16_t)candidate->tokens[i];
	return shard_writer_add(writer, key, worker->narrow, candidate->count, 0, &candidate->source);
}

static enum status tell_progress(struct merge *merge, struct worker *worker)
{
	const struct corpus_merge_config *config = merge->config;
	uint64_t done = atomic_fetch_add(&merge->tokens_done, worker->done) + worker->done;
	worker->done = 0;
	if (config->progress) {
		pthread_mutex_lock(&merge->progress_mutex);
		if (!config->progress(config->user, done, merge->tokens))
			atomic_store(&merge->stopped, true);
		pthread_mutex_unlock(&merge->progress_mutex);
	}
	FAIL_IF(atomic_load(&merge->stopped), STATUS_INTERRUPTED, "stopped; nothing was published");
	return STATUS_OK;
}

static enum status write_groups(struct merge *merge, struct worker *worker, struct shard_writer *writer)
{
	uint64_t key = 0;
	bool more;
	for (;;) {
		TRY(group_read(merge, worker, &key, &more));
		if (!more)
			return tell_progress(merge, worker);
		TRY(group_settle(merge, worker, key));
		for (size_t i = 0; i < worker->group_count; i++)
			TRY(write_candidate(merge, worker, writer, key, &worker->group[i]));
		if (worker->done >= PROGRESS_TOKENS)
			TRY(tell_progress(merge, worker));
	}
}

/* Sets the cursors to the keys of shard `shard`. */
static enum status begin_shard(struct merge *merge, struct worker *worker, uint64_t shard)
{
	int depth = 0;
	while ((size_t)1 << depth < merge->shard_count)
		depth++;
	for (size_t i = 0; i < merge->config->input_count; i++) {
		struct corpus *corpus = merge->corpora[i];
		uint64_t first = 0, end = corpus_get_info(corpus)->documents;
		if (shard > 0)
			TRY(corpus_find_key(corpus, shard << (64 - depth), &first));
		if (shard + 1 < merge->shard_count)
			TRY(corpus_find_key(corpus, (shard + 1) << (64 - depth), &end));
		TRY(cursor_begin(&worker->cursors[i], corpus, first, end));
	}
	return STATUS_OK;
}

static void free_worker(const struct merge *merge, struct worker *worker)
{
	for (size_t i = 0; worker->cursors && i < merge->config->input_count; i++) {
		free(worker->cursors[i].lengths);
		free(worker->cursors[i].tokens);
		sources_close(worker->cursors[i].sources);
	}
	free(worker->cursors);
	free(worker->group);
	free(worker->tokens);
	free(worker->paths);
	free(worker->narrow);
}

struct crew {
	struct merge *merge;
	struct worker *workers; /* [config->workers] */
};

static enum status open_cursors(struct merge *merge, struct worker *worker)
{
	if (worker->cursors)
		return STATUS_OK;
	TRY(memory_alloc((void **)&worker->cursors, merge->config->input_count, sizeof *worker->cursors,
		"the inputs"));
	for (size_t i = 0; merge->sources && i < merge->config->input_count; i++)
		TRY(sources_open(merge->corpora[i], &worker->cursors[i].sources));
	return STATUS_OK;
}

static enum status take_shard(void *context, int number, uint64_t shard)
{
	struct crew *crew = context;
	struct merge *merge = crew->merge;
	struct worker *worker = &crew->workers[number];
	struct shard_writer *writer;
	char name[24];
	TRY(open_cursors(merge, worker));
	TRY(begin_shard(merge, worker, shard));
	snprintf(name, sizeof name, "%05" PRIu64, shard);
	TRY(shard_writer_open(
		merge->work, name, merge->dtype, tokenizer_eod(merge->tokenizer), merge->sources, &writer));
	enum status status = write_groups(merge, worker, writer);
	if (status == STATUS_OK)
		return shard_writer_publish(writer, &merge->shards[shard]);
	shard_writer_abandon(writer);
	return status;
}

static enum status write_shards(struct merge *merge)
{
	struct crew crew = {.merge = merge};
	int workers = merge->config->workers;
	merge->shard_count = corpus_output_shards(
		merge->input_tokens, merge->input_documents, merge->dtype, merge->config->shard_bytes);
	TRY(memory_alloc((void **)&merge->shards, merge->shard_count, sizeof *merge->shards, "shards"));
	TRY(memory_alloc((void **)&crew.workers, (size_t)workers, sizeof *crew.workers, "workers"));
	enum status status = threads_run(workers, merge->shard_count, take_shard, &crew);
	for (int i = 0; i < workers; i++)
		free_worker(merge, &crew.workers[i]);
	free(crew.workers);
	return status;
}

/* ---- a run ---- */

static enum status add_input(struct merge *merge, size_t number)
{
	const struct corpus_info *first = corpus_get_info(merge->corpora[0]);
	const struct corpus_info *info = corpus_get_info(merge->corpora[number]);
	char have[33], want[33];
	hash128_format(info->tokenizer_hash, have);
	hash128_format(first->tokenizer_hash, want);
	FAIL_IF(hash128_compare(info->tokenizer_hash, first->tokenizer_hash) != 0, STATUS_MISMATCH,
		"%s was made with another tokenizer (%s, %s) than %s (%s, %s): preprocess their text anew "
		"with "
		"one",
		merge->config->inputs[number], info->tokenizer_name, have, merge->config->inputs[0],
		first->tokenizer_name, want);
	merge->input_documents += info->input_documents;
	merge->input_tokens += info->input_tokens;
	merge->input_bytes += info->input_bytes;
	merge->tokens += info->tokens;
	merge->bytes += info->bytes;
	merge->near_duplicates += info->dropped_near;
	merge->empty += info->dropped_empty;
	merge->rejected += info->dropped_rejected;
	merge->repaired += info->repaired;
	merge->sources &= info->sources;
	return STATUS_OK;
}

/* No input twice, and none that is the output. */
static enum status check_directories(const struct corpus_merge_config *config)
{
	struct stat *seen;
	enum status status = STATUS_OK;
	TRY(memory_alloc((void **)&seen, config->input_count + 1, sizeof *seen, "the inputs"));
	for (size_t i = 0; i <= config->input_count && status == STATUS_OK; i++) {
		const char *path = i < config->input_count ? config->inputs[i] : config->output;
		if (i == config->input_count && !file_exists(path))
			break;
		status = file_stat(path, &seen[i]);
		for (size_t j = 0; j < i && status == STATUS_OK; j++)
			if (seen[i].st_dev == seen[j].st_dev && seen[i].st_ino == seen[j].st_ino)
				status = error_set(STATUS_USAGE,
					i < config->input_count ? "%s: the input is given twice"
								: "%s: the output is one of the inputs; "
								  "choose another --output",
					path);
	}
	free(seen);
	return status;
}

static enum status open_inputs(struct merge *merge)
{
	const struct corpus_merge_config *config = merge->config;
	FAIL_IF(config->input_count == 0, STATUS_USAGE, "no corpora to merge");
	FAIL_IF(config->workers < 1 || config->workers > 4096, STATUS_USAGE,
		"%d workers are not possible; 1 to 4096 are", config->workers);
	TRY(check_directories(config));
	TRY(memory_alloc(
		(void **)&merge->corpora, config->input_count, sizeof *merge->corpora, "the inputs"));
	merge->sources = true;
	for (size_t i = 0; i < config->input_count; i++) {
		TRY(corpus_open(config->inputs[i], &merge->corpora[i]));
		TRY(add_input(merge, i));
	}
	TRY(corpus_open_tokenizer(merge->corpora[0], &merge->tokenizer));
	merge->dtype = corpus_output_dtype(merge->tokenizer);
	return STATUS_OK;
}

/* The output is new, or may be replaced: an empty work folder. */
static enum status begin_output(const struct merge *merge)
{
	const struct corpus_merge_config *config = merge->config;
	bool corpus, journal;
	TRY(directory_remove_temporaries(config->output));
	TRY(corpus_output_recover(config->output));
	TRY(corpus_output_has(config->output, "corpus.json", &corpus));
	TRY(corpus_output_has(merge->work, "job.json", &journal));
	FAIL_IF(corpus && !config->overwrite, STATUS_USAGE,
		"%s: already holds a corpus; choose another --output, or --overwrite to replace it",
		config->output);
	FAIL_IF(journal && !config->overwrite, STATUS_USAGE,
		"%s: holds an unfinished run of preprocess; finish it, choose another --output, or "
		"--overwrite to replace it",
		config->output);
	TRY(directory_remove(merge->work));
	return directory_create(merge->work);
}

static const char *find_without_sources(const struct merge *merge)
{
	const char *without = NULL;
	bool some = false;
	for (size_t i = 0; i < merge->config->input_count; i++) {
		bool has = corpus_get_info(merge->corpora[i])->sources;
		some |= has;
		if (!has && !without)
			without = merge->config->inputs[i];
	}
	return some ? without : NULL;
}

static enum status write_output(struct merge *merge, struct corpus_merge_result *result)
{
	TRY(write_shards(merge));
	if (merge->rejected)
		TRY(merge_rejects(merge->corpora, merge->config->input_count, merge->work));
	uint64_t bytes = merge->bytes - atomic_load(&merge->dropped_bytes);
	TRY(corpus_output_publish(&(struct corpus_output){
		.directory = merge->config->output,
		.tokenizer = merge->tokenizer,
		.bytes = bytes,
		.input_documents = merge->input_documents,
		.input_tokens = merge->input_tokens,
		.input_bytes = merge->input_bytes,
		.near_duplicates = merge->near_duplicates,
		.empty = merge->empty,
		.rejected = merge->rejected,
		.repaired = merge->repaired,
		.sources = merge->sources,
		.shards = merge->shards,
		.shard_count = merge->shard_count,
	}));
	*result = (struct corpus_merge_result){.bytes = bytes,
		.duplicates = atomic_load(&merge->dropped_documents),
		.shards = merge->shard_count,
		.without_sources = find_without_sources(merge)};
	for (size_t i = 0; i < merge->shard_count; i++) {
		result->documents += merge->shards[i].documents;
		result->tokens += merge->shards[i].tokens;
	}
	return STATUS_OK;
}

static enum status run_locked(struct merge *merge, struct corpus_merge_result *result)
{
	TRY(begin_output(merge));
	enum status status = write_output(merge, result);
	return status == STATUS_OK ? status : directory_discard(merge->work, status);
}

static enum status run(struct merge *merge, struct corpus_merge_result *result)
{
	struct output_lock lock;
	TRY(open_inputs(merge));
	TRY(path_join(&merge->work, merge->config->output, "work"));
	TRY(output_lock_alone(merge->config->output, &lock));
	enum status status = run_locked(merge, result);
	output_lock_release(&lock);
	return status;
}

enum status corpus_merge_run(const struct corpus_merge_config *config, struct corpus_merge_result *result)
{
	struct merge merge = {.config = config};
	*result = (struct corpus_merge_result){0};
	pthread_mutex_init(&merge.progress_mutex, NULL);
	enum status status = run(&merge, result);
	pthread_mutex_destroy(&merge.progress_mutex);
	for (size_t i = 0; merge.corpora && i < config->input_count; i++)
		corpus_close(merge.corpora[i]);
	if (merge.tokenizer)
		tokenizer_close(merge.tokenizer);
	free(merge.corpora);
	free(merge.shards);
	free(merge.work);
	return status;
}
