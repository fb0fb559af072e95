/*
 * test_ops_emu [short|races]: every operation of the CUDA table on the emulated device ($FERRY_CUDA names it)
 * against the op tester's formulas, in each pair of types; fewer shapes of pairs that are made of the first three's
 * code. short: fewer shapes of the first three, for a sanitizer. races: of fp32 and fp16 alone, for the thread sanitizer
 * (bf16 has fp16's code; train.sh's runs have both).
 */
#include "tests/ops/choices.h"
#include "tests/ops/op_tester.h"

#include <stdlib.h>
#include <unistd.h>

/* What the classifier takes of the device is bounded, for training and for validation. */
static bool classifier_is_bounded(void)
{
	enum { R = 600, C = 16, V = 700, VP = 768, LIMIT = 300 * VP * 2 }; /* not a round number of rows */
	struct kernels_config config = {.act = DTYPE_BF16, .grad = DTYPE_F32, .logits_bytes = LIMIT};
	size_t bytes[] = {R * 4, R * C * 2, VP * C * 4, R * C * 2, VP * C * 2, R * 4};
	void *at[6];
	struct kernels k;
	bool good = kernels_open_cuda(&config, &k) == STATUS_OK;
	for (int i = 0; good && i < 6; i++)
		good = k.memory_alloc(&k, &at[i], bytes[i], "a test's array") == STATUS_OK;
	if (!good) {
		fprintf(stderr, "%s\n", error_message());
		return false;
	}
	uint64_t before = k.memory_unused(&k);
	k.classifier(&k, NULL, at[0], at[1], at[2], at[3], at[4], at[5], R, C, V, VP, 1, false);
	k.classifier(&k, NULL, at[0], NULL, NULL, at[3], at[4], at[5], R, C, V, VP, 1, false);
	good = k.stream_wait(&k, NULL) == STATUS_OK;
	uint64_t taken = before - k.memory_unused(&k);
	printf("# classifier: %llu bytes taken\n", (unsigned long long)taken);
	good = good && k.logits_bytes == LIMIT && taken > KERNELS_WORKSPACE &&
	       taken <= LIMIT + (uint64_t)KERNELS_WORKSPACE;
	for (int i = 0; i < 6; i++)
		k.memory_free(&k, at[i], bytes[i]);
	k.close(&k);
	return good;
}

/* The algorithms of a forward, as text; the number of those that are not `named`, or -1. */
static int algorithms_of_forward(const char *named, FILE *out)
{
	enum { R = 64, K = 32, SIZES = 6 };
	struct kernels_config config = {.act = DTYPE_BF16, .grad = DTYPE_F32};
	struct kernels k;
	void *x, *w, *bias, *y;
	char text[KERNELS_CHOICE];
	int others = 0;
	if (kernels_open_cuda(&config, &k) != STATUS_OK)
		return -1;
	bool good = k.memory_alloc(&k, &x, R * K * 2, "x") == STATUS_OK &&
		    k.memory_alloc(&k, &w, K * 8 * SIZES * 2, "w") == STATUS_OK &&
		    k.memory_alloc(&k, &bias, 8 * SIZES * 2, "bias") == STATUS_OK &&
		    k.memory_alloc(&k, &y, R * 8 * SIZES * 2, "y") == STATUS_OK;
	for (int n = 1; good && n <= SIZES; n++)
		k.linear_forward(&k, NULL, y, NULL, x, w, bias, R, K, 8 * n);
	good = good && k.stream_wait(&k, NULL) == STATUS_OK;
	if (out)
		fprintf(out, "choices-1 %s\n", k.name);
	for (int i = 0; good && k.choice_get(&k, i, text); i++) {
		others += !strstr(text, named);
		if (out)
			fprintf(out, "%s\n", text);
	}
	k.memory_free(&k, x, R * K * 2);
	k.memory_free(&k, w, K * 8 * SIZES * 2);
	k.memory_free(&k, bias, 8 * SIZES * 2);
	k.memory_free(&k, y, R * 8 * SIZES * 2);
	k.close(&k);
	return good ? others : -1;
}

static bool write_text(const char *path, const char *text)
{
	FILE *file = fopen(path, "w");
	bool good = file && fputs(text, file) >= 0;
	return file && fclose(file) == 0 && good;
}

/* Algorithms that were timed go to a file; what the file says is taken, whatever ranks first. */
static bool algorithms_from_a_file(void)
{
	static const char second[] = " 0000000000000002"; /* the algorithm that ranks second */
	char path[] = "/tmp/choices-XXXXXX", text[8192] = "";
	int opened = mkstemp(path);
	FILE *file = opened < 0 ? NULL : fdopen(opened, "w");
	if (!file)
		return false;
	setenv("FERRY_EMU_LT_SLOW", "0", 1); /* the first takes its time */
	setenv("FERRY_CUDA_TUNE", "2", 1);
	bool good = algorithms_of_forward(second, file) == 0;
	good = fclose(file) == 0 && good;
	unsetenv("FERRY_CUDA_TUNE");
	unsetenv("FERRY_EMU_LT_SLOW");
	good = good && algorithms_of_forward(second, NULL) == 6; /* by rank */
	setenv("FERRY_CUDA_CHOICES", path, 1);
	good = good && algorithms_of_forward(second, NULL) == 0;
	file = fopen(path, "r");
	good = file && fread(text, 1, sizeof text - 1, file) > 0 && good;
	if (file)
		(void)fclose(file);
	/* Not what another table, or nobody, has said. */
	text[10]++;
	good = good && write_text(path, text) && algorithms_of_forward(second, NULL) == -1 &&
	       strstr(error_message(), "for this device and library it is");
	text[10]--;
	char *at = strstr(text, second);
	if (at)
		*at = 'x';
	good = good && at && write_text(path, text) && algorithms_of_forward(second, NULL) == -1 &&
	       strstr(error_message(), "line 2: this is no choice");
	unsetenv("FERRY_CUDA_CHOICES");
	(void)unlink(path);
	return good;
}

/* What the table does otherwise on other GPUs, or with a library that lacks an epilogue, or where it is told to. */
static bool other_ways(bool brief)
{
	static const struct {
		const char *name, *value;
		void (*test)(struct op_tester *t);
		bool rounded;
	} ways[] = {{"FERRY_CUDA_CACHED_LOGITS", "0", op_test_classifiers, true},
		{"FERRY_CUDA_EXACT_LOGITS", "1", op_test_classifiers, false},
		{"FERRY_CUDA_EPILOGUES", "0", op_test_products, true}};
	bool good = true;
	for (int i = 0; i < 3; i++) {
		struct kernels_config config = {
			.act = DTYPE_F16, .grad = DTYPE_F32, .logits_bytes = OP_TESTER_LOGITS};
		struct kernels k;
		struct op_tester t;
		setenv(ways[i].name, ways[i].value, 1);
		enum status status = kernels_open_cuda(&config, &k);
		unsetenv(ways[i].name);
		if (status != STATUS_OK)
			return false;
		op_tester_open(&t, &k);
		t.rounded_logits = ways[i].rounded;
		t.brief = brief;
		ways[i].test(&t);
		printf("# %s=%s:\n", ways[i].name, ways[i].value);
		op_tester_report(&t, stdout);
		good = op_tester_close(&t) == 0 && good;
		k.close(&k);
	}
	return good;
}

int main(int argc, char **argv)
{
	static const enum dtype types[][2] = {{DTYPE_F32, DTYPE_F32}, {DTYPE_BF16, DTYPE_F32},
		{DTYPE_F16, DTYPE_F16}, {DTYPE_BF16, DTYPE_BF16}, {DTYPE_F16, DTYPE_F32}};
	bool races = argc > 1 && strcmp(argv[1], "races") == 0;
	bool brief = races || (argc > 1 && strcmp(argv[1], "short") == 0);
	int failed = 0, choices = 0;
	bool kept = true;
	for (int i = 0; i < (brief ? 3 : 5); i++) {
		if (races && types[i][0] == DTYPE_BF16)
			continue;
		struct kernels_config config = {
			.act = types[i][0], .grad = types[i][1], .logits_bytes = OP_TESTER_LOGITS};
		struct kernels k;
		struct op_tester t;
		if (kernels_open_cuda(&config, &k) != STATUS_OK) {
			fprintf(stderr, "%s\n", error_message());
			return 1;
		}
		op_tester_open(&t, &k);
		t.rounded_logits = true;
		t.brief = brief || i > 2;
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
		int count = choices_kept(&k, &config);
		kept = kept && count > 10;
		choices += count;
		k.close(&k);
	}
	bool bounded = classifier_is_bounded();
	printf("%sok 6 - the classifier's memory is bounded\n", bounded ? "" : "not ");
	printf("%sok 7 - %d choices of algorithms, as text and back\n", kept ? "" : "not ", choices);
	bool filed = algorithms_from_a_file();
	printf("%sok 8 - algorithms that were timed go by way of a file\n", filed ? "" : "not ");
	bool otherwise = other_ways(brief);
	printf("%sok 9 - products and the classifier in their other ways\n", otherwise ? "" : "not ");
	return failed != 0 || !bounded || !kept || !filed || !otherwise;
}
