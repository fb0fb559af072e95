#include "engine/collective.h"

#include "common/memory.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- one process ---- */

static enum status exchange_alone(struct collective *c, const void *block, const uint64_t *cuts, void *parts)
{
	(void)c;
	memcpy(parts, block, cuts[1]);
	return STATUS_OK;
}

static enum status gather_alone(struct collective *c, void *block, const uint64_t *cuts)
{
	(void)c, (void)block, (void)cuts;
	return STATUS_OK;
}

static void abort_alone(struct collective *c, int exit_code)
{
	(void)c, (void)exit_code;
}

static void close_nothing(struct collective *c)
{
	(void)c;
}

struct collective collective_open_single(void)
{
	return (struct collective){.rank = 0,
		.ranks = 1,
		.exchange = exchange_alone,
		.gather = gather_alone,
		.abort = abort_alone,
		.close = close_nothing};
}

/* ---- on any backend ---- */

enum status collective_gather(struct collective *c, const void *data, size_t bytes, void **all)
{
	uint64_t cuts[COLLECTIVE_RANKS + 1];
	for (int r = 0; r <= c->ranks; r++)
		cuts[r] = (uint64_t)r * bytes;
	TRY(memory_alloc(all, (size_t)c->ranks, bytes, "what ranks tell each other"));
	memcpy((char *)*all + cuts[c->rank], data, bytes);
	enum status status = c->gather(c, *all, cuts);
	if (status != STATUS_OK) {
		free(*all);
		*all = NULL;
	}
	return status;
}

static enum status fold(
	struct collective *c, double *values, int count, double (*combine)(double a, double b))
{
	double *all;
	if (c->ranks == 1)
		return STATUS_OK;
	TRY(collective_gather(c, values, (size_t)count * sizeof *values, (void **)&all));
	for (int i = 0; i < count; i++) {
		values[i] = all[i];
		for (int r = 1; r < c->ranks; r++)
			values[i] = combine(values[i], all[(size_t)r * (size_t)count + (size_t)i]);
	}
	free(all);
	return STATUS_OK;
}

static double add(double a, double b)
{
	return a + b;
}

static double larger(double a, double b)
{
	return a > b ? a : b;
}

enum status collective_sum(struct collective *c, double *values, int count)
{
	return fold(c, values, count, add);
}

enum status collective_maximum(struct collective *c, double *values, int count)
{
	return fold(c, values, count, larger);
}

/* The block is one rank's. */
static enum status send_all(struct collective *c, int from, void *data, size_t bytes)
{
	uint64_t cuts[COLLECTIVE_RANKS + 1];
	for (int r = 0; r <= c->ranks; r++)
		cuts[r] = r <= from ? 0 : bytes;
	return c->gather(c, data, cuts);
}

enum status collective_broadcast(struct collective *c, void *data, size_t bytes)
{
	return c->ranks == 1 ? STATUS_OK : send_all(c, 0, data, bytes);
}

/* How many ranks, from rank 0 on, say yes before one says no. */
static enum status count_agreeing(struct collective *c, bool yes, int *count)
{
	bool *all;
	TRY(collective_gather(c, &yes, sizeof yes, (void **)&all));
	for (*count = 0; *count < c->ranks && all[*count];)
		++*count;
	free(all);
	return STATUS_OK;
}

enum status collective_agree(struct collective *c, enum status status)
{
	struct error_copy own, first;
	int failed, alike;
	if (c->ranks == 1)
		return status;
	error_save(status, &own);
	TRY(count_agreeing(c, status == STATUS_OK, &failed));
	if (failed == c->ranks)
		return STATUS_OK;
	first = own;
	TRY(send_all(c, failed, &first, sizeof first));
	TRY(count_agreeing(c, own.status == first.status && strcmp(own.message, first.message) == 0, &alike));
	c->agreed = true;
	status = error_restore(&first);
	return alike < c->ranks ? error_context(status, "rank %d", failed) : status;
}

/* ---- where ranks are ---- */

struct place {
	char host[256];
	cpu_set_t processors;
};

void collective_name_host(char *out, size_t room)
{
	memset(out, 0, room);
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t length = fd < 0 ? -1 : read(fd, out, room - 1);
	if (fd >= 0)
		close(fd);
	if (length <= 0)
		(void)gethostname(out, room - 1);
}

enum status collective_find_place(struct collective *c, struct collective_place *out)
{
	struct place own, *all;
	cpu_set_t processors;
	CPU_ZERO(&processors);
	memset(&own, 0, sizeof own);
	collective_name_host(own.host, sizeof own.host);
	(void)sched_getaffinity(0, sizeof own.processors, &own.processors);
	TRY(collective_gather(c, &own, sizeof own, (void **)&all));
	*out = (struct collective_place){.sharing = 1};
	for (int r = 0; r < c->ranks; r++) {
		bool here = strcmp(all[r].host, own.host) == 0, first = true;
		cpu_set_t both;
		for (int i = 0; i < r && first; i++)
			first = strcmp(all[i].host, all[r].host) != 0;
		out->hosts += first;
		out->local_ranks += here;
		out->local_rank += here && r < c->rank;
		CPU_AND(&both, &all[r].processors, &own.processors);
		out->sharing += here && r != c->rank && CPU_COUNT(&both) > 0;
		out->turn += here && r < c->rank && CPU_COUNT(&both) > 0;
		if (here)
			CPU_OR(&processors, &processors, &all[r].processors);
	}
	out->processors = CPU_COUNT(&processors);
	free(all);
	return STATUS_OK;
}

struct shared_thing {
	char host[256], name[COLLECTIVE_THING];
};

enum status collective_find_sharing(struct collective *c, const char *thing, struct collective_sharing *out)
{
	struct shared_thing own, *all;
	*out = (struct collective_sharing){.members = 1, .first = c->rank};
	if (c->ranks == 1)
		return STATUS_OK;
	memset(&own, 0, sizeof own);
	collective_name_host(own.host, sizeof own.host);
	snprintf(own.name, sizeof own.name, "%s", thing);
	TRY(collective_gather(c, &own, sizeof own, (void **)&all));
	out->members = 0;
	for (int r = c->ranks; r-- > 0;) {
		bool same = *thing ? memcmp(&all[r], &own, sizeof own) == 0 : r == c->rank;
		out->members += same;
		out->member += same && r < c->rank;
		out->first = same ? r : out->first;
	}
	free(all);
	return STATUS_OK;
}
