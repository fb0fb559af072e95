/*
 * mpi.h: ranks that MPI's mpirun or srun started (collective.h), from ferry-mpi.so (common/library.h: beside the
 * program, in ../lib/ferry, or $FERRY_MPI).
 */
#ifndef ENGINE_MPI_H
#define ENGINE_MPI_H

#include "engine/collective.h"

/*
 * `ranks`: as many as were started, by what the environment says. STATUS_UNSUPPORTED: there is no ferry-mpi.so, or it
 * speaks another MPI than the one that started this process, and so sees other ranks, or none.
 */
enum status collective_open_mpi(int ranks, struct collective *out) MUST_USE;

#endif
