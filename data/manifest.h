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

#include "common/json.h"
#include "data/corpus.h"

/* For the writer: publishes `manifest` (as json_publish does, which see) with the seal added as its last
 * member. `manifest` has no "check" before, and one after. */
enum status manifest_publish(const char *path, cJSON *manifest) MUST_USE;

/* Reads and validates DIRECTORY/corpus.json: members, types, ranges, sums, the hash from the roots, the seal.
 * info->shards is the caller's to free. */
enum status manifest_read(const char *directory, struct corpus_info *info) MUST_USE;

#endif
