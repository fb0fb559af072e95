/*
 * Damage: each bit of each file of a corpus, of a checkpoint and of an unfinished run of preprocess is
 * flipped in turn, and each file is cut at each length. Readers say so and name the file; preprocess makes
 * anew what it can, or says so, and never publishes anything but the right corpus.
 *
 * The short form takes every n-th bit. What may pass: text that means the same (white space in JSON, comments
 * in merges.txt), counted.
 */
#include "tests/faults/scenes.h"

struct damage {
	enum status (*command)(void);
	const char *folder, *name; /* of the file; the folder is named where a file of another may be */
	uint8_t *data;
	size_t bytes;
	long tried, same;
};

static void write_file(const char *path, const void *data, size_t bytes)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
	assert_true(fd >= 0 && write(fd, data, bytes) == (ssize_t)bytes);
	close(fd);
}

/* NULL, or what is wrong with how the reader took it. `harmless`: it may have changed nothing. */
static const char *take_damage(struct damage *d, bool harmless)
{
	enum status status = d->command();
	d->tried++;
	if (status == STATUS_OK && harmless) {
		d->same++;
		return NULL;
	}
	if (status == STATUS_OK)
		return complain("nothing was noticed");
	if (status != STATUS_CORRUPT && status != STATUS_MISMATCH && status != STATUS_UNSUPPORTED)
		return complain("%s: %s", error_status_name(status), error_message());
	if (!strstr(error_message(), d->name))
		return complain("the message does not name the file: %s", error_message());
	return NULL;
}

/* cJSON takes every such byte for white space. */
static bool is_space(uint8_t c)
{
	return c > 0 && c <= ' ';
}

/* Does the text mean the same with this bit flipped? */
static bool is_harmless(const struct damage *d, size_t byte, int bit)
{
	if (strcmp(d->name, "merges.txt") == 0 || strcmp(d->name, "vocab.json") == 0)
		return strcmp(d->folder, "out/corpus") ==
		       0; /* the tokenizer's hash, not the file's, is checked */
	return strcmp(d->name, "trainer.json") == 0 && is_space(d->data[byte]) &&
	       is_space((uint8_t)(d->data[byte] ^ 1 << bit));
}

static void flip_bits(struct damage *d, const char *path, size_t step)
{
	for (size_t at = 0; at < d->bytes * 8; at += step) {
		size_t byte = at / 8;
		int bit = (int)(at % 8);
		d->data[byte] ^= (uint8_t)(1 << bit);
		write_file(path, d->data, d->bytes);
		d->data[byte] ^= (uint8_t)(1 << bit);
		const char *complaint = take_damage(d, is_harmless(d, byte, bit));
		if (complaint)
			fail_msg("%s: bit %d of byte %zu of %zu: %s", path, bit, byte, d->bytes, complaint);
	}
	write_file(path, d->data, d->bytes);
}

static void cut(struct damage *d, const char *path, size_t step)
{
	for (size_t length = 0; length < d->bytes; length += step) {
		write_file(path, d->data, length);
		bool harmless = strcmp(d->folder, "out/corpus") == 0 && strcmp(d->name, "merges.txt") == 0 &&
				length + 1 == d->bytes; /* the last end of line */
		const char *complaint = take_damage(d, harmless);
		if (complaint)
			fail_msg("%s: cut to %zu of %zu bytes: %s", path, length, d->bytes, complaint);
	}
	write_file(path, d->data, d->bytes);
}

static void damage_files(const char *folder, enum status (*command)(void))
{
	char **names;
	size_t count, flipped = 0, lengths = 0, same = 0;
	assert_ok(directory_list(scene_path(folder), &names, &count));
	for (size_t i = 0; i < count; i++) {
		char path[512];
		struct damage d = {.command = command, .folder = folder, .name = names[i]};
		if (strcmp(names[i], "rejects.jsonl") == 0) /* for people; nothing reads it here */
			continue;
		snprintf(path, sizeof path, "%s/%s", scene_path(folder), names[i]);
		assert_ok(file_read_all(path, 1 << 26, (char **)&d.data, &d.bytes));
		/* Large files are data after their headers: a bit of every few bytes there. */
		size_t bits = d.bytes * 8;
		flip_bits(&d, path, faults_long() ? 1 + bits / 12000 : 1 + bits / 60);
		flipped += (size_t)d.tried;
		d.tried = 0;
		cut(&d, path, faults_long() ? 1 : 1 + d.bytes / 20);
		lengths += (size_t)d.tried;
		same += (size_t)d.same;
		free(d.data);
	}
	directory_list_free(names, count);
	assert_ok(command());
	printf("# %s: %zu bits flipped, %zu lengths cut; %zu meant the same\n", folder, flipped, lengths,
		same);
}

static void a_corpus(void **state)
{
	(void)state;
	assert_ok(directory_remove(scene_path("out")));
	prepare_corpora();
	damage_files("out/corpus", command_read_corpus);
}

static void a_checkpoint(void **state)
{
	(void)state;
	assert_ok(directory_remove(scene_path("out")));
	prepare_run();
	damage_files("out/step-00000030", command_load_checkpoint);
}

/* ---- an unfinished run ---- */

static bool stop_in_second_pass(void *user, const struct preprocess_progress *progress)
{
	(void)user;
	return progress->pass == 1 || progress->bytes_done < progress->bytes_total / 2;
}

static enum status run_until(bool (*progress)(void *user, const struct preprocess_progress *progress))
{
	struct preprocess_result result;
	const char *inputs[1] = {scene_path("second.jsonl")};
	struct preprocess_config config = {.inputs = inputs,
		.input_count = 1,
		.output = scene_path("out"),
		.tokenizer = scenes.gpt2,
		.text_key = "text",
		.workers = 1,
		.memory = 1 << 20,
		.max_bytes = 1 << 16,
		.unit_bytes = 1500,
		.shard_bytes = 500,
		.progress = progress};
	return preprocess_run(&config, &result);
}

static const char *read_damaged(const char *name)
{
	struct corpus *corpus;
	assert_ok(corpus_open(scene_path("out"), &corpus));
	enum status status = corpus_verify(corpus, 1, NULL, NULL);
	corpus_close(corpus);
	return status == STATUS_CORRUPT && strstr(error_message(), name)
		       ? NULL
		       : complain("verify says: %s", status == STATUS_OK ? "nothing" : error_message());
}

/* What preprocess does with the work as it is: NULL, or what is wrong with that. */
static const char *go_on(const char *name, long *made)
{
	enum status status = run_until(NULL);
	if (status == STATUS_OK) {
		const char *complaint = scene_compare(scene_path("out"), scene_path("new"), true);
		++*made;
		/* A finished shard is not read again; it is the corpus's readers who find that it was
		 * damaged. */
		return complaint && strspn(name, "0123456789") == 5 ? read_damaged(name) : complaint;
	}
	if (file_exists(scene_path("out/corpus.json")))
		return complain("an error, but a corpus: %s", error_message());
	if (status != STATUS_CORRUPT && status != STATUS_MISMATCH)
		return complain("%s: %s", error_status_name(status), error_message());
	return strstr(error_message(), name) || strstr(error_message(), "out/work")
		       ? NULL
		       : complain("the message names no file: %s", error_message());
}

static void unfinished_work(void **state)
{
	(void)state;
	char **names;
	size_t count;
	long tried = 0, made = 0;
	assert_ok(directory_remove(scene_path("out")));
	assert_ok(run_until(NULL));
	scene_copy(scene_path("out"), scene_path("new"));
	assert_ok(directory_remove(scene_path("out")));
	assert_int_equal(run_until(stop_in_second_pass), STATUS_INTERRUPTED);
	assert_true(file_exists(scene_path("out/work/shard-00000.json")));
	scene_copy(scene_path("out"), scene_path("old"));
	assert_ok(directory_list(scene_path("old/work"), &names, &count));
	for (size_t i = 0; i < count; i++) {
		char path[512], *data;
		size_t bytes;
		snprintf(path, sizeof path, "%s/%s", scene_path("old/work"), names[i]);
		assert_ok(file_read_all(path, 1 << 26, &data, &bytes));
		snprintf(path, sizeof path, "%s/%s", scene_path("out/work"), names[i]);
		for (size_t at = 0; at < bytes * 8; at += faults_long() ? 5 : 1 + bytes * 8 / 30) {
			scene_copy(scene_path("old"), scene_path("out"));
			data[at / 8] ^= (char)(1 << at % 8);
			write_file(path, data, bytes);
			data[at / 8] ^= (char)(1 << at % 8);
			const char *complaint = go_on(names[i], &made);
			if (complaint)
				fail_msg("bit %zu of %zu of %s: %s", at, bytes * 8, names[i], complaint);
			tried++;
		}
		for (size_t length = 0; length < bytes; length += faults_long() ? 3 : 1 + bytes / 8) {
			scene_copy(scene_path("old"), scene_path("out"));
			write_file(path, data, length);
			const char *complaint = go_on(names[i], &made);
			if (complaint)
				fail_msg(
					"%s cut to %zu of %zu bytes: %s", names[i], length, bytes, complaint);
			tried++;
		}
		free(data);
	}
	directory_list_free(names, count);
	printf("# unfinished work: %ld damages, %ld made anew, %ld refused\n", tried, made, tried - made);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_corpus),
		cmocka_unit_test(a_checkpoint),
		cmocka_unit_test(unfinished_work),
	};
	return cmocka_run_group_tests(tests, scenes_open, scenes_close);
}
