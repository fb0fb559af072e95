/* Checkpoints that are written while training goes on: the files, the order, and the failures of those that it waits for. */
#include "engine/saver.h"

#include "tests/unit/engine/stream_kernels.h"
#include "tests/unit/engine/trainer_rig.h"

#include <errno.h>
#include <time.h>
#include <unistd.h>

enum { STEPS = 12, HELD_AT = 4, HELD_FOR = 3 };

static struct trainer_config saving_config(bool on_device, bool behind)
{
	struct trainer_config config = base_config();
	config.open_device = on_device ? streamed_open : NULL;
	config.train_iters = STEPS;
	config.save_interval = 2;
	config.eval_interval = 3;
	config.eval_iters = 2;
	config.keep = 2;
	config.save_behind = behind;
	return config;
}

static void assert_same_link(const char *a, const char *b)
{
	char path[2][160], target[2][80] = {"", ""};
	snprintf(path[0], sizeof path[0], "%s/best", a);
	snprintf(path[1], sizeof path[1], "%s/best", b);
	for (int i = 0; i < 2; i++)
		assert_true(readlink(path[i], target[i], sizeof target[i] - 1) > 0);
	assert_string_equal(target[0], target[1]);
}

static void assert_same_runs(const char *a, const char *b)
{
	uint64_t *steps[2];
	size_t count[2];
	assert_ok(checkpoint_list(a, &steps[0], &count[0]));
	assert_ok(checkpoint_list(b, &steps[1], &count[1]));
	assert_int_equal(count[0], count[1]);
	for (size_t i = 0; i < count[0]; i++) {
		char name[CHECKPOINT_NAME], path[2][160];
		assert_int_equal(steps[0][i], steps[1][i]);
		checkpoint_name(steps[0][i], name);
		snprintf(path[0], sizeof path[0], "%s/%s", a, name);
		snprintf(path[1], sizeof path[1], "%s/%s", b, name);
		assert_same_file(path[0], path[1], "model.safetensors");
		assert_same_file(path[0], path[1], "optimizer.safetensors");
		assert_same_file(path[0], path[1], "trainer.json");
		assert_same_file(path[0], path[1], "config.json");
	}
	assert_same_link(a, b);
	free(steps[0]);
	free(steps[1]);
}

/* On the CPU and on a device; kept, deleted, the best, told in order. */
static void the_files_are_the_same(void **state)
{
	(void)state;
	char other[96];
	snprintf(other, sizeof other, "%s-behind", run);
	for (int on_device = 0; on_device < 2; on_device++) {
		struct story plain = {0}, behind = {0};
		struct trainer_config config = saving_config(on_device, false);
		assert_ok(directory_remove(run));
		assert_ok(directory_remove(other));
		go(&plain, &config);
		config = saving_config(on_device, true);
		config.save = other;
		go(&behind, &config);
		assert_same_runs(run, other);
		assert_int_equal(plain.saved_count, behind.saved_count);
		for (int i = 0; i < plain.saved_count; i++)
			assert_string_equal(plain.saved[i], behind.saved[i]);
		trainer_close(plain.trainer);
		trainer_close(behind.trainer);
	}
	assert_ok(directory_remove(other));
}

/* ---- a disk that waits for the training ---- */

static struct file_operations slow;
static struct {
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	uint64_t step, told; /* done; checkpoints */
	bool gave_up;
} pace = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0, false};

static enum status count_step(void *user, const struct trainer_step *step)
{
	(void)user;
	pthread_mutex_lock(&pace.mutex);
	pace.step = step->step;
	pthread_cond_broadcast(&pace.changed);
	pthread_mutex_unlock(&pace.mutex);
	return STATUS_OK;
}

static enum status note_saved(void *user, const struct trainer_saved *saved)
{
	struct trainer_saved *first = user;
	if (!first->step)
		*first = *saved;
	pthread_mutex_lock(&pace.mutex);
	pace.told++;
	pthread_mutex_unlock(&pace.mutex);
	return STATUS_OK;
}

/* With the lock held: the step that a checkpoint waits for on its way to the disk, so many behind its own. */
static uint64_t wanted_step(void)
{
	uint64_t step = HELD_AT * (pace.told + 1) + HELD_FOR;
	return step < STEPS ? step : STEPS;
}

static int sync_later(int fd)
{
	struct timespec limit;
	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += 30;
	pthread_mutex_lock(&pace.mutex);
	while (pace.step < wanted_step() && !pace.gave_up)
		pace.gave_up = pthread_cond_timedwait(&pace.changed, &pace.mutex, &limit) != 0;
	pthread_mutex_unlock(&pace.mutex);
	return file_operations_system.fsync(fd);
}

static void training_goes_on_meanwhile(void **state)
{
	(void)state;
	char other[96];
	struct story plain = {0};
	struct trainer_saved first = {0};
	struct trainer *trainer;
	struct trainer_events events = {.user = &first, .step = count_step, .saved = note_saved};
	snprintf(other, sizeof other, "%s-slow", run);
	assert_ok(directory_remove(other));
	struct trainer_config config = saving_config(true, false);
	config.eval_interval = 0;
	config.save_interval = HELD_AT;
	go(&plain, &config);
	trainer_close(plain.trainer);
	config.save = other;
	config.save_behind = true;
	slow = file_operations_system;
	slow.fsync = sync_later;
	assert_ok(trainer_open(&config, &events, NULL, false, &trainer));
	file_system = &slow;
	enum status status = trainer_run(trainer);
	trainer_close(trainer);
	file_system = &file_operations_system;
	assert_ok(status);
	assert_false(pace.gave_up);
	assert_int_equal(first.step, HELD_AT);
	assert_true(first.waited < first.seconds);
	char name[CHECKPOINT_NAME], path[2][160];
	checkpoint_name(HELD_AT * 2, name);
	snprintf(path[0], sizeof path[0], "%s/%s", run, name);
	snprintf(path[1], sizeof path[1], "%s/%s", other, name);
	assert_same_file(path[0], path[1], "model.safetensors");
	assert_same_file(path[0], path[1], "optimizer.safetensors");
	assert_ok(directory_remove(other));
}

/* ---- a disk that fails ---- */

static int failing_after;

static int sync_fails(int fd)
{
	if (--failing_after > 0)
		return file_operations_system.fsync(fd);
	errno = ENOSPC;
	return -1;
}

/* What was there stays, and the run ends with what the thread failed with, wherever that was. */
static void a_failure_ends_the_run(void **state)
{
	(void)state;
	int failures = 0;
	for (int after = 1; after < 40; after += 3) {
		struct story story = {0};
		struct trainer_config config = saving_config(true, true);
		uint64_t *steps;
		size_t count;
		config.eval_interval = 0;
		assert_ok(directory_remove(run));
		assert_ok(open_story(&story, &config, NULL, false));
		slow = file_operations_system;
		slow.fsync = sync_fails;
		failing_after = after;
		file_system = &slow;
		enum status status = trainer_run(story.trainer);
		trainer_close(story.trainer);
		file_system = &file_operations_system;
		assert_int_equal(status, failing_after > 0 ? STATUS_OK : STATUS_IO);
		failures += status != STATUS_OK;
		assert_ok(checkpoint_list(run, &steps, &count));
		assert_true(
			count >= (size_t)(story.saved_count < config.keep ? story.saved_count : config.keep));
		for (size_t i = 0; i < count; i++) {
			char name[CHECKPOINT_NAME], path[160];
			struct checkpoint *whole;
			checkpoint_name(steps[i], name);
			snprintf(path, sizeof path, "%s/%s", run, name);
			assert_ok(checkpoint_open(path, &whole));
			checkpoint_close(whole);
		}
		free(steps);
	}
	assert_true(failures > 5);
}

/* ---- closing in the middle ---- */

/* A state of zeros at step 5, begun to be written. */
struct begun {
	struct parameter_table table;
	struct trainer_config config;
	float *values; /* [3 * table.elements] */
	struct checkpoint_state now;
	struct checkpoint_contents contents;
	struct saver *saver;
};

static void begin(struct begun *b)
{
	struct saver_config saving = {.run = run, .keep = 2, .behind = true};
	*b = (struct begun){.config = base_config()};
	assert_ok(parameter_table_open(&b->config.model, &b->table));
	b->values = calloc(3 * b->table.elements, 4);
	b->now = (struct checkpoint_state){
		.step = 5, .updates = 5, .source_count = 1, .loss_scale = loss_scale_static(1)};
	snprintf(b->now.split, sizeof b->now.split, "80,15,5");
	snprintf(b->now.precision, sizeof b->now.precision, "fp32");
	b->now.schedule = b->config.schedule;
	b->now.window_tokens = T;
	b->now.choices = cJSON_CreateArray();
	b->contents = (struct checkpoint_contents){.config = &b->config.model,
		.table = &b->table,
		.weights = b->values,
		.exp_avg = b->values + b->table.elements,
		.exp_avg_sq = b->values + 2 * b->table.elements,
		.state = &b->now};
	assert_int_equal(saver_bytes(&b->table, true), 12 * b->table.elements);
	assert_int_equal(saver_bytes(&b->table, false), 0);
	assert_ok(saver_open(&saving, &b->table, &b->saver));
	assert_false(saver_is_done(b->saver));
	assert_ok(saver_begin(b->saver, &b->contents, true));
}

static void end(struct begun *b)
{
	cJSON_Delete(b->now.choices);
	free(b->values);
	parameter_table_close(&b->table);
}

/* The checkpoint that was begun gets to the disk. */
static void closing_waits(void **state)
{
	(void)state;
	struct begun b;
	struct checkpoint *whole;
	begin(&b);
	for (uint64_t i = 0; i < 3 * b.table.elements; i++)
		b.values[i] = NAN; /* the caller's again */
	cJSON_Delete(b.now.choices);
	b.now.choices = NULL;
	saver_close(b.saver);
	assert_ok(checkpoint_open(run, &whole));
	assert_int_equal(checkpoint_get_state(whole)->step, 5);
	assert_ok(checkpoint_read_weights(whole, &b.table, NULL, b.values));
	for (uint64_t i = 0; i < b.table.elements; i++)
		assert_true(b.values[i] == 0);
	checkpoint_close(whole);
	end(&b);
	assert_string_equal(notices, "");
}

/* A run that ends with a failure of its own still tells of that; that a checkpoint failed, too, is a warning. */
static void closing_leaves_the_message(void **state)
{
	(void)state;
	struct begun b;
	slow = file_operations_system;
	slow.fsync = sync_fails;
	failing_after = 1;
	file_system = &slow;
	notices[0] = 0;
	begin(&b);
	enum status status = error_set(STATUS_UNSUPPORTED, "the step failed");
	saver_close(b.saver);
	file_system = &file_operations_system;
	assert_int_equal(status, STATUS_UNSUPPORTED);
	assert_string_equal(error_message(), "the step failed");
	assert_non_null(strstr(notices, "the last checkpoint was not written: "));
	assert_non_null(strstr(notices, "No space left on device"));
	end(&b);
	notices[0] = 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test_setup(the_files_are_the_same, setup),
		cmocka_unit_test_setup(training_goes_on_meanwhile, setup),
		cmocka_unit_test_setup(a_failure_ends_the_run, setup),
		cmocka_unit_test_setup(closing_waits, setup),
		cmocka_unit_test_setup(closing_leaves_the_message, setup)};
	return cmocka_run_group_tests(tests, open_all, close_all);
}
