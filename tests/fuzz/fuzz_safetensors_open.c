/*
 * safetensors_open, and reading every tensor. First byte, bit 0: the input is the file; else it is a u16, the
 * bytes of data, and the JSON: the length before and zeros behind it are put in.
 */
#include "common/endian.h"
#include "engine/safetensors.h"
#include "tests/fuzz/fuzz.h"

static uint64_t write_file(struct fuzz_input input, bool as_it_is)
{
	if (as_it_is) {
		fuzz_write("model.safetensors", input.data, input.bytes);
		return input.bytes;
	}
	size_t data = fuzz_take(&input, 2), bytes = 8 + input.bytes + data;
	uint8_t *file = calloc(bytes, 1);
	CHECK(file, "no memory");
	store_le64(file, input.bytes);
	memcpy(file + 8, input.data, input.bytes);
	fuzz_write("model.safetensors", file, bytes);
	free(file);
	return bytes;
}

/* The elements of a tensor that can be read, in two pieces. */
static void read_tensor(struct safetensors *file, const struct safetensors_tensor *tensor)
{
	float *values = malloc(tensor->elements * 4 + 4);
	uint64_t half = tensor->elements / 2;
	CHECK(values, "no memory");
	bool readable = strcmp(tensor->type, "F32") == 0 || strcmp(tensor->type, "F16") == 0 ||
			strcmp(tensor->type, "BF16") == 0;
	enum status first = safetensors_read(file, tensor, 0, half, values);
	enum status second = safetensors_read(file, tensor, half, tensor->elements - half, values + half);
	CHECK(first == (readable ? STATUS_OK : STATUS_UNSUPPORTED) && second == first, "%s", error_message());
	free(values);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	struct fuzz_input input = {data, bytes};
	struct safetensors *file;
	bool as_it_is = fuzz_take(&input, 1) & 1;
	uint64_t size = write_file(input, as_it_is);
	if (safetensors_open(fuzz_path("model.safetensors"), &file) != STATUS_OK) {
		CHECK(strstr(error_message(), "model.safetensors"), "names no file: %s", error_message());
		return 0;
	}
	uint64_t end = 0;
	for (int i = 0; i < safetensors_count(file); i++) {
		const struct safetensors_tensor *tensor = safetensors_get(file, i);
		CHECK(i == 0 || tensor->begin == end, "\"%s\" does not follow the one before it",
			tensor->name);
		CHECK(tensor->begin <= tensor->end && tensor->end <= size, "\"%s\" lies outside",
			tensor->name);
		CHECK(safetensors_find(file, tensor->name) == tensor, "\"%s\" is not found", tensor->name);
		end = tensor->end;
		read_tensor(file, tensor);
	}
	CHECK(safetensors_count(file) == 0 || end == size, "the data end at %u", (unsigned)end);
	safetensors_close(file);
	return 0;
}
