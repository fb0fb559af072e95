/*
 * The readers of others' files of ids (data/token_files.h). First byte, bits 0-1: Megatron-LM, llm.c,
 * nanoGPT; bit 2: the input is the file after its header (llm.c's, which is put in); bits 3-4: the limit of a
 * document's ids. Then two u16: where parts meet; bytes of the first file (Megatron's index, llm.c's first of
 * two). Parts must give the documents that the whole gives, and llm.c's and nanoGPT's files what a plain loop
 * cuts at EOD.
 */
#include "common/endian.h"
#include "data/token_files.h"
#include "tests/fuzz/fuzz.h"

enum { VOCABULARY = 50257, EOD = 50256 };

struct documents {
	uint32_t *ids; /* all, each document's followed by UINT32_MAX, or UINT32_MAX - 1 if it is too long */
	size_t count, room;
};

static void add_id(struct documents *list, uint32_t id)
{
	if (list->count == list->room) {
		list->room = list->room * 2 + 64;
		list->ids = realloc(list->ids, list->room * sizeof *list->ids);
		CHECK(list->ids, "no memory");
	}
	list->ids[list->count++] = id;
}

static enum status read_part(struct token_reader *reader, const struct input_list *files, size_t file,
	uint64_t begin, uint64_t end, struct documents *out)
{
	struct token_document document;
	bool more;
	TRY(token_reader_open(reader, files, file, begin, end));
	for (;;) {
		TRY(token_reader_next(reader, &document, &more));
		if (!more)
			break;
		CHECK(document.too_long == !document.ids || document.count == 0, "ids");
		for (size_t i = 0; i < document.count && !document.too_long; i++) {
			CHECK(document.ids[i] < VOCABULARY && document.ids[i] != EOD, "id %u",
				document.ids[i]);
			add_id(out, document.ids[i]);
		}
		add_id(out, document.too_long ? UINT32_MAX - 1 : UINT32_MAX);
	}
	return token_reader_finish(reader);
}

/* Every file, each in `parts` parts. */
static enum status read_files(enum token_format format, const struct input_list *files, uint64_t limit,
	uint32_t meet, struct documents *out)
{
	struct token_reader *reader;
	enum status status = STATUS_OK;
	CHECK(token_reader_create(format, VOCABULARY, EOD, limit, &reader) == STATUS_OK, "%s",
		error_message());
	for (size_t i = 0; i < files->count && status == STATUS_OK; i++) {
		uint64_t first, end, middle;
		if (!token_file_has_ids(format, &files->files[i]))
			continue;
		status = token_file_measure(format, &files->files[i], &first, &end);
		if (status != STATUS_OK)
			break;
		CHECK(first <= end, "measure");
		middle = meet == UINT32_MAX ? end : first + meet % (end - first + 1);
		if (format != TOKEN_FORMAT_MEGATRON)
			middle &= ~UINT64_C(1);
		if (middle > first)
			status = read_part(reader, files, i, first, middle, out);
		if (status == STATUS_OK && middle < end)
			status = read_part(reader, files, i, middle, end, out);
	}
	token_reader_destroy(reader);
	return status;
}

/* Documents that a loop over all ids cuts, for llm.c (EOD before) and nanoGPT (EOD after). */
static void cut_plainly(
	const uint8_t *data, size_t bytes, enum token_format format, uint64_t limit, struct documents *out)
{
	uint64_t length = 0;
	bool open = false, too_long = false;
	size_t began = out->count;
	for (size_t i = 0; i + 1 < bytes; i += 2) {
		uint32_t id = load_le16(data + i);
		if (id == EOD) {
			if (format == TOKEN_FORMAT_NANOGPT || i > 0) { /* llm.c's first ends nothing */
				if (too_long)
					out->count = began;
				add_id(out, too_long ? UINT32_MAX - 1 : UINT32_MAX);
			}
			open = false; /* an EOD at the very end begins nothing */
			length = 0;
			too_long = false;
			began = out->count;
			continue;
		}
		open = true;
		too_long |= ++length > limit;
		add_id(out, id);
	}
	if (open) {
		if (too_long)
			out->count = began;
		add_id(out, too_long ? UINT32_MAX - 1 : UINT32_MAX);
	}
}

static void write_llmc(const char *name, const uint8_t *ids, size_t bytes)
{
	uint8_t *file = calloc(LLMC_HEADER + bytes, 1);
	CHECK(file, "no memory");
	store_le32(file, LLMC_MAGIC);
	store_le32(file + 4, LLMC_VERSION);
	store_le32(file + 8, (uint32_t)(bytes / 2));
	if (bytes)
		memcpy(file + LLMC_HEADER, ids, bytes);
	fuzz_write(name, file, LLMC_HEADER + bytes);
	free(file);
}

/* Writes the input's files, gives their names, and true if `plain` are all their ids. */
static bool write_files(enum token_format format, bool header, struct fuzz_input input, size_t first,
	const char *names[2], size_t *count, struct fuzz_input *plain)
{
	bool whole = input.bytes % 2 == 0;
	*plain = input;
	*count = 1;
	names[0] = fuzz_path("a");
	names[1] = fuzz_path("b");
	if (format == TOKEN_FORMAT_MEGATRON) {
		struct fuzz_input index = fuzz_cut(&input, first);
		fuzz_write("a.idx", index.data, index.bytes);
		fuzz_write("a.bin", input.data, input.bytes);
		return false;
	}
	if (format == TOKEN_FORMAT_NANOGPT) {
		fuzz_write("a", input.data, input.bytes);
		return whole;
	}
	struct fuzz_input head = fuzz_cut(&input, header ? first & ~(size_t)1 : first);
	*count = 2;
	if (header) {
		write_llmc("a", head.data, head.bytes);
		write_llmc("b", input.data, input.bytes & ~(size_t)1);
		return whole;
	}
	fuzz_write("a", head.data, head.bytes);
	fuzz_write("b", input.data, input.bytes);
	return false;
}

static void compare(const struct documents *a, const struct documents *b, const char *what)
{
	CHECK(a->count == b->count && (!a->count || memcmp(a->ids, b->ids, a->count * 4) == 0), "%s", what);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static const uint64_t limits[] = {UINT32_MAX, 0, 5, 300};
	struct fuzz_input input = {data, bytes}, plain;
	uint32_t mode = fuzz_take(&input, 1), meet = fuzz_take(&input, 2), first = fuzz_take(&input, 2);
	enum token_format format = (enum token_format)(TOKEN_FORMAT_MEGATRON + mode % 4 % 3);
	uint64_t limit = limits[mode >> 3 & 3];
	struct input_list files;
	const char *names[2];
	size_t count;
	bool known = write_files(format, mode & 4, input, first, names, &count, &plain);
	CHECK(token_files_list(format, names, count, &files) == STATUS_OK, "%s", error_message());
	struct documents whole = {0}, parts = {0}, expected = {0};
	enum status status = read_files(format, &files, limit, UINT32_MAX, &whole);
	if (status != STATUS_OK)
		CHECK(strstr(error_message(), fuzz_directory()), "names no file: %s", error_message());
	CHECK(read_files(format, &files, limit, meet, &parts) == status, "parts fail otherwise: %s",
		error_message());
	if (status == STATUS_OK)
		compare(&whole, &parts, "parts give other documents than the whole");
	for (size_t i = 0; i + 1 < plain.bytes; i += 2)
		known = known && load_le16(plain.data + i) < VOCABULARY;
	if (known) {
		CHECK(status == STATUS_OK, "%s", error_message());
		cut_plainly(plain.data, plain.bytes, format, limit, &expected);
		compare(&whole, &expected, "other documents than a plain loop cuts");
	}
	input_list_close(&files);
	free(whole.ids);
	free(parts.ids);
	free(expected.ids);
	return 0;
}
