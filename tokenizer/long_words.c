#include "tokenizer/long_words.h"

void long_words_init(struct long_words *words, void *memory, uint32_t id_bytes)
{
	*words = (struct long_words){.index = memory,
		.ring = (uint8_t *)memory + LONG_INDEX_BYTES,
		.end = 1,
		.id_bytes = id_bytes};
}

const struct long_record *long_words_check(
	const struct long_words *words, uint64_t entry, const uint8_t *word, size_t length)
{
	const struct long_record *record = long_record_at(words, entry);
	if (!record || record->length != length ||
		memcmp((const uint8_t *)(record + 1) + record->count * words->id_bytes, word, length) != 0)
		return NULL;
	return record;
}

const struct long_record *long_words_find(
	const struct long_words *words, uint64_t hash, const uint8_t *word, size_t length)
{
	const uint64_t *bucket = long_bucket(words, hash);
	const struct long_record *record;
	for (int i = 0; i < LONG_BUCKET; i++)
		if ((uint16_t)bucket[i] == (uint16_t)hash &&
			(record = long_words_check(words, bucket[i], word, length)))
			return record;
	return NULL;
}

/* Room for so many bytes at the ring's end; a record does not go round its edge. */
static uint64_t ring_take(struct long_words *words, size_t bytes)
{
	uint64_t units = (bytes + LONG_UNIT - 1) / LONG_UNIT, left = LONG_UNITS - words->end % LONG_UNITS;
	if (units > left)
		words->end += left;
	words->end += units;
	return words->end - units;
}

uint64_t long_words_add(struct long_words *words, uint64_t hash, const uint8_t *word, size_t length,
	const uint32_t *ids, size_t count)
{
	uint64_t *bucket = long_bucket(words, hash);
	uint64_t start = ring_take(words, sizeof(struct long_record) + count * words->id_bytes + length);
	uint64_t entry = start << 16 | (uint16_t)hash;
	if (hash) {
		memmove(bucket + 1, bucket, (LONG_BUCKET - 1) * sizeof *bucket);
		bucket[0] = entry;
	}
	struct long_record *record = long_record_at(words, entry);
	*record = (struct long_record){.length = (uint16_t)length, .count = (uint16_t)count};
	if (words->id_bytes == sizeof *ids) {
		memcpy(record + 1, ids, count * sizeof *ids);
	} else {
		uint16_t *narrow = (uint16_t *)(record + 1);
		for (size_t i = 0; i < count; i++)
			narrow[i] = (uint16_t)ids[i];
	}
	memcpy((uint8_t *)(record + 1) + count * words->id_bytes, word, length);
	return entry;
}
