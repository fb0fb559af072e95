/*
 * loss_scale.h: the factor that keeps half-precision gradients from vanishing, and its rule.
 *
 * Static: the factor never changes; a step whose gradients hold an inf or NaN is skipped.
 *
 * Dynamic (DeepSpeed 0.3.8's rule): i counts steps from 0, `last` is the last overflow's i, -1 at first.
 *
 *    overflow    if hysteresis is 1 or hysteresis_left is 1: scale = max(scale / 2, minimum)
 *                else: hysteresis_left -= 1
 *                last = i
 *    clean       if (i - last) is a multiple of window: hysteresis_left = hysteresis; scale *= 2
 *    i += 1
 *
 * So the scale first rises with the `window`th clean step in a row, and hysteresis_left is refilled only
 * then. (The reference's consecutive_hysteresis is off, as it is by default there.)
 */
#ifndef ENGINE_LOSS_SCALE_H
#define ENGINE_LOSS_SCALE_H

#include "common/error.h"

#include <stdint.h>

struct loss_scale {
	bool dynamic;
	double scale; /* now */
	double minimum;
	uint64_t window;
	uint32_t hysteresis, hysteresis_left;
	uint64_t iteration; /* i */
	int64_t last_overflow;
};

/* `scale` > 0, finite, a float. 1 is no scaling. */
struct loss_scale loss_scale_static(double scale);
struct loss_scale loss_scale_dynamic(
	uint32_t initial_power, uint64_t window, uint32_t hysteresis, double minimum);
/* Impossible values (also in what was read from a file) are STATUS_USAGE. */
enum status loss_scale_check(const struct loss_scale *s) MUST_USE;
/* After each step. Returns the scale that the next one uses. */
double loss_scale_update(struct loss_scale *s, bool overflow);

#endif
