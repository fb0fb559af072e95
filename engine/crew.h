/*
 * crew.h: threads that stay, for short pieces of work that come again and again (the optimizer on the host).
 *
 * Each member has a processor of its own, where this process may use as many; whoever waits sleeps on a condition
 * variable. One caller at a time.
 */
#ifndef ENGINE_CREW_H
#define ENGINE_CREW_H

#include "common/error.h"

#include <stdint.h>

struct crew;

/*
 * The caller of crew_run is member 0, so `members` - 1 threads are started; 0: one a processor. Their processors are, of those
 * that this process may use, the ones from number `first` on, from 0: another process may have those before. Where
 * there are not so many, nobody is bound to one.
 */
enum status crew_open(int members, int first, struct crew **out) MUST_USE;
void crew_close(struct crew *crew);
int crew_members(const struct crew *crew);

/*
 * work(context, from, to) for all of [0, total), in pieces that begin at multiples of `unit`; returns when all is
 * done. Each member begins with a share of its own, front to back, and then takes pieces of those who are behind: a
 * processor that has less of the memory, or other work, holds nobody up. So who does a piece is chance, and what
 * comes of it must not depend on that.
 */
typedef void crew_work(void *context, uint64_t from, uint64_t to);
void crew_run(struct crew *crew, uint64_t total, uint64_t unit, crew_work *work, void *context);

/* Binds the calling thread to the processor of `member`. */
void crew_bind(const struct crew *crew, int member);

#endif
