/*
 * loaded_model.h: a checkpoint ready for use without training: its shape, its weights in a kernels table's
 * memory, its tokenizer. For evaluate and generate.
 */
#ifndef TOOLS_LOADED_MODEL_H
#define TOOLS_LOADED_MODEL_H

#include "engine/checkpoint.h"
#include "tokenizer/tokenizer.h"
#include "tools/ranks.h"

struct loaded_model {
	struct checkpoint *checkpoint;
	struct model_config config; /* the checkpoint's */
	struct parameter_table table;
	bool gpu; /* where they are: */
	struct kernels kernels;
	void *weights; /* act [table.elements] */
	uint64_t weight_bytes;
	struct tokenizer
		*tokenizer; /* the checkpoint's own, or GPT-2's where it has none and the size fits */
};

/* `path` as in checkpoint_open; act is the type of weights and activations; threads 0: all available, of several ranks
 * this one's share. All ranks call it, and each has the model then, the same; or all fail alike. */
enum status loaded_model_open(const char *path, enum device device, enum dtype act, int threads,
	struct collective *ranks, struct loaded_model *out) MUST_USE;
/* Fine after a failed open. */
void loaded_model_close(struct loaded_model *model);

#endif
