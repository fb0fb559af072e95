/*
 * nccl.cuh: what is used of NCCL's C interface (2.13 and later), in declarations of our own: it is found at run time, and
 * nothing of it is needed to build. tests/gpu/nccl_header.cc compares them with NVIDIA's nccl.h, where that is.
 */
#ifndef KERNELS_CUDA_NCCL_CUH
#define KERNELS_CUDA_NCCL_CUH

#include <cuda_runtime.h>
#include <stddef.h>

struct nccl_id {
	char internal[128];
};
struct nccl_communicator;

enum { NCCL_SUCCESS = 0, NCCL_IN_PROGRESS = 7 }; /* of ncclResult_t */
enum { NCCL_INT8 = 0 };                          /* of ncclDataType_t */

/* FUNCTION(result, name, arguments...); enumerations are int. */
#define NCCL_FUNCTIONS(FUNCTION)                                                                             \
	FUNCTION(int, ncclGetVersion, int *)                                                                 \
	FUNCTION(int, ncclGetUniqueId, struct nccl_id *)                                                     \
	FUNCTION(int, ncclCommInitRank, struct nccl_communicator **, int, struct nccl_id, int)               \
	FUNCTION(int, ncclCommDestroy, struct nccl_communicator *)                                           \
	FUNCTION(int, ncclCommAbort, struct nccl_communicator *)                                             \
	FUNCTION(int, ncclCommGetAsyncError, struct nccl_communicator *, int *)                              \
	FUNCTION(const char *, ncclGetErrorString, int)                                                      \
	FUNCTION(const char *, ncclGetLastError, struct nccl_communicator *)                                 \
	FUNCTION(int, ncclGroupStart)                                                                        \
	FUNCTION(int, ncclGroupEnd)                                                                          \
	FUNCTION(int, ncclSend, const void *, size_t, int, int, struct nccl_communicator *, cudaStream_t)    \
	FUNCTION(int, ncclRecv, void *, size_t, int, int, struct nccl_communicator *, cudaStream_t)

struct nccl_functions {
#define NCCL_POINTER(result, name, ...) result (*name)(__VA_ARGS__);
	NCCL_FUNCTIONS(NCCL_POINTER)
#undef NCCL_POINTER
};

#endif
