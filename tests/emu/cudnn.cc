/*
 * Stands in for cuDNN (kernels/cuda/cudnn.cuh has what is used of it): descriptors, engines, plans, and graphs that are run
 * by an interpreter (cudnn_graph.h) as work of the handle's stream.
 *
 * It is as hard as NVIDIA's documentation allows, and harder than the real library (9.19) where that takes what it should
 * not. Refused with a status: attributes of another descriptor, type or count, or set after the end (cudnnBackendFinalize)
 * or asked for before it; an end with attributes missing, or with parts that do not fit; a pack that lacks a tensor or the
 * workspace, or has pointers that are not aligned. Found, and ended with a message and abort(): what is no descriptor or no
 * longer one; two threads in one handle; tensors that reach outside of the device's memory; results that lie in each other, in
 * an operand or in the workspace. What was not destroyed is named at the end of the process, whose status is then 23.
 *
 * Engines 0, 1 and 2 take attention (emu_graph::attention_takes); they and their knob (its value 0 or 1) differ in the order
 * and the bits of sums. Engine 1 sums at random, which a numerical note says; it ranks second.
 */
#include "tests/emu/cudnn_descriptor.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>
#include <set>

/* ---- handles ---- */

struct cudnn_handle {
	cudaStream_t stream = NULL;
	int device = 0;
	std::atomic<bool> busy{false};
};

static struct handles {
	struct quiet_lock lock;
	std::set<const struct cudnn_handle *> live;
	bool begun = false;
} &handles = *new struct handles;

static void report_leaks(void)
{
	if (descriptors_left() + handles.live.size() == 0 || emu_setting("FERRY_EMU_LEAKS", 1) == 0)
		return;
	fprintf(stderr, "emulator: leak: %zu descriptors and %zu handles of cuDNN\n", descriptors_left(),
		handles.live.size());
	fflush(NULL);
	_exit(23);
}

/* A thread's while it lasts. */
struct entered {
	struct cudnn_handle *handle;
	explicit entered(struct cudnn_handle *h) : handle(h)
	{
		{
			std::lock_guard<quiet_lock> guard(handles.lock);
			if (!handles.live.count(h))
				emu_die("cuDNN was given %p, which is no handle, or no longer one",
					(void *)h);
		}
		int device = -1;
		(void)cudaGetDevice(&device);
		if (device != h->device)
			emu_die("cuDNN: device %d's handle is used on device %d", h->device, device);
		if (h->busy.exchange(true))
			emu_die("cuDNN: two threads are in one handle");
	}
	~entered()
	{
		handle->busy = false;
	}
};

extern "C" int cudnnCreate(struct cudnn_handle **out)
{
	if (cudnn_fails("create"))
		return cudnn_failed(not_initialized, "a handle fails, as it was told to");
	*out = new cudnn_handle;
	(void)cudaGetDevice(&(*out)->device);
	std::lock_guard<quiet_lock> guard(handles.lock);
	if (!handles.begun)
		atexit(report_leaks);
	handles.begun = true;
	handles.live.insert(*out);
	return success;
}

extern "C" int cudnnDestroy(struct cudnn_handle *handle)
{
	{
		struct entered in(handle);
		std::lock_guard<quiet_lock> guard(handles.lock);
		handles.live.erase(handle);
	}
	delete handle;
	return success;
}

extern "C" int cudnnSetStream(struct cudnn_handle *handle, cudaStream_t stream)
{
	struct entered in(handle);
	if (!cudnn_planted("stream"))
		handle->stream = stream;
	return success;
}

extern "C" size_t cudnnGetVersion(void)
{
	return (size_t)emu_setting("FERRY_EMU_CUDNN_VERSION", 91900);
}

extern "C" const char *cudnnGetErrorString(int status)
{
	switch (status) {
	case success:
		return "CUDNN_STATUS_SUCCESS";
	case not_initialized:
		return "CUDNN_STATUS_NOT_INITIALIZED";
	case bad_misaligned:
		return "CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER";
	case not_supported:
		return "CUDNN_STATUS_NOT_SUPPORTED";
	case internal_error:
		return "CUDNN_STATUS_INTERNAL_ERROR";
	case execution_failed:
		return "CUDNN_STATUS_EXECUTION_FAILED";
	}
	return "CUDNN_STATUS_BAD_PARAM";
}

/* ---- execution ---- */

/* The pointers of the graph's tensors, by their numbers; those by value are copied. */
struct pack {
	std::map<int64_t, void *> memory;
	std::vector<std::unique_ptr<char[]>> by_value;
	void *workspace = NULL;
};

static int pack_tensor(struct pack *p, const struct emu_tensor &t, void *pointer)
{
	size_t bytes = (size_t)t.extent() * emu_type_bytes(t.type);
	if (!pointer)
		return cudnn_failed(bad_null, "tensor " + std::to_string(t.uid) + " has no pointer");
	if (t.by_value) {
		if (!ordinary_memory(pointer))
			emu_die("cuDNN: tensor %lld is by value, and %p is not the host's", (long long)t.uid,
				pointer);
		p->by_value.emplace_back(new char[bytes]);
		memcpy(p->by_value.back().get(), pointer, bytes);
		p->memory[t.uid] = p->by_value.back().get();
		return success;
	}
	if ((uintptr_t)pointer % (uintptr_t)t.alignment)
		return cudnn_failed(bad_misaligned, "tensor " + std::to_string(t.uid) + " is not aligned");
	if (!device_memory_holds(pointer, bytes))
		emu_die("cuDNN: tensor %lld, %zu bytes at %p, reaches outside of the device's memory",
			(long long)t.uid, bytes, pointer);
	p->memory[t.uid] = pointer;
	return success;
}

static int pack_tensors(struct pack *p, const struct emu_graph &g, const struct emu_descriptor &pointers)
{
	std::map<int64_t, void *> given;
	const struct emu_attribute &ids = pointers.values.at(cudnn_ATTR_VARIANT_PACK_UNIQUE_IDS);
	for (size_t i = 0; i < (size_t)ids.count; i++)
		given[pointers.number<int64_t>(cudnn_ATTR_VARIANT_PACK_UNIQUE_IDS, 0, i)] =
			pointers.number<void *>(cudnn_ATTR_VARIANT_PACK_DATA_POINTERS, NULL, i);
	for (const struct emu_tensor &t : g.tensors) {
		if (t.is_virtual)
			continue;
		if (!given.count(t.uid))
			return cudnn_failed(bad_parameter, "the pack lacks tensor " + std::to_string(t.uid));
		int result = pack_tensor(p, t, given.at(t.uid));
		if (result != success)
			return result;
	}
	p->workspace = pointers.number<void *>(cudnn_ATTR_VARIANT_PACK_WORKSPACE, NULL);
	if (g.workspace && !p->workspace)
		return cudnn_failed(bad_null, "the pack lacks the workspace");
	if (g.workspace && !device_memory_holds(p->workspace, (size_t)g.workspace))
		emu_die("cuDNN: a workspace of %lld bytes at %p reaches outside of the device's memory",
			(long long)g.workspace, p->workspace);
	return success;
}

/* Where the elements of a tensor lie. */
static std::vector<uintptr_t> places(const struct emu_tensor &t, const void *memory)
{
	std::vector<uintptr_t> out = {(uintptr_t)memory};
	for (size_t i = 0; i < t.dims.size(); i++) {
		size_t before = out.size();
		for (int64_t k = 1; k < t.dims[i]; k++)
			for (size_t j = 0; j < before; j++)
				out.push_back(
					out[j] + (uintptr_t)(k * t.strides[i]) * emu_type_bytes(t.type));
	}
	return out;
}

static void check_outside(const struct emu_graph &g, const struct pack &p)
{
	uintptr_t from = (uintptr_t)p.workspace, end = from + (uintptr_t)g.workspace;
	for (const struct emu_tensor &t : g.tensors) {
		if (t.is_virtual || t.by_value)
			continue;
		for (uintptr_t at : places(t, p.memory.at(t.uid)))
			if (at >= from && at < end)
				emu_die("cuDNN: tensor %lld lies in the workspace", (long long)t.uid);
	}
}

/* A kernel writes its results while it reads: they share no element with anything. */
static void check_apart(const struct emu_graph &g, const struct pack &p)
{
	std::vector<std::pair<uintptr_t, size_t>> written;
	for (size_t i = 0; i < g.tensors.size(); i++)
		if (g.is_result((int)i) && !g.tensors[i].is_virtual)
			for (uintptr_t at : places(g.tensors[i], p.memory.at(g.tensors[i].uid)))
				written.push_back({at, i});
	std::sort(written.begin(), written.end());
	for (size_t n = 1; n < written.size(); n++)
		if (written[n].first == written[n - 1].first)
			emu_die("cuDNN: results %lld and %lld lie in each other",
				(long long)g.tensors[written[n].second].uid,
				(long long)g.tensors[written[n - 1].second].uid);
	for (size_t i = 0; i < g.tensors.size(); i++) {
		if (g.is_result((int)i) || g.tensors[i].is_virtual || g.tensors[i].by_value)
			continue;
		for (uintptr_t at : places(g.tensors[i], p.memory.at(g.tensors[i].uid))) {
			auto found = std::lower_bound(
				written.begin(), written.end(), std::pair<uintptr_t, size_t>(at, 0));
			if (found != written.end() && found->first == at)
				emu_die("cuDNN: result %lld lies in operand %lld",
					(long long)g.tensors[found->second].uid, (long long)g.tensors[i].uid);
		}
	}
}

extern "C" int cudnnBackendExecute(struct cudnn_handle *handle, void *plan_pointer, void *pack_pointer)
{
	struct entered in(handle);
	auto plan = descriptor_of(plan_pointer), pointers = descriptor_of(pack_pointer);
	if (plan->type != cudnn_BACKEND_EXECUTION_PLAN_DESCRIPTOR ||
		pointers->type != cudnn_BACKEND_VARIANT_PACK_DESCRIPTOR)
		return cudnn_failed(bad_descriptor_type, "it takes a plan and a pack");
	if (!plan->final || !pointers->final)
		return cudnn_failed(bad_not_finalized, "the plan or the pack is not finalized");
	if (cudnn_fails("execute"))
		return cudnn_failed(execution_failed, "an execution fails, as it was told to");
	struct emu_engine engine = engine_of(plan->part(cudnn_ATTR_EXECUTION_PLAN_ENGINE_CONFIG));
	auto p = std::make_shared<struct pack>();
	int result = pack_tensors(p.get(), *engine.graph, *pointers);
	if (result != success)
		return result;
	check_outside(*engine.graph, *p);
	check_apart(*engine.graph, *p);
	stream_queue(handle->stream,
		[engine, p] { emu_graph_run(*engine.graph, engine.sums, p->memory, p->workspace); });
	return success;
}
