#include "tools/train_forecast.h"

#include "engine/probe.h"

#include <stdio.h>

struct plan_shape train_forecast_shape(const struct trainer_config *c)
{
	return (struct plan_shape){.model = c->model,
		.micro_batch = c->micro_batch,
		.global_batch = c->global_batch,
		.window_tokens = c->window_tokens,
		.act = c->precision,
		.grad = c->gradients,
		.checkpoint_activations = c->checkpoint_activations,
		.keep_outputs = c->keep_outputs,
		.inputs_on_host = c->inputs_on_host,
		.ranks = c->ranks ? c->ranks->ranks : 1};
}

static enum status measure_with_host(
	const struct trainer_config *c, struct kernels *device, struct plan_rates *rates)
{
	struct plan_shape shape = train_forecast_shape(c);
	struct kernels host;
	struct kernels_config config = {.act = c->precision, .grad = c->gradients, .threads = c->threads};
	if (!c->open_device)
		return probe_rates(&shape, device, NULL, rates);
	TRY(kernels_open_cpu(&config, &host));
	enum status status = probe_rates(&shape, device, &host, rates);
	host.close(&host);
	return status;
}

static enum status open_kernels(const struct trainer_config *c, struct kernels *k)
{
	struct kernels_config config = {.act = c->precision,
		.grad = c->gradients,
		.threads = c->threads,
		.device = c->device,
		.logits_bytes = c->logits};
	return c->open_device ? c->open_device(&config, k) : kernels_open_cpu(&config, k);
}

enum status train_forecast_network(const struct trainer_config *c, struct plan_rates *rates)
{
	struct kernels k;
	enum status opened = open_kernels(c, &k), status = collective_agree(c->ranks, opened);
	if (status == STATUS_OK)
		status = probe_network(c->ranks, &k, c->open_device, &rates->network_bytes);
	if (opened == STATUS_OK)
		k.close(&k);
	return status;
}

enum status train_forecast_measure(const struct trainer_config *c, struct plan_rates *rates, char name[96])
{
	struct kernels k;
	double network = rates->network_bytes;
	TRY(open_kernels(c, &k));
	snprintf(name, 96, "%s", k.name);
	enum status status = measure_with_host(c, &k, rates);
	rates->network_bytes = network || !c->ranks ? network : TRAIN_FORECAST_NETWORK;
	rates->peak_flops = plan_peak_flops(k.name, c->precision);
	k.close(&k);
	return status;
}

enum status train_forecast(
	const struct trainer_config *c, const struct plan_rates *rates, struct plan_time *out)
{
	struct plan_shape shape = train_forecast_shape(c);
	return plan_predict(&shape, rates, c->offload ? &c->offloading : NULL, c->device_share, out);
}
