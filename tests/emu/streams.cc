/* Streams, events, copies, launches, and the device itself. */
#include "tests/emu/emulator.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>

/*
 * For the thread sanitizer only what CUDA orders may be ordered here: from the queueing to the work, from a
 * stream's work to who waits for it (emu_release, emu_acquire). The rest is atomics that it does not see.
 */
struct work {
	std::function<void()> run; /* none: the stream ends */
	char order;
};

struct emu_stream {
	struct quiet_lock lock;
	std::deque<struct work *> queue;
	std::atomic<uint64_t> queued{0}, done{0};
	char order = 0; /* of its work, for who waits for it */
	int device = 0;
};

/* What an event last recorded: each record is another, so that a wait means the one it was given. */
struct record {
	std::atomic<int> done{0};
	double seconds = 0;
	char order = 0;
};
struct emu_event {
	std::shared_ptr<struct record> last;
};

static struct streams {
	struct quiet_lock lock;
	std::set<struct emu_stream *> all;
	std::deque<struct emu_stream *> ended; /* kept: its last lock may be held yet */
	struct emu_stream *standard[EMU_DEVICES] = {};
	std::map<const void *, int> shared_allowed; /* by kernel */
} &streams = *new struct streams;

static thread_local cudaError_t last_error;
static thread_local int current_device;

cudaError_t emu_fail(cudaError_t error)
{
	last_error = error;
	return error;
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- streams ---- */

static struct work *stream_take(struct emu_stream *s)
{
	for (;;) {
		uint64_t done = s->done;
		s->queued.wait(done); /* until there is more */
		std::lock_guard<quiet_lock> guard(s->lock);
		if (s->queue.empty())
			continue;
		struct work *w = s->queue.front();
		s->queue.pop_front();
		return w;
	}
}

static void *stream_main(void *argument)
{
	struct emu_stream *s = (struct emu_stream *)argument;
	device_memory_enter();
	for (;;) {
		struct work *w = stream_take(s);
		emu_acquire(&w->order);
		if (!w->run) {
			delete w;
			return NULL;
		}
		w->run();
		w->run = nullptr;
		emu_release(&s->order);
		delete w;
		s->done.fetch_add(1);
		s->done.notify_all();
	}
}

static void stream_push(struct emu_stream *s, std::function<void()> run)
{
	struct work *w = new struct work;
	w->run = std::move(run);
	emu_release(&w->order);
	std::lock_guard<quiet_lock> guard(s->lock);
	s->queue.push_back(w);
	s->queued.fetch_add(1);
	s->queued.notify_one();
}

static struct emu_stream *stream_start(void)
{
	struct emu_stream *s = new struct emu_stream;
	s->device = current_device;
	pthread_t thread;
	if (pthread_create(&thread, NULL, stream_main, s))
		emu_die("no thread for a stream");
	pthread_detach(thread);
	return s;
}

static struct emu_stream *stream_of(cudaStream_t stream)
{
	if (stream)
		return stream;
	std::lock_guard<quiet_lock> guard(streams.lock);
	struct emu_stream *&standard = streams.standard[current_device];
	if (!standard) {
		standard = stream_start();
		streams.all.insert(standard);
	}
	return standard;
}

void stream_queue(cudaStream_t stream, std::function<void()> work)
{
	stream_push(stream_of(stream), std::move(work));
}

static void stream_drain(struct emu_stream *s)
{
	uint64_t target = s->queued;
	for (uint64_t done; (done = s->done) < target;)
		s->done.wait(done);
	emu_acquire(&s->order);
}

void streams_drain(void)
{
	std::set<struct emu_stream *> all;
	{
		std::lock_guard<quiet_lock> guard(streams.lock);
		all = streams.all;
	}
	for (struct emu_stream *s : all)
		if (s->device == current_device)
			stream_drain(s);
}

cudaError_t cudaDeviceSynchronize(void)
{
	streams_drain();
	return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned)
{
	*out = stream_start();
	std::lock_guard<quiet_lock> guard(streams.lock);
	streams.all.insert(*out);
	return cudaSuccess;
}

/* Which is served first is the machine's business here. */
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *out, unsigned flags, int)
{
	return cudaStreamCreateWithFlags(out, flags);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
	*least = 0;
	*greatest = -5;
	return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
	if (!stream)
		return emu_fail(cudaErrorInvalidResourceHandle);
	{
		std::lock_guard<quiet_lock> guard(streams.lock);
		streams.all.erase(stream);
		streams.ended.push_back(stream);
	}
	stream_drain(stream);
	stream_push(stream, nullptr);
	return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
	stream_drain(stream_of(stream));
	return cudaSuccess;
}

/* Who asks again and again leaves the processor to the work meanwhile. */
template <typename Done> static cudaError_t query(const Done &done)
{
	for (int i = 0; i < 20 && !done(); i++) {
		struct timespec pause = {0, 100000};
		nanosleep(&pause, NULL);
	}
	return done() ? cudaSuccess : emu_fail(cudaErrorNotReady);
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
	struct emu_stream *s = stream_of(stream);
	uint64_t target = s->queued;
	return query([=] { return s->done >= target; });
}

/* ---- events ---- */

cudaError_t cudaEventCreate(cudaEvent_t *out)
{
	*out = new struct emu_event;
	return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
	delete event;
	return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
	auto r = std::make_shared<struct record>();
	event->last = r;
	stream_queue(stream, [r] {
		r->seconds = now();
		emu_release(&r->order);
		r->done.store(1);
		r->done.notify_all();
	});
	return cudaSuccess;
}

static void record_wait(struct record *r)
{
	r->done.wait(0);
	emu_acquire(&r->order);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
	if (auto r = event->last)
		stream_queue(stream, [r] { record_wait(r.get()); });
	return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
	if (event->last)
		record_wait(event->last.get());
	return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
	auto r = event->last;
	return query([=] { return !r || r->done.load(); });
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to)
{
	if (!from->last || !to->last)
		return emu_fail(cudaErrorInvalidResourceHandle);
	if (!from->last->done.load() || !to->last->done.load())
		return emu_fail(cudaErrorNotReady);
	*milliseconds = (float)((to->last->seconds - from->last->seconds) * 1e3);
	return cudaSuccess;
}

/* ---- copies ---- */

static cudaError_t refuse(const char *what, const void *block, size_t bytes)
{
	fprintf(stderr, "emulator: %s: %p, %zu bytes\n", what, block, bytes);
	return emu_fail(cudaErrorInvalidValue);
}

cudaError_t cudaMemcpyAsync(
	void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream)
{
	if (bytes == 0)
		return cudaSuccess;
	const void *device = kind == cudaMemcpyDeviceToHost ? from : to;
	const void *host = kind == cudaMemcpyHostToDevice ? from : to;
	if (!device_memory_holds(device, bytes))
		return refuse("a copy from or to what is not device memory", device, bytes);
	if (kind == cudaMemcpyDeviceToDevice && !device_memory_holds(from, bytes))
		return refuse("a copy from what is not device memory", from, bytes);
	if (kind != cudaMemcpyDeviceToDevice && !pinned_memory_holds(host, bytes))
		return refuse("an asynchronous copy from or to memory that is not pinned", host, bytes);
	stream_queue(stream, [=] { memcpy(to, from, bytes); });
	return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *block, int value, size_t bytes, cudaStream_t stream)
{
	if (bytes == 0)
		return cudaSuccess;
	if (!device_memory_holds(block, bytes))
		return refuse("setting what is not device memory", block, bytes);
	stream_queue(stream, [=] { memset(block, value, bytes); });
	return cudaSuccess;
}

cudaError_t cudaMemset(void *block, int value, size_t bytes)
{
	return cudaMemsetAsync(block, value, bytes, NULL);
}

/* ---- launches ---- */

cudaError_t emu_allow_shared(const void *kernel, int bytes)
{
	if (bytes < 0 || bytes > EMU_SHARED_MOST)
		return emu_fail(cudaErrorInvalidValue);
	std::lock_guard<quiet_lock> guard(streams.lock);
	streams.shared_allowed[kernel] = bytes;
	return cudaSuccess;
}

static size_t shared_allowed(const void *kernel)
{
	std::lock_guard<quiet_lock> guard(streams.lock);
	auto found = streams.shared_allowed.find(kernel);
	int allowed = found == streams.shared_allowed.end() ? 0 : found->second;
	return (size_t)(allowed > EMU_SHARED_DEFAULT ? allowed : EMU_SHARED_DEFAULT);
}

void emu_launch(const void *kernel, dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
	const void *const *pointers, int count, std::function<void()> body)
{
	uint64_t threads = (uint64_t)block.x * block.y * block.z;
	if (threads == 0 || threads > EMU_BLOCK_MOST || grid.x == 0 || grid.x > INT32_MAX || grid.y == 0 ||
		grid.y > 65535 || grid.z == 0 || grid.z > 65535 || shared > shared_allowed(kernel)) {
		(void)emu_fail(cudaErrorInvalidConfiguration);
		return;
	}
	for (int i = 0; i < count; i++)
		if (ordinary_memory(pointers[i]))
			emu_die("a kernel was given %p, which is not device memory", pointers[i]);
	stream_queue(stream, [=] { grid_run(kernel, grid, block, shared, body); });
}

/* ---- the device ---- */

cudaError_t cudaGetLastError(void)
{
	cudaError_t error = last_error;
	last_error = cudaSuccess;
	return error;
}

const char *cudaGetErrorName(cudaError_t error)
{
	static const char *const names[] = {"cudaSuccess", "cudaErrorInvalidValue",
		"cudaErrorMemoryAllocation", "cudaErrorInvalidConfiguration", "cudaErrorInvalidDevice",
		"cudaErrorInvalidResourceHandle", "cudaErrorNotReady"};
	return names[error];
}

const char *cudaGetErrorString(cudaError_t error)
{
	static const char *const texts[] = {"no error", "invalid argument", "out of memory",
		"invalid configuration argument", "invalid device ordinal", "invalid resource handle",
		"device not ready"};
	return texts[error];
}

cudaError_t cudaDriverGetVersion(int *version)
{
	*version = 13000;
	return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count)
{
	*count = (int)emu_setting("FERRY_EMU_DEVICES", 1);
	return cudaSuccess;
}

static bool device_there(int device)
{
	return device >= 0 && device < EMU_DEVICES && device < emu_setting("FERRY_EMU_DEVICES", 1);
}

cudaError_t cudaSetDevice(int device)
{
	if (!device_there(device))
		return emu_fail(cudaErrorInvalidDevice);
	current_device = device;
	return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
	*device = current_device;
	return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *out, int room, int device)
{
	if (!device_there(device))
		return emu_fail(cudaErrorInvalidDevice);
	snprintf(out, (size_t)room, "0000:%02X:00.0", device);
	return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *out, int device)
{
	if (!device_there(device))
		return emu_fail(cudaErrorInvalidDevice);
	memset(out, 0, sizeof *out);
	snprintf(out->name, sizeof out->name, "emulated GPU");
	long capability = emu_setting("FERRY_EMU_CAPABILITY", 80);
	out->major = (int)(capability / 10);
	out->minor = (int)(capability % 10);
	out->multiProcessorCount = 2;
	out->sharedMemPerBlockOptin = EMU_SHARED_MOST;
	out->sharedMemPerMultiprocessor = EMU_SHARED_MOST + 1024;
	size_t unused;
	return cudaMemGetInfo(&unused, &out->totalGlobalMem);
}
