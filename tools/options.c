#include "tools/options.h"

#include "common/memory.h"
#include "tools/part.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool is_positional(const struct option *option)
{
	return option->kind != OPTION_KIND_HEADING && option->name[0] != '-';
}

/* The entry whose name is the first `length` bytes of `name`. */
static struct option *find(const struct options *options, const char *name, size_t length)
{
	for (size_t i = 0; i < options->count; i++) {
		struct option *option = &options->table[i];
		if (option->kind != OPTION_KIND_HEADING && strlen(option->name) == length &&
			memcmp(option->name, name, length) == 0)
			return option;
	}
	return NULL;
}

/* ---- the nearest name ---- */

/* Levenshtein's distance, with a swap of neighbours as one edit. */
static size_t edit_distance(const char *a, const char *b)
{
	enum { LONGEST = 64 };
	size_t rows[3][LONGEST + 1];
	size_t *before = rows[0], *last = rows[1], *now = rows[2];
	size_t n = strlen(a), m = strlen(b);
	if (n > LONGEST || m > LONGEST)
		return SIZE_MAX;
	for (size_t j = 0; j <= m; j++)
		last[j] = j;
	memset(before, 0, sizeof rows[0]);
	for (size_t i = 1; i <= n; i++) {
		now[0] = i;
		for (size_t j = 1; j <= m; j++) {
			size_t best = last[j - 1] + (a[i - 1] != b[j - 1]);
			if (last[j] + 1 < best)
				best = last[j] + 1;
			if (now[j - 1] + 1 < best)
				best = now[j - 1] + 1;
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
				before[j - 2] + 1 < best)
				best = before[j - 2] + 1;
			now[j] = best;
		}
		size_t *spare = before;
		before = last;
		last = now;
		now = spare;
	}
	return last[m];
}

const char *options_nearest(const char *word, const char *const *names, size_t count)
{
	const char *nearest = NULL;
	size_t least = strlen(word) / 3 + 1;
	for (size_t i = 0; i < count; i++) {
		size_t distance = edit_distance(word, names[i]);
		if (distance < least) {
			least = distance;
			nearest = names[i];
		}
	}
	return nearest;
}

static enum status unknown_flag(const struct options *options, const char *name, size_t length)
{
	char *word = strndup(name, length);
	const char **names = calloc(options->count + 1, sizeof *names);
	const char *nearest = NULL;
	if (word && names) {
		size_t count = 0;
		for (size_t i = 0; i < options->count; i++) {
			const struct option *option = &options->table[i];
			if (option->kind != OPTION_KIND_HEADING && !is_positional(option) && option->help)
				names[count++] = option->name;
		}
		nearest = options_nearest(word, names, count);
	}
	enum status status = error_set(STATUS_USAGE, "there is no flag %.*s%s%s%s", (int)length, name,
		nearest ? "; did you mean " : "", nearest ? nearest : "", nearest ? "?" : "");
	free(word);
	free(names);
	return status;
}

/* ---- values ---- */

static enum status bad_value(const struct option *option, const char *text, const char *wanted)
{
	return error_set(STATUS_USAGE, "%s: '%s' is not %s", option->name, text, wanted);
}

/* A limit as one would type it: 1000, 512M. */
struct limit {
	char text[32];
};

static struct limit show_limit(const struct option *option, double number)
{
	static const char units[] = "KMGT";
	struct limit limit;
	int unit = -1;
	if (option->kind == OPTION_KIND_SIZE)
		for (; unit < 3 && number >= 1024 && fmod(number, 1024) == 0; unit++)
			number /= 1024;
	snprintf(limit.text, sizeof limit.text, "%.15g%.*s", number, unit >= 0,
		units + (unit >= 0 ? unit : 0));
	return limit;
}

static enum status out_of_range(const struct option *option, const char *text, double number)
{
	bool unbounded = option->most >= (option->kind == OPTION_KIND_INT ? 2147483647.0 : 1.8e19);
	FAIL_IF(unbounded && number > option->most, STATUS_USAGE, "%s: %s is too large", option->name, text);
	FAIL_IF(unbounded, STATUS_USAGE, "%s: %s is too small; the least is %s", option->name, text,
		show_limit(option, option->least).text);
	return error_set(STATUS_USAGE, "%s: %s is out of range; allowed is %s to %s", option->name, text,
		show_limit(option, option->least).text, show_limit(option, option->most).text);
}

/* Of one with more digits than fit, the largest or smallest: out of every range. */
static bool parse_integer(const char *text, long *out)
{
	char *end;
	*out = strtol(text, &end, 10);
	return end != text && !*end;
}

static bool parse_u64(const char *text, uint64_t *out)
{
	if (!*text || strspn(text, "0123456789") != strlen(text))
		return false;
	errno = 0;
	*out = strtoull(text, NULL, 10);
	return errno == 0;
}

static bool parse_real(const char *text, double *out)
{
	char *end;
	if (!*text || strspn(text, "0123456789+-.eE") != strlen(text))
		return false; /* strtod would take "inf", "nan", hexadecimal and leading blanks */
	*out = strtod(text, &end);
	return *end == 0 && isfinite(*out);
}

bool options_parse_size(const char *text, uint64_t *out)
{
	static const char units[] = "kmgt";
	char digits[48];
	size_t length = strspn(text, "0123456789.");
	if (length == 0 || length >= sizeof digits)
		return false;
	memcpy(digits, text, length);
	digits[length] = 0;
	const char *unit = text + length;
	uint64_t factor = 1;
	if (*unit) {
		const char *found = strchr(units, *unit >= 'A' && *unit <= 'Z' ? *unit + 32 : *unit);
		if (!found || unit[1])
			return false;
		factor = UINT64_C(1) << (10 * (found - units + 1));
	}
	if (strchr(digits, '.')) {
		double number;
		if (!parse_real(digits, &number) || number * (double)factor >= 18446744073709551616.0)
			return false;
		*out = (uint64_t)(number * (double)factor);
		return true;
	}
	return parse_u64(digits, out) && !__builtin_mul_overflow(*out, factor, out);
}

/* What is no number of 64 bits: has it the form of one? */
static bool overflows(const char *text, bool size)
{
	size_t digits = strspn(text, "0123456789");
	bool unit = size && text[digits] && strchr("kmgtKMGT", text[digits]);
	return digits && !text[digits + unit];
}

static enum status set_choice(const struct option *option, const char *text)
{
	int index = 0;
	for (const char *choice = option->metavar;; index++) {
		size_t length = strcspn(choice, "|");
		if (strlen(text) == length && memcmp(choice, text, length) == 0) {
			*option->target.integer = index;
			return STATUS_OK;
		}
		if (!choice[length])
			return error_set(STATUS_USAGE, "%s: '%s' is not one of %s", option->name, text,
				option->metavar);
		choice += length + 1;
	}
}

static enum status append(struct option_list *list, const char *text)
{
	const char **items = reallocarray(list->items, list->count + 1, sizeof *items);
	FAIL_IF(!items, STATUS_MEMORY, "no memory for the command line");
	items[list->count++] = text;
	list->items = items;
	return STATUS_OK;
}

static enum status set_number(struct option *option, const char *text)
{
	double number = 0;
	switch (option->kind) {
	case OPTION_KIND_INT: {
		long integer;
		if (!parse_integer(text, &integer))
			return bad_value(option, text, "a whole number");
		number = (double)integer;
		if (number >= option->least && number <= option->most)
			*option->target.integer = (int)integer;
		break;
	}
	case OPTION_KIND_U64:
	case OPTION_KIND_SIZE: {
		uint64_t u64;
		bool size = option->kind == OPTION_KIND_SIZE;
		bool fits = (size ? options_parse_size : parse_u64)(text, &u64);
		if (!fits && !overflows(text, size))
			return bad_value(option, text,
				size ? "a size (like 512M or 4G)" : "a whole number of 0 or more");
		number = fits ? (double)u64 : HUGE_VAL;
		if (fits && number >= option->least && number <= option->most)
			*option->target.u64 = u64;
		break;
	}
	default:
		if (!parse_real(text, &number))
			return bad_value(option, text, "a number");
		if (number >= option->least && number <= option->most)
			*option->target.real = number;
		break;
	}
	return number >= option->least && number <= option->most ? STATUS_OK
								 : out_of_range(option, text, number);
}

static enum status set_value(struct option *option, const char *text)
{
	FAIL_IF(option->given && option->kind != OPTION_KIND_LIST, STATUS_USAGE, "%s is given twice",
		option->name);
	option->given = true;
	bool text_value = option->kind == OPTION_KIND_STRING || option->kind == OPTION_KIND_LIST ||
			  option->kind == OPTION_KIND_WORDS;
	FAIL_IF(text_value && !*text && !option->may_be_empty, STATUS_USAGE,
		"%s is empty; is a shell variable not set that should have given it?", option->name);
	switch (option->kind) {
	case OPTION_KIND_STRING:
		*option->target.string = text;
		return STATUS_OK;
	case OPTION_KIND_LIST:
	case OPTION_KIND_WORDS:
		return append(option->target.list, text);
	case OPTION_KIND_CHOICE:
		return set_choice(option, text);
	default:
		return set_number(option, text);
	}
}

static enum status set_flag(struct option *option, const char *value)
{
	FAIL_IF(value, STATUS_USAGE, "%s takes no value", option->name);
	FAIL_IF(option->given, STATUS_USAGE, "%s is given twice", option->name);
	option->given = true;
	*option->target.flag = true;
	return STATUS_OK;
}

static enum status set_positional(struct options *options, const char *text)
{
	for (size_t i = 0; i < options->count; i++) {
		struct option *option = &options->table[i];
		if (option->kind == OPTION_KIND_HEADING || !is_positional(option))
			continue;
		if (option->kind == OPTION_KIND_LIST || !option->given)
			return set_value(option, text);
	}
	return error_set(
		STATUS_USAGE, "'%s': `ferry %s` does not take that argument", text, options->command);
}

/* ---- the command line ---- */

static bool wants_help(int argc, char **argv)
{
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
			return true;
	return false;
}

/* Takes argv[*at] (and perhaps the value after it). */
static enum status parse_flag(struct options *options, int argc, char **argv, int *at)
{
	const char *text = argv[*at];
	const char *equals = strchr(text, '=');
	size_t length = equals ? (size_t)(equals - text) : strlen(text);
	struct option *option = find(options, text, length);
	if (!option)
		return unknown_flag(options, text, length);
	if (option->kind == OPTION_KIND_FLAG)
		return set_flag(option, equals ? equals + 1 : NULL);
	if (equals)
		return set_value(option, equals + 1);
	bool there = *at + 1 < argc && !find(options, argv[*at + 1], strlen(argv[*at + 1]));
	FAIL_IF(!there, STATUS_USAGE, "%s needs a value: %s %s", option->name, option->name, option->metavar);
	TRY(set_value(option, argv[++*at]));
	while (option->kind == OPTION_KIND_WORDS && *at + 1 < argc && argv[*at + 1][0] != '-')
		TRY(append(option->target.list, argv[++*at]));
	return STATUS_OK;
}

static enum status check_required(const struct options *options)
{
	for (size_t i = 0; i < options->count; i++) {
		const struct option *option = &options->table[i];
		if (!option->required || option->given)
			continue;
		FAIL_IF(is_positional(option), STATUS_USAGE, "%s is missing", option->name);
		return error_set(STATUS_USAGE, "%s is missing: give %s %s", option->name, option->name,
			option->metavar);
	}
	return STATUS_OK;
}

enum status options_parse(struct options *options, int argc, char **argv)
{
	bool manual = argc == 2 && strcmp(argv[1], "--help-manual") == 0;
	options->help = manual || wants_help(argc, argv);
	if (options->help && part_follows())
		return STATUS_OK;
	if (options->help) {
		(manual ? options_print_manual : options_print_help)(options, stdout);
		return STATUS_OK;
	}
	bool flags = true;
	for (int i = 1; i < argc; i++) {
		if (flags && strcmp(argv[i], "--") == 0)
			flags = false;
		else if (flags && argv[i][0] == '-' && argv[i][1])
			TRY(parse_flag(options, argc, argv, &i));
		else
			TRY(set_positional(options, argv[i]));
	}
	return check_required(options);
}

bool options_given(const struct options *options, const char *name)
{
	const struct option *option = find(options, name, strlen(name));
	assert(option && "a name that is not in the table");
	return option->given;
}

/* ---- help ---- */

enum { HELP_WIDTH = 100, WIDEST_NAME = 30 };

static void format_default(const struct option *option, char *text, size_t bytes)
{
	static const char units[] = " KMGT";
	text[0] = 0;
	if (option->default_text) {
		snprintf(text, bytes, "%s", option->default_text);
		return;
	}
	switch (option->kind) {
	case OPTION_KIND_STRING:
		snprintf(text, bytes, "%s", *option->target.string ? *option->target.string : "");
		break;
	case OPTION_KIND_INT:
		snprintf(text, bytes, "%d", *option->target.integer);
		break;
	case OPTION_KIND_U64:
		snprintf(text, bytes, "%" PRIu64, *option->target.u64);
		break;
	case OPTION_KIND_DOUBLE:
		snprintf(text, bytes, "%g", *option->target.real);
		break;
	case OPTION_KIND_SIZE: {
		uint64_t size = *option->target.u64;
		int unit = 0;
		while (size && size % 1024 == 0 && unit < 4) {
			size /= 1024;
			unit++;
		}
		snprintf(text, bytes, "%" PRIu64 "%.*s", size, unit ? 1 : 0, units + unit);
		break;
	}
	case OPTION_KIND_CHOICE: {
		const char *choice = option->metavar;
		for (int i = 0; i < *option->target.integer && strchr(choice, '|'); i++)
			choice = strchr(choice, '|') + 1;
		snprintf(text, bytes, "%.*s", (int)strcspn(choice, "|"), choice);
		break;
	}
	default:
		break;
	}
}

/* "--lr RATE" */
static void format_name(const struct option *option, char *text, size_t bytes)
{
	bool value = option->kind != OPTION_KIND_FLAG && !is_positional(option);
	snprintf(text, bytes, "%s%s%s", option->name, value ? " " : "", value ? option->metavar : "");
}

/* The help, with the default. */
static void format_help(const struct option *option, char *text, size_t bytes)
{
	char value[256];
	format_default(option, value, sizeof value);
	snprintf(text, bytes, "%s%s%s%s%s", option->help, value[0] ? " (default " : "", value,
		value[0] ? ")" : "", option->required ? " (required)" : "");
}

/* Prints text wrapped at HELP_WIDTH; it starts in `column` and goes on in `indent`. */
static void print_wrapped(FILE *out, const char *text, int column, int indent)
{
	while (*text) {
		int length = (int)strcspn(text, " ");
		if (column > indent && column + 1 + length > HELP_WIDTH) {
			fprintf(out, "\n%*s", indent, "");
			column = indent;
		} else if (column > indent) {
			fputc(' ', out);
			column++;
		}
		fprintf(out, "%.*s", length, text);
		column += length;
		text += length;
		text += strspn(text, " ");
	}
	fputc('\n', out);
}

static void print_option(const struct option *option, int width, FILE *out)
{
	char name[160], text[1024];
	format_name(option, name, sizeof name);
	format_help(option, text, sizeof text);
	if ((int)strlen(name) > width)
		fprintf(out, "  %s\n%*s", name, width + 4, "");
	else
		fprintf(out, "  %-*s  ", width, name);
	print_wrapped(out, text, width + 4, width + 4);
}

/* Paragraphs: a line that fits stays as it is, a longer one is wrapped. */
static void print_details(FILE *out, const char *text)
{
	while (*text) {
		size_t length = strcspn(text, "\n");
		char *line = strndup(text, length);
		if (line && length > HELP_WIDTH)
			print_wrapped(out, line, 0, 0);
		else
			fprintf(out, "%.*s\n", (int)length, text);
		free(line);
		text += length + (text[length] == '\n');
	}
}

static void print_usage(const struct options *options, FILE *out)
{
	fprintf(out, "usage: ferry %s", options->command);
	for (size_t i = 0; i < options->count; i++) {
		const struct option *option = &options->table[i];
		if (option->kind == OPTION_KIND_HEADING || is_positional(option) || !option->required)
			continue;
		fprintf(out, " %s %s", option->name, option->metavar);
	}
	fprintf(out, " [flags]");
	for (size_t i = 0; i < options->count; i++) {
		const struct option *option = &options->table[i];
		if (option->kind == OPTION_KIND_HEADING || !is_positional(option))
			continue;
		fprintf(out, option->required ? " %s%s" : " [%s%s]", option->name,
			option->kind == OPTION_KIND_LIST ? "..." : "");
	}
	fprintf(out, "\n");
}

void options_print_help(const struct options *options, FILE *out)
{
	int width = 0;
	for (size_t i = 0; i < options->count; i++) {
		char name[160];
		if (options->table[i].kind == OPTION_KIND_HEADING || !options->table[i].help)
			continue;
		format_name(&options->table[i], name, sizeof name);
		int length = (int)strlen(name);
		if (length > width && length <= WIDEST_NAME)
			width = length;
	}
	print_usage(options, out);
	fprintf(out, "\n");
	print_wrapped(out, options->summary, 0, 0);
	fprintf(out, "\n");
	for (size_t i = 0; i < options->count; i++) {
		const struct option *option = &options->table[i];
		if (option->kind == OPTION_KIND_HEADING)
			fprintf(out, "%s%s:\n", i ? "\n" : "", option->help);
		else if (option->help)
			print_option(option, width, out);
	}
	if (options->details) {
		fprintf(out, "\n");
		print_details(out, options->details);
	}
}

/* ---- the manual page ---- */

/* Text for troff: hyphens that are hyphens, backslashes that are backslashes, no accidental requests. */
static void print_roff(FILE *out, const char *text)
{
	if (*text == '.' || *text == '\'')
		fputs("\\&", out);
	for (; *text; text++) {
		if (*text == '-' || *text == '\\')
			fputs(*text == '-' ? "\\-" : "\\e", out);
		else
			fputc(*text, out);
	}
}

void options_print_manual(const struct options *options, FILE *out)
{
	fprintf(out, ".SS ferry %s\n", options->command);
	print_roff(out, options->summary);
	fprintf(out, "\n");
	for (size_t i = 0; i < options->count; i++) {
		const struct option *option = &options->table[i];
		if (!option->help)
			continue;
		if (option->kind == OPTION_KIND_HEADING) {
			fprintf(out, ".PP\n%s:\n", option->help);
			continue;
		}
		char name[160], text[1024];
		format_name(option, name, sizeof name);
		format_help(option, text, sizeof text);
		fprintf(out, ".TP\n\\fB");
		print_roff(out, name);
		fprintf(out, "\\fR\n");
		print_roff(out, text);
		fprintf(out, "\n");
	}
	if (!options->details)
		return;
	fprintf(out, ".PP\n.nf\n");
	for (const char *line = options->details; *line;) {
		int length = (int)strcspn(line, "\n");
		char text[1024];
		snprintf(text, sizeof text, "%.*s", length, line);
		if (length > HELP_WIDTH)
			fprintf(out, ".fi\n");
		print_roff(out, text);
		fprintf(out, length > HELP_WIDTH ? "\n.nf\n" : "\n");
		line += length + (line[length] == '\n');
	}
	fprintf(out, ".fi\n");
}
