#include "common/hash.h"

#include "common/endian.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

uint64_t hash64(const void *data, size_t bytes)
{
	return XXH3_64bits(data, bytes);
}

struct hash128 hash128(const void *data, size_t bytes)
{
	XXH128_hash_t hash = XXH3_128bits(data, bytes);
	return (struct hash128){hash.high64, hash.low64};
}

int hash128_compare(struct hash128 a, struct hash128 b)
{
	if (a.high != b.high)
		return a.high < b.high ? -1 : 1;
	if (a.low != b.low)
		return a.low < b.low ? -1 : 1;
	return 0;
}

void hash128_format(struct hash128 hash, char text[33])
{
	snprintf(text, 33, "%016" PRIx64 "%016" PRIx64, hash.high, hash.low);
}

static bool parse_hex16(const char *text, uint64_t *out)
{
	uint64_t number = 0;
	for (int i = 0; i < 16; i++) {
		char c = text[i];
		if (c >= '0' && c <= '9')
			number = number << 4 | (uint64_t)(c - '0');
		else if (c >= 'a' && c <= 'f')
			number = number << 4 | (uint64_t)(c - 'a' + 10);
		else
			return false;
	}
	*out = number;
	return true;
}

bool hash128_parse(const char *text, struct hash128 *out)
{
	return strlen(text) == 32 && parse_hex16(text, &out->high) && parse_hex16(text + 16, &out->low);
}

enum status hash_stream_open(struct hash_stream **out)
{
	*out = (struct hash_stream *)XXH3_createState();
	FAIL_IF(!*out, STATUS_MEMORY, "no memory for a hash state");
	XXH3_128bits_reset((XXH3_state_t *)*out);
	return STATUS_OK;
}

void hash_stream_add(struct hash_stream *stream, const void *data, size_t bytes)
{
	XXH3_128bits_update((XXH3_state_t *)stream, data, bytes);
}

struct hash128 hash_stream_digest(const struct hash_stream *stream)
{
	XXH128_hash_t hash = XXH3_128bits_digest((const XXH3_state_t *)stream);
	return (struct hash128){hash.high64, hash.low64};
}

void hash_stream_close(struct hash_stream *stream)
{
	XXH3_freeState((XXH3_state_t *)stream);
}

uint64_t hash_numbers(const uint64_t *numbers, size_t count)
{
	uint8_t bytes[16 * 8];
	assert(count <= 16);
	for (size_t i = 0; i < count; i++)
		store_le64(bytes + 8 * i, numbers[i]);
	return hash64(bytes, count * 8);
}
