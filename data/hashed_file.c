#include "data/hashed_file.h"

#include "common/endian.h"
#include "common/hash.h"
#include "data/mapped_copy.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

enum { FANOUT = HASH_TREE_FANOUT, PAGE = HASH_TREE_PAGE };

/* Fills page_start; returns the number of all hash pages. */
static uint64_t number_pages(const struct hash_tree_shape *shape, uint64_t page_start[HASH_TREE_LEVELS + 1])
{
	page_start[0] = 0;
	for (int level = 0; level < shape->levels; level++)
		page_start[level + 1] = page_start[level] + (shape->count[level] + FANOUT - 1) / FANOUT;
	return page_start[shape->levels];
}

uint64_t hashed_file_hash_pages(uint64_t bytes)
{
	struct hash_tree_shape shape;
	uint64_t page_start[HASH_TREE_LEVELS + 1];
	hash_tree_shape(bytes, &shape);
	return number_pages(&shape, page_start);
}

void hashed_file_prepare(struct hashed_file *file)
{
	hash_tree_shape(file->bytes, &file->shape);
	number_pages(&file->shape, file->page_start);
	mapped_copy_prepare();
}

static enum status fail_tree(const struct hashed_file *file, int level, uint64_t page, enum status status,
	int error, struct hashed_damage *damage)
{
	uint64_t first = page * FANOUT, end = first + FANOUT;
	if (end > file->shape.count[level])
		end = file->shape.count[level];
	uint64_t covered = PAGE; /* bytes of the file below one hash of this level */
	for (int i = 0; i < level; i++)
		covered *= FANOUT;
	*damage = (struct hashed_damage){.status = status,
		.error = error,
		.in_tree = true,
		.page = page,
		.first_byte = 8 * (file->shape.start[level] + first),
		.end_byte = 8 * (file->shape.start[level] + end),
		.file_first = first * covered,
		.file_end = end * covered < file->bytes ? end * covered : file->bytes};
	return status;
}

static enum status fail_page(const struct hashed_file *file, uint64_t page, enum status status, int error,
	struct hashed_damage *damage)
{
	uint64_t first = page * PAGE, end = first + PAGE < file->bytes ? first + PAGE : file->bytes;
	*damage = (struct hashed_damage){.status = status,
		.error = error,
		.page = page,
		.first_byte = first,
		.end_byte = end,
		.file_first = first,
		.file_end = end};
	return status;
}

/* The verified hash `index` of `level`. */
static enum status tree_hash(
	struct hashed_file *file, int level, uint64_t index, uint64_t *out, struct hashed_damage *damage)
{
	if (level == file->shape.levels - 1) {
		*out = file->root;
		return STATUS_OK;
	}
	uint64_t page = index / FANOUT, number = file->first_number + file->page_start[level] + page;
	if (__builtin_expect(hash_cache_get(file->cache, number, index % FANOUT, out), 1))
		return STATUS_OK;
	union hashed_page copy;
	uint64_t count = file->shape.count[level] - page * FANOUT, parent;
	if (count > FANOUT)
		count = FANOUT;
	if (!file->read_tree(file->user, 8 * (file->shape.start[level] + FANOUT * page), copy.bytes,
		    8 * (size_t)count))
		return fail_tree(file, level, page, STATUS_IO, errno, damage);
	TRY(tree_hash(file, level + 1, page, &parent, damage));
	if (hash64(copy.bytes, 8 * (size_t)count) != parent)
		return fail_tree(file, level, page, STATUS_CORRUPT, 0, damage);
	for (uint64_t i = 0; i < count; i++)
		copy.u64[i] = load_le64(&copy.u64[i]);
	hash_cache_put(file->cache, number, copy.u64, count);
	*out = copy.u64[index % FANOUT];
	return STATUS_OK;
}

static enum status check_page(struct hashed_file *file, uint64_t page, const uint8_t *data, size_t bytes,
	struct hashed_damage *damage)
{
	uint64_t expected;
	TRY(tree_hash(file, 0, page, &expected, damage));
	return __builtin_expect(hash64(data, bytes) == expected, 1)
		       ? STATUS_OK
		       : fail_page(file, page, STATUS_CORRUPT, 0, damage);
}

static size_t page_bytes(const struct hashed_file *file, uint64_t page)
{
	uint64_t left = file->bytes - page * PAGE;
	return left < PAGE ? (size_t)left : PAGE;
}

enum status hashed_file_page(struct hashed_file *file, uint64_t page, union hashed_page *out, size_t *bytes,
	struct hashed_damage *damage)
{
	assert(page * PAGE < file->bytes);
	*bytes = page_bytes(file, page);
	if (!mapped_copy(out->bytes, file->data + page * PAGE, *bytes))
		return fail_page(file, page, STATUS_IO, 0, damage);
	return check_page(file, page, out->bytes, *bytes, damage);
}

/* Of pages that cannot be read at once, the first that cannot be read. */
static enum status find_unreadable(struct hashed_file *file, uint64_t page, size_t count,
	union hashed_page *out, struct hashed_damage *damage)
{
	for (size_t i = 0; i < count; i++)
		if (!file->read_file(file->user, (page + i) * PAGE, out[i].bytes, page_bytes(file, page + i)))
			return fail_page(file, page + i, STATUS_IO, errno, damage);
	return STATUS_OK; /* now they can */
}

enum status hashed_file_pages(struct hashed_file *file, uint64_t page, size_t count, union hashed_page *out,
	size_t *bytes, struct hashed_damage *damage)
{
	assert(count && (page + count - 1) * PAGE < file->bytes);
	*bytes = (count - 1) * PAGE + page_bytes(file, page + count - 1);
	if (!file->read_file(file->user, page * PAGE, out->bytes, *bytes))
		TRY(find_unreadable(file, page, count, out, damage));
	for (size_t i = 0; i < count; i++)
		TRY(check_page(file, page + i, out[i].bytes, page_bytes(file, page + i), damage));
	return STATUS_OK;
}

enum status hashed_file_read(
	struct hashed_file *file, uint64_t offset, size_t bytes, void *out, struct hashed_damage *damage)
{
	uint8_t *to = out;
	assert(offset <= file->bytes && bytes <= file->bytes - offset);
	while (bytes) {
		union hashed_page page;
		size_t size, skip = (size_t)(offset % PAGE);
		TRY(hashed_file_page(file, offset / PAGE, &page, &size, damage));
		size_t part = size - skip < bytes ? size - skip : bytes;
		memcpy(to, page.bytes + skip, part);
		to += part;
		offset += part;
		bytes -= part;
	}
	return STATUS_OK;
}
