#include "data/hash_tree.h"

#include "common/hash.h"
#include "common/memory.h"

#include <stdlib.h>
#include <string.h>

void hash_tree_shape(uint64_t bytes, struct hash_tree_shape *shape)
{
	*shape = (struct hash_tree_shape){0};
	/* Not (bytes + PAGE - 1) / PAGE: that would wrap near 2^64. */
	uint64_t count = bytes / HASH_TREE_PAGE + (bytes % HASH_TREE_PAGE != 0);
	while (count) {
		shape->start[shape->levels] = shape->total;
		shape->count[shape->levels++] = count;
		shape->total += count;
		count = count == 1 ? 0 : (count + HASH_TREE_FANOUT - 1) / HASH_TREE_FANOUT;
	}
}

struct hash_tree_builder {
	uint64_t *hashes; /* [capacity], `count` of them level 0's */
	size_t capacity, count;
	uint64_t bytes;
	size_t used; /* bytes of the page that is not full yet */
	uint8_t page[HASH_TREE_PAGE];
};

enum status hash_tree_builder_open(struct hash_tree_builder **out)
{
	return memory_alloc((void **)out, 1, sizeof **out, "a hash tree");
}

void hash_tree_builder_close(struct hash_tree_builder *builder)
{
	if (!builder)
		return;
	free(builder->hashes);
	free(builder);
}

static enum status add_page(struct hash_tree_builder *builder, const uint8_t *page, size_t bytes)
{
	TRY(memory_grow((void **)&builder->hashes, &builder->capacity, builder->count + 1,
		sizeof *builder->hashes, "a hash tree"));
	builder->hashes[builder->count++] = hash64(page, bytes);
	return STATUS_OK;
}

enum status hash_tree_builder_add(struct hash_tree_builder *builder, const void *data, size_t bytes)
{
	const uint8_t *from = data;
	builder->bytes += bytes;
	if (builder->used) {
		size_t room = HASH_TREE_PAGE - builder->used;
		size_t n = bytes < room ? bytes : room;
		if (n)
			memcpy(builder->page + builder->used, from, n);
		builder->used += n;
		if (builder->used < HASH_TREE_PAGE)
			return STATUS_OK;
		builder->used = 0;
		from += n;
		bytes -= n;
		TRY(add_page(builder, builder->page, HASH_TREE_PAGE));
	}
	for (; bytes >= HASH_TREE_PAGE; from += HASH_TREE_PAGE, bytes -= HASH_TREE_PAGE)
		TRY(add_page(builder, from, HASH_TREE_PAGE));
	if (bytes)
		memcpy(builder->page, from, bytes);
	builder->used = bytes;
	return STATUS_OK;
}

enum status hash_tree_builder_finish(struct hash_tree_builder *builder, struct hash_tree_shape *shape,
	const uint64_t **hashes, uint64_t *bytes)
{
	if (builder->used) {
		TRY(add_page(builder, builder->page, builder->used));
		builder->used = 0;
	}
	hash_tree_shape(builder->bytes, shape);
	TRY(memory_grow((void **)&builder->hashes, &builder->capacity, shape->total, sizeof *builder->hashes,
		"a hash tree"));
	for (int level = 1; level < shape->levels; level++) {
		const uint64_t *below = builder->hashes + shape->start[level - 1];
		uint64_t left = shape->count[level - 1];
		uint64_t *here = builder->hashes + shape->start[level];
		for (uint64_t i = 0; i < shape->count[level]; i++, left -= HASH_TREE_FANOUT) {
			uint64_t n = left < HASH_TREE_FANOUT ? left : HASH_TREE_FANOUT;
			here[i] = hash64(below + i * HASH_TREE_FANOUT, (size_t)n * 8);
		}
	}
	*hashes = builder->hashes;
	*bytes = builder->bytes;
	return STATUS_OK;
}
