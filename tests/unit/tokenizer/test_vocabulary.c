/* Vocabularies: the built-in one, from files, exported and read again; damaged files and what is said of
 * them. */
#include "tokenizer/tokenizer.h"

#include "common/file.h"
#include "common/memory.h"
#include "tokenizer/letters.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

extern const char vocab_gpt2_begin[], vocab_gpt2_end[];

static char directory[] = "/tmp/test_vocabulary_XXXXXX";
static char merge_file[64], vocab_file[64];

static int set_up(void **state)
{
	(void)state;
	assert_non_null(mkdtemp(directory));
	snprintf(merge_file, sizeof merge_file, "%s/merges.txt", directory);
	snprintf(vocab_file, sizeof vocab_file, "%s/vocab.json", directory);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	return directory_remove(directory) == STATUS_OK ? 0 : -1;
}

/* Not file_publish: its fsyncs take their time (and so does emptying a file that is there). */
static void write_bytes(const char *path, const void *data, size_t bytes)
{
	unlink(path);
	FILE *file = fopen(path, "wb");
	assert_non_null(file);
	assert_int_equal(fwrite(data, 1, bytes, file), bytes);
	assert_int_equal(fclose(file), 0);
}

static void write_file(const char *path, const char *text)
{
	write_bytes(path, text, strlen(text));
}

/* {"byte": 0, ..., extra}: the letters of all bytes in GPT-2's order, ids 0 to 255, but `without` (256:
 * none). */
static void write_vocab(const char *extra, int without)
{
	static char text[8192];
	uint8_t order[256];
	size_t at = 1;
	letters_byte_order(order);
	strcpy(text, "{");
	for (int id = 0; id < 256; id++) {
		char letter[4] = {0};
		letters_write(&order[id], 1, letter);
		if (order[id] != without)
			at += (size_t)sprintf(text + at, "%s\"%s%s\": %d", at > 1 ? ", " : "",
				order[id] == '"' || order[id] == '\\' ? "\\" : "", letter, id);
	}
	sprintf(text + at, "%s}", extra);
	write_file(vocab_file, text);
}

/* Known from outside: vocab.bpe's XXH3 is that of the file whose SHA-256 is 1ce16647...; ids by OpenAI's
 * encoder.json. */
static void built_in(void **state)
{
	(void)state;
	char hash[33];
	hash128_format(hash128(vocab_gpt2_begin, (size_t)(vocab_gpt2_end - vocab_gpt2_begin)), hash);
	assert_string_equal(hash, "5caa565dbb3b366be1a102e27c272620");
	struct tokenizer *tokenizer;
	assert_int_equal(tokenizer_open_gpt2(&tokenizer), STATUS_OK);
	assert_int_equal(tokenizer_vocabulary(tokenizer), 50257);
	assert_int_equal(tokenizer_eod(tokenizer), 50256);
	assert_string_equal(tokenizer_name(tokenizer), "GPT2BPETokenizer");
	static const struct {
		uint32_t id;
		const char *text;
	} known[] = {{0, "!"}, {220, " "}, {198, "\n"}, {256, " t"}, {262, " the"}, {15496, "Hello"},
		{50255, " gazed"}};
	uint32_t length;
	for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
		const uint8_t *bytes = tokenizer_token_bytes(tokenizer, known[i].id, &length);
		assert_int_equal(length, strlen(known[i].text));
		assert_memory_equal(bytes, known[i].text, length);
	}
	assert_non_null(tokenizer_token_bytes(tokenizer, 50256, &length));
	assert_int_equal(length, 0);
	assert_null(tokenizer_token_bytes(tokenizer, 50257, &length));
	tokenizer_close(tokenizer);
}

/* vocab.json is OpenAI's encoder.json and merges.txt its vocab.bpe, byte for byte: XXH3 of the files whose
 * SHA-256 are 19613966... and 1ce16647... */
static void exported_and_read_again(void **state)
{
	(void)state;
	struct tokenizer *tokenizer, *again;
	struct tokenizer_file files[TOKENIZER_FILES];
	char hash[33];
	assert_int_equal(tokenizer_open_gpt2(&tokenizer), STATUS_OK);
	assert_int_equal(tokenizer_export(tokenizer, files), STATUS_OK);
	hash128_format(hash128(files[0].data, files[0].bytes), hash);
	assert_string_equal(files[0].name, "vocab.json");
	assert_string_equal(hash, "907aa883a1f3f2504594f2ded8b31025");
	hash128_format(hash128(files[1].data, files[1].bytes), hash);
	assert_string_equal(files[1].name, "merges.txt");
	assert_string_equal(hash, "5caa565dbb3b366be1a102e27c272620");
	write_bytes(vocab_file, files[0].data, files[0].bytes);
	write_bytes(merge_file, files[1].data, files[1].bytes);
	tokenizer_export_free(files);
	for (int i = 0; i < 3; i++) {
		enum status status = i == 0 ? tokenizer_open_directory(directory, &again)
				     : i == 1
					     ? tokenizer_open_files("tokenizer/vocab.bpe", vocab_file, &again)
					     : tokenizer_open_files(merge_file, NULL, &again);
		assert_int_equal(status, STATUS_OK);
		assert_int_equal(hash128_compare(tokenizer_hash(again), tokenizer_hash(tokenizer)), 0);
		assert_string_equal(tokenizer_name(again), "GPT2BPETokenizer");
		tokenizer_close(again);
	}
	tokenizer_close(tokenizer);
}

static void expect_ids(
	const struct tokenizer *tokenizer, const char *text, const uint32_t *expected, size_t expected_count)
{
	struct encoder *encoder;
	uint32_t ids[64];
	size_t count;
	assert_int_equal(encoder_open(tokenizer, &encoder), STATUS_OK);
	assert_int_equal(encoder_encode(encoder, text, strlen(text), ids, &count), STATUS_OK);
	assert_int_equal(count, expected_count);
	assert_memory_equal(ids, expected, count * sizeof *ids);
	encoder_close(encoder);
}

/* a b -> ab, ab c -> abc, and a token "bc" that no merge makes, so that text never becomes it. EOD where the
 * file says. Ids of a, b, c, x are their places in GPT-2's byte order, 64, 65, 66, 87. */
static void ids_of_a_small_vocabulary(void **state)
{
	(void)state;
	struct tokenizer *tokenizer;
	write_vocab(", \"<|endoftext|>\": 256, \"bc\": 257, \"abc\": 258, \"ab\": 259", 256);
	write_file(merge_file, "#version: 0.2\r\na b\r\nab c\r\n");
	assert_int_equal(tokenizer_open_directory(directory, &tokenizer), STATUS_OK);
	assert_int_equal(tokenizer_vocabulary(tokenizer), 260);
	assert_int_equal(tokenizer_eod(tokenizer), 256);
	assert_string_equal(tokenizer_name(tokenizer), "ByteLevelBPETokenizer");
	expect_ids(tokenizer, "bc", (uint32_t[]){65, 66}, 2);
	expect_ids(tokenizer, "abc", (uint32_t[]){258}, 1);
	expect_ids(tokenizer, "xabbcab", (uint32_t[]){87, 259, 65, 66, 259}, 5);
	struct hash128 before = tokenizer_hash(tokenizer);
	tokenizer_close(tokenizer);

	/* The other order of merges is another tokenizer; so is the one whose ids follow from the merges. */
	write_vocab(", \"bc\": 256, \"abc\": 257, \"ab\": 258", 256);
	write_file(merge_file, "b c\na b\na bc");
	assert_int_equal(tokenizer_open_directory(directory, &tokenizer), STATUS_OK);
	assert_int_equal(tokenizer_eod(tokenizer), 259); /* appended */
	expect_ids(tokenizer, "abc", (uint32_t[]){257}, 1);
	expect_ids(tokenizer, "abbc", (uint32_t[]){258, 256}, 2);
	assert_int_not_equal(hash128_compare(before, tokenizer_hash(tokenizer)), 0);
	tokenizer_close(tokenizer);
	assert_int_equal(tokenizer_open_files(merge_file, NULL, &tokenizer), STATUS_OK);
	assert_int_equal(tokenizer_vocabulary(tokenizer), 260);
	expect_ids(tokenizer, "abc bc", (uint32_t[]){258, 220, 256}, 3);
	tokenizer_close(tokenizer);
}

/* Two merges may make the same token: one id. */
static void two_ways_to_a_token(void **state)
{
	(void)state;
	struct tokenizer *tokenizer;
	write_file(merge_file, "a b\nb c\nab c\na bc\n");
	assert_int_equal(tokenizer_open_files(merge_file, NULL, &tokenizer), STATUS_OK);
	assert_int_equal(tokenizer_vocabulary(tokenizer), 256 + 3 + 1);
	expect_ids(tokenizer, "abc", (uint32_t[]){258}, 1);
	tokenizer_close(tokenizer);
}

static void no_merges_at_all(void **state)
{
	(void)state;
	struct tokenizer *tokenizer;
	write_file(merge_file, "");
	assert_int_equal(tokenizer_open_files(merge_file, NULL, &tokenizer), STATUS_OK);
	assert_int_equal(tokenizer_vocabulary(tokenizer), 257);
	expect_ids(tokenizer, "ab <", (uint32_t[]){64, 65, 220, 27}, 4);
	tokenizer_close(tokenizer);
}

static void expect_refusal(
	enum status status, const struct tokenizer *tokenizer, const char *path, const char *message)
{
	assert_int_equal(status, STATUS_CORRUPT);
	assert_null(tokenizer);
	if (!strstr(error_message(), path) || !strstr(error_message(), message))
		fail_msg("\"%s\" does not speak of \"%s\"", error_message(), message);
}

static void damaged_merges(void **state)
{
	(void)state;
	static const struct {
		const char *text, *message;
	} cases[] = {
		{"a b\nab\n", "line 2"},
		{"#version: 0.2\na b c\n", "line 2: \"a b c\": not two tokens"},
		{"a b\n\nc d\n", "line 2"},
		{" a\n", "line 1"},
		{"a \n", "line 1"},
		{"a b\nd e\na b\n", "line 3: \"a b\": the same merge"},
		{"ab c\n", "line 1: \"ab c\": joins something that is not a token"},
		{"a \xE4\xB8\xAD\n", "line 1: \"a \xE4\xB8\xAD\": a character that stands for no byte"},
		{"a \xFF\n", "no byte"},
		{"a \xC4", "no byte"},
		{"a b\n#version: 0.2\n", "line 2"},
		{"a\tb\n", "line 1"},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct tokenizer *tokenizer;
		write_file(merge_file, cases[i].text);
		enum status status = tokenizer_open_files(merge_file, NULL, &tokenizer);
		expect_refusal(status, tokenizer, merge_file, cases[i].message);
	}
}

static void damaged_vocabularies(void **state)
{
	(void)state;
	static const struct {
		const char *extra;
		int without;
		const char *message;
	} cases[] = {
		{"", 'q', "not a whole number below 255"},
		{", \"ab\": 80", 'q', "no token for the byte 0x71"},
		{", \"ab\": 255", 256, "have the same id, 255"},
		{", \"ab\": 257", 256, "\"ab\" is not a whole number below 257"},
		{", \"ab\": -1", 256, "\"ab\" is not a whole number"},
		{", \"ab\": 1e300", 256, "\"ab\" is not a whole number"},
		{", \"ab\": 256.5", 256, "\"ab\" is not a whole number"},
		{", \"ab\": \"256\"", 256, "\"ab\" is not a whole number"},
		{", \"ab\": {}", 256, "\"ab\" is not a whole number"},
		{", \"ab\": 256, \"ab\": 257", 256, "\"ab\" is there twice"},
		{", \"<|endoftext|>\": 256, \"<|endoftext|>\": 257", 256, "<|endoftext|>\" is there twice"},
		{", \"\": 256", 256, "id 256 is empty"},
		{", \"\\u0000\": 256", 256, "id 256 is empty"},
		{", \"a b\": 256", 256, "stands for no byte"},
		{", \"\xE4\xB8\xAD\": 256", 256, "stands for no byte"},
		{", \"\xFF\": 256", 256, "stands for no byte"},
		{", \"ab\": 256, \"abc\"", 256, "not valid JSON at byte"},
		{", \"ab\": 256} more", 256, "not valid JSON at byte"},
		{", \"bc\": 256", 256, "joins to something that is not a token"},
	};
	write_file(merge_file, "a b\n");
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct tokenizer *tokenizer;
		write_vocab(cases[i].extra, cases[i].without);
		enum status status = tokenizer_open_files(merge_file, vocab_file, &tokenizer);
		expect_refusal(status, tokenizer,
			i + 1 < sizeof cases / sizeof *cases ? vocab_file : merge_file, cases[i].message);
	}
	static const char *const whole[] = {
		"", "[]", "{}", "7", "null", "{", "{\"a\":", "\xFF\xFE", "[[[[[[[["};
	for (size_t i = 0; i < sizeof whole / sizeof *whole; i++) {
		struct tokenizer *tokenizer;
		write_file(vocab_file, whole[i]);
		enum status status = tokenizer_open_files(merge_file, vocab_file, &tokenizer);
		expect_refusal(status, tokenizer, vocab_file,
			whole[i][0] == '[' && whole[i][1] == ']' ? "not a vocabulary" : "");
	}
	write_file(vocab_file, "{\n\"a\": 0,\n\"b\" 1}");
	struct tokenizer *tokenizer;
	enum status status = tokenizer_open_files(merge_file, vocab_file, &tokenizer);
	expect_refusal(status, tokenizer, vocab_file, "line 3: not valid JSON");
}

/* Damage at random: an error or a tokenizer, never a crash (the sanitizer watches). */
static void random_damage(void **state)
{
	(void)state;
	uint64_t random = 99;
	for (int round = 0; round < 600; round++) {
		struct tokenizer *tokenizer;
		char *text;
		size_t bytes;
		const char *path = round & 1 ? merge_file : vocab_file;
		write_vocab(", \"ab\": 256, \"abc\": 257, \"<|endoftext|>\": 258", 256);
		write_file(merge_file, "#version: 0.2\na b\nab c\n");
		assert_int_equal(file_read_all(path, 1 << 20, &text, &bytes), STATUS_OK);
		for (int hits = 1 + round % 3; hits; hits--) {
			random = random * 6364136223846793005u + 1442695040888963407u;
			text[(random >> 33) % bytes] = (char)(random >> 25);
		}
		write_bytes(path, text, round % 5 ? bytes : (random >> 40) % bytes);
		free(text);
		if (tokenizer_open_directory(directory, &tokenizer) == STATUS_OK) {
			assert_true(tokenizer_eod(tokenizer) < tokenizer_vocabulary(tokenizer));
			tokenizer_close(tokenizer);
		} else {
			assert_null(tokenizer);
			assert_int_not_equal(strlen(error_message()), 0);
		}
	}
}

static void missing_files(void **state)
{
	(void)state;
	struct tokenizer *tokenizer;
	assert_int_equal(tokenizer_open_directory("/nonexistent", &tokenizer), STATUS_IO);
	assert_non_null(strstr(error_message(), "/nonexistent/merges.txt"));
	assert_null(tokenizer);
}

static void decoding_refuses_foreign_ids(void **state)
{
	(void)state;
	struct tokenizer *tokenizer;
	char *text;
	size_t bytes;
	assert_int_equal(tokenizer_open_gpt2(&tokenizer), STATUS_OK);
	uint32_t ids[] = {15496, 50256, 995, 50257};
	assert_int_equal(tokenizer_decode(tokenizer, ids, 3, &text, &bytes), STATUS_OK);
	assert_string_equal(text, "Hello world");
	free(text);
	assert_int_equal(tokenizer_decode(tokenizer, ids, 4, &text, &bytes), STATUS_USAGE);
	assert_non_null(strstr(error_message(), "50257 (number 4)"));
	assert_null(text);
	tokenizer_close(tokenizer);
}

static void every_failed_allocation_is_survived(void **state)
{
	(void)state;
	write_vocab(", \"ab\": 256", 256);
	write_file(merge_file, "a b\n");
	int64_t calls = 0;
	for (enum status status = STATUS_MEMORY; status != STATUS_OK; calls++) {
		struct tokenizer *tokenizer;
		struct tokenizer_file files[TOKENIZER_FILES];
		memory_fail_after(calls);
		status = tokenizer_open_directory(directory, &tokenizer);
		if (status == STATUS_OK) {
			status = tokenizer_export(tokenizer, files);
			memory_fail_after(-1);
			tokenizer_close(tokenizer);
			if (status == STATUS_OK)
				tokenizer_export_free(files);
		}
		memory_fail_after(-1);
		assert_true(status == STATUS_OK || status == STATUS_MEMORY);
		assert_true(calls < 1000);
	}
	assert_true(calls > 10);
}

static void letters_there_and_back(void **state)
{
	(void)state;
	bool seen[324] = {false};
	for (int byte = 0; byte < 256; byte++) {
		uint8_t in = (uint8_t)byte, out[2];
		char text[2];
		size_t length = letters_write(&in, 1, text), count;
		uint32_t letter = letter_of_byte(in);
		assert_true(letter < 324 && !seen[letter]);
		seen[letter] = true;
		assert_true(letters_read(text, length, out, &count));
		assert_int_equal(count, 1);
		assert_int_equal(out[0], byte);
	}
	assert_int_equal(letter_of_byte(' '), 0x120);
	assert_int_equal(letter_of_byte('\n'), 0x10A);
	assert_int_equal(letter_of_byte(0x7F), 0x121);
	assert_int_equal(letter_of_byte(0xA0), 0x142);
	assert_int_equal(letter_of_byte(0xAD), 0x143);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(letters_there_and_back),
		cmocka_unit_test(built_in),
		cmocka_unit_test(exported_and_read_again),
		cmocka_unit_test(ids_of_a_small_vocabulary),
		cmocka_unit_test(two_ways_to_a_token),
		cmocka_unit_test(no_merges_at_all),
		cmocka_unit_test(damaged_merges),
		cmocka_unit_test(damaged_vocabularies),
		cmocka_unit_test(random_damage),
		cmocka_unit_test(missing_files),
		cmocka_unit_test(decoding_refuses_foreign_ids),
		cmocka_unit_test(every_failed_allocation_is_survived),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
