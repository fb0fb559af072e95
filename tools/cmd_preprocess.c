#include "tools/command.h"

#include "common/memory.h"
#include "common/threads.h"
#include "data/minhash.h"
#include "data/preprocess.h"
#include "tools/options.h"
#include "tools/output.h"
#include "tools/part.h"
#include "tools/terminal.h"

#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum bad_line { BAD_LINE_SKIP, BAD_LINE_FAIL };
enum dedup { DEDUP_EXACT, DEDUP_NEAR };

struct settings {
	struct option_list inputs;
	const char *vocab_file, *merge_file, *tokenizer_type, *part;
	int on_bad_line, dedup, dedup_bands, dedup_rows;
	bool profile, finish;
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

/* What is shown while it runs. */
struct display {
	struct progress_line line;
	int pass;
	uint64_t bytes_before; /* done when the pass began: another run's work is not this one's speed */
	double seconds_before;
	uint64_t text_bytes_before;
};

static bool show(void *user, const struct preprocess_progress *progress)
{
	struct display *display = user;
	if (!progress->pass) /* it waits for other processes */
		return !stop_asked;
	if (progress->pass != display->pass) {
		if (display->pass)
			progress_line_clear(&display->line);
		static const char *const labels[] = {"tokenizing", "writing shards", "near-duplicates"};
		display->line = progress_line_start(stderr, labels[progress->pass - 1]);
		display->pass = progress->pass;
		display->bytes_before = progress->bytes_done;
		display->text_bytes_before = progress->text_bytes;
		display->seconds_before = progress->seconds;
	}
	double seconds = progress->seconds - display->seconds_before;
	double bytes = (double)(progress->bytes_done - display->bytes_before);
	double rate = seconds > 0 ? bytes / seconds : 0;
	struct human left = {"? left"};
	if (rate > 0 && progress->bytes_total >= progress->bytes_done)
		snprintf(left.text, sizeof left.text, "%s left",
			human_seconds((double)(progress->bytes_total - progress->bytes_done) / rate).text);
	/* What matters most first: a narrow terminal cuts the rest. */
	if (progress->bytes_total)
		progress_line_update(&display->line, "%s of %s, %.1f MB/s, %s, %s documents, %s tokens",
			human_bytes((double)progress->bytes_done).text,
			human_bytes((double)progress->bytes_total).text, rate / 1e6, left.text,
			human_count((double)progress->documents).text,
			human_count((double)progress->tokens).text);
	else
		progress_line_update(&display->line, "%s, %.1f MB/s, %s documents, %s tokens",
			human_bytes((double)progress->bytes_done).text, rate / 1e6,
			human_count((double)progress->documents).text,
			human_count((double)progress->tokens).text);
	return !stop_asked;
}

static double ratio(double a, double b)
{
	return b > 0 ? a / b : 0;
}

static void print_dropped(const struct preprocess_config *config, const struct preprocess_result *result)
{
	printf("dropped     %s duplicates, ", human_grouped(result->duplicates).text);
	if (config->near_bands || result->near_duplicates)
		printf("%s near-duplicates, ", human_grouped(result->near_duplicates).text);
	printf("%s empty, %s rejected%s%s%s\n", human_grouped(result->empty).text,
		human_grouped(result->rejected).text, result->rejected ? " (see " : "",
		result->rejected ? config->output : "", result->rejected ? "/rejects.jsonl)" : "");
	/* So many are another encoding's, or no text's. */
	bool many = result->repaired > result->input_bytes / 100;
	if (result->repaired)
		printf("repaired    %s sequences of invalid UTF-8, now U+FFFD%s\n",
			human_grouped(result->repaired).text,
			many ? ": was all of it text, and UTF-8? (--strict names the place)" : "");
}

static void print_summary(const struct preprocess_config *config, const struct preprocess_result *result)
{
	double seconds = result->seconds[0] + result->seconds[1];
	printf("corpus      %s: %s documents in %" PRIu64 " shard%s\n", config->output,
		human_grouped(result->documents).text, result->shards, result->shards == 1 ? "" : "s");
	printf("tokens      %s, %.3f bytes of text each\n", human_grouped(result->tokens).text,
		ratio((double)result->bytes, (double)result->tokens));
	print_dropped(config, result);
	if (!result->published)
		printf("time        none: the corpus of this job was complete already\n");
	else if (result->resumed)
		printf("time        %s in this run, which went on with what others or an earlier one did\n",
			human_seconds(seconds).text);
	else
		printf("time        %s (tokenizing %s, writing %s), %.1f MB/s of text\n",
			human_seconds(seconds).text, human_seconds(result->seconds[0]).text,
			human_seconds(result->seconds[1]).text,
			ratio((double)result->input_bytes / 1e6, seconds));
	struct shell_word output = shell_word(config->output);
	printf("\nNext:\n  ferry inspect %s\n  ferry train --train-data %s\n", output.text, output.text);
}

/* Of a process that had a part in it. */
static void print_part(const struct preprocess_config *config, const struct preprocess_result *result)
{
	if (result->complete) {
		printf("corpus      %s: complete, published by another process\n", config->output);
		return;
	}
	printf("part        %" PRIu32 "/%" PRIu32 " is done, in %s\n", config->part, config->parts,
		human_seconds(result->seconds[0]).text);
	if (result->parts_missing)
		printf("missing     %" PRIu32 " of the parts, the first of them %" PRIu32 "/%" PRIu32 "\n",
			result->parts_missing, result->first_missing, config->parts);
	else
		printf("missing     none of the parts\n");
	printf("\nNext%s:\n  ferry preprocess --finish --output %s\n",
		result->parts_missing ? ", when all parts are done" : "", shell_word(config->output).text);
}

/* Where the time went: each stage over all workers, then each worker. */
static void print_profile(const struct preprocess_config *config, const struct preprocess_result *result)
{
	static const char *const names[PREPROCESS_WAIT] = {[PREPROCESS_READ] = "read, decompress",
		[PREPROCESS_JSON] = "JSON",
		[PREPROCESS_HASH] = "repair, hash",
		[PREPROCESS_SIGN] = "MinHash",
		[PREPROCESS_TOKENIZE] = "tokenize",
		[PREPROCESS_SPILL] = "spill",
		[PREPROCESS_SEARCH] = "near-duplicates",
		[PREPROCESS_LOAD] = "load, sort",
		[PREPROCESS_WRITE] = "write, hash pages",
		[PREPROCESS_PUBLISH] = "index, publish"};
	double wall = result->seconds[0] + result->seconds[1], all = 0;
	double megabytes = (double)result->input_bytes / 1e6;
	double sums[PREPROCESS_WAIT] = {0};
	for (int worker = 0; worker < config->workers; worker++)
		for (int stage = 0; stage < PREPROCESS_WAIT; stage++) {
			sums[stage] += config->profile[worker][stage];
			all += config->profile[worker][stage];
		}
	fprintf(stderr, "%-18s %11s %7s %15s\n", "stage", "CPU seconds", "share", "MB/s of a core");
	for (int stage = 0; stage < PREPROCESS_WAIT; stage++)
		fprintf(stderr, "%-18s %11.3f %6.1f%% %15.0f\n", names[stage], sums[stage],
			100 * ratio(sums[stage], all), ratio(megabytes, sums[stage]));
	fprintf(stderr, "%-18s %11.3f %6.1f%% %15.0f\n", "all", all, 100.0, ratio(megabytes, all));
	for (int worker = 0; worker < config->workers; worker++) {
		double own = 0;
		for (int stage = 0; stage < PREPROCESS_WAIT; stage++)
			own += config->profile[worker][stage];
		fprintf(stderr, "worker %-11d %11.3f %6.1f%% of all, in a run of %.3f s; waited %.3f s\n",
			worker, own, 100 * ratio(own, all), wall, config->profile[worker][PREPROCESS_WAIT]);
	}
}

static enum status open_tokenizer(const struct settings *settings, struct tokenizer **tokenizer)
{
	FAIL_IF(strcmp(settings->tokenizer_type, "GPT2BPETokenizer") != 0, STATUS_USAGE,
		"--tokenizer-type %s: only GPT2BPETokenizer is known", settings->tokenizer_type);
	FAIL_IF(settings->vocab_file && !settings->merge_file, STATUS_USAGE,
		"--vocab-file needs --merge-file: a byte-level BPE is both");
	if (settings->merge_file)
		return tokenizer_open_files(settings->merge_file, settings->vocab_file, tokenizer);
	return tokenizer_open_gpt2(tokenizer);
}

static enum status preprocess(const struct settings *settings, struct preprocess_config *config)
{
	struct tokenizer *tokenizer;
	struct display display = {0};
	struct preprocess_result result;
	TRY(output_check(OUTPUT_CORPUS, "--output", config->output));
	command_note_escapes("--document-separator", config->document_separator);
	TRY(open_tokenizer(settings, &tokenizer));
	config->tokenizer = tokenizer;
	config->progress = show;
	config->user = &display;
	catch_signals();
	enum status status = STATUS_OK;
	if (settings->profile)
		status = memory_alloc((void **)&config->profile, (size_t)config->workers,
			sizeof *config->profile, "the profile");
	if (status == STATUS_OK)
		status = preprocess_run(config, &result);
	tokenizer_close(tokenizer);
	if (display.pass)
		progress_line_clear(&display.line);
	if (status == STATUS_OK && result.documents)
		print_summary(config, &result);
	else if (status == STATUS_OK)
		print_part(config, &result);
	if (status == STATUS_OK && config->profile)
		print_profile(config, &result);
	free(config->profile);
	return status;
}

/* What this process does of the job. */
static enum status choose_mode(const struct settings *settings, struct preprocess_config *config)
{
	struct part part;
	FAIL_IF(settings->finish && settings->part, STATUS_USAGE,
		"--finish is for when the parts are done: give it without --part");
	if (settings->finish)
		config->mode = PREPROCESS_FINISH;
	if (!settings->part)
		return STATUS_OK;
	TRY(part_parse(settings->part, &part));
	config->part = part.number;
	config->parts = part.count;
	config->mode = !part.found  ? PREPROCESS_PART
		       : part.array ? PREPROCESS_PART_LAST
				    : PREPROCESS_PART_TOGETHER;
	return STATUS_OK;
}

static enum status run(int argc, char **argv)
{
	struct settings settings = {.tokenizer_type = "GPT2BPETokenizer", .dedup_bands = 14, .dedup_rows = 8};
	struct preprocess_config config = {
		.text_key = "text",
		.workers = threads_available(),
		.memory = UINT64_C(4) << 30,
		.max_bytes = UINT64_C(64) << 20,
	};
	struct option table[] = {
		{OPTION_LIST("INPUT", &settings.inputs, "INPUT",
			".jsonl or .json lines, any other text file, each also as .gz or .zst; folders; - "
			"for "
			"JSONL on standard input")},
		{OPTION_STRING("--output", &config.output, "DIR", "the corpus"), .required = true},
		{OPTION_HEADING("Documents")},
		{OPTION_STRING("--text-key", &config.text_key, "KEY", "JSONL member that holds the text")},
		{OPTION_STRING("--document-separator", &config.document_separator, "TEXT",
			 "cuts text files into documents, and is dropped"),
			.default_text = "none: a file is a document"},
		{OPTION_SIZE("--max-bytes", &config.max_bytes, 1, UINT64_C(1) << 30, "SIZE",
			"longer documents are rejected")},
		{OPTION_U64("--min-tokens", &config.min_tokens, 0, UINT32_MAX, "N",
			"shorter documents are rejected")},
		{OPTION_FLAG("--sources", &config.sources,
			"keep each document's file and line (NNNNN.src); ferry inspect --document N --source "
			"tells")},
		{OPTION_FLAG("--strict", &config.strict, "invalid UTF-8 is an error, not repaired")},
		{OPTION_CHOICE("--on-bad-line", &settings.on_bad_line, "skip|fail",
			"list bad lines in DIR/rejects.jsonl, or stop at the first")},
		{OPTION_CHOICE("--dedup", &settings.dedup, "exact|near",
			"drop copies, or near-duplicates too: documents that share a band of MinHash with "
			"one "
			"of a smaller key")},
		{OPTION_INT("--dedup-bands", &settings.dedup_bands, 1, MINHASH_MOST_BANDS, "N",
			"with --dedup near: bands; more find less similar documents")},
		{OPTION_INT("--dedup-rows", &settings.dedup_rows, 1, MINHASH_MOST_ROWS, "N",
			"hashes of a band; more spare less similar documents")},
		{OPTION_HEADING("Tokenizer")},
		{OPTION_STRING("--tokenizer-type", &settings.tokenizer_type, "NAME", "byte-level BPE")},
		{OPTION_STRING("--merge-file", &settings.merge_file, "FILE", "merges.txt or vocab.bpe"),
			.default_text = "GPT-2's, built in"},
		{OPTION_STRING("--vocab-file", &settings.vocab_file, "FILE", "vocab.json or encoder.json"),
			.default_text = "follows from the merges"},
		{OPTION_HEADING("Running")},
		{OPTION_INT("--workers", &config.workers, 1, 4096, "N", "threads"),
			.default_text = "the processors there are"},
		{OPTION_SIZE("--memory", &config.memory, 1 << 20, UINT64_C(1) << 50, "SIZE",
			"for spilling and sorting; about 30 MB a thread come on top")},
		{OPTION_STRING("--part", &settings.part, "i/n",
			 "do part i of n of the first pass only (1/n to n/n); auto: as mpirun, srun or a "
			 "Slurm job array says, and go on to the second pass with the others"),
			.default_text = "all of it"},
		{OPTION_FLAG("--finish", &settings.finish,
			"the second pass, when all parts are done; needs --output alone, and any number of "
			"processes may do it together")},
		{OPTION_FLAG("--profile", &settings.profile, "tell where the time went, on standard error")},
		{OPTION_FLAG("--overwrite", &config.overwrite, "replace the corpus that is there")},
	};
	struct options options = OPTIONS(table, "preprocess", "Text in, a tokenized corpus out.");
	options.details =
		"Killed at any point, the same command goes on where it was and ends in the same bytes, "
		"which do not "
		"depend on threads, memory or the order of inputs either. Exact duplicates are dropped; with "
		"--dedup near also most documents whose runs of five words are shared by 75% or more (14 "
		"bands of 8 find 92% of those that share 80%, half at 68%, 5% at 50%), and shorter ones "
		"than five words are left alone.\n\n"
		"Several machines that share the output directory and see the inputs under the same paths "
		"each do a part: the same command with --part 1/n to --part n/n, then --finish on one or "
		"more of them; or the same command with --part auto, started by mpirun or srun (all of them "
		"do both passes) or as a Slurm job array (the last part to end finishes). The bytes are "
		"those "
		"of one run. The file system must have locks between the machines: NFS 4 has them, and NFS 3 "
		"with lockd, GPFS, CephFS, and Lustre mounted with -o flock.";
	enum status status = options_parse(&options, argc, argv);
	config.inputs = settings.inputs.items;
	config.input_count = settings.inputs.count;
	if (settings.dedup == DEDUP_NEAR) {
		config.near_bands = settings.dedup_bands;
		config.near_rows = settings.dedup_rows;
	} else if (status == STATUS_OK && !options.help &&
		   (options_given(&options, "--dedup-bands") || options_given(&options, "--dedup-rows"))) {
		status = error_set(STATUS_USAGE, "--dedup-bands and --dedup-rows need --dedup near");
	}
	config.fail_on_bad_line = settings.on_bad_line == BAD_LINE_FAIL;
	if (status == STATUS_OK && !options.help)
		status = choose_mode(&settings, &config);
	if (status == STATUS_OK && !options.help)
		status = preprocess(&settings, &config);
	free(settings.inputs.items);
	return status;
}

int cmd_preprocess(int argc, char **argv)
{
	return command_finish("preprocess", run(argc, argv));
}
