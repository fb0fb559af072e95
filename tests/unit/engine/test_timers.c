/*
 * The timers of a step, by a clock that operations move on: as many ticks as each has rows, so that what they should say
 * is known.
 */
#include "tests/unit/engine/trainer_rig.h"

static struct kernels cpu;
static double ticks;
static struct {
	struct event *event;
	double at;
} recorded[64];
static int recorded_count;

static double *time_of(struct event *e)
{
	for (int i = 0; i < recorded_count; i++)
		if (recorded[i].event == e)
			return &recorded[i].at;
	assert_true(recorded_count < 64);
	recorded[recorded_count].event = e;
	return &recorded[recorded_count++].at;
}

static void record(struct kernels *k, struct event *e, struct stream *s)
{
	(void)k, (void)s;
	*time_of(e) = ticks;
}

static double seconds_between(struct kernels *k, struct event *from, struct event *to)
{
	(void)k;
	return *time_of(to) - *time_of(from);
}

static void forward(struct kernels *k, struct stream *s, void *out, void *pre, const void *in, const void *w,
	const void *bias, int R, int K, int N)
{
	ticks += R;
	cpu.linear_forward(k, s, out, pre, in, w, bias, R, K, N);
}

static void backward(struct kernels *k, struct stream *s, void *din, void *dw, void *dbias, const void *dout,
	const void *in, const void *w, const void *pre, int R, int K, int N, bool accumulate)
{
	ticks += 3 * R;
	cpu.linear_backward(k, s, din, dw, dbias, dout, in, w, pre, R, K, N, accumulate);
}

static void classify(struct kernels *k, struct stream *s, float *loss, void *dx, void *dwte, const void *x,
	const void *wte, const int32_t *targets, int R, int C, int V, int VP, float scale, bool accumulate)
{
	ticks += 7 * R;
	cpu.classifier(k, s, loss, dx, dwte, x, wte, targets, R, C, V, VP, scale, accumulate);
}

static enum status open_ticking(const struct kernels_config *config, struct kernels *out)
{
	TRY(kernels_open_cpu(config, out));
	cpu = *out;
	out->event_record = record;
	out->event_seconds = seconds_between;
	out->linear_forward = forward;
	out->linear_backward = backward;
	out->classifier = classify;
	recorded_count = 0;
	return STATUS_OK;
}

/* A layer's forward has four products, the head one; without pieces or recomputation it is easily told. */
static void forward_is_forward_in_pieces_too(void **state)
{
	(void)state;
	struct trainer_config config = base_config();
	config.micro_batch = 5;
	config.global_batch = 10;
	config.train_iters = 2;
	config.eval_interval = 0;
	config.save = NULL;
	config.open_device = open_ticking;
	double rows = (double)(config.global_batch * T), layers = config.model.layers;
	for (config.layer_batch = 0; config.layer_batch <= 6; config.layer_batch++) {
		struct story story = {0};
		config.checkpoint_activations = config.layer_batch > 0;
		go(&story, &config);
		assert_int_equal(story.step_count, 2);
		for (int i = 0; i < 2; i++) {
			double all = story.steps[i].seconds_model, some = story.steps[i].seconds_forward;
			if (fabs(some - rows * (4 * layers + 7)) > 1e-6 * rows)
				fail_msg("pieces of %d: forward took %g a row, not %g",
					(int)config.layer_batch, some / rows, 4 * layers + 7);
			assert_true(all >= rows * (4 * layers + 7 + 12 * layers) - 1e-6);
		}
		trainer_close(story.trainer);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(forward_is_forward_in_pieces_too, setup),
	};
	return cmocka_run_group_tests(tests, open_all, close_all);
}
