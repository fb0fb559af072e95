/*
 * input_reader: records of JSONL and text files. First byte, bit 0: text, not JSONL; bits 1-2: plain, gzip,
 * zstd; bit 3: the input is compressed first, so that its records are known; bit 4: it stands behind nearly a
 * MiB of other text, so that a chunk of the reader's ends in its middle; bits 5-6: the limit. Then u16: where
 * parts meet; u8: the separator's length, and the separator (text). Records must be those that a plain loop
 * cuts.
 */
#include "data/input.h"
#include "tests/fuzz/fuzz.h"

#include <zlib.h>
#include <zstd.h>

enum { CHUNK = 1 << 20 }; /* of the reader's buffer */

/* The input, behind so much else that the edge of a chunk falls into its middle if `far`. */
static struct fuzz_input place(struct fuzz_input input, bool far)
{
	size_t before = far ? CHUNK - input.bytes / 2 % CHUNK : 0;
	uint8_t *data = malloc(before + input.bytes + 1);
	CHECK(data, "no memory");
	memset(data, 'x', before);
	memcpy(data + before, input.data, input.bytes);
	return (struct fuzz_input){data, before + input.bytes};
}

/* Writes the text as a gzip or zstd file, in two members or frames. */
static void write_packed(struct fuzz_input text, enum input_compression compression, const char *name)
{
	size_t room = ZSTD_compressBound(text.bytes) * 2 + 4096, at = 0;
	uint8_t *packed = malloc(room);
	CHECK(packed, "no memory");
	for (int half = 0; half < 2; half++) {
		size_t from = half ? text.bytes / 2 : 0, bytes = half ? text.bytes - from : text.bytes / 2;
		if (compression == INPUT_ZSTD) {
			size_t made = ZSTD_compress(packed + at, room - at, text.data + from, bytes, 1);
			CHECK(!ZSTD_isError(made), "%s", ZSTD_getErrorName(made));
			at += made;
			continue;
		}
		z_stream stream = {0};
		CHECK(deflateInit2(&stream, 1, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK, "zlib");
		stream.next_in = (Bytef *)text.data + from;
		stream.avail_in = (uInt)bytes;
		stream.next_out = packed + at;
		stream.avail_out = (uInt)(room - at);
		CHECK(deflate(&stream, Z_FINISH) == Z_STREAM_END, "zlib");
		at += stream.total_out;
		deflateEnd(&stream);
	}
	fuzz_write(name, packed, at);
	free(packed);
}

/* The records that a plain loop cuts from the text, one after another. */
struct cutter {
	const uint8_t *text;
	size_t bytes, at;
	const char *separator;
	bool jsonl, done;
};

static bool cut_next(struct cutter *c, size_t *first, size_t *length)
{
	size_t n = strlen(c->separator);
	if (c->done || (c->jsonl && c->at == c->bytes))
		return false;
	*first = c->at;
	/* (memmem under the sanitizer looks at all of the text, each time.) */
	const uint8_t *found = NULL;
	for (size_t at = c->at; n && at + n <= c->bytes && !found; at++)
		if (c->text[at] == (uint8_t)*c->separator && memcmp(c->text + at, c->separator, n) == 0)
			found = c->text + at;
	size_t end = found ? (size_t)(found - c->text) : c->bytes;
	*length = end - c->at;
	c->at = end + (found ? n : 0);
	c->done = !found;
	return true;
}

/* Reads bytes [begin, end) and compares the records that begin there (all, for [0, UINT64_MAX)). */
static enum status read_part(struct input_reader *reader, const struct input_file *file, uint64_t begin,
	uint64_t end, const char *separator, uint64_t limit, struct cutter *expected)
{
	struct input_record record;
	size_t first = 0, length = 0;
	uint64_t lines = 0;
	bool more;
	TRY(input_reader_open(reader, file, begin, end, separator, limit));
	for (;;) {
		TRY(input_reader_next(reader, &record, &more));
		bool due = expected && (expected->at < end || (expected->at == 0 && begin == 0)) &&
			   cut_next(expected, &first, &length);
		CHECK(!expected || due == more, "%s record at %zu", more ? "an unexpected" : "a missing",
			first);
		if (!more)
			break;
		lines++;
		CHECK(record.too_long == !record.data, "too long, and there");
		CHECK(record.too_long || record.bytes <= limit, "a record of %zu bytes", record.bytes);
		for (size_t i = 0; i < INPUT_PADDING && record.data; i++)
			__asm__ volatile("" : : "r"(record.data[record.bytes + i]) : "memory");
		if (!expected)
			continue;
		CHECK(record.offset == first, "a record at %zu, not %zu", (size_t)record.offset, first);
		CHECK(record.too_long == (length > limit), "length %zu", length);
		CHECK(record.too_long || (record.bytes == length &&
						 (!length || memcmp(record.data, expected->text + first,
								     length) == 0)),
			"another record at %zu", first);
		CHECK(file->kind != INPUT_JSONL || record.line == lines, "line %zu", (size_t)record.line);
	}
	CHECK(!expected || file->kind != INPUT_JSONL || input_reader_lines(reader) == lines, "lines");
	return input_reader_finish(reader);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static const char *const names[2][3] = {
		{"a.jsonl", "a.jsonl.gz", "a.jsonl.zst"}, {"a", "a.gz", "a.zst"}};
	static const uint64_t limits[] = {UINT32_MAX, 0, 10, 3000};
	static struct input_reader *reader;
	struct fuzz_input input = {data, bytes};
	uint32_t mode = fuzz_take(&input, 1), meet = fuzz_take(&input, 2);
	bool jsonl = !(mode & 1), pack = mode & 8;
	enum input_compression compression = (enum input_compression)((mode >> 1 & 3) % 3);
	struct fuzz_input cut = fuzz_cut(&input, fuzz_take(&input, 1) & 15);
	char separator[16] = "\n";
	if (!jsonl)
		snprintf(separator, sizeof separator, "%.*s", (int)cut.bytes, (const char *)cut.data);
	struct fuzz_input text = place(input, (mode & 16) && (compression == INPUT_PLAIN || pack));
	const char *name = names[!jsonl][compression];
	bool known = compression == INPUT_PLAIN || pack;
	if (compression != INPUT_PLAIN && pack)
		write_packed(text, compression, name);
	else
		fuzz_write(name, text.data, text.bytes);
	if (!reader)
		CHECK(input_reader_create(&reader) == STATUS_OK, "%s", error_message());

	const char *path = fuzz_path(name);
	struct input_list files;
	uint64_t limit = limits[mode >> 5 & 3];
	struct cutter cutter = {text.data, text.bytes, 0, separator, jsonl, false};
	CHECK(input_list_open(&path, 1, NULL, &files) == STATUS_OK, "%s", error_message());
	enum status status =
		read_part(reader, files.files, 0, UINT64_MAX, separator, limit, known ? &cutter : NULL);
	CHECK(!known || status == STATUS_OK, "%s", error_message());
	CHECK(status == STATUS_OK || strstr(error_message(), name), "names no file: %s", error_message());
	if (jsonl && compression == INPUT_PLAIN && text.bytes) {
		uint64_t middle = text.bytes - 1 - meet % text.bytes;
		cutter = (struct cutter){text.data, text.bytes, 0, separator, jsonl, false};
		if (middle)
			CHECK(read_part(reader, files.files, 0, middle, separator, limit, &cutter) ==
					STATUS_OK,
				"%s", error_message());
		CHECK(read_part(reader, files.files, middle, text.bytes, separator, limit, &cutter) ==
				STATUS_OK,
			"%s", error_message());
	}
	input_list_close(&files);
	free((void *)text.data);
	return 0;
}
