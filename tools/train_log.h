/*
 * train_log.h: what `ferry train` tells: the reference's lines on standard output and in RUN/log.txt, every
 * step and validation in RUN/metrics.jsonl, and on a terminal one line that rewrites itself between them.
 *
 * Times in the log are means over the iterations since the last such line. The reference's line of
 * optimizer_gradients, optimizer_step and optimizer_allgather stands where it has it, before the iteration's.
 *
 * metrics.jsonl: one JSON object a line, numbers in full precision, null for what is not finite.
 *    {"step", "type": "train", "loss", "lr", "grad_norm", "clip", "loss_scale", "skipped" (0 or 1),
 *     "updates", "counted" (targets of the step), "tokens" (of the run), "tokens_per_second", "epoch" (of the
 *     last window, from 0), "epochs" ([how often each corpus was gone through]), "ordinal",
 *     "tflops" (of the model, per second), "mfu" (null where the device's peak is not known),
 *     "ms", "ms_data", "ms_model" (forward and backward), "ms_forward", "ms_optimizer",
 *     "ms_optimizer_gradients", "ms_optimizer_step", "ms_optimizer_allgather" (its parts, as trainer.h has them)}
 *    {"step", "type": "valid" or "test", "loss", "ppl", "windows", "counted", "best", "ms"}
 *    {"step", "type": "checkpoint", "name", "best", "ms", "ms_waited" (of these, the training)}
 * A file of them that cannot be written (the disk is full) does not end the run, for what is trained is worth more
 * than its log: lines are lost, whole, and the log says when that begins and ends (log_file.h). A checkpoint
 * that cannot be written ends it.
 *
 * Resuming at step k first drops the lines of steps above k (and a last line cut short), at once, so that no
 * step is there twice. The checkpoint's own line is written after it, so it may miss after a crash; where checkpoints are
 * written behind the training (trainer.h), it stands behind the lines of steps that came meanwhile.
 */
#ifndef TOOLS_TRAIN_LOG_H
#define TOOLS_TRAIN_LOG_H

#include "engine/trainer.h"

struct train_log;

struct train_log_config {
	const char *run;       /* NULL: no files */
	uint64_t resumed_step; /* 0: a fresh start; old metrics are dropped */
	uint64_t train_iters, log_interval;
	bool silent; /* tells nothing, and writes no files: of several ranks, all but the first */
};

enum status train_log_open(const struct train_log_config *config, struct train_log **out) MUST_USE;
/* The model's FLOPs of a step (engine/plan.h) and the device's peak a second, 0 where that is not known: from
 * these the log reckons TFLOPs and MFU. Before the first step. */
void train_log_flops(struct train_log *log, double step_flops, double peak_flops);
/* The metrics, and the clock of the first iteration line: called when the first step begins. Before, log.txt alone is
 * touched, and only added to. */
enum status train_log_start(struct train_log *log) MUST_USE;
void train_log_close(struct train_log *log);

/* Mean seconds of the steps after the first two, which warm up; 0 of 0 where there were no more. */
double train_log_step_seconds(const struct train_log *log, uint64_t *steps);

/* One line to both; the signature that train_options_table wants is (log, text). */
void train_log_text(void *log, const char *line);
void train_log_line(struct train_log *log, const char *format, ...) PRINTF_LIKE(2, 3);

/* The trainer's events; user is the log. */
struct trainer_events train_log_events(struct train_log *log);

#endif
