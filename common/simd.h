/*
 * simd.h: one source, several instruction sets.
 *
 * Files in a folder named simd/ are compiled once for each instruction set (Makefile, ISAS), with SIMD_ISA
 * defined to base, avx2 or avx512; every global symbol they define is written SIMD(name), which becomes
 * name_base, name_avx2, name_avx512. SIMD_DECLARE declares all of them and SIMD_CHOOSE picks, at run time,
 * the widest that the processor has, so a program built once runs on any x86-64 and any aarch64 (base only,
 * where NEON is always there). FERRY_ISA=base|avx2|avx512 in the environment narrows the choice, for tests.
 */
#ifndef COMMON_SIMD_H
#define COMMON_SIMD_H

enum simd_isa { SIMD_BASE, SIMD_AVX2, SIMD_AVX512 };

/* The widest set that the processor has and FERRY_ISA allows; decided at the first call. */
enum simd_isa simd_isa_get(void);
const char *simd_isa_name(enum simd_isa isa);

#define SIMD_PASTE_(name, isa) name##_##isa
#define SIMD_PASTE(name, isa)  SIMD_PASTE_(name, isa)
#define SIMD(name)             SIMD_PASTE(name, SIMD_ISA)

#ifdef __x86_64__
#define SIMD_CHOOSE(name)                                                                                    \
	(simd_isa_get() == SIMD_AVX512        ? name##_avx512                                                \
		: simd_isa_get() == SIMD_AVX2 ? name##_avx2                                                  \
					      : name##_base)
#else
#define SIMD_CHOOSE(name) (name##_base)
#endif

#endif
