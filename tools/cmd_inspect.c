/*
 * cmd_inspect.c: `ferry inspect`: what a corpus holds.
 */
#include "common/file.h"
#include "common/json.h"
#include "common/memory.h"
#include "data/corpus.h"
#include "data/sources.h"
#include "data/split.h"
#include "tokenizer/tokenizer.h"
#include "tools/command.h"
#include "tools/corpus_report.h"
#include "tools/options.h"
#include "tools/terminal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BAR = 40 };

struct settings {
	const char *directory, *split, *html;
	uint64_t document, seq_length;
	bool one_document, ids, source, json;
};

/* ---- one document ---- */

static enum status print_text(const struct corpus *corpus, const int32_t *ids, uint64_t count)
{
	struct tokenizer *tokenizer;
	char *text;
	size_t bytes;
	TRY(corpus_open_tokenizer(corpus, &tokenizer));
	enum status status = tokenizer_decode(tokenizer, (const uint32_t *)ids, (size_t)count, &text, &bytes);
	if (status == STATUS_OK) {
		fwrite(text, 1, bytes, stdout); /* command_finish tells of a failure */
		free(text);
	}
	tokenizer_close(tokenizer);
	return status;
}

static enum status print_source(const struct corpus *corpus, uint64_t document)
{
	struct sources *sources;
	struct source source;
	TRY(sources_open(corpus, &sources));
	enum status status = sources_get(sources, document, &source);
	if (status == STATUS_OK && source.line)
		printf("%s: line %" PRIu64 " (byte %" PRIu64 ")\n", source.path, source.line, source.byte);
	else if (status == STATUS_OK)
		printf("%s: byte %" PRIu64 "\n", source.path, source.byte);
	sources_close(sources);
	return status;
}

static enum status print_document(struct corpus *corpus, const struct settings *settings)
{
	uint64_t first, count;
	int32_t *ids;
	if (settings->source)
		return print_source(corpus, settings->document);
	TRY(corpus_document(corpus, settings->document, &first, &count));
	TRY(memory_alloc((void **)&ids, (size_t)count, sizeof *ids, "a document"));
	enum status status = corpus_read(corpus, first, count, ids);
	if (status == STATUS_OK && settings->ids) {
		for (uint64_t i = 0; i < count; i++)
			printf("%s%" PRId32, i ? " " : "", ids[i]);
		putchar('\n');
	} else if (status == STATUS_OK) {
		status = print_text(corpus, ids, count);
	}
	free(ids);
	return status;
}

/* ---- the whole ---- */

/* Windows of an epoch that begins at the split's first token. */
static uint64_t windows_of(const struct split_range *range, uint64_t seq_length)
{
	return range->tokens ? (range->tokens - 1) / seq_length : 0;
}

static double bytes_per_token(const struct corpus_info *info)
{
	uint64_t tokens = info->tokens - info->documents;
	return tokens ? (double)info->bytes / (double)tokens : 0;
}

static void print_summary(const struct corpus *corpus)
{
	const struct corpus_info *info = corpus_get_info(corpus);
	char hash[33];
	uint64_t least = UINT64_MAX, most = 0;
	for (uint64_t i = 0; i < info->shard_count; i++) {
		uint64_t tokens = info->shards[i].tokens;
		least = tokens < least ? tokens : least;
		most = tokens > most ? tokens : most;
	}
	hash128_format(info->hash, hash);
	printf("corpus     %s\n", corpus_directory(corpus));
	printf("hash       %s\n", hash);
	printf("tokenizer  %s, %s ids, end of document %" PRIu32 ", Unicode %s\n", info->tokenizer_name,
		human_grouped(info->vocabulary).text, info->eod, info->unicode);
	printf("documents  %s\n", human_grouped(info->documents).text);
	printf("tokens     %s (%s, end of documents included)\n", human_grouped(info->tokens).text,
		info->dtype == CORPUS_U16 ? "u16" : "i32");
	printf("text       %s bytes, %.3f bytes per token\n", human_grouped(info->bytes).text,
		bytes_per_token(info));
	printf("dropped    %s duplicates, %s empty, %s rejected, of %s documents\n",
		human_grouped(info->dropped_duplicates).text, human_grouped(info->dropped_empty).text,
		human_grouped(info->dropped_rejected).text,
		human_grouped(info->input_documents + info->dropped_empty + info->dropped_rejected).text);
	if (info->near_bands)
		printf("           %s near-duplicates (%d bands of %d rows)\n",
			human_grouped(info->dropped_near).text, info->near_bands, info->near_rows);
	else if (info->dropped_near)
		printf("           %s near-duplicates, in parts of it\n",
			human_grouped(info->dropped_near).text);
	printf("repaired   %s sequences of invalid UTF-8\n", human_grouped(info->repaired).text);
	printf("shards     %s, of %s to %s tokens\n", human_grouped(info->shard_count).text,
		human_grouped(least).text, human_grouped(most).text);
}

static void print_lengths(const struct corpus_lengths *lengths)
{
	static const char bar[BAR + 1] = "########################################";
	const struct lengths_shown shown = corpus_lengths_shown(lengths);
	printf("\ntokens in a document%26sdocuments\n", "");
	for (int i = shown.first; i <= shown.last; i++) {
		/* At least one mark for what is not zero. */
		int marks = (int)((double)lengths->bin[i] / (double)shown.most * BAR +
				  (lengths->bin[i] ? 0.999 : 0));
		marks = marks > BAR ? BAR : marks;
		printf("%11s - %-11s %20s  %.*s\n", human_grouped(UINT64_C(1) << i).text,
			human_grouped((UINT64_C(2) << i) - 1).text, human_grouped(lengths->bin[i]).text,
			marks, bar);
	}
	if (lengths->longest)
		printf("the longest, of %s tokens, is document %" PRIu64 "\n",
			human_grouped(lengths->longest).text, lengths->longest_document);
}

static void print_splits(const struct split_range ranges[SPLIT_PARTS], const struct settings *settings)
{
	printf("\nsplit %s  %12s %18s   windows of %s\n", settings->split, "documents", "tokens",
		human_grouped(settings->seq_length).text);
	for (int part = 0; part < SPLIT_PARTS; part++)
		printf("%-*s  %12s %18s   %s\n", (int)strlen(settings->split) + 6,
			split_part_name((enum split_part)part), human_grouped(ranges[part].documents).text,
			human_grouped(ranges[part].tokens).text,
			human_grouped(windows_of(&ranges[part], settings->seq_length)).text);
}

/* ---- as JSON ---- */

static bool add_counts(cJSON *object, const struct corpus_info *info)
{
	cJSON *dropped;
	return json_add_hash128(object, "hash", info->hash) &&
	       cJSON_AddStringToObject(object, "tokenizer", info->tokenizer_name) &&
	       json_add_hash128(object, "tokenizer_hash", info->tokenizer_hash) &&
	       json_add_u64(object, "vocabulary", info->vocabulary) &&
	       json_add_u64(object, "eod", info->eod) &&
	       cJSON_AddStringToObject(object, "dtype", info->dtype == CORPUS_U16 ? "u16" : "i32") &&
	       json_add_u64(object, "documents", info->documents) &&
	       json_add_u64(object, "tokens", info->tokens) && json_add_u64(object, "bytes", info->bytes) &&
	       cJSON_AddNumberToObject(object, "bytes_per_token", bytes_per_token(info)) &&
	       json_add_u64(object, "input_documents", info->input_documents) &&
	       (dropped = cJSON_AddObjectToObject(object, "dropped")) &&
	       json_add_u64(dropped, "duplicates", info->dropped_duplicates) &&
	       json_add_u64(dropped, "near_duplicates", info->dropped_near) &&
	       json_add_u64(dropped, "empty", info->dropped_empty) &&
	       json_add_u64(dropped, "rejected", info->dropped_rejected) &&
	       json_add_u64(object, "repaired", info->repaired) &&
	       json_add_u64(object, "shards", info->shard_count);
}

/* [{"from": 1, "documents": 3}, ...] of the bins that are not empty. */
static bool add_lengths(cJSON *object, const struct corpus_lengths *lengths)
{
	cJSON *array = cJSON_AddArrayToObject(object, "lengths");
	for (int i = 0; i < LENGTH_BINS && array; i++) {
		if (!lengths->bin[i])
			continue;
		cJSON *bin = cJSON_CreateObject();
		if (!cJSON_AddItemToArray(array, bin) || !json_add_u64(bin, "from", UINT64_C(1) << i) ||
			!json_add_u64(bin, "documents", lengths->bin[i]))
			return false;
	}
	return array && json_add_u64(object, "longest", lengths->longest) &&
	       json_add_u64(object, "longest_document", lengths->longest_document);
}

static bool add_splits(
	cJSON *object, const struct split_range ranges[SPLIT_PARTS], const struct settings *settings)
{
	cJSON *split = cJSON_AddObjectToObject(object, "split");
	if (!split || !cJSON_AddStringToObject(split, "shares", settings->split) ||
		!json_add_u64(split, "seq_length", settings->seq_length))
		return false;
	for (int part = 0; part < SPLIT_PARTS; part++) {
		cJSON *range = cJSON_AddObjectToObject(split, split_part_name((enum split_part)part));
		if (!range || !json_add_u64(range, "first_document", ranges[part].first_document) ||
			!json_add_u64(range, "documents", ranges[part].documents) ||
			!json_add_u64(range, "first_token", ranges[part].first_token) ||
			!json_add_u64(range, "tokens", ranges[part].tokens) ||
			!json_add_u64(range, "windows", windows_of(&ranges[part], settings->seq_length)))
			return false;
	}
	return true;
}

static enum status print_json(struct corpus *corpus, const struct corpus_lengths *lengths,
	const struct split_range ranges[SPLIT_PARTS], const struct settings *settings)
{
	cJSON *object = cJSON_CreateObject();
	char *text = NULL;
	if (object && cJSON_AddStringToObject(object, "corpus", corpus_directory(corpus)) &&
		add_counts(object, corpus_get_info(corpus)) && add_lengths(object, lengths) &&
		add_splits(object, ranges, settings))
		text = cJSON_Print(object);
	cJSON_Delete(object);
	FAIL_IF(!text, STATUS_MEMORY, "no memory to write JSON");
	puts(text);
	cJSON_free(text);
	return STATUS_OK;
}

/* ---- as a page ---- */

/* Only a page is replaced unasked. */
static enum status check_page(const char *path)
{
	static const char start[] = "<!DOCTYPE html>";
	char found[sizeof start - 1];
	struct stat info;
	size_t got;
	int fd;
	if (stat(path, &info) < 0 || !S_ISREG(info.st_mode) || info.st_size == 0)
		return STATUS_OK;
	TRY(file_open_read(path, &fd));
	enum status status = file_read_some(fd, path, found, sizeof found, &got);
	(void)file_system->close(fd); /* only read: closing it cannot lose anything */
	TRY(status);
	FAIL_IF(got < sizeof found || strncasecmp(found, start, got) != 0, STATUS_USAGE,
		"--html %s: is there already, and not a page; choose another name, or remove it", path);
	return STATUS_OK;
}

static enum status write_html(struct corpus *corpus, const struct split_shares *shares,
	const struct split_range ranges[SPLIT_PARTS], const struct settings *settings)
{
	struct split_keys keys[SPLIT_PARTS];
	struct corpus_report report = {.corpus = corpus,
		.split = settings->split,
		.keys = keys,
		.ranges = ranges,
		.seq_length = settings->seq_length};
	split_cut(shares, keys);
	for (int part = 0; part < SPLIT_PARTS; part++)
		report.windows[part] = windows_of(&ranges[part], settings->seq_length);
	TRY(check_page(settings->html));
	TRY(corpus_report_publish(&report, settings->html));
	printf("%s\n", settings->html);
	return STATUS_OK;
}

/* ---- */

static enum status inspect(
	struct corpus *corpus, const struct split_shares *shares, const struct settings *settings)
{
	struct split_range ranges[SPLIT_PARTS];
	struct corpus_lengths lengths;
	if (settings->one_document)
		return print_document(corpus, settings);
	TRY(split_corpus(corpus, shares, ranges));
	if (settings->html)
		return write_html(corpus, shares, ranges, settings);
	TRY(corpus_lengths_read(corpus, &lengths, NULL, NULL));
	if (settings->json)
		return print_json(corpus, &lengths, ranges, settings);
	print_summary(corpus);
	print_lengths(&lengths);
	print_splits(ranges, settings);
	return STATUS_OK;
}

static enum status run(int argc, char **argv)
{
	struct settings settings = {.split = "949,50,1", .seq_length = 1024};
	struct split_shares shares;
	struct option table[] = {
		{OPTION_STRING("DIR", &settings.directory, "DIR", "the corpus"), .required = true},
		{OPTION_STRING("--split", &settings.split, "A,B,C", "shares of train, validation and test")},
		{OPTION_U64("--seq-length", &settings.seq_length, 1, UINT32_MAX, "N",
			"tokens of a window, for the table of splits")},
		{OPTION_U64("--document", &settings.document, 0, UINT64_MAX, "N",
			 "print the text of document N (from 0) and nothing else"),
			.default_text = ""},
		{OPTION_FLAG(
			"--ids", &settings.ids, "with --document: its token ids, end of document included")},
		{OPTION_FLAG("--source", &settings.source,
			"with --document: the file and line that it came from (of a corpus with --sources)")},
		{OPTION_STRING("--html", &settings.html, "FILE",
			 "write a page about it all, with some documents, to look at in a browser"),
			.default_text = ""},
		{OPTION_FLAG("--json", &settings.json, "print one JSON object")},
	};
	struct options options = OPTIONS(table, "inspect", "what a corpus holds");
	TRY(options_parse(&options, argc, argv));
	if (options.help)
		return STATUS_OK;
	settings.one_document = options_given(&options, "--document");
	FAIL_IF((settings.ids || settings.source) && !settings.one_document, STATUS_USAGE,
		"%s needs --document beside it", settings.ids ? "--ids" : "--source");
	FAIL_IF(settings.ids && settings.source, STATUS_USAGE, "--ids and --source: one at a time");
	FAIL_IF(settings.html && (settings.json || settings.one_document), STATUS_USAGE,
		"--html and %s: one at a time", settings.json ? "--json" : "--document");
	FAIL_IF(settings.json && settings.one_document, STATUS_USAGE,
		"--json and --document do not go together: a document is printed as it is");
	TRY(split_parse(settings.split, &shares));
	struct corpus *corpus;
	TRY(corpus_open(settings.directory, &corpus));
	enum status status = inspect(corpus, &shares, &settings);
	corpus_close(corpus);
	return status;
}

int cmd_inspect(int argc, char **argv)
{
	return command_finish("inspect", run(argc, argv));
}
