/* The table of engine/collective.h over MPI: one communicator, one thread that calls. */
#include "engine/mpi/mpi_interface.h"

#include <mpi.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct world {
	const struct library_host *host;
	int *counts, *places, *own_counts, *own_places; /* [ranks], bytes, of a call */
};

static enum status told(const struct collective *c, int code, const char *what)
{
	const struct world *w = c->self;
	char text[MPI_MAX_ERROR_STRING];
	int length;
	if (code == MPI_SUCCESS)
		return STATUS_OK;
	if (MPI_Error_string(code, text, &length) != MPI_SUCCESS)
		snprintf(text, sizeof text, "error %d", code);
	return w->host->error_set(STATUS_IO, "rank %d, %s: %s", c->rank, what, text);
}

static void cut(const struct collective *c, const uint64_t *cuts, int *counts, int *places)
{
	for (int r = 0; r < c->ranks; r++) {
		counts[r] = (int)(cuts[r + 1] - cuts[r]);
		places[r] = (int)cuts[r];
	}
}

static enum status exchange(struct collective *c, const void *block, const uint64_t *cuts, void *parts)
{
	struct world *w = c->self;
	int own = (int)(cuts[c->rank + 1] - cuts[c->rank]);
	cut(c, cuts, w->counts, w->places);
	for (int r = 0; r < c->ranks; r++) {
		w->own_counts[r] = own;
		w->own_places[r] = r * own;
	}
	return told(c,
		MPI_Alltoallv(block, w->counts, w->places, MPI_BYTE, parts, w->own_counts, w->own_places,
			MPI_BYTE, MPI_COMM_WORLD),
		"an exchange of gradients");
}

static enum status gather(struct collective *c, void *block, const uint64_t *cuts)
{
	struct world *w = c->self;
	cut(c, cuts, w->counts, w->places);
	return told(c,
		MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, block, w->counts, w->places, MPI_BYTE,
			MPI_COMM_WORLD),
		"a gathering of weights");
}

static void abort_all(struct collective *c, int exit_code)
{
	(void)c;
	MPI_Abort(MPI_COMM_WORLD, exit_code);
}

static void release(struct collective *c)
{
	struct world *w = c->self;
	MPI_Finalize();
	free(w->counts);
	free(w);
	memset(c, 0, sizeof *c);
}

/* "Open MPI v4.1.4, package: ...", "MPICH Version:\t4.0.2\n...": up to a comma or the line's end. */
static void name_library(char *out, size_t room)
{
	char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
	int length;
	MPI_Get_library_version(text, &length);
	text[strcspn(text, ",\n")] = 0;
	for (char *tab; (tab = strchr(text, '\t'));)
		*tab = ' ';
	snprintf(out, room, "MPI (%.80s)", text);
}

__attribute__((visibility("default"))) enum status ferry_mpi_open(
	const struct library_host *host, struct collective *out);

enum status ferry_mpi_open(const struct library_host *host, struct collective *out)
{
	int level;
	TRY(library_check(host, "mpi", MPI_INTERFACE_VERSION, sizeof *out));
	if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level) != MPI_SUCCESS)
		return host->error_set(STATUS_UNSUPPORTED, "MPI cannot be initialized");
	MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
	*out = (struct collective){
		.exchange = exchange, .gather = gather, .abort = abort_all, .close = release};
	MPI_Comm_rank(MPI_COMM_WORLD, &out->rank);
	MPI_Comm_size(MPI_COMM_WORLD, &out->ranks);
	name_library(out->name, sizeof out->name);
	struct world *w = calloc(1, sizeof *w);
	out->self = w;
	if (w)
		w->counts = calloc(4 * (size_t)out->ranks, sizeof *w->counts);
	if (!w || !w->counts)
		return host->error_set(STATUS_MEMORY, "no memory for %d ranks", out->ranks);
	w->host = host;
	w->places = w->counts + out->ranks;
	w->own_counts = w->places + out->ranks;
	w->own_places = w->own_counts + out->ranks;
	return STATUS_OK;
}
