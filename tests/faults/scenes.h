/*
 * scenes.h: the commands whose faults are tested, each with the folder it works on as it was before, what may
 * be found there when it was cut off, and what must be there once it has run.
 *
 * Every scene works on scene_path("out"). `old` and `new` hold copies of the folder before and after a run in
 * peace. FAULTS=long in the environment asks for the long form, ONLY='pattern*' for some tests. Everything asserts, or returns a complaint.
 */
#ifndef TESTS_FAULTS_SCENES_H
#define TESTS_FAULTS_SCENES_H

#include "common/file.h"
#include "common/log.h"
#include "data/corpus_export.h"
#include "data/corpus_merge.h"
#include "data/preprocess.h"
#include "data/split.h"
#include "data/train_tokenizer.h"
#include "engine/checkpoint.h"
#include "tests/unit/assert_ok.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SCENE_FUNCTION static __attribute__((unused))

struct scene {
	const char *name;
	void (*prepare)(void);
	enum status (*command)(void);
	/* NULL, or what is wrong with the folder. `done`: the command had returned. */
	const char *(*check)(bool done);
	/* What the command may say when there is nothing left to do; NULL: nothing. */
	const char *refusal;
};

static struct {
	char root[64];
	struct tokenizer *gpt2, *small;
	int warnings;
	char complaint[4096];
	struct parameter_table table;
	float *weights; /* [3][elements] */
} scenes;

SCENE_FUNCTION bool faults_long(void)
{
	const char *form = getenv("FAULTS");
	return form && strcmp(form, "long") == 0;
}

/* A path below the scratch folder; of the last 16 asked for. */
SCENE_FUNCTION const char *scene_path(const char *name)
{
	static char paths[16][256];
	static int next;
	char *path = paths[next++ % 16];
	snprintf(path, 256, "%s/%s", scenes.root, name);
	return path;
}

SCENE_FUNCTION const char *complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
SCENE_FUNCTION const char *complain(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(scenes.complaint, sizeof scenes.complaint, format, arguments);
	va_end(arguments);
	return scenes.complaint;
}

SCENE_FUNCTION void scene_count_warnings(enum log_level level, const char *line, void *user)
{
	(void)line;
	(void)user;
	scenes.warnings += level == LOG_WARN;
}

/* ---- folders ---- */

SCENE_FUNCTION char *scene_link(const char *path)
{
	static char target[256];
	ssize_t bytes = readlink(path, target, sizeof target - 1);
	target[bytes < 0 ? 0 : bytes] = 0;
	return target;
}

/* Is file `a` the same as file `b`: kind, bytes, target? */
SCENE_FUNCTION bool scene_same_file(const char *a, const char *b)
{
	struct stat info[2];
	char *data[2], target[256];
	size_t bytes[2];
	if (lstat(a, &info[0]) != 0 || lstat(b, &info[1]) != 0 ||
		(info[0].st_mode & S_IFMT) != (info[1].st_mode & S_IFMT))
		return false;
	if (S_ISLNK(info[0].st_mode)) {
		snprintf(target, sizeof target, "%s", scene_link(a));
		return strcmp(target, scene_link(b)) == 0;
	}
	if (!S_ISREG(info[0].st_mode))
		return true;
	assert_ok(file_read_all(a, (size_t)1 << 30, &data[0], &bytes[0]));
	assert_ok(file_read_all(b, (size_t)1 << 30, &data[1], &bytes[1]));
	bool same = bytes[0] == bytes[1] && memcmp(data[0], data[1], bytes[0]) == 0;
	free(data[0]);
	free(data[1]);
	return same;
}

/* Does `folder` hold all of `reference`, and (exactly) nothing else? NULL: yes. */
SCENE_FUNCTION const char *scene_compare(const char *folder, const char *reference, bool exactly)
{
	char **names, **own;
	size_t count, own_count;
	const char *complaint = NULL;
	assert_ok(directory_list(reference, &names, &count));
	assert_ok(directory_list(folder, &own, &own_count));
	for (size_t i = 0; i < count && !complaint; i++) {
		char a[512], b[512];
		struct stat info;
		snprintf(a, sizeof a, "%s/%s", folder, names[i]);
		snprintf(b, sizeof b, "%s/%s", reference, names[i]);
		/* Which job made a corpus: other times of its inputs are another job. */
		if (strcmp(names[i], ".job") == 0 ? access(a, R_OK) < 0 : !scene_same_file(a, b))
			complaint = complain("%s differs", a);
		else if (lstat(b, &info) == 0 && S_ISDIR(info.st_mode))
			complaint = scene_compare(a, b, exactly);
	}
	for (size_t i = 0, j = 0; exactly && i < own_count && !complaint; i++) {
		while (j < count && strcmp(names[j], own[i]) < 0)
			j++;
		if (j == count || strcmp(names[j], own[i]) != 0)
			complaint = complain("%s/%s is left", folder, own[i]);
	}
	directory_list_free(names, count);
	directory_list_free(own, own_count);
	return complaint;
}

SCENE_FUNCTION void scene_copy(const char *from, const char *to)
{
	char **names, *data;
	size_t count, bytes;
	assert_ok(directory_remove(to));
	assert_int_equal(mkdir(to, 0777), 0);
	assert_ok(directory_list(from, &names, &count));
	for (size_t i = 0; i < count; i++) {
		char a[512], b[512];
		struct stat info;
		snprintf(a, sizeof a, "%s/%s", from, names[i]);
		snprintf(b, sizeof b, "%s/%s", to, names[i]);
		assert_int_equal(lstat(a, &info), 0);
		if (S_ISDIR(info.st_mode)) {
			scene_copy(a, b);
		} else if (S_ISLNK(info.st_mode)) {
			assert_int_equal(symlink(scene_link(a), b), 0);
		} else {
			assert_ok(file_read_all(a, (size_t)1 << 30, &data, &bytes));
			int fd = open(b, O_WRONLY | O_CREAT | O_TRUNC, 0666);
			assert_true(fd >= 0 && write(fd, data, bytes) == (ssize_t)bytes);
			close(fd);
			free(data);
		}
	}
	directory_list_free(names, count);
}

/* ---- text ---- */

SCENE_FUNCTION uint32_t scene_below(uint32_t *seed, uint32_t n)
{
	*seed = *seed * 1664525 + 1013904223;
	return (uint32_t)(((uint64_t)*seed * n) >> 32);
}

/* JSONL: documents of up to 40 words, now and then a copy or a line that is rejected. */
SCENE_FUNCTION void scene_write_text(const char *name, uint32_t seed, int documents, bool rejects)
{
	static const char *const words[] = {"the", "ship", "left", "Caf\xC3\xA9", "12", "don't", "of",
		"harbour", "\xE6\x97\xA5\xE6\x9C\xAC", "slowly", "and", "a", "storm", "came", "over", "it"};
	FILE *file = fopen(scene_path(name), "wb");
	assert_non_null(file);
	for (int d = 0; d < documents; d++) {
		uint32_t own = seed * 1000 + (uint32_t)(d % 7 == 6 ? d - 3 : d);
		if (rejects && d % 5 == 3)
			fprintf(file, "{\"text\": %d\n", d);
		fprintf(file, "{\"text\": \"");
		for (uint32_t w = 1 + scene_below(&own, 40); w > 0; w--)
			fprintf(file, "%s ", words[scene_below(&own, 16)]);
		fprintf(file, "\"}\n");
	}
	assert_int_equal(fclose(file), 0);
}

/* ---- corpora ---- */

/* preprocess with these settings: `output`, `tokenizer` (NULL: the small one) and what is not as always;
 * `input` NULL: none. The small one opens in no time, and a corpus of it has two files more. */
SCENE_FUNCTION enum status scene_preprocess(const char *input, struct preprocess_config config)
{
	struct preprocess_result result;
	const char *inputs[1] = {scene_path(input ? input : "")};
	config.inputs = inputs;
	config.input_count = input != NULL;
	config.output = scene_path(config.output);
	config.tokenizer = config.tokenizer ? config.tokenizer : scenes.small;
	config.text_key = "text";
	config.workers = 1;
	config.memory = 1 << 20;
	config.max_bytes = 1 << 16;
	config.unit_bytes = faults_long() ? 4000 : 1500;
	config.shard_bytes = config.shard_bytes ? config.shard_bytes : faults_long() ? 2500 : 500;
	return preprocess_run(&config, &result);
}

SCENE_FUNCTION void scene_begin_corpora(void)
{
	int more = faults_long() ? 4 : 1;
	scene_write_text("first.jsonl", 1, 12 * more, false);
	scene_write_text("second.jsonl", 2, 22 * more, true);
	FILE *file = fopen(scene_path("merges"), "wb");
	assert_non_null(file);
	fputs("t h\nth e\n", file);
	assert_int_equal(fclose(file), 0);
	assert_ok(tokenizer_open_gpt2(&scenes.gpt2));
	assert_ok(tokenizer_open_files(scene_path("merges"), NULL, &scenes.small));
	assert_ok(scene_preprocess(
		"first.jsonl", (struct preprocess_config){.output = "corpus1", .sources = true}));
	assert_ok(scene_preprocess(
		"second.jsonl", (struct preprocess_config){.output = "corpus2", .sources = true}));
	assert_ok(scene_preprocess(
		"second.jsonl", (struct preprocess_config){.output = "gpt2", .tokenizer = scenes.gpt2}));
}

SCENE_FUNCTION void prepare_nothing(void)
{
	assert_ok(directory_create(scene_path("out")));
}

/* An old corpus with rejects.jsonl, sources and a tokenizer's files: all that a new one may not have. */
SCENE_FUNCTION void prepare_old_corpus(void)
{
	assert_ok(scene_preprocess(
		"second.jsonl", (struct preprocess_config){.output = "out", .sources = true}));
}

SCENE_FUNCTION void prepare_plain_corpus(void)
{
	assert_ok(scene_preprocess(
		"first.jsonl", (struct preprocess_config){.output = "out", .tokenizer = scenes.gpt2}));
}

SCENE_FUNCTION enum status command_preprocess(void)
{
	return scene_preprocess(
		"second.jsonl", (struct preprocess_config){.output = "out", .tokenizer = scenes.gpt2});
}

SCENE_FUNCTION enum status command_preprocess_over(void)
{
	return scene_preprocess("first.jsonl",
		(struct preprocess_config){.output = "out", .tokenizer = scenes.gpt2, .overwrite = true});
}

SCENE_FUNCTION enum status command_preprocess_small_over(void)
{
	return scene_preprocess("second.jsonl",
		(struct preprocess_config){.output = "out", .sources = true, .overwrite = true});
}

SCENE_FUNCTION enum status command_preprocess_near(void)
{
	return scene_preprocess("second.jsonl",
		(struct preprocess_config){.output = "out", .near_bands = 14, .near_rows = 8});
}

/* Two processes' parts and a third that finishes, by what the journal says. */
SCENE_FUNCTION enum status scene_parts(bool overwrite)
{
	struct preprocess_config config = {.output = "out", .parts = 2, .overwrite = overwrite};
	config.mode = PREPROCESS_PART;
	for (config.part = 1; config.part <= config.parts; config.part++)
		TRY(scene_preprocess("second.jsonl", config));
	config.mode = PREPROCESS_FINISH;
	config.part = config.parts = 0;
	return scene_preprocess(NULL, config);
}

SCENE_FUNCTION enum status command_parts(void)
{
	return scene_parts(false);
}

SCENE_FUNCTION enum status scene_export(const char *corpus_name, enum token_format format, const char *prefix)
{
	struct corpus *corpus;
	uint64_t files;
	TRY(corpus_open(scene_path(corpus_name), &corpus));
	struct corpus_export_config config = {
		.format = format, .prefix = scene_path(prefix), .file_tokens = 500, .overwrite = true};
	enum status status = corpus_export_run(corpus, &config, &files);
	corpus_close(corpus);
	return status;
}

SCENE_FUNCTION void prepare_ids(void)
{
	prepare_plain_corpus();
	assert_ok(scene_export("gpt2", TOKEN_FORMAT_NANOGPT, "ids"));
}

SCENE_FUNCTION enum status command_convert_over(void)
{
	return scene_preprocess("ids.bin", (struct preprocess_config){.output = "out",
						   .token_format = TOKEN_FORMAT_NANOGPT,
						   .tokenizer = scenes.gpt2,
						   .overwrite = true});
}

SCENE_FUNCTION enum status scene_merge(bool overwrite)
{
	const char *inputs[2] = {scene_path("corpus1"), scene_path("corpus2")};
	struct corpus_merge_config config = {.inputs = inputs,
		.input_count = 2,
		.output = scene_path("out"),
		.workers = 1,
		.overwrite = overwrite,
		.shard_bytes = faults_long() ? 4000 : 1000};
	struct corpus_merge_result result;
	return corpus_merge_run(&config, &result);
}

SCENE_FUNCTION enum status command_merge(void)
{
	return scene_merge(false);
}

SCENE_FUNCTION enum status command_merge_over(void)
{
	return scene_merge(true);
}

SCENE_FUNCTION bool scene_manifest(const char *folder, struct hash128 *hash)
{
	struct corpus *corpus;
	if (!file_exists(folder) || corpus_open(folder, &corpus) != STATUS_OK)
		return false;
	*hash = corpus_get_info(corpus)->hash;
	corpus_close(corpus);
	return true;
}

SCENE_FUNCTION enum status compare_files(void *reference, const char *path)
{
	return scene_same_file(path, reference) ? STATUS_OK : STATUS_MISMATCH;
}

/* The folder opens as the old corpus or as the new one, every byte of it; as neither only if there was none.
 */
SCENE_FUNCTION const char *check_corpus(bool done)
{
	struct corpus *corpus;
	struct tokenizer *tokenizer;
	struct hash128 old = {0}, new, own;
	bool had = scene_manifest(scene_path("old"), &old);
	assert_true(scene_manifest(scene_path("new"), &new));
	enum status status = corpus_open(scene_path("out"), &corpus);
	if (status != STATUS_OK)
		return !had && !done && status == STATUS_IO && strstr(error_message(), "not there")
			       ? NULL
			       : complain("corpus_open: %s", error_message());
	own = corpus_get_info(corpus)->hash;
	bool is_new = hash128_compare(own, new) == 0, is_old = had && hash128_compare(own, old) == 0;
	status = corpus_verify(corpus, 1, NULL, NULL);
	/* The built-in one takes longer to open than all else here, and reads nothing of the folder. */
	bool built_in = strcmp(corpus_get_info(corpus)->tokenizer_name, TOKENIZER_GPT2_NAME) == 0;
	if (status == STATUS_OK && !built_in &&
		(status = corpus_open_tokenizer(corpus, &tokenizer)) == STATUS_OK)
		tokenizer_close(tokenizer);
	char reference[512];
	bool same_rejects = corpus_get_info(corpus)->dropped_rejected == 0;
	snprintf(reference, sizeof reference, "%s/rejects.jsonl", scene_path(is_new ? "new" : "old"));
	if (!same_rejects)
		same_rejects =
			corpus_use_file(corpus, "rejects.jsonl", compare_files, reference) == STATUS_OK;
	corpus_close(corpus);
	const char *complaint = NULL;
	if (status != STATUS_OK)
		complaint = complain("opened, but: %s", error_message());
	else if (!is_new && (!is_old || done))
		complaint = complain("opened, but as %s", is_old ? "the old one" : "neither");
	else if (!same_rejects)
		complaint = complain("rejects.jsonl is not the corpus's");
	return complaint;
}

/* ---- files of other programs ---- */

SCENE_FUNCTION void prepare_megatron(void)
{
	prepare_nothing();
	assert_ok(scene_export("corpus1", TOKEN_FORMAT_MEGATRON, "out/ids"));
}

SCENE_FUNCTION enum status command_megatron(void)
{
	return scene_export("corpus2", TOKEN_FORMAT_MEGATRON, "out/ids");
}

SCENE_FUNCTION void prepare_nanogpt(void)
{
	prepare_nothing();
	assert_ok(scene_export("corpus1", TOKEN_FORMAT_NANOGPT, "out/ids"));
}

SCENE_FUNCTION enum status command_nanogpt(void)
{
	return scene_export("corpus2", TOKEN_FORMAT_NANOGPT, "out/ids");
}

SCENE_FUNCTION void prepare_llmc(void)
{
	prepare_nothing();
	assert_ok(scene_export("corpus1", TOKEN_FORMAT_LLMC, "out/ids"));
}

SCENE_FUNCTION enum status command_llmc(void)
{
	return scene_export("corpus2", TOKEN_FORMAT_LLMC, "out/ids");
}

/* Files of which the last stands for all: when it is there, all are the old ones or all are the new ones. */
SCENE_FUNCTION const char *scene_check_set(const char *last, bool done)
{
	if (!scene_compare(scene_path("out"), scene_path("new"), false))
		return NULL;
	if (done)
		return scenes.complaint;
	if (!file_exists(scene_path(last)) || !scene_compare(scene_path("out"), scene_path("old"), false))
		return NULL;
	return complain("%s is there with files of two runs", last);
}

SCENE_FUNCTION const char *check_megatron(bool done)
{
	return scene_check_set("out/ids.idx", done);
}

SCENE_FUNCTION const char *check_nanogpt(bool done)
{
	return scene_check_set("out/ids.bin", done);
}

/* Files that are replaced one by one: each is the old or the new one. Those behind the last new one go when all new ones
 * are there. */
SCENE_FUNCTION const char *check_llmc(bool done)
{
	if (done)
		return scene_compare(scene_path("out"), scene_path("new"), false);
	bool all_new = !scene_compare(scene_path("out"), scene_path("new"), false);
	for (int i = 0; i < 100; i++) {
		char name[32], file[256], old[256], new[256];
		snprintf(name, sizeof name, "ids_%06d.bin", i);
		snprintf(file, sizeof file, "%s/%s", scene_path("out"), name);
		snprintf(old, sizeof old, "%s/%s", scene_path("old"), name);
		snprintf(new, sizeof new, "%s/%s", scene_path("new"), name);
		if (all_new && !file_exists(file))
			continue;
		if (!scene_same_file(file, new) && (file_exists(file) || file_exists(old)) &&
			!scene_same_file(file, old))
			return complain("%s is neither the old nor the new one", file);
	}
	return NULL;
}

SCENE_FUNCTION enum status scene_train_tokenizer(const char *input, uint32_t vocabulary)
{
	const char *inputs[1] = {scene_path(input)};
	struct train_tokenizer_config config = {.inputs = inputs,
		.input_count = 1,
		.output = scene_path("out"),
		.vocabulary = vocabulary,
		.least_count = 2,
		.text_key = "text",
		.max_bytes = 1 << 16,
		.workers = 1,
		.overwrite = true};
	struct train_tokenizer_result result;
	return train_tokenizer_run(&config, &result);
}

SCENE_FUNCTION void prepare_tokenizer(void)
{
	assert_ok(scene_train_tokenizer("first.jsonl", 264));
}

SCENE_FUNCTION enum status command_train_tokenizer(void)
{
	return scene_train_tokenizer("second.jsonl", 280);
}

SCENE_FUNCTION const char *check_tokenizer(bool done)
{
	return scene_check_set("out/tokenizer.json", done);
}

/* ---- checkpoints ---- */

static const struct model_config scene_model = {.layers = 1,
	.hidden = 8,
	.heads = 2,
	.positions = 5,
	.vocabulary = 11,
	.vocabulary_padded = 128,
	.layernorm_epsilon = 1e-5f};

SCENE_FUNCTION void scene_begin_checkpoints(void)
{
	assert_ok(parameter_table_open(&scene_model, &scenes.table));
	scenes.weights = calloc(3 * scenes.table.elements, sizeof *scenes.weights);
}

/* Weights and moments that tell the step and the version. */
SCENE_FUNCTION void scene_fill(uint64_t step, int version)
{
	const struct parameter_table *t = &scenes.table;
	for (int set = 0; set < 3; set++)
		for (int i = 0; i < t->count; i++)
			for (uint64_t e = 0;
				e < (uint64_t)t->items[i].file_rows * (uint64_t)t->items[i].columns; e++)
				scenes.weights[(uint64_t)set * t->elements + t->items[i].offset + e] =
					sinf((float)(e + 100 * step) + (float)(version * 7 + set));
}

SCENE_FUNCTION enum status scene_save(uint64_t step, int version, char name[CHECKPOINT_NAME])
{
	static const struct checkpoint_file files[] = {
		{"vocab.json", "{}", 2}, {"merges.txt", "#version: 0.2\n", 14}};
	struct checkpoint_state state = {.step = step,
		.updates = step,
		.tokens = 1000 * step,
		.split = "949,50,1",
		.seed = 7,
		.window_tokens = 1024,
		.ordinal = step,
		.source_count = 1,
		.sources = {{{1, 2}, 1, {step, 0, 1024, 4096}}},
		.loss_scale = loss_scale_dynamic(16, 1000, 2, 1),
		.schedule = {SCHEDULE_COSINE, 1.5e-4, 1e-5, 0.01, 1000},
		.precision = "fp16",
		.kernels = "CPU",
		.threads = 2};
	scene_fill(step, version);
	return checkpoint_write(scene_path("out"),
		&(struct checkpoint_contents){.config = &scene_model,
			.table = &scenes.table,
			.weights = scenes.weights,
			.exp_avg = scenes.weights + scenes.table.elements,
			.exp_avg_sq = scenes.weights + 2 * scenes.table.elements,
			.eod = 10,
			.files = files,
			.file_count = 2,
			.state = &state},
		name);
}

SCENE_FUNCTION void prepare_run(void)
{
	char name[CHECKPOINT_NAME];
	for (uint64_t step = 10; step <= 30; step += 10) {
		assert_ok(scene_save(step, 0, name));
		if (step == 20)
			assert_ok(checkpoint_mark_best(scene_path("out"), name));
	}
}

/* As ferry train does: tidy, save, mark as the best, delete older ones. */
SCENE_FUNCTION enum status scene_train(uint64_t step)
{
	char name[CHECKPOINT_NAME];
	TRY(checkpoint_clean(scene_path("out")));
	TRY(scene_save(step, 1, name));
	TRY(checkpoint_mark_best(scene_path("out"), name));
	return checkpoint_prune(scene_path("out"), 2);
}

SCENE_FUNCTION enum status command_save(void)
{
	return scene_train(40);
}

SCENE_FUNCTION enum status command_save_again(void)
{
	return scene_train(30);
}

/* A run that goes on from step 10. */
SCENE_FUNCTION enum status command_go_back(void)
{
	TRY(checkpoint_clean(scene_path("out")));
	return checkpoint_remove_after(scene_path("out"), 10);
}

/* A checkpoint that opens as one of `old` or of `new`, every file of it. */
SCENE_FUNCTION const char *scene_check_checkpoint(const char *path, bool done)
{
	struct checkpoint *c;
	char old[512], new[512];
	float *out = malloc(scenes.table.elements * sizeof *out);
	enum status status = checkpoint_open(path, &c);
	if (status != STATUS_OK) {
		free(out);
		return complain("checkpoint_open: %s", error_message());
	}
	const char *name = strrchr(checkpoint_path(c), '/');
	snprintf(old, sizeof old, "%s%s", scene_path("old"), name);
	snprintf(new, sizeof new, "%s%s", scene_path("new"), name);
	status = checkpoint_read_weights(c, &scenes.table, NULL, out);
	if (status == STATUS_OK)
		status = checkpoint_read_moments(c, &scenes.table, NULL, out, out);
	const char *complaint = NULL;
	if (status != STATUS_OK)
		complaint = complain("opened, but: %s", error_message());
	else if ((!file_exists(new) || scene_compare(checkpoint_path(c), new, true)) &&
		 (done || !file_exists(old) || scene_compare(checkpoint_path(c), old, true)))
		complaint = complain("%s is neither the old nor the new one", name);
	checkpoint_close(c);
	free(out);
	return complaint;
}

SCENE_FUNCTION uint64_t scene_newest(const char *run)
{
	uint64_t *steps, newest;
	size_t count;
	assert_ok(checkpoint_list(scene_path(run), &steps, &count));
	newest = count ? steps[count - 1] : 0;
	free(steps);
	return newest;
}

/* The run's newest checkpoint is whole, none had to be passed over, and best is one, too. */
SCENE_FUNCTION const char *check_steps(bool done)
{
	char best[256];
	scenes.warnings = 0;
	const char *complaint = scene_check_checkpoint(scene_path("out"), done);
	if (complaint)
		return complaint;
	if (scenes.warnings)
		return complain("a checkpoint was passed over");
	snprintf(best, sizeof best, "%s/best", scene_path("out"));
	if (scene_link(best)[0])
		complaint = scene_check_checkpoint(best, done);
	else if (file_exists(scene_path("new/best")))
		complaint = complain("best is gone");
	return complaint;
}

/* And it is the newest of before or of after. */
SCENE_FUNCTION const char *check_run(bool done)
{
	uint64_t newest = scene_newest("out");
	if (newest != scene_newest("new") && (done || newest != scene_newest("old")))
		return complain("the newest checkpoint is of step %d", (int)newest);
	return check_steps(done);
}

/* ---- commands that only read ---- */

static void prepare_corpora(void)
{
	prepare_nothing();
	assert_ok(scene_preprocess(
		"second.jsonl", (struct preprocess_config){.output = "out/corpus", .sources = true}));
}

static enum status scene_load(struct corpus *corpus)
{
	struct split_shares shares;
	struct split_range ranges[SPLIT_PARTS];
	struct loader *loader;
	struct loader_batch batch;
	struct loader_config config = {
		.corpus = corpus, .global_batch = 2, .micro_batch = 2, .ranks = 1, .threads = 1, .depth = 1};
	TRY(split_parse("80,15,5", &shares));
	TRY(split_corpus(corpus, &shares, ranges));
	TRY(sampler_open(&config.sampler, &ranges[SPLIT_TRAIN], SPLIT_TRAIN, 16, 1, true));
	TRY(loader_open(&config, &loader));
	enum status status = STATUS_OK;
	for (int i = 0; i < 4 && status == STATUS_OK; i++)
		status = loader_next(loader, &batch);
	loader_close(loader);
	return status;
}

static enum status command_read_corpus(void)
{
	struct corpus *corpus;
	struct tokenizer *tokenizer;
	TRY(corpus_open(scene_path("out/corpus"), &corpus));
	enum status status = scene_load(corpus);
	if (status == STATUS_OK)
		status = corpus_verify(corpus, 1, NULL, NULL);
	if (status == STATUS_OK && (status = corpus_open_tokenizer(corpus, &tokenizer)) == STATUS_OK)
		tokenizer_close(tokenizer);
	corpus_close(corpus);
	return status;
}

static enum status command_load_checkpoint(void)
{
	struct checkpoint *c;
	float *out = scenes.weights;
	TRY(checkpoint_open(scene_path("out/step-00000030"), &c));
	enum status status = checkpoint_read_weights(c, &scenes.table, NULL, out);
	if (status == STATUS_OK)
		status = checkpoint_read_moments(c, &scenes.table, NULL, out, out);
	checkpoint_close(c);
	return status;
}

static const char *check_nothing(bool done)
{
	(void)done;
	return NULL;
}

/* ---- the scenes ---- */

static const struct scene scene_list[] = {
	{"preprocess", prepare_nothing, command_preprocess, check_corpus, "already holds a corpus"},
	{"preprocess --overwrite", prepare_old_corpus, command_preprocess_over, check_corpus, NULL},
	{"preprocess --overwrite, another tokenizer", prepare_plain_corpus, command_preprocess_small_over,
		check_corpus, NULL},
	{"preprocess --dedup near", prepare_nothing, command_preprocess_near, check_corpus,
		"already holds a corpus"},
	{"preprocess --part, --finish", prepare_nothing, command_parts, check_corpus,
		"already holds a corpus"},
	{"convert --overwrite", prepare_ids, command_convert_over, check_corpus, NULL},
	{"merge", prepare_nothing, command_merge, check_corpus, "already holds a corpus"},
	{"merge --overwrite", prepare_plain_corpus, command_merge_over, check_corpus, NULL},
	{"convert to Megatron-LM's files", prepare_megatron, command_megatron, check_megatron, NULL},
	{"convert to nanoGPT's file", prepare_nanogpt, command_nanogpt, check_nanogpt, NULL},
	{"convert to llm.c's files", prepare_llmc, command_llmc, check_llmc, NULL},
	{"train-tokenizer --overwrite", prepare_tokenizer, command_train_tokenizer, check_tokenizer, NULL},
	{"a checkpoint, best, deleting old ones", prepare_run, command_save, check_run, NULL},
	{"a checkpoint of the same step", prepare_run, command_save_again, check_run, NULL},
	{"deleting newer checkpoints", prepare_run, command_go_back, check_steps, NULL},
	/* these leave nothing behind */
	{"reading a corpus: open, loader, verify", prepare_corpora, command_read_corpus, check_nothing, NULL},
	{"loading a checkpoint", prepare_run, command_load_checkpoint, check_nothing, NULL},
};
enum { SCENES = sizeof scene_list / sizeof *scene_list, WRITING_SCENES = SCENES - 2 };

/* Makes `old` and `new`; leaves the folder as it is before. */
SCENE_FUNCTION void scene_begin(const struct scene *scene)
{
	assert_ok(directory_remove(scene_path("out")));
	scene->prepare();
	scene_copy(scene_path("out"), scene_path("old"));
	assert_ok(scene->command());
	scene_copy(scene_path("out"), scene_path("new"));
	scene_copy(scene_path("old"), scene_path("out"));
}

/* The command once more, in peace, must end in what it always ends in. */
SCENE_FUNCTION const char *scene_finish(const struct scene *scene)
{
	enum status status = scene->command();
	if (status != STATUS_OK && !(scene->refusal && strstr(error_message(), scene->refusal)))
		return complain("the same command: %s", error_message());
	return scene_compare(scene_path("out"), scene_path("new"), true);
}

SCENE_FUNCTION int scenes_open(void **state)
{
	(void)state;
	snprintf(scenes.root, sizeof scenes.root, "%s/ferry-faults-XXXXXX",
		access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	assert_non_null(mkdtemp(scenes.root));
	setvbuf(stdout, NULL, _IOLBF, 0); /* who looks at a long run sees how far it is */
	log_set_sink(scene_count_warnings, NULL);
	scene_begin_corpora();
	scene_begin_checkpoints();
	return 0;
}

SCENE_FUNCTION int scenes_close(void **state)
{
	(void)state;
	log_set_sink(NULL, NULL);
	tokenizer_close(scenes.gpt2);
	tokenizer_close(scenes.small);
	parameter_table_close(&scenes.table);
	free(scenes.weights);
	assert_ok(directory_remove(scenes.root));
	return 0;
}

SCENE_FUNCTION int scenes_run(const char *program, const struct CMUnitTest *tests, size_t count)
{
	if (getenv("ONLY"))
		cmocka_set_test_filter(getenv("ONLY"));
	return _cmocka_run_group_tests(program, tests, count, scenes_open, scenes_close);
}

#endif
