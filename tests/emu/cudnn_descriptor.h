/*
 * cudnn_descriptor.h: the descriptors of the stand-in for cuDNN (cudnn.cc says what it is): cudnn_descriptor.cc makes,
 * fills, ends and asks them, cudnn.cc runs what they say.
 */
#ifndef TESTS_EMU_CUDNN_DESCRIPTOR_H
#define TESTS_EMU_CUDNN_DESCRIPTOR_H

#include "tests/emu/cudnn_graph.h"

#include "kernels/cuda/cudnn.cuh"
#include "tests/emu/emulator.h"

#include <string.h>

#include <memory>

enum cudnn_status {
	success = 0,
	not_initialized = 1001,
	bad_parameter = 2000,
	bad_null = 2002,
	bad_misaligned = 2003,
	bad_not_finalized = 2004,
	bad_attribute_type = 2010,
	bad_descriptor_type = 2012,
	not_supported = 3000,
	internal_error = 4000,
	execution_failed = 5000
};

/* Keeps the reason for cudnnGetLastErrorString; returns the status. */
int cudnn_failed(enum cudnn_status status, const std::string &why);
/* It is the time to fail (FERRY_EMU_CUDNN_FAIL). */
bool cudnn_fails(const char *what);
/* Whether FERRY_EMU_CUDNN_FAULT names it. */
bool cudnn_planted(const char *fault);

struct emu_descriptor;
struct emu_attribute {
	int64_t count = 0;
	std::vector<char> bytes; /* elements that are not descriptors */
	std::vector<std::shared_ptr<const struct emu_descriptor>> parts; /* those that are, as they were */
};

struct emu_descriptor {
	int type = 0;
	bool final = false;
	std::map<int, struct emu_attribute> values;
	struct emu_tensor tensor;                      /* of a tensor */
	std::shared_ptr<const struct emu_graph> graph; /* of a graph */

	bool has(int name) const
	{
		return values.count(name) > 0;
	}
	template <typename T> T number(int name, T otherwise = T(), size_t i = 0) const
	{
		T out = otherwise;
		if (has(name))
			memcpy(&out, values.at(name).bytes.data() + i * sizeof out, sizeof out);
		return out;
	}
	const struct emu_descriptor &part(int name, size_t i = 0) const
	{
		return *values.at(name).parts[i];
	}
};

/* Defined as the program declares them. */
#define CUDNN_DECLARE(result, name, ...) extern "C" result name(__VA_ARGS__);
CUDNN_FUNCTIONS(CUDNN_DECLARE)

/* A live one; else the end of the process. */
std::shared_ptr<struct emu_descriptor> descriptor_of(const void *pointer);

/* What an engine's configuration says: its graph, and how it sums. */
struct emu_engine {
	std::shared_ptr<const struct emu_graph> graph;
	struct emu_sums sums;
};
struct emu_engine engine_of(const struct emu_descriptor &configuration);

/* How many there are of them, for who counts what is left at the end. */
size_t descriptors_left(void);

#endif
