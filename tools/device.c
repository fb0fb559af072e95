#include "tools/device.h"

#include <stdio.h>

enum status device_choose(enum device wanted, enum dtype act, uint64_t logits, struct device_choice *out)
{
	struct kernels k;
	struct kernels_config config = {.act = act, .grad = DTYPE_F32, .logits_bytes = logits};
	*out = (struct device_choice){0};
	if (wanted == DEVICE_CPU)
		return STATUS_OK;
	enum status status = kernels_open_cuda(&config, &k);
	if (status != STATUS_OK && wanted == DEVICE_GPU)
		return error_context(status, "--device gpu");
	if (status != STATUS_OK) {
		snprintf(out->why, sizeof out->why, "%s", error_message());
		return STATUS_OK;
	}
	out->gpu = true;
	out->unused = k.memory_unused(&k);
	out->logits = k.logits_bytes;
	k.close(&k);
	return STATUS_OK;
}
