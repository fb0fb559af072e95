/* pinned.h: copies between ordinary memory and a table's, for tests: by way of host memory that the table gave,
 * which is pinned on a GPU. They have arrived on return. */
#ifndef TESTS_OPS_PINNED_H
#define TESTS_OPS_PINNED_H

#include "kernels/kernels.h"

#include <string.h>

static inline enum status pinned_copy_in(struct kernels *k, void *device, const void *from, size_t bytes)
{
	void *block;
	TRY(k->host_alloc(k, &block, bytes, "test data"));
	memcpy(block, from, bytes);
	k->copy_in(k, NULL, device, block, bytes);
	enum status status = k->stream_wait(k, NULL);
	k->host_free(k, block, bytes);
	return status;
}

static inline enum status pinned_copy_out(struct kernels *k, void *to, const void *device, size_t bytes)
{
	void *block;
	TRY(k->host_alloc(k, &block, bytes, "test data"));
	k->copy_out(k, NULL, block, device, bytes);
	enum status status = k->stream_wait(k, NULL);
	if (status == STATUS_OK)
		memcpy(to, block, bytes);
	k->host_free(k, block, bytes);
	return status;
}

#endif
