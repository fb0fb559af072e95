#include "engine/optimizer.h"

#include "tests/unit/engine/model_rig.h"

#include <math.h>

static const struct model_config small = {.layers = 2,
	.hidden = 20,
	.heads = 2,
	.positions = 7,
	.vocabulary = 11,
	.vocabulary_padded = 16,
	.layernorm_epsilon = 1e-5f};

struct arrays {
	struct kernels k;
	struct parameter_table table;
	float *weights, *gradients;
	uint16_t *work;
};

static float unit(uint64_t i, uint64_t salt)
{
	uint64_t x = (i + 1) * 0x9E3779B97F4A7C15u ^ salt * 0xD1B54A32D192ED03u;
	x ^= x >> 29;
	x *= 0xBF58476D1CE4E5B9u;
	return (float)(x >> 40) / 8388608.0f - 1;
}

static void open_arrays(struct arrays *a, enum dtype act, int threads)
{
	struct kernels_config config = {.act = act, .grad = DTYPE_F32, .threads = threads};
	assert_ok(kernels_open_cpu(&config, &a->k));
	assert_ok(parameter_table_open(&small, &a->table));
	a->weights = rig_alloc(&a->k, a->table.elements * 4);
	a->gradients = rig_alloc(&a->k, a->table.elements * 4);
	a->work = rig_alloc(&a->k, a->table.elements * 2);
	parameters_initialize(&small, &a->table, 3, a->weights);
}

static void close_arrays(struct arrays *a)
{
	a->k.memory_free(&a->k, a->weights, a->table.elements * 4);
	a->k.memory_free(&a->k, a->gradients, a->table.elements * 4);
	a->k.memory_free(&a->k, a->work, a->table.elements * 2);
	parameter_table_close(&a->table);
	a->k.close(&a->k);
}

/* Gradients as the model gives them: nothing in gaps and padded rows. */
static void fill_gradients(struct arrays *a, uint64_t step, float size)
{
	for (int i = 0; i < a->table.count; i++) {
		const struct parameter *p = &a->table.items[i];
		uint64_t real = (uint64_t)p->file_rows * (uint64_t)p->columns;
		for (uint64_t e = 0; e < real; e++)
			a->gradients[p->offset + e] = size * unit(p->offset + e, step);
	}
}

/* Loshchilov & Hutter's algorithm 2 in double, one parameter at a time, decay by name. */
struct naive {
	double *p, *m, *v;
	double beta1, beta2, epsilon, decay;
};

static bool decays(const char *name)
{
	return strstr(name, ".weight") && !strstr(name, "ln_");
}

static void naive_update(struct naive *n, const struct arrays *a, double rate, int t, double multiplier)
{
	for (int i = 0; i < a->table.count; i++) {
		const struct parameter *p = &a->table.items[i];
		for (uint64_t e = p->offset; e < p->offset + p->elements; e++) {
			double g = (double)a->gradients[e] * multiplier;
			if (decays(p->name))
				n->p[e] -= rate * n->decay * n->p[e];
			n->m[e] = n->beta1 * n->m[e] + (1 - n->beta1) * g;
			n->v[e] = n->beta2 * n->v[e] + (1 - n->beta2) * g * g;
			double first = n->m[e] / (1 - pow(n->beta1, t));
			double second = n->v[e] / (1 - pow(n->beta2, t));
			n->p[e] -= rate * first / (sqrt(second) + n->epsilon);
		}
	}
}

static void follows_the_paper(void **state)
{
	(void)state;
	struct arrays a;
	struct optimizer *optimizer;
	struct optimizer_config config = {0.9, 0.999, 1e-8, 0.1, 1.0};
	open_arrays(&a, DTYPE_F32, 2);
	assert_ok(optimizer_open(&config, &a.table, &a.k, &optimizer));
	struct naive n = {calloc(a.table.elements, 8), calloc(a.table.elements, 8),
		calloc(a.table.elements, 8), config.beta1, config.beta2, config.epsilon, config.weight_decay};
	for (uint64_t i = 0; i < a.table.elements; i++)
		n.p[i] = (double)a.weights[i];
	int clipped = 0;
	for (int t = 1; t <= 20; t++) {
		struct optimizer_measure measure;
		double scale = 1024, sum = 0;
		/* small gradients on even steps, so that some steps clip and some do not */
		fill_gradients(&a, (uint64_t)t, t % 2 ? 100.0f : 2.0f);
		for (uint64_t i = 0; i < a.table.elements; i++)
			sum += (double)a.gradients[i] * (double)a.gradients[i];
		assert_ok(optimizer_measure(optimizer, a.gradients, scale, &measure));
		assert_false(measure.overflow);
		assert_true(fabs(measure.norm - sqrt(sum) / scale) < 1e-6 * measure.norm);
		double clip = optimizer_clip(optimizer, measure.norm);
		double wanted = 1.0 / (sqrt(sum) / scale + 1e-6); /* torch's clip_grad_norm_ */
		wanted = wanted < 1 ? wanted : 1;
		assert_true(fabs(clip - wanted) < 1e-6);
		clipped += clip < 1;
		optimizer_update(optimizer, a.weights, NULL, a.gradients, 1e-2, (uint64_t)t, clip / scale);
		naive_update(&n, &a, 1e-2, t, wanted / scale);
	}
	assert_int_equal(clipped, 10);
	double largest = 0;
	for (uint64_t i = 0; i < a.table.elements; i++)
		largest = worse(largest, fabs((double)a.weights[i] - n.p[i]));
	if (!(largest <= 2e-6))
		fail_msg("weights are %g away from the paper's", largest);
	/* padded rows and gaps have stayed 0 */
	const struct parameter *wte = parameter_find(&a.table, "wte.weight");
	for (uint64_t e = 11 * 20; e < 16 * 20; e++)
		assert_true(a.weights[wte->offset + e] == 0 &&
			    optimizer_exp_avg(optimizer)[wte->offset + e] == 0);
	for (int i = 0; i + 1 < a.table.count; i++)
		for (uint64_t e = a.table.items[i].offset + a.table.items[i].elements;
			e < a.table.items[i + 1].offset; e++)
			assert_true(a.weights[e] == 0 && optimizer_exp_avg_sq(optimizer)[e] == 0);
	free(n.p);
	free(n.m);
	free(n.v);
	optimizer_close(optimizer);
	close_arrays(&a);
}

static void overflow_is_seen_anywhere(void **state)
{
	(void)state;
	struct arrays a;
	struct optimizer *optimizer;
	struct optimizer_config config = {0.9, 0.999, 1e-8, 0.1, 0};
	struct optimizer_measure measure;
	open_arrays(&a, DTYPE_F32, 2);
	assert_ok(optimizer_open(&config, &a.table, &a.k, &optimizer));
	fill_gradients(&a, 1, 1);
	for (int i = 0; i < a.table.count; i++) {
		float *g = &a.gradients[a.table.items[i].offset], kept = *g;
		*g = i % 2 ? NAN : -INFINITY;
		assert_ok(optimizer_measure(optimizer, a.gradients, 1, &measure));
		assert_true(measure.overflow);
		*g = kept;
	}
	assert_ok(optimizer_measure(optimizer, a.gradients, 1, &measure));
	assert_false(measure.overflow);
	assert_true(optimizer_clip(optimizer, 1e9) == 1); /* 0 is no clipping */
	optimizer_close(optimizer);
	close_arrays(&a);
}

/* bf16 working weights are the master's, rounded; the norm does not depend on threads. */
static void working_weights_and_threads(void **state)
{
	(void)state;
	double norms[3];
	for (int threads = 1; threads <= 3; threads++) {
		struct arrays a;
		struct optimizer *optimizer;
		struct optimizer_config config = {0.9, 0.95, 1e-8, 0.1, 1};
		struct optimizer_measure measure;
		open_arrays(&a, DTYPE_BF16, threads);
		assert_ok(optimizer_open(&config, &a.table, &a.k, &optimizer));
		fill_gradients(&a, 5, 1);
		assert_ok(optimizer_measure(optimizer, a.gradients, 1, &measure));
		norms[threads - 1] = measure.norm;
		optimizer_update(optimizer, a.weights, a.work, a.gradients, 1e-3, 1, 1);
		for (uint64_t i = 0; i < a.table.elements; i++) {
			uint32_t bits;
			memcpy(&bits, &a.weights[i], 4);
			bits += 0x7fff + (bits >> 16 & 1); /* to nearest, ties to even */
			assert_int_equal(a.work[i], bits >> 16);
		}
		optimizer_close(optimizer);
		close_arrays(&a);
	}
	assert_true(norms[0] == norms[1] && norms[1] == norms[2]);
}

static void impossible_values_are_refused(void **state)
{
	(void)state;
	static const struct optimizer_config wrong[] = {{1, .999, 1e-8, 0, 1}, {.9, 1, 1e-8, 0, 1},
		{-.1, .9, 1e-8, 0, 1}, {.9, .999, 0, 0, 1}, {.9, .999, 1e-8, -1, 1}, {.9, .999, 1e-8, 0, -1},
		{.9, .999, NAN, 0, 1}, {.9, .999, 1e-8, NAN, 1}};
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
		assert_int_equal(optimizer_config_check(&wrong[i]), STATUS_USAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(follows_the_paper),
		cmocka_unit_test(overflow_is_seen_anywhere), cmocka_unit_test(working_weights_and_threads),
		cmocka_unit_test(impossible_values_are_refused)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
