/*
 * preprocess_fixture.h: what tests that run preprocess share: a scratch folder, GPT-2's tokenizer, and files
 * that are not synced: nothing here loses power, and most of the time would go to waiting for the disk.
 */
#ifndef TESTS_PREPROCESS_FIXTURE_H
#define TESTS_PREPROCESS_FIXTURE_H

#include "tests/unit/scratch_folder.h"
#include "tokenizer/tokenizer.h"

static struct tokenizer *tokenizer;
static struct file_operations unsynced;

static int skip_fsync(int fd)
{
	(void)fd;
	return 0;
}

static int begin(void **state)
{
	unsynced = file_operations_system;
	unsynced.fsync = skip_fsync;
	file_system = &unsynced;
	return scratch_make(state) == 0 && tokenizer_open_gpt2(&tokenizer) == STATUS_OK ? 0 : -1;
}

static int end(void **state)
{
	tokenizer_close(tokenizer);
	return scratch_remove(state);
}

#endif
