/* Fibers: a stack each, switched by hand; the sanitizers are told. */
#include "tests/emu/emulator.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

extern "C" {
__attribute__((weak)) void *__tsan_create_fiber(unsigned flags);
__attribute__((weak)) void __tsan_switch_to_fiber(void *f, unsigned flags);
__attribute__((weak)) void *__tsan_get_current_fiber(void);
/* Of the address sanitizer; the others have no such functions. */
__attribute__((weak)) void __sanitizer_start_switch_fiber(void **fake, const void *bottom, size_t bytes);
__attribute__((weak)) void __sanitizer_finish_switch_fiber(void *fake, const void **bottom, size_t *bytes);
}
enum { without_ordering = 1 };

struct fiber {
	void *top; /* of the saved stack: where the registers lie */
	char *stack;
	size_t bytes;
	void *fake;  /* address sanitizer */
	void *known; /* thread sanitizer */
	void (*body)(void);
};

enum { stack_bytes = 128 << 10, page = 4096 };

/* The one that was just switched to. */
static EMU_QUICK_LOCAL struct fiber *current;

/* Where every fiber's stack begins. */
static void begin(void)
{
	if (__sanitizer_finish_switch_fiber)
		__sanitizer_finish_switch_fiber(NULL, NULL, NULL);
	current->body();
	abort();
}

#if defined(__x86_64__)

/* Saves the callee's registers and the stack in *from, takes those of `to`. */
extern "C" void emu_switch_stack(void **from, void *to);
asm(R"(
.text
.globl emu_switch_stack
.hidden emu_switch_stack
.type emu_switch_stack, @function
emu_switch_stack:
	pushq %rbp
	pushq %rbx
	pushq %r12
	pushq %r13
	pushq %r14
	pushq %r15
	movq %rsp, (%rdi)
	movq %rsi, %rsp
	popq %r15
	popq %r14
	popq %r13
	popq %r12
	popq %rbx
	popq %rbp
	ret
.size emu_switch_stack, .-emu_switch_stack
)");

static void prepare(struct fiber *f)
{
	void **top = (void **)(f->stack + f->bytes);
	*--top = NULL; /* where begin would return to, and it stands aligned as after a call */
	*--top = (void *)begin;
	for (int i = 0; i < 6; i++)
		*--top = NULL;
	f->top = top;
}

static void switch_stacks(struct fiber *from, struct fiber *to)
{
	emu_switch_stack(&from->top, to->top);
}

#else

#include <ucontext.h>

static void prepare(struct fiber *f)
{
	ucontext_t *context = (ucontext_t *)calloc(1, sizeof *context);
	if (!context || getcontext(context))
		emu_die("no memory for a fiber");
	context->uc_stack.ss_sp = f->stack;
	context->uc_stack.ss_size = f->bytes;
	makecontext(context, begin, 0);
	f->top = context;
}

static void switch_stacks(struct fiber *from, struct fiber *to)
{
	if (!from->top)
		from->top = calloc(1, sizeof(ucontext_t));
	swapcontext((ucontext_t *)from->top, (const ucontext_t *)to->top);
}

#endif

struct fiber *fiber_open(void (*body)(void))
{
	struct fiber *f = (struct fiber *)calloc(1, sizeof *f);
	void *stack = mmap(NULL, stack_bytes + page, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (!f || stack == MAP_FAILED || mprotect(stack, page, PROT_NONE))
		emu_die("no memory for a fiber");
	f->stack = (char *)stack + page;
	f->bytes = stack_bytes;
	f->body = body;
	if (emu_races_are_watched())
		f->known = __tsan_create_fiber(0);
	prepare(f);
	return f;
}

struct fiber *fiber_of_thread(void)
{
	struct fiber *f = (struct fiber *)calloc(1, sizeof *f);
	if (!f)
		emu_die("no memory for a fiber");
	pthread_attr_t attributes;
	void *bottom = NULL;
	if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
		pthread_attr_getstack(&attributes, &bottom, &f->bytes);
		pthread_attr_destroy(&attributes);
	}
	f->stack = (char *)bottom;
	if (emu_races_are_watched())
		f->known = __tsan_get_current_fiber();
	return f;
}

void fiber_switch(struct fiber *from, struct fiber *to)
{
	current = to;
	if (__sanitizer_start_switch_fiber)
		__sanitizer_start_switch_fiber(&from->fake, to->stack, to->bytes);
	if (emu_races_are_watched())
		__tsan_switch_to_fiber(to->known, without_ordering);
	switch_stacks(from, to);
	const void *bottom;
	size_t bytes;
	if (__sanitizer_finish_switch_fiber)
		__sanitizer_finish_switch_fiber(from->fake, &bottom, &bytes);
}
