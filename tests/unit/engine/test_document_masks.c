#include "engine/document_masks.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>

static void the_headers_example(void **state)
{
	(void)state;
	static const int32_t tokens[] = {1, 2, 9, 3, 9, 9, 4, 5}, first[] = {0, 0, 0, 3, 3, 5, 6, 6},
			     positions[] = {0, 1, 2, 0, 1, 0, 0, 1};
	int32_t got_first[8], got_positions[8];
	document_masks(tokens, 1, 8, 9, got_first, got_positions);
	assert_memory_equal(got_first, first, sizeof first);
	assert_memory_equal(got_positions, positions, sizeof positions);
}

/* Megatron-LM's words for it: for each EOD at e, rows after e do not see columns up to e. */
static bool sees(const int32_t *tokens, int row, int column, int32_t eod)
{
	for (int e = column; e < row; e++)
		if (tokens[e] == eod)
			return false;
	return column <= row;
}

static void rows_see_their_document_alone(void **state)
{
	(void)state;
	enum { BATCH = 3, COUNT = 40 };
	srand(5);
	for (int c = 0; c < 500; c++) {
		int32_t tokens[BATCH * COUNT], first[BATCH * COUNT], positions[BATCH * COUNT],
			alone[BATCH * COUNT];
		int often = 1 + rand() % 30;
		for (int i = 0; i < BATCH * COUNT; i++)
			tokens[i] = rand() % often == 0 ? 50256 : rand() % 50256;
		document_masks(tokens, BATCH, COUNT, 50256, first, positions);
		for (int i = 0; i < BATCH * COUNT; i++) {
			int row = i % COUNT, seen = 0;
			for (int column = 0; column < COUNT; column++) {
				bool sees_it = sees(tokens + i - row, row, column, 50256);
				assert_int_equal(sees_it, column >= first[i] && column <= row);
				seen += sees_it;
			}
			assert_int_equal(positions[i], seen - 1);
		}
		document_masks(tokens, BATCH, COUNT, 50256, alone, NULL);
		assert_memory_equal(alone, first, sizeof first);
		document_masks(tokens, BATCH, COUNT, 50256, NULL, alone);
		assert_memory_equal(alone, positions, sizeof positions);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_headers_example),
		cmocka_unit_test(rows_see_their_document_alone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
