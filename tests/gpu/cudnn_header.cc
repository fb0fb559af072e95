/* Compiled, never run: kernels/cuda/cudnn.cuh declares cuDNN as NVIDIA's cudnn_graph.h does: functions argument by argument,
 * enumerations by their numbers. */
#include <cudnn_graph.h>

#include "kernels/cuda/cudnn.cuh"
#include "tests/gpu/declared.h"

CUDNN_FUNCTIONS(COMPARE)
#define NUMBER(name, number) static_assert((int)CUDNN_##name == number, "CUDNN_" #name " is another number");
CUDNN_VALUES(NUMBER)
