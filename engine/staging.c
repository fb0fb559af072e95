#include "engine/staging.h"

#include "common/memory.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct staging {
	struct kernels *kernels;
	void *block; /* [STAGING_BYTES], pinned */
	/* Addresses that stand for the kernels' memory; none: all do, for themselves. */
	struct {
		char *host, *device;
		uint64_t bytes;
	} parts[STAGING_PARTS];
	int part_count;
	struct staging_store store; /* or all NULL */
};

enum status staging_open(struct kernels *kernels, struct staging **out)
{
	struct staging *s;
	*out = NULL;
	TRY(memory_alloc((void **)&s, 1, sizeof *s, "staging"));
	s->kernels = kernels;
	enum status status = kernels->host_alloc(kernels, &s->block, STAGING_BYTES, "copies to the GPU");
	if (status != STATUS_OK) {
		staging_close(s);
		return status;
	}
	*out = s;
	return STATUS_OK;
}

void staging_close(struct staging *s)
{
	if (!s)
		return;
	if (s->block)
		s->kernels->host_free(s->kernels, s->block, STAGING_BYTES);
	free(s);
}

void staging_substitute(struct staging *s, const void *host, void *device, uint64_t bytes)
{
	assert(s->part_count < STAGING_PARTS);
	s->parts[s->part_count].host = (char *)(uintptr_t)host;
	s->parts[s->part_count].device = device;
	s->parts[s->part_count++].bytes = bytes;
}

void staging_set_store(struct staging *s, const struct staging_store *store)
{
	s->store = *store;
}

/* A piece of `bytes` at `address` that lies in one memory. */
struct piece {
	char *place;
	uint64_t bytes;
	bool on_device;
};

static struct piece first_piece(const struct staging *s, const void *address, uint64_t bytes)
{
	struct piece piece = {(char *)(uintptr_t)address, bytes, s->part_count == 0};
	for (int i = 0; i < s->part_count; i++) {
		char *begin = s->parts[i].host, *end = begin + s->parts[i].bytes;
		if (piece.place >= begin && piece.place < end) {
			uint64_t left = (uint64_t)(end - piece.place);
			return (struct piece){s->parts[i].device + (piece.place - begin),
				bytes < left ? bytes : left, true};
		}
		if (piece.place < begin && piece.place + piece.bytes > begin)
			piece.bytes = (uint64_t)(begin - piece.place);
	}
	return piece;
}

enum status staging_read(struct staging *s, const void *from, size_t bytes, const void **host)
{
	struct kernels *k = s->kernels;
	*host = s->block;
	if (s->store.read)
		return s->store.read(s->store.user, s->block, from, bytes);
	struct piece piece = first_piece(s, from, bytes);
	if (!piece.on_device && piece.bytes == bytes) {
		*host = from;
		return STATUS_OK;
	}
	for (size_t done = 0; done < bytes; done += piece.bytes) {
		piece = first_piece(s, (const char *)from + done, bytes - done);
		if (piece.on_device)
			k->copy_out(k, NULL, (char *)s->block + done, piece.place, piece.bytes);
		else
			memcpy((char *)s->block + done, piece.place, piece.bytes);
	}
	return k->stream_wait(k, NULL);
}

void *staging_block(struct staging *s)
{
	return s->block;
}

enum status staging_write(struct staging *s, void *to, size_t bytes)
{
	struct kernels *k = s->kernels;
	struct piece piece;
	if (s->store.write)
		return s->store.write(s->store.user, to, s->block, bytes);
	for (size_t done = 0; done < bytes; done += piece.bytes) {
		piece = first_piece(s, (char *)to + done, bytes - done);
		if (piece.on_device)
			k->copy_in(k, NULL, piece.place, (char *)s->block + done, piece.bytes);
		else
			memcpy(piece.place, (char *)s->block + done, piece.bytes);
	}
	return k->stream_wait(k, NULL);
}

struct staging_wish staging_next_wish(const struct staging *s, const void *to, size_t bytes)
{
	struct staging_wish all = {.take = bytes};
	struct staging_wish wish = s->store.wish ? s->store.wish(s->store.user, to, bytes) : all;
	wish.take = wish.take < STAGING_BYTES ? wish.take : STAGING_BYTES;
	return wish;
}

enum status staging_copy_in(struct staging *s, void *to, const void *from, uint64_t bytes)
{
	for (uint64_t done = 0; done < bytes;) {
		size_t some = bytes - done < STAGING_BYTES ? bytes - done : STAGING_BYTES;
		memcpy(s->block, (const char *)from + done, some);
		TRY(staging_write(s, (char *)to + done, some));
		done += some;
	}
	return STATUS_OK;
}

/* By the store's own way in, which takes values. */
static enum status store_zeros(struct staging *s, void *to, uint64_t bytes)
{
	memset(s->block, 0, bytes < STAGING_BYTES ? bytes : STAGING_BYTES);
	for (uint64_t done = 0; done < bytes; done += STAGING_BYTES)
		TRY(staging_write(
			s, (char *)to + done, bytes - done < STAGING_BYTES ? bytes - done : STAGING_BYTES));
	return STATUS_OK;
}

enum status staging_zero(struct staging *s, void *to, uint64_t bytes)
{
	if (s->store.write)
		return store_zeros(s, to, bytes);
	struct kernels *k = s->kernels;
	struct piece piece;
	for (uint64_t done = 0; done < bytes; done += piece.bytes) {
		piece = first_piece(s, (char *)to + done, bytes - done);
		if (piece.on_device)
			k->zero(k, NULL, piece.place, piece.bytes);
		else
			memset(piece.place, 0, piece.bytes);
	}
	return k->stream_wait(k, NULL);
}
