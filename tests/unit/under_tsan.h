/*
 * under_tsan.h: whether this is the build under the thread sanitizer, where a test takes ten times as long and looks for
 * races alone: what has no threads is left to the other modes there, and what repeats itself does so less often.
 */
#ifndef TESTS_UNIT_UNDER_TSAN_H
#define TESTS_UNIT_UNDER_TSAN_H

#ifdef __SANITIZE_THREAD__
enum { UNDER_TSAN = 1 };
#else
enum { UNDER_TSAN = 0 };
#endif

#endif
