/* encoder_encode with GPT-2's vocabulary, every instruction set, against the slow reference; and back. The
 * encoders stay from input to input, so that their caches fill; a finding that needs what came before is not
 * found again by its input alone. */
#include "tests/fuzz/naive_bpe.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	enum { LONGEST = 10000 }; /* some of the library's chunks; the reference is quadratic in words */
	static struct tokenizer *tokenizer;
	static struct naive_bpe bpe;
	static struct encoder *encoders[3];
	if (!tokenizer) {
		CHECK(tokenizer_open_gpt2(&tokenizer) == STATUS_OK, "%s", error_message());
		naive_open(tokenizer, &bpe);
		for (int isa = 0; isa < 3; isa++)
			CHECK(encoder_open(tokenizer, &encoders[isa]) == STATUS_OK, "%s", error_message());
	}
	if (bytes > LONGEST)
		bytes = LONGEST;
	struct naive_text text;
	naive_decode(data, bytes, &text);
	uint32_t *expected = malloc(text.byte_count * 4 + 4);
	CHECK(expected, "no memory");
	size_t count = naive_encode(&bpe, &text, expected);
	naive_check_encoders(encoders, tokenizer, &text, expected, count);
	free(expected);
	naive_text_free(&text);
	return 0;
}
