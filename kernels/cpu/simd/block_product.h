/*
 * block_product.h: products of small f32 matrices that are in the cache, for attention.
 *
 * A tile of c stays in registers while its k-long sum is taken: rows of b are read as vectors, elements of a
 * are broadcast. Widths are multiples of VECTOR_LANES (callers pad with zeros).
 */
#ifndef KERNELS_CPU_SIMD_BLOCK_PRODUCT_H
#define KERNELS_CPU_SIMD_BLOCK_PRODUCT_H

#include "kernels/cpu/simd/vector_math.h"

#include <stdbool.h>
#include <stddef.h>

/* Lanes of a register, and the tile: rows by registers. */
#if defined(__AVX512F__)
#include <immintrin.h>
enum { VECTOR_LANES = 16, TILE_ROWS = 6, TILE_VECTORS = 4 };
typedef __m512 vector;
#define VECTOR_ADD_PRODUCT(a, b, c) _mm512_fmadd_ps(a, b, c)
#define VECTOR_FILL(x)              _mm512_set1_ps(x)
#define VECTOR_LOAD(at)             _mm512_loadu_ps(at)
#define VECTOR_STORE(at, x)         _mm512_storeu_ps(at, x)
#elif defined(__AVX2__)
#include <immintrin.h>
enum { VECTOR_LANES = 8, TILE_ROWS = 6, TILE_VECTORS = 2 };
typedef __m256 vector;
#define VECTOR_ADD_PRODUCT(a, b, c) _mm256_fmadd_ps(a, b, c)
#define VECTOR_FILL(x)              _mm256_set1_ps(x)
#define VECTOR_LOAD(at)             _mm256_loadu_ps(at)
#define VECTOR_STORE(at, x)         _mm256_storeu_ps(at, x)
#elif defined(__aarch64__)
#include <arm_neon.h>
enum { VECTOR_LANES = 4, TILE_ROWS = 6, TILE_VECTORS = 4 };
typedef float32x4_t vector;
#define VECTOR_ADD_PRODUCT(a, b, c) vfmaq_f32(c, a, b)
#define VECTOR_FILL(x)              vdupq_n_f32(x)
#define VECTOR_LOAD(at)             vld1q_f32(at)
#define VECTOR_STORE(at, x)         vst1q_f32(at, x)
#else
enum { VECTOR_LANES = 4, TILE_ROWS = 4, TILE_VECTORS = 2 };
typedef float vector __attribute__((vector_size(16)));
typedef float loose_vector __attribute__((vector_size(16), aligned(4), may_alias));
#define VECTOR_ADD_PRODUCT(a, b, c) ((a) * (b) + (c))
#define VECTOR_FILL(x)              ((vector){x, x, x, x})
#define VECTOR_LOAD(at)             ((vector) * (const loose_vector *)(at))
#define VECTOR_STORE(at, x)         (*(loose_vector *)(at) = (x))
#endif

struct block_matrix {
	const float *at;
	ptrdiff_t row, column; /* element (i, j) is at[i * row + j * column] */
};

/* One tile; `rows` and `vectors` are constants wherever this is inlined. */
VECTOR_INLINE void block_tile(float *c, ptrdiff_t ldc, struct block_matrix a, const float *b, ptrdiff_t ldb,
	int k, bool add, const int rows, const int vectors)
{
	vector sum[TILE_ROWS][TILE_VECTORS];
#pragma GCC unroll 6
	for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
		for (int j = 0; j < vectors; j++)
			sum[i][j] = add ? VECTOR_LOAD(c + i * ldc + j * VECTOR_LANES) : VECTOR_FILL(0.0f);
	for (int l = 0; l < k; l++) {
		vector right[TILE_VECTORS];
#pragma GCC unroll 4
		for (int j = 0; j < vectors; j++)
			right[j] = VECTOR_LOAD(b + j * VECTOR_LANES);
#pragma GCC unroll 6
		for (int i = 0; i < rows; i++) {
			vector left = VECTOR_FILL(a.at[i * a.row]);
#pragma GCC unroll 4
			for (int j = 0; j < vectors; j++)
				sum[i][j] = VECTOR_ADD_PRODUCT(left, right[j], sum[i][j]);
		}
		b += ldb;
		a.at += a.column;
	}
#pragma GCC unroll 6
	for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
		for (int j = 0; j < vectors; j++)
			VECTOR_STORE(c + i * ldc + j * VECTOR_LANES, sum[i][j]);
}

/* Columns of one width, all rows. */
VECTOR_INLINE void block_columns(float *c, ptrdiff_t ldc, struct block_matrix a, const float *b,
	ptrdiff_t ldb, int m, int k, bool add, const int vectors)
{
	int i = 0;
	for (; i + TILE_ROWS <= m; i += TILE_ROWS) {
		struct block_matrix rows = {a.at + i * a.row, a.row, a.column};
		block_tile(c + i * ldc, ldc, rows, b, ldb, k, add, TILE_ROWS, vectors);
	}
	for (; i + 2 <= m; i += 2) {
		struct block_matrix rows = {a.at + i * a.row, a.row, a.column};
		block_tile(c + i * ldc, ldc, rows, b, ldb, k, add, 2, vectors);
	}
	if (i < m) {
		struct block_matrix rows = {a.at + i * a.row, a.row, a.column};
		block_tile(c + i * ldc, ldc, rows, b, ldb, k, add, 1, vectors);
	}
}

/* c [m][n] = or += a [m][k] b [k][n]; n is a multiple of VECTOR_LANES. Sums are taken in pieces of k, so that
 * their rows of b stay in the first cache. */
static __attribute__((unused)) void block_product(float *c, ptrdiff_t ldc, struct block_matrix a,
	const float *b, ptrdiff_t ldb, int m, int n, int k, bool add)
{
	enum { PIECE = 96, WIDTH = TILE_VECTORS * VECTOR_LANES };
	for (int l = 0; l < k; l += PIECE) {
		int some = k - l < PIECE ? k - l : PIECE, j = 0;
		struct block_matrix left = {a.at + l * a.column, a.row, a.column};
		for (; j + WIDTH <= n; j += WIDTH)
			block_columns(
				c + j, ldc, left, b + l * ldb + j, ldb, m, some, add || l, TILE_VECTORS);
		for (; j < n; j += VECTOR_LANES)
			block_columns(c + j, ldc, left, b + l * ldb + j, ldb, m, some, add || l, 1);
	}
}

#endif
