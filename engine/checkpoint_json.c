/* config.json and trainer.json of a checkpoint. */
#include "engine/checkpoint_parts.h"

#include "common/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LARGEST_COUNT = 1 << 30 };

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

cJSON *checkpoint_compose_config(const struct checkpoint_contents *c)
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

enum status checkpoint_take_config(const char *path, const cJSON *o, struct model_config *m, uint32_t *eod)
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
	       (s->ranks < 2 || json_add_u64(made, "ranks", s->ranks)) &&
	       (!s->choices || json_add_item(made, "choices", cJSON_Duplicate(s->choices, true))) &&
	       json_add_item(o, "arguments",
		       s->arguments ? cJSON_Duplicate(s->arguments, true) : cJSON_CreateObject());
}

/* Everything but "files" and "hash". */
cJSON *checkpoint_compose_state(const struct checkpoint_state *s)
{
	cJSON *o = cJSON_CreateObject();
	bool fine = cJSON_AddStringToObject(o, "format", CHECKPOINT_FORMAT) &&
		    cJSON_AddNumberToObject(o, "version", CHECKPOINT_VERSION) &&
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

/* May be missing: kernels that choose nothing, and checkpoints of an older ferry. */
static enum status take_choices(const char *path, const cJSON *made, cJSON **out)
{
	cJSON *choices = NULL;
	const cJSON *item;
	if (!has_key(made, "choices"))
		return STATUS_OK;
	TRY(json_get_array(path, made, "choices", &choices));
	cJSON_ArrayForEach (item, choices)
		FAIL_IF(!cJSON_IsString(item), STATUS_CORRUPT, "%s: one of its \"choices\" is no text", path);
	*out = cJSON_Duplicate(choices, true);
	FAIL_IF(!*out, STATUS_MEMORY, "%s: no memory for its choices", path);
	return STATUS_OK;
}

enum status checkpoint_take_state(const char *path, const cJSON *o, struct checkpoint_state *s)
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
	s->ranks = 1;
	if (cJSON_GetObjectItemCaseSensitive(made, "ranks"))
		TRY(get_u32(path, made, "ranks", &s->ranks));
	TRY(take_choices(path, made, &s->choices));
	TRY(json_get_object(path, o, "arguments", &arguments));
	s->arguments = cJSON_Duplicate(arguments, true);
	FAIL_IF(!s->arguments, STATUS_MEMORY, "%s: no memory for its arguments", path);
	return STATUS_OK;
}
