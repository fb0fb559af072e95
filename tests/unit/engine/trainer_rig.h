/*
 * trainer_rig.h: small training runs, and what they told, for tests. Group setup: open_all, close_all; each
 * test's: setup. One corpus, one run directory.
 */
#ifndef TESTS_UNIT_ENGINE_TRAINER_RIG_H
#define TESTS_UNIT_ENGINE_TRAINER_RIG_H

#include "engine/trainer.h"

#include "common/file.h"
#include "common/log.h"
#include "tests/unit/assert_ok.h"
#include "tests/unit/data/corpus_fixture.h"

#include <math.h>

enum { VOCABULARY = 97, T = 16, MOST = 200 };

static struct fixture data;
static struct corpus *corpus;
static char run[80];
static char notices[8192];

static inline void keep_notice(enum log_level level, const char *line, void *user)
{
	(void)user;
	size_t used = strlen(notices);
	snprintf(notices + used, sizeof notices - used, "%d %s\n", level, line);
}

/* ---- a run, and what it told ---- */

struct story {
	struct trainer *trainer;
	struct trainer_step steps[MOST];
	int step_count;
	struct trainer_validation validations[MOST];
	int validation_count;
	char saved[MOST][CHECKPOINT_NAME];
	int saved_count;
	uint64_t stop_after, save_after; /* steps; 0: never */
};

static inline enum status on_step(void *user, const struct trainer_step *step)
{
	struct story *story = user;
	story->steps[story->step_count++] = *step;
	if (step->step == story->stop_after)
		trainer_stop(story->trainer);
	if (step->step == story->save_after)
		trainer_save_soon(story->trainer);
	return STATUS_OK;
}

static inline enum status on_validation(void *user, const struct trainer_validation *validation)
{
	struct story *story = user;
	story->validations[story->validation_count++] = *validation;
	return STATUS_OK;
}

static inline enum status on_saved(void *user, const struct trainer_saved *saved)
{
	struct story *story = user;
	memcpy(story->saved[story->saved_count++], saved->name, CHECKPOINT_NAME);
	return STATUS_OK;
}

static inline struct trainer_config base_config(void)
{
	return (struct trainer_config){.model = {.layers = 2,
					       .hidden = 16,
					       .heads = 2,
					       .positions = T,
					       .vocabulary = VOCABULARY,
					       .vocabulary_padded = 128,
					       .embedding_dropout = 0.1f,
					       .attention_dropout = 0.1f,
					       .hidden_dropout = 0.1f,
					       .layernorm_epsilon = 1e-5f},
		.precision = DTYPE_F32,
		.micro_batch = 2,
		.global_batch = 4,
		.window_tokens = T,
		.train_iters = 12,
		.schedule = {SCHEDULE_COSINE, 5e-3, 0, 0.2, 12},
		.optimizer = {0.9, 0.999, 1e-8, 0.1, 1.0},
		.loss_scale = loss_scale_static(1),
		.seed = 7,
		.threads = 1,
		.corpus = corpus,
		.split = "80,15,5",
		.save = run,
		.keep = 100};
}

static inline enum status open_story(
	struct story *story, const struct trainer_config *config, struct checkpoint *from, bool weights_only)
{
	struct trainer_events events = {
		.user = story, .step = on_step, .validation = on_validation, .saved = on_saved};
	return trainer_open(config, &events, from, weights_only, &story->trainer);
}

static inline void go(struct story *story, const struct trainer_config *config)
{
	assert_ok(open_story(story, config, NULL, false));
	assert_ok(trainer_run(story->trainer));
}

static inline void go_on(struct story *story, const struct trainer_config *config, const char *path)
{
	struct checkpoint *from;
	assert_ok(checkpoint_open(path, &from));
	assert_ok(open_story(story, config, from, false));
	checkpoint_close(from);
	assert_ok(trainer_run(story->trainer));
}

static inline struct hash128 everything(struct trainer *t)
{
	size_t bytes = trainer_parameters(t)->elements * 4;
	struct hash_stream *stream;
	assert_ok(hash_stream_open(&stream));
	hash_stream_add(stream, trainer_weights(t), bytes);
	hash_stream_add(stream, trainer_exp_avg(t), bytes);
	hash_stream_add(stream, trainer_exp_avg_sq(t), bytes);
	struct hash128 hash = hash_stream_digest(stream);
	hash_stream_close(stream);
	return hash;
}

static inline void assert_same_bits(double a, double b)
{
	assert_memory_equal(&a, &b, sizeof a);
}

/* Stopped after so many steps, and going on from the checkpoint: the losses and the state of a run that went
 * straight on, to the bit. Closes it. */
static inline void check_goes_on(struct story *straight, const struct trainer_config *config, int stop_after)
{
	struct story first = {.stop_after = (uint64_t)stop_after}, second = {0};
	go(&first, config);
	trainer_close(first.trainer);
	go_on(&second, config, run);
	assert_int_equal(second.step_count, straight->step_count - stop_after);
	for (int i = 0; i < second.step_count; i++)
		assert_same_bits(straight->steps[stop_after + i].loss, second.steps[i].loss);
	assert_int_equal(hash128_compare(everything(straight->trainer), everything(second.trainer)), 0);
	trainer_close(straight->trainer);
	trainer_close(second.trainer);
}

static inline void assert_same_file(const char *a, const char *b, const char *name)
{
	char path[2][160], *bytes[2];
	size_t count[2];
	snprintf(path[0], sizeof path[0], "%s/%s", a, name);
	snprintf(path[1], sizeof path[1], "%s/%s", b, name);
	for (int i = 0; i < 2; i++)
		assert_ok(file_read_all(path[i], 1 << 26, &bytes[i], &count[i]));
	if (count[0] != count[1] || memcmp(bytes[0], bytes[1], count[0]))
		fail_msg("%s and %s differ", path[0], path[1]);
	free(bytes[0]);
	free(bytes[1]);
}

/* Few ids, some of them often, so that there is something to learn. */
static inline void make_corpus(struct fixture *fixture, uint64_t seed, uint64_t documents)
{
	fixture_make(fixture, seed, documents, 60, 2, false);
	fixture->vocabulary = VOCABULARY;
	for (uint64_t i = 0; i < fixture->tokens; i++)
		fixture->ids[i] = fixture->ids[i] == (int32_t)fixture->eod
					  ? VOCABULARY - 1
					  : fixture->ids[i] % 7 * (fixture->ids[i] % 11);
	fixture->eod = VOCABULARY - 1;
	fixture_write(fixture);
}

static inline int setup(void **state)
{
	(void)state;
	notices[0] = 0;
	log_set_sink(keep_notice, NULL);
	return directory_remove(run) == STATUS_OK ? 0 : -1;
}

static inline int open_all(void **state)
{
	(void)state;
	make_corpus(&data, 5, 150);
	snprintf(run, sizeof run, "%s-run", data.directory);
	return corpus_open(data.directory, &corpus) == STATUS_OK ? 0 : -1;
}

static inline int close_all(void **state)
{
	log_set_sink(NULL, NULL);
	setup(state);
	log_set_sink(NULL, NULL);
	corpus_close(corpus);
	fixture_remove(&data);
	return 0;
}

#endif
