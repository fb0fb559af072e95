#include "tools/output.h"

#include "common/file.h"
#include "engine/checkpoint.h"

#include <stdlib.h>

static enum status holds_run(const char *directory, bool *out)
{
	uint64_t *steps;
	size_t count;
	TRY(checkpoint_list(directory, &steps, &count));
	free(steps);
	*out = count > 0 || directory_holds(directory, "metrics.jsonl");
	return STATUS_OK;
}

enum status output_check(enum output what, const char *flag, const char *directory)
{
	static const char *const wanted[] = {"a corpus", "a run", "a tokenizer"};
	const char *found = NULL;
	bool run = false;
	if (!file_exists(directory))
		return STATUS_OK;
	TRY(holds_run(directory, &run));
	if (directory_holds(directory, "model.safetensors"))
		found = "a model";
	else if (run && what != OUTPUT_RUN)
		found = "a run of `ferry train`";
	else if (directory_holds(directory, "corpus.json") && what != OUTPUT_CORPUS)
		found = "a corpus";
	FAIL_IF(found, STATUS_USAGE, "%s %s: holds %s; give %s a directory of its own", flag, directory,
		found, wanted[what]);
	return STATUS_OK;
}
