/* Loads ferry-mpi.so, and lets it fill the table. See mpi/mpi_interface.h. */
#include "engine/mpi.h"

#include "common/library.h"
#include "engine/mpi/mpi_interface.h"

static const struct library_host host = LIBRARY_HOST(MPI_INTERFACE_VERSION, struct collective);

static const struct library library = {.what = "MPI backend",
	.file = "ferry-mpi.so",
	.variable = "FERRY_MPI",
	.symbol = MPI_INTERFACE_SYMBOL,
	.target = "mpi",
	.needs = "mpicc: Debian's libopenmpi-dev and openmpi-bin",
	.global = true};

enum status collective_open_mpi(int ranks, struct collective *out)
{
	mpi_open_function *open = NULL;
	enum status status = library_open(&library, (void **)&open);
	if (status != STATUS_OK)
		return error_context(status, "%d processes were started to work together", ranks);
	TRY(open(&host, out));
	FAIL_IF(out->ranks != ranks, STATUS_UNSUPPORTED,
		"%d processes were started to work together, but %s sees %d: it is not the MPI whose mpirun "
		"or srun "
		"started them; build ferry-mpi.so with that one's mpicc (`make mpi MPICC=...`)",
		ranks, out->name, out->ranks);
	FAIL_IF(out->ranks > COLLECTIVE_RANKS, STATUS_UNSUPPORTED, "%d ranks; at most %d work together",
		out->ranks, COLLECTIVE_RANKS);
	return STATUS_OK;
}
