/*
 * schedule.h: the learning rate, a pure function of the number of successful updates.
 *
 * With N = decay_iters, W = warmup * N (a fraction: not rounded) and n = min(updates, N):
 *
 *    n <= W and W > 0    lr * n / W
 *    cosine              lr / 2 * (cos(pi * (n - W) / N) + 1)      the denominator is N, not N - W
 *    linear              lr * (N - (n - W)) / N
 *    constant            lr
 *
 * and never below min_lr once the warm-up is over. These are the reference's formulas (Megatron-LM of 2020),
 * in its order of operations; so cosine ends at lr / 2 * (cos(pi * (1 - warmup)) + 1), not at 0. The
 * reference did not stop at n = N; ferry does, because its cosine would rise again and its line would go
 * below 0.
 *
 * One step is shifted. Update k (k = 1 for the first) uses lr(k) here. The reference stepped its scheduler
 * after the optimizer, so its update k used lr(k - 1), the first one lr 0, and it printed the rate that the
 * next update would use: lr(k) at iteration k. So the printed rates are the same number for number; what
 * differs is which update used them. Skipped steps do not count as updates.
 */
#ifndef ENGINE_SCHEDULE_H
#define ENGINE_SCHEDULE_H

#include "common/error.h"

#include <stdint.h>

enum schedule_style { SCHEDULE_CONSTANT, SCHEDULE_LINEAR, SCHEDULE_COSINE, SCHEDULE_STYLES };

struct schedule {
	enum schedule_style style;
	double learning_rate, minimum; /* peak and floor */
	double warmup;                 /* fraction of decay_iters, [0, 1] */
	uint64_t decay_iters;          /* at least 1 */
};

/* "constant", "linear", "cosine". */
const char *schedule_style_name(enum schedule_style style);
enum status schedule_style_parse(const char *name, enum schedule_style *out) MUST_USE;
enum status schedule_check(const struct schedule *schedule) MUST_USE;
double schedule_learning_rate(const struct schedule *schedule, uint64_t updates);

#endif
