/*
 * train_config.h: from the flags of `ferry train` to what the engine wants to know; for train and plan.
 */
#ifndef TOOLS_TRAIN_CONFIG_H
#define TOOLS_TRAIN_CONFIG_H

#include "engine/trainer.h"
#include "tools/train_offload.h"
#include "tools/train_options.h"

/* config's precision and loss_scale. Sets settings.fp32 where nothing else was chosen. Flags that exclude each other
 * are STATUS_USAGE. */
enum status train_config_precision(struct train_options *options, struct trainer_config *config) MUST_USE;

/*
 * Then what decides the work and the memory of a step: the model (checked), batches, window, threads, packed weights,
 * and where everything is on the machine (train_offload.h). The configuration's ranks are set
 * already, and threads where they are not all available.
 */
enum status train_config_step(const struct train_settings *settings, int vocabulary,
	struct train_machine *machine, struct trainer_config *config) MUST_USE;

#endif
