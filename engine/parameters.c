#include "engine/parameters.h"

#include "common/memory.h"
#include "common/philox.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- shapes ---- */

static const struct {
	const char *name;
	int layers, hidden, heads;
} known[] = {
	{"reference", 4, 1024, 16},
	{"gpt2", 12, 768, 12},
	{"gpt2-medium", 24, 1024, 16},
	{"gpt2-large", 36, 1280, 20},
	{"gpt2-xl", 48, 1600, 25},
	/* GPT-3's shapes (Brown et al. 2020, table 2.1), its 13B's width rounded to whole heads as Megatron does */
	{"gpt3-2.7b", 32, 2560, 32},
	{"gpt3-6.7b", 32, 4096, 32},
	{"gpt3-13b", 40, 5120, 40},
};
enum { KNOWN = sizeof known / sizeof *known };

bool model_config_named(const char *name, struct model_config *config)
{
	for (int i = 0; i < KNOWN; i++)
		if (!strcmp(known[i].name, name)) {
			config->layers = known[i].layers;
			config->hidden = known[i].hidden;
			config->heads = known[i].heads;
			return true;
		}
	return false;
}

const char *model_config_name(int index)
{
	return index < KNOWN ? known[index].name : NULL;
}

int model_vocabulary_pad(int vocabulary, int divisor)
{
	return (vocabulary + divisor - 1) / divisor * divisor;
}

static enum status check_dropout(const char *name, float p)
{
	FAIL_IF(!(p >= 0 && p < 1), STATUS_USAGE, "%s is %g; it must be at least 0 and below 1", name,
		(double)p);
	return STATUS_OK;
}

/* More than no machine has memory for: planning for them would only take long. */
static enum status check_total(const struct model_config *c)
{
	const double most = 1e12;
	double hidden = c->hidden, rows = (double)c->vocabulary_padded + c->positions;
	double total = c->layers * hidden * (12 * hidden + 13) + rows * hidden;
	FAIL_IF(total > most, STATUS_USAGE,
		"a model of %.3g parameters; at most %.0e: give a smaller --hidden-size (%d), --num-layers "
		"(%d), "
		"--max-position-embeddings (%d) or vocabulary (%d)",
		total, most, c->hidden, c->layers, c->positions, c->vocabulary);
	return STATUS_OK;
}

enum status model_config_check(const struct model_config *c)
{
	/* Limits keep every product of sizes within int (3 * hidden, 4 * hidden) and layers within 16 bits of
	 * the dropout counter. */
	FAIL_IF(c->layers < 1 || c->layers > 10000, STATUS_USAGE,
		"%d layers; a model needs 1 to 10,000 (--num-layers)", c->layers);
	FAIL_IF(c->hidden < 1 || c->hidden > 1 << 20, STATUS_USAGE,
		"a hidden size of %d; it must be 1 to 1,048,576 (--hidden-size)", c->hidden);
	FAIL_IF(c->heads < 1 || c->hidden % c->heads, STATUS_USAGE,
		"%d attention heads do not divide a hidden size of %d evenly; choose a divisor of it "
		"(--num-attention-heads)",
		c->heads, c->hidden);
	FAIL_IF(c->positions < 1 || c->positions > 1 << 24, STATUS_USAGE,
		"%d positions; a model needs 1 to 16,777,216 (--max-position-embeddings)", c->positions);
	FAIL_IF(c->vocabulary < 1 || c->vocabulary > 1 << 28, STATUS_USAGE,
		"a vocabulary of %d ids; it must be 1 to 268,435,456", c->vocabulary);
	FAIL_IF(c->vocabulary_padded < c->vocabulary || c->vocabulary_padded > 1 << 29, STATUS_USAGE,
		"a vocabulary of %d ids padded to %d rows; the padded size must not be smaller "
		"(--make-vocab-size-divisible-by)",
		c->vocabulary, c->vocabulary_padded);
	TRY(check_dropout("embedding dropout", c->embedding_dropout));
	TRY(check_dropout("attention dropout", c->attention_dropout));
	TRY(check_dropout("hidden dropout", c->hidden_dropout));
	FAIL_IF(!(c->layernorm_epsilon > 0 && c->layernorm_epsilon < 1), STATUS_USAGE,
		"LayerNorm's epsilon is %g; it must be above 0 and below 1 (--layernorm-epsilon)",
		(double)c->layernorm_epsilon);
	return check_total(c);
}

/* ---- the table ---- */

static void add(struct parameter_table *t, int layer, const char *name, int rows, int columns, int dimensions)
{
	struct parameter *p = &t->items[t->count++];
	if (layer >= 0 && strncmp(name, "ln_f", 4))
		snprintf(p->name, sizeof p->name, "h.%d.%s", layer, name);
	else
		snprintf(p->name, sizeof p->name, "%s", name);
	p->offset = t->elements;
	p->elements = (uint64_t)rows * (uint64_t)columns;
	p->rows = p->file_rows = rows;
	p->columns = columns;
	p->dimensions = dimensions;
	p->group = dimensions == 1;
	p->layer = layer;
	t->elements = parameter_round_up(p->offset + p->elements);
	t->counted += p->elements;
	t->group_elements[p->group] += p->elements;
}

static void add_linear(struct parameter_table *t, int layer, const char *name, int in, int out)
{
	char full[32];
	snprintf(full, sizeof full, "%s.weight", name);
	add(t, layer, full, in, out, 2);
	snprintf(full, sizeof full, "%s.bias", name);
	add(t, layer, full, 1, out, 1);
}

static void add_layernorm(struct parameter_table *t, int layer, const char *name, int hidden)
{
	char full[32];
	snprintf(full, sizeof full, "%s.weight", name);
	add(t, layer, full, 1, hidden, 1);
	snprintf(full, sizeof full, "%s.bias", name);
	add(t, layer, full, 1, hidden, 1);
}

enum status parameter_table_open(const struct model_config *config, struct parameter_table *out)
{
	*out = (struct parameter_table){0};
	int C = config->hidden;
	size_t count = PARAMETER_LAYERS + (size_t)config->layers * LAYER_PARAMETERS + 2;
	TRY(memory_alloc((void **)&out->items, count, sizeof *out->items, "the table of parameters"));
	add(out, -1, "wte.weight", config->vocabulary_padded, C, 2);
	out->items[PARAMETER_WTE].file_rows = config->vocabulary;
	add(out, -1, "wpe.weight", config->positions, C, 2);
	for (int l = 0; l < config->layers; l++) {
		add_layernorm(out, l, "ln_1", C);
		add_linear(out, l, "attn.c_attn", C, 3 * C);
		add_linear(out, l, "attn.c_proj", C, C);
		add_layernorm(out, l, "ln_2", C);
		add_linear(out, l, "mlp.c_fc", C, 4 * C);
		add_linear(out, l, "mlp.c_proj", 4 * C, C);
	}
	add_layernorm(out, config->layers, "ln_f", C);
	return STATUS_OK;
}

void parameter_table_close(struct parameter_table *table)
{
	free(table->items);
	*table = (struct parameter_table){0};
}

const struct parameter *parameter_find(const struct parameter_table *table, const char *name)
{
	static const char prefix[] = "transformer.";
	if (!strncmp(name, prefix, sizeof prefix - 1))
		name += sizeof prefix - 1;
	for (int i = 0; i < table->count; i++)
		if (!strcmp(table->items[i].name, name))
			return &table->items[i];
	return NULL;
}

/* ---- initial values ---- */

/* Two normals from two uniform words (Box and Muller 1958). */
static void normal_pair(uint32_t a, uint32_t b, float *x, float *y)
{
	const float unit = 0x1p-32f;
	float radius = sqrtf(-2 * logf(((float)a + 0.5f) * unit)), angle = 6.2831853f * ((float)b * unit);
	*x = radius * cosf(angle);
	*y = radius * sinf(angle);
}

/* Elements 4q..4q+3 of parameter `index` come from one Philox block. */
static void fill_normal(
	float *p, uint64_t count, uint64_t elements, uint64_t seed, uint32_t index, float deviation)
{
	uint64_t blocks = (count + 3) / 4;
#pragma omp parallel for schedule(static)
	for (uint64_t q = 0; q < blocks; q++) {
		struct philox_block r = philox_4x32_10((uint32_t)q, (uint32_t)(q >> 32), index, 0x696e6974u,
			(uint32_t)seed, (uint32_t)(seed >> 32));
		float normal[4];
		normal_pair(r.word[0], r.word[1], &normal[0], &normal[1]);
		normal_pair(r.word[2], r.word[3], &normal[2], &normal[3]);
		for (uint64_t i = 4 * q; i < 4 * q + 4 && i < count; i++)
			p[i] = deviation * normal[i - 4 * q];
	}
	memset(p + count, 0, (elements - count) * sizeof *p);
}

static bool ends_with(const char *text, const char *end)
{
	size_t a = strlen(text), b = strlen(end);
	return a >= b && !strcmp(text + a - b, end);
}

uint64_t parameter_round_up(uint64_t elements)
{
	return (elements + PARAMETER_ALIGNED - 1) / PARAMETER_ALIGNED * PARAMETER_ALIGNED;
}

uint64_t parameter_span(const struct parameter_table *table, int index)
{
	uint64_t end = index + 1 < table->count ? table->items[index + 1].offset : table->elements;
	return end - table->items[index].offset;
}

int parameter_run_from(const struct parameter_table *table, int index, struct parameter_run *out)
{
	int end = index + 1, layer = table->items[index].layer;
	while (end < table->count && end > PARAMETER_LAYERS && table->items[end].layer == layer)
		end++;
	out->offset = table->items[index].offset;
	out->elements = (end < table->count ? table->items[end].offset : table->elements) - out->offset;
	return end;
}

uint64_t parameter_piece(uint64_t elements, uint64_t most)
{
	uint64_t pieces = (elements + most - 1) / most;
	return parameter_round_up((elements + pieces - 1) / pieces);
}

void parameter_initialize(const struct model_config *config, const struct parameter_table *table, int index,
	uint64_t seed, float *values)
{
	const struct parameter *q = &table->items[index];
	uint64_t span = parameter_span(table, index);
	if (q->dimensions == 2) {
		float residual = (float)(0.02 / sqrt(2.0 * config->layers));
		float deviation = ends_with(q->name, ".c_proj.weight") ? residual : 0.02f;
		uint64_t real = (uint64_t)q->file_rows * (uint64_t)q->columns;
		fill_normal(values, real, span, seed, (uint32_t)index, deviation);
		return;
	}
	bool one = strstr(q->name, "ln_") && ends_with(q->name, ".weight");
	for (uint64_t e = 0; e < span; e++)
		values[e] = one && e < q->elements ? 1.0f : 0.0f;
}

void parameters_initialize(
	const struct model_config *config, const struct parameter_table *table, uint64_t seed, float *p)
{
	for (int i = 0; i < table->count; i++)
		parameter_initialize(config, table, i, seed, p + table->items[i].offset);
}
