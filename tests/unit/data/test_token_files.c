/*
 * Files of ids of other programs: token_reader against a naive reading of the same bytes, in parts of any
 * size; damaged files; corpora made of them and written back.
 */
#include "data/token_files.h"

#include "data/corpus_export.h"
#include "data/preprocess.h"
#include "tests/unit/data/preprocess_fixture.h"
#include "tests/unit/faulty_files.h"

enum { VOCABULARY = 50257, EOD = 50256 };

/* ---- documents, back to back, each followed by EOD: the oracle's form ---- */

struct ids {
	uint32_t *data;
	size_t count, capacity;
};

static void add_id(struct ids *ids, uint32_t id)
{
	if (ids->count == ids->capacity) {
		ids->capacity = ids->capacity * 2 + 64;
		ids->data = realloc(ids->data, ids->capacity * 4);
	}
	ids->data[ids->count++] = id;
}

/* Ids with EODs here and there, also side by side. */
static struct ids random_ids(uint32_t *seed, size_t count, uint32_t mean)
{
	struct ids ids = {0};
	for (size_t i = 0; i < count; i++)
		add_id(&ids, below(seed, mean) == 0 ? EOD : below(seed, EOD));
	return ids;
}

static void put_u16(const char *name, const uint32_t *header, const uint32_t *ids, size_t count)
{
	uint8_t *bytes = malloc(LLMC_HEADER + count * 2 + 1);
	size_t at = header ? LLMC_HEADER : 0;
	if (header)
		memcpy(bytes, header, LLMC_HEADER);
	for (size_t i = 0; i < count; i++)
		memcpy(bytes + at + i * 2, &(uint16_t){(uint16_t)ids[i]}, 2);
	put_file(name, bytes, at + count * 2);
	free(bytes);
}

static void put_llmc(const char *name, const uint32_t *ids, size_t count)
{
	uint32_t header[256] = {LLMC_MAGIC, LLMC_VERSION, (uint32_t)count};
	put_u16(name, header, ids, count);
}

/* What the reader finds in a list of files read in parts of `step` (of the file's units). */
static struct ids read_all(enum token_format format, const char *const *names, size_t count, uint64_t step)
{
	struct ids found = {0};
	struct input_list list;
	struct token_reader *reader;
	if (token_files_list(format, names, count, &list) != STATUS_OK ||
		token_reader_create(format, VOCABULARY, EOD, 1 << 20, &reader) != STATUS_OK)
		fail_msg("%s", error_message());
	for (size_t i = 0; i < list.count; i++) {
		uint64_t first, end;
		if (!token_file_has_ids(format, &list.files[i]))
			continue;
		if (token_file_measure(format, &list.files[i], &first, &end) != STATUS_OK)
			fail_msg("%s", error_message());
		for (uint64_t begin = first; begin < end; begin += step) {
			struct token_document document;
			bool more;
			if (token_reader_open(reader, &list, i, begin,
				    end - begin < step ? end : begin + step) != STATUS_OK)
				fail_msg("%s", error_message());
			for (;;) {
				if (token_reader_next(reader, &document, &more) != STATUS_OK)
					fail_msg("%s", error_message());
				if (!more)
					break;
				assert_false(document.too_long);
				for (size_t j = 0; j < document.count; j++)
					add_id(&found, document.ids[j]);
				add_id(&found, EOD);
			}
			assert_int_equal(token_reader_finish(reader), STATUS_OK);
		}
	}
	token_reader_destroy(reader);
	input_list_close(&list);
	return found;
}

static void expect_ids(struct ids found, const struct ids *expected, const char *what, uint64_t step)
{
	if (found.count != expected->count ||
		(found.count && memcmp(found.data, expected->data, found.count * 4) != 0))
		fail_msg("%s in parts of %d: %zu ids, not %zu, or others", what, (int)step, found.count,
			expected->count);
	free(found.data);
}

static void nanogpt_in_parts(void **state)
{
	(void)state;
	uint32_t seed = 1;
	for (int round = 0; round < 60; round++) {
		struct ids ids = random_ids(&seed, below(&seed, 400), 1 + below(&seed, 60));
		put_u16("nano.bin", NULL, ids.data, ids.count);
		struct ids expected = {0};
		for (size_t i = 0; i < ids.count; i++)
			add_id(&expected, ids.data[i]);
		if (ids.count && ids.data[ids.count - 1] != EOD)
			add_id(&expected, EOD);
		const char *name = in_root("nano.bin");
		for (uint64_t step = 2; step < 900; step += 2 + 2 * below(&seed, 60))
			expect_ids(
				read_all(TOKEN_FORMAT_NANOGPT, &name, 1, step), &expected, "nanogpt", step);
		free(expected.data);
		free(ids.data);
	}
}

/* llm.c's files are one stream cut anywhere; EOD begins a document. */
static void llmc_in_parts_and_files(void **state)
{
	(void)state;
	uint32_t seed = 2;
	for (int round = 0; round < 60; round++) {
		struct ids ids = random_ids(&seed, below(&seed, 400), 1 + below(&seed, 60)), expected = {0};
		/* A stream that ends in EOD: a document of no ids would begin behind it, and does not count.
		 */
		while (ids.count && ids.data[ids.count - 1] == EOD)
			ids.count--;
		for (size_t i = 0; i < ids.count; i++)
			if (i > 0 || ids.data[0] != EOD)
				add_id(&expected, ids.data[i]);
		if (ids.count)
			add_id(&expected, EOD);
		const char *names[6];
		size_t files = 1 + below(&seed, 6), at = 0;
		for (size_t i = 0; i < files; i++) {
			char name[32];
			size_t count = i + 1 == files ? ids.count - at
						      : below(&seed, (uint32_t)(ids.count - at) + 1);
			snprintf(name, sizeof name, "llmc%zu.bin", i);
			put_llmc(name, ids.data + at, count);
			names[i] = in_root(name);
			at += count;
		}
		for (uint64_t step = 2; step < 900; step += 2 + 2 * below(&seed, 60))
			expect_ids(read_all(TOKEN_FORMAT_LLMC, names, files, step), &expected, "llmc", step);
		free(expected.data);
		free(ids.data);
	}
}

/* ---- Megatron-LM's ---- */

struct index_image {
	uint8_t data[1 << 16];
	size_t bytes;
};

static void add_number(struct index_image *image, uint64_t number, size_t width)
{
	memcpy(image->data + image->bytes, &number, width);
	image->bytes += width;
}

/* Sequences of `lengths`, documents that end after those of `ends` (as many). */
static struct index_image make_index(
	const uint32_t *lengths, size_t sequences, const uint64_t *ends, size_t documents, uint64_t item)
{
	struct index_image image = {.bytes = 9};
	uint64_t offset = 0;
	memcpy(image.data, "MMIDIDX\0", 9);
	add_number(&image, 1, 8);
	add_number(&image, item == 2 ? 8 : 4, 1);
	add_number(&image, sequences, 8);
	add_number(&image, documents + 1, 8);
	for (size_t i = 0; i < sequences; i++)
		add_number(&image, lengths[i], 4);
	for (size_t i = 0; i < sequences; offset += lengths[i++] * item)
		add_number(&image, offset, 8);
	add_number(&image, 0, 8);
	for (size_t i = 0; i < documents; i++)
		add_number(&image, ends[i], 8);
	return image;
}

static void megatron_in_parts(void **state)
{
	(void)state;
	uint32_t seed = 3;
	for (int round = 0; round < 60; round++) {
		uint32_t lengths[300];
		uint64_t ends[100];
		size_t sequences = 0, documents = below(&seed, 100), item = round % 2 ? 2 : 4;
		struct ids all = {0}, expected = {0};
		for (size_t d = 0; d < documents; d++) {
			size_t before = expected.count;
			bool inside = false; /* an EOD ended a document, and nothing followed */
			for (uint32_t s = below(&seed, 4); s > 0; s--) {
				uint32_t length = below(&seed, 20);
				lengths[sequences++] = length;
				for (uint32_t i = 0; i < length; i++) {
					uint32_t id = below(&seed, 25) ? below(&seed, EOD) : EOD;
					add_id(&all, id);
					add_id(&expected, id);
					inside = id == EOD;
				}
			}
			if (!inside || expected.count == before)
				add_id(&expected, EOD);
			ends[d] = sequences;
		}
		struct index_image image = make_index(lengths, sequences, ends, documents, item);
		put_file("m.idx", image.data, image.bytes);
		if (item == 2)
			put_u16("m.bin", NULL, all.data, all.count);
		else
			put_file("m.bin", all.data ? (void *)all.data : (void *)"", all.count * 4);
		const char *name = in_root(round % 3 == 0 ? "m" : round % 3 == 1 ? "m.bin" : "m.idx");
		for (uint64_t step = 1; step < 120; step += 1 + below(&seed, 10))
			expect_ids(
				read_all(TOKEN_FORMAT_MEGATRON, &name, 1, step), &expected, "megatron", step);
		free(all.data);
		free(expected.data);
	}
}

/* ---- damage ---- */

/* Reads all, whatever comes; the first failure. */
static enum status try_reading(enum token_format format, const char *name)
{
	struct input_list list;
	struct token_reader *reader = NULL;
	enum status status = token_files_list(format, &name, 1, &list);
	if (status == STATUS_OK)
		status = token_reader_create(format, VOCABULARY, EOD, 1000, &reader);
	for (size_t i = 0; i < list.count && status == STATUS_OK; i++) {
		uint64_t first, end;
		bool more = true;
		struct token_document document;
		if (!token_file_has_ids(format, &list.files[i]))
			continue;
		status = token_file_measure(format, &list.files[i], &first, &end);
		if (status == STATUS_OK)
			status = token_reader_open(reader, &list, i, first, end);
		while (status == STATUS_OK && more) {
			status = token_reader_next(reader, &document, &more);
			if (status == STATUS_OK && more)
				assert_true(document.too_long ? !document.ids : document.count <= 1000);
		}
	}
	token_reader_destroy(reader);
	input_list_close(&list);
	return status;
}

static void expect_failure(enum token_format format, const char *name, enum status status, const char *word)
{
	expect_refusal(try_reading(format, in_root(name)), status, word);
}

static void damage_is_named(void **state)
{
	(void)state;
	uint32_t seed = 4;
	uint32_t lengths[4] = {3, 5, 4, 2};
	uint64_t ends[3] = {1, 3, 4};
	struct ids ids = random_ids(&seed, 14, 1000000);
	struct index_image good = make_index(lengths, 4, ends, 3, 2), image;
	put_u16("d.bin", NULL, ids.data, 14);
	/* Every bit of the index: an error or other documents, never a crash or a read beyond (sanitizers).
	 */
	for (size_t bit = 0; bit < good.bytes * 8; bit++) {
		image = good;
		image.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
		put_file("d.idx", image.data, image.bytes);
		enum status status = try_reading(TOKEN_FORMAT_MEGATRON, in_root("d"));
		assert_true(status == STATUS_OK || status == STATUS_CORRUPT || status == STATUS_UNSUPPORTED);
		if (status != STATUS_OK)
			assert_non_null(strstr(error_message(), "/d."));
		assert_true(bit / 8 >= 34 || status != STATUS_OK);
	}
	for (size_t bytes = 0; bytes < good.bytes; bytes++) {
		put_file("d.idx", good.data, bytes);
		assert_int_equal(try_reading(TOKEN_FORMAT_MEGATRON, in_root("d")), STATUS_CORRUPT);
	}
	put_file("d.idx", good.data, good.bytes);
	put_u16("d.bin", NULL, ids.data, 13);
	expect_failure(TOKEN_FORMAT_MEGATRON, "d", STATUS_CORRUPT,
		"sequence 3 (bytes 46 and 74) is 2 ids from byte 24");
	assert_int_equal(unlink(in_root("d.idx")), 0);
	expect_failure(TOKEN_FORMAT_MEGATRON, "d", STATUS_IO, "d.idx");

	put_u16("d.bin", NULL, (uint32_t[]){1, 2, 50257}, 3);
	expect_failure(TOKEN_FORMAT_NANOGPT, "d.bin", STATUS_CORRUPT, "d.bin: byte 4: id 50257");
	put_file("d.bin", "abc", 3);
	expect_failure(TOKEN_FORMAT_NANOGPT, "d.bin", STATUS_CORRUPT, "is 3 bytes");
	expect_failure(TOKEN_FORMAT_LLMC, "d.bin", STATUS_CORRUPT, "shorter than llm.c's header");
	uint32_t header[256] = {LLMC_MAGIC, LLMC_VERSION, 13};
	put_u16("d.bin", header, ids.data, 12);
	expect_failure(
		TOKEN_FORMAT_LLMC, "d.bin", STATUS_CORRUPT, "bytes 8..11 say 13 ids, but 24 bytes follow");
	header[1] = 7;
	put_u16("d.bin", header, ids.data, 13);
	expect_failure(TOKEN_FORMAT_LLMC, "d.bin", STATUS_UNSUPPORTED, "version 7");
	header[0] = 20240801;
	put_u16("d.bin", header, ids.data, 13);
	expect_failure(TOKEN_FORMAT_LLMC, "d.bin", STATUS_CORRUPT, "bytes 0..3 are 20240801");
	expect_failure(TOKEN_FORMAT_LLMC, "nowhere", STATUS_IO, "nowhere");
	expect_failure(TOKEN_FORMAT_LLMC, ".", STATUS_USAGE, "is not a file");
	free(ids.data);

	/* Longer than the limit: passed over, not held. */
	struct ids many = random_ids(&seed, 300000, 1u << 31);
	put_u16("d.bin", NULL, many.data, many.count);
	assert_int_equal(try_reading(TOKEN_FORMAT_NANOGPT, in_root("d.bin")), STATUS_OK);
	free(many.data);
}

/* ---- corpora ---- */

static void make_corpus(enum token_format format, const char *const *names, size_t count, const char *output,
	int workers, uint64_t unit_bytes)
{
	struct preprocess_config config = {
		.inputs = names,
		.input_count = count,
		.token_format = format,
		.output = output,
		.tokenizer = tokenizer,
		.text_key = "text",
		.workers = workers,
		.memory = 16 << 20,
		.max_bytes = 1 << 20,
		.unit_bytes = unit_bytes,
		.shard_bytes = 20000,
	};
	struct preprocess_result result;
	if (preprocess_run(&config, &result) != STATUS_OK)
		fail_msg("%s", error_message());
}

static void export_corpus(const char *directory, enum token_format format, const char *prefix)
{
	struct corpus *corpus;
	uint64_t files;
	struct corpus_export_config config = {.format = format, .prefix = prefix, .file_tokens = 9000};
	if (corpus_open(directory, &corpus) != STATUS_OK ||
		corpus_export_run(corpus, &config, &files) != STATUS_OK)
		fail_msg("%s", error_message());
	/* What is there is not replaced unasked. */
	assert_int_equal(corpus_export_run(corpus, &config, &files), STATUS_USAGE);
	config.overwrite = true;
	assert_int_equal(corpus_export_run(corpus, &config, &files), STATUS_OK);
	corpus_close(corpus);
}

static struct hash128 corpus_hash(const char *directory)
{
	struct corpus *corpus;
	if (corpus_open(directory, &corpus) != STATUS_OK)
		fail_msg("%s", error_message());
	assert_int_equal(corpus_verify(corpus, 1, NULL, NULL), STATUS_OK);
	assert_true(corpus_get_info(corpus)->shard_count > 1);
	struct hash128 hash = corpus_get_info(corpus)->hash;
	corpus_close(corpus);
	return hash;
}

/* Out and in again, in every format, gives the same corpus; ids that no text gives, and bytes that are no
 * UTF-8. */
static void there_and_back(void **state)
{
	(void)state;
	uint32_t seed = 5;
	struct ids ids = random_ids(&seed, 40000, 150);
	put_u16("nano.bin", NULL, ids.data, ids.count);
	free(ids.data);
	const char *name = in_root("nano.bin");
	make_corpus(TOKEN_FORMAT_NANOGPT, &name, 1, in_root("one"), 1, 1 << 20);
	struct hash128 hash = corpus_hash(in_root("one"));
	make_corpus(TOKEN_FORMAT_NANOGPT, &name, 1, in_root("two"), 3, 3000);
	struct hash128 again = corpus_hash(in_root("two"));
	assert_int_equal(hash128_compare(hash, again), 0);
	for (int format = TOKEN_FORMAT_MEGATRON; format <= TOKEN_FORMAT_NANOGPT; format++) {
		const char *llmc[5];
		size_t count = 1;
		put_text("out.bin.tmp-1-2", "left by a run that was cut off");
		put_text("out_other.bin.tmp-1-2", "another's, which may be at work");
		export_corpus(in_root("one"), (enum token_format)format, in_root("out"));
		assert_int_equal(file_exists(in_root("out.bin.tmp-1-2")), format == TOKEN_FORMAT_LLMC);
		assert_true(file_exists(in_root("out_other.bin.tmp-1-2")));
		const char *const *names = &name;
		name = in_root("out.bin");
		if (format == TOKEN_FORMAT_LLMC) {
			for (count = 0; count < 5; count++) {
				char file[32];
				snprintf(file, sizeof file, "out_%06zu.bin", count);
				llmc[count] = in_root(file);
				assert_true(file_exists(llmc[count]));
			}
			names = llmc;
		}
		assert_int_equal(directory_remove(in_root("two")), STATUS_OK);
		make_corpus((enum token_format)format, names, count, in_root("two"), 2, 5000);
		again = corpus_hash(in_root("two"));
		assert_int_equal(hash128_compare(hash, again), 0);
		unlink(in_root("out.bin"));
	}
}

static uint64_t count_files(const char *folder)
{
	char **names;
	size_t count;
	must(directory_list(folder, &names, &count));
	directory_list_free(names, count);
	return count;
}

/* llm.c's files are a set: a full disk leaves none of it, or the old one; what a longer set has behind the new one's last
 * is refused, or goes. */
static void llmc_sets_are_whole(void **state)
{
	(void)state;
	uint32_t seed = 6;
	struct ids ids = random_ids(&seed, 40000, 150);
	put_u16("set-ids.bin", NULL, ids.data, ids.count);
	free(ids.data);
	const char *name = in_root("set-ids.bin"), *folder = in_root("set");
	must(directory_create(folder));
	make_corpus(TOKEN_FORMAT_NANOGPT, &name, 1, in_root("set-corpus"), 1, 1 << 20);
	struct corpus *corpus;
	struct corpus_export_config config = {
		.format = TOKEN_FORMAT_LLMC, .prefix = in_root("set/x"), .file_tokens = 9000};
	uint64_t files, short_set;
	must(corpus_open(in_root("set-corpus"), &corpus));
	for (int overwrite = 0; overwrite < 2; overwrite++) {
		faulty_files_install();
		faults.fail_at = 40; /* in the second file or so */
		faults.error = ENOSPC;
		faults.dead = true;
		expect_refusal(corpus_export_run(corpus, &config, &files), STATUS_IO, "No space left");
		faulty_files_remove();
		must(directory_remove_temporaries(folder)); /* a dead disk keeps them */
		assert_int_equal(count_files(folder), overwrite ? short_set : 0);
		must(corpus_export_run(corpus, &config, &short_set));
		assert_in_range(short_set, 4, 6);
		assert_int_equal(count_files(folder), short_set);
		config.overwrite = true;
	}
	config.file_tokens = 4000;
	must(corpus_export_run(corpus, &config, &files));
	assert_true(files > short_set + 2);
	put_text("set/x_000099.bin", "not of the set");
	/* Only the one behind the last is in the way. */
	config.overwrite = false;
	config.file_tokens = 9000;
	for (uint64_t i = 0; i < short_set; i++) {
		char path[32];
		snprintf(path, sizeof path, "set/x_%06d.bin", (int)i);
		must(file_remove(in_root(path)));
	}
	uint64_t others = files - short_set + 1;
	expect_refusal(corpus_export_run(corpus, &config, &files), STATUS_USAGE, "is there already");
	assert_int_equal(count_files(folder), others);
	config.overwrite = true;
	must(corpus_export_run(corpus, &config, &files));
	assert_int_equal(files, short_set);
	assert_int_equal(count_files(folder), short_set + 1);
	assert_true(file_exists(in_root("set/x_000099.bin")));
	corpus_close(corpus);
}

static void keys_are_those_of_the_text(void **state)
{
	(void)state;
	static const char text[] = "Hello, world! Caf\xC3\xA9";
	struct encoder *encoder;
	uint32_t ids[64], all[256];
	size_t count, total = 0;
	assert_int_equal(encoder_open(tokenizer, &encoder), STATUS_OK);
	assert_int_equal(encoder_encode(encoder, text, sizeof text - 1, ids, &count), STATUS_OK);
	encoder_close(encoder);
	/* The text as it is tokenized, and a byte an id: one document. */
	memcpy(all, ids, count * 4);
	total = count;
	all[total++] = EOD;
	for (size_t i = 0; i < sizeof text - 1; i++) {
		uint32_t id = 0, length;
		while (tokenizer_token_bytes(tokenizer, id, &length)[0] != (uint8_t)text[i] || length != 1)
			id++;
		all[total++] = id;
	}
	put_u16("nano.bin", NULL, all, total);
	const char *name = in_root("nano.bin");
	make_corpus(TOKEN_FORMAT_NANOGPT, &name, 1, in_root("key"), 1, 0);
	struct corpus *corpus;
	uint64_t key;
	int32_t first;
	assert_int_equal(corpus_open(in_root("key"), &corpus), STATUS_OK);
	const struct corpus_info *info = corpus_get_info(corpus);
	assert_int_equal(info->documents, 1);
	assert_int_equal(info->dropped_duplicates, 1);
	assert_int_equal(info->tokens, count + 1); /* the first of the two */
	assert_int_equal(info->bytes, sizeof text - 1);
	assert_int_equal(info->input_bytes, 2 * (sizeof text - 1));
	assert_int_equal(corpus_document_key(corpus, 0, &key), STATUS_OK);
	assert_int_equal(key, hash128(text, sizeof text - 1).high);
	assert_int_equal(corpus_read(corpus, 0, 1, &first), STATUS_OK);
	assert_int_equal(first, ids[0]);
	corpus_close(corpus);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nanogpt_in_parts),
		cmocka_unit_test(llmc_in_parts_and_files),
		cmocka_unit_test(megatron_in_parts),
		cmocka_unit_test(damage_is_named),
		cmocka_unit_test(there_and_back),
		cmocka_unit_test(llmc_sets_are_whole),
		cmocka_unit_test(keys_are_those_of_the_text),
	};
	return cmocka_run_group_tests(tests, begin, end);
}
