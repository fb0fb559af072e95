/* Descriptors: which attributes they have, what is made of them, engines, and what is answered. */
#include "tests/emu/cudnn_descriptor.h"

#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <mutex>
#include <set>

static thread_local std::string last_error;

int cudnn_failed(enum cudnn_status status, const std::string &why)
{
	last_error = why;
	return status;
}

bool cudnn_fails(const char *what)
{
	static std::atomic<int> calls;
	const char *wanted = getenv("FERRY_EMU_CUDNN_FAIL");
	char name[16];
	int number;
	return wanted && sscanf(wanted, "%15[a-z]:%d", name, &number) == 2 && strcmp(name, what) == 0 &&
	       (++calls == number || number == 0);
}

bool cudnn_planted(const char *fault)
{
	const char *wanted = getenv("FERRY_EMU_CUDNN_FAULT");
	return wanted && strcmp(wanted, fault) == 0;
}

extern "C" void cudnnGetLastErrorString(char *out, size_t room)
{
	snprintf(out, room, "%s", last_error.c_str());
}

/* ---- those that live ---- */

static struct library {
	struct quiet_lock lock;
	std::map<const void *, std::shared_ptr<struct emu_descriptor>> descriptors;
} &library = *new struct library;

size_t descriptors_left(void)
{
	std::lock_guard<quiet_lock> guard(library.lock);
	return library.descriptors.size();
}

std::shared_ptr<struct emu_descriptor> descriptor_of(const void *pointer)
{
	std::lock_guard<quiet_lock> guard(library.lock);
	auto found = library.descriptors.find(pointer);
	if (found == library.descriptors.end())
		emu_die("cuDNN was given %p, which is no descriptor, or no longer one", pointer);
	return found->second;
}

/* ---- which attributes each has ---- */

enum rule { REQUIRED, OPTIONAL, ANSWER }; /* the last is asked for alone */
struct attribute {
	int descriptor, name, type;
	int64_t least, most; /* elements */
	enum rule rule;
};

static const int64_t any = 1 << 20;
static const struct attribute attributes[] = {
#define ONE(descriptor, name, type, rule)                                                                    \
	{                                                                                                    \
		cudnn_BACKEND_##descriptor##_DESCRIPTOR, cudnn_ATTR_##name, cudnn_TYPE_##type, 1, 1, rule    \
	}
#define SOME(descriptor, name, type, most, rule)                                                             \
	{                                                                                                    \
		cudnn_BACKEND_##descriptor##_DESCRIPTOR, cudnn_ATTR_##name, cudnn_TYPE_##type, 1, most, rule \
	}
	ONE(TENSOR, TENSOR_BYTE_ALIGNMENT, INT64, REQUIRED),
	ONE(TENSOR, TENSOR_DATA_TYPE, DATA_TYPE, REQUIRED),
	SOME(TENSOR, TENSOR_DIMENSIONS, INT64, 8, REQUIRED),
	SOME(TENSOR, TENSOR_STRIDES, INT64, 8, REQUIRED),
	ONE(TENSOR, TENSOR_UNIQUE_ID, INT64, REQUIRED),
	ONE(TENSOR, TENSOR_IS_VIRTUAL, BOOLEAN, OPTIONAL),
	ONE(TENSOR, TENSOR_IS_BY_VALUE, BOOLEAN, OPTIONAL),
	ONE(POINTWISE, POINTWISE_MODE, POINTWISE_MODE, REQUIRED),
	ONE(POINTWISE, POINTWISE_MATH_PREC, DATA_TYPE, REQUIRED),
	ONE(POINTWISE, POINTWISE_AXIS, INT64, OPTIONAL),
	ONE(OPERATION_POINTWISE, OPERATION_POINTWISE_PW_DESCRIPTOR, BACKEND_DESCRIPTOR, REQUIRED),
	ONE(OPERATION_POINTWISE, OPERATION_POINTWISE_XDESC, BACKEND_DESCRIPTOR, REQUIRED),
	ONE(OPERATION_POINTWISE, OPERATION_POINTWISE_BDESC, BACKEND_DESCRIPTOR, OPTIONAL),
	ONE(OPERATION_POINTWISE, OPERATION_POINTWISE_TDESC, BACKEND_DESCRIPTOR, OPTIONAL),
	ONE(OPERATION_POINTWISE, OPERATION_POINTWISE_YDESC, BACKEND_DESCRIPTOR, REQUIRED),
	ONE(MATMUL, MATMUL_COMP_TYPE, DATA_TYPE, REQUIRED),
	ONE(OPERATION_MATMUL, OPERATION_MATMUL_ADESC, BACKEND_DESCRIPTOR, REQUIRED),
	ONE(OPERATION_MATMUL, OPERATION_MATMUL_BDESC, BACKEND_DESCRIPTOR, REQUIRED),
	ONE(OPERATION_MATMUL, OPERATION_MATMUL_CDESC, BACKEND_DESCRIPTOR, REQUIRED),
	ONE(OPERATION_MATMUL, OPERATION_MATMUL_DESC, BACKEND_DESCRIPTOR, REQUIRED),
	ONE(REDUCTION, REDUCTION_OPERATOR, REDUCTION_OPERATOR_TYPE, REQUIRED),
	ONE(REDUCTION, REDUCTION_COMP_TYPE, DATA_TYPE, REQUIRED),
	ONE(OPERATION_REDUCTION, OPERATION_REDUCTION_XDESC, BACKEND_DESCRIPTOR, REQUIRED),
	ONE(OPERATION_REDUCTION, OPERATION_REDUCTION_YDESC, BACKEND_DESCRIPTOR, REQUIRED),
	ONE(OPERATION_REDUCTION, OPERATION_REDUCTION_DESC, BACKEND_DESCRIPTOR, REQUIRED),
	ONE(OPERATION_RESHAPE, OPERATION_RESHAPE_XDESC, BACKEND_DESCRIPTOR, REQUIRED),
	ONE(OPERATION_RESHAPE, OPERATION_RESHAPE_YDESC, BACKEND_DESCRIPTOR, REQUIRED),
	ONE(OPERATIONGRAPH, OPERATIONGRAPH_HANDLE, HANDLE, REQUIRED),
	SOME(OPERATIONGRAPH, OPERATIONGRAPH_OPS, BACKEND_DESCRIPTOR, any, REQUIRED),
	ONE(ENGINEHEUR, ENGINEHEUR_OPERATION_GRAPH, BACKEND_DESCRIPTOR, REQUIRED),
	ONE(ENGINEHEUR, ENGINEHEUR_MODE, HEUR_MODE, REQUIRED),
	SOME(ENGINEHEUR, ENGINEHEUR_RESULTS, BACKEND_DESCRIPTOR, any, ANSWER),
	ONE(ENGINE, ENGINE_OPERATION_GRAPH, BACKEND_DESCRIPTOR, REQUIRED),
	ONE(ENGINE, ENGINE_GLOBAL_INDEX, INT64, REQUIRED),
	SOME(ENGINE, ENGINE_NUMERICAL_NOTE, NUMERICAL_NOTE, any, ANSWER),
	ONE(ENGINECFG, ENGINECFG_ENGINE, BACKEND_DESCRIPTOR, REQUIRED),
	SOME(ENGINECFG, ENGINECFG_KNOB_CHOICES, BACKEND_DESCRIPTOR, any, OPTIONAL),
	ONE(KNOB_CHOICE, KNOB_CHOICE_KNOB_TYPE, KNOB_TYPE, REQUIRED),
	ONE(KNOB_CHOICE, KNOB_CHOICE_KNOB_VALUE, INT64, REQUIRED),
	ONE(EXECUTION_PLAN, EXECUTION_PLAN_HANDLE, HANDLE, REQUIRED),
	ONE(EXECUTION_PLAN, EXECUTION_PLAN_ENGINE_CONFIG, BACKEND_DESCRIPTOR, REQUIRED),
	ONE(EXECUTION_PLAN, EXECUTION_PLAN_WORKSPACE_SIZE, INT64, ANSWER),
	SOME(VARIANT_PACK, VARIANT_PACK_UNIQUE_IDS, INT64, any, REQUIRED),
	SOME(VARIANT_PACK, VARIANT_PACK_DATA_POINTERS, VOID_PTR, any, REQUIRED),
	ONE(VARIANT_PACK, VARIANT_PACK_WORKSPACE, VOID_PTR, OPTIONAL),
#undef ONE
#undef SOME
};

static size_t bytes_of_type(int type)
{
	switch (type) {
	case cudnn_TYPE_BOOLEAN:
		return 1;
	case cudnn_TYPE_INT64:
	case cudnn_TYPE_HANDLE:
	case cudnn_TYPE_VOID_PTR:
	case cudnn_TYPE_BACKEND_DESCRIPTOR:
		return 8;
	}
	return 4; /* enumerations */
}

static const struct attribute *attribute_find(int descriptor, int name)
{
	for (const struct attribute &a : attributes)
		if (a.descriptor == descriptor && a.name == name)
			return &a;
	return NULL;
}

static std::string called(const struct emu_descriptor &d, int name)
{
	return "descriptor of type " + std::to_string(d.type) + ", attribute " + std::to_string(name);
}

static struct emu_attribute value_of(const struct attribute &a, int64_t count, const void *elements)
{
	struct emu_attribute v;
	v.count = count;
	if (a.type == cudnn_TYPE_BACKEND_DESCRIPTOR) {
		for (int64_t i = 0; i < count; i++)
			v.parts.push_back(descriptor_of(((void *const *)elements)[i]));
		return v;
	}
	const char *from = (const char *)elements;
	v.bytes.assign(from, from + (size_t)count * bytes_of_type(a.type));
	return v;
}

extern "C" int cudnnBackendSetAttribute(
	void *pointer, int name, int type, int64_t count, const void *elements)
{
	auto d = descriptor_of(pointer);
	const struct attribute *a = attribute_find(d->type, name);
	if (d->final || !a || a->rule == ANSWER || !elements || count < a->least || count > a->most)
		return cudnn_failed(bad_parameter,
			called(*d, name) +
				(d->final ? ": set after its end" : ": is none, or not of so many"));
	if (type != a->type)
		return cudnn_failed(bad_attribute_type, called(*d, name) + ": of another type");
	struct emu_attribute v = value_of(*a, count, elements);
	for (const auto &part : v.parts)
		if (!part->final)
			return cudnn_failed(bad_not_finalized, called(*d, name) + ": is not finalized");
	d->values[name] = v;
	return success;
}

/* ---- what is made of the attributes at the end ---- */

static int tensor_end(struct emu_descriptor *d)
{
	struct emu_tensor &t = d->tensor;
	const struct emu_attribute &dims = d->values.at(cudnn_ATTR_TENSOR_DIMENSIONS),
				   &strides = d->values.at(cudnn_ATTR_TENSOR_STRIDES);
	t.uid = d->number<int64_t>(cudnn_ATTR_TENSOR_UNIQUE_ID);
	t.alignment = d->number<int64_t>(cudnn_ATTR_TENSOR_BYTE_ALIGNMENT);
	t.type = d->number<int>(cudnn_ATTR_TENSOR_DATA_TYPE);
	t.is_virtual = d->number<char>(cudnn_ATTR_TENSOR_IS_VIRTUAL);
	t.by_value = d->number<char>(cudnn_ATTR_TENSOR_IS_BY_VALUE);
	t.dims.clear();
	t.strides.clear();
	bool good = dims.count == strides.count && emu_type_bytes(t.type) && t.alignment > 0 &&
		    (t.alignment & (t.alignment - 1)) == 0 &&
		    t.alignment % (int64_t)emu_type_bytes(t.type) == 0 && !(t.is_virtual && t.by_value);
	for (int64_t i = 0; i < dims.count && good; i++) {
		t.dims.push_back(d->number<int64_t>(cudnn_ATTR_TENSOR_DIMENSIONS, 0, (size_t)i));
		t.strides.push_back(d->number<int64_t>(cudnn_ATTR_TENSOR_STRIDES, 0, (size_t)i));
		good = t.dims.back() > 0 && t.strides.back() > 0;
	}
	return good && (!t.by_value || t.elements() == 1)
		       ? success
		       : cudnn_failed(bad_parameter, "tensor " + std::to_string(t.uid) + " is none");
}

/* The graph's number of the tensor that an operation names; true too where it names none and need not. */
static bool operand(
	struct emu_graph *g, const struct emu_descriptor &operation, int name, int *out, std::string *why)
{
	if (!operation.has(name))
		return true;
	*out = g->add(operation.part(name).tensor, why);
	return *out != EMU_ABSENT;
}

static bool node_of(struct emu_graph *g, const struct emu_descriptor &o, struct emu_node *n, std::string *why)
{
	switch (o.type) {
	case cudnn_BACKEND_OPERATION_MATMUL_DESCRIPTOR:
		n->what = EMU_MATMUL;
		return operand(g, o, cudnn_ATTR_OPERATION_MATMUL_ADESC, &n->x, why) &&
		       operand(g, o, cudnn_ATTR_OPERATION_MATMUL_BDESC, &n->b, why) &&
		       operand(g, o, cudnn_ATTR_OPERATION_MATMUL_CDESC, &n->y, why);
	case cudnn_BACKEND_OPERATION_REDUCTION_DESCRIPTOR:
		n->what = EMU_REDUCTION;
		n->mode = o.part(cudnn_ATTR_OPERATION_REDUCTION_DESC)
				  .number<int>(cudnn_ATTR_REDUCTION_OPERATOR);
		return operand(g, o, cudnn_ATTR_OPERATION_REDUCTION_XDESC, &n->x, why) &&
		       operand(g, o, cudnn_ATTR_OPERATION_REDUCTION_YDESC, &n->y, why);
	case cudnn_BACKEND_OPERATION_RESHAPE_DESCRIPTOR:
		n->what = EMU_RESHAPE;
		return operand(g, o, cudnn_ATTR_OPERATION_RESHAPE_XDESC, &n->x, why) &&
		       operand(g, o, cudnn_ATTR_OPERATION_RESHAPE_YDESC, &n->y, why);
	case cudnn_BACKEND_OPERATION_POINTWISE_DESCRIPTOR: {
		const struct emu_descriptor &how = o.part(cudnn_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR);
		n->what = EMU_POINTWISE;
		n->mode = how.number<int>(cudnn_ATTR_POINTWISE_MODE);
		n->axis = how.number<int64_t>(cudnn_ATTR_POINTWISE_AXIS, EMU_ABSENT);
		return operand(g, o, cudnn_ATTR_OPERATION_POINTWISE_XDESC, &n->x, why) &&
		       operand(g, o, cudnn_ATTR_OPERATION_POINTWISE_BDESC, &n->b, why) &&
		       operand(g, o, cudnn_ATTR_OPERATION_POINTWISE_TDESC, &n->t, why) &&
		       operand(g, o, cudnn_ATTR_OPERATION_POINTWISE_YDESC, &n->y, why);
	}
	}
	*why = "what is given for an operation is none";
	return false;
}

/* A graph as it were if it had been written with a fault. */
static void plant(struct emu_graph *g)
{
	for (struct emu_node &n : g->nodes) {
		bool scale = n.mode == cudnn_POINTWISE_MUL && n.b != EMU_ABSENT &&
			     g->tensors[(size_t)n.b].by_value && cudnn_planted("scale");
		bool mask = n.mode == cudnn_POINTWISE_BINARY_SELECT && cudnn_planted("mask");
		if (n.what == EMU_POINTWISE && (scale || mask)) {
			n.mode = EMU_IDENTITY;
			n.b = n.t = EMU_ABSENT;
		}
	}
	for (struct emu_tensor &t :
		g->tensors) /* rows of a transposed operand: of q alone, as if k and v were elsewhere */
		if (!t.is_virtual && t.strides.back() % 3 == 0 && cudnn_planted("stride"))
			t.strides.back() /= 3;
}

static int graph_end(struct emu_descriptor *d)
{
	auto graph = std::make_shared<struct emu_graph>();
	std::string why;
	if (cudnn_fails("graph"))
		return cudnn_failed(internal_error, "a graph fails, as it was told to");
	for (const auto &o : d->values.at(cudnn_ATTR_OPERATIONGRAPH_OPS).parts) {
		struct emu_node n = {};
		if (!node_of(graph.get(), *o, &n, &why))
			return cudnn_failed(bad_parameter, why);
		graph->nodes.push_back(n);
	}
	if (!graph->complete(&why))
		return cudnn_failed(bad_parameter, why);
	plant(graph.get());
	d->graph = graph;
	return success;
}

/* ---- engines ---- */

enum { ENGINES = 3, KNOB = 40, KNOB_VALUES = 2 };
/* By engine and knob: parts, and their bits. */
static const struct emu_sums sums_of[ENGINES][KNOB_VALUES] = {
	{{16, 17, false}, {3, 24, false}}, {{8, 24, true}, {8, 24, true}}, {{5, 16, false}, {64, 15, false}}};

static const struct emu_graph &graph_of_engine(const struct emu_descriptor &engine)
{
	return *engine.part(cudnn_ATTR_ENGINE_OPERATION_GRAPH).graph;
}

static bool engine_takes(const struct emu_graph &graph, int64_t engine)
{
	return engine >= 0 && engine < ENGINES && engine != emu_setting("FERRY_EMU_CUDNN_LACKS", -1) &&
	       graph.attention_takes();
}

static int engine_end(struct emu_descriptor *d)
{
	return engine_takes(graph_of_engine(*d), d->number<int64_t>(cudnn_ATTR_ENGINE_GLOBAL_INDEX))
		       ? success
		       : cudnn_failed(not_supported, "no such engine takes this graph");
}

static int64_t knob_of(const struct emu_descriptor &configuration)
{
	if (!configuration.has(cudnn_ATTR_ENGINECFG_KNOB_CHOICES))
		return 0;
	return configuration.part(cudnn_ATTR_ENGINECFG_KNOB_CHOICES)
		.number<int64_t>(cudnn_ATTR_KNOB_CHOICE_KNOB_VALUE);
}

static int configuration_end(struct emu_descriptor *d)
{
	if (!d->has(cudnn_ATTR_ENGINECFG_KNOB_CHOICES))
		return success;
	const struct emu_attribute &choices = d->values.at(cudnn_ATTR_ENGINECFG_KNOB_CHOICES);
	int64_t value = knob_of(*d);
	bool good = choices.count == 1 && value >= 0 && value < KNOB_VALUES &&
		    choices.parts[0]->number<int>(cudnn_ATTR_KNOB_CHOICE_KNOB_TYPE) == KNOB;
	return good ? success
		    : cudnn_failed(not_supported, "the engine has no such knob, or not this value of it");
}

static int heuristic_end(struct emu_descriptor *)
{
	return cudnn_fails("heuristic") ? cudnn_failed(not_supported, "a heuristic fails, as it was told to")
					: success;
}

static int plan_end(struct emu_descriptor *)
{
	return cudnn_fails("plan") ? cudnn_failed(not_supported, "a plan fails, as it was told to") : success;
}

static int pack_end(struct emu_descriptor *d)
{
	const struct emu_attribute &ids = d->values.at(cudnn_ATTR_VARIANT_PACK_UNIQUE_IDS);
	std::set<int64_t> different;
	for (int64_t i = 0; i < ids.count; i++)
		different.insert(d->number<int64_t>(cudnn_ATTR_VARIANT_PACK_UNIQUE_IDS, 0, (size_t)i));
	return (int64_t)different.size() == ids.count &&
			       ids.count == d->values.at(cudnn_ATTR_VARIANT_PACK_DATA_POINTERS).count
		       ? success
		       : cudnn_failed(bad_parameter, "a pack's numbers and pointers do not match");
}

extern "C" int cudnnBackendFinalize(void *pointer)
{
	auto d = descriptor_of(pointer);
	if (d->final)
		return cudnn_failed(bad_parameter, "a descriptor is finalized twice");
	for (const struct attribute &a : attributes)
		if (a.descriptor == d->type && a.rule == REQUIRED && !d->has(a.name))
			return cudnn_failed(bad_parameter, called(*d, a.name) + ": is missing");
	int result = success;
	switch (d->type) {
	case cudnn_BACKEND_TENSOR_DESCRIPTOR:
		result = tensor_end(d.get());
		break;
	case cudnn_BACKEND_OPERATIONGRAPH_DESCRIPTOR:
		result = graph_end(d.get());
		break;
	case cudnn_BACKEND_ENGINE_DESCRIPTOR:
		result = engine_end(d.get());
		break;
	case cudnn_BACKEND_ENGINECFG_DESCRIPTOR:
		result = configuration_end(d.get());
		break;
	case cudnn_BACKEND_ENGINEHEUR_DESCRIPTOR:
		result = heuristic_end(d.get());
		break;
	case cudnn_BACKEND_EXECUTION_PLAN_DESCRIPTOR:
		result = plan_end(d.get());
		break;
	case cudnn_BACKEND_VARIANT_PACK_DESCRIPTOR:
		result = pack_end(d.get());
		break;
	}
	d->final = result == success;
	return result;
}

struct emu_engine engine_of(const struct emu_descriptor &configuration)
{
	const struct emu_descriptor &engine = configuration.part(cudnn_ATTR_ENGINECFG_ENGINE);
	return {engine.part(cudnn_ATTR_ENGINE_OPERATION_GRAPH).graph,
		sums_of[engine.number<int64_t>(cudnn_ATTR_ENGINE_GLOBAL_INDEX)][knob_of(configuration)]};
}

/* Its bits are not the same every time. */
static bool is_random(const struct emu_descriptor &engine)
{
	for (const struct emu_node &n : graph_of_engine(engine).nodes)
		if (n.accumulates)
			return true;
	return sums_of[engine.number<int64_t>(cudnn_ATTR_ENGINE_GLOBAL_INDEX)][0].random;
}

/* ---- asking ---- */

template <typename T> static void set_number(struct emu_descriptor *d, int name, T value)
{
	const char *bytes = (const char *)&value;
	d->values[name].count = 1;
	d->values[name].bytes.assign(bytes, bytes + sizeof value);
}

static std::shared_ptr<struct emu_descriptor> finished(int type)
{
	auto d = std::make_shared<struct emu_descriptor>();
	d->type = type;
	d->final = true;
	return d;
}

static std::shared_ptr<const struct emu_descriptor> configuration(
	std::shared_ptr<const struct emu_descriptor> graph, int64_t index, int64_t value)
{
	auto engine = finished(cudnn_BACKEND_ENGINE_DESCRIPTOR);
	engine->values[cudnn_ATTR_ENGINE_OPERATION_GRAPH].count = 1;
	engine->values[cudnn_ATTR_ENGINE_OPERATION_GRAPH].parts.push_back(graph);
	set_number(engine.get(), cudnn_ATTR_ENGINE_GLOBAL_INDEX, index);
	auto knob = finished(cudnn_BACKEND_KNOB_CHOICE_DESCRIPTOR);
	set_number(knob.get(), cudnn_ATTR_KNOB_CHOICE_KNOB_TYPE, (int)KNOB);
	set_number(knob.get(), cudnn_ATTR_KNOB_CHOICE_KNOB_VALUE, value);
	auto out = finished(cudnn_BACKEND_ENGINECFG_DESCRIPTOR);
	out->values[cudnn_ATTR_ENGINECFG_ENGINE].count = 1;
	out->values[cudnn_ATTR_ENGINECFG_ENGINE].parts.push_back(engine);
	out->values[cudnn_ATTR_ENGINECFG_KNOB_CHOICES].count = 1;
	out->values[cudnn_ATTR_ENGINECFG_KNOB_CHOICES].parts.push_back(knob);
	return out;
}

/* What is asked for and was not set. */
static struct emu_attribute answer(const struct emu_descriptor &d, int name)
{
	struct emu_attribute v;
	if (name == cudnn_ATTR_ENGINEHEUR_RESULTS) {
		auto graph = d.values.at(cudnn_ATTR_ENGINEHEUR_OPERATION_GRAPH).parts[0];
		int64_t first = emu_setting("FERRY_EMU_CUDNN_FIRST", 0);
		for (int64_t i = 0; i < ENGINES; i++)
			if (engine_takes(*graph->graph, (first + i) % ENGINES))
				v.parts.push_back(configuration(graph, (first + i) % ENGINES, 1));
		v.count = (int64_t)v.parts.size();
	} else if (name == cudnn_ATTR_ENGINE_NUMERICAL_NOTE) {
		int notes[] = {0, cudnn_NUMERICAL_NOTE_NONDETERMINISTIC}; /* the first: tensor cores */
		v.count = is_random(d) ? 2 : 1;
		v.bytes.assign((char *)notes, (char *)(notes + v.count));
	} else if (name == cudnn_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE) {
		int64_t bytes = engine_of(d.part(cudnn_ATTR_EXECUTION_PLAN_ENGINE_CONFIG)).graph->workspace;
		v.count = 1;
		v.bytes.assign((char *)&bytes, (char *)(&bytes + 1));
	}
	return v;
}

/* Descriptors are given into others that the caller has made, of the same type. */
static int give_parts(const struct emu_attribute &v, int64_t wanted, void *const *to)
{
	for (int64_t i = 0; i < wanted && i < v.count; i++) {
		auto d = descriptor_of(to[i]);
		if (d->type != v.parts[(size_t)i]->type || d->final)
			return cudnn_failed(
				bad_descriptor_type, "the answer is of another type, or has no place");
		*d = *v.parts[(size_t)i];
	}
	return success;
}

extern "C" int cudnnBackendGetAttribute(
	void *pointer, int name, int type, int64_t wanted, int64_t *count, void *elements)
{
	auto d = descriptor_of(pointer);
	const struct attribute *a = attribute_find(d->type, name);
	if (!d->final)
		return cudnn_failed(not_initialized, called(*d, name) + ": asked for before its end");
	if (!a || wanted < 0)
		return cudnn_failed(bad_parameter, called(*d, name) + ": is none");
	if (type != a->type)
		return cudnn_failed(bad_attribute_type, called(*d, name) + ": of another type");
	struct emu_attribute v = a->rule == ANSWER || !d->has(name) ? answer(*d, name) : d->values.at(name);
	if (count)
		*count = v.count;
	if (wanted == 0 || !elements)
		return success;
	if (type == cudnn_TYPE_BACKEND_DESCRIPTOR)
		return give_parts(v, wanted, (void *const *)elements);
	memcpy(elements, v.bytes.data(), (size_t)std::min(wanted, v.count) * bytes_of_type(type));
	return success;
}

extern "C" int cudnnBackendCreateDescriptor(int type, void **out)
{
	bool known = false;
	for (const struct attribute &a : attributes)
		known = known || a.descriptor == type;
	if (!known)
		return cudnn_failed(not_supported, "no descriptor of type " + std::to_string(type));
	std::lock_guard<quiet_lock> guard(library.lock);
	auto d = std::make_shared<struct emu_descriptor>();
	d->type = type;
	*out = d.get();
	library.descriptors[d.get()] = d;
	return success;
}

extern "C" int cudnnBackendDestroyDescriptor(void *pointer)
{
	if (!pointer)
		return success;
	(void)descriptor_of(pointer);
	std::lock_guard<quiet_lock> guard(library.lock);
	library.descriptors.erase(pointer);
	return success;
}
