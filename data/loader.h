/*
 * loader.h: prefetched batches of windows, the trainer's only view of the data.
 *
 * Step s of a run takes the B windows with ordinals first + sB ... first + sB + B - 1 (B = global_batch).
 * Rank r takes its contiguous slice of B / ranks windows and hands it out as micro-batches of `micro_batch`
 * windows, in order. Threads of the loader's own read ahead (page cache, verification, conversion to int32)
 * up to `depth` micro-batches. Batches depend on nothing but the configuration and the position: not on
 * threads, depth or timing.
 *
 * A damaged page, or a SIGBUS from a failing disk, makes loader_next return STATUS_CORRUPT or STATUS_IO with
 * file, offset and documents, at the micro-batch that needed the page and at every call from then on; no
 * unverified token is ever handed out. The loader may be closed at any time between two calls.
 */
#ifndef DATA_LOADER_H
#define DATA_LOADER_H

#include "data/mixture.h"

struct loader_config {
	/* Several corpora (copied); NULL: the one and its sampler. All must outlive the loader. */
	const struct mixture *mixture;
	struct corpus *corpus;
	struct sampler sampler;
	uint64_t first_ordinal; /* windows consumed so far by the whole run */
	uint64_t
		global_batch; /* windows of a step over all ranks; a multiple of ranks * micro_batch, at most 2^31 */
	uint64_t micro_batch;
	int rank, ranks;
	int threads; /* reading threads, at least 1 */
	int depth;   /* micro-batches kept ready, at least 1 */
	/* Where batches live (pinned memory on a GPU machine; aligned to 64 bytes at least); NULL: ordinary
	 * memory. One block, released by loader_close. */
	enum status (*allocate)(void *user, size_t bytes, void **out);
	void (*release)(void *user, void *block, size_t bytes);
	void *user;
};

struct loader_batch {
	const int32_t *tokens;                /* [micro_batch][T + 1]; row i is windows[i] */
	const struct sampler_window *windows; /* [micro_batch] */
};

struct loader;

enum status loader_open(const struct loader_config *config, struct loader **out) MUST_USE;
/* The next micro-batch; *batch stays valid until the next call. One caller at a time. */
enum status loader_next(struct loader *loader, struct loader_batch *batch) MUST_USE;
void loader_close(struct loader *loader);

#endif
