/*
 * claims.h: numbered pieces of work that several processes, on several machines too, share out among them.
 *
 * A claim is a lock on one byte of a file (fcntl, F_OFD_SETLK), so it ends with the process however that
 * ends. Claims are of a process: its threads must not claim the same number. Locks of this kind work between
 * machines on NFS (version 3 with lockd, 4), Lustre (mounted with -o flock), GPFS and CephFS; a machine that
 * dies keeps its own until the server notices (NFS 4: 90 s).
 */
#ifndef DATA_CLAIMS_H
#define DATA_CLAIMS_H

#include "common/error.h"

#include <stdint.h>

enum claim_kind { CLAIM_PART, CLAIM_UNIT, CLAIM_NEAR, CLAIM_SHARD, CLAIM_PUBLISH };

struct claims {
	char *path; /* NULL: not open */
	int fd;
};

/* The file is made if it is not there. */
enum status claims_open(const char *path, struct claims *out) MUST_USE;
void claims_close(struct claims *claims); /* releases all; not open is fine */

/* Claims a number (below 2^56), or not: another process has it. */
enum status claims_take(
	const struct claims *claims, enum claim_kind kind, uint64_t number, bool *taken) MUST_USE;
void claims_release(const struct claims *claims, enum claim_kind kind, uint64_t number);
/* Another process has it. */
enum status claims_is_held(
	const struct claims *claims, enum claim_kind kind, uint64_t number, bool *held) MUST_USE;

#endif
