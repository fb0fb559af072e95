#include "engine/trainer.h"

#include "tests/unit/engine/fenced_kernels.h"
#include "tests/unit/engine/trainer_rig.h"

#include <math.h>

/* ---- resuming ---- */

/* 12 steps at once, against 5, a checkpoint, and 7: the same losses, norms, weights and moments, to the bit.
 */
static void check_resume(struct trainer_config config, uint64_t least_skips)
{
	struct story straight = {0}, first = {.stop_after = 5}, second = {0};
	config.eval_interval = 2;
	config.eval_iters = 2;
	config.save = NULL;
	go(&straight, &config);
	assert_int_equal(straight.step_count, 12);
	assert_true(straight.steps[11].skipped >= least_skips);
	config.save = run;
	go(&first, &config);
	assert_int_equal(first.step_count, 5);
	assert_string_equal(first.saved[first.saved_count - 1], "step-00000005");
	trainer_close(first.trainer);
	go_on(&second, &config, run);
	assert_int_equal(second.step_count, 7);
	for (int i = 0; i < 7; i++) {
		const struct trainer_step *a = &straight.steps[5 + i], *b = &second.steps[i];
		assert_int_equal(a->step, b->step);
		assert_same_bits(a->loss, b->loss);
		assert_same_bits(a->gradient_norm, b->gradient_norm);
		assert_same_bits(a->learning_rate, b->learning_rate);
		assert_same_bits(a->loss_scale, b->loss_scale);
		assert_true(a->tokens == b->tokens && a->ordinal == b->ordinal && a->skipped == b->skipped);
	}
	for (int i = 0; i < second.validation_count; i++)
		assert_same_bits(second.validations[i].loss, straight.validations[2 + i].loss);
	assert_int_equal(hash128_compare(everything(straight.trainer), everything(second.trainer)), 0);
	const struct overfitting *a = &trainer_state(straight.trainer)->overfitting,
				 *b = &trainer_state(second.trainer)->overfitting;
	assert_same_bits(a->smoothed, b->smoothed);
	assert_same_bits(a->best_loss, b->best_loss);
	trainer_close(straight.trainer);
	trainer_close(second.trainer);
}

static void resume_is_exact_in_fp32(void **state)
{
	(void)state;
	struct trainer_config config = base_config();
	check_resume(config, 0);
}

/* Few steps: threads that share a busy machine wait for each other. */
static void resume_is_exact_with_threads(void **state)
{
	(void)state;
	struct story straight = {0};
	struct trainer_config config = base_config();
	config.threads = 2;
	config.train_iters = 4;
	config.save = NULL;
	go(&straight, &config);
	config.save = run;
	check_goes_on(&straight, &config, 2);
}

static void resume_is_exact_in_bf16(void **state)
{
	(void)state;
	struct trainer_config config = base_config();
	config.precision = DTYPE_BF16;
	config.checkpoint_activations = true;
	check_resume(config, 0);
}

/* The scale starts where half precision overflows, and is doubled every two clean steps. */
static void resume_is_exact_in_fp16_with_overflows(void **state)
{
	(void)state;
	struct trainer_config config = base_config();
	config.precision = DTYPE_F16;
	config.loss_scale = loss_scale_dynamic(24, 2, 1, 1);
	check_resume(config, 3);
}

static void another_run_is_refused(void **state)
{
	(void)state;
	struct story story = {0};
	struct checkpoint *from;
	struct trainer_config config = base_config();
	config.train_iters = 2;
	go(&story, &config);
	trainer_close(story.trainer);
	assert_ok(checkpoint_open(run, &from));
	struct story other = {0};
	config.split = "80,14,6";
	assert_int_equal(open_story(&other, &config, from, false), STATUS_MISMATCH);
	assert_true(strstr(error_message(), "80,15,5") && strstr(error_message(), "80,14,6"));
	config = base_config();
	config.split = "800/150/50"; /* cuts alike: the same split */
	config.train_iters = 3;
	config.save = NULL;
	assert_ok(open_story(&other, &config, from, false));
	trainer_close(other.trainer);
	config = base_config();
	config.seed = 8;
	assert_int_equal(open_story(&other, &config, from, false), STATUS_MISMATCH);
	config = base_config();
	config.window_tokens = 5;
	assert_int_equal(open_story(&other, &config, from, false), STATUS_MISMATCH);
	assert_true(strstr(error_message(), "16") && strstr(error_message(), "5") &&
		    strstr(error_message(), "next epoch"));
	struct fixture second = {0};
	struct corpus *another;
	fixture_create(&second, 99, 50, 40, 1, false);
	assert_ok(corpus_open(second.directory, &another));
	config = base_config();
	config.corpus = another;
	config.model.vocabulary = 50257;
	config.model.vocabulary_padded = 50304;
	struct parameter_table table; /* the vocabulary is looked at first */
	assert_ok(parameter_table_open(&config.model, &table));
	parameter_table_close(&table);
	config.model = base_config().model;
	assert_int_equal(open_story(&other, &config, from, false), STATUS_MISMATCH);
	corpus_close(another);
	fixture_remove(&second);
	checkpoint_close(from);
}

/* Which windows these are is test_sampler.c's affair. */
static void windows_may_be_cut_on_resume(void **state)
{
	(void)state;
	struct story first = {0}, second = {0}, third = {0};
	struct checkpoint *from;
	struct trainer_config config = base_config();
	config.train_iters = 5;
	go(&first, &config);
	trainer_close(first.trainer);
	config.window_tokens = 8;
	config.micro_batch = config.global_batch = 1;
	config.train_iters = 8;
	go_on(&second, &config, run);
	const struct checkpoint_state *s = trainer_state(second.trainer);
	assert_true(s->window_tokens == 8 && s->ordinal == 5 * 4 + 3 && s->source_count == 1);
	const struct sampler_position *position = &s->sources[0].position;
	assert_true(position->ordinal == 23 && position->epoch == 0 && position->epoch_window == 16);
	assert_int_equal(position->epoch_tokens, 5 * 4 * 16 + 3 * 8);
	assert_int_equal(second.steps[2].tokens, 5 * 4 * 16 + 3 * 8);
	trainer_close(second.trainer);
	/* In the middle of a window of 16. */
	config.window_tokens = 16;
	config.train_iters = 9;
	assert_ok(checkpoint_open(run, &from));
	assert_int_equal(open_story(&third, &config, from, false), STATUS_MISMATCH);
	assert_non_null(strstr(error_message(), "next epoch"));
	config.window_tokens = 8;
	assert_ok(open_story(&third, &config, from, false));
	checkpoint_close(from);
	assert_ok(trainer_run(third.trainer));
	trainer_close(third.trainer);
	config.window_tokens = 16;
	config.train_iters = 10;
	memset(&third, 0, sizeof third);
	go_on(&third, &config, run);
	assert_int_equal(third.steps[0].tokens, 5 * 4 * 16 + 4 * 8 + 16);
	trainer_close(third.trainer);
}

/* Three parts of one corpus to one of another; stopped, and going on to the bit. */
static void corpora_are_mixed(void **state)
{
	(void)state;
	struct story straight = {0}, other_mix = {0};
	struct checkpoint *from;
	struct fixture other;
	struct trainer_config config = base_config();
	make_corpus(&other, 6, 20);
	struct trainer_source sources[2] = {{corpus, 750}, {NULL, 250}};
	assert_ok(corpus_open(other.directory, &sources[1].corpus));
	config.sources = sources;
	config.source_count = 2;
	config.eval_interval = 4;
	config.eval_iters = 1000;
	config.save = NULL;
	config.train_iters = 30;
	go(&straight, &config);
	const struct checkpoint_state *s = trainer_state(straight.trainer);
	assert_true(s->ordinal == 120 && s->sources[0].position.ordinal == 90);
	assert_true(s->sources[1].position.ordinal == 30 && s->sources[1].position.epoch >= 1);
	assert_true(s->sources[0].share == 3 && s->sources[1].share == 1);
	assert_int_equal(straight.steps[29].sources, 2);
	/* The small corpus was repeated, and named; validation ends before one repeats. */
	assert_non_null(strstr(notices, other.directory));
	assert_null(strstr(notices, data.directory));
	uint64_t validation = trainer_validation_windows(straight.trainer, SPLIT_VALID);
	assert_true(validation >= 4 && validation <= 60);
	config.save = run;
	check_goes_on(&straight, &config, 5);
	/* Other shares, other order, one alone: refused. */
	assert_ok(checkpoint_open(run, &from));
	sources[0].share = 500;
	assert_int_equal(open_story(&other_mix, &config, from, false), STATUS_MISMATCH);
	assert_non_null(strstr(error_message(), "share"));
	sources[0].share = 3; /* of 4: the same shares in other words */
	sources[1].share = 1;
	config.train_iters = 31;
	assert_ok(open_story(&other_mix, &config, from, false));
	trainer_close(other_mix.trainer);
	config.source_count = 1;
	assert_int_equal(open_story(&other_mix, &config, from, false), STATUS_MISMATCH);
	config.source_count = 2;
	sources[0].corpus = sources[1].corpus;
	sources[1].corpus = corpus;
	assert_int_equal(open_story(&other_mix, &config, from, false), STATUS_MISMATCH);
	checkpoint_close(from);
	corpus_close(sources[0].corpus);
	fixture_remove(&other);
}

static void fine_tuning_takes_the_weights_alone(void **state)
{
	(void)state;
	struct story story = {0}, tuned = {0};
	struct checkpoint *from;
	struct trainer_config config = base_config();
	go(&story, &config);
	assert_ok(checkpoint_open(run, &from));
	config.seed = 1000; /* nothing of the old run binds the new one */
	config.window_tokens = 8;
	assert_ok(open_story(&tuned, &config, from, true));
	checkpoint_close(from);
	size_t bytes = trainer_parameters(tuned.trainer)->elements * 4;
	assert_memory_equal(trainer_weights(tuned.trainer), trainer_weights(story.trainer), bytes);
	assert_int_equal(trainer_state(tuned.trainer)->step, 0);
	for (uint64_t i = 0; i < bytes / 4; i++)
		assert_true(trainer_exp_avg(tuned.trainer)[i] == 0);
	trainer_close(tuned.trainer);
	trainer_close(story.trainer);
}

/* ---- on a device ---- */

/* Host code may not touch device memory (it would crash), nor buffers that are still being copied; and one
 * wait a step is all. Straight on the host, against the device up to a checkpoint, then the host, then the
 * device again. */
static void check_device(struct trainer_config config)
{
	struct story straight = {0}, story[3] = {{.stop_after = 4}, {.stop_after = 8}, {0}};
	char elsewhere[100], a[160], b[160];
	snprintf(elsewhere, sizeof elsewhere, "%s-device", run);
	assert_ok(directory_remove(elsewhere));
	config.eval_interval = 3;
	config.eval_iters = 2;
	go(&straight, &config);
	trainer_close(straight.trainer);
	config.save = elsewhere;
	fenced_unpinned = fenced_changed = fenced_waits = 0;
	for (int part = 0; part < 3; part++) {
		config.open_device = part == 1 ? NULL : fenced_open;
		if (part)
			go_on(&story[part], &config, elsewhere);
		else
			go(&story[part], &config);
		assert_int_equal(story[part].step_count, 4);
		for (int i = 0; i < 4; i++) {
			assert_same_bits(story[part].steps[i].loss, straight.steps[4 * part + i].loss);
			assert_same_bits(story[part].steps[i].gradient_norm,
				straight.steps[4 * part + i].gradient_norm);
		}
		trainer_close(story[part].trainer);
	}
	snprintf(a, sizeof a, "%s/step-00000012", run);
	snprintf(b, sizeof b, "%s/step-00000012", elsewhere);
	assert_same_file(a, b, "model.safetensors");
	assert_same_file(a, b, "optimizer.safetensors");
	assert_int_equal(fenced_unpinned, 0);
	assert_int_equal(fenced_changed, 0);
	assert_ok(directory_remove(elsewhere));
}

static void a_device_gives_the_same_bits(void **state)
{
	(void)state;
	check_device(base_config());
	struct trainer_config config = base_config();
	config.precision = DTYPE_BF16;
	config.checkpoint_activations = true;
	config.reset_attention_mask = config.reset_position_ids = true;
	check_device(config);
}

static void a_device_skips_overflows_alike(void **state)
{
	(void)state;
	struct trainer_config config = base_config();
	config.precision = DTYPE_F16;
	config.loss_scale = loss_scale_dynamic(24, 2, 1, 1);
	check_device(config);
}

/* Without validation and checkpoints: the norm's wait in each step, and one at the end; the first after fresh
 * weights (a parameter each) and their rounding. */
static void a_step_waits_once(void **state)
{
	(void)state;
	int waits[2];
	for (int longer = 0; longer < 2; longer++) {
		struct story story = {0};
		struct trainer_config config = base_config();
		config.open_device = fenced_open;
		config.save = NULL;
		config.train_iters = longer ? 12 : 5;
		fenced_waits = 0;
		go(&story, &config);
		trainer_close(story.trainer);
		waits[longer] = fenced_waits;
	}
	assert_int_equal(waits[1] - waits[0], 7);
}

/* ---- steps ---- */

/* Counted targets against the corpus in memory: all, or those whose input is not EOD. */
static void targets_are_counted_as_told(void **state)
{
	(void)state;
	struct split_shares shares;
	struct split_range ranges[SPLIT_PARTS];
	struct sampler sampler;
	assert_ok(split_parse("80,15,5", &shares));
	assert_ok(split_corpus(corpus, &shares, ranges));
	for (int mask = 0; mask < 2; mask++) {
		struct story story = {0};
		struct trainer_config config = base_config();
		uint64_t all = 0;
		config.eod_mask_loss = mask;
		config.save = NULL;
		go(&story, &config);
		assert_ok(sampler_open(&sampler, &ranges[SPLIT_TRAIN], SPLIT_TRAIN, T, 7, true));
		for (int s = 0; s < 12; s++) {
			uint64_t counted = 0;
			for (uint64_t w = 0; w < 4; w++) {
				uint64_t first = sampler_get(&sampler, (uint64_t)s * 4 + w).first_token;
				for (uint64_t i = 0; i < T; i++)
					counted += !mask || data.ids[first + i] != (int32_t)data.eod;
			}
			all += counted;
			assert_int_equal(story.steps[s].counted, counted);
			assert_int_equal(story.steps[s].tokens, all);
		}
		assert_true(mask ? all < 12 * 4 * T : all == 12 * 4 * T);
		trainer_close(story.trainer);
	}
}

/* Micro-batches are only a matter of memory: the same windows, dropout and sums up to rounding. */
static void micro_batches_change_nothing(void **state)
{
	(void)state;
	struct story one = {0}, four = {0};
	struct trainer_config config = base_config();
	config.save = NULL;
	config.eval_interval = 3;
	config.eval_iters = 5;
	config.eod_mask_loss = true;
	config.micro_batch = 1;
	go(&one, &config);
	config.micro_batch = 4;
	go(&four, &config);
	for (int s = 0; s < 12; s++) {
		assert_true(fabs(one.steps[s].loss - four.steps[s].loss) < 2e-5);
		assert_true(fabs(one.steps[s].gradient_norm - four.steps[s].gradient_norm) < 1e-4);
	}
	/* interval 3 of 12 steps, and the test split at the end */
	assert_int_equal(one.validation_count, 5);
	assert_int_equal(four.validation_count, 5);
	for (int v = 0; v < 5; v++) {
		assert_true(fabs(one.validations[v].loss - four.validations[v].loss) < 2e-5);
		assert_int_equal(one.validations[v].windows, four.validations[v].windows);
		assert_int_equal(one.validations[v].counted, four.validations[v].counted);
		assert_same_bits(one.validations[v].perplexity, exp(one.validations[v].loss));
	}
	assert_int_equal(one.validations[4].part, SPLIT_TEST);
	trainer_close(one.trainer);
	trainer_close(four.trainer);
}

/* Documents kept apart: another loss than together, the same for any micro-batch, exact on resume. */
static void documents_are_kept_apart(void **state)
{
	(void)state;
	double losses[4];
	for (int flags = 0; flags < 4; flags++) {
		struct story one = {0}, four = {0};
		struct trainer_config config = base_config();
		config.reset_attention_mask = flags & 1;
		config.reset_position_ids = flags & 2;
		config.save = NULL;
		config.train_iters = 3;
		config.schedule = (struct schedule){SCHEDULE_CONSTANT, 0.05, 0, 0, 3};
		config.micro_batch = 1;
		go(&one, &config);
		config.micro_batch = 4;
		go(&four, &config);
		assert_true(fabs(one.steps[2].loss - four.steps[2].loss) < 1e-3);
		losses[flags] = one.steps[2].loss;
		for (int i = 0; i < flags; i++)
			assert_true(losses[i] != losses[flags]);
		trainer_close(one.trainer);
		trainer_close(four.trainer);
	}
	struct trainer_config config = base_config();
	config.reset_attention_mask = config.reset_position_ids = true;
	check_resume(config, 0);
}

static void the_first_loss_is_a_uniform_guess_and_falls(void **state)
{
	(void)state;
	struct story story = {0};
	struct trainer_config config = base_config();
	config.save = NULL;
	config.train_iters = 100;
	config.micro_batch = 4;
	config.schedule = (struct schedule){SCHEDULE_COSINE, 2e-2, 0, 0.1, 100};
	go(&story, &config);
	assert_true(fabs(story.steps[0].loss - log(VOCABULARY)) < 0.1);
	/* update k uses lr(k): the first is not wasted on lr 0 */
	assert_same_bits(story.steps[0].learning_rate, schedule_learning_rate(&config.schedule, 1));
	assert_true(story.steps[0].learning_rate > 0);
	double last = 0;
	for (int s = 80; s < 100; s++)
		last += story.steps[s].loss / 20;
	assert_true(last < 0.9 * log(VOCABULARY));
	/* the training split is short: it has been repeated, and that was said */
	assert_non_null(strstr(notices, "the corpus is repeated"));
	trainer_close(story.trainer);
}

/* Hopeless scaling: nothing is updated, the schedule stands still, and the run ends with an error. */
static void endless_overflow_ends_the_run(void **state)
{
	(void)state;
	struct story story = {0};
	struct trainer_config config = base_config();
	config.precision = DTYPE_F16;
	config.loss_scale = loss_scale_static(0x1p60);
	config.train_iters = 100;
	assert_ok(open_story(&story, &config, NULL, false));
	assert_int_equal(trainer_run(story.trainer), STATUS_CORRUPT);
	assert_int_equal(story.step_count, TRAINER_SKIPS - 1);
	assert_int_equal(story.steps[story.step_count - 1].updates, 0);
	assert_true(story.steps[0].overflow && story.steps[0].learning_rate == 0);
	uint64_t n = trainer_parameters(story.trainer)->elements;
	float *fresh = calloc(n, 4);
	parameters_initialize(&config.model, trainer_parameters(story.trainer), config.seed, fresh);
	assert_memory_equal(fresh, trainer_weights(story.trainer), n * 4);
	free(fresh);
	trainer_close(story.trainer);
	assert_false(file_exists(run)); /* and nothing of it was saved */
}

/* ---- checkpoints and validation ---- */

static void checkpoints_come_when_due(void **state)
{
	(void)state;
	struct story story = {.save_after = 4};
	struct trainer_config config = base_config();
	config.save_interval = 5;
	config.keep = 2;
	go(&story, &config);
	assert_int_equal(story.saved_count, 4); /* 4 (asked), 5, 10, 12 (the end) */
	assert_string_equal(story.saved[0], "step-00000004");
	assert_string_equal(story.saved[3], "step-00000012");
	uint64_t *steps;
	size_t count;
	assert_ok(checkpoint_list(run, &steps, &count));
	assert_int_equal(count, 2);
	assert_true(steps[0] == 10 && steps[1] == 12);
	free(steps);
	trainer_close(story.trainer);
	/* going on for longer */
	struct story longer = {0};
	config.train_iters = 14;
	config.exit_interval = 13;
	go_on(&longer, &config, run);
	assert_int_equal(longer.step_count, 1);
	assert_string_equal(longer.saved[0], "step-00000013");
	trainer_close(longer.trainer);
}

static void the_best_is_kept(void **state)
{
	(void)state;
	struct story story = {0};
	struct trainer_config config = base_config();
	struct checkpoint *best;
	char path[100];
	config.eval_interval = 2;
	config.eval_iters = 2;
	config.keep = 1;
	config.train_iters = 24;
	config.schedule = (struct schedule){SCHEDULE_CONSTANT, 0.1, 0, 0, 24};
	go(&story, &config);
	double lowest = INFINITY;
	uint64_t at = 0;
	for (int v = 0; v < story.validation_count; v++) {
		const struct trainer_validation *validation = &story.validations[v];
		if (validation->part != SPLIT_VALID)
			continue;
		assert_int_equal(validation->best, validation->loss < lowest);
		if (validation->loss < lowest) {
			lowest = validation->loss;
			at = validation->step;
		}
	}
	snprintf(path, sizeof path, "%s/best", run);
	assert_ok(checkpoint_open(path, &best));
	assert_int_equal(checkpoint_get_state(best)->step, at);
	assert_same_bits(checkpoint_get_state(best)->overfitting.best_loss, lowest);
	checkpoint_close(best);
	trainer_close(story.trainer);
}

static void short_splits_are_left_out(void **state)
{
	(void)state;
	struct story story = {0};
	struct trainer_config config = base_config();
	config.save = NULL;
	config.split = "1";
	config.eval_interval = 2;
	config.eval_iters = 1;
	go(&story, &config);
	assert_int_equal(story.step_count, 12);
	assert_int_equal(story.validation_count, 0);
	assert_non_null(strstr(notices, "going on without validation"));
	trainer_close(story.trainer);
	config.split = "0,1,0"; /* nothing to train on */
	assert_int_equal(open_story(&story, &config, NULL, false), STATUS_USAGE);
}

static void impossible_configurations_are_refused(void **state)
{
	(void)state;
	struct story story;
	struct trainer_config wrong[10];
	for (int i = 0; i < 10; i++)
		wrong[i] = base_config();
	wrong[0].global_batch = 3;
	wrong[1].micro_batch = 0;
	wrong[2].window_tokens = T + 1;
	wrong[3].train_iters = 0;
	wrong[4].model.heads = 3;
	wrong[5].schedule.warmup = 2;
	wrong[6].optimizer.beta1 = 1;
	wrong[7].loss_scale.scale = 0;
	wrong[8].split = "1,x";
	wrong[9].keep = 0;
	for (int i = 0; i < 10; i++)
		if (open_story(&story, &wrong[i], NULL, false) != STATUS_USAGE)
			fail_msg("configuration %d is taken", i);
	wrong[0] = base_config();
	wrong[0].model.vocabulary = 98;
	assert_int_equal(open_story(&story, &wrong[0], NULL, false), STATUS_MISMATCH);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(resume_is_exact_in_fp32, setup),
		cmocka_unit_test_setup(resume_is_exact_with_threads, setup),
		cmocka_unit_test_setup(resume_is_exact_in_bf16, setup),
		cmocka_unit_test_setup(resume_is_exact_in_fp16_with_overflows, setup),
		cmocka_unit_test_setup(another_run_is_refused, setup),
		cmocka_unit_test_setup(windows_may_be_cut_on_resume, setup),
		cmocka_unit_test_setup(corpora_are_mixed, setup),
		cmocka_unit_test_setup(fine_tuning_takes_the_weights_alone, setup),
		cmocka_unit_test_setup(a_device_gives_the_same_bits, setup),
		cmocka_unit_test_setup(a_device_skips_overflows_alike, setup),
		cmocka_unit_test_setup(a_step_waits_once, setup),
		cmocka_unit_test_setup(targets_are_counted_as_told, setup),
		cmocka_unit_test_setup(micro_batches_change_nothing, setup),
		cmocka_unit_test_setup(documents_are_kept_apart, setup),
		cmocka_unit_test_setup(the_first_loss_is_a_uniform_guess_and_falls, setup),
		cmocka_unit_test_setup(endless_overflow_ends_the_run, setup),
		cmocka_unit_test_setup(checkpoints_come_when_due, setup),
		cmocka_unit_test_setup(the_best_is_kept, setup),
		cmocka_unit_test_setup(short_splits_are_left_out, setup),
		cmocka_unit_test_setup(impossible_configurations_are_refused, setup),
	};
	return cmocka_run_group_tests(tests, open_all, close_all);
}
