/* The CUDA backend's life: device, memory, streams, events, copies, and the table itself. */
#include "kernels/cuda/backend.cuh"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

/* Streams, events and memory belong to a device; a thread that has not said which gets the first. */
struct backend *backend_enter(struct kernels *k)
{
	static thread_local int current = -1;
	struct backend *b = backend_of(k);
	if (current != b->device && cudaSetDevice(b->device) == cudaSuccess)
		current = b->device;
	return b;
}

bool stream_check(struct backend *b, struct stream *s, cudaError_t error, const char *what)
{
	if (error == cudaSuccess)
		return true;
	(void)cudaGetLastError(); /* every call that fails leaves it for the next launch's check */
	if (s->failure.status == STATUS_OK) {
		enum status status = error == cudaErrorMemoryAllocation ? STATUS_MEMORY : STATUS_IO;
		b->host->error_save(b->host->error_set(status, "GPU %d: %s: %s (%s)", b->device, what,
					    cudaGetErrorString(error), cudaGetErrorName(error)),
			&s->failure);
	}
	return false;
}

void stream_fail(struct backend *b, struct stream *s, enum status status, const char *message)
{
	if (s->failure.status == STATUS_OK)
		b->host->error_save(
			b->host->error_set(status, "GPU %d: %s", b->device, message), &s->failure);
}

void *stream_scratch(struct backend *b, struct stream *s, size_t bytes, const char *what)
{
	if (bytes > s->scratch_bytes) {
		(void)stream_check(b, s, cudaStreamSynchronize(s->handle), what);
		(void)cudaFree(s->scratch);
		s->scratch = NULL;
		s->scratch_bytes = 0;
		if (!stream_check(b, s, cudaMalloc(&s->scratch, bytes), what)) {
			s->scratch = NULL;
			return NULL;
		}
		s->scratch_bytes = bytes;
	}
	return s->scratch;
}

static enum status memory_alloc(struct kernels *k, void **out, size_t bytes, const char *what)
{
	struct backend *b = backend_enter(k);
	*out = NULL;
	cudaError_t error = cudaMalloc(out, bytes ? bytes : 1);
	if (error == cudaSuccess)
		error = cudaMemset(*out, 0, bytes);
	if (error == cudaSuccess)
		error = cudaDeviceSynchronize(); /* zeroed before any other stream can look */
	if (error == cudaSuccess)
		return STATUS_OK;
	(void)cudaGetLastError();
	(void)cudaFree(*out);
	*out = NULL;
	size_t unused = 0, total = 0;
	(void)cudaMemGetInfo(&unused, &total);
	return b->host->error_set(error == cudaErrorMemoryAllocation ? STATUS_MEMORY : STATUS_IO,
		"GPU %d: no memory for %s: %zu bytes wanted, %zu of %zu free (%s); a smaller micro-batch "
		"takes less",
		b->device, what, bytes, unused, total, cudaGetErrorString(error));
}

static void memory_free(struct kernels *k, void *block, size_t bytes)
{
	(void)bytes;
	(void)backend_enter(k);
	(void)cudaFree(block);
}

static enum status host_alloc(struct kernels *k, void **out, size_t bytes, const char *what)
{
	struct backend *b = backend_enter(k);
	*out = NULL;
	cudaError_t error = cudaMallocHost(out, bytes ? bytes : 1);
	if (error != cudaSuccess) {
		(void)cudaGetLastError();
		*out = NULL;
		return b->host->error_set(STATUS_MEMORY,
			"no pinned host memory for %s: %zu bytes wanted (%s)", what, bytes,
			cudaGetErrorString(error));
	}
	memset(*out, 0, bytes);
	return STATUS_OK;
}

static void host_free(struct kernels *k, void *block, size_t bytes)
{
	(void)bytes;
	(void)backend_enter(k);
	(void)cudaFreeHost(block);
}

static uint64_t memory_unused(struct kernels *k)
{
	(void)backend_enter(k);
	size_t unused = 0, total = 0;
	if (cudaMemGetInfo(&unused, &total) != cudaSuccess)
		return 0;
	return unused ? unused : 1;
}

static enum status stream_open(struct kernels *k, struct stream **out)
{
	struct backend *b = backend_enter(k);
	*out = NULL;
	struct stream *s = (struct stream *)calloc(1, sizeof *s);
	if (!s)
		return b->host->error_set(STATUS_MEMORY, "no memory for a stream");
	/* What has streams of its own moves data beside the model, on the default one: little work that others wait for,
	 * which would otherwise stand behind all blocks of the products that the model has queued. */
	int least = 0, greatest = 0;
	cudaError_t error = cudaDeviceGetStreamPriorityRange(&least, &greatest);
	if (error == cudaSuccess)
		error = cudaStreamCreateWithPriority(&s->handle, cudaStreamNonBlocking, greatest);
	if (error != cudaSuccess) {
		free(s);
		return b->host->error_set(
			STATUS_IO, "GPU %d: stream: %s", b->device, cudaGetErrorString(error));
	}
	*out = s;
	return STATUS_OK;
}

static void stream_release(struct stream *s)
{
	(void)cudaStreamSynchronize(s->handle);
	(void)cudaFree(s->scratch);
	(void)cudaFree(s->workspace);
}

static void stream_close(struct kernels *k, struct stream *s)
{
	(void)backend_enter(k);
	if (!s)
		return;
	stream_release(s);
	(void)cudaStreamDestroy(s->handle);
	free(s);
}

static cudaError_t query_stream(void *handle)
{
	return cudaStreamQuery((cudaStream_t)handle);
}

static cudaError_t query_event(void *handle)
{
	return cudaEventQuery((cudaEvent_t)handle);
}

static enum status stream_wait(struct kernels *k, struct stream *s)
{
	struct backend *b = backend_enter(k);
	s = stream_of(k, s);
	if (b->nccl)
		TRY(nccl_watch(b, query_stream, s->handle));
	(void)stream_check(b, s, cudaStreamSynchronize(s->handle), "work on a stream");
	if (s->failure.status == STATUS_OK)
		return STATUS_OK;
	enum status status = b->host->error_restore(&s->failure);
	s->failure.status = STATUS_OK;
	return status;
}

static enum status event_open(struct kernels *k, struct event **out)
{
	struct backend *b = backend_enter(k);
	*out = NULL;
	struct event *e = (struct event *)calloc(1, sizeof *e);
	if (!e)
		return b->host->error_set(STATUS_MEMORY, "no memory for an event");
	cudaError_t error = cudaEventCreate(&e->handle);
	if (error != cudaSuccess) {
		free(e);
		return b->host->error_set(
			STATUS_IO, "GPU %d: event: %s", b->device, cudaGetErrorString(error));
	}
	*out = e;
	return STATUS_OK;
}

static void event_close(struct kernels *k, struct event *e)
{
	(void)backend_enter(k);
	if (!e)
		return;
	(void)cudaEventDestroy(e->handle);
	free(e);
}

static void event_record(struct kernels *k, struct event *e, struct stream *s)
{
	struct backend *b = backend_enter(k);
	s = stream_of(k, s);
	(void)stream_check(b, s, cudaEventRecord(e->handle, s->handle), "event record");
}

static void event_await(struct kernels *k, struct event *e, struct stream *s)
{
	struct backend *b = backend_enter(k);
	s = stream_of(k, s);
	(void)stream_check(b, s, cudaStreamWaitEvent(s->handle, e->handle, 0), "waiting for an event");
}

static enum status event_wait(struct kernels *k, struct event *e)
{
	struct backend *b = backend_enter(k);
	if (b->nccl)
		TRY(nccl_watch(b, query_event, e->handle));
	cudaError_t error = cudaEventSynchronize(e->handle);
	if (error != cudaSuccess)
		return b->host->error_set(
			STATUS_IO, "GPU %d: event: %s", b->device, cudaGetErrorString(error));
	return STATUS_OK;
}

static double event_seconds(struct kernels *k, struct event *from, struct event *to)
{
	(void)backend_enter(k);
	float milliseconds = 0;
	if (cudaEventElapsedTime(&milliseconds, from->handle, to->handle) != cudaSuccess)
		(void)cudaGetLastError(); /* no launch's failure */
	return milliseconds * 1e-3;
}

static void copy_kind(struct kernels *k, struct stream *s, void *to, const void *from, size_t bytes,
	enum cudaMemcpyKind kind, const char *what)
{
	struct backend *b = backend_enter(k);
	s = stream_of(k, s);
	(void)stream_check(b, s, cudaMemcpyAsync(to, from, bytes, kind, s->handle), what);
}

/*
 * A device's copies in one direction go through one engine, in order: of the default stream's, which the model and the
 * decision about a step wait for, the small ones (tokens, losses, the norm) would stand behind megabytes of gradients or
 * weights that other streams have queued. A kernel goes by none of that: pinned memory is the device's to address.
 */
enum { small_copy = 256 << 10, copy_blocks = 8 };

static __global__ void __launch_bounds__(256)
	copy_vectors(uint4 *__restrict__ to, const uint4 *__restrict__ from, int count)
{
#pragma unroll 4
	for (int i = blockIdx.x * 256 + threadIdx.x; i < count; i += gridDim.x * 256)
		to[i] = from[i];
}

static bool copied_small(
	struct kernels *k, struct stream *s, void *to, const void *from, size_t bytes, const void *host)
{
	struct backend *b = backend_enter(k);
	struct cudaPointerAttributes attributes;
	s = stream_of(k, s);
	if (s != &b->default_stream || !bytes || bytes > small_copy ||
		((uintptr_t)to | (uintptr_t)from | bytes) % sizeof(uint4))
		return false;
	if (cudaPointerGetAttributes(&attributes, host) != cudaSuccess) {
		(void)cudaGetLastError();
		return false;
	}
	if (attributes.type != cudaMemoryTypeHost)
		return false;
	int count = (int)(bytes / sizeof(uint4)), blocks = ceiling(count, 256);
	launch(copy_vectors, blocks < copy_blocks ? blocks : copy_blocks, 256, 0, s->handle, (uint4 *)to,
		(const uint4 *)from, count);
	stream_launched(b, s, "small copy");
	return true;
}

static void copy_in(struct kernels *k, struct stream *s, void *device, const void *host, size_t bytes)
{
	if (!copied_small(k, s, device, host, bytes, host))
		copy_kind(k, s, device, host, bytes, cudaMemcpyHostToDevice, "copy to the GPU");
}

static void copy_out(struct kernels *k, struct stream *s, void *host, const void *device, size_t bytes)
{
	if (!copied_small(k, s, host, device, bytes, host))
		copy_kind(k, s, host, device, bytes, cudaMemcpyDeviceToHost, "copy from the GPU");
}

static void copy(struct kernels *k, struct stream *s, void *to, const void *from, size_t bytes)
{
	copy_kind(k, s, to, from, bytes, cudaMemcpyDeviceToDevice, "copy on the GPU");
}

static void zero(struct kernels *k, struct stream *s, void *block, size_t bytes)
{
	struct backend *b = backend_enter(k);
	s = stream_of(k, s);
	(void)stream_check(b, s, cudaMemsetAsync(block, 0, bytes, s->handle), "zeroing");
}

static enum status reserve(struct kernels *k, const struct kernel_shapes *shapes)
{
	backend_enter(k)->shapes = *shapes;
	return STATUS_OK;
}

static void weights_changed(struct kernels *k)
{
	(void)k; /* nothing is packed */
}

/* Products first, then attention. */
static bool choice_get(struct kernels *k, int i, char text[KERNELS_CHOICE])
{
	struct backend *b = backend_enter(k);
	int products = gemm_choice_count(b);
	return i < products ? gemm_choice_get(b, i, text) : attention_choice_get(b, i - products, text);
}

static bool choice_set(struct kernels *k, const char *text)
{
	struct backend *b = backend_enter(k);
	return gemm_choice_set(b, text) || attention_choice_set(b, text);
}

static void backend_close(struct kernels *k)
{
	struct backend *b = backend_enter(k);
	stream_release(&b->default_stream);
	gemm_close(b);
	cudnn_close(b);
	nccl_close(b);
	free(b);
	memset(k, 0, sizeof *k);
}

static enum status choose_device(
	const struct library_host *host, int device, struct cudaDeviceProp *properties)
{
	int count = 0, driver = 0;
	if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
		return host->error_set(STATUS_UNSUPPORTED, "no GPU: this machine has no NVIDIA driver");
	cudaError_t error = cudaGetDeviceCount(&count);
	if (error != cudaSuccess)
		return host->error_set(
			STATUS_UNSUPPORTED, "no usable GPU: %s (see nvidia-smi)", cudaGetErrorString(error));
	if (device < 0 || device >= count)
		return host->error_set(STATUS_UNSUPPORTED, "no GPU %d: this machine has %d (numbered from 0)",
			device, count);
	error = cudaSetDevice(device);
	if (error == cudaSuccess)
		error = cudaGetDeviceProperties(properties, device);
	if (error != cudaSuccess)
		return host->error_set(
			STATUS_UNSUPPORTED, "GPU %d cannot be used: %s", device, cudaGetErrorString(error));
	if (properties->major < 8)
		return host->error_set(STATUS_UNSUPPORTED,
			"GPU %d (%s) has compute capability %d.%d; ferry needs 8.0 or later", device,
			properties->name, properties->major, properties->minor);
	return STATUS_OK;
}

static void fill_table(struct kernels *out)
{
	out->close = backend_close;
	out->reserve = reserve;
	out->memory_alloc = memory_alloc;
	out->memory_free = memory_free;
	out->host_alloc = host_alloc;
	out->host_free = host_free;
	out->memory_unused = memory_unused;
	out->stream_open = stream_open;
	out->stream_close = stream_close;
	out->stream_wait = stream_wait;
	out->event_open = event_open;
	out->event_close = event_close;
	out->event_record = event_record;
	out->event_await = event_await;
	out->event_wait = event_wait;
	out->event_seconds = event_seconds;
	out->copy_in = copy_in;
	out->copy_out = copy_out;
	out->copy = copy;
	out->zero = zero;
	out->convert = cuda_convert;
	out->gather = cuda_gather;
	out->scatter = cuda_scatter;
	out->embedding_forward = cuda_embedding_forward;
	out->embedding_backward = cuda_embedding_backward;
	out->layernorm_forward = cuda_layernorm_forward;
	out->layernorm_backward = cuda_layernorm_backward;
	out->dropout_apply = cuda_dropout_apply;
	out->linear_forward = cuda_linear_forward;
	out->linear_backward = cuda_linear_backward;
	out->gelu_forward = cuda_gelu_forward;
	out->attention_forward = cuda_attention_forward;
	out->attention_backward = cuda_attention_backward;
	out->attention_decode = cuda_attention_decode;
	out->classifier = cuda_classifier;
	out->logits = cuda_logits;
	out->gradient_stats = cuda_gradient_stats;
	out->adamw = cuda_adamw;
	out->weights_changed = weights_changed;
	out->choice_get = choice_get;
	out->choice_set = choice_set;
	out->peers = &nccl_peers;
}

extern "C" __attribute__((visibility("default"))) enum status ferry_cuda_open(
	const struct library_host *host, const struct kernels_config *config, struct kernels *out)
{
	TRY(library_check(host, "cuda", CUDA_INTERFACE_VERSION, sizeof *out));
	if (config->grad != DTYPE_F32 && config->grad != config->act)
		return host->error_set(STATUS_USAGE,
			"gradients are fp32 or of the activations' type, not a second half-precision type");
	struct cudaDeviceProp properties;
	TRY(choose_device(host, config->device, &properties));
	struct backend *b = (struct backend *)calloc(1, sizeof *b);
	if (!b)
		return host->error_set(STATUS_MEMORY, "no memory for the CUDA backend");
	b->host = host;
	b->act = config->act;
	b->grad = config->grad;
	b->device = config->device;
	b->processors = properties.multiProcessorCount;
	b->capability = 10 * properties.major + properties.minor;
	b->fused_epilogues = b->act != DTYPE_F32 && knob("FERRY_CUDA_EPILOGUES", 1) != 0;
	b->exact_logits = knob("FERRY_CUDA_EXACT_LOGITS", 0) != 0;
	b->cached_logits = knob("FERRY_CUDA_CACHED_LOGITS", 1) != 0;
	b->shared_bytes = properties.sharedMemPerMultiprocessor;
	/* An 80th of the memory (1 GB of 80): larger chunks add to the head's gradient less often. */
	b->logits_bytes = (int64_t)knob("FERRY_CUDA_LOGITS_MB", (int)(properties.totalGlobalMem / 80 >> 20))
			  << 20;
	if (config->logits_bytes)
		b->logits_bytes = (int64_t)config->logits_bytes;
	b->attention_bytes = (uint64_t)knob("FERRY_CUDA_ATTENTION_KB", KERNELS_ATTENTION >> 10) << 10;
	enum status status = gemm_open(b);
	if (status != STATUS_OK) {
		free(b);
		return status;
	}
	memset(out, 0, sizeof *out);
	out->act = config->act;
	out->grad = config->grad;
	out->logits_bytes = (uint64_t)b->logits_bytes;
	out->memory_bytes = properties.totalGlobalMem;
	out->self = b;
	snprintf(out->name, sizeof out->name, "%.60s, %d SMs, cuBLASLt %zu", properties.name, b->processors,
		cublasLtGetVersion());
	fill_table(out);
	status = gemm_read_choices(b, out->name);
	if (status == STATUS_OK)
		status = cudnn_open(b, out);
	if (status != STATUS_OK)
		backend_close(out);
	return status;
}
