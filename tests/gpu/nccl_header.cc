/* Compiled, never run: the declarations of kernels/cuda/nccl.cuh are those of NVIDIA's nccl.h, argument by argument. */
#include <nccl.h>

#include "kernels/cuda/nccl.cuh"
#include "tests/gpu/declared.h"

NCCL_FUNCTIONS(COMPARE)
static_assert(sizeof(struct nccl_id) == sizeof(ncclUniqueId), "an invitation has another size");
static_assert((int)ncclSuccess == NCCL_SUCCESS && (int)ncclInProgress == NCCL_IN_PROGRESS &&
		      (int)ncclInt8 == NCCL_INT8,
	"numbers differ");
