#include "data/record_merge.h"

#include "common/file.h"
#include "common/memory.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A run that is to be merged: of file `file`, or of BETWEEN-(file - files). */
struct source {
	size_t file;
	struct record_run run;
};

struct merging {
	const struct record_merge *merge;
	struct source *sources; /* [count]; those before `next` are merged */
	size_t capacity, count, next;
	size_t file;    /* of the runs being looked for */
	size_t between; /* files made */
};

static void source_path(const struct merging *merging, size_t file, char path[RECORD_PATH])
{
	const struct record_merge *merge = merging->merge;
	if (file < merge->files)
		merge->path(merge->user, file, path);
	else
		snprintf(path, RECORD_PATH, "%s-%zu", merge->between, file - merge->files);
}

/* ---- one merge ---- */

/* A run under way: `left` records are at `record`. */
struct input {
	struct record_cursor *cursor;
	const uint64_t *record;
	size_t left;
};

struct heap {
	struct input *inputs; /* [count]: none begins below the first; each not below (i - 1) / 2 */
	size_t count, width;
};

/* Kept records on their way out, and what was seen last. */
struct sequence {
	const struct record_merge *merge;
	struct record_writer *output; /* NULL: none */
	bool begun, kept;             /* `seen` and `previous` are there */
	uint64_t seen[RECORD_WIDTH], previous[RECORD_WIDTH];
	size_t count;
	uint64_t block[RECORD_BLOCK * RECORD_WIDTH];
};

static void sink(struct heap *heap, size_t at)
{
	struct input input = heap->inputs[at];
	for (size_t child; (child = 2 * at + 1) < heap->count; at = child) {
		const struct input *inputs = heap->inputs;
		if (child + 1 < heap->count &&
			records_compare(inputs[child + 1].record, inputs[child].record, heap->width) < 0)
			child++;
		if (records_compare(inputs[child].record, input.record, heap->width) >= 0)
			break;
		heap->inputs[at] = heap->inputs[child];
	}
	heap->inputs[at] = input;
}

/* The first input's next record, or the input leaves. */
static enum status advance(struct heap *heap)
{
	struct input *input = &heap->inputs[0];
	input->record += heap->width;
	if (--input->left == 0)
		TRY(record_cursor_next(input->cursor, &input->record, &input->left));
	if (!input->left) {
		record_cursor_close(input->cursor);
		*input = heap->inputs[--heap->count];
	}
	if (heap->count)
		sink(heap, 0);
	return STATUS_OK;
}

static enum status write_kept(struct sequence *sequence)
{
	size_t count = sequence->count;
	sequence->count = 0;
	return sequence->output ? record_writer_add(sequence->output, 0, sequence->block, count) : STATUS_OK;
}

static enum status take(struct sequence *sequence, const uint64_t *record)
{
	const struct record_merge *merge = sequence->merge;
	size_t width = (size_t)merge->format.width, bytes = width * sizeof *record;
	bool keep = true;
	if (sequence->begun && memcmp(sequence->seen, record, bytes) == 0)
		return STATUS_OK;
	memcpy(sequence->seen, record, bytes);
	sequence->begun = true;
	if (merge->filter)
		TRY(merge->filter(merge->user, sequence->kept ? sequence->previous : NULL, record, &keep));
	if (!keep)
		return STATUS_OK;
	memcpy(sequence->previous, record, bytes);
	sequence->kept = true;
	if (sequence->count == RECORD_BLOCK)
		TRY(write_kept(sequence));
	memcpy(sequence->block + sequence->count++ * width, record, bytes);
	return STATUS_OK;
}

static enum status open_inputs(
	const struct merging *merging, const struct source *sources, size_t count, struct heap *heap)
{
	const struct record_merge *merge = merging->merge;
	char path[RECORD_PATH];
	for (size_t i = 0; i < count; i++) {
		struct input *input = &heap->inputs[heap->count];
		source_path(merging, sources[i].file, path);
		TRY(record_cursor_open(
			path, &merge->format, &sources[i].run, merge->first, merge->last, &input->cursor));
		heap->count++;
		TRY(record_cursor_next(input->cursor, &input->record, &input->left));
		if (!input->left)
			record_cursor_close(heap->inputs[--heap->count].cursor);
	}
	for (size_t i = heap->count / 2; i-- > 0;)
		sink(heap, i);
	return STATUS_OK;
}

static enum status merge_inputs(const struct merging *merging, const struct source *sources, size_t count,
	struct heap *heap, struct sequence *sequence)
{
	TRY(open_inputs(merging, sources, count, heap));
	while (heap->count) {
		TRY(take(sequence, heap->inputs[0].record));
		TRY(advance(heap));
	}
	return write_kept(sequence);
}

static enum status merge_sources(const struct merging *merging, const struct source *sources, size_t count,
	struct record_writer *output)
{
	const struct record_merge *merge = merging->merge;
	struct heap heap = {.width = (size_t)merge->format.width};
	struct sequence *sequence;
	TRY(memory_alloc((void **)&sequence, 1, sizeof *sequence, "a block of records"));
	sequence->merge = merge;
	sequence->output = output;
	enum status status =
		memory_alloc((void **)&heap.inputs, count, sizeof *heap.inputs, "runs of records");
	if (status == STATUS_OK)
		status = merge_inputs(merging, sources, count, &heap, sequence);
	for (size_t i = 0; i < heap.count; i++)
		record_cursor_close(heap.inputs[i].cursor);
	free(heap.inputs);
	free(sequence);
	return status;
}

/* ---- all of them ---- */

static enum status add_run(void *user, const struct record_run *run)
{
	struct merging *merging = user;
	TRY(memory_grow((void **)&merging->sources, &merging->capacity, merging->count + 1,
		sizeof *merging->sources, "runs of records"));
	merging->sources[merging->count++] = (struct source){.file = merging->file, .run = *run};
	return STATUS_OK;
}

/* Of an input, those of the list; a file between is one. */
static enum status find_runs(struct merging *merging, size_t number)
{
	const struct record_merge *merge = merging->merge;
	struct record_file *file;
	char path[RECORD_PATH];
	merging->file = number;
	source_path(merging, number, path);
	TRY(record_file_open(path, &merge->format, &file));
	struct record_run all = record_file_run(file);
	enum status status = number < merge->files ? record_file_runs(file, merge->list, merge->first,
							     merge->last, add_run, merging)
						   : add_run(merging, &all);
	record_file_close(file);
	return status;
}

static enum status remove_between(const struct merging *merging, const struct source *sources, size_t count)
{
	char path[RECORD_PATH];
	for (size_t i = 0; i < count; i++) {
		if (sources[i].file < merging->merge->files)
			continue;
		source_path(merging, sources[i].file, path);
		TRY(file_remove(path));
	}
	return STATUS_OK;
}

/* The next `count` runs become one, the last. */
static enum status merge_between(struct merging *merging, size_t count)
{
	const struct record_merge *merge = merging->merge;
	struct record_writer *writer;
	char path[RECORD_PATH];
	size_t number = merge->files + merging->between++;
	source_path(merging, number, path);
	TRY(record_writer_open(path, &merge->format, &writer));
	enum status status = merge_sources(merging, merging->sources + merging->next, count, writer);
	if (status != STATUS_OK) {
		record_writer_abandon(writer);
		return status;
	}
	TRY(record_writer_publish(writer, false));
	TRY(remove_between(merging, merging->sources + merging->next, count));
	merging->next += count;
	return find_runs(merging, number);
}

static enum status merge_all(struct merging *merging, struct record_writer *output)
{
	const struct record_merge *merge = merging->merge;
	for (size_t i = 0; i < merge->files; i++)
		TRY(find_runs(merging, i));
	while (merging->count - merging->next > merge->most)
		TRY(merge_between(merging, merge->most));
	TRY(merge_sources(merging, merging->sources + merging->next, merging->count - merging->next, output));
	return remove_between(merging, merging->sources + merging->next, merging->count - merging->next);
}

/* After a failure, which `status` is: the disk may be full, and whoever merges again begins anew. */
static enum status discard_between(const struct merging *merging, enum status status)
{
	struct error_copy error;
	char path[RECORD_PATH];
	error_save(status, &error);
	for (size_t i = 0; i < merging->between; i++) {
		source_path(merging, merging->merge->files + i, path);
		(void)!file_remove(path);
	}
	return error_restore(&error);
}

enum status record_merge_run(const struct record_merge *merge, struct record_writer *output)
{
	struct merging merging = {.merge = merge};
	assert(merge->most >= 2);
	enum status status = merge_all(&merging, output);
	if (status != STATUS_OK)
		status = discard_between(&merging, status);
	free(merging.sources);
	return status;
}
