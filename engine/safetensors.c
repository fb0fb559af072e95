#include "engine/safetensors.h"

#include "common/endian.h"
#include "common/file.h"
#include "common/json.h"
#include "common/memory.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdlib.h>

enum { LARGEST_HEADER = 16 << 20, CHUNK = 1 << 16, ALIGNMENT = 8 };

struct safetensors {
	char *path;
	int fd;
	int count;
	struct safetensors_tensor *tensors; /* [count], in order of offset */
	int *by_name;                       /* [count], indices in order of name */
};

/* ---- the header ---- */

/* Bytes of an element; 0: not a type of the format. */
static uint64_t type_bytes(const char *type)
{
	static const struct {
		const char *name;
		uint64_t bytes;
	} types[] = {{"F32", 4}, {"F16", 2}, {"BF16", 2}, {"BOOL", 1}, {"U8", 1}, {"I8", 1}, {"F8_E5M2", 1},
		{"F8_E4M3", 1}, {"I16", 2}, {"U16", 2}, {"I32", 4}, {"U32", 4}, {"F64", 8}, {"I64", 8},
		{"U64", 8}};
	for (size_t i = 0; i < sizeof types / sizeof *types; i++)
		if (strcmp(types[i].name, type) == 0)
			return types[i].bytes;
	return 0;
}

/* A JSON number that is an integer of 0..2^53. */
static bool get_count(const cJSON *item, uint64_t *out)
{
	if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0) || item->valuedouble > 9007199254740992.0)
		return false;
	*out = (uint64_t)item->valuedouble;
	return (double)*out == item->valuedouble;
}

static enum status parse_shape(const char *path, const cJSON *item, struct safetensors_tensor *tensor)
{
	const cJSON *shape = cJSON_GetObjectItemCaseSensitive(item, "shape");
	const cJSON *extent;
	FAIL_IF(!cJSON_IsArray(shape), STATUS_CORRUPT, "%s: tensor \"%s\" has no shape", path, tensor->name);
	tensor->elements = 1;
	cJSON_ArrayForEach (extent, shape) {
		uint64_t length = 0;
		FAIL_IF(tensor->dimensions == SAFETENSORS_DIMENSIONS, STATUS_CORRUPT,
			"%s: tensor \"%s\" has more than %d dimensions", path, tensor->name,
			SAFETENSORS_DIMENSIONS);
		FAIL_IF(!get_count(extent, &length), STATUS_CORRUPT,
			"%s: the shape of tensor \"%s\" holds something that is no length", path,
			tensor->name);
		tensor->shape[tensor->dimensions++] = length;
		FAIL_IF(__builtin_mul_overflow(tensor->elements, length, &tensor->elements), STATUS_CORRUPT,
			"%s: the shape of tensor \"%s\" overflows 64 bits", path, tensor->name);
	}
	return STATUS_OK;
}

static enum status parse_offsets(const char *path, const cJSON *item, uint64_t data, uint64_t data_bytes,
	struct safetensors_tensor *tensor)
{
	const cJSON *offsets = cJSON_GetObjectItemCaseSensitive(item, "data_offsets");
	uint64_t begin = 0, end = 0, bytes;
	bool two = cJSON_IsArray(offsets) && cJSON_GetArraySize(offsets) == 2;
	FAIL_IF(!two || !get_count(cJSON_GetArrayItem(offsets, 0), &begin) ||
			!get_count(cJSON_GetArrayItem(offsets, 1), &end),
		STATUS_CORRUPT, "%s: tensor \"%s\" has no data_offsets of two numbers", path, tensor->name);
	FAIL_IF(begin > end || end > data_bytes, STATUS_CORRUPT,
		"%s: tensor \"%s\" lies at bytes %" PRIu64 " to %" PRIu64 " of %" PRIu64
		" bytes of data; the file is damaged or truncated",
		path, tensor->name, begin, end, data_bytes);
	FAIL_IF(__builtin_mul_overflow(tensor->elements, type_bytes(tensor->type), &bytes) ||
			bytes != end - begin,
		STATUS_CORRUPT, "%s: tensor \"%s\" has %" PRIu64 " bytes, not what its shape and type say",
		path, tensor->name, end - begin);
	tensor->begin = data + begin;
	tensor->end = data + end;
	return STATUS_OK;
}

static enum status parse_tensor(const char *path, const cJSON *item, uint64_t data, uint64_t data_bytes,
	struct safetensors_tensor *tensor)
{
	size_t length = strlen(item->string);
	FAIL_IF(length >= sizeof tensor->name, STATUS_CORRUPT, "%s: a tensor's name is %zu bytes long", path,
		length);
	memcpy(tensor->name, item->string, length + 1);
	const char *type = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "dtype"));
	FAIL_IF(!cJSON_IsObject(item) || !type || !type_bytes(type), STATUS_CORRUPT,
		"%s: tensor \"%s\" has no known dtype", path, tensor->name);
	memcpy(tensor->type, type, strlen(type) + 1);
	TRY(parse_shape(path, item, tensor));
	return parse_offsets(path, item, data, data_bytes, tensor);
}

static int compare_offsets(const void *a, const void *b)
{
	const struct safetensors_tensor *x = a, *y = b;
	if (x->begin != y->begin)
		return x->begin < y->begin ? -1 : 1;
	if (x->end != y->end)
		return x->end < y->end ? -1 : 1;
	return strcmp(x->name, y->name); /* empty tensors share an offset */
}

static int compare_names(const void *a, const void *b, void *tensors)
{
	const struct safetensors_tensor *all = tensors;
	return strcmp(all[*(const int *)a].name, all[*(const int *)b].name);
}

static enum status check_cover(const struct safetensors *file, uint64_t data, uint64_t end)
{
	uint64_t at = data;
	for (int i = 0; i < file->count; i++) {
		const struct safetensors_tensor *tensor = &file->tensors[i];
		FAIL_IF(tensor->begin != at, STATUS_CORRUPT,
			"%s: tensor \"%s\" begins at byte %" PRIu64 ", the one before it ends at %" PRIu64
			"; tensors must lie side by side",
			file->path, tensor->name, tensor->begin, at);
		at = tensor->end;
	}
	FAIL_IF(at != end, STATUS_CORRUPT, "%s: %" PRIu64 " bytes at the end belong to no tensor", file->path,
		end - at);
	return STATUS_OK;
}

static enum status index_names(struct safetensors *file)
{
	TRY(memory_alloc((void **)&file->by_name, (size_t)file->count, sizeof(int), "a tensor index"));
	for (int i = 0; i < file->count; i++)
		file->by_name[i] = i;
	qsort_r(file->by_name, (size_t)file->count, sizeof(int), compare_names, file->tensors);
	for (int i = 1; i < file->count; i++)
		FAIL_IF(strcmp(file->tensors[file->by_name[i - 1]].name,
				file->tensors[file->by_name[i]].name) == 0,
			STATUS_CORRUPT, "%s: tensor \"%s\" is there twice", file->path,
			file->tensors[file->by_name[i]].name);
	return STATUS_OK;
}

static enum status take_tensors(struct safetensors *file, const cJSON *header, uint64_t data, uint64_t end)
{
	const cJSON *item;
	FAIL_IF(!cJSON_IsObject(header), STATUS_CORRUPT, "%s: the header is not a JSON object", file->path);
	TRY(memory_alloc((void **)&file->tensors, (size_t)cJSON_GetArraySize(header), sizeof *file->tensors,
		"a tensor index"));
	cJSON_ArrayForEach (item, header) {
		if (strcmp(item->string, "__metadata__") == 0)
			continue;
		TRY(parse_tensor(file->path, item, data, end - data, &file->tensors[file->count]));
		file->count++;
	}
	qsort(file->tensors, (size_t)file->count, sizeof *file->tensors, compare_offsets);
	TRY(check_cover(file, data, end));
	return index_names(file);
}

static enum status parse_header(struct safetensors *file, const char *text, uint64_t length, uint64_t end)
{
	cJSON *header;
	size_t stop;
	enum status status = json_parse(text, length, true, &stop, &header);
	if (status != STATUS_OK)
		return error_context(
			status, "%s: the header (bytes 8 to %" PRIu64 ")", file->path, length + 8);
	for (; status == STATUS_OK && stop < length; stop++)
		if (text[stop] != ' ')
			status = error_set(STATUS_CORRUPT, "%s: text follows the header's JSON", file->path);
	if (status == STATUS_OK)
		status = take_tensors(file, header, length + 8, end);
	cJSON_Delete(header);
	return status;
}

static enum status read_header(struct safetensors *file)
{
	struct stat info;
	uint8_t prefix[8];
	char *text;
	TRY(file_open_read(file->path, &file->fd));
	if (fstat(file->fd, &info) < 0)
		return error_set_errno(STATUS_IO, "%s: cannot stat", file->path);
	FAIL_IF(!S_ISREG(info.st_mode), STATUS_IO, "%s: is not a regular file", file->path);
	uint64_t end = (uint64_t)info.st_size;
	FAIL_IF(end < 8, STATUS_CORRUPT, "%s: is %" PRIu64 " bytes, too short for a safetensors file",
		file->path, end);
	TRY(file_read_at(file->fd, file->path, prefix, 8, 0));
	uint64_t length = load_le64(prefix);
	FAIL_IF(length > end - 8 || length > LARGEST_HEADER || length < 2, STATUS_CORRUPT,
		"%s: its first 8 bytes announce a header of %" PRIu64 " bytes in a file of %" PRIu64
		"; it is no safetensors file, or damaged",
		file->path, length, end);
	TRY(memory_alloc((void **)&text, length + 1, 1, "a tensor file's header"));
	enum status status = file_read_at(file->fd, file->path, text, length, 8);
	if (status == STATUS_OK)
		status = parse_header(file, text, length, end);
	free(text);
	return status;
}

enum status safetensors_open(const char *path, struct safetensors **out)
{
	struct safetensors *file;
	*out = NULL;
	TRY(memory_alloc((void **)&file, 1, sizeof *file, "a tensor file"));
	file->fd = -1;
	file->path = strdup(path);
	enum status status =
		file->path ? read_header(file) : error_set(STATUS_MEMORY, "no memory for a path");
	if (status != STATUS_OK) {
		safetensors_close(file);
		return status;
	}
	*out = file;
	return STATUS_OK;
}

void safetensors_close(struct safetensors *file)
{
	if (!file)
		return;
	if (file->fd >= 0)
		(void)file_system->close(file->fd);
	free(file->path);
	free(file->tensors);
	free(file->by_name);
	free(file);
}

int safetensors_count(const struct safetensors *file)
{
	return file->count;
}

const struct safetensors_tensor *safetensors_get(const struct safetensors *file, int index)
{
	return &file->tensors[index];
}

const struct safetensors_tensor *safetensors_find(const struct safetensors *file, const char *name)
{
	int low = 0, high = file->count;
	while (low < high) {
		int middle = low + (high - low) / 2;
		const struct safetensors_tensor *tensor = &file->tensors[file->by_name[middle]];
		int order = strcmp(name, tensor->name);
		if (order == 0)
			return tensor;
		if (order < 0)
			high = middle;
		else
			low = middle + 1;
	}
	return NULL;
}

/* ---- the data ---- */

static float from_bits(uint32_t bits)
{
	float number;
	memcpy(&number, &bits, sizeof number);
	return number;
}

static float f16_to_f32(uint16_t half)
{
	uint32_t sign = (uint32_t)(half & 0x8000) << 16;
	uint32_t exponent = half >> 10 & 31, fraction = half & 0x3ff;
	if (exponent == 31)
		return from_bits(sign | 0x7f800000 | fraction << 13);
	if (exponent)
		return from_bits(sign | (exponent + 112) << 23 | fraction << 13);
	/* Zero and subnormals: fraction * 2^-24, exact in f32. */
	float magnitude = (float)fraction * 0x1p-24f;
	return sign ? -magnitude : magnitude;
}

static void widen(float *out, const uint8_t *halves, size_t count, bool bf16)
{
	for (size_t i = 0; i < count; i++) {
		uint16_t half = load_le16(halves + 2 * i);
		out[i] = bf16 ? from_bits((uint32_t)half << 16) : f16_to_f32(half);
	}
}

enum status safetensors_read(struct safetensors *file, const struct safetensors_tensor *tensor,
	uint64_t first, uint64_t count, float *out)
{
	FAIL_IF(first > tensor->elements || count > tensor->elements - first, STATUS_USAGE,
		"%s: tensor \"%s\" has only %" PRIu64 " elements", file->path, tensor->name,
		tensor->elements);
	if (strcmp(tensor->type, "F32") == 0)
		return file_read_at(file->fd, file->path, out, count * 4, tensor->begin + first * 4);
	bool bf16 = strcmp(tensor->type, "BF16") == 0;
	FAIL_IF(!bf16 && strcmp(tensor->type, "F16") != 0, STATUS_UNSUPPORTED,
		"%s: tensor \"%s\" is of type %s; ferry reads F32, F16 and BF16 (convert it first)",
		file->path, tensor->name, tensor->type);
	uint8_t *chunk;
	TRY(memory_alloc((void **)&chunk, CHUNK, 2, "reading a tensor"));
	enum status status = STATUS_OK;
	for (uint64_t done = 0; done < count && status == STATUS_OK;) {
		uint64_t some = count - done < CHUNK ? count - done : CHUNK;
		status = file_read_at(
			file->fd, file->path, chunk, some * 2, tensor->begin + (first + done) * 2);
		if (status == STATUS_OK)
			widen(out + done, chunk, some, bf16);
		done += some;
	}
	free(chunk);
	return status;
}

/* ---- writing ---- */

static uint64_t source_bytes(const struct safetensors_source *tensor)
{
	return 4 * tensor->shape[0] * (tensor->dimensions == 2 ? tensor->shape[1] : 1);
}

static cJSON *describe(const struct safetensors_source *tensor, uint64_t begin)
{
	double shape[2] = {(double)tensor->shape[0], (double)tensor->shape[1]};
	double offsets[2] = {(double)begin, (double)(begin + source_bytes(tensor))};
	cJSON *item = cJSON_CreateObject();
	bool fine = cJSON_AddStringToObject(item, "dtype", "F32") &&
		    json_add_item(item, "shape", cJSON_CreateDoubleArray(shape, tensor->dimensions)) &&
		    json_add_item(item, "data_offsets", cJSON_CreateDoubleArray(offsets, 2));
	if (fine)
		return item;
	cJSON_Delete(item);
	return NULL;
}

/* The JSON, padded; malloc'ed. NULL: no memory. */
static char *compose_header(const struct safetensors_source *tensors, int count, size_t *length)
{
	cJSON *header = cJSON_CreateObject();
	cJSON *metadata = cJSON_AddObjectToObject(header, "__metadata__");
	bool fine = metadata && cJSON_AddStringToObject(metadata, "format", "pt");
	uint64_t at = 0;
	for (int i = 0; i < count && fine; i++) {
		fine = json_add_item(header, tensors[i].name, describe(&tensors[i], at));
		at += source_bytes(&tensors[i]);
	}
	char *text = fine ? cJSON_PrintUnformatted(header) : NULL;
	cJSON_Delete(header);
	if (!text)
		return NULL;
	size_t bytes = strlen(text);
	*length = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
	char *padded = malloc(*length + 1);
	if (padded) {
		memcpy(padded, text, bytes);
		memset(padded + bytes, ' ', *length - bytes);
	}
	cJSON_free(text);
	return padded;
}

static enum status put(
	struct file_writer *writer, struct hash_stream *stream, const void *data, uint64_t bytes)
{
	enum { PIECE = 8 << 20 }; /* hashed while still in the cache, and no write above 2 GiB */
	for (uint64_t done = 0; done < bytes;) {
		uint64_t some = bytes - done < PIECE ? bytes - done : PIECE;
		hash_stream_add(stream, (const char *)data + done, some);
		TRY(file_writer_write(writer, (const char *)data + done, some));
		done += some;
	}
	return STATUS_OK;
}

static enum status put_staged(struct file_writer *writer, struct hash_stream *stream, struct staging *staging,
	const void *data, uint64_t bytes)
{
	for (uint64_t done = 0; done < bytes;) {
		uint64_t some = bytes - done < STAGING_BYTES ? bytes - done : STAGING_BYTES;
		const void *host;
		TRY(staging_read(staging, (const char *)data + done, some, &host));
		TRY(put(writer, stream, host, some));
		done += some;
	}
	return STATUS_OK;
}

static enum status put_all(struct file_writer *writer, struct hash_stream *stream, const char *header,
	size_t length, const struct safetensors_source *tensors, int count, struct staging *staging)
{
	uint8_t prefix[8];
	store_le64(prefix, length);
	TRY(put(writer, stream, prefix, sizeof prefix));
	TRY(put(writer, stream, header, length));
	for (int i = 0; i < count; i++) {
		uint64_t bytes = source_bytes(&tensors[i]);
		if (staging)
			TRY(put_staged(writer, stream, staging, tensors[i].data, bytes));
		else
			TRY(put(writer, stream, tensors[i].data, bytes));
	}
	return STATUS_OK;
}

enum status safetensors_write(const char *path, const struct safetensors_source *tensors, int count,
	struct staging *staging, struct hash128 *hash, uint64_t *bytes)
{
	struct file_writer *writer = NULL;
	struct hash_stream *stream = NULL;
	size_t length = 0;
	enum status status;
	char *header = compose_header(tensors, count, &length);
	FAIL_IF(!header, STATUS_MEMORY, "%s: no memory for its header", path);
	TRY_GOTO(status, done, hash_stream_open(&stream));
	TRY_GOTO(status, done, file_writer_open(path, &writer));
	TRY_GOTO(status, done, put_all(writer, stream, header, length, tensors, count, staging));
	*hash = hash_stream_digest(stream);
	*bytes = file_writer_offset(writer);
	status = file_writer_publish(writer);
	writer = NULL;
done:
	file_writer_abandon(writer);
	hash_stream_close(stream);
	free(header);
	return status;
}
