#include "data/hashed_file.h"

#include "common/endian.h"
#include "common/hash.h"
#include "common/memory.h"
#include "data/mapped_copy.h"

#include <assert.h>
#include <stdlib.h>

enum { FANOUT = HASH_TREE_FANOUT, PAGE = HASH_TREE_PAGE };

enum status hashed_file_open(
	struct hashed_file *file, const uint8_t *data, uint64_t bytes, uint64_t root, const uint8_t *hashes)
{
	*file = (struct hashed_file){.data = data, .bytes = bytes, .hashes = hashes, .root = root};
	hash_tree_shape(bytes, &file->shape);
	for (int level = 0; level < file->shape.levels; level++)
		file->page_start[level + 1] =
			file->page_start[level] + (file->shape.count[level] + FANOUT - 1) / FANOUT;
	uint64_t pages = file->page_start[file->shape.levels];
	mapped_copy_prepare();
	return memory_alloc((void **)&file->verified, (size_t)(pages / 64 + 1), sizeof *file->verified,
		"the map of verified hashes");
}

void hashed_file_close(struct hashed_file *file)
{
	free((void *)file->verified);
	file->verified = NULL;
}

static enum status fail_tree(const struct hashed_file *file, int level, uint64_t page, enum status status,
	struct hashed_damage *damage)
{
	uint64_t first = page * FANOUT, end = first + FANOUT;
	if (end > file->shape.count[level])
		end = file->shape.count[level];
	uint64_t covered = PAGE; /* bytes of the file below one hash of this level */
	for (int i = 0; i < level; i++)
		covered *= FANOUT;
	*damage = (struct hashed_damage){.status = status,
		.in_tree = true,
		.page = page,
		.first_byte = 8 * (file->shape.start[level] + first),
		.end_byte = 8 * (file->shape.start[level] + end),
		.file_first = first * covered,
		.file_end = end * covered < file->bytes ? end * covered : file->bytes};
	return status;
}

static enum status fail_page(
	const struct hashed_file *file, uint64_t page, enum status status, struct hashed_damage *damage)
{
	uint64_t first = page * PAGE, end = first + PAGE < file->bytes ? first + PAGE : file->bytes;
	*damage = (struct hashed_damage){.status = status,
		.page = page,
		.first_byte = first,
		.end_byte = end,
		.file_first = first,
		.file_end = end};
	return status;
}

/*
 * The verified hash `index` of `level`. `fresh` forgets what was verified before: the tree's pages may have
 * been read from the disk again since then.
 */
static enum status tree_hash(struct hashed_file *file, int level, uint64_t index, bool fresh, uint64_t *out,
	struct hashed_damage *damage)
{
	if (level == file->shape.levels - 1) {
		*out = file->root;
		return STATUS_OK;
	}
	uint64_t page = index / FANOUT, number = file->page_start[level] + page;
	_Atomic uint64_t *word = &file->verified[number / 64];
	uint64_t bit = UINT64_C(1) << number % 64;
	const uint8_t *hashes = file->hashes + 8 * file->shape.start[level];
	/* Relaxed: the bit tells of a file that nobody writes, not of memory that another thread wrote. */
	if (!fresh && (atomic_load_explicit(word, memory_order_relaxed) & bit)) {
		if (!mapped_copy(out, hashes + 8 * index, 8))
			return fail_tree(file, level, page, STATUS_IO, damage);
		return STATUS_OK;
	}
	union hashed_page copy;
	uint64_t count = file->shape.count[level] - page * FANOUT, parent;
	if (count > FANOUT)
		count = FANOUT;
	if (!mapped_copy(copy.bytes, hashes + 8 * FANOUT * page, 8 * (size_t)count))
		return fail_tree(file, level, page, STATUS_IO, damage);
	TRY(tree_hash(file, level + 1, page, fresh, &parent, damage));
	if (hash64(copy.bytes, 8 * (size_t)count) != parent)
		return fail_tree(file, level, page, STATUS_CORRUPT, damage);
	atomic_fetch_or_explicit(word, bit, memory_order_relaxed);
	*out = copy.u64[index % FANOUT];
	return STATUS_OK;
}

enum status hashed_file_page(struct hashed_file *file, uint64_t page, union hashed_page *out, size_t *bytes,
	struct hashed_damage *damage)
{
	uint64_t first = page * PAGE, expected;
	assert(first < file->bytes);
	*bytes = file->bytes - first < PAGE ? (size_t)(file->bytes - first) : PAGE;
	if (!mapped_copy(out->bytes, file->data + first, *bytes))
		return fail_page(file, page, STATUS_IO, damage);
	uint64_t hash = hash64(out->bytes, *bytes);
	TRY(tree_hash(file, 0, page, false, &expected, damage));
	if (__builtin_expect(hash == expected, 1))
		return STATUS_OK;
	/* Is it the page that is wrong, or what has become of its hash since it was verified? */
	TRY(tree_hash(file, 0, page, true, &expected, damage));
	return hash == expected ? STATUS_OK : fail_page(file, page, STATUS_CORRUPT, damage);
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
