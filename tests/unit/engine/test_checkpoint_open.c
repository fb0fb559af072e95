/* Which checkpoint of a run is opened, by one process and by ranks: what is damaged is passed over, what cannot be read is
 * not. */
#include "tests/unit/engine/checkpoint_rig.h"
#include "tests/unit/engine/thread_ranks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/stat.h>

/* ---- what cannot be read now may be whole ---- */

static struct {
	const char *path; /* its end; NULL: nothing is refused */
	int error;
	atomic_size_t bytes; /* that were read */
} disk;

static bool ends_like(const char *path, const char *end)
{
	size_t length = strlen(path), tail = strlen(end);
	return length >= tail && strcmp(path + length - tail, end) == 0;
}

static int open_or_refuse(const char *path, int flags, mode_t mode)
{
	if (!disk.path || !ends_like(path, disk.path))
		return file_operations_system.open(path, flags, mode);
	errno = disk.error;
	return -1;
}

static ssize_t read_counting(int fd, void *buffer, size_t bytes)
{
	ssize_t n = read(fd, buffer, bytes);
	disk.bytes += n > 0 ? (size_t)n : 0;
	return n;
}

static ssize_t pread_counting(int fd, void *buffer, size_t bytes, off_t offset)
{
	ssize_t n = pread(fd, buffer, bytes, offset);
	disk.bytes += n > 0 ? (size_t)n : 0;
	return n;
}

static const struct file_operations *watched_disk(void)
{
	static struct file_operations watched;
	watched = file_operations_system;
	watched.open = open_or_refuse;
	watched.read = read_counting;
	watched.pread = pread_counting;
	disk.path = NULL;
	disk.bytes = 0;
	return &watched;
}

static void assert_told_and_kept(const char *file, const char *why)
{
	struct checkpoint *c;
	warnings = 0;
	assert_int_equal(checkpoint_open(run, &c), STATUS_IO);
	assert_null(c);
	assert_int_equal(warnings, 0);
	if (!strstr(error_message(), file) || !strstr(error_message(), why) ||
		!strstr(error_message(), "step-00000020 may be whole"))
		fail_msg("%s, %s: %s", file, why, error_message());
}

static void what_cannot_be_read_is_not_taken_for_damaged(void **state)
{
	(void)state;
	static const char *const files[] = {"step-00000020/config.json", "step-00000020/model.safetensors",
		"step-00000020/optimizer.safetensors", "step-00000020/trainer.json",
		"step-00000020/vocab.json"};
	static const int errors[] = {EIO, EMFILE, ENOMEM, EACCES};
	struct checkpoint *c;
	write_step(10);
	write_step(20);
	file_system = watched_disk();
	for (size_t f = 0; f < sizeof files / sizeof *files; f++)
		for (size_t e = 0; e < sizeof errors / sizeof *errors; e++) {
			disk.path = files[f];
			disk.error = errors[e];
			assert_told_and_kept(files[f], strerror(errors[e]));
		}
	file_system = &file_operations_system;
	/* nor what cannot even be looked at */
	for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
		char aside[128];
		snprintf(aside, sizeof aside, "%s/aside", run);
		assert_ok(file_rename(path_of(files[f]), aside));
		assert_int_equal(symlink(strrchr(files[f], '/') + 1, path_of(files[f])), 0);
		assert_told_and_kept(files[f], strerror(ELOOP));
		assert_ok(file_rename(aside, path_of(files[f])));
	}
	assert_ok(checkpoint_open(run, &c));
	assert_int_equal(checkpoint_get_state(c)->step, 20);
	checkpoint_close(c);
	/* what is gone is damage; who has named it is told what else to do */
	assert_ok(file_remove(path_of(files[4])));
	assert_int_equal(checkpoint_open(path_of("step-00000020"), &c), STATUS_CORRUPT);
	assert_non_null(strstr(error_message(), "vocab.json: is missing"));
	assert_non_null(strstr(error_message(), "restore it from a copy, or give another --load"));
}

static void a_newer_ferrys_is_not_taken_for_damaged(void **state)
{
	(void)state;
	struct checkpoint *c;
	char *text;
	size_t bytes;
	write_step(10);
	write_step(20);
	assert_ok(file_read_all(path_of("step-00000020/trainer.json"), 1 << 20, &text, &bytes));
	char *version = strpbrk(strstr(text, "\"version\""), "0123456789");
	*version = '7';
	assert_ok(file_publish(path_of("step-00000020/trainer.json"), text, bytes));
	free(text);
	assert_int_equal(checkpoint_open(run, &c), STATUS_UNSUPPORTED);
	assert_non_null(strstr(error_message(), "use a newer ferry"));
}

/* ---- ranks ---- */

struct opened {
	enum status status;
	bool agreed;
	char message[2048];
	uint64_t step;
};

static enum status open_in_crowd(void *user, struct collective *c)
{
	struct opened *o = (struct opened *)user + c->rank;
	struct checkpoint *checkpoint;
	o->status = checkpoint_open_together(c->rank == 0 ? run : "another's", false, c, &checkpoint);
	o->agreed = c->agreed;
	snprintf(o->message, sizeof o->message, "%s", o->status ? error_message() : "");
	o->step = o->status ? 0 : checkpoint_get_state(checkpoint)->step;
	checkpoint_close(checkpoint);
	return STATUS_OK;
}

static void assert_opened(int ranks, enum status status, uint64_t step)
{
	struct opened all[CROWD];
	assert_ok(crowd_run(ranks, open_in_crowd, all));
	for (int r = 0; r < ranks; r++) {
		if (all[r].status != status || all[r].step != step)
			fail_msg("rank %d of %d: step %d, %s", r, ranks, (int)all[r].step, all[r].message);
		assert_string_equal(all[r].message, all[0].message);
		/* a failure that is past must not be waited for at the next one */
		assert_int_equal(all[r].agreed, ranks > 1 && status != STATUS_OK);
	}
	snprintf(last_warning, sizeof last_warning, "%s", all[0].message);
}

static size_t bytes_of(const char *step)
{
	static const char *const files[] = {"config.json", "model.safetensors", "optimizer.safetensors",
		"trainer.json", "vocab.json", "merges.txt"};
	char name[64];
	struct stat info;
	size_t sum = 0;
	for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
		snprintf(name, sizeof name, "%s/%s", step, files[f]);
		assert_ok(file_stat(path_of(name), &info));
		sum += (size_t)info.st_size;
	}
	return sum;
}

static void ranks_verify_each_file_once_between_them(void **state)
{
	(void)state;
	write_step(10);
	write_step(20);
	size_t all = bytes_of("step-00000020");
	/* besides: trainer.json, config.json and the headers of the tensors, which each rank reads */
	for (int ranks = 1; ranks <= CROWD; ranks++) {
		file_system = watched_disk();
		assert_opened(ranks, STATUS_OK, 20);
		assert_in_range(disk.bytes, all, all + (size_t)ranks * 12000);
		file_system = &file_operations_system;
	}
	assert_true(all > 100000);
}

static void ranks_are_of_one_mind_about_damage(void **state)
{
	(void)state;
	static const char *const files[] = {
		"config.json", "model.safetensors", "optimizer.safetensors", "trainer.json", "vocab.json"};
	for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
		write_step(10);
		write_step(20);
		char refused[64];
		snprintf(refused, sizeof refused, "step-00000020/%s", files[f]);
		file_system = watched_disk();
		disk.path = refused;
		disk.error = EIO;
		assert_opened(3, STATUS_IO, 0);
		assert_non_null(strstr(last_warning, refused));
		file_system = &file_operations_system;
		assert_opened(3, STATUS_OK, 20);
		assert_ok(file_remove(path_of(refused)));
		assert_opened(3, STATUS_OK, 10);
		assert_ok(file_publish(path_of("step-00000010/config.json"), "{}", 2));
		assert_opened(3, STATUS_CORRUPT, 0);
	}
}

/* ---- ranks of hosts that do not have the same files ---- */

static _Thread_local bool on_another_host;
static bool copied; /* there: step 20, as another directory */

/* The C library's, for all of this program. */
int stat(const char *path, struct stat *out)
{
	if (on_another_host && !copied && strstr(path, "/step-00000020")) {
		errno = ENOENT;
		return -1;
	}
	int result = fstatat(AT_FDCWD, path, out, 0);
	if (result == 0)
		out->st_ino ^= on_another_host;
	return result;
}

/* Ranks 0 and 3 on one host, 1 and 2 on the other. */
static enum status open_on_hosts(void *user, struct collective *c)
{
	on_another_host = c->rank == 1 || c->rank == 2;
	return open_in_crowd(user, c);
}

static void another_hosts_copy_is_not_damage(void **state)
{
	(void)state;
	struct opened all[CROWD];
	write_step(10);
	write_step(20);
	copied = false;
	assert_ok(crowd_run(4, open_on_hosts, all));
	for (int r = 0; r < 4; r++) {
		assert_int_equal(all[r].status, STATUS_MISMATCH);
		assert_true(all[r].agreed);
		if (!strstr(all[r].message, "rank 1: ") || !strstr(all[r].message, "copy rank 0's"))
			fail_msg("%s", all[r].message);
	}
	copied = true;
	assert_ok(crowd_run(4, open_on_hosts, all));
	assert_int_equal(all[1].step, 20);
	/* of rank 0's directory it is, whoever verified the file there and here */
	static const char *const files[] = {
		"config.json", "model.safetensors", "optimizer.safetensors", "trainer.json", "vocab.json"};
	for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
		char damaged[64];
		snprintf(damaged, sizeof damaged, "step-00000020/%s", files[f]);
		write_step(20);
		assert_ok(file_remove(path_of(damaged)));
		assert_ok(crowd_run(4, open_on_hosts, all));
		for (int r = 0; r < 4; r++)
			assert_int_equal(all[r].step, 10);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			what_cannot_be_read_is_not_taken_for_damaged, setup, teardown),
		cmocka_unit_test_setup_teardown(a_newer_ferrys_is_not_taken_for_damaged, setup, teardown),
		cmocka_unit_test_setup_teardown(ranks_verify_each_file_once_between_them, setup, teardown),
		cmocka_unit_test_setup_teardown(ranks_are_of_one_mind_about_damage, setup, teardown),
		cmocka_unit_test_setup_teardown(another_hosts_copy_is_not_damage, setup, teardown),
	};
	return cmocka_run_group_tests(tests, open_all, close_all);
}
