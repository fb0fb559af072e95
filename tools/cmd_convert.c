/*
 * cmd_convert.c: `ferry convert`: files of ids of Megatron-LM, llm.c and nanoGPT to a corpus, and back.
 */
#include "common/endian.h"
#include "common/file.h"
#include "common/threads.h"
#include "data/corpus_export.h"
#include "data/preprocess.h"
#include "tools/command.h"
#include "tools/options.h"
#include "tools/output.h"
#include "tools/terminal.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FORMATS "megatron|llmc|nanogpt" /* as enum token_format counts them, from 1 */

struct settings {
	struct option_list inputs;
	const char *output, *merge_file, *vocab_file;
	int from, to; /* enum token_format; from NONE: found out, to NONE: a corpus */
	int workers;
	uint64_t memory, max_bytes, file_tokens;
	bool overwrite;
};

static volatile sig_atomic_t stop_asked;

static void ask_to_stop(int number)
{
	(void)number;
	stop_asked = 1;
}

/* The first signal asks; a second one ends the program at once, as if there were no handler. */
static void catch_signals(void)
{
	struct sigaction action = {.sa_handler = ask_to_stop, .sa_flags = (int)SA_RESETHAND | SA_RESTART};
	sigemptyset(&action.sa_mask);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
}

/* ---- to a corpus ---- */

static bool show_import(void *user, const struct preprocess_progress *progress)
{
	struct progress_line *line = user;
	line->label = progress->pass == 1 ? "reading" : "writing shards";
	progress_line_update(line, "%s of %s, %s documents, %s tokens",
		human_bytes((double)progress->bytes_done).text,
		human_bytes((double)progress->bytes_total).text,
		human_count((double)progress->documents).text, human_count((double)progress->tokens).text);
	return !stop_asked;
}

/* Megatron-LM's have an index beside them, llm.c's a magic number; nanoGPT's could be anything. */
static enum status find_format(const char *name, enum token_format *format)
{
	char *path;
	uint8_t magic[4] = {0};
	size_t length = strlen(name), got = 0;
	if (length > 4 && (strcmp(name + length - 4, ".bin") == 0 || strcmp(name + length - 4, ".idx") == 0))
		length -= 4;
	if (asprintf(&path, "%.*s.idx", (int)length, name) < 0)
		return error_set(STATUS_MEMORY, "no memory for a path");
	bool index = file_exists(path);
	free(path);
	*format = TOKEN_FORMAT_MEGATRON;
	if (index)
		return STATUS_OK;
	int fd;
	TRY(file_open_read(name, &fd));
	enum status status = file_read_some(fd, name, magic, sizeof magic, &got);
	(void)file_system->close(fd); /* only read: closing it cannot lose anything */
	TRY(status);
	*format = TOKEN_FORMAT_LLMC;
	FAIL_IF(load_le32(magic) != LLMC_MAGIC, STATUS_USAGE,
		"%s: has no .idx beside it and does not begin as llm.c's; say what it is: --from " FORMATS,
		name);
	return STATUS_OK;
}

static void print_import(const struct settings *settings, const struct preprocess_result *result)
{
	printf("corpus      %s: %s documents in %" PRIu64 " shard%s\n", settings->output,
		human_grouped(result->documents).text, result->shards, result->shards == 1 ? "" : "s");
	printf("tokens      %s, %.3f bytes of text each\n", human_grouped(result->tokens).text,
		result->tokens ? (double)result->bytes / (double)result->tokens : 0);
	printf("dropped     %s duplicates, %s empty, %s rejected\n", human_grouped(result->duplicates).text,
		human_grouped(result->empty).text, human_grouped(result->rejected).text);
	printf("time        %s\n", human_seconds(result->seconds[0] + result->seconds[1]).text);
}

static enum status refuse_folder(const char *name)
{
	struct stat info;
	char *path;
	if (stat(name, &info) < 0 || !S_ISDIR(info.st_mode))
		return STATUS_OK;
	TRY(path_join(&path, name, "corpus.json"));
	bool corpus = file_exists(path);
	free(path);
	FAIL_IF(corpus, STATUS_USAGE, "%s: is a corpus; --to " FORMATS " writes it as files of ids", name);
	return error_set(STATUS_USAGE, "%s: is a folder; name the files of ids in it", name);
}

static enum status import_files(const struct settings *settings)
{
	struct tokenizer *tokenizer;
	struct preprocess_result result;
	struct progress_line line = progress_line_start(stderr, "reading");
	enum token_format format = (enum token_format)settings->from;
	for (size_t i = 0; i < settings->inputs.count; i++)
		TRY(refuse_folder(settings->inputs.items[i]));
	TRY(output_check(OUTPUT_CORPUS, "--output", settings->output));
	if (!format)
		TRY(find_format(settings->inputs.items[0], &format));
	FAIL_IF(settings->vocab_file && !settings->merge_file, STATUS_USAGE,
		"--vocab-file needs --merge-file: a byte-level BPE is both");
	TRY(settings->merge_file
			? tokenizer_open_files(settings->merge_file, settings->vocab_file, &tokenizer)
			: tokenizer_open_gpt2(&tokenizer));
	catch_signals();
	enum status status = preprocess_run(
		&(struct preprocess_config){
			.inputs = settings->inputs.items,
			.input_count = settings->inputs.count,
			.token_format = format,
			.output = settings->output,
			.tokenizer = tokenizer,
			.text_key = "text",
			.workers = settings->workers,
			.memory = settings->memory,
			.max_bytes = settings->max_bytes,
			.overwrite = settings->overwrite,
			.progress = show_import,
			.user = &line,
		},
		&result);
	progress_line_clear(&line);
	tokenizer_close(tokenizer);
	if (status == STATUS_OK)
		print_import(settings, &result);
	return status;
}

/* ---- from a corpus ---- */

static bool show_export(void *user, uint64_t done, uint64_t total)
{
	progress_line_update(
		user, "%s of %s tokens", human_count((double)done).text, human_count((double)total).text);
	return !stop_asked;
}

static enum status export_corpus(const struct settings *settings)
{
	struct corpus *corpus;
	uint64_t files;
	FAIL_IF(settings->inputs.count != 1, STATUS_USAGE,
		"--to takes one corpus; `ferry merge` joins several");
	struct progress_line line = progress_line_start(stderr, "writing");
	TRY(corpus_open(settings->inputs.items[0], &corpus));
	catch_signals();
	enum status status = corpus_export_run(corpus,
		&(struct corpus_export_config){
			.format = (enum token_format)settings->to,
			.prefix = settings->output,
			.file_tokens = settings->file_tokens,
			.overwrite = settings->overwrite,
			.progress = show_export,
			.user = &line,
		},
		&files);
	progress_line_clear(&line);
	const struct corpus_info *info = corpus_get_info(corpus);
	if (status == STATUS_OK)
		printf("written     %s documents, %s tokens, %" PRIu64 " file%s %s%s.bin\n",
			human_grouped(info->documents).text, human_grouped(info->tokens).text, files,
			files == 1 ? "" : "s", settings->output,
			settings->to == TOKEN_FORMAT_LLMC ? "_NNNNNN" : "");
	corpus_close(corpus);
	return status;
}

static enum status run(int argc, char **argv)
{
	struct settings settings = {
		.workers = threads_available(),
		.memory = UINT64_C(4) << 30,
		.max_bytes = UINT64_C(64) << 20,
		.file_tokens = 100000000,
	};
	struct option table[] = {
		{OPTION_LIST("INPUT", &settings.inputs, "INPUT",
			 "files of ids (Megatron-LM's by their prefix or .bin); with --to: one corpus"),
			.required = true},
		{OPTION_STRING("--output", &settings.output, "PATH",
			 "the corpus; with --to: what the files' names begin with"),
			.required = true},
		{OPTION_CHOICE("--from", &settings.from, "auto|" FORMATS,
			"what the inputs are; nanoGPT's must be said")},
		{OPTION_CHOICE("--to", &settings.to, "corpus|" FORMATS, "what to write")},
		{OPTION_FLAG("--overwrite", &settings.overwrite, "replace what is there")},
		{OPTION_HEADING("To a corpus")},
		{OPTION_STRING("--merge-file", &settings.merge_file, "FILE",
			 "merges.txt or vocab.bpe of the tokenizer that made the ids"),
			.default_text = "GPT-2's, built in"},
		{OPTION_STRING("--vocab-file", &settings.vocab_file, "FILE", "vocab.json or encoder.json"),
			.default_text = "follows from the merges"},
		{OPTION_SIZE("--max-bytes", &settings.max_bytes, 1, UINT64_C(1) << 30, "SIZE",
			"longer documents are rejected")},
		{OPTION_INT("--workers", &settings.workers, 1, 4096, "N", "threads"),
			.default_text = "the processors there are"},
		{OPTION_SIZE("--memory", &settings.memory, 1 << 20, UINT64_C(1) << 50, "SIZE",
			"for spilling and sorting")},
		{OPTION_HEADING("From a corpus")},
		{OPTION_U64("--file-tokens", &settings.file_tokens, 1, INT32_MAX, "N",
			"llm.c's files: tokens of each at most")},
	};
	struct options options = OPTIONS(table, "convert",
		"files of ids (Megatron-LM, llm.c, nanoGPT) to a corpus, or a corpus to them");
	options.details =
		"Documents keep their ids; nothing is tokenized again. To a corpus: exact duplicates are "
		"dropped,\nand killed at any point, the same command goes on.";
	enum status status = options_parse(&options, argc, argv);
	if (status == STATUS_OK && !options.help) {
		if (settings.to && settings.from)
			status = error_set(STATUS_USAGE, "--from and --to: one side is always a corpus");
		else
			status = settings.to ? export_corpus(&settings) : import_files(&settings);
	}
	free(settings.inputs.items);
	return status;
}

int cmd_convert(int argc, char **argv)
{
	return command_finish("convert", run(argc, argv));
}
