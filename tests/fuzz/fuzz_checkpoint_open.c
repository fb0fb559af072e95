/*
 * checkpoint_open, and reading weights and moments, where one file is not what was written. First byte, bits
 * 0-1: config.json, trainer.json, model.safetensors, optimizer.safetensors; bit 2: trainer.json's hashes are
 * made to fit; bit 3: there is no trainer.json (a plain model). The rest is the file. Where hashes do not
 * fit, any change must be found.
 */
#include "engine/checkpoint.h"
#include "common/file.h"
#include "common/json.h"
#include "common/log.h"
#include "tests/fuzz/fuzz.h"

enum { FILES = 4, TRAINER = 1 };
static const char *const names[FILES] = {
	"config.json", "trainer.json", "model.safetensors", "optimizer.safetensors"};
static uint8_t *originals[FILES];
static size_t sizes[FILES];

static const struct model_config small = {.layers = 1,
	.hidden = 4,
	.heads = 2,
	.positions = 3,
	.vocabulary = 5,
	.vocabulary_padded = 128,
	.layernorm_epsilon = 1e-5f};

static void no_log(enum log_level level, const char *line, void *user)
{
	(void)level;
	(void)line;
	(void)user;
}

static const char *in_checkpoint(const char *name)
{
	static char path[64];
	snprintf(path, sizeof path, "checkpoint/%s", name);
	return path;
}

static void write_checkpoint(void)
{
	struct parameter_table table;
	struct checkpoint_state state = {.step = 9,
		.updates = 8,
		.skipped = 1,
		.tokens = 1000,
		.split = "949,50,1",
		.seed = 7,
		.window_tokens = 3,
		.ordinal = 12,
		.source_count = 1,
		.sources = {{{1, 2}, 1, {12, 0, 12, 3}}},
		.loss_scale = loss_scale_dynamic(16, 1000, 2, 1),
		.schedule = {SCHEDULE_COSINE, 1.5e-4, 1e-5 / 3, 0.01, 1000000},
		.overfitting = {7, 70, 2, 3.1 / 7, 2.9 / 7, true, 0.1 / 3, 0.3},
		.precision = "fp32",
		.kernels = "CPU",
		.threads = 2};
	CHECK(parameter_table_open(&small, &table) == STATUS_OK, "%s", error_message());
	float *values = calloc(table.elements, sizeof *values);
	CHECK(values, "no memory");
	struct checkpoint_contents contents = {.config = &small,
		.table = &table,
		.weights = values,
		.exp_avg = values,
		.exp_avg_sq = values,
		.eod = 4,
		.state = &state};
	CHECK(checkpoint_write_directory(fuzz_path("checkpoint"), &contents) == STATUS_OK, "%s",
		error_message());
	for (int i = 0; i < FILES; i++)
		originals[i] = fuzz_read(in_checkpoint(names[i]), &sizes[i]);
	free(values);
	parameter_table_close(&table);
}

/* trainer.json with the right hashes of the others and of itself. False: it is no object. */
static bool write_fitting(struct fuzz_input trainer, int which, struct fuzz_input changed)
{
	cJSON *object = cJSON_ParseWithLength((const char *)trainer.data, trainer.bytes);
	if (!cJSON_IsObject(object)) {
		cJSON_Delete(object);
		return false;
	}
	cJSON_DeleteItemFromObjectCaseSensitive(object, "files");
	cJSON *files = cJSON_AddObjectToObject(object, "files");
	for (int i = 0; i < FILES; i++) {
		cJSON *entry = i == TRAINER ? NULL : cJSON_AddObjectToObject(files, names[i]);
		struct fuzz_input file = i == which ? changed : (struct fuzz_input){originals[i], sizes[i]};
		CHECK(i == TRAINER ||
				(json_add_u64(entry, "bytes", file.bytes) &&
					json_add_hash128(entry, "xxh3_128", hash128(file.data, file.bytes))),
			"no memory");
	}
	while (cJSON_GetObjectItemCaseSensitive(object, "hash"))
		cJSON_DeleteItemFromObjectCaseSensitive(object, "hash");
	char *text = cJSON_PrintUnformatted(object);
	CHECK(text && json_add_hash128(object, "hash", hash128(text, strlen(text))), "no memory");
	cJSON_free(text);
	text = cJSON_Print(object);
	CHECK(text, "no memory");
	fuzz_write(in_checkpoint("trainer.json"), text, strlen(text));
	cJSON_free(text);
	cJSON_Delete(object);
	return true;
}

static void read_arrays(struct checkpoint *checkpoint)
{
	enum { MOST = 1 << 20 };
	const struct model_config *config = checkpoint_config(checkpoint);
	struct parameter_table table;
	/* About the elements, before they are made. */
	double elements = ((double)config->vocabulary_padded + config->positions) * config->hidden +
			  12.0 * config->layers * config->hidden * config->hidden + 1e3 * config->layers;
	if (elements > MOST)
		return;
	CHECK(parameter_table_open(config, &table) == STATUS_OK, "%s", error_message());
	float *values = malloc(table.elements * 4), *squares = malloc(table.elements * 4);
	CHECK(values && squares, "no memory");
	if (checkpoint_read_weights(checkpoint, &table, NULL, values) != STATUS_OK)
		CHECK(strstr(error_message(), "checkpoint"), "names no file: %s", error_message());
	if (checkpoint_read_moments(checkpoint, &table, NULL, values, squares) != STATUS_OK)
		CHECK(strstr(error_message(), "checkpoint"), "names no file: %s", error_message());
	free(values);
	free(squares);
	parameter_table_close(&table);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	struct fuzz_input input = {data, bytes};
	struct checkpoint *checkpoint;
	if (!originals[0]) {
		log_set_sink(no_log, NULL);
		write_checkpoint();
	}
	uint32_t mode = fuzz_take(&input, 1);
	int which = mode & 3;
	bool same = input.bytes == sizes[which] && memcmp(input.data, originals[which], input.bytes) == 0;
	bool plain = mode & 8, fit = !plain && (mode & 4);
	fuzz_write(in_checkpoint(names[which]), input.data, input.bytes);
	if (fit)
		fit = write_fitting(
			which == TRAINER ? input : (struct fuzz_input){originals[TRAINER], sizes[TRAINER]},
			which, input);
	if (plain)
		CHECK(file_remove(fuzz_path(in_checkpoint("trainer.json"))) == STATUS_OK, "%s",
			error_message());
	enum status status = checkpoint_open(fuzz_path("checkpoint"), &checkpoint);
	if (status == STATUS_OK) {
		read_arrays(checkpoint);
		checkpoint_close(checkpoint);
	} else {
		CHECK(strstr(error_message(), "checkpoint"), "names no file: %s", error_message());
	}
	/* Of trainer.json white space and the like may change. */
	CHECK(plain || fit || which == TRAINER || (status == STATUS_OK) == same, "%s",
		same ? error_message() : "a change was not found");
	fuzz_write(in_checkpoint(names[which]), originals[which], sizes[which]);
	fuzz_write(in_checkpoint("trainer.json"), originals[TRAINER], sizes[TRAINER]);
	return 0;
}
