/*
 * cmd_train_tokenizer.c: `ferry train-tokenizer`: learns a byte-level BPE from text.
 */
#include "common/threads.h"
#include "data/train_tokenizer.h"
#include "tokenizer/tokenizer.h"
#include "tools/command.h"
#include "tools/options.h"
#include "tools/output.h"
#include "tools/terminal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static bool show_progress(void *user, const struct train_tokenizer_progress *progress)
{
	struct progress_line *line = user;
	if (progress->merges_total) {
		line->label = "merging";
		progress_line_update(line, "%s of %s merges", human_count(progress->merges).text,
			human_count(progress->merges_total).text);
	} else {
		double seconds = progress_line_seconds(line);
		progress_line_update(line, "%s of %s, %s/s", human_bytes((double)progress->bytes_done).text,
			human_bytes((double)progress->bytes_total).text,
			human_bytes(seconds > 0 ? (double)progress->bytes_done / seconds : 0).text);
	}
	return true;
}

static void print_result(
	const struct train_tokenizer_config *config, const struct train_tokenizer_result *result)
{
	printf("tokenizer   %s: %s ids\n", config->output, human_grouped(result->vocabulary).text);
	if (result->vocabulary < config->vocabulary)
		printf("            fewer than asked for: no pair is left that occurs %" PRIu64 " times\n",
			config->least_count);
	printf("text        %s documents, %s bytes, %s different words\n",
		human_grouped(result->documents).text, human_grouped(result->bytes).text,
		human_grouped(result->words).text);
	if (result->skipped)
		printf("passed over %s bad lines or documents that are too long\n",
			human_grouped(result->skipped).text);
	printf("time        %s (counting %s, merging %s)\n",
		human_seconds(result->seconds[0] + result->seconds[1]).text,
		human_seconds(result->seconds[0]).text, human_seconds(result->seconds[1]).text);
	char path[4096];
	snprintf(path, sizeof path, "%s/merges.txt", config->output);
	printf("\nNext:\n  ferry preprocess ... --merge-file %s\n", shell_word(path).text);
}

static enum status train(struct train_tokenizer_config *config)
{
	struct train_tokenizer_result result;
	TRY(output_check(OUTPUT_TOKENIZER, "--output", config->output));
	command_note_escapes("--document-separator", config->document_separator);
	struct progress_line line = progress_line_start(stderr, "counting");
	config->progress = show_progress;
	config->user = &line;
	enum status status = train_tokenizer_run(config, &result);
	progress_line_clear(&line);
	TRY(status);
	print_result(config, &result);
	return STATUS_OK;
}

static enum status run(int argc, char **argv)
{
	struct option_list inputs = {0};
	struct train_tokenizer_config config = {
		.text_key = "text",
		.max_bytes = UINT64_C(64) << 20,
		.workers = threads_available(),
	};
	uint64_t vocabulary = TOKENIZER_GPT2_VOCABULARY;
	config.least_count = 2;
	struct option table[] = {
		{OPTION_LIST("INPUT", &inputs, "INPUT", "text, as for preprocess: files, folders, -"),
			.required = true},
		{OPTION_STRING("--output", &config.output, "DIR", "where the tokenizer's files go"),
			.required = true},
		{OPTION_U64("--vocab-size", &vocabulary, 257, 1 << 23, "N",
			"ids: 256 bytes, the merges, and <|endoftext|>")},
		{OPTION_U64("--min-count", &config.least_count, 1, UINT32_MAX, "N",
			"pairs that occur less often are not joined")},
		{OPTION_STRING("--text-key", &config.text_key, "KEY", "JSONL member that holds the text")},
		{OPTION_STRING("--document-separator", &config.document_separator, "TEXT",
			 "cuts text files into documents, and is dropped"),
			.default_text = "none: a file is a document"},
		{OPTION_SIZE("--max-bytes", &config.max_bytes, 1, UINT64_C(1) << 30, "SIZE",
			"longer documents are passed over")},
		{OPTION_INT("--workers", &config.workers, 1, 4096, "N", "threads that count"),
			.default_text = "the processors there are"},
		{OPTION_FLAG("--overwrite", &config.overwrite, "replace the tokenizer that is there")},
	};
	struct options options = OPTIONS(table, "train-tokenizer", "learns a byte-level BPE from text");
	options.details =
		"GPT-2's split pattern; the most frequent pair is joined first, of equally frequent ones the "
		"one\nwith the smaller ids. The same text gives the same files, whatever its order or the "
		"threads.\nHugging Face's AutoTokenizer loads DIR.";
	enum status status = options_parse(&options, argc, argv);
	config.inputs = inputs.items;
	config.input_count = inputs.count;
	config.vocabulary = (uint32_t)vocabulary;
	if (status == STATUS_OK && !options.help)
		status = train(&config);
	free(inputs.items);
	return status;
}

int cmd_train_tokenizer(int argc, char **argv)
{
	return command_finish("train-tokenizer", run(argc, argv));
}
