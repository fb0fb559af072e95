/*
 * No memory: every allocation of every command fails once, or all from one on do: those of common/memory.h,
 * of the C library's strings and paths, and of cJSON (the Makefile links this program with them wrapped). The
 * command ends in STATUS_MEMORY; nothing is leaked (the address sanitizer sees to that) and nothing that was
 * there is lost; the same command then ends in the right bytes.
 */
#include "tests/faults/scenes.h"

#include <stdatomic.h>

static atomic_long calls, fail_at = -1;
static atomic_bool all_after;

static bool refuse(void)
{
	long at = atomic_load(&fail_at), call = atomic_fetch_add(&calls, 1);
	if (at < 0 || call < at || (call > at && !atomic_load(&all_after)))
		return false;
	errno = ENOMEM;
	return true;
}

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *block, size_t bytes);
void *__real_reallocarray(void *block, size_t count, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
char *__real_strdup(const char *text);
char *__real_strndup(const char *text, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *block, size_t bytes);
void *__wrap_reallocarray(void *block, size_t count, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);
char *__wrap_strdup(const char *text);
char *__wrap_strndup(const char *text, size_t bytes);
int __wrap_asprintf(char **out, const char *format, ...) __attribute__((format(printf, 2, 3)));

void *__wrap_malloc(size_t bytes)
{
	return refuse() ? NULL : __real_malloc(bytes);
}
void *__wrap_calloc(size_t count, size_t bytes)
{
	return refuse() ? NULL : __real_calloc(count, bytes);
}
void *__wrap_realloc(void *block, size_t bytes)
{
	return refuse() ? NULL : __real_realloc(block, bytes);
}
void *__wrap_reallocarray(void *block, size_t count, size_t bytes)
{
	return refuse() ? NULL : __real_reallocarray(block, count, bytes);
}
void *__wrap_aligned_alloc(size_t alignment, size_t bytes)
{
	return refuse() ? NULL : __real_aligned_alloc(alignment, bytes);
}
char *__wrap_strdup(const char *text)
{
	return refuse() ? NULL : __real_strdup(text);
}
char *__wrap_strndup(const char *text, size_t bytes)
{
	return refuse() ? NULL : __real_strndup(text, bytes);
}
int __wrap_asprintf(char **out, const char *format, ...)
{
	if (refuse())
		return -1;
	va_list arguments;
	va_start(arguments, format);
	int result = vasprintf(out, format, arguments);
	va_end(arguments);
	return result;
}

static enum status run_with(const struct scene *scene, long at, bool after)
{
	atomic_store(&calls, 0);
	atomic_store(&all_after, after);
	atomic_store(&fail_at, at);
	enum status status = scene->command();
	atomic_store(&fail_at, -1);
	return status;
}

static const char *examine(const struct scene *scene, enum status status)
{
	if (status == STATUS_OK)
		return scene_compare(scene_path("out"), scene_path("new"), true);
	if (status != STATUS_MEMORY)
		return complain("%s: %s", error_status_name(status), error_message());
	const char *complaint = scene->check(false);
	return complaint ? complaint : scene_finish(scene);
}

static void each_allocation_fails(void **state)
{
	const struct scene *scene = *state;
	scene_begin(scene);
	assert_ok(run_with(scene, -1, false));
	long count = atomic_load(&calls), failed = 0, tried = 0;
	for (long n = 0; n < count; n += faults_long() ? 1 : 1 + count / 12) {
		bool after = n % 2;
		scene_copy(scene_path("old"), scene_path("out"));
		enum status status = run_with(scene, n, after);
		const char *complaint = examine(scene, status);
		if (complaint)
			fail_msg("allocation %ld of %ld%s: %s", n, count, after ? " and all after it" : "",
				complaint);
		failed += status != STATUS_OK;
		tried++;
	}
	printf("# %s: %ld allocations, %ld failures tried, %ld errors\n", scene->name, count, tried, failed);
	assert_true(failed > 0);
}

int main(void)
{
	struct CMUnitTest tests[SCENES];
	static char names[SCENES][128];
	for (size_t i = 0; i < SCENES; i++) {
		snprintf(names[i], 128, "no memory: %s", scene_list[i].name);
		tests[i] = (struct CMUnitTest){
			names[i], each_allocation_fails, NULL, NULL, (void *)(uintptr_t)&scene_list[i]};
	}
	return scenes_run("memory", tests, SCENES);
}
