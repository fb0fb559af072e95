/* checkpoint_parts.h: what the checkpoint's files share. checkpoint.h is the manual. */
#ifndef ENGINE_CHECKPOINT_PARTS_H
#define ENGINE_CHECKPOINT_PARTS_H

#include "engine/checkpoint.h"

enum { CHECKPOINT_VERSION = 1 };
#define CHECKPOINT_FORMAT "ferry-trainer"

/* ---- checkpoint_json.c: config.json and trainer.json ---- */

/* NULL: no memory. The caller deletes them. */
cJSON *checkpoint_compose_config(const struct checkpoint_contents *contents);
cJSON *checkpoint_compose_state(const struct checkpoint_state *state); /* without files and hash */
/* `path` is for messages. */
enum status checkpoint_take_config(
	const char *path, const cJSON *o, struct model_config *config, uint32_t *eod) MUST_USE;
/* `state` gets a copy of "arguments", its own. */
enum status checkpoint_take_state(const char *path, const cJSON *o, struct checkpoint_state *state) MUST_USE;

/* ---- checkpoint_run.c: a run's directory ---- */

/* Deletes what nobody looks at any more. That the file system does not let it is no reason to stop, and only warned of:
 * on NFS a file that some process has open (ferry generate, of this checkpoint) keeps its directory. */
enum status checkpoint_remove_rest(const char *temporary) MUST_USE;
/* If it is there. A rename first: it is never there in part. */
enum status checkpoint_remove_whole(const char *path) MUST_USE;

#endif
