/*
 * output.h: a directory holds one thing of ferry's: a corpus, a run, or a model (a run's checkpoint, too), which have files
 * of the same names (vocab.json, merges.txt), and are deleted and copied as wholes.
 */
#ifndef TOOLS_OUTPUT_H
#define TOOLS_OUTPUT_H

#include "common/error.h"

enum output { OUTPUT_CORPUS, OUTPUT_RUN, OUTPUT_TOKENIZER };

/* STATUS_USAGE: `directory`, which `flag` gives for what is to be written there, holds something else. That it is not
 * there, or holds the same already, is fine here. */
enum status output_check(enum output what, const char *flag, const char *directory) MUST_USE;

#endif
