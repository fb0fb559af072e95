/* Ranks with the optimizer on the host, against the same ranks with it on the device, and against ranks in the host's memory,
 * who exchange all of an embedding's gradient at the end of the step: the same bits. */
#include "engine/staging.h"
#include "tests/unit/engine/stream_kernels.h"
#include "tests/unit/engine/team_rig.h"

enum { STEPS = 24 };

static struct trainer_config device_config(enum dtype precision)
{
	struct trainer_config config = shared_config();
	config.open_device = streamed_open;
	config.micro_batch =
		1; /* the last one's tokens, of all ranks, leave some pieces of the embedding alone */
	config.precision = precision;
	config.optimizer.max_norm = 0.96; /* the first steps clip, and some later ones */
	config.train_iters = STEPS;
	config.schedule.decay_iters = 20;
	config.eval_interval = 6;
	return config;
}

/* `share` of it stays on the device; where that is nothing, it borrows what is final last, and checkpoints are written behind. */
static struct trainer_config offloaded(struct trainer_config config, double share)
{
	config.offload = true;
	config.device_share = share;
	config.offloading = (struct offload_config){
		.threads = 2, .bucket_elements = 300, .pinned = 1, .speculation = UINT64_MAX};
	if (share == 0) {
		config.offloading.lent = 2;
		config.offloading.lent_rows = 640;
		config.save_behind = true;
	}
	return config;
}

/* Into a run of that name, from where `load` (or NULL) stands, to step `stop_after` (0: the end). */
static const struct team *train(
	int ranks, struct trainer_config config, const char *name, const char *load, uint64_t stop_after)
{
	static char path[2][100];
	struct team *team;
	snprintf(path[0], sizeof path[0], "%s/%s", run, name);
	snprintf(path[1], sizeof path[1], "%s/%s", run, load ? load : "");
	config.save = path[0];
	team = form_team(config);
	team->load = load ? path[1] : NULL;
	team->stopping = ranks - 1;
	team->stop_after = stop_after;
	streamed_unpinned = 0;
	assert_ok(crowd_run(ranks, train_in_team, team));
	assert_int_equal(streamed_unpinned, 0);
	for (int r = 1; r < ranks; r++)
		assert_same_story(&team->stories[r], &team->stories[0], 0);
	return team;
}

static void assert_same_end(const char *a, const char *b)
{
	char paths[2][128];
	snprintf(paths[0], sizeof paths[0], "%s/%s/step-00000024", run, a);
	snprintf(paths[1], sizeof paths[1], "%s/%s/step-00000024", run, b);
	assert_same_checkpoint(paths[0], paths[1]);
}

/* In the host's memory, on devices, and on the hosts. Returns the last, which has speculated. */
static const struct team *check_same_bits(struct trainer_config config, int ranks, double share)
{
	static struct story straight;
	struct trainer_config plain = config;
	assert_ok(directory_remove(run));
	plain.open_device = NULL;
	train(ranks, plain, "plain", NULL, 0);
	straight = train(ranks, config, "device", NULL, 0)->stories[0];
	assert_same_end("plain", "device");
	const struct team *team = train(ranks, offloaded(config, share), "host", NULL, 0);
	assert_same_story(&team->stories[0], &straight, 0);
	assert_same_end("device", "host");
	assert_true(team->outcomes[OFFLOAD_COMMITTED] > 0);
	assert_int_equal(team->lent > 0, share == 0);
	return team;
}

static void all_of_it_on_the_host(void **state)
{
	(void)state;
	const struct team *team = check_same_bits(device_config(DTYPE_F32), 2, 0);
	assert_true(team->outcomes[OFFLOAD_REDONE] > 0);
}

static void a_part_of_it_on_the_device(void **state)
{
	(void)state;
	struct trainer_config config = device_config(DTYPE_BF16);
	config.split = "80,2,18"; /* less to validate with than there are ranks */
	const struct team *team = check_same_bits(config, 3, 0.4);
	assert_in_range(team->stories[0].validations[0].windows, 1, 4);
	assert_true(team->outcomes[OFFLOAD_REDONE] > 0);
}

static void overflows_are_dropped_by_all(void **state)
{
	(void)state;
	struct trainer_config config = device_config(DTYPE_F16);
	config.loss_scale = loss_scale_dynamic(24, 3, 1, 1);
	config.optimizer.max_norm = 1.3;
	const struct team *team = check_same_bits(config, 2, 0.1);
	assert_true(team->outcomes[OFFLOAD_DROPPED] > 0);
}

/* Whenever a copy or an operation is late. */
static void late_streams_change_nothing(void **state)
{
	(void)state;
	streamed_jitter = 60;
	check_same_bits(device_config(DTYPE_BF16), 2, 0);
	streamed_jitter = 0;
}

/* From the devices to the host and in part back, on as many ranks: the bits of a run that stayed. */
static void a_run_moves(void **state)
{
	(void)state;
	struct trainer_config config = device_config(DTYPE_BF16);
	train(2, config, "stays", NULL, 0);
	train(2, config, "moves", NULL, 3);
	train(2, offloaded(config, 0), "moves", "moves", 10);
	train(2, offloaded(config, 0.4), "moves", "moves", 0);
	assert_same_end("stays", "moves");
}

/* What two ranks saved, one process and three ranks go on from, and two again. */
static void other_numbers_of_ranks_go_on(void **state)
{
	(void)state;
	static struct story straight;
	struct trainer_config config = device_config(DTYPE_F32);
	straight = train(2, config, "stays", NULL, 0)->stories[0];
	train(2, offloaded(config, 0), "two", NULL, 3);
	for (int ranks = 1; ranks <= 3; ranks += 2) {
		const char *name = ranks == 1 ? "one" : "three";
		train(ranks, offloaded(config, 0), name, "two", 6);
		const struct team *team = train(2, offloaded(config, 0), name, name, 0);
		assert_int_equal(team->stories[0].step_count, STEPS - 6);
		for (int i = 0; i < STEPS - 6; i++)
			assert_near(
				"loss", i, team->stories[0].steps[i].loss, straight.steps[6 + i].loss, 2e-5);
	}
}

/* One step late in each rank's slices, as in one process; a checkpoint ends the delay of all. */
static void a_delayed_update(void **state)
{
	(void)state;
	static struct story alone;
	struct trainer_config config = offloaded(device_config(DTYPE_F32), 0);
	config.offloading.delayed = true;
	alone = train(1, config, "alone", NULL, 0)->stories[0];
	const struct team *team = train(2, config, "two", NULL, 0);
	assert_same_story(&team->stories[0], &alone, 2e-5);
	config.save_interval = 5;
	train(2, config, "straight", NULL, 0);
	train(2, config, "stopped", NULL, 5);
	train(2, config, "stopped", "stopped", 0);
	assert_same_end("straight", "stopped");
	/* a step that is skipped has an update to put in place nevertheless */
	config = offloaded(device_config(DTYPE_F16), 0);
	config.offloading.delayed = true;
	config.loss_scale = loss_scale_dynamic(22, 1, 1, 1);
	config.schedule.learning_rate = 0.05;
	alone = train(1, config, "alone", NULL, 0)->stories[0];
	assert_true(alone.steps[STEPS - 1].skipped > 1 && alone.steps[STEPS - 1].updates > 4);
	team = train(2, config, "two", NULL, 0);
	assert_same_story(&team->stories[0], &alone, 2e-3);
}

/* Of devices and pinned memory a run takes what trainer_measure said of each rank. */
static void a_run_takes_what_was_measured(void **state)
{
	(void)state;
	for (int i = 0; i < 4; i++) {
		uint64_t device = 0, pinned = 0, batches = 0, owned = 0, shadows = 0;
		struct trainer_config config = device_config(i & 1 ? DTYPE_F16 : DTYPE_F32);
		config.model.layers = 5;
		config.train_iters = 2;
		config = offloaded(config, i == 2 ? 0.3 : 0);
		config.offloading.delayed = i == 3;
		config.offloading.lent = 1;
		for (int r = 0; r < 3; r++) {
			struct trainer_memory m;
			struct collective rank = {.rank = r, .ranks = 3};
			config.ranks = &rank;
			assert_ok(trainer_measure(&config, &m));
			uint64_t least =
				m.shadows + m.pinned + m.exchange + m.data + m.saving +
				(uint64_t)((1 - config.device_share) * (double)(m.weights + m.moments));
			assert_in_range(m.host, least, least + STAGING_BYTES + 16384);
			device += m.device - m.scratch; /* a GPU's alone */
			pinned += m.pinned + m.exchange;
			owned += m.weights + m.moments;
			shadows += m.shadows;
			batches += m.data + STAGING_BYTES + 8192;
		}
		config.ranks = NULL;
		if (i < 2) /* all has a shadow but wpe */
			assert_int_equal(shadows, owned - 12 * T * 16);
		assert_ok(directory_remove(run));
		streamed_most = streamed_host_most = 0;
		train(3, config, "run", NULL, 0);
		assert_in_range(streamed_most, device * 9 / 10, device);
		assert_in_range(streamed_host_most, pinned, pinned + batches);
		assert_int_equal(streamed_device + streamed_host, 0);
	}
}

/* Whatever fails on a rank, wherever: an error, and nobody is left waiting. */
static void failures_end_all(void **state)
{
	(void)state;
	int told = 0, tries = 0;
	for (int after = 3; after < 4000; after += 571, tries++) {
		struct trainer_config config = offloaded(device_config(DTYPE_BF16), 0);
		config.save = NULL;
		streamed_failing = after;
		enum status status = crowd_run(2, train_in_team, form_team(config));
		if (status != STATUS_OK)
			assert_non_null(strstr(error_message(), "a kernel failed"));
		told += status != STATUS_OK;
		streamed_failing = -1;
		assert_int_equal(streamed_device + streamed_host, 0);
	}
	assert_true(told >= tries - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(all_of_it_on_the_host, setup),
		cmocka_unit_test_setup(a_part_of_it_on_the_device, setup),
		cmocka_unit_test_setup(overflows_are_dropped_by_all, setup),
		cmocka_unit_test_setup(late_streams_change_nothing, setup),
		cmocka_unit_test_setup(a_run_moves, setup),
		cmocka_unit_test_setup(other_numbers_of_ranks_go_on, setup),
		cmocka_unit_test_setup(a_delayed_update, setup),
		cmocka_unit_test_setup(a_run_takes_what_was_measured, setup),
		cmocka_unit_test_setup(failures_end_all, setup),
	};
	return cmocka_run_group_tests(tests, open_all, close_all);
}
