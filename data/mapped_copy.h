/*
 * mapped_copy.h: copying out of mapped files, surviving SIGBUS.
 *
 * A read of a mapped page that the disk cannot deliver, or that lies beyond the end of a file truncated after
 * it was mapped, raises SIGBUS. All of the corpus's reads of mapped memory go through mapped_copy, which
 * turns that into `false`. A SIGBUS from anywhere else goes on to whatever handler was there before.
 */
#ifndef DATA_MAPPED_COPY_H
#define DATA_MAPPED_COPY_H

#include "common/error.h"

/* Installs the process's SIGBUS handler, unless it is there; to be called whenever a file is mapped (others
 * may have taken its place since the last time). Any thread. */
void mapped_copy_prepare(void);

/* memcpy whose source is a mapped file. False: the system could not deliver the bytes (`to` is then
 * undefined). Any thread; SIGBUS must not be blocked in it. */
bool mapped_copy(void *to, const void *from, size_t bytes) MUST_USE;

#endif
