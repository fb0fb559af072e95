/*
 * device.h: where a command computes: --device auto|gpu|cpu.
 */
#ifndef TOOLS_DEVICE_H
#define TOOLS_DEVICE_H

#include "kernels/kernels.h"

#define DEVICE_CHOICES "auto|gpu|cpu"
#define DEVICE_HELP    "where to compute; auto: the GPU where there is one that ferry can use"
enum device { DEVICE_AUTO, DEVICE_GPU, DEVICE_CPU };

struct device_choice {
	bool gpu;
	int number;      /* of it */
	uint64_t unused; /* bytes of its memory that can be taken, CUDA's context being there; 0: not known */
	uint64_t alone;  /* the same where nothing else has to do with it: a constant of the machine */
	bool limited;    /* device_limit made it less */
	uint64_t logits; /* bytes of them that logits may take (kernels.h) */
	uint64_t attention; /* and attention, in their place (kernels.h) */
	/* Of it, in the machine (peers.h), where several ranks were launched; "": not known. */
	char place[PEERS_NAME];
	char why[512]; /* auto took the CPU: why; else "" */
};

/* Opens the GPU and closes it again (what takes long, CUDA's context and library, stays for the next opening). That
 * `gpu` cannot be had is an error that says why. `logits`: allowed bytes, 0: as many as usual. `number`: of the GPU;
 * where there is one alone, it is that. */
enum status device_choose(
	enum device wanted, int number, enum dtype act, uint64_t logits, struct device_choice *out) MUST_USE;
/* Of the GPU's memory no more is taken than `bytes`; 0: no limit. */
void device_limit(struct device_choice *choice, uint64_t bytes);

#endif
