/*
 * corpus_verify and everything that reads, where a file of shard 0 is not what was written. First byte, bits
 * 0-1: which of .bin, .idx, .key, .sum; bit 2: the input is the file, else it is changes to it (u16 offset,
 * u8 value); bit 3: the trees, the roots, the counts and the manifest are made to fit, so that only the
 * contents are wrong. Without bit 3 any change must be found.
 */
#include "tests/fuzz/small_corpus.h"

#include "common/endian.h"

static void add_tree(struct fuzz_input file, uint8_t *sum, size_t *at, uint64_t *root)
{
	struct hash_tree_builder *builder;
	struct hash_tree_shape shape;
	const uint64_t *hashes;
	uint64_t bytes;
	CHECK(hash_tree_builder_open(&builder) == STATUS_OK, "%s", error_message());
	CHECK(hash_tree_builder_add(builder, file.data, file.bytes) == STATUS_OK, "%s", error_message());
	CHECK(hash_tree_builder_finish(builder, &shape, &hashes, &bytes) == STATUS_OK, "%s", error_message());
	if (shape.total)
		memcpy(sum + *at, hashes, shape.total * 8);
	*at += shape.total * 8;
	*root = shape.total ? hashes[shape.total - 1] : 0;
	hash_tree_builder_close(builder);
}

/* A .sum for the three files; returns the roots. */
static void write_sum(const struct fuzz_input files[3], uint64_t roots[3])
{
	size_t at = 64, room = 64 + 8 + 3 * 8 * 64;
	for (int f = 0; f < 3; f++)
		room += files[f].bytes / 256;
	uint8_t *sum = calloc(room, 1);
	CHECK(sum, "no memory");
	memcpy(sum, "FERRYSUM", 8);
	store_le64(sum + 8, 1);
	for (int f = 0; f < 3; f++) {
		add_tree(files[f], sum, &at, &roots[f]);
		store_le64(sum + 16 + 16 * f, files[f].bytes);
		store_le64(sum + 24 + 16 * f, roots[f]);
	}
	store_le64(sum + at, hash64(sum, 64));
	fuzz_write(small_name(0, SMALL_SUM), sum, at + 8);
	free(sum);
}

static void set_number(cJSON *object, const char *key, uint64_t number)
{
	cJSON_DeleteItemFromObjectCaseSensitive(object, key);
	CHECK(json_add_u64(object, key, number), "no memory");
}

/* The manifest of shard 0 as changed. */
static void write_manifest(const struct fuzz_input files[3], const uint64_t roots[3])
{
	cJSON *manifest = cJSON_Parse(small_manifest);
	cJSON *shard = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(manifest, "shards"), 0);
	cJSON *read = cJSON_GetObjectItemCaseSensitive(manifest, "input");
	uint64_t tokens = files[SMALL_BIN].bytes / 2, documents = files[SMALL_KEY].bytes / 8;
	for (int f = 0; f < 3; f++) {
		cJSON_DeleteItemFromObjectCaseSensitive(shard, small_suffixes[f]);
		CHECK(json_add_hex64(shard, small_suffixes[f], roots[f]), "no memory");
	}
	set_number(shard, "documents", documents);
	set_number(shard, "tokens", tokens);
	documents += small_sizes[1][SMALL_KEY] / 8;
	tokens += small_sizes[1][SMALL_BIN] / 2;
	set_number(manifest, "documents", documents);
	set_number(manifest, "tokens", tokens);
	set_number(read, "documents", documents);
	set_number(read, "tokens", tokens);
	small_seal(manifest);
	cJSON_Delete(manifest);
}

/* The changed file; malloc'ed. */
static struct fuzz_input change(struct fuzz_input input, const uint8_t *file, size_t bytes, bool whole)
{
	size_t size = whole ? input.bytes : bytes;
	uint8_t *data = malloc(size + 1);
	CHECK(data, "no memory");
	memcpy(data, whole ? input.data : file, size);
	while (!whole && input.bytes >= 3 && size) {
		uint32_t at = fuzz_take(&input, 2);
		data[at % size] = (uint8_t)fuzz_take(&input, 1);
	}
	return (struct fuzz_input){data, size};
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	struct fuzz_input input = {data, bytes};
	struct corpus *corpus;
	if (!small_manifest)
		small_corpus_make();
	uint32_t mode = fuzz_take(&input, 1);
	int which = mode & 3;
	bool fit = (mode & 8) && which != SMALL_SUM;
	struct fuzz_input changed = change(input, small_files[0][which], small_sizes[0][which], mode & 4),
			  files[3];
	bool same = changed.bytes == small_sizes[0][which] &&
		    memcmp(changed.data, small_files[0][which], changed.bytes) == 0;
	fuzz_write(small_name(0, which), changed.data, changed.bytes);
	if (fit) {
		uint64_t roots[3];
		for (int f = 0; f < 3; f++)
			files[f] = f == which ? changed
					      : (struct fuzz_input){small_files[0][f], small_sizes[0][f]};
		write_sum(files, roots);
		write_manifest(files, roots);
	}
	bool verified = false;
	if (corpus_open(fuzz_directory(), &corpus) == STATUS_OK) {
		verified = corpus_verify(corpus, 1, NULL, NULL) == STATUS_OK;
		CHECK(verified || strstr(error_message(), "00000."), "names no file: %s", error_message());
		small_read_all(corpus, verified);
		corpus_close(corpus);
	}
	CHECK(fit || verified == same, "%s", same ? error_message() : "a change was not found");
	fuzz_write(small_name(0, which), small_files[0][which], small_sizes[0][which]);
	if (fit) {
		fuzz_write(small_name(0, SMALL_SUM), small_files[0][SMALL_SUM], small_sizes[0][SMALL_SUM]);
		fuzz_write("corpus.json", small_manifest, small_manifest_bytes);
	}
	free((void *)changed.data);
	return 0;
}
