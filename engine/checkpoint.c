/* Opening, verifying and reading a checkpoint. */
#include "engine/checkpoint_parts.h"

#include "common/file.h"
#include "common/json.h"
#include "common/log.h"
#include "common/memory.h"
#include "engine/safetensors.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OPTIMIZER "optimizer.safetensors"

struct checkpoint {
	char *path;
	bool weights_only; /* OPTIMIZER is not looked at */
	struct model_config config;
	uint32_t eod;
	bool has_state;
	struct checkpoint_state state;
	struct safetensors *model, *optimizer;
};

static bool has_file(const char *directory, const char *name)
{
	char path[PATH_MAX];
	return snprintf(path, sizeof path, "%s/%s", directory, name) < PATH_MAX && file_exists(path);
}

static enum status hash_descriptor(
	int fd, const char *path, char *buffer, size_t room, uint64_t bytes, struct hash128 *out)
{
	struct hash_stream *stream;
	uint64_t total = 0;
	size_t got = 0;
	enum status status;
	TRY(hash_stream_open(&stream));
	do {
		status = file_read_some(fd, path, buffer, room, &got);
		if (status == STATUS_OK)
			hash_stream_add(stream, buffer, got);
		total += got;
	} while (status == STATUS_OK && got == room);
	*out = hash_stream_digest(stream);
	hash_stream_close(stream);
	TRY(status);
	FAIL_IF(total != bytes, STATUS_CORRUPT, "%s: is %" PRIu64 " bytes, not the %" PRIu64 " written", path,
		total, bytes);
	return STATUS_OK;
}

static enum status verify_file(const char *path, uint64_t bytes, struct hash128 expected)
{
	enum { ROOM = 1 << 20 };
	char *buffer;
	int fd;
	struct hash128 found;
	TRY(memory_alloc((void **)&buffer, ROOM, 1, "verifying a checkpoint"));
	enum status status = file_open_read(path, &fd);
	if (status == STATUS_OK) {
		status = hash_descriptor(fd, path, buffer, ROOM, bytes, &found);
		(void)file_system->close(fd);
	} else {
		status = error_context(STATUS_CORRUPT, "a file of the checkpoint is missing");
	}
	free(buffer);
	TRY(status);
	FAIL_IF(hash128_compare(found, expected) != 0, STATUS_CORRUPT,
		"%s: its bytes are not those that were written (hash differs)", path);
	return STATUS_OK;
}

static enum status verify_entry(const char *directory, const char *json, const cJSON *entry)
{
	uint64_t bytes;
	struct hash128 hash;
	char *path;
	FAIL_IF(strchr(entry->string, '/') || entry->string[0] == '.' || !entry->string[0], STATUS_CORRUPT,
		"%s: \"%s\" is no file name", json, entry->string);
	TRY(json_get_u64(json, entry, "bytes", &bytes));
	TRY(json_get_hash128(json, entry, "xxh3_128", &hash));
	TRY(path_join(&path, directory, entry->string));
	enum status status = verify_file(path, bytes, hash);
	free(path);
	return status;
}

static enum status verify_files(const struct checkpoint *c, const char *json, const cJSON *o)
{
	cJSON *files = NULL;
	const cJSON *entry;
	TRY(json_get_object(json, o, "files", &files));
	FAIL_IF(!cJSON_GetObjectItemCaseSensitive(files, "config.json") ||
			!cJSON_GetObjectItemCaseSensitive(files, "model.safetensors"),
		STATUS_CORRUPT, "%s: \"files\" lacks config.json or model.safetensors", json);
	cJSON_ArrayForEach (entry, files) {
		bool moments = strcmp(entry->string, OPTIMIZER) == 0;
		if (moments && c->weights_only)
			continue;
		enum status status = verify_entry(c->path, json, entry);
		FAIL_IF(status != STATUS_OK && moments, status,
			"%s; --finetune starts from the weights alone", error_message());
		TRY(status);
	}
	return STATUS_OK;
}

static enum status check_own_hash(const char *json, cJSON *o)
{
	uint64_t version = 0;
	const char *format = NULL;
	FAIL_IF(!cJSON_IsObject(o), STATUS_CORRUPT, "%s: is not a JSON object", json);
	TRY(json_get_string(json, o, "format", &format));
	FAIL_IF(strcmp(format, CHECKPOINT_FORMAT) != 0, STATUS_CORRUPT,
		"%s: its format is \"%s\", not " CHECKPOINT_FORMAT, json, format);
	TRY(json_get_u64(json, o, "version", &version));
	FAIL_IF(version != CHECKPOINT_VERSION, STATUS_UNSUPPORTED,
		"%s: its version is %" PRIu64 "; this ferry reads %d (use a newer ferry)", json, version,
		CHECKPOINT_VERSION);
	return json_unseal(json, o);
}

static enum status read_state(struct checkpoint *c, const char *json)
{
	cJSON *o;
	TRY(json_read_file(json, &o));
	enum status status = check_own_hash(json, o);
	if (status == STATUS_OK)
		status = verify_files(c, json, o);
	if (status == STATUS_OK)
		status = checkpoint_take_state(json, o, &c->state);
	c->has_state = status == STATUS_OK;
	cJSON_Delete(o);
	return status;
}

static enum status read_config(struct checkpoint *c, const char *json)
{
	cJSON *o;
	TRY(json_read_file(json, &o));
	enum status status = checkpoint_take_config(json, o, &c->config, &c->eod);
	cJSON_Delete(o);
	return status;
}

static enum status check_weights_there(const char *path)
{
	if (has_file(path, "model.safetensors"))
		return STATUS_OK;
	FAIL_IF(has_file(path, "model.safetensors.index.json"), STATUS_UNSUPPORTED,
		"%s: its weights are in several files; make it one: python3 -c 'from transformers import "
		"GPT2LMHeadModel as M; M.from_pretrained(\"%s\").save_pretrained(\"NEW\", "
		"max_shard_size=\"100GB\")'",
		path, path);
	FAIL_IF(has_file(path, "pytorch_model.bin"), STATUS_UNSUPPORTED,
		"%s: has pytorch_model.bin, which can run code when it is read; convert it where you trust "
		"it: "
		"python3 -c 'from transformers import GPT2LMHeadModel as M; "
		"M.from_pretrained(\"%s\").save_pretrained(\"NEW\")'",
		path, path);
	return error_set(STATUS_CORRUPT, "%s: has no model.safetensors", path);
}

/* Opens DIRECTORY/NAME with a function of (path). */
static enum status open_part(struct checkpoint *c, const char *name,
	enum status (*open_one)(struct checkpoint *c, const char *path))
{
	char *path;
	TRY(path_join(&path, c->path, name));
	enum status status = open_one(c, path);
	free(path);
	return status;
}

static enum status open_model(struct checkpoint *c, const char *path)
{
	return safetensors_open(path, &c->model);
}

static enum status open_optimizer(struct checkpoint *c, const char *path)
{
	return safetensors_open(path, &c->optimizer);
}

static enum status open_directory(
	const char *path, bool weights_only, bool state_required, struct checkpoint **out)
{
	struct checkpoint *c;
	enum status status;
	*out = NULL;
	TRY(memory_alloc((void **)&c, 1, sizeof *c, "a checkpoint"));
	c->weights_only = weights_only;
	c->path = realpath(path, NULL);
	if (!c->path) {
		status = error_set_errno(STATUS_IO, "%s: cannot open the directory", path);
		goto done;
	}
	if (has_file(path, "trainer.json"))
		TRY_GOTO(status, done, open_part(c, "trainer.json", read_state));
	else if (state_required) {
		status = error_set(STATUS_CORRUPT, "%s: trainer.json is missing", path);
		goto done;
	}
	TRY_GOTO(status, done, open_part(c, "config.json", read_config));
	TRY_GOTO(status, done, check_weights_there(path));
	TRY_GOTO(status, done, open_part(c, "model.safetensors", open_model));
	if (c->has_state && !weights_only && has_file(path, OPTIMIZER))
		TRY_GOTO(status, done, open_part(c, OPTIMIZER, open_optimizer));
	*out = c;
	return STATUS_OK;
done:
	checkpoint_close(c);
	return status;
}

static enum status open_newest(
	const char *run, bool weights_only, const uint64_t *steps, size_t count, struct checkpoint **out)
{
	for (size_t i = count; i > 0; i--) {
		char name[CHECKPOINT_NAME], *path;
		checkpoint_step_name(steps[i - 1], name);
		TRY(path_join(&path, run, name));
		enum status status = open_directory(path, weights_only, true, out);
		free(path);
		if (status == STATUS_OK || status == STATUS_MEMORY)
			return status;
		log_warn("%s: passed over: %s", name, error_message());
	}
	return error_set(STATUS_CORRUPT,
		"%s: none of its %zu checkpoints is whole (%s); start again with another --save", run, count,
		error_message());
}

static enum status open_any(const char *path, bool weights_only, struct checkpoint **out)
{
	uint64_t *steps;
	size_t count;
	*out = NULL;
	FAIL_IF(!file_exists(path), STATUS_IO, "%s: there is no such run or checkpoint; --load names one",
		path);
	if (has_file(path, "config.json") || has_file(path, "trainer.json"))
		return open_directory(path, weights_only, false, out);
	TRY(checkpoint_list(path, &steps, &count));
	enum status status =
		count ? open_newest(path, weights_only, steps, count, out)
		      : error_set(STATUS_USAGE,
				"%s: is neither a run (no step-* in it) nor a checkpoint (no config.json)",
				path);
	free(steps);
	return status;
}

enum status checkpoint_open(const char *path, struct checkpoint **out)
{
	return open_any(path, false, out);
}

enum status checkpoint_open_weights(const char *path, struct checkpoint **out)
{
	return open_any(path, true, out);
}

void checkpoint_close_weights(struct checkpoint *c)
{
	safetensors_close(c->model);
	safetensors_close(c->optimizer);
	c->model = c->optimizer = NULL;
}

void checkpoint_close(struct checkpoint *c)
{
	if (!c)
		return;
	checkpoint_close_weights(c);
	free(c->path);
	cJSON_Delete(c->state.choices);
	cJSON_Delete(c->state.arguments);
	free(c);
}

const char *checkpoint_path(const struct checkpoint *c)
{
	return c->path;
}

const struct model_config *checkpoint_config(const struct checkpoint *c)
{
	return &c->config;
}

uint32_t checkpoint_eod(const struct checkpoint *c)
{
	return c->eod;
}

const struct checkpoint_state *checkpoint_get_state(const struct checkpoint *c)
{
	return c->has_state ? &c->state : NULL;
}

bool checkpoint_has_tokenizer(const struct checkpoint *c)
{
	return has_file(c->path, "vocab.json") && has_file(c->path, "merges.txt");
}

/* ---- tensors ---- */

static const struct safetensors_tensor *find_either(
	const struct safetensors *file, const char *prefix, const char *name)
{
	char full[SAFETENSORS_NAME];
	snprintf(full, sizeof full, "%stransformer.%s", prefix, name);
	const struct safetensors_tensor *tensor = safetensors_find(file, full);
	if (tensor)
		return tensor;
	snprintf(full, sizeof full, "%s%s", prefix, name);
	return safetensors_find(file, full);
}

static bool has_shape(const struct safetensors_tensor *tensor, const struct parameter *p)
{
	if (tensor->dimensions != p->dimensions)
		return false;
	if (p->dimensions == 1)
		return tensor->shape[0] == (uint64_t)p->columns;
	return tensor->shape[0] == (uint64_t)p->file_rows && tensor->shape[1] == (uint64_t)p->columns;
}

/* A tensor's elements to `out`, in the staging's kernels' memory. */
static enum status read_staged(struct safetensors *file, const struct safetensors_tensor *tensor,
	struct staging *staging, float *out)
{
	enum { PIECE = STAGING_BYTES / sizeof(float) };
	for (uint64_t done = 0; done < tensor->elements;) {
		uint64_t some = tensor->elements - done < PIECE ? tensor->elements - done : PIECE;
		TRY(safetensors_read(file, tensor, done, some, staging_block(staging)));
		TRY(staging_write(staging, out + done, some * sizeof *out));
		done += some;
	}
	return STATUS_OK;
}

/* All of it, and zeros up to `elements`. */
static enum status read_tensor(struct safetensors *file, const struct safetensors_tensor *tensor,
	struct staging *staging, float *out, uint64_t elements)
{
	uint64_t gap = (elements - tensor->elements) * sizeof *out;
	if (staging) {
		TRY(read_staged(file, tensor, staging, out));
		return staging_zero(staging, out + tensor->elements, gap);
	}
	TRY(safetensors_read(file, tensor, 0, tensor->elements, out));
	memset(out + tensor->elements, 0, gap);
	return STATUS_OK;
}

/* Reads one set of arrays; what lies between a parameter's file rows and the next parameter becomes 0. */
static enum status read_set(const char *directory, struct safetensors *file, const char *prefix,
	const struct parameter_table *table, struct staging *staging, float *out)
{
	for (int i = 0; i < table->count; i++) {
		const struct parameter *p = &table->items[i];
		const struct safetensors_tensor *tensor = find_either(file, prefix, p->name);
		FAIL_IF(!tensor, STATUS_CORRUPT, "%s: tensor \"%s%s\" is missing", directory, prefix,
			p->name);
		FAIL_IF(!has_shape(tensor, p), STATUS_MISMATCH,
			"%s: tensor \"%s\" has %d dimensions, the first %" PRIu64
			"; the model wants %d x %d (config.json does not belong to these weights)",
			directory, tensor->name, tensor->dimensions, tensor->shape[0],
			p->dimensions == 2 ? p->file_rows : 1, p->columns);
		TRY(read_tensor(file, tensor, staging, out + p->offset, parameter_span(table, i)));
	}
	return STATUS_OK;
}

static bool ends_with(const char *text, const char *end)
{
	size_t length = strlen(text), tail = strlen(end);
	return length >= tail && strcmp(text + length - tail, end) == 0;
}

/* A weight that nobody reads would be a silent loss. */
static enum status check_all_known(
	const char *directory, const struct safetensors *file, const struct parameter_table *table)
{
	for (int i = 0; i < safetensors_count(file); i++) {
		const char *name = safetensors_get(file, i)->name;
		const char *bare = strncmp(name, "transformer.", 12) == 0 ? name + 12 : name;
		bool known = parameter_find(table, bare) || strcmp(name, "lm_head.weight") == 0 ||
			     ends_with(name, ".attn.bias") || ends_with(name, ".attn.masked_bias");
		FAIL_IF(!known, STATUS_UNSUPPORTED,
			"%s: tensor \"%s\" is none of this GPT-2's; ferry would lose it", directory, name);
	}
	return STATUS_OK;
}

enum status checkpoint_read_weights(
	struct checkpoint *c, const struct parameter_table *table, struct staging *staging, float *weights)
{
	TRY(check_all_known(c->path, c->model, table));
	return read_set(c->path, c->model, "", table, staging, weights);
}

enum status checkpoint_read_moments(struct checkpoint *c, const struct parameter_table *table,
	struct staging *staging, float *exp_avg, float *exp_avg_sq)
{
	FAIL_IF(!c->optimizer, STATUS_CORRUPT,
		"%s: has no " OPTIMIZER "; start from its weights alone with --finetune", c->path);
	TRY(read_set(c->path, c->optimizer, "exp_avg.", table, staging, exp_avg));
	return read_set(c->path, c->optimizer, "exp_avg_sq.", table, staging, exp_avg_sq);
}
