/*
 * Attention by cuDNN, which is looked for at run time: the file that $FERRY_CUDNN names, else libcudnn.so.9 where the loader
 * looks (LD_LIBRARY_PATH, beside CUDA's libraries, the system's folders); FERRY_CUDNN=off: ferry's own kernels alone.
 *
 * A shape's way (a direction's, for that matter) is chosen at its first use and kept: cuDNN's plan where cuDNN is the
 * faster, or the own kernels; kernels_prefer_cudnn (kernels.h) has the rule. That there is no cuDNN, that it is too old, refuses the graph or has no
 * plan within the bytes that are counted for it (KERNELS_ATTENTION) is no failure: the own kernels are the way then, and the
 * log says why. The backward goes by so many sequences at a time that its workspace (cudnn_plan.cuh) keeps within that;
 * sequences have nothing to do with each other, so the results are the same.
 *
 * A choice as text, version 1:
 *
 *    attention-1 BACKWARD TYPE B T H D ferry
 *    attention-1 BACKWARD TYPE B T H D cudnn VERSION ENGINE KNOBS TYPE:VALUE ...;
 *
 * Decimal numbers: the fields of struct cudnn_shape, cuDNN's version, the engine's index, how many knobs, and of each its
 * type and value (struct cudnn_engine), which cuDNN takes again in the same version.
 *
 * Proved so far: this file on the emulated device with a stand-in for cuDNN (tests/emu/cudnn.cc); the graphs, by cuDNN 9.19
 * and 9.28 themselves, which plan and compile them for sm_90 without a GPU (tests/gpu/cudnn_plans.cc). It has not run on a
 * GPU: tests/gpu/run does that, and its benchmark times both ways.
 */
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/cudnn_plan.cuh"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <vector>

enum {
	/* Up to 9.15.0 the backward may reach beyond its memory where T is no multiple of 128 (cudnn-frontend 1.16's notes). */
	OLDEST = 91600,
};

struct attention_way {
	struct cudnn_shape shape;
	bool by_cudnn;
	struct cudnn_plan plan; /* of as many sequences as go at a time, which divide B */
};

struct cudnn {
	struct cudnn_functions call;
	size_t version; /* 0: there is none */
	char name[32];  /* "cuDNN 9.19.0" */
	struct cudnn_handle *handle;
	std::mutex lock;                        /* one thread at a time has to do with it */
	std::vector<struct attention_way> ways; /* by shape */
};

/* ---- the library ---- */

static bool find_library(struct cudnn *c, char why[CUDNN_REASON])
{
	const char *named = getenv("FERRY_CUDNN");
	if (named && strcmp(named, "off") == 0) {
		snprintf(why, CUDNN_REASON, "FERRY_CUDNN=off");
		return false;
	}
	if (!cudnn_load(named && *named ? named : NULL, &c->call, why))
		return false;
	size_t version = c->call.cudnnGetVersion();
	snprintf(c->name, sizeof c->name, "cuDNN %zu.%zu.%zu", version / 10000, version / 100 % 100,
		version % 100);
	if (version < OLDEST) {
		snprintf(why, CUDNN_REASON, "%s is too old, 9.16 or later is needed", c->name);
		return false;
	}
	int status = c->call.cudnnCreate(&c->handle);
	if (status != cudnn_STATUS_SUCCESS) {
		snprintf(why, CUDNN_REASON, "%s does not start: %s", c->name,
			c->call.cudnnGetErrorString(status));
		return false;
	}
	c->version = version;
	return true;
}

enum status cudnn_open(struct backend *b, struct kernels *table)
{
	char why[CUDNN_REASON], *name = table->attention;
	snprintf(name, KERNELS_ATTENTION_NAME, "ferry's own kernels");
	if (!kernels_prefer_cudnn(b->capability, b->act, false))
		return STATUS_OK;
	b->cudnn = new (std::nothrow) cudnn();
	if (!b->cudnn)
		return b->host->error_set(STATUS_MEMORY, "no memory for cuDNN");
	if (!find_library(b->cudnn, why)) {
		snprintf(name, KERNELS_ATTENTION_NAME, "ferry's own kernels (%.200s)", why);
		return STATUS_OK;
	}
	snprintf(name, KERNELS_ATTENTION_NAME, "%s where dropout is 0 and documents see each other",
		b->cudnn->name);
	table->attention_bytes = kernels_prefer_cudnn(b->capability, b->act, true) ? b->attention_bytes : 0;
	return STATUS_OK;
}

void cudnn_close(struct backend *b)
{
	struct cudnn *c = b->cudnn;
	if (!c)
		return;
	for (struct attention_way &way : c->ways)
		cudnn_plan_close(&c->call, &way.plan);
	if (c->version)
		(void)c->call.cudnnDestroy(c->handle);
	delete c;
	b->cudnn = NULL;
}

/* ---- ways ---- */

/* Statistics, 4 bytes each, begin at a multiple of 16 in every group. */
static bool is_group(const struct backend *b, const struct cudnn_shape *shape, int sequences)
{
	uint64_t statistics = (uint64_t)sequences * (uint64_t)shape->H * (uint64_t)shape->T;
	return shape->B % sequences == 0 && (sequences == shape->B || statistics % 4 == 0) &&
	       kernels_attention_need(sequences, shape->T, shape->H) <= b->attention_bytes;
}

/* The most sequences that may go at a time; 0, and why: none. */
static int group_of(const struct backend *b, const struct cudnn_shape *shape, char why[CUDNN_REASON])
{
	if (shape->D % 8) { /* its rows would begin between 16 bytes */
		snprintf(why, CUDNN_REASON, "%d is no multiple of 8", shape->D);
		return 0;
	}
	if (!shape->backward)
		return shape->B;
	if (!kernels_prefer_cudnn(b->capability, b->act, true)) {
		snprintf(why, CUDNN_REASON, "it is not known to give the same bits every time on this GPU");
		return 0;
	}
	if (shape->T == 1) { /* though it has plans for it */
		snprintf(why, CUDNN_REASON, "its release notes except a backward of one token");
		return 0;
	}
	for (int sequences = shape->B; sequences; sequences--)
		if (is_group(b, shape, sequences))
			return sequences;
	snprintf(why, CUDNN_REASON, "no number of sequences at a time keeps its workspace within %llu bytes",
		(unsigned long long)b->attention_bytes);
	return 0;
}

/* With the lock. Where it is not by cuDNN: why, unless there is no cuDNN at all. */
static struct attention_way way_open(struct backend *b, const struct cudnn_shape *shape,
	const struct cudnn_engine *engine, char why[CUDNN_REASON])
{
	struct cudnn *c = b->cudnn;
	struct attention_way way = {};
	struct cudnn_shape group = *shape;
	way.shape = *shape;
	if (!c->version || !(group.B = group_of(b, shape, why)))
		return way;
	struct cudnn_device device = {c->handle, NULL};
	way.by_cudnn = cudnn_plan_open(
		&c->call, &device, &group, engine, cudnn_workspace_most(&group), &way.plan, why);
	return way;
}

/* The table's text names cuDNN; what of attention is not by it is said here, once a shape and direction. */
static void tell_own(const struct backend *b, const struct cudnn_shape *shape, const char *why)
{
	if (b->cudnn->version)
		b->host->log_info("the %s of attention, %d x %d tokens in %d heads of %d elements, is by "
				  "ferry's own kernels and not by %s: %s",
			shape->backward ? "backward" : "forward", shape->B, shape->T, shape->H, shape->D,
			b->cudnn->name, why);
}

static bool way_before(const struct attention_way &way, const struct cudnn_shape &shape)
{
	return memcmp(&way.shape, &shape, sizeof shape) < 0;
}

static std::vector<struct attention_way>::iterator way_place(struct cudnn *c, const struct cudnn_shape &shape)
{
	return std::lower_bound(c->ways.begin(), c->ways.end(), shape, way_before);
}

static bool way_there(
	struct cudnn *c, std::vector<struct attention_way>::iterator at, const struct cudnn_shape &shape)
{
	return at != c->ways.end() && !memcmp(&at->shape, &shape, sizeof shape);
}

/* ---- running ---- */

static void *moved(const void *from, size_t elements, size_t bytes)
{
	return from ? (char *)from + elements * bytes : NULL;
}

/* Sequences from `first` on. */
static struct cudnn_arguments arguments_of(const struct attention &a, size_t first, size_t bytes)
{
	size_t rows = first * (size_t)a.T, C = (size_t)a.H * (size_t)a.D;
	struct cudnn_arguments p = {};
	p.qkv = moved(a.qkv, rows * 3 * C, bytes);
	p.dout = moved(a.dout, rows * C, bytes);
	p.out = moved(a.out, rows * C, bytes);
	p.stats = (float *)moved(a.lse, rows * (size_t)a.H, sizeof(float));
	p.dqkv = moved(a.dqkv, rows * 3 * C, bytes);
	return p;
}

/* With the lock. */
static bool run(struct backend *b, struct stream *s, const struct attention &a, const struct cudnn_plan *plan,
	char why[CUDNN_REASON])
{
	struct cudnn *c = b->cudnn;
	size_t workspace = ((size_t)plan->workspace + 255) / 256 * 256;
	size_t scratch = workspace + cudnn_delta_bytes(&plan->shape);
	char *memory = NULL;
	if (scratch && !(memory = (char *)stream_scratch(b, s, scratch, "attention by cuDNN")))
		return true; /* kept */
	int status = c->call.cudnnSetStream(c->handle, s->handle);
	if (status != cudnn_STATUS_SUCCESS) {
		snprintf(why, CUDNN_REASON, "a stream: %s", c->call.cudnnGetErrorString(status));
		return false;
	}
	for (int first = 0; first < a.B; first += plan->shape.B) {
		struct cudnn_arguments p = arguments_of(a, (size_t)first, dtype_bytes(b->act));
		p.workspace = memory;
		p.delta = (float *)(memory + workspace);
		if (!cudnn_plan_run(&c->call, c->handle, plan, &p, why))
			return false;
	}
	return true;
}

static bool is_aligned(const struct attention &a)
{
	uintptr_t all = (uintptr_t)a.qkv | (uintptr_t)a.out | (uintptr_t)a.lse | (uintptr_t)a.dout |
			(uintptr_t)a.dqkv;
	return all % 16 == 0;
}

bool cudnn_attention(struct backend *b, struct stream *s, const struct attention &a, bool backward)
{
	struct cudnn *c = b->cudnn;
	if (!c || a.first || a.drop.on || !is_aligned(a))
		return false;
	struct cudnn_shape shape = {backward, b->act, a.B, a.T, a.H, a.D};
	std::lock_guard<std::mutex> guard(c->lock);
	char why[CUDNN_REASON] = "", message[CUDNN_REASON + 128];
	auto at = way_place(c, shape);
	if (!way_there(c, at, shape)) {
		at = c->ways.insert(at, way_open(b, &shape, NULL, why));
		if (!at->by_cudnn)
			tell_own(b, &shape, why);
	}
	if (at->by_cudnn && !run(b, s, a, &at->plan, why)) {
		snprintf(message, sizeof message,
			"%s: %s; with FERRY_CUDNN=off attention is by ferry's own kernels", c->name, why);
		stream_fail(b, s, STATUS_IO, message);
	}
	return at->by_cudnn;
}

/* ---- choices as text ---- */

#define CHOICE_SHAPE "attention-1 %d %d %d %d %d %d "

__attribute__((format(printf, 2, 3))) static void append(char text[KERNELS_CHOICE], const char *format, ...)
{
	size_t at = strlen(text);
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(text + at, KERNELS_CHOICE - at, format, arguments);
	va_end(arguments);
}

bool attention_choice_get(struct backend *b, int i, char text[KERNELS_CHOICE])
{
	struct cudnn *c = b->cudnn;
	if (!c)
		return false;
	std::lock_guard<std::mutex> guard(c->lock);
	if (i < 0 || (size_t)i >= c->ways.size())
		return false;
	const struct attention_way *way = &c->ways[(size_t)i];
	const struct cudnn_shape *shape = &way->shape;
	const struct cudnn_engine *e = &way->plan.engine;
	text[0] = 0;
	append(text, CHOICE_SHAPE, shape->backward, shape->type, shape->B, shape->T, shape->H, shape->D);
	if (!way->by_cudnn) {
		append(text, "ferry");
		return true;
	}
	append(text, "cudnn %zu %lld %d", c->version, (long long)e->index, e->knobs);
	for (int k = 0; k < e->knobs; k++)
		append(text, " %d:%lld", e->types[k], (long long)e->values[k]);
	append(text, ";");
	return true;
}

static bool parse_engine(const char *text, size_t version, struct cudnn_engine *e)
{
	size_t said = 0;
	long long number = 0;
	int at = 0;
	if (sscanf(text, "cudnn %zu %lld %d%n", &said, &number, &e->knobs, &at) != 3 || said != version ||
		e->knobs < 0 || e->knobs > CUDNN_KNOBS)
		return false;
	e->index = number;
	for (int k = 0; k < e->knobs; k++) {
		text += at;
		if (sscanf(text, " %d:%lld%n", &e->types[k], &number, &at) != 2)
			return false;
		e->values[k] = number;
	}
	return strcmp(text + at, ";") == 0;
}

bool attention_choice_set(struct backend *b, const char *text)
{
	struct cudnn *c = b->cudnn;
	struct cudnn_shape shape;
	struct cudnn_engine engine = {};
	int at = 0;
	if (!c || sscanf(text, CHOICE_SHAPE "%n", &shape.backward, &shape.type, &shape.B, &shape.T, &shape.H,
			  &shape.D, &at) != 6)
		return false;
	bool possible = (shape.backward == 0 || shape.backward == 1) && shape.type == (int)b->act &&
			shape.B > 0 && shape.T > 0 && shape.H > 0 && shape.D > 0 &&
			(int64_t)shape.B * shape.H <= KERNELS_GPU_HEADS && shape.D <= KERNELS_GPU_HEAD;
	bool own = strcmp(text + at, "ferry") == 0;
	if (!possible || (!own && !parse_engine(text + at, c->version, &engine)))
		return false;
	std::lock_guard<std::mutex> guard(c->lock);
	auto place = way_place(c, shape);
	if (way_there(c, place, shape))
		return false;
	struct attention_way way = {};
	way.shape = shape;
	char why[CUDNN_REASON] = "";
	if (own)
		tell_own(b, &shape, "so it was in the run that goes on");
	else
		way = way_open(b, &shape, &engine, why);
	if (own || way.by_cudnn)
		c->ways.insert(place, way);
	return own || way.by_cudnn;
}
