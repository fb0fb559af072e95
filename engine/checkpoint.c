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

/* Who opens it: ranks that find the same files verify each of them once between them. */
struct opening {
	struct collective *ranks;
	bool weights_only;
	struct collective_sharing sharing; /* of this directory */
};

struct checkpoint {
	char *path;
	const struct opening *opening; /* while it is being opened */
	struct model_config config;
	uint32_t eod;
	bool has_state;
	struct checkpoint_state state;
	struct safetensors *model, *optimizer;
};

static enum status find_file(const char *directory, const char *name, bool *there)
{
	char *path;
	*there = false;
	TRY(path_join(&path, directory, name));
	enum status status = file_find(path, there);
	free(path);
	return status;
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
	bool there;
	enum status status = file_find(path, &there);
	if (status == STATUS_OK && !there)
		status = error_set(STATUS_CORRUPT, "%s: is missing, and belongs to the checkpoint", path);
	if (status == STATUS_OK)
		status = file_open_read(path, &fd);
	if (status == STATUS_OK) {
		status = hash_descriptor(fd, path, buffer, ROOM, bytes, &found);
		(void)file_system->close(fd);
	}
	free(buffer);
	TRY(status);
	FAIL_IF(hash128_compare(found, expected) != 0, STATUS_CORRUPT,
		"%s: its bytes are not those that were written (hash differs)", path);
	return STATUS_OK;
}

static enum status verify_entry(const char *directory, const char *json, const cJSON *entry, uint64_t bytes)
{
	struct hash128 hash;
	char *path;
	FAIL_IF(strchr(entry->string, '/') || entry->string[0] == '.' || !entry->string[0], STATUS_CORRUPT,
		"%s: \"%s\" is no file name", json, entry->string);
	TRY(json_get_hash128(json, entry, "xxh3_128", &hash));
	TRY(path_join(&path, directory, entry->string));
	enum status status = verify_file(path, bytes, hash);
	free(path);
	return status;
}

/* The member that has the least to read so far gets the next file. */
static int choose_member(const struct opening *o, uint64_t loads[], uint64_t bytes)
{
	int least = 0;
	for (int i = 1; i < o->sharing.members; i++)
		if (loads[i] < loads[least])
			least = i;
	loads[least] += bytes;
	return least;
}

static enum status verify_files(const struct checkpoint *c, const char *json, const cJSON *o)
{
	const struct opening *opening = c->opening;
	cJSON *files = NULL;
	const cJSON *entry;
	uint64_t bytes, loads[COLLECTIVE_RANKS] = {0};
	TRY(json_get_object(json, o, "files", &files));
	FAIL_IF(!cJSON_GetObjectItemCaseSensitive(files, "config.json") ||
			!cJSON_GetObjectItemCaseSensitive(files, "model.safetensors"),
		STATUS_CORRUPT, "%s: \"files\" lacks config.json or model.safetensors", json);
	cJSON_ArrayForEach (entry, files) {
		bool moments = strcmp(entry->string, OPTIMIZER) == 0;
		if (moments && opening->weights_only)
			continue;
		TRY(json_get_u64(json, entry, "bytes", &bytes));
		if (choose_member(opening, loads, bytes) != opening->sharing.member)
			continue;
		enum status status = verify_entry(c->path, json, entry, bytes);
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
	bool whole, parts, pickled;
	TRY(find_file(path, "model.safetensors", &whole));
	TRY(find_file(path, "model.safetensors.index.json", &parts));
	TRY(find_file(path, "pytorch_model.bin", &pickled));
	if (whole)
		return STATUS_OK;
	FAIL_IF(parts, STATUS_UNSUPPORTED,
		"%s: its weights are in several files; make it one: python3 -c 'from transformers import "
		"GPT2LMHeadModel as M; M.from_pretrained(\"%s\").save_pretrained(\"NEW\", "
		"max_shard_size=\"100GB\")'",
		path, path);
	FAIL_IF(pickled, STATUS_UNSUPPORTED,
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

static enum status open_parts(struct checkpoint *c, bool state_required)
{
	bool state, moments;
	TRY(find_file(c->path, "trainer.json", &state));
	TRY(find_file(c->path, OPTIMIZER, &moments));
	FAIL_IF(!state && state_required, STATUS_CORRUPT, "%s: trainer.json is missing", c->path);
	if (state)
		TRY(open_part(c, "trainer.json", read_state));
	TRY(open_part(c, "config.json", read_config));
	TRY(check_weights_there(c->path));
	TRY(open_part(c, "model.safetensors", open_model));
	return c->has_state && !c->opening->weights_only && moments ? open_part(c, OPTIMIZER, open_optimizer)
								    : STATUS_OK;
}

static enum status open_directory(
	const char *path, const struct opening *o, bool state_required, struct checkpoint **out)
{
	TRY(memory_alloc((void **)out, 1, sizeof **out, "a checkpoint"));
	(*out)->path = strdup(path);
	FAIL_IF(!(*out)->path, STATUS_MEMORY, "no memory for a path");
	(*out)->opening = o;
	enum status status = open_parts(*out, state_required);
	(*out)->opening = NULL;
	return status;
}

/* Which ranks have the very files that this one has. */
static enum status find_members(struct opening *o, const char *path)
{
	char thing[COLLECTIVE_THING] = "";
	struct stat info;
	if (stat(path, &info) == 0)
		snprintf(thing, sizeof thing, "%jx:%jx", (uintmax_t)info.st_dev, (uintmax_t)info.st_ino);
	return collective_find_sharing(o->ranks, thing, &o->sharing);
}

static enum status find_directory(const char *path, char chosen[PATH_MAX])
{
	bool there;
	TRY(file_find(path, &there));
	FAIL_IF(!there, STATUS_CORRUPT, "%s: is not there any more", path);
	return realpath(path, chosen) ? STATUS_OK
				      : error_set_errno(STATUS_IO, "%s: cannot open the directory", path);
}

/* Those who see rank 0's files have found them whole: what is wrong elsewhere is so with a copy. */
static enum status agree_on_opening(struct opening *o, enum status status)
{
	bool original = o->sharing.first == 0;
	TRY(collective_agree(o->ranks, original ? status : STATUS_OK));
	if (status == STATUS_CORRUPT)
		status = error_set(STATUS_MISMATCH,
			"%s (copy rank 0's checkpoint to this host, or put it where all hosts see it)",
			error_message());
	return collective_agree(o->ranks, status);
}

/* The one that rank 0 calls `path`. What is wrong with it, on whichever rank, is wrong for all. */
static enum status open_together(
	struct opening *o, const char *path, bool state_required, struct checkpoint **out)
{
	char chosen[PATH_MAX] = "";
	enum status status = o->ranks->rank == 0 ? find_directory(path, chosen) : STATUS_OK;
	TRY(collective_agree(o->ranks, status));
	TRY(collective_broadcast(o->ranks, chosen, sizeof chosen));
	TRY(find_members(o, chosen));
	status = agree_on_opening(o, open_directory(chosen, o, state_required, out));
	if (status != STATUS_OK) {
		checkpoint_close(*out);
		*out = NULL;
	}
	return status;
}

/* One that was named: there is no other to turn to. */
static enum status open_named(struct opening *o, const char *path, struct checkpoint **out)
{
	enum status status = open_together(o, path, false, out);
	FAIL_IF(status == STATUS_CORRUPT, status, "%s; restore it from a copy, or give another --load",
		error_message());
	return status;
}

static enum status open_step(struct opening *o, const char *run, uint64_t step, struct checkpoint **out)
{
	char name[CHECKPOINT_NAME], *path;
	checkpoint_name(step, name);
	TRY(path_join(&path, run, name));
	enum status status = open_together(o, path, true, out);
	free(path);
	if (status == STATUS_CORRUPT)
		log_warn("%s: passed over: %s", name, error_message());
	else if (status != STATUS_OK)
		status = error_set(status,
			"%s; %s may be whole for all that, so none older is taken and nothing is renamed: "
			"start again when that is mended, or move it out of the run, which then goes on from "
			"the one before it",
			error_message(), name);
	return status;
}

/* Only what is damaged is passed over. */
static enum status open_newest(
	struct opening *o, const char *run, const uint64_t *steps, size_t count, struct checkpoint **out)
{
	for (size_t i = count; i > 0; i--) {
		o->ranks->agreed = false; /* what all have heard of the one passed over ends nothing */
		enum status status = open_step(o, run, steps[i - 1], out);
		if (status != STATUS_CORRUPT)
			return status;
	}
	return error_set(STATUS_CORRUPT,
		"none of the run's %zu checkpoints is whole (%s); restore one from a copy, or train anew "
		"with another --save",
		count, error_message());
}

/* Is it a checkpoint, or else a run of which steps? */
struct found {
	bool checkpoint;
	size_t count;
	uint64_t *steps; /* [count], ascending */
};

static enum status look_at(const char *path, struct found *out)
{
	bool there, config, state;
	TRY(file_find(path, &there));
	FAIL_IF(!there, STATUS_IO, "%s: there is no such run or checkpoint; --load names one", path);
	TRY(find_file(path, "config.json", &config));
	TRY(find_file(path, "trainer.json", &state));
	out->checkpoint = config || state;
	if (out->checkpoint)
		return STATUS_OK;
	TRY(checkpoint_list(path, &out->steps, &out->count));
	FAIL_IF(!out->count, STATUS_USAGE,
		"%s: is neither a run (no step-* in it) nor a checkpoint (no config.json)", path);
	return STATUS_OK;
}

/* What rank 0 sees. */
static enum status tell_found(struct collective *ranks, struct found *found)
{
	TRY(collective_broadcast(ranks, &found->checkpoint, sizeof found->checkpoint));
	if (found->checkpoint)
		return STATUS_OK;
	TRY(collective_broadcast(ranks, &found->count, sizeof found->count));
	enum status status = STATUS_OK;
	if (ranks->rank > 0)
		status = memory_alloc(
			(void **)&found->steps, found->count + 1, sizeof(uint64_t), "a list of checkpoints");
	TRY(collective_agree(ranks, status));
	return collective_broadcast(ranks, found->steps, found->count * sizeof *found->steps);
}

enum status checkpoint_open_together(
	const char *path, bool weights_only, struct collective *ranks, struct checkpoint **out)
{
	struct opening opening = {.ranks = ranks, .weights_only = weights_only};
	struct found found = {0};
	*out = NULL;
	enum status status = collective_agree(ranks, ranks->rank == 0 ? look_at(path, &found) : STATUS_OK);
	if (status == STATUS_OK)
		status = tell_found(ranks, &found);
	if (status == STATUS_OK)
		status = found.checkpoint ? open_named(&opening, path, out)
					  : open_newest(&opening, path, found.steps, found.count, out);
	free(found.steps);
	return status;
}

enum status checkpoint_open(const char *path, struct checkpoint **out)
{
	struct collective alone = collective_open_single();
	return checkpoint_open_together(path, false, &alone, out);
}

enum status checkpoint_open_weights(const char *path, struct checkpoint **out)
{
	struct collective alone = collective_open_single();
	return checkpoint_open_together(path, true, &alone, out);
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
	bool vocabulary, merges;
	return find_file(c->path, "vocab.json", &vocabulary) == STATUS_OK && vocabulary &&
	       find_file(c->path, "merges.txt", &merges) == STATUS_OK && merges;
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

/* A tensor's elements to `out`, in the staging's kernels' memory; of several ranks, those that are this one's. */
static enum status read_staged(struct safetensors *file, const struct safetensors_tensor *tensor,
	struct staging *staging, float *out)
{
	for (uint64_t done = 0; done < tensor->elements;) {
		struct staging_wish wish =
			staging_next_wish(staging, out + done, (tensor->elements - done) * sizeof *out);
		uint64_t some = wish.take / sizeof *out;
		done += wish.skip / sizeof *out;
		if (some) {
			TRY(safetensors_read(file, tensor, done, some, staging_block(staging)));
			TRY(staging_write(staging, out + done, wish.take));
		}
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
