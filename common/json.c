#include "common/json.h"

#include "common/file.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LARGEST_FILE = 64 << 20 };
#define LARGEST_EXACT   (UINT64_C(1) << 53)
#define LARGEST_PRINTED UINT64_C(999999999999999) /* cJSON prints 15 digits and calls it equal */

/* A refused allocation of this thread's since it was last cleared. */
static _Thread_local bool starved;

static void *allocate(size_t bytes)
{
	void *block = malloc(bytes);
	starved |= !block;
	return block;
}

/* Before there are threads: cJSON's hooks are its own, unguarded. */
static __attribute__((constructor)) void install_hooks(void)
{
	cJSON_InitHooks(&(cJSON_Hooks){.malloc_fn = allocate, .free_fn = free});
}

/* cJSON wants a NUL within the length where no text may follow. */
static cJSON *parse_whole(const char *text, size_t bytes, const char **end)
{
	cJSON *json = cJSON_ParseWithLengthOpts(text, bytes, end, false);
	const char *at = *end;
	while (json && at < text + bytes && strchr(" \t\r\n", *at) && *at)
		at++;
	if (json && at < text + bytes) {
		cJSON_Delete(json);
		json = NULL;
		*end = at;
	}
	return json;
}

enum status json_parse(const char *text, size_t bytes, bool trailing, size_t *stopped, cJSON **out)
{
	const char *end = text;
	starved = false;
	*out = trailing ? cJSON_ParseWithLengthOpts(text, bytes, &end, false)
			: parse_whole(text, bytes, &end);
	size_t at = end ? (size_t)(end - text) : 0;
	if (stopped)
		*stopped = at;
	if (*out)
		return STATUS_OK;
	return starved ? error_set(STATUS_MEMORY, "no memory to read JSON")
		       : error_set(STATUS_CORRUPT, "not valid JSON at byte %zu", at);
}

enum status json_read_file(const char *path, cJSON **out)
{
	char *text;
	size_t bytes;
	*out = NULL;
	TRY(file_read_all(path, LARGEST_FILE, &text, &bytes));
	enum status status = json_parse(text, bytes, false, NULL, out);
	free(text);
	return status == STATUS_OK ? status : error_context(status, "%s", path);
}

enum status json_publish(const char *path, const cJSON *value)
{
	char *text = cJSON_Print(value);
	FAIL_IF(!text, STATUS_MEMORY, "%s: no memory to write JSON", path);
	size_t length = strlen(text);
	text[length] = '\n'; /* in place of the NUL */
	enum status status = file_publish(path, text, length + 1);
	cJSON_free(text);
	return status;
}

enum status json_hash(const char *path, const cJSON *value, struct hash128 *out)
{
	char *text = cJSON_PrintUnformatted(value);
	FAIL_IF(!text, STATUS_MEMORY, "%s: no memory to print JSON", path);
	*out = hash128(text, strlen(text));
	cJSON_free(text);
	return STATUS_OK;
}

enum status json_seal(const char *path, cJSON *object)
{
	struct hash128 hash;
	TRY(json_hash(path, object, &hash));
	FAIL_IF(!json_add_hash128(object, "hash", hash), STATUS_MEMORY, "%s: no memory to print JSON", path);
	return STATUS_OK;
}

enum status json_unseal(const char *path, cJSON *object)
{
	struct hash128 expected, found;
	TRY(json_get_hash128(path, object, "hash", &expected));
	cJSON_DeleteItemFromObjectCaseSensitive(object, "hash");
	TRY(json_hash(path, object, &found));
	FAIL_IF(hash128_compare(expected, found) != 0, STATUS_CORRUPT,
		"%s: its contents are not those that were written (hash differs)", path);
	return STATUS_OK;
}

static enum status get_member(const char *path, const cJSON *object, const char *key, cJSON **out)
{
	*out = cJSON_GetObjectItemCaseSensitive(object, key);
	FAIL_IF(!*out, STATUS_CORRUPT, "%s: key \"%s\" is missing", path, key);
	return STATUS_OK;
}

static enum status wrong_type(const char *path, const char *key, const char *wanted)
{
	return error_set(STATUS_CORRUPT, "%s: key \"%s\" is not %s", path, key, wanted);
}

enum status json_get_object(const char *path, const cJSON *object, const char *key, cJSON **out)
{
	TRY(get_member(path, object, key, out));
	return cJSON_IsObject(*out) ? STATUS_OK : wrong_type(path, key, "an object");
}

enum status json_get_array(const char *path, const cJSON *object, const char *key, cJSON **out)
{
	TRY(get_member(path, object, key, out));
	return cJSON_IsArray(*out) ? STATUS_OK : wrong_type(path, key, "an array");
}

enum status json_get_string(const char *path, const cJSON *object, const char *key, const char **out)
{
	cJSON *member;
	TRY(get_member(path, object, key, &member));
	*out = cJSON_GetStringValue(member);
	return *out ? STATUS_OK : wrong_type(path, key, "a string");
}

enum status json_get_bool(const char *path, const cJSON *object, const char *key, bool *out)
{
	cJSON *member;
	TRY(get_member(path, object, key, &member));
	*out = cJSON_IsTrue(member);
	return cJSON_IsBool(member) ? STATUS_OK : wrong_type(path, key, "true or false");
}

enum status json_get_double(const char *path, const cJSON *object, const char *key, double *out)
{
	cJSON *member;
	TRY(get_member(path, object, key, &member));
	*out = member->valuedouble;
	return cJSON_IsNumber(member) ? STATUS_OK : wrong_type(path, key, "a number");
}

/* Digits alone, base 10 or 16, the whole string. */
static bool parse_digits(const char *text, int base, uint64_t *out)
{
	char *end;
	if (strspn(text, base == 10 ? "0123456789" : "0123456789abcdef") != strlen(text) || !*text)
		return false;
	errno = 0;
	*out = strtoull(text, &end, base);
	return errno == 0 && *end == 0;
}

enum status json_get_u64(const char *path, const cJSON *object, const char *key, uint64_t *out)
{
	cJSON *member;
	TRY(get_member(path, object, key, &member));
	if (cJSON_IsString(member) && parse_digits(member->valuestring, 10, out))
		return STATUS_OK;
	double number = member->valuedouble;
	if (!cJSON_IsNumber(member) || !(number >= 0 && number <= (double)LARGEST_EXACT) ||
		(double)(uint64_t)number != number)
		return wrong_type(path, key, "a whole number of 0 or more");
	*out = (uint64_t)number;
	return STATUS_OK;
}

enum status json_get_hash128(const char *path, const cJSON *object, const char *key, struct hash128 *out)
{
	const char *text;
	TRY(json_get_string(path, object, key, &text));
	return hash128_parse(text, out) ? STATUS_OK : wrong_type(path, key, "32 hex digits");
}

enum status json_get_hex64(const char *path, const cJSON *object, const char *key, uint64_t *out)
{
	const char *text;
	TRY(json_get_string(path, object, key, &text));
	return strlen(text) == 16 && parse_digits(text, 16, out) ? STATUS_OK
								 : wrong_type(path, key, "16 hex digits");
}

bool json_add_item(cJSON *object, const char *key, cJSON *item)
{
	if (item && cJSON_AddItemToObject(object, key, item))
		return true;
	cJSON_Delete(item);
	return false;
}

bool json_add_u64(cJSON *object, const char *key, uint64_t number)
{
	if (number <= LARGEST_PRINTED)
		return cJSON_AddNumberToObject(object, key, (double)number) != NULL;
	char text[24];
	snprintf(text, sizeof text, "%" PRIu64, number);
	return cJSON_AddStringToObject(object, key, text) != NULL;
}

bool json_add_hash128(cJSON *object, const char *key, struct hash128 hash)
{
	char text[33];
	hash128_format(hash, text);
	return cJSON_AddStringToObject(object, key, text) != NULL;
}

bool json_add_hex64(cJSON *object, const char *key, uint64_t number)
{
	char text[24];
	snprintf(text, sizeof text, "%016" PRIx64, number);
	return cJSON_AddStringToObject(object, key, text) != NULL;
}
