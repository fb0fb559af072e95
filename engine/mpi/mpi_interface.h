/*
 * mpi_interface.h: the border between the program (engine/mpi.c) and ferry-mpi.so, as kernels/cuda/interface.h is the
 * one to ferry-cuda.so.
 */
#ifndef ENGINE_MPI_MPI_INTERFACE_H
#define ENGINE_MPI_MPI_INTERFACE_H

#include "common/library.h"
#include "engine/collective.h"

#define MPI_INTERFACE_VERSION 1
#define MPI_INTERFACE_SYMBOL  "ferry_mpi_open"

/* What the symbol is. `host` must outlive the table. Once a process. */
typedef enum status mpi_open_function(const struct library_host *host, struct collective *out);

#endif
