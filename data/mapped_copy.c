#include "data/mapped_copy.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

enum { FAULT_GRAIN = 4096 }; /* a memory failure is reported for a page, not for the byte touched */

/* What this thread copies at the moment; the handler runs in the thread that faulted. */
static _Thread_local struct {
	sigjmp_buf escape;
	volatile uintptr_t first, last;
	volatile sig_atomic_t armed;
} guard;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* of installing */
static struct sigaction previous;

static bool is_guarded(const void *fault)
{
	uintptr_t address = (uintptr_t)fault;
	return guard.armed && (address | (FAULT_GRAIN - 1)) >= guard.first &&
	       (address & ~(uintptr_t)(FAULT_GRAIN - 1)) <= guard.last;
}

static void pass_on(int number, siginfo_t *info, void *context)
{
	/* Who replaced our handler may call it from theirs, and be what stood there when it was put back:
	 * passing on must not go round for ever. */
	static _Thread_local volatile sig_atomic_t passing;
	bool first = !passing;
	passing = 1;
	if (first && (previous.sa_flags & SA_SIGINFO)) {
		previous.sa_sigaction(number, info, context);
	} else if (first && previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
		previous.sa_handler(number);
	} else if (previous.sa_handler != SIG_IGN || info->si_code > 0) {
		signal(number, SIG_DFL); /* a fault happens again on return, and now ends the process */
		if (info->si_code <= 0)
			raise(number);
	}
	passing = 0;
}

static void on_bus_error(int number, siginfo_t *info, void *context)
{
	/* si_code <= 0 is a signal that some process sent: no fault of ours. */
	if (info->si_code > 0 && is_guarded(info->si_addr)) {
		guard.armed = 0;
		/* Leaving by a jump: the mask of before the signal is put back here, once a fault, and not by
		 * sigsetjmp, which would ask the system for it at every copy. */
		const ucontext_t *interrupted = context;
		pthread_sigmask(SIG_SETMASK, &interrupted->uc_sigmask, NULL);
		siglongjmp(guard.escape, 1);
	}
	pass_on(number, info, context);
}

void mapped_copy_prepare(void)
{
	struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_ONSTACK};
	struct sigaction current;
	sigemptyset(&action.sa_mask);
	pthread_mutex_lock(&mutex);
	sigaction(SIGBUS, NULL, &current);
	if (!(current.sa_flags & SA_SIGINFO) || current.sa_sigaction != on_bus_error) {
		previous = current; /* before ours can run */
		sigaction(SIGBUS, &action, NULL);
	}
	pthread_mutex_unlock(&mutex);
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
