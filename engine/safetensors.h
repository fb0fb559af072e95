/*
 * safetensors.h: Hugging Face's tensor files, read with suspicion and written as a stream.
 *
 * The format: u64 little-endian N; N bytes of JSON; then the data. The JSON maps names to {"dtype", "shape",
 * "data_offsets": [begin, end]} (offsets from the end of the JSON) and may hold "__metadata__", a map of
 * strings.
 *
 * A file is taken only if all of it makes sense: N at most 16 MiB and within the file; names unique and
 * shorter than SAFETENSORS_NAME; at most 8 dimensions; no product overflows; every tensor is as long as its
 * shape and type say; and the tensors, in order of offset, cover the data exactly, without gap or overlap.
 * Anything else is STATUS_CORRUPT with file and tensor. Every type of the format is accepted in the header;
 * F32, F16 and BF16 can be read.
 *
 * Reading uses pread, not a map: a file that is cut short underneath gives an error and not a SIGBUS, and
 * pages read do not count as this process's memory. One thread at a time for each open file.
 */
#ifndef ENGINE_SAFETENSORS_H
#define ENGINE_SAFETENSORS_H

#include "common/error.h"
#include "common/hash.h"
#include "engine/staging.h"

#include <stdint.h>

enum { SAFETENSORS_NAME = 128, SAFETENSORS_DIMENSIONS = 8 };

struct safetensors_tensor {
	char name[SAFETENSORS_NAME];
	char type[12]; /* as in the file: "F32" */
	int dimensions;
	uint64_t shape[SAFETENSORS_DIMENSIONS];
	uint64_t elements;   /* product of the shape; 1 for no dimensions */
	uint64_t begin, end; /* bytes from the start of the file */
};

struct safetensors;

enum status safetensors_open(const char *path, struct safetensors **out) MUST_USE;
void safetensors_close(struct safetensors *file);
/* In order of offset. Valid while the file is open. */
int safetensors_count(const struct safetensors *file);
const struct safetensors_tensor *safetensors_get(const struct safetensors *file, int index);
/* NULL: there is none of this name. */
const struct safetensors_tensor *safetensors_find(const struct safetensors *file, const char *name);
/* Elements [first, first + count) of a tensor of this file, as f32 (exact). Another type than F32, F16, BF16
 * is STATUS_UNSUPPORTED. */
enum status safetensors_read(struct safetensors *file, const struct safetensors_tensor *tensor,
	uint64_t first, uint64_t count, float *out /* [count] */) MUST_USE;

/* ---- writing ---- */

struct safetensors_source {
	char name[SAFETENSORS_NAME];
	int dimensions; /* 1 or 2 */
	uint64_t shape[2];
	const float *data; /* f32, as many as the shape says; in ordinary memory, or see below */
};

/*
 * Publishes (common/file.h) a file of F32 tensors in the order given, metadata {"format": "pt"}, the JSON
 * padded with blanks to a multiple of 8. The data go from the caller's memory to the file, no copy is made;
 * with `staging` (or NULL) they are in its kernels' memory and pass through it. *hash is the XXH3-128 of the
 * whole file, *bytes its length. Same tensors, same bytes.
 */
enum status safetensors_write(const char *path, const struct safetensors_source *tensors /* [count] */,
	int count, struct staging *staging, struct hash128 *hash, uint64_t *bytes) MUST_USE;

#endif
