/* clock.h: how long something took. (Processor time: threads.h.) */
#ifndef COMMON_CLOCK_H
#define COMMON_CLOCK_H

/* Seconds on a clock that never goes back; since when is not said. Any thread. */
double clock_seconds(void);

#endif
