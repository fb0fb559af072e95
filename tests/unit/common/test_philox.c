#include "common/philox.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

/* Known answers of Random123's kat_vectors for philox4x32-10. */
static void known_answers(void **state)
{
	(void)state;
	static const struct {
		uint32_t counter[4], key[2], word[4];
	} vectors[] = {
		{{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff},
			{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
		{{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0},
			{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
	};
	for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
		const uint32_t *c = vectors[i].counter;
		struct philox_block block =
			philox_4x32_10(c[0], c[1], c[2], c[3], vectors[i].key[0], vectors[i].key[1]);
		for (int w = 0; w < 4; w++)
			assert_int_equal(block.word[w], vectors[i].word[w]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(known_answers)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
