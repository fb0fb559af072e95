/*
 * cudnn_rules.cu: whether the stand-in for cuDNN (tests/emu/cudnn.cc) refuses what it must and means by a graph what is
 * documented; planted.sh runs it.
 *
 *    cudnn_rules           all of it, against the stand-in: a TAP line each
 *    cudnn_rules LIBRARY   what descriptors may be, against that libcudnn.so.9 (no GPU is needed): all that the stand-in takes
 *                          it takes; what it takes and the stand-in does not is told as a comment
 *    cudnn_rules - FAULT   a use that the stand-in must find
 */
#include "kernels/cuda/cudnn.cuh"
#include "kernels/cuda/machine.cuh"

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <string>
#include <vector>

#define DECLARE(result, name, ...) extern "C" result name(__VA_ARGS__);
CUDNN_FUNCTIONS(DECLARE)

static struct cudnn_functions call;
static bool stand_in;
static int failures;

static void line(bool good, const char *name)
{
	printf("%sok - %s\n", good ? "" : "not ", name);
	failures += !good;
}
static void taken(int status, const char *name)
{
	line(status == cudnn_STATUS_SUCCESS, name);
}
static void refused(int status, const char *name)
{
	if (status == cudnn_STATUS_SUCCESS && !stand_in)
		printf("# taken by the real one: %s\n", name);
	else
		line(status != cudnn_STATUS_SUCCESS, name);
}
/* ... for that reason. */
static void refused_for(int status, const char *why, const char *name)
{
	char text[300] = "";
	call.cudnnGetLastErrorString(text, sizeof text);
	line(status != cudnn_STATUS_SUCCESS && strstr(text, why), name);
}
static void must(bool good, const char *what)
{
	if (good)
		return;
	printf("not ok - %s\n", what);
	exit(1);
}

/* ---- descriptors ---- */

static std::vector<void *> made;

static void *make(int type)
{
	void *d = NULL;
	must(call.cudnnBackendCreateDescriptor(type, &d) == cudnn_STATUS_SUCCESS, "a descriptor");
	made.push_back(d);
	return d;
}
static void destroy_all(void)
{
	for (void *d : made)
		(void)call.cudnnBackendDestroyDescriptor(d);
	made.clear();
}
static int set(void *d, int name, int type, int64_t count, const void *elements)
{
	return call.cudnnBackendSetAttribute(d, name, type, count, elements);
}
static int set_int(void *d, int name, int type, int value)
{
	return set(d, name, type, 1, &value);
}
static int set_long(void *d, int name, int64_t value)
{
	return set(d, name, cudnn_TYPE_INT64, 1, &value);
}
static int set_part(void *d, int name, void *part)
{
	return set(d, name, cudnn_TYPE_BACKEND_DESCRIPTOR, 1, &part);
}
static int end(void *d)
{
	return call.cudnnBackendFinalize(d);
}

enum { VIRTUAL = 1, BY_VALUE = 2 };
typedef std::vector<int64_t> list;

/* All of a tensor but the attribute `without`. */
static void *tensor_without(
	int without, int64_t uid, int type, const list &dims, const list &strides, int flags)
{
	void *t = make(cudnn_BACKEND_TENSOR_DESCRIPTOR);
	bool is_virtual = flags & VIRTUAL, by_value = flags & BY_VALUE;
	if (without != cudnn_ATTR_TENSOR_BYTE_ALIGNMENT)
		set_long(t, cudnn_ATTR_TENSOR_BYTE_ALIGNMENT, 16);
	if (without != cudnn_ATTR_TENSOR_DATA_TYPE)
		set_int(t, cudnn_ATTR_TENSOR_DATA_TYPE, cudnn_TYPE_DATA_TYPE, type);
	if (without != cudnn_ATTR_TENSOR_DIMENSIONS)
		set(t, cudnn_ATTR_TENSOR_DIMENSIONS, cudnn_TYPE_INT64, (int64_t)dims.size(), dims.data());
	if (without != cudnn_ATTR_TENSOR_STRIDES)
		set(t, cudnn_ATTR_TENSOR_STRIDES, cudnn_TYPE_INT64, (int64_t)strides.size(), strides.data());
	if (without != cudnn_ATTR_TENSOR_UNIQUE_ID)
		set_long(t, cudnn_ATTR_TENSOR_UNIQUE_ID, uid);
	if (is_virtual)
		set(t, cudnn_ATTR_TENSOR_IS_VIRTUAL, cudnn_TYPE_BOOLEAN, 1, &is_virtual);
	if (by_value)
		set(t, cudnn_ATTR_TENSOR_IS_BY_VALUE, cudnn_TYPE_BOOLEAN, 1, &by_value);
	return t;
}
static void *tensor(int64_t uid, int type, const list &dims, const list &strides, int flags = 0)
{
	void *t = tensor_without(-1, uid, type, dims, strides, flags);
	must(end(t) == cudnn_STATUS_SUCCESS, "a tensor");
	return t;
}
/* Dense. */
static void *dense(int64_t uid, int type, const list &dims, int flags = 0)
{
	list strides(dims.size());
	int64_t stride = 1;
	for (size_t i = dims.size(); i-- > 0; stride *= dims[i])
		strides[i] = stride;
	return tensor(uid, type, dims, strides, flags);
}

/* ---- what a descriptor may be ---- */

static void test_tensors(void)
{
	const list dims = {1, 2, 4, 8}, strides = {64, 32, 8, 1};
	static const int wanted[] = {cudnn_ATTR_TENSOR_BYTE_ALIGNMENT, cudnn_ATTR_TENSOR_DATA_TYPE,
		cudnn_ATTR_TENSOR_DIMENSIONS, cudnn_ATTR_TENSOR_STRIDES, cudnn_ATTR_TENSOR_UNIQUE_ID};
	taken(end(tensor_without(-1, 1, cudnn_DATA_HALF, dims, strides, 0)), "a tensor");
	for (int without : wanted)
		refused(end(tensor_without(without, 1, cudnn_DATA_HALF, dims, strides, 0)),
			("a tensor without attribute " + std::to_string(without)).c_str());
	refused(end(tensor_without(-1, 1, cudnn_DATA_HALF, dims, {32, 8, 1}, 0)),
		"four dimensions and three strides");
	refused(end(tensor_without(-1, 1, cudnn_DATA_FLOAT, {1, 1, 1, 1}, {1, 1, 1, 1}, VIRTUAL | BY_VALUE)),
		"a tensor that is virtual and by value");
	void *t = tensor_without(-1, 1, cudnn_DATA_HALF, dims, strides, 0);
	int64_t number = 0, count = 0;
	refused(call.cudnnBackendGetAttribute(
			t, cudnn_ATTR_TENSOR_UNIQUE_ID, cudnn_TYPE_INT64, 1, &count, &number),
		"an attribute asked for before the end");
	refused(set_long(t, cudnn_ATTR_TENSOR_DATA_TYPE, 2), "an attribute of another type");
	list two = {1, 2};
	refused(set(t, cudnn_ATTR_TENSOR_UNIQUE_ID, cudnn_TYPE_INT64, 2, two.data()), "two elements for one");
	refused(set(t, cudnn_ATTR_TENSOR_UNIQUE_ID, cudnn_TYPE_INT64, 1, NULL), "no elements");
	refused(set_int(t, cudnn_ATTR_MATMUL_COMP_TYPE, cudnn_TYPE_DATA_TYPE, cudnn_DATA_FLOAT),
		"an attribute of another descriptor");
	refused(set_long(t, 99999, 1), "an attribute that there is not");
	taken(end(t), "the tensor's end");
	refused(end(t), "a second end");
	refused(set_long(t, cudnn_ATTR_TENSOR_UNIQUE_ID, 2), "an attribute set after the end");
	taken(call.cudnnBackendGetAttribute(
		      t, cudnn_ATTR_TENSOR_UNIQUE_ID, cudnn_TYPE_INT64, 1, &count, &number),
		"an attribute asked for after the end");
	line(count == 1 && number == 1, "... which is what was set");
	refused(call.cudnnBackendGetAttribute(
			t, cudnn_ATTR_TENSOR_UNIQUE_ID, cudnn_TYPE_BOOLEAN, 1, &count, &number),
		"... and asked for as another type");
	destroy_all();
}

static void test_operations(void)
{
	void *product = make(cudnn_BACKEND_MATMUL_DESCRIPTOR);
	taken(set_int(product, cudnn_ATTR_MATMUL_COMP_TYPE, cudnn_TYPE_DATA_TYPE, cudnn_DATA_FLOAT),
		"a product's type");
	taken(end(product), "a product");
	static const int wanted[] = {cudnn_ATTR_OPERATION_MATMUL_ADESC, cudnn_ATTR_OPERATION_MATMUL_BDESC,
		cudnn_ATTR_OPERATION_MATMUL_CDESC, cudnn_ATTR_OPERATION_MATMUL_DESC, -1};
	void *parts[] = {dense(1, cudnn_DATA_HALF, {1, 1, 4, 8}), dense(2, cudnn_DATA_HALF, {1, 1, 8, 4}),
		dense(3, cudnn_DATA_HALF, {1, 1, 4, 4}), product};
	for (int without : wanted) {
		void *o = make(cudnn_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
		for (int i = 0; i < 4; i++)
			if (wanted[i] != without)
				must(set_part(o, wanted[i], parts[i]) == cudnn_STATUS_SUCCESS,
					"a part of an operation");
		if (without == -1)
			taken(end(o), "the product of two tensors");
		else
			refused(end(o), ("the product without attribute " + std::to_string(without)).c_str());
	}
	refused(end(make(cudnn_BACKEND_REDUCTION_DESCRIPTOR)), "a reduction without its operator");
	refused(end(make(cudnn_BACKEND_POINTWISE_DESCRIPTOR)), "an elementwise operation without its mode");
	refused(end(make(cudnn_BACKEND_OPERATIONGRAPH_DESCRIPTOR)), "a graph of nothing");
	destroy_all();
}

static int pack_of(const list &ids, const std::vector<void *> &pointers)
{
	void *p = make(cudnn_BACKEND_VARIANT_PACK_DESCRIPTOR);
	if (!ids.empty())
		set(p, cudnn_ATTR_VARIANT_PACK_UNIQUE_IDS, cudnn_TYPE_INT64, (int64_t)ids.size(), ids.data());
	if (!pointers.empty())
		set(p, cudnn_ATTR_VARIANT_PACK_DATA_POINTERS, cudnn_TYPE_VOID_PTR, (int64_t)pointers.size(),
			pointers.data());
	return end(p);
}

static void test_packs(void)
{
	void *somewhere = (void *)0x1000, *elsewhere = (void *)0x2000;
	refused(pack_of({}, {}), "an empty pack");
	refused(pack_of({1}, {}), "a pack without pointers");
	refused(pack_of({1}, {somewhere, elsewhere}), "a number and two pointers");
	refused(pack_of({1, 1}, {somewhere, elsewhere}), "a number twice");
	destroy_all();
}

/* ---- graphs that run ---- */

static struct cudnn_handle *handle;

struct graph {
	std::vector<void *> operations;
	void *plan = NULL;
	int64_t workspace = 0;

	void pointwise(
		int mode, void *x, void *b, void *t, void *y, int64_t axis = -1, int type = cudnn_DATA_FLOAT)
	{
		void *how = make(cudnn_BACKEND_POINTWISE_DESCRIPTOR),
		     *o = make(cudnn_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
		set_int(how, cudnn_ATTR_POINTWISE_MODE, cudnn_TYPE_POINTWISE_MODE, mode);
		set_int(how, cudnn_ATTR_POINTWISE_MATH_PREC, cudnn_TYPE_DATA_TYPE, type);
		if (axis >= 0)
			set_long(how, cudnn_ATTR_POINTWISE_AXIS, axis);
		must(end(how) == cudnn_STATUS_SUCCESS, "an elementwise operation");
		set_part(o, cudnn_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
		set_part(o, cudnn_ATTR_OPERATION_POINTWISE_XDESC, x);
		if (b)
			set_part(o, cudnn_ATTR_OPERATION_POINTWISE_BDESC, b);
		if (t)
			set_part(o, cudnn_ATTR_OPERATION_POINTWISE_TDESC, t);
		set_part(o, cudnn_ATTR_OPERATION_POINTWISE_YDESC, y);
		ends(o);
	}
	void matmul(void *a, void *b, void *c)
	{
		void *how = make(cudnn_BACKEND_MATMUL_DESCRIPTOR),
		     *o = make(cudnn_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
		set_int(how, cudnn_ATTR_MATMUL_COMP_TYPE, cudnn_TYPE_DATA_TYPE, cudnn_DATA_FLOAT);
		must(end(how) == cudnn_STATUS_SUCCESS, "a product");
		set_part(o, cudnn_ATTR_OPERATION_MATMUL_DESC, how);
		set_part(o, cudnn_ATTR_OPERATION_MATMUL_ADESC, a);
		set_part(o, cudnn_ATTR_OPERATION_MATMUL_BDESC, b);
		set_part(o, cudnn_ATTR_OPERATION_MATMUL_CDESC, c);
		ends(o);
	}
	void reduce(int mode, void *x, void *y)
	{
		void *how = make(cudnn_BACKEND_REDUCTION_DESCRIPTOR),
		     *o = make(cudnn_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
		set_int(how, cudnn_ATTR_REDUCTION_OPERATOR, cudnn_TYPE_REDUCTION_OPERATOR_TYPE, mode);
		set_int(how, cudnn_ATTR_REDUCTION_COMP_TYPE, cudnn_TYPE_DATA_TYPE, cudnn_DATA_FLOAT);
		must(end(how) == cudnn_STATUS_SUCCESS, "a reduction");
		set_part(o, cudnn_ATTR_OPERATION_REDUCTION_DESC, how);
		set_part(o, cudnn_ATTR_OPERATION_REDUCTION_XDESC, x);
		set_part(o, cudnn_ATTR_OPERATION_REDUCTION_YDESC, y);
		ends(o);
	}
	void reshape(void *x, void *y)
	{
		void *o = make(cudnn_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
		set_part(o, cudnn_ATTR_OPERATION_RESHAPE_XDESC, x);
		set_part(o, cudnn_ATTR_OPERATION_RESHAPE_YDESC, y);
		ends(o);
	}
	void ends(void *operation)
	{
		must(end(operation) == cudnn_STATUS_SUCCESS, "an operation");
		operations.push_back(operation);
	}
	/* A status. */
	int build(int64_t engine = 0)
	{
		void *g = make(cudnn_BACKEND_OPERATIONGRAPH_DESCRIPTOR),
		     *e = make(cudnn_BACKEND_ENGINE_DESCRIPTOR),
		     *c = make(cudnn_BACKEND_ENGINECFG_DESCRIPTOR);
		set(g, cudnn_ATTR_OPERATIONGRAPH_HANDLE, cudnn_TYPE_HANDLE, 1, &handle);
		set(g, cudnn_ATTR_OPERATIONGRAPH_OPS, cudnn_TYPE_BACKEND_DESCRIPTOR,
			(int64_t)operations.size(), operations.data());
		int status = end(g);
		if (status != cudnn_STATUS_SUCCESS)
			return status;
		set_part(e, cudnn_ATTR_ENGINE_OPERATION_GRAPH, g);
		set_long(e, cudnn_ATTR_ENGINE_GLOBAL_INDEX, engine);
		status = end(e);
		if (status != cudnn_STATUS_SUCCESS)
			return status;
		set_part(c, cudnn_ATTR_ENGINECFG_ENGINE, e);
		must(end(c) == cudnn_STATUS_SUCCESS, "a configuration");
		plan = make(cudnn_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
		set(plan, cudnn_ATTR_EXECUTION_PLAN_HANDLE, cudnn_TYPE_HANDLE, 1, &handle);
		set_part(plan, cudnn_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, c);
		must(end(plan) == cudnn_STATUS_SUCCESS, "a plan");
		int64_t count;
		return call.cudnnBackendGetAttribute(plan, cudnn_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
			cudnn_TYPE_INT64, 1, &count, &workspace);
	}
	int run(const list &ids, const std::vector<void *> &pointers, void *work)
	{
		void *p = make(cudnn_BACKEND_VARIANT_PACK_DESCRIPTOR);
		set(p, cudnn_ATTR_VARIANT_PACK_UNIQUE_IDS, cudnn_TYPE_INT64, (int64_t)ids.size(), ids.data());
		set(p, cudnn_ATTR_VARIANT_PACK_DATA_POINTERS, cudnn_TYPE_VOID_PTR, (int64_t)pointers.size(),
			pointers.data());
		if (work)
			set(p, cudnn_ATTR_VARIANT_PACK_WORKSPACE, cudnn_TYPE_VOID_PTR, 1, &work);
		must(end(p) == cudnn_STATUS_SUCCESS, "a pack");
		return call.cudnnBackendExecute(handle, plan, p);
	}
};

/* Every kind of operation once. Of a[T][D] and b[T][D], rows apart by more than D:
 *    s = a b^T * factor, but what lies above the diagonal is `low`; m = the rows' largest, n = the rows' sums of exp(s - m);
 *    out = (s seen transposed) b; e = log(n) + m */
enum { T = 5, D = 8, ROW = 24, A = 1, B = 2, OUT = 3, E = 4, FACTOR = 5, LOW = 6 };

static struct graph everything(void)
{
	struct graph g;
	const list rows = {1, 1, T, D}, apart = {T * ROW, T * ROW, ROW, 1}, square = {1, 1, T, T},
		   column = {1, 1, T, 1};
	const list turned = {1, 1, D, T}, turned_apart = {T * ROW, T * ROW, 1, ROW}, one = {1, 1, 1, 1};
	int F = cudnn_DATA_FLOAT, H = cudnn_DATA_HALF, number = 100;
	void *a = tensor(A, H, rows, apart), *b = tensor(B, H, turned, turned_apart);
	void *s = dense(number++, F, square, VIRTUAL), *scaled = dense(number++, F, square, VIRTUAL);
	void *row = dense(number++, cudnn_DATA_INT32, square, VIRTUAL),
	     *place = dense(number++, cudnn_DATA_INT32, square, VIRTUAL);
	void *seen = dense(number++, cudnn_DATA_BOOLEAN, square, VIRTUAL),
	     *masked = dense(number++, F, square, VIRTUAL), *most = dense(number++, F, column, VIRTUAL);
	void *below = dense(number++, F, square, VIRTUAL), *exps = dense(number++, F, square, VIRTUAL);
	void *sums = dense(number++, F, column, VIRTUAL), *logs = dense(number++, F, column, VIRTUAL);
	void *flipped = tensor(number++, H, square, {T * T, T * T, 1, T}, VIRTUAL);
	void *b_again = tensor(number++, H, rows, apart, VIRTUAL);
	void *out = tensor(OUT, H, rows, {T * D, T * D, D, 1});
	g.matmul(flipped, b_again, out); /* the order in which they are given is of no importance */
	g.matmul(a, b, s);
	g.pointwise(cudnn_POINTWISE_MUL, s, tensor(FACTOR, F, one, one, BY_VALUE), NULL, scaled);
	g.pointwise(cudnn_POINTWISE_GEN_INDEX, scaled, NULL, NULL, row, 2, cudnn_DATA_INT32);
	g.pointwise(cudnn_POINTWISE_GEN_INDEX, scaled, NULL, NULL, place, 3, cudnn_DATA_INT32);
	g.pointwise(cudnn_POINTWISE_CMP_GE, row, place, NULL, seen, -1, cudnn_DATA_BOOLEAN);
	g.pointwise(cudnn_POINTWISE_BINARY_SELECT, scaled, tensor(LOW, F, one, one, BY_VALUE), seen, masked);
	g.reduce(cudnn_REDUCE_TENSOR_MAX, masked, most);
	g.pointwise(cudnn_POINTWISE_SUB, masked, most, NULL, below);
	g.pointwise(cudnn_POINTWISE_EXP, below, NULL, NULL, exps);
	g.reduce(cudnn_REDUCE_TENSOR_ADD, exps, sums);
	g.pointwise(cudnn_POINTWISE_LOG, sums, NULL, NULL, logs);
	g.pointwise(cudnn_POINTWISE_ADD, logs, most, NULL, dense(E, F, column));
	g.reshape(masked, flipped);
	g.reshape(b, b_again);
	return g;
}

struct memory {
	char *device, *host; /* a, b, out, e, workspace: 2 KiB each, the last longer */
	cudaStream_t stream;
};
enum { PART = 2048, ALL = 9 * PART };

static struct memory memory_open(void)
{
	struct memory m;
	must(cudaMalloc((void **)&m.device, ALL) == cudaSuccess, "device memory");
	must(cudaMallocHost((void **)&m.host, ALL) == cudaSuccess, "pinned memory");
	must(cudaStreamCreateWithFlags(&m.stream, cudaStreamNonBlocking) == cudaSuccess, "a stream");
	memset(m.host, 0, ALL);
	for (int i = 0; i < T * ROW; i++) {
		((__half *)m.host)[i] = __float2half_rn((float)(i * 7 % 5 - 2));
		((__half *)(m.host + PART))[i] = __float2half_rn((float)(i * 5 % 7 - 3));
	}
	must(cudaMemcpyAsync(m.device, m.host, ALL, cudaMemcpyHostToDevice, m.stream) == cudaSuccess,
		"a copy");
	return m;
}
static void memory_close(struct memory *m)
{
	(void)cudaStreamSynchronize(m->stream);
	(void)cudaStreamDestroy(m->stream);
	(void)cudaFree(m->device);
	(void)cudaFreeHost(m->host);
}

static const list all = {A, B, OUT, E, FACTOR, LOW};
static float factor = 0.5f, low = -100;
static std::vector<void *> pointers_of(const struct memory *m)
{
	return {m->device, m->device + PART, m->device + 2 * PART, m->device + 3 * PART, &factor, &low};
}

/* By the formulas above, in small whole numbers and halves of them, which are exact. */
static bool as_wanted(const struct memory *m)
{
	const __half *a = (const __half *)m->host, *b = (const __half *)(m->host + PART),
		     *out = (const __half *)(m->host + 2 * PART);
	const float *e = (const float *)(m->host + 3 * PART);
	double s[T][T];
	bool good = true;
	for (int i = 0; i < T; i++) {
		double sum = 0;
		for (int j = 0; j < T; j++) {
			s[i][j] = 0;
			for (int d = 0; d < D; d++)
				s[i][j] += (double)__half2float(a[i * ROW + d]) *
					   (double)__half2float(b[j * ROW + d]);
			s[i][j] = j <= i ? s[i][j] * (double)factor : (double)low;
			sum += exp(s[i][j]);
		}
		good = good && fabs((double)e[i] - log(sum)) < 1e-5;
	}
	for (int j = 0; j < T; j++)
		for (int d = 0; d < D; d++) {
			double sum = 0;
			for (int i = 0; i < T; i++)
				sum += s[i][j] * (double)__half2float(b[i * ROW + d]);
			good = good && (double)__half2float(out[j * D + d]) == sum;
		}
	return good;
}

static void test_meaning(void)
{
	struct memory m = memory_open();
	for (int64_t engine = 0; engine < 3; engine++) {
		struct graph g = everything();
		taken(g.build(engine), "every operation in a graph");
		must(g.workspace > 0 && g.workspace <= ALL - 4 * PART, "its workspace");
		(void)call.cudnnSetStream(handle, m.stream);
		taken(g.run(all, pointers_of(&m), m.device + 4 * PART), "... which runs");
		must(cudaMemcpyAsync(m.host + 2 * PART, m.device + 2 * PART, 2 * PART, cudaMemcpyDeviceToHost,
			     m.stream) == cudaSuccess,
			"a copy");
		(void)cudaStreamSynchronize(m.stream);
		line(as_wanted(&m), "... and gives what the formulas say");
	}
	struct graph g = everything();
	must(g.build() == cudnn_STATUS_SUCCESS, "a graph");
	std::vector<void *> p = pointers_of(&m);
	refused_for(g.run({A, B, OUT, E, FACTOR}, {p[0], p[1], p[2], p[3], p[4]}, m.device + 4 * PART),
		"lacks tensor 6", "a pack that lacks a tensor");
	refused_for(g.run(all, p, NULL), "lacks the workspace", "a pack that lacks the workspace");
	p[2] = m.device + 2 * PART + 2;
	refused_for(g.run(all, p, m.device + 4 * PART), "not aligned", "a pointer that is not aligned");
	p[2] = NULL;
	refused_for(g.run(all, p, m.device + 4 * PART), "no pointer", "a pointer that is NULL");
	destroy_all();
	memory_close(&m);
}

/* What does not make a graph. */
static void test_graphs(void)
{
	const list square = {1, 1, 8, 8}, other = {1, 1, 8, 16}, one = {1, 1, 1, 1};
	int F = cudnn_DATA_FLOAT, H = cudnn_DATA_HALF;
	void *x = dense(1, H, square), *y = dense(2, H, square), *v = dense(3, H, square, VIRTUAL),
	     *w = dense(4, H, square, VIRTUAL), *wide = dense(5, H, other), *f = dense(6, F, square);
	struct graph g;
	g.matmul(x, v, y);
	refused_for(g.build(), "tensor 3 is made by 0", "a virtual tensor that nothing makes");
	g = {};
	g.matmul(x, w, v);
	g.matmul(x, v, w);
	refused_for(g.build(), "wait for each other", "operations that wait for each other");
	g = {};
	g.matmul(x, x, y);
	g.matmul(x, v, y);
	g.matmul(x, x, v);
	refused_for(g.build(), "tensor 2 is made by 2", "a tensor that two operations make");
	g = {};
	g.matmul(wide, x, y);
	refused_for(g.build(), "operation 0 do not fit", "factors that do not fit");
	g = {};
	g.matmul(x, dense(1, H, other), wide);
	refused_for(g.build(), "have the number 1", "two tensors of one number");
	g = {};
	g.pointwise(cudnn_POINTWISE_ADD, x, NULL, NULL, y);
	refused_for(g.build(), "operation 0 do not fit", "a sum of one");
	g = {};
	g.pointwise(cudnn_POINTWISE_GEN_INDEX, x, NULL, NULL, y);
	refused_for(g.build(), "operation 0 do not fit", "an index without its axis");
	g = {};
	g.pointwise(cudnn_POINTWISE_BINARY_SELECT, x, x, f, y);
	refused_for(g.build(), "operation 0 do not fit", "a selection by numbers");
	g = {};
	g.matmul(x, x, v);
	g.pointwise(cudnn_POINTWISE_MUL, v, tensor(7, F, one, one, BY_VALUE), NULL, y);
	refused_for(g.build(), "no such engine", "a graph that is no attention: no engine");
	g = {};
	g.matmul(x, x, v);
	g.matmul(f, v, y);
	refused_for(g.build(), "no such engine", "attention in fp32: no engine");
	destroy_all();
}

/* ---- faults that end the process ---- */

static void plant(const std::string &fault)
{
	struct memory m = memory_open();
	cudaStream_t own;
	must(cudaStreamCreateWithFlags(&own, cudaStreamNonBlocking) == cudaSuccess, "a stream");
	struct graph g = everything();
	must(g.build() == cudnn_STATUS_SUCCESS, "a graph");
	std::vector<void *> p = pointers_of(&m);
	void *work = m.device + 4 * PART;
	if (fault == "overlap")
		p[3] = p[2];
	if (fault == "in_place")
		p[2] = p[0];
	if (fault == "in_workspace")
		p[3] = work;
	if (fault == "outside")
		p[1] = m.device + ALL - 16;
	if (fault == "workspace_outside")
		work = m.device + ALL - 256;
	if (fault == "value_on_device")
		p[4] = m.device;
	if (fault == "destroyed")
		(void)call.cudnnBackendDestroyDescriptor(g.plan);
	(void)call.cudnnSetStream(handle, fault == "stream" ? own : m.stream);
	int status = g.run(all, p, work);
	must(cudaMemcpyAsync(m.host + 2 * PART, m.device + 2 * PART, 2 * PART, cudaMemcpyDeviceToHost,
		     m.stream) == cudaSuccess,
		"a copy");
	(void)cudaStreamSynchronize(m.stream);
	printf("%d, %s\n", status, as_wanted(&m) ? "as wanted" : "wrong");
	(void)cudaStreamSynchronize(own);
	(void)cudaStreamDestroy(own);
	if (fault != "leak")
		destroy_all();
	memory_close(&m);
}

int main(int argc, char **argv)
{
	void *library = argc == 2 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
	must(argc != 2 || library, "the library loads");
	stand_in = !library;
#define FIND(result, name, ...) call.name = library ? (result(*)(__VA_ARGS__))dlsym(library, #name) : name;
	CUDNN_FUNCTIONS(FIND)
	if (stand_in)
		must(call.cudnnCreate(&handle) == cudnn_STATUS_SUCCESS, "a handle");
	if (argc == 3) {
		plant(argv[2]);
	} else {
		test_tensors();
		test_operations();
		test_packs();
	}
	if (stand_in && argc == 1) {
		test_meaning();
		test_graphs();
	}
	if (stand_in)
		(void)call.cudnnDestroy(handle);
	return failures > 0;
}
