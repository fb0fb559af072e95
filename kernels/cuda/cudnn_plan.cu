/* cuDNN's graphs and plans of attention (cudnn_plan.cuh). */
#include "kernels/cuda/cudnn_plan.cuh"

#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

bool cudnn_load(const char *file, struct cudnn_functions *call, char why[CUDNN_REASON])
{
	void *library = dlopen(file ? file : "libcudnn.so.9", RTLD_NOW | RTLD_LOCAL);
	if (!library) {
		snprintf(why, CUDNN_REASON, "no cuDNN: %.150s%s", dlerror(),
			file ? "" : "; $FERRY_CUDNN names a file elsewhere");
		return false;
	}
#define CUDNN_FIND(result, function, ...)                                                                    \
	call->function = (result(*)(__VA_ARGS__))dlsym(library, #function);                                  \
	if (!call->function) {                                                                               \
		snprintf(why, CUDNN_REASON, "no cuDNN: the library has no " #function);                      \
		return false;                                                                                \
	}
	CUDNN_FUNCTIONS(CUDNN_FIND)
	return true;
}

/* ---- descriptors; after the first failure nothing more is done, and its reason stays ---- */

/* Tensors that a caller gives, by their numbers in a graph; virtual ones come after. */
enum tensor_id { Q = 1, K, V, OUT, STATS, DOUT, DQ, DK, DV, DELTA, SCALE, MASKED, ONE, VIRTUAL };

struct builder {
	const struct cudnn_functions *call;
	const struct cudnn_device *device;
	const struct cudnn_shape *shape;
	std::vector<void *> *made;
	std::vector<void *> operations;
	int64_t next_id;
	bool failed;
	char *why;
};

static void check(struct builder *b, int status, const char *what)
{
	if (b->failed || status == cudnn_STATUS_SUCCESS)
		return;
	char more[CUDNN_REASON] = "";
	b->call->cudnnGetLastErrorString(more, sizeof more);
	more[strcspn(more, "\n")] = 0;
	snprintf(b->why, CUDNN_REASON, "%s: %s%s%.150s", what, b->call->cudnnGetErrorString(status),
		more[0] ? ": " : "", more);
	b->failed = true;
}

static void *make(struct builder *b, int kind)
{
	void *descriptor = NULL;
	if (!b->failed)
		check(b, b->call->cudnnBackendCreateDescriptor(kind, &descriptor), "a descriptor");
	if (b->failed)
		return NULL;
	b->made->push_back(descriptor);
	return descriptor;
}

static void set_all(struct builder *b, void *d, int attribute, int type, int64_t count, const void *values)
{
	if (!b->failed)
		check(b, b->call->cudnnBackendSetAttribute(d, attribute, type, count, values),
			"an attribute");
}
static void set(struct builder *b, void *d, int attribute, void *descriptor)
{
	set_all(b, d, attribute, cudnn_TYPE_BACKEND_DESCRIPTOR, 1, &descriptor);
}
static void set_handle(struct builder *b, void *d, int attribute)
{
	set_all(b, d, attribute, cudnn_TYPE_HANDLE, 1, &b->device->handle);
}
static void set_enum(struct builder *b, void *d, int attribute, int type, int value)
{
	set_all(b, d, attribute, type, 1, &value);
}
static void set_number(struct builder *b, void *d, int attribute, int64_t value)
{
	set_all(b, d, attribute, cudnn_TYPE_INT64, 1, &value);
}
static void set_flag(struct builder *b, void *d, int attribute, bool value)
{
	set_all(b, d, attribute, cudnn_TYPE_BOOLEAN, 1, &value);
}

static void *finish(struct builder *b, void *d, const char *what)
{
	if (!b->failed)
		check(b, b->call->cudnnBackendFinalize(d), what);
	return d;
}

/* ---- tensors ---- */

static int type_of(const struct builder *b)
{
	return b->shape->type == DTYPE_BF16 ? cudnn_DATA_BFLOAT16 : cudnn_DATA_HALF;
}

static void *tensor_begin(
	struct builder *b, int64_t id, int type, const int64_t dims[4], const int64_t strides[4])
{
	void *t = make(b, cudnn_BACKEND_TENSOR_DESCRIPTOR);
	set_number(b, t, cudnn_ATTR_TENSOR_UNIQUE_ID, id);
	set_number(b, t, cudnn_ATTR_TENSOR_BYTE_ALIGNMENT, 16);
	set_enum(b, t, cudnn_ATTR_TENSOR_DATA_TYPE, cudnn_TYPE_DATA_TYPE, type);
	set_all(b, t, cudnn_ATTR_TENSOR_DIMENSIONS, cudnn_TYPE_INT64, 4, dims);
	set_all(b, t, cudnn_ATTR_TENSOR_STRIDES, cudnn_TYPE_INT64, 4, strides);
	return t;
}

/* [B][H][T][D] of rows of `row` elements; transposed, its last two dimensions change places. */
static void *rows(struct builder *b, int64_t id, int64_t row, bool transposed)
{
	const struct cudnn_shape *s = b->shape;
	int64_t dims[4] = {s->B, s->H, s->T, s->D}, strides[4] = {s->T * row, s->D, row, 1};
	if (transposed) {
		std::swap(dims[2], dims[3]);
		std::swap(strides[2], strides[3]);
	}
	void *t = tensor_begin(b, id, type_of(b), dims, strides);
	set_flag(b, t, cudnn_ATTR_TENSOR_IS_VIRTUAL, id >= VIRTUAL);
	return finish(b, t, "a tensor");
}

/* A number of each row. */
static void *statistic(struct builder *b, int64_t id)
{
	const struct cudnn_shape *s = b->shape;
	int64_t dims[4] = {s->B, s->H, s->T, 1}, strides[4] = {(int64_t)s->H * s->T, s->T, 1, 1};
	void *t = tensor_begin(b, id, cudnn_DATA_FLOAT, dims, strides);
	set_flag(b, t, cudnn_ATTR_TENSOR_IS_VIRTUAL, id >= VIRTUAL);
	return finish(b, t, "a tensor");
}

/* [B][H][T][T], which is nowhere in memory. */
static void *scores(struct builder *b, int type, bool transposed)
{
	const struct cudnn_shape *s = b->shape;
	int64_t T = s->T, dims[4] = {s->B, s->H, T, T}, strides[4] = {s->H * T * T, T * T, T, 1};
	if (transposed)
		std::swap(strides[2], strides[3]);
	void *t = tensor_begin(b, b->next_id++, type, dims, strides);
	set_flag(b, t, cudnn_ATTR_TENSOR_IS_VIRTUAL, true);
	return finish(b, t, "a tensor");
}

/* A float that is given by its value. */
static void *scalar(struct builder *b, int64_t id)
{
	const int64_t ones[4] = {1, 1, 1, 1};
	void *t = tensor_begin(b, id, cudnn_DATA_FLOAT, ones, ones);
	set_flag(b, t, cudnn_ATTR_TENSOR_IS_BY_VALUE, true);
	return finish(b, t, "a tensor");
}

/* ---- operations; each gives back its result ---- */

static void *operation(struct builder *b, void *o, void *result)
{
	b->operations.push_back(finish(b, o, "an operation"));
	return result;
}

static void *matmul(struct builder *b, void *left, void *right, void *result)
{
	void *kind = make(b, cudnn_BACKEND_MATMUL_DESCRIPTOR);
	set_enum(b, kind, cudnn_ATTR_MATMUL_COMP_TYPE, cudnn_TYPE_DATA_TYPE, cudnn_DATA_FLOAT);
	finish(b, kind, "a product");
	void *o = make(b, cudnn_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
	set(b, o, cudnn_ATTR_OPERATION_MATMUL_DESC, kind);
	set(b, o, cudnn_ATTR_OPERATION_MATMUL_ADESC, left);
	set(b, o, cudnn_ATTR_OPERATION_MATMUL_BDESC, right);
	set(b, o, cudnn_ATTR_OPERATION_MATMUL_CDESC, result);
	return operation(b, o, result);
}

/* `axis` is GEN_INDEX's, `which` BINARY_SELECT's; else -1 and NULL. */
static void *pointwise_of(
	struct builder *b, int mode, int precision, int axis, void *x, void *y, void *which, void *result)
{
	void *kind = make(b, cudnn_BACKEND_POINTWISE_DESCRIPTOR);
	set_enum(b, kind, cudnn_ATTR_POINTWISE_MODE, cudnn_TYPE_POINTWISE_MODE, mode);
	set_enum(b, kind, cudnn_ATTR_POINTWISE_MATH_PREC, cudnn_TYPE_DATA_TYPE, precision);
	if (axis >= 0)
		set_number(b, kind, cudnn_ATTR_POINTWISE_AXIS, axis);
	finish(b, kind, "an elementwise operation");
	void *o = make(b, cudnn_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
	set(b, o, cudnn_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, kind);
	set(b, o, cudnn_ATTR_OPERATION_POINTWISE_XDESC, x);
	if (y)
		set(b, o, cudnn_ATTR_OPERATION_POINTWISE_BDESC, y);
	if (which)
		set(b, o, cudnn_ATTR_OPERATION_POINTWISE_TDESC, which);
	set(b, o, cudnn_ATTR_OPERATION_POINTWISE_YDESC, result);
	return operation(b, o, result);
}

static void *pointwise(struct builder *b, int mode, void *x, void *y, void *result)
{
	return pointwise_of(b, mode, cudnn_DATA_FLOAT, -1, x, y, NULL, result);
}

static void *reduce(struct builder *b, int operator_, void *x, void *result)
{
	void *kind = make(b, cudnn_BACKEND_REDUCTION_DESCRIPTOR);
	set_enum(b, kind, cudnn_ATTR_REDUCTION_OPERATOR, cudnn_TYPE_REDUCTION_OPERATOR_TYPE, operator_);
	set_enum(b, kind, cudnn_ATTR_REDUCTION_COMP_TYPE, cudnn_TYPE_DATA_TYPE, cudnn_DATA_FLOAT);
	finish(b, kind, "a reduction");
	void *o = make(b, cudnn_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
	set(b, o, cudnn_ATTR_OPERATION_REDUCTION_DESC, kind);
	set(b, o, cudnn_ATTR_OPERATION_REDUCTION_XDESC, x);
	set(b, o, cudnn_ATTR_OPERATION_REDUCTION_YDESC, result);
	return operation(b, o, result);
}

static void *reshape(struct builder *b, void *x, void *result)
{
	void *o = make(b, cudnn_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
	set(b, o, cudnn_ATTR_OPERATION_RESHAPE_XDESC, x);
	set(b, o, cudnn_ATTR_OPERATION_RESHAPE_YDESC, result);
	return operation(b, o, result);
}

/* ---- the graphs ---- */

static void *float_scores(struct builder *b)
{
	return scores(b, cudnn_DATA_FLOAT, false);
}

static void *some_statistic(struct builder *b)
{
	return statistic(b, b->next_id++);
}

/* Above the diagonal, -inf. */
static void *causal(struct builder *b, void *x)
{
	void *row = pointwise_of(b, cudnn_POINTWISE_GEN_INDEX, cudnn_DATA_INT32, 2, x, NULL, NULL,
		scores(b, cudnn_DATA_INT32, false));
	void *column = pointwise_of(b, cudnn_POINTWISE_GEN_INDEX, cudnn_DATA_INT32, 3, x, NULL, NULL,
		scores(b, cudnn_DATA_INT32, false));
	void *seen = pointwise_of(b, cudnn_POINTWISE_CMP_GE, cudnn_DATA_BOOLEAN, -1, row, column, NULL,
		scores(b, cudnn_DATA_BOOLEAN, false));
	return pointwise_of(b, cudnn_POINTWISE_BINARY_SELECT, cudnn_DATA_FLOAT, -1, x, scalar(b, MASKED),
		seen, float_scores(b));
}

static void forward_graph(struct builder *b)
{
	int64_t C = (int64_t)b->shape->H * b->shape->D;
	void *s = matmul(b, rows(b, Q, 3 * C, false), rows(b, K, 3 * C, true), float_scores(b));
	s = causal(b, pointwise(b, cudnn_POINTWISE_MUL, s, scalar(b, SCALE), float_scores(b)));
	void *most = reduce(b, cudnn_REDUCE_TENSOR_MAX, s, some_statistic(b));
	s = pointwise(b, cudnn_POINTWISE_SUB, s, most, float_scores(b));
	s = pointwise(b, cudnn_POINTWISE_EXP, s, NULL, float_scores(b));
	void *sum = reduce(b, cudnn_REDUCE_TENSOR_ADD, s, some_statistic(b));
	void *log = pointwise(b, cudnn_POINTWISE_LOG, sum, NULL, some_statistic(b));
	pointwise(b, cudnn_POINTWISE_ADD, most, log, statistic(b, STATS));
	s = pointwise(b, cudnn_POINTWISE_DIV, s, sum, scores(b, type_of(b), false));
	matmul(b, s, rows(b, V, 3 * C, false), rows(b, OUT, C, false));
}

static void *transposed(struct builder *b, void *x)
{
	return reshape(b, x, scores(b, type_of(b), true));
}

static void backward_graph(struct builder *b)
{
	int64_t C = (int64_t)b->shape->H * b->shape->D;
	void *q = rows(b, Q, 3 * C, false), *k = rows(b, K, 3 * C, true), *dout = rows(b, DOUT, C, false);
	void *scale = scalar(b, SCALE);
	void *delta = pointwise(
		b, cudnn_POINTWISE_MUL, dout, rows(b, OUT, C, false), rows(b, b->next_id++, C, false));
	delta = reduce(b, cudnn_REDUCE_TENSOR_ADD, delta, some_statistic(b));
	delta = pointwise(b, cudnn_POINTWISE_MUL, delta, scalar(b, ONE), statistic(b, DELTA));

	void *s = matmul(b, q, k, float_scores(b));
	s = pointwise(b, cudnn_POINTWISE_MUL, s, scale, float_scores(b));
	s = pointwise(b, cudnn_POINTWISE_SUB, s, statistic(b, STATS), float_scores(b));
	void *p = pointwise(b, cudnn_POINTWISE_EXP, causal(b, s), NULL, float_scores(b));
	matmul(b, transposed(b, p), dout, rows(b, DV, 3 * C, false));

	void *ds = matmul(b, dout, rows(b, V, 3 * C, true), float_scores(b));
	ds = pointwise(b, cudnn_POINTWISE_SUB, ds, delta, float_scores(b));
	ds = pointwise(b, cudnn_POINTWISE_MUL, ds, p, float_scores(b));
	ds = pointwise(b, cudnn_POINTWISE_MUL, ds, scale, scores(b, type_of(b), false));
	matmul(b, transposed(b, ds), q, rows(b, DK, 3 * C, false));
	void *plain_k = reshape(b, k, rows(b, b->next_id++, 3 * C, false));
	matmul(b, ds, plain_k, rows(b, DQ, 3 * C, false));
}

static void *graph_of(struct builder *b)
{
	b->shape->backward ? backward_graph(b) : forward_graph(b);
	void *g = make(b, cudnn_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
	if (b->device->handle)
		set_handle(b, g, cudnn_ATTR_OPERATIONGRAPH_HANDLE);
	set_all(b, g, cudnn_ATTR_OPERATIONGRAPH_OPS, cudnn_TYPE_BACKEND_DESCRIPTOR,
		(int64_t)b->operations.size(), b->operations.data());
	return finish(b, g, "the graph");
}

/* ---- engines ---- */

static int64_t get(struct builder *b, void *from, int attribute, int type, int64_t room, void *out)
{
	int64_t count = 0;
	if (!b->failed)
		check(b, b->call->cudnnBackendGetAttribute(from, attribute, type, room, &count, out),
			"an attribute");
	return b->failed ? 0 : std::min(count, room);
}

/* Descriptors, which cuDNN fills: how many. */
static int64_t get_all(struct builder *b, void *from, int attribute, int kind, int64_t room, void **out)
{
	for (int64_t i = 0; i < room; i++)
		out[i] = make(b, kind);
	return get(b, from, attribute, cudnn_TYPE_BACKEND_DESCRIPTOR, room, out);
}

static int64_t get_number(struct builder *b, void *from, int attribute)
{
	int64_t value = 0;
	get(b, from, attribute, cudnn_TYPE_INT64, 1, &value);
	return value;
}

static bool is_deterministic(struct builder *b, void *engine)
{
	int notes[cudnn_NUMERICAL_NOTE_TYPE_COUNT * 2]; /* later versions may know more */
	int64_t count = get(b, engine, cudnn_ATTR_ENGINE_NUMERICAL_NOTE, cudnn_TYPE_NUMERICAL_NOTE,
		cudnn_NUMERICAL_NOTE_TYPE_COUNT * 2, notes);
	return std::find(notes, notes + count, (int)cudnn_NUMERICAL_NOTE_NONDETERMINISTIC) == notes + count;
}

/* What the heuristic proposes, in its order. */
static std::vector<struct cudnn_engine> proposed(struct builder *b, void *graph)
{
	enum { MOST = 16 };
	void *found[MOST], *engine, *knobs[CUDNN_KNOBS];
	void *heuristic = make(b, cudnn_BACKEND_ENGINEHEUR_DESCRIPTOR);
	set(b, heuristic, cudnn_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
	set_enum(b, heuristic, cudnn_ATTR_ENGINEHEUR_MODE, cudnn_TYPE_HEUR_MODE, cudnn_HEUR_MODE_A);
	if (b->device->properties)
		set(b, heuristic, cudnn_ATTR_ENGINEHEUR_DEVICEPROP, b->device->properties);
	finish(b, heuristic, "the heuristic");
	std::vector<struct cudnn_engine> list;
	int64_t count = get_all(
		b, heuristic, cudnn_ATTR_ENGINEHEUR_RESULTS, cudnn_BACKEND_ENGINECFG_DESCRIPTOR, MOST, found);
	for (int64_t i = 0; i < count && !b->failed; i++) {
		struct cudnn_engine e = {};
		get_all(b, found[i], cudnn_ATTR_ENGINECFG_ENGINE, cudnn_BACKEND_ENGINE_DESCRIPTOR, 1,
			&engine);
		e.index = get_number(b, engine, cudnn_ATTR_ENGINE_GLOBAL_INDEX);
		e.knobs = (int)get_all(b, found[i], cudnn_ATTR_ENGINECFG_KNOB_CHOICES,
			cudnn_BACKEND_KNOB_CHOICE_DESCRIPTOR, CUDNN_KNOBS, knobs);
		for (int k = 0; k < e.knobs; k++) {
			get(b, knobs[k], cudnn_ATTR_KNOB_CHOICE_KNOB_TYPE, cudnn_TYPE_KNOB_TYPE, 1,
				&e.types[k]);
			e.values[k] = get_number(b, knobs[k], cudnn_ATTR_KNOB_CHOICE_KNOB_VALUE);
		}
		if (is_deterministic(b, engine) && !b->failed)
			list.push_back(e);
	}
	return list;
}

/* ---- plans ---- */

static void *plan_of(struct builder *b, void *graph, const struct cudnn_engine *e)
{
	void *engine = make(b, cudnn_BACKEND_ENGINE_DESCRIPTOR), *knobs[CUDNN_KNOBS];
	set(b, engine, cudnn_ATTR_ENGINE_OPERATION_GRAPH, graph);
	set_number(b, engine, cudnn_ATTR_ENGINE_GLOBAL_INDEX, e->index);
	if (b->device->properties)
		set(b, engine, cudnn_ATTR_ENGINE_DEVICEPROP, b->device->properties);
	finish(b, engine, "an engine");
	for (int k = 0; k < e->knobs; k++) {
		knobs[k] = make(b, cudnn_BACKEND_KNOB_CHOICE_DESCRIPTOR);
		set_enum(b, knobs[k], cudnn_ATTR_KNOB_CHOICE_KNOB_TYPE, cudnn_TYPE_KNOB_TYPE, e->types[k]);
		set_number(b, knobs[k], cudnn_ATTR_KNOB_CHOICE_KNOB_VALUE, e->values[k]);
		finish(b, knobs[k], "a knob");
	}
	void *configuration = make(b, cudnn_BACKEND_ENGINECFG_DESCRIPTOR);
	set(b, configuration, cudnn_ATTR_ENGINECFG_ENGINE, engine);
	if (e->knobs)
		set_all(b, configuration, cudnn_ATTR_ENGINECFG_KNOB_CHOICES, cudnn_TYPE_BACKEND_DESCRIPTOR,
			e->knobs, knobs);
	finish(b, configuration, "a configuration");
	void *plan = make(b, cudnn_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
	if (b->device->handle)
		set_handle(b, plan, cudnn_ATTR_EXECUTION_PLAN_HANDLE);
	else
		set(b, plan, cudnn_ATTR_EXECUTION_PLAN_DEVICEPROP, b->device->properties);
	set(b, plan, cudnn_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configuration);
	return finish(b, plan, "a plan");
}

static bool try_engine(struct builder *b, void *graph, const struct cudnn_engine *engine, int64_t most,
	struct cudnn_plan *out)
{
	b->failed = false; /* of another engine's */
	out->plan = plan_of(b, graph, engine);
	out->engine = *engine;
	out->workspace = get_number(b, out->plan, cudnn_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE);
	if (!b->failed && out->workspace > most) {
		snprintf(b->why, CUDNN_REASON, "a plan takes %lld bytes of workspace, %lld are allowed",
			(long long)out->workspace, (long long)most);
		b->failed = true;
	}
	return !b->failed;
}

bool cudnn_plan_open(const struct cudnn_functions *call, const struct cudnn_device *device,
	const struct cudnn_shape *shape, const struct cudnn_engine *engine, int64_t most,
	struct cudnn_plan *out, char why[CUDNN_REASON])
{
	*out = {};
	out->shape = *shape;
	struct builder b = {call, device, shape, &out->descriptors, {}, VIRTUAL, false, why};
	snprintf(why, CUDNN_REASON, "no engine takes the graph");
	void *graph = graph_of(&b);
	std::vector<struct cudnn_engine> engines;
	if (!b.failed)
		engines = engine ? std::vector<struct cudnn_engine>{*engine} : proposed(&b, graph);
	for (const struct cudnn_engine &e : engines)
		if (try_engine(&b, graph, &e, most, out))
			return true;
	cudnn_plan_close(call, out);
	return false;
}

void cudnn_plan_close(const struct cudnn_functions *call, struct cudnn_plan *plan)
{
	while (!plan->descriptors.empty()) {
		(void)call->cudnnBackendDestroyDescriptor(plan->descriptors.back());
		plan->descriptors.pop_back();
	}
}

/* ---- running ---- */

bool cudnn_plan_run(const struct cudnn_functions *call, struct cudnn_handle *handle,
	const struct cudnn_plan *plan, const struct cudnn_arguments *a, char why[CUDNN_REASON])
{
	float scale = 1.0f / sqrtf((float)plan->shape.D), masked = -INFINITY, one = 1;
	size_t C = (size_t)plan->shape.H * (size_t)plan->shape.D,
	       bytes = dtype_bytes((enum dtype)plan->shape.type);
	auto third = [=](const void *all, size_t i) { return (void *)((char *)all + i * C * bytes); };
	int64_t ids[] = {Q, K, V, OUT, STATS, SCALE, MASKED, DOUT, DQ, DK, DV, DELTA, ONE};
	void *pointers[] = {third(a->qkv, 0), third(a->qkv, 1), third(a->qkv, 2), a->out, a->stats, &scale,
		&masked, (void *)a->dout, third(a->dqkv, 0), third(a->dqkv, 1), third(a->dqkv, 2), a->delta,
		&one};
	enum { ALL = sizeof ids / sizeof *ids, OF_FORWARD = 7 };
	int count = plan->shape.backward ? ALL : OF_FORWARD;
	std::vector<void *> made;
	struct builder b = {call, NULL, &plan->shape, &made, {}, VIRTUAL, false, why};
	void *pack = make(&b, cudnn_BACKEND_VARIANT_PACK_DESCRIPTOR);
	set_all(&b, pack, cudnn_ATTR_VARIANT_PACK_UNIQUE_IDS, cudnn_TYPE_INT64, count, ids);
	set_all(&b, pack, cudnn_ATTR_VARIANT_PACK_DATA_POINTERS, cudnn_TYPE_VOID_PTR, count, pointers);
	set_all(&b, pack, cudnn_ATTR_VARIANT_PACK_WORKSPACE, cudnn_TYPE_VOID_PTR, 1, &a->workspace);
	finish(&b, pack, "the arguments");
	if (!b.failed)
		check(&b, call->cudnnBackendExecute(handle, plan->plan, pack), "attention");
	if (pack)
		(void)call->cudnnBackendDestroyDescriptor(pack);
	return !b.failed;
}
