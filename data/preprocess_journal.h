/*
 * preprocess_journal.h: what a run writes down about itself in DIR/work (data/preprocess.h), so that the same
 * command, or --finish, can go on with it: job.json, the options that matter; the list of inputs; the
 * tokenizer's files if it is not GPT-2's. An option that is added must be written and read back here.
 */
#ifndef DATA_PREPROCESS_JOURNAL_H
#define DATA_PREPROCESS_JOURNAL_H

#include "common/json.h"
#include "data/preprocess_job.h"

/* What this run would journal, and where. */
struct journal {
	char *inputs_path, *job_path;
	char *inputs; /* [inputs_bytes] */
	size_t inputs_bytes;
	cJSON *job;
};

/* Also sets job->format.job, its hash. The caller frees the journal, on failure too. */
enum status journal_make(struct preprocess_job *job, struct journal *journal) MUST_USE;
void journal_free(struct journal *journal);
enum status journal_publish(const struct preprocess_job *job, const struct journal *journal) MUST_USE;
/* STATUS_OK: the journal at `path` is this job's. STATUS_MISMATCH: it is another's; says what differs. */
enum status journal_compare(
	const struct preprocess_job *job, const struct journal *journal, const char *path) MUST_USE;

/* A journal's job. `config` gets the options that the journal has and keeps what it held otherwise (output,
 * workers, ...); its strings and its tokenizer are the recall's. */
struct journal_recall {
	struct preprocess_config config;
	struct tokenizer *tokenizer;
	cJSON *job;
};
/* Reads what is in folder `work`. Both are the caller's to free, on failure too. */
enum status journal_read(const char *work, struct journal_recall *out, struct input_list *inputs) MUST_USE;
void journal_recall_free(struct journal_recall *recall);

#endif
