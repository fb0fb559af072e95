#include "tools/options.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* What a command line of every kind of flag leaves behind. */
struct parsed {
	struct options options;
	struct option table[12];
	struct option_list inputs;
	const char *output, *vocab;
	int layers, style;
	uint64_t seed, memory;
	double rate;
	bool bf16;
	struct option_list words;
};

static enum status parse(struct parsed *p, const char *line)
{
	*p = (struct parsed){.layers = 12, .seed = 1234, .memory = UINT64_C(4) << 30, .rate = 1e-4};
	struct option table[] = {
		{OPTION_LIST("INPUT", &p->inputs, "INPUT", "files or folders"), .required = true},
		{OPTION_HEADING("Flags")},
		{OPTION_STRING("--output", &p->output, "DIR", "the corpus"), .required = true},
		{OPTION_STRING("--vocab-file", &p->vocab, "FILE", "other ids")},
		{OPTION_INT("--num-layers", &p->layers, 1, 1000, "N", "transformer layers")},
		{OPTION_U64("--seed", &p->seed, 0, UINT64_MAX, "N", "seed of everything random")},
		{OPTION_SIZE("--memory", &p->memory, 1 << 20, UINT64_MAX, "SIZE", "bytes")},
		{OPTION_DOUBLE("--lr", &p->rate, 0, 10, "RATE", "peak learning rate")},
		{OPTION_CHOICE("--lr-decay-style", &p->style, "cosine|linear|constant", "its shape")},
		{OPTION_FLAG("--bf16", &p->bf16, "train in bfloat16")},
		{OPTION_WORDS("--train-data", &p->words, "DIR", "one or several")},
		{OPTION_FLAG("--old-name", &p->bf16, NULL)},
	};
	memcpy(p->table, table, sizeof table);
	p->options = (struct options)OPTIONS(table, "test", "a test");
	p->options.table = p->table;
	/* Words of `line`, kept for the life of the test: text values point into them. */
	static char words[512];
	char *argv[32] = {(char[]){"test"}};
	int argc = 1;
	snprintf(words, sizeof words, "%s", line);
	for (char *word = strtok(words, " "); word; word = strtok(NULL, " "))
		argv[argc++] = word;
	return options_parse(&p->options, argc, argv);
}

static void done(struct parsed *p)
{
	free(p->inputs.items);
	free(p->words.items);
}

static void words_end_at_the_next_flag(void **state)
{
	(void)state;
	struct parsed p;
	assert_int_equal(parse(&p, "in --train-data 0.7 a 0.3 b --bf16 --output x"), STATUS_OK);
	assert_int_equal(p.words.count, 4);
	assert_string_equal(p.words.items[0], "0.7");
	assert_string_equal(p.words.items[3], "b");
	assert_int_equal(p.inputs.count, 1);
	assert_true(p.bf16);
	done(&p);
	assert_int_equal(parse(&p, "in --output x --train-data=0.7 a"), STATUS_OK); /* one with = */
	assert_int_equal(p.words.count, 1);
	assert_int_equal(p.inputs.count, 2);
	done(&p);
	assert_int_equal(parse(&p, "in --output x --train-data"), STATUS_USAGE);
	assert_non_null(strstr(error_message(), "--train-data needs a value"));
	done(&p);
	assert_int_equal(parse(&p, "in --output x --train-data a --train-data b"), STATUS_USAGE);
	assert_non_null(strstr(error_message(), "twice"));
	done(&p);
}

static void every_kind(void **state)
{
	(void)state;
	struct parsed p;
	assert_int_equal(
		parse(&p, "a --output dir --num-layers=6 --seed 18446744073709551615 b --memory 1.5G "
			  "--lr 3e-4 --lr-decay-style linear --bf16 - -- --c"),
		STATUS_OK);
	assert_int_equal(p.inputs.count, 4);
	assert_string_equal(p.inputs.items[0], "a");
	assert_string_equal(p.inputs.items[1], "b");
	assert_string_equal(p.inputs.items[2], "-");
	assert_string_equal(p.inputs.items[3], "--c");
	assert_string_equal(p.output, "dir");
	assert_int_equal(p.layers, 6);
	assert_true(p.seed == UINT64_MAX);
	assert_true(p.memory == UINT64_C(3) << 29);
	assert_true(p.rate == 3e-4);
	assert_int_equal(p.style, 1);
	assert_true(p.bf16);
	assert_true(options_given(&p.options, "--lr"));
	assert_false(options_given(&p.options, "--vocab-file"));
	assert_null(p.vocab);
	done(&p);
}

static void defaults_stay(void **state)
{
	(void)state;
	struct parsed p;
	assert_int_equal(parse(&p, "a --output=d=e"), STATUS_OK);
	assert_string_equal(p.output, "d=e");
	assert_int_equal(p.layers, 12);
	assert_true(p.seed == 1234);
	assert_false(p.bf16);
	done(&p);
}

/* Each line is refused, and the message holds every word that the user needs. */
static void refusals(void **state)
{
	(void)state;
	static const struct {
		const char *line, *message[3];
	} cases[] = {
		{"", {"INPUT", "missing"}},
		{"a", {"--output", "missing", "DIR"}},
		{"a --output", {"--output", "needs a value", "DIR"}},
		{"a --output --bf16", {"--output", "needs a value"}},
		{"a --output d --ouptut e", {"--ouptut", "did you mean --output?"}},
		{"a --output d --num-layer 3", {"--num-layer", "did you mean --num-layers?"}},
		{"a --output d --zzzzzzzz 3", {"there is no flag --zzzzzzzz"}},
		{"a --output d --output e", {"--output", "twice"}},
		{"a --output=", {"--output is empty", "variable"}},
		{"a --output d --bf16 --bf16", {"--bf16", "twice"}},
		{"a --output d --bf16=yes", {"--bf16", "no value"}},
		{"a --output d --num-layers 0", {"--num-layers", "1 to 1000"}},
		{"a --output d --num-layers 1001", {"--num-layers", "1 to 1000"}},
		{"a --output d --num-layers 6x", {"--num-layers", "6x", "whole number"}},
		{"a --output d --num-layers=", {"--num-layers", "whole number"}},
		{"a --output d --num-layers 99999999999", {"--num-layers", "99999999999", "1 to 1000"}},
		{"a --output d --num-layers 99999999999999999999", {"--num-layers", "1 to 1000"}},
		{"a --output d --num-layers -99999999999999999999", {"--num-layers", "1 to 1000"}},
		{"a --output d --seed -1", {"--seed", "-1", "whole number"}},
		{"a --output d --seed 18446744073709551616", {"--seed", "too large"}},
		{"a --output d --seed 1M", {"--seed", "whole number"}},
		{"a --output d --lr nan", {"--lr", "nan", "number"}},
		{"a --output d --lr inf", {"--lr", "number"}},
		{"a --output d --lr 0x10", {"--lr", "number"}},
		{"a --output d --lr 1e999", {"--lr", "number"}},
		{"a --output d --lr -1", {"--lr", "0 to 10"}},
		{"a --output d --lr-decay-style step",
			{"--lr-decay-style", "step", "cosine|linear|constant"}},
		{"a --output d --lr-decay-style cos", {"--lr-decay-style", "cosine|linear|constant"}},
		{"a --output d --memory 4GB", {"--memory", "4GB", "size"}},
		{"a --output d --memory 1K", {"--memory", "too small", "the least is 1M"}},
		{"a --output d --memory 99999999T", {"--memory", "99999999T is too large"}},
		{"a --output d --memory -5G", {"--memory", "size"}},
		{"a --output d --memory 1.2.3", {"--memory", "size"}},
		{"a --output d -x", {"there is no flag -x"}},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct parsed p;
		assert_int_equal(parse(&p, cases[i].line), STATUS_USAGE);
		for (int m = 0; m < 3 && cases[i].message[m]; m++)
			if (!strstr(error_message(), cases[i].message[m]))
				fail_msg("'%s' says: %s", cases[i].line, error_message());
		done(&p);
	}
}

static void hidden_names_work_but_are_not_suggested(void **state)
{
	(void)state;
	struct parsed p;
	assert_int_equal(parse(&p, "a --output d --old-name"), STATUS_OK);
	assert_true(p.bf16);
	done(&p);
	assert_int_equal(parse(&p, "a --output d --old-nam"), STATUS_USAGE);
	assert_null(strstr(error_message(), "--old-name"));
	done(&p);
}

static void one_positional(void **state)
{
	(void)state;
	const char *directory = NULL;
	struct option table[] = {{OPTION_STRING("DIR", &directory, "DIR", "a corpus"), .required = true}};
	struct options options = OPTIONS(table, "verify", "checks");
	char *one[] = {(char[]){"verify"}, (char[]){"x"}, NULL};
	assert_int_equal(options_parse(&options, 2, one), STATUS_OK);
	assert_string_equal(directory, "x");
	table[0].given = false;
	char *two[] = {(char[]){"verify"}, (char[]){"x"}, (char[]){"y"}, NULL};
	assert_int_equal(options_parse(&options, 3, two), STATUS_USAGE);
	assert_non_null(strstr(error_message(), "'y'"));
}

static void sizes(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {{"0", 0}, {"17", 17}, {"4K", 4096}, {"4k", 4096}, {"512M", UINT64_C(512) << 20},
		{"4G", UINT64_C(4) << 30}, {"2T", UINT64_C(2) << 40}, {"0.5K", 512},
		{"18446744073709551615", UINT64_MAX}};
	static const char *const bad[] = {
		"", "K", "-1", "4X", "4KB", "1.2.3", ".", " 4", "18446744073709551616", "16777216T", "1e3"};
	uint64_t bytes;
	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		assert_true(options_parse_size(good[i].text, &bytes));
		assert_true(bytes == good[i].bytes);
	}
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		if (options_parse_size(bad[i], &bytes))
			fail_msg("'%s' was taken for a size: %" PRIu64, bad[i], bytes);
}

static void nearest(void **state)
{
	(void)state;
	static const char *const names[] = {"train", "generate", "encode", "decode"};
	assert_string_equal(options_nearest("trian", names, 4), "train");
	assert_string_equal(options_nearest("genrate", names, 4), "generate");
	assert_string_equal(options_nearest("deocde", names, 4), "decode");
	assert_null(options_nearest("xyzzy", names, 4));
	assert_null(options_nearest("", names, 4));
}

/* Help names every flag that is not hidden, with defaults as they are, and fits its width. */
static void help(void **state)
{
	(void)state;
	struct parsed p;
	assert_int_equal(parse(&p, "a --output d"), STATUS_OK);
	char *text = NULL;
	size_t bytes;
	FILE *out = open_memstream(&text, &bytes);
	p.output = NULL;
	p.options.details =
		"  short   line\n"
		"a paragraph that is a good deal longer than a line of help may be, so that it has to be "
		"wrapped somewhere";
	options_print_help(&p.options, out);
	fclose(out);
	assert_non_null(strstr(text, "usage: ferry test --output DIR [flags] INPUT...\n"));
	assert_non_null(strstr(text, "--num-layers N"));
	assert_non_null(strstr(text, "(default 12)"));
	assert_non_null(strstr(text, "(default 4G)"));
	assert_non_null(strstr(text, "(default 0.0001)"));
	assert_non_null(strstr(text, "(default cosine)"));
	assert_non_null(strstr(text, "\nFlags:\n"));
	assert_null(strstr(text, "--old-name"));
	assert_non_null(strstr(text, "\n  short   line\na paragraph"));
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
		assert_true(strlen(line) <= 100);
	free(text);
	done(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_kind),
		cmocka_unit_test(words_end_at_the_next_flag),
		cmocka_unit_test(defaults_stay),
		cmocka_unit_test(refusals),
		cmocka_unit_test(hidden_names_work_but_are_not_suggested),
		cmocka_unit_test(one_positional),
		cmocka_unit_test(sizes),
		cmocka_unit_test(nearest),
		cmocka_unit_test(help),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
