#include "tools/train_log.h"

#include "common/clock.h"
#include "common/file.h"
#include "common/memory.h"
#include "tools/log_file.h"
#include "tools/terminal.h"
#include "tools/train_options.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WARM_UP = 2 };

struct train_log {
	struct train_log_config config;
	struct log_file *text, *metrics; /* NULL: none */
	FILE *line;                      /* of metrics, on its way into line_text */
	char *line_text;
	size_t line_bytes;
	pthread_mutex_t printing; /* a line; warnings come from other threads too (log.h) */
	struct progress_line progress;
	bool live; /* there is a terminal to rewrite a line on */
	double step_flops, peak_flops;
	/* since the last iteration line */
	uint64_t steps, tokens;
	double loss, started;
	double forward, backward, optimizer, data; /* seconds */
	double gradients, update, allgather;       /* the optimizer's parts */
	/* since the start, for the time left */
	uint64_t all_steps;
	double first_started;
	double warm_seconds; /* of all steps but the first WARM_UP */
};

/* ---- metrics.jsonl ---- */

static bool belongs(const char *line, size_t length, uint64_t last_step)
{
	static const char start[] = "{\"step\": ";
	if (length < sizeof start + 1 || line[length - 1] != '\n' || line[length - 2] != '}')
		return false;
	if (strncmp(line, start, sizeof start - 1) != 0)
		return false;
	return strtoull(line + sizeof start - 1, NULL, 10) <= last_step;
}

static enum status copy_lines(const char *path, struct file_writer *to, uint64_t last_step)
{
	const uint8_t *data;
	size_t bytes;
	enum status status = STATUS_OK;
	TRY(file_map(path, &data, &bytes));
	for (size_t at = 0, length; at < bytes && status == STATUS_OK; at += length) {
		const uint8_t *end = memchr(data + at, '\n', bytes - at);
		length = end ? (size_t)(end + 1 - (data + at)) : bytes - at;
		if (belongs((const char *)data + at, length, last_step))
			status = file_writer_write(to, data + at, length);
	}
	file_unmap(data, bytes);
	return status;
}

/* Publishes the file anew with the lines of steps up to last_step; 0: an empty one. */
static enum status trim_metrics(const char *path, uint64_t last_step)
{
	struct file_writer *writer;
	TRY(file_writer_open(path, &writer));
	enum status status = last_step && file_exists(path) ? copy_lines(path, writer, last_step) : STATUS_OK;
	if (status == STATUS_OK)
		return file_writer_publish(writer);
	file_writer_abandon(writer);
	return status;
}

static void put_number(FILE *out, const char *key, double number)
{
	if (isfinite(number))
		fprintf(out, ", \"%s\": %.17g", key, number);
	else
		fprintf(out, ", \"%s\": null", key);
}

/* False: there is no such file (or no memory: then a line is lost). */
static bool begin_line(struct train_log *log)
{
	log->line = log->metrics ? open_memstream(&log->line_text, &log->line_bytes) : NULL;
	return log->line;
}

static void end_line(struct train_log *log)
{
	bool whole = fputs("}\n", log->line) != EOF;
	whole &= fclose(log->line) == 0;
	const char *told = whole ? log_file_add(log->metrics, log->line_text, log->line_bytes) : NULL;
	if (told)
		train_log_line(log, "WARNING: %s", told);
	free(log->line_text);
	log->line_text = NULL;
}

static void record_step(struct train_log *log, const struct trainer_step *s)
{
	if (!begin_line(log))
		return;
	FILE *out = log->line;
	fprintf(out, "{\"step\": %" PRIu64 ", \"type\": \"train\"", s->step);
	put_number(out, "loss", s->loss);
	put_number(out, "lr", s->learning_rate);
	put_number(out, "grad_norm", s->gradient_norm);
	put_number(out, "clip", s->clip);
	put_number(out, "loss_scale", s->loss_scale);
	fprintf(out,
		", \"skipped\": %d, \"updates\": %" PRIu64 ", \"counted\": %" PRIu64 ", \"tokens\": %" PRIu64,
		s->overflow, s->updates, s->counted, s->tokens);
	put_number(out, "tokens_per_second", (double)s->counted / s->seconds);
	fprintf(out, ", \"epoch\": %" PRIu64 ", \"epochs\": [", s->epoch);
	for (int i = 0; i < s->sources; i++)
		fprintf(out, "%s%.17g", i ? ", " : "", s->epochs[i]);
	fprintf(out, "], \"ordinal\": %" PRIu64, s->ordinal);
	double flops = log->step_flops / s->seconds;
	put_number(out, "tflops", 1e-12 * flops);
	put_number(out, "mfu", log->peak_flops > 0 ? flops / log->peak_flops : (double)NAN);
	put_number(out, "ms", 1e3 * s->seconds);
	put_number(out, "ms_data", 1e3 * s->seconds_data);
	put_number(out, "ms_model", 1e3 * s->seconds_model);
	put_number(out, "ms_forward", 1e3 * s->seconds_forward);
	put_number(out, "ms_optimizer", 1e3 * s->seconds_optimizer);
	put_number(out, "ms_optimizer_gradients", 1e3 * s->seconds_gradients);
	put_number(out, "ms_optimizer_step", 1e3 * s->seconds_update);
	put_number(out, "ms_optimizer_allgather", 1e3 * s->seconds_allgather);
	end_line(log);
}

static void record_validation(struct train_log *log, const struct trainer_validation *v)
{
	if (!begin_line(log))
		return;
	FILE *out = log->line;
	fprintf(out, "{\"step\": %" PRIu64 ", \"type\": \"%s\"", v->step, split_part_name(v->part));
	put_number(out, "loss", v->loss);
	put_number(out, "ppl", v->perplexity);
	fprintf(out, ", \"windows\": %" PRIu64 ", \"counted\": %" PRIu64 ", \"best\": %s", v->windows,
		v->counted, v->best ? "true" : "false");
	put_number(out, "ms", 1e3 * v->seconds);
	end_line(log);
}

static void record_saved(struct train_log *log, const struct trainer_saved *s)
{
	if (!begin_line(log))
		return;
	FILE *out = log->line;
	fprintf(out, "{\"step\": %" PRIu64 ", \"type\": \"checkpoint\", \"name\": \"%s\", \"best\": %s",
		s->step, s->name, s->best ? "true" : "false");
	put_number(out, "ms", 1e3 * s->seconds);
	put_number(out, "ms_waited", 1e3 * s->waited);
	end_line(log);
}

/* ---- lines ---- */

/* A failure is told where it still can be. */
static void write_text(struct train_log *log, const char *line)
{
	char *text;
	int length = asprintf(&text, "%s\n", line);
	if (length < 0)
		return;
	const char *told = log_file_add(log->text, text, (size_t)length);
	if (told)
		printf("WARNING: %s\n", told);
	free(text);
}

void train_log_text(void *user, const char *line)
{
	struct train_log *log = user;
	if (log->config.silent)
		return;
	pthread_mutex_lock(&log->printing);
	if (log->live)
		progress_line_clear(&log->progress);
	puts(line);
	if (log->text)
		write_text(log, line);
	fflush(stdout);
	pthread_mutex_unlock(&log->printing);
}

void train_log_line(struct train_log *log, const char *format, ...)
{
	va_list arguments;
	char *text;
	va_start(arguments, format);
	int length = vasprintf(&text, format, arguments);
	va_end(arguments);
	if (length < 0)
		return;
	train_log_text(log, text);
	free(text);
}

static void print_dashes(struct train_log *log, int count)
{
	char line[256];
	memset(line, '-', sizeof line);
	line[count < 255 ? count : 255] = 0;
	train_log_text(log, line);
}

static void print_overflow(struct train_log *log, const struct trainer_step *s)
{
	char before[32], after[32];
	format_python_float(s->loss_scale, before);
	format_python_float(s->next_loss_scale, after);
	train_log_line(log,
		"[deepscale] OVERFLOW! Rank 0 Skipping step. Attempted loss scale: %s, reducing to %s",
		before, after);
}

/* "epoch: 0.250", "epochs: 0.250 1.125" */
static const char *format_epochs(const struct trainer_step *s, char *text, size_t room)
{
	size_t length = (size_t)snprintf(text, room, s->sources > 1 ? "epochs:" : "epoch:");
	for (int i = 0; i < s->sources && length < room; i++)
		length += (size_t)snprintf(text + length, room - length, " %.3f", s->epochs[i]);
	return text;
}

/* " TFLOPs: 385.11 | MFU: 38.9% |": of the model, a second. MFU where the device's peak is known. */
static const char *format_flops(const struct train_log *log, double elapsed, char *text, size_t room)
{
	double flops = log->step_flops * (double)log->steps / elapsed;
	int length = snprintf(text, room, " TFLOPs: %.4g |", 1e-12 * flops);
	if (log->peak_flops > 0)
		snprintf(text + length, room - (size_t)length, " MFU: %.1f%% |",
			100 * flops / log->peak_flops);
	return text;
}

static void print_iteration(struct train_log *log, const struct trainer_step *s)
{
	double time = clock_seconds(), elapsed = time - log->started;
	char text[64 + 24 * MIXTURE_LIMIT], flops[64];
	double each = 1e3 / (double)log->steps;
	train_log_line(log,
		"rank=0 time (ms) | optimizer_gradients: %.2f | optimizer_step: %.2f | optimizer_allgather: "
		"%.2f",
		each * log->gradients, each * log->update, each * log->allgather);
	train_log_line(log,
		" iteration %8" PRIu64 "/%8" PRIu64 " | elapsed time per iteration (ms): %.1f | learning "
		"rate %.3E | lm loss %.6E | loss scale %.1f |"
		" tokens/s: %.0f | %s | grad norm: %.3f |%s",
		s->step, log->config.train_iters, 1e3 * elapsed / (double)log->steps, s->learning_rate,
		log->loss / (double)log->steps, s->loss_scale, (double)log->tokens / elapsed,
		format_epochs(s, text, sizeof text), s->gradient_norm,
		format_flops(log, elapsed, flops, sizeof flops));
	train_log_line(log,
		"time (ms) | forward: %.2f | backward: %.2f | optimizer: %.2f | batch generator: %.2f",
		each * log->forward, each * log->backward, each * log->optimizer, each * log->data);
	log->steps = log->tokens = 0;
	log->loss = log->forward = log->backward = log->optimizer = log->data = 0;
	log->gradients = log->update = log->allgather = 0;
	log->started = time;
}

static void show_live(struct train_log *log, const struct trainer_step *s)
{
	if (!log->live)
		return;
	double seconds = clock_seconds() - log->first_started;
	double left = seconds / (double)log->all_steps * (double)(log->config.train_iters - s->step);
	pthread_mutex_lock(&log->printing);
	progress_line_update(&log->progress,
		"iteration %" PRIu64 " of %" PRIu64 ", loss %.4f, %s tokens/s, %s left", s->step,
		log->config.train_iters, s->loss, human_count((double)s->counted / s->seconds).text,
		human_seconds(left).text);
	pthread_mutex_unlock(&log->printing);
}

static enum status on_step(void *user, const struct trainer_step *s)
{
	struct train_log *log = user;
	log->steps++;
	if (log->all_steps++ >= WARM_UP)
		log->warm_seconds += s->seconds;
	log->tokens += s->counted;
	log->loss += s->loss;
	log->forward += s->seconds_forward;
	log->backward += s->seconds_model - s->seconds_forward;
	log->optimizer += s->seconds_optimizer;
	log->data += s->seconds_data;
	log->gradients += s->seconds_gradients;
	log->update += s->seconds_update;
	log->allgather += s->seconds_allgather;
	if (s->overflow)
		print_overflow(log, s);
	if (s->step % log->config.log_interval == 0)
		print_iteration(log, s);
	show_live(log, s);
	record_step(log, s);
	return STATUS_OK;
}

static enum status on_validation(void *user, const struct trainer_validation *v)
{
	struct train_log *log = user;
	char where[64], line[200];
	if (v->final)
		snprintf(where, sizeof where, "the end of training for %s data",
			v->part == SPLIT_VALID ? "val" : "test");
	else
		snprintf(where, sizeof where, "iteration %" PRIu64, v->step);
	int length = snprintf(line, sizeof line, " validation loss at %s | LM loss: %.6E | LM PPL: %.6E",
		where, v->loss, v->perplexity);
	print_dashes(log, 100);
	print_dashes(log, length + 1);
	train_log_text(log, line);
	print_dashes(log, length + 1);
	record_validation(log, v);
	return STATUS_OK;
}

static enum status on_saved(void *user, const struct trainer_saved *s)
{
	struct train_log *log = user;
	char waited[64] = "";
	if (s->waited < s->seconds)
		snprintf(waited, sizeof waited, ", of which training waited for %.1f s", s->waited);
	train_log_line(log, "saved %s/%s in %.1f s%s%s", log->config.run, s->name, s->seconds, waited,
		s->best ? " (the best validation loss so far)" : "");
	record_saved(log, s);
	return STATUS_OK;
}

struct trainer_events train_log_events(struct train_log *log)
{
	return (struct trainer_events){
		.user = log, .step = on_step, .validation = on_validation, .saved = on_saved};
}

double train_log_step_seconds(const struct train_log *log, uint64_t *steps)
{
	*steps = log->all_steps > WARM_UP ? log->all_steps - WARM_UP : 0;
	return *steps ? log->warm_seconds / (double)*steps : 0;
}

/* ---- life ---- */

static enum status open_metrics(struct train_log *log)
{
	char *path = NULL;
	const char *run = log->config.run;
	if (!run || log->config.silent)
		return STATUS_OK;
	TRY(path_join(&path, run, "metrics.jsonl"));
	enum status status = trim_metrics(path, log->config.resumed_step);
	free(path);
	TRY(status);
	return log_file_open(run, "metrics.jsonl", &log->metrics);
}

enum status train_log_open(const struct train_log_config *config, struct train_log **out)
{
	struct train_log *log;
	*out = NULL;
	TRY(memory_alloc((void **)&log, 1, sizeof *log, "the log"));
	log->config = *config;
	pthread_mutex_init(&log->printing, NULL);
	log->live = !config->silent && terminal_is_interactive(stderr);
	log->progress = progress_line_start(stderr, "train");
	enum status status = STATUS_OK;
	if (config->run && !config->silent)
		status = log_file_open(config->run, "log.txt", &log->text);
	if (status != STATUS_OK) {
		train_log_close(log);
		return status;
	}
	*out = log;
	return STATUS_OK;
}

void train_log_flops(struct train_log *log, double step_flops, double peak_flops)
{
	log->step_flops = step_flops;
	log->peak_flops = peak_flops;
}

enum status train_log_start(struct train_log *log)
{
	TRY(open_metrics(log));
	log->started = log->first_started = clock_seconds();
	return STATUS_OK;
}

void train_log_close(struct train_log *log)
{
	if (!log)
		return;
	if (log->live)
		progress_line_clear(&log->progress);
	log_file_close(log->text);
	log_file_close(log->metrics);
	pthread_mutex_destroy(&log->printing);
	free(log);
}
