/* Writing a checkpoint. */
#include "engine/checkpoint_parts.h"

#include "common/file.h"
#include "common/json.h"
#include "common/memory.h"
#include "engine/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void fill_source(
	struct safetensors_source *source, const char *prefix, const struct parameter *p, const float *data)
{
	snprintf(source->name, sizeof source->name, "%stransformer.%s", prefix, p->name);
	source->dimensions = p->dimensions;
	source->shape[0] = (uint64_t)(p->dimensions == 2 ? p->file_rows : p->columns);
	source->shape[1] = (uint64_t)p->columns;
	source->data = data + p->offset;
}

static bool record_file(cJSON *files, const char *name, struct hash128 hash, uint64_t bytes)
{
	cJSON *entry = cJSON_AddObjectToObject(files, name);
	return entry && json_add_u64(entry, "bytes", bytes) && json_add_hash128(entry, "xxh3_128", hash);
}

/* One tensor file of `sets` arrays, each prefixed. */
static enum status write_tensors(const char *directory, const char *name, const struct parameter_table *table,
	const char *const *prefixes, const float *const *arrays, int sets, struct staging *staging,
	cJSON *files)
{
	struct safetensors_source *sources;
	char *path = NULL;
	struct hash128 hash;
	uint64_t bytes;
	int count = 0;
	enum status status;
	TRY(memory_alloc((void **)&sources, (size_t)(sets * table->count), sizeof *sources, "a checkpoint"));
	for (int set = 0; set < sets; set++)
		for (int i = 0; i < table->count; i++)
			fill_source(&sources[count++], prefixes[set], &table->items[i], arrays[set]);
	TRY_GOTO(status, done, path_join(&path, directory, name));
	TRY_GOTO(status, done, safetensors_write(path, sources, count, staging, &hash, &bytes));
	if (!record_file(files, name, hash, bytes))
		status = error_set(STATUS_MEMORY, "%s: no memory to list it", path);
done:
	free(sources);
	free(path);
	return status;
}

static enum status write_blob(
	const char *directory, const char *name, const void *data, size_t bytes, cJSON *files)
{
	char *path;
	TRY(path_join(&path, directory, name));
	enum status status = file_publish(path, data, bytes);
	if (status == STATUS_OK && !record_file(files, name, hash128(data, bytes), bytes))
		status = error_set(STATUS_MEMORY, "%s: no memory to list it", path);
	free(path);
	return status;
}

static enum status write_config(const char *directory, const struct checkpoint_contents *c, cJSON *files)
{
	cJSON *config = checkpoint_compose_config(c);
	char *text = config ? cJSON_Print(config) : NULL;
	cJSON_Delete(config);
	FAIL_IF(!text, STATUS_MEMORY, "%s: no memory for config.json", directory);
	size_t length = strlen(text);
	text[length] = '\n'; /* in place of the NUL */
	enum status status = write_blob(directory, "config.json", text, length + 1, files);
	cJSON_free(text);
	return status;
}

/* The files that trainer.json vouches for. */
static enum status write_files(const char *directory, const struct checkpoint_contents *c, cJSON *files)
{
	static const char *const none[] = {""}, *const moments[] = {"exp_avg.", "exp_avg_sq."};
	const float *both[] = {c->exp_avg, c->exp_avg_sq};
	TRY(write_config(directory, c, files));
	for (int i = 0; i < c->file_count; i++)
		TRY(write_blob(directory, c->files[i].name, c->files[i].data, c->files[i].bytes, files));
	TRY(write_tensors(directory, "model.safetensors", c->table, none, &c->weights, 1, c->staging, files));
	if (c->exp_avg)
		TRY(write_tensors(
			directory, "optimizer.safetensors", c->table, moments, both, 2, c->staging, files));
	return STATUS_OK;
}

/* Takes `files` over. */
static enum status write_state(const char *directory, const struct checkpoint_state *state, cJSON *files)
{
	char *path = NULL;
	cJSON *o = checkpoint_compose_state(state);
	if (!json_add_item(o, "files", files)) {
		cJSON_Delete(o);
		return error_set(STATUS_MEMORY, "%s: no memory for trainer.json", directory);
	}
	enum status status;
	TRY_GOTO(status, done, path_join(&path, directory, "trainer.json"));
	TRY_GOTO(status, done, json_seal(path, o));
	status = json_publish(path, o);
done:
	free(path);
	cJSON_Delete(o);
	return status;
}

static enum status write_contents(const char *directory, const struct checkpoint_contents *c)
{
	TRY(directory_create(directory));
	cJSON *files = cJSON_CreateObject();
	FAIL_IF(!files, STATUS_MEMORY, "%s: no memory for trainer.json", directory);
	enum status status = write_files(directory, c, files);
	if (status != STATUS_OK || !c->state) {
		cJSON_Delete(files);
		return status;
	}
	TRY(write_state(directory, c->state, files));
	return directory_sync(directory);
}

enum status checkpoint_write_directory(const char *path, const struct checkpoint_contents *contents)
{
	char *temporary;
	FAIL_IF(file_exists(path), STATUS_USAGE, "%s: exists already; give another name or remove it", path);
	TRY(file_temporary_name(path, &temporary));
	enum status status = write_contents(temporary, contents);
	if (status == STATUS_OK)
		status = file_rename(temporary, path);
	if (status != STATUS_OK)
		status = directory_discard(temporary, status);
	free(temporary);
	return status;
}

/* The new one is complete; only now does an old one of this step go, in exchange for it if possible. */
static enum status put_in_place(const char *temporary, const char *path)
{
	bool exchanged = false;
	if (file_exists(path))
		TRY(file_exchange(temporary, path, &exchanged));
	if (exchanged)
		return checkpoint_remove_rest(temporary);
	TRY(checkpoint_remove_whole(path));
	return file_rename(temporary, path);
}

enum status checkpoint_write(
	const char *run, const struct checkpoint_contents *contents, char name[CHECKPOINT_NAME])
{
	char *path = NULL, *temporary = NULL;
	enum status status;
	checkpoint_name(contents->state->step, name);
	TRY(directory_create(run));
	TRY_GOTO(status, done, path_join(&path, run, name));
	TRY_GOTO(status, done, file_temporary_name(path, &temporary));
	status = write_contents(temporary, contents);
	if (status == STATUS_OK)
		status = put_in_place(temporary, path);
	if (status != STATUS_OK)
		status = directory_discard(temporary, status);
done:
	free(path);
	free(temporary);
	return status;
}
