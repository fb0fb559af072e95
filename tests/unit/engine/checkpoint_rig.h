/* checkpoint_rig.h: a run of checkpoints of a tiny model, for tests of how they are written and opened. */
#ifndef TESTS_UNIT_ENGINE_CHECKPOINT_RIG_H
#define TESTS_UNIT_ENGINE_CHECKPOINT_RIG_H

#include "engine/checkpoint.h"

#include "common/file.h"
#include "common/log.h"
#include "tests/unit/engine/model_rig.h"

#include <math.h>
#include <unistd.h>

static const struct model_config small = {.layers = 2,
	.hidden = 20,
	.heads = 2,
	.positions = 7,
	.vocabulary = 11,
	.vocabulary_padded = 128,
	.embedding_dropout = 0.1f,
	.attention_dropout = 0.2f,
	.hidden_dropout = 0.3f,
	.layernorm_epsilon = 1e-5f};

struct arrays {
	struct parameter_table table;
	float *p, *m, *v;
};

static char directory[] = "/tmp/ferry-test-checkpoint-XXXXXX";
static char run[64];
static struct arrays arrays;
static int warnings;
static char last_warning[4096];

static inline void count_warnings(enum log_level level, const char *line, void *user)
{
	(void)user;
	if (level == LOG_WARN) {
		warnings++;
		snprintf(last_warning, sizeof last_warning, "%s", line);
	}
}

static inline void fill(float *array, uint64_t salt)
{
	for (int i = 0; i < arrays.table.count; i++) {
		const struct parameter *p = &arrays.table.items[i];
		for (uint64_t e = 0; e < (uint64_t)p->file_rows * (uint64_t)p->columns; e++)
			array[p->offset + e] = sinf((float)(p->offset + e) * 0.7f + (float)salt) * 1e-3f;
	}
}

static inline struct checkpoint_state sample_state(uint64_t step)
{
	struct checkpoint_state s = {.step = step,
		.updates = step - 3,
		.skipped = 3,
		.tokens = UINT64_C(0x1234567890abcdef),
		.split = "949,50,1",
		.seed = UINT64_MAX,
		.window_tokens = 1024,
		.ordinal = (UINT64_C(1) << 53) + 1,
		.source_count = 2,
		.sources = {{{0x0123456789abcdef, 0xfedcba9876543210}, 7, {UINT64_C(1) << 53, 3, 2048, 4096}},
			{{1, 2}, UINT64_C(1) << 59, {1, 0, 1024, 1024}}},
		.loss_scale = loss_scale_dynamic(16, 1000, 2, 1),
		.schedule = {SCHEDULE_COSINE, 1.5e-4, 1e-5 / 3, 0.01, 1000000},
		.overfitting = {7, 70, 2, 3.1 / 7, 2.9 / 7, true, 0.1 / 3, 0.3},
		.precision = "fp16",
		.kernels = "CPU \"quoted\"",
		.threads = 2};
	s.loss_scale.iteration = step;
	s.loss_scale.last_overflow = 5;
	s.loss_scale.hysteresis_left = 1;
	return s;
}

static inline struct checkpoint_contents contents_of(const struct checkpoint_state *state)
{
	static const struct checkpoint_file files[] = {
		{"vocab.json", "{}", 2}, {"merges.txt", "#version: 0.2\n", 14}};
	return (struct checkpoint_contents){.config = &small,
		.table = &arrays.table,
		.weights = arrays.p,
		.exp_avg = arrays.m,
		.exp_avg_sq = arrays.v,
		.eod = 10,
		.files = files,
		.file_count = 2,
		.state = state};
}

static inline void write_step(uint64_t step)
{
	struct checkpoint_state state = sample_state(step);
	struct checkpoint_contents contents = contents_of(&state);
	char name[CHECKPOINT_NAME];
	state.arguments = cJSON_CreateObject();
	cJSON_AddStringToObject(state.arguments, "--lr", "0.0006");
	assert_ok(checkpoint_write(run, &contents, name));
	cJSON_Delete(state.arguments);
}

static inline char *path_of(const char *name)
{
	static char path[256];
	snprintf(path, sizeof path, "%s/%s", run, name);
	return path;
}

static inline int setup(void **state)
{
	(void)state;
	snprintf(run, sizeof run, "%s/run", directory);
	if (directory_create(run) != STATUS_OK)
		return -1;
	log_set_sink(count_warnings, NULL);
	return 0;
}

static inline int teardown(void **state)
{
	(void)state;
	log_set_sink(NULL, NULL);
	return directory_remove(run) == STATUS_OK ? 0 : -1;
}

static inline int open_all(void **state)
{
	(void)state;
	if (!mkdtemp(directory) || parameter_table_open(&small, &arrays.table) != STATUS_OK)
		return -1;
	arrays.p = calloc(arrays.table.elements, 4);
	arrays.m = calloc(arrays.table.elements, 4);
	arrays.v = calloc(arrays.table.elements, 4);
	fill(arrays.p, 1);
	fill(arrays.m, 2);
	fill(arrays.v, 3);
	return 0;
}

static inline int close_all(void **state)
{
	(void)state;
	free(arrays.p);
	free(arrays.m);
	free(arrays.v);
	parameter_table_close(&arrays.table);
	return rmdir(directory);
}

#endif
