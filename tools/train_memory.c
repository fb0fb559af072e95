#include "tools/train_memory.h"

#include "common/memory.h"
#include "tools/terminal.h"

#include <stdio.h>
#include <string.h>

enum status train_memory_share(struct train_machine *m, struct collective *ranks, int host_ranks)
{
	m->host_memory = memory_available() / (uint64_t)host_ranks;
	m->host_ranks = host_ranks;
	m->device_ranks = 1;
	if (ranks->ranks == 1)
		return STATUS_OK;
	struct collective_sharing sharing = {.members = 1};
	if (m->device.gpu)
		TRY(collective_find_sharing(ranks, m->device.place, &sharing));
	m->device_ranks = sharing.members;
	m->device.unused /= (uint64_t)m->device_ranks;
	m->device.alone /= (uint64_t)m->device_ranks;
	double least[3] = {-(double)m->host_memory, -(double)m->device.unused, -(double)m->device.alone};
	TRY(collective_maximum(ranks, least, 3));
	m->host_memory = (uint64_t)-least[0];
	m->device.unused = (uint64_t)-least[1];
	m->device.alone = (uint64_t)-least[2];
	return STATUS_OK;
}

#define LESS_MEMORY                                                                                          \
	"a smaller --batch-size (with --global-batch-size as it is), --checkpoint-activations (with a "      \
	"--layer-batch-size), --bf16, a shorter --seq-length or a smaller --model need less"

enum status train_memory_check(const struct train_machine *machine, const struct trainer_config *c,
	struct trainer_memory *m, uint64_t *available)
{
	*available = memory_available();
	TRY(trainer_measure(c, m));
	uint64_t needed = m->host * (uint64_t)machine->host_ranks;
	char each[96] = "";
	if (machine->host_ranks > 1)
		snprintf(each, sizeof each, " (%s for each of the %d processes of this host)",
			human_bytes((double)m->host).text, machine->host_ranks);
	FAIL_IF(*available && needed > *available, STATUS_USAGE,
		"this needs %s of memory%s and %s are available; %s" LESS_MEMORY,
		human_bytes((double)needed).text, each, human_bytes((double)*available).text,
		*each ? "fewer processes, " : "");
	char shared[128] = "";
	if (machine->device_ranks > 1)
		snprintf(shared, sizeof shared,
			" for each of the %d processes that have it between them; as many processes as there "
			"are GPUs, ",
			machine->device_ranks);
	FAIL_IF(machine->device.unused && m->device > machine->device.unused, STATUS_USAGE,
		"this needs %s of the GPU's memory and %s are %s%s" LESS_MEMORY
		", and so do --half-gradients, --cpu-optimizer, --cpu-checkpointing and --logits-memory",
		human_bytes((double)m->device).text, human_bytes((double)machine->device.unused).text,
		machine->device.limited ? "allowed by --device-memory" : "free", *shared ? shared : "; ");
	return STATUS_OK;
}

void train_memory_list(const struct trainer_memory *m, bool device, char *text, size_t room)
{
	bool all = device || !m->device; /* what is the device's where there is one */
	uint64_t weights = all ? m->weights + m->working - m->away / 3 : m->away / 3;
	uint64_t moments = all ? m->moments - m->away / 3 * 2 : m->away / 3 * 2;
	const struct {
		const char *name;
		uint64_t bytes;
	} kinds[] = {{"weights", weights}, {"moments", moments}, {"gradients", all ? m->gradients : 0},
		{"activations", all ? m->activations : 0}, {"scratch", all ? m->scratch : 0},
		{"weights that come up", device ? m->incoming : 0}, {"borrowed state", device ? m->lent : 0},
		{"second copies", device ? 0 : m->shadows}, {"pinned slots", device ? 0 : m->pinned},
		{"layers' inputs", device ? 0 : m->inputs}, {"packed copies", device ? 0 : m->packing},
		{"exchange", device ? m->exchange_device : m->exchange},
		{"batches", (all ? m->batch : 0) + (device ? 0 : m->data)},
		{"fresh weights", device ? 0 : m->fresh}, {"a checkpoint's copy", device ? 0 : m->saving}};
	text[0] = 0;
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		size_t length = strlen(text);
		if (kinds[i].bytes)
			snprintf(text + length, room - length, "%s%s %s", length ? ", " : "", kinds[i].name,
				human_bytes((double)kinds[i].bytes).text);
	}
}

void train_memory_tell(struct train_log *log, const struct train_machine *machine,
	const struct trainer_config *c, const struct train_settings *s, const struct trainer_memory *m,
	uint64_t available)
{
	bool gpu = machine->device.gpu;
	char text[TRAIN_MEMORY_LIST];
	if (*machine->device.why)
		train_log_line(log, " > on the CPU: %s", machine->device.why);
	train_memory_list(m, true, text, sizeof text);
	if (gpu)
		train_log_line(log, " > memory of the GPU: %s (%s); %s available",
			human_bytes((double)m->device).text, text,
			human_bytes((double)machine->device.unused).text);
	train_memory_list(m, false, text, sizeof text);
	train_log_line(log, " > memory%s: %s (%s); %s available", gpu ? " of the host" : "",
		human_bytes((double)m->host).text, text, human_bytes((double)available).text);
	if (!gpu && s->cpu_checkpointing)
		train_log_text(log, " > on the CPU the layers' inputs are in the host's memory anyhow: "
				    "--cpu-checkpointing has no effect");
	if (!gpu && (s->cpu_optimizer || s->delayed_update || s->half_gradients || s->optimizer_on))
		train_log_text(log,
			" > on the CPU the optimizer is where the model is, and gradients are fp32: "
			"--optimizer-on, --cpu-optimizer, --delayed-update and --half-gradients have no "
			"effect");
	if (*machine->reason)
		train_log_line(log, " > --optimizer-on auto: %s", machine->reason);
	train_offload_describe(c, m, text, sizeof text);
	if (*text)
		train_log_line(log, " > %s", text);
}
