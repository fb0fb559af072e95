/* Corpora that preprocess_run makes where ids need more than 16 bits, against a naive writer (preprocess_oracle.h). */
#include "tests/unit/data/preprocess_oracle.h"

/* GPT-2's printable stand-in of a byte, as UTF-8. */
static const char *stand_in(int byte)
{
	static char texts_of[256][4];
	int next = 256;
	for (int b = 0; b < 256; b++) {
		bool printable = (b > 32 && b < 127) || (b > 160 && b != 173);
		int c = printable ? b : next++;
		if (c < 128)
			snprintf(texts_of[b], 4, "%c", c);
		else
			snprintf(texts_of[b], 4, "%c%c", 0xC0 | c >> 6, 0x80 | (c & 63));
	}
	return texts_of[byte];
}

static void large_vocabularies_are_i32(void **state)
{
	(void)state;
	/* Every pair of bytes is a token: 256 + 65536 + EOD ids. */
	struct image merges = {0};
	struct tokenizer *gpt2 = tokenizer;
	for (int a = 0; a < 256; a++)
		for (int b = 0; b < 256; b++) {
			char line[16], left[4];
			snprintf(left, sizeof left, "%s", stand_in(a));
			int n = snprintf(line, sizeof line, "%s %s\n", left, stand_in(b));
			add_bytes(&merges, line, (size_t)n);
		}
	put_file("merges", merges.data, merges.bytes);
	free(merges.data);
	if (tokenizer_open_files(in_root("merges"), NULL, &tokenizer) != STATUS_OK)
		fail_msg("%s", error_message());
	assert_int_equal(tokenizer_vocabulary(tokenizer), 65793);
	wide = true;
	make_inputs(9, 20);
	struct preprocess_config config = basic(in_root("wide"));
	run(&config);
	assert_true(check_corpus(config.output) > 1);
	/* The vocabulary is in the corpus, and is the same when it is read from there. */
	struct tokenizer *again;
	if (tokenizer_open_directory(config.output, &again) != STATUS_OK)
		fail_msg("%s", error_message());
	struct hash128 a = tokenizer_hash(tokenizer), b = tokenizer_hash(again);
	assert_int_equal(hash128_compare(a, b), 0);
	tokenizer_close(again);
	must(directory_remove(config.output));
	tokenizer_close(tokenizer);
	tokenizer = gpt2;
	wide = false;
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(large_vocabularies_are_i32)};
	return cmocka_run_group_tests(tests, begin, end_and_forget);
}
