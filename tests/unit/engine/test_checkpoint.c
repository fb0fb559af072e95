#include "engine/checkpoint.h"

#include "common/file.h"
#include "common/log.h"
#include "engine/safetensors.h"
#include "tests/unit/engine/checkpoint_rig.h"
#include "tests/unit/nfs_files.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <unistd.h>

static void assert_same_weights(struct checkpoint *c, const struct parameter_table *table)
{
	float *out = malloc(table->elements * 4);
	for (uint64_t i = 0; i < table->elements; i++)
		out[i] = NAN;
	assert_ok(checkpoint_read_weights(c, table, NULL, out));
	assert_memory_equal(out, arrays.p, table->elements * 4);
	free(out);
}

static void all_of_it_comes_back(void **state)
{
	(void)state;
	struct checkpoint *c;
	write_step(12);
	assert_ok(checkpoint_open(run, &c));
	assert_string_equal(strrchr(checkpoint_path(c), '/'), "/step-00000012");
	const struct model_config *config = checkpoint_config(c);
	assert_memory_equal(config, &small, sizeof small); /* no padding bytes in it: ints and floats */
	assert_int_equal(checkpoint_eod(c), 10);
	assert_true(checkpoint_has_tokenizer(c));
	const struct checkpoint_state *s = checkpoint_get_state(c);
	struct checkpoint_state wanted = sample_state(12);
	assert_non_null(s);
	assert_int_equal(s->step, 12);
	assert_int_equal(s->updates, 9);
	assert_int_equal(s->skipped, 3);
	assert_true(s->tokens == wanted.tokens && s->seed == UINT64_MAX && s->ordinal == wanted.ordinal);
	assert_int_equal(s->source_count, 2);
	assert_memory_equal(s->sources, wanted.sources, sizeof wanted.sources); /* no padding */
	assert_string_equal(s->split, "949,50,1");
	assert_int_equal(s->window_tokens, 1024);
	assert_true(s->loss_scale.dynamic && s->loss_scale.scale == 65536 && s->loss_scale.iteration == 12);
	assert_true(s->loss_scale.last_overflow == 5 && s->loss_scale.hysteresis_left == 1);
	assert_true(s->schedule.minimum == wanted.schedule.minimum && s->schedule.style == SCHEDULE_COSINE);
	assert_true(s->schedule.warmup == 0.01 && s->schedule.decay_iters == 1000000);
	assert_true(s->overfitting.best_loss == wanted.overfitting.best_loss && s->overfitting.warned);
	assert_true(s->overfitting.smoothed == wanted.overfitting.smoothed && s->overfitting.since_best == 2);
	assert_string_equal(s->kernels, "CPU \"quoted\"");
	assert_string_equal(cJSON_GetObjectItem(s->arguments, "--lr")->valuestring, "0.0006");
	assert_same_weights(c, &arrays.table);
	float *m = calloc(arrays.table.elements, 4), *v = calloc(arrays.table.elements, 4);
	assert_ok(checkpoint_read_moments(c, &arrays.table, NULL, m, v));
	assert_memory_equal(m, arrays.m, arrays.table.elements * 4);
	assert_memory_equal(v, arrays.v, arrays.table.elements * 4);
	free(m);
	free(v);
	checkpoint_close(c);
}

/* Doubles come back to the last bit, whatever JSON's printers think equal. */
static void doubles_are_exact(void **state)
{
	(void)state;
	struct checkpoint_state s = sample_state(9);
	struct checkpoint_contents contents = contents_of(&s);
	char name[CHECKPOINT_NAME];
	for (int i = 0; i < 40; i++) {
		struct checkpoint *c;
		s.overfitting.smoothed = 3 + sin(i) * 0.1;
		s.overfitting.best_loss = nextafter(3.5, i % 2 ? 4 : 0);
		s.schedule.learning_rate = exp(-i);
		s.schedule.minimum = 0;
		assert_ok(checkpoint_write(run, &contents, name));
		assert_ok(checkpoint_open(run, &c));
		const struct checkpoint_state *read = checkpoint_get_state(c);
		assert_memory_equal(&read->overfitting.smoothed, &s.overfitting.smoothed, 8);
		assert_memory_equal(&read->overfitting.best_loss, &s.overfitting.best_loss, 8);
		assert_memory_equal(&read->schedule.learning_rate, &s.schedule.learning_rate, 8);
		checkpoint_close(c);
	}
}

/* Real rows only, Hugging Face's names and shapes, checked through the file itself. */
static void the_file_is_hugging_face(void **state)
{
	(void)state;
	struct safetensors *file;
	write_step(12);
	assert_ok(safetensors_open(path_of("step-00000012/model.safetensors"), &file));
	assert_int_equal(safetensors_count(file), 2 + 2 * 12 + 2);
	const struct safetensors_tensor *t = safetensors_find(file, "transformer.wte.weight");
	assert_non_null(t);
	assert_int_equal(t->shape[0], 11);
	assert_int_equal(t->shape[1], 20);
	t = safetensors_find(file, "transformer.h.1.attn.c_attn.weight");
	assert_non_null(t);
	assert_true(t->dimensions == 2 && t->shape[0] == 20 && t->shape[1] == 60); /* Conv1D: [in][out] */
	t = safetensors_find(file, "transformer.ln_f.bias");
	assert_true(t && t->dimensions == 1 && t->shape[0] == 20);
	assert_null(safetensors_find(file, "lm_head.weight"));
	safetensors_close(file);
}

static void any_changed_byte_is_seen(void **state)
{
	(void)state;
	static const char *const files[] = {"config.json", "model.safetensors", "optimizer.safetensors",
		"trainer.json", "vocab.json", "merges.txt"};
	write_step(12);
	for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
		char name[64], *data;
		size_t bytes;
		snprintf(name, sizeof name, "step-00000012/%s", files[f]);
		assert_ok(file_read_all(path_of(name), 1 << 24, &data, &bytes));
		size_t stride = bytes > 200 ? bytes / 97 : 1;
		for (size_t at = 0; at < bytes; at += stride) {
			struct checkpoint *c;
			int fd = open(path_of(name), O_WRONLY);
			char byte = (char)(data[at] ^ 4);
			assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
			/* (white space in trainer.json may change: it is not part of what it says) */
			enum status status = checkpoint_open(path_of("step-00000012"), &c);
			if (status == STATUS_OK && !strchr(" \n\t", data[at]))
				fail_msg("%s: byte %zu changed, and nothing is said", files[f], at);
			if (status == STATUS_OK)
				checkpoint_close(c);
			assert_int_equal(pwrite(fd, &data[at], 1, (off_t)at), 1);
			close(fd);
		}
		assert_int_equal(truncate(path_of(name), (off_t)bytes - 2), 0);
		struct checkpoint *c;
		assert_int_not_equal(checkpoint_open(path_of("step-00000012"), &c), STATUS_OK);
		assert_ok(file_remove(path_of(name)));
		if (strcmp(files[f], "trainer.json") != 0)
			assert_int_not_equal(checkpoint_open(path_of("step-00000012"), &c), STATUS_OK);
		assert_ok(file_publish(path_of(name), data, bytes));
		assert_ok(checkpoint_open(path_of("step-00000012"), &c));
		checkpoint_close(c);
		free(data);
	}
}

static void damage(const char *step, const char *file)
{
	char name[64];
	snprintf(name, sizeof name, "%s/%s", step, file);
	int fd = open(path_of(name), O_RDWR);
	char byte;
	assert_int_equal(pread(fd, &byte, 1, 40), 1);
	byte ^= 1;
	assert_int_equal(pwrite(fd, &byte, 1, 40), 1);
	close(fd);
}

static void the_newest_valid_one_is_taken(void **state)
{
	(void)state;
	struct checkpoint *c;
	for (uint64_t step = 10; step <= 40; step += 10)
		write_step(step);
	damage("step-00000040", "model.safetensors");
	assert_ok(file_remove(path_of("step-00000030/trainer.json")));
	warnings = 0;
	assert_ok(checkpoint_open(run, &c));
	assert_int_equal(checkpoint_get_state(c)->step, 20);
	assert_int_equal(warnings, 2);
	assert_non_null(strstr(last_warning, "step-00000030"));
	assert_non_null(strstr(last_warning, "trainer.json is missing"));
	checkpoint_close(c);
	/* the damaged ones make way when the run goes on */
	assert_ok(checkpoint_set_aside_after(run, 20));
	uint64_t *steps;
	size_t count;
	assert_ok(checkpoint_list(run, &steps, &count));
	assert_int_equal(count, 2);
	free(steps);
	assert_true(file_exists(path_of("damaged-step-00000040")));
	damage("step-00000010", "config.json");
	damage("step-00000020", "optimizer.safetensors");
	assert_int_equal(checkpoint_open(run, &c), STATUS_CORRUPT);
	assert_int_equal(checkpoint_open("/nonexistent", &c), STATUS_IO);
	assert_int_equal(checkpoint_open("/tmp", &c), STATUS_USAGE);
}

/* Who wants the weights alone reads a checkpoint whose moments are damaged or gone; all else must be whole. */
static void weights_need_no_moments(void **state)
{
	(void)state;
	struct checkpoint *c;
	float *moments = malloc(arrays.table.elements * sizeof *moments);
	for (uint64_t step = 10; step <= 30; step += 10)
		write_step(step);
	damage("step-00000030", "model.safetensors");
	damage("step-00000020", "optimizer.safetensors");
	for (int gone = 0; gone < 2; gone++) {
		assert_int_equal(checkpoint_open(path_of("step-00000020"), &c), STATUS_CORRUPT);
		assert_non_null(strstr(error_message(), "--finetune"));
		assert_ok(checkpoint_open(run, &c));
		assert_int_equal(checkpoint_get_state(c)->step, 10);
		checkpoint_close(c);
		assert_ok(checkpoint_open_weights(run, &c));
		assert_int_equal(checkpoint_get_state(c)->step, 20);
		assert_same_weights(c, &arrays.table);
		assert_int_equal(
			checkpoint_read_moments(c, &arrays.table, NULL, moments, moments), STATUS_CORRUPT);
		checkpoint_close(c);
		assert_ok(file_remove(path_of("step-00000020/optimizer.safetensors")));
	}
	free(moments);
	assert_ok(file_remove(path_of("step-00000020/vocab.json")));
	assert_ok(checkpoint_open_weights(run, &c));
	assert_int_equal(checkpoint_get_state(c)->step, 10);
	checkpoint_close(c);
}

static void pruning_keeps_the_newest_and_the_best(void **state)
{
	(void)state;
	uint64_t *steps;
	size_t count;
	struct checkpoint *c;
	for (uint64_t step = 10; step <= 60; step += 10)
		write_step(step);
	assert_ok(checkpoint_mark_best(run, "step-00000020"));
	assert_ok(checkpoint_mark_best(run, "step-00000030"));
	assert_ok(checkpoint_prune(run, 2));
	assert_ok(checkpoint_list(run, &steps, &count));
	assert_int_equal(count, 3);
	assert_true(steps[0] == 30 && steps[1] == 50 && steps[2] == 60);
	free(steps);
	assert_ok(checkpoint_open(path_of("best"), &c));
	assert_int_equal(checkpoint_get_state(c)->step, 30);
	checkpoint_close(c);
	assert_ok(directory_create(path_of("step-00000070.tmp-123-4")));
	assert_ok(directory_create(path_of("notes.tmp-old"))); /* no writer of ferry's gives such a name */
	assert_ok(checkpoint_clean(run));
	assert_false(file_exists(path_of("step-00000070.tmp-123-4")));
	assert_true(file_exists(path_of("notes.tmp-old")));
	assert_ok(checkpoint_remove_after(run, 50));
	assert_ok(checkpoint_list(run, &steps, &count));
	assert_int_equal(count, 2);
	free(steps);
	assert_true(file_exists(path_of("best")));
	assert_ok(checkpoint_remove_after(run, 0));
	assert_ok(checkpoint_list(run, &steps, &count));
	assert_int_equal(count, 0);
	free(steps);
	char target[8];
	assert_int_equal(readlink(path_of("best"), target, sizeof target), -1);
}

/* ---- plain Hugging Face models ---- */

static void write_text(const char *name, const char *text)
{
	assert_ok(file_publish(path_of(name), text, strlen(text)));
}

#define SIZES "\"n_layer\": 2, \"n_embd\": 20, \"n_head\": 2, \"n_positions\": 7, \"vocab_size\": 11"

/* Names without "transformer.", buffers and a tied head: as old files have them. */
static void write_old_model(bool with_stranger)
{
	struct safetensors_source sources[40] = {0};
	int count = 0;
	struct hash128 hash;
	uint64_t bytes;
	for (int i = 0; i < arrays.table.count; i++, count++) {
		const struct parameter *p = &arrays.table.items[i];
		snprintf(sources[count].name, SAFETENSORS_NAME, "%s", p->name);
		sources[count].dimensions = p->dimensions;
		sources[count].shape[0] = (uint64_t)(p->dimensions == 2 ? p->file_rows : p->columns);
		sources[count].shape[1] = (uint64_t)p->columns;
		sources[count].data = arrays.p + p->offset;
	}
	sources[count++] = (struct safetensors_source){"h.0.attn.bias", 1, {9, 0}, arrays.p};
	sources[count++] = (struct safetensors_source){"h.1.attn.masked_bias", 1, {1, 0}, arrays.p};
	sources[count++] = (struct safetensors_source){"lm_head.weight", 2, {11, 20}, arrays.p};
	if (with_stranger)
		sources[count++] = (struct safetensors_source){"h.0.attn.extra", 1, {4, 0}, arrays.p};
	assert_ok(safetensors_write(path_of("model.safetensors"), sources, count, NULL, &hash, &bytes));
}

static void a_checkpoint_that_is_read_is_deleted_later_on_nfs(void **state)
{
	(void)state;
	struct file_operations nfs = file_operations_system;
	struct checkpoint *c;
	char **names;
	size_t count;
	nfs.unlink = unlink_on_nfs;
	for (int closed = 0; closed < 2; closed++) {
		write_step(10);
		assert_ok(checkpoint_open(run, &c));
		write_step(20);
		if (closed)
			checkpoint_close_weights(c);
		warnings = 0;
		file_system = &nfs;
		assert_ok(checkpoint_prune(run, 1));
		assert_int_equal(warnings, !closed);
		assert_ok(checkpoint_clean(run)); /* of another process that starts now */
		assert_int_equal(warnings, closed ? 0 : 2);
		file_system = &file_operations_system;
		assert_int_equal(checkpoint_get_state(c)->step, 10);
		checkpoint_close(c);
		assert_ok(checkpoint_clean(run));
		assert_ok(directory_list(run, &names, &count));
		assert_int_equal(count, 1);
		assert_string_equal(names[0], "step-00000020");
		directory_list_free(names, count);
		assert_ok(checkpoint_remove_after(run, 0));
	}
}

static void plain_models_are_read(void **state)
{
	(void)state;
	struct checkpoint *c;
	struct parameter_table padded;
	struct model_config wide = small;
	write_old_model(false);
	write_text("config.json", "{" SIZES "}");
	assert_ok(checkpoint_open(run, &c));
	assert_null(checkpoint_get_state(c));
	assert_false(checkpoint_has_tokenizer(c));
	assert_true(checkpoint_config(c)->attention_dropout == 0.1f); /* GPT2Config's default */
	assert_int_equal(checkpoint_eod(c), 10);
	assert_same_weights(c, &arrays.table);
	/* into another padding: the rows beyond are 0 */
	wide.vocabulary_padded = 64;
	assert_ok(parameter_table_open(&wide, &padded));
	float *out = malloc(padded.elements * 4);
	assert_ok(checkpoint_read_weights(c, &padded, NULL, out));
	const struct parameter *wte = parameter_find(&padded, "wte.weight");
	for (uint64_t e = 11 * 20; e < 64 * 20; e++)
		assert_true(out[wte->offset + e] == 0);
	free(out);
	parameter_table_close(&padded);
	assert_int_equal(checkpoint_read_moments(c, &arrays.table, NULL, arrays.m, arrays.v), STATUS_CORRUPT);
	checkpoint_close(c);
	write_old_model(true);
	assert_ok(checkpoint_open(run, &c));
	out = malloc(arrays.table.elements * 4);
	assert_int_equal(checkpoint_read_weights(c, &arrays.table, NULL, out), STATUS_UNSUPPORTED);
	assert_non_null(strstr(error_message(), "h.0.attn.extra"));
	checkpoint_close(c);
	free(out);
}

static void other_models_are_refused(void **state)
{
	(void)state;
	static const struct {
		const char *json;
		enum status status;
	} wrong[] = {
		{"{}", STATUS_CORRUPT},
		{"[]", STATUS_CORRUPT},
		{"{" SIZES ", \"model_type\": \"llama\"}", STATUS_UNSUPPORTED},
		{"{" SIZES ", \"activation_function\": \"relu\"}", STATUS_UNSUPPORTED},
		{"{" SIZES ", \"activation_function\": 7}", STATUS_UNSUPPORTED},
		{"{" SIZES ", \"n_inner\": 81}", STATUS_UNSUPPORTED},
		{"{" SIZES ", \"tie_word_embeddings\": false}", STATUS_UNSUPPORTED},
		{"{" SIZES ", \"scale_attn_by_inverse_layer_idx\": true}", STATUS_UNSUPPORTED},
		{"{" SIZES ", \"attn_pdrop\": 1.5}", STATUS_CORRUPT},
		{"{\"n_layer\": 2, \"n_embd\": 20, \"n_head\": 3, \"n_positions\": 7, \"vocab_size\": 11}",
			STATUS_CORRUPT},
		{"{\"n_layer\": -2, \"n_embd\": 20, \"n_head\": 2, \"n_positions\": 7, \"vocab_size\": 11}",
			STATUS_CORRUPT},
		{"{\"n_layer\": 1e18, \"n_embd\": 20, \"n_head\": 2, \"n_positions\": 7, \"vocab_size\": 11}",
			STATUS_CORRUPT},
	};
	struct checkpoint *c;
	write_old_model(false);
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		write_text("config.json", wrong[i].json);
		enum status status = checkpoint_open(run, &c);
		if (status != wrong[i].status)
			fail_msg("%s: %s", wrong[i].json, error_status_name(status));
	}
	/* sizes that are not the weights' */
	write_text("config.json",
		"{\"n_layer\": 2, \"n_embd\": 20, \"n_head\": 2, \"n_positions\": 8, \"vocab_size\": 11}");
	assert_ok(checkpoint_open(run, &c));
	struct parameter_table table;
	assert_ok(parameter_table_open(checkpoint_config(c), &table));
	float *out = malloc(table.elements * 4);
	assert_int_equal(checkpoint_read_weights(c, &table, NULL, out), STATUS_MISMATCH);
	free(out);
	parameter_table_close(&table);
	checkpoint_close(c);
	write_text("config.json", "{" SIZES "}");
	assert_ok(file_remove(path_of("model.safetensors")));
	write_text("pytorch_model.bin", "x");
	assert_int_equal(checkpoint_open(run, &c), STATUS_UNSUPPORTED);
	assert_non_null(strstr(error_message(), "save_pretrained"));
}

/* ---- */

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(all_of_it_comes_back, setup, teardown),
		cmocka_unit_test_setup_teardown(doubles_are_exact, setup, teardown),
		cmocka_unit_test_setup_teardown(the_file_is_hugging_face, setup, teardown),
		cmocka_unit_test_setup_teardown(any_changed_byte_is_seen, setup, teardown),
		cmocka_unit_test_setup_teardown(the_newest_valid_one_is_taken, setup, teardown),
		cmocka_unit_test_setup_teardown(weights_need_no_moments, setup, teardown),
		cmocka_unit_test_setup_teardown(pruning_keeps_the_newest_and_the_best, setup, teardown),
		cmocka_unit_test_setup_teardown(
			a_checkpoint_that_is_read_is_deleted_later_on_nfs, setup, teardown),
		cmocka_unit_test_setup_teardown(plain_models_are_read, setup, teardown),
		cmocka_unit_test_setup_teardown(other_models_are_refused, setup, teardown),
	};
	return cmocka_run_group_tests(tests, open_all, close_all);
}
