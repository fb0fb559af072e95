#include "tools/train_memory.h"

#include "common/memory.h"
#include "tools/terminal.h"

#include <stdio.h>

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
		"this needs %s of the GPU's memory and %s are free%s" LESS_MEMORY
		", and so do --half-gradients, --cpu-optimizer, --cpu-checkpointing and --logits-memory",
		human_bytes((double)m->device).text, human_bytes((double)machine->device.unused).text,
		*shared ? shared : "; ");
	return STATUS_OK;
}

void train_memory_tell(struct train_log *log, const struct train_machine *machine,
	const struct trainer_config *c, const struct train_settings *s, const struct trainer_memory *m,
	uint64_t available)
{
	bool gpu = machine->device.gpu;
	uint64_t exchange = gpu ? 0 : m->exchange;
	if (*machine->device.why)
		train_log_line(log, " > on the CPU: %s", machine->device.why);
	train_log_line(log,
		" > memory%s: %s (weights %s, gradients %s, moments %s, activations %s, packed copies %s, "
		"scratch %s%s%s); "
		"%s "
		"available",
		gpu ? " of the GPU" : "", human_bytes((double)(gpu ? m->device : m->host)).text,
		human_bytes((double)(m->weights + m->working)).text, human_bytes((double)m->gradients).text,
		human_bytes((double)m->moments).text, human_bytes((double)m->activations).text,
		human_bytes((double)m->packing).text, human_bytes((double)m->scratch).text,
		exchange ? ", exchange " : "", exchange ? human_bytes((double)exchange).text : "",
		human_bytes((double)(gpu ? machine->device.unused : available)).text);
	if (gpu)
		train_log_line(log, " > memory of the host: %s%s%s; %s available",
			human_bytes((double)m->host).text,
			m->exchange ? ", of it for the exchange between ranks " : "",
			m->exchange ? human_bytes((double)m->exchange).text : "",
			human_bytes((double)available).text);
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
	char text[300];
	train_offload_describe(c, m, text, sizeof text);
	if (*text)
		train_log_line(log, " > %s", text);
}
