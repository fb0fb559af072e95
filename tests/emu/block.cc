/* Kernels: blocks in random order, their threads as fibers, barriers, collectives, shared memory. */
#include "tests/emu/emulator.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <vector>

enum state { READY, AT_BARRIER, IN_WARP, ENDED };
enum collective { WARP_BARRIER, SHUFFLE, REDUCE_MIN, BALLOT, MMA, MATRICES };
static const char *const collective_names[] = {
	"__syncwarp", "a shuffle", "a reduction", "a ballot", "mma", "ldmatrix"};

struct copy {
	void *shared;
	const void *global;
	bool valid;
};

struct thread {
	struct emu_place place;
	unsigned lane, warp;
	enum state state;
	struct emu_site site; /* where it waits */
	struct fiber *fiber;
	struct copy copies[16]; /* asynchronous, not yet done: from next_copy on */
	unsigned copy_count, next_copy;
	/* A collective of the warp: what this lane brings, and the place of its result. */
	enum collective collective;
	unsigned mask;
	const void *in;
	void *out;
	int from_lane;
	void *order;
};

struct array {
	const void *key;
	size_t offset, bytes;
};

/* What runs blocks: one a stream. */
struct processor {
	struct fiber *self = NULL;
	std::vector<struct fiber *> idle, spent; /* fibers with no thread; spent: not again in this block */
	std::vector<struct thread *> ready;
	std::vector<unsigned> waiting_to_begin;
	struct thread threads[EMU_BLOCK_MOST];
	struct thread *running = NULL;
	const std::function<void()> *body = NULL;
	const void *kernel = NULL;
	dim3 blocks, shape;
	unsigned count = 0, ended = 0, at_barrier = 0;
	uint64_t random = 0, launches = 0;
	int predicates[2] = {};
	unsigned phase = 0;
	char barrier_order[2] = {}, begin_order = 0, end_order = 0;
	unsigned in_warp[EMU_BLOCK_MOST / 32] = {}; /* lanes that wait in a collective, by warp */
	char warp_order[256] = {};
	unsigned warp_orders = 0;
	/* Shared memory: the launch's own part first, then arrays as they are met, each followed by a fence.
	 */
	char *shared = NULL;
	size_t shared_used = 0, dynamic = 0;
	std::vector<struct array> arrays;
};

enum { fence_bytes = 64, shared_bytes = 256 << 10 };

EMU_QUICK_LOCAL const struct emu_place *emu_here;
static EMU_QUICK_LOCAL struct processor *p;

static unsigned chance(unsigned below)
{
	p->random ^= p->random << 13;
	p->random ^= p->random >> 7;
	p->random ^= p->random << 17;
	return (unsigned)((p->random >> 32) * below >> 32);
}

/* ---- messages: a process's last, so one thread's ---- */

static const char *kernel_name(void)
{
	static char name[400];
	Dl_info info;
	int status = 1;
	char *plain = NULL;
	if (!dladdr(p->kernel, &info) || !info.dli_fname)
		return "a kernel";
	if (info.dli_sname && info.dli_saddr == p->kernel)
		plain = abi::__cxa_demangle(info.dli_sname, NULL, NULL, &status);
	if (status == 0)
		snprintf(name, sizeof name, "%s", plain);
	else
		snprintf(name, sizeof name, "the kernel at %s+0x%zx", info.dli_fname,
			(size_t)((const char *)p->kernel - (const char *)info.dli_fbase));
	free(plain);
	return name;
}

static const char *place_name(const struct thread *t)
{
	static char names[4][160];
	static unsigned next;
	char *name = names[next++ % 4];
	const dim3 &b = t->place.block, &i = t->place.thread;
	snprintf(name, 160, "block (%u,%u,%u) thread (%u,%u,%u)", b.x, b.y, b.z, i.x, i.y, i.z);
	return name;
}

static const char *what_of(const struct thread *t)
{
	static char names[4][600];
	static unsigned next;
	char *name = names[next++ % 4];
	if (t->state == ENDED)
		snprintf(name, 600, "has ended");
	else
		snprintf(name, 600, "waits at %s in %s (%s:%d)",
			t->state == AT_BARRIER ? "the barrier" : collective_names[t->collective],
			t->site.function, t->site.file, t->site.line);
	return name;
}

[[noreturn]] static void stuck(const char *what, const struct thread *a, const struct thread *b)
{
	emu_die("%s in %s: %s %s, %s %s", what, kernel_name(), place_name(a), what_of(a), place_name(b),
		what_of(b));
}

/* ---- scheduling ---- */

static void next_thread(void);

static void fiber_body(void)
{
	for (;;) {
		struct thread *t = p->running;
		emu_acquire(&p->begin_order);
		emu_here = &t->place;
		(*p->body)();
		emu_release(&p->end_order);
		if (t->next_copy < t->copy_count)
			emu_die("asynchronous copies that %s never waited for, in %s", place_name(t),
				kernel_name());
		t->state = ENDED;
		p->ended++;
		next_thread();
	}
}

static struct fiber *fresh_fiber(void)
{
	if (p->idle.empty())
		return fiber_open(fiber_body);
	struct fiber *f = p->idle.back();
	p->idle.pop_back();
	return f;
}

/* Some thread waits, none can go on: says who waits for whom. */
[[noreturn]] static void report_stuck(void)
{
	const struct thread *at_barrier = NULL, *in_warp = NULL, *ended = NULL;
	for (unsigned i = 0; i < p->count; i++) {
		const struct thread *t = &p->threads[i];
		(t->state == AT_BARRIER ? at_barrier : t->state == ENDED ? ended : in_warp) = t;
	}
	if (!in_warp)
		stuck("divergent barrier", at_barrier, ended);
	for (unsigned lane = 0; lane < 32; lane++) {
		unsigned other = in_warp->warp * 32 + lane;
		if (in_warp->mask >> lane & 1 && other >= p->count)
			emu_die("divergent warp in %s: %s %s, and its mask has lane %u, which does not exist",
				kernel_name(), place_name(in_warp), what_of(in_warp), lane);
		const struct thread *t = &p->threads[other];
		if (in_warp->mask >> lane & 1 && (t->state != IN_WARP || t->mask != in_warp->mask))
			stuck("divergent warp", in_warp, t);
	}
	stuck("divergent warp", in_warp, in_warp);
}

/* Leaves the running thread, which waits or has ended, for another, by chance; returns when it goes on. */
static void next_thread(void)
{
	struct thread *from = p->running;
	struct fiber *own = from->fiber;
	bool reuse = !emu_races_are_watched(); /* a fiber's threads would be in order to the sanitizer */
	size_t ready = p->ready.size(), fresh = p->waiting_to_begin.size();
	if (ready + fresh == 0) {
		if (p->ended < p->count)
			report_stuck();
		(reuse ? p->idle : p->spent).push_back(own);
		fiber_switch(own, p->self);
		return;
	}
	size_t which = chance((unsigned)(ready + fresh));
	if (which < ready) {
		p->running = p->ready[which];
		p->ready[which] = p->ready[ready - 1];
		p->ready.pop_back();
		if (from->state == ENDED)
			(reuse ? p->idle : p->spent).push_back(own);
	} else {
		p->running = &p->threads[p->waiting_to_begin.back()];
		p->waiting_to_begin.pop_back();
		if (from->state == ENDED && reuse) {
			p->running->fiber = own;
			return;
		}
		p->running->fiber = fresh_fiber();
		if (from->state == ENDED)
			p->spent.push_back(own);
	}
	if (p->running->fiber != own)
		fiber_switch(own, p->running->fiber);
}

/* Waits as t->state says until others have made it READY. */
static void wait_here(struct thread *t)
{
	next_thread();
	emu_here = &t->place;
}

static void make_ready(struct thread *t)
{
	t->state = READY;
	p->ready.push_back(t);
}

/* ---- barriers ---- */

int emu_barrier(int predicate, struct emu_site site)
{
	struct thread *t = p->running;
	unsigned phase = p->phase;
	t->state = AT_BARRIER;
	t->site = site;
	if (p->at_barrier++ == 0)
		p->predicates[phase % 2] = 0;
	p->predicates[phase % 2] += predicate != 0;
	/* Two objects in turn: who is late out of this barrier must not take the next one's order. */
	emu_release(&p->barrier_order[phase % 2]);
	if (p->at_barrier == p->count) {
		for (unsigned i = 0; i < p->count; i++) {
			struct thread *other = &p->threads[i];
			if (other->site.line != site.line ||
				(other->site.file != site.file && strcmp(other->site.file, site.file) != 0))
				stuck("two barriers", t, other);
			make_ready(other);
		}
		p->at_barrier = 0;
		p->phase++;
	}
	wait_here(t);
	emu_acquire(&p->barrier_order[phase % 2]);
	return p->predicates[phase % 2];
}

/* ---- a warp's collectives: the last lane to come does the work of all ---- */

static void unpack(float (&to)[2], uint32_t pair, enum emu_half type)
{
	for (int e = 0; e < 2; e++) {
		uint16_t bits = (uint16_t)(pair >> 16 * e);
		to[e] = type == EMU_F16 ? __half2float(__half{bits}) : __bfloat162float(__nv_bfloat16{bits});
	}
}

struct product {
	uint32_t a[4], b[2];
	float c[4];
	enum emu_half type;
};

static void multiply(struct thread *lanes)
{
	float a[16][16], b[8][16]; /* b transposed */
	for (int l = 0; l < 32; l++) {
		const struct product *in = (const struct product *)lanes[l].in;
		int g = l / 4, t = l % 4 * 2;
		for (int i = 0; i < 4; i++)
			unpack(*(float(*)[2]) & a[g + i % 2 * 8][t + i / 2 * 8], in->a[i], in->type);
		for (int i = 0; i < 2; i++)
			unpack(*(float(*)[2]) & b[g][t + 8 * i], in->b[i], in->type);
	}
	for (int l = 0; l < 32; l++) {
		struct product *out = (struct product *)lanes[l].out;
		int g = l / 4, t = l % 4 * 2;
		for (int i = 0; i < 4; i++) {
			const float *x = a[g + i / 2 * 8], *y = b[t + i % 2];
			float sum = out->c[i];
			for (int k = 0; k < 16; k++)
				sum += x[k] * y[k];
			out->c[i] = sum;
		}
	}
}

struct rows {
	uint4 row;
	uint32_t *result; /* [4] */
	bool transposed;
};

static void distribute(struct thread *lanes)
{
	uint16_t matrix[4][8][8];
	for (int l = 0; l < 32; l++)
		__builtin_memcpy(matrix[l / 8][l % 8], &((const struct rows *)lanes[l].in)->row, 16);
	for (int l = 0; l < 32; l++) {
		const struct rows *lane = (const struct rows *)lanes[l].in;
		int g = l / 4, t = l % 4 * 2;
		for (int m = 0; m < 4; m++)
			lane->result[m] = lane->transposed
						  ? matrix[m][t][g] | (uint32_t)matrix[m][t + 1][g] << 16
						  : matrix[m][g][t] | (uint32_t)matrix[m][g][t + 1] << 16;
	}
}

static void shuffle(struct thread *lanes, unsigned mask)
{
	for (int l = 0; l < 32; l++) {
		if (!(mask >> l & 1))
			continue;
		if (!(mask >> lanes[l].from_lane & 1))
			emu_die("a shuffle from lane %d, which is not in the mask, in %s (%s:%d)",
				lanes[l].from_lane, lanes[l].site.function, lanes[l].site.file,
				lanes[l].site.line);
		*(uint64_t *)lanes[l].out = *(const uint64_t *)lanes[lanes[l].from_lane].in;
	}
}

static void reduce(struct thread *lanes, unsigned mask, enum collective what)
{
	int least = INT32_MAX;
	unsigned ballot = 0;
	for (int l = 0; l < 32; l++) {
		if (!(mask >> l & 1))
			continue;
		int value = *(const int *)lanes[l].in;
		least = value < least ? value : least;
		ballot |= (unsigned)(value != 0) << l;
	}
	for (int l = 0; l < 32; l++)
		if (mask >> l & 1)
			*(unsigned *)lanes[l].out = what == BALLOT ? ballot : (unsigned)least;
}

static void perform(struct thread *lanes, unsigned mask, enum collective what)
{
	switch (what) {
	case WARP_BARRIER:
		break;
	case SHUFFLE:
		shuffle(lanes, mask);
		break;
	case REDUCE_MIN:
	case BALLOT:
		reduce(lanes, mask, what);
		break;
	case MMA:
		multiply(lanes);
		break;
	case MATRICES:
		distribute(lanes);
		break;
	}
}

/* All lanes of the mask come here before any goes on. */
static void meet(enum collective what, unsigned mask, const void *in, void *out, struct emu_site site)
{
	struct thread *t = p->running, *lanes = t - t->lane;
	if (!(mask >> t->lane & 1))
		emu_die("%s by a lane that is not in its mask, in %s (%s:%d)", collective_names[what],
			site.function, site.file, site.line);
	t->state = IN_WARP;
	t->site = site;
	t->collective = what;
	t->mask = mask;
	t->in = in;
	t->out = out;
	unsigned *waiting = &p->in_warp[t->warp];
	*waiting |= 1u << t->lane;
	bool all = (*waiting & mask) == mask;
	for (unsigned l = 0; l < 32 && all; l++)
		all = !(mask >> l & 1) || lanes[l].mask == mask;
	if (all) {
		*waiting &= ~mask;
		for (unsigned l = 0; l < 32; l++) {
			if (!(mask >> l & 1))
				continue;
			if (lanes[l].collective != what)
				stuck("different collectives", t, &lanes[l]);
			make_ready(&lanes[l]);
		}
		perform(lanes, mask, what);
	}
	wait_here(t);
}

void emu_warp_barrier(unsigned mask, struct emu_site site)
{
	struct thread *t = p->running, *lanes = t - t->lane;
	t->order = NULL;
	for (unsigned l = 0; l < 32 && !t->order; l++)
		if (l != t->lane && mask >> l & 1 && lanes[l].state == IN_WARP && lanes[l].mask == mask &&
			lanes[l].collective == WARP_BARRIER)
			t->order = lanes[l].order;
	if (!t->order)
		t->order = &p->warp_order[p->warp_orders++ % sizeof p->warp_order];
	void *order = t->order;
	emu_release(order);
	meet(WARP_BARRIER, mask, NULL, NULL, site);
	emu_acquire(order);
}

uint64_t emu_shuffle(unsigned mask, uint64_t bits, int from_lane, struct emu_site site)
{
	uint64_t theirs;
	p->running->from_lane = from_lane;
	meet(SHUFFLE, mask, &bits, &theirs, site);
	return theirs;
}

int emu_reduce_min(unsigned mask, int value, struct emu_site site)
{
	int least;
	meet(REDUCE_MIN, mask, &value, &least, site);
	return least;
}

unsigned emu_ballot(unsigned mask, int predicate, struct emu_site site)
{
	unsigned ballot;
	meet(BALLOT, mask, &predicate, &ballot, site);
	return ballot;
}

unsigned emu_lane(void)
{
	return p->running->lane;
}

void emu_mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, enum emu_half type,
	struct emu_site site)
{
	struct product mine = {{a[0], a[1], a[2], a[3]}, {b0, b1}, {c[0], c[1], c[2], c[3]}, type};
	meet(MMA, 0xffffffffu, &mine, &mine, site);
	for (int i = 0; i < 4; i++)
		c[i] = mine.c[i];
}

void emu_matrices(uint32_t (&r)[4], const uint4 &row, bool transposed, struct emu_site site)
{
	struct rows mine = {row, r, transposed};
	meet(MATRICES, 0xffffffffu, &mine, NULL, site);
}

/* ---- asynchronous copies ---- */

bool emu_copy_later(void *shared, const void *global, bool valid)
{
	if (((uintptr_t)shared | (uintptr_t)global) % 16)
		emu_die("cp.async of 16 bytes at %p, %p, which are not aligned, in %s", shared, global,
			kernel_name());
	struct thread *t = p->running;
	if (t->copy_count == 16 || chance(2))
		return false;
	t->copies[t->copy_count++] = {shared, global, valid};
	return true;
}

bool emu_copy_next(void **shared, const void **global, bool *valid)
{
	struct thread *t = p->running;
	if (t->next_copy == t->copy_count) {
		t->copy_count = t->next_copy = 0;
		return false;
	}
	const struct copy &c = t->copies[t->next_copy++];
	*shared = c.shared;
	*global = c.global;
	*valid = c.valid;
	return true;
}

/* ---- shared memory ---- */

static void shared_take(size_t bytes)
{
	size_t whole = (bytes + 15) / 16 * 16;
	if (p->shared_used + whole + fence_bytes > shared_bytes)
		emu_die("more shared memory than a block has, in %s", kernel_name());
	char *at = p->shared + p->shared_used;
	emu_unpoison(at, whole + fence_bytes);
	emu_fill(at, whole + fence_bytes);
	emu_poison(at + bytes, whole + fence_bytes - bytes);
	p->shared_used += whole + fence_bytes;
}

void *emu_shared_array(const void *key, size_t bytes)
{
	for (const struct array &a : p->arrays)
		if (a.key == key)
			return p->shared + a.offset;
	struct array a = {key, p->shared_used, bytes};
	if (p->arrays.size() == p->arrays.capacity())
		emu_die("more than %zu arrays of shared memory in %s", p->arrays.size(), kernel_name());
	size_t all = p->dynamic + bytes;
	for (const struct array &other : p->arrays)
		all += other.bytes;
	if (all > EMU_SHARED_MOST)
		emu_die("%zu bytes of shared memory in %s; a block has %d", all, kernel_name(),
			EMU_SHARED_MOST);
	p->arrays.push_back(a);
	shared_take(bytes);
	return p->shared + a.offset;
}

void *emu_shared_dynamic(void)
{
	return p->shared;
}

static void shared_begin(void)
{
	if (!p->shared) {
		void *at =
			mmap(NULL, shared_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (at == MAP_FAILED)
			emu_die("no memory for shared memory");
		p->shared = (char *)at;
		emu_poison(at, shared_bytes);
	}
	/* Other memory than the last block's, to the sanitizer. */
	if (emu_races_are_watched() && p->shared_used &&
		mmap(p->shared, (p->shared_used + 4095) / 4096 * 4096, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		emu_die("no memory for shared memory");
	emu_poison(p->shared, p->shared_used);
	p->shared_used = 0;
	p->arrays.clear();
	shared_take(p->dynamic);
}

static void check_fence(const char *what, size_t from, size_t bytes)
{
	size_t end = from + (bytes + 15) / 16 * 16 + fence_bytes;
	emu_unpoison(p->shared + from + bytes, end - from - bytes);
	for (size_t i = from + bytes; i < end; i++)
		if ((unsigned char)p->shared[i] != 0xff)
			emu_die("shared memory out of bounds in %s: %s of %zu bytes was written at byte %zu",
				kernel_name(), what, bytes, i - from);
}

static void shared_end(void)
{
	check_fence("the launch's array", 0, p->dynamic);
	for (const struct array &a : p->arrays)
		check_fence("an array", a.offset, a.bytes);
}

/* ---- blocks ---- */

static void block_run(dim3 block)
{
	shared_begin();
	emu_release(&p->begin_order); /* what follows the launch and shared_begin, but no other block */
	p->ended = p->at_barrier = 0;
	p->ready.clear();
	memset(p->in_warp, 0, sizeof p->in_warp);
	for (unsigned i = 0; i < p->count; i++) {
		struct thread *t = &p->threads[i];
		t->place.block = block;
		t->state = READY;
		t->copy_count = t->next_copy = 0;
		p->waiting_to_begin.push_back(i);
	}
	for (unsigned i = p->count; i-- > 1;)
		std::swap(p->waiting_to_begin[i], p->waiting_to_begin[chance(i + 1)]);
	p->running = &p->threads[p->waiting_to_begin.back()];
	p->waiting_to_begin.pop_back();
	p->running->fiber = fresh_fiber();
	fiber_switch(p->self, p->running->fiber);
	/* In another order for the next block. */
	p->idle.insert(p->idle.end(), p->spent.begin(), p->spent.end());
	p->spent.clear();
	for (size_t i = emu_races_are_watched() ? p->idle.size() : 0; i-- > 1;)
		std::swap(p->idle[i], p->idle[chance((unsigned)i + 1)]);
	shared_end();
}

static void processor_open(void)
{
	p = new processor();
	p->self = fiber_of_thread();
	/* Nothing is allocated while a fiber runs: the sanitizers would take it for the thread's. */
	for (auto *fibers : {&p->idle, &p->spent})
		fibers->reserve(2 * EMU_BLOCK_MOST);
	p->ready.reserve(EMU_BLOCK_MOST);
	p->waiting_to_begin.reserve(EMU_BLOCK_MOST);
	p->arrays.reserve(64);
}

void grid_run(
	const void *kernel, dim3 blocks, dim3 threads, size_t dynamic, const std::function<void()> &body)
{
	if (!p)
		processor_open();
	p->random = ((uint64_t)emu_setting("FERRY_EMU_SEED", 1) << 32 | ++p->launches) * 0x9e3779b97f4a7c15u;
	p->kernel = kernel;
	p->body = &body;
	p->dynamic = dynamic;
	p->count = threads.x * threads.y * threads.z;
	for (unsigned i = 0; i < p->count; i++) {
		struct thread *t = &p->threads[i];
		t->place.threads = threads;
		t->place.blocks = blocks;
		t->place.thread = dim3(i % threads.x, i / threads.x % threads.y, i / threads.x / threads.y);
		t->lane = i % 32;
		t->warp = i / 32;
	}
	std::vector<unsigned> order(blocks.x * blocks.y * blocks.z);
	for (unsigned i = 0; i < order.size(); i++) {
		unsigned j = chance(i + 1);
		order[i] = order[j];
		order[j] = i;
	}
	for (unsigned i : order)
		block_run(dim3(i % blocks.x, i / blocks.x % blocks.y, i / blocks.x / blocks.y));
	emu_acquire(&p->end_order);
}
