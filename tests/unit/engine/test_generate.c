/* The decoder against the model, and choosing against its definition. */
#include "common/memory.h"
#include "engine/generate.h"
#include "tests/unit/engine/model_rig.h"

#include <math.h>

enum { VOCABULARY = 90, POSITIONS = 80 };

static struct model_config small_config(void)
{
	struct model_config c = {.layers = 2,
		.hidden = 32,
		.heads = 4,
		.positions = POSITIONS,
		.vocabulary = VOCABULARY,
		.vocabulary_padded = 128,
		.layernorm_epsilon = 1e-5f};
	return c;
}

/* A model with weights large enough that texts vary. */
static void open_small(struct rig *r, enum dtype act)
{
	struct model_config c = small_config();
	struct model_options o = {.batch = 3, .sequence = POSITIONS};
	rig_open(r, &c, &o, act);
	for (int i = 0; i < r->table->count; i++) {
		const struct parameter *p = &r->table->items[i];
		for (uint64_t e = 0; p->dimensions == 2 && e < p->elements; e++)
			r->master[p->offset + e] *= 10;
	}
	rig_publish(r);
}

/* ---- the decoder ---- */

/* Fed in pieces of any size, it gives the logits that the model gives for the same prefix. */
static void decoder_equals_model(enum dtype act, float tolerance)
{
	struct rig r;
	open_small(&r, act);
	static const int pieces[] = {1, 5, 70, 2, 1, 1};
	int32_t tokens[3][POSITIONS], fed[POSITIONS * 3];
	for (int t = 0; t < POSITIONS; t++)
		for (int b = 0; b < 3; b++)
			fed[t * 3 + b] = tokens[b][t] = (t * t * 7 + t * 3 + b * 31) % VOCABULARY;
	float *expected = rig_alloc(&r.k, sizeof(float) * 3 * POSITIONS * VOCABULARY), got[3 * VOCABULARY];
	struct model_batch batch = {.inputs = tokens[0], .batch = 3, .sequence = POSITIONS};
	assert_ok(model_logits(r.model, r.weights, &batch, true, expected));
	assert_ok(r.k.stream_wait(&r.k, NULL));
	struct decoder *d;
	assert_ok(decoder_open(&r.config, &r.k, 3, &d));
	for (int again = 0; again < 2; again++) {
		int position = 0;
		for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
			assert_ok(decoder_feed(
				d, r.weights, fed + position * 3, pieces[i], position, i % 2 ? NULL : got));
			position += pieces[i];
			for (int n = 0; i % 2 == 0 && n < 3 * VOCABULARY; n++) {
				size_t row = (size_t)(n / VOCABULARY * POSITIONS + position - 1);
				assert_float_equal(got[n],
					expected[row * VOCABULARY + (size_t)(n % VOCABULARY)], tolerance);
			}
		}
		assert_int_equal(position, POSITIONS);
	}
	assert_int_equal(decoder_feed(d, r.weights, fed, 1, POSITIONS, got), STATUS_USAGE);
	assert_non_null(strstr(error_message(), "the model has 80 positions"));
	assert_int_equal(decoder_feed(d, r.weights, fed, 2, POSITIONS - 1, got), STATUS_USAGE);
	decoder_close(d);
	r.k.memory_free(&r.k, expected, sizeof(float) * 3 * POSITIONS * VOCABULARY);
	rig_close(&r);
}

static void decoder_fp32(void **state)
{
	(void)state;
	decoder_equals_model(DTYPE_F32, 1e-4f);
}

static void decoder_bf16(void **state)
{
	(void)state;
	decoder_equals_model(DTYPE_BF16, 0.15f);
}

/* ---- choosing ---- */

enum { IDS = 6 };
static const float six[IDS] = {0.5f, 2, -1, 2, 1, 0};

static struct generate_config plain(void)
{
	struct generate_config c = {.length = 1, .temperature = 1, .top_p = 1, .seed = 5, .eod = -1};
	return c;
}

/* Draws many and compares with the probabilities that `allowed` ids should have. */
static void expect_distribution(const struct generate_config *config, const bool allowed[IDS])
{
	enum { DRAWS = 40000 };
	struct generate_candidate scratch[IDS];
	int counts[IDS] = {0};
	double sum = 0;
	for (int i = 0; i < IDS; i++)
		sum += allowed[i] ? exp((double)six[i] / (double)config->temperature) : 0;
	for (int n = 0; n < DRAWS; n++)
		counts[generate_choose(six, IDS, config, (uint64_t)n, scratch)]++;
	for (int i = 0; i < IDS; i++) {
		double p = allowed[i] ? exp((double)six[i] / (double)config->temperature) / sum : 0;
		double error = 6 * sqrt(p * (1 - p) / DRAWS); /* the draws are fixed by the seed */
		assert_true(fabs((double)counts[i] / DRAWS - p) <= error);
	}
}

static void choices(void **state)
{
	(void)state;
	struct generate_config c = plain();
	expect_distribution(&c, (bool[]){1, 1, 1, 1, 1, 1});
	c.temperature = 0.5f;
	expect_distribution(&c, (bool[]){1, 1, 1, 1, 1, 1});
	c.temperature = 3;
	c.top_k = 4;
	expect_distribution(&c, (bool[]){1, 1, 0, 1, 1, 0});
	c.top_k = 3; /* ids 1, 3, 4 */
	expect_distribution(&c, (bool[]){0, 1, 0, 1, 1, 0});
	c.top_k = 100;
	expect_distribution(&c, (bool[]){1, 1, 1, 1, 1, 1});
	/* Of e^2, e^2, e, e^.5, 1, e^-1: the first two are 0.725 of all, three 0.858, four 0.939. */
	c = plain();
	c.top_p = 0.72f;
	expect_distribution(&c, (bool[]){0, 1, 0, 1, 0, 0});
	c.top_p = 0.73f;
	expect_distribution(&c, (bool[]){0, 1, 0, 1, 1, 0});
	c.top_p = 0.86f;
	expect_distribution(&c, (bool[]){1, 1, 0, 1, 1, 0});
	c.top_p = 1e-6f;
	expect_distribution(&c, (bool[]){0, 1, 0, 0, 0, 0});
	/* Within the top 3 the first two are 0.845. */
	c.top_k = 3;
	c.top_p = 0.84f;
	expect_distribution(&c, (bool[]){0, 1, 0, 1, 0, 0});
	c.top_p = 0.85f;
	expect_distribution(&c, (bool[]){0, 1, 0, 1, 1, 0});
}

/* Against sorting all of a large vocabulary. */
static int compare_candidates(const void *a, const void *b)
{
	const struct generate_candidate *x = a, *y = b;
	return x->logit < y->logit ? 1 : x->logit > y->logit ? -1 : x->id - y->id;
}

static void large_vocabulary(void **state)
{
	(void)state;
	enum { V = 5000 };
	float logits[V];
	struct generate_candidate sorted[V], scratch[V];
	for (int i = 0; i < V; i++) {
		logits[i] = (float)((uint32_t)i * 2654435761u >> 20) / 512.0f; /* with ties */
		sorted[i] = (struct generate_candidate){logits[i], i};
	}
	qsort(sorted, V, sizeof *sorted, compare_candidates);
	for (int k = 1; k < 1000; k += 37) {
		struct generate_config c = plain();
		c.top_k = k;
		int lowest = 0;
		for (uint64_t n = 0; n < 50; n++) {
			int32_t id = generate_choose(logits, V, &c, n, scratch);
			int rank = 0;
			while (sorted[rank].id != id)
				rank++;
			assert_true(rank < k);
			lowest = rank > lowest ? rank : lowest;
		}
		assert_true(k < 30 || lowest > k / 4);
	}
}

static void greedy_and_odd_logits(void **state)
{
	(void)state;
	struct generate_candidate scratch[IDS];
	struct generate_config c = plain();
	c.temperature = 0;
	c.top_k = 5;
	assert_int_equal(generate_choose(six, IDS, &c, 0, scratch), 1); /* equal logits: the lower id */
	float odd[IDS] = {NAN, INFINITY, -INFINITY, -3, NAN, -2};
	assert_int_equal(generate_choose(odd, IDS, &c, 0, scratch), 5);
	c.temperature = 1;
	for (uint64_t n = 0; n < 100; n++) {
		int32_t id = generate_choose(odd, IDS, &c, n, scratch);
		assert_true(id == 3 || id == 5);
	}
	float none[IDS] = {NAN, NAN, NAN, NAN, NAN, NAN};
	assert_int_equal(generate_choose(none, IDS, &c, 0, scratch), 0);
}

/* ---- text ---- */

struct text {
	int32_t ids[1000];
	int count, stop_at;
};
static enum status collect(void *user, int32_t token)
{
	struct text *text = user;
	text->ids[text->count++] = token;
	return text->count == text->stop_at ? error_set(STATUS_INTERRUPTED, "enough") : STATUS_OK;
}

static void open_generator(struct rig *r, struct decoder **d)
{
	open_small(r, DTYPE_F32);
	assert_ok(decoder_open(&r->config, &r->k, 1, d));
}

/* Greedy text equals taking the likeliest of model_logits again and again. */
static void greedy_text_equals_model(void **state)
{
	(void)state;
	struct rig r;
	struct decoder *d;
	open_generator(&r, &d);
	struct generate_config c = plain();
	c.temperature = 0;
	c.length = 40;
	int32_t all[60] = {3, 14, 15, 92 % VOCABULARY, 65};
	struct text text = {0};
	assert_ok(generate_text(d, r.weights, all, 5, &c, collect, &text));
	assert_int_equal(text.count, 40);
	float *logits = rig_alloc(&r.k, VOCABULARY * sizeof(float));
	for (int n = 0; n < 40; n++) {
		struct model_batch batch = {.inputs = all, .batch = 1, .sequence = 5 + n};
		assert_ok(model_logits(r.model, r.weights, &batch, false, logits));
		assert_ok(r.k.stream_wait(&r.k, NULL));
		int best = 0;
		for (int v = 1; v < VOCABULARY; v++)
			best = logits[v] > logits[best] ? v : best;
		assert_int_equal(text.ids[n], best);
		all[5 + n] = best;
	}
	r.k.memory_free(&r.k, logits, VOCABULARY * sizeof(float));
	decoder_close(d);
	rig_close(&r);
}

/* Beyond the context: what follows a full context equals what follows its last half, read anew. */
static void goes_on_beyond_the_context(void **state)
{
	(void)state;
	struct rig r;
	struct decoder *d;
	open_generator(&r, &d);
	struct generate_config c = plain();
	c.temperature = 0;
	c.length = 300;
	int32_t all[POSITIONS + 300];
	for (int i = 0; i < POSITIONS + 300; i++)
		all[i] = i * 7 % VOCABULARY;
	struct text text = {0};
	assert_ok(generate_text(d, r.weights, all, 10, &c, collect, &text));
	assert_int_equal(text.count, 300);
	/* After 71 tokens the context is the last 40 of the first 80, and the 71st. */
	memcpy(all + 10, text.ids, 300 * sizeof *all);
	struct text rest = {0};
	c.length = 40;
	assert_ok(generate_text(d, r.weights, all + POSITIONS / 2, POSITIONS / 2 + 1, &c, collect, &rest));
	assert_memory_equal(rest.ids, text.ids + 71, 39 * sizeof *rest.ids);

	/* Of a prompt that is too long the end counts. */
	struct text longer = {0}, cut = {0};
	assert_ok(generate_text(d, r.weights, all, POSITIONS + 50, &c, collect, &longer));
	assert_ok(generate_text(d, r.weights, all + 50, POSITIONS, &c, collect, &cut));
	assert_memory_equal(longer.ids, cut.ids, sizeof *cut.ids * 40);
	decoder_close(d);
	rig_close(&r);
}

static void seeds_samples_and_ends(void **state)
{
	(void)state;
	struct rig r;
	struct decoder *d;
	open_generator(&r, &d);
	struct generate_config c = plain();
	c.length = 50;
	c.temperature = 1.5f;
	int32_t prompt[] = {1, 2, 3};
	struct text a = {0}, b = {0}, other_sample = {0}, other_seed = {0};
	assert_ok(generate_text(d, r.weights, prompt, 3, &c, collect, &a));
	assert_ok(generate_text(d, r.weights, prompt, 3, &c, collect, &b));
	assert_memory_equal(a.ids, b.ids, sizeof *a.ids * 50);
	c.sample = 1;
	assert_ok(generate_text(d, r.weights, prompt, 3, &c, collect, &other_sample));
	assert_memory_not_equal(a.ids, other_sample.ids, sizeof *a.ids * 50);
	c.sample = 0;
	c.seed = 6;
	assert_ok(generate_text(d, r.weights, prompt, 3, &c, collect, &other_seed));
	assert_memory_not_equal(a.ids, other_seed.ids, sizeof *a.ids * 50);

	/* EOD ends the text and is not given out. */
	c.seed = 5;
	c.eod = a.ids[20];
	int first = 0;
	while (a.ids[first] != c.eod)
		first++;
	struct text ended = {0};
	assert_ok(generate_text(d, r.weights, prompt, 3, &c, collect, &ended));
	assert_int_equal(ended.count, first);
	assert_memory_equal(ended.ids, a.ids, sizeof *a.ids * (size_t)first);

	/* An empty prompt is EOD. */
	struct text empty = {0}, from_eod = {0};
	c.length = 5;
	assert_ok(generate_text(d, r.weights, NULL, 0, &c, collect, &empty));
	assert_ok(generate_text(d, r.weights, &c.eod, 1, &c, collect, &from_eod));
	assert_int_equal(empty.count, from_eod.count);
	assert_memory_equal(empty.ids, from_eod.ids, sizeof *empty.ids * 5);
	/* A Hugging Face model may name an end that its vocabulary does not have: nothing ends a text, or begins one. */
	static const int32_t outside[] = {-1, VOCABULARY, 1 << 29};
	for (int i = 0; i < 3; i++) {
		c.eod = outside[i];
		assert_int_equal(generate_text(d, r.weights, NULL, 0, &c, collect, &empty), STATUS_USAGE);
		assert_non_null(strstr(error_message(), "no end-of-document token"));
	}
	c.eod = -1;

	/* The listener may stop it. */
	struct text stopped = {.stop_at = 3};
	c.length = 50;
	assert_int_equal(generate_text(d, r.weights, prompt, 3, &c, collect, &stopped), STATUS_INTERRUPTED);
	assert_int_equal(stopped.count, 3);

	int32_t foreign[] = {1, VOCABULARY};
	assert_int_equal(generate_text(d, r.weights, foreign, 2, &c, collect, &stopped), STATUS_MISMATCH);
	c.top_p = 0;
	assert_int_equal(generate_config_check(&c), STATUS_USAGE);
	c.top_p = 1;
	c.temperature = NAN;
	assert_int_equal(generate_config_check(&c), STATUS_USAGE);
	c.temperature = 0;
	c.top_k = -1;
	assert_int_equal(generate_config_check(&c), STATUS_USAGE);
	decoder_close(d);
	rig_close(&r);
}

static void lack_of_memory(void **state)
{
	(void)state;
	struct rig r;
	open_small(&r, DTYPE_F32);
	struct generate_config c = plain();
	int32_t prompt[] = {1, 2, 3};
	struct text text = {0};
	int failures = 0;
	for (int64_t after = 0;; after++) {
		struct decoder *d = NULL;
		memory_fail_after(after);
		enum status status = decoder_open(&r.config, &r.k, 1, &d);
		if (status == STATUS_OK)
			status = generate_text(d, r.weights, prompt, 3, &c, collect, &text);
		memory_fail_after(-1);
		decoder_close(d);
		if (status == STATUS_OK)
			break;
		assert_int_equal(status, STATUS_MEMORY);
		failures++;
	}
	assert_true(failures >= 7); /* decoder, table, ids, cache; context, logits, candidates */
	rig_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(decoder_fp32),
		cmocka_unit_test(decoder_bf16),
		cmocka_unit_test(choices),
		cmocka_unit_test(large_vocabulary),
		cmocka_unit_test(greedy_and_odd_logits),
		cmocka_unit_test(greedy_text_equals_model),
		cmocka_unit_test(goes_on_beyond_the_context),
		cmocka_unit_test(seeds_samples_and_ends),
		cmocka_unit_test(lack_of_memory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
