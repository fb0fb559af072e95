/* test_ranks_emu: tests/gpu/test_ranks_cuda.c on emulated devices, under the sanitizers too. */
#define GPU_DRY_RUN 1
#include "tests/gpu/test_ranks_cuda.c"
