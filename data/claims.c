#include "data/claims.h"

#include "common/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

enum { KIND_SHIFT = 56 };

enum status claims_open(const char *path, struct claims *out)
{
	*out = (struct claims){.path = strdup(path), .fd = -1};
	FAIL_IF(!out->path, STATUS_MEMORY, "no memory for a path");
	enum status status = file_open_lock(path, &out->fd);
	if (status != STATUS_OK)
		claims_close(out);
	return status;
}

void claims_close(struct claims *claims)
{
	if (!claims->path)
		return;
	if (claims->fd >= 0)
		(void)file_system->close(claims->fd); /* nothing was written */
	free(claims->path);
	*claims = (struct claims){.fd = -1};
}

static struct flock lock_of(enum claim_kind kind, uint64_t number, short type)
{
	return (struct flock){.l_type = type,
		.l_whence = SEEK_SET,
		.l_start = (off_t)((uint64_t)kind << KIND_SHIFT | number),
		.l_len = 1};
}

static int control(const struct claims *claims, int command, struct flock *lock)
{
	int result;
	do
		result = fcntl(claims->fd, command, lock);
	while (result < 0 && errno == EINTR);
	return result;
}

static enum status fail(const struct claims *claims)
{
	return error_set(STATUS_IO, "%s: cannot lock (%s); the file system must have locks (fcntl)",
		claims->path, strerror(errno));
}

enum status claims_take(const struct claims *claims, enum claim_kind kind, uint64_t number, bool *taken)
{
	struct flock lock = lock_of(kind, number, F_WRLCK);
	*taken = control(claims, F_OFD_SETLK, &lock) == 0;
	return *taken || errno == EAGAIN || errno == EACCES ? STATUS_OK : fail(claims);
}

void claims_release(const struct claims *claims, enum claim_kind kind, uint64_t number)
{
	struct flock lock = lock_of(kind, number, F_UNLCK);
	(void)control(claims, F_OFD_SETLK, &lock);
}

enum status claims_is_held(const struct claims *claims, enum claim_kind kind, uint64_t number, bool *held)
{
	struct flock lock = lock_of(kind, number, F_WRLCK);
	*held = false;
	if (control(claims, F_OFD_GETLK, &lock) < 0)
		return fail(claims);
	*held = lock.l_type != F_UNLCK;
	return STATUS_OK;
}
