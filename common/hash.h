/*
 * hash.h: the one hash of ferry's formats, XXH3 with seed 0 (xxHash 0.8, stable across versions and
 * machines).
 */
#ifndef COMMON_HASH_H
#define COMMON_HASH_H

#include "common/error.h"

#include <stdint.h>

struct hash128 {
	uint64_t high, low;
};

uint64_t hash64(const void *data, size_t bytes);
struct hash128 hash128(const void *data, size_t bytes);

/* -1, 0, 1: order by high, then low. */
int hash128_compare(struct hash128 a, struct hash128 b);

/* 32 lower-case hex digits, high first, and a NUL. */
void hash128_format(struct hash128 hash, char text[33]);
bool hash128_parse(const char *text, struct hash128 *out);

/* Incremental XXH3-128. */
struct hash_stream;
enum status hash_stream_open(struct hash_stream **out) MUST_USE;
void hash_stream_add(struct hash_stream *stream, const void *data, size_t bytes);
struct hash128 hash_stream_digest(const struct hash_stream *stream);
void hash_stream_close(struct hash_stream *stream);

/* Mixes numbers into one key (for seeds: (seed, epoch, split) and the like): hash64 of their little-endian
 * bytes. */
uint64_t hash_numbers(const uint64_t *numbers, size_t count);

#endif
