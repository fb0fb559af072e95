/*
 * Losses and gradients against a naive double-precision forward (oracle.h) and its numerical derivative, with
 * dropout, positions, document boundaries and uncounted targets; and what must not change the result:
 * checkpointing, accumulation, the size of a micro-batch.
 */
#include "common/memory.h"
#include "tests/unit/engine/model_rig.h"
#include "tests/unit/engine/oracle.h"

enum { B = 4, T = 13, VOCABULARY = 37 };

static struct model_config small_config(float dropout)
{
	struct model_config c = {.layers = 3,
		.hidden = 24,
		.heads = 3,
		.positions = 16,
		.vocabulary = VOCABULARY,
		.vocabulary_padded = 48,
		.embedding_dropout = dropout,
		.attention_dropout = dropout,
		.hidden_dropout = dropout,
		.layernorm_epsilon = 1e-5f};
	return c;
}

static struct model_options small_options(void)
{
	struct model_options o = {.batch = B, .sequence = T, .training = true, .seed = 0x123456789abcull};
	return o;
}

/* Weights large enough for every term to matter; LayerNorm's and biases are no longer 1 and 0. */
static void open_small(
	struct rig *f, const struct model_config *c, const struct model_options *o, enum dtype act)
{
	rig_open(f, c, o, act);
	for (int i = 0; i < f->table->count; i++) {
		const struct parameter *p = &f->table->items[i];
		for (uint64_t e = 0; e < p->elements && (int)(e / (uint64_t)p->columns) < p->file_rows; e++) {
			float *x = &f->master[p->offset + e];
			if (p->dimensions == 2)
				*x *= 8;
			else
				*x += 0.02f *
				      (float)((int)((e * 2654435761u + (uint64_t)i * 40503u) % 17) - 8);
		}
	}
	rig_publish(f);
}

/* Documents end inside the sequences: positions restart, rows see their own document, some targets are not
 * counted. */
struct small_batch {
	int32_t inputs[B * T], targets[B * T], positions[B * T], first[B * T];
	struct model_batch batch;
	int counted;
};

static void make_batch(struct small_batch *s, bool documents)
{
	s->counted = 0;
	for (int r = 0; r < B * T; r++) {
		int t = r % T, b = r / T, cut = 3 + 2 * b;
		s->inputs[r] = (r * r + 5 * r + b) % VOCABULARY;
		s->targets[r] = (r * 7 + 3) % VOCABULARY;
		if (r % 5 == 2)
			s->targets[r] = -1;
		s->counted += s->targets[r] >= 0;
		s->positions[r] = t < cut ? t : t - cut;
		s->first[r] = t < cut ? 0 : cut;
	}
	s->batch = (struct model_batch){.inputs = s->inputs,
		.targets = s->targets,
		.positions = documents ? s->positions : NULL,
		.first = documents ? s->first : NULL,
		.batch = B,
		.sequence = T,
		.window = (1ull << 32) - 2}; /* the third sequence's number needs 33 bits */
}

/* Part of a batch: sequences from, from + 1, ... */
static struct model_batch part_of(const struct model_batch *whole, int from, int count)
{
	struct model_batch part = *whole;
	part.inputs += from * T;
	part.targets += from * T;
	part.positions = whole->positions ? whole->positions + from * T : NULL;
	part.first = whole->first ? whole->first + from * T : NULL;
	part.batch = count;
	part.window += (uint64_t)from;
	return part;
}

static double *doubles_of(const struct rig *f)
{
	double *p = calloc(f->table->elements, sizeof *p);
	for (uint64_t i = 0; i < f->table->elements; i++)
		p[i] = (double)f->master[i];
	return p;
}

/* (loss(p + e d) - loss(p - e d)) / 2e for one parameter's direction d [elements]. */
static double directional_derivative(struct oracle *o, double *p, const struct parameter *q, const double *d,
	const struct model_batch *batch)
{
	const double step = 1e-5;
	double losses[B * T], sums[2];
	for (int side = 0; side < 2; side++) {
		double move = side ? -step : step;
		for (uint64_t e = 0; e < q->elements; e++)
			p[q->offset + e] += move * d[e];
		sums[side] = oracle_losses(o, batch, losses);
		for (uint64_t e = 0; e < q->elements; e++)
			p[q->offset + e] -= move * d[e];
	}
	return (sums[0] - sums[1]) / (2 * step);
}

/* Losses equal the oracle's; gradients equal its derivative along a random direction and along themselves. */
static void check_against_oracle(float dropout, bool documents, bool checkpoint, int layer_batch)
{
	struct model_config c = small_config(dropout);
	struct model_options options = small_options();
	options.checkpoint_activations = checkpoint;
	options.layer_batch = layer_batch;
	struct rig f;
	open_small(&f, &c, &options, DTYPE_F32);
	struct small_batch s;
	make_batch(&s, documents);
	double *p = doubles_of(&f), *d = calloc(f.table->elements, sizeof *d), losses[B * T];
	struct oracle o = {
		.config = &c, .table = f.table, .p = p, .seed = options.seed, .dropout = dropout > 0};

	rig_train(&f, &s.batch, 1, false);
	oracle_losses(&o, &s.batch, losses);
	for (int r = 0; r < B * T; r++)
		assert_float_equal(f.losses[r], (float)losses[r], 2e-5f);

	for (int i = 0; i < f.table->count; i++) {
		const struct parameter *q = &f.table->items[i];
		const float *g = f.gradients + q->offset;
		double norm = 0;
		for (uint64_t e = 0; e < q->elements; e++)
			norm += (double)g[e] * (double)g[e];
		norm = sqrt(norm);
		assert_true(norm > 1e-3);
		uint64_t real = (uint64_t)q->file_rows * (uint64_t)q->columns;
		for (int direction = 0; direction < 2; direction++) {
			double dot = 0, length = 0;
			for (uint64_t e = 0; e < q->elements; e++) {
				uint32_t word = philox_4x32_10((uint32_t)e, (uint32_t)i, 0, 0, 9, 9).word[0];
				d[e] = direction ? (double)g[e] : (double)word * 0x1p-31 - 1;
				if (e >= real)
					d[e] = 0;
				length += d[e] * d[e];
			}
			length = sqrt(length);
			for (uint64_t e = 0; e < q->elements; e++) {
				d[e] /= length;
				dot += d[e] * (double)g[e];
			}
			double numeric = directional_derivative(&o, p, q, d, &s.batch);
			if (!(fabs(numeric - dot) < 1e-5 * norm + 1e-6))
				fail_msg("%s, direction %d: gradient %g, oracle %g, norm %g", q->name,
					direction, dot, numeric, norm);
		}
		for (uint64_t e = real; e < q->elements; e++)
			assert_true(g[e] == 0);
	}
	free(p);
	free(d);
	rig_close(&f);
}

static void plain(void **state)
{
	(void)state;
	check_against_oracle(0, false, false, 0);
}

static void documents(void **state)
{
	(void)state;
	check_against_oracle(0, true, false, 0);
}

static void dropout(void **state)
{
	(void)state;
	check_against_oracle(0.2f, false, false, 0);
}

static void dropout_documents_checkpointing(void **state)
{
	(void)state;
	check_against_oracle(0.2f, true, true, 0);
}

static void dropout_documents_in_pieces(void **state)
{
	(void)state;
	check_against_oracle(0.2f, true, true, 3); /* of three sequences, and of one */
}

/* The sites are independent: each alone, so that a mix-up of rates shows. */
static void each_dropout_alone(void **state)
{
	(void)state;
	for (int site = 0; site < 3; site++) {
		struct model_config c = small_config(0);
		*(site == 0         ? &c.embedding_dropout
			: site == 1 ? &c.attention_dropout
				    : &c.hidden_dropout) = 0.4f;
		struct model_options options = small_options();
		struct rig f;
		open_small(&f, &c, &options, DTYPE_F32);
		struct small_batch s;
		make_batch(&s, false);
		double *p = doubles_of(&f), losses[B * T];
		struct oracle o = {
			.config = &c, .table = f.table, .p = p, .seed = options.seed, .dropout = true};
		rig_train(&f, &s.batch, 1, false);
		oracle_losses(&o, &s.batch, losses);
		for (int r = 0; r < B * T; r++)
			assert_float_equal(f.losses[r], (float)losses[r], 2e-5f);
		free(p);
		rig_close(&f);
	}
}

/* Without dropout, from a model opened for training and from one that is not. */
static void evaluate_has_no_dropout(void **state)
{
	(void)state;
	struct small_batch s;
	make_batch(&s, true);
	for (int mode = 0; mode < 4; mode++) {
		struct model_config c = small_config(0.3f);
		struct model_options options = small_options();
		options.training = mode > 0;
		options.checkpoint_activations = mode > 1;
		options.layer_batch = mode > 2 ? 3 : 0;
		struct rig f;
		open_small(&f, &c, &options, DTYPE_F32);
		double *p = doubles_of(&f), losses[B * T];
		struct oracle o = {.config = &c, .table = f.table, .p = p};
		assert_ok(model_evaluate(f.model, f.weights, &s.batch, f.losses));
		assert_ok(f.k.stream_wait(&f.k, NULL));
		oracle_losses(&o, &s.batch, losses);
		for (int r = 0; r < B * T; r++)
			assert_float_equal(f.losses[r], (float)losses[r], 2e-5f);
		free(p);
		rig_close(&f);
	}
}

/* Recomputing gives the same bits as keeping: LayerNorm's and GELU's outputs, or all but the layers' inputs. */
static void checkpointing_is_exact(enum dtype act)
{
	struct model_config c = small_config(0.1f);
	struct small_batch s;
	make_batch(&s, true);
	struct rig f[3];
	for (int i = 0; i < 3; i++) {
		struct model_options options = small_options();
		options.checkpoint_activations = i == 1;
		options.keep_outputs = i == 2;
		open_small(&f[i], &c, &options, act);
		rig_train(&f[i], &s.batch, 0.5f, false);
	}
	for (int i = 1; i < 3; i++) {
		assert_memory_equal(f[0].losses, f[i].losses, B * T * sizeof(float));
		assert_memory_equal(f[0].gradients, f[i].gradients, f[0].table->elements * sizeof(float));
	}
	for (int i = 0; i < 3; i++)
		rig_close(&f[i]);
}

static void checkpointing_fp32(void **state)
{
	(void)state;
	checkpointing_is_exact(DTYPE_F32);
}

static void checkpointing_bf16(void **state)
{
	(void)state;
	checkpointing_is_exact(DTYPE_BF16);
}

/* One micro-batch of four sequences, or one and three, or four of one: the same dropout, losses and
 * gradients. */
static void micro_batches(void **state)
{
	(void)state;
	static const int cuts[][5] = {{4}, {1, 3}, {2, 2}, {1, 1, 1, 1}};
	struct model_config c = small_config(0.1f);
	struct model_options options = small_options();
	struct small_batch s;
	make_batch(&s, true);
	struct rig f;
	open_small(&f, &c, &options, DTYPE_F32);
	float losses[B * T], *gradients = calloc(f.table->elements, sizeof *gradients);
	for (size_t cut = 0; cut < sizeof cuts / sizeof *cuts; cut++) {
		for (int from = 0, i = 0; from < B; from += cuts[cut][i++]) {
			struct model_batch part = part_of(&s.batch, from, cuts[cut][i]);
			rig_train(&f, &part, 1.0f / (float)s.counted, from > 0);
			for (int r = 0; r < part.batch * T; r++)
				if (cut == 0)
					losses[r] = f.losses[r];
				else
					assert_float_equal(f.losses[r], losses[from * T + r], 1e-5f);
		}
		if (cut == 0)
			memcpy(gradients, f.gradients, f.table->elements * sizeof *gradients);
		else
			for (int i = 0; i < f.table->count; i++)
				assert_true(relative_distance(f.gradients + f.table->items[i].offset,
						    gradients + f.table->items[i].offset,
						    f.table->items[i].elements) < 1e-5);
	}
	free(gradients);
	rig_close(&f);
}

/* Pieces of a layer add up what micro-batches of their size do, in the same order: the same bits, but for the
 * embeddings, to which the classifier's part of all pieces comes first. */
static void pieces_add_up_as_micro_batches_do(enum dtype act)
{
	struct model_config c = small_config(0.1f);
	struct small_batch s;
	make_batch(&s, true);
	for (int size = 1; size < B; size++) {
		struct model_options options = small_options();
		struct rig pieces, parts;
		float losses[B * T];
		open_small(&parts, &c, &options, act);
		for (int from = 0; from < B; from += size) {
			struct model_batch part = part_of(&s.batch, from, B - from < size ? B - from : size);
			rig_train(&parts, &part, 0.5f, from > 0);
			memcpy(losses + from * T, parts.losses, (size_t)(part.batch * T) * sizeof *losses);
		}
		options.checkpoint_activations = true;
		options.layer_batch = size;
		open_small(&pieces, &c, &options, act);
		rig_train(&pieces, &s.batch, 0.5f, false);
		assert_memory_equal(pieces.losses, losses, sizeof losses);
		for (int i = 0; i < parts.table->count; i++) {
			const struct parameter *p = &parts.table->items[i];
			const float *a = pieces.gradients + p->offset, *b = parts.gradients + p->offset;
			if (p->layer >= 0)
				assert_memory_equal(a, b, p->elements * sizeof *a);
			else
				assert_true(relative_distance(a, b, p->elements) < 1e-6);
		}
		rig_close(&pieces);
		rig_close(&parts);
	}
}

static void pieces_fp32(void **state)
{
	(void)state;
	pieces_add_up_as_micro_batches_do(DTYPE_F32);
}

static void pieces_bf16(void **state)
{
	(void)state;
	pieces_add_up_as_micro_batches_do(DTYPE_BF16);
}

/* Overwriting leaves nothing of what was there; the same input gives the same bits. */
static void overwrites_and_repeats(void **state)
{
	(void)state;
	struct model_config c = small_config(0.1f);
	struct model_options options = small_options();
	struct small_batch s;
	make_batch(&s, false);
	struct rig f;
	open_small(&f, &c, &options, DTYPE_F32);
	rig_train(&f, &s.batch, 1, false);
	size_t bytes = f.table->elements * sizeof(float);
	float *before = malloc(bytes);
	memcpy(before, f.gradients, bytes);
	for (int i = 0; i < f.table->count; i++)
		for (uint64_t e = 0; e < f.table->items[i].elements; e++)
			f.gradients[f.table->items[i].offset + e] = 1e30f;
	assert_ok(model_evaluate(f.model, f.weights, &s.batch, f.losses)); /* validation in between */
	rig_train(&f, &s.batch, 1, false);
	assert_memory_equal(before, f.gradients, bytes);
	free(before);
	rig_close(&f);
}

/* ---- done ---- */

struct witness {
	struct rig *f;
	int told[8], count;
	float *seen; /* each layer's gradients as they were when it was told */
};

static enum status witness_done(void *user, int layer)
{
	struct witness *w = user;
	w->told[w->count++] = layer;
	for (int i = 0; i < w->f->table->count; i++) {
		const struct parameter *p = &w->f->table->items[i];
		if (p->layer == layer)
			memcpy(w->seen + p->offset, w->f->gradients + p->offset, p->elements * sizeof(float));
	}
	return STATUS_OK;
}

static enum status refuse(void *user, int layer)
{
	(void)user;
	return layer == 1 ? error_set(STATUS_IO, "no more") : STATUS_OK;
}

static void check_layers_told(int layer_batch)
{
	struct model_config c = small_config(0.1f);
	struct model_options options = small_options();
	options.checkpoint_activations = layer_batch;
	options.layer_batch = layer_batch;
	struct small_batch s;
	make_batch(&s, false);
	struct rig f;
	open_small(&f, &c, &options, DTYPE_F32);
	struct witness w = {.f = &f, .seen = calloc(f.table->elements, sizeof(float))};
	assert_ok(
		model_train(f.model, f.weights, f.gradients, &s.batch, 1, false, f.losses, witness_done, &w));
	assert_int_equal(w.count, 5);
	for (int i = 0; i < 5; i++)
		assert_int_equal(w.told[i], 3 - i);
	assert_memory_equal(w.seen, f.gradients, f.table->elements * sizeof(float));
	free(w.seen);
	assert_int_equal(
		model_train(f.model, f.weights, f.gradients, &s.batch, 1, false, f.losses, refuse, NULL),
		STATUS_IO);
	rig_close(&f);
}

static void layers_are_told_when_final(void **state)
{
	(void)state;
	check_layers_told(0);
	check_layers_told(3);
}

/* ---- opening ---- */

static void memory_and_limits(void **state)
{
	(void)state;
	struct model_config c = {.positions = 1024,
		.vocabulary = 50257,
		.vocabulary_padded = 50304,
		.layernorm_epsilon = 1e-5f};
	assert_true(model_config_named("reference", &c));
	struct model_options o = {.batch = 1, .sequence = 1024, .training = true};
	const uint64_t plane = 1024 * 1024 * 4;
	uint64_t kept = model_activation_bytes(&c, &o, DTYPE_F32);
	/* 10 planes a layer, 6 beside, and 2 MB of statistics. */
	assert_in_range(kept, 46 * plane, 46 * plane + (2 << 20));
	o.keep_outputs = true;
	assert_int_equal(model_activation_bytes(&c, &o, DTYPE_F32), kept + 4 * 6 * plane);
	o.keep_outputs = false;
	o.checkpoint_activations = true;
	assert_in_range(model_activation_bytes(&c, &o, DTYPE_F32), 19 * plane, 19 * plane + (1 << 20));
	/* Of three sequences, one at a time: four inputs and a gradient (two with dropout) of all, 14 of one. */
	o.batch = 3;
	o.layer_batch = 1;
	assert_in_range(model_activation_bytes(&c, &o, DTYPE_F32), 29 * plane, 29 * plane + (1 << 20));
	o.batch = 1;
	o.layer_batch = 0;
	o.training = o.checkpoint_activations = false;
	assert_in_range(model_activation_bytes(&c, &o, DTYPE_BF16), 7 * plane, 7 * plane + (1 << 20));

	struct kernels_config kc = {.act = DTYPE_F32, .grad = DTYPE_F32, .threads = 1};
	struct kernels k;
	assert_ok(kernels_open_cpu(&kc, &k));
	struct model *m;
	o.sequence = 1025;
	assert_int_equal(model_open(&c, &o, &k, &m), STATUS_USAGE);
	assert_null(m);
	assert_non_null(strstr(error_message(), "1025 tokens in a model of 1024 positions"));
	o = (struct model_options){.batch = 3, .sequence = 8, .training = true, .layer_batch = 2};
	assert_int_equal(model_open(&c, &o, &k, &m), STATUS_USAGE);
	assert_non_null(strstr(error_message(), "--layer-batch-size"));
	o.layer_batch = 0;
	o.keep_outputs = o.checkpoint_activations = true;
	assert_int_equal(model_open(&c, &o, &k, &m), STATUS_USAGE);
	k.close(&k);
}

/* Whichever allocation fails, opening says so and leaves nothing behind (address sanitizer looks). */
static void lack_of_memory(void **state)
{
	(void)state;
	struct model_config c = small_config(0.1f);
	struct model_options options = small_options();
	struct kernels_config kc = {.act = DTYPE_F32, .grad = DTYPE_F32, .threads = 1};
	struct kernels k;
	assert_ok(kernels_open_cpu(&kc, &k));
	int failures = 0;
	for (int64_t after = 0;; after++) {
		struct model *m = NULL;
		memory_fail_after(after);
		enum status status = model_open(&c, &options, &k, &m);
		memory_fail_after(-1);
		if (status == STATUS_OK) {
			model_close(m);
			break;
		}
		assert_int_equal(status, STATUS_MEMORY);
		assert_null(m);
		failures++;
	}
	assert_true(failures >= 4); /* the model, its table, its layers, its arena */
	k.close(&k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(plain),
		cmocka_unit_test(documents),
		cmocka_unit_test(dropout),
		cmocka_unit_test(dropout_documents_checkpointing),
		cmocka_unit_test(dropout_documents_in_pieces),
		cmocka_unit_test(each_dropout_alone),
		cmocka_unit_test(evaluate_has_no_dropout),
		cmocka_unit_test(checkpointing_fp32),
		cmocka_unit_test(checkpointing_bf16),
		cmocka_unit_test(micro_batches),
		cmocka_unit_test(pieces_fp32),
		cmocka_unit_test(pieces_bf16),
		cmocka_unit_test(overwrites_and_repeats),
		cmocka_unit_test(layers_are_told_when_final),
		cmocka_unit_test(memory_and_limits),
		cmocka_unit_test(lack_of_memory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
