/*
 * bench_tokenizer FILE...: megabytes a second of one thread on each file's text: repair, splitting into
 * words, encoding by a new encoder (cold: opening it included), by one that has seen the same text (warm;
 * into 16 bits: u16), and both threads' sum of two such at once (two). The best of several rounds, in
 * processor time, so that a busy machine disturbs less.
 */
#include "common/file.h"
#include "common/memory.h"
#include "common/threads.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/utf8.h"
#include "tokenizer/words.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { ROUNDS = 5 };

struct best {
	double repair, split, cold, warm, narrow, two; /* seconds */
};

static void keep(double *best, double started)
{
	double took = threads_processor_seconds() - started;
	if (*best == 0 || took < *best)
		*best = took;
}

static size_t split(const char *text, size_t bytes)
{
	static uint16_t ends[WORDS_ROOM];
	size_t words = 0, count;
	for (size_t at = 0; at < bytes; words += count ? count : 1)
		at += words_find((const uint8_t *)text + at, bytes - at, ends, &count);
	return words;
}

static enum status measure_round(const struct tokenizer *tokenizer, const char *text, size_t bytes,
	uint32_t *ids, size_t *count, struct best *best)
{
	struct encoder *encoder;
	double started = threads_processor_seconds();
	TRY(encoder_open(tokenizer, &encoder));
	enum status status = encoder_encode(encoder, text, bytes, ids, count);
	keep(&best->cold, started);
	started = threads_processor_seconds();
	if (status == STATUS_OK)
		status = encoder_encode(encoder, text, bytes, ids, count);
	keep(&best->warm, started);
	started = threads_processor_seconds();
	if (status == STATUS_OK)
		status = encoder_encode_u16(encoder, text, bytes, (uint16_t *)ids, count);
	keep(&best->narrow, started);
	encoder_close(encoder);
	return status;
}

/* One of two threads: several passes, so that the other is at work too in most of them. */
struct half {
	const struct tokenizer *tokenizer;
	const char *text;
	size_t bytes;
	double best; /* seconds of a warm pass; 0: failed */
};

static void *run_half(void *argument)
{
	struct half *half = argument;
	struct encoder *encoder = NULL;
	uint32_t *ids = NULL;
	size_t count;
	enum status status = memory_alloc((void **)&ids, half->bytes, sizeof *ids, "the ids");
	if (status == STATUS_OK)
		status = encoder_open(half->tokenizer, &encoder);
	for (int pass = 0; pass <= ROUNDS && status == STATUS_OK; pass++) {
		double started = threads_processor_seconds();
		status = encoder_encode(encoder, half->text, half->bytes, ids, &count);
		if (pass)
			keep(&half->best, started);
	}
	encoder_close(encoder);
	free(ids);
	return NULL;
}

static void measure_two(const struct tokenizer *tokenizer, const char *text, size_t bytes, struct best *best)
{
	struct half halves[2];
	pthread_t threads[2];
	int running = 0;
	for (; running < 2; running++) {
		halves[running] = (struct half){tokenizer, text, bytes, 0};
		if (pthread_create(&threads[running], NULL, run_half, &halves[running]) != 0)
			break;
	}
	for (int i = 0; i < running; i++)
		pthread_join(threads[i], NULL);
	if (running == 2 && halves[0].best > 0 && halves[1].best > 0)
		best->two = 1 / (1 / halves[0].best + 1 / halves[1].best);
}

static enum status measure_text(const struct tokenizer *tokenizer, const char *path, const char *raw,
	size_t raw_bytes, char *text, uint32_t *ids)
{
	struct best best = {0};
	size_t bytes = 0, words = 0, count = 0;
	for (int round = 0; round < ROUNDS; round++) {
		uint64_t replaced;
		double started = threads_processor_seconds();
		bytes = utf8_repair(raw, raw_bytes, text, &replaced);
		keep(&best.repair, started);
		started = threads_processor_seconds();
		words = split(text, bytes);
		keep(&best.split, started);
		TRY(measure_round(tokenizer, text, bytes, ids, &count, &best));
	}
	measure_two(tokenizer, text, bytes, &best);
	double megabytes = (double)bytes / 1e6;
	printf("%10.1f %8.2f %8.2f %8.0f %8.0f %8.0f %8.0f %8.0f %8.0f  %s\n", megabytes,
		(double)bytes / (double)words, (double)bytes / (double)count, megabytes / best.repair,
		megabytes / best.split, megabytes / best.cold, megabytes / best.warm, megabytes / best.narrow,
		megabytes / best.two, path);
	return STATUS_OK;
}

static enum status measure_file(const struct tokenizer *tokenizer, const char *path)
{
	char *raw, *text = NULL;
	uint32_t *ids = NULL;
	size_t bytes;
	TRY(file_read_all(path, (size_t)1 << 30, &raw, &bytes));
	enum status status = memory_alloc((void **)&text, UTF8_REPAIR_LIMIT(bytes), 1, "the text");
	if (status == STATUS_OK)
		status = memory_alloc((void **)&ids, UTF8_REPAIR_LIMIT(bytes), sizeof *ids, "the ids");
	if (status == STATUS_OK && bytes)
		status = measure_text(tokenizer, path, raw, bytes, text, ids);
	free(ids);
	free(text);
	free(raw);
	return status;
}

int main(int argc, char **argv)
{
	struct tokenizer *tokenizer;
	enum status status = tokenizer_open_gpt2(&tokenizer);
	printf("%10s %8s %8s %8s %8s %8s %8s %8s %8s  MB/s\n", "MB", "B/word", "B/token", "repair", "split",
		"cold", "warm", "u16", "two");
	for (int i = 1; i < argc && status == STATUS_OK; i++)
		status = measure_file(tokenizer, argv[i]);
	if (status != STATUS_OK)
		fprintf(stderr, "bench_tokenizer: %s\n", error_message());
	tokenizer_close(tokenizer);
	return error_exit_code(status);
}
