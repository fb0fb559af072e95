/*
 * train_offload.h: where `ferry train` has the optimizer: --optimizer-on, --cpu-optimizer, --delayed-update,
 * --half-gradients; and the layers' inputs: --cpu-checkpointing.
 *
 * What is on the host speculates (engine/offload.h) with half of the memory that is left there. Of what the GPU has left
 * then, it borrows state. Shadows come first: two of the GPU's bytes keep an element's update out of the step's way, of a loan
 * it takes twelve. What is lent are the token embedding's rows that are final last, and with them what the next forward wants
 * first: positions, the first layer that has something on the host, the next, ... Where rates are known (engine/plan.h), so
 * many as make a step quickest, or the fewest that come within 0.2% of it (17 numbers of them are tried, of a deep model not
 * each); half of the layers on the host at most, for there is where the optimizer was asked to be. Where rates are not known, one layer: by the plan never slower than none, and up to
 * 18% quicker (models from 4 to 48 layers, batches from 1 to 32, hosts from 20 to 200 GB/s; so many as the plan would take,
 * up to 46%). To measure rates takes a second, so it is done, unless the run is short beside it: of no more work than half a
 * minute at 1 PFLOP/s. Of rows there is room for a quarter more than English looks up; those beyond stay the host's.
 *
 * auto leaves all of it on the GPU where it fits: nothing on the host is quicker by more than AdamW's pass there, a
 * percent or two of a step. Where it does not fit, the more stays, the less the host has to do, and the less room there
 * is on the GPU for the weights of what it speculates on. engine/plan.h foretells the step for some shares, from none
 * to as much as fits, each with the shadows and loans that memory would give it, at rates that are measured then, but
 * for the one between ranks, a guess (train_forecast.h); of the shares that are as quick as the quickest within a
 * percent, the largest is taken. A 64th of the GPU's free memory is left alone: kernels that are loaded later take
 * some.
 *
 * Of several ranks each has that share of its part there. They measure rates of their own; rank 0's choice is everybody's
 * (train_offload_agree), which is why all must plan with the memory of the one that has the least.
 *
 * No choice of auto shows in the results, nor what is lent: they are the same bits wherever the optimizer is (offload.h; tests/emu),
 * so that a run may choose otherwise when it goes on. A delay is the exception, for what is on the host sees it
 * alone: with --delayed-update the place must be said.
 *
 * The layers' inputs (--checkpoint-activations) go to the host where that is asked for, where nothing fits otherwise, and
 * where the room that they leave on the GPU to an optimizer of which a part is on the host makes a step quicker, by the
 * plan, by a percent or more.
 */
#ifndef TOOLS_TRAIN_OFFLOAD_H
#define TOOLS_TRAIN_OFFLOAD_H

#include "engine/plan.h"
#include "engine/trainer.h"
#include "tools/device.h"
#include "tools/train_options.h"

struct train_machine {
	struct device_choice device;
	uint64_t host_memory;    /* bytes that are free, for one rank */
	int host_ranks;          /* that are on this host */
	int device_ranks;        /* that have this rank's GPU between them; device.unused is one's part */
	struct plan_rates rates; /* matrix_flops 0: not known; measured where they are wanted */
	char reason[200];        /* what auto chose on a GPU, and why; "": nothing was left to it */
};

/* Fills the rest of a configuration that is otherwise complete. On the CPU there is nothing to offload: the
 * flags are checked and have no effect. */
enum status train_offload_choose(const struct train_settings *settings, struct train_machine *machine,
	struct trainer_config *config) MUST_USE;
/* Of several ranks: all take rank 0's choice, and size their shadows for it. */
enum status train_offload_agree(struct train_machine *machine, struct trainer_config *config) MUST_USE;
/* The memory for shadows that a configuration with an offload gets there; nothing is lent. */
enum status train_offload_speculate(
	const struct train_machine *machine, struct trainer_config *config) MUST_USE;
/* Then what the GPU borrows, of exact updates: the quickest by the rates where they are known, the usual else. */
enum status train_offload_lend(const struct train_machine *machine, struct trainer_config *config) MUST_USE;

/* "optimizer: ... on the host ...; layers' inputs: ... on the host ...; LayerNorm's and GELU's outputs are computed
 * again ..."; "" where none of it is so. */
void train_offload_describe(
	const struct trainer_config *config, const struct trainer_memory *memory, char *text, size_t room);
/* How the steps of a run that ends went; "" where there was no offload, and where every update came a step late. */
void train_offload_summarize(const struct offload *offload, bool delayed, char *text, size_t room);

#endif
