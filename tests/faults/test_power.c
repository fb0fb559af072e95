/*
 * Power failures: every command that leaves something behind, recorded, and the disk as it may be found
 * (tests/faults/crash_disk.h) after each of its operations. What was there must open as what it was or as
 * what it was to become, whole; the same command must then end in the right bytes and leave nothing else.
 *
 * First the model itself: writers that forget something must be found guilty, and each fsync that ferry does
 * is forgotten in turn.
 */
#include "tests/faults/crash_disk.h"
#include "tests/faults/scenes.h"

/* ---- writers that forget something ---- */

static const char *const contents[2] = {"the old contents of a file", "and the new ones, which are longer"};

static void careless_write(const char *path, int flags, const char *text, bool sync)
{
	int fd = file_system->open(path, O_WRONLY | O_CREAT | flags, 0666);
	assert_true(fd >= 0);
	assert_int_equal(file_system->write(fd, text, strlen(text)), strlen(text));
	if (sync)
		assert_int_equal(file_system->fsync(fd), 0);
	assert_int_equal(file_system->close(fd), 0);
}

static enum status publish_well(void)
{
	return file_publish(scene_path("out/a"), contents[1], strlen(contents[1]));
}

static enum status write_in_place(void)
{
	careless_write(scene_path("out/a"), O_TRUNC, contents[1], true);
	return directory_sync(scene_path("out"));
}

static enum status forget_to_sync_the_file(void)
{
	careless_write(scene_path("out/a.tmp-1"), 0, contents[1], false);
	return file_rename(scene_path("out/a.tmp-1"), scene_path("out/a"));
}

static enum status sync_the_file_too_late(void)
{
	careless_write(scene_path("out/a.tmp-1"), 0, contents[1], false);
	TRY(file_rename(scene_path("out/a.tmp-1"), scene_path("out/a")));
	int fd = file_system->open(scene_path("out/a"), O_RDONLY, 0);
	assert_int_equal(file_system->fsync(fd), 0);
	assert_int_equal(file_system->close(fd), 0);
	return STATUS_OK;
}

static enum status forget_to_sync_the_folder(void)
{
	careless_write(scene_path("out/a.tmp-1"), 0, contents[1], true);
	assert_int_equal(file_system->rename(scene_path("out/a.tmp-1"), scene_path("out/a")), 0);
	return STATUS_OK;
}

static enum status remove_before_renaming(void)
{
	careless_write(scene_path("out/a.tmp-1"), 0, contents[1], true);
	TRY(file_remove(scene_path("out/a")));
	return file_rename(scene_path("out/a.tmp-1"), scene_path("out/a"));
}

static bool is_text(const char *name, const char *text)
{
	char *data;
	size_t bytes;
	if (file_read_all(scene_path(name), 1000, &data, &bytes) != STATUS_OK)
		return false;
	bool same = bytes == strlen(text) && memcmp(data, text, bytes) == 0;
	free(data);
	return same;
}

/* `user`: set when a state is found that must not be. */
static bool look_at_file(void *user, bool done)
{
	if (!is_text("out/a", contents[1]) && (done || !is_text("out/a", contents[0])))
		*(bool *)user = true;
	return !*(bool *)user;
}

/* A manifest b says that a is new. */
static enum status manifest_last(void)
{
	TRY(publish_well());
	return file_publish(scene_path("out/b"), "a is new", 8);
}

static enum status manifest_first(void)
{
	TRY(file_publish(scene_path("out/b"), "a is new", 8));
	return publish_well();
}

static enum status manifest_with_one_sync(void)
{
	careless_write(scene_path("out/a.tmp-1"), 0, contents[1], true);
	assert_int_equal(file_system->rename(scene_path("out/a.tmp-1"), scene_path("out/a")), 0);
	return file_publish(scene_path("out/b"), "a is new", 8);
}

static bool look_at_manifest(void *user, bool done)
{
	if (file_exists(scene_path("out/b")) ? !is_text("out/a", contents[1]) : done)
		*(bool *)user = true;
	return !*(bool *)user;
}

static bool is_guilty(enum status (*command)(void), crash_visitor *look)
{
	bool guilty = false;
	assert_ok(directory_remove(scene_path("out")));
	assert_ok(directory_create(scene_path("out")));
	assert_ok(file_publish(scene_path("out/a"), contents[0], strlen(contents[0])));
	crash_record(scene_path("out"));
	assert_ok(command());
	crash_done();
	crash_stop();
	struct crash_seen seen = {0};
	crash_visit(1, 200, -1, &seen, look, &guilty);
	free(seen.slots);
	crash_forget();
	return guilty;
}

static void careless_writers_are_found(void **state)
{
	(void)state;
	assert_false(is_guilty(publish_well, look_at_file));
	assert_true(is_guilty(write_in_place, look_at_file));
	assert_true(is_guilty(forget_to_sync_the_file, look_at_file));
	assert_true(is_guilty(sync_the_file_too_late, look_at_file));
	assert_true(is_guilty(forget_to_sync_the_folder, look_at_file));
	assert_true(is_guilty(remove_before_renaming, look_at_file));
	assert_false(is_guilty(manifest_last, look_at_manifest));
	assert_true(is_guilty(manifest_first, look_at_manifest));
	assert_true(is_guilty(manifest_with_one_sync, look_at_manifest));
}

/* ---- ferry's ---- */

struct visit {
	const struct scene *scene;
	const char *complaint;
};

static bool look(void *user, bool done)
{
	struct visit *visit = user;
	visit->complaint = visit->scene->check(done);
	if (!visit->complaint)
		visit->complaint = scene_finish(visit->scene);
	return !visit->complaint;
}

static void record(const struct scene *scene)
{
	scene_begin(scene);
	crash_record(scene_path("out"));
	enum status status = scene->command();
	crash_done();
	crash_stop();
	assert_ok(status);
	const char *complaint = scene_compare(scene_path("out"), scene_path("new"), true);
	if (complaint)
		fail_msg("recorded: %s", complaint);
}

/* Each fsync forgotten in turn: the states then show it, unless others make up for it. */
static void forget_each_fsync(const struct scene *scene, int random, struct crash_seen *seen)
{
	int found = 0, syncs = 0;
	const struct crash_operation *sync;
	for (; (sync = crash_sync(syncs)); syncs++) {
		struct visit visit = {.scene = scene};
		if (!crash_visit(1, random, syncs, seen, look, &visit))
			found++;
		else
			printf("# %s: made up for: fsync %d, of %.*s\n", scene->name, syncs,
				sync->name[0] ? (int)strcspn(sync->name, "-") : 10,
				sync->name[0] ? sync->name : "the folder");
	}
	printf("# %s: %d of %d forgotten fsyncs found\n", scene->name, found, syncs);
	assert_true(found > 0);
}

static void a_power_failure_leaves_old_or_new(void **state)
{
	const struct scene *scene = *state;
	struct visit visit = {.scene = scene};
	struct crash_seen seen = {0};
	record(scene);
	/* A step for every operation when there is time, else some. */
	int stride = faults_long() ? 1 : 1 + crash.count / 20, random = faults_long() ? 60 : 4;
	bool good = crash_visit(stride, random, -1, &seen, look, &visit);
	size_t states = seen.count;
	printf("# %s: %d operations, %zu states\n", scene->name, crash.count, states);
	if (good && faults_long())
		forget_each_fsync(scene, random, &seen);
	free(seen.slots);
	crash_forget();
	if (!good)
		fail_msg("after %zu good states: %s", states, visit.complaint);
	assert_true(states >= 5);
}

int main(void)
{
	struct CMUnitTest tests[1 + WRITING_SCENES] = {cmocka_unit_test(careless_writers_are_found)};
	static char names[WRITING_SCENES][128];
	for (size_t i = 0; i < WRITING_SCENES; i++) {
		snprintf(names[i], sizeof names[i], "power fails: %s", scene_list[i].name);
		tests[1 + i] = (struct CMUnitTest){names[i], a_power_failure_leaves_old_or_new, NULL, NULL,
			(void *)(uintptr_t)&scene_list[i]};
	}
	return scenes_run("power", tests, 1 + WRITING_SCENES);
}
