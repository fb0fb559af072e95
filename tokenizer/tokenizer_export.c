#include "tokenizer/vocabulary.h"

#include "common/memory.h"
#include "tokenizer/letters.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A growing text. After a failure further additions do nothing; the status is looked at once, at the end. */
struct text {
	char *data;
	size_t bytes, capacity;
	enum status status;
};

static char *text_room(struct text *text, size_t bytes)
{
	if (text->status == STATUS_OK)
		text->status = memory_grow(
			(void **)&text->data, &text->capacity, text->bytes + bytes, 1, "tokenizer files");
	return text->status == STATUS_OK ? text->data + text->bytes : NULL;
}

static void text_add(struct text *text, const char *string)
{
	size_t length = strlen(string);
	char *room = text_room(text, length);
	if (room) {
		memcpy(room, string, length);
		text->bytes += length;
	}
}

static void text_add_number(struct text *text, uint32_t number)
{
	char digits[16];
	snprintf(digits, sizeof digits, "%u", number);
	text_add(text, digits);
}

/* A token's letters: UTF-8, or for JSON strings ASCII with escapes (no letter is a control character). */
static void text_add_token(struct text *text, const struct tokenizer *tokenizer, uint32_t id, bool json)
{
	uint32_t length;
	const uint8_t *bytes = tokenizer_token_bytes(tokenizer, id, &length);
	for (uint32_t i = 0; i < length; i++) {
		uint32_t letter = letter_of_byte(bytes[i]);
		char escape[8];
		char *room = text_room(text, 2);
		if (!room)
			return;
		if (json && letter >= 0x80) {
			snprintf(escape, sizeof escape, "\\u%04x", letter);
			text_add(text, escape);
		} else if (json && (letter == '"' || letter == '\\')) {
			snprintf(escape, sizeof escape, "\\%c", (char)letter);
			text_add(text, escape);
		} else {
			text->bytes += letters_write(bytes + i, 1, room);
		}
	}
}

/* {"token": id, ...} in order of id, character for character as Python's json.dumps and OpenAI's
 * encoder.json. */
static void add_vocabulary(struct text *text, const struct tokenizer *tokenizer)
{
	for (uint32_t id = 0; id < tokenizer->vocabulary; id++) {
		text_add(text, id ? ", \"" : "{\"");
		if (id == tokenizer->eod)
			text_add(text, VOCABULARY_EOD_TEXT);
		else
			text_add_token(text, tokenizer, id, true);
		text_add(text, "\": ");
		text_add_number(text, id);
	}
	text_add(text, "}");
}

static void add_merge(struct text *text, const struct tokenizer *tokenizer, uint32_t rank, bool json)
{
	text_add_token(text, tokenizer, tokenizer->merges[rank][0], json);
	text_add(text, " ");
	text_add_token(text, tokenizer, tokenizer->merges[rank][1], json);
}

static void write_vocab_json(struct text *text, const struct tokenizer *tokenizer)
{
	add_vocabulary(text, tokenizer);
}

static void write_merges_txt(struct text *text, const struct tokenizer *tokenizer)
{
	text_add(text, "#version: 0.2\n");
	for (uint32_t rank = 0; rank < tokenizer->merge_count; rank++) {
		add_merge(text, tokenizer, rank, false);
		text_add(text, "\n");
	}
}

static void write_tokenizer_json(struct text *text, const struct tokenizer *tokenizer)
{
	text_add(
		text, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[{\"id\":");
	text_add_number(text, tokenizer->eod);
	text_add(text, ",\"content\":\"" VOCABULARY_EOD_TEXT "\",\"single_word\":false,\"lstrip\":false,"
		       "\"rstrip\":false,\"normalized\":true,\"special\":true}],\"normalizer\":null,"
		       "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
		       "\"trim_offsets\":true,\"use_regex\":true},"
		       "\"post_processor\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,"
		       "\"trim_offsets\":false,\"use_regex\":true},"
		       "\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,"
		       "\"trim_offsets\":true,\"use_regex\":true},"
		       "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,"
		       "\"continuing_subword_prefix\":\"\",\"end_of_word_suffix\":\"\",\"fuse_unk\":false,"
		       "\"byte_fallback\":false,\"vocab\":");
	add_vocabulary(text, tokenizer);
	text_add(text, ",\"merges\":[");
	for (uint32_t rank = 0; rank < tokenizer->merge_count; rank++) {
		text_add(text, rank ? ",\"" : "\"");
		add_merge(text, tokenizer, rank, true);
		text_add(text, "\"");
	}
	text_add(text, "]}}\n");
}

static void write_tokenizer_config(struct text *text, const struct tokenizer *tokenizer)
{
	(void)tokenizer;
	text_add(text, "{\n"
		       "  \"add_prefix_space\": false,\n"
		       "  \"bos_token\": \"" VOCABULARY_EOD_TEXT "\",\n"
		       "  \"clean_up_tokenization_spaces\": false,\n"
		       "  \"eos_token\": \"" VOCABULARY_EOD_TEXT "\",\n"
		       "  \"errors\": \"replace\",\n"
		       "  \"tokenizer_class\": \"GPT2Tokenizer\",\n"
		       "  \"unk_token\": \"" VOCABULARY_EOD_TEXT "\"\n"
		       "}\n");
}

static void write_special_tokens(struct text *text, const struct tokenizer *tokenizer)
{
	(void)tokenizer;
	text_add(text, "{\n"
		       "  \"bos_token\": \"" VOCABULARY_EOD_TEXT "\",\n"
		       "  \"eos_token\": \"" VOCABULARY_EOD_TEXT "\",\n"
		       "  \"unk_token\": \"" VOCABULARY_EOD_TEXT "\"\n"
		       "}\n");
}

enum status tokenizer_export(const struct tokenizer *tokenizer, struct tokenizer_file files[TOKENIZER_FILES])
{
	static const struct {
		const char *name;
		void (*write)(struct text *text, const struct tokenizer *tokenizer);
	} writers[TOKENIZER_FILES] = {
		{"vocab.json", write_vocab_json},
		{"merges.txt", write_merges_txt},
		{"tokenizer.json", write_tokenizer_json},
		{"tokenizer_config.json", write_tokenizer_config},
		{"special_tokens_map.json", write_special_tokens},
	};
	memset(files, 0, TOKENIZER_FILES * sizeof *files);
	for (int i = 0; i < TOKENIZER_FILES; i++) {
		struct text text = {0};
		writers[i].write(&text, tokenizer);
		files[i] = (struct tokenizer_file){writers[i].name, text.data, text.bytes};
		if (text.status != STATUS_OK) {
			tokenizer_export_free(files);
			return text.status;
		}
	}
	return STATUS_OK;
}

void tokenizer_export_free(struct tokenizer_file files[TOKENIZER_FILES])
{
	for (int i = 0; i < TOKENIZER_FILES; i++) {
		free(files[i].data);
		files[i] = (struct tokenizer_file){0};
	}
}
