/*
 * Peers (kernels/peers.h) by NCCL, which is looked for at run time: the file that $FERRY_NCCL names, else libnccl.so.2
 * where the loader looks (LD_LIBRARY_PATH, beside CUDA's libraries, the system's folders); FERRY_NCCL=off: through the hosts.
 *
 * A block's way: one group of ncclSend and ncclRecv to and from every rank, this one too, as bytes. NCCL adds nothing:
 * sums are rank_sums', in the order of the ranks, whatever way the parts took.
 *
 * Failure. ncclSend and others return one; another process or the network is lost while a stream waits: then
 * ncclCommGetAsyncError says so, which every wait asks. Either way the communicator is aborted: kernels that wait for
 * data end. Both ncclCommAbort and ncclCommDestroy may themselves wait for the other ranks of this machine to call them
 * (NVIDIA's documentation; versions differ), who may never do; so they run on a thread of their own, and this one goes
 * on after some seconds.
 *
 * Proved so far: all of this file on the emulated device with a stand-in for NCCL (tests/emu/nccl.cc), its ranks processes
 * and threads; the declarations, against nccl.h of 2.28; of NCCL itself (2.28) that it loads, tells its version, invites,
 * and refuses to join for want of a driver. Nothing of it has run on GPUs: tests/gpu/run ranks does what the GPUs of a
 * machine allow.
 */
#include "kernels/cuda/backend.cuh"
#include "kernels/cuda/nccl.cuh"

#include "kernels/peers.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <time.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>

enum { patience = 3 }; /* seconds */

struct nccl {
	struct nccl_functions call;
	char name[PEERS_NAME];
	std::mutex lock;                        /* one thread at a time has to do with it */
	struct nccl_communicator *communicator; /* NULL: not joined, or left */
	struct error_copy failure;              /* the first; STATUS_OK: none */
	int rank, ranks;
};

/* ---- the library ---- */

static enum status load(const struct library_host *host, struct nccl_functions *out)
{
	const char *named = getenv("FERRY_NCCL");
	bool given = named && *named;
	if (given && strcmp(named, "off") == 0)
		return host->error_set(STATUS_UNSUPPORTED, "no NCCL: FERRY_NCCL=off");
	void *library = dlopen(given ? named : "libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
	if (!library)
		return host->error_set(STATUS_UNSUPPORTED, "no NCCL: %s%s", dlerror(),
			given ? ", which $FERRY_NCCL names"
			      : "; NVIDIA's package is libnccl2, and $FERRY_NCCL names a file elsewhere");
#define NCCL_FIND(result, function, ...)                                                                     \
	out->function = (result(*)(__VA_ARGS__))dlsym(library, #function);                                   \
	if (!out->function)                                                                                  \
		return host->error_set(STATUS_UNSUPPORTED,                                                   \
			"no NCCL: the library has no " #function "; 2.13 or later is needed");
	NCCL_FUNCTIONS(NCCL_FIND)
	return STATUS_OK;
}

static enum status open_library(struct backend *b)
{
	struct nccl *n = new (std::nothrow) nccl();
	int version = 0;
	if (!n)
		return b->host->error_set(STATUS_MEMORY, "no memory for NCCL");
	enum status status = load(b->host, &n->call);
	if (status == STATUS_OK && n->call.ncclGetVersion(&version) != NCCL_SUCCESS)
		status = b->host->error_set(STATUS_UNSUPPORTED, "no NCCL: it does not tell its version");
	if (status != STATUS_OK) {
		delete n;
		return status;
	}
	snprintf(n->name, sizeof n->name, "NCCL %d.%d.%d", version / 10000, version / 100 % 100,
		version % 100);
	b->nccl = n;
	return STATUS_OK;
}

static enum status peers_find(struct kernels *k, struct peers_found *out)
{
	struct backend *b = backend_enter(k);
	memset(out, 0, sizeof *out);
	cudaError_t error = cudaDeviceGetPCIBusId(out->device, sizeof out->device, b->device);
	if (error != cudaSuccess)
		return b->host->error_set(STATUS_UNSUPPORTED, "GPU %d does not tell its place on the bus: %s",
			b->device, cudaGetErrorString(error));
	if (!b->nccl)
		TRY(open_library(b));
	snprintf(out->library, sizeof out->library, "%s", b->nccl->name);
	return STATUS_OK;
}

/* ---- failure, and the end ---- */

static enum status told(struct backend *b, int result, const char *what)
{
	const struct nccl *n = b->nccl;
	const char *more = n->call.ncclGetLastError(n->communicator);
	bool has_more = more && *more;
	return b->host->error_set(STATUS_IO,
		"GPU %d: %s: %s: %s%s%s; with FERRY_NCCL=off gradients and weights go through host memory",
		b->device, n->name, what, n->call.ncclGetErrorString(result), has_more ? ": " : "",
		has_more ? more : "");
}

struct ending {
	int (*end)(struct nccl_communicator *communicator);
	struct nccl_communicator *communicator;
	int device;
};

static void *end_communicator(void *argument)
{
	struct ending *e = (struct ending *)argument;
	/* A new thread's is GPU 0, where this process would open a context. */
	(void)cudaSetDevice(e->device);
	(void)e->end(e->communicator);
	free(e);
	return NULL;
}

/* With the lock. What cannot be ended in time is left to the end of the process. */
static void end(struct backend *b, int (*how)(struct nccl_communicator *communicator))
{
	struct nccl *n = b->nccl;
	struct ending *e = (struct ending *)malloc(sizeof *e);
	pthread_t thread;
	if (e) {
		*e = {how, n->communicator, b->device};
		if (pthread_create(&thread, NULL, end_communicator, e) == 0) {
			struct timespec until;
			clock_gettime(CLOCK_REALTIME, &until);
			until.tv_sec += patience;
			if (pthread_timedjoin_np(thread, NULL, &until) != 0)
				pthread_detach(thread);
		} else {
			free(e);
		}
	}
	n->communicator = NULL;
}

/* With the lock. From here on every wait returns this. */
static void give_up(struct backend *b, int result, const char *what)
{
	b->host->error_save(told(b, result, what), &b->nccl->failure);
	end(b, b->nccl->call.ncclCommAbort);
}

/* True: there is nothing to watch any more. */
static bool is_over(struct backend *b)
{
	struct nccl *n = b->nccl;
	std::lock_guard<std::mutex> guard(n->lock);
	if (!n->communicator)
		return true;
	int result = NCCL_SUCCESS, asked = n->call.ncclCommGetAsyncError(n->communicator, &result);
	if (asked != NCCL_SUCCESS)
		result = asked;
	if (result == NCCL_SUCCESS || result == NCCL_IN_PROGRESS)
		return false;
	give_up(b, result, "gradients and weights on their way");
	return true;
}

/* Any thread of the process may wait. */
enum status nccl_watch(struct backend *b, cudaError_t (*query)(void *handle), void *handle)
{
	while (query(handle) == cudaErrorNotReady) {
		(void)cudaGetLastError(); /* that it is not ready is no failure */
		if (is_over(b))
			break;
		sched_yield();
	}
	std::lock_guard<std::mutex> guard(b->nccl->lock);
	return b->nccl->failure.status == STATUS_OK ? STATUS_OK : b->host->error_restore(&b->nccl->failure);
}

static void peers_leave(struct kernels *k)
{
	struct backend *b = backend_enter(k);
	struct nccl *n = b->nccl;
	if (!n)
		return;
	std::lock_guard<std::mutex> guard(n->lock);
	if (n->communicator)
		end(b, n->call.ncclCommDestroy);
}

void nccl_close(struct backend *b)
{
	delete b->nccl;
	b->nccl = NULL;
}

/* ---- joining ---- */

static enum status peers_invite(struct kernels *k, char invitation[PEERS_INVITATION])
{
	struct backend *b = backend_enter(k);
	struct nccl_id id;
	static_assert(sizeof id == PEERS_INVITATION, "NCCL's is the invitation");
	int result = b->nccl->call.ncclGetUniqueId(&id);
	if (result != NCCL_SUCCESS)
		return told(b, result, "ncclGetUniqueId");
	memcpy(invitation, &id, sizeof id);
	return STATUS_OK;
}

static enum status peers_join(struct kernels *k, const char invitation[PEERS_INVITATION], int rank, int ranks)
{
	struct backend *b = backend_enter(k);
	struct nccl *n = b->nccl;
	struct nccl_id id;
	memcpy(&id, invitation, sizeof id);
	n->rank = rank;
	n->ranks = ranks;
	int result = n->call.ncclCommInitRank(&n->communicator, ranks, id, rank);
	if (result == NCCL_SUCCESS)
		return STATUS_OK;
	n->communicator = NULL;
	return told(b, result, "ncclCommInitRank");
}

/* ---- moving ---- */

/* Of a group, to and from one rank; after a failure, nothing. */
static int pass(struct nccl *n, struct stream *s, int rank, const void *from, uint64_t sent, void *to,
	uint64_t received)
{
	int result = NCCL_SUCCESS;
	if (sent)
		result = n->call.ncclSend(from, sent, NCCL_INT8, rank, n->communicator, s->handle);
	if (result == NCCL_SUCCESS && received)
		result = n->call.ncclRecv(to, received, NCCL_INT8, rank, n->communicator, s->handle);
	return result;
}

/* passes(r) for every rank, as one group. */
template <typename Passes> static void move(struct backend *b, const char *what, const Passes &passes)
{
	struct nccl *n = b->nccl;
	std::lock_guard<std::mutex> guard(n->lock);
	if (!n->communicator)
		return;
	int result = n->call.ncclGroupStart();
	for (int r = 0; r < n->ranks && result == NCCL_SUCCESS; r++)
		result = passes(r);
	int ended = n->call.ncclGroupEnd();
	if (result == NCCL_SUCCESS)
		result = ended;
	if (result != NCCL_SUCCESS)
		give_up(b, result, what);
}

static void peers_exchange(
	struct kernels *k, struct stream *s, const void *block, const uint64_t *cuts, void *parts)
{
	struct backend *b = backend_enter(k);
	struct nccl *n = b->nccl;
	s = stream_of(k, s);
	uint64_t own = cuts[n->rank + 1] - cuts[n->rank];
	move(b, "an exchange of gradients", [=](int r) {
		return pass(n, s, r, (const char *)block + cuts[r], cuts[r + 1] - cuts[r],
			(char *)parts + (uint64_t)r * own, own);
	});
}

static void peers_gather(struct kernels *k, struct stream *s, void *block, const uint64_t *cuts)
{
	struct backend *b = backend_enter(k);
	struct nccl *n = b->nccl;
	s = stream_of(k, s);
	const char *own = (const char *)block + cuts[n->rank];
	uint64_t bytes = cuts[n->rank + 1] - cuts[n->rank];
	move(b, "a gathering of weights", [=](int r) {
		return r == n->rank
			       ? (int)NCCL_SUCCESS
			       : pass(n, s, r, own, bytes, (char *)block + cuts[r], cuts[r + 1] - cuts[r]);
	});
}

/* ---- adding ---- */

template <typename G, int V>
__global__ void __launch_bounds__(256) rank_sums(G *sum, const G *parts, int ranks, int64_t count)
{
	int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
	if (i >= count)
		return;
	float total[V], part[V];
	load(total, parts + i);
	for (int r = 1; r < ranks; r++) {
		load(part, parts + r * count + i);
#pragma unroll
		for (int e = 0; e < V; e++)
			total[e] += part[e];
	}
	store(sum + i, total);
}

/* Eight at a time where every rank's part is aligned to 16 bytes. */
template <typename G>
static void add(struct stream *s, void *sum, const void *parts, int ranks, int64_t count)
{
	bool wide = count % 8 == 0 && ((uintptr_t)sum | (uintptr_t)parts) % 16 == 0;
	if (wide)
		launch(rank_sums<G, 8>, ceiling(count, 256 * 8), 256, 0, s->handle, (G *)sum,
			(const G *)parts, ranks, count);
	else
		launch(rank_sums<G, 1>, ceiling(count, 256), 256, 0, s->handle, (G *)sum, (const G *)parts,
			ranks, count);
}

static void peers_add(
	struct kernels *k, struct stream *s, void *sum, const void *parts, int ranks, uint64_t count)
{
	struct backend *b = backend_enter(k);
	s = stream_of(k, s);
	if (!count)
		return;
	if (b->grad == DTYPE_F32)
		add<float>(s, sum, parts, ranks, (int64_t)count);
	else if (b->grad == DTYPE_F16)
		add<__half>(s, sum, parts, ranks, (int64_t)count);
	else
		add<__nv_bfloat16>(s, sum, parts, ranks, (int64_t)count);
	stream_launched(b, s, "sums over the ranks");
}

const struct peers nccl_peers = {.find = peers_find,
	.invite = peers_invite,
	.join = peers_join,
	.leave = peers_leave,
	.exchange = peers_exchange,
	.gather = peers_gather,
	.add = peers_add};
