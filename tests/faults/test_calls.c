/*
 * Every system call of every command fails once (a full disk, a bad disk), or all from one on do. The command
 * ends in an error that says which file and why; nothing that was there is lost; the same command then ends
 * in the right bytes. Calls that are interrupted, or move fewer bytes than asked for, change nothing at all.
 */
#include "tests/faults/scenes.h"
#include "tests/unit/faulty_files.h"

static enum status run_with(const struct scene *scene, long fail_at, int error, bool dead)
{
	faulty_files_install();
	faults.fail_at = fail_at;
	faults.error = error;
	faults.dead = dead;
	enum status status = scene->command();
	faulty_files_remove();
	return status;
}

static void put_back(void)
{
	scene_copy(scene_path("old"), scene_path("out"));
}

/* What must hold after the command ended in `status`, as a call failed. */
static const char *examine(const struct scene *scene, enum status status, char call, int error)
{
	if (status == STATUS_OK) {
		const char *complaint = scene_compare(scene_path("out"), scene_path("new"), false);
		if (complaint)
			return complaint;
	} else {
		if (!strstr(error_message(), strerror(error)))
			return complain("\"%s\" does not say why", error_message());
		if (!strstr(error_message(), scenes.root))
			return complain("\"%s\" does not say where", error_message());
		/* Where the disk is full, all that was there is there still. */
		const char *lost = strchr("wP", call)
					   ? scene_compare(scene_path("out"), scene_path("old"), false)
					   : NULL;
		if (lost)
			return lost;
	}
	const char *complaint = scene->check(status == STATUS_OK);
	return complaint ? complaint : scene_finish(scene);
}

static void each_call_fails(void **state)
{
	const struct scene *scene = *state;
	static const int errors[] = {ENOSPC, EIO, EDQUOT};
	scene_begin(scene);
	assert_ok(run_with(scene, -1, 0, false));
	long calls = faults.calls, failed = 0, tried = 0;
	for (long n = 0; n < calls; n += faults_long() ? 1 : 1 + calls / 12) {
		for (int dead = 0; dead <= 1; dead++) {
			int error = errors[(n + dead) % 3];
			put_back();
			enum status status = run_with(scene, n, error, dead);
			char call = n < (long)faults.logged ? faults.log[n] : '?';
			const char *complaint = examine(scene, status, call, error);
			if (complaint)
				fail_msg("call %ld (%c) of %ld%s: %s", n, call, calls,
					dead ? " and all after it" : "", complaint);
			failed += status != STATUS_OK;
			tried++;
		}
	}
	printf("# %s: %ld calls, %ld failures tried, %ld errors\n", scene->name, calls, tried, failed);
	assert_true(failed > 0);
}

static void interrupted_and_short_calls_change_nothing(void **state)
{
	const struct scene *scene = *state;
	static const size_t shorts[] = {0, 1, 7, 600};
	scene_begin(scene);
	for (int i = 0; i < 4; i++) {
		put_back();
		faulty_files_install();
		faults.interrupt = true;
		faults.short_bytes = shorts[i];
		enum status status = scene->command();
		faulty_files_remove();
		assert_ok(status);
		const char *complaint = scene_compare(scene_path("out"), scene_path("new"), true);
		if (complaint)
			fail_msg("%zu bytes at a time: %s", shorts[i], complaint);
	}
}

int main(void)
{
	struct CMUnitTest tests[2 * SCENES];
	static char names[SCENES][2][128];
	for (size_t i = 0; i < SCENES; i++) {
		void *scene = (void *)(uintptr_t)&scene_list[i];
		snprintf(names[i][0], 128, "each call fails: %s", scene_list[i].name);
		snprintf(names[i][1], 128, "interrupted and short calls: %s", scene_list[i].name);
		tests[2 * i] = (struct CMUnitTest){names[i][0], each_call_fails, NULL, NULL, scene};
		tests[2 * i + 1] = (struct CMUnitTest){
			names[i][1], interrupted_and_short_calls_change_nothing, NULL, NULL, scene};
	}
	return scenes_run("calls", tests, 2 * SCENES);
}
