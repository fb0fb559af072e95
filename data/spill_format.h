/* spill_format.h: what writing (spill_write.c) and reading (spill.c) spill files share. data/spill.h is the
 * manual. */
#ifndef DATA_SPILL_FORMAT_H
#define DATA_SPILL_FORMAT_H

#include "data/spill.h"

enum {
	HEADER_BYTES = 24,
	SOURCED_BYTES = HEADER_BYTES + 20, /* a header with its place */
	SEGMENT_BYTES = 40,
	BLOCK_BYTES = 24,
	TRAILER_BYTES = 48,
	COUNTS = 16,
	REJECT_BYTES = 24,
};
static const char spill_magic[8] = {'F', 'E', 'R', 'R', 'Y', 'S', 'P', 'L'};

struct spill_segment {
	uint64_t offset, bytes, tokens, hash, documents;
};

static inline uint32_t spill_bucket(const struct spill_format *format, uint64_t key)
{
	return format->bucket_bits ? (uint32_t)(key >> (64 - format->bucket_bits)) : 0;
}

static inline size_t spill_header_bytes(const struct spill_format *format)
{
	return format->sources ? SOURCED_BYTES : HEADER_BYTES;
}

/* Of a segment: its headers' hash and its tokens' as one, so that each can be read into its own place. */
static inline uint64_t spill_hash_segment(
	const void *headers, size_t header_bytes, const void *tokens, size_t token_bytes)
{
	uint64_t hashes[2] = {hash64(headers, header_bytes), hash64(tokens, token_bytes)};
	return hash_numbers(hashes, 2);
}

#endif
