/* make_corpus MERGES INPUT OUTPUT BYTES: ferry preprocess, with shards of at most BYTES, so that a small
 * corpus has several. */
#include "data/preprocess.h"

#include <stdio.h>
#include <stdlib.h>

static enum status make(char **argv)
{
	struct tokenizer *tokenizer;
	struct preprocess_result result;
	const char *input = argv[2];
	TRY(tokenizer_open_files(argv[1], NULL, &tokenizer));
	enum status status = preprocess_run(&(struct preprocess_config){.inputs = &input,
						    .input_count = 1,
						    .output = argv[3],
						    .tokenizer = tokenizer,
						    .text_key = "text",
						    .max_bytes = 1 << 20,
						    .memory = 1 << 24,
						    .workers = 1,
						    .shard_bytes = strtoull(argv[4], NULL, 10)},
		&result);
	tokenizer_close(tokenizer);
	return status;
}

int main(int argc, char **argv)
{
	if (argc == 5 && make(argv) == STATUS_OK)
		return 0;
	fprintf(stderr, "%s\n", argc == 5 ? error_message() : "usage: make_corpus MERGES INPUT OUTPUT BYTES");
	return 1;
}
