#include "data/corpus.h"
#include "tokenizer/tokenizer.h"

#include <string.h>

struct opening {
	const struct corpus *corpus;
	const char *merges; /* path */
	struct tokenizer **out;
};

static enum status open_with_vocabulary(void *user, const char *path)
{
	const struct opening *opening = user;
	return tokenizer_open_files(opening->merges, path, opening->out);
}

static enum status open_with_merges(void *user, const char *path)
{
	struct opening *opening = user;
	opening->merges = path;
	return corpus_use_file(opening->corpus, "vocab.json", open_with_vocabulary, opening);
}

static enum status open_files(const struct corpus *corpus, struct tokenizer **out)
{
	struct opening opening = {.corpus = corpus, .out = out};
	return corpus_use_file(corpus, "merges.txt", open_with_merges, &opening);
}

/* By its name: only the built-in one has no files. */
static enum status open_named(const struct corpus *corpus, bool built_in, struct tokenizer **out)
{
	if (built_in)
		return tokenizer_open_gpt2(out);
	enum status status = open_files(corpus, out);
	return status == STATUS_OK ? status
				   : error_context(status,
					     "%s: the corpus was not made with the built-in GPT-2 tokenizer",
					     corpus_directory(corpus));
}

enum status corpus_open_tokenizer(const struct corpus *corpus, struct tokenizer **out)
{
	struct tokenizer *tokenizer;
	const struct corpus_info *info = corpus_get_info(corpus);
	bool built_in = strcmp(info->tokenizer_name, TOKENIZER_GPT2_NAME) == 0;
	char have[33], want[33];
	*out = NULL;
	TRY(open_named(corpus, built_in, &tokenizer));
	struct hash128 hash = tokenizer_hash(tokenizer);
	if (hash128_compare(hash, info->tokenizer_hash) != 0) {
		tokenizer_close(tokenizer);
		hash128_format(hash, have);
		hash128_format(info->tokenizer_hash, want);
		FAIL_IF(built_in, STATUS_MISMATCH,
			"%s: the built-in tokenizer is %s, but the corpus was made with %s: use the ferry "
			"that made it",
			corpus_directory(corpus), have, want);
		return error_set(STATUS_MISMATCH,
			"%s: vocab.json and merges.txt make tokenizer %s, but the corpus was made with %s: "
			"restore those "
			"files",
			corpus_directory(corpus), have, want);
	}
	*out = tokenizer;
	return STATUS_OK;
}
