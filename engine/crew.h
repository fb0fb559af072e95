/*
 * crew.h: threads that stay, for short pieces of work that come again and again (the optimizer on the host).
 *
 * Each member has a processor of its own, where this process may use at least as many; whoever waits sleeps
 * on a condition variable. One caller at a time.
 */
#ifndef ENGINE_CREW_H
#define ENGINE_CREW_H

#include "common/error.h"

struct crew;

/* The caller of crew_run is member 0, so `members` - 1 threads are started; 0: one a processor. */
enum status crew_open(int members, struct crew **out) MUST_USE;
void crew_close(struct crew *crew);
int crew_members(const struct crew *crew);

/* work(context, member) for members 0..members-1, at once; returns when all have returned. */
typedef void crew_work(void *context, int member);
void crew_run(struct crew *crew, crew_work *work, void *context);

/* Binds the calling thread to the processor of `member`; nothing where there are too few. */
void crew_bind(const struct crew *crew, int member);

#endif
