/*
 * data/unit_reader.h: every record once and batches in order whatever the workers, who reads when, and that a
 * failure comes in its place. That runs of preprocess on it give the same bytes: test_preprocess.c.
 */
#include "data/unit_reader.h"

#include "tests/unit/scratch_folder.h"

#include <inttypes.h>
#include <zstd.h>

enum { WORKERS = 3, LINES = 80000, FIRST = 60000 };

static struct preprocess_config config;
static struct preprocess_job job;
static struct piece pieces[2];
static struct unit unit;
static struct file_operations counting;
static _Atomic int reads;
static _Atomic uint64_t read_bytes;

static ssize_t count_read(int fd, void *buffer, size_t bytes)
{
	ssize_t got = file_operations_system.read(fd, buffer, bytes);
	reads++;
	read_bytes += got > 0 ? (uint64_t)got : 0;
	return got;
}

/* Lines "number xxx...", numbered from `first`, of some 6 MB. */
static char *make_lines(int first, int count, size_t *bytes)
{
	char *data = malloc((size_t)count * 160);
	*bytes = 0;
	for (int i = first; i < first + count; i++)
		*bytes += (size_t)sprintf(data + *bytes, "%d %0*d\n", i, 40 + i % 89, 7);
	return data;
}

/* The unit: a .jsonl with the first lines, and a .zst with the others, of which the last `cut` bytes are
 * missing. */
static void make_unit(size_t cut)
{
	size_t bytes, plain;
	char *data = make_lines(0, FIRST, &plain);
	must(directory_remove(in_root("in")));
	must(directory_create(in_root("in")));
	put_file("in/a.jsonl", data, plain);
	free(data);
	data = make_lines(FIRST, LINES - FIRST, &plain);
	char *packed = malloc(ZSTD_compressBound(plain));
	bytes = ZSTD_compress(packed, ZSTD_compressBound(plain), data, plain, 1);
	assert_false(ZSTD_isError(bytes));
	put_file("in/b.jsonl.zst", packed, bytes - cut);
	free(packed);
	free(data);
	const char *folder = in_root("in");
	input_list_close(&job.inputs);
	must(input_list_open(&folder, 1, NULL, &job.inputs));
	for (size_t i = 0; i < 2; i++)
		pieces[i] = (struct piece){.file = i, .end = UINT64_MAX};
	config = (struct preprocess_config){.workers = WORKERS, .max_bytes = 1 << 20};
	unit = (struct unit){.pieces = 2};
	job.config = &config;
	job.pieces = pieces;
}

/* ---- several threads ---- */

struct crew {
	struct unit_reader *reader;
	_Atomic int seen[LINES];
};

struct member {
	struct crew *crew;
	int number;
	uint64_t stored, batches, end;
	int wrong; /* asserts are the main thread's */
};

static void *take_all(void *argument)
{
	struct member *member = argument;
	struct crew *crew = member->crew;
	struct unit_batch batch = {0};
	for (;;) {
		if (unit_reader_take(crew->reader, member->number, WORKERS, &batch) != STATUS_OK)
			member->wrong++;
		member->stored += batch.stored;
		if (!batch.file)
			break;
		member->batches++;
		member->wrong += batch.piece != (batch.file->compression == INPUT_ZSTD);
		for (size_t i = 0; i < batch.records.count; i++) {
			const struct input_record *record = &batch.records.records[i];
			int number = atoi(record->data);
			int before = batch.piece ? FIRST : 0;
			if (number < 0 || number >= LINES || (int)record->line != 1 + number - before)
				member->wrong++;
			else
				crew->seen[number]++;
		}
	}
	member->end = batch.number;
	input_batch_free(&batch.records);
	return NULL;
}

static void every_record_once(void **state)
{
	(void)state;
	static struct crew crew;
	struct member members[WORKERS];
	pthread_t threads[WORKERS];
	uint64_t stored, batches;
	make_unit(0);
	must(unit_reader_create(&job, &crew.reader));
	for (int round = 1; round <= 3; round++) { /* a reader goes on to another unit */
		must(unit_reader_begin(crew.reader, &unit));
		stored = batches = 0;
		for (int i = 0; i < WORKERS; i++) {
			members[i] = (struct member){.crew = &crew, .number = i};
			pthread_create(&threads[i], NULL, take_all, &members[i]);
		}
		for (int i = 0; i < WORKERS; i++) {
			pthread_join(threads[i], NULL);
			assert_int_equal(members[i].wrong, 0);
			stored += members[i].stored;
			batches += members[i].batches;
		}
		for (int i = 0; i < WORKERS; i++)
			assert_int_equal(members[i].end, batches);
		assert_int_equal(stored, job.inputs.bytes);
		for (int i = 0; i < LINES; i++)
			assert_int_equal(crew.seen[i], round);
		assert_int_equal(unit_reader_lines(crew.reader)[0], FIRST);
		assert_int_equal(unit_reader_lines(crew.reader)[1], LINES - FIRST);
	}
	unit_reader_destroy(crew.reader);
}

/* ---- who reads: one thread plays the workers ---- */

static bool take(struct unit_reader *reader, int worker, int members, uint64_t number)
{
	static struct unit_batch batch;
	must(unit_reader_take(reader, worker, members, &batch));
	assert_int_equal(batch.number, number);
	if (batch.file)
		return true;
	input_batch_free(&batch.records);
	batch = (struct unit_batch){0};
	return false;
}

static void one_reads_ahead_for_all(void **state)
{
	(void)state;
	struct unit_reader *reader;
	make_unit(0);
	must(unit_reader_create(&job, &reader));
	must(unit_reader_begin(reader, &unit));
	file_system = &counting;
	reads = 0;
	assert_true(take(reader, 0, 2, 0));
	int before = reads;
	assert_true(before >= 3);
	assert_true(take(reader, 1, 2, 1)); /* two were read ahead for it */
	assert_true(take(reader, 1, 2, 2));
	assert_int_equal(reads, before);
	assert_true(take(reader, 1, 2, 3)); /* now it is the one that reads */
	assert_true(reads > before);
	before = reads;
	assert_true(take(reader, 0, 2, 4));
	assert_int_equal(reads, before);
	file_system = &file_operations_system;
	uint64_t number = 5;
	while (take(reader, number % 2, 2, number))
		number++;
	unit_reader_destroy(reader);
}

static void alone_nothing_is_read_ahead(void **state)
{
	(void)state;
	struct unit_reader *reader;
	struct unit_batch batch = {0};
	make_unit(0);
	must(unit_reader_create(&job, &reader));
	must(unit_reader_begin(reader, &unit));
	file_system = &counting;
	read_bytes = 0;
	for (int i = 0; i < 2; i++) {
		must(unit_reader_take(reader, 0, 1, &batch));
		const struct input_record *last = &batch.records.records[batch.records.count - 1];
		assert_true(read_bytes - (last->offset + last->bytes) < 200); /* less than a line */
	}
	file_system = &file_operations_system;
	input_batch_free(&batch.records);
	unit_reader_destroy(reader);
}

/* ---- a worker that does not come back ---- */

static struct unit_reader *left;
static _Atomic int begun;

static ssize_t read_slowly(int fd, void *buffer, size_t bytes)
{
	if (begun++ == 0)
		usleep(100000); /* for the others to begin to wait */
	return file_operations_system.read(fd, buffer, bytes);
}

static void *take_once(void *argument)
{
	struct unit_batch batch = {0};
	enum status status = unit_reader_take(left, *(int *)argument, WORKERS, &batch);
	bool good = status == STATUS_OK && batch.file && batch.number < WORKERS;
	input_batch_free(&batch.records);
	return good ? argument : NULL;
}

/* Batches so large that only one is read ahead: of the two that wait, one must read for itself, as the first has
 * left the unit. */
static void nobody_waits_for_good(void **state)
{
	(void)state;
	enum { LINE = 13 << 20 };
	static int numbers[WORKERS] = {0, 1, 2};
	static struct file_operations slow;
	pthread_t threads[WORKERS];
	void *good;
	make_unit(0);
	config.max_bytes = LINE;
	char *lines = malloc((size_t)5 * LINE);
	memset(lines, 'x', (size_t)5 * LINE);
	for (size_t i = 1; i <= 5; i++)
		lines[i * LINE - 1] = '\n';
	put_file("in/a.jsonl", lines, (size_t)5 * LINE);
	free(lines);
	const char *folder = in_root("in");
	input_list_close(&job.inputs);
	must(input_list_open(&folder, 1, NULL, &job.inputs));
	must(unit_reader_create(&job, &left));
	must(unit_reader_begin(left, &unit));
	slow = file_operations_system;
	slow.read = read_slowly;
	file_system = &slow;
	for (int i = 0; i < WORKERS; i++) {
		pthread_create(&threads[i], NULL, take_once, &numbers[i]);
		while (!begun)
			usleep(1000);
	}
	alarm(60); /* rather than for ever */
	for (int i = 0; i < WORKERS; i++) {
		pthread_join(threads[i], &good);
		assert_non_null(good);
	}
	alarm(0);
	file_system = &file_operations_system;
	unit_reader_destroy(left);
}

/* The .zst ends early: batches 0 to n - 1 come all the same, then the failure once, then the end. */
static void a_failure_comes_in_its_place(void **state)
{
	(void)state;
	struct unit_reader *reader;
	struct unit_batch batch = {0};
	enum status status;
	uint64_t number = 0;
	make_unit(10);
	must(unit_reader_create(&job, &reader));
	must(unit_reader_begin(reader, &unit));
	while ((status = unit_reader_take(reader, number % WORKERS, WORKERS, &batch)) == STATUS_OK) {
		assert_non_null(batch.file);
		assert_int_equal(batch.number, number++);
	}
	assert_true(number > 3);
	assert_int_equal(batch.number, number);
	expect_refusal(status, STATUS_CORRUPT, "b.jsonl.zst: near byte");
	must(unit_reader_take(reader, 0, WORKERS, &batch));
	assert_null(batch.file);
	input_batch_free(&batch.records);
	unit_reader_destroy(reader);
}

static int begin(void **state)
{
	counting = file_operations_system;
	counting.read = count_read;
	return scratch_make(state);
}

static int end(void **state)
{
	input_list_close(&job.inputs);
	return scratch_remove(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_record_once),
		cmocka_unit_test(one_reads_ahead_for_all),
		cmocka_unit_test(alone_nothing_is_read_ahead),
		cmocka_unit_test(nobody_waits_for_good),
		cmocka_unit_test(a_failure_comes_in_its_place),
	};
	return cmocka_run_group_tests(tests, begin, end);
}
