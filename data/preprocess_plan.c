/* What a job is made of: units and buckets, which follow from the inputs alone. */
#include "data/preprocess_job.h"

#include "common/memory.h"
#include "data/corpus_output.h"

#define MEBI             (UINT64_C(1) << 20)
#define BUCKET_INPUT     (8 * MEBI) /* input bytes that a bucket is meant for */
#define UNITS            256        /* aimed at: every key range of the second pass reads from all of them */
#define LEAST_UNIT_BYTES (4 * MEBI)
#define MOST_UNIT_BYTES  (1024 * MEBI)

enum {
	PACKED_WEIGHT = 4 /* compressed text is about this much larger */,
	SMALLEST_BITS = 4,
	UNKNOWN_BITS = 8
};

static uint64_t weight(const struct input_file *file)
{
	return file->compression == INPUT_PLAIN ? file->bytes : file->bytes * PACKED_WEIGHT;
}

static enum status add_piece(struct preprocess_job *job, size_t *capacity, struct piece piece)
{
	TRY(memory_grow((void **)&job->pieces, capacity, job->piece_count + 1, sizeof *job->pieces,
		"the list of inputs"));
	job->pieces[job->piece_count++] = piece;
	return STATUS_OK;
}

/* A unit for the pieces that have none yet. */
static enum status close_unit(struct preprocess_job *job, size_t *capacity, uint64_t stored)
{
	size_t first = job->unit_count ? job->units[job->unit_count - 1].first_piece +
						 job->units[job->unit_count - 1].pieces
				       : 0;
	if (first == job->piece_count)
		return STATUS_OK;
	TRY(memory_grow((void **)&job->units, capacity, job->unit_count + 1, sizeof *job->units,
		"the list of units"));
	job->units[job->unit_count++] =
		(struct unit){.first_piece = first, .pieces = job->piece_count - first, .stored = stored};
	return STATUS_OK;
}

/* A plain JSONL file larger than a unit: parts of equal size, each a unit. */
static enum status cut_file(
	struct preprocess_job *job, size_t file, size_t *piece_capacity, size_t *unit_capacity)
{
	uint64_t bytes = job->inputs.files[file].bytes;
	uint64_t parts = (bytes + job->unit_bytes - 1) / job->unit_bytes;
	for (uint64_t i = 0; i < parts; i++) {
		uint64_t begin = i * job->unit_bytes, end = begin + job->unit_bytes;
		uint64_t stored = (end < bytes ? end : bytes) - begin;
		if (i + 1 == parts)
			end = UINT64_MAX;
		TRY(add_piece(job, piece_capacity, (struct piece){file, begin, end}));
		TRY(close_unit(job, unit_capacity, stored));
	}
	return STATUS_OK;
}

/* Files of ids: each cut into parts of equal size, each a unit. */
static enum status plan_token_units(struct preprocess_job *job)
{
	size_t piece_capacity = 0, unit_capacity = 0;
	enum token_format format = job->config->token_format;
	for (size_t i = 0; i < job->inputs.count; i++) {
		const struct input_file *file = &job->inputs.files[i];
		uint64_t first, end;
		if (!token_file_has_ids(format, file))
			continue;
		TRY(token_file_measure(format, file, &first, &end));
		uint64_t parts = file->bytes / job->unit_bytes + 1, step = (end - first) / parts + 2;
		step -= step % 2;
		for (uint64_t begin = first; begin < end; begin += step) {
			TRY(add_piece(job, &piece_capacity,
				(struct piece){i, begin, end - begin < step ? end : begin + step}));
			TRY(close_unit(job, &unit_capacity, file->bytes / parts));
		}
	}
	return STATUS_OK;
}

static enum status plan_units(struct preprocess_job *job)
{
	if (job->config->token_format)
		return plan_token_units(job);
	size_t piece_capacity = 0, unit_capacity = 0;
	uint64_t held = 0, stored = 0; /* of the unit under way: weight, bytes */
	for (size_t i = 0; i < job->inputs.count; i++) {
		const struct input_file *file = &job->inputs.files[i];
		bool cut = file->kind == INPUT_JSONL && file->compression == INPUT_PLAIN &&
			   file->bytes > job->unit_bytes;
		if (cut || file->standard_input || held + weight(file) > job->unit_bytes) {
			TRY(close_unit(job, &unit_capacity, stored));
			held = stored = 0;
		}
		if (cut) {
			TRY(cut_file(job, i, &piece_capacity, &unit_capacity));
			continue;
		}
		TRY(add_piece(job, &piece_capacity, (struct piece){i, 0, UINT64_MAX}));
		held += weight(file);
		stored += file->bytes;
		if (file->standard_input)
			held = job->unit_bytes; /* a unit of its own */
	}
	return close_unit(job, &unit_capacity, stored);
}

enum status job_plan(struct preprocess_job *job)
{
	uint64_t total = 0;
	for (size_t i = 0; i < job->inputs.count; i++)
		total += weight(&job->inputs.files[i]);
	job->unit_bytes = job->config->unit_bytes;
	if (!job->unit_bytes) {
		job->unit_bytes = total / UNITS;
		if (job->unit_bytes < LEAST_UNIT_BYTES)
			job->unit_bytes = LEAST_UNIT_BYTES;
		if (job->unit_bytes > MOST_UNIT_BYTES)
			job->unit_bytes = MOST_UNIT_BYTES;
	}
	int bits = input_list_has_standard_input(&job->inputs) ? UNKNOWN_BITS : SMALLEST_BITS;
	while (bits < SPILL_LARGEST_BITS && total >> bits > BUCKET_INPUT)
		bits++;
	job->dtype = corpus_output_dtype(job->config->tokenizer);
	job->format.bucket_bits = bits;
	job->format.item_bytes = job->dtype == CORPUS_U16 ? 2 : 4;
	job->format.sources = job->config->sources;
	job->shard_bytes = job->config->shard_bytes;
	return plan_units(job);
}
