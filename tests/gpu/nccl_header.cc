/* Compiled, never run: the declarations of kernels/cuda/nccl.cuh are those of NVIDIA's nccl.h, argument by argument. */
#include <nccl.h>

#include "kernels/cuda/nccl.cuh"

#include <type_traits>

/* Pointers go for pointers, numbers for numbers (enumerations are int) and structures for structures of one size. */
template <typename A, typename B>
constexpr bool alike =
	sizeof(A) == sizeof(B) &&
	std::is_pointer<A>::value == std::is_pointer<B>::value &&std::is_class<A>::value
		== std::is_class<B>::value &&std::is_pointer<typename std::remove_pointer<A>::type>::value
		== std::is_pointer<typename std::remove_pointer<B>::type>::value;

template <typename A, typename B> struct same : std::false_type {
};
template <typename R, typename... A, typename Q, typename... B>
struct same<R (*)(A...), Q (*)(B...)>
    : std::bool_constant<sizeof...(A) == sizeof...(B) && alike<R, Q> && (alike<A, B> && ...)> {
};

#define COMPARE(result, name, ...)                                                                           \
	static_assert(same<decltype(&name), result (*)(__VA_ARGS__)>::value, #name " is declared "           \
										   "otherwise");
NCCL_FUNCTIONS(COMPARE)
static_assert(sizeof(struct nccl_id) == sizeof(ncclUniqueId), "an invitation has another size");
static_assert((int)ncclSuccess == NCCL_SUCCESS && (int)ncclInProgress == NCCL_IN_PROGRESS &&
		      (int)ncclInt8 == NCCL_INT8,
	"numbers differ");
