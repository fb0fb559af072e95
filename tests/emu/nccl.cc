/*
 * Stands in for NCCL (kernels/cuda/nccl.cuh has what is used of it): ranks of one machine that are processes, or threads
 * with a device each, and move bytes through sockets. What a group does is done on its stream; groups of a communicator
 * are done one after the other, whatever their streams.
 *
 * It is as hard as the real one may be. A rank that waits for data waits until they come: of one that has given up it
 * learns nothing, only of one that died. ncclCommAbort and ncclCommDestroy return when all ranks have called one of them,
 * or died. Found, and ended with a message and abort(): a reception of another length than what was sent, memory that is
 * not the device's, groups within which communicators or streams differ, a communicator that is ended on another device than
 * it was joined on.
 */
#include "kernels/cuda/nccl.cuh"
#include "tests/emu/emulator.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <deque>
#include <memory>
#include <vector>

enum result {
	success,
	unhandled_cuda,
	system_error,
	internal_error,
	invalid_argument,
	invalid_usage,
	remote_error
};
enum { seconds_to_join = 30 };

static thread_local char last_error[200];

static int failed(enum result result, const char *format, int a, int b)
{
	snprintf(last_error, sizeof last_error, format, a, b);
	return result;
}

/* ---- what was asked for ---- */

/* True, once: it is the time to fail. */
static bool fails(const char *what, int rank)
{
	static std::atomic<int> calls;
	const char *wanted = getenv("FERRY_EMU_NCCL_FAIL");
	char name[8];
	int on, number;
	if (!wanted || sscanf(wanted, "%7[a-z]:%d:%d", name, &on, &number) != 3)
		return false;
	return strcmp(name, what) == 0 && on == rank && ++calls == number;
}

/* ---- communicators ---- */

struct peer {
	int socket = -1; /* -1: the rank itself */
	bool left = false;
};

struct communicator {
	int rank, ranks, device = -1;
	std::vector<struct peer> peers;
	std::atomic<int> failure{success};
	std::atomic<bool> given_up{false};
	std::atomic<uint64_t> issued{0}, done{0}; /* groups */
	~communicator()
	{
		for (struct peer &p : peers)
			if (p.socket >= 0)
				close(p.socket);
	}
};
struct nccl_communicator {
	std::shared_ptr<struct communicator> its;
};

/* What comes before anything on a socket. */
struct head {
	uint64_t leaving, bytes;
};
struct hello {
	int rank, ranks;
	char device[16];
};

static bool wholly(int socket, void *data, size_t bytes, bool send_it)
{
	for (size_t at = 0; at < bytes;) {
		ssize_t n = send_it ? send(socket, (char *)data + at, bytes - at, MSG_NOSIGNAL)
				    : recv(socket, (char *)data + at, bytes - at, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		at += (size_t)n;
	}
	return true;
}

/* Names without a file. */
static socklen_t address(struct sockaddr_un *out, const struct nccl_id *id, int rank)
{
	memset(out, 0, sizeof *out);
	out->sun_family = AF_UNIX;
	int length = snprintf(out->sun_path + 1, sizeof out->sun_path - 1, "%.80s-%d", id->internal, rank);
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
}

static int connect_to(const struct nccl_id *id, int rank)
{
	struct sockaddr_un to;
	socklen_t length = address(&to, id, rank);
	for (int i = 0; i < seconds_to_join * 100; i++) {
		int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (connect(s, (struct sockaddr *)&to, length) == 0)
			return s;
		close(s);
		struct timespec pause = {0, 10000000};
		nanosleep(&pause, NULL);
	}
	return -1;
}

static int accept_one(int listening)
{
	struct pollfd p = {listening, POLLIN, 0};
	return poll(&p, 1, seconds_to_join * 1000) == 1 ? accept4(listening, NULL, NULL, SOCK_CLOEXEC) : -1;
}

static bool greet(struct communicator *c, int socket, const char *device, struct hello *other)
{
	struct hello own = {};
	own.rank = c->rank;
	own.ranks = c->ranks;
	snprintf(own.device, sizeof own.device, "%s", device);
	return socket >= 0 && wholly(socket, &own, sizeof own, true) &&
	       wholly(socket, other, sizeof *other, false);
}

static int meet(struct communicator *c, const struct nccl_id *id, int listening)
{
	char device[16];
	int number;
	(void)cudaGetDevice(&number);
	c->device = number;
	(void)cudaDeviceGetPCIBusId(device, sizeof device, number);
	for (int i = 0; i < c->ranks - 1; i++) {
		struct hello other = {};
		int s = i < c->rank ? connect_to(id, i) : accept_one(listening);
		if (!greet(c, s, device, &other) || other.ranks != c->ranks || other.rank < 0 ||
			other.rank >= c->ranks || c->peers[(size_t)other.rank].socket >= 0) {
			if (s >= 0)
				close(s);
			return failed(
				system_error, "rank %d of %d did not meet the others", c->rank, c->ranks);
		}
		c->peers[(size_t)other.rank].socket = s;
		if (strcmp(other.device, device) == 0)
			return failed(invalid_usage, "Duplicate GPU detected : rank %d and rank %d", c->rank,
				other.rank);
	}
	return success;
}

extern "C" int ncclGetVersion(int *version)
{
	*version = 22809;
	return success;
}

extern "C" int ncclGetUniqueId(struct nccl_id *out)
{
	static std::atomic<int> number;
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	memset(out, 0, sizeof *out);
	snprintf(out->internal, sizeof out->internal, "ferry-emulated-nccl-%d-%d-%ld", (int)getpid(),
		++number, t.tv_nsec);
	return success;
}

extern "C" int ncclCommInitRank(struct nccl_communicator **out, int ranks, struct nccl_id id, int rank)
{
	*out = NULL;
	if (fails("init", rank))
		return failed(system_error, "rank %d of %d fails to join, as it was told to", rank, ranks);
	auto c = std::make_shared<struct communicator>();
	c->rank = rank;
	c->ranks = ranks;
	c->peers.resize((size_t)ranks);
	struct sockaddr_un own;
	socklen_t length = address(&own, &id, rank);
	int listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int result = success;
	if (bind(listening, (struct sockaddr *)&own, length) || listen(listening, ranks))
		result = failed(system_error, "rank %d of %d cannot listen", rank, ranks);
	if (result == success)
		result = meet(c.get(), &id, listening);
	close(listening);
	if (result == success)
		*out = new nccl_communicator{c};
	return result;
}

/* Says that this rank leaves, and waits for the others to. */
static int leave(struct nccl_communicator *communicator, bool give_up)
{
	auto c = communicator->its;
	int device = -1;
	(void)cudaGetDevice(&device);
	if (device != c->device) {
		fprintf(stderr, "emulated NCCL: device %d's communicator is ended on device %d\n", c->device,
			device);
		abort();
	}
	c->given_up = give_up;
	while (c->done < c->issued) { /* a group ends by itself, or is given up */
		struct timespec pause = {0, 1000000};
		nanosleep(&pause, NULL);
	}
	struct head bye = {1, 0};
	for (struct peer &p : c->peers)
		if (p.socket >= 0)
			(void)wholly(p.socket, &bye, sizeof bye, true);
	for (struct peer &p : c->peers) {
		char rest[4096];
		if (p.socket < 0 || p.left)
			continue;
		shutdown(p.socket, SHUT_WR);
		while (recv(p.socket, rest, sizeof rest, 0) > 0)
			;
	}
	delete communicator;
	return success;
}

extern "C" int ncclCommDestroy(struct nccl_communicator *communicator)
{
	return leave(communicator, false);
}

extern "C" int ncclCommAbort(struct nccl_communicator *communicator)
{
	return leave(communicator, true);
}

extern "C" int ncclCommGetAsyncError(struct nccl_communicator *communicator, int *out)
{
	*out = communicator->its->failure;
	if (*out != success)
		(void)failed(remote_error, "rank %d of %d has lost another", communicator->its->rank,
			communicator->its->ranks);
	return success;
}

extern "C" const char *ncclGetErrorString(int result)
{
	static const char *const texts[] = {"no error", "unhandled cuda error", "unhandled system error",
		"internal error", "invalid argument", "invalid usage",
		"remote process exited or there was a network error"};
	return texts[result];
}

extern "C" const char *ncclGetLastError(struct nccl_communicator *)
{
	return last_error;
}

/* ---- groups ---- */

struct transfer {
	char *memory;
	size_t bytes;
	int rank;
	bool send;
};

static thread_local struct group {
	int depth = 0, result = success;
	std::deque<struct transfer> transfers;
	std::shared_ptr<struct communicator> of;
	cudaStream_t stream = NULL;
} group;

/* With one rank, in one direction: one after the other, each behind its head. */
struct line {
	std::deque<struct transfer> waiting;
	struct head head = {0, 0};
	size_t at = 0; /* bytes of the head and of what follows it */
};

static void lose(struct communicator *c)
{
	c->failure = remote_error;
}

/* As much as goes now. */
static void advance(struct communicator *c, struct peer *p, struct line *l, bool send_it)
{
	while (!l->waiting.empty() && c->failure == success && !(p->left && !send_it)) {
		struct transfer &t = l->waiting.front();
		if (send_it && l->at == 0)
			l->head = {0, t.bytes};
		bool in_head = l->at < sizeof l->head;
		char *to = in_head ? (char *)&l->head + l->at : t.memory + (l->at - sizeof l->head);
		size_t left = in_head ? sizeof l->head - l->at : sizeof l->head + t.bytes - l->at;
		ssize_t n = send_it ? send(p->socket, to, left, MSG_NOSIGNAL | MSG_DONTWAIT)
				    : recv(p->socket, to, left, MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0)
			return lose(c);
		l->at += (size_t)n;
		if (l->at == sizeof l->head && !send_it && l->head.leaving)
			p->left = true;
		else if (l->at == sizeof l->head && !send_it && l->head.bytes != t.bytes)
			emu_die("NCCL: rank %d sends %zu bytes, and rank %d wants %zu", t.rank,
				(size_t)l->head.bytes, c->rank, t.bytes);
		if (l->at == sizeof l->head + t.bytes) {
			l->waiting.pop_front();
			l->at = 0;
		}
	}
}

static void to_itself(std::deque<struct transfer> &sent, std::deque<struct transfer> &received, int rank)
{
	if (sent.size() != received.size())
		emu_die("NCCL: rank %d sends itself %zu times, and receives %zu", rank, sent.size(),
			received.size());
	for (size_t i = 0; i < sent.size(); i++) {
		if (sent[i].bytes != received[i].bytes)
			emu_die("NCCL: rank %d sends itself %zu bytes, and wants %zu", rank, sent[i].bytes,
				received[i].bytes);
		memcpy(received[i].memory, sent[i].memory, sent[i].bytes);
	}
}

/* On the stream's thread. */
static void perform(struct communicator *c, const std::deque<struct transfer> &transfers)
{
	std::vector<struct line> out((size_t)c->ranks), in((size_t)c->ranks);
	for (const struct transfer &t : transfers)
		(t.send ? out : in)[(size_t)t.rank].waiting.push_back(t);
	size_t own = (size_t)c->rank;
	to_itself(out[own].waiting, in[own].waiting, c->rank);
	out[own].waiting.clear();
	in[own].waiting.clear();
	if (fails("link", c->rank))
		for (struct peer &p : c->peers)
			if (p.socket >= 0)
				shutdown(p.socket, SHUT_RDWR);
	while (!c->given_up) {
		std::vector<struct pollfd> wanted;
		for (size_t r = 0; r < out.size(); r++) {
			advance(c, &c->peers[r], &out[r], true);
			advance(c, &c->peers[r], &in[r], false);
			short events = (short)((out[r].waiting.empty() ? 0 : POLLOUT) |
					       (in[r].waiting.empty() || c->peers[r].left ? 0 : POLLIN));
			if (!out[r].waiting.empty() || !in[r].waiting.empty())
				wanted.push_back({c->peers[r].socket, events, 0});
		}
		if (wanted.empty())
			return;
		(void)poll(wanted.data(), c->failure == success ? wanted.size() : 0, 20);
	}
}

/* The places of what comes from two others. */
static void swap_two(std::deque<struct transfer> &transfers, int rank)
{
	struct transfer *first = NULL;
	for (struct transfer &t : transfers) {
		if (t.send || t.rank == rank)
			continue;
		if (first && first->bytes == t.bytes)
			return std::swap(first->memory, t.memory);
		if (!first)
			first = &t;
	}
}

extern "C" int ncclGroupStart(void)
{
	group.depth++;
	return success;
}

extern "C" int ncclGroupEnd(void)
{
	if (--group.depth > 0)
		return success;
	auto c = group.of;
	auto transfers = group.transfers;
	int result = group.result;
	group.of = NULL;
	group.transfers.clear();
	group.result = success;
	if (result != success || !c)
		return result;
	if (emu_setting("FERRY_EMU_NCCL_SWAP", 0))
		swap_two(transfers, c->rank);
	uint64_t turn = c->issued++;
	stream_queue(group.stream, [=] {
		while (c->done < turn && !c->given_up) {
			struct timespec pause = {0, 100000};
			nanosleep(&pause, NULL);
		}
		perform(c.get(), transfers);
		c->done++;
	});
	return success;
}

static int add(struct transfer t, int type, struct nccl_communicator *communicator, cudaStream_t stream)
{
	auto c = communicator->its;
	if (type != NCCL_INT8 || t.rank < 0 || t.rank >= c->ranks)
		return group.result = failed(invalid_argument, "type %d, rank %d", type, t.rank);
	if (t.send && fails("send", c->rank))
		return group.result = failed(system_error, "rank %d of %d fails to send, as it was told to",
			       c->rank, c->ranks);
	if (!device_memory_holds(t.memory, t.bytes))
		emu_die("NCCL was given %p, %zu bytes, which is not device memory", (void *)t.memory,
			t.bytes);
	if (group.of && (group.of != c || group.stream != stream))
		emu_die("NCCL: two communicators or two streams in one group");
	(void)ncclGroupStart();
	group.of = c;
	group.stream = stream;
	group.transfers.push_back(t);
	return ncclGroupEnd();
}

extern "C" int ncclSend(const void *from, size_t count, int type, int rank,
	struct nccl_communicator *communicator, cudaStream_t stream)
{
	return add({(char *)(uintptr_t)from, count, rank, true}, type, communicator, stream);
}

extern "C" int ncclRecv(void *to, size_t count, int type, int rank, struct nccl_communicator *communicator,
	cudaStream_t stream)
{
	return add({(char *)to, count, rank, false}, type, communicator, stream);
}

/* They are what the program takes them for. */
#define SAME(result, name, ...)                                                                              \
	static_assert(std::is_same<decltype(&name), result (*)(__VA_ARGS__)>::value,                         \
		"its declaration is another");
NCCL_FUNCTIONS(SAME)
