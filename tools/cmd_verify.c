/*
 * cmd_verify.c: `ferry verify`: reads and checks every byte of a corpus.
 */
#include "common/threads.h"
#include "data/corpus.h"
#include "tokenizer/tokenizer.h"
#include "tools/command.h"
#include "tools/options.h"
#include "tools/terminal.h"

#include <stdio.h>

static void show_progress(void *user, uint64_t done, uint64_t total)
{
	struct progress_line *line = user;
	double seconds = progress_line_seconds(line);
	double rate = seconds > 0 ? (double)done / seconds : 0;
	progress_line_update(line, "%s of %s, %s/s, %s left", human_bytes((double)done).text,
		human_bytes((double)total).text, human_bytes(rate).text,
		human_seconds(rate > 0 ? (double)(total - done) / rate : 0).text);
}

static enum status check_tokenizer(const struct corpus *corpus)
{
	struct tokenizer *tokenizer;
	TRY(corpus_open_tokenizer(corpus, &tokenizer));
	tokenizer_close(tokenizer);
	return STATUS_OK;
}

static enum status verify(struct corpus *corpus, int workers)
{
	const struct corpus_info *info = corpus_get_info(corpus);
	struct progress_line line = progress_line_start(stderr, "verify");
	enum status status = corpus_verify(corpus, workers, show_progress, &line);
	double seconds = progress_line_seconds(&line);
	progress_line_clear(&line);
	TRY(status);
	TRY(check_tokenizer(corpus));
	char hash[33];
	hash128_format(info->hash, hash);
	printf("verified: %s documents, %s tokens, %s shard%s, corpus %s, in %s\n",
		human_grouped(info->documents).text, human_grouped(info->tokens).text,
		human_grouped(info->shard_count).text, info->shard_count == 1 ? "" : "s", hash,
		human_seconds(seconds).text);
	return STATUS_OK;
}

static enum status run(int argc, char **argv)
{
	const char *directory = NULL;
	int workers = threads_available();
	struct option table[] = {
		{OPTION_STRING("DIR", &directory, "DIR", "the corpus"), .required = true},
		{OPTION_INT("--workers", &workers, 1, 1024, "N", "threads that read"),
			.default_text = "the processors there are"},
	};
	struct options options = OPTIONS(table, "verify", "reads and checks every byte of a corpus");
	options.details =
		"Sizes, every page against its hash, the hashes up to the manifest, the index against the "
		"tokens, the\norder of the keys, the end of each document. Damage is named by file, page, "
		"bytes and "
		"documents; the\nexit status is then 3.";
	TRY(options_parse(&options, argc, argv));
	if (options.help)
		return STATUS_OK;
	struct corpus *corpus;
	TRY(corpus_open(directory, &corpus));
	enum status status = verify(corpus, workers);
	corpus_close(corpus);
	return status;
}

int cmd_verify(int argc, char **argv)
{
	return command_finish("verify", run(argc, argv));
}
