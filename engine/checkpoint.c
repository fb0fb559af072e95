#include "engine/checkpoint.h"

#include "common/file.h"
#include "common/json.h"
#include "common/log.h"
#include "common/memory.h"
#include "engine/safetensors.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { VERSION = 1, LARGEST_COUNT = 1 << 30 };
#define FORMAT "ferry-trainer"

/* ---- names ---- */

static void step_name(uint64_t step, char name[CHECKPOINT_NAME])
{
	snprintf(name, CHECKPOINT_NAME, "step-%08" PRIu64, step);
}

static bool parse_step_name(const char *name, uint64_t *step)
{
	if (strncmp(name, "step-", 5) != 0 || strlen(name) > 24 || strlen(name + 5) < 8)
		return false;
	if (strspn(name + 5, "0123456789") != strlen(name + 5))
		return false;
	errno = 0;
	*step = strtoull(name + 5, NULL, 10);
	return errno == 0;
}

/* run/NAME followed by a suffix, malloc'ed. */
static enum status join(char **out, const char *directory, const char *name, const char *suffix)
{
	if (asprintf(out, "%s/%s%s", directory, name, suffix) < 0) {
		*out = NULL;
		return error_set(STATUS_MEMORY, "no memory for a path");
	}
	return STATUS_OK;
}

static const char *temporary_suffix(char text[48])
{
	static unsigned counter;
	snprintf(text, 48, ".tmp-%ld-%u", (long)getpid(), __atomic_fetch_add(&counter, 1, __ATOMIC_RELAXED));
	return text;
}

static bool has_key(const cJSON *object, const char *key)
{
	return cJSON_GetObjectItemCaseSensitive(object, key) != NULL;
}

/* ---- config.json ---- */

/* The shortest decimal that is this float: 0.1f becomes 0.1 and not 0.10000000149. */
static double shortest(float number)
{
	for (int digits = 6; digits < 9; digits++) {
		char text[40];
		snprintf(text, sizeof text, "%.*g", digits, (double)number);
		if (strtof(text, NULL) == number)
			return strtod(text, NULL);
	}
	return (double)number;
}

static cJSON *compose_config(const struct checkpoint_contents *c)
{
	const struct model_config *m = c->config;
	cJSON *o = cJSON_CreateObject();
	cJSON *architectures = NULL;
	bool fine = cJSON_AddStringToObject(o, "activation_function", "gelu_new") &&
		    (architectures = cJSON_AddArrayToObject(o, "architectures")) &&
		    cJSON_AddItemToArray(architectures, cJSON_CreateString("GPT2LMHeadModel")) &&
		    cJSON_AddNumberToObject(o, "attn_pdrop", shortest(m->attention_dropout)) &&
		    cJSON_AddNumberToObject(o, "bos_token_id", c->eod) &&
		    cJSON_AddNumberToObject(o, "embd_pdrop", shortest(m->embedding_dropout)) &&
		    cJSON_AddNumberToObject(o, "eos_token_id", c->eod) &&
		    cJSON_AddNumberToObject(o, "initializer_range", 0.02) &&
		    cJSON_AddNumberToObject(o, "layer_norm_epsilon", shortest(m->layernorm_epsilon)) &&
		    cJSON_AddStringToObject(o, "model_type", "gpt2") &&
		    cJSON_AddNumberToObject(o, "n_ctx", m->positions) &&
		    cJSON_AddNumberToObject(o, "n_embd", m->hidden) &&
		    cJSON_AddNumberToObject(o, "n_head", m->heads) && cJSON_AddNullToObject(o, "n_inner") &&
		    cJSON_AddNumberToObject(o, "n_layer", m->layers) &&
		    cJSON_AddNumberToObject(o, "n_positions", m->positions) &&
		    cJSON_AddNumberToObject(o, "resid_pdrop", shortest(m->hidden_dropout)) &&
		    cJSON_AddTrueToObject(o, "scale_attn_weights") &&
		    cJSON_AddTrueToObject(o, "tie_word_embeddings") &&
		    cJSON_AddStringToObject(o, "torch_dtype", "float32") &&
		    cJSON_AddTrueToObject(o, "use_cache") &&
		    cJSON_AddNumberToObject(o, "vocab_size", m->vocabulary);
	if (fine)
		return o;
	cJSON_Delete(o);
	return NULL;
}

static enum status get_int(const char *path, const cJSON *object, const char *key, int *out)
{
	uint64_t number;
	TRY(json_get_u64(path, object, key, &number));
	FAIL_IF(number > LARGEST_COUNT, STATUS_CORRUPT,
		"%s: key \"%s\" is %" PRIu64 ", which is not possible", path, key, number);
	*out = (int)number;
	return STATUS_OK;
}

/* Keys that Hugging Face may leave out have GPT2Config's defaults. */
static enum status get_dropout(const char *path, const cJSON *object, const char *key, float *out)
{
	double number = 0.1;
	if (has_key(object, key))
		TRY(json_get_double(path, object, key, &number));
	FAIL_IF(!(number >= 0 && number < 1), STATUS_CORRUPT, "%s: key \"%s\" is no dropout: %g", path, key,
		number);
	*out = (float)number;
	return STATUS_OK;
}

static enum status demand_bool(const char *path, const cJSON *object, const char *key, bool wanted)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
	FAIL_IF(item && cJSON_IsTrue(item) != wanted, STATUS_UNSUPPORTED,
		"%s: \"%s\" is %s; ferry's GPT-2 does not have that", path, key, wanted ? "false" : "true");
	return STATUS_OK;
}

/* What makes another model of it than ferry's GPT-2. */
static enum status check_kind(const char *path, const cJSON *o)
{
	static const char *const same[] = {"gelu_new", "gelu_pytorch_tanh"};
	const char *type = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(o, "model_type"));
	FAIL_IF(type && strcmp(type, "gpt2") != 0, STATUS_UNSUPPORTED,
		"%s: the model is of type \"%s\"; ferry takes \"gpt2\"", path, type);
	const cJSON *activation = cJSON_GetObjectItemCaseSensitive(o, "activation_function");
	const char *name = cJSON_GetStringValue(activation);
	FAIL_IF(activation && !(name && (strcmp(name, same[0]) == 0 || strcmp(name, same[1]) == 0)),
		STATUS_UNSUPPORTED, "%s: the activation is \"%s\"; ferry's GPT-2 has gelu_new (tanh)", path,
		name ? name : "?");
	TRY(demand_bool(path, o, "tie_word_embeddings", true));
	TRY(demand_bool(path, o, "scale_attn_weights", true));
	TRY(demand_bool(path, o, "scale_attn_by_inverse_layer_idx", false));
	return demand_bool(path, o, "add_cross_attention", false);
}

static enum status take_config(const char *path, const cJSON *o, struct model_config *m, uint32_t *eod)
{
	int id = 0;
	double epsilon = 1e-5;
	FAIL_IF(!cJSON_IsObject(o), STATUS_CORRUPT, "%s: is not a JSON object", path);
	TRY(check_kind(path, o));
	TRY(get_int(path, o, "n_layer", &m->layers));
	TRY(get_int(path, o, "n_embd", &m->hidden));
	TRY(get_int(path, o, "n_head", &m->heads));
	TRY(get_int(path, o, "n_positions", &m->positions));
	TRY(get_int(path, o, "vocab_size", &m->vocabulary));
	TRY(get_dropout(path, o, "embd_pdrop", &m->embedding_dropout));
	TRY(get_dropout(path, o, "attn_pdrop", &m->attention_dropout));
	TRY(get_dropout(path, o, "resid_pdrop", &m->hidden_dropout));
	if (has_key(o, "layer_norm_epsilon"))
		TRY(json_get_double(path, o, "layer_norm_epsilon", &epsilon));
	m->layernorm_epsilon = (float)epsilon;
	m->vocabulary_padded = (m->vocabulary + 127) / 128 * 128;
	const cJSON *inner = cJSON_GetObjectItemCaseSensitive(o, "n_inner");
	FAIL_IF(inner && !cJSON_IsNull(inner) && inner->valuedouble != 4.0 * m->hidden, STATUS_UNSUPPORTED,
		"%s: n_inner is %g; ferry's GPT-2 has 4 * n_embd = %.0f", path, inner->valuedouble,
		4.0 * m->hidden);
	*eod = m->vocabulary ? (uint32_t)m->vocabulary - 1 : 0;
	if (cJSON_IsNumber(cJSON_GetObjectItemCaseSensitive(o, "eos_token_id"))) {
		TRY(get_int(path, o, "eos_token_id", &id));
		*eod = (uint32_t)id;
	}
	enum status status = model_config_check(m);
	return status == STATUS_OK ? status : error_context(STATUS_CORRUPT, "%s", path);
}

/* ---- trainer.json ---- */

/*
 * cJSON prints 15 digits where it finds them "equal", to within an epsilon: not the same bits. So a double
 * that 15 digits do not give back goes as a string of 17.
 */
static bool add_double(cJSON *object, const char *key, double number)
{
	char text[40];
	snprintf(text, sizeof text, "%.15g", number);
	if (strtod(text, NULL) == number)
		return cJSON_AddNumberToObject(object, key, number);
	snprintf(text, sizeof text, "%.17g", number);
	return cJSON_AddStringToObject(object, key, text);
}

static enum status get_double(const char *path, const cJSON *object, const char *key, double *out)
{
	const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, key));
	char *end;
	if (!text)
		return json_get_double(path, object, key, out);
	*out = strtod(text, &end);
	FAIL_IF(!*text || *end || !isfinite(*out), STATUS_CORRUPT, "%s: key \"%s\" is not a number", path,
		key);
	return STATUS_OK;
}

static bool add_source(cJSON *sources, const struct checkpoint_source *s)
{
	cJSON *o = cJSON_CreateObject();
	return o && cJSON_AddItemToArray(sources, o) && json_add_hash128(o, "corpus", s->corpus) &&
	       json_add_u64(o, "share", s->share) && json_add_u64(o, "ordinal", s->position.ordinal) &&
	       json_add_u64(o, "epoch", s->position.epoch) &&
	       json_add_u64(o, "epoch_window", s->position.epoch_window) &&
	       json_add_u64(o, "epoch_tokens", s->position.epoch_tokens);
}

static bool add_data(cJSON *o, const struct checkpoint_state *s)
{
	cJSON *data = cJSON_AddObjectToObject(o, "data");
	bool fine = data && cJSON_AddStringToObject(data, "split", s->split) &&
		    json_add_u64(data, "seed", s->seed) &&
		    json_add_u64(data, "window_tokens", s->window_tokens) &&
		    json_add_u64(data, "ordinal", s->ordinal);
	cJSON *sources = fine ? cJSON_AddArrayToObject(data, "sources") : NULL;
	fine = sources;
	for (int i = 0; i < s->source_count && fine; i++)
		fine = add_source(sources, &s->sources[i]);
	return fine;
}

static bool add_loss_scale(cJSON *o, const struct loss_scale *s)
{
	cJSON *scale = cJSON_AddObjectToObject(o, "loss_scale");
	return scale && cJSON_AddBoolToObject(scale, "dynamic", s->dynamic) &&
	       add_double(scale, "scale", s->scale) && add_double(scale, "minimum", s->minimum) &&
	       json_add_u64(scale, "window", s->window) && json_add_u64(scale, "hysteresis", s->hysteresis) &&
	       json_add_u64(scale, "hysteresis_left", s->hysteresis_left) &&
	       json_add_u64(scale, "iteration", s->iteration) &&
	       cJSON_AddNumberToObject(scale, "last_overflow", (double)s->last_overflow);
}

static bool add_schedule(cJSON *o, const struct schedule *s)
{
	cJSON *schedule = cJSON_AddObjectToObject(o, "schedule");
	return schedule && cJSON_AddStringToObject(schedule, "style", schedule_style_name(s->style)) &&
	       add_double(schedule, "learning_rate", s->learning_rate) &&
	       add_double(schedule, "minimum", s->minimum) && add_double(schedule, "warmup", s->warmup) &&
	       json_add_u64(schedule, "decay_iters", s->decay_iters);
}

static bool add_validation(cJSON *o, const struct overfitting *s)
{
	cJSON *v = cJSON_AddObjectToObject(o, "validation");
	cJSON *t = cJSON_AddObjectToObject(o, "train_loss");
	return v && t && json_add_u64(v, "evaluations", s->evaluations) &&
	       json_add_u64(v, "best_step", s->best_step) && add_double(v, "best_loss", s->best_loss) &&
	       add_double(v, "best_train_loss", s->best_train_loss) &&
	       json_add_u64(v, "since_best", s->since_best) &&
	       cJSON_AddBoolToObject(v, "warned", s->warned) && add_double(t, "smoothed", s->smoothed) &&
	       add_double(t, "weight", s->smoothed_weight);
}

static bool add_circumstances(cJSON *o, const struct checkpoint_state *s)
{
	cJSON *made = cJSON_AddObjectToObject(o, "made_with");
	return made && cJSON_AddStringToObject(made, "precision", s->precision) &&
	       cJSON_AddStringToObject(made, "kernels", s->kernels) &&
	       json_add_u64(made, "threads", s->threads) &&
	       json_add_item(o, "arguments",
		       s->arguments ? cJSON_Duplicate(s->arguments, true) : cJSON_CreateObject());
}

/* Everything but "files" and "hash". */
static cJSON *compose_state(const struct checkpoint_state *s)
{
	cJSON *o = cJSON_CreateObject();
	bool fine = cJSON_AddStringToObject(o, "format", FORMAT) &&
		    cJSON_AddNumberToObject(o, "version", VERSION) &&
		    cJSON_AddStringToObject(o, "program", "ferry " FERRY_VERSION) &&
		    json_add_u64(o, "step", s->step) && json_add_u64(o, "updates", s->updates) &&
		    json_add_u64(o, "skipped", s->skipped) && json_add_u64(o, "tokens", s->tokens) &&
		    add_data(o, s) && add_loss_scale(o, &s->loss_scale) && add_schedule(o, &s->schedule) &&
		    add_validation(o, &s->overfitting) && add_circumstances(o, s);
	if (fine)
		return o;
	cJSON_Delete(o);
	return NULL;
}

static enum status get_u32(const char *path, const cJSON *object, const char *key, uint32_t *out)
{
	int number = 0;
	TRY(get_int(path, object, key, &number));
	*out = (uint32_t)number;
	return STATUS_OK;
}

static enum status get_text(const char *path, const cJSON *object, const char *key, char *out, size_t room)
{
	const char *text = NULL;
	TRY(json_get_string(path, object, key, &text));
	FAIL_IF(strlen(text) >= room, STATUS_CORRUPT, "%s: key \"%s\" is too long", path, key);
	memcpy(out, text, strlen(text) + 1);
	return STATUS_OK;
}

static enum status take_source(const char *path, const cJSON *o, struct checkpoint_source *s)
{
	TRY(json_get_hash128(path, o, "corpus", &s->corpus));
	TRY(json_get_u64(path, o, "share", &s->share));
	TRY(json_get_u64(path, o, "ordinal", &s->position.ordinal));
	TRY(json_get_u64(path, o, "epoch", &s->position.epoch));
	TRY(json_get_u64(path, o, "epoch_window", &s->position.epoch_window));
	return json_get_u64(path, o, "epoch_tokens", &s->position.epoch_tokens);
}

static enum status take_data(const char *path, const cJSON *o, struct checkpoint_state *s)
{
	cJSON *data = NULL, *sources = NULL;
	const cJSON *item;
	TRY(json_get_object(path, o, "data", &data));
	TRY(get_text(path, data, "split", s->split, sizeof s->split));
	TRY(json_get_u64(path, data, "seed", &s->seed));
	TRY(json_get_u64(path, data, "window_tokens", &s->window_tokens));
	TRY(json_get_u64(path, data, "ordinal", &s->ordinal));
	TRY(json_get_array(path, data, "sources", &sources));
	uint64_t sum = 0;
	cJSON_ArrayForEach (item, sources) {
		FAIL_IF(s->source_count == MIXTURE_LIMIT, STATUS_CORRUPT, "%s: more than %d \"sources\"",
			path, MIXTURE_LIMIT);
		struct checkpoint_source *source = &s->sources[s->source_count++];
		TRY(take_source(path, item, source));
		sum += source->position.ordinal;
	}
	FAIL_IF(!s->source_count || sum != s->ordinal, STATUS_CORRUPT,
		"%s: the \"sources\" do not add up to \"ordinal\"", path);
	return STATUS_OK;
}

static enum status take_loss_scale(const char *path, const cJSON *o, struct loss_scale *s)
{
	cJSON *scale = NULL;
	double last = 0;
	TRY(json_get_object(path, o, "loss_scale", &scale));
	TRY(json_get_bool(path, scale, "dynamic", &s->dynamic));
	TRY(get_double(path, scale, "scale", &s->scale));
	TRY(get_double(path, scale, "minimum", &s->minimum));
	TRY(json_get_u64(path, scale, "window", &s->window));
	TRY(get_u32(path, scale, "hysteresis", &s->hysteresis));
	TRY(get_u32(path, scale, "hysteresis_left", &s->hysteresis_left));
	TRY(json_get_u64(path, scale, "iteration", &s->iteration));
	TRY(get_double(path, scale, "last_overflow", &last));
	FAIL_IF(!(last >= -1 && last < 9007199254740992.0), STATUS_CORRUPT,
		"%s: key \"last_overflow\" is no step", path);
	s->last_overflow = (int64_t)last;
	enum status status = loss_scale_check(s);
	return status == STATUS_OK ? status : error_context(STATUS_CORRUPT, "%s", path);
}

static enum status take_schedule(const char *path, const cJSON *o, struct schedule *s)
{
	cJSON *schedule = NULL;
	const char *style = NULL;
	TRY(json_get_object(path, o, "schedule", &schedule));
	TRY(json_get_string(path, schedule, "style", &style));
	TRY(get_double(path, schedule, "learning_rate", &s->learning_rate));
	TRY(get_double(path, schedule, "minimum", &s->minimum));
	TRY(get_double(path, schedule, "warmup", &s->warmup));
	TRY(json_get_u64(path, schedule, "decay_iters", &s->decay_iters));
	enum status status = schedule_style_parse(style, &s->style);
	if (status == STATUS_OK)
		status = schedule_check(s);
	return status == STATUS_OK ? status : error_context(STATUS_CORRUPT, "%s", path);
}

static enum status take_validation(const char *path, const cJSON *o, struct overfitting *s)
{
	cJSON *v = NULL, *t = NULL;
	TRY(json_get_object(path, o, "validation", &v));
	TRY(json_get_u64(path, v, "evaluations", &s->evaluations));
	TRY(json_get_u64(path, v, "best_step", &s->best_step));
	TRY(get_double(path, v, "best_loss", &s->best_loss));
	TRY(get_double(path, v, "best_train_loss", &s->best_train_loss));
	TRY(json_get_u64(path, v, "since_best", &s->since_best));
	TRY(json_get_bool(path, v, "warned", &s->warned));
	TRY(json_get_object(path, o, "train_loss", &t));
	TRY(get_double(path, t, "smoothed", &s->smoothed));
	return get_double(path, t, "weight", &s->smoothed_weight);
}

static enum status take_state(const char *path, cJSON *o, struct checkpoint_state *s)
{
	cJSON *made = NULL, *arguments = NULL;
	TRY(json_get_u64(path, o, "step", &s->step));
	TRY(json_get_u64(path, o, "updates", &s->updates));
	TRY(json_get_u64(path, o, "skipped", &s->skipped));
	TRY(json_get_u64(path, o, "tokens", &s->tokens));
	FAIL_IF(s->updates > s->step || s->step - s->updates != s->skipped, STATUS_CORRUPT,
		"%s: %" PRIu64 " updates and %" PRIu64 " skipped steps do not make %" PRIu64, path,
		s->updates, s->skipped, s->step);
	TRY(take_data(path, o, s));
	TRY(take_loss_scale(path, o, &s->loss_scale));
	TRY(take_schedule(path, o, &s->schedule));
	TRY(take_validation(path, o, &s->overfitting));
	TRY(json_get_object(path, o, "made_with", &made));
	TRY(get_text(path, made, "precision", s->precision, sizeof s->precision));
	TRY(get_text(path, made, "kernels", s->kernels, sizeof s->kernels));
	TRY(get_u32(path, made, "threads", &s->threads));
	TRY(json_get_object(path, o, "arguments", &arguments));
	s->arguments = cJSON_Duplicate(arguments, true);
	FAIL_IF(!s->arguments, STATUS_MEMORY, "%s: no memory for its arguments", path);
	return STATUS_OK;
}

/* ---- writing ---- */

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
	TRY_GOTO(status, done, join(&path, directory, name, ""));
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
	TRY(join(&path, directory, name, ""));
	enum status status = file_publish(path, data, bytes);
	if (status == STATUS_OK && !record_file(files, name, hash128(data, bytes), bytes))
		status = error_set(STATUS_MEMORY, "%s: no memory to list it", path);
	free(path);
	return status;
}

static enum status write_config(const char *directory, const struct checkpoint_contents *c, cJSON *files)
{
	cJSON *config = compose_config(c);
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
	cJSON *o = compose_state(state);
	if (!json_add_item(o, "files", files)) {
		cJSON_Delete(o);
		return error_set(STATUS_MEMORY, "%s: no memory for trainer.json", directory);
	}
	enum status status;
	TRY_GOTO(status, done, join(&path, directory, "trainer.json", ""));
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

/* Removes what a failed write left; the first error stays. */
static void discard(const char *directory)
{
	struct error_copy copy;
	error_save(STATUS_IO, &copy);
	(void)!directory_remove(directory);
	(void)!error_restore(&copy);
}

enum status checkpoint_write_directory(const char *path, const struct checkpoint_contents *contents)
{
	char suffix[48], *temporary;
	FAIL_IF(file_exists(path), STATUS_USAGE, "%s: exists already; give another name or remove it", path);
	if (asprintf(&temporary, "%s%s", path, temporary_suffix(suffix)) < 0)
		return error_set(STATUS_MEMORY, "no memory for a path");
	enum status status = write_contents(temporary, contents);
	if (status == STATUS_OK)
		status = file_rename(temporary, path);
	if (status != STATUS_OK)
		discard(temporary);
	free(temporary);
	return status;
}

/* Deletion is a rename first, so that a checkpoint is never there in part. */
static enum status remove_whole(const char *path)
{
	char suffix[48], *temporary;
	if (!file_exists(path))
		return STATUS_OK;
	if (asprintf(&temporary, "%s%s", path, temporary_suffix(suffix)) < 0)
		return error_set(STATUS_MEMORY, "no memory for a path");
	enum status status = file_rename(path, temporary);
	if (status == STATUS_OK)
		status = directory_remove(temporary);
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
		return directory_remove(temporary);
	TRY(remove_whole(path));
	return file_rename(temporary, path);
}

enum status checkpoint_write(
	const char *run, const struct checkpoint_contents *contents, char name[CHECKPOINT_NAME])
{
	char suffix[48], *path = NULL, *temporary = NULL;
	enum status status;
	step_name(contents->state->step, name);
	TRY(directory_create(run));
	TRY_GOTO(status, done, join(&path, run, name, ""));
	TRY_GOTO(status, done, join(&temporary, run, name, temporary_suffix(suffix)));
	status = write_contents(temporary, contents);
	if (status == STATUS_OK)
		status = put_in_place(temporary, path);
	if (status != STATUS_OK)
		discard(temporary);
done:
	free(path);
	free(temporary);
	return status;
}

enum status checkpoint_mark_best(const char *run, const char *name)
{
	char *link;
	TRY(join(&link, run, "best", ""));
	enum status status = file_publish_link(link, name);
	free(link);
	return status;
}

static int compare_steps(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

enum status checkpoint_list(const char *run, uint64_t **steps, size_t *count)
{
	char **names;
	size_t all;
	*steps = NULL;
	*count = 0;
	if (!file_exists(run))
		return STATUS_OK;
	TRY(directory_list(run, &names, &all));
	enum status status = memory_alloc((void **)steps, all + 1, sizeof **steps, "a list of checkpoints");
	for (size_t i = 0; i < all && status == STATUS_OK; i++)
		if (parse_step_name(names[i], &(*steps)[*count]))
			++*count;
	directory_list_free(names, all);
	if (*count)
		qsort(*steps, *count, sizeof **steps, compare_steps);
	return status;
}

/* The step that run/best points to; UINT64_MAX: none. */
static enum status best_step(const char *run, uint64_t *step)
{
	char *link, target[64];
	*step = UINT64_MAX;
	TRY(join(&link, run, "best", ""));
	ssize_t length = readlink(link, target, sizeof target - 1);
	free(link);
	if (length < 0)
		return STATUS_OK;
	target[length] = 0;
	if (!parse_step_name(target, step))
		*step = UINT64_MAX;
	return STATUS_OK;
}

static enum status remove_step(const char *run, uint64_t step)
{
	char name[CHECKPOINT_NAME], *path;
	step_name(step, name);
	TRY(join(&path, run, name, ""));
	enum status status = remove_whole(path);
	free(path);
	return status;
}

enum status checkpoint_prune(const char *run, int keep)
{
	uint64_t *steps, best;
	size_t count;
	TRY(best_step(run, &best));
	TRY(checkpoint_list(run, &steps, &count));
	enum status status = STATUS_OK;
	for (size_t i = 0; i + (size_t)keep < count && status == STATUS_OK; i++)
		if (steps[i] != best)
			status = remove_step(run, steps[i]);
	free(steps);
	return status;
}

enum status checkpoint_remove_after(const char *run, uint64_t step)
{
	uint64_t *steps, best;
	size_t count;
	char *link;
	TRY(best_step(run, &best));
	if (best != UINT64_MAX && best > step) {
		TRY(join(&link, run, "best", ""));
		enum status removed = file_remove(link);
		free(link);
		TRY(removed);
		TRY(directory_sync(run)); /* it never points to nothing */
	}
	TRY(checkpoint_list(run, &steps, &count));
	enum status status = STATUS_OK;
	for (size_t i = count; i > 0 && status == STATUS_OK; i--)
		if (steps[i - 1] > step)
			status = remove_step(run, steps[i - 1]);
	free(steps);
	return status;
}

static enum status set_aside(const char *run, uint64_t step)
{
	char name[CHECKPOINT_NAME], *path = NULL, *aside = NULL;
	step_name(step, name);
	enum status status;
	TRY_GOTO(status, done, join(&path, run, name, ""));
	TRY_GOTO(status, done, join(&aside, run, "damaged-", name));
	status = directory_remove(aside); /* of an earlier time */
	if (status == STATUS_OK)
		status = file_rename(path, aside);
done:
	free(path);
	free(aside);
	return status;
}

enum status checkpoint_set_aside_after(const char *run, uint64_t step)
{
	uint64_t *steps;
	size_t count;
	TRY(checkpoint_list(run, &steps, &count));
	enum status status = STATUS_OK;
	for (size_t i = 0; i < count && status == STATUS_OK; i++)
		if (steps[i] > step)
			status = set_aside(run, steps[i]);
	free(steps);
	return status;
}

enum status checkpoint_clean(const char *run)
{
	char **names;
	size_t count;
	if (!file_exists(run))
		return STATUS_OK;
	TRY(directory_list(run, &names, &count));
	enum status status = STATUS_OK;
	for (size_t i = 0; i < count && status == STATUS_OK; i++) {
		char *path;
		if (!strstr(names[i], ".tmp-"))
			continue;
		status = join(&path, run, names[i], "");
		if (status == STATUS_OK) {
			status = directory_remove(path);
			free(path);
		}
	}
	directory_list_free(names, count);
	return status;
}

/* ---- reading ---- */

struct checkpoint {
	char *path;
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
	TRY(join(&path, directory, entry->string, ""));
	enum status status = verify_file(path, bytes, hash);
	free(path);
	return status;
}

static enum status verify_files(const char *directory, const char *json, const cJSON *o)
{
	cJSON *files = NULL;
	const cJSON *entry;
	TRY(json_get_object(json, o, "files", &files));
	FAIL_IF(!has_key(files, "config.json") || !has_key(files, "model.safetensors"), STATUS_CORRUPT,
		"%s: \"files\" lacks config.json or model.safetensors", json);
	cJSON_ArrayForEach (entry, files)
		TRY(verify_entry(directory, json, entry));
	return STATUS_OK;
}

static enum status check_own_hash(const char *json, cJSON *o)
{
	uint64_t version = 0;
	const char *format = NULL;
	FAIL_IF(!cJSON_IsObject(o), STATUS_CORRUPT, "%s: is not a JSON object", json);
	TRY(json_get_string(json, o, "format", &format));
	FAIL_IF(strcmp(format, FORMAT) != 0, STATUS_CORRUPT, "%s: its format is \"%s\", not " FORMAT, json,
		format);
	TRY(json_get_u64(json, o, "version", &version));
	FAIL_IF(version != VERSION, STATUS_UNSUPPORTED,
		"%s: its version is %" PRIu64 "; this ferry reads %d (use a newer ferry)", json, version,
		VERSION);
	return json_unseal(json, o);
}

static enum status read_state(struct checkpoint *c, const char *json)
{
	cJSON *o;
	TRY(json_read_file(json, &o));
	enum status status = check_own_hash(json, o);
	if (status == STATUS_OK)
		status = verify_files(c->path, json, o);
	if (status == STATUS_OK)
		status = take_state(json, o, &c->state);
	c->has_state = status == STATUS_OK;
	cJSON_Delete(o);
	return status;
}

static enum status read_config(struct checkpoint *c, const char *json)
{
	cJSON *o;
	TRY(json_read_file(json, &o));
	enum status status = take_config(json, o, &c->config, &c->eod);
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
	TRY(join(&path, c->path, name, ""));
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

static enum status open_directory(const char *path, bool state_required, struct checkpoint **out)
{
	struct checkpoint *c;
	enum status status;
	*out = NULL;
	TRY(memory_alloc((void **)&c, 1, sizeof *c, "a checkpoint"));
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
	if (c->has_state && has_file(path, "optimizer.safetensors"))
		TRY_GOTO(status, done, open_part(c, "optimizer.safetensors", open_optimizer));
	*out = c;
	return STATUS_OK;
done:
	checkpoint_close(c);
	return status;
}

static enum status open_newest(const char *run, const uint64_t *steps, size_t count, struct checkpoint **out)
{
	for (size_t i = count; i > 0; i--) {
		char name[CHECKPOINT_NAME], *path;
		step_name(steps[i - 1], name);
		TRY(join(&path, run, name, ""));
		enum status status = open_directory(path, true, out);
		free(path);
		if (status == STATUS_OK || status == STATUS_MEMORY)
			return status;
		log_warn("%s: passed over: %s", name, error_message());
	}
	return error_set(STATUS_CORRUPT,
		"%s: none of its %zu checkpoints is whole (%s); start again with another --save", run, count,
		error_message());
}

enum status checkpoint_open(const char *path, struct checkpoint **out)
{
	uint64_t *steps;
	size_t count;
	*out = NULL;
	FAIL_IF(!file_exists(path), STATUS_IO, "%s: does not exist", path);
	if (has_file(path, "config.json") || has_file(path, "trainer.json"))
		return open_directory(path, false, out);
	TRY(checkpoint_list(path, &steps, &count));
	enum status status =
		count ? open_newest(path, steps, count, out)
		      : error_set(STATUS_USAGE,
				"%s: is neither a run (no step-* in it) nor a checkpoint (no config.json)",
				path);
	free(steps);
	return status;
}

void checkpoint_close(struct checkpoint *c)
{
	if (!c)
		return;
	free(c->path);
	cJSON_Delete(c->state.arguments);
	safetensors_close(c->model);
	safetensors_close(c->optimizer);
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
		uint64_t end = i + 1 < table->count ? table->items[i + 1].offset : table->elements;
		TRY(read_tensor(file, tensor, staging, out + p->offset, end - p->offset));
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
		"%s: has no optimizer.safetensors; start from its weights alone with --finetune", c->path);
	TRY(read_set(c->path, c->optimizer, "exp_avg.", table, staging, exp_avg));
	return read_set(c->path, c->optimizer, "exp_avg_sq.", table, staging, exp_avg_sq);
}
