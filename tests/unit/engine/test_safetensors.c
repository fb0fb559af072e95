#include "engine/safetensors.h"

#include "common/endian.h"
#include "common/file.h"
#include "tests/unit/assert_ok.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char path[] = "/tmp/ferry-test-safetensors-XXXXXX";

/* A file of this header (padded to `pad` more bytes of blanks) and data. */
static void save(const char *header, uint64_t announced, const void *data, size_t bytes)
{
	uint8_t prefix[8];
	FILE *file = fopen(path, "wb");
	assert_non_null(file);
	store_le64(prefix, announced);
	fwrite(prefix, 8, 1, file);
	fwrite(header, strlen(header), 1, file);
	if (bytes)
		fwrite(data, bytes, 1, file);
	assert_int_equal(fclose(file), 0);
}

static enum status open_one(const char *header, size_t bytes)
{
	static const uint8_t data[4096];
	struct safetensors *file;
	save(header, strlen(header), data, bytes);
	enum status status = safetensors_open(path, &file);
	safetensors_close(file);
	return status;
}

static void hostile_headers_are_refused(void **state)
{
	(void)state;
	static const struct {
		const char *header;
		size_t data;
	} wrong[] = {
		{"", 0},
		{"[]", 0},
		{"{", 0},
		{"{} x", 0},
		{"{}{}", 0},
		{"{}", 1}, /* data of nobody */
		{"{\"a\": 3}", 0},
		{"{\"a\": {\"dtype\": \"F32\", \"shape\": [1]}}", 4},
		{"{\"a\": {\"dtype\": \"F32\", \"data_offsets\": [0, 4]}}", 4},
		{"{\"a\": {\"shape\": [1], \"data_offsets\": [0, 4]}}", 4},
		{"{\"a\": {\"dtype\": \"F33\", \"shape\": [1], \"data_offsets\": [0, 4]}}", 4},
		{"{\"a\": {\"dtype\": 32, \"shape\": [1], \"data_offsets\": [0, 4]}}", 4},
		{"{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 8]}}", 8},
		{"{\"a\": {\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [0, 4]}}", 4},
		{"{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}}", 3},
		{"{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [4, 0]}}", 4},
		{"{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [4, 8]}}", 8}, /* a gap */
		{"{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}}", 8}, /* a tail */
		{"{\"a\": {\"dtype\": \"F32\", \"shape\": [-1], \"data_offsets\": [0, 4]}}", 4},
		{"{\"a\": {\"dtype\": \"F32\", \"shape\": [1.5], \"data_offsets\": [0, 6]}}", 6},
		{"{\"a\": {\"dtype\": \"F32\", \"shape\": [1e300], \"data_offsets\": [0, 4]}}", 4},
		{"{\"a\": {\"dtype\": \"F32\", \"shape\": [\"1\"], \"data_offsets\": [0, 4]}}", 4},
		{"{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4, 4]}}", 4},
		{"{\"a\": {\"dtype\": \"F32\", \"shape\": [1,1,1,1,1,1,1,1,1], \"data_offsets\": [0, 4]}}",
			4},
		/* 2^32 * 2^32 elements wrap to 0; 2^62 elements of 4 bytes too */
		{"{\"a\": {\"dtype\": \"F32\", \"shape\": [4294967296, 4294967296], \"data_offsets\": [0, "
		 "0]}}",
			0},
		{"{\"a\": {\"dtype\": \"F32\", \"shape\": [2147483648, 2147483648], \"data_offsets\": [0, "
		 "0]}}",
			0},
		/* overlap; the same name twice */
		{"{\"a\": {\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [0, 8]},"
		 " \"b\": {\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [4, 12]}}",
			12},
		{"{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]},"
		 " \"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [4, 8]}}",
			8},
		{"{\"a\": {\"dtype\": \"F32\", \"shape\": [0], \"data_offsets\": [0, 0]},"
		 " \"b\": {\"dtype\": \"F32\", \"shape\": [0], \"data_offsets\": [0, 0]},"
		 " \"a\": {\"dtype\": \"F32\", \"shape\": [0], \"data_offsets\": [0, 0]}}",
			0},
	};
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
		if (open_one(wrong[i].header, wrong[i].data) != STATUS_CORRUPT)
			fail_msg("taken: %s with %zu bytes", wrong[i].header, wrong[i].data);
	char name[200], header[400];
	memset(name, 'n', sizeof name);
	name[SAFETENSORS_NAME] = 0;
	snprintf(header, sizeof header,
		"{\"%s\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}}", name);
	assert_int_equal(open_one(header, 4), STATUS_CORRUPT);
	/* the header's announced length */
	static const uint64_t lengths[] = {0, 1, 3, 1000, 1 << 30, UINT64_MAX, UINT64_MAX - 8};
	for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
		struct safetensors *file;
		save("{}", lengths[i], NULL, 0);
		assert_int_equal(safetensors_open(path, &file), STATUS_CORRUPT);
	}
	struct safetensors *file;
	assert_int_equal(truncate(path, 5), 0);
	assert_int_equal(safetensors_open(path, &file), STATUS_CORRUPT);
	assert_int_equal(safetensors_open("/tmp", &file), STATUS_IO);
	assert_int_equal(safetensors_open("/nonexistent", &file), STATUS_IO);
}

static void good_headers_are_taken(void **state)
{
	(void)state;
	assert_ok(open_one("{}", 0));
	assert_ok(open_one("{}      ", 0));
	assert_ok(open_one("{\"__metadata__\": {\"format\": \"pt\"}}", 0));
	assert_ok(open_one("{\"s\": {\"dtype\": \"F32\", \"shape\": [], \"data_offsets\": [0, 4]}}", 4));
	assert_ok(open_one("{\"b\": {\"dtype\": \"BOOL\", \"shape\": [2, 2], \"data_offsets\": [8, 12]},"
			   " \"a\": {\"dtype\": \"F16\", \"shape\": [4], \"data_offsets\": [0, 8]},"
			   " \"e\": {\"dtype\": \"F64\", \"shape\": [0, 7], \"data_offsets\": [12, 12]}}",
		12));
}

/* Every byte of a good file changed in turn: never a crash, and what is taken is inside the file. */
static void damage_never_reads_outside(void **state)
{
	(void)state;
	static const char header[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
				     "\"b\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[24,32]}}";
	static const uint8_t data[32], changes[] = {1, 4, 16, 64, 128};
	float out[64];
	for (size_t at = 0; at < sizeof header - 1 + 8; at++)
		for (size_t c = 0; c < sizeof changes; c++) {
			struct safetensors *file;
			save(header, sizeof header - 1, data, sizeof data);
			FILE *raw = fopen(path, "r+b");
			fseek(raw, (long)at, SEEK_SET);
			int byte = fgetc(raw);
			fseek(raw, (long)at, SEEK_SET);
			fputc(byte ^ changes[c], raw);
			fclose(raw);
			if (safetensors_open(path, &file) != STATUS_OK)
				continue;
			for (int i = 0; i < safetensors_count(file); i++) {
				const struct safetensors_tensor *t = safetensors_get(file, i);
				assert_true(
					t->end <= 8 + sizeof header - 1 + sizeof data && t->elements <= 32);
				enum status status = safetensors_read(file, t, 0, t->elements, out);
				assert_true(status == STATUS_OK || status == STATUS_UNSUPPORTED);
			}
			safetensors_close(file);
		}
}

/* Halves against their definition: sign, exponent, fraction by ldexp. */
static void halves_are_exact(void **state)
{
	(void)state;
	enum { ALL = 65536 };
	static uint16_t halves[ALL];
	static float out[ALL];
	for (int i = 0; i < ALL; i++)
		halves[i] = (uint16_t)i;
	for (int bf16 = 0; bf16 < 2; bf16++) {
		char header[200];
		struct safetensors *file;
		snprintf(header, sizeof header,
			"{\"h\": {\"dtype\": \"%s\", \"shape\": [65536], \"data_offsets\": [0, 131072]}}",
			bf16 ? "BF16" : "F16");
		save(header, strlen(header), halves, sizeof halves);
		assert_ok(safetensors_open(path, &file));
		assert_ok(safetensors_read(file, safetensors_find(file, "h"), 0, ALL, out));
		int exponents = bf16 ? 8 : 5, fractions = bf16 ? 7 : 10, bias = bf16 ? 127 : 15;
		for (int i = 0; i < ALL; i++) {
			int exponent = i >> fractions & ((1 << exponents) - 1);
			int fraction = i & ((1 << fractions) - 1);
			double wanted =
				exponent ? ldexp((1 << fractions) + fraction, exponent - bias - fractions)
					 : ldexp(fraction, 1 - bias - fractions);
			if (exponent == (1 << exponents) - 1)
				wanted = fraction ? NAN : INFINITY;
			if (isnan(wanted))
				assert_true(isnan(out[i]));
			else
				assert_true((double)out[i] == (i >> 15 ? -wanted : wanted));
			assert_int_equal(!!signbit(out[i]), i >> 15);
		}
		/* a part of it */
		float part[3];
		assert_ok(safetensors_read(file, safetensors_find(file, "h"), 16000, 3, part));
		assert_memory_equal(part, out + 16000, sizeof part);
		assert_int_equal(
			safetensors_read(file, safetensors_find(file, "h"), ALL - 2, 3, part), STATUS_USAGE);
		assert_int_equal(safetensors_read(file, safetensors_find(file, "h"), UINT64_MAX, 2, part),
			STATUS_USAGE);
		safetensors_close(file);
	}
}

static void what_is_written_is_read(void **state)
{
	(void)state;
	static float numbers[300005];
	struct safetensors_source sources[] = {{"z", 2, {100, 1000}, numbers},
		{"a", 1, {7, 0}, numbers + 100000}, {"m", 2, {3, 66666}, numbers + 100007}};
	struct hash128 hash;
	uint64_t bytes;
	char *data;
	size_t length;
	struct safetensors *file;
	for (size_t i = 0; i < 300005; i++)
		numbers[i] = (float)i * 0.37f - 1000;
	assert_ok(safetensors_write(path, sources, 3, NULL, &hash, &bytes));
	assert_ok(file_read_all(path, 1 << 24, &data, &length));
	assert_int_equal(length, bytes);
	assert_int_equal(hash128_compare(hash128(data, length), hash), 0);
	assert_int_equal(load_le64(data) % 8, 0);
	free(data);
	assert_ok(safetensors_open(path, &file));
	assert_int_equal(safetensors_count(file), 3);
	assert_null(safetensors_find(file, "b"));
	for (int i = 0; i < 3; i++) {
		const struct safetensors_tensor *t = safetensors_find(file, sources[i].name);
		float *out = malloc(t->elements * 4);
		assert_ptr_equal(t, safetensors_get(file, i));
		assert_int_equal(t->dimensions, sources[i].dimensions);
		assert_int_equal(t->shape[0], sources[i].shape[0]);
		assert_ok(safetensors_read(file, t, 0, t->elements, out));
		assert_memory_equal(out, sources[i].data, t->elements * 4);
		free(out);
	}
	/* cut short underneath: an error, not a signal */
	assert_int_equal(truncate(path, (off_t)bytes - 4), 0);
	float last[66666];
	assert_int_equal(
		safetensors_read(file, safetensors_find(file, "m"), 2 * 66666, 66666, last), STATUS_CORRUPT);
	safetensors_close(file);
}

static int make_path(void **state)
{
	(void)state;
	int fd = mkstemp(path);
	return fd < 0 ? -1 : close(fd);
}

static int remove_path(void **state)
{
	(void)state;
	return unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(hostile_headers_are_refused),
		cmocka_unit_test(good_headers_are_taken), cmocka_unit_test(damage_never_reads_outside),
		cmocka_unit_test(halves_are_exact), cmocka_unit_test(what_is_written_is_read)};
	return cmocka_run_group_tests(tests, make_path, remove_path);
}
