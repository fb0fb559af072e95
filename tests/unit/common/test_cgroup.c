#include "common/cgroup.h"

#include "tests/unit/scratch_folder.h"

static const char *const groups[] = {"sys/fs/cgroup", "sys/fs/cgroup/job", "sys/fs/cgroup/job/step"};

/* Of the process, which is in /job/step, `file` of the n-th group. */
static void say(int group, const char *file, const char *text)
{
	char name[64];
	must(directory_create(in_root(groups[group])));
	snprintf(name, sizeof name, "%s/%s", groups[group], file);
	put_text(name, text);
}

static int begin(void **state)
{
	(void)scratch_make(state);
	must(directory_create(in_root("proc/self")));
	must(directory_create(in_root(groups[2])));
	put_text("proc/self/cgroup", "5:freezer:/elsewhere\n0::/job/step\n");
	return 0;
}

static void no_limits(void **state)
{
	(void)state;
	assert_int_equal(cgroup_processors(root), 0);
	assert_true(cgroup_memory_left(root) == UINT64_MAX);
	say(2, "cpu.max", "max 100000\n");
	say(2, "memory.max", "max\n");
	say(2, "memory.current", "5000\n");
	assert_int_equal(cgroup_processors(root), 0);
	assert_true(cgroup_memory_left(root) == UINT64_MAX);
	assert_int_equal(cgroup_processors("/nowhere"), 0);
	assert_true(cgroup_memory_left("/nowhere") == UINT64_MAX);
}

/* Whichever group is the tightest, its own, the one above or the uppermost. */
static void tightest_group(void **state)
{
	(void)state;
	say(0, "cpu.max", "1600000 100000\n");
	say(0, "memory.max", "9000000\n");
	say(0, "memory.current", "1000000\n");
	assert_int_equal(cgroup_processors(root), 16);
	assert_int_equal(cgroup_memory_left(root), 8000000);
	say(1, "cpu.max", "150000 100000\n");
	say(1, "memory.max", "5000000\n");
	say(1, "memory.current", "2000000\n");
	assert_int_equal(cgroup_processors(root), 2);
	assert_int_equal(cgroup_memory_left(root), 3000000);
	say(2, "cpu.max", "50000 100000\n");
	say(2, "memory.max", "700000\n");
	say(2, "memory.current", "800000\n");
	assert_int_equal(cgroup_processors(root), 1);
	assert_int_equal(cgroup_memory_left(root), 0);
	say(2, "cpu.max", "400000 100000\n");
	say(2, "memory.max", "7000000\n");
	assert_int_equal(cgroup_processors(root), 2);
	assert_int_equal(cgroup_memory_left(root), 3000000);
}

/* Page cache gives way: a corpus that has just been written takes nothing from a model. */
static void page_cache_is_free(void **state)
{
	(void)state;
	say(1, "memory.max", "8000000\n");
	say(1, "memory.current", "7900000\n");
	say(1, "memory.stat",
		"anon 1000000\nfile 6900000\nshmem 100000\ninactive_file 6000000\nactive_file 800000\n");
	assert_int_equal(cgroup_memory_left(root), 6900000);
	say(1, "memory.stat", "inactive_file 9000000\n"); /* read a moment later than what is used */
	assert_int_equal(cgroup_memory_left(root), 8000000);
}

/* A container's group is the uppermost that it sees, and may be told as /, or as a path that leads outside. */
static void in_a_container(void **state)
{
	(void)state;
	static const char *const told[] = {"0::/\n", "0::/../../host\n", ""};
	say(0, "cpu.max", "300000 100000\n");
	say(0, "memory.max", "4000000\n");
	say(0, "memory.current", "1000000\n");
	for (int i = 0; i < 3; i++) {
		put_text("proc/self/cgroup", told[i]);
		assert_int_equal(cgroup_processors(root), 3);
		assert_int_equal(cgroup_memory_left(root), 3000000);
	}
}

/* Version 1: a hierarchy for each controller, or for some together. */
static void version_1(void **state)
{
	(void)state;
	put_text("proc/self/cgroup",
		"9:cpuacct,cpu:/a/b\n8:cpuset:/other\n4:memory:/m\n1:name=systemd:/\n0::/\n");
	must(directory_create(in_root("sys/fs/cgroup/cpu/a/b")));
	must(directory_create(in_root("sys/fs/cgroup/memory/m")));
	put_text("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
	put_text("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
	put_text("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
	put_text("sys/fs/cgroup/memory/memory.usage_in_bytes", "50000000\n");
	assert_int_equal(cgroup_processors(root), 0);
	assert_true(cgroup_memory_left(root) > UINT64_C(1) << 60);
	put_text("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "250000\n");
	put_text("sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n");
	put_text("sys/fs/cgroup/memory/m/memory.limit_in_bytes", "4000000\n");
	put_text("sys/fs/cgroup/memory/m/memory.usage_in_bytes", "3500000\n");
	put_text("sys/fs/cgroup/memory/m/memory.stat",
		"inactive_file 1\nactive_file 1\ntotal_inactive_file 2000000\ntotal_active_file 500000\n");
	assert_int_equal(cgroup_processors(root), 3);
	assert_int_equal(cgroup_memory_left(root), 3000000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(no_limits, begin, scratch_remove),
		cmocka_unit_test_setup_teardown(tightest_group, begin, scratch_remove),
		cmocka_unit_test_setup_teardown(page_cache_is_free, begin, scratch_remove),
		cmocka_unit_test_setup_teardown(in_a_container, begin, scratch_remove),
		cmocka_unit_test_setup_teardown(version_1, begin, scratch_remove),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
