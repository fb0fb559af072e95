#include "data/corpus.h"
#include "tokenizer/tokenizer.h"

#include <stdlib.h>

static enum status open_files(const struct corpus *corpus, struct tokenizer **out)
{
	char *merges = NULL, *vocab = NULL;
	enum status status = corpus_file_path(corpus, "merges.txt", &merges);
	if (status == STATUS_OK)
		status = corpus_file_path(corpus, "vocab.json", &vocab);
	if (status == STATUS_OK)
		status = tokenizer_open_files(merges, vocab, out);
	free(merges);
	free(vocab);
	return status;
}

enum status corpus_open_tokenizer(const struct corpus *corpus, struct tokenizer **out)
{
	struct tokenizer *tokenizer;
	const struct hash128 wanted = corpus_get_info(corpus)->tokenizer_hash;
	char have[33], want[33];
	*out = NULL;
	TRY(tokenizer_open_gpt2(&tokenizer));
	if (hash128_compare(tokenizer_hash(tokenizer), wanted) == 0) {
		*out = tokenizer;
		return STATUS_OK;
	}
	tokenizer_close(tokenizer);
	enum status status = open_files(corpus, &tokenizer);
	if (status != STATUS_OK)
		return error_context(status, "%s: the corpus was not made with the built-in GPT-2 tokenizer",
			corpus_directory(corpus));
	struct hash128 hash = tokenizer_hash(tokenizer);
	if (hash128_compare(hash, wanted) != 0) {
		tokenizer_close(tokenizer);
		hash128_format(hash, have);
		hash128_format(wanted, want);
		return error_set(STATUS_MISMATCH,
			"%s: vocab.json and merges.txt make tokenizer %s, but the corpus was made with %s: "
			"restore those "
			"files",
			corpus_directory(corpus), have, want);
	}
	*out = tokenizer;
	return STATUS_OK;
}
