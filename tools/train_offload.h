/*
 * train_offload.h: where `ferry train` has the optimizer: --optimizer-on, --cpu-optimizer, --delayed-update,
 * --half-gradients; and the layers' inputs: --cpu-checkpointing.
 *
 * auto keeps as much of it on the GPU as fits there. What is on the host speculates (engine/offload.h) with
 * half of the memory that is left. The results are the same bits wherever it is, except with a delay.
 *
 * The layers' inputs (--checkpoint-activations) go to the host where that is asked for, and where nothing
 * fits otherwise.
 */
#ifndef TOOLS_TRAIN_OFFLOAD_H
#define TOOLS_TRAIN_OFFLOAD_H

#include "engine/trainer.h"
#include "tools/device.h"
#include "tools/train_options.h"

/* Fills the rest of a configuration that is otherwise complete; `host`: bytes of memory that the host has. On
 * the CPU there is nothing to offload: the flags are checked and have no effect. */
enum status train_offload_choose(const struct train_settings *settings, const struct device_choice *device,
	uint64_t host, struct trainer_config *config) MUST_USE;

/* "optimizer: ... on the host ...; layers' inputs: ... on the host ..."; "" where nothing is. */
void train_offload_describe(
	const struct trainer_config *config, const struct trainer_memory *memory, char *text, size_t room);
/* How the steps of a run that ends went; "" where there was no offload. */
void train_offload_summarize(const struct offload *offload, char *text, size_t room);

#endif
