#include "engine/collective.h"

static enum status already_done(struct collective *c, double *values, int count)
{
	(void)c;
	(void)values;
	(void)count;
	return STATUS_OK;
}

static void close_nothing(struct collective *c)
{
	(void)c;
}

struct collective collective_open_single(void)
{
	struct collective c = {
		.rank = 0, .ranks = 1, .sum = already_done, .maximum = already_done, .close = close_nothing};
	return c;
}
