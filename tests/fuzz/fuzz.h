/*
 * fuzz.h: what the fuzz targets share.
 *
 * A target is fuzz_NAME.c with LLVMFuzzerTestOneInput, named after the function that it tries. libFuzzer
 * feeds it (`make fuzz TARGET=fuzz_NAME SECONDS=600`), or replay.c with the inputs of tests/fuzz/seeds/
 * (`make test`). A target must not crash, hang or leak, whatever the input, and CHECKs what the header
 * of its function promises.
 *
 * Where a hash would stop the fuzzer at the door, the input's first byte chooses whether the target puts the
 * right hash in, so that what lies behind it is tried too. Included once by each target; one thread.
 */
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What is the test's own is not what the fuzzer should explore. */
#ifdef __clang__
#define FUZZ_FUNCTION static __attribute__((unused, no_sanitize("coverage")))
#else
#define FUZZ_FUNCTION static __attribute__((unused))
#endif

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* A promise broken is a crash, which libFuzzer keeps and replay.c reports. */
#define CHECK(condition, ...)                                                                                \
	do {                                                                                                 \
		if (!(condition)) {                                                                          \
			fprintf(stderr, "%s:%d: not so: %s: ", __FILE__, __LINE__, #condition);              \
			fprintf(stderr, __VA_ARGS__);                                                        \
			fputc('\n', stderr);                                                                 \
			abort();                                                                             \
		}                                                                                            \
	} while (0)

/* ---- reading the input: what is not there is 0 ---- */

struct fuzz_input {
	const uint8_t *data;
	size_t bytes;
};

FUZZ_FUNCTION uint32_t fuzz_take(struct fuzz_input *input, int size)
{
	uint32_t number = 0;
	for (int i = 0; i < size && input->bytes; i++, input->data++, input->bytes--)
		number |= (uint32_t)*input->data << 8 * i;
	return number;
}

/* The first `bytes` of the input, or all; the rest stays. */
FUZZ_FUNCTION struct fuzz_input fuzz_cut(struct fuzz_input *input, size_t bytes)
{
	struct fuzz_input part = {input->data, bytes < input->bytes ? bytes : input->bytes};
	input->data += part.bytes;
	input->bytes -= part.bytes;
	return part;
}

/* ---- files: in a folder of memory, made at the first use, removed at exit ---- */

static char fuzz_folder[64];
static pid_t fuzz_process;

FUZZ_FUNCTION void fuzz_remove_folder(void)
{
	char command[96];
	if (getpid() != fuzz_process)
		return;
	snprintf(command, sizeof command, "rm -rf '%s'", fuzz_folder);
	if (system(command) != 0)
		fprintf(stderr, "%s: cannot be removed\n", fuzz_folder);
}

FUZZ_FUNCTION const char *fuzz_directory(void)
{
	if (!fuzz_folder[0]) {
		bool memory = access("/dev/shm", W_OK) == 0;
		snprintf(fuzz_folder, sizeof fuzz_folder, "%s/ferry-fuzz-XXXXXX",
			memory ? "/dev/shm" : "/tmp");
		CHECK(mkdtemp(fuzz_folder), "%s", fuzz_folder);
		fuzz_process = getpid();
		atexit(fuzz_remove_folder);
	}
	return fuzz_folder;
}

/* A path in that folder; valid until the fourth call after it. */
FUZZ_FUNCTION const char *fuzz_path(const char *name)
{
	static char paths[4][128];
	static int next;
	char *path = paths[next++ & 3];
	snprintf(path, sizeof paths[0], "%s/%s", fuzz_directory(), name);
	return path;
}

FUZZ_FUNCTION const char *fuzz_write(const char *name, const void *data, size_t bytes)
{
	const char *path = fuzz_path(name);
	FILE *file = fopen(path, "wb");
	CHECK(file, "%s", path);
	CHECK(fwrite(data, 1, bytes, file) == bytes, "%s", path);
	CHECK(fclose(file) == 0, "%s", path);
	return path;
}

/* malloc'ed, with a NUL behind it */
FUZZ_FUNCTION uint8_t *fuzz_read(const char *name, size_t *bytes)
{
	const char *path = fuzz_path(name);
	FILE *file = fopen(path, "rb");
	struct stat info;
	CHECK(file && fstat(fileno(file), &info) == 0, "%s", path);
	*bytes = (size_t)info.st_size;
	uint8_t *data = malloc(*bytes + 1);
	CHECK(data && fread(data, 1, *bytes, file) == *bytes, "%s", path);
	fclose(file);
	data[*bytes] = 0;
	return data;
}

#endif
