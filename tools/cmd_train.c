/*
 * cmd_train.c: `ferry train`. Decides what to train (flags, a run to resume, a model to fine-tune), refuses
 * what cannot work before anything is allocated, and lets engine/trainer.h do it.
 */
#include "tools/command.h"

#include "common/file.h"
#include "common/log.h"
#include "common/memory.h"
#include "common/threads.h"
#include "engine/trainer.h"
#include "tokenizer/tokenizer.h"
#include "tools/device.h"
#include "tools/ranks.h"
#include "tools/terminal.h"
#include "tools/train_log.h"
#include "tools/train_memory.h"
#include "tools/train_offload.h"
#include "tools/train_config.h"
#include "tools/train_forecast.h"
#include "tools/train_run.h"

#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DEFAULT_EPOCHS = 4, MOST_DEFAULT_ITERS = 1000000, FORECAST_FROM_SECONDS = 30 };

struct job {
	struct train_options options;
	struct checkpoint *from; /* NULL: fresh weights */
	bool resuming;           /* from, with its state */
	struct corpus *corpus;   /* the first of the sources' */
	struct trainer_source sources[MIXTURE_LIMIT];
	char *directories[MIXTURE_LIMIT]; /* their full paths, malloc'ed */
	int source_count;
	struct train_run run;
	struct tokenizer_file files[TOKENIZER_FILES];
	struct checkpoint_file blobs[TOKENIZER_FILES];
	cJSON *record;
	struct trainer_config config;
	struct train_machine machine;
	struct train_log *log;
	struct trainer *trainer;
	struct collective *ranks;
	struct collective_place place;
};

/* Of several ranks, the one that prints and writes. */
static bool leads(const struct job *job)
{
	return job->ranks->rank == 0;
}

/* ---- signals ---- */

static struct trainer *running;

static void on_signal(int number)
{
	if (number == SIGUSR1)
		trainer_save_soon(running);
	else
		trainer_stop(running);
}

/*
 * The first Ctrl-C asks; a second one ends the program at once. That a terminal is closed asks too (not under nohup), and
 * that nobody reads the output any more: in `ferry train | tee log` Ctrl-C ends tee as well, and the next line's SIGPIPE
 * would end this before it has saved. They come on a stack of their own: oneDNN 2.6's f32 products
 * keep numbers below the stack pointer, where a handler's frame would fall. (They come to this thread, the first one.)
 */
static void catch_signals(struct trainer *trainer)
{
	static char stack[1 << 16];
	sigaltstack(&(stack_t){.ss_sp = stack, .ss_size = sizeof stack}, NULL);
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART | SA_ONSTACK};
	running = trainer;
	sigemptyset(&action.sa_mask);
	sigaction(SIGUSR1, &action, NULL);
	sigaction(SIGPIPE, &action, NULL);
	if (signal(SIGHUP, SIG_IGN) != SIG_IGN)
		sigaction(SIGHUP, &action, NULL);
	action.sa_flags = (int)SA_RESETHAND | SA_RESTART | SA_ONSTACK;
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
}

static void release_signals(void)
{
	signal(SIGUSR1, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGINT, SIG_DFL);
	signal(SIGTERM, SIG_DFL);
}

static void on_notice(enum log_level level, const char *line, void *user)
{
	struct job *job = user;
	const char *prefix = level == LOG_WARN ? "WARNING: " : " > ";
	if (!leads(job))
		return;
	if (job->log)
		train_log_line(job->log, "%s%s", prefix, line);
	else
		printf("%s%s\n", prefix, line);
}

/* ---- what goes on, and with which data ---- */

static enum status open_source(struct job *job)
{
	const struct train_settings *s = &job->options.settings;
	FAIL_IF(s->finetune && !s->load, STATUS_USAGE,
		"--finetune starts from a model's weights: give --load DIR as well");
	return s->load ? checkpoint_open_together(s->load, s->finetune, job->ranks, &job->from) : STATUS_OK;
}

static enum status layer_options(struct job *job, int argc, char **argv)
{
	const struct train_settings *s = &job->options.settings;
	const cJSON *recorded = NULL;
	job->resuming = job->from && !s->finetune;
	FAIL_IF(job->resuming && !checkpoint_get_state(job->from), STATUS_USAGE,
		"%s: is a model without a training state; start from its weights with --finetune", s->load);
	if (job->resuming)
		recorded = checkpoint_get_state(job->from)->arguments;
	TRY(train_options_layer(&job->options, argc, argv, recorded));
	if (!train_options_chosen(&job->options, "--global-batch-size"))
		job->options.settings.global_batch *= (uint64_t)job->ranks->ranks;
	return STATUS_OK;
}

/* Opens a corpus and puts its full path into the settings. */
static enum status open_corpus(struct job *job, const char **directory, uint64_t share)
{
	FAIL_IF(job->source_count == MIXTURE_LIMIT, STATUS_USAGE, "more than %d corpora cannot be mixed",
		MIXTURE_LIMIT);
	int i = job->source_count++;
	job->sources[i].share = share;
	TRY(corpus_open(*directory, &job->sources[i].corpus));
	job->directories[i] = realpath(*directory, NULL);
	FAIL_IF(!job->directories[i], STATUS_IO, "%s: cannot be found", *directory);
	*directory = job->directories[i];
	return STATUS_OK;
}

static enum status open_corpora(struct job *job)
{
	struct option_list *words = &job->options.settings.data;
	FAIL_IF(!words->count, STATUS_USAGE,
		"--train-data is missing: give the corpus that `ferry preprocess` made, --train-data DIR");
	if (words->count == 1)
		return open_corpus(job, &words->items[0], 1);
	FAIL_IF(words->count % 2, STATUS_USAGE,
		"--train-data: give one corpus, or a share and a corpus for each of several: "
		"--train-data 0.7 DIR-A 0.3 DIR-B");
	for (size_t i = 0; i < words->count; i += 2) {
		uint64_t share;
		TRY(mixture_parse_share(words->items[i], &share));
		TRY(open_corpus(job, &words->items[i + 1], share));
	}
	return STATUS_OK;
}

static enum status open_data(struct job *job)
{
	struct tokenizer *tokenizer;
	TRY(open_corpora(job));
	job->corpus = job->sources[0].corpus;
	TRY(corpus_open_tokenizer(job->corpus, &tokenizer));
	enum status status = tokenizer_export(tokenizer, job->files);
	tokenizer_close(tokenizer);
	TRY(status);
	for (int i = 0; i < TOKENIZER_FILES; i++)
		job->blobs[i] =
			(struct checkpoint_file){job->files[i].name, job->files[i].data, job->files[i].bytes};
	return STATUS_OK;
}

/* ---- the configuration ---- */

/* Sizes are the checkpoint's; flags may only say the same. */
static enum status check_size(const struct job *job, const char *name, int wanted, int have)
{
	bool typed =
		train_options_typed(&job->options, name) || train_options_typed(&job->options, "--model");
	FAIL_IF(typed && wanted != have, STATUS_USAGE, "%s %d: the model in %s has %d; leave the flag out",
		name, wanted, checkpoint_path(job->from), have);
	return STATUS_OK;
}

/* The double that prints as the float does: 0.1 for 0.1f. */
static double decimal(float number)
{
	char text[32];
	snprintf(text, sizeof text, "%.7g", (double)number);
	return strtod(text, NULL);
}

static enum status adopt_sizes(struct job *job)
{
	struct train_settings *s = &job->options.settings;
	const struct model_config *m = checkpoint_config(job->from);
	TRY(check_size(job, "--num-layers", s->layers, m->layers));
	TRY(check_size(job, "--hidden-size", s->hidden, m->hidden));
	TRY(check_size(job, "--num-attention-heads", s->heads, m->heads));
	if (train_options_typed(&job->options, "--max-position-embeddings"))
		TRY(check_size(job, "--max-position-embeddings", s->positions, m->positions));
	s->layers = m->layers;
	s->hidden = m->hidden;
	s->heads = m->heads;
	s->positions = m->positions;
	if (!train_options_chosen(&job->options, "--layernorm-epsilon"))
		s->epsilon = decimal(m->layernorm_epsilon);
	if (!train_options_chosen(&job->options, "--attention-dropout"))
		s->attention_dropout = decimal(m->attention_dropout);
	if (!train_options_chosen(&job->options, "--hidden-dropout"))
		s->hidden_dropout = decimal(m->hidden_dropout);
	if (!train_options_chosen(&job->options, "--seq-length") && s->seq_length > (uint64_t)m->positions)
		s->seq_length = (uint64_t)m->positions;
	return STATUS_OK;
}

/* Windows of a corpus's training split in epoch 0. */
static enum status count_windows(const struct job *job, int source, uint64_t *windows)
{
	const struct train_settings *s = &job->options.settings;
	struct split_shares shares;
	struct split_range ranges[SPLIT_PARTS];
	struct sampler sampler;
	uint64_t offset;
	TRY(split_parse(s->split, &shares));
	TRY(split_corpus(job->sources[source].corpus, &shares, ranges));
	TRY(sampler_open(&sampler, &ranges[SPLIT_TRAIN], SPLIT_TRAIN, s->seq_length,
		mixture_seed(s->seed, source), true));
	*windows = sampler_epoch_windows(&sampler, 0, &offset);
	return STATUS_OK;
}

static enum status count_all_windows(const struct job *job, uint64_t *windows)
{
	*windows = 0;
	for (int i = 0; i < job->source_count; i++) {
		uint64_t some;
		TRY(count_windows(job, i, &some));
		*windows += some;
	}
	return STATUS_OK;
}

/* Four times through a text is about as good as four times the text (Muennighoff et al. 2023). */
static enum status choose_length(struct job *job)
{
	struct train_settings *s = &job->options.settings;
	if (!s->train_iters) {
		uint64_t windows;
		TRY(count_all_windows(job, &windows));
		uint64_t steps = (DEFAULT_EPOCHS * windows + s->global_batch - 1) / s->global_batch;
		s->train_iters = steps < MOST_DEFAULT_ITERS ? steps : MOST_DEFAULT_ITERS;
	}
	if (!s->decay_iters)
		s->decay_iters = s->train_iters;
	if (!train_options_chosen(&job->options, "--eval-interval")) {
		uint64_t interval = s->train_iters / 20 ? s->train_iters / 20 : 1;
		s->eval_interval = interval < 1000 ? interval : 1000;
	}
	return STATUS_OK;
}

static enum status choose_device(struct job *job)
{
	const struct train_settings *s = &job->options.settings;
	TRY(collective_agree(job->ranks, train_config_precision(&job->options, &job->config)));
	TRY(ranks_choose_device(job->ranks, &job->place, (enum device)s->device, job->config.precision,
		s->logits_memory, &job->machine.device));
	device_limit(&job->machine.device, s->device_memory);
	return STATUS_OK;
}

/* A run that goes on may have been made where there were more processors. */
static enum status check_threads(const struct job *job)
{
	enum status status = threads_check("--threads", job->options.settings.threads);
	if (status == STATUS_OK || train_options_typed(&job->options, "--threads"))
		return status;
	return error_context(status, "as the run was made (--threads 0 takes what there is)");
}

static enum status compose_config(struct job *job)
{
	struct train_settings *s = &job->options.settings;
	struct trainer_config *c = &job->config;
	TRY(check_threads(job));
	if (job->from)
		TRY(adopt_sizes(job));
	int vocabulary = job->from ? checkpoint_config(job->from)->vocabulary
				   : (int)corpus_get_info(job->corpus)->vocabulary;
	if (job->ranks->ranks > 1) {
		c->ranks = job->ranks;
		c->device = job->machine.device.number;
		c->threads = ranks_threads(&job->place);
	}
	TRY(choose_length(job)); /* before the optimizer's place: what is measured for that must pay */
	TRY(train_config_step(s, vocabulary, &job->machine, c));
	c->offloading.first_processor = job->place.turn * ranks_threads(&job->place);
	c->train_iters = s->train_iters;
	c->exit_interval = s->exit_interval;
	c->schedule = (struct schedule){.style = (enum schedule_style)s->decay_style,
		.learning_rate = s->lr,
		.minimum = s->min_lr,
		.warmup = s->warmup,
		.decay_iters = s->decay_iters};
	c->optimizer = (struct optimizer_config){.beta1 = s->beta1,
		.beta2 = s->beta2,
		.epsilon = s->adam_epsilon,
		.weight_decay = s->weight_decay,
		.max_norm = s->clip};
	c->eod_mask_loss = s->eod_mask_loss;
	c->reset_attention_mask = s->reset_attention_mask;
	c->reset_position_ids = s->reset_position_ids;
	c->seed = s->seed;
	c->eval_interval = s->eval_interval;
	c->eval_iters = s->eval_iters;
	c->corpus = job->corpus;
	c->sources = job->sources;
	c->source_count = job->source_count;
	c->split = s->split;
	c->save_interval = s->save_interval;
	c->keep = s->keep;
	c->files = job->blobs;
	c->file_count = TOKENIZER_FILES;
	return trainer_check(c);
}

/* ---- what is said at the start ---- */

static void print_rates(struct job *job)
{
	const struct train_settings *s = &job->options.settings;
	char *ignored = train_options_ignored(&job->options);
	if (job->config.precision == DTYPE_F16 && job->config.loss_scale.dynamic)
		train_log_text(job->log, " > using dynamic loss scaling");
	train_options_table(&job->options, train_log_text, job->log);
	if (ignored && *ignored)
		train_log_line(job->log, "note: without meaning here, and ignored: %s", ignored);
	free(ignored);
	if (s->decay_iters < s->train_iters)
		train_log_line(job->log,
			"note: the learning rate decays over %" PRIu64 " iterations and stays at its last "
			"value until %" PRIu64,
			s->decay_iters, s->train_iters);
}

/* One corpus of the run, `share` of its windows. */
static enum status print_source(struct job *job, int i, double share)
{
	const struct trainer_config *c = &job->config;
	const struct corpus_info *info = corpus_get_info(job->sources[i].corpus);
	double all = (double)c->train_iters * (double)c->global_batch * share;
	uint64_t windows;
	TRY(count_windows(job, i, &windows));
	train_log_line(job->log, " > corpus %s: %s documents, %s tokens", job->directories[i],
		human_grouped(info->documents).text, human_grouped(info->tokens).text);
	char part[32] = "";
	if (share < 1)
		snprintf(part, sizeof part, "%.4g of ", share);
	train_log_line(job->log,
		" > training split: %s windows of %" PRIu64 " tokens an epoch; %s%" PRIu64
		" iterations of %" PRIu64 " windows are %.2f epochs",
		human_grouped(windows).text, c->window_tokens, part, c->train_iters, c->global_batch,
		all / (double)windows);
	return STATUS_OK;
}

static enum status print_data(struct job *job)
{
	const struct trainer_config *c = &job->config;
	const struct corpus_info *info = corpus_get_info(job->corpus);
	double sum = 0;
	train_log_text(job->log, "configuring data");
	for (int i = 0; i < job->source_count; i++)
		sum += (double)job->sources[i].share;
	for (int i = 0; i < job->source_count; i++)
		TRY(print_source(job, i, (double)job->sources[i].share / sum));
	train_log_line(job->log, "> padded vocab (size: %d) with %d dummy tokens (new size: %d)",
		c->model.vocabulary, c->model.vocabulary_padded - c->model.vocabulary,
		c->model.vocabulary_padded);
	train_log_line(job->log, "> found end-of-document token: %u", info->eod);
	return STATUS_OK;
}

static enum status print_model(struct job *job)
{
	struct parameter_table table;
	TRY(parameter_table_open(&job->config.model, &table));
	train_log_text(job->log, "building GPT2 model ...");
	train_log_line(job->log, " > number of parameters on model parallel rank 0: %" PRIu64, table.counted);
	train_log_line(
		job->log, "learning rate decaying %s", schedule_style_name(job->config.schedule.style));
	parameter_table_close(&table);
	return STATUS_OK;
}

static void print_ranks(struct job *job)
{
	const struct collective *c = job->ranks;
	const struct trainer_config *config = &job->config;
	char text[200];
	if (c->ranks == 1)
		return;
	train_log_line(job->log, " > %d ranks on %d host%s, %s; a step is %" PRIu64 " windows on each",
		c->ranks, job->place.hosts, job->place.hosts == 1 ? "" : "s", c->name,
		config->global_batch / (uint64_t)c->ranks);
	if (job->machine.device_ranks > 1)
		train_log_line(job->log,
			"note: %d ranks have a GPU between them, and a part of its memory each; they would "
			"be "
			"quicker as one process, or with a GPU each",
			job->machine.device_ranks);
	if (!config->open_device && ranks_bound(&job->place, text, sizeof text))
		train_log_line(job->log, "note: %s", text);
}

static void print_start(struct job *job)
{
	const struct checkpoint_state *s = trainer_state(job->trainer);
	train_log_line(job->log, " > %s", trainer_kernels(job->trainer));
	if (*trainer_attention(job->trainer))
		train_log_line(job->log, " > attention by %s", trainer_attention(job->trainer));
	if (*trainer_exchange(job->trainer))
		train_log_line(job->log, " > gradients and weights go from GPU to GPU %s",
			trainer_exchange(job->trainer));
	if (job->resuming)
		train_log_line(job->log,
			" > going on from %s: iteration %" PRIu64 ", %" PRIu64 " windows consumed",
			checkpoint_path(job->from), s->step, s->ordinal);
	else if (job->from)
		train_log_line(job->log, " > starting from the weights of %s", checkpoint_path(job->from));
}

static void print_end(struct job *job)
{
	const struct checkpoint_state *s = trainer_state(job->trainer);
	const char *run = job->run.directory;
	bool finished = s->step >= job->config.train_iters;
	if (!run)
		return;
	bool has_best = train_run_has_best(&job->run);
	struct shell_word word = shell_word(run);
	train_log_line(job->log, "%s at iteration %" PRIu64 "; checkpoints in %s",
		finished ? "finished" : "stopped", s->step, run);
	if (s->overfitting.evaluations)
		train_log_line(job->log, "best validation loss %.4f at iteration %" PRIu64 "%s%s%s",
			s->overfitting.best_loss, s->overfitting.best_step, has_best ? ": " : "",
			has_best ? run : "", has_best ? "/best" : "");
	if (!finished)
		train_log_line(job->log, "To go on:\n  ferry train --load %s", word.text);
	train_log_line(job->log,
		"%s\n  ferry evaluate --load %s --data %s\n  ferry generate --load %s --prompt 'Once'",
		finished ? "Next:" : "Or:", word.text, shell_word(job->directories[0]).text, word.text);
	if (ferror(stdout) && leads(job)) /* nobody saw that */
		fprintf(stderr, "ferry train: %s at iteration %" PRIu64 "; checkpoints in %s\n",
			finished ? "finished" : "stopped", s->step, run);
}

/* ---- all of it ---- */

static enum status open_log(struct job *job)
{
	struct train_log_config config = {.run = job->run.directory,
		.resumed_step = job->resuming ? checkpoint_get_state(job->from)->step : 0,
		.train_iters = job->config.train_iters,
		.log_interval = job->options.settings.log_interval,
		.silent = !leads(job)};
	return train_log_open(&config, &job->log);
}

/* What the log reckons TFLOPs and MFU from. */
static enum status tell_flops(struct job *job)
{
	const struct trainer_config *c = &job->config;
	struct plan_shape shape = train_forecast_shape(c);
	struct plan_work work;
	TRY(plan_work(&shape, &work));
	train_log_flops(job->log, work.model_flops,
		job->ranks->ranks * plan_peak_flops(trainer_kernels(job->trainer), c->precision));
	return STATUS_OK;
}

/* Seconds of steps, $FERRY_FORECAST_FROM for tests. */
static double forecast_from(void)
{
	const char *text = getenv("FERRY_FORECAST_FROM");
	return text ? strtod(text, NULL) : FORECAST_FROM_SECONDS;
}

/* What a step took, and should have: in runs that are long beside the second that the measurement takes. */
static enum status compare_forecast(struct job *job)
{
	struct plan_rates rates = {0};
	struct plan_time time;
	char name[96], between[64] = "";
	uint64_t steps;
	double taken = train_log_step_seconds(job->log, &steps);
	bool enough = steps && taken * (double)steps >= forecast_from();
	TRY(collective_broadcast(job->ranks, &enough, sizeof enough));
	if (!enough)
		return STATUS_OK;
	trainer_close(job->trainer); /* its memory, for the measurement */
	job->trainer = NULL;
	TRY(collective_agree(job->ranks, train_forecast_measure(&job->config, &rates, name)));
	if (job->ranks->ranks > 1) {
		TRY(train_forecast_network(&job->config, &rates));
		snprintf(between, sizeof between, " --ranks %d --network %.3g", job->ranks->ranks,
			rates.network_bytes / 1e9);
	}
	TRY(train_forecast(&job->config, &rates, &time));
	train_log_line(job->log,
		"a step took %.1f ms (mean of %" PRIu64 "); `ferry plan%s` foretells %.1f ms, bound by %s",
		1e3 * taken, steps, between, 1e3 * time.step, plan_bound_name(time.bound));
	return STATUS_OK;
}

/* What is in the way goes: not before all that can be refused has been. */
static enum status begin(struct job *job)
{
	if (leads(job))
		TRY(train_run_begin(&job->run, &job->options.settings));
	return train_log_start(job->log);
}

static enum status train(struct job *job)
{
	struct trainer_events events = train_log_events(job->log);
	TRY(trainer_open(&job->config, &events, job->from, !job->resuming, &job->trainer));
	if (job->from)
		checkpoint_close_weights(job->from);
	TRY(tell_flops(job));
	print_start(job);
	TRY(collective_agree(job->ranks, begin(job)));
	catch_signals(job->trainer);
	enum status status = trainer_run(job->trainer);
	release_signals();
	TRY(status);
	char text[400];
	train_offload_summarize(
		trainer_offload(job->trainer), job->config.offloading.delayed, text, sizeof text);
	if (*text)
		train_log_line(job->log, " > %s", text);
	print_end(job);
	return compare_forecast(job);
}

/* Nothing to train; but the last run may have been killed after its last checkpoint, before it had tidied up.
 */
static enum status already_there(struct job *job)
{
	if (!leads(job))
		return STATUS_OK;
	if (train_run_goes_on(&job->run)) {
		TRY(train_run_prepare(&job->run, &job->options.settings));
		TRY(train_run_begin(&job->run, &job->options.settings));
		TRY(checkpoint_prune(job->run.directory, job->config.keep));
	}
	printf("%s is at iteration %" PRIu64 " of %" PRIu64
	       " already; train for longer with --train-iters N\n",
		checkpoint_path(job->from), checkpoint_get_state(job->from)->step, job->config.train_iters);
	return STATUS_OK;
}

/* A flag that a failure blames, and that nobody has typed, is the resumed run's own. */
static enum status say_whence(const struct job *job, enum status status)
{
	struct error_copy copy;
	const char *flag = NULL;
	if (status != STATUS_OK && job->resuming)
		flag = train_options_inherited(&job->options, error_message());
	if (!flag)
		return status;
	error_save(status, &copy);
	return error_set(status,
		"%s (%s is not on this command line: it is the run's, as %s/trainer.json records, and a run "
		"keeps it; go on as before, or start anew from its weights with --finetune)",
		copy.message, flag, checkpoint_path(job->from));
}

static enum status configure(struct job *job)
{
	TRY(open_data(job));
	return say_whence(job, compose_config(job));
}

/* All that is decided, and all that can be refused, before the run's directory is touched. */
static enum status prepare(struct job *job, struct trainer_memory *memory, uint64_t *available)
{
	TRY(train_memory_check(&job->machine, &job->config, memory, available));
	TRY(train_run_choose(&job->options, job->resuming ? job->from : NULL, &job->run));
	job->record = train_options_record(&job->options);
	FAIL_IF(!job->record, STATUS_MEMORY, "no memory to record the flags");
	job->config.arguments = job->record;
	job->config.save = job->run.directory;
	return STATUS_OK;
}

static enum status check_same_inputs(const struct job *job)
{
	for (int i = 0; i < job->source_count; i++)
		TRY(ranks_check_hash(
			job->ranks, job->directories[i], corpus_get_info(job->sources[i].corpus)->hash));
	if (!job->from)
		return STATUS_OK;
	return ranks_check_file(job->ranks, checkpoint_path(job->from),
		checkpoint_get_state(job->from) ? "trainer.json" : "model.safetensors");
}

static enum status prepare_files(struct job *job)
{
	if (leads(job))
		TRY(train_run_prepare(&job->run, &job->options.settings));
	TRY(open_log(job));
	return leads(job) ? train_run_check_space(&job->run, &job->config) : STATUS_OK;
}

static enum status prepare_and_train(struct job *job, int argc, char **argv)
{
	uint64_t available = 0;
	struct trainer_memory memory;
	TRY(ranks_check_arguments(job->ranks, argc, argv));
	TRY(collective_find_place(job->ranks, &job->place));
	TRY(open_source(job));
	TRY(collective_agree(job->ranks, layer_options(job, argc, argv)));
	TRY(choose_device(job));
	TRY(train_memory_share(&job->machine, job->ranks, job->place.local_ranks));
	TRY(collective_agree(job->ranks, configure(job)));
	TRY(train_offload_agree(&job->machine, &job->config));
	TRY(collective_agree(job->ranks, prepare(job, &memory, &available)));
	TRY(check_same_inputs(job));
	if (job->resuming && checkpoint_get_state(job->from)->step >= job->config.train_iters)
		return collective_agree(job->ranks, already_there(job));
	TRY(collective_agree(job->ranks, prepare_files(job)));
	print_rates(job);
	TRY(print_data(job));
	TRY(print_model(job));
	print_ranks(job);
	train_memory_tell(job->log, &job->machine, &job->config, &job->options.settings, &memory, available);
	return train(job);
}

static void close_job(struct job *job)
{
	log_set_sink(NULL, NULL);
	trainer_close(job->trainer);
	train_log_close(job->log);
	checkpoint_close(job->from);
	cJSON_Delete(job->record);
	if (job->files[0].data)
		tokenizer_export_free(job->files);
	for (int i = 0; i < job->source_count; i++) {
		corpus_close(job->sources[i].corpus);
		free(job->directories[i]);
	}
	train_run_close(&job->run);
	train_options_free(&job->options);
}

static enum status run(int argc, char **argv, struct collective *ranks)
{
	struct job *job;
	TRY(memory_alloc((void **)&job, 1, sizeof *job, "the command"));
	job->run.lock = -1;
	job->ranks = ranks;
	struct error_copy parsed;
	error_save(train_options_parse(&job->options, argc, argv), &parsed);
	bool help = job->options.options.help;
	enum status status = help ? STATUS_OK : ranks_open(ranks);
	if (status == STATUS_OK)
		status = collective_agree(ranks, error_restore(&parsed));
	if (status == STATUS_OK && !help) {
		signal(SIGUSR1, SIG_IGN); /* it would end the program: there is nothing to save yet */
		log_set_sink(on_notice, job);
		status = prepare_and_train(job, argc, argv);
		close_job(job);
	} else {
		train_options_free(&job->options);
	}
	free(job);
	return status;
}

int cmd_train(int argc, char **argv)
{
	struct collective ranks = collective_open_single();
	enum status status = run(argc, argv, &ranks);
	return ranks_finish("train", status, &ranks);
}
