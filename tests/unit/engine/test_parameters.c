#include "tests/unit/engine/model_rig.h"

#include <math.h>

static struct model_config reference_config(void)
{
	struct model_config c = {.positions = 1024,
		.vocabulary = 50257,
		.vocabulary_padded = 50304,
		.layernorm_epsilon = 1e-5f};
	assert_true(model_config_named("reference", &c));
	return c;
}

/* Counts as the reference run's log printed them. */
static void reference_counts(void **state)
{
	(void)state;
	struct model_config c = reference_config();
	assert_int_equal(model_vocabulary_pad(50257, 128), 50304);
	assert_int_equal(model_vocabulary_pad(50304, 128), 50304);
	struct parameter_table t;
	assert_ok(parameter_table_open(&c, &t));
	assert_int_equal(t.counted, 102946816);
	assert_int_equal(t.group_elements[0], 102891520);
	assert_int_equal(t.group_elements[1], 55296);
	assert_int_equal(t.count, 2 + 4 * 12 + 2);
	parameter_table_close(&t);
}

/* Hugging Face's counts of the published models, unpadded. */
static void published_counts(void **state)
{
	(void)state;
	static const struct {
		const char *name;
		uint64_t parameters;
	} models[] = {{"gpt2", 124439808}, {"gpt2-medium", 354823168}, {"gpt2-large", 774030080},
		{"gpt2-xl", 1557611200}};
	for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
		struct model_config c = {.positions = 1024,
			.vocabulary = 50257,
			.vocabulary_padded = 50257,
			.layernorm_epsilon = 1e-5f};
		assert_true(model_config_named(models[i].name, &c));
		assert_ok(model_config_check(&c));
		struct parameter_table t;
		assert_ok(parameter_table_open(&c, &t));
		assert_int_equal(t.counted, models[i].parameters);
		parameter_table_close(&t);
	}
	struct model_config c = {0};
	assert_false(model_config_named("gpt3", &c));
	/* What messages list is what is known, in its order. */
	char names[256] = "";
	for (int i = 0; model_config_name(i); i++) {
		assert_true(model_config_named(model_config_name(i), &c));
		snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", i ? ", " : "",
			model_config_name(i));
	}
	assert_string_equal(names, MODEL_NAMES);
}

static void offsets_do_not_overlap(void **state)
{
	(void)state;
	struct model_config c = {.layers = 2,
		.hidden = 20,
		.heads = 4,
		.positions = 7,
		.vocabulary = 11,
		.vocabulary_padded = 16,
		.layernorm_epsilon = 1e-5f};
	struct parameter_table t;
	assert_ok(parameter_table_open(&c, &t));
	uint64_t end = 0;
	for (int i = 0; i < t.count; i++) {
		const struct parameter *p = &t.items[i];
		assert_int_equal(p->offset % 64, 0);
		assert_true(p->offset >= end && p->offset < end + 64);
		assert_int_equal(p->elements, (uint64_t)p->rows * (uint64_t)p->columns);
		end = p->offset + p->elements;
		assert_ptr_equal(parameter_find(&t, p->name), p);
	}
	assert_true(t.elements >= end && t.elements < end + 64);
	assert_int_equal(parameter_find(&t, "wte.weight")->file_rows, 11);
	const struct parameter *p = parameter_find(&t, "transformer.h.1.mlp.c_fc.weight");
	assert_non_null(p);
	assert_int_equal(p->layer, 1);
	assert_int_equal(p->group, 0);
	assert_int_equal(p->rows, 20);
	assert_int_equal(p->columns, 80);
	assert_ptr_equal(p, &t.items[PARAMETER_LAYERS + LAYER_PARAMETERS + FC_WEIGHT]);
	assert_int_equal(parameter_find(&t, "h.0.ln_1.weight")->group, 1);
	assert_int_equal(parameter_find(&t, "ln_f.bias")->layer, 2);
	assert_int_equal(parameter_find(&t, "wpe.weight")->layer, -1);
	assert_null(parameter_find(&t, "h.2.ln_1.weight"));
	parameter_table_close(&t);
}

static void deviation_of(const float *p, uint64_t count, double expected)
{
	double sum = 0, squares = 0, fourth = 0;
	for (uint64_t i = 0; i < count; i++) {
		double x = (double)p[i] / expected;
		sum += x;
		squares += x * x;
		fourth += x * x * x * x;
	}
	double n = (double)count;
	/* Six standard errors of a normal's mean, variance (2) and fourth moment (96). */
	assert_true(fabs(sum / n) < 6 / sqrt(n));
	assert_true(fabs(squares / n - 1) < 6 * sqrt(2 / n));
	assert_true(fabs(fourth / n - 3) < 6 * sqrt(96 / n));
}

static void initial_values(void **state)
{
	(void)state;
	struct model_config c = {.layers = 2,
		.hidden = 128,
		.heads = 4,
		.positions = 50,
		.vocabulary = 300,
		.vocabulary_padded = 384,
		.layernorm_epsilon = 1e-5f};
	struct parameter_table t;
	assert_ok(parameter_table_open(&c, &t));
	float *p = malloc(t.elements * sizeof *p), *again = malloc(t.elements * sizeof *p);
	memset(p, 0xff, t.elements * sizeof *p);
	parameters_initialize(&c, &t, 1234, p);
	parameters_initialize(&c, &t, 1234, again);
	assert_memory_equal(p, again, t.elements * sizeof *p);
	const struct parameter *wte = parameter_find(&t, "wte.weight");
	deviation_of(p + wte->offset, 300 * 128, 0.02);
	for (uint64_t i = 300 * 128; i < 384 * 128; i++)
		assert_true(p[wte->offset + i] == 0);
	deviation_of(p + parameter_find(&t, "h.0.mlp.c_fc.weight")->offset, 128 * 512, 0.02);
	deviation_of(p + parameter_find(&t, "h.1.mlp.c_proj.weight")->offset, 128 * 512, 0.01);
	deviation_of(p + parameter_find(&t, "h.1.attn.c_proj.weight")->offset, 128 * 128, 0.01);
	for (int i = 0; i < 128; i++) {
		assert_true(p[parameter_find(&t, "h.1.ln_2.weight")->offset + (uint64_t)i] == 1);
		assert_true(p[parameter_find(&t, "h.1.ln_2.bias")->offset + (uint64_t)i] == 0);
		assert_true(p[parameter_find(&t, "h.1.mlp.c_fc.bias")->offset + (uint64_t)i] == 0);
	}
	/* Another layer, another parameter, another seed: other numbers. */
	assert_memory_not_equal(p + parameter_find(&t, "h.0.mlp.c_fc.weight")->offset,
		p + parameter_find(&t, "h.1.mlp.c_fc.weight")->offset, 1024);
	parameters_initialize(&c, &t, 1235, again);
	assert_memory_not_equal(p, again, 1024);
	free(p);
	free(again);
	parameter_table_close(&t);
}

static void impossible_shapes(void **state)
{
	(void)state;
	struct model_config c = reference_config();
	assert_ok(model_config_check(&c));
	c.heads = 3;
	assert_int_equal(model_config_check(&c), STATUS_USAGE);
	assert_non_null(strstr(error_message(), "3 attention heads do not divide a hidden size of 1024"));
	c = reference_config();
	c.vocabulary_padded = 50000;
	assert_int_equal(model_config_check(&c), STATUS_USAGE);
	c = reference_config();
	c.hidden_dropout = 1;
	assert_int_equal(model_config_check(&c), STATUS_USAGE);
	c = reference_config();
	c.attention_dropout = NAN;
	assert_int_equal(model_config_check(&c), STATUS_USAGE);
	c = reference_config();
	c.layers = 0;
	assert_int_equal(model_config_check(&c), STATUS_USAGE);
	c = reference_config();
	c.layers = 1000;
	c.hidden = 8192; /* 0.8 trillion */
	assert_ok(model_config_check(&c));
	c.hidden = 16384;
	assert_int_equal(model_config_check(&c), STATUS_USAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reference_counts),
		cmocka_unit_test(published_counts),
		cmocka_unit_test(offsets_do_not_overlap),
		cmocka_unit_test(initial_values),
		cmocka_unit_test(impossible_shapes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
