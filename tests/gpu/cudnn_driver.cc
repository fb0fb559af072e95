/*
 * Stands in for NVIDIA's driver, libcuda.so.1, where cuDNN plans without a GPU (cudnn_plans.cc): it keeps compiled kernels,
 * or says that it does, and has no device. The functions are those that cuDNN and NVRTC look for; of what they are not meant
 * to use it says that there is no device, so that a plan which needed one would not be made.
 */
enum { SUCCESS = 0, NO_DEVICE = 100 };

extern "C" {

#define KEEPS(name)                                                                                          \
	int name(void **out)                                                                                 \
	{                                                                                                    \
		*out = (void *)1;                                                                            \
		return SUCCESS;                                                                              \
	}
KEEPS(cuLibraryLoadData)
KEEPS(cuLibraryGetKernel)
KEEPS(cuKernelGetFunction)

#define TELLS(name, number)                                                                                  \
	int name(int *out)                                                                                   \
	{                                                                                                    \
		*out = number;                                                                               \
		return SUCCESS;                                                                              \
	}
TELLS(cuDriverGetVersion, 13000)
TELLS(cuKernelGetAttribute, 0)

#define SAYS(name, status)                                                                                   \
	int name(void)                                                                                       \
	{                                                                                                    \
		return status;                                                                               \
	}
SAYS(cuLibraryUnload, SUCCESS)
SAYS(cuKernelSetAttribute, SUCCESS)
SAYS(cuInit, NO_DEVICE)
SAYS(cuGetErrorString, NO_DEVICE)
SAYS(cuGetErrorName, NO_DEVICE)
SAYS(cuDeviceGet, NO_DEVICE)
SAYS(cuDeviceGetCount, NO_DEVICE)
SAYS(cuDeviceGetAttribute, NO_DEVICE)
SAYS(cuDevicePrimaryCtxRetain, NO_DEVICE)
SAYS(cuDevicePrimaryCtxReset, NO_DEVICE)
SAYS(cuDevicePrimaryCtxRelease, NO_DEVICE)
SAYS(cuCtxGetCurrent, NO_DEVICE)
SAYS(cuCtxGetDevice, NO_DEVICE)
SAYS(cuCtxGetLimit, NO_DEVICE)
SAYS(cuCtxPushCurrent, NO_DEVICE)
SAYS(cuCtxPopCurrent, NO_DEVICE)
SAYS(cuStreamGetCtx, NO_DEVICE)
SAYS(cuStreamSynchronize, NO_DEVICE)
SAYS(cuMemcpyDtoH_v2, NO_DEVICE)
SAYS(cuLaunchKernel, NO_DEVICE)
SAYS(cuLaunchKernelEx, NO_DEVICE)
SAYS(cuLaunchCooperativeKernel, NO_DEVICE)
SAYS(cuLinkCreate, NO_DEVICE)
SAYS(cuLinkCreate_v2, NO_DEVICE)
SAYS(cuLinkAddData, NO_DEVICE)
SAYS(cuLinkAddData_v2, NO_DEVICE)
SAYS(cuLinkAddFile_v2, NO_DEVICE)
SAYS(cuLinkComplete, NO_DEVICE)
SAYS(cuLinkDestroy, NO_DEVICE)
SAYS(cuLibraryLoadFromFile, NO_DEVICE)
SAYS(cuModuleLoadData, NO_DEVICE)
SAYS(cuModuleLoadDataEx, NO_DEVICE)
SAYS(cuModuleLoadFatBinary, NO_DEVICE)
SAYS(cuModuleGetFunction, NO_DEVICE)
SAYS(cuModuleGetGlobal_v2, NO_DEVICE)
SAYS(cuModuleUnload, NO_DEVICE)
SAYS(cuFuncGetAttribute, NO_DEVICE)
SAYS(cuFuncSetAttribute, NO_DEVICE)
SAYS(cuOccupancyMaxActiveBlocksPerMultiprocessor, NO_DEVICE)
SAYS(cuOccupancyMaxPotentialClusterSize, NO_DEVICE)
SAYS(cuTensorMapEncodeIm2col, NO_DEVICE)
SAYS(cuTensorMapEncodeTiled, NO_DEVICE)
}
