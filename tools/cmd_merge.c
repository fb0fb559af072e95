/*
 * cmd_merge.c: `ferry merge`: several corpora to one, without tokenizing again.
 */
#include "common/threads.h"
#include "data/corpus_merge.h"
#include "tools/command.h"
#include "tools/options.h"
#include "tools/output.h"
#include "tools/terminal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static bool show_progress(void *user, uint64_t done, uint64_t total)
{
	struct progress_line *line = user;
	double seconds = progress_line_seconds(line);
	double rate = seconds > 0 ? (double)done / seconds : 0;
	progress_line_update(line, "%s of %s tokens, %s/s, %s left", human_count((double)done).text,
		human_count((double)total).text, human_count(rate).text,
		human_seconds(rate > 0 ? (double)(total - done) / rate : 0).text);
	return true;
}

static enum status merge(struct corpus_merge_config *config)
{
	TRY(output_check(OUTPUT_CORPUS, "--output", config->output));
	struct progress_line line = progress_line_start(stderr, "merge");
	struct corpus_merge_result result;
	config->progress = show_progress;
	config->user = &line;
	enum status status = corpus_merge_run(config, &result);
	double seconds = progress_line_seconds(&line);
	progress_line_clear(&line);
	TRY(status);
	printf("corpus      %s: %s documents in %" PRIu64 " shard%s\n", config->output,
		human_grouped(result.documents).text, result.shards, result.shards == 1 ? "" : "s");
	printf("tokens      %s\n", human_grouped(result.tokens).text);
	printf("dropped     %s duplicates of one another\n", human_grouped(result.duplicates).text);
	if (result.without_sources)
		printf("sources     dropped: %s has none\n", result.without_sources);
	printf("time        %s\n", human_seconds(seconds).text);
	return STATUS_OK;
}

static enum status run(int argc, char **argv)
{
	struct option_list inputs = {0};
	struct corpus_merge_config config = {.workers = threads_available()};
	struct option table[] = {
		{OPTION_LIST("CORPUS", &inputs, "CORPUS", "corpora of one tokenizer"), .required = true},
		{OPTION_STRING("--output", &config.output, "DIR", "the corpus of all their documents"),
			.required = true},
		{OPTION_INT("--workers", &config.workers, 1, 1024, "N", "threads; a shard is one's"),
			.default_text = "the processors there are"},
		{OPTION_FLAG("--overwrite", &config.overwrite, "replace the corpus that is there")},
	};
	struct options options = OPTIONS(table, "merge", "several corpora to one, without tokenizing again");
	options.details =
		"The output has the bytes that preprocessing all their text at once gives: duplicates are "
		"dropped,\nthe order is the keys'. Killed at any point, no corpus is there; the same command "
		"makes it.";
	enum status status = options_parse(&options, argc, argv);
	config.inputs = inputs.items;
	config.input_count = inputs.count;
	if (status == STATUS_OK && !options.help)
		status = merge(&config);
	free(inputs.items);
	return status;
}

int cmd_merge(int argc, char **argv)
{
	return command_finish("merge", run(argc, argv));
}
