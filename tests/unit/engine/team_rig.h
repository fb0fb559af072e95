/* team_rig.h: ranks that are threads (thread_ranks.h) and train one model (trainer_rig.h), and what they told. */
#ifndef TESTS_UNIT_ENGINE_TEAM_RIG_H
#define TESTS_UNIT_ENGINE_TEAM_RIG_H

#include "tests/unit/engine/thread_ranks.h"
#include "tests/unit/engine/trainer_rig.h"
#include "tests/unit/under_tsan.h"

#include <math.h>

enum { TEAM_STEPS = UNDER_TSAN ? 12 : 20 };

struct team {
	struct trainer_config config;
	const char *load;                          /* or NULL */
	struct story stories[CROWD];               /* a rank's each; trainers are closed */
	struct checkpoint_state state;             /* rank 0's at the end */
	uint64_t outcomes[OFFLOAD_OUTCOMES], lent; /* likewise, of its offload if there is one */
	int stopping;                              /* the rank that stops, after stop_after */
	uint64_t stop_after;
	int broken; /* the rank whose kernels do not open; -1: none */
};

static inline enum status refuse_to_open(const struct kernels_config *config, struct kernels *out)
{
	(void)config, (void)out;
	return error_set(STATUS_UNSUPPORTED, "no such device");
}

static inline enum status train_in_team(void *user, struct collective *c)
{
	struct team *team = user;
	struct story *story = &team->stories[c->rank];
	struct trainer_config config = team->config;
	struct checkpoint *from = NULL;
	config.ranks = c;
	if (team->broken == c->rank)
		config.open_device = refuse_to_open;
	if (team->stop_after && team->stopping == c->rank)
		story->stop_after = team->stop_after;
	if (team->load)
		TRY(checkpoint_open(team->load, &from));
	enum status status = open_story(story, &config, from, false);
	checkpoint_close(from);
	if (status == STATUS_OK)
		status = trainer_run(story->trainer);
	if (status == STATUS_OK && c->rank == 0)
		team->state = *trainer_state(story->trainer);
	const struct offload *offload =
		status == STATUS_OK && c->rank == 0 ? trainer_offload(story->trainer) : NULL;
	for (int i = 0; offload && i < OFFLOAD_OUTCOMES; i++)
		team->outcomes[i] = offload_count(offload, (enum offload_outcome)i);
	if (offload)
		offload_count_loans(offload, &(uint64_t){0}, &team->lent);
	struct error_copy copy;
	error_save(status, &copy);
	trainer_close(story->trainer);
	return error_restore(&copy);
}

static inline struct team *form_team(struct trainer_config config)
{
	static struct team team;
	memset(&team, 0, sizeof team);
	team.config = config;
	team.broken = -1;
	return &team;
}

static inline struct trainer_config shared_config(void)
{
	struct trainer_config config = base_config();
	config.global_batch = 12;
	config.train_iters = TEAM_STEPS;
	config.schedule.decay_iters = TEAM_STEPS;
	config.eval_interval = TEAM_STEPS / 4;
	config.eval_iters = 2;
	config.eod_mask_loss = true; /* ranks' targets differ in number */
	config.split = "20,50,30";   /* epochs begin within steps */
	config.save = NULL;
	return config;
}

static inline void assert_near(const char *what, int step, double a, double b, double tolerance)
{
	if (a != b && !(fabs(a - b) <= tolerance * fabs(b)))
		fail_msg("%s of step %d: %.17g and %.17g", what, step, a, b);
}

static inline void assert_same_story(const struct story *a, const struct story *b, double tolerance)
{
	assert_int_equal(a->step_count, b->step_count);
	assert_int_equal(a->validation_count, b->validation_count);
	for (int i = 0; i < a->step_count; i++) {
		const struct trainer_step *x = &a->steps[i], *y = &b->steps[i];
		/* The first step's differ by the order of additions alone. */
		assert_near("loss", i, x->loss, y->loss, i == 0 ? fmin(tolerance, 1e-7) : tolerance);
		assert_near("norm", i, x->gradient_norm, y->gradient_norm, 20 * tolerance);
		assert_true(x->step == y->step && x->updates == y->updates && x->skipped == y->skipped);
		assert_true(x->counted == y->counted && x->tokens == y->tokens && x->ordinal == y->ordinal);
		assert_int_equal(x->epoch, y->epoch);
		assert_same_bits(x->learning_rate, y->learning_rate);
		assert_same_bits(x->loss_scale, y->loss_scale);
	}
	for (int i = 0; i < a->validation_count; i++) {
		const struct trainer_validation *x = &a->validations[i], *y = &b->validations[i];
		assert_near("validation", i, x->loss, y->loss, tolerance);
		assert_true(x->windows == y->windows && x->counted == y->counted && x->step == y->step);
	}
}

static inline void assert_same_checkpoint(const char *a, const char *b)
{
	assert_same_file(a, b, "model.safetensors");
	assert_same_file(a, b, "optimizer.safetensors");
	assert_same_file(a, b, "trainer.json");
}

#endif
