/*
 * tokenizer.h: byte-level BPE, text to token ids and back.
 *
 * A `struct tokenizer` is a vocabulary: immutable once open, shared by any number of threads. An `struct
 * encoder` is one thread's working state (word cache, scratch). Ids are exactly those of tiktoken 0.14's
 * gpt2.encode_ordinary: GPT-2's split pattern on Unicode 16.0 tables, rank-greedy merges; "<|endoftext|>" in
 * a text is ordinary text. Text must be valid UTF-8: repair it first with utf8_repair (tokenizer/utf8.h).
 *
 * Source of the algorithm: Sennrich et al. 2016; Radford et al. 2019 (GPT-2, encoder.py).
 */
#ifndef TOKENIZER_TOKENIZER_H
#define TOKENIZER_TOKENIZER_H

#include "common/error.h"
#include "common/hash.h"

#include <stdint.h>

struct tokenizer;
struct encoder;

/* ---- vocabularies ---- */

/* GPT-2's, built into the program; the last id is <|endoftext|>. */
enum { TOKENIZER_GPT2_VOCABULARY = 50257 };
enum status tokenizer_open_gpt2(struct tokenizer **out) MUST_USE;

/*
 * From files: merges (GPT-2's vocab.bpe or Hugging Face's merges.txt) and, unless vocab_file is NULL, the ids
 * (vocab.json, encoder.json: token string -> id). Without it ids follow from the merges as GPT-2's do. The
 * end-of-document token is "<|endoftext|>" in the vocabulary, or is appended as the last id. Errors name file
 * and line.
 */
enum status tokenizer_open_files(
	const char *merge_file, const char *vocab_file, struct tokenizer **out) MUST_USE;

/* From a directory that holds vocab.json and merges.txt (a checkpoint, a Hugging Face model, a corpus). */
enum status tokenizer_open_directory(const char *directory, struct tokenizer **out) MUST_USE;

void tokenizer_close(struct tokenizer *tokenizer);

uint32_t tokenizer_vocabulary(const struct tokenizer *tokenizer); /* number of ids, EOD included */
uint32_t tokenizer_eod(const struct tokenizer *tokenizer);        /* end-of-document id */
/* TOKENIZER_GPT2_NAME for GPT-2's own, built in or read from files; "ByteLevelBPETokenizer" for any other. */
#define TOKENIZER_GPT2_NAME "GPT2BPETokenizer"
const char *tokenizer_name(const struct tokenizer *tokenizer);

/* Identity: XXH3-128 of every id's bytes, the merges in order, and the Unicode version. Same ids <=> same
 * hash. */
struct hash128 tokenizer_hash(const struct tokenizer *tokenizer);

/* The bytes of a token; *length 0 (not an error) for EOD, which stands for no text. NULL if id is out of
 * range. */
const uint8_t *tokenizer_token_bytes(const struct tokenizer *tokenizer, uint32_t id, uint32_t *length);

/* The text of ids, EOD giving nothing: at most 128 bytes an id for GPT-2. *text is malloc'ed. */
enum status tokenizer_decode(const struct tokenizer *tokenizer, const uint32_t *ids /* [count] */,
	size_t count, char **text, size_t *bytes) MUST_USE;

/*
 * The files that let Hugging Face transformers load this tokenizer (AutoTokenizer): vocab.json, merges.txt,
 * tokenizer.json, tokenizer_config.json, special_tokens_map.json. Byte-identical every time; data malloc'ed.
 */
struct tokenizer_file {
	const char *name; /* static */
	char *data;
	size_t bytes;
};
enum { TOKENIZER_FILES = 5 };
enum status tokenizer_export(
	const struct tokenizer *tokenizer, struct tokenizer_file files[TOKENIZER_FILES]) MUST_USE;
void tokenizer_export_free(struct tokenizer_file files[TOKENIZER_FILES]);

/* ---- encoding ---- */

/* The tokenizer must outlive the encoder. One thread at a time. Memory: 8 MiB of cache, growing with the
 * number of different words to 20 MiB at most. */
enum status encoder_open(const struct tokenizer *tokenizer, struct encoder **out) MUST_USE;
void encoder_close(struct encoder *encoder);

/*
 * Ids of one text. `ids` must have room for `bytes` ids (no text has more ids than bytes). The text is read
 * to exactly `bytes`, NUL bytes included. Fails only for lack of memory (a word of
 * more than 48 bytes takes up to 36 bytes of scratch for each) and for one word of 4 GiB.
 * Time: linear in `bytes` for text, n log n for one word of n bytes.
 */
enum status encoder_encode(struct encoder *encoder, const char *text, size_t bytes,
	uint32_t *ids /* [bytes] */, size_t *count) MUST_USE;

/* The same in 16 bits, for vocabularies of at most 65,536 ids (others: STATUS_USAGE). */
enum status encoder_encode_u16(struct encoder *encoder, const char *text, size_t bytes,
	uint16_t *ids /* [bytes] */, size_t *count) MUST_USE;

#endif
