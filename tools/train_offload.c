#include "tools/train_offload.h"

#include "common/threads.h"
#include "tools/terminal.h"
#include "tools/train_forecast.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	STATE_BYTES = 12, /* master and moments, of a parameter */
	SHARES = 16,      /* that auto tries */
	LOANS = 16,       /* numbers of lent layers that it tries for each, besides none */
};
#define ALIKE       1.01  /* the model is no more exact than that */
#define ALIKE_LOANS 1.002 /* of what differs in nothing else, it is */
#define ROOM_FOR    1.25  /* times the rows that a step of English looks up */
/* Half a minute at 1 PFLOP/s, more than a GPU reaches: what is measured for a run of less is not won back. */
#define MEASURED_FROM 3e16

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

/* Bytes of the GPU's memory that may be handed out; 0: not known. */
static uint64_t room_of(const struct device_choice *device)
{
	return device->unused - device->unused / 64;
}

/* Half of the host's memory that is left, and no more than the GPU has room for the weights of. */
enum status train_offload_speculate(const struct train_machine *machine, struct trainer_config *c)
{
	struct trainer_memory m;
	uint64_t available = machine->host_memory, room = room_of(&machine->device);
	c->offloading.speculation = c->offloading.lent_rows = 0;
	c->offloading.lent = 0;
	TRY(trainer_measure(c, &m));
	uint64_t most = available > m.host ? (available - m.host) / 2 : 0;
	uint64_t elements = (room > m.device ? room - m.device : 0) / dtype_bytes(c->precision);
	if (room && most / STATE_BYTES > elements)
		most = elements * STATE_BYTES;
	c->offloading.speculation = most;
	return STATUS_OK;
}

static enum status fits(const struct train_machine *machine, const struct trainer_config *c, bool *out)
{
	struct trainer_memory m;
	TRY(trainer_measure(c, &m));
	*out = !machine->device.unused || m.device <= room_of(&machine->device);
	return STATUS_OK;
}

/* A rank's part of the rows that are looked up. */
static uint64_t count_rows(const struct trainer_config *c)
{
	struct plan_shape shape = train_forecast_shape(c);
	double all = (double)c->model.vocabulary_padded * c->model.hidden / shape.ranks;
	double late = ROOM_FOR * plan_looked_up(&shape);
	return (uint64_t)((late < 1 ? late : 1) * all);
}

/* The first layer with something on the host; the embeddings' are the first layer's. */
static enum status find_first_away(const struct trainer_config *c, int *layer)
{
	struct parameter_table table;
	TRY(parameter_table_open(&c->model, &table));
	int p = PARAMETER_LAYERS;
	while (p + 1 < table.count &&
		(double)table.items[p + 1].offset <= c->device_share * (double)table.elements)
		p++;
	*layer = table.items[p].layer;
	parameter_table_close(&table);
	return STATUS_OK;
}

/* The rows, and `lent` of what can be lent as a whole; -1: nothing. */
static void set_loans(struct trainer_config *c, int lent)
{
	c->offloading.lent = lent > 0 ? lent : 0;
	c->offloading.lent_rows = lent < 0 ? 0 : count_rows(c);
}

/* Seconds of a step; INFINITY: it does not fit. */
static enum status try_loans(
	const struct train_machine *machine, struct trainer_config c, int lent, double *seconds)
{
	struct plan_time time;
	bool room;
	set_loans(&c, lent);
	*seconds = INFINITY;
	TRY(fits(machine, &c, &room));
	if (!room && lent >= 0)
		return STATUS_OK;
	TRY(train_forecast(&c, &machine->rates, &time));
	*seconds = time.step;
	return STATUS_OK;
}

/* The least that is as quick as the quickest: nothing, the rows, so many from the first layer that is away on. Of a deep
 * model not each number is tried. */
static enum status choose_quickest_loans(
	const struct train_machine *machine, struct trainer_config *c, int first, int most)
{
	double seconds[LOANS + 2], quickest = INFINITY;
	int stride = (most - first + LOANS - 1) / LOANS, tried = 0, chosen = 0;
	for (int lent = -1; lent <= most; lent = lent < 0 ? first : lent + stride, tried++) {
		TRY(try_loans(machine, *c, lent, &seconds[tried]));
		quickest = fmin(quickest, seconds[tried]);
	}
	while (seconds[chosen] > ALIKE_LOANS * quickest)
		chosen++;
	set_loans(c, chosen ? first + (chosen - 1) * stride : -1);
	return STATUS_OK;
}

/* What is wanted first, as far as it fits. */
static enum status choose_usual_loans(
	const struct train_machine *machine, struct trainer_config *c, int first)
{
	bool room = false;
	for (int lent = first + 2; lent >= 0 && !room; lent--) {
		set_loans(c, lent);
		TRY(fits(machine, c, &room));
	}
	if (!room)
		set_loans(c, -1);
	return STATUS_OK;
}

enum status train_offload_lend(const struct train_machine *machine, struct trainer_config *c)
{
	int first;
	TRY(find_first_away(c, &first));
	if (!(machine->rates.matrix_flops > 0))
		return choose_usual_loans(machine, c, first);
	return choose_quickest_loans(machine, c, first, first + 1 + (c->model.layers - first + 1) / 2);
}

/* Is the run long beside a second? Without steps it is a plan, which is of rates. */
static enum status is_worth_measuring(
	const struct train_settings *s, const struct trainer_config *c, bool *out)
{
	struct plan_shape shape = train_forecast_shape(c);
	struct plan_work work;
	TRY(plan_work(&shape, &work));
	*out = !s->train_iters || work.model_flops * (double)s->train_iters >= MEASURED_FROM;
	return STATUS_OK;
}

/* Shadows, then loans. */
static enum status choose_extras(
	const struct train_settings *s, struct train_machine *machine, struct trainer_config *c)
{
	bool worth;
	char name[96];
	TRY(train_offload_speculate(machine, c));
	TRY(is_worth_measuring(s, c, &worth));
	if (worth && !machine->rates.matrix_flops)
		TRY(train_forecast_measure(c, &machine->rates, name));
	return train_offload_lend(machine, c);
}

/* The largest share that leaves everything else its room. */
static enum status largest_share(const struct train_machine *machine, struct trainer_config *c, double *share)
{
	struct trainer_memory none;
	uint64_t room = room_of(&machine->device);
	c->offload = true;
	c->device_share = 0;
	TRY(trainer_measure(c, &none));
	double state = STATE_BYTES * (double)none.weights / 4;
	*share = none.device < room ? (double)(room - none.device) / state : 0;
	if (*share > 0.999)
		*share = 0.999; /* all of it did not fit */
	return STATUS_OK;
}

/* Seconds of a step, and with what shadows. */
static enum status try_share(
	const struct train_machine *machine, struct trainer_config c, double share, double *seconds)
{
	struct plan_time time;
	c.device_share = share;
	TRY(train_offload_speculate(machine, &c));
	TRY(train_offload_lend(machine, &c));
	TRY(train_forecast(&c, &machine->rates, &time));
	*seconds = time.step;
	return STATUS_OK;
}

/* What is quickest, of none to `most` on the GPU. */
static enum status choose_quickest(
	struct train_machine *machine, struct trainer_config *c, double most, double *share)
{
	double seconds[SHARES + 1], quickest = 0;
	char name[96];
	int chosen = SHARES;
	if (!machine->rates.matrix_flops)
		TRY(train_forecast_measure(c, &machine->rates, name));
	for (int i = 0; i <= SHARES; i++) {
		TRY(try_share(machine, *c, most * i / SHARES, &seconds[i]));
		if (!i || seconds[i] < quickest)
			quickest = seconds[i];
	}
	while (seconds[chosen] > quickest * ALIKE)
		chosen--;
	*share = most * chosen / SHARES;
	snprintf(machine->reason, sizeof machine->reason,
		"%.3g%% on the GPU, %.1f ms a step foretold (none: %.1f ms; %.3g%%, as much as fits: %.1f "
		"ms)",
		100 * *share, 1e3 * seconds[chosen], 1e3 * seconds[0], 100 * most, 1e3 * seconds[SHARES]);
	return STATUS_OK;
}

static enum status choose_share(struct train_machine *machine, struct trainer_config *c, double *share)
{
	struct trainer_memory all;
	double most;
	uint64_t unused = machine->device.unused;
	c->offload = false;
	TRY(trainer_measure(c, &all));
	*share = 1;
	snprintf(machine->reason, sizeof machine->reason, "on the GPU, where all of it fits");
	if (!unused || all.device <= unused)
		return STATUS_OK;
	TRY(largest_share(machine, c, &most));
	if (most > 0)
		return choose_quickest(machine, c, most, share);
	*share = 0;
	snprintf(machine->reason, sizeof machine->reason, "on the host; the GPU has room for none of it");
	return STATUS_OK;
}

/*
 * LayerNorm's and GELU's outputs are kept where all of the optimizer and they would fit on the GPU, if nothing else ran
 * there. That decides bits in half precision (model.h), so what is free now, and where the optimizer is, have no say.
 */
static enum status choose_outputs(const struct device_choice *device, struct trainer_config *c)
{
	struct trainer_memory all;
	c->keep_outputs = !c->checkpoint_activations;
	if (!c->keep_outputs || !device->alone)
		return STATUS_OK;
	TRY(trainer_measure(c, &all));
	c->keep_outputs = all.device <= device->alone;
	return STATUS_OK;
}

/* Where the optimizer is, with the layers' inputs where they are. `seconds` of a step; 0: its rates are not known. */
static enum status choose_optimizer(const struct train_settings *s, struct train_machine *machine,
	const struct wish *wish, struct trainer_config *c, double *seconds)
{
	struct plan_time time;
	double share = wish->share;
	*seconds = 0;
	if (wish->automatic)
		TRY(choose_share(machine, c, &share));
	c->offload = share < 1;
	c->device_share = c->offload ? share : 0;
	if (c->offload && !s->delayed_update)
		TRY(choose_extras(s, machine, c));
	if (machine->rates.matrix_flops > 0) {
		TRY(train_forecast(c, &machine->rates, &time));
		*seconds = time.step;
	}
	return STATUS_OK;
}

/* The layers' inputs to the host: where nothing fits otherwise, and where what they leave to the optimizer makes a step
 * quicker. */
static enum status choose_places(const struct train_settings *s, struct train_machine *machine,
	const struct wish *wish, struct trainer_config *c)
{
	struct train_machine other = *machine;
	struct trainer_config away = *c;
	struct trainer_memory here, there;
	double seconds, seconds_away;
	uint64_t unused = machine->device.unused;
	TRY(choose_optimizer(s, machine, wish, c, &seconds));
	TRY(trainer_measure(c, &here));
	if (c->inputs_on_host || !c->checkpoint_activations || !unused ||
		(here.device <= unused && (!c->offload || seconds <= 0)))
		return STATUS_OK;
	other.rates = machine->rates;
	away.inputs_on_host = true;
	TRY(choose_optimizer(s, &other, wish, &away, &seconds_away));
	TRY(trainer_measure(&away, &there));
	if (there.device > unused || (here.device <= unused && seconds_away * ALIKE > seconds))
		return STATUS_OK;
	*machine = other;
	*c = away;
	return STATUS_OK;
}

enum status train_offload_choose(
	const struct train_settings *s, struct train_machine *machine, struct trainer_config *c)
{
	const struct device_choice *device = &machine->device;
	struct wish wish;
	machine->reason[0] = 0;
	TRY(read_wish(s, &wish));
	FAIL_IF(s->cpu_checkpointing && !s->checkpoint_activations, STATUS_USAGE,
		"--cpu-checkpointing is about what --checkpoint-activations keeps; give both");
	c->offload = c->inputs_on_host = c->keep_outputs = false;
	c->gradients = DTYPE_F32;
	if (!device->gpu)
		return STATUS_OK;
	c->logits = device->logits;
	c->attention = device->attention;
	if (s->half_gradients)
		c->gradients = c->precision;
	int threads = c->threads ? c->threads : threads_available();
	c->offloading = (struct offload_config){
		.threads = threads > 1 ? threads - 1 : 1, /* one for the thread that feeds the GPU */
		.delayed = s->delayed_update};
	c->inputs_on_host = s->cpu_checkpointing;
	FAIL_IF(s->delayed_update && (wish.automatic || wish.share >= 1), STATUS_USAGE,
		"--delayed-update is for an optimizer on the host, and what is there decides the results: "
		"give "
		"--cpu-optimizer or --optimizer-on SHARE as well, or leave it out");
	TRY(choose_outputs(device, c));
	return choose_places(s, machine, &wish, c);
}

enum status train_offload_agree(struct train_machine *machine, struct trainer_config *c)
{
	struct {
		bool offload, inputs_on_host, keep_outputs, save_behind;
		double device_share;
		int lent;
		uint64_t lent_rows;
		char reason[sizeof machine->reason];
	} choice = {.offload = c->offload,
		.inputs_on_host = c->inputs_on_host,
		.keep_outputs = c->keep_outputs,
		.save_behind = c->save_behind,
		.device_share = c->device_share,
		.lent = c->offloading.lent,
		.lent_rows = c->offloading.lent_rows};
	if (!c->ranks)
		return STATUS_OK;
	memcpy(choice.reason, machine->reason, sizeof choice.reason);
	TRY(collective_broadcast(c->ranks, &choice, sizeof choice));
	memcpy(machine->reason, choice.reason, sizeof choice.reason);
	c->offload = choice.offload;
	c->inputs_on_host = choice.inputs_on_host;
	c->keep_outputs = choice.keep_outputs;
	c->save_behind = choice.save_behind;
	c->device_share = choice.device_share;
	c->offloading.speculation = 0; /* was sized for this rank's own choice */
	TRY(collective_agree(c->ranks,
		c->offload && !c->offloading.delayed ? train_offload_speculate(machine, c) : STATUS_OK));
	c->offloading.lent = choice.lent;
	c->offloading.lent_rows = choice.lent_rows;
	return STATUS_OK;
}

void train_offload_describe(
	const struct trainer_config *c, const struct trainer_memory *m, char *text, size_t room)
{
	double own = (double)m->away;
	text[0] = 0;
	if (own > 0)
		snprintf(text, room,
			"optimizer: %.3g%% of %s parameters on the host (%s, %d thread%s, %s pinned), %s",
			100 * own / (double)(m->weights + m->moments), c->ranks ? "a rank's" : "the",
			human_bytes(own).text, c->offloading.threads, c->offloading.threads == 1 ? "" : "s",
			human_bytes((double)m->pinned).text,
			c->offloading.delayed ? "one step late"
			: m->shadows          ? "speculating"
					      : "after the norm");
	size_t length = strlen(text);
	if (m->shadows)
		snprintf(text + length, room - length, " on %.3g%% of these (%s more)",
			100 * (double)m->shadows / own, human_bytes((double)m->shadows).text);
	length = strlen(text);
	if (m->lent)
		snprintf(text + length, room - length, ", up to %.3g%% lent to the GPU (%s there)",
			100 * (double)m->lent / own, human_bytes((double)m->lent).text);
	length = strlen(text);
	if (m->inputs)
		snprintf(text + length, room - length, "%slayers' inputs: %s of them on the host, pinned",
			length ? "; " : "", human_bytes((double)m->inputs).text);
	length = strlen(text);
	if (c->open_device && !c->checkpoint_activations && !c->keep_outputs)
		snprintf(text + length, room - length,
			"%sLayerNorm's and GELU's outputs are computed again: they and all of the optimizer "
			"have no room on the GPU",
			length ? "; " : "");
}

void train_offload_summarize(const struct offload *offload, bool delayed, char *text, size_t room)
{
	uint64_t asked, updated;
	text[0] = 0;
	if (!offload || delayed)
		return;
	snprintf(text, room,
		"optimizer on the host: %" PRIu64 " updates begun before the norm was known, %" PRIu64
		" of them done over for clipping, %" PRIu64 " dropped for overflow; %" PRIu64
		" steps waited for it",
		offload_count(offload, OFFLOAD_COMMITTED) + offload_count(offload, OFFLOAD_REDONE) +
			offload_count(offload, OFFLOAD_DROPPED),
		offload_count(offload, OFFLOAD_REDONE), offload_count(offload, OFFLOAD_DROPPED),
		offload_count(offload, OFFLOAD_SERIAL));
	offload_count_loans(offload, &asked, &updated);
	size_t length = strlen(text);
	if (asked)
		snprintf(text + length, room - length,
			"; %.3g%% of what was to be lent to the GPU was updated there",
			100 * (double)updated / (double)asked);
}
