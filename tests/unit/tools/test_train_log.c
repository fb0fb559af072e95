/* The run's files of log and metrics: what they have after writes that failed, and what is told. */
#include "tools/train_log.h"

#include "tests/unit/faulty_files.h"
#include "tests/unit/scratch_folder.h"

#include <cjson/cJSON.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>

enum { STEPS = 6 };

/* What the log says on standard output, between hear and heard. */
static int spoken = -1;
static void hear(void)
{
	fflush(stdout);
	spoken = dup(1);
	int fd = open(in_root("spoken"), O_WRONLY | O_CREAT | O_TRUNC, 0666);
	dup2(fd, 1);
	close(fd);
}

static char *read_file(const char *name)
{
	char *text;
	size_t bytes;
	must(file_read_all(in_root(name), 1 << 20, &text, &bytes));
	return text;
}

static char *heard(void)
{
	fflush(stdout);
	dup2(spoken, 1);
	close(spoken);
	return read_file("spoken");
}

static int fresh(void **state)
{
	(void)state;
	remove(in_root("log.txt"));
	remove(in_root("metrics.jsonl"));
	return 0;
}

static struct train_log *open_log(uint64_t resumed, uint64_t interval)
{
	struct train_log *log;
	struct train_log_config config = {
		.run = root, .resumed_step = resumed, .train_iters = 100, .log_interval = interval};
	must(train_log_open(&config, &log));
	must(train_log_start(log));
	return log;
}

static void take_step(struct train_log *log, uint64_t step)
{
	static const double epochs[] = {0.5};
	struct trainer_events events = train_log_events(log);
	struct trainer_step s = {
		.step = step, .loss = 2.5, .seconds = 1, .counted = 10, .epochs = epochs, .sources = 1};
	must(events.step(events.user, &s));
}

/* Every line is an object and ends; how many, and the steps' sum. */
static int count_steps(const char *text, uint64_t *sum)
{
	int count = 0;
	*sum = 0;
	for (const char *end; *text; text = end + 1, count++) {
		end = strchr(text, '\n');
		assert_non_null(end);
		char line[2000];
		assert_true(end - text < (long)sizeof line);
		memcpy(line, text, (size_t)(end - text));
		line[end - text] = 0;
		cJSON *object = cJSON_Parse(line);
		if (!object)
			fail_msg("not JSON: %s", line);
		*sum += (uint64_t)cJSON_GetObjectItem(object, "step")->valuedouble;
		cJSON_Delete(object);
	}
	return count;
}

static int occurrences(const char *text, const char *words)
{
	int count = 0;
	for (const char *at = text; (at = strstr(at, words)); at += strlen(words))
		count++;
	return count;
}

static void runs_go_on(void **state)
{
	(void)state;
	hear();
	struct train_log *log = open_log(0, 1);
	for (uint64_t step = 1; step <= STEPS; step++)
		take_step(log, step);
	train_log_close(log);
	log = open_log(4, 1); /* 5 and 6 are dropped, and a torn line */
	take_step(log, 5);
	train_log_close(log);
	char *text = heard(), *kept = read_file("log.txt"), *metrics = read_file("metrics.jsonl");
	uint64_t sum;
	assert_string_equal(text, kept);
	assert_int_equal(count_steps(metrics, &sum), 5);
	assert_int_equal(sum, 1 + 2 + 3 + 4 + 5);
	assert_int_equal(occurrences(text, "optimizer_gradients"), STEPS + 1);
	assert_int_equal(occurrences(text, "WARNING"), 0);
	free(text);
	free(kept);
	free(metrics);
}

/* A new log of STEPS steps, whose n-th write fails for want of space, or that and all that follow, once it has written
 * so many of its bytes. The log is still open, and can be written again. */
static struct train_log *log_through_failure(void **state, int n, bool dead, size_t short_bytes)
{
	fresh(state);
	hear();
	struct train_log *log = open_log(0, 1);
	faulty_files_install();
	faults.fail_at = n;
	faults.error = ENOSPC;
	faults.dead = dead;
	faults.short_bytes = short_bytes;
	for (uint64_t step = 1; step <= STEPS; step++)
		take_step(log, step);
	faulty_files_remove();
	return log;
}

/*
 * One write fails, the n-th, after some of its bytes or none: its line is lost, all others are there, whole;
 * it is told when it begins and when it is over.
 */
static void a_failing_write_loses_a_line(void **state)
{
	enum { LINES = 4 * STEPS }; /* three of log.txt a step, one of metrics.jsonl */
	for (int piece = 0; piece < 2; piece++)
		for (int n = 0;; n++) {
			uint64_t sum;
			struct train_log *log = log_through_failure(state, n, false, piece ? 7 : 0);
			bool happened = faults.calls > n;
			train_log_close(log);
			char *text = heard(), *kept = read_file("log.txt"),
			     *metrics = read_file("metrics.jsonl");
			int steps = count_steps(metrics, &sum);
			int lines = occurrences(kept, "optimizer_step") + occurrences(kept, "lm loss") +
				    occurrences(kept, "forward: ") + steps;
			assert_int_equal(lines, happened ? LINES - 1 : LINES);
			assert_int_equal(occurrences(text, "No space left"), happened);
			assert_int_equal(occurrences(text, "the run goes on"), happened);
			for (const char *at = kept; *at; at = strchr(at, '\n') + 1)
				assert_true(strncmp(at, "rank=0", 6) == 0 ||
					    strncmp(at, " iteration ", 11) == 0 ||
					    strncmp(at, "time (ms)", 9) == 0 ||
					    strncmp(at, "WARNING: ", 9) == 0);
			free(text);
			free(kept);
			free(metrics);
			if (!happened)
				break;
		}
}

/* From the n-th call on nothing can be written, nor cut: the run goes on, and that is told once a file. When it can
 * again, that is told too, and the files have whole lines. */
static void a_full_disk_is_told_once(void **state)
{
	for (int n = 0; n < 4 * STEPS; n += 3) {
		uint64_t sum;
		struct train_log *log = log_through_failure(state, n, true, 30); /* what was begun is torn */
		take_step(log, STEPS + 1);
		take_step(log, STEPS + 2);
		train_log_close(log);
		char *text = heard(), *kept = read_file("log.txt"), *metrics = read_file("metrics.jsonl");
		assert_int_equal(occurrences(text, "No space left"), 2);
		assert_int_equal(occurrences(text, "can be written again"), 2);
		assert_int_equal(occurrences(kept, "metrics.jsonl: can be written again"), 1);
		int steps = count_steps(metrics, &sum);
		assert_true(steps >= 2 && steps < STEPS + 2);
		free(text);
		free(kept);
		free(metrics);
	}
}

/* A file that may not grow any more takes the beginning of a line, which is cut off at once. */
static void what_is_begun_is_cut_off(void **state)
{
	(void)state;
	struct rlimit before, small;
	uint64_t sum;
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
	small = before;
	small.rlim_cur = 2000;
	signal(SIGXFSZ, SIG_IGN);
	hear();
	struct train_log *log = open_log(0, STEPS + 1); /* nothing else grows */
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	for (uint64_t step = 1; step <= STEPS; step++)
		take_step(log, step);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
	train_log_close(log);
	char *text = heard(), *metrics = read_file("metrics.jsonl");
	assert_in_range(count_steps(metrics, &sum), 1, STEPS - 1);
	assert_int_equal(occurrences(text, "metrics.jsonl: write failed: File too large"), 1);
	free(text);
	free(metrics);
}

/* A file that cannot even be opened is an error, before anything is lost. */
static void opening_fails(void **state)
{
	(void)state;
	struct train_log *log;
	struct train_log_config config = {.run = in_root("nowhere"), .train_iters = 1, .log_interval = 1};
	expect_refusal(train_log_open(&config, &log), STATUS_IO, "log.txt: cannot open");
	assert_null(log);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(runs_go_on, fresh),
		cmocka_unit_test_setup(a_failing_write_loses_a_line, fresh),
		cmocka_unit_test_setup(a_full_disk_is_told_once, fresh),
		cmocka_unit_test_setup(what_is_begun_is_cut_off, fresh),
		cmocka_unit_test_setup(opening_fails, fresh),
	};
	return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
