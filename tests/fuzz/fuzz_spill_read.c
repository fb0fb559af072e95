/*
 * Everything that reads a spill file (data/spill.h). First byte, bit 0: ids of 4 bytes, not 2; bit 1: the
 * input is the file, else it is a u16, the footer's length, and the file without its trailer: the trailer,
 * and the hashes of what the footer names, are put in; bit 2: a format with sources.
 */
#include "common/endian.h"
#include "common/hash.h"
#include "data/spill.h"
#include "tests/fuzz/fuzz.h"

enum {
	BUCKET_BITS = 1,
	BUCKETS = 1 << BUCKET_BITS,
	COUNTS_BYTES = 128,
	HEADER = 24,
	SOURCE = 20,
	SEGMENT = 40,
	BLOCK = 24
};
static const struct hash128 job = {UINT64_C(0x1122334455667788), UINT64_C(0x99aabbccddeeff00)};

/* The part of the file that a footer's entry names; false if it lies outside. */
static bool named_part(
	const uint8_t *entry, const uint8_t *file, size_t file_bytes, const uint8_t **part, size_t *bytes)
{
	uint64_t offset = load_le64(entry), length = load_le64(entry + 8);
	if (offset > file_bytes || length > file_bytes - offset)
		return false;
	*part = file + offset;
	*bytes = length;
	return true;
}

/* Right hashes for the footer's segments and blocks of rejects. */
static void mend_hashes(
	uint8_t *footer, size_t footer_bytes, size_t header, const uint8_t *file, size_t file_bytes)
{
	const uint8_t *part;
	size_t bytes, at = COUNTS_BYTES + 8;
	if (footer_bytes < at)
		return;
	uint64_t runs = load_le64(footer + COUNTS_BYTES);
	if (runs > footer_bytes / SEGMENT / BUCKETS)
		return;
	for (uint64_t i = 0; i < runs * BUCKETS && at + SEGMENT <= footer_bytes; i++, at += SEGMENT) {
		uint64_t headers = load_le64(footer + at + 32);
		if (!named_part(footer + at, file, file_bytes, &part, &bytes) || headers > bytes / header)
			continue;
		headers *= header;
		uint64_t both[2] = {hash64(part, headers), hash64(part + headers, bytes - headers)};
		store_le64(footer + at + 24, hash64(both, sizeof both));
	}
	if (at + 8 > footer_bytes)
		return;
	uint64_t blocks = load_le64(footer + at);
	for (at += 8; blocks > 0 && at + BLOCK <= footer_bytes; blocks--, at += BLOCK)
		if (named_part(footer + at, file, file_bytes, &part, &bytes))
			store_le64(footer + at + 16, hash64(part, bytes));
}

static void write_mended(struct fuzz_input input, size_t header)
{
	size_t footer_bytes = fuzz_take(&input, 2), bytes = input.bytes;
	if (footer_bytes > bytes)
		footer_bytes = bytes;
	uint8_t *file = malloc(bytes + 48);
	CHECK(file, "no memory");
	memcpy(file, input.data, bytes);
	size_t body = bytes - footer_bytes;
	uint8_t *footer = file + body, *trailer = file + bytes;
	mend_hashes(footer, footer_bytes, header, file, body);
	store_le64(trailer, body);
	store_le64(trailer + 8, footer_bytes);
	store_le64(trailer + 16, hash64(footer, footer_bytes));
	store_le64(trailer + 24, job.high);
	store_le64(trailer + 32, job.low);
	memcpy(trailer + 40, "FERRYSPL", 8);
	fuzz_write("spill", file, bytes + 48);
	free(file);
}

static enum status visit(void *user, const struct spill_reject *reject)
{
	uint64_t *sum = user; /* touches all of it */
	for (size_t i = 0; i < reject->reason_bytes; i++)
		*sum += (uint8_t)reject->reason[i];
	return STATUS_OK;
}

static void read_range(const struct spill_format *format, const char *path, uint64_t first, uint64_t last)
{
	struct spill_range *range;
	const struct spill_document *documents;
	const void *tokens;
	size_t count;
	uint64_t seen, sum = 0;
	CHECK(spill_range_create(format, &range) == STATUS_OK, "%s", error_message());
	spill_range_begin(range, first, last);
	if (spill_range_load(range, path, 1) == STATUS_OK && spill_range_load(range, path, 3) == STATUS_OK) {
		spill_range_sort(range);
		spill_range_get(range, &documents, &count, &tokens, &seen);
		CHECK(seen >= 2 * count, "%zu documents, %zu of them seen", count, (size_t)seen);
		for (size_t i = 0; i < count; i++) {
			const struct spill_document *d = &documents[i];
			CHECK(d->key.high >= first && d->key.high <= last, "document %zu is of another range",
				i);
			if (format->sources)
				CHECK(spill_range_place(range, d)->unit == 1,
					"the first place of document %zu is another", i);
			CHECK(i == 0 || hash128_compare(d[-1].key, d->key) < 0,
				"document %zu is out of order", i);
			const uint8_t *ids =
				(const uint8_t *)tokens + d->first * (uint64_t)format->item_bytes;
			for (size_t b = 0; b < d->tokens * (size_t)format->item_bytes; b++)
				sum += ids[b];
		}
	}
	CHECK(sum < UINT64_MAX, "used");
	spill_range_destroy(range);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	struct fuzz_input input = {data, bytes};
	uint32_t mode = fuzz_take(&input, 1);
	struct spill_format format = {BUCKET_BITS, mode & 1 ? 4 : 2, mode & 4, job};
	struct spill_counts counts;
	uint64_t bucket_bytes[BUCKETS] = {0}, *lines, sum = 0;
	size_t pieces;
	if (mode & 2)
		fuzz_write("spill", input.data, input.bytes);
	else
		write_mended(input, HEADER + (format.sources ? SOURCE : 0));
	const char *path = fuzz_path("spill");
	if (spill_inspect(path, &format, &counts, bucket_bytes) != STATUS_OK)
		CHECK(strstr(error_message(), "spill"), "names no file: %s", error_message());
	if (spill_read_lines(path, &format, &lines, &pieces) == STATUS_OK) {
		for (size_t i = 0; i < pieces; i++)
			sum += lines[i];
		free(lines);
	}
	if (spill_verify(path, &format) != STATUS_OK)
		CHECK(strstr(error_message(), "spill"), "names no file: %s", error_message());
	if (spill_read_rejects(path, &format, visit, &sum) != STATUS_OK)
		CHECK(strstr(error_message(), "spill"), "names no file: %s", error_message());
	read_range(&format, path, 0, UINT64_MAX);
	read_range(&format, path, UINT64_C(1) << 62, UINT64_C(3) << 62);
	return 0;
}
