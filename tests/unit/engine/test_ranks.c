/* Ranks: what they tell each other, who owns what, and that together they train as one process does. */
#include "engine/shards.h"

#include "common/memory.h"
#include "tests/unit/engine/fenced_kernels.h"
#include "tests/unit/engine/team_rig.h"

#include <math.h>
#include <stdatomic.h>

/* ---- telling each other ---- */

/* Additions that round: only one order gives these bits. */
static double odd_value(int rank, int i)
{
	static const double values[CROWD] = {1e16, 1, -1e16, 3, 1e-3, 1e8, -7, 1.0 / 3};
	return values[(rank + i) % CROWD];
}

static enum status tell(void *user, struct collective *c)
{
	double sum[CROWD], largest[CROWD], naive, most;
	char text[16];
	(void)user;
	for (int i = 0; i < CROWD; i++)
		sum[i] = largest[i] = odd_value(c->rank, i);
	TRY(collective_sum(c, sum, CROWD));
	TRY(collective_maximum(c, largest, CROWD));
	for (int i = 0; i < CROWD; i++) {
		naive = most = odd_value(0, i);
		for (int r = 1; r < c->ranks; r++) {
			naive += odd_value(r, i);
			most = fmax(most, odd_value(r, i));
		}
		FAIL_IF(memcmp(&naive, &sum[i], sizeof naive) != 0, STATUS_CORRUPT, "sum %d: %g, not %g", i,
			sum[i], naive);
		FAIL_IF(memcmp(&most, &largest[i], sizeof most) != 0, STATUS_CORRUPT, "maximum %d", i);
	}
	snprintf(text, sizeof text, "from %d", c->rank);
	TRY(collective_broadcast(c, text, sizeof text));
	FAIL_IF(strcmp(text, "from 0") != 0, STATUS_CORRUPT, "broadcast: %s", text);
	struct collective_place place;
	TRY(collective_find_place(c, &place));
	FAIL_IF(place.hosts != 1 || place.local_rank != c->rank || place.local_ranks != c->ranks ||
			place.sharing != c->ranks || place.turn != c->rank,
		STATUS_CORRUPT, "place: %d hosts, rank %d of %d, %d share", place.hosts, place.local_rank,
		place.local_ranks, place.sharing);
	return STATUS_OK;
}

static void sums_are_in_the_order_of_the_ranks(void **state)
{
	(void)state;
	for (int ranks = 1; ranks <= CROWD; ranks++)
		assert_ok(crowd_run(ranks, tell, NULL));
	struct collective alone = collective_open_single();
	assert_ok(tell(NULL, &alone));
}

static enum status fail_on_two(void *user, struct collective *c)
{
	(void)user;
	enum status status = STATUS_OK;
	TRY(collective_agree(c, status));
	if (c->rank >= 2)
		status = error_set(c->rank == 2 ? STATUS_CORRUPT : STATUS_IO, "page %d is bad", c->rank);
	enum status all = collective_agree(c, status);
	if (all != STATUS_CORRUPT || strcmp(error_message(), "rank 2: page 2 is bad") != 0 || !c->agreed) {
		c->agreed = false;
		return error_set(STATUS_USAGE, "rank %d heard: %s", c->rank, error_message());
	}
	return all;
}

/* All with one message, and but for one word of it. */
static enum status fail_on_all(void *user, struct collective *c)
{
	bool alike = *(const bool *)user;
	return collective_agree(c, error_set(STATUS_USAGE, "batch %d is odd", alike ? 3 : 3 + c->rank / 3));
}

static void a_failure_is_told_to_all(void **state)
{
	(void)state;
	bool alike = true;
	assert_int_equal(crowd_run(4, fail_on_two, NULL), STATUS_CORRUPT);
	assert_string_equal(error_message(), "rank 2: page 2 is bad");
	assert_int_equal(crowd_run(4, fail_on_all, &alike), STATUS_USAGE);
	assert_string_equal(error_message(), "batch 3 is odd");
	alike = false;
	assert_int_equal(crowd_run(4, fail_on_all, &alike), STATUS_USAGE);
	assert_string_equal(error_message(), "rank 0: batch 3 is odd");
}

/* ---- who owns what ---- */

struct shard_case {
	uint64_t elements;
	enum dtype act, grad;
	struct parameter_table table;
	struct parameter items[4];
};

/* Two embeddings and, in what is left, a layer of two. */
static struct shard_case cut_case(uint64_t elements, enum dtype act, enum dtype grad)
{
	struct shard_case its = {.elements = elements, .act = act, .grad = grad};
	static const int layers[] = {-1, -1, 0, 0};
	for (int i = 0; i < 4 && 64 * (uint64_t)i < elements; i++, its.table.count++)
		its.items[i] = (struct parameter){.offset = 64 * (uint64_t)i, .layer = layers[i]};
	its.table.elements = elements;
	return its;
}

static uint64_t owned_by(const struct shard_case *its, const struct collective *c)
{
	struct optimizer_slice *slices;
	struct optimizer_part part = {0};
	if (shards_cut(&its->table, c->rank, c->ranks, &slices, &part.count) != STATUS_OK)
		return 0;
	part.slices = slices;
	uint64_t owned = optimizer_part_elements(&part);
	free(slices);
	return owned;
}

static float gradient_of(int rank, uint64_t i)
{
	uint64_t hash = (i * 8 + (uint64_t)rank + 1) * 0x9e3779b97f4a7c15u;
	static const float scales[] = {1e-9f, 1, 3e4f, 1e-3f};
	return (float)(int32_t)(hash >> 32) * scales[hash % 4];
}

static float state_of(int array, uint64_t i)
{
	return (float)(array + 1) * 1e6f + (float)(i % 100003);
}

/* Own places of `working` hold the rank's; then all hold everybody's. */
static enum status check_share(
	struct shards *s, struct kernels *k, const struct shard_case *its, void *working)
{
	float *values;
	TRY(memory_alloc((void **)&values, its->elements, 4, "a test"));
	TRY(shards_share_all(s, working));
	enum status status = STATUS_OK;
	k->convert(k, NULL, values, DTYPE_F32, working, its->act, its->elements);
	for (uint64_t i = 0; i < its->elements && status == STATUS_OK; i++) {
		float wanted = state_of(0, i);
		if (its->act == DTYPE_BF16) {
			uint16_t half;
			k->convert(k, NULL, &half, DTYPE_BF16, &wanted, DTYPE_F32, 1);
			k->convert(k, NULL, &wanted, DTYPE_F32, &half, DTYPE_BF16, 1);
		}
		if (values[i] != wanted)
			status = error_set(STATUS_CORRUPT, "weight %" PRIu64 " is %g", i, (double)values[i]);
	}
	free(values);
	return status;
}

/* A rank's gradient as it is stored, and that as f32. */
static float stored_gradient(struct kernels *k, int rank, uint64_t i, void *out)
{
	float value = gradient_of(rank, i) * (k->grad == DTYPE_F16 ? 1e-10f : 1);
	k->convert(k, NULL, out, k->grad, &value, DTYPE_F32, 1);
	k->convert(k, NULL, &value, DTYPE_F32, out, k->grad, 1);
	return value;
}

static enum status check_sum(struct kernels *k, const struct collective *c, uint64_t i, const void *got)
{
	char stored[4];
	float sum = stored_gradient(k, 0, i, stored);
	for (int r = 1; r < c->ranks; r++)
		sum += stored_gradient(k, r, i, stored);
	k->convert(k, NULL, stored, k->grad, &sum, DTYPE_F32, 1);
	FAIL_IF(memcmp(stored, got, dtype_bytes(k->grad)) != 0, STATUS_CORRUPT,
		"gradient %" PRIu64 " in %s: not %g", i, dtype_name(k->grad), (double)sum);
	return STATUS_OK;
}

static enum status check_reduce(struct shards *s, struct kernels *k, struct collective *c, char *gradients,
	const struct shard_case *its)
{
	int count;
	uint64_t own = 0, each = dtype_bytes(k->grad);
	struct optimizer_slice *slices;
	TRY(shards_cut(&its->table, c->rank, c->ranks, &slices, &count));
	for (uint64_t i = 0; i < its->elements; i++)
		stored_gradient(k, c->rank, i, gradients + i * each);
	for (int layer = -1; layer <= 0; layer++)
		TRY(shards_reduce(s, gradients, layer, NULL));
	TRY(k->stream_wait(k, NULL));
	for (int n = 0; n < count; own += slices[n++].elements) {
		FAIL_IF(slices[n].own != own || slices[n].offset % 64, STATUS_CORRUPT, "slice %d", n);
		for (uint64_t i = slices[n].offset; i < slices[n].offset + slices[n].elements; i++)
			TRY(check_sum(k, c, i, gradients + i * each));
	}
	free(slices);
	double all = (double)own;
	TRY(collective_sum(c, &all, 1));
	FAIL_IF(all != (double)its->elements, STATUS_CORRUPT, "all own %g", all);
	return STATUS_OK;
}

/* Every array written by all in pieces of odd sizes, and read by rank 0 in others. */
static enum status check_arrays(struct shards *s, struct collective *c, struct staging *staging, uint64_t n)
{
	enum { WRITE = 700001, READ = 1000003 };
	for (int array = 0; array < SHARDS_ARRAYS; array++)
		for (uint64_t at = 0; at < n; at += WRITE) {
			uint64_t some = n - at < WRITE ? n - at : WRITE;
			float *block = staging_block(staging);
			for (uint64_t i = 0; i < some; i++)
				block[i] = state_of(array, at + i);
			TRY(staging_write(staging, shards_array(s, (enum shards_array)array) + at, some * 4));
		}
	TRY(staging_zero(staging, shards_array(s, SHARDS_EXP_AVG_SQ) + n - 64, 64 * 4));
	if (c->rank > 0)
		return shards_serve(s);
	enum status status = STATUS_OK;
	for (int array = 0; array < SHARDS_ARRAYS; array++)
		for (uint64_t at = 0; at < n && status == STATUS_OK; at += READ) {
			uint64_t some = n - at < READ ? n - at : READ;
			const void *host;
			TRY(staging_read(
				staging, shards_array(s, (enum shards_array)array) + at, some * 4, &host));
			for (uint64_t i = 0; i < some && status == STATUS_OK; i++) {
				bool zeroed = array == SHARDS_EXP_AVG_SQ && at + i >= n - 64;
				if (((const float *)host)[i] != (zeroed ? 0 : state_of(array, at + i)))
					status = error_set(
						STATUS_CORRUPT, "array %d, element %" PRIu64, array, at + i);
			}
		}
	return shards_dismiss(s, status);
}

/* Each rank wishes for what it owns, and all of them together for everything once. */
static enum status check_wishes(
	struct shards *s, struct collective *c, struct staging *staging, const struct shard_case *its)
{
	double *wished = malloc(its->elements / 64 * sizeof *wished); /* of 64 elements each */
	enum status status = STATUS_OK;
	for (int array = 0; array < SHARDS_ARRAYS && status == STATUS_OK; array++) {
		const float *all = shards_array(s, (enum shards_array)array);
		uint64_t own = 0, wrong = 0;
		memset(wished, 0, its->elements / 64 * sizeof *wished);
		for (uint64_t at = 0; at < its->elements;) {
			struct staging_wish w =
				staging_next_wish(staging, all + at, (its->elements - at) * sizeof *all);
			at += w.skip / sizeof *all;
			for (uint64_t i = 0; i < w.take / sizeof *all; i += 64)
				wished[(at + i) / 64]++;
			at += w.take / sizeof *all;
			own += w.take / sizeof *all;
		}
		status = collective_sum(c, wished, (int)(its->elements / 64));
		for (uint64_t i = 0; i < its->elements / 64; i++)
			wrong += wished[i] != 1;
		if (status == STATUS_OK && (wrong || own != owned_by(its, c)))
			status = error_set(STATUS_CORRUPT,
				"array %d: %d of its pieces are not wished for once", array, (int)wrong);
	}
	free(wished);
	return status;
}

static enum status check_shards(void *user, struct collective *c)
{
	const struct shard_case *its = user;
	struct kernels k;
	struct kernels_config config = {.act = its->act, .grad = its->grad, .threads = 1};
	struct shards *s;
	struct staging *staging;
	float *kept[SHARDS_ARRAYS], *working;
	char *gradients;
	bool whole = its->act == DTYPE_F32;
	uint64_t owned = owned_by(its, c);
	TRY(kernels_open_cpu(&config, &k));
	TRY(k.memory_alloc(&k, (void **)&gradients, its->elements * 4, "a test"));
	TRY(k.memory_alloc(&k, (void **)&working, its->elements * dtype_bytes(its->act), "a test"));
	TRY(shards_open(c, &k, &its->table, false, NULL, &s));
	TRY(shards_connect(s));
	TRY(staging_open(&k, &staging));
	for (int i = 0; i < SHARDS_ARRAYS; i++) {
		TRY(k.memory_alloc(&k, (void **)&kept[i], owned * 4, "a test"));
		shards_keep(s, (enum shards_array)i, kept[i], false);
	}
	if (whole)
		shards_keep(s, SHARDS_MASTER, working, true);
	struct staging_store store = shards_store(s);
	staging_set_store(staging, &store);
	TRY(check_reduce(s, &k, c, gradients, its));
	TRY(check_wishes(s, c, staging, its));
	TRY(check_arrays(s, c, staging, its->elements));
	shards_round(s, working);
	TRY(check_share(s, &k, its, working));
	shards_close(s);
	staging_close(staging);
	for (int i = 0; i < SHARDS_ARRAYS; i++)
		k.memory_free(&k, kept[i], owned * 4);
	k.memory_free(&k, gradients, its->elements * 4);
	k.memory_free(&k, working, its->elements * dtype_bytes(its->act));
	k.close(&k);
	return STATUS_OK;
}

static void owners_have_the_ordered_sums_and_all_get_the_weights(void **state)
{
	(void)state;
	static const uint64_t elements[] = {64, 192, 6400, SHARDS_BLOCK + 64 * 5};
	for (size_t i = 0; i < sizeof elements / sizeof *elements; i++)
		for (int ranks = 2; ranks <= 5; ranks += elements[i] > 10000 ? 4 : 1) {
			enum dtype act = ranks % 2 ? DTYPE_BF16 : DTYPE_F32;
			struct shard_case its = cut_case(elements[i], act, DTYPE_F32);
			its.table.items = its.items;
			assert_ok(crowd_run(ranks, check_shards, &its));
		}
}

/* Gradients of two bytes: added in f32, rounded once. */
static void halves_are_rounded_once(void **state)
{
	(void)state;
	static const enum dtype types[] = {DTYPE_BF16, DTYPE_F16};
	for (int i = 0; i < 2; i++)
		for (int ranks = 2; ranks <= 5; ranks++) {
			struct shard_case its = cut_case(64 * 307, DTYPE_BF16, types[i]);
			its.table.items = its.items;
			assert_ok(crowd_run(ranks, check_shards, &its));
		}
}

/* ---- the optimizer of slices ---- */

struct whole {
	struct parameter_table table;
	struct optimizer_measure measure;
	float *gradients, *weights, *updated, *exp_avg, *exp_avg_sq; /* [elements]; what one process has */
	void *work;                                                  /* bf16 */
	enum dtype act;
};

static const struct optimizer_config adam = {0.9, 0.999, 1e-8, 0.1, 1};

static void update_whole(struct whole *w)
{
	struct kernels k;
	struct kernels_config config = {.act = w->act, .grad = DTYPE_F32, .threads = 1};
	struct optimizer *o;
	size_t bytes = w->table.elements * 4;
	assert_ok(kernels_open_cpu(&config, &k));
	assert_ok(optimizer_open(&adam, &w->table, &k, &o));
	assert_ok(optimizer_measure(o, w->gradients, 1, &w->measure));
	memcpy(w->updated, w->weights, bytes);
	optimizer_update(o, w->updated, w->act == DTYPE_F32 ? NULL : w->work, w->gradients, 1e-2, 1, 0.5);
	memcpy(w->exp_avg, optimizer_exp_avg(o), bytes);
	memcpy(w->exp_avg_sq, optimizer_exp_avg_sq(o), bytes);
	optimizer_close(o);
	k.close(&k);
}

/* A value that is not finite, and that one rank alone sees. */
static enum status check_overflow(
	struct optimizer *o, struct collective *c, float *gradients, const struct optimizer_slice *slices)
{
	struct optimizer_measure measure;
	float was = gradients[slices[0].offset];
	if (c->rank == 1)
		gradients[slices[0].offset] = (float)NAN;
	TRY(optimizer_measure(o, gradients, 1, &measure));
	gradients[slices[0].offset] = was;
	FAIL_IF(!measure.overflow || !isinf(measure.norm), STATUS_CORRUPT, "a NaN on rank 1 is not seen");
	return STATUS_OK;
}

static enum status compare_slice(const struct whole *w, const struct optimizer_slice *s, const float *weights,
	const void *work, const float *exp_avg, const float *exp_avg_sq)
{
	size_t bytes = s->elements * 4;
	bool same = !memcmp(weights, w->updated + s->offset, bytes) &&
		    !memcmp(exp_avg + s->own, w->exp_avg + s->offset, bytes) &&
		    !memcmp(exp_avg_sq + s->own, w->exp_avg_sq + s->offset, bytes);
	if (w->act != DTYPE_F32)
		same = same && !memcmp((const uint16_t *)work + s->offset,
				       (const uint16_t *)w->work + s->offset, bytes / 2);
	FAIL_IF(!same, STATUS_CORRUPT, "the slice from %" PRIu64 " is another", s->offset);
	return STATUS_OK;
}

static enum status update_slices(void *user, struct collective *c)
{
	const struct whole *w = user;
	struct kernels k;
	struct kernels_config config = {.act = w->act, .grad = DTYPE_F32, .threads = 1};
	struct optimizer_slice *slices;
	struct optimizer_part part;
	struct optimizer *o;
	struct optimizer_measure measure;
	uint64_t n = w->table.elements;
	bool whole = w->act == DTYPE_F32;
	float *gradients, *weights;
	uint16_t *work;
	int count;
	TRY(kernels_open_cpu(&config, &k));
	TRY(shards_cut(&w->table, c->rank, c->ranks, &slices, &count));
	part = (struct optimizer_part){.slices = slices, .count = count};
	part.there = optimizer_part_elements(&part);
	TRY(optimizer_open_part(&adam, &w->table, &part, c, &k, &o));
	TRY(memory_alloc((void **)&gradients, n, 4, "a test"));
	TRY(memory_alloc((void **)&weights, n, 4, "a test"));
	TRY(memory_alloc((void **)&work, n, 2, "a test"));
	memcpy(gradients, w->gradients, n * 4);
	for (int i = 0; i < count; i++)
		memcpy(weights + (whole ? slices[i].offset : slices[i].own), w->weights + slices[i].offset,
			slices[i].elements * 4);
	TRY(check_overflow(o, c, gradients, slices));
	TRY(optimizer_measure(o, gradients, 1, &measure));
	FAIL_IF(measure.overflow || fabs(measure.norm - w->measure.norm) > 1e-12 * w->measure.norm,
		STATUS_CORRUPT, "a norm of %.17g, not %.17g", measure.norm, w->measure.norm);
	optimizer_update(o, weights, whole ? NULL : work, gradients, 1e-2, 1, 0.5);
	for (int i = 0; i < count; i++)
		TRY(compare_slice(w, &slices[i], weights + (whole ? slices[i].offset : slices[i].own), work,
			optimizer_exp_avg(o), optimizer_exp_avg_sq(o)));
	free(gradients);
	free(weights);
	free(work);
	free(slices);
	optimizer_close(o);
	k.close(&k);
	return STATUS_OK;
}

/* With all bits: weights, moments, rounded weights; decay where it belongs. */
static void slices_are_updated_as_the_whole_is(void **state)
{
	(void)state;
	struct whole w = {0};
	struct trainer_config config = base_config();
	assert_ok(parameter_table_open(&config.model, &w.table));
	float **arrays[] = {&w.gradients, &w.weights, &w.updated, &w.exp_avg, &w.exp_avg_sq};
	for (int i = 0; i < 5; i++)
		assert_ok(memory_alloc((void **)arrays[i], w.table.elements, 4, "a test"));
	assert_ok(memory_alloc(&w.work, w.table.elements, 2, "a test"));
	for (uint64_t i = 0; i < w.table.elements; i++) {
		w.gradients[i] = (float)((i * 2654435761u >> 7) % 2001) * 1e-3f - 1;
		w.weights[i] = (float)((i * 40503u >> 3) % 1999) * 1e-3f - 1;
	}
	for (int half = 0; half < 2; half++) {
		w.act = half ? DTYPE_BF16 : DTYPE_F32;
		update_whole(&w);
		for (int ranks = 2; ranks <= 5; ranks++)
			assert_ok(crowd_run(ranks, update_slices, &w));
	}
	for (int i = 0; i < 5; i++)
		free(*arrays[i]);
	free(w.work);
	parameter_table_close(&w.table);
}

/* ---- training together ---- */

static void check_like_one_process(struct trainer_config config, double tolerance, uint64_t least_skips)
{
	static struct story alone;
	memset(&alone, 0, sizeof alone);
	go(&alone, &config);
	trainer_close(alone.trainer);
	assert_int_equal(alone.step_count, TEAM_STEPS);
	assert_true(alone.steps[TEAM_STEPS - 1].skipped >= least_skips);
	assert_true(alone.validation_count > 3);
	for (int ranks = 2; ranks <= 3; ranks++) {
		struct team *team = form_team(config);
		assert_ok(crowd_run(ranks, train_in_team, team));
		assert_same_story(&team->stories[0], &alone, tolerance);
		for (int r = 1; r < ranks; r++)
			assert_same_story(&team->stories[r], &team->stories[0], 0);
	}
}

static void ranks_train_like_one_process(void **state)
{
	(void)state;
	check_like_one_process(shared_config(), 2e-5, 0);
}

static void ranks_skip_overflows_alike(void **state)
{
	(void)state;
	struct trainer_config config = shared_config();
	config.precision = DTYPE_F16;
	config.loss_scale = loss_scale_dynamic(24, 3, 1, 1);
	check_like_one_process(config, 2e-3, 3);
}

/* A run of two ranks is saved half way, and gone on from. */
static void a_resume_on_as_many_ranks_is_exact(void **state)
{
	(void)state;
	char straight[100], stopped[100];
	struct trainer_config config = shared_config();
	struct team *team;
	for (int precision = 0; precision < 2; precision++) {
		assert_ok(directory_remove(run));
		config.precision = precision ? DTYPE_BF16 : DTYPE_F32;
		snprintf(straight, sizeof straight, "%s/straight", run);
		snprintf(stopped, sizeof stopped, "%s/stopped", run);
		config.save = straight;
		team = form_team(config);
		assert_ok(crowd_run(2, train_in_team, team));
		config.save = stopped;
		team = form_team(config);
		team->stopping = 1;
		team->stop_after = 7;
		assert_ok(crowd_run(2, train_in_team, team));
		assert_int_equal(team->stories[0].step_count, 7);
		assert_int_equal(team->stories[1].step_count, 7);
		assert_string_equal(
			team->stories[0].saved[team->stories[0].saved_count - 1], "step-00000007");
		team = form_team(config);
		team->load = stopped;
		assert_ok(crowd_run(2, train_in_team, team));
		sprintf(straight + strlen(straight), "/step-%08d", TEAM_STEPS);
		sprintf(stopped + strlen(stopped), "/step-%08d", TEAM_STEPS);
		assert_same_checkpoint(straight, stopped);
	}
}

/* What two ranks saved, one process and three ranks go on from. */
static void other_numbers_of_ranks_go_on(void **state)
{
	(void)state;
	struct story alone = {0};
	struct trainer_config config = shared_config();
	go(&alone, &config);
	trainer_close(alone.trainer);
	config.save = run;
	config.exit_interval = 8;
	struct team *team = form_team(config);
	assert_ok(crowd_run(2, train_in_team, team));
	assert_int_equal(team->stories[0].step_count, 8);
	config.save = NULL;
	config.exit_interval = 0;
	for (int ranks = 1; ranks <= 3; ranks += 2) {
		team = form_team(config);
		team->load = run;
		assert_ok(crowd_run(ranks, train_in_team, team));
		assert_int_equal(team->stories[0].step_count, TEAM_STEPS - 8);
		assert_int_equal(team->state.ranks, ranks);
		assert_non_null(strstr(notices, "made by 2 ranks"));
		notices[0] = 0;
		for (int i = 0; i < TEAM_STEPS - 8; i++) {
			const struct trainer_step *x = &team->stories[0].steps[i], *y = &alone.steps[8 + i];
			assert_near("loss", (int)x->step, x->loss, y->loss, 2e-5);
			assert_true(x->tokens == y->tokens && x->ordinal == y->ordinal);
		}
	}
}

/* A device's memory the host never touches; the results are the host's, to the bit. */
static void ranks_on_devices_give_the_same_bits(void **state)
{
	(void)state;
	char here[100], there[100];
	struct trainer_config config = shared_config();
	config.precision = DTYPE_BF16;
	config.train_iters = 6;
	snprintf(here, sizeof here, "%s/here", run);
	snprintf(there, sizeof there, "%s/there", run);
	fenced_unpinned = fenced_changed = 0;
	config.save = here;
	assert_ok(crowd_run(3, train_in_team, form_team(config)));
	config.save = there;
	config.open_device = fenced_open;
	assert_ok(crowd_run(3, train_in_team, form_team(config)));
	assert_int_equal(fenced_unpinned, 0);
	assert_int_equal(fenced_changed, 0);
	strcat(here, "/step-00000006");
	strcat(there, "/step-00000006");
	assert_same_checkpoint(here, there);
}

static bool choose_nothing(struct kernels *k, int i, char text[KERNELS_CHOICE])
{
	(void)k, (void)i, (void)text;
	return false;
}

/* Kernels that choose; no two are of one name, or all of them. */
static atomic_int cards;
static bool cards_alike;
static enum status open_card(const struct kernels_config *config, struct kernels *out)
{
	TRY(fenced_open(config, out));
	out->choice_get = choose_nothing;
	snprintf(out->name, sizeof out->name, "card %d", cards_alike ? 0 : atomic_fetch_add(&cards, 1));
	return STATUS_OK;
}

static void ranks_with_other_kernels_are_told(void **state)
{
	(void)state;
	struct trainer_config config = shared_config();
	config.open_device = open_card;
	config.train_iters = 1;
	config.eval_interval = 0;
	for (int alike = 0; alike < 2; alike++) {
		notices[0] = 0;
		cards_alike = alike;
		assert_ok(crowd_run(3, train_in_team, form_team(config)));
		assert_true(alike == !strstr(notices, "rank 1 computes with \"card"));
	}
}

static void a_rank_that_cannot_begin_ends_all(void **state)
{
	(void)state;
	struct team *team = form_team(shared_config());
	team->broken = 1;
	assert_int_equal(crowd_run(3, train_in_team, team), STATUS_UNSUPPORTED);
	assert_string_equal(error_message(), "rank 1: no such device");
	assert_int_equal(team->stories[0].step_count, 0);
}

/* Rank 0 alone writes, and alone sees that it cannot. */
static void a_checkpoint_that_cannot_be_written_ends_all(void **state)
{
	(void)state;
	struct trainer_config config = shared_config();
	char path[100];
	snprintf(path, sizeof path, "%s/corpus.json/run", data.directory);
	config.save = path;
	struct team *team = form_team(config);
	assert_int_equal(crowd_run(3, train_in_team, team), STATUS_IO);
	assert_non_null(strstr(error_message(), "rank 0: "));
	assert_non_null(strstr(error_message(), "corpus.json"));
	assert_true(team->stories[0].step_count == team->stories[2].step_count);
}

static void batches_that_do_not_divide_are_refused(void **state)
{
	(void)state;
	struct trainer_config config = shared_config();
	config.micro_batch = 4;
	assert_int_equal(crowd_run(2, train_in_team, form_team(config)), STATUS_USAGE);
	assert_non_null(strstr(error_message(), "multiple of 8"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sums_are_in_the_order_of_the_ranks),
		cmocka_unit_test(a_failure_is_told_to_all),
		cmocka_unit_test(owners_have_the_ordered_sums_and_all_get_the_weights),
		cmocka_unit_test(halves_are_rounded_once),
		cmocka_unit_test(slices_are_updated_as_the_whole_is),
		cmocka_unit_test_setup(ranks_train_like_one_process, setup),
		cmocka_unit_test_setup(ranks_skip_overflows_alike, setup),
		cmocka_unit_test_setup(a_resume_on_as_many_ranks_is_exact, setup),
		cmocka_unit_test_setup(other_numbers_of_ranks_go_on, setup),
		cmocka_unit_test_setup(ranks_on_devices_give_the_same_bits, setup),
		cmocka_unit_test_setup(ranks_with_other_kernels_are_told, setup),
		cmocka_unit_test_setup(a_rank_that_cannot_begin_ends_all, setup),
		cmocka_unit_test_setup(a_checkpoint_that_cannot_be_written_ends_all, setup),
		cmocka_unit_test_setup(batches_that_do_not_divide_are_refused, setup),
	};
	return cmocka_run_group_tests(tests, open_all, close_all);
}
