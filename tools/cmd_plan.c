/*
 * cmd_plan.c: `ferry plan`: what a configuration of `ferry train` will need of memory and time, on this
 * machine (measured) or another (by its data sheet), before anything is trained.
 */
#include "tools/command.h"

#include "common/memory.h"
#include "common/threads.h"
#include "engine/saver.h"
#include "tokenizer/tokenizer.h"
#include "tools/terminal.h"
#include "tools/train_config.h"
#include "tools/train_forecast.h"
#include "tools/train_memory.h"
#include "tools/train_offload.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { LARGEST_BATCH = 4096, STATE_BYTES = 12 /* master and moments, of a parameter */ };
#define GIGA 1e9
#define TERA 1e12

struct flags {
	const char *machine;
	uint64_t device_memory, host_memory, vocabulary;
	double host_bandwidth, link, network; /* GB/s */
	int ranks, hosts;
	bool shapes;
};

struct job {
	struct flags flags;
	struct train_options options;
	struct trainer_config config;
	struct train_machine machine; /* this one, or the one named */
	struct collective rank;       /* the one that has the most; it does not speak with others */
	char name[128];
};

/* Ranks that share a host's memory. */
static uint64_t local_ranks(const struct job *job)
{
	return (uint64_t)(job->flags.ranks / job->flags.hosts);
}

/* ---- flags: the ones below, and all of train's ---- */

enum { OWN_FLAGS = 13 };
static const struct flags default_flags = {
	.vocabulary = TOKENIZER_GPT2_VOCABULARY, .host_bandwidth = 100, .ranks = 1, .hosts = 1};

static struct options own_options(struct flags *f, struct option table[OWN_FLAGS])
{
	const struct option filled[] = {
		{OPTION_HEADING("Machine")},
		{OPTION_STRING(
			 "--machine", &f->machine, "NAME", "plan for a GPU by its data sheet: " PLAN_GPUS),
			.default_text = "this machine, measured"},
		{OPTION_SIZE("--device-memory", &f->device_memory, 1 << 20, UINT64_MAX, "SIZE",
			 "of the GPU, free for ferry"),
			.default_text = "what it has"},
		{OPTION_SIZE("--host-memory", &f->host_memory, 1 << 20, UINT64_MAX, "SIZE", "of the host"),
			.default_text = "what this one has free; with --machine 128G"},
		{OPTION_DOUBLE("--host-bandwidth", &f->host_bandwidth, .001, 1e6, "GB/S",
			"with --machine: of AdamW in the host's memory, for each rank")},
		{OPTION_DOUBLE("--link", &f->link, .001, 1e6, "GB/S", "with --machine: to the GPU, each way"),
			.default_text = "its PCIe's"},
		{OPTION_HEADING("Ranks")},
		{OPTION_INT("--ranks", &f->ranks, 1, COLLECTIVE_RANKS, "N",
			"processes that train together, a GPU each")},
		{OPTION_INT(
			"--hosts", &f->hosts, 1, COLLECTIVE_RANKS, "N", "that they are on, as many on each")},
		{OPTION_DOUBLE("--network", &f->network, .001, 1e6, "GB/S",
			 "between ranks, of each, out and in at once"),
			.default_text = "with --machine the GPU's PCIe's, else 4; train tells at its end "
					"what it reaches"},
		{OPTION_HEADING("More")},
		{OPTION_U64("--vocab-size", &f->vocabulary, 1, 1 << 24, "N", "ids of the tokenizer")},
		{OPTION_FLAG("--shapes", &f->shapes, "which of the known models fit, and with what batch")},
	};
	_Static_assert(sizeof filled / sizeof *filled == OWN_FLAGS, "the table's room");
	memcpy(table, filled, sizeof filled);
	return (struct options){.command = "plan",
		.summary = "memory, traffic and time of a training step, before it is run",
		.details = "All flags of `ferry train` are taken too (`ferry help train`).\n"
			   "  ferry plan --model gpt2-xl --bf16 --batch-size 8\n"
			   "  ferry plan --machine h100 --preset reference\n"
			   "  ferry plan --machine v100 --preset reference --fp16 --ranks 4 --cpu-optimizer\n"
			   "  ferry plan --machine h100 --host-memory 128G --shapes --bf16",
		.table = table,
		.count = OWN_FLAGS};
}

static const struct option *find_own(const struct options *own, const char *argument)
{
	size_t length = strcspn(argument, "=");
	for (size_t i = 0; i < own->count; i++)
		if (own->table[i].kind != OPTION_KIND_HEADING && strlen(own->table[i].name) == length &&
			memcmp(own->table[i].name, argument, length) == 0)
			return &own->table[i];
	return NULL;
}

/* Parts the command line: plan's own flags (and --help) go to `mine`, the rest to `theirs`. */
static void part_arguments(const struct options *own, int argc, char **argv, char **mine, int *mine_count,
	char **theirs, int *theirs_count)
{
	mine[(*mine_count)++] = theirs[(*theirs_count)++] = argv[0];
	for (int i = 1; i < argc; i++) {
		const struct option *option = find_own(own, argv[i]);
		bool help =
			strncmp(argv[i], "--help", 6) == 0 || strcmp(argv[i], "-h") == 0; /* --help-manual */
		if (!option && !help) {
			theirs[(*theirs_count)++] = argv[i];
			continue;
		}
		mine[(*mine_count)++] = argv[i];
		if (option && option->kind != OPTION_KIND_FLAG && !strchr(argv[i], '=') && i + 1 < argc)
			mine[(*mine_count)++] = argv[++i];
	}
	mine[*mine_count] = theirs[*theirs_count] = NULL;
}

/* What would be passed over in silence. */
static enum status check_flags(const struct job *job, const struct options *own)
{
	FAIL_IF(job->options.settings.load, STATUS_USAGE,
		"--load: a plan is not made from a run; give the model's sizes (%s/step-*/config.json has "
		"them)",
		job->options.settings.load);
	FAIL_IF(!job->flags.machine &&
			(options_given(own, "--host-bandwidth") || options_given(own, "--link")),
		STATUS_USAGE,
		"--host-bandwidth and --link are for --machine; what this machine reaches is measured");
	return STATUS_OK;
}

static enum status parse(struct job *job, int argc, char **argv, bool *help)
{
	struct option table[OWN_FLAGS];
	struct options own = own_options(&job->flags, table);
	char **arguments;
	int mine = 0, theirs = 0;
	TRY(memory_alloc((void **)&arguments, 2 * (size_t)(argc + 1), sizeof *arguments, "the command line"));
	part_arguments(&own, argc, argv, arguments, &mine, arguments + argc + 1, &theirs);
	enum status status = options_parse(&own, mine, arguments);
	*help = own.help;
	if (status == STATUS_OK && !own.help)
		status = train_options_parse(&job->options, theirs, arguments + argc + 1);
	if (status == STATUS_OK && !own.help)
		status = check_flags(job, &own);
	if (status == STATUS_OK && !own.help)
		status = train_options_layer(&job->options, theirs, arguments + argc + 1, NULL);
	free(arguments);
	return status;
}

/* ---- the machine ---- */

static enum status name_machine(struct job *job)
{
	const struct flags *f = &job->flags;
	FAIL_IF(!plan_rates_named(f->machine, &job->machine.rates, &job->machine.device.unused), STATUS_USAGE,
		"--machine: '%s' is not known; there are " PLAN_GPUS, f->machine);
	job->machine.device.gpu = true;
	job->machine.rates.host_bytes = GIGA * f->host_bandwidth;
	if (f->link > 0)
		job->machine.rates.down_bytes = job->machine.rates.up_bytes = GIGA * f->link;
	snprintf(job->name, sizeof job->name, "%s, by its data sheet and what ferry reached of an H100's",
		f->machine);
	return STATUS_OK;
}

static enum status measure_machine(struct job *job)
{
	char kernels[96];
	TRY(train_forecast_measure(&job->config, &job->machine.rates, kernels));
	snprintf(job->name, sizeof job->name, "%s, measured", kernels);
	return STATUS_OK;
}

/* With cuDNN, which not all machines will have: FERRY_CUDNN=off plans for those too. */
static uint64_t count_attention(const struct job *job)
{
	const char *library = getenv("FERRY_CUDNN");
	bool off = library && strcmp(library, "off") == 0;
	int capability = plan_capability_named(job->flags.machine);
	return !off && kernels_prefer_cudnn(capability, job->config.precision, true) ? KERNELS_ATTENTION : 0;
}

static enum status choose_machine(struct job *job)
{
	const struct train_settings *s = &job->options.settings;
	uint64_t host_memory = job->flags.machine ? UINT64_C(128) << 30 : memory_available();
	if (job->flags.machine) {
		TRY(name_machine(job));
	} else {
		TRY(device_choose((enum device)s->device, 0, job->config.precision, s->logits_memory,
			&job->machine.device));
	}
	if (job->flags.device_memory)
		job->machine.device.unused = job->flags.device_memory;
	if (job->flags.device_memory || job->flags.machine)
		job->machine.device.alone = job->machine.device.unused;
	if (job->flags.machine) { /* as the backend does (kernels.h) */
		job->machine.device.logits =
			s->logits_memory ? s->logits_memory : job->machine.device.unused / 80;
		job->machine.device.attention = count_attention(job);
	}
	if (job->flags.host_memory)
		host_memory = job->flags.host_memory;
	job->machine.host_memory = host_memory / local_ranks(job);
	if (job->flags.network > 0) /* before the optimizer's place is chosen by it */
		job->machine.rates.network_bytes = GIGA * job->flags.network;
	return STATUS_OK;
}

/* The last rank's part is never smaller than another's. */
static enum status choose_ranks(struct job *job)
{
	const struct flags *f = &job->flags;
	FAIL_IF(f->ranks % f->hosts != 0, STATUS_USAGE,
		"--hosts: %d ranks are not as many on each of %d hosts; give a divisor of the ranks",
		f->ranks, f->hosts);
	if (f->ranks == 1)
		return STATUS_OK;
	job->rank = (struct collective){.rank = f->ranks - 1, .ranks = f->ranks};
	job->config.ranks = &job->rank;
	int threads = threads_available() / (int)local_ranks(job);
	job->config.threads = threads > 1 ? threads : 1;
	if (!train_options_chosen(&job->options, "--global-batch-size"))
		job->options.settings.global_batch *= (uint64_t)f->ranks;
	return STATUS_OK;
}

/* ---- what is printed ---- */

static enum status print_traffic(const struct job *job, const struct plan_work *work)
{
	const struct trainer_config *s = &job->config;
	struct plan_time time = {0};
	if (s->offload && job->machine.rates.matrix_flops > 0)
		TRY(train_forecast(s, &job->machine.rates, &time));
	printf("traffic  %sactivations %s, optimizer %s", s->ranks ? "of a rank: " : "",
		human_bytes(work->activation_bytes).text, human_bytes(work->optimizer_bytes).text);
	if (job->machine.device.gpu)
		printf("; with the optimizer on the host %s down, %s up", human_bytes(work->down_bytes).text,
			human_bytes(work->up_bytes).text);
	if (work->input_bytes > 0)
		printf("; layers' inputs %s down and up again", human_bytes(work->input_bytes).text);
	if (s->ranks)
		printf("; to other ranks %s, and as much from them", human_bytes(work->network_bytes).text);
	if (time.pieces > 0)
		printf("; state lent to the GPU %s up and down again",
			human_bytes(STATE_BYTES * time.pieces).text);
	printf("\n");
	return STATUS_OK;
}

static enum status print_work(const struct job *job)
{
	const struct trainer_config *s = &job->config;
	const struct model_config *m = &s->model;
	struct plan_shape shape = train_forecast_shape(s);
	struct plan_work work;
	TRY(plan_work(&shape, &work));
	printf("model    %d layers x %d, %d heads, %d ids: %s parameters\n", m->layers, m->hidden, m->heads,
		m->vocabulary, human_grouped(work.parameters).text);
	if (s->ranks)
		printf("ranks    %d on %d host%s, %" PRIu64
		       " windows of a step and %s parameters' optimizer on each\n",
			s->ranks->ranks, job->flags.hosts, job->flags.hosts == 1 ? "" : "s",
			s->global_batch / (uint64_t)s->ranks->ranks,
			human_grouped(work.parameters / (uint64_t)s->ranks->ranks).text);
	printf("step     %" PRIu64 " windows of %" PRIu64 " tokens, %" PRIu64 " at a time, %s%s: %s tokens\n",
		s->global_batch, s->window_tokens, s->micro_batch, dtype_name(s->precision),
		s->checkpoint_activations ? ", activations computed again" : "",
		human_grouped(work.tokens).text);
	if (s->layer_batch && s->layer_batch < s->micro_batch)
		printf("         through a layer %" PRIu64 " at a time\n", s->layer_batch);
	printf("work     %.3f TFLOP of the model (%.1f MFLOP a token); %.3f TFLOP carried out\n",
		work.model_flops / TERA, work.model_flops / 1e6 / (double)work.tokens,
		(work.matrix_flops + work.attention_flops) / TERA);
	return print_traffic(job, &work);
}

static void print_rates(const struct job *job)
{
	const struct plan_rates *r = &job->machine.rates;
	printf("machine  %s\n", job->name);
	printf("         matrix products %.3g TFLOP/s, attention %.3g TFLOP/s, memory %.3g GB/s",
		r->matrix_flops / TERA, r->attention_flops / TERA, r->memory_bytes / GIGA);
	if (job->machine.device.gpu)
		printf(", host %.3g GB/s, link %.3g down %.3g up GB/s", r->host_bytes / GIGA,
			r->down_bytes / GIGA, r->up_bytes / GIGA);
	if (job->config.ranks)
		printf(", between ranks %.3g GB/s", r->network_bytes / GIGA);
	printf("\n");
}

static void print_fit(const char *what, uint64_t needed, uint64_t there)
{
	if (needed)
		printf("         %-6s %10s of %s%s\n", what, human_bytes((double)needed).text,
			human_bytes((double)there).text, there && needed > there ? ": does not fit" : "");
}

/* The copy that checkpoints are written from is the first rank's alone, and not of the one that is planned for. */
static enum status measure_copy(const struct job *job, uint64_t *out)
{
	struct parameter_table table;
	*out = 0;
	if (!job->config.ranks)
		return STATUS_OK;
	TRY(parameter_table_open(&job->config.model, &table));
	*out = saver_bytes(&table, job->config.save_behind);
	parameter_table_close(&table);
	return STATUS_OK;
}

/* `copy`: as measure_copy has it. */
static void print_memory(const struct job *job, const struct trainer_memory *m, uint64_t copy)
{
	const char *of = job->config.ranks ? "of a rank: " : "";
	char list[TRAIN_MEMORY_LIST];
	train_memory_list(m, true, list, sizeof list);
	if (m->device)
		printf("memory   %son the GPU %s\n", of, list);
	train_memory_list(m, false, list, sizeof list);
	printf("%s %s%s%s\n", m->device ? "        " : "memory  ", of, m->device ? "on the host " : "", list);
	char where[400];
	train_offload_describe(&job->config, m, where, sizeof where);
	if (*where)
		printf("         %s\n", where);
	if (*job->machine.reason)
		printf("         --optimizer-on auto: %s\n", job->machine.reason);
	print_fit("GPU", m->device, job->machine.device.unused);
	if (job->flags.machine && !job->flags.device_memory)
		printf("         %-6s %10s of its data sheet's are taken for the driver's and CUDA's own "
		       "context\n",
			"",
			human_bytes((1 / PLAN_MEMORY_FREE - 1) * (double)job->machine.device.unused).text);
	print_fit("host", m->host * local_ranks(job) + copy, job->machine.host_memory * local_ranks(job));
	if (local_ranks(job) > 1)
		printf("         %-6s %10s for each of the %" PRIu64 " ranks there\n", "",
			human_bytes((double)m->host).text, local_ranks(job));
	if (copy)
		printf("         %-6s %10s for the first rank's copy of the state, to write checkpoints "
		       "from\n",
			"", human_bytes((double)copy).text);
}

static void print_time(
	const struct job *job, const struct plan_work *work, const char *label, const struct plan_time *t)
{
	char share[16] = "";
	if (job->machine.rates.peak_flops > 0)
		snprintf(share, sizeof share, "%5.1f%%",
			100 * work->model_flops / t->step / job->machine.rates.peak_flops / job->flags.ranks);
	printf("%-28s %9.2f %9.2f %8.2f %8.2f", label, 1e3 * t->compute, 1e3 * t->optimizer, 1e3 * t->down,
		1e3 * t->up);
	if (job->config.ranks)
		printf(" %8.2f", 1e3 * t->network);
	printf(" %9.2f %12s  %6s  %s\n", 1e3 * t->step,
		human_grouped((uint64_t)((double)work->tokens / t->step)).text, share,
		plan_bound_name(t->bound));
}

/* All of it on the host, with the shadows that memory gives; then with what is lent. */
static enum status print_speculative(
	const struct job *job, const struct plan_work *work, struct trainer_config config)
{
	struct trainer_memory m;
	struct plan_time t;
	char label[40];
	TRY(train_offload_speculate(&job->machine, &config));
	TRY(train_forecast(&config, &job->machine.rates, &t));
	TRY(trainer_measure(&config, &m));
	snprintf(label, sizeof label, "on the host, speculative %.0f%%",
		100 * (double)m.shadows / 3 / (double)m.weights);
	print_time(job, work, label, &t);
	TRY(train_offload_lend(&job->machine, &config));
	TRY(train_forecast(&config, &job->machine.rates, &t));
	snprintf(label, sizeof label, "on the host, lending %.0f%%",
		100 * t.lent * job->flags.ranks / (double)work->parameters);
	if (t.lent > 0)
		print_time(job, work, label, &t);
	return STATUS_OK;
}

/* All of the optimizer in one place, whether it fits or not. */
static enum status print_others(const struct job *job, const struct plan_work *work)
{
	struct trainer_config config = job->config;
	struct plan_time t;
	config.offload = false;
	TRY(train_forecast(&config, &job->machine.rates, &t));
	print_time(job, work, "optimizer on the GPU", &t);
	config.offload = true;
	config.device_share = 0;
	config.offloading = (struct offload_config){.threads = config.offloading.threads};
	TRY(train_forecast(&config, &job->machine.rates, &t));
	print_time(job, work, "on the host, serial", &t);
	TRY(print_speculative(job, work, config));
	config.offloading = (struct offload_config){.threads = config.offloading.threads, .delayed = true};
	TRY(train_forecast(&config, &job->machine.rates, &t));
	print_time(job, work, "on the host, delayed", &t);
	return STATUS_OK;
}

/* The configuration as it is, then what else there is to choose. */
static enum status print_times(const struct job *job)
{
	struct plan_shape shape = train_forecast_shape(&job->config);
	struct plan_work work;
	struct plan_time t;
	TRY(plan_work(&shape, &work));
	printf("\n%-28s %9s %9s %8s %8s%s %9s %12s  %6s  %s\n", "milliseconds a step", "compute", "optimizer",
		"down", "up", job->config.ranks ? "  network" : "", "step", "tokens/s", "MFU", "bound by");
	TRY(train_forecast(&job->config, &job->machine.rates, &t));
	print_time(job, &work, job->machine.device.gpu ? "as it is" : "on the CPU", &t);
	return job->machine.device.gpu ? print_others(job, &work) : STATUS_OK;
}

/* ---- which shapes fit ---- */

static enum status fits(const struct job *job, const struct trainer_config *config, bool *out)
{
	struct trainer_memory m;
	enum status status = trainer_measure(config, &m);
	*out = false; /* also what a GPU does not take at all */
	if (status == STATUS_UNSUPPORTED)
		return STATUS_OK;
	TRY(status);
	*out = m.host <= job->machine.host_memory &&
	       (!job->machine.device.unused || m.device <= job->machine.device.unused);
	return STATUS_OK;
}

/* The largest power of two of windows at a time that fits; 0: none. */
static enum status largest_batch(const struct job *job, struct trainer_config config, uint64_t *out)
{
	bool good = true;
	*out = 0;
	for (uint64_t batch = 1; batch <= LARGEST_BATCH && good; batch *= 2) {
		config.micro_batch = batch;
		config.global_batch = batch * (uint64_t)job->flags.ranks;
		TRY(fits(job, &config, &good));
		if (good)
			*out = batch;
	}
	return STATUS_OK;
}

/* "32 (128)": as it is, and with recomputation. */
static enum status print_batches(const struct job *job, struct trainer_config config)
{
	uint64_t plain, again;
	char text[48];
	config.checkpoint_activations = config.inputs_on_host = config.keep_outputs = false;
	config.layer_batch = 0;
	TRY(largest_batch(job, config, &plain));
	config.checkpoint_activations = true;
	config.inputs_on_host = job->config.inputs_on_host;
	config.layer_batch = job->config.layer_batch;
	TRY(largest_batch(job, config, &again));
	snprintf(text, sizeof text, "%" PRIu64 " (%" PRIu64 ")", plain, again);
	printf(" %16s", text);
	return STATUS_OK;
}

static enum status print_shape(const struct job *job, const char *name)
{
	struct trainer_config config = job->config;
	struct parameter_table table;
	(void)model_config_named(name, &config.model);
	config.packing = 0;
	config.offload = config.save_behind =
		false; /* training does without the copy where it does not fit */
	TRY(parameter_table_open(&config.model, &table));
	printf("%-12s %15s", name, human_grouped(table.counted).text);
	parameter_table_close(&table);
	TRY(print_batches(job, config));
	if (job->machine.device.gpu) {
		config.offload = true;
		config.device_share = 0;
		config.offloading = (struct offload_config){.threads = config.threads};
		TRY(print_batches(job, config));
	}
	printf("\n");
	return STATUS_OK;
}

static enum status print_shapes(const struct job *job)
{
	bool gpu = job->machine.device.gpu;
	printf("\nlargest --batch-size (with --checkpoint-activations), windows of %" PRIu64
	       " tokens, %s, in ",
		job->config.window_tokens, dtype_name(job->config.precision));
	if (job->config.ranks)
		printf("each of %d ranks, ", job->config.ranks->ranks);
	if (gpu)
		printf("%s of the GPU and ", human_bytes((double)job->machine.device.unused).text);
	printf("%s of the host; 0: does not fit\n", human_bytes((double)job->machine.host_memory).text);
	printf("%-12s %15s %16s%s\n", "model", "parameters", gpu ? "optimizer on GPU" : "on the CPU",
		gpu ? "      on the host" : "");
	for (int i = 0; model_config_name(i); i++)
		TRY(print_shape(job, model_config_name(i)));
	return STATUS_OK;
}

/* ---- all of it ---- */

static enum status plan(struct job *job)
{
	struct trainer_memory memory;
	uint64_t copy;
	if (!job->flags.machine)
		TRY(threads_check("--threads", job->options.settings.threads));
	TRY(train_config_precision(&job->options, &job->config));
	TRY(choose_ranks(job));
	TRY(choose_machine(job));
	TRY(train_config_step(
		&job->options.settings, (int)job->flags.vocabulary, &job->machine, &job->config));
	TRY(trainer_measure(&job->config, &memory)); /* checks all: what cannot be has no plan */
	TRY(measure_copy(job, &copy));
	if (!job->flags.machine && !job->flags.shapes)
		TRY(measure_machine(job));
	TRY(print_work(job));
	print_memory(job, &memory, copy);
	if (job->flags.shapes)
		return print_shapes(job);
	print_rates(job);
	return print_times(job);
}

static enum status run(int argc, char **argv)
{
	struct job *job;
	bool help;
	TRY(memory_alloc((void **)&job, 1, sizeof *job, "the command"));
	job->flags = default_flags;
	enum status status = parse(job, argc, argv, &help);
	if (status == STATUS_OK && !help)
		status = plan(job);
	train_options_free(&job->options);
	free(job);
	return status;
}

int cmd_plan(int argc, char **argv)
{
	return command_finish("plan", run(argc, argv));
}
