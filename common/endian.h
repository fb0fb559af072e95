/*
 * endian.h: little-endian numbers at any address. Files are little-endian everywhere; on such a host these
 * are plain moves.
 */
#ifndef COMMON_ENDIAN_H
#define COMMON_ENDIAN_H

#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "ferry maps its files as they are: it needs a little-endian machine"
#endif

static inline uint16_t load_le16(const void *from)
{
	uint16_t number;
	memcpy(&number, from, sizeof number);
	return number;
}

static inline uint32_t load_le32(const void *from)
{
	uint32_t number;
	memcpy(&number, from, sizeof number);
	return number;
}

static inline uint64_t load_le64(const void *from)
{
	uint64_t number;
	memcpy(&number, from, sizeof number);
	return number;
}

static inline void store_le16(void *to, uint16_t number)
{
	memcpy(to, &number, sizeof number);
}

static inline void store_le32(void *to, uint32_t number)
{
	memcpy(to, &number, sizeof number);
}

static inline void store_le64(void *to, uint64_t number)
{
	memcpy(to, &number, sizeof number);
}

#endif
