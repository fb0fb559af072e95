#include "engine/lookups.h"

#include "common/memory.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct lookups {
	struct kernels *k;
	struct collective *ranks;
	const struct parameter *wte;
	uint64_t bytes;
	uint32_t *pieces;    /* [early, then late], pinned */
	uint32_t *on_table;  /* the same in the kernels' memory */
	uint64_t early, all; /* how many */
	uint8_t *rows;       /* bits of the padded vocabulary: those that are looked up */
};

/* The parameter's, its gap included. */
static uint64_t count_pieces(const struct parameter_table *table)
{
	return parameter_span(table, PARAMETER_WTE) / KERNELS_PIECE;
}

uint64_t lookups_bytes(const struct parameter_table *table)
{
	return count_pieces(table) * sizeof(uint32_t);
}

/* Of a set of rows. */
static size_t set_bytes(const struct lookups *l)
{
	return ((size_t)l->wte->rows + 7) / 8;
}

static enum status take(struct lookups *l)
{
	struct kernels *k = l->k;
	TRY(memory_alloc((void **)&l->rows, set_bytes(l), 1, "looked-up rows"));
	TRY(k->host_alloc(k, (void **)&l->pieces, l->bytes, "looked-up rows"));
	return k->memory_alloc(k, (void **)&l->on_table, l->bytes, "looked-up rows");
}

enum status lookups_open(struct kernels *kernels, const struct parameter_table *table,
	struct collective *ranks, struct lookups **out)
{
	struct lookups *l;
	*out = NULL;
	TRY(memory_alloc((void **)&l, 1, sizeof *l, "looked-up rows"));
	l->k = kernels;
	l->ranks = ranks;
	l->wte = &table->items[PARAMETER_WTE];
	l->bytes = lookups_bytes(table);
	l->all = count_pieces(table);
	enum status status = take(l);
	if (status != STATUS_OK) {
		lookups_close(l);
		return status;
	}
	*out = l;
	return STATUS_OK;
}

void lookups_close(struct lookups *l)
{
	if (!l)
		return;
	struct kernels *k = l->k;
	if (l->pieces)
		k->host_free(k, l->pieces, l->bytes);
	if (l->on_table)
		k->memory_free(k, l->on_table, l->bytes);
	free(l->rows);
	free(l);
}

/* ---- which rows ---- */

static enum status gather_rows(struct lookups *l)
{
	size_t bytes = set_bytes(l);
	uint8_t *all;
	if (!l->ranks || l->ranks->ranks == 1)
		return STATUS_OK;
	TRY(collective_gather(l->ranks, l->rows, bytes, (void **)&all));
	for (int r = 0; r < l->ranks->ranks; r++)
		for (size_t i = 0; i < bytes; i++)
			l->rows[i] |= all[(size_t)r * bytes + i];
	free(all);
	return STATUS_OK;
}

static bool is_looked_up(const struct lookups *l, uint64_t row)
{
	return l->rows[row / 8] >> row % 8 & 1;
}

/* The pieces that have something of a row, by their number within the parameter. */
static uint64_t first_piece(const struct lookups *l, uint64_t row)
{
	return row * (uint64_t)l->wte->columns / KERNELS_PIECE;
}

static uint64_t piece_behind(const struct lookups *l, uint64_t row)
{
	return ((row + 1) * (uint64_t)l->wte->columns + KERNELS_PIECE - 1) / KERNELS_PIECE;
}

static void list_early(struct lookups *l)
{
	uint64_t first = l->wte->offset / KERNELS_PIECE, next = 0;
	l->early = 0;
	for (uint64_t row = 0; row < (uint64_t)l->wte->rows; row++) {
		if (!is_looked_up(l, row))
			continue;
		for (; next < first_piece(l, row); next++)
			l->pieces[l->early++] = (uint32_t)(first + next);
		next = piece_behind(l, row);
	}
	for (; next < l->all; next++)
		l->pieces[l->early++] = (uint32_t)(first + next);
}

/* Behind the early ones; backwards, for then it is known where the last one goes. */
static void list_late(struct lookups *l)
{
	uint64_t first = l->wte->offset / KERNELS_PIECE, lowest = l->all, at = l->all;
	for (uint64_t row = (uint64_t)l->wte->rows; row-- > 0;) {
		if (!is_looked_up(l, row))
			continue;
		lowest = piece_behind(l, row) < lowest ? piece_behind(l, row) : lowest;
		while (lowest > first_piece(l, row))
			l->pieces[--at] = (uint32_t)(first + --lowest);
	}
	assert(at == l->early);
}

enum status lookups_find(struct lookups *l, const int32_t *tokens, uint64_t count)
{
	struct kernels *k = l->k;
	memset(l->rows, 0, set_bytes(l));
	for (uint64_t i = 0; i < count; i++)
		l->rows[tokens[i] / 8] |= (uint8_t)(1 << tokens[i] % 8);
	TRY(gather_rows(l));
	list_early(l);
	list_late(l);
	k->copy_in(k, NULL, l->on_table, l->pieces, l->bytes);
	return STATUS_OK;
}

/* ---- lists ---- */

/* The first of a list's elements [begin, end) that is no less than `piece`. */
static uint64_t find_piece(const uint32_t *pieces, uint64_t begin, uint64_t end, uint64_t piece)
{
	while (begin < end) {
		uint64_t middle = begin + (end - begin) / 2;
		if (pieces[middle] < piece)
			begin = middle + 1;
		else
			end = middle;
	}
	return begin;
}

static struct lookups_list cut_list(
	const struct lookups *l, uint64_t begin, uint64_t end, uint64_t from, uint64_t to)
{
	uint64_t first = find_piece(l->pieces, begin, end, from / KERNELS_PIECE);
	uint64_t last = find_piece(l->pieces, first, end, to / KERNELS_PIECE);
	return (struct lookups_list){l->pieces + first, l->on_table + first, last - first};
}

struct lookups_list lookups_early(const struct lookups *l, uint64_t from, uint64_t to)
{
	return cut_list(l, 0, l->early, from, to);
}

struct lookups_list lookups_late(const struct lookups *l, uint64_t from, uint64_t to)
{
	return cut_list(l, l->early, l->all, from, to);
}
