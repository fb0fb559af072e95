#include "data/corpus_shard.h"

#include "common/endian.h"
#include "common/file.h"
#include "common/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

const char *const shard_suffixes[SHARD_FILES] = {"bin", "idx", "key"};

/* ---- what a shard is ---- */

unsigned corpus_token_bytes(const struct corpus *corpus)
{
	return corpus->info.dtype == CORPUS_U16 ? 2 : 4;
}

const char *shard_path(const struct corpus *corpus, const struct corpus_shard *entry, const char *suffix,
	char path[SHARD_PATH])
{
	char name[32];
	snprintf(name, sizeof name, "%s.%s", entry->name, suffix);
	snprintf(path, SHARD_PATH, "%s/%s", corpus_folder(corpus, name), name);
	return path;
}

uint64_t shard_file_bytes(const struct corpus *corpus, const struct corpus_shard *entry, enum shard_file file)
{
	switch (file) {
	case SHARD_BIN:
		return entry->tokens * corpus_token_bytes(corpus);
	case SHARD_IDX:
		return idx_documents(entry->documents) + 8 * (entry->documents + 1);
	default:
		return 8 * entry->documents;
	}
}

static uint64_t manifest_root(const struct corpus_shard *entry, enum shard_file file)
{
	const uint64_t roots[SHARD_FILES] = {entry->bin_root, entry->idx_root, entry->key_root};
	return roots[file];
}

static const char *format_documents(uint64_t first, uint64_t last, char text[SHARD_DOCUMENTS])
{
	if (first == last)
		snprintf(text, SHARD_DOCUMENTS, "document %" PRIu64, first);
	else
		snprintf(text, SHARD_DOCUMENTS, "documents %" PRIu64 "..%" PRIu64, first, last);
	return text;
}

const char *shard_documents(const struct corpus_shard *entry, char text[SHARD_DOCUMENTS])
{
	if (entry->documents)
		return format_documents(
			entry->first_document, entry->first_document + entry->documents - 1, text);
	snprintf(text, SHARD_DOCUMENTS, "no documents");
	return text;
}

static enum status check_size(
	const struct corpus_shard *entry, const char *path, uint64_t bytes, uint64_t wanted)
{
	char documents[SHARD_DOCUMENTS];
	FAIL_IF(bytes != wanted, STATUS_CORRUPT,
		"%s: %" PRIu64 " bytes, but the manifest says %" PRIu64
		": it is truncated or of another corpus; its shard holds %s; " CORPUS_CURE,
		path, bytes, wanted, shard_documents(entry, documents));
	return STATUS_OK;
}

/* ---- .sum ---- */

/* Files that shards of all corpora keep open. */
static atomic_long kept_open;

/* May one more be kept open? Not if a quarter of the files that the process may have open are already. */
static bool may_keep(void)
{
	struct rlimit limit = {0};
	rlim_t others = (rlim_t)atomic_fetch_add(&kept_open, 1);
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && others < limit.rlim_cur / 4)
		return true;
	atomic_fetch_sub(&kept_open, 1);
	return false;
}

static void close_kept(int fd)
{
	if (fd < 0)
		return;
	file_system->close(fd);
	atomic_fetch_sub(&kept_open, 1);
}

static enum status use_shard_file(
	const struct shard *shard, const char *suffix, corpus_file_use *use, void *user)
{
	char name[32];
	snprintf(name, sizeof name, "%s.%s", shard->entry->name, suffix);
	return corpus_use_file(shard->corpus, name, use, user);
}

static enum status open_to_read(void *user, const char *path)
{
	return file_open_read(path, user);
}

/* Closes the file if it is `done` with. Sets errno for a read that failed, 0 where the file just ends. */
static enum status read_and_close(
	int fd, bool done, const char *path, void *out, size_t bytes, uint64_t offset)
{
	errno = 0;
	enum status status = file_read_at(fd, path, out, bytes, offset);
	int error = errno;
	if (done)
		file_system->close(fd);
	errno = status == STATUS_OK ? 0 : error;
	return status;
}

enum status shard_read_sum(struct shard *shard, uint64_t offset, void *out, size_t bytes)
{
	char path[SHARD_PATH];
	int fd = shard->sum_fd;
	if (fd < 0)
		TRY(use_shard_file(shard, "sum", open_to_read, &fd));
	shard_path(shard->corpus, shard->entry, "sum", path);
	return read_and_close(fd, shard->sum_fd < 0, path, out, bytes, offset);
}

static bool read_tree(void *user, uint64_t offset, void *out, size_t bytes)
{
	const struct shard_tree *tree = user;
	return shard_read_sum(tree->shard, tree->start + offset, out, bytes) == STATUS_OK;
}

/* Opens a file of which pages are read in order; *kept: it stays open, and is not to be closed. */
static enum status open_in_order(struct shard *shard, enum shard_file file, int *fd, bool *kept)
{
	int none = -1;
	*fd = atomic_load_explicit(&shard->fds[file], memory_order_acquire);
	*kept = *fd >= 0;
	if (*kept)
		return STATUS_OK;
	TRY(use_shard_file(shard, shard_suffixes[file], open_to_read, fd));
	posix_fadvise(*fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	if (!may_keep())
		return STATUS_OK;
	*kept = true;
	if (!atomic_compare_exchange_strong(&shard->fds[file], &none, *fd)) { /* another thread was faster */
		close_kept(*fd);
		*fd = none;
	}
	return STATUS_OK;
}

static bool read_in_order(void *user, uint64_t offset, void *out, size_t bytes)
{
	const struct shard_tree *tree = user;
	struct shard *shard = tree->shard;
	enum shard_file file = (enum shard_file)(tree - shard->trees);
	char path[SHARD_PATH];
	int fd;
	bool kept;
	if (open_in_order(shard, file, &fd, &kept) != STATUS_OK)
		return false;
	shard_path(shard->corpus, shard->entry, shard_suffixes[file], path);
	return read_and_close(fd, !kept, path, out, bytes, offset) == STATUS_OK;
}

static enum status check_sum_header(const struct corpus *corpus, struct shard *shard)
{
	char path[SHARD_PATH], documents[SHARD_DOCUMENTS];
	uint8_t header[SUM_HEADER], end[8];
	shard_path(corpus, shard->entry, "sum", path);
	TRY(shard_read_sum(shard, 0, header, sizeof header));
	TRY(shard_read_sum(shard, shard->sum_bytes - sizeof end, end, sizeof end));
	FAIL_IF(memcmp(header, "FERRYSUM", 8) != 0 || load_le64(header + 8) != 1 ||
			load_le64(end) != hash64(header, sizeof header),
		STATUS_CORRUPT,
		"%s: the header (bytes 0..63) or its checksum (the last 8 bytes) is damaged; it vouches for "
		"%s; " CORPUS_CURE,
		path, shard_documents(shard->entry, documents));
	for (int f = 0; f < SHARD_FILES; f++)
		FAIL_IF(load_le64(header + 16 + 16 * f) != shard->files[f].bytes ||
				load_le64(header + 24 + 16 * f) != shard->files[f].root,
			STATUS_CORRUPT,
			"%s: its size or root of .%s (bytes %d..%d) is not the manifest's: it is of another "
			"corpus; " CORPUS_CURE,
			path, shard_suffixes[f], 16 + 16 * f, 31 + 16 * f);
	return STATUS_OK;
}

static enum status open_sum(void *user, const char *path)
{
	struct shard *shard = user;
	struct stat info;
	int fd;
	TRY(file_stat(path, &info));
	TRY(check_size(shard->entry, path, (uint64_t)info.st_size, shard->sum_bytes));
	TRY(file_open_read(path, &fd));
	if (may_keep())
		shard->sum_fd = fd;
	else
		file_system->close(fd);
	return STATUS_OK;
}

static enum status shard_open(struct corpus *corpus, struct shard *shard)
{
	uint64_t number = corpus->first_hash_page[shard->entry - corpus->info.shards];
	shard->sum_bytes = SUM_HEADER + 8;
	for (int f = 0; f < SHARD_FILES; f++) {
		struct hashed_file *file = &shard->files[f];
		shard->trees[f] = (struct shard_tree){shard, shard->sum_bytes - 8};
		*file = (struct hashed_file){
			.bytes = shard_file_bytes(corpus, shard->entry, (enum shard_file)f),
			.root = manifest_root(shard->entry, (enum shard_file)f),
			.read_tree = read_tree,
			.read_file = read_in_order,
			.user = &shard->trees[f],
			.cache = corpus->hashes,
			.first_number = number};
		hashed_file_prepare(file);
		number += hashed_file_hash_pages(file->bytes);
		shard->sum_bytes += 8 * file->shape.total;
	}
	TRY(use_shard_file(shard, "sum", open_sum, shard));
	return check_sum_header(corpus, shard);
}

enum status shard_get(struct corpus *corpus, uint64_t index, struct shard **out)
{
	*out = atomic_load_explicit(&corpus->shards[index], memory_order_acquire);
	if (__builtin_expect(*out != NULL, 1))
		return STATUS_OK;
	pthread_mutex_lock(&corpus->mutex);
	enum status status = STATUS_OK;
	*out = atomic_load_explicit(&corpus->shards[index], memory_order_relaxed);
	if (!*out) {
		struct shard *shard;
		status = memory_alloc((void **)&shard, 1, sizeof *shard, "a shard");
		if (status == STATUS_OK) {
			shard->corpus = corpus;
			shard->entry = &corpus->info.shards[index];
			shard->sum_fd = -1;
			for (int f = 0; f < SHARD_FILES; f++)
				atomic_init(&shard->fds[f], -1);
			status = shard_open(corpus, shard);
			if (status != STATUS_OK) {
				shard_free(shard);
			} else {
				atomic_store_explicit(&corpus->shards[index], shard, memory_order_release);
				*out = shard;
			}
		}
	}
	pthread_mutex_unlock(&corpus->mutex);
	return status;
}

void shard_free(struct shard *shard)
{
	if (!shard)
		return;
	for (int f = 0; f < SHARD_FILES; f++) {
		file_unmap(shard->files[f].data, (size_t)shard->files[f].bytes);
		close_kept(atomic_load(&shard->fds[f]));
	}
	close_kept(shard->sum_fd);
	free(shard);
}

/* ---- naming damage ---- */

struct text {
	char bytes[512];
	size_t length;
};

static void text_add(struct text *text, const char *format, ...) PRINTF_LIKE(2, 3);
static void text_add(struct text *text, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	int n = vsnprintf(text->bytes + text->length, sizeof text->bytes - text->length, format, arguments);
	va_end(arguments);
	if (n > 0)
		text->length += (size_t)n < sizeof text->bytes - text->length
					? (size_t)n
					: sizeof text->bytes - text->length - 1;
}

/* Documents of the part of an array (`size` bytes an element, at `start`) that lies in [first, end). */
static void text_add_elements(struct text *text, const struct corpus_shard *entry, const char *what,
	uint64_t start, uint64_t size, uint64_t first, uint64_t end)
{
	uint64_t stop = start + size * entry->documents;
	if (first < start)
		first = start;
	if (end > stop)
		end = stop;
	if (first >= end)
		return;
	char documents[SHARD_DOCUMENTS];
	text_add(text, "%s%s of %s", text->length ? ", " : "", what,
		format_documents(entry->first_document + (first - start) / size,
			entry->first_document + (end - 1 - start) / size, documents));
}

/* The documents that bytes [first, end) of .bin hold, if .idx can tell. */
static void text_add_bin(
	struct text *text, struct corpus *corpus, struct shard *shard, uint64_t first, uint64_t end)
{
	uint64_t from, to;
	char documents[SHARD_DOCUMENTS];
	if (shard_document_at(corpus, shard, first, &from) != STATUS_OK ||
		shard_document_at(corpus, shard, end - 1, &to) != STATUS_OK) {
		text_add(text, "some of %s (the index cannot tell which)",
			shard_documents(shard->entry, documents));
		return;
	}
	text_add(text, "%s",
		format_documents(
			shard->entry->first_document + from, shard->entry->first_document + to, documents));
}

static void text_add_documents(struct text *text, struct corpus *corpus, struct shard *shard,
	enum shard_file file, uint64_t first, uint64_t end)
{
	const struct corpus_shard *entry = shard->entry;
	if (file == SHARD_BIN) {
		text_add_bin(text, corpus, shard, first, end);
	} else if (file == SHARD_KEY) {
		text_add_elements(text, entry, "keys", 0, 8, first, end);
	} else {
		if (first < IDX_HEADER)
			text_add(text, "header");
		text_add_elements(text, entry, "lengths", IDX_HEADER, 4, first, end);
		text_add_elements(text, entry, "offsets", idx_offsets(entry->documents), 8, first, end);
		text_add_elements(text, entry, "numbers", idx_documents(entry->documents), 8, first, end);
	}
}

/* Not inlined: the reading path stays small. */
static __attribute__((noinline, cold)) enum status tell_damage(
	struct corpus *corpus, struct shard *shard, enum shard_file file, const struct hashed_damage *damage)
{
	struct text documents = {.length = 0};
	char path[SHARD_PATH];
	char what[160] = "does not match its hash: it is damaged";
	if (damage->error == ENOMEM) /* nothing is wrong with the file */
		return error_set(STATUS_MEMORY, "%s: no memory to read page %" PRIu64,
			shard_path(
				corpus, shard->entry, damage->in_tree ? "sum" : shard_suffixes[file], path),
			damage->page);
	if (damage->status == STATUS_IO)
		snprintf(what, sizeof what, "cannot be read%s%s%s: the disk fails, or the file was truncated",
			damage->error ? " (" : "", damage->error ? strerror(damage->error) : "",
			damage->error ? ")" : "");
	text_add_documents(&documents, corpus, shard, file, damage->file_first, damage->file_end);
	if (!damage->in_tree)
		return error_set(damage->status,
			"%s: page %" PRIu64 " (bytes %" PRIu64 "..%" PRIu64 ") %s; it holds %s; " CORPUS_CURE,
			shard_path(corpus, shard->entry, shard_suffixes[file], path), damage->page,
			damage->first_byte, damage->end_byte - 1, what, documents.bytes);
	uint64_t start = shard->trees[file].start;
	return error_set(damage->status,
		"%s: page %" PRIu64 " of the hashes of .%s (bytes %" PRIu64 "..%" PRIu64
		") %s; it vouches for bytes %" PRIu64 "..%" PRIu64 " of %s.%s: %s; " CORPUS_CURE,
		shard_path(corpus, shard->entry, "sum", path), damage->page, shard_suffixes[file],
		start + damage->first_byte, start + damage->end_byte - 1, what, damage->file_first,
		damage->file_end - 1, shard->entry->name, shard_suffixes[file], documents.bytes);
}

/* ---- mapping its files ---- */

static enum status read_mapped(struct corpus *corpus, struct shard *shard, enum shard_file file,
	uint64_t offset, size_t bytes, void *out)
{
	struct hashed_damage damage;
	if (hashed_file_read(&shard->files[file], offset, bytes, out, &damage) != STATUS_OK)
		return tell_damage(corpus, shard, file, &damage);
	return STATUS_OK;
}

static enum status check_idx_header(struct corpus *corpus, struct shard *shard)
{
	uint8_t header[IDX_HEADER];
	char path[SHARD_PATH];
	TRY(read_mapped(corpus, shard, SHARD_IDX, 0, sizeof header, header));
	FAIL_IF(memcmp(header, "MMIDIDX\0\0", 9) != 0 || load_le64(header + 9) != 1 ||
			header[17] != (corpus->info.dtype == CORPUS_U16 ? 8 : 4) ||
			load_le64(header + 18) != shard->entry->documents ||
			load_le64(header + 26) != shard->entry->documents + 1,
		STATUS_CORRUPT, "%s: the header (bytes 0..33) is not what the manifest says; " CORPUS_CURE,
		shard_path(corpus, shard->entry, "idx", path));
	return STATUS_OK;
}

struct mapping {
	struct shard *shard;
	enum shard_file file;
};

static enum status map_path(void *user, const char *path)
{
	const struct mapping *mapping = user;
	struct hashed_file *out = &mapping->shard->files[mapping->file];
	const uint8_t *data;
	size_t bytes;
	TRY(file_map(path, &data, &bytes));
	enum status status = check_size(mapping->shard->entry, path, bytes, out->bytes);
	if (status != STATUS_OK) {
		file_unmap(data, bytes);
		return status;
	}
	/* Windows come in random order: read-ahead around each would read what nobody asked for. */
	if (data)
		madvise((void *)data, bytes, MADV_RANDOM);
	out->data = data;
	return STATUS_OK;
}

static enum status map_file(struct corpus *corpus, struct shard *shard, enum shard_file file)
{
	struct mapping mapping = {shard, file};
	TRY(use_shard_file(shard, shard_suffixes[file], map_path, &mapping));
	enum status status = file == SHARD_IDX ? check_idx_header(corpus, shard) : STATUS_OK;
	if (status != STATUS_OK) {
		file_unmap(shard->files[file].data, (size_t)shard->files[file].bytes);
		shard->files[file].data = NULL;
	}
	return status;
}

enum status shard_map_file(struct corpus *corpus, struct shard *shard, enum shard_file file)
{
	if (__builtin_expect(atomic_load_explicit(&shard->mapped[file], memory_order_acquire), 1))
		return STATUS_OK;
	pthread_mutex_lock(&corpus->mutex);
	enum status status = STATUS_OK;
	if (!atomic_load_explicit(&shard->mapped[file], memory_order_relaxed)) {
		status = map_file(corpus, shard, file);
		atomic_store_explicit(&shard->mapped[file], status == STATUS_OK, memory_order_release);
	}
	pthread_mutex_unlock(&corpus->mutex);
	return status;
}

/* ---- reading them ---- */

enum status shard_page(struct corpus *corpus, struct shard *shard, enum shard_file file, uint64_t page,
	union hashed_page *out, size_t *bytes)
{
	struct hashed_damage damage;
	TRY(shard_map_file(corpus, shard, file));
	if (__builtin_expect(
		    hashed_file_page(&shard->files[file], page, out, bytes, &damage) != STATUS_OK, 0))
		return tell_damage(corpus, shard, file, &damage);
	return STATUS_OK;
}

enum status shard_pages(struct corpus *corpus, struct shard *shard, enum shard_file file, uint64_t page,
	size_t count, union hashed_page *out, size_t *bytes)
{
	struct hashed_damage damage;
	TRY(shard_map_file(corpus, shard, file)); /* its size and header are right */
	if (hashed_file_pages(&shard->files[file], page, count, out, bytes, &damage) != STATUS_OK)
		return tell_damage(corpus, shard, file, &damage);
	return STATUS_OK;
}

enum status shard_read(struct corpus *corpus, struct shard *shard, enum shard_file file, uint64_t offset,
	size_t bytes, void *out)
{
	TRY(shard_map_file(corpus, shard, file));
	return read_mapped(corpus, shard, file, offset, bytes, out);
}

void shard_prefetch(
	struct corpus *corpus, struct shard *shard, enum shard_file file, uint64_t first, uint64_t end)
{
	/* A file that cannot be mapped is an error of the read that follows. */
	if (first >= end || shard_map_file(corpus, shard, file) != STATUS_OK)
		return;
	static _Atomic uintptr_t page_mask;
	uintptr_t mask = atomic_load_explicit(&page_mask, memory_order_relaxed);
	if (!mask) {
		mask = (uintptr_t)sysconf(_SC_PAGESIZE) - 1;
		atomic_store_explicit(&page_mask, mask, memory_order_relaxed);
	}
	uintptr_t from = (uintptr_t)(shard->files[file].data + first) & ~mask;
	madvise((void *)from, (uintptr_t)(shard->files[file].data + end) - from, MADV_WILLNEED);
}

enum status shard_read_u64(
	struct corpus *corpus, struct shard *shard, enum shard_file file, uint64_t offset, uint64_t *out)
{
	uint8_t bytes[8];
	TRY(shard_read(corpus, shard, file, offset, sizeof bytes, bytes));
	*out = load_le64(bytes);
	return STATUS_OK;
}

enum status shard_document_at(struct corpus *corpus, struct shard *shard, uint64_t offset, uint64_t *document)
{
	/* Documents [0, low) end at or before `offset`; those from `high` on do not. */
	uint64_t low = 0, high = shard->entry->documents;
	while (low < high) {
		uint64_t middle = low + (high - low) / 2, end = shard->files[SHARD_BIN].bytes;
		if (middle + 1 < shard->entry->documents)
			TRY(shard_read_u64(corpus, shard, SHARD_IDX,
				idx_offsets(shard->entry->documents) + 8 * (middle + 1), &end));
		if (end <= offset)
			low = middle + 1;
		else
			high = middle;
	}
	*document = low;
	return STATUS_OK;
}
