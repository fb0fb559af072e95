#include "common/library.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The folder of the running program, without a slash at the end. */
static bool program_folder(char *out, size_t bytes)
{
	ssize_t length = readlink("/proc/self/exe", out, bytes - 1);
	if (length <= 0)
		return false;
	out[length] = 0;
	char *slash = strrchr(out, '/');
	if (!slash)
		return false;
	*slash = 0;
	return true;
}

static enum status find(const struct library *l, char *out, size_t bytes)
{
	const char *named = getenv(l->variable);
	if (named && *named) {
		FAIL_IF(access(named, R_OK), STATUS_UNSUPPORTED, "no %s: $%s names %s, which cannot be read",
			l->what, l->variable, named);
		snprintf(out, bytes, "%s", named);
		return STATUS_OK;
	}
	char folder[PATH_MAX];
	if (program_folder(folder, sizeof folder)) {
		static const char *const places[] = {"", "../lib/ferry/"};
		for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
			snprintf(out, bytes, "%s/%s%s", folder, places[i], l->file);
			if (access(out, R_OK) == 0)
				return STATUS_OK;
		}
	}
	return error_set(STATUS_UNSUPPORTED,
		"no %s: %s is neither beside the program nor in ../lib/ferry; build it with `make %s` (needs "
		"%s) or name it in $%s",
		l->what, l->file, l->target, l->needs, l->variable);
}

enum status library_open(const struct library *l, void **symbol)
{
	char path[PATH_MAX + 64];
	TRY(find(l, path, sizeof path));
	void *handle = dlopen(path, RTLD_NOW | (l->global ? RTLD_GLOBAL : RTLD_LOCAL));
	FAIL_IF(!handle, STATUS_UNSUPPORTED, "no %s: %s cannot be loaded: %s", l->what, path, dlerror());
	*symbol = dlsym(handle, l->symbol);
	FAIL_IF(!*symbol, STATUS_UNSUPPORTED, "no %s: %s has no %s; rebuild it with `make %s`", l->what, path,
		l->symbol, l->target);
	return STATUS_OK;
}
