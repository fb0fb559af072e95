/*
 * json.h: small JSON files (manifests, configurations) through cJSON, with errors that name the file and the
 * key.
 *
 * Numbers of more than 15 digits and hashes are kept as strings in ferry's files, since JSON readers round
 * numbers to doubles. (Documents are read by data/jsonl.h, not by this.)
 */
#ifndef COMMON_JSON_H
#define COMMON_JSON_H

#include "common/error.h"
#include "common/hash.h"

#include <cjson/cJSON.h>
#include <stdint.h>

/*
 * Parses text[0, bytes). *stopped (may be NULL): where it ended, or what it did not understand. Not JSON is
 * STATUS_CORRUPT, no memory STATUS_MEMORY, which cJSON does not tell apart: from the first call on its
 * allocations go through a function of this module's. `trailing`: text may follow. Messages do not name the
 * file.
 */
enum status json_parse(const char *text, size_t bytes, bool trailing, size_t *stopped, cJSON **out) MUST_USE;
/* Reads and parses a file of at most 64 MiB; free with cJSON_Delete. Trailing text is an error. */
enum status json_read_file(const char *path, cJSON **out) MUST_USE;
/* Publishes (common/file.h) the value, indented, with a newline at the end. Same value, same bytes. */
enum status json_publish(const char *path, const cJSON *value) MUST_USE;

/* XXH3-128 of the value printed without white space. */
enum status json_hash(const char *path, const cJSON *value, struct hash128 *out) MUST_USE;
/*
 * A seal: the member "hash", json_hash of the object without it. json_seal adds it, last; json_unseal takes it
 * away, STATUS_CORRUPT if it is not there or not right.
 */
enum status json_seal(const char *path, cJSON *object) MUST_USE;
enum status json_unseal(const char *path, cJSON *object) MUST_USE;

/* Members of an object; a missing or wrong one is STATUS_CORRUPT naming `path` and `key`. */
enum status json_get_object(const char *path, const cJSON *object, const char *key, cJSON **out) MUST_USE;
enum status json_get_array(const char *path, const cJSON *object, const char *key, cJSON **out) MUST_USE;
/* Valid as long as the object is. */
enum status json_get_string(
	const char *path, const cJSON *object, const char *key, const char **out) MUST_USE;
enum status json_get_bool(const char *path, const cJSON *object, const char *key, bool *out) MUST_USE;
enum status json_get_double(const char *path, const cJSON *object, const char *key, double *out) MUST_USE;
/* An integer of 0..2^53, or a decimal string of a u64. */
enum status json_get_u64(const char *path, const cJSON *object, const char *key, uint64_t *out) MUST_USE;
/* 32 hex digits. */
enum status json_get_hash128(
	const char *path, const cJSON *object, const char *key, struct hash128 *out) MUST_USE;
/* 16 hex digits. */
enum status json_get_hex64(const char *path, const cJSON *object, const char *key, uint64_t *out) MUST_USE;

/* Adds a value that was made before, NULL being lack of memory; takes it over: false frees it. */
bool json_add_item(cJSON *object, const char *key, cJSON *item);
/* Adds a member; false on lack of memory. Numbers of more than 15 digits become strings, as json_get_u64
 * reads them: cJSON prints no more digits exactly. */
bool json_add_u64(cJSON *object, const char *key, uint64_t number);
bool json_add_hash128(cJSON *object, const char *key, struct hash128 hash);
bool json_add_hex64(cJSON *object, const char *key, uint64_t number);

#endif
