/*
 * output_lock.h: who may work on an output directory: one run alone, or the parts of one run together.
 *
 * DIRECTORY/.lock is held (flock), exclusively by who is alone, shared by parts, and goes when nobody holds
 * it; the system lets go for who is killed. A part that finds nobody is alone for a moment, to settle what
 * the directory is, and then lets the others in. So that those know to wait, and others not to, the file says
 * who last held it alone: "run" or "part".
 *
 * flock works between machines on NFS (version 3 with lockd, 4), Lustre (mounted with -o flock), GPFS and
 * CephFS. One thread.
 */
#ifndef DATA_OUTPUT_LOCK_H
#define DATA_OUTPUT_LOCK_H

#include "common/error.h"

struct output_lock {
	char *path; /* NULL: not held */
	int fd;
	bool alone; /* nobody else holds it */
};

/* Makes DIRECTORY, with its parents, and locks it. Held by anyone else is STATUS_USAGE. */
enum status output_lock_alone(const char *directory, struct output_lock *out) MUST_USE;
/* As a part: beside other parts, or alone until output_lock_share. Held by a run is STATUS_USAGE. */
enum status output_lock_join(const char *directory, struct output_lock *out) MUST_USE;
/* From alone to shared. STATUS_USAGE: another run was faster; then nothing is held. */
enum status output_lock_share(struct output_lock *lock) MUST_USE;
/* Tries to be alone once more, for who leaves: sets lock->alone. Where that fails nothing is held. */
void output_lock_leave(struct output_lock *lock);
void output_lock_release(struct output_lock *lock);

#endif
