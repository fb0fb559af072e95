/*
 * Damage: bits of each file of a corpus, of a checkpoint and of an unfinished run of preprocess are flipped
 * in turn, and each file is cut. Readers say so and name the file; preprocess makes anew what it can, or says
 * so, and never publishes anything but the right corpus.
 *
 * The long form flips every bit of all that is not tokens, weights or records, bits of every page of those,
 * and cuts at each length. The short form takes some. What may pass: text that means the same (white space in JSON, comments
 * in merges.txt), counted.
 */
#include "tests/faults/scenes.h"

#include <cjson/cJSON.h>

struct damage {
	enum status (*command)(void);
	const char *folder, *name; /* of the file; the folder is named where a file of another may be */
	uint8_t *data;
	size_t bytes;
	bool paged; /* a corpus of many pages: all is data */
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

/* Does JSON with this bit flipped say the same: 1e-05 and 1E-05, white space? */
static bool says_the_same(const struct damage *d, size_t byte, int bit)
{
	char *printed[2];
	for (int i = 0; i < 2; i++) {
		cJSON *json = cJSON_ParseWithLength((const char *)d->data, d->bytes);
		printed[i] = cJSON_PrintUnformatted(json); /* NULL for NULL */
		cJSON_Delete(json);
		d->data[byte] ^= (uint8_t)(1 << bit); /* and back, the second time */
	}
	bool same = printed[0] && printed[1] && strcmp(printed[0], printed[1]) == 0;
	free(printed[0]);
	free(printed[1]);
	return same;
}

/* Does the text mean the same with this bit flipped? */
static bool is_harmless(const struct damage *d, size_t byte, int bit)
{
	if (strcmp(d->name, "merges.txt") == 0 || strcmp(d->name, "vocab.json") == 0)
		return strcmp(d->folder, "out/corpus") ==
		       0; /* the tokenizer's hash, not the file's, is checked */
	return strcmp(d->name, "trainer.json") == 0 && says_the_same(d, byte, bit);
}

static bool ends_in(const char *name, const char *suffix)
{
	size_t length = strlen(name), tail = strlen(suffix);
	return length >= tail && strcmp(name + length - tail, suffix) == 0;
}

/* The bit to be flipped after bit `at`. In the long form each one, but for bits of data: those of large
 * files (a corpus of pages), of .bin, of weights behind their header, of pass 1's records between the ends of
 * their file. There a step, odd so that each place in a byte has its turn, that misses no page. */
static size_t next_bit(const struct damage *d, size_t at)
{
	size_t bits = d->bytes * 8, byte = at / 8;
	uint64_t header = 0;
	if (!faults_long())
		return at + 1 + bits / 60;
	if (ends_in(d->name, ".safetensors"))
		memcpy(&header, d->data, sizeof header);
	bool data = d->paged || ends_in(d->name, ".bin") || (header && byte >= sizeof header + header) ||
		    (strncmp(d->name, "unit-", 5) == 0 && byte >= 64 && byte + 64 < d->bytes);
	return at + (data ? 61 : 1);
}

static void flip_bits(struct damage *d, const char *path)
{
	for (size_t at = 0; at < d->bytes * 8; at = next_bit(d, at)) {
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
		bool line_end = length + 1 == d->bytes && d->data[length] == '\n';
		bool harmless =
			line_end &&
			(strcmp(d->name, "trainer.json") == 0 ||
				(strcmp(d->folder, "out/corpus") == 0 && strcmp(d->name, "merges.txt") == 0));
		const char *complaint = take_damage(d, harmless);
		if (complaint)
			fail_msg("%s: cut to %zu of %zu bytes: %s", path, length, d->bytes, complaint);
	}
	write_file(path, d->data, d->bytes);
}

static void damage_files(const char *folder, enum status (*command)(void), bool paged)
{
	char **names;
	size_t count, flipped = 0, lengths = 0, same = 0;
	assert_ok(directory_list(scene_path(folder), &names, &count));
	for (size_t i = 0; i < count; i++) {
		char path[512];
		struct damage d = {.command = command, .folder = folder, .name = names[i], .paged = paged};
		if (strcmp(names[i], "rejects.jsonl") == 0) /* for people; nothing reads it here */
			continue;
		snprintf(path, sizeof path, "%s/%s", scene_path(folder), names[i]);
		assert_ok(file_read_all(path, 1 << 26, (char **)&d.data, &d.bytes));
		flip_bits(&d, path);
		flipped += (size_t)d.tried;
		d.tried = 0;
		cut(&d, path, faults_long() && !paged ? 1 : 1 + d.bytes / 20);
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
	damage_files("out/corpus", command_read_corpus, false);
}

/* Files of several pages, whose hash trees have levels. */
static void a_corpus_of_pages(void **state)
{
	(void)state;
	struct stat info;
	assert_ok(directory_remove(scene_path("out")));
	prepare_nothing();
	scene_write_text("pages.jsonl", 3, 400, true);
	assert_ok(scene_preprocess("pages.jsonl",
		(struct preprocess_config){.output = "out/corpus", .sources = true, .shard_bytes = 1 << 20}));
	assert_ok(file_stat(scene_path("out/corpus/00000.bin"), &info));
	assert_true(info.st_size > 8 * 4096);
	damage_files("out/corpus", command_read_corpus, true);
}

static void a_checkpoint(void **state)
{
	(void)state;
	assert_ok(directory_remove(scene_path("out")));
	prepare_run();
	damage_files("out/step-00000030", command_load_checkpoint, false);
}

/* ---- an unfinished run ---- */

static bool stop_in_second_pass(void *user, const struct preprocess_progress *progress)
{
	(void)user;
	return progress->pass == 1 || progress->bytes_done < progress->bytes_total / 2;
}

static enum status run_until(bool (*progress)(void *user, const struct preprocess_progress *progress))
{
	return scene_preprocess("second.jsonl",
		(struct preprocess_config){.output = "out", .sources = true, .progress = progress});
}

/* What preprocess does with the work as it is: NULL, or what is wrong with that. */
static const char *go_on(const char *name, long *made)
{
	enum status status = run_until(NULL);
	if (status == STATUS_OK) {
		++*made;
		return scene_compare(scene_path("out"), scene_path("new"), true);
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
		char path[512];
		struct damage d = {.name = names[i]};
		snprintf(path, sizeof path, "%s/%s", scene_path("old/work"), names[i]);
		assert_ok(file_read_all(path, 1 << 26, (char **)&d.data, &d.bytes));
		snprintf(path, sizeof path, "%s/%s", scene_path("out/work"), names[i]);
		for (size_t at = 0; at < d.bytes * 8; at = next_bit(&d, at)) {
			scene_copy(scene_path("old"), scene_path("out"));
			d.data[at / 8] ^= (uint8_t)(1 << at % 8);
			write_file(path, d.data, d.bytes);
			d.data[at / 8] ^= (uint8_t)(1 << at % 8);
			const char *complaint = go_on(names[i], &made);
			if (complaint)
				fail_msg("bit %zu of %zu of %s: %s", at, d.bytes * 8, names[i], complaint);
			tried++;
		}
		for (size_t length = 0; length < d.bytes; length += faults_long() ? 3 : 1 + d.bytes / 8) {
			scene_copy(scene_path("old"), scene_path("out"));
			write_file(path, d.data, length);
			const char *complaint = go_on(names[i], &made);
			if (complaint)
				fail_msg("%s cut to %zu of %zu bytes: %s", names[i], length, d.bytes,
					complaint);
			tried++;
		}
		free(d.data);
	}
	directory_list_free(names, count);
	printf("# unfinished work: %ld damages, %ld made anew, %ld refused\n", tried, made, tried - made);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_corpus),
		cmocka_unit_test(a_corpus_of_pages),
		cmocka_unit_test(a_checkpoint),
		cmocka_unit_test(unfinished_work),
	};
	return scenes_run("damage", tests, sizeof tests / sizeof *tests);
}
