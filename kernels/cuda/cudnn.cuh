/*
 * cudnn.cuh: what is used of cuDNN's backend C interface (9.16 and later), in declarations of our own: it is found at run
 * time, and nothing of it is needed to build. tests/gpu/cudnn_header.cc compares them with NVIDIA's cudnn_graph.h, where
 * that is. The names are NVIDIA's, CUDNN_ written small.
 */
#ifndef KERNELS_CUDA_CUDNN_CUH
#define KERNELS_CUDA_CUDNN_CUH

#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>

struct cudnn_handle;

/* FUNCTION(result, name, arguments...); enumerations are int, descriptors void *. */
#define CUDNN_FUNCTIONS(FUNCTION)                                                                            \
	FUNCTION(size_t, cudnnGetVersion)                                                                    \
	FUNCTION(const char *, cudnnGetErrorString, int)                                                     \
	FUNCTION(void, cudnnGetLastErrorString, char *, size_t)                                              \
	FUNCTION(int, cudnnCreate, struct cudnn_handle **)                                                   \
	FUNCTION(int, cudnnDestroy, struct cudnn_handle *)                                                   \
	FUNCTION(int, cudnnSetStream, struct cudnn_handle *, cudaStream_t)                                   \
	FUNCTION(int, cudnnBackendCreateDescriptor, int, void **)                                            \
	FUNCTION(int, cudnnBackendDestroyDescriptor, void *)                                                 \
	FUNCTION(int, cudnnBackendFinalize, void *)                                                          \
	FUNCTION(int, cudnnBackendSetAttribute, void *, int, int, int64_t, const void *)                     \
	FUNCTION(int, cudnnBackendGetAttribute, void *, int, int, int64_t, int64_t *, void *)                \
	FUNCTION(int, cudnnBackendExecute, struct cudnn_handle *, void *, void *)

struct cudnn_functions {
#define CUDNN_POINTER(result, name, ...) result (*name)(__VA_ARGS__);
	CUDNN_FUNCTIONS(CUDNN_POINTER)
#undef CUDNN_POINTER
};

/* VALUE(name, number) */
#define CUDNN_VALUES(VALUE)                                                                                  \
	VALUE(STATUS_SUCCESS, 0)                                                                             \
	/* cudnnDataType_t */                                                                                \
	VALUE(DATA_FLOAT, 0)                                                                                 \
	VALUE(DATA_HALF, 2)                                                                                  \
	VALUE(DATA_INT32, 4)                                                                                 \
	VALUE(DATA_BFLOAT16, 9)                                                                              \
	VALUE(DATA_BOOLEAN, 11)                                                                              \
	/* cudnnPointwiseMode_t, cudnnReduceTensorOp_t */                                                    \
	VALUE(POINTWISE_ADD, 0)                                                                              \
	VALUE(POINTWISE_MUL, 1)                                                                              \
	VALUE(POINTWISE_DIV, 6)                                                                              \
	VALUE(POINTWISE_SUB, 9)                                                                              \
	VALUE(POINTWISE_EXP, 13)                                                                             \
	VALUE(POINTWISE_LOG, 15)                                                                             \
	VALUE(POINTWISE_CMP_GE, 303)                                                                         \
	VALUE(POINTWISE_GEN_INDEX, 501)                                                                      \
	VALUE(POINTWISE_BINARY_SELECT, 601)                                                                  \
	VALUE(REDUCE_TENSOR_ADD, 0)                                                                          \
	VALUE(REDUCE_TENSOR_MAX, 3)                                                                          \
	/* cudnnBackendAttributeType_t: what an attribute's elements are */                                  \
	VALUE(TYPE_HANDLE, 0)                                                                                \
	VALUE(TYPE_DATA_TYPE, 1)                                                                             \
	VALUE(TYPE_BOOLEAN, 2)                                                                               \
	VALUE(TYPE_INT64, 3)                                                                                 \
	VALUE(TYPE_VOID_PTR, 6)                                                                              \
	VALUE(TYPE_HEUR_MODE, 8)                                                                             \
	VALUE(TYPE_KNOB_TYPE, 9)                                                                             \
	VALUE(TYPE_NUMERICAL_NOTE, 11)                                                                       \
	VALUE(TYPE_POINTWISE_MODE, 14)                                                                       \
	VALUE(TYPE_BACKEND_DESCRIPTOR, 15)                                                                   \
	VALUE(TYPE_REDUCTION_OPERATOR_TYPE, 18)                                                              \
	VALUE(TYPE_CHAR, 24)                                                                                 \
	/* cudnnBackendDescriptorType_t */                                                                   \
	VALUE(BACKEND_POINTWISE_DESCRIPTOR, 0)                                                               \
	VALUE(BACKEND_ENGINE_DESCRIPTOR, 2)                                                                  \
	VALUE(BACKEND_ENGINECFG_DESCRIPTOR, 3)                                                               \
	VALUE(BACKEND_ENGINEHEUR_DESCRIPTOR, 4)                                                              \
	VALUE(BACKEND_EXECUTION_PLAN_DESCRIPTOR, 5)                                                          \
	VALUE(BACKEND_KNOB_CHOICE_DESCRIPTOR, 7)                                                             \
	VALUE(BACKEND_OPERATION_POINTWISE_DESCRIPTOR, 13)                                                    \
	VALUE(BACKEND_OPERATIONGRAPH_DESCRIPTOR, 15)                                                         \
	VALUE(BACKEND_VARIANT_PACK_DESCRIPTOR, 16)                                                           \
	VALUE(BACKEND_TENSOR_DESCRIPTOR, 17)                                                                 \
	VALUE(BACKEND_MATMUL_DESCRIPTOR, 18)                                                                 \
	VALUE(BACKEND_OPERATION_MATMUL_DESCRIPTOR, 19)                                                       \
	VALUE(BACKEND_REDUCTION_DESCRIPTOR, 21)                                                              \
	VALUE(BACKEND_OPERATION_REDUCTION_DESCRIPTOR, 22)                                                    \
	VALUE(BACKEND_OPERATION_RESHAPE_DESCRIPTOR, 31)                                                      \
	VALUE(BACKEND_DEVICEPROP_DESCRIPTOR, 38)                                                             \
	/* cudnnBackendAttributeName_t: of tensors */                                                        \
	VALUE(ATTR_TENSOR_BYTE_ALIGNMENT, 900)                                                               \
	VALUE(ATTR_TENSOR_DATA_TYPE, 901)                                                                    \
	VALUE(ATTR_TENSOR_DIMENSIONS, 902)                                                                   \
	VALUE(ATTR_TENSOR_STRIDES, 903)                                                                      \
	VALUE(ATTR_TENSOR_UNIQUE_ID, 906)                                                                    \
	VALUE(ATTR_TENSOR_IS_VIRTUAL, 907)                                                                   \
	VALUE(ATTR_TENSOR_IS_BY_VALUE, 908)                                                                  \
	/* of operations */                                                                                  \
	VALUE(ATTR_POINTWISE_MODE, 0)                                                                        \
	VALUE(ATTR_POINTWISE_MATH_PREC, 1)                                                                   \
	VALUE(ATTR_POINTWISE_AXIS, 9)                                                                        \
	VALUE(ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, 750)                                                   \
	VALUE(ATTR_OPERATION_POINTWISE_XDESC, 751)                                                           \
	VALUE(ATTR_OPERATION_POINTWISE_BDESC, 752)                                                           \
	VALUE(ATTR_OPERATION_POINTWISE_YDESC, 753)                                                           \
	VALUE(ATTR_OPERATION_POINTWISE_TDESC, 758)                                                           \
	VALUE(ATTR_MATMUL_COMP_TYPE, 1500)                                                                   \
	VALUE(ATTR_OPERATION_MATMUL_ADESC, 1520)                                                             \
	VALUE(ATTR_OPERATION_MATMUL_BDESC, 1521)                                                             \
	VALUE(ATTR_OPERATION_MATMUL_CDESC, 1522)                                                             \
	VALUE(ATTR_OPERATION_MATMUL_DESC, 1523)                                                              \
	VALUE(ATTR_REDUCTION_OPERATOR, 1600)                                                                 \
	VALUE(ATTR_REDUCTION_COMP_TYPE, 1601)                                                                \
	VALUE(ATTR_OPERATION_REDUCTION_XDESC, 1610)                                                          \
	VALUE(ATTR_OPERATION_REDUCTION_YDESC, 1611)                                                          \
	VALUE(ATTR_OPERATION_REDUCTION_DESC, 1612)                                                           \
	VALUE(ATTR_OPERATION_RESHAPE_XDESC, 2200)                                                            \
	VALUE(ATTR_OPERATION_RESHAPE_YDESC, 2201)                                                            \
	/* of graphs, engines, plans */                                                                      \
	VALUE(ATTR_OPERATIONGRAPH_HANDLE, 800)                                                               \
	VALUE(ATTR_OPERATIONGRAPH_OPS, 801)                                                                  \
	VALUE(ATTR_ENGINEHEUR_MODE, 200)                                                                     \
	VALUE(ATTR_ENGINEHEUR_OPERATION_GRAPH, 201)                                                          \
	VALUE(ATTR_ENGINEHEUR_RESULTS, 202)                                                                  \
	VALUE(ATTR_ENGINEHEUR_DEVICEPROP, 204)                                                               \
	VALUE(ATTR_ENGINECFG_ENGINE, 300)                                                                    \
	VALUE(ATTR_ENGINECFG_KNOB_CHOICES, 302)                                                              \
	VALUE(ATTR_EXECUTION_PLAN_HANDLE, 400)                                                               \
	VALUE(ATTR_EXECUTION_PLAN_ENGINE_CONFIG, 401)                                                        \
	VALUE(ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, 402)                                                       \
	VALUE(ATTR_EXECUTION_PLAN_DEVICEPROP, 407)                                                           \
	VALUE(ATTR_KNOB_CHOICE_KNOB_TYPE, 600)                                                               \
	VALUE(ATTR_KNOB_CHOICE_KNOB_VALUE, 601)                                                              \
	VALUE(ATTR_ENGINE_OPERATION_GRAPH, 1300)                                                             \
	VALUE(ATTR_ENGINE_GLOBAL_INDEX, 1301)                                                                \
	VALUE(ATTR_ENGINE_NUMERICAL_NOTE, 1303)                                                              \
	VALUE(ATTR_ENGINE_DEVICEPROP, 1307)                                                                  \
	VALUE(ATTR_VARIANT_PACK_UNIQUE_IDS, 1000)                                                            \
	VALUE(ATTR_VARIANT_PACK_DATA_POINTERS, 1001)                                                         \
	VALUE(ATTR_VARIANT_PACK_WORKSPACE, 1003)                                                             \
	VALUE(ATTR_DEVICEPROP_JSON_REPRESENTATION, 2702)                                                     \
	VALUE(HEUR_MODE_A, 3)                                                                                \
	VALUE(NUMERICAL_NOTE_NONDETERMINISTIC, 4)                                                            \
	VALUE(NUMERICAL_NOTE_TYPE_COUNT, 10)

enum {
#define CUDNN_ENUMERATOR(name, number) cudnn_##name = number,
	CUDNN_VALUES(CUDNN_ENUMERATOR)
#undef CUDNN_ENUMERATOR
};

#endif
