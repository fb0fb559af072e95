/*
 * preprocess_run that was stopped, or finds an unfinished run, damaged or another's: it goes on to the same
 * bytes, or says what is wrong.
 */
#include "tests/unit/data/preprocess_oracle.h"

#include "common/log.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <sys/file.h>
#include <time.h>

/* Stops after so many calls. */
struct stopper {
	int calls;
};

static bool count_down(void *user, const struct preprocess_progress *progress)
{
	struct stopper *stopper = user;
	assert_in_range(progress->pass, 1, 2);
	return --stopper->calls > 0;
}

static void goes_on_after_a_stop(void **state)
{
	(void)state;
	uint32_t seed = 77;
	make_inputs(2, 30);
	struct preprocess_config config = basic(in_root("reference"));
	run(&config);
	check_corpus(config.output);
	for (int round = 0; round < 12; round++) {
		struct preprocess_result result = {0};
		enum status status;
		int stops = 0;
		config = basic(in_root("stopped"));
		struct stopper stopper;
		config.progress = count_down;
		config.user = &stopper;
		do {
			/* Other workers, other memory each time. */
			stopper.calls = 2 + (int)below(&seed, 12);
			config.workers = 1 + (int)below(&seed, 4);
			config.memory = (1 + below(&seed, 8)) << 20;
			status = preprocess_run(&config, &result);
			stops += status == STATUS_INTERRUPTED;
			if (status != STATUS_OK && status != STATUS_INTERRUPTED)
				fail_msg("%s", error_message());
			assert_true(stops < 1000);
		} while (status != STATUS_OK);
		assert_true(stops == 0 || result.resumed);
		expect_same(in_root("reference"), config.output);
		must(directory_remove(config.output));
	}
	must(directory_remove(in_root("reference")));
}

static bool until_there(void *user, const struct preprocess_progress *progress)
{
	(void)progress;
	return !file_exists(user);
}

/* Leaves an unfinished run in `config->output`, which was stopped when that unit was done. */
static void leave_unfinished(struct preprocess_config config, const char *unit)
{
	char path[300];
	struct preprocess_result result;
	snprintf(path, sizeof path, "%s/work/%s", config.output, unit);
	config.progress = until_there;
	config.user = path;
	assert_int_equal(preprocess_run(&config, &result), STATUS_INTERRUPTED);
}

static void note_warning(enum log_level level, const char *line, void *user)
{
	(void)level;
	(void)line;
	++*(int *)user;
}

/* A spill file as the disk may leave it: a bit of a segment or of the index flipped, an end of zeros, no end,
 * nothing. */
static void damage(const char *name, int kind)
{
	size_t bytes;
	char *data = get_path(in_root(name), &bytes);
	if (kind < 2)
		data[kind ? bytes - 60 : 100] ^= 1;
	if (kind == 2)
		memset(data + bytes / 2, 0, bytes - bytes / 2);
	put_file(name, data, kind < 3 ? bytes : kind == 3 ? bytes / 2 : 0);
	free(data);
}

/* As soon as it is there. */
static bool damage_own(void *user, const struct preprocess_progress *progress)
{
	bool *done = user;
	(void)progress;
	if (!*done && file_exists(in_root("damaged/work/unit-000000"))) {
		damage("damaged/work/unit-000000", 0);
		*done = true;
	}
	return true;
}

/* Goes on with one warning, to the bytes of a run that met no damage. */
static void expect_repair(const struct preprocess_config *config)
{
	int warnings = 0;
	log_set_sink(note_warning, &warnings);
	run(config);
	log_set_sink(NULL, NULL);
	assert_int_equal(warnings, 1);
	expect_same(in_root("reference"), config->output);
	must(directory_remove(config->output));
}

static void damaged_work_is_noticed(void **state)
{
	(void)state;
	make_inputs(3, 10);
	struct preprocess_config config = basic(in_root("reference"));
	config.workers = 1;
	run(&config);
	config.output = in_root("damaged");
	/* What an earlier run left is verified, and made anew where it is damaged. */
	for (int kind = 0; kind < 5; kind++) {
		leave_unfinished(config, "unit-000000");
		damage("damaged/work/unit-000000", kind);
		expect_repair(&config);
	}
	/* This run's own is noticed when it is read. */
	bool done = false;
	config.progress = damage_own;
	config.user = &done;
	refuse(&config, STATUS_CORRUPT, "unit-000000");
	config.progress = NULL;
	expect_repair(&config);
	must(directory_remove(in_root("reference")));
}

static atomic_int opened; /* units */
static bool met;

/* Who opens a unit first waits until another does. */
static int open_beside_another(const char *path, int flags, mode_t mode)
{
	static const struct timespec moment = {.tv_nsec = 1000000};
	if (strstr(path, "/work/unit-") && atomic_fetch_add(&opened, 1) == 0) {
		for (int i = 0; i < 10000 && atomic_load(&opened) == 1; i++)
			nanosleep(&moment, NULL);
		met = atomic_load(&opened) > 1;
	}
	return file_operations_system.open(path, flags, mode);
}

static void units_are_recalled_by_all_workers(void **state)
{
	(void)state;
	make_inputs(3, 10);
	struct preprocess_config config = basic(in_root("recalled"));
	config.unit_bytes = 4000;
	config.workers = 1;
	leave_unfinished(config, "unit-000001");
	config.workers = 2;
	struct file_operations meeting = unsynced;
	meeting.open = open_beside_another;
	file_system = &meeting;
	assert_true(run(&config).resumed);
	file_system = &unsynced;
	assert_true(met);
	must(directory_remove(config.output));
}

static void other_options_and_inputs_are_refused(void **state)
{
	(void)state;
	make_inputs(4, 10);
	struct preprocess_config config = basic(in_root("reference"));
	run(&config);
	refuse(&config, STATUS_USAGE, "already holds a corpus");
	config.output = in_root("changed");
	leave_unfinished(config, "unit-000000");
	struct preprocess_config other = config;
	other.text_key = "body";
	refuse(&other, STATUS_MISMATCH, "text key is \"text\", not \"body\"");
	other = config;
	other.strict = true;
	refuse(&other, STATUS_MISMATCH, "strict is false, not true");
	other = config;
	other.document_separator = "--";
	refuse(&other, STATUS_MISMATCH, "document separator is null, not \"--\"");
	other = config;
	put_text("in/b2.txt", "a new one");
	refuse(&config, STATUS_MISMATCH, "in/b2.txt was not among its inputs");
	assert_int_equal(file_remove(in_root("in/b2.txt")), STATUS_OK);
	assert_int_equal(rename(in_root("in/a.jsonl"), in_root("a.jsonl")), 0);
	refuse(&config, STATUS_MISMATCH, "in/a.jsonl was among its inputs and is not now");
	assert_int_equal(rename(in_root("a.jsonl"), in_root("in/a.jsonl")), 0);
	FILE *file = fopen(in_root("in/d.jsonl"), "ab");
	assert_int_equal(fputs("\n", file) >= 0 && fclose(file) == 0, 1);
	refuse(&config, STATUS_MISMATCH, "in/d.jsonl has changed");
	/* A blank line more is the same documents: the same bytes, once it may begin anew. */
	config.overwrite = true;
	struct preprocess_result result = run(&config);
	assert_false(result.resumed);
	expect_same(in_root("reference"), config.output);
	/* An old corpus gives way whole: shards that the new one has not, its rejects. */
	put_text("changed/00999.bin", "old");
	put_text("changed/rejects.jsonl", "old");
	run(&config);
	expect_same(in_root("reference"), config.output);
	must(directory_remove(config.output));
	must(directory_remove(in_root("reference")));
}

static void one_run_at_a_time(void **state)
{
	(void)state;
	make_inputs(5, 2);
	struct preprocess_config config = basic(in_root("locked"));
	assert_int_equal(directory_create(config.output), STATUS_OK);
	int fd = open(in_root("locked/.lock"), O_RDWR | O_CREAT, 0666);
	assert_int_equal(flock(fd, LOCK_EX), 0);
	refuse(&config, STATUS_USAGE, "at work on this output");
	close(fd);
	run(&config);
	must(directory_remove(config.output));
}

static void use_as_stdin(const char *path)
{
	int fd = open(path, O_RDONLY);
	assert_true(fd >= 0);
	assert_int_equal(dup2(fd, 0), 0);
	close(fd);
}

static void standard_input(void **state)
{
	(void)state;
	uint32_t seed = 8;
	forget_texts();
	put_jsonl("stream", &seed, 300);
	struct preprocess_config config = basic(in_root("stdin"));
	inputs[0] = "-";
	config.workers = 1;
	use_as_stdin(in_root("stream"));
	/* Once the only unit is there, standard input is not needed. */
	struct stopper stopper = {2};
	int stops = 0;
	struct preprocess_result result;
	config.progress = count_down;
	config.user = &stopper;
	while (preprocess_run(&config, &result) != STATUS_OK) {
		bool first_pass_done = file_exists(in_root("stdin/work/unit-000000"));
		use_as_stdin(first_pass_done ? "/dev/null" : in_root("stream"));
		stopper.calls = 3 + stops++; /* a shard has several ranges, and is begun anew */
		assert_true(stops < 100);
	}
	assert_true(result.resumed);
	check_corpus(config.output);
	use_as_stdin("/dev/null");
	must(directory_remove(config.output));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(goes_on_after_a_stop),
		cmocka_unit_test(damaged_work_is_noticed),
		cmocka_unit_test(units_are_recalled_by_all_workers),
		cmocka_unit_test(other_options_and_inputs_are_refused),
		cmocka_unit_test(one_run_at_a_time),
		cmocka_unit_test(standard_input),
	};
	return cmocka_run_group_tests(tests, begin, end_and_forget);
}
