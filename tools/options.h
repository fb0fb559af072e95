/*
 * options.h: command-line flags from a table.
 *
 * Each entry names a flag, its typed target and its help; the target's value before parsing is the default,
 * and is what --help shows. Accepted: `--name value`, `--name=value`, `--flag`, `--` (the rest are
 * positionals), `-` (a positional), -h and --help. Long names only, in full. Wrong input is STATUS_USAGE with
 * a message that names the flag, what is allowed and, for an unknown flag, the nearest one. A flag given twice
 * is an error (lists may repeat).
 *
 *	struct option table[] = {
 *		{OPTION_HEADING("Model")},
 *		{OPTION_INT("--num-layers", &layers, 1, 1000, "N", "transformer layers")},
 *		{OPTION_U64("--seed", &seed, 0, UINT64_MAX, "N", "seed of everything random")},
 *		{OPTION_DOUBLE("--lr", &lr, 0, 10, "RATE", "peak learning rate")},
 *		{OPTION_SIZE("--memory", &memory, 1 << 20, UINT64_MAX, "SIZE", "bytes: 512M, 4G")},
 *		{OPTION_CHOICE("--lr-decay-style", &style, "cosine|linear|constant", "shape of the decay")},
 *		{OPTION_STRING("--save", &directory, "DIR", "where checkpoints go"), .default_text = "none"},
 *		{OPTION_FLAG("--bf16", &bf16, "train in bfloat16")},
 *		{OPTION_LIST("INPUT", &inputs, "INPUT", "files or folders"), .required = true},
 *	};
 *
 * A name without dashes takes the positionals: OPTION_LIST all of them, OPTION_STRING one, in table order. A
 * help of NULL hides the entry from --help (aliases, flags accepted for compatibility). A default that is
 * a sentinel gets a `.default_text` ("" shows none). Text values point into argv.
 */
#ifndef TOOLS_OPTIONS_H
#define TOOLS_OPTIONS_H

#include "common/error.h"

#include <stdint.h>
#include <stdio.h>

enum option_kind {
	OPTION_KIND_HEADING,
	OPTION_KIND_FLAG,
	OPTION_KIND_STRING,
	OPTION_KIND_LIST,
	OPTION_KIND_WORDS,
	OPTION_KIND_INT,
	OPTION_KIND_U64,
	OPTION_KIND_DOUBLE,
	OPTION_KIND_SIZE,
	OPTION_KIND_CHOICE,
};

struct option_list {
	const char **items; /* [count], into argv; malloc'ed: free(items) */
	size_t count;
};

struct option {
	const char *name;
	enum option_kind kind;
	union {
		bool *flag;
		const char **string;
		struct option_list *list;
		int *integer; /* of OPTION_CHOICE: index into the choices */
		uint64_t *u64;
		double *real;
	} target;
	double least, most;       /* inclusive */
	const char *metavar;      /* what help calls the value; of OPTION_CHOICE: the choices, "a|b|c" */
	const char *help;         /* NULL: hidden */
	const char *default_text; /* instead of the target's value, in help */
	bool required;
	bool may_be_empty; /* of text: "" is a value, and not the error that it is elsewhere */
	bool given;        /* set by options_parse: it was on the command line */
};

#define OPTION_HEADING(text) .kind = OPTION_KIND_HEADING, .help = (text)
#define OPTION_FLAG(flag_name, pointer, text)                                                                \
	.name = (flag_name), .kind = OPTION_KIND_FLAG, .target.flag = (pointer), .help = (text)
#define OPTION_STRING(flag_name, pointer, meta, text)                                                        \
	.name = (flag_name), .kind = OPTION_KIND_STRING, .target.string = (pointer), .metavar = (meta),      \
	.help = (text)
#define OPTION_LIST(flag_name, pointer, meta, text)                                                          \
	.name = (flag_name), .kind = OPTION_KIND_LIST, .target.list = (pointer), .metavar = (meta),          \
	.help = (text)
/* A flag with one value or more: takes all that follows, up to the next flag. */
#define OPTION_WORDS(flag_name, pointer, meta, text)                                                         \
	.name = (flag_name), .kind = OPTION_KIND_WORDS, .target.list = (pointer), .metavar = (meta),         \
	.help = (text)
#define OPTION_NUMBER_(flag_name, which, member, pointer, low, high, meta, text)                             \
	.name = (flag_name), .kind = OPTION_KIND_##which, .target.member = (pointer),                        \
	.least = (double)(low), .most = (double)(high), .metavar = (meta), .help = (text)
#define OPTION_INT(flag_name, pointer, low, high, meta, text)                                                \
	OPTION_NUMBER_(flag_name, INT, integer, pointer, low, high, meta, text)
#define OPTION_U64(flag_name, pointer, low, high, meta, text)                                                \
	OPTION_NUMBER_(flag_name, U64, u64, pointer, low, high, meta, text)
#define OPTION_DOUBLE(flag_name, pointer, low, high, meta, text)                                             \
	OPTION_NUMBER_(flag_name, DOUBLE, real, pointer, low, high, meta, text)
/* A size in bytes: a number with K, M, G or T (powers of 1024) behind it, or none. The target is a u64. */
#define OPTION_SIZE(flag_name, pointer, low, high, meta, text)                                               \
	OPTION_NUMBER_(flag_name, SIZE, u64, pointer, low, high, meta, text)
#define OPTION_CHOICE(flag_name, pointer, choices, text)                                                     \
	.name = (flag_name), .kind = OPTION_KIND_CHOICE, .target.integer = (pointer), .metavar = (choices),  \
	.help = (text)

struct options {
	const char *command; /* "preprocess" */
	const char *summary; /* below the usage line */
	const char *details; /* below the flags, may be NULL */
	struct option *table;
	size_t count;
	bool help; /* set by options_parse: help was asked for and printed; return 0 */
};
#define OPTIONS(array, command_name, summary_text)                                                           \
	{                                                                                                    \
		.command = (command_name), .summary = (summary_text), .table = (array),                      \
		.count = sizeof(array) / sizeof *(array)                                                     \
	}

/* argv[0] is skipped. With --help anywhere: prints help to standard output (of several processes the first does: part.h),
 * sets help, checks nothing else. */
enum status options_parse(struct options *options, int argc, char **argv) MUST_USE;

/* True if the flag (its full name; it must be in the table) was on the command line. */
bool options_given(const struct options *options, const char *name);

void options_print_help(const struct options *options, FILE *out);
/* The same as a section of the manual page (troff, man macros); `ferry COMMAND --help-manual` prints it. */
void options_print_manual(const struct options *options, FILE *out);

/* "1.5G" to bytes; false if it is not a size or overflows. */
bool options_parse_size(const char *text, uint64_t *out);

/* Of the names, the one nearest to `word` (edit distance, a third of its length at most); NULL when none is
 * near. */
const char *options_nearest(const char *word, const char *const *names, size_t count);

#endif
