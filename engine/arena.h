/*
 * arena.h: many buffers cut from one block. The same function lays buffers out twice: with base NULL it only
 * measures, then with the block it gives the addresses.
 */
#ifndef ENGINE_ARENA_H
#define ENGINE_ARENA_H

#include <stddef.h>
#include <stdint.h>

struct arena {
	char *base;  /* NULL: only measuring */
	uint64_t at; /* bytes handed out */
};

/* `bytes` bytes at a multiple of 256 from the base; NULL while measuring. */
static inline void *arena_carve(struct arena *a, uint64_t bytes)
{
	void *block = a->base ? a->base + a->at : NULL;
	a->at += (bytes + 255) / 256 * 256;
	return block;
}

#endif
