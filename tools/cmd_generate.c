/*
 * cmd_generate.c: `ferry generate`: text from a checkpoint and a prompt, as it comes.
 */
#include "common/clock.h"
#include "common/file.h"
#include "common/memory.h"
#include "engine/generate.h"
#include "tokenizer/utf8.h"
#include "tools/command.h"
#include "tools/loaded_model.h"
#include "tools/options.h"
#include "tools/terminal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct settings {
	const char *load, *prompt, *prompt_file;
	int length, top_k, samples, device, threads;
	double temperature, top_p;
	uint64_t seed;
	bool bf16, only_new;
};

struct job {
	struct settings settings;
	struct loaded_model loaded;
	struct decoder *decoder;
	char *prompt; /* repaired UTF-8 */
	size_t prompt_bytes;
	int32_t *ids; /* [count] the prompt's */
	size_t count;
	char pending[256]; /* bytes of tokens that do not end a character yet */
	size_t pending_bytes;
	uint64_t tokens;
};

/* ---- the prompt ---- */

/* Bytes of --prompt-file, exactly as they are; "-" is standard input. */
static enum status read_prompt_file(const char *path, char **text, size_t *bytes)
{
	enum { STEP = 1 << 16 };
	if (strcmp(path, "-") != 0)
		return file_read_all(path, 256 << 20, text, bytes);
	size_t capacity = 0, got = STEP;
	for (*bytes = 0; got == STEP; *bytes += got) {
		TRY(memory_grow((void **)text, &capacity, *bytes + STEP, 1, "the prompt"));
		TRY(file_read_some(STDIN_FILENO, "standard input", *text + *bytes, STEP, &got));
	}
	return STATUS_OK;
}

static enum status encode_prompt(struct job *job, const char *text, size_t bytes)
{
	uint64_t replaced;
	struct encoder *encoder;
	uint32_t *ids;
	TRY(memory_alloc((void **)&job->prompt, UTF8_REPAIR_LIMIT(bytes), 1, "the prompt"));
	job->prompt_bytes = utf8_repair(text, bytes, job->prompt, &replaced);
	TRY(memory_alloc((void **)&ids, job->prompt_bytes, sizeof *ids, "the prompt's tokens"));
	job->ids = (int32_t *)ids;
	TRY(encoder_open(job->loaded.tokenizer, &encoder));
	enum status status = encoder_encode(encoder, job->prompt, job->prompt_bytes, ids, &job->count);
	encoder_close(encoder);
	return status;
}

static enum status take_prompt(struct job *job)
{
	const struct settings *s = &job->settings;
	if (!s->prompt_file)
		return encode_prompt(job, s->prompt, strlen(s->prompt));
	char *text = NULL;
	size_t bytes = 0;
	enum status status = read_prompt_file(s->prompt_file, &text, &bytes);
	if (status == STATUS_OK)
		status = encode_prompt(job, text, bytes);
	free(text);
	return status;
}

/* ---- the text, as it comes ---- */

/* How many of the last bytes begin a character that is not complete: 0 to 3. */
static size_t incomplete_tail(const char *text, size_t bytes)
{
	for (size_t back = 1; back <= 3 && back <= bytes; back++) {
		unsigned char c = (unsigned char)text[bytes - back];
		if (c < 0x80)
			return 0;
		if (c >= 0xC0) {
			size_t length = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : 2;
			return length > back ? back : 0;
		}
	}
	return 0;
}

static enum status write_text(const char *text, size_t bytes)
{
	char repaired[UTF8_REPAIR_LIMIT(sizeof((struct job *)0)->pending)];
	uint64_t replaced;
	size_t length = utf8_repair(text, bytes, repaired, &replaced);
	if (fwrite(repaired, 1, length, stdout) != length || fflush(stdout) != 0)
		return error_set_errno(STATUS_IO, "standard output: write failed");
	return STATUS_OK;
}

/* Writes what is pending, but for the beginning of a character that may yet be completed. */
static enum status write_pending(struct job *job, bool all)
{
	size_t keep = all ? 0 : incomplete_tail(job->pending, job->pending_bytes);
	size_t ready = job->pending_bytes - keep;
	TRY(write_text(job->pending, ready));
	memmove(job->pending, job->pending + ready, keep);
	job->pending_bytes = keep;
	return STATUS_OK;
}

static enum status take_token(void *user, int32_t token)
{
	struct job *job = user;
	job->tokens++;
	uint32_t length = 0;
	const uint8_t *bytes = tokenizer_token_bytes(job->loaded.tokenizer, (uint32_t)token, &length);
	/* An id of a model that is larger than its tokenizer stands for nothing. */
	for (uint32_t i = 0; bytes && i < length; i++) {
		if (job->pending_bytes == sizeof job->pending)
			TRY(write_pending(job, false));
		job->pending[job->pending_bytes++] = (char)bytes[i];
	}
	return write_pending(job, false);
}

static enum status write_sample(struct job *job, int sample)
{
	const struct settings *s = &job->settings;
	if (s->samples > 1)
		printf("%s---- sample %d of %d ----\n", sample ? "\n" : "", sample + 1, s->samples);
	if ((!s->only_new && fwrite(job->prompt, 1, job->prompt_bytes, stdout) != job->prompt_bytes) ||
		fflush(stdout) != 0)
		return error_set_errno(STATUS_IO, "standard output: write failed");
	struct generate_config config = {.length = s->length,
		.temperature = (float)s->temperature,
		.top_k = s->top_k,
		.top_p = (float)s->top_p,
		.seed = s->seed,
		.sample = (uint64_t)sample,
		.eod = (int32_t)checkpoint_eod(job->loaded.checkpoint)};
	TRY(generate_text(job->decoder, job->loaded.weights, job->ids, job->count, &config, take_token, job));
	TRY(write_pending(job, true));
	putchar('\n');
	return STATUS_OK;
}

/* Beyond the model's positions a text goes on from the last half of them. */
static enum status check_reach(const struct job *job)
{
	uint64_t positions = (uint64_t)job->loaded.config.positions;
	uint64_t reach = (uint64_t)job->count + (uint64_t)job->settings.length;
	reach = reach < positions ? reach : positions;
	FAIL_IF(job->loaded.gpu && reach > KERNELS_GPU_DECODED, STATUS_UNSUPPORTED,
		"a text of up to %" PRIu64
		" tokens: a GPU writes at most %d; give a smaller --out-seq-length, or --device cpu",
		reach, KERNELS_GPU_DECODED);
	return STATUS_OK;
}

static enum status generate(struct job *job)
{
	const struct settings *s = &job->settings;
	struct collective alone = collective_open_single();
	TRY(loaded_model_open(s->load, (enum device)s->device, s->bf16 ? DTYPE_BF16 : DTYPE_F32, s->threads,
		&alone, &job->loaded));
	TRY(take_prompt(job));
	TRY(check_reach(job));
	TRY(decoder_open(&job->loaded.config, &job->loaded.kernels, 1, &job->decoder));
	double started = clock_seconds();
	for (int sample = 0; sample < s->samples; sample++)
		TRY(write_sample(job, sample));
	double seconds = clock_seconds() - started;
	if (terminal_is_interactive(stderr))
		fprintf(stderr, "\n%s tokens in %s, %.1f tokens/s\n", human_grouped(job->tokens).text,
			human_seconds(seconds).text, (double)job->tokens / seconds);
	return STATUS_OK;
}

static enum status run(int argc, char **argv)
{
	struct job job = {.settings = {.load = "run",
				  .prompt = "",
				  .length = 256,
				  .top_k = 200,
				  .samples = 1,
				  .temperature = 0.8,
				  .top_p = 1,
				  .seed = 1234}};
	struct settings *s = &job.settings;
	struct option table[] = {
		{OPTION_STRING("--load", &s->load, "DIR", "a run, a checkpoint or a Hugging Face GPT-2")},
		{OPTION_STRING("--prompt", &s->prompt, "TEXT", "the text to continue"),
			.default_text = "none: a new document", .may_be_empty = true},
		{OPTION_STRING("--prompt-file", &s->prompt_file, "FILE",
			 "the text to continue, every byte of it; - is standard input"),
			.default_text = ""},
		{OPTION_INT("--out-seq-length", &s->length, 1, 1 << 30, "N", "new tokens at most")},
		{OPTION_DOUBLE("--temperature", &s->temperature, 0, 1000, "X",
			"below 1 bolder words get rarer, above 1 commoner; 0: always the likeliest token")},
		{OPTION_INT("--top-k", &s->top_k, 0, 1 << 30, "K", "choose among the K likeliest; 0: all")},
		{OPTION_DOUBLE("--top-p", &s->top_p, 1e-9, 1, "P",
			"choose among the likeliest that reach probability P together")},
		{OPTION_U64("--seed", &s->seed, 0, UINT64_MAX, "N", "another seed, another text")},
		{OPTION_INT("--num-samples", &s->samples, 1, 1 << 30, "N", "texts, one after another")},
		{OPTION_FLAG("--only-new", &s->only_new, "print what is new, without the prompt")},
		{OPTION_CHOICE("--device", &s->device, DEVICE_CHOICES, DEVICE_HELP)},
		{OPTION_FLAG("--bf16", &s->bf16, "weights and activations in bfloat16")},
		{OPTION_INT("--threads", &s->threads, 1, 4096, "N", "threads"), .default_text = "all"},
	};
	struct options options = OPTIONS(table, "generate",
		"Text from a checkpoint. A text ends at the end of a document or after --out-seq-length "
		"tokens; "
		"beyond the model's positions it goes on from the last half of them.");
	TRY(options_parse(&options, argc, argv));
	if (options.help)
		return STATUS_OK;
	FAIL_IF(options_given(&options, "--prompt") && s->prompt_file, STATUS_USAGE,
		"--prompt and --prompt-file are two prompts; give one");
	enum status status = generate(&job);
	decoder_close(job.decoder);
	free(job.prompt);
	free(job.ids);
	loaded_model_close(&job.loaded);
	return status;
}

int cmd_generate(int argc, char **argv)
{
	return command_finish("generate", run(argc, argv));
}
