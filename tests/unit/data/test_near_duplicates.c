/*
 * The rule of data/near_duplicates.h against a naive oracle that compares every two documents, on random band
 * hashes that meet often: in any units, workers and memory, stopped and gone on with.
 */
#include "data/near_duplicates.h"

#include "data/minhash.h"
#include "tests/unit/scratch_folder.h"

#include <stdatomic.h>
#include <time.h>

enum { BANDS = 5, MOST = 2500 };

static struct near_format format = {BANDS, 3, {7, 9}}; /* of more bands, BANDS are different */

struct document {
	struct hash128 key;
	uint64_t hashes[BANDS];
	bool has, drop; /* has: a signature. drop: by the oracle */
};

static struct document documents[MOST];
static struct spill_document sorted[MOST];
static size_t count;

static uint64_t random_number(uint64_t *state)
{
	*state += UINT64_C(0x9e3779b97f4a7c15);
	uint64_t z = (*state ^ *state >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static int compare_documents(const void *a, const void *b)
{
	return hash128_compare(((const struct document *)a)->key, ((const struct document *)b)->key);
}

/* `values`: how many hashes a band has. Some documents agree in the upper half of the key. */
static void make_documents(uint64_t *seed, size_t wanted, uint64_t values)
{
	count = wanted;
	for (size_t i = 0; i < count; i++) {
		struct document *document = &documents[i];
		*document = (struct document){.has = random_number(seed) % 10 != 0};
		document->key = (struct hash128){random_number(seed), random_number(seed)};
		if (i && random_number(seed) % 20 == 0)
			document->key.high = documents[random_number(seed) % i].key.high;
		for (int b = 0; b < BANDS; b++) {
			uint64_t value = random_number(seed) % values + 1000 * (uint64_t)b;
			document->hashes[b] = random_number(&value);
		}
	}
	qsort(documents, count, sizeof *documents, compare_documents);
	for (size_t i = 0; i < count; i++) {
		sorted[i] = (struct spill_document){.key = documents[i].key};
		for (size_t j = 0; j < i && documents[i].has; j++)
			for (int b = 0; b < BANDS && documents[j].has; b++)
				documents[i].drop |= documents[i].hashes[b] == documents[j].hashes[b];
	}
}

/* Puts each document into one or two of the units, some of which are written in several runs. */
static void write_units(uint64_t *seed, size_t units)
{
	struct record_format records = {3, format.job};
	char path[NEAR_PATH];
	static uint64_t list[MOST * 3];
	for (size_t unit = 0; unit < units; unit++) {
		struct record_writer *writer;
		near_unit_path(root, unit, path);
		assert_int_equal(record_writer_open(path, &records, &writer), STATUS_OK);
		uint64_t runs = 1 + random_number(seed) % 3, choice = *seed;
		for (uint64_t run = 0; run < runs; run++)
			for (int b = 0; b < format.bands; b++) {
				size_t n = 0;
				uint64_t s = choice;
				for (size_t i = 0; i < count; i++) {
					bool here = i % units == unit || random_number(&s) % 8 == 0;
					if (!documents[i].has || !here || i / units % runs != run)
						continue;
					list[n * 3] = documents[i].hashes[b % BANDS];
					list[n * 3 + 1] = documents[i].key.high;
					list[n++ * 3 + 2] = documents[i].key.low;
				}
				n = records_sort(list, n, 3);
				assert_int_equal(record_writer_add(writer, (uint64_t)b, list, n), STATUS_OK);
			}
		assert_int_equal(record_writer_publish(writer, false), STATUS_OK);
	}
}

static void clean(void)
{
	assert_int_equal(directory_remove(root), STATUS_OK);
	assert_int_equal(directory_create(root), STATUS_OK);
}

/* Searches, marks in a few ranges of keys, and compares with the oracle. */
static void expect_oracle(const struct near_search *search)
{
	static bool drop[MOST];
	struct record_file *dropped_keys;
	uint64_t step = UINT64_MAX / 3 + 1, dropped = 0;
	size_t at = 0;
	assert_int_equal(near_search_run(search, &dropped_keys), STATUS_OK);
	for (uint64_t part = 0; part < 3; part++) {
		uint64_t first = part * step, last = part == 2 ? UINT64_MAX : first + step - 1;
		size_t n = 0;
		while (at + n < count && documents[at + n].key.high <= last)
			n++;
		memset(drop, 0, sizeof drop);
		assert_int_equal(
			near_search_mark(dropped_keys, first, last, sorted + at, n, drop), STATUS_OK);
		for (size_t i = 0; i < n; i++) {
			assert_int_equal(drop[i], documents[at + i].drop);
			dropped += drop[i];
		}
		at += n;
	}
	record_file_close(dropped_keys);
	assert_int_equal(at, count);
	assert_true(count < 100 || dropped > 0);
}

static void rule(void **state)
{
	(void)state;
	static const struct {
		size_t documents;
		uint64_t values;
		size_t units;
		int workers;
		uint64_t memory;
	} cases[] = {
		{0, 1, 1, 1, 1 << 20},
		{1, 1, 1, 2, 1 << 20},
		{2, 1, 2, 1, 1 << 20},
		{300, 100, 1, 1, 1 << 20},
		{300, 1000, 7, 3, 1 << 20},
		{2500, 100000, 3, 2, 1},
		{2500, 3000, 5, 1, 1 << 17},
		{2500, 2000, 4, 4, 1},
		/* more runs than are merged at once, twice over; one hash for all */
		{2500, 50000, 90, 1, 1},
		{2500, 2000, 90, 20, 1},
		{2500, 1, 90, 1, 1},
		{2500, 3, 9, 2, 1},
	};
	uint64_t seed = 1;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct near_search search = {.format = format,
			.directory = root,
			.units = cases[i].units,
			.workers = cases[i].workers,
			.memory = cases[i].memory};
		clean();
		make_documents(&seed, cases[i].documents, cases[i].values);
		write_units(&seed, cases[i].units);
		expect_oracle(&search);
	}
}

/* ---- how much is read ---- */

static atomic_long opened, bytes_read;

static int count_open(const char *path, int flags, mode_t mode)
{
	atomic_fetch_add(&opened, strstr(path, "/near-") != NULL);
	return file_operations_system.open(path, flags, mode);
}

static ssize_t count_read(int fd, void *buffer, size_t bytes, off_t offset)
{
	ssize_t got = file_operations_system.pread(fd, buffer, bytes, offset);
	atomic_fetch_add(&bytes_read, got);
	return got;
}

static long units_bytes(size_t units)
{
	struct stat info;
	char path[NEAR_PATH];
	long sum = 0;
	for (size_t unit = 0; unit < units; unit++) {
		near_unit_path(root, unit, path);
		must(file_stat(path, &info));
		sum += info.st_size;
	}
	return sum;
}

/* With as little memory as there may be, each byte and unit of twice the documents in twice the units costs hardly
 * more: log(n), not n. */
static void work_grows_with_the_documents(void **state)
{
	(void)state;
	struct file_operations counting = file_operations_system;
	double cost[2];
	counting.open = count_open;
	counting.pread = count_read;
	for (size_t twice = 0; twice < 2; twice++) {
		uint64_t seed = 4;
		struct near_search search = {
			.format = format, .directory = root, .units = 30 << twice, .workers = 1, .memory = 1};
		clean();
		make_documents(&seed, 1200 << twice, UINT64_MAX);
		write_units(&seed, search.units);
		struct record_file *dropped;
		opened = bytes_read = 0;
		file_system = &counting;
		assert_int_equal(near_search_run(&search, &dropped), STATUS_OK);
		file_system = &file_operations_system;
		record_file_close(dropped);
		cost[twice] = (double)bytes_read / (double)units_bytes(search.units);
		/* For each band: once to look for runs, of which a unit has three at most, and once for each. */
		assert_in_range(opened, BANDS * search.units * 2, BANDS * search.units * 4);
	}
	assert_true(cost[1] < cost[0] * 1.25);
}

/* ---- many workers ---- */

static enum status take_a_moment(void *user, uint64_t done, uint64_t total)
{
	const struct timespec moment = {0, 1000000};
	(void)user, (void)done, (void)total;
	nanosleep(&moment, NULL);
	return STATUS_OK;
}

/* Each reads 8 files at once and writes 2: 200 of them would have more open than the 1024 that a process is given. */
static void no_more_workers_than_files_allow(void **state)
{
	(void)state;
	enum { WORKERS = 200 };
	double seconds[WORKERS] = {0};
	int busy = 0;
	uint64_t seed = 6;
	struct record_file *dropped;
	struct near_search search = {.format = format,
		.directory = root,
		.units = 3,
		.workers = WORKERS,
		.memory = 1 << 20,
		.progress = take_a_moment,
		.seconds = seconds};
	clean();
	make_documents(&seed, 300, 100);
	write_units(&seed, search.units);
	must(near_search_run(&search, &dropped));
	record_file_close(dropped);
	for (int i = 0; i < WORKERS; i++)
		busy += seconds[i] > 0;
	assert_in_range(busy, 1, 64);
	expect_oracle(&search);
}

/* ---- stops ---- */

struct stopping {
	atomic_int left;
};

static enum status stop(void *user, uint64_t done, uint64_t total)
{
	struct stopping *stopping = user;
	assert_true(done <= total);
	return atomic_fetch_sub(&stopping->left, 1) > 0 ? STATUS_OK
							: error_set(STATUS_INTERRUPTED, "stopped");
}

static size_t count_files(const char *prefix)
{
	char **names;
	size_t files, found = 0;
	must(directory_list(root, &names, &files));
	for (size_t i = 0; i < files; i++)
		found += strncmp(names[i], prefix, strlen(prefix)) == 0;
	directory_list_free(names, files);
	return found;
}

static void stopped_and_gone_on_with(void **state)
{
	(void)state;
	uint64_t seed = 8;
	int stops = 0;
	struct stopping stopping;
	struct record_file *dropped;
	struct near_search search = {
		.format = format, .directory = root, .units = 30, .progress = stop, .user = &stopping};
	clean();
	make_documents(&seed, 2500, 5000);
	write_units(&seed, 30);
	size_t most = 0;
	for (;;) {
		search.workers = 1 + stops / 2 % 3;
		search.memory = 1;
		atomic_store(&stopping.left, 1 + stops);
		enum status status = near_search_run(&search, &dropped);
		if (status == STATUS_OK)
			break;
		assert_int_equal(status, STATUS_INTERRUPTED);
		stops++;
		assert_in_range(stops, 1, 1000);
		size_t parts = count_files("drops-");
		most = parts > most ? parts : most;
	}
	assert_in_range(stops, 3, 1000);
	assert_in_range(most, 1, BANDS * 2);
	record_file_close(dropped);
	assert_int_equal(count_files("drops-") + count_files("between-"), 0);
	search.progress = NULL;
	expect_oracle(&search);
	/* Complete: nothing else is looked at; parts that a kill left beside it go. What is lost or damaged is made anew. */
	const char *path = in_root("dropped");
	char unit[NEAR_PATH], part[NEAR_PATH], *data;
	size_t bytes;
	snprintf(part, sizeof part, "%s/drops-00-002", root);
	must(file_publish(part, "rubbish", 7));
	near_unit_path(root, 7, unit);
	must(file_read_all(unit, 1 << 20, &data, &bytes));
	must(file_publish(unit, "rubbish", 7));
	expect_oracle(&search);
	assert_int_equal(count_files("drops-"), 0);
	for (int damage = 0; damage < 2; damage++) {
		must(damage ? file_remove(path) : file_publish(path, "rubbish", 7));
		assert_int_equal(near_search_run(&search, &dropped), STATUS_CORRUPT);
	}
	must(file_publish(unit, data, bytes));
	free(data);
	expect_oracle(&search);
	/* Parts that a search left, sound and damaged, and what it had between. */
	must(file_remove(path));
	must(file_publish(part, "rubbish", 7));
	snprintf(part, sizeof part, "%s/between-2-0", root);
	must(file_publish(part, "rubbish", 7));
	expect_oracle(&search);
	assert_int_equal(count_files("drops-") + count_files("between-"), 0);
}

static void damage_is_named(void **state)
{
	(void)state;
	uint64_t seed = 8;
	char path[NEAR_PATH];
	bool drop[1] = {false};
	struct record_file *dropped;
	struct near_search search = {
		.format = format, .directory = root, .units = 2, .workers = 1, .memory = 1 << 20};
	clean();
	make_documents(&seed, 200, 50);
	write_units(&seed, 2);
	near_unit_path(root, 1, path);
	assert_int_equal(near_unit_check(path, &format), STATUS_OK);
	struct near_format other = format;
	other.job.low++;
	assert_int_equal(near_unit_check(path, &other), STATUS_CORRUPT);
	assert_int_equal(near_search_run(&search, &dropped), STATUS_OK);
	assert_int_equal(near_search_mark(dropped, 0, UINT64_MAX, sorted, 1, drop), STATUS_CORRUPT);
	assert_non_null(strstr(error_message(), "dropped: names a document"));
	record_file_close(dropped);
	clean();
	write_units(&seed, 2);
	assert_int_equal(file_publish(path, "rubbish", 7), STATUS_OK);
	assert_int_equal(near_unit_check(path, &format), STATUS_CORRUPT);
	assert_int_equal(near_search_run(&search, &dropped), STATUS_CORRUPT);
	assert_non_null(strstr(error_message(), "near-000001"));
	assert_int_equal(file_remove(path), STATUS_OK);
	assert_int_equal(near_search_run(&search, &dropped), STATUS_IO);
}

/* ---- the writer ---- */

static enum status write_texts(const char *path, uint64_t memory, int units)
{
	struct near_buffer *buffer;
	TRY(near_buffer_create(&format, memory, &buffer));
	enum status status = STATUS_OK;
	for (int unit = 0; unit < units && status == STATUS_OK; unit++) {
		struct near_file *file = NULL;
		status = near_file_create(&format, path, &file);
		near_buffer_begin(buffer, file);
		for (uint64_t i = 0; i < 2000 && status == STATUS_OK; i++) {
			char text[100];
			int length = i % 4 ? snprintf(text, sizeof text, "one two three %d five %d six",
						     (int)(i / 3), (int)(i % 3))
					   : snprintf(text, sizeof text, "too short, %d", (int)i);
			status = near_buffer_add(buffer, (struct hash128){i, i + 1}, text, (size_t)length);
		}
		if (status == STATUS_OK)
			status = near_buffer_flush(buffer);
		if (status == STATUS_OK)
			status = near_file_publish(file, unit % 2);
		else
			near_file_abandon(file);
	}
	near_buffer_destroy(buffer);
	return status;
}

struct seen {
	struct minhash *minhash;
	int band;
	uint64_t count, order_breaks, last;
};

static enum status check_records(void *user, uint64_t *records, size_t n)
{
	struct seen *seen = user;
	for (size_t r = 0; r < n; r++) {
		uint64_t i = records[r * 3 + 1], hashes[BANDS];
		char text[100];
		bool has;
		snprintf(text, sizeof text, "ONE two--three %d five %d six!", (int)(i / 3), (int)(i % 3));
		assert_int_equal(minhash_compute(seen->minhash, text, strlen(text), hashes, &has), STATUS_OK);
		assert_true(i % 4 && records[r * 3 + 2] == i + 1);
		assert_int_equal(records[r * 3], hashes[seen->band]);
		seen->order_breaks += records[r * 3] < seen->last;
		seen->last = records[r * 3];
		seen->count++;
	}
	return STATUS_OK;
}

static void writer_writes_every_signature(void **state)
{
	(void)state;
	struct record_format records = {3, format.job};
	struct seen seen = {0};
	struct record_file *file;
	char path[NEAR_PATH];
	clean();
	near_unit_path(root, 0, path);
	assert_int_equal(minhash_create(BANDS, 3, &seen.minhash), STATUS_OK);
	for (int few = 0; few < 2; few++) {
		/* With room for 200 signatures a list has eight runs. */
		uint64_t memory = few ? 200 * (2 + BANDS + 3) * 8 : 1 << 20;
		assert_int_equal(write_texts(path, memory, 2), STATUS_OK);
		for (seen.band = 0; seen.band < BANDS; seen.band++) {
			seen.count = seen.order_breaks = seen.last = 0;
			must(record_file_open(path, &records, &file));
			must(record_file_read(
				file, (uint64_t)seen.band, 0, UINT64_MAX, check_records, &seen));
			record_file_close(file);
			assert_int_equal(seen.count, 1500);
			assert_int_equal(seen.order_breaks, few ? 7 : 0);
		}
	}
	minhash_destroy(seen.minhash);
}

static enum status write_and_search(void)
{
	struct near_search search = {
		.format = format, .directory = root, .units = 1, .workers = 1, .memory = 1};
	char path[NEAR_PATH];
	struct record_file *dropped;
	TRY(directory_remove(root));
	TRY(directory_create(root));
	near_unit_path(root, 0, path);
	TRY(write_texts(path, 1 << 16, 1));
	TRY(near_search_run(&search, &dropped));
	record_file_close(dropped);
	return STATUS_OK;
}

static void no_memory(void **state)
{
	(void)state;
	assert_in_range(refuse_memory(write_and_search), 15, 400);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rule),
		cmocka_unit_test(work_grows_with_the_documents),
		cmocka_unit_test(no_more_workers_than_files_allow),
		cmocka_unit_test(stopped_and_gone_on_with),
		cmocka_unit_test(damage_is_named),
		cmocka_unit_test(writer_writes_every_signature),
		cmocka_unit_test(no_memory),
	};
	return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
