/*
 * ranks.h: `ferry train` and `ferry evaluate` as one of several processes that work together, and how they begin and end
 * then.
 *
 * mpirun or srun starts the processes; the environment says so (part.h). Each opens MPI (engine/mpi.h): several that
 * knew nothing of each other would all do everything, and write into one folder. All are started with the same command
 * line. Rank 0 alone prints and writes.
 */
#ifndef TOOLS_RANKS_H
#define TOOLS_RANKS_H

#include "common/hash.h"
#include "engine/collective.h"
#include "tools/device.h"

/* One process, where it was started alone; `out` is that too where this fails. */
enum status ranks_open(struct collective *out) MUST_USE;
/* All were started with these arguments. */
enum status ranks_check_arguments(struct collective *ranks, int argc, char **argv) MUST_USE;
/* What all find at `path` is the same, by its hash, or by the bytes of the file NAME in it: hosts may have no file system
 * in common. STATUS_MISMATCH. */
enum status ranks_check_hash(struct collective *ranks, const char *path, struct hash128 own) MUST_USE;
enum status ranks_check_file(struct collective *ranks, const char *path, const char *name) MUST_USE;
/* As device_choose, with a GPU for each of the host's ranks: each has one, or none has. Agreed on. */
enum status ranks_choose_device(struct collective *ranks, const struct collective_place *place,
	enum device wanted, enum dtype act, uint64_t logits, struct device_choice *out) MUST_USE;
/* Processors of the host that are this rank's share, at least 1. */
int ranks_threads(const struct collective_place *place);
/* NULL, or, where the launcher may run on more processors than its ranks of this host together, what to do about it: Open
 * MPI's mpirun binds two processes to one core each. */
const char *ranks_bound(const struct collective_place *place, char *text, size_t room);
/*
 * The end of a command, as command_finish (command.h), and of the ranks: what all failed with, rank 0 says; what this one
 * alone failed with it says itself, and ends the others. Returns the exit code.
 */
int ranks_finish(const char *name, enum status status, struct collective *ranks);

#endif
