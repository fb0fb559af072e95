/*
 * cudnn_graph.h: an operation graph of cuDNN's backend API, and what it means: an interpreter, written from NVIDIA's
 * documentation. cudnn.cc is the library's interface, which makes graphs of descriptors and runs them.
 *
 * A tensor has dims and strides (in elements) and a type. A virtual one exists within the graph alone; one by value is a
 * number that is read when the graph is queued; the others are in device memory, which is touched on the stream only, so
 * that an order that is missing is a race. Every result is rounded to its tensor's type; arithmetic is f32.
 *
 *    matmul      c[..][m][n] = sum over k of a[..][m][k] b[..][k][n]; the leading dims are equal, or 1
 *    pointwise   y = f(x, b, t) element by element; a dim of 1 is repeated. Comparisons give 1 or 0; a binary selection
 *                is x where t is not 0, else b; an index is the element's place along an axis
 *    reduction   of all elements of x that fall on an element of y, whose dims are x's or 1
 *    reshape     y is the memory of x seen with y's dims and strides: how a transposition is said
 *
 * A product that is written to memory for another operation to read is an accumulator: many blocks add to it in the
 * order in which they come, so it is summed in a random one. All others have an order, which the engine decides.
 */
#ifndef TESTS_EMU_CUDNN_GRAPH_H
#define TESTS_EMU_CUDNN_GRAPH_H

#include <stddef.h>
#include <stdint.h>

#include <map>
#include <string>
#include <vector>

struct emu_tensor {
	int64_t uid = 0, alignment = 0;
	int type = 0; /* cudnnDataType_t */
	std::vector<int64_t> dims, strides;
	bool is_virtual = false, by_value = false;

	int64_t elements() const;
	int64_t extent() const; /* elements from the first to the last in memory, both included */
};
size_t emu_type_bytes(int type); /* 0: not known here */

enum emu_operation { EMU_MATMUL, EMU_POINTWISE, EMU_REDUCTION, EMU_RESHAPE };
enum { EMU_ABSENT = -1, EMU_IDENTITY = -1 }; /* the second a mode of a pointwise operation */
struct emu_node {
	enum emu_operation what;
	int mode = 0; /* of a pointwise operation, or a reduction */
	int64_t axis = EMU_ABSENT;
	/* Of the graph's tensors; EMU_ABSENT: none. */
	int x = EMU_ABSENT, b = EMU_ABSENT, t = EMU_ABSENT, y = EMU_ABSENT;
	bool accumulates = false;
};

struct emu_graph {
	std::vector<struct emu_tensor> tensors;
	std::vector<struct emu_node> nodes;
	int64_t workspace = 0; /* bytes */

	/* The tensor's number; EMU_ABSENT, with the reason: it differs from one of the same number. */
	int add(const struct emu_tensor &tensor, std::string *why);
	/* Puts the nodes in order and checks them: types, dims, each virtual tensor made once and before it is used. */
	bool complete(std::string *why);
	/* Whether attention's engines take it: halves whose heads are a multiple of 8 elements, at most 128. */
	bool attention_takes() const;
	bool is_result(int tensor) const;
};

/* How products are summed: in parts of so many terms, which are rounded to so many bits and added up. */
struct emu_sums {
	int part, bits;
	bool random; /* all of them in a random order */
};
/* On a stream's thread. memory: by number of the tensor; of one by value, a copy. */
void emu_graph_run(const struct emu_graph &graph, const struct emu_sums &sums,
	const std::map<int64_t, void *> &memory, void *workspace);

#endif
