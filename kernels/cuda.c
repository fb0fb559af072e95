/* Loads ferry-cuda.so, and lets it fill the table. See cuda/interface.h. */
#include "kernels/cuda/interface.h"

#include "common/library.h"

static const struct library_host host = LIBRARY_HOST(CUDA_INTERFACE_VERSION, struct kernels);

static const struct library library = {.what = "CUDA backend",
	.file = "ferry-cuda.so",
	.variable = "FERRY_CUDA",
	.symbol = CUDA_INTERFACE_SYMBOL,
	.target = "cuda",
	.needs = "nvcc"};

enum status kernels_open_cuda(const struct kernels_config *config, struct kernels *out)
{
	cuda_open_function *open = NULL;
	TRY(library_open(&library, (void **)&open));
	return open(&host, config, out);
}
