#include "data/input.h"

#include "tests/unit/scratch_folder.h"

#include <zlib.h>
#include <zstd.h>

/* ---- the list ---- */

static void lists_sorted_and_classified(void **state)
{
	(void)state;
	struct input_list list;
	assert_int_equal(directory_create(in_root("d/sub")), STATUS_OK);
	assert_int_equal(directory_create(in_root("d/out")), STATUS_OK);
	put_text("d/b.JSONL", "{}");
	put_text("d/a.txt", "abc");
	put_text("d/sub/c.json.GZ", "");
	put_text("d/sub/c.txt.zst", "");
	put_text("d/sub/plain", "x");
	put_text("d/.hidden", "x");
	put_text("d/out/skipped.txt", "x");
	assert_int_equal(symlink("../a.txt", in_root("d/sub/link")), 0);
	const char *arguments[] = {"-", in_root("d/sub/plain"), in_root("d"), in_root("d/a.txt")};
	assert_int_equal(input_list_open(arguments, 4, in_root("d/out"), &list), STATUS_OK);
	static const struct {
		const char *name;
		enum input_kind kind;
		enum input_compression compression;
		uint64_t bytes;
	} expected[] = {
		{"-", INPUT_JSONL, INPUT_PLAIN, 0},
		{"d/a.txt", INPUT_TEXT, INPUT_PLAIN, 3},
		{"d/b.JSONL", INPUT_JSONL, INPUT_PLAIN, 2},
		{"d/sub/c.json.GZ", INPUT_JSONL, INPUT_GZIP, 0},
		{"d/sub/c.txt.zst", INPUT_TEXT, INPUT_ZSTD, 0},
		{"d/sub/link", INPUT_TEXT, INPUT_PLAIN, 3},
		{"d/sub/plain", INPUT_TEXT, INPUT_PLAIN, 1},
	};
	assert_int_equal(list.count, 7);
	assert_true(list.files[0].standard_input);
	for (size_t i = 0; i < 7; i++) {
		assert_string_equal(list.files[i].path, i ? in_root(expected[i].name) : "-");
		assert_int_equal(list.files[i].kind, expected[i].kind);
		assert_int_equal(list.files[i].compression, expected[i].compression);
		assert_int_equal(list.files[i].bytes, expected[i].bytes);
	}
	assert_int_equal(list.bytes, 9);
	input_list_close(&list);
}

static void refuse(const char *path, enum status status, const char *word)
{
	struct input_list list;
	assert_int_equal(input_list_open(&path, 1, NULL, &list), status);
	if (!strstr(error_message(), word))
		fail_msg("\"%s\" does not say \"%s\"", error_message(), word);
	input_list_close(&list);
}

static void nothing_is_skipped_silently(void **state)
{
	(void)state;
	refuse(in_root("missing.txt"), STATUS_IO, "missing.txt");
	assert_int_equal(directory_create(in_root("x")), STATUS_OK);
	put_text("x/a.xz", "");
	refuse(in_root("x"), STATUS_UNSUPPORTED, "a.xz");
	assert_int_equal(directory_create(in_root("loop/in")), STATUS_OK);
	assert_int_equal(symlink("..", in_root("loop/in/up")), 0);
	refuse(in_root("loop"), STATUS_USAGE, "loop/in/up");
	assert_int_equal(directory_create(in_root("dangling")), STATUS_OK);
	assert_int_equal(symlink("nowhere", in_root("dangling/a.txt")), 0);
	refuse(in_root("dangling"), STATUS_IO, "dangling/a.txt");
	refuse("/dev/null", STATUS_USAGE, "/dev/null");
	assert_int_equal(directory_create(in_root("y/made/before")), STATUS_OK);
	put_text("y/made/before/corpus.json", "{}"); /* that alone may be text */
	put_text("y/a.txt", "a");
	struct input_list list;
	const char *path = in_root("y");
	assert_int_equal(input_list_open(&path, 1, NULL, &list), STATUS_OK);
	assert_int_equal(list.count, 2);
	input_list_close(&list);
	put_text("y/made/before/00000.key", "");
	refuse(in_root("y"), STATUS_USAGE, "y/made/before: is a corpus");
	assert_int_equal(input_list_open(&path, 1, in_root("y/made/before"), &list), STATUS_OK);
	assert_int_equal(list.count, 1); /* the output is skipped, whatever it holds */
	input_list_close(&list);
	assert_int_equal(directory_create(in_root("z")), STATUS_OK);
	put_text("z/config.json", "{}");
	put_text("z/model.safetensors", "");
	refuse(in_root("z"), STATUS_USAGE, "is a model");
}

/* ---- records ---- */

static struct input_list open_one(const char *name)
{
	struct input_list list;
	const char *path = in_root(name);
	if (input_list_open(&path, 1, NULL, &list) != STATUS_OK)
		fail_msg("%s", error_message());
	assert_int_equal(list.count, 1);
	return list;
}

/* Not memmem: a sanitizer would look at all of the rest of the file each time. */
static const char *find(const char *data, size_t bytes, const char *separator, size_t width)
{
	for (size_t at = 0; at + width <= bytes; at++) {
		const char *c = memchr(data + at, separator[0], bytes - at);
		if (!c)
			return NULL;
		at = (size_t)(c - data);
		if (bytes - at >= width && memcmp(c, separator, width) == 0)
			return c;
	}
	return NULL;
}

/* The next record, alone or out of a batch. */
static void take(
	struct input_reader *reader, struct input_batch *batch, struct input_record *record, bool *more)
{
	static size_t taken;
	if (!batch) {
		if (input_reader_next(reader, record, more) != STATUS_OK)
			fail_msg("%s", error_message());
		return;
	}
	*more = true;
	if (batch->count == 0 || taken == batch->count) {
		taken = 0;
		if (input_reader_batch(reader, batch, more) != STATUS_OK)
			fail_msg("%s", error_message());
		assert_int_equal(*more, batch->count > 0);
	}
	if (*more)
		*record = batch->records[taken++];
}

/* Checks records of [first, last) against the naive cutting of `data`. */
static void check_either(struct input_reader *reader, struct input_batch *batch,
	const struct input_file *file, const char *data, size_t bytes, uint64_t first, uint64_t last,
	const char *separator, uint64_t limit)
{
	struct input_record record;
	bool more;
	size_t width = separator ? strlen(separator) : 0, at = 0, lines = 0;
	bool jsonl = file->kind == INPUT_JSONL;
	if (input_reader_open(reader, file, first, last, separator, limit) != STATUS_OK)
		fail_msg("%s", error_message());
	for (;;) {
		const char *found = width ? find(data + at, bytes - at, separator, width) : NULL;
		size_t length = found ? (size_t)(found - (data + at)) : bytes - at;
		bool exists = !jsonl || found || length;
		if (exists && at >= first && at < last) {
			take(reader, batch, &record, &more);
			lines += jsonl;
			if (!more || record.offset != at || record.too_long != (length > limit) ||
				record.line != lines)
				fail_msg("the record at byte %zu is wrong", at);
			if (length <= limit &&
				(record.bytes != length || memcmp(record.data, data + at, length) != 0))
				fail_msg("the bytes of the record at %zu are wrong", at);
		}
		if (!found)
			break;
		at += length + width;
	}
	take(reader, batch, &record, &more);
	assert_false(more);
	assert_int_equal(input_reader_lines(reader), lines);
	assert_int_equal(input_reader_finish(reader), STATUS_OK);
}

static void check_records(struct input_reader *reader, const struct input_file *file, const char *data,
	size_t bytes, uint64_t first, uint64_t last, const char *separator, uint64_t limit)
{
	struct input_batch batch = {0};
	check_either(reader, NULL, file, data, bytes, first, last, separator, limit);
	check_either(reader, &batch, file, data, bytes, first, last, separator, limit);
	input_batch_free(&batch);
}

/* Lines of every length, some longer than the reader's chunks. */
static char *make_lines(size_t *bytes, uint32_t seed)
{
	char *data = malloc(8 << 20);
	*bytes = 0;
	for (int i = 0; i < 3000; i++) {
		size_t length = below(&seed, 100) == 0 ? below(&seed, 60000) : below(&seed, 60);
		if (i == 1500)
			length = 2500000;
		memset(data + *bytes, 'a' + i % 26, length);
		*bytes += length;
		data[(*bytes)++] = '\n';
	}
	memcpy(data + *bytes, "last", 4);
	*bytes += 4;
	return data;
}

static void lines_and_parts(void **state)
{
	(void)state;
	size_t bytes;
	char *data = make_lines(&bytes, 3);
	struct input_reader *reader;
	uint32_t seed = 9;
	put_file("lines.jsonl", data, bytes);
	struct input_list list = open_one("lines.jsonl");
	const struct input_file *file = list.files;
	assert_int_equal(input_reader_create(&reader), STATUS_OK);
	check_records(reader, file, data, bytes, 0, UINT64_MAX, "\n", 1 << 28);
	check_records(reader, file, data, bytes, 0, UINT64_MAX, "\n", 2000000);
	check_records(reader, file, data, bytes, 0, UINT64_MAX, "\n", 20);
	/* Any cut, those at line ends among them: a part owns the lines that begin in it. */
	for (int i = 0; i < 60; i++) {
		uint64_t first = below(&seed, (uint32_t)bytes), last = below(&seed, (uint32_t)bytes);
		if (i % 3 == 0)
			first = (uint64_t)((char *)memchr(data + first, 'a', bytes - first) - data);
		check_records(reader, file, data, bytes, first, last, "\n", i % 2 ? 1 << 28 : 100);
		check_records(reader, file, data, bytes, first, UINT64_MAX, "\n", 1 << 28);
	}
	for (uint64_t cut = 1; cut < 300; cut++)
		check_records(reader, file, data, 400, cut, cut + 40, "\n", 1 << 28);
	input_reader_destroy(reader);
	input_list_close(&list);
	free(data);
}

static void separators(void **state)
{
	(void)state;
	size_t bytes = 0;
	char *data = malloc(4 << 20);
	struct input_reader *reader;
	uint32_t seed = 5;
	/* Half separators, and separators across the chunks' ends. */
	while (bytes < 3500000) {
		size_t length = below(&seed, 3000);
		memset(data + bytes, '<', length);
		bytes += length;
		memcpy(data + bytes, "<|end|>", 7);
		bytes += below(&seed, 4) ? 7 : below(&seed, 7);
	}
	put_file("text.txt", data, bytes);
	put_text("empty.txt", "");
	struct input_list list = open_one("text.txt"), empty = open_one("empty.txt");
	assert_int_equal(input_reader_create(&reader), STATUS_OK);
	check_records(reader, list.files, data, bytes, 0, UINT64_MAX, "<|end|>", 1 << 28);
	check_records(reader, list.files, data, bytes, 0, UINT64_MAX, "<|end|>", 2900);
	check_records(reader, list.files, data, bytes, 0, UINT64_MAX, "|end|><", 1 << 28);
	check_records(reader, list.files, data, bytes, 0, UINT64_MAX, NULL, 1 << 28);
	check_records(reader, list.files, data, bytes, 0, UINT64_MAX, NULL, 1000);
	check_records(reader, empty.files, "", 0, 0, UINT64_MAX, NULL, 1000);
	input_reader_destroy(reader);
	input_list_close(&list);
	input_list_close(&empty);
	free(data);
}

/* ---- compression ---- */

static size_t gzip(const char *data, size_t bytes, uint8_t *out, size_t room)
{
	z_stream stream = {0};
	assert_int_equal(deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
	stream.next_in = (Bytef *)(uintptr_t)data;
	stream.avail_in = (uInt)bytes;
	stream.next_out = out;
	stream.avail_out = (uInt)room;
	assert_int_equal(deflate(&stream, Z_FINISH), Z_STREAM_END);
	size_t made = stream.total_out;
	deflateEnd(&stream);
	return made;
}

/* The status of reading all of a file. */
static enum status read_through(struct input_reader *reader, const struct input_file *file)
{
	struct input_record record;
	bool more = true;
	TRY(input_reader_open(reader, file, 0, UINT64_MAX, NULL, 1 << 28));
	while (more)
		TRY(input_reader_next(reader, &record, &more));
	return input_reader_finish(reader);
}

static void compressed(void **state)
{
	(void)state;
	size_t bytes, half, packed[2] = {0};
	char *data = make_lines(&bytes, 11);
	uint8_t *out[2] = {malloc(16 << 20), malloc(16 << 20)};
	struct input_reader *reader;
	half = bytes / 3;
	/* Several members and frames, an empty one among them. */
	packed[0] += gzip(data, half, out[0], 16 << 20);
	packed[0] += gzip("", 0, out[0] + packed[0], 1 << 20);
	packed[0] += gzip(data + half, bytes - half, out[0] + packed[0], 8 << 20);
	packed[1] += ZSTD_compress(out[1], 16 << 20, data, half, 3);
	packed[1] += ZSTD_compress(out[1] + packed[1], 1 << 20, "", 0, 3);
	packed[1] += ZSTD_compress(out[1] + packed[1], 8 << 20, data + half, bytes - half, 1);
	static const char *const names[] = {"lines.jsonl.gz", "lines.jsonl.zst"};
	assert_int_equal(input_reader_create(&reader), STATUS_OK);
	for (int i = 0; i < 2; i++) {
		put_file(names[i], out[i], packed[i]);
		struct input_list list = open_one(names[i]);
		check_records(reader, list.files, data, bytes, 0, UINT64_MAX, "\n", 1 << 28);
		check_records(reader, list.files, data, bytes, 0, UINT64_MAX, "\n", 50);
		assert_int_equal(input_reader_stored(reader), packed[i]);
		input_list_close(&list);

		/* Cut short, empty, with a byte changed: always an error, never fewer lines. */
		size_t cuts[] = {packed[i] - 1, packed[i] - 5, packed[i] / 2, 10, 1, 0};
		for (size_t c = 0; c < sizeof cuts / sizeof *cuts; c++) {
			put_file(names[i], out[i], cuts[c]);
			list = open_one(names[i]);
			assert_int_equal(read_through(reader, list.files), STATUS_CORRUPT);
			assert_non_null(strstr(error_message(), names[i]));
			input_list_close(&list);
		}
	}
	/* Zeros after the last member are padding; other bytes are damage. */
	memset(out[0] + packed[0], 0, 1000);
	put_file(names[0], out[0], packed[0] + 1000);
	struct input_list list = open_one(names[0]);
	check_records(reader, list.files, data, bytes, 0, UINT64_MAX, "\n", 1 << 28);
	input_list_close(&list);
	out[0][packed[0] + 500] = 'x';
	put_file(names[0], out[0], packed[0] + 1000);
	list = open_one(names[0]);
	assert_int_equal(read_through(reader, list.files), STATUS_CORRUPT);
	input_list_close(&list);
	input_reader_destroy(reader);
	free(out[0]);
	free(out[1]);
	free(data);
}

static void changes_are_noticed(void **state)
{
	(void)state;
	struct input_reader *reader;
	put_text("grow.txt", "abc");
	struct input_list list = open_one("grow.txt");
	put_text("grow.txt", "abcd");
	assert_int_equal(input_reader_create(&reader), STATUS_OK);
	assert_int_equal(read_through(reader, list.files), STATUS_MISMATCH);
	assert_non_null(strstr(error_message(), "grow.txt"));
	input_reader_destroy(reader);
	input_list_close(&list);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lists_sorted_and_classified),
		cmocka_unit_test(nothing_is_skipped_silently),
		cmocka_unit_test(lines_and_parts),
		cmocka_unit_test(separators),
		cmocka_unit_test(compressed),
		cmocka_unit_test(changes_are_noticed),
	};
	return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
