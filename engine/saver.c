#include "engine/saver.h"

#include "common/log.h"
#include "common/memory.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { ARRAYS = 3 }; /* master and moments */

struct saver {
	struct saver_config config;
	uint64_t elements;
	float *copy[ARRAYS]; /* [elements]; NULL: it is not behind */
	struct checkpoint_contents contents;
	struct checkpoint_state state; /* theirs; its JSON is the saver's own */
	bool best;
	bool begun; /* and not yet ended */
	pthread_t thread;
	atomic_bool done;
	struct error_copy result;
};

uint64_t saver_bytes(const struct parameter_table *table, bool behind)
{
	return behind ? ARRAYS * 4 * table->elements : 0;
}

enum status saver_open(
	const struct saver_config *config, const struct parameter_table *table, struct saver **out)
{
	struct saver *s;
	*out = NULL;
	TRY(memory_alloc((void **)&s, 1, sizeof *s, "the writer of checkpoints"));
	s->config = *config;
	s->elements = table->elements;
	for (int i = 0; i < ARRAYS && config->behind; i++) {
		enum status status = memory_alloc_large(
			(void **)&s->copy[i], s->elements * 4, "a copy of the state, to write it from");
		if (status != STATUS_OK) {
			saver_close(s);
			return status;
		}
	}
	*out = s;
	return STATUS_OK;
}

static void end_unasked(struct saver *s)
{
	struct error_copy before; /* the caller may be about to tell it */
	error_save(STATUS_OK, &before);
	if (saver_end(s) != STATUS_OK)
		log_warn("the last checkpoint was not written: %s", error_message());
	(void)!error_restore(&before);
}

void saver_close(struct saver *s)
{
	if (!s)
		return;
	end_unasked(s);
	for (int i = 0; i < ARRAYS; i++)
		if (s->copy[i])
			memory_free_large(s->copy[i], s->elements * 4);
	free(s);
}

/* ---- the copy ---- */

static enum status copy_array(const struct saver *s, struct staging *staging, float *to, const float *from)
{
	uint64_t bytes = s->elements * 4;
	const void *piece;
	if (!staging) {
		memcpy(to, from, bytes);
		return STATUS_OK;
	}
	for (uint64_t done = 0, some; done < bytes; done += some) {
		some = bytes - done < STAGING_BYTES ? bytes - done : STAGING_BYTES;
		TRY(staging_read(staging, (const char *)from + done, some, &piece));
		memcpy((char *)to + done, piece, some);
	}
	return STATUS_OK;
}

static void drop_state(struct saver *s)
{
	cJSON_Delete(s->state.choices);
	cJSON_Delete(s->state.arguments);
	s->state.choices = s->state.arguments = NULL;
}

static enum status copy_state(struct saver *s, const struct checkpoint_state *from)
{
	s->state = *from;
	s->state.choices = cJSON_Duplicate(from->choices, true);
	s->state.arguments = cJSON_Duplicate(from->arguments, true);
	if ((s->state.choices || !from->choices) && (s->state.arguments || !from->arguments))
		return STATUS_OK;
	drop_state(s);
	return error_set(STATUS_MEMORY, "no memory for a copy of the run's state");
}

static enum status copy_contents(struct saver *s, const struct checkpoint_contents *from)
{
	const float *arrays[ARRAYS] = {from->weights, from->exp_avg, from->exp_avg_sq};
	for (int i = 0; i < ARRAYS; i++)
		TRY(copy_array(s, from->staging, s->copy[i], arrays[i]));
	TRY(copy_state(s, from->state));
	s->contents = *from;
	s->contents.staging = NULL;
	s->contents.weights = s->copy[0];
	s->contents.exp_avg = s->copy[1];
	s->contents.exp_avg_sq = s->copy[2];
	s->contents.state = &s->state;
	return STATUS_OK;
}

/* ---- writing ---- */

static enum status write_out(const struct saver *s, const struct checkpoint_contents *contents, bool best)
{
	char name[CHECKPOINT_NAME];
	TRY(checkpoint_write(s->config.run, contents, name));
	if (best)
		TRY(checkpoint_mark_best(s->config.run, name));
	return checkpoint_prune(s->config.run, s->config.keep);
}

static void *write_behind(void *argument)
{
	struct saver *s = argument;
	error_save(write_out(s, &s->contents, s->best), &s->result);
	atomic_store(&s->done, true);
	return NULL;
}

enum status saver_begin(struct saver *s, const struct checkpoint_contents *contents, bool best)
{
	assert(!s->begun);
	if (!s->config.behind) {
		error_save(write_out(s, contents, best), &s->result);
		s->begun = true;
		atomic_store(&s->done, true);
		return STATUS_OK;
	}
	TRY(copy_contents(s, contents));
	s->best = best;
	atomic_store(&s->done, false);
	if (pthread_create(&s->thread, NULL, write_behind, s) != 0) {
		drop_state(s);
		return error_set(STATUS_MEMORY, "cannot start the thread that writes checkpoints");
	}
	s->begun = true;
	return STATUS_OK;
}

bool saver_is_done(struct saver *s)
{
	return s->begun && atomic_load(&s->done);
}

enum status saver_end(struct saver *s)
{
	if (!s->begun)
		return STATUS_OK;
	if (s->config.behind)
		pthread_join(s->thread, NULL);
	s->begun = false;
	drop_state(s);
	return s->result.status == STATUS_OK ? STATUS_OK : error_restore(&s->result);
}
