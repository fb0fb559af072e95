/*
 * sources_get and sources_check on any .src of a shard. First byte, bit 0: the manifest has the file's hash, so that its
 * inside is read; else any change must be found.
 */
#define SMALL_SOURCES 1
#include "data/sources.h"
#include "tests/fuzz/small_corpus.h"

static uint8_t *original;
static size_t original_bytes;

static void write_fitting(struct fuzz_input file)
{
	cJSON *manifest = cJSON_Parse(small_manifest);
	cJSON *shard = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(manifest, "shards"), 0);
	cJSON_DeleteItemFromObjectCaseSensitive(shard, "src");
	CHECK(json_add_hash128(shard, "src", hash128(file.data, file.bytes)), "no memory");
	small_seal(manifest);
	cJSON_Delete(manifest);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	struct fuzz_input input = {data, bytes};
	struct corpus *corpus;
	struct sources *sources;
	struct source source;
	size_t total = 0;
	if (!original) {
		small_corpus_make();
		original = fuzz_read("00000.src", &original_bytes);
	}
	bool fit = fuzz_take(&input, 1) & 1;
	bool same = input.bytes == original_bytes && memcmp(input.data, original, original_bytes) == 0;
	fuzz_write("00000.src", input.data, input.bytes);
	if (fit)
		write_fitting(input);
	CHECK(corpus_open(fuzz_directory(), &corpus) == STATUS_OK, "%s", error_message());
	bool good = sources_check(corpus, 0) == STATUS_OK;
	CHECK(good || strstr(error_message(), "00000.src"), "names no file: %s", error_message());
	CHECK(fit || good == same, "%s", same ? error_message() : "a change was not found");
	CHECK(sources_open(corpus, &sources) == STATUS_OK, "%s", error_message());
	for (uint64_t d = 0; d < SMALL_SHARDS * SMALL_DOCUMENTS; d++) {
		enum status status = sources_get(sources, d, &source);
		CHECK((status == STATUS_OK) == (good || d >= SMALL_DOCUMENTS), "document %u: %s", (unsigned)d,
			error_message());
		if (status == STATUS_OK)
			total += strlen(source.path) + (source.line & 1);
	}
	CHECK(total < SIZE_MAX, "used");
	sources_close(sources);
	corpus_close(corpus);
	if (fit)
		fuzz_write("corpus.json", small_manifest, small_manifest_bytes);
	return 0;
}
