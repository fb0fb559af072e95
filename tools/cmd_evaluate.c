/*
 * cmd_evaluate.c: `ferry evaluate`: loss, perplexity and bits per byte of a checkpoint on a split of a
 * corpus.
 */
#include "common/json.h"
#include "common/log.h"
#include "common/memory.h"
#include "data/split.h"
#include "engine/evaluate.h"
#include "tools/command.h"
#include "tools/loaded_model.h"
#include "tools/options.h"
#include "tools/ranks.h"
#include "tools/terminal.h"

#include <inttypes.h>
#include <stdlib.h>

/* In the order of enum split_part, then the whole. */
#define PARTS "train|valid|test|all"
enum { PART_ALL = SPLIT_PARTS };

struct settings {
	const char *load, *data, *split;
	int part, stride, batch, window, device, threads;
	bool bf16, json;
};

struct job {
	struct settings settings;
	struct loaded_model loaded;
	struct corpus *corpus;
	char split[SPLIT_TEXT];
	struct split_range range;
	uint16_t *token_bytes; /* [vocabulary] */
	struct model *model;
	struct collective *ranks;
	struct progress_line line;
	struct evaluate_result result;
};

/* Of several ranks, the one that prints. */
static bool leads(const struct job *job)
{
	return job->ranks->rank == 0;
}

static const char *part_name(const struct job *job)
{
	int part = job->settings.part;
	return part == PART_ALL ? "all" : split_part_name((enum split_part)part);
}

/* ---- what to evaluate on ---- */

static enum status check_tokenizer(const struct job *job)
{
	const struct corpus_info *info = corpus_get_info(job->corpus);
	struct hash128 own = tokenizer_hash(job->loaded.tokenizer);
	if (hash128_compare(own, info->tokenizer_hash) == 0)
		return STATUS_OK;
	char model_text[33], corpus_text[33];
	hash128_format(own, model_text);
	hash128_format(info->tokenizer_hash, corpus_text);
	return error_set(STATUS_MISMATCH,
		"%s was tokenized by %s (%s), the model has another tokenizer (%s); preprocess the text with "
		"the "
		"model's --vocab-file and --merge-file",
		job->settings.data, info->tokenizer_name, corpus_text, model_text);
}

/* The split given, or the one that the model was trained with. */
static enum status choose_range(struct job *job)
{
	const struct checkpoint_state *state = checkpoint_get_state(job->loaded.checkpoint);
	const char *text = job->settings.split        ? job->settings.split
			   : state && state->split[0] ? state->split
						      : "949,50,1";
	struct split_shares shares;
	struct split_range ranges[SPLIT_PARTS];
	TRY(split_parse(text, &shares));
	split_format(&shares, job->split);
	const struct corpus_info *info = corpus_get_info(job->corpus);
	if (job->settings.part == PART_ALL) {
		job->range = (struct split_range){.documents = info->documents, .tokens = info->tokens};
	} else {
		TRY(split_corpus(job->corpus, &shares, ranges));
		job->range = ranges[job->settings.part];
	}
	FAIL_IF(job->range.tokens < 2, STATUS_USAGE,
		"%s: the %s part of --split %s has %" PRIu64 " tokens of %" PRIu64
		" documents; give it a larger share, use more documents, or cut long texts into documents "
		"with "
		"`ferry preprocess --document-separator` (--on all takes everything)",
		job->settings.data, part_name(job), job->split, job->range.tokens, info->documents);
	return STATUS_OK;
}

static enum status measure_tokens(struct job *job)
{
	uint32_t count = (uint32_t)job->loaded.config.vocabulary;
	TRY(memory_alloc(
		(void **)&job->token_bytes, count, sizeof *job->token_bytes, "the lengths of the tokens"));
	for (uint32_t id = 0; id < count; id++) {
		uint32_t length = 0;
		if (id < tokenizer_vocabulary(job->loaded.tokenizer))
			tokenizer_token_bytes(job->loaded.tokenizer, id, &length);
		job->token_bytes[id] = (uint16_t)(length < UINT16_MAX ? length : UINT16_MAX);
	}
	return STATUS_OK;
}

/* ---- running ---- */

static enum status show_progress(void *user, uint64_t done, uint64_t targets, double loss)
{
	struct job *job = user;
	double left = progress_line_seconds(&job->line) * (double)(targets - done) / (double)done;
	progress_line_update(&job->line, "%s of %s tokens, loss %.4f so far, %s left",
		human_count((double)done).text, human_count((double)targets).text, loss,
		human_seconds(left).text);
	return STATUS_OK;
}

/* Windows no longer than the stretch, batches no larger than its windows. */
static enum status open_model(struct job *job, struct evaluate_config *config)
{
	struct settings *s = &job->settings;
	const struct model_config *c = &job->loaded.config;
	FAIL_IF(s->window > c->positions, STATUS_USAGE, "--seq-length %d; the model has %d positions",
		s->window, c->positions);
	int window = s->window ? s->window : c->positions;
	FAIL_IF(s->stride > window, STATUS_USAGE,
		"--overlapping-eval %d; windows of %d tokens cannot move on by more than their length",
		s->stride, window);
	uint64_t targets = job->range.tokens - 1;
	if (targets < (uint64_t)window)
		window = (int)targets;
	int stride = s->stride > window ? window : s->stride;
	uint64_t step = (uint64_t)(stride ? stride : window);
	uint64_t windows = 1 + (targets - (uint64_t)window + step - 1) / step;
	int batch = windows < (uint64_t)s->batch ? (int)windows : s->batch;
	struct model_options options = {.batch = batch, .sequence = window, .forward_uses = 1000};
	struct kernels *k = &job->loaded.kernels;
	if (job->loaded.gpu)
		TRY(kernels_check_gpu((uint64_t)batch, c->hidden, c->heads));
	*config = (struct evaluate_config){.corpus = job->corpus,
		.first_token = job->range.first_token,
		.tokens = job->range.tokens,
		.batch = batch,
		.window = window,
		.stride = stride,
		.token_bytes = job->token_bytes,
		.ranks = job->ranks,
		.progress = leads(job) ? show_progress : NULL,
		.user = job};
	return model_open(c, &options, k, &job->model);
}

static enum status run_evaluation(struct job *job, const struct evaluate_config *config)
{
	struct loaded_model *m = &job->loaded;
	if (!leads(job))
		return evaluate_run(job->model, &m->kernels, m->weights, config, &job->result);
	job->line = progress_line_start(stderr, "evaluate");
	enum status status = evaluate_run(job->model, &m->kernels, m->weights, config, &job->result);
	progress_line_clear(&job->line);
	return status;
}

/* ---- telling ---- */

static enum status print_json(const struct job *job)
{
	const struct evaluate_result *r = &job->result;
	const struct checkpoint_state *state = checkpoint_get_state(job->loaded.checkpoint);
	cJSON *o = cJSON_CreateObject();
	bool fine = o && cJSON_AddStringToObject(o, "checkpoint", checkpoint_path(job->loaded.checkpoint)) &&
		    (!state || json_add_u64(o, "step", state->step)) &&
		    cJSON_AddStringToObject(o, "corpus", job->settings.data) &&
		    cJSON_AddStringToObject(o, "split", job->split) &&
		    cJSON_AddStringToObject(o, "on", part_name(job)) &&
		    cJSON_AddStringToObject(o, "precision", dtype_name(job->loaded.kernels.act)) &&
		    cJSON_AddNumberToObject(o, "loss", r->loss) &&
		    cJSON_AddNumberToObject(o, "perplexity", r->perplexity) &&
		    cJSON_AddNumberToObject(o, "bits_per_byte", r->bits_per_byte) &&
		    json_add_u64(o, "tokens", r->targets) && json_add_u64(o, "bytes", r->bytes) &&
		    json_add_u64(o, "ranks", (uint64_t)job->ranks->ranks) &&
		    cJSON_AddNumberToObject(o, "seconds", r->seconds);
	char *text = fine ? cJSON_PrintUnformatted(o) : NULL;
	cJSON_Delete(o);
	FAIL_IF(!text, STATUS_MEMORY, "no memory for the result");
	printf("%s\n", text);
	free(text);
	return STATUS_OK;
}

static void print_lines(const struct job *job)
{
	const struct evaluate_result *r = &job->result;
	const struct checkpoint_state *state = checkpoint_get_state(job->loaded.checkpoint);
	printf("checkpoint     %s", checkpoint_path(job->loaded.checkpoint));
	if (state)
		printf(" (step %s)", human_grouped(state->step).text);
	printf("\non             %s, %s", job->settings.data, part_name(job));
	if (job->settings.part != PART_ALL)
		printf(" of %s", job->split);
	printf(": %s tokens, %s bytes of %s documents\n", human_grouped(r->targets).text,
		human_grouped(r->bytes).text, human_grouped(job->range.documents).text);
	printf("loss           %.6f\n", r->loss);
	printf("perplexity     %.4f\n", r->perplexity);
	printf("bits per byte  %.6f\n", r->bits_per_byte);
	char several[40] = "";
	if (job->ranks->ranks > 1)
		snprintf(several, sizeof several, ", each of %d ranks", job->ranks->ranks);
	printf("time           %s, %s tokens/s (%s%s)\n", human_seconds(r->seconds).text,
		human_count((double)r->targets / r->seconds).text, job->loaded.kernels.name, several);
}

static enum status prepare(struct job *job, struct evaluate_config *config)
{
	TRY(check_tokenizer(job));
	TRY(choose_range(job));
	TRY(measure_tokens(job));
	return open_model(job, config);
}

static enum status evaluate(struct job *job)
{
	const struct settings *s = &job->settings;
	struct evaluate_config config;
	TRY(collective_agree(job->ranks, corpus_open(s->data, &job->corpus)));
	TRY(ranks_check_hash(job->ranks, s->data, corpus_get_info(job->corpus)->hash));
	TRY(loaded_model_open(s->load, (enum device)s->device, s->bf16 ? DTYPE_BF16 : DTYPE_F32, s->threads,
		job->ranks, &job->loaded));
	TRY(collective_agree(job->ranks, prepare(job, &config)));
	TRY(run_evaluation(job, &config));
	if (!leads(job))
		return STATUS_OK;
	if (s->json)
		return print_json(job);
	print_lines(job);
	return STATUS_OK;
}

static void say_nothing(enum log_level level, const char *line, void *user)
{
	(void)level, (void)line, (void)user;
}

/* Under mpirun or srun all begin together: what is wrong with the command line is everyone's. */
static enum status begin(struct job *job, enum status parsed, int argc, char **argv)
{
	struct error_copy failure;
	error_save(parsed, &failure);
	TRY(ranks_open(job->ranks));
	if (!leads(job))
		log_set_sink(say_nothing, NULL); /* rank 0 says the same */
	TRY(collective_agree(job->ranks, error_restore(&failure)));
	return ranks_check_arguments(job->ranks, argc, argv);
}

static enum status run(int argc, char **argv, struct collective *ranks)
{
	struct job job = {.settings = {.load = "run", .part = SPLIT_VALID, .batch = 4}, .ranks = ranks};
	struct settings *s = &job.settings;
	struct option table[] = {
		{OPTION_STRING("--load", &s->load, "DIR", "a run, a checkpoint or a Hugging Face GPT-2")},
		{OPTION_STRING("--data", &s->data, "DIR", "the corpus"), .required = true},
		{OPTION_STRING("--split", &s->split, "A,B,C",
			 "shares of train, valid and test; as it was trained, if not given"),
			.default_text = "the checkpoint's"},
		{OPTION_CHOICE("--on", &s->part, PARTS, "the part to evaluate on")},
		{OPTION_INT("--overlapping-eval", &s->stride, 1, 1 << 24, "S",
			 "move windows on by S tokens, so that each token has more context"),
			.default_text = "no overlap"},
		{OPTION_INT("--seq-length", &s->window, 1, 1 << 24, "T", "tokens a window"),
			.default_text = "the model's positions"},
		{OPTION_INT("--batch-size", &s->batch, 1, 65536, "B", "windows at a time")},
		{OPTION_CHOICE("--device", &s->device, DEVICE_CHOICES, DEVICE_HELP)},
		{OPTION_FLAG("--bf16", &s->bf16, "weights and activations in bfloat16")},
		{OPTION_INT("--threads", &s->threads, 1, 4096, "N", "threads"),
			.default_text = "all; of several processes, each its share"},
		{OPTION_FLAG("--json", &s->json, "the result as one line of JSON")},
	};
	struct options options = OPTIONS(table, "evaluate",
		"Loss, perplexity and bits per byte: every token of the part predicted once. Several "
		"processes "
		"(mpirun -n N ferry evaluate ...) share the windows out, to the same loss.");
	enum status status = options_parse(&options, argc, argv);
	if (options.help)
		return STATUS_OK;
	TRY(begin(&job, status, argc, argv));
	status = evaluate(&job);
	model_close(job.model);
	free(job.token_bytes);
	loaded_model_close(&job.loaded);
	if (job.corpus)
		corpus_close(job.corpus);
	return status;
}

int cmd_evaluate(int argc, char **argv)
{
	struct collective ranks = collective_open_single();
	enum status status = run(argc, argv, &ranks);
	return ranks_finish("evaluate", status, &ranks);
}
