#include "data/mapped_copy.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

enum { FAULT_GRAIN = 4096 }; /* a memory failure is reported for a page, not for the byte touched */

/* What this thread copies at the moment; the handler runs in the thread that faulted. */
static _Thread_local struct {
	sigjmp_buf escape;
	volatile uintptr_t first, last;
	volatile sig_atomic_t armed;
} guard;

static struct sigaction previous;

static bool is_guarded(const void *fault)
{
	uintptr_t address = (uintptr_t)fault;
	return guard.armed && (address | (FAULT_GRAIN - 1)) >= guard.first &&
	       (address & ~(uintptr_t)(FAULT_GRAIN - 1)) <= guard.last;
}

static void on_bus_error(int number, siginfo_t *info, void *context)
{
	/* si_code <= 0 is a signal that some process sent: no fault of ours. */
	if (info->si_code > 0 && is_guarded(info->si_addr)) {
		guard.armed = 0;
		siglongjmp(guard.escape, 1);
	}
	if (previous.sa_flags & SA_SIGINFO) {
		previous.sa_sigaction(number, info, context);
	} else if (previous.sa_handler == SIG_DFL || (previous.sa_handler == SIG_IGN && info->si_code > 0)) {
		signal(number, SIG_DFL); /* a fault happens again on return, and now ends the process */
		if (info->si_code <= 0)
			raise(number);
	} else if (previous.sa_handler != SIG_IGN) {
		previous.sa_handler(number);
	}
}

static void install(void)
{
	/* SA_NODEFER: the handler may leave by siglongjmp without a signal mask to restore. */
	struct sigaction action = {
		.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
	sigemptyset(&action.sa_mask);
	sigaction(SIGBUS, NULL, &previous); /* before ours can run */
	sigaction(SIGBUS, &action, NULL);
}

void mapped_copy_prepare(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, install);
}

bool mapped_copy(void *to, const void *from, size_t bytes)
{
	if (!bytes)
		return true;
	guard.first = (uintptr_t)from;
	guard.last = (uintptr_t)from + bytes - 1;
	if (sigsetjmp(guard.escape, 0))
		return false;
	guard.armed = 1;
	atomic_signal_fence(memory_order_seq_cst);
	memcpy(to, from, bytes);
	atomic_signal_fence(memory_order_seq_cst);
	guard.armed = 0;
	return true;
}
