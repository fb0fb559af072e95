/* Evaluation against its definition: each target's loss from the logits of its own context. */
#include "tests/unit/data/corpus_fixture.h"

#include "engine/evaluate.h"
#include "tests/unit/engine/model_rig.h"
#include "tests/unit/engine/thread_ranks.h"

#include <math.h>

enum { T = 12, BATCH = 3, VOCABULARY = 50257 };

static struct fixture corpus_files;
static struct corpus *corpus;
static struct rig rig;
static uint16_t token_bytes[VOCABULARY];

static void open_model(struct rig *out)
{
	struct model_config c = {.layers = 1,
		.hidden = 8,
		.heads = 2,
		.positions = T,
		.vocabulary = VOCABULARY,
		.vocabulary_padded = 50304,
		.hidden_dropout = 0.5f, /* must not matter */
		.layernorm_epsilon = 1e-5f};
	struct model_options o = {.batch = BATCH, .sequence = T};
	rig_open(out, &c, &o, DTYPE_F32);
	for (uint64_t i = 0; i < out->table->items[PARAMETER_WTE].elements; i++)
		out->master[i] *= 40;
	rig_publish(out);
}

static int open_all(void **state)
{
	(void)state;
	fixture_create(&corpus_files, 3, 30, 12, 2, false);
	assert_ok(corpus_open(corpus_files.directory, &corpus));
	open_model(&rig);
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

/* ---- of ranks ---- */

enum { RANKS = 3 };

struct team {
	struct evaluate_config config;
	struct rig rigs[RANKS];
	struct corpus *corpora[RANKS];
	struct evaluate_result results[RANKS];
	bool agreed[RANKS];
};

static enum status evaluate_as_rank(void *user, struct collective *c)
{
	struct team *t = user;
	struct evaluate_config config = t->config;
	config.ranks = c;
	config.corpus = t->corpora[c->rank];
	enum status status = evaluate_run(t->rigs[c->rank].model, &t->rigs[c->rank].k,
		t->rigs[c->rank].weights, &config, &t->results[c->rank]);
	t->agreed[c->rank] = c->agreed;
	return status;
}

static void team_open(struct team *t, const char *directory)
{
	for (int r = 0; r < RANKS; r++) {
		open_model(&t->rigs[r]);
		assert_ok(corpus_open(directory, &t->corpora[r]));
	}
}

static void team_close(struct team *t)
{
	for (int r = 0; r < RANKS; r++) {
		rig_close(&t->rigs[r]);
		corpus_close(t->corpora[r]);
	}
}

/* More ranks than batches, as many, a last round that is not full: the same bits as alone, on each. */
static void several_ranks(void **state)
{
	(void)state;
	static const struct {
		uint64_t tokens;
		int batch, stride;
	} cases[] = {{T, BATCH, 0}, {T * BATCH * 2 + 1, BATCH, 0}, {T * 8 + 6, 2, 0}, {70, BATCH, 5}};
	static struct team t;
	team_open(&t, corpus_files.directory);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct evaluate_result alone;
		t.config = (struct evaluate_config){.corpus = corpus,
			.first_token = 4,
			.tokens = cases[i].tokens,
			.batch = cases[i].batch,
			.window = T,
			.stride = cases[i].stride,
			.token_bytes = token_bytes};
		assert_ok(evaluate_run(rig.model, &rig.k, rig.weights, &t.config, &alone));
		for (int ranks = 2; ranks <= RANKS; ranks++) {
			memset(t.results, 0, sizeof t.results);
			assert_ok(crowd_run(ranks, evaluate_as_rank, &t));
			for (int r = 0; r < ranks; r++) {
				assert_memory_equal(&t.results[r].loss, &alone.loss, sizeof alone.loss);
				assert_int_equal(t.results[r].targets, cases[i].tokens - 1);
				assert_int_equal(t.results[r].bytes, alone.bytes);
			}
		}
	}
	team_close(&t);
}

/* What one of them finds ends all, and all know it. */
static void a_rank_that_fails(void **state)
{
	(void)state;
	static struct team t;
	struct fixture wide; /* ids that the model does not have */
	fixture_create(&wide, 4, 10, 12, 1, true);
	team_open(&t, corpus_files.directory);
	corpus_close(t.corpora[1]);
	assert_ok(corpus_open(wide.directory, &t.corpora[1]));
	t.config = (struct evaluate_config){
		.tokens = wide.tokens, .batch = 1, .window = T, .token_bytes = token_bytes};
	assert_int_equal(crowd_run(RANKS, evaluate_as_rank, &t), STATUS_MISMATCH);
	assert_non_null(strstr(error_message(), "rank 1: token "));
	for (int r = 0; r < RANKS; r++)
		assert_true(t.agreed[r]);
	team_close(&t);
	fixture_remove(&wide);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(windows_side_by_side),
		cmocka_unit_test(windows_that_overlap),
		cmocka_unit_test(wrong_input),
		cmocka_unit_test(several_ranks),
		cmocka_unit_test(a_rank_that_fails),
	};
	return cmocka_run_group_tests(tests, open_all, close_all);
}
