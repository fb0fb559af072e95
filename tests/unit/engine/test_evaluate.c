/* Evaluation against its definition: each target's loss from the logits of its own context. */
#include "tests/unit/data/corpus_fixture.h"

#include "engine/evaluate.h"
#include "tests/unit/engine/model_rig.h"

#include <math.h>

enum { T = 12, BATCH = 3, VOCABULARY = 50257 };

static struct fixture corpus_files;
static struct corpus *corpus;
static struct rig rig;
static uint16_t token_bytes[VOCABULARY];

static int open_all(void **state)
{
	(void)state;
	fixture_create(&corpus_files, 3, 30, 12, 2, false);
	assert_ok(corpus_open(corpus_files.directory, &corpus));
	struct model_config c = {.layers = 1,
		.hidden = 8,
		.heads = 2,
		.positions = T,
		.vocabulary = VOCABULARY,
		.vocabulary_padded = 50304,
		.hidden_dropout = 0.5f, /* must not matter */
		.layernorm_epsilon = 1e-5f};
	struct model_options o = {.batch = BATCH, .sequence = T};
	rig_open(&rig, &c, &o, DTYPE_F32);
	for (uint64_t i = 0; i < rig.table->items[PARAMETER_WTE].elements; i++)
		rig.master[i] *= 40;
	rig_publish(&rig);
	for (int v = 0; v < VOCABULARY; v++)
		token_bytes[v] = (uint16_t)(v % 7);
	return 0;
}

static int close_all(void **state)
{
	(void)state;
	rig_close(&rig);
	corpus_close(corpus);
	fixture_remove(&corpus_files);
	return 0;
}

/* -log p(tokens[to] | tokens[from .. to - 1]) */
static double loss_of(const int32_t *tokens, uint64_t from, uint64_t to)
{
	static float logits[VOCABULARY];
	struct model_batch batch = {.inputs = tokens + from, .batch = 1, .sequence = (int)(to - from)};
	assert_ok(model_logits(rig.model, rig.weights, &batch, false, logits));
	assert_ok(rig.k.stream_wait(&rig.k, NULL));
	double sum = 0;
	for (int v = 0; v < VOCABULARY; v++)
		sum += exp((double)logits[v]);
	return log(sum) - (double)logits[tokens[to]];
}

struct watch {
	uint64_t done, calls, stop_at;
};
static enum status watch_progress(void *user, uint64_t done, uint64_t targets, double loss)
{
	struct watch *w = user;
	assert_true(done > w->done && done <= targets && loss > 0);
	w->done = done;
	return ++w->calls == w->stop_at ? error_set(STATUS_INTERRUPTED, "enough") : STATUS_OK;
}

static void check(uint64_t first, uint64_t tokens, int batch, int stride)
{
	struct watch watch = {0};
	struct evaluate_config c = {.corpus = corpus,
		.first_token = first,
		.tokens = tokens,
		.batch = batch,
		.window = T,
		.stride = stride,
		.token_bytes = token_bytes,
		.progress = watch_progress,
		.user = &watch};
	struct evaluate_result result;
	assert_ok(evaluate_run(rig.model, &rig.k, rig.weights, &c, &result));
	double sum = 0;
	uint64_t bytes = 0, S = stride ? (uint64_t)stride : T;
	const int32_t *ids = corpus_files.ids + first;
	for (uint64_t j = 1; j < tokens; j++) {
		uint64_t window = j <= T ? 0 : (j - T + S - 1) / S;
		sum += loss_of(ids, window * S, j);
		bytes += (uint64_t)ids[j] % 7;
	}
	assert_int_equal(result.targets, tokens - 1);
	assert_int_equal(result.bytes, bytes);
	double loss = sum / (double)(tokens - 1);
	/* The kernels add up 50,257 exponentials in f32. */
	assert_true(fabs(result.loss - loss) < 3e-5);
	assert_true(fabs(result.perplexity / exp(loss) - 1) < 1e-4);
	assert_true(fabs(result.bits_per_byte - sum / log(2) / (double)bytes) < 1e-4);
	assert_int_equal(watch.done, tokens - 1);
}

static void windows_side_by_side(void **state)
{
	(void)state;
	assert_true(corpus_files.tokens > 90);
	check(0, 2, BATCH, 0);
	check(5, T, BATCH, 0);
	check(5, T + 1, BATCH, 0);
	check(5, T + 2, BATCH, 0);
	check(7, 5 * T + 1, BATCH, 0); /* a full window at the end, and a short batch */
	check(7, 5 * T + 5, 2, 0);
	check(0, corpus_files.tokens, BATCH, T);
}

static void windows_that_overlap(void **state)
{
	(void)state;
	check(3, 70, BATCH, 5);
	check(3, 70, 1, 1);
	check(3, T + 1, BATCH, 4);
	check(3, T + 2, BATCH, 4);
	check(3, T + 5, BATCH, 4);
	check(3, T + 6, BATCH, 4);
	check(3, 6, BATCH, 4);
}

static void wrong_input(void **state)
{
	(void)state;
	struct watch watch = {.stop_at = 2};
	struct evaluate_config c = {.corpus = corpus,
		.tokens = 1,
		.batch = 1,
		.window = T,
		.token_bytes = token_bytes,
		.progress = watch_progress,
		.user = &watch};
	struct evaluate_result result;
	assert_int_equal(evaluate_run(rig.model, &rig.k, rig.weights, &c, &result), STATUS_USAGE);
	c.tokens = 80;
	assert_int_equal(evaluate_run(rig.model, &rig.k, rig.weights, &c, &result), STATUS_INTERRUPTED);
	assert_int_equal(watch.calls, 2);
	c.stride = T + 1;
	assert_int_equal(evaluate_run(rig.model, &rig.k, rig.weights, &c, &result), STATUS_USAGE);

	/* Ids that the model does not have. */
	struct fixture wide;
	fixture_create(&wide, 4, 10, 12, 1, true);
	c.stride = 0;
	c.tokens = wide.tokens;
	assert_ok(corpus_open(wide.directory, &c.corpus));
	assert_int_equal(evaluate_run(rig.model, &rig.k, rig.weights, &c, &result), STATUS_MISMATCH);
	assert_non_null(strstr(error_message(), "the model's vocabulary has 50257 ids"));
	corpus_close(c.corpus);
	fixture_remove(&wide);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(windows_side_by_side),
		cmocka_unit_test(windows_that_overlap),
		cmocka_unit_test(wrong_input),
	};
	return cmocka_run_group_tests(tests, open_all, close_all);
}
