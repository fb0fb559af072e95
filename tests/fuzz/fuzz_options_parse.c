/* options_parse on any words (the input, cut at NUL bytes), and the numbers and shares that users write. */
#include "data/split.h"
#include "tests/fuzz/fuzz.h"
#include "tools/options.h"

static void check_words(int argc, char **argv)
{
	int integer = 5, choice = 1;
	uint64_t number = 6, size = 7;
	double real = 0.5;
	bool flag = false;
	const char *text = "text";
	struct option_list list = {0}, words = {0};
	struct option table[] = {
		{OPTION_HEADING("All")},
		{OPTION_INT("--layers", &integer, 1, 1000, "N", "an integer")},
		{OPTION_U64("--seed", &number, 0, UINT64_MAX, "N", "any integer")},
		{OPTION_DOUBLE("--rate", &real, 0, 10, "RATE", "a number")},
		{OPTION_SIZE("--memory", &size, 1, UINT64_MAX, "SIZE", "a size")},
		{OPTION_CHOICE("--style", &choice, "cosine|linear|constant", "a choice")},
		{OPTION_STRING("--save", &text, "DIR", "a text")},
		{OPTION_FLAG("--flag", &flag, "a flag")},
		{OPTION_WORDS("--data", &words, "WORD", "words")},
		{OPTION_LIST("INPUT", &list, "INPUT", "positionals")},
	};
	struct options options = OPTIONS(table, "fuzz", "Summary.");
	enum status status = options_parse(&options, argc, argv);
	CHECK(status == STATUS_OK || status == STATUS_USAGE, "%s", error_message());
	if (status == STATUS_OK) {
		CHECK(integer >= 1 && integer <= 1000, "%d", integer);
		CHECK(real >= 0 && real <= 10, "%g", real);
		CHECK(size >= 1, "0");
		CHECK(choice >= 0 && choice < 3, "%d", choice);
	}
	free((void *)list.items);
	free((void *)words.items);
}

static void check_size(const char *word)
{
	uint64_t bytes;
	if (!options_parse_size(word, &bytes))
		return;
	char *end;
	double number = strtod(word, &end);
	int power = *end ? (int)(strchr("KMGTkmgt", *end) - "KMGTkmgt") % 4 + 1 : 0;
	while (power--)
		number *= 1024;
	CHECK(number >= 0 && (double)bytes >= number * 0.999 - 1 && (double)bytes <= number * 1.001 + 1,
		"%s: %g", word, number);
}

/* The parts of the key space follow each other and cover it; what is printed is parsed to the same. */
static void check_split(const char *word)
{
	struct split_shares shares, again;
	struct split_keys keys[SPLIT_PARTS];
	char text[SPLIT_TEXT];
	if (split_parse(word, &shares) != STATUS_OK)
		return;
	split_cut(&shares, keys);
	uint64_t next = 0;
	bool whole = false;
	for (int i = 0; i < SPLIT_PARTS; i++) {
		if (keys[i].empty)
			continue;
		CHECK(!whole && keys[i].first == next && keys[i].last >= next, "part %d of %s", i, word);
		whole = keys[i].last == UINT64_MAX;
		next = keys[i].last + 1;
	}
	CHECK(whole, "%s leaves keys over", word);
	split_format(&shares, text);
	CHECK(split_parse(text, &again) == STATUS_OK && split_same(&shares, &again), "%s printed as %s", word,
		text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	enum { MOST = 32 };
	char *argv[MOST + 1] = {(char *)"ferry"}, *text = malloc(bytes + 1);
	int argc = 1;
	bool help = false;
	CHECK(text, "no memory");
	memcpy(text, data, bytes);
	text[bytes] = 0;
	for (char *at = text; at <= text + bytes && argc < MOST; at += strlen(at) + 1)
		argv[argc++] = at;
	for (int i = 1; i < argc; i++) {
		help = help || !strcmp(argv[i], "-h") || !strcmp(argv[i], "--help") ||
		       !strncmp(argv[i], "--help-", 7);
		check_size(argv[i]);
		check_split(argv[i]);
	}
	if (!help) /* which prints */
		check_words(argc, argv);
	free(text);
	return 0;
}
