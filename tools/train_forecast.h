/*
 * train_forecast.h: what a step of a training configuration should take on a machine (engine/plan.h), for
 * `ferry plan`, and for `ferry train` to hold against what its steps took.
 */
#ifndef TOOLS_TRAIN_FORECAST_H
#define TOOLS_TRAIN_FORECAST_H

#include "engine/plan.h"
#include "engine/trainer.h"

struct plan_shape train_forecast_shape(const struct trainer_config *config);

/* Between ranks, where it is not known: bytes a second, a guess. `ferry train` tells at its end what its ranks reach. */
#define TRAIN_FORECAST_NETWORK 4e9

/* The rates of the machine at hand (engine/probe.h): a second's work. `name` gets the kernels'. Between several ranks
 * nothing is measured: that rate stays as it was set; where it was 0, TRAIN_FORECAST_NETWORK. */
enum status train_forecast_measure(
	const struct trainer_config *config, struct plan_rates *rates, char name[96]) MUST_USE;

/* Of several ranks, which all call it at once: the rate between them. A failure is this rank's alone. */
enum status train_forecast_network(const struct trainer_config *config, struct plan_rates *rates) MUST_USE;

/* With the optimizer where the configuration has it. */
enum status train_forecast(
	const struct trainer_config *config, const struct plan_rates *rates, struct plan_time *out) MUST_USE;

#endif
