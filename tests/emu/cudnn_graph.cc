/* The interpreter of cudnn_graph.h. What it does to device memory is instrumented, as cublaslt.cc is: it is the device's. */
#include "tests/emu/cudnn_graph.h"

#include "kernels/cuda/cudnn.cuh"
#include "tests/emu/emulator.h"

#include <math.h>
#include <string.h>

#include <algorithm>
#include <numeric>

/* What lies in memory of its own is not the device's. */
#define OWN __attribute__((no_sanitize("thread"), no_sanitize("address")))

/* ---- tensors ---- */

int64_t emu_tensor::elements() const
{
	return std::accumulate(dims.begin(), dims.end(), (int64_t)1, std::multiplies<int64_t>());
}

int64_t emu_tensor::extent() const
{
	int64_t last = 0;
	for (size_t i = 0; i < dims.size(); i++)
		last += (dims[i] - 1) * strides[i];
	return last + 1;
}

size_t emu_type_bytes(int type)
{
	switch (type) {
	case cudnn_DATA_FLOAT:
	case cudnn_DATA_INT32:
		return 4;
	case cudnn_DATA_HALF:
	case cudnn_DATA_BFLOAT16:
		return 2;
	case cudnn_DATA_BOOLEAN:
		return 1;
	}
	return 0;
}

static float load(const void *from, int type, int64_t i)
{
	switch (type) {
	case cudnn_DATA_FLOAT:
		return ((const float *)from)[i];
	case cudnn_DATA_HALF:
		return __half2float(((const __half *)from)[i]);
	case cudnn_DATA_BFLOAT16:
		return __bfloat162float(((const __nv_bfloat16 *)from)[i]);
	case cudnn_DATA_INT32:
		return (float)((const int32_t *)from)[i];
	case cudnn_DATA_BOOLEAN:
		return ((const uint8_t *)from)[i] ? 1 : 0;
	}
	emu_die("cuDNN: elements of type %d", type);
}

static void store(void *to, int type, int64_t i, float value)
{
	switch (type) {
	case cudnn_DATA_FLOAT:
		((float *)to)[i] = value;
		return;
	case cudnn_DATA_HALF:
		((__half *)to)[i] = __float2half_rn(value);
		return;
	case cudnn_DATA_BFLOAT16:
		((__nv_bfloat16 *)to)[i] = __float2bfloat16_rn(value);
		return;
	case cudnn_DATA_INT32:
		((int32_t *)to)[i] = (int32_t)value;
		return;
	case cudnn_DATA_BOOLEAN:
		((uint8_t *)to)[i] = value != 0;
		return;
	}
	emu_die("cuDNN: elements of type %d", type);
}

static OWN float rounded(float value, int type)
{
	switch (type) {
	case cudnn_DATA_HALF:
		return __half2float(__float2half_rn(value));
	case cudnn_DATA_BFLOAT16:
		return __bfloat162float(__float2bfloat16_rn(value));
	case cudnn_DATA_INT32:
		return truncf(value);
	case cudnn_DATA_BOOLEAN:
		return value != 0;
	}
	return value;
}

/* Strides of a dense array of these dims. */
static std::vector<int64_t> dense(const std::vector<int64_t> &dims)
{
	std::vector<int64_t> strides(dims.size());
	int64_t stride = 1;
	for (size_t i = dims.size(); i-- > 0; stride *= dims[i])
		strides[i] = stride;
	return strides;
}

/* Strides that repeat a tensor along its dims of 1. */
static std::vector<int64_t> repeated(const std::vector<int64_t> &dims)
{
	std::vector<int64_t> strides = dense(dims);
	for (size_t i = 0; i < dims.size(); i++)
		if (dims[i] == 1)
			strides[i] = 0;
	return strides;
}

/* visit(number, place) for every element of `dims`, in order: the place by the strides. */
template <typename Visit>
static OWN void each(
	const std::vector<int64_t> &dims, const std::vector<int64_t> &strides, const Visit &visit)
{
	std::vector<int64_t> at(dims.size(), 0);
	int64_t place = 0, count = 1;
	for (int64_t d : dims)
		count *= d;
	for (int64_t n = 0; n < count; n++) {
		visit(n, place);
		for (size_t i = dims.size(); i-- > 0;) {
			place += strides[i];
			if (++at[i] < dims[i])
				break;
			place -= strides[i] * dims[i];
			at[i] = 0;
		}
	}
}

/* ---- building ---- */

int emu_graph::add(const struct emu_tensor &tensor, std::string *why)
{
	for (size_t i = 0; i < tensors.size(); i++) {
		const struct emu_tensor &t = tensors[i];
		if (t.uid != tensor.uid)
			continue;
		if (t.type == tensor.type && t.dims == tensor.dims && t.strides == tensor.strides &&
			t.is_virtual == tensor.is_virtual && t.by_value == tensor.by_value &&
			t.alignment == tensor.alignment)
			return (int)i;
		*why = "two tensors have the number " + std::to_string(t.uid);
		return EMU_ABSENT;
	}
	tensors.push_back(tensor);
	return (int)tensors.size() - 1;
}

bool emu_graph::is_result(int tensor) const
{
	for (const struct emu_node &n : nodes)
		if (n.y == tensor)
			return true;
	return false;
}

static bool reads(const struct emu_node &n, int tensor)
{
	return n.x == tensor || n.b == tensor || n.t == tensor;
}

/* Of a tensor that is produced: whether it has been; others are there from the beginning. */
static bool is_ready(const std::vector<struct emu_node> &waiting, int tensor)
{
	for (const struct emu_node &n : waiting)
		if (n.y == tensor)
			return false;
	return true;
}

static bool put_in_order(std::vector<struct emu_node> *nodes)
{
	std::vector<struct emu_node> waiting = *nodes, ordered;
	while (!waiting.empty()) {
		size_t i = 0;
		while (i < waiting.size() &&
			!(is_ready(waiting, waiting[i].x) && is_ready(waiting, waiting[i].b) &&
				is_ready(waiting, waiting[i].t)))
			i++;
		if (i == waiting.size())
			return false;
		ordered.push_back(waiting[i]);
		waiting.erase(waiting.begin() + (ptrdiff_t)i);
	}
	*nodes = ordered;
	return true;
}

static bool repeats_to(const std::vector<int64_t> &from, const std::vector<int64_t> &to, size_t dims)
{
	if (from.size() != to.size())
		return false;
	for (size_t i = 0; i < dims; i++)
		if (from[i] != to[i] && from[i] != 1)
			return false;
	return true;
}

static bool matmul_fits(const struct emu_tensor &a, const struct emu_tensor &b, const struct emu_tensor &c)
{
	size_t n = c.dims.size();
	return n >= 2 && repeats_to(a.dims, c.dims, n - 2) && repeats_to(b.dims, c.dims, n - 2) &&
	       a.dims[n - 2] == c.dims[n - 2] && a.dims[n - 1] == b.dims[n - 2] &&
	       b.dims[n - 1] == c.dims[n - 1];
}

/* The element of x that lies at a place in memory, in a dense array of x's dims; -1: none does. */
static int64_t element_at(const struct emu_tensor &x, int64_t place)
{
	std::vector<int64_t> strides = dense(x.dims);
	std::vector<size_t> by_stride(x.dims.size());
	std::iota(by_stride.begin(), by_stride.end(), 0);
	std::sort(by_stride.begin(), by_stride.end(),
		[&](size_t a, size_t b) { return x.strides[a] > x.strides[b]; });
	int64_t element = 0;
	for (size_t i : by_stride) {
		if (x.dims[i] == 1)
			continue;
		int64_t index = place / x.strides[i];
		if (index >= x.dims[i])
			return -1;
		place -= index * x.strides[i];
		element += index * strides[i];
	}
	return place == 0 ? element : -1;
}

static bool reshape_fits(const struct emu_tensor &x, const struct emu_tensor &y)
{
	bool good = x.elements() == y.elements();
	std::vector<bool> seen((size_t)x.elements());
	each(y.dims, y.strides, [&](int64_t, int64_t place) {
		int64_t element = good ? element_at(x, place) : -1;
		good = element >= 0 && !seen[(size_t)element];
		if (good)
			seen[(size_t)element] = true;
	});
	return good;
}

static int operands(int mode)
{
	switch (mode) {
	case cudnn_POINTWISE_ADD:
	case cudnn_POINTWISE_SUB:
	case cudnn_POINTWISE_MUL:
	case cudnn_POINTWISE_DIV:
	case cudnn_POINTWISE_CMP_GE:
		return 2;
	case cudnn_POINTWISE_EXP:
	case cudnn_POINTWISE_LOG:
	case cudnn_POINTWISE_GEN_INDEX:
		return 1;
	case cudnn_POINTWISE_BINARY_SELECT:
		return 3;
	}
	return 0;
}

static bool pointwise_fits(const struct emu_graph &g, const struct emu_node &n)
{
	const std::vector<int64_t> &y = g.tensors[(size_t)n.y].dims;
	int wanted = operands(n.mode), given = 0;
	for (int operand : {n.x, n.b, n.t})
		if (operand != EMU_ABSENT) {
			given++;
			if (!repeats_to(g.tensors[(size_t)operand].dims, y, y.size()))
				return false;
		}
	bool has_axis = n.axis >= 0 && n.axis < (int64_t)y.size();
	return wanted == given && n.x != EMU_ABSENT && (n.mode == cudnn_POINTWISE_GEN_INDEX) == has_axis &&
	       (n.t == EMU_ABSENT || g.tensors[(size_t)n.t].type == cudnn_DATA_BOOLEAN);
}

static bool fits(const struct emu_graph &g, const struct emu_node &n)
{
	const struct emu_tensor &x = g.tensors[(size_t)n.x], &y = g.tensors[(size_t)n.y];
	switch (n.what) {
	case EMU_MATMUL:
		return matmul_fits(x, g.tensors[(size_t)n.b], y);
	case EMU_POINTWISE:
		return pointwise_fits(g, n);
	case EMU_REDUCTION:
		return repeats_to(y.dims, x.dims, x.dims.size()) &&
		       (n.mode == cudnn_REDUCE_TENSOR_ADD || n.mode == cudnn_REDUCE_TENSOR_MAX);
	case EMU_RESHAPE:
		return reshape_fits(x, y);
	}
	return false;
}

/* Where scores' gradients are transposed, a plane of halves for each head, as NVIDIA's deterministic way takes, and what
 * FERRY_EMU_CUDNN_WORKSPACE says. */
static int64_t workspace_of(const struct emu_graph &g)
{
	int64_t most = 0;
	for (const struct emu_node &n : g.nodes) {
		const struct emu_tensor &x = g.tensors[(size_t)n.x];
		if (n.what != EMU_RESHAPE || !x.is_virtual)
			continue;
		int64_t planes = x.elements(), side = 1;
		for (size_t i = x.dims.size() - 2; i < x.dims.size(); i++) {
			planes /= x.dims[i];
			side *= (x.dims[i] + 63) / 64 * 64;
		}
		most = std::max(most, planes * side * 2);
	}
	return most ? most + emu_setting("FERRY_EMU_CUDNN_WORKSPACE", 0) : 0;
}

bool emu_graph::complete(std::string *why)
{
	*why = "";
	for (size_t i = 0; i < tensors.size(); i++) {
		int makers = 0;
		for (const struct emu_node &n : nodes)
			makers += n.y == (int)i;
		if (makers > 1 || (makers == 0 && tensors[i].is_virtual) || (makers && tensors[i].by_value))
			*why = "tensor " + std::to_string(tensors[i].uid) + " is made by " +
			       std::to_string(makers) + " operations";
	}
	if (why->empty() && !put_in_order(&nodes))
		*why = "the operations wait for each other";
	for (size_t i = 0; i < nodes.size() && why->empty(); i++)
		if (!fits(*this, nodes[i]))
			*why = "the tensors of operation " + std::to_string(i) +
			       " do not fit each other (the result is " +
			       std::to_string(tensors[(size_t)nodes[i].y].uid) + ")";
	for (struct emu_node &n : nodes)
		for (const struct emu_node &other : nodes)
			n.accumulates =
				n.accumulates || (n.what == EMU_MATMUL && !tensors[(size_t)n.y].is_virtual &&
							 reads(other, n.y));
	if (why->empty())
		workspace = workspace_of(*this);
	return why->empty();
}

bool emu_graph::attention_takes() const
{
	int products = 0;
	for (const struct emu_node &n : nodes) {
		products += n.what == EMU_MATMUL;
		for (int operand : {n.x, n.b}) {
			if (n.what != EMU_MATMUL || tensors[(size_t)operand].is_virtual)
				continue;
			const struct emu_tensor &t = tensors[(size_t)operand];
			size_t deep = t.dims.size() - 1; /* the dim along which it is dense is the head's */
			if (deep > 0 && t.strides[deep] != 1)
				deep--;
			if ((t.type != cudnn_DATA_HALF && t.type != cudnn_DATA_BFLOAT16) ||
				t.strides[deep] != 1 || t.dims[deep] % 8 || t.dims[deep] > 128)
				return false;
		}
	}
	return products >= 2;
}

/* ---- running ---- */

typedef std::vector<float> values; /* of a tensor, dense */

static uint64_t random_number(void)
{
	static std::atomic<uint64_t> calls;
	uint64_t z = (uint64_t)emu_setting("FERRY_EMU_SEED", 1) * 0x9e3779b97f4a7c15u + calls++;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

struct run {
	const struct emu_graph &graph;
	const std::map<int64_t, void *> &memory;
	const struct emu_sums &sums;
	std::vector<values> made; /* virtual ones */

	values fetch(int tensor) const;
	void put(int tensor, const values &x);
};

values run::fetch(int tensor) const
{
	const struct emu_tensor &t = graph.tensors[(size_t)tensor];
	if (t.is_virtual)
		return made[(size_t)tensor];
	values out((size_t)t.elements());
	const void *from = memory.at(t.uid);
	each(t.dims, t.strides,
		[&](int64_t n, int64_t place) { out[(size_t)n] = load(from, t.type, place); });
	return out;
}

void run::put(int tensor, const values &x)
{
	const struct emu_tensor &t = graph.tensors[(size_t)tensor];
	if (t.is_virtual) {
		values &to = made[(size_t)tensor];
		to.resize(x.size());
		for (size_t i = 0; i < x.size(); i++)
			to[i] = rounded(x[i], t.type);
		return;
	}
	void *to = memory.at(t.uid);
	each(t.dims, t.strides, [&](int64_t n, int64_t place) { store(to, t.type, place, x[(size_t)n]); });
}

/* The order in which the terms of a sum come. */
static std::vector<int64_t> order_of_terms(int64_t count, bool random)
{
	std::vector<int64_t> order((size_t)count);
	std::iota(order.begin(), order.end(), 0);
	for (size_t i = order.size(); random && i > 1; i--)
		std::swap(order[i - 1], order[random_number() % i]);
	return order;
}

static OWN float with_bits(float x, int bits)
{
	int exponent;
	float mantissa = frexpf(x, &exponent);
	return bits < 24 ? ldexpf(rintf(ldexpf(mantissa, bits)), exponent - bits) : x;
}

/* One element of a product. */
static OWN float dot(const float *a, const float *b, int64_t b_stride, const std::vector<int64_t> &order,
	const struct emu_sums &sums)
{
	float sum = 0;
	for (size_t l = 0; l < order.size();) {
		float some = 0;
		for (size_t end = std::min(order.size(), l + (size_t)sums.part); l < end; l++)
			some += a[order[l]] * b[order[l] * b_stride];
		sum += with_bits(some, sums.bits);
	}
	return sum;
}

static OWN values matmul(const struct run &r, const struct emu_node &n)
{
	const struct emu_tensor &ta = r.graph.tensors[(size_t)n.x], &tb = r.graph.tensors[(size_t)n.b],
				&tc = r.graph.tensors[(size_t)n.y];
	values a = r.fetch(n.x), b = r.fetch(n.b), c((size_t)tc.elements());
	size_t rank = tc.dims.size();
	int64_t M = tc.dims[rank - 2], N = tc.dims[rank - 1], K = ta.dims[rank - 1];
	std::vector<int64_t> leading(tc.dims.begin(), tc.dims.end() - 2),
		order = order_of_terms(K, r.sums.random || n.accumulates);
	std::vector<int64_t> a_strides = repeated(ta.dims), b_strides = repeated(tb.dims);
	a_strides.resize(rank - 2);
	b_strides.resize(rank - 2);
	std::vector<int64_t> b_from;
	each(leading, b_strides, [&](int64_t, int64_t place) { b_from.push_back(place); });
	each(leading, a_strides, [&](int64_t batch, int64_t a_from) {
		for (int64_t i = 0; i < M; i++)
			for (int64_t j = 0; j < N; j++)
				c[(size_t)((batch * M + i) * N + j)] = dot(a.data() + a_from + i * K,
					b.data() + b_from[(size_t)batch] + j, N, order, r.sums);
	});
	return c;
}

static OWN float apply(int mode, float x, float b)
{
	switch (mode) {
	case cudnn_POINTWISE_ADD:
		return x + b;
	case cudnn_POINTWISE_SUB:
		return x - b;
	case cudnn_POINTWISE_MUL:
		return x * b;
	case cudnn_POINTWISE_DIV:
		return x / b;
	case cudnn_POINTWISE_CMP_GE:
		return x >= b;
	case cudnn_POINTWISE_EXP:
		return expf(x);
	case cudnn_POINTWISE_LOG:
		return logf(x);
	}
	return x;
}

static OWN values pointwise(const struct run &r, const struct emu_node &n)
{
	const struct emu_tensor &ty = r.graph.tensors[(size_t)n.y];
	values out((size_t)ty.elements());
	if (n.mode == cudnn_POINTWISE_GEN_INDEX) {
		std::vector<int64_t> along(ty.dims.size(), 0);
		along[(size_t)n.axis] = 1;
		each(ty.dims, along, [&](int64_t i, int64_t place) { out[(size_t)i] = (float)place; });
		return out;
	}
	values x = r.fetch(n.x), b, t;
	each(ty.dims, repeated(r.graph.tensors[(size_t)n.x].dims),
		[&](int64_t i, int64_t place) { out[(size_t)i] = x[(size_t)place]; });
	if (n.b == EMU_ABSENT) {
		for (float &y : out)
			y = apply(n.mode, y, 0);
		return out;
	}
	b = r.fetch(n.b);
	if (n.mode == cudnn_POINTWISE_BINARY_SELECT) {
		values chosen((size_t)ty.elements());
		t = r.fetch(n.t);
		each(ty.dims, repeated(r.graph.tensors[(size_t)n.t].dims),
			[&](int64_t i, int64_t place) { chosen[(size_t)i] = t[(size_t)place]; });
		each(ty.dims, repeated(r.graph.tensors[(size_t)n.b].dims), [&](int64_t i, int64_t place) {
			if (chosen[(size_t)i] == 0)
				out[(size_t)i] = b[(size_t)place];
		});
		return out;
	}
	each(ty.dims, repeated(r.graph.tensors[(size_t)n.b].dims), [&](int64_t i, int64_t place) {
		out[(size_t)i] = apply(n.mode, out[(size_t)i], b[(size_t)place]);
	});
	return out;
}

static OWN values reduction(const struct run &r, const struct emu_node &n)
{
	const struct emu_tensor &tx = r.graph.tensors[(size_t)n.x], &ty = r.graph.tensors[(size_t)n.y];
	bool most = n.mode == cudnn_REDUCE_TENSOR_MAX;
	values x = r.fetch(n.x), y((size_t)ty.elements(), most ? -INFINITY : 0.0f);
	each(tx.dims, repeated(ty.dims), [&](int64_t i, int64_t place) {
		float &to = y[(size_t)place], value = x[(size_t)i];
		to = most ? fmaxf(to, value) : to + value;
	});
	return y;
}

static OWN values reshape(const struct run &r, const struct emu_node &n)
{
	const struct emu_tensor &tx = r.graph.tensors[(size_t)n.x], &ty = r.graph.tensors[(size_t)n.y];
	values x = r.fetch(n.x), y((size_t)ty.elements());
	each(ty.dims, ty.strides,
		[&](int64_t i, int64_t place) { y[(size_t)i] = x[(size_t)element_at(tx, place)]; });
	return y;
}

static values evaluate(const struct run &r, const struct emu_node &n)
{
	switch (n.what) {
	case EMU_MATMUL:
		return matmul(r, n);
	case EMU_POINTWISE:
		return pointwise(r, n);
	case EMU_REDUCTION:
		return reduction(r, n);
	case EMU_RESHAPE:
		return reshape(r, n);
	}
	emu_die("cuDNN: operation %d", (int)n.what);
}

/* The workspace is the graph's while it runs: nobody else writes there, and what is left there is of no use. */
void emu_graph_run(const struct emu_graph &graph, const struct emu_sums &sums,
	const std::map<int64_t, void *> &memory, void *workspace)
{
	unsigned char *own = (unsigned char *)workspace;
	for (int64_t i = 0; i < graph.workspace; i++)
		own[i] = (unsigned char)(i * 7);
	struct run r = {graph, memory, sums, std::vector<values>(graph.tensors.size())};
	for (const struct emu_node &n : graph.nodes)
		r.put(n.y, evaluate(r, n));
	for (int64_t i = 0; i < graph.workspace; i++) {
		if (own[i] != (unsigned char)(i * 7))
			emu_die("cuDNN: its workspace was written by another, at byte %lld", (long long)i);
		own[i] = 0xff;
	}
}
