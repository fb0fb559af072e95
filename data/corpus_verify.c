#include "common/endian.h"
#include "common/memory.h"
#include "common/threads.h"
#include "data/corpus_shard.h"
#include "data/sources.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/*
 * The work of a shard is cut into tasks:
 *
 *    1             map its files (sizes, headers), and the tops of the trees that .sum holds; .src, all of it
 *    pieces        .bin, PIECE_PAGES pages each: hashes, ids, EOD at the documents' ends and nowhere else
 *    batches       documents, BATCH each: .idx adds up, .key ascends within the shard's interval
 *
 * Every byte of .bin, .idx and .key is read by one of them (a page at a border by two), and with each page
 * the tree above it.
 */
enum { PAGE = HASH_TREE_PAGE, PIECE_PAGES = 1024, IN_ORDER = 16 /* pages */, BATCH = 1 << 15, STRIDE = 2048 };

struct verification {
	struct corpus *corpus;
	uint64_t *first_task; /* [shard_count + 1] */
	pthread_mutex_t mutex;
	corpus_progress *progress;
	void *user;
	uint64_t done, total;
};

static uint64_t pieces_of(const struct corpus *corpus, const struct corpus_shard *entry)
{
	uint64_t piece = (uint64_t)PIECE_PAGES * PAGE;
	return (shard_file_bytes(corpus, entry, SHARD_BIN) + piece - 1) / piece;
}

static uint64_t batches_of(const struct corpus_shard *entry)
{
	return (entry->documents + BATCH - 1) / BATCH;
}

static void report(struct verification *run, uint64_t bytes)
{
	if (!run->progress)
		return;
	pthread_mutex_lock(&run->mutex);
	run->done += bytes;
	run->progress(run->user, run->done, run->total);
	pthread_mutex_unlock(&run->mutex);
}

/* ---- task: headers ---- */

/* The reader takes the roots from the manifest; here the tops of the trees must be the same. */
static enum status verify_tops(struct corpus *corpus, struct shard *shard)
{
	char path[SHARD_PATH], documents[SHARD_DOCUMENTS];
	shard_path(corpus, shard->entry, "sum", path);
	for (int f = 0; f < SHARD_FILES; f++) {
		const struct hashed_file *file = &shard->files[f];
		uint8_t top[8];
		if (!file->shape.total)
			continue;
		uint64_t at = shard->trees[f].start + 8 * (file->shape.total - 1);
		TRY(shard_read_sum(shard, at, top, sizeof top));
		FAIL_IF(load_le64(top) != file->root, STATUS_CORRUPT,
			"%s: bytes %" PRIu64 "..%" PRIu64 ", the root of .%s, are not the manifest's; they "
			"vouch for %s; " CORPUS_CURE,
			path, at, at + 7, shard_suffixes[f], shard_documents(shard->entry, documents));
	}
	return STATUS_OK;
}

/* A shard without documents has an .idx all the same: its last number has no batch to be checked in. */
static enum status verify_headers(struct corpus *corpus, struct shard *shard)
{
	uint8_t number[8];
	char path[SHARD_PATH];
	uint64_t documents = shard->entry->documents;
	TRY(verify_tops(corpus, shard));
	for (int f = 0; f < SHARD_FILES; f++)
		TRY(shard_map_file(corpus, shard, (enum shard_file)f));
	TRY(shard_read(corpus, shard, SHARD_IDX, idx_documents(documents) + 8 * documents, 8, number));
	FAIL_IF(load_le64(number) != documents, STATUS_CORRUPT,
		"%s: its last number is %" PRIu64 " instead of %" PRIu64
		": whatever wrote this corpus was wrong",
		shard_path(corpus, shard->entry, "idx", path), load_le64(number), documents);
	return STATUS_OK;
}

/* ---- task: a piece of .bin ---- */

/* Where documents end, in order, read STRIDE at a time from .idx. */
struct ends {
	struct corpus *corpus;
	struct shard *shard;
	uint64_t document;   /* whose end comes next */
	uint64_t read_until; /* ends of documents before this one are in `end` */
	uint64_t read_from;
	uint64_t end[STRIDE]; /* token behind the document */
};

static enum status ends_peek(struct ends *ends, uint64_t *end)
{
	const uint64_t documents = ends->shard->entry->documents;
	const unsigned size = corpus_token_bytes(ends->corpus);
	if (ends->document >= documents) {
		*end = UINT64_MAX;
		return STATUS_OK;
	}
	if (ends->document >= ends->read_until) {
		/* A document ends where the next begins; the last at the end of the file. */
		uint64_t first = ends->document,
			 count = documents - first < STRIDE ? documents - first : STRIDE;
		uint64_t stored = first + count == documents ? count - 1 : count;
		TRY(shard_read(ends->corpus, ends->shard, SHARD_IDX, idx_offsets(documents) + 8 * (first + 1),
			8 * (size_t)stored, ends->end));
		for (uint64_t i = 0; i < stored; i++)
			ends->end[i] = load_le64(&ends->end[i]) / size;
		if (stored < count)
			ends->end[stored] = ends->shard->entry->tokens;
		ends->read_from = first;
		ends->read_until = first + count;
	}
	*end = ends->end[ends->document - ends->read_from];
	return STATUS_OK;
}

static enum status tell_bad_token(const struct ends *ends, uint64_t token, uint32_t id, const char *what)
{
	char path[SHARD_PATH];
	return error_set(STATUS_CORRUPT,
		"%s: token %" PRIu64 " (byte %" PRIu64 ") is id %" PRIu32 ", %s (document %" PRIu64
		" of the corpus): whatever wrote this corpus was wrong",
		shard_path(ends->corpus, ends->shard->entry, "bin", path), token,
		token * corpus_token_bytes(ends->corpus), id, what,
		ends->shard->entry->first_document + ends->document);
}

/* The page's ids, `token` the first: in the vocabulary, and EOD exactly where a document ends. */
static enum status verify_tokens(
	struct ends *ends, uint64_t token, const union hashed_page *page, size_t count)
{
	const struct corpus_info *info = corpus_get_info(ends->corpus);
	uint64_t end;
	TRY(ends_peek(ends, &end));
	for (size_t i = 0; i < count; i++) {
		uint32_t id = info->dtype == CORPUS_U16 ? page->u16[i] : (uint32_t)page->i32[i];
		if (id >= info->vocabulary)
			return tell_bad_token(ends, token + i, id, "which the vocabulary does not have");
		if (__builtin_expect((id == info->eod) != (token + i + 1 == end), 0))
			return tell_bad_token(ends, token + i, id,
				id == info->eod ? "EOD, but its document goes on"
						: "but its document ends here, in EOD");
		if (id == info->eod) {
			ends->document++;
			TRY(ends_peek(ends, &end));
		}
	}
	return STATUS_OK;
}

static enum status verify_piece(struct verification *run, struct shard *shard, uint64_t piece)
{
	struct corpus *corpus = run->corpus;
	const unsigned size = corpus_token_bytes(corpus);
	const uint64_t bytes = shard->files[SHARD_BIN].bytes, all = (bytes + PAGE - 1) / PAGE;
	uint64_t first = piece * PIECE_PAGES, end = first + PIECE_PAGES < all ? first + PIECE_PAGES : all;
	struct ends ends = {.corpus = corpus, .shard = shard};
	TRY(shard_document_at(corpus, shard, first * PAGE, &ends.document));
	for (uint64_t p = first; p < end; p += IN_ORDER) {
		union hashed_page pages[IN_ORDER];
		size_t got, count = end - p < IN_ORDER ? (size_t)(end - p) : IN_ORDER;
		TRY(shard_pages(corpus, shard, SHARD_BIN, p, count, pages, &got));
		for (size_t i = 0; i < count; i++) {
			size_t held = got - i * PAGE < PAGE ? got - i * PAGE : PAGE;
			TRY(verify_tokens(&ends, (p + i) * (PAGE / size), &pages[i], held / size));
		}
	}
	report(run, (end * PAGE < bytes ? end * PAGE : bytes) - first * PAGE);
	return STATUS_OK;
}

/* ---- task: a batch of documents ---- */

struct documents {
	uint32_t length[STRIDE];
	uint64_t offset[STRIDE + 1], number[STRIDE + 1], key[STRIDE + 1];
};

static enum status tell_bad_document(const struct corpus *corpus, const struct shard *shard,
	uint64_t document, const char *suffix, const char *what)
{
	char path[SHARD_PATH];
	return error_set(STATUS_CORRUPT,
		"%s: document %" PRIu64 " of the corpus %s: whatever wrote this corpus was wrong",
		shard_path(corpus, shard->entry, suffix, path), shard->entry->first_document + document,
		what);
}

static enum status read_documents(
	struct corpus *corpus, struct shard *shard, uint64_t first, uint64_t count, struct documents *out)
{
	const uint64_t documents = shard->entry->documents;
	/* One more of each than asked for, where there is one: a neighbour to compare with. */
	const uint64_t more = first + count < documents ? count + 1 : count;
	TRY(shard_read(corpus, shard, SHARD_IDX, IDX_HEADER + 4 * first, 4 * (size_t)count, out->length));
	TRY(shard_read(
		corpus, shard, SHARD_IDX, idx_offsets(documents) + 8 * first, 8 * (size_t)more, out->offset));
	TRY(shard_read(corpus, shard, SHARD_IDX, idx_documents(documents) + 8 * first, 8 * (size_t)count + 8,
		out->number));
	TRY(shard_read(corpus, shard, SHARD_KEY, 8 * first, 8 * (size_t)more, out->key));
	if (more == count) {
		out->offset[count] = shard->files[SHARD_BIN].bytes;
		out->key[count] = UINT64_MAX;
	}
	return STATUS_OK;
}

static enum status verify_documents(struct corpus *corpus, struct shard *shard, uint64_t first,
	uint64_t count, const struct documents *read, uint64_t lowest_key, uint64_t highest_key)
{
	const uint64_t size = corpus_token_bytes(corpus);
	if (first == 0 && read->offset[0] != 0)
		return tell_bad_document(corpus, shard, 0, "idx", "does not begin at byte 0");
	for (uint64_t i = 0; i < count; i++) {
		if ((int32_t)read->length[i] < 1)
			return tell_bad_document(corpus, shard, first + i, "idx", "has no token");
		if (read->offset[i + 1] - read->offset[i] != read->length[i] * size)
			return tell_bad_document(
				corpus, shard, first + i, "idx", "does not end where the next begins");
		if (read->number[i] != first + i || read->number[i + 1] != first + i + 1)
			return tell_bad_document(corpus, shard, first + i, "idx", "is numbered wrongly");
		if (read->key[i] > read->key[i + 1])
			return tell_bad_document(
				corpus, shard, first + i, "key", "has a larger key than the next");
		if (read->key[i] < lowest_key || read->key[i] > highest_key)
			return tell_bad_document(
				corpus, shard, first + i, "key", "has a key that belongs to another shard");
	}
	return STATUS_OK;
}

static enum status verify_batch(struct verification *run, struct shard *shard, uint64_t index, uint64_t batch)
{
	struct corpus *corpus = run->corpus;
	const uint64_t shards = corpus_get_info(corpus)->shard_count;
	/* Shard i of S holds keys [i/S, (i + 1)/S) of 2^64. */
	const uint64_t width_less_1 = UINT64_MAX / shards;
	const uint64_t lowest = index * width_less_1 + index, highest = lowest + width_less_1;
	const uint64_t documents = shard->entry->documents;
	uint64_t first = batch * BATCH, end = first + BATCH < documents ? first + BATCH : documents;
	struct documents *read;
	shard_prefetch(corpus, shard, SHARD_IDX, IDX_HEADER + 4 * first, IDX_HEADER + 4 * end);
	shard_prefetch(corpus, shard, SHARD_IDX, idx_offsets(documents) + 8 * first,
		idx_offsets(documents) + 8 * end);
	shard_prefetch(corpus, shard, SHARD_IDX, idx_documents(documents) + 8 * first,
		idx_documents(documents) + 8 * end);
	shard_prefetch(corpus, shard, SHARD_KEY, 8 * first, 8 * end);
	TRY(memory_alloc((void **)&read, 1, sizeof *read, "verification"));
	enum status status = STATUS_OK;
	for (uint64_t at = first; at < end && status == STATUS_OK; at += STRIDE) {
		uint64_t count = end - at < STRIDE ? end - at : STRIDE;
		status = read_documents(corpus, shard, at, count, read);
		if (status == STATUS_OK)
			status = verify_documents(corpus, shard, at, count, read, lowest, highest);
	}
	free(read);
	report(run, (end - first) * (4 + 8 + 8 + 8));
	return status;
}

/* ---- all of it ---- */

static enum status verify_task(void *context, int worker, uint64_t task)
{
	struct verification *run = context;
	struct corpus *corpus = run->corpus;
	uint64_t low = 0, high = corpus_get_info(corpus)->shard_count;
	(void)worker;
	while (high - low > 1) { /* the shard that the task is of */
		uint64_t middle = low + (high - low) / 2;
		if (run->first_task[middle] <= task)
			low = middle;
		else
			high = middle;
	}
	struct shard *shard;
	TRY(shard_get(corpus, low, &shard));
	task -= run->first_task[low];
	if (task == 0) {
		TRY(verify_headers(corpus, shard));
		if (corpus_get_info(corpus)->sources)
			TRY(sources_check(corpus, low));
		report(run, IDX_HEADER + 8);
		return STATUS_OK;
	}
	task--;
	uint64_t pieces = pieces_of(corpus, shard->entry);
	return task < pieces ? verify_piece(run, shard, task) : verify_batch(run, shard, low, task - pieces);
}

enum status corpus_verify(struct corpus *corpus, int workers, corpus_progress *progress, void *user)
{
	const struct corpus_info *info = corpus_get_info(corpus);
	struct verification run = {.corpus = corpus, .progress = progress, .user = user};
	TRY(memory_alloc((void **)&run.first_task, (size_t)info->shard_count + 1, sizeof *run.first_task,
		"the list of tasks"));
	for (uint64_t i = 0; i < info->shard_count; i++) {
		const struct corpus_shard *entry = &info->shards[i];
		run.first_task[i + 1] = run.first_task[i] + 1 + pieces_of(corpus, entry) + batches_of(entry);
		for (int f = 0; f < SHARD_FILES; f++)
			run.total += shard_file_bytes(corpus, entry, (enum shard_file)f);
	}
	pthread_mutex_init(&run.mutex, NULL);
	enum status status = threads_run(workers, run.first_task[info->shard_count], verify_task, &run);
	pthread_mutex_destroy(&run.mutex);
	free(run.first_task);
	return status;
}
