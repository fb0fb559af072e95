#include "data/corpus.h"

#include "common/endian.h"
#include "common/file.h"
#include "common/memory.h"
#include "data/corpus_shard.h"
#include "data/manifest.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE = HASH_TREE_PAGE, IN_ORDER = 16 /* pages that are read at once */ };

/* ---- opening ---- */

/* Numbers the pages of hashes of all shards, for the cache. */
static enum status number_hash_pages(struct corpus *corpus)
{
	uint64_t pages = 0;
	TRY(memory_alloc((void **)&corpus->first_hash_page, (size_t)corpus->info.shard_count,
		sizeof *corpus->first_hash_page, "the list of shards"));
	for (uint64_t i = 0; i < corpus->info.shard_count; i++) {
		corpus->first_hash_page[i] = pages;
		for (int f = 0; f < SHARD_FILES; f++)
			pages += hashed_file_hash_pages(
				shard_file_bytes(corpus, &corpus->info.shards[i], (enum shard_file)f));
	}
	return hash_cache_create(pages, &corpus->hashes);
}

/* The folder that file NAME is in. What is in both is the manifest, of an old corpus and of the new one, or
 * another file, of which next/ has the right one. */
static const char *find_folder(const struct corpus *corpus, const char *name, bool manifest)
{
	if (!corpus->next || (manifest && directory_holds(corpus->directory, name)))
		return corpus->directory;
	return directory_holds(corpus->next, name) ? corpus->next : corpus->directory;
}

const char *corpus_folder(const struct corpus *corpus, const char *name)
{
	return find_folder(corpus, name, false);
}

static enum status use_in(const char *folder, const char *name, corpus_file_use *use, void *user)
{
	char *path;
	TRY(path_join(&path, folder, name));
	enum status status = use(user, path);
	free(path);
	return status;
}

/* An old manifest goes, the new one is in next/, and then beside it; other files move once. */
enum { LOOKS = 3 };

static enum status use_where_it_is(
	const struct corpus *corpus, const char *name, bool manifest, corpus_file_use *use, void *user)
{
	for (int look = 1;; look++) {
		const char *folder = find_folder(corpus, name, manifest);
		enum status status = use_in(folder, name, use, user);
		if (status != STATUS_IO || look == LOOKS || find_folder(corpus, name, manifest) == folder)
			return status;
	}
}

enum status corpus_use_file(const struct corpus *corpus, const char *name, corpus_file_use *use, void *user)
{
	return use_where_it_is(corpus, name, false, use, user);
}

static enum status read_manifest(void *user, const char *path)
{
	struct corpus *corpus = user;
	char *folder = strndup(path, (size_t)(strrchr(path, '/') - path));
	FAIL_IF(!folder, STATUS_MEMORY, "no memory for a path");
	enum status status = manifest_read(folder, &corpus->info);
	corpus->moving = status == STATUS_OK && strcmp(folder, corpus->next) == 0;
	free(folder);
	return status;
}

static enum status find_manifest(struct corpus *corpus)
{
	TRY(path_join(&corpus->next, corpus->directory, "next"));
	TRY(use_where_it_is(corpus, "corpus.json", true, read_manifest, corpus));
	if (!corpus->moving) { /* all its files are in their place */
		free(corpus->next);
		corpus->next = NULL;
	}
	return STATUS_OK;
}

static enum status open_parts(struct corpus *corpus, const char *directory)
{
	corpus->directory = strdup(directory);
	FAIL_IF(!corpus->directory, STATUS_MEMORY, "no memory for a path");
	TRY(find_manifest(corpus));
	TRY(memory_alloc((void **)&corpus->shards, (size_t)corpus->info.shard_count, sizeof *corpus->shards,
		"the list of shards"));
	TRY(number_hash_pages(corpus));
	while (UINT64_C(1) << corpus->shard_bits < corpus->info.shard_count)
		corpus->shard_bits++;
	return STATUS_OK;
}

enum status corpus_open(const char *directory, struct corpus **out)
{
	struct corpus *corpus;
	*out = NULL;
	TRY(memory_alloc((void **)&corpus, 1, sizeof *corpus, "a corpus"));
	pthread_mutex_init(&corpus->mutex, NULL);
	enum status status = open_parts(corpus, directory);
	if (status != STATUS_OK) {
		corpus_close(corpus);
		return status;
	}
	*out = corpus;
	return STATUS_OK;
}

void corpus_close(struct corpus *corpus)
{
	if (!corpus)
		return;
	for (uint64_t i = 0; corpus->shards && i < corpus->info.shard_count; i++)
		shard_free(atomic_load(&corpus->shards[i]));
	pthread_mutex_destroy(&corpus->mutex);
	hash_cache_destroy(corpus->hashes);
	free(corpus->first_hash_page);
	free((void *)corpus->shards);
	free((void *)corpus->info.shards);
	free(corpus->directory);
	free(corpus->next);
	free(corpus);
}

const struct corpus_info *corpus_get_info(const struct corpus *corpus)
{
	return &corpus->info;
}

const char *corpus_directory(const struct corpus *corpus)
{
	return corpus->directory;
}

/* ---- tokens ---- */

enum unit { TOKENS, DOCUMENTS };

/* The last shard whose first token (or document) is at or before `wanted`: the one that holds it. */
static uint64_t find_shard(const struct corpus *corpus, enum unit unit, uint64_t wanted)
{
	uint64_t low = 0, high = corpus->info.shard_count;
	while (high - low > 1) {
		uint64_t middle = low + (high - low) / 2;
		const struct corpus_shard *shard = &corpus->info.shards[middle];
		if ((unit == TOKENS ? shard->first_token : shard->first_document) <= wanted)
			low = middle;
		else
			high = middle;
	}
	return low;
}

/* Widen to int32. The sign of the result tells of an id above `last`. */
static int32_t widen_u16(const uint16_t *from, size_t count, int32_t last, int32_t *restrict to)
{
	int32_t bad = 0;
	for (size_t i = 0; i < count; i++) {
		int32_t id = from[i];
		to[i] = id;
		bad |= last - id;
	}
	return bad;
}

static int32_t copy_i32(const int32_t *from, size_t count, int32_t last, int32_t *restrict to)
{
	int32_t bad = 0;
	for (size_t i = 0; i < count; i++) {
		int32_t id = from[i];
		to[i] = id;
		bad |= id | (int32_t)((uint32_t)last - (uint32_t)id);
	}
	return bad;
}

static __attribute__((noinline, cold)) enum status tell_bad_id(const struct corpus *corpus,
	const struct shard *shard, uint64_t first, const int32_t *tokens, size_t count)
{
	char path[SHARD_PATH];
	size_t i = 0;
	while (i + 1 < count && (uint32_t)tokens[i] < corpus->info.vocabulary)
		i++;
	return error_set(STATUS_CORRUPT,
		"%s: token %" PRIu64 " is id %" PRId32 ", but the vocabulary has %" PRIu32
		" ids: whatever wrote this corpus was wrong",
		shard_path(corpus, shard->entry, "bin", path), first + i, tokens[i], corpus->info.vocabulary);
}

/* `count` ids of a page whose bytes were verified; `first`: the number of the first, within the shard. */
static enum status take_ids(const struct corpus *corpus, const struct shard *shard, uint64_t first,
	const union hashed_page *page, size_t count, int32_t *tokens)
{
	const int32_t last = (int32_t)(corpus->info.vocabulary - 1);
	int32_t bad;
	if (corpus->info.dtype == CORPUS_U16)
		bad = widen_u16(page->u16 + first % (PAGE / 2), count, last, tokens);
	else
		bad = copy_i32(page->i32 + first % (PAGE / 4), count, last, tokens);
	if (__builtin_expect(bad < 0, 0))
		return tell_bad_id(corpus, shard, first, tokens, count);
	return STATUS_OK;
}

/* Tokens [first, first + count) of one shard. */
typedef enum status shard_reader(
	struct corpus *corpus, struct shard *shard, uint64_t first, uint64_t count, int32_t *tokens);

static enum status read_shard_tokens(
	struct corpus *corpus, struct shard *shard, uint64_t first, uint64_t count, int32_t *tokens)
{
	const uint64_t page_tokens = PAGE / corpus_token_bytes(corpus);
	while (count) {
		union hashed_page page;
		size_t bytes, skip = (size_t)(first % page_tokens);
		TRY(shard_page(corpus, shard, SHARD_BIN, first / page_tokens, &page, &bytes));
		size_t part = page_tokens - skip < count ? (size_t)(page_tokens - skip) : (size_t)count;
		TRY(take_ids(corpus, shard, first, &page, part, tokens));
		tokens += part;
		first += part;
		count -= part;
	}
	return STATUS_OK;
}

static enum status read_shard_in_order(
	struct corpus *corpus, struct shard *shard, uint64_t first, uint64_t count, int32_t *tokens)
{
	const uint64_t page_tokens = PAGE / corpus_token_bytes(corpus);
	while (count) {
		union hashed_page pages[IN_ORDER];
		uint64_t page = first / page_tokens, end = (first + count - 1) / page_tokens + 1;
		size_t bytes, held = end - page < IN_ORDER ? (size_t)(end - page) : IN_ORDER;
		TRY(shard_pages(corpus, shard, SHARD_BIN, page, held, pages, &bytes));
		for (size_t i = 0; i < held; i++) {
			size_t skip = (size_t)(first % page_tokens);
			size_t part =
				page_tokens - skip < count ? (size_t)(page_tokens - skip) : (size_t)count;
			TRY(take_ids(corpus, shard, first, &pages[i], part, tokens));
			tokens += part;
			first += part;
			count -= part;
		}
	}
	return STATUS_OK;
}

/* Inlined, so that each way to read is a loop of its own. */
static inline __attribute__((always_inline)) enum status read_tokens(
	struct corpus *corpus, uint64_t first, uint64_t count, int32_t *tokens, shard_reader *read)
{
	FAIL_IF(first > corpus->info.tokens || count > corpus->info.tokens - first, STATUS_USAGE,
		"%s: tokens %" PRIu64 " + %" PRIu64 " asked for, the corpus has %" PRIu64, corpus->directory,
		first, count, corpus->info.tokens);
	for (uint64_t s = find_shard(corpus, TOKENS, first); count; s++) {
		const struct corpus_shard *entry = &corpus->info.shards[s];
		uint64_t skip = first - entry->first_token, part = entry->tokens - skip;
		struct shard *shard;
		if (part > count)
			part = count;
		if (!part)
			continue;
		TRY(shard_get(corpus, s, &shard));
		TRY(read(corpus, shard, skip, part, tokens));
		tokens += part;
		first += part;
		count -= part;
	}
	return STATUS_OK;
}

enum status corpus_read(struct corpus *corpus, uint64_t first, uint64_t count, int32_t *tokens)
{
	return read_tokens(corpus, first, count, tokens, read_shard_tokens);
}

enum status corpus_read_in_order(struct corpus *corpus, uint64_t first, uint64_t count, int32_t *tokens)
{
	return read_tokens(corpus, first, count, tokens, read_shard_in_order);
}

void corpus_prefetch(struct corpus *corpus, uint64_t first, uint64_t count)
{
	unsigned size = corpus_token_bytes(corpus);
	if (first >= corpus->info.tokens)
		return;
	if (count > corpus->info.tokens - first)
		count = corpus->info.tokens - first;
	for (uint64_t s = find_shard(corpus, TOKENS, first); count; s++) {
		const struct corpus_shard *entry = &corpus->info.shards[s];
		uint64_t skip = first - entry->first_token, part = entry->tokens - skip;
		struct shard *shard;
		if (part > count)
			part = count;
		if (part && shard_get(corpus, s, &shard) == STATUS_OK)
			shard_prefetch(corpus, shard, SHARD_BIN, skip * size, (skip + part) * size);
		first += part;
		count -= part;
	}
}

/* ---- documents ---- */

static enum status check_document(const struct corpus *corpus, uint64_t document)
{
	FAIL_IF(document >= corpus->info.documents, STATUS_USAGE,
		"%s: document %" PRIu64 " asked for, the corpus has %" PRIu64 " (from 0)", corpus->directory,
		document, corpus->info.documents);
	return STATUS_OK;
}

enum status corpus_shard_of(const struct corpus *corpus, uint64_t document, uint64_t *shard)
{
	TRY(check_document(corpus, document));
	*shard = find_shard(corpus, DOCUMENTS, document);
	return STATUS_OK;
}

enum status corpus_document(struct corpus *corpus, uint64_t document, uint64_t *first, uint64_t *count)
{
	struct shard *shard;
	uint8_t length[4];
	uint64_t offset;
	unsigned size = corpus_token_bytes(corpus);
	TRY(check_document(corpus, document));
	TRY(shard_get(corpus, find_shard(corpus, DOCUMENTS, document), &shard));
	const struct corpus_shard *entry = shard->entry;
	uint64_t local = document - entry->first_document;
	TRY(shard_read(corpus, shard, SHARD_IDX, IDX_HEADER + 4 * local, sizeof length, length));
	TRY(shard_read_u64(corpus, shard, SHARD_IDX, idx_offsets(entry->documents) + 8 * local, &offset));
	char path[SHARD_PATH];
	FAIL_IF(offset % size || offset / size > entry->tokens || load_le32(length) < 1 ||
			load_le32(length) > entry->tokens - offset / size,
		STATUS_CORRUPT,
		"%s: document %" PRIu64 " of the corpus lies at byte %" PRIu64 ", %" PRIu32
		" tokens long, which is not within the shard: whatever wrote this corpus was wrong",
		shard_path(corpus, entry, "idx", path), document, offset, load_le32(length));
	*first = entry->first_token + offset / size;
	*count = load_le32(length);
	return STATUS_OK;
}

enum status corpus_document_lengths(struct corpus *corpus, uint64_t first, uint64_t count, uint32_t *lengths)
{
	FAIL_IF(first > corpus->info.documents || count > corpus->info.documents - first, STATUS_USAGE,
		"%s: documents %" PRIu64 " + %" PRIu64 " asked for, the corpus has %" PRIu64,
		corpus->directory, first, count, corpus->info.documents);
	for (uint64_t s = find_shard(corpus, DOCUMENTS, first); count; s++) {
		const struct corpus_shard *entry = &corpus->info.shards[s];
		uint64_t skip = first - entry->first_document, part = entry->documents - skip;
		struct shard *shard;
		if (part > count)
			part = count;
		if (!part)
			continue;
		TRY(shard_get(corpus, s, &shard));
		shard_prefetch(
			corpus, shard, SHARD_IDX, IDX_HEADER + 4 * skip, IDX_HEADER + 4 * (skip + part));
		TRY(shard_read(corpus, shard, SHARD_IDX, IDX_HEADER + 4 * skip, (size_t)part * 4, lengths));
		lengths += part;
		first += part;
		count -= part;
	}
	return STATUS_OK;
}

enum status corpus_document_key(struct corpus *corpus, uint64_t document, uint64_t *key)
{
	struct shard *shard;
	TRY(check_document(corpus, document));
	TRY(shard_get(corpus, find_shard(corpus, DOCUMENTS, document), &shard));
	return shard_read_u64(corpus, shard, SHARD_KEY, 8 * (document - shard->entry->first_document), key);
}

enum status corpus_find_key(struct corpus *corpus, uint64_t key, uint64_t *document)
{
	uint64_t s = corpus->shard_bits ? key >> (64 - corpus->shard_bits) : 0;
	const struct corpus_shard *entry = &corpus->info.shards[s];
	uint64_t low = 0, high = entry->documents;
	struct shard *shard;
	if (high)
		TRY(shard_get(corpus, s, &shard));
	while (low < high) {
		uint64_t middle = low + (high - low) / 2, found;
		TRY(shard_read_u64(corpus, shard, SHARD_KEY, 8 * middle, &found));
		if (found < key)
			low = middle + 1;
		else
			high = middle;
	}
	/* Past this shard's last document begins the next shard's first: its keys are all larger. */
	*document = entry->first_document + low;
	return STATUS_OK;
}
