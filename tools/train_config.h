/*
 * train_config.h: from the flags of `ferry train` to what the engine wants to know; for train and plan.
 */
#ifndef TOOLS_TRAIN_CONFIG_H
#define TOOLS_TRAIN_CONFIG_H

#include "engine/loss_scale.h"
#include "engine/parameters.h"
#include "kernels/kernels.h"
#include "tools/train_options.h"

struct model_config train_config_model(const struct train_settings *settings, int vocabulary);

/* Sets settings.fp32 where nothing else was chosen. Flags that exclude each other are STATUS_USAGE. */
enum status train_config_precision(
	struct train_options *options, enum dtype *precision, struct loss_scale *scale) MUST_USE;

/* Bytes for packed copies of the weights on the CPU: where a step uses each more than once, and a quarter of
 * the memory holds them. 0: none. */
uint64_t train_config_packing(
	const struct model_config *model, enum dtype precision, uint64_t micro_batch, uint64_t global_batch);

#endif
