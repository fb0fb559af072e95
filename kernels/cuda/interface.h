/*
 * interface.h: the border between the program (kernels/cuda.c) and ferry-cuda.so.
 *
 * The shared object is loaded at run time and links with nothing of the program: common/library.h has what it is handed,
 * and how the two find out whether they were built from the same headers.
 */
#ifndef KERNELS_CUDA_INTERFACE_H
#define KERNELS_CUDA_INTERFACE_H

#include "common/library.h"
#include "kernels/kernels.h"

#define CUDA_INTERFACE_VERSION 3
#define CUDA_INTERFACE_SYMBOL  "ferry_cuda_open"

/* What the symbol is. `host` must outlive the table. */
typedef enum status cuda_open_function(
	const struct library_host *host, const struct kernels_config *config, struct kernels *out);

#endif
