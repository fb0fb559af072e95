/*
 * Expected values: the reference run's own FLOP counts, steps measured on an H100 (tests/gpu/results), and
 * for the pipeline schedules worked out by hand and bounds that no schedule can break.
 */
#include "engine/plan.h"

#include "common/philox.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>

static struct plan_shape shape_of(const char *name, int positions, uint64_t batch)
{
	struct plan_shape shape = {.model = {.positions = positions,
					   .vocabulary = 50257,
					   .vocabulary_padded = 50304,
					   .layernorm_epsilon = 1e-5f},
		.micro_batch = batch,
		.global_batch = batch,
		.window_tokens = (uint64_t)positions,
		.act = DTYPE_BF16,
		.grad = DTYPE_BF16};
	assert_true(model_config_named(name, &shape.model));
	return shape;
}

/* "Within `share` of it." */
static void assert_near(double is, double expected, double share)
{
	if (fabs(is - expected) > share * fabs(expected))
		fail_msg("%.6g is not within %g of %.6g", is, share, expected);
}

/*
 * DeepSpeed's profiler counted 220.5 MFLOP a token forward in the reference run, and 778.8 with backward and
 * recomputation. It counts attention over all T columns and its backward as twice the forward.
 */
static void counts_the_flops_of_the_reference_run(void **state)
{
	(void)state;
	struct plan_shape shape = shape_of("reference", 1024, 24);
	struct plan_work work, again;
	assert_int_equal(plan_work(&shape, &work), STATUS_OK);
	shape.checkpoint_activations = true;
	assert_int_equal(plan_work(&shape, &again), STATUS_OK);
	double tokens = 24 * 1024, full = 4.0 * 4 * 1024 * 1024;
	assert_int_equal(work.tokens, 24 * 1024);
	assert_near(work.matrix_flops / tokens / 3 + full, 220.5e6, .0005);
	assert_near(again.matrix_flops / tokens + 4 * full, 778.8e6, .0005);
	/* 3.5 forwards of half the columns; one more with recomputation */
	assert_near(work.attention_flops / tokens, 3.5 * full / 2, 1e-12);
	assert_near(again.attention_flops / tokens, 4.5 * full / 2, 1e-12);
	assert_near(work.model_flops / tokens, 3 * (220.5e6 - full / 2), .0005);
	assert_near(again.model_flops, work.model_flops, 1e-12); /* what is computed twice counts once */
	assert_near((double)work.parameters, 102946816, 1e-4);
	assert_near(work.down_bytes, 2 * 102946816.0, 1e-4);
}

/* H100, bf16, optimizer on the GPU, 2026-11-22: tests/gpu/results/2026-11-22-h100.json, "steps". */
static void foretells_steps_measured_on_an_h100(void **state)
{
	(void)state;
	static const struct {
		const char *name;
		uint64_t batch;
		bool again;
		double ms;
	} measured[] = {{"reference", 24, false, 36.33}, {"reference", 24, true, 40.74},
		{"reference", 32, false, 48.07}, {"gpt2", 32, false, 68.03}};
	struct plan_rates rates;
	uint64_t memory;
	assert_true(plan_rates_named("h100", &rates, &memory));
	assert_false(plan_rates_named("h1000", &rates, &memory));
	char names[] = PLAN_GPUS, *rest = names;
	for (char *name; (name = strsep(&rest, ", "));)
		assert_true(!*name || plan_rates_named(name, &rates, &memory));
	assert_true(plan_rates_named("h100", &rates, &memory));
	assert_near((double)memory, 77.6 * (1 << 30), .001); /* that were free on it */
	for (size_t i = 0; i < sizeof measured / sizeof *measured; i++) {
		struct plan_shape shape = shape_of(measured[i].name, 1024, measured[i].batch);
		struct plan_time time;
		shape.checkpoint_activations = measured[i].again;
		assert_int_equal(plan_predict(&shape, &rates, NULL, 0, &time), STATUS_OK);
		assert_near(time.step * 1e3, measured[i].ms, .1);
		assert_int_equal(time.bound, PLAN_COMPUTE);
	}
}

static void knows_the_peak_of_a_gpu_by_its_drivers_name(void **state)
{
	(void)state;
	assert_near(plan_peak_flops("NVIDIA H100 80GB HBM3, 132 SMs, cuBLASLt 130100", DTYPE_BF16), 989e12,
		0.001);
	assert_near(plan_peak_flops("NVIDIA H100 PCIe", DTYPE_F16), 756e12, 0.001);
	assert_near(plan_peak_flops("NVIDIA A100-SXM4-80GB", DTYPE_BF16), 312e12, 0.001);
	assert_near(plan_peak_flops("NVIDIA L40S", DTYPE_BF16), 362e12, 0.001);
	assert_true(plan_peak_flops("NVIDIA H100 80GB HBM3", DTYPE_F32) == 0);
	assert_true(plan_peak_flops("CPU avx512, 2 threads, oneDNN 2.6.3", DTYPE_BF16) == 0);
}

/* ---- the pipeline ---- */

static void assert_pipeline(const struct plan_buckets *b, enum plan_schedule schedule, double expected)
{
	double step;
	assert_int_equal(plan_pipeline(b, schedule, &step), STATUS_OK);
	assert_near(step, expected, 1e-12);
}

/* Embeddings and a layer; `host`: [2] seconds. */
static const double once[] = {1, 1};
static struct plan_buckets two_buckets(const double *host)
{
	static const double forward[] = {1, 2}, backward[] = {3, 4};
	return (struct plan_buckets){.count = 2,
		.forward = forward,
		.backward = backward,
		.down = once,
		.host = host,
		.up = once,
		.between = 10};
}

/* Two buckets: every time worked out by hand. */
static void schedules_of_two_buckets(void **state)
{
	(void)state;
	const double host[] = {2, 5};
	struct plan_buckets b = two_buckets(host);
	assert_pipeline(&b, PLAN_ON_DEVICE, 20 + 7);
	/* From the beginning of a forward: backward of 1 ends at 17, of 0 at 20, when the norm is known. Without
	 * shadows they come down then, at 21 and 22, and the host is done with 0 at 23 (up at 24) and with 1 at
	 * 28 (up at 29). The next forward: 0 from 24, 1 from 29 to 31, then 10 + 4 + 3: 48, which is 28 after 20. */
	assert_pipeline(&b, PLAN_EXACT, 28);
	/* 1 has a shadow: on the host from 18 to 23, 0 from 23 to 25; up at 26. */
	double shadow[] = {0, 1};
	b.shadow = shadow;
	assert_pipeline(&b, PLAN_EXACT, 26);
	/* Half of 0 is down at 13.5 and up at 15; 1 as before; the other half on the host from 23 to 24, up
	 * at 24.5. */
	b.early = .5;
	assert_pipeline(&b, PLAN_EXACT, 24.5);
	/* Three quarters of 0 are on the host from 13.75 to 15.25, the last from 23 to 23.5; 1 is up at 24, that quarter at
	 * 24.25. */
	b.early = .75;
	assert_pipeline(&b, PLAN_EXACT, 24.25);
	/* Half of 1 has a shadow: on the host from 17.5 to 20; then 0, to 23 (up at 24), the other half to 25.5 (up
	 * at 26). */
	b.early = 0;
	shadow[1] = .5;
	assert_pipeline(&b, PLAN_EXACT, 25);
	/* 1 is down at 21, later than the norm, but the host waits for it: to 26, up at 27; then 0, to 28, up at 29. */
	const double slow_link[] = {1, 4};
	shadow[1] = 1;
	b.down = slow_link;
	assert_pipeline(&b, PLAN_EXACT, 29);
	b.down = once;
	/* Seven eighths of 0 are on the host from 13.875 to 20.875, past the decision: 1 has not begun, and comes after the
	 * last eighth of 0, which is on the host to 21.875 and up at 22: to 26.875, up at 27.875. */
	const double slow_host[] = {8, 5};
	b.early = .875;
	b.host = slow_host;
	assert_pipeline(&b, PLAN_EXACT, 26.875);
	b.host = host;
	b.early = 0;
	assert_pipeline(&b, PLAN_DELAYED, 20);
	b.shadow = NULL;
	b.before = 100;                       /* micro-batches before */
	assert_pipeline(&b, PLAN_EXACT, 128); /* the first forward waits, the others do not */
}

/* The same two buckets, of several ranks. */
static void schedules_of_ranks(void **state)
{
	(void)state;
	const double host[] = {2, 5}, reduce[] = {1, 2}, share[] = {1, 3};
	struct plan_buckets b = two_buckets(host);
	b.reduce = reduce;
	b.share = share;
	/* 1 is summed from 17 to 19, 0 from 20 to 21, when the norm is known. It is down at 22, on the host to 24, up at 25
	 * and with all ranks at 26; 1 on the host to 29, up at 30, with all at 33. The next backward ends at 52, 32 later. */
	assert_pipeline(&b, PLAN_EXACT, 32);
	/* 1 has a shadow: down at 20, on the host to 25 and up at 26; 0 on the host to 27, up at 28, with all at 29. Then
	 * 1 has come to all at 32: only its forward is left of the wait. */
	const double shadow[] = {0, 1};
	b.shadow = shadow;
	assert_pipeline(&b, PLAN_EXACT, 31);
	/* Without the host's part: known at 21, 0 with all at 22, forward to 23; 1 with all at 25: 44 is 24 later. */
	assert_pipeline(&b, PLAN_ON_DEVICE, 24 + 7);
	assert_pipeline(&b, PLAN_DELAYED, 24);
	/* Half of 0 is summed from 13 to 13.5, the other half, and so the norm known, at 20.5. */
	b.dense = .5;
	assert_pipeline(&b, PLAN_ON_DEVICE, 23.5 + 7);
	assert_pipeline(&b, PLAN_DELAYED, 23.5);
	/* 1 is on the host from 20 to 25 and up at 26, then 0 to 27, up at 28, with all at 29: as without. */
	assert_pipeline(&b, PLAN_EXACT, 31);
	/* That half is on the host from 14 to 15; the other from 25 to 26, up at 26.5 and with all at 27.5; 1 at 30.5. */
	b.early = .5;
	assert_pipeline(&b, PLAN_EXACT, 29.5);
}

/* The first two buckets again; 1 has a shadow and is not long on the host. */
static void schedules_of_loans(void **state)
{
	(void)state;
	const double shadow[] = {0, 1}, host[] = {2, 1}, slow_host[] = {2, 5};
	const double none[] = {0, 0}, first[] = {1, 0}, second[] = {0, 1};
	const double on_first[] = {.5, 0}, on_second[] = {0, .5};
	struct plan_buckets b = two_buckets(host);
	b.shadow = shadow;
	b.lent = (struct plan_loans){.share = none, .device = none};
	/* Nothing: 0 is down at 21, on the host to 23 and up at 24. */
	assert_pipeline(&b, PLAN_EXACT, 24);
	/* All of 0: 1 is on the host from 18 to 19, up at 20, when the norm is known; the device's half second is left. */
	b.lent = (struct plan_loans){.share = first, .device = on_first};
	assert_pipeline(&b, PLAN_EXACT, 20.5);
	assert_pipeline(&b, PLAN_ON_DEVICE, 20 + 3);
	assert_pipeline(&b, PLAN_DELAYED, 20);
	/* 1 without a shadow, which would be on the host from 23 to 28 and up at 29: 0 alone, up at 24, holds the forward. */
	struct plan_buckets other = b;
	other.host = slow_host;
	other.shadow = NULL;
	other.lent = (struct plan_loans){.share = none, .device = none};
	assert_pipeline(&other, PLAN_EXACT, 28);
	other.lent = (struct plan_loans){.share = second, .device = on_second};
	assert_pipeline(&other, PLAN_EXACT, 24);
}

/* The same; half of 0 is early, and half, or another part, lent in pieces. */
static void schedules_of_pieces_lent(void **state)
{
	(void)state;
	const double host[] = {2, 1}, shadow[] = {0, 1};
	struct plan_buckets b = two_buckets(host);
	b.early = .5;
	b.shadow = shadow;
	b.lent.pieces.share = b.lent.pieces.device = .5;
	b.lent.pieces.copy = 1;
	b.lent.pieces.up = b.lent.pieces.down = 2;
	/* Copied at 1, there at 3; the early half on the host from 13.5 to 14.5, 1 from 18 to 19, up at 20, when the norm is known.
	 * The device's half second is left; the state is down at 22.5 and back at 23.5, when the forward is at its end. */
	assert_pipeline(&b, PLAN_EXACT, 20.5);
	assert_pipeline(&b, PLAN_DELAYED, 20);
	/* Slow up: what has come at A is updated at A + .5, down at A + 2.5 and back at A + 3.5; copied again, it is there at
	 * A + 29.5. (1's weights, behind it, are up at A + 1.5, as its forward begins; the norm is known at A + 20.5.) */
	b.lent.pieces.up = 25;
	assert_pipeline(&b, PLAN_EXACT, 29.5);
	b.lent.pieces.up = 2;
	/* Slow down: lent in the step that ends at 20, the state is down at 42.5 and back at 43.5. The next backward ends at 40.5:
	 * nothing of that is lent or early, for the host waits. 0 is down at 43.5, on the host to 45.5, up at 46.5, its
	 * forward to 47.5; 1 on the host to 46.5, up at 47.5, to 49.5, and 66.5 is the end. From 46.5 on it is lent again. */
	b.lent.pieces.down = 22;
	assert_pipeline(&b, PLAN_EXACT, 46.5 / 2);
	b.lent.pieces.down = 2;
	/* Not before the last micro-batch: from 100 to the norm at 120 half is copied, but then nothing is early. So it is all the
	 * host's: 0 from 121 to 123, up at 124, forward to 125; 1 is up at 125 too: to 127, which is 4 late. */
	b.before = 100;
	b.lent.pieces.copy = 40;
	assert_pipeline(&b, PLAN_EXACT, 124);
	/* All of 0 is to be lent, nothing early: the half is there at 121 and updated at 121.25. The other half is on the host from
	 * 120.5 to 121.5, up at 122; 1 to 122.5, up at 123.5: forward to 125.5, which is 2.5 late. */
	b.early = 0;
	b.lent.pieces.share = 1;
	assert_pipeline(&b, PLAN_EXACT, 122.5);
	/* In time, and a quarter of 0 is left for the host: down at 120.25, to 120.75, up at 121. */
	b.early = .5;
	b.lent.pieces.copy = 1;
	b.lent.pieces.share = .25;
	assert_pipeline(&b, PLAN_EXACT, 121);
	/* The device has that quarter as a whole: half a second each. */
	const double quarter[] = {.25, 0}, there[] = {.5, 0};
	b.lent.share = quarter;
	b.lent.device = there;
	assert_pipeline(&b, PLAN_EXACT, 121);
}

/* 1 is summed from 17 to 19, on the host from 20 to 21 and up at 22; 0 summed from 20 to 21, when the norm is known, the
 * device's to 21.5, with all at 22.5, and its forward to 23.5. 1 is with all then, and to 25.5: 22.5 from end to end. */
static void schedules_of_loans_of_ranks(void **state)
{
	(void)state;
	const double forward[] = {1, 2}, backward[] = {3, 4}, down[] = {1, 1}, host[] = {2, 1}, up[] = {1, 1};
	const double reduce[] = {1, 2}, share[] = {1, 1}, shadow[] = {0, 1};
	const double lent[] = {1, 0}, device[] = {.5, 0};
	struct plan_buckets b = {.count = 2,
		.forward = forward,
		.backward = backward,
		.down = down,
		.host = host,
		.up = up,
		.between = 10,
		.shadow = shadow,
		.reduce = reduce,
		.share = share,
		.lent = {.share = lent, .device = device}};
	assert_pipeline(&b, PLAN_EXACT, 22.5);
}

static double draw(uint32_t *counter)
{
	return philox_4x32_10((*counter)++, 0, 0, 0, 1, 2).word[0] / 4294967296.0;
}

/* Overlap cannot beat the busiest resource, and never loses to doing one thing after another. */
static void no_schedule_beats_its_busiest_resource(void **state)
{
	(void)state;
	uint32_t counter = 0;
	for (int round = 0; round < 1000; round++) {
		double values[5][9], shadow[9], sums[5] = {0};
		int count = 1 + (int)(draw(&counter) * 9);
		for (int kind = 0; kind < 5; kind++) {
			double weight = draw(&counter);
			for (int i = 0; i < count; i++)
				sums[kind] += values[kind][i] = weight * draw(&counter);
		}
		for (int i = 0; i < count; i++)
			shadow[i] = round % 3 ? draw(&counter) : 1;
		struct plan_buckets b = {.count = count,
			.forward = values[0],
			.backward = values[1],
			.down = values[2],
			.host = values[3],
			.up = values[4],
			.early = draw(&counter),
			.between = draw(&counter),
			.before = round % 2 ? 0 : draw(&counter)};
		double compute = sums[0] + sums[1] + b.between + b.before;
		double floor = fmax(fmax(compute, sums[3]), fmax(sums[2], sums[4]));
		double all = compute + sums[2] + sums[3] + sums[4], serial, speculative, delayed;
		double early = b.early;
		b.early = 0;
		assert_int_equal(plan_pipeline(&b, PLAN_EXACT, &serial), STATUS_OK);
		b.early = early;
		b.shadow = shadow;
		assert_int_equal(plan_pipeline(&b, PLAN_EXACT, &speculative), STATUS_OK);
		assert_int_equal(plan_pipeline(&b, PLAN_DELAYED, &delayed), STATUS_OK);
		assert_true(delayed >= floor - 1e-9);
		assert_true(speculative >= floor - 1e-9 && speculative >= delayed - 1e-9);
		assert_true(serial >= delayed - 1e-9 && serial <= all + 1e-9 && speculative <= all + 1e-9);
	}
}

/* A third of the optimizer on the host takes a third of its traffic; the shape is refused before anything. */
static void shares_and_refusals(void **state)
{
	(void)state;
	struct plan_shape shape = shape_of("gpt2", 1024, 8);
	struct plan_rates rates;
	uint64_t memory;
	const struct offload_config shadowed = {.speculation = UINT64_MAX};
	struct plan_time all, third;
	assert_true(plan_rates_named("a100", &rates, &memory));
	rates.host_bytes = 100e9;
	assert_int_equal(plan_predict(&shape, &rates, &shadowed, 0, &all), STATUS_OK);
	assert_int_equal(plan_predict(&shape, &rates, &shadowed, 2. / 3, &third), STATUS_OK);
	assert_near(third.down, all.down / 3, 1e-9);
	assert_near(third.optimizer, all.optimizer / 3, 1e-9);
	assert_near(all.optimizer, 28 * 124.5e6 / 100e9, .01);
	assert_near(all.down, 2 * 124.5e6 / rates.down_bytes, .01);
	shape.grad = DTYPE_F32;
	assert_int_equal(plan_predict(&shape, &rates, &shadowed, 0, &all), STATUS_OK);
	assert_near(all.optimizer, 30 * 124.5e6 / 100e9, .01);
	assert_near(all.down, 4 * 124.5e6 / rates.down_bytes, .01);
	shape.grad = DTYPE_BF16;
	assert_int_equal(plan_predict(&shape, &rates, &shadowed, 0, &all), STATUS_OK);
	assert_true(third.step < all.step);
	assert_near(third.compute, all.compute, 1e-9);
	rates.host_bytes = 5e9; /* a host that cannot keep up is what bounds the step */
	assert_int_equal(plan_predict(&shape, &rates, &shadowed, 0, &all), STATUS_OK);
	assert_int_equal(all.bound, PLAN_OPTIMIZER);
	shape.model.heads = 7;
	assert_int_equal(plan_predict(&shape, &rates, &shadowed, 0, &all), STATUS_USAGE);
}

/* Four ranks: each a quarter of the optimizer and of its traffic, and three quarters of all gradients and weights
 * go to the others. */
static void ranks_share_the_optimizer(void **state)
{
	(void)state;
	struct plan_shape shape = shape_of("gpt2", 1024, 8);
	const struct offload_config serial = {0};
	struct plan_rates rates;
	uint64_t memory;
	struct plan_work one_work, work;
	struct plan_time one, four;
	assert_true(plan_rates_named("a100", &rates, &memory));
	rates.host_bytes = 100e9;
	shape.grad = DTYPE_F32;
	assert_int_equal(plan_work(&shape, &one_work), STATUS_OK);
	assert_int_equal(plan_predict(&shape, &rates, &serial, 0.25, &one), STATUS_OK);
	assert_true(one.network == 0 && one_work.network_bytes == 0);
	shape.ranks = 4;
	shape.global_batch *= 4;
	assert_int_equal(plan_work(&shape, &work), STATUS_OK);
	assert_int_equal(plan_predict(&shape, &rates, &serial, 0.25, &four), STATUS_OK);
	assert_near(work.model_flops, 4 * one_work.model_flops, 1e-9);
	assert_near(work.activation_bytes, one_work.activation_bytes, 1e-9);
	assert_near(work.optimizer_bytes, one_work.optimizer_bytes / 4, 1e-9);
	assert_near(work.down_bytes, one_work.down_bytes / 4, 1e-9);
	assert_near(work.network_bytes, .75 * 6 * 124.5e6, .01);
	assert_near(four.compute, one.compute, 1e-9);
	assert_near(four.down, one.down / 4, 1e-9);
	assert_near(four.up, one.up / 4, 1e-9);
	assert_near(four.optimizer, one.optimizer / 4, 1e-9);
	assert_near(four.network, work.network_bytes / rates.network_bytes, 1e-9);
	assert_true(four.step > four.compute && four.step < one.step + four.network);
	rates.network_bytes = 1e9;
	assert_int_equal(plan_predict(&shape, &rates, &serial, 0.25, &four), STATUS_OK);
	assert_int_equal(four.bound, PLAN_NETWORK);
}

/* Layers' inputs cost nothing where the link is quicker than the layers, and their way there and back where it is
 * slower; the last two layers' stay. */
static void inputs_on_the_host_take_the_link(void **state)
{
	(void)state;
	struct plan_shape shape = shape_of("gpt2", 1024, 8);
	struct plan_rates rates;
	uint64_t memory;
	struct plan_time there, here, two;
	assert_true(plan_rates_named("h100", &rates, &memory));
	shape.checkpoint_activations = true;
	assert_int_equal(plan_predict(&shape, &rates, NULL, 0, &there), STATUS_OK);
	shape.inputs_on_host = true;
	assert_int_equal(plan_predict(&shape, &rates, NULL, 0, &here), STATUS_OK);
	assert_near(here.step, there.step, 1e-9);
	rates.down_bytes = rates.up_bytes = 1e9;
	assert_int_equal(plan_predict(&shape, &rates, NULL, 0, &here), STATUS_OK);
	shape.model.layers = 2;
	assert_int_equal(plan_predict(&shape, &rates, NULL, 0, &two), STATUS_OK);
	assert_near(here.compute, two.compute + 10 * 2 * (8 * 1024 * 768 * 2) / 1e9, 1e-9);
}

/* Speculation is foretold with the shadows that its memory gives: 12 bytes an element, whole buckets. */
static void fewer_shadows_speculate_less(void **state)
{
	(void)state;
	struct plan_shape shape = shape_of("gpt2", 1024, 24);
	struct plan_rates rates;
	uint64_t memory;
	assert_true(plan_rates_named("h100", &rates, &memory));
	rates.host_bytes = 100e9;
	struct plan_time previous, time, none;
	struct offload_config c = {0};
	assert_int_equal(plan_predict(&shape, &rates, &c, 0, &none), STATUS_OK);
	c.speculation = 12 * 1000; /* less than any bucket but the last LayerNorm's */
	assert_int_equal(plan_predict(&shape, &rates, &c, 0, &time), STATUS_OK);
	assert_near(time.step, none.step, 1e-3);
	previous = none;
	for (int share = 1; share <= 3; share++) {
		c.speculation = (uint64_t)share * 12 * 124500000 / 4;
		assert_int_equal(plan_predict(&shape, &rates, &c, 0, &time), STATUS_OK);
		assert_true(time.step < 0.99 * previous.step);
		assert_near(time.compute, none.compute, 1e-9);
		previous = time;
	}
	c.speculation = UINT64_MAX;
	assert_int_equal(plan_predict(&shape, &rates, &c, 0, &time), STATUS_OK);
	/* The host is at work until the norm is known; whether it has begun one layer more by then is all that is left. */
	assert_true(fabs(time.step - previous.step) < 28 * 12 * 768 * 768 / 100e9);
	c.delayed = true; /* then nothing has a shadow */
	assert_int_equal(plan_predict(&shape, &rates, &c, 0, &time), STATUS_OK);
	assert_true(time.step <= previous.step);
}

/* gpt2's layer 0 has 7,087,872 parameters, wpe 1024 x 768. What is lent leaves gradients and weights where they are; pieces
 * take 12 bytes an element up and down, and 48 of the host's. */
static void lends_what_is_wanted_first(void **state)
{
	(void)state;
	struct plan_shape shape = shape_of("gpt2", 1024, 32);
	struct plan_rates rates;
	uint64_t memory;
	struct offload_config c = {.speculation = UINT64_MAX};
	struct plan_time none, time;
	assert_true(plan_rates_named("h100", &rates, &memory));
	rates.host_bytes = 100e9;
	assert_int_equal(plan_predict(&shape, &rates, &c, 0, &none), STATUS_OK);
	assert_true(none.lent == 0);
	c.lent = 2;
	c.lent_rows = 1000000;
	double pieces = 1000000, whole = 1024 * 768 + 7087872;
	assert_int_equal(plan_predict(&shape, &rates, &c, 0, &time), STATUS_OK);
	assert_near(time.pieces, pieces, 1e-9);
	assert_near(time.lent, pieces + whole, 1e-9);
	assert_near(time.up, none.up + (12 * pieces - 2 * time.lent) / rates.up_bytes, 1e-9);
	assert_near(time.down, none.down + (12 * pieces - 2 * time.lent) / rates.down_bytes, 1e-9);
	assert_near(time.optimizer, none.optimizer + (48 * pieces - 28 * time.lent) / 100e9, 1e-9);
	assert_near(time.compute, none.compute, 1e-9);
	assert_true(time.step < none.step);
	/* No more rows than are looked up, and none without shadows. */
	double late = plan_looked_up(&shape) * 50304 * 768;
	assert_near(late, 12 * pow(32 * 1024, .62) * 768, 1e-9);
	c.lent_rows = UINT64_MAX;
	assert_int_equal(plan_predict(&shape, &rates, &c, 0, &time), STATUS_OK);
	assert_near(time.pieces, late, 1e-9);
	/* All that is exposed now is the device's pass, by its memory: 28 bytes an element. */
	assert_near(time.exposed, 28 * time.lent / rates.memory_bytes, 1e-6);
	c.speculation = 0;
	assert_int_equal(plan_predict(&shape, &rates, &c, 0, &time), STATUS_OK);
	assert_true(time.pieces == 0);
	assert_near(time.lent, whole, 1e-9);
	/* Not what stays on the device: 35% are wte, wpe and some of layer 0. */
	assert_int_equal(plan_predict(&shape, &rates, &c, .35, &time), STATUS_OK);
	assert_true(time.lent > 0 && time.lent < 7087872);
	c.lent = 1;
	assert_int_equal(plan_predict(&shape, &rates, &c, .35, &time), STATUS_OK);
	assert_true(time.lent == 0);
	c.delayed = true;
	assert_int_equal(plan_predict(&shape, &rates, &c, 0, &time), STATUS_OK);
	assert_true(time.lent == 0);
	/* Of four ranks a quarter each, of the rows that all of them look up. */
	c = (struct offload_config){.speculation = UINT64_MAX, .lent = 2, .lent_rows = 1000000};
	shape.ranks = 4;
	shape.global_batch *= 4;
	assert_int_equal(plan_predict(&shape, &rates, &c, 0, &time), STATUS_OK);
	assert_near(time.pieces, pieces, 1e-9);
	assert_near(time.lent, pieces + whole / 4, 1e-9);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(counts_the_flops_of_the_reference_run),
		cmocka_unit_test(foretells_steps_measured_on_an_h100),
		cmocka_unit_test(knows_the_peak_of_a_gpu_by_its_drivers_name),
		cmocka_unit_test(schedules_of_two_buckets),
		cmocka_unit_test(schedules_of_ranks),
		cmocka_unit_test(schedules_of_loans),
		cmocka_unit_test(schedules_of_pieces_lent),
		cmocka_unit_test(schedules_of_loans_of_ranks),
		cmocka_unit_test(no_schedule_beats_its_busiest_resource),
		cmocka_unit_test(shares_and_refusals),
		cmocka_unit_test(ranks_share_the_optimizer),
		cmocka_unit_test(inputs_on_the_host_take_the_link),
		cmocka_unit_test(fewer_shadows_speculate_less),
		cmocka_unit_test(lends_what_is_wanted_first),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
