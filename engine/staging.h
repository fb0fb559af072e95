/*
 * staging.h: large arrays in the memory of a kernels table that the host cannot touch (a GPU's), seen from
 * the host a piece at a time.
 *
 * What goes to files or comes from them passes through one block of pinned host memory of STAGING_BYTES, so
 * that host memory stays bounded whatever the model's size. Every call waits for the default stream. One
 * thread at a time.
 */
#ifndef ENGINE_STAGING_H
#define ENGINE_STAGING_H

#include "kernels/kernels.h"

enum { STAGING_BYTES = 8 << 20, STAGING_PARTS = 3 };

struct staging;

/* The kernels must outlive it. */
enum status staging_open(struct kernels *kernels, struct staging **out) MUST_USE;
void staging_close(struct staging *staging);

/*
 * For arrays that lie partly on the host (offload.h): from now on addresses are the host's. Those in [host,
 * host + bytes) stand for as many at `device`, in the kernels' memory; all others are ordinary memory.
 */
void staging_substitute(struct staging *staging, const void *host, void *device, uint64_t bytes);

/* For arrays that ranks hold in parts (shards.h): no address is the kernels' any more, these say what is there. */
struct staging_wish {
	size_t skip, take; /* bytes: of what is to be written at an address, the first that are kept */
};
struct staging_store {
	void *user;
	enum status (*read)(void *user, void *to, const void *from, size_t bytes);
	enum status (*write)(void *user, void *to, const void *from, size_t bytes);
	struct staging_wish (*wish)(
		void *user, const void *to, size_t bytes); /* NULL: all; the rest write would drop */
};
void staging_set_store(struct staging *staging, const struct staging_store *store);

/* At most STAGING_BYTES of the kernels' memory as host memory, valid until the next call. */
enum status staging_read(struct staging *staging, const void *from, size_t bytes, const void **host) MUST_USE;

/* The block, for the caller to fill; then as many bytes of it go to `to` in the kernels' memory. */
void *staging_block(struct staging *staging);
enum status staging_write(struct staging *staging, void *to, size_t bytes) MUST_USE;
/* Which of these bytes need be read to be written: after `skip`, `take` (at most STAGING_BYTES). None: skip is `bytes`. */
struct staging_wish staging_next_wish(const struct staging *staging, const void *to, size_t bytes);

/* All of an array of any length in ordinary memory; zeros. */
enum status staging_copy_in(struct staging *staging, void *to, const void *from, uint64_t bytes) MUST_USE;
enum status staging_zero(struct staging *staging, void *to, uint64_t bytes) MUST_USE;

#endif
