/*
 * replay.c: runs a fuzz target over files instead of libFuzzer: `fuzz_NAME FILE|FOLDER...`. Each file is one
 * input, copied to memory of its exact size, so that the address sanitizer sees a read past it. One line of
 * TAP; without arguments, the target's seeds. Each input is also cut short and has its bytes changed, in
 * a few fixed ways.
 */
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <errno.h>

static unsigned long inputs, runs;

static void run_once(const uint8_t *data, size_t bytes)
{
	uint8_t *exact = malloc(bytes ? bytes : 1);
	CHECK(exact, "no memory for an input");
	if (bytes)
		memcpy(exact, data, bytes);
	LLVMFuzzerTestOneInput(exact, bytes);
	free(exact);
	runs++;
}

/* The input as it is, cut, and with one byte changed here and there. */
static void run_input(uint8_t *data, size_t bytes)
{
	enum { CHANGES = 8 };
	run_once(data, bytes);
	for (size_t i = 0; i < CHANGES && bytes; i++) {
		size_t at = bytes * i / CHANGES + i % 3;
		if (at >= bytes)
			at = bytes - 1;
		run_once(data, at);
		data[at] ^= (uint8_t)(1u << i);
		run_once(data, bytes);
		data[at] ^= (uint8_t)(1u << i);
	}
	inputs++;
}

static void run_file(const char *path)
{
	FILE *file = fopen(path, "rb");
	struct stat info;
	CHECK(file && fstat(fileno(file), &info) == 0, "%s: %s", path, strerror(errno));
	size_t bytes = (size_t)info.st_size;
	uint8_t *data = malloc(bytes + 1);
	CHECK(data && fread(data, 1, bytes, file) == bytes, "%s", path);
	fclose(file);
	fprintf(stderr, "# %s\n", path);
	run_input(data, bytes);
	free(data);
}

static void run_path(const char *path)
{
	DIR *folder = opendir(path);
	if (!folder) {
		run_file(path);
		return;
	}
	for (struct dirent *entry; (entry = readdir(folder));) {
		char child[512];
		snprintf(child, sizeof child, "%s/%s", path, entry->d_name);
		if (entry->d_name[0] != '.')
			run_file(child);
	}
	closedir(folder);
}

int main(int argc, char **argv)
{
	const char *slash = strrchr(argv[0], '/'), *name = slash ? slash + 1 : argv[0];
	char seeds[256];
	for (int i = 1; i < argc; i++)
		run_path(argv[i]);
	if (argc == 1) {
		snprintf(seeds, sizeof seeds, "tests/fuzz/seeds/%s", name);
		run_path(seeds);
	}
	printf("%s - %s: %lu inputs, %lu runs\n", inputs ? "ok" : "not ok", name, inputs, runs);
	return inputs ? 0 : 1;
}
