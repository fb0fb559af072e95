#include "kernels/kernels.h"

const char *dtype_name(enum dtype type)
{
	static const char *const names[] = {"fp32", "bf16", "fp16"};
	return names[type];
}
