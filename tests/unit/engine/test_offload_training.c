/* Whole training runs with the optimizer on the host, against runs with it on the device: the same bits. */
#include "engine/staging.h"
#include "tests/unit/engine/stream_kernels.h"
#include "tests/unit/engine/trainer_rig.h"
#include "tests/unit/under_tsan.h"

enum { STEPS = UNDER_TSAN ? 12 : 24, QUARTER = STEPS / 4 };

/* Streams that are threads; little clipping, so that there is speculation. */
static struct trainer_config device_config(enum dtype precision)
{
	struct trainer_config config = base_config();
	config.open_device = streamed_open;
	config.precision = precision;
	config.keep_outputs = true;
	config.optimizer.max_norm = 1.24; /* some of the first steps clip, few of the later ones */
	config.train_iters = STEPS;
	config.schedule.decay_iters = STEPS;
	config.save = NULL;
	return config;
}

static struct trainer_config offloaded(struct trainer_config config)
{
	config.offload = true;
	config.offloading = (struct offload_config){
		.threads = 2, .bucket_elements = 600, .pinned = 1, .speculation = UINT64_MAX};
	return config;
}

static void check_same_steps(const struct story *a, const struct story *b)
{
	assert_int_equal(a->step_count, b->step_count);
	for (int i = 0; i < a->step_count; i++) {
		assert_same_bits(a->steps[i].loss, b->steps[i].loss);
		assert_same_bits(a->steps[i].gradient_norm, b->steps[i].gradient_norm);
		assert_same_bits(a->steps[i].clip, b->steps[i].clip);
		assert_same_bits(a->steps[i].loss_scale, b->steps[i].loss_scale);
		assert_int_equal(a->steps[i].skipped, b->steps[i].skipped);
	}
	for (int i = 0; i < a->validation_count; i++)
		assert_same_bits(a->validations[i].loss, b->validations[i].loss);
}

static void check_same_end(struct story *a, struct story *b)
{
	check_same_steps(a, b);
	assert_int_equal(hash128_compare(everything(a->trainer), everything(b->trainer)), 0);
}

static uint64_t committed(const struct story *story)
{
	return offload_count(trainer_offload(story->trainer), OFFLOAD_COMMITTED);
}

/* Wherever the optimizer is, and whether the device borrows its state or not. */
static void check_run(struct trainer_config config, uint64_t least_skips)
{
	struct story straight = {0};
	struct trainer_config other = offloaded(config);
	streamed_unpinned = 0;
	go(&straight, &config);
	assert_true(straight.steps[STEPS - 1].skipped >= least_skips);
	for (int lent = 0; lent <= 2; lent += 2) {
		struct story story = {0};
		uint64_t asked, updated;
		other.offloading.lent = lent;
		other.offloading.lent_rows = 700 * (uint64_t)lent;
		go(&story, &other);
		check_same_end(&straight, &story);
		assert_true(committed(&story) > 0);
		offload_count_loans(trainer_offload(story.trainer), &asked, &updated);
		assert_int_equal(updated > 0, lent > 0);
		trainer_close(story.trainer);
	}
	trainer_close(straight.trainer);
	assert_int_equal(streamed_unpinned, 0);
}

static void in_fp32(void **state)
{
	(void)state;
	struct trainer_config config = device_config(DTYPE_F32);
	config.eval_interval = 5;
	config.eval_iters = 2;
	check_run(config, 0);
}

static void in_bf16_with_recomputation(void **state)
{
	(void)state;
	struct trainer_config config = device_config(DTYPE_BF16);
	config.checkpoint_activations = true;
	config.keep_outputs = false;
	config.reset_attention_mask = config.reset_position_ids = true;
	check_run(config, 0);
}

/* Layers' inputs on the host too, and its copies beside the optimizer's. */
static void check_inputs_on_the_host(uint64_t layer_batch)
{
	struct story plain = {0}, story = {0};
	struct trainer_config config = device_config(DTYPE_F16);
	config.model.layers = 4;
	config.checkpoint_activations = true;
	config.keep_outputs = false;
	config.layer_batch = layer_batch;
	go(&plain, &config);
	config = offloaded(config);
	config.inputs_on_host = true;
	streamed_unpinned = 0;
	go(&story, &config);
	check_same_end(&plain, &story);
	trainer_close(plain.trainer);
	trainer_close(story.trainer);
	assert_int_equal(streamed_unpinned, 0);
	config.checkpoint_activations = false;
	assert_int_equal(trainer_check(&config), STATUS_USAGE);
}

static void with_inputs_on_the_host(void **state)
{
	(void)state;
	check_inputs_on_the_host(0);
	check_inputs_on_the_host(1);
}

/* What a run takes of the device and of pinned memory is what trainer_measure said. */
static void a_run_takes_what_was_measured(void **state)
{
	(void)state;
	for (int i = 0; i < 8; i++) {
		struct story story = {0};
		struct trainer_memory m;
		struct trainer_config config = device_config(i & 1 ? DTYPE_F16 : DTYPE_F32);
		config.model.layers = 5;
		config.train_iters = 2;
		config.checkpoint_activations = i > 1;
		config.keep_outputs = i == 0;
		config.inputs_on_host = i > 3;
		config.layer_batch = i > 5;
		if (i > 1)
			config = offloaded(config);
		config.device_share = i == 3 || i == 6 ? 0.3 : 0;
		config.offloading.delayed = i > 5;
		config.offloading.lent = i % 3;
		config.offloading.lent_rows = 900;
		config.reset_attention_mask = config.reset_position_ids = true;
		assert_ok(trainer_measure(&config, &m));
		streamed_most = 0;
		go(&story, &config);
		m.device -= m.scratch; /* a GPU's alone */
		if (streamed_most > m.device || streamed_most * 10 < m.device * 9)
			fail_msg("%d: %llu bytes of the device were measured, %llu taken", i,
				(unsigned long long)m.device, (unsigned long long)streamed_most);
		assert_in_range(streamed_host, m.inputs + m.pinned,
			m.inputs + m.pinned + m.data + STAGING_BYTES + 4096);
		trainer_close(story.trainer);
		assert_int_equal(streamed_device + streamed_host, 0);
	}
}

static void in_fp16_with_overflows(void **state)
{
	(void)state;
	struct trainer_config config = device_config(DTYPE_F16);
	config.loss_scale = loss_scale_dynamic(24, 6, 1, 1);
	check_run(config, 2);
}

static void in_one_micro_batch_and_four(void **state)
{
	(void)state;
	struct trainer_config config = device_config(DTYPE_F32);
	config.micro_batch = 4;
	check_run(config, 0);
	config.micro_batch = 1;
	check_run(config, 0);
}

/* A run that moves: offloaded, on the CPU, in part on the device, all on it; against one that stays. */
static void a_run_moves(void **state)
{
	(void)state;
	struct story straight = {0};
	struct trainer_config config = device_config(DTYPE_BF16);
	char elsewhere[100], a[160], b[160];
	snprintf(elsewhere, sizeof elsewhere, "%s-moving", run);
	assert_ok(directory_remove(elsewhere));
	config.save = run;
	config.open_device = NULL;
	go(&straight, &config);
	trainer_close(straight.trainer);
	config.save = elsewhere;
	for (int part = 0; part < 4; part++) {
		struct story story = {.stop_after = part < 3 ? QUARTER * (uint64_t)(part + 1) : 0};
		struct trainer_config now = config;
		now.open_device = part == 1 ? NULL : streamed_open;
		if (part == 0 || part == 2)
			now = offloaded(now);
		now.device_share = part == 2 ? 0.4 : 0;
		if (part)
			go_on(&story, &now, elsewhere);
		else
			go(&story, &now);
		assert_int_equal(story.step_count, QUARTER);
		for (int i = 0; i < QUARTER; i++)
			assert_same_bits(story.steps[i].loss, straight.steps[QUARTER * part + i].loss);
		trainer_close(story.trainer);
	}
	snprintf(a, sizeof a, "%s/step-%08d", run, STEPS);
	snprintf(b, sizeof b, "%s/step-%08d", elsewhere, STEPS);
	assert_same_file(a, b, "model.safetensors");
	assert_same_file(a, b, "optimizer.safetensors");
	assert_ok(directory_remove(elsewhere));
}

/* Step t's weights have had t - 2 updates: the first two steps see the same. And a resume is exact. */
static void a_delayed_update(void **state)
{
	(void)state;
	struct story straight = {0}, delayed = {0};
	struct trainer_config config = device_config(DTYPE_BF16);
	config.exit_interval = 8;
	config.train_iters = 8;
	go(&straight, &config);
	struct trainer_config other = offloaded(config);
	other.offloading.delayed = true;
	other.save = run;
	other.save_interval = 8;
	go(&delayed, &other);
	assert_same_bits(straight.steps[0].loss, delayed.steps[0].loss);
	assert_same_bits(straight.steps[0].gradient_norm, delayed.steps[0].gradient_norm);
	assert_true(straight.steps[1].loss != delayed.steps[1].loss);
	trainer_close(straight.trainer);
	trainer_close(delayed.trainer);
	/* 16 steps with a checkpoint after 8, against 8 and 8 */
	memset(&delayed, 0, sizeof delayed);
	other.exit_interval = 0;
	other.train_iters = 16;
	other.eval_interval = 0;
	assert_ok(directory_remove(run));
	go(&delayed, &other);
	assert_int_equal(delayed.step_count, 16);
	assert_ok(directory_remove(run));
	check_goes_on(&delayed, &other, 8);
}

/* Whatever fails, wherever: an error, no checkpoint of it, nothing left hanging. */
static void failures_end_the_run(void **state)
{
	(void)state;
	int told = 0, tries = 0;
	for (int after = 3; after < 133 * STEPS; after += 401 * STEPS / 24, tries++) {
		struct story story = {0};
		struct trainer_config config = offloaded(device_config(DTYPE_BF16));
		streamed_failing = after;
		enum status status = open_story(&story, &config, NULL, false);
		if (status == STATUS_OK)
			status = trainer_run(story.trainer);
		if (status != STATUS_OK)
			assert_string_equal(error_message(), "a kernel failed");
		told += status != STATUS_OK;
		streamed_failing = -1;
		trainer_close(story.trainer);
	}
	assert_true(told >= tries - 1);
}

struct times {
	double optimizer, gradients, update, allgather;
};

static struct times times_of(const struct story *story)
{
	struct times t = {0};
	for (int i = 0; i < story->step_count; i++) {
		const struct trainer_step *s = &story->steps[i];
		assert_true(s->seconds_gradients >= 0 && s->seconds_update >= 0 && s->seconds_allgather >= 0);
		t.optimizer += s->seconds_optimizer;
		t.gradients += s->seconds_gradients;
		t.update += s->seconds_update;
		t.allgather += s->seconds_allgather;
	}
	return t;
}

/* On the CPU the optimizer's parts come one after the other, in what the model leaves of a step. */
static void times_fit_into_a_step(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++) {
		struct story story = {0};
		struct trainer_config config = device_config(i ? DTYPE_BF16 : DTYPE_F32);
		config.open_device = NULL;
		go(&story, &config);
		struct times t = times_of(&story);
		assert_true(t.gradients > 0 && t.update > 0 && t.allgather == 0);
		assert_true(t.gradients + t.update <= t.optimizer);
		assert_true(story.steps[0].seconds_update == 0 && story.steps[1].seconds_update > 0);
		trainer_close(story.trainer);
	}
}

/* With an offload they work beside each other, but none longer than the run; steps tell all that is counted but
 * what the last ones' buckets still took as the run settled. */
static void times_of_an_offload_fit_into_the_run(void **state)
{
	(void)state;
	for (int i = 0; i < 4; i++) {
		struct story story = {0};
		struct trainer_config config = offloaded(device_config(DTYPE_BF16));
		config.offloading.lent = i == 3 ? 4 : 0; /* all but wte */
		config.device_share = i == 1 ? 0.4 : 0;
		config.offloading.delayed = i == 2;
		double start = clock_seconds();
		assert_ok(open_story(&story, &config, NULL, false));
		struct offload *offload = (struct offload *)(uintptr_t)trainer_offload(story.trainer);
		struct offload_seconds none = offload_busy(offload);
		assert_true(none.down == 0 && none.host == 0 && none.device == 0 && none.up == 0);
		assert_ok(trainer_run(story.trainer));
		double passed = clock_seconds() - start;
		struct times t = times_of(&story);
		struct offload_seconds all = offload_busy(offload);
		assert_true(all.down > 0 && all.host > 0 && all.up > 0);
		assert_true(all.down <= passed && all.host <= passed && all.up <= passed);
		assert_true(all.device <= passed && (all.device > 0) == (i == 3));
		assert_true(t.allgather > 0 && t.allgather < all.up);
		assert_true(t.gradients > 0 && t.gradients <= passed);
		assert_true(t.update > 0 && t.update <= passed);
		trainer_close(story.trainer);
	}
}

/* Attention without dropout takes of the memory that logits have, up to its bound, and more where they take less. */
static void attention_is_measured(void **state)
{
	enum { WINDOWS = 4, TOKENS = 1000, HEADS = 2, WHOLE = 1024, BOUND = 12 << 20 };
	(void)state;
	struct trainer_memory without, with;
	struct trainer_config config = device_config(DTYPE_BF16);
	config.model.positions = TOKENS;
	config.model.heads = HEADS;
	config.model.attention_dropout = 0;
	config.window_tokens = TOKENS;
	config.global_batch = config.micro_batch = WINDOWS;
	assert_ok(trainer_measure(&config, &without));
	uint64_t logits = (uint64_t)WINDOWS * TOKENS * (uint64_t)config.model.vocabulary_padded * 4;
	assert_int_equal(without.scratch, KERNELS_WORKSPACE + logits);
	config.attention = UINT64_C(1) << 40;
	assert_ok(trainer_measure(&config, &with));
	uint64_t least = UINT64_C(2) * WINDOWS * HEADS * WHOLE * WHOLE + 4 * WINDOWS * HEADS * TOKENS;
	assert_true(least > logits);
	assert_in_range(with.scratch - KERNELS_WORKSPACE, least, least + 8192);
	assert_int_equal(with.device - without.device, with.scratch - without.scratch);
	config.attention = BOUND;
	assert_ok(trainer_measure(&config, &with));
	assert_int_equal(with.scratch, KERNELS_WORKSPACE + BOUND);
	config.attention = logits / 2;
	assert_ok(trainer_measure(&config, &with));
	assert_int_equal(with.scratch, without.scratch);
	config.attention = BOUND;
	config.reset_attention_mask = true;
	assert_ok(trainer_measure(&config, &with));
	assert_int_equal(with.scratch, without.scratch);
	config.reset_attention_mask = false;
	config.model.attention_dropout = 0.1f;
	assert_ok(trainer_measure(&config, &with));
	assert_int_equal(with.scratch, without.scratch);
}

static void memory_is_measured(void **state)
{
	(void)state;
	struct trainer_memory plain, host, half;
	struct trainer_config config = device_config(DTYPE_BF16), other = offloaded(config);
	assert_ok(trainer_measure(&config, &plain));
	assert_ok(trainer_measure(&other, &host));
	other.device_share = 0.5;
	other.offloading.speculation = 0;
	assert_ok(trainer_measure(&other, &half));
	uint64_t n = plain.weights / 4;
	uint64_t lists = 4 * 128 * 16 / 64,
		 staging = 512 * (2 + 4); /* wte's 2048 in 4 buckets of up to 640 */
	assert_int_equal(plain.device - host.device, 12 * n - host.incoming - lists);
	assert_int_equal(host.host - plain.host, 12 * n + host.shadows + host.pinned + lists);
	assert_true(host.shadows > 0 && (host.incoming - staging) * 6 == host.shadows && host.pinned > 0);
	assert_int_equal(half.shadows + half.incoming, 0);
	assert_true(plain.device - half.device >= 6 * n && plain.device - half.device < 6 * n + 12 * 64);
	other.gradients = DTYPE_BF16;
	assert_ok(trainer_measure(&other, &host));
	assert_int_equal(half.gradients, 2 * host.gradients);
	assert_true(half.device - host.device == 2 * n && half.pinned > host.pinned);
	other.open_device = NULL;
	assert_int_equal(trainer_check(&other), STATUS_USAGE);
	other.offload = false;
	assert_int_equal(trainer_check(&other), STATUS_USAGE);
	other.gradients = DTYPE_F32;
	assert_ok(trainer_check(&other));
	other.offload = true;
	other.open_device = streamed_open;
	other.device_share = 1;
	assert_int_equal(trainer_check(&other), STATUS_USAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(in_fp32, setup),
		cmocka_unit_test_setup(in_bf16_with_recomputation, setup),
		cmocka_unit_test_setup(with_inputs_on_the_host, setup),
		cmocka_unit_test_setup(a_run_takes_what_was_measured, setup),
		cmocka_unit_test_setup(in_fp16_with_overflows, setup),
		cmocka_unit_test_setup(in_one_micro_batch_and_four, setup),
		cmocka_unit_test_setup(a_run_moves, setup),
		cmocka_unit_test_setup(a_delayed_update, setup),
		cmocka_unit_test_setup(failures_end_the_run, setup),
		cmocka_unit_test_setup(times_fit_into_a_step, setup),
		cmocka_unit_test_setup(times_of_an_offload_fit_into_the_run, setup),
		cmocka_unit_test_setup(memory_is_measured, setup),
		cmocka_unit_test_setup(attention_is_measured, setup),
	};
	return cmocka_run_group_tests(tests, open_all, close_all);
}
