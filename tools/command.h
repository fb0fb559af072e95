/*
 * command.h: the subcommands of `ferry`, and how each begins and ends.
 *
 * A subcommand NAME is one file, tools/cmd_NAME.c, that defines `int cmd_NAME(int argc, char **argv)`:
 * argv[0] is the name, the rest its arguments; it returns the process's exit code. The usual shape:
 *
 *	static enum status run(int argc, char **argv)
 *	{
 *		struct preprocess_config config = {...defaults...};
 *		struct option table[] = {
 *			{OPTION_LIST("INPUT", &inputs, "INPUT", "files or folders"), .required = true},
 *			{OPTION_STRING("--output", &config.output, "DIR", "the corpus"), .required = true},
 *		};
 *		struct options options = OPTIONS(table, "preprocess", "text in, a corpus out");
 *		TRY(options_parse(&options, argc, argv));
 *		if (options.help)
 *			return STATUS_OK;
 *		...
 *	}
 *
 *	int cmd_preprocess(int argc, char **argv)
 *	{
 *		return command_finish("preprocess", run(argc, argv));
 *	}
 */
#ifndef TOOLS_COMMAND_H
#define TOOLS_COMMAND_H

#include "common/error.h"

/* cmd_ what, name, one-line summary; in the order of `ferry help`. */
#define COMMANDS(X)                                                                                          \
	X(preprocess, "preprocess", "text in (.jsonl, .txt, folders; .zst, .gz), a tokenized corpus out")    \
	X(train, "train", "a corpus in, a trained GPT-2 out: log, metrics, checkpoints")                     \
	X(plan, "plan", "memory, traffic and time of a training step, before it is run")                     \
	X(evaluate, "evaluate", "loss, perplexity and bits per byte of a checkpoint on a corpus")            \
	X(generate, "generate", "text from a checkpoint and a prompt")                                       \
	X(encode, "encode", "text on standard input to token ids")                                           \
	X(decode, "decode", "token ids on standard input to text")                                           \
	X(inspect, "inspect", "what a corpus holds: documents, tokens, splits, one document's text")         \
	X(verify, "verify", "reads and checks every byte of a corpus")                                       \
	X(merge, "merge", "several corpora to one, without tokenizing again")                                \
	X(convert, "convert", "files of ids (Megatron-LM, llm.c, nanoGPT) to a corpus, and back")            \
	X(train_tokenizer, "train-tokenizer", "learns a byte-level BPE from text")

#define COMMAND_DECLARE(symbol, name, summary) int cmd_##symbol(int argc, char **argv);
COMMANDS(COMMAND_DECLARE)

/*
 * The end of a command. On failure prints "ferry NAME: the message" to standard error (and, for STATUS_USAGE,
 * where help is). Then flushes standard output: a failed write there (disk full) is a failure too.
 * Returns the exit code (error_exit_code).
 */
int command_finish(const char *name, enum status status);

/* Says on standard error where `text` (may be NULL) looks as if it were meant for a line's end: a backslash and an n are
 * taken as they are. Of several processes the first says it. */
void command_note_escapes(const char *flag, const char *text);

#endif
