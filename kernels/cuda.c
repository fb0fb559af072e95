/* Finds ferry-cuda.so, loads it, and lets it fill the table. See cuda/interface.h. */
#include "kernels/cuda/interface.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct cuda_host host = {
	.version = CUDA_INTERFACE_VERSION,
	.table_bytes = sizeof(struct kernels),
	.error_set = error_set,
	.error_save = error_save,
	.error_restore = error_restore,
};

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

static enum status find_library(char *out, size_t bytes)
{
	const char *named = getenv("FERRY_CUDA");
	if (named && *named) {
		FAIL_IF(access(named, R_OK), STATUS_UNSUPPORTED,
			"no CUDA backend: $FERRY_CUDA names %s, which cannot be read", named);
		snprintf(out, bytes, "%s", named);
		return STATUS_OK;
	}
	char folder[PATH_MAX];
	if (program_folder(folder, sizeof folder)) {
		static const char *const places[] = {"ferry-cuda.so", "../lib/ferry/ferry-cuda.so"};
		for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
			snprintf(out, bytes, "%s/%s", folder, places[i]);
			if (access(out, R_OK) == 0)
				return STATUS_OK;
		}
	}
	return error_set(STATUS_UNSUPPORTED,
		"no CUDA backend: ferry-cuda.so is neither beside the program nor in ../lib/ferry; build it "
		"with `make cuda` (needs nvcc) or name it in $FERRY_CUDA");
}

enum status kernels_open_cuda(const struct kernels_config *config, struct kernels *out)
{
	char path[PATH_MAX + 64];
	TRY(find_library(path, sizeof path));
	/* Never unloaded: the CUDA runtime keeps threads and handlers of its own. */
	void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	FAIL_IF(!library, STATUS_UNSUPPORTED, "no CUDA backend: %s cannot be loaded: %s", path, dlerror());
	cuda_open_function *open = NULL;
	*(void **)&open = dlsym(library, CUDA_INTERFACE_SYMBOL);
	FAIL_IF(!open, STATUS_UNSUPPORTED,
		"no CUDA backend: %s has no " CUDA_INTERFACE_SYMBOL "; rebuild it with `make cuda`", path);
	return open(&host, config, out);
}
