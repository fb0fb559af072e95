#include "common/simd.h"

#include <stdlib.h>
#include <string.h>

static enum simd_isa detect(void)
{
	enum simd_isa isa = SIMD_BASE;
#ifdef __x86_64__
	if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
		isa = SIMD_AVX2;
	if (isa == SIMD_AVX2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
		__builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
		__builtin_cpu_supports("avx512cd"))
		isa = SIMD_AVX512;
#endif
	return isa;
}

enum simd_isa simd_isa_get(void)
{
	static int chosen = -1; /* idempotent: a race writes the same number */
	int isa = __atomic_load_n(&chosen, __ATOMIC_RELAXED);
	if (isa >= 0)
		return (enum simd_isa)isa;
	isa = (int)detect();
	const char *wanted = getenv("FERRY_ISA");
	for (int i = 0; wanted && i < isa; i++)
		if (strcmp(wanted, simd_isa_name((enum simd_isa)i)) == 0)
			isa = i;
	__atomic_store_n(&chosen, isa, __ATOMIC_RELAXED);
	return (enum simd_isa)isa;
}

const char *simd_isa_name(enum simd_isa isa)
{
	static const char *const names[] = {"base", "avx2", "avx512"};
	return names[isa];
}
