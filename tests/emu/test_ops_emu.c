/*
 * test_ops_emu [short]: every operation of the CUDA table on the emulated device ($FERRY_CUDA names it)
 * against the op tester's formulas, in each pair of types. short: fewer shapes, for the sanitizers.
 */
#include "tests/ops/op_tester.h"

#include <stdlib.h>

#include "tests/ops/op_tester.c"

int main(int argc, char **argv)
{
	static const enum dtype types[][2] = {{DTYPE_F32, DTYPE_F32}, {DTYPE_BF16, DTYPE_F32},
		{DTYPE_F16, DTYPE_F16}, {DTYPE_BF16, DTYPE_BF16}, {DTYPE_F16, DTYPE_F32}};
	bool brief = argc > 1 && strcmp(argv[1], "short") == 0;
	int failed = 0;
	for (int i = 0; i < (brief ? 3 : 5); i++) {
		struct kernels_config config = {.act = types[i][0], .grad = types[i][1]};
		struct kernels k;
		struct op_tester t;
		if (kernels_open_cuda(&config, &k) != STATUS_OK) {
			fprintf(stderr, "%s\n", error_message());
			return 1;
		}
		op_tester_open(&t, &k);
		t.rounded_logits = true;
		t.brief = brief;
		op_test_all(&t);
		op_tester_report(&t, stdout);
		int checks = 0;
		for (int op = 0; op < t.ops; op++)
			checks += t.results[op].checks;
		bool good = op_tester_close(&t) == 0;
		printf("%sok %d - operations, %s with gradients in %s: %d checks\n", good ? "" : "not ",
			i + 1, dtype_name(types[i][0]), dtype_name(types[i][1]), checks);
		fflush(stdout);
		failed += !good;
		k.close(&k);
	}
	return failed != 0;
}
