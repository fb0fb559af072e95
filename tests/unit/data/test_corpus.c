#include "data/corpus.h"
#include "data/manifest.h"
#include "tests/unit/data/corpus_fixture.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

static struct corpus *open_corpus(const struct fixture *fixture)
{
	struct corpus *corpus;
	if (corpus_open(fixture->directory, &corpus) != STATUS_OK)
		fail_msg("%s", error_message());
	return corpus;
}

/* The two ways to read tokens. */
static enum status (*const readers[2])(struct corpus *corpus, uint64_t first, uint64_t count,
	int32_t *tokens) = {corpus_read, corpus_read_in_order};

static void check_read(
	struct corpus *corpus, const struct fixture *fixture, uint64_t first, uint64_t count, int32_t *room)
{
	for (int in_order = 0; in_order < 2; in_order++) {
		memset(room, 255, count * sizeof *room);
		if (readers[in_order](corpus, first, count, room) != STATUS_OK)
			fail_msg("%s", error_message());
		assert_memory_equal(room, fixture->ids + first, count * sizeof *room);
	}
}

/* ---- reading ---- */

static void check_everything(const struct fixture *fixture, uint64_t *random)
{
	struct corpus *corpus = open_corpus(fixture);
	const struct corpus_info *info = corpus_get_info(corpus);
	int32_t *room = calloc(fixture->tokens + 1, sizeof *room);
	assert_int_equal(info->documents, fixture->documents);
	assert_int_equal(info->tokens, fixture->tokens);
	assert_int_equal(info->input_documents, fixture->documents + 3);
	assert_int_equal(info->dtype, fixture->wide ? CORPUS_I32 : CORPUS_U16);
	assert_string_equal(info->unicode, "16.0.0");
	check_read(corpus, fixture, 0, fixture->tokens, room);
	for (int i = 0; i < 200; i++) {
		uint64_t first = fixture_below(random, fixture->tokens + 1);
		uint64_t count = fixture_below(random, fixture->tokens - first + 1);
		corpus_prefetch(corpus, first, count);
		check_read(corpus, fixture, first, count, room);
	}
	for (uint64_t d = 0; d < fixture->documents; d++) {
		uint64_t first, count, key;
		uint32_t length;
		assert_int_equal(corpus_document(corpus, d, &first, &count), STATUS_OK);
		assert_int_equal(first, fixture->starts[d]);
		assert_int_equal(count, fixture->starts[d + 1] - fixture->starts[d]);
		assert_int_equal(corpus_document_lengths(corpus, d, 1, &length), STATUS_OK);
		assert_int_equal(length, count);
		assert_int_equal(corpus_document_key(corpus, d, &key), STATUS_OK);
		assert_true(key == fixture->keys[d]);
	}
	uint32_t *lengths = calloc(fixture->documents + 1, sizeof *lengths);
	assert_int_equal(corpus_document_lengths(corpus, 0, fixture->documents, lengths), STATUS_OK);
	for (uint64_t d = 0; d < fixture->documents; d++)
		assert_int_equal(lengths[d], fixture->starts[d + 1] - fixture->starts[d]);
	free(lengths);
	for (int i = 0; i < 200; i++) {
		uint64_t key = fixture_random(random), naive = 0, found;
		if (i % 2 && fixture->documents) /* one that is there, or just beside it */
			key = fixture->keys[fixture_below(random, fixture->documents)] +
			      (uint64_t)(i / 2 % 3) - 1;
		while (naive < fixture->documents && fixture->keys[naive] < key)
			naive++;
		assert_int_equal(corpus_find_key(corpus, key, &found), STATUS_OK);
		assert_int_equal(found, naive);
	}
	if (corpus_verify(corpus, 3, NULL, NULL) != STATUS_OK)
		fail_msg("%s", error_message());
	/* Outside: errors, not crashes. */
	uint64_t first, count;
	assert_int_equal(corpus_read(corpus, fixture->tokens, 1, room), STATUS_USAGE);
	assert_int_equal(corpus_read(corpus, UINT64_MAX, 2, room), STATUS_USAGE);
	assert_int_equal(corpus_document(corpus, fixture->documents, &first, &count), STATUS_USAGE);
	corpus_prefetch(corpus, fixture->tokens, 5);
	free(room);
	corpus_close(corpus);
}

static void reads_what_was_written(void **state)
{
	(void)state;
	static const struct {
		uint64_t documents, longest, shards;
		bool wide;
	} shapes[] = {{0, 1, 1, false}, {1, 1, 1, false}, {1, 5000, 2, true}, {3, 10, 8, false},
		{40, 700, 4, false}, {40, 700, 4, true}, {700, 60, 16, false}, {3000, 3, 2, true},
		{200, 9000, 1, false}};
	uint64_t random = 99;
	for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
		struct fixture fixture;
		fixture_create(&fixture, i + 1, shapes[i].documents, shapes[i].longest, shapes[i].shards,
			shapes[i].wide);
		check_everything(&fixture, &random);
		fixture_remove(&fixture);
	}
}

/* Trees of three levels need more than 512 pages of hashes: a .bin of over 1 GiB; here, over 2 MiB makes the
 * second level, and a sparse file the third. */
static void reads_a_tree_of_three_levels(void **state)
{
	(void)state;
	enum { PAGES = 512 * 512 + 3 };
	/* All pages but the last are zeros: one hash, computed once. */
	struct fixture fixture;
	fixture_make(&fixture, 5, 1, 1, 1, false);
	snprintf(fixture.directory, sizeof fixture.directory, "/tmp/ferry-test-XXXXXX");
	assert_non_null(mkdtemp(fixture.directory));
	uint64_t tokens = (uint64_t)PAGES * 2048;
	struct fixture_bytes levels[3] = {{0}}, idx = {0}, key = {0}, sum = {0}, trees = {0}, text = {0};
	uint8_t page[4096] = {0};
	uint64_t zeros = XXH3_64bits(page, 4096);
	page[4094] = 50256 & 255;
	page[4095] = 50256 >> 8;
	uint64_t last = XXH3_64bits(page, 4096), root = 0;
	for (int i = 0; i < PAGES; i++)
		fixture_put_number(&levels[0], i + 1 == PAGES ? last : zeros, 8);
	fixture_put(&trees, levels[0].data, levels[0].size);
	for (int l = 0; l < 3; l++) {
		struct fixture_bytes above = {0};
		for (size_t at = 0; at < levels[l].size; at += 4096)
			fixture_put_number(&above,
				root = XXH3_64bits(levels[l].data + at,
					levels[l].size - at < 4096 ? levels[l].size - at : 4096),
				8);
		fixture_put(&trees, above.data, above.size);
		if (l < 2)
			levels[l + 1] = above;
		else
			free(above.data);
	}
	struct fixture_roots roots = {.bin = root};
	fixture_put(&idx, "MMIDIDX\0", 9);
	fixture_put_number(&idx, 1, 8);
	fixture_put_number(&idx, 8, 1);
	fixture_put_number(&idx, 1, 8);
	fixture_put_number(&idx, 2, 8);
	fixture_put_number(&idx, tokens, 4);
	fixture_put_number(&idx, 0, 8);
	fixture_put_number(&idx, 0, 8);
	fixture_put_number(&idx, 1, 8);
	fixture_put_number(&key, fixture.keys[0], 8);
	roots.idx = fixture_tree(&idx, &trees);
	roots.key = fixture_tree(&key, &trees);
	fixture_put(&sum, "FERRYSUM", 8);
	const uint64_t header[] = {1, tokens * 2, roots.bin, idx.size, roots.idx, key.size, roots.key};
	for (int i = 0; i < 7; i++)
		fixture_put_number(&sum, header[i], 8);
	uint64_t check = XXH3_64bits(sum.data, 64);
	fixture_put(&sum, trees.data, trees.size);
	fixture_put_number(&sum, check, 8);
	struct fixture_bytes empty = {0};
	fixture_save(&fixture, 0, "bin", &empty);
	fixture_save(&fixture, 0, "idx", &idx);
	fixture_save(&fixture, 0, "key", &key);
	fixture_save(&fixture, 0, "sum", &sum);
	fixture.tokens = fixture.starts[1] = tokens;
	fixture_manifest(&fixture, &roots, &text);
	fixture_save_manifest(&fixture, (char *)text.data, text.size);
	char path[128];
	fixture_path(&fixture, 0, "bin", path);
	FILE *file = fopen(path, "r+b");
	fseek(file, (long)tokens * 2 - 2, SEEK_SET);
	fwrite(page + 4094, 1, 2, file);
	fclose(file);

	struct corpus *corpus = open_corpus(&fixture);
	int32_t ids[4100];
	assert_int_equal(corpus_read(corpus, tokens - 4100, 4100, ids), STATUS_OK);
	assert_int_equal(ids[4099], 50256);
	assert_int_equal(ids[4098], 0);
	assert_int_equal(corpus_read(corpus, tokens / 3, 4100, ids), STATUS_OK);
	corpus_close(corpus);
	/* A bit of the middle level: what lies below is refused, the rest is read. */
	fixture_path(&fixture, 0, "sum", path);
	fixture_flip(path, 64 + 8L * PAGES + 8, 0);
	corpus = open_corpus(&fixture);
	assert_int_equal(corpus_read(corpus, 0, 10, ids), STATUS_CORRUPT);
	assert_non_null(strstr(error_message(), "00000.sum: page 0 of the hashes of .bin"));
	assert_int_equal(corpus_read(corpus, tokens - 10, 10, ids), STATUS_OK);
	/* The hashes gone: those in memory are as good as ever, others cannot be had. */
	assert_int_equal(truncate(path, 64), 0);
	assert_int_equal(corpus_read(corpus, tokens - 10, 10, ids), STATUS_OK);
	assert_int_equal(corpus_read(corpus, tokens - 3000000, 10, ids), STATUS_IO);
	assert_non_null(strstr(error_message(), "00000.sum: page 509 of the hashes of .bin"));
	corpus_close(corpus);
	for (int l = 0; l < 3; l++)
		free(levels[l].data);
	free(idx.data);
	free(key.data);
	free(sum.data);
	free(trees.data);
	free(text.data);
	fixture_remove(&fixture);
}

/* When the process may open few files, .sum is opened for each read; nothing else changes. */
static void few_files_may_be_open(void **state)
{
	(void)state;
	struct fixture fixture;
	struct rlimit before, few;
	uint64_t random = 5;
	fixture_create(&fixture, 31, 3000, 90, 64, false);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	few = before;
	few.rlim_cur = 24; /* a quarter of them is 6, for 64 shards */
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	check_everything(&fixture, &random);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	fixture_remove(&fixture);
}

/* The bytes of .idx, by hand, of two documents of 3 and 1 tokens: Megatron-LM's layout. */
static void index_layout(void **state)
{
	(void)state;
	struct fixture fixture;
	fixture_make(&fixture, 1, 2, 1, 1, false);
	free(fixture.ids);
	fixture.ids = calloc(4, 4);
	static const int32_t ids[] = {7, 8, 50256, 50256};
	memcpy(fixture.ids, ids, sizeof ids);
	fixture.starts[1] = 3;
	fixture.starts[2] = fixture.tokens = 4;
	fixture_write(&fixture);
	static const uint8_t wanted[] = {'M', 'M', 'I', 'D', 'I', 'D', 'X', 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 8,
		2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0,
		0, 0};
	char path[128];
	uint8_t got[sizeof wanted + 1];
	fixture_path(&fixture, 0, "idx", path);
	FILE *file = fopen(path, "rb");
	assert_int_equal(fread(got, 1, sizeof got, file), sizeof wanted);
	fclose(file);
	assert_memory_equal(got, wanted, sizeof wanted);
	uint64_t random = 3;
	check_everything(&fixture, &random);
	fixture_remove(&fixture);
}

/* ---- damage ---- */

/* Opens and verifies; the message must name the file, and of a shard's the documents. */
static void expect_damage(const struct fixture *fixture, const char *file, const char *what, long offset)
{
	struct corpus *corpus;
	enum status status = corpus_open(fixture->directory, &corpus);
	if (status == STATUS_OK) {
		status = corpus_verify(corpus, 1, NULL, NULL);
		corpus_close(corpus);
	}
	if (status != STATUS_CORRUPT && !(status == STATUS_UNSUPPORTED && strstr(file, "json")))
		fail_msg("%s at %ld of %s: status %s, %s", what, offset, file, error_status_name(status),
			error_message());
	if (!strstr(error_message(), file) || (!strstr(file, "json") && !strstr(error_message(), "document")))
		fail_msg("%s at %ld of %s: the message is \"%s\"", what, offset, file, error_message());
}

static void every_flipped_byte_is_found(void **state)
{
	(void)state;
	struct fixture fixture;
	fixture_create(&fixture, 11, 30, 250, 2, false);
	static const char *const suffixes[] = {"bin", "idx", "key", "sum", "json"};
	uint64_t random = 5;
	for (uint64_t s = 0; s < 2; s++)
		for (size_t i = 0; i < 5; i++) {
			char path[128];
			fixture_path(&fixture, s, suffixes[i], path);
			long size = fixture_size(path);
			for (long offset = 0; offset < size; offset++) {
				int bit = (int)fixture_below(&random, 8);
				fixture_flip(path, offset, bit);
				expect_damage(&fixture, strrchr(path, '/') + 1, "a flipped bit", offset);
				fixture_flip(path, offset, bit);
			}
		}
	uint64_t again = 1;
	check_everything(&fixture, &again);
	fixture_remove(&fixture);
}

/* Reading alone, without verify, must not give a damaged token: it gives the right ones or an error. */
static void no_unverified_token_is_read(void **state)
{
	(void)state;
	struct fixture fixture;
	fixture_create(&fixture, 12, 60, 1500, 2, false);
	static const char *const suffixes[] = {"bin", "sum"};
	uint64_t random = 6;
	int32_t *room = calloc(fixture.tokens, 4);
	int errors = 0;
	for (int i = 0; i < 400; i++) {
		char path[128];
		uint64_t shard = fixture_below(&random, 2);
		fixture_path(&fixture, shard, suffixes[i % 2], path);
		long offset = (long)fixture_below(&random, (uint64_t)fixture_size(path));
		int bit = (int)fixture_below(&random, 8);
		fixture_flip(path, offset, bit);
		struct corpus *corpus = open_corpus(&fixture);
		for (int j = 0; j < 20; j++) {
			uint64_t first = fixture_below(&random, fixture.tokens - 1000);
			if (readers[j % 2](corpus, first, 1000, room) == STATUS_OK) {
				assert_memory_equal(room, fixture.ids + first, 4000);
			} else {
				assert_non_null(strstr(error_message(), strrchr(path, '/') + 1));
				errors++;
			}
		}
		corpus_close(corpus);
		fixture_flip(path, offset, bit);
	}
	assert_true(errors > 400);
	free(room);
	fixture_remove(&fixture);
}

/* The documents that the message names are those that the page holds. */
static void damage_names_page_and_documents(void **state)
{
	(void)state;
	struct fixture fixture;
	fixture_create(&fixture, 13, 200, 300, 1, false);
	char path[128], wanted[200];
	int32_t ids[10];
	fixture_path(&fixture, 0, "bin", path);
	long pages = fixture_size(path) / 4096;
	for (long page = 0; page < pages; page++) {
		uint64_t from = 0, to = 0, first = (uint64_t)page * 2048, last = first + 2047;
		for (uint64_t d = 0; d < fixture.documents; d++) {
			if (fixture.starts[d] <= first)
				from = d;
			if (fixture.starts[d] <= last)
				to = d;
		}
		fixture_flip(path, page * 4096 + 100, 3);
		struct corpus *corpus = open_corpus(&fixture);
		assert_int_equal(readers[page % 2](corpus, first + 1000, 10, ids), STATUS_CORRUPT);
		snprintf(wanted, sizeof wanted, "00000.bin: page %ld (bytes %ld..%ld) ", page, page * 4096,
			page * 4096 + 4095);
		assert_non_null(strstr(error_message(), wanted));
		snprintf(wanted, sizeof wanted, "documents %" PRIu64 "..%" PRIu64 ";", from, to);
		if (!strstr(error_message(), wanted))
			fail_msg("\"%s\" lacks \"%s\"", error_message(), wanted);
		corpus_close(corpus);
		fixture_flip(path, page * 4096 + 100, 3);
	}
	/* The index too is damaged: the message says that it cannot tell. */
	fixture_flip(path, 5, 1);
	fixture_path(&fixture, 0, "idx", path);
	struct corpus *corpus = open_corpus(&fixture);
	assert_int_equal(corpus_read(corpus, 9000, 10, ids), STATUS_OK); /* maps, with a good header */
	fixture_flip(path, 34 + 4 * 200 + 8 * 100, 1);
	assert_int_equal(corpus_read(corpus, 0, 10, ids), STATUS_CORRUPT);
	assert_non_null(strstr(error_message(), "cannot tell"));
	corpus_close(corpus);
	fixture_remove(&fixture);
}

static void truncation_is_found(void **state)
{
	(void)state;
	struct fixture fixture;
	fixture_create(&fixture, 14, 40, 300, 2, false);
	static const char *const suffixes[] = {"bin", "idx", "key", "sum", "json"};
	for (size_t i = 0; i < 5; i++) {
		char path[128];
		fixture_path(&fixture, 1, suffixes[i], path);
		long size = fixture_size(path);
		char *whole = malloc((size_t)size);
		FILE *file = fopen(path, "rb");
		assert_int_equal(fread(whole, 1, (size_t)size, file), size);
		fclose(file);
		for (long length = 0; length <= size + 1;
			length += length < 20 || length > size - 20 ? 1 : 37) {
			if (length == size)
				continue;
			file = fopen(path, "wb");
			fwrite(whole, 1, (size_t)(length < size ? length : size), file);
			if (length > size)
				fputc('\n', file); /* a byte too many */
			fclose(file);
			expect_damage(&fixture, strrchr(path, '/') + 1, "truncation", length);
		}
		/* A missing file is an I/O error that names it. */
		unlink(path);
		struct corpus *corpus;
		enum status status = corpus_open(fixture.directory, &corpus);
		if (status == STATUS_OK) {
			status = corpus_verify(corpus, 1, NULL, NULL);
			corpus_close(corpus);
		}
		assert_int_equal(status, STATUS_IO);
		assert_non_null(strstr(error_message(), strrchr(path, '/') + 1));
		file = fopen(path, "wb");
		fwrite(whole, 1, (size_t)size, file);
		fclose(file);
		free(whole);
	}
	fixture_remove(&fixture);
}

/* A file cut after it was mapped: SIGBUS becomes an error, in several threads, and the rest is still read. */
struct reader {
	struct corpus *corpus;
	const struct fixture *fixture;
	uint64_t cut; /* tokens before this one are still there */
	int errors, reads;
};

static void *read_past_the_cut(void *argument)
{
	struct reader *reader = argument;
	uint64_t random = (uint64_t)(uintptr_t)reader | 1;
	int32_t room[500];
	for (int i = 0; i < 500; i++) {
		uint64_t first = fixture_below(&random, reader->fixture->tokens - 500);
		enum status status = readers[i % 2](reader->corpus, first, 500, room);
		if (status == STATUS_IO && strstr(error_message(), "00000.bin: page ") &&
			strstr(error_message(), "truncated") && strstr(error_message(), "document"))
			reader->errors++;
		else if (status == STATUS_OK && first + 500 <= reader->cut &&
			 memcmp(room, reader->fixture->ids + first, sizeof room) == 0)
			reader->reads++;
	}
	return NULL;
}

static void bus_errors_become_errors(void **state)
{
	(void)state;
	struct fixture fixture;
	fixture_create(&fixture, 15, 100, 2000, 1, false);
	struct corpus *corpus = open_corpus(&fixture);
	int32_t ids[10];
	assert_int_equal(corpus_read(corpus, fixture.tokens - 10, 10, ids), STATUS_OK);
	char path[128];
	fixture_path(&fixture, 0, "bin", path);
	assert_int_equal(truncate(path, 65536), 0);
	struct reader past[4];
	pthread_t threads[4];
	for (int i = 0; i < 4; i++) {
		past[i] = (struct reader){.corpus = corpus, .fixture = &fixture, .cut = 32768};
		assert_int_equal(pthread_create(&threads[i], NULL, read_past_the_cut, &past[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(past[i].errors + past[i].reads, 500);
		assert_true(past[i].errors > 0 && past[i].reads > 0);
	}
	/* Of many pages that are read at once it is the first that is missing which is named. */
	int32_t *room = calloc(40000, sizeof *room);
	for (int in_order = 0; in_order < 2; in_order++) {
		assert_int_equal(readers[in_order](corpus, 20000, 20000, room), STATUS_IO);
		assert_non_null(
			strstr(error_message(), "00000.bin: page 16 (bytes 65536..69631) cannot be read"));
	}
	free(room);
	corpus_close(corpus);
	fixture_remove(&fixture);
}

static void exit_42(int number)
{
	(void)number;
	_exit(42);
}

/* A SIGBUS that is none of the corpus's business goes where it went before: to a handler, or the end. */
static void other_bus_errors_pass(void **state)
{
	(void)state;
	struct fixture fixture;
	fixture_create(&fixture, 19, 10, 10, 1, false);
	for (int handled = 0; handled < 2; handled++) {
		pid_t child = fork();
		if (child == 0) {
			struct corpus *corpus;
			int32_t id;
			char path[128];
			signal(SIGBUS, handled ? exit_42 : SIG_DFL);
			fixture_path(&fixture, 0, "bin", path);
			int fd = open(path, O_RDONLY);
			if (fd < 0 || corpus_open(fixture.directory, &corpus) != STATUS_OK ||
				corpus_read(corpus, 0, 1, &id) != STATUS_OK)
				_exit(1);
			/* Behind the end of the file. */
			volatile char *map = mmap(NULL, 1 << 20, PROT_READ, MAP_SHARED, fd, 0);
			_exit(map[1 << 19] ? 2 : 3);
		}
		int status;
		assert_int_equal(waitpid(child, &status, 0), child);
		if (handled)
			assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 42);
		else
			assert_true(
				WIFSIGNALED(status) ? WTERMSIG(status) == SIGBUS : WEXITSTATUS(status) > 3);
	}
	fixture_remove(&fixture);
}

/* ---- what only a wrong writer could make: hashes are right, the content is not ---- */

static void expect_verify(struct fixture *fixture, const char *message)
{
	fixture_write(fixture);
	struct corpus *corpus = open_corpus(fixture);
	assert_int_equal(corpus_verify(corpus, 2, NULL, NULL), STATUS_CORRUPT);
	if (!strstr(error_message(), message))
		fail_msg("\"%s\" lacks \"%s\"", error_message(), message);
	corpus_close(corpus);
}

static void verify_finds_wrong_contents(void **state)
{
	(void)state;
	struct fixture fixture;
	fixture_make(&fixture, 16, 50, 100, 2, false);
	uint64_t middle = fixture.starts[20] + 1;
	while (fixture.ids[middle] == (int32_t)fixture.eod || fixture.ids[middle - 1] == (int32_t)fixture.eod)
		middle++;
	int32_t kept = fixture.ids[middle];
	fixture.ids[middle] = 60000;
	expect_verify(&fixture, "is id 60000, which the vocabulary does not have");
	/* Such an id does not reach a reader either. */
	struct corpus *corpus = open_corpus(&fixture);
	int32_t ids[3];
	assert_int_equal(corpus_read(corpus, middle - 1, 3, ids), STATUS_CORRUPT);
	assert_non_null(strstr(error_message(), "is id 60000"));
	corpus_close(corpus);
	fixture.ids[middle] = (int32_t)fixture.eod;
	expect_verify(&fixture, "EOD, but its document goes on");
	fixture.ids[middle] = kept;
	fixture.ids[fixture.starts[7] - 1] = 5;
	expect_verify(&fixture, "its document ends here, in EOD (document 6 of the corpus)");
	fixture.ids[fixture.starts[7] - 1] = (int32_t)fixture.eod;
	uint64_t first = fixture.first[1], key = fixture.keys[first];
	fixture.keys[first] = UINT64_MAX / 2;
	expect_verify(&fixture, "has a key that belongs to another shard");
	fixture.keys[first] = fixture.keys[first + 1] + 1;
	expect_verify(&fixture, "has a larger key than the next");
	fixture.keys[first] = key;
	fixture_write(&fixture);
	uint64_t random = 1;
	check_everything(&fixture, &random);
	fixture_remove(&fixture);
}

/* ---- the manifest ---- */

/* The fixture's manifest with one text replaced by another, sealed. */
static enum status open_edited(
	struct fixture *fixture, const struct fixture_bytes *manifest, const char *from, const char *to)
{
	char *at = strstr((char *)manifest->data, from);
	struct fixture_bytes edited = {0};
	struct corpus *corpus;
	assert_non_null(at);
	fixture_put(&edited, manifest->data, (size_t)(at - (char *)manifest->data));
	fixture_put(&edited, to, strlen(to));
	fixture_put(&edited, at + strlen(from), strlen(at + strlen(from)));
	fixture_save_manifest(fixture, (char *)edited.data, edited.size);
	free(edited.data);
	enum status status = corpus_open(fixture->directory, &corpus);
	if (status == STATUS_OK)
		corpus_close(corpus);
	return status;
}

static void manifest_is_validated(void **state)
{
	(void)state;
	struct fixture fixture;
	fixture_make(&fixture, 17, 10, 5, 2, false);
	fixture_write(&fixture);
	struct fixture_bytes text = {0};
	struct fixture_roots roots[2] = {fixture_write_shard(&fixture, 0), fixture_write_shard(&fixture, 1)};
	fixture_manifest(&fixture, roots, &text);
	fixture_put(&text, "", 1);
	static const struct {
		const char *from, *to, *message;
	} edits[] = {{"\"dtype\": \"u16\", ", "", "no key \"dtype\""},
		{"\"repaired\": 5,", "\"repaired\": 5, \"extra\": 1,", "unknown key \"extra\""},
		{"\"repaired\": 5,", "\"repaired\": 5, \"repaired\": 5,", "twice"},
		{"\"repaired\": 5,", "\"repaired\": -5,", "repaired"},
		{"\"repaired\": 5,", "\"repaired\": 5.5,", "repaired"},
		{"\"repaired\": 5,", "\"repaired\": \"x\",", "repaired"},
		{"\"empty\": 1", "\"near_duplicates\": 1, \"empty\": 1", "do not add up"},
		{"\"empty\": 1", "\"near_duplicates\": -1, \"empty\": 1", "near_duplicates"},
		{"\"repaired\": 5,", "\"repaired\": 5, \"near\": {\"words\": 5, \"bands\": 0, \"rows\": 8},",
			"0 bands"},
		{"\"repaired\": 5,", "\"repaired\": 5, \"near\": {\"words\": 5, \"bands\": 14},", "rows"},
		{"\"repaired\": 5,", "\"repaired\": 5, \"near\": 14,", "near"},
		{"\"documents\": 10,", "\"documents\": 11,", "do not add up"},
		{"\"duplicates\": 3", "\"duplicates\": 4", "do not add up"},
		{"\"tokens\": ", "\"tokens\": 1", "do not add up"},
		{"\"00000\", \"documents\": ", "\"00000\", \"documents\": 1", "shard"},
		{"\"u16\"", "\"u8\"", "u8"}, {"\"eod\": 50256", "\"eod\": 50257", "impossible"},
		{"\"vocabulary\": 50257", "\"vocabulary\": 70000", "do not fit dtype u16"},
		{"\"name\": \"00001\"", "\"name\": \"../01\"", "../01"},
		{"ferry-corpus", "other-corpus", "other-corpus"},
		{"\"hash\": \"0123456789abcdef0123456789abcdef\"", "\"hash\": \"0123\"", "hash"},
		{"\"shards\": [", "\"shards\": [3,", "power of two"}, {"\"bin\": \"", "\"bin\": \"0", "bin"},
		{"],\n \"hash\": \"", "],\n \"hash\": \"00000000000000000000000000000000\",\n \"x\": \"",
			"unknown key"}};
	for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
		assert_int_equal(open_edited(&fixture, &text, edits[i].from, edits[i].to), STATUS_CORRUPT);
		if (!strstr(error_message(), edits[i].message) || !strstr(error_message(), "corpus.json"))
			fail_msg("edit %zu: \"%s\" lacks \"%s\"", i, error_message(), edits[i].message);
	}
	assert_int_equal(
		open_edited(&fixture, &text, "\"version\": 1", "\"version\": 2"), STATUS_UNSUPPORTED);
	/* A root exchanged for another: the hash tells. */
	char root[24], other[24];
	snprintf(root, sizeof root, "%016" PRIx64, roots[0].bin);
	snprintf(other, sizeof other, "%016" PRIx64, roots[0].bin ^ 1);
	assert_int_equal(open_edited(&fixture, &text, root, other), STATUS_CORRUPT);
	assert_non_null(strstr(error_message(), "not the hash of the shards' roots"));
	assert_int_equal(open_edited(&fixture, &text, root, root), STATUS_OK);
	/* Two corpora's files mixed: sizes fit, roots do not. */
	fixture.ids[0] ^= 1;
	fixture_write_shard(&fixture, 0);
	struct corpus *corpus = open_corpus(&fixture);
	int32_t id;
	assert_int_equal(corpus_read(corpus, 0, 1, &id), STATUS_CORRUPT);
	assert_non_null(strstr(error_message(), "of another corpus"));
	corpus_close(corpus);
	free(text.data);
	fixture_remove(&fixture);
}

/* What manifest_publish writes is what the header says, by the fixture's own arithmetic. */
static void seals_a_manifest(void **state)
{
	(void)state;
	char path[] = "/tmp/ferry-test-XXXXXX", wanted[200], got[200];
	assert_true(close(mkstemp(path)) == 0);
	cJSON *manifest = cJSON_Parse("{\"a\": 1}");
	assert_int_equal(manifest_publish(path, manifest), STATUS_OK);
	cJSON_Delete(manifest);
	static const char before[] = "{\n\t\"a\":\t1,\n\t";
	snprintf(wanted, sizeof wanted, "%s\"check\":\t\"%016" PRIx64 "\"\n}\n", before,
		(uint64_t)XXH3_64bits(before, sizeof before - 1));
	FILE *file = fopen(path, "r");
	size_t size = fread(got, 1, sizeof got, file);
	fclose(file);
	unlink(path);
	assert_int_equal(size, strlen(wanted));
	assert_memory_equal(got, wanted, size);
}

static void not_a_corpus(void **state)
{
	(void)state;
	struct corpus *corpus;
	assert_int_equal(corpus_open("/nonexistent-corpus", &corpus), STATUS_IO);
	assert_non_null(strstr(error_message(), "/nonexistent-corpus"));
}

struct seen {
	uint64_t done, total;
	int calls;
};

static void see(void *user, uint64_t done, uint64_t total)
{
	struct seen *seen = user;
	assert_true(done >= seen->done && done <= total);
	*seen = (struct seen){done, total, seen->calls + 1};
}

static void verify_reports_progress(void **state)
{
	(void)state;
	struct fixture fixture;
	struct seen seen = {0};
	fixture_create(&fixture, 18, 500, 9000, 4, true);
	struct corpus *corpus = open_corpus(&fixture);
	assert_int_equal(corpus_verify(corpus, 2, see, &seen), STATUS_OK);
	uint64_t bytes = 4 * fixture.tokens + 28 * 500 + 4 * 42;
	assert_int_equal(seen.total, bytes);
	assert_int_equal(seen.done, bytes);
	assert_true(seen.calls >= 12);
	corpus_close(corpus);
	fixture_remove(&fixture);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_what_was_written),
		cmocka_unit_test(reads_a_tree_of_three_levels),
		cmocka_unit_test(few_files_may_be_open),
		cmocka_unit_test(index_layout),
		cmocka_unit_test(every_flipped_byte_is_found),
		cmocka_unit_test(no_unverified_token_is_read),
		cmocka_unit_test(damage_names_page_and_documents),
		cmocka_unit_test(truncation_is_found),
		cmocka_unit_test(bus_errors_become_errors),
		cmocka_unit_test(other_bus_errors_pass),
		cmocka_unit_test(verify_finds_wrong_contents),
		cmocka_unit_test(manifest_is_validated),
		cmocka_unit_test(seals_a_manifest),
		cmocka_unit_test(not_a_corpus),
		cmocka_unit_test(verify_reports_progress),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
