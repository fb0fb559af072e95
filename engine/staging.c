#include "engine/staging.h"

#include "common/memory.h"

#include <stdlib.h>
#include <string.h>

struct staging {
	struct kernels *kernels;
	void *block; /* [STAGING_BYTES], pinned */
};

enum status staging_open(struct kernels *kernels, struct staging **out)
{
	struct staging *s;
	*out = NULL;
	TRY(memory_alloc((void **)&s, 1, sizeof *s, "staging"));
	s->kernels = kernels;
	enum status status = kernels->host_alloc(kernels, &s->block, STAGING_BYTES, "copies to the GPU");
	if (status != STATUS_OK) {
		staging_close(s);
		return status;
	}
	*out = s;
	return STATUS_OK;
}

void staging_close(struct staging *s)
{
	if (!s)
		return;
	if (s->block)
		s->kernels->host_free(s->kernels, s->block, STAGING_BYTES);
	free(s);
}

enum status staging_read(struct staging *s, const void *from, size_t bytes, const void **host)
{
	struct kernels *k = s->kernels;
	k->copy_out(k, NULL, s->block, from, bytes);
	*host = s->block;
	return k->stream_wait(k, NULL);
}

void *staging_block(struct staging *s)
{
	return s->block;
}

enum status staging_write(struct staging *s, void *to, size_t bytes)
{
	struct kernels *k = s->kernels;
	k->copy_in(k, NULL, to, s->block, bytes);
	return k->stream_wait(k, NULL);
}

enum status staging_copy_in(struct staging *s, void *to, const void *from, uint64_t bytes)
{
	for (uint64_t done = 0; done < bytes;) {
		size_t some = bytes - done < STAGING_BYTES ? bytes - done : STAGING_BYTES;
		memcpy(s->block, (const char *)from + done, some);
		TRY(staging_write(s, (char *)to + done, some));
		done += some;
	}
	return STATUS_OK;
}

enum status staging_zero(struct staging *s, void *to, uint64_t bytes)
{
	struct kernels *k = s->kernels;
	k->zero(k, NULL, to, bytes);
	return k->stream_wait(k, NULL);
}
