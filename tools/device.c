#include "tools/device.h"

#include "engine/plan.h"
#include "tools/part.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <string.h>

/* A launcher that gives each of its processes a GPU of its own shows it to them as number 0, the only one. */
static enum status open_gpu(struct kernels_config *config, struct kernels *k)
{
	struct error_copy failure;
	struct kernels_config second = *config;
	enum status status = kernels_open_cuda(config, k);
	if (status == STATUS_OK || config->device == 0)
		return status;
	error_save(status, &failure);
	second.device = 1;
	if (config->device > 1 && kernels_open_cuda(&second, k) == STATUS_OK) {
		k->close(k);
		return error_restore(&failure);
	}
	config->device = 0;
	return kernels_open_cuda(config, k);
}

/* Where there is none, how to build a CUDA backend is of no interest. */
static bool may_have_gpu(void)
{
	static const char *const drivers[] = {
		"/dev/nvidiactl", "/dev/dxg"}; /* NVIDIA's; Windows', below WSL */
	return getenv("FERRY_CUDA") || access(drivers[0], F_OK) == 0 || access(drivers[1], F_OK) == 0;
}

enum status device_choose(
	enum device wanted, int number, enum dtype act, uint64_t logits, struct device_choice *out)
{
	struct kernels k;
	struct kernels_config config = {
		.act = act, .grad = DTYPE_F32, .logits_bytes = logits, .device = number};
	*out = (struct device_choice){0};
	if (wanted == DEVICE_CPU)
		return STATUS_OK;
	enum status status = open_gpu(&config, &k);
	if (status != STATUS_OK && wanted == DEVICE_GPU)
		return error_context(status, "--device gpu");
	if (status != STATUS_OK) {
		snprintf(out->why, sizeof out->why, "%s",
			may_have_gpu() ? error_message() : "this machine has no NVIDIA GPU");
		return STATUS_OK;
	}
	out->gpu = true;
	out->number = config.device;
	out->unused = k.memory_unused(&k);
	out->alone = (uint64_t)(PLAN_MEMORY_FREE * (double)k.memory_bytes);
	out->logits = k.logits_bytes;
	out->attention = k.attention_bytes;
	struct peers_found found = {.device = ""};
	uint32_t rank, size;
	bool several = part_launched(&rank, &size) && size > 1; /* else NCCL is loaded for nothing */
	enum status unreachable =
		several && k.peers ? k.peers->find(&k, &found) : STATUS_OK; /* its place counts */
	(void)unreachable;
	memcpy(out->place, found.device, sizeof out->place);
	k.close(&k);
	return STATUS_OK;
}

void device_limit(struct device_choice *choice, uint64_t bytes)
{
	if (!bytes || !choice->gpu)
		return;
	choice->limited = !choice->unused || choice->unused > bytes;
	if (choice->limited)
		choice->unused = bytes;
	if (choice->alone > bytes)
		choice->alone = bytes;
}
