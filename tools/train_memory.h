/*
 * train_memory.h: the memory of `ferry train`: what it may have of the machine, what cannot fit and is refused before
 * anything is allocated, and what is said of it.
 */
#ifndef TOOLS_TRAIN_MEMORY_H
#define TOOLS_TRAIN_MEMORY_H

#include "tools/train_log.h"
#include "tools/train_offload.h"

enum { TRAIN_MEMORY_LIST = 512 }; /* room for a list */

/*
 * Fills the machine's host_memory, host_ranks and device_ranks. Of several ranks, `host_ranks` of them on this host, each
 * has its part of the host's memory, and of a GPU's that several have between them; all plan with what the one has that
 * has the least. All ranks call it.
 */
enum status train_memory_share(
	struct train_machine *machine, struct collective *ranks, int host_ranks) MUST_USE;
/* What the configuration takes, and the bytes of the host's that are available; STATUS_USAGE with the cure where it does
 * not fit. */
enum status train_memory_check(const struct train_machine *machine, const struct trainer_config *config,
	struct trainer_memory *out, uint64_t *available) MUST_USE;
/* "weights 5.1 MiB, gradients 1.7 MiB, ...": what the device's bytes are for, or the host's: all of them, no kind that has none. */
void train_memory_list(const struct trainer_memory *memory, bool device, char *text, size_t room);
/* That, and where the optimizer and the layers' inputs are, and why. */
void train_memory_tell(struct train_log *log, const struct train_machine *machine,
	const struct trainer_config *config, const struct train_settings *settings,
	const struct trainer_memory *memory, uint64_t available);

#endif
