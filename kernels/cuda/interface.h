/*
 * interface.h: the border between the program (kernels/cuda.c) and ferry-cuda.so.
 *
 * The shared object is loaded at run time and links with nothing of the program, so the program hands it the
 * few functions of common/error.h that it needs. The two must be built from the same headers: `table_bytes`
 * and `version` say so before anything is filled in.
 */
#ifndef KERNELS_CUDA_INTERFACE_H
#define KERNELS_CUDA_INTERFACE_H

#include "kernels/kernels.h"

#define CUDA_INTERFACE_VERSION 2
#define CUDA_INTERFACE_SYMBOL  "ferry_cuda_open"

struct cuda_host {
	int version;        /* CUDA_INTERFACE_VERSION */
	size_t table_bytes; /* sizeof(struct kernels) */
	enum status (*error_set)(enum status status, const char *format, ...);
	void (*error_save)(enum status status, struct error_copy *copy);
	enum status (*error_restore)(const struct error_copy *copy);
};

/* What the symbol is. `host` must outlive the table. */
typedef enum status cuda_open_function(
	const struct cuda_host *host, const struct kernels_config *config, struct kernels *out);

#endif
