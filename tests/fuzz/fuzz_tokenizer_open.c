/*
 * tokenizer_open_files: the input is a merges file, a NUL byte, a vocab.json (optional), a NUL byte and a
 * text (optional). A vocabulary that opens encodes the text as the slow reference does, and its export opens
 * to the same one. The first byte, if odd, adds an entry for every byte to a vocab.json that is an object,
 * since hardly an input would hold them all.
 */
#include "tests/fuzz/naive_bpe.h"
#include "tokenizer/letters.h"

#include <cjson/cJSON.h>

static struct fuzz_input cut_at_nul(struct fuzz_input *input)
{
	const uint8_t *nul = input->bytes ? memchr(input->data, 0, input->bytes) : NULL;
	if (!nul)
		return fuzz_cut(input, input->bytes);
	struct fuzz_input part = fuzz_cut(input, (size_t)(nul - input->data));
	fuzz_cut(input, 1);
	return part;
}

/* `{"!": 0, ... the 256 letters ..., ` and what follows the input's brace, or the input as it is. */
static const char *write_vocabulary(struct fuzz_input text, bool complete)
{
	char *whole = malloc(text.bytes + 256 * 16 + 2), *at = whole;
	CHECK(whole, "no memory");
	if (complete && text.bytes && text.data[0] == '{') {
		*at++ = '{';
		for (int byte = 0; byte < 256; byte++) {
			uint8_t raw = (uint8_t)byte;
			at += sprintf(at, "\"%s", byte == '"' || byte == '\\' ? "\\" : "");
			at += letters_write(&raw, 1, at);
			at += sprintf(at, "\":%d%s", byte, byte < 255 || text.bytes > 2 ? "," : "");
		}
		fuzz_cut(&text, 1);
	}
	memcpy(at, text.data, text.bytes);
	const char *path = fuzz_write("vocab.json", whole, (size_t)(at - whole) + text.bytes);
	free(whole);
	return path;
}

static void check_encoding(const struct tokenizer *tokenizer, struct fuzz_input input)
{
	struct naive_bpe bpe;
	struct naive_text text;
	struct encoder *encoders[3] = {NULL, NULL, NULL};
	naive_open(tokenizer, &bpe);
	naive_decode(input.data, input.bytes, &text);
	uint32_t *expected = malloc(text.byte_count * 4 + 4);
	CHECK(expected, "no memory");
	size_t count = naive_encode(&bpe, &text, expected);
	/* One encoder for all: opening one takes a while. */
	CHECK(encoder_open(tokenizer, &encoders[0]) == STATUS_OK, "%s", error_message());
	encoders[1] = encoders[2] = encoders[0];
	naive_check_encoders(encoders, tokenizer, &text, expected, count);
	encoder_close(encoders[0]);
	free(expected);
	naive_text_free(&text);
	naive_close(&bpe);
}

static void check_export(const struct tokenizer *tokenizer)
{
	struct tokenizer_file files[TOKENIZER_FILES];
	struct tokenizer *again;
	CHECK(tokenizer_export(tokenizer, files) == STATUS_OK, "%s", error_message());
	for (int i = 0; i < TOKENIZER_FILES; i++) {
		fuzz_write(files[i].name, files[i].data, files[i].bytes);
		if (strstr(files[i].name, ".json")) {
			cJSON *json = cJSON_ParseWithLength(files[i].data, files[i].bytes);
			CHECK(json, "%s is not JSON", files[i].name);
			cJSON_Delete(json);
		}
	}
	tokenizer_export_free(files);
	CHECK(tokenizer_open_directory(fuzz_directory(), &again) == STATUS_OK, "%s", error_message());
	CHECK(hash128_compare(tokenizer_hash(again), tokenizer_hash(tokenizer)) == 0,
		"exported, another tokenizer");
	tokenizer_close(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	enum { LONGEST_TEXT = 512 };
	struct fuzz_input input = {data, bytes};
	bool complete = fuzz_take(&input, 1) & 1;
	struct fuzz_input merges = cut_at_nul(&input), vocabulary = cut_at_nul(&input),
			  text = fuzz_cut(&input, LONGEST_TEXT);
	struct tokenizer *tokenizer;
	const char *merge_path = fuzz_write("merges", merges.data, merges.bytes), *vocabulary_path = NULL;
	if (vocabulary.bytes)
		vocabulary_path = write_vocabulary(vocabulary, complete);
	if (tokenizer_open_files(merge_path, vocabulary_path, &tokenizer) != STATUS_OK) {
		CHECK(strstr(error_message(), "merges") || strstr(error_message(), "vocab.json"),
			"names no file: %s", error_message());
		return 0;
	}
	check_encoding(tokenizer, text);
	check_export(tokenizer);
	tokenizer_close(tokenizer);
	return 0;
}
