#include "tools/train_offload.h"

#include "common/threads.h"
#include "tools/terminal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STATE_BYTES = 12 }; /* master and moments, of a parameter */

struct wish {
	bool automatic;
	double share; /* of the parameters, on the GPU */
};

static enum status read_wish(const struct train_settings *s, struct wish *out)
{
	const char *where = s->optimizer_on;
	char *end;
	*out = (struct wish){.share = 1};
	if (s->cpu_optimizer || (where && strcmp(where, "cpu") == 0)) {
		FAIL_IF(where && strcmp(where, "cpu") != 0, STATUS_USAGE,
			"--cpu-optimizer and --optimizer-on %s exclude each other; give one", where);
		out->share = 0;
	} else if (!where || strcmp(where, "auto") == 0) {
		out->automatic = true;
	} else if (strcmp(where, "gpu") != 0) {
		out->share = strtod(where, &end);
		FAIL_IF(end == where || *end || !(out->share >= 0 && out->share <= 1), STATUS_USAGE,
			"--optimizer-on: '%s' is none of cpu, gpu, auto and a number from 0 to 1 (the share "
			"that stays on the GPU)",
			where);
	}
	return STATUS_OK;
}

/* As much on the GPU as fits beside all else. */
static enum status choose_share(const struct device_choice *device, struct trainer_config *c, double *share)
{
	struct trainer_memory all, none;
	c->offload = false;
	TRY(trainer_measure(c, &all));
	*share = 1;
	if (!device->unused || all.device <= device->unused)
		return STATUS_OK;
	c->offload = true;
	c->device_share = 0;
	TRY(trainer_measure(c, &none));
	double state = STATE_BYTES * (double)none.weights / 4;
	*share = none.device < device->unused ? (double)(device->unused - none.device) / state : 0;
	if (*share > 0.999)
		*share = 0.999; /* by rounding alone: all of it did not fit */
	return STATUS_OK;
}

/* Half of the host's memory that is left, and no more than the GPU has room for the weights of. */
static enum status choose_speculation(
	const struct device_choice *device, uint64_t available, struct trainer_config *c)
{
	struct trainer_memory m;
	TRY(trainer_measure(c, &m));
	uint64_t most = available > m.host ? (available - m.host) / 2 : 0;
	uint64_t room = device->unused > m.device ? device->unused - m.device : 0;
	uint64_t elements = room / dtype_bytes(c->precision);
	if (device->unused && most / STATE_BYTES > elements)
		most = elements * STATE_BYTES;
	c->offloading.speculation = most;
	return STATUS_OK;
}

/* The layers' inputs to the host where all does not fit on the GPU, and would with that. */
static enum status choose_inputs(const struct device_choice *device, struct trainer_config *c)
{
	struct trainer_memory m;
	if (c->inputs_on_host || !c->checkpoint_activations || !device->unused)
		return STATUS_OK;
	TRY(trainer_measure(c, &m));
	if (m.device <= device->unused)
		return STATUS_OK;
	c->inputs_on_host = true;
	TRY(trainer_measure(c, &m));
	c->inputs_on_host = m.device <= device->unused;
	return STATUS_OK;
}

enum status train_offload_choose(const struct train_settings *s, const struct device_choice *device,
	uint64_t host, struct trainer_config *c)
{
	struct wish wish;
	TRY(read_wish(s, &wish));
	FAIL_IF(s->cpu_checkpointing && !s->checkpoint_activations, STATUS_USAGE,
		"--cpu-checkpointing is about what --checkpoint-activations keeps; give both");
	c->offload = c->inputs_on_host = false;
	c->gradients = DTYPE_F32;
	if (!device->gpu)
		return STATUS_OK;
	c->logits = device->logits;
	if (s->half_gradients)
		c->gradients = c->precision;
	int threads = c->threads ? c->threads : threads_available();
	c->offloading = (struct offload_config){
		.threads = threads > 1 ? threads - 1 : 1, /* one for the thread that feeds the GPU */
		.delayed = s->delayed_update};
	c->inputs_on_host = s->cpu_checkpointing;
	if (wish.automatic)
		TRY(choose_share(device, c, &wish.share));
	FAIL_IF(wish.share >= 1 && s->delayed_update, STATUS_USAGE,
		"--delayed-update is for an optimizer on the host, and this one is on the GPU; give "
		"--cpu-optimizer as well, or leave it out");
	c->offload = wish.share < 1;
	c->device_share = c->offload ? wish.share : 0;
	TRY(choose_inputs(device, c));
	return c->offload && !s->delayed_update ? choose_speculation(device, host, c) : STATUS_OK;
}

void train_offload_describe(
	const struct trainer_config *c, const struct trainer_memory *m, char *text, size_t room)
{
	double own = (1 - c->device_share) * STATE_BYTES * (double)m->weights / 4;
	text[0] = 0;
	if (c->offload)
		snprintf(text, room,
			"optimizer: %.3g%% of the parameters on the host (%s, %d thread%s, %s pinned), %s",
			100 * (1 - c->device_share), human_bytes(own).text, c->offloading.threads,
			c->offloading.threads == 1 ? "" : "s", human_bytes((double)m->pinned).text,
			c->offloading.delayed ? "one step late"
			: m->shadows          ? "speculating"
					      : "after the norm");
	size_t length = strlen(text);
	if (m->shadows)
		snprintf(text + length, room - length, " on %.3g%% of these (%s more)",
			100 * (double)m->shadows / own, human_bytes((double)m->shadows).text);
	length = strlen(text);
	if (m->inputs)
		snprintf(text + length, room - length, "%slayers' inputs: %s of them on the host, pinned",
			length ? "; " : "", human_bytes((double)m->inputs).text);
}

void train_offload_summarize(const struct offload *offload, char *text, size_t room)
{
	text[0] = 0;
	if (offload)
		snprintf(text, room,
			"optimizer on the host: %" PRIu64 " updates begun before the norm was known, %" PRIu64
			" of them done over for clipping, %" PRIu64 " dropped for overflow; %" PRIu64
			" steps waited for it",
			offload_count(offload, OFFLOAD_COMMITTED) + offload_count(offload, OFFLOAD_REDONE) +
				offload_count(offload, OFFLOAD_DROPPED),
			offload_count(offload, OFFLOAD_REDONE), offload_count(offload, OFFLOAD_DROPPED),
			offload_count(offload, OFFLOAD_SERIAL));
}
