/* What the kernels chose is recorded in checkpoints, and what a resumed run computes with, where they are the same. */
#include "common/json.h"
#include "tests/unit/engine/trainer_rig.h"

/* ---- the CPU's table with choices: "first" and "second" are made by the first operation, unless they were set ---- */

static struct {
	char name[96];
	const char *lacks; /* a text that choice_set refuses, or NULL */
	char said[256];    /* what choice_set was given, each behind a space */
	bool begun, late;  /* an operation has run; a choice was set behind it */
	void (*embedding_forward)(struct kernels *k, struct stream *s, void *out, const int32_t *tokens,
		const int32_t *positions, const void *wte, const void *wpe, int B, int T_, int C,
		const struct dropout *drop);
} chosen;

static void first_operation(struct kernels *k, struct stream *s, void *out, const int32_t *tokens,
	const int32_t *positions, const void *wte, const void *wpe, int B, int T_, int C,
	const struct dropout *drop)
{
	chosen.begun = true;
	chosen.embedding_forward(k, s, out, tokens, positions, wte, wpe, B, T_, C, drop);
}

static bool get_choice(struct kernels *k, int i, char text[KERNELS_CHOICE])
{
	(void)k;
	static const char *const texts[] = {"z first", "a \"second\""};
	if (i > 1 || !chosen.begun)
		return false;
	snprintf(text, KERNELS_CHOICE, "%s", texts[i]);
	return true;
}

static bool set_choice(struct kernels *k, const char *text)
{
	(void)k;
	size_t used = strlen(chosen.said);
	snprintf(chosen.said + used, sizeof chosen.said - used, " %s", text);
	chosen.late = chosen.late || chosen.begun;
	return !chosen.lacks || strcmp(text, chosen.lacks) != 0;
}

static enum status choosing_open(const struct kernels_config *config, struct kernels *out)
{
	TRY(kernels_open_cpu(config, out));
	chosen.embedding_forward = out->embedding_forward;
	out->embedding_forward = first_operation;
	out->choice_get = get_choice;
	out->choice_set = set_choice;
	if (chosen.name[0])
		memcpy(out->name, chosen.name, sizeof out->name);
	chosen.said[0] = 0;
	chosen.begun = chosen.late = false;
	return STATUS_OK;
}

static struct trainer_config choosing(uint64_t steps)
{
	struct trainer_config config = base_config();
	config.open_device = choosing_open;
	config.train_iters = steps;
	memset(&chosen, 0, sizeof chosen);
	notices[0] = 0;
	return config;
}

static void run_once(struct trainer_config *config)
{
	struct story story = {0};
	go(&story, config);
	trainer_close(story.trainer);
}

static void run_on(struct trainer_config *config)
{
	struct story story = {0};
	go_on(&story, config, run);
	trainer_close(story.trainer);
}

/* ---- checkpoints ---- */

static void check_recorded(const char *first, const char *second)
{
	struct checkpoint *c;
	assert_ok(checkpoint_open(run, &c));
	const cJSON *choices = checkpoint_get_state(c)->choices;
	assert_int_equal(cJSON_GetArraySize(choices), 2);
	assert_string_equal(cJSON_GetArrayItem(choices, 0)->valuestring, first);
	assert_string_equal(cJSON_GetArrayItem(choices, 1)->valuestring, second);
	checkpoint_close(c);
}

static void choices_are_recorded(void **state)
{
	(void)state;
	struct trainer_config config = choosing(2);
	run_once(&config);
	assert_string_equal(chosen.said, "");
	check_recorded("z first", "a \"second\"");
}

static void kernels_that_choose_nothing_record_nothing(void **state)
{
	(void)state;
	struct trainer_config config = choosing(2);
	char path[120], *text;
	size_t bytes;
	config.open_device = NULL;
	run_once(&config);
	snprintf(path, sizeof path, "%s/step-00000002/trainer.json", run);
	assert_ok(file_read_all(path, 1 << 20, &text, &bytes));
	assert_null(strstr(text, "choices"));
	free(text);
}

/* Puts another value in the place of trainer.json's choices, with the right seal. */
static void replace_choices(const char *json)
{
	char path[120];
	cJSON *o;
	snprintf(path, sizeof path, "%s/step-00000002/trainer.json", run);
	assert_ok(json_read_file(path, &o));
	assert_ok(json_unseal(path, o));
	cJSON *value = cJSON_Parse(json);
	assert_non_null(value);
	assert_true(cJSON_ReplaceItemInObjectCaseSensitive(
		cJSON_GetObjectItem(o, "made_with"), "choices", value));
	assert_ok(json_seal(path, o));
	assert_ok(json_publish(path, o));
	cJSON_Delete(o);
}

static void what_is_no_text_is_no_choice(void **state)
{
	(void)state;
	static const char *const wrong[] = {
		"7", "{}", "\"z first\"", "[\"z first\", 7]", "[null]", "[[\"z\"]]"};
	struct trainer_config config = choosing(2);
	run_once(&config);
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		struct checkpoint *c;
		char path[100];
		snprintf(path, sizeof path, "%s/step-00000002", run);
		replace_choices(wrong[i]);
		assert_int_equal(checkpoint_open(path, &c), STATUS_CORRUPT);
		assert_non_null(strstr(error_message(), "choices"));
	}
}

/* ---- resuming ---- */

static void a_resumed_run_computes_as_before(void **state)
{
	(void)state;
	struct trainer_config config = choosing(2);
	run_once(&config);
	config.train_iters = 4;
	run_on(&config);
	assert_string_equal(chosen.said, " z first a \"second\"");
	assert_false(chosen.late);
	assert_string_equal(notices, "");
	check_recorded("z first", "a \"second\"");
}

static void other_kernels_choose_for_themselves(void **state)
{
	(void)state;
	struct trainer_config config = choosing(2);
	run_once(&config);
	config = choosing(4);
	snprintf(chosen.name, sizeof chosen.name, "another card");
	run_on(&config);
	assert_string_equal(chosen.said, "");
	assert_non_null(strstr(notices, "\"another card\""));
	assert_non_null(strstr(notices, "what those kernels chose"));
	config = choosing(6);
	config.precision = DTYPE_BF16; /* products of other types */
	snprintf(chosen.name, sizeof chosen.name, "another card");
	run_on(&config);
	assert_string_equal(chosen.said, "");
}

static void what_is_not_to_be_had_is_said(void **state)
{
	(void)state;
	struct trainer_config config = choosing(2);
	run_once(&config);
	config = choosing(4);
	chosen.lacks = "z first";
	run_on(&config);
	assert_string_equal(chosen.said, " z first a \"second\"");
	assert_non_null(strstr(notices, "1 of the 2 algorithms"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(choices_are_recorded, setup),
		cmocka_unit_test_setup(kernels_that_choose_nothing_record_nothing, setup),
		cmocka_unit_test_setup(what_is_no_text_is_no_choice, setup),
		cmocka_unit_test_setup(a_resumed_run_computes_as_before, setup),
		cmocka_unit_test_setup(other_kernels_choose_for_themselves, setup),
		cmocka_unit_test_setup(what_is_not_to_be_had_is_said, setup),
	};
	return cmocka_run_group_tests(tests, open_all, close_all);
}
