#include "engine/loss_scale.h"

#include <math.h>

struct loss_scale loss_scale_static(double scale)
{
	struct loss_scale s = {.scale = scale,
		.minimum = 1,
		.window = 1,
		.hysteresis = 1,
		.hysteresis_left = 1,
		.last_overflow = -1};
	return s;
}

struct loss_scale loss_scale_dynamic(
	uint32_t initial_power, uint64_t window, uint32_t hysteresis, double minimum)
{
	struct loss_scale s = {.dynamic = true,
		.scale = ldexp(1, initial_power < 1024 ? (int)initial_power : 1024),
		.minimum = minimum,
		.window = window,
		.hysteresis = hysteresis,
		.hysteresis_left = hysteresis,
		.last_overflow = -1};
	return s;
}

enum status loss_scale_check(const struct loss_scale *s)
{
	FAIL_IF(!(s->scale > 0 && s->scale <= 0x1p100), STATUS_USAGE,
		"a loss scale of %g is not possible; it lies above 0 and is at most 2^100", s->scale);
	FAIL_IF(!(s->minimum > 0 && s->minimum <= 0x1p100), STATUS_USAGE,
		"a minimum loss scale of %g is not possible; it lies above 0 and is at most 2^100",
		s->minimum);
	FAIL_IF(s->window == 0 || s->window > INT64_MAX, STATUS_USAGE,
		"a loss scale window of %llu steps is not possible; give 1 or more",
		(unsigned long long)s->window);
	FAIL_IF(s->hysteresis == 0 || s->hysteresis_left == 0 || s->hysteresis_left > s->hysteresis,
		STATUS_USAGE, "a hysteresis of %u (%u left) is not possible; give 1 or more", s->hysteresis,
		s->hysteresis_left);
	FAIL_IF(s->iteration > INT64_MAX || s->last_overflow < -1 ||
			s->last_overflow >= (int64_t)s->iteration + (s->iteration == 0),
		STATUS_USAGE, "a loss scale whose last overflow is at %lld of %llu steps is not possible",
		(long long)s->last_overflow, (unsigned long long)s->iteration);
	return STATUS_OK;
}

double loss_scale_update(struct loss_scale *s, bool overflow)
{
	if (!s->dynamic)
		return s->scale;
	int64_t iteration = (int64_t)s->iteration++;
	if (overflow) {
		if (s->hysteresis == 1 || s->hysteresis_left == 1)
			s->scale = fmax(s->scale / 2, s->minimum);
		else
			s->hysteresis_left--;
		s->last_overflow = iteration;
	} else if ((uint64_t)(iteration - s->last_overflow) % s->window == 0) {
		s->hysteresis_left = s->hysteresis;
		/* Beyond this a float cannot carry scale times loss; no gradient gets near it. */
		s->scale = fmin(s->scale * 2, 0x1p100);
	}
	return s->scale;
}
