/*
 * corpus_open on any corpus.json, then everything that reads the corpus, whose other files are good. First
 * byte: 0: the input as it is; 1: it is the text before the seal, which is put on; 2: it is a JSON object,
 * given the right "hash" and the seal.
 */
#include "tests/fuzz/small_corpus.h"

static void write_sealed(struct fuzz_input text)
{
	char *whole = malloc(text.bytes + 64);
	CHECK(whole, "no memory");
	memcpy(whole, text.data, text.bytes);
	int more = sprintf(whole + text.bytes, "\"check\":\t\"%016llx\"\n}\n",
		(unsigned long long)hash64(text.data, text.bytes));
	fuzz_write("corpus.json", whole, text.bytes + (size_t)more);
	free(whole);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	struct fuzz_input input = {data, bytes};
	struct corpus *corpus;
	if (!small_manifest)
		small_corpus_make();
	uint32_t mode = fuzz_take(&input, 1);
	if (mode == 1) {
		write_sealed(input);
	} else if (mode == 2) {
		cJSON *manifest = cJSON_ParseWithLength((const char *)input.data, input.bytes);
		bool object = cJSON_IsObject(manifest);
		if (object)
			small_seal(manifest);
		cJSON_Delete(manifest);
		if (!object)
			return 0;
	} else {
		fuzz_write("corpus.json", input.data, input.bytes);
	}
	if (corpus_open(fuzz_directory(), &corpus) != STATUS_OK) {
		CHECK(strstr(error_message(), "corpus.json"), "names no file: %s", error_message());
		return 0;
	}
	const struct corpus_info *info = corpus_get_info(corpus);
	uint64_t documents = 0, tokens = 0;
	for (uint64_t i = 0; i < info->shard_count; i++) {
		CHECK(info->shards[i].first_document == documents && info->shards[i].first_token == tokens,
			"shard %u", (unsigned)i);
		documents += info->shards[i].documents;
		tokens += info->shards[i].tokens;
	}
	CHECK(documents == info->documents && tokens == info->tokens, "sums");
	bool verified = corpus_verify(corpus, 1, NULL, NULL) == STATUS_OK;
	small_read_all(corpus, verified);
	corpus_close(corpus);
	return 0;
}
