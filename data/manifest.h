/*
 * manifest.h: reading corpus.json (its members: data/corpus.h), and its seal.
 *
 * The seal is the last member, "check": XXH3-64 of the file's bytes before the text `"check"`. So a flipped
 * bit anywhere in the manifest is found, not only in what the hash trees vouch for. The file ends in exactly
 *
 *    "check":<tab>"0123456789abcdef"<newline>}<newline>
 */
#ifndef DATA_MANIFEST_H
#define DATA_MANIFEST_H

#include "data/corpus.h"

/* For writers: print the object (cJSON_Print and a newline) with "check" last and any 16 digits, and put the
 * true ones in their place. False: the text does not end as above. */
bool manifest_seal(char *text, size_t bytes) MUST_USE;

/* Reads and validates DIRECTORY/corpus.json: members, types, ranges, sums, the hash from the roots, the seal.
 * info->shards is the caller's to free. */
enum status manifest_read(const char *directory, struct corpus_info *info) MUST_USE;

#endif
