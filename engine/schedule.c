#include "engine/schedule.h"

#include <math.h>
#include <string.h>

static const char *const style_names[SCHEDULE_STYLES] = {"constant", "linear", "cosine"};

const char *schedule_style_name(enum schedule_style style)
{
	return style_names[style];
}

enum status schedule_style_parse(const char *name, enum schedule_style *out)
{
	for (int style = 0; style < SCHEDULE_STYLES; style++)
		if (strcmp(name, style_names[style]) == 0) {
			*out = (enum schedule_style)style;
			return STATUS_OK;
		}
	return error_set(STATUS_USAGE,
		"\"%s\" is no learning rate style; there are constant, linear and cosine", name);
}

enum status schedule_check(const struct schedule *s)
{
	FAIL_IF(!(s->learning_rate >= 0 && s->learning_rate < 1e6), STATUS_USAGE,
		"a learning rate of %g is not possible; it is a number from 0 up, like 6e-4",
		s->learning_rate);
	FAIL_IF(!(s->minimum >= 0 && s->minimum <= s->learning_rate), STATUS_USAGE,
		"a minimum learning rate of %g does not lie between 0 and the learning rate, %g", s->minimum,
		s->learning_rate);
	FAIL_IF(!(s->warmup >= 0 && s->warmup <= 1), STATUS_USAGE,
		"a warm-up of %g is not a fraction of the iterations from 0 to 1, like 0.01", s->warmup);
	FAIL_IF(s->decay_iters == 0, STATUS_USAGE,
		"the learning rate cannot decay over 0 iterations; give 1 or more");
	return STATUS_OK;
}

double schedule_learning_rate(const struct schedule *s, uint64_t updates)
{
	double total = (double)s->decay_iters;
	double warmup = s->warmup * total;
	double n = updates < s->decay_iters ? (double)updates : total;
	if (warmup > 0 && n <= warmup)
		return s->learning_rate * n / warmup;
	double rate = s->learning_rate;
	if (s->style == SCHEDULE_COSINE)
		rate = s->learning_rate / 2.0 * (cos(M_PI * (n - warmup) / total) + 1);
	else if (s->style == SCHEDULE_LINEAR)
		rate = s->learning_rate * (total - (n - warmup)) / total;
	return rate > s->minimum ? rate : s->minimum;
}
