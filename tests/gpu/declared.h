/* declared.h: compares declarations of our own with a library's, when compiling. */
#ifndef TESTS_GPU_DECLARED_H
#define TESTS_GPU_DECLARED_H

#include <type_traits>

/* Pointers go for pointers, numbers for numbers (enumerations are int) and structures for structures of one size. */
template <typename A, typename B>
constexpr bool alike =
	sizeof(A) == sizeof(B) &&
	std::is_pointer<A>::value == std::is_pointer<B>::value &&std::is_class<A>::value
		== std::is_class<B>::value &&std::is_pointer<typename std::remove_pointer<A>::type>::value
		== std::is_pointer<typename std::remove_pointer<B>::type>::value;
template <> constexpr bool alike<void, void> = true;

template <typename A, typename B> struct same : std::false_type {
};
template <typename R, typename... A, typename Q, typename... B>
struct same<R (*)(A...), Q (*)(B...)>
    : std::bool_constant<sizeof...(A) == sizeof...(B) && alike<R, Q> && (alike<A, B> && ...)> {
};

#define COMPARE(result, name, ...)                                                                           \
	static_assert(same<decltype(&name), result (*)(__VA_ARGS__)>::value, #name " is declared "           \
										   "otherwise");
#endif
